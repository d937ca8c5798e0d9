//! Whether a flow that names a dead token may be a living pod's own.
//!
//! By a token that a living pod has: then it is that pod's flow, whatever else it names. Or by a
//! register value that a living pod may have, while nobody knows the values of all who live.

use super::basis::Basis;
use super::guards;
use super::input::{Dead, Live, LiveId, LiveRegister, Network};
use super::reason::{NotProven, Reason};
use super::tokens::{Field, RegisterToken, Token, is_made_before, is_older};
use super::verdict::{Judge, own_addresses};
use crate::model::flow::{Address, AddressMatch, Flow, Side};
use crate::model::register::RegisterSource;

impl Judge<'_> {
    /// Why a flow that names a dead token may be a living pod's own; `value`: see
    /// [`Self::live_source`].
    pub(super) fn belongs_to_live(
        &self,
        flow: &Flow,
        dead: &Dead,
        address: Token,
        value: Option<RegisterToken>,
    ) -> Option<Reason> {
        if let Some(owner) = self.live_source(flow, dead, value) {
            return Some(Reason::BelongsToLivePod { address, owner });
        }
        let mut matched = self.matched_registers(flow).filter(|t| value != Some(*t));
        matched.find_map(|t| {
            let why = NotProven::LiveUnknown(self.may_have_value(flow, dead, t)?);
            Some(Reason::RegisterNotProven { register: t.into(), why })
        })
    }

    /// The token by which the flow is a live owner's own: its port, its register value or its
    /// address, matched as the source. Whatever else the flow names, the controller that made it
    /// for a living pod does not install it again. A pair of two ends' addresses is a policy's
    /// member, not the sender's: once the linger time is over it goes with either end. The value
    /// that is in question says nothing of itself.
    fn live_source(&self, flow: &Flow, dead: &Dead, value: Option<RegisterToken>) -> Option<Token> {
        let m = &flow.matches;
        // What it once sent under a number is not its successor's; what is sent to it there is.
        let sends =
            value.is_some() || own_addresses(dead, flow).any(|m| m.side != Side::Destination);
        let successors = |p: u16| !(sends && dead.had(p));
        let port = m.in_port.filter(|p| self.index.is_pods_port(*p) && successors(*p));
        let live = |m: &&AddressMatch| {
            m.side == Side::Source
                && !guards::is_policy_member(dead, flow)
                && self.index.is_live_address(m.address, dead, Some(flow))
        };
        let is_live_value = |t: &RegisterToken| self.is_live_value(flow, dead, *t);
        let register =
            || self.matched_registers(flow).filter(|t| value != Some(*t)).find(is_live_value);
        let address = || m.addresses.iter().find(live).map(|m| m.address.into());
        port.map(Token::Port)
            .or_else(|| register().map(Token::Register))
            .or_else(|| self.carried_source(flow, dead))
            .or_else(address)
    }

    /// Whether somebody alive has a register value, as far as the flow is concerned: a pod
    /// that is being added does not have what the dead one left behind.
    fn is_live_value(&self, flow: &Flow, dead: &Dead, value: RegisterToken) -> bool {
        let counts = |l: &LiveId| !self.index.is_leftover(flow, dead, *l);
        let claimed = self.learned.is_live(value)
            && (self.learned.overflow
                || self.learned.owners(value).is_none_or(|owners| owners.iter().any(counts)));
        claimed || self.is_computed_of_live(flow, dead, value)
    }

    /// Whether a value is computed from a token of somebody alive, with a record or without.
    fn is_computed_of_live(&self, flow: &Flow, dead: &Dead, value: RegisterToken) -> bool {
        let field = Field { index: value.index, mask: value.mask };
        let number = value.value.checked_shr(value.mask.trailing_zeros()).unwrap_or(0);
        let rules =
            self.index.input.networks.values().map(|n| n.register).zip(self.learned.held.values());
        let mut of_field = rules.filter(|(rule, _)| Field::of(rule) == Some(field));
        of_field.any(|(rule, held)| match held.map_or(rule.source, Basis::source) {
            RegisterSource::Ofport => u16::try_from(number)
                .is_ok_and(|port| self.index.is_pods_port(port) && !dead.had(port)),
            RegisterSource::Ipv4 => {
                let address = Address::Ip(std::net::Ipv4Addr::from(number).into());
                self.index.is_live_address(address, dead, Some(flow))
            }
            _ => false,
        })
    }

    /// The value of a register that carries a living pod's port, which never was the dead one's.
    fn carried_source(&self, flow: &Flow, dead: &Dead) -> Option<Token> {
        let ports = self.learned.carried.ports(flow);
        let found = ports.filter(|(_, port)| self.index.is_pods_port(*port) && !dead.had(*port));
        found.map(|(value, _)| Token::Register(value)).min()
    }

    /// Somebody alive whose value nobody knows: it may be the one that the flow matches as its
    /// source. A classifier goes with the number that it names; what matches its value stays.
    pub(super) fn may_have_value(
        &self,
        flow: &Flow,
        dead: &Dead,
        value: RegisterToken,
    ) -> Option<LiveId> {
        let field = Field { index: value.index, mask: value.mask };
        let networks = &self.index.input.networks;
        let learns =
            |n: &Network| Field::of(&n.register) == Some(field) && n.register.source.is_learned();
        if !networks.values().any(learns) || !self.learned.is_used(field) {
            return None;
        }
        let may_have = |(l, live): &(LiveId, &Live)| {
            let unknown = match live.network {
                Some(n) => {
                    live.register == LiveRegister::Unknown && networks.get(n).is_some_and(learns)
                }
                // What a part of a dump shows of who is not ours is less than all.
                None => live.is_pod && !self.learned.complete,
            };
            unknown
                && self.learned.known.get(*l) != Some(&true)
                && !is_older(flow, live)
                && !self.index.is_leftover(flow, dead, *l)
        };
        self.index.input.live.iter().find(may_have).map(|(l, _)| l)
    }

    /// A pod's or a machine's port that no record explains and that shows no value yet: a dead
    /// pod's value may have been given to it, and the flow made for it before the one that loads
    /// the value. How old a machine is nobody knows; what is older than the last sight of the dead
    /// one alive is not the machine's, but the dead one's.
    pub(super) fn may_have_untold(
        &self,
        flow: &Flow,
        dead: &Dead,
        value: RegisterToken,
    ) -> Option<LiveId> {
        let input = self.index.input;
        let learned = |n: &Network| n.register.source.is_learned();
        if !input.networks.get(dead.network).is_some_and(learned) {
            return None;
        }
        let field = Field { index: value.index, mask: value.mask };
        let may_have = |(l, live): &(LiveId, &Live)| {
            live.register == LiveRegister::Untold
                && !is_older(flow, live)
                && (live.is_arriving()
                    || !is_made_before(flow, dead.seen_alive)
                        && (live.ofport.is_some() || input.ports.unassigned))
                && !self.showing.contains(&(*l, field))
        };
        input.live.iter().find(may_have).map(|(l, _)| l)
    }
}
