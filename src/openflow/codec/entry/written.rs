//! An entry as text, for the journal: ten words, each number in hexadecimal.
//!
//! ```text
//! 5 a 64 2a 3c 0 0 0 000104040000100580000b04... 0004001800000000...
//! | | |  |  |  | | | |                           instructions
//! | | |  |  |  | | | match fields
//! | | |  |  |  | | importance
//! | | |  |  |  | flags
//! | | |  |  |  hard timeout
//! | | |  |  idle timeout
//! | | |  cookie
//! | | priority
//! | table
//! wire version
//! ```
//!
//! What the switch counts is left out, and what can be computed: the journal is bounded, and
//! a large sweep must fit into it whole.

use super::{BadEntry, Entry, Head};
use crate::openflow::codec::hello::Version;

impl From<Entry> for String {
    fn from(entry: Entry) -> Self {
        let raw = entry.raw();
        let mut text = format!(
            "{:x} {:x} {:x} {:x} {:x} {:x} {:x} {:x} ",
            raw.version().wire(),
            raw.table(),
            raw.priority(),
            raw.cookie(),
            raw.idle_timeout(),
            raw.hard_timeout(),
            raw.flags(),
            raw.importance(),
        );
        let (matches, instructions) = (raw.tlvs(), raw.instruction_bytes());
        text.reserve_exact(2 * (matches.len() + instructions.len()) + 1);
        push_hex(matches, &mut text);
        text.push(' ');
        push_hex(instructions, &mut text);
        text
    }
}

impl TryFrom<String> for Entry {
    type Error = BadEntry;

    /// The entry as if it had just been dumped, never hit: its age and its counters are 0.
    fn try_from(text: String) -> Result<Self, BadEntry> {
        let words: Vec<&str> = text.split(' ').collect();
        let [version, table, priority, cookie, idle, hard, flags, importance, matches, rest] =
            *words.as_slice()
        else {
            return Err(BadEntry::Words(words.len()));
        };
        let known = |v: &Version| version == v.wire().to_string();
        let version = Version::ALL.iter().copied().find(known).ok_or(BadEntry::Version)?;
        let table = u8::from_str_radix(table, 16)?;
        let number = |word| u16::from_str_radix(word, 16);
        let head = Head {
            table,
            priority: number(priority)?,
            cookie: u64::from_str_radix(cookie, 16)?,
            idle_timeout: number(idle)?,
            hard_timeout: number(hard)?,
            flags: number(flags)?,
            importance: number(importance)?,
            ..Head::default()
        };
        Self::assemble(version, head, &bytes(matches)?, &bytes(rest)?)
    }
}

fn push_hex(bytes: &[u8], text: &mut String) {
    for byte in bytes {
        text.extend([byte >> 4, byte & 15].map(|n| char::from_digit(n.into(), 16).unwrap_or('?')));
    }
}

fn bytes(text: &str) -> Result<Vec<u8>, BadEntry> {
    if !text.len().is_multiple_of(2) {
        return Err(BadEntry::NotHex);
    }
    let nibble = |d: &u8| char::from(*d).to_digit(16).and_then(|n| u8::try_from(n).ok());
    let byte = |pair: &[u8]| {
        let mut nibbles = pair.iter().map(nibble);
        Some(nibbles.next()?? << 4 | nibbles.next()??)
    };
    text.as_bytes().chunks(2).map(byte).collect::<Option<_>>().ok_or(BadEntry::NotHex)
}
