//! Which port is an attachment's. First hit wins; a step with two hits has
//! none, unless just one of them is on the configured bridge.

use super::marks::{DEFAULT_IFNAME, Marks, marks};
use super::snapshot::{Bridge, Interface, LOCAL, Ofport, Port, Snapshot, is_tunnel_or_patch};
use crate::model::attachment::{Attachment, Key};
use crate::model::flow::MacAddr;

/// What is known of an attachment whose port is looked for. Empty strings are absent.
#[derive(Clone, Debug, Default)]
pub struct Wanted<'a> {
    /// `CNI_CONTAINERID`.
    pub container_id: &'a str,
    /// `CNI_IFNAME`.
    pub ifname: &'a str,
    /// `CNI_NETNS`.
    pub netns: Option<&'a str>,
    /// The pod's namespace and name.
    pub pod: Option<(&'a str, &'a str)>,
    /// Interfaces without a sandbox in prevResult.
    pub host_interfaces: Vec<&'a str>,
    /// The pod's own MACs.
    pub macs: &'a [MacAddr],
    /// The configured bridge. It decides between two hits and excludes none.
    pub bridge: Option<&'a str>,
}

impl<'a> Wanted<'a> {
    /// By what no two attachments share: container, interface and network namespace.
    #[must_use]
    pub fn of_key(key: &'a Key, netns: Option<&'a str>) -> Self {
        Self {
            container_id: key.container.as_str(),
            ifname: key.ifname.as_str(),
            netns: netns.filter(|path| !path.is_empty()),
            ..Self::default()
        }
    }

    /// By everything that is known of a pod whose record is being made; the bridge is the
    /// configured one.
    #[must_use]
    pub fn of_pod(
        record: &'a Attachment,
        netns: Option<&'a str>,
        host_interfaces: &'a [String],
        bridge: Option<&'a str>,
    ) -> Self {
        Self {
            pod: record.pod.as_ref().map(|pod| (pod.namespace.as_str(), pod.name.as_str())),
            host_interfaces: host_interfaces.iter().map(String::as_str).collect(),
            macs: &record.macs,
            bridge,
            ..Self::of_key(&record.key, netns)
        }
    }
}

/// Writes into a record which port was found. A port may have no number yet. The device is left
/// to the caller: once the pod is dead, its device may be another pod's.
pub fn write_port(record: &mut Attachment, bridge: &Bridge, port: &Port, interface: &Interface) {
    record.bridge = Some(bridge.name.clone());
    record.port = Some(interface.name.clone());
    record.interface = Some(interface.id);
    record.see_port_vlans(&port.vlans);
    record.ofport = interface.ofport.number();
}

/// How a port was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// prevResult names it as the host's end.
    HostInterface,
    /// Its marks have the container id (and ifname).
    ContainerId,
    /// Its name has part of the container id (kube-ovn).
    PortName,
    /// Its marks have the netns and ifname.
    Netns,
    /// Its marks have the pod's namespace and name.
    Pod,
    /// Its marks have the MAC.
    Mac,
}

/// A port that was found.
#[derive(Clone, Copy, Debug)]
pub struct Found<'s> {
    /// Its bridge.
    pub bridge: &'s Bridge,
    /// The port.
    pub port: &'s Port,
    /// Its interface.
    pub interface: &'s Interface,
    /// Which step found it.
    pub by: How,
}

/// A port that could be a pod's, and what its CNI says.
struct Candidate<'s> {
    bridge: &'s Bridge,
    port: &'s Port,
    interface: &'s Interface,
    /// None of them where the port has none: then only a name, or a MAC that somebody configured,
    /// can tell.
    marks: Marks,
}

/// The port of an attachment that is being ADDed.
#[must_use]
pub fn find_port<'s>(snapshot: &'s Snapshot, wanted: &Wanted<'_>) -> Option<Found<'s>> {
    let candidates = candidates(snapshot, wanted);
    [How::HostInterface, How::ContainerId, How::PortName, How::Netns, How::Pod, How::Mac]
        .into_iter()
        .find_map(|how| only(&candidates, wanted, how))
}

/// The port of an attachment that is DELeted without a record: by what is its own beyond
/// doubt, and never one that another record claims. Names and addresses of pods are given
/// to their successors, and prevResult may be missing.
#[must_use]
pub fn find_for_delete<'s>(
    snapshot: &'s Snapshot,
    wanted: &Wanted<'_>,
    is_claimed: impl Fn(&Interface) -> bool,
) -> Option<Found<'s>> {
    let mut candidates = candidates(snapshot, wanted);
    candidates.retain(|c| !is_claimed(c.interface));
    [How::ContainerId, How::PortName, How::Netns]
        .into_iter()
        .find_map(|how| only(&candidates, wanted, how))
}

fn candidates<'s>(snapshot: &'s Snapshot, wanted: &Wanted<'_>) -> Vec<Candidate<'s>> {
    let mut candidates = Vec::new();
    for (bridge, port, interface) in snapshot.interfaces() {
        // k-vswitch's prevResult lists the bridge first. A bond is an uplink.
        let could_be_a_pods = port.interfaces.len() == 1
            && !is_tunnel_or_patch(&interface.kind)
            && interface.ofport != Ofport::Number(LOCAL)
            && snapshot.bridge(&interface.name).is_none();
        if !could_be_a_pods {
            continue;
        }
        let marks = marks(port, interface).unwrap_or_default();
        // Another sandbox's, however well the rest fits: a StatefulSet's pod has its
        // predecessor's name and MAC.
        let container = marks.container_id.as_deref();
        if container.is_some_and(|id| !wanted.container_id.is_empty() && id != wanted.container_id)
        {
            continue;
        }
        candidates.push(Candidate { bridge, port, interface, marks });
    }
    candidates
}

fn only<'s>(candidates: &[Candidate<'s>], wanted: &Wanted<'_>, by: How) -> Option<Found<'s>> {
    let hits: Vec<&Candidate<'s>> = candidates.iter().filter(|c| c.is_hit(wanted, by)).collect();
    let hit = match hits.as_slice() {
        [hit] => hit,
        several => {
            let mut here = several.iter().filter(|c| Some(c.bridge.name.as_str()) == wanted.bridge);
            let hit = here.next()?;
            if here.next().is_some() {
                return None;
            }
            hit
        }
    };
    Some(Found { bridge: hit.bridge, port: hit.port, interface: hit.interface, by })
}

impl Candidate<'_> {
    fn is_hit(&self, wanted: &Wanted<'_>, by: How) -> bool {
        let name = self.interface.name.as_str();
        let marks = &self.marks;
        match by {
            How::HostInterface => wanted.host_interfaces.contains(&name),
            How::ContainerId => {
                !wanted.container_id.is_empty()
                    && marks.container_id.as_deref() == Some(wanted.container_id)
                    && same_interface(marks, wanted)
            }
            How::PortName => is_kube_ovn_name(name, wanted),
            How::Netns => in_netns(marks, wanted) == Some(true) && same_interface(marks, wanted),
            How::Pod => {
                let pod = wanted.pod.filter(|(ns, name)| !ns.is_empty() && !name.is_empty());
                pod.is_some_and(|(namespace, name)| {
                    marks.pod_namespace.as_deref() == Some(namespace)
                        && marks.pod_name.as_deref() == Some(name)
                }) && in_netns(marks, wanted) != Some(false)
                    && same_interface(marks, wanted)
            }
            How::Mac => {
                let mac = marks.mac.or(self.port.mac);
                mac.is_some_and(|mac| has_mac(wanted, mac))
                    && in_netns(marks, wanted) != Some(false)
            }
        }
    }
}

fn has_mac(wanted: &Wanted<'_>, mac: MacAddr) -> bool {
    !mac.is_unusable() && wanted.macs.contains(&mac)
}

/// The marks are of this interface of the pod, not of another one: DEL of a pod's second
/// interface must not find its first. Where the CNI does not say, the MAC must.
fn same_interface(marks: &Marks, wanted: &Wanted<'_>) -> bool {
    match &marks.ifname {
        Some(ifname) => ifname == wanted.ifname,
        None => marks.mac.is_some_and(|mac| has_mac(wanted, mac)),
    }
}

/// Whether the marks are of this namespace, if both sides say which.
fn in_netns(marks: &Marks, wanted: &Wanted<'_>) -> Option<bool> {
    let wanted = wanted.netns.filter(|path| !netns_key(path).is_empty())?;
    Some(same_netns(marks.netns.as_deref()?, wanted))
}

/// Whether two spellings are of one namespace's path.
#[must_use]
pub fn same_netns(a: &str, b: &str) -> bool {
    netns_key(a) == netns_key(b)
}

/// `/run` and `/var/run` are one directory, and k-vswitch writes paths without slashes.
fn netns_key(path: &str) -> String {
    let bare = path.replace('/', "");
    match bare.strip_prefix("varrun") {
        Some(rest) => format!("run{rest}"),
        None => bare,
    }
}

/// The paths that a CNI may have seen this one as.
pub(super) fn netns_spellings(path: &str) -> Vec<String> {
    if path.is_empty() {
        return Vec::new();
    }
    let mut spellings = vec![path.to_owned()];
    if let Some(rest) = path.strip_prefix("/var/run/") {
        spellings.push(format!("/run/{rest}"));
    } else if let Some(rest) = path.strip_prefix("/run/") {
        spellings.push(format!("/var/run/{rest}"));
    }
    spellings
}

/// What kube-ovn calls the ports of a container's interface: the host's end of a veth, or
/// the internal port that it moves into the pod.
pub(super) fn kube_ovn_names(container_id: &str, ifname: &str) -> Vec<String> {
    let stem = if ifname == DEFAULT_IFNAME {
        container_id.get(..12).map(str::to_owned)
    } else {
        12usize
            .checked_sub(ifname.len())
            .filter(|most| *most > 0 && !ifname.is_empty())
            .and_then(|most| container_id.get(..most))
            .map(|id| format!("{id}_{ifname}"))
    };
    stem.map(|stem| vec![format!("{stem}_h"), format!("{stem}_c")]).unwrap_or_default()
}

fn is_kube_ovn_name(name: &str, wanted: &Wanted<'_>) -> bool {
    kube_ovn_names(wanted.container_id, wanted.ifname).iter().any(|n| n == name)
}

#[cfg(test)]
mod tests {
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
        assert_eq!(
            (record.bridge.as_deref(), record.port.as_deref()),
            (Some("br0"), Some("gone0"))
        );
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
}
