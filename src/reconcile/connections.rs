//! Flushing the connections of the dead (`conntrack: true`).
//!
//! A flush hits every connection of an address in all zones of a datapath, which bridges and
//! networks share. So the questions that are asked before a delete are asked here over all bridges
//! of the datapath, when every bridge has been judged: what one of them keeps for an address's
//! other owner, another one's flush must not hit.

use std::collections::BTreeSet;
use std::net::IpAddr;

use log::{debug, warn};

use super::input::{has_lost_its_device, joined_with};
use super::outcome::TargetId;
use super::snapshot::BridgeId;
use super::{BridgeInput, CleanRequest, CleanTarget, NodeSnapshot, Outcome, open_bridge};
use crate::config::Mode;
use crate::judge::input::{Dead, Live, Network};
use crate::judge::{Reason, Token};
use crate::model::flow::Address;
use crate::model::row::RowSet;
use crate::openflow::Error;
use crate::ovsdb::{Client, Interface, marks};

/// Who may have an address on the datapath.
#[derive(Default)]
struct Others {
    /// On the dead attachment's bridge, and on those that are joined to it.
    near: Vec<Live>,
    /// On the others.
    far: Vec<Live>,
    /// Pods and machines that may have any, on all of them.
    unknown: Vec<Unknown>,
}

/// A port whose marks say that it is a pod's or a machine's, and not which IPs it has. No record
/// explains it.
struct Unknown {
    bridge: BridgeId,
    vlans: Vec<u16>,
    /// Not a pod: its addresses are of an IPAM that is nobody's of our networks.
    machine: bool,
    /// On the dead attachment's bridge, or on one that is joined to it.
    near: bool,
}

impl Unknown {
    /// Whether it may have an address of the dead attachment, in a network that overlaps. An
    /// address is in one VLAN once, and until the dead pod's IPAM has freed it nobody's else.
    fn may_have_one_of(&self, dead: &Dead) -> bool {
        let Self { vlans, machine, near, .. } = self;
        let same_vlan = !vlans.is_empty() && vlans.iter().all(|vlan| dead.is_in_vlan(*vlan));
        let same_network = vlans.is_empty() && !machine && dead.holds_addresses;
        !(*near && (same_vlan || same_network))
    }
}

/// Such ports. One whose device is gone sends nothing.
fn unknown(node: &NodeSnapshot, targets: &[CleanTarget]) -> Vec<Unknown> {
    let dead = node.tombstones.iter().chain(targets.iter().map(|target| &target.attachment));
    let nobody = RowSet::default();
    let dead = dead.filter_map(|dead| node.own_place_of(dead, &nobody));
    let recorded = node.records.iter().filter_map(|record| node.place_of(record));
    let known: RowSet = recorded.chain(dead).map(|place| place.interface.id).collect();
    let is_there = |i: &Interface| i.ofport.number().is_some() && !has_lost_its_device(i);
    let others = node
        .places()
        .filter(|place| !known.contains(&place.interface.id) && is_there(place.interface));
    let marked = others.filter_map(|place| Some((place, marks(place.port, place.interface)?)));
    let unknown = marked.filter(|(_, marks)| marks.ips.is_empty());
    unknown
        .map(|(place, marks)| Unknown {
            bridge: place.bridge,
            vlans: place.port.vlans.clone(),
            machine: marks.is_machine(),
            near: false,
        })
        .collect()
}

/// Flushes the dead IPs' connections where the network wants it. The next sweep does if the switch
/// was not heard to the end.
pub(super) fn flush(
    request: &CleanRequest<'_>,
    before: &NodeSnapshot,
    client: &mut Client,
    targets: &[CleanTarget],
    outcome: &mut Outcome,
) {
    let wants = |target: &CleanTarget| {
        let config = before.config(&target.attachment.key.network);
        config.conntrack && config.mode == Mode::Enforce
    };
    if request.dry_run || outcome.paused || !targets.iter().any(wants) {
        return;
    }
    // Somebody may have been given an address since the bridges were judged.
    let node = match request.node_again(client, before.now) {
        Ok(node) => node,
        Err(failed) => return outcome.note(format!("connections are not flushed: {failed}")),
    };
    let holding = request.holding(targets);
    for (id, target) in TargetId::each(targets) {
        let judged = outcome.targets.get(id.0).is_some_and(|t| t.is_finished() && !t.ovn);
        let asked = holding.as_ref().is_none_or(|holding| holding.get(id.0) == Some(&true));
        if !judged || !asked || !wants(target) {
            continue;
        }
        let mut flushed: Vec<&str> = Vec::new();
        for bridge in node.bridges_of(&target.attachment) {
            let Some(row) = node.bridge(bridge) else { continue };
            if flushed.contains(&datapath(&row.datapath_type)) {
                continue;
            }
            flushed.push(datapath(&row.datapath_type));
            let ips = free_ips(request, &node, (bridge, id), targets, outcome);
            if let Err(failed) = flush_over(request, &row.name, &ips) {
                let stay = format!("connections of {} stay: {failed}", target.attachment.title());
                warn!("bridge {}: {stay}", row.name);
                if failed.is_refusal() {
                    // It would say the same the next time.
                    outcome.note(stay);
                } else {
                    outcome.fail(id, &format!("bridge {}: {failed}", row.name));
                }
            }
        }
    }
}

fn flush_over(request: &CleanRequest<'_>, bridge: &str, ips: &[IpAddr]) -> Result<(), Error> {
    if ips.is_empty() {
        return Ok(());
    }
    let mut connection = open_bridge(&request.run_dir, bridge, request.deadline)?;
    ips.iter().try_for_each(|ip| connection.flush_conntrack(*ip))
}

/// Bridges of one type share one datapath; no type is the kernel's.
fn datapath(kind: &str) -> &str {
    if kind.is_empty() { "system" } else { kind }
}

/// The IPs of a dead attachment whose connections are nobody else's.
fn free_ips(
    request: &CleanRequest<'_>,
    node: &NodeSnapshot,
    (bridge, id): (BridgeId, TargetId),
    targets: &[CleanTarget],
    outcome: &Outcome,
) -> Vec<IpAddr> {
    let build = |bridge| BridgeInput::build(node, bridge, targets, request.adding.as_ref());
    let input = build(bridge);
    let kind = |bridge: BridgeId| node.bridge(bridge).map(|b| datapath(&b.datapath_type));
    let joined = joined_with(node, bridge);
    let far = node
        .bridge_ids()
        .filter(|other| !joined.contains(other) && kind(*other) == kind(bridge))
        .flat_map(|other| build(other).facts.live.into_values());
    let mut unknown = unknown(node, targets);
    unknown.retain(|port| kind(port.bridge) == kind(bridge));
    unknown.iter_mut().for_each(|port| port.near = joined.contains(&port.bridge));
    let near = input.facts.live.into_values().collect();
    let others = Others { far: far.collect(), near, unknown };
    let mut found = input.targets.values().zip(input.facts.dead.values());
    let Some((_, dead)) = found.find(|(target, _)| target.id == id) else { return Vec::new() };
    let Some(network) = input.facts.networks.get(dead.network) else { return Vec::new() };
    let may = |ip: &IpAddr| may_be_flushed(*ip, dead, network, &others, &outcome.owned);
    let ips = id.of(targets).map(|target| target.attachment.ips.clone()).unwrap_or_default();
    ips.into_iter().filter(may).collect()
}

/// Whether the connections of a dead attachment's IP are nobody else's: the questions of a delete
/// by address. `owned`: the addresses that kept entries show to have an owner.
fn may_be_flushed(
    ip: IpAddr,
    dead: &Dead,
    network: &Network,
    others: &Others,
    owned: &BTreeSet<IpAddr>,
) -> bool {
    let address = Address::Ip(ip);
    let is_evidence = network.match_ip && dead.recorded && dead.is_evidence(address);
    let mut all = others.near.iter().chain(&others.far);
    let is_live = all.any(|live| live.addresses.contains(&address));
    // Its IPAM has not freed it while its DEL is under way. Another network has its own IPAM.
    let near = others.near.iter().filter(|_| !dead.holds_addresses);
    let may_arrive = near.chain(&others.far).any(Live::is_arriving);
    let free = !address.is_unusable() && !is_live && !may_arrive && !owned.contains(&ip);
    let may_be_anothers = others.unknown.iter().any(|port| port.may_have_one_of(dead));
    if is_evidence && free && may_be_anothers {
        debug!("connections of {ip} stay: nobody knows the addresses of a port on the datapath");
    }
    is_evidence && free && !may_be_anothers
}

/// The IP that a kept entry shows to have, or perhaps to have, another owner.
pub(super) fn owned_by(reason: &Reason) -> Option<IpAddr> {
    let shows = matches!(
        reason,
        Reason::CreatedAfterDeath { .. }
            | Reason::OutputsToLivePort { .. }
            | Reason::LoadsLivePort { .. }
            | Reason::SetsTunnel { .. }
            | Reason::SendsToGroup { .. }
            | Reason::MayReachElsewhere { .. }
            | Reason::ArrivesElsewhere { .. }
            | Reason::MayBeArriving { .. }
            | Reason::HasLiveOwner { .. }
            | Reason::MayLiveElsewhere { .. }
            | Reason::OtherVlan { .. }
    );
    match reason.token().filter(|_| shows)? {
        Token::Address(Address::Ip(ip)) => Some(ip),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::input::LiveRegister;
    use crate::judge::testing as facts;
    use crate::model::attachment::{Attachment, Key, Netns};
    use crate::model::register::RegisterSource;
    use crate::model::row::RowId;
    use crate::ovsdb::{Ofport, Port, testing};
    use crate::util::clock::Stamp;

    const IP: &str = "10.0.0.5";

    fn network() -> Network {
        facts::network(RegisterSource::None)
    }

    fn dead() -> Dead {
        Dead {
            interface: None,
            born: None,
            died: facts::ago(1),
            seen_alive: facts::ago(1),
            lingered: false,
            ..facts::dead(5, &[IP])
        }
    }

    fn live(ip: &str) -> Live {
        Live {
            network: None,
            addresses_known: false,
            register: LiveRegister::Absent,
            born: None,
            ..facts::live(9, &[ip])
        }
    }

    fn may(dead: &Dead, network: &Network, others: &Others, owned: &[&str]) -> bool {
        let owned = owned.iter().map(|ip| ip.parse().unwrap()).collect();
        may_be_flushed(IP.parse().unwrap(), dead, network, others, &owned)
    }

    fn beside(near: Vec<Live>, far: Vec<Live>) -> Others {
        Others { near, far, unknown: Vec::new() }
    }

    fn unknown_port(vlans: &[u16], machine: bool, near: bool) -> Unknown {
        Unknown { bridge: BridgeId(0), vlans: vlans.to_vec(), machine, near }
    }

    /// A Neutron machine's marks name a MAC and no IP, ovs-cni's neither.
    #[test]
    fn whoever_has_addresses_that_nobody_knows_may_have_any() {
        let tagged = Dead { vlans: vec![100], ..dead() };
        let held = Dead { holds_addresses: true, ..dead() };
        let held_tagged = Dead { holds_addresses: true, ..tagged.clone() };
        let (machine, pod) = (true, false);
        let ask = |dead: &Dead, port| {
            let others = Others { unknown: vec![port], ..Others::default() };
            may(dead, &network(), &others, &[])
        };
        for dead in [&tagged, &held_tagged, &dead(), &held] {
            for who in [machine, pod] {
                assert!(!ask(dead, unknown_port(&[200], who, true)), "another VLAN");
                assert!(!ask(dead, unknown_port(&[100, 200], who, true)), "a trunk");
                for vlans in [&[][..], &[100]] {
                    assert!(!ask(dead, unknown_port(vlans, who, false)), "another network");
                }
            }
            assert!(!ask(dead, unknown_port(&[], machine, true)), "it may be told by a register");
        }
        for dead in [&tagged, &held_tagged] {
            assert!(ask(dead, unknown_port(&[100], machine, true)), "one VLAN, one address");
        }
        // A tag of former days says nothing of who has it now.
        let moved = Dead { vlans: vec![200, 100], vlans_before: vec![100], ..dead() };
        assert!(!ask(&moved, unknown_port(&[100], machine, true)));
        assert!(ask(&moved, unknown_port(&[200], machine, true)));
        // While its DEL is under way no other pod of its network can have it.
        assert!(ask(&held, unknown_port(&[], pod, true)));
        assert!(!ask(&dead(), unknown_port(&[], pod, true)));
    }

    #[test]
    fn an_address_that_anybody_on_the_datapath_has_is_left_alone() {
        let (dead, network) = (dead(), network());
        let ask = |near, far| may(&dead, &network, &beside(near, far), &[]);
        assert!(ask(vec![live("10.0.0.6")], vec![live("10.0.0.7")]));
        assert!(!ask(vec![live(IP)], vec![]));
        assert!(!ask(vec![], vec![live(IP)]), "in another network, on another bridge");
    }

    /// Only a running port counts that is marked, that no record and no tombstone explains, and of
    /// which no IP is known.
    #[test]
    fn uplinks_and_what_is_known_are_no_unknown_ports() {
        let neutron = &[("iface-id", "1f"), ("attached-mac", "fa:16:3e:00:00:01")][..];
        let ovs_cni = |netns| vec![("contNetns", netns), ("contIface", "eth0")];
        let (old, new) = (ovs_cni("/run/netns/old"), ovs_cni("/run/netns/new"));
        let with_ip = &[("sandbox", "c9"), ("ip", "10.0.0.9")][..];
        let dead = |number: u128| {
            let key = Key {
                network: "podnet".parse().unwrap(),
                container: format!("c{number}").parse().unwrap(),
                ifname: "eth0".parse().unwrap(),
            };
            let now = Stamp { boot_ms: 1, wall_ms: 1 };
            let mut dead = Attachment::new(key, 1, "boot".to_owned(), now);
            dead.netns = Some(Netns::of_path("/run/netns/old".to_owned()));
            dead.interface = Some(RowId(number));
            dead
        };
        for (what, row, kind, ofport, ids, found) in [
            ("a machine", 1, "", Ofport::Number(5), neutron, Some(true)),
            ("DPDK's", 1, "dpdkvhostuserclient", Ofport::Number(5), neutron, Some(true)),
            ("a pod", 1, "", Ofport::Number(5), &old, Some(false)),
            ("of a known address", 1, "", Ofport::Number(5), with_ip, None),
            ("an uplink", 1, "", Ofport::Number(5), &[], None),
            ("a tunnel", 1, "vxlan", Ofport::Number(5), &[], None),
            ("without a device", 1, "", Ofport::Failed, neutron, None),
            ("a tombstone's", 2, "", Ofport::Number(5), &old, None),
            ("that another pod has by now", 2, "", Ofport::Number(5), &new, Some(false)),
            ("the target's", 3, "", Ofport::Number(5), &old, None),
            ("a record's", 4, "", Ofport::Number(5), &old, None),
        ] {
            let interface = Interface {
                kind: kind.to_owned(),
                ofport,
                external_ids: ids.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
                ifindex: Some(7).filter(|_| kind.is_empty()),
                ..testing::interface(row, "p0")
            };
            let port = Port { vlans: vec![200], ..testing::port(10, ids, interface) };
            let ovs = testing::one_bridge(vec![port]);
            let now = Stamp { boot_ms: 9, wall_ms: 9 };
            let mut node = NodeSnapshot::of(now, "boot".to_owned(), ovs.into());
            node.tombstones.push(dead(2));
            node.records.push(dead(4));
            let targets =
                [CleanTarget { attachment: dead(3), cause: crate::reconcile::Cause::Del }];
            let ports = unknown(&node, &targets);
            let machines: Vec<bool> = ports.iter().map(|port| port.machine).collect();
            assert_eq!(machines, found.into_iter().collect::<Vec<_>>(), "{what}");
        }
    }

    #[test]
    fn whoever_is_arriving_may_have_any_address() {
        let arriving = || Live { born: Some(facts::ago(3)), ..live("10.0.0.6") };
        let network = network();
        let held = Dead { holds_addresses: true, ..dead() };
        let ask = |dead: &Dead, near, far| may(dead, &network, &beside(near, far), &[]);
        assert!(!ask(&dead(), vec![arriving()], vec![]));
        assert!(ask(&held, vec![arriving()], vec![]), "its IPAM has not freed it");
        assert!(!ask(&held, vec![], vec![arriving()]), "another network has its own IPAM");
    }

    #[test]
    fn what_is_no_evidence_for_a_delete_flushes_nothing() {
        let others = Others::default();
        let ask = |dead: &Dead| may(dead, &network(), &others, &[]);
        assert!(ask(&dead()));
        assert!(!ask(&Dead { ip_evidence: false, ..dead() }), "another node may have it");
        assert!(!ask(&Dead { recorded: false, ..dead() }));
        let no_ip = Network { match_ip: false, ..network() };
        assert!(!may(&dead(), &no_ip, &others, &[]));
    }

    #[test]
    fn what_a_kept_entry_shows_to_have_an_owner_is_left_alone() {
        let address = Token::Address(Address::Ip(IP.parse().unwrap()));
        for reason in [
            Reason::SetsTunnel { address },
            Reason::SendsToGroup { address },
            Reason::CreatedAfterDeath { address },
            Reason::HasLiveOwner { token: address },
            Reason::OtherVlan { address },
        ] {
            assert_eq!(owned_by(&reason), Some(IP.parse().unwrap()), "{reason}");
        }
        for reason in [
            Reason::PolicyWaits { address },
            Reason::HasLiveOwner { token: Token::Port(5) },
            Reason::OnlyMentions { token: Token::Port(5) },
        ] {
            assert_eq!(owned_by(&reason), None, "{reason}");
        }
        assert!(!may(&dead(), &network(), &Others::default(), &[IP]));
        assert!(may(&dead(), &network(), &Others::default(), &["10.0.0.6"]));
    }
}
