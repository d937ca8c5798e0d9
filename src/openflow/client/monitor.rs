//! Flow monitors: the switch reports what changes while we scan and delete.
//!
//! A strict delete hits whatever has the table, priority, match and cookie at that moment. The
//! switch reports changes in the order in which they happened (it writes a report under the lock
//! that every change of the flow table takes), on the connection that asked, between the other
//! answers. An entry that was put after the dump and before its removal is another one than the
//! dump's.
//!
//! | | 1.3 (ONF extension, OVS ≥ 3.0) | 1.4, 1.5 (OVS ≥ 3.0) |
//! | --- | --- | --- |
//! | request, reply | multipart 0xffff, ONF, 1870 (`openflow-1.3.h`, `struct onf_flow_monitor_request`) | multipart 16 (`openflow-1.4.h`, `struct ofp14_flow_monitor_request`) |
//! | update | `struct onf_flow_update_full`, xid 0 | `struct ofp_flow_update_full`, xid 0 |
//! | paused, resumed | message 4, ONF, 1871 and 1872 | updates 5 and 6 |
//!
//! The headers are in OVS's `include/openflow`; what it makes of them in `lib/ofp-monitor.c` and
//! `ofproto/connmgr.c` (`ofmonitor_report`, `ofmonitor_flush`). Older switches refuse: for 1.4 and
//! later they take the request for OpenFlow 1.0's, in which ours has impossible flags.
//!
//! Changes by any client are reported. Our own removals are reported in full, our own additions
//! as a mere xid ("abbreviated"), which is skipped. An update never has flags or importance.

use std::time::Duration;

use crate::openflow::client::connection::{Connection, Message};
use crate::openflow::codec::entry::{BadEntry, Entry, FlowKey, Head};
use crate::openflow::codec::flow_update::{FlowUpdate, Full, read, request};
use crate::openflow::codec::hello::Version;
use crate::openflow::codec::numbers::*;
use crate::openflow::codec::oxm::read_match;
use crate::openflow::codec::wire::Reader;
use crate::openflow::error::Error;

const DOING: &str = "watching for changes";

/// Bytes of updates that are kept until they are taken. With more the monitor is flooded.
const MOST_KEPT: usize = 8 * 1024 * 1024;

/// What happened to an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It was added, replaced, or changed: this is what it is now.
    Put,
    /// It is gone: deleted, by us too, timed out, or evicted.
    Removed,
}

/// One change, as the switch reported it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// How many updates came before it on this connection.
    pub at: u64,
    /// What happened.
    pub what: What,
    /// An entry that was there was changed: its age, its flags and its importance stay.
    pub modified: bool,
    /// It was removed to make room for another one, which may not be reported.
    pub evicted: bool,
    /// Table.
    pub table: u8,
    /// Priority.
    pub priority: u16,
    /// Cookie.
    pub cookie: u64,
    version: Version,
    idle_timeout: u16,
    hard_timeout: u16,
    matches: Box<[u8]>,
    /// Empty if it is gone.
    instructions: Box<[u8]>,
}

impl Update {
    /// The whole match, padding included, as a dump would show it.
    #[must_use]
    pub fn match_bytes(&self) -> &[u8] {
        &self.matches
    }

    /// Whether it is about one of the switch's own entries, which no dump shows.
    #[must_use]
    pub fn is_hidden(&self) -> bool {
        self.table == TBL_INTERNAL
    }

    /// The key of the entry that changed.
    #[must_use]
    pub fn key(&self) -> FlowKey<'_> {
        let (table, priority) = (self.table, self.priority);
        FlowKey { table, priority, matches: self.match_bytes().into() }
    }

    pub(crate) fn instruction_bytes(&self) -> &[u8] {
        &self.instructions
    }

    /// The fixed part of the entry, without what is not reported.
    pub(crate) fn head(&self) -> Head {
        Head {
            table: self.table,
            priority: self.priority,
            cookie: self.cookie,
            idle_timeout: self.idle_timeout,
            hard_timeout: self.hard_timeout,
            ..Head::default()
        }
    }

    /// The entry as it was put. An update has no flags and no importance: they are taken from
    /// `before`, the entry that had this key.
    ///
    /// # Errors
    /// If match or instructions have impossible lengths.
    pub fn entry(&self, before: &Entry) -> Result<Entry, BadEntry> {
        let head = Head {
            flags: before.raw().flags(),
            importance: before.raw().importance(),
            ..self.head()
        };
        let (_, fields) = read_match(&mut Reader::new(&self.matches))?;
        Entry::assemble(self.version, head, fields, &self.instructions)
    }
}

#[cfg(test)]
impl Update {
    /// As if the switch reported that this entry was put.
    pub(crate) fn put(at: u64, entry: &Entry) -> Self {
        let (raw, version) = (entry.raw(), entry.version());
        Self {
            at,
            what: What::Put,
            modified: false,
            evicted: false,
            table: raw.table(),
            priority: raw.priority(),
            cookie: raw.cookie(),
            version,
            idle_timeout: raw.idle_timeout(),
            hard_timeout: raw.hard_timeout(),
            matches: raw.match_bytes().into(),
            instructions: raw.instruction_bytes().into(),
        }
    }

    /// As if the switch reported that this entry is gone.
    pub(crate) fn removed(at: u64, entry: &Entry) -> Self {
        Self { what: What::Removed, instructions: Box::default(), ..Self::put(at, entry) }
    }
}

/// The flow monitor of a connection, and the updates that nobody has taken yet.
#[derive(Debug, Default)]
pub(super) struct Monitor {
    /// The request's xid; `None`: there was no request.
    asked: Option<u32>,
    /// The switch has agreed.
    on: bool,
    /// The switch reports no additions until we have read its earlier reports.
    paused: bool,
    /// The monitor was paused since this was last asked.
    was_paused: bool,
    /// The switch reported more than we keep.
    flooded: bool,
    /// The switch reported a change of our own by a mere xid.
    abbreviated: bool,
    count: u64,
    bytes: usize,
    updates: Vec<Update>,
}

impl Monitor {
    fn take_note(&mut self, update: FlowUpdate<'_>, version: Version) {
        match update {
            FlowUpdate::Full(full) => self.keep(&full, version),
            FlowUpdate::Abbreviated => self.abbreviated = true,
            FlowUpdate::Paused => (self.paused, self.was_paused) = (true, true),
            FlowUpdate::Resumed => self.paused = false,
        }
    }

    fn keep(&mut self, full: &Full<'_>, version: Version) {
        let at = self.count;
        self.count = at.saturating_add(1);
        let size = full.matches.len().saturating_add(full.instructions.len()).saturating_add(64);
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > MOST_KEPT {
            self.flooded = true;
            return;
        }
        self.updates.push(Update {
            at,
            what: full.what,
            modified: full.modified,
            evicted: full.what == What::Removed && full.head.reason == OFPRR_EVICTION,
            table: full.head.table,
            priority: full.head.priority,
            cookie: full.head.cookie,
            version,
            idle_timeout: full.head.idle_timeout,
            hard_timeout: full.head.hard_timeout,
            matches: full.matches.into(),
            instructions: full.instructions.into(),
        });
    }
}

impl Connection {
    /// Asks the switch to report every change from now on, and does not wait: its answer, or a
    /// refusal, comes with the other answers.
    ///
    /// # Errors
    /// Those of any exchange.
    pub fn watch(&mut self) -> Result<(), Error> {
        if self.monitor.asked.is_some() {
            return Ok(());
        }
        let xid = self.xids(1);
        self.monitor.asked = Some(xid);
        let version = self.version();
        let put = OFPFMF_ADD | OFPFMF_MODIFY | OFPFMF_INSTRUCTIONS;
        let wanted: &[u16] = match version {
            Version::V13 => &[put, OFPFMF_REMOVED | ONFFMF_OWN],
            // OVS 3.0 to 3.7 refuses OFPFMF_NO_ABBREV, takes ONLY_OWN for it
            // (`ofmonitor_report`), and does not leave out others' changes. The third monitor asks
            // a switch that does for those. If our changes then come as a mere xid, only a dump
            // shows what is gone.
            Version::V14 | Version::V15 => &[put, OFPFMF_REMOVED | OFPFMF_ONLY_OWN, OFPFMF_REMOVED],
        };
        let mut out = self.outgoing(xid, DOING);
        out.add(OFPT_MULTIPART_REQUEST, |body| request(version, wanted, body));
        self.send_all(out)
    }

    /// Whether the switch has agreed to report. False until its answer has come.
    #[must_use]
    pub fn is_watching(&self) -> bool {
        self.monitor.on
    }

    /// Whether the switch reports no additions at the moment, because we had not read enough.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.monitor.paused
    }

    /// How many changes were reported on this connection.
    #[must_use]
    pub fn update_seq(&self) -> u64 {
        self.monitor.count
    }

    /// The updates since the last call, in order. Waits for nothing. Call it only when no other
    /// answer is awaited: it skips those.
    ///
    /// # Errors
    /// Those of any exchange.
    pub fn updates(&mut self) -> Result<Vec<Update>, Error> {
        self.take_in(DOING)?;
        Ok(self.noted())
    }

    /// The same updates, but only those that came before the last answer that was read.
    pub fn noted(&mut self) -> Vec<Update> {
        self.monitor.bytes = 0;
        std::mem::take(&mut self.monitor.updates)
    }

    /// Waits until there is something to read, at most for this time.
    pub fn wait_for_updates(&self, time: Duration) {
        self.wait_at_most(time);
    }

    /// Whether the monitor was paused since the last call. After a pause the switch reports the
    /// entries that are there; it never reports what came and went in the pause.
    pub fn take_pause(&mut self) -> bool {
        std::mem::replace(&mut self.monitor.was_paused, self.monitor.paused)
    }

    /// Whether a change of our own was reported by a mere xid since the last call. Additions
    /// always are; removals are on no switch that is known.
    pub fn take_abbreviated(&mut self) -> bool {
        std::mem::take(&mut self.monitor.abbreviated)
    }

    /// Whether the switch reported more than is kept: the later updates are lost.
    #[must_use]
    pub fn is_flooded(&self) -> bool {
        self.monitor.flooded
    }

    /// Keeps a message of the flow monitor; false if the message is not one.
    pub(super) fn note(&mut self, message: Message) -> Result<bool, Error> {
        let version = self.version();
        if self.monitor.asked.is_none() {
            return Ok(false);
        }
        let mut monitor = std::mem::take(&mut self.monitor);
        let noted = if Some(message.xid) == monitor.asked {
            // An error: the switch is too old, and reports nothing.
            monitor.on = message.kind == OFPT_MULTIPART_REPLY;
            Ok(true)
        } else if message.xid == 0 && message.version == version.wire() {
            read(version, message.kind, self.body(message), &mut |update| {
                monitor.take_note(update, version);
            })
        } else {
            Ok(false)
        };
        self.monitor = monitor;
        noted.map_err(|what| self.malformed(DOING, what))
    }
}

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
#[cfg(test)]
mod tests;
