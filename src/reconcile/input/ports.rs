//! Numbers and VLANs of ports, and which bridges are joined.

use std::collections::BTreeSet;

use super::{BridgeInput, BridgeView};
use crate::judge::input::Ports;
use crate::model::attachment::Attachment;
use crate::model::flow::UNTAGGED;
use crate::model::row::RowId;
use crate::ovsdb::Ofport;
use crate::reconcile::NodeSnapshot;
use crate::reconcile::snapshot::{BridgeId, PortLocation};
use crate::util::clock::BootTime;

/// The row of a port that OpenFlow knows and OVSDB does not (yet, or any more).
const UNKNOWN_ROW: RowId = RowId(0);

impl BridgeInput {
    /// Checks OVSDB's numbers against what the bridge itself says, as it is asked or as its copy
    /// follows it. A number under another name means that OVSDB's word is not yet carried
    /// out: no port is evidence then.
    pub fn check_ports(
        &mut self,
        node: &NodeSnapshot,
        bridge: BridgeId,
        described: &[(u16, String)],
    ) {
        for (number, name) in described {
            match node.numbered(bridge, *number) {
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
pub(in crate::reconcile) fn joined_with(
    node: &NodeSnapshot,
    bridge: BridgeId,
) -> BTreeSet<BridgeId> {
    let mut joined = BTreeSet::from([bridge]);
    let mut join = |group: BTreeSet<BridgeId>| {
        if group.contains(&bridge) {
            joined.extend(group);
        }
    };
    for group in node.ovs.joined() {
        join(group.into_iter().map(BridgeId).collect());
    }
    for state in node.networks.values() {
        let names = state.config.bridges.iter();
        join(names.filter_map(|name| node.bridge_named(name)).collect());
    }
    joined
}

/// OVSDB's word on a bridge's numbers.
pub(super) fn of(view: &BridgeView<'_>) -> Ports {
    let mut ports = Ports::default();
    let mut numbers = Vec::new();
    for place in view.node.places().filter(|place| place.bridge == view.bridge) {
        ports.requested.extend(place.interface.ofport_request);
        match place.interface.ofport {
            Ofport::Number(number) => {
                numbers.push((number, place.interface.id));
            }
            Ofport::Unassigned => ports.unassigned = true,
            Ofport::Failed => {}
        }
    }
    // All at once: that is quicker than one after the other.
    ports.by_number = numbers.into_iter().collect();
    ports
}

/// The VLANs that a live attachment's port is in, now or before. A port without a tag, or one that
/// is not there, may be in any.
pub(super) fn live_vlans(record: &Attachment, place: Option<PortLocation<'_>>) -> Vec<u16> {
    let now = place.map(|place| place.port.vlans.clone()).unwrap_or_default();
    if now.is_empty() { now } else { [now, record.vlans.clone()].concat() }
}

/// The VLANs that a dead attachment's port is known to have been in.
pub(super) fn dead_vlans(record: &Attachment, own: Option<PortLocation<'_>>) -> Vec<u16> {
    let now = own.map(|place| place.port.vlans.as_slice());
    let untagged = now.is_some_and(<[u16]>::is_empty).then_some(UNTAGGED);
    let now = now.unwrap_or_default().iter().copied();
    now.chain(untagged).chain(record.vlans.iter().copied()).collect()
}

/// Those of them that its port was not in when it was last seen.
pub(super) fn dead_vlans_before(record: &Attachment, own: Option<PortLocation<'_>>) -> Vec<u16> {
    let Some(place) = own else { return record.vlans_before.clone() };
    let now = &place.port.vlans;
    let known = record.vlans.iter().copied();
    known.filter(|vlan| *vlan != UNTAGGED && !now.contains(vlan)).collect()
}

/// The numbers that an attachment had on a bridge, by its record, and has not now.
pub(super) fn previous_ofports(
    view: &BridgeView<'_>,
    record: &Attachment,
    now: Option<u16>,
) -> Vec<u16> {
    let had = [record.ofport, record.ofport_before];
    let mut previous_ofports: Vec<u16> =
        had.into_iter().flatten().filter(|n| now != Some(*n)).collect();
    previous_ofports.dedup();
    if record.bridge.as_deref() == view.name() { previous_ofports } else { Vec::new() }
}

/// Whether an attachment may have had numbers that its record does not know: it was adopted, and has
/// its number of now not since its birth.
pub(super) fn has_unknown_ofports(record: &Attachment) -> bool {
    record.adopted && record.ofport_since.is_some()
}

/// Since when an attachment has had its number of now, at the latest.
pub(super) fn number_since(
    node: &NodeSnapshot,
    record: &Attachment,
    now: Option<u16>,
) -> Option<BootTime> {
    let since = match record.ofport {
        same if same == now => record.ofport_since?,
        _ => node.number_changed(record),
    };
    Some(since.into())
}
