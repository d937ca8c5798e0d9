//! Carries a plan out on one bridge: reads the evidence once more, writes the journal, deletes,
//! and looks whether the entries are gone.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use log::{error, info, warn};

use super::evidence::Evidence;
use super::guard::{DeleteOutcome, ReplaceGuard};
use super::outcome::TargetId;
use super::plan::{DeleteId, PlannedDelete};
use super::scan::{Candidate, FlowScan, again};
use super::snapshot::Error;
use super::transaction::JournalTransaction;
use super::{BridgeId, BridgeInput, CleanRequest, CleanTarget, NodeSnapshot};
use crate::flowtable::{FlowSink, Parallel, PortList};
use crate::judge::{Recheck, Standing};
use crate::openflow::{Applied, Entry, Filter, FlowKey};
use crate::store::Version;
use crate::util::logging::Often;

mod confirm;

use confirm::{Confirmation, unchanged};

/// How many entries are deleted on one reading of the evidence: at 20 µs each the window between
/// that and the last delete stays under 100 ms.
const CHUNK: usize = 4_000;
/// How often a clean-up reads the evidence again before it leaves what has changed to the next one,
/// and how long after the last time.
const READ_AGAIN: u32 = 8;
const FOLLOWING: Duration = Duration::from_millis(3);
/// Connections that a chunk is divided among.
const PARALLEL: usize = 4;

/// What became of an entry that was to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryOutcome {
    /// It is gone.
    Deleted,
    /// It is gone, and somebody has put it again.
    Replaced,
    /// It is gone. Somebody had put it anew meanwhile, and that one could not be put back.
    Lost,
    /// It was left: its evidence changed before the commit, or somebody has put it anew.
    PutOff,
    /// Somebody put it anew while it was being deleted, and that one was put back.
    PutBack,
    /// It is still there after its deletion.
    Stayed,
    /// It was left: an operator has paused the clean-up meanwhile.
    Withheld,
}

impl EntryOutcome {
    /// By what the switch told while it was deleted. What it did not tell a dump does.
    fn told(told: DeleteOutcome) -> Self {
        match told {
            DeleteOutcome::Unknown | DeleteOutcome::Gone | DeleteOutcome::GoneUntold => {
                Self::Deleted
            }
            DeleteOutcome::Again => Self::Replaced,
            DeleteOutcome::Newer => Self::PutOff,
            DeleteOutcome::PutBack | DeleteOutcome::PutBackUntold => Self::PutBack,
            DeleteOutcome::Lost => Self::Lost,
        }
    }

    /// Whether it was deleted for good, as far as is known.
    fn is_done(self) -> bool {
        matches!(self, Self::Deleted | Self::Replaced | Self::Lost)
    }
}

/// What was done about a plan.
#[derive(Debug, Default)]
pub(super) struct Executed {
    /// Of each planned delete, as far as it has come.
    pub(super) outcomes: Vec<EntryOutcome>,
    /// Entries that may have been a live pod's.
    pub(super) suspicions: u64,
    /// An operator has paused the clean-up meanwhile.
    pub(super) paused: bool,
    /// What a person should know.
    pub(super) notes: Vec<String>,
    /// The journal's id.
    pub(super) journal: Option<String>,
}

/// A bridge that was read, and who it was read for.
pub(super) struct ScannedBridge<'a> {
    pub(super) request: &'a CleanRequest<'a>,
    pub(super) targets: &'a [CleanTarget],
    /// The node as it was judged.
    pub(super) node: &'a NodeSnapshot,
    /// The bridge's place in it, and its name.
    pub(super) bridge: (BridgeId, &'a str),
    /// What its records count as, after our own writing.
    pub(super) version: Option<Version>,
    /// The bridge's ports, as it describes them.
    pub(super) ports: PortList,
    pub(super) input: BridgeInput,
    pub(super) scan: FlowScan,
}

/// What has changed since the verdicts, read right before each commit.
struct PreCommitCheck<'a> {
    judged: &'a ScannedBridge<'a>,
    version: Option<Version>,
    /// The node now, if it is another.
    fresh: Option<NodeSnapshot>,
    /// The bridge's ports now, if they are others.
    ports: Option<PortList>,
    /// `None`: nothing has changed.
    recheck: Option<Recheck>,
}

impl PreCommitCheck<'_> {
    /// Reads records, OVSDB and the bridge's ports. What says that nothing was written
    /// is as good as reading it again, and there are many chunks.
    fn scan(&mut self, evidence: &mut dyn Evidence, table: &mut dyn FlowSink) -> Result<(), Error> {
        evidence.ask()?;
        let ports = table.ports();
        let same = self.is_current(evidence)?;
        let ports = ports?;
        let before = self.ports.as_ref().unwrap_or(&self.judged.ports);
        if same && ports == *before {
            return Ok(());
        }
        if !same {
            let before = self.fresh.as_ref().unwrap_or(self.judged.node);
            let fresh = evidence.read(before, self.version)?;
            self.version = fresh.version;
            self.fresh = Some(fresh);
        }
        let current = self.fresh.as_ref().unwrap_or(self.judged.node);
        self.recheck = Some(self.between(current, Some(&ports)));
        self.ports = Some(ports);
        Ok(())
    }

    fn is_current(&self, evidence: &mut dyn Evidence) -> Result<bool, Error> {
        let current = self.fresh.as_ref().unwrap_or(self.judged.node);
        evidence.is_current(current, self.version)
    }

    /// What has changed up to this node and these ports.
    fn between(&self, node: &NodeSnapshot, ports: Option<&[(u16, String)]>) -> Recheck {
        let ScannedBridge { request, targets, bridge: (bridge, _), input, scan, .. } = self.judged;
        let mut now = BridgeInput::build(node, *bridge, targets, request.adding.as_ref());
        if let Some(ports) = ports {
            now.check_ports(node, *bridge, ports);
        }
        Recheck::between(&input.facts, &scan.learned, &now.facts)
    }

    /// Of each, whether its verdict still holds.
    fn holding(&self, chunk: &[PlannedDelete<'_>]) -> Vec<bool> {
        chunk.iter().map(|planned| self.standing(planned) == Standing::Holds).collect()
    }

    fn standing(&self, planned: &PlannedDelete<'_>) -> Standing {
        let Some(recheck) = &self.recheck else { return Standing::Holds };
        match planned.candidate.flow() {
            Some(flow) => recheck.standing(&flow, &planned.verdict),
            None => Standing::Unsettled,
        }
    }

    /// A token that became live between the last check and the commit may have lost its new
    /// owner's entry. That must never be silent. Returns how many.
    fn suspect<'p>(
        &mut self,
        evidence: &mut dyn Evidence,
        done: impl Iterator<Item = &'p PlannedDelete<'p>>,
    ) -> u64 {
        let asked = evidence.ask();
        if asked.and_then(|()| self.is_current(evidence)).unwrap_or(false) {
            return 0;
        }
        let before = self.fresh.as_ref().unwrap_or(self.judged.node);
        let Ok(after) = evidence.read(before, self.version) else { return 0 };
        self.recheck = Some(self.between(&after, None));
        let hurt = done.filter(|planned| self.standing(planned) == Standing::NewOwner);
        let told = hurt.inspect(|planned| {
            let (name, entry) = (self.judged.bridge.1, &planned.candidate.entry);
            error!(
                "bridge {name}: deleted while its token found a new owner, check that pod: {entry}"
            );
        });
        told.count() as u64
    }
}

/// How the entries of a plan are deleted, and how it is known that they are gone.
enum Strategy<'a> {
    /// The switch tells what others put meanwhile, and what was hit is put back.
    Guarded(ReplaceGuard<'a>, Parallel),
    /// A single chunk: the switch is asked right behind the delete, in one exchange, what is
    /// still there.
    Asking { asked: Vec<Filter>, left: HashSet<FlowKey<'a>> },
    /// Over several connections.
    Parallel(Parallel),
}

impl<'a> Strategy<'a> {
    fn of(
        judged: &ScannedBridge<'_>,
        table: &dyn FlowSink,
        planned: &'a [PlannedDelete<'a>],
    ) -> Self {
        let candidates = planned.iter().map(|planned| planned.candidate);
        let guard = ReplaceGuard::over(table, judged.bridge.1, candidates);
        let only = planned.len() <= CHUNK;
        let parallel = |count| table.open_parallel(count, judged.request.deadline);
        match guard {
            Some(guard) if only => Self::Guarded(guard, Parallel::default()),
            // The connection that puts back what was hit at once deletes nothing itself beside
            // others.
            Some(guard) => Self::Guarded(guard, parallel(PARALLEL)),
            None if only => Self::Asking { asked: Vec::new(), left: HashSet::new() },
            None => Self::Parallel(parallel(PARALLEL - 1)),
        }
    }

    /// Hears what was told up to now: right before a commit.
    fn listen(&mut self, table: &mut dyn FlowSink) -> Result<(), Error> {
        match self {
            Self::Guarded(guard, _) => Ok(guard.listen(table)?),
            _ => Ok(()),
        }
    }

    fn told(&self, id: DeleteId) -> DeleteOutcome {
        match self {
            Self::Guarded(guard, _) => guard.outcome_of(id),
            _ => DeleteOutcome::Unknown,
        }
    }

    /// Whether somebody has put this one since the scan, or may have.
    fn is_newer(&self, id: DeleteId) -> bool {
        matches!(self, Self::Guarded(guard, _) if guard.is_newer(id))
    }

    /// Deletes these. `meanwhile` is done while others delete.
    fn delete(
        &mut self,
        table: &mut dyn FlowSink,
        judged: &ScannedBridge<'_>,
        going: &[&'a PlannedDelete<'a>],
        meanwhile: impl FnOnce(),
    ) -> Result<Applied, Error> {
        let candidates = || going.iter().map(|planned| planned.candidate);
        let entries = || candidates().map(|candidate| &candidate.entry).collect::<Vec<&Entry>>();
        Ok(match self {
            Self::Guarded(guard, parallel) => {
                let ids: Vec<_> = going.iter().map(|planned| planned.id).collect();
                guard.delete(table, parallel, &ids, meanwhile)?
            }
            Self::Asking { asked, left } => {
                *asked = again(&judged.scan, candidates());
                let places: HashMap<FlowKey<'a>, &'a Candidate> =
                    candidates().map(|candidate| (candidate.entry.key(), candidate)).collect();
                table.delete_strict_and_scan(&entries(), asked, &mut |seen| {
                    let there = places.get(&seen.raw.key());
                    let there = there.filter(|candidate| !candidate.is_older_than(seen));
                    left.extend(there.map(|candidate| candidate.entry.key()));
                })?
            }
            Self::Parallel(parallel) => {
                let mut meanwhile = Some(meanwhile);
                table.delete_beside(parallel, &entries(), &mut || {
                    if let Some(meanwhile) = meanwhile.take() {
                        meanwhile();
                    }
                })?
            }
        })
    }
}

/// A plan that is being carried out.
struct Execution<'a> {
    judged: &'a ScannedBridge<'a>,
    check: PreCommitCheck<'a>,
    planned: &'a [PlannedDelete<'a>],
    strategy: Strategy<'a>,
    transaction: JournalTransaction<'a>,
    /// How often the evidence is read again.
    readings_left: u32,
    done: &'a mut Executed,
}

/// Deletes in chunks, each after a fresh reading of records, OVSDB, the bridge's ports, and what
/// others have put since. `done` says what was done also if that ends with an error.
pub(super) fn execute<'a>(
    judged: &'a ScannedBridge<'a>,
    planned: &'a [PlannedDelete<'a>],
    evidence: &mut dyn Evidence,
    table: &mut dyn FlowSink,
    done: &'a mut Executed,
) -> Result<(), Error> {
    let version = judged.version;
    let check = PreCommitCheck { judged, version, fresh: None, ports: None, recheck: None };
    let strategy = Strategy::of(judged, table, planned);
    if let Strategy::Guarded(_, parallel) = &strategy
        && parallel.is_empty()
    {
        let entries: Vec<_> = planned.iter().map(|planned| &planned.candidate.entry).collect();
        table.stage_delete(&entries)?;
    }
    let mut transaction = JournalTransaction::open(judged, &mut done.notes);
    transaction.prepare(planned.chunks(CHUNK).next().unwrap_or_default());
    let readings_left = READ_AGAIN;
    let mut execution =
        Execution { judged, check, planned, strategy, transaction, readings_left, done };
    let mut chunks = planned.chunks(CHUNK).peekable();
    while let Some(chunk) = chunks.next() {
        let next = chunks.peek().copied().unwrap_or_default();
        let outcomes = execution.delete(chunk, next, evidence, table)?;
        execution.done.outcomes.extend(outcomes);
    }
    execution.finish(evidence, table)
}

impl<'a> Execution<'a> {
    fn delete(
        &mut self,
        chunk: &'a [PlannedDelete<'a>],
        next: &[PlannedDelete<'a>],
        evidence: &mut dyn Evidence,
        table: &mut dyn FlowSink,
    ) -> Result<Vec<EntryOutcome>, Error> {
        let bridge = self.judged.bridge.1;
        // Who pauses a large clean-up wants it to stop now.
        if self.judged.request.is_paused() {
            self.done.paused = true;
            info!("bridge {bridge}: paused, not deleted: {} entries", chunk.len());
            return Ok(vec![EntryOutcome::Withheld; chunk.len()]);
        }
        let mut goes = self.holding(chunk, evidence, table)?;
        self.strategy.listen(table)?;
        for (planned, goes) in chunk.iter().zip(&mut goes) {
            *goes &= !self.strategy.is_newer(planned.id);
            if !*goes {
                let entry = &planned.candidate.entry;
                Often::PutOff.say(&format_args!("kept for now, its evidence changed: {entry}"));
            }
        }
        self.ask_leases(chunk, &mut goes)?;
        self.transaction.commit(chunk, &goes);
        let going = chunk.iter().zip(&goes).filter(|(_, goes)| **goes);
        let going: Vec<_> = going.map(|(planned, _)| planned).collect();
        let meanwhile = || self.transaction.prepare(next);
        let deleted = self.strategy.delete(table, self.judged, &going, meanwhile);
        if let (Err(_), Strategy::Guarded(guard, _)) = (&deleted, &self.strategy) {
            self.done.suspicions += guard.lost();
        }
        for (index, name) in &deleted?.refused {
            if let Some(planned) = going.get(*index) {
                let entry = &planned.candidate.entry;
                warn!("bridge {bridge}: {name}: could not delete {entry}");
            }
        }
        let outcome = |(planned, goes): (&'a PlannedDelete<'a>, bool)| {
            if goes { self.told(planned) } else { EntryOutcome::PutOff }
        };
        Ok(chunk.iter().zip(goes).map(outcome).collect())
    }

    /// The last question before the commit: a call that has asked for this clean-up may have done it
    /// itself since, and the tokens may have their next owners.
    fn ask_leases(&self, chunk: &[PlannedDelete<'_>], goes: &mut [bool]) -> Result<(), Error> {
        let ScannedBridge { request, targets, .. } = self.judged;
        let Some(holding) = request.holding(targets) else { return Ok(()) };
        if !holding.contains(&true) {
            return Err(Error::Withdrawn);
        }
        for (planned, goes) in chunk.iter().zip(goes) {
            *goes &= planned.target.is_some_and(|target| holding.get(target.0) == Some(&true));
        }
        Ok(())
    }

    /// Of each, whether it still goes. OVSDB and the bridge follow each other within milliseconds.
    /// Reading these two costs less than reading the entries again.
    fn holding(
        &mut self,
        chunk: &[PlannedDelete<'_>],
        evidence: &mut dyn Evidence,
        table: &mut dyn FlowSink,
    ) -> Result<Vec<bool>, Error> {
        self.check.scan(evidence, table)?;
        let mut holds = self.check.holding(chunk);
        while self.readings_left > 0 && holds.contains(&false) {
            self.readings_left -= 1;
            std::thread::sleep(FOLLOWING);
            self.check.scan(evidence, table)?;
            holds = self.check.holding(chunk);
        }
        Ok(holds)
    }

    /// What has become of one that was deleted, as far as the switch has told by now. What
    /// somebody put anew while it was to be deleted does not count as deleted.
    fn told(&mut self, planned: &'a PlannedDelete<'a>) -> EntryOutcome {
        let (told, entry) = (self.strategy.told(planned.id), &planned.candidate.entry);
        if let Some(what) = told.suspicion() {
            self.done.suspicions += 1;
            let bridge = self.judged.bridge.1;
            error!("bridge {bridge}: {what}, check that pod: {entry}");
        }
        let outcome = EntryOutcome::told(told);
        match outcome {
            EntryOutcome::PutOff => {
                info!("kept for now, it was put anew: {entry}");
                self.transaction.put_back(entry);
            }
            EntryOutcome::PutBack => self.transaction.put_back(entry),
            _ => {}
        }
        outcome
    }

    /// Asks the switch whether the entries are gone.
    fn finish(
        mut self,
        evidence: &mut dyn Evidence,
        table: &mut dyn FlowSink,
    ) -> Result<(), Error> {
        if let Strategy::Guarded(_, parallel) | Strategy::Parallel(parallel) = &mut self.strategy {
            parallel.close();
        }
        self.done.journal = self.transaction.finish();
        let outcomes = self.done.outcomes.iter_mut().zip(self.planned);
        let (mut outcomes, done): (Vec<_>, Vec<_>) =
            outcomes.filter(|(outcome, _)| outcome.is_done()).unzip();
        let mut confirmation = Confirmation { table, judged: self.judged };
        let stayed = match &mut self.strategy {
            Strategy::Guarded(guard, _) => {
                let (stayed, suspicions) = confirmation.untold(guard, &done)?;
                self.done.suspicions += suspicions;
                stayed
            }
            Strategy::Asking { asked, left } => {
                let is_left = |d: &&PlannedDelete<'_>| left.contains(&d.candidate.entry.key());
                let left = (0..).zip(&done).filter(|(_, d)| is_left(d)).map(|(i, _)| i).collect();
                confirmation.again(asked, &done, left)?
            }
            Strategy::Parallel(_) => {
                let asked = again(&self.judged.scan, done.iter().map(|d| d.candidate));
                let stayed = unchanged(confirmation.still_there(&asked, &done)?);
                confirmation.again(&asked, &done, stayed)?
            }
        };
        for (index, (outcome, planned)) in outcomes.iter_mut().zip(&done).enumerate() {
            if stayed.contains(&index) {
                **outcome = EntryOutcome::Stayed;
                let (bridge, entry) = (self.judged.bridge.1, &planned.candidate.entry);
                warn!("bridge {bridge}: still there after its deletion: {entry}");
            } else if self.strategy.told(planned.id) == DeleteOutcome::Again {
                **outcome = EntryOutcome::Replaced;
            }
        }
        say_deleted(self.judged, &self.done.outcomes, self.planned);
        self.done.suspicions += self.check.suspect(evidence, done.into_iter());
        Ok(())
    }
}

/// Says how many entries of each pod were deleted, and why.
fn say_deleted(
    judged: &ScannedBridge<'_>,
    outcomes: &[EntryOutcome],
    planned: &[PlannedDelete<'_>],
) {
    let mut counts: BTreeMap<Option<TargetId>, BTreeMap<&'static str, u64>> = BTreeMap::new();
    for (_, planned) in outcomes.iter().zip(planned).filter(|(outcome, _)| outcome.is_done()) {
        let by = counts.entry(planned.target).or_default();
        *by.entry(planned.verdict.reason.as_str()).or_default() += 1;
    }
    let bridge = judged.bridge.1;
    for (target, by) in counts {
        let count: u64 = by.values().sum();
        let why: Vec<String> = by.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
        let why = why.join(", ");
        match target.and_then(|target| target.of(judged.targets)) {
            Some(CleanTarget { attachment, .. }) => Often::Deleted.say(&format_args!(
                "bridge {bridge}: deleted {count} entries of {} (container {}, port {}): {why}",
                attachment.title(),
                attachment.key.container,
                attachment.port.as_deref().unwrap_or("unknown"),
            )),
            None => info!("bridge {bridge}: deleted {count} entries of nobody's port: {why}"),
        }
    }
}

#[cfg(test)]
pub(super) mod fake;
#[cfg(test)]
mod tests;
