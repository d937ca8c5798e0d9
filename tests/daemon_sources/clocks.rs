//! Clocks that jump.
//!
//! The wall clock of the machine that runs the tests is not ours to set, and no namespace has a
//! wall clock of its own. So records carry what a wall clock that was wrong when ADD ran would
//! have written: for the daemon it is the same. Its other clock, `CLOCK_BOOTTIME`, is set
//! for good: in a time namespace the daemon sees hours pass that the records' writers did not
//! (a suspended machine), or has not come as far as they.

use std::time::Duration;

use ovs_flow_gc::model::attachment::Attachment;
use ovs_flow_gc::store::Registry;
use ovs_flow_gc::util::clock::Deadline;
use serde_json::json;

use crate::apiserver::ApiServer;
use crate::daemon_sources::fixture::{
    NODE, age, api_pod, node, pod_without_sandbox, pods, start, start_unsettled, up, well,
};
use crate::rig::{Node, Port, Runtime, eventually};

const SOON: Duration = Duration::from_secs(40);
const DAY_MS: u64 = 86_400_000;

/// Changes every record, the dead ones' too.
#[track_caller]
fn rewrite(node: &Node, change: impl Fn(&mut Attachment)) {
    let registry = Registry::open(&node.state_dir).unwrap();
    let lock = registry.lock(Deadline::after(Duration::from_secs(5))).unwrap();
    let registry_snapshot = registry.snapshot().unwrap();
    for record in &registry_snapshot.attachments {
        lock.update(record, &change).unwrap();
    }
}

fn wall(change: impl Fn(u64) -> u64) -> impl Fn(&mut Attachment) {
    move |record| {
        let stamps = [Some(&mut record.created), Some(&mut record.seen_alive)];
        let others = [record.born.as_mut(), record.died.as_mut()];
        for stamp in stamps.into_iter().chain(others).flatten() {
            stamp.wall_ms = change(stamp.wall_ms);
        }
    }
}

#[test]
fn a_wall_clock_that_jumped() {
    for (name, change) in [
        ("back", (|ms| ms + DAY_MS) as fn(u64) -> u64),
        ("forward", |ms| ms - DAY_MS),
        ("to1970", |_| 0),
    ] {
        let node = node(&format!("sources_clock_{name}"), json!({"lingerSeconds": 1}));
        let (runtime, api) = (Runtime::start(&node), ApiServer::start());
        let (mut flows, [(web, _), (cache, who), ..]) =
            pods(&node, &runtime, &api, ["web", "cache", "one"]);
        let podman = pod_without_sandbox(&node, &api, &mut flows, "podman");
        pod_without_sandbox(&node, &api, &mut flows, "stays");
        age(&node);
        rewrite(&node, wall(change));
        let daemon = start(&node, &runtime.socket(), &api, &["--interval=200ms"]);
        flows.stay(&node, Duration::from_secs(2));
        runtime.kill_pause(&web);
        web.delete_netns();
        flows.forget("web");
        flows.only(&node, SOON);
        node.vanish(&podman, Port::Stays);
        flows.forget("podman");
        flows.only(&node, SOON);
        // Once more, while it runs.
        rewrite(&node, wall(change));
        flows.stay(&node, Duration::from_secs(2));
        api.put(api_pod(&cache.uid, "cache", NODE, "Failed", &[&who.ip]));
        runtime.kill_pause(&cache);
        if name == "back" {
            flows.forget("cache");
            flows.only(&node, SOON);
        } else {
            // Its namespace is younger than its record: whether it is the one that ADD saw
            // nobody can say, nor, therefore, whether its sandbox is over.
            flows.stay(&node, SOON);
            cache.delete_netns();
            flows.forget("cache");
            flows.only(&node, SOON);
        }
        well(&daemon);
    }
}

#[test]
fn a_machine_that_slept_for_a_day() {
    let node = node("sources_slept", json!({"lingerSeconds": 1}));
    let (runtime, api) = (Runtime::start(&node), ApiServer::start());
    let (mut flows, [(web, _), (cache, who), ..]) =
        pods(&node, &runtime, &api, ["web", "cache", "one"]);
    pod_without_sandbox(&node, &api, &mut flows, "stays");
    let prefix = ["unshare", "--time", "--boottime=86400", "--fork", "--kill-child"];
    let daemon = start_unsettled(&node, &runtime.socket(), &api, &prefix, &["--interval=200ms"]);
    eventually("all sources answer", || up(&daemon, "cri") && up(&daemon, "kubernetes"));
    flows.stay(&node, Duration::from_secs(2));
    runtime.kill_pause(&web);
    web.delete_netns();
    flows.forget("web");
    flows.only(&node, SOON);
    // Not young by this clock.
    api.put(api_pod(&cache.uid, "cache", NODE, "Failed", &[&who.ip]));
    runtime.kill_pause(&cache);
    flows.forget("cache");
    flows.only(&node, SOON);
    flows.stay(&node, Duration::from_secs(2));
    well(&daemon);
}

/// Records from the future, by the clock that cannot go back: nobody is old enough to be judged
/// by a server's word, and a namespace that is gone is gone.
#[test]
fn records_from_the_future() {
    let node = node("sources_future", json!({"lingerSeconds": 1}));
    let (runtime, api) = (Runtime::start(&node), ApiServer::start());
    let (mut flows, [(web, _), (cache, who), ..]) =
        pods(&node, &runtime, &api, ["web", "cache", "one"]);
    pod_without_sandbox(&node, &api, &mut flows, "stays");
    // Also where the machine has not been up for long.
    rewrite(&node, |record| {
        record.created.boot_ms += DAY_MS;
        record.seen_alive.boot_ms += DAY_MS;
    });
    let daemon = start(&node, &runtime.socket(), &api, &["--interval=200ms"]);
    flows.stay(&node, Duration::from_secs(1));
    api.put(api_pod(&cache.uid, "cache", NODE, "Failed", &[&who.ip]));
    runtime.kill_pause(&cache);
    flows.stay(&node, Duration::from_secs(4));
    runtime.kill_pause(&web);
    web.delete_netns();
    flows.forget("web");
    flows.only(&node, SOON);
    well(&daemon);
}
