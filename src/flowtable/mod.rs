//! A bridge's flow table: what a plan reads entries from ([`FlowSource`]), and what it is carried
//! out on ([`FlowSink`]).
//!
//! [`DumpSource`] is one of both, which asks the switch each time. A source hands entries out;
//! which of them are wanted is decided by whoever asks. [`Watcher`](watcher::Watcher) keeps a copy
//! that follows the switch.
//!
//! | file | job |
//! | --- | --- |
//! | `dump` | a source that asks the switch: which dumps, and in which turns |
//! | `index` | which entries of a replica name a token |
//! | [`memory`] | whether a replica fits into the memory that may be used |
//! | `prefetch` | a bridge that is spoken to before it is certain that it will be asked |
//! | [`replica`] | a copy of the table that follows the switch. Pure |
//! | `replicas` | those of a node's bridges |
//! | `sink` | deletes, additions, and what the switch reports meanwhile |
//! | `source` | a source that reads a replica |
//! | `spare` | a connection that waits for the next clean-up |
//! | [`watcher`] | keeps a bridge's replica: follows the switch, builds anew after a doubt |
//! | `watchlist` | which changes of a replica are news for whoever follows the bridge |

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::model::flow::{Actions, Address, Flow};
use crate::openflow::{Entry, Error, Filter, Malformed, RawEntry, Update};
use crate::util::clock::BootTime;

mod dump;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod index;
pub mod memory;
mod prefetch;
pub mod replica;
mod replicas;
mod sink;
mod source;
mod spare;
pub mod watcher;
mod watchlist;

pub use dump::{DumpSource, filters_of_tokens};
pub use index::Token;
pub use prefetch::{Groups, Prefetch};
pub use replicas::{Limits, ReplicaStatus, Replicas};
pub use sink::{BridgeTables, FlowSink, Parallel};
pub use source::ReplicaSource;
pub use watchlist::{Arrived, News};

/// A bridge's ports, by number. A list that is handed out again is quickly found to be the same.
pub type PortList = Arc<Vec<(u16, String)>>;

/// Ages that differ by less may be one entry's.
const SAME_AGE: Duration = Duration::from_millis(10);

/// More than this many filters, and whole tables cost less.
pub const FEW_FILTERS: usize = 24;

/// When an entry was made. An answer that is late makes its entries look younger than they are, so
/// this is an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    /// Not before.
    pub earliest: BootTime,
    /// Not after.
    pub latest: BootTime,
}

impl Made {
    /// Of an entry that had this age in an answer that was asked for and came at these times.
    #[must_use]
    pub fn by(age: Duration, asked: BootTime, came: BootTime) -> Self {
        Self { earliest: asked - age, latest: came - age }
    }

    /// Whether this entry was certainly made before the other one.
    #[must_use]
    pub fn is_before(self, other: Self) -> bool {
        self.latest + SAME_AGE < other.earliest
    }
}

/// An entry that a source hands out.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'e> {
    /// Its bytes.
    pub raw: RawEntry<'e>,
    /// Which of the filters found it. An entry that several find is handed out several times; two
    /// that one finds are two entries.
    pub filter: usize,
    /// When it was made.
    pub made: Made,
}

/// Takes in the entries that a source hands out. Its error ends the scan.
pub type Visit<'v> = dyn FnMut(&Seen<'_>) -> Result<(), Malformed> + 'v;

/// Reads evidence: what each entry says, and only the entries that it wants.
pub trait EvidenceReader {
    /// Takes in what an entry says. True: the entry is wanted, too.
    fn flow(&mut self, flow: &Flow) -> bool;

    /// Takes in the entry that was wanted.
    fn entry(&mut self, seen: &Seen<'_>);
}

/// What an attachment's entries are looked for by.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    /// Its numbers, now and before.
    pub ports: Vec<u16>,
    /// Its addresses.
    pub addresses: Vec<Address>,
    /// Register, value, mask.
    pub registers: Vec<(u8, u32, u32)>,
}

impl Tokens {
    /// What an entry may name of them.
    pub fn names(&self) -> impl Iterator<Item = Token> {
        let Self { ports, addresses, registers } = self;
        let ports = ports
            .iter()
            .flat_map(|port| [Token::InPort(*port), Token::Output(*port), Token::Reference(*port)]);
        let registers = registers.iter().flat_map(|(index, value, mask)| {
            let (index, value, mask) = (*index, *value, *mask);
            [Token::Register { index, value, mask }, Token::Load { index, value, mask }]
        });
        ports.chain(addresses.iter().copied().map(Token::Address)).chain(registers)
    }
}

/// Whether a source reports every change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reporting {
    /// It does.
    Complete,
    /// It reports no additions at the moment, and will report later what is there then.
    Paused,
    /// Some changes are lost.
    Lost,
}

/// What has changed.
#[derive(Debug)]
pub struct Changes {
    /// In the order in which it happened.
    pub updates: Vec<Update>,
    /// Whether that is all.
    pub reporting: Reporting,
}

/// What a plan reads a bridge's entries from.
pub trait FlowSource: Send {
    /// The filters that together find every entry.
    ///
    /// # Errors
    /// Those of any exchange.
    fn everything(&mut self) -> Result<Vec<Filter>, Error>;

    /// Whether a scan of everything costs no more than a query for this many attachments.
    fn prefers_scan(&self, attachments: usize) -> bool;

    /// Hands out what each of these filters finds.
    ///
    /// # Errors
    /// Any: a scan that was cut short is no scan. An entry's absence proves nothing then.
    fn scan(&mut self, filters: &[Filter], each: &mut Visit<'_>) -> Result<(), Error>;

    /// Hands out the entries that match or output to one of these tokens, and returns the filters
    /// that find the same again. There is none for what only loads a value or refers to a port.
    ///
    /// # Errors
    /// As [`Self::scan`].
    fn query(&mut self, tokens: &[Tokens], each: &mut Visit<'_>) -> Result<Vec<Filter>, Error>;

    /// Hands out the entries that name one of these: each once, or twice if another one looks like
    /// it. False, and nothing is handed out: it has no index of them. A switch would look at every
    /// entry for each.
    ///
    /// # Errors
    /// As [`Self::scan`].
    fn naming(&mut self, tokens: &[Token], reader: &mut dyn EvidenceReader) -> Result<bool, Error> {
        let _ = (tokens, reader);
        Ok(false)
    }

    /// The ports that its entries name and of which this is true: nobody has them. A source that
    /// follows the switch tells from then on when an entry of such a port comes or goes. Empty where
    /// there is no index.
    fn ports_of_nobody(&mut self, is_nobodys: &dyn Fn(u16) -> bool) -> Vec<u16> {
        let _ = is_nobodys;
        Vec::new()
    }

    /// What the bridge's groups do.
    ///
    /// # Errors
    /// As [`Self::scan`].
    fn buckets(&mut self) -> Result<Vec<Actions>, Error>;

    /// A scan is to come soon, or a look at the ports. A source that has to be brought up to date for
    /// it may begin. Until [`is_confirmed`](Self::is_confirmed) it hands out what it knows already.
    fn prepare(&mut self) {}

    /// Waits until the source is as up to date as it was [prepared](Self::prepare) for. False: what was
    /// read since then has to be read again.
    fn is_confirmed(&mut self) -> bool {
        true
    }

    /// Whether changes are reported at all.
    fn is_watching(&self) -> bool;

    /// The number of the next change. What is scanned from now on, or was
    /// [prepared](Self::prepare) before, has all changes before it.
    fn seq(&self) -> u64;

    /// The changes from this number on that were not handed out yet. Waits for the first one for
    /// this time at most.
    ///
    /// # Errors
    /// Those of any exchange.
    fn changes_since(&mut self, seq: u64, wait: Duration) -> Result<Changes, Error>;
}

/// The filters that find these entries again, if they are still there: their ports and register
/// values, and the tables of the rest.
#[must_use]
pub fn filters_of<'e>(entries: impl Iterator<Item = &'e Entry> + Clone) -> Vec<Filter> {
    let tables: BTreeSet<u8> = entries.clone().map(Entry::table).collect();
    let tables = || tables.iter().map(|table| Filter::table(*table)).collect();
    let mut filters: Vec<Filter> = Vec::new();
    for entry in entries {
        if filters.iter().any(|filter| filter.matches(entry)) {
            continue;
        }
        let Ok(Flow { matches, .. }) = entry.flow(BootTime::default()) else { return tables() };
        filters.push(match (matches.in_port, matches.registers.first()) {
            (Some(port), _) => Filter::in_port(port),
            (None, Some(register)) => {
                Filter::register(register.index, register.value, register.mask)
            }
            (None, None) => Filter::table(entry.table()),
        });
        if filters.len() > FEW_FILTERS {
            return tables();
        }
    }
    filters
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// An answer took 100 ms: an entry that was 50 ms old in it is as old as that at one moment
    /// between.
    #[test]
    fn a_late_answer_makes_an_interval() {
        let asked = BootTime::now();
        let came = asked + ms(100);
        let made = Made::by(ms(50), asked, came);
        assert_eq!((made.earliest, made.latest), (asked - ms(50), came - ms(50)));
        // In a later answer.
        let later = |age| Made::by(ms(age), came + ms(10), came + ms(20));
        assert!(!made.is_before(later(60)), "that one itself, if its first answer was slow");
        assert!(!made.is_before(later(51)), "ages are not that exact");
        assert!(made.is_before(later(40)));
    }
}
