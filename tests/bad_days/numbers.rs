//! Port numbers that change hands while pods live: after a restart of ovs-vswitchd, or because
//! another interface's `ofport_request` takes one. Flows are never adapted: they mean the
//! number.

use super::{
    PodWithFlows, hasty_node, must_have, only, our_del, settle, still_there, sweep, sweep_finishes,
    tombstones,
};
use crate::rig::{Flows, Node, Port, eventually, layouts};
use serde_json::json;

fn ofport(node: &Node, pod: &PodWithFlows) -> u16 {
    node.ofport(&pod.port)
}

/// Restarts ovs-vswitchd and gives these pods these numbers.
fn restart_with(node: &Node, numbers: &[(&PodWithFlows, u16)]) {
    node.vswitchd.stop();
    for (pod, number) in numbers {
        let request = format!("ofport_request={number}");
        node.ovs_vsctl(&["set", "Interface", &pod.port, &request]);
    }
    node.restart_vswitchd(Flows::Lost);
    for (pod, number) in numbers {
        eventually("it has its number", || ofport(node, pod) == *number);
    }
}

/// What a controller that knows a pod's number of now wants on the bridge.
fn renewed(pod: &PodWithFlows, number: u16) -> Vec<String> {
    let mut who = pod.who(pod.reg);
    who.ofport = number;
    layouts::classifier(&who)
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Del,
    Orphan,
}

const ENDS: [End; 2] = [End::Del, End::Orphan];

fn end(node: &Node, pod: &PodWithFlows, how: End) {
    match how {
        End::Del => node.del(pod),
        End::Orphan => {
            node.vanish(pod, Port::Gone);
            sweep(node);
        }
    }
}

/// Entries that belong to a pod whatever its number is: its addresses, its register value.
fn without_port(pod: &PodWithFlows) -> Vec<String> {
    let named = [format!("in_port={}", pod.ofport), format!("output:{}", pod.ofport)];
    let of_port = |flow: &&String| !named.iter().any(|name| flow.contains(name));
    pod.flows.iter().filter(of_port).cloned().collect()
}

#[test]
fn restarted_with_other_numbers_and_the_controller_knows() {
    for (how, swept) in ENDS.into_iter().flat_map(|how| [(how, false), (how, true)]) {
        let node = hasty_node("restarted_with_other_numbers", 5000);
        let (base, [web, db]) = settle(&node, ["web", "db"]);
        // Whether or not the timer's sweep has seen who is who: what the controller has made
        // since shows it, too.
        if swept {
            sweep(&node);
        }
        // New numbers for both: nobody's before.
        restart_with(&node, &[(&web, 41), (&db, 42)]);
        let db_now = renewed(&db, 42);
        node.add_flows("br0", &[base.clone(), renewed(&web, 41), db_now.clone()].concat());
        sweep(&node);
        only(&node, &[&base, &renewed(&web, 41), &db_now]);
        end(&node, &web, how);
        only(&node, &[&base, &db_now]);
        node.must_reach(&db, &db.ip);
    }
}

/// The two pods' numbers are exchanged: what the record says is the other one's now.
#[test]
fn restarted_with_numbers_exchanged_and_the_controller_knows() {
    for (how, swept) in ENDS.into_iter().flat_map(|how| [(how, false), (how, true)]) {
        let node = hasty_node("restarted_with_numbers_exchanged", 5000);
        let (base, [web, db, cache]) = settle(&node, ["web", "db", "cache"]);
        // Whether or not the timer's sweep has seen who is who.
        if swept {
            sweep(&node);
        }
        restart_with(&node, &[(&web, db.ofport), (&db, web.ofport)]);
        let (web_now, db_now) = (renewed(&web, db.ofport), renewed(&db, web.ofport));
        node.add_flows("br0", &[&base[..], &web_now, &db_now, &cache.flows].concat());
        sweep(&node);
        only(&node, &[&base, &web_now, &db_now, &cache.flows]);
        node.must_reach(&web, &db.ip);
        end(&node, &web, how);
        only(&node, &[&base, &db_now, &cache.flows]);
        node.must_reach(&db, &cache.ip);
    }
}

/// Entries restored as they were, with the numbers of before, and nobody has adapted them yet.
/// A live pod loses at most what matches or delivers to the dead pod's number of now.
#[test]
fn restarted_with_numbers_exchanged_and_the_old_entries() {
    for (how, swept) in ENDS.into_iter().flat_map(|how| [(how, false), (how, true)]) {
        let node = hasty_node("restarted_with_numbers_exchanged_old_entries", 5000);
        let (base, [web, db, cache]) = settle(&node, ["web", "db", "cache"]);
        if swept {
            sweep(&node);
        }
        let all = node.dump("br0");
        restart_with(&node, &[(&web, db.ofport), (&db, web.ofport)]);
        node.add_flows("br0", &all);
        if swept {
            sweep(&node);
        }
        only(&node, &[&all]);
        end(&node, &web, how);
        must_have(&node, &base);
        must_have(&node, &cache.flows);
        must_have(&node, &without_port(&db));

        // The controller adapts the entries: all is well, also after another sweep.
        let db_now = renewed(&db, web.ofport);
        node.add_flows("br0", &db_now);
        sweep(&node);
        must_have(&node, &[&base[..], &db_now, &cache.flows].concat());
        node.must_reach(&db, &cache.ip);
    }
}

/// Entries restored with numbers that nobody has any more: the record explains them.
#[test]
fn restarted_with_other_numbers_and_the_old_entries() {
    for how in ENDS {
        let node = hasty_node("restarted_with_other_numbers_old_entries", 5000);
        node.configure(json!({"reapDangling": true}));
        let (base, [web, db]) = settle(&node, ["web", "db"]);
        sweep(&node);
        let all = node.dump("br0");
        restart_with(&node, &[(&web, 41), (&db, 42)]);
        node.add_flows("br0", &all);
        // Both live: nothing goes, though no port has these numbers.
        sweep(&node);
        only(&node, &[&all]);
        end(&node, &web, how);
        only(&node, &[&base, &db.flows]);
    }
}

/// db asks for web's number and gets it at once; web is moved, in the same row.
#[test]
fn a_request_takes_a_live_pods_number() {
    for (first, how) in [("db", End::Del), ("web", End::Del), ("web", End::Orphan)] {
        let node = hasty_node("a_request_takes_a_live_pods_number", 5000);
        let (base, [web, db, cache]) = settle(&node, ["web", "db", "cache"]);
        sweep(&node);
        let row = node.ovs_vsctl(&["get", "Interface", &web.port, "_uuid"]);
        let request = format!("ofport_request={}", web.ofport);
        node.ovs_vsctl(&["set", "Interface", &db.port, &request]);
        eventually("db has web's number", || ofport(&node, &db) == web.ofport);
        eventually("web has another", || ofport(&node, &web) != web.ofport);
        assert_eq!(node.ovs_vsctl(&["get", "Interface", &web.port, "_uuid"]), row);
        let moved = ofport(&node, &web);

        // Nothing is adapted yet: nobody is dead, nothing goes.
        sweep(&node);
        only(&node, &[&base, &web.flows, &db.flows, &cache.flows]);

        // The controller adapts what it finds.
        node.ofctl(&["del-flows", "br0"]);
        let (web_now, db_now) = (renewed(&web, moved), renewed(&db, web.ofport));
        node.add_flows("br0", &[&base[..], &web_now, &db_now, &cache.flows].concat());
        sweep(&node);
        let (dies, lives) = if first == "db" { (&db, &web_now) } else { (&web, &db_now) };
        end(&node, dies, how);
        only(&node, &[&base, lives, &cache.flows]);
    }
}

/// As above, and a pod ends before the controller has adapted anything.
#[test]
fn a_request_takes_a_live_pods_number_and_it_ends_at_once() {
    for swept in [true, false] {
        let node = hasty_node("a_request_takes_a_number_and_it_ends", 5000);
        let (base, [web, db, cache]) = settle(&node, ["web", "db", "cache"]);
        if swept {
            sweep(&node);
        }
        node.ovs_vsctl(&["set", "Interface", &db.port, &format!("ofport_request={}", web.ofport)]);
        eventually("db has web's number", || ofport(&node, &db) == web.ofport);
        eventually("web has another", || ofport(&node, &web) != web.ofport);
        our_del(&node, &web).ok();
        must_have(&node, &base);
        must_have(&node, &cache.flows);
        must_have(&node, &without_port(&db));
        // What pairs web's own address with its number of before was never db's.
        let paired = |flow: &&String| flow.contains("in_port=1,") && flow.contains(&web.ip);
        let web_only: Vec<_> = web.flows.iter().filter(paired).cloned().collect();
        assert_eq!((web.ofport, web_only.len()), (1, 2));
        assert_eq!(still_there(&node, &web_only), [""; 0]);
    }
}

/// DEL found the switch hung; then ovs-vswitchd was restarted and everything was put back:
/// dead pods' entries look younger than their death.
#[test]
fn entries_restored_in_bulk() {
    let node = hasty_node("entries_restored_in_bulk", 500);
    let (base, [web, db, cache]) = settle(&node, ["web", "db", "cache"]);
    node.vswitchd.pause();
    our_del(&node, &web).ok();
    assert_eq!(tombstones(&node).len(), 1);
    node.vanish(&web, Port::Gone);
    node.vswitchd.resume();
    node.restart_vswitchd(Flows::Restored);
    only(&node, &[&base, &web.flows, &db.flows, &cache.flows]);
    sweep_finishes(&node);
    only(&node, &[&base, &db.flows, &cache.flows]);
    // The same for one that dies after the restart, with the numbers of before.
    node.vanish(&cache, Port::Gone);
    sweep_finishes(&node);
    only(&node, &[&base, &db.flows]);
    node.must_reach(&db, &db.ip);
}
