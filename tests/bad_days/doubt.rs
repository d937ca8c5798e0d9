//! Deaths that are none, deaths that are too many, and names that are used twice.

use super::{
    PodWithFlows, hasty_node, list, must_have, only, our_del, record_of, settle, still_there,
    sweep, sweep_finishes, tombstones, with_flows,
};
use crate::rig::{Attached, Datapath, Node, Outcome, Port, Setup, pod_name};
use serde_json::json;

/// A sweep in a mount namespace of its own, after `mounts`.
#[track_caller]
fn sweep_behind(node: &Node, mounts: &str) -> Outcome {
    let (gc, state) = (node.plugin("ovs-flow-gc"), &node.state_dir);
    let script =
        format!("{mounts}\nexec {} sweep --json --state-dir {}", gc.display(), state.display());
    node.run("unshare", &["--mount", "--propagation", "private", "sh", "-ec", &script])
}

#[test]
fn a_namespace_directory_that_cannot_be_seen_is_no_death() {
    let node = hasty_node("a_namespace_directory_that_cannot_be_seen", 5000);
    let (base, [web, db]) = settle(&node, ["web", "db"]);
    let empty = node.dir.join("empty");
    std::fs::create_dir(&empty).unwrap();
    let empty = empty.display();
    for (what, mounts) in [
        ("another directory in its place", format!("mount --bind {empty} /run/netns")),
        ("a tmpfs over it", "mount -t tmpfs tmpfs /run/netns".to_owned()),
        ("unmounted, with what is above it", "mount -t tmpfs tmpfs /run".to_owned()),
        (
            "plain files, as a container without mount propagation sees them",
            format!("umount /run/netns/{}\numount /run/netns/{}", web.netns, db.netns),
        ),
        ("the whole mount taken away", "umount -l /run/netns || umount -l /run/netns/*".to_owned()),
    ] {
        let swept = sweep_behind(&node, &mounts);
        assert!(swept.succeeded(), "{what}: {swept}");
        assert_eq!(swept.json()["dead"], 0, "{what}: {swept}");
        only(&node, &[&base, &web.flows, &db.flows]);
        assert_eq!(tombstones(&node).len(), 0, "{what}");
    }
}

/// Where the directory is the one that ADD saw, a file that is gone from it is a death also
/// for those who see plain files.
#[test]
fn a_death_shows_among_plain_files() {
    let node = hasty_node("a_death_shows_among_plain_files", 5000);
    let (base, [web, db]) = settle(&node, ["web", "db"]);
    node.vanish(&web, Port::Stays);
    let swept = sweep_behind(&node, &format!("umount /run/netns/{}", db.netns));
    assert!(swept.succeeded(), "{swept}");
    only(&node, &[&base, &db.flows]);
}

/// Many pods on the dummy datapath, each with its entries.
fn run_pods(node: &Node, size: u32) -> Vec<PodWithFlows> {
    (0..size).map(|n| with_flows(node, node.run_pod(&format!("p{n}")), 0x1000 + n)).collect()
}

fn dummy_node(test: &str) -> Node {
    Setup::new().datapath(Datapath::Dummy).gc_conf(json!({"lingerSeconds": 0})).up(test)
}

#[test]
fn more_than_half_of_a_full_node_gone_at_once_pulls_the_brake() {
    let node = dummy_node("the_brake");
    let pods = run_pods(&node, 20);
    let all = node.dump("br0");
    for pod in &pods[..11] {
        node.vanish(pod, Port::Stays);
    }
    for _ in 0..2 {
        let swept = node.admin(&["sweep", "--json"]);
        assert_eq!(swept.code, Some(3), "{swept}");
        let report = swept.json();
        assert_eq!((&report["braked"], &report["dead"]), (&json!(true), &json!(11)));
        assert_eq!(node.dump("br0"), all);
        assert!(tombstones(&node).is_empty());
    }
    let said = node.admin(&["sweep"]);
    assert!(
        said.stdout.contains("brake: 11 of 20") && said.stdout.contains("sweep --yes"),
        "{said}"
    );
    let dry = node.admin(&["sweep", "--dry-run", "--yes"]);
    assert_eq!(node.dump("br0"), all, "{dry}");

    let swept = node.admin(&["sweep", "--yes", "--json"]);
    assert!(swept.succeeded(), "{swept}");
    let left: Vec<_> = pods[11..].iter().flat_map(|pod| pod.flows.clone()).collect();
    only(&node, &[&left]);
    assert!(tombstones(&node).is_empty());
}

/// The brake holds back the word of one source, not that of the runtime: DELs go on, and so do
/// the tombstones that they left.
#[test]
fn the_brake_does_not_hold_back_dels() {
    let node = dummy_node("the_brake_does_not_hold_back_dels");
    let pods = run_pods(&node, 14);
    node.vswitchd.pause();
    node.configure(json!({"timeoutMs": 300}));
    our_del(&node, &pods[0]).ok();
    node.vswitchd.resume();
    for pod in &pods[..12] {
        node.vanish(pod, Port::Stays);
    }
    let swept = node.admin(&["sweep", "--json"]);
    assert_eq!(swept.code, Some(3), "{swept}");
    assert_eq!(still_there(&node, &pods[0].flows), [""; 0]);
    our_del(&node, &pods[1]).ok();
    assert_eq!(still_there(&node, &pods[1].flows), [""; 0]);
    for pod in &pods[2..] {
        must_have(&node, &pod.flows);
    }
    // Ten of twelve are left: a drained node is no emergency.
    assert_eq!(sweep(&node)["braked"], false);
    only(&node, &[&pods[12].flows, &pods[13].flows]);
}

/// antrea #827: two sandboxes can have one pod's name. The ADD of the first failed in a plugin
/// behind us; its DEL comes when the second is up.
#[test]
fn del_of_a_failed_add_while_a_sibling_sandbox_lives() {
    let node = hasty_node("del_of_a_failed_add_while_a_sibling_lives", 5000);
    let (base, [db]) = settle(&node, ["db"]);
    let mut chain = node.conflist();
    let intact = chain.clone();
    chain["plugins"].as_array_mut().unwrap().push(json!({"type": "fails"}));
    node.script_plugin(
        "fails",
        "cat >/dev/null; [ $CNI_COMMAND != ADD ] || { echo '{\"code\": 11}'; exit 1; }",
    );
    node.set_conflist(chain);
    let first = node.pod("web").with_ip("10.244.1.50");
    node.try_add(&first).unwrap_err();
    node.set_conflist(intact);
    // The address went back (host-local), the record is still there.
    node.forget_lease("10.244.1.50");

    let mut second = node.pod("web").with_ip("10.244.1.50");
    second.uid.clone_from(&first.uid);
    let web = with_flows(&node, node.add(&second), 0x1002);
    let expected: [&[String]; 3] = [&base, &db.flows, &web.flows];

    let records = list(&node);
    assert_eq!(
        records.iter().filter(|r| r["pod"]["name"] == pod_name("web").as_str()).count(),
        2,
        "{records:#?}"
    );
    for netns in [true, false] {
        let conf = node.plugin_conf("ovs-flow-gc", Some(&first), None);
        let call = node.call_for(&conf, "DEL", &first);
        if netns { call } else { call.without("CNI_NETNS") }.run().ok();
        only(&node, &expected);
    }
    node.kill_sandbox(&first);
    sweep(&node);
    only(&node, &expected);
    assert_eq!(record_of(&node, &web)["ofport"], web.ofport);
    node.must_reach(&web, &db.ip);
    node.del(&web);
    only(&node, &[&base, &db.flows]);
}

/// The same without a record: ADD of the first sandbox failed before it came to us, or the
/// state directory was lost.
#[test]
fn del_without_a_record_while_a_sibling_sandbox_lives() {
    let node = hasty_node("del_without_a_record_while_a_sibling_lives", 5000);
    let (base, [db, web]) = settle(&node, ["db", "web"]);
    let mut first = node.pod("web");
    first.uid.clone_from(&web.uid);
    for netns in [true, false] {
        let conf = node.plugin_conf("ovs-flow-gc", Some(&first), Some(&web.result));
        let call = node.call_for(&conf, "DEL", &first);
        let outcome = if netns { call } else { call.without("CNI_NETNS") }.run();
        let found_none = |line: &str| line.contains("no port") && line.contains(&first.name);
        assert!(outcome.stderr.lines().any(found_none), "{outcome}");
        outcome.ok();
        only(&node, &[&base, &db.flows, &web.flows]);
    }
    sweep(&node);
    only(&node, &[&base, &db.flows, &web.flows]);
}

#[test]
fn the_same_key_again_while_its_tombstone_lingers() {
    let node = Setup::new().gc_conf(json!({"lingerSeconds": 60})).up("the_same_key_again");
    let (base, [db]) = settle(&node, ["db"]);
    let sandbox = node.pod("web").with_ip("10.244.1.60").with_mac("02:00:00:00:00:60");
    let first = with_flows(&node, node.add(&sandbox), 0x1002);
    node.try_del(&sandbox).unwrap();
    only(&node, &[&base, &db.flows]);

    // The very same key, address and MAC in the same namespace.
    let web: Attached = node.add(&sandbox);
    assert_eq!((&web.ip, &web.mac, &web.port), (&first.ip, &first.mac, &first.port));
    let web = with_flows(&node, web, 0x1003);
    assert_eq!(list(&node).len(), 3, "db, web, and web's tombstone");
    for _ in 0..2 {
        sweep(&node);
        only(&node, &[&base, &db.flows, &web.flows]);
    }
    node.must_reach(&web, &db.ip);
    // The tombstone's time is over: it goes, the record stays.
    node.configure(json!({"lingerSeconds": 0}));
    let next = with_flows(&node, node.run_pod("brings-the-new-configuration"), 0x1004);
    sweep_finishes(&node);
    only(&node, &[&base, &db.flows, &web.flows, &next.flows]);
    assert_eq!(record_of(&node, &web)["ofport"], web.ofport);
    // And its own end takes its entries.
    node.try_del(&sandbox).unwrap();
    only(&node, &[&base, &db.flows, &next.flows]);
}
