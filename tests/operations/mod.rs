//! What an operator does: adopts what was there before, watches, stops, undoes, asks why.

mod adopt;
mod bug_report;
mod image;
mod journal;
mod json_page;
mod mass_death_guard;
mod multus;
mod pause;
mod undo;
mod watch;

use crate::rig::{Node, called};
use serde_json::Value;

/// A sweep, and what it says.
#[track_caller]
fn sweep(node: &Node, args: &[&str]) -> Value {
    let outcome = node.admin(&[&["sweep", "--json"], args].concat());
    assert!(matches!(outcome.code, Some(0 | 3)), "{outcome}");
    outcome.json()
}

/// How many entries a sweep deleted.
fn deleted(report: &Value) -> u64 {
    report["bridges"].as_array().unwrap().iter().map(|b| b["deleted"].as_u64().unwrap()).sum()
}

/// How many it found stale.
fn stale(report: &Value) -> u64 {
    report["bridges"].as_array().unwrap().iter().map(|b| b["stale"].as_u64().unwrap()).sum()
}

/// `undo --list`, the newest first.
#[track_caller]
fn journals(node: &Node) -> Vec<Value> {
    let list = node.admin(&["undo", "--list", "--json"]);
    assert_eq!(list.code, Some(0), "{list}");
    list.json().as_array().unwrap().clone()
}

/// Records, the dead ones too: pod, state.
#[track_caller]
fn records(node: &Node) -> Vec<(String, String)> {
    let list = node.admin(&["list", "--no-flows", "--json"]);
    assert_eq!(list.code, Some(0), "{list}");
    let rows = list.json().as_array().unwrap().clone();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut rows: Vec<_> =
        rows.iter().map(|row| (called(&text(&row["pod"]["name"])), text(&row["state"]))).collect();
    rows.sort();
    rows
}

fn sorted(parts: &[&[String]]) -> Vec<String> {
    let mut all = parts.concat();
    all.sort();
    all
}
