//! Scenario 3, continued: the keys that say what of an orphan is to go, and how far to look.

use std::net::Ipv6Addr;
use std::process::Command;

use serde_json::json;

use super::fixture::{Fixture, sorted, sweep};
use crate::rig::{Attached, Datapath, Flows, Node, Port, Setup, eventually, layouts};

fn node(test: &str, keys: serde_json::Value) -> Node {
    Setup::new().datapath(Datapath::Dummy).gc_conf(keys).up(test)
}

#[test]
fn ports_are_reaped_on_request() {
    let node = Setup::new().gc_conf(json!({"reapPorts": true})).up("ports_are_reaped_on_request");
    let fixture = Fixture::new(&node, &["web", "db", "cache"]);
    let [web, db, cache] = [0, 1, 2].map(|n| &fixture.pods[n]);
    let all = |pods: &[&Attached]| sorted(pods.iter().map(|pod| pod.port.clone()).collect());
    node.vanish(web, Port::Stays);
    // The sandbox is gone, and something on the host has the port's name: not ours to take.
    node.vanish(db, Port::Stays);
    node.run("ip", &["link", "add", &db.port, "type", "veth", "peer", "name", "peer0"]).ok();
    node.run("ip", &["link", "set", &db.port, "up"]).ok();
    for (pod, up) in [(web, false), (db, true)] {
        eventually("the switch has seen it", || {
            let index = node.ovs_vsctl(&["get", "Interface", &pod.port, "ifindex"]);
            (index != "0") == up
        });
    }

    sweep(&node, &["--dry-run"]);
    assert_eq!(sorted(node.ports("br0")), all(&[web, db, cache]));
    let answer = sweep(&node, &[]);

    assert_eq!(sorted(node.ports("br0")), all(&[db, cache]), "{answer:#}");
    assert_eq!(node.dump("br0"), fixture.without(&[0, 1]));
    let said = answer["notes"].as_array().unwrap().iter();
    let named = said.filter(|note| note.as_str().unwrap().contains(&web.port)).count();
    assert_eq!(named, 1, "{answer:#}");
    // DEL leaves the port to the OVS plugin.
    let conf = node.plugin_conf("ovs-flow-gc", Some(cache), Some(&cache.result));
    node.kill_sandbox(cache);
    node.call_for(&conf, "DEL", cache).run().ok();
    assert!(node.ports("br0").contains(&cache.port));
}

/// antrea #276: what a crash leaves is a row with ofport -1 and an error.
#[test]
fn a_row_with_an_error_is_reaped() {
    let node = Setup::new().gc_conf(json!({"reapPorts": true})).up("a_row_with_an_error");
    let fixture = Fixture::new(&node, &["web", "db"]);
    let (web, db) = (&fixture.pods[0], &fixture.pods[1]);
    node.vanish(web, Port::Stays);
    node.restart_vswitchd(Flows::Restored);
    assert_eq!(node.ovs_vsctl(&["get", "Interface", &web.port, "ofport"]), "-1");
    sweep(&node, &[]);
    assert_eq!(node.ports("br0"), [db.port.as_str()]);
    let left = node.dump("br0");
    // db's number may be another one now: what counts is that nothing of web is left.
    let ours = |flow: &&String| fixture.flows[0].contains(flow) && !fixture.flows[1].contains(flow);
    assert_eq!(left.iter().filter(ours).collect::<Vec<_>>(), [""; 0]);
}

/// The switch's connections, one a line.
fn connections(node: &Node) -> Vec<String> {
    let dump = node.appctl(&["dpctl/dump-conntrack"]);
    dump.lines().map(str::to_owned).collect()
}

/// How many connections a pod is an end of. ICMPv6 does not count: flushing it aborts
/// ovs-vswitchd (its userspace conntrack), so it is left to expire.
fn mention(connections: &[String], pod: &Attached) -> usize {
    let [v4, v6] = [&pod.ip, &pod.ip6].map(|ip| format!("={ip},"));
    let counts = |line: &&String| !line.starts_with("icmpv6,");
    let of = connections.iter().filter(counts);
    of.filter(|line| line.contains(&v4) || line.contains(&v6)).count()
}

/// A datagram over IPv6, as hex digits. One that a pod sends has no checksum yet when the
/// userspace datapath takes it from the veth pair, and counts as invalid.
fn datagram(from: &Attached, to: &Attached) -> String {
    let mac = |pod: &Attached| pod.mac.replace(':', "");
    let ip = |pod: &Attached| pod.ip6.parse::<Ipv6Addr>().unwrap().octets();
    // Ports 1000 and 9, length, no checksum yet; behind it the pseudo header's rest.
    let udp = [0x03e8_u16, 9, 8];
    let addresses = [ip(from), ip(to)].concat();
    let words = addresses.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    let sum: u32 = words.chain(udp).chain([8, 17]).map(u32::from).sum();
    let checksum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let [source, destination, length] = udp;
    format!(
        "{}{}86dd6000000000081140{}{source:04x}{destination:04x}{length:04x}{checksum:04x}",
        mac(to),
        mac(from),
        hex(&addresses)
    )
}

/// Connections from web to db and from cache to queue: pings, and datagrams over IPv6.
#[track_caller]
fn connect(node: &Node) -> Fixture {
    let fixture = Fixture::new(node, &["web", "db", "cache", "queue"]);
    let v6 = "table=30, priority=100,ipv6 actions=ct(commit,table=35,zone=7)";
    node.add_flows("br0", &[v6]);
    for (from, to) in [(0, 1), (2, 3)] {
        let (from, to) = (&fixture.pods[from], &fixture.pods[to]);
        node.must_reach(from, &to.ip);
        node.must_reach(from, &to.ip6);
        let packet = format!("in_port={},packet={},actions=TABLE", from.ofport, datagram(from, to));
        node.ofctl(&["packet-out", "br0", &packet]);
    }
    eventually("there are connections", || {
        let made = connections(node);
        fixture.pods.iter().all(|pod| mention(&made, pod) >= 2)
    });
    assert!(connections(node).iter().any(|line| line.starts_with("icmpv6,")));
    fixture
}

#[test]
fn connections_are_flushed_on_request() {
    let node = Setup::new().gc_conf(json!({"conntrack": true})).up("connections_are_flushed");
    let fixture = connect(&node);
    node.vanish(&fixture.pods[1], Port::Stays);
    sweep(&node, &["--dry-run"]);
    assert!(mention(&connections(&node), &fixture.pods[1]) >= 2, "a dry run flushes nothing");

    sweep(&node, &[]);

    let left = connections(&node);
    assert_eq!(mention(&left, &fixture.pods[1]), 0, "{left:#?}");
    assert!(mention(&left, &fixture.pods[2]) >= 2 && mention(&left, &fixture.pods[3]) >= 2);
    node.must_reach(&fixture.pods[2], &fixture.pods[3].ip);
    // DEL does the same.
    node.del(&fixture.pods[3]);
    assert_eq!(mention(&connections(&node), &fixture.pods[3]), 0);
}

#[test]
fn connections_stay_unless_requested() {
    let node = Node::new("connections_stay");
    let fixture = connect(&node);
    node.vanish(&fixture.pods[1], Port::Stays);
    sweep(&node, &[]);
    node.del(&fixture.pods[3]);
    for pod in &fixture.pods {
        assert!(mention(&connections(&node), pod) >= 2, "{}", pod.name);
    }
}

/// An address that somebody alive has keeps its connections, whoever had it before.
#[test]
fn connections_of_a_new_owner_stay() {
    let node = Setup::new().gc_conf(json!({"conntrack": true})).up("connections_of_a_new_owner");
    let fixture = connect(&node);
    let db = &fixture.pods[1];
    node.vanish(db, Port::Gone);
    sweep(&node, &[]);
    node.forget_lease(&db.ip);
    node.forget_lease(&db.ip6);
    let next = node.add(&node.pod("next").with_ip(&db.ip).with_mac(&db.mac));
    node.install("br0", &layouts::classifier(&next.who(0x2001)));
    node.must_reach(&fixture.pods[0], &next.ip);
    sweep(&node, &[]);
    assert!(mention(&connections(&node), &next) >= 1);
}

/// A flush hits the whole datapath: an address that somebody has on a bridge that nothing joins to
/// ours, and one whose entry stays because it lives behind a tunnel, keep their connections.
#[test]
fn connections_of_the_datapaths_other_owners_stay() {
    let node = Setup::new().gc_conf(json!({"conntrack": true})).up("connections_of_other_owners");
    let fixture = connect(&node);
    let [far, moved] = [&fixture.pods[1], &fixture.pods[3]];
    node.ovs_vsctl(&["add-br", "br9", "--", "set", "Bridge", "br9", "datapath_type=netdev"]);
    node.ovs_vsctl(&["add-port", "br9", "own9", "--", "set", "Interface", "own9", "type=internal"]);
    for id in ["sandbox=elsewhere", &format!("ip=\"{}\"", far.ip)] {
        node.ovs_vsctl(&["set", "Interface", "own9", &format!("external_ids:{id}")]);
    }
    let tunnel = [format!(
        "table=50, priority=9,ip,nw_dst={} actions=set_field:0x7->tun_id,goto_table:60",
        moved.ip
    )];
    node.install("br0", &tunnel);
    let of = |pod: &Attached| {
        let lines = connections(&node).into_iter();
        lines.filter(|line| line.contains(&format!("={},", pod.ip))).count()
    };
    assert!(of(far) >= 1 && of(moved) >= 1);
    node.vanish(far, Port::Stays);
    node.del(moved);
    sweep(&node, &[]);
    assert!(node.dump("br0").contains(&tunnel[0]));
    assert!(of(far) >= 1, "another network has the address");
    assert!(of(moved) >= 1, "the address lives on another node");
    // When nobody else has them, they go.
    node.ovs_vsctl(&["del-port", "br9", "own9"]);
    node.ofctl(&["del-flows", "br0", "table=50"]);
    sweep(&node, &[]);
    assert_eq!((of(far), of(moved)), (0, 0));
}

/// A virtual machine that Neutron marked: nobody knows its addresses, and in another tenant's network
/// it may have any.
#[test]
fn connections_of_what_a_machine_may_have_stay() {
    let node = Setup::new().gc_conf(json!({"conntrack": true})).up("connections_of_a_machine");
    let fixture = connect(&node);
    node.ovs_vsctl(&["add-br", "br9", "--", "set", "Bridge", "br9", "datapath_type=netdev"]);
    node.ovs_vsctl(&["add-port", "br9", "vm9", "--", "set", "Interface", "vm9", "type=internal"]);
    for id in ["iface-id=0d4b2e5a", "attached-mac=\"fa:16:3e:00:00:01\""] {
        node.ovs_vsctl(&["set", "Interface", "vm9", &format!("external_ids:{id}")]);
    }
    let [gone, del] = [&fixture.pods[1], &fixture.pods[3]];
    node.vanish(gone, Port::Stays);
    node.del(del);
    sweep(&node, &[]);
    let left = connections(&node);
    assert!(mention(&left, gone) >= 2 && mention(&left, del) >= 2, "{left:#?}");
    // Without marks it is what uplinks are: nobody's end.
    node.ovs_vsctl(&["clear", "Interface", "vm9", "external_ids"]);
    sweep(&node, &[]);
    let left = connections(&node);
    assert_eq!((mention(&left, gone), mention(&left, del)), (0, 0), "{left:#?}");
}

/// Tables outside the list are somebody else's.
#[test]
fn tables_in_scope() {
    let node = node("tables_in_scope", json!({"tables": [0, 20, 40]}));
    let fixture = Fixture::new(&node, &["web", "db", "cache"]);
    node.vanish(&fixture.pods[0], Port::Stays);
    sweep(&node, &[]);
    let ours =
        |flow: &&String| ["table=0,", "table=20,", "table=40,"].iter().any(|t| flow.contains(t));
    let rest = |pod: usize| -> Vec<String> {
        fixture.flows[pod].iter().filter(|flow| !ours(flow)).cloned().collect()
    };
    assert!(rest(0).len() > 10 && rest(0).len() < fixture.flows[0].len());
    assert_eq!(node.dump("br0"), sorted([fixture.without(&[0]), rest(0)].concat()));
    node.del(&fixture.pods[1]);
    let left = [fixture.without(&[0, 1]), rest(0), rest(1)].concat();
    assert_eq!(node.dump("br0"), sorted(left));
}

/// A controller that marks its entries: others on the bridge are left alone.
#[test]
fn cookies_in_scope() {
    let node = node("cookies_in_scope", json!({"cookie": "0xab00/0xff00"}));
    let pods = ["web", "db"].map(|name| node.run_pod(name));
    let entries = |pod: &Attached, cookie: u64, table: u8| {
        let (port, ip) = (pod.ofport, &pod.ip);
        vec![
            format!("cookie={cookie:#x}, table={table}, priority=3,in_port={port} actions=NORMAL"),
            format!(
                "cookie={cookie:#x}, table={table}, priority=3,ip,nw_dst={ip} actions=output:{port}"
            ),
        ]
    };
    let mut kept = node.install("br0", &entries(&pods[1], 0xab01, 1));
    for (table, cookie) in [(2, 0), (3, 0xab), (4, 0xaa00), (5, 0xffff_ffff_ffff_00ff)] {
        kept.extend(node.install("br0", &entries(&pods[0], cookie, table)));
    }
    for (table, cookie) in [(6, 0xab00), (7, 0xabcd), (8, 0xffff_ffff_ffff_ab42)] {
        node.install("br0", &entries(&pods[0], cookie, table));
    }
    node.vanish(&pods[0], Port::Gone);
    sweep(&node, &[]);
    assert_eq!(node.dump("br0"), sorted(kept));
}

/// The bridges to look at: the port's own and another one, where port numbers are others'.
#[test]
fn more_than_one_bridge() {
    let node = node("more_than_one_bridge", json!({"bridges": ["br0", "br-tun"]}));
    node.add_bridge("br-tun", None);
    let fixture = Fixture::new(&node, &["web", "db"]);
    let web = &fixture.pods[0];
    // Some port of br-tun has web's number.
    node.ovs_vsctl(&[
        "add-port",
        "br-tun",
        "other0",
        "--",
        "set",
        "Interface",
        "other0",
        "type=internal",
        &format!("ofport_request={}", web.ofport),
    ]);
    assert_eq!(node.ofport("other0"), web.ofport);
    let (port, ip) = (web.ofport, &web.ip);
    let kept = node.install("br-tun", &[format!("table=1, in_port={port} actions=NORMAL")]);
    node.install(
        "br-tun",
        &[
            format!("table=2, ip,nw_src={ip} actions=NORMAL"),
            "table=3, reg0=0x1001 actions=drop".to_owned(),
        ],
    );
    let by_register = "table=3, reg0=0x1001 actions=drop".to_owned();
    node.vanish(web, Port::Gone);
    sweep(&node, &[]);
    assert_eq!(node.dump("br0"), fixture.without(&[0]));
    let left = node.dump("br-tun");
    assert_eq!(left, sorted([kept, vec![by_register]].concat()));
}

/// As a systemd timer runs it: another network namespace, hardly any environment.
#[test]
fn a_sweep_in_the_environment_of_a_unit() {
    let node = node("in_the_environment_of_a_unit", json!({}));
    let fixture = Fixture::new(&node, &["web", "db"]);
    node.vanish(&fixture.pods[0], Port::Gone);
    let mut unit = Command::new(node.plugin("ovs-flow-gc"));
    unit.env_clear().env("OVS_RUNDIR", &node.run_dir).current_dir("/");
    unit.args(["sweep", "--only-dead", "--state-dir"]).arg(&node.state_dir);
    let output = unit.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(node.dump("br0"), fixture.without(&[0]));
}
