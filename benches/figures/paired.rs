//! Two builds of the plugin by turns on one node: whether a change costs time.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use serde_json::{Value, json};

use super::add::call;
use super::del::{count, entries, install};
use super::measure::{Process, Took, median, on};
use super::rig::{Attached, Datapath, Node, Setup, layouts};
use super::sweep::{on_a_large_node, sweep};
use super::table::Table;

const PODS: u32 = 100;
/// Entries on the bridge.
const FLOWS: usize = 10_000;
const POLICY: usize = 84;
const MODES: [&str; 3] = ["ipv4", "externalId:flow-id", "learn"];
/// How many times as long as the build before.
const MOST: f64 = 1.05;

/// `CNI_PATH`'s names of the two builds: `OFG_PLUGIN`, and `OFG_BEFORE`.
const BUILDS: [&str; 2] = ["ovs-flow-gc", "before"];

pub(crate) fn figures(table: &mut Table) {
    let node = Setup::new().without_gc().up("bench-paired");
    node.limit_state_dir("64m");
    put_builds(&node);
    let pods: Vec<_> = (0..PODS).map(|n| node.run_pod(&format!("p{n}"))).collect();
    on(&node, || {
        for mode in MODES {
            adds_and_dels(table, &node, &pods, mode);
        }
    });
    let node = Setup::new().datapath(Datapath::Dummy).up("bench-paired-sweep");
    put_builds(&node);
    on_a_large_node(&node, |large| {
        let sweeps = BUILDS.map(|build| sweep(&node, build));
        let took = by_turns(rounds(15), |build| {
            let took = sweeps[build].took();
            large.must_be_swept();
            large.restore();
            took
        });
        tell(table, "Sweep of 500 orphans, 48,500 of 100,000 flows", took);
    });
}

/// `OFG_ROUNDS` asks for more or fewer.
fn rounds(usual: usize) -> usize {
    std::env::var("OFG_ROUNDS").map_or(usual, |rounds| rounds.parse().unwrap())
}

fn put_builds(node: &Node) {
    for (build, variable) in BUILDS.into_iter().zip(["OFG_PLUGIN", "OFG_BEFORE"]) {
        let path = node.plugin(build);
        let binary = std::env::var_os(variable).map(|path| fs::canonicalize(path).unwrap());
        let binary = binary.unwrap_or_else(|| env!("CARGO_BIN_EXE_ovs-flow-gc").into());
        let _ = fs::remove_file(&path);
        symlink(binary, &path).unwrap();
    }
}

/// What each build took in each round. Who is first changes from round to round.
fn by_turns(rounds: usize, mut run: impl FnMut(usize) -> Took) -> [Vec<Took>; 2] {
    let mut all: [Vec<Took>; 2] = Default::default();
    for round in 0..rounds {
        for build in [round % 2, 1 - round % 2] {
            all[build].push(run(build));
        }
    }
    all
}

fn tell(table: &mut Table, what: &str, [now, before]: [Vec<Took>; 2]) {
    let middle = |all: &[Took], of: fn(&Took) -> Duration| {
        median(&mut all.iter().map(of).collect::<Vec<_>>())
    };
    let wall: fn(&Took) -> Duration = |took| took.wall;
    let cpu: fn(&Took) -> Duration = |took| took.cpu;
    table.at_most(what, middle(&now, wall), middle(&before, wall), MOST);
    let own = format!("{what}: its own processor time");
    table.at_most(&own, middle(&now, cpu), middle(&before, cpu), MOST);
}

fn adds_and_dels(table: &mut Table, node: &Node, pods: &[Attached], mode: &str) {
    let number = |n: usize| 0x1001 + u32::try_from(n).unwrap();
    let value = |n: usize, pod: &Attached| match mode {
        "ipv4" => u32::from(pod.ip.parse::<std::net::Ipv4Addr>().unwrap()),
        _ => number(n),
    };
    let whos: Vec<_> = pods.iter().enumerate().map(|(n, pod)| pod.who(value(n, pod))).collect();
    for (n, pod) in pods.iter().enumerate() {
        let id = format!("external_ids:flow-id={}", number(n));
        node.ovs_vsctl(&["set", "Interface", &pod.port, &id]);
    }
    node.ofctl(&["del-flows", "br0"]);
    super::del::empty(&node.state_dir);
    let mut flows = layouts::classifier_base();
    flows.extend(whos.iter().flat_map(|who| entries(who, POLICY)));
    let filler = (0..FLOWS - flows.len())
        .map(|n| format!("table=20, priority=10,tcp,tp_dst={} actions=drop", 20_000 + n));
    flows.extend(filler.collect::<Vec<_>>());
    install(node, &flows);
    let conf = |pod: &Attached| -> Value {
        json!({
            "type": "ovs-flow-gc", "name": "podnet", "cniVersion": "1.0.0",
            "prevResult": pod.result, "stateDir": node.state_dir, "reg0": mode,
        })
    };
    let of =
        |build: usize, verb, pod| -> Process { call(node, BUILDS[build], verb, pod, &conf(pod)) };
    for pod in pods {
        of(1, "ADD", pod).took();
    }
    let mut turn = pods.iter().zip(&whos).cycle().skip(3);
    let mut adds: [Vec<Took>; 2] = Default::default();
    let dels = by_turns(rounds(41), |build| {
        let (pod, who) = turn.next().unwrap();
        let took = of(build, "DEL", pod).took();
        assert_eq!(count(node), FLOWS - entries(who, POLICY).len(), "DEL, reg0 {mode}");
        install(node, &entries(who, POLICY));
        let _ = fs::remove_dir_all(node.state_dir.join("podnet/dead"));
        let _ = fs::remove_dir_all(node.state_dir.join("journal"));
        adds[build].push(of(build, "ADD", pod).took());
        assert_eq!(count(node), FLOWS);
        took
    });
    tell(table, &format!("DEL, reg0 {mode}, {PODS} pods, 10,000 flows"), dels);
    tell(table, &format!("ADD, reg0 {mode}, {PODS} pods, 10,000 flows"), adds);
}
