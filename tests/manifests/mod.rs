//! What is under conf/ and is no code: manifests, alert rules, the dashboard, the image. Each is
//! given to the tool that will read it. (Units are in `install_sh.rs`.)
//!
//! No API server takes part: there is no package of one. What kubectl renders is read into the
//! types of Kubernetes' own schema and has to come out again unchanged, so that a field which the
//! API server would drop or refuse is found here.

mod cluster;
mod containers;
mod image;
mod kubernetes;
mod kustomize;
pub(crate) mod metrics;
mod monitoring;
mod node;
mod workflows;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

pub(crate) fn at(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

pub(crate) fn text(path: &str) -> String {
    fs::read_to_string(at(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// What a command printed, if it succeeded; with `stdin`.
#[track_caller]
fn run(command: &mut Command, stdin: &str) -> String {
    let missing = |e| panic!("{command:?}: {e}; tests/run.sh --setup installs it");
    let mut child = Command::new(command.get_program())
        .args(command.get_args())
        .current_dir(command.get_current_dir().unwrap_or(Path::new("/")))
        .envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(missing);
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The documents of a YAML text. Debian's Python, not one of a developer's own.
#[track_caller]
fn yaml(text: &str) -> Vec<Value> {
    let load = "import json, sys, yaml; json.dump(list(yaml.safe_load_all(sys.stdin)), sys.stdout)";
    let json = run(Command::new("/usr/bin/python3").args(["-c", load]), text);
    serde_json::from_str(&json).unwrap()
}

/// Every file of these names below a directory.
fn files(directory: &str, extension: &str) -> Vec<PathBuf> {
    let (mut todo, mut found) = (vec![at(directory)], Vec::new());
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn every_yaml_file_can_be_read_and_json_too() {
    let found = files("conf", "yaml");
    assert!(found.len() >= 15, "{found:?}");
    for file in found {
        let documents = yaml(&fs::read_to_string(&file).unwrap());
        let empty = documents.iter().any(Value::is_null);
        assert!(!documents.is_empty() && !empty, "{}", file.display());
    }
    for file in files("conf", "json") {
        let read = serde_json::from_str::<Value>(&fs::read_to_string(&file).unwrap());
        assert!(read.is_ok(), "{}: {read:?}", file.display());
    }
}
