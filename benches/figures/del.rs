//! DEL against the one command that the usual shell loop runs for a pod.

use std::fs;
use std::thread;

use serde_json::json;

use super::add::call;
use super::measure::{median, on};
use super::rig::{Attached, Node, Setup, layouts};
use super::rivals::del_by_value;
use super::table::Table;

const ROUNDS: usize = 41;
const PODS: u32 = 100;
/// Entries on the bridge: the base, 99 a pod, and a filler.
const FLOWS: usize = 10_000;
const POLICY: usize = 84;

/// A pod's entries: the classifier's, and policy that hangs on its register value.
pub(crate) fn entries(who: &layouts::Who, policy: usize) -> Vec<String> {
    entries_over(who, policy, 1)
}

/// The same, the policy in so many tables.
pub(crate) fn entries_over(who: &layouts::Who, policy: usize, tables: usize) -> Vec<String> {
    let mut entries = layouts::classifier(who);
    entries.extend((0..policy).map(|n| {
        let (reg, port, table) =
            (who.reg, 1000 + n, if tables == 1 { 20 } else { 60 + n % tables });
        format!("table={table}, priority=120,tcp,reg0={reg:#x},tp_dst={port} actions=resubmit(,30)")
    }));
    entries
}

pub(crate) fn figures(table: &mut Table) {
    let node = Setup::new().without_gc().up("bench-del");
    node.limit_state_dir("64m");
    let mut pods: Vec<Attached> = Vec::new();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..2)
            .map(|half| {
                let node = &node;
                let mine = (0..PODS / 2).map(move |n| format!("p{}", half * PODS / 2 + n));
                scope.spawn(move || mine.map(|name| node.run_pod(&name)).collect::<Vec<_>>())
            })
            .collect();
        pods.extend(workers.into_iter().flat_map(|worker| worker.join().unwrap()));
    });
    on(&node, || {
        for mode in ["ipv4", "externalId:flow-id", "learn"] {
            let (ours, theirs, peak) = one_mode(&node, &pods, mode);
            let what = format!("DEL, reg0 {mode}, {PODS} pods, 10,000 flows");
            let against = format!("{what}; theirs: ovs-ofctl del-flows reg0=N");
            table.at_most(&against, ours, theirs, 1.0);
            table.memory(&format!("{what}: peak"), peak, 8);
        }
    });
}

fn one_mode(
    node: &Node,
    pods: &[Attached],
    mode: &str,
) -> (std::time::Duration, std::time::Duration, u64) {
    let value = |number: usize, pod: &Attached| match mode {
        "ipv4" => u32::from(pod.ip.parse::<std::net::Ipv4Addr>().unwrap()),
        _ => 0x1001 + u32::try_from(number).unwrap(),
    };
    let whos: Vec<_> = pods.iter().enumerate().map(|(n, pod)| pod.who(value(n, pod))).collect();
    node.ofctl(&["del-flows", "br0"]);
    empty(&node.state_dir);
    let mut flows = layouts::classifier_base();
    flows.extend(whos.iter().flat_map(|who| entries(who, POLICY)));
    let filler = (0..FLOWS - flows.len())
        .map(|n| format!("table=20, priority=10,tcp,tp_dst={} actions=drop", 20_000 + n));
    flows.extend(filler.collect::<Vec<_>>());
    install(node, &flows);
    if mode.starts_with("externalId") {
        for (pod, who) in pods.iter().zip(&whos) {
            let id = format!("external_ids:flow-id={}", who.reg);
            node.ovs_vsctl(&["set", "Interface", &pod.port, &id]);
        }
    }
    let conf = |pod: &Attached| {
        json!({
            "type": "ovs-flow-gc", "name": "podnet", "cniVersion": "1.0.0",
            "prevResult": pod.result, "stateDir": node.state_dir, "reg0": mode,
        })
    };
    let add = |pod: &Attached| call(node, "ovs-flow-gc", "ADD", pod, &conf(pod)).time();
    for pod in pods {
        add(pod);
    }
    let mut times: [Vec<_>; 2] = Default::default();
    let del = |pod: &Attached| call(node, "ovs-flow-gc", "DEL", pod, &conf(pod));
    let restore = |pod: &Attached, who: &layouts::Who| {
        install(node, &entries(who, POLICY));
        let _ = fs::remove_dir_all(node.state_dir.join("podnet/dead"));
        let _ = fs::remove_dir_all(node.state_dir.join("journal"));
        add(pod);
        assert_eq!(count(node), FLOWS);
    };
    for (pod, who) in pods.iter().zip(&whos).cycle().skip(3).take(ROUNDS) {
        times[0].push(del(pod).time());
        assert_eq!(count(node), FLOWS - entries(who, POLICY).len(), "DEL, reg0 {mode}");
        restore(pod, who);
        let by_value = del_by_value(node, who.reg);
        times[1].push(by_value.time());
        assert!(count(node) < FLOWS);
        restore(pod, who);
    }
    let peak = del(&pods[2]).peak();
    let [ours, theirs] = times.each_mut().map(|times| median(times));
    (ours, theirs, peak)
}

/// The state directory is a file system of its own, in memory as in production.
pub(crate) fn empty(directory: &std::path::Path) {
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    }
}

/// Adds flows in bundles: many at once take a while otherwise.
pub(crate) fn install(node: &Node, flows: &[String]) {
    for some in flows.chunks(10_000) {
        let text = some.join("\n");
        let path = node.dir.join("flows").display().to_string();
        fs::write(&path, text).unwrap();
        node.ofctl(&["-OOpenFlow14", "--bundle", "add-flows", "br0", &path]);
    }
}

/// Entries on the bridge.
pub(crate) fn count(node: &Node) -> usize {
    let text = node.ofctl(&["dump-aggregate", "br0"]);
    let flows = text.split("flow_count=").nth(1).unwrap();
    flows.trim().parse().unwrap_or_else(|e| panic!("{e}: {text}"))
}
