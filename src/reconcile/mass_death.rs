//! The mass-death guard of this node: one file for whoever sweeps.

use std::time::Duration;

use log::warn;

use super::SweepRun;
use super::orphans::Orphans;
use crate::liveness::Source;
use crate::liveness::mass_death_guard::{Deaths, Decision, FEW, MassDeathGuard};
use crate::store::{self, GuardLock, Registry, RegistrySnapshot};
use crate::util::clock::{Deadline, Stamp};

/// How long to wait for another process that decides: it takes less than a millisecond.
const WAIT_FOR_CONTROLLER: Duration = Duration::from_millis(500);

/// What is decided about those who are dead on the word of one source alone, and how many of this
/// burst were swept before. Whoever is to be swept is written down as that before anything
/// happens.
pub(super) fn consult(
    run: &SweepRun<'_>,
    registry_snapshot: &RegistrySnapshot,
    orphans: &Orphans,
    paused: bool,
    boot_id: &str,
) -> (Decision, usize) {
    let Some(registry) = run.registry else { return (Decision::Sweep, 0) };
    let nobody = orphans.dead.iter().all(|orphan| orphan.alone().is_none());
    if nobody && !run.yes && !read(registry, run.held, boot_id).is_pulled() {
        return (Decision::Sweep, 0);
    }
    let deaths = orphans.deaths(registry_snapshot);
    let asked = Consultation { run, registry, deaths, paused, boot_id };
    if run.dry_run {
        let (decision, swept) = asked.unlocked();
        return (now(decision, run.yes), swept);
    }
    match registry.lock_guard(Deadline::after(WAIT_FOR_CONTROLLER)) {
        Ok(lock) => asked.decide(&lock),
        Err(failed) => {
            let (decision, swept) = asked.unlocked();
            (asked.unwritten(decision, &failed), swept)
        }
    }
}

/// Whether the deaths of few may be decided upon without a look at all others.
pub(super) fn is_idle(run: &SweepRun<'_>, boot_id: &str) -> bool {
    run.registry.is_some_and(|registry| read(registry, run.held, boot_id).is_idle())
}

/// Whether the brake is pulled, by what is written down and by who is dead now: on whose word, and
/// how many of this burst were swept before.
#[must_use]
pub fn pulled_brake(
    registry: &Registry,
    registry_snapshot: &RegistrySnapshot,
    orphans: &Orphans,
    boot_id: &str,
) -> Option<(Source, usize)> {
    let mut guard = read(registry, false, boot_id);
    match guard.decide(&orphans.deaths(registry_snapshot), Stamp::now().boot_ms) {
        Decision::Hold(source) => Some((source, guard.swept())),
        Decision::Sweep | Decision::Wait(_) => None,
    }
}

/// A sweep that asks the guard.
struct Consultation<'a> {
    run: &'a SweepRun<'a>,
    registry: &'a Registry,
    deaths: Deaths,
    paused: bool,
    boot_id: &'a str,
}

impl Consultation<'_> {
    /// By what is written down now, which another sweep may change.
    fn unlocked(&self) -> (Decision, usize) {
        let mut guard = read(self.registry, self.run.held, self.boot_id);
        let decision = guard.decide(&self.deaths, Stamp::now().boot_ms);
        (decision, guard.swept())
    }

    fn decide(&self, lock: &GuardLock) -> (Decision, usize) {
        let run = self.run;
        let before = read(self.registry, run.held, self.boot_id);
        let mut guard = before.clone();
        let mut decision = guard.decide(&self.deaths, Stamp::now().boot_ms);
        let swept = guard.swept();
        if self.paused {
            decision = now(decision, run.yes);
        } else if run.yes {
            (decision, guard) = (Decision::Sweep, MassDeathGuard::new(self.boot_id));
        } else if decision == Decision::Sweep {
            guard.sweep();
        }
        if guard != before
            && let Err(failed) = lock.write(&guard.for_file())
        {
            decision = self.unwritten(decision, &failed);
        }
        (decision, swept)
    }

    /// The next one to sweep will not know of these deaths: few may go nevertheless.
    fn unwritten(&self, decision: Decision, failed: &store::Error) -> Decision {
        warn!("{failed}: other sweeps will not count these deaths");
        match (decision, self.deaths.alone.as_slice()) {
            (Decision::Sweep, [(_, source), rest @ ..]) if !self.run.yes && rest.len() >= FEW => {
                Decision::Hold(*source)
            }
            _ => decision,
        }
    }
}

/// What a sweep that deletes nothing goes by: it need not wait.
fn now(decision: Decision, yes: bool) -> Decision {
    match decision {
        Decision::Hold(_) if !yes => decision,
        _ => Decision::Sweep,
    }
}

/// The guard's file as it is. One that cannot be read may have said that the brake is pulled, and
/// so may one that is not there though this process saw the brake pulled.
fn read(registry: &Registry, held: bool, boot_id: &str) -> MassDeathGuard {
    match registry.guard::<MassDeathGuard>() {
        Ok(Some(guard)) => guard.of_boot(boot_id),
        Ok(None) if held => MassDeathGuard::doubtful(boot_id),
        Ok(None) => MassDeathGuard::new(boot_id),
        Err(failed) => {
            warn!("{failed}: as if it said that too many died at once");
            MassDeathGuard::doubtful(boot_id)
        }
    }
}
