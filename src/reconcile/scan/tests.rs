//! Scans of a source that answers queries.

use super::*;
use crate::judge::input::{Dead, Live, LiveRegister};
use crate::judge::testing::{dead, live, network, now};
use crate::model::register::RegisterSource;
use crate::model::row::RowId;
use crate::openflow::testing::hex;
use crate::openflow::{Entry, Version};
use crate::reconcile::execute::fake::FakeTable;

/// Ten thousand seconds old, in table 47, with this match and these instructions.
fn entry(matches: &str, instructions: &str) -> Entry {
    let mut oxm = hex(matches);
    let length = u16::try_from(oxm.len() + 4).unwrap();
    oxm.resize(oxm.len() + usize::from(length.next_multiple_of(8) - length), 0);
    let mut bytes = hex("00002f00 00002710 00000000 00640000 00000000 00000000");
    bytes.extend(hex("00000000 00000000 00000000 00000000 00000000 00000000"));
    bytes.extend(hex("0001"));
    bytes.extend(length.to_be_bytes());
    bytes.extend(oxm);
    bytes.extend(hex(instructions));
    let length = u16::try_from(bytes.len()).unwrap();
    bytes[..2].copy_from_slice(&length.to_be_bytes());
    Entry::new(Version::V13, bytes).unwrap()
}

/// A living pod's rule for a dead pod's address, told by the living one's port in a register, has no
/// token of the living one's that a query would find. Whether the register carries ports only the
/// classifiers say.
#[test]
fn what_a_query_finds_asks_for_the_rest_however_old_it_is() {
    let goto = "00010008 30000000";
    // reg5=1, ip, nw_dst=10.244.1.2
    let rule = entry("00010a04 00000001 80000a02 0800 80001804 0af40102", goto);
    // in_port=1 actions=load:1->reg5
    let load = "00040018 00000000 00190010 00010a04 00000001 00000000";
    let classifier = entry("80000004 00000001", &format!("{load} {goto}"));
    let mut input = BridgeInput::default();
    let facts = &mut input.facts;
    facts.now = now();
    facts.networks.add(network(RegisterSource::None));
    facts.dead.add(dead(2, &["10.244.1.2"]));
    facts.live.add(live(1, &["10.244.1.3"]));
    facts.ports.by_number.insert(1, RowId(5001));
    let stale = |entries: Vec<Entry>| {
        let mut table = FakeTable::with(entries);
        table.queried = Some(1);
        let scan = scan_bridge(&mut table, &input, Extent::Tokens).unwrap();
        let judge = Judge::new(&input.facts, &scan.learned);
        let candidates = scan.candidates.iter();
        candidates.filter(|c| c.verdict(&judge).is_some_and(|verdict| verdict.stale)).count()
    };
    assert_eq!(stale(vec![rule.clone()]), 1, "nobody's register");
    assert_eq!(stale(vec![rule, classifier]), 0);
}

/// An entry that only loads a dead pod's value, refers to its port, or loads what may be a living
/// port into a register that nothing outputs to is judged by an index as in everything.
#[test]
fn what_an_index_finds_is_judged_as_in_everything() {
    let goto = "00010008 30000000";
    let load = |register: u8, value: u32| {
        let load =
            format!("00040018 00000000 00190010 0001{:02x}04 {value:08x} 00000000", 2 * register);
        format!("{load} {goto}")
    };
    // reg9=1 actions=load:2->reg0; in_port=2, and elsewhere: resubmit(2,48)
    let loads = entry("00011204 00000001", &load(0, 2));
    let resubmit = "00040018 00000000 ffff0010 00002320 000e 0002 30 000000";
    let refers = entry("00011204 00000001", &format!("{resubmit} {goto}"));
    // ip, nw_dst=10.244.1.2 actions=load:1->reg5
    let marks = entry("80000a02 0800 80001804 0af40102", &load(5, 1));
    let verdicts = |source: RegisterSource, entry: &Entry, indexed: bool| {
        let mut input = BridgeInput::default();
        let facts = &mut input.facts;
        facts.now = now();
        facts.networks.add(network(source));
        facts.dead.add(Dead { register: Some(2), ..dead(2, &["10.244.1.2"]) });
        let register = LiveRegister::Is(1);
        facts.live.add(Live { register, ..live(1, &["10.244.1.3"]) });
        facts.ports.by_number.insert(1, RowId(5001));
        let mut table = FakeTable::with(vec![entry.clone()]);
        (table.queried, table.indexed) = (Some(1), indexed);
        let least = if indexed { Extent::Tokens } else { Extent::Everything };
        let scan = scan_bridge(&mut table, &input, least).unwrap();
        let judge = Judge::new(&input.facts, &scan.learned);
        let found = scan.candidates.iter().filter_map(|c| c.verdict(&judge));
        let found = found.map(|verdict| (verdict.stale, verdict.reason.as_str()));
        found.collect::<Vec<_>>()
    };
    let waits = RegisterSource::Learn { distinct_seen: false, shared_seen: false };
    for (source, entry, expected) in [
        (RegisterSource::Ofport, &loads, (true, "sets-register")),
        (waits, &loads, (false, "register-not-proven")),
        (RegisterSource::None, &refers, (false, "only-mentions")),
        (RegisterSource::None, &marks, (true, "matches-address")),
    ] {
        assert_eq!(verdicts(source, entry, false), [expected], "{source:?} {entry:?}");
        assert_eq!(verdicts(source, entry, true), [expected], "{source:?} {entry:?}");
    }
}

/// Keys are compared, not hashes alone.
#[test]
fn two_entries_of_one_hash_are_two() {
    let facts = JudgeInput::default();
    let mut collector = Collector::new(Survey::new(&facts), 0);
    let goto = "00010008 30000000";
    // in_port=1, 2 and 3
    let entries = [1, 2, 3].map(|n| entry(&format!("80000004 0000000{n}"), goto));
    let now = BootTime::default();
    let made = Made::by(std::time::Duration::ZERO, now, now);
    let mut keep =
        |n: usize, filter| collector.keep(7, &Seen { raw: entries[n].raw(), filter, made });
    // The second is found by another filter again, the third by the same one.
    [(0, 0), (1, 0), (2, 0), (1, 1), (2, 0)].into_iter().for_each(|(n, filter)| keep(n, filter));
    let scan = collector.finish(Vec::new(), Extent::Everything);
    let kept = scan.candidates.iter().map(|kept| (kept.entry.key(), kept.ambiguous));
    let expected = entries.iter().map(Entry::key).zip([false, false, true]);
    assert!(kept.eq(expected));
}
