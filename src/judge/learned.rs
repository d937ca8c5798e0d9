//! What a dump shows of register values: whose they are, and how a
//! network uses them.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt as _, HashSet, HashSetExt as _};

use super::basis::{self, Basis, BasisFacts};
use super::carried::Carried;
use super::claims::{Claim, Claims, Owner, Seen};
use super::input::{Dead, DeadId, JudgeInput, LiveId, LiveRegister, Network, NetworkId};
use super::owners::TokenOwners;
use super::proof::{Evidence, Prover};
use super::tokens::{Field, Index, RegisterToken, Token, is_its_own};
use super::vlans::{Relation, Vlans};
use crate::model::flow::{Flow, RegisterRange};
use crate::model::register::RegisterSource;
use crate::model::table::Table;
use crate::model::workload::Member;
use crate::util::clock::BootTime;

/// What a network is seen to do with its register, to be remembered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetworkFacts {
    /// Two pods of one workload had different values.
    pub distinct_seen: bool,
    /// Two attachments had the same value while both lived.
    pub shared_seen: bool,
}

/// What a pod of a workload showed, while the network still waits for two that differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// In which network.
    pub network: NetworkId,
    /// Which pod.
    pub member: Member,
    /// Its register value. `None`: its own flows show another than its record, so the value has
    /// moved while the pod lived (with a label, say), which a pod's own does not.
    pub value: Option<u32>,
}

/// Two attachments that had one value while both were alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sharers {
    /// The value.
    pub value: u32,
    /// The two.
    pub owners: [Owner; 2],
}

/// What phase 1 found out.
#[derive(Debug, Default)]
pub struct Learned {
    /// Per dead attachment: its value, recorded or learned.
    pub dead_registers: Table<DeadId, Option<u32>>,
    /// Per live owner: the one value that its own flows load, if it is one.
    pub live_registers: Table<LiveId, Option<u32>>,
    /// Per network: what was remembered, and what this dump adds.
    pub networks: Table<NetworkId, NetworkFacts>,
    /// The same of which token values are computed from.
    pub basis_facts: Table<NetworkId, BasisFacts>,
    /// What pods of workloads showed, in networks that wait for that.
    pub shown: Vec<Shown>,
    /// Registers that outputs take their port from.
    pub output_registers: Vec<RegisterRange>,
    /// Who owns each token of the input. `None`: nothing was surveyed.
    pub(super) owners: Option<Arc<TokenOwners>>,
    /// Every flow of the bridge was seen.
    pub(super) complete: bool,
    pub(super) overflow: bool,
    pub(super) vlans: Vlans,
    pub(super) carried: Carried,
    pub(super) evidence: Table<DeadId, Evidence>,
    /// Per network: what its learned values are computed from.
    pub(super) held: Table<NetworkId, Option<Basis>>,
    pub(super) values: HashMap<RegisterToken, Claims>,
    /// Per live owner: its own flows show a value, or several.
    pub(super) known: Table<LiveId, bool>,
}

impl Learned {
    /// Whether every flow of the bridge was seen.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Register values that a dead attachment has, or may turn out to have: flows that match one
    /// may be stale.
    #[must_use]
    pub fn values_of_the_dead(&self) -> BTreeSet<RegisterToken> {
        let claimed = self.values.iter().filter(|(_, claims)| claims.dead().next().is_some());
        let mut values: BTreeSet<RegisterToken> = claimed.map(|(token, _)| *token).collect();
        for evidence in self.evidence.values() {
            values.extend(evidence.token);
            values.extend(evidence.previous_ofports.iter().map(|(token, _)| *token));
        }
        values
    }

    /// The VLANs that a dead attachment's own flows show.
    #[must_use]
    pub fn shown_vlans(&self, dead: DeadId) -> &[u16] {
        self.vlans.shown(dead)
    }

    /// Which VLAN a flow is about, by its match or by a register that carries it.
    pub(super) fn relation(&self, i: DeadId, dead: &Dead, flow: &Flow) -> Relation {
        self.vlans.relation(i, dead, flow.matches.vlan.or_else(|| self.carried.vlan(flow)))
    }

    /// A dead attachment's register values that are computed from a token, and from which.
    pub(super) fn bases(&self, dead: DeadId) -> Vec<(RegisterToken, Token)> {
        let Some(evidence) = self.evidence.get(dead) else { return Vec::new() };
        let now = evidence.token.zip(evidence.basis);
        let previous_ofports =
            evidence.previous_ofports.iter().map(|(value, port)| (*value, Token::Port(*port)));
        now.into_iter().chain(previous_ofports).collect()
    }

    /// The token that one of them is computed from.
    pub(super) fn basis(&self, dead: DeadId, value: RegisterToken) -> Option<Token> {
        let bases = self.bases(dead);
        bases.into_iter().find(|(known, _)| *known == value).map(|(_, basis)| basis)
    }

    /// The live owners of a register value; `None`: somebody whom we do not know.
    pub(super) fn owners(&self, token: RegisterToken) -> Option<Vec<LiveId>> {
        match self.values.get(&token) {
            Some(claims) if claims.foreign => None,
            Some(claims) => Some(claims.live().collect()),
            None => Some(Vec::new()),
        }
    }

    /// Whether a network is known to share register values by others than these of the
    /// living, who turned out to be dead: their span had ended.
    #[must_use]
    pub fn shared_without(
        &self,
        input: &JudgeInput,
        network: NetworkId,
        ghosts: &[LiveId],
    ) -> bool {
        input.networks.get(network).is_some_and(|n| remembered(n).shared_seen)
            || self.sharers(input, network, ghosts).is_some()
    }

    /// Two attachments of a network, none of them among `without`, that
    /// had one value while both were alive.
    #[must_use]
    pub fn sharers(
        &self,
        input: &JudgeInput,
        network: NetworkId,
        without: &[LiveId],
    ) -> Option<Sharers> {
        sharers(input, network, &self.values, without)
    }

    /// The living whose own flows show a value, each with the field.
    pub(super) fn showing(&self) -> HashSet<(LiveId, Field)> {
        let of = |(token, claims): (&RegisterToken, &Claims)| {
            let field = Field { index: token.index, mask: token.mask };
            let own = claims.claims.iter().filter(|claim| claim.own);
            let live = own.filter_map(move |claim| match claim.owner {
                Owner::Live(l) => Some((l, field)),
                Owner::Dead(_) => None,
            });
            live.collect::<Vec<_>>()
        };
        self.values.iter().flat_map(of).collect()
    }

    /// Whether anybody's value in a register field is known: if not, as far as everything was
    /// seen, the field tells no pods apart.
    pub(super) fn is_used(&self, field: Field) -> bool {
        let of_field =
            |token: &RegisterToken| Field { index: token.index, mask: token.mask } == field;
        !self.complete
            || self.values.keys().any(of_field)
            || self.evidence.values().any(|e| e.token.as_ref().is_some_and(of_field))
    }

    /// Whether somebody alive is known to have a register value.
    pub(super) fn is_live(&self, token: RegisterToken) -> bool {
        self.overflow || self.values.get(&token).is_some_and(Claims::is_live)
    }
}

/// The values of one attachment, as far as "none, one, several" goes.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Values {
    #[default]
    None,
    One {
        value: u32,
        own: bool,
    },
    Several,
}

impl Values {
    fn add(&mut self, value: u32, own: bool) {
        *self = match *self {
            Self::None => Self::One { value, own },
            Self::One { value: same, own: was } if same == value => {
                Self::One { value, own: was || own }
            }
            _ => Self::Several,
        };
    }

    /// The one value, if a flow that is certainly its own shows it.
    fn one(self) -> Option<u32> {
        if let Self::One { value, own: true } = self { Some(value) } else { None }
    }
}

pub(super) fn conclude(index: &Index<'_>, mut seen: Seen) -> Learned {
    let input = index.input;
    if seen.overflow {
        // Which values were counted depends on the order of the dump: none are used.
        seen.values.clear();
    }
    seen.settle();
    let (dead, mut live) = loaded_values(index, &seen, |claim| claim.oldest.is_some());
    let live_registers = live.map(|_, values| values.one());
    let dead_registers = dead.map(|i, values| dead_register(index, i, *values));
    let known = live.map(|_, values| *values != Values::None);
    add_recorded(input, &mut live);

    let (networks, shown) = facts(index, &seen, &live);
    let basis_facts = basis::facts(index, &seen);
    let held = basis::held(index, &seen, &basis_facts);
    let values = basis::computed(index, &held, &dead_registers);
    let prover = Prover {
        index,
        seen: &seen,
        networks: &networks,
        held: &held,
        known: &known,
        dead: &values,
    };
    let evidence = prover.all();
    Learned {
        dead_registers,
        live_registers,
        networks,
        basis_facts,
        shown,
        output_registers: seen.outputs,
        owners: Some(Arc::clone(&index.owners)),
        vlans: seen.vlans,
        carried: seen.carried,
        complete: seen.complete,
        overflow: seen.overflow,
        evidence,
        held,
        values: seen.values,
        known,
    }
}

/// A dead attachment's value. Its record says what the dump may no longer show.
fn dead_register(index: &Index<'_>, i: DeadId, values: Values) -> Option<u32> {
    let (it, field, source) = registers_of(index, i)?;
    let recorded = it.register.and_then(|v| field.token(v));
    let recorded = recorded.filter(|t| is_its_own(it, field.basis(source, *t)));
    let learned = if source.is_computed() { None } else { values.one() };
    let recorded = recorded.map(|t| t.value);
    if index.holds_port(i) { learned.or(recorded) } else { recorded.or(learned) }
}

/// Adds what the records of the living say to what the dump shows.
fn add_recorded(input: &JudgeInput, live: &mut Table<LiveId, Values>) {
    for (it, values) in input.live.values().zip(live.values_mut()) {
        let network = it.network.and_then(|n| input.networks.get(n));
        let field = network.and_then(|n| Field::of(&n.register));
        if let (LiveRegister::Is(value), Some(field)) = (it.register, field)
            && let Some(token) = field.token(value)
        {
            values.add(token.value, true);
        }
    }
}

pub(super) fn registers_of<'c>(
    index: &Index<'c>,
    i: DeadId,
) -> Option<(&'c Dead, Field, RegisterSource)> {
    let (dead, network) = index.dead(i)?;
    Some((dead, Field::of(&network.register)?, network.register.source))
}

/// The values that each attachment's own flows load into its network's field, by the claims that
/// count.
fn loaded_values(
    index: &Index<'_>,
    seen: &Seen,
    counts: impl Fn(&Claim) -> bool,
) -> (Table<DeadId, Values>, Table<LiveId, Values>) {
    let mut dead = index.input.dead.map(|_, _| Values::None);
    let mut live = index.input.live.map(|_, _| Values::None);
    for (token, claims) in &seen.values {
        for claim in claims.claims.iter().filter(|c| counts(c)) {
            if network_of(index.input, claim.owner).and_then(|(_, n)| Field::of(&n.register))
                != Some(Field { index: token.index, mask: token.mask })
            {
                continue;
            }
            let values = match claim.owner {
                Owner::Dead(i) => dead.get_mut(i),
                Owner::Live(i) => live.get_mut(i),
            };
            values.into_iter().for_each(|v| v.add(token.value, claim.own));
        }
    }
    // What a slow controller put back under a number of now shows another value than what was
    // made under the number before: either may be the owner's.
    for (l, token) in &seen.former {
        let field =
            network_of(index.input, Owner::Live(*l)).and_then(|(_, n)| Field::of(&n.register));
        let other =
            |v: &&mut Values| matches!(v, Values::One { value, .. } if *value != token.value);
        if field == Some(Field { index: token.index, mask: token.mask })
            && let Some(values) = live.get_mut(*l).filter(other)
        {
            *values = Values::None;
        }
    }
    (dead, live)
}

pub(super) fn network_of(input: &JudgeInput, owner: Owner) -> Option<(NetworkId, &Network)> {
    let n = match owner {
        Owner::Dead(i) => input.dead.get(i)?.network,
        Owner::Live(i) => input.live.get(i)?.network?,
    };
    Some((n, input.networks.get(n)?))
}

fn facts(
    index: &Index<'_>,
    seen: &Seen,
    live: &Table<LiveId, Values>,
) -> (Table<NetworkId, NetworkFacts>, Vec<Shown>) {
    let input = index.input;
    let shown = shown(index, seen, live);
    let facts = input.networks.map(|n, network| {
        let mut facts = remembered(network);
        let now = shown.iter().filter(|s| s.network == n).map(|s| (&s.member, s.value));
        let before = network.shown.iter().map(|(member, value)| (member, *value));
        facts.distinct_seen |= are_told_apart(before.chain(now));
        facts.shared_seen |= sharers(input, n, &seen.values, &[]).is_some();
        facts
    });
    (facts, shown)
}

/// Whether two pods of one workload had different values. A workload whose value moved within a
/// pod's life shows nothing.
fn are_told_apart<'s>(shown: impl Iterator<Item = (&'s Member, Option<u32>)>) -> bool {
    let mut first: HashMap<&str, Option<(&str, u32)>> = HashMap::new();
    let mut apart = HashSet::new();
    for (Member { workload, pod }, value) in shown {
        match (first.entry(workload), value) {
            (Entry::Vacant(entry), value) => {
                entry.insert(value.map(|value| (pod.as_str(), value)));
            }
            (Entry::Occupied(mut entry), None) => {
                entry.insert(None);
            }
            (Entry::Occupied(entry), Some(value)) => {
                if entry.get().is_some_and(|(other, before)| other != pod && before != value) {
                    apart.insert(workload);
                }
            }
        }
    }
    apart.into_iter().any(|workload| first.get(workload.as_str()).is_some_and(Option::is_some))
}

/// What pods of workloads show, in networks where no two are known to differ yet. Only entries
/// that were made for the pod's own port show anything: a classifier that stands since the number
/// was somebody else's, whom perhaps nobody recorded, loads that one's value.
fn shown(index: &Index<'_>, seen: &Seen, known: &Table<LiveId, Values>) -> Vec<Shown> {
    let input = index.input;
    let waits = |n: NetworkId| input.networks.get(n).is_some_and(Network::waits_for_two);
    let (dead, live) = loaded_values(index, seen, |claim| claim.shows);
    let mut shown = Vec::new();
    for (dead, values) in
        input.dead.values().zip(dead.values()).filter(|(dead, _)| waits(dead.network))
    {
        // Flows under a number of the dead that somebody else has now are not theirs.
        if let (Some(member), Some(value)) = (&dead.member, values.one()) {
            let (network, member) = (dead.network, member.clone());
            shown.push(Shown { network, member, value: Some(value) });
        }
    }
    for ((live, values), known) in input.live.values().zip(live.values()).zip(known.values()) {
        let Some(network) = live.network.filter(|n| waits(*n)) else { continue };
        let value = match (known, live.register) {
            (Values::Several, LiveRegister::Is(_)) => None,
            _ => match values.one() {
                Some(value) => Some(value),
                None => continue,
            },
        };
        if let Some(member) = live.member.clone() {
            shown.push(Shown { network, member, value });
        }
    }
    shown
}

/// See [`Learned::sharers`].
fn sharers(
    input: &JudgeInput,
    n: NetworkId,
    values: &HashMap<RegisterToken, Claims>,
    without: &[LiveId],
) -> Option<Sharers> {
    let field = input.networks.get(n).and_then(|n| Field::of(&n.register))?;
    let of_field = values.iter().filter(|(t, _)| (t.index, t.mask) == (field.index, field.mask));
    let counts = |c: &&Claim| !matches!(c.owner, Owner::Live(l) if without.contains(&l));
    let pairs = of_field.filter_map(|(token, claims)| {
        // One owner, as a rule.
        if claims.claims.len() < 2 {
            return None;
        }
        let claims: Vec<Claim> = claims.claims.iter().filter(counts).cloned().collect();
        let owners = overlap(input, n, *token, &claims)?;
        Some(Sharers { value: token.value, owners })
    });
    pairs.min()
}

fn remembered(network: &Network) -> NetworkFacts {
    match network.register.source {
        RegisterSource::Learn { distinct_seen, shared_seen } => {
            NetworkFacts { distinct_seen, shared_seen }
        }
        _ => NetworkFacts::default(),
    }
}

/// Two attachments of a network that had the value at the same time. Each had it from its
/// oldest flow that loads it until it was last seen alive.
fn overlap(
    input: &JudgeInput,
    network: NetworkId,
    token: RegisterToken,
    claims: &[Claim],
) -> Option<[Owner; 2]> {
    // The latest end first.
    let mut spans: Vec<(Reverse<BootTime>, Reverse<BootTime>, Owner)> = claims
        .iter()
        .filter(|c| network_of(input, c.owner).is_some_and(|(n, _)| n == network))
        .filter_map(|c| match c.owner {
            Owner::Dead(i) => {
                let dead = input.dead.get(i)?;
                Some((dead.seen_alive, c.oldest?, c.owner))
            }
            Owner::Live(i) => {
                // A flow older than itself only protects; a record says that it has it now.
                let recorded = matches!(input.live.get(i)?.register,
                    LiveRegister::Is(value) if value & token.mask == token.value);
                let from = c.oldest.or(recorded.then_some(input.now))?;
                Some((input.now, from, c.owner))
            }
        })
        // It may have been made after the node was read.
        .map(|(until, from, owner)| (Reverse(until), Reverse(from.min(input.now)), owner))
        .filter(|(until, from, _)| until <= from)
        .collect();
    spans.sort_unstable();
    let mut longest: Option<(Reverse<BootTime>, Owner)> = None;
    for (until, from, owner) in spans {
        match longest {
            Some((longest, other)) if until <= longest => return Some([other, owner]),
            _ => longest = longest.max(Some((from, owner))),
        }
    }
    None
}
