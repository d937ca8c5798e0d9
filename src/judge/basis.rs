//! Whether a network's learned register values are computed from a token of their pods: the IPv4
//! address, or the port's number.
//!
//! Guarantee: an entry proves a value if it was made after its attachment had its number. One address
//! shows enough, for nobody else's value happens to be a pod's address. A tenant's number may be a
//! port's by chance: eight numbers show enough, or one that changed with its port's. One
//! attachment with another value ends it.

use serde::{Deserialize, Serialize};

use super::claims::{Owner, Seen};
use super::guards::was_restored;
use super::input::{Dead, DeadId, JudgeInput, LiveId, Network, NetworkId};
use super::learned::{network_of, registers_of};
use super::tokens::{Field, Index, RegisterToken, is_made_after, is_made_before};
use crate::model::flow::{Address, Flow};
use crate::model::register::{RegisterRule, RegisterSource};
use crate::model::row::RowId;
use crate::model::table::Table;
use crate::util::clock::BootTime;

/// So many port numbers that are their attachments' values are no accident.
pub const ENOUGH_PORTS: usize = 8;

/// What a network's register values are computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// The pod's IPv4 address.
    Ipv4,
    /// The port's number.
    Ofport,
}

impl Basis {
    /// As an operator would have configured it.
    pub(super) fn source(self) -> RegisterSource {
        match self {
            Self::Ipv4 => RegisterSource::Ipv4,
            Self::Ofport => RegisterSource::Ofport,
        }
    }
}

/// A port number that was the register value of the attachment that had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortValue {
    /// The attachment's OVSDB Interface row.
    pub row: RowId,
    /// The number.
    pub ofport: u16,
}

/// What is remembered of a network's values and their attachments' tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BasisFacts {
    /// An attachment's value was its own IPv4 address.
    pub ipv4: bool,
    /// An attachment's value was not.
    pub not_ipv4: bool,
    /// Port numbers that were their attachments' values, at most [`ENOUGH_PORTS`].
    pub ports: Vec<PortValue>,
    /// An attachment's value was its port's number, before and after the number changed.
    pub renumbered: bool,
    /// An attachment's value was not its port's number.
    pub not_ofport: bool,
}

impl BasisFacts {
    /// What the values are computed from, as far as these facts show.
    #[must_use]
    pub fn found(&self) -> Option<Basis> {
        let by_port = self.renumbered || self.ports.len() >= ENOUGH_PORTS;
        if self.ipv4 && !self.not_ipv4 {
            Some(Basis::Ipv4)
        } else if by_port && !self.not_ofport {
            Some(Basis::Ofport)
        } else {
            None
        }
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Takes in what another scan found out.
    pub fn add(&mut self, other: &Self) {
        self.ipv4 |= other.ipv4;
        self.not_ipv4 |= other.not_ipv4;
        self.renumbered |= other.renumbered;
        self.not_ofport |= other.not_ofport;
        other.ports.iter().for_each(|port| self.add_port(*port));
    }

    /// One number counts once: whoever has it after its owner may be left the owner's entries.
    fn add_port(&mut self, port: PortValue) {
        let known = self.ports.iter().any(|known| known.ofport == port.ofport);
        if !known && self.ports.len() < ENOUGH_PORTS {
            self.ports.push(port);
        }
    }
}

/// An attachment's tokens, as far as a value can be computed from them.
struct Tokens<'c> {
    row: Option<RowId>,
    ofport: Option<u16>,
    previous_ofports: &'c [u16],
    addresses: &'c [Address],
}

fn tokens(input: &JudgeInput, owner: Owner) -> Option<Tokens<'_>> {
    match owner {
        Owner::Dead(i) => input.dead.get(i).map(|dead| Tokens {
            row: dead.interface,
            ofport: dead.ofport,
            previous_ofports: &dead.previous_ofports,
            addresses: &dead.addresses,
        }),
        Owner::Live(l) => input.live.get(l).map(|live| Tokens {
            row: live.ofport.and_then(|port| input.ports.by_number.get(&port)).copied(),
            ofport: live.ofport,
            previous_ofports: &live.previous_ofports,
            addresses: &live.addresses,
        }),
    }
}

impl Tokens<'_> {
    /// Whether a value is one of its IPv4 addresses. `None`: its addresses are not known.
    fn is_ipv4(&self, field: Field, token: RegisterToken) -> Option<bool> {
        let is_ip = |address: &&Address| matches!(address, Address::Ip(_));
        let mut ips = self.addresses.iter().filter(is_ip).peekable();
        ips.peek()?;
        Some(ips.any(|ip| of_ipv4(field, *ip) == Some(token)))
    }

    /// Whether a value is its port's number. `None`: its port is not on this bridge.
    fn is_ofport(&self, field: Field, token: RegisterToken) -> Option<bool> {
        self.ofport.map(|port| field.of_port(port) == Some(token))
    }

    /// Whether a value is certainly none of its own.
    fn contradicts(&self, basis: Basis, field: Field, token: RegisterToken) -> bool {
        let was = |port: &u16| field.of_port(*port) == Some(token);
        match basis {
            Basis::Ipv4 => self.is_ipv4(field, token) == Some(false),
            Basis::Ofport => {
                self.is_ofport(field, token) == Some(false)
                    && !self.previous_ofports.iter().any(was)
            }
        }
    }
}

fn of_ipv4(field: Field, address: Address) -> Option<RegisterToken> {
    match address {
        Address::Ip(std::net::IpAddr::V4(ip)) => field.of_number(ip.into()),
        _ => None,
    }
}

/// Per network: what was remembered, and what this dump adds.
pub(super) fn facts(index: &Index<'_>, seen: &Seen) -> Table<NetworkId, BasisFacts> {
    let input = index.input;
    let remembered = |n: &Network| if learns(n) { n.basis.clone() } else { BasisFacts::default() };
    let mut facts = input.networks.map(|_, network| remembered(network));
    let mut ports = Vec::new();
    for (n, owner, token) in shown(index, seen, true) {
        let (Some(facts), Some(own)) = (facts.get_mut(n), tokens(input, owner)) else { continue };
        let field = Field { index: token.index, mask: token.mask };
        match own.is_ipv4(field, token) {
            Some(true) => facts.ipv4 = true,
            Some(false) => facts.not_ipv4 = true,
            None => {}
        }
        match (own.is_ofport(field, token), own.ofport, own.row) {
            (Some(true), Some(ofport), Some(row)) => {
                let before =
                    |p: &PortValue| p.row == row && own.previous_ofports.contains(&p.ofport);
                facts.renumbered |= facts.ports.iter().any(before);
                ports.push((n, PortValue { row, ofport }));
            }
            (Some(false), ..) => facts.not_ofport = true,
            _ => {}
        }
    }
    // What is remembered must not depend on the order of the dump.
    ports.sort_unstable_by_key(|(n, port)| (*n, port.ofport));
    for (n, port) in ports {
        facts.get_mut(n).into_iter().for_each(|facts| facts.add_port(port));
    }
    facts
}

/// Per network: what its values are computed from. While an attachment's own entries load another
/// value nothing is, even if they may be older than its number.
pub(super) fn held(
    index: &Index<'_>,
    seen: &Seen,
    facts: &Table<NetworkId, BasisFacts>,
) -> Table<NetworkId, Option<Basis>> {
    let mut held = facts.map(|_, facts| facts.found());
    for (n, owner, token) in shown(index, seen, false) {
        let field = Field { index: token.index, mask: token.mask };
        if let (Some(basis), Some(own)) = (held.get_mut(n), tokens(index.input, owner))
            && basis.is_some_and(|basis| own.contradicts(basis, field, token))
        {
            *basis = None;
        }
    }
    held
}

/// The values that attachments' own entries load into the field of a network that learns; of
/// those that prove it only, or of all that are certainly theirs.
fn shown<'s>(
    index: &'s Index<'_>,
    seen: &'s Seen,
    proven: bool,
) -> impl Iterator<Item = (NetworkId, Owner, RegisterToken)> + 's {
    let all = seen.values.iter().flat_map(|(token, c)| c.claims.iter().map(move |c| (*token, c)));
    all.filter(move |(_, claim)| if proven { claim.proven } else { claim.own })
        .filter_map(|(token, claim)| {
            Some((token, claim.owner, network_of(index.input, claim.owner)?))
        })
        .filter(|(token, _, (_, network))| {
            learns(network)
                && Field::of(&network.register)
                    == Some(Field { index: token.index, mask: token.mask })
        })
        .map(|(token, owner, (n, _))| (n, owner, token))
}

fn learns(network: &Network) -> bool {
    matches!(network.register.source, RegisterSource::Learn { .. })
}

/// Per dead attachment: its value, computed where values are and none is known, or where it is a
/// number's that its port had before.
pub(super) fn computed(
    index: &Index<'_>,
    held: &Table<NetworkId, Option<Basis>>,
    known: &Table<DeadId, Option<u32>>,
) -> Table<DeadId, Option<u32>> {
    known.map(|i, known| {
        let (dead, field, _) = registers_of(index, i)?;
        let Some(basis) = held.get(dead.network).copied().flatten() else { return *known };
        let own = match basis {
            Basis::Ipv4 => dead.addresses.iter().find_map(|address| of_ipv4(field, *address)),
            Basis::Ofport => dead.ofport.and_then(|port| field.of_port(port)),
        };
        let previous_ofports =
            |value: u32| former_values(index, dead, basis).any(|(t, _)| t.value == value);
        let own = own.map(|token| token.value);
        if known.is_none_or(previous_ofports) { own.or(*known) } else { *known }
    })
}

/// The values that stand for numbers which its port had before, where values are port numbers.
pub(super) fn former_values<'d>(
    index: &Index<'_>,
    dead: &'d Dead,
    basis: Basis,
) -> impl Iterator<Item = (RegisterToken, u16)> + use<'d> {
    let rule = index.input.networks.get(dead.network).map(|network| network.register);
    let rule = rule.map(|rule| RegisterRule { source: basis.source(), ..rule });
    rule.into_iter().flat_map(|rule| dead.former_values(rule))
}

/// Whether a flow may have been there before a start of the switch, and before the attachment that
/// has had its number since then.
fn may_be_restored(input: &JudgeInput, flow: &Flow, since: BootTime) -> bool {
    input.switch_started.is_some_and(|started| started >= since) && was_restored(input, flow)
}

/// Whether a flow that is a live attachment's own was made after it had its number.
pub(super) fn is_made_for_live(index: &Index<'_>, flow: &Flow, live: LiveId, shown: bool) -> bool {
    let Some(live_of) = index.live(live) else { return false };
    let Some(born) = live_of.born else { return false };
    let since = live_of.number_since.map_or(born, |since| since.max(born));
    // What somebody dead left under the number, or a slow controller has put back, is his.
    let at_its_port = flow.matches.in_port.is_none_or(|port| {
        live_of.ofport == Some(port) && index.port(port).is_some_and(|o| o.dead.is_empty())
    });
    at_its_port
        && is_made_after(flow, since)
        && (shown || !index.has_moved(Owner::Live(live)))
        && (shown || !may_be_restored(index.input, flow, since))
}

/// The same of a dead attachment, and before it died.
pub(super) fn is_made_for_dead(index: &Index<'_>, flow: &Flow, dead: DeadId, shown: bool) -> bool {
    let Some((dead_of, _)) = index.dead(dead) else { return false };
    let Some(born) = dead_of.born else { return false };
    let since = dead_of.number_since.map_or(born, |since| since.max(born));
    let only = |port| index.port(port).is_some_and(|o| o.dead[..] == [dead] && o.live.is_empty());
    let at_its_port =
        flow.matches.in_port.is_none_or(|port| dead_of.ofport == Some(port) && only(port));
    let alive = is_made_before(flow, dead_of.seen_alive);
    let holds = flow.matches.in_port.is_some() && index.holds_port(dead);
    at_its_port
        && (alive || holds)
        && is_made_after(flow, since)
        && (shown || !index.has_moved(Owner::Dead(dead)))
        && (shown || !may_be_restored(index.input, flow, since))
}
