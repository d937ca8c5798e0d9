//! Servers that are away, restarted or emptied; OVS restarted; two daemons.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::apiserver::ApiServer;
use crate::daemon_sources::fixture::{
    BACK, Flows, NODE, age, api_pod, node, pod, pod_without_sandbox, pods, start, start_unsettled,
    up, well,
};
use crate::rig::{self, Port, Runtime, Setup, eventually, layouts, within};

const SOON: Duration = Duration::from_secs(40);

#[test]
fn containerd_is_stopped_and_its_state_wiped() {
    let node = node("sources_wiped", json!({"lingerSeconds": 0}));
    let (mut runtime, api) = (Runtime::start(&node), ApiServer::start());
    let mut flows = Flows::new(&node);
    for name in ["one", "two", "three"] {
        pod(&node, &runtime, &api, &mut flows, name);
    }
    let (dies, _) = pod(&node, &runtime, &api, &mut flows, "dies");
    age(&node);
    let daemon = start(&node, &runtime.socket(), &api, &["--interval=500ms"]);
    flows.stay(&node, Duration::from_secs(2));
    runtime.stop();
    eventually("it is away", || !up(&daemon, "cri"));
    flows.stay(&node, Duration::from_secs(2));
    // Its sandbox ends while nobody can veto it.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(dies.pid), Signal::SIGKILL).unwrap();
    dies.delete_netns();
    flows.forget("dies");
    flows.only(&node, SOON);
    runtime.wipe_state();
    runtime.start_again();
    runtime.answers();
    assert_eq!(runtime.try_list().unwrap(), [], "it has forgotten them");
    within(BACK, "it answers", || up(&daemon, "cri"));
    flows.stay(&node, Duration::from_secs(6));
    runtime.import_pause_image();
    // Who comes now is judged as ever.
    let (new, _) = pod(&node, &runtime, &api, &mut flows, "new");
    age(&node);
    flows.stay(&node, Duration::from_secs(3));
    runtime.kill_pause(&new);
    new.delete_netns();
    flows.forget("new");
    flows.only(&node, SOON);
    well(&daemon);
}

#[test]
fn the_api_server_is_away_from_the_start() {
    let node = node("sources_no_api", json!({"lingerSeconds": 0}));
    let (runtime, api) = (Runtime::start(&node), ApiServer::start());
    let (mut flows, [(web, _), (cache, who), ..]) =
        pods(&node, &runtime, &api, ["web", "cache", "one", "two"]);
    age(&node);
    api.down(true);
    let daemon = start_unsettled(&node, &runtime.socket(), &api, &[], &["--interval=500ms"]);
    eventually("the others answer", || up(&daemon, "cri") && daemon.get("/readyz").0 == 200);
    assert!(!up(&daemon, "kubernetes"));
    flows.stay(&node, Duration::from_secs(4));
    runtime.kill_pause(&web);
    web.delete_netns();
    flows.forget("web");
    flows.only(&node, SOON);
    eventually("it could not be told", || {
        daemon.metric("kubernetes_events_total{result=\"failed\"}") == 1.0
    });
    assert!(!up(&daemon, "kubernetes"));
    assert_eq!(daemon.log().matches("nobody new is dead by it").count(), 1, "said once");
    api.down(false);
    within(BACK, "it answers", || up(&daemon, "kubernetes"));
    api.put(api_pod(&cache.uid, "cache", NODE, "Failed", &[&who.ip]));
    runtime.kill_pause(&cache);
    flows.forget("cache");
    flows.only(&node, SOON);
    assert_eq!(daemon.metric("orphans_total{source=\"kubernetes\"}"), 1.0);
    well(&daemon);
}

#[test]
fn ovs_vswitchd_restarted_ten_times_in_a_minute() {
    let node =
        Setup::new().gc_conf(json!({"lingerSeconds": 60, "reg0": "pod"})).up("sources_restarts");
    let (runtime, api) = (Runtime::start(&node), ApiServer::start());
    let (mut flows, [(web, _), (cache, who), ..]) =
        pods(&node, &runtime, &api, ["web", "cache", "one", "two"]);
    age(&node);
    let daemon = start(&node, &runtime.socket(), &api, &["--interval=500ms"]);
    let since = Instant::now();
    let mut of_web = Vec::new();
    for round in 0..10 {
        node.restart_vswitchd(rig::Flows::Restored);
        flows.stay(&node, Duration::from_secs(2));
        match round {
            3 => {
                runtime.kill_pause(&web);
                web.delete_netns();
                of_web = flows.forget("web");
                flows.only(&node, SOON);
            }
            // Whoever saved the entries before the death puts them back.
            5 => node.add_flows("br0", &of_web),
            6 => drop(flows.only(&node, SOON)),
            _ => {}
        }
    }
    eprintln!("ten restarts in {:?}", since.elapsed());
    api.put(api_pod(&cache.uid, "cache", NODE, "Failed", &[&who.ip]));
    runtime.kill_pause(&cache);
    flows.forget("cache");
    flows.only(&node, SOON);
    assert!(up(&daemon, "cri") && up(&daemon, "kubernetes"));
    well(&daemon);
}

#[test]
fn a_second_daemon_waits_with_its_sources_and_takes_over() {
    let node = node("sources_second", json!({"lingerSeconds": 0}));
    let (runtime, api) = (Runtime::start(&node), ApiServer::start());
    let (mut flows, [(web, _), (cache, who), ..]) =
        pods(&node, &runtime, &api, ["web", "cache", "one", "two"]);
    age(&node);
    let first = start(&node, &runtime.socket(), &api, &["--interval=500ms"]);
    let second = start_unsettled(&node, &runtime.socket(), &api, &[], &["--interval=500ms"]);
    eventually("it says so", || second.log().contains("another daemon has the state directory"));
    eventually("its sources answer", || up(&second, "cri") && up(&second, "kubernetes"));
    runtime.kill_pause(&web);
    web.delete_netns();
    flows.forget("web");
    flows.only(&node, SOON);
    let told = || api.asked().iter().filter(|asked| asked.method == "POST").count();
    eventually("it is told", || told() == 1);
    assert_eq!((second.get("/healthz").0, second.get("/readyz").0), (200, 503));
    assert_eq!(second.sum("orphans_total"), 0.0);
    assert_eq!(first.end(Signal::SIGKILL).0, None);
    eventually("it takes over", || second.get("/readyz").0 == 200);
    // What it saw while it waited counts.
    api.put(api_pod(&cache.uid, "cache", NODE, "Failed", &[&who.ip]));
    runtime.kill_pause(&cache);
    flows.forget("cache");
    flows.only(&node, SOON);
    eventually("that is told, too", || told() == 2);
    well(&second);
}

/// All sources are on, and none but the namespaces has anything to say: neither hinders.
#[test]
fn servers_that_never_come() {
    let node = Setup::new().gc_conf(json!({"lingerSeconds": 0, "reg0": "pod"})).up("sources_never");
    let api = ApiServer::start();
    api.down(true);
    let mut flows = Flows::new(&node);
    let web = node.run_pod("web");
    flows.install(&node, "web", &web.who(0x1001));
    let _stays = pod_without_sandbox(&node, &api, &mut flows, "stays");
    let none = node.dir.join("none/sock");
    let daemon = start_unsettled(&node, &none, &api, &[], &["--interval=500ms"]);
    eventually("it is ready", || daemon.get("/readyz").0 == 200);
    flows.stay(&node, Duration::from_secs(2));
    node.vanish(&web, Port::Stays);
    flows.forget("web");
    flows.only(&node, SOON);
    assert!(!layouts::classifier_base().is_empty() && !up(&daemon, "cri"));
    well(&daemon);
}
