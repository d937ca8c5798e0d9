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
//! | cancel | message 4, ONF, 1870 | a request with command 2 |
//!
//! The headers are in OVS's `include/openflow`; what it makes of them in `lib/ofp-monitor.c` and
//! `ofproto/connmgr.c` (`ofmonitor_report`, `ofmonitor_flush`). Older switches refuse: for 1.4 and
//! later they take the request for OpenFlow 1.0's, in which ours has impossible flags.
//!
//! Told are changes by everybody. Of our own, removals are told in full and additions as a mere
//! xid ("abbreviated"), which is skipped. No flags and no importance are told, of nothing.

use std::time::Duration;

use super::connection::{Connection, Message};
use super::dump::multipart;
use super::entry::{BadEntry, Chosen, Entry};
use super::error::{Error, Malformed};
use super::hello::Version;
use super::port;
use super::wire::{self, ONF, Reader, kind};

const DOING: &str = "watching for changes";
/// OFPMP_FLOW_MONITOR.
const FLOW_MONITOR: u16 = 16;
/// ONFST_FLOW_MONITOR, and ONFT_FLOW_MONITOR_CANCEL.
const ONF_FLOW_MONITOR: u32 = 1870;
const ONF_PAUSED: u32 = 1871;
const ONF_RESUMED: u32 = 1872;
/// OFPMP_EXPERIMENTER.
const EXPERIMENTER: u16 = 0xffff;

// What to tell: the same bits in both dialects.
const ADD: u16 = 1 << 1;
const REMOVED: u16 = 1 << 2;
const MODIFY: u16 = 1 << 3;
const INSTRUCTIONS: u16 = 1 << 4;
/// ONFFMF_OWN: our own changes in full.
const ONF_OWN: u16 = 1 << 5;
/// OFPFMF_ONLY_OWN: no changes but our own. OVS 3.0 to 3.7 refuses OFPFMF_NO_ABBREV, takes this
/// bit for it (`ofmonitor_report`), and does not leave out others' changes. Who does is asked for
/// those once more, and if ours come as a mere xid a dump has to tell what is gone.
const ONLY_OWN: u16 = 1 << 6;
/// OFPFMC_DELETE.
const CANCEL: u8 = 2;

/// A match on nothing.
const EVERYTHING: [u8; 8] = [0, 1, 0, 4, 0, 0, 0, 0];
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

    /// The entry as it was put. Flags and importance are not told: they are taken from the
    /// entry that had its place `before`.
    ///
    /// # Errors
    /// If match or instructions have impossible lengths.
    pub fn entry(&self, before: &Entry) -> Result<Entry, BadEntry> {
        let chosen = Chosen {
            table: self.table,
            priority: self.priority,
            cookie: self.cookie,
            idle_timeout: self.idle_timeout,
            hard_timeout: self.hard_timeout,
            flags: before.raw().flags(),
            importance: before.raw().importance(),
        };
        Entry::assemble(self.version, &chosen, tlvs(&self.matches)?, &self.instructions)
    }
}

/// The fields of a match that [`Told::read`] has cut out.
fn tlvs(matches: &[u8]) -> Result<&[u8], Malformed> {
    let mut reader = Reader::new(matches);
    reader.take(2, "match type")?;
    let length = usize::from(reader.u16("match length")?);
    reader.take(length.saturating_sub(4), "match")
}

/// What a connection was told.
#[derive(Debug, Default)]
pub(super) struct Monitor {
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
        let full = match told {
            Told::Full(full) => full,
            Told::Abbreviated => {
                self.abbreviated = true;
                return;
            }
            Told::Paused => {
                (self.paused, self.was_paused) = (true, true);
                return;
            }
            Told::Resumed => {
                self.paused = false;
                return;
            }
        };
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
            table: full.table,
            priority: full.priority,
            cookie: full.cookie,
            version,
            idle_timeout: full.idle_timeout,
            hard_timeout: full.hard_timeout,
            matches: full.matches.into(),
            instructions: full.instructions.into(),
        });
    }
}

/// One update in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told<'a> {
    Full(Full<'a>),
    /// A change of our own, by its xid.
    Abbreviated,
    Paused,
    Resumed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Full<'a> {
    what: What,
    table: u8,
    priority: u16,
    cookie: u64,
    idle_timeout: u16,
    hard_timeout: u16,
    matches: &'a [u8],
    instructions: &'a [u8],
}

impl<'a> Told<'a> {
    /// Reads one update off a message's body.
    fn read(version: Version, body: &mut Reader<'a>) -> Result<Self, Malformed> {
        let field = "flow update";
        let length = Reader::new(body.rest()).u16(field)?;
        // Shorter than any, and 0 would be read for ever.
        if length < 8 || length % 8 != 0 {
            return Err(Malformed::Length { field, value: length.into() });
        }
        let mut r = body.sub(length.into(), field)?;
        r.take(2, field)?;
        let event = r.u16(field)?;
        // In 1.3's dialect nothing is called "initial", so everything is one less.
        let event = if version == Version::V13 { event.saturating_add(1) } else { event };
        let what = match event {
            // Present when asked (or when told again after a pause), added, changed.
            0 | 1 | 3 => What::Put,
            2 => What::Removed,
            4 => return Ok(Self::Abbreviated),
            5 if version != Version::V13 => return Ok(Self::Paused),
            6 if version != Version::V13 => return Ok(Self::Resumed),
            _ => return Err(Malformed::Unexpected("kind of flow update")),
        };
        let (table, priority, idle_timeout, hard_timeout);
        if version == Version::V13 {
            r.take(2, field)?;
            priority = r.u16("priority")?;
            (idle_timeout, hard_timeout) = (r.u16("timeout")?, r.u16("timeout")?);
            // The match says its length itself.
            r.take(2, field)?;
            table = r.u8("table")?;
            r.take(1, field)?;
        } else {
            table = r.u8("table")?;
            r.take(1, field)?;
            (idle_timeout, hard_timeout) = (r.u16("timeout")?, r.u16("timeout")?);
            priority = r.u16("priority")?;
            r.take(4, field)?;
        }
        let cookie = r.u64("cookie")?;
        let mut head = r;
        if head.u16("match type")? != 1 {
            return Err(Malformed::Unexpected("match type"));
        }
        let length = usize::from(head.u16("match length")?);
        if length < 4 {
            return Err(Malformed::Length { field: "match", value: 0 });
        }
        let matches = r.take(length.saturating_add(wire::padding(length)), "match")?;
        let instructions = r.rest();
        Ok(Self::Full(Full {
            what,
            table,
            priority,
            cookie,
            idle_timeout,
            hard_timeout,
            matches,
            instructions,
        }))
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
        let onf = self.version() == Version::V13;
        let wanted: &[u16] = if onf {
            &[ADD | MODIFY | INSTRUCTIONS, REMOVED | ONF_OWN]
        } else {
            &[ADD | MODIFY | INSTRUCTIONS, REMOVED | ONLY_OWN, REMOVED]
        };
        let mut out = Vec::new();
        self.encode(&mut out, kind::MULTIPART_REQUEST, xid, DOING, |out| {
            monitor_header(onf, out);
            for (id, flags) in (1..).zip(wanted) {
                monitor(onf, id, *flags, 0, out);
            }
            Ok(())
        })?;
        self.send(&out, DOING)
    }

    /// Has it tell no more. What it has told is gone.
    ///
    /// # Errors
    /// Those of any exchange.
    pub fn unwatch(&mut self) -> Result<(), Error> {
        if self.monitor.take().is_none_or(|monitor| !monitor.on) {
            return Ok(());
        }
        let onf = self.version() == Version::V13;
        let mut out = Vec::new();
        if onf {
            let first = self.xids(2);
            for (xid, id) in (first..).zip(1..3_u32) {
                self.encode(&mut out, kind::EXPERIMENTER, xid, DOING, |out| {
                    out.extend_from_slice(&ONF.to_be_bytes());
                    out.extend_from_slice(&ONF_FLOW_MONITOR.to_be_bytes());
                    out.extend_from_slice(&id.to_be_bytes());
                    Ok(())
                })?;
            }
        } else {
            let xid = self.xids(1);
            self.encode(&mut out, kind::MULTIPART_REQUEST, xid, DOING, |out| {
                monitor_header(onf, out);
                for id in 1..4 {
                    monitor(onf, id, 0, CANCEL, out);
                }
                Ok(())
            })?;
        }
        self.send(&out, DOING)
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
    pub fn told(&self) -> u64 {
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
    pub(super) fn note(&mut self, message: Message) -> Result<bool, Error> {
        let version = self.version();
        let Some(mut monitor) = self.monitor.take() else { return Ok(false) };
        let noted = if message.xid == monitor.asked {
            // An error: the switch is too old, and tells nothing.
            monitor.on = message.kind == kind::MULTIPART_REPLY;
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

/// The multipart header of a request.
fn monitor_header(onf: bool, out: &mut Vec<u8>) {
    let kind = if onf { EXPERIMENTER } else { FLOW_MONITOR };
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&[0; 6]);
    if onf {
        out.extend_from_slice(&ONF.to_be_bytes());
        out.extend_from_slice(&ONF_FLOW_MONITOR.to_be_bytes());
    }
}

/// One monitor in it: of every table, every match, every output.
fn monitor(onf: bool, id: u32, flags: u16, command: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(&id.to_be_bytes());
    if onf {
        out.extend_from_slice(&flags.to_be_bytes());
        out.extend_from_slice(&4_u16.to_be_bytes());
        out.extend_from_slice(&port::ANY.to_be_bytes());
        out.extend_from_slice(&[0xff, 0, 0, 0]);
    } else {
        out.extend_from_slice(&port::ANY.to_be_bytes());
        out.extend_from_slice(&port::ANY.to_be_bytes());
        out.extend_from_slice(&flags.to_be_bytes());
        out.extend_from_slice(&[0xff, command]);
    }
    out.extend_from_slice(&EVERYTHING);
}

/// Reads a message that nobody asked for; false if it is not about what we watch.
fn read(
    version: Version,
    kind: u8,
    body: &[u8],
    each: &mut dyn FnMut(Told<'_>),
) -> Result<bool, Malformed> {
    let onf = version == Version::V13;
    let mut r = Reader::new(body);
    if kind == kind::EXPERIMENTER {
        if !onf || r.u32("experimenter")? != ONF {
            return Ok(false);
        }
        match r.u32("experimenter's type")? {
            ONF_PAUSED => each(Told::Paused),
            ONF_RESUMED => each(Told::Resumed),
            _ => return Ok(false),
        }
        return Ok(true);
    }
    let what = if onf { EXPERIMENTER } else { FLOW_MONITOR };
    if kind != kind::MULTIPART_REPLY || Reader::new(body).u16("multipart type")? != what {
        return Ok(false);
    }
    multipart(&mut r, what)?;
    if onf && (r.u32("experimenter")?, r.u32("experimenter's type")?) != (ONF, ONF_FLOW_MONITOR) {
        return Ok(false);
    }
    while !r.is_empty() {
        each(Told::read(version, &mut r)?);
    }
    Ok(true)
}

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
#[cfg(test)]
mod tests;
