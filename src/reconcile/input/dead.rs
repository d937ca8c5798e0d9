//! Who is dead, and what is known of them.

use std::collections::HashMap;
use std::time::Duration;

use super::BridgeView;
use super::addresses::{are_free, ip_evidence, is_virtual_machine, scope_of};
use super::ports::{
    dead_vlans, dead_vlans_before, has_unknown_ofports, number_since, previous_ofports,
};
use super::registers::{is_of_bridge, member, register_now};
use crate::config::AddressScope;
use crate::judge::input::{Dead, NetworkId};
use crate::model::flow::Address;
use crate::reconcile::snapshot::PortLocation;
use crate::reconcile::{Cause, CleanTarget, NodeSnapshot};
use crate::util::clock::{BootTime, Stamp};

/// How long before a sandbox entries for its pod may be made: a controller that knows of the pod
/// need not wait for it.
const AHEAD: Duration = Duration::from_secs(60);

/// When the last of those died who had an address, whether or not they are judged now:
/// whoever had the address before must not take its successors' entries before the linger time of
/// the last is over, too.
pub(super) fn latest_deaths(node: &NodeSnapshot) -> HashMap<Address, Stamp> {
    let mut latest: HashMap<Address, Stamp> = HashMap::new();
    for tombstone in node.tombstones.iter().filter(|t| t.boot_id == node.boot_id) {
        let Some(died) = tombstone.died else { continue };
        for address in tombstone.addresses() {
            let of = latest.entry(address).or_insert(died);
            *of = died.max(*of);
        }
    }
    latest
}

/// A dead attachment. `own`: its port, if it is still there.
pub(super) fn of(
    view: &BridgeView<'_>,
    target: &CleanTarget,
    own: Option<PortLocation<'_>>,
    network: NetworkId,
    latest: &HashMap<Address, Stamp>,
) -> Dead {
    let (node, record) = (view.node, &target.attachment);
    let config = node.config(&record.key.network);
    let died = record.died.unwrap_or(node.now);
    let this_boot = record.boot_id == node.boot_id;
    let lingered = |died: Stamp| died.until(node.now) >= config.linger();
    let addresses = record.addresses();
    let (scope, free) = (scope_of(config, record), node.free.as_ref());
    let ofport = match own {
        Some(place) if place.bridge == view.bridge => {
            place.interface.ofport.number().or(record.ofport)
        }
        Some(_) => None,
        None => record.ofport.filter(|_| record.bridge.as_deref() == view.name()),
    };
    Dead {
        network,
        ofport: ofport.filter(|n| (1..=0xfeff).contains(n)),
        previous_ofports: previous_ofports(view, record, ofport),
        vlans: dead_vlans(record, own),
        vlans_before: dead_vlans_before(record, own),
        unknown_ofports: has_unknown_ofports(record),
        number_since: number_since(node, record, ofport),
        held_number: record.held_number().filter(|_| this_boot).map(BootTime::from),
        interface: own.map(|p| p.interface.id).or_else(|| node.former_row_of(record)),
        lingered: lingered(died)
            && addresses.iter().filter_map(|address| latest.get(address)).all(|of| lingered(*of)),
        addresses,
        register: register_now(config, record, own.map(|p| (p.port, p.interface)))
            .filter(|_| is_of_bridge(config, ofport))
            .map(|r| r.value)
            .filter(|v| *v != 0),
        born: record.born.filter(|_| this_boot).map(BootTime::from),
        earliest: record.earliest().filter(|_| this_boot).map(|at| BootTime::from(at) - AHEAD),
        died: died.into(),
        seen_alive: if this_boot { record.seen_alive } else { died }.into(),
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
