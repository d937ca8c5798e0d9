//! A port number that somebody else has now.

use serde_json::json;

use super::fixture::Fixture;
use crate::lifecycle::fixture::sweep;
use crate::rig::{Flows, Port, sleep_ms};

/// antrea #430, #434: the late DEL of a pod whose number OVS has given to another one.
#[test]
fn a_late_del_spares_the_new_owner_of_the_number() {
    let mut fixture = Fixture::new("a_late_del", json!({}), &["web", "db"]);
    let db = fixture.pods[1].clone();
    fixture.node.vanish(&db, Port::Gone);
    let next = fixture.run_on("next", db.ofport);
    let next = fixture.install(next);
    fixture.node.must_reach(&fixture.pods[0], &fixture.pods[next].ip);

    fixture.node.try_del(&db).unwrap();

    for flow in &fixture.flows[next] {
        assert!(fixture.node.dump("br0").contains(flow), "{flow}");
    }
    fixture.node.must_reach(&fixture.pods[0], &fixture.pods[next].ip);
    fixture.node.must_reach(&fixture.pods[next], &fixture.pods[0].ip6);
    sweep(&fixture.node, &[]);
    fixture.node.must_reach(&fixture.pods[0], &fixture.pods[next].ip);
}

/// The same when nobody was in the way of the leftovers at ADD, and a sweep was before.
#[test]
fn the_dead_pod_was_swept_first() {
    let mut fixture = Fixture::quick("was_swept_first", json!({}), &["web", "db"]);
    let db = fixture.pods[1].clone();
    fixture.node.vanish(&db, Port::Gone);
    sweep(&fixture.node, &[]);
    fixture.assert_left(&[0], &[]);
    let next = fixture.run_on("next", db.ofport);
    fixture.install(next);
    fixture.node.try_del(&db).unwrap();
    fixture.assert_left(&[0, 2], &[]);
    sweep(&fixture.node, &[]);
    fixture.assert_left(&[0, 2], &[]);
}

/// The record is gone, too: DEL has nothing but OVSDB, and there the number is another's.
#[test]
fn a_late_del_without_a_record() {
    let mut fixture = Fixture::quick("a_late_del_without_a_record", json!({}), &["web", "db"]);
    let db = fixture.pods[1].clone();
    fixture.node.vanish(&db, Port::Gone);
    let next = fixture.run_on("next", db.ofport);
    fixture.install(next);
    std::fs::remove_dir_all(fixture.node.state_dir.join("podnet/dead")).unwrap();
    fixture.node.try_del(&db).unwrap();
    for flow in &fixture.flows[2] {
        assert!(fixture.node.dump("br0").contains(flow), "{flow}");
    }
}

/// ovs-vswitchd counts anew after a restart, and a controller or ovs-ctl puts every entry
/// back at once: their age proves nothing.
#[test]
fn numbers_are_given_anew_after_a_restart() {
    let mut fixture = Fixture::quick("given_anew", json!({}), &["db", "web", "cache"]);
    sweep(&fixture.node, &[]);
    let db = fixture.pods[0].clone();
    fixture.node.vanish(&db, Port::Gone);
    fixture.node.restart_vswitchd(Flows::Restored);
    // Ages are told apart from 10 ms on.
    sleep_ms(50);
    let next = fixture.node.run_pod("next");
    assert_eq!(next.ofport, db.ofport, "the lowest that is free");
    fixture.install(next);
    fixture.node.try_del(&db).unwrap();
    sweep(&fixture.node, &[]);
    fixture.assert_left(&[1, 2, 3], &[]);
    fixture.node.del(&fixture.pods[3]);
    fixture.assert_left(&[1, 2], &[]);
}

/// The new owner of the number is a port that nobody recorded.
#[test]
fn the_number_of_an_unrecorded_port() {
    let fixture = Fixture::quick("the_number_of_an_unrecorded_port", json!({}), &["web", "db"]);
    let db = &fixture.pods[1];
    fixture.node.vanish(db, Port::Gone);
    let request = format!("ofport_request={}", db.ofport);
    fixture.node.ovs_vsctl(&[
        "add-port",
        "br0",
        "uplink0",
        "--",
        "set",
        "Interface",
        "uplink0",
        "type=internal",
        &request,
    ]);
    assert_eq!(fixture.node.ofport("uplink0"), db.ofport);
    let port = db.ofport;
    let uplinks = fixture.node.install(
        "br0",
        &[
            format!("table=0, priority=300,in_port={port} actions=NORMAL"),
            format!("table=40, priority=9,ip,nw_dst=192.0.2.9 actions=output:{port}"),
        ],
    );
    sweep(&fixture.node, &[]);
    for flow in &uplinks {
        assert!(fixture.node.dump("br0").contains(flow), "{flow}");
    }
}
