//! A bridge that is spoken to before the database has confirmed it: when an attachment is
//! cleaned up, its record names the bridge that it will be about, and what to look for on
//! it. Only time is won by it; whatever fails here is done again in its turn, and says then
//! what failed.
//!
//! Guarantee: no dump is asked for before the database's answer has come, and a dump that
//! was asked for by a guess is used only if it is the one that the world asks for.

use std::path::Path;

use super::input::register_now;
use super::scan::{FEW_DEAD, Tokens, expects_proof, is_small, token_filters};
use super::snapshot::Answered;
use super::{CleanRequest, CleanTarget, socket_of};
use crate::openflow::{Asked, AskedDump, Connection, Error, Opening, PortsAndTables};

/// How far it has come.
#[derive(Debug)]
pub(super) enum Prefetch {
    /// Connected.
    Connecting(Opening),
    /// Its ports and tables were asked for.
    Asking(Connection, Asked),
    /// They are known, and perhaps a dump was asked for.
    Looking(Connection, PortsAndTables, Option<AskedDump>),
}

/// A bridge that can be looked at.
pub(super) struct Open {
    /// Nothing is under way on it but `guess`.
    pub(super) connection: Connection,
    /// What it said of itself.
    pub(super) known: PortsAndTables,
    /// A dump that was asked for.
    pub(super) guess: Option<AskedDump>,
}

impl Prefetch {
    /// Connects, if all targets' records name the same bridge.
    pub(super) fn begin(request: &CleanRequest<'_>, targets: &[CleanTarget]) -> Option<Self> {
        let bridge = targets.first()?.attachment.bridge.as_deref()?;
        if targets.iter().any(|t| t.attachment.bridge.as_deref() != Some(bridge)) {
            return None;
        }
        let path = socket_of(&request.run_dir, bridge).ok()?;
        let opening = Connection::begin(&path, request.deadline).ok()?;
        Some(Self::Connecting(opening.watching(!request.dry_run)))
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

    /// Asks for the entries of the dead as their records know them, if a look by tokens is
    /// to be expected.
    pub(super) fn guess(
        self,
        request: &CleanRequest<'_>,
        answered: &Answered,
        targets: &[CleanTarget],
    ) -> Option<Self> {
        let (mut connection, asked) = match self.go_on()? {
            Self::Asking(connection, asked) => (connection, asked),
            // The switch is busy: it is waited for later.
            other => return Some(other),
        };
        let known = connection.hear_ports_and_tables(asked).ok()?;
        if request.thorough || targets.len() > FEW_DEAD || is_small(&known.1) {
            return Some(Self::Looking(connection, known, None));
        }
        let mut proof = false;
        let recorded = targets.iter().map(|target| {
            let record = &target.attachment;
            let mut state = answered.network(&record.key.network);
            if let Some((_, config)) =
                request.overlay.as_ref().filter(|(name, _)| *name == record.key.network)
            {
                state.config = config.clone();
            }
            let facts = &state.register;
            let rule = state.config.register_rule(facts.register_told_apart, facts.register_shared);
            proof |= expects_proof(rule.source, &facts.register_basis);
            let value = register_now(&state.config, record, None).map(|r| r.value);
            Tokens {
                ports: record.ofport.into_iter().collect(),
                addresses: record.addresses(),
                registers: value
                    .filter(|v| *v != 0)
                    .map(|v| (rule.index, v, rule.mask))
                    .into_iter()
                    .collect(),
            }
        });
        let recorded: Vec<Tokens> = recorded.collect();
        if proof {
            return Some(Self::Looking(connection, known, None));
        }
        let filters = token_filters(&recorded);
        let guess = connection.ask_dump(filters).ok()?;
        Some(Self::Looking(connection, known, Some(guess)))
    }

    /// The connection to a bridge, its ports and its tables; with the head start, if it is
    /// that bridge's.
    pub(super) fn or_open(
        prefetch: Option<Self>,
        request: &CleanRequest<'_>,
        bridge: &str,
    ) -> Result<Open, Error> {
        let path = socket_of(&request.run_dir, bridge)?;
        match prefetch.filter(|prefetch| prefetch.path() == path).map(Self::finish) {
            Some(Err(_)) if !request.deadline.passed() => {}
            Some(finished) => return finished,
            None => {}
        }
        let mut connection = Connection::open(&path, request.deadline)?;
        if !request.dry_run {
            connection.watch()?;
        }
        let known = connection.ports_and_tables()?;
        Ok(Open { connection, known, guess: None })
    }

    fn finish(self) -> Result<Open, Error> {
        let (mut connection, asked) = match self {
            Self::Looking(connection, known, guess) => {
                return Ok(Open { connection, known, guess });
            }
            Self::Asking(connection, asked) => (connection, asked),
            Self::Connecting(opening) => {
                let mut connection = opening.finish()?;
                let asked = connection.ask_ports_and_tables()?;
                (connection, asked)
            }
        };
        let known = connection.hear_ports_and_tables(asked)?;
        Ok(Open { connection, known, guess: None })
    }

    fn path(&self) -> &Path {
        match self {
            Self::Connecting(opening) => opening.path(),
            Self::Asking(connection, _) | Self::Looking(connection, ..) => connection.path(),
        }
    }
}
