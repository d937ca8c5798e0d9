//! Bridges with their ports and interfaces, as OVSDB had them at one moment.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::places::{Place, Places};
use crate::model::flow::MacAddr;
use crate::model::row::RowId;

/// The number of a bridge's own port (OFPP_LOCAL), in 16 bits.
pub const LOCAL: u16 = 65534;
/// The highest number of a real port.
pub const MAX_PORT: u16 = 0xfeff;

/// What OVSDB said, in one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Every bridge, port and interface is here. If not, every bridge is, with only those
    /// of its ports that were asked for and its patch ports: what is not here may exist.
    pub complete: bool,
    /// The configuration of ovn-controller.
    pub ovn: Ovn,
    /// `Open_vSwitch.ovs_version`.
    pub ovs_version: Option<String>,
    /// By name.
    pub bridges: Vec<Bridge>,
    /// Where their interfaces are: filled when it is asked for.
    pub places: Places,
}

/// The configuration of ovn-controller (ovn-controller(8), "Configuration"). Several may run on a node,
/// and each reads the keys with its chassis's name behind them first. That name may be given
/// on its command line, so OVSDB alone does not tell which of the keys are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ovn {
    /// Every bridge that an ovn-controller may run. Empty without a remote: none runs.
    pub bridges: BTreeSet<String>,
}

impl Ovn {
    /// From `Open_vSwitch.external_ids`. A chassis may have any name, also `mappings` or
    /// `probe-interval-n1`, so no key is told from a chassis's by how it ends. A value that is no
    /// bridge's name hurts nobody.
    pub(super) fn read(ids: &BTreeMap<String, String>) -> Self {
        let remotes = by_chassis(ids, "ovn-remote");
        if remotes.is_empty() {
            return Self::default();
        }
        let bridges = by_chassis(ids, "ovn-bridge");
        let mut named: BTreeSet<String> = bridges.values().map(|b| (*b).to_owned()).collect();
        // A chassis without a bridge of its own, and without one for all, runs the default.
        let for_all = bridges.contains_key("");
        if !for_all && !remotes.keys().all(|chassis| bridges.contains_key(chassis)) {
            named.insert("br-int".to_owned());
        }
        Self { bridges: named }
    }
}

/// The values of `key` and `key-CHASSIS`, by the chassis's name (empty for the plain key).
fn by_chassis<'a>(ids: &'a BTreeMap<String, String>, key: &str) -> BTreeMap<&'a str, &'a str> {
    let chassis = |full: &'a str| match full.strip_prefix(key)? {
        "" => Some(""),
        rest => rest.strip_prefix('-'),
    };
    let filled = ids.iter().filter(|(_, value)| !value.is_empty());
    filled.filter_map(|(full, value)| Some((chassis(full)?, value.as_str()))).collect()
}

/// A bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// Its row.
    pub id: RowId,
    /// Its name.
    pub name: String,
    /// Empty (or `system`) for the kernel's, `netdev` for userspace.
    pub datapath_type: String,
    /// OpenFlow versions allowed, as in `OpenFlow14`; empty is OVS's default.
    pub protocols: Vec<String>,
    /// `standalone` or `secure`, if set.
    pub fail_mode: Option<String>,
    /// By name.
    pub ports: Vec<Port>,
}

/// A port: one interface, or several that are a bond.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its row.
    pub id: RowId,
    /// Its name.
    pub name: String,
    /// `external_ids`.
    pub external_ids: BTreeMap<String, String>,
    /// `mac`, where somebody configured one.
    pub mac: Option<MacAddr>,
    /// `tag` and `trunks`. Empty: the port carries every VLAN.
    pub vlans: Vec<u16>,
    /// Its interfaces.
    pub interfaces: Vec<Interface>,
}

/// An interface: what has an OpenFlow port number. Its row is its identity: a name, and a
/// number, are given to the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its row.
    pub id: RowId,
    /// Its name; unique in the database.
    pub name: String,
    /// `type`: empty (a netdev), `internal`, `patch`, `vxlan` …
    pub kind: String,
    /// Its port number.
    pub ofport: Ofport,
    /// `ofport_request`: the number that it is to have, whether or not it has it now.
    pub ofport_request: Option<u16>,
    /// `external_ids`.
    pub external_ids: BTreeMap<String, String>,
    /// The netdev's MAC (the host's end of a veth, not the pod's).
    pub mac_in_use: Option<MacAddr>,
    /// The netdev; 0 when it has vanished from under the userspace datapath.
    pub ifindex: Option<u64>,
    /// Why ovs-vswitchd cannot use it.
    pub error: Option<String>,
    /// `options:peer` of a patch port.
    pub patch_peer: Option<String>,
}

/// `Interface.ofport`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ofport {
    /// Not yet (ovs-vswitchd is down or at it), or a number that no port can have.
    Unassigned,
    /// −1: ovs-vswitchd could not add it.
    Failed,
    /// A real port's number, or [`LOCAL`].
    Number(u16),
}

impl Ofport {
    pub(super) fn read(column: Option<i64>) -> Self {
        match column {
            Some(-1) => Self::Failed,
            Some(n) => match u16::try_from(n) {
                Ok(number @ (1..=MAX_PORT | LOCAL)) => Self::Number(number),
                // Never trusted, and never taken for "there is no such port".
                _ => Self::Unassigned,
            },
            None => Self::Unassigned,
        }
    }

    /// The number, if there is one.
    #[must_use]
    pub fn number(self) -> Option<u16> {
        match self {
            Self::Number(number) => Some(number),
            Self::Unassigned | Self::Failed => None,
        }
    }
}

/// Whether an interface of this type leads to another bridge or node, not to a pod.
#[must_use]
pub fn is_tunnel_or_patch(kind: &str) -> bool {
    matches!(
        kind,
        "patch"
            | "vxlan"
            | "geneve"
            | "gre"
            | "ip6gre"
            | "erspan"
            | "ip6erspan"
            | "stt"
            | "lisp"
            | "gtpu"
            | "bareudp"
            | "srv6"
            | "ipsec_gre"
            | "gre64"
            | "ipsec_gre64"
    )
}

impl Bridge {
    /// Its interfaces, with the port each is on.
    pub fn interfaces(&self) -> impl Iterator<Item = (&Port, &Interface)> {
        self.ports.iter().flat_map(|p| p.interfaces.iter().map(move |i| (p, i)))
    }
}

impl Snapshot {
    /// The bridge of that name.
    #[must_use]
    pub fn bridge(&self, name: &str) -> Option<&Bridge> {
        self.bridges.iter().find(|b| b.name == name)
    }

    /// Every interface here, with its bridge and port.
    pub fn interfaces(&self) -> impl Iterator<Item = (&Bridge, &Port, &Interface)> {
        self.bridges.iter().flat_map(|b| b.interfaces().map(move |(p, i)| (b, p, i)))
    }

    /// The interface of that row.
    #[must_use]
    pub fn interface(&self, id: RowId) -> Option<(&Bridge, &Port, &Interface)> {
        self.interfaces().find(|(_, _, i)| i.id == id)
    }

    /// Where the interface of that row is.
    pub(crate) fn place_of_row(&self, id: RowId) -> Option<Place> {
        self.places.of_row(&self.bridges, id)
    }

    /// Where the interface of that name is.
    pub(crate) fn place_of_name(&self, name: &str) -> Option<Place> {
        self.places.of_name(&self.bridges, name)
    }

    /// Where the interface with that number is, of a bridge: the first, if there are two.
    pub(crate) fn place_of_number(&self, bridge: usize, number: u16) -> Option<Place> {
        self.places.of_number(&self.bridges, (bridge, number))
    }

    /// Whether ovn-controller runs the bridge: its flows are not ours to judge.
    #[must_use]
    pub fn is_ovn(&self, bridge: &Bridge) -> bool {
        self.ovn.bridges.contains(&bridge.name)
    }

    /// Bridges that a packet can get between through patch ports, as indices into
    /// [`Snapshot::bridges`]. Every bridge is in exactly one group. A patch port whose
    /// peer names another counts even if the peer does not name it back yet.
    #[must_use]
    pub fn joined(&self) -> Vec<Vec<usize>> {
        let mut ends: HashMap<&str, usize> = HashMap::new();
        for (index, bridge) in self.bridges.iter().enumerate() {
            let patches = bridge.interfaces().filter(|(_, i)| i.kind == "patch");
            ends.extend(patches.map(|(_, i)| (i.name.as_str(), index)));
        }
        let mut groups: Vec<Vec<usize>> = (0..self.bridges.len()).map(|i| vec![i]).collect();
        for (index, bridge) in self.bridges.iter().enumerate() {
            for (_, interface) in bridge.interfaces().filter(|(_, i)| i.kind == "patch") {
                let peer = interface.patch_peer.as_deref().and_then(|p| ends.get(p));
                if let Some(&other) = peer {
                    unite(&mut groups, index, other);
                }
            }
        }
        groups
    }
}

fn unite(groups: &mut Vec<Vec<usize>>, a: usize, b: usize) {
    let place = |groups: &[Vec<usize>], x| groups.iter().position(|g| g.contains(&x));
    let (Some(a), Some(b)) = (place(groups, a), place(groups, b)) else { return };
    if a == b {
        return;
    }
    let moved = groups.remove(a.max(b));
    if let Some(group) = groups.get_mut(a.min(b)) {
        group.extend(moved);
        group.sort_unstable();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bridge(n: u128, name: &str, patches: &[(&str, &str)]) -> Bridge {
        let ports = patches
            .iter()
            .map(|(name, peer)| Port {
                id: RowId(n),
                name: (*name).to_owned(),
                external_ids: BTreeMap::new(),
                mac: None,
                vlans: Vec::new(),
                interfaces: vec![Interface {
                    id: RowId(n),
                    name: (*name).to_owned(),
                    kind: "patch".to_owned(),
                    ofport: Ofport::Unassigned,
                    ofport_request: None,
                    external_ids: BTreeMap::new(),
                    mac_in_use: None,
                    ifindex: None,
                    error: None,
                    patch_peer: Some((*peer).to_owned()),
                }],
            })
            .collect();
        Bridge {
            id: RowId(n),
            name: name.to_owned(),
            datapath_type: String::new(),
            protocols: vec![],
            fail_mode: None,
            ports,
        }
    }

    #[test]
    fn patch_ports_join_bridges() {
        let snapshot = Snapshot {
            bridges: vec![
                bridge(1, "a", &[("a-c", "c-a"), ("a-gone", "nobody")]),
                bridge(2, "b", &[]),
                bridge(3, "c", &[("c-a", "a-c"), ("c-d", "d-c")]),
                bridge(4, "d", &[("d-c", "c-d"), ("d-c2", "c-d")]),
            ],
            ..Snapshot::default()
        };
        assert_eq!(snapshot.joined(), [vec![0, 2, 3], vec![1]]);
    }

    #[test]
    fn ovn_runs_its_bridge_only_with_a_remote() {
        let ids = |pairs: &[(&str, &str)]| {
            Ovn::read(&pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
        };
        let is = |ovn: Ovn, name: &str| {
            let snapshot =
                Snapshot { ovn, bridges: vec![bridge(1, name, &[])], ..Snapshot::default() };
            snapshot.is_ovn(&snapshot.bridges[0])
        };
        let remote = ("ovn-remote", "tcp:10.0.0.1:6642");
        assert!(is(ids(&[remote]), "br-int"));
        assert!(!is(ids(&[remote]), "br0"));
        assert!(!is(ids(&[]), "br-int"));
        assert!(!is(ids(&[("ovn-remote", "")]), "br-int"));
        assert!(is(ids(&[("ovn-remote-probe-interval", "10000")]), "br-int"));
        assert!(is(ids(&[remote, ("ovn-bridge", "br0")]), "br0"));
        assert!(!is(ids(&[remote, ("ovn-bridge", "br0")]), "br-int"));
        let chassis = [("system-id", "n1"), ("ovn-bridge-n1", "br9"), ("ovn-bridge", "br0")];
        assert!(is(ids(&[&[remote], &chassis[..]].concat()), "br9"));
        // These may be settings, or the bridges of chassis with such names.
        for key in ["ovn-bridge-mappings", "ovn-bridge-datapath-type-n1", "ovn-bridge-remote-1"] {
            let both = ids(&[remote, (key, "br0")]);
            assert!(is(both.clone(), "br-int") && is(both, "br0"), "{key}");
        }
        let mappings = ids(&[remote, ("ovn-bridge-mappings", "physnet1:br-ex")]);
        assert!(is(mappings.clone(), "br-int") && !is(mappings, "br-ex"));
    }

    /// The name may come from `-n` or `system-id-override`: no row of OVSDB has it.
    #[test]
    fn every_bridge_under_a_chassis_name_is_ovns() {
        let bridges = |pairs: &[(&str, &str)]| {
            let ids = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            Ovn::read(&ids).bridges.into_iter().collect::<Vec<_>>()
        };
        let of = |name| (name, "unix:/run/ovn/sb.sock");
        let (plain, hv1, hv2) = (of("ovn-remote"), of("ovn-remote-hv1"), of("ovn-remote-hv2"));
        let id = ("system-id", "hv9");
        assert_eq!(bridges(&[id, hv1, ("ovn-bridge-hv1", "br-ovn")]), ["br-ovn"]);
        assert_eq!(bridges(&[id, hv1]), ["br-int"]);
        assert_eq!(bridges(&[hv1, ("ovn-bridge", "br0")]), ["br0"]);
        // Nobody knows whether the plain remote is that chassis's or another's.
        assert_eq!(bridges(&[plain, ("ovn-bridge-hv1", "br-ovn")]), ["br-int", "br-ovn"]);
        let both = [("ovn-bridge-hv1", "br-ovn"), ("ovn-bridge", "br0")];
        assert_eq!(bridges(&[&[plain], &both[..]].concat()), ["br-ovn", "br0"]);
        let two = [("ovn-bridge-hv1", "br-a"), ("ovn-bridge-hv2", "br-b")];
        assert_eq!(bridges(&[&[hv1, hv2], &two[..]].concat()), ["br-a", "br-b"]);
        // The second chassis runs the default.
        assert_eq!(bridges(&[hv1, hv2, two[0]]), ["br-a", "br-int"]);
        assert!(bridges(&two).is_empty());
        let probe = ("ovn-remote-probe-interval-hv1", "5000");
        assert_eq!(bridges(&[probe, two[0]]), ["br-a", "br-int"]);
        for name in ["remote-1", "mappings-x", "datapath-type", "probe-interval"] {
            let (of, bridge) = (format!("ovn-remote-{name}"), format!("ovn-bridge-{name}"));
            assert_eq!(bridges(&[(&of, "unix:/x"), (&bridge, "br-x")]), ["br-x"], "{name}");
        }
    }

    #[test]
    fn absurd_port_numbers_are_no_numbers() {
        assert_eq!(Ofport::read(None), Ofport::Unassigned);
        assert_eq!(Ofport::read(Some(-1)), Ofport::Failed);
        assert_eq!(Ofport::read(Some(1)), Ofport::Number(1));
        assert_eq!(Ofport::read(Some(65279)), Ofport::Number(65279));
        assert_eq!(Ofport::read(Some(65534)), Ofport::Number(LOCAL));
        for absurd in [0, -2, 65280, 65533, 65535, 65536, i64::MIN, i64::MAX] {
            assert_eq!(Ofport::read(Some(absurd)), Ofport::Unassigned, "{absurd}");
        }
    }
}
