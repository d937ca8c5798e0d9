//! Bad input: the right CNI code, a message that names what is wrong, nothing written, no
//! panic.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use serde_json::{Value, json};

use crate::rig::{Node, Outcome};

/// Names of everything below the state directory.
fn written(node: &Node) -> Vec<String> {
    if !node.state_dir.exists() {
        return Vec::new();
    }
    let found = node.run("find", &[node.state_dir.to_str().unwrap(), "-name", "*.json"]);
    found.ok().lines().map(str::to_owned).collect()
}

fn result(node: &Node) -> Value {
    json!({"cniVersion": node.conflist()["cniVersion"], "interfaces": [], "ips": [], "dns": {}})
}

#[track_caller]
fn refused(node: &Node, outcome: &Outcome, code: u64, names: &str) {
    let (got, text) = outcome.cni_error();
    assert_eq!(got, code, "{outcome}");
    assert!(text.contains(names), "{names:?} is not named: {outcome}");
    assert_eq!(outcome.code, Some(1));
    assert!(!outcome.stderr.contains("panicked"), "{outcome}");
    assert_eq!(written(node), [""; 0], "{outcome}");
}

#[test]
fn names_that_would_be_paths_are_refused() {
    let node = Node::new("names_that_would_be_paths_are_refused");
    let pod = node.pod("web");
    let conf = node.plugin_conf("ovs-flow-gc", Some(&pod), Some(&result(&node)));
    for bad in ["../../etc/cron.d/x", "..", ".hidden", "a/b", "a b", "a:b", "ä", &"x".repeat(300)]
    {
        for verb in ["ADD", "DEL", "CHECK"] {
            let outcome = node.call("ovs-flow-gc", verb).pod(&pod).conf(&conf);
            refused(&node, &outcome.env("CNI_CONTAINERID", bad).run(), 4, "containerID");
        }
        let mut conf = conf.clone();
        conf["name"] = json!(bad);
        let outcome = node.call("ovs-flow-gc", "ADD").pod(&pod).conf(&conf).run();
        refused(&node, &outcome, 7, "network name");
    }
    for bad in ["../x", ".", "..", "a/b", "eth 0", "eth0:1", "an-interface-too-long"] {
        let outcome = node.call("ovs-flow-gc", "ADD").pod(&pod).conf(&conf).env("CNI_IFNAME", bad);
        refused(&node, &outcome.run(), 4, "ifname");
    }
}

#[test]
fn what_is_missing_in_the_environment_is_named() {
    let node = Node::new("what_is_missing_in_the_environment_is_named");
    let pod = node.pod("web");
    let conf = node.plugin_conf("ovs-flow-gc", Some(&pod), Some(&result(&node)));
    for (verb, variable) in [
        ("ADD", "CNI_CONTAINERID"),
        ("ADD", "CNI_NETNS"),
        ("ADD", "CNI_IFNAME"),
        ("DEL", "CNI_CONTAINERID"),
        ("DEL", "CNI_IFNAME"),
        ("CHECK", "CNI_NETNS"),
    ] {
        let outcome = node.call("ovs-flow-gc", verb).pod(&pod).conf(&conf).without(variable).run();
        refused(&node, &outcome, 4, variable);
    }
    let binary = OsString::from_vec(vec![b'a', 0xff, 0xfe]);
    let call = node.call("ovs-flow-gc", "ADD").pod(&pod).conf(&conf);
    refused(&node, &call.env("CNI_CONTAINERID", binary).run(), 4, "CNI_CONTAINERID");
    let outcome = node.call("ovs-flow-gc", "FROBNICATE").pod(&pod).conf(&conf).run();
    refused(&node, &outcome, 4, "FROBNICATE");
    let outcome = node.call("ovs-flow-gc", "").pod(&pod).conf(&conf).run();
    refused(&node, &outcome, 4, "CNI_COMMAND");
}

#[test]
fn what_is_no_configuration_is_not_decoded() {
    let node = Node::new("what_is_no_configuration_is_not_decoded");
    let pod = node.pod("web");
    let whole = node.plugin_conf("ovs-flow-gc", Some(&pod), Some(&result(&node))).to_string();
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let oversized = format!("{{\"cniVersion\":\"1.0.0\",\"pad\":\"{}\"}}", "x".repeat(9 << 20));
    let twice = r#"{"cniVersion":"1.0.0","name":"n","prevResult":{},"prevResult":{}}"#;
    for bad in ["", "[]", "null", "3", "{", "\u{0}", &deep, &oversized, twice] {
        let outcome = node.call("ovs-flow-gc", "ADD").pod(&pod).stdin(bad).run();
        refused(&node, &outcome, 6, "configuration");
    }
    for cut in (1..whole.len()).step_by(7) {
        let outcome = node.call("ovs-flow-gc", "ADD").pod(&pod).stdin(&whole[..cut]).run();
        refused(&node, &outcome, 6, "configuration");
    }
}

#[test]
fn versions_are_checked() {
    let node = Node::new("versions_are_checked");
    let pod = node.pod("web");
    let mut conf = node.plugin_conf("ovs-flow-gc", Some(&pod), Some(&result(&node)));
    for (version, code) in [
        (json!("9.9.9"), 1),
        (json!("0.2.0"), 1),
        (json!(""), 1),
        (json!("1.0"), 1),
        (Value::Null, 7),
        (json!(1), 7),
    ] {
        conf["cniVersion"] = version;
        let outcome = node.call("ovs-flow-gc", "ADD").pod(&pod).conf(&conf).run();
        refused(&node, &outcome, code, "cniVersion");
    }
    conf.as_object_mut().unwrap().remove("cniVersion");
    refused(&node, &node.call("ovs-flow-gc", "ADD").pod(&pod).conf(&conf).run(), 1, "cniVersion");

    let answer = node.call("ovs-flow-gc", "VERSION").stdin(r#"{"cniVersion":"9.9.9"}"#).run();
    let supported = json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
    assert_eq!(answer.json()["supportedVersions"], supported, "{answer}");
    assert!(answer.succeeded());

    // Neither verb is in a version before 1.1.0.
    conf["cniVersion"] = json!("1.0.0");
    for verb in ["GC", "STATUS"] {
        refused(&node, &node.call("ovs-flow-gc", verb).conf(&conf).run(), 1, "1.1.0");
    }
}

#[test]
fn a_wrong_setting_fails_add_and_warns_on_del() {
    let node = Node::new("a_wrong_setting_fails_add_and_warns_on_del");
    let pod = node.pod("web");
    for (key, value, named) in [
        ("lingerSecond", json!(3), "lingerSeconds"),
        ("timeoutMs", json!(-1), "timeoutMs"),
        ("timeoutMs", json!(1e300), "timeoutMs"),
        ("timeoutMs", json!("soon"), "timeoutMs"),
        ("tables", json!([256]), "tables"),
        ("tables", json!("all"), "tables"),
        ("stateDir", json!("relative"), "stateDir"),
        ("stateDir", json!(["/run"]), "stateDir"),
        ("bridge", json!("../../x"), "bridge"),
        ("preset", json!("nonesuch"), "preset"),
        ("mode", json!(true), "mode"),
        ("reg0", json!("externalId:"), "reg0"),
        ("register", json!("reg77"), "register"),
        ("registerMask", json!("0xf0f"), "registerMask"),
        ("cookie", json!("0x1/0x0"), "cookie"),
        ("match", json!(["port", "vlan"]), "match"),
    ] {
        let mut conf = node.plugin_conf("ovs-flow-gc", Some(&pod), Some(&result(&node)));
        conf[key] = value;
        let outcome = node.call("ovs-flow-gc", "ADD").pod(&pod).conf(&conf).run();
        refused(&node, &outcome, 7, named);
        if key == "stateDir" {
            continue; // DEL would go to the default directory.
        }
        let outcome = node.call("ovs-flow-gc", "DEL").pod(&pod).conf(&conf).run();
        assert!(outcome.succeeded() && outcome.stdout.is_empty(), "{outcome}");
        assert!(outcome.stderr.contains(named), "no warning: {outcome}");
    }
}

#[test]
fn prev_result_is_needed_by_add_and_by_nobody_else() {
    let node = Node::new("prev_result_is_needed_by_add_and_by_nobody_else");
    let pod = node.pod("web");
    for bad in [Value::Null, json!("text"), json!([]), json!(3)] {
        let conf = node.plugin_conf("ovs-flow-gc", Some(&pod), Some(&bad));
        let outcome = node.call("ovs-flow-gc", "ADD").pod(&pod).conf(&conf).run();
        refused(&node, &outcome, 7, "prevResult");
        let outcome = node.call("ovs-flow-gc", "DEL").pod(&pod).conf(&conf).run();
        assert!(outcome.succeeded(), "{outcome}");
    }
    let conf = node.plugin_conf("ovs-flow-gc", Some(&pod), None);
    refused(&node, &node.call("ovs-flow-gc", "ADD").pod(&pod).conf(&conf).run(), 7, "prevResult");

    // Odd, but an object: another plugin's business, passed on as it came.
    let odd = r#"{"cniVersion":"1.0.0","interfaces":{},"ips":[7,{"address":"x"}],"n":1.00}"#;
    let conf = node.plugin_conf("ovs-flow-gc", Some(&pod), None).to_string();
    let conf = format!("{},\"prevResult\":{odd}}}", &conf[..conf.len() - 1]);
    let outcome = node.call("ovs-flow-gc", "ADD").pod(&pod).stdin(conf).run();
    assert_eq!(outcome.ok(), odd);
}
