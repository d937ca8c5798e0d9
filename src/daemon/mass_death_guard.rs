//! The guard against mass deaths ("the brake") as the daemon shows it: in the log, in the
//! metrics, and with the number of entries that it keeps.

use std::collections::HashSet;
use std::time::Duration;

use log::{debug, error, info, warn};

use super::metrics::Metrics;
use super::retry_queue::{AttachmentLife, life};
use crate::liveness::{Source, mass_death_guard::swept_before};
use crate::model::attachment::State;
use crate::reconcile::{LivenessPass, SweepRun, Thorough};

#[derive(Debug, Default)]
pub(super) struct MassDeathGuard {
    /// The source that is doubted, and how many would have died.
    engaged: Option<(Source, usize)>,
    /// Stale entries that it keeps, at the last count.
    kept: u64,
    /// When they are counted again.
    count_at: Duration,
}

impl MassDeathGuard {
    pub(super) fn is_engaged(&self) -> bool {
        self.engaged.is_some()
    }

    /// Stale entries that it keeps, while it is engaged.
    pub(super) fn kept(&self) -> Option<u64> {
        self.engaged.map(|_| self.kept)
    }

    /// Takes over what a liveness pass decided, and logs what has changed.
    pub(super) fn update(&mut self, pass: &LivenessPass, metrics: &Metrics) {
        let (dead, total) = (pass.held_back().count(), pass.orphans.total);
        let before = std::mem::replace(&mut self.engaged, pass.braked.map(|source| (source, dead)));
        metrics.brake_engaged.set(i64::from(self.is_engaged()));
        match (before, self.engaged) {
            (None, Some((source, _))) => {
                metrics.brake_pulled.inc();
                self.count_at = Duration::ZERO;
                error!(
                    "brake: {dead} of {total} attachments seem dead at once on the word of {source} \
                     alone{}, so nothing of theirs is deleted. Is the netns directory mounted? If \
                     they are dead indeed: ovs-flow-gc sweep --yes",
                    swept_before(pass.swept_before)
                );
            }
            (Some((_, n)), Some((source, _))) if n != dead => {
                warn!("brake: {dead} of {total} attachments by now on the word of {source}");
            }
            (Some(_), None) => {
                self.kept = 0;
                info!("brake: released");
            }
            _ => {}
        }
    }

    /// Whether the entries that it keeps are to be counted now.
    pub(super) fn is_count_due(&self, now: Duration) -> bool {
        self.is_engaged() && now >= self.count_at
    }

    /// Counts the stale entries that it keeps, by a dry run without it. `again`: when to count
    /// them the next time.
    pub(super) fn count(&mut self, run: SweepRun<'_>, pass: &mut LivenessPass, again: Duration) {
        self.count_at = again;
        let dry = SweepRun { dry_run: true, thorough: Thorough::None, learning: false, ..run };
        let held: HashSet<AttachmentLife> = pass.held_back().map(|o| life(&o.record)).collect();
        pass.braked = None;
        match dry
            .clean(pass, |record| record.state == State::Active && held.contains(&life(record)))
        {
            Ok(outcome) => self.kept = outcome.targets.iter().map(|t| t.entries.stale).sum(),
            Err(failed) => debug!("cannot count what the brake keeps: {failed}"),
        }
    }
}
