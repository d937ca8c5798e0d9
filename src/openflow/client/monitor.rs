//! Flow monitors: the switch tells what changes while we look and delete.
//!
//! A strict delete hits whatever has the table, priority, match and cookie at that moment. What
//! the switch tells comes in the order in which things happened (it is written under the lock
//! that every change of the flow table takes), on the connection that asked, between the other
//! answers: an entry that was put before it was removed is not the one that was dumped.
//!
//! | | 1.3 (ONF extension, OVS ≥ 3.0) | 1.4, 1.5 (OVS ≥ 3.0) |
//! | --- | --- | --- |
//! | request, reply | multipart 0xffff, ONF, 1870 (`openflow-1.3.h`, `struct onf_flow_monitor_request`) | multipart 16 (`openflow-1.4.h`, `struct ofp14_flow_monitor_request`) |
//! | told | `struct onf_flow_update_full`, xid 0 | `struct ofp_flow_update_full`, xid 0 |
//! | paused, resumed | message 4, ONF, 1871 and 1872 | updates 5 and 6 |
//!
//! The headers are in OVS's `include/openflow`; what it makes of them in `lib/ofp-monitor.c` and
//! `ofproto/connmgr.c` (`ofmonitor_report`, `ofmonitor_flush`). Older switches refuse: for 1.4 and
//! later they take the request for OpenFlow 1.0's, in which ours has impossible flags.
//!
//! Told are changes by everybody. Of our own, removals are told in full and additions as a mere
//! xid ("abbreviated"), which is skipped. No flags and no importance are told, of nothing.

use std::time::Duration;

use crate::openflow::client::connection::{Connection, Message};
use crate::openflow::codec::entry::{BadEntry, Entry, FlowKey, Head};
use crate::openflow::codec::flow_update::{Full, Told, read, request};
use crate::openflow::codec::hello::Version;
use crate::openflow::codec::numbers::*;
use crate::openflow::codec::oxm::read_match;
use crate::openflow::codec::wire::Reader;
use crate::openflow::error::Error;

const DOING: &str = "watching for changes";

/// What may pile up untaken. More is no churn but a storm, and then nothing is known.
const MOST_TOLD: usize = 8 * 1024 * 1024;

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It was added, replaced, or changed: this is what it is now.
    Put,
    /// It is gone: deleted, by us too, timed out, or evicted.
    Removed,
}

/// One change, as the switch told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// How many it had told before, on this connection.
    pub at: u64,
    /// What happened.
    pub what: What,
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

    /// Which entry it is about.
    #[must_use]
    pub fn key(&self) -> FlowKey<'_> {
        let (table, priority) = (self.table, self.priority);
        FlowKey { table, priority, matches: self.match_bytes().into() }
    }

    /// The entry as it was put. Flags and importance are not told: they are taken from the
    /// entry that had its place `before`.
    ///
    /// # Errors
    /// If match or instructions have impossible lengths.
    pub fn entry(&self, before: &Entry) -> Result<Entry, BadEntry> {
        let head = Head {
            table: self.table,
            priority: self.priority,
            cookie: self.cookie,
            idle_timeout: self.idle_timeout,
            hard_timeout: self.hard_timeout,
            flags: before.raw().flags(),
            importance: before.raw().importance(),
            ..Head::default()
        };
        let (_, fields) = read_match(&mut Reader::new(&self.matches))?;
        Entry::assemble(self.version, head, fields, &self.instructions)
    }
}

/// What a connection was told.
#[derive(Debug, Default)]
pub(in crate::openflow) struct Monitor {
    /// The request's xid.
    asked: u32,
    /// The switch has agreed.
    on: bool,
    /// It does not tell what is put until we have read what it told.
    paused: bool,
    /// It was so at some time.
    was_paused: bool,
    /// It told more than we keep.
    flooded: bool,
    /// It told of our own doing by a mere xid.
    abbreviated: bool,
    count: u64,
    bytes: usize,
    updates: Vec<Update>,
}

impl Monitor {
    fn take_note(&mut self, told: Told<'_>, version: Version) {
        match told {
            Told::Full(full) => self.keep(&full, version),
            Told::Abbreviated => self.abbreviated = true,
            Told::Paused => (self.paused, self.was_paused) = (true, true),
            Told::Resumed => self.paused = false,
        }
    }

    fn keep(&mut self, full: &Full<'_>, version: Version) {
        let at = self.count;
        self.count = at.saturating_add(1);
        let size = full.matches.len().saturating_add(full.instructions.len()).saturating_add(64);
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > MOST_TOLD {
            self.flooded = true;
            return;
        }
        self.updates.push(Update {
            at,
            what: full.what,
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
    /// Asks the switch to tell of every change from now on, and does not wait for its answer:
    /// it comes, or a refusal, with the other answers.
    ///
    /// # Errors
    /// Those of any exchange.
    pub fn watch(&mut self) -> Result<(), Error> {
        if self.monitor.is_some() {
            return Ok(());
        }
        let xid = self.xids(1);
        self.monitor = Some(Box::new(Monitor { asked: xid, ..Monitor::default() }));
        let version = self.version();
        let put = OFPFMF_ADD | OFPFMF_MODIFY | OFPFMF_INSTRUCTIONS;
        let wanted: &[u16] = match version {
            Version::V13 => &[put, OFPFMF_REMOVED | ONFFMF_OWN],
            // OVS 3.0 to 3.7 refuses OFPFMF_NO_ABBREV, takes ONLY_OWN for it
            // (`ofmonitor_report`), and does not leave out others' changes. Who does is asked for
            // those once more, and if ours come as a mere xid a dump has to tell what is gone.
            Version::V14 | Version::V15 => &[put, OFPFMF_REMOVED | OFPFMF_ONLY_OWN, OFPFMF_REMOVED],
        };
        let mut out = self.outgoing(xid, DOING);
        out.add(OFPT_MULTIPART_REQUEST, |body| request(version, wanted, body));
        self.send_all(out)
    }

    /// Whether the switch has agreed to tell. False until its answer has come.
    #[must_use]
    pub fn is_watching(&self) -> bool {
        self.monitor.as_ref().is_some_and(|monitor| monitor.on)
    }

    /// Whether it does not tell what is put at the moment: it had told more than we read.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.monitor.as_ref().is_some_and(|monitor| monitor.paused)
    }

    /// How many changes it has told of.
    #[must_use]
    pub fn update_seq(&self) -> u64 {
        self.monitor.as_ref().map_or(0, |monitor| monitor.count)
    }

    /// What it has told since it was last asked here, in order. Waits for nothing. For when no
    /// other answer is awaited: those are skipped.
    ///
    /// # Errors
    /// Those of any exchange.
    pub fn updates(&mut self) -> Result<Vec<Update>, Error> {
        self.take_in(DOING)?;
        Ok(self.noted())
    }

    /// The same, of what came before the last answer that was read.
    pub fn noted(&mut self) -> Vec<Update> {
        self.monitor.as_mut().map_or_else(Vec::new, |monitor| {
            monitor.bytes = 0;
            std::mem::take(&mut monitor.updates)
        })
    }

    /// Waits until there is something to read, or for so long.
    pub fn wait_for_updates(&self, time: Duration) {
        self.wait_at_most(time);
    }

    /// Whether it was paused since this was last asked. When a pause is over the switch tells
    /// what is there; what came and went meanwhile it never does.
    pub fn take_pause(&mut self) -> bool {
        self.monitor
            .as_mut()
            .is_some_and(|monitor| std::mem::replace(&mut monitor.was_paused, monitor.paused))
    }

    /// Whether it told of our own doing by a mere xid since this was last asked: additions
    /// always, removals on no switch that is known.
    pub fn take_abbreviated(&mut self) -> bool {
        self.monitor.as_mut().is_some_and(|monitor| std::mem::take(&mut monitor.abbreviated))
    }

    /// Whether it has told more than is kept: what it told since is not known.
    #[must_use]
    pub fn is_flooded(&self) -> bool {
        self.monitor.as_ref().is_some_and(|monitor| monitor.flooded)
    }

    /// Whether a message is about what we watch; it is noted then.
    pub(in crate::openflow) fn note(&mut self, message: Message) -> Result<bool, Error> {
        let version = self.version();
        let Some(mut monitor) = self.monitor.take() else { return Ok(false) };
        let noted = if message.xid == monitor.asked {
            // An error: the switch is too old, and tells nothing.
            monitor.on = message.kind == OFPT_MULTIPART_REPLY;
            Ok(true)
        } else if message.xid == 0 && message.version == version.wire() {
            read(version, message.kind, self.body(message), &mut |told| {
                monitor.take_note(told, version);
            })
        } else {
            Ok(false)
        };
        self.monitor = Some(monitor);
        noted.map_err(|what| self.malformed(DOING, what))
    }
}

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
#[cfg(test)]
mod tests;
