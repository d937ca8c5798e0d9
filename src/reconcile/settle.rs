//! After the clean-up: what becomes of each target's record.

use std::time::Duration;

use log::{debug, warn};

use super::outcome::{Outcome, TargetId, TargetOutcome};
use super::{BridgeInput, Cause, CleanRequest, CleanTarget, NodeSnapshot};
use crate::model::attachment::State;
use crate::store::{self, Lock};
use crate::util::clock::Stamp;
use crate::util::logging::Often;

/// A target whose entries are gone becomes `gone` and is dropped once its linger time has
/// passed; one that could not be finished stays `deleting`. Nothing is forgotten.
pub(super) fn settle(
    request: &CleanRequest<'_>,
    node: Option<&NodeSnapshot>,
    targets: &[CleanTarget],
    outcome: &mut Outcome,
) {
    let (Some(registry), true) = (request.registry, !request.dry_run && !targets.is_empty()) else {
        return;
    };
    let lock = match registry.lock(lock_deadline(request)) {
        Ok(lock) => lock,
        Err(failed) => {
            warn!("could not settle the records of this clean-up, the next sweep does: {failed}");
            for (id, _) in TargetId::each(targets) {
                outcome.fail(id, &unsettled(&failed));
            }
            return;
        }
    };
    let paused = registry.paused();
    let wanted = request.holding(targets).unwrap_or_else(|| vec![true; targets.len()]);
    let wanted = targets.iter().zip(&mut outcome.targets).zip(wanted);
    for ((target, of), _) in wanted.filter(|(_, wanted)| *wanted) {
        match settle_one(&lock, paused, node, target, of) {
            Ok(settled) => {
                (of.ended, of.lingers) = (settled == Settled::Ended, settled.lingers());
                if of.ended && of.value_unknown {
                    Often::Note.say(&format_args!(
                        "{} ({}): its register value was never known; entries that only match on \
                         it, if there are any, stay",
                        target.attachment.title(),
                        target.attachment.key
                    ));
                }
            }
            Err(failed) => {
                let key = &target.attachment.key;
                warn!("{key}: could not settle it, the next sweep does: {failed}");
                of.fail(&unsettled(&failed));
            }
        }
    }
}

fn unsettled(failed: &store::Error) -> String {
    format!("its record could not be settled: {failed}")
}

fn is_active(lock: &Lock<'_>, target: &CleanTarget) -> Result<bool, store::Error> {
    Ok(lock.get(&target.attachment.key)?.is_some_and(|now| now.is_same(&target.attachment)))
}

/// Whether `adopt` has recorded its pod again meanwhile and taken the tombstone away.
fn is_retired(lock: &Lock<'_>, target: &CleanTarget) -> Result<bool, store::Error> {
    let record = &target.attachment;
    Ok(lock.get(&record.key)?.is_some_and(|now| now.adopted)
        && lock.tombstone_of(record)?.is_none())
}

/// The switch may have used up the deadline; the record must still be written.
fn lock_deadline(request: &CleanRequest<'_>) -> crate::util::clock::Deadline {
    let grace = Duration::from_millis(500);
    if request.deadline.left().is_ok_and(|left| left > grace) {
        request.deadline
    } else {
        crate::util::clock::Deadline::after(grace)
    }
}

/// What became of a tombstone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Settled {
    Ended,
    /// It is clean, and its linger time goes on for so long.
    Lingers(Duration),
    /// It is remembered for something else.
    Needed,
}

impl Settled {
    fn lingers(self) -> Option<Duration> {
        match self {
            Self::Lingers(left) => Some(left),
            Self::Ended | Self::Needed => None,
        }
    }
}

fn settle_one(
    lock: &Lock<'_>,
    paused: bool,
    node: Option<&NodeSnapshot>,
    target: &CleanTarget,
    outcome: &TargetOutcome,
) -> Result<Settled, store::Error> {
    // It has no tombstone: it is judged again when the pause is over.
    if paused && matches!(target.cause, Cause::Orphan(_)) && is_active(lock, target)? {
        return Ok(Settled::Needed);
    }
    if target.cause == Cause::Tombstone && is_retired(lock, target)? {
        return Ok(Settled::Needed);
    }
    let mut record = target.attachment.clone();
    if record.register.is_none() {
        // Another scan may have learned it meanwhile.
        record.register = lock.tombstone_of(&record)?.and_then(|known| known.register);
    }
    if !outcome.is_clean() {
        record.state = State::Deleting;
        record.attempts = record.attempts.saturating_add(1);
        let to_come = "entries are kept for evidence that is still to come";
        let withheld = outcome.withheld.map(|why| format!("entries are not deleted: {why}"));
        let why = outcome.error.clone().or(withheld);
        record.last_error = why.or_else(|| outcome.entries.waiting.then(|| to_come.to_owned()));
        return lock.put_tombstone(&record).map(|()| Settled::Needed);
    }
    let linger = node.map(|w| w.config(&record.key.network).linger()).unwrap_or_default();
    // As of when the node was read: the scan came later still.
    let read = node.map_or_else(Stamp::now, |w| w.now);
    // A switch that has started since may yet be given everything back that it had.
    let started = node.and_then(|w| w.switch_started);
    let since = record.died.map(|died| started.map_or(died, |started| started.max(died)));
    let left = since.map(|since| linger.saturating_sub(since.until(read))).unwrap_or_default();
    let lingered = left.is_zero();
    let nothing_known = record.unrecorded && record.interface.is_none();
    let needed = || node.is_some_and(|node| BridgeInput::is_needed(node, &record));
    if nothing_known || outcome.bridge_gone || lingered && !needed() {
        debug!("{}: nothing left to watch for", record.key);
        return lock.remove_tombstone(&record).map(|()| Settled::Ended);
    }
    record.state = State::Gone;
    record.last_error = None;
    let settled = if lingered { Settled::Needed } else { Settled::Lingers(left) };
    lock.put_tombstone(&record).map(|()| settled)
}
