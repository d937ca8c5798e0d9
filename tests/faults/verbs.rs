//! The calls, and what they are about.

mod after;

use std::path::Path;
use std::time::Duration;

use ovs_flow_gc::model::attachment::{Attachment, Key, State};
use serde_json::{Value, json};

use super::checks::{End, Terms};
use super::fixture::{Entries, Fixture, How, LinkedPod, only_in};
use crate::rig::Outcome;
use crate::rig::node::NETWORK;

/// What is disturbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Add,
    Del,
    Sweep,
    /// The runtime's list has the living only.
    Gc,
    Check,
    Status,
}

impl Verb {
    /// Whether it only asks: nothing is changed by it, whatever goes wrong.
    pub(super) fn only_asks(self) -> bool {
        matches!(self, Self::Check | Self::Status)
    }
}

/// Two pods that live, somebody who is dead or about to be, and a call that is to be
/// disturbed.
pub(super) struct Stage {
    pub(super) verb: Verb,
    pub(super) fixture: Fixture,
    living: Vec<LinkedPod>,
    /// ADD: the added pod. DEL: who leaves. Sweep: somebody who died without a DEL.
    subject: LinkedPod,
    /// ADD: the added pod's address was his; he died without a DEL. Sweep: his DEL found no
    /// switch.
    before: Option<LinkedPod>,
    /// What must always be there.
    keep: Entries,
    /// What is to go.
    dead: Entries,
    /// ADD: what a controller installs for the added pod.
    own: Entries,
    /// ADD: entries that wait for evidence, also without any fault (what matches a register
    /// value, while nobody knows the added pod's).
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

impl Stage {
    #[track_caller]
    pub(super) fn new(test: &str, verb: Verb) -> Self {
        let mut fixture = Fixture::new(test);
        let here = How::default();
        let attach = |fixture: &Fixture, name: &str, number: u8, address: u8| {
            let resident = fixture.resident(name, number, address);
            fixture.cni("ADD", &resident, &here, &[]).ok();
            resident
        };
        let living: Vec<LinkedPod> = [("db", 1, 1), ("cache", 2, 2)]
            .map(|(name, number, address)| {
                let resident = attach(&fixture, name, number, address);
                fixture.install(&resident);
                resident
            })
            .into();
        let keep = fixture.dump();
        let (subject, before, own) = match verb {
            Verb::Add => {
                let web = fixture.resident("web", 4, 7);
                fixture.install(&web);
                let own = difference(&fixture.dump(), &keep);
                fixture.take_away(&own);
                let ghost = attach(&fixture, "ghost", 3, 7);
                fixture.install(&ghost);
                (web, Some(ghost), own)
            }
            Verb::Del | Verb::Check | Verb::Status => {
                let web = attach(&fixture, "web", 4, 7);
                fixture.install(&web);
                (web, None, Entries::new())
            }
            Verb::Sweep | Verb::Gc => {
                let ghost = attach(&fixture, "ghost", 3, 7);
                fixture.install(&ghost);
                let old = attach(&fixture, "old", 5, 9);
                (ghost, Some(old), Entries::new())
            }
        };
        let keep = if verb.only_asks() { fixture.dump() } else { keep };
        let dead = difference(&fixture.dump(), &keep);
        assert!(dead.len() >= 15 || verb.only_asks(), "{}", dead.len());
        // What a whole look teaches is known, as on a node that has been up for a while.
        fixture.sweep(&here, 20).ok();
        if let (Verb::Sweep | Verb::Gc, Some(old)) = (verb, &before) {
            let nowhere = How { run_dir: Some(Path::new("/nonexistent")), ..How::default() };
            fixture.cni("DEL", old, &nowhere, &[]).ok();
            let tombstones = fixture.records().tombstones;
            assert_eq!(tombstones.iter().map(|t| t.state).collect::<Vec<_>>(), [State::Deleting]);
        }
        fixture.keep();
        assert_eq!(fixture.kept().len(), keep.len() + dead.len());
        let records = fixture.records();
        let is_living = |r: &&Attachment| living.iter().any(|l| l.key() == r.key);
        let identities: Vec<_> =
            records.attachments.iter().filter(is_living).map(identity).collect();
        assert_eq!(identities.len(), living.len());
        assert!(
            records.attachments.iter().filter(is_living).all(|r| r.register.is_some()),
            "the living's register values are known"
        );
        let config = config(&fixture);
        let stage = Self {
            verb,
            fixture,
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
        let node = &self.fixture.node;
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
        self.fixture.restore();
        std::thread::sleep(age);
        match self.verb {
            Verb::Add => self.subject.is_new(&self.fixture.node),
            Verb::Del | Verb::Check | Verb::Status => self.subject.lives(),
            Verb::Sweep | Verb::Gc => self.subject.ends(),
        }
        if let Some(before) = &self.before {
            before.ends();
        }
    }

    /// The call that is to be disturbed.
    #[track_caller]
    pub(super) fn call(&self, how: &How<'_>, keys: &[(&str, Value)], seconds: u64) -> Outcome {
        match self.verb {
            Verb::Add => self.fixture.cni("ADD", &self.subject, how, keys),
            Verb::Del => self.fixture.cni("DEL", &self.subject, how, keys),
            Verb::Sweep => self.fixture.sweep(how, seconds),
            Verb::Check => self.fixture.cni("CHECK", &self.subject, how, keys),
            Verb::Status => self.fixture.cni("STATUS", &self.subject, how, &of_1_1(keys, &[])),
            Verb::Gc => self.fixture.cni("GC", &self.subject, how, &of_1_1(keys, &self.living)),
        }
    }
}

/// The configuration's keys, and what GC and STATUS came with, version 1.1 of the specification.
fn of_1_1<'k>(keys: &[(&'k str, Value)], living: &[LinkedPod]) -> Vec<(&'k str, Value)> {
    let entry = |l: &LinkedPod| json!({"containerID": l.pod.container, "ifname": l.pod.ifname});
    let valid: Vec<Value> = living.iter().map(entry).collect();
    let more = [("cniVersion", json!("1.1.0")), ("cni.dev/valid-attachments", json!(valid))];
    keys.iter().cloned().chain(more).collect()
}

/// Entries of `these` that `those` lack.
fn difference(these: &Entries, those: &Entries) -> Entries {
    only_in(these, those).into_iter().map(|entry| (entry.content(), entry)).collect()
}

/// The network's `config.json`, but for what a call may bring along.
fn config(fixture: &Fixture) -> Value {
    let path = fixture.node.state_dir.join(NETWORK).join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    config["config"]["timeoutMs"] = Value::Null;
    config
}
