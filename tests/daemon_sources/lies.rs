//! Sources that flap, lie or hang. Nobody alive is touched, and who is dead by their namespace
//! is cleaned up behind as ever.

use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::apiserver::{self, ApiServer, Bad};
use crate::daemon_sources::fixture::{
    BACK, Flows, NODE, age, api_pod, node, pod_without_sandbox, pods, start, start_unsettled, up,
    well,
};
use crate::gcd::Daemon;
use crate::liveness_cri::liar::{Liar, Lie};
use crate::rig::{Node, Port, Runtime, Sandbox, sleep_ms, within};

/// A bad day's length.
const DAY: Duration = Duration::from_secs(3);

/// Three pods of the runtime's; and one of nobody's, who dies when it is worst.
fn pods_with_entries(node: &Node, runtime: &Runtime<'_>, api: &ApiServer) -> (Flows, Vec<Sandbox>) {
    let (flows, pods) = pods(node, runtime, api, ["one", "two", "three"]);
    age(node);
    (flows, pods.map(|(sandbox, _)| sandbox).to_vec())
}

/// Whoever dies now is found, by the namespace.
#[track_caller]
fn one_dies(node: &Node, api: &ApiServer, flows: &mut Flows, name: &str, time: Duration) {
    let pod = pod_without_sandbox(node, api, flows, name);
    flows.stay(node, Duration::from_millis(700));
    node.vanish(&pod, Port::Gone);
    flows.forget(name);
    flows.only(node, time);
}

#[track_caller]
fn back(daemon: &Daemon, source: &str) {
    within(BACK, &format!("{source} answers again"), || up(daemon, source));
}

fn list(version: u64, items: &[Value]) -> Bad {
    let version = json!({"resourceVersion": version.to_string()});
    Bad::Body(json!({"kind": "PodList", "metadata": version, "items": items}).to_string())
}

/// What a list may be instead of the truth.
fn lies() -> Vec<(&'static str, Bad)> {
    let elsewhere = apiserver::pod("u", "n2", "Running", &["10.0.0.2"]);
    let another_cluster = api_pod("another", "another", NODE, "Running", &["10.0.0.3"]);
    vec![
        ("empty", list(1_000, &[])),
        ("another node's", list(1_000, &[elsewhere])),
        ("another cluster's", list(1_000, &[another_cluster])),
        ("cut short", Bad::Cut(900)),
        ("broken off", Bad::Broken(900)),
        ("refused", Bad::Status(403, apiserver::status(403, "no"))),
        ("not a list", Bad::Body("{\"kind\":\"Status\"}".to_owned())),
        ("hanging", Bad::Hang),
    ]
}

#[test]
fn the_api_server_lies() {
    let node = node("sources_api_lies", json!({"lingerSeconds": 0}));
    let (runtime, api) = (Runtime::start(&node), ApiServer::start());
    let (mut flows, _pods) = pods_with_entries(&node, &runtime, &api);
    let daemon = start(&node, &runtime.socket(), &api, &["--interval=500ms"]);
    for (lie, bad) in lies() {
        eprintln!("a list that is {lie}");
        api.every_list(Some(bad));
        // Each 410 has it list anew, as far as its back-off lets it.
        for event in [false, true] {
            api.expire(event);
            flows.stay(&node, DAY / 2);
        }
        assert_eq!(daemon.get("/healthz").0, 200, "{lie}");
    }
    one_dies(&node, &api, &mut flows, "dies", Duration::from_secs(40));
    api.every_list(None);
    back(&daemon, "kubernetes");
    flows.stay(&node, DAY);
    well(&daemon);
}

/// A watch tells of deaths that the list after it refutes.
#[test]
fn the_api_server_flaps() {
    let node = node("sources_api_flaps", json!({"lingerSeconds": 0}));
    let (runtime, api) = (Runtime::start(&node), ApiServer::start());
    let (mut flows, pods) = pods_with_entries(&node, &runtime, &api);
    let daemon = start(&node, &runtime.socket(), &api, &["--interval=500ms"]);
    let since = Instant::now();
    for turn in 0u32.. {
        match turn % 5 {
            0 => api.down(true),
            1 => api.down(false),
            2 => api.expire(turn % 2 == 0),
            3 => api.next_watch(Bad::Torn("{\"type\":\"DEL".to_owned())),
            _ => api.end_watches(),
        }
        let uid = &pods[turn as usize % pods.len()].uid;
        let phase = if turn % 2 == 0 { "Failed" } else { "Running" };
        api.put(api_pod(uid, "web", NODE, phase, &["10.244.1.9"]));
        flows.stay(&node, Duration::from_millis(150));
        if since.elapsed() > DAY * 2 {
            break;
        }
    }
    one_dies(&node, &api, &mut flows, "dies", Duration::from_secs(40));
    // A client that waits ever longer has not had all of them yet.
    api.good_watches();
    api.down(false);
    back(&daemon, "kubernetes");
    flows.stay(&node, DAY);
    well(&daemon);
}

#[test]
fn the_runtime_lies_and_flaps() {
    let node = node("sources_cri_lies", json!({"lingerSeconds": 0}));
    let (runtime, api) = (Runtime::start(&node), ApiServer::start());
    let (mut flows, _pods) = pods_with_entries(&node, &runtime, &api);
    let liar = Liar::start(&runtime.socket(), &node.dir.join("liar"));
    let daemon = start(&node, &liar.socket, &api, &["--interval=500ms"]);
    for lie in Lie::ALL {
        eprintln!("{lie:?}");
        liar.tell(lie);
        flows.stay(&node, DAY);
        assert_eq!(daemon.get("/healthz").0, 200, "{lie:?}");
    }
    assert!(!up(&daemon, "cri"));
    one_dies(&node, &api, &mut flows, "dies", Duration::from_secs(40));
    let lies = Lie::ALL;
    for turn in 0..60 {
        liar.tell(if turn % 2 == 0 { Lie::None } else { lies[turn / 2 % lies.len()] });
        flows.stay(&node, Duration::from_millis(60));
    }
    liar.tell(Lie::None);
    back(&daemon, "cri");
    flows.stay(&node, DAY);
    well(&daemon);
}

/// Does something in the daemon's mount namespace.
#[track_caller]
fn inside(daemon: &Daemon, script: &str) {
    let mount = format!("--mount=/proc/{}/ns/mnt", daemon.pid());
    let output = Command::new("nsenter").args([&mount, "sh", "-ec", script]).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What the daemon sees of /run/netns comes and goes: unmounted, empty, files that are no
/// namespaces (a container without mount propagation).
#[test]
fn the_namespaces_flap() {
    let node = node("sources_netns_flap", json!({"lingerSeconds": 0}));
    let (runtime, api) = (Runtime::start(&node), ApiServer::start());
    let (mut flows, _pods) = pods_with_entries(&node, &runtime, &api);
    for name in ["four", "five"] {
        pod_without_sandbox(&node, &api, &mut flows, name);
    }
    let prefix = ["unshare", "--mount", "--propagation", "slave"];
    let daemon = start_unsettled(&node, &runtime.socket(), &api, &prefix, &["--interval=200ms"]);
    within(BACK, "all sources answer", || up(&daemon, "cri") && up(&daemon, "kubernetes"));
    let away = "mount -t tmpfs none /run/netns";
    inside(&daemon, "mkdir -p /run/plain; mount -t tmpfs none /run/plain");
    inside(
        &daemon,
        "mkdir /run/plain/empty /run/plain/netns; mount --bind /run/netns /run/plain/netns",
    );
    let plain = "mount --bind /run/plain/netns /run/netns";
    let empty = "mount --bind /run/plain/empty /run/netns";
    for turn in 0..12 {
        let script = [away, plain, empty][turn % 3];
        inside(&daemon, script);
        flows.stay(&node, Duration::from_millis(500));
        inside(&daemon, "umount -l /run/netns");
        flows.stay(&node, Duration::from_millis(200));
    }
    one_dies(&node, &api, &mut flows, "dies", Duration::from_secs(40));
    well(&daemon);
}

/// The worst of all days.
#[test]
fn all_of_them_at_once() {
    let node = node("sources_all", json!({"lingerSeconds": 0}));
    let (runtime, api) = (Runtime::start(&node), ApiServer::start());
    let (mut flows, _pods) = pods_with_entries(&node, &runtime, &api);
    pod_without_sandbox(&node, &api, &mut flows, "four");
    let liar = Liar::start(&runtime.socket(), &node.dir.join("liar"));
    let prefix = ["unshare", "--mount", "--propagation", "slave"];
    let daemon = start_unsettled(&node, &liar.socket, &api, &prefix, &["--interval=200ms"]);
    within(BACK, "all sources answer", || up(&daemon, "cri") && up(&daemon, "kubernetes"));
    for (turn, (_, bad)) in lies().into_iter().enumerate() {
        liar.tell(Lie::ALL[turn % Lie::ALL.len()]);
        api.every_list(Some(bad));
        api.expire(turn % 2 == 0);
        inside(&daemon, "mount -t tmpfs none /run/netns");
        flows.stay(&node, DAY / 3);
        inside(&daemon, "umount -l /run/netns");
        flows.stay(&node, DAY / 3);
    }
    // Both servers hang.
    runtime.signal(Signal::SIGSTOP);
    api.every_watch(Some(Bad::Hang));
    api.end_watches();
    flows.stay(&node, DAY);
    one_dies(&node, &api, &mut flows, "dies", Duration::from_secs(40));
    assert_eq!((daemon.get("/healthz").0, daemon.get("/readyz").0), (200, 200));
    runtime.signal(Signal::SIGCONT);
    liar.tell(Lie::None);
    api.every_list(None);
    api.every_watch(None);
    back(&daemon, "cri");
    back(&daemon, "kubernetes");
    flows.stay(&node, DAY);
    sleep_ms(10);
    well(&daemon);
}
