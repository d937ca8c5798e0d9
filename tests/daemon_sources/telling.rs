//! What the cluster's operators are told.

use std::collections::BTreeSet;
use std::time::Duration;

use ovs_flow_gc::model::attachment::Pod;
use ovs_flow_gc::store::{DeliveredDel, DeliveryLog, LEFTOVERS, Registry};
use ovs_flow_gc::util::clock::Stamp;
use serde_json::{Value, json};

use crate::apiserver::{self, ApiServer, Bad};
use crate::daemon_sources::fixture::{
    Flows, api_pod, node, pod_without_sandbox, start_unsettled, well,
};
use crate::gcd::Daemon;
use crate::manifests::metrics::METRICS;
use crate::rig::{Attached, Node, Port, eventually, within};

const SOON: Duration = Duration::from_secs(40);

/// The Events that came, with where they were sent.
fn events(api: &ApiServer) -> Vec<(String, Value)> {
    let asked = api.asked().into_iter().filter(|asked| asked.method != "GET");
    asked.map(|asked| (asked.target, serde_json::from_str(&asked.body).unwrap())).collect()
}

fn pods_with_entries(node: &Node, api: &ApiServer, count: usize) -> (Flows, Vec<Attached>) {
    let mut flows = Flows::new(node);
    let pods = (0..count).map(|n| pod_without_sandbox(node, api, &mut flows, &format!("p{n}")));
    let pods = pods.collect();
    (flows, pods)
}

#[track_caller]
fn start(node: &Node, api: &ApiServer) -> Daemon {
    let none = node.dir.join("none");
    let daemon = start_unsettled(node, &none, api, &[], &["--interval=500ms"]);
    eventually("it is ready", || daemon.get("/readyz").0 == 200 && api.watching() > 0);
    daemon
}

fn count(daemon: &Daemon, result: &str) -> f64 {
    daemon.metric(&format!("kubernetes_events_total{{result=\"{result}\"}}"))
}

#[test]
fn one_on_the_pod_and_a_burst_on_the_node() {
    let node = node("sources_events", json!({"lingerSeconds": 0}));
    let api = ApiServer::start();
    let (mut flows, pods) = pods_with_entries(&node, &api, 28);
    let daemon = start(&node, &api);
    let [alone, burst @ ..] = &pods[..13] else { unreachable!() };
    node.vanish(alone, Port::Gone);
    flows.forget("p0");
    flows.only(&node, SOON);
    eventually("it is told", || events(&api).len() == 1);
    let (target, event) = events(&api).remove(0);
    assert!(target.starts_with("/api/v1/namespaces/default/events"), "{target}");
    let object = &event["involvedObject"];
    assert_eq!((&object["kind"], &object["name"]), (&json!("Pod"), &json!(alone.name)));
    assert_eq!(object["uid"], json!(alone.uid));
    assert_eq!(event["reason"], "StaleFlowsDeleted");
    let message = event["message"].as_str().unwrap();
    assert!(message.contains("Deleted 15 stale") && message.contains("dead by netns"), "{message}");

    for pod in burst {
        node.vanish(pod, Port::Gone);
        flows.forget(&pod.name);
    }
    flows.only(&node, SOON);
    eventually("nine more pods are told of", || events(&api).len() == 10);
    within(Duration::from_secs(40), "the rest is told together", || events(&api).len() == 11);
    let (target, event) = events(&api).remove(10);
    assert!(target.starts_with("/api/v1/namespaces/default/events"), "{target}");
    assert_eq!(event["involvedObject"]["kind"], "Node");
    assert_eq!(event["involvedObject"]["name"], "n1");
    let message = event["message"].as_str().unwrap();
    assert!(message.contains("Deleted 45 stale OpenFlow entries of 3 pods"), "{message}");
    eventually("it is counted", || count(&daemon, "sent") == 11.0);
    assert_eq!((count(&daemon, "aggregated"), count(&daemon, "failed")), (3.0, 0.0));
    flows.stay(&node, Duration::from_secs(1));
    well(&daemon);
}

#[test]
fn an_api_server_that_takes_no_events_hinders_nothing() {
    let node = node("sources_no_events", json!({"lingerSeconds": 0}));
    let api = ApiServer::start();
    let (mut flows, pods) = pods_with_entries(&node, &api, 8);
    let daemon = start(&node, &api);
    api.every_write(Some(Bad::Status(403, apiserver::status(403, "events is forbidden"))));
    for pod in &pods[..3] {
        node.vanish(pod, Port::Gone);
        flows.forget(&pod.name);
        flows.only(&node, SOON);
    }
    eventually("it is counted", || count(&daemon, "failed") == 3.0);
    // It takes them and never says so.
    api.every_write(Some(Bad::Hang));
    for pod in &pods[3..6] {
        node.vanish(pod, Port::Gone);
        flows.forget(&pod.name);
        flows.only(&node, SOON);
    }
    assert_eq!(count(&daemon, "sent"), 0.0);
    assert!(daemon.metric("source_up{source=\"kubernetes\"}") == 1.0, "watching works");
    within(Duration::from_secs(60), "that is counted, too", || count(&daemon, "failed") == 6.0);
    flows.stay(&node, Duration::from_secs(1));
    well(&daemon);
}

/// What a run of `deliver` writes down.
fn delivered(node: &Node, pod: &Attached) {
    let notes = Registry::open(&node.state_dir).unwrap().deliveries();
    let _lock = notes.lock().unwrap().unwrap();
    let who = Pod { namespace: "default".to_owned(), name: pod.name.clone(), uid: pod.uid.clone() };
    let write = |log: &mut DeliveryLog| {
        log.count("DEL", "tuning", false);
        log.count("DEL", "tuning", false);
        log.leftovers = LEFTOVERS.map(str::to_owned).into_iter().zip([1, 2, 4]).collect();
        let plugins = ["tuning", "ovs"].map(str::to_owned).to_vec();
        let wall_ms = Stamp::now().wall_ms;
        log.ended_ms = wall_ms;
        log.add(DeliveredDel { wall_ms, pod: who, plugins });
    };
    notes.tell(write).unwrap();
}

/// What dashboard and alerts ask for (`manifests/monitoring.rs`) is what is served.
#[test]
fn the_metrics_that_there_are() {
    let node = node("sources_metrics", json!({"ipScope": "cluster", "lingerSeconds": 0}));
    let api = ApiServer::start();
    let (mut flows, pods) = pods_with_entries(&node, &api, 4);
    // Two entries are kept for it.
    api.put(api_pod("elsewhere", "new", "n2", "Running", &[&pods[0].ip]));
    let daemon = start(&node, &api);
    node.vanish(&pods[0], Port::Gone);
    let of_p0 = flows.forget("p0");
    flows.add("of p0", of_p0.into_iter().filter(|l| l.contains("ct_nw_")).collect());
    flows.only(&node, SOON);
    api.delete(&pods[2].uid);
    node.vanish(&pods[2], Port::Gone);
    flows.forget("p2");
    flows.only(&node, SOON);
    eventually("it is told", || count(&daemon, "sent") == 1.0);
    delivered(&node, &pods[2]);
    eventually("the delivery is told", || count(&daemon, "sent") == 2.0);
    let (_, event) = events(&api).remove(1);
    assert_eq!(event["reason"], "MissingDelDelivered", "{event}");
    assert_eq!(event["involvedObject"]["name"], json!(pods[2].name));
    assert_eq!(event["message"], "Delivered its CNI DEL, which never came, to tuning, ovs");
    let calls = "delivery_calls_total{verb=\"DEL\",plugin=\"tuning\",result=\"failed\"}";
    assert_eq!((daemon.metric(calls), daemon.sum("delivery_leftovers")), (2.0, 7.0));
    node.admin(&["pause"]).ok();
    node.vanish(&pods[1], Port::Gone);
    eventually("it is left", || daemon.sum("stale_flows_left") > 0.0);
    flows.stay(&node, Duration::from_millis(300));
    // A family without a sample is not served at all: something of each has happened by now.
    let (_, text) = daemon.get("/metrics");
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    // A bridge is in doubt for moments only, and then it has a sample.
    let moment = |name: &str| name.starts_with("ovs_flow_gc_replica_doubt");
    let types = types.filter(|line| !line.starts_with("process_") && !moment(line));
    let served: BTreeSet<String> = types
        .map(|line| match line.split_once(' ').unwrap() {
            (name, "histogram") => format!("{name}_bucket"),
            (name, _) => name.to_owned(),
        })
        .collect();
    let own = METRICS.iter().filter(|name| **name != "up" && !moment(name));
    let known: BTreeSet<String> = own.clone().map(|name| (*name).to_owned()).collect();
    assert_eq!(served, known);
    for name in own {
        assert!(text.lines().any(|line| line.starts_with(name)), "{name} has no sample: {text}");
    }
}
