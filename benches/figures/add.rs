//! ADD against the ADD of Debian's `tuning` plugin, both chained behind the OVS plugin.

use std::fs;

use serde_json::{Value, json};

use super::measure::{Process, median, on};
use super::rig::{Attached, Node, Setup};
use super::table::Table;

const ROUNDS: usize = 101;

/// A plugin's call for a pod, with the configuration and result that libcni would hand over.
pub(crate) fn call(node: &Node, plugin: &str, verb: &str, pod: &Attached, conf: &Value) -> Process {
    let (path, cni_bin, run_dir) = (node.plugin(plugin), node.cni_bin(), node.run_dir.clone());
    let (verb, pod) = (verb.to_owned(), pod.pod.clone());
    Process::new(node, conf.to_string().as_bytes(), move || {
        let mut command = std::process::Command::new(&path);
        command.env_clear().env("OVS_RUNDIR", &run_dir).env("PATH", "/usr/sbin:/usr/bin");
        command.env("CNI_COMMAND", &verb).env("CNI_PATH", &cni_bin);
        command.env("CNI_CONTAINERID", &pod.container).env("CNI_NETNS", pod.netns_path());
        command.env("CNI_IFNAME", &pod.ifname).env("CNI_ARGS", pod.args());
        command
    })
}

pub(crate) fn figures(table: &mut Table) {
    let node = Setup::new().without_gc().up("bench-add");
    node.limit_state_dir("64m");
    let pod = node.run_pod("measured");
    let others: Vec<_> = (0..100).map(|n| node.run_pod(&format!("p{n}"))).collect();
    let conf = |kind: &str, pod: &Attached| {
        json!({
            "type": kind, "name": "podnet", "cniVersion": "1.0.0", "prevResult": pod.result,
        })
    };
    let gc = |pod: &Attached| {
        let mut conf = conf("ovs-flow-gc", pod);
        conf["stateDir"] = json!(node.state_dir);
        conf
    };
    let mut sysctl = conf("tuning", &pod);
    sysctl["sysctl"] = json!({"net.core.somaxconn": "500"});
    let ours = call(&node, "ovs-flow-gc", "ADD", &pod, &gc(&pod));
    let tuning = call(&node, "tuning", "ADD", &pod, &conf("tuning", &pod));
    let with_sysctl = call(&node, "tuning", "ADD", &pod, &sysctl);
    let record = node.state_dir.join(format!("podnet/{}:eth0.json", pod.container));

    on(&node, || {
        for records in [0, 100] {
            for other in others.iter().take(records) {
                call(&node, "ovs-flow-gc", "ADD", other, &gc(other)).time();
            }
            let mut times: [Vec<_>; 3] = Default::default();
            for _ in 0..ROUNDS {
                let _ = fs::remove_file(&record);
                times[0].push(ours.time());
                assert!(record.exists(), "ADD recorded nothing");
                times[1].push(tuning.time());
                times[2].push(with_sysctl.time());
            }
            let [mine, bare, sysctl] = times.each_mut().map(|times| median(times));
            let what = |theirs| format!("ADD, {records} records before; theirs: tuning {theirs}");
            table.at_most(&what("without any key"), mine, bare, 1.0);
            table.at_most(&what("with one sysctl"), mine, sysctl, 1.0);
            let _ = fs::remove_file(&record);
            table.memory(&format!("ADD, {records} records before: peak"), ours.peak(), 8);
        }
    });
}
