//! In which VLAN an address is: 10.0.0.5 in VLAN 100 and in VLAN 200 are two addresses.
//!
//! A port's VLANs are its tag and its trunks, as OVSDB has them: a flow of its number that names
//! another VLAN guards against hopping, routes or mirrors. A port without a tag is in the VLANs
//! that flows put its packets into, and in those that the flows of its number match or set, but
//! for the tags of other pods' ports. The tag of former days counts as long as no other pod's port
//! has it. While nobody knows whether a port had a tag, nothing is known until a flow shows it.
//! Whoever is in doubt keeps the entry.

use std::collections::{HashMap, HashSet};

use super::input::{Dead, DeadId, JudgeInput, Live};
use super::tokens::{Index, PortState, push_once};
use crate::model::flow::UNTAGGED;
use crate::model::flow::{AddressMatch, Flow, Side};

/// Which VLAN a flow is about, seen from a dead attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    /// Its own, or the flow does not say.
    Own,
    /// Another one, as far as is known.
    Other,
    /// Only part of the bridge was seen, and nothing in it says.
    Unknown,
}

/// What OVSDB and the flows show of VLANs.
#[derive(Debug, Default)]
pub(super) struct Vlans {
    /// Per dead attachment: those that the flows of its port show.
    shown: HashMap<DeadId, Vec<u16>>,
    /// Those of everybody else's ports.
    others: HashSet<u16>,
    /// The tags and trunks of pods' and machines' ports. An uplink's trunks are for everybody.
    tags: HashSet<u16>,
    /// Those that flows put packets into, whichever port these came from.
    put_into: HashSet<u16>,
    /// Such a flow puts them into one that cannot be read.
    put_into_any: bool,
    complete: bool,
}

impl Vlans {
    pub(super) fn start(input: &JudgeInput, complete: bool) -> Self {
        let others = input.live.values().flat_map(|live| &live.vlans).copied().collect();
        let pods = input.live.values().filter(|live| live.is_pod || !live.addresses.is_empty());
        let tags = pods.flat_map(|live| &live.vlans).copied().filter(|v| *v != UNTAGGED).collect();
        Self { others, tags, complete, ..Self::default() }
    }

    pub(super) fn see(&mut self, index: &Index<'_>, flow: &Flow) {
        let Some(port) = flow.matches.in_port else {
            self.put_into.extend(&flow.actions.vlans);
            self.put_into_any |= flow.actions.any_vlan || flow.actions.unread;
            self.see_delivery(index, flow);
            return;
        };
        let drops = flow.actions.outputs.is_empty() && !flow.actions.beyond;
        for vlan in flow.matches.vlan.iter().chain(&flow.actions.vlans) {
            let owners = index.port(port).map_or(&[][..], |owners| &owners.dead);
            let is_own = |i: &&DeadId| {
                let dead = index.dead(**i).map(|(dead, _)| dead);
                dead.is_some_and(|dead| index.port_state(dead, port, None) == PortState::Dead)
            };
            let mut nobodys = true;
            for i in owners.iter().filter(is_own) {
                nobodys = false;
                let tagged = index.dead(*i).is_some_and(|(dead, _)| has_tag(dead));
                if !drops && !tagged && !self.tags.contains(vlan) {
                    push_once(self.shown.entry(*i).or_default(), *vlan);
                }
            }
            if nobodys {
                self.others.insert(*vlan);
            }
        }
    }

    /// A flow that takes packets for a dead attachment's own address to its port shows a VLAN
    /// that the port, if it has no tag, is in, whoever puts packets into it: an uplink's peer, say.
    fn see_delivery(&mut self, index: &Index<'_>, flow: &Flow) {
        let (Some(vlan), [port]) = (flow.matches.vlan, &flow.actions.outputs[..]) else { return };
        let to = |m: &AddressMatch, dead: &Dead| {
            m.side == Side::Destination && dead.addresses.contains(&m.address)
        };
        for i in index.port(*port).map_or(&[][..], |owners| &owners.dead) {
            let Some((dead, _)) = index.dead(*i) else { continue };
            let is_to_dead = flow.matches.addresses.iter().any(|m| to(m, dead));
            if is_to_dead
                && !is_tagged(dead)
                && index.port_state(dead, *port, Some(flow)) == PortState::Dead
            {
                push_once(self.shown.entry(*i).or_default(), vlan);
            }
        }
    }

    /// What the flows of a dead attachment's port show.
    pub(super) fn shown(&self, i: DeadId) -> &[u16] {
        self.shown.get(&i).map_or(&[], Vec::as_slice)
    }

    pub(super) fn relation(&self, i: DeadId, dead: &Dead, vlan: Option<u16>) -> Relation {
        let Some(vlan) = vlan else { return Relation::Own };
        let shown = self.shown(i);
        let before = dead.vlans_before.contains(&vlan) && !self.tags.contains(&vlan);
        if dead.is_in_vlan(vlan) || before || shown.contains(&vlan) {
            Relation::Own
        } else if is_tagged(dead) || !shown.is_empty() || self.others.contains(&vlan) {
            Relation::Other
        } else if !self.complete {
            Relation::Unknown
        } else if dead.vlans.contains(&UNTAGGED) && !self.may_put_into(vlan) {
            Relation::Other
        } else {
            Relation::Own
        }
    }

    /// Whether a packet from any port may come into the VLAN.
    fn may_put_into(&self, vlan: u16) -> bool {
        self.put_into_any || self.put_into.contains(&vlan)
    }
}

/// Whether a dead attachment's VLANs are known.
fn is_tagged(dead: &Dead) -> bool {
    dead.vlans.iter().any(|vlan| *vlan != UNTAGGED)
}

/// Whether OVSDB says a tag or trunks of its port, and has never said that it has none.
fn has_tag(dead: &Dead) -> bool {
    dead.vlans.iter().any(|vlan| dead.is_in_vlan(*vlan)) && !dead.vlans.contains(&UNTAGGED)
}

/// Whether the flow is about the dead attachment's VLAN and certainly not about a live owner's of
/// the same address. Only OVSDB's word counts.
pub(super) fn is_other_owners(dead: &Dead, live: &Live, flow: &Flow) -> bool {
    flow.matches.vlan.is_some_and(|vlan| {
        dead.vlans.contains(&vlan) && !live.vlans.is_empty() && !live.vlans.contains(&vlan)
    })
}

/// Whether OVSDB says that the flow is about another VLAN than the dead attachment's.
pub(super) fn is_elsewhere(dead: &Dead, flow: &Flow) -> bool {
    let outside = |vlan: u16| is_tagged(dead) && !dead.vlans.contains(&vlan);
    flow.matches.vlan.is_some_and(outside)
}
