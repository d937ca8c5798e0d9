//! A DEL without a record, and a record without a port: who is it on the switch?
//!
//! openshift/origin and ovs-cni #304: state vanishes, and a DEL that trusts only its state
//! quietly does nothing. A record has no port if OVSDB was away at ADD.

use std::collections::HashSet;

use foldhash::HashMap;
use log::{info, warn};

use super::snapshot::{PortLocation, device_of};
use super::{Cause, CleanRequest, CleanTarget, NodeSnapshot};
use crate::model::attachment::{Attachment, Key};
use crate::model::flow::Address;
use crate::model::row::RowSet;
use crate::ovsdb::{Wanted, find_for_delete, marks, write_port};
use crate::store::KnownFiles;
use crate::util::clock::Stamp;

/// Fills targets whose port nobody recorded from OVSDB, and those whose port was attached anew
/// since it was recorded: their tombstones must know its row, its number and its VLANs when it is
/// gone.
pub(super) fn resolve(node: &NodeSnapshot, targets: &mut [CleanTarget]) {
    for CleanTarget { attachment, cause } in targets.iter_mut() {
        find(node, attachment);
        if *cause == Cause::Del && attachment.unrecorded && attachment.interface.is_none() {
            let (key, pod) = (&attachment.key, attachment.title());
            info!("{key}: DEL without a record of {pod}: no port has a CNI's marks of it");
        }
    }
    let place_of = |target: &CleanTarget| match target.cause {
        Cause::Del => node.certain_place_of(&target.attachment),
        _ => node.own_place_of(&target.attachment, &RowSet::default()),
    };
    let is_recorded =
        |t: &CleanTarget, p: &PortLocation<'_>| t.attachment.interface == Some(p.interface.id);
    for target in targets.iter_mut() {
        if let Some(place) = place_of(target).filter(|place| is_recorded(target, place)) {
            target.attachment.see_port_vlans(&place.port.vlans);
        }
    }
    let another =
        |target: &CleanTarget| place_of(target).filter(|place| !is_recorded(target, place));
    if !targets.iter().any(|target| another(target).is_some()) {
        return;
    }
    let claimed = claimed(node, targets);
    for target in targets {
        if let Some(place) = another(target).filter(|p| !claimed.contains(&p.interface.id)) {
            renew(node, &mut target.attachment, place);
        }
    }
}

/// The rows that the living have.
fn claimed(node: &NodeSnapshot, targets: &[CleanTarget]) -> RowSet {
    let dead: HashSet<(&Key, u64)> =
        targets.iter().map(|t| (&t.attachment.key, t.attachment.generation)).collect();
    let living = node.records.iter().filter(|r| !dead.contains(&(&r.key, r.generation)));
    living.filter_map(|r| node.place_of(r)).map(|place| place.interface.id).collect()
}

/// Writes down where a port is now. A number that it had on this bridge stays known.
fn renew(node: &NodeSnapshot, record: &mut Attachment, place: PortLocation<'_>) {
    let bridge = node.bridge(place.bridge).map(|bridge| &bridge.name);
    if record.bridge.as_ref() != bridge {
        (record.ofport, record.ofport_before) = (None, None);
        record.ofport_since = None;
    }
    record.bridge = bridge.cloned();
    if record.interface.is_some_and(|row| row != place.interface.id) {
        record.attached = Some(node.now);
    }
    record.interface = Some(place.interface.id);
    record.see_port_vlans(&place.port.vlans);
    record.device = device_of(place.interface).or(record.device);
    let now = place.interface.ofport.number();
    if now.is_some() && now != record.ofport {
        record.ofport_since = Some(node.number_changed(record));
        record.ofport_before = record.ofport.or(record.ofport_before);
        record.ofport = now;
    }
}

/// By container id, or by namespace and interface; never a row that a record claims.
fn find(node: &NodeSnapshot, record: &mut Attachment) {
    if record.interface.is_some() || record.port.is_some() {
        return;
    }
    let claimed: Vec<_> =
        node.records.iter().filter_map(|r| node.place_of(r)).map(|p| p.interface.id).collect();
    let netns = record.netns.as_ref().map(|netns| netns.path.as_str());
    let wanted = Wanted::of_key(&record.key, netns);
    let Some(found) =
        find_for_delete(&node.ovs, &wanted, |interface| claimed.contains(&interface.id))
    else {
        return;
    };
    info!("{}: no port recorded; it is {} on {}", record.key, found.port.name, found.bridge.name);
    write_port(record, found.bridge, found.port, found.interface);
    if let (true, Some(marks)) = (record.unrecorded, marks(found.port, found.interface)) {
        record.ips = marks.ips;
        record.macs = marks.mac.into_iter().collect();
    }
}

/// What the dead may have left to those who have a token of theirs now. While somebody alive has
/// the token nothing of it is deleted, and the dead one's tombstone does not last as long: the
/// entries go with the successor, though they are older than it is.
#[derive(Debug, Default)]
pub struct Predecessors {
    /// Per number and bridge: when the first came to be who had it.
    ports: HashMap<u16, HashMap<String, Stamp>>,
    addresses: HashMap<Address, Stamp>,
    dead: Vec<(Key, u64)>,
}

impl Predecessors {
    /// Of these dead.
    #[must_use]
    pub fn of(node: &NodeSnapshot, targets: &[CleanTarget]) -> Self {
        let mut predecessors = Self::default();
        let dead = targets.iter().map(|target| &target.attachment);
        for dead in dead.filter(|dead| dead.boot_id == node.boot_id) {
            predecessors.dead.push((dead.key.clone(), dead.generation));
            let Some(first) = dead.earliest() else { continue };
            let earlier = |known: &mut Stamp| *known = first.min(*known);
            for port in dead.ofport.into_iter().chain(dead.ofport_before) {
                let Some(bridge) = dead.bridge.clone() else { continue };
                let of_number = predecessors.ports.entry(port).or_default();
                of_number.entry(bridge).and_modify(earlier).or_insert(first);
            }
            for address in dead.addresses() {
                predecessors.addresses.entry(address).and_modify(earlier).or_insert(first);
            }
        }
        predecessors
    }

    /// When the first of them came to be who had one of this living attachment's tokens, if that
    /// was before itself.
    #[must_use]
    pub fn first(&self, live: &Attachment) -> Option<Stamp> {
        if self.ports.is_empty() && self.addresses.is_empty() {
            return None;
        }
        let own = live.earliest()?;
        let is_dead =
            |(key, generation): &(Key, u64)| (key, generation) == (&live.key, &live.generation);
        let of_number = live.ofport.and_then(|port| self.ports.get(&port));
        let port =
            of_number.zip(live.bridge.as_ref()).and_then(|(known, bridge)| known.get(bridge));
        let ips = live.ips.iter().copied().map(Address::Ip);
        let addresses = ips.chain(live.macs.iter().copied().map(Address::Mac));
        let addresses = addresses.filter_map(|address| self.addresses.get(&address));
        let first = port.into_iter().chain(addresses).min().copied()?;
        Some(first).filter(|first| *first < own && !self.dead.iter().any(is_dead))
    }
}

/// Whether a record says of its port what OVSDB does, and from when on entries may be its own.
fn is_current(node: &NodeSnapshot, record: &Attachment, first: Option<Stamp>) -> bool {
    let is_found = record.interface.is_some() || record.port.is_some();
    let as_it_is = |place: &PortLocation<'_>| {
        let (number, device) = (place.interface.ofport.number(), device_of(place.interface));
        record.bridge.as_ref() == node.bridge(place.bridge).map(|bridge| &bridge.name)
            && record.interface == Some(place.interface.id)
            && record.has_seen_port_vlans(&place.port.vlans)
            && (device.is_none() || device == record.device)
            && (number.is_none() || number == record.ofport)
    };
    is_found
        && (first.is_none() || first == record.inherits)
        // Mostly: then nobody need ask whether the row may be another's.
        && (node.recorded_row_of(record).is_some_and(|place| as_it_is(&place))
            || node.certain_place_of(record).is_none_or(|place| as_it_is(&place)))
}

/// Keeps the records of the living as OVSDB has them now: a port that ADD could not see, one that
/// was attached anew, and a number that the switch has changed since. If the row is gone when the
/// pod dies, the record must already have its number.
pub(super) fn refresh(
    request: &CleanRequest<'_>,
    node: &mut NodeSnapshot,
    targets: &[CleanTarget],
) {
    let (Some(registry), true) = (request.registry, !request.dry_run) else { return };
    let predecessors = Predecessors::of(node, targets);
    let mut changed = Vec::new();
    for (index, old) in node.records.iter().enumerate() {
        if is_current(node, old, predecessors.first(old)) {
            continue;
        }
        let mut record = old.clone();
        find(node, &mut record);
        if let Some(place) = node.certain_place_of(&record) {
            renew(node, &mut record, place);
        }
        if let Some(first) = predecessors.first(&record) {
            record.inherits = Some(first);
        }
        if record != *old {
            changed.push((index, record));
        }
    }
    if changed.is_empty() {
        return;
    }
    let written = registry.lock(request.deadline).and_then(|lock| {
        for (_, new) in &changed {
            lock.update(new, |record| {
                record.bridge.clone_from(&new.bridge);
                record.port.clone_from(&new.port);
                record.interface = new.interface;
                record.see_vlans(&new.vlans);
                record.vlans_before.clone_from(&new.vlans_before);
                record.ofport = new.ofport;
                record.ofport_before = new.ofport_before;
                record.ofport_since = new.ofport_since;
                record.attached = new.attached;
                record.device = new.device;
                record.inherits = new.inherits;
            })?;
        }
        Ok(lock.succeeds(node.version))
    });
    node.version = written.unwrap_or_else(|failed| {
        warn!("could not write down which ports the living have now: {failed}");
        // The files do not say what is known here.
        node.files = KnownFiles::default();
        None
    });
    for (index, new) in changed {
        node.records.replace(index, new);
    }
}
