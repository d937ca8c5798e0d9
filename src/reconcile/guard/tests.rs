//! What becomes of an entry, by what the switch tells and when: against a switch that follows a
//! script. (`tests/window` has a real one, and races; what a real one does once in a thousand
//! races or never is here.)

use std::sync::{Arc, Mutex};

use super::*;
use crate::flowtable::{DumpSource, Made, Seen};
use crate::model::table::Id;
use crate::openflow::Version;
use crate::openflow::testing::Fake;
use crate::util::clock::BootTime;

/// What the switch says between its answers.
#[derive(Clone, Debug)]
enum Say {
    /// An entry with this instruction's output was put, or it was removed.
    Put(u8, u8),
    Removed(u8),
    Abbreviated,
    Paused,
    Resumed,
    /// The flow table is full: of the first message of this bundle.
    Refuse,
}
use Say::{Abbreviated, Paused, Put, Refuse, Removed, Resumed};

/// The entry `place`, which sends to `output`. Its delete matches on the place only.
fn entry(place: u8, output: u8) -> Entry {
    let instructions = format!("0004001800000000 00000010 000000{output:02x} 0000000000000000");
    let instructions = instructions.replace(' ', "");
    Entry::try_from(format!("5 a 64 2a 0 0 0 0 80000004000000{place:02x} {instructions}")).unwrap()
}

/// An update of 1.4's.
fn update(say: &Say) -> Vec<u8> {
    let short = |event: u8| vec![0, 8, 0, event, 0, 0, 0, 0];
    let (event, entry, with) = match say {
        Put(place, output) => (1, entry(*place, *output), true),
        Removed(place) => (2, entry(*place, 0), false),
        Abbreviated => return short(4),
        Paused => return short(5),
        Resumed => return short(6),
        Refuse => return Vec::new(),
    };
    let raw = entry.raw();
    let rest = if with { raw.instruction_bytes() } else { &[] };
    let body = [raw.match_bytes(), rest].concat();
    let length = u16::try_from(body.len() + 24).unwrap().to_be_bytes();
    let head = [length[0], length[1], 0, event, 10, 0, 0, 0, 0, 0, 0, 100, 0, 0, 0, 0];
    [&head[..], &0x2a_u64.to_be_bytes(), &body].concat()
}

/// What a switch was told to do: a bundle's commands, with the outputs of what it adds.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Done {
    Delete(usize),
    Add(Vec<u8>),
}
use Done::{Add, Delete};

/// Entries that are to go, what is said before each answer to a barrier and to a commit, and
/// what the switch had to do in the end.
struct Staged {
    table: DumpSource,
    done: Arc<Mutex<Vec<Done>>>,
    planned: Vec<Candidate>,
}

/// The first is said between the scan and the deletion, the others before each commit's answer.
fn staged(places: u8, script: &[&[Say]]) -> Staged {
    let script: Vec<Vec<Say>> = script.iter().map(|says| says.to_vec()).collect();
    let done = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&done);
    let fake = Fake::new(Version::V14, move |peer| {
        let (mut script, mut bundle) = (script.into_iter(), Vec::new());
        while let Some((kind, xid, body)) = peer.next_if_any() {
            let is_commit = kind == 33 && body[5] == 4;
            let says = match kind {
                20 => script.next(),
                _ if is_commit => script.next(),
                _ => None,
            };
            for say in says.into_iter().flatten() {
                match say {
                    // OFPFMFC_TABLE_FULL; its xid is the one before the commit's.
                    Refuse => peer.send(1, xid - 1, &[0, 5, 0, 1]),
                    say => peer.send(19, 0, &[&[0, 16, 0, 0, 0, 0, 0, 0], &*update(&say)].concat()),
                }
            }
            match kind {
                18 => peer.send(19, xid, &[0, 16, 0, 0, 0, 0, 0, 0]),
                20 => peer.send(21, xid, &[]),
                33 if is_commit => {
                    let all: Vec<(u8, u8)> = std::mem::take(&mut bundle);
                    let what = match all.first() {
                        Some((0, _)) => Add(all.iter().map(|(_, output)| *output).collect()),
                        _ => Delete(all.len()),
                    };
                    noted.lock().unwrap().push(what);
                    peer.send(33, xid, &[&body[..4], &[0, 5, 0, 3]].concat());
                }
                33 => peer.send(33, xid, &[&body[..4], &[0, 1, 0, 3]].concat()),
                // The command, and the output's port where there is one.
                34 => bundle.push((body[8 + 8 + 17], body[body.len() - 9])),
                other => panic!("kind {other}"),
            }
        }
    });
    let mut connection = fake.open().unwrap();
    connection.watch().unwrap();
    let planned = (1..=places)
        .map(|place| Candidate::seen(entry(place, place), BootTime::now(), 0))
        .collect();
    connection.barrier().unwrap();
    let table = DumpSource::bare(connection);
    Staged { table, done, planned }
}

impl Staged {
    /// Deletes them all: what became of each, and what the switch had to do for it.
    fn play(&mut self) -> (Vec<DeleteOutcome>, Vec<Done>, u64) {
        let mut guard = ReplaceGuard::over(&self.table, "br0", self.planned.iter()).unwrap();
        let chunk = ids(self.planned.len());
        let applied =
            guard.delete(&mut self.table, &mut Parallel::default(), &chunk, || {}).unwrap();
        assert_eq!(applied.refused, []);
        let outcomes = chunk.iter().map(|id| guard.outcome_of(*id)).collect();
        (outcomes, self.done.lock().unwrap().clone(), guard.lost())
    }
}

/// The places of so many planned deletes.
fn ids(count: usize) -> Vec<DeleteId> {
    (0..count).map(Id::of).collect()
}

fn play(places: u8, script: &[&[Say]]) -> (Vec<DeleteOutcome>, Vec<Done>, u64) {
    staged(places, script).play()
}

#[test]
fn what_nobody_touches_goes() {
    let (outcomes, done, lost) = play(2, &[&[], &[Removed(1), Removed(2)]]);
    assert_eq!((outcomes, done, lost), (vec![DeleteOutcome::Gone; 2], vec![Delete(2)], 0));
    // It went before, or the switch does not say: a dump does.
    let (outcomes, done, _) = play(2, &[&[Removed(1)], &[]]);
    assert_eq!(
        (outcomes, done),
        (vec![DeleteOutcome::Gone, DeleteOutcome::Unknown], vec![Delete(2)])
    );
}

#[test]
fn what_was_put_before_is_not_deleted() {
    let (outcomes, done, _) = play(2, &[&[Put(1, 50)], &[Removed(2)]]);
    assert_eq!(
        (outcomes, done),
        (vec![DeleteOutcome::Newer, DeleteOutcome::Gone], vec![Delete(1)])
    );
    // Not even if it was removed in between, by whomever.
    let (outcomes, done, _) = play(2, &[&[Removed(1), Put(1, 50)], &[Removed(2)]]);
    assert_eq!(
        (outcomes, done),
        (vec![DeleteOutcome::Newer, DeleteOutcome::Gone], vec![Delete(1)])
    );
    // Whoever put it took it away.
    let (outcomes, ..) = play(1, &[&[Put(1, 50), Removed(1)], &[]]);
    assert_eq!(outcomes, [DeleteOutcome::Gone]);
    // What is held is nobody's to put back when others remove it meanwhile.
    let (outcomes, done, lost) = play(2, &[&[Put(1, 50)], &[Removed(1), Removed(2)]]);
    assert_eq!((outcomes, done, lost), (vec![DeleteOutcome::Gone; 2], vec![Delete(1)], 0));
}

#[test]
fn what_was_hit_goes_back_as_it_was_put() {
    let hit: &[Say] = &[Put(1, 50), Put(1, 51), Removed(1), Removed(2)];
    let (outcomes, done, lost) = play(2, &[&[], hit, &[Abbreviated]]);
    assert_eq!(outcomes, [DeleteOutcome::PutBack, DeleteOutcome::Gone]);
    assert_eq!((done, lost), (vec![Delete(2), Add(vec![51])], 0));
    // The old one went first: then the delete hit nobody.
    let (outcomes, done, _) = play(1, &[&[], &[Removed(1), Put(1, 50)]]);
    assert_eq!((outcomes, done), (vec![DeleteOutcome::Again], vec![Delete(1)]));
    // It hit the old one and, as far as is told, the new one, too.
    let (outcomes, done, _) = play(1, &[&[], &[Removed(1), Put(1, 50), Removed(1)], &[]]);
    assert_eq!((outcomes, done), (vec![DeleteOutcome::PutBack], vec![Delete(1), Add(vec![50])]));
}

#[test]
fn whoever_puts_his_own_while_we_put_back_has_his() {
    let hit: &[Say] = &[Put(1, 50), Removed(1)];
    let (outcomes, done, lost) = play(1, &[&[], hit, &[Put(1, 60)], &[]]);
    assert_eq!(outcomes, [DeleteOutcome::PutBack]);
    assert_eq!((done, lost), (vec![Delete(1), Add(vec![50]), Add(vec![60])], 0));
    // Who does so without end has it there, and we end.
    let says: Vec<Vec<Say>> = (60..120).map(|output| vec![Put(1, output)]).collect();
    let mut script: Vec<&[Say]> = vec![&[], hit];
    script.extend(says.iter().map(Vec::as_slice));
    let (outcomes, done, lost) = play(1, &script);
    assert_eq!((outcomes, lost), (vec![DeleteOutcome::PutBack], 0));
    assert_eq!(done.len(), 1 + usize::from(ROUNDS));
}

/// What goes back in a pause may go in the place of a later one: nobody can know, so it is said.
#[test]
fn what_is_put_back_in_a_pause_is_a_suspicion() {
    let hit: &[Say] = &[Put(1, 50), Removed(1)];
    // It began while the entry was on its way back.
    let (outcomes, done, lost) = play(1, &[&[], hit, &[Paused]]);
    assert_eq!((outcomes, lost), (vec![DeleteOutcome::PutBackUntold], 1));
    assert_eq!(done, [Delete(1), Add(vec![50])]);
    // It was over before the entry was back, and told of a later one: that one is there.
    let (outcomes, done, lost) = play(1, &[&[], hit, &[Paused, Put(1, 60), Resumed], &[]]);
    assert_eq!((outcomes, lost), (vec![DeleteOutcome::PutBack], 0));
    assert_eq!(done, [Delete(1), Add(vec![50]), Add(vec![60])]);
    // It does not end.
    let (outcomes, _, lost) = play(1, &[&[], &[Put(1, 50), Removed(1), Paused], &[]]);
    assert_eq!((outcomes, lost), (vec![DeleteOutcome::PutBackUntold], 1));
}

/// A pause that is over has told who was quicker than us. What was removed before it or in it may
/// have been put or changed in it.
#[test]
fn a_pause_that_is_over_has_told() {
    let over: &[Say] = &[Put(1, 50), Removed(1), Paused, Resumed];
    let (outcomes, done, lost) = play(1, &[&[], over, &[]]);
    assert_eq!((outcomes, lost), (vec![DeleteOutcome::PutBackUntold], 1));
    assert_eq!(done, [Delete(1), Add(vec![50])]);
    let later: &[Say] = &[Put(1, 50), Removed(1), Paused, Put(1, 60), Resumed];
    let (_, done, lost) = play(1, &[&[], later]);
    assert_eq!((done, lost), (vec![Delete(1)], 0));
    let within: &[Say] = &[Put(1, 50), Paused, Removed(1), Resumed];
    let (outcomes, done, lost) = play(1, &[&[], within, &[]]);
    assert_eq!((outcomes, lost), (vec![DeleteOutcome::PutBackUntold], 1));
    assert_eq!(done, [Delete(1), Add(vec![50])]);
}

/// A controller removes the entry and puts it anew in a pause, or changes it there, and we delete that
/// one: the switch tells of a removal only, as if it were of the old one.
#[test]
fn what_goes_in_a_pause_is_a_suspicion() {
    let gone = DeleteOutcome::Gone;
    let untold = DeleteOutcome::GoneUntold;
    for pause in [
        &[Paused, Removed(1)][..],
        &[Paused, Removed(1), Resumed],
        // The controller removed it before.
        &[Removed(1), Paused],
        &[Removed(1), Paused, Resumed],
    ] {
        let (outcomes, done, lost) = play(1, &[&[], pause]);
        assert_eq!((outcomes, done, lost), (vec![untold], vec![Delete(1)], 1), "{pause:?}");
    }
    // Whoever has put his behind our deletion has it there.
    let (outcomes, _, lost) = play(1, &[&[], &[Paused, Removed(1), Put(1, 50), Resumed]]);
    assert_eq!((outcomes, lost), (vec![DeleteOutcome::Again], 0));
    // A pause that was over before the commit has told everything.
    let (outcomes, _, lost) = play(1, &[&[Paused, Resumed], &[Removed(1)]]);
    assert_eq!((outcomes, lost), (vec![gone], 0));
    // Only what was under way in the pause is in doubt.
    let removed = [Removed(1), Removed(2), Removed(3)];
    let mut staged = staged(4, &[&[], &removed, &[Paused, Removed(4)]]);
    let mut guard = ReplaceGuard::over(&staged.table, "br0", staged.planned.iter()).unwrap();
    let chunk = ids(staged.planned.len());
    for some in chunk.chunks(3) {
        guard.delete(&mut staged.table, &mut Parallel::default(), some, || {}).unwrap();
    }
    let outcomes: Vec<_> = chunk.iter().map(|id| guard.outcome_of(*id)).collect();
    assert_eq!((outcomes, guard.lost()), (vec![gone, gone, gone, untold], 1));
}

#[test]
fn what_cannot_be_put_back_is_lost_and_counted() {
    let hit: &[Say] = &[Put(1, 50), Removed(1), Removed(2)];
    let (outcomes, done, lost) = play(2, &[&[], hit, &[Refuse]]);
    assert_eq!((outcomes, lost), (vec![DeleteOutcome::Lost, DeleteOutcome::Gone], 1));
    assert_eq!(done, [Delete(2), Add(vec![50])]);
}

#[test]
fn news_from_before_the_look_is_none() {
    let mut staged = staged(2, &[&[Put(1, 50), Put(2, 50)], &[Removed(2)]]);
    // The second was dumped when both had been told.
    staged.planned[1].seq = 2;
    let (outcomes, done, _) = staged.play();
    assert_eq!(
        (outcomes, done),
        (vec![DeleteOutcome::Newer, DeleteOutcome::Gone], vec![Delete(1)])
    );
    // Others' places are none of ours.
    let (outcomes, ..) = play(1, &[&[Put(9, 50)], &[Put(9, 51), Removed(9), Removed(1)]]);
    assert_eq!(outcomes, [DeleteOutcome::Gone]);
}

#[test]
fn who_is_not_told_deletes_nothing() {
    let (outcomes, done, lost) = play(2, &[&[Paused]]);
    assert_eq!((outcomes, done, lost), (vec![DeleteOutcome::Newer; 2], vec![], 0));
    // A pause that is over has told what is there.
    let over: &[Say] = &[Paused, Resumed, Put(1, 50)];
    let (outcomes, done, _) = play(2, &[over, &[Removed(2)]]);
    assert_eq!(
        (outcomes, done),
        (vec![DeleteOutcome::Newer, DeleteOutcome::Gone], vec![Delete(1)])
    );
}

#[test]
fn what_happened_in_a_pause_is_not_known() {
    for (what, paused) in [(Paused, true), (Abbreviated, false)] {
        let mut staged = staged(2, &[&[], &[Put(1, 50), what, Removed(2)]]);
        let mut guard = ReplaceGuard::over(&staged.table, "br0", staged.planned.iter()).unwrap();
        let chunk = ids(staged.planned.len());
        guard.delete(&mut staged.table, &mut Parallel::default(), &chunk, || {}).unwrap();
        assert!(guard.has_missed);
        let outcomes: Vec<DeleteOutcome> = chunk.iter().map(|id| guard.outcome_of(*id)).collect();
        // A switch that names our own removals by a mere xid has told who removed the second.
        let second = if paused { DeleteOutcome::GoneUntold } else { DeleteOutcome::Gone };
        assert_eq!(
            outcomes,
            [DeleteOutcome::Unknown, second],
            "the first may have been hit unseen"
        );
    }
}

/// After a pause a dump looks for what may have stayed. What it finds may have been put since.
#[test]
fn what_was_put_anew_has_not_stayed() {
    // The first is told of when the pause is over, the second's news are still to come.
    let news: &[Say] = &[Paused, Resumed, Put(1, 50), Paused];
    let mut staged = staged(3, &[&[], news]);
    let mut guard = ReplaceGuard::over(&staged.table, "br0", staged.planned.iter()).unwrap();
    let chunk = ids(staged.planned.len());
    guard.delete(&mut staged.table, &mut Parallel::default(), &chunk, || {}).unwrap();
    assert!(guard.has_missed);
    assert!(chunk.iter().all(|id| guard.outcome_of(*id) == DeleteOutcome::Unknown));
    let still = |guard: &mut ReplaceGuard<'_>, n: usize, younger| guard.is_still(chunk[n], younger);
    assert!(!still(&mut guard, 0, false), "the switch has told who put it");
    assert!(!still(&mut guard, 1, true), "its age tells that somebody has");
    assert!(still(&mut guard, 2, false), "it is what was to go");
    let outcomes: Vec<DeleteOutcome> = chunk.iter().map(|id| guard.outcome_of(*id)).collect();
    assert_eq!(outcomes, [DeleteOutcome::Again, DeleteOutcome::Again, DeleteOutcome::Unknown]);
}

#[test]
fn a_younger_entry_is_another_one() {
    // Put when it was dumped, which was when the node was read.
    let ms = Duration::from_millis;
    let read = BootTime::now();
    let it = entry(1, 1);
    let candidate = Candidate::seen(it.clone(), read, 0);
    for (age, asked, another) in [
        // As old as it has to be, or as the two clocks' ticks make it; a late answer adds to it.
        (0, 0, false),
        (500, 500, false),
        (495, 500, false),
        (900, 500, false),
        // Put since.
        (480, 500, true),
        (0, 500, true),
    ] {
        let asked = read + ms(asked);
        let seen = Seen { raw: it.raw(), filter: 0, made: Made::by(ms(age), asked, asked) };
        assert_eq!(candidate.is_older_than(&seen), another, "{age} {asked:?}");
    }
}

#[test]
fn a_switch_that_does_not_tell_has_no_window() {
    let fake = Fake::new(Version::V14, |peer| while peer.next_if_any().is_some() {});
    let connection = fake.open().unwrap();
    assert!(ReplaceGuard::over(&DumpSource::bare(connection), "br0", std::iter::empty()).is_none());
}
