//! What a flow that loads a register value shows: whose the value is.

use std::time::Duration;

use foldhash::{HashMap, HashSet};

use super::basis;
use super::carried::Carried;
use super::claims::{Claims, Owner, Seen, Witnesses};
use super::guards::{self, OutputRegisters};
use super::input::{Dead, DeadId, Live, LiveId, LiveRegister};
use super::owners::PortOwners;
use super::tokens::{
    Field, Index, PortState, RegisterToken, is_made_after, is_made_before, is_older, push_once,
};
use super::vlans;
use crate::model::flow::{AddressMatch, Flow, Side};
use crate::util::clock::BootTime;

/// So soon after a pod was last seen alive its controller puts its entries. Later ones under its
/// number may be of somebody without a record, who has had its number and its address since.
const SOON: Duration = Duration::from_secs(120);

/// One load of a register value, by a flow.
#[derive(Clone, Copy)]
pub(super) struct Load<'f> {
    pub(super) flow: &'f Flow,
    pub(super) token: RegisterToken,
    /// In a list of its own: a bucket, learn, a clone.
    pub(super) nested: bool,
    /// The flow was made when its number was its present owner's, who had another before.
    pub(super) shown: bool,
}

/// What such a load says of the owners whom its flow names.
pub(super) struct Lesson<'a, 'c> {
    index: &'a Index<'c>,
    load: Load<'a>,
    /// A leftover of somebody dead under a token that somebody younger has now says nothing of
    /// the younger one; nor does what a slow controller has put back.
    leftover: bool,
    port_owners: Option<&'a PortOwners>,
}

impl<'a, 'c> Lesson<'a, 'c> {
    /// `had_it`: dead attachments that are known to have had the value.
    pub(super) fn new(index: &'a Index<'c>, load: Load<'a>, had_it: &[DeadId]) -> Self {
        let leftover = had_it.iter().any(|i| index.once_matched(load.flow, *i));
        let port_owners = load.flow.matches.in_port.and_then(|port| index.port(port));
        Self { index, load, leftover, port_owners }
    }

    /// Takes it in.
    pub(super) fn learn(&self, seen: &mut Seen) {
        let Seen { values, carried, inherited, witnesses, former, .. } = seen;
        let claims = values.entry(self.load.token).or_default();
        self.narrow_common(claims);
        self.claim_for_living(claims, inherited, witnesses);
        let may_be_before = self.claim_for_former_owners(claims, former);
        let in_port = self.load.flow.matches.in_port;
        if self.live_port().is_empty() && in_port.is_some_and(|p| self.index.is_live_port(p)) {
            claims.foreign = true;
        }
        if !self.load.nested {
            // Which flows name somebody dead must not depend on who is alive: one more live
            // attachment would make the rest of them look unanimous.
            self.claim_for_dead_ports(claims, witnesses, may_be_before);
            self.claim_for_dead_addresses(claims, witnesses, carried);
        }
    }

    fn live_port(&self) -> &'a [LiveId] {
        self.port_owners.map_or(&[][..], |owners| &owners.live)
    }

    fn sources(&self) -> impl Iterator<Item = &'a AddressMatch> {
        self.load.flow.matches.addresses.iter().filter(|m| m.side != Side::Destination)
    }

    /// The value's dead owners so far, less those whom this flow does not name.
    fn narrow_common(&self, claims: &mut Claims) {
        let Self { index, load, .. } = self;
        match &mut claims.common {
            Some(common) => common.retain(|i| index.once_matched(load.flow, *i)),
            None => claims.common = Some(named_dead(index, load.flow)),
        }
    }

    fn claim_for_living(
        &self,
        claims: &mut Claims,
        inherited: &mut HashMap<(LiveId, u16, RegisterToken), BootTime>,
        witnesses: &mut Witnesses,
    ) {
        let Self { index, leftover, .. } = *self;
        let Load { flow, token, nested, shown } = self.load;
        let in_port = flow.matches.in_port;
        let live_source =
            self.sources().filter_map(|m| index.address(m.address)).flat_map(|o| &o.live);
        for l in self.live_port().iter().chain(live_source) {
            let older = index.live(*l).is_some_and(|live| is_older(flow, live));
            if older && (leftover || is_left_for(index, flow, *l)) {
                continue;
            }
            let owner = Owner::Live(*l);
            let shown = shown && self.live_port().contains(l);
            let moved = in_port.is_some() && index.has_moved(owner) && !shown;
            if nested {
                claims.foreign = true;
            } else if older || moved {
                claims.claim(owner, false, None);
            } else if let (true, Some(port)) = (leftover, in_port) {
                claims.claim(owner, false, None);
                let known = inherited.entry((*l, port, token)).or_default();
                *known = made_for(index, flow, *l).min(*known);
            } else {
                claims.claim(owner, true, Some(made_for(index, flow, *l)));
                let born = index.live(*l).and_then(|live| live.born);
                if basis::is_made_for_live(index, flow, *l, shown) {
                    claims.prove(owner);
                    if in_port.is_none() {
                        claims.show(owner);
                    }
                    witnesses.note(owner, flow, token, true);
                } else if born.is_some_and(|born| is_made_after(flow, born)) {
                    witnesses.note(owner, flow, token, false);
                }
            }
        }
    }

    /// Who had the number before may still be meant by it, unless the flow was made for somebody
    /// who was born with it. Whether somebody who is alive may be.
    fn claim_for_former_owners(
        &self,
        claims: &mut Claims,
        former: &mut HashSet<(LiveId, RegisterToken)>,
    ) -> bool {
        let Self { index, .. } = *self;
        let Load { flow, token, nested, shown } = self.load;
        let settled = |l: &LiveId| {
            index.live(*l).is_some_and(|live| !live.has_moved() && !is_older(flow, live))
        };
        let mut may_be_before = false;
        if !nested && !shown && !self.live_port().iter().any(settled) {
            let before = self.port_owners.map_or(&[][..], |o| &o.live_before);
            for l in before.iter().filter(|l| may_load(index, Owner::Live(**l), token)) {
                claims.claim(Owner::Live(*l), false, None);
                if index.live(*l).is_some_and(|live| !is_older(flow, live)) {
                    may_be_before = true;
                    former.insert((*l, token));
                }
            }
        }
        may_be_before
    }

    fn claim_for_dead_ports(
        &self,
        claims: &mut Claims,
        witnesses: &mut Witnesses,
        may_be_before: bool,
    ) {
        let Self { index, .. } = *self;
        let Load { flow, shown, .. } = self.load;
        let in_port = flow.matches.in_port;
        for i in self.port_owners.map_or(&[][..], |o| &o.dead) {
            let Some((dead, _)) = index.dead(*i) else { continue };
            if is_of_successor(index, flow, *i) || (shown && dead.ofport != in_port) {
                continue;
            }
            // What it left behind under the number of a pod that is being added still shows its
            // value.
            let dead = |port| index.port_state(dead, port, Some(flow)) == PortState::Dead;
            let moved = index.has_moved(Owner::Dead(*i)) && !shown;
            // What was not made in its life may be what somebody alive left under a number of before.
            let others = may_be_before && !is_of_its_life(index, flow, *i);
            let own = in_port.is_some_and(dead) && !moved && !others;
            self.claim_for_dead(*i, own, claims, witnesses);
        }
    }

    fn claim_for_dead_addresses(
        &self,
        claims: &mut Claims,
        witnesses: &mut Witnesses,
        carried: &Carried,
    ) {
        let Self { index, .. } = *self;
        let flow = self.load.flow;
        let outputs = OutputRegisters { seen: &[], complete: false, carried };
        for m in self.sources().filter(|m| m.side == Side::Source) {
            let Some(owners) = index.address(m.address) else { continue };
            for i in &owners.dead {
                let Some((dead, _)) = index.dead(*i) else { continue };
                let elsewhere = dead.ofport.is_some()
                    && flow.matches.in_port.is_some_and(|port| !dead.had(port));
                if dead.recorded && !elsewhere && !guards::created_after(index.input, dead, flow) {
                    let own = dead.is_evidence(m.address)
                        && !vlans::is_elsewhere(dead, flow)
                        && owners.live.is_empty()
                        && guards::guard(index, outputs, flow, dead, m).is_none();
                    self.claim_for_dead(*i, own, claims, witnesses);
                }
            }
        }
    }

    /// `own`: the flow is certainly the attachment's own, as far as its tokens tell.
    fn claim_for_dead(&self, i: DeadId, own: bool, claims: &mut Claims, witnesses: &mut Witnesses) {
        let Self { index, .. } = *self;
        let Load { flow, token, shown, .. } = self.load;
        let field = Field { index: token.index, mask: token.mask };
        let Some((dead, network)) = index.dead(i) else { return };
        let recorded = dead.register.and_then(|value| field.token(value));
        let in_its_life =
            dead.born.is_none_or(|born| flow.made >= born) && is_made_before(flow, dead.seen_alive);
        let another = in_its_life && index.holds_port(i);
        let counts = recorded.is_none_or(|t| t == token || another);
        // What was there before it shows nothing of it.
        let own = own && !dead.is_younger_than(flow);
        if Field::of(&network.register) != Some(field) || !counts {
            return;
        }
        let owner = Owner::Dead(i);
        claims.claim(owner, own, Some(flow.made));
        if own && basis::is_made_for_dead(index, flow, i, shown) {
            claims.prove(owner);
            // Nobody knows which numbers who has no record had before its number of now.
            if dead.recorded {
                if flow.matches.in_port.is_none() {
                    claims.show(owner);
                }
                witnesses.note(owner, flow, token, true);
            }
        } else if own
            && dead.born.is_some_and(|born| is_made_after(flow, born))
            && flow.made <= dead.seen_alive + SOON
            && !guards::created_after(index.input, dead, flow)
        {
            witnesses.note(owner, flow, token, false);
        }
    }
}

/// Whether a flow was made for another of the dead, who was given this one's port number: two
/// rows of a bridge never have one number, so from the other's birth on it meant the other.
fn is_of_successor(index: &Index<'_>, flow: &Flow, i: DeadId) -> bool {
    let Some(port) = flow.matches.in_port else { return false };
    let (Some(owners), Some((dead, _))) = (index.port(port), index.dead(i)) else { return false };
    let lost = owners.row.is_none_or(|row| dead.interface != Some(row));
    let settled = |dead: &Dead| dead.recorded && !dead.has_moved();
    let succeeds = |other: &Dead| {
        other.ofport == Some(port)
            && settled(other)
            && other.born.zip(dead.born).is_some_and(|(other, this)| other > this)
            && other.born.is_some_and(|born| flow.made >= born)
    };
    // A restored entry is as old as the restore says only to those who were born since.
    let started = index.input.switch_started;
    let before = dead.born.is_none_or(|born| started.is_some_and(|started| born <= started));
    let restored = before && guards::was_restored(index.input, flow);
    let mut others = owners.dead.iter().filter(|other| **other != i);
    lost && settled(dead)
        && !restored
        && others.any(|other| index.dead(*other).is_some_and(|(other, _)| succeeds(other)))
}

/// Whether the flow may have been made while the attachment lived.
fn is_of_its_life(index: &Index<'_>, flow: &Flow, i: DeadId) -> bool {
    index.dead(i).is_some_and(|(dead, _)| {
        dead.born.is_none_or(|born| !is_made_before(flow, born))
            && !guards::created_after(index.input, dead, flow)
    })
}

/// Whether the value may be this attachment's, as far as its record knows, by a number that it
/// had. Who lost a number with its row was not given another: what has the number now, or had
/// it last, is meant.
fn may_load(index: &Index<'_>, owner: Owner, token: RegisterToken) -> bool {
    let recorded = match owner {
        Owner::Dead(i) => index.input.dead.get(i).and_then(|dead| dead.register),
        Owner::Live(l) => match index.live(l) {
            Some(live) if live.ofport.is_none() => return false,
            Some(Live { register: LiveRegister::Is(value), .. }) => Some(*value),
            _ => None,
        },
    };
    recorded.is_none_or(|value| value & token.mask == token.value)
}

/// Whether somebody dead left the flow behind for a pod that is being added: it does not show
/// that pod's value either.
fn is_left_for(index: &Index<'_>, flow: &Flow, live: LiveId) -> bool {
    let left = |i: &DeadId| index.dead(*i).is_some_and(|(d, _)| index.is_leftover(flow, d, live));
    named_dead(index, flow).iter().any(left)
}

/// The dead attachments that a flow's match names, by tokens of now or of then.
fn named_dead(index: &Index<'_>, flow: &Flow) -> Vec<DeadId> {
    let port = flow.matches.in_port.and_then(|p| index.port(p)).map(|o| &o.dead);
    let addresses = flow.matches.addresses.iter().filter_map(|m| index.address(m.address));
    let mut named = Vec::new();
    for i in port.into_iter().chain(addresses.map(|o| &o.dead)).flatten() {
        push_once(&mut named, *i);
    }
    named
}

/// When a live attachment's own flow was made: not before its pod. A restored one may have been there
/// for long.
fn made_for(index: &Index<'_>, flow: &Flow, live: LiveId) -> BootTime {
    let born = index.live(live).and_then(|live| live.born).unwrap_or(BootTime::EARLIEST);
    let restored = guards::was_restored(index.input, flow);
    if restored { born } else { flow.made.max(born) }
}
