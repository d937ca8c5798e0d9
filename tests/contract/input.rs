//! Bad input: the right CNI code, a message that names the field, nothing written, no panic.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use serde_json::{Value, json};

use crate::contract::{GC, pods, refused, refused_with, silent, sorted, tree};
use crate::rig::{Datapath, Node, Pod, Setup};

/// Longer than what we read.
const OVERSIZED: usize = (8 << 20) + 1;

fn node(test: &str) -> Node {
    Setup::new().datapath(Datapath::Dummy).cni_version("1.1.0").up(test)
}

/// A whole configuration of ADD. The port is not on the switch: whoever gets that far writes
/// a record.
fn conf(node: &Node, pod: &Pod) -> Value {
    let prev = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "eth0", "mac": "0a:58:0a:f4:01:07", "sandbox": pod.netns_path()}],
        "ips": [{"address": "10.244.1.7/24", "interface": 0}],
    });
    node.plugin_conf(GC, Some(pod), Some(&prev))
}

fn with(conf: &Value, key: &str, value: Value) -> Value {
    let mut conf = conf.clone();
    conf[key] = value;
    conf
}

fn bytes(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}

/// Whatever was tried, nothing is written: not in the state directory, not beside it.
#[track_caller]
fn nothing_written(node: &Node) {
    assert_eq!(tree(&node.state_dir), [], "{}", node.state_dir.display());
    let parent = std::fs::read_dir(&node.dir).unwrap().flatten();
    let mut names: Vec<_> = parent.map(|e| e.file_name().into_string().unwrap()).collect();
    names.retain(|name| name != "state");
    names.sort();
    assert_eq!(names, ["calls", "etc", "opt", "run", "var-lib"]);
}

#[test]
fn tricks_in_ids_and_names_never_become_a_path() {
    let node = node("input_ids");
    let pod = node.pod("web");
    let conf = conf(&node, &pod);
    let long = "c".repeat(201);
    let ids: [&[u8]; 14] = [
        b"..",
        b".",
        b"../../../tmp/x",
        b"a/b",
        b"/etc/passwd",
        b".hidden",
        b"-rf",
        b"a:b",
        b"a b",
        b"a\nb",
        b"\xc3\xa4",
        b"a\xffb",
        b"%2e%2e%2f",
        long.as_bytes(),
    ];
    for id in ids {
        for verb in ["ADD", "DEL", "CHECK"] {
            let call = node.call(GC, verb).pod(&pod).conf(&conf);
            let (code, text) = refused(&call.env("CNI_CONTAINERID", bytes(id)).run());
            assert_eq!(code, 4, "{text}");
            let named = text.contains("containerID") || text.contains("CNI_CONTAINERID");
            assert!(named, "{verb} {:?}: {text}", String::from_utf8_lossy(id));
        }
    }
    let ifnames: [&[u8]; 9] =
        [b"..", b".", b"../x", b"a/b", b"a:b", b"a b", b"eth0\n", b"a\xff", b"sixteencharacter"];
    for ifname in ifnames {
        for verb in ["ADD", "DEL", "CHECK"] {
            let call = node.call(GC, verb).pod(&pod).conf(&conf);
            let (code, text) = refused(&call.env("CNI_IFNAME", bytes(ifname)).run());
            assert_eq!(code, 4, "{text}");
            assert!(text.contains("ifname") || text.contains("CNI_IFNAME"), "{verb}: {text}");
        }
    }
    for name in ["..", "../../tmp/x", "a/b", ".dead", "", "a b", "ä", "a\u{0}b", &long] {
        for verb in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
            let named = with(&conf, "name", json!(name));
            let outcome = node.call(GC, verb).pod(&pod).conf(&named).run();
            refused_with(&outcome, 7, &["network name"]);
        }
    }
    nothing_written(&node);
}

#[test]
fn names_that_are_only_unusual_are_taken() {
    let node = node("input_unusual");
    let pod = node.pod("web");
    for (network, container, ifname) in [
        ("journal", "lock", "config.json"),
        ("lock", "dead", "a.7"),
        ("paused", "0", "eth0@if7"),
        ("N_e.t-1", "A_b.C-9", "-x"),
    ] {
        let conf = with(&conf(&node, &pod), "name", json!(network));
        for verb in ["ADD", "ADD", "DEL", "DEL"] {
            let call = node.call(GC, verb).pod(&pod).conf(&conf);
            let call = call.env("CNI_CONTAINERID", container).env("CNI_IFNAME", ifname);
            let outcome = call.run();
            assert!(outcome.succeeded(), "{network} {verb}: {outcome}");
        }
    }
    assert_eq!(node.admin(&["list"]).code, Some(0));
    assert_eq!(node.admin(&["undo", "--list"]).code, Some(0));
}

#[test]
fn what_is_not_a_json_object_is_refused() {
    let node = node("input_json");
    let pod = node.pod("web");
    let whole = conf(&node, &pod).to_string();
    let mut bad: Vec<Vec<u8>> = (0..whole.len()).step_by(37).map(|n| whole[..n].into()).collect();
    let deep = 200_000;
    bad.extend([
        b"[]".to_vec(),
        format!("[{whole}]").into_bytes(),
        b"null".to_vec(),
        b"7".to_vec(),
        b"\"x\"".to_vec(),
        b"\0\0\0\0".to_vec(),
        b"\xff\xfe{}".to_vec(),
        format!("{whole}{whole}").into_bytes(),
        format!("{whole}garbage").into_bytes(),
        whole.replace("podnet", "pod\u{fffd}").replace('\u{fffd}', "\u{1}").into_bytes(),
        whole.clone().into_bytes().iter().map(|b| if *b == b'p' { 0xff } else { *b }).collect(),
        "[".repeat(deep).into_bytes(),
        "{\"a\":".repeat(deep).into_bytes(),
        format!("{{\"prevResult\":{}", "[".repeat(deep)).into_bytes(),
        whole.replacen('{', "{\"timeoutMs\":1e999,", 1).into_bytes(),
    ]);
    for stdin in bad {
        for verb in ["ADD", "DEL"] {
            let outcome = node.call(GC, verb).pod(&pod).stdin(stdin.clone()).run();
            refused_with(&outcome, 6, &["configuration"]);
        }
    }
    for verb in ["GC", "STATUS", "CHECK"] {
        refused_with(&node.call(GC, verb).pod(&pod).stdin("{").run(), 6, &["configuration"]);
    }
    nothing_written(&node);
}

#[test]
fn oversized_input_is_refused_without_being_read_to_its_end() {
    let node = node("input_oversized");
    let pod = node.pod("web");
    let mut whole = conf(&node, &pod).to_string();
    whole.push_str(&" ".repeat(OVERSIZED - whole.len()));
    for verb in ["ADD", "DEL", "GC"] {
        let outcome = node.call(GC, verb).pod(&pod).stdin(whole.clone()).run();
        refused_with(&outcome, 6, &["configuration", "bytes"]);
    }
    nothing_written(&node);
    // VERSION answers whatever it is asked with.
    assert!(node.call(GC, "VERSION").stdin(whole.clone()).run().succeeded());
    whole.truncate(OVERSIZED - 1);
    let outcome = node.call(GC, "ADD").pod(&pod).stdin(whole).run();
    assert!(outcome.succeeded(), "{outcome}");
}

#[test]
fn what_the_specification_wants_is_named_when_it_is_wrong() {
    let node = node("input_spec");
    let pod = node.pod("web");
    let good = conf(&node, &pod);
    let mut without_version = good.clone();
    without_version.as_object_mut().unwrap().remove("cniVersion");
    let mut nameless = good.clone();
    nameless.as_object_mut().unwrap().remove("name");
    for (conf, code, words) in [
        (without_version, 1, &["cniVersion", "missing", "1.1.0"][..]),
        (with(&good, "cniVersion", json!("9.9.9")), 1, &["9.9.9", "0.3.1", "1.1.0"]),
        (with(&good, "cniVersion", json!(1.1)), 7, &["\"cniVersion\"", "string"]),
        (with(&good, "cniVersion", Value::Null), 7, &["\"cniVersion\"", "string"]),
        (with(&good, "cniVersion", json!("9".repeat(100_000))), 1, &["cniVersion"]),
        (nameless, 7, &["\"name\"", "missing"]),
        (with(&good, "name", json!(7)), 7, &["\"name\"", "string"]),
        (with(&good, "name", json!(["podnet"])), 7, &["\"name\"", "string"]),
    ] {
        for verb in ["ADD", "DEL"] {
            let outcome = node.call(GC, verb).pod(&pod).conf(&conf).run();
            refused_with(&outcome, code, words);
            assert!(outcome.stdout.len() < 2_000, "{outcome}");
        }
    }
    nothing_written(&node);
}

#[test]
fn add_needs_a_prev_result_and_del_does_not() {
    let node = node("input_prev_result");
    let pod = node.pod("web");
    let good = conf(&node, &pod);
    let mut without = good.clone();
    without.as_object_mut().unwrap().remove("prevResult");
    let odd = [json!([]), json!("x"), json!(7), json!(true), json!([good["prevResult"]])];
    let all = odd.into_iter().map(|odd| with(&good, "prevResult", odd));
    for conf in all.chain([without, with(&good, "prevResult", Value::Null)]) {
        let outcome = node.call(GC, "ADD").pod(&pod).conf(&conf).run();
        refused_with(&outcome, 7, &["prevResult"]);
        nothing_written(&node);
        silent(node.call(GC, "DEL").pod(&pod).conf(&conf).run());
        let _ = std::fs::remove_dir_all(&node.state_dir);
    }
    // Twice: nobody knows which one is meant.
    let twice = good.to_string().replacen('{', "{\"prevResult\":{},", 1);
    let outcome = node.call(GC, "ADD").pod(&pod).stdin(twice.clone()).run();
    refused_with(&outcome, 6, &["duplicate", "prevResult"]);
    nothing_written(&node);
    silent(node.call(GC, "DEL").pod(&pod).stdin(twice).run());
}

#[test]
fn of_a_prev_result_only_what_is_well_formed_is_taken() {
    let node = node("input_odd_result");
    let pod = node.pod("web");
    let netns = pod.netns_path();
    for (index, prev) in [
        json!({}),
        json!({"interfaces": null, "ips": null}),
        json!({"interfaces": {}, "ips": "10.0.0.1"}),
        json!({"interfaces": [null, 7, "x", {}, {"name": 7, "mac": [], "sandbox": {}}],
            "ips": [null, 7, {}, {"address": 7}, {"address": "x/y", "interface": "0"},
                {"address": "10.0.0.5/24", "interface": -1},
                {"address": "10.0.0.6/24", "interface": 99},
                {"address": "10.0.0.7/24", "interface": 1e30}]}),
        json!({"interfaces": [{"name": "eth0", "sandbox": netns, "mac": "not a mac"}],
            "ips": [{"address": "10.0.0.5/99", "interface": 0},
                {"address": "999.0.0.5/24", "interface": 0},
                {"address": "0.0.0.0/0", "interface": 0}]}),
    ]
    .into_iter()
    .enumerate()
    {
        let conf = with(&conf(&node, &pod), "prevResult", prev.clone());
        let call = node.call(GC, "ADD").pod(&pod).env("CNI_IFNAME", format!("net{index}"));
        let outcome = call.conf(&conf).run();
        assert!(outcome.succeeded(), "{outcome}");
        assert_eq!(outcome.json(), prev);
    }
    for row in node.admin(&["list", "--json", "--no-flows"]).json().as_array().unwrap() {
        assert_eq!((&row["ips"], &row["macs"]), (&json!([]), &json!([])), "{row}");
    }
}

#[test]
fn a_huge_prev_result_comes_back_as_it_was() {
    let node = node("input_huge_result");
    let pod = node.pod("web");
    let mut conf = conf(&node, &pod);
    let route = |n: u32| json!({"dst": format!("10.{}.{}.0/24", n >> 8, n & 0xff)});
    conf["prevResult"]["routes"] = (0..60_000).map(route).collect();
    let outcome = node.call(GC, "ADD").pod(&pod).conf(&conf).run();
    assert!(outcome.succeeded(), "{outcome}");
    assert_eq!(outcome.stdout, conf["prevResult"].to_string());
    // So many addresses of its own that the record would be too large: an error, no record.
    let ip =
        |n: u32| json!({"address": format!("10.{}.{}.7/24", n >> 8, n & 0xff), "interface": 0});
    conf["prevResult"]["interfaces"][0]["name"] = json!("net1");
    conf["prevResult"]["ips"] = (0..20_000).map(ip).collect();
    let call = node.call(GC, "ADD").pod(&pod).env("CNI_IFNAME", "net1");
    refused_with(&call.conf(&conf).run(), 5, &["net1.json", "bytes"]);
    let rows = node.admin(&["list", "--json", "--no-flows"]).json();
    assert_eq!(rows.as_array().unwrap().len(), 1, "{rows}");
}

/// Each key with values of the wrong type and absurd numbers.
fn wrong_values() -> Vec<(&'static str, Value)> {
    vec![
        ("bridge", json!(7)),
        ("bridge", json!("../x")),
        ("bridges", json!("br0")),
        ("bridges", json!([null])),
        ("tables", json!(7)),
        ("tables", json!([300])),
        ("tables", json!([-1])),
        ("cookie", json!(-5)),
        ("cookie", json!("0x1/0x0")),
        ("cookie", json!("0x1/0x1/0x1")),
        ("cookie", json!("0x11111111111111111/0x0")),
        ("reg0", json!(true)),
        ("reg0", json!("externalId:")),
        ("register", json!("reg99")),
        ("register", json!(0)),
        ("registerMask", json!("0x1ffffffff")),
        ("registerMask", json!("0xf0f0")),
        ("match", json!("ip")),
        ("match", json!(["vlan"])),
        ("preset", json!("calico")),
        ("ipScope", json!("world")),
        ("mode", json!(1)),
        ("conntrack", json!(1)),
        ("reapDangling", json!("true")),
        ("reapPorts", json!({})),
        ("lingerSeconds", json!(-1)),
        ("lingerSeconds", json!(1e300)),
        ("lingerSeconds", json!(1.5)),
        ("lingerSeconds", json!(u64::MAX)),
        ("timeoutMs", json!("soon")),
        ("timeoutMs", json!(0)),
        ("timeoutMs", json!(u64::MAX)),
        ("stateDir", json!("run/x")),
        ("stateDir", json!("/tmp/\u{0}x")),
        ("stateDir", json!([])),
        ("ovsRunDir", json!("relative")),
        ("logLevel", json!("loud")),
        ("logFile", json!("relative")),
        ("lingerSecond", json!(3)),
        ("statedir", json!("/tmp/x")),
        ("frobnicate", json!(null)),
    ]
}

#[test]
fn add_refuses_a_configuration_it_does_not_understand_and_names_the_key() {
    let node = node("input_keys");
    let pod = node.pod("web");
    let good = conf(&node, &pod);
    for (key, value) in wrong_values() {
        let outcome = node.call(GC, "ADD").pod(&pod).conf(&with(&good, key, value)).run();
        refused_with(&outcome, 7, &[&format!("{key:?}")]);
    }
    for (key, nearest) in [("lingerSecond", "lingerSeconds"), ("statedir", "stateDir")] {
        let outcome = node.call(GC, "ADD").pod(&pod).conf(&with(&good, key, json!(3))).run();
        refused_with(&outcome, 7, &[&format!("{nearest:?}")]);
    }
    nothing_written(&node);
}

#[test]
fn del_warns_of_a_configuration_it_does_not_understand_and_does_its_work() {
    let node = node("input_keys_del");
    // Without its stateDir it would go to the default one, which is this machine's.
    let wrong: Vec<_> = wrong_values().into_iter().filter(|(key, _)| *key != "stateDir").collect();
    let names: Vec<String> = (0..wrong.len()).map(|n| format!("p{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (pods, flows) = pods(&node, &names);
    // The last one has nobody beside it any more who shows that registers are pods' own.
    let (last, rest) = pods.split_last().unwrap();
    for ((pod, flows), (key, value)) in rest.iter().zip(&flows).zip(wrong) {
        let conf = with(&conf(&node, pod), key, value);
        let outcome = silent(node.call(GC, "DEL").pod(pod).conf(&conf).run());
        assert!(outcome.stderr.contains(&format!("{key:?}")), "{outcome}");
        let left = node.dump("br0");
        assert!(!flows.iter().any(|flow| left.contains(flow)), "{key}: {left:#?}");
    }
    assert_eq!(node.dump("br0"), *flows.last().unwrap(), "{}", last.name);
}

/// Nothing is recorded, and what may be deleted cannot be read: then nobody knows. An unknown
/// key beside a scope that can be read does no harm.
#[test]
fn del_without_a_record_does_not_guess_its_scope() {
    let node = node("input_scope");
    let (pods, flows) = pods(&node, &["one", "two"]);
    std::fs::remove_dir_all(&node.state_dir).unwrap();
    let del = |pod: &Pod, key: &str, value: Value| {
        let outcome = node.call(GC, "DEL").pod(pod).conf(&with(&conf(&node, pod), key, value));
        silent(outcome.run())
    };
    for (key, value) in [("mode", json!("obsreve")), ("tables", json!("3")), ("cookie", json!(7))] {
        del(&pods[0], key, value);
        assert_eq!(node.dump("br0"), sorted(&[&flows[0], &flows[1]]), "{key}");
        std::fs::remove_dir_all(&node.state_dir).unwrap();
    }
    del(&pods[0], "lingerSecond", json!(3));
    let left = node.dump("br0");
    let of_its_port = format!("in_port={},", pods[0].ofport);
    assert!(!left.iter().any(|flow| flow.contains(&of_its_port)), "{left:#?}");
    assert!(flows[1].iter().all(|flow| left.contains(flow)), "{left:#?}");
}

#[test]
fn a_missing_or_unreadable_variable_is_named() {
    let node = node("input_env");
    let pod = node.pod("web");
    let conf = conf(&node, &pod);
    for (verb, needed) in [
        ("ADD", &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"][..]),
        ("CHECK", &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]),
        ("DEL", &["CNI_CONTAINERID", "CNI_IFNAME"]),
    ] {
        for name in needed {
            let call = || node.call(GC, verb).pod(&pod).conf(&conf);
            refused_with(&call().without(name).run(), 4, &[name]);
            refused_with(&call().env(name, "").run(), 4, &[name]);
            refused_with(&call().env(name, bytes(b"a\xff")).run(), 4, &[name]);
            refused_with(&call().env(name, "x".repeat(100_000)).run(), 4, &[name]);
        }
        let bare = node.call(GC, verb).conf(&conf).run();
        refused_with(&bare, 4, needed);
    }
    for bad in ["", "FROB", "add", "ADD ", "ADD\nDEL"] {
        refused_with(&node.call(GC, bad).pod(&pod).conf(&conf).run(), 4, &["CNI_COMMAND"]);
    }
    let call = node.call(GC, "ADD").pod(&pod).conf(&conf);
    refused_with(&call.env("CNI_COMMAND", bytes(b"ADD\xff")).run(), 4, &["CNI_COMMAND"]);
    let call = node.call(GC, "ADD").pod(&pod).conf(&conf);
    refused_with(&call.env("CNI_ARGS", bytes(b"K8S_POD_NAME=\xff")).run(), 4, &["CNI_ARGS"]);
    nothing_written(&node);
}

#[test]
fn del_can_do_without_a_netns_and_without_args() {
    let node = node("input_env_del");
    let (pods, flows) = pods(&node, &["one", "two", "three", "live"]);
    for (pod, (key, odd)) in pods.iter().zip([
        ("CNI_NETNS", bytes(b"/run/netns/\xff")),
        ("CNI_ARGS", bytes(b"K8S_POD_NAME=\xff")),
        ("CNI_ARGS", "x".repeat(100_000).into()),
    ]) {
        let conf = conf(&node, pod);
        silent(node.call(GC, "DEL").pod(pod).conf(&conf).env(key, odd).run());
    }
    assert_eq!(node.dump("br0"), flows[3]);
}

#[test]
fn args_of_other_runtimes_and_hostile_ones_are_only_text() {
    let node = node("input_args");
    for args in [
        "",
        ";;;=;",
        "K8S_POD_NAME",
        "K8S_POD_NAME=\u{1b}[2Jx;K8S_POD_NAMESPACE=../..",
        "K8S_POD_NAME=a=b=c;K8S_POD_NAMESPACE=",
    ] {
        let pod = node.pod("web");
        let conf = conf(&node, &pod);
        let outcome = node.call(GC, "ADD").pod(&pod).env("CNI_ARGS", args).conf(&conf).run();
        assert!(outcome.succeeded(), "{outcome}");
    }
    let table = node.admin(&["list"]).ok();
    assert_eq!(table.lines().count(), 6, "{table}");
    assert!(!table.contains('\u{1b}'), "{table:?}");
}
