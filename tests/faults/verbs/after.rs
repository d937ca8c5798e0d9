//! What must be true after a disturbed call, at once and after the next undisturbed ones.

use std::collections::BTreeSet;

use ovs_flow_gc::model::attachment::{Attachment, Key};
use ovs_flow_gc::store::Leftover;
use serde_json::Value;

use super::super::checks::{End, Terms, manners, must_complain};
use super::super::fixture::{Entries, How, LinkedPod, only_in};
use super::{Identity, Stage, Verb, config, identity};
use crate::rig::Outcome;

/// What waits for evidence says so on record, which `list` shows.
fn waits(record: &Attachment) -> bool {
    record.last_error.as_ref().is_some_and(|error| error.contains("evidence"))
}

macro_rules! ensure {
    ($held:expr, $($text:tt)*) => {
        if !$held {
            return Err(format!($($text)*));
        }
    };
}

/// A CNI call that fails does so with an error of CNI's; one that does not says nothing.
fn says_why_it_failed(outcome: &Outcome, terms: Terms) -> Result<(), String> {
    if terms.below_us || terms.mute || terms.request {
        return Ok(());
    }
    if outcome.succeeded() {
        ensure!(outcome.stdout.is_empty(), "a result where there is none");
        return Ok(());
    }
    let error: Value = serde_json::from_str(&outcome.stdout).unwrap_or_default();
    let said = error["code"].as_u64().is_some_and(|code| code > 0)
        && error["msg"].as_str().is_some_and(|text| !text.is_empty());
    ensure!(said, "failed without CNI error JSON");
    Ok(())
}

impl Stage {
    /// What must hold after it, at once and after the next undisturbed calls: `again`, with
    /// the runtime's own next call in between.
    pub(crate) fn after(
        &mut self,
        outcome: &Outcome,
        terms: Terms,
        again: bool,
    ) -> Result<End, String> {
        manners(outcome, terms)?;
        let now = self.standing("at once")?;
        let records = self.fixture.records();
        ensure!(records.failures.is_empty(), "unreadable: {:?}", records.failures);
        ensure!(records.corrupt.is_empty(), "torn: {:?}", records.corrupt);
        ensure!(records.aside.is_empty(), "torn: {:?}", records.aside);
        let temporary =
            records.leftovers.iter().find(|left| matches!(left, Leftover::Temporary(_)));
        ensure!(temporary.is_none() || terms.below_us, "left behind: {temporary:?}");
        let left = self.dead.keys().filter(|content| now.contains_key(*content)).count();
        let mut terms = terms;
        terms.patient |= records.tombstones.iter().any(waits);
        let key = self.subject.key();
        let known = records.attachments.iter().chain(&records.tombstones).find(|r| r.key == key);
        match self.verb {
            Verb::Add => {
                let known = known.cloned();
                let mut all = records.attachments.iter().chain(&records.tombstones);
                let ghost = self.before.as_ref().map(LinkedPod::key);
                let remembered = all.any(|r| Some(&r.key) == ghost.as_ref());
                ensure!(left == 0 || remembered, "{left} entries that nobody remembers");
                self.after_add(outcome, terms, again, known.as_ref(), left)
            }
            Verb::Del => {
                let done = left == 0 && known.is_none();
                ensure!(left == 0 || known.is_some(), "{left} entries that nobody remembers");
                ensure!(
                    outcome.succeeded() || terms.request || terms.below_us,
                    "DEL failed, which blocks the OVS plugin's DEL"
                );
                if outcome.succeeded() {
                    ensure!(outcome.stdout.is_empty(), "a DEL has no result");
                }
                if !done {
                    must_complain(outcome, terms)?;
                }
                if again {
                    let second = self.fixture.cni("DEL", &self.subject, &How::default(), &[]);
                    ensure!(second.succeeded(), "DEL again: {second}");
                    self.standing("after a second DEL")?;
                }
                self.subject.ends();
                self.finish(&Entries::new(), &[])?;
                Ok(match (outcome.succeeded(), done) {
                    (true, true) => End::AsIfNothing,
                    (true, false) => End::Finished,
                    (false, _) => End::Failed,
                })
            }
            Verb::Sweep | Verb::Gc => {
                let tombstones = records.tombstones.len();
                let done = left == 0 && known.is_none() && tombstones == 0;
                ensure!(left == 0 || known.is_some(), "{left} entries that nobody remembers");
                if !(terms.below_us || terms.patient) {
                    let as_if = "nothing is deleted, as if it were there";
                    let paused = outcome.stdout.contains("\"paused\": true")
                        || self.verb == Verb::Gc && outcome.stderr.contains(as_if);
                    ensure!(
                        done || paused || !outcome.succeeded(),
                        "says all is done, and it is not"
                    );
                }
                if !done {
                    must_complain(outcome, terms)?;
                }
                if self.verb == Verb::Gc {
                    says_why_it_failed(outcome, terms)?;
                }
                self.finish(&Entries::new(), &[])?;
                Ok(match (outcome.code, done) {
                    (Some(0), true) => End::AsIfNothing,
                    (Some(0 | 3), _) => End::Finished,
                    _ => End::Failed,
                })
            }
            Verb::Check | Verb::Status => self.after_asking(outcome, terms),
        }
    }

    /// What only asks has changed nothing, and says yes or why not. Undisturbed it says yes.
    fn after_asking(&mut self, outcome: &Outcome, terms: Terms) -> Result<End, String> {
        says_why_it_failed(outcome, terms)?;
        let key = self.subject.key();
        let again = self.call(&How::default(), &[], 20);
        ensure!(again.succeeded(), "undisturbed: {again}");
        self.clean_but_for(&Entries::new(), std::slice::from_ref(&key))?;
        self.finish(&Entries::new(), &[key])?;
        Ok(if outcome.succeeded() { End::AsIfNothing } else { End::Failed })
    }

    fn after_add(
        &mut self,
        outcome: &Outcome,
        terms: Terms,
        again: bool,
        record: Option<&Attachment>,
        left: usize,
    ) -> Result<End, String> {
        if outcome.succeeded() {
            let result = self.subject.result().to_string();
            ensure!(outcome.stdout == result || terms.below_us, "prevResult was changed");
            ensure!(record.is_some(), "no record");
            let whole = record
                .is_some_and(|r| r.ofport == Some(self.subject.who.ofport) && r.netns.is_some());
            let done = whole && left <= self.waiting;
            // Its end will not be noticed without a DEL, and ADD says so.
            let again = again || record.is_some_and(|r| r.netns.is_none());
            if !done {
                must_complain(outcome, terms)?;
            }
            self.fixture.put(&self.own);
            self.finish(&self.own.clone(), &[self.subject.key()])?;
            if again {
                let deleted = self.fixture.cni("DEL", &self.subject, &How::default(), &[]);
                ensure!(deleted.succeeded(), "DEL: {deleted}");
                let stale = only_in(&self.fixture.dump(), &self.keep);
                let waits = self.fixture.records().tombstones.iter().any(waits);
                ensure!(stale.is_empty() || waits, "stale after its DEL: {stale:?} {deleted}");
                self.looks_again += usize::from(!stale.is_empty());
            }
            self.subject.ends();
            self.finish(&Entries::new(), &[])?;
            return Ok(if done { End::AsIfNothing } else { End::Finished });
        }
        says_why_it_failed(outcome, terms)?;
        // A runtime may or may not follow up a failed ADD with a DEL.
        if again {
            let deleted = self.fixture.cni("DEL", &self.subject, &How::default(), &[]);
            ensure!(deleted.succeeded(), "DEL: {deleted}");
        }
        self.subject.ends();
        self.finish(&Entries::new(), &[])?;
        Ok(End::Failed)
    }

    /// Nothing of the living is missing, and nothing is there that was not.
    fn standing(&mut self, when: &str) -> Result<Entries, String> {
        let now = self.fixture.dump();
        let missing = only_in(&self.keep, &now);
        ensure!(missing.is_empty(), "{when}, LIVE ENTRIES ARE GONE: {missing:?}");
        let mut known = self.keep.clone();
        known.extend(self.dead.clone());
        known.extend(self.own.clone());
        let strange = only_in(&now, &known);
        ensure!(strange.is_empty(), "{when}, entries of nobody: {strange:?}");
        Ok(now)
    }

    /// The next undisturbed sweep finishes: on the bridge is what is to be kept and what is
    /// `own`, and on record are the living and `more`.
    fn finish(&mut self, own: &Entries, more: &[Key]) -> Result<(), String> {
        let mut swept = self.fixture.sweep(&How::default(), 20);
        for _ in 0..3 {
            // On a busy machine an answer may come so late that entries which were made
            // milliseconds before the death look younger than it.
            if !swept.stdout.contains("created-after-death") {
                break;
            }
            ensure!(swept.stdout.contains("\"waiting\": true"), "forgotten: {swept}");
            self.looks_again += 1;
            swept = self.fixture.sweep(&How::default(), 20);
        }
        ensure!(swept.succeeded(), "the next sweep: {swept}");
        self.clean_but_for(own, more).map_err(|why| format!("after the next sweep, {why}\n{swept}"))
    }

    /// Nothing of the dead is left, on the bridge or on record.
    pub(crate) fn clean(&mut self) -> Result<(), String> {
        self.clean_but_for(&Entries::new(), &[])
    }

    fn clean_but_for(&mut self, own: &Entries, more: &[Key]) -> Result<(), String> {
        let now = self.standing("then")?;
        let mut wanted = self.keep.clone();
        wanted.extend(own.clone());
        let missing = only_in(&wanted, &now);
        ensure!(missing.is_empty(), "ENTRIES OF AN ADDED POD ARE GONE: {missing:?}");
        let stale = only_in(&now, &wanted);
        ensure!(stale.is_empty(), "still there: {stale:?}");

        let records = self.fixture.records();
        let keys: BTreeSet<Key> = records.attachments.iter().map(|r| r.key.clone()).collect();
        let mut expected: BTreeSet<Key> = self.living.iter().map(LinkedPod::key).collect();
        expected.extend(more.iter().cloned());
        ensure!(keys == expected, "on record: {keys:?}, living: {expected:?}");
        for record in records.attachments.iter().filter(|r| more.contains(&r.key)) {
            ensure!(record.ofport.is_some(), "the sweep did not find its port: {record:?}");
        }
        let now: Vec<Identity> =
            records.attachments.iter().filter(|r| !more.contains(&r.key)).map(identity).collect();
        ensure!(now == self.identities, "the living are {now:?}, were {:?}", self.identities);
        ensure!(records.tombstones.is_empty(), "tombstones: {:?}", records.tombstones);
        let odd = records.corrupt.len()
            + records.aside.len()
            + records.failures.len()
            + records.leftovers.len();
        // A temporary file is left alone for a minute: somebody may be writing it.
        let temporary =
            records.leftovers.iter().filter(|left| matches!(left, Leftover::Temporary(_))).count();
        ensure!(odd == temporary, "the state is not clean: {records:?}");
        let config = config(&self.fixture);
        ensure!(config == self.config, "config.json is {config}, was {}", self.config);
        Ok(())
    }
}
