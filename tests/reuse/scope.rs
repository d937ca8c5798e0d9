//! How far a dead pod's address can be believed in, and whose bridge it is.

use serde_json::{Value, json};

use super::fixture::Fixture;
use crate::lifecycle::fixture::sweep;
use crate::rig::{Datapath, Port, Setup, layouts, sleep_ms};

/// IPAM may have given the address to another node since: a sweep keeps what rests on the
/// address alone, for good. A DEL comes before the address is free.
#[test]
fn addresses_of_the_whole_cluster() {
    let keys = json!({"addressScope": "cluster", "lingerSeconds": 0});
    let fixture = Fixture::quick("of_the_whole_cluster", keys, &["web", "db", "cache"]);
    let by_address = |pod: usize| {
        let (ip, ip6) = (&fixture.pods[pod].ip, &fixture.pods[pod].ip6);
        vec![
            format!("table=50, priority=9,ip,nw_src={ip} actions=goto_table:60"),
            format!("table=50, priority=9,ip,nw_dst={ip} actions=drop"),
            format!("table=50, priority=9,ipv6,ipv6_src={ip6} actions=drop"),
            format!("table=50, priority=9,arp,arp_tpa={ip} actions=goto_table:60"),
        ]
    };
    let of_web = fixture.node.install("br0", &by_address(0));
    let of_db = fixture.node.install("br0", &by_address(1));
    assert_eq!(of_web.len(), 4);
    // Addresses of connections are addresses, too.
    let connections = fixture.flows[1].iter().filter(|flow| flow.contains("ct_nw_")).cloned();
    let stay: Vec<String> = connections.chain(of_db).collect();

    fixture.node.vanish(&fixture.pods[1], Port::Gone);
    let answer = sweep(&fixture.node, &["--details"]);
    fixture.assert_left(&[0, 2], &[stay.clone(), of_web.clone()].concat());
    assert_eq!(answer["targets"][0]["kept"]["may-live-elsewhere"], 6, "{answer:#}");

    fixture.node.del(&fixture.pods[0]);
    fixture.assert_left(&[2], &stay);
    sweep(&fixture.node, &[]);
    fixture.assert_left(&[2], &stay);
}

/// DEL could not finish. The sweep that goes on with it comes when the address may have been
/// given away.
#[test]
fn a_del_that_a_sweep_finishes() {
    let keys = json!({"ipScope": "cluster", "timeoutMs": 300});
    let fixture = Fixture::quick("that_a_sweep_finishes", keys, &["web", "db"]);
    let db = &fixture.pods[1];
    let by_address = fixture
        .node
        .install("br0", &[format!("table=50, priority=9,ip,nw_src={} actions=drop", db.ip)]);
    fixture.node.vswitchd.pause();
    fixture.node.del(db);
    fixture.node.vswitchd.resume();
    let connections: Vec<_> =
        fixture.flows[1].iter().filter(|flow| flow.contains("ct_nw_")).cloned().collect();
    sweep(&fixture.node, &[]);
    fixture.assert_left(&[0], &[by_address, connections].concat());
}

/// A virtual machine has moved to another node: the pod that it ran in here ends, and the entries
/// that show the way to it by NORMAL, by a group or on through the pipeline are the only ones.
#[test]
fn a_virtual_machine_that_has_migrated() {
    let names = ["virt-launcher-db-x7x2k", "web"];
    let fixture = Fixture::quick(
        "that_has_migrated",
        // The machine's pod is of no ReplicaSet.
        json!({"lingerSeconds": 0, "reg0": "pod"}),
        &names,
    );
    fixture.node.ofctl(&["add-group", "br0", "group_id=7,type=indirect,bucket=output:1"]);
    let to = |pod: usize| {
        let (mac, ip) = (&fixture.pods[pod].mac, &fixture.pods[pod].ip);
        [
            format!("table=50, priority=9,dl_dst={mac} actions=NORMAL"),
            format!("table=51, priority=9,dl_dst={mac} actions=group:7"),
            format!("table=52, priority=9,dl_dst={mac} actions=goto_table:60"),
            format!("table=52, priority=9,ip,nw_dst={ip} actions=FLOOD"),
        ]
    };
    let mut machines = fixture.node.install("br0", &to(0));
    let of_web = fixture.node.install("br0", &to(1));
    // Whatever is of its port here goes.
    machines.extend(fixture.flows[0].iter().filter(|flow| flow.contains("ct_nw_")).cloned());
    for _ in 0..2 {
        fixture.node.try_del(&fixture.pods[0]).unwrap();
        fixture.assert_left(&[1], &[machines.clone(), of_web.clone()].concat());
    }
    fixture.node.kill_sandbox(&fixture.pods[0]);
    sweep(&fixture.node, &[]);
    fixture.assert_left(&[1], &[machines.clone(), of_web.clone()].concat());
    // A pod that is none leaves only what a group does with its address.
    fixture.node.del(&fixture.pods[1]);
    machines.extend(of_web.into_iter().filter(|flow| flow.contains("group")));
    fixture.assert_left(&[], &machines);
}

/// A bridge that ovn-controller runs is not ours to judge. Its chassis may be named on its
/// command line only, and an old conflist may still insist.
#[test]
fn a_bridge_that_ovn_controller_runs() {
    let fixture = Fixture::quick("that_ovn_controller_runs", json!({}), &["web", "db", "cache"]);
    for id in ["ovn-remote-hv1=\"tcp:192.0.2.1:6642\"", "ovn-bridge-hv1=br0"] {
        fixture.node.ovs_vsctl(&["set", "Open_vSwitch", ".", &format!("external_ids:{id}")]);
    }
    fixture.node.del(&fixture.pods[0]);
    fixture.assert_left(&[0, 1, 2], &[]);
    fixture.node.vanish(&fixture.pods[1], Port::Gone);
    let answer = sweep(&fixture.node, &[]);
    fixture.assert_left(&[0, 1, 2], &[]);
    let notes = answer["notes"].to_string();
    assert!(notes.contains("br0") && notes.contains("ovn-controller"), "{notes}");
    assert_eq!(answer["targets"][0]["ovn"], true, "{answer:#}");
    for command in [&["sweep"][..], &["list"], &["explain", &fixture.pods[2].name]] {
        let text = fixture.node.admin(command).stdout;
        assert!(text.contains("OVN's, not judged"), "{command:?}: {text}");
        assert!(!text.contains("clean") && !text.contains("no flow mentions"), "{text}");
    }

    fixture.node.configure(json!({"force": true}));
    let extra = fixture.node.pod("extra");
    let conf = fixture.node.plugin_conf("ovs-flow-gc", Some(&extra), Some(&fixture.pods[2].result));
    let added = fixture.node.call("ovs-flow-gc", "ADD").pod(&extra).conf(&conf).run();
    assert!(added.succeeded() && added.stderr.contains("\"force\""), "{added}");
    fixture.node.try_del(&fixture.pods[0]).unwrap();
    fixture.node.try_del(&extra).unwrap();
    sweep(&fixture.node, &[]);
    fixture.assert_left(&[0, 1, 2], &[]);
}

/// ovn-controller runs another bridge of the node, or none.
#[test]
fn a_bridge_beside_ovns() {
    let fixture = Fixture::quick("beside_ovns", json!({}), &["web", "db"]);
    fixture.node.ovs_vsctl(&[
        "set",
        "Open_vSwitch",
        ".",
        "external_ids:ovn-remote=\"unix:/run/x\"",
    ]);
    fixture.node.del(&fixture.pods[0]);
    fixture.assert_left(&[1], &[]);
}

fn dangling(answer: &Value) -> u64 {
    answer["bridges"][0]["dangling"].as_u64().unwrap()
}

/// Entries for a port that OVSDB does not have and no record explains: told, not touched.
#[test]
fn dangling_entries_are_reported() {
    let fixture = Fixture::quick("are_reported", json!({"lingerSeconds": 0}), &["web"]);
    let lost = fixture.node.install(
        "br0",
        &[
            "table=50, priority=9,in_port=777 actions=goto_table:60",
            "table=50, priority=9,ip,nw_dst=192.0.2.8 actions=output:777",
        ],
    );
    let answer = sweep(&fixture.node, &["--details"]);
    assert_eq!(dangling(&answer), 2);
    let told = answer["flows"].as_array().unwrap().iter().filter(|f| f["reason"] == "dangling");
    assert_eq!(told.count(), 2, "{answer:#}");
    fixture.assert_left(&[0], &lost);
    let text = fixture.node.admin(&["sweep"]).ok();
    assert!(text.contains("2 dangling") && text.contains("reapDangling"), "{text}");
    // A DEL that looks at the whole bridge leaves them, too.
    fixture.node.del(&fixture.pods[0]);
    sweep(&fixture.node, &[]);
    assert!(lost.iter().all(|flow| fixture.node.dump("br0").contains(flow)));
}

/// On request, those that match on the port go, and those that do nothing but output to it.
#[test]
fn dangling_entries_are_deleted_on_request() {
    let keys = json!({"reapDangling": true, "lingerSeconds": 0});
    let fixture = Fixture::quick("deleted_on_request", keys, &["web"]);
    let nobodys = fixture.node.install(
        "br0",
        &[
            "table=50, priority=9,in_port=777 actions=drop",
            "table=50, priority=9,ip,nw_dst=192.0.2.8 actions=output:777",
        ],
    );
    let kept = fixture.node.install(
        "br0",
        &[
            "table=50, priority=9,ip,nw_dst=192.0.2.9 actions=output:777,resubmit(,60)".to_owned(),
            "table=50, priority=8,in_port=LOCAL actions=NORMAL".to_owned(),
            format!(
                "table=50, priority=8,dl_dst=ff:ff:ff:ff:ff:ff actions=output:777,output:{}",
                fixture.pods[0].ofport
            ),
        ],
    );
    sweep(&fixture.node, &["--dry-run"]);
    fixture.assert_left(&[0], &[nobodys, kept.clone()].concat());
    sweep(&fixture.node, &[]);
    fixture.assert_left(&[0], &kept);
}

/// An uplink whose device is missing for a moment has no number, and asks for its own again.
#[test]
fn what_a_row_asks_for_does_not_dangle() {
    let keys = json!({"reapDangling": true, "lingerSeconds": 0});
    let fixture = Fixture::new("a_row_asks", keys, &["web"]);
    let uplink = ["--", "set", "Interface", "gone9", "ofport_request=777"];
    fixture.node.ovs_vsctl(&[&["add-port", "br0", "gone9"], &uplink[..]].concat());
    assert_eq!(fixture.node.ovs_vsctl(&["get", "Interface", "gone9", "ofport"]), "-1");
    let flows = |port: u16| {
        [
            format!("table=50, priority=9,in_port={port} actions=goto_table:60"),
            format!("table=50, priority=9,ip,nw_dst=192.0.2.{} actions=output:{port}", port % 100),
        ]
    };
    let its = fixture.node.install("br0", &flows(777));
    fixture.node.install("br0", &flows(778));
    let answer = sweep(&fixture.node, &[]);
    assert_eq!(dangling(&answer), 2);
    fixture.assert_left(&[0], &its);
    fixture.node.ovs_vsctl(&["del-port", "br0", "gone9"]);
    assert_eq!(dangling(&sweep(&fixture.node, &[])), 2);
    fixture.assert_left(&[0], &[]);
}

/// A port that waits for its number may be given any: nothing dangles meanwhile.
#[test]
fn nothing_dangles_while_a_port_waits_for_its_number() {
    let keys = json!({"reapDangling": true, "lingerSeconds": 0});
    let node = Setup::new().datapath(Datapath::Dummy).gc_conf(keys).up("while_a_port_waits");
    let web = node.run_pod("web");
    let mut left = node.install("br0", &layouts::classifier(&web.who(0x1001)));
    left.extend(node.install("br0", &["table=50, priority=9,in_port=777 actions=drop"]));
    left.sort();
    node.vswitchd.pause();
    node.ovs_vsctl(&[
        "add-port",
        "br0",
        "tap9",
        "--",
        "set",
        "Interface",
        "tap9",
        "ofport_request=777",
        "type=internal",
    ]);
    // The switch comes back while the sweep waits for it, busy with many things.
    let sweeping = node.start_admin(&["sweep", "--json"]);
    sleep_ms(100);
    node.vswitchd.resume();
    sweeping.wait();
    assert_eq!(node.ofport("tap9"), 777);
    assert_eq!(node.dump("br0"), left);
}
