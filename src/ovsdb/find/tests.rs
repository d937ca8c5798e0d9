use super::super::tests::captured;
use super::*;
use crate::model::attachment::Pod;
use crate::util::clock::Stamp;

const MAC: MacAddr = MacAddr([10, 0, 0, 0, 0, 5]);

fn found(wanted: &Wanted<'_>) -> Option<(String, How)> {
    find_port(&captured(), wanted).map(|f| (f.port.name.clone(), f.by))
}

fn is(wanted: &Wanted<'_>, name: &str, how: How) {
    assert_eq!(found(wanted), Some((name.to_owned(), how)), "{wanted:?}");
}

fn eth0<'a>() -> Wanted<'a> {
    Wanted { container_id: "ffff99", ifname: "eth0", ..Wanted::default() }
}

fn edit(snapshot: &mut Snapshot, name: &str, edit: impl FnOnce(&mut Port)) {
    let ports = snapshot.bridges.iter_mut().flat_map(|b| &mut b.ports);
    edit(ports.into_iter().find(|p| p.name == name).unwrap());
}

fn mark(port: &mut Port, interface: bool, key: &str, value: &str) {
    let ids = match interface {
        true => &mut port.interfaces[0].external_ids,
        false => &mut port.external_ids,
    };
    ids.insert(key.to_owned(), value.to_owned());
}

fn attachment(container: &str, ifname: &str) -> Attachment {
    let key = Key {
        network: "podnet".parse().unwrap(),
        container: container.parse().unwrap(),
        ifname: ifname.parse().unwrap(),
    };
    Attachment::new(key, 1, "boot".to_owned(), Stamp { boot_ms: 1, wall_ms: 1 })
}

#[test]
fn a_new_record_is_looked_for_by_more_than_its_key() {
    let mut record = attachment("ffff99", "eth0");
    let pod = Pod { namespace: "shop".to_owned(), name: "web-3".to_owned(), ..Pod::default() };
    (record.pod, record.macs) = (Some(pod), vec![MAC]);
    let hosts = ["gone0".to_owned(), "ovscni".to_owned()];
    let by_key = Wanted::of_key(&record.key, Some(""));
    assert_eq!(found(&by_key), None);
    assert_eq!((by_key.netns, by_key.pod, by_key.macs), (None, None, &[][..]));
    is(&Wanted::of_pod(&record, None, &[], None), "kvs", How::Pod);
    let named = Wanted::of_pod(&record, Some("/run/netns/n"), &hosts[..1], Some("br0"));
    is(&named, "gone0", How::HostInterface);
    assert_eq!((named.netns, named.bridge), (Some("/run/netns/n"), Some("br0")));
    assert_eq!((named.ifname, named.macs), ("eth0", &[MAC][..]));
    assert_eq!(Wanted::of_pod(&record, None, &hosts, None).host_interfaces, hosts);
}

#[test]
fn a_port_that_was_found_is_written_into_the_record() {
    let mut snapshot = captured();
    edit(&mut snapshot, "gone0", |port| {
        port.vlans = vec![7];
        port.interfaces[0].ofport = Ofport::Number(9);
    });
    let mut record = attachment("ffff99", "eth0");
    let wanted = Wanted { host_interfaces: vec!["gone0"], ..Wanted::default() };
    let Found { bridge, port, interface, .. } = find_port(&snapshot, &wanted).unwrap();
    write_port(&mut record, bridge, port, interface);
    assert_eq!((record.bridge.as_deref(), record.port.as_deref()), (Some("br0"), Some("gone0")));
    assert_eq!((record.interface, record.ofport), (Some(interface.id), Some(9)));
    assert_eq!((record.vlans, record.device), (vec![7], None));
    for without in [Ofport::Unassigned, Ofport::Failed] {
        let mut record = attachment("ffff99", "eth0");
        let interface = Interface { ofport: without, ..interface.clone() };
        write_port(&mut record, bridge, port, &interface);
        assert_eq!((record.port.as_deref(), record.ofport), (Some("gone0"), None));
    }
}

#[test]
fn host_interface_comes_first() {
    let wanted = Wanted {
        container_id: "cccc03",
        host_interfaces: vec!["br0", "p0", "vx0", "gone0", "nowhere"],
        ..eth0()
    };
    // k-vswitch lists the bridge first; patch and tunnel ports are nobody's.
    is(&wanted, "gone0", How::HostInterface);
    is(&Wanted { host_interfaces: vec!["br0", "vx0"], ..wanted }, "sdn", How::ContainerId);
}

#[test]
fn two_host_interfaces_are_none_unless_one_is_on_the_configured_bridge() {
    let wanted = Wanted { host_interfaces: vec!["gone0", "ovscni"], ..eth0() };
    assert_eq!(found(&wanted), None);
    assert_eq!(found(&Wanted { bridge: Some("br0"), ..wanted.clone() }), None);
    let mut snapshot = captured();
    let bridge = snapshot.bridges.iter_mut().find(|b| b.name == "br0").unwrap();
    let at = bridge.ports.iter().position(|p| p.name == "gone0").unwrap();
    let gone0 = bridge.ports.remove(at);
    let br1 = snapshot.bridges.iter_mut().find(|b| b.name == "br1").unwrap();
    br1.ports.push(gone0);
    assert!(find_port(&snapshot, &wanted).is_none());
    let hit = find_port(&snapshot, &Wanted { bridge: Some("br1"), ..wanted }).unwrap();
    assert_eq!(hit.port.name, "gone0");
}

#[test]
fn a_host_interface_that_is_marked_as_another_containers_is_not_ours() {
    assert_eq!(found(&Wanted { host_interfaces: vec!["sdn"], ..eth0() }), None);
}

#[test]
fn container_id_with_ifname() {
    for (id, ifname, name) in [
        ("aaaa01", "eth0", "antrea"),
        ("bbbb02", "eth0", "ovnk"),
        ("cccc03", "eth0", "sdn"),
        ("dddd04", "eth1", "docker"),
    ] {
        let wanted = Wanted { container_id: id, ifname, ..Wanted::default() };
        is(&wanted, name, How::ContainerId);
        // DEL of a live pod's second interface must not find its first.
        assert_eq!(found(&Wanted { ifname: "net7", ..wanted }), None, "{id}");
    }
    let kube_ovn = Wanted { container_id: "0123456789abcdef", ..eth0() };
    is(&kube_ovn, "0123456789ab_h", How::PortName);
    assert_eq!(found(&Wanted { ifname: "net7", ..kube_ovn }), None);
}

#[test]
fn a_secondary_ovn_port_is_told_by_its_mac() {
    let mut snapshot = captured();
    edit(&mut snapshot, "ovnk", |p| mark(p, true, "k8s.ovn.org/nad", "shop/blue"));
    let macs = [MacAddr([0x0a, 0x58, 0x0a, 0xf4, 1, 6])];
    let net1 = Wanted { container_id: "bbbb02", ifname: "net1", ..Wanted::default() };
    assert!(find_port(&snapshot, &net1).is_none());
    let hit = find_port(&snapshot, &Wanted { macs: &macs, ..net1 }).unwrap();
    assert_eq!((hit.port.name.as_str(), hit.by), ("ovnk", How::ContainerId));
}

#[test]
fn netns_however_it_is_written() {
    for (path, ifname, name) in [
        ("/var/run/netns/cni-1", "net1", "ovscni"),
        ("/run/netns/cni-1", "net1", "ovscni"),
        ("/run/netns/cni-3", "eth0", "0123456789ab_h"),
        ("/var/run/netns/cni-6", "eth0", "kvs"),
        ("/run/netns/cni-6", "eth0", "kvs"),
    ] {
        let wanted = Wanted { ifname, netns: Some(path), ..eth0() };
        is(&wanted, name, How::Netns);
        assert_eq!(found(&Wanted { ifname: "net7", ..wanted }), None, "{path}");
    }
    // antrea's row says that it is another container's.
    let wanted = Wanted { netns: Some("/var/run/netns/cni-2"), ..eth0() };
    assert_eq!(found(&wanted), None);
}

#[test]
fn pod_only_if_unique() {
    let wanted = Wanted { pod: Some(("shop", "web-3")), ..eth0() };
    is(&wanted, "kvs", How::Pod);
    is(&Wanted { pod: Some(("shop", "web-1")), ..eth0() }, "0123456789ab_h", How::Pod);
    // A StatefulSet's new pod: the row is its predecessor's.
    let netns = Some("/var/run/netns/cni-7");
    assert_eq!(found(&Wanted { netns, ..wanted.clone() }), None);
    assert_eq!(found(&Wanted { pod: Some(("shop", "web-0")), ..eth0() }), None);
    let mut snapshot = captured();
    edit(&mut snapshot, "gone0", |p| {
        mark(p, false, "k8s_pod_namespace", "shop");
        mark(p, false, "k8s_pod_name", "web-3");
    });
    assert!(find_port(&snapshot, &wanted).is_none());
}

#[test]
fn mac_only_if_unique_and_usable() {
    let (antreas, kvs) = ([MAC], [MacAddr([10, 0, 0, 0, 0, 10])]);
    is(&Wanted { macs: &kvs, ..eth0() }, "kvs", How::Mac);
    is(&Wanted { macs: &antreas, container_id: "", ..eth0() }, "antrea", How::Mac);
    assert_eq!(found(&Wanted { macs: &antreas, ..eth0() }), None);
    let mut snapshot = captured();
    edit(&mut snapshot, "gone0", |p| p.mac = Some(kvs[0]));
    assert!(find_port(&snapshot, &Wanted { macs: &kvs, ..eth0() }).is_none());
    edit(&mut snapshot, "gone0", |p| p.mac = Some(MacAddr([0; 6])));
    let zero = [MacAddr([0; 6])];
    assert!(find_port(&snapshot, &Wanted { macs: &zero, ..eth0() }).is_none());
}

/// openshift/origin #14893: nothing may be found by an empty value.
#[test]
fn empty_finds_nothing() {
    let mut snapshot = captured();
    for name in ["antrea", "ovscni", "kvs", "gone0"] {
        edit(&mut snapshot, name, |p| {
            for key in ["container-id", "contNetns", "contIface", "netns", "pod-name"] {
                mark(p, false, key, "");
            }
        });
    }
    let wanted = Wanted {
        netns: Some(""),
        pod: Some(("", "")),
        host_interfaces: vec![""],
        bridge: Some(""),
        ..Wanted::default()
    };
    assert!(find_port(&snapshot, &wanted).is_none());
    assert!(find_for_delete(&snapshot, &wanted, |_| false).is_none());
}

#[test]
fn delete_goes_by_container_or_by_netns_with_ifname_only() {
    let snapshot = captured();
    let delete = |wanted: &Wanted<'_>| {
        find_for_delete(&snapshot, wanted, |_| false).map(|f| f.port.name.clone())
    };
    let by_id = Wanted { container_id: "cccc03", ..eth0() };
    assert_eq!(delete(&by_id).as_deref(), Some("sdn"));
    let netns = Some("/run/netns/cni-1");
    let by_netns = Wanted { netns, ifname: "net1", ..eth0() };
    assert_eq!(delete(&by_netns).as_deref(), Some("ovscni"));
    assert_eq!(delete(&Wanted { ifname: "", ..by_netns.clone() }), None);
    let by_name = Wanted { container_id: "0123456789abcdef", ..eth0() };
    assert_eq!(delete(&by_name).as_deref(), Some("0123456789ab_h"));
    let kvs = [MacAddr([10, 0, 0, 0, 0, 10])];
    for weak in [
        Wanted { pod: Some(("shop", "web-3")), ..eth0() },
        Wanted { macs: &kvs, ..eth0() },
        Wanted { host_interfaces: vec!["gone0"], ..eth0() },
    ] {
        assert!(found(&weak).is_some(), "{weak:?}");
        assert_eq!(delete(&weak), None, "{weak:?}");
    }
    assert!(find_for_delete(&snapshot, &by_netns, |i| i.name == "ovscni").is_none());
}

#[test]
fn a_bond_is_an_uplink() {
    let mut snapshot = captured();
    edit(&mut snapshot, "gone0", |p| p.interfaces.push(p.interfaces[0].clone()));
    let wanted = Wanted { host_interfaces: vec!["gone0"], ..eth0() };
    assert!(find_port(&snapshot, &wanted).is_none());
}

#[test]
fn kube_ovn_names_of_any_ids() {
    assert_eq!(kube_ovn_names("0123456789abcdef", "eth0")[0], "0123456789ab_h");
    assert_eq!(kube_ovn_names("0123456789abcdef", "net1")[1], "01234567_net1_c");
    for (id, ifname) in
        [("", "eth0"), ("short", "eth0"), ("aéééééé", "net1"), ("0123456789abcdef", "")]
    {
        assert!(kube_ovn_names(id, ifname).is_empty(), "{id} {ifname}");
    }
    assert!(kube_ovn_names("0123456789abcdef", "fifteen-letters").is_empty());
}

#[test]
fn a_namespaces_path_has_several_spellings() {
    let spellings = ["/run/netns/a", "/var/run/netns/a", "runnetnsa", "varrunnetnsa"];
    for (a, b) in spellings.iter().flat_map(|a| spellings.map(|b| (a, b))) {
        assert!(same_netns(a, b), "{a} {b}");
    }
    for other in ["/run/netns/b", "/run/netns/aa", "/run/netns", "/var/lib/netns/a", "", "var"] {
        assert!(
            !same_netns("/run/netns/a", other) && !same_netns(other, "varrunnetnsa"),
            "{other}"
        );
    }
    assert!(same_netns("", "/"));
}
