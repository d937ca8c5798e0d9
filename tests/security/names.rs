//! Hostile names, wherever somebody else chooses them.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::Path;

use ovs_flow_gc::daemon::metrics::{Metrics, plain};
use serde_json::{Value, json};

use crate::rig::{Datapath, Node, Pod, Setup};
use crate::security::{GC, HOSTILE, is_logged, is_plain};

fn node(test: &str) -> Node {
    let _ = fs::remove_file("/tmp/ofg-escaped");
    Setup::new().datapath(Datapath::Dummy).cni_version("1.1.0").up(test)
}

/// Every path below a directory, but for those below `without`.
fn paths(dir: &Path, without: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path == without {
            continue;
        }
        if path.is_dir() && !path.is_symlink() {
            found.extend(paths(&path, without));
        }
        found.insert(path.display().to_string());
    }
    found
}

/// Nothing was made beside the state directory, nor by a shell.
#[track_caller]
fn stayed_inside(node: &Node, before: &BTreeSet<String>) {
    assert_eq!(paths(&node.dir, &node.state_dir), *before);
    for escaped in ["/tmp/ofg-escaped", "/etc/cron.d/ofg-escaped"] {
        assert!(fs::symlink_metadata(escaped).is_err(), "{escaped}");
    }
    // And inside it are only names that we make.
    for path in paths(&node.state_dir, Path::new("")) {
        let name = Path::new(&path).file_name().unwrap().to_str().unwrap().to_owned();
        assert!(!name.chars().any(char::is_control), "{name:?}");
        let known = ["_calls", "lock", "journal", "dead", "podnet", "config.json"]
            .contains(&name.as_str())
            || name.ends_with(".json")
            || name.ends_with(".jsonl");
        assert!(known, "{path}");
    }
}

fn conf(node: &Node, pod: &Pod) -> Value {
    let prev = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "eth0", "mac": "0a:58:0a:f4:01:07", "sandbox": pod.netns_path()}],
        "ips": [{"address": "10.244.1.7/24", "interface": 0}],
    });
    node.plugin_conf(GC, Some(pod), Some(&prev))
}

/// `CNI_*` and CNI_ARGS (a hostile runtime, or a hostile pod through it) and every key of our
/// part of the conflist.
#[test]
fn of_a_request() {
    let node = node("hostile_request");
    let pod = node.pod("web");
    let whole = conf(&node, &pod);
    let before = paths(&node.dir, &node.state_dir);
    let long = "x".repeat(64 << 10);
    let hostile: Vec<&str> = HOSTILE.iter().copied().chain([long.as_str()]).collect();
    let (mut calls, mut refused) = (0, 0);
    let mut judge = |outcome: crate::rig::Outcome, verb: &str| {
        calls += 1;
        is_plain(&outcome);
        if outcome.succeeded() {
            // The result as it came, or nothing.
            let result = if verb == "ADD" { Some(whole["prevResult"].clone()) } else { None };
            assert_eq!(serde_json::from_str::<Value>(&outcome.stdout).ok(), result, "{outcome}");
        } else {
            refused += 1;
            let error = outcome.json();
            assert!(error["code"].as_u64().unwrap() > 0, "{outcome}");
            assert!(outcome.stdout.len() + outcome.stderr.len() < 8_000, "{}", outcome.stdout);
        }
    };
    let variables = ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS", "CNI_ARGS"];
    for value in &hostile {
        for (variable, verb) in variables.iter().flat_map(|v| [(v, "ADD"), (v, "DEL")]) {
            // The kernel takes no NUL in an environment.
            // And no more than 128 kB for one variable.
            let value = value.get(..40_000).unwrap_or(value);
            let value = match *variable {
                "CNI_ARGS" => format!(
                    "IgnoreUnknown=1;K8S_POD_NAMESPACE={value};K8S_POD_NAME={value};K8S_POD_UID={value}"
                ),
                _ => value.to_owned(),
            };
            let value = OsString::from(value.replace('\0', ""));
            let call = node.call(GC, verb).pod(&pod).conf(&whole).env(variable, value);
            judge(call.run(), verb);
        }
        let keys = ["name", "bridge", "reg0", "preset", "cookie", "mode", "logLevel", "match"];
        for (key, verb) in keys.iter().flat_map(|key| [(key, "ADD"), (key, "DEL")]) {
            let mut conf = whole.clone();
            conf[key] = json!(value);
            judge(node.call(GC, verb).pod(&pod).conf(&conf).run(), verb);
        }
        // A key that nobody knows is named; a list and an object in a list's place are shown.
        for (key, verb) in [(*value, "ADD"), (*value, "DEL")] {
            let mut conf = whole.clone();
            conf[key] = json!({ *value: [value] });
            conf["tables"] = json!([value]);
            conf["bridges"] = json!([value]);
            judge(node.call(GC, verb).pod(&pod).conf(&conf).run(), verb);
        }
        // What the plugin before us returned.
        let mut conf = whole.clone();
        conf["prevResult"]["interfaces"][0]["name"] = json!(value);
        conf["prevResult"]["interfaces"][0]["sandbox"] = json!(value);
        conf["prevResult"]["ips"][0]["address"] = json!(value);
        let outcome = node.call(GC, "ADD").pod(&pod).conf(&conf).run();
        is_logged(&outcome);
        assert_eq!(outcome.json(), conf["prevResult"], "{outcome}");
    }
    let texts = [&["list"][..], &["list", "--no-flows"], &["sweep", "--yes", "--details"]];
    for command in texts {
        is_plain(&node.admin(command));
    }
    for value in &hostile {
        let value = value.replace('\0', "");
        for command in [
            vec!["explain", &value],
            vec!["undo", &value],
            vec!["conflist", "add", &value],
            vec!["conflist", "remove", &value],
        ] {
            let outcome = node.admin(&command);
            assert!(!outcome.succeeded(), "{outcome}");
        }
        for command in [["explain", &value], ["undo", &value]] {
            if !value.starts_with('-') {
                is_plain(&node.admin(&command));
            }
        }
    }
    stayed_inside(&node, &before);
    println!("hostile requests: {calls} calls, {refused} refused, 0 escaped");
    assert!(calls > 300 && refused > 100, "{calls} {refused}");
}

/// external_ids (whoever can write into OVSDB): every mark of every CNI that we read, in `adopt`,
/// `sweep`, `list` and `doctor`.
#[test]
fn of_a_ports_marks() {
    let node = node("hostile_marks");
    let before = paths(&node.dir, &node.state_dir);
    let long = "y".repeat(64 << 10);
    let hostile: Vec<String> =
        HOSTILE.iter().map(|text| text.replace('\0', "")).chain([long]).collect();
    let marks = [
        ("Port", &["container-id", "pod-name", "pod-namespace", "net-ns", "if-dev"][..]),
        ("Port", &["owner", "contNetns", "contIface", "contPodUid"]),
        ("Interface", &["sandbox", "iface-id", "iface-id-ver", "ip_addresses", "attached_mac"]),
        ("Interface", &["vendor", "pod_name", "pod_namespace", "pod_netns", "ip"]),
        ("Interface", &["netns", "k8s_pod_name", "k8s_pod_namespace"]),
        ("Interface", &["container_id", "container_iface"]),
    ];
    let mut ports = 0;
    for (n, value) in hostile.iter().enumerate() {
        for (m, (table, keys)) in marks.iter().enumerate() {
            let port = format!("p{n}m{m}");
            let mut args: Vec<String> =
                ["add-port", "br0", &port, "--", "set", table, &port].map(str::to_owned).to_vec();
            // As ovs-vsctl reads a string: JSON.
            args.extend(keys.iter().map(|key| format!("external_ids:{key}={}", json!(value))));
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            node.ovs_vsctl(&args);
            ports += 1;
        }
    }
    // One that is as it should be, but for its pod's name.
    let pod = node.pod("web");
    node.ovs_vsctl(&[
        "add-port",
        "br0",
        "good",
        "--",
        "set",
        "Port",
        "good",
        "external_ids:antrea-type=container",
        &format!("external_ids:container-id={}", pod.container),
        &format!("external_ids:net-ns={}", pod.netns_path()),
        "external_ids:pod-namespace=default",
        &format!("external_ids:pod-name={}", json!("web\n2026-11-21T10:11:11.123Z WARN forged")),
    ]);
    let net_dir = node.conflist_path().parent().unwrap().display().to_string();
    let adopt = ["adopt", "--net-dir", &net_dir, "--cache-dir", "/nonexistent"];
    let adopted = node.admin(&adopt);
    is_plain(&adopted);
    assert!(matches!(adopted.code, Some(0 | 3)), "{adopted}");
    for command in [
        &["sweep", "--details"][..],
        &["sweep", "--dry-run", "--details"],
        &["list"],
        &["doctor", "--net-dir", &net_dir],
    ] {
        is_plain(&node.admin(command));
    }
    let listed = node.admin(&["list", "--no-flows", "--json"]).json();
    let rows = listed.as_array().unwrap();
    let good = rows.iter().find(|row| row["containerID"] == pod.container.as_str());
    assert!(good.is_some_and(|row| row["pod"].is_null()), "{listed}");
    for row in rows {
        let id = row["containerID"].as_str().unwrap();
        let is_name = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        assert!(id.chars().all(is_name), "{id:?}");
    }
    stayed_inside(&node, &before);
    println!("hostile marks: {ports} ports, {} adopted, 0 escaped", rows.len());
}

/// A bridge's name is OVSDB's; as a label it cannot become a sample of its own.
#[test]
fn of_a_metric() {
    let metrics = Metrics::new();
    for (n, value) in HOSTILE.iter().enumerate() {
        let label = [("bridge", (*value).to_owned())];
        metrics.dump_flows.get_or_create(&label).set(i64::try_from(n).unwrap());
    }
    let open = metrics.encode().unwrap();
    let baseline = Metrics::new().encode().unwrap();
    let lines = |text: &str| text.split('\n').count();
    // A family without samples is left out: two lines of its own say what it is.
    assert_eq!(lines(&open), lines(&baseline) + 2 + HOSTILE.len(), "{open}");
    for text in [open.clone(), plain(&open)] {
        for line in text.split('\n') {
            assert!(!line.starts_with("forged") && !line.starts_with("# HELP forged"), "{line:?}");
            let named = ["#", "ovs_flow_gc_", "process_"].iter().any(|ours| line.starts_with(ours));
            let ours = line.is_empty() || named;
            assert!(ours, "{line:?}");
        }
    }
}
