//! Rows of OVSDB that an OVS CNI has marked and that nobody recorded: a runtime was killed
//! during its ADD, so our ADD never came, and neither will a DEL.
//!
//! Guarantee: such a row's pod counts as dead only if two things show it: its device is gone,
//! and its namespace is not in a directory in which a living pod's namespace is seen.

use log::{info, warn};
use serde::Serialize;

use super::scene::arriving;
use super::unowned_ports::networks_on;
use super::world::Place;
use super::{Cause, Engine, Report, Target, World, open_bridge};
use crate::attachment::{Attachment, IfName, Key, Netns, NetworkName, Pod, State};
use crate::liveness::netns::Directories;
use crate::openflow::{self, Filter};
use crate::ovsdb::{Marks, Ofport, marks};
use crate::registry::{self, new_generation};

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
    place: Place<'w>,
    marks: Marks,
    gone: bool,
}

/// All of them. A sandbox that is younger than two minutes may still be arriving: its port is
/// not among them.
#[must_use]
pub fn unrecorded_ports(world: &World) -> Vec<UnrecordedPort> {
    find(world).iter().filter_map(|found| found.named(world)).collect()
}

impl Found<'_> {
    fn named(&self, world: &World) -> Option<UnrecordedPort> {
        let bridge = world.ovs.bridges.get(self.place.bridge)?.name.clone();
        let port = self.place.interface.name.clone();
        Some(UnrecordedPort { bridge, port, cni: self.marks.cni, gone: self.gone })
    }
}

fn find(world: &World) -> Vec<Found<'_>> {
    let known = world.recorded_rows();
    let mut found = Vec::new();
    let mut directories = None;
    for place in world.places().filter(|p| p.port.interfaces.len() == 1) {
        let ovn = world.ovs.bridges.get(place.bridge).is_none_or(|b| world.ovs.is_ovn(b));
        if ovn || known.contains(&place.interface.id) {
            continue;
        }
        let Some(marks) = marks(place.port, place.interface) else { continue };
        if marks.is_machine() || arriving(&marks, world).is_some() {
            continue;
        }
        let no_device = place.interface.ofport == Ofport::Failed
            || place.interface.ifindex.unwrap_or_default() == 0;
        let gone = no_device
            && marks.netns.as_ref().is_some_and(|netns| {
                directories
                    .get_or_insert_with(|| Directories::of(&world.records, &world.boot_id))
                    .lack(netns)
            });
        found.push(Found { place, marks, gone });
    }
    found
}

/// Makes those whose pod is gone targets like any other orphan, as far as an entry names their
/// number. The report names the others.
pub(super) fn adopt(
    engine: &Engine<'_>,
    world: &mut World,
    targets: &mut Vec<Target>,
    report: &mut Report,
) {
    if !engine.thorough {
        return;
    }
    let mut adopted = Vec::new();
    for found in find(world) {
        let record = record(world, &found).filter(|_| found.gone && !report.paused);
        match record.filter(|record| is_named(engine, record)) {
            Some(record) => adopted.push(record),
            None => report.unrecorded_ports.extend(found.named(world)),
        }
    }
    for record in adopted {
        let why = "its network namespace is gone, and nobody recorded it";
        let (port, key) = (record.port.as_deref().unwrap_or_default(), &record.key);
        if engine.act {
            if let Err(failed) = bury(engine, world, &record) {
                warn!("port {port}: it cannot be written down, the next sweep tries: {failed}");
                continue;
            }
            info!("{key} (port {port}) is dead: {why}");
        }
        let target = Target { attachment: record, cause: Cause::Orphan(why.to_owned()) };
        report.add(&target);
        targets.push(target);
    }
}

/// Nothing of the dead is deleted without a tombstone.
fn bury(
    engine: &Engine<'_>,
    world: &mut World,
    record: &Attachment,
) -> Result<(), registry::Error> {
    let Some(registry) = engine.registry else { return Ok(()) };
    let lock = registry.lock(engine.deadline)?;
    lock.put_tombstone(record)?;
    world.version = lock.succeeds(world.version);
    world.tombstones.push(record.clone());
    Ok(())
}

/// The record of a dead pod as its port tells it: when its addresses were freed nobody knows.
/// `None`: its number or its network is not known.
fn record(world: &World, found: &Found<'_>) -> Option<Attachment> {
    let Found { place, marks, .. } = found;
    let bridge = world.ovs.bridges.get(place.bridge)?;
    let ofport = place.interface.ofport.number()?;
    let networks = networks_on(world, place.bridge);
    let network: NetworkName = match networks.as_slice() {
        [one] => (*one).clone(),
        _ => return None,
    };
    // ovs-cni's marks name no container; the row's id is nobody else's.
    let container = marks.container_id.as_deref().and_then(|id| id.parse().ok());
    let container = container.or_else(|| format!("row-{}", place.interface.id).parse().ok())?;
    let ifname: IfName = marks.ifname.as_deref().unwrap_or("eth0").parse().ok()?;
    let key = Key { network, container, ifname };
    let mut record = Attachment::new(key, new_generation(), world.boot_id.clone(), world.now);
    (record.unrecorded, record.adopted) = (true, true);
    (record.state, record.died) = (State::Deleting, Some(world.now));
    record.pod = marks.pod_name.clone().map(|name| Pod {
        namespace: marks.pod_namespace.clone().unwrap_or_default(),
        name,
        uid: marks.pod_uid.clone().unwrap_or_default(),
    });
    record.netns = marks.netns.clone().map(Netns::of_path);
    record.bridge = Some(bridge.name.clone());
    record.port = Some(place.interface.name.clone());
    (record.interface, record.ofport) = (Some(place.interface.id), Some(ofport));
    record.ips.clone_from(&marks.ips);
    record.macs = marks.mac.into_iter().collect();
    Some(record)
}

/// Whether an entry is for packets from its number, or does nothing but deliver to it. A row
/// that nothing names would be adopted for ever: its port stays until somebody removes it.
fn is_named(engine: &Engine<'_>, record: &Attachment) -> bool {
    let (Some(ofport), Some(bridge)) = (record.ofport, &record.bridge) else { return false };
    let look = || -> Result<bool, openflow::Error> {
        let mut connection = open_bridge(&engine.run_dir, bridge, engine.deadline)?;
        let mut named = false;
        let filters = [Filter::in_port(ofport), Filter::out_port(ofport)];
        connection.dump_many(&filters, &mut |filter, _, flow| {
            named |= filter == 0 || flow.actions.outputs == [ofport];
        })?;
        Ok(named)
    };
    look().unwrap_or_else(|failed| {
        warn!("bridge {bridge}: {failed}");
        false
    })
}
