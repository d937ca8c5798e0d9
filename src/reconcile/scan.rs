//! Looking at a bridge: which dumps to ask for, and what of them to keep.
//!
//! A dump stalls ovs-vswitchd for about 2 µs a flow. Few dead tokens: dumps filtered by
//! token. Many, or a register value whose exclusivity must be shown: the whole bridge,
//! table by table. Never a large bridge in one request.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use log::debug;

use super::BridgeInput;
use super::ambiguous_entries::{self, BloomFilter};
use crate::judge::input::JudgeInput;
use crate::judge::{BasisFacts, Judge, Learned, Reason, Survey, Verdict};
use crate::model::flow::{Actions, Address, Flow};
use crate::model::register::RegisterSource;
use crate::openflow::{
    AskedDump, Connection, Entry, Error, Filter, FlowKey, RawEntry, filters_for_address,
};

/// Below this a whole bridge costs less than many filtered dumps.
const SMALL_BRIDGE: u64 = 2_000;
/// Above this many dead attachments one look at everything is cheaper.
pub(super) const FEW_DEAD: usize = 4;

/// Ages that differ by less may be one entry's.
const SAME_AGE: Duration = Duration::from_millis(10);

/// An entry that may be stale.
#[derive(Debug)]
pub struct Candidate {
    /// Its bytes.
    pub entry: Entry,
    /// How long after the world was read it was dumped, at most: ages are counted from there.
    lag: Duration,
    /// The same, at least: when the dump was asked for.
    least_lag: Duration,
    /// Which of [`FlowScan::asked`] found it first.
    found_by: usize,
    /// How many changes the switch had told of when the look began: what it told later may be
    /// news of this one.
    pub(super) update_seq: u64,
    /// Another entry looks just the same: see [`super::ambiguous_entries`].
    pub(super) ambiguous: bool,
    /// Perhaps one that was not kept does.
    pub(super) may_be_ambiguous: bool,
}

/// What a look found.
#[derive(Debug)]
pub struct FlowScan {
    /// Entries that may be stale.
    pub candidates: Vec<Candidate>,
    /// What the flows taught.
    pub learned: Learned,
    /// Entries seen.
    pub flows: u64,
    /// What to ask for to see the same again.
    pub asked: Vec<Filter>,
    /// Everything was seen, not just what has a dead token.
    pub full: bool,
}

impl Candidate {
    /// One that was dumped when the switch had told of so many changes.
    #[cfg(test)]
    pub(super) fn seen(entry: Entry, update_seq: u64) -> Self {
        let (lag, least_lag) = (Duration::ZERO, Duration::ZERO);
        Self {
            entry,
            lag,
            least_lag,
            found_by: 0,
            update_seq,
            ambiguous: false,
            may_be_ambiguous: false,
        }
    }

    /// Whether an entry in its place, of this `age` in a dump that was asked for so long after the
    /// world was read, is another one: this one is older by then.
    pub(super) fn is_older_than(&self, age: Duration, asked: Duration) -> bool {
        let grown = self.entry.raw().duration() + asked.saturating_sub(self.lag);
        age + SAME_AGE < grown
    }

    /// What keeps it for each of the dead that it names.
    #[must_use]
    pub fn kept_for(&self, judge: &Judge<'_>) -> Vec<Verdict> {
        self.flow(self.lag).map_or_else(Vec::new, |flow| judge.kept_for(&flow))
    }

    fn flow(&self, lag: Duration) -> Option<Flow> {
        let mut flow = self.entry.flow().ok()?;
        flow.duration = flow.duration.saturating_sub(lag);
        Some(flow)
    }

    /// Its verdict in a case.
    #[must_use]
    pub fn verdict(&self, judge: &Judge<'_>) -> Option<Verdict> {
        self.verdict_of(judge, self.lag)
    }

    /// Whether it is kept for its age only, and may be older than it seems: an answer that is
    /// late makes entries look younger.
    pub(super) fn may_be_older(&self, judge: &Judge<'_>, verdict: &Verdict) -> bool {
        matches!(verdict.reason, Reason::CreatedAfterDeath { .. })
            && self.verdict_of(judge, self.least_lag).is_some_and(|older| older.stale)
    }

    fn verdict_of(&self, judge: &Judge<'_>, lag: Duration) -> Option<Verdict> {
        let mut verdict = judge.verdict(&self.flow(lag)?);
        if verdict.stale && self.ambiguous {
            verdict.stale = false;
            verdict.reason = Reason::Ambiguous;
        }
        Some(verdict)
    }
}

/// Collects what the survey wants kept, over one or more dumps.
struct Collector<'c> {
    survey: Survey<'c>,
    kept: Vec<Candidate>,
    /// Index in `kept`, and the dump it came from.
    places: HashMap<FlowKey<'static>, (usize, usize)>,
    /// What was not kept: a twin of a kept entry may be among it.
    passed: BloomFilter,
    flows: u64,
    since: Instant,
    /// How long after that the dumps were asked for that come now.
    asked: Duration,
    /// See [`Candidate::update_seq`].
    update_seq: u64,
}

impl<'c> Collector<'c> {
    fn new(survey: Survey<'c>, since: Instant) -> Self {
        let (kept, places, passed) = (Vec::new(), HashMap::new(), BloomFilter::nothing());
        let asked = Duration::ZERO;
        Self { survey, kept, places, passed, flows: 0, since, asked, update_seq: 0 }
    }

    /// `dump` numbers the requests: an entry that answers two filters is one entry, two
    /// that answer one filter are two.
    fn see(&mut self, dump: usize, raw: &RawEntry<'_>, flow: &mut Flow) {
        self.flows += 1;
        let lag = self.since.elapsed();
        flow.duration = flow.duration.saturating_sub(lag);
        let key = raw.key();
        if !self.survey.see(flow) {
            self.passed.add(&key);
            return;
        }
        match self.places.get(&key) {
            None => {
                self.places.insert(key.into_owned(), (self.kept.len(), dump));
                self.kept.push(Candidate {
                    entry: raw.to_entry(),
                    lag,
                    least_lag: self.asked,
                    found_by: dump,
                    update_seq: self.update_seq,
                    ambiguous: false,
                    may_be_ambiguous: false,
                });
            }
            Some((index, first)) if *first == dump => {
                if let Some(candidate) = self.kept.get_mut(*index) {
                    candidate.ambiguous = true;
                }
            }
            Some(_) => {}
        }
    }

    fn finish(mut self, asked: Vec<Filter>, full: bool) -> FlowScan {
        for candidate in &mut self.kept {
            // Who asks for outputs to a port is not told of the like that outputs elsewhere.
            let by_output =
                !full && asked.get(candidate.found_by).is_some_and(|f| f.out_port.is_some());
            candidate.may_be_ambiguous = by_output || self.passed.may_have(&candidate.entry.key());
        }
        let learned = self.survey.finish();
        FlowScan { candidates: self.kept, learned, flows: self.flows, asked, full }
    }
}

/// Looks at a bridge as thoroughly as the case needs. `since` is when the world was read.
///
/// # Errors
/// Any error of the connection: a dump that was cut short is no dump.
pub fn scan_bridge(
    connection: &mut Connection,
    input: &BridgeInput,
    thorough: bool,
    since: Instant,
) -> Result<FlowScan, Error> {
    let tables = connection.tables()?;
    scan_tables(connection, input, thorough, since, (&tables, None))
}

/// The same, when it is known how many entries each table has.
pub(super) fn scan_tables(
    connection: &mut Connection,
    input: &BridgeInput,
    thorough: bool,
    since: Instant,
    (tables, guess): (&[(u8, u32)], Option<AskedDump>),
) -> Result<FlowScan, Error> {
    let facts = &input.facts;
    let all = thorough || is_small(tables) || facts.dead.len() > FEW_DEAD || needs_proof(facts);
    let some = if all { None } else { by_token_alone(connection, facts, since, guess)? };
    let mut scan = match some {
        Some(scan) => scan,
        None => whole(connection, facts, tables, since)?,
    };
    ambiguous_entries::settle(connection, facts, &mut scan)?;
    Ok(scan)
}

/// A look by tokens, if no more is needed.
fn by_token_alone(
    connection: &mut Connection,
    facts: &JudgeInput,
    since: Instant,
    guess: Option<AskedDump>,
) -> Result<Option<FlowScan>, Error> {
    let scan = by_token(connection, facts, since, guess)?;
    // What a register value would condemn needs the proof that nobody else loads it.
    let judge = Judge::new(facts, &scan.learned);
    let wanted = scan
        .candidates
        .iter()
        .filter_map(|c| c.entry.flow().ok())
        .any(|flow| judge.would_register_matter(&flow));
    let alone = !wanted && !register_flows_are_there(connection, facts, &scan)?;
    Ok(alone.then_some(scan))
}

fn whole(
    connection: &mut Connection,
    facts: &JudgeInput,
    tables: &[(u8, u32)],
    since: Instant,
) -> Result<FlowScan, Error> {
    let mut survey = Survey::new(facts);
    for bucket in buckets(connection)? {
        survey.see_bucket(&bucket);
    }
    let mut collector = Collector::new(survey, since);
    let asked: Vec<Filter> =
        tables.iter().filter(|(_, active)| *active > 0).map(|(t, _)| Filter::table(*t)).collect();
    collector.update_seq = connection.update_seq();
    let turns = turns(&asked, tables);
    let ends: Vec<usize> = turns
        .iter()
        .scan(0, |end, turn| {
            *end += turn.len();
            Some(*end)
        })
        .collect();
    // Each turn is asked for when the one before it begins to come.
    let (mut current, mut next_asked) = (None, since.elapsed());
    connection.dump_in_turns(&turns, &mut |dump, raw, flow| {
        let turn = ends.partition_point(|end| *end <= dump);
        if current.is_none_or(|current| turn > current) {
            collector.asked = next_asked;
            (current, next_asked) = (Some(turn), since.elapsed());
        }
        collector.see(dump, raw, flow);
    })?;
    Ok(collector.finish(asked, true))
}

/// What the bridge's groups do. If it does not tell, they may do anything.
fn buckets(connection: &mut Connection) -> Result<Vec<Actions>, Error> {
    match connection.buckets() {
        Err(failed) if failed.is_refusal() => {
            debug!("{failed}: register values are no evidence");
            Ok(vec![Actions { beyond: true, unread: true, ..Actions::default() }])
        }
        update_seq => update_seq,
    }
}

/// Tables in one turn: ovs-vswitchd takes 50 messages of a connection at a time.
const MOST_TABLES: usize = 48;

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

/// More than this many dumps of some entries, and whole tables cost less.
pub(super) const FEW_FILTERS: usize = 24;

/// What to ask for to see these again, if they are still there: of what was asked that which
/// found them; after a look at everything, their ports and register values, and the tables
/// of the rest.
pub(super) fn again<'l>(
    scan: &FlowScan,
    candidates: impl Iterator<Item = &'l Candidate> + Clone,
) -> Vec<Filter> {
    if !scan.full {
        let found: BTreeSet<usize> = candidates.map(|c| c.found_by).collect();
        return found.into_iter().filter_map(|n| scan.asked.get(n).cloned()).collect();
    }
    let tables: BTreeSet<u8> = candidates.clone().map(|c| c.entry.table()).collect();
    let tables = || tables.iter().map(|table| Filter::table(*table)).collect();
    let mut filters = Vec::new();
    for candidate in candidates {
        let Ok(Flow { matches, .. }) = candidate.entry.flow() else { return tables() };
        let filter = match (matches.in_port, matches.registers.first()) {
            (Some(port), _) => Filter::in_port(port),
            (None, Some(register)) => {
                Filter::register(register.index, register.value, register.mask)
            }
            (None, None) => Filter::table(candidate.entry.table()),
        };
        if !filters.contains(&filter) {
            filters.push(filter);
        }
        if filters.len() > FEW_FILTERS {
            return tables();
        }
    }
    filters
}

/// What a dead attachment's entries are looked for by.
pub(super) struct Tokens {
    /// Its numbers, now and before.
    pub(super) ports: Vec<u16>,
    /// Its addresses.
    pub(super) addresses: Vec<Address>,
    /// Register, value, mask.
    pub(super) registers: Vec<(u8, u32, u32)>,
}

/// The dumps that find every entry with one of these.
pub(super) fn token_filters(dead: &[Tokens]) -> Vec<Filter> {
    let mut filters = Vec::new();
    for tokens in dead {
        filters.extend(tokens.ports.iter().copied().map(Filter::in_port));
        filters.extend(tokens.addresses.iter().flat_map(filters_for_address));
        filters.extend(
            tokens
                .registers
                .iter()
                .map(|(index, value, mask)| Filter::register(*index, *value, *mask)),
        );
    }
    // The switch looks at every entry for these: last, so that what another filter finds is
    // not looked for by them again after the delete.
    filters.extend(dead.iter().flat_map(|d| &d.ports).copied().map(Filter::out_port));
    filters
}

fn by_token(
    connection: &mut Connection,
    facts: &JudgeInput,
    since: Instant,
    guess: Option<AskedDump>,
) -> Result<FlowScan, Error> {
    let dead = facts.dead.iter().map(|dead| {
        let rule = facts.networks.get(dead.network).map(|network| network.register);
        let mut registers: Vec<_> = dead
            .register
            .zip(rule)
            .map(|(value, rule)| (rule.index, value, rule.mask))
            .into_iter()
            .collect();
        for (value, _) in rule.into_iter().flat_map(|rule| dead.former_values(rule)) {
            registers.push((value.index, value.value, value.mask));
        }
        Tokens {
            ports: dead.ofport.iter().chain(&dead.previous_ofports).copied().collect(),
            addresses: dead.addresses.clone(),
            registers,
        }
    });
    let filters = token_filters(&dead.collect::<Vec<_>>());
    let mut collector = Collector::new(Survey::partial(facts), since);
    collector.update_seq = connection.update_seq();
    let mut see = |dump: usize, raw: &RawEntry<'_>, flow: &mut Flow| collector.see(dump, raw, flow);
    match guess.filter(|guess| guess.filters() == filters) {
        Some(guess) => connection.hear_dump(&guess, &mut see)?,
        None => connection.dump_many(&filters, &mut see)?,
    }
    Ok(collector.finish(filters, false))
}

/// Whether a look by tokens would end with a look at everything: in a network whose register
/// values are known to be its pods' own, a dead pod's value is evidence, and that nobody else
/// loads it must be shown.
fn needs_proof(facts: &JudgeInput) -> bool {
    let mut networks = facts.dead.iter().filter_map(|dead| facts.networks.get(dead.network));
    networks.any(|network| expects_proof(network.register.source, &network.basis))
}

/// See [`needs_proof`].
pub(super) fn expects_proof(source: RegisterSource, basis: &BasisFacts) -> bool {
    match source {
        RegisterSource::Pod | RegisterSource::Learn { distinct_seen: true, shared_seen: false } => {
            true
        }
        RegisterSource::Learn { .. } => basis.found().is_some(),
        _ => false,
    }
}

/// Whether a whole bridge costs less than many filtered dumps.
pub(super) fn is_small(tables: &[(u8, u32)]) -> bool {
    tables.iter().map(|(_, active)| u64::from(*active)).sum::<u64>() <= SMALL_BRIDGE
}

/// Whether flows match a value that this look learned (entries that came after ADD): the
/// filters knew nothing of it.
fn register_flows_are_there(
    connection: &mut Connection,
    facts: &JudgeInput,
    scan: &FlowScan,
) -> Result<bool, Error> {
    let mut filters = Vec::new();
    for (dead, value) in facts.dead.iter().zip(&scan.learned.dead_registers) {
        let Some(network) = facts.networks.get(dead.network) else { continue };
        let rule = network.register;
        let learns = rule.source.is_learned();
        if let Some(value) = value.filter(|value| learns && dead.register != Some(*value)) {
            filters.push(Filter::register(rule.index, value, rule.mask));
        }
    }
    let mut there = false;
    connection.dump_many(&filters, &mut |_, _, _| there = true)?;
    Ok(there)
}
