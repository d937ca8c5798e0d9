//! Rule 5: a flow that pairs two tokens of one dead attachment.
//!
//! Guarantee: it goes only if no live attachment can have both, and if it is older than
//! every live owner of either: it was made for none of them. Who may own one, and what it
//! may have beside it, is answered "yes" wherever it is not known.

use super::input::{Dead, DeadId, LiveId, LiveRegister, Network};
use super::reason::Reason;
use super::tokens::{PortState, RegisterToken, Token, is_older, is_pod_port};
use super::verdict::{Judge, first, own_addresses, sets};
use super::vlans::Relation;
use crate::model::flow::{Address, Flow, Side};

impl Judge<'_> {
    /// Rule 5: the dead attachment's port together with another of its tokens, on one side
    /// of the packet.
    pub(super) fn nobody_has_both(
        &self,
        flow: &Flow,
        i: DeadId,
        dead: &Dead,
        network: &Network,
    ) -> Option<Reason> {
        let number = dead.ofport.filter(|p| is_pod_port(*p))?;
        if !dead.recorded || !network.match_port {
            return None;
        }
        let counts = |address: &Address| match address {
            Address::Ip(_) => network.match_ip,
            Address::Mac(_) => network.match_mac,
        };
        let in_vlan = self.learned.relation(i, dead, flow) == Relation::Own;
        let on = |side: Side| {
            own_addresses(dead, flow)
                .filter(move |m| in_vlan && m.side == side && counts(&m.address))
                .map(|m| Token::Address(m.address))
        };
        let mut found = None;
        if flow.matches.in_port == Some(number) {
            let register = self
                .learned
                .evidence
                .get(i)
                .filter(|e| e.owners_known)
                .and_then(|e| e.token)
                .filter(|t| {
                    self.matched_registers(flow).any(|m| m == *t) || sets_recorded(flow, dead, *t)
                });
            on(Side::Source)
                .chain(register.map(Token::Register))
                .filter(|with| self.is_unpaired(flow, dead, number, *with))
                .filter(|with| self.basis_is_unpaired(flow, i, dead, *with))
                .for_each(|with| first(&mut found, with));
        }
        // Beside anything but plain output the entry does more than deliver to that port.
        let outputs = &flow.actions.outputs;
        if !flow.actions.beyond && !outputs.is_empty() && outputs.iter().all(|p| *p == number) {
            on(Side::Destination)
                .filter(|with| self.is_unpaired(flow, dead, number, *with))
                .for_each(|with| first(&mut found, with));
        }
        found.map(|with| Reason::NobodyHasBoth { port: Token::Port(number), with })
    }

    /// A computed value is the token that it is computed from: who may have that one may have the
    /// value. (A port's number is no second token beside the port.)
    fn basis_is_unpaired(&self, flow: &Flow, i: DeadId, dead: &Dead, with: Token) -> bool {
        let Token::Register(value) = with else { return true };
        let basis = self.learned.basis(i, value);
        basis.zip(dead.ofport).is_none_or(|(basis, port)| self.is_unpaired(flow, dead, port, basis))
    }

    /// No live attachment can have both tokens, and none that has one is as old as the flow.
    fn is_unpaired(&self, flow: &Flow, dead: &Dead, port: u16, with: Token) -> bool {
        let index = &self.index;
        let port_owners = index.port(port).map_or(&[][..], |o| &o.live);
        // An owner whom no attachment explains may have anything; so may an interface that
        // waits for its number.
        let explained = !port_owners.is_empty() || !index.is_live_port(port);
        if !explained || index.port_state(dead, port, None) == PortState::Unsettled {
            return false;
        }
        let other_owners = match with {
            Token::Address(address) => {
                Some(index.address(address).map_or_else(Vec::new, |o| o.live.to_vec()))
            }
            Token::Register(register) => self.learned.owners(register),
            Token::Port(_) => None,
        };
        let Some(other_owners) = other_owners else { return false };
        let younger = |l: &LiveId| index.live(*l).is_some_and(|live| is_older(flow, live));
        let has_port =
            |l: &LiveId| index.live(*l).is_none_or(|live| live.ofport.is_none_or(|p| p == port));
        let has_other = |l: &LiveId| other_owners.contains(l) || self.may_have(*l, with);
        port_owners.iter().all(|l| younger(l) && !has_other(l))
            && other_owners.iter().all(|l| younger(l) && !has_port(l))
    }

    /// Whether a live attachment that is not known to have a token may have it.
    fn may_have(&self, live: LiveId, token: Token) -> bool {
        let shown = self.learned.live_registers.get(live).is_some_and(Option::is_some);
        let Some(live) = self.index.live(live) else { return true };
        let unknown = live.register == LiveRegister::Unknown && !shown;
        match token {
            Token::Address(_) => !live.addresses_known,
            // Without a network nobody recorded what its register is.
            Token::Register(_) => live.network.is_none() || unknown,
            Token::Port(_) => true,
        }
    }
}

/// As `sets`, for a value that the record has. One that was learned from this very dump
/// would vouch for itself.
fn sets_recorded(flow: &Flow, dead: &Dead, token: RegisterToken) -> bool {
    dead.register.is_some_and(|value| value & token.mask == token.value) && sets(flow, token)
}
