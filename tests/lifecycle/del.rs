//! Scenario 1: DEL removes one pod's entries out of several, all of them and no others.

use std::fs;

use serde_json::{Value, json};

use super::fixture::{Fixture, sorted, states, sweep};
use crate::rig::{Attached, Call, Datapath, Node, Outcome, Setup};

/// DEL of our plugin alone: the pod's port is still there, as it is when a chain is torn
/// down in reverse.
#[track_caller]
fn our_del(node: &Node, pod: &Attached, change: impl FnOnce(Call<'_>) -> Call<'_>) -> Outcome {
    let conf = node.plugin_conf("ovs-flow-gc", Some(pod), Some(&pod.result));
    let outcome = change(node.call_for(&conf, "DEL", pod)).run();
    assert!(outcome.succeeded(), "{outcome}");
    assert_eq!(outcome.stdout, "", "DEL has no result");
    outcome
}

fn dummy(test: &str) -> Node {
    Setup::new().datapath(Datapath::Dummy).up(test)
}

#[test]
fn del_takes_exactly_one_pods_entries_out_of_several() {
    let node = Node::new("del_takes_exactly_one");
    let fixture = Fixture::new(&node, &["web", "db", "cache"]);
    let (web, db, cache) = (&fixture.pods[0], &fixture.pods[1], &fixture.pods[2]);
    node.must_reach(web, &cache.ip);
    node.must_reach(web, &db.ip6);

    node.del(db);

    assert_eq!(node.dump("br0"), fixture.without(&[1]));
    node.must_reach(web, &cache.ip);
    node.must_reach(cache, &web.ip6);
    // A runtime calls DEL again, and again after the sandbox has gone.
    node.try_del(db).unwrap();
    our_del(&node, db, |call| call);
    assert_eq!(node.dump("br0"), fixture.without(&[1]));

    node.del(web);
    assert_eq!(node.dump("br0"), fixture.without(&[0, 1]));
}

#[test]
fn del_on_bridges_of_every_openflow_version() {
    for protocols in ["OpenFlow13", "OpenFlow14", "OpenFlow15", "OpenFlow10,OpenFlow15"] {
        let node = Setup::new().datapath(Datapath::Dummy).protocols(protocols).up(protocols);
        let fixture = Fixture::new(&node, &["web", "db", "cache"]);
        our_del(&node, &fixture.pods[1], |call| call);
        assert_eq!(node.dump("br0"), fixture.without(&[1]), "{protocols}");
        our_del(&node, &fixture.pods[0], |call| call);
        assert_eq!(node.dump("br0"), fixture.without(&[0, 1]), "{protocols}");
    }
}

/// A runtime whose calls are killed: ADD, DEL, ADD, DEL of one sandbox. What is dead twice is
/// dead once: one tombstone, and no life of the pod keeps another's register value.
#[test]
fn calls_that_are_killed_do_not_pile_up() {
    let keys = json!({"reg0": "pod", "lingerSeconds": 60});
    let node = Setup::new().datapath(Datapath::Dummy).gc_conf(keys).up("killed_calls");
    let fixture = Fixture::new(&node, &["web", "db"]);
    let web = &fixture.pods[0];
    let conf = node.plugin_conf("ovs-flow-gc", Some(web), Some(&web.result));
    let directory = node.state_dir.join("podnet/dead");
    // A killed call may leave a temporary file (`.….tmp`); it is no record.
    let files = || fs::read_dir(&directory).into_iter().flatten().flatten().map(|file| file.path());
    let records = || files().filter(|file| file.extension().is_some_and(|end| end == "json"));
    let tombstones = || records().count();
    for round in 0..6 {
        node.vswitchd.pause();
        let del = node.call_for(&conf, "DEL", web).start();
        let active = node.state_dir.join(format!("podnet/{}:eth0.json", web.container));
        crate::rig::eventually("its record has become a tombstone", || !active.exists());
        del.kill();
        node.vswitchd.resume();
        del.wait();
        assert!(tombstones() <= 2, "round {round}: {:?}", files().collect::<Vec<_>>());
        // Its result never reaches the runtime.
        node.call_for(&conf, "ADD", web).run().ok();
    }
    our_del(&node, web, |call| call);
    assert_eq!(node.dump("br0"), fixture.without(&[0]));
    assert_eq!(tombstones(), 1);
    let listed = node.admin(&["list"]).ok();
    assert_eq!(listed.matches(&web.name).count(), 1, "{listed}");
    let explained = node.admin(&["explain", &web.name]).ok();
    assert_eq!(explained.matches(&format!("default/{}", web.name)).count(), 1, "{explained}");

    // What an older release piled up, a sweep merges.
    let name = records().next().unwrap();
    let text = fs::read_to_string(&name).unwrap();
    let mut record: Value = serde_json::from_str(&text).unwrap();
    for generation in 1..=30 {
        record["generation"] = json!(generation);
        record["state"] = json!("deleting");
        let other = directory.join(format!("{}:eth0.{generation}.json", web.container));
        fs::write(other, record.to_string()).unwrap();
    }
    assert_eq!(tombstones(), 31);
    sweep(&node, &[]);
    assert_eq!(tombstones(), 1);
    assert_eq!(states(&node)["web"], "gone");
}

#[test]
fn del_comes_again_after_the_linger_time() {
    let node = Setup::new()
        .datapath(Datapath::Dummy)
        .gc_conf(json!({"lingerSeconds": 0}))
        .up("del_comes_again");
    let fixture = Fixture::new(&node, &["web", "db"]);
    node.del(&fixture.pods[0]);
    assert_eq!(states(&node), [("db".to_owned(), "active".to_owned())].into());
    for _ in 0..2 {
        our_del(&node, &fixture.pods[0], |call| call);
        assert_eq!(node.dump("br0"), fixture.without(&[0]));
    }
}

#[test]
fn del_keeps_watching_for_the_linger_time() {
    let node = dummy("del_keeps_watching");
    let fixture = Fixture::new(&node, &["web", "db"]);
    node.del(&fixture.pods[0]);
    assert_eq!(states(&node)["web"], "gone");
    // A slow controller puts an entry back.
    node.add_flows("br0", &[&fixture.flows[0][0]]);
    assert_ne!(node.dump("br0"), fixture.without(&[0]));
    sweep(&node, &[]);
    assert_eq!(node.dump("br0"), fixture.without(&[0]));
}

/// A kubelet's second DEL has an empty one (field notes, §6).
#[test]
fn del_without_a_netns() {
    let node = dummy("del_without_a_netns");
    let fixture = Fixture::new(&node, &["web", "db", "cache"]);
    our_del(&node, &fixture.pods[0], |call| call.without("CNI_NETNS"));
    assert_eq!(node.dump("br0"), fixture.without(&[0]));
    our_del(&node, &fixture.pods[1], |call| call.env("CNI_NETNS", ""));
    assert_eq!(node.dump("br0"), fixture.without(&[0, 1]));
}

#[test]
fn del_without_prev_result() {
    let node = dummy("del_without_prev_result");
    let fixture = Fixture::new(&node, &["web", "db"]);
    node.forget_result(&fixture.pods[0]);
    node.del(&fixture.pods[0]);
    assert_eq!(node.dump("br0"), fixture.without(&[0]));
}

/// Below 0.4.0 no runtime has a prevResult for DEL.
#[test]
fn del_by_an_old_runtime() {
    let node = Setup::new().cni_version("0.3.1").datapath(Datapath::Dummy).up("del_by_an_old");
    let fixture = Fixture::new(&node, &["web", "db"]);
    node.del(&fixture.pods[0]);
    assert_eq!(node.dump("br0"), fixture.without(&[0]));
}

/// A prevResult that is not what ADD returned changes nothing: the record counts.
#[test]
fn del_with_a_strange_prev_result() {
    let node = dummy("del_with_a_strange_prev_result");
    let fixture = Fixture::new(&node, &["web", "db"]);
    let (web, db) = (&fixture.pods[0], &fixture.pods[1]);
    for strange in [db.result.clone(), json!({"ips": "none"}), json!([]), json!("")] {
        let conf = node.plugin_conf("ovs-flow-gc", Some(web), Some(&strange));
        node.call_for(&conf, "DEL", web).run().ok();
        assert_eq!(node.dump("br0"), fixture.without(&[0]), "{strange}");
    }
}

/// What of a pod's entries only its IP or MAC condemns: without a record nobody knows when
/// the address was freed, so these stay (rules 1, 2 and 4 only). So does what is delivered with
/// another destination written into it: its own may be a service's.
fn only_by_address(pod: &Attached, flows: &[String]) -> Vec<String> {
    let port = [format!("in_port={},", pod.ofport), format!("in_port={} ", pod.ofport)];
    let output = format!("output:{}", pod.ofport);
    let kept = |flow: &&String| {
        let (matches, actions) = flow.split_once(" actions=").unwrap();
        let by_port = port.iter().any(|port| format!("{matches} ").contains(port.as_str()));
        let by_register = matches.contains("reg0=");
        let delivered = actions.ends_with(&output) && !actions.contains("->eth_dst");
        !(by_port || by_register || delivered)
    };
    flows.iter().filter(kept).cloned().collect()
}

/// ovs-cni #304: state that vanished must not make DEL do nothing.
#[test]
fn del_without_any_record() {
    let node = Setup::new()
        .datapath(Datapath::Dummy)
        .gc_conf(json!({"reg0": "pod"}))
        .up("del_without_any_record");
    let fixture = Fixture::new(&node, &["web", "db", "cache"]);
    let db = &fixture.pods[1];
    fs::remove_dir_all(&node.state_dir).unwrap();

    our_del(&node, db, |call| call);

    let rest = only_by_address(db, &fixture.flows[1]);
    assert_eq!(rest.len(), 9, "{rest:#?}");
    let left = sorted([fixture.without(&[1]), rest].concat());
    assert_eq!(node.dump("br0"), left);
    our_del(&node, db, |call| call);
    assert_eq!(node.dump("br0"), left);
    node.del(db);
    assert_eq!(node.dump("br0"), left);
}

/// Only this pod's record is lost: the register is still known to be the pods' own.
#[test]
fn del_without_its_record() {
    let node = dummy("del_without_its_record");
    let fixture = Fixture::new(&node, &["web", "db", "cache"]);
    let db = &fixture.pods[1];
    let record = node.state_dir.join(format!("podnet/{}:eth0.json", db.container));
    fs::remove_file(record).unwrap();
    our_del(&node, db, |call| call);
    let rest = only_by_address(db, &fixture.flows[1]);
    assert_eq!(node.dump("br0"), sorted([fixture.without(&[1]), rest].concat()));
}

/// Without a record and without a namespace there is nothing that would say which port was
/// its: ovs-cni's marks have no container id.
#[test]
fn del_of_somebody_unknown() {
    let node = dummy("del_of_somebody_unknown");
    let fixture = Fixture::new(&node, &["web", "db"]);
    let unrecorded = node.pod("unrecorded");
    let conf = node.plugin_conf("ovs-flow-gc", Some(&unrecorded), None);
    node.call_for(&conf, "DEL", &unrecorded).run().ok();
    assert_eq!(node.dump("br0"), fixture.lines());

    fs::remove_dir_all(&node.state_dir).unwrap();
    our_del(&node, &fixture.pods[0], |call| call.without("CNI_NETNS"));
    // Another pod's interface of the same namespace is not this one.
    our_del(&node, &fixture.pods[0], |call| call.env("CNI_IFNAME", "eth7"));
    assert_eq!(node.dump("br0"), fixture.lines());
}

/// Antrea's marks name the container: they are enough, even without a namespace.
#[test]
fn del_without_a_record_by_container_id() {
    let node = dummy("del_by_container_id");
    let fixture = Fixture::new(&node, &["web", "db"]);
    let web = &fixture.pods[0];
    node.ovs_vsctl(&["clear", "Port", &web.port, "external_ids"]);
    let marks = ["antrea-type=container".to_owned(), format!("container-id={}", web.container)];
    for mark in marks {
        node.ovs_vsctl(&["set", "Port", &web.port, &format!("external_ids:{mark}")]);
    }
    fs::remove_dir_all(&node.state_dir).unwrap();
    our_del(&node, web, |call| call.without("CNI_NETNS"));
    let left = node.dump("br0");
    assert!(!left.contains(&fixture.flows[0][0]), "{left:#?}");
    assert!(fixture.without(&[0]).iter().all(|flow| left.contains(flow)), "{left:#?}");
}

/// One pod, two interfaces: two attachments. DEL of one leaves the other alone.
#[test]
fn del_of_one_of_two_interfaces() {
    let node = dummy("del_of_one_of_two_interfaces");
    let mut fixture = Fixture::new(&node, &["web", "db"]);
    // A second default route would not go in.
    let mut ipam = node.plugin_conf("ovs-test-cni", None, None)["ipam"].clone();
    ipam["routes"] = json!([]);
    node.configure_plugin("ovs-test-cni", json!({"ipam": ipam}));
    let second = node.add(&fixture.pods[0].pod.clone().with_ifname("net1"));
    let lines = crate::rig::layouts::classifier(&second.who(0x2001));
    fixture.flows.push(node.install("br0", &lines));
    fixture.pods.push(second);

    our_del(&node, &fixture.pods[2], |call| call);
    assert_eq!(node.dump("br0"), fixture.without(&[2]));
    assert_eq!(states(&node)["db"], "active");
    our_del(&node, &fixture.pods[0], |call| call);
    assert_eq!(node.dump("br0"), fixture.without(&[0, 2]));
}

/// openshift/origin #14893: an empty IP at teardown matched everything.
#[test]
fn del_of_a_pod_without_addresses() {
    let node = Setup::new()
        .datapath(Datapath::Dummy)
        .ovs_conf(json!({"ipam": null}))
        .up("del_of_a_pod_without_addresses");
    let bare = node.run_pod("bare");
    assert_eq!(bare.ip, "");
    let keep = ["table=9, priority=3,ip actions=NORMAL", "table=9, priority=2 actions=drop"];
    let kept = node.install("br0", &keep);
    let (port, mac) = (bare.ofport, &bare.mac);
    node.install(
        "br0",
        &[
            format!("table=9, priority=4,in_port={port} actions=NORMAL"),
            format!("table=9, priority=4,dl_dst={mac} actions=output:{port}"),
        ],
    );
    our_del(&node, &bare, |call| call);
    assert_eq!(node.dump("br0"), kept);
}

/// Nothing of a whole life stays on disk but what `undo` needs.
#[test]
fn nothing_is_left_in_the_state_directory() {
    let node = Setup::new()
        .datapath(Datapath::Dummy)
        .gc_conf(json!({"lingerSeconds": 0}))
        .up("nothing_is_left");
    let fixture = Fixture::new(&node, &["web", "db"]);
    fixture.pods.iter().for_each(|pod| node.del(pod));
    assert_eq!(node.dump("br0"), fixture.without(&[0, 1]));
    assert!(states(&node).is_empty());
    let files: Vec<String> = super::fixture::tree(&node.state_dir)
        .into_keys()
        .map(|path| path.replace(&format!("{}/", node.state_dir.display()), ""))
        .filter(|path| !path.starts_with("journal/"))
        .collect();
    assert_eq!(files, ["_calls", "lock", "podnet/", "podnet/config.json", "podnet/dead/"]);
    let config = fs::read(node.state_dir.join("podnet/config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    assert_eq!(config["registerToldApart"], true, "learned facts outlive the pods");
}
