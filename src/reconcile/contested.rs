//! Entries of the dead that somebody puts back each time they are deleted.
//!
//! Guarantee: what is deleted is put back as often as its controller likes, and deleted
//! [`MOST_ANSWERS`] times at most once the pod was clean. It stays then, until a pod dies that had
//! its tokens later.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::execute::EntryOutcome;
use super::plan::PlannedDelete;
use super::scan::FlowScan;
use super::{BridgeInput, CleanTarget, Outcome};
use crate::judge::input::DeadId;
use crate::model::attachment::{Key, State};
use crate::openflow::FlowKey;

/// An entry that was put back is deleted so often.
pub const MOST_ANSWERS: u8 = 3;

/// What is remembered while its tombstone is.
#[derive(Debug, Default)]
pub struct Contested {
    lives: Mutex<HashMap<(Key, u64), Answers>>,
    /// Of an entry its hash is remembered. One with the hash of another one may stay.
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Answers {
    /// It was clean once: what is deleted from then on was put back.
    clean: bool,
    deleted: HashMap<u64, u8>,
}

fn life(target: &CleanTarget) -> (Key, u64) {
    (target.attachment.key.clone(), target.attachment.generation)
}

impl Contested {
    /// Marks for whom of these dead an entry was deleted often enough.
    pub(super) fn mark(
        &self,
        bridge: &str,
        targets: &[CleanTarget],
        input: &BridgeInput,
        scan: &mut FlowScan,
    ) {
        let lives = self.lives();
        let answers = |dead| lives.get(&life(input.target(dead)?.of(targets)?));
        let known = input.facts.dead.ids().filter_map(|dead| Some((dead, answers(dead)?)));
        let known: Vec<(DeadId, &Answers)> =
            known.filter(|(_, answers)| !answers.deleted.is_empty()).collect();
        for candidate in scan.candidates.iter_mut().filter(|_| !known.is_empty()) {
            let entry = self.hash(bridge, &candidate.entry.key());
            let enough = |answers: &Answers| answers.deleted.get(&entry) >= Some(&MOST_ANSWERS);
            let contested = known.iter().filter(|(_, answers)| enough(answers));
            candidate.contested = contested.map(|(dead, _)| *dead).collect();
        }
    }

    /// Counts those that were deleted.
    pub(super) fn count(
        &self,
        bridge: &str,
        targets: &[CleanTarget],
        planned: &[PlannedDelete<'_>],
        outcomes: &[EntryOutcome],
    ) {
        let mut lives = self.lives();
        for (planned, outcome) in planned.iter().zip(outcomes) {
            let gone = matches!(outcome, EntryOutcome::Deleted | EntryOutcome::Replaced);
            let target = planned.target.filter(|_| gone).and_then(|target| target.of(targets));
            let Some(target) = target else { continue };
            let answers = lives.entry(life(target)).or_default();
            if answers.clean || target.attachment.state == State::Gone {
                let entry = self.hash(bridge, &planned.candidate.entry.key());
                let count = answers.deleted.entry(entry).or_default();
                *count = count.saturating_add(1);
            }
        }
    }

    /// Remembers who is clean now.
    pub(super) fn note(&self, outcome: &Outcome) {
        let mut lives = self.lives();
        for target in outcome.targets.iter().filter(|target| target.is_clean()) {
            lives.entry(target.life.clone()).or_default().clean = true;
        }
    }

    /// Forgets all others.
    pub fn retain(&self, those: &HashSet<(Key, u64)>) {
        self.lives().retain(|life, _| those.contains(life));
    }

    fn hash(&self, bridge: &str, key: &FlowKey<'_>) -> u64 {
        self.hasher.hash_one((bridge, key))
    }

    fn lives(&self) -> MutexGuard<'_, HashMap<(Key, u64), Answers>> {
        self.lives.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
