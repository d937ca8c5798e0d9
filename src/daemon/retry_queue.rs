//! The dead that are still looked after, each with when to look at it again. Lost with the
//! process: whoever is not in it is looked at at once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use super::scheduler::{RETRY, Reason, Reasons};
use crate::model::attachment::{Attachment, Key, State};
use crate::reconcile::{Outcome, TargetOutcome, Withheld};
use crate::util::backoff::back_off;

/// One life of a key.
pub(super) type AttachmentLife = (Key, u64);

/// How soon a clean one is looked at for the first time: a slow controller may put an entry
/// back. Then after twice as long, and so on.
const LINGER_LOOK: Duration = Duration::from_secs(2);
/// How long a DEL or a GC that has just buried somebody is left alone to do its work.
const THEIR_TURN: Duration = Duration::from_secs(1);
/// How long those who are clean wait for those who are not.
const PATIENT: Duration = Duration::from_secs(5);
/// So many looks at evidence that does not come, and it is looked at seldom.
const HOPEFUL: u32 = 12;
/// Seldom: so many intervals.
const SELDOM: u32 = 10;
/// For so many looks a change in OVSDB is worth another one at once: ports settle.
const IN_FLUX: u32 = 5;

#[derive(Debug)]
struct Entry {
    next: Duration,
    /// Looks of the kind that `next` is of.
    step: u32,
    /// Its entries are gone.
    clean: bool,
    /// Somebody else buried it and is at work on it: we have not looked yet.
    theirs: bool,
    kept: BTreeMap<&'static str, u64>,
    left: BTreeMap<&'static str, u64>,
}

impl Entry {
    /// A tombstone that somebody else wrote: clean, or left to whoever is at work on it.
    fn met(state: State, now: Duration) -> Self {
        let clean = state == State::Gone;
        let wait = if clean { LINGER_LOOK } else { THEIR_TURN };
        Self {
            next: now.saturating_add(wait),
            step: 1,
            clean,
            theirs: !clean,
            kept: BTreeMap::new(),
            left: BTreeMap::new(),
        }
    }
}

/// The book.
#[derive(Debug)]
pub(super) struct RetryQueue {
    interval: Duration,
    entries: HashMap<AttachmentLife, Entry>,
    /// What a pause or observe mode kept when it was last said, by bridge and pod: why, how many.
    said: HashMap<(String, Option<AttachmentLife>), (&'static str, u64)>,
}

fn life(record: &Attachment) -> AttachmentLife {
    (record.key.clone(), record.generation)
}

impl RetryQueue {
    pub(super) fn new(interval: Duration) -> Self {
        Self { interval, entries: HashMap::new(), said: HashMap::new() }
    }

    /// Whether a sweep for these reasons looks at this dead one. When it is urgent (somebody
    /// else has just died), those who are clean wait for the next.
    pub(super) fn is_due(
        &mut self,
        record: &Attachment,
        reasons: &Reasons,
        urgent: bool,
        now: Duration,
    ) -> bool {
        let all = reasons.wakes_all();
        let entry = self.entries.get(&life(record));
        let theirs = entry.is_none_or(|entry| entry.theirs) && record.state != State::Active;
        // Somebody else has cleaned up, perhaps before this daemon started: no latency of ours.
        if theirs && record.state == State::Gone {
            self.entries.insert(life(record), Entry::met(record.state, now));
            return all;
        }
        // A try that did not finish is counted in the record.
        if all || theirs && record.state == State::Deleting && record.attempts > 0 {
            return true;
        }
        match entry {
            Some(entry) => {
                let settling = reasons.has(Reason::Interface) && !entry.clean && !entry.theirs;
                let patient = if urgent && entry.clean { PATIENT } else { Duration::ZERO };
                entry.next.saturating_add(patient) <= now || settling && entry.step < IN_FLUX
            }
            None if !theirs => true,
            // Just buried by a DEL that is still at it.
            None => {
                self.entries.insert(life(record), Entry::met(record.state, now));
                false
            }
        }
    }

    /// Whether it is in here.
    pub(super) fn knows(&self, life: &AttachmentLife) -> bool {
        self.entries.contains_key(life)
    }

    /// Whether a tombstone that was written may tell us something: not if it is ours.
    pub(super) fn is_news(&self, life: &AttachmentLife) -> bool {
        self.entries.get(life).is_none_or(|entry| entry.theirs)
    }

    /// Something has happened that is worth another try for everybody: the looks that follow
    /// are close together again. After a restart of the switch a controller puts back what it
    /// knows, seconds later.
    pub(super) fn begin_anew(&mut self) {
        for entry in self.entries.values_mut() {
            entry.step = 0;
        }
    }

    /// Forgets everybody else.
    pub(super) fn only(&mut self, those: &HashSet<AttachmentLife>) {
        self.entries.retain(|life, _| those.contains(life));
        self.said.retain(|(_, life), _| life.as_ref().is_none_or(|life| those.contains(life)));
    }

    /// What a pause or observe mode keeps, where that has changed since it was last said. Each
    /// sweep finds the same entries again.
    pub(super) fn unsaid<'r>(&mut self, outcome: &'r Outcome) -> Vec<Withheld<'r>> {
        let place = |w: &Withheld<'_>| (w.bridge.to_owned(), w.of.map(|of| of.life.clone()));
        let withheld: Vec<Withheld<'_>> = outcome.withheld().collect();
        let now: HashSet<_> = withheld.iter().map(place).collect();
        let looked: HashSet<&AttachmentLife> =
            outcome.targets.iter().map(|target| &target.life).collect();
        let bridges = outcome.bridges.iter().filter(|b| b.error.is_none());
        let full: HashSet<&str> =
            bridges.filter(|b| b.counts.full).map(|b| b.bridge.as_str()).collect();
        self.said.retain(|at, _| {
            let looked = match &at.1 {
                Some(life) => looked.contains(life),
                None => full.contains(at.0.as_str()),
            };
            !looked || now.contains(at)
        });
        let changed = |w: &Withheld<'_>| {
            let what = (w.why, w.count);
            self.said.insert(place(w), what) != Some(what)
        };
        withheld.into_iter().filter(changed).collect()
    }

    /// Writes down what came of a look. Returns those that are clean now and were not before.
    pub(super) fn looked<'o>(
        &mut self,
        outcome: &'o Outcome,
        paused: bool,
        now: Duration,
        chance: f64,
    ) -> Vec<&'o TargetOutcome> {
        let observed = outcome.observed() > 0;
        let mut finished = Vec::new();
        for target in &outcome.targets {
            let before = self.entries.get(&target.life);
            let (was_clean, step) = before.map_or((false, 0), |e| (e.clean, e.step));
            let clean = target.is_finished() && !target.entries.waiting;
            let step =
                if before.is_some() && clean != was_clean { 1 } else { step.saturating_add(1) };
            if clean && !was_clean {
                finished.push(target);
            }
            let wait = self.wait(target, clean, step, chance);
            let entry = Entry {
                next: now.saturating_add(wait),
                step,
                clean,
                theirs: false,
                kept: target.entries.kept.clone(),
                left: left(target, paused, observed),
            };
            self.entries.insert(target.life.clone(), entry);
        }
        finished
    }

    fn wait(&self, target: &TargetOutcome, clean: bool, step: u32, chance: f64) -> Duration {
        if clean {
            let doubled = LINGER_LOOK.saturating_mul(1 << step.saturating_sub(1).min(16));
            return doubled.min(self.interval);
        }
        let hopeless = target.error.is_none() && step > HOPEFUL;
        let most = if hopeless { self.interval * SELDOM } else { self.interval };
        back_off(step, RETRY, most, chance)
    }

    /// When the next one is due, from now.
    pub(super) fn next(&self, now: Duration) -> Option<Duration> {
        self.entries.values().map(|entry| entry.next.saturating_sub(now)).min()
    }

    /// Entries that name somebody in here and were kept, by reason.
    pub(super) fn kept(&self) -> BTreeMap<&'static str, u64> {
        sum(self.entries.values().map(|entry| &entry.kept))
    }

    /// Stale entries that were left, by why.
    pub(super) fn left(&self) -> BTreeMap<&'static str, u64> {
        sum(self.entries.values().map(|entry| &entry.left))
    }
}

fn left(target: &TargetOutcome, paused: bool, observed: bool) -> BTreeMap<&'static str, u64> {
    let count = target.entries.stale.saturating_sub(target.entries.deleted);
    if count == 0 {
        return BTreeMap::new();
    }
    let why = if paused {
        "paused"
    } else if target.error.is_some() {
        "stayed"
    } else if observed {
        "observe"
    } else {
        "put-off"
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

    /// What comes of a look that finds nothing left of it.
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
    fn what_is_only_watched_is_said_when_it_changes() {
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
        let mut said = |of: &[(u64, u64)], paused| {
            let report = report(of, paused);
            retry_queue.unsaid(&report).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let line = |why: &str, count: u64| {
            let pod = "podnet/c1:eth0 (container c1)";
            vec![format!("bridge br0: {why}, not deleted: {count} stale entries of {pod}")]
        };
        assert_eq!(said(&[(1, 2_008)], false), line("mode observe", 2_008));
        for _ in 0..10 {
            assert_eq!(said(&[(1, 2_008)], false), [""; 0]);
            assert_eq!(said(&[], false), [""; 0], "it was not looked at");
        }
        assert_eq!(said(&[(1, 2_007), (2, 5)], false).len(), 2);
        assert_eq!(
            said(&[(1, 2_007), (2, 5)], true),
            [line("paused", 2_007), line("paused", 5)].concat()
        );
        assert_eq!(said(&[(1, 0), (2, 5)], true), [""; 0]);
        assert_eq!(said(&[(1, 2_007), (2, 5)], true), line("paused", 2_007));
        retry_queue.only(&HashSet::new());
        assert!(retry_queue.said.is_empty());
    }

    #[test]
    fn a_del_that_is_at_work_is_left_alone_and_one_that_failed_is_not() {
        let told = reasons(&[Reason::Tombstone]);
        let mut retry_queue = RetryQueue::new(at(30));
        let tombstones_written = record(1, State::Deleting, 0);
        assert!(retry_queue.is_news(&life(&tombstones_written)));
        assert!(!retry_queue.is_due(&tombstones_written, &told, false, at(10)), "its DEL is at it");
        assert!(retry_queue.is_news(&life(&tombstones_written)), "what comes of it is");
        assert!(
            retry_queue.is_due(&record(1, State::Deleting, 1), &told, false, at(10)),
            "it failed"
        );
        assert!(retry_queue.is_due(&tombstones_written, &told, false, at(11)), "it was killed");
        assert!(
            !retry_queue.is_due(&record(1, State::Gone, 0), &told, false, at(11)),
            "it is done"
        );
        assert!(!retry_queue.is_news(&life(&tombstones_written)));
        assert!(!retry_queue.is_due(&record(1, State::Gone, 0), &told, false, at(12)));
        assert!(
            !retry_queue.is_due(&record(1, State::Gone, 0), &told, true, at(13)),
            "others first"
        );
        assert!(retry_queue.is_due(&record(1, State::Gone, 0), &told, false, at(13)), "it lingers");
        // What failed before we came is due at once; so is everything after a restart.
        assert!(retry_queue.is_due(&record(2, State::Deleting, 3), &told, false, at(11)));
        assert!(retry_queue.is_due(
            &record(3, State::Gone, 0),
            &reasons(&[Reason::Switch]),
            false,
            at(11)
        ));
        // Nobody buries an orphan while the node is paused.
        assert!(retry_queue.is_due(&record(4, State::Active, 0), &told, false, at(11)));
    }

    #[test]
    fn restarts_of_the_switch_do_not_put_off_the_next_look() {
        let (mut retry_queue, gone) = (RetryQueue::new(at(600)), record(1, State::Gone, 0));
        let next = |retry_queue: &mut RetryQueue, woken: bool| {
            if woken {
                retry_queue.begin_anew();
            }
            retry_queue.looked(&clean(&gone), false, at(10), 0.5);
            retry_queue.next(at(10)).unwrap()
        };
        let looks: Vec<Duration> = (0..4).map(|_| next(&mut retry_queue, false)).collect();
        assert_eq!(looks, [2, 4, 8, 16].map(at));
        let restarts: Vec<Duration> = (0..20).map(|_| next(&mut retry_queue, true)).collect();
        assert_eq!(restarts, [at(2); 20]);
        assert_eq!(next(&mut retry_queue, false), at(4));
    }

    /// Who was clean before we met them has no latency that we could know, whatever wakes us.
    #[test]
    fn a_del_that_was_finished_by_itself_is_no_sample() {
        let told = reasons(&[Reason::Tombstone]);
        for all in [reasons(&[Reason::Switch]), reasons(&[Reason::Start])] {
            let mut retry_queue = RetryQueue::new(at(30));
            let before = record(1, State::Gone, 0);
            retry_queue.is_due(&before, &all, false, at(10));
            assert_eq!(retry_queue.looked(&clean(&before), false, at(10), 0.5).len(), 0);
            // One whose DEL was at work when we met it, and has ended it.
            assert!(!retry_queue.is_due(&record(2, State::Deleting, 0), &told, false, at(10)));
            let ended = record(2, State::Gone, 0);
            retry_queue.is_due(&ended, &all, false, at(11));
            assert_eq!(retry_queue.looked(&clean(&ended), false, at(11), 0.5).len(), 0);
            // One that we clean up.
            let ours = record(3, State::Deleting, 1);
            assert!(retry_queue.is_due(&ours, &all, false, at(11)));
            assert_eq!(retry_queue.looked(&clean(&ours), false, at(11), 0.5).len(), 1);
        }
    }
}
