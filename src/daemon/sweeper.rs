//! The thread that sweeps whenever it is woken, with the engine that the one-shot sweep has, too.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use log::{debug, info, warn};

use super::complaints::{Complaints, PODS};
use super::events::Cleaned;
use super::late_entries::LateEntries;
use super::mass_death_guard::MassDeathGuard;
use super::metrics::{Server, replace};
use super::recovery::StateDirRecovery;
use super::retry_queue::{AttachmentLife, RetryQueue, SweepStart, life};
use super::scheduler::{Reason, Reasons, SweepResult};
use super::sources::Sources;
use super::{Shared, Thread, requests, systemd};
use crate::config::{NetworkState, bridge_socket};
use crate::liveness::LivenessSource;
use crate::model::attachment::{NetworkName, State};
use crate::openflow::Connection;
use crate::reconcile::{
    Contested, Database, Error, LivenessPass, MOST_ANSWERS, Outcome, SweepRun, Thorough,
    lacks_value, network_states, object,
};
use crate::store::{DaemonLock, Pause, Registry, RegistrySnapshot};
use crate::util::backoff::chance;
use crate::util::clock::{Deadline, Stamp};

/// For everything that one stage of a sweep does on the switch.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);
/// Whole bridges that are not followed are scanned every so many intervals …
const THOROUGH_EVERY: u32 = 10;
/// … and a scan takes one part in so many of the time at most: it stalls the switch for 2 µs a
/// flow.
const THOROUGH_SHARE: u32 = 200;
/// How soon whole bridges are scanned once no dead pod's entries have to be deleted first.
const SOON: Duration = Duration::from_secs(1);
/// How often to look whether the other daemon has ended.
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
            lock: None,
            recovery: StateDirRecovery::default(),
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
    lock: Option<DaemonLock>,
    recovery: StateDirRecovery,
    retry_queue: RetryQueue,
    late: LateEntries,
    contested: Rc<Contested>,
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

    /// Reads the records, finds the dead, deletes their entries, and says when to come again.
    fn sweep(&mut self, registry: &Registry, reasons: &Reasons) -> Result<SweepResult, Failure> {
        let shared = self.shared;
        self.pause = registry.pause();
        self.record_again(registry, reasons)?;
        let began = Beginning { reasons, at: shared.wakeup.now(), stamp: Stamp::now() };
        let known = self.still_known(&began);
        let (database, sources) = (Rc::clone(&self.database), self.sources);
        let contested = Rc::clone(&self.contested);
        let free = |addresses: &BTreeSet<IpAddr>| sources.free(addresses);
        let liveness: Vec<&dyn LivenessSource> =
            sources.liveness.iter().map(AsRef::as_ref).collect();
        let mut run = SweepRun {
            registry: Some(registry),
            run_dir: &shared.run_dir,
            timeout: TIMEOUT,
            sources: &liveness,
            held: self.mass_death_guard.is_engaged(),
            free: sources.knows_addresses().then_some(&free),
            database: Some(&database),
            replicas: Some(&shared.replicas),
            contested: Some(&contested),
            dry_run: false,
            yes: false,
            thorough: Thorough::None,
            learning: reasons.has(Reason::Register),
            details: false,
        };
        let mut pass = run.liveness_pass_knowing(known)?;
        let judged = shared.wakeup.now();
        self.note_pass(&pass, began.stamp);
        let urgent = (!pass.condemned().is_empty() || pass.waits.is_some()) && !pass.paused;
        run.thorough = if urgent { Thorough::None } else { self.thorough(&began) };
        self.note_orphans(&pass);
        let networks = network_states(&pass.registry_snapshot);
        self.watch(&pass, &networks);
        let (queue, late) = (&mut self.retry_queue, &self.late);
        let start = SweepStart { reasons, urgent, now: began.at, late };
        let outcome = run.clean(&pass, |record| queue.is_due(record, &start))?;
        self.late.judged();
        self.check_state_dir(registry);
        run.sighted(&mut pass);
        self.beat();
        let ended = shared.wakeup.now();
        debug!(
            "sweep ({reasons}): {} ms for liveness, {} ms for {} of the dead",
            judged.saturating_sub(began.at).as_millis(),
            ended.saturating_sub(judged).as_millis(),
            outcome.targets.len()
        );
        if urgent && reasons.has(Reason::Flows) {
            // Not counted while others wait for their clean-up.
            shared.wakeup.wake(Reason::Flows);
        }
        self.note_thorough(run.thorough, &outcome, (began.at, ended));
        self.note_outcome(&outcome);
        self.note_cleaned(&outcome, &began, ended);
        let result = self.result(&pass, began.at, ended);
        if self.mass_death_guard.is_count_due(ended) {
            let again = shared.wakeup.now() + shared.options.interval * THOROUGH_EVERY;
            self.mass_death_guard.count(run, &mut pass, again);
        }
        self.follow(&pass.registry_snapshot, &networks);
        self.known = Some(pass.registry_snapshot);
        self.gauges();
        self.complain_of(&outcome, run.thorough == Thorough::All);
        let (failed, waited) = (self.has_failed(&outcome, reasons), outcome.waited);
        Ok(SweepResult { failed, waited, ..result })
    }

    /// Follows the bridges that pods are recorded on, and waits there for the register values that
    /// are not known yet.
    fn follow(&self, snapshot: &RegistrySnapshot, networks: &BTreeMap<NetworkName, NetworkState>) {
        let shared = self.shared;
        let mut bridges: BTreeMap<&str, BTreeSet<u16>> = BTreeMap::new();
        for record in snapshot.attachments.iter().chain(&snapshot.tombstones) {
            let Some(bridge) = record.bridge.as_deref() else { continue };
            let ports = bridges.entry(bridge).or_default();
            let state = networks.get(&record.key.network);
            if record.state == State::Active
                && state.is_some_and(|state| lacks_value(state, record, &snapshot.attachments))
            {
                ports.extend(record.ofport);
            }
        }
        let socket = |bridge: &str| bridge_socket(&shared.run_dir, bridge);
        if let Err(failed) = shared.replicas.follow(bridges, socket) {
            warn!("cannot follow a bridge: {failed}; it is read whenever a pod dies");
        }
    }

    /// Watches for entries of the dead, before anything of theirs is deleted.
    fn watch(&mut self, pass: &LivenessPass, networks: &BTreeMap<NetworkName, NetworkState>) {
        let snapshot = &pass.registry_snapshot;
        let dead = pass.condemned();
        let dead = dead.iter().map(|orphan| &orphan.record).chain(&snapshot.tombstones);
        self.late.watch(&self.shared.replicas, dead, networks);
    }

    /// Records the pods that run, if the state directory was removed: before that, nobody knows
    /// whose tokens are live.
    fn record_again(&mut self, registry: &Registry, reasons: &Reasons) -> Result<(), Failure> {
        self.recovery.find(registry, self.shared).map_err(|failed| Failure {
            object: PODS,
            what: format!("cannot record the pods that run: {failed}"),
        })?;
        self.answered(PODS);
        if reasons.has(Reason::Database) {
            self.answered(object::OVSDB);
        }
        Ok(())
    }

    /// The records that need not be read again. Now and then everything is read again: files can
    /// be lost in ways that no lock tells of, and so can changes of the database.
    fn still_known(&mut self, began: &Beginning<'_>) -> Option<RegistrySnapshot> {
        let wakes_all = began.reasons.wakes_all();
        if wakes_all {
            self.retry_queue.begin_anew();
        }
        if wakes_all || began.at >= self.thorough_at {
            self.database = Rc::default();
        }
        self.known.take().filter(|_| !wakes_all && !began.reasons.has(Reason::Interval))
    }

    /// A sweep that writes no tombstone did not need the lock: a complaint about the state
    /// directory ends when the lock can be had.
    fn check_state_dir(&mut self, registry: &Registry) {
        if self.complaints.is_about(object::STATE_DIRECTORY)
            && registry.lock(Deadline::after(PROBE)).is_ok()
        {
            self.answered(object::STATE_DIRECTORY);
        }
    }

    /// Whether the node was paused at the last sweep, and is not any more: a pause may end by itself.
    fn pause_has_ended(&self, registry: &Registry) -> bool {
        self.pause.is_some() && !registry.paused()
    }

    /// When the next sweep is due by what this one leaves to do, and how many it found dead.
    fn result(&self, pass: &LivenessPass, began: Duration, ended: Duration) -> SweepResult {
        let dead = pass.condemned().len();
        let thorough = (dead > 0 && began >= self.thorough_at).then_some(SOON);
        let next = [
            self.retry_queue.next(ended, &self.late),
            self.recovery.next(ended),
            pass.waits,
            thorough,
            self.pause.as_ref().and_then(Pause::left),
        ];
        // The dead whose burst has not ended yet count for the pace of the sweeps, too.
        let held_back = if pass.waits.is_some() { pass.held_back().count() } else { 0 };
        SweepResult {
            dead: dead.saturating_add(held_back),
            retry_after: next.into_iter().flatten().min(),
            ..SweepResult::default()
        }
    }

    /// What a liveness pass says, for metrics and logs.
    fn note_pass(&mut self, pass: &LivenessPass, now: Stamp) {
        self.answered(object::KERNEL);
        self.beat();
        let snapshot = &pass.registry_snapshot;
        self.recovery.remember(snapshot);
        self.shared.wanted.of_records(snapshot.attachments.iter());
        self.shared.progress.idle(snapshot.networks.is_empty());
        let metrics = &self.shared.metrics;
        metrics.records(snapshot, pass.corrupt.len(), now);
        let unreadable = snapshot.failures.iter().map(ToString::to_string);
        let corrupt: Vec<String> = pass.corrupt.iter().cloned().chain(unreadable).collect();
        for what in corrupt.iter().filter(|what| !self.corrupt.contains(what)) {
            warn!("{what}");
        }
        self.corrupt = corrupt;
        if metrics.paused.set(i64::from(pass.paused)) != i64::from(pass.paused) {
            info!("{}", if pass.paused { "paused: nothing is deleted" } else { "resumed" });
        }
        let lives: HashSet<AttachmentLife> =
            snapshot.tombstones.iter().chain(&snapshot.attachments).map(life).collect();
        self.retry_queue.retain(&lives);
        self.cleaned.retain(|life, _| lives.contains(life));
        self.contested.retain(&lives);
        self.mass_death_guard.update(pass, metrics);
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
                self.cleaned.insert(life, Cleaned { pod, flows: 0, by });
            }
        }
    }

    /// Which bridges are looked at as a whole. A dump stalls the switch for those whose calls wait;
    /// a bridge that is followed is read without one.
    fn thorough(&self, began: &Beginning<'_>) -> Thorough {
        let Beginning { reasons, at, .. } = began;
        let is_due = *at >= self.thorough_at || reasons.has(Reason::Hangup);
        let counts = [Reason::Interval, Reason::Flows, Reason::Interface];
        if is_due && self.shared.requests.is_idle() {
            Thorough::All
        } else if counts.iter().any(|reason| reasons.has(*reason)) || reasons.wakes_all() {
            Thorough::Followed
        } else {
            Thorough::None
        }
    }

    /// Whole bridges were scanned: when the next scan is due of those that are not followed.
    fn note_thorough(&mut self, thorough: Thorough, outcome: &Outcome, at: (Duration, Duration)) {
        if thorough != Thorough::None && outcome.failed.is_none() {
            let unrecorded = i64::try_from(outcome.unrecorded_ports.len()).unwrap_or(i64::MAX);
            self.shared.metrics.unrecorded_ports.set(unrecorded);
        }
        if thorough != Thorough::All {
            return;
        }
        let (began, ended) = at;
        let took = ended.saturating_sub(began);
        let pause = self.shared.options.interval * THOROUGH_EVERY;
        self.thorough_at = ended.saturating_add(pause.max(took * THOROUGH_SHARE));
        // The first one is tried until it succeeds.
        if outcome.error().is_some() && !self.thorough_done {
            self.thorough_at = ended;
        }
        self.thorough_done |= outcome.error().is_none();
    }

    /// What a clean-up did, for metrics, logs and Kubernetes Events.
    fn note_outcome(&mut self, outcome: &Outcome) {
        for note in outcome.notes.iter().filter(|note| !self.notes.contains(*note)) {
            info!("{note}");
        }
        if !outcome.bridges.is_empty() {
            self.notes.clone_from(&outcome.notes);
        }
        for withheld in self.retry_queue.newly_withheld(outcome) {
            info!("{withheld}");
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

    fn gauges(&self) {
        let metrics = &self.shared.metrics;
        replace(&metrics.flows_kept, "reason", &self.retry_queue.kept());
        let mut left = self.retry_queue.left();
        left.extend(self.mass_death_guard.kept().map(|kept| ("brake", kept)));
        replace(&metrics.stale_flows_left, "reason", &left);
        let dumps = self.dumps.iter().map(|(bridge, n)| (bridge.as_str(), *n)).collect();
        replace(&metrics.dump_flows, "bridge", &dumps);
        let dangling: u64 = self.dangling.values().sum();
        metrics.dangling_flows.set(i64::try_from(dangling).unwrap_or(i64::MAX));
    }

    /// Logs what does not work any more, and what works again.
    fn complain_of(&mut self, outcome: &Outcome, thorough: bool) {
        let (news, again) = self.complaints.seen(outcome, thorough);
        for what in &news {
            warn!("{what}; trying again");
            systemd::status(what);
        }
        for object in &again {
            self.works_again(object);
        }
    }

    /// Whether the clean-up failed on the switch. Asks whether ovs-vswitchd is there, if the
    /// outcome does not say it.
    fn has_failed(&self, outcome: &Outcome, reasons: &Reasons) -> bool {
        let shared = self.shared;
        let failed = outcome.failed.is_some() || outcome.bridges.iter().any(|b| b.error.is_some());
        if !failed && !outcome.bridges.is_empty() {
            shared.server(Server::Vswitchd, true);
        } else if failed || reasons.has(Reason::Interval) || reasons.wakes_all() {
            shared.server(Server::Vswitchd, answers(&shared.run_dir));
        }
        if !failed {
            let seconds = Duration::from_millis(Stamp::now().wall_ms).as_secs_f64();
            shared.metrics.last_sweep.set(seconds);
            shared.progress.swept();
        }
        failed
    }
}

/// Whether ovs-vswitchd answers on the first of its bridges; not if it has none.
fn answers(run_dir: &Path) -> bool {
    let files = std::fs::read_dir(run_dir).into_iter().flatten().flatten();
    let sockets = files.map(|file| file.path());
    let first = sockets.filter(|path| path.extension().is_some_and(|e| e == "mgmt")).min();
    first.is_some_and(|path| Connection::open(&path, Deadline::after(PROBE)).is_ok())
}
