//! What is to be done on one bridge. A pure function of what was read: no I/O, no clock, no log.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::connections::owned_by;
use super::outcome::{TargetEntries, TargetId};
use super::report::FlowReport;
use super::scan::{Candidate, FlowScan};
use super::{BridgeInput, CleanTarget, WAIT_FOR_CONTROLLER};
use crate::judge::input::{DeadId, JudgeInput, LiveRegister, NetworkId};
use crate::judge::{Judge, Learned, NotProven, Reason, RegisterToken, Token, Verdict};
use crate::model::table::{Id, Table};

/// What may be done.
#[derive(Debug, Default)]
pub(super) struct Orders {
    /// Nothing is changed anywhere.
    pub(super) dry_run: bool,
    /// An operator wants nothing deleted.
    pub(super) paused: bool,
    /// Per network of the input: it is in observe mode, and nothing is deleted.
    pub(super) observe: Table<NetworkId, bool>,
    /// Every entry is wanted with its reason.
    pub(super) details: bool,
}

/// What a plan is made from.
#[derive(Debug)]
pub(super) struct PlanInput<'a> {
    /// The bridge's name.
    pub(super) bridge: &'a str,
    /// All targets of the clean-up.
    pub(super) targets: &'a [CleanTarget],
    /// Who is dead and who lives.
    pub(super) input: &'a BridgeInput,
    /// The bridge's entries, and what they taught.
    pub(super) scan: &'a FlowScan,
    /// Per network of the input: it shares register values, and that is no mistake.
    pub(super) shared: &'a Table<NetworkId, bool>,
    pub(super) orders: Orders,
}

/// A place in [`Plan::delete`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DeleteId(usize);

impl Id for DeleteId {
    fn of(index: usize) -> Self {
        Self(index)
    }

    fn index(self) -> usize {
        self.0
    }
}

/// An entry that is to go.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlannedDelete<'s> {
    /// Of one that is withheld: where it would stand.
    pub(super) id: DeleteId,
    pub(super) candidate: &'s Candidate,
    pub(super) verdict: Verdict,
    /// Because of whom; `None`: it names a port that is nobody's.
    pub(super) target: Option<TargetId>,
}

/// Why a stale entry stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Withholding {
    Paused,
    Observe,
    DryRun,
}

/// What is to be done on a bridge.
#[derive(Debug, Default)]
pub(super) struct Plan<'s> {
    /// Stale entries.
    pub(super) delete: Vec<PlannedDelete<'s>>,
    /// Stale entries that stay by order.
    pub(super) withhold: Vec<(PlannedDelete<'s>, Withholding)>,
    /// Entries that mention a dead pod and stay, by reason.
    pub(super) kept: BTreeMap<&'static str, u64>,
    /// Entries that name a port which is nobody's.
    pub(super) dangling: u64,
    /// What there is of each target, and whether it waits.
    pub(super) targets: BTreeMap<TargetId, TargetEntries>,
    /// IPs that kept entries show to have another owner.
    pub(super) owned: BTreeSet<IpAddr>,
    /// Each stale or kept entry with its reason, if that is wanted.
    pub(super) details: Vec<FlowReport>,
}

/// Judges every candidate.
pub(super) fn plan<'s>(of: &PlanInput<'s>) -> Plan<'s> {
    let judge = Judge::new(&of.input.facts, &of.scan.learned);
    let mut plan = Plan::default();
    for candidate in &of.scan.candidates {
        let Some(verdict) = candidate.verdict(&judge) else { continue };
        let dangling = matches!(verdict.reason, Reason::Dangling { .. });
        plan.dangling += u64::from(dangling);
        if !verdict.stale && verdict.dead.is_none() && !dangling {
            continue;
        }
        let target = verdict.dead.and_then(|dead| of.input.target(dead));
        if of.orders.details {
            let pod = title(of.targets, target);
            plan.details.push(FlowReport::new(of.bridge, &candidate.entry, &verdict, pod));
        }
        if verdict.stale {
            let id = DeleteId(plan.delete.len());
            plan.delete_or_withhold(of, PlannedDelete { id, candidate, verdict, target });
        } else {
            plan.keep(of, &judge, candidate, verdict);
        }
    }
    plan
}

impl<'s> Plan<'s> {
    /// Whose entries stay by an operator's order.
    pub(super) fn withheld(&self) -> impl Iterator<Item = (&PlannedDelete<'s>, &'static str)> {
        self.withhold.iter().filter_map(|(planned, why)| match why {
            Withholding::Paused => Some((planned, "paused")),
            Withholding::Observe => Some((planned, "mode observe")),
            Withholding::DryRun => None,
        })
    }

    fn delete_or_withhold(&mut self, of: &PlanInput<'_>, planned: PlannedDelete<'s>) {
        let withholding = of.withholding(&planned.verdict);
        if let Some(target) = planned.target {
            self.target(target).stale += 1;
        }
        match withholding {
            Some(why) => self.withhold.push((planned, why)),
            None => self.delete.push(planned),
        }
    }

    fn keep(
        &mut self,
        of: &PlanInput<'_>,
        judge: &Judge<'_>,
        candidate: &Candidate,
        verdict: Verdict,
    ) {
        let PlanInput { input, scan, .. } = of;
        let reason = verdict.reason.as_str();
        *self.kept.entry(reason).or_default() += 1;
        let may_be_older = candidate.may_be_older(judge, &verdict);
        if let Some(target) = verdict.dead.and_then(|dead| input.target(dead)) {
            let entries = self.target(target);
            *entries.kept.entry(reason).or_default() += 1;
            // The next answer may come sooner.
            entries.unsettled |=
                may_be_older || matches!(verdict.reason, Reason::PortUnsettled { .. });
        }
        let dead = verdict.dead.filter(|dead| may_be_older && died_lately(&input.facts, *dead));
        let mut waits: Vec<DeadId> = dead.into_iter().collect();
        let mut kept = candidate.kept_for(judge);
        kept.retain(|other| other.dead != verdict.dead);
        kept.push(verdict);
        for verdict in &kept {
            self.owned.extend(owned_by(&verdict.reason));
            waits.extend(wait_together(input, &scan.learned, of.shared, verdict));
        }
        for target in waits.into_iter().filter_map(|dead| input.target(dead)) {
            self.target(target).waiting = true;
        }
    }

    fn target(&mut self, target: TargetId) -> &mut TargetEntries {
        self.targets.entry(target).or_default()
    }
}

impl PlanInput<'_> {
    /// Why a stale entry is not deleted now. One that names nobody's port may be of any network on
    /// the bridge.
    fn withholding(&self, verdict: &Verdict) -> Option<Withholding> {
        let Orders { dry_run, paused, observe, .. } = &self.orders;
        let dead = verdict.dead.and_then(|dead| self.input.facts.dead.get(dead));
        let observes = match dead {
            Some(dead) => observe.get(dead.network) == Some(&true),
            None => observe.values().any(|observes| *observes),
        };
        let (paused, observes) = (paused.then_some(Withholding::Paused), observes);
        let observes = observes.then_some(Withholding::Observe);
        paused.or(observes).or_else(|| dry_run.then_some(Withholding::DryRun))
    }
}

/// The pod that a target is, or was.
pub(super) fn title(targets: &[CleanTarget], target: Option<TargetId>) -> Option<String> {
    target.and_then(|target| target.of(targets)).map(|target| target.attachment.title())
}

/// Reasons that time may change: the tombstone waits for them.
fn may_change(
    reason: Reason,
    dead: DeadId,
    input: &BridgeInput,
    learned: &Learned,
    shared: bool,
) -> bool {
    match reason {
        // Until somebody elsewhere gives it back.
        Reason::MayLiveElsewhere { .. } | Reason::MayReachElsewhere { .. } => {
            input.targets.get(dead).is_some_and(|target| target.may_be_freed)
        }
        // The other one may go, or have been a slip of the dump.
        Reason::Ambiguous
        | Reason::PolicyWaits { .. }
        | Reason::MayBeArriving { .. }
        | Reason::PortUnsettled { .. } => true,
        // A scan of everything shows which VLANs there are.
        Reason::OtherVlan { .. } => !learned.is_complete(),
        // A scan of everything shows which registers are output to.
        Reason::LoadsLivePort { .. } => !learned.is_complete(),
        Reason::RegisterNotProven { why: NotProven::Shared, .. } => !shared,
        // Whoever was given the value since answers for what it condemns, to the end of
        // their own life.
        Reason::RegisterNotProven { why: NotProven::LiveHasIt(l), register } => {
            let (Token::Register(RegisterToken { value, .. }), Some(live)) =
                (register, input.facts.live.get(l))
            else {
                return true;
            };
            // Without a network it is a port without a record, or a dead pod that is not judged now.
            let shown = learned.live_registers.get(l).copied().flatten();
            let has = live.register == LiveRegister::Is(value) || shown == Some(value);
            live.network.is_none() || !has
        }
        Reason::RegisterNotProven { .. } => true,
        _ => false,
    }
}

/// The dead that wait because of a kept entry. Those that had one register value
/// wait together: the last one left would look like its only owner. `shared`: per network, it
/// is known for good that its register values are shared.
#[must_use]
pub fn wait_together(
    input: &BridgeInput,
    learned: &Learned,
    shared: &Table<NetworkId, bool>,
    verdict: &Verdict,
) -> Vec<DeadId> {
    let network = verdict.dead.and_then(|dead| input.facts.dead.get(dead)).map(|d| d.network);
    let for_good = network.and_then(|n| shared.get(n)).copied() == Some(true);
    let changes = |dead: &DeadId| may_change(verdict.reason, *dead, input, learned, for_good);
    let Some(named) = verdict.dead.filter(changes) else {
        return Vec::new();
    };
    let value = |dead: DeadId| {
        let register = learned.dead_registers.get(dead).copied().flatten()?;
        Some((input.facts.dead.get(dead)?.network, register))
    };
    let by_register = matches!(verdict.reason, Reason::RegisterNotProven { .. });
    let same = |dead: &DeadId| *dead == named || by_register && value(*dead) == value(named);
    let group: Vec<DeadId> = input.facts.dead.ids().filter(same).collect();
    let lately = group.iter().any(|dead| died_lately(&input.facts, *dead));
    if lately { group } else { Vec::new() }
}

/// Whether a controller may not have adapted its entries to the death yet.
fn died_lately(facts: &JudgeInput, dead: DeadId) -> bool {
    let died = facts.dead.get(dead).map(|dead| dead.died);
    died.is_some_and(|died| died.until(facts.now) < WAIT_FOR_CONTROLLER)
}

#[cfg(test)]
mod tests;
