//! Phase 2: the rules.
//!
//! A match is a conjunction: one dead conjunct makes an entry unreachable for legitimate
//! traffic, whatever else it matches. That is why rules 1 to 3 ask about one token only.
//! A token that somebody alive has now is not dead, and alone it condemns nothing.
//!
//! A live attachment whose addresses are not all known may have any; if that protected
//! every address nothing would ever be stale. It matters only where the flow names a token
//! that it is known to have (rule 5).

use std::cmp::Reverse;

use foldhash::{HashMap, HashMapExt as _, HashSet};
use serde::Serialize;

use super::guards::{self, OutputRegisters};
use super::input::{Dead, DeadId, JudgeInput, Live, LiveId, Network};
use super::learned::Learned;
use super::proof::{self, Evidence};
use super::reason::{NotProven, Reason};
use super::tokens::{
    Field, Index, PortState, RegisterToken, Token, Written, in_scope, is_pod_port, push_once,
};
use super::vlans::Relation;
use crate::model::flow::{Address, AddressMatch, Flow, Side};
use crate::util::clock::BootTime;

/// What is to become of one flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// To be deleted.
    pub stale: bool,
    /// Why, or why not.
    pub reason: Reason,
    /// The dead attachment that condemns it, or would have. If several do for one reason, the one
    /// that died last: tokens are used again, and the entry is most likely its.
    pub dead: Option<DeadId>,
}

/// Phase 2; see the module's head. Wants the flows for which `Survey::see` said true.
pub struct Judge<'c> {
    pub(super) index: Index<'c>,
    pub(super) learned: &'c Learned,
    /// Dead attachments by register value.
    by_value: HashMap<RegisterToken, Vec<DeadId>>,
    /// Live owners whose own flows show a value, with the fields.
    pub(super) showing: HashSet<(LiveId, Field)>,
}

/// What one dead attachment's rules say.
enum Opinion {
    Stale(Reason),
    Kept(Reason),
}

impl<'c> Judge<'c> {
    /// The case must be the one that was surveyed.
    #[must_use]
    pub fn new(input: &'c JudgeInput, learned: &'c Learned) -> Self {
        let mut by_value: HashMap<_, Vec<_>> = HashMap::new();
        for (i, evidence) in learned.evidence.iter() {
            let previous_ofports = evidence.previous_ofports.iter().map(|(token, _)| *token);
            for token in evidence.token.into_iter().chain(previous_ofports) {
                push_once(by_value.entry(token).or_default(), i);
            }
        }
        Self {
            index: Index::of_surveyed(input, learned),
            learned,
            by_value,
            showing: learned.showing(),
        }
    }

    /// Whether the flow is stale, and why. If several dead attachments have a say, stale
    /// wins: each rule that condemns is sufficient by itself.
    #[must_use]
    pub fn verdict(&self, flow: &Flow) -> Verdict {
        if self.index.input.ovn {
            return Verdict { stale: false, reason: Reason::Ovn, dead: None };
        }
        let mut stale = None;
        let mut kept = None;
        for i in self.matched(flow) {
            match self.opinion(flow, i) {
                Opinion::Stale(reason) => first(&mut stale, (reason, self.died(i))),
                Opinion::Kept(reason) => first(&mut kept, (reason, self.died(i))),
            }
        }
        if let Some((reason, i)) = self.delivers_to_nobody(flow) {
            first(&mut stale, (reason, self.died(i)));
        }
        if let Some((port, only)) = self.dangling(flow) {
            let reap = only && self.reaps_dangling(flow);
            first(if reap { &mut stale } else { &mut kept }, (Reason::Dangling { port }, None));
        }
        if kept.is_none()
            && let Some((reason, i)) = self.mentions(flow)
        {
            kept = Some((reason, self.died(i)));
        }
        let (reason, dead) = stale.or(kept).unwrap_or((Reason::NothingDead, None));
        Verdict { stale: stale.is_some(), reason, dead: dead.map(|(_, i)| i) }
    }

    /// What one of the dead is sorted by: who died last is first.
    fn died(&self, i: DeadId) -> Option<(Reverse<Option<BootTime>>, DeadId)> {
        Some((Reverse(self.index.dead(i).map(|(dead, _)| dead.died)), i))
    }

    /// Why each of the dead that a kept flow names keeps it: what one of them waits for is
    /// nothing to another, and [`Self::verdict`] tells of one only.
    #[must_use]
    pub fn kept_for(&self, flow: &Flow) -> Vec<Verdict> {
        let matched = self.matched(flow).into_iter();
        let kept = matched.filter_map(|i| match self.opinion(flow, i) {
            Opinion::Kept(reason) => Some(Verdict { stale: false, reason, dead: Some(i) }),
            Opinion::Stale(_) => None,
        });
        kept.collect()
    }

    /// Whether a full dump may turn this verdict: the flow is kept now, and would be stale
    /// if a dead attachment's register value, which part of a dump cannot prove, were its
    /// own; or it is stale for an address, and matches a value that may be a living pod's or
    /// tell another VLAN.
    #[must_use]
    pub fn would_register_matter(&self, flow: &Flow) -> bool {
        let turns = |i: DeadId| {
            let Some((_, network)) = self.index.dead(i) else { return false };
            let Some(evidence) = self.learned.evidence.get(i) else { return false };
            evidence.not_proven == Some(NotProven::PartialDump)
                && in_scope(network, flow)
                && evidence
                    .token
                    .is_some_and(|t| self.matched_registers(flow).any(|m| m == t) || sets(flow, t))
        };
        let verdict = self.verdict(flow);
        let unknown = |verdict: &Verdict| match verdict.reason {
            Reason::RegisterNotProven { why, .. } => matches!(why, NotProven::LiveUnknown(_)),
            _ => false,
        };
        if !self.learned.complete && !verdict.stale && self.kept_for(flow).iter().any(unknown) {
            return true;
        }
        if verdict.stale {
            let by_address = matches!(
                verdict.reason,
                Reason::MatchesAddress { .. } | Reason::NobodyHasBoth { .. }
            );
            let Some(i) = verdict.dead.filter(|_| by_address && !self.learned.complete) else {
                return false;
            };
            let is_its =
                |t: &RegisterToken| self.by_value.get(t).is_some_and(|owners| owners.contains(&i));
            return self.matched_registers(flow).any(|t| !is_its(&t))
                || self.may_be_carried(flow, i);
        }
        self.matched(flow).into_iter().any(turns)
    }

    /// Whether part of a dump keeps the flow for what it does not show: no entry that outputs to the
    /// register that is loaded, none that tells another VLAN, not all who have the value beside a
    /// port (rule 5). A call leaves that to a sweep.
    #[must_use]
    pub fn waits_for_the_rest(&self, flow: &Flow) -> bool {
        let unseen = |verdict: &Verdict| match verdict.reason {
            Reason::LoadsLivePort { .. } | Reason::OtherVlan { .. } => true,
            Reason::RegisterNotProven { .. } => flow.matches.in_port.is_some(),
            _ => false,
        };
        !self.learned.complete && self.kept_for(flow).iter().any(unseen)
    }

    /// Whether the rest of the dump may show that a register of the flow carries a living pod's
    /// port, or another VLAN than the dead attachment's.
    fn may_be_carried(&self, flow: &Flow, i: DeadId) -> bool {
        let Some((dead, _)) = self.index.dead(i) else { return false };
        let others = |vlan: u16| {
            let in_it = |live: &Live| live.vlans.contains(&vlan);
            !dead.vlans.contains(&vlan) && self.index.input.live.values().any(in_it)
        };
        let others_port = |port: u16| self.index.is_pods_port(port) && !dead.had(port);
        self.learned.carried.untold(flow).any(|number| others_port(number) || others(number))
    }

    fn outputs(&self) -> OutputRegisters<'_> {
        OutputRegisters {
            seen: &self.learned.output_registers,
            complete: self.learned.complete,
            carried: &self.learned.carried,
        }
    }

    /// Dead attachments that the flow matches, or whose register value it sets.
    fn matched(&self, flow: &Flow) -> Vec<DeadId> {
        let index = &self.index;
        let mut found = Vec::new();
        let port = flow.matches.in_port.and_then(|p| index.port(p)).map(|o| &o.dead[..]);
        let addresses = flow.matches.addresses.iter().filter_map(|m| index.address(m.address));
        let tokens = self.matched_registers(flow).chain(self.written_registers(flow));
        port.into_iter()
            .chain(addresses.map(|o| &o.dead[..]))
            .chain(tokens.filter_map(|t| self.by_value.get(&t).map(Vec::as_slice)))
            .flatten()
            .for_each(|i| push_once(&mut found, *i));
        found
    }

    /// The dead whom a flow names, each once: of each alone [`Self::verdict`] would tell. A value
    /// that a flow sets for others names a pod only if it is recorded.
    #[must_use]
    pub fn named(&self, flow: &Flow) -> Vec<DeadId> {
        let written: Vec<RegisterToken> = self.written_registers(flow).collect();
        let is_recorded = |i: &DeadId| {
            self.index.dead(*i).is_some_and(|(dead, network)| {
                let own = dead.register.zip(Field::of(&network.register));
                let own = own.and_then(|(value, field)| field.token(value));
                let former = dead.former_values(network.register).map(|(token, _)| token);
                own.into_iter().chain(former).any(|token| written.contains(&token))
            })
        };
        let mut found = self.matched(flow);
        if !written.is_empty() {
            let names = |i: &DeadId| is_recorded(i) || self.matches(flow, *i);
            found.retain(names);
        }
        let ports = flow.actions.outputs.iter().chain(&flow.actions.port_references);
        let owners = ports.filter_map(|port| self.index.port(*port)).flat_map(|of| &of.dead);
        owners.for_each(|i| push_once(&mut found, *i));
        found
    }

    /// Whether a flow matches a token of one of the dead.
    fn matches(&self, flow: &Flow, i: DeadId) -> bool {
        let Some((dead, _)) = self.index.dead(i) else { return false };
        let own = |value: RegisterToken| {
            self.by_value.get(&value).is_some_and(|owners| owners.contains(&i))
        };
        flow.matches.in_port.is_some_and(|port| dead.had(port))
            || own_addresses(dead, flow).next().is_some()
            || self.matched_registers(flow).any(own)
    }

    pub(super) fn matched_registers(&self, flow: &Flow) -> impl Iterator<Item = RegisterToken> {
        let matched = &flow.matches.registers;
        self.index.fields().iter().flat_map(|f| matched.iter().filter_map(|m| f.matched(m)))
    }

    fn written_registers(&self, flow: &Flow) -> impl Iterator<Item = RegisterToken> {
        let writes = &flow.actions.register_writes;
        self.index.fields().iter().flat_map(move |field| {
            writes.iter().filter_map(move |write| match field.written(write) {
                Written::Value(value) => field.token(value),
                _ => None,
            })
        })
    }

    fn opinion(&self, flow: &Flow, i: DeadId) -> Opinion {
        let Some((dead, network)) = self.index.dead(i) else {
            return Opinion::Kept(Reason::NothingDead);
        };
        if !in_scope(network, flow) {
            return Opinion::Kept(Reason::OutOfScope);
        }
        if dead.is_younger_than(flow) {
            let named = self.own_token(flow, i, dead);
            return Opinion::Kept(
                named.map_or(Reason::NothingDead, |token| Reason::MadeBeforeBirth { token }),
            );
        }
        let mut kept = None;
        let stale = self
            .matches_port(flow, dead, network, &mut kept)
            .or_else(|| self.uses_register(flow, i, &mut kept))
            .or_else(|| self.matches_address(flow, i, &mut kept))
            .or_else(|| self.nobody_has_both(flow, i, dead, network));
        match (stale, kept) {
            (Some(reason), _) => Opinion::Stale(reason),
            (None, Some(reason)) => Opinion::Kept(reason),
            (None, None) => Opinion::Kept(Reason::NothingDead),
        }
    }

    /// The first token of a dead attachment's that the flow matches, or whose value it sets.
    fn own_token(&self, flow: &Flow, i: DeadId, dead: &Dead) -> Option<Token> {
        let port = flow.matches.in_port.filter(|port| dead.had(*port)).map(Token::Port);
        let own = |value: &RegisterToken| {
            self.by_value.get(value).is_some_and(|owners| owners.contains(&i))
        };
        let mut values = self.matched_registers(flow).chain(self.written_registers(flow));
        port.or_else(|| values.find(own).map(Token::Register))
            .or_else(|| own_addresses(dead, flow).next().map(|m| Token::Address(m.address)))
    }

    /// Rule 1, ports.
    fn matches_port(
        &self,
        flow: &Flow,
        dead: &Dead,
        network: &Network,
        kept: &mut Option<Reason>,
    ) -> Option<Reason> {
        let number = flow.matches.in_port.filter(|p| dead.had(*p) && is_pod_port(*p))?;
        let port = Token::Port(number);
        match self.index.port_state(dead, number, Some(flow)) {
            _ if !network.match_port => first(kept, Reason::EvidenceOff { token: port }),
            PortState::Dead => return Some(Reason::MatchesPort { port }),
            PortState::Reassigned => first(kept, Reason::HasLiveOwner { token: port }),
            PortState::Unsettled => first(kept, Reason::PortUnsettled { port }),
        }
        None
    }

    /// Rules 1 and 2, registers.
    fn uses_register(&self, flow: &Flow, i: DeadId, kept: &mut Option<Reason>) -> Option<Reason> {
        let (dead, _) = self.index.dead(i)?;
        let evidence = self.learned.evidence.get(i)?;
        let previous_ofports = evidence.previous_ofports.iter().map(|(token, _)| *token);
        let mut stale = None;
        for token in evidence.token.into_iter().chain(previous_ofports) {
            let register = token.into();
            let matches = self.matched_registers(flow).any(|m| m == token);
            if !matches && !self.written_registers(flow).any(|w| w == token) {
                continue;
            }
            let reason = if let Some(reason) = self.basis_lives(flow, i, dead, token) {
                reason
            } else if let Some(why) = self.not_proven(flow, evidence, dead, token) {
                Reason::RegisterNotProven { register, why }
            } else if matches {
                first(&mut stale, Reason::MatchesRegister { register });
                continue;
            } else if sets(flow, token) {
                first(&mut stale, Reason::SetsRegister { register });
                continue;
            } else {
                Reason::OnlyMentions { token: register }
            };
            first(kept, reason);
        }
        stale
    }

    /// Why the token that a register value is computed from is not dead, as far as this flow is
    /// concerned. `None`: it is dead, or the value is not computed from one.
    fn basis_lives(
        &self,
        flow: &Flow,
        i: DeadId,
        dead: &Dead,
        value: RegisterToken,
    ) -> Option<Reason> {
        let register = value.into();
        match self.learned.basis(i, value)? {
            Token::Port(port) => match self.index.port_state(dead, port, Some(flow)) {
                PortState::Reassigned => Some(Reason::HasLiveOwner { token: register }),
                PortState::Unsettled => Some(Reason::PortUnsettled { port: register }),
                PortState::Dead => self.belongs_to_live(flow, dead, register, Some(value)),
            },
            Token::Address(_) if self.learned.relation(i, dead, flow) != Relation::Own => {
                Some(Reason::OtherVlan { address: register })
            }
            Token::Address(address) => {
                let side = Side::Unknown;
                self.address_lives(flow, dead, &AddressMatch { address, side }, Some(value))
            }
            Token::Register(_) => None,
        }
    }

    /// Why a register value condemns nothing, whatever it is computed from: somebody alive may
    /// mean something else by it.
    fn not_proven(
        &self,
        flow: &Flow,
        evidence: &Evidence,
        dead: &Dead,
        value: RegisterToken,
    ) -> Option<NotProven> {
        let covered = |l: &LiveId| !self.index.is_leftover(flow, dead, *l);
        if evidence.token == Some(value) {
            let adding = evidence.adding.iter().copied().find(covered);
            let why = evidence.not_proven.or(adding.map(NotProven::LiveHasIt));
            let own = evidence.basis.is_none();
            let untold = || self.may_have_untold(flow, dead, value).filter(|_| own);
            return why.or_else(|| untold().map(NotProven::LiveUnknown));
        }
        match self.learned.owners(value) {
            None => Some(NotProven::OthersLoadIt),
            Some(_) if self.learned.overflow => Some(NotProven::TooManyValues),
            Some(owners) => {
                let owners: Vec<LiveId> = owners.into_iter().filter(covered).collect();
                proof::held_by(&self.index, &owners)
            }
        }
    }

    /// Rule 3.
    fn matches_address(&self, flow: &Flow, i: DeadId, kept: &mut Option<Reason>) -> Option<Reason> {
        let (dead, network) = self.index.dead(i)?;
        let mut stale = None;
        let in_vlan = self.learned.relation(i, dead, flow) == Relation::Own;
        for m in own_addresses(dead, flow) {
            let address = m.address.into();
            let counts = match m.address {
                Address::Ip(_) => network.match_ip,
                Address::Mac(_) => network.match_mac,
            };
            let reason = if !counts {
                Reason::EvidenceOff { token: address }
            } else if !in_vlan {
                Reason::OtherVlan { address }
            } else if let Some(reason) = self.address_lives(flow, dead, m, None) {
                reason
            } else {
                first(&mut stale, Reason::MatchesAddress { address });
                continue;
            };
            first(kept, reason);
        }
        stale
    }

    /// Why an address of a dead attachment, or a register value that is computed from it, is not
    /// dead as far as this flow is concerned.
    fn address_lives(
        &self,
        flow: &Flow,
        dead: &Dead,
        m: &AddressMatch,
        value: Option<RegisterToken>,
    ) -> Option<Reason> {
        let address = m.address.into();
        if self.index.is_live_address(m.address, dead, Some(flow)) {
            Some(Reason::HasLiveOwner { token: address })
        } else if !dead.recorded {
            Some(Reason::NoRecord { address })
        } else if !dead.is_evidence(m.address) {
            Some(Reason::MayLiveElsewhere { address })
        } else {
            guards::guard(&self.index, self.outputs(), flow, dead, m)
                .or_else(|| self.belongs_to_live(flow, dead, address, value))
        }
    }

    /// Rule 4: packets for an address of the dead go to dead ports and nowhere else, nothing
    /// else happens to them, and they do not come from somebody alive in particular. The
    /// destination must have been an address of the attachment whose port is output to: a
    /// service's address that is rewritten to a dead pod's stays the service's, and a controller
    /// that MODIFYs the entry for the next pod would find nothing to modify.
    fn delivers_to_nobody(&self, flow: &Flow) -> Option<(Reason, DeadId)> {
        let Flow { matches, actions, .. } = flow;
        if actions.beyond || actions.outputs.is_empty() {
            return None;
        }
        let from_live = |m: &AddressMatch| {
            m.side != Side::Destination
                && self.index.address(m.address).is_some_and(|owners| !owners.live.is_empty())
        };
        if matches.addresses.iter().any(from_live)
            || matches
                .in_port
                .is_some_and(|p| self.index.is_live_port(p) || self.index.may_return(p))
            || self.matched_registers(flow).any(|t| self.learned.is_live(t))
        {
            return None;
        }
        let from_unknown = |dead: &Dead| {
            self.matched_registers(flow).any(|t| self.may_have_value(flow, dead, t).is_some())
        };
        let mut lowest: Option<(u16, DeadId)> = None;
        for port in &actions.outputs {
            let owners = self.index.port(*port)?;
            let condemns = |i: &DeadId| {
                self.index.dead(*i).is_some_and(|(dead, network)| {
                    network.match_port
                        && in_scope(network, flow)
                        && !dead.is_younger_than(flow)
                        && is_for(dead, flow)
                        && !from_unknown(dead)
                        && self.index.port_state(dead, *port, None) == PortState::Dead
                })
            };
            let condemning = owners.dead.iter().copied().filter(condemns);
            first(&mut lowest, (*port, condemning.min_by_key(|i| self.died(*i))?));
        }
        let (port, dead) = lowest?;
        Some((Reason::DeliversToNobody { port: Token::Port(port) }, dead))
    }

    /// A port that OVSDB lacks and nobody explains, and whether the flow is for such ports only:
    /// it matches on one, or all that it does is to output to them.
    fn dangling(&self, flow: &Flow) -> Option<(u16, bool)> {
        let dangling = |p: &u16| self.index.is_dangling(*p);
        if let Some(port) = flow.matches.in_port.filter(dangling) {
            return Some((port, true));
        }
        let outputs = &flow.actions.outputs;
        let port = outputs.iter().copied().min()?;
        outputs.iter().all(dangling).then_some((port, !flow.actions.beyond))
    }

    /// Every network whose rules apply to this flow wants its dangling entries deleted.
    fn reaps_dangling(&self, flow: &Flow) -> bool {
        let mut looking =
            self.index.input.networks.values().filter(|n| in_scope(n, flow)).peekable();
        looking.peek().is_some() && looking.all(|n| n.reap_dangling)
    }

    /// A dead port in a flow that does not match anything dead: a flood list, say.
    fn mentions(&self, flow: &Flow) -> Option<(Reason, DeadId)> {
        let named = flow.actions.outputs.iter().chain(&flow.actions.port_references);
        let dead = |p: &u16| Some((*p, *self.index.port(*p)?.dead.first()?));
        let (port, i) = named.filter_map(dead).min()?;
        Some((Reason::OnlyMentions { token: Token::Port(port) }, i))
    }
}

/// The flow's matches on a dead attachment's own addresses.
pub(super) fn own_addresses<'f>(
    dead: &'f Dead,
    flow: &'f Flow,
) -> impl Iterator<Item = &'f AddressMatch> {
    flow.matches
        .addresses
        .iter()
        .filter(|m| !m.address.is_unusable() && dead.addresses.contains(&m.address))
}

/// Whether the flow is for packets to an address of the dead attachment. A DEL without a record
/// knows what the port's marks name: ovs-cni's name no address, openshift-sdn's one IPv4. Of a
/// kind that they do not name, any exact destination counts, unless the entry writes another one
/// into the packets: then the destination may be a service's.
fn is_for(dead: &Dead, flow: &Flow) -> bool {
    let known = |address: Address| dead.addresses.iter().any(|own| own.kind() == address.kind());
    let any = !dead.recorded && !flow.actions.rewrites_destination;
    let own = |m: &AddressMatch| dead.addresses.contains(&m.address) || any && !known(m.address);
    let to = |m: &&AddressMatch| m.side == Side::Destination && !m.address.is_unusable();
    flow.matches.addresses.iter().filter(to).any(own)
}

/// Whether the value is what the flow leaves in the register: the last write that touches
/// the field, and not one in a list of its own.
pub(super) fn sets(flow: &Flow, token: RegisterToken) -> bool {
    let field = Field { index: token.index, mask: token.mask };
    let writes = flow.actions.register_writes.iter().rev().filter(|w| !w.nested);
    let mut written = writes.map(|w| field.written(w));
    let last = written.find(|w| !matches!(w, Written::Nothing));
    matches!(last, Some(Written::Value(value)) if value == token.value)
}

/// Keeps the first reason in the order of [`Reason`], so that the order of attachments
/// does not matter.
pub(super) fn first<T: Ord>(best: &mut Option<T>, found: T) {
    if best.as_ref().is_none_or(|best| found < *best) {
        *best = Some(found);
    }
}
