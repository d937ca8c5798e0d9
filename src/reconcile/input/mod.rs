//! From a node's snapshot to what the judge is told about one bridge.
//!
//! | file | question |
//! | --- | --- |
//! | `live` | who may own a token now, with a record or without |
//! | `dead` | who is dead, and what is known of them |
//! | `addresses` | where a dead attachment's addresses may be now |
//! | `ports` | numbers, VLANs, and which bridges are joined |
//! | `networks` | each network's rules |
//! | `registers` | an attachment's register value |

use std::collections::{BTreeSet, HashMap};

use super::merge::is_one_sandbox;
use super::snapshot::BridgeId;
use super::{CleanTarget, NodeSnapshot, TargetId};
use crate::judge::input::{DeadId, JudgeInput, Live, LiveId, NetworkId};
use crate::model::attachment::{Key, NetworkName};
use crate::model::row::RowSet;
use crate::model::table::Table;
use crate::util::clock::BootTime;

mod addresses;
mod dead;
mod live;
mod networks;
mod ports;
mod registers;

pub use addresses::in_question;
pub(super) use live::{arriving, has_lost_its_device};
pub(super) use ports::joined_with;
pub(crate) use registers::lacks_value;
pub use registers::register_of;
pub(super) use registers::{learns, register_now};

/// What the judge is told, and whom its ids stand for.
#[derive(Debug, Default)]
pub struct BridgeInput {
    /// What the judge is told.
    pub facts: JudgeInput,
    /// The targets that `facts.dead` are.
    pub targets: Table<DeadId, DeadTarget>,
    /// The records of `facts.live`.
    pub records: Table<LiveId, Option<RecordId>>,
    /// The names of `facts.networks`.
    pub networks: Table<NetworkId, NetworkName>,
}

/// The target that a dead attachment is.
#[derive(Clone, Copy, Debug)]
pub struct DeadTarget {
    /// Its place among the targets.
    pub id: TargetId,
    /// It may be found out later that nobody has its addresses.
    pub may_be_freed: bool,
}

/// An index into [`NodeSnapshot::records`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId(pub usize);

impl RecordId {
    /// Its record.
    #[must_use]
    pub fn of(self, node: &NodeSnapshot) -> Option<&crate::model::attachment::Attachment> {
        node.records.get(self.0)
    }
}

/// A bridge of a node, and those that are joined to it.
struct BridgeView<'n> {
    node: &'n NodeSnapshot,
    bridge: BridgeId,
    joined: BTreeSet<BridgeId>,
}

impl BridgeView<'_> {
    fn name(&self) -> Option<&str> {
        self.node.bridge(self.bridge).map(|bridge| bridge.name.as_str())
    }
}

impl BridgeInput {
    /// What is known about a bridge. `adding` is the attachment that is being ADDed.
    #[must_use]
    pub fn build(
        node: &NodeSnapshot,
        bridge: BridgeId,
        targets: &[CleanTarget],
        adding: Option<&Key>,
    ) -> Self {
        let view = BridgeView { node, bridge, joined: joined_with(node, bridge) };
        let mut input = Self::default();
        input.facts.ports = ports::of(&view);
        input.facts.now = node.now.into();
        input.facts.switch_started = node.switch_started.map(BootTime::from);
        input.facts.ovn = node.bridge(bridge).is_some_and(|bridge| node.ovs.is_ovn(bridge));
        // The living first: a row that one of them claims is nobody else's.
        let mut claimed = input.add_living(&view, targets, adding);
        input.add_dead(&view, targets, &mut claimed);
        input.heed_machines(node, targets);
        input.add_unrecorded(&view, &claimed);
        input.add_unfinished(&view, targets);
        input
    }

    /// The target that a dead attachment is.
    #[must_use]
    pub fn target(&self, dead: DeadId) -> Option<TargetId> {
        self.targets.get(dead).map(|target| target.id)
    }

    /// The record of somebody alive.
    #[must_use]
    pub fn record(&self, live: LiveId) -> Option<RecordId> {
        self.records.get(live).copied().flatten()
    }

    /// Adds the living with a record. The rows that they claim.
    fn add_living(
        &mut self,
        view: &BridgeView<'_>,
        targets: &[CleanTarget],
        adding: Option<&Key>,
    ) -> RowSet {
        let BridgeView { node, bridge, joined } = view;
        let mut claimed = RowSet::default();
        let mut dead: HashMap<u64, Vec<&Key>> = HashMap::new();
        for target in targets {
            dead.entry(target.attachment.generation).or_default().push(&target.attachment.key);
        }
        self.facts.live.reserve(node.records.len());
        self.records.reserve(node.records.len());
        for (index, record) in node.records.iter().enumerate() {
            if dead.get(&record.generation).is_some_and(|keys| keys.contains(&&record.key)) {
                continue;
            }
            // Its port counts as one that no record explains.
            if live::is_unexplained(record, node.now) {
                continue;
            }
            let place = node.place_of(record);
            claimed.extend(place.map(|p| p.interface.id));
            let may_be_here = || {
                let bridges = node.bridges_of(record);
                bridges.contains(bridge)
                    || place.is_none() && bridges.iter().any(|b| joined.contains(b))
            };
            if place.is_some_and(|place| joined.contains(&place.bridge)) || may_be_here() {
                let adding = adding == Some(&record.key);
                let network = self.network(node, &record.key.network);
                let live = live::recorded(view, record, place, network, adding);
                self.add_live(live, Some(RecordId(index)));
            }
        }
        claimed
    }

    fn add_live(&mut self, live: Live, record: Option<RecordId>) {
        self.facts.live.add(live);
        self.records.add(record);
    }

    fn add_dead(&mut self, view: &BridgeView<'_>, targets: &[CleanTarget], claimed: &mut RowSet) {
        let node = view.node;
        let latest = dead::latest_deaths(node);
        for (id, target) in TargetId::each(targets) {
            if !node.bridges_of(&target.attachment).contains(&view.bridge) {
                continue;
            }
            let network = self.network(node, &target.attachment.key.network);
            let own = node.own_place_of(&target.attachment, claimed);
            claimed.extend(own.map(|p| p.interface.id));
            self.facts.dead.add(dead::of(view, target, own, network, &latest));
            let may_be_freed = node.free.is_some() && addresses::is_pod_ip(target);
            self.targets.add(DeadTarget { id, may_be_freed });
        }
    }

    /// Whoever else is on the switch is alive as far as we know.
    fn add_unrecorded(&mut self, view: &BridgeView<'_>, claimed: &RowSet) {
        for place in view.node.places() {
            if view.joined.contains(&place.bridge) && !claimed.contains(&place.interface.id) {
                let live = live::unrecorded_port(view, place, &self.networks);
                self.add_live(live, None);
            }
        }
    }

    /// The dead that are none of the targets and that no clean-up has finished.
    fn add_unfinished(&mut self, view: &BridgeView<'_>, targets: &[CleanTarget]) {
        let node = view.node;
        for dead in &node.tombstones {
            // What is dead twice is one pod, and no other owner of its value.
            let is_target = |target: &CleanTarget| {
                target.attachment.is_same(dead) || is_one_sandbox(&target.attachment, dead)
            };
            if self.network_named(&dead.key.network).is_some()
                && node.bridges_of(dead).contains(&view.bridge)
                && !targets.iter().any(is_target)
                && let Some(live) = live::unfinished(node, dead)
            {
                self.add_live(live, None);
            }
        }
    }
}

#[cfg(test)]
mod tests;
