//! From the world to the core's case for one bridge.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use super::merge::is_one_sandbox;
use super::snapshot::PortLocation;
use super::{Cause, CleanTarget, NodeSnapshot};
use crate::config::{AddressScope, Config, NetworkState, Reg0};
use crate::judge::input::{Dead, JudgeInput, Live, LiveRegister, Network, NetworkIndex, Ports};
use crate::liveness::netns;
use crate::model::attachment::{
    ADD_TAKES_MS, Attachment, Key, NetworkName, Register, RegisterHow, State,
};
use crate::model::flow::Address;
use crate::model::flow::UNTAGGED;
use crate::model::row::RowId;
use crate::model::workload::Member;
use crate::ovsdb::{Interface, Marks, Ofport, Port, marks};

/// See [`ADD_TAKES_MS`].
const ADD_TAKES: Duration = Duration::from_millis(ADD_TAKES_MS);

/// How long before a sandbox entries for its pod may be made: a controller that knows of the pod
/// need not wait for it.
const AHEAD: Duration = Duration::from_secs(60);

/// The row of a port that OpenFlow knows and OVSDB does not (yet, or any more).
const UNKNOWN_ROW: RowId = RowId(0);

/// A case and whom its indexes stand for.
#[derive(Debug)]
pub struct BridgeInput {
    /// What the core judges.
    pub facts: JudgeInput,
    /// Per `facts.dead`: the index of its target.
    pub dead_of: Vec<usize>,
    /// Per `facts.dead`: whether it may be found out later that nobody has its addresses.
    pub may_be_freed: Vec<bool>,
    /// Per `facts.live`: the index of its record in [`NodeSnapshot::records`].
    pub live_of: Vec<Option<usize>>,
    /// Per `facts.networks`: its name.
    pub networks: Vec<NetworkName>,
}

impl BridgeInput {
    /// What is known about a bridge. `adding` is the attachment that is being ADDed.
    #[must_use]
    pub fn build(
        node: &NodeSnapshot,
        bridge: usize,
        targets: &[CleanTarget],
        adding: Option<&Key>,
    ) -> Self {
        let mut input = Self {
            facts: JudgeInput::default(),
            dead_of: Vec::new(),
            may_be_freed: Vec::new(),
            live_of: Vec::new(),
            networks: Vec::new(),
        };
        let joined = joined_with(node, bridge);
        input.facts.ports = ports(node, bridge);
        input.facts.switch_up = node.switch_started.map(|s| s.until(node.now));

        // The living first: a row that one of them claims is nobody else's.
        let mut claimed = crate::model::row::RowSet::default();
        let dead: HashSet<(&Key, u64)> =
            targets.iter().map(|t| (&t.attachment.key, t.attachment.generation)).collect();
        for (index, record) in node.records.iter().enumerate() {
            if dead.contains(&(&record.key, record.generation)) {
                continue;
            }
            let place = node.place_of(record);
            claimed.extend(place.map(|p| p.interface.id));
            let here = match place {
                Some(place) => joined.contains(&place.bridge),
                None => node.bridges_of(record).iter().any(|b| joined.contains(b)),
            } || node.bridges_of(record).contains(&bridge);
            if here {
                let adding = adding == Some(&record.key);
                let network = input.network(node, &record.key.network);
                input.facts.live.push(live(node, record, place, bridge, network, adding));
                input.live_of.push(Some(index));
            }
        }
        let latest = latest_deaths(node);
        for (index, target) in targets.iter().enumerate() {
            if !node.bridges_of(&target.attachment).contains(&bridge) {
                continue;
            }
            let network = input.network(node, &target.attachment.key.network);
            let own = node.own_place_of(&target.attachment, &claimed);
            claimed.extend(own.map(|p| p.interface.id));
            input.facts.dead.push(self::dead(node, target, own, bridge, network, &latest));
            input.dead_of.push(index);
            input.may_be_freed.push(node.free.is_some() && is_pod_ip(target));
        }
        input.heed_machines(node, targets);
        // Whoever else is on the switch is alive as far as we know.
        for place in node.places() {
            if joined.contains(&place.bridge) && !claimed.contains(&place.interface.id) {
                input.facts.live.push(unrecorded_port(place, bridge, &input.networks, node));
                input.live_of.push(None);
            }
        }
        let others = node.tombstones.iter().filter(|t| {
            input.networks.contains(&t.key.network)
                && node.bridges_of(t).contains(&bridge)
                // What is dead twice is one pod, and no other owner of its value.
                && !targets.iter().any(|target| {
                    target.attachment.is_same(t) || is_one_sandbox(&target.attachment, t)
                })
        });
        for witness in others.filter_map(|t| witness(node, t)) {
            input.facts.live.push(witness);
            input.live_of.push(None);
        }
        input.facts.ovn = node.ovs.bridges.get(bridge).is_some_and(|b| node.ovs.is_ovn(b));
        input
    }

    /// A machine that has moved to another node keeps the addresses that somebody else had here
    /// before it, whenever that one's death is noticed.
    fn heed_machines(&mut self, node: &NodeSnapshot, targets: &[CleanTarget]) {
        let mut since: HashMap<Address, u64> = HashMap::new();
        let known = targets.iter().map(|target| &target.attachment).chain(&node.tombstones);
        for record in known.filter(|record| may_live_on(node, record)) {
            let born = record.born.map_or(u64::MAX, |born| born.boot_ms);
            for address in record.addresses() {
                let of = since.entry(address).or_insert(born);
                *of = born.max(*of);
            }
        }
        for (dead, target) in self.facts.dead.iter_mut().zip(&self.dead_of) {
            let born = targets.get(*target).and_then(|target| target.attachment.born);
            let born = born.map_or(0, |born| born.boot_ms);
            let later = |address: &Address| since.get(address).is_some_and(|s| *s > born);
            if !dead.roams && dead.addresses.iter().any(later) {
                (dead.ip_evidence, dead.mac_evidence, dead.roams) = (false, false, true);
            }
        }
    }

    /// Whether a tombstone has still to say that its machine may have moved: somebody who had an
    /// address of the machine's before it is remembered, and would take that for its own.
    #[must_use]
    pub fn is_needed(node: &NodeSnapshot, tombstone: &Attachment) -> bool {
        let born = |record: &Attachment| record.born.map(|born| born.boot_ms);
        let before = |other: &&Attachment| {
            !may_live_on(node, other)
                && born(other).unwrap_or(0) < born(tombstone).unwrap_or(u64::MAX)
        };
        if !may_live_on(node, tombstone) {
            return false;
        }
        let addresses = tombstone.addresses();
        let has = |other: &Attachment| other.addresses().iter().any(|a| addresses.contains(a));
        node.tombstones.iter().filter(before).any(has)
    }

    fn network(&mut self, node: &NodeSnapshot, name: &NetworkName) -> NetworkIndex {
        if let Some(index) = self.networks.iter().position(|n| n == name) {
            return index;
        }
        let state = node.network(name);
        let config = &state.config;
        self.facts.networks.push(Network {
            tables: config.tables.clone(),
            cookie: config.cookie,
            cookie_mask: config.cookie_mask,
            match_port: config.evidence.port,
            match_ip: config.evidence.ip,
            match_mac: config.evidence.mac,
            register: config
                .register_rule(state.register.register_told_apart, state.register.register_shared),
            basis: state.register.register_basis.clone(),
            shown: state.register.shown().collect(),
            reap_dangling: config.reap_dangling,
        });
        self.networks.push(name.clone());
        self.networks.len() - 1
    }

    /// Checks OVSDB's numbers against what the bridge itself says on the same connection as
    /// the deletes. A number under another name means that OVSDB's word is not yet carried
    /// out: no port is evidence then.
    pub fn check_ports(&mut self, node: &NodeSnapshot, bridge: usize, described: &[(u16, String)]) {
        let mut named: HashMap<u16, PortLocation<'_>> = HashMap::new();
        for place in node.places().filter(|p| p.bridge == bridge) {
            if let Some(number) = place.interface.ofport.number() {
                named.entry(number).or_insert(place);
            }
        }
        for (number, name) in described {
            match named.get(number) {
                // PORT_DESC cuts names at 15 bytes.
                Some(place) if !place.interface.name.starts_with(name.as_str()) => {
                    self.facts.ports.unassigned = true;
                }
                Some(_) => {}
                None => {
                    self.facts.ports.by_number.entry(*number).or_insert(UNKNOWN_ROW);
                }
            }
        }
    }
}

/// This bridge and those that patch ports or a network's `bridges` join to it: one address
/// space.
pub(super) fn joined_with(node: &NodeSnapshot, bridge: usize) -> BTreeSet<usize> {
    let mut joined = BTreeSet::from([bridge]);
    for group in node.ovs.joined() {
        if group.contains(&bridge) {
            joined.extend(group);
        }
    }
    for state in node.networks.values() {
        let names = &state.config.bridges;
        let group: Vec<usize> = node
            .ovs
            .bridges
            .iter()
            .enumerate()
            .filter(|(_, b)| names.contains(&b.name))
            .map(|(index, _)| index)
            .collect();
        if group.contains(&bridge) {
            joined.extend(group);
        }
    }
    joined
}

fn ports(node: &NodeSnapshot, bridge: usize) -> Ports {
    let mut ports = Ports::default();
    for place in node.places().filter(|p| p.bridge == bridge) {
        ports.requested.extend(place.interface.ofport_request);
        match place.interface.ofport {
            Ofport::Number(number) => {
                ports.by_number.insert(number, place.interface.id);
            }
            Ofport::Unassigned => ports.unassigned = true,
            Ofport::Failed => {}
        }
    }
    ports
}

/// How long ago the last of those died who had an address, whether or not they are judged now:
/// who had it before must not take from their heirs what is theirs until the linger time of the
/// last is over, too.
fn latest_deaths(node: &NodeSnapshot) -> HashMap<Address, Duration> {
    let mut latest: HashMap<Address, Duration> = HashMap::new();
    for tombstone in node.tombstones.iter().filter(|t| t.boot_id == node.boot_id) {
        let Some(ago) = tombstone.died.map(|died| died.until(node.now)) else { continue };
        for address in tombstone.addresses() {
            let of = latest.entry(address).or_insert(ago);
            *of = ago.min(*of);
        }
    }
    latest
}

fn live(
    node: &NodeSnapshot,
    record: &Attachment,
    place: Option<PortLocation<'_>>,
    bridge: usize,
    network: NetworkIndex,
    adding: bool,
) -> Live {
    let config = node.config(&record.key.network);
    let here = place.filter(|p| p.bridge == bridge);
    // A device that is not there for the moment (a restart of ovs-vswitchd) may get its number
    // back; a row that is gone does not.
    let ofport = here.and_then(|p| match p.interface.ofport {
        Ofport::Failed => record.ofport,
        known => known.number(),
    });
    let register = register_now(config, record, place.map(|p| (p.port, p.interface)));
    let register = match register.filter(|_| is_of_bridge(config, ofport)) {
        Some(register) => LiveRegister::Is(register.value),
        None if learns(config) => LiveRegister::Unknown,
        // While an interface waits for its number no port is dead, and no number's value.
        None => LiveRegister::Absent,
    };
    Live {
        network: Some(network),
        ofport,
        previous_ofports: previous_ofports(node, record, bridge, ofport),
        vlans: live_vlans(record, place),
        number_since: number_since(node, record, ofport),
        addresses: record.addresses(),
        addresses_known: !record.ips.is_empty() && !record.macs.is_empty(),
        is_pod: true,
        register,
        age: record.born.map(|born| born.until(node.now)),
        adding,
        member: member(node, record),
    }
}

fn dead(
    node: &NodeSnapshot,
    target: &CleanTarget,
    own: Option<PortLocation<'_>>,
    bridge: usize,
    network: NetworkIndex,
    latest: &HashMap<Address, Duration>,
) -> Dead {
    let record = &target.attachment;
    let config = node.config(&record.key.network);
    let died = record.died.unwrap_or(node.now);
    let age = died.until(node.now);
    let (linger, addresses) = (config.linger(), record.addresses());
    let (scope, free) = (scope_of(config, record), node.free.as_ref());
    let name = node.ovs.bridges.get(bridge).map(|b| b.name.as_str());
    let ofport = match own {
        Some(place) if place.bridge == bridge => place.interface.ofport.number().or(record.ofport),
        Some(_) => None,
        None => record.ofport.filter(|_| record.bridge.as_deref() == name),
    };
    Dead {
        network,
        ofport: ofport.filter(|n| (1..=0xfeff).contains(n)),
        previous_ofports: previous_ofports(node, record, bridge, ofport),
        vlans: dead_vlans(record, own),
        vlans_before: dead_vlans_before(record, own),
        number_since: number_since(node, record, ofport),
        interface: own.map(|p| p.interface.id).or_else(|| node.former_row_of(record)),
        lingered: age >= linger
            && addresses.iter().all(|a| latest.get(a).is_none_or(|ago| *ago >= linger)),
        addresses,
        register: register_now(config, record, own.map(|p| (p.port, p.interface)))
            .filter(|_| is_of_bridge(config, ofport))
            .map(|r| r.value)
            .filter(|v| *v != 0),
        born: record
            .born
            .filter(|_| record.boot_id == node.boot_id)
            .map(|born| born.until(node.now)),
        oldest: record
            .earliest()
            .filter(|_| record.boot_id == node.boot_id)
            .map(|earliest| earliest.until(node.now).saturating_add(AHEAD)),
        died: age,
        seen_alive: if record.boot_id == node.boot_id {
            record.seen_alive.until(node.now)
        } else {
            age
        },
        recorded: !record.unrecorded,
        holds_addresses: target.cause == Cause::Del
            && record.seen_alive >= died
            && !is_virtual_machine(record),
        ip_evidence: ip_evidence(config, target, free),
        mac_evidence: scope == AddressScope::Node,
        roams: scope == AddressScope::Cluster && !are_free(target, free),
        member: member(node, record),
    }
}

/// Its workload, while the network still waits for two pods of one that differ.
fn member(node: &NodeSnapshot, record: &Attachment) -> Option<Member> {
    let state = node.network(&record.key.network);
    let waits = state.config.reg0 == Reg0::Learn && !state.register.register_told_apart;
    let member = record.member().filter(|_| waits)?;
    state.register.may_tell_apart(&member.workload).then_some(member)
}

/// Whether an attachment's register value means it on a bridge where its port has this number:
/// one that is computed from the number means somebody else on every other bridge.
fn is_of_bridge(config: &Config, ofport: Option<u16>) -> bool {
    config.reg0 != Reg0::Ofport || ofport.is_some()
}

/// Whether it is KubeVirt's pod of a virtual machine: when the machine has migrated, this pod ends
/// and the machine lives on, with its addresses, on another node.
fn is_virtual_machine(record: &Attachment) -> bool {
    record.pod.as_ref().is_some_and(|pod| pod.name.starts_with("virt-launcher-"))
}

/// Where a dead attachment's addresses may be now, whatever else its network has.
fn scope_of(config: &Config, record: &Attachment) -> AddressScope {
    if is_virtual_machine(record) { AddressScope::Cluster } else { config.address_scope }
}

/// Whether the addresses of somebody dead here may live on elsewhere.
fn may_live_on(node: &NodeSnapshot, record: &Attachment) -> bool {
    let is_free = |ip| node.free.as_ref().is_some_and(|free| free.contains(ip));
    scope_of(node.config(&record.key.network), record) == AddressScope::Cluster
        && !record.ips.iter().all(is_free)
}

/// Whether a dead attachment's IPs alone say anything. Where addresses are of the whole cluster,
/// IPAM may have given them to another node since: only at DEL they are still its own, but for a
/// machine's that may have moved, and where nobody has any of them now. (Of MACs nobody has a list.)
fn ip_evidence(config: &Config, target: &CleanTarget, free: Option<&BTreeSet<IpAddr>>) -> bool {
    let record = &target.attachment;
    scope_of(config, record) == AddressScope::Node
        || (target.cause == Cause::Del && !is_virtual_machine(record))
        || are_free(target, free)
}

/// Whether the API server says that nobody in the cluster has any of its IPs.
fn are_free(target: &CleanTarget, free: Option<&BTreeSet<IpAddr>>) -> bool {
    let ips = &target.attachment.ips;
    let is_free = |ip: &IpAddr| free.is_some_and(|free| free.contains(ip));
    is_pod_ip(target) && !ips.is_empty() && ips.iter().all(is_free)
}

/// The API server knows the addresses of a pod's first interface, which every runtime calls
/// `eth0`; of what Multus adds it knows nothing, so its silence is no word.
fn is_pod_ip(target: &CleanTarget) -> bool {
    target.attachment.key.ifname.as_str() == "eth0"
}

/// The addresses of the dead that somebody in the cluster may have by now: whoever can find out
/// passes those that nobody has to the [`CleanRequest`](super::CleanRequest) as `free`.
#[must_use]
pub fn in_question(
    networks: &BTreeMap<NetworkName, NetworkState>,
    targets: &[CleanTarget],
) -> BTreeSet<IpAddr> {
    let mut asked = BTreeSet::new();
    let by_value = |config: &Config| config.evidence.register && config.reg0 == Reg0::Ipv4;
    for target in targets.iter().filter(|target| is_pod_ip(target)) {
        let Some(state) = networks.get(&target.attachment.key.network) else { continue };
        let config = &state.config;
        if (config.evidence.ip || by_value(config)) && !ip_evidence(config, target, None) {
            asked.extend(&target.attachment.ips);
        }
    }
    asked
}

/// The VLANs that a live attachment's port is in, now or before. A port without a tag, or one that
/// is not there, may be in any.
fn live_vlans(record: &Attachment, place: Option<PortLocation<'_>>) -> Vec<u16> {
    let now = place.map(|place| place.port.vlans.clone()).unwrap_or_default();
    if now.is_empty() { now } else { [now, record.vlans.clone()].concat() }
}

/// The VLANs that a dead attachment's port is known to have been in.
fn dead_vlans(record: &Attachment, own: Option<PortLocation<'_>>) -> Vec<u16> {
    let now = own.map(|place| place.port.vlans.as_slice());
    let untagged = now.is_some_and(<[u16]>::is_empty).then_some(UNTAGGED);
    let now = now.unwrap_or_default().iter().copied();
    now.chain(untagged).chain(record.vlans.iter().copied()).collect()
}

/// Those of them that its port was not in when it was last seen.
fn dead_vlans_before(record: &Attachment, own: Option<PortLocation<'_>>) -> Vec<u16> {
    let Some(place) = own else { return record.vlans_before.clone() };
    let now = &place.port.vlans;
    let known = record.vlans.iter().copied();
    known.filter(|vlan| *vlan != UNTAGGED && !now.contains(vlan)).collect()
}

/// The numbers that an attachment had on a bridge, by its record, and has not now.
fn previous_ofports(
    node: &NodeSnapshot,
    record: &Attachment,
    bridge: usize,
    now: Option<u16>,
) -> Vec<u16> {
    let name = node.ovs.bridges.get(bridge).map(|b| b.name.as_str());
    let had = [record.ofport, record.ofport_before];
    let mut previous_ofports: Vec<u16> =
        had.into_iter().flatten().filter(|n| now != Some(*n)).collect();
    previous_ofports.dedup();
    if record.bridge.as_deref() == name { previous_ofports } else { Vec::new() }
}

/// How long an attachment has had its number of now, at least.
fn number_since(node: &NodeSnapshot, record: &Attachment, now: Option<u16>) -> Option<Duration> {
    let since = match record.ofport {
        same if same == now => record.ofport_since?,
        _ => node.number_changed(record),
    };
    Some(since.until(node.now))
}

/// An interface that no record explains.
fn unrecorded_port(
    place: PortLocation<'_>,
    bridge: usize,
    networks: &[NetworkName],
    node: &NodeSnapshot,
) -> Live {
    let marks = marks(place.port, place.interface);
    // Our DEL is done, the OVS plugin's is not.
    let id = Some(place.interface.id);
    let is_its = |dead: &Attachment| dead.interface == id && node.former_row_of(dead) == id;
    let is_leaving = node.tombstones.iter().any(is_its);
    let mut addresses: Vec<Address> = Vec::new();
    if let Some(marks) = &marks {
        addresses.extend(marks.ips.iter().copied().map(Address::Ip));
        addresses.extend(marks.mac.map(Address::Mac));
    }
    // The bridge's own interface answers for the node; a veth's host end has a MAC that is
    // not the pod's.
    if place.interface.kind == "internal" {
        addresses.extend(place.interface.mac_in_use.map(Address::Mac));
    }
    addresses.retain(|a| !a.is_unusable());
    let known = networks.iter().find_map(|name| {
        let config = node.config(name);
        match &config.reg0 {
            Reg0::ExternalId(key) => external_id(config, key, place.port, place.interface),
            _ => None,
        }
    });
    let marked = marks.as_ref().filter(|_| !is_leaving);
    let age = marked.and_then(|marks| arriving(marks, node));
    let may_live = age.is_some() || (marked.is_some() && !has_lost_its_device(place.interface));
    let register = match known {
        Some(register) => LiveRegister::Is(register.value),
        None if may_live => LiveRegister::Untold,
        None => LiveRegister::Absent,
    };
    Live {
        network: None,
        ofport: (place.bridge == bridge).then(|| place.interface.ofport.number()).flatten(),
        previous_ofports: Vec::new(),
        vlans: place.port.vlans.clone(),
        number_since: None,
        addresses,
        addresses_known: false,
        is_pod: marks.is_some(),
        register,
        age,
        adding: false,
        member: None,
    }
}

/// How old the sandbox is that a port is marked with, if it is so young that its ADD may still
/// be under way.
pub(super) fn arriving(marks: &Marks, node: &NodeSnapshot) -> Option<Duration> {
    let born = netns::born(marks.netns.as_deref()?, node.now)?;
    Some(born.until(node.now)).filter(|age| *age <= ADD_TAKES)
}

/// Whether the device behind an interface is gone: a dead pod's port that nobody removed. A port
/// without a number yet has not been looked at. (Only the kernel's devices have an index always.)
pub(super) fn has_lost_its_device(interface: &Interface) -> bool {
    match interface.ofport {
        Ofport::Failed => true,
        Ofport::Unassigned => false,
        Ofport::Number(_) => interface.kind.is_empty() && interface.ifindex.unwrap_or(0) == 0,
    }
}

/// A dead attachment that is none of the targets and not yet finished: its register value
/// may have been shared with one of them, so it is not that one's own until a sweep has
/// judged them all together.
fn witness(node: &NodeSnapshot, dead: &Attachment) -> Option<Live> {
    let unfinished = dead.state == State::Deleting && dead.boot_id == node.boot_id;
    let learned = dead.register.filter(|r| unfinished && r.how == RegisterHow::Learned)?;
    Some(Live {
        network: None,
        ofport: None,
        previous_ofports: Vec::new(),
        vlans: Vec::new(),
        number_since: None,
        addresses: Vec::new(),
        addresses_known: true,
        is_pod: false,
        register: LiveRegister::Is(learned.value),
        age: None,
        adding: false,
        member: None,
    })
}

/// Puts a value into the configured field: bits outside the mask are zero.
fn placed(config: &Config, value: u32, how: RegisterHow) -> Option<Register> {
    let mask = config.register_mask;
    let shift = mask.trailing_zeros().min(31);
    // A value that does not fit its field would be another's after cutting.
    (value <= mask >> shift).then(|| Register { value: value << shift, how })
}

fn external_id(config: &Config, key: &str, port: &Port, interface: &Interface) -> Option<Register> {
    let text = interface.external_ids.get(key).or_else(|| port.external_ids.get(key))?;
    let value = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok().or_else(|| text.parse().ok().map(std::net::Ipv4Addr::into)),
    };
    placed(config, value.filter(|v| *v != 0)?, RegisterHow::ExternalId)
}

/// An attachment's register value: computed from what it is now, else as recorded.
pub(crate) fn register_now(
    config: &Config,
    record: &Attachment,
    place: Option<(&Port, &Interface)>,
) -> Option<Register> {
    let recorded = |how| record.register.filter(|r| r.how == how);
    match &config.reg0 {
        Reg0::None => None,
        Reg0::Learn | Reg0::Pod => recorded(RegisterHow::Learned),
        Reg0::Ipv4 => {
            let ip = record.ips.iter().find_map(|ip| match ip {
                IpAddr::V4(ip) => Some(u32::from(*ip)),
                IpAddr::V6(_) => None,
            })?;
            placed(config, ip, RegisterHow::Ipv4)
        }
        Reg0::Ofport => {
            let now = place.and_then(|(_, interface)| interface.ofport.number());
            placed(config, now.or(record.ofport)?.into(), RegisterHow::Ofport)
        }
        Reg0::ExternalId(key) => place
            .and_then(|(port, interface)| external_id(config, key, port, interface))
            .or_else(|| recorded(RegisterHow::ExternalId)),
    }
}

/// Whether register values of a network's pods are found in their classifiers.
#[must_use]
pub(crate) fn learns(config: &Config) -> bool {
    config.register_rule(false, false).source.is_learned()
}

/// Whether an attachment has no register value where others of its network have one: entries
/// that only match on its value are not found then. `others`: records and tombstones.
pub(crate) fn lacks_value<'a>(
    state: &NetworkState,
    record: &Attachment,
    others: impl IntoIterator<Item = &'a Attachment>,
) -> bool {
    let has = |other: &Attachment| {
        other.key.network == record.key.network
            && other.register.is_some_and(|r| r.how == RegisterHow::Learned)
    };
    learns(&state.config)
        && (state.config.reg0 == Reg0::Pod || state.register.register_basis.found().is_none())
        && record.register.is_none()
        && record.ofport.is_some()
        && (state.config.reg0 == Reg0::Pod
            || state.register.register_told_apart
            || others.into_iter().any(has))
}

/// What ADD can say about a register value at once: computed ones.
#[must_use]
pub fn register_of(
    config: &Config,
    record: &Attachment,
    place: Option<(&Port, &Interface)>,
) -> Option<Register> {
    register_now(config, record, place).filter(|r| r.how != RegisterHow::Learned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::attachment::Pod;
    use crate::ovsdb::testing;
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
            let input = BridgeInput::build(&node, 0, targets, None);
            let of = |dead: &Dead| (dead.ip_evidence, dead.mac_evidence, dead.roams);
            input.facts.dead.iter().map(of).collect::<Vec<_>>()
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
            node.tombstones = vec![of.clone(), other];
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
    fn a_dead_pods_row_that_was_given_away_is_a_living_strangers() {
        let mut dead = target("net", "eth0", &["10.0.0.5"], Cause::Tombstone);
        dead.attachment.netns =
            Some(crate::model::attachment::Netns::of_path("/run/netns/old".into()));
        dead.attachment.bridge = Some("br0".to_owned());
        dead.attachment.port = Some("rep0".to_owned());
        (dead.attachment.interface, dead.attachment.ofport) = (Some(RowId(5)), Some(5));
        let seen = |netns: &str| {
            let mut node = one_port(netns);
            node.tombstones.push(dead.attachment.clone());
            BridgeInput::build(&node, 0, std::slice::from_ref(&dead), None).facts
        };
        let (own, taken) = (seen("/var/run/netns/old"), seen("/run/netns/new"));
        assert_eq!((own.dead[0].interface, own.dead[0].ofport), (Some(RowId(5)), Some(5)));
        assert!(own.live.is_empty());
        assert_eq!((taken.dead[0].interface, taken.dead[0].ofport), (None, Some(5)));
        assert_eq!((taken.live.len(), taken.live[0].ofport), (1, Some(5)));

        // A living pod's row that still has its predecessor's marks is the living one's.
        let mut node = one_port("/run/netns/old");
        let mut heir = dead.attachment.clone();
        heir.key.container = "c2".parse().unwrap();
        heir.netns = Some(crate::model::attachment::Netns::of_path("/run/netns/new".into()));
        node.records.push(heir);
        let heirs = BridgeInput::build(&node, 0, std::slice::from_ref(&dead), None).facts;
        assert_eq!((heirs.live.len(), heirs.live[0].ofport), (1, Some(5)));

        // It is given away between the look and the commit.
        let mut flow = crate::model::flow::Flow::default();
        flow.matches.in_port = Some(5);
        let reason = crate::judge::Reason::MatchesPort { port: crate::judge::Token::Port(5) };
        let verdict = crate::judge::Verdict { stale: true, reason, dead: Some(0) };
        let learned = crate::judge::Learned::default();
        let standing =
            |after| crate::judge::Recheck::between(&own, &learned, after).standing(&flow, &verdict);
        assert_eq!(standing(&own), crate::judge::Standing::Holds);
        assert_eq!(standing(&taken), crate::judge::Standing::NewOwner);
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
            let input = BridgeInput::build(&node, 0, &[], None);
            input.facts.live.iter().any(|live| live.register == LiveRegister::Untold)
        };
        let (five, no) = (Ofport::Number(5), Ofport::Failed);
        for marks in [machine, pod] {
            assert!(of(marks, "", five, Some(7), None));
            assert!(of(marks, "", Ofport::Unassigned, None, None), "the switch has not looked yet");
            assert!(
                of(marks, "dpdkvhostuserclient", five, None, None),
                "no device of the kernel's"
            );
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
}
