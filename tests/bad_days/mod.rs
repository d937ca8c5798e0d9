//! Bad days: the switch or its database away, hung or restarted, namespaces that cannot be
//! seen, rows and numbers that change hands, bridges that speak little, entries that look
//! alike.

mod dialects;
mod doubt;
mod numbers;
mod outage;
mod rows;

use std::ops::Deref;
use std::time::Duration;

use crate::rig::{Attached, Node, Outcome, Setup, eventually, layouts};
use serde_json::{Value, json};

/// What a call may take beyond `timeoutMs`: the lock's grace of 500 ms, and a busy machine.
const SMALL: Duration = Duration::from_secs(10);

/// A pod with its entries, as a dump shows them.
struct PodWithFlows {
    pod: Attached,
    reg: u32,
    flows: Vec<String>,
}

impl Deref for PodWithFlows {
    type Target = Attached;

    fn deref(&self) -> &Attached {
        &self.pod
    }
}

/// A node whose tombstones do not linger, and whose calls give up after `timeoutMs`.
fn hasty_node(test: &str, timeout_ms: u64) -> Node {
    let keys = json!({"timeoutMs": timeout_ms, "lingerSeconds": 0});
    Setup::new().gc_conf(keys).up(test)
}

/// The classifier's own entries, and a pod with its entries per name.
fn settle<const N: usize>(node: &Node, names: [&str; N]) -> (Vec<String>, [PodWithFlows; N]) {
    let base = node.install("br0", &layouts::classifier_base());
    let mut reg = 0x1000;
    let tenants = names.map(|name| {
        reg += 1;
        with_flows(node, node.run_pod(name), reg)
    });
    (base, tenants)
}

/// Installs a pod's entries.
fn with_flows(node: &Node, pod: Attached, reg: u32) -> PodWithFlows {
    let flows = node.install("br0", &layouts::classifier(&pod.who(reg)));
    PodWithFlows { pod, reg, flows }
}

/// These entries and no others are on the bridge.
#[track_caller]
fn only(node: &Node, parts: &[&[String]]) {
    let mut left = parts.concat();
    left.sort();
    let now = node.dump("br0");
    let missing: Vec<_> = left.iter().filter(|flow| !now.contains(flow)).collect();
    let beyond: Vec<_> = now.iter().filter(|flow| !left.contains(flow)).collect();
    assert!(
        missing.is_empty() && beyond.is_empty(),
        "gone: {missing:#?}\nstill there: {beyond:#?}"
    );
    assert_eq!(now.len(), left.len());
}

/// Whether all of these entries are on the bridge.
#[track_caller]
fn must_have(node: &Node, flows: &[String]) {
    let now = node.dump("br0");
    let missing: Vec<_> = flows.iter().filter(|flow| !now.contains(flow)).collect();
    assert!(missing.is_empty(), "gone: {missing:#?}");
}

/// Which of these entries are still on the bridge.
#[track_caller]
fn still_there(node: &Node, flows: &[String]) -> Vec<String> {
    let now = node.dump("br0");
    flows.iter().filter(|flow| now.contains(flow)).cloned().collect()
}

/// The DEL of `ovs-flow-gc` alone, as the chain makes it.
#[track_caller]
fn our_del(node: &Node, pod: &Attached) -> Outcome {
    let conf = node.plugin_conf("ovs-flow-gc", Some(pod), Some(&pod.result));
    node.call_for(&conf, "DEL", pod).run()
}

/// A DEL of ours that succeeds within this time though the switch cannot be asked, and leaves a
/// tombstone that says why.
#[track_caller]
fn del_gives_up(node: &Node, pod: &Attached, within: Duration) -> String {
    let outcome = our_del(node, pod);
    assert!(outcome.succeeded(), "{outcome}");
    assert!(outcome.took < within, "{outcome}");
    assert!(outcome.stderr.contains("the next sweep goes on"), "{outcome}");
    let tombstone = tombstone_of(node, pod);
    assert_eq!(tombstone["state"], "deleting", "{tombstone}");
    tombstone["lastError"].as_str().unwrap().to_owned()
}

/// `ovs-flow-gc list`.
#[track_caller]
fn list(node: &Node) -> Vec<Value> {
    let listed = node.admin(&["list", "--no-flows", "--json"]);
    assert!(listed.succeeded(), "{listed}");
    listed.json().as_array().unwrap().clone()
}

/// Records of dead attachments.
#[track_caller]
fn tombstones(node: &Node) -> Vec<Value> {
    let mut all = list(node);
    all.retain(|record| record["state"] != "active");
    all
}

/// The only tombstone of this pod.
#[track_caller]
fn tombstone_of(node: &Node, pod: &Attached) -> Value {
    let mut found = tombstones(node);
    found.retain(|record| record["containerID"] == pod.container.as_str());
    assert_eq!(found.len(), 1, "{found:#?}");
    found.remove(0)
}

/// The record of this pod while it lives.
#[track_caller]
fn record_of(node: &Node, pod: &Attached) -> Value {
    let mut found = list(node);
    found.retain(|r| r["containerID"] == pod.container.as_str() && r["state"] == "active");
    assert_eq!(found.len(), 1, "{found:#?}");
    found.remove(0)
}

/// A sweep that has nothing to complain of.
#[track_caller]
fn sweep(node: &Node) -> Value {
    let swept = node.admin(&["sweep", "--json"]);
    assert!(swept.succeeded(), "{swept}");
    swept.json()
}

/// A sweep that finishes everything; another one, if this machine was too slow to tell the age
/// of what was made right before the death.
#[track_caller]
fn sweep_finishes(node: &Node) {
    let mut swept = Value::Null;
    eventually("sweeps are in time", || {
        swept = sweep(node);
        let kept: Vec<&Value> =
            swept["targets"].as_array().unwrap().iter().map(|t| &t["kept"]).collect();
        let too_late = kept
            .iter()
            .any(|k| k.as_object().is_some_and(|k| k.keys().eq(["created-after-death"])));
        tombstones(node).is_empty() || !too_late
    });
    assert!(tombstones(node).is_empty(), "{:#?}\n{swept:#}", tombstones(node));
}
