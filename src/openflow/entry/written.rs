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

use super::{BadEntry, Entry};
use crate::openflow::error::Malformed;
use crate::openflow::hello::Version;
use crate::openflow::wire;

impl From<Entry> for String {
    fn from(entry: Entry) -> Self {
        let raw = entry.raw();
        let mut text = format!(
            "{:x} {:x} {:x} {:x} {:x} {:x} {:x} {:x} ",
            entry.version.wire(),
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
        let version = match version {
            "4" => Version::V13,
            "5" => Version::V14,
            "6" => Version::V15,
            _ => return Err(BadEntry::Version),
        };
        let table = u8::from_str_radix(table, 16)?;
        let number = |word| u16::from_str_radix(word, 16);
        let chosen = Chosen {
            table,
            priority: number(priority)?,
            cookie: u64::from_str_radix(cookie, 16)?,
            idle_timeout: number(idle)?,
            hard_timeout: number(hard)?,
            flags: number(flags)?,
            importance: number(importance)?,
        };
        Self::assemble(version, &chosen, &bytes(matches)?, &bytes(rest)?)
    }
}

/// What whoever added an entry chose, beside match and instructions.
pub(in crate::openflow) struct Chosen {
    pub(in crate::openflow) table: u8,
    pub(in crate::openflow) priority: u16,
    pub(in crate::openflow) cookie: u64,
    pub(in crate::openflow) idle_timeout: u16,
    pub(in crate::openflow) hard_timeout: u16,
    pub(in crate::openflow) flags: u16,
    pub(in crate::openflow) importance: u16,
}

impl Entry {
    /// An entry from its parts, as if it had just been dumped, never hit. `tlvs` are the
    /// match's fields, without its header and padding.
    pub(in crate::openflow) fn assemble(
        version: Version,
        chosen: &Chosen,
        tlvs: &[u8],
        instructions: &[u8],
    ) -> Result<Self, BadEntry> {
        let mut choices = Vec::with_capacity(8);
        for value in [chosen.idle_timeout, chosen.hard_timeout, chosen.flags, chosen.importance] {
            choices.extend(value.to_be_bytes());
        }
        let (priority, cookie) = (chosen.priority.to_be_bytes(), chosen.cookie.to_be_bytes());
        let mut out = vec![0, 0];
        if version == Version::V15 {
            out.extend([0, 0, chosen.table, 0]);
            out.extend(priority);
            out.extend(choices);
            out.extend(cookie);
        } else {
            out.extend([chosen.table, 0]);
            out.extend([0; 8]);
            out.extend(priority);
            out.extend(choices);
            out.extend([0; 2]);
            out.extend(cookie);
            out.extend([0; 16]);
        }
        let length = tlvs.len().saturating_add(4);
        out.extend([0, 1]);
        out.extend(short_length(length)?);
        out.extend(tlvs);
        out.resize(out.len().saturating_add(wire::padding(length)), 0);
        if version == Version::V15 {
            // Statistics: a duration, which is 0.
            out.extend([0, 0, 0, 16, 0x80, 2, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0]);
        }
        out.extend(instructions);
        let whole = short_length(out.len())?;
        if let Some(slot) = out.first_chunk_mut() {
            *slot = whole;
        }
        Self::new(version, out)
    }
}

fn short_length(length: usize) -> Result<[u8; 2], Malformed> {
    u16::try_from(length).map(u16::to_be_bytes).map_err(|_| Malformed::TooLong(length))
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
