//! Rows of OVSDB that an OVS CNI has marked and that nobody recorded: a runtime was killed
//! during its ADD, so our ADD never came, and neither will a DEL.
//!
//! Guarantee: such a row's pod counts as dead only if two things show it: its device is gone,
//! and its namespace is not in a directory in which a living pod's namespace is seen.

use std::collections::{BTreeMap, BTreeSet};

use log::warn;
use serde::Serialize;

use super::input::arriving;
use super::snapshot::PortLocation;
use super::unowned_ports::networks_on;
use super::{Cause, CleanRequest, CleanTarget, NodeSnapshot, Outcome, Thorough, open_table};
use crate::flowtable::{Seen, Tokens};
use crate::liveness::netns::Directories;
use crate::model::attachment::{Attachment, IfName, Key, Netns, NetworkName, Pod, State};
use crate::model::flow::Flow;
use crate::openflow;
use crate::ovsdb::{Marks, Ofport, marks, write_port};
use crate::store::{self, new_generation};
use crate::util::logging::Often;

/// A port that an OVS CNI has marked, and that neither a record nor a tombstone explains.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UnrecordedPort {
    /// Its bridge.
    pub bridge: String,
    /// Its name.
    pub port: String,
    /// The CNI that marked it.
    pub cni: &'static str,
    /// Its pod is gone for certain.
    pub gone: bool,
}

impl UnrecordedPort {
    /// For people.
    #[must_use]
    pub fn sentence(&self) -> String {
        let Self { bridge, port, cni, gone } = self;
        let what = if *gone { "its pod is gone" } else { "its pod may live" };
        format!("{bridge}: port {port} is marked by {cni} and nobody recorded it; {what}")
    }
}

/// One, with its row.
struct Found<'w> {
    place: PortLocation<'w>,
    marks: Marks,
    gone: bool,
}

/// All of them. A sandbox that is younger than two minutes may still be arriving: its port is
/// not among them.
#[must_use]
pub fn unrecorded_ports(node: &NodeSnapshot) -> Vec<UnrecordedPort> {
    find(node).iter().filter_map(|found| found.named(node)).collect()
}

impl Found<'_> {
    fn named(&self, node: &NodeSnapshot) -> Option<UnrecordedPort> {
        let bridge = node.bridge(self.place.bridge)?.name.clone();
        let port = self.place.interface.name.clone();
        Some(UnrecordedPort { bridge, port, cni: self.marks.cni, gone: self.gone })
    }
}

fn find(node: &NodeSnapshot) -> Vec<Found<'_>> {
    let known = node.recorded_rows();
    let mut found = Vec::new();
    let mut directories = None;
    for place in node.places().filter(|p| p.port.interfaces.len() == 1) {
        let ovn = node.bridge(place.bridge).is_none_or(|b| node.ovs.is_ovn(b));
        if ovn || known.contains(&place.interface.id) {
            continue;
        }
        let Some(marks) = marks(place.port, place.interface) else { continue };
        if marks.is_machine() || arriving(&marks, node).is_some() {
            continue;
        }
        let no_device = place.interface.ofport == Ofport::Failed
            || place.interface.ifindex.unwrap_or_default() == 0;
        let gone = no_device
            && marks.netns.as_ref().is_some_and(|netns| {
                directories
                    .get_or_insert_with(|| Directories::of(&node.records, &node.boot_id))
                    .lack(netns)
            });
        found.push(Found { place, marks, gone });
    }
    found
}

/// Makes those whose pod is gone targets like any other orphan, as far as an entry names their
/// number. The report names the others.
pub(super) fn adopt(
    request: &CleanRequest<'_>,
    node: &mut NodeSnapshot,
    targets: &mut Vec<CleanTarget>,
    outcome: &mut Outcome,
) {
    if request.thorough == Thorough::None {
        return;
    }
    let found = find(node);
    let gone = |found| record(node, found).filter(|_| found.gone && !outcome.paused);
    let gone: Vec<Option<Attachment>> = found.iter().map(gone).collect();
    let named = named_ports(request, gone.iter().flatten());
    let mut adopted = Vec::new();
    for (found, record) in found.into_iter().zip(gone) {
        match record.filter(|record| port_of(record).is_some_and(|port| named.contains(&port))) {
            Some(record) => adopted.push(record),
            None => outcome.unrecorded_ports.extend(found.named(node)),
        }
    }
    for record in adopted {
        let why = "its network namespace is gone, and nobody recorded it";
        let (port, key) = (record.port.as_deref().unwrap_or_default(), &record.key);
        if !request.dry_run {
            if let Err(failed) = write_tombstone(request, node, &record) {
                warn!("port {port}: it cannot be written down, the next sweep tries: {failed}");
                continue;
            }
            Often::Dead.say(&format_args!("{key} (port {port}) is dead: {why}"));
        }
        let target = CleanTarget { attachment: record, cause: Cause::Orphan(why.to_owned()) };
        outcome.add(&target);
        targets.push(target);
    }
}

/// Nothing of the dead is deleted without a tombstone.
fn write_tombstone(
    request: &CleanRequest<'_>,
    node: &mut NodeSnapshot,
    record: &Attachment,
) -> Result<(), store::Error> {
    let Some(registry) = request.registry else { return Ok(()) };
    let lock = registry.lock(request.deadline)?;
    lock.put_tombstone(record)?;
    node.version = lock.succeeds(node.version);
    node.tombstones.push(record.clone());
    Ok(())
}

/// The record of a dead pod as its port tells it: when its addresses were freed nobody knows.
/// `None`: its number or its network is not known.
fn record(node: &NodeSnapshot, found: &Found<'_>) -> Option<Attachment> {
    let Found { place, marks, .. } = found;
    let bridge = node.bridge(place.bridge)?;
    place.interface.ofport.number()?;
    let networks = networks_on(node, place.bridge);
    let network: NetworkName = match networks.as_slice() {
        [one] => (*one).clone(),
        _ => return None,
    };
    // ovs-cni's marks name no container; the row's id is nobody else's.
    let container = marks.container_id.as_deref().and_then(|id| id.parse().ok());
    let container = container.or_else(|| format!("row-{}", place.interface.id).parse().ok())?;
    let ifname: IfName = marks.ifname.as_deref().unwrap_or("eth0").parse().ok()?;
    let key = Key { network, container, ifname };
    let mut record = Attachment::new(key, new_generation(), node.boot_id.clone(), node.now);
    (record.unrecorded, record.adopted) = (true, true);
    (record.state, record.died) = (State::Deleting, Some(node.now));
    record.pod = marks.pod_name.clone().map(|name| Pod {
        namespace: marks.pod_namespace.clone().unwrap_or_default(),
        name,
        uid: marks.pod_uid.clone().unwrap_or_default(),
    });
    record.netns = marks.netns.clone().map(Netns::of_path);
    write_port(&mut record, bridge, place.port, place.interface);
    record.ips.clone_from(&marks.ips);
    record.macs = marks.mac.into_iter().collect();
    Some(record)
}

/// A port by its bridge and its number.
type PortOf = (String, u16);

fn port_of(record: &Attachment) -> Option<PortOf> {
    Some((record.bridge.clone()?, record.ofport?))
}

/// The ports of these records that an entry is for packets from, or does nothing but deliver to. A row
/// that nothing names would be adopted for ever: its port stays until somebody removes it.
fn named_ports<'r>(
    request: &CleanRequest<'_>,
    records: impl Iterator<Item = &'r Attachment>,
) -> BTreeSet<PortOf> {
    let mut bridges: BTreeMap<String, Vec<u16>> = BTreeMap::new();
    for (bridge, port) in records.filter_map(port_of) {
        bridges.entry(bridge).or_default().push(port);
    }
    let mut named = BTreeSet::new();
    for (bridge, ports) in bridges {
        match named_on(request, &bridge, &ports) {
            Ok(found) => named.extend(found.into_iter().map(|port| (bridge.clone(), port))),
            Err(failed) => warn!("bridge {bridge}: {failed}"),
        }
    }
    named
}

fn named_on(
    request: &CleanRequest<'_>,
    bridge: &str,
    ports: &[u16],
) -> Result<BTreeSet<u16>, openflow::Error> {
    let (switch, _) = open_table(&request.run_dir, bridge, request.deadline)?;
    let mut table = request.table(bridge, switch);
    let (mut named, mut flow) = (BTreeSet::new(), Flow::default());
    let mut see = |seen: &Seen<'_>| {
        seen.raw.decode(&mut flow)?;
        let delivered = if let [port] = flow.actions.outputs[..] { Some(port) } else { None };
        let both = flow.matches.in_port.into_iter().chain(delivered);
        named.extend(both.filter(|port| ports.contains(port)));
        Ok(())
    };
    if table.prefers_scan(ports.len()) {
        let everything = table.everything()?;
        table.scan(&everything, &mut see)?;
    } else {
        table.query(&[Tokens { ports: ports.to_vec(), ..Tokens::default() }], &mut see)?;
    }
    Ok(named)
}
