//! The dead attachments that are still watched, each with when it is due again. The queue is in
//! memory only: a dead attachment that is not in it is due at once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use super::late_entries::LateEntries;
use super::scheduler::{RETRY, Reason, Reasons};
use crate::model::attachment::{Attachment, Key, State};
use crate::reconcile::{Outcome, TargetId, TargetOutcome, Withheld};
use crate::util::backoff::back_off;

/// One life of a key.
pub(super) type AttachmentLife = (Key, u64);

/// How soon a clean one is due for the first time: a slow controller may put an entry back. Each
/// next time comes after twice as long.
const FIRST_LINGER: Duration = Duration::from_secs(2);
/// How long a DEL or a GC that has just written a tombstone is left alone to do its work.
const DEL_TURN: Duration = Duration::from_secs(1);
/// How long clean ones wait while others are not clean.
const CLEAN_WAITS: Duration = Duration::from_secs(5);
/// After so many tries without the evidence that is waited for, tries become rare.
const FREQUENT_TRIES: u32 = 12;
/// Rare: every so many intervals.
const RARE: u32 = 10;
/// For so many tries a change in OVSDB, or a living pod's value that shows, makes it due at once:
/// what it waited for may be known.
const SETTLING_TRIES: u32 = 5;

/// When a sweep began, and what is known then.
pub(super) struct SweepStart<'a> {
    pub(super) reasons: &'a Reasons,
    /// Others have just died: clean ones wait for a later sweep.
    pub(super) urgent: bool,
    pub(super) now: Duration,
    pub(super) late: &'a LateEntries,
}

#[derive(Debug)]
struct Entry {
    next: Duration,
    /// The bridges that it may have entries on.
    bridges: Vec<String>,
    /// It is clean and was watched for when it was last judged: while it is, it is due then.
    watched: Option<Duration>,
    /// How many times in a row it was found clean, or not clean.
    step: u32,
    /// Its entries are gone.
    clean: bool,
    /// A DEL or a GC wrote its tombstone and is at work on it: the daemon has not tried yet.
    others: bool,
    kept: BTreeMap<&'static str, u64>,
    left: BTreeMap<&'static str, u64>,
}

impl Entry {
    /// A tombstone that a DEL or a GC wrote: clean, or left to it for now.
    fn of_others(state: State, now: Duration) -> Self {
        let clean = state == State::Gone;
        let wait = if clean { FIRST_LINGER } else { DEL_TURN };
        Self {
            next: now.saturating_add(wait),
            bridges: Vec::new(),
            watched: None,
            step: 1,
            clean,
            others: !clean,
            kept: BTreeMap::new(),
            left: BTreeMap::new(),
        }
    }

    /// Whether an event asked for the try that has ended, and its turn is still to come. Such a try
    /// puts nothing off.
    fn was_tried_early(&self, now: Duration) -> bool {
        !self.clean && !self.others && self.step > 0 && now < self.next
    }

    fn due(&self, life: &AttachmentLife, late: &LateEntries) -> Duration {
        let watched = self.watched.filter(|_| late.is_watched(life, &self.bridges));
        watched.unwrap_or(self.next)
    }
}

#[derive(Debug)]
pub(super) struct RetryQueue {
    interval: Duration,
    entries: HashMap<AttachmentLife, Entry>,
    /// What a pause or observe mode kept when it was last logged, by bridge and pod: why, how many.
    logged: HashMap<(String, Option<AttachmentLife>), (&'static str, u64)>,
}

pub(super) fn life(record: &Attachment) -> AttachmentLife {
    (record.key.clone(), record.generation)
}

impl RetryQueue {
    pub(super) fn new(interval: Duration) -> Self {
        Self { interval, entries: HashMap::new(), logged: HashMap::new() }
    }

    /// Whether a sweep is to clean up this dead one.
    pub(super) fn is_due(&mut self, record: &Attachment, start: &SweepStart<'_>) -> bool {
        let SweepStart { reasons, urgent, now, late } = *start;
        let all = reasons.wakes_all();
        let entry = self.entries.get(&life(record));
        let others = entry.is_none_or(|entry| entry.others) && record.state != State::Active;
        // A DEL has cleaned up, perhaps before this daemon started: no latency of the daemon.
        if others && record.state == State::Gone {
            self.entries.insert(life(record), Entry::of_others(record.state, now));
            return all;
        }
        // A try that did not finish is counted in the record.
        if all || others && record.state == State::Deleting && record.attempts > 0 {
            return true;
        }
        match entry {
            Some(entry) => {
                let news = reasons.has(Reason::Interface) || reasons.has(Reason::Register);
                let settling = news && !entry.clean && !entry.others;
                let patient = if urgent && entry.clean { CLEAN_WAITS } else { Duration::ZERO };
                late.has_come(&life(record))
                    || entry.due(&life(record), late).saturating_add(patient) <= now
                    || settling && entry.step < SETTLING_TRIES
            }
            None if !others => true,
            // The tombstone is new, and its DEL is still at work.
            None => {
                self.entries.insert(life(record), Entry::of_others(record.state, now));
                false
            }
        }
    }

    /// Whether it is in the queue.
    pub(super) fn knows(&self, life: &AttachmentLife) -> bool {
        self.entries.contains_key(life)
    }

    /// Whether a tombstone that was written is news: not if the daemon wrote it.
    pub(super) fn is_news(&self, life: &AttachmentLife) -> bool {
        self.entries.get(life).is_none_or(|entry| entry.others)
    }

    /// Something has happened that is worth another try for all of them: the next tries are close
    /// together again. After a restart of the switch a controller puts back what it knows,
    /// seconds later.
    pub(super) fn begin_anew(&mut self) {
        for entry in self.entries.values_mut() {
            entry.step = 0;
        }
    }

    /// Forgets all others.
    pub(super) fn retain(&mut self, those: &HashSet<AttachmentLife>) {
        self.entries.retain(|life, _| those.contains(life));
        self.logged.retain(|(_, life), _| life.as_ref().is_none_or(|life| those.contains(life)));
    }

    /// What a pause or observe mode keeps, where that has changed since it was last logged: each
    /// sweep finds the same entries again.
    pub(super) fn newly_withheld<'r>(&mut self, outcome: &'r Outcome) -> Vec<Withheld<'r>> {
        let place = |w: &Withheld<'_>| (w.bridge.to_owned(), w.of.map(|of| of.life.clone()));
        let withheld: Vec<Withheld<'_>> = outcome.withheld().collect();
        let now: HashSet<_> = withheld.iter().map(place).collect();
        let seen: HashSet<&AttachmentLife> =
            outcome.targets.iter().map(|target| &target.life).collect();
        let bridges = outcome.bridges.iter().filter(|b| b.error.is_none());
        let full: HashSet<&str> =
            bridges.filter(|b| b.counts.full).map(|b| b.bridge.as_str()).collect();
        self.logged.retain(|at, _| {
            let seen = match &at.1 {
                Some(life) => seen.contains(life),
                None => full.contains(at.0.as_str()),
            };
            !seen || now.contains(at)
        });
        let changed = |w: &Withheld<'_>| {
            let what = (w.why, w.count);
            self.logged.insert(place(w), what) != Some(what)
        };
        withheld.into_iter().filter(changed).collect()
    }

    /// Takes over what became of each target. Returns those that are clean now and were not before.
    pub(super) fn update<'o>(
        &mut self,
        outcome: &'o Outcome,
        (now, chance): (Duration, f64),
        late: &LateEntries,
    ) -> Vec<&'o TargetOutcome> {
        let mut finished = Vec::new();
        for (index, target) in outcome.targets.iter().enumerate() {
            let bridges = outcome.bridges.iter();
            let bridges = bridges.filter(|of| of.targets.contains_key(&TargetId(index)));
            let bridges: Vec<String> = bridges.map(|of| of.bridge.clone()).collect();
            let before = self.entries.get(&target.life);
            let (was_clean, step) = before.map_or((false, 0), |e| (e.clean, e.step));
            let clean = target.is_clean();
            let early = before.filter(|before| !clean && before.was_tried_early(now));
            let (step, next) = if let Some(before) = early {
                (before.step, before.next)
            } else {
                let changed = before.is_some() && clean != was_clean;
                let step = if changed { 1 } else { step.saturating_add(1) };
                (step, now.saturating_add(self.wait(target, clean, step, chance)))
            };
            if clean && !was_clean {
                finished.push(target);
            }
            // What the first clean-up has learned of it is watched for since its end only: what came
            // in between is found by a second one.
            let is_watched = was_clean && clean && late.is_watched(&target.life, &bridges);
            // A tombstone that is needed after its linger time is seldom judged.
            let lingers = target.lingers.unwrap_or(self.interval * RARE);
            let entry = Entry {
                bridges,
                watched: is_watched.then(|| now.saturating_add(lingers)),
                next,
                step,
                clean,
                others: false,
                kept: target.entries.kept.clone(),
                left: left(target),
            };
            self.entries.insert(target.life.clone(), entry);
        }
        finished
    }

    fn wait(&self, target: &TargetOutcome, clean: bool, step: u32, chance: f64) -> Duration {
        if clean {
            let doubled = FIRST_LINGER.saturating_mul(1 << step.saturating_sub(1).min(16));
            return doubled.min(self.interval);
        }
        let rare = target.error.is_none() && step > FREQUENT_TRIES;
        let most = if rare { self.interval * RARE } else { self.interval };
        back_off(step, RETRY, most, chance)
    }

    /// When the next one is due, from now.
    pub(super) fn next(&self, now: Duration, late: &LateEntries) -> Option<Duration> {
        self.entries.iter().map(|(life, entry)| entry.due(life, late).saturating_sub(now)).min()
    }

    /// Entries that name one of the queue and were kept, by reason.
    pub(super) fn kept(&self) -> BTreeMap<&'static str, u64> {
        sum(self.entries.values().map(|entry| &entry.kept))
    }

    /// How many entries of one of the queue were kept for this reason.
    pub(super) fn kept_of(&self, life: &AttachmentLife, reason: &str) -> u64 {
        let entry = self.entries.get(life);
        entry.and_then(|entry| entry.kept.get(reason)).copied().unwrap_or_default()
    }

    /// Stale entries that were left, by why.
    pub(super) fn left(&self) -> BTreeMap<&'static str, u64> {
        sum(self.entries.values().map(|entry| &entry.left))
    }
}

fn left(target: &TargetOutcome) -> BTreeMap<&'static str, u64> {
    let count = target.entries.stale.saturating_sub(target.entries.deleted);
    if count == 0 {
        return BTreeMap::new();
    }
    let why = match (target.withheld, &target.error) {
        (Some("paused"), _) => "paused",
        (_, Some(_)) => "stayed",
        (Some(_), None) => "observe",
        (None, None) => "put-off",
    };
    BTreeMap::from([(why, count)])
}

fn sum<'m>(
    maps: impl Iterator<Item = &'m BTreeMap<&'static str, u64>>,
) -> BTreeMap<&'static str, u64> {
    let mut all = BTreeMap::new();
    for (reason, count) in maps.flatten() {
        let of = all.entry(*reason).or_insert(0u64);
        *of = of.saturating_add(*count);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::scheduler::SweepScheduler;
    use crate::reconcile::{BridgeOutcome, Cause, CleanTarget, TargetId};
    use crate::util::clock::Stamp;

    impl RetryQueue {
        fn due_at(
            &mut self,
            record: &Attachment,
            reasons: &Reasons,
            urgent: bool,
            now: Duration,
        ) -> bool {
            let late = LateEntries::default();
            self.is_due(record, &SweepStart { reasons, urgent, now, late: &late })
        }
    }

    fn record(generation: u64, state: State, attempts: u32) -> Attachment {
        let key = Key {
            network: "podnet".parse().unwrap(),
            container: "c1".parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        let now = Stamp { boot_ms: 1, wall_ms: 1 };
        let mut record = Attachment::new(key, generation, "boot".to_owned(), now);
        (record.state, record.attempts) = (state, attempts);
        record
    }

    fn reasons(of: &[Reason]) -> Reasons {
        let mut scheduler = SweepScheduler::new(Duration::from_secs(30), Duration::ZERO);
        scheduler.begin(Duration::ZERO);
        for reason in of {
            scheduler.event(*reason, Duration::ZERO);
        }
        scheduler.begin(Duration::ZERO)
    }

    /// The outcome of a clean-up that finds nothing left of it.
    fn clean(record: &Attachment) -> Outcome {
        let mut target = TargetOutcome::new(&CleanTarget {
            attachment: record.clone(),
            cause: Cause::Tombstone,
        });
        target.complete = true;
        Outcome { targets: vec![target], ..Outcome::default() }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn what_is_only_watched_is_logged_when_it_changes() {
        let target = |generation| CleanTarget {
            attachment: record(generation, State::Deleting, 0),
            cause: Cause::Tombstone,
        };
        let report = |of: &[(u64, u64)], paused: bool| {
            let targets = of.iter().map(|(generation, _)| TargetOutcome::new(&target(*generation)));
            let withheld = of.iter().enumerate().filter(|(_, (_, count))| *count > 0);
            let withheld =
                withheld.map(|(index, (_, count))| (Some(TargetId(index)), *count)).collect();
            let bridge =
                BridgeOutcome { bridge: "br0".to_owned(), withheld, ..BridgeOutcome::default() };
            let targets = targets.collect();
            Outcome { paused, targets, bridges: vec![bridge], ..Outcome::default() }
        };
        let mut retry_queue = RetryQueue::new(at(30));
        let mut logged = |of: &[(u64, u64)], paused| {
            let report = report(of, paused);
            retry_queue.newly_withheld(&report).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let line = |why: &str, count: u64| {
            let pod = "podnet/c1:eth0 (container c1)";
            vec![format!("bridge br0: {why}, not deleted: {count} stale entries of {pod}")]
        };
        assert_eq!(logged(&[(1, 2_008)], false), line("mode observe", 2_008));
        for _ in 0..10 {
            assert_eq!(logged(&[(1, 2_008)], false), [""; 0]);
            assert_eq!(logged(&[], false), [""; 0], "it was not tried");
        }
        assert_eq!(logged(&[(1, 2_007), (2, 5)], false).len(), 2);
        assert_eq!(
            logged(&[(1, 2_007), (2, 5)], true),
            [line("paused", 2_007), line("paused", 5)].concat()
        );
        assert_eq!(logged(&[(1, 0), (2, 5)], true), [""; 0]);
        assert_eq!(logged(&[(1, 2_007), (2, 5)], true), line("paused", 2_007));
        retry_queue.retain(&HashSet::new());
        assert!(retry_queue.logged.is_empty());
    }

    /// One pod's network is in observe mode, another's entries are put off.
    #[test]
    fn what_is_left_has_each_pods_own_reason() {
        let mut targets: Vec<TargetOutcome> = [1, 2, 3, 4]
            .map(|generation| {
                let attachment = record(generation, State::Deleting, 0);
                let mut target =
                    TargetOutcome::new(&CleanTarget { attachment, cause: Cause::Tombstone });
                target.entries.stale = generation;
                target
            })
            .into();
        targets[0].withheld = Some("mode observe");
        targets[2].withheld = Some("paused");
        targets[3].error = Some("it hangs".to_owned());
        let mut retry_queue = RetryQueue::new(at(30));
        let outcome = Outcome { targets, ..Outcome::default() };
        retry_queue.update(&outcome, (at(1), 0.5), &LateEntries::default());
        let left = [("observe", 1), ("put-off", 2), ("paused", 3), ("stayed", 4)];
        assert_eq!(retry_queue.left(), BTreeMap::from(left));
    }

    #[test]
    fn a_del_that_is_at_work_is_left_alone_and_one_that_failed_is_not() {
        let tombstone = reasons(&[Reason::Tombstone]);
        let mut retry_queue = RetryQueue::new(at(30));
        let deleting = record(1, State::Deleting, 0);
        assert!(retry_queue.is_news(&life(&deleting)));
        assert!(!retry_queue.due_at(&deleting, &tombstone, false, at(10)), "its DEL is at it");
        assert!(retry_queue.is_news(&life(&deleting)), "what comes of it is");
        assert!(
            retry_queue.due_at(&record(1, State::Deleting, 1), &tombstone, false, at(10)),
            "it failed"
        );
        assert!(retry_queue.due_at(&deleting, &tombstone, false, at(11)), "it was killed");
        assert!(
            !retry_queue.due_at(&record(1, State::Gone, 0), &tombstone, false, at(11)),
            "it is done"
        );
        assert!(!retry_queue.is_news(&life(&deleting)));
        assert!(!retry_queue.due_at(&record(1, State::Gone, 0), &tombstone, false, at(12)));
        assert!(
            !retry_queue.due_at(&record(1, State::Gone, 0), &tombstone, true, at(13)),
            "others first"
        );
        assert!(
            retry_queue.due_at(&record(1, State::Gone, 0), &tombstone, false, at(13)),
            "it lingers"
        );
        // What failed before the daemon started is due at once; so is everything after a restart.
        assert!(retry_queue.due_at(&record(2, State::Deleting, 3), &tombstone, false, at(11)));
        assert!(retry_queue.due_at(
            &record(3, State::Gone, 0),
            &reasons(&[Reason::Switch]),
            false,
            at(11)
        ));
        // An orphan gets no tombstone while the node is paused.
        assert!(retry_queue.due_at(&record(4, State::Active, 0), &tombstone, false, at(11)));
    }

    /// What waits is tried whenever a port or a value settles, and at its own times as well.
    #[test]
    fn tries_that_events_ask_for_put_nothing_off() {
        let (mut retry_queue, waits) = (RetryQueue::new(at(600)), record(1, State::Deleting, 1));
        let late = LateEntries::default();
        let update = |retry_queue: &mut RetryQueue, now: Duration, error: bool| {
            let mut outcome = clean(&waits);
            outcome.targets[0].error = error.then(|| "it waits".to_owned());
            retry_queue.update(&outcome, (now, 1.0), &late);
            retry_queue.next(now, &late).unwrap()
        };
        let ms = Duration::from_millis;
        assert_eq!(update(&mut retry_queue, ms(0), true), RETRY);
        for event in [Reason::Interface, Reason::Register] {
            for now in (10..100).map(ms) {
                assert!(retry_queue.due_at(&waits, &reasons(&[event]), false, now), "{event}");
                assert_eq!(update(&mut retry_queue, now, true), RETRY - now);
            }
        }
        let other = reasons(&[Reason::Netns]);
        assert!(!retry_queue.due_at(&waits, &other, false, ms(199)));
        assert!(retry_queue.due_at(&waits, &other, false, RETRY));
        assert_eq!(update(&mut retry_queue, RETRY, true), 2 * RETRY);
        assert_eq!(update(&mut retry_queue, ms(250), false), FIRST_LINGER, "it is clean");
    }

    #[test]
    fn restarts_of_the_switch_do_not_put_off_the_next_try() {
        let (mut retry_queue, gone) = (RetryQueue::new(at(600)), record(1, State::Gone, 0));
        let next = |retry_queue: &mut RetryQueue, woken: bool| {
            if woken {
                retry_queue.begin_anew();
            }
            retry_queue.update(&clean(&gone), (at(10), 0.5), &LateEntries::default());
            retry_queue.next(at(10), &LateEntries::default()).unwrap()
        };
        let due: Vec<Duration> = (0..4).map(|_| next(&mut retry_queue, false)).collect();
        assert_eq!(due, [2, 4, 8, 16].map(at));
        let restarts: Vec<Duration> = (0..20).map(|_| next(&mut retry_queue, true)).collect();
        assert_eq!(restarts, [at(2); 20]);
        assert_eq!(next(&mut retry_queue, false), at(4));
    }

    /// One that was clean before the daemon saw it has no latency, whatever woke the daemon.
    #[test]
    fn a_del_that_was_finished_by_itself_is_no_sample() {
        let tombstone = reasons(&[Reason::Tombstone]);
        for all in [reasons(&[Reason::Switch]), reasons(&[Reason::Start])] {
            let mut retry_queue = RetryQueue::new(at(30));
            let before = record(1, State::Gone, 0);
            retry_queue.due_at(&before, &all, false, at(10));
            assert_eq!(
                retry_queue.update(&clean(&before), (at(10), 0.5), &LateEntries::default()).len(),
                0
            );
            // One whose DEL was at work when the daemon saw it, and has ended it.
            assert!(!retry_queue.due_at(&record(2, State::Deleting, 0), &tombstone, false, at(10)));
            let ended = record(2, State::Gone, 0);
            retry_queue.due_at(&ended, &all, false, at(11));
            assert_eq!(
                retry_queue.update(&clean(&ended), (at(11), 0.5), &LateEntries::default()).len(),
                0
            );
            // One that the daemon cleans up.
            let ours = record(3, State::Deleting, 1);
            assert!(retry_queue.due_at(&ours, &all, false, at(11)));
            assert_eq!(
                retry_queue.update(&clean(&ours), (at(11), 0.5), &LateEntries::default()).len(),
                1
            );
        }
    }
}
