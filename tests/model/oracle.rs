//! The rules once more, from what is true rather than from what is read: which stale entries
//! must be gone after a call, and which documented exception (docs/promises.md) keeps each of
//! the others. The exceptions are a closed list: an entry that none explains fails the test.

use std::collections::BTreeMap;

use ovs_flow_gc::model::attachment::{Attachment, Register, RegisterHow};
use ovs_flow_gc::model::flow::{Address, AddressMatch, Flow, Side};

use super::bridges::{BridgeId, Bridges, PATCH};
use super::controllers::{Layout, UPLINK};
use super::entries::{Line, Slot};
use super::node::{Broken, Driver, Entry, Kind, Model, Owner, Phase, Pod, PodId, Recorded};
use crate::rig::Who;

/// Why a stale entry is still there. In this order: of several the last counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Exception {
    NamesNobody,
    OnlyMentions,
    NeverRecorded,
    TooLate,
    UnknownNumber,
    UnknownValue,
    ValuesLookShared,
    TokenReused,
    MadeAfterDeath,
    MadeBeforeBirth,
    ReachesALivePort,
    LeavesTheNode,
    ArrivesElsewhere,
    OvnBridge,
    OtherBridge,
    PolicyWaits,
    MayBeArriving,
    PortWaits,
    LookedAtInPart,
    ValueUnproven,
}

impl Exception {
    pub(crate) const ALL: [Self; 20] = [
        Self::NamesNobody,
        Self::OnlyMentions,
        Self::NeverRecorded,
        Self::TooLate,
        Self::UnknownNumber,
        Self::UnknownValue,
        Self::ValuesLookShared,
        Self::TokenReused,
        Self::MadeAfterDeath,
        Self::MadeBeforeBirth,
        Self::ReachesALivePort,
        Self::LeavesTheNode,
        Self::ArrivesElsewhere,
        Self::OvnBridge,
        Self::OtherBridge,
        Self::PolicyWaits,
        Self::MayBeArriving,
        Self::PortWaits,
        Self::LookedAtInPart,
        Self::ValueUnproven,
    ];

    /// Those that are met on one bridge.
    pub(crate) fn of_one_bridge() -> Vec<Self> {
        Self::ALL.into_iter().filter(|exception| *exception != Self::OtherBridge).collect()
    }

    /// The entry goes when what it waits for has come; until then the pod is not forgotten.
    pub(crate) fn waits(self) -> bool {
        self >= Self::PolicyWaits
    }

    /// Its name in docs/promises.md.
    pub(crate) fn name(self) -> String {
        let mut name = String::new();
        for c in format!("{self:?}").chars() {
            if c.is_ascii_uppercase() && !name.is_empty() {
                name.push('-');
            }
            name.push(c.to_ascii_lowercase());
        }
        name
    }
}

/// What was met, so that nothing passes for lack of a chance to fail.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) deleted: u64,
    pub(crate) calls: BTreeMap<&'static str, u64>,
    pub(crate) unfinished: u64,
    pub(crate) judged: u64,
    pub(crate) kept: BTreeMap<Exception, u64>,
    pub(crate) outdated: u64,
    pub(crate) learned: u64,
    /// Living pods' entries that were installed anew while a call looked, and went with the old.
    pub(crate) window: u64,
    /// Entries that wait, for pods whose tombstones are gone.
    pub(crate) forgotten: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        self.deleted += other.deleted;
        self.unfinished += other.unfinished;
        self.judged += other.judged;
        self.outdated += other.outdated;
        self.learned += other.learned;
        self.window += other.window;
        self.forgotten += other.forgotten;
        for (what, n) in &other.calls {
            *self.calls.entry(what).or_default() += n;
        }
        for (exception, n) in &other.kept {
            *self.kept.entry(*exception).or_default() += n;
        }
    }
}

/// How old something must be for its age to tell: file clocks tick, durations are rounded.
const TICK: u64 = 15;
/// A sandbox may be waiting for its ADD so long.
const ARRIVING: u64 = 120_000;
/// Entries that came so soon after the switch may have been put back.
const RESTORE: u64 = 30_000;
/// An entry may be made so long before its pod's sandbox.
const AHEAD: u64 = 60_000;
/// A tombstone waits no longer.
const PATIENCE: u64 = 3_600_000;

/// A dead pod that is remembered: a call looked for its entries.
struct Dead<'a> {
    pod: &'a Pod,
    record: &'a Attachment,
    noticed: u64,
    /// Its number now, on the bridge that is judged.
    current: Option<u16>,
    /// Its port is, or was, on this bridge.
    here: bool,
    /// Its port was attached anew, and its tombstone was gone before it said so: the new number
    /// took the place of the one before.
    attached_anew: bool,
}

impl Dead<'_> {
    fn had(&self, number: u16) -> bool {
        let before = self.record.ofport_before.filter(|_| !self.attached_anew);
        let by_record = [self.current, self.record.ofport, before];
        self.here && by_record.contains(&Some(number))
    }

    fn has(&self, address: &Address) -> bool {
        self.record.addresses().contains(address)
    }
}

/// What a call should have known of a bridge.
struct View<'a, D: Driver> {
    model: &'a Model<D>,
    bridge: BridgeId,
    /// Records that are taken for a living pod's, which may own addresses here.
    living: Vec<(&'a Pod, &'a Attachment)>,
    dead: Vec<Dead<'a>>,
    /// The dead whom the call was not about.
    others: Vec<Dead<'a>>,
    before: &'a Recorded,
    after: &'a Recorded,
    /// When the call began.
    at: u64,
}

/// What is judged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    /// Tombstones are gone: what is left of theirs was kept for good. `alone`: nothing happened
    /// while the call looked, so that it knew what is true.
    Forgets { alone: bool },
    /// A sweep of everything, of which nobody answers for what it left unexplained.
    Full,
}

enum State {
    Dead,
    Reused,
    Unsettled,
}

/// Whether it is one of these addresses.
fn has(who: &Who, address: &Address) -> bool {
    let text = match address {
        Address::Ip(ip) => ip.to_string(),
        Address::Mac(mac) => mac.to_string(),
    };
    [&who.ip, &who.ip6, &who.mac].contains(&&text)
}

fn ours(live: &Attachment, records: &[Attachment]) -> bool {
    records.iter().any(|record| record.is_same(live))
}

impl<'a, D: Driver> View<'a, D> {
    fn new(
        (model, bridge): (&'a Model<D>, BridgeId),
        before: &'a Recorded,
        after: &'a Recorded,
        at: u64,
        about: impl Fn(&Attachment) -> bool,
    ) -> Self {
        let reach = |r: &&Attachment| model.bridges.reach(r, bridge);
        let living = after.records.iter().filter(reach);
        let living = living.map(|r| (&model.pods[model.pod_of(r)], r)).collect();
        let tombstones_written = after.tombstones.iter();
        let removed = before.tombstones.iter().filter(|t| !ours(t, &after.tombstones));
        let died = |record: &Attachment| record.died.map_or(at, |died| died.boot_ms);
        let swept = before
            .records
            .iter()
            .filter(|r| !ours(r, &after.records) && !ours(r, &after.tombstones));
        let all = tombstones_written.chain(removed).chain(swept).map(|record| {
            let pod = &model.pods[model.pod_of(record)];
            let here = pod.bridge == bridge;
            let current = pod.number.or(record.ofport).filter(|_| here);
            let attached_anew = model.is_attached_anew(pod, record);
            Dead { pod, record, noticed: died(record), current, here, attached_anew }
        });
        let (dead, others) = all.partition(|dead| about(dead.record));
        Self { model, bridge, living, dead, others, before, after, at }
    }

    /// Whether the pod is on this bridge or one that shares addresses with it.
    fn is_near(&self, pod: &Pod) -> bool {
        self.model.bridges.joins(pod.bridge, self.bridge)
    }

    /// The entries of this bridge.
    fn entries(&self) -> impl Iterator<Item = &'a Entry> {
        let (model, bridge) = (self.model, self.bridge);
        let all = model.table.values().chain(&model.taken);
        all.filter(move |entry| entry.line.bridge == bridge)
    }

    fn lingered(&self, dead: &Dead<'_>) -> bool {
        dead.noticed + self.model.driver.linger() <= self.at
    }

    /// Its owner's DEL never came to us, and the sandbox is still there.
    fn seems_alive(&self, entry: &Entry) -> bool {
        self.living.iter().any(|(pod, _)| match &entry.owner {
            Owner::Base | Owner::Service | Owner::Operator => false,
            Owner::Pod(id, _) => *id == pod.id,
            Owner::Set(ips) => ips.contains(&pod.who.ip),
            Owner::Machine((_, ip)) => *ip == pod.who.ip,
        })
    }

    /// Somebody alive, as far as anybody knows, has the number now.
    fn is_live_port(&self, number: u16) -> bool {
        match self.model.holder(self.bridge, number) {
            Some(None) => true,
            Some(Some(holder)) => !self.dead.iter().any(|dead| dead.pod.id == holder),
            None => self.may_come_back(number),
        }
    }

    /// Nobody has the number now, and somebody whose end nobody has noticed had it, who has none: his row
    /// may be put back.
    fn may_return(&self, number: u16) -> bool {
        let lost = |(pod, record): &(&Pod, &Attachment)| {
            let had = [record.ofport, record.ofport_before].contains(&Some(number));
            had && pod.bridge == self.bridge && pod.number.is_none()
        };
        self.model.holder(self.bridge, number).is_none() && self.living.iter().any(lost)
    }

    /// The same beside a token of this dead one's.
    fn is_live_port_beside(&self, dead: &Dead<'_>, number: u16) -> bool {
        self.is_live_port(number) || !dead.had(number) && self.may_return(number)
    }

    /// A port that has failed, of somebody whose end nobody has noticed: it may get its number
    /// back.
    fn may_come_back(&self, number: u16) -> bool {
        let failed = |(pod, record): &(&Pod, &Attachment)| {
            let here = pod.row && pod.bridge == self.bridge;
            here && pod.number.is_none() && record.ofport == Some(number)
        };
        self.living.iter().any(failed)
    }

    /// Somebody whose end nobody has noticed had the number after the dead one, and has lost it with
    /// its row, which may be put back.
    fn was_lost(&self, dead: &Dead<'_>, number: u16) -> bool {
        let lost = |(pod, record): &(&Pod, &Attachment)| {
            let held = |record: &Attachment| record.held_number().map(|at| at.boot_ms);
            let later = held(record).zip(held(dead.record)).is_none_or(|(one, other)| one > other);
            let here = pod.bridge == self.bridge && pod.number.is_none();
            later && here && record.ofport == Some(number)
        };
        self.living.iter().any(lost)
    }

    /// Whether an entry with a number that nobody else has may be of somebody alive without a port: he had
    /// it when the entry was made, before the dead one came, or the entry names beside it what he sends
    /// with and the dead one did not.
    fn is_of_one_without_port(&self, entry: &Entry, dead: &Dead<'_>, number: u16) -> bool {
        let before = dead.record.born.is_some_and(|born| entry.from < born.boot_ms);
        let had_it = |(pod, record): &(&Pod, &Attachment)| {
            let had = [record.ofport, record.ofport_before].contains(&Some(number));
            before && had && pod.number.is_none()
        };
        if self.living.iter().any(had_it) {
            return true;
        }
        let flow = &entry.line.flow;
        let addresses = || flow.matches.addresses.iter().filter(|m| m.side != Side::Destination);
        let value = |record: &Attachment| {
            let own = record.register.map(|register| register.value);
            own.filter(|own| dead.record.register.map(|r| r.value) != Some(*own))
        };
        self.living.iter().any(|(pod, record)| {
            let own = record.addresses();
            let by_address = addresses().any(|m| own.contains(&m.address) && !dead.has(&m.address));
            let by_value = || {
                let mut writes = flow.actions.register_writes.iter();
                value(record).is_some_and(|own| writes.any(|write| write.value == Some(own)))
            };
            !pod.row && (by_address || self.model.layout.is_by_value() && by_value())
        })
    }

    fn unsettled(&self) -> bool {
        let waits = |pod: &Pod| pod.row && pod.bridge == self.bridge && pod.number.is_none();
        self.model.pods.iter().any(waits)
    }

    fn port(&self, dead: &Dead<'_>, number: u16) -> State {
        let before = |(pod, record): &(&Pod, &Attachment)| {
            pod.bridge == self.bridge
                && pod.number != Some(number)
                && [record.ofport, record.ofport_before].contains(&Some(number))
        };
        if dead.current != Some(number) && self.living.iter().any(before) {
            return State::Reused;
        }
        if self.unsettled() {
            return State::Unsettled;
        }
        match self.model.holder(self.bridge, number) {
            None if self.may_come_back(number) || self.was_lost(dead, number) => State::Reused,
            None => State::Dead,
            Some(holder) if holder == Some(dead.pod.id) => State::Dead,
            Some(_) => State::Reused,
        }
    }

    fn has_address(&self, address: &Address) -> impl Iterator<Item = &'a Pod> {
        let address = *address;
        let owners = self.living.iter().filter(move |(_, r)| r.addresses().contains(&address));
        // Marks name addresses until the port's row is gone.
        let (bridges, bridge) = (self.model.bridges, self.bridge);
        let outside = self.model.pods.iter().filter(|pod| pod.kind == Kind::Marked && pod.row);
        let outside = outside.filter(move |pod| bridges.joins(pod.bridge, bridge));
        let marked = outside.filter(move |pod| has(&pod.who, &address));
        owners.map(|(pod, _)| *pod).chain(marked)
    }

    /// Whether a pod that may be getting any address is there, and so old that the entry may be
    /// its own; a member of a policy may always be.
    fn may_be_arriving(&self, entry: &Entry, policy: bool) -> bool {
        self.unrecorded().any(|pod| {
            pod.phase != Phase::Gone
                && self.at <= pod.born + ARRIVING + TICK
                && (policy || entry.until + TICK >= pod.born)
        })
    }

    /// Whether the dead pod's value may have been given to somebody without a record.
    fn may_be_given_away(&self, entry: &Entry, dead: &Dead<'_>) -> bool {
        let since = dead.record.seen_alive.boot_ms;
        self.may_be_arriving(entry, false)
            || entry.until + TICK >= since && self.unrecorded().next().is_some()
    }

    /// Pods whose marked ports nobody has recorded. What a pod that is gone leaves has no device
    /// (on a switch it may take a moment to see that).
    fn unrecorded(&self) -> impl Iterator<Item = &Pod> {
        // The tombstone of a DEL without a record says which port was its own when the DEL, or a
        // sweep, has looked.
        let names_its_port = |t: &&Attachment| t.interface.is_some();
        let tombstones_written = self.after.tombstones.iter().filter(names_its_port);
        // The call was about those whose tombstones are gone.
        let forgotten = self.before.tombstones.iter().filter(|t| !ours(t, &self.after.tombstones));
        let known = self.after.records.iter().chain(tombstones_written).chain(forgotten);
        let known: Vec<PodId> = known.map(|record| self.model.pod_of(record)).collect();
        let has_device =
            |pod: &Pod| pod.phase != Phase::Gone || pod.number.is_none() || !D::MAKE_BELIEVE;
        let marked = move |pod: &&Pod| pod.row && has_device(pod) && pod.kind != Kind::Unmarked;
        let all = self.model.pods.iter().filter(marked);
        all.filter(move |pod| self.is_near(pod) && !known.contains(&pod.id))
    }

    fn created_after(&self, entry: &Entry, dead: &Dead<'_>) -> bool {
        entry.until + 2 >= dead.noticed && !self.is_restored_since(entry, dead)
    }

    fn is_restored_since(&self, entry: &Entry, dead: &Dead<'_>) -> bool {
        let started = self.model.started;
        started > dead.noticed && entry.until <= started + RESTORE
    }

    /// Whether an entry that may be as old as the start of the switch may be somebody's without a
    /// record, whose marks name no address.
    fn may_be_unrecorded(&self, entry: &Entry, dead: &Dead<'_>) -> bool {
        entry.until + 2 >= dead.noticed
            && self.is_restored_since(entry, dead)
            && self.unrecorded().any(|pod| pod.kind != Kind::Marked)
    }

    /// What keeps an entry that names this address of the dead pod's.
    fn address(&self, entry: &Entry, dead: &Dead<'_>, m: &AddressMatch) -> Result<(), Exception> {
        let flow = &entry.line.flow;
        if self.has_address(&m.address).next().is_some() {
            return Err(Exception::TokenReused);
        }
        if dead.record.unrecorded {
            return Err(Exception::NeverRecorded);
        }
        // A machine may have moved.
        let moved = |pod: &Pod| {
            let later = pod.id >= dead.pod.id && pod.noticed.is_some();
            pod.kind == Kind::Machine && later && has(&pod.who, &m.address)
        };
        if self.model.pods.iter().any(moved) || dead.pod.kind == Kind::Machine {
            return Err(Exception::LeavesTheNode);
        }
        if self.created_after(entry, dead) {
            return Err(Exception::MadeAfterDeath);
        }
        if flow.actions.outputs.iter().any(|port| self.is_live_port_beside(dead, *port)) {
            return Err(Exception::ReachesALivePort);
        }
        // Which registers are output to: the bases of the layouts.
        let output =
            |index: u8| index == 1 || index == 2 && self.model.layout == Layout::OpenshiftSdn;
        let live = |value: u32| {
            u16::try_from(value).is_ok_and(|port| self.is_live_port_beside(dead, port))
        };
        let mut writes = flow.actions.register_writes.iter();
        if writes.any(|write| output(write.index) && write.value.is_none_or(live)) {
            return Err(Exception::ReachesALivePort);
        }
        if self.model.in_part && self.may_load_a_live_port(flow, dead) {
            return Err(Exception::LookedAtInPart);
        }
        if flow.actions.sets_tunnel || flow.actions.group {
            return Err(Exception::LeavesTheNode);
        }
        let elsewhere = |port: u16| self.is_live_port_beside(dead, port) && !dead.had(port);
        if m.side != Side::Destination && flow.matches.in_port.is_some_and(elsewhere) {
            return Err(Exception::ArrivesElsewhere);
        }
        let ips = || flow.matches.addresses.iter().filter(|m| matches!(m.address, Address::Ip(_)));
        let own = |m: &&AddressMatch| dead.has(&m.address);
        let pair = ips().any(|m| own(&m)) && ips().any(|m| !own(&m));
        // A value may stand for the dead one's address.
        let by_value = !flow.matches.addresses.contains(m) && ips().any(|m| !own(&m));
        let policy = flow.actions.conjunction || pair || by_value;
        // What it sent to somebody alive: a rule of the living one's.
        let alive = |m: &AddressMatch| {
            m.side == Side::Destination && self.has_address(&m.address).next().is_some()
        };
        let towards = m.side != Side::Destination && flow.matches.addresses.iter().any(alive);
        if self.may_be_arriving(entry, policy || towards) || self.may_be_unrecorded(entry, dead) {
            return Err(Exception::MayBeArriving);
        }
        let named = |other: &Dead<'_>| flow.matches.addresses.iter().any(|m| other.has(&m.address));
        let mut all = self.dead.iter().chain(&self.others).filter(|dead| named(dead));
        let all_lingered = all.all(|dead| self.lingered(dead));
        if (policy || towards) && !(self.lingered(dead) && all_lingered) {
            return Err(Exception::PolicyWaits);
        }
        if self.is_from_a_living_pod(flow, dead, policy) {
            return Err(Exception::ArrivesElsewhere);
        }
        // Somebody alive whose value nobody knows may have the one that it matches.
        let by_value = flow.matches.registers.iter().any(|r| r.index == 0 && r.mask == u32::MAX);
        if by_value && self.is_a_value_unknown() && !self.model.layout.is_computed() {
            return Err(Exception::ValueUnproven);
        }
        Ok(())
    }

    /// Whether the entry is for packets of somebody alive: by his port, value or address.
    fn is_from_a_living_pod(&self, flow: &Flow, dead: &Dead<'_>, policy: bool) -> bool {
        let m = &flow.matches;
        let sends = |m: &AddressMatch| m.side != Side::Destination && dead.has(&m.address);
        let sends = m.addresses.iter().any(sends);
        let successors = |port: u16| !(sends && dead.had(port));
        let pods = |port: u16| port != UPLINK && port != PATCH;
        let has_it = |port: u16| self.is_live_port(port) || self.may_return(port);
        let port = |port: u16| pods(port) && has_it(port) && successors(port);
        let near = |pod: &Pod| {
            let by_port = self.model.layout == Layout::Ofport;
            if by_port { pod.bridge == self.bridge } else { self.is_near(pod) }
        };
        let living = |value: u32| {
            let mut pods = self.model.pods.iter();
            self.model.layout.is_by_value()
                && pods.any(|pod| pod.is_living() && near(pod) && self.value_of(pod) == value)
        };
        // An address is somebody's until the row that names it is gone, and so is its value.
        let marked = |value: u32| {
            let address = Address::Ip(std::net::Ipv4Addr::from(value).into());
            self.model.layout == Layout::Ipv4 && self.has_address(&address).next().is_some()
        };
        let seems = |value: u32| {
            let known = |r: &Attachment| {
                let pod = &self.model.pods[self.model.pod_of(r)];
                near(pod) && r.register.is_some_and(|r| r.value == value)
            };
            let tombstones_written = self.before.tombstones.iter().chain(&self.after.tombstones);
            let mut others = tombstones_written.filter(|t| !t.is_same(dead.record));
            // What the call has learned of the living is known to the next one.
            let alive = |r: &&Attachment| ours(r, &self.after.records);
            let mut were_alive = self.before.records.iter().filter(alive);
            // What the dead left under a number that somebody has now looks like his.
            let left = |entry: &Entry| {
                let Flow { matches, actions, .. } = &entry.line.flow;
                matches.in_port.is_some_and(|port| self.is_live_port(port))
                    && actions.register_writes.iter().any(|w| w.value == Some(value))
            };
            living(value)
                || marked(value)
                || self.living.iter().any(|(_, record)| known(record))
                || were_alive.any(known)
                || others.any(known)
                || self.entries().any(left)
        };
        let source = |m: &AddressMatch| {
            m.side == Side::Source && !policy && self.has_address(&m.address).next().is_some()
        };
        m.in_port.is_some_and(port)
            || m.registers.iter().any(|r| r.index == 0 && r.mask == u32::MAX && seems(r.value))
            || m.addresses.iter().any(source)
    }

    /// What stands for a pod in a register now.
    fn value_of(&self, pod: &Pod) -> u32 {
        let ofport = pod.number.unwrap_or(pod.who.ofport);
        self.model.layout.value(&Who { ofport, ..pod.who.clone() })
    }

    /// What stood for a dead one, as far as anybody can know.
    fn values_of(&self, dead: &Dead<'_>) -> Vec<u32> {
        match self.model.layout {
            Layout::Ipv4 => vec![dead.pod.who.reg],
            // No packet brings a value along from another bridge.
            _ if !dead.here => Vec::new(),
            Layout::Classifier => vec![dead.pod.who.reg],
            Layout::Ofport => {
                let known = [dead.current, dead.record.ofport, dead.record.ofport_before];
                known.into_iter().flatten().map(u32::from).collect()
            }
            _ => Vec::new(),
        }
    }

    /// What keeps an entry that uses a value that is computed from a token of the dead pod's.
    fn computed(&self, entry: &Entry, dead: &Dead<'_>, value: u32) -> Result<(), Exception> {
        let flow = &entry.line.flow;
        if self.model.layout == Layout::Ofport {
            let number = u16::try_from(value).unwrap();
            match self.port(dead, number) {
                State::Dead if self.is_of_one_without_port(entry, dead, number) => {
                    return Err(Exception::TokenReused);
                }
                State::Dead => {}
                State::Reused => return Err(Exception::TokenReused),
                State::Unsettled => return Err(Exception::PortWaits),
            }
            let here = |pod: &Pod| pod.bridge == self.bridge;
            let waits = |pod: &Pod, r: &Attachment| pod.number.or(r.ofport).is_none();
            if self.living.iter().any(|(pod, record)| here(pod) && waits(pod, record)) {
                return Err(Exception::ValueUnproven);
            }
        } else {
            let address = Address::Ip(dead.pod.who.ip.parse().unwrap());
            self.address(entry, dead, &AddressMatch { address, side: Side::Unknown })?;
        }
        let others = Flow { matches: flow.matches.clone(), ..Flow::default() };
        let mut others = others;
        others.matches.registers.retain(|m| m.value != value);
        if self.is_from_a_living_pod(&others, dead, false) {
            return Err(Exception::ArrivesElsewhere);
        }
        let loads = |entry: &Entry| {
            let Flow { matches, actions, .. } = &entry.line.flow;
            actions.register_writes.iter().any(|w| w.index == 0 && w.value == Some(value))
                && matches.in_port.is_some_and(|port| self.is_live_port(port) || !dead.had(port))
        };
        if self.entries().any(loads) {
            return Err(Exception::ValueUnproven);
        }
        Ok(())
    }

    /// Whether the entry writes what is a living port's number, if any register may be one that
    /// some entry outputs to.
    fn may_load_a_live_port(&self, flow: &Flow, dead: &Dead<'_>) -> bool {
        let identity = |index: u8| index == 0 && self.model.layout == Layout::Classifier;
        let live = |value: u32| {
            u16::try_from(value)
                .is_ok_and(|port| port >= 0xff00 || self.is_live_port_beside(dead, port))
        };
        let mut writes = flow.actions.register_writes.iter().filter(|w| !identity(w.index));
        writes.any(|w| {
            let value = w.value.unwrap_or_default();
            let aligned = value >> w.mask.trailing_zeros();
            [value, aligned, value & 0xffff, value >> 16].into_iter().any(live)
        })
    }

    /// What keeps an entry that uses the dead pod's register value.
    fn value(&self, entry: &Entry, dead: &Dead<'_>) -> Result<(), Exception> {
        let own = |r: &Register| r.how == RegisterHow::Learned && r.value == dead.pod.who.reg;
        let Some(register) = dead.record.register.filter(own) else {
            return Err(Exception::UnknownValue);
        };
        if self.after.state.register.register_shared {
            return Err(Exception::ValuesLookShared);
        }
        let same = |record: &Attachment| {
            let pod = &self.model.pods[self.model.pod_of(record)];
            let has = record.register.is_some_and(|r| r.value == register.value);
            self.is_near(pod) && (pod.who.reg == register.value || has)
        };
        // A tombstone that names no bridge yet counts on each.
        let anywhere = |record: &Attachment| {
            record.bridge.is_none() && record.register.is_some_and(|r| r.value == register.value)
        };
        let mut others = self.dead.iter().map(|dead| dead.record).chain(&self.after.tombstones);
        let shared =
            others.any(|other| !other.is_same(dead.record) && (same(other) || anywhere(other)));
        let unknown = self.is_a_value_unknown() || self.seem_to_share();
        // Whoever was given the value since answers for what uses it.
        if self.living.iter().any(|(_, record)| same(record)) {
            return Err(Exception::TokenReused);
        }
        // Somebody alive was taken to have it when the call looked.
        let seemed = |r: &Attachment| r.register.is_some_and(|r| r.value == register.value);
        let near = |r: &&Attachment| self.is_near(&self.model.pods[self.model.pod_of(r)]);
        let mut records = self.before.records.iter().filter(near);
        if records.any(|r| ours(r, &self.after.records) && seemed(r)) {
            return Err(Exception::ValueUnproven);
        }
        // Another one had the value when this one was there, as far as anybody knew.
        let together = |other: &Pod| {
            let over = |a: &Pod, b: &Pod| a.noticed.is_some_and(|noticed| noticed < b.born);
            other.id != dead.pod.id
                && self.is_near(other)
                && other.who.reg == register.value
                && !over(other, dead.pod)
                && !over(dead.pod, other)
        };
        let shared = shared || self.model.pods.iter().any(together);
        // A number that changed hands shows one value for two.
        let moved = self.living.iter().any(|(_, record)| record.ofport_before.is_some());
        // What a scan of one bridge shows of a network the other one's is not told before the next call.
        let one = self.model.bridges == Bridges::One;
        let told = if one { &self.after.state } else { &self.before.state };
        if shared || unknown || moved || !told.register.register_told_apart {
            return Err(Exception::ValueUnproven);
        }
        // Flows of somebody else's loaded it, too, when the call looked.
        let all = || self.dead.iter().chain(&self.others);
        let loads = |entry: &Entry| {
            let writes = &entry.line.flow.actions.register_writes;
            let m = &entry.line.flow.matches;
            writes.iter().any(|w| w.index == 0 && w.value == Some(register.value))
                && !m.in_port.is_some_and(|port| {
                    let own = |other: &Dead<'_>| other.pod.id == dead.pod.id || !other.had(port);
                    dead.had(port) && !self.is_live_port(port) && all().all(own)
                })
        };
        if self.entries().any(loads) || self.may_be_given_away(entry, dead) {
            return Err(Exception::ValueUnproven);
        }
        Ok(())
    }

    /// Whether a living pod's value was not known when the call looked.
    fn is_a_value_unknown(&self) -> bool {
        // The call read the records once, for both bridges.
        let was_unknown = |(pod, record): &(&Pod, &Attachment)| {
            let before = || self.before.records.iter().find(|r| r.is_same(record));
            pod.bridge != self.bridge && before().is_none_or(|r| r.register.is_none())
        };
        self.living.iter().any(|(_, record)| record.register.is_none())
            || self.living.iter().any(was_unknown)
    }

    /// Whether a pod that is gone, which the call was not to notice, seemed to share its value with
    /// one that lives.
    fn seem_to_share(&self) -> bool {
        let of = |pod: &Pod, (other, record): &(&Pod, &Attachment)| {
            let known = record.register.is_some_and(|r| r.value == pod.who.reg);
            other.id != pod.id && (other.who.reg == pod.who.reg || known)
        };
        let ghost = |(pod, _): &(&Pod, &Attachment)| {
            pod.phase == Phase::Gone && self.living.iter().any(|other| of(pod, other))
        };
        self.living.iter().any(ghost)
    }

    fn uses(&self, flow: &Flow, value: u32) -> bool {
        let matched = flow
            .matches
            .registers
            .iter()
            .any(|m| m.index == 0 && m.mask == u32::MAX && m.value == value);
        let last = flow.actions.register_writes.iter().rev().find(|w| w.index == 0);
        self.model.layout.is_by_value() && (matched || last.is_some_and(|w| w.value == Some(value)))
    }

    /// Rule 4: it delivers to dead ports and does nothing else.
    fn delivers_to_nobody(&self, entry: &Entry) -> bool {
        let flow = &entry.line.flow;
        let from_living = |m: &AddressMatch| {
            m.side != Side::Destination && self.has_address(&m.address).next().is_some()
        };
        let own = |d: &Dead<'_>, m: &AddressMatch| {
            let known = |a: &Address| a.kind() == m.address.kind();
            let unknown = d.record.unrecorded && !d.record.addresses().iter().any(known);
            let rewritten = flow.actions.rewrites_destination;
            m.side == Side::Destination
                && !m.address.is_unusable()
                && (d.has(&m.address) || unknown && !rewritten)
        };
        let dead_port = |port: &u16| {
            let is_dead = |d: &Dead<'_>| {
                d.had(*port)
                    && Self::is_in_vlan(flow, d)
                    && !Self::was_there_before(entry, d)
                    && matches!(self.port(d, *port), State::Dead)
                    && !self.is_of_one_without_port(entry, d, *port)
                    && flow.matches.addresses.iter().any(|m| own(d, m))
            };
            self.dead.iter().any(is_dead)
        };
        !flow.actions.beyond
            && !flow.actions.outputs.is_empty()
            && flow.actions.outputs.iter().all(dead_port)
            && !flow.matches.addresses.iter().any(from_living)
            && !flow
                .matches
                .in_port
                .is_some_and(|port| self.is_live_port(port) || self.may_return(port))
    }

    /// Rule 5: it pairs the dead pod's number with an address of its, as nobody alive does, and
    /// is older than whoever has either.
    fn nobody_has_both(&self, entry: &Entry, dead: &Dead<'_>) -> bool {
        let flow = &entry.line.flow;
        let Some(number) = dead.current else { return false };
        let outputs = &flow.actions.outputs;
        let delivers =
            !flow.actions.beyond && !outputs.is_empty() && outputs.iter().all(|p| *p == number);
        let paired = |m: &&AddressMatch| {
            dead.has(&m.address)
                && match m.side {
                    Side::Source => flow.matches.in_port == Some(number),
                    Side::Destination => delivers,
                    Side::Unknown => false,
                }
        };
        let explained = |number: u16| match self.model.holder(self.bridge, number) {
            Some(Some(holder)) => self.living.iter().any(|(pod, _)| pod.id == holder),
            Some(None) => false,
            None => true,
        };
        // The age of who is not in our chain is not known.
        let younger = |pod: &Pod| pod.kind != Kind::Marked && entry.until + TICK < pod.born;
        let has = |(pod, record): &&(&Pod, &Attachment)| {
            pod.bridge == self.bridge
                && pod.number.or(record.ofport.filter(|_| pod.row)) == Some(number)
        };
        let with_number: Vec<&Pod> = self.living.iter().filter(has).map(|(p, _)| *p).collect();
        !dead.record.unrecorded
            && explained(number)
            && !self.unsettled()
            && flow.matches.addresses.iter().filter(paired).any(|m| {
                let with_address: Vec<&Pod> = self.has_address(&m.address).collect();
                with_number.iter().chain(&with_address).all(|pod| younger(pod))
                    && !with_number.iter().any(|a| with_address.iter().any(|b| a.id == b.id))
                    // Whose port is on the other bridge has no number here, and may get one.
                    && with_address.iter().all(|p| p.number.is_some() && p.bridge == self.bridge)
            })
    }

    fn is_in_vlan(flow: &Flow, dead: &Dead<'_>) -> bool {
        flow.matches.vlan.is_none_or(|vlan| dead.record.vlans.contains(&vlan))
    }

    fn names(flow: &Flow, dead: &Dead<'_>) -> bool {
        flow.matches.in_port.is_some_and(|port| dead.had(port))
            || flow.actions.outputs.iter().any(|port| dead.had(*port))
            || flow.matches.addresses.iter().any(|m| dead.has(&m.address))
    }

    /// Whether the entry may be older than the pod, and than those whose entries it inherits, by
    /// more than a minute.
    fn was_there_before(entry: &Entry, dead: &Dead<'_>) -> bool {
        let earliest = dead.record.earliest();
        earliest.is_some_and(|earliest| entry.from + AHEAD < earliest.boot_ms + TICK)
    }

    /// Whether the rules promise that this one's call takes the entry, or what keeps it. `None`:
    /// it is not about this one.
    fn promise(&self, entry: &Entry, dead: &Dead<'_>) -> Option<Result<(), Exception>> {
        if !self.model.bridges.are_judged(dead.record, self.bridge) {
            return None;
        }
        let flow = &entry.line.flow;
        let vlan = self.model.layout.vlan(dead.pod.who.reg);
        if flow.matches.vlan.is_some_and(|said| Some(said) != vlan) {
            return None;
        }
        // A record that never saw its port does not know the VLAN.
        if !Self::is_in_vlan(flow, dead) {
            return Self::names(flow, dead).then_some(Err(Exception::OnlyMentions));
        }
        let mut values = self.values_of(dead);
        values.retain(|value| self.uses(flow, *value));
        if !Self::names(flow, dead) && values.is_empty() {
            return None;
        }
        if self.model.layout == Layout::Ovn {
            return Some(Err(Exception::OvnBridge));
        }
        if Self::was_there_before(entry, dead) {
            return Some(Err(Exception::MadeBeforeBirth));
        }
        let mut kept = Vec::new();
        if let Some(number) = flow.matches.in_port.filter(|port| dead.had(*port)) {
            match self.port(dead, number) {
                State::Dead if self.is_of_one_without_port(entry, dead, number) => {
                    kept.push(Exception::TokenReused);
                }
                State::Dead => return Some(Ok(())),
                State::Reused => kept.push(Exception::TokenReused),
                State::Unsettled => kept.push(Exception::PortWaits),
            }
        }
        for value in values {
            let computed = self.model.layout.is_computed();
            match if computed { self.computed(entry, dead, value) } else { self.value(entry, dead) }
            {
                Ok(()) => return Some(Ok(())),
                Err(why) => kept.push(why),
            }
        }
        for m in flow.matches.addresses.iter().filter(|m| dead.has(&m.address)) {
            match self.address(entry, dead, m) {
                Ok(()) => return Some(Ok(())),
                Err(why) => kept.push(why),
            }
        }
        if self.delivers_to_nobody(entry) || self.nobody_has_both(entry, dead) {
            return Some(Ok(()));
        }
        let kept = kept.into_iter().max();
        Some(Err(kept.unwrap_or(Exception::OnlyMentions)))
    }
}

impl<D: Driver> Model<D> {
    /// Takes down what the records say, after every call. `alone`: see [`Call::Forgets`].
    pub(crate) fn after_call(
        &mut self,
        what: &'static str,
        before: &Recorded,
        at: u64,
        alone: bool,
    ) -> Result<(), Broken> {
        *self.tally.calls.entry(what).or_default() += 1;
        let after = self.driver.recorded();
        for record in &after.records {
            let id = self.pod_of(record);
            self.pods[id].recorded = true;
            let known = [record.ofport, record.ofport_before].into_iter().flatten();
            self.pods[id].known = known.collect();
        }
        for tombstone in before.tombstones.iter().chain(&after.tombstones) {
            let id = self.pod_of(tombstone);
            let anew = self.is_attached_anew(&self.pods[id], tombstone);
            let before = tombstone.ofport_before.filter(|_| !anew);
            let pod = &mut self.pods[id];
            let died = tombstone.died.map(|died| died.boot_ms);
            pod.known = [tombstone.ofport, before, pod.number].into_iter().flatten().collect();
            pod.noticed = pod.noticed.or(died);
        }
        let known = after.records.iter().map(|record| self.pod_of(record));
        let known: Vec<PodId> = known.collect();
        if let Some(pod) =
            self.pods.iter().find(|p| p.phase == Phase::Live && !known.contains(&p.id))
        {
            return Err(format!("after {what} living pod {} has no record", pod.id));
        }
        // A sweep deletes nothing where nobody has said what is in scope.
        if !after.configured && !after.tombstones.is_empty() {
            return Err(format!("after {what} no sweep may do what is left"));
        }
        // Whose tombstone is gone has nothing left that waits.
        let gone = |t: &Attachment| !ours(t, &after.tombstones) && !ours(t, &after.records);
        if before.tombstones.iter().any(gone) {
            self.judge(what, before, &after, at, &gone, Call::Forgets { alone })?;
        }
        Ok(())
    }

    pub(crate) fn promised_after_sweep(
        &mut self,
        hasty: bool,
        before: &Recorded,
        at: u64,
    ) -> Result<(), Broken> {
        let after = self.driver.recorded();
        for record in &after.records {
            let pod = &self.pods[self.pod_of(record)];
            // The end of a sandbox that was gone when its ADD looked is not noticed.
            if pod.phase == Phase::Gone && record.netns.is_some() {
                return Err(format!("the sweep wrote no tombstone of pod {}", pod.id));
            }
        }
        if !hasty {
            self.values_are_known(before, &after, at)?;
        }
        let linger = self.driver.linger();
        for record in before.tombstones.iter().chain(&before.records) {
            let died = record.died.map_or(at, |died| died.boot_ms);
            let kept = ours(record, &after.tombstones) || ours(record, &after.records);
            if !kept && !record.unrecorded && at.max(self.driver_now()) < died + linger {
                return Err(format!("the sweep forgot pod {}", self.pod_of(record)));
            }
        }
        self.judge("the sweep", before, &after, at, &|_| true, Call::Full)
    }

    /// A look at everything teaches every living pod's value, as long as no number has changed
    /// hands, and none of the dead had its number and, perhaps, its address: what is put back of
    /// that one looks the same.
    fn values_are_known(
        &mut self,
        before: &Recorded,
        after: &Recorded,
        at: u64,
    ) -> Result<(), Broken> {
        if self.layout != Layout::Classifier
            || self.forgot
            || after.records.iter().any(|r| r.ofport_before.is_some())
        {
            return Ok(());
        }
        for record in &after.records {
            let pod = &self.pods[self.pod_of(record)];
            let classifier =
                format!("table=0, priority=100,in_port={}", record.ofport.unwrap_or(0));
            let entry = self.table.get(&Line::slot(pod.bridge, &classifier));
            let own =
                |e: &&Entry| matches!(e.owner, Owner::Pod(id, _) if id == pod.id) && e.until < at;
            let mut dead = before.tombstones.iter().chain(&after.tombstones).collect::<Vec<_>>();
            dead.retain(|d| [d.ofport, d.ofport_before].contains(&record.ofport));
            let address =
                |d: &&Attachment| d.unrecorded || d.ips.iter().any(|ip| record.ips.contains(ip));
            let looks_the_same = dead.iter().any(address);
            if entry.is_none_or(|e| !own(&e)) || pod.number != record.ofport || looks_the_same {
                continue;
            }
            self.tally.learned += 1;
            if record.register.map(|r| r.value) != Some(pod.who.reg) {
                return Err(format!(
                    "the sweep did not learn the value of pod {}: {record:?}",
                    pod.id
                ));
            }
        }
        Ok(())
    }

    fn driver_now(&mut self) -> u64 {
        self.driver.now()
    }

    /// Whether a pod has another row, and another number, than its record says.
    fn is_attached_anew(&self, pod: &Pod, record: &Attachment) -> bool {
        let another = pod.number.is_some() && pod.number != record.ofport;
        another && !self.driver.is_row_of(record, pod)
    }

    /// Holds every stale entry against the rules.
    fn judge(
        &mut self,
        what: &str,
        before: &Recorded,
        after: &Recorded,
        at: u64,
        about: &dyn Fn(&Attachment) -> bool,
        call: Call,
    ) -> Result<(), Broken> {
        if self.forgot {
            return Ok(());
        }
        let mut kept: Vec<(Slot, Exception)> = Vec::new();
        let (mut outdated, mut stale, mut forgotten_now) = (0, 0, 0);
        let view = |bridge| View::new((self, bridge), before, after, at, about);
        let views: Vec<_> = self.bridges.ids().map(view).collect();
        for (slot, entry) in &self.table {
            let view = &views[entry.line.bridge];
            if self.is_live(entry) {
                continue;
            }
            if self.is_outdated(entry) {
                outdated += 1;
                continue;
            }
            stale += 1;
            let promises: Vec<_> =
                view.dead.iter().filter_map(|d| Some((d, view.promise(entry, d)?))).collect();
            if let Some((dead, _)) = promises.iter().find(|(_, promise)| promise.is_ok()) {
                // What was put back while the call looked is the next one's.
                if entry.from >= at {
                    kept.push((slot.clone(), Exception::TooLate));
                    continue;
                }
                // Who had a token of its when the call looked is gone since.
                if call == (Call::Forgets { alone: false }) {
                    kept.push((slot.clone(), Exception::TokenReused));
                    continue;
                }
                return Err(format!(
                    "after {what} a stale entry of {:?} is left, which the rules promise to take \
                     for pod {}: {} (the engine says: {})",
                    entry.owner,
                    dead.pod.id,
                    entry.line.text,
                    self.driver.why(slot)
                ));
            }
            let why = promises.iter().filter_map(|(_, promise)| promise.err()).max();
            if let Some(why) = why {
                let patient = |d: &Dead<'_>| d.noticed + PATIENCE > at;
                let forgotten = call != Call::Full && why.waits();
                forgotten_now += u64::from(forgotten && promises.iter().any(|(d, _)| patient(d)));
                kept.push((slot.clone(), why));
            } else if call == Call::Full && !view.seems_alive(entry) {
                let Some(why) = self.unanswered(entry) else {
                    return Err(format!(
                        "after {what} nobody answers for a stale entry of {:?}: {}",
                        entry.owner, entry.line.text
                    ));
                };
                kept.push((slot.clone(), why));
            }
        }
        self.tally.judged += stale;
        self.tally.forgotten += forgotten_now;
        self.tally.outdated += outdated;
        for (slot, why) in kept {
            if let Some(entry) = self.table.get_mut(&slot) {
                entry.kept = Some(why);
            }
            *self.tally.kept.entry(why).or_default() += 1;
        }
        Ok(())
    }

    /// What explains a stale entry when nobody who is remembered has to do with it.
    fn unanswered(&self, entry: &Entry) -> Option<Exception> {
        if let Some(kept) = entry.kept {
            return Some(kept);
        }
        if self.layout == Layout::Ovn {
            return Some(Exception::OvnBridge);
        }
        // Nobody who is remembered knows that the machine is not there any more.
        if matches!(entry.owner, Owner::Machine(_)) {
            return Some(Exception::LeavesTheNode);
        }
        let flow = &entry.line.flow;
        let own = |pod: &Pod| match &entry.owner {
            Owner::Base | Owner::Service | Owner::Operator => false,
            Owner::Pod(id, _) => *id == pod.id,
            Owner::Set(ips) => ips.contains(&pod.who.ip),
            Owner::Machine((_, ip)) => *ip == pod.who.ip,
        };
        let near = |pod: &&Pod| self.bridges.joins(pod.bridge, entry.line.bridge);
        let owners = || self.pods.iter().filter(|pod| own(pod)).filter(near);
        let names = |pod: &Pod| {
            let matched = |m: &AddressMatch| has(&pod.who, &m.address);
            let value = |v: u32| match self.layout {
                Layout::Classifier | Layout::Ipv4 => v == pod.who.reg,
                Layout::Ofport => u16::try_from(v).is_ok_and(|v| pod.numbers.contains(&v)),
                _ => false,
            };
            flow.matches.in_port.is_some_and(|port| pod.numbers.contains(&port))
                || flow.actions.outputs.iter().any(|port| pod.numbers.contains(port))
                || flow.matches.addresses.iter().any(matched)
                || flow
                    .matches
                    .registers
                    .iter()
                    .any(|m| m.index == 0 && m.mask == u32::MAX && value(m.value))
                || flow
                    .actions
                    .register_writes
                    .iter()
                    .any(|w| w.index == 0 && w.value.is_some_and(value))
        };
        if !owners().any(names) {
            return Some(Exception::NamesNobody);
        }
        // A member names addresses only, and a machine's may live on another node.
        let moved = |pod: &Pod| pod.kind == Kind::Machine && !pod.is_living();
        if matches!(entry.owner, Owner::Set(_)) && owners().any(moved) {
            return Some(Exception::LeavesTheNode);
        }
        let is_far = |pod: &Pod| !self.bridges.are_named() && pod.bridge != entry.line.bridge;
        if owners().any(|pod| !pod.is_living() && is_far(pod)) {
            return Some(Exception::OtherBridge);
        }
        // Of the dead, who had the address last counts: until then the entry was somebody's.
        let dead = || owners().filter(|pod| !pod.is_living());
        let last = |pod: &Pod| !dead().any(|other| other.who.ip == pod.who.ip && other.id > pod.id);
        if dead().any(|pod| last(pod) && !pod.recorded) {
            return Some(Exception::NeverRecorded);
        }
        let linger = self.driver.linger();
        let late =
            |pod: &Pod| pod.noticed.is_none_or(|noticed| entry.first + TICK >= noticed + linger);
        if owners().filter(|pod| pod.recorded && !pod.is_living()).all(late) {
            return Some(Exception::TooLate);
        }
        // By a number that no record has had.
        if let Owner::Pod(id, Some(number)) = entry.owner
            && !self.pods[id].known.contains(&number)
        {
            return Some(Exception::UnknownNumber);
        }
        None
    }
}
