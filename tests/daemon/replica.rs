//! Bridges that the daemon follows.

use serde_json::json;

use crate::gcd::Daemon;
use crate::rig::{Attached, Node, Port, Setup, eventually, layouts};

const SINCE: &str = "replica_in_sync_since_seconds{bridge=\"br0\"}";

/// More than a switch is asked for as a whole at each death.
const FILLER: usize = 2_500;

/// A bridge with many entries of nobody's, and pods without entries.
fn node(test: &str, pods: u32) -> (Node, Vec<String>, Vec<Attached>) {
    let node = Setup::new().gc_conf(json!({"reg0": "pod"})).up(test);
    let mut flows = layouts::classifier_base();
    flows.extend((0..FILLER).map(|n| {
        format!("table=50, priority=9,tcp,nw_dst=192.0.{}.{} actions=drop", n / 250, n % 250)
    }));
    let base = node.install("br0", &flows);
    let pods = (0..pods).map(|n| node.run_pod(&format!("p{n}"))).collect();
    (node, base, pods)
}

fn sorted(parts: &[&[String]]) -> Vec<String> {
    let mut all = parts.concat();
    all.sort();
    all
}

/// The entry that shows a pod's register value stands for a moment only: somebody else has its
/// place before the pod dies.
#[test]
fn a_value_is_written_down_when_it_shows() {
    let (node, base, pods) = node("daemon_value_shows", 2);
    let daemon = Daemon::start(&node);
    eventually("the bridge is followed", || daemon.metric(SINCE) > 0.0);
    let value = |n: usize| {
        let rows = node.admin(&["list", "--json", "--no-flows"]).json();
        let mut rows = rows.as_array().unwrap().iter();
        let row = rows.find(|row| row["ofport"] == json!(pods[n].ofport)).cloned();
        row.map(|row| row["register"]["value"].clone())
    };
    assert_eq!(value(0), Some(json!(null)));
    let flows = node.install("br0", &layouts::classifier(&pods[0].who(0x1001)));
    let living = node.install("br0", &layouts::classifier(&pods[1].who(0x1002)));
    eventually("both values are written down", || {
        value(0) == Some(json!(0x1001)) && value(1) == Some(json!(0x1002))
    });
    let classifier = format!("table=0,priority=100,in_port={}", pods[0].ofport);
    node.ofctl(&["--strict", "del-flows", "br0", &classifier]);
    assert_eq!(node.dump("br0").len(), base.len() + living.len() + flows.len() - 1);
    node.vanish(&pods[0], Port::Gone);
    let left = sorted(&[&base, &living]);
    eventually("its entries are gone, those under the value too", || node.dump("br0") == left);
    assert!(daemon.sum("sweeps_total") > 0.0);
    daemon.no_harm();
}

/// What died is read, not what is there.
#[test]
fn a_death_reads_what_names_the_dead() {
    let (node, base, pods) = node("daemon_reads_little", 3);
    let flows: Vec<Vec<String>> = (0..3)
        .map(|n| node.install("br0", &layouts::classifier(&pods[n].who(0x1001 + n as u32))))
        .collect();
    let daemon = Daemon::start(&node);
    eventually("the bridge is followed", || daemon.metric(SINCE) > 0.0);
    let all = (base.len() + flows.concat().len()) as f64;
    assert_eq!(daemon.metric("replica_entries{bridge=\"br0\"}"), all);
    assert_eq!(daemon.metric("dump_flows{bridge=\"br0\"}"), all, "the first sweep");
    node.vanish(&pods[1], Port::Stays);
    let left = sorted(&[&base, &flows[0], &flows[2]]);
    eventually("its entries are gone", || node.dump("br0") == left);
    eventually("that is counted", || daemon.metric("dump_flows{bridge=\"br0\"}") < 100.0);
    let entries = "replica_entries{bridge=\"br0\"}";
    eventually("it follows", || daemon.metric(entries) == left.len() as f64);
    daemon.no_harm();
}

/// A bridge with more entries than the limit is read whenever a pod dies, and that is said.
#[test]
fn a_bridge_over_the_limit_is_read_at_each_death() {
    let (node, base, pods) = node("daemon_over_limit", 2);
    let flows = node.install("br0", &layouts::classifier(&pods[0].who(0x1001)));
    let living = node.install("br0", &layouts::classifier(&pods[1].who(0x1002)));
    let args = ["--interval=10m", "--replica-limit=1000"];
    let daemon = Daemon::start_with(&node, &args, None);
    let gives_up = || daemon.metric("replica_fallbacks_total{bridge=\"br0\"}") == 1.0;
    eventually("it gives up", gives_up);
    assert_eq!(daemon.metric(SINCE), 0.0);
    node.vanish(&pods[0], Port::Stays);
    let left = sorted(&[&base, &living]);
    eventually("its entries are gone", || node.dump("br0") == left);
    let log = daemon.log();
    assert!(log.contains("more entries than --replica-limit"), "{} {log}", flows.len());
    daemon.no_harm();
}
