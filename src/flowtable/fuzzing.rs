//! Fuzz body: a replica that is told anything (see [`crate::fuzzing`]).

#![allow(clippy::expect_used, clippy::panic, reason = "a broken promise is told by panicking")]

use std::collections::BTreeMap;
use std::time::Duration;

use super::replica::{Doubt, Replica, State};
use crate::openflow::client::monitor::fuzzing::updates;
use crate::openflow::fuzzing::written;
use crate::openflow::{Entry, Filter, FlowKey, Update, What};
use crate::util::clock::BootTime;

/// Entries do not fit a message if the whole input is larger.
const MOST: usize = 60_000;

/// Table, priority, and the fields of the match.
type Key = (u8, u16, Vec<u8>);

fn key(of: &FlowKey<'_>) -> Key {
    let (table, priority, fields) = of.place();
    (table, priority, fields.to_vec())
}

/// What a replica holds, written from what it promises, not from its code.
#[derive(Default)]
struct Naive {
    entries: BTreeMap<Key, Vec<u8>>,
    doubt: Option<Doubt>,
}

/// A version's selector, then the body of a message of updates.
pub(crate) fn replica(data: &[u8]) -> bool {
    if data.len() > MOST {
        return false;
    }
    let Some((version, updates)) = updates(data) else { return false };
    let blank = written(version, &[], &[]).expect("an entry without a match");
    for building in [false, true] {
        let start = BootTime::now();
        let mut replica = Replica::new(MOST, start);
        replica.begin(version, start);
        if !building {
            replica.complete_dump(start);
        }
        let mut naive = Naive::default();
        for update in &updates {
            naive.apply(update, &blank, building);
            replica.apply(update, start);
            match replica.state() {
                State::Doubt(doubt) => assert_eq!(naive.doubt, Some(doubt)),
                _ => assert_eq!(naive.doubt, None),
            }
        }
        if building {
            replica.complete_dump(start);
        }
        compare(&mut replica, &naive, start);
    }
    !updates.is_empty()
}

impl Naive {
    fn apply(&mut self, update: &Update, blank: &Entry, building: bool) {
        if self.doubt.is_some() {
            return;
        }
        if update.evicted {
            self.doubt = Some(Doubt::Evicted);
        }
        if update.evicted || update.table == 254 {
            return;
        }
        let key = key(&update.key());
        let there = self.entries.contains_key(&key);
        let must_be_there = !building && (update.what == What::Removed || update.modified);
        if must_be_there && !there {
            self.doubt = Some(Doubt::Unknown);
        } else if update.what == What::Removed {
            self.entries.remove(&key);
        } else if let Ok(entry) = update.entry(blank) {
            self.entries.insert(key, entry.content());
        } else {
            self.doubt = Some(Doubt::Malformed);
        }
        if self.doubt.is_some() {
            self.entries.clear();
        }
    }
}

fn compare(replica: &mut Replica, naive: &Naive, now: BootTime) {
    if naive.doubt.is_some() {
        assert!(!replica.is_in_sync() && replica.is_empty() && replica.bytes() == 0);
    }
    let mut all = BTreeMap::new();
    replica.all(now + Duration::from_secs(1), &mut |held| {
        assert_eq!(held.unreported, None);
        assert!(all.insert(key(&held.entry.key()), held.entry.content()).is_none());
    });
    let expected = if naive.doubt.is_some() { BTreeMap::new() } else { naive.entries.clone() };
    assert_eq!(all, expected);
    assert_eq!(replica.len(), expected.len());
    // Each is found by what it matches on.
    let mut entries = Vec::new();
    replica.all(now, &mut |held| entries.push(held.entry));
    for entry in entries.iter().take(8) {
        let (like, mut found) = (Filter::like(entry), false);
        let one = std::slice::from_ref(&like);
        replica.find(one, now, &mut |_, held| found |= held.entry == *entry);
        assert_eq!(found, like.matches(entry), "{entry:?}");
    }
}
