//! Bridges that the daemon follows.

use std::time::Instant;

use serde_json::json;

use crate::gcd::Daemon;
use crate::rig::{Attached, Node, Port, Setup, eventually, layouts, sleep_ms};

const SINCE: &str = "replica_in_sync_since_seconds{bridge=\"br0\"}";

/// More than a switch is asked for as a whole at each death.
const FILLER: usize = 2_500;

/// A bridge with many entries of nobody's, and pods without entries.
fn node(test: &str, pods: u32) -> (Node, Vec<String>, Vec<Attached>) {
    let node = Setup::new().gc_conf(json!({"reg0": "pod", "lingerSeconds": 600})).up(test);
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

/// Nobody dies, and nothing else wakes the daemon but the record that ADD writes.
#[test]
fn a_value_of_a_pod_that_comes_later_is_written_down_too() {
    let (node, _, _) = node("daemon_value_later", 1);
    let daemon = Daemon::start(&node);
    eventually("the bridge is followed", || daemon.metric(SINCE) > 0.0);
    let late = node.run_pod("late");
    node.install("br0", &layouts::classifier(&late.who(0x1002)));
    eventually("its value is written down", || {
        let rows = node.admin(&["list", "--json", "--no-flows"]).json();
        let mut rows = rows.as_array().unwrap().iter();
        let row = rows.find(|row| row["ofport"] == json!(late.ofport)).unwrap();
        row["register"]["value"] == json!(0x1002)
    });
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

/// What is counted is counted when it changes, from the copy: no bridge is read as a whole for it.
#[test]
fn entries_of_nobodys_ports_are_counted_when_they_come() {
    let (node, base, pods) = node("daemon_counts", 1);
    node.install("br0", &layouts::classifier(&pods[0].who(0x1001)));
    let daemon = Daemon::start(&node);
    eventually("the bridge is followed", || daemon.metric(SINCE) > 0.0);
    eventually("it is read without a dump", || {
        daemon.metric("dump_flows{bridge=\"br0\"}") < base.len() as f64
    });
    assert_eq!(daemon.metric("dangling_flows"), 0.0);
    for count in [1.0, 2.0] {
        node.add_flows("br0", &[format!("table=50,priority={count},in_port=777,actions=drop")]);
        eventually("they are counted", || daemon.metric("dangling_flows") == count);
    }
    node.ofctl(&["del-flows", "br0", "table=50,in_port=777"]);
    eventually("they are gone", || daemon.metric("dangling_flows") == 0.0);
    let last = daemon.metric("dump_flows{bridge=\"br0\"}");
    assert!(last < FILLER as f64, "{last} entries were read");
    daemon.no_harm();
}

/// A controller that puts an entry of a dead pod back is answered when it does, three times; then
/// the entry stays, and that is said. Nobody looks at the dead meanwhile.
#[test]
fn what_is_put_back_for_the_dead_is_answered_three_times() {
    let (node, base, pods) = node("daemon_put_back", 2);
    let flows = node.install("br0", &layouts::classifier(&pods[0].who(0x1001)));
    let living = node.install("br0", &layouts::classifier(&pods[1].who(0x1002)));
    let daemon = Daemon::start(&node);
    eventually("the bridge is followed", || daemon.metric(SINCE) > 0.0);
    let left = sorted(&[&base, &living]);
    node.vanish(&pods[0], Port::Gone);
    eventually("its entries are gone", || node.dump("br0") == left);
    // Until what it left behind has settled, and a second clean-up has looked for what came before
    // all of its tokens were known.
    sleep_ms(3_500);
    let retries = || daemon.metric("sweeps_total{trigger=\"retry\",result=\"ok\"}");
    let before = retries();
    sleep_ms(7_000);
    assert_eq!(retries(), before, "{}", daemon.log());

    let late = format!("table=50,priority=77,in_port={},actions=drop", pods[0].ofport);
    for _ in 0..3 {
        node.add_flows("br0", &[&late]);
        let since = Instant::now();
        eventually("it is answered", || node.dump("br0") == left);
        eprintln!("gone after {:?}", since.elapsed());
    }
    assert!(!daemon.log().contains("came back after"));
    node.add_flows("br0", &[&late]);
    let contested = "flows_kept{reason=\"contested\"}";
    eventually("it stays", || daemon.metric(contested) == 1.0);
    sleep_ms(500);
    assert_eq!(node.dump("br0").len(), left.len() + 1);
    assert!(daemon.log().contains("1 entries of it came back after 3 deletes each"));
    // Another one is another one.
    node.add_flows("br0", &[late.replace("priority=77", "priority=78")]);
    eventually("the other one is answered", || node.dump("br0").len() == left.len() + 1);
    // It is not contested for the next pod that dies with this number.
    assert!(!flows.is_empty());
    daemon.no_harm();
}

/// The next owner's entries are judged as ever.
#[test]
fn late_entries_may_be_the_next_owners() {
    let (node, base, mut pods) = node("daemon_late_successor", 2);
    node.install("br0", &layouts::classifier(&pods[0].who(0x1001)));
    let living = node.install("br0", &layouts::classifier(&pods[1].who(0x1002)));
    let daemon = Daemon::start(&node);
    eventually("the bridge is followed", || daemon.metric(SINCE) > 0.0);
    let dead = pods.remove(0);
    node.vanish(&dead, Port::Gone);
    let left = sorted(&[&base, &living]);
    eventually("its entries are gone", || node.dump("br0") == left);
    node.forget_lease(&dead.ip);
    let next = node.add(&node.pod("next").with_ip(&dead.ip));
    let own = node.install("br0", &layouts::classifier(&next.who(0x1001)));
    let looked = || {
        let log = daemon.log();
        log.lines().any(|line| line.contains(" sweep (") && line.contains("late-entry"))
    };
    eventually("they are looked at", looked);
    sleep_ms(500);
    assert_eq!(node.dump("br0"), sorted(&[&base, &living, &own]));
    node.must_reach(&next, &next.ip);
    daemon.no_harm();
}

/// A copy that does not fit into the memory that the daemon may use is not built, and that is said.
#[test]
fn a_copy_that_does_not_fit_into_memory_is_not_built() {
    let (node, base, pods) = node("daemon_memory", 2);
    let living = node.install("br0", &layouts::classifier(&pods[1].who(0x1002)));
    let daemon = Daemon::start_with(&node, &["--interval=10m", "--memory-limit=1000000"], None);
    let doubt = "replica_doubt{bridge=\"br0\",reason=\"no-memory\"}";
    eventually("it is not followed", || daemon.metric(doubt) == 1.0);
    assert_eq!(
        (daemon.metric(SINCE), daemon.metric("replica_entries{bridge=\"br0\"}")),
        (0.0, 0.0)
    );
    assert!(daemon.log().contains("more memory than the daemon may use"), "{}", daemon.log());
    node.install("br0", &layouts::classifier(&pods[0].who(0x1001)));
    node.vanish(&pods[0], Port::Stays);
    let left = sorted(&[&base, &living]);
    eventually("its entries are gone", || node.dump("br0") == left);
    let found = node.admin(&["doctor"]).stdout;
    assert!(found.contains("raise MemoryMax"), "{found}");
    daemon.no_harm();
}
