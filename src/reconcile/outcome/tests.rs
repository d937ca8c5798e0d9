//! What is counted of a plan and of what was done about it.

use super::*;
use crate::judge::{Reason, Verdict};
use crate::model::table::Id;
use crate::openflow::Entry;
use crate::reconcile::scan::Candidate;
use crate::util::clock::BootTime;

const A: TargetId = TargetId(0);

fn candidate() -> Candidate {
    let text = "5 a 64 2a 0 0 0 0 8000000400000001 00040018000000000000001000000001";
    let entry = Entry::try_from(format!("{text}0000000000000000")).unwrap();
    Candidate::seen(entry, BootTime::now(), 0)
}

fn planned(
    candidate: &Candidate,
    count: usize,
    target: Option<TargetId>,
) -> Vec<PlannedDelete<'_>> {
    let verdict = Verdict { stale: true, reason: Reason::Ambiguous, dead: None };
    vec![PlannedDelete { id: Id::of(0), candidate, verdict, target }; count]
}

/// A bridge on which a plan wants as many entries of a target deleted.
fn bridge(planned: &[PlannedDelete<'_>]) -> BridgeOutcome {
    let mut bridge = BridgeOutcome::new("br0");
    let mut plan = Plan { delete: planned.to_vec(), ..Plan::default() };
    for target in planned.iter().filter_map(|planned| planned.target) {
        plan.targets.entry(target).or_default().stale += 1;
    }
    bridge.planned(&plan);
    bridge
}

fn done(outcomes: &[EntryOutcome]) -> Executed {
    Executed { outcomes: outcomes.to_vec(), ..Executed::default() }
}

#[test]
fn each_planned_delete_is_counted_as_what_became_of_it() {
    use EntryOutcome::{Deleted, Lost, PutBack, PutOff, Replaced, Stayed, Withheld};
    // Outcome; stale, deleted, stayed, put off, put back, observed; waiting, unsettled.
    let table = [
        (Deleted, [1, 1, 0, 0, 0, 0], (false, false)),
        (Lost, [1, 1, 0, 0, 0, 0], (false, false)),
        (Replaced, [1, 1, 0, 0, 0, 0], (true, false)),
        (PutOff, [0, 0, 0, 1, 0, 0], (true, true)),
        (PutBack, [0, 0, 0, 0, 1, 0], (true, true)),
        (Stayed, [1, 0, 1, 0, 0, 0], (false, false)),
        (Withheld, [1, 0, 0, 0, 0, 1], (true, false)),
    ];
    let candidate = candidate();
    for (outcome, counts, waits) in table {
        let planned = planned(&candidate, 1, Some(A));
        let mut on = bridge(&planned);
        on.executed(&planned, &done(&[outcome]));
        let Counts { stale, deleted, stayed, put_off, put_back, observed, .. } = on.counts;
        assert_eq!([stale, deleted, stayed, put_off, put_back, observed], counts, "{outcome:?}");
        let of = &on.targets[&A];
        assert_eq!((of.waiting, of.unsettled), waits, "{outcome:?}");
        assert_eq!((of.stale, of.deleted), (stale, deleted), "{outcome:?}");
        assert_eq!(of.stayed, outcome == Stayed);
        assert_eq!(on.withheld.get(&Some(A)).copied(), (outcome == Withheld).then_some(1));
        assert_eq!(on.deleted_by.values().sum::<u64>(), deleted);
    }
}

/// Somebody may have an error before the last chunk: what was not reached is no deletion.
#[test]
fn what_was_not_reached_is_not_counted() {
    let candidate = candidate();
    let planned = planned(&candidate, 3, None);
    let mut on = bridge(&planned);
    on.executed(&planned, &done(&[EntryOutcome::Deleted]));
    assert_eq!((on.counts.stale, on.counts.deleted), (3, 1));
    assert!(on.targets.is_empty(), "a port that is nobody's");
}

#[test]
fn another_look_finds_again_what_stays_and_keeps_what_was_done() {
    let candidate = candidate();
    let planned = planned(&candidate, 2, Some(A));
    let mut on = bridge(&planned);
    on.executed(&planned, &done(&[EntryOutcome::Deleted, EntryOutcome::PutOff]));
    assert!(on.is_unsettled());
    on.scan_again();
    assert!(!on.is_unsettled());
    let rest = &planned[..1];
    on.planned(&Plan { delete: rest.to_vec(), dangling: 4, ..Plan::default() });
    on.executed(rest, &done(&[EntryOutcome::Deleted]));
    let Counts { stale, deleted, put_off, dangling, .. } = on.counts;
    assert_eq!((stale, deleted, put_off, dangling), (2, 2, 1, 4));
    assert!(!on.targets[&A].waiting);
}

/// A bridge that is scanned again says nothing of what waits on another one.
#[test]
fn a_target_waits_for_each_of_its_bridges() {
    let waits = TargetEntries { waiting: true, stale: 2, ..TargetEntries::default() };
    let mut first = BridgeOutcome::new("br0");
    first.targets.insert(A, waits);
    let mut second = BridgeOutcome::new("br1");
    second.targets.insert(A, TargetEntries { deleted: 1, stale: 1, ..TargetEntries::default() });
    second.scan_again();
    let mut outcome = Outcome::new(&[target()]);
    outcome.add_bridge(first);
    outcome.add_bridge(second);
    let of = &outcome.targets[0];
    assert!(of.entries.waiting && of.error.is_none());
    assert_eq!((of.entries.stale, of.entries.deleted), (3, 1));
}

#[test]
fn an_entry_that_stayed_and_a_bridge_that_failed_are_an_error_of_their_targets() {
    let error_of = |entries: TargetEntries, error: Option<&str>| {
        let mut on = BridgeOutcome::new("br0");
        on.targets.insert(A, entries);
        on.error = error.map(str::to_owned);
        let mut outcome = Outcome::new(&[target()]);
        outcome.add_bridge(on);
        outcome.targets[0].error.clone()
    };
    let stayed = || TargetEntries { stayed: true, ..TargetEntries::default() };
    let still_there = "entries are still there after their deletion";
    assert_eq!(error_of(stayed(), None).as_deref(), Some(still_there));
    assert_eq!(error_of(stayed(), Some("it hangs")).as_deref(), Some(still_there));
    let none = TargetEntries::default();
    assert_eq!(error_of(none, Some("it hangs")).as_deref(), Some("bridge br0: it hangs"));
}

fn target() -> CleanTarget {
    let key = Key {
        network: "net".parse().unwrap(),
        container: "c1".parse().unwrap(),
        ifname: "eth0".parse().unwrap(),
    };
    let now = Stamp { boot_ms: 1, wall_ms: 1 };
    let attachment = crate::model::attachment::Attachment::new(key, 1, "boot".to_owned(), now);
    CleanTarget { attachment, cause: Cause::Del }
}
