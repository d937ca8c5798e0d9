//! CHECK and STATUS, in good and bad health.

use std::fs;
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::rig::{Node, Outcome, Setup, sleep_ms};
use crate::{GC, call, refused, refused_with, silent};

fn node(test: &str, keys: serde_json::Value) -> Node {
    Setup::new().cni_version("1.1.0").gc_conf(keys).up(test)
}

fn status(node: &Node) -> Outcome {
    node.call(GC, "STATUS").conf(&node.plugin_conf(GC, None, None)).run()
}

#[test]
fn check_finds_the_attachment_as_it_was_recorded() {
    let node = node("check_good", json!({}));
    let (web, stranger) = (node.run_pod("web"), node.pod("stranger"));
    silent(call(&node, "CHECK", &web).run());
    node.try_check(&web).unwrap();
    // CHECK changes nothing and needs no flows.
    silent(call(&node, "CHECK", &web).run());
    refused_with(&call(&node, "CHECK", &stranger).run(), 100, &["no record"]);
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

#[test]
fn status_is_patient_with_a_busy_switch_whatever_the_timeout_of_a_call() {
    let node = node("status_busy", json!({"timeoutMs": 50}));
    node.ovsdb.pause();
    let asked = thread::scope(|scope| {
        let asked = scope.spawn(|| status(&node));
        sleep_ms(600);
        node.ovsdb.resume();
        asked.join().unwrap()
    });
    assert!(silent(asked).took > Duration::from_millis(400));
}

#[test]
fn status_says_what_add_would_miss() {
    let node = node("status_bad", json!({"timeoutMs": 1000}));
    let web = node.run_pod("web");
    node.ovsdb.pause();
    let hung = status(&node);
    refused_with(&hung, 50, &["ovsdb-server", "in time"]);
    assert!(hung.took < Duration::from_secs(20), "{hung}");
    node.ovsdb.resume();
    silent(status(&node));

    node.ovsdb.stop();
    refused_with(&status(&node), 50, &["db.sock"]);
    // A pod that waits for its clean-up is affected.
    silent(call(&node, "DEL", &web).run());
    refused_with(&status(&node), 51, &["db.sock", "wait for clean-up"]);
    node.ovsdb.start();
    silent(status(&node));

    fs::remove_dir_all(&node.state_dir).unwrap();
    fs::write(&node.state_dir, "a file in the way").unwrap();
    let path = node.state_dir.display().to_string();
    refused_with(&status(&node), 50, &[&path, "directory"]);
}

#[test]
fn status_names_a_configuration_that_add_would_refuse() {
    let node = node("status_conf", json!({"lingerSecond": 3}));
    refused_with(&status(&node), 7, &["\"lingerSecond\"", "\"lingerSeconds\""]);
}
