//! Phase 1: one pass over a dump, in any order. Learns who has which register value, and
//! says which flows are worth keeping for phase 2.
//!
//! Memory grows with attachments and the values that flows load, not with flows.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::basis;
use super::carried::Carried;
use super::guards::{self, OutputRegisters};
use super::input::{Dead, JudgeInput, Live, LiveRegister, Network};
use super::learned::{self, Learned};
use super::tokens::{
    Field, Index, PortState, ROUNDING, RegisterToken, Written, is_older, is_younger, push_once,
};
use super::vlans::{self, Vlans};
use crate::model::flow::{Actions, AddressMatch, Flow, RegisterRange, Side};

/// More values than pods fit on a node: such a register carries something else.
pub(super) const MOST_VALUES: usize = 1 << 15;

/// How long after the first of a pod's entries its controller puts the others, at most, for them
/// to vouch for each other.
const TOGETHER: Duration = Duration::from_secs(1);

/// So soon after a pod was last seen alive its controller puts its entries. Later ones under its
/// number may be of somebody without a record, who has had its number and its address since.
const SOON: Duration = Duration::from_secs(120);

/// Who has a register value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Owner {
    /// Index in `JudgeInput::dead`.
    Dead(usize),
    /// Index in `JudgeInput::live`.
    Live(usize),
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
    pub(super) witness: bool,
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
    pub(super) common: Option<Vec<usize>>,
}

impl Claims {
    pub(super) fn claim(&mut self, owner: Owner, own: bool, oldest: Option<Duration>) {
        match self.claims.iter_mut().find(|c| c.owner == owner) {
            Some(claim) => {
                claim.own |= own;
                claim.oldest = claim.oldest.max(oldest);
            }
            None => {
                self.claims.push(Claim { owner, own, oldest, witness: false, shows: false });
            }
        }
    }

    /// Takes in that the owner has the value by a flow that was made while it had its number.
    fn witness(&mut self, owner: Owner) {
        let of_owner = self.claims.iter_mut().filter(|claim| claim.owner == owner);
        of_owner.for_each(|claim| (claim.witness, claim.shows) = (true, true));
    }

    /// Takes in that the flow of an own claim was made for the owner.
    fn show(&mut self, owner: Owner) {
        let of_owner = self.claims.iter_mut().filter(|claim| claim.owner == owner && claim.own);
        of_owner.for_each(|claim| claim.shows = true);
    }

    /// Live owners, without those whom no attachment explains.
    pub(super) fn live(&self) -> impl Iterator<Item = usize> {
        self.claims.iter().filter_map(|c| match c.owner {
            Owner::Live(l) => Some(l),
            Owner::Dead(_) => None,
        })
    }

    /// Dead owners.
    pub(super) fn dead(&self) -> impl Iterator<Item = usize> {
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
    /// What flows under a number that somebody dead had, too, load for his heir, and the age of
    /// the oldest: own claims of the heir, if some flow names him beside the number.
    inherited: HashMap<(usize, u16, RegisterToken), Duration>,
    /// Heirs that are named beside their number.
    named: HashSet<(usize, u16)>,
    /// What flows under a number that somebody alive had before may load for it.
    pub(super) former: HashSet<(usize, RegisterToken)>,
    /// Owners of a number that is new to them who are named beside it, and the age of the oldest
    /// flow that does.
    renamed: HashMap<(Owner, u16), Duration>,
    /// Owners of a number that is new to them, to one of whose addresses some entry delivers at
    /// another port: their controller has not adapted their entries.
    not_adapted: HashSet<Owner>,
    unwitnessed: Unwitnessed,
}

/// Flows that load a value for the owner of a number and are no witnesses: somebody whom nobody
/// recorded may have had the number before the owner, or since. They show the owner's value if
/// flows that were made together with them name the owner's address beside the number.
#[derive(Default)]
struct Unwitnessed {
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

impl Unwitnessed {
    /// `born`: how long ago the owner came to be.
    fn note(&mut self, owner: Owner, born: Option<Duration>, flow: &Flow, token: RegisterToken) {
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
    fn see(&mut self, index: &Index<'_>, flow: &Flow) {
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
        for (owner, token) in self.unwitnessed.shown().filter(|_| self.complete) {
            if let Some(claims) = self.values.get_mut(&token) {
                claims.show(owner);
            }
        }
    }
}

/// A flow that may mean another owner of its number than the present one.
struct Doubtful {
    flow: Flow,
    token: RegisterToken,
    /// It was made after the number changed: no restart has put it back. A slow controller may
    /// have, for somebody who had the number before and is long forgotten.
    is_new: bool,
}

/// Phase 1; see the module's head.
pub struct Survey<'c> {
    index: Index<'c>,
    seen: Seen,
    /// Values of the dead that are known before the dump, and whose.
    recorded: HashMap<RegisterToken, Vec<usize>>,
    /// Fields in which a dead attachment's value is still to be learned.
    wanted: HashSet<Field>,
    /// Fields whose values are learned at all. Of the others only `recorded` ones count.
    learning: HashSet<Field>,
    /// Flows that load a value under a number that is new to its owner. They may mean whoever had
    /// the number before; the rest of the dump tells.
    doubtful: Vec<Doubtful>,
}

impl<'c> Survey<'c> {
    /// For a dump of every flow of the bridge.
    #[must_use]
    pub fn new(input: &'c JudgeInput) -> Self {
        Self::start(input, true)
    }

    /// For dumps of some flows only. Nothing is concluded from absence: learned registers
    /// are no evidence, and any register may be one that a flow outputs to. The same flow
    /// may be seen more than once.
    #[must_use]
    pub fn partial(input: &'c JudgeInput) -> Self {
        Self::start(input, false)
    }

    fn start(input: &'c JudgeInput, complete: bool) -> Self {
        let index = Index::new(input);
        let mut recorded: HashMap<RegisterToken, Vec<usize>> = HashMap::new();
        let mut wanted = HashSet::new();
        for i in 0..input.dead.len() {
            let Some((dead, network)) = index.dead(i) else { continue };
            let Some(field) = Field::of(&network.register) else { continue };
            for (token, _) in dead.former_values(network.register) {
                recorded.entry(token).or_default().push(i);
            }
            match dead.register.and_then(|value| field.token(value)) {
                Some(token) => {
                    recorded.entry(token).or_default().push(i);
                    // It may have been given another value since, or another number.
                    let another = index.holds_port(i) || !dead.previous_ofports.is_empty();
                    if another && !network.register.source.is_computed() {
                        wanted.insert(field);
                    }
                }
                None if !network.register.source.is_computed() => {
                    wanted.insert(field);
                }
                None => {}
            }
        }
        let learned = |n: &&Network| !n.register.source.is_computed();
        let learning =
            input.networks.iter().filter(learned).filter_map(|n| Field::of(&n.register)).collect();
        let seen = Seen {
            complete,
            outputs: Vec::new(),
            values: recorded_live(&index),
            obscured: Vec::new(),
            overflow: false,
            vlans: Vlans::start(input, complete),
            carried: Carried::default(),
            inherited: HashMap::new(),
            named: HashSet::new(),
            former: HashSet::new(),
            renamed: HashMap::new(),
            not_adapted: HashSet::new(),
            unwitnessed: Unwitnessed {
                wanted: input.networks.iter().any(Network::waits_for_two),
                ..Unwitnessed::default()
            },
        };
        Self { index, seen, recorded, wanted, learning, doubtful: Vec::new() }
    }

    /// Takes in what a bucket of a group does. Before the flows: whoever sends to the group has
    /// the value that a bucket loads, so it is no pod's own.
    pub fn see_bucket(&mut self, bucket: &Actions) {
        let Self { index, seen, learning, .. } = self;
        for range in &bucket.output_registers {
            push_once(&mut seen.outputs, *range);
        }
        for field in &index.fields {
            if bucket.unread {
                push_once(&mut seen.obscured, *field);
            }
            for write in &bucket.register_writes {
                match field.written(write) {
                    Written::Value(value) if learning.contains(field) => {
                        let Some(token) = field.token(value) else { continue };
                        seen.overflow |= seen.values.len() >= MOST_VALUES;
                        let claims = seen.values.entry(token).or_default();
                        (claims.foreign, claims.common) = (true, Some(Vec::new()));
                    }
                    // A computed value is the port or the address that it is computed from.
                    Written::Value(_) | Written::Nothing => {}
                    Written::Obscure => push_once(&mut seen.obscured, *field),
                }
            }
        }
    }

    /// Takes one flow in. True if it may be stale or names somebody dead: its entry is
    /// wanted in phase 2. False: its verdict would be kept.
    pub fn see(&mut self, flow: &Flow) -> bool {
        if self.index.input.ovn {
            return false;
        }
        for range in &flow.actions.output_registers {
            push_once(&mut self.seen.outputs, *range);
        }
        self.see_heir(flow);
        self.seen.vlans.see(&self.index, flow);
        self.seen.carried.see(&self.index, flow);
        self.see_renamed(flow);
        self.see_delivery(flow);
        self.seen.unwitnessed.see(&self.index, flow);
        if flow.actions.unread {
            // An action that we cannot read may write anything anywhere.
            self.index.fields.iter().for_each(|f| push_once(&mut self.seen.obscured, *f));
        }
        if !flow.actions.register_writes.is_empty() {
            self.learn(flow);
        }
        self.is_wanted(flow)
    }

    /// Ends the pass.
    #[must_use]
    pub fn finish(mut self) -> Learned {
        for Doubtful { flow, token, is_new } in std::mem::take(&mut self.doubtful) {
            let shown = self.is_shown(&flow, is_new);
            self.learn_value(&flow, token, false, shown);
        }
        learned::conclude(&self.index, self.seen)
    }

    fn see_heir(&mut self, flow: &Flow) {
        let Self { index, seen, .. } = self;
        let Some(port) = flow.matches.in_port else { return };
        let Some(owners) = index.port(port).filter(|owners| !owners.dead.is_empty()) else {
            return;
        };
        // A dead pod that had the number may have had the address, too: then the address does not
        // name the successor.
        let may_be_dead = |m: &AddressMatch| {
            let mut dead = owners.dead.iter().filter_map(|i| index.dead(*i));
            dead.any(|(dead, _)| !dead.recorded || dead.addresses.contains(&m.address))
        };
        for l in &owners.live {
            let older = index.live(*l).is_some_and(|live| is_older(flow, live));
            let names = |m: &AddressMatch| {
                m.side == Side::Source
                    && !may_be_dead(m)
                    && index.address(m.address).is_some_and(|owners| owners.live.contains(l))
            };
            if !older && flow.matches.addresses.iter().any(names) {
                seen.named.insert((*l, port));
            }
        }
    }

    /// Restored flows name a number's owner of before. One that names the owner of now, by an
    /// address that nobody else has or had, was made for him.
    fn see_renamed(&mut self, flow: &Flow) {
        let Self { index, seen, .. } = self;
        let Some(port) = flow.matches.in_port else { return };
        let Some((owner, since)) = index.renumbered(port) else { return };
        let names = |m: &AddressMatch| {
            let owners = index.address(m.address).filter(|_| m.side == Side::Source);
            owners.is_some_and(|owners| match owner {
                Owner::Dead(i) => owners.dead == [i] && owners.live.is_empty(),
                Owner::Live(l) => owners.live == [l] && owners.dead.is_empty(),
            })
        };
        if is_younger(flow, since) && flow.matches.addresses.iter().any(names) {
            let oldest = seen.renamed.entry((owner, port)).or_default();
            *oldest = flow.duration.max(*oldest);
        }
    }

    /// The entry that delivers to an address matches no number: when a controller adapts it, it
    /// delivers at the new one. Until then a restored entry that names the owner beside its new
    /// number was made for somebody else, who had both and may be long forgotten.
    fn see_delivery(&mut self, flow: &Flow) {
        let Self { index, seen, .. } = self;
        let outputs = &flow.actions.outputs;
        if outputs.is_empty() || !index.some_moved {
            return;
        }
        let to = flow.matches.addresses.iter().filter(|m| m.side == Side::Destination);
        for owners in to.filter_map(|m| index.address(m.address)) {
            let live = owners.live.iter().map(|l| Owner::Live(*l));
            for owner in live.chain(owners.dead.iter().map(|i| Owner::Dead(*i))) {
                let number = index.number(owner).filter(|_| index.has_moved(owner));
                if number.is_some_and(|number| !outputs.contains(&number)) {
                    seen.not_adapted.insert(owner);
                }
            }
        }
    }

    /// Whether a flow under a number that is new to its owner was made for that owner. While the
    /// owner's controller has not adapted its entries, somebody else's made it. A flow that may
    /// be a restored one must come with another that names the owner. Part of a dump does not have
    /// every entry that delivers to somebody alive.
    fn is_shown(&self, flow: &Flow, is_new: bool) -> bool {
        let Some(port) = flow.matches.in_port else { return false };
        let Some((owner, _)) = self.index.renumbered(port) else { return false };
        let all = self.seen.complete || matches!(owner, Owner::Dead(_));
        if !all || self.seen.not_adapted.contains(&owner) {
            return false;
        }
        let together = |named: &Duration| flow.duration <= named.saturating_add(TOGETHER);
        is_new || self.seen.renamed.get(&(owner, port)).is_some_and(together)
    }

    fn is_wanted(&self, flow: &Flow) -> bool {
        let index = &self.index;
        let m = &flow.matches;
        let dead_port = |p: u16| index.port(p).is_some_and(|owners| !owners.dead.is_empty());
        if m.in_port.is_some_and(|p| dead_port(p) || index.is_dangling(p)) {
            return true;
        }
        let dead_address = |a| index.address(a).is_some_and(|owners| !owners.dead.is_empty());
        if m.addresses.iter().any(|a| dead_address(a.address)) {
            return true;
        }
        let actions = &flow.actions;
        let outputs = &actions.outputs;
        if outputs.iter().chain(&actions.port_references).any(|p| dead_port(*p))
            || (!outputs.is_empty() && outputs.iter().all(|p| index.is_dangling(*p)))
        {
            return true;
        }
        index.fields.iter().any(|field| {
            m.registers.iter().filter_map(|r| field.matched(r)).any(|token| {
                self.recorded.contains_key(&token) || self.may_be_learned(*field, token)
            }) || actions
                .register_writes
                .iter()
                .filter_map(|w| match field.written(w) {
                    Written::Value(value) => field.token(value),
                    _ => None,
                })
                .any(|token| self.recorded.contains_key(&token))
        })
    }

    /// Whether a value may turn out to be a dead attachment's, now or when the living whom
    /// flows only protect are known better. Once somebody alive has it for certain it never
    /// will; and what part of a dump shows proves nothing.
    fn may_be_learned(&self, field: Field, token: RegisterToken) -> bool {
        let recorded = |l: usize| self.index.live(l).map(|live| live.register);
        let certain = |claim: &Claim| match claim.owner {
            Owner::Live(l) => claim.own || recorded(l) == Some(LiveRegister::Is(token.value)),
            Owner::Dead(_) => false,
        };
        let taken = |claims: &Claims| claims.foreign || claims.claims.iter().any(certain);
        self.seen.complete
            && self.wanted.contains(&field)
            && !self.seen.values.get(&token).is_some_and(taken)
    }

    fn learn(&mut self, flow: &Flow) {
        for k in 0..self.index.fields.len() {
            let Some(field) = self.index.fields.get(k).copied() else { continue };
            for write in &flow.actions.register_writes {
                match field.written(write) {
                    Written::Nothing => {}
                    Written::Obscure => push_once(&mut self.seen.obscured, field),
                    Written::Value(value) => {
                        if let Some(token) = field.token(value) {
                            self.learn_or_wait(flow, token, write.nested);
                        }
                    }
                }
            }
        }
    }

    fn learn_or_wait(&mut self, flow: &Flow, token: RegisterToken, nested: bool) {
        let renumbered = flow.matches.in_port.and_then(|port| self.index.renumbered(port));
        let since = renumbered.map(|(_, since)| since).filter(|since| is_younger(flow, *since));
        let (Some(since), false) = (since, nested) else {
            return self.learn_value(flow, token, nested, false);
        };
        let input = self.index.input;
        // Restored entries come after the numbers that a start of ovs-vswitchd gives.
        let is_of_start = input.switch_up.is_some_and(|up| since >= up);
        let is_new = !is_of_start && !guards::was_restored(input, flow);
        if self.doubtful.len() < MOST_VALUES {
            self.doubtful.push(Doubtful { flow: flow.clone(), token, is_new });
        } else {
            self.seen.overflow = true;
        }
    }

    /// `shown`: the flow was made when its number was its present owner's, who had another before.
    fn learn_value(&mut self, flow: &Flow, token: RegisterToken, nested: bool, shown: bool) {
        let Self { index, seen, recorded, learning, .. } = self;
        let field = Field { index: token.index, mask: token.mask };
        if seen.overflow || !(learning.contains(&field) || recorded.contains_key(&token)) {
            return;
        }
        if seen.values.len() >= MOST_VALUES && !seen.values.contains_key(&token) {
            seen.overflow = true;
            return;
        }
        let outputs = OutputRegisters { seen: &[], complete: false, carried: &seen.carried };
        let claims = seen.values.entry(token).or_default();
        let inherited = &mut seen.inherited;
        let unwitnessed = &mut seen.unwitnessed;

        // Its dead owners so far, less those whom this flow does not name.
        match &mut claims.common {
            Some(common) => common.retain(|i| index.once_matched(flow, *i)),
            None => claims.common = Some(named_dead(index, flow)),
        }

        // A leftover of somebody dead under a token that somebody younger has now says nothing of
        // the younger one; nor does what a slow controller has put back.
        let leftover = recorded
            .get(&token)
            .is_some_and(|dead| dead.iter().any(|i| index.once_matched(flow, *i)));
        let in_port = flow.matches.in_port;
        let port_owners = in_port.and_then(|port| index.port(port));
        let live_port = port_owners.map_or(&[][..], |o| &o.live);
        let sources = || flow.matches.addresses.iter().filter(|m| m.side != Side::Destination);
        let live_source = sources().filter_map(|m| index.address(m.address)).flat_map(|o| &o.live);
        for l in live_port.iter().chain(live_source) {
            let older = index.live(*l).is_some_and(|live| is_older(flow, live));
            if older && (leftover || is_left_for(index, flow, *l)) {
                continue;
            }
            let owner = Owner::Live(*l);
            let shown = shown && live_port.contains(l);
            let moved = in_port.is_some() && index.has_moved(owner) && !shown;
            if nested {
                claims.foreign = true;
            } else if older || moved {
                claims.claim(owner, false, None);
            } else if let (true, Some(port)) = (leftover, in_port) {
                claims.claim(owner, false, None);
                let known = inherited.entry((*l, port, token)).or_default();
                *known = age_for(index, flow, *l).max(*known);
            } else {
                claims.claim(owner, true, Some(age_for(index, flow, *l)));
                if basis::is_witness(index, flow, *l, shown) {
                    claims.witness(owner);
                } else {
                    let born = index.live(*l).and_then(|live| live.age);
                    unwitnessed.note(owner, born, flow, token);
                }
            }
        }
        // Who had the number before may still be meant by it, unless the flow was made for
        // somebody who was born with it.
        let settled = |l: &usize| {
            index
                .live(*l)
                .is_some_and(|live| live.previous_ofports.is_empty() && !is_older(flow, live))
        };
        let mut may_be_before = false;
        if !nested && !shown && !live_port.iter().any(settled) {
            let before = port_owners.map_or(&[][..], |o| &o.live_before);
            for l in before.iter().filter(|l| may_load(index, Owner::Live(**l), token)) {
                claims.claim(Owner::Live(*l), false, None);
                if index.live(*l).is_some_and(|live| !is_older(flow, live)) {
                    may_be_before = true;
                    seen.former.insert((*l, token));
                }
            }
        }
        if live_port.is_empty() && in_port.is_some_and(|p| index.is_live_port(p)) {
            claims.foreign = true;
        }
        if nested {
            return;
        }

        // Which flows name somebody dead must not depend on who is alive: one more live
        // attachment would make the rest of them look unanimous.
        let mut claim_dead = |i: usize, own: bool| {
            let Some((dead, network)) = index.dead(i) else { return };
            let recorded = dead.register.and_then(|value| field.token(value));
            let seen = dead.seen_alive.saturating_add(ROUNDING);
            let in_its_life =
                dead.born.is_none_or(|born| flow.duration <= born) && flow.duration > seen;
            let another = in_its_life && index.holds_port(i);
            let counts = recorded.is_none_or(|t| t == token || another);
            // What was there before it shows nothing of it.
            let own = own && !dead.is_younger_than(flow.duration);
            if Field::of(&network.register) == Some(field) && counts {
                claims.claim(Owner::Dead(i), own, Some(flow.duration));
                if own && basis::was_witness(index, flow, i, shown) {
                    claims.witness(Owner::Dead(i));
                } else if own
                    && flow.duration.saturating_add(SOON) >= dead.seen_alive
                    && !guards::created_after(index.input, dead, flow)
                {
                    unwitnessed.note(Owner::Dead(i), dead.born, flow, token);
                }
            }
        };
        for i in port_owners.map_or(&[][..], |o| &o.dead) {
            let Some((dead, _)) = index.dead(*i) else { continue };
            if is_of_successor(index, flow, *i) || (shown && dead.ofport != in_port) {
                continue;
            }
            // What it left behind under a newcomer's number still shows its value.
            let dead = |port| index.port_state(dead, port, Some(flow)) == PortState::Dead;
            let moved = index.has_moved(Owner::Dead(*i)) && !shown;
            // What was not made in its life may be what somebody alive left under a number of before.
            let others = may_be_before && !is_of_its_life(index, flow, *i);
            let own = in_port.is_some_and(dead) && !moved && !others;
            claim_dead(*i, own);
        }
        for m in sources().filter(|m| m.side == Side::Source) {
            let Some(owners) = index.address(m.address) else { continue };
            for i in &owners.dead {
                let Some((dead, _)) = index.dead(*i) else { continue };
                let elsewhere =
                    dead.ofport.is_some() && in_port.is_some_and(|port| !dead.had(port));
                if dead.recorded && !elsewhere && !guards::created_after(index.input, dead, flow) {
                    let own = dead.is_evidence(m.address)
                        && !vlans::is_elsewhere(dead, flow)
                        && owners.live.is_empty()
                        && guards::guard(index, outputs, flow, dead, m).is_none();
                    claim_dead(*i, own);
                }
            }
        }
    }
}

/// Whether a flow was made for another of the dead, who was given this one's port number: two
/// rows of a bridge never have one number, so from the other's birth on it meant the other.
fn is_of_successor(index: &Index<'_>, flow: &Flow, i: usize) -> bool {
    let Some(port) = flow.matches.in_port else { return false };
    let (Some(owners), Some((dead, _))) = (index.port(port), index.dead(i)) else { return false };
    let lost = owners.row.is_none_or(|row| dead.interface != Some(row));
    let settled = |dead: &Dead| dead.recorded && dead.previous_ofports.is_empty();
    let succeeds = |other: &Dead| {
        other.ofport == Some(port)
            && settled(other)
            && other.born.zip(dead.born).is_some_and(|(other, this)| other < this)
            && other.born.is_some_and(|born| flow.duration <= born)
    };
    // A restored entry is as old as the restore says only to those who were born since.
    let up = index.input.switch_up;
    let before = dead.born.is_none_or(|born| up.is_some_and(|up| born >= up));
    let restored = before && guards::was_restored(index.input, flow);
    let mut others = owners.dead.iter().filter(|other| **other != i);
    lost && settled(dead)
        && !restored
        && others.any(|other| index.dead(*other).is_some_and(|(other, _)| succeeds(other)))
}

/// Whether the flow may have been made while the attachment lived.
fn is_of_its_life(index: &Index<'_>, flow: &Flow, i: usize) -> bool {
    index.dead(i).is_some_and(|(dead, _)| {
        dead.born.is_none_or(|born| flow.duration <= born.saturating_add(ROUNDING))
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

/// Whether somebody dead left the flow behind for a newcomer: it does not show the
/// newcomer's value either.
fn is_left_for(index: &Index<'_>, flow: &Flow, live: usize) -> bool {
    let left = |i: &usize| index.dead(*i).is_some_and(|(d, _)| index.is_leftover(flow, d, live));
    named_dead(index, flow).iter().any(left)
}

/// The dead attachments that a flow's match names, by tokens of now or of then.
fn named_dead(index: &Index<'_>, flow: &Flow) -> Vec<usize> {
    let port = flow.matches.in_port.and_then(|p| index.port(p)).map(|o| &o.dead);
    let addresses = flow.matches.addresses.iter().filter_map(|m| index.address(m.address));
    let mut named = Vec::new();
    for i in port.into_iter().chain(addresses.map(|o| &o.dead)).flatten() {
        push_once(&mut named, *i);
    }
    named
}

/// The same for a live attachment's own flow: it is not older than its pod.
fn age_for(index: &Index<'_>, flow: &Flow, live: usize) -> Duration {
    let born = index.live(live).and_then(|live| live.age).unwrap_or(Duration::MAX);
    age(index.input, flow).min(born)
}

/// How long this flow may have been there: a restored one looks younger than it is.
fn age(input: &JudgeInput, flow: &Flow) -> Duration {
    if guards::was_restored(input, flow) { Duration::MAX } else { flow.duration }
}

/// Live values that are known before the dump, in every field that they fill.
fn recorded_live(index: &Index<'_>) -> HashMap<RegisterToken, Claims> {
    let mut values: HashMap<RegisterToken, Claims> = HashMap::new();
    for (l, live) in index.input.live.iter().enumerate() {
        let LiveRegister::Is(value) = live.register else { continue };
        let own = live.network.and_then(|n| index.input.networks.get(n));
        let own = own.and_then(|n| Field::of(&n.register));
        for field in &index.fields {
            let fills = own
                .is_none_or(|own| own.index == field.index && own.mask & field.mask == field.mask);
            if fills && let Some(token) = field.token(value) {
                values.entry(token).or_default().claim(Owner::Live(l), false, None);
            }
        }
    }
    values
}
