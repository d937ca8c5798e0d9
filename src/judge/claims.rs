//! Who has which register value, as far as a dump shows it.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::carried::Carried;
use super::input::{DeadId, LiveId};
use super::tokens::{Field, Index, RegisterToken, is_younger};
use super::vlans::Vlans;
use crate::model::flow::{AddressMatch, Flow, RegisterRange, Side};

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
    /// The age of the oldest flow that loads the value for it. `None`: only its record, or
    /// flows older than itself, say so.
    pub(super) oldest: Option<Duration>,
    /// A flow that loads it was made while the owner had its number.
    pub(super) proven: bool,
    /// The same, or a flow that loads it was made together with one that names the owner.
    pub(super) shows: bool,
}

/// What is known of one register value.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims {
    pub(super) claims: Vec<Claim>,
    /// Loaded for somebody alive whom no attachment explains.
    pub(super) foreign: bool,
    /// The dead attachments whose tokens every flow that loads the value matches; `None`:
    /// no flow loads it.
    pub(super) common: Option<Vec<DeadId>>,
}

impl Claims {
    pub(super) fn claim(&mut self, owner: Owner, own: bool, oldest: Option<Duration>) {
        match self.claims.iter_mut().find(|c| c.owner == owner) {
            Some(claim) => {
                claim.own |= own;
                claim.oldest = claim.oldest.max(oldest);
            }
            None => {
                self.claims.push(Claim { owner, own, oldest, proven: false, shows: false });
            }
        }
    }

    /// Takes in that the owner has the value by a flow that was made while it had its number.
    pub(super) fn prove(&mut self, owner: Owner) {
        let of_owner = self.claims.iter_mut().filter(|claim| claim.owner == owner);
        of_owner.for_each(|claim| (claim.proven, claim.shows) = (true, true));
    }

    /// Takes in that the flow of an own claim was made for the owner.
    fn show(&mut self, owner: Owner) {
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
    /// and the age of the oldest: own claims of the owner, if a flow names it beside the number.
    pub(super) inherited: HashMap<(LiveId, u16, RegisterToken), Duration>,
    /// Owners of such a number that are named beside it.
    pub(super) named: HashSet<(LiveId, u16)>,
    /// What flows under a number that somebody alive had before may load for it.
    pub(super) former: HashSet<(LiveId, RegisterToken)>,
    /// Owners of a number that is new to them who are named beside it, and the age of the oldest
    /// flow that does.
    pub(super) renamed: HashMap<(Owner, u16), Duration>,
    /// Owners of a number that is new to them, to one of whose addresses some entry delivers at
    /// another port: their controller has not adapted their entries.
    pub(super) not_adapted: HashSet<Owner>,
    pub(super) unproven: Unproven,
}

/// Flows that load a value for the owner of a number and do not prove it: somebody whom nobody
/// recorded may have had the number before the owner, or since. They show the owner's value if
/// flows that were made together with them name the owner's address beside the number.
#[derive(Default)]
pub(super) struct Unproven {
    /// A network still waits for two pods of one workload that differ. Else nobody asks.
    wanted: bool,
    /// Per number: whose source addresses flows name beside it.
    beside: HashMap<u16, Beside>,
    /// Whose value, under which number, and the flow's age.
    flows: Vec<(Owner, u16, RegisterToken, Duration)>,
}

/// Whose source addresses flows name beside a port's number.
struct Beside {
    /// `None`: nobody's, or two owners'.
    owner: Option<Owner>,
    youngest: Duration,
    oldest: Duration,
}

impl Beside {
    fn is_of(&self, owner: Owner, age: Duration) -> bool {
        self.owner == Some(owner)
            && age.saturating_add(TOGETHER) >= self.youngest
            && age <= self.oldest.saturating_add(TOGETHER)
    }
}

impl Unproven {
    pub(super) fn new(wanted: bool) -> Self {
        Self { wanted, ..Self::default() }
    }

    /// `born`: how long ago the owner came to be.
    pub(super) fn note(
        &mut self,
        owner: Owner,
        born: Option<Duration>,
        flow: &Flow,
        token: RegisterToken,
    ) {
        if let Some(port) = flow.matches.in_port
            && born.is_some_and(|born| is_younger(flow, born))
            && self.wanted
            && self.flows.len() < MOST_VALUES
        {
            self.flows.push((owner, port, token, flow.duration));
        }
    }

    /// Takes in a flow that names a source address beside a number: it was made for who has both.
    /// A leftover of somebody else's names that one's address.
    pub(super) fn see(&mut self, index: &Index<'_>, flow: &Flow) {
        let Some(port) = flow.matches.in_port.filter(|_| self.wanted) else { return };
        let Some(owners) = index.port(port) else { return };
        let usable = |m: &&AddressMatch| m.side == Side::Source && !m.address.is_unusable();
        for m in flow.matches.addresses.iter().filter(usable) {
            let of = index.address(m.address).map(|of| (&of.dead[..], &of.live[..]));
            let owner = match of {
                Some(([i], [])) if owners.dead.contains(i) => Some(Owner::Dead(*i)),
                Some(([], [l])) if owners.live.contains(l) => Some(Owner::Live(*l)),
                _ => None,
            };
            let age = flow.duration;
            let beside =
                self.beside.entry(port).or_insert(Beside { owner, youngest: age, oldest: age });
            beside.owner = beside.owner.filter(|known| Some(*known) == owner);
            beside.youngest = beside.youngest.min(age);
            beside.oldest = beside.oldest.max(age);
        }
    }

    /// Owners and values that flows show after all.
    fn shown(&self) -> impl Iterator<Item = (Owner, RegisterToken)> {
        let named = |(owner, port, _, age): &&(Owner, u16, RegisterToken, Duration)| {
            self.beside.get(port).is_some_and(|beside| beside.is_of(*owner, *age))
        };
        self.flows.iter().filter(named).map(|(owner, _, token, _)| (*owner, *token))
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
        for (owner, token) in self.unproven.shown().filter(|_| self.complete) {
            if let Some(claims) = self.values.get_mut(&token) {
                claims.show(owner);
            }
        }
    }
}
