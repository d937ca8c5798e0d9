//! Every message of the switch and of its database goes wrong once, in turn; so do our
//! requests on their way.

use std::time::Duration;

use serde_json::json;

use super::checks::{End, Extent, Summary, Terms, extent, wanted};
use super::fixture::How;
use super::proxy::{Fault, Peer, Plan, Proxy, Seen, Way};
use super::verbs::{Stage, Verb};
use crate::rig::Outcome;

/// What a call has on the switch, in milliseconds; where a message is too late, and else.
const HASTY: u64 = 400;
const PATIENT: u64 = 3000;

#[test]
fn every_message_of_an_add_goes_wrong_once() {
    each_message(Verb::Add, 12);
}

#[test]
fn every_message_of_a_del_goes_wrong_once() {
    each_message(Verb::Del, 15);
}

#[test]
fn every_message_of_a_sweep_goes_wrong_once() {
    each_message(Verb::Sweep, 15);
}

#[test]
fn every_message_of_a_gc_goes_wrong_once() {
    each_message(Verb::Gc, 5);
}

#[test]
fn every_message_of_a_check_goes_wrong_once() {
    each_message(Verb::Check, 2);
}

#[test]
fn every_message_of_a_status_goes_wrong_once() {
    each_message(Verb::Status, 2);
}

/// Short reads at every place: both connections, and the configuration.
#[test]
fn everything_comes_byte_by_byte() {
    for verb in [Verb::Add, Verb::Del, Verb::Sweep] {
        let mut trial = Trial::new(verb, "bytes");
        for (peer, way) in [(Peer::Switch, Way::Answered), (Peer::Database, Way::Answered)] {
            trial.run(peer, way, None, "everything", Fault::Bytes, true);
        }
        let script = "dd bs=1 status=none | exec \"$@\"";
        let prefix = ["sh", "-c", script, "sh"].map(str::to_owned).to_vec();
        trial.stage.before();
        let outcome = trial.stage.call(&How { prefix, run_dir: None }, &[], 20);
        let end = trial.stage.after(&outcome, Terms::new(Duration::from_secs(20)), true);
        assert_eq!(end, Ok(End::AsIfNothing), "{outcome}");
        trial.summary.end(2, "");
    }
}

/// An answer that comes late makes entries look younger than they are: one that was made right
/// before the death is not taken for one that was made after it, and forgotten.
#[test]
fn a_late_answer_makes_nobody_forget_what_was_made_right_before_the_death() {
    for verb in [Verb::Del, Verb::Sweep] {
        let mut trial = Trial::new(verb, "late answers");
        let mut looked = 0;
        for milliseconds in [0, 5, 10, 20] {
            let (outcome, _) = trial.late(milliseconds, None, 60);
            looked += outcome.stdout.matches("created-after-death").count();
        }
        assert!(looked > 0 || verb == Verb::Del, "no entry looked too young");
        trial.summary.end(4, "");
    }
}

/// If one answer alone is late, the call itself asks again: nothing waits for a sweep.
#[test]
fn one_late_answer_is_asked_for_again() {
    for verb in [Verb::Del, Verb::Sweep] {
        let mut trial = Trial::new(verb, "one late answer");
        trial.stage.before();
        trial.proxy.expect(None);
        let how = How { run_dir: Some(&trial.proxy.dir), ..How::default() };
        trial.stage.call(&how, &[], 20).ok();
        let (mut waited, mut late) = (0, 0);
        let of_the_switch = |s: &Seen| (s.peer, s.way) == (Peer::Switch, Way::Answered);
        for answer in trial.proxy.seen().into_iter().filter(of_the_switch) {
            // So long that a busy machine is in time for one of the next sweeps.
            let (_, waits) = trial.late(80, Some(answer.number), 500);
            late += trial.proxy.happened();
            waited += waits;
        }
        assert!(late > 3, "{late}");
        assert_eq!(waited, 0, "of {late}");
        trial.summary.end(4, "");
    }
}

struct Trial {
    stage: Stage,
    proxy: Proxy,
    summary: Summary,
}

impl Trial {
    fn new(verb: Verb, what: &str) -> Self {
        let stage = Stage::new("faults::messages", verb);
        let node = &stage.fixture.node;
        let proxy = Proxy::start(&node.run_dir, node.dir.join("proxy"));
        let mut names = stage.names();
        names.insert(0, (proxy.dir.display().to_string(), "RUN"));
        let summary = Summary::new(&format!("{verb:?} {what}"), names);
        Self { stage, proxy, summary }
    }

    /// A call about entries that are so old at the death, to which the switch's answers (or one
    /// of them) come so late, in milliseconds. What it said, and how many of the dead waited then.
    fn late(&mut self, age: u64, number: Option<usize>, stall: u64) -> (Outcome, usize) {
        self.stage.before_by(Duration::from_millis(age));
        let (peer, way, fault) = (Peer::Switch, Way::Answered, Fault::Stall);
        let stall = Duration::from_millis(stall);
        self.proxy.expect(Some(Plan { peer, way, number, fault, stall }));
        let how = How { run_dir: Some(&self.proxy.dir), ..How::default() };
        let outcome = self.stage.call(&how, &[], 20);
        let waiting = self.stage.fixture.records().tombstones.len();
        let terms = Terms { patient: true, ..Terms::new(Duration::from_secs(20)) };
        let end = self.stage.after(&outcome, terms, false);
        self.summary.add("late", "late", self.proxy.happened() > 0, &outcome, end);
        (outcome, waiting)
    }

    fn run(
        &mut self,
        peer: Peer,
        way: Way,
        number: Option<usize>,
        what: &str,
        fault: Fault,
        again: bool,
    ) {
        let which = number.map_or_else(String::new, |n| n.to_string());
        let case = format!("{:?} {peer:?} {way:?} {which} {fault:?}: {what}", self.stage.verb);
        if !wanted(&case) {
            return;
        }
        let hasty = fault == Fault::Stall;
        // The sweep counts in seconds.
        let timeout = match (hasty, self.stage.verb) {
            (true, Verb::Sweep) => 1000,
            (true, _) => HASTY,
            (false, _) => PATIENT,
        };
        let stall = Duration::from_millis(timeout + 300);
        // What takes as long as this must not make an entry look younger than a death.
        let age = if fault.is_harmless() { 1000 } else { 40 };
        self.stage.before_by(Duration::from_millis(age));
        self.proxy.expect(Some(Plan { peer, way, number, fault, stall }));
        let how = How { run_dir: Some(&self.proxy.dir), ..How::default() };
        let keys = [("timeoutMs", json!(timeout))];
        let outcome = self.stage.call(&how, &keys, timeout / 1000);
        let happened = self.proxy.happened();
        let terms = Terms::new(Duration::from_millis(timeout));
        let mut end = self.stage.after(&outcome, terms, again);
        if fault.is_harmless() && matches!(end, Ok(End::Finished | End::Failed)) {
            end = Err("nobody should have noticed".to_owned());
        }
        let kind = format!("{peer:?} {fault:?}").to_lowercase();
        self.summary.add(&case, &kind, happened > 0, &outcome, end);
    }
}

fn each_message(verb: Verb, least: usize) {
    let mut trial = Trial::new(verb, "messages");
    trial.stage.before();
    trial.proxy.expect(None);
    let how = How { run_dir: Some(&trial.proxy.dir), ..How::default() };
    let outcome = trial.stage.call(&how, &[], 20);
    assert!(outcome.succeeded(), "{outcome}");
    let seen = trial.proxy.seen();
    for peer in [Peer::Switch, Peer::Database] {
        let of = |way| seen.iter().filter(|s| (s.peer, s.way) == (peer, way)).count();
        let least = match (verb.only_asks(), peer) {
            (false, _) => 3,
            (true, Peer::Database) => 1,
            (true, Peer::Switch) => 0,
        };
        assert!(of(Way::Asked) >= least && of(Way::Answered) >= least, "{seen:?}");
    }
    let mut bundle = 0;
    for (at, message) in seen.iter().enumerate() {
        let all = Fault::all(message.peer, message.way);
        // In a sample a GC is a sweep, but for its list.
        let every = if verb == Verb::Gc { 3 } else { 1 };
        let by_turns = [all[at / every % all.len()]];
        // All of a bundle's entries go the same way: the first, and in all runs every fifth.
        let in_bundle = message.what == "bundle add";
        bundle += usize::from(in_bundle);
        let faults = match extent() {
            Extent::All if in_bundle && bundle % 5 != 1 => &[],
            Extent::Sample if in_bundle && bundle != 1 => &[],
            Extent::Sample if at % every != 0 => &[],
            Extent::All => all,
            Extent::Sample => &by_turns[..],
        };
        for fault in faults {
            trial.run(
                message.peer,
                message.way,
                Some(message.number),
                &message.what,
                *fault,
                at % 2 == 0,
            );
        }
    }
    let more = format!(
        "; {} messages ({} of bundles); ovs-ofctl agreed {} times, {} looks again",
        seen.len(),
        bundle,
        trial.stage.fixture.cross_checked,
        trial.stage.looks_again
    );
    trial.summary.end(least, &more);
}
