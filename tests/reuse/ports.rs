//! A port number that somebody else has now.

use serde_json::json;

use super::town::Town;
use crate::lifecycle::crowd::sweep;
use crate::rig::{Flows, Port, sleep_ms};

/// antrea #430, #434: the late DEL of a pod whose number OVS has given to another one.
#[test]
fn a_late_del_spares_the_new_owner_of_the_number() {
    let mut town = Town::new("a_late_del", json!({}), &["web", "db"]);
    let db = town.pods[1].clone();
    town.node.vanish(&db, Port::Gone);
    let next = town.run_on("next", db.ofport);
    let next = town.welcome(next);
    town.node.must_reach(&town.pods[0], &town.pods[next].ip);

    town.node.try_del(&db).unwrap();

    for flow in &town.flows[next] {
        assert!(town.node.dump("br0").contains(flow), "{flow}");
    }
    town.node.must_reach(&town.pods[0], &town.pods[next].ip);
    town.node.must_reach(&town.pods[next], &town.pods[0].ip6);
    sweep(&town.node, &[]);
    town.node.must_reach(&town.pods[0], &town.pods[next].ip);
}

/// The same when nobody was in the way of the leftovers at ADD, and a sweep was before.
#[test]
fn the_dead_pod_was_swept_first() {
    let mut town = Town::quick("was_swept_first", json!({}), &["web", "db"]);
    let db = town.pods[1].clone();
    town.node.vanish(&db, Port::Gone);
    sweep(&town.node, &[]);
    town.assert_left(&[0], &[]);
    let next = town.run_on("next", db.ofport);
    town.welcome(next);
    town.node.try_del(&db).unwrap();
    town.assert_left(&[0, 2], &[]);
    sweep(&town.node, &[]);
    town.assert_left(&[0, 2], &[]);
}

/// The record is gone, too: DEL has nothing but OVSDB, and there the number is another's.
#[test]
fn a_late_del_without_a_record() {
    let mut town = Town::quick("a_late_del_without_a_record", json!({}), &["web", "db"]);
    let db = town.pods[1].clone();
    town.node.vanish(&db, Port::Gone);
    let next = town.run_on("next", db.ofport);
    town.welcome(next);
    std::fs::remove_dir_all(town.node.state_dir.join("podnet/dead")).unwrap();
    town.node.try_del(&db).unwrap();
    for flow in &town.flows[2] {
        assert!(town.node.dump("br0").contains(flow), "{flow}");
    }
}

/// ovs-vswitchd counts anew after a restart, and a controller or ovs-ctl puts every entry
/// back at once: their age proves nothing.
#[test]
fn numbers_are_given_anew_after_a_restart() {
    let mut town = Town::quick("given_anew", json!({}), &["db", "web", "cache"]);
    sweep(&town.node, &[]);
    let db = town.pods[0].clone();
    town.node.vanish(&db, Port::Gone);
    town.node.restart_vswitchd(Flows::Restored);
    // Ages are told apart from 10 ms on.
    sleep_ms(50);
    let next = town.node.run_pod("next");
    assert_eq!(next.ofport, db.ofport, "the lowest that is free");
    town.welcome(next);
    town.node.try_del(&db).unwrap();
    sweep(&town.node, &[]);
    town.assert_left(&[1, 2, 3], &[]);
    town.node.del(&town.pods[3]);
    town.assert_left(&[1, 2], &[]);
}

/// The new owner of the number is a port that nobody recorded.
#[test]
fn the_number_of_an_unrecorded_port() {
    let town = Town::quick("the_number_of_an_unrecorded_port", json!({}), &["web", "db"]);
    let db = &town.pods[1];
    town.node.vanish(db, Port::Gone);
    let request = format!("ofport_request={}", db.ofport);
    town.node.ovs_vsctl(&[
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
    assert_eq!(town.node.ofport("uplink0"), db.ofport);
    let port = db.ofport;
    let uplinks = town.node.install(
        "br0",
        &[
            format!("table=0, priority=300,in_port={port} actions=NORMAL"),
            format!("table=40, priority=9,ip,nw_dst=192.0.2.9 actions=output:{port}"),
        ],
    );
    sweep(&town.node, &[]);
    for flow in &uplinks {
        assert!(town.node.dump("br0").contains(flow), "{flow}");
    }
}
