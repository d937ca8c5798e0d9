//! Why the next sweep is due, and when. Pure: time and chance are arguments, so that bursts
//! and bad days can be tested.
//!
//! Guarantees: the first event after a quiet time is acted upon at once; a burst costs a
//! handful of sweeps however many events it has; whatever fails is tried again, ever more
//! rarely, but at least once an interval.

use std::fmt;
use std::time::Duration;

use crate::model::text::text_enum;
use crate::util::backoff::back_off;

text_enum! {
    /// Why a sweep.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub enum Reason {
        /// The daemon has started.
        Start = "start",
        /// SIGHUP.
        Hangup = "hangup",
        /// A file is gone from a directory of network namespaces, or was replaced.
        Netns = "netns",
        /// OVSDB: an interface was removed, or its netdev is gone (ofport −1).
        Interface = "interface",
        /// OVSDB: an interface was given a number. A living pod's port may have been attached anew.
        Port = "port",
        /// A tombstone was written: a DEL or a GC could not finish, or its linger time runs.
        Tombstone = "tombstone",
        /// A record was written: there may be another pod to follow.
        Record = "record",
        /// The pause of this node began or ended.
        Pause = "pause",
        /// The state directory was removed.
        StateDirectory = "state-directory",
        /// ovs-vswitchd has started.
        Switch = "switch",
        /// ovsdb-server answers again.
        Database = "database",
        /// The container runtime says that a sandbox has ended.
        Cri = "cri",
        /// The API server says that a pod has ended.
        Kubernetes = "kubernetes",
        /// An entry has come that shows a living pod's register value.
        Register = "register",
        /// An entry has come that names a token of the dead.
        Late = "late-entry",
        /// Entries of the dead, or of ports that nobody has, came or went: they are counted again.
        Flows = "flows",
        /// Something that failed or waits is tried again.
        Retry = "retry",
        /// The interval.
        Interval = "interval",
    }
}

impl Reason {
    /// Whether everything that waits is worth another try now, not only what is new.
    #[must_use]
    pub fn wakes_all(self) -> bool {
        matches!(
            self,
            Self::Start
                | Self::Hangup
                | Self::Pause
                | Self::StateDirectory
                | Self::Switch
                | Self::Database
        )
    }

    /// Whether it is about entries or a port's new number, and not about a death: it waits for its share
    /// of the time, and says nothing about the next death.
    fn is_of_no_death(self) -> bool {
        matches!(self, Self::Late | Self::Flows | Self::Port)
    }

    /// How long those that belong to it are waited for.
    fn debounce(self) -> Duration {
        match self {
            Self::Start | Self::Hangup => Duration::ZERO,
            Self::Flows => COUNT_AFTER,
            _ => DEBOUNCE,
        }
    }
}

/// Reasons, each with when it was first given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reasons(Vec<(Reason, Duration)>);

impl Reasons {
    pub(super) fn add(&mut self, reason: Reason, now: Duration) {
        if !self.has(reason) {
            self.0.push((reason, now));
        }
    }

    /// Whether this is one of them.
    #[must_use]
    pub fn has(&self, reason: Reason) -> bool {
        self.0.iter().any(|(r, _)| *r == reason)
    }

    /// Whether one of them wakes everything that waits.
    #[must_use]
    pub fn wakes_all(&self) -> bool {
        self.0.iter().any(|(r, _)| r.wakes_all())
    }

    /// Whether this is the only one.
    #[must_use]
    pub fn is_only(&self, reason: Reason) -> bool {
        self.0.iter().all(|(r, _)| *r == reason)
    }

    /// Removes a reason.
    pub fn take_back(&mut self, reason: Reason) {
        self.0.retain(|(r, _)| *r != reason);
    }

    /// The reason that was given first; one that is about no death only if there is no other.
    #[must_use]
    pub fn first(&self) -> Option<(Reason, Duration)> {
        let other = self.0.iter().find(|(reason, _)| !reason.is_of_no_death());
        other.or_else(|| self.0.first()).copied()
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Reasons {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (reason, _)) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str(", ")?;
            }
            f.write_str(reason.as_str())?;
        }
        Ok(())
    }
}

/// What a sweep means for the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweepResult {
    /// How many were found dead.
    pub dead: usize,
    /// How long it took.
    pub took: Duration,
    /// For so long of that it only waited.
    pub waited: Duration,
    /// It failed as a whole: no records, no switch.
    pub failed: bool,
    /// How long after its end something that waits is due.
    pub retry_after: Option<Duration>,
}

/// The first event waits so long for those that belong to it.
const DEBOUNCE: Duration = Duration::from_micros(50);
/// Entries that are only counted wait longer.
const COUNT_AFTER: Duration = Duration::from_millis(500);
/// More dead than this in one sweep are a burst.
const BURST: usize = 4;
/// Between the sweeps of a burst, at first and at most.
const BURST_GAP: Duration = Duration::from_millis(25);
const BURST_GAP_MOST: Duration = Duration::from_millis(400);
/// Between sweeps for events that turned out to be of no death, at most.
const IDLE_GAP_MOST: Duration = Duration::from_millis(250);
/// A quiet time after which a burst is over.
const QUIET: Duration = Duration::from_secs(2);
/// The first try again.
pub(super) const RETRY: Duration = Duration::from_millis(200);
/// Sweeps for what waits, or for entries, take one part in so many of the time at most: a dump
/// stalls ovs-vswitchd for 2 µs a flow.
const SHARE: u32 = 20;

/// When the next sweep is due. Times are since some fixed moment.
#[derive(Clone, Debug, Default)]
pub struct SweepScheduler {
    interval: Duration,
    pending: Reasons,
    /// Events wait until then: the pace of a burst.
    not_before: Duration,
    /// Reasons that are about entries wait until then.
    entries_not_before: Duration,
    gap: Duration,
    /// How many sweeps in a row that an event asked for found no dead.
    idle: u32,
    /// An event asked for the sweep that is under way, not only a retry or the interval.
    by_event: bool,
    /// The sweep that is under way is about entries only: the interval goes on.
    entries_only: bool,
    /// When the last sweep ended.
    ended: Duration,
    failures: u32,
    retry: Option<Duration>,
    next_interval: Duration,
}

impl SweepScheduler {
    /// The first sweep is due at once.
    #[must_use]
    pub fn new(interval: Duration, now: Duration) -> Self {
        let mut pending = Reasons::default();
        pending.add(Reason::Start, now);
        Self {
            interval,
            pending,
            not_before: now,
            ended: now,
            next_interval: now.saturating_add(interval),
            ..Self::default()
        }
    }

    /// Adds a reason for a sweep; whether it is new: a second event of a kind changes nothing.
    pub fn event(&mut self, reason: Reason, now: Duration) -> bool {
        let news = self.pending.is_empty() || !self.pending.has(reason);
        self.pending.add(reason, now);
        news
    }

    /// When the next sweep is due.
    #[must_use]
    pub fn due(&self) -> Duration {
        let event = |(reason, at): &(Reason, Duration)| {
            let soon = at.saturating_add(reason.debounce());
            match reason {
                Reason::Start | Reason::Hangup => soon,
                of if of.is_of_no_death() => soon.max(self.entries_not_before),
                _ => soon.max(self.not_before),
            }
        };
        let event = self.pending.0.iter().map(event).min();
        let times = [event, self.retry, Some(self.next_interval)];
        times.into_iter().flatten().min().unwrap_or(self.next_interval)
    }

    /// Begins the sweep that is due, for the reasons that were given until now.
    pub fn begin(&mut self, now: Duration) -> Reasons {
        self.by_event = self.pending.0.iter().any(|(reason, _)| !reason.is_of_no_death());
        if self.retry.is_some_and(|at| at <= now) {
            self.pending.add(Reason::Retry, now);
            self.retry = None;
        }
        if self.next_interval <= now {
            self.pending.add(Reason::Interval, now);
        }
        self.entries_only = self.pending.0.iter().all(|(reason, _)| reason.is_of_no_death());
        std::mem::take(&mut self.pending)
    }

    /// The reasons that were given needed no sweep.
    pub fn nothing_new(&mut self, now: Duration) {
        self.ended = now;
    }

    /// A sweep has ended. `chance` is from 0 to 1: nodes that failed together must not try again
    /// together.
    pub fn done(&mut self, result: &SweepResult, now: Duration, chance: f64) {
        let began = now.saturating_sub(result.took);
        if began.saturating_sub(self.ended) > QUIET {
            (self.gap, self.idle) = (Duration::ZERO, 0);
        }
        // A sweep that no event asked for and that found no dead says nothing about the next event.
        if self.by_event || result.dead > 0 {
            if result.dead > BURST {
                self.gap = (self.gap * 2).clamp(BURST_GAP, BURST_GAP_MOST);
                self.idle = 0;
            } else if result.dead > 0 {
                (self.gap, self.idle) = (Duration::ZERO, 0);
            } else {
                // The first may be about the port of a pod that is swept already.
                let factor = (1u32 << self.idle.min(8)) / 2;
                self.gap = result.took.saturating_mul(factor).min(IDLE_GAP_MOST);
                self.idle = self.idle.saturating_add(1);
            }
            self.not_before = now.saturating_add(self.gap);
        }
        self.ended = now;
        let pause = result.took.saturating_sub(result.waited).saturating_mul(SHARE);
        self.entries_not_before = now.saturating_add(pause);
        if !self.entries_only {
            self.next_interval = now.saturating_add(jittered(self.interval, chance));
        }
        let again = if result.failed {
            self.failures = self.failures.saturating_add(1);
            Some(back_off(self.failures, RETRY, self.interval, chance))
        } else {
            self.failures = 0;
            // At least so long that such sweeps take a small share of the time.
            result.retry_after.map(|after| after.max(pause))
        };
        self.retry = again.map(|after| now.saturating_add(after.min(self.interval)));
    }
}

/// A tenth to either side: the nodes of a cluster that were started together drift apart.
fn jittered(interval: Duration, chance: f64) -> Duration {
    interval.mul_f64(0.9 + 0.2 * chance.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INTERVAL: Duration = Duration::from_secs(30);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// After its first sweep, in a quiet moment.
    fn quiet() -> (SweepScheduler, Duration) {
        let mut scheduler = SweepScheduler::new(INTERVAL, ms(0));
        assert_eq!(scheduler.due(), ms(0), "the first sweep is due at once");
        assert!(scheduler.begin(ms(0)).has(Reason::Start));
        scheduler.done(&SweepResult { took: ms(10), ..SweepResult::default() }, ms(10), 0.5);
        (scheduler, ms(5_000))
    }

    #[test]
    fn an_event_in_a_quiet_moment_is_acted_upon_at_once() {
        let (mut scheduler, now) = quiet();
        assert!(scheduler.event(Reason::Netns, now));
        assert!(!scheduler.event(Reason::Netns, now + ms(1)), "no news");
        assert!(scheduler.event(Reason::Interface, now + ms(1)));
        assert!(scheduler.due() <= now + ms(3));
        let reasons = scheduler.begin(now + ms(1));
        assert_eq!(reasons.first(), Some((Reason::Netns, now)));
        assert_eq!(reasons.to_string(), "netns, interface");
        assert!(!reasons.wakes_all());
    }

    /// A sweep that waited for evidence to settle has not stalled the switch meanwhile.
    #[test]
    fn what_waits_is_not_put_off_by_the_time_that_a_sweep_only_waited() {
        let due = |waited| {
            let (mut scheduler, now) = quiet();
            scheduler.event(Reason::Netns, now);
            scheduler.begin(now);
            let (dead, took, retry_after) = (1, ms(180), Some(RETRY));
            let result = SweepResult { dead, took, waited, failed: false, retry_after };
            scheduler.done(&result, now, 0.5);
            scheduler.due() - now
        };
        assert_eq!(due(ms(0)), ms(180) * SHARE);
        assert_eq!(due(ms(155)), ms(25) * SHARE);
        assert_eq!(due(ms(175)), RETRY);
    }

    /// Plays events against sweeps that take this long and find every death until then.
    fn sweeps(deaths: &[Duration], took: Duration) -> (usize, Duration) {
        let (mut scheduler, start) = quiet();
        let (mut now, mut found, mut count, mut worst) = (start, 0, 0, ms(0));
        while found < deaths.len() {
            let mut seen = found;
            // Everything that happens until the next sweep is due.
            loop {
                let next = deaths.get(seen).map(|at| start + *at);
                match next {
                    Some(at) if at <= scheduler.due().max(now) => {
                        scheduler.event(Reason::Netns, at);
                        seen += 1;
                    }
                    _ => break,
                }
            }
            now = scheduler.due().max(now);
            scheduler.begin(now);
            count += 1;
            let dead = seen - found;
            for at in &deaths[found..seen] {
                worst = worst.max(now + took - (start + *at));
            }
            found = seen;
            // During the sweep, too.
            now += took;
            for at in deaths[seen..].iter().take_while(|at| start + **at <= now) {
                scheduler.event(Reason::Netns, start + *at);
            }
            scheduler.done(&SweepResult { dead, took, ..SweepResult::default() }, now, 0.5);
        }
        (count, worst)
    }

    #[test]
    fn five_hundred_deaths_at_once_are_a_handful_of_sweeps() {
        // All in one moment, within 100 ms, within half a second.
        for spread in [0u64, 200, 1000] {
            let deaths: Vec<Duration> =
                (0..500).map(|n| Duration::from_micros(n * spread)).collect();
            let (count, worst) = sweeps(&deaths, ms(30));
            assert!(count <= 8, "{count} sweeps for 500 deaths, {spread} µs apart");
            assert!(worst <= ms(700), "{worst:?}");
        }
    }

    #[test]
    fn one_death_after_the_other_does_not_wait() {
        let deaths: Vec<Duration> = (0..100).map(|n| ms(n * 60)).collect();
        let (count, worst) = sweeps(&deaths, ms(15));
        assert!(count <= 100);
        assert!(worst <= ms(17), "{worst:?}");
    }

    #[test]
    fn a_flood_of_events_about_nobody_is_slowed_down() {
        let (mut scheduler, start) = quiet();
        let (mut now, mut count) = (start, 0);
        while now < start + ms(10_000) {
            scheduler.event(Reason::Interface, now);
            now = scheduler.due().max(now);
            scheduler.begin(now);
            now += ms(5);
            scheduler.done(&SweepResult { took: ms(5), ..SweepResult::default() }, now, 0.5);
            count += 1;
        }
        assert!(count <= 50, "{count} sweeps in 10 s");
        // And forgotten when it is over.
        now += ms(5_000);
        scheduler.event(Reason::Netns, now);
        assert!(scheduler.due() <= now + ms(2));
    }

    /// Dead pods that linger are swept again and again: a pod that dies then must not wait.
    #[test]
    fn a_death_during_a_look_that_was_due_does_not_wait() {
        let (mut scheduler, start) = quiet();
        let waits =
            SweepResult { retry_after: Some(ms(200)), took: ms(25), ..SweepResult::default() };
        let mut now = start;
        for _ in 0..20 {
            scheduler.done(&waits, now, 0.5);
            now = scheduler.due();
            assert_eq!(scheduler.begin(now).to_string(), "retry");
            scheduler.event(Reason::Netns, now + ms(20));
            now += ms(25);
            scheduler.done(&waits, now, 0.5);
            assert!(scheduler.due() <= now, "{:?}", scheduler.due() - now);
            // It is found, and then the port goes, too.
            scheduler.begin(now);
            now += ms(25);
            scheduler.done(&SweepResult { dead: 1, ..waits }, now, 0.5);
            scheduler.event(Reason::Interface, now);
            now = scheduler.due();
            scheduler.begin(now);
            now += ms(25);
            scheduler.done(&waits, now, 0.5);
            scheduler.event(Reason::Netns, now);
            assert!(scheduler.due() <= now + ms(1));
            scheduler.begin(now);
        }
    }

    #[test]
    fn the_interval_is_the_net_and_is_jittered() {
        let mut seen = Vec::new();
        for chance in [0.0, 0.25, 0.5, 0.75, 1.0] {
            let (mut scheduler, now) = quiet();
            scheduler.done(&SweepResult::default(), now, chance);
            let due = scheduler.due() - now;
            assert!(due >= INTERVAL.mul_f64(0.89) && due <= INTERVAL.mul_f64(1.11), "{due:?}");
            seen.push(due);
            let reasons = scheduler.begin(now + due);
            assert_eq!(reasons.to_string(), "interval");
        }
        seen.dedup();
        assert_eq!(seen.len(), 5);
    }

    #[test]
    fn failures_back_off_to_the_interval_and_never_end() {
        let (mut scheduler, mut now) = quiet();
        let failed = SweepResult { failed: true, took: ms(1), ..SweepResult::default() };
        let mut pauses = Vec::new();
        for _ in 0..200 {
            scheduler.done(&failed, now, 1.0);
            let due = scheduler.due();
            pauses.push(due - now);
            now = due;
            let reasons = scheduler.begin(now);
            assert!(reasons.has(Reason::Retry) || reasons.has(Reason::Interval));
        }
        assert_eq!(pauses[..4], [ms(200), ms(400), ms(800), ms(1600)]);
        assert!(pauses.iter().all(|p| *p <= INTERVAL), "{pauses:?}");
        assert!(pauses[190] >= ms(10_000));
        // One success, and the next failure starts over.
        scheduler.done(&SweepResult::default(), now, 1.0);
        scheduler.done(&failed, now, 1.0);
        assert_eq!(scheduler.due(), now + ms(200));
    }

    #[test]
    fn what_waits_is_looked_at_again_but_not_at_any_price() {
        let (mut scheduler, now) = quiet();
        let waits =
            |took| SweepResult { retry_after: Some(ms(200)), took, ..SweepResult::default() };
        scheduler.done(&waits(ms(2)), now, 0.5);
        assert_eq!(scheduler.due(), now + ms(200));
        assert_eq!(scheduler.begin(now + ms(200)).to_string(), "retry");
        // A sweep that stalls the switch for long is not repeated five times a second.
        scheduler.done(&waits(ms(400)), now, 0.5);
        assert_eq!(scheduler.due(), now + ms(8_000));
        scheduler.done(&waits(Duration::from_secs(10)), now, 0.5);
        assert_eq!(scheduler.due(), now + INTERVAL);
    }

    #[test]
    fn a_hangup_waits_for_nothing() {
        let (mut scheduler, now) = quiet();
        scheduler.event(Reason::Netns, now);
        scheduler.begin(now);
        scheduler.done(
            &SweepResult { dead: 300, took: ms(300), ..SweepResult::default() },
            now,
            0.5,
        );
        scheduler.event(Reason::Netns, now);
        assert!(scheduler.due() > now + ms(20));
        scheduler.event(Reason::Hangup, now);
        assert_eq!(scheduler.due(), now);
    }

    /// What is read again at each interval is read again, however often entries come.
    #[test]
    fn entries_do_not_put_the_interval_off() {
        let (mut scheduler, mut now) = quiet();
        let end = now + INTERVAL.mul_f64(1.2);
        loop {
            scheduler.event(Reason::Flows, now);
            now = scheduler.due();
            assert!(now < end, "no interval");
            if scheduler.begin(now).has(Reason::Interval) {
                break;
            }
            scheduler.done(&SweepResult { took: ms(3), ..SweepResult::default() }, now, 0.5);
        }
    }

    #[test]
    fn entries_are_told_at_their_pace_and_put_off_no_death() {
        let (mut scheduler, now) = quiet();
        scheduler.event(Reason::Flows, now);
        assert_eq!(scheduler.due(), now + COUNT_AFTER);
        scheduler.event(Reason::Late, now + ms(2));
        assert_eq!(
            scheduler.due(),
            now + ms(2) + DEBOUNCE,
            "what may be stale is not only counted"
        );
        scheduler.event(Reason::Netns, now + ms(2));
        assert_eq!(
            scheduler.clone().begin(now + ms(3)).first(),
            Some((Reason::Netns, now + ms(2)))
        );
        let mut now = now + ms(3);
        for _ in 0..20 {
            scheduler.begin(now);
            now += ms(5);
            scheduler.done(&SweepResult { took: ms(5), ..SweepResult::default() }, now, 0.5);
            scheduler.event(Reason::Late, now);
            assert_eq!(scheduler.due(), now + ms(5) * SHARE);
            // A death waits for none of it.
            let mut other = scheduler.clone();
            other.event(Reason::Netns, now);
            assert_eq!(other.due(), now + DEBOUNCE);
            now = scheduler.due();
        }
    }

    proptest! {
        /// Whatever happens, the next sweep is due within an interval and its jitter.
        #[test]
        fn a_sweep_is_always_due(steps in prop::collection::vec(
            (0u64..5_000, 0usize..Reason::ALL.len(), 0usize..600, any::<bool>(), 0.0f64..1.0), 1..60))
        {
            let (mut scheduler, mut now) = quiet();
            for (pause, reason, dead, failed, chance) in steps {
                now += ms(pause);
                scheduler.event(Reason::ALL[reason], now);
                prop_assert!(scheduler.due() <= now + INTERVAL.mul_f64(1.1));
                now = now.max(scheduler.due());
                let reasons = scheduler.begin(now);
                prop_assert!(reasons.first().is_some());
                let result =
                    SweepResult { dead, failed, took: ms(pause / 10), ..SweepResult::default() };
                now += result.took;
                scheduler.done(&result, now, chance);
                prop_assert!(scheduler.due() <= now + INTERVAL.mul_f64(1.1));
                prop_assert!(scheduler.due() >= now || !failed);
            }
        }
    }
}
