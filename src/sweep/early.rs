//! A bridge that is spoken to before the database has confirmed it: when an attachment is
//! cleaned up, its record names the bridge that it will be about. Only time is won by it;
//! whatever fails here is done again in its turn, and says then what failed.

use std::path::Path;

use super::{Engine, Target};
use crate::config::bridge_socket;
use crate::openflow::{Asked, Connection, Error, Opening, PortsAndTables};

/// How far it has come.
#[derive(Debug)]
pub(super) enum Early {
    /// Connected.
    Connecting(Opening),
    /// Its ports and tables were asked for.
    Asking(Connection, Asked),
}

impl Early {
    /// Connects, if all targets' records name the same bridge.
    pub(super) fn begin(engine: &Engine<'_>, targets: &[Target]) -> Option<Self> {
        let bridge = targets.first()?.attachment.bridge.as_deref()?;
        if targets.iter().any(|t| t.attachment.bridge.as_deref() != Some(bridge)) {
            return None;
        }
        let path = bridge_socket(&engine.run_dir, bridge);
        Connection::begin(&path, engine.deadline).ok().map(Self::Connecting)
    }

    /// Answers the switch's hello and asks the first questions, if the hello is there.
    pub(super) fn go_on(self) -> Option<Self> {
        match self {
            Self::Connecting(opening) if opening.is_ready() => {
                let mut connection = opening.finish().ok()?;
                let asked = connection.ask_ports_and_tables().ok()?;
                Some(Self::Asking(connection, asked))
            }
            other => Some(other),
        }
    }

    /// The connection to a bridge, its ports and its tables; with the head start, if it is
    /// that bridge's.
    pub(super) fn or_open(
        early: Option<Self>,
        engine: &Engine<'_>,
        bridge: &str,
    ) -> Result<(Connection, PortsAndTables), Error> {
        let path = bridge_socket(&engine.run_dir, bridge);
        match early.filter(|early| early.path() == path).map(Self::finish) {
            Some(Err(_)) if !engine.deadline.passed() => {}
            Some(finished) => return finished,
            None => {}
        }
        let mut connection = Connection::open(&path, engine.deadline)?;
        let heard = connection.ports_and_tables()?;
        Ok((connection, heard))
    }

    fn finish(self) -> Result<(Connection, PortsAndTables), Error> {
        let (mut connection, asked) = match self {
            Self::Asking(connection, asked) => (connection, asked),
            Self::Connecting(opening) => {
                let mut connection = opening.finish()?;
                let asked = connection.ask_ports_and_tables()?;
                (connection, asked)
            }
        };
        let heard = connection.hear_ports_and_tables(asked)?;
        Ok((connection, heard))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Connecting(opening) => opening.path(),
            Self::Asking(connection, _) => connection.path(),
        }
    }
}
