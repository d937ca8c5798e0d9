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

use std::collections::{BTreeSet, HashMap};

use super::scan::{Candidate, FEW_FILTERS, FlowScan, fingerprint};
use crate::judge::Judge;
use crate::judge::input::JudgeInput;
use crate::openflow::{Connection, Error, Filter};

/// 1 MiB. Of a million entries it mistakes one in thirty for another one.
const WORDS: usize = 1 << 17;

/// Fingerprints that were seen, or may have been. Of each, four bits of one word are set.
#[derive(Debug)]
pub(super) struct BloomFilter(Vec<u64>);

impl BloomFilter {
    pub(super) fn nothing() -> Self {
        Self(vec![0; WORDS])
    }

    pub(super) fn add(&mut self, print: u64) {
        let (index, bits) = Self::place(print);
        if let Some(word) = self.0.get_mut(index) {
            *word |= bits;
        }
    }

    /// `false` is certain.
    pub(super) fn may_have(&self, print: u64) -> bool {
        let (index, bits) = Self::place(print);
        self.0.get(index).is_some_and(|word| word & bits == bits)
    }

    fn place(print: u64) -> (usize, u64) {
        let bits = (0..4).fold(0, |bits, n| bits | 1 << (print >> (6 * n) & 63));
        (usize::try_from(print >> 24).unwrap_or_default() % WORDS, bits)
    }
}

/// Settles which candidates have a twin, as far as it matters: of those that are to go.
pub(super) fn settle(
    connection: &mut Connection,
    facts: &JudgeInput,
    scan: &mut FlowScan,
) -> Result<(), Error> {
    let judge = Judge::new(facts, &scan.learned);
    let is_meant = |candidate: &Candidate| {
        candidate.may_be_ambiguous && candidate.verdict(&judge).is_some_and(|verdict| verdict.stale)
    };
    let suspects = scan.candidates.iter_mut().filter(|candidate| is_meant(candidate));
    let mut suspects: HashMap<u64, &mut Candidate> =
        suspects.map(|candidate| (candidate.fingerprint(), candidate)).collect();
    let tables: BTreeSet<u8> = suspects.values().map(|c| c.entry.table()).collect();
    let tables: Vec<Filter> = tables.into_iter().map(Filter::table).collect();
    if suspects.len() > FEW_FILTERS {
        return count(connection, &tables, &mut suspects);
    }
    let like: Vec<Filter> = suspects.values().map(|c| Filter::like(&c.entry)).collect();
    match count(connection, &like, &mut suspects) {
        Err(refused) if refused.is_refusal() => count(connection, &tables, &mut suspects),
        counted => counted,
    }
}

/// Two that answer one filter are two; and another one may be there by now in its place.
fn count(
    connection: &mut Connection,
    filters: &[Filter],
    suspects: &mut HashMap<u64, &mut Candidate>,
) -> Result<(), Error> {
    let mut found_by: HashMap<u64, usize> = HashMap::new();
    connection.dump_many(filters, &mut |dump, raw, _| {
        let print = fingerprint(raw.table(), raw.priority(), raw.match_bytes());
        let Some(candidate) = suspects.get_mut(&print) else { return };
        let again = found_by.insert(print, dump) == Some(dump);
        candidate.ambiguous |= again || raw.content() != candidate.entry.content();
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_known_and_of_a_million_others_few_seem_to_be() {
        let print = |n: u32| fingerprint(n.to_be_bytes()[3], 5, &n.to_be_bytes());
        let mut seen = BloomFilter::nothing();
        (0..1_000_000).for_each(|n| seen.add(print(n)));
        assert!((0..1_000_000).all(|n| seen.may_have(print(n))));
        let mistaken = (1_000_000..1_100_000).filter(|n| seen.may_have(print(*n))).count();
        assert!((1..4_000).contains(&mistaken), "{mistaken} of 100,000");
    }
}
