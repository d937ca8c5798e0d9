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
fn told(seen: &mut Observations, a: Option<Seen>) -> News {
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
    assert_eq!(told(&mut seen, Some(Alive)), News { alive: 2, ..News::default() });
    assert!(seen.is_up());
    assert_eq!(life(&seen, "a"), Liveness::Alive);
}

#[test]
fn gone_counts_when_seen_twice() {
    let mut seen = new();
    told(&mut seen, Some(Alive));
    assert_eq!(told(&mut seen, None), News { doubtful: 1, ..News::default() });
    assert_eq!(life(&seen, "a"), Liveness::Unknown(LivenessReason::SeenOnce));
    assert!(seen.is_unsettled());
    assert_eq!(told(&mut seen, None), News { dead: 1, ..News::default() });
    assert!(!seen.is_unsettled());
    assert_eq!(life(&seen, "a"), GONE);
    assert_eq!(told(&mut seen, None), News::default());
    assert_eq!(life(&seen, "a"), GONE);
    assert_eq!(life(&seen, "stays"), Liveness::Alive);
}

#[test]
fn ended_and_then_gone_are_two_in_a_row() {
    let mut seen = new();
    told(&mut seen, Some(Alive));
    told(&mut seen, Some(Ended(STOPPED)));
    assert_eq!(life(&seen, "a"), Liveness::Unknown(LivenessReason::SeenOnce));
    told(&mut seen, Some(Ended(STOPPED)));
    assert_eq!(life(&seen, "a"), Liveness::Dead(STOPPED));
    told(&mut seen, None);
    assert_eq!(life(&seen, "a"), GONE);
}

#[test]
fn news_of_one_says_nothing_of_the_others() {
    let mut seen = new();
    told(&mut seen, Some(Alive));
    told(&mut seen, None);
    seen.alive("new");
    assert_eq!(life(&seen, "a"), Liveness::Unknown(LivenessReason::SeenOnce));
    assert_eq!(life(&seen, "new"), Liveness::Alive);
    seen.alive("a");
    told(&mut seen, None);
    assert_eq!(life(&seen, "a"), Liveness::Unknown(LivenessReason::SeenOnce), "not two in a row");
    told(&mut seen, None);
    assert_eq!((life(&seen, "a"), life(&seen, "new")), (GONE, GONE));
}

#[test]
fn a_flapping_list_kills_nobody() {
    let mut seen = new();
    for _ in 0..5 {
        told(&mut seen, Some(Alive));
        told(&mut seen, None);
        assert_eq!(life(&seen, "a"), Liveness::Unknown(LivenessReason::SeenOnce));
    }
}

#[test]
fn who_was_never_seen_alive_is_not_judged() {
    let mut seen = new();
    for _ in 0..3 {
        told(&mut seen, Some(Ended(STOPPED)));
        assert_eq!(life(&seen, "a"), Liveness::Unknown(LivenessReason::NeverSeen));
        assert_eq!(life(&seen, "default-web"), Liveness::Unknown(LivenessReason::NeverSeen));
    }
}

#[test]
fn the_young_are_not_judged() {
    let mut seen = new();
    told(&mut seen, Some(Alive));
    assert_eq!(seen.life("a", "", &record(), at(100_000)), Liveness::Alive);
    told(&mut seen, None);
    told(&mut seen, None);
    for now in [0, 100_000, 129_999] {
        let young = Liveness::Unknown(LivenessReason::Young);
        assert_eq!(seen.life("a", "", &record(), at(now)), young, "{now}");
    }
    // Wall clocks step: only the boot's counts.
    let stepped = Stamp { boot_ms: 129_999, wall_ms: u64::MAX };
    assert_eq!(seen.life("a", "", &record(), stepped), Liveness::Unknown(LivenessReason::Young));
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
    told(&mut seen, Some(Alive));
    told(&mut seen, None);
    seen.away();
    assert_eq!(life(&seen, "a"), Liveness::Unknown(LivenessReason::SourceAway));
    assert_eq!(life(&seen, "stays"), Liveness::Unknown(LivenessReason::SourceAway));
    told(&mut seen, None);
    assert_eq!(life(&seen, "a"), Liveness::Unknown(LivenessReason::SeenOnce), "not in a row");
    assert_eq!(life(&seen, "stays"), Liveness::Alive);
    told(&mut seen, None);
    assert_eq!(life(&seen, "a"), GONE);
    seen.away();
    told(&mut seen, None);
    assert_eq!(life(&seen, "a"), Liveness::Unknown(LivenessReason::SeenOnce));
}

#[test]
fn a_restart_loses_what_was_seen() {
    let mut seen = new();
    told(&mut seen, Some(Alive));
    told(&mut seen, None);
    seen.forget();
    assert_eq!(life(&seen, "a"), Liveness::Unknown(LivenessReason::SourceAway));
    for _ in 0..3 {
        told(&mut seen, None);
        assert_eq!(life(&seen, "a"), Liveness::Unknown(LivenessReason::NeverSeen));
    }
}

#[test]
fn everybody_lost_at_once_is_a_wipe() {
    let elsewhere: &[(&str, Seen)] = &[("x", Alive), ("y", Alive)];
    let ended: &[(&str, Seen)] = &[("x", Ended(STOPPED))];
    for list in [&[], elsewhere, ended] {
        let mut seen = new();
        told(&mut seen, Some(Alive));
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
    told(&mut seen, Some(Alive));
    let missing = |seen: &Observations| {
        seen.missing(|id| id == "stays").map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(missing(&seen), ["a"]);
    told(&mut seen, None);
    assert_eq!(missing(&seen), ["a"]);
    told(&mut seen, None);
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
        told(&mut seen, Some(Alive));
        told(&mut seen, None);
        told(&mut seen, None);
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
        assert_eq!(seen.life("a", "", &record, at(old)), Liveness::Unknown(LivenessReason::Young));
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
    told(&mut seen, None);
    let last = format!("pod-{}", 3 * MOST_GONE - 2);
    assert_eq!(life(&seen, &last), GONE);
    assert_eq!(life(&seen, "pod-0"), Liveness::Unknown(LivenessReason::NeverSeen));
    assert_eq!(life(&seen, "stays"), Liveness::Alive);

    // Many at once that have been gone equally long.
    let ids: Vec<String> = (0..3 * MOST_GONE).map(|n| format!("many-{n}")).collect();
    let mut many: Vec<(&str, Seen)> = ids.iter().map(|id| (&**id, Alive)).collect();
    many.push(("stays", Alive));
    complete(&mut seen, &many);
    told(&mut seen, None);
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
