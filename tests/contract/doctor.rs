//! `doctor`, in good and bad health: each finding says what to do.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::rig::{Node, Outcome, Port, Setup, eventually, layouts};

fn doctor(node: &Node, args: &[&str]) -> Outcome {
    let net_dir = node.conflist_path().parent().unwrap().display().to_string();
    let bin_dir = node.cni_bin().display().to_string();
    node.admin(&[&["doctor", "--net-dir", &net_dir, "--bin-dir", &bin_dir], args].concat())
}

/// A finding that is not well: about this, with all of these words, and with a remedy.
#[track_caller]
fn finds(node: &Node, level: &str, what: &str, words: &[&str]) {
    let outcome = doctor(node, &["--json"]);
    assert_eq!(outcome.code, Some(3), "{outcome}");
    let findings = outcome.json();
    let fits = |finding: &&Value| {
        let text = finding.to_string();
        finding["level"] == level
            && finding["what"] == what
            && words.iter().all(|w| text.contains(w))
    };
    let found = findings.as_array().unwrap().iter().find(fits);
    let found =
        found.unwrap_or_else(|| panic!("no {level} of {what} with {words:?}: {findings:#}"));
    assert!(!found["remedy"].as_str().unwrap_or_default().is_empty(), "what to do? {found}");
}

#[test]
fn a_node_that_is_set_up_right() {
    let node = Setup::new().up("doctor_good");
    assert_eq!(doctor(&node, &[]).code, Some(0), "before the first ADD");
    node.run_pod("web");
    let outcome = doctor(&node, &["--json"]);
    assert_eq!(outcome.code, Some(0), "{outcome}");
    let findings = outcome.json();
    let ok: Vec<&str> = findings
        .as_array()
        .unwrap()
        .iter()
        .filter(|f| f["level"] == "ok")
        .map(|f| f["what"].as_str().unwrap())
        .collect();
    for what in ["version", "state directory", "records", "OVSDB", "bridge", "conflist"] {
        assert!(ok.contains(&what), "{what}: {findings:#}");
    }
    let table = doctor(&node, &[]).ok();
    assert!(table.lines().next().unwrap().contains("WHAT TO DO"), "{table}");
    assert!(table.contains("OpenFlow") && table.contains("db.sock"), "{table}");
}

#[test]
fn settings_that_make_all_of_it_idle() {
    let node = Setup::new().up("doctor_idle");
    node.run_pod("web");
    let settings = json!({"tables": [], "match": [], "bridges": ["nope", "br0"]});
    node.configure(settings.clone());
    for key in ["tables", "match"] {
        finds(&node, "warning", "conflist", &[key, "is an empty list"]);
    }
    finds(&node, "warning", "bridge", &["names bridge nope, which is not there"]);
    node.run_pod("db");
    let file = node.dir.join("other.conflist");
    let list = json!({"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "ovs-test-cni"}]});
    fs::write(&file, list.to_string()).unwrap();
    let file = file.display().to_string();
    let added = node.admin(&["conflist", "add", &file, "--settings", &settings.to_string()]);
    assert_eq!(added.code, Some(0), "{added}");
    for said in
        ["\"tables\": is an empty list", "\"match\": is an empty list", "no bridge nope here"]
    {
        assert!(added.stderr.contains(said), "{said}: {added}");
    }
}

#[test]
fn counters_that_are_no_file() {
    let node = Setup::new().up("doctor_calls");
    let web = node.run_pod("web");
    fs::remove_file(node.state_dir.join("_calls")).unwrap();
    fs::create_dir(node.state_dir.join("_calls")).unwrap();
    finds(&node, "warning", "metrics", &["_calls is no file: calls are not counted"]);
    node.del(&web);
    fs::remove_dir(node.state_dir.join("_calls")).unwrap();
    assert_eq!(doctor(&node, &[]).code, Some(0));
}

#[test]
fn the_switch_is_away() {
    let node = Setup::new().up("doctor_switch");
    node.run_pod("web");
    node.ovsdb.pause();
    let swept = node.admin(&["sweep", "--json", "--timeout", "1"]);
    assert!(swept.code == Some(1) && swept.stderr.contains(r#""exitStatus":1"#), "{swept}");
    assert!(swept.json()["failed"].is_string(), "{swept}");
    node.ovsdb.resume();
    node.vswitchd.stop();
    finds(&node, "failure", "bridge", &["br0"]);
    node.vswitchd.start();
    node.set_protocols("br0", "OpenFlow10");
    finds(&node, "failure", "bridge", &["br0", "OpenFlow", "protocols"]);
    node.ovsdb.stop();
    finds(&node, "failure", "OVSDB", &["db.sock", "OVS_RUNDIR"]);
}

#[test]
fn the_records_need_attention() {
    let node = Setup::new().up("doctor_records");
    let (web, db) = (node.run_pod("web"), node.run_pod("db"));
    fs::write(node.state_dir.join("podnet/torn:eth0.json"), "{\"sch").unwrap();
    finds(&node, "warning", "records", &["torn:eth0.json", "sweep"]);
    node.vanish(&web, Port::Stays);
    finds(&node, "warning", "orphans", &["1 died", "sweep --dry-run"]);
    node.admin(&["pause"]).ok();
    finds(&node, "warning", "pause", &["resume"]);
    node.ovsdb.stop();
    crate::contract::silent(crate::contract::call(&node, "DEL", &db).run());
    finds(&node, "warning", "tombstones", &["1 dead", "db.sock", "sweep"]);
}

/// multus-dynamic-networks before its fix: a hot-unplug calls DEL with another container id than
/// the hot-plug's ADD had. Nothing of ours matches; the OVS plugin's DEL takes the port.
#[test]
fn an_interface_was_unplugged_under_another_container_id() {
    let node = Setup::new().gc_conf(json!({"lingerSeconds": 0, "reg0": "pod"})).up("doctor_unplug");
    let (web, db) = (node.run_pod("web"), node.run_pod("db"));
    node.install("br0", &layouts::classifier(&web.who(0x1001)));
    let dbs = node.install("br0", &layouts::classifier(&db.who(0x1002)));
    let mut other = web.pod.clone();
    other.container = format!("f{}", &web.container[1..]);
    let conf = node.plugin_conf("ovs-flow-gc", Some(&other), None);
    assert!(node.call_for(&conf, "DEL", &other).env("CNI_NETNS", "").run().succeeded());
    assert_eq!(doctor(&node, &[]).code, Some(0), "its port is there");
    node.ovs_vsctl(&["del-port", &web.port]);
    finds(&node, "warning", "records", &[&web.name, "eth0", &web.container, &web.port]);

    // What docs/promises.md says to do.
    let conf = node.plugin_conf("ovs-flow-gc", None, None).to_string();
    let del = node.call("ovs-flow-gc", "DEL").env("CNI_CONTAINERID", &web.container);
    del.env("CNI_IFNAME", "eth0").env("CNI_NETNS", "").stdin(conf).run().ok();
    assert_eq!(node.dump("br0"), dbs);
    assert_eq!(doctor(&node, &[]).code, Some(0), "{}", doctor(&node, &[]));
}

#[test]
fn the_state_directory_cannot_be_trusted_or_written() {
    let node = Setup::new().up("doctor_state");
    node.run_pod("web");
    let dir = node.state_dir.display().to_string();
    fs::set_permissions(&node.state_dir, fs::Permissions::from_mode(0o770)).unwrap();
    finds(&node, "failure", "state directory", &[&dir, "chmod 0700"]);
    fs::set_permissions(&node.state_dir, fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(doctor(&node, &[]).code, Some(0));
    fs::remove_dir_all(&node.state_dir).unwrap();
    fs::write(&node.state_dir, "").unwrap();
    finds(&node, "failure", "state directory", &[&dir, "not a directory"]);
}

#[test]
fn the_chain_is_not_as_it_should_be() {
    let node = Setup::new().up("doctor_chain");
    let good = node.conflist();
    // DEL never reaches us if another conflist sorts first.
    let other = node.conflist_path().with_file_name("05-other.conflist");
    fs::write(&other, r#"{"cniVersion":"1.0.0","name":"o","plugins":[{"type":"bridge"}]}"#)
        .unwrap();
    finds(&node, "warning", "conflist", &["05-other.conflist", "sorts first"]);
    fs::remove_file(&other).unwrap();

    let mut reversed = good.clone();
    reversed["plugins"].as_array_mut().unwrap().reverse();
    node.set_conflist(reversed);
    finds(&node, "failure", "conflist", &["before the OVS plugin"]);

    node.set_conflist(good.clone());
    node.configure(json!({"lingerSecond": 3}));
    finds(&node, "failure", "conflist", &["lingerSeconds", "ADD"]);

    let mut without = good.clone();
    without["plugins"].as_array_mut().unwrap().pop();
    node.set_conflist(without);
    finds(&node, "warning", "conflist", &["no entry", "conflist add"]);

    // The entry has a file of its own: it is there, and a second one would run twice a call.
    let own = node.conflist_path().with_file_name("podnet").join("50-ovs-flow-gc.conf");
    fs::create_dir(own.parent().unwrap()).unwrap();
    fs::write(&own, r#"{"type": "ovs-flow-gc"}"#).unwrap();
    assert_eq!(doctor(&node, &[]).code, Some(0), "{}", doctor(&node, &[]));
    let mut empty = good.clone();
    empty.as_object_mut().unwrap().remove("plugins");
    node.set_conflist(empty);
    fs::write(own.with_file_name("10-ovs.conf"), r#"{"type": "ovs"}"#).unwrap();
    assert_eq!(doctor(&node, &[]).code, Some(0), "{}", doctor(&node, &[]));
    fs::write(&own, r#"{"type": "ovs-flow-gc", "lingerSecond": 3}"#).unwrap();
    finds(&node, "failure", "conflist", &["50-ovs-flow-gc.conf", "lingerSeconds"]);
    fs::set_permissions(&own, fs::Permissions::from_mode(0o666)).unwrap();
    finds(&node, "warning", "access", &["50-ovs-flow-gc.conf"]);
    fs::remove_dir_all(own.parent().unwrap()).unwrap();

    // A missing binary blocks every DEL on the node.
    node.set_conflist(good);
    let nowhere = node.dir.join("calls").display().to_string();
    let net_dir = node.conflist_path().parent().unwrap().display().to_string();
    let outcome = node.admin(&["doctor", "--net-dir", &net_dir, "--bin-dir", &nowhere]);
    assert_eq!(outcome.code, Some(3), "{outcome}");
    assert!(outcome.stdout.contains("blocks every DEL"), "{outcome}");
    // A file that is not JSON is somebody's mistake, too.
    fs::write(node.conflist_path(), "{").unwrap();
    finds(&node, "warning", "conflist", &["10-podnet.conflist"]);
}

#[test]
fn everybody_may_write_what_the_runtime_runs() {
    let node = Setup::new().up("doctor_access");
    let net_dir = node.conflist_path().parent().unwrap().to_owned();
    for (path, safe) in [(node.cni_bin(), 0o755), (net_dir, 0o755), (node.conflist_path(), 0o644)] {
        let set = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        set(safe | 0o002);
        finds(&node, "warning", "access", &[path.to_str().unwrap(), "chmod"]);
        set(safe);
        assert_eq!(doctor(&node, &[]).code, Some(0));
    }
}

/// CRI-O was killed during its ADD: the OVS plugin had made the port, and our ADD never came.
#[test]
fn a_port_that_nobody_recorded() {
    let node = Setup::new().up("doctor_unrecorded");
    node.run_pod("web");
    let lost = node.run_pod("lost");
    fs::remove_file(node.state_dir.join(format!("podnet/{}:eth0.json", lost.container))).unwrap();
    assert_eq!(doctor(&node, &[]).code, Some(0), "so young, its ADD may be under way");
    node.kill_sandbox(&lost);
    eventually("the switch has seen it", || {
        node.ovs_vsctl(&["get", "Interface", &lost.port, "ifindex"]) == "0"
    });
    finds(&node, "warning", "unrecorded port", &[&lost.port, "ovs-cni", "its pod is gone"]);
    // An older ovs-cni writes other marks, which tell nobody how old the sandbox is.
    node.ovs_vsctl(&["remove", "Port", &lost.port, "external_ids", "contNetns"]);
    let owner = "external_ids:owner=ovs-cni.network.kubevirt.io";
    node.ovs_vsctl(&["set", "Port", &lost.port, owner]);
    finds(&node, "warning", "unrecorded port", &[&lost.port, "its pod may live"]);
}
