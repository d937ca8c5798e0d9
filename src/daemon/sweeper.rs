//! The thread that sweeps whenever it is woken, with the engine that the one-shot sweep has, too.

mod notes;
mod sweep;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use log::{debug, info, warn};

use super::complaints::Complaints;
use super::events::Cleaned;
use super::late_entries::LateEntries;
use super::mass_death_guard::MassDeathGuard;
use super::recovery::StateDirRecovery;
use super::retry_queue::{AttachmentLife, RetryQueue};
use super::scheduler::{Reason, Reasons, SweepResult};
use super::sources::Sources;
use super::{Shared, Thread, requests, systemd};
use crate::reconcile::{Contested, Database, Error, network_states};
use crate::store::{DaemonLock, Pause, Registry, RegistrySnapshot};
use crate::util::clock::{Deadline, Stamp};

/// For everything that one stage of a sweep does on the switch.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);
/// How often it is checked whether the other daemon has ended.
const OTHER_DAEMON: Duration = Duration::from_millis(500);
/// For asking the switch whether it is there.
const PROBE: Duration = Duration::from_secs(2);

/// Runs until the daemon ends.
pub(super) fn start(shared: Arc<Shared>, sources: Sources) -> Result<Thread, super::Error> {
    super::spawn("sweeper", move || {
        Sweeper {
            retry_queue: RetryQueue::new(shared.options.interval),
            late: LateEntries::default(),
            contested: Rc::default(),
            shared: &shared,
            sources: &sources,
            cleaned: HashMap::new(),
            told_ms: Stamp::now().wall_ms,
            lock: None,
            recovery: StateDirRecovery::default(),
            partial_since: None,
            thorough_at: Duration::ZERO,
            thorough_done: false,
            mass_death_guard: MassDeathGuard::default(),
            dumps: BTreeMap::new(),
            dangling: BTreeMap::new(),
            corrupt: Vec::new(),
            notes: Vec::new(),
            complaints: Complaints::default(),
            known: None,
            pause: None,
            database: Rc::default(),
        }
        .run();
    })
}

struct Sweeper<'s> {
    shared: &'s Arc<Shared>,
    sources: &'s Sources,
    /// Orphans that are being cleaned up: each becomes a Kubernetes Event when it is done.
    cleaned: HashMap<AttachmentLife, Cleaned>,
    /// Deliveries up to then have their Events, by the wall clock, in milliseconds.
    told_ms: u64,
    lock: Option<DaemonLock>,
    recovery: StateDirRecovery,
    retry_queue: RetryQueue,
    late: LateEntries,
    contested: Rc<Contested>,
    /// Since when sweeps have judged only those whose namespaces had just gone.
    partial_since: Option<Duration>,
    /// When whole bridges are scanned again.
    thorough_at: Duration,
    /// Whole bridges were scanned without an error since the start.
    thorough_done: bool,
    mass_death_guard: MassDeathGuard,
    /// Entries seen, and dangling ones, by bridge.
    dumps: BTreeMap<String, u64>,
    dangling: BTreeMap<String, u64>,
    /// Files that were not records in the last liveness pass.
    corrupt: Vec<String>,
    /// The notes of the last sweep: the next one logs only others.
    notes: Vec<String>,
    /// What does not work: logged once.
    complaints: Complaints,
    /// The records as the last sweep left them: the next one need not read them first.
    known: Option<RegistrySnapshot>,
    /// The pause that there was when the last sweep began.
    pause: Option<Pause>,
    database: Rc<Database>,
}

/// Why a sweep ended early.
struct Failure {
    /// What is out of order: one of [`object`], or [`PODS`].
    object: &'static str,
    what: String,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { object: error.object(), what: error.to_string() }
    }
}

/// Why and when a sweep began.
struct Beginning<'r> {
    reasons: &'r Reasons,
    at: Duration,
    stamp: Stamp,
}

impl Sweeper<'_> {
    fn run(mut self) {
        while let Some(mut reasons) = self.shared.wakeup.wait() {
            self.beat();
            let began = self.shared.wakeup.now();
            let registry = match self.state_dir() {
                Ok(Some(registry)) => registry,
                Ok(None) => {
                    self.shared.progress.tried();
                    let again =
                        SweepResult { retry_after: Some(OTHER_DAEMON), ..SweepResult::default() };
                    self.shared.wakeup.done(&again);
                    continue;
                }
                Err(failed) => {
                    let failed = self.fail(&failed.into());
                    self.count(&reasons, false);
                    self.shared.progress.tried();
                    self.shared.wakeup.done(&failed);
                    continue;
                }
            };
            // This daemon's own tombstones wake it, too.
            if reasons.has(Reason::Tombstone) && !self.is_news(&registry) {
                reasons.take_back(Reason::Tombstone);
            }
            reasons.take_back(Reason::Record);
            if self.pause_has_ended(&registry) {
                reasons.add(Reason::Pause, began);
            }
            if reasons.first().is_none() {
                self.keep_up(&registry);
                self.shared.wakeup.nothing_new();
                continue;
            }
            let swept = self.sweep(&registry, &reasons);
            let mut result = swept.unwrap_or_else(|failed| self.fail(&failed));
            result.took = self.shared.wakeup.now().saturating_sub(began);
            self.shared.metrics.sweep_duration.observe(result.took.as_secs_f64());
            self.count(&reasons, !result.failed);
            self.shared.wakeup.done(&result);
            self.shared.progress.tried();
            self.keep_records(&registry);
            self.beat();
        }
    }

    fn fail(&mut self, failed: &Failure) -> SweepResult {
        self.complain(failed.object, &failed.what);
        self.shared.progress.well(false, self.shared.wakeup.now());
        SweepResult { failed: true, ..SweepResult::default() }
    }

    fn beat(&self) {
        self.shared.progress.beat(self.shared.wakeup.now());
    }

    fn count(&self, reasons: &Reasons, ok: bool) {
        let trigger = reasons.first().map_or(Reason::Interval, |(reason, _)| reason).to_string();
        let result = if ok { "ok" } else { "failed" }.to_owned();
        self.shared.metrics.sweeps.get_or_create(&[("trigger", trigger), ("result", result)]).inc();
    }

    /// Logs it once, until there is another complaint about this object.
    fn complain(&mut self, object: &str, what: &str) {
        if self.complaints.add(object, what) {
            warn!("{what}; trying again");
            systemd::status(what);
        } else {
            debug!("still: {what}");
        }
    }

    /// An object has answered: a complaint about it is over.
    fn answered(&mut self, object: &str) {
        if self.complaints.answered(object) {
            self.works_again(object);
        }
    }

    fn works_again(&self, object: &str) {
        info!("{object}: works again");
        systemd::status(self.complaints.first().unwrap_or("sweeping"));
    }

    /// The state directory, made if it is not there; none: another daemon has it.
    fn state_dir(&mut self) -> Result<Option<Registry>, Error> {
        let shared = self.shared;
        let directory = &shared.options.state_dir;
        if self.lock.as_ref().is_some_and(|lock| !lock.holds()) {
            warn!(
                "{} was removed: it is made again, and the pods that run are recorded again",
                directory.display()
            );
            self.lock = None;
            self.recovery.begin(shared.wakeup.now());
            // The version of the new directory may equal that of the removed one.
            self.known = None;
            self.retry_queue.retain(&HashSet::new());
        }
        let registry = Registry::open(directory)?;
        if self.lock.is_none() {
            self.lock = registry.lock_daemon()?;
            let taken = self.lock.is_none();
            if shared.progress.waits(taken) {
                let status = if taken {
                    "another daemon has the state directory: waiting for it to end"
                } else {
                    "the other daemon has ended: this one sweeps now"
                };
                warn!("{}: {status}", directory.display());
                systemd::ready(status);
            }
            if taken {
                return Ok(None);
            }
            shared.wanted.changed();
            requests::listen(shared, &registry);
        }
        Ok(Some(registry))
    }

    /// Reads the records again if the sweep has changed them: nobody waits for it now.
    fn keep_records(&mut self, registry: &Registry) {
        let known = self.known.take();
        let current = registry.snapshot_or(known).ok();
        self.known = current.filter(|known| known.version.is_some() && known.is_complete());
        self.database.listen(Deadline::after(TIMEOUT));
        self.shared.requests.close_idle();
    }

    /// Nobody has died, but others have written records: whoever dies next need not wait until they
    /// are read, and who is new is followed.
    fn keep_up(&mut self, registry: &Registry) {
        self.keep_records(registry);
        if let Some(known) = &self.known {
            self.follow(known, &network_states(known));
        }
    }

    /// Whether there are tombstones that this daemon has not written.
    fn is_news(&self, registry: &Registry) -> bool {
        let tombstones = registry.tombstones();
        tombstones.map_or(true, |all| all.iter().any(|life| self.retry_queue.is_news(life)))
    }

    /// Whether the node was paused at the last sweep, and is not any more: a pause may end by itself.
    fn pause_has_ended(&self, registry: &Registry) -> bool {
        self.pause.is_some() && !registry.paused()
    }
}
