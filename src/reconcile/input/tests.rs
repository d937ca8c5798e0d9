//! Inputs of hand-made nodes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::addresses::{ip_evidence, scope_of};
use super::ports::dead_vlans_before;
use super::*;
use crate::config::{AddressScope, Config, NetworkState, Reg0};
use crate::judge::input::{Dead, DeadId, LiveRegister};
use crate::model::attachment::Pod;
use crate::model::attachment::{Attachment, Key};
use crate::model::row::RowId;
use crate::ovsdb::testing;
use crate::ovsdb::{Interface, Ofport, Port};
use crate::reconcile::Cause;
use crate::util::clock::Stamp;

fn target(network: &str, ifname: &str, ips: &[&str], cause: Cause) -> CleanTarget {
    let key = Key {
        network: network.parse().unwrap(),
        container: "c1".parse().unwrap(),
        ifname: ifname.parse().unwrap(),
    };
    let now = Stamp { boot_ms: 1, wall_ms: 1 };
    let mut attachment = Attachment::new(key, 1, "boot".to_owned(), now);
    attachment.ips = ips.iter().map(|ip| ip.parse().unwrap()).collect();
    CleanTarget { attachment, cause }
}

#[test]
fn the_tag_of_former_days_is_known_to_be_one() {
    let mut record = target("net", "eth0", &[], Cause::Del).attachment;
    let mut steps = Vec::new();
    for tags in [&[][..], &[200], &[100], &[100, 300], &[200], &[]] {
        record.see_port_vlans(tags);
        steps.push((record.vlans.clone(), dead_vlans_before(&record, None)));
    }
    let expected = [
        (vec![0], vec![]),
        (vec![0, 200], vec![]),
        (vec![0, 200, 100], vec![200]),
        (vec![0, 200, 100, 300], vec![200]),
        (vec![0, 200, 100, 300], vec![100, 300]),
        (vec![0, 200, 100, 300], vec![200, 100, 300]),
    ];
    assert_eq!(steps, expected);
    // What its flows showed stays its own once its row is gone.
    record.see_vlans(&[400]);
    assert_eq!(dead_vlans_before(&record, None), [200, 100, 300]);
    // Of two records of one port the younger one knows what is the port's.
    let mut newer = target("net", "eth0", &[], Cause::Del).attachment;
    newer.see_port_vlans(&[200]);
    newer.see_vlans_of(&record);
    assert_eq!(newer.vlans_before, [100, 300]);
}

fn cluster() -> Config {
    Config { address_scope: AddressScope::Cluster, ..Config::default() }
}

fn set(ips: &[&str]) -> BTreeSet<IpAddr> {
    ips.iter().map(|ip| ip.parse().unwrap()).collect()
}

#[test]
fn cluster_wide_addresses_are_evidence_only_where_nobody_has_them() {
    let both = ["10.0.0.5", "fd00::5"];
    let orphan = || Cause::Orphan("gone".to_owned());
    let evidence = |config: &Config, ifname, ips: &[&str], cause, free: &[&str]| {
        ip_evidence(config, &target("net", ifname, ips, cause), Some(&set(free)))
    };
    for cause in [orphan(), Cause::Tombstone, Cause::Gc] {
        let at = |ips, free| evidence(&cluster(), "eth0", ips, cause.clone(), free);
        assert!(!at(&both, &[]), "no word");
        assert!(!at(&both, &["10.0.0.5"]), "of one there is no word");
        assert!(!at(&both, &["10.0.0.6", "fd00::6"]), "others are free");
        assert!(at(&both, &["10.0.0.5", "fd00::5", "10.0.0.6"]));
        assert!(!at(&[], &["10.0.0.5"]), "it has none");
        let net1 = evidence(&cluster(), "net1", &both, cause.clone(), &both);
        assert!(!net1, "the API server does not know the addresses of net1");
    }
    // At DEL they are its own still, and node-wide ones nobody else's.
    assert!(evidence(&cluster(), "net1", &both, Cause::Del, &[]));
    assert!(evidence(&Config::default(), "net1", &both, orphan(), &[]));
}

#[test]
fn a_virtual_machine_is_judged_as_of_the_whole_cluster() {
    let evidence = |name: &str, cause, free: &[&str]| {
        let mut target = target("net", "eth0", &["10.0.0.5"], cause);
        let (namespace, uid) = ("vms".to_owned(), String::new());
        target.attachment.pod = Some(Pod { namespace, name: name.to_owned(), uid });
        let (config, free) = (Config::default(), set(free));
        let scope = scope_of(&config, &target.attachment);
        (scope, ip_evidence(&config, &target, Some(&free)))
    };
    let launcher = "virt-launcher-db-x7x2k";
    // It may have moved before its DEL.
    for cause in [Cause::Del, Cause::Gc, Cause::Tombstone, Cause::Orphan("gone".to_owned())] {
        assert_eq!(evidence(launcher, cause.clone(), &[]), (AddressScope::Cluster, false));
        let free = evidence(launcher, cause.clone(), &["10.0.0.5"]);
        assert_eq!(free, (AddressScope::Cluster, true));
        assert_eq!(evidence("web-virt-launcher-1", cause, &[]), (AddressScope::Node, true));
    }
}

/// A pod that nobody noticed to be dead, and a machine that had its address after it.
#[test]
fn who_had_a_machines_address_before_it_does_not_speak_for_it() {
    let at = |boot_ms| Stamp { boot_ms, wall_ms: boot_ms };
    let node = one_bridge(Vec::new());
    let one = |name: &str, born| {
        let cause = Cause::Orphan("gone".to_owned());
        let mut target = target("net", "eth0", &["10.0.0.5"], cause);
        let (namespace, uid) = ("vms".to_owned(), String::new());
        target.attachment.pod = Some(Pod { namespace, name: name.to_owned(), uid });
        (target.attachment.born, target.attachment.generation) = (Some(at(born)), born);
        target
    };
    let evidence = |targets: &[CleanTarget]| {
        let input = BridgeInput::build(&node, BridgeId(0), targets, None);
        let of = |dead: &Dead| (dead.ip_evidence, dead.mac_evidence, dead.roams);
        input.facts.dead.values().map(of).collect::<Vec<_>>()
    };
    let (pod, machine) = (|born| one("web-1", born), one("virt-launcher-db-x7x2k", 200));
    let (moved, node) = ((false, false, true), (true, true, false));
    assert_eq!(evidence(&[pod(100), machine.clone()]), [moved, moved]);
    assert_eq!(evidence(&[pod(300), machine]), [node, moved], "it came after the machine");
    assert_eq!(evidence(&[pod(100)]), [node]);
}

/// Found by tests/model.rs: the machine's tombstone had ended, and a pod that had its address
/// before it still waited for something else. Then the entry for the machine's new place went.
#[test]
fn a_machine_is_remembered_as_long_as_who_had_its_address_before_it() {
    let one = |pod: &str, born: Option<u64>, ips: &[&str]| {
        let mut dead = target("net", "eth0", ips, Cause::Tombstone).attachment;
        let (namespace, name) = ("vms".to_owned(), pod.to_owned());
        dead.pod = Some(Pod { namespace, name, uid: String::new() });
        dead.born = born.map(|boot_ms| Stamp { boot_ms, wall_ms: boot_ms });
        dead
    };
    let (pod, machine) = ("web-1", "virt-launcher-db-x7x2k");
    let ip = &["10.0.0.5"][..];
    let needed = |of: &Attachment, other: Attachment, free: Option<&[&str]>| {
        let mut node = one_bridge(Vec::new());
        node.tombstones = vec![of.clone(), other].into();
        node.free = free.map(set);
        BridgeInput::is_needed(&node, of)
    };
    let of = one(machine, Some(200), ip);
    assert!(needed(&of, one(pod, Some(100), ip), None));
    assert!(needed(&of, one(pod, None, ip), None), "it may have been there before");
    assert!(needed(&one(machine, None, ip), one(pod, Some(100), ip), None));
    assert!(!needed(&of, one(pod, Some(300), ip), None), "it came after the machine");
    assert!(!needed(&of, one(pod, Some(100), &["10.0.0.6"]), None));
    assert!(!needed(&of, one(machine, Some(100), ip), None), "it says so itself");
    assert!(!needed(&one(pod, Some(200), ip), one(pod, Some(100), ip), None));
    assert!(!needed(&of, one(pod, Some(100), ip), Some(ip)), "nobody has the address");
}

/// A bridge with these ports.
fn one_bridge(ports: Vec<Port>) -> NodeSnapshot {
    let ovs = testing::one_bridge(ports);
    NodeSnapshot::of(Stamp { boot_ms: 900, wall_ms: 900 }, "boot".to_owned(), ovs.into())
}

/// A bridge with one port, row 5 and number 5, marked with a namespace.
fn one_port(netns: &str) -> NodeSnapshot {
    let marks = [("contNetns", netns)];
    one_bridge(vec![testing::port(6, &marks, testing::interface(5, "rep0"))])
}

#[test]
fn a_dead_pods_row_that_was_given_away_is_a_living_pods() {
    let mut dead = target("net", "eth0", &["10.0.0.5"], Cause::Tombstone);
    dead.attachment.netns = Some(crate::model::attachment::Netns::of_path("/run/netns/old".into()));
    dead.attachment.bridge = Some("br0".to_owned());
    dead.attachment.port = Some("rep0".to_owned());
    (dead.attachment.interface, dead.attachment.ofport) = (Some(RowId(5)), Some(5));
    let seen = |netns: &str| {
        let mut node = one_port(netns);
        node.tombstones.push(dead.attachment.clone());
        BridgeInput::build(&node, BridgeId(0), std::slice::from_ref(&dead), None).facts
    };
    let (own, taken) = (seen("/var/run/netns/old"), seen("/run/netns/new"));
    assert_eq!((own.dead[0].interface, own.dead[0].ofport), (Some(RowId(5)), Some(5)));
    assert!(own.live.is_empty());
    assert_eq!((taken.dead[0].interface, taken.dead[0].ofport), (None, Some(5)));
    assert_eq!((taken.live.len(), taken.live[0].ofport), (1, Some(5)));

    // A living pod's row that still has its predecessor's marks is the living one's.
    let mut node = one_port("/run/netns/old");
    let mut successor = dead.attachment.clone();
    successor.key.container = "c2".parse().unwrap();
    successor.netns = Some(crate::model::attachment::Netns::of_path("/run/netns/new".into()));
    node.records.push(successor);
    let succeeded = BridgeInput::build(&node, BridgeId(0), std::slice::from_ref(&dead), None).facts;
    assert_eq!((succeeded.live.len(), succeeded.live[0].ofport), (1, Some(5)));

    // It is given away between the scan and the commit.
    let mut flow = crate::model::flow::Flow::default();
    flow.matches.in_port = Some(5);
    let reason = crate::judge::Reason::MatchesPort { port: crate::judge::Token::Port(5) };
    let verdict = crate::judge::Verdict { stale: true, reason, dead: Some(DeadId(0)) };
    let learned = crate::judge::Learned::default();
    let standing =
        |after| crate::judge::Recheck::between(&own, &learned, after).standing(&flow, &verdict);
    assert_eq!(standing(&own), crate::judge::Standing::Holds);
    assert_eq!(standing(&taken), crate::judge::Standing::NewOwner);
}

/// Another dead pod whose clean-up is not finished may have shared its value with one that is
/// judged now, unless an operator says that values are pods' own.
#[test]
fn an_unfinished_dead_pod_stands_for_its_value_where_values_may_be_shared() {
    let stands_for = |reg0: Reg0| {
        let mut node = one_bridge(Vec::new());
        let network = "net".parse().unwrap();
        let config = Config { reg0, ..Config::default() };
        node.networks.insert(network, NetworkState { config, ..NetworkState::default() });
        let mut dead = target("net", "eth0", &[], Cause::Tombstone).attachment;
        dead.bridge = Some("br0".to_owned());
        dead.state = crate::model::attachment::State::Deleting;
        let how = crate::model::attachment::RegisterHow::Learned;
        dead.register = Some(crate::model::attachment::Register { value: 0x1001, how });
        node.tombstones.push(dead);
        let mut judged = target("net", "eth0", &[], Cause::Del);
        judged.attachment.key.container = "c2".parse().unwrap();
        judged.attachment.bridge = Some("br0".to_owned());
        let input = BridgeInput::build(&node, BridgeId(0), &[judged], None).facts;
        input.live.values().any(|live| live.register == LiveRegister::Is(0x1001))
    };
    assert!(stands_for(Reg0::Learn));
    assert!(!stands_for(Reg0::Pod));
}

/// Found by `pure_forgetful`: a pod whose ADD was still to come was adopted by its port's marks. Its own
/// rule for a dead pod's address went, because nobody seemed to be arriving any more.
#[test]
fn an_adopted_record_without_addresses_explains_nothing_while_its_add_may_come() {
    let sandbox = |ago: u64| {
        let mut record = target("net", "eth0", &[], Cause::Del).attachment;
        (record.adopted, record.interface) = (true, Some(RowId(5)));
        let boot_ms = 900_000 - ago;
        record.born = Some(Stamp { boot_ms, wall_ms: boot_ms });
        record
    };
    let is_explained = |record: Attachment| {
        let mut node = one_port("/no/such/netns");
        node.now = Stamp { boot_ms: 900_000, wall_ms: 900_000 };
        node.records.push(record);
        let live = BridgeInput::build(&node, BridgeId(0), &[], None).facts.live;
        assert_eq!((live.len(), live[0].ofport), (1, Some(5)));
        live[0].network.is_some()
    };
    assert!(!is_explained(sandbox(119_000)));
    assert!(is_explained(sandbox(121_000)), "its ADD has failed, or is not ours");
    let cached = Attachment { ips: vec!["10.0.0.5".parse().unwrap()], ..sandbox(1_000) };
    assert!(is_explained(cached), "libcni has its result: its ADD is done");
    assert!(is_explained(Attachment { adopted: false, ..sandbox(1_000) }), "ADD wrote it");
    assert!(is_explained(Attachment { born: None, ..sandbox(1_000) }));
}

/// A dead pod's port that nobody removed is not that of somebody who may have been given a
/// dead pod's value.
#[test]
fn who_may_have_a_value_that_nobody_has_told() {
    let machine: &[(&str, &str)] = &[("iface-id", "p"), ("attached-mac", "0a:00:00:00:00:09")];
    let pod: &[(&str, &str)] = &[("contNetns", "/run/netns/gone")];
    let of = |marks: &[(&str, &str)], kind: &str, ofport, ifindex, dead: Option<u128>| {
        let interface = Interface {
            kind: kind.to_owned(),
            ofport,
            ifindex,
            external_ids: marks.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            ..testing::interface(5, "rep0")
        };
        let mut node = one_bridge(vec![testing::port(6, marks, interface)]);
        node.now = Stamp::now();
        node.tombstones.extend(dead.map(|row| {
            let mut dead = target("net", "eth0", &[], Cause::Tombstone).attachment;
            dead.interface = Some(RowId(row));
            dead
        }));
        let input = BridgeInput::build(&node, BridgeId(0), &[], None);
        input.facts.live.values().any(|live| live.register == LiveRegister::Untold)
    };
    let (five, no) = (Ofport::Number(5), Ofport::Failed);
    for marks in [machine, pod] {
        assert!(of(marks, "", five, Some(7), None));
        assert!(of(marks, "", Ofport::Unassigned, None, None), "the switch has not looked yet");
        assert!(of(marks, "dpdkvhostuserclient", five, None, None), "no device of the kernel's");
        assert!(!of(marks, "", no, None, None), "its device is gone");
        assert!(!of(marks, "", five, Some(0), None), "its device is gone");
        assert!(!of(marks, "", five, Some(7), Some(5)), "a tombstone's");
        assert!(of(marks, "", five, Some(7), Some(9)), "another's tombstone");
    }
    assert!(!of(&[], "", five, Some(7), None), "an uplink");
    // A sandbox that is young may be about to get its device.
    let mut sandbox = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let netns = format!("/proc/{}/ns/net", sandbox.id());
    let arriving = of(&[("contNetns", &netns)], "", no, None, None);
    sandbox.kill().unwrap();
    sandbox.wait().unwrap();
    assert!(arriving);
}

#[test]
fn what_may_be_another_nodes_is_asked_about() {
    let state = |config| NetworkState { config, ..NetworkState::default() };
    let mut no_ip = cluster();
    no_ip.evidence.ip = false;
    let networks = BTreeMap::from([
        ("wide".parse().unwrap(), state(cluster())),
        ("node".parse().unwrap(), state(Config::default())),
        ("none".parse().unwrap(), state(no_ip)),
    ]);
    let targets = [
        target("wide", "eth0", &["10.0.0.1", "fd00::1"], Cause::Tombstone),
        target("wide", "eth0", &["10.0.0.2"], Cause::Orphan("gone".to_owned())),
        target("wide", "eth0", &["10.0.0.3"], Cause::Del),
        target("wide", "net1", &["10.0.0.4"], Cause::Tombstone),
        target("node", "eth0", &["10.0.0.5"], Cause::Tombstone),
        target("none", "eth0", &["10.0.0.6"], Cause::Tombstone),
        target("unheard-of", "eth0", &["10.0.0.7"], Cause::Tombstone),
    ];
    assert_eq!(in_question(&networks, &targets), set(&["10.0.0.1", "10.0.0.2", "fd00::1"]));
}
