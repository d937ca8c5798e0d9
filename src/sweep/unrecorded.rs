//! A DEL without a record: who was it on the switch?
//!
//! openshift/origin and ovs-cni #304: state vanishes, and a DEL that trusts only its state
//! quietly does nothing.

use log::info;

use super::{Target, World};
use crate::ovsdb::{Ofport, Wanted, find_for_delete, marks};

/// Fills an unrecorded target from OVSDB: by container id, or by namespace and interface;
/// never a row that a record claims.
pub(super) fn resolve(world: &World, target: &mut Target) {
    let record = &mut target.attachment;
    if !record.unrecorded || record.interface.is_some() {
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
    info!("{}: no record; its port is {} on {}", record.key, found.port.name, found.bridge.name);
    record.bridge = Some(found.bridge.name.clone());
    record.port = Some(found.interface.name.clone());
    record.interface = Some(found.interface.id);
    record.ofport = match found.interface.ofport {
        Ofport::Number(number) => Some(number),
        Ofport::Unassigned | Ofport::Failed => None,
    };
    if let Some(marks) = marks(found.port, found.interface) {
        record.ips = marks.ips;
        record.macs = marks.mac.into_iter().collect();
    }
}
