//! CHECK and STATUS, in good and bad health.

use std::fs;
use std::time::Duration;

use serde_json::json;

use crate::contract::{GC, call, refused, refused_with, silent};
use crate::rig::{Node, Outcome, Setup};

fn node(test: &str, keys: serde_json::Value) -> Node {
    Setup::new().cni_version("1.1.0").gc_conf(keys).up(test)
}

fn status(node: &Node) -> Outcome {
    node.call(GC, "STATUS").conf(&node.plugin_conf(GC, None, None)).run()
}

#[test]
fn check_finds_the_attachment_as_it_was_recorded() {
    let node = node("check_good", json!({}));
    let (web, unrecorded) = (node.run_pod("web"), node.pod("unrecorded"));
    silent(call(&node, "CHECK", &web).run());
    node.try_check(&web).unwrap();
    // CHECK changes nothing and needs no flows.
    silent(call(&node, "CHECK", &web).run());
    refused_with(&call(&node, "CHECK", &unrecorded).run(), 100, &["no record"]);
    let second = web.pod.clone().with_ifname("net1");
    refused_with(&call(&node, "CHECK", &second).run(), 100, &["no record"]);
}

#[test]
fn check_says_what_differs() {
    let node = node("check_bad", json!({"timeoutMs": 1500}));
    let (web, db) = (node.run_pod("web"), node.run_pod("db"));

    // Somebody else's ofport_request takes the number.
    let number = format!("ofport_request={}", web.ofport + 500);
    node.ovs_vsctl(&["set", "Interface", &web.port, &number]);
    let (old, new) = (web.ofport.to_string(), (web.ofport + 500).to_string());
    crate::rig::eventually("the new number", || node.ofport(&web.port).to_string() == new);
    refused_with(&call(&node, "CHECK", &web).run(), 102, &["ofport", &old, &new]);

    node.add_bridge("br1", None);
    node.ovs_vsctl(&["del-port", &web.port, "--", "add-port", "br1", &web.port]);
    refused_with(&call(&node, "CHECK", &web).run(), 102, &["bridge", "br0", "br1"]);

    node.ovs_vsctl(&["del-port", &web.port]);
    refused_with(&call(&node, "CHECK", &web).run(), 101, &[&web.port]);

    silent(call(&node, "CHECK", &db).run());
    // Nobody can say: that is no difference.
    node.ovsdb.pause();
    let hung = call(&node, "CHECK", &db).run();
    refused_with(&hung, 11, &["ovsdb-server", "in time"]);
    assert!(hung.took < Duration::from_secs(20), "{hung}");
    node.ovsdb.resume();
    node.ovsdb.stop();
    refused_with(&call(&node, "CHECK", &db).run(), 11, &["db.sock"]);
    fs::remove_dir_all(&node.state_dir).unwrap();
    refused_with(&call(&node, "CHECK", &db).run(), 100, &["no record"]);
    assert!(!node.state_dir.exists(), "CHECK writes nothing");
}

#[test]
fn check_of_a_pod_that_was_recorded_without_its_port() {
    let node = node("check_portless", json!({}));
    let web = node.run_pod("web");
    let mut nowhere = node.plugin_conf(GC, Some(&web), Some(&web.result));
    nowhere["ovsRunDir"] = json!(node.dir);
    fs::remove_dir_all(&node.state_dir).unwrap();
    let added = node.call(GC, "ADD").pod(&web).conf(&nowhere).run();
    assert!(added.succeeded() && added.stderr.contains("without its port"), "{added}");
    let (code, text) = refused(&call(&node, "CHECK", &web).run());
    assert!(code >= 100 && text.contains("port"), "{code} {text}");
}

#[test]
fn status_is_quick_when_all_is_well() {
    let node = node("status_good", json!({}));
    let mut took: Vec<Duration> = (0..5).map(|_| silent(status(&node)).took).collect();
    took.sort();
    // CRI-O asks every 500 ms.
    assert!(took[2] < Duration::from_millis(250), "{took:?}");
    node.run_pod("web");
    node.status().unwrap();
}

/// OK, and a word about what is wrong on standard error.
fn warns(outcome: Outcome, words: &[&str]) -> Outcome {
    assert!(outcome.succeeded() && outcome.stdout.is_empty(), "{outcome}");
    assert!(words.iter().all(|word| outcome.stderr.contains(word)), "{words:?}: {outcome}");
    outcome
}

/// A STATUS that fails makes the node NotReady, and five minutes later its pods are evicted.
#[test]
fn status_is_ok_while_ovsdb_is_away() {
    let node = node("status_ovsdb", json!({}));
    let web = node.run_pod("web");
    node.ovsdb.pause();
    let hung = warns(status(&node), &["OVSDB", "in time"]);
    assert!(hung.took < Duration::from_secs(10), "{hung}");
    node.ovsdb.resume();
    silent(status(&node));

    node.ovsdb.stop();
    warns(status(&node), &["db.sock"]);
    // A pod that waits for its clean-up changes nothing about it.
    silent(call(&node, "DEL", &web).run());
    warns(status(&node), &["db.sock"]);
    node.ovsdb.start();
    silent(status(&node));
}

#[test]
fn status_is_ok_whatever_the_state_directory_is() {
    let node = node("status_state", json!({}));
    silent(status(&node));
    assert!(!node.state_dir.exists(), "STATUS writes nothing");
    let web = node.run_pod("web");
    // Somebody holds the lock: STATUS does not wait for it.
    let file = fs::File::open(node.state_dir.join("lock")).unwrap();
    file.lock().unwrap();
    let took = silent(status(&node)).took;
    assert!(took < Duration::from_secs(2), "{took:?}");
    drop(file);
    silent(call(&node, "DEL", &web).run());

    fs::remove_dir_all(&node.state_dir).unwrap();
    fs::write(&node.state_dir, "a file in the way").unwrap();
    let path = node.state_dir.display().to_string();
    warns(status(&node), &[&path, "directory"]);
}

#[test]
fn status_is_ok_with_a_configuration_that_add_refuses() {
    let node = node("status_conf", json!({"lingerSecond": 3}));
    warns(status(&node), &["\"lingerSecond\"", "\"lingerSeconds\""]);
}
