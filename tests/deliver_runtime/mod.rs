//! `deliver` beside a real containerd with CRI and the daemon that asks it.

mod containerd;
mod gc;

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::rig::{Datapath, Node, Outcome, Setup};

/// A node whose pods need not reach each other.
fn node(test: &str) -> Node {
    let conf = json!({"lingerSeconds": 0, "reg0": "pod"});
    Setup::new().datapath(Datapath::Dummy).gc_conf(conf).up(test)
}

fn at(path: PathBuf) -> String {
    path.display().to_string()
}

fn arguments(node: &Node, args: &[&str]) -> Vec<String> {
    let of = |option: &str, path: PathBuf| format!("{option}={}", at(path));
    let places = [
        of("--cache-dir", node.dir.join("var-lib/cni/results")),
        of("--net-dir", node.dir.join("etc/cni/net.d")),
        of("--cni-path", node.cni_bin()),
        of("--runtime-dir", node.dir.join("sandboxes")),
    ];
    let words = ["deliver", "--json"].into_iter().chain(args.iter().copied());
    words.map(str::to_owned).chain(places).collect()
}

/// The containers that host-local has leases of.
fn lease_holders(node: &Node) -> Vec<String> {
    let files = fs::read_dir(node.dir.join("ipam/podnet")).into_iter().flatten().flatten();
    let named = files.filter(|file| {
        file.file_name().to_string_lossy().starts_with(|c: char| c.is_ascii_digit() || c == 'f')
    });
    let texts = named.filter_map(|file| fs::read_to_string(file.path()).ok());
    let mut holders: Vec<String> =
        texts.filter_map(|text| Some(text.lines().next()?.trim().to_owned())).collect();
    holders.sort();
    holders.dedup();
    holders
}

/// The only network's GC.
#[track_caller]
fn collected(outcome: &Outcome) -> Value {
    let found = outcome.json();
    assert_eq!(found["gc"].as_array().map(Vec::len), Some(1), "{outcome}");
    found["gc"][0].clone()
}
