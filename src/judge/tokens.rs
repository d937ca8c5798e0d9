//! Tokens, and who owns them.

use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::claims::Owner;
use super::guards;
use super::input::{Dead, DeadId, JudgeInput, Live, LiveId, LiveRegister, Network};
use super::learned::Learned;
use super::owners::{Owners, PortOwners, TokenOwners};
use super::vlans;
use crate::model::flow::{Address, AddressMatch, Flow, RegisterMatch, RegisterWrite, Side};
use crate::model::register::{RegisterRule, RegisterSource};
use crate::util::clock::BootTime;

/// The bridge's own port; never a pod's.
pub(super) const LOCAL: u16 = 65534;

/// Flow durations are whole milliseconds: within this, "older" and "younger" say nothing.
pub(super) const ROUNDING: Duration = Duration::from_millis(1);

/// A number that a pod's port can have (OpenFlow 1.5.1 §7.2.1: the rest is reserved).
pub(super) fn is_pod_port(port: u16) -> bool {
    (1..=0xfeff).contains(&port)
}

/// A value of a register field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegisterToken {
    /// 0 to 15.
    pub index: u8,
    /// The field within it.
    pub mask: u32,
    /// In place: bits outside the mask are zero.
    pub value: u32,
}

impl fmt::Display for RegisterToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { index, mask, value } = *self;
        if mask == u32::MAX {
            write!(f, "reg{index} {value}")
        } else {
            write!(f, "reg{index}/{mask:#x} {value:#x}")
        }
    }
}

/// One part of an identity, as it can appear in a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Token {
    /// An OpenFlow port number.
    Port(u16),
    /// A register value.
    Register(RegisterToken),
    /// An IP or a MAC.
    Address(Address),
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => write!(f, "port {port}"),
            Self::Register(register) => fmt::Display::fmt(register, f),
            Self::Address(Address::Ip(ip)) => write!(f, "ip {ip}"),
            Self::Address(Address::Mac(mac)) => write!(f, "mac {mac}"),
        }
    }
}

impl Serialize for Token {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The register field that carries a network's identities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Field {
    pub(super) index: u8,
    pub(super) mask: u32,
}

/// What one write does to a field.
pub(super) enum Written {
    /// Does not touch it.
    Nothing,
    /// Fills it with a constant.
    Value(u32),
    /// Changes it, but nobody can say to what: a mark in some of its bits, a move.
    Obscure,
}

impl Field {
    /// `None`: registers are no evidence here.
    pub(super) fn of(rule: &RegisterRule) -> Option<Self> {
        let used = rule.source != RegisterSource::None && rule.mask != 0;
        used.then_some(Self { index: rule.index, mask: rule.mask })
    }

    /// The token for a value; zero is what every register starts with, so nobody's.
    pub(super) fn token(self, value: u32) -> Option<RegisterToken> {
        let value = value & self.mask;
        (value != 0).then_some(RegisterToken { index: self.index, mask: self.mask, value })
    }

    /// The token that a match compares, if it compares every bit of the field.
    pub(super) fn matched(self, m: &RegisterMatch) -> Option<RegisterToken> {
        let whole = m.index == self.index && m.mask & self.mask == self.mask;
        if whole { self.token(m.value) } else { None }
    }

    /// The token that a value is computed from, if it is computed from one: the value is dead
    /// exactly where that token is. `None`: the value stands for itself.
    pub(super) fn basis(self, source: RegisterSource, token: RegisterToken) -> Option<Token> {
        let value = token.value.checked_shr(self.mask.trailing_zeros())?;
        match source {
            RegisterSource::Ofport => u16::try_from(value).ok().map(Token::Port),
            RegisterSource::Ipv4 => Some(Token::Address(Address::Ip(Ipv4Addr::from(value).into()))),
            _ => None,
        }
    }

    /// The value that stands for a port's number.
    pub(super) fn of_port(self, port: u16) -> Option<RegisterToken> {
        self.of_number(port.into())
    }

    /// The value that stands for a number. One that does not fit the field is another's.
    pub(super) fn of_number(self, number: u32) -> Option<RegisterToken> {
        let shift = self.mask.trailing_zeros();
        let fits = number <= self.mask.checked_shr(shift)?;
        if fits { self.token(number.checked_shl(shift)?) } else { None }
    }

    /// What a value is, read as a number.
    pub(super) fn number(self, value: u32) -> u32 {
        (value & self.mask).checked_shr(self.mask.trailing_zeros()).unwrap_or(0)
    }

    pub(super) fn written(self, write: &RegisterWrite) -> Written {
        if write.index != self.index || write.mask & self.mask == 0 {
            return Written::Nothing;
        }
        match write.value {
            Some(value) if write.mask & self.mask == self.mask => Written::Value(value & self.mask),
            _ => Written::Obscure,
        }
    }
}

/// Whether a dead attachment's port number is still, and only, its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PortState {
    Dead,
    /// Somebody else has the number now.
    Reassigned,
    /// An interface that waits for its number may be given this one.
    Unsettled,
}

/// An input, and who owns each of its tokens.
pub(super) struct Index<'c> {
    pub(super) input: &'c JudgeInput,
    pub(super) owners: Arc<TokenOwners>,
}

impl<'c> Index<'c> {
    pub(super) fn new(input: &'c JudgeInput) -> Self {
        Self { input, owners: Arc::new(TokenOwners::of(input)) }
    }

    /// That of an input which was surveyed: its owners are known.
    pub(super) fn of_surveyed(input: &'c JudgeInput, learned: &Learned) -> Self {
        match &learned.owners {
            Some(owners) => Self { input, owners: Arc::clone(owners) },
            None => Self::new(input),
        }
    }

    /// The distinct register fields of the input's networks.
    pub(super) fn fields(&self) -> &[Field] {
        &self.owners.fields
    }

    pub(super) fn dead(&self, i: DeadId) -> Option<(&'c Dead, &'c Network)> {
        let dead = self.input.dead.get(i)?;
        Some((dead, self.input.networks.get(dead.network)?))
    }

    pub(super) fn live(&self, i: LiveId) -> Option<&'c Live> {
        self.input.live.get(i)
    }

    pub(super) fn port(&self, port: u16) -> Option<&PortOwners> {
        self.owners.port(port)
    }

    pub(super) fn address(&self, address: Address) -> Option<&Owners> {
        self.owners.address(address)
    }

    /// An attachment's number on this bridge.
    pub(super) fn number(&self, owner: Owner) -> Option<u16> {
        match owner {
            Owner::Dead(i) => self.input.dead.get(i)?.ofport,
            Owner::Live(l) => self.live(l)?.ofport,
        }
    }

    /// Whether an attachment's number changed while it lived. Flows are never adapted by
    /// themselves: those under a number may mean whoever had it before, known or long forgotten.
    pub(super) fn has_moved(&self, owner: Owner) -> bool {
        match owner {
            Owner::Dead(i) => self.input.dead.get(i).is_some_and(Dead::has_moved),
            Owner::Live(l) => self.live(l).is_some_and(Live::has_moved),
        }
    }

    /// Whether a dead attachment's own row still has its only number, and no other dead one had it:
    /// what its classifier loaded while it lived is its value, whatever was recorded before.
    pub(super) fn holds_port(&self, i: DeadId) -> bool {
        let Some(dead) = self.input.dead.get(i) else { return false };
        let owners = dead.ofport.and_then(|port| self.port(port));
        !dead.has_moved()
            && !self.input.ports.unassigned
            && owners.is_some_and(|owners| {
                owners.row.is_some()
                    && owners.row == dead.interface
                    && owners.live.is_empty()
                    && owners.dead[..] == [i]
            })
    }

    /// Who has a number that is another than before, if it is certain, and since when at the latest.
    pub(super) fn renumbered(&self, port: u16) -> Option<(Owner, BootTime)> {
        let owners = self.port(port)?;
        let mut dead = owners.dead.iter().copied().filter(|i| {
            self.input.dead.get(*i).is_some_and(|dead| {
                dead.ofport == Some(port) && (owners.row.is_none() || dead.interface == owners.row)
            })
        });
        let mut live = owners.live.iter().copied();
        let (owner, since) = match (dead.next(), dead.next(), live.next(), live.next()) {
            (Some(i), None, None, None) => {
                (Owner::Dead(i), self.input.dead.get(i).and_then(|dead| dead.number_since))
            }
            (None, None, Some(l), None) => {
                (Owner::Live(l), self.live(l).and_then(|live| live.number_since))
            }
            _ => return None,
        };
        since.filter(|_| self.has_moved(owner)).map(|since| (owner, since))
    }

    /// Somebody alive has this port, known to us or not. LOCAL always lives.
    pub(super) fn is_live_port(&self, port: u16) -> bool {
        port == LOCAL
            || self.port(port).is_some_and(|owners| owners.foreign || !owners.live.is_empty())
    }

    /// The same, for an entry that names another token of this dead attachment's: a number that the dead
    /// one never had counts, too, if somebody alive [may have it again](Self::may_return).
    pub(super) fn is_live_port_beside(&self, dead: &Dead, port: u16) -> bool {
        self.is_live_port(port) || !dead.had(port) && self.may_return(port)
    }

    /// Whether a number that nobody has now was last somebody's who is alive: his port's row was
    /// removed, and may be put back.
    pub(super) fn may_return(&self, port: u16) -> bool {
        let lost_it = |l: &LiveId| self.live(*l).is_some_and(|live| live.ofport.is_none());
        self.port(port)
            .is_some_and(|owners| owners.row.is_none() && owners.live_before.iter().any(lost_it))
    }

    /// Somebody alive has this port, or [may have it again](Self::may_return), who is known to be a pod
    /// or a machine: by a record, by marks (also before its ADD), or by its addresses. An uplink or a
    /// tunnel is nobody's source.
    pub(super) fn is_pods_port(&self, port: u16) -> bool {
        let is_pod =
            |l: &LiveId| self.live(*l).is_some_and(|l| l.is_pod || !l.addresses.is_empty());
        port != LOCAL
            && (self.port(port).is_some_and(|owners| owners.live.iter().any(is_pod))
                || self.may_return(port))
    }

    /// OVSDB does not have this port and nobody explains it. A list of ports without even
    /// LOCAL is no answer, and an interface that waits for its number may be given this one.
    /// A number that a row asks for is that row's, also while its device is missing.
    pub(super) fn is_dangling(&self, port: u16) -> bool {
        let ports = &self.input.ports;
        is_pod_port(port)
            && !ports.unassigned
            && !ports.by_number.is_empty()
            && !ports.requested.contains(&port)
            && self.port(port).is_none()
    }

    /// Whether a number that this dead attachment has, or had, is nobody else's now, as far
    /// as `flow` is concerned (the claim of a pod that is being added does not cover leftovers). Without a flow
    /// every claim counts.
    pub(super) fn port_state(&self, dead: &Dead, port: u16, flow: Option<&Flow>) -> PortState {
        let owners = if is_pod_port(port) { self.port(port) } else { None };
        let Some(owners) = owners else { return PortState::Reassigned };
        // Flows that still mean somebody alive by it are not for us to judge: that one's number has
        // changed since, or is gone with a row that may be put back.
        let has_changed = dead.ofport != Some(port) && !owners.live_before.is_empty();
        let may_return = self.is_of_one_without_port(owners, dead, flow);
        if has_changed || may_return {
            return PortState::Reassigned;
        }
        if self.input.ports.unassigned {
            return PortState::Unsettled;
        }
        let ignored = |l: &LiveId| flow.is_some_and(|flow| self.is_leftover(flow, dead, *l));
        if !owners.live.iter().all(ignored) {
            return PortState::Reassigned;
        }
        let own = owners.row.is_none_or(|row| dead.interface == Some(row));
        // A strange row beside claims that are all ignored is of the pod that is being added.
        let adding = owners.foreign && !owners.live.is_empty();
        if own || adding { PortState::Dead } else { PortState::Reassigned }
    }

    /// Whether a number that nobody else has now may be, as far as `flow` is concerned, that of somebody
    /// alive whose port is not on the bridge: by what was made in his time, and by what names him beside
    /// the number, whoever saw him have it.
    fn is_of_one_without_port(
        &self,
        owners: &PortOwners,
        dead: &Dead,
        flow: Option<&Flow>,
    ) -> bool {
        let dead_has_it = owners.row.is_some() && owners.row == dead.interface;
        if owners.row.is_some() && !dead_has_it {
            return false;
        }
        let is_before_dead = flow.zip(dead.born).is_some_and(|(flow, at)| is_made_before(flow, at));
        let is_made_for = |live: &Live| !flow.is_some_and(|flow| is_older(flow, live));
        let had_it = |live: &Live| {
            live.ofport.is_none()
                && is_made_for(live)
                && (is_before_dead || !dead_has_it && is_later(live.held_number, dead.held_number))
        };
        let names = |live: &Live| {
            flow.is_some_and(|flow| self.is_source(flow, live, dead)) && is_made_for(live)
        };
        let live = |l: &LiveId| self.live(*l);
        owners.live_before.iter().filter_map(live).any(had_it)
            || self.owners.without_port.iter().filter_map(live).any(names)
    }

    /// Whether a flow names what this one sends with and the dead one did not: an address, or the register
    /// value that it gives to what comes from a port, where values tell pods apart.
    fn is_source(&self, flow: &Flow, live: &Live, dead: &Dead) -> bool {
        let sends = |m: &AddressMatch| {
            m.side != Side::Destination
                && live.addresses.contains(&m.address)
                && !dead.addresses.contains(&m.address)
        };
        let rule = || live.network.and_then(|n| self.input.networks.get(n)).map(|n| n.register);
        let gives = |value: u32| {
            let field = rule().filter(|rule| rule.source.tells_pods_apart());
            field.and_then(|rule| Field::of(&rule)).is_some_and(|field| {
                let is_it = |write: &RegisterWrite| {
                    matches!(field.written(write), Written::Value(written) if written == value)
                };
                flow.actions.register_writes.iter().any(is_it)
            })
        };
        flow.matches.addresses.iter().any(sends)
            || matches!(live.register, LiveRegister::Is(value)
                if dead.register != Some(value) && gives(value))
    }

    /// Whether somebody alive has this address, as far as `flow` is concerned.
    pub(super) fn is_live_address(
        &self,
        address: Address,
        dead: &Dead,
        flow: Option<&Flow>,
    ) -> bool {
        let is_other = |l: LiveId, flow: &Flow| {
            self.is_leftover(flow, dead, l)
                || self.live(l).is_some_and(|live| vlans::is_other_owners(dead, live, flow))
        };
        let counts = |l: &LiveId| !flow.is_some_and(|flow| is_other(*l, flow));
        self.address(address).is_some_and(|owners| owners.live.iter().any(counts))
    }

    /// Whether `flow` is what `dead` left behind for a pod that is being added now: older than
    /// that pod, and not made after the death for an owner in between.
    /// Never a policy member: it is right for that pod too, and a set-based controller
    /// would not install it again.
    pub(super) fn is_leftover(&self, flow: &Flow, dead: &Dead, live: LiveId) -> bool {
        self.live(live).is_some_and(|live| live.adding && is_older(flow, live))
            && !guards::created_after(self.input, dead, flow)
            && !guards::looks_like_policy(flow)
    }

    /// Whether the flow matches a token that this dead attachment once had, re-assigned
    /// since or not.
    pub(super) fn once_matched(&self, flow: &Flow, i: DeadId) -> bool {
        let m = &flow.matches;
        let has = |owners: &[DeadId]| owners.contains(&i);
        m.in_port.and_then(|p| self.port(p)).is_some_and(|o| has(&o.dead))
            || m.addresses
                .iter()
                .any(|a| self.address(a.address).is_some_and(|owners| has(&owners.dead)))
    }
}

/// Whether the token that a register value is computed from is this attachment's. A number that
/// its port has on another bridge is none of its tokens here.
pub(super) fn is_its_own(dead: &Dead, basis: Option<Token>) -> bool {
    match basis {
        Some(Token::Port(port)) => dead.had(port),
        Some(Token::Address(address)) => dead.addresses.contains(&address),
        Some(Token::Register(_)) | None => true,
    }
}

impl Dead {
    /// The values that stand for numbers which its port had before, and the numbers.
    pub(crate) fn former_values(
        &self,
        rule: RegisterRule,
    ) -> impl Iterator<Item = (RegisterToken, u16)> {
        let field = Field::of(&rule).filter(|_| rule.source == RegisterSource::Ofport);
        let numbers = self.previous_ofports.iter().filter(|port| is_pod_port(**port));
        numbers.filter_map(move |port| Some((field?.of_port(*port)?, *port)))
    }
}

/// Whether one time is later than another, or may be.
fn is_later(one: Option<BootTime>, other: Option<BootTime>) -> bool {
    one.zip(other).is_none_or(|(one, other)| one > other)
}

/// Certainly older than this live owner: not made for it.
pub(super) fn is_older(flow: &Flow, live: &Live) -> bool {
    live.born.is_some_and(|born| is_made_before(flow, born))
}

/// Certainly made before this.
pub(super) fn is_made_before(flow: &Flow, then: BootTime) -> bool {
    flow.made + ROUNDING < then
}

/// Certainly made after this.
pub(super) fn is_made_after(flow: &Flow, then: BootTime) -> bool {
    flow.made - ROUNDING > then
}

/// Whether a network's rules apply to this flow at all.
pub(super) fn in_scope(network: &Network, flow: &Flow) -> bool {
    network.tables.as_ref().is_none_or(|tables| tables.contains(&flow.table))
        && (flow.cookie ^ network.cookie) & network.cookie_mask == 0
}

pub(super) fn push_once<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}
