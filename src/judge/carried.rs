//! Registers in which a pipeline carries the number of the port that a packet is from or for, or
//! that port's VLAN, whatever register the configuration names (Neutron: reg5 and reg6).
//!
//! A field carries one of them if whatever is loaded into it at an in_port is that port's number,
//! or its tag. Nothing else tells a living pod's own value: a mark that all pods get (Antrea), the
//! value of a namespace, a tenant or an endpoint group look like a pod's own once the classifiers
//! of the others are gone, and would keep what the dead one left under it.
//!
//! Another field carries the port that a packet is for (Antrea: reg1): what is loaded into it for a
//! pod's address is the number of that pod's port.

use std::collections::{HashMap, HashSet};

use super::tokens::{Field, Index, RegisterToken};
use crate::model::flow::UNTAGGED;
use crate::model::flow::{Flow, RegisterMatch, Side};

/// A field that holds a port's number has these bits at least, one that holds a VLAN has those.
const PORT_BITS: u32 = 16;
const VLAN_BITS: u32 = 12;

/// More fields than a pipeline has: what comes later is not read.
const MOST_FIELDS: usize = 256;

/// What all loads into a field at an in_port are, as far as they were seen.
#[derive(Clone, Copy, Debug, Default)]
struct Loads {
    /// The number of that port.
    port: Option<bool>,
    /// A VLAN that OVSDB says of that port.
    vlan: Option<bool>,
}

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Carried {
    fields: HashMap<Field, Loads>,
    /// Fields that the number of a pod's port is loaded into for that pod's address. One such load
    /// is enough: a rule that is taken for a living pod's only waits.
    targets: HashSet<Field>,
}

impl Carried {
    pub(super) fn see(&mut self, index: &Index<'_>, flow: &Flow) {
        let Some(port) = flow.matches.in_port else { return self.see_target(index, flow) };
        for write in flow.actions.register_writes.iter().filter(|write| !write.nested) {
            let field = Field { index: write.index, mask: write.mask };
            let number = write.value.map(|value| field.number(value));
            let full = self.fields.len() >= MOST_FIELDS && !self.fields.contains_key(&field);
            if number == Some(0) || write.mask.count_ones() < VLAN_BITS || full {
                continue;
            }
            let loads = self.fields.entry(field).or_default();
            let is_port = number == Some(port.into());
            loads.port = Some(is_port && loads.port != Some(false));
            let is_vlan = loads.vlan != Some(false)
                && number.is_some_and(|number| is_vlan_of(index, port, number));
            loads.vlan = Some(is_vlan);
        }
    }

    fn see_target(&mut self, index: &Index<'_>, flow: &Flow) {
        let Flow { matches, actions, .. } = flow;
        if actions.register_writes.is_empty() {
            return;
        }
        let to = matches.addresses.iter().filter(|m| m.side == Side::Destination);
        let mut ports = Vec::new();
        for owners in to.filter_map(|m| index.address(m.address)) {
            ports.extend(owners.live.iter().filter_map(|l| index.live(*l)?.ofport));
            ports.extend(owners.dead.iter().filter_map(|i| index.dead(*i)?.0.ofport));
        }
        if ports.is_empty() {
            return;
        }
        for write in actions.register_writes.iter().filter(|write| !write.nested) {
            let field = Field { index: write.index, mask: write.mask };
            let number = write.value.map(|value| field.number(value));
            let is_port = number.is_some_and(|n| ports.iter().any(|port| n == u32::from(*port)));
            if is_port && write.mask.count_ones() >= PORT_BITS && self.targets.len() < MOST_FIELDS {
                self.targets.insert(field);
            }
        }
    }

    /// The ports that the packets of a flow are for, by their numbers in registers.
    pub(super) fn targets(&self, flow: &Flow) -> impl Iterator<Item = u16> {
        self.targets.iter().flat_map(|field| {
            let matched = flow.matches.registers.iter().filter_map(|m| field.matched(m));
            matched.filter_map(|token| u16::try_from(field.number(token.value)).ok())
        })
    }

    /// The ports whose numbers a flow matches in registers, and the values.
    pub(super) fn ports(&self, flow: &Flow) -> impl Iterator<Item = (RegisterToken, u16)> {
        let told = self.told(flow, |field, loads| {
            loads.port == Some(true) && field.mask.count_ones() >= PORT_BITS
        });
        told.filter_map(|(token, number)| Some((token, u16::try_from(number).ok()?)))
    }

    /// The VLAN that a flow matches in a register.
    pub(super) fn vlan(&self, flow: &Flow) -> Option<u16> {
        let told = self.told(flow, |_, loads| loads.vlan == Some(true));
        told.filter_map(|(_, number)| u16::try_from(number).ok()).min()
    }

    fn told(
        &self,
        flow: &Flow,
        counts: impl Fn(&Field, &Loads) -> bool,
    ) -> impl Iterator<Item = (RegisterToken, u32)> {
        let fields = self.fields.iter().filter(move |(field, loads)| counts(field, loads));
        fields.flat_map(|(field, _)| {
            let matched = flow.matches.registers.iter().filter_map(|m| field.matched(m));
            matched.map(|token| (token, field.number(token.value)))
        })
    }

    /// The numbers that registers of a flow may tell as a port's, and as a VLAN, once more of the
    /// bridge is seen: nothing was loaded into such a field yet.
    pub(super) fn untold(&self, flow: &Flow) -> impl Iterator<Item = u16> {
        let is_known = |m: &&RegisterMatch| {
            let of = |field: &Field| field.matched(m).is_some();
            m.mask.count_ones() < VLAN_BITS || self.fields.keys().any(of)
        };
        let matched = flow.matches.registers.iter().filter(move |m| !is_known(m));
        matched.filter_map(|m| {
            u16::try_from(Field { index: m.index, mask: m.mask }.number(m.value)).ok()
        })
    }
}

fn is_vlan_of(index: &Index<'_>, port: u16, number: u32) -> bool {
    let Some(owners) = index.port(port) else { return false };
    let live = owners.live.iter().filter_map(|l| index.live(*l)).map(|live| &live.vlans);
    let dead = owners.dead.iter().filter_map(|i| index.dead(*i)).map(|(dead, _)| &dead.vlans);
    live.chain(dead).flatten().any(|vlan| *vlan != UNTAGGED && u32::from(*vlan) == number)
}
