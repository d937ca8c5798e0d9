//! Reading a bridge: which entries are wanted, and what of them to keep.
//!
//! For few dead tokens a [`FlowSource`] is asked for the entries that have one. For many, or where a
//! register value's exclusivity must be shown, it is asked for everything, or for the evidence: what
//! has a token, and what teaches whoever it names.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};

use super::BridgeInput;
use super::ambiguous_entries::{self, BloomFilter};
use crate::flowtable::{
    self, EvidenceReader, FlowSource, Made, Seen, Tokens, filters_of, filters_of_tokens,
};
use crate::judge::input::{DeadId, JudgeInput, Network};
use crate::judge::{BasisFacts, Judge, Learned, Reason, Survey, Verdict};
use crate::model::flow::Flow;
use crate::model::register::RegisterSource;
use crate::openflow::{Entry, Error, Filter, Malformed};
use crate::util::clock::BootTime;

/// An entry that may be stale.
#[derive(Debug)]
pub struct Candidate {
    /// Its bytes.
    pub entry: Entry,
    /// A hash of its key, by the scan's random key.
    key_hash: u64,
    /// When it was made.
    made: Made,
    /// Which of [`FlowScan::asked`] found it first.
    found_by: usize,
    /// The number of the first change that may be news of this one: the source had reported so many
    /// when the scan began.
    pub(super) seq: u64,
    /// For whom it was put back each time it was deleted: see [`super::Contested`].
    pub(super) contested: Vec<DeadId>,
    /// Another entry looks just the same: see [`super::ambiguous_entries`].
    pub(super) ambiguous: bool,
    /// Perhaps one that was not kept does.
    pub(super) may_be_ambiguous: bool,
}

/// How much of a bridge a scan saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extent {
    /// What has a token of the dead.
    Tokens,
    /// All that a verdict on the dead needs. Entries of nobody's ports may be missing.
    Evidence,
    /// The same, and all that names a port which nobody has.
    Dangling,
    /// Everything.
    Everything,
}

impl Extent {
    /// Whether all entries are seen that name a port which nobody has.
    #[must_use]
    pub fn shows_dangling(self) -> bool {
        matches!(self, Self::Dangling | Self::Everything)
    }
}

/// What a scan found.
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
    /// How much of the bridge was seen.
    pub extent: Extent,
}

impl FlowScan {
    /// Whether nothing is missing that shows who has which register value.
    #[must_use]
    pub fn shows_all(&self) -> bool {
        self.extent != Extent::Tokens
    }
}

impl Candidate {
    /// One that was read when a source had reported so many changes.
    #[cfg(test)]
    pub(super) fn seen(entry: Entry, now: BootTime, seq: u64) -> Self {
        let made = Made::by(entry.raw().duration(), now, now);
        let contested = Vec::new();
        Self {
            entry,
            key_hash: 0,
            made,
            found_by: 0,
            seq,
            contested,
            ambiguous: false,
            may_be_ambiguous: false,
        }
    }

    /// Whether an entry in its place is another one, that was put later.
    pub(super) fn is_older_than(&self, there: &Seen<'_>) -> bool {
        self.made.is_before(there.made)
    }

    /// What keeps it for each of the dead that it names.
    #[must_use]
    pub fn kept_for(&self, judge: &Judge<'_>) -> Vec<Verdict> {
        let flow = self.flow();
        flow.map_or_else(Vec::new, |flow| judge.kept_for(&flow))
    }

    fn flow_if_made(&self, made: BootTime) -> Option<Flow> {
        self.entry.flow(made).ok()
    }

    /// What it says, as made at the latest moment: it is judged by that.
    pub(super) fn flow(&self) -> Option<Flow> {
        self.flow_if_made(self.made.latest)
    }

    /// Its verdict.
    #[must_use]
    pub fn verdict(&self, judge: &Judge<'_>) -> Option<Verdict> {
        self.verdict_if_made(judge, self.made.latest)
    }

    /// Whether it is kept for its age only, and may be older than it seems: an answer that is
    /// late makes entries look younger.
    pub(super) fn may_be_older(&self, judge: &Judge<'_>, verdict: &Verdict) -> bool {
        let older = || self.verdict_if_made(judge, self.made.earliest);
        matches!(verdict.reason, Reason::CreatedAfterDeath { .. })
            && older().is_some_and(|older| older.stale)
    }

    fn verdict_if_made(&self, judge: &Judge<'_>, made: BootTime) -> Option<Verdict> {
        let mut verdict = judge.verdict(&self.flow_if_made(made)?);
        let contested = verdict.dead.is_some_and(|dead| self.contested.contains(&dead));
        let kept = [(self.ambiguous, Reason::Ambiguous), (contested, Reason::Contested)];
        if let Some((_, reason)) = kept.into_iter().find(|(is, _)| *is && verdict.stale) {
            (verdict.stale, verdict.reason) = (false, reason);
        }
        Some(verdict)
    }
}

/// Collects what the survey wants kept, over one or more scans.
struct Collector<'c> {
    survey: Survey<'c>,
    kept: Vec<Candidate>,
    /// By the hash of its key where each is in `kept`. If another key has that hash: by the next number.
    places: HashMap<u64, usize>,
    /// Whoever makes entries cannot foresee a hash.
    hash: RandomState,
    /// What was not kept: an entry that looks like a kept one may be among it. None: the source
    /// tells of each whether another one looks like it.
    passed: Option<BloomFilter>,
    flows: u64,
    /// See [`Candidate::seq`].
    seq: u64,
    /// Reused for every entry.
    flow: Flow,
}

impl<'c> Collector<'c> {
    fn new(survey: Survey<'c>, seq: u64) -> Self {
        let passed = Some(BloomFilter::nothing());
        Self { passed, ..Self::of_evidence(survey, seq) }
    }

    fn of_evidence(survey: Survey<'c>, seq: u64) -> Self {
        let (kept, places) = (Vec::new(), HashMap::new());
        let hash = RandomState::new();
        Self { survey, kept, places, hash, passed: None, flows: 0, seq, flow: Flow::default() }
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<(), Malformed> {
        seen.raw.decode(&mut self.flow)?;
        self.flow.made = seen.made.latest;
        self.flows += 1;
        if self.survey.see(&self.flow) {
            self.entry(seen);
        } else if let Some(passed) = &mut self.passed {
            passed.add(self.hash.hash_one(seen.raw.key()));
        }
        Ok(())
    }

    /// Keeps an entry whose key has this hash.
    fn keep(&mut self, key_hash: u64, seen: &Seen<'_>) {
        let mut place = key_hash;
        while let Some(kept) = self.places.get(&place).and_then(|index| self.kept.get_mut(*index)) {
            if kept.entry.key() == seen.raw.key() {
                kept.ambiguous |= kept.found_by == seen.filter;
                return;
            }
            place = place.wrapping_add(1);
        }
        self.places.insert(place, self.kept.len());
        self.kept.push(Candidate {
            entry: seen.raw.to_entry(),
            key_hash,
            made: seen.made,
            found_by: seen.filter,
            seq: self.seq,
            contested: Vec::new(),
            ambiguous: false,
            may_be_ambiguous: false,
        });
    }

    fn finish(mut self, asked: Vec<Filter>, extent: Extent) -> FlowScan {
        for candidate in &mut self.kept {
            let Some(passed) = &self.passed else { continue };
            // A filter for outputs to a port does not find an entry that looks the same and outputs
            // elsewhere.
            let by_output = extent == Extent::Tokens
                && asked.get(candidate.found_by).is_some_and(|f| f.out_port.is_some());
            candidate.may_be_ambiguous = by_output || passed.may_have(candidate.key_hash);
        }
        let learned = self.survey.finish();
        FlowScan { candidates: self.kept, learned, flows: self.flows, asked, extent }
    }
}

impl EvidenceReader for Collector<'_> {
    fn flow(&mut self, flow: &Flow) -> bool {
        self.flows += 1;
        self.survey.see(flow)
    }

    fn entry(&mut self, seen: &Seen<'_>) {
        self.keep(self.hash.hash_one(seen.raw.key()), seen);
    }
}

/// Reads a bridge as far as its input needs, and this far at least.
///
/// # Errors
/// Any error of the source: a scan that was cut short is no scan.
pub fn scan_bridge(
    source: &mut dyn FlowSource,
    input: &BridgeInput,
    least: Extent,
) -> Result<FlowScan, Error> {
    let facts = &input.facts;
    let more = least != Extent::Tokens;
    let more = more || source.prefers_scan(facts.dead.len()) || needs_proof(facts);
    let some = if more { None } else { by_token_alone(source, facts)? };
    let some = match some {
        None if least != Extent::Everything => evidence(source, facts, least)?,
        some => some,
    };
    let mut scan = match some {
        Some(scan) => scan,
        None => whole(source, facts)?,
    };
    ambiguous_entries::settle(source, facts, &mut scan)?;
    Ok(scan)
}

/// The evidence, if that is enough and the source has an index of it.
fn evidence(
    source: &mut dyn FlowSource,
    facts: &JudgeInput,
    least: Extent,
) -> Result<Option<FlowScan>, Error> {
    let Some(mut tokens) = tokens_of_evidence(facts) else { return Ok(None) };
    let buckets = source.buckets()?;
    let mut survey = Survey::new(facts);
    if least == Extent::Dangling {
        let ports = source.ports_of_nobody(&|port| survey.is_dangling(port));
        tokens.push(Tokens { ports, ..Tokens::default() });
    }
    loop {
        buckets.iter().for_each(|bucket| survey.see_bucket(bucket));
        let mut collector = Collector::of_evidence(survey, source.seq());
        let named = tokens.iter().flat_map(Tokens::names);
        let names: Vec<_> = [flowtable::Token::Teaches].into_iter().chain(named).collect();
        if !source.naming(&names, &mut collector)? {
            return Ok(None);
        }
        let scan = collector.finish(Vec::new(), least.max(Extent::Evidence));
        // What matches a value that was learned now.
        let values = scan.learned.values_of_the_dead().into_iter();
        let values = values.map(|token| (token.index, token.value, token.mask));
        let asked = |value: &_| tokens.iter().any(|tokens| tokens.registers.contains(value));
        let learned: Vec<_> = values.filter(|value| !asked(value)).collect();
        if learned.is_empty() {
            return Ok(Some(scan));
        }
        tokens.push(Tokens { registers: learned, ..Tokens::default() });
        survey = Survey::again(facts, &scan.learned);
    }
}

/// What a survey must see beside the flows that [teach](Flow::teaches), to conclude as from everything:
/// those of the dead, and those of everybody whose number changed. `None`: nothing less than
/// everything, for any flow may name an address beside a port that somebody's value waits for.
#[must_use]
pub fn tokens_of_evidence(facts: &JudgeInput) -> Option<Vec<Tokens>> {
    if facts.networks.values().any(Network::waits_for_two) {
        return None;
    }
    let moved = facts.live.values().filter(|live| !live.previous_ofports.is_empty());
    let moved = moved.map(|live| Tokens {
        ports: live.ofport.into_iter().collect(),
        addresses: live.addresses.clone(),
        registers: Vec::new(),
    });
    Some(tokens_of_the_dead(facts).chain(moved).collect())
}

/// A scan by tokens, if no more is needed.
fn by_token_alone(
    source: &mut dyn FlowSource,
    facts: &JudgeInput,
) -> Result<Option<FlowScan>, Error> {
    let (scan, by_index) = by_token(source, facts)?;
    // What a register value would condemn needs the proof that nobody else loads it. Whoever has an
    // index leaves nothing to a sweep, for the rest costs little.
    let judge = Judge::new(facts, &scan.learned);
    let matters = |flow: Flow| {
        judge.would_register_matter(&flow) || by_index && judge.waits_for_the_rest(&flow)
    };
    let wanted = scan.candidates.iter().filter_map(Candidate::flow).any(matters);
    let values = values_to_look_for(facts, &scan.learned);
    let there = || {
        if by_index { Ok(!values.is_empty()) } else { register_flows_are_there(source, values) }
    };
    Ok((!wanted && !there()?).then_some(scan))
}

fn whole(source: &mut dyn FlowSource, facts: &JudgeInput) -> Result<FlowScan, Error> {
    let mut survey = Survey::new(facts);
    for bucket in source.buckets()? {
        survey.see_bucket(&bucket);
    }
    let mut collector = Collector::new(survey, source.seq());
    let asked = source.everything()?;
    source.scan(&asked, &mut |seen| collector.see(seen))?;
    Ok(collector.finish(asked, Extent::Everything))
}

/// What to ask for to see these again, if they are still there: of what was asked that which
/// finds them; after a scan of everything, less than that. An index finds what no filter does.
pub(super) fn again<'l>(
    scan: &FlowScan,
    candidates: impl Iterator<Item = &'l Candidate> + Clone,
) -> Vec<Filter> {
    if scan.shows_all() {
        return filters_of(candidates.map(|candidate| &candidate.entry));
    }
    let finds = |candidate: &&Candidate| {
        scan.asked.iter().position(|filter| filter.matches(&candidate.entry))
    };
    let found: BTreeSet<usize> = candidates.clone().filter_map(|c| finds(&c)).collect();
    let unfound = candidates.filter(|candidate| finds(candidate).is_none());
    let mut filters = filters_of(unfound.map(|candidate| &candidate.entry));
    filters.extend(found.into_iter().filter_map(|n| scan.asked.get(n).cloned()));
    filters
}

/// What the entries of the dead are looked for by.
pub fn tokens_of_the_dead(facts: &JudgeInput) -> impl Iterator<Item = Tokens> {
    facts.dead.values().map(|dead| {
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
    })
}

/// What has a token of the dead, and whether an index found it.
fn by_token(source: &mut dyn FlowSource, facts: &JudgeInput) -> Result<(FlowScan, bool), Error> {
    let tokens: Vec<Tokens> = tokens_of_the_dead(facts).collect();
    // An index finds also what only loads a value of the dead or refers to their ports.
    let names: Vec<_> = tokens.iter().flat_map(Tokens::names).collect();
    let mut collector = Collector::of_evidence(Survey::partial(facts), source.seq());
    if source.naming(&names, &mut collector)? {
        return Ok((collector.finish(filters_of_tokens(&tokens), Extent::Tokens), true));
    }
    let mut collector = Collector::new(Survey::partial(facts), source.seq());
    let asked = source.query(&tokens, &mut |seen| collector.see(seen))?;
    Ok((collector.finish(asked, Extent::Tokens), false))
}

/// Whether a scan by tokens would end with a scan of everything: in a network whose register
/// values are known to be its pods' own, a dead pod's value is evidence, and that nobody else
/// loads it must be shown.
#[must_use]
pub fn needs_proof(facts: &JudgeInput) -> bool {
    let mut networks = facts.dead.values().filter_map(|dead| facts.networks.get(dead.network));
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

/// Whether flows match a value that this scan learned (entries that came after ADD): the tokens
/// knew nothing of it.
fn register_flows_are_there(
    source: &mut dyn FlowSource,
    registers: Vec<(u8, u32, u32)>,
) -> Result<bool, Error> {
    let mut there = false;
    source.query(&[Tokens { registers, ..Tokens::default() }], &mut |_| {
        there = true;
        Ok(())
    })?;
    Ok(there)
}

/// The values of the dead that a scan by tokens has learned: what it looked for knew nothing of
/// them.
#[must_use]
pub fn values_to_look_for(facts: &JudgeInput, learned: &Learned) -> Vec<(u8, u32, u32)> {
    let mut values = Vec::new();
    for (dead, value) in facts.dead.values().zip(learned.dead_registers.values()) {
        let Some(network) = facts.networks.get(dead.network) else { continue };
        let rule = network.register;
        let learns = rule.source.is_learned();
        if let Some(value) = value.filter(|value| learns && dead.register != Some(*value)) {
            values.push((rule.index, value, rule.mask));
        }
    }
    values
}

#[cfg(test)]
mod tests;
