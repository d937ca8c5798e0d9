//! The three calls: what they are about, and what must be true after each of them.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use ovs_flow_gc::attachment::{Attachment, Key, State};
use ovs_flow_gc::registry::Leftover;
use serde_json::Value;

use super::checks::{End, Terms, manners, must_complain};
use super::ground::{Entries, Ground, How, Resident, only_in};
use super::rig::Outcome;
use super::rig::node::NETWORK;

/// What is disturbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Add,
    Del,
    Sweep,
}

/// Two pods that live, somebody who is dead or about to be, and a call that is to be
/// disturbed.
pub(super) struct Stage {
    pub(super) verb: Verb,
    pub(super) ground: Ground,
    living: Vec<Resident>,
    /// ADD: the newcomer. DEL: who leaves. Sweep: somebody who died without a DEL.
    subject: Resident,
    /// ADD: the newcomer's address was his; he died without a DEL. Sweep: his DEL found no
    /// switch.
    before: Option<Resident>,
    /// What must always be there.
    keep: Entries,
    /// What is to go.
    dead: Entries,
    /// ADD: what a controller installs for the newcomer.
    own: Entries,
    /// ADD: entries that wait for evidence, also without any fault (what matches a register
    /// value, while nobody knows the newcomer's).
    waiting: usize,
    config: Value,
    identities: Vec<Identity>,
    /// Sweeps that left entries for a better look, and said so.
    pub(super) looks_again: usize,
}

/// What of a record says who it is on the switch.
type Identity = (Key, u64, Option<String>, Option<u16>, String);

fn identity(record: &Attachment) -> Identity {
    let Attachment { key, generation, port, ofport, ips, macs, register, state, .. } = record;
    let rest = format!("{ips:?} {macs:?} {register:?} {state:?}");
    (key.clone(), *generation, port.clone(), *ofport, rest)
}

/// How old entries are when their pod dies, at least: older than any answer is late.
const USUALLY: Duration = Duration::from_millis(40);

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

impl Stage {
    #[track_caller]
    pub(super) fn new(test: &str, verb: Verb) -> Self {
        let mut ground = Ground::new(test);
        let here = How::default();
        let attach = |ground: &Ground, name: &str, number: u8, address: u8| {
            let resident = ground.resident(name, number, address);
            ground.cni("ADD", &resident, &here, &[]).ok();
            resident
        };
        let living: Vec<Resident> = [("db", 1, 1), ("cache", 2, 2)]
            .map(|(name, number, address)| {
                let resident = attach(&ground, name, number, address);
                ground.install(&resident);
                resident
            })
            .into();
        let keep = ground.dump();
        let (subject, before, own) = match verb {
            Verb::Add => {
                let web = ground.resident("web", 4, 7);
                ground.install(&web);
                let own = difference(&ground.dump(), &keep);
                ground.take_away(&own);
                let ghost = attach(&ground, "ghost", 3, 7);
                ground.install(&ghost);
                (web, Some(ghost), own)
            }
            Verb::Del => {
                let web = attach(&ground, "web", 4, 7);
                ground.install(&web);
                (web, None, Entries::new())
            }
            Verb::Sweep => {
                let ghost = attach(&ground, "ghost", 3, 7);
                ground.install(&ghost);
                let old = attach(&ground, "old", 5, 9);
                (ghost, Some(old), Entries::new())
            }
        };
        let dead = difference(&ground.dump(), &keep);
        assert!(dead.len() >= 15, "{}", dead.len());
        // What a whole look teaches is known, as on a node that has been up for a while.
        ground.sweep(&here, 20).ok();
        if let (Verb::Sweep, Some(old)) = (verb, &before) {
            let nowhere = How { run_dir: Some(Path::new("/nonexistent")), ..How::default() };
            ground.cni("DEL", old, &nowhere, &[]).ok();
            let tombstones = ground.records().tombstones;
            assert!(matches!(&tombstones[..], [t] if t.state == State::Deleting));
        }
        ground.keep();
        assert_eq!(ground.kept().len(), keep.len() + dead.len());
        let records = ground.records();
        let is_living = |r: &&Attachment| living.iter().any(|l| l.key() == r.key);
        let identities: Vec<_> =
            records.attachments.iter().filter(is_living).map(identity).collect();
        assert_eq!(identities.len(), living.len());
        assert!(
            records.attachments.iter().filter(is_living).all(|r| r.register.is_some()),
            "the living's register values are known"
        );
        let config = config(&ground);
        let stage = Self {
            verb,
            ground,
            living,
            subject,
            before,
            keep,
            dead,
            own,
            waiting: if verb == Verb::Add { 2 } else { 0 },
            config,
            identities,
            looks_again: 0,
        };
        stage.undisturbed()
    }

    /// Without any fault everything is done at once.
    #[track_caller]
    fn undisturbed(mut self) -> Self {
        for even in [true, false] {
            self.before();
            let outcome = self.call(&How::default(), &[], 20);
            assert!(outcome.succeeded(), "{outcome}");
            let ended = self.after(&outcome, Terms::new(Duration::from_secs(20)), even);
            assert_eq!(ended, Ok(End::AsIfNothing), "{outcome}");
        }
        self
    }

    /// Names that differ from run to run, and what they stand for.
    pub(super) fn names(&self) -> Vec<(String, &'static str)> {
        let node = &self.ground.node;
        let mut names = vec![
            (node.run_dir.display().to_string(), "RUN"),
            (node.state_dir.display().to_string(), "STATE"),
            (node.dir.display().to_string(), "DIR"),
            (self.subject.pod.container.clone(), "CONTAINER"),
        ];
        let others = self.living.iter().chain(&self.before);
        names.extend(others.map(|other| (other.pod.container.clone(), "OTHER")));
        names
    }

    /// Everything as every run finds it.
    #[track_caller]
    pub(super) fn before(&mut self) {
        self.before_by(USUALLY);
    }

    /// The same, its entries so long before.
    #[track_caller]
    pub(super) fn before_by(&mut self, age: Duration) {
        self.ground.restore();
        std::thread::sleep(age);
        match self.verb {
            Verb::Add => self.subject.is_new(&self.ground.node),
            Verb::Del => self.subject.lives(),
            Verb::Sweep => self.subject.ends(),
        }
        if let Some(before) = &self.before {
            before.ends();
        }
    }

    /// The call that is to be disturbed.
    #[track_caller]
    pub(super) fn call(&self, how: &How<'_>, keys: &[(&str, Value)], seconds: u64) -> Outcome {
        match self.verb {
            Verb::Add => self.ground.cni("ADD", &self.subject, how, keys),
            Verb::Del => self.ground.cni("DEL", &self.subject, how, keys),
            Verb::Sweep => self.ground.sweep(how, seconds),
        }
    }

    /// What must hold after it, at once and after the next undisturbed calls: `again`, with
    /// the runtime's own next call in between.
    pub(super) fn after(
        &mut self,
        outcome: &Outcome,
        terms: Terms,
        again: bool,
    ) -> Result<End, String> {
        manners(outcome, terms)?;
        let now = self.standing("at once")?;
        let records = self.ground.records();
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
                let ghost = self.before.as_ref().map(Resident::key);
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
                    let second = self.ground.cni("DEL", &self.subject, &How::default(), &[]);
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
            Verb::Sweep => {
                let tombstones = records.tombstones.len();
                let done = left == 0 && known.is_none() && tombstones == 0;
                ensure!(left == 0 || known.is_some(), "{left} entries that nobody remembers");
                if !(terms.below_us || terms.patient) {
                    let paused = outcome.stdout.contains("\"paused\": true");
                    ensure!(
                        done || paused || !outcome.succeeded(),
                        "says all is done, and it is not"
                    );
                }
                if !done {
                    must_complain(outcome, terms)?;
                }
                self.finish(&Entries::new(), &[])?;
                Ok(match (outcome.code, done) {
                    (Some(0), true) => End::AsIfNothing,
                    (Some(0 | 3), _) => End::Finished,
                    _ => End::Failed,
                })
            }
        }
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
            self.ground.put(&self.own);
            self.finish(&self.own.clone(), &[self.subject.key()])?;
            if again {
                let deleted = self.ground.cni("DEL", &self.subject, &How::default(), &[]);
                ensure!(deleted.succeeded(), "DEL: {deleted}");
                let stale = only_in(&self.ground.dump(), &self.keep);
                let waits = self.ground.records().tombstones.iter().any(waits);
                ensure!(stale.is_empty() || waits, "stale after its DEL: {stale:?} {deleted}");
                self.looks_again += usize::from(!stale.is_empty());
            }
            self.subject.ends();
            self.finish(&Entries::new(), &[])?;
            return Ok(if done { End::AsIfNothing } else { End::Finished });
        }
        if !terms.below_us {
            let error: Value = serde_json::from_str(&outcome.stdout).unwrap_or_default();
            let said = error["code"].as_u64().is_some_and(|code| code > 0)
                && error["msg"].as_str().is_some_and(|text| !text.is_empty());
            ensure!(said || terms.mute || terms.request, "failed without CNI error JSON");
        }
        // A runtime may or may not follow up a failed ADD with a DEL.
        if again {
            let deleted = self.ground.cni("DEL", &self.subject, &How::default(), &[]);
            ensure!(deleted.succeeded(), "DEL: {deleted}");
        }
        self.subject.ends();
        self.finish(&Entries::new(), &[])?;
        Ok(End::Failed)
    }

    /// Nothing of the living is missing, and nothing is there that was not.
    fn standing(&mut self, when: &str) -> Result<Entries, String> {
        let now = self.ground.dump();
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
        let mut swept = self.ground.sweep(&How::default(), 20);
        for _ in 0..3 {
            // On a busy machine an answer may come so late that entries which were made
            // milliseconds before the death look younger than it.
            if !swept.stdout.contains("created-after-death") {
                break;
            }
            ensure!(swept.stdout.contains("\"waiting\": true"), "forgotten: {swept}");
            self.looks_again += 1;
            swept = self.ground.sweep(&How::default(), 20);
        }
        ensure!(swept.succeeded(), "the next sweep: {swept}");
        self.clean_but_for(own, more).map_err(|why| format!("after the next sweep, {why}\n{swept}"))
    }

    /// Nothing of the dead is left, on the bridge or on record.
    pub(super) fn clean(&mut self) -> Result<(), String> {
        self.clean_but_for(&Entries::new(), &[])
    }

    fn clean_but_for(&mut self, own: &Entries, more: &[Key]) -> Result<(), String> {
        let now = self.standing("then")?;
        let mut wanted = self.keep.clone();
        wanted.extend(own.clone());
        let missing = only_in(&wanted, &now);
        ensure!(missing.is_empty(), "A NEWCOMER'S ARE GONE: {missing:?}");
        let stale = only_in(&now, &wanted);
        ensure!(stale.is_empty(), "still there: {stale:?}");

        let records = self.ground.records();
        let keys: BTreeSet<Key> = records.attachments.iter().map(|r| r.key.clone()).collect();
        let mut expected: BTreeSet<Key> = self.living.iter().map(Resident::key).collect();
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
        let config = config(&self.ground);
        ensure!(config == self.config, "config.json is {config}, was {}", self.config);
        Ok(())
    }
}

/// Entries of `these` that `those` lack.
fn difference(these: &Entries, those: &Entries) -> Entries {
    only_in(these, those).into_iter().map(|entry| (entry.content(), entry)).collect()
}

/// The network's `config.json`, but for what a call may bring along.
fn config(ground: &Ground) -> Value {
    let path = ground.node.state_dir.join(NETWORK).join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    config["config"]["timeoutMs"] = Value::Null;
    config
}
