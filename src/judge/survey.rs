//! Phase 1: one pass over a dump, in any order. Learns who has which register value, and
//! says which flows are worth keeping for phase 2.
//!
//! Memory grows with attachments and the values that flows load, not with flows.

use foldhash::{HashMap, HashMapExt as _, HashSet, HashSetExt as _};

use super::carried::Carried;
use super::claims::{Claim, Claims, MOST_VALUES, Owner, Seen, TOGETHER, Witnesses};
use super::guards;
use super::input::{DeadId, JudgeInput, Live, LiveRegister, Network};
use super::learned::{self, Learned};
use super::lesson::{Lesson, Load};
use super::tokens::{Field, Index, RegisterToken, Written, is_made_after, is_older, push_once};
use super::vlans::Vlans;
use crate::model::flow::{Actions, AddressMatch, Flow, Side};
use crate::util::clock::BootTime;

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
    recorded: HashMap<RegisterToken, Vec<DeadId>>,
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
        Self::start(Index::new(input), true)
    }

    /// For dumps of some flows only. Nothing is concluded from absence: learned registers
    /// are no evidence, and any register may be one that a flow outputs to. The same flow
    /// may be seen more than once.
    #[must_use]
    pub fn partial(input: &'c JudgeInput) -> Self {
        Self::start(Index::new(input), false)
    }

    /// [`Survey::new`] of an input that was surveyed before.
    #[must_use]
    pub fn again(input: &'c JudgeInput, learned: &Learned) -> Self {
        Self::start(Index::of_surveyed(input, learned), true)
    }

    fn start(index: Index<'c>, complete: bool) -> Self {
        let input = index.input;
        let mut recorded: HashMap<RegisterToken, Vec<DeadId>> = HashMap::new();
        let mut wanted = HashSet::new();
        for i in input.dead.ids() {
            let Some((dead, network)) = index.dead(i) else { continue };
            let Some(field) = Field::of(&network.register) else { continue };
            for (token, _) in dead.former_values(network.register) {
                recorded.entry(token).or_default().push(i);
            }
            match dead.register.and_then(|value| field.token(value)) {
                Some(token) => {
                    recorded.entry(token).or_default().push(i);
                    // It may have been given another value since, or another number.
                    let another = index.holds_port(i) || dead.has_moved();
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
        let learning = input
            .networks
            .values()
            .filter(learned)
            .filter_map(|n| Field::of(&n.register))
            .collect();
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
            witnesses: Witnesses::new(input.networks.values().any(Network::waits_for_two)),
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
        for field in index.fields() {
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
        self.see_successor(flow);
        self.seen.vlans.see(&self.index, flow);
        self.seen.carried.see(&self.index, flow);
        self.see_renamed(flow);
        self.see_delivery(flow);
        self.seen.witnesses.see(&self.index, flow);
        if flow.actions.unread {
            // An action that we cannot read may write anything anywhere.
            self.index.fields().iter().for_each(|f| push_once(&mut self.seen.obscured, *f));
        }
        if !flow.actions.register_writes.is_empty() {
            self.learn(flow);
        }
        self.is_wanted(flow)
    }

    /// Whether a port is nobody's: entries that name it are dangling.
    #[must_use]
    pub fn is_dangling(&self, port: u16) -> bool {
        self.index.is_dangling(port)
    }

    /// Ends the pass.
    #[must_use]
    pub fn finish(mut self) -> Learned {
        for Doubtful { flow, token, is_new } in std::mem::take(&mut self.doubtful) {
            let shown = self.is_shown(&flow, is_new);
            self.learn_value(&Load { flow: &flow, token, nested: false, shown });
        }
        learned::conclude(&self.index, self.seen)
    }

    fn see_successor(&mut self, flow: &Flow) {
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
                Owner::Dead(i) => owners.dead[..] == [i] && owners.live.is_empty(),
                Owner::Live(l) => owners.live[..] == [l] && owners.dead.is_empty(),
            })
        };
        if is_made_after(flow, since) && flow.matches.addresses.iter().any(names) {
            let oldest = seen.renamed.entry((owner, port)).or_default();
            *oldest = flow.made.min(*oldest);
        }
    }

    /// The entry that delivers to an address matches no number: when a controller adapts it, it
    /// delivers at the new one. Until then a restored entry that names the owner beside its new
    /// number was made for somebody else, who had both and may be long forgotten.
    fn see_delivery(&mut self, flow: &Flow) {
        let Self { index, seen, .. } = self;
        let outputs = &flow.actions.outputs;
        if outputs.is_empty() || !index.owners.some_moved {
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
        let together = |named: &BootTime| flow.made + TOGETHER >= *named;
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
        index.fields().iter().any(|field| {
            m.registers.iter().filter_map(|r| field.matched(r)).any(|token| {
                self.recorded.contains_key(&token) || self.may_be_learned(flow, *field, token)
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
    /// will, but for what was there before a pod that is being added; and what part of a dump
    /// shows proves nothing.
    fn may_be_learned(&self, flow: &Flow, field: Field, token: RegisterToken) -> bool {
        let has_it = |live: &Live| live.register == LiveRegister::Is(token.value);
        let certain = |claim: &Claim| match claim.owner {
            Owner::Live(l) => self.index.live(l).is_some_and(|live| {
                (claim.own || has_it(live)) && !(live.adding && is_older(flow, live))
            }),
            Owner::Dead(_) => false,
        };
        let taken = |claims: &Claims| claims.foreign || claims.claims.iter().any(certain);
        self.seen.complete
            && self.wanted.contains(&field)
            && !self.seen.values.get(&token).is_some_and(taken)
    }

    fn learn(&mut self, flow: &Flow) {
        for k in 0..self.index.fields().len() {
            let Some(field) = self.index.fields().get(k).copied() else { continue };
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
        let since = renumbered.map(|(_, since)| since).filter(|since| is_made_after(flow, *since));
        let (Some(since), false) = (since, nested) else {
            return self.learn_value(&Load { flow, token, nested, shown: false });
        };
        let input = self.index.input;
        // Restored entries come after the numbers that a start of ovs-vswitchd gives.
        let is_of_start = input.switch_started.is_some_and(|started| since <= started);
        let is_new = !is_of_start && !guards::was_restored(input, flow);
        if self.doubtful.len() < MOST_VALUES {
            self.doubtful.push(Doubtful { flow: flow.clone(), token, is_new });
        } else {
            self.seen.overflow = true;
        }
    }

    fn learn_value(&mut self, load: &Load<'_>) {
        let Self { index, seen, recorded, learning, .. } = self;
        let token = load.token;
        let field = Field { index: token.index, mask: token.mask };
        if seen.overflow || !(learning.contains(&field) || recorded.contains_key(&token)) {
            return;
        }
        if seen.values.len() >= MOST_VALUES && !seen.values.contains_key(&token) {
            seen.overflow = true;
            return;
        }
        let had_it = recorded.get(&token).map_or(&[][..], Vec::as_slice);
        Lesson::new(index, *load, had_it).learn(seen);
    }
}

/// Live values that are known before the dump, in every field that they fill.
fn recorded_live(index: &Index<'_>) -> HashMap<RegisterToken, Claims> {
    let mut values: HashMap<RegisterToken, Claims> = HashMap::with_capacity(index.input.live.len());
    for (l, live) in index.input.live.iter() {
        let LiveRegister::Is(value) = live.register else { continue };
        let own = live.network.and_then(|n| index.input.networks.get(n));
        let own = own.and_then(|n| Field::of(&n.register));
        for field in index.fields() {
            let fills = own
                .is_none_or(|own| own.index == field.index && own.mask & field.mask == field.mask);
            if fills && let Some(token) = field.token(value) {
                values.entry(token).or_default().claim(Owner::Live(l), false, None);
            }
        }
    }
    values
}
