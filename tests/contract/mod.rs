//! The contract with the runtime and with the operator (issue 2, scenarios 8 and 13): GC,
//! CHECK, STATUS and VERSION, bad input of every kind, exit codes and what is printed.

mod cli;
mod doctor;
mod gc;
mod health;
mod input;
mod terminal;
mod versions;
mod words;

use std::path::Path;

use crate::rig::{Attached, Call, Node, Outcome, Pod, called, layouts};
use serde_json::Value;

const GC: &str = "ovs-flow-gc";

/// Every version that we speak.
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// A call to us alone, for a pod, with our part of the conflist.
fn call<'n>(node: &'n Node, verb: &str, pod: &Pod) -> Call<'n> {
    node.call(GC, verb).pod(pod).conf(&node.plugin_conf(GC, Some(pod), None))
}

/// The code and the text of a refusal, which is CNI error JSON and nothing else: exit code 1,
/// one object with the specification's keys, no panic.
#[track_caller]
fn refused(outcome: &Outcome) -> (u64, String) {
    assert_eq!(outcome.code, Some(1), "{outcome}");
    let error = outcome.json();
    let keys: Vec<&str> = error.as_object().unwrap().keys().map(String::as_str).collect();
    assert!(keys.iter().all(|k| ["cniVersion", "code", "msg", "details"].contains(k)), "{outcome}");
    assert!(VERSIONS.contains(&error["cniVersion"].as_str().unwrap()), "{outcome}");
    assert!(!outcome.stderr.contains("panicked"), "{outcome}");
    outcome.cni_error()
}

/// Refused with this code and with every one of these words.
#[track_caller]
fn refused_with(outcome: &Outcome, code: u64, words: &[&str]) {
    let (said, text) = refused(outcome);
    assert_eq!(said, code, "{outcome}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {outcome}");
    }
}

/// A call without a result that succeeded: nothing on standard output.
#[track_caller]
fn silent(outcome: Outcome) -> Outcome {
    assert!(outcome.succeeded() && outcome.stdout.is_empty(), "{outcome}");
    outcome
}

/// Pods with a classifier's flows; theirs, pod by pod.
fn pods(node: &Node, names: &[&str]) -> (Vec<Attached>, Vec<Vec<String>>) {
    let mut pods = Vec::new();
    let mut flows = Vec::new();
    for (name, reg) in names.iter().zip(0x1001..) {
        let pod = node.run_pod(name);
        flows.push(node.install("br0", &layouts::classifier(&pod.who(reg))));
        pods.push(pod);
    }
    (pods, flows)
}

fn sorted(parts: &[&[String]]) -> Vec<String> {
    let mut all = parts.concat();
    all.sort();
    all
}

/// Files below a directory, with their content: for "nothing was written".
fn tree(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(tree(&path));
        }
        // The lock is always empty.
        files.push((path.display().to_string(), std::fs::read(&path).unwrap_or_default()));
    }
    files.sort();
    files
}

/// What `list --json` has: pod and state.
#[track_caller]
fn records(node: &Node) -> Vec<(String, String)> {
    let rows = node.admin(&["list", "--no-flows", "--json"]).json();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut rows: Vec<_> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (called(&text(&row["pod"]["name"])), text(&row["state"])))
        .collect();
    rows.sort();
    rows
}
