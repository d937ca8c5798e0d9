//! Bridges that speak little OpenFlow, and entries that look like others because a client of
//! OpenFlow 1.0 made them.

use super::{
    hasty_node, only, our_del, settle, still_there, sweep, sweep_finishes, tombstone_of, tombstones,
};
use crate::rig::{Node, Port, Setup, layouts};
use serde_json::{Value, json};

#[test]
fn bridges_that_allow_one_version_we_speak() {
    for protocols in ["OpenFlow13", "OpenFlow14", "OpenFlow15", "OpenFlow10,OpenFlow15"] {
        let node = Setup::new()
            .protocols(protocols)
            .gc_conf(json!({"lingerSeconds": 0}))
            .up("bridges_that_allow_one_version_we_speak");
        let (base, [web, db, cache]) = settle(&node, ["web", "db", "cache"]);
        let spoken = doctor(&node, "bridge");
        let version = protocols.rsplit(',').next().unwrap();
        assert!(spoken.contains(&format!("br0 speaks {version}")), "{spoken}");
        node.del(&web);
        only(&node, &[&base, &db.flows, &cache.flows]);
        node.vanish(&cache, Port::Gone);
        sweep_finishes(&node);
        only(&node, &[&base, &db.flows]);
    }
}

/// openshift-sdn's bridge: OpenFlow 1.3, reg0 the namespace.
#[test]
fn openshifts_bridge() {
    let node = Setup::new()
        .protocols("OpenFlow13")
        .gc_conf(json!({"lingerSeconds": 0, "preset": "openshift-sdn"}))
        .up("openshifts_bridge");
    let namespace = node.install("br0", &layouts::openshift_namespace(7));
    let pods = ["a", "b"].map(|name| node.run_pod(name));
    let [a, b] = pods.each_ref().map(|pod| node.install("br0", &layouts::openshift(&pod.who(7))));
    node.del(&pods[0]);
    assert_eq!(still_there(&node, &a), [""; 0]);
    only(&node, &[&namespace, &b]);
    node.vanish(&pods[1], Port::Stays);
    sweep_finishes(&node);
    only(&node, &[&namespace]);
}

/// antrea's bridge: OpenFlow 1.0 and 1.5, reg0 a field of marks.
#[test]
fn antreas_bridge() {
    let node = Setup::new()
        .protocols("OpenFlow10,OpenFlow15")
        .gc_conf(json!({"lingerSeconds": 0, "preset": "antrea"}))
        .up("antreas_bridge");
    // The base names port 1, the gateway.
    node.ovs_vsctl(&["add-port", "br0", "gw0", "--", "set", "Interface", "gw0", "type=internal"]);
    let base = node.install("br0", &layouts::antrea_base());
    let pods = ["a", "b"].map(|name| node.run_pod(name));
    let [_, b] = pods.each_ref().map(|pod| node.install("br0", &layouts::antrea(&pod.who(0))));
    node.del(&pods[0]);
    only(&node, &[&base, &b]);
    node.vanish(&pods[1], Port::Stays);
    sweep_finishes(&node);
    only(&node, &[&base]);
}

/// What `doctor` finds of one kind.
fn doctor(node: &Node, what: &str) -> String {
    let found = node.admin(&["doctor", "--json"]).json();
    let of_kind = found.as_array().unwrap().iter().filter(|f| f["what"] == what);
    let lines: Vec<String> =
        of_kind.map(|f| format!("{} {} {}", f["level"], f["found"], f["remedy"])).collect();
    lines.join("\n")
}

#[test]
fn a_bridge_that_speaks_only_1_0() {
    let node = Setup::new()
        .protocols("OpenFlow10")
        .gc_conf(json!({"lingerSeconds": 0}))
        .up("a_bridge_that_speaks_only_1_0");
    let which = "ovs-vsctl set bridge br0 protocols=OpenFlow10,OpenFlow13";
    let pods = ["web", "db"].map(|name| node.run_pod(name));
    for (pod, reg) in pods.iter().zip([0x1001, 0x1002]) {
        node.add_flows("br0", &layouts::classifier(&pod.who(reg)));
    }
    let all = node.dump("br0");

    let deleted = our_del(&node, &pods[0]);
    assert!(deleted.succeeded(), "{deleted}");
    assert!(deleted.stderr.contains(which), "{deleted}");
    assert!(tombstone_of(&node, &pods[0])["lastError"].as_str().unwrap().contains(which));
    node.del(&pods[0]);
    let swept = node.admin(&["sweep"]);
    assert_eq!(swept.code, Some(3), "{swept}");
    assert!(swept.stdout.contains(which), "{swept}");
    let found = doctor(&node, "bridge");
    assert!(found.contains("failure") && found.contains(which), "{found}");
    assert_eq!(node.dump("br0"), all);

    // As told.
    node.set_protocols("br0", "OpenFlow10,OpenFlow13");
    sweep_finishes(&node);
    node.set_protocols("br0", "[]");
    // What a client of 1.0 added resets its counters, as 1.0 has it.
    let mut left: Vec<_> =
        node.dump("br0").iter().map(|flow| flow.replace("reset_counts ", "")).collect();
    let mut wanted = layouts::classifier(&pods[1].who(0x1002));
    left.sort();
    wanted.sort();
    assert_eq!(left, wanted);
    assert!(!doctor(&node, "bridge").contains("failure"));
}

/// As a plain `ovs-ofctl add-flow`: a client of OpenFlow 1.0.
fn add_in_1_0(node: &Node, flow: &str) {
    node.ofctl(&["-OOpenFlow10", "add-flow", "br0", flow]);
}

/// The bridge's entries with their VLAN TCI as it is: only 1.0 shows it.
fn shown_in_1_0(node: &Node, marker: &str) -> Vec<String> {
    let mut flows = node.dump_in("br0", "-OOpenFlow10");
    flows.retain(|flow| flow.contains(marker));
    flows
}

fn details(node: &Node) -> (Option<i32>, Value) {
    let swept = node.admin(&["sweep", "--json", "--details"]);
    (swept.code, swept.json())
}

fn reasons(report: &Value, part: &str) -> Vec<String> {
    let flows = report["flows"].as_array().unwrap().iter();
    let of = flows.filter(|f| f["flow"].as_str().unwrap().contains(part));
    of.map(|f| f["reason"].as_str().unwrap().to_owned()).collect()
}

/// Two entries that a dump shows alike: a delete of the stale one may hit the other, which is
/// a live pod's.
#[test]
fn entries_that_look_alike_are_kept() {
    let node = Setup::new().gc_conf(json!({"lingerSeconds": 60})).up("entries_that_look_alike");
    let (base, [web, db]) = settle(&node, ["web", "db"]);
    let common = format!("priority=777,ip,nw_dst={}", web.ip);
    add_in_1_0(&node, &format!("{common},vlan_tci=0x0000,actions=output:{}", web.ofport));
    add_in_1_0(&node, &format!("{common},vlan_tci=0x0000/0x1fff,actions=output:{}", db.ofport));
    let plain = format!("priority=778,in_port={}", web.ofport);
    add_in_1_0(&node, &format!("{plain},dl_vlan=0xffff,actions=drop"));
    add_in_1_0(&node, &format!("{plain},vlan_tci=0x0000/0x1fff,actions=output:{}", db.ofport));
    let alike = [shown_in_1_0(&node, "priority=777"), shown_in_1_0(&node, "priority=778")].concat();
    assert_eq!(alike.len(), 4, "{alike:#?}");

    node.del(&web);
    let now =
        || [shown_in_1_0(&node, "priority=777"), shown_in_1_0(&node, "priority=778")].concat();
    assert_eq!(now(), alike);
    assert_eq!(
        still_there(&node, &[&base[..], &db.flows].concat()).len(),
        base.len() + db.flows.len()
    );
    assert_eq!(still_there(&node, &web.flows), [""; 0]);
    // And it is said.
    let (_, report) = details(&node);
    for part in ["priority=777", "priority=778"] {
        let reasons = reasons(&report, part);
        assert!(reasons.contains(&"ambiguous".to_owned()), "{part}: {reasons:?}\n{report:#}");
    }
    assert_eq!(now(), alike);
    // Once the other ones are gone, nothing is ambiguous.
    node.ofctl(&[
        "-OOpenFlow10",
        "--strict",
        "del-flows",
        "br0",
        &format!("{common},vlan_tci=0x0000/0x1fff"),
    ]);
    node.ofctl(&[
        "-OOpenFlow10",
        "--strict",
        "del-flows",
        "br0",
        &format!("{plain},vlan_tci=0x0000/0x1fff"),
    ]);
    sweep(&node);
    only(&node, &[&base, &db.flows]);
}

/// A dead pod's entry that names it by its output alone, and one that a dump shows alike and that
/// has to do with nobody dead. A delete of the one, as it is shown, deletes the other.
#[test]
fn an_entry_that_nobody_dead_has_to_do_with_may_look_alike() {
    // A look at everything, and one by tokens: it asks for outputs to the dead port.
    for (filler, name) in [(0, "alike_in_full"), (2_500, "alike_by_output")] {
        let node = Setup::new().gc_conf(json!({"lingerSeconds": 0, "reg0": "none"})).up(name);
        let (_, [web, db]) = settle(&node, ["web", "db"]);
        let filler: Vec<_> = (0..filler)
            .map(|n| format!("table=99,priority=1,tcp,tp_dst={},actions=drop", 1_000 + n))
            .collect();
        node.install("br0", &filler);
        for (priority, both) in [(777, true), (778, false)] {
            let common = format!("priority={priority},ip,dl_dst={}", web.mac);
            let dead = format!("{common},vlan_tci=0x0000,actions=output:{}", web.ofport);
            add_in_1_0(&node, &dead);
            if both {
                let live = format!("{common},vlan_tci=0x0000/0x1fff");
                add_in_1_0(&node, &format!("{live},actions=output:{}", db.ofport));
            }
        }
        let alike = shown_in_1_0(&node, "priority=777");
        assert_eq!(alike.len(), 2, "{alike:#?}");
        node.del(&web);
        assert_eq!(shown_in_1_0(&node, "priority=777"), alike, "{name}");
        let (_, report) = details(&node);
        // What has no double went.
        assert_eq!(shown_in_1_0(&node, "priority=778"), [""; 0], "{name}: {report:#}");
        assert_eq!(reasons(&report, "priority=777"), ["ambiguous"], "{name}: {report:#}");
    }
}

/// What 1.0 clients match on VLANs goes, or is reported as staying: never neither.
#[test]
fn vlan_matches_of_1_0_clients_go_or_are_reported() {
    let node = hasty_node("vlan_matches_of_1_0_clients", 5000);
    let (base, [web, db]) = settle(&node, ["web", "db"]);
    let of_web = |n: usize, tci: &str| {
        format!("priority={},in_port={},{tci},actions=drop", 900 + n, web.ofport)
    };
    let go = [
        "vlan_tci=0x0000",
        "vlan_tci=0x0000/0x1fff",
        "dl_vlan=0xffff",
        "vlan_tci=0x1005/0x1fff",
        "dl_vlan=5,dl_vlan_pcp=3",
    ];
    let stay = ["vlan_tci=0x0000/0xf000", "vlan_tci=0x0000/0xe000", "vlan_tci=0x2000/0xe000"];
    for (n, tci) in go.iter().chain(&stay).enumerate() {
        add_in_1_0(&node, &of_web(n, tci));
    }
    // db has the like: nobody touches them.
    let db_vlan = format!("priority=990,in_port={},vlan_tci=0x0000,actions=drop", db.ofport);
    add_in_1_0(&node, &db_vlan);

    let deleted = our_del(&node, &web);
    assert!(deleted.succeeded(), "{deleted}");
    let left = shown_in_1_0(&node, "priority=9");
    let is_left =
        |n: usize| left.iter().any(|flow| flow.contains(&format!("priority={}", 900 + n)));
    for (n, tci) in go.iter().enumerate() {
        assert!(!is_left(n), "{tci}: {left:#?}");
    }
    assert!(is_left(90), "{left:#?}");
    let stayed = (go.len()..go.len() + stay.len()).filter(|n| is_left(*n)).count();
    assert_eq!(left.len(), 1 + stayed);
    assert_eq!(still_there(&node, &web.flows), [""; 0]);
    if stayed > 0 {
        assert!(deleted.stderr.contains("still there after"), "{deleted}");
        let why = tombstone_of(&node, &web)["lastError"].to_string();
        assert!(why.contains("still there"), "{why}");
        let (code, report) = details(&node);
        assert_eq!(
            (code, &report["bridges"][0]["stayed"]),
            (Some(3), &json!(stayed)),
            "{report:#}"
        );
    }
    // By hand, as the report says which they are; then the tombstone ends.
    node.ofctl(&["-OOpenFlow10", "del-flows", "br0", &format!("in_port={}", web.ofport)]);
    sweep(&node);
    assert!(tombstones(&node).is_empty());
    node.ofctl(&[
        "-OOpenFlow10",
        "--strict",
        "del-flows",
        "br0",
        db_vlan.trim_end_matches(",actions=drop"),
    ]);
    only(&node, &[&base, &db.flows]);
}
