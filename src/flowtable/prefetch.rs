//! A bridge that is spoken to before it is certain that it will be asked. Only time is won by it:
//! whatever fails here is done again in its turn, and says then what failed.
//!
//! Guarantee: dumps that were asked for by a guess are used only if they are those that a query
//! asks for.

use std::path::Path;

use super::{DumpSource, FlowSink, FlowSource as _, PortList, Tokens};
use crate::openflow::{Asked, AskedGroups, Connection, Error, Opening};
use crate::util::clock::Deadline;

/// Whether groups are asked for, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Groups {
    /// They will be asked for, most likely.
    Wanted,
    /// They will, and nothing else: the rest is known of a bridge that is followed.
    Only,
    /// They will not.
    Not,
}

/// How far it has come.
#[derive(Debug)]
pub enum Prefetch {
    /// Connected.
    Connecting(Opening, Groups),
    /// Its ports and tables were asked for, and perhaps its groups.
    Asking(Connection, Asked),
    /// They are known, and perhaps dumps were asked for.
    Ready(DumpSource, PortList),
    /// Its groups were asked for, and nothing else.
    Followed(Connection, AskedGroups),
}

impl Prefetch {
    /// Connects.
    #[must_use]
    pub fn begin(path: &Path, deadline: Deadline, watching: bool, groups: Groups) -> Option<Self> {
        let opening = Connection::begin(path, deadline).ok()?;
        Some(Self::Connecting(opening.watching(watching), groups))
    }

    /// Over a connection that is open. `None`: it does not work.
    #[must_use]
    pub fn over(mut connection: Connection, watching: bool, groups: Groups) -> Option<Self> {
        if watching {
            connection.watch().ok()?;
        }
        Self::of(connection, groups).ok()
    }

    /// Answers the switch's hello and asks the first questions, if the hello is there.
    #[must_use]
    pub fn go_on(self) -> Option<Self> {
        match self {
            Self::Connecting(opening, groups) if opening.is_ready() => {
                opening.finish().and_then(|connection| Self::of(connection, groups)).ok()
            }
            other => Some(other),
        }
    }

    /// Asks for the entries of so many attachments, unless a scan of everything is to be expected.
    /// `tokens`: what is known of them; `None`: that is to be expected.
    #[must_use]
    pub fn guess(
        self,
        attachments: usize,
        tokens: impl FnOnce() -> Option<Vec<Tokens>>,
    ) -> Option<Self> {
        // If the switch is busy it is waited for later.
        let asking = self.go_on()?;
        if !matches!(asking, Self::Asking(..)) {
            return Some(asking);
        }
        let (mut source, ports) = asking.finish().ok()?;
        let ports = ports?;
        if !source.prefers_scan(attachments)
            && let Some(tokens) = tokens()
        {
            source.guess(&tokens).ok()?;
        }
        Some(Self::Ready(source, ports))
    }

    /// The bridge and its ports, if they were asked for.
    ///
    /// # Errors
    /// Those of any exchange.
    pub fn finish(self) -> Result<(DumpSource, Option<PortList>), Error> {
        let known = |(source, ports)| (source, Some(ports));
        match self {
            Self::Ready(source, ports) => Ok(known((source, ports))),
            Self::Connecting(opening, groups) => Self::of(opening.finish()?, groups)?.finish(),
            Self::Asking(connection, asked) => DumpSource::hearing(connection, asked).map(known),
            Self::Followed(connection, asked) => {
                DumpSource::hearing_groups(connection, asked).map(|source| (source, None))
            }
        }
    }

    /// Of the bridge's socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Connecting(opening, _) => opening.path(),
            Self::Asking(connection, _) | Self::Followed(connection, _) => connection.path(),
            Self::Ready(source, _) => source.connection().path(),
        }
    }

    /// Asks over this connection.
    ///
    /// # Errors
    /// Those of any exchange.
    pub fn of(mut connection: Connection, groups: Groups) -> Result<Self, Error> {
        if groups == Groups::Only {
            let asked = connection.ask_buckets()?;
            return Ok(Self::Followed(connection, asked));
        }
        let asked = connection.ask_ports_and_tables(groups == Groups::Wanted)?;
        Ok(Self::Asking(connection, asked))
    }
}
