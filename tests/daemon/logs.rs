//! What the daemon's log has at its usual level: it may be on a disk that is full.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::gcd::Daemon;
use crate::rig::{Attached, Datapath, Port, Setup, eventually, layouts};

const ENTRIES: usize = 2_000;
/// A start, its sources, and what changed.
const HANDFUL: usize = 12;

/// One dead pod of this size wrote 20,000 lines in 75 s once: each entry at each sweep.
#[test]
fn a_dead_pod_in_observe_mode_and_a_storm_of_events_are_a_handful_of_lines() {
    let node = Setup::new().gc_conf(json!({"mode": "observe"})).up("daemon_quiet");
    node.install("br0", &layouts::classifier_base());
    let (web, other) = (node.run_pod("web"), node.run_pod("other"));
    node.install("br0", &layouts::classifier(&web.who(0x1001)));
    node.install("br0", &layouts::classifier(&other.who(0x1002)));
    let entry = |n: usize| {
        format!("table=30,priority=9,tcp,in_port={},tp_dst={n} actions=drop", web.ofport)
    };
    node.add_flows("br0", &(1..=ENTRIES).map(entry).collect::<Vec<_>>());
    let flows = node.dump("br0").len();
    let args = ["--interval=200ms", "--log-level=info", "--log-format=json"];
    let daemon = Daemon::start_with(&node, &args, None);
    node.vanish(&web, Port::Stays);
    let left = |why: &str| daemon.metric(&format!("stale_flows_left{{reason=\"{why}\"}}"));
    eventually("its entries are counted", || left("observe") > ENTRIES as f64);
    let until = Instant::now() + Duration::from_secs(5);
    for n in 0.. {
        // Rows and namespaces that come and go, and signals.
        let name = format!("ofgstorm{}", n % 7);
        let netdev = ["--", "set", "Bridge", &name, "datapath_type=netdev"];
        node.ovs_vsctl(&[&["add-br", &name], &netdev[..]].concat());
        node.ovs_vsctl(&["del-br", &name]);
        node.run("ip", &["netns", "add", &name]).ok();
        node.run("ip", &["netns", "del", &name]).ok();
        if Instant::now() > until {
            break;
        }
    }
    let swept = |least: f64| eventually("it sweeps", || daemon.sum("sweeps_total") > least);
    swept(15.0);
    node.admin(&["pause"]).ok();
    eventually("it is paused", || left("paused") > ENTRIES as f64);
    swept(daemon.sum("sweeps_total") + 5.0);
    node.admin(&["resume"]).ok();
    eventually("it is resumed", || left("observe") > ENTRIES as f64);
    assert_eq!(node.dump("br0").len(), flows);

    let log = daemon.log();
    assert!(log.lines().count() <= HANDFUL, "{} lines: {log}", log.lines().count());
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let text = |line: &Value| line["message"].as_str().unwrap().to_owned();
    let kept: Vec<String> =
        lines.iter().map(text).filter(|text| text.contains("not deleted")).collect();
    assert_eq!(kept.len(), 3, "observe, paused, observe again: {kept:#?}");
    assert!(kept[0].contains("mode observe, not deleted: 20"), "{kept:#?}");
    assert!(lines.iter().all(|line| line["level"] == "info" || line["level"] == "warn"), "{log}");
}

/// A node's pods die at once, often because the disk is full: the first are named, then counted.
#[test]
fn a_mass_death_is_a_handful_of_lines() {
    const DEAD: usize = 30;
    let node = Setup::new().datapath(Datapath::Dummy).up("daemon_mass_log");
    // More than half live: no brake.
    let pods: Vec<_> = (0..2 * DEAD + 5).map(|n| node.run_pod(&format!("p{n}"))).collect();
    let entry =
        |pod: &Attached| format!("table=30, priority=9,in_port={} actions=drop", pod.ofport);
    let (dead, live) = pods.split_at(DEAD);
    node.add_flows("br0", &dead.iter().map(entry).collect::<Vec<_>>());
    let stay = node.install("br0", &live.iter().map(entry).collect::<Vec<_>>());
    let daemon = Daemon::start_with(&node, &["--interval=10m", "--log-level=info"], None);
    eventually("it is ready", || daemon.get("/readyz").0 == 200);
    let before = daemon.log().lines().count();
    dead.iter().for_each(|pod| node.vanish(pod, Port::Stays));
    eventually("their entries are gone", || node.dump("br0") == stay);
    eventually("all were swept", || daemon.sum("orphans_total") == DEAD as f64);
    daemon.signal(Signal::SIGTERM);
    eventually("it ends", || daemon.log().contains("ending"));
    let log = daemon.log();
    let said: Vec<&str> = log.lines().skip(before).collect();
    let named = |what: &str| said.iter().filter(|line| line.contains(what)).count();
    assert_eq!((named(") is dead: "), named("deleted 1 entries of default/")), (5, 5), "{log}");
    let rest = format!("{} more pods are dead", DEAD - 5);
    assert!(named(&rest) == 1 && said.len() <= 2 * HANDFUL, "{} lines: {log}", said.len());
}
