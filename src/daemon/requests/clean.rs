//! A call's request as a clean-up of the engine that every verb uses.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Shared, locked, not_done, registry};
use crate::model::attachment::Key;
use crate::reconcile::wire::CleanResult::{Failed, Refused, Withdrawn};
use crate::reconcile::wire::{CleanReply, WireRequest, WireTarget, database_identity};
use crate::reconcile::{CleanRequest, CleanTarget, Lease, Leases, Outcome, orphans};
use crate::store::{Registry, RegistrySnapshot};
use crate::util::clock::{Deadline, Stamp, boot_id};
use crate::util::logging::Often;

/// However long a call says that it waits.
const LONGEST: Duration = Duration::from_secs(2);

/// A request that can be done.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) request: WireRequest,
    pub(super) targets: Vec<CleanTarget>,
    pub(super) lease: Lease,
    /// Whoever has done it puts the answer here.
    pub(super) reply: Mutex<Option<CleanReply>>,
}

impl Job {
    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.targets.iter().map(|target| &target.attachment.key)
    }

    fn is_of(&self, key: &Key) -> bool {
        self.keys().any(|own| own == key)
    }

    /// Whether it can be done together with another: the same verb and configuration, and no dead
    /// in common.
    pub(super) fn goes_with(&self, other: &Self) -> bool {
        let WireRequest { verb, overlay, adding, .. } = &self.request;
        let alike = *verb == other.request.verb && *overlay == other.request.overlay;
        alike && adding.is_none() && !other.keys().any(|key| self.is_of(key))
    }

    /// The bridge that it is about, as far as the records tell.
    pub(super) fn bridge(&self) -> String {
        let named = self.targets.iter().find_map(|target| target.attachment.bridge.clone());
        named.unwrap_or_default()
    }

    pub(super) fn left(&self) -> Duration {
        let left = self.request.until_ms.saturating_sub(Stamp::now().boot_ms);
        Duration::from_millis(left).min(LONGEST)
    }

    /// What came of it in a clean-up that it was part of.
    fn reply_of(&self, outcome: &Outcome) -> CleanReply {
        let own = || outcome.targets.iter().filter(|target| self.is_of(&target.life.0));
        let error = own().find_map(|target| target.error.as_deref());
        if let Some(why) = outcome.failed.as_deref().or(error) {
            return not_done(if self.lease.holds() { Failed } else { Withdrawn }, why);
        }
        let withheld = outcome.withheld().filter(|w| w.of.is_some_and(|of| self.is_of(&of.life.0)));
        let withheld = withheld.map(|withheld| withheld.count).sum();
        CleanReply::done(own().map(|target| target.entries.deleted).sum(), withheld)
    }
}

/// A request as something that can be done, or why it cannot.
pub(super) fn job(
    shared: &Shared,
    request: WireRequest,
    lease: Lease,
) -> Result<Job, (Lease, CleanReply)> {
    match targets_of(shared, &request) {
        Ok(_) if !lease.holds() => {
            Err((lease, not_done(Withdrawn, "the call does not wait any longer")))
        }
        Ok(targets) => Ok(Job { request, targets, lease, reply: Mutex::default() }),
        Err(reply) => Err((lease, reply)),
    }
}

fn targets_of(shared: &Shared, request: &WireRequest) -> Result<Vec<CleanTarget>, CleanReply> {
    let boot = boot_id().map_err(|error| not_done(Failed, &error.to_string()))?;
    if request.boot_id != boot {
        return Err(not_done(Refused, "it is of another boot"));
    }
    if database_identity(&shared.run_dir) != Some(request.database) {
        return Err(not_done(Refused, "it is about another Open vSwitch"));
    }
    let registry = registry(shared).map_err(|why| not_done(Failed, &why))?;
    targets(&registry, &request.targets, &boot).map_err(|why| not_done(Failed, &why))
}

/// Does requests that go together, and answers each.
pub(super) fn clean(shared: &Shared, jobs: &[Arc<Job>]) {
    let Some(first) = jobs.first() else { return };
    let registry = match registry(shared) {
        Ok(registry) => registry,
        Err(why) => {
            jobs.iter().for_each(|job| *locked(&job.reply) = Some(not_done(Failed, &why)));
            return;
        }
    };
    let mut leases = Leases::default();
    jobs.iter().for_each(|job| leases.add(&job.lease, job.keys()));
    let deadline = Deadline::after(jobs.iter().map(|job| job.left()).max().unwrap_or_default());
    let database = shared.requests.databases.take();
    let request = &first.request;
    let overlay = request.overlay.clone().map(|overlay| (overlay.network, overlay.config));
    let run_dir = shared.run_dir.clone();
    let mut cleaning =
        CleanRequest::of_call(Some(&registry), run_dir, deadline, request.verb.as_str())
            .overlaid(overlay)
            .leased(&leases, &database)
            .following(&shared.replicas);
    if let Some(key) = request.adding.clone() {
        cleaning = cleaning.adding(key);
    }
    let targets = jobs.iter().flat_map(|job| job.targets.clone()).collect();
    let outcome = cleaning.clean_knowing(targets, records(shared, &registry));
    outcome.withheld().for_each(|withheld| Often::Withheld.say(&withheld));
    shared.metrics.cleaned(&outcome);
    for job in jobs {
        *locked(&job.reply) = Some(job.reply_of(&outcome));
    }
    // Others wait for their part, too.
    shared.requests.queue.changed.notify_all();
    drop(cleaning);
    shared.requests.databases.keep(database);
}

/// The records; those whose files are as they were are not read again.
fn records(shared: &Shared, registry: &Registry) -> Option<RegistrySnapshot> {
    let known = locked(&shared.requests.known).as_ref().and_then(RegistrySnapshot::for_another);
    let read = registry.snapshot_or(known).ok()?;
    *locked(&shared.requests.known) = read.for_another();
    Some(read)
}

/// The dead as they are written down. One that is not has to be cleaned up by who knows of it.
fn targets(
    registry: &Registry,
    asked: &[WireTarget],
    boot: &str,
) -> Result<Vec<CleanTarget>, String> {
    let now = Stamp::now();
    let target = |asked: &WireTarget| {
        let WireTarget { key, generation, cause } = asked;
        let tombstone = registry.tombstone(key, *generation).map_err(|error| error.to_string())?;
        let tombstone = tombstone.ok_or_else(|| format!("{key}: it has no such tombstone"))?;
        let attachment = orphans::died(tombstone, now, boot);
        Ok(CleanTarget { attachment, cause: cause.clone() })
    };
    asked.iter().map(target).collect()
}
