//! Fuzz body: what a switch tells without being asked (see [`crate::fuzzing`]).

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a broken promise is told by panicking"
)]

use super::*;
use crate::openflow::fuzzing::{check_entry, version, written};

/// A version's selector, whose highest bit says that this is no answer but an experimenter's
/// message; then a message's body.
pub(crate) fn told(data: &[u8]) -> bool {
    let Some((selector, body)) = data.split_first() else { return false };
    let version = version(selector & 0x7f);
    let kind = if *selector < 0x80 { OFPT_MULTIPART_REPLY } else { OFPT_EXPERIMENTER };
    let listen = |body: &[u8]| {
        let mut monitor = Monitor::default();
        let read = read(version, kind, body, &mut |told| monitor.take_note(told, version));
        (read == Ok(true)).then_some(monitor)
    };
    let Some(monitor) = listen(body) else { return false };
    if kind == OFPT_EXPERIMENTER {
        assert!(monitor.was_paused || monitor.count == 0);
        assert!(monitor.updates.is_empty() && version == Version::V13);
        return true;
    }
    let seen = naive(version, body);
    let full: Vec<&(usize, u16)> = seen.iter().filter(|(_, event)| *event < 4).collect();
    assert_eq!(full.len(), monitor.updates.len());
    assert_eq!(monitor.count, full.len() as u64);
    assert!(!monitor.flooded && monitor.bytes <= 4 * body.len());
    assert_eq!(monitor.abbreviated, seen.iter().any(|(_, event)| *event == 4));
    assert_eq!(monitor.was_paused, seen.iter().any(|(_, event)| *event == 5));
    for (update, (end, event)) in monitor.updates.iter().zip(full) {
        assert_eq!(update.what == What::Removed, *event == 2);
        check_update(update, version, &body[..*end]);
    }
    assert!(monitor.updates.iter().zip(0..).all(|(update, at)| update.at == at));
    // Cut off it is none, or all that was told before.
    let ends: Vec<usize> = seen.iter().map(|(end, _)| *end).collect();
    for end in ends.iter().take(8).flat_map(|end| [end - 1, end - 8, end / 2, *end]) {
        match listen(&body[..end]) {
            Some(part) => {
                assert_eq!(part.updates, monitor.updates[..part.updates.len()], "cut at {end}");
                assert!(ends.contains(&end) || part.updates.is_empty(), "cut at {end}");
            }
            None => assert!(!ends.contains(&end), "cut at {end}"),
        }
    }
    !seen.is_empty()
}

/// The updates in a message: a version's selector, then a message's body.
pub(crate) fn updates(data: &[u8]) -> Option<(Version, Vec<Update>)> {
    let (selector, body) = data.split_first()?;
    let (version, mut monitor) = (version(*selector), Monitor::default());
    let read =
        read(version, OFPT_MULTIPART_REPLY, body, &mut |told| monitor.take_note(told, version));
    (read == Ok(true)).then_some((version, monitor.updates))
}

/// Where each update ends and what it is, in 1.4's numbers. Written without a look at how
/// [`FlowUpdate::read`] does it.
fn naive(version: Version, body: &[u8]) -> Vec<(usize, u16)> {
    let number = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    let onf = version == Version::V13;
    let (mut at, mut seen) = (if onf { 16 } else { 8 }, Vec::new());
    while at < body.len() {
        let event = number(at + 2) + u16::from(onf);
        at += usize::from(number(at));
        seen.push((at, event));
    }
    assert_eq!(at, body.len());
    seen
}

/// What is told of an entry stands in the message, up to the update's end, and is what would be
/// put back.
fn check_update(update: &Update, version: Version, told: &[u8]) {
    let matches = update.match_bytes();
    assert_eq!(matches.len() % 8, 0);
    assert_eq!(matches[..2], [0, 1]);
    let end = [matches, &update.instructions].concat();
    assert!(told.ends_with(&end), "{update:?}");
    let before = written(version, &[], &[]).unwrap();
    let Ok(entry) = update.entry(&before) else { return };
    let raw = entry.raw();
    assert_eq!(
        (entry.table(), entry.priority(), entry.cookie()),
        (update.table, update.priority, update.cookie)
    );
    assert_eq!(
        (raw.idle_timeout(), raw.hard_timeout(), raw.flags(), raw.importance()),
        (update.idle_timeout, update.hard_timeout, before.raw().flags(), before.raw().importance())
    );
    // Padding may be anything on the wire; ours is zeros.
    let length = usize::from(u16::from_be_bytes([matches[2], matches[3]]));
    assert_eq!(raw.match_bytes()[..length], matches[..length]);
    assert_eq!(raw.instruction_bytes(), &*update.instructions);
    check_entry(&entry);
}
