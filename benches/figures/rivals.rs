//! What is used instead: calls of `ovs-ofctl`.

use std::process::Command;
use std::time::{Duration, Instant};

use super::measure::Process;
use super::rig::Node;

/// `ovs-ofctl del-flows BRIDGE MATCH`.
pub(crate) fn del_flows(node: &Node, matching: &str) -> Process {
    ofctl(node, b"", vec!["del-flows".to_owned(), "br0".to_owned(), matching.to_owned()])
}

/// The same of a register's value.
pub(crate) fn del_by_value(node: &Node, reg: u32) -> Process {
    del_flows(node, &format!("reg0={reg:#x}"))
}

/// One `ovs-ofctl --bundle del-flows` that is told what to delete, a match a line.
pub(crate) fn bundle(node: &Node, list: &str, more: &[&str]) -> Process {
    let args = [&["-OOpenFlow14", "--bundle"], more, &["del-flows", "br0", "-"]].concat();
    ofctl(node, list.as_bytes(), args.into_iter().map(str::to_owned).collect())
}

fn ofctl(node: &Node, stdin: &[u8], args: Vec<String>) -> Process {
    let run_dir = node.run_dir.clone();
    Process::new(node, stdin, move || {
        let mut command = Command::new("/usr/bin/ovs-ofctl");
        command.env_clear().env("OVS_RUNDIR", &run_dir).args(&args);
        command
    })
}

/// One call after the other, as a shell loop has them.
pub(crate) fn one_by_one(calls: &[Process]) -> Duration {
    let since = Instant::now();
    for call in calls {
        call.time();
    }
    since.elapsed()
}
