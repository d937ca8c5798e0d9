//! `adopt`: pods that were there before us. Without a record their addresses are nobody's,
//! and their DEL knows nothing.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::operations::{deleted, journals, records, sorted, stale, sweep};
use crate::rig::{Attached, Node, Outcome, Port, Setup, Valid, called, eventually, layouts};

fn cache_dir(node: &Node) -> PathBuf {
    node.dir.join("var-lib/cni/results")
}

/// libcni caches a result as `<network>-<containerID>-<ifname>` (libcni/api.go, cachedInfo).
pub(crate) fn cache(node: &Node, pod: &Attached) -> PathBuf {
    cache_as(node, pod, "podnet", &pod.result)
}

fn cache_as(node: &Node, pod: &Attached, network: &str, result: &Value) -> PathBuf {
    let args: Vec<Vec<&str>> = vec![
        vec!["IgnoreUnknown", "1"],
        vec!["K8S_POD_NAMESPACE", "default"],
        vec!["K8S_POD_NAME", &pod.name],
        vec!["K8S_POD_UID", &pod.uid],
    ];
    let cached = json!({
        "kind": "cniCacheV1",
        "containerId": pod.container,
        "config": "e30=",
        "ifName": pod.ifname,
        "networkName": network,
        "cniArgs": args,
        "result": result,
    });
    let dir = cache_dir(node);
    fs::create_dir_all(&dir).unwrap();
    let path = dir.join(format!("{network}-{}-{}", pod.container, pod.ifname));
    fs::write(&path, cached.to_string()).unwrap();
    path
}

/// We come onto a node that has run without us.
fn arrive(node: &Node, settings: Value) {
    let file = node.conflist_path().display().to_string();
    let mut settings = settings;
    settings["stateDir"] = json!(node.state_dir);
    let settings = settings.to_string();
    let add = ["conflist", "add", &file, "--after", "ovs-test-cni", "--settings", &settings];
    node.admin(&add).ok();
    let conflist = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    node.set_conflist(conflist);
}

fn try_adopt(node: &Node, args: &[&str]) -> Outcome {
    let cache = cache_dir(node).display().to_string();
    let net_dir = node.conflist_path().parent().unwrap().display().to_string();
    let common = ["adopt", "--cache-dir", &cache, "--net-dir", &net_dir];
    node.admin(&[&common, args].concat())
}

/// The names adopted, and what was not.
#[track_caller]
fn adopt(node: &Node, args: &[&str]) -> (Vec<String>, String) {
    let outcome = try_adopt(node, &[&["--json"], args].concat());
    assert!(matches!(outcome.code, Some(0 | 3)), "{outcome}");
    let answer = outcome.json();
    let name = |record: &Value| called(record["pod"]["name"].as_str().unwrap_or("-"));
    let mut names: Vec<_> = answer["adopted"].as_array().unwrap().iter().map(name).collect();
    names.sort();
    (names, answer["skipped"].to_string())
}

fn before_us(test: &str) -> Node {
    Setup::new().without_gc().up(test)
}

#[test]
fn a_pod_that_predates_us_is_protected_and_its_del_works() {
    let node = before_us("adopt_protects");
    let base = node.install("br0", &layouts::classifier_base());
    let old = node.run_pod("old");
    let its = node.install("br0", &layouts::classifier(&old.who(0x1001)));
    cache(&node, &old);
    arrive(&node, json!({"lingerSeconds": 0, "reg0": "pod"}));
    // A pod of ours had the address of the old one, by a mistake of IPAM's, and is gone.
    node.forget_lease(&old.ip);
    let twin = node.add(&node.pod("twin").with_ip(&old.ip));
    node.vanish(&twin, Port::Gone);
    // What its age says would protect it for its first two minutes.
    let mark = format!("external_ids:contNetns=\"{}\"", old.netns_path());
    node.ovs_vsctl(&["remove", "Port", &old.port, "external_ids", "contNetns"]);
    assert!(stale(&sweep(&node, &["--dry-run"])) > 0, "not known, the address is the dead's alone");
    node.ovs_vsctl(&["set", "Port", &old.port, &mark]);

    let text = try_adopt(&node, &["--dry-run"]).ok();
    assert!(text.contains("1 pod would be adopted") && text.contains(&old.ip), "{text}");
    assert_eq!(records(&node).len(), 1, "a dry run records nothing");
    assert_eq!(adopt(&node, &[]).0, ["old"]);
    assert_eq!(adopt(&node, &[]).0, [""; 0], "once is enough");
    assert_eq!(deleted(&sweep(&node, &[])), 0, "its address is a live token");
    assert_eq!(node.dump("br0"), sorted(&[&base, &its]));
    node.try_check(&old).unwrap();

    node.del(&old);
    assert_eq!(node.dump("br0"), base);
    assert!(records(&node).is_empty(), "{:?}", records(&node));
}

#[test]
fn an_adopted_pod_that_vanishes_is_an_orphan_like_any_other() {
    let node = before_us("adopt_orphan");
    let (old, other) = (node.run_pod("old"), node.run_pod("other"));
    node.install("br0", &layouts::classifier(&old.who(0x1001)));
    let its = node.install("br0", &layouts::classifier(&other.who(0x1002)));
    cache(&node, &old);
    cache(&node, &other);
    arrive(&node, json!({"lingerSeconds": 0}));
    assert_eq!(adopt(&node, &[]).0, ["old", "other"]);
    assert_eq!(deleted(&sweep(&node, &[])), 0);
    node.vanish(&old, Port::Gone);
    let report = sweep(&node, &[]);
    assert_eq!(node.dump("br0"), its, "{report}");
}

#[test]
fn the_dead_are_not_adopted() {
    let node = before_us("adopt_dead");
    let (old, row, gone) = (node.run_pod("old"), node.run_pod("row"), node.run_pod("gone"));
    for pod in [&old, &row, &gone] {
        cache(&node, pod);
    }
    node.vanish(&row, Port::Stays);
    node.vanish(&gone, Port::Gone);
    eventually("the switch has seen it", || {
        node.ovs_vsctl(&["get", "Interface", &row.port, "ifindex"]) == "0"
    });
    arrive(&node, json!({}));
    let (adopted, skipped) = adopt(&node, &[]);
    assert_eq!(adopted, ["old"], "{skipped}");
    let why = format!("dead (network namespace {}", row.netns_path());
    assert!(skipped.contains(&why) && skipped.contains("not judged"), "{skipped}");
    assert!(skipped.contains("no port of it in OVSDB"), "{skipped}");
    assert_eq!(try_adopt(&node, &[]).code, Some(0), "nobody misses their records");
}

/// A representor stays when its pod has ended, and is marked for the next one. What libcni remembers
/// of the pod of before names it, too.
#[test]
fn a_row_that_another_pod_has_by_now_is_not_adopted() {
    let node = before_us("adopt_given_away");
    let (old, other, next) = (node.run_pod("old"), node.run_pod("other"), node.pod("next"));
    cache(&node, &old);
    cache(&node, &other);
    node.vanish(&old, Port::Stays);
    let peer = ["type", "veth", "peer", "name", "eth0", "netns", &next.netns];
    node.run("ip", &[&["link", "add", old.port.as_str()], &peer[..]].concat()).ok();
    node.ovs_vsctl(&["clear", "Port", &old.port, "external_ids"]);
    eventually("the row has a device again", || {
        node.ovs_vsctl(&["get", "Interface", &old.port, "ofport"]) == old.ofport.to_string()
            && node.ovs_vsctl(&["get", "Interface", &old.port, "ifindex"]) != "0"
    });
    let (port, ofport) = (&old.port, old.ofport);
    let its = node.install("br0", &[format!("table=0, priority=5,in_port={ofport} actions=drop")]);
    arrive(&node, json!({}));
    // By its name alone it may be anybody's.
    let (adopted, skipped) = adopt(&node, &[]);
    assert_eq!(adopted, ["other"], "{skipped}");
    assert!(skipped.contains(&format!("port {port} may be another pod's")), "{skipped}");
    let mark = format!("external_ids:contNetns=\"{}\"", next.netns_path());
    node.ovs_vsctl(&["set", "Port", &old.port, &mark]);
    let (adopted, skipped) = adopt(&node, &[]);
    assert_eq!(adopted, [""; 0], "{skipped}");
    assert!(skipped.contains(&format!("port {port} is another pod's by now")), "{skipped}");
    let conf = node.plugin_conf("ovs-flow-gc", Some(&old), Some(&old.result));
    assert!(node.call_for(&conf, "DEL", &old).run().succeeded());
    sweep(&node, &[]);
    assert_eq!(node.dump("br0"), its);
}

#[test]
fn one_witness_is_not_enough_to_call_a_pod_dead() {
    let node = before_us("adopt_one_witness");
    let old = node.run_pod("old");
    // Seen from here the namespace's path is gone (no mount propagation), the device is not.
    let mut result = old.result.clone();
    let path = format!("{}-elsewhere", old.netns_path());
    result["interfaces"][1]["sandbox"] = json!(path);
    node.ovs_vsctl(&["set", "Port", &old.port, &format!("external_ids:contNetns=\"{path}\"")]);
    cache_as(&node, &old, "podnet", &result);
    arrive(&node, json!({}));
    assert_eq!(adopt(&node, &[]).0, ["old"]);
    assert_eq!(deleted(&sweep(&node, &[])), 0, "nobody knows whether it lives");
    assert_eq!(records(&node), [("old".to_owned(), "active".to_owned())]);
}

/// Marks as the CNIs write them; the caller cached no result.
fn mark(node: &Node, table: &str, pod: &Attached, marks: &[(&str, &str)]) {
    node.ovs_vsctl(&["clear", "Port", &pod.port, "external_ids"]);
    for (key, value) in marks {
        node.ovs_vsctl(&["set", table, &pod.port, &format!("external_ids:{key}=\"{value}\"")]);
    }
}

#[test]
fn marks_with_a_container_id_are_enough() {
    let node = before_us("adopt_marks");
    let [antrea, ovnk, sdn, docker, ovs_cni] =
        ["antrea", "ovnk", "sdn", "docker", "ovs-cni"].map(|name| node.run_pod(name));
    mark(
        &node,
        "Port",
        &antrea,
        &[
            ("antrea-type", "container"),
            ("container-id", &antrea.container),
            ("pod-name", "antrea"),
            ("pod-namespace", "default"),
            ("ip-address", &format!("{},{}", antrea.ip, antrea.ip6)),
            ("attached-mac", &antrea.mac),
            ("net-ns", &antrea.netns_path()),
        ],
    );
    mark(
        &node,
        "Interface",
        &ovnk,
        &[
            ("sandbox", &ovnk.container),
            ("iface-id", "default_ovnk"),
            ("iface-id-ver", &ovnk.uid),
            ("attached_mac", &ovnk.mac),
            ("ip_addresses", &format!("{}/24", ovnk.ip)),
        ],
    );
    mark(&node, "Interface", &sdn, &[("sandbox", &sdn.container), ("ip", &sdn.ip)]);
    mark(
        &node,
        "Interface",
        &docker,
        &[("container_id", &docker.container), ("container_iface", "eth0")],
    );
    arrive(&node, json!({}));

    let (adopted, skipped) = adopt(&node, &[]);
    assert_eq!(adopted, ["-", "-", "antrea", "ovnk"], "{skipped}");
    // Its namespace and its interface are marked, but nobody knows the container's id.
    assert!(skipped.contains(&format!("port {}: its marks (ovs-cni)", ovs_cni.port)), "{skipped}");
    let listed = node.admin(&["list", "--json"]).ok();
    for (pod, ip, mac) in [
        (&antrea, true, true),
        (&ovnk, true, true),
        (&sdn, true, false),
        (&docker, false, false),
        (&ovs_cni, false, false),
    ] {
        assert_eq!(listed.contains(&format!("\"{}\"", pod.ip)), ip, "{}: {listed}", pod.name);
        assert_eq!(listed.contains(&pod.mac), mac, "{}: {listed}", pod.name);
    }
    // Once libcni's cache is there, the namespace's path tells.
    cache(&node, &ovs_cni);
    assert_eq!(adopt(&node, &[]).0, ["ovs-cni"]);

    // DEL finds what adopt wrote down: antrea's port is gone from OVSDB by then.
    let mut its = layouts::classifier(&antrea.who(0x1001));
    its.retain(|flow| !flow.contains("reg0"));
    let others = node.install("br0", &layouts::classifier(&ovnk.who(0x1002)));
    node.install("br0", &its);
    node.ovs_vsctl(&["del-port", &antrea.port]);
    node.del(&antrea);
    assert_eq!(node.dump("br0"), others);
}

#[test]
fn each_interface_of_a_pod_is_adopted() {
    let node = before_us("adopt_two_interfaces");
    let first = node.run_pod("multi");
    let second = first.pod.clone().with_ifname("net1");
    let second = node.plug(&second, "br0", "net1-of-multi", "10.9.0.9/24");
    let ids = |pod: &Attached| {
        [
            ("antrea-type", "container".to_owned()),
            ("container-id", pod.container.clone()),
            ("pod-name", "multi".to_owned()),
            ("pod-namespace", "default".to_owned()),
            ("ip-address", pod.ip.clone()),
            ("if-dev", pod.ifname.clone()),
        ]
    };
    for pod in [&first, &second] {
        let ids = ids(pod);
        let ids: Vec<(&str, &str)> = ids.iter().map(|(k, v)| (*k, v.as_str())).collect();
        mark(&node, "Port", pod, &ids);
    }
    cache(&node, &first);
    arrive(&node, json!({}));
    assert_eq!(adopt(&node, &[]).0, ["multi", "multi"]);
    let rows = node.admin(&["list", "--no-flows", "--json"]).json();
    let ports: Vec<_> = rows.as_array().unwrap().iter().map(|row| row["port"].clone()).collect();
    assert!(ports.contains(&json!(first.port)) && ports.contains(&json!(second.port)), "{rows}");
}

#[test]
fn with_several_networks_only_the_cache_or_a_word_can_tell() {
    let node = before_us("adopt_ambiguous");
    let (cached, marked) = (node.run_pod("cached"), node.run_pod("marked"));
    cache(&node, &cached);
    let marks = [("sandbox", marked.container.as_str()), ("ip", marked.ip.as_str())];
    mark(&node, "Interface", &marked, &marks);
    arrive(&node, json!({}));
    let mut second = node.conflist();
    second["name"] = json!("othernet");
    fs::write(node.conflist_path().with_file_name("20-othernet.conflist"), second.to_string())
        .unwrap();

    let (adopted, skipped) = adopt(&node, &[]);
    assert_eq!(adopted, ["cached"], "{skipped}");
    assert!(skipped.contains(&format!("port {}: its network is ambiguous", marked.port)));
    assert!(skipped.contains("--conflist"), "{skipped}");
    assert_eq!(try_adopt(&node, &[]).code, Some(3), "a live pod has no record");
    let file = node.conflist_path().display().to_string();
    assert_eq!(adopt(&node, &["--conflist", &file]).0, ["-"]);
}

/// containernetworking/cni #1055: a reboot leaves zero-byte files in the cache.
#[test]
fn an_empty_cached_result_is_an_absent_one_and_a_torn_one_is_named() {
    let node = before_us("adopt_cni_1055");
    let (empty, torn, good) = (node.run_pod("empty"), node.run_pod("torn"), node.run_pod("good"));
    fs::write(cache(&node, &empty), "").unwrap();
    let text = fs::read(cache(&node, &torn)).unwrap();
    fs::write(cache(&node, &torn), &text[..text.len() / 2]).unwrap();
    cache(&node, &good);
    cache_as(&node, &good, "another-network", &good.result);
    arrive(&node, json!({}));
    let (adopted, skipped) = adopt(&node, &[]);
    assert_eq!(adopted, ["good"], "{skipped}");
    assert!(!skipped.contains(&format!("podnet-{}", empty.container)), "{skipped}");
    assert!(skipped.contains(&format!("podnet-{}", torn.container)), "{skipped}");

    // Their DEL comes with no result and finds no record: the marks lead to the port.
    let others = node.install("br0", &layouts::classifier(&good.who(0x1001)));
    let port = empty.ofport;
    node.install("br0", &[format!("table=0, priority=5,in_port={port} actions=resubmit(,10)")]);
    node.forget_result(&empty);
    node.del(&empty);
    assert_eq!(node.dump("br0"), others);
}

#[test]
fn a_record_that_add_wrote_is_the_better_one() {
    let node = Setup::new().up("adopt_keeps_records");
    let web = node.run_pod("web");
    cache(&node, &web);
    let path = node.state_dir.join(format!("podnet/{}:eth0.json", web.container));
    let before = fs::read(&path).unwrap();
    assert_eq!(adopt(&node, &[]).0, [""; 0]);
    assert_eq!(fs::read(&path).unwrap(), before);

    let empty = node.dir.join("empty");
    fs::create_dir(&empty).unwrap();
    let nowhere = node.admin(&["adopt", "--net-dir", &empty.display().to_string()]);
    assert_eq!(nowhere.code, Some(2), "{nowhere}");
    assert!(nowhere.stderr.contains("--conflist"), "{nowhere}");
}

/// Two pods that were taken for dead and live: by a runtime's wrong list, and by a wrong DEL.
#[test]
fn a_living_pod_with_a_tombstone_is_adopted_again() {
    let node = Setup::new()
        .cni_version("1.1.0")
        .gc_conf(json!({"lingerSeconds": 600, "reg0": "pod"}))
        .up("adopt_again");
    let base = node.install("br0", &layouts::classifier_base());
    let [web, db, gone] = ["web", "db", "gone"].map(|name| node.run_pod(name));
    let [its, dbs, gones] = [(&web, 0x1001), (&db, 0x1002), (&gone, 0x1003)]
        .map(|(pod, reg)| node.install("br0", &layouts::classifier(&pod.who(reg))));
    assert_eq!(deleted(&sweep(&node, &[])), 0);
    // libcni's cache speaks of one of them; the marks and the tombstone of the other.
    cache(&node, &web);
    cache(&node, &gone);

    let conf = node.plugin_conf("ovs-flow-gc", Some(&db), Some(&db.result));
    assert!(node.call_for(&conf, "DEL", &db).run().succeeded());
    assert!(node.gc(Valid::Pods(&[])).is_empty());
    assert_eq!(node.dump("br0"), base, "{its:#?} {dbs:#?} {gones:#?}");
    node.vanish(&gone, Port::Stays);

    node.admin(&["pause"]).ok();
    for journal in journals(&node) {
        let told = node.admin(&["undo", journal["id"].as_str().unwrap()]).ok();
        assert!(told.contains("ovs-flow-gc adopt"), "{told}");
    }
    let text = try_adopt(&node, &["--dry-run"]).ok();
    assert!(text.contains("2 pods would be adopted, 2 of them again"), "{text}");
    let (names, skipped) = adopt(&node, &[]);
    assert_eq!(names, ["db", "web"], "{skipped}");
    let states = [("db", "active"), ("gone", "gone"), ("web", "active")];
    assert_eq!(records(&node), states.map(|(pod, state)| (pod.to_owned(), state.to_owned())));
    assert_eq!(adopt(&node, &[]).0, [""; 0], "once is enough");
    node.admin(&["resume"]).ok();
    let report = sweep(&node, &[]);
    // An address's entries that `undo` made anew are as its next owner's would be.
    let without_gone = || {
        let mut now = node.dump("br0");
        now.retain(|flow| !flow.contains(&gone.ip) && !flow.contains(&gone.ip6));
        now
    };
    assert_eq!(without_gone(), sorted(&[&base, &its, &dbs]), "{report:#}");

    // They are records like any other: their ends are noticed, and take what is theirs.
    node.vanish(&web, Port::Stays);
    sweep(&node, &[]);
    node.del(&db);
    assert_eq!(without_gone(), base);
}

/// A tombstone that a killed `adopt` left beside the record condemns nothing that is the pod's.
#[test]
fn a_tombstone_beside_an_adopted_record_takes_nothing() {
    let node = Setup::new()
        .gc_conf(json!({"lingerSeconds": 600, "reg0": "pod"}))
        .up("adopt_tombstone_stays");
    let web = node.run_pod("web");
    let its = node.install("br0", &layouts::classifier(&web.who(0x1001)));
    cache(&node, &web);
    assert_eq!(deleted(&sweep(&node, &[])), 0);
    let conf = node.plugin_conf("ovs-flow-gc", Some(&web), Some(&web.result));
    assert!(node.call_for(&conf, "DEL", &web).run().succeeded());
    let dead = node.state_dir.join("podnet/dead");
    let tombstone = fs::read_dir(&dead).unwrap().next().unwrap().unwrap().path();
    let bytes = fs::read(&tombstone).unwrap();
    node.admin(&["undo"]).ok();
    assert_eq!(adopt(&node, &[]).0, ["web"]);
    assert!(!tombstone.exists());
    fs::write(&tombstone, bytes).unwrap();
    for _ in 0..2 {
        let report = sweep(&node, &[]);
        assert_eq!(deleted(&report), 0, "{report:#}");
    }
    assert_eq!(node.dump("br0"), its);
}

/// Its DEL found no record: the tombstone knows the namespace's path, no more.
#[test]
fn a_living_pod_whose_del_found_no_record_is_adopted() {
    let node = Setup::new().gc_conf(json!({"lingerSeconds": 600, "reg0": "pod"})).up("adopt_bare");
    let web = node.run_pod("web");
    let its = node.install("br0", &layouts::classifier(&web.who(0x1001)));
    cache(&node, &web);
    fs::remove_file(node.state_dir.join(format!("podnet/{}:eth0.json", web.container))).unwrap();
    let conf = node.plugin_conf("ovs-flow-gc", Some(&web), Some(&web.result));
    assert!(node.call_for(&conf, "DEL", &web).run().succeeded());
    assert!(node.dump("br0").len() < its.len());
    node.admin(&["undo"]).ok();
    assert_eq!(adopt(&node, &[]).0, ["web"]);
    assert_eq!(records(&node), [("web".to_owned(), "active".to_owned())]);
    assert_eq!(deleted(&sweep(&node, &[])), 0);
    assert_eq!(node.dump("br0"), its);
}

/// An interface that was unplugged from a pod that goes on living.
#[test]
fn a_dead_interface_of_a_living_pod_is_not_adopted_again() {
    let node = Setup::new().gc_conf(json!({"lingerSeconds": 600})).up("adopt_unplugged");
    let web = node.run_pod("web");
    cache(&node, &web);
    node.try_del(&web).unwrap();
    let (names, skipped) = adopt(&node, &[]);
    assert_eq!(names, [""; 0]);
    assert!(skipped.contains("no port of it in OVSDB"), "{skipped}");
    assert_eq!(records(&node), [("web".to_owned(), "gone".to_owned())]);
}
