//! The thread that sweeps: whenever the bell rings, with the engine that the one-shot sweep
//! has, too.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use log::{debug, error, info, warn};

use super::complaints::{Complaints, PODS};
use super::events::Cleaned;
use super::metrics::{Server, replace};
use super::recovery::StateDirRecovery;
use super::retry_queue::{AttachmentLife, RetryQueue};
use super::scheduler::{Outcome, Reason, Reasons};
use super::sources::Sources;
use super::{Shared, Thread, systemd};
use crate::liveness::{LivenessSource, Source, mass_death_guard};
use crate::model::attachment::State;
use crate::openflow::Connection;
use crate::reconcile::{self, Database, Error, LivenessPass, SweepRun, object};
use crate::store::{DaemonLock, Registry, RegistrySnapshot};
use crate::util::backoff::chance;
use crate::util::clock::{Deadline, Stamp};

/// For everything that one stage of a sweep does on the switch.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);
/// A look at whole bridges every so many intervals …
const THOROUGH_EVERY: u32 = 10;
/// … and for this part of the time at most: it stalls the switch for 2 µs a flow.
const THOROUGH_SHARE: u32 = 200;
/// How soon a look at whole bridges comes after the dead that came in between.
const SOON: Duration = Duration::from_secs(1);
/// How often to look whether the other daemon has ended.
const OTHER_DAEMON: Duration = Duration::from_millis(500);
/// For asking the switch whether it is there.
const PROBE: Duration = Duration::from_secs(2);

/// Runs until the bell is stopped.
pub(super) fn start(shared: Arc<Shared>, sources: Sources) -> Result<Thread, super::Error> {
    super::spawn("sweeper", move || {
        Sweeper {
            retry_queue: RetryQueue::new(shared.options.interval),
            shared: &shared,
            sources: Arc::new(sources),
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
            database: Rc::default(),
        }
        .run();
    })
}

#[derive(Debug, Default)]
struct MassDeathGuard {
    /// Whose word is doubted, and how many would have died.
    engaged: Option<(Source, usize)>,
    /// Stale entries that it keeps, at the last count.
    left: u64,
    /// When they are counted again.
    count_at: Duration,
}

struct Sweeper<'s> {
    shared: &'s Shared,
    sources: Arc<Sources>,
    /// Orphans that are being cleaned up, for the API server: told when they are done.
    cleaned: HashMap<AttachmentLife, Cleaned>,
    lock: Option<DaemonLock>,
    recovery: StateDirRecovery,
    retry_queue: RetryQueue,
    thorough_at: Duration,
    thorough_done: bool,
    mass_death_guard: MassDeathGuard,
    /// Entries seen, and dangling ones, by bridge.
    dumps: BTreeMap<String, u64>,
    dangling: BTreeMap<String, u64>,
    /// Files that were not records at the last roll call.
    corrupt: Vec<String>,
    /// What the last sweep had to say: the next one need not say it again.
    notes: Vec<String>,
    /// What does not work: said once.
    complaints: Complaints,
    /// The records at the last roll call, or as the last sweep left them: the next death need
    /// not wait until they are read.
    known: Option<RegistrySnapshot>,
    database: Rc<Database>,
}

/// What a sweep is about to need.
enum StateDir {
    Ours(Registry),
    /// Another daemon's.
    Taken,
}

impl Sweeper<'_> {
    fn run(mut self) {
        while let Some(mut reasons) = self.shared.wakeup.wait() {
            self.beat();
            let began = self.shared.wakeup.now();
            let state_dir = match self.state_dir() {
                Ok(StateDir::Ours(registry)) => registry,
                Ok(StateDir::Taken) => {
                    self.shared.progress.tried();
                    let again = Outcome { look_again: Some(OTHER_DAEMON), ..Outcome::default() };
                    self.shared.wakeup.done(&again);
                    continue;
                }
                Err(failed) => {
                    self.complain(failed.object(), &failed.to_string());
                    self.count(&reasons, false);
                    self.shared.progress.tried();
                    self.shared.wakeup.done(&Outcome { failed: true, ..Outcome::default() });
                    continue;
                }
            };
            // Our own tombstones ring, too.
            if reasons.has(Reason::Tombstone) && !self.is_news(&state_dir) {
                reasons.take_back(Reason::Tombstone);
                if reasons.first().is_none() {
                    self.shared.wakeup.nothing_new();
                    continue;
                }
            }
            let mut outcome = self.sweep(&state_dir, &reasons);
            outcome.took = self.shared.wakeup.now().saturating_sub(began);
            self.shared.metrics.sweep_duration.observe(outcome.took.as_secs_f64());
            self.count(&reasons, !outcome.failed);
            self.shared.wakeup.done(&outcome);
            self.shared.progress.tried();
            self.keep_records(&state_dir);
            self.beat();
        }
    }

    fn beat(&self) {
        self.shared.progress.beat(self.shared.wakeup.now());
    }

    fn count(&self, reasons: &Reasons, ok: bool) {
        let trigger = reasons.first().map_or(Reason::Interval, |(reason, _)| reason).to_string();
        let result = if ok { "ok" } else { "failed" }.to_owned();
        self.shared.metrics.sweeps.get_or_create(&[("trigger", trigger), ("result", result)]).inc();
    }

    /// Says it once, until something else is to be said of this object.
    fn complain(&mut self, object: &str, what: &str) {
        if self.complaints.add(object, what) {
            warn!("{what}; trying again");
            systemd::status(what);
        } else {
            debug!("still: {what}");
        }
    }

    /// An object has answered: what was said of it is over.
    fn answered(&mut self, object: &str) {
        if self.complaints.answered(object) {
            self.works_again(object);
        }
    }

    fn works_again(&self, object: &str) {
        info!("{object}: works again");
        systemd::status(self.complaints.first().unwrap_or("sweeping"));
    }

    /// The state directory, made if it is not there, with no other daemon in it.
    fn state_dir(&mut self) -> Result<StateDir, Error> {
        let shared = self.shared;
        let directory = &shared.options.state_dir;
        if self.lock.as_ref().is_some_and(|lock| !lock.holds()) {
            warn!(
                "{} was removed: it is made again, and the pods that run are recorded again",
                directory.display()
            );
            self.lock = None;
            self.recovery.happened(shared.wakeup.now());
            // A new lock file may be numbered and counted as the old one was.
            self.known = None;
            self.retry_queue.only(&HashSet::new());
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
                return Ok(StateDir::Taken);
            }
            shared.wanted.look_again();
        }
        Ok(StateDir::Ours(registry))
    }

    /// Reads the records again now that there is time, if the sweep has changed them.
    fn keep_records(&mut self, registry: &Registry) {
        let known = self.known.take();
        let current = registry.snapshot_or(known).ok();
        self.known = current.filter(|known| known.version.is_some() && known.is_complete());
        self.database.listen(Deadline::after(TIMEOUT));
    }

    /// Whether there are tombstones that are not our own.
    fn is_news(&self, registry: &Registry) -> bool {
        let tombstones = registry.tombstones();
        tombstones.map_or(true, |all| all.iter().any(|life| self.retry_queue.is_news(life)))
    }

    fn sweep(&mut self, registry: &Registry, reasons: &Reasons) -> Outcome {
        let shared = self.shared;
        // No sweep before it is known who is there.
        if let Err(failed) = self.recovery.find(registry, shared) {
            self.complain(PODS, &format!("cannot record the pods that run: {failed}"));
            return Outcome { failed: true, ..Outcome::default() };
        }
        self.answered(PODS);
        if reasons.has(Reason::Database) {
            self.answered(object::OVSDB);
        }
        let (now, stamp) = (shared.wakeup.now(), Stamp::now());
        if reasons.wakes_all() {
            self.retry_queue.begin_anew();
        }
        if reasons.wakes_all() || now >= self.thorough_at {
            // As with the records: nothing is believed for ever.
            self.database = Rc::default();
        }
        let database = Rc::clone(&self.database);
        let sources = Arc::clone(&self.sources);
        let free = |addresses: &BTreeSet<IpAddr>| sources.free(addresses);
        let witnesses: Vec<&dyn LivenessSource> =
            sources.witnesses.iter().map(AsRef::as_ref).collect();
        let mut run = SweepRun {
            registry: Some(registry),
            run_dir: &shared.run_dir,
            timeout: TIMEOUT,
            witnesses: &witnesses,
            held: self.mass_death_guard.engaged.is_some(),
            free: sources.knows_addresses().then_some(&free),
            database: Some(&database),
            dry_run: false,
            yes: false,
            thorough: false,
            details: false,
        };
        // Now and then they are read whatever is known of them: files can be lost in ways that
        // no lock tells of.
        let known = self.known.take();
        let known = known.filter(|_| !reasons.wakes_all() && !reasons.has(Reason::Interval));
        let mut pass = match run.liveness_pass_knowing(known) {
            Ok(pass) => pass,
            Err(failed) => {
                self.complain(failed.object(), &failed.to_string());
                return Outcome { failed: true, ..Outcome::default() };
            }
        };
        self.answered(object::KERNEL);
        self.beat();
        self.recovery.remember(&pass.registry_snapshot);
        let called = shared.wakeup.now();
        shared.wanted.of_records(pass.registry_snapshot.attachments.iter());
        self.called(&pass, stamp);
        let dead = pass.condemned().len();
        let nobody_waits = dead == 0 && pass.waits.is_none() || pass.paused;
        run.thorough = nobody_waits && (now >= self.thorough_at || reasons.has(Reason::Hangup));
        self.note_orphans(&pass);

        let (retry_queue, urgent) = (&mut self.retry_queue, !nobody_waits);
        let done = match run.clean(&pass, |record| retry_queue.is_due(record, reasons, urgent, now))
        {
            Ok(done) => done,
            Err(failed) => {
                self.complain(failed.object(), &failed.to_string());
                return Outcome { failed: true, ..Outcome::default() };
            }
        };
        // A sweep that buries nobody did not need the lock.
        if self.complaints.is_about(object::STATE_DIRECTORY)
            && registry.lock(Deadline::after(PROBE)).is_ok()
        {
            self.answered(object::STATE_DIRECTORY);
        }
        run.sighted(&mut pass);
        self.beat();
        let ended = shared.wakeup.now();
        debug!(
            "sweep ({reasons}): {} ms for the roll call, {} ms for {} of the dead",
            called.saturating_sub(now).as_millis(),
            ended.saturating_sub(called).as_millis(),
            done.targets.len()
        );
        if run.thorough {
            if done.failed.is_none() {
                let unrecorded = i64::try_from(done.unrecorded_ports.len());
                shared.metrics.unrecorded_ports.set(unrecorded.unwrap_or(i64::MAX));
            }
            let took = ended.saturating_sub(now);
            let pause = shared.options.interval * THOROUGH_EVERY;
            self.thorough_at = ended.saturating_add(pause.max(took * THOROUGH_SHARE));
            if done.error().is_some() && !self.thorough_done {
                self.thorough_at = ended;
            }
            self.thorough_done |= done.error().is_none();
        }
        self.done(&done, &pass, reasons, ended, stamp);
        let (roll_waits, held_back) = (pass.waits, pass.held_back().count());
        if pass.braked.is_some() && ended >= self.mass_death_guard.count_at {
            self.count_braked(run, &mut pass);
        }
        self.known = Some(pass.registry_snapshot);
        self.gauges();
        self.complain_of(&done, run.thorough);
        let failed = self.failed(&done, &shared.run_dir, reasons);
        let waiting = [self.retry_queue.next(ended), self.recovery.next(ended)];
        let mut look_again = waiting.into_iter().flatten().chain(roll_waits).min();
        if dead > 0 && now >= self.thorough_at {
            look_again = Some(look_again.map_or(SOON, |after| after.min(SOON)));
        }
        // Those of a burst that wait are its pace, too.
        let dead = dead.saturating_add(if roll_waits.is_some() { held_back } else { 0 });
        Outcome { dead, failed, look_again, took: Duration::ZERO }
    }

    /// What the roll call says, for metrics and logs.
    fn called(&mut self, pass: &LivenessPass, now: Stamp) {
        let metrics = &self.shared.metrics;
        let LivenessPass { registry_snapshot, orphans, corrupt, .. } = pass;
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let gone = registry_snapshot.tombstones.iter().filter(|t| t.state == State::Gone).count();
        let tombstones_written = registry_snapshot.tombstones.len();
        for (state, n) in [
            ("active", registry_snapshot.attachments.len()),
            ("gone", gone),
            ("deleting", tombstones_written.saturating_sub(gone)),
        ] {
            metrics.attachments.get_or_create(&[("state", state.to_owned())]).set(count(n));
        }
        metrics.tombstones.set(count(tombstones_written));
        let died = registry_snapshot.tombstones.iter().filter_map(|t| t.died);
        let oldest = died.map(|died| died.until(now)).max().unwrap_or_default();
        metrics.oldest_tombstone_age.set(oldest.as_secs_f64());
        let unfinished = registry_snapshot.tombstones.iter().filter(|t| t.state == State::Deleting);
        let oldest = unfinished.filter_map(|t| t.died).map(|died| died.until(now)).max();
        metrics.oldest_unfinished_age.set(oldest.unwrap_or_default().as_secs_f64());
        self.shared.progress.idle(registry_snapshot.networks.is_empty());
        metrics
            .corrupt_records
            .set(count(corrupt.len().saturating_add(registry_snapshot.aside.len())));
        let unreadable = registry_snapshot.failures.iter().map(ToString::to_string);
        let odd: Vec<String> = corrupt.iter().cloned().chain(unreadable).collect();
        for what in odd.iter().filter(|what| !self.corrupt.contains(what)) {
            warn!("{what}");
        }
        self.corrupt = odd;
        if metrics.paused.set(i64::from(pass.paused)) != i64::from(pass.paused) {
            info!("{}", if pass.paused { "paused: nothing is deleted" } else { "resumed" });
        }
        let lives = registry_snapshot.tombstones.iter().chain(&registry_snapshot.attachments);
        let lives: HashSet<AttachmentLife> = lives.map(|a| (a.key.clone(), a.generation)).collect();
        self.retry_queue.only(&lives);
        self.cleaned.retain(|life, _| lives.contains(life));

        let (dead, total) = (pass.held_back().count(), orphans.total);
        let before = self.mass_death_guard.engaged;
        self.mass_death_guard.engaged = pass.braked.map(|source| (source, dead));
        metrics.brake_engaged.set(i64::from(pass.braked.is_some()));
        match (before, self.mass_death_guard.engaged) {
            (None, Some((source, _))) => {
                metrics.brake_pulled.inc();
                self.mass_death_guard.count_at = Duration::ZERO;
                error!(
                    "brake: {dead} of {total} attachments seem dead at once on the word of {source} \
                     alone{}, so nothing of theirs is deleted. Is the netns directory mounted? If \
                     they are dead indeed: ovs-flow-gc sweep --yes",
                    mass_death_guard::swept_before(pass.swept_before)
                );
            }
            (Some((_, n)), Some((source, _))) if n != dead => {
                warn!("brake: {dead} of {total} attachments by now on the word of {source}");
            }
            (Some(_), None) => {
                self.mass_death_guard.left = 0;
                info!("brake: released");
            }
            _ => {}
        }
    }

    /// Counts orphans that are swept for the first time.
    fn note_orphans(&mut self, pass: &LivenessPass) {
        for orphan in pass.condemned().iter() {
            let life = (orphan.record.key.clone(), orphan.record.generation);
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

    /// What came of the clean-up.
    fn done(
        &mut self,
        done: &reconcile::Outcome,
        pass: &LivenessPass,
        reasons: &Reasons,
        now: Duration,
        then: Stamp,
    ) {
        let metrics = &self.shared.metrics;
        for note in done.notes.iter().filter(|note| !self.notes.contains(*note)) {
            info!("{note}");
        }
        if !done.bridges.is_empty() {
            self.notes.clone_from(&done.notes);
        }
        for withheld in self.retry_queue.unsaid(done) {
            info!("{withheld}");
        }
        for bridge in &done.bridges {
            for (reason, n) in &bridge.deleted_by {
                let label = [("reason", (*reason).to_owned())];
                metrics.flows_deleted.get_or_create(&label).inc_by(*n);
            }
            metrics.put_back.inc_by(bridge.counts.put_back);
            metrics.suspicions.inc_by(bridge.counts.suspicions);
            if bridge.error.is_none() {
                self.dumps.insert(bridge.bridge.clone(), bridge.counts.flows);
                if bridge.counts.full {
                    self.dangling.insert(bridge.bridge.clone(), bridge.counts.dangling);
                }
            }
        }
        for target in &done.targets {
            metrics.values_never_known.inc_by(u64::from(target.ended && target.value_unknown));
            if let Some(cleaned) = self.cleaned.get_mut(&target.life) {
                cleaned.flows = cleaned.flows.saturating_add(target.entries.deleted);
            }
        }
        // From the event that told of it, if it was one; else from when it was noticed.
        let heard = reasons.first().filter(|(reason, _)| {
            !matches!(reason, Reason::Interval | Reason::Retry | Reason::Start | Reason::Hangup)
        });
        let ended = Stamp::now();
        for target in self.retry_queue.looked(done, pass.paused || done.paused, now, chance()) {
            self.tell(&target.life);
            let died = target.died.filter(|died| *died < then).map(|died| died.until(ended));
            let since = died.or_else(|| heard.map(|(_, at)| now.saturating_sub(at)));
            let since = since.unwrap_or_else(|| then.until(ended));
            metrics.cleanup_latency.observe(since.as_secs_f64());
            debug!("{}: clean {} ms after its death was seen", target.pod, since.as_millis());
        }
    }

    /// An orphan is cleaned up: the cluster's operators may want to know what of.
    fn tell(&mut self, life: &AttachmentLife) {
        let cleaned = self.cleaned.remove(life).filter(|cleaned| cleaned.flows > 0);
        if let (Some(events), Some(cleaned)) = (&self.sources.events, cleaned) {
            events.cleaned(cleaned);
        }
    }

    /// How many stale entries the brake keeps: looks, and changes nothing.
    fn count_braked(&mut self, run: SweepRun<'_>, pass: &mut LivenessPass) {
        let interval = self.shared.options.interval;
        self.mass_death_guard.count_at =
            self.shared.wakeup.now().saturating_add(interval * THOROUGH_EVERY);
        let dry = SweepRun { dry_run: true, thorough: false, ..run };
        let held: HashSet<AttachmentLife> =
            pass.held_back().map(|o| (o.record.key.clone(), o.record.generation)).collect();
        pass.braked = None;
        match dry.clean(pass, |a| {
            a.state == State::Active && held.contains(&(a.key.clone(), a.generation))
        }) {
            Ok(done) => {
                self.mass_death_guard.left = done.targets.iter().map(|t| t.entries.stale).sum();
            }
            Err(failed) => debug!("cannot count what the brake keeps: {failed}"),
        }
    }

    fn gauges(&self) {
        let metrics = &self.shared.metrics;
        replace(&metrics.flows_kept, "reason", &self.retry_queue.kept());
        let mut left = self.retry_queue.left();
        if self.mass_death_guard.engaged.is_some() {
            left.insert("brake", self.mass_death_guard.left);
        }
        replace(&metrics.stale_flows_left, "reason", &left);
        let dumps = self.dumps.iter().map(|(bridge, n)| (bridge.as_str(), *n)).collect();
        replace(&metrics.dump_flows, "bridge", &dumps);
        let dangling: u64 = self.dangling.values().sum();
        metrics.dangling_flows.set(i64::try_from(dangling).unwrap_or(i64::MAX));
    }

    /// Says what has stopped to work, and what works again.
    fn complain_of(&mut self, done: &reconcile::Outcome, thorough: bool) {
        let (news, again) = self.complaints.seen(done, thorough);
        for what in &news {
            warn!("{what}; trying again");
            systemd::status(what);
        }
        for object in &again {
            self.works_again(object);
        }
    }

    /// Whether the sweep failed, and whether OVS is there.
    fn failed(&mut self, done: &reconcile::Outcome, run_dir: &Path, reasons: &Reasons) -> bool {
        let shared = self.shared;
        let bridges = done.bridges.iter();
        let mut errors = bridges.filter_map(|bridge| bridge.error.as_deref());
        let failed = done.failed.as_deref().or_else(|| errors.next());
        let answered = done.bridges.iter().any(|bridge| bridge.error.is_none());
        if answered && failed.is_none() {
            shared.server(Server::Vswitchd, true);
        } else if failed.is_some() || reasons.has(Reason::Interval) || reasons.wakes_all() {
            shared.server(Server::Vswitchd, answers(run_dir));
        }
        if failed.is_none() {
            let seconds = Duration::from_millis(Stamp::now().wall_ms).as_secs_f64();
            shared.metrics.last_sweep.set(seconds);
            shared.progress.swept();
        }
        failed.is_some()
    }
}

/// Whether ovs-vswitchd answers on the first of its bridges; not if it has none.
fn answers(run_dir: &Path) -> bool {
    let files = std::fs::read_dir(run_dir).into_iter().flatten().flatten();
    let sockets = files.map(|file| file.path());
    let first = sockets.filter(|path| path.extension().is_some_and(|e| e == "mgmt")).min();
    first.is_some_and(|path| Connection::open(&path, Deadline::after(PROBE)).is_ok())
}
