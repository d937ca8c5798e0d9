//! Entries by reading the replica. What else is asked, and what changes, is the switch's.

use std::time::{Duration, Instant};

use super::dump::filters_of_tokens;
use super::watcher::Watcher;
use super::{Changes, DumpSource, FlowSource, Seen, Tokens, Visit};
use crate::model::flow::Actions;
use crate::openflow::{Error, Filter};

/// A bridge whose entries are read from its replica. Each scan reads to a barrier: what was
/// changed before is in it.
#[derive(Debug)]
pub struct ReplicaSource<'w> {
    watcher: &'w Watcher,
    switch: DumpSource,
}

impl<'w> ReplicaSource<'w> {
    /// Of this watcher's bridge, which is also that of the other source.
    #[must_use]
    pub fn new(watcher: &'w Watcher, switch: DumpSource) -> Self {
        Self { watcher, switch }
    }
}

impl FlowSource for ReplicaSource<'_> {
    fn everything(&self) -> Vec<Filter> {
        vec![Filter::default()]
    }

    fn prefers_scan(&self, _attachments: usize) -> bool {
        false
    }

    /// The watcher waits meanwhile: `each` must be quick.
    ///
    /// # Errors
    /// [`Error::Closed`] if the replica is not in sync: the switch itself is to be asked then.
    fn scan(&mut self, filters: &[Filter], each: &mut Visit<'_>) -> Result<(), Error> {
        let connection = self.switch.connection();
        let doing = "reading the replica";
        let path = || connection.path().to_owned();
        let closed = || Error::Closed { path: path(), doing };
        self.watcher.barrier(connection.deadline()).ok_or_else(closed)?;
        let mut replica = self.watcher.replica();
        if !replica.is_in_sync() {
            return Err(closed());
        }
        let mut failed = None;
        replica.find(filters, Instant::now(), &mut |filter, held| {
            if failed.is_none() {
                failed = each(&Seen { raw: held.entry.raw(), filter, made: held.made }).err();
            }
        });
        failed.map_or(Ok(()), |what| Err(Error::Malformed { path: path(), doing, what }))
    }

    fn query(&mut self, tokens: &[Tokens], each: &mut Visit<'_>) -> Result<Vec<Filter>, Error> {
        let filters = filters_of_tokens(tokens);
        self.scan(&filters, each)?;
        Ok(filters)
    }

    fn buckets(&mut self) -> Result<Vec<Actions>, Error> {
        self.switch.buckets()
    }

    fn is_watching(&self) -> bool {
        self.switch.is_watching()
    }

    fn seq(&self) -> u64 {
        self.switch.seq()
    }

    fn changes_since(&mut self, seq: u64, wait: Duration) -> Result<Changes, Error> {
        self.switch.changes_since(seq, wait)
    }
}
