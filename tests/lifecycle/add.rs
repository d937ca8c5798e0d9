//! Scenario 6: ADD of a pod that is given what a dead one had. What the dead one left is gone
//! before ADD returns; what a controller has installed for the new one, between the OVS
//! plugin and us, stays. And ADD's result is prevResult, to the byte.

use std::fs;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::fixture::{Fixture, register, sorted, states, sweep};
use crate::rig::{Attached, Datapath, Node, Pod, Port, Setup, Who, layouts};

/// A controller that is quicker than we are: it installs the flows of `controller/NAME` as
/// soon as the OVS plugin has made the port. It may give the port a number first.
const CONTROLLER: &str = r#"
conf=$(cat)
[ "$CNI_COMMAND" = ADD ] || exit 0
name=${CNI_ARGS#*K8S_POD_NAME=}
dir=$(dirname "$0")/../../../controller
vsctl() { ovs-vsctl --db="unix:$OVS_RUNDIR/db.sock" --timeout=10 "$@"; }
port=$(vsctl --bare --columns=name find Port "external_ids:contNetns=\"$CNI_NETNS\"")
[ ! -e "$dir/ofport" ] || vsctl set Interface "$port" "ofport_request=$(cat "$dir/ofport")"
[ ! -e "$dir/endpoint" ] || vsctl set Interface "$port" "external_ids:endpoint=$(cat "$dir/endpoint")"
n=$(vsctl get Interface "$port" ofport)
ip6=$(echo "$conf" | sed 's/.*"\(fd00:[0-9a-f:]*\)\/64".*/\1/')
if [ -e "$dir/${name%%;*}" ]; then
    sed "s/65000/$n/g; s/fd00::65/$ip6/g" "$dir/${name%%;*}" |
        ovs-ofctl -OOpenFlow14 add-flows br0 - >&2 || exit 1
fi
echo "$conf" | sed 's/.*"prevResult"://; s/}$//'
"#;

fn node(test: &str, keys: Value) -> Node {
    let node = Setup::new().datapath(Datapath::Dummy).gc_conf(keys).up(test);
    fs::create_dir(node.dir.join("controller")).unwrap();
    node.script_plugin("controller", CONTROLLER);
    let mut conflist = node.conflist();
    conflist["plugins"].as_array_mut().unwrap().insert(1, json!({"type": "controller"}));
    node.set_conflist(conflist);
    node
}

/// ADD; the controller installs the pod's classifier entries before we come. Returns them.
#[track_caller]
fn add_with_flows(node: &Node, pod: &Pod, reg: u32) -> (Attached, Vec<String>) {
    let who = Who {
        ofport: 65000,
        reg,
        ip: pod.wanted_ip.clone().unwrap(),
        ip6: "fd00::65".to_owned(),
        mac: pod.wanted_mac.clone().unwrap(),
    };
    let text = layouts::classifier(&who).join("\n") + "\n";
    fs::write(node.dir.join("controller").join(&pod.name), text).unwrap();
    let attached = node.add(pod);
    let mut flows = layouts::classifier(&attached.who(reg));
    flows.sort();
    (attached, flows)
}

/// The new pod's ports get this number.
fn request_ofport(node: &Node, number: u16) {
    fs::write(node.dir.join("controller/ofport"), number.to_string()).unwrap();
}

/// IPAM has both addresses of a dead pod again.
fn forget_leases(node: &Node, pod: &Attached) {
    node.forget_lease(&pod.ip);
    node.forget_lease(&pod.ip6);
}

const MAC: &str = "02:00:00:00:0a:01";

/// The entries of `dead` in a dump that are not the new pod's.
fn leftovers(node: &Node, fixture: &Fixture, dead: usize, new: &[String]) -> Vec<String> {
    let left = node.dump("br0").into_iter();
    left.filter(|flow| fixture.flows[dead].contains(flow) && !new.contains(flow)).collect()
}

/// Of the dead pod nothing is left, of the others and the new one everything.
#[track_caller]
fn assert_purged(node: &Node, fixture: &Fixture, dead: usize, new: &[String]) {
    assert_eq!(leftovers(node, fixture, dead, new), [""; 0]);
    assert_eq!(node.dump("br0"), sorted([fixture.without(&[dead]), new.to_vec()].concat()));
}

#[test]
fn the_ip_of_an_orphan() {
    for port in [Port::Gone, Port::Stays] {
        let node = node("the_ip_of_an_orphan", json!({}));
        let fixture = Fixture::new(&node, &["web", "db", "cache"]);
        let db = &fixture.pods[1];
        node.vanish(db, port);
        forget_leases(&node, db);

        let next = node.pod("next").with_ip(&db.ip).with_mac(MAC);
        let (next, flows) = add_with_flows(&node, &next, 0x2001);

        assert_ne!(next.ofport, db.ofport);
        assert_purged(&node, &fixture, 1, &flows);
        assert_eq!(states(&node)["next"], "active");
        assert_eq!(states(&node)["db"], "gone");
    }
}

/// The controller is slow: nothing of the new pod's is there when ADD returns.
#[test]
fn the_ip_of_an_orphan_and_a_slow_controller() {
    let node = node("a_slow_controller", json!({}));
    let fixture = Fixture::new(&node, &["web", "db", "cache"]);
    let db = &fixture.pods[1];
    node.vanish(db, Port::Gone);
    forget_leases(&node, db);
    let next = node.add(&node.pod("next").with_ip(&db.ip));
    // The dead pod's register value may turn out to be the new one's, whom nobody knows yet.
    let left = leftovers(&node, &fixture, 1, &[]);
    assert!(left.iter().all(|flow| flow.contains("reg0=0x1002")), "{left:#?}");
    assert_eq!(node.dump("br0"), sorted([fixture.without(&[1]), left].concat()));
    assert_eq!(states(&node)["db"], "deleting", "it is not forgotten");

    let flows = node.install("br0", &layouts::classifier(&next.who(0x2001)));
    sweep(&node, &[]);
    assert_purged(&node, &fixture, 1, &flows);
}

/// antrea #430: the number is the new pod's, and so are new entries that match it.
#[test]
fn the_ofport_of_an_orphan() {
    let node = node("the_ofport_of_an_orphan", json!({}));
    let fixture = Fixture::new(&node, &["web", "db", "cache"]);
    // Its register value is known from an earlier look, see the next test.
    sweep(&node, &[]);
    let db = &fixture.pods[1];
    node.vanish(db, Port::Gone);
    request_ofport(&node, db.ofport);

    let next = node.pod("next").with_ip("10.244.1.77").with_mac(MAC);
    let (next, flows) = add_with_flows(&node, &next, 0x2001);

    assert_eq!(next.ofport, db.ofport);
    assert_purged(&node, &fixture, 1, &flows);
}

/// ADD wrote the value down, because the entry that loads it stood already. Nothing shows it any
/// more when somebody looks: the next pod with the number has replaced that entry.
#[test]
fn a_register_value_that_add_saw() {
    let node = node("a_value_that_add_saw", json!({"reg0": "pod"}));
    let pod = node.pod("web").with_ip("10.244.1.66").with_mac("02:00:00:00:0a:66");
    let (web, its) = add_with_flows(&node, &pod, 0x1001);
    let rows = node.admin(&["list", "--json", "--no-flows"]).json();
    assert_eq!(rows[0]["register"], json!({"value": 0x1001, "how": "learned"}), "{rows}");
    node.vanish(&web, Port::Gone);
    request_ofport(&node, web.ofport);
    let next = node.pod("next").with_ip("10.244.1.77").with_mac(MAC);
    let (next, flows) = add_with_flows(&node, &next, 0x2001);
    assert_eq!(next.ofport, web.ofport);
    assert!(its.iter().any(|flow| flow.contains("reg0=0x1001")));
    assert_eq!(node.dump("br0"), sorted(flows));
}

/// The number was somebody's who is dead, so that an entry under it may be his: ADD leaves the
/// value to those who see everything.
#[test]
fn an_old_classifier_is_not_the_new_pods() {
    let node = node("an_old_classifier", json!({"reg0": "pod"}));
    let free = node.run_pod("before");
    node.install("br0", &layouts::classifier(&free.who(0x1001)));
    // Not even a tombstone tells of it.
    node.configure(json!({"mode": "observe", "lingerSeconds": 0}));
    node.vanish(&free, Port::Gone);
    fs::remove_dir_all(&node.state_dir).unwrap();
    node.configure(json!({"mode": null}));
    request_ofport(&node, free.ofport);
    fs::write(node.dir.join("controller/next"), "").unwrap();
    crate::rig::sleep_ms(50);
    let next = node.run_pod("next");
    assert_eq!(next.ofport, free.ofport);
    let rows = node.admin(&["list", "--json", "--no-flows"]).json();
    assert_eq!(rows[0]["register"], Value::Null, "it is older than the pod: {rows}");
}

/// A value that changed between ADD and DEL: the classifier that stands at DEL is right.
#[test]
fn a_register_value_that_changed_since() {
    let node = node("a_value_that_changed", json!({"reg0": "pod"}));
    let pod = node.pod("web").with_ip("10.244.1.66").with_mac("02:00:00:00:0a:66");
    let (web, _) = add_with_flows(&node, &pod, 0x1001);
    node.ofctl(&["del-flows", "br0"]);
    node.install("br0", &layouts::classifier(&web.who(0x3001)));
    let somebodys = node.install("br0", &["table=20, priority=7,reg0=0x1001 actions=drop"]);
    node.del(&web);
    assert_eq!(node.dump("br0"), somebodys);
}

/// What nobody ever saw is said, and not called clean.
#[test]
fn a_register_value_that_was_never_known() {
    let node = node("a_value_never_known", json!({"reg0": "pod", "lingerSeconds": 1}));
    let web = node.run_pod("web");
    let its = node.install("br0", &["table=20, priority=100,reg0=0x1001 actions=drop"]);
    node.vanish(&web, Port::Gone);
    let text = sweep_text(&node);
    assert!(text.contains("clean, but its register value was never known"), "{text}");
    let listed = node.admin(&["list"]).ok();
    assert!(listed.contains("never known"), "{listed}");
    crate::rig::sleep_ms(1100);
    node.admin(&["sweep"]).ok();
    assert!(states(&node).is_empty());
    assert_eq!(node.dump("br0"), its);
}

fn sweep_text(node: &Node) -> String {
    node.admin(&["sweep"]).ok()
}

/// The entry that loaded the dead pod's register value matched its port alone, and the new
/// pod's has replaced it. If nobody looked before, nobody can tell whose the value was: what
/// matches it stays, and nothing else.
#[test]
fn a_register_value_that_nobody_saw() {
    let node = node("a_value_that_nobody_saw", json!({}));
    let fixture = Fixture::new(&node, &["web", "db", "cache"]);
    let db = &fixture.pods[1];
    node.vanish(db, Port::Gone);
    request_ofport(&node, db.ofport);
    let next = node.pod("next").with_ip("10.244.1.77").with_mac(MAC);
    let (_, flows) = add_with_flows(&node, &next, 0x2001);
    let left = leftovers(&node, &fixture, 1, &flows);
    assert_eq!(left.len(), 4);
    assert!(left.iter().all(|flow| flow.contains("reg0=0x1002")), "{left:#?}");
    assert_eq!(node.dump("br0"), sorted([fixture.without(&[1]), flows, left].concat()));
}

/// The whole identity: number, addresses, MAC and register value.
#[test]
fn everything_of_an_orphan() {
    let node = node("everything_of_an_orphan", json!({}));
    let mut fixture = Fixture::new(&node, &["web", "cache"]);
    let base = node.dump("br0");
    let db = node.add(&node.pod("db").with_ip("10.244.1.99").with_mac(MAC));
    fixture.flows.push(node.install("br0", &layouts::classifier(&db.who(0x2001))));
    node.vanish(&db, Port::Gone);
    forget_leases(&node, &db);
    request_ofport(&node, db.ofport);

    let next = node.pod("next").with_ip(&db.ip).with_mac(MAC);
    let (next, flows) = add_with_flows(&node, &next, 0x2001);

    assert_eq!((next.ofport, &next.ip), (db.ofport, &db.ip));
    assert_purged(&node, &fixture, 2, &flows);
    assert!(node.dump("br0").iter().all(|flow| base.contains(flow) || flows.contains(flow)));
}

/// One orphan had the address, another the number.
#[test]
fn the_ip_of_one_and_the_ofport_of_another() {
    let node = node("one_and_another", json!({}));
    let fixture = Fixture::new(&node, &["web", "db", "cache", "queue"]);
    let (db, cache) = (&fixture.pods[1], &fixture.pods[2]);
    sweep(&node, &[]);
    node.vanish(db, Port::Gone);
    node.vanish(cache, Port::Gone);
    forget_leases(&node, db);
    request_ofport(&node, cache.ofport);
    let next = node.pod("next").with_ip(&db.ip).with_mac(MAC);
    let (next, flows) = add_with_flows(&node, &next, 0x2001);
    assert_eq!((next.ofport, &next.ip), (cache.ofport, &db.ip));
    assert_eq!(leftovers(&node, &fixture, 1, &flows), [""; 0]);
    assert_eq!(leftovers(&node, &fixture, 2, &flows), [""; 0]);
    assert_eq!(node.dump("br0"), sorted([fixture.without(&[1, 2]), flows].concat()));
}

/// The switch hung at DEL, so a tombstone waits. ADD does not wait for the next sweep.
#[test]
fn the_ip_of_a_tombstone() {
    let node = node("the_ip_of_a_tombstone", json!({"timeoutMs": 300}));
    let fixture = Fixture::new(&node, &["web", "db", "cache"]);
    let db = &fixture.pods[1];
    node.vswitchd.pause();
    node.del(db);
    assert_eq!(states(&node)["db"], "deleting");
    node.vswitchd.resume();
    assert_eq!(node.dump("br0"), fixture.lines());

    node.configure(json!({"timeoutMs": 5000}));
    let next = node.pod("next").with_ip(&db.ip).with_mac(MAC);
    let (_, flows) = add_with_flows(&node, &next, 0x2001);

    assert_purged(&node, &fixture, 1, &flows);
    assert_eq!(states(&node)["db"], "gone");
}

/// Nobody's tokens are shared: the orphan waits for the sweep, and ADD stays cheap.
#[test]
fn somebody_elses_orphan() {
    let node = node("somebody_elses_orphan", json!({}));
    let fixture = Fixture::new(&node, &["web", "db"]);
    node.vanish(&fixture.pods[1], Port::Stays);
    let next = node.pod("next").with_ip("10.244.1.77").with_mac(MAC);
    let (_, flows) = add_with_flows(&node, &next, 0x2001);
    assert_eq!(node.dump("br0"), sorted([fixture.lines(), flows].concat()));
    assert_eq!(states(&node)["db"], "active", "nobody has asked");
}

/// A register value that is written in OVSDB is known at ADD: another dead pod's entries
/// with it would be the new pod's identity.
#[test]
fn the_register_value_of_an_orphan() {
    let node = node("the_register_value", json!({"reg0": "externalId:endpoint"}));
    let endpoint = |value: u32| {
        fs::write(node.dir.join("controller/endpoint"), value.to_string()).unwrap();
    };
    endpoint(register(0));
    let web = node.run_pod("web");
    endpoint(register(1));
    let db = node.run_pod("db");
    let [of_web, of_db] = [(&web, 0), (&db, 1)].map(|(pod, index)| {
        let classifier = layouts::classifier(&pod.who(register(index)));
        // A policy of the pod that the new one does not have.
        let own = format!("table=20, priority=120,udp,reg0={:#x} actions=drop", register(index));
        node.install("br0", &[classifier, vec![own]].concat())
    });
    node.vanish(&db, Port::Gone);

    // No flows yet: the controller comes later.
    let next = node.add(&node.pod("next").with_ip("10.244.1.77"));

    assert_eq!(node.dump("br0"), sorted(of_web.clone()), "{of_db:#?}");
    let flows = node.install("br0", &layouts::classifier(&next.who(register(1))));
    node.del(&next);
    assert_eq!(node.dump("br0"), sorted(of_web), "{flows:#?}");
}

/// ipv4: with the address comes the value.
#[test]
fn the_ip_that_is_the_register_value() {
    let node = node("the_ip_that_is_the_value", json!({"reg0": "ipv4"}));
    let web = node.run_pod("web");
    let value = |pod: &Attached| pod.ip.parse::<std::net::Ipv4Addr>().unwrap().into();
    node.install("br0", &layouts::classifier(&web.who(value(&web))));
    node.vanish(&web, Port::Gone);
    forget_leases(&node, &web);
    let next = node.add(&node.pod("next").with_ip(&web.ip));
    assert_eq!(next.ip, web.ip);
    assert_eq!(node.dump("br0"), [""; 0]);
}

/// What an operator put for a slot, a minute and more before a pod has its number and address, is
/// there after the pod. What an earlier pod left under them is not.
#[test]
fn what_was_there_long_before_the_pod() {
    let node = node("there_long_before", json!({"reg0": "pod", "lingerSeconds": 0}));
    let slot = [
        "table=60, priority=200,udp,in_port=150,tp_dst=161 actions=drop",
        "table=60, priority=210,tcp,nw_src=10.244.1.50,tp_dst=22 actions=drop",
    ];
    let slot = node.install("br0", &slot);
    thread::sleep(Duration::from_secs(61));
    request_ofport(&node, 150);
    let pod = |name| node.pod(name).with_ip("10.244.1.50").with_mac(MAC);
    let (web, _) = add_with_flows(&node, &pod("web"), 0x2001);
    assert_eq!(web.ofport, 150);
    node.vanish(&web, Port::Gone);
    forget_leases(&node, &web);
    let (next, flows) = add_with_flows(&node, &pod("next"), 0x2002);
    assert_eq!(node.dump("br0"), sorted([slot.clone(), flows].concat()));
    node.del(&next);
    assert_eq!(node.dump("br0"), sorted(slot));
}

/// A live pod is nobody's orphan, whatever a new one is said to have.
#[test]
fn a_token_of_somebody_alive() {
    let node = node("a_token_of_somebody_alive", json!({}));
    let fixture = Fixture::new(&node, &["web", "db"]);
    let db = &fixture.pods[1];
    // Two networks may have one address.
    forget_leases(&node, db);
    let next = node.pod("next").with_ip(&db.ip).with_mac(MAC);
    node.add(&next);
    assert_eq!(node.dump("br0"), fixture.lines());
    assert_eq!(states(&node).values().filter(|state| *state == "active").count(), 3);
}

/// Whatever is in there, in every version: unknown keys, the spelling of numbers, escapes,
/// the order of keys, white space.
#[test]
fn prev_result_passes_through_unchanged() {
    let node = Setup::new().datapath(Datapath::Dummy).up("prev_result_passes_through");
    let pod = node.run_pod("web");
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let kind = if version.starts_with("0.") { "\"version\": \"4\", " } else { "" };
        let text = format!(
            "{{ \"zzz\":{{\"n\": 1.0e2, \"big\":123456789012345678901234567890,\"e\":\"\\u00e9\\/\"}},\n\
             \t\"cniVersion\":\"{version}\" ,\"interfaces\":[ {{\"name\":\"{}\",\"mtu\":1500}},\
             {{\"sandbox\":\"{}\",\"name\":\"eth0\",\"mac\":\"{}\"}}],\r\n\
             \"ips\":[{{{kind}\"interface\":1,\"address\":\"{}/24\",\"gateway\":\"10.244.1.1\"}}],\
             \"routes\": [],\"dns\":{{ }},\"dns\":{{\"nameservers\":[]}}  }}",
            pod.port,
            pod.netns_path(),
            pod.mac,
            pod.ip,
        );
        let conf = format!(
            "{{\"cniVersion\":\"{version}\",\"name\":\"podnet\",\"type\":\"ovs-flow-gc\",\
             \"stateDir\":\"{}\",\"prevResult\": {text} }}",
            node.state_dir.display()
        );
        let outcome = node.call("ovs-flow-gc", "ADD").stdin(conf).pod(&pod).run();
        assert_eq!(outcome.ok(), text, "{version}");
    }
}

/// A whole chain in each version, with a recorded pod at its end.
#[test]
fn every_version_of_a_chain() {
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let node = Setup::new().cni_version(version).datapath(Datapath::Dummy).up(version);
        let alone = Setup::new().without_gc().cni_version(version).datapath(Datapath::Dummy);
        let alone = alone.up(version);
        let (with, without) = (node.run_pod("web"), alone.run_pod("web"));
        let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&with.result), keys(&without.result), "{version}");
        assert_eq!(with.result["ips"], without.result["ips"]);
        let list = node.admin(&["list", "--json", "--no-flows"]).json();
        let record = list.as_array().map_or(&list["attachments"][0], |rows| &rows[0]);
        assert_eq!(record["ofport"], with.ofport, "{version}");
        assert_eq!(record["ips"], json!([with.ip, with.ip6]));
        assert_eq!(record["macs"], json!([with.mac]));
        assert_eq!((&record["bridge"], &record["port"]), (&json!("br0"), &json!(with.port)));
        let fixture = node.install("br0", &layouts::classifier(&with.who(0x1001)));
        assert_eq!(node.dump("br0"), fixture);
        node.configure(json!({"reg0": "pod"}));
        node.del(&with);
        assert_eq!(node.dump("br0"), [""; 0], "{version}");
    }
}

#[test]
fn without_a_prev_result() {
    let node = Setup::new().datapath(Datapath::Dummy).up("without_a_prev_result");
    let pod = node.pod("web");
    for prev in [None, Some(Value::Null), Some(json!([])), Some(json!("x"))] {
        let conf = node.plugin_conf("ovs-flow-gc", Some(&pod), prev.as_ref());
        let (code, text) = node.call_for(&conf, "ADD", &pod).run().cni_error();
        assert_eq!(code, 7, "{text}");
        assert!(text.contains("prevResult"), "{text}");
    }
    assert!(states(&node).is_empty(), "nothing was written");
}
