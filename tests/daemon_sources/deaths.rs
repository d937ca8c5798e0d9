//! Deaths, and what looks like one, with three witnesses.

use std::time::Duration;

use serde_json::json;

use crate::apiserver::ApiServer;
use crate::daemon_sources::fixture::{
    Flows, NODE, age, api_pod, node, pod, pod_without_sandbox, pods, start, well,
};
use crate::rig::{Port, Runtime, eventually};

const SOON: Duration = Duration::from_secs(40);

#[test]
fn each_source_has_its_say() {
    let node = node("sources_say", json!({"lingerSeconds": 0}));
    let (runtime, api) = (Runtime::start(&node), ApiServer::start());
    let mut flows = Flows::new(&node);
    let mut run = |name| pod(&node, &runtime, &api, &mut flows, name);
    let (web, _) = run("web");
    let (db, db_who) = run("db");
    let (cache, cache_who) = run("cache");
    let (front, _) = run("front");
    let (_stays, _) = run("stays");
    let podman = pod_without_sandbox(&node, &api, &mut flows, "podman");
    age(&node);
    let daemon = start(&node, &runtime.socket(), &api, &["--interval=10m"]);
    flows.stay(&node, Duration::from_millis(500));

    // Behind the kubelet's back: the processes are killed, the namespace is taken away.
    runtime.kill_pause(&web);
    flows.stay(&node, Duration::from_secs(1));
    web.delete_netns();
    flows.forget("web");
    flows.only(&node, SOON);

    // The name of the namespace goes, the processes in it run on: the runtime says so.
    db.delete_netns();
    flows.stay(&node, Duration::from_secs(3));

    // Deleted by force, and the kubelet has not heard of it yet.
    api.delete(&front.uid);
    flows.stay(&node, Duration::from_secs(3));
    assert_eq!(daemon.metric("orphans_total{source=\"kubernetes\"}"), 0.0);

    // Unknown to the runtime; its end is seen by its namespace.
    node.vanish(&podman, Port::Gone);
    flows.forget("podman");
    flows.only(&node, SOON);

    // A sandbox whose namespace was gone already ends at last.
    runtime.kill_pause(&db);
    flows.forget("db");
    flows.only(&node, SOON);
    assert!(!node.dump("br0").iter().any(|flow| flow.contains(&db_who.ip)));
    // Evicted. While the sandbox runs, nothing is over; afterwards the namespace has leaked.
    api.put(api_pod(&cache.uid, "cache", NODE, "Failed", &[&cache_who.ip]));
    flows.stay(&node, Duration::from_secs(2));
    runtime.kill_pause(&cache);
    assert!(cache.netns.exists());
    flows.forget("cache");
    flows.only(&node, SOON);
    assert_eq!(daemon.metric("orphans_total{source=\"kubernetes\"}"), 1.0);

    assert_eq!(daemon.metric("orphans_total{source=\"netns\"}"), 3.0);
    eventually("each is told", || daemon.metric("kubernetes_events_total{result=\"sent\"}") == 4.0);
    well(&daemon);
}

/// What the kubelet does: nothing is left to do.
#[test]
fn the_kubelets_way_leaves_nothing_to_do() {
    let node = node("sources_kubelet", json!({"lingerSeconds": 0}));
    let (runtime, api) = (Runtime::start(&node), ApiServer::start());
    let (mut flows, [(web, _), (db, who), ..]) =
        pods(&node, &runtime, &api, ["web", "db", "one", "two"]);
    age(&node);
    let daemon = start(&node, &runtime.socket(), &api, &["--interval=500ms"]);
    runtime.stop_sandbox(&web);
    api.delete(&web.uid);
    runtime.remove_sandbox(&web);
    api.put(api_pod(&db.uid, "db", NODE, "Succeeded", &[&who.ip]));
    runtime.stop_sandbox(&db);
    flows.forget("web");
    flows.forget("db");
    flows.only(&node, SOON);
    flows.stay(&node, Duration::from_secs(3));
    assert_eq!(node.dump("br0"), flows.lines());
    assert_eq!(daemon.sum("orphans_total"), 0.0, "{}", daemon.log());
    assert!(api.asked().iter().all(|asked| asked.method == "GET"), "nothing to tell");
    well(&daemon);
}

/// A daemon that starts when it is all over has never seen them alive: only the namespace
/// tells, and the others do not stand in its way.
#[test]
fn what_died_before_it_started() {
    let node = node("sources_before", json!({"lingerSeconds": 0}));
    let (runtime, api) = (Runtime::start(&node), ApiServer::start());
    let (mut flows, [(web, _), (leaks, _), ..]) =
        pods(&node, &runtime, &api, ["web", "leaks", "one", "two"]);
    age(&node);
    for gone in [&web, &leaks] {
        runtime.kill_pause(gone);
        api.delete(&gone.uid);
    }
    web.delete_netns();
    let daemon = start(&node, &runtime.socket(), &api, &["--interval=500ms"]);
    flows.forget("web");
    flows.only(&node, SOON);
    // Nobody can tell it from a pod of somebody else's that the API server never heard of.
    flows.stay(&node, Duration::from_secs(3));
    leaks.delete_netns();
    flows.forget("leaks");
    flows.only(&node, SOON);
    well(&daemon);
}
