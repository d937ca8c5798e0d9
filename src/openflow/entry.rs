//! One entry of a flow dump: its bytes, checked once, and what is where in them.

use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::Malformed;
use super::hello::Version;
use super::wire::{self, Reader};
use super::{effects, oxm};
use crate::stale::flow::Flow;

mod written;

pub(super) use written::Chosen;

/// The fixed part, and where the variable ones are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    table: u8,
    priority: u16,
    cookie: u64,
    duration: Duration,
    idle_timeout: u16,
    hard_timeout: u16,
    flags: u16,
    importance: u16,
    /// Of the match: its type and length, its TLVs, its padding.
    matches: (u16, u16, u16),
    instructions: u16,
}

impl Head {
    /// Reads an entry that fills `bytes`.
    fn read(version: Version, bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        let length = r.u16("entry length")?;
        if usize::from(length) != bytes.len() {
            return Err(Malformed::Length { field: "entry", value: length.into() });
        }
        let mut head = match version {
            Version::V13 | Version::V14 => Self::read_13(&mut r)?,
            Version::V15 => Self::read_15(&mut r)?,
        };
        // Everything is inside `bytes`, whose length is 16 bits.
        let at = |r: &Reader<'_>| {
            let read = bytes.len().saturating_sub(r.left());
            u16::try_from(read).map_err(|_| Malformed::TooLong(bytes.len()))
        };
        let start = at(&r)?;
        if r.u16("match type")? != 1 {
            return Err(Malformed::Unexpected("match type"));
        }
        let length = usize::from(r.u16("match length")?);
        let tlvs = length.checked_sub(4).ok_or(Malformed::Length { field: "match", value: 0 })?;
        r.take(tlvs, "match")?;
        let end = at(&r)?;
        r.take(wire::padding(length), "match padding")?;
        head.matches = (start, end, at(&r)?);
        if version == Version::V15 {
            head.duration = stats(&mut r)?;
        }
        head.instructions = at(&r)?;
        Ok(head)
    }

    fn read_13(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let table = r.u8("table")?;
        r.take(1, "entry")?;
        let (seconds, nanoseconds) = (r.u32("duration")?, r.u32("duration")?);
        let priority = r.u16("priority")?;
        let (idle_timeout, hard_timeout) = (r.u16("timeout")?, r.u16("timeout")?);
        let (flags, importance) = (r.u16("flags")?, r.u16("importance")?);
        r.take(2, "entry")?;
        let cookie = r.u64("cookie")?;
        r.take(16, "counters")?;
        Ok(Self {
            table,
            priority,
            cookie,
            duration: duration(seconds, nanoseconds),
            idle_timeout,
            hard_timeout,
            flags,
            importance,
            matches: (0, 0, 0),
            instructions: 0,
        })
    }

    fn read_15(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        r.take(2, "entry")?;
        let table = r.u8("table")?;
        r.take(1, "entry")?;
        let priority = r.u16("priority")?;
        let (idle_timeout, hard_timeout) = (r.u16("timeout")?, r.u16("timeout")?);
        let (flags, importance) = (r.u16("flags")?, r.u16("importance")?);
        let cookie = r.u64("cookie")?;
        Ok(Self {
            table,
            priority,
            cookie,
            duration: Duration::ZERO,
            idle_timeout,
            hard_timeout,
            flags,
            importance,
            matches: (0, 0, 0),
            instructions: 0,
        })
    }
}

fn duration(seconds: u32, nanoseconds: u32) -> Duration {
    Duration::from_secs(seconds.into()).saturating_add(Duration::from_nanos(nanoseconds.into()))
}

/// 1.5's statistics TLVs; all we want is the duration.
fn stats(r: &mut Reader<'_>) -> Result<Duration, Malformed> {
    let field = "entry's statistics";
    r.take(2, field)?;
    let length = usize::from(r.u16(field)?);
    let size = length.checked_sub(4).ok_or(Malformed::Length { field, value: 0 })?;
    let mut tlvs = r.sub(size, field)?;
    r.take(wire::padding(length), field)?;
    let mut found = None;
    while !tlvs.is_empty() {
        let class = tlvs.u16(field)?;
        let [number, length] = tlvs.array(field)?;
        let mut value = tlvs.sub(length.into(), field)?;
        if (class, number >> 1) == (0x8002, 0) {
            found = Some(duration(value.u32("duration")?, value.u32("duration")?));
        }
    }
    // Without an age an entry would look brand-new, which is a claim of its own.
    found.ok_or(Malformed::Short("duration"))
}

/// What makes an entry *this* entry to a strict delete, but for its cookie.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowKey {
    /// Table.
    pub table: u8,
    /// Priority.
    pub priority: u16,
    /// The match as dumped.
    pub matches: Box<[u8]>,
}

/// An entry in a dump's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawEntry<'a> {
    version: Version,
    head: Head,
    bytes: &'a [u8],
}

impl<'a> RawEntry<'a> {
    /// Checks the lengths of one entry that fills `bytes`; [`Self::decode`] checks what is
    /// inside match and instructions.
    pub(super) fn new(version: Version, bytes: &'a [u8]) -> Result<Self, Malformed> {
        Ok(Self { version, head: Head::read(version, bytes)?, bytes })
    }

    /// The version it was dumped in.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// All of it, as dumped.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Table.
    #[must_use]
    pub fn table(&self) -> u8 {
        self.head.table
    }

    /// Priority.
    #[must_use]
    pub fn priority(&self) -> u16 {
        self.head.priority
    }

    /// Cookie.
    #[must_use]
    pub fn cookie(&self) -> u64 {
        self.head.cookie
    }

    /// How old it was in the dump. A MODIFY does not reset it, an ADD does.
    #[must_use]
    pub fn duration(&self) -> Duration {
        self.head.duration
    }

    /// Seconds; 0 is none.
    #[must_use]
    pub fn idle_timeout(&self) -> u16 {
        self.head.idle_timeout
    }

    /// Seconds; 0 is none.
    #[must_use]
    pub fn hard_timeout(&self) -> u16 {
        self.head.hard_timeout
    }

    /// OFPFF_* bits.
    #[must_use]
    pub fn flags(&self) -> u16 {
        self.head.flags
    }

    /// 1.4 and later; 0 before.
    #[must_use]
    pub fn importance(&self) -> u16 {
        self.head.importance
    }

    /// The whole match, padding included: what a strict delete sends back.
    #[must_use]
    pub fn match_bytes(&self) -> &'a [u8] {
        let (start, _, end) = self.head.matches;
        self.part(start.into()..end.into())
    }

    /// The match's fields.
    pub(super) fn tlvs(&self) -> &'a [u8] {
        let (start, end, _) = self.head.matches;
        self.part(usize::from(start).saturating_add(4)..end.into())
    }

    /// Its instructions.
    #[must_use]
    pub fn instruction_bytes(&self) -> &'a [u8] {
        self.part(self.head.instructions.into()..self.bytes.len())
    }

    fn part(&self, range: Range<usize>) -> &'a [u8] {
        // Checked by `Head::read`: the range is inside.
        self.bytes.get(range).unwrap_or_default()
    }

    /// Reads it into `flow`, whose vectors keep their memory.
    ///
    /// # Errors
    /// If a length inside match or instructions cannot be.
    pub fn decode(&self, flow: &mut Flow) -> Result<(), Malformed> {
        flow.table = self.head.table;
        flow.priority = self.head.priority;
        flow.cookie = self.head.cookie;
        flow.duration = self.head.duration;
        oxm::decode(self.tlvs(), &mut flow.matches)?;
        effects::decode(self.instruction_bytes(), &mut flow.actions)
    }

    /// Its identity.
    #[must_use]
    pub fn key(&self) -> FlowKey {
        FlowKey {
            table: self.table(),
            priority: self.priority(),
            matches: self.match_bytes().into(),
        }
    }

    /// What whoever added it chose: everything but duration and counters. Two entries of
    /// one version are the same flow again if these are equal.
    #[must_use]
    pub fn content(&self) -> Vec<u8> {
        let (matches, instructions) = (self.match_bytes(), self.instruction_bytes());
        let mut out = Vec::with_capacity(self.bytes.len());
        out.extend([self.version.wire(), self.table()]);
        let head = [
            self.priority(),
            self.idle_timeout(),
            self.hard_timeout(),
            self.flags(),
            self.importance(),
        ];
        out.extend(head.into_iter().flat_map(u16::to_be_bytes));
        out.extend(self.cookie().to_be_bytes());
        out.extend_from_slice(matches);
        out.extend_from_slice(instructions);
        out
    }

    /// A copy that outlives the dump.
    #[must_use]
    pub fn to_entry(&self) -> Entry {
        Entry { version: self.version, head: self.head, bytes: self.bytes.into() }
    }
}

/// An entry of its own, as kept for deleting it and, without age and counters, in the
/// journal ([`written`]).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Entry {
    version: Version,
    head: Head,
    bytes: Box<[u8]>,
}

/// Why something is not an entry.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadEntry {
    /// The text has not the ten words of an entry.
    #[error("a flow entry has ten words, not {0}")]
    Words(usize),
    /// Its first word is none of 4, 5 and 6.
    #[error("a flow entry of an OpenFlow version that we do not speak")]
    Version,
    /// One of its numbers is none, or too large.
    #[error("a flow entry's number: {0}")]
    Number(#[from] std::num::ParseIntError),
    /// Match or instructions are not an even number of hexadecimal digits.
    #[error("a flow entry's hex is not an even number of hexadecimal digits")]
    NotHex,
    /// The bytes are none.
    #[error("not a flow entry: {0}")]
    Malformed(#[from] Malformed),
}

impl Entry {
    /// Checks bytes from outside: every length, match and instructions included.
    ///
    /// # Errors
    /// [`BadEntry::Malformed`].
    pub fn new(version: Version, bytes: impl Into<Box<[u8]>>) -> Result<Self, BadEntry> {
        let bytes = bytes.into();
        let raw = RawEntry::new(version, &bytes)?;
        raw.decode(&mut Flow::default())?;
        let head = raw.head;
        Ok(Self { version, head, bytes })
    }

    /// The same as a view.
    #[must_use]
    pub fn raw(&self) -> RawEntry<'_> {
        RawEntry { version: self.version, head: self.head, bytes: &self.bytes }
    }

    /// The version it was dumped in.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Table.
    #[must_use]
    pub fn table(&self) -> u8 {
        self.head.table
    }

    /// Priority.
    #[must_use]
    pub fn priority(&self) -> u16 {
        self.head.priority
    }

    /// Cookie.
    #[must_use]
    pub fn cookie(&self) -> u64 {
        self.head.cookie
    }

    /// The whole match, padding included.
    #[must_use]
    pub fn match_bytes(&self) -> &[u8] {
        self.raw().match_bytes()
    }

    /// All of it, as dumped.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its identity.
    #[must_use]
    pub fn key(&self) -> FlowKey {
        self.raw().key()
    }

    /// See [`RawEntry::content`].
    #[must_use]
    pub fn content(&self) -> Vec<u8> {
        self.raw().content()
    }

    /// As the core sees it.
    ///
    /// # Errors
    /// None for an entry that [`Self::new`] or a dump made; kept for the type's honesty.
    pub fn flow(&self) -> Result<Flow, Malformed> {
        let mut flow = Flow::default();
        self.raw().decode(&mut flow)?;
        Ok(flow)
    }
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Entry({} {self})", self.version)
    }
}

#[cfg(test)]
mod tests;
