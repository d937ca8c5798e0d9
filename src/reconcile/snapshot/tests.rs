//! Whose a row is, by its marks, its device, its name.

use super::*;
use crate::model::attachment::{Key, Netns, Pod};
use crate::ovsdb::{Bridge, Ofport};

const BOOT: &str = "this-boot";

fn interface(id: u128, name: &str, ifindex: u64) -> Interface {
    Interface {
        id: RowId(id),
        name: name.to_owned(),
        kind: String::new(),
        ofport: Ofport::Number(9),
        ofport_request: None,
        external_ids: BTreeMap::new(),
        mac_in_use: "0a:58:00:00:00:09".parse().ok(),
        ifindex: Some(ifindex),
        error: None,
        patch_peer: None,
    }
}

fn port(interface: Interface, marks: &[(&str, &str)]) -> Port {
    Port {
        id: interface.id,
        name: interface.name.clone(),
        external_ids: marks.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        mac: None,
        vlans: Vec::new(),
        interfaces: vec![interface],
    }
}

fn node(ports: Vec<Port>) -> NodeSnapshot {
    let bridge = |n: u128, name: &str, ports| Bridge {
        id: RowId(n),
        name: name.to_owned(),
        datapath_type: String::new(),
        protocols: Vec::new(),
        fail_mode: None,
        ports,
    };
    let bridges = vec![bridge(100, "br0", ports), bridge(101, "br1", Vec::new())];
    let ovs = Snapshot { complete: true, bridges, ..Snapshot::default() };
    NodeSnapshot::of(Stamp { boot_ms: 1_000, wall_ms: 1_000 }, BOOT.to_owned(), Arc::new(ovs))
}

/// Port `veth1` of br0 was row 1, device 7.
fn record() -> Attachment {
    let key = Key {
        network: "podnet".parse().unwrap(),
        container: "c1".parse().unwrap(),
        ifname: "eth0".parse().unwrap(),
    };
    let mut record = Attachment::new(key, 1, BOOT.to_owned(), Stamp { boot_ms: 1, wall_ms: 1 });
    record.pod = Some(Pod { uid: "u1".to_owned(), ..Pod::default() });
    record.netns = Some(Netns {
        path: "/var/run/netns/n1".to_owned(),
        device: 1,
        inode: 1,
        parent_device: 1,
        parent_inode: 1,
        pid_namespace: None,
    });
    record.bridge = Some("br0".to_owned());
    record.port = Some("veth1".to_owned());
    record.interface = Some(RowId(1));
    record.device = Some(Device { ifindex: 7, mac: "0a:58:00:00:00:09".parse().ok() });
    record
}

/// Where the living are taken to be, and where that is certain.
fn found(node: &NodeSnapshot, record: &Attachment) -> (bool, bool) {
    (node.place_of(record).is_some(), node.certain_place_of(record).is_some())
}

const ITS: (bool, bool) = (true, true);
const MAYBE: (bool, bool) = (true, false);
const NOT_ITS: (bool, bool) = (false, false);

#[test]
fn a_port_that_is_attached_anew_is_told_by_its_device() {
    let at = |ifindex| node(vec![port(interface(2, "veth1", ifindex), &[])]);
    assert_eq!(found(&at(7), &record()), ITS);
    // Another veth that was given the name.
    assert_eq!(found(&at(8), &record()), NOT_ITS);
    // Its device is gone, or was never seen.
    assert_eq!(found(&at(0), &record()), MAYBE);
    let old = Attachment { device: None, ..record() };
    assert_eq!(found(&at(7), &old), MAYBE);
    // Indexes count from the beginning again.
    let rebooted = Attachment { boot_id: "another".to_owned(), ..record() };
    assert_eq!(found(&at(7), &rebooted), MAYBE);
    let mut other_mac = interface(2, "veth1", 7);
    other_mac.mac_in_use = "0a:58:00:00:00:0a".parse().ok();
    assert_eq!(found(&node(vec![port(other_mac, &[])]), &record()), MAYBE);
    // Only the name speaks, and on another bridge.
    let moved = Attachment { bridge: Some("br1".to_owned()), device: None, ..record() };
    assert_eq!(found(&at(7), &moved), NOT_ITS);
    let elsewhere = node(vec![port(interface(2, "veth2", 7), &[])]);
    assert_eq!(found(&elsewhere, &record()), NOT_ITS);
}

#[test]
fn a_row_that_was_given_to_another_pod_is_not_the_records() {
    let antrea = |id| vec![("antrea-type", "container"), ("container-id", id)];
    let ovs_cni = |netns| vec![("contNetns", netns), ("contIface", "eth0")];
    let none = Vec::new();
    let old = Attachment { device: None, ..record() };
    let rebooted = Attachment { boot_id: "another".to_owned(), ..record() };
    for (record, ifindex, marks, its) in [
        // A row that says nothing, or what the record says.
        (record(), 7, none.clone(), true),
        (record(), 0, none.clone(), true),
        (record(), 7, ovs_cni("/run/netns/n1"), true),
        (record(), 7, vec![("contIface", "eth0")], true),
        (record(), 7, vec![("antrea-type", "container"), ("pod-name", "next")], true),
        // Its own CNI has made the device anew.
        (record(), 8, antrea("c1"), true),
        // The representor stays, the marks are another's.
        (record(), 7, antrea("c2"), false),
        (record(), 7, ovs_cni("/run/netns/n2"), false),
        (record(), 0, antrea("c2"), false),
        (old.clone(), 7, antrea("c2"), false),
        // Nobody marks it, and there is another veth of the name.
        (record(), 8, none.clone(), false),
        (old, 8, none.clone(), true),
        (rebooted, 8, none, true),
    ] {
        let node = node(vec![port(interface(1, "veth1", ifindex), &marks)]);
        // As long as it lives, it keeps what is there.
        let want = if its { ITS } else { MAYBE };
        assert_eq!(found(&node, &record), want, "{ifindex} {marks:?}");
        assert_eq!(node.own_place_of(&record, &RowSet::default()).is_some(), its);
        assert_eq!(node.former_row_of(&record), its.then_some(RowId(1)));
    }
    // A row that is gone was not given to anybody.
    assert_eq!(node(Vec::new()).former_row_of(&record()), Some(RowId(1)));
}

#[test]
fn marks_that_contradict_the_record_win() {
    let ovs_cni = |netns, ifname, uid| {
        vec![
            ("owner", "ovs-cni.network.kubevirt.io"),
            ("contNetns", netns),
            ("contIface", ifname),
            ("contPodUid", uid),
        ]
    };
    let antrea = |id| vec![("antrea-type", "container"), ("container-id", id)];
    let theirs = "/var/run/netns/n2";
    for (marks, want) in [
        (ovs_cni("/var/run/netns/n1", "eth0", "u1"), ITS),
        (ovs_cni("/run/netns/n1", "eth0", ""), ITS),
        (ovs_cni(theirs, "eth0", ""), NOT_ITS),
        (ovs_cni("/var/run/netns/n1", "net1", "u1"), NOT_ITS),
        (ovs_cni("/var/run/netns/n1", "eth0", "u2"), NOT_ITS),
        (antrea("c1"), ITS),
        (antrea("c2"), NOT_ITS),
        // A name is given to a pod's successor.
        (vec![("antrea-type", "container"), ("pod-name", "web")], ITS),
    ] {
        // The device is the one that was recorded; marks know better.
        let node = node(vec![port(interface(2, "veth1", 7), &marks)]);
        assert_eq!(found(&node, &record()), want, "{marks:?}");
    }
    // Another device, but the marks are its own.
    let marks = antrea("c1");
    let remade = node(vec![port(interface(2, "veth1", 8), &marks)]);
    assert_eq!(found(&remade, &record()), ITS);
}

#[test]
fn a_row_that_somebody_alive_has_is_nobody_elses() {
    let marks = [("antrea-type", "container"), ("container-id", "c1")];
    let own = |marks: &[(&str, &str)], claimed: &[RowId]| {
        let node = node(vec![port(interface(2, "veth1", 7), marks)]);
        node.own_place_of(&record(), &claimed.iter().copied().collect()).is_some()
    };
    assert!(own(&marks, &[]));
    assert!(!own(&marks, &[RowId(2)]));
    // The device may be another pod's by now.
    assert!(!own(&[], &[]));
}

/// A database that answers every question for rows alike, and reports no changes.
fn database(directory: &Path) -> std::path::PathBuf {
    let path = directory.join("db.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let all = include_str!("../../../tests/data/ovsdb/transact-select-all.json");
        let all: serde_json::Value = serde_json::from_str(all).unwrap();
        let asked = serde_json::Deserializer::from_reader(&stream).into_iter();
        for question in asked.map_while(Result::<serde_json::Value, _>::ok) {
            let mut answer = serde_json::json!({"result": null, "error": "unknown method"});
            if question["method"] == "transact" {
                answer = all.clone();
            }
            answer["id"] = question["id"].clone();
            std::io::Write::write_all(&mut &stream, answer.to_string().as_bytes()).unwrap();
        }
    });
    path
}

/// Before a commit the records are those that were judged, if nobody else has written. Whoever has
/// written is seen.
#[test]
fn records_are_read_again_if_somebody_has_written() {
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::open(&directory.path().join("state")).unwrap();
    let soon = || crate::util::clock::Deadline::after(std::time::Duration::from_secs(10));
    let write = |container: &str| {
        let mut record = record();
        record.key.container = container.parse().unwrap();
        registry.lock(soon()).unwrap().put(&record).unwrap();
    };
    write("c1");
    let mut client = Client::connect(&database(directory.path()), soon()).unwrap();
    let run_dir = directory.path();
    let before = NodeSnapshot::read(Some(&registry), run_dir, &mut client, Stamp::now()).unwrap();
    let mut again = |version| before.again(Some(&registry), version, run_dir, &mut client).unwrap();
    let is_kept = |node: &NodeSnapshot| {
        let [was, is] = [&before, node].map(|node| node.records.shared(0).unwrap());
        Arc::ptr_eq(was, is)
    };
    let same = again(before.version);
    assert!(is_kept(&same));
    assert_eq!((same.version, same.records.len()), (before.version, 1));
    let unknown = again(None);
    assert!(!is_kept(&unknown), "nobody knows whether somebody has written");
    write("c2");
    let other = again(before.version);
    assert!(!is_kept(&other));
    assert_eq!(other.records.len(), 2);
    assert_ne!(other.version, before.version);
}
