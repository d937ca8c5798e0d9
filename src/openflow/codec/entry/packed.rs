//! An entry as a long-lived copy of the flow table keeps it: one short allocation.
//!
//! What the switch counts is left out, the age too, and whatever all entries of a table dump have
//! in common (version, padding).

use std::time::Duration;

use super::{Entry, FlowKey, Head, RawEntry};
use crate::model::flow::Flow;
use crate::openflow::client::monitor::Update;
use crate::openflow::codec::effects;
use crate::openflow::codec::hello::Version;
use crate::openflow::codec::oxm::{self, read_match};
use crate::openflow::codec::wire::{Layout as _, Reader, layout, short};
use crate::openflow::error::Malformed;
use crate::util::clock::BootTime;

layout! {
    /// What stands before the match and the instructions. `known` tells whether flags and
    /// importance are: a flow monitor does not report them.
    struct PackedHead {
        table: u8, priority: u16, cookie: u64, idle_timeout: u16, hard_timeout: u16, flags: u16,
        importance: u16, known: u8, match_length: u16,
    }
}

/// More than a dump puts around match and instructions.
const AROUND: usize = 256;

/// An entry without its age and its counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedEntry(Box<[u8]>);

/// What a flow monitor does not report of an entry: its flags (OFPFF_*) and its importance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreported {
    /// OFPFF_* bits.
    pub flags: u16,
    /// 1.4 and later; 0 before.
    pub importance: u16,
}

impl PackedEntry {
    /// An entry of a dump.
    ///
    /// # Errors
    /// If a length inside match or instructions cannot be.
    pub fn of_dump(raw: &RawEntry<'_>) -> Result<Self, Malformed> {
        let head = PackedHead {
            flags: raw.flags(),
            importance: raw.importance(),
            known: 1,
            ..PackedHead::of(&raw.parts.head)
        };
        Self::pack(head, raw.tlvs(), raw.instruction_bytes())
    }

    /// An entry as a flow monitor reported it. `before` is what is known of its flags.
    ///
    /// # Errors
    /// As [`Self::of_dump`].
    pub fn of_update(update: &Update, before: Option<Unreported>) -> Result<Self, Malformed> {
        let (_, tlvs) = read_match(&mut Reader::new(update.match_bytes()))?;
        let mut head = PackedHead::of(&update.head());
        if let Some(Unreported { flags, importance }) = before {
            (head.flags, head.importance, head.known) = (flags, importance, 1);
        }
        Self::pack(head, tlvs, update.instruction_bytes())
    }

    fn pack(head: PackedHead, tlvs: &[u8], instructions: &[u8]) -> Result<Self, Malformed> {
        // As an entry of a dump it fits a message, whatever stands around it there.
        short(tlvs.len().saturating_add(instructions.len()).saturating_add(AROUND))?;
        let head = PackedHead { match_length: short(tlvs.len())?, ..head };
        let mut bytes = Vec::with_capacity(PackedHead::LENGTH + tlvs.len() + instructions.len());
        // It has one layout in all versions.
        head.write(Version::V14, &mut bytes);
        bytes.extend_from_slice(tlvs);
        bytes.extend_from_slice(instructions);
        Ok(Self(bytes.into_boxed_slice()))
    }

    fn parts(&self) -> (PackedHead, &[u8], &[u8]) {
        let mut r = Reader::new(&self.0);
        // All of it was written by `Self::pack`.
        let head = PackedHead::read(Version::V14, &mut r).unwrap_or_default();
        let tlvs = r.take(head.match_length.into(), "match").unwrap_or_default();
        (head, tlvs, r.rest())
    }

    /// Bytes that it is made of.
    #[must_use]
    pub fn size(&self) -> usize {
        self.0.len()
    }

    /// Whether this is the entry with that key.
    #[must_use]
    pub fn has_key(&self, key: &FlowKey<'_>) -> bool {
        let (head, tlvs, _) = self.parts();
        head.table == key.table && head.priority == key.priority && tlvs == fields(&key.matches)
    }

    /// Table and priority, and the fields of the match: as [`FlowKey::place`] has them.
    #[must_use]
    pub fn place(&self) -> (u8, u16, &[u8]) {
        let (head, tlvs, _) = self.parts();
        (head.table, head.priority, tlvs)
    }

    /// Its flags and importance, if they are known.
    #[must_use]
    pub fn unreported(&self) -> Option<Unreported> {
        let (PackedHead { flags, importance, known, .. }, ..) = self.parts();
        (known == 1).then_some(Unreported { flags, importance })
    }

    /// What a flow monitor did not report of it.
    pub fn set_unreported(&mut self, Unreported { flags, importance }: Unreported) {
        let (head, ..) = self.parts();
        let mut bytes = Vec::with_capacity(PackedHead::LENGTH);
        PackedHead { flags, importance, known: 1, ..head }.write(Version::V14, &mut bytes);
        if let Some(start) = self.0.get_mut(..bytes.len()) {
            start.copy_from_slice(&bytes);
        }
    }

    /// Reads it into `flow`, whose vectors keep their memory.
    ///
    /// # Errors
    /// If a length inside match or instructions cannot be.
    pub fn decode(&self, flow: &mut Flow) -> Result<(), Malformed> {
        let (head, tlvs, instructions) = self.parts();
        flow.table = head.table;
        flow.priority = head.priority;
        flow.cookie = head.cookie;
        flow.made = BootTime::default();
        oxm::decode(tlvs, &mut flow.matches)?;
        effects::decode(instructions, &mut flow.actions)
    }

    /// The entry as a dump of that version shows it. Flags and importance that are not known are 0.
    /// What is inside match and instructions is not checked: [`Self::decode`] does that.
    ///
    /// # Errors
    /// If its bytes are none of an entry's.
    pub fn to_entry(&self, version: Version, age: Duration) -> Result<Entry, Malformed> {
        let (head, tlvs, instructions) = self.parts();
        let head = Head {
            table: head.table,
            priority: head.priority,
            cookie: head.cookie,
            idle_timeout: head.idle_timeout,
            hard_timeout: head.hard_timeout,
            flags: head.flags,
            importance: head.importance,
            seconds: u32::try_from(age.as_secs()).unwrap_or(u32::MAX),
            nanoseconds: age.subsec_nanos(),
        };
        Entry::put_together(version, head, tlvs, instructions)
    }
}

impl PackedHead {
    const LENGTH: usize = 22;

    fn of(head: &Head) -> Self {
        Self {
            table: head.table,
            priority: head.priority,
            cookie: head.cookie,
            idle_timeout: head.idle_timeout,
            hard_timeout: head.hard_timeout,
            ..Self::default()
        }
    }
}

/// The fields of a match: without its header and its padding.
fn fields(matches: &[u8]) -> &[u8] {
    read_match(&mut Reader::new(matches)).map_or(&[], |(_, fields)| fields)
}

impl FlowKey<'_> {
    /// Table, priority and the fields of the match, as [`PackedEntry::place`] has them.
    #[must_use]
    pub fn place(&self) -> (u8, u16, &[u8]) {
        (self.table, self.priority, fields(&self.matches))
    }
}
