//! Entries by asking the switch for them: which dumps, and in which turns.
//!
//! A dump stalls ovs-vswitchd for about 2 µs an entry. For few tokens: dumps filtered by token.
//! For many, or where everything must be seen: table by table. Never a large bridge in one
//! request.

use std::sync::Arc;
use std::time::Duration;

use log::debug;

use super::{Changes, FlowSink, FlowSource, Made, PortList, Reporting, Seen, Tokens, Visit};
use crate::model::flow::Actions;
use crate::openflow::{
    Applied, Asked, AskedDump, AskedGroups, Connection, Entry, Error, Filter, filters_for_address,
};
use crate::util::clock::BootTime;

/// Below this many entries a whole bridge costs less than many filtered dumps.
const SMALL_BRIDGE: u64 = 2_000;
/// Above this many attachments one scan of everything is cheaper.
const FEW_ATTACHMENTS: usize = 4;
/// Tables in one turn: ovs-vswitchd takes 50 messages of a connection at a time.
const MOST_TABLES: usize = 48;

/// A connection to a bridge's switch.
#[derive(Debug)]
pub struct DumpSource {
    connection: Connection,
    /// Each table and how many entries it had, if that was asked.
    tables: Option<Vec<(u8, u32)>>,
    /// What the groups do, if that was asked for with the tables. For one scan: the next one asks.
    groups: Option<Vec<Actions>>,
    guess: Option<Guess>,
}

/// Dumps that were asked for because they will most likely be wanted.
#[derive(Debug)]
pub(super) struct Guess {
    dumps: AskedDump,
    asked: BootTime,
}

impl DumpSource {
    /// Over this connection, with the bridge's ports.
    ///
    /// # Errors
    /// Those of any exchange.
    pub fn over(mut connection: Connection) -> Result<(Self, PortList), Error> {
        let asked = connection.ask_ports_and_tables(false)?;
        Self::hearing(connection, asked)
    }

    /// The same with what the bridge's groups do, in one exchange.
    ///
    /// # Errors
    /// Those of any exchange.
    pub fn with_groups(mut connection: Connection) -> Result<(Self, PortList), Error> {
        let asked = connection.ask_ports_and_tables(true)?;
        Self::hearing(connection, asked)
    }

    /// When this was asked.
    pub(super) fn hearing(
        mut connection: Connection,
        asked: Asked,
    ) -> Result<(Self, PortList), Error> {
        let ((ports, tables), groups) = connection.hear_ports_and_tables(asked)?;
        let (tables, groups) = (Some(tables), groups.map(known).transpose()?);
        Ok((Self { connection, tables, groups, guess: None }, Arc::new(ports)))
    }

    /// Of a bridge that is followed: nothing but its groups was asked.
    pub(super) fn hearing_groups(
        mut connection: Connection,
        asked: AskedGroups,
    ) -> Result<Self, Error> {
        let groups = Some(known(connection.hear_buckets(asked))?);
        Ok(Self { connection, tables: None, groups, guess: None })
    }

    /// Without asking the switch for its tables.
    #[cfg(test)]
    pub(crate) fn bare(connection: Connection) -> Self {
        Self { connection, tables: Some(Vec::new()), groups: None, guess: None }
    }

    /// Asks for the entries with these tokens and does not wait.
    pub(super) fn guess(&mut self, tokens: &[Tokens]) -> Result<(), Error> {
        let asked = BootTime::now();
        let dumps = self.connection.ask_dump(filters_of_tokens(tokens))?;
        self.guess = Some(Guess { dumps, asked });
        Ok(())
    }

    /// Whole tables in turns: each is asked for when the one before it begins to come.
    fn scan_tables(&mut self, filters: &[Filter], each: &mut Visit<'_>) -> Result<(), Error> {
        let turns = turns(filters, self.tables.as_deref().unwrap_or_default());
        let ends: Vec<usize> = turns
            .iter()
            .scan(0, |end, turn| {
                *end += turn.len();
                Some(*end)
            })
            .collect();
        let (mut current, mut asked, mut next_asked) = (None, BootTime::now(), BootTime::now());
        self.connection.dump_in_turns(&turns, &mut |filter, raw| {
            let came = BootTime::now();
            let turn = ends.partition_point(|end| *end <= filter);
            if current.is_none_or(|current| turn > current) {
                (current, asked, next_asked) = (Some(turn), next_asked, came);
            }
            each(&Seen { raw: *raw, filter, made: Made::by(raw.duration(), asked, came) })
        })
    }
}

/// A switch that does not say what its groups do: they may do anything.
fn known(buckets: Result<Vec<Actions>, Error>) -> Result<Vec<Actions>, Error> {
    match buckets {
        Err(failed) if failed.is_refusal() => {
            debug!("{failed}: register values are no evidence");
            Ok(vec![Actions { beyond: true, unread: true, ..Actions::default() }])
        }
        buckets => buckets,
    }
}

impl FlowSource for DumpSource {
    fn everything(&mut self) -> Result<Vec<Filter>, Error> {
        let tables = match self.tables.take() {
            Some(tables) => tables,
            None => self.connection.tables()?,
        };
        let filled = tables.iter().filter(|(_, active)| *active > 0);
        let filters = filled.map(|(table, _)| Filter::table(*table)).collect();
        self.tables = Some(tables);
        Ok(filters)
    }

    fn prefers_scan(&self, attachments: usize) -> bool {
        let Some(tables) = &self.tables else { return true };
        let entries: u64 = tables.iter().map(|(_, active)| u64::from(*active)).sum();
        entries <= SMALL_BRIDGE || attachments > FEW_ATTACHMENTS
    }

    fn scan(&mut self, filters: &[Filter], each: &mut Visit<'_>) -> Result<(), Error> {
        if filters.is_empty() {
            return Ok(());
        }
        if filters.iter().all(|filter| filter.table.map(Filter::table).as_ref() == Some(filter)) {
            return self.scan_tables(filters, each);
        }
        let asked = BootTime::now();
        self.connection.dump_each(filters, &mut |filter, raw| {
            let made = Made::by(raw.duration(), asked, BootTime::now());
            each(&Seen { raw: *raw, filter, made })
        })
    }

    fn query(&mut self, tokens: &[Tokens], each: &mut Visit<'_>) -> Result<Vec<Filter>, Error> {
        let filters = filters_of_tokens(tokens);
        match self.guess.take().filter(|guess| guess.dumps.filters() == filters) {
            Some(Guess { dumps, asked }) => {
                self.connection.hear_dump(&dumps, &mut |filter, raw| {
                    let made = Made::by(raw.duration(), asked, BootTime::now());
                    each(&Seen { raw: *raw, filter, made })
                })?
            }
            None => self.scan(&filters, each)?,
        }
        Ok(filters)
    }

    /// If the switch does not tell, they may do anything.
    fn buckets(&mut self) -> Result<Vec<Actions>, Error> {
        self.groups.take().map_or_else(|| known(self.connection.buckets()), Ok)
    }

    fn is_watching(&self) -> bool {
        self.connection.is_watching()
    }

    fn seq(&self) -> u64 {
        self.connection.update_seq()
    }

    fn changes_since(&mut self, seq: u64, wait: Duration) -> Result<Changes, Error> {
        if !wait.is_zero() {
            self.connection.wait_for_updates(wait);
        }
        let mut updates = self.connection.updates()?;
        updates.retain(|update| update.at >= seq);
        let reporting = match (self.connection.is_paused(), self.connection.is_flooded()) {
            (true, _) => Reporting::Paused,
            (_, true) => Reporting::Lost,
            _ => Reporting::Complete,
        };
        Ok(Changes { updates, reporting })
    }
}

impl FlowSink for DumpSource {
    fn connection(&self) -> &Connection {
        &self.connection
    }

    fn connection_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }

    fn delete_strict_and_scan(
        &mut self,
        entries: &[&Entry],
        filters: &[Filter],
        each: &mut dyn FnMut(&Seen<'_>),
    ) -> Result<Applied, Error> {
        let asked = BootTime::now();
        self.connection.delete_strict_and_dump(entries, filters, &mut |raw| {
            let made = Made::by(raw.duration(), asked, BootTime::now());
            each(&Seen { raw: *raw, filter: 0, made });
        })
    }
}

/// Tables to ask for together: one large one, or several that are small, for one turn of
/// the switch.
fn turns<'f>(asked: &'f [Filter], tables: &[(u8, u32)]) -> Vec<&'f [Filter]> {
    let entries = |filter: &Filter| {
        let active = tables.iter().find(|(table, _)| Some(*table) == filter.table);
        active.map_or(0, |(_, active)| u64::from(*active))
    };
    let (mut turns, mut start, mut sum) = (Vec::new(), 0, 0);
    for (n, filter) in asked.iter().enumerate() {
        sum += entries(filter);
        if n > start && (sum > SMALL_BRIDGE || n - start == MOST_TABLES) {
            turns.extend(asked.get(start..n));
            (start, sum) = (n, entries(filter));
        }
    }
    turns.extend(asked.get(start..).filter(|rest| !rest.is_empty()));
    turns
}

/// The dumps that find every entry that matches or outputs to one of these.
#[must_use]
pub fn filters_of_tokens(all: &[Tokens]) -> Vec<Filter> {
    let mut filters = Vec::new();
    for tokens in all {
        filters.extend(tokens.ports.iter().copied().map(Filter::in_port));
        filters.extend(tokens.addresses.iter().flat_map(filters_for_address));
        let registers = tokens.registers.iter();
        filters
            .extend(registers.map(|(index, value, mask)| Filter::register(*index, *value, *mask)));
    }
    // The switch looks at every entry for these: last, so that what another filter finds is
    // not looked for by them again after the delete.
    filters.extend(all.iter().flat_map(|tokens| &tokens.ports).copied().map(Filter::out_port));
    filters
}
