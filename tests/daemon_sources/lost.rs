//! The state directory is removed under the daemon. Whoever runs is recorded again: from libcni's
//! cached results (here the real libcni's, in containerd), marks in OVSDB, and namespaces.

use std::fs;
use std::time::Duration;

use ovs_flow_gc::store::Registry;
use serde_json::json;

use crate::apiserver::ApiServer;
use crate::daemon_sources::fixture::{Flows, age, node, pod, pod_without_sandbox, start, well};
use crate::gcd::Daemon;
use crate::pods::records;
use crate::rig::{Node, Port, Runtime, Sandbox, eventually, sleep_ms};

const SOON: Duration = Duration::from_secs(40);
const AGAIN: &str = "pods are known again";

fn pods_with_entries(node: &Node, runtime: &Runtime<'_>, api: &ApiServer) -> (Flows, [Sandbox; 3]) {
    let mut flows = Flows::new(node);
    let pods = ["web", "db", "stays"].map(|name| pod(node, runtime, api, &mut flows, name).0);
    age(node);
    (flows, pods)
}

#[track_caller]
fn start_here(node: &Node, runtime: &Runtime<'_>, api: &ApiServer) -> Daemon {
    let cache = format!("--cache-dir={}", node.dir.join("var-lib/cni/results").display());
    start(node, &runtime.socket(), api, &["--interval=500ms", &cache])
}

/// How many have a record.
fn known(node: &Node) -> usize {
    let registry = Registry::open_existing(&node.state_dir);
    let snapshot = registry.ok().flatten().and_then(|registry| registry.snapshot().ok());
    snapshot.map_or(0, |registry_snapshot| registry_snapshot.attachments.len())
}

/// Each sandbox has a record that says of it what ADD's said.
#[track_caller]
fn known_again(node: &Node, before: &ovs_flow_gc::model::records::Records, pods: &[&Sandbox]) {
    let now = records(node).attachments;
    for pod in pods {
        let of = |all: &ovs_flow_gc::model::records::Records| {
            let found = all.iter().find(|record| record.key.container.as_str() == pod.id);
            found.unwrap_or_else(|| panic!("{} has no record", pod.name)).clone()
        };
        let (before, now) = (of(before), of(&now));
        assert!(now.adopted && !before.adopted);
        assert_eq!((&now.key, &now.pod, &now.netns), (&before.key, &before.pod, &before.netns));
        assert_eq!((&now.ips, &now.macs), (&before.ips, &before.macs));
        assert_eq!((&now.port, now.ofport), (&before.port, before.ofport));
        assert!(!now.ips.is_empty() && now.netns.is_some());
    }
}

#[test]
fn who_runs_is_recorded_again() {
    let node = node("sources_lost", json!({"lingerSeconds": 0}));
    let (runtime, api) = (Runtime::start(&node), ApiServer::start());
    let (mut flows, [web, db, stays]) = pods_with_entries(&node, &runtime, &api);
    // Nobody cached its result, and its marks name no container: it cannot be known again.
    let podman = pod_without_sandbox(&node, &api, &mut flows, "podman");
    let daemon = start_here(&node, &runtime, &api);
    flows.stay(&node, Duration::from_millis(500));
    let before = records(&node).attachments;
    assert_eq!(before.len(), 4);

    // It may be writing there right now.
    eventually("it is removed", || fs::remove_dir_all(&node.state_dir).is_ok());
    eventually("they are recorded again", || daemon.log().contains(AGAIN));
    // It was noticed while it was being removed: what is recorded then may go, too.
    eventually("and all of them", || known(&node) == 3);
    known_again(&node, &before, &[&web, &db, &stays]);
    assert!(daemon.log().contains(&format!("not recorded again: port {}", podman.port)));
    flows.stay(&node, Duration::from_secs(2));

    // A death, and a DEL, as ever. (Young again for the sources that are servers.)
    runtime.kill_pause(&web);
    web.delete_netns();
    flows.forget("web");
    flows.only(&node, SOON);
    runtime.stop_sandbox(&db);
    flows.forget("db");
    flows.only(&node, SOON);
    // Nobody knows this one any more but by its port's marks: what names its address alone stays.
    node.vanish(&podman, Port::Stays);
    let own = flows.forget("podman");
    let left = || node.dump("br0").iter().filter(|line| own.contains(line)).count();
    eventually("what names its port is gone", || left() == 2);
    flows.stay(&node, Duration::from_secs(1));
    assert_eq!(left(), 2);
    well(&daemon);
}

/// A mounted directory stays; what is in it goes. And again, and with an ADD in between.
#[test]
fn what_is_in_it_is_removed_again_and_again() {
    let node = node("sources_emptied", json!({"lingerSeconds": 0}));
    let (runtime, api) = (Runtime::start(&node), ApiServer::start());
    let (mut flows, [web, db, stays]) = pods_with_entries(&node, &runtime, &api);
    let daemon = start_here(&node, &runtime, &api);
    let before = records(&node).attachments;
    for round in 1..=3 {
        for entry in fs::read_dir(&node.state_dir).unwrap().flatten() {
            let path = entry.path();
            eventually("it is removed", || {
                !path.exists()
                    || fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path)).is_ok()
            });
        }
        pod(&node, &runtime, &api, &mut flows, &format!("new{round}"));
        eventually("they are recorded again", || daemon.log().matches(AGAIN).count() >= round);
        eventually("all of them", || known(&node) == 3 + round);
        known_again(&node, &before, &[&web, &db, &stays]);
        flows.stay(&node, Duration::from_millis(500));
    }
    runtime.kill_pause(&web);
    web.delete_netns();
    flows.forget("web");
    flows.only(&node, SOON);
    well(&daemon);
}

#[test]
fn nobody_can_say_who_runs_while_ovsdb_is_down() {
    let node = node("sources_lost_ovsdb", json!({"lingerSeconds": 0}));
    let (runtime, api) = (Runtime::start(&node), ApiServer::start());
    let (mut flows, [web, db, stays]) = pods_with_entries(&node, &runtime, &api);
    let daemon = start_here(&node, &runtime, &api);
    let before = records(&node).attachments;
    node.ovsdb.kill();
    eventually("it is removed", || fs::remove_dir_all(&node.state_dir).is_ok());
    eventually("it says so", || daemon.log().contains("cannot record the pods that run"));
    sleep_ms(1500);
    assert_eq!(daemon.get("/healthz").0, 200);
    assert!(!daemon.log().contains(AGAIN));
    node.ovsdb.start();
    flows.stay(&node, Duration::from_millis(500));
    eventually("they are recorded again", || daemon.log().contains(AGAIN) && known(&node) == 3);
    known_again(&node, &before, &[&web, &db, &stays]);
    runtime.kill_pause(&web);
    web.delete_netns();
    flows.forget("web");
    flows.only(&node, SOON);
    well(&daemon);
}
