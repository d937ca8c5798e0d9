//! Rows of OVSDB that nobody has: a reboot takes every pod and every record away, and the
//! database keeps their ports, each in error because its device is gone.
//!
//! Guarantee: a row goes only if two things show that its pod is gone: the switch says that the
//! device is not there, and the sandbox that the row is marked with is not in a directory in
//! which a living pod's sandbox is seen. Neither a record nor a tombstone may name it.

use std::collections::BTreeSet;

use log::{info, warn};

use super::outcome::TargetId;
use super::snapshot::{BridgeId, PortLocation};
use super::{Cause, CleanRequest, CleanTarget, NodeSnapshot, Outcome, Thorough};
use crate::config::Mode;
use crate::liveness::netns::Directories;
use crate::model::attachment::NetworkName;
use crate::ovsdb::{Client, Ofport, marks};

/// Removes orphans' OVSDB ports whose netdev is gone, where the network wants it.
pub(super) fn reap_of_the_dead(
    request: &CleanRequest<'_>,
    node: &NodeSnapshot,
    client: &mut Client,
    targets: &[CleanTarget],
    outcome: &mut Outcome,
) {
    for (id, target) in TargetId::each(targets) {
        let record = &target.attachment;
        let config = node.config(&record.key.network);
        // DEL leaves the port to the OVS plugin, whose DEL comes right behind.
        let wanted = config.reap_ports
            && config.mode == Mode::Enforce
            && !request.dry_run
            && !outcome.paused;
        let failed = outcome.target(id).is_none_or(|t| t.error.is_some());
        if !wanted || failed || target.cause == Cause::Del {
            continue;
        }
        // Also one that is found by its name and marks may be somebody's who lives.
        let living = node.records.iter().filter(|r| !r.is_same(record));
        let claimed = living.filter_map(|r| node.place_of(r)).map(|p| p.interface.id).collect();
        let Some(place) = node.own_place_of(record, &claimed) else { continue };
        let Some(bridge) = node.bridge(place.bridge) else { continue };
        let netdev_gone = matches!(place.interface.ofport, Ofport::Failed)
            || place.interface.ifindex.unwrap_or(0) == 0;
        if !netdev_gone || node.ovs.is_ovn(bridge) {
            continue;
        }
        match client.remove_port(bridge.id, place.port) {
            Ok(()) => {
                info!("{}: removed port {} of {}", bridge.name, place.port.name, record.title());
                outcome.note(format!("removed port {} from {}", place.port.name, bridge.name));
            }
            Err(failed) => outcome.note(format!("port {} stays: {failed}", place.port.name)),
        }
    }
}

/// Removes such rows of the bridges whose networks want it (`reapPorts`).
pub(super) fn reap(
    request: &CleanRequest<'_>,
    node: &NodeSnapshot,
    client: &mut Client,
    outcome: &mut Outcome,
) {
    if request.thorough == Thorough::None || outcome.paused {
        return;
    }
    let wanted: BTreeSet<BridgeId> =
        node.bridge_ids().filter(|bridge| is_wanted(node, *bridge)).collect();
    if wanted.is_empty() {
        return;
    }
    let directories = Directories::of(&node.records, &node.boot_id);
    let known = node.recorded_rows();
    for place in node.places() {
        let Some(bridge) = node.bridge(place.bridge) else { continue };
        if !wanted.contains(&place.bridge)
            || known.contains(&place.interface.id)
            || !has_lost_its_device(&place)
        {
            continue;
        }
        let marks = marks(place.port, place.interface);
        let Some(netns) = marks.and_then(|marks| marks.netns) else { continue };
        if !directories.lack(&netns) {
            continue;
        }
        let (port, name) = (&place.port.name, &bridge.name);
        if request.dry_run {
            outcome.note(format!("would remove port {port} from {name}: its sandbox is gone"));
            continue;
        }
        match client.remove_port(bridge.id, place.port) {
            Ok(()) => {
                info!("{name}: removed port {port}: its sandbox ({netns}) and its device are gone");
                outcome.note(format!("removed port {port} from {name}: its sandbox is gone"));
            }
            Err(failed) => {
                warn!("{name}: port {port} stays: {failed}");
                outcome.note(format!("port {port} stays: {failed}"));
            }
        }
    }
}

/// Whether every network that is known to have pods on the bridge wants ports removed: nobody
/// can tell whose a row was that no record names.
fn is_wanted(node: &NodeSnapshot, bridge: BridgeId) -> bool {
    let ovn = node.bridge(bridge).is_none_or(|b| node.ovs.is_ovn(b));
    let networks = networks_on(node, bridge);
    let wants = |network: &&NetworkName| {
        let config = node.config(network);
        config.reap_ports && config.mode == Mode::Enforce
    };
    !ovn && !networks.is_empty() && networks.iter().all(wants)
}

/// The networks that are known to have pods on the bridge, by configuration or record.
pub(super) fn networks_on(node: &NodeSnapshot, bridge: BridgeId) -> Vec<&NetworkName> {
    let Some(of) = node.bridge(bridge) else { return Vec::new() };
    let has_pods = |network: &NetworkName| {
        let mut its = node.records.iter().filter(|record| record.key.network == *network);
        its.any(|record| node.bridges_of(record).contains(&bridge))
    };
    let is_on = |network: &&NetworkName| {
        let config = node.config(network);
        let named = config.bridge.as_ref() == Some(&of.name) || config.bridges.contains(&of.name);
        named || has_pods(network)
    };
    node.networks.keys().filter(is_on).collect()
}

/// Whether the switch says that there is no such device. Another error may pass.
fn has_lost_its_device(place: &PortLocation<'_>) -> bool {
    let interface = place.interface;
    let no_device = interface.error.as_ref().is_some_and(|error| error.contains("No such device"));
    let alone = place.port.interfaces.len() == 1;
    alone && no_device && interface.ofport == Ofport::Failed && interface.ifindex.unwrap_or(0) == 0
}
