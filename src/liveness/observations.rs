//! What a source that watches has seen of pods, and what may be concluded from it.
//! Pure: no I/O, no clock.
//!
//! Guarantees: a pod is called dead only if this source showed it alive before, and two complete
//! observations in a row do not show it alive. An attachment younger than [`GRACE`] is not called
//! dead. While the source is away, every answer is unknown. If an observation shows no pod of the
//! one before, the source has lost its memory (its state was wiped, or it is another node's list),
//! and no pod is called dead.
//!
//! Assumption: ids are not used twice: a sandbox's id, a pod's UID; never a name.
//!
//! Caveat: a death while the source is away or restarts is not noticed.

use std::collections::HashMap;
use std::time::Duration;

use super::{Liveness, LivenessReason};
use crate::model::attachment::Attachment;
use crate::util::clock::Stamp;

/// An attachment younger than this is not judged: runtimes and API servers show a pod some
/// time after ADD.
pub const GRACE: Duration = Duration::from_secs(30);

/// This many observations in a row must say dead.
const ENOUGH: u8 = 2;

/// A single pod may end between two observations. If at least this many were alive, and none of
/// them is shown any more, the source has lost its memory.
const WIPE: usize = 2;

/// This many that are gone are remembered at most; those that went first are forgotten.
const MOST_GONE: usize = 1024;

/// What one observation shows of a sandbox or pod. One that is not shown is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Alive.
    Alive,
    /// Still listed, but ended.
    Ended(LivenessReason),
}

/// One entry of a complete observation.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// How the source names it: a sandbox's id, a pod's UID.
    pub id: &'a str,
    /// The pod's UID; empty where `id` is the UID, or where it is unknown.
    pub uid: &'a str,
    /// Its state.
    pub seen: Seen,
}

/// What an observation changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Dead from now on: the second observation in a row says so.
    pub dead: usize,
    /// Not alive for the first time: the next observation decides.
    pub doubtful: usize,
    /// Alive, and not so before.
    pub alive: usize,
    /// The source has lost its memory: what it showed before is forgotten.
    pub wiped: bool,
}

/// What one source has shown. After a restart of the daemon this begins empty.
#[derive(Debug)]
pub struct Observations {
    /// What it has shown alive, by id.
    sights: HashMap<Box<str>, Sight>,
    /// Why one that is not shown any more is dead.
    gone: LivenessReason,
    /// Complete observations so far.
    round: u64,
    away: bool,
}

#[derive(Debug)]
struct Sight {
    uid: Box<str>,
    alive: bool,
    /// Observations in a row that do not show it alive, up to [`ENOUGH`].
    doubts: u8,
    /// What the last of them says.
    why: LivenessReason,
    /// The round since which it is not shown at all.
    gone_since: Option<u64>,
}

impl Sight {
    fn take_in(&mut self, seen: Option<Seen>, gone: LivenessReason, round: u64, news: &mut News) {
        self.gone_since = match seen {
            Some(_) => None,
            None => self.gone_since.or(Some(round)),
        };
        let why = match seen {
            Some(Seen::Alive) => {
                news.alive += usize::from(!self.alive);
                (self.alive, self.doubts) = (true, 0);
                return;
            }
            Some(Seen::Ended(why)) => why,
            None => gone,
        };
        self.alive = false;
        self.why = why;
        if self.doubts < ENOUGH {
            self.doubts += 1;
            news.dead += usize::from(self.doubts == ENOUGH);
            news.doubtful += usize::from(self.doubts < ENOUGH);
        }
    }
}

impl Observations {
    /// Nothing seen yet, and the source is away. `gone` says why one that is not shown any more
    /// is dead: [`LivenessReason::SandboxGone`], [`LivenessReason::PodGone`].
    #[must_use]
    pub fn new(gone: LivenessReason) -> Self {
        Self { sights: HashMap::new(), gone, round: 0, away: true }
    }

    /// Takes in a complete observation: a pod that is not in it is gone. An observation that was
    /// cut short, or has an odd part, must not come here: see [`away`](Self::away).
    pub fn complete<'a>(&mut self, shown: impl IntoIterator<Item = Shown<'a>>) -> News {
        let mut news = News::default();
        let mut now: HashMap<&str, Shown<'a>> = HashMap::new();
        for one in shown {
            let entry = now.entry(one.id).or_insert(one);
            // Listed twice: alive wins.
            if one.seen == Seen::Alive {
                *entry = one;
            }
        }
        let alive = self.sights.values().filter(|sight| sight.alive).count();
        if alive >= WIPE && !self.sights.keys().any(|id| now.contains_key(&**id)) {
            news.wiped = true;
            self.sights.clear();
        }
        self.round = self.round.saturating_add(1);
        self.away = false;
        let (gone, round) = (self.gone, self.round);
        self.sights.retain(|id, sight| {
            let seen = match now.remove(&**id) {
                Some(one) if !same(&sight.uid, one.uid) => {
                    // The id has another UID now: it is another pod.
                    now.insert(one.id, one);
                    return false;
                }
                one => one.map(|one| one.seen),
            };
            sight.take_in(seen, gone, round, &mut news);
            true
        });
        for one in now.into_values().filter(|one| one.seen == Seen::Alive) {
            let sight =
                Sight { uid: one.uid.into(), alive: true, doubts: 0, why: gone, gone_since: None };
            self.sights.insert(one.id.into(), sight);
            news.alive += 1;
        }
        self.forget_longest_gone();
        news
    }

    /// One is alive, and nothing is known of the others: news between two complete observations.
    pub fn alive(&mut self, id: &str) {
        let (uid, why) = (Box::default(), self.gone);
        let sight = Sight { uid, alive: true, doubts: 0, why, gone_since: None };
        let sight = self.sights.entry(id.into()).or_insert(sight);
        (sight.alive, sight.doubts, sight.gone_since) = (true, 0, None);
    }

    /// The source does not answer, or not completely: every answer is unknown until it does, and
    /// its next observation is the first of two.
    pub fn away(&mut self) {
        self.away = true;
        for sight in self.sights.values_mut() {
            sight.doubts = 0;
        }
    }

    /// The source was restarted, or replaced: its earlier observations say nothing about the
    /// later ones.
    pub fn forget(&mut self) {
        self.sights.clear();
        self.away = true;
    }

    /// Forgets one, because the source cannot say whether it still knows it.
    pub fn forget_one(&mut self, id: &str) {
        self.sights.remove(id);
    }

    /// The ids that the source knew and does not show any more, and that are not called dead yet:
    /// they can be asked for by name before the observation is taken in.
    pub fn missing(&self, is_shown: impl Fn(&str) -> bool) -> impl Iterator<Item = &str> {
        let unsettled = self.sights.iter().filter(|(_, sight)| sight.doubts < ENOUGH);
        unsettled.map(|(id, _)| &**id).filter(move |id| !is_shown(id))
    }

    /// Whether the next observation will decide about a death.
    #[must_use]
    pub fn is_unsettled(&self) -> bool {
        self.sights.values().any(|sight| !sight.alive && sight.doubts < ENOUGH)
    }

    /// Whether the last observation was complete.
    #[must_use]
    pub fn is_up(&self) -> bool {
        !self.away
    }

    /// Whether the pod with this `id` is alive. `uid` is the pod's, empty if unknown. With another
    /// UID than the one that was shown, the pod is one that the source never saw.
    #[must_use]
    pub fn life(&self, id: &str, uid: &str, record: &Attachment, now: Stamp) -> Liveness {
        if self.away {
            return Liveness::Unknown(LivenessReason::SourceAway);
        }
        let Some(sight) = self.sights.get(id).filter(|sight| same(&sight.uid, uid)) else {
            return Liveness::Unknown(LivenessReason::NeverSeen);
        };
        if sight.alive {
            Liveness::Alive
        } else if record.created.until(now) < GRACE {
            Liveness::Unknown(LivenessReason::Young)
        } else if sight.doubts < ENOUGH {
            Liveness::Unknown(LivenessReason::SeenOnce)
        } else {
            Liveness::Dead(sight.why)
        }
    }

    fn forget_longest_gone(&mut self) {
        let gone = || self.sights.values().filter_map(|sight| sight.gone_since);
        let surplus = gone().count().saturating_sub(MOST_GONE);
        if surplus == 0 {
            return;
        }
        let mut since: Vec<u64> = gone().collect();
        let last = *since.select_nth_unstable(surplus - 1).1;
        let mut left = surplus;
        self.sights.retain(|_, sight| {
            let forgotten = left > 0 && sight.gone_since.is_some_and(|since| since <= last);
            left -= usize::from(forgotten);
            !forgotten
        });
    }
}

/// Whether two UIDs are one pod's, as far as both are known.
fn same(one: &str, other: &str) -> bool {
    one.is_empty() || other.is_empty() || one == other
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Seen::{Alive, Ended};
    use super::*;
    use crate::model::attachment::Key;

    const STOPPED: LivenessReason = LivenessReason::SandboxStopped;
    const GONE: Liveness = Liveness::Dead(LivenessReason::SandboxGone);

    fn at(boot_ms: u64) -> Stamp {
        Stamp { boot_ms, wall_ms: 1_700_000_000_000 + boot_ms }
    }

    fn record() -> Attachment {
        let key = Key {
            network: "net".parse().unwrap(),
            container: "c1".parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        Attachment::new(key, 1, "boot".to_owned(), at(100_000))
    }

    /// What is said of an attachment that is old enough.
    fn life(seen: &Observations, id: &str) -> Liveness {
        seen.life(id, "", &record(), at(130_000))
    }

    fn complete(seen: &mut Observations, shown: &[(&str, Seen)]) -> News {
        seen.complete(shown.iter().map(|(id, seen)| Shown { id, uid: "", seen: *seen }))
    }

    /// "a" and a companion that stays, without whom "a" alone would be everybody.
    fn look(seen: &mut Observations, a: Option<Seen>) -> News {
        let mut shown = vec![("stays", Alive)];
        shown.extend(a.map(|a| ("a", a)));
        complete(seen, &shown)
    }

    fn new() -> Observations {
        Observations::new(LivenessReason::SandboxGone)
    }

    #[test]
    fn nobody_is_judged_before_the_first_complete_answer() {
        let mut seen = new();
        assert_eq!(life(&seen, "a"), Liveness::Unknown(LivenessReason::SourceAway));
        assert!(!seen.is_up());
        assert_eq!(look(&mut seen, Some(Alive)), News { alive: 2, ..News::default() });
        assert!(seen.is_up());
        assert_eq!(life(&seen, "a"), Liveness::Alive);
    }

    #[test]
    fn gone_counts_when_seen_twice() {
        let mut seen = new();
        look(&mut seen, Some(Alive));
        assert_eq!(look(&mut seen, None), News { doubtful: 1, ..News::default() });
        assert_eq!(life(&seen, "a"), Liveness::Unknown(LivenessReason::SeenOnce));
        assert!(seen.is_unsettled());
        assert_eq!(look(&mut seen, None), News { dead: 1, ..News::default() });
        assert!(!seen.is_unsettled());
        assert_eq!(life(&seen, "a"), GONE);
        assert_eq!(look(&mut seen, None), News::default());
        assert_eq!(life(&seen, "a"), GONE);
        assert_eq!(life(&seen, "stays"), Liveness::Alive);
    }

    #[test]
    fn ended_and_then_gone_are_two_in_a_row() {
        let mut seen = new();
        look(&mut seen, Some(Alive));
        look(&mut seen, Some(Ended(STOPPED)));
        assert_eq!(life(&seen, "a"), Liveness::Unknown(LivenessReason::SeenOnce));
        look(&mut seen, Some(Ended(STOPPED)));
        assert_eq!(life(&seen, "a"), Liveness::Dead(STOPPED));
        look(&mut seen, None);
        assert_eq!(life(&seen, "a"), GONE);
    }

    #[test]
    fn news_of_one_says_nothing_of_the_others() {
        let mut seen = new();
        look(&mut seen, Some(Alive));
        look(&mut seen, None);
        seen.alive("new");
        assert_eq!(life(&seen, "a"), Liveness::Unknown(LivenessReason::SeenOnce));
        assert_eq!(life(&seen, "new"), Liveness::Alive);
        seen.alive("a");
        look(&mut seen, None);
        assert_eq!(
            life(&seen, "a"),
            Liveness::Unknown(LivenessReason::SeenOnce),
            "not two in a row"
        );
        look(&mut seen, None);
        assert_eq!((life(&seen, "a"), life(&seen, "new")), (GONE, GONE));
    }

    #[test]
    fn a_flapping_list_kills_nobody() {
        let mut seen = new();
        for _ in 0..5 {
            look(&mut seen, Some(Alive));
            look(&mut seen, None);
            assert_eq!(life(&seen, "a"), Liveness::Unknown(LivenessReason::SeenOnce));
        }
    }

    #[test]
    fn who_was_never_seen_alive_is_not_judged() {
        let mut seen = new();
        for _ in 0..3 {
            look(&mut seen, Some(Ended(STOPPED)));
            assert_eq!(life(&seen, "a"), Liveness::Unknown(LivenessReason::NeverSeen));
            assert_eq!(life(&seen, "default-web"), Liveness::Unknown(LivenessReason::NeverSeen));
        }
    }

    #[test]
    fn the_young_are_not_judged() {
        let mut seen = new();
        look(&mut seen, Some(Alive));
        assert_eq!(seen.life("a", "", &record(), at(100_000)), Liveness::Alive);
        look(&mut seen, None);
        look(&mut seen, None);
        for now in [0, 100_000, 129_999] {
            let young = Liveness::Unknown(LivenessReason::Young);
            assert_eq!(seen.life("a", "", &record(), at(now)), young, "{now}");
        }
        // Wall clocks step: only the boot's counts.
        let stepped = Stamp { boot_ms: 129_999, wall_ms: u64::MAX };
        assert_eq!(
            seen.life("a", "", &record(), stepped),
            Liveness::Unknown(LivenessReason::Young)
        );
        let stepped = Stamp { boot_ms: 130_000, wall_ms: 0 };
        assert_eq!(seen.life("a", "", &record(), stepped), GONE);
    }

    #[test]
    fn another_uid_is_another_pod() {
        let mut seen = new();
        let show = |seen: &mut Observations, uid: &'static str| {
            let stays = Shown { id: "stays", uid: "", seen: Alive };
            seen.complete([Shown { id: "a", uid, seen: Alive }, stays])
        };
        let of = |seen: &Observations, uid| seen.life("a", uid, &record(), at(130_000));
        show(&mut seen, "uid-1");
        assert_eq!(of(&seen, "uid-1"), Liveness::Alive);
        assert_eq!(of(&seen, ""), Liveness::Alive, "the record does not say");
        assert_eq!(of(&seen, "config-hash"), Liveness::Unknown(LivenessReason::NeverSeen));
        show(&mut seen, "uid-2");
        assert_eq!(of(&seen, "uid-1"), Liveness::Unknown(LivenessReason::NeverSeen));
        assert_eq!(of(&seen, "uid-2"), Liveness::Alive);
    }

    #[test]
    fn while_it_is_away_nobody_is_judged_and_nothing_counts() {
        let mut seen = new();
        look(&mut seen, Some(Alive));
        look(&mut seen, None);
        seen.away();
        assert_eq!(life(&seen, "a"), Liveness::Unknown(LivenessReason::SourceAway));
        assert_eq!(life(&seen, "stays"), Liveness::Unknown(LivenessReason::SourceAway));
        look(&mut seen, None);
        assert_eq!(life(&seen, "a"), Liveness::Unknown(LivenessReason::SeenOnce), "not in a row");
        assert_eq!(life(&seen, "stays"), Liveness::Alive);
        look(&mut seen, None);
        assert_eq!(life(&seen, "a"), GONE);
        seen.away();
        look(&mut seen, None);
        assert_eq!(life(&seen, "a"), Liveness::Unknown(LivenessReason::SeenOnce));
    }

    #[test]
    fn a_restart_loses_what_was_seen() {
        let mut seen = new();
        look(&mut seen, Some(Alive));
        look(&mut seen, None);
        seen.forget();
        assert_eq!(life(&seen, "a"), Liveness::Unknown(LivenessReason::SourceAway));
        for _ in 0..3 {
            look(&mut seen, None);
            assert_eq!(life(&seen, "a"), Liveness::Unknown(LivenessReason::NeverSeen));
        }
    }

    #[test]
    fn everybody_lost_at_once_is_a_wipe() {
        let elsewhere: &[(&str, Seen)] = &[("x", Alive), ("y", Alive)];
        let ended: &[(&str, Seen)] = &[("x", Ended(STOPPED))];
        for list in [&[], elsewhere, ended] {
            let mut seen = new();
            look(&mut seen, Some(Alive));
            assert!(complete(&mut seen, list).wiped, "{list:?}");
            for _ in 0..3 {
                complete(&mut seen, list);
                assert_eq!(life(&seen, "a"), Liveness::Unknown(LivenessReason::NeverSeen));
                assert_eq!(life(&seen, "stays"), Liveness::Unknown(LivenessReason::NeverSeen));
            }
        }
    }

    #[test]
    fn one_that_goes_is_no_wipe_nor_are_many_that_end_first() {
        let mut seen = new();
        complete(&mut seen, &[("a", Alive)]);
        complete(&mut seen, &[]);
        complete(&mut seen, &[]);
        assert_eq!(life(&seen, "a"), GONE);

        complete(&mut seen, &[("b", Alive), ("c", Alive)]);
        complete(&mut seen, &[("b", Ended(STOPPED)), ("c", Ended(STOPPED))]);
        assert!(!complete(&mut seen, &[]).wiped);
        assert_eq!((life(&seen, "b"), life(&seen, "c")), (GONE, GONE));
    }

    #[test]
    fn the_missing_can_be_asked_for_and_forgotten() {
        let mut seen = new();
        look(&mut seen, Some(Alive));
        let missing = |seen: &Observations| {
            seen.missing(|id| id == "stays").map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(missing(&seen), ["a"]);
        look(&mut seen, None);
        assert_eq!(missing(&seen), ["a"]);
        look(&mut seen, None);
        assert!(missing(&seen).is_empty(), "settled");
        seen.forget_one("a");
        assert_eq!(life(&seen, "a"), Liveness::Unknown(LivenessReason::NeverSeen));
    }

    /// The grace counts on the clock that does not jump.
    #[test]
    fn a_wall_clock_that_jumps_makes_nobody_old_or_young() {
        const DAY: u64 = 86_400_000;
        for (created, now) in [(DAY, 0), (0, DAY), (DAY, DAY)] {
            let mut seen = new();
            look(&mut seen, Some(Alive));
            look(&mut seen, None);
            look(&mut seen, None);
            let mut record = record();
            record.created.wall_ms = created;
            let at = |boot_ms| Stamp { boot_ms, wall_ms: now };
            let grace = u64::try_from(GRACE.as_millis()).unwrap();
            let old = record.created.boot_ms + grace;
            assert_eq!(seen.life("a", "", &record, at(old)), GONE);
            assert_eq!(
                seen.life("a", "", &record, at(old - 1)),
                Liveness::Unknown(LivenessReason::Young)
            );
            // A clock that is behind the record's: nothing is known of its age.
            record.created.boot_ms = old + DAY;
            assert_eq!(
                seen.life("a", "", &record, at(old)),
                Liveness::Unknown(LivenessReason::Young)
            );
        }
    }

    #[test]
    fn listed_twice_alive_wins() {
        for twice in [[Alive, Ended(STOPPED)], [Ended(STOPPED), Alive]] {
            let mut seen = new();
            complete(&mut seen, &[("a", twice[0]), ("a", twice[1])]);
            assert_eq!(life(&seen, "a"), Liveness::Alive);
        }
    }

    #[test]
    fn memory_is_bounded_and_keeps_the_latest() {
        let mut seen = new();
        for n in 0..3 * MOST_GONE {
            let id = format!("pod-{n}");
            complete(&mut seen, &[("stays", Alive), (&id, Alive)]);
        }
        assert_eq!(seen.sights.len(), MOST_GONE + 2);
        look(&mut seen, None);
        let last = format!("pod-{}", 3 * MOST_GONE - 2);
        assert_eq!(life(&seen, &last), GONE);
        assert_eq!(life(&seen, "pod-0"), Liveness::Unknown(LivenessReason::NeverSeen));
        assert_eq!(life(&seen, "stays"), Liveness::Alive);

        // Many at once that have been gone equally long.
        let ids: Vec<String> = (0..3 * MOST_GONE).map(|n| format!("crowd-{n}")).collect();
        let mut crowd: Vec<(&str, Seen)> = ids.iter().map(|id| (&**id, Alive)).collect();
        crowd.push(("stays", Alive));
        complete(&mut seen, &crowd);
        look(&mut seen, None);
        assert_eq!(seen.sights.len(), MOST_GONE + 1);
    }

    /// One step of a source's life.
    #[derive(Clone, Debug)]
    enum Step {
        Complete(Vec<(u8, bool)>),
        Away,
        Forget,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => proptest::collection::btree_map(0u8..5, any::<bool>(), 0..6)
                .prop_map(|shown| Step::Complete(shown.into_iter().collect())),
            1 => Just(Step::Away),
            1 => Just(Step::Forget),
        ]
    }

    /// The rules, from the whole history: slow, but without state to get wrong.
    fn by_history(history: &[Step], id: u8) -> Liveness {
        let shown = |step: &Step, id| match step {
            Step::Complete(shown) => shown.iter().find(|(one, _)| *one == id).map(|(_, a)| *a),
            Step::Away | Step::Forget => None,
        };
        if !matches!(history.last(), Some(Step::Complete(_))) {
            return Liveness::Unknown(LivenessReason::SourceAway);
        }
        let mut start = 0;
        for (now, step) in history.iter().enumerate() {
            let so_far = &history[start..now];
            let known = (0..5).filter(|id| so_far.iter().any(|s| shown(s, *id) == Some(true)));
            let before = so_far.iter().rfind(|step| matches!(step, Step::Complete(_)));
            let alive = |id| before.is_some_and(|before| shown(before, id) == Some(true));
            let lost_all = matches!(step, Step::Complete(_))
                && known.clone().filter(|id| alive(*id)).count() >= WIPE
                && known.clone().all(|id| shown(step, id).is_none());
            if lost_all || matches!(step, Step::Forget) {
                start = now;
            }
        }
        let valid = &history[start..];
        if !valid.iter().any(|step| shown(step, id) == Some(true)) {
            return Liveness::Unknown(LivenessReason::NeverSeen);
        }
        let says = |step: &Step| matches!(step, Step::Complete(_)) && shown(step, id) != Some(true);
        match valid {
            [.., last] if !says(last) => Liveness::Alive,
            [.., before, last] if says(before) => match shown(last, id) {
                Some(_) => Liveness::Dead(STOPPED),
                None => GONE,
            },
            _ => Liveness::Unknown(LivenessReason::SeenOnce),
        }
    }

    proptest! {
        #[test]
        fn what_is_remembered_agrees_with_the_history(
            history in proptest::collection::vec(step(), 1..24),
        ) {
            let mut seen = new();
            for (now, step) in history.iter().enumerate() {
                match step {
                    Step::Complete(shown) => {
                        let shown: Vec<(String, Seen)> = shown
                            .iter()
                            .map(|(id, a)| (id.to_string(), if *a { Alive } else { Ended(STOPPED) }))
                            .collect();
                        seen.complete(
                            shown.iter().map(|(id, seen)| Shown { id, uid: "", seen: *seen }),
                        );
                    }
                    Step::Away => seen.away(),
                    Step::Forget => seen.forget(),
                }
                for id in 0..5u8 {
                    let history = &history[..=now];
                    prop_assert_eq!(life(&seen, &id.to_string()), by_history(history, id));
                    // Whatever happened, the young are spared.
                    let young = seen.life(&id.to_string(), "", &record(), at(100_001));
                    prop_assert!(!young.is_dead());
                }
            }
        }
    }
}
