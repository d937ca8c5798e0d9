//! Commands that ask the daemon: what they print is what they print without it.

use std::fs;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::gcd::Daemon;
use crate::rig::{Node, Port, Setup, eventually, layouts};

const SINCE: &str = "replica_in_sync_since_seconds{bridge=\"br0\"}";
const ANSWERED: &str = "a question is answered: done";

/// What the commands print about entries. What they read of the records may have been written anew.
fn printed(node: &Node, pods: &[&str]) -> Vec<Value> {
    let without_record = |mut explanations: Value| {
        for explanation in explanations.as_array_mut().unwrap() {
            explanation.as_object_mut().unwrap().remove("attachment");
        }
        explanations
    };
    let explain = |pod: &&str| without_record(node.admin(&["explain", pod, "--json"]).json());
    let mut all: Vec<Value> = pods.iter().map(explain).collect();
    all.extend(pods.iter().map(|pod| Value::String(node.admin(&["explain", pod]).ok())));
    let rows = node.admin(&["list", "--json"]).json();
    let counts =
        rows.as_array().unwrap().iter().map(|row| json!([row["containerID"], row["flows"]]));
    all.extend(counts);
    all
}

#[track_caller]
fn must_equal(these: &[Value], those: &[Value]) {
    assert_eq!(these.len(), those.len());
    these.iter().zip(those).for_each(|(this, that)| assert_eq!(this, that));
}

fn doctor(node: &Node) -> Vec<(String, String)> {
    let findings = node.admin(&["doctor", "--json"]).json();
    let of_daemon = findings.as_array().unwrap().iter().filter(|f| f["what"] == "daemon").cloned();
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    of_daemon.map(|f| (text(&f, "level"), text(&f, "found"))).collect()
}

#[test]
fn commands_print_the_same_with_and_without_the_daemon() {
    let node =
        Setup::new().gc_conf(json!({"reg0": "pod", "lingerSeconds": 600})).up("questions_same");
    node.install("br0", &layouts::classifier_base());
    let pods: Vec<_> = ["web", "db", "cache"].iter().map(|name| node.run_pod(name)).collect();
    for (pod, reg) in pods.iter().zip(0x1001..) {
        node.install("br0", &layouts::classifier(&pod.who(reg)));
    }
    assert_eq!(doctor(&node)[0].0, "note", "there is none");
    let daemon = Daemon::start(&node);
    eventually("the bridge is followed", || daemon.metric(SINCE) > 0.0);
    // One is dead, and entries of it are left: an address that somebody has programmed late.
    node.vanish(&pods[2], Port::Gone);
    eventually("it is swept", || daemon.metric("attachments{state=\"gone\"}") == 1.0);
    node.add_flows(
        "br0",
        &[
            format!("table=35,priority=100,ip,nw_src={},actions=drop", pods[2].ip),
            format!("table=9,priority=100,ip,nw_src={},actions=drop", pods[0].ip),
        ],
    );
    let names: Vec<&str> = pods.iter().map(|pod| pod.name.as_str()).collect();
    eventually("the daemon has values of the living", || {
        node.admin(&["list", "--json", "--no-flows"]).ok().matches("learned").count() >= 2
    });
    let before = daemon.log().matches(ANSWERED).count();
    let asked = printed(&node, &names);
    // Two times each pod, and one list.
    assert_eq!(daemon.log().matches(ANSWERED).count() - before, 7, "{}", daemon.log());
    let flows = |pod: usize| asked[pod][0]["flows"].as_array().unwrap().len();
    assert!(flows(0) > 10 && flows(2) == 1, "{} {}", flows(0), flows(2));

    let found = doctor(&node);
    assert!(found[0].1.ends_with("_daemon.sock answers"), "{found:?}");
    assert!(found[1].0 == "ok" && found[1].1.starts_with("br0 is followed since"), "{found:?}");

    // It answers nothing in time.
    daemon.signal(Signal::SIGSTOP);
    must_equal(&printed(&node, &names), &asked);
    assert!(doctor(&node)[0].1.contains("no answer"), "{:?}", doctor(&node));
    daemon.signal(Signal::SIGCONT);
    daemon.no_harm();
    daemon.end(Signal::SIGKILL);
    assert!(doctor(&node)[0].1.ends_with("nobody listens"), "{:?}", doctor(&node));
    must_equal(&printed(&node, &names), &asked);
    fs::remove_file(node.state_dir.join("_daemon.sock")).unwrap();
    must_equal(&printed(&node, &names), &asked);
}

/// A bridge that is not followed is read by the command.
#[test]
fn a_bridge_that_is_not_followed_is_read_by_the_command() {
    let node = Setup::new().up("questions_limit");
    node.install("br0", &layouts::classifier_base());
    let pod = node.run_pod("web");
    node.install("br0", &layouts::classifier(&pod.who(0x1001)));
    let without = printed(&node, &[&pod.name]);
    let daemon = Daemon::start_with(&node, &["--replica-limit=3"], None);
    eventually("it gives up", || daemon.metric("replica_fallbacks_total{bridge=\"br0\"}") == 1.0);
    assert_eq!(printed(&node, &[&pod.name])[0][0]["flows"], without[0][0]["flows"]);
    let found = doctor(&node);
    assert!(found[1].0 == "note" && found[1].1.contains("--replica-limit"), "{found:?}");
    daemon.no_harm();
    drop(daemon);
    let daemon = Daemon::start_with(&node, &["--replica-limit=0"], None);
    eventually("it listens", || daemon.log().contains("may ask at"));
    assert_eq!(doctor(&node)[1].1, "no bridge is followed");
    assert_eq!(printed(&node, &[&pod.name])[0][0]["flows"], without[0][0]["flows"]);
}
