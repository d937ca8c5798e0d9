//! In which VLAN an address is: 10.0.0.5 in VLAN 100 and in VLAN 200 are two addresses.
//!
//! A port's VLANs are its tag and its trunks, as OVSDB has them, and those that the flows of its
//! number match or set. A port without a tag may send in any VLAN, so of such a port nothing is
//! known until a flow shows it. Whoever is in doubt keeps the entry.

use std::collections::{HashMap, HashSet};

use super::case::{Case, Dead, Live};
use super::flow::Flow;
use super::tokens::{Index, PortState, push_once};

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
    /// By index of `Case::dead`: those that the flows of its port show.
    shown: HashMap<usize, Vec<u16>>,
    /// Those of everybody else's ports.
    others: HashSet<u16>,
    complete: bool,
}

impl Vlans {
    pub(super) fn start(case: &Case, complete: bool) -> Self {
        let others = case.live.iter().flat_map(|live| &live.vlans).copied().collect();
        Self { shown: HashMap::new(), others, complete }
    }

    pub(super) fn see(&mut self, index: &Index<'_>, flow: &Flow) {
        let Some(port) = flow.matches.in_port else { return };
        for vlan in flow.matches.vlan.iter().chain(&flow.actions.vlans) {
            let owners = index.port(port).map_or(&[][..], |owners| &owners.dead);
            let is_own = |i: &&usize| {
                let dead = index.dead(**i).map(|(dead, _)| dead);
                dead.is_some_and(|dead| index.port_state(dead, port, None) == PortState::Dead)
            };
            let mut nobodys = true;
            for i in owners.iter().filter(is_own) {
                push_once(self.shown.entry(*i).or_default(), *vlan);
                nobodys = false;
            }
            if nobodys {
                self.others.insert(*vlan);
            }
        }
    }

    pub(super) fn relation(&self, i: usize, dead: &Dead, flow: &Flow) -> Relation {
        let Some(vlan) = flow.matches.vlan else { return Relation::Own };
        let shown = self.shown.get(&i).map_or(&[][..], Vec::as_slice);
        if dead.vlans.contains(&vlan) || shown.contains(&vlan) {
            Relation::Own
        } else if !dead.vlans.is_empty() || !shown.is_empty() || self.others.contains(&vlan) {
            Relation::Other
        } else if self.complete {
            Relation::Own
        } else {
            Relation::Unknown
        }
    }
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
    let outside = |vlan: u16| !dead.vlans.is_empty() && !dead.vlans.contains(&vlan);
    flow.matches.vlan.is_some_and(outside)
}
