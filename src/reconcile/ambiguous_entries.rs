//! Entries that look the same in a dump.
//!
//! A delete says an entry as the dump showed it, and a dump does not show everything: VLAN TCI
//! bits that a client of OpenFlow 1.0 matched on are left out, and what is left out is not
//! deleted by. So the delete of one entry may hit another that looks the same.
//! Neither is touched.
//!
//! Which entries were seen is not remembered, for there may be a million: a filter of fixed size
//! tells of most that no other looked like them. The few of the others that are to go are looked
//! for once more, and counted.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::scan::{Candidate, FlowScan};
use crate::flowtable::{FEW_FILTERS, FlowSource};
use crate::judge::Judge;
use crate::judge::input::JudgeInput;
use crate::openflow::{Error, Filter, FlowKey};

/// 1 MiB. Of a million entries it mistakes one in thirty for another one.
const WORDS: usize = 1 << 17;

/// Hashes of the keys that were seen, or may have been. Of each, four bits of one word are set.
#[derive(Debug)]
pub(super) struct BloomFilter(Vec<u64>);

impl BloomFilter {
    pub(super) fn nothing() -> Self {
        Self(vec![0; WORDS])
    }

    pub(super) fn add(&mut self, key_hash: u64) {
        let (index, bits) = Self::place(key_hash);
        if let Some(word) = self.0.get_mut(index) {
            *word |= bits;
        }
    }

    /// `false` is certain.
    pub(super) fn may_have(&self, key_hash: u64) -> bool {
        let (index, bits) = Self::place(key_hash);
        self.0.get(index).is_some_and(|word| word & bits == bits)
    }

    fn place(key_hash: u64) -> (usize, u64) {
        let bits = (0..4).fold(0, |bits, n| bits | 1 << (key_hash >> (6 * n) & 63));
        (usize::try_from(key_hash >> 24).unwrap_or_default() % WORDS, bits)
    }
}

/// Settles which candidates are ambiguous, as far as it matters: of those that are to go.
pub(super) fn settle(
    source: &mut dyn FlowSource,
    facts: &JudgeInput,
    scan: &mut FlowScan,
) -> Result<(), Error> {
    if !scan.candidates.iter().any(|candidate| candidate.may_be_ambiguous) {
        return Ok(());
    }
    let judge = Judge::new(facts, &scan.learned);
    let is_meant = |candidate: &Candidate| {
        let is_stale = || candidate.verdict(&judge).is_some_and(|verdict| verdict.stale);
        candidate.may_be_ambiguous && is_stale()
    };
    let suspects: HashMap<FlowKey<'_>, &Candidate> =
        scan.candidates.iter().filter(|c| is_meant(c)).map(|c| (c.entry.key(), c)).collect();
    let tables: BTreeSet<u8> = suspects.values().map(|c| c.entry.table()).collect();
    let tables: Vec<Filter> = tables.into_iter().map(Filter::table).collect();
    let mut ambiguous = HashSet::new();
    if suspects.len() > FEW_FILTERS {
        count(source, &tables, &suspects, &mut ambiguous)?;
    } else {
        let like: Vec<Filter> = suspects.values().map(|c| Filter::like(&c.entry)).collect();
        match count(source, &like, &suspects, &mut ambiguous) {
            Err(refused) if refused.is_refusal() => {
                count(source, &tables, &suspects, &mut ambiguous)?;
            }
            counted => counted?,
        }
    }
    let ambiguous: HashSet<_> = ambiguous.into_iter().map(FlowKey::into_owned).collect();
    for candidate in &mut scan.candidates {
        candidate.ambiguous |= !ambiguous.is_empty() && ambiguous.contains(&candidate.entry.key());
    }
    Ok(())
}

/// Two that answer one filter are two; and another one may be there by now in its place.
fn count<'s>(
    source: &mut dyn FlowSource,
    filters: &[Filter],
    suspects: &HashMap<FlowKey<'s>, &'s Candidate>,
    ambiguous: &mut HashSet<FlowKey<'s>>,
) -> Result<(), Error> {
    let mut found_by: HashMap<FlowKey<'s>, usize> = HashMap::new();
    source.scan(filters, &mut |seen| {
        let Some(candidate) = suspects.get(&seen.raw.key()) else { return Ok(()) };
        let again = found_by.insert(candidate.entry.key(), seen.filter) == Some(seen.filter);
        if again || seen.raw.content() != candidate.entry.content() {
            ambiguous.insert(candidate.entry.key());
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, RandomState};

    use super::*;

    #[test]
    fn what_was_seen_is_known_and_of_a_million_others_few_seem_to_be() {
        let hash = RandomState::new();
        let hash = |n: u32| hash.hash_one(n);
        let mut seen = BloomFilter::nothing();
        (0..1_000_000).for_each(|n| seen.add(hash(n)));
        assert!((0..1_000_000).all(|n| seen.may_have(hash(n))));
        let mistaken = (1_000_000..1_100_000).filter(|n| seen.may_have(hash(*n))).count();
        assert!((1..4_000).contains(&mistaken), "{mistaken} of 100,000");
    }
}
