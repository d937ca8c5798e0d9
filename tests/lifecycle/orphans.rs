//! Scenario 3: the pod is gone and nobody called DEL. The sweep finds it and takes its
//! entries, and only those; a dry run only says so.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};

use super::fixture::{Fixture, sorted, states, sweep, tree};
use crate::rig::{Attached, Datapath, Node, Port, Setup, eventually, pod_name};

fn dummy(test: &str) -> Node {
    Setup::new().datapath(Datapath::Dummy).up(test)
}

/// Everything of OVSDB that a test could have changed by mistake.
fn database(node: &Node) -> String {
    let tables = [
        ("Bridge", "name,ports"),
        ("Port", "name,external_ids,tag"),
        ("Interface", "name,ofport,external_ids"),
    ];
    let list = |(table, columns): (&str, &str)| {
        node.ovs_vsctl(&["--format=csv", &format!("--columns={columns}"), "list", table])
    };
    tables.map(list).join("\n")
}

fn target<'a>(answer: &'a Value, pod: &str) -> &'a Value {
    let targets = answer["targets"].as_array().unwrap();
    let name = format!("default/{}", pod_name(pod));
    targets
        .iter()
        .find(|t| t["pod"] == name.as_str())
        .unwrap_or_else(|| panic!("{pod} in {answer:#}"))
}

#[test]
fn the_port_row_is_still_there() {
    let node = Node::new("the_port_row_is_still_there");
    let fixture = Fixture::new(&node, &["web", "db", "cache"]);
    let (web, db, cache) = (&fixture.pods[0], &fixture.pods[1], &fixture.pods[2]);
    node.vanish(db, Port::Stays);
    assert_eq!(node.dump("br0"), fixture.lines(), "the flows are left over");

    let answer = sweep(&node, &[]);

    assert_eq!(node.dump("br0"), fixture.without(&[1]));
    assert!(node.ports("br0").contains(&db.port), "the row is the OVS plugin's");
    let gone = target(&answer, "db");
    assert!(gone["cause"]["orphan"].is_string(), "{gone:#}");
    assert_eq!(gone["deleted"], fixture.flows[1].len());
    assert_eq!(states(&node)["db"], "gone");
    node.must_reach(web, &cache.ip);
    node.must_reach(cache, &web.ip6);
    // Again: nothing to do.
    assert_eq!(sweep(&node, &[])["bridges"][0]["deleted"], 0);
    assert_eq!(node.dump("br0"), fixture.without(&[1]));
    // DEL comes late, as a kubelet's after a crash (field notes, §6).
    node.try_del(db).unwrap();
    assert_eq!(node.dump("br0"), fixture.without(&[1]));
}

#[test]
fn the_port_row_is_gone() {
    let node = dummy("the_port_row_is_gone");
    let fixture = Fixture::new(&node, &["web", "db", "cache"]);
    node.vanish(&fixture.pods[1], Port::Gone);
    sweep(&node, &[]);
    assert_eq!(node.dump("br0"), fixture.without(&[1]));
}

#[test]
fn several_at_once() {
    let node = dummy("several_at_once");
    let fixture = Fixture::new(&node, &["a", "b", "c", "d", "e", "f", "g"]);
    for index in [0, 2, 3, 5, 6] {
        let port = if index % 2 == 0 { Port::Stays } else { Port::Gone };
        node.vanish(&fixture.pods[index], port);
    }
    let answer = sweep(&node, &[]);
    assert_eq!(node.dump("br0"), fixture.without(&[0, 2, 3, 5, 6]));
    assert_eq!((&answer["attachments"], &answer["dead"]), (&json!(7), &json!(5)));
}

/// On a bridge of each OpenFlow version, too.
#[test]
fn on_bridges_of_every_openflow_version() {
    for protocols in ["OpenFlow13", "OpenFlow14", "OpenFlow10,OpenFlow15"] {
        let node = Setup::new().datapath(Datapath::Dummy).protocols(protocols).up(protocols);
        let fixture = Fixture::new(&node, &["web", "db"]);
        node.vanish(&fixture.pods[0], Port::Gone);
        sweep(&node, &[]);
        assert_eq!(node.dump("br0"), fixture.without(&[0]), "{protocols}");
    }
}

/// The same path, another namespace: a runtime that names namespaces after pods.
#[test]
fn the_namespace_is_another_one_now() {
    let node = dummy("the_namespace_is_another_one_now");
    let fixture = Fixture::new(&node, &["web", "db"]);
    let web = &fixture.pods[0];
    // It is made while the old one is there: the kernel would give it the same number else, and then
    // nobody knows whether it is another one.
    let next = format!("{}-next", web.netns);
    node.run("ip", &["netns", "add", &next]).ok();
    node.kill_sandbox(web);
    let path = |name: &str| format!("/run/netns/{name}");
    fs::write(path(&web.netns), "").unwrap();
    node.run("mount", &["--bind", &path(&next), &path(&web.netns)]).ok();
    node.run("ip", &["netns", "del", &next]).ok();
    sweep(&node, &[]);
    assert_eq!(node.dump("br0"), fixture.without(&[0]));
}

#[test]
fn nobody_is_dead() {
    let node = dummy("nobody_is_dead");
    let fixture = Fixture::new(&node, &["web", "db"]);
    let answer = sweep(&node, &[]);
    assert_eq!((&answer["dead"], &answer["targets"]), (&json!(0), &json!([])));
    assert_eq!(node.dump("br0"), fixture.lines());
    // The loss of a port row is not a death.
    node.ovs_vsctl(&["del-port", &fixture.pods[0].port]);
    sweep(&node, &[]);
    assert_eq!(node.dump("br0"), fixture.lines());
    assert_eq!(states(&node)["web"], "active");
}

#[test]
fn a_dry_run_changes_nothing() {
    let node = dummy("a_dry_run_changes_nothing");
    let fixture = Fixture::new(&node, &["web", "db", "cache"]);
    node.vanish(&fixture.pods[0], Port::Stays);
    node.vanish(&fixture.pods[1], Port::Gone);
    let before = (tree(&node.state_dir), database(&node));

    let answer = sweep(&node, &["--dry-run", "--details"]);

    assert_eq!(node.dump("br0"), fixture.lines());
    assert!(before == (tree(&node.state_dir), database(&node)), "records or OVSDB changed");
    assert_eq!(answer["dryRun"], true);
    assert_eq!(answer["dead"], 2);
    assert_eq!(answer["journals"], json!([]));
    let stale = [fixture.flows[0].len(), fixture.flows[1].len()];
    for (pod, count) in ["web", "db"].iter().zip(stale) {
        assert_eq!(target(&answer, pod)["stale"], count);
        assert_eq!(target(&answer, pod)["deleted"], 0);
    }
    // Each with its pod, its rule and its reason.
    let flows = answer["flows"].as_array().unwrap();
    let named: Vec<&Value> = flows.iter().filter(|flow| flow["stale"] == true).collect();
    assert_eq!(named.len(), stale[0] + stale[1]);
    for flow in named {
        let names = ["web", "db"].map(|pod| Value::from(format!("default/{}", pod_name(pod))));
        assert!(names.contains(&flow["pod"]), "{flow}");
        assert!((1..=5).contains(&flow["rule"].as_u64().unwrap()), "{flow}");
        assert!(flow["text"].as_str().unwrap().len() > 10, "{flow}");
    }

    // For people, too; and what it said is what a sweep then does.
    let text = node.admin(&["sweep", "--dry-run"]).ok();
    assert!(text.contains(&pod_name("web")) && text.contains("would be deleted"), "{text}");
    assert_eq!(node.dump("br0"), fixture.lines());
    sweep(&node, &[]);
    assert_eq!(node.dump("br0"), fixture.without(&[0, 1]));
}

/// What a dry run lists is written as `ovs-ofctl` writes it.
#[test]
fn a_dry_run_names_the_entries() {
    let node = Setup::new().datapath(Datapath::Dummy).protocols("OpenFlow14").up("names_entries");
    let fixture = Fixture::new(&node, &["web", "db"]);
    node.vanish(&fixture.pods[0], Port::Stays);
    let answer = sweep(&node, &["--dry-run", "--details"]);
    let flows = answer["flows"].as_array().unwrap().iter();
    let named: BTreeSet<String> = flows
        .filter(|flow| flow["stale"] == true)
        .map(|flow| flow["flow"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(named.len(), fixture.flows[0].len(), "no two alike");
    // The switch takes them back and has what it had.
    let commands: Vec<&str> = named.iter().map(String::as_str).collect();
    node.add_flows("br0", &commands);
    let (had, has) = (fixture.lines(), node.dump("br0"));
    let differs: Vec<_> = has.iter().filter(|flow| !had.contains(flow)).collect();
    assert_eq!(differs, [""; 0]);
    assert_eq!(has.len(), had.len());
}

#[test]
fn a_sweep_as_json() {
    let node = dummy("a_sweep_as_json");
    let fixture = Fixture::new(&node, &["web", "db"]);
    let web = &fixture.pods[0];
    node.vanish(web, Port::Gone);
    let answer = sweep(&node, &["--details"]);
    for (key, value) in [
        ("dryRun", json!(false)),
        ("paused", json!(false)),
        ("braked", json!(false)),
        ("observed", json!(false)),
        ("attachments", json!(2)),
        ("dead", json!(1)),
        ("corrupt", json!([])),
    ] {
        assert_eq!(answer[key], value, "{key}");
    }
    let gone = target(&answer, "web");
    assert_eq!(gone["network"], "podnet");
    assert_eq!(gone["containerID"], web.container);
    assert_eq!(gone["ifname"], "eth0");
    assert_eq!((&gone["complete"], &gone["waiting"]), (&json!(true), &json!(false)));
    assert_eq!(gone.get("error"), None);
    let bridge = &answer["bridges"][0];
    assert_eq!((&bridge["bridge"], &bridge["full"]), (&json!("br0"), &json!(true)));
    assert_eq!(bridge["flows"], fixture.lines().len());
    assert_eq!(bridge["deleted"], fixture.flows[0].len());
    for key in ["stayed", "putOff", "dangling", "suspicions"] {
        assert_eq!(bridge[key], 0, "{key}");
    }
    assert_eq!(answer["journals"].as_array().unwrap().len(), 1, "undo can put it back");
}

/// For a timer: as long as nobody died the switch is left alone, also a hung one.
#[test]
fn only_dead() {
    let node = dummy("only_dead");
    let fixture = Fixture::new(&node, &["web", "db"]);
    node.vswitchd.pause();
    node.ovsdb.pause();
    assert_eq!(sweep(&node, &["--only-dead"])["bridges"], json!([]));
    node.ovsdb.resume();
    node.vswitchd.resume();

    node.vanish(&fixture.pods[0], Port::Gone);
    sweep(&node, &["--only-dead"]);
    assert_eq!(node.dump("br0"), fixture.without(&[0]));
}

/// With the records of a full sweep a partial look knows the register value, too: a bridge
/// with many entries is asked by token.
#[test]
fn on_a_large_bridge() {
    let node = dummy("on_a_large_bridge");
    let mut fixture = Fixture::new(&node, &["web", "db", "cache"]);
    let many = |n: u32| {
        let ip = std::net::Ipv4Addr::from(0x0b00_0000 + n);
        format!("table=70, priority=5,ip,nw_dst={ip} actions=NORMAL")
    };
    let many: Vec<String> = (0..3000).map(many).collect();
    node.add_flows("br0", &many);
    fixture.base.extend(many);

    node.vanish(&fixture.pods[0], Port::Stays);
    let answer = sweep(&node, &["--only-dead"]);
    assert_eq!(node.dump("br0"), fixture.without(&[0]), "{answer:#}");
    node.vanish(&fixture.pods[1], Port::Gone);
    let answer = sweep(&node, &["--only-dead"]);
    assert_eq!(node.dump("br0"), fixture.without(&[0, 1]), "{answer:#}");
    node.del(&fixture.pods[2]);
    assert_eq!(node.dump("br0"), fixture.without(&[0, 1, 2]));
}

/// The tombstone goes when the linger time has passed, not before and not never.
#[test]
fn a_tombstone_has_its_time() {
    let node = Setup::new()
        .datapath(Datapath::Dummy)
        .gc_conf(json!({"lingerSeconds": 1}))
        .up("a_tombstone_has_its_time");
    let fixture = Fixture::new(&node, &["web", "db"]);
    node.vanish(&fixture.pods[0], Port::Gone);
    sweep(&node, &[]);
    assert_eq!(states(&node)["web"], "gone");
    eventually("the tombstone has gone", || {
        sweep(&node, &[]);
        !states(&node).contains_key("web")
    });
    assert_eq!(node.dump("br0"), fixture.without(&[0]));
}

/// CRI-O was killed during its ADD: the OVS plugin had made the port, a controller had installed
/// entries, and our ADD never came. No DEL comes for it either.
#[test]
fn a_port_that_nobody_recorded() {
    let node = Setup::new().gc_conf(json!({"reg0": "pod", "lingerSeconds": 0})).up("unrecorded");
    let [web, lost, quiet] = ["web", "lost", "quiet"].map(|name| node.run_pod(name));
    let forget = |pod: &Attached| {
        let record = format!("podnet/{}:eth0.json", pod.container);
        fs::remove_file(node.state_dir.join(record)).unwrap();
    };
    let its = |pod: &Attached, value: u32| {
        let (port, ip, mac) = (pod.ofport, &pod.ip, &pod.mac);
        node.install(
            "br0",
            &[
                format!("table=0, priority=9,in_port={port} actions=set_field:{value:#x}->reg0,resubmit(,10)"),
                format!("table=10, priority=9,ip,in_port={port},nw_src={ip} actions=resubmit(,20)"),
                format!("table=10, priority=8,in_port={port} actions=drop"),
                format!("table=20, priority=9,reg0={value:#x} actions=resubmit(,40)"),
                format!("table=40, priority=9,ip,nw_dst={ip} actions=output:{port}"),
                format!("table=40, priority=9,arp,arp_tpa={ip} actions=output:{port}"),
                format!("table=40, priority=8,dl_dst={mac} actions=output:{port}"),
            ],
        )
    };
    let living = [its(&web, 0x1001), its(&quiet, 0x1003)].concat();
    let dead = its(&lost, 0x1002);
    forget(&lost);
    forget(&quiet);
    sweep(&node, &[]);
    assert_eq!(node.dump("br0"), sorted([living.clone(), dead].concat()), "all of them live");

    node.vanish(&lost, Port::Stays);
    eventually("the switch has seen it", || {
        node.ovs_vsctl(&["get", "Interface", &lost.port, "ifindex"]) == "0"
    });
    assert_eq!(sweep(&node, &["--dry-run"])["bridges"][0]["stale"], 7);
    assert_eq!(states(&node).len(), 1, "a dry run writes no tombstone");
    let answer = sweep(&node, &[]);
    assert_eq!(node.dump("br0"), sorted(living.clone()), "{answer:#}");
    // The row is left for whoever made it, and is not found dead again and again.
    let answer = sweep(&node, &[]);
    assert_eq!(answer["unrecordedPorts"][0]["port"], lost.port.as_str(), "{answer:#}");
    assert!(answer["targets"].as_array().unwrap().is_empty(), "{answer:#}");
    assert_eq!(node.dump("br0"), sorted(living));
}

/// The tombstones of such ports know the VLANs, and their number is no number of log lines.
#[test]
fn ports_that_nobody_recorded_have_their_vlans_and_few_log_lines() {
    let node = Setup::new().gc_conf(json!({"reg0": "none"})).up("unrecorded_vlans");
    node.run_pod("web");
    let lost: Vec<Attached> = (0..7).map(|n| node.run_pod(&format!("lost{n}"))).collect();
    for pod in &lost {
        node.ovs_vsctl(&["set", "Port", &pod.port, "tag=100"]);
        node.install("br0", &[format!("table=9,priority=9,in_port={} actions=drop", pod.ofport)]);
        let record = format!("podnet/{}:eth0.json", pod.container);
        fs::remove_file(node.state_dir.join(record)).unwrap();
    }
    for pod in &lost {
        node.vanish(pod, Port::Stays);
    }
    eventually("the switch has seen it", || {
        lost.iter().all(|pod| node.ovs_vsctl(&["get", "Interface", &pod.port, "ifindex"]) == "0")
    });
    let swept = node.admin(&["sweep", "--log-level", "info"]);
    let dead = swept.stderr.lines().filter(|line| line.contains(") is dead: ")).count();
    assert!(dead == 5 && swept.stderr.contains(" 2 more pods are dead"), "{swept}");
    let list = node.admin(&["list", "--no-flows", "--json"]).json();
    let dead: Vec<_> =
        list.as_array().unwrap().iter().filter(|one| one["liveness"] == "dead").collect();
    assert!(dead.len() == 7 && dead.iter().all(|one| one["vlans"] == json!([100])), "{list:#}");
}
