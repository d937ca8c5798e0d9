//! Plugin and daemon of two versions, as in the middle of an upgrade or of a way back.

use std::os::unix::fs::symlink;
use std::path::PathBuf;

use nix::sys::signal::Signal;

use crate::gcd::Daemon;
use crate::rig::{Attached, Node, Port, Setup, eventually, layouts};

/// A binary of the older version.
fn old(name: &str) -> PathBuf {
    PathBuf::from(std::env::var("OFG_OLD").expect("OFG_OLD")).join(name)
}

/// From now on the node's plugin and command are of this version.
fn plugin_is_old(node: &Node, is_old: bool) {
    let (plugin, new) = (node.plugin("ovs-flow-gc"), env!("CARGO_BIN_EXE_ovs-flow-gc"));
    std::fs::remove_file(&plugin).unwrap();
    symlink(if is_old { old("ovs-flow-gc") } else { new.into() }, &plugin).unwrap();
}

/// A daemon of this version, which is ready.
fn daemon(node: &Node, is_old: bool) -> Daemon {
    // The program that is tried stands behind the prefix.
    let instead = format!("shift; exec {} \"$@\"", old("ovs-flow-gcd").display());
    let prefix = ["sh", "-c", &instead, "sh"];
    let prefix = if is_old { &prefix[..] } else { &[] };
    let daemon = Daemon::start_behind(node, prefix, &["--interval=10m"], None);
    eventually("the daemon is ready", || daemon.get("/readyz").0 == 200);
    daemon
}

fn run_pod(node: &Node, name: &str, value: u32) -> (Attached, Vec<String>) {
    let pod = node.run_pod(name);
    let flows = node.install("br0", &layouts::classifier(&pod.who(value)));
    (pod, flows)
}

/// Each of both does its work beside the other, and with what the other wrote down.
#[test]
#[ignore = "OFG_OLD names a directory with an older version's ovs-flow-gc and ovs-flow-gcd"]
fn plugin_and_daemon_of_two_versions() {
    let node = Setup::new().gc_conf(serde_json::json!({"reg0": "pod"})).up("versions");
    let mut value = 0x1000;
    let mut next = |node: &Node, name: &str| {
        value += 1;
        run_pod(node, name, value)
    };
    let (_live, lives) = next(&node, "live");
    let left = || node.dump("br0");
    for (old_plugin, old_daemon) in [(true, false), (false, true), (true, true), (false, false)] {
        let what = format!("the plugin is old: {old_plugin}, the daemon is old: {old_daemon}");
        plugin_is_old(&node, old_plugin);
        let (deleted, _) = next(&node, "deleted");
        let (vanished, _) = next(&node, "vanished");
        let (later, its) = next(&node, "later");
        let daemon = daemon(&node, old_daemon);
        node.del(&deleted);
        node.vanish(&vanished, Port::Stays);
        let kept = [&lives[..], &its[..]].concat();
        eventually(&what, || left().len() == kept.len());
        assert!(kept.iter().all(|flow| left().contains(flow)), "{what}");
        let (ended, _) = daemon.end(Signal::SIGTERM);
        assert_eq!(ended, Some(0), "{what}");

        // The other version's command finds what this one has recorded.
        plugin_is_old(&node, !old_plugin);
        node.vanish(&later, Port::Stays);
        let listed = node.admin(&["list", "--no-flows", "--json"]);
        assert!(listed.succeeded() && listed.stdout.contains(&later.container), "{what}: {listed}");
        let swept = node.admin(&["sweep"]);
        assert!(swept.succeeded(), "{what}: {swept}");
        assert_eq!(left(), lives, "{what}");
    }
}
