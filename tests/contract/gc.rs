//! GC (CNI spec 1.1.0): every record of this network that the list does not name is an
//! orphan now; a list that cannot be read protects everybody.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::contract::{GC, pods, records, refused_with, silent, sorted};
use crate::rig::{Attached, Node, Outcome, Setup, eventually};

const VALID: &str = "cni.dev/valid-attachments";
/// The name that came from a slip in the spec, and that libcni sends as well.
const COMPATIBLE: &str = "cni.dev/attachments";

fn node(test: &str) -> Node {
    Setup::new().cni_version("1.1.0").gc_conf(json!({"lingerSeconds": 0})).up(test)
}

/// GC of us alone, with these keys beside our configuration.
fn gc(node: &Node, keys: &[(&str, Value)]) -> Outcome {
    let mut conf = node.plugin_conf(GC, None, None);
    for (key, value) in keys {
        conf[key] = value.clone();
    }
    node.call(GC, "GC").conf(&conf).run()
}

fn entry(pod: &Attached) -> Value {
    json!({"containerID": pod.container, "ifname": pod.ifname})
}

fn record(node: &Node, pod: &Attached) -> std::path::PathBuf {
    node.state_dir.join("podnet").join(format!("{}:{}.json", pod.container, pod.ifname))
}

#[test]
fn whoever_is_not_in_the_list_is_an_orphan_now() {
    let node = node("gc_list");
    let (pods, flows) = pods(&node, &["web", "db", "cache"]);
    silent(gc(&node, &[(VALID, json!([entry(&pods[0]), entry(&pods[2])]))]));
    assert_eq!(node.dump("br0"), sorted(&[&flows[0], &flows[2]]));
    assert_eq!(records(&node).len(), 2);
    // The same again: nothing is left to do.
    silent(gc(&node, &[(VALID, json!([entry(&pods[0]), entry(&pods[2])]))]));
    assert_eq!(node.dump("br0"), sorted(&[&flows[0], &flows[2]]));
}

#[test]
fn either_name_of_the_list_counts_and_both_add_up() {
    for one in [VALID, COMPATIBLE] {
        let node = node("gc_names");
        let (pods, flows) = pods(&node, &["web", "db"]);
        silent(gc(&node, &[(one, json!([entry(&pods[1])]))]));
        assert_eq!(node.dump("br0"), flows[1], "{one}");
    }
    let node = node("gc_both");
    let (pods, flows) = pods(&node, &["web", "db", "cache"]);
    let lists = [(VALID, json!([entry(&pods[0])])), (COMPATIBLE, json!([entry(&pods[1])]))];
    silent(gc(&node, &lists));
    assert_eq!(node.dump("br0"), sorted(&[&flows[0], &flows[1]]));
}

#[test]
fn an_empty_list_and_null_mean_that_none_is_valid_and_no_list_means_nothing() {
    for (key, none) in [(VALID, json!([])), (VALID, Value::Null), (COMPATIBLE, Value::Null)] {
        let node = node("gc_none");
        let (_pods, flows) = pods(&node, &["web", "db"]);
        silent(gc(&node, &[]));
        assert_eq!(node.dump("br0"), sorted(&[&flows[0], &flows[1]]), "no key");
        assert_eq!(records(&node).len(), 2);
        silent(gc(&node, &[(key, none.clone())]));
        assert_eq!(node.dump("br0"), [""; 0], "{key} {none}");
        assert_eq!(records(&node), []);
    }
}

#[test]
fn a_list_that_cannot_be_read_protects_everybody() {
    let node = node("gc_malformed");
    let (pods, flows) = pods(&node, &["web", "db"]);
    let good = json!([entry(&pods[0])]);
    for bad in [
        json!({"containerID": pods[0].container}),
        json!(pods[0].container),
        json!(7),
        json!(true),
        json!([pods[0].container]),
        json!([null]),
        json!([{}]),
        json!([{"ifname": "eth0"}]),
        json!([{"containerID": ""}]),
        json!([{"containerID": 7, "ifname": "eth0"}]),
        json!([entry(&pods[0]), {"containerID": null}]),
    ] {
        refused_with(&gc(&node, &[(VALID, bad.clone())]), 7, &[VALID]);
        refused_with(&gc(&node, &[(VALID, good.clone()), (COMPATIBLE, bad)]), 7, &[COMPATIBLE]);
    }
    assert_eq!(node.dump("br0"), sorted(&[&flows[0], &flows[1]]));
    assert_eq!(records(&node).len(), 2);
}

#[test]
fn a_container_that_is_valid_under_any_ifname_protects_all_its_attachments() {
    let node = node("gc_ifnames");
    let (pods, flows) = pods(&node, &["web", "db"]);
    // A second default route would not go in.
    let mut ipam = node.plugin_conf("ovs-test-cni", None, None)["ipam"].clone();
    ipam["routes"] = json!([]);
    node.configure_plugin("ovs-test-cni", json!({"ipam": ipam}));
    let second = node.add(&pods[0].pod.clone().with_ifname("net1"));
    let its = node.install("br0", &crate::contract::layouts::classifier(&second.who(0x2001)));
    silent(gc(&node, &[(VALID, json!([entry(&second)]))]));
    assert_eq!(node.dump("br0"), sorted(&[&flows[0], &its]));
    silent(gc(&node, &[(VALID, json!([{"containerID": pods[0].container}]))]));
    assert_eq!(node.dump("br0"), sorted(&[&flows[0], &its]));
}

#[test]
fn only_this_networks_records_are_judged() {
    let node = node("gc_networks");
    let this = node.conflist();
    let mut other = this.clone();
    other["name"] = json!("othernet");
    node.set_conflist(other);
    let (_theirs, kept) = pods(&node, &["theirs"]);
    node.set_conflist(this);
    // Each network has an IPAM of its own: left alone, both would be given one address.
    let (flows, names) = (["10.244.1.77", "10.244.1.78"], ["ours", "ours-too"]);
    for ((name, ip), reg) in names.iter().zip(flows).zip(0x3001..) {
        let ours = node.add(&node.pod(name).with_ip(ip));
        let (v4, v6) = (ours.ip.clone(), format!("fd00::{reg:x}"));
        let who = crate::rig::Who { ip: v4, ip6: v6, ..ours.who(reg) };
        node.install("br0", &crate::contract::layouts::classifier(&who));
    }
    silent(gc(&node, &[(VALID, Value::Null)]));
    let left = node.dump("br0");
    assert!(kept[0].iter().all(|flow| left.contains(flow)), "{left:#?}");
    // Of ours nothing is left but what names the addresses that we made up.
    let rest: Vec<_> = left.iter().filter(|flow| !kept[0].contains(flow)).collect();
    assert!(rest.iter().all(|flow| flow.contains("fd00::")), "{rest:#?}");
    assert_eq!(records(&node), [("theirs".to_owned(), "active".to_owned())]);
}

#[test]
fn a_pod_that_was_added_since_the_call_is_protected() {
    let node = node("gc_younger");
    let (_old, _flows) = pods(&node, &["old"]);
    let mut command = node.command(node.plugin(GC));
    command.env("CNI_COMMAND", "GC").env("CNI_PATH", node.cni_bin());
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut call = command.spawn().unwrap();
    // It runs and waits for its configuration.
    let wchan = format!("/proc/{}/wchan", call.id());
    eventually("GC reads", || fs::read_to_string(&wchan).is_ok_and(|at| at.contains("pipe")));

    let new = node.run_pod("new");
    let its = node.install("br0", &crate::contract::layouts::classifier(&new.who(0x2001)));
    let mut conf = node.plugin_conf(GC, None, None);
    conf[VALID] = json!([]);
    call.stdin.take().unwrap().write_all(conf.to_string().as_bytes()).unwrap();
    assert!(call.wait().unwrap().success());
    assert_eq!(node.dump("br0"), its);
    assert_eq!(records(&node), [("new".to_owned(), "active".to_owned())]);
}

/// CRI-O calls GC once, at start, and a state directory on a disk survives a reboot: the
/// stamps of another boot say nothing about who is younger.
#[test]
fn a_record_of_another_boot_is_not_younger_than_the_call() {
    let node = node("gc_boot");
    let (pods, _) = pods(&node, &["web"]);
    let path = record(&node, &pods[0]);
    let mut text: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    text["bootId"] = json!("00000000-0000-4000-8000-000000000000");
    text["created"]["boot_ms"] = json!(u32::MAX);
    fs::write(&path, text.to_string()).unwrap();
    silent(gc(&node, &[(VALID, json!([]))]));
    assert!(!path.exists());
    assert_ne!(records(&node), [("web".to_owned(), "active".to_owned())]);
}

#[test]
fn what_could_not_be_cleaned_up_is_in_the_error_and_is_not_forgotten() {
    let node = node("gc_ovs_down");
    let (pods, flows) = pods(&node, &["web", "db", "cache"]);
    node.ovsdb.stop();
    let failed = gc(&node, &[(VALID, json!([entry(&pods[1])]))]);
    let [web, db, cache] = [0, 1, 2].map(|n: usize| pods[n].name.as_str());
    let left = [pods[0].container.as_str(), &pods[2].container, web, cache];
    refused_with(&failed, 103, &[&left[..], &["2 of 2", "db.sock"]].concat());
    assert!(!failed.stdout.contains(db), "{failed}");
    let dead = ("cache".to_owned(), "deleting".to_owned());
    assert_eq!(records(&node)[0], dead);

    node.ovsdb.start();
    node.admin(&["sweep"]).ok();
    assert_eq!(node.dump("br0"), flows[1]);
    assert_eq!(records(&node), [("db".to_owned(), "active".to_owned())]);
}

#[test]
fn a_rolled_back_conflist_does_not_stop_gc() {
    let node = node("gc_unknown_key");
    let (_pods, _flows) = pods(&node, &["web", "db"]);
    let cleaned = silent(gc(&node, &[(VALID, json!([])), ("lingerSecond", json!(3))]));
    assert!(cleaned.stderr.contains("\"lingerSecond\""), "{cleaned}");
    assert_eq!(node.dump("br0"), [""; 0]);
}
