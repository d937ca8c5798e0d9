//! Who may own a token now.

use std::time::Duration;

use super::BridgeView;
use super::ports::{has_unknown_ofports, live_vlans, number_since, previous_ofports};
use super::registers::{external_id, is_of_bridge, learns, member, register_now};
use crate::config::Reg0;
use crate::judge::input::{Live, LiveRegister, NetworkId};
use crate::liveness::netns;
use crate::model::attachment::{ADD_TAKES_MS, Attachment, NetworkName, RegisterHow, State};
use crate::model::flow::Address;
use crate::model::table::Table;
use crate::ovsdb::{Interface, Marks, Ofport, marks};
use crate::reconcile::NodeSnapshot;
use crate::reconcile::snapshot::PortLocation;
use crate::util::clock::{BootTime, Stamp};

/// See [`ADD_TAKES_MS`].
const ADD_TAKES: Duration = Duration::from_millis(ADD_TAKES_MS);

/// A living attachment, whose port is there.
pub(super) fn recorded(
    view: &BridgeView<'_>,
    record: &Attachment,
    place: Option<PortLocation<'_>>,
    network: NetworkId,
    adding: bool,
) -> Live {
    let node = view.node;
    let config = node.config(&record.key.network);
    let here = place.filter(|p| p.bridge == view.bridge);
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
        previous_ofports: previous_ofports(view, record, ofport),
        vlans: live_vlans(record, place),
        unknown_ofports: has_unknown_ofports(record),
        number_since: number_since(node, record, ofport),
        held_number: record.held_number().map(BootTime::from),
        without_port: place.is_none(),
        addresses: record.addresses(),
        addresses_known: !record.ips.is_empty() && !record.macs.is_empty(),
        is_pod: true,
        register,
        born: record.born.map(BootTime::from),
        adding,
        member: member(node, record),
    }
}

/// Whether a record says no more than its port's marks, and the pod's ADD may still be under way:
/// it was adopted without a cached result, and nobody knows its addresses.
pub(super) fn is_unexplained(record: &Attachment, now: Stamp) -> bool {
    let young = |born: &Stamp| born.until(now) <= ADD_TAKES;
    record.adopted && record.addresses().is_empty() && record.born.as_ref().is_some_and(young)
}

/// An interface that no record explains.
pub(super) fn unrecorded_port(
    view: &BridgeView<'_>,
    place: PortLocation<'_>,
    networks: &Table<NetworkId, NetworkName>,
) -> Live {
    let node = view.node;
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
    let known = networks.values().find_map(|name| {
        let config = node.config(name);
        match &config.reg0 {
            Reg0::ExternalId(key) => external_id(config, key, place.port, place.interface),
            _ => None,
        }
    });
    let marked = marks.as_ref().filter(|_| !is_leaving);
    let born = marked.and_then(|marks| arriving(marks, node));
    let may_live = born.is_some() || (marked.is_some() && !has_lost_its_device(place.interface));
    let register = match known {
        Some(register) => LiveRegister::Is(register.value),
        None if may_live => LiveRegister::Untold,
        None => LiveRegister::Absent,
    };
    Live {
        network: None,
        ofport: (place.bridge == view.bridge).then(|| place.interface.ofport.number()).flatten(),
        previous_ofports: Vec::new(),
        vlans: place.port.vlans.clone(),
        unknown_ofports: false,
        number_since: None,
        held_number: None,
        without_port: false,
        addresses,
        addresses_known: false,
        is_pod: marks.is_some(),
        register,
        born: born.map(BootTime::from),
        adding: false,
        member: None,
    }
}

/// When the sandbox came to be that a port is marked with, if that is so short a time ago that its
/// ADD may still be under way.
pub(in crate::reconcile) fn arriving(marks: &Marks, node: &NodeSnapshot) -> Option<Stamp> {
    let born = netns::born(marks.netns.as_deref()?, node.now)?;
    Some(born).filter(|born| born.until(node.now) <= ADD_TAKES)
}

/// Whether the device behind an interface is gone: a dead pod's port that nobody removed. The switch
/// has not seen the device yet of a port without a number. (Only the kernel's devices have an index
/// always.)
pub(in crate::reconcile) fn has_lost_its_device(interface: &Interface) -> bool {
    match interface.ofport {
        Ofport::Failed => true,
        Ofport::Unassigned => false,
        Ofport::Number(_) => interface.kind.is_empty() && interface.ifindex.unwrap_or(0) == 0,
    }
}

/// A dead attachment that is none of the targets and not yet finished: its register value
/// may have been shared with one of them, so it is not that one's own until a sweep has
/// judged them all together. Where an operator says that values are pods' own it was not shared,
/// but given away again.
pub(super) fn unfinished(node: &NodeSnapshot, dead: &Attachment) -> Option<Live> {
    let unfinished = dead.state == State::Deleting && dead.boot_id == node.boot_id;
    let vouched = node.config(&dead.key.network).reg0 == Reg0::Pod;
    let learned = dead.register.filter(|r| unfinished && r.how == RegisterHow::Learned);
    let learned = learned.filter(|_| !vouched)?;
    Some(Live {
        network: None,
        ofport: None,
        previous_ofports: Vec::new(),
        vlans: Vec::new(),
        unknown_ofports: false,
        number_since: None,
        held_number: None,
        without_port: false,
        addresses: Vec::new(),
        addresses_known: true,
        is_pod: false,
        register: LiveRegister::Is(learned.value),
        born: None,
        adding: false,
        member: None,
    })
}
