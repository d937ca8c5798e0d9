//! One sweep: reads who is there, deletes the entries of the dead, and says when the next one is due.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use log::{debug, warn};

use super::super::complaints::PODS;
use super::super::metrics::Server;
use super::super::retry_queue::SweepStart;
use super::super::scheduler::{Reason, Reasons, SweepResult};
use super::{Beginning, Failure, PROBE, Sweeper, TIMEOUT};
use crate::config::{NetworkState, bridge_socket};
use crate::liveness::LivenessSource;
use crate::model::attachment::{NetworkName, State};
use crate::openflow::Connection;
use crate::reconcile::{
    LivenessPass, NamedDeaths, Outcome, SweepRun, Thorough, lacks_value, network_states, object,
    orphans,
};
use crate::store::{Pause, Registry, RegistrySnapshot};
use crate::util::clock::{Deadline, Stamp};
use crate::util::logging::Often;

/// Whole bridges that are not followed are scanned every so many intervals …
const THOROUGH_EVERY: u32 = 10;
/// … and a scan takes one part in so many of the time at most: it stalls the switch for 2 µs a
/// flow.
const THOROUGH_SHARE: u32 = 200;
/// After a sweep that judged only those whose namespaces had just gone, so soon all are judged …
const ALL_SOON: Duration = Duration::from_millis(250);
/// … and however many of such sweeps follow each other, after so long.
const ALL_AFTER: Duration = Duration::from_secs(1);
/// How soon whole bridges are scanned once no dead pod's entries have to be deleted first.
const SOON: Duration = Duration::from_secs(1);

impl Sweeper<'_> {
    /// Reads the records, finds the dead, deletes their entries, and says when to come again.
    pub(super) fn sweep(
        &mut self,
        registry: &Registry,
        reasons: &Reasons,
    ) -> Result<SweepResult, Failure> {
        self.pause = registry.pause();
        self.record_again(registry, reasons)?;
        let began = Beginning { reasons, at: self.shared.wakeup.now(), stamp: Stamp::now() };
        let known = self.still_known(&began);
        let names = self.gone_names(&began);
        if let Some(names) = &names {
            self.ask_ahead(known.as_ref(), names);
        }
        let (shared, sources) = (self.shared, self.sources);
        let (database, contested) = (Rc::clone(&self.database), Rc::clone(&self.contested));
        let free = |addresses: &BTreeSet<IpAddr>| sources.free(addresses);
        let liveness: Vec<&dyn LivenessSource> =
            sources.liveness.iter().map(AsRef::as_ref).collect();
        let since = || shared.gone_names.count();
        let named = names.as_deref().map(|names| NamedDeaths { names, since: &since });
        let mut run = SweepRun {
            named,
            registry: Some(registry),
            sources: &liveness,
            held: self.mass_death_guard.is_engaged(),
            free: sources.knows_addresses().then_some(&free),
            database: Some(&database),
            replicas: Some(&shared.replicas),
            contested: Some(&contested),
            // Records are compared with OVSDB, too, if nobody is dead.
            learning: reasons.has(Reason::Register) || reasons.has(Reason::Port),
            ..SweepRun::new(&shared.run_dir, TIMEOUT)
        };
        let mut pass = run.liveness_pass_knowing(known)?;
        let networks = network_states(&pass.registry_snapshot);
        let since = self.partial_since.unwrap_or(began.at);
        self.partial_since = pass.is_partial.then_some(since);
        self.note_liveness(&pass);
        self.watch(&pass, &networks);
        let urgent = is_urgent(&pass);
        run.thorough = if urgent { Thorough::None } else { self.thorough(&began) };
        let outcome = self.clean(&run, &mut pass, &began);
        self.note_records(&pass, &began);
        let outcome = outcome?;
        let ended = shared.wakeup.now();
        self.note_thorough(run.thorough, &outcome, (began.at, ended));
        self.note_clean_up(&outcome, &began, ended);
        self.tell_deliveries(registry);
        let result = self.result(&pass, began.at, ended);
        if self.mass_death_guard.is_count_due(ended) {
            let again = shared.wakeup.now() + shared.options.interval * THOROUGH_EVERY;
            self.mass_death_guard.count(run, &mut pass, again);
        }
        self.follow(&pass.registry_snapshot, &networks);
        self.known = Some(pass.registry_snapshot);
        let is_clean = self.gauges();
        Often::say_rest(false);
        self.complain_of(&outcome, run.thorough == Thorough::All);
        let (failed, waited) = (self.has_failed(&outcome, reasons), outcome.waited);
        let is_ready = shared.progress.ready().is_ok() && shared.metrics.paused.get() == 0;
        shared.progress.well(is_clean && is_ready && !failed, ended);
        Ok(SweepResult { failed, waited, ..result })
    }

    /// Asks the database and the switches while the dead are judged.
    fn ask_ahead(&self, known: Option<&RegistrySnapshot>, names: &[String]) {
        self.database.ask_ahead(Deadline::after(TIMEOUT));
        let records = known.into_iter().flat_map(|known| orphans::named(known, names));
        let bridges: BTreeSet<_> =
            records.filter_map(|(_, record)| record.bridge.as_deref()).collect();
        bridges.into_iter().for_each(|bridge| self.shared.replicas.ask_ahead(bridge));
    }

    /// Watches for entries of the dead, before anything of theirs is deleted.
    fn watch(&mut self, pass: &LivenessPass, networks: &BTreeMap<NetworkName, NetworkState>) {
        let snapshot = &pass.registry_snapshot;
        let dead = pass.condemned();
        let dead = dead.iter().map(|orphan| &orphan.record).chain(&snapshot.tombstones);
        self.late.watch(&self.shared.replicas, dead, networks);
    }

    /// Deletes the entries of the dead of this liveness pass, and of the earlier dead that are due.
    fn clean(
        &mut self,
        run: &SweepRun<'_>,
        pass: &mut LivenessPass,
        began: &Beginning<'_>,
    ) -> Result<Outcome, Failure> {
        let (shared, reasons, urgent) = (self.shared, began.reasons, is_urgent(pass));
        let judged = shared.wakeup.now();
        let (queue, late) = (&mut self.retry_queue, &self.late);
        let start = SweepStart { reasons, urgent, now: began.at, late };
        let outcome = run.clean(pass, |record| queue.is_due(record, &start))?;
        self.late.judged();
        if let Some(registry) = run.registry {
            self.check_state_dir(registry);
        }
        run.sighted(pass);
        self.beat();
        debug!(
            "sweep ({reasons}): {} of {} judged, {} ms for liveness, {} ms for {} of the dead",
            pass.orphans.judged(),
            pass.orphans.total,
            judged.saturating_sub(began.at).as_millis(),
            shared.wakeup.now().saturating_sub(judged).as_millis(),
            outcome.targets.len()
        );
        if urgent && reasons.has(Reason::Flows) {
            // Not counted while others wait for their clean-up.
            shared.wakeup.wake(Reason::Flows);
        }
        Ok(outcome)
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

    /// The records that need not be read again. Files can be lost in ways that no lock tells of:
    /// each interval looks at every file, and now and then everything is read again. So it is with
    /// changes of the database.
    fn still_known(&mut self, began: &Beginning<'_>) -> Option<RegistrySnapshot> {
        let wakes_all = began.reasons.wakes_all();
        if wakes_all {
            self.retry_queue.begin_anew();
        }
        let is_due = began.at >= self.thorough_at;
        if wakes_all || is_due {
            self.database = Rc::default();
        }
        let known = self.known.take().filter(|_| !wakes_all);
        if began.reasons.has(Reason::Interval) {
            known.filter(|_| !is_due).map(RegistrySnapshot::to_be_looked_at)
        } else {
            known
        }
    }

    /// The namespaces that woke this sweep, if nothing else did: a death costs what died, not who
    /// lives. Events may be lost, and a name may be another's than its record says, so all are judged
    /// soon after, and now and then however many die.
    fn gone_names(&self, began: &Beginning<'_>) -> Option<Vec<String>> {
        let names = self.shared.gone_names.take()?;
        let is_only = began.reasons.is_only(Reason::Netns);
        let since = self.partial_since.unwrap_or(began.at);
        (is_only && began.at < since.saturating_add(ALL_AFTER)).then_some(names)
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

    /// Which bridges are scanned as a whole. A dump stalls the switch for those whose calls wait;
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

    /// Follows the bridges that pods are recorded on, and waits there for the register values that
    /// are not known yet.
    pub(super) fn follow(
        &self,
        snapshot: &RegistrySnapshot,
        networks: &BTreeMap<NetworkName, NetworkState>,
    ) {
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

    /// When the next sweep is due by what this one leaves to do, and how many it found dead.
    fn result(&self, pass: &LivenessPass, began: Duration, ended: Duration) -> SweepResult {
        let dead = pass.condemned().len();
        let thorough = (dead > 0 && began >= self.thorough_at).then_some(SOON);
        let next = [
            self.retry_queue.next(ended, &self.late),
            self.recovery.next(ended),
            pass.waits,
            thorough,
            pass.is_partial.then_some(ALL_SOON),
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

/// Whether entries of the dead wait for this sweep, or somebody may be dying: scans of whole bridges
/// wait then.
fn is_urgent(pass: &LivenessPass) -> bool {
    (!pass.condemned().is_empty() || pass.waits.is_some()) && !pass.paused
}

/// Whether ovs-vswitchd answers on the first of its bridges; not if it has none.
fn answers(run_dir: &Path) -> bool {
    let files = std::fs::read_dir(run_dir).into_iter().flatten().flatten();
    let sockets = files.map(|file| file.path());
    let first = sockets.filter(|path| path.extension().is_some_and(|e| e == "mgmt")).min();
    first.is_some_and(|path| Connection::open(&path, Deadline::after(PROBE)).is_ok())
}
