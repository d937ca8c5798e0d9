//! VERSION, and what each cniVersion allows.

use serde_json::{Value, json};

use crate::contract::{GC, VERSIONS, refused_with, silent, tree};
use crate::rig::{Datapath, Node, Pod, Setup};

fn node(test: &str) -> Node {
    Setup::new().datapath(Datapath::Dummy).up(test)
}

fn conf(node: &Node, version: &str) -> Value {
    let mut conf = node.plugin_conf(GC, None, None);
    conf["cniVersion"] = json!(version);
    conf
}

#[test]
fn version_tells_what_we_speak_whatever_it_is_asked_with() {
    let node = node("version");
    let ask = |stdin: &[u8]| {
        let answer = node.call(GC, "VERSION").stdin(stdin).run();
        assert!(answer.succeeded(), "{answer}");
        let answer = answer.json();
        assert_eq!(answer["supportedVersions"], json!(VERSIONS));
        assert_eq!(answer.as_object().unwrap().len(), 2, "{answer}");
        answer["cniVersion"].as_str().unwrap().to_owned()
    };
    // Spec 1.1.0, "VERSION": cniVersion is the one of the input.
    for version in VERSIONS {
        assert_eq!(ask(json!({"cniVersion": version}).to_string().as_bytes()), version);
    }
    for odd in [&b""[..], b"not JSON", b"[]", b"{\"cniVersion\":\"9.9.9\"}", b"{\"cniVersion\":7}"]
    {
        assert_eq!(ask(odd), "1.1.0");
    }
    assert!(!node.state_dir.exists());
}

/// What an OVS CNI of this version returns, spelled in ways that a parser would not keep.
fn result(version: &str, port: &str, pod: &Pod) -> String {
    let family = if version.starts_with("0.") { "\"version\":\"4\"," } else { "" };
    format!(
        "{{\"cniVersion\":\"{version}\", \"interfaces\":[{{\"name\":\"{port}\"}},\n\
         {{\"sandbox\":\"{}\",\"mtu\":1.50e3,\"name\":\"eth0\",\"mac\":\"0A:58:0a:f4:01:07\"}}],\n\
         \"ips\":[{{{family}\"address\":\"10.244.1.7/24\",\"interface\":1}}],\
         \"x\":12345678901234567890123,\"dns\":{{}},\"\\u0061\":null}}",
        pod.netns_path()
    )
}

#[test]
fn add_returns_its_prev_result_to_the_byte_in_every_version() {
    let node = node("add_versions");
    for (version, port) in VERSIONS.iter().zip(["v030", "v031", "v040", "v100", "v110"]) {
        let pod = node.pod(port);
        node.ovs_vsctl(&["add-port", "br0", port]);
        let sent = result(version, port, &pod);
        let mut conf = conf(&node, version).to_string();
        conf.insert_str(conf.len() - 1, &format!(",\"prevResult\":{sent}"));
        let added = node.call(GC, "ADD").pod(&pod).stdin(conf).run();
        assert!(added.succeeded(), "{added}");
        assert_eq!(added.stdout, sent, "{version}");
        let rows = node.admin(&["list", "--json", "--no-flows"]).json();
        let row = rows.as_array().unwrap().iter().find(|r| r["port"] == *port).unwrap().clone();
        assert_eq!(row["ips"], json!(["10.244.1.7"]), "{version}");
        assert_eq!(row["macs"], json!(["0a:58:0a:f4:01:07"]), "{version}");
        silent(node.call(GC, "DEL").pod(&pod).conf(&self::conf(&node, version)).run());
    }
}

#[test]
fn verbs_are_refused_below_the_version_that_has_them() {
    let node = node("verb_floors");
    let pod = node.run_pod("web");
    let before = tree(&node.state_dir);
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0"] {
        let mut gc = conf(&node, version);
        gc["cni.dev/valid-attachments"] = json!([]);
        refused_with(&node.call(GC, "GC").conf(&gc).run(), 1, &["GC", "1.1.0"]);
        refused_with(&node.call(GC, "STATUS").conf(&gc).run(), 1, &["STATUS", "1.1.0"]);
        let check = node.call(GC, "CHECK").pod(&pod).conf(&conf(&node, version)).run();
        if version < "0.4.0" {
            refused_with(&check, 1, &["CHECK", "0.4.0"]);
        } else {
            silent(check);
        }
    }
    assert_eq!(tree(&node.state_dir), before);
}

#[test]
fn an_error_is_told_in_the_version_of_the_configuration() {
    let node = node("error_versions");
    let pod = node.pod("web");
    for version in VERSIONS {
        let failed = node.call(GC, "ADD").pod(&pod).conf(&conf(&node, version)).run();
        refused_with(&failed, 7, &["prevResult"]);
        assert_eq!(failed.json()["cniVersion"], version);
    }
    for version in ["9.9.9", "0.1.0", "0.2.0", "1.2.0", "1.1", "1.1.0 ", "v1.1.0", "", "one"] {
        let failed = node.call(GC, "ADD").pod(&pod).conf(&conf(&node, version)).run();
        refused_with(&failed, 1, &["cniVersion", version, "0.3.0", "1.1.0"]);
    }
}
