//! How each known OVS CNI writes on a port whose it is. Values come from other programs:
//! one that cannot be read is left out, never an error.
//!
//! | CNI | row | keys |
//! | --- | --- | --- |
//! | ovs-cni | Port | `owner`, `contNetns`, `contIface`, `contPodUid` |
//! | antrea | Port | `antrea-type`=`container`, `container-id`, `pod-name`, `pod-namespace`, `ip-address`, `attached-mac`, `net-ns`, `if-dev` |
//! | kube-ovn | Interface | `vendor`=`kube-ovn`, `pod_name`, `pod_namespace`, `pod_netns`, `ip`; the name has part of the container id and the ifname |
//! | ovn-kubernetes | Interface | `sandbox`, `iface-id`=`ns_pod`, `iface-id-ver`=UID, `attached_mac`, `ip_addresses`, `k8s.ovn.org/nad` |
//! | openshift-sdn | Interface | `sandbox`, `ip` |
//! | k-vswitch | both | `netns` without slashes, `k8s_pod_namespace`, `k8s_pod_name`; `Port.mac` |
//! | Neutron, libvirt | Interface | `iface-id`, `attached-mac`: a virtual machine's |
//! | ovs-docker | Interface | `container_id`, `container_iface` |

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::snapshot::{Interface, Port};
use crate::model::flow::{Address, MacAddr};

/// The name that runtimes give to a pod's first interface (containerd, CRI-O, Multus).
/// CNIs that make no other one do not write it down.
pub(super) const DEFAULT_IFNAME: &str = "eth0";

/// Whose a port is, in its CNI's words. What is empty, unspecified or unreadable is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Which CNI wrote them.
    pub cni: &'static str,
    /// The sandbox's id.
    pub container_id: Option<String>,
    /// The namespace's path; k-vswitch's is without slashes.
    pub netns: Option<String>,
    /// The interface's name in the pod: `eth0` also where the CNI writes down only other
    /// names or makes no other interface; absent where it cannot be told.
    pub ifname: Option<String>,
    /// The pod's namespace.
    pub pod_namespace: Option<String>,
    /// The pod's name (with kube-ovn, maybe its virtual machine's).
    pub pod_name: Option<String>,
    /// The pod's UID.
    pub pod_uid: Option<String>,
    /// Its own IPs.
    pub ips: Vec<IpAddr>,
    /// Its own MAC.
    pub mac: Option<MacAddr>,
}

impl Marks {
    /// A virtual machine's: no CNI plugin is called for it.
    #[must_use]
    pub fn is_machine(&self) -> bool {
        self.cni == MACHINE
    }
}

/// [`Marks::cni`] of a virtual machine.
const MACHINE: &str = "neutron";

/// external_ids, with none for an empty value and for one that is no name: no id, path or name
/// of a CNI's has control characters.
#[derive(Clone, Copy)]
struct Ids<'a>(&'a BTreeMap<String, String>);

impl<'a> Ids<'a> {
    fn get(self, key: &str) -> Option<&'a str> {
        let value = self.0.get(key).map(|v| v.trim());
        value.filter(|v| !v.is_empty() && !v.contains(char::is_control))
    }

    fn owned(self, key: &str) -> Option<String> {
        self.get(key).map(str::to_owned)
    }

    fn mac(self, key: &str) -> Option<MacAddr> {
        self.get(key)?.parse().ok().filter(|mac: &MacAddr| !mac.is_unusable())
    }

    /// Addresses separated by commas, each with or without a prefix length.
    fn ips(self, key: &str) -> Vec<IpAddr> {
        let mut ips = Vec::new();
        for part in self.get(key).unwrap_or_default().split(',') {
            let bare = part.split_once('/').map_or(part, |(ip, _)| ip).trim();
            if let Ok(ip) = bare.parse::<IpAddr>()
                && !Address::Ip(ip).is_unusable()
                && !ips.contains(&ip)
            {
                ips.push(ip);
            }
        }
        ips
    }
}

/// Whose the port is, if a CNI that we know marked it.
#[must_use]
pub fn marks(port: &Port, interface: &Interface) -> Option<Marks> {
    let (p, i) = (Ids(&port.external_ids), Ids(&interface.external_ids));
    ovs_cni(p)
        .or_else(|| antrea(p))
        .or_else(|| kube_ovn(i, &interface.name))
        .or_else(|| sandbox(i))
        .or_else(|| k_vswitch(port, p, i))
        .or_else(|| ovs_docker(i))
        .or_else(|| neutron(i))
}

fn ovs_cni(p: Ids<'_>) -> Option<Marks> {
    // Before it wrote `owner` it wrote the other two.
    let owned = p.get("owner") == Some("ovs-cni.network.kubevirt.io");
    (owned || p.get("contNetns").is_some()).then(|| Marks {
        cni: "ovs-cni",
        netns: p.owned("contNetns"),
        ifname: p.owned("contIface"),
        pod_uid: p.owned("contPodUid"),
        ..Marks::default()
    })
}

fn antrea(p: Ids<'_>) -> Option<Marks> {
    // Its uplinks, tunnels and gateway have another type.
    let container = p
        .get("antrea-type")
        .map_or_else(|| p.get("container-id").is_some(), |antrea_type| antrea_type == "container");
    container.then(|| Marks {
        cni: "antrea",
        container_id: p.owned("container-id"),
        netns: p.owned("net-ns"),
        ifname: Some(p.get("if-dev").unwrap_or(DEFAULT_IFNAME).to_owned()),
        pod_namespace: p.owned("pod-namespace"),
        pod_name: p.owned("pod-name"),
        pod_uid: None,
        ips: p.ips("ip-address"),
        mac: p.mac("attached-mac"),
    })
}

fn kube_ovn(i: Ids<'_>, name: &str) -> Option<Marks> {
    (i.get("vendor") == Some("kube-ovn") || i.get("pod_netns").is_some()).then(|| Marks {
        cni: "kube-ovn",
        container_id: None,
        netns: i.owned("pod_netns"),
        ifname: kube_ovn_ifname(name),
        pod_namespace: i.owned("pod_namespace"),
        pod_name: i.owned("pod_name"),
        pod_uid: None,
        ips: i.ips("ip"),
        mac: None,
    })
}

/// Its ports are `<id>_h` for eth0 and `<id>_<ifname>_h` for others; `_c` if it moves an
/// internal port into the pod.
fn kube_ovn_ifname(name: &str) -> Option<String> {
    let stem = name.strip_suffix("_h").or_else(|| name.strip_suffix("_c"))?;
    let ifname = stem.split_once('_').map_or(DEFAULT_IFNAME, |(_, ifname)| ifname);
    Some(ifname.to_owned())
}

/// ovn-kubernetes and openshift-sdn: the former names the logical port as well.
fn sandbox(i: Ids<'_>) -> Option<Marks> {
    let container_id = Some(i.owned("sandbox")?);
    let default = Some(DEFAULT_IFNAME.to_owned());
    let Some(iface_id) = i.get("iface-id") else {
        let (ips, cni) = (i.ips("ip"), "openshift-sdn");
        return Some(Marks { cni, container_id, ifname: default, ips, ..Marks::default() });
    };
    // `ns_pod`, on secondary networks with the network before it; neither a namespace nor
    // a pod's name can hold '_'.
    let mut parts = iface_id.rsplit('_').filter(|part| !part.is_empty());
    let (pod_name, pod_namespace) = match (parts.next(), parts.next()) {
        (Some(name), Some(namespace)) => (Some(name.to_owned()), Some(namespace.to_owned())),
        _ => (None, None),
    };
    Some(Marks {
        cni: "ovn-kubernetes",
        container_id,
        netns: None,
        // On a secondary network nothing tells which of the pod's interfaces it is.
        ifname: default.filter(|_| i.get("k8s.ovn.org/nad").is_none()),
        pod_namespace,
        pod_name,
        pod_uid: i.owned("iface-id-ver"),
        ips: i.ips("ip_addresses"),
        mac: i.mac("attached_mac"),
    })
}

fn k_vswitch(port: &Port, p: Ids<'_>, i: Ids<'_>) -> Option<Marks> {
    let get = |key: &str| p.owned(key).or_else(|| i.owned(key));
    let (pod_namespace, pod_name) = (get("k8s_pod_namespace"), get("k8s_pod_name"));
    (pod_namespace.is_some() || pod_name.is_some()).then(|| Marks {
        cni: "k-vswitch",
        netns: get("netns"),
        ifname: Some(DEFAULT_IFNAME.to_owned()),
        pod_namespace,
        pod_name,
        mac: port.mac.filter(|mac| !mac.is_unusable()),
        ..Marks::default()
    })
}

fn ovs_docker(i: Ids<'_>) -> Option<Marks> {
    let container_id = Some(i.owned("container_id")?);
    let ifname = i.owned("container_iface");
    Some(Marks { cni: "ovs-docker", container_id, ifname, ..Marks::default() })
}

/// A virtual machine's, by Neutron's agents or libvirt: nobody's pod, but the owner of its MAC.
fn neutron(i: Ids<'_>) -> Option<Marks> {
    i.get("iface-id")?;
    let mac = Some(i.mac("attached-mac")?);
    Some(Marks { cni: MACHINE, mac, ..Marks::default() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::captured;
    use super::*;

    fn marks_of(name: &str) -> Option<Marks> {
        let snapshot = captured();
        let (_, port, interface) = snapshot.interfaces().find(|(_, p, _)| p.name == name).unwrap();
        marks(port, interface)
    }

    fn edited(name: &str, edit: impl FnOnce(&mut Port, &mut Interface)) -> Option<Marks> {
        let snapshot = captured();
        let (_, port, interface) = snapshot.interfaces().find(|(_, p, _)| p.name == name).unwrap();
        let (mut port, mut interface) = (port.clone(), interface.clone());
        edit(&mut port, &mut interface);
        marks(&port, &interface)
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn every_cni_of_the_table() {
        assert_eq!(
            marks_of("ovscni").unwrap(),
            Marks {
                cni: "ovs-cni",
                netns: some("/var/run/netns/cni-1"),
                ifname: some("net1"),
                pod_uid: some("7d1c"),
                ..Marks::default()
            }
        );
        assert_eq!(
            marks_of("antrea").unwrap(),
            Marks {
                cni: "antrea",
                container_id: some("aaaa01"),
                netns: some("/var/run/netns/cni-2"),
                ifname: some("eth0"),
                pod_namespace: some("shop"),
                pod_name: some("web-0"),
                pod_uid: None,
                ips: vec!["10.244.1.5".parse().unwrap(), "fd00::5".parse().unwrap()],
                mac: Some(MacAddr([10, 0, 0, 0, 0, 5])),
            }
        );
        assert_eq!(
            marks_of("0123456789ab_h").unwrap(),
            Marks {
                cni: "kube-ovn",
                netns: some("/var/run/netns/cni-3"),
                ifname: some("eth0"),
                pod_namespace: some("shop"),
                pod_name: some("web-1"),
                ips: vec!["10.16.0.7".parse().unwrap()],
                ..Marks::default()
            }
        );
        assert_eq!(
            marks_of("ovnk").unwrap(),
            Marks {
                cni: "ovn-kubernetes",
                container_id: some("bbbb02"),
                ifname: some("eth0"),
                pod_namespace: some("shop"),
                pod_name: some("web-2"),
                pod_uid: some("uid-2"),
                ips: vec!["10.244.1.6".parse().unwrap()],
                mac: Some(MacAddr([0x0a, 0x58, 0x0a, 0xf4, 1, 6])),
                ..Marks::default()
            }
        );
        assert_eq!(
            marks_of("sdn").unwrap(),
            Marks {
                cni: "openshift-sdn",
                container_id: some("cccc03"),
                ifname: some("eth0"),
                ips: vec!["10.128.0.9".parse().unwrap()],
                ..Marks::default()
            }
        );
        assert_eq!(
            marks_of("kvs").unwrap(),
            Marks {
                cni: "k-vswitch",
                netns: some("varrunnetnscni-6"),
                ifname: some("eth0"),
                pod_namespace: some("shop"),
                pod_name: some("web-3"),
                mac: Some(MacAddr([10, 0, 0, 0, 0, 10])),
                ..Marks::default()
            }
        );
        assert_eq!(
            marks_of("docker").unwrap(),
            Marks {
                cni: "ovs-docker",
                container_id: some("dddd04"),
                ifname: some("eth1"),
                ..Marks::default()
            }
        );
        for nobodys in ["br0", "p0", "vx0", "gone0"] {
            assert_eq!(marks_of(nobodys), None, "{nobodys}");
        }
    }

    #[test]
    fn empty_unspecified_and_unreadable_are_absent() {
        let marks = edited("antrea", |port, _| {
            for (key, value) in [
                ("ip-address", " ,0.0.0.0,::,10.1.1.1/24, 10.1.1.1,nonsense,224.0.0.1,1.2.3"),
                ("attached-mac", "00:00:00:00:00:00"),
                ("container-id", ""),
                ("pod-name", " "),
                ("pod-namespace", "shop\n2026-11-21T10:11:11.123Z WARN forged"),
                ("if-dev", "eth2"),
            ] {
                port.external_ids.insert(key.to_owned(), value.to_owned());
            }
        })
        .unwrap();
        assert_eq!(marks.ips, ["10.1.1.1".parse::<IpAddr>().unwrap()]);
        assert_eq!((marks.mac, marks.container_id, marks.pod_name), (None, None, None));
        assert_eq!(marks.pod_namespace, None);
        assert_eq!(marks.ifname.as_deref(), Some("eth2"));
    }

    #[test]
    fn antreas_own_ports_are_nobodys() {
        for own in ["gateway", "tunnel", "uplink", "host"] {
            let marks = edited("antrea", |port, _| {
                port.external_ids.insert("antrea-type".to_owned(), own.to_owned());
            });
            assert_eq!(marks, None, "{own}");
        }
    }

    #[test]
    fn a_virtual_machine_of_neutrons() {
        let machine = |iface_id: &str, mac: &str| {
            edited("docker", |_, i| {
                i.external_ids = [("iface-id", iface_id), ("attached-mac", mac)]
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into();
            })
        };
        let mac = Some(MacAddr([0xfa, 0x16, 0x3e, 0, 0, 1]));
        let of_it = Marks { cni: "neutron", mac, ..Marks::default() };
        assert!(of_it.is_machine() && !marks_of("docker").unwrap().is_machine());
        assert_eq!(machine("0d4b2e5a", "fa:16:3e:00:00:01"), Some(of_it));
        assert_eq!(machine("", "fa:16:3e:00:00:01"), None);
        assert_eq!(machine("0d4b2e5a", "ff:ff:ff:ff:ff:ff"), None);
    }

    #[test]
    fn a_secondary_ovn_network_has_no_ifname() {
        let marks = edited("ovnk", |_, i| {
            i.external_ids.insert("k8s.ovn.org/nad".to_owned(), "shop/blue".to_owned());
            i.external_ids.insert("iface-id".to_owned(), "shop.blue_shop_web-2".to_owned());
        })
        .unwrap();
        assert_eq!(marks.ifname, None);
        assert_eq!(marks.pod_namespace.as_deref(), Some("shop"));
        assert_eq!(marks.pod_name.as_deref(), Some("web-2"));
    }

    #[test]
    fn kube_ovns_other_interfaces() {
        for (name, ifname) in [
            ("01234567_net1_h", some("net1")),
            ("0123456789ab_c", some("eth0")),
            ("01_a_b_h", some("a_b")),
            ("veth1", None),
        ] {
            assert_eq!(kube_ovn_ifname(name), ifname, "{name}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(
            ids in prop::collection::btree_map(
                prop::sample::select(vec![
                    "owner", "contNetns", "contIface", "antrea-type", "container-id",
                    "ip-address", "attached-mac", "vendor", "pod_netns", "ip", "sandbox",
                    "iface-id", "attached_mac", "ip_addresses", "k8s_pod_name", "container_id",
                ]).prop_map(str::to_owned),
                prop_oneof!["\\PC{0,12}", "[0-9a-f.:/,_]{0,30}", Just("container".to_owned())],
                0..8,
            ),
            name in "\\PC{0,15}",
        ) {
            let _ = edited("antrea", |port, interface| {
                port.external_ids = ids.clone();
                interface.external_ids = ids;
                interface.name = name;
            });
        }
    }
}
