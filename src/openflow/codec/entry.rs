//! One entry of a flow dump: its bytes, checked once, and what is where in them.

use std::borrow::Cow;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::flow::Flow;
use crate::openflow::codec::effects;
use crate::openflow::codec::hello::Version;
use crate::openflow::codec::numbers::*;
use crate::openflow::codec::oxm;
use crate::openflow::codec::oxm::{Header, Oxm, read_match, write_match};
use crate::openflow::codec::wire::{Layout as _, Reader, layout, padding, set_length, short};
use crate::openflow::error::Malformed;
use crate::util::clock::BootTime;

mod packed;
mod written;

pub use packed::{PackedEntry, Unreported};

layout! {
    /// The fixed part: what whoever added an entry chose, and its age, which 1.5 has among the
    /// statistics. `struct ofp13_flow_stats`, `struct ofp14_flow_stats` and `struct
    /// ofp15_flow_desc`, from behind their length on.
    pub(crate) struct Head {
        table: u8, priority: u16, cookie: u64, idle_timeout: u16, hard_timeout: u16, flags: u16,
        importance: u16, seconds: u32, nanoseconds: u32,
    }
    V13 | V14 => table [1], seconds, nanoseconds, priority, idle_timeout, hard_timeout, flags,
        importance [2], cookie [16];
    V15 => [2] table [1], priority, idle_timeout, hard_timeout, flags, importance, cookie;
}

/// Room for what stands around match and instructions.
const ROOM_AROUND: usize = 96;

impl Head {
    /// Reads 1.5's statistics (`struct ofp_oxs_stat`); all we want is the duration.
    fn read_statistics(&mut self, r: &mut Reader<'_>) -> Result<(), Malformed> {
        let field = "entry's statistics";
        r.take(2, field)?;
        let length = usize::from(r.u16(field)?);
        let size = length.checked_sub(OFP_OXS_STAT_LEN);
        let mut tlvs = r.sub(size.ok_or(Malformed::Length { field, value: 0 })?, field)?;
        r.take(padding(length), field)?;
        // Without an age an entry would look brand-new, which is a claim of its own.
        let mut found = Err(Malformed::Short("duration"));
        while !tlvs.is_empty() {
            let header = Header::read(&mut tlvs)?;
            let mut value = tlvs.sub(header.length, field)?;
            if header.id == OXS_OF_DURATION {
                self.seconds = value.u32("duration")?;
                self.nanoseconds = value.u32("duration")?;
                found = Ok(());
            }
        }
        found
    }

    fn write_statistics(&self, out: &mut Vec<u8>) -> Result<(), Malformed> {
        let at = out.len();
        out.extend([0; OFP_OXS_STAT_LEN]);
        let value = [self.seconds, self.nanoseconds].map(u32::to_be_bytes).concat();
        Oxm { id: OXS_OF_DURATION, value: &value, mask: None }.write(out);
        set_length(out, at, 2)
    }
}

/// What has been read of an entry: its fixed part, and where the others are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Parts {
    version: Version,
    head: Head,
    /// Of the match: its type and length, its TLVs, its padding.
    matches: (u16, u16, u16),
    instructions: u16,
}

/// What makes an entry *this* entry to a strict delete, but for its cookie.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowKey<'a> {
    /// Table.
    pub table: u8,
    /// Priority.
    pub priority: u16,
    /// The match as dumped.
    pub matches: Cow<'a, [u8]>,
}

/// In two writes: every entry that is read is hashed.
impl Hash for FlowKey<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u32(u32::from(self.table) << 16 | u32::from(self.priority));
        state.write(&self.matches);
    }
}

impl FlowKey<'_> {
    /// A copy that outlives the entry.
    #[must_use]
    pub fn into_owned(self) -> FlowKey<'static> {
        FlowKey { matches: Cow::Owned(self.matches.into_owned()), ..self }
    }
}

macro_rules! getters {
    ($($(#[$doc:meta])* $name:ident: $type:ty),* $(,)?) => {
        /// The version it was dumped in.
        #[must_use]
        pub fn version(&self) -> Version {
            self.parts.version
        }

        $($(#[$doc])*
        #[must_use]
        pub fn $name(&self) -> $type {
            self.parts.head.$name
        })*
    };
}

/// An entry in a dump's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawEntry<'a> {
    parts: Parts,
    bytes: &'a [u8],
}

impl<'a> RawEntry<'a> {
    /// Checks the lengths of one entry that fills `bytes`; [`Self::decode`] checks what is
    /// inside match and instructions.
    pub(crate) fn new(version: Version, bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        let length = r.u16("entry length")?;
        if usize::from(length) != bytes.len() {
            return Err(Malformed::Length { field: "entry", value: length.into() });
        }
        let mut head = Head::read(version, &mut r)?;
        let at = |r: &Reader<'_>| short(bytes.len().saturating_sub(r.left()));
        let start = at(&r)?;
        let (_, tlvs) = read_match(&mut r)?;
        let tlvs_end = start.saturating_add(short(tlvs.len() + OFP_MATCH_HEADER_LEN)?);
        let matches = (start, tlvs_end, at(&r)?);
        if version == Version::V15 {
            head.read_statistics(&mut r)?;
        }
        let parts = Parts { version, head, matches, instructions: at(&r)? };
        Ok(Self { parts, bytes })
    }

    /// All of it, as dumped.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    getters! {
        /// Table.
        table: u8,
        /// Priority.
        priority: u16,
        /// Cookie.
        cookie: u64,
        /// Seconds; 0 is none.
        idle_timeout: u16,
        /// Seconds; 0 is none.
        hard_timeout: u16,
        /// OFPFF_* bits.
        flags: u16,
        /// 1.4 and later; 0 before.
        importance: u16,
    }

    /// How old it was in the dump. A MODIFY does not reset it, an ADD does.
    #[must_use]
    pub fn duration(&self) -> Duration {
        let nanoseconds = Duration::from_nanos(self.parts.head.nanoseconds.into());
        Duration::from_secs(self.parts.head.seconds.into()).saturating_add(nanoseconds)
    }

    /// The whole match, padding included: what a strict delete sends back.
    #[must_use]
    pub fn match_bytes(&self) -> &'a [u8] {
        let (start, _, end) = self.parts.matches;
        self.part(start.into()..end.into())
    }

    /// The match's fields.
    pub(crate) fn tlvs(&self) -> &'a [u8] {
        let (start, end, _) = self.parts.matches;
        self.part(usize::from(start).saturating_add(OFP_MATCH_HEADER_LEN)..end.into())
    }

    /// Its instructions.
    #[must_use]
    pub fn instruction_bytes(&self) -> &'a [u8] {
        self.part(self.parts.instructions.into()..self.bytes.len())
    }

    fn part(&self, range: Range<usize>) -> &'a [u8] {
        // Checked by `Self::new`: the range is inside.
        self.bytes.get(range).unwrap_or_default()
    }

    /// Reads it into `flow`, whose vectors keep their memory. When it was made is for the caller
    /// to say.
    ///
    /// # Errors
    /// If a length inside match or instructions cannot be.
    pub fn decode(&self, flow: &mut Flow) -> Result<(), Malformed> {
        flow.table = self.parts.head.table;
        flow.priority = self.parts.head.priority;
        flow.cookie = self.parts.head.cookie;
        flow.made = BootTime::default();
        oxm::decode(self.tlvs(), &mut flow.matches)?;
        effects::decode(self.instruction_bytes(), &mut flow.actions)
    }

    /// Its identity.
    #[must_use]
    pub fn key(&self) -> FlowKey<'a> {
        let (table, priority) = (self.table(), self.priority());
        FlowKey { table, priority, matches: self.match_bytes().into() }
    }

    /// What whoever added it chose: everything but duration and counters. Two entries of
    /// one version are the same flow again if these are equal.
    #[must_use]
    pub fn content(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes.len());
        out.push(self.version().wire());
        let chosen = Head { seconds: 0, nanoseconds: 0, ..self.parts.head };
        chosen.write(self.version(), &mut out);
        out.extend_from_slice(self.match_bytes());
        out.extend_from_slice(self.instruction_bytes());
        out
    }

    /// A copy that outlives the dump.
    #[must_use]
    pub fn to_entry(&self) -> Entry {
        Entry { parts: self.parts, bytes: self.bytes.into() }
    }
}

/// An entry of its own, as kept for deleting it and, without age and counters, in the
/// journal ([`written`]).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Entry {
    parts: Parts,
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
        let parts = raw.parts;
        Ok(Self { parts, bytes })
    }

    /// An entry from its parts. `tlvs` are the match's fields, without its header and padding.
    pub(crate) fn assemble(
        version: Version,
        head: Head,
        tlvs: &[u8],
        instructions: &[u8],
    ) -> Result<Self, BadEntry> {
        let entry = Self::put_together(version, head, tlvs, instructions)?;
        entry.raw().decode(&mut Flow::default())?;
        Ok(entry)
    }

    /// The same of fields and instructions that were read before.
    fn put_together(
        version: Version,
        head: Head,
        tlvs: &[u8],
        instructions: &[u8],
    ) -> Result<Self, Malformed> {
        let mut out = Vec::with_capacity(ROOM_AROUND + tlvs.len() + instructions.len());
        out.extend([0; 2]);
        head.write(version, &mut out);
        write_match(tlvs, &mut out)?;
        if version == Version::V15 {
            head.write_statistics(&mut out)?;
        }
        out.extend_from_slice(instructions);
        set_length(&mut out, 0, 0)?;
        let bytes = out.into_boxed_slice();
        let parts = RawEntry::new(version, &bytes)?.parts;
        Ok(Self { parts, bytes })
    }

    /// From its parts, as if it had just been read.
    #[cfg(test)]
    pub(crate) fn assembled_again(&self) -> Self {
        let raw = self.raw();
        let (tlvs, instructions) = (raw.tlvs(), raw.instruction_bytes());
        Self::assemble(self.version(), self.parts.head, tlvs, instructions).unwrap()
    }

    /// The same as a view.
    #[must_use]
    pub fn raw(&self) -> RawEntry<'_> {
        RawEntry { parts: self.parts, bytes: &self.bytes }
    }

    getters! {
        /// Table.
        table: u8,
        /// Priority.
        priority: u16,
        /// Cookie.
        cookie: u64,
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
    pub fn key(&self) -> FlowKey<'_> {
        self.raw().key()
    }

    /// See [`RawEntry::content`].
    #[must_use]
    pub fn content(&self) -> Vec<u8> {
        self.raw().content()
    }

    /// As the core sees it, made at this time: an entry that was asked for later knows its age alone.
    ///
    /// # Errors
    /// None for an entry that [`Self::new`] or a dump made; kept for the type's honesty.
    pub fn flow(&self, made: BootTime) -> Result<Flow, Malformed> {
        let mut flow = Flow::default();
        self.raw().decode(&mut flow)?;
        flow.made = made;
        Ok(flow)
    }
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Entry({} {self})", self.version())
    }
}

#[cfg(test)]
mod tests;
