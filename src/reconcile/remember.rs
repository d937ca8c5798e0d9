//! What a scan teaches beyond its verdicts, and what of that is written down.

use std::cell::OnceCell;
use std::collections::HashMap;

use log::warn;

use super::outcome::TargetId;
use super::scan::FlowScan;
use super::{BridgeInput, CleanRequest, CleanTarget, NodeSnapshot, RecordId};
use crate::config::{NetworkState, RegisterFacts, SharedValue, Sharer};
use crate::judge::input::{Live, LiveId, NetworkId};
use crate::judge::{Learned, Owner, Sharers};
use crate::liveness::{Liveness, netns};
use crate::model::attachment::{Attachment, Key, Register, RegisterHow};
use crate::model::table::Table;
use crate::openflow::Filter;
use crate::store::{Lock, Version};

/// Per network: it shares register values, and that is no mistake.
pub(super) fn shared_for_good(
    node: &NodeSnapshot,
    input: &BridgeInput,
    learned: &Learned,
) -> Table<NetworkId, bool> {
    if !shares(learned) {
        return input.networks.map(|_, _| false);
    }
    let unnoticed = unnoticed_deaths(node, input);
    input.networks.map(|id, _| learned.shared_without(&input.facts, id, &unnoticed))
}

fn shares(learned: &Learned) -> bool {
    learned.networks.values().any(|facts| facts.shared_seen)
}

/// The living that are dead and not noticed yet: an orphan and the next pod that was
/// given its value look as if both lived.
fn unnoticed_deaths(node: &NodeSnapshot, input: &BridgeInput) -> Vec<LiveId> {
    let is_dead = |record: &Option<RecordId>| {
        let record = record.and_then(|record| record.of(node));
        record.is_some_and(|r| matches!(netns::judge(r, &node.boot_id), Liveness::Dead(_)))
    };
    let living = input.records.iter();
    living.filter(|(_, r)| is_dead(r)).map(|(l, _)| l).collect()
}

/// What a full scan taught of a network.
pub(super) fn learn_facts(
    facts: &mut RegisterFacts,
    (node, targets): (&NodeSnapshot, &[CleanTarget]),
    input: &BridgeInput,
    learned: &Learned,
    network: NetworkId,
) {
    let dying = targets.iter().map(|target| &target.attachment);
    facts.reconsider(dying.chain(&node.records).chain(&node.tombstones));
    let shared = || learned.sharers(&input.facts, network, &unnoticed_deaths(node, input));
    if let Some(Sharers { value, owners }) = shares(learned).then(shared).flatten() {
        let record = |owner| match owner {
            Owner::Dead(i) => {
                input.target(i).and_then(|id| id.of(targets)).map(|target| &target.attachment)
            }
            Owner::Live(l) => input.record(l).and_then(|record| record.of(node)),
        };
        let [one, other] = owners.map(|owner| record(owner).map(Sharer::of));
        match one.zip(other) {
            Some((one, other)) => facts.share(SharedValue { value, by: [one, other] }),
            None => facts.register_shared = true,
        }
    }
    if learned.networks.get(network).is_some_and(|facts| facts.distinct_seen) {
        facts.told_apart();
    }
    learn_shown(facts, learned, network, |_| true);
    if let Some(basis) = learned.basis_facts.get(network) {
        facts.register_basis.add(basis);
    }
}

/// What pods of workloads showed, of these values.
fn learn_shown(
    facts: &mut RegisterFacts,
    learned: &Learned,
    network: NetworkId,
    counts: impl Fn(Option<u32>) -> bool,
) {
    let shown = learned.shown.iter().filter(|shown| shown.network == network);
    for shown in shown.filter(|shown| counts(shown.value)) {
        facts.show(&shown.member, shown.value);
    }
}

/// What a scan taught of a dead attachment, as it is written down.
pub(super) struct Taught {
    pub(super) target: TargetId,
    pub(super) register: Option<Register>,
    pub(super) vlans: Vec<u16>,
}

/// Writes down what a scan taught: of the dead, before the entries that show it are deleted;
/// a whole one also of the network, and of the living as far as it saw all of their ports'
/// entries. A register value that is not proven now
/// may be later, when nothing shows it any more. Returns what the node's records count as now,
/// if nobody else wrote any, and what it taught of the dead.
pub(super) fn remember(
    request: &CleanRequest<'_>,
    node: &NodeSnapshot,
    targets: &[CleanTarget],
    input: &BridgeInput,
    scan: &FlowScan,
) -> (Option<Version>, Vec<Taught>) {
    let mut taught = Vec::new();
    let Some(registry) = request.registry else { return (None, taught) };
    let learning = Learning { node, targets, input, scan };
    let mut write = || -> Result<Option<Version>, crate::store::Error> {
        let lock = registry.lock(request.deadline)?;
        let records = Records::new(&lock, node);
        learning.of_the_networks(&lock)?;
        learning.of_the_living(&records)?;
        learning.of_the_dead(&records, &mut taught)?;
        Ok(lock.succeeds(node.version))
    };
    let version = write().unwrap_or_else(|failed| {
        warn!("could not write down what was learned: {failed}");
        None
    });
    (version, taught)
}

/// What a scan taught.
struct Learning<'a> {
    node: &'a NodeSnapshot,
    targets: &'a [CleanTarget],
    input: &'a BridgeInput,
    scan: &'a FlowScan,
}

impl Learning<'_> {
    fn of_the_networks(&self, lock: &Lock<'_>) -> Result<(), crate::store::Error> {
        let Self { node, targets, input, scan } = *self;
        // A value that moved may be seen by a scan by tokens, too; the record forgets what it was.
        let moved =
            |n: NetworkId| scan.learned.shown.iter().any(|s| s.network == n && s.value.is_none());
        let learning = input.networks.iter().filter(|(n, _)| scan.shows_all() || moved(*n));
        for (index, name) in learning {
            // As it is now: since the node was read, an ADD may have changed the
            // configuration, or another scan may have learned the other fact.
            let recorded: Option<NetworkState> = lock.network_state(name)?;
            let mut state = recorded.unwrap_or_else(|| node.network(name).clone());
            let before = state.clone();
            if scan.shows_all() {
                learn_facts(&mut state.register, (node, targets), input, &scan.learned, index);
            } else {
                learn_shown(&mut state.register, &scan.learned, index, |shown| shown.is_none());
            }
            if state != before {
                lock.set_network_state(name, &state)?;
            }
        }
        Ok(())
    }

    /// Whether register values are learned in its network.
    fn learns(&self, record: &Attachment) -> bool {
        let network = self.input.network_named(&record.key.network);
        let network = network.and_then(|n| self.input.facts.networks.get(n));
        network.is_some_and(|n| n.register.source.is_learned())
    }

    fn of_the_living(&self, records: &Records<'_>) -> Result<(), crate::store::Error> {
        let Self { node, input, scan, .. } = *self;
        let living = input.records.values().zip(scan.learned.live_registers.values());
        let living =
            living.zip(input.facts.live.values()).filter(|(_, live)| shows_all_of(scan, live));
        for ((live, value), _) in living {
            let record = live.and_then(|live| live.of(node)).filter(|r| self.learns(r));
            let (Some(record), Some(value)) = (record, *value) else { continue };
            if record.register.is_none_or(|r| r.value != value) {
                let register = Some(Register { value, how: RegisterHow::Learned });
                records.set(record, |known| known.register = register)?;
            }
        }
        Ok(())
    }

    fn of_the_dead(
        &self,
        records: &Records<'_>,
        taught: &mut Vec<Taught>,
    ) -> Result<(), crate::store::Error> {
        let learned = &self.scan.learned;
        let dead = self.input.targets.iter().zip(learned.dead_registers.values());
        for ((dead, target), value) in dead {
            let Some(record) = target.id.of(self.targets).map(|t| &t.attachment) else { continue };
            let mut new = record.clone();
            if let Some(value) = value.filter(|_| self.learns(record))
                && record.register.is_none_or(|r| r.value != value)
            {
                new.register = Some(Register { value, how: RegisterHow::Learned });
            }
            new.see_vlans(learned.shown_vlans(dead));
            if new != *record {
                records.set(record, |known| {
                    if new.register != record.register {
                        known.register = new.register;
                    }
                    known.see_vlans(&new.vlans);
                })?;
                let Attachment { register, vlans, .. } = new;
                taught.push(Taught { target: target.id, register, vlans });
            }
        }
        Ok(())
    }
}

/// Whether a scan saw every entry of a live port: one that it missed may load another value.
fn shows_all_of(scan: &FlowScan, live: &Live) -> bool {
    scan.shows_all() || live.ofport.is_some_and(|port| scan.asked.contains(&Filter::in_port(port)))
}

/// The records, to be changed. What the node says of them need not be read again if nobody
/// has written since it was read.
struct Records<'a> {
    lock: &'a Lock<'a>,
    node: &'a NodeSnapshot,
    /// By key and generation: as it is written, and whether that is a tombstone. Nobody asks at
    /// most deaths.
    known: OnceCell<Known<'a>>,
}

type Known<'a> = HashMap<(&'a Key, u64), (&'a Attachment, bool)>;

impl<'a> Records<'a> {
    fn new(lock: &'a Lock<'a>, node: &'a NodeSnapshot) -> Self {
        Self { lock, node, known: OnceCell::new() }
    }

    fn read(&self) -> Known<'a> {
        let (node, mut known) = (self.node, HashMap::new());
        if self.lock.succeeds(node.version).is_some() {
            let life = |record: &'a Attachment| (&record.key, record.generation);
            known.extend(node.records.iter().map(|record| (life(record), (record, false))));
            known.extend(node.tombstones.iter().map(|record| (life(record), (record, true))));
        }
        known
    }

    fn set(
        &self,
        of: &Attachment,
        change: impl FnOnce(&mut Attachment),
    ) -> Result<(), crate::store::Error> {
        let Some((written, dead)) =
            self.known.get_or_init(|| self.read()).get(&(&of.key, of.generation))
        else {
            return self.lock.update(of, change).map(drop);
        };
        let mut record = (*written).clone();
        change(&mut record);
        if *dead { self.lock.put_tombstone(&record) } else { self.lock.put(&record) }
    }
}
