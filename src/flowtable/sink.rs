//! What a plan is carried out on.

use std::fmt::Debug;
use std::sync::Arc;

use super::{DumpSource, FlowSource, Groups, PortList, Prefetch, Seen};
use crate::openflow::{Applied, Connection, Entry, Error, Filter, Update, delete_strict_parallel};
use crate::util::clock::Deadline;

/// Whoever keeps copies of bridges. A trait, so that a program which keeps none does not carry them.
pub trait BridgeTables: Debug + Sync {
    /// A bridge's table, read from its copy if there is one.
    fn source(&self, bridge: &str, switch: DumpSource) -> Box<dyn FlowSink>;

    /// A bridge that is spoken to over a connection which was opened before it was needed, if there is
    /// one; `watching`: it tells what changes.
    fn prefetch(
        &self,
        bridge: &str,
        deadline: Deadline,
        watching: bool,
        groups: Groups,
    ) -> Option<Prefetch>;

    /// Whether a bridge's copy is in sync: reading all of it costs the switch nothing.
    fn is_followed(&self, bridge: &str) -> bool;
}

/// A bridge whose entries can be changed: over a connection to its switch, wherever they are read
/// from.
pub trait FlowSink: FlowSource {
    /// The connection.
    fn connection(&self) -> &Connection;

    /// The same, to be used.
    fn connection_mut(&mut self) -> &mut Connection;

    /// The bridge's ports of now, by number.
    ///
    /// # Errors
    /// Those of any exchange.
    fn ports(&mut self) -> Result<PortList, Error> {
        self.connection_mut().ports().map(Arc::new)
    }

    /// The same as of when a scan was [prepared](FlowSource::prepare), or later.
    ///
    /// # Errors
    /// As [`Self::ports`].
    fn ports_of_scan(&mut self) -> Result<PortList, Error> {
        self.ports()
    }

    /// Deletes exactly these entries.
    ///
    /// # Errors
    /// As [`Connection::delete_strict`].
    fn delete_strict(&mut self, entries: &[&Entry]) -> Result<Applied, Error> {
        self.connection_mut().delete_strict(entries)
    }

    /// These will most likely be deleted next. The switch may take them in while we are busy.
    ///
    /// # Errors
    /// As [`Connection::stage_delete`].
    fn stage_delete(&mut self, entries: &[&Entry]) -> Result<(), Error> {
        self.connection_mut().stage_delete(entries)
    }

    /// Deletes exactly these entries, and right behind it comes a scan of what is to be seen afterwards.
    ///
    /// # Errors
    /// As [`Self::delete_strict`] and [`FlowSource::scan`].
    fn delete_strict_and_scan(
        &mut self,
        entries: &[&Entry],
        filters: &[Filter],
        each: &mut dyn FnMut(&Seen<'_>),
    ) -> Result<Applied, Error>;

    /// So many more connections to delete over. Nothing is lost if there are none.
    fn open_parallel(&self, count: usize, deadline: Deadline) -> Parallel {
        Parallel::beside(self.connection(), count, deadline)
    }

    /// Deletes these over this connection and `parallel`. `meanwhile` is done while they work.
    ///
    /// # Errors
    /// As [`Self::delete_strict`].
    fn delete_beside(
        &mut self,
        parallel: &mut Parallel,
        entries: &[&Entry],
        meanwhile: &mut dyn FnMut(),
    ) -> Result<Applied, Error> {
        delete_strict_parallel(self.connection_mut(), &mut parallel.0, entries, meanwhile)
    }

    /// Deletes once more what resisted, as entries that match on "untagged".
    ///
    /// # Errors
    /// As [`Self::delete_strict`].
    fn delete_vlan_tci(&mut self, entries: &[Entry]) -> Result<(), Error> {
        self.connection_mut().delete_vlan_tci(entries).map(drop)
    }

    /// Adds these entries.
    ///
    /// # Errors
    /// Those of any exchange.
    fn add(&mut self, entries: &[Entry]) -> Result<Applied, Error> {
        self.connection_mut().add(entries)
    }

    /// Returns when everything that was sent before is done, and what it changed was reported.
    ///
    /// # Errors
    /// Those of any exchange.
    fn barrier(&mut self) -> Result<(), Error> {
        self.connection_mut().barrier()
    }

    /// The changes that were reported before the last answer. Reads nothing.
    fn noted(&mut self) -> Vec<Update> {
        self.connection_mut().noted()
    }

    /// Whether changes may have gone unreported since the last call.
    fn has_missed(&mut self) -> bool {
        let connection = self.connection_mut();
        connection.take_pause() || connection.is_flooded()
    }

    /// Whether our own changes were reported without saying what they were, since the last call.
    fn has_abbreviated(&mut self) -> bool {
        self.connection_mut().take_abbreviated()
    }

    /// When the caller's time is over.
    fn deadline(&self) -> Deadline {
        self.connection().deadline()
    }

    /// Another one from now on.
    fn set_deadline(&mut self, deadline: Deadline) {
        self.connection_mut().set_deadline(deadline);
    }
}

/// Connections to one bridge, to delete over.
#[derive(Debug, Default)]
pub struct Parallel(Vec<Connection>);

impl Parallel {
    /// So many more connections to this one's bridge.
    fn beside(connection: &Connection, count: usize, deadline: Deadline) -> Self {
        let begun: Vec<_> =
            (0..count).map_while(|_| Connection::begin(connection.path(), deadline).ok()).collect();
        let open = begun.into_iter().filter_map(|opening| opening.finish().ok());
        Self(open.filter(|other| other.version() == connection.version()).collect())
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Hangs up.
    pub fn close(&mut self) {
        self.0.clear();
    }

    /// Deletes these, divided among the connections; `None`: there is none. `meanwhile` is done
    /// on this thread.
    ///
    /// # Errors
    /// As [`Connection::delete_strict`].
    pub fn delete_strict(
        &mut self,
        entries: &[&Entry],
        meanwhile: impl FnOnce(),
    ) -> Option<Result<Applied, Error>> {
        let (first, others) = self.0.split_first_mut()?;
        Some(delete_strict_parallel(first, others, entries, meanwhile))
    }
}
