//! Whether a register value is a dead attachment's own.
//!
//! Guarantee: a value is evidence only while no live attachment has it, is known to be
//! given it, or may have it without our knowing.
//! Assumption for `learn`: values are pods' own if they are found to be computed from a token
//! (`basis`), or if two pods of one workload were seen with
//! different ones, and no two attachments with the same while both lived. Pods of different
//! workloads prove nothing: where each tenant has one pod, a tenant's value looks like a pod's.
//! For `pod` and computed values the operator vouches: two dead pods of one value, however soon
//! one came after the other, show that it was given away again.
//! A value that is computed from a port's number or an address is that token: its questions are
//! asked, too.

use foldhash::{HashMap, HashMapExt as _};

use super::basis::{self, Basis};
use super::claims::{Claim, Claims, Owner, Seen};
use super::input::{Dead, DeadId, Live, LiveId, LiveRegister, NetworkId};
use super::learned::{NetworkFacts, registers_of};
use super::reason::NotProven;
use super::tokens::{Field, Index, RegisterToken, Token, is_its_own};
use crate::model::register::RegisterSource;
use crate::model::table::Table;

/// What a dead attachment's register value is worth.
#[derive(Clone, Debug, Default)]
pub(super) struct Evidence {
    /// `None`: it has no value.
    pub(super) token: Option<RegisterToken>,
    /// The token that the value is computed from: the value is dead exactly where that one is.
    /// `None`: it stands for itself.
    pub(super) basis: Option<Token>,
    /// Values that stand for the numbers which its port had before, and the numbers.
    pub(super) previous_ofports: Vec<(RegisterToken, u16)>,
    /// Why the value condemns nothing.
    pub(super) not_proven: Option<NotProven>,
    /// Pods that are being added and have the value: it condemns only what they do not cover.
    pub(super) adding: Vec<LiveId>,
    /// All live owners of the value are known, so that it can be half of a pair (rule 5).
    pub(super) owners_known: bool,
}

/// Proves values, or says what is missing.
pub(super) struct Prover<'a, 'c> {
    pub(super) index: &'a Index<'c>,
    pub(super) seen: &'a Seen,
    pub(super) networks: &'a Table<NetworkId, NetworkFacts>,
    /// Per network: what its learned values are computed from.
    pub(super) held: &'a Table<NetworkId, Option<Basis>>,
    /// Per live owner: its own flows show a value.
    pub(super) known: &'a Table<LiveId, bool>,
    /// Per dead attachment: its value.
    pub(super) dead: &'a Table<DeadId, Option<u32>>,
}

/// Who else has a value: somebody alive if one does, else somebody dead whom nobody judges.
pub(super) fn held_by(index: &Index<'_>, holders: &[LiveId]) -> Option<NotProven> {
    let alive = |l: &&LiveId| !index.live(**l).is_some_and(Live::is_unjudged_dead);
    let alive = holders.iter().filter(alive).min();
    let dead = (!holders.is_empty()).then_some(NotProven::OtherDeadHasIt);
    alive.map(|l| NotProven::LiveHasIt(*l)).or(dead)
}

impl Prover<'_, '_> {
    pub(super) fn all(&self) -> Table<DeadId, Evidence> {
        let tokens = self.dead.map(|i, _| self.token(i));
        let mut holders: HashMap<RegisterToken, Vec<DeadId>> = HashMap::new();
        for (i, token) in tokens.iter() {
            if let Some(token) = token {
                holders.entry(*token).or_default().push(i);
            }
        }
        tokens.map(|i, token| {
            let previous_ofports = self.index.dead(i).map_or_else(Vec::new, |(dead, network)| {
                let configured = dead.former_values(network.register);
                let values = configured.chain(self.found_former(i, dead));
                // Whoever has a field that overlaps this one may have the same bits in it.
                values.filter(|(token, _)| self.wider_owners(*token).next().is_none()).collect()
            });
            let Some(token) = *token else {
                return Evidence { previous_ofports, ..Evidence::default() };
            };
            let together = |other: &DeadId| {
                *other != i && !self.are_vouched_for(i, *other) && self.lived_together(i, *other)
            };
            // The distinct values are few, and fields that overlap fewer.
            let shared = holders.get(&token).is_some_and(|same| same.iter().any(together))
                || (self.index.fields().len() > 1
                    && holders.keys().any(|other| *other != token && agree(*other, token)))
                || self.seen.values.get(&token).is_some_and(|c| c.dead().any(|i| together(&i)));
            Evidence { previous_ofports, ..self.evidence(i, token, shared) }
        })
    }

    /// Whether an operator says that the values of both are pods' own. Then one value of two dead
    /// is one that was given away again, and nobody alive has it.
    fn are_vouched_for(&self, a: DeadId, b: DeadId) -> bool {
        let (Some((a, network)), Some((b, _))) = (self.index.dead(a), self.index.dead(b)) else {
            return false;
        };
        a.network == b.network && network.register.source == RegisterSource::Pod
    }

    /// Whether two of the dead may have lived at the same time. If one was born when the
    /// other's death was known, the value was re-used, not shared.
    fn lived_together(&self, a: DeadId, b: DeadId) -> bool {
        let (Some((a, _)), Some((b, _))) = (self.index.dead(a), self.index.dead(b)) else {
            return true;
        };
        let after = |late: &Dead, early: &Dead| late.born.is_some_and(|born| born > early.died);
        !after(a, b) && !after(b, a)
    }

    fn token(&self, i: DeadId) -> Option<RegisterToken> {
        let (_, field, _) = registers_of(self.index, i)?;
        field.token(self.dead.get(i).copied().flatten()?)
    }

    fn evidence(&self, i: DeadId, token: RegisterToken, shared: bool) -> Evidence {
        let Some((dead, field, source)) = registers_of(self.index, i) else {
            return Evidence::default();
        };
        let found = self.held.get(dead.network).copied().flatten().map(Basis::source);
        let basis = field.basis(found.unwrap_or(source), token);
        let basis = basis.filter(|basis| found.is_none() || is_its_own(dead, Some(*basis)));
        let claims = self.seen.values.get(&token);
        let unknown = self.unknown_live(dead.network, source);
        let obscured = self.is_obscured(token, source);
        let foreign = claims.is_some_and(|c| c.foreign);
        let learned = !source.is_computed();

        let mut holders: Vec<LiveId> = claims.into_iter().flat_map(Claims::live).collect();
        if basis.is_some() && !learned {
            holders.retain(|l| !self.is_known_otherwise(*l, dead.network, token));
        }
        holders.extend(self.wider_owners(token));
        let adding = if !learned && self.are_adding(&holders, claims) {
            std::mem::take(&mut holders)
        } else {
            Vec::new()
        };

        let others = learned
            && claims.and_then(|c| c.common.as_ref()).is_some_and(|common| !common.contains(&i));
        // What part of a dump can show comes first: a full dump would not change it.
        let not_proven = held_by(self.index, &holders)
            .or((foreign || others).then_some(NotProven::OthersLoadIt))
            .or_else(|| self.shared(dead.network, source, basis, shared))
            .or_else(|| self.unseen(source, obscured))
            .or(unknown.map(NotProven::LiveUnknown))
            .or_else(|| self.untold(dead.network, source, basis));
        let owners_known = unknown.is_none()
            && !foreign
            && !obscured
            && !self.seen.overflow
            && (self.seen.complete || !learned)
            && self.wider_owners(token).next().is_none();
        let previous_ofports = Vec::new();
        Evidence { token: Some(token), basis, previous_ofports, not_proven, adding, owners_known }
    }

    /// A computed value is its owner's from birth on, as its address is: who is being added has
    /// it without having made the entries that use it.
    fn are_adding(&self, holders: &[LiveId], claims: Option<&Claims>) -> bool {
        holders.iter().all(|l| self.index.live(*l).is_some_and(|live| live.adding))
            && !claims.is_some_and(|c| c.claims.iter().any(is_loaded_by_live))
    }

    /// Whether the value, or the network's values, are several pods'. `shared`: another dead one
    /// that lived at the same time had it. A value that is computed from a token is never shared.
    fn shared(
        &self,
        network: NetworkId,
        source: RegisterSource,
        basis: Option<Token>,
        shared: bool,
    ) -> Option<NotProven> {
        if basis.is_some() || source.is_computed() {
            None
        } else if shared {
            Some(NotProven::OtherDeadHasIt)
        } else {
            let seen = self.networks.get(network).is_some_and(|facts| facts.shared_seen);
            (is_learn(source) && seen).then_some(NotProven::Shared)
        }
    }

    /// What of the register was not seen, or cannot be read.
    fn unseen(&self, source: RegisterSource, obscured: bool) -> Option<NotProven> {
        if is_learn(source) && obscured {
            Some(NotProven::Obscured)
        } else if self.seen.overflow {
            Some(NotProven::TooManyValues)
        } else {
            let partial = !source.is_computed() && !self.seen.complete;
            partial.then_some(NotProven::PartialDump)
        }
    }

    /// Whether nothing has told the network's pods apart by their values.
    fn untold(
        &self,
        network: NetworkId,
        source: RegisterSource,
        basis: Option<Token>,
    ) -> Option<NotProven> {
        let told = self.networks.get(network).is_some_and(|facts| facts.distinct_seen);
        let held = self.held.get(network).is_some_and(Option::is_some);
        let untold = is_learn(source) && basis.is_none() && (!told || held);
        untold.then_some(NotProven::NeedsSecondAttachment)
    }

    /// The values of a dead attachment's former numbers, where values are found to be port numbers:
    /// each is shown to be nobody else's.
    fn found_former<'d>(
        &self,
        i: DeadId,
        dead: &'d Dead,
    ) -> impl Iterator<Item = (RegisterToken, u16)> + use<'_, 'd> {
        let basis = self.held.get(dead.network).copied().flatten();
        let previous_ofports = basis.map(|basis| basis::former_values(self.index, dead, basis));
        previous_ofports.into_iter().flatten().filter(move |(token, _)| {
            let common = self.seen.values.get(token).and_then(|claims| claims.common.as_ref());
            self.seen.complete
                && !self.seen.overflow
                && !self.seen.obscured.contains(&Field { index: token.index, mask: token.mask })
                && common.is_none_or(|common| common.contains(&i))
                && self.unknown_live(dead.network, RegisterSource::Pod).is_none()
        })
    }

    /// Whether a live attachment's value is computed by the same rule, and is another one: that
    /// its flows load this one for what they send to the dead does not make it its own.
    fn is_known_otherwise(&self, live: LiveId, network: NetworkId, token: RegisterToken) -> bool {
        let rule = |n: NetworkId| self.index.input.networks.get(n).map(|network| network.register);
        self.index.live(live).is_some_and(|live| {
            let has = |value: u32| value & token.mask == token.value;
            live.network.is_some_and(|n| rule(n) == rule(network))
                && matches!(live.register, LiveRegister::Is(value) if !has(value))
        })
    }

    /// A live attachment of the network whose value is not known.
    fn unknown_live(&self, network: NetworkId, source: RegisterSource) -> Option<LiveId> {
        let lives = self.index.input.live.iter().zip(self.known.values());
        let mut unknown = lives.filter(|((_, live), known)| {
            live.network == Some(network)
                && live.register == LiveRegister::Unknown
                && (source.is_computed() || !**known)
        });
        unknown.next().map(|((l, _), _)| l)
    }

    fn is_obscured(&self, token: RegisterToken, source: RegisterSource) -> bool {
        is_learn(source)
            && self.seen.obscured.contains(&Field { index: token.index, mask: token.mask })
    }

    /// Live attachments whose field overlaps this one without filling it, and whose value
    /// agrees where both look.
    fn wider_owners(&self, token: RegisterToken) -> impl Iterator<Item = LiveId> {
        let input = self.index.input;
        input.live.iter().filter_map(move |(l, live)| {
            let LiveRegister::Is(value) = live.register else { return None };
            let field = Field::of(&input.networks.get(live.network?)?.register)?;
            let theirs = RegisterToken { index: field.index, mask: field.mask, value };
            (field.mask & token.mask != token.mask && agree(theirs, token)).then_some(l)
        })
    }
}

/// Whether one register can hold both values: the same where both fields look.
fn agree(a: RegisterToken, b: RegisterToken) -> bool {
    let both = a.mask & b.mask;
    a.index == b.index && both != 0 && (a.value ^ b.value) & both == 0
}

fn is_learn(source: RegisterSource) -> bool {
    matches!(source, RegisterSource::Learn { .. })
}

fn is_loaded_by_live(claim: &Claim) -> bool {
    matches!(claim.owner, Owner::Live(_)) && claim.oldest.is_some()
}
