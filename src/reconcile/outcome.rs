//! What became of a clean-up: it decides what is tried again and what is written down. What of it
//! is printed is a [`Report`](super::Report).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;

use super::execute::{EntryOutcome, Executed};
use super::plan::{Plan, PlannedDelete};
use super::report::FlowReport;
use super::{Cause, CleanTarget, Error, UnrecordedPort};
use crate::model::attachment::Key;
use crate::util::clock::Stamp;

/// The place of a target in the list that a clean-up was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetId(pub usize);

impl TargetId {
    /// Each target with its place.
    pub(super) fn each(
        targets: &[CleanTarget],
    ) -> impl Iterator<Item = (Self, &CleanTarget)> + Clone {
        targets.iter().enumerate().map(|(index, target)| (Self(index), target))
    }

    pub(super) fn of(self, targets: &[CleanTarget]) -> Option<&CleanTarget> {
        targets.get(self.0)
    }
}

/// A target's entries, on one bridge or on all of them.
#[derive(Clone, Debug, Default)]
pub struct TargetEntries {
    /// Entries found stale because of it.
    pub stale: u64,
    /// Entries deleted.
    pub deleted: u64,
    /// Entries that mention it and were kept, by reason.
    pub kept: BTreeMap<&'static str, u64>,
    /// Some evidence may still be proven: scan again.
    pub waiting: bool,
    /// Some evidence is in flux: scan again soon.
    pub unsettled: bool,
    /// Some were to be deleted and are still there.
    pub stayed: bool,
}

impl TargetEntries {
    fn add(&mut self, other: &Self) {
        self.stale += other.stale;
        self.deleted += other.deleted;
        other.kept.iter().for_each(|(why, n)| *self.kept.entry(why).or_default() += n);
        self.waiting |= other.waiting;
        self.unsettled |= other.unsettled;
        self.stayed |= other.stayed;
    }

    /// One of them is not deleted now: the next scan, soon, judges it again.
    fn put_off(&mut self) {
        self.stale = self.stale.saturating_sub(1);
        (self.waiting, self.unsettled) = (true, true);
    }
}

/// What was counted on a bridge.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Entries seen.
    pub flows: u64,
    /// Entries found stale.
    pub stale: u64,
    /// Entries deleted.
    pub deleted: u64,
    /// Entries that were to be deleted and are still there.
    pub stayed: u64,
    /// Stale entries left for the next scan: their evidence changed before the commit.
    pub put_off: u64,
    /// Entries that somebody put anew while they were being deleted, and that were put back at
    /// once. They count as not deleted.
    pub put_back: u64,
    /// Stale entries that only pause or observe mode keeps.
    pub observed: u64,
    /// Entries that name a port which is nobody's.
    pub dangling: u64,
    /// Everything was seen, not just what has a dead token.
    pub full: bool,
    /// Kept entries that mention a dead pod, by reason.
    pub kept: BTreeMap<&'static str, u64>,
    /// Deleted entries whose token became live in the meantime, or that were put anew and could
    /// not be put back: must stay 0.
    pub suspicions: u64,
}

/// What became of one bridge.
#[derive(Clone, Debug, Default)]
pub struct BridgeOutcome {
    /// Its name.
    pub bridge: String,
    /// What was counted.
    pub counts: Counts,
    /// Entries deleted, by reason.
    pub deleted_by: BTreeMap<&'static str, u64>,
    /// Stale entries that only pause or observe mode keeps, by target; `None`: a port that is
    /// nobody's.
    pub withheld: BTreeMap<Option<TargetId>, u64>,
    /// The entries of each target that may have some here.
    pub targets: BTreeMap<TargetId, TargetEntries>,
    /// Why the bridge could not be done.
    pub error: Option<String>,
}

impl BridgeOutcome {
    pub(super) fn new(name: &str) -> Self {
        Self { bridge: name.to_owned(), ..Self::default() }
    }

    /// Forgets what the next scan finds again.
    pub(super) fn scan_again(&mut self) {
        let Counts { kept, stale, deleted, observed, .. } = &mut self.counts;
        kept.clear();
        self.withheld.clear();
        (*stale, *observed) = (*deleted, 0);
        for entries in self.targets.values_mut() {
            let TargetEntries { deleted, stayed, .. } = *entries;
            *entries = TargetEntries { stale: deleted, deleted, stayed, ..Default::default() };
        }
    }

    /// Counts what a plan says.
    pub(super) fn planned(&mut self, plan: &Plan<'_>) {
        self.counts.stale += (plan.delete.len() + plan.withhold.len()) as u64;
        self.counts.dangling = plan.dangling;
        plan.kept.iter().for_each(|(why, n)| *self.counts.kept.entry(why).or_default() += n);
        for (target, entries) in &plan.targets {
            self.targets.entry(*target).or_default().add(entries);
        }
        plan.withheld().for_each(|(planned, _)| self.withheld(planned));
    }

    /// Counts what was done about a plan.
    pub(super) fn executed(&mut self, planned: &[PlannedDelete<'_>], done: &Executed) {
        self.counts.suspicions += done.suspicions;
        for (planned, outcome) in planned.iter().zip(&done.outcomes) {
            let mut nobodys = TargetEntries::default();
            let entries = match planned.target {
                Some(target) => self.targets.entry(target).or_default(),
                None => &mut nobodys,
            };
            match outcome {
                EntryOutcome::Deleted | EntryOutcome::Replaced | EntryOutcome::Lost => {
                    entries.deleted += 1;
                    // Another one is in its place: it is judged again soon.
                    entries.waiting |= *outcome == EntryOutcome::Replaced;
                    self.counts.deleted += 1;
                    *self.deleted_by.entry(planned.verdict.reason.as_str()).or_default() += 1;
                }
                EntryOutcome::PutOff | EntryOutcome::PutBack => {
                    entries.put_off();
                    self.counts.stale = self.counts.stale.saturating_sub(1);
                    let back = *outcome == EntryOutcome::PutBack;
                    self.counts.put_back += u64::from(back);
                    self.counts.put_off += u64::from(!back);
                }
                EntryOutcome::Stayed => {
                    entries.stayed = true;
                    self.counts.stayed += 1;
                }
                EntryOutcome::Withheld => self.withheld(planned),
            }
        }
    }

    /// It stays because an operator says so, and is still to be done once nobody does any more.
    fn withheld(&mut self, planned: &PlannedDelete<'_>) {
        self.counts.observed += 1;
        *self.withheld.entry(planned.target).or_default() += 1;
        if let Some(target) = planned.target {
            self.targets.entry(target).or_default().waiting = true;
        }
    }

    /// Whether another scan in a moment may find more.
    pub(super) fn is_unsettled(&self) -> bool {
        self.targets.values().any(|entries| entries.unsettled)
    }
}

/// What became of one dead attachment.
#[derive(Clone, Debug)]
pub struct TargetOutcome {
    /// The pod or, without one, the key.
    pub pod: String,
    /// Which life of the key.
    pub life: (Key, u64),
    /// When its death was noticed.
    pub died: Option<Stamp>,
    /// Why it is dead.
    pub cause: Cause,
    /// Its entries on all bridges.
    pub entries: TargetEntries,
    /// Every bridge that may have its entries was scanned.
    pub complete: bool,
    /// ovn-controller runs a bridge of it: what is left there was not judged.
    pub ovn: bool,
    /// Its bridges are gone, and every entry with them: nothing is left to watch for.
    pub bridge_gone: bool,
    /// Others of its network have register values, and nobody ever saw its own: entries that only
    /// match on it are not found.
    pub value_unknown: bool,
    /// Why some of its stale entries are not deleted, if it is by an operator's order: `paused` or
    /// `mode observe`.
    pub withheld: Option<&'static str>,
    /// Its tombstone ended with this clean-up.
    pub ended: bool,
    /// It is clean, and its linger time goes on for so long; `None`: it is over, or it is not clean.
    pub lingers: Option<Duration>,
    /// What went wrong.
    pub error: Option<String>,
}

impl TargetOutcome {
    pub(crate) fn new(t: &CleanTarget) -> Self {
        Self {
            pod: t.attachment.title(),
            life: (t.attachment.key.clone(), t.attachment.generation),
            died: t.attachment.died,
            cause: t.cause.clone(),
            entries: TargetEntries::default(),
            complete: false,
            ovn: false,
            bridge_gone: false,
            value_unknown: false,
            withheld: None,
            ended: false,
            lingers: None,
            error: None,
        }
    }

    /// Whether every bridge was scanned and nothing went wrong.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.complete && self.error.is_none()
    }

    /// Whether its clean-up has ended: it is finished, and no evidence is still to come.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.is_finished() && !self.entries.waiting
    }

    pub(super) fn fail(&mut self, text: &str) {
        self.error.get_or_insert_with(|| text.to_owned());
    }
}

/// Stale entries of one pod on one bridge that only a pause or observe mode keeps; displayed as a
/// line of the log.
#[derive(Clone, Copy, Debug)]
pub struct Withheld<'o> {
    /// The bridge.
    pub bridge: &'o str,
    /// `paused` or `mode observe`.
    pub why: &'static str,
    /// How many.
    pub count: u64,
    /// Whose; `None`: a port's that is nobody's.
    pub of: Option<&'o TargetOutcome>,
}

impl fmt::Display for Withheld<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bridge, why, count, of } = self;
        write!(f, "bridge {bridge}: {why}, not deleted: {count} stale entries of ")?;
        match of {
            Some(of) => write!(f, "{} (container {})", of.pod, of.life.0.container),
            None => f.write_str("nobody's port"),
        }
    }
}

/// What became of a clean-up.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Something was not deleted by intention: dry run, observe mode or pause.
    pub observed: bool,
    /// It was a pause: before the first deletion, or in the middle.
    pub paused: bool,
    /// IPs that kept entries show to have another owner: their connections are not the dead's.
    pub owned: BTreeSet<IpAddr>,
    /// Why nothing could be scanned.
    pub failed: Option<String>,
    /// What that was about: one of [`object`](super::object).
    pub failed_in: Option<&'static str>,
    /// Bridge by bridge.
    pub bridges: Vec<BridgeOutcome>,
    /// One per target, in order; then those whose tombstones could not be written.
    pub targets: Vec<TargetOutcome>,
    /// Stale and kept entries, with their reasons, if the request wants details.
    pub flows: Vec<FlowReport>,
    /// Ports that an OVS CNI has marked and that nobody recorded, if whole bridges were scanned.
    pub unrecorded_ports: Vec<UnrecordedPort>,
    /// What a person should know.
    pub notes: Vec<String>,
    /// The journal's ids, one a bridge, for `undo`.
    pub journals: Vec<String>,
    /// How long it has waited for evidence to settle, and done nothing.
    pub waited: Duration,
}

impl Outcome {
    pub(super) fn new(targets: &[CleanTarget]) -> Self {
        Self { targets: targets.iter().map(TargetOutcome::new).collect(), ..Self::default() }
    }

    pub(super) fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    pub(super) fn target(&mut self, target: TargetId) -> Option<&mut TargetOutcome> {
        self.targets.get_mut(target.0)
    }

    pub(super) fn fail(&mut self, target: TargetId, text: &str) {
        if let Some(target) = self.target(target) {
            target.fail(text);
        }
    }

    /// One more of the dead.
    pub(super) fn add(&mut self, target: &CleanTarget) {
        self.targets.push(TargetOutcome::new(target));
    }

    /// One more of the dead, of whom nothing could be deleted.
    pub(super) fn add_failed(&mut self, target: &CleanTarget, error: String) {
        let mut failed = TargetOutcome::new(target);
        failed.error = Some(error);
        self.targets.push(failed);
    }

    /// Nothing could be scanned.
    pub(super) fn fail_all(&mut self, error: &Error) {
        let text = error.to_string();
        self.targets.iter_mut().for_each(|target| target.fail(&text));
        self.failed = Some(text);
        self.failed_in = Some(error.object());
    }

    /// A plan was carried out on a bridge, or part of it.
    pub(super) fn executed(&mut self, done: Executed) {
        self.paused |= done.paused;
        self.observed |= done.paused;
        self.notes.extend(done.notes);
        self.journals.extend(done.journal);
    }

    /// A bridge is done.
    pub(super) fn add_bridge(&mut self, bridge: BridgeOutcome) {
        let why = self.why_withheld();
        for (target, entries) in &bridge.targets {
            let Some(of) = self.target(*target) else { continue };
            of.entries.add(entries);
            if bridge.withheld.contains_key(&Some(*target)) {
                of.withheld = Some(why);
            }
            if entries.stayed {
                of.fail("entries are still there after their deletion");
            }
            if let Some(error) = &bridge.error {
                of.fail(&format!("bridge {}: {error}", bridge.bridge));
            }
        }
        self.bridges.push(bridge);
    }

    /// Stale entries that only pause or observe mode keeps, on all bridges.
    #[must_use]
    pub fn observed(&self) -> u64 {
        self.bridges.iter().map(|b| b.counts.observed).sum()
    }

    fn why_withheld(&self) -> &'static str {
        if self.paused { "paused" } else { "mode observe" }
    }

    /// Pod by pod what only a pause or observe mode keeps.
    pub fn withheld(&self) -> impl Iterator<Item = Withheld<'_>> {
        self.bridges.iter().flat_map(|bridge| {
            bridge.withheld.iter().map(|(target, count)| Withheld {
                bridge: &bridge.bridge,
                why: self.why_withheld(),
                count: *count,
                of: target.and_then(|target| self.targets.get(target.0)),
            })
        })
    }

    /// The first thing that went wrong.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        let bridges = self.bridges.iter().filter_map(|b| b.error.as_deref());
        let targets = self.targets.iter().filter_map(|t| t.error.as_deref());
        self.failed.as_deref().into_iter().chain(targets).chain(bridges).next()
    }

    /// Whether something needs attention: errors, entries that stayed, suspicions.
    #[must_use]
    pub fn needs_attention(&self) -> bool {
        let bad = |b: &BridgeOutcome| b.counts.stayed > 0 || b.counts.suspicions > 0;
        self.error().is_some() || self.bridges.iter().any(bad)
    }
}

#[cfg(test)]
mod tests;
