//! A DEL without a record, and a record without a port: who is it on the switch?
//!
//! openshift/origin and ovs-cni #304: state vanishes, and a DEL that trusts only its state
//! quietly does nothing. A record has no port if OVSDB was away at ADD.

use log::{info, warn};

use super::{Engine, Target, World};
use crate::attachment::Attachment;
use crate::ovsdb::{Ofport, Wanted, find_for_delete, marks};

/// Fills a target whose port nobody recorded from OVSDB.
pub(super) fn resolve(world: &World, target: &mut Target) {
    find(world, &mut target.attachment);
}

/// By container id, or by namespace and interface; never a row that a record claims.
fn find(world: &World, record: &mut Attachment) {
    if record.interface.is_some() || record.port.is_some() {
        return;
    }
    let claimed: Vec<_> =
        world.records.iter().filter_map(|r| world.place_of(r)).map(|p| p.interface.id).collect();
    let wanted = Wanted {
        container_id: record.key.container.as_str(),
        ifname: record.key.ifname.as_str(),
        netns: record.netns.as_ref().map(|n| n.path.as_str()).filter(|path| !path.is_empty()),
        pod: None,
        host_interfaces: Vec::new(),
        macs: &[],
        bridge: None,
    };
    let Some(found) =
        find_for_delete(&world.ovs, &wanted, |interface| claimed.contains(&interface.id))
    else {
        return;
    };
    info!("{}: no port recorded; it is {} on {}", record.key, found.port.name, found.bridge.name);
    record.bridge = Some(found.bridge.name.clone());
    record.port = Some(found.interface.name.clone());
    record.interface = Some(found.interface.id);
    record.ofport = match found.interface.ofport {
        Ofport::Number(number) => Some(number),
        Ofport::Unassigned | Ofport::Failed => None,
    };
    if let (true, Some(marks)) = (record.unrecorded, marks(found.port, found.interface)) {
        record.ips = marks.ips;
        record.macs = marks.mac.into_iter().collect();
    }
}

/// Keeps the records of the living as OVSDB has them now: a port that ADD could not see, and a
/// number that the switch has changed since. An end that comes when the row is gone must know.
pub(super) fn refresh(engine: &Engine<'_>, world: &mut World) {
    let (Some(registry), true) = (engine.registry, engine.act) else { return };
    let mut changed = Vec::new();
    for (index, old) in world.records.iter().enumerate() {
        let mut record = old.clone();
        find(world, &mut record);
        let row = record.interface.and_then(|id| world.row(id));
        let now = row.and_then(|place| place.interface.ofport.number());
        if now.is_some() && now != record.ofport {
            record.ofport_before = record.ofport.or(record.ofport_before);
            record.ofport = now;
        }
        if record != *old {
            changed.push((index, record));
        }
    }
    if changed.is_empty() {
        return;
    }
    let written = registry.lock(engine.deadline).and_then(|lock| {
        for (_, new) in &changed {
            lock.update(new, |record| {
                record.bridge.clone_from(&new.bridge);
                record.port.clone_from(&new.port);
                record.interface = new.interface;
                record.ofport = new.ofport;
                record.ofport_before = new.ofport_before;
            })?;
        }
        Ok(lock.succeeds(world.version))
    });
    world.version = written.unwrap_or_else(|failed| {
        warn!("could not write down which ports the living have now: {failed}");
        None
    });
    for (index, new) in changed {
        if let Some(record) = world.records.get_mut(index) {
            *record = new;
        }
    }
}
