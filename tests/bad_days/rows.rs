//! Rows of OVSDB that are replaced, gone, or of no use.

use super::rig::{Flows, Node, Port, Setup, eventually, layouts};
use super::{
    SMALL, Tenant, del_gives_up, hasty_node, list, must_have, only, our_del, record_of, settle,
    still_there, sweep, sweep_finishes, tombstones,
};
use serde_json::json;

fn row(node: &Node, port: &str) -> String {
    node.ovs_vsctl(&["get", "Interface", port, "_uuid"])
}

fn ofport(node: &Node, port: &str) -> String {
    node.ovs_vsctl(&["get", "Interface", port, "ofport"])
}

/// The arguments that put a port back: its name, its marks if they are kept, its number.
fn add_port_again(node: &Node, pod: &Tenant, marks: bool, number: u16) -> Vec<String> {
    let port = &pod.port;
    let mut args = vec!["--".to_owned(), "add-port".to_owned(), "br0".to_owned(), port.clone()];
    if marks {
        let ids = node.ovs_vsctl(&["get", "Port", port, "external_ids"]);
        args.extend(["--", "set", "Port", port].map(str::to_owned));
        args.push(format!("external_ids={ids}"));
    }
    args.extend(["--", "set", "Interface", port].map(str::to_owned));
    args.push(format!("ofport_request={number}"));
    args
}

/// del-port and add-port in one transaction: the same name is a new row with a new number.
fn replace_row(node: &Node, pod: &Tenant, marks: bool, number: u16) {
    let before = row(node, &pod.port);
    let mut args = vec!["del-port".to_owned(), pod.port.clone()];
    args.extend(add_port_again(node, pod, marks, number));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    node.ovs_vsctl(&args);
    assert_ne!(row(node, &pod.port), before, "another row");
    eventually("it has its number", || ofport(node, &pod.port) == number.to_string());
}

#[test]
fn a_live_pods_row_replaced_in_one_transaction() {
    for marks in [true, false] {
        let node = Setup::new()
            .gc_conf(json!({"lingerSeconds": 60, "reapDangling": true}))
            .up("a_live_pods_row_replaced_in_one_transaction");
        let (base, [web, db, cache]) = settle(&node, ["web", "db", "cache"]);
        // The timer's sweep has seen who is who: a changed number teaches nothing.
        sweep(&node);
        replace_row(&node, &web, marks, 40);
        // Its controller has not noticed yet: nothing of it goes, whoever dies.
        sweep(&node);
        only(&node, &[&base, &web.flows, &db.flows, &cache.flows]);
        node.del(&db);
        only(&node, &[&base, &web.flows, &cache.flows]);

        // Now it has, and what named the old number is still there.
        let mut who = web.who(web.reg);
        who.ofport = 40;
        let renewed = layouts::classifier(&who);
        node.add_flows("br0", &renewed);
        let old: Vec<_> = web.flows.iter().filter(|f| f.contains("in_port")).cloned().collect();
        sweep(&node);
        only(&node, &[&base, &renewed, &old, &cache.flows]);
        node.must_reach(&web, &cache.ip);

        // Its own end takes both numbers' entries. Without its marks nobody can say at DEL that
        // the new row is its own: what names the new number goes once the port has gone.
        our_del(&node, &web).ok();
        if marks {
            only(&node, &[&base, &cache.flows]);
        } else {
            assert_eq!(still_there(&node, &old), [""; 0]);
            must_have(&node, &cache.flows);
        }
        node.del(&web);
        sweep(&node);
        // What loaded web's value from a port that is nobody's kept it in doubt until now.
        sweep(&node);
        only(&node, &[&base, &cache.flows]);
    }
}

/// openshift/origin #18634: del-br and add-br in one transaction keep the flows.
#[test]
fn a_bridge_replaced_in_one_transaction_keeps_its_flows() {
    let node = hasty_node("a_bridge_replaced_in_one_transaction", 5000);
    let (base, [web, db, cache]) = settle(&node, ["web", "db", "cache"]);
    // The timer's sweep has seen who is who.
    sweep(&node);
    node.vanish(&web, Port::Stays);
    let mut args: Vec<String> =
        ["del-br", "br0", "--", "add-br", "br0", "--", "set", "Bridge", "br0"]
            .map(str::to_owned)
            .to_vec();
    args.extend(["datapath_type=netdev", "fail_mode=secure"].map(str::to_owned));
    // One pod's port is put back with it, the other's is not.
    args.extend(add_port_again(&node, &db, true, db.ofport));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    node.ovs_vsctl(&args);
    assert_eq!(node.ports("br0"), [db.port.as_str()]);
    only(&node, &[&base, &web.flows, &db.flows, &cache.flows]);

    // The loss of a row kills the port, not the pod.
    sweep_finishes(&node);
    only(&node, &[&base, &db.flows, &cache.flows]);
    // Nor are a live pod's entries dangling: its record explains them.
    node.configure(json!({"reapDangling": true}));
    let next = super::tenant(&node, node.run_pod("brings-the-new-configuration"), 0x1009);
    let report = sweep(&node);
    only(&node, &[&base, &db.flows, &cache.flows, &next.flows]);
    assert_eq!(report["bridges"][0]["dangling"], 0, "{report:#}");

    for pod in [&db, &cache, &next] {
        node.del(pod);
    }
    only(&node, &[&base]);
}

#[test]
fn a_bridge_that_is_gone_ends_its_tombstones() {
    let node = hasty_node("a_bridge_that_is_gone", 500);
    node.configure(json!({"lingerSeconds": 60}));
    let (_, [web, db, cache]) = settle(&node, ["web", "db", "cache"]);
    node.vswitchd.pause();
    del_gives_up(&node, &web, std::time::Duration::from_millis(500) + SMALL);
    // As long as the database does not answer, the bridge is not gone.
    node.ovsdb.pause();
    let swept = node.admin(&["sweep", "--timeout", "1"]);
    assert!(!swept.succeeded(), "{swept}");
    node.ovsdb.resume();
    assert_eq!(tombstones(&node).len(), 1);
    node.vswitchd.resume();

    node.ovs_vsctl(&["del-br", "br0"]);
    node.vanish(&db, Port::Gone);
    let swept = sweep(&node);
    assert!(swept["notes"].to_string().contains("its bridge is gone"), "{swept:#}");
    // Nothing to watch for: not even the linger time counts.
    let left = list(&node);
    assert_eq!(left.len(), 1, "{left:#?}");
    assert_eq!(record_of(&node, &cache)["state"], "active");
    our_del(&node, &cache).ok();
    sweep_finishes(&node);
}

/// antrea #276: a crash leaves a port row with "could not open network device", ofport −1.
#[test]
fn a_crash_leaves_a_row_without_a_number() {
    let node = Setup::new()
        .gc_conf(json!({"lingerSeconds": 0, "reapPorts": true, "reapDangling": true}))
        .up("a_crash_leaves_a_row_without_a_number");
    let (base, [web, db, cache]) = settle(&node, ["web", "db", "cache"]);
    let all = node.dump("br0");
    node.vswitchd.kill();
    node.vanish(&web, Port::Stays);
    // The device of a live pod is not there either; nobody called its end.
    node.run("ip", &["link", "del", &cache.port]).ok();
    node.restart_vswitchd(Flows::Lost);
    node.add_flows("br0", &all);
    for port in [&web.port, &cache.port] {
        eventually("the device cannot be opened", || ofport(&node, port) == "-1");
    }

    sweep_finishes(&node);
    only(&node, &[&base, &db.flows, &cache.flows]);
    let mut left = [db.port.clone(), cache.port.clone()];
    left.sort();
    assert_eq!(node.ports("br0"), left, "the orphan's row is gone, the live pod's is not");

    // The next pod is given the dead pod's number.
    let next = super::tenant(&node, node.run_pod("next"), 0x1009);
    assert_eq!(next.ofport, web.ofport);
    sweep(&node);
    only(&node, &[&base, &db.flows, &cache.flows, &next.flows]);
    node.must_reach(&next, &db.ip);
    node.del(&cache);
    only(&node, &[&base, &db.flows, &next.flows]);
}
