//! Who has which register value, as far as a dump shows it.

use std::time::Duration;

use foldhash::{HashMap, HashSet};

use super::carried::Carried;
use super::input::{DeadId, LiveId};
use super::owners::Few;
use super::tokens::{Field, Index, RegisterToken};
use super::vlans::Vlans;
use crate::model::flow::{Address, AddressMatch, Flow, RegisterRange, Side};
use crate::util::clock::BootTime;

/// More values than pods fit on a node: such a register carries something else.
pub(super) const MOST_VALUES: usize = 1 << 15;

/// How long after the first of a pod's entries its controller puts the others, at most, for them
/// to vouch for each other.
pub(super) const TOGETHER: Duration = Duration::from_secs(1);

/// Who has a register value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Owner {
    /// A dead attachment.
    Dead(DeadId),
    /// Somebody alive.
    Live(LiveId),
}

/// What ties an owner to a value.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) owner: Owner,
    /// A flow shows it that is certainly its own: for the living not older than itself, for
    /// the dead under a token that nobody else has now. Else the claim only protects.
    pub(super) own: bool,
    /// When the oldest flow was made that loads the value for it. `None`: only its record, or
    /// flows older than itself, say so.
    pub(super) oldest: Option<BootTime>,
    /// A flow that loads it was made while the owner had its number.
    pub(super) proven: bool,
    /// A flow that loads it shows whose it is: see [`Witnesses`].
    pub(super) shows: bool,
}

/// What is known of one register value.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims {
    pub(super) claims: Few<Claim>,
    /// Loaded for somebody alive whom no attachment explains.
    pub(super) foreign: bool,
    /// The dead attachments whose tokens every flow that loads the value matches; `None`:
    /// no flow loads it.
    pub(super) common: Option<Vec<DeadId>>,
}

impl Claims {
    pub(super) fn claim(&mut self, owner: Owner, own: bool, oldest: Option<BootTime>) {
        match self.claims.iter_mut().find(|c| c.owner == owner) {
            Some(claim) => {
                claim.own |= own;
                claim.oldest = claim.oldest.into_iter().chain(oldest).min();
            }
            None => {
                self.claims.push(Claim { owner, own, oldest, proven: false, shows: false });
            }
        }
    }

    /// Takes in that the owner has the value by a flow that was made while it had its number.
    pub(super) fn prove(&mut self, owner: Owner) {
        let of_owner = self.claims.iter_mut().filter(|claim| claim.owner == owner);
        of_owner.for_each(|claim| claim.proven = true);
    }

    /// Takes in that the flow of an own claim was made for the owner.
    pub(super) fn show(&mut self, owner: Owner) {
        let of_owner = self.claims.iter_mut().filter(|claim| claim.owner == owner && claim.own);
        of_owner.for_each(|claim| claim.shows = true);
    }

    /// Live owners, without those whom no attachment explains.
    pub(super) fn live(&self) -> impl Iterator<Item = LiveId> {
        self.claims.iter().filter_map(|c| match c.owner {
            Owner::Live(l) => Some(l),
            Owner::Dead(_) => None,
        })
    }

    /// Dead owners.
    pub(super) fn dead(&self) -> impl Iterator<Item = DeadId> {
        self.claims.iter().filter_map(|c| match c.owner {
            Owner::Dead(i) => Some(i),
            Owner::Live(_) => None,
        })
    }

    pub(super) fn is_live(&self) -> bool {
        self.foreign || self.live().next().is_some()
    }
}

/// Everything that a dump shows of registers.
pub(super) struct Seen {
    pub(super) complete: bool,
    pub(super) outputs: Vec<RegisterRange>,
    pub(super) values: HashMap<RegisterToken, Claims>,
    /// Fields that some flow changes to what cannot be read as a value.
    pub(super) obscured: Vec<Field>,
    pub(super) overflow: bool,
    pub(super) vlans: Vlans,
    pub(super) carried: Carried,
    /// What flows under a number that somebody dead had, too, load for the number's owner of now,
    /// and when the oldest was made: own claims of the owner, if a flow names it beside the number.
    pub(super) inherited: HashMap<(LiveId, u16, RegisterToken), BootTime>,
    /// Owners of such a number that are named beside it.
    pub(super) named: HashSet<(LiveId, u16)>,
    /// What flows under a number that somebody alive had before may load for it.
    pub(super) former: HashSet<(LiveId, RegisterToken)>,
    /// Owners of a number that is new to them who are named beside it, and when the oldest
    /// flow was made that does.
    pub(super) renamed: HashMap<(Owner, u16), BootTime>,
    /// Owners of a number that is new to them, to one of whose addresses some entry delivers at
    /// another port: their controller has not adapted their entries.
    pub(super) not_adapted: HashSet<Owner>,
    pub(super) witnesses: Witnesses,
}

/// Flows that load a value for the owner of a number. One that proves the value shows it, unless
/// what names IP addresses beside the number and was made together with it names only others':
/// somebody's controller may have put it back there. One that does not prove it may be of somebody
/// whom nobody recorded, who had the number before the owner, or since. It shows the owner's value
/// if flows that were made together with it name the owner's address beside the number.
#[derive(Default)]
pub(super) struct Witnesses {
    /// A network still waits for two pods of one workload that differ. Else nobody asks.
    wanted: bool,
    /// Per number: whose source addresses flows name beside it.
    beside: HashMap<u16, Beside>,
    flows: Vec<Witness>,
}

struct Witness {
    owner: Owner,
    port: u16,
    token: RegisterToken,
    made: BootTime,
    proves: bool,
}

/// When some flows were made.
#[derive(Clone, Copy)]
struct Times {
    first: BootTime,
    last: BootTime,
}

impl Times {
    fn add(times: &mut Option<Self>, made: BootTime) {
        let Self { first, last } = times.unwrap_or(Self { first: made, last: made });
        *times = Some(Self { first: first.min(made), last: last.max(made) });
    }

    fn are_near(times: Option<Self>, made: BootTime) -> bool {
        times.is_some_and(|times| made + TOGETHER >= times.first && made - TOGETHER <= times.last)
    }
}

/// Whose source addresses flows name beside a port's number.
struct Beside {
    /// `None`: nobody's, or two owners'.
    owner: Option<Owner>,
    all: Option<Times>,
    /// Flows that name an address of somebody who has the number.
    of_owners: Option<Times>,
    /// Flows that name IP addresses, and none of somebody who has the number.
    of_others: Option<Times>,
}

impl Beside {
    fn is_of(&self, owner: Owner, made: BootTime) -> bool {
        self.owner == Some(owner) && Times::are_near(self.all, made)
    }

    fn is_of_others(&self, made: BootTime) -> bool {
        Times::are_near(self.of_others, made) && !Times::are_near(self.of_owners, made)
    }
}

impl Witnesses {
    pub(super) fn new(wanted: bool) -> Self {
        Self { wanted, ..Self::default() }
    }

    pub(super) fn note(&mut self, owner: Owner, flow: &Flow, token: RegisterToken, proves: bool) {
        if let Some(port) = flow.matches.in_port
            && self.wanted
            && self.flows.len() < MOST_VALUES
        {
            self.flows.push(Witness { owner, port, token, made: flow.made, proves });
        }
    }

    /// Takes in a flow that names a source address beside a number: it was made for who has both.
    /// A leftover of somebody else's names that one's address.
    pub(super) fn see(&mut self, index: &Index<'_>, flow: &Flow) {
        let Some(port) = flow.matches.in_port.filter(|_| self.wanted) else { return };
        let Some(owners) = index.port(port) else { return };
        let usable = |m: &&AddressMatch| m.side == Side::Source && !m.address.is_unusable();
        let (mut is_owners, mut is_ip) = (false, false);
        for m in flow.matches.addresses.iter().filter(usable) {
            let of = index.address(m.address).map(|of| (&of.dead[..], &of.live[..]));
            let owner = match of {
                Some(([i], [])) if owners.dead.contains(i) => Some(Owner::Dead(*i)),
                Some(([], [l])) if owners.live.contains(l) => Some(Owner::Live(*l)),
                _ => None,
            };
            is_owners |= of.is_some_and(|(dead, live)| {
                dead.iter().any(|i| owners.dead.contains(i))
                    || live.iter().any(|l| owners.live.contains(l))
            });
            is_ip |= matches!(m.address, Address::Ip(_));
            let new = Beside { owner, all: None, of_owners: None, of_others: None };
            let beside = self.beside.entry(port).or_insert(new);
            beside.owner = beside.owner.filter(|known| Some(*known) == owner);
            Times::add(&mut beside.all, flow.made);
        }
        if let Some(beside) = self.beside.get_mut(&port) {
            if is_owners {
                Times::add(&mut beside.of_owners, flow.made);
            } else if is_ip {
                Times::add(&mut beside.of_others, flow.made);
            }
        }
    }

    /// Owners and values that flows show. `complete`: every flow was seen.
    fn shown(&self, complete: bool) -> impl Iterator<Item = (Owner, RegisterToken)> {
        let shows = move |witness: &&Witness| {
            let beside = self.beside.get(&witness.port);
            if witness.proves {
                !beside.is_some_and(|beside| beside.is_of_others(witness.made))
            } else {
                complete && beside.is_some_and(|beside| beside.is_of(witness.owner, witness.made))
            }
        };
        self.flows.iter().filter(shows).map(|witness| (witness.owner, witness.token))
    }
}

impl Seen {
    /// Ends the doubt about what the dead left under a number, or what controllers have put back
    /// since, when everything was seen.
    pub(super) fn settle(&mut self) {
        for ((successor, port, token), oldest) in &self.inherited {
            let named = self.complete && self.named.contains(&(*successor, *port));
            if let (true, Some(claims)) = (named, self.values.get_mut(token)) {
                claims.claim(Owner::Live(*successor), true, Some(*oldest));
            }
        }
        for (owner, token) in self.witnesses.shown(self.complete) {
            if let Some(claims) = self.values.get_mut(&token) {
                claims.show(owner);
            }
        }
    }
}
