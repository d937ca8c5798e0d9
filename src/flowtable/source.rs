//! Entries by reading the replica. What else is asked, what changes and what is to be changed is
//! the switch's.

use std::sync::Arc;
use std::time::Duration;

use super::dump::filters_of_tokens;
use super::index::Token;
use super::replica::{Held, Replica};
use super::watcher::{AskedBarrier, Watcher};
use super::{
    Changes, DumpSource, EvidenceReader, FlowSink, FlowSource, PortList, Seen, Tokens, Visit,
};
use crate::model::flow::Actions;
use crate::openflow::{Applied, Connection, Entry, Error, Filter, Malformed};
use crate::util::clock::BootTime;

/// A bridge whose entries are read from its replica. Each scan reads to a barrier: what was
/// changed before is in it. Who has [prepared](FlowSource::prepare) a scan need not wait for the barrier:
/// the replica is read as it is, and [`is_confirmed`](FlowSource::is_confirmed) tells whether anything was
/// missing. While the replica is not in sync the switch itself is asked.
#[derive(Debug)]
pub struct ReplicaSource {
    watcher: Arc<Watcher>,
    switch: DumpSource,
    prepared: Option<Prepared>,
}

/// A barrier that was asked for before the scan that needs it.
#[derive(Debug)]
struct Prepared {
    asked: AskedBarrier,
    /// The first change that may not be in the replica is one that came after that.
    seq: u64,
    /// What was read before the barrier's answer: the number of the replica's next change, and the ports.
    read: Option<u64>,
    ports: Option<PortList>,
}

impl Drop for ReplicaSource {
    fn drop(&mut self) {
        self.watcher.want_spare();
    }
}

impl ReplicaSource {
    /// Of this watcher's bridge, which is also that of the other source.
    #[must_use]
    pub fn new(watcher: Arc<Watcher>, switch: DumpSource) -> Self {
        Self { watcher, switch, prepared: None }
    }

    /// Reads from the replica; `None`, and nothing was read: it is not in sync. The watcher waits
    /// meanwhile: `read` must be quick.
    fn read<T>(&mut self, read: impl FnOnce(&mut Replica) -> T) -> Option<T> {
        if self.prepared.is_none() {
            self.watcher.barrier(self.switch.deadline())?;
        }
        let mut replica = self.watcher.replica();
        if let Some(prepared) = &mut self.prepared {
            prepared.read.get_or_insert(replica.seq());
        }
        replica.is_in_sync().then(|| read(&mut replica))
    }

    /// Hands out what the replica finds; false: it is not in sync, and nothing was handed out.
    fn find(&mut self, filters: &[Filter], each: &mut Visit<'_>) -> Result<bool, Error> {
        // Whoever asks for nothing need not wait for a barrier.
        if filters.is_empty() {
            return Ok(true);
        }
        let mut visitor = Visitor { each, failed: None };
        let found = self.read(|replica| {
            replica.find(filters, BootTime::now(), &mut |filter, held| visitor.see(filter, &held));
        });
        visitor.failed.map_or(Ok(found.is_some()), |what| Err(self.malformed(what)))
    }

    fn malformed(&self, what: Malformed) -> Error {
        let path = self.switch.connection().path().to_owned();
        Error::Malformed { path, doing: "reading the replica", what }
    }
}

/// Takes entries in until one fails.
struct Visitor<'v, 'e> {
    each: &'v mut Visit<'e>,
    failed: Option<Malformed>,
}

impl Visitor<'_, '_> {
    fn see(&mut self, filter: usize, held: &Held) {
        let seen = Seen { raw: held.entry.raw(), filter, made: held.made };
        // Two look the same: two are found.
        for _ in 0..if held.ambiguous { 2 } else { 1 } {
            if self.failed.is_none() {
                self.failed = (self.each)(&seen).err();
            }
        }
    }
}

impl FlowSource for ReplicaSource {
    fn everything(&mut self) -> Result<Vec<Filter>, Error> {
        self.switch.everything()
    }

    fn prefers_scan(&self, attachments: usize) -> bool {
        !self.watcher.replica().is_in_sync() && self.switch.prefers_scan(attachments)
    }

    fn scan(&mut self, filters: &[Filter], each: &mut Visit<'_>) -> Result<(), Error> {
        if self.find(filters, each)? {
            return Ok(());
        }
        self.switch.scan(filters, each)
    }

    fn query(&mut self, tokens: &[Tokens], each: &mut Visit<'_>) -> Result<Vec<Filter>, Error> {
        let filters = filters_of_tokens(tokens);
        if self.find(&filters, each)? {
            return Ok(filters);
        }
        self.switch.query(tokens, each)
    }

    fn naming(&mut self, tokens: &[Token], reader: &mut dyn EvidenceReader) -> Result<bool, Error> {
        let found = self.read(|replica| replica.naming_any(tokens, BootTime::now(), reader));
        found.map_or(Ok(false), |read| read.map(|()| true).map_err(|what| self.malformed(what)))
    }

    fn ports_of_nobody(&mut self, is_nobodys: &dyn Fn(u16) -> bool) -> Vec<u16> {
        self.read(|replica| replica.ports_of_nobody(is_nobodys)).unwrap_or_default()
    }

    fn buckets(&mut self) -> Result<Vec<Actions>, Error> {
        self.switch.buckets()
    }

    fn is_watching(&self) -> bool {
        self.switch.is_watching()
    }

    fn prepare(&mut self) {
        let seq = self.switch.seq();
        let prepared = |asked| Prepared { asked, seq, read: None, ports: None };
        self.prepared = self.watcher.ask_barrier().map(prepared);
    }

    fn is_confirmed(&mut self) -> bool {
        let Some(Prepared { asked, read, ports, .. }) = self.prepared.take() else { return true };
        let now = asked.wait(self.switch.deadline());
        let has_all = now.is_some() && read.is_none_or(|read| now == Some(read));
        has_all && ports.is_none_or(|ports| self.watcher.ports() == Some(ports))
    }

    fn seq(&self) -> u64 {
        self.prepared.as_ref().map_or_else(|| self.switch.seq(), |prepared| prepared.seq)
    }

    fn changes_since(&mut self, seq: u64, wait: Duration) -> Result<Changes, Error> {
        self.switch.changes_since(seq, wait)
    }
}

impl FlowSink for ReplicaSource {
    fn connection(&self) -> &Connection {
        self.switch.connection()
    }

    fn ports(&mut self) -> Result<PortList, Error> {
        let deadline = self.switch.deadline();
        let heard = match self.prepared.take() {
            Some(prepared) => prepared.asked.wait(deadline),
            None => self.watcher.barrier(deadline),
        };
        match heard.and_then(|_| self.watcher.ports()) {
            Some(ports) => Ok(ports),
            None => self.switch.ports(),
        }
    }

    fn ports_of_scan(&mut self) -> Result<PortList, Error> {
        let known = self.watcher.ports();
        match self.prepared.as_mut().zip(known) {
            Some((prepared, known)) => {
                prepared.ports = Some(Arc::clone(&known));
                Ok(known)
            }
            None => self.ports(),
        }
    }

    fn connection_mut(&mut self) -> &mut Connection {
        self.switch.connection_mut()
    }

    /// The switch has done the deletes when the scan reads to its barrier.
    fn delete_strict_and_scan(
        &mut self,
        entries: &[&Entry],
        filters: &[Filter],
        each: &mut dyn FnMut(&Seen<'_>),
    ) -> Result<Applied, Error> {
        if !self.watcher.replica().is_in_sync() {
            return self.switch.delete_strict_and_scan(entries, filters, each);
        }
        let applied = self.switch.delete_strict(entries)?;
        self.scan(filters, &mut |seen| {
            each(seen);
            Ok(())
        })?;
        Ok(applied)
    }
}
