//! What a sweep found and did, for logs, metrics, Kubernetes Events and the retry queue.

use std::collections::HashSet;
use std::time::Duration;

use log::{debug, info, warn};

use super::super::events::Cleaned;
use super::super::metrics::{LEFT, replace};
use super::super::retry_queue::{AttachmentLife, life};
use super::super::scheduler::Reason;
use super::super::systemd;
use super::{Beginning, Sweeper};
use crate::judge;
use crate::reconcile::{LivenessPass, MOST_ANSWERS, Outcome, object};
use crate::store::{DeliveredDel, Registry};
use crate::util::backoff::chance;
use crate::util::clock::Stamp;
use crate::util::logging::Often;

impl Sweeper<'_> {
    /// What a liveness pass says, for metrics and logs: what must be known before anything is
    /// deleted.
    pub(super) fn note_liveness(&mut self, pass: &LivenessPass) {
        self.answered(object::KERNEL);
        self.beat();
        let metrics = &self.shared.metrics;
        if metrics.paused.set(i64::from(pass.paused)) != i64::from(pass.paused) {
            info!("{}", if pass.paused { "paused: nothing is deleted" } else { "resumed" });
        }
        self.mass_death_guard.update(pass, metrics);
        self.note_orphans(pass);
    }

    /// What the records say, for metrics and logs: behind the clean-up, for nothing waits for it.
    pub(super) fn note_records(&mut self, pass: &LivenessPass, began: &Beginning<'_>) {
        let snapshot = &pass.registry_snapshot;
        self.recovery.remember(snapshot);
        self.shared.wanted.of_records(snapshot.attachments.iter());
        self.shared.progress.idle(snapshot.networks.is_empty());
        let metrics = &self.shared.metrics;
        metrics.records(snapshot, pass.corrupt.len(), began.stamp);
        let unreadable = snapshot.failures.iter().map(ToString::to_string);
        let corrupt: Vec<String> = pass.corrupt.iter().cloned().chain(unreadable).collect();
        for what in corrupt.iter().filter(|what| !self.corrupt.contains(what)) {
            warn!("{what}");
        }
        self.corrupt = corrupt;
        let lives: HashSet<AttachmentLife> =
            snapshot.tombstones.iter().chain(&snapshot.attachments).map(life).collect();
        self.retry_queue.retain(&lives);
        self.cleaned.retain(|life, _| lives.contains(life));
        self.contested.retain(&lives);
    }

    /// Counts orphans that are swept for the first time.
    fn note_orphans(&mut self, pass: &LivenessPass) {
        for orphan in pass.condemned().iter() {
            let life = life(&orphan.record);
            if self.retry_queue.knows(&life) {
                continue;
            }
            let source = orphan.source().to_owned();
            self.shared.metrics.orphans.get_or_create(&[("source", source)]).inc();
            if self.sources.events.is_some()
                && let Some(pod) = orphan.record.pod.clone()
            {
                let by = orphan.by.first().copied();
                self.cleaned.insert(life, Cleaned { pod, flows: 0, by, delivered: None });
            }
        }
    }

    /// What a clean-up did, for metrics, logs, Kubernetes Events and the retry queue.
    pub(super) fn note_clean_up(
        &mut self,
        outcome: &Outcome,
        began: &Beginning<'_>,
        ended: Duration,
    ) {
        self.note_outcome(outcome);
        self.note_cleaned(outcome, began, ended);
    }

    /// What a clean-up did, for metrics, logs and Kubernetes Events.
    fn note_outcome(&mut self, outcome: &Outcome) {
        for note in outcome.notes.iter().filter(|note| !self.notes.contains(*note)) {
            Often::Note.say(note);
        }
        if !outcome.bridges.is_empty() {
            self.notes.clone_from(&outcome.notes);
        }
        for withheld in self.retry_queue.newly_withheld(outcome) {
            Often::Withheld.say(&withheld);
        }
        self.shared.metrics.cleaned(outcome);
        for bridge in outcome.bridges.iter().filter(|bridge| bridge.error.is_none()) {
            self.dumps.insert(bridge.bridge.clone(), bridge.counts.flows);
            if bridge.counts.full {
                self.dangling.insert(bridge.bridge.clone(), bridge.counts.dangling);
            }
        }
        for target in &outcome.targets {
            let contested = target.entries.kept.get("contested").copied().unwrap_or_default();
            if contested > 0 && self.retry_queue.kept_of(&target.life, "contested") == 0 {
                warn!(
                    "{}: {contested} entries of it came back after {MOST_ANSWERS} deletes each, and \
                     are kept: which controller puts them there?",
                    target.pod
                );
            }
            if let Some(cleaned) = self.cleaned.get_mut(&target.life) {
                cleaned.flows = cleaned.flows.saturating_add(target.entries.deleted);
            }
        }
    }

    /// Takes the outcome over into the retry queue. How long a pod that is clean now was dead is
    /// counted from its death, if that is known; else from the event that woke this sweep, if
    /// there was one; else from the beginning of this sweep.
    fn note_cleaned(&mut self, outcome: &Outcome, began: &Beginning<'_>, ended: Duration) {
        let event = began.reasons.first().filter(|(reason, _)| {
            !matches!(reason, Reason::Interval | Reason::Retry | Reason::Start | Reason::Hangup)
        });
        let now = Stamp::now();
        let at = (ended, chance());
        for target in self.retry_queue.update(outcome, at, &self.late) {
            self.send_event(&target.life);
            let died = target.died.filter(|died| *died < began.stamp).map(|died| died.until(now));
            let since = died.or_else(|| event.map(|(_, at)| ended.saturating_sub(at)));
            let since = since.unwrap_or_else(|| began.stamp.until(now));
            self.shared.metrics.cleanup_latency.observe(since.as_secs_f64());
            debug!("{}: clean {} ms after its death was seen", target.pod, since.as_millis());
        }
    }

    /// An orphan is cleaned up: an Event for the cluster's operators, if entries were deleted.
    fn send_event(&mut self, life: &AttachmentLife) {
        let cleaned = self.cleaned.remove(life).filter(|cleaned| cleaned.flows > 0);
        if let (Some(events), Some(cleaned)) = (&self.sources.events, cleaned) {
            events.cleaned(cleaned);
        }
    }

    /// Whose DEL `deliver` has delivered since the last sweep: Events, too.
    pub(super) fn tell_deliveries(&mut self, registry: &Registry) {
        let Some(events) = &self.sources.events else { return };
        let told = self.told_ms;
        let delivered = registry.deliveries().log().delivered;
        for DeliveredDel { wall_ms, pod, plugins } in
            delivered.into_iter().filter(|one| one.wall_ms > told)
        {
            self.told_ms = self.told_ms.max(wall_ms);
            events.cleaned(Cleaned { pod, flows: 0, by: None, delivered: Some(plugins) });
        }
    }

    /// Whether no stale entry is left.
    pub(super) fn gauges(&self) -> bool {
        let metrics = &self.shared.metrics;
        let (_, keeping) = judge::Reason::words();
        replace(&metrics.flows_kept, "reason", keeping, &self.retry_queue.kept());
        let mut left = self.retry_queue.left();
        left.extend(self.mass_death_guard.kept().map(|kept| ("brake", kept)));
        replace(&metrics.stale_flows_left, "reason", &LEFT, &left);
        let dumps = self.dumps.iter().map(|(bridge, n)| (bridge.as_str(), *n)).collect();
        replace(&metrics.dump_flows, "bridge", &[], &dumps);
        let dangling: u64 = self.dangling.values().sum();
        metrics.dangling_flows.set(i64::try_from(dangling).unwrap_or(i64::MAX));
        left.values().all(|count| *count == 0)
    }

    /// Logs what does not work any more, and what works again.
    pub(super) fn complain_of(&mut self, outcome: &Outcome, thorough: bool) {
        let (news, again) = self.complaints.seen(outcome, thorough);
        for what in &news {
            warn!("{what}; trying again");
            systemd::status(what);
        }
        for object in &again {
            self.works_again(object);
        }
    }
}
