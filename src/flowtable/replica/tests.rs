use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::model::flow::{Address, MacAddr};
use crate::openflow::filters_for_address;

const LIMIT: usize = 1_000;

/// Fields of matches, and instructions, in hexadecimal.
const MATCHES: [&str; 9] = [
    "",
    "8000000400000005",
    "800000040000000500010004 00000007",
    "00010004 00000007",
    "00010008 000000070000ffff",
    "80000a020800 800016040af40105",
    "80000a020800 800018040af40105",
    "80000a020806 80002c040af40105 80003006 0a0000000001",
    "80000606 0a0000000001",
];
const DOES: [&str; 5] = [
    "",
    "00040018 00000000 00000010 00000005 00000000 00000000",
    "00040018 00000000 00000010 00000006 00000000 00000000",
    "00040020 00000000 ffff0018 00002320 0007001f 00010004 0000000000000007",
    // Into the lower half.
    "00040020 00000000 ffff0018 00002320 0007000f 00010004 0000000000000007",
];

fn entry(table: u8, matches: &str, does: &str, flags: u16) -> Entry {
    let (matches, does) = (matches.replace(' ', ""), does.replace(' ', ""));
    Entry::try_from(format!("5 {table:x} 1 2a 0 0 {flags:x} 0 {matches} {does}")).unwrap()
}

fn aged(entry: &Entry, age: Duration) -> Entry {
    let packed = PackedEntry::of_dump(&entry.raw()).unwrap();
    packed.to_entry(entry.version(), age).unwrap()
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn put(entry: &Entry) -> Update {
    Update::put(0, entry)
}

fn changed(entry: &Entry) -> Update {
    let mut update = Update::put(0, entry);
    update.modified = true;
    update
}

fn removed(entry: &Entry) -> Update {
    Update::removed(0, entry)
}

/// A replica, and when it was begun.
struct Fed {
    replica: Replica,
    start: BootTime,
}

impl Fed {
    fn building() -> Self {
        let start = BootTime::now();
        let mut replica = Replica::new(LIMIT, start);
        replica.begin(Version::V14, start);
        Self { replica, start }
    }

    fn dumped(&mut self, entry: &Entry, age: Duration) {
        let at = self.start + ms(10);
        let entry = aged(entry, age);
        self.replica.dumped(&entry.raw(), Made::by(age, at, at));
    }

    fn apply(&mut self, update: Update) {
        self.replica.apply(&update, self.start + ms(20));
    }

    fn complete(&mut self) {
        self.replica.complete_dump(self.start + ms(30));
    }

    fn all(&self) -> Vec<Held> {
        let mut all = Vec::new();
        self.replica.all(self.start + ms(100), &mut |held| all.push(held));
        all
    }

    fn contents(&self) -> Vec<Vec<u8>> {
        let mut all: Vec<_> = self.all().iter().map(|held| held.entry.content()).collect();
        all.sort();
        all
    }

    fn doubt(&self) -> Option<Doubt> {
        match self.replica.state() {
            State::Doubt(doubt) => Some(doubt),
            _ => None,
        }
    }
}

fn contents(entries: &[&Entry]) -> Vec<Vec<u8>> {
    let mut all: Vec<_> = entries.iter().map(|entry| entry.content()).collect();
    all.sort();
    all
}

/// `MATCHES[1]` is a match on port 5, `DOES[3]` loads a register.
#[test]
fn a_lesson_is_an_entry_of_an_awaited_port_that_loads_a_register() {
    let (loads, outputs) = (entry(0, MATCHES[1], DOES[3], 0), entry(1, MATCHES[1], DOES[1], 0));
    let mut fed = Fed::building();
    fed.replica.await_lessons([5].into());
    fed.dumped(&outputs, ms(5));
    fed.complete();
    assert!(!fed.replica.take_news().lesson, "it loads nothing");
    fed.apply(put(&loads));
    assert!(fed.replica.take_news().lesson);
    assert!(!fed.replica.take_news().lesson, "once");
    fed.replica.await_lessons([5].into());
    assert!(!fed.replica.take_news().lesson, "it was there when the port was waited for already");
    fed.replica.await_lessons([6].into());
    fed.apply(put(&loads));
    assert!(!fed.replica.take_news().lesson, "nobody waits for it");
    fed.replica.await_lessons([5, 6].into());
    assert!(fed.replica.take_news().lesson, "it is there already");
}

#[test]
fn nothing_is_handed_out_before_it_is_in_sync_and_after() {
    let mut fed = Fed::building();
    fed.dumped(&entry(0, MATCHES[1], DOES[1], 1), ms(5));
    assert!(fed.all().is_empty());
    fed.complete();
    assert_eq!(fed.all().len(), 1);
    fed.replica.doubt(Doubt::Paused);
    assert!(fed.all().is_empty() && fed.replica.is_empty() && fed.replica.bytes() == 0);
    // What comes late changes nothing.
    fed.apply(put(&entry(0, "", "", 0)));
    assert_eq!(fed.doubt(), Some(Doubt::Paused));
}

#[test]
fn a_change_outranks_the_dump_whichever_comes_first() {
    let (old, new) = (entry(0, MATCHES[1], DOES[1], 1), entry(0, MATCHES[1], DOES[2], 0));
    for dump_first in [true, false] {
        for gone in [true, false] {
            let mut fed = Fed::building();
            let updates = |fed: &mut Fed| {
                fed.apply(put(&new));
                if gone {
                    fed.apply(removed(&new));
                }
            };
            if dump_first {
                fed.dumped(&old, ms(5));
                updates(&mut fed);
            } else {
                updates(&mut fed);
                fed.dumped(&old, ms(5));
            }
            fed.complete();
            let expected = if gone { vec![] } else { contents(&[&new]) };
            assert_eq!(fed.contents(), expected, "dump first: {dump_first}, gone: {gone}");
        }
    }
}

#[test]
fn the_dump_tells_flags_and_age_also_of_what_was_changed_meanwhile() {
    let (old, new) = (entry(0, MATCHES[1], DOES[1], 1), entry(0, MATCHES[1], DOES[2], 1));
    for dump_first in [true, false] {
        let mut fed = Fed::building();
        if dump_first {
            fed.dumped(&old, ms(500));
            fed.apply(changed(&new));
        } else {
            fed.apply(changed(&new));
            fed.dumped(&old, ms(500));
        }
        fed.complete();
        assert_eq!(fed.contents(), contents(&[&new]));
        let held = &fed.all()[0];
        assert_eq!(held.unreported, Some(Unreported { flags: 1, importance: 0 }));
        assert!(held.made.latest <= fed.start - ms(480), "{dump_first}");
    }
    // What was added later is not what the dump has shown.
    let mut fed = Fed::building();
    fed.dumped(&old, ms(500));
    fed.apply(put(&new));
    fed.complete();
    let held = &fed.all()[0];
    assert_eq!((held.unreported, held.made.earliest), (None, fed.start));
}

#[test]
fn an_added_entry_was_made_between_the_last_barrier_and_its_report() {
    let mut fed = Fed::building();
    fed.complete();
    fed.replica.heard_until(fed.start + ms(15));
    fed.apply(put(&entry(0, "", "", 0)));
    let made = fed.all()[0].made;
    assert_eq!((made.earliest, made.latest), (fed.start + ms(15), fed.start + ms(20)));
}

#[test]
fn what_cannot_be_is_a_doubt() {
    let one = entry(0, MATCHES[1], DOES[1], 0);
    let but = |mut update: Update, how: fn(&mut Update)| {
        how(&mut update);
        update
    };
    for (update, doubt) in [
        (removed(&entry(1, "", "", 0)), Some(Doubt::Unknown)),
        (changed(&entry(1, "", "", 0)), Some(Doubt::Unknown)),
        (but(removed(&one), |it| it.evicted = true), Some(Doubt::Evicted)),
        (but(removed(&one), |it| it.table = 254), None),
        (but(put(&one), |it| it.table = 254), None),
        (removed(&one), None),
    ] {
        let mut fed = Fed::building();
        fed.dumped(&one, ms(1));
        fed.complete();
        fed.apply(update.clone());
        assert_eq!(fed.doubt(), doubt, "{update:?}");
        assert!(fed.all().iter().all(|held| held.entry.table() != 254));
    }
}

#[test]
fn entries_that_look_alike_are_both_kept_and_a_change_of_one_is_a_doubt() {
    let one = entry(0, MATCHES[1], DOES[1], 0);
    let mut fed = Fed::building();
    fed.dumped(&one, ms(1));
    fed.dumped(&one, ms(2));
    fed.complete();
    let all = fed.all();
    assert!(all.len() == 2 && all.iter().all(|held| held.ambiguous));
    fed.apply(removed(&one));
    assert_eq!(fed.doubt(), Some(Doubt::Ambiguous));
}

#[test]
fn more_entries_than_the_limit_are_a_doubt() {
    let start = BootTime::now();
    let mut replica = Replica::new(2, start);
    replica.begin(Version::V14, start);
    for (n, matches) in MATCHES.iter().take(3).enumerate() {
        assert_eq!(replica.len(), n);
        replica.dumped(&entry(0, matches, "", 0).raw(), Made::by(ms(0), start, start));
    }
    assert_eq!(replica.state(), State::Doubt(Doubt::OverLimit));
    assert!(replica.is_empty());
}

/// What others do to the switch.
#[derive(Clone, Copy, Debug)]
enum Step {
    Put(usize, usize, usize),
    /// Only what is there.
    Change(usize, usize, usize),
    Remove(usize, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (table, matches, does) = (0..3_usize, 0..MATCHES.len(), 0..DOES.len());
    let step = prop_oneof![
        (table.clone(), matches.clone(), does.clone()).prop_map(|(t, m, d)| Step::Put(t, m, d)),
        (table.clone(), matches.clone(), does).prop_map(|(t, m, d)| Step::Change(t, m, d)),
        (table, matches).prop_map(|(t, m)| Step::Remove(t, m)),
    ];
    prop::collection::vec(step, 0..60)
}

type Table = BTreeMap<(usize, usize), (usize, Duration)>;

/// One step of the switch, and what it reports.
fn step(table: &mut Table, step: Step, now: Duration) -> Option<Update> {
    let of = |(t, m): (usize, usize), d: usize| entry(t as u8, MATCHES[m], DOES[d], 0);
    match step {
        Step::Put(t, m, d) => {
            table.insert((t, m), (d, now));
            Some(put(&of((t, m), d)))
        }
        Step::Change(t, m, d) => {
            let there = table.get_mut(&(t, m))?;
            there.0 = d;
            Some(changed(&of((t, m), d)))
        }
        Step::Remove(t, m) => {
            let (d, _) = table.remove(&(t, m))?;
            Some(removed(&of((t, m), d)))
        }
    }
}

/// Wants every entry that it is shown.
#[derive(Default)]
struct All(Vec<Entry>);

impl EvidenceReader for All {
    fn flow(&mut self, _: &Flow) -> bool {
        true
    }

    fn entry(&mut self, seen: &Seen<'_>) {
        self.0.push(seen.raw.to_entry());
    }
}

proptest! {
    /// The dump is of one moment, and its entries come at any later ones, between the reports.
    #[test]
    fn it_is_what_the_switch_has(
        before in steps(),
        during in steps(),
        after in steps(),
        moment in 0..60_usize,
        late in prop::collection::vec(0..60_usize, 32),
    ) {
        let start = BootTime::now();
        let mut replica = Replica::new(LIMIT, start);
        let (mut table, mut clock) = (Table::new(), ms(0));
        let mut tick = || {
            clock += ms(7);
            clock
        };
        for one in before {
            step(&mut table, one, tick());
        }
        replica.begin(Version::V14, start + tick());
        let mut dump: Vec<(usize, Entry, Duration)> = Vec::new();
        let take = |table: &Table, n: usize, now: Duration| -> Vec<(usize, Entry, Duration)> {
            let entries = table.iter().zip(&late);
            entries
                .map(|(((t, m), (d, at)), late)| {
                    let entry = entry(*t as u8, MATCHES[*m], DOES[*d], 1);
                    (n.max(*late), aged(&entry, now - *at), now)
                })
                .collect()
        };
        let deliver = |replica: &mut Replica, dump: &[(usize, Entry, Duration)], n: usize| {
            for (_, entry, now) in dump.iter().filter(|(at, ..)| *at == n) {
                let made = Made::by(entry.raw().duration(), start + *now, start + *now);
                replica.dumped(&entry.raw(), made);
            }
        };
        for n in 0..60 {
            if n == moment {
                dump = take(&table, n, tick());
            }
            deliver(&mut replica, &dump, n);
            if let Some(one) = during.get(n) {
                let now = tick();
                if let Some(update) = step(&mut table, *one, now) {
                    replica.apply(&update, start + now);
                }
            }
        }
        replica.complete_dump(start + tick());
        for one in after {
            let now = tick();
            if let Some(update) = step(&mut table, one, now) {
                replica.apply(&update, start + now);
            }
        }
        prop_assert!(replica.is_in_sync(), "{:?}", replica.state());
        let now = tick();
        let mut seen = 0;
        replica.all(start + now, &mut |held| {
            let found = table.iter().find(|((t, m), (d, _))| {
                entry(*t as u8, MATCHES[*m], DOES[*d], held.unreported.map_or(0, |it| it.flags))
                    .content() == held.entry.content()
            });
            let (_, (_, at)) = found.expect("it is not there");
            assert!(held.made.earliest <= start + *at && start + *at <= held.made.latest);
            seen += 1;
        });
        prop_assert_eq!(seen, table.len());
        prop_assert_eq!(replica.len(), table.len());
    }

    /// By the index as by a walk over everything.
    #[test]
    fn it_finds_what_a_walk_finds(steps in steps(), value in prop_oneof![Just(7_u32), 0..9_u32]) {
        let start = BootTime::now();
        let mut replica = Replica::new(LIMIT, start);
        replica.begin(Version::V14, start);
        replica.complete_dump(start);
        let mut table = Table::new();
        for one in steps {
            if let Some(update) = step(&mut table, one, ms(0)) {
                replica.apply(&update, start);
            }
        }
        let mut walk = Vec::new();
        replica.all(start, &mut |held| walk.push(held.entry));
        let mac = Address::Mac(MacAddr([10, 0, 0, 0, 0, 1]));
        let ip = Address::Ip("10.244.1.5".parse().unwrap());
        let mut filters = vec![
            Filter::default(),
            Filter::table(1),
            Filter::in_port(5),
            Filter::in_port(6),
            Filter::out_port(5),
            Filter::register(0, value, u32::MAX),
            Filter::register(0, value, 0xffff),
            Filter::register(1, value, 0xff),
        ];
        filters.extend([mac, ip].iter().flat_map(filters_for_address));
        filters.extend(walk.iter().map(Filter::like));
        let sorted = |mut found: Vec<Entry>| {
            found.sort_by_key(Entry::content);
            found
        };
        // The second time, after the index has learned the field.
        for filter in filters.iter().chain(&filters) {
            let mut found = Vec::new();
            let one = std::slice::from_ref(filter);
            replica.find(one, start, &mut |_, held| found.push(held.entry));
            let expected = walk.iter().filter(|entry| filter.matches(entry)).cloned().collect();
            prop_assert_eq!(sorted(found), sorted(expected), "{:?}", filter);
        }
        // Each once for each token by which some of them look.
        let mut found = Vec::new();
        replica.find(&filters, start, &mut |number, held| found.push((number, held.entry)));
        prop_assert!(found.iter().all(|(number, entry)| filters[*number].matches(entry)));
        let found = found.iter().map(|(_, entry)| entry.content());
        let found: BTreeSet<_> = found.collect();
        prop_assert_eq!(found.len(), walk.len(), "the first filter finds everything");
        let (index, mask) = (0, 0xffff);
        let tokens = [
            Token::InPort(5),
            Token::Register { index, value, mask },
            Token::Load { index, value, mask },
            Token::Load { index, value, mask: u32::MAX },
            Token::Address(mac),
            Token::Address(ip),
            Token::Output(6),
            Token::Teaches,
        ];
        for token in tokens {
            let mut found = All::default();
            replica.naming_any(&[token], start, &mut found).unwrap();
            let found = found.0;
            let names = |entry: &&Entry| token.is_in(&entry.flow(start).unwrap());
            let expected = walk.iter().filter(names).cloned().collect();
            prop_assert_eq!(sorted(found), sorted(expected), "{:?}", token);
        }
        let mut found = All::default();
        replica.naming_any(&tokens, start, &mut found).unwrap();
        let found = found.0;
        let names = |entry: &&Entry| {
            entry.flow(start).is_ok_and(|flow| tokens.iter().any(|token| token.is_in(&flow)))
        };
        let expected = walk.iter().filter(names).cloned().collect();
        prop_assert_eq!(sorted(found), sorted(expected), "each once");
        // Nothing is left of what is gone.
        for entry in walk {
            replica.apply(&removed(&entry), start);
        }
        prop_assert!(replica.is_empty() && replica.bytes() == 0 && replica.index.is_empty());
    }
}
