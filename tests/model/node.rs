//! The reference model: a node as it truly is. Pods with their tokens, controllers, and a table
//! that knows whose every entry is. What has the switch and calls our verbs is a [`Driver`].

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use ovs_flow_gc::config::NetworkState;
use ovs_flow_gc::model::attachment::Attachment;
use ovs_flow_gc::ovsdb::Ofport;

use super::bridges::{BridgeId, Bridges, PATCH};
use super::controllers::{self, Layout, SLOT, TENANTS, UPLINK, member, odd};
use super::entries::{Line, Slot};
use super::oracle::{Exception, Tally};
use super::steps::{Pause, Step, When};
use crate::rig::Who;

/// Port numbers that pods get: few, so that they are used again and again.
const NUMBERS: std::ops::RangeInclusive<u16> = 2..=9;
/// The last bytes of their addresses.
const ADDRESSES: std::ops::RangeInclusive<u8> = 2..=7;
/// Register values, where pods have their own.
const VALUES: std::ops::RangeInclusive<u32> = 0x1001..=0x1006;
/// Pods with a sandbox at once, at most, and rows.
const SANDBOXES: usize = 5;
const ROWS: usize = 7;
/// An ADD that takes longer has failed.
const ADD_TAKES_MS: u64 = 100_000;
/// What is older than a pod by so much was not made for it.
const SLOT_IS_OLD_MS: u64 = 65_000;

pub(crate) type PodId = usize;

/// Where a pod is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Sandbox and port are there, our ADD has not come.
    Arriving,
    /// Our ADD is done.
    Live,
    /// Dead: our DEL was called, or ADD failed. The sandbox is still there.
    Leaving,
    /// Dead, and the sandbox gone.
    Gone,
    /// It lives, and our ADD will never come.
    Outside,
}

/// What a pod is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// In our chain.
    Ours,
    /// The pod of a virtual machine, in our chain.
    Machine,
    /// In our chain; it asks for a number and an address that the operator has rules for.
    Slot,
    /// Its port has a CNI's marks, with its addresses.
    Marked,
    /// Its port has no marks.
    Unmarked,
}

/// A pod.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) id: PodId,
    pub(crate) kind: Kind,
    /// The bridge that its port is on.
    pub(crate) bridge: BridgeId,
    /// How often its port was attached.
    pub(crate) attached: u32,
    /// Its tokens; `ofport` is what was asked for.
    pub(crate) who: Who,
    pub(crate) phase: Phase,
    /// Its port has a row in OVSDB.
    pub(crate) row: bool,
    /// The row's number.
    pub(crate) number: Option<u16>,
    /// Every number that it ever had.
    pub(crate) numbers: BTreeSet<u16>,
    /// Those that its record knew.
    pub(crate) known: BTreeSet<u16>,
    pub(crate) born: u64,
    pub(crate) when: When,
    /// The number by which its controller has installed its entries.
    pub(crate) installed: Option<u16>,
    /// What it has beside its layout's.
    pub(crate) extras: Vec<Extra>,
    /// A record was seen.
    pub(crate) recorded: bool,
    /// When its death was noticed, by its tombstone.
    pub(crate) noticed: Option<u64>,
}

impl Pod {
    pub(crate) fn is_living(&self) -> bool {
        matches!(self.phase, Phase::Arriving | Phase::Live | Phase::Outside)
    }

    fn may_be_renumbered(&self) -> bool {
        self.row && self.number.is_some() && self.recorded && self.kind != Kind::Slot
    }

    /// Its namespace and name. A tenant has a namespace; all that is not a machine is of one
    /// workload.
    pub(crate) fn name(&self, layout: Layout) -> (String, String) {
        let letters: String = format!("{:05}", self.id)
            .bytes()
            .map(|digit| char::from(b"bcdfghjklm"[usize::from(digit - b'0')]))
            .collect();
        match self.kind {
            Kind::Machine => ("vms".to_owned(), format!("virt-launcher-vm-{letters}")),
            _ if layout == Layout::Tenants => (
                format!("tenant-{:x}", self.who.reg),
                format!("web{:x}-7c5d8f9b64-{letters}", self.who.reg),
            ),
            _ => ("shop".to_owned(), format!("web-7c5d8f9b64-{letters}")),
        }
    }

    pub(crate) fn container(&self) -> String {
        format!("c{:04}", self.id)
    }

    pub(crate) fn port(&self) -> String {
        format!("veth{:04}", self.id)
    }
}

/// A machine on another node: on which bridge its entries are here, and its address.
pub(crate) type Machine = (BridgeId, String);

/// Whose an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The node's.
    Base,
    /// A pod's; the number by which it names the pod, if it does.
    Pod(PodId, Option<u16>),
    /// A set's, for these addresses.
    Set(Vec<String>),
    /// A service's, whichever pod is behind it.
    Service,
    /// The operator's, for a slot.
    Operator,
    /// A machine's that is on another node, by its address.
    Machine(Machine),
}

/// An entry that a pod has beside its layout's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Extra {
    /// One of [`odd`].
    Odd(u8),
    /// A rule for another pod's addresses.
    Rule { kind: u8, ip: String, mac: String },
}

impl Extra {
    fn of(&self, who: &Who, layout: Layout) -> String {
        match self {
            Self::Odd(kind) => odd(who, *kind),
            Self::Rule { kind, ip, mac } => {
                controllers::rule(who, ip, mac, *kind, layout.is_by_value())
            }
        }
    }
}

/// An entry of the table.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) line: Rc<Line>,
    pub(crate) owner: Owner,
    /// When it was installed at last: not before this …
    pub(crate) from: u64,
    /// … and not after this.
    pub(crate) until: u64,
    /// When it was installed by its controller, whatever was restored since.
    pub(crate) first: u64,
    /// What kept it when somebody who answers for it was last looked at.
    pub(crate) kept: Option<Exception>,
}

pub(crate) type Table = BTreeMap<Slot, Entry>;

/// What is written down.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    pub(crate) records: Vec<Attachment>,
    pub(crate) tombstones: Vec<Attachment>,
    pub(crate) state: NetworkState,
    /// The network's configuration is on record.
    pub(crate) configured: bool,
}

/// The switch, its database, the records, and our verbs.
pub(crate) trait Driver {
    /// A call of ours that has looked at the switch and not yet acted.
    type Call;
    /// Numbers can be exchanged without a restart, ports wait for numbers, hours pass.
    const MAKE_BELIEVE: bool;
    fn bridges(&self) -> Bridges;
    fn now(&mut self) -> u64;
    fn pass(&mut self, ms: u64);
    fn linger(&self) -> u64;
    /// A sandbox and a port that asks for `who.ofport`; `slow`: the number is still to come.
    fn plug(&mut self, pod: &Pod, slow: bool);
    fn end_sandbox(&mut self, pod: &Pod);
    fn unplug(&mut self, pod: &Pod);
    fn renumber(&mut self, pod: &Pod, number: u16, other: Option<&Pod>);
    /// The port anew; `pod.attached` is one more than before.
    fn reattach(&mut self, pod: &Pod, number: u16);
    fn settle_numbers(&mut self);
    fn restart(&mut self, numbers: &[(&Pod, u16)], restored: &[Rc<Line>]);
    fn numbers(&mut self) -> BTreeMap<PodId, Ofport>;
    fn install(&mut self, lines: &[Rc<Line>]);
    /// Other actions for an entry that is there, which stays as old as it is.
    fn modify(&mut self, line: &Rc<Line>);
    fn add(&mut self, pod: &Pod, crash: u8) -> Self::Call;
    fn del(&mut self, pod: &Pod, crash: u8) -> Self::Call;
    fn sweep(&mut self, hasty: bool, crash: u8) -> Self::Call;
    /// The state directory is removed, and the pods that run are adopted.
    fn forget(&mut self) {}
    /// The bridge is so small that every call looks at all of it.
    fn is_small(&self) -> bool;
    /// The rest of the call: whether it came to its end.
    fn finish(&mut self, call: Self::Call) -> bool;
    /// What of the table is not on the switch.
    fn lost(&mut self, table: &Table) -> Vec<Slot>;
    fn recorded(&mut self) -> Recorded;
    /// Whether the pod has the row that the record says, where that is known.
    fn is_row_of(&self, _record: &Attachment, _pod: &Pod) -> bool {
        true
    }
    /// What the engine said of the entry, where that is known.
    fn why(&self, _slot: &Slot) -> String {
        String::new()
    }
}

/// What a member of a policy is to its controller.
#[derive(Clone, Debug)]
struct Membership {
    bridge: BridgeId,
    ips: Vec<String>,
    /// Since when one of the addresses is nobody's.
    nobodys: Option<u64>,
}

/// The node.
pub(crate) struct Model<D: Driver> {
    pub(crate) driver: D,
    pub(crate) layout: Layout,
    pub(crate) bridges: Bridges,
    pub(crate) pods: Vec<Pod>,
    pub(crate) table: Table,
    /// Members that the set-based controllers believe to be there.
    believed: BTreeMap<Slot, Membership>,
    /// Machines on other nodes that were here.
    pub(crate) machines: BTreeSet<Machine>,
    /// When ovs-vswitchd started.
    pub(crate) started: u64,
    /// The last call may have looked at a part of the bridge only.
    pub(crate) in_part: bool,
    /// What the last call took.
    pub(crate) taken: Vec<Entry>,
    /// Pods with a call of ours under way: a runtime makes one after the other.
    busy: Vec<PodId>,
    /// Calls under way.
    under_way: u32,
    /// Records may be lost. Then numbers change with a start of ovs-vswitchd only: an adopted record
    /// does not know of others (docs/promises.md, "What it rests on").
    pub(crate) may_forget: bool,
    /// Records were lost: what the dead of before leave is nobody's promise.
    pub(crate) forgot: bool,
    /// Steps that did something.
    pub(crate) steps: u64,
    pub(crate) tally: Tally,
    pub(crate) history: Vec<String>,
}

/// What went wrong.
pub(crate) type Broken = String;

impl<D: Driver> Model<D> {
    pub(crate) fn new(driver: D, layout: Layout) -> Self {
        let mut model = Self {
            bridges: driver.bridges(),
            driver,
            layout,
            pods: Vec::new(),
            table: Table::new(),
            believed: BTreeMap::new(),
            machines: BTreeSet::new(),
            started: 0,
            in_part: false,
            taken: Vec::new(),
            busy: Vec::new(),
            under_way: 0,
            may_forget: false,
            forgot: false,
            steps: 0,
            tally: Tally::default(),
            history: Vec::new(),
        };
        model.started = model.driver.now();
        model.base();
        model
    }

    fn base(&mut self) {
        let base = self.layout.base();
        let on = |bridge| base.iter().map(move |line| (Line::on(bridge, line), Owner::Base));
        self.install(self.bridges.ids().flat_map(on).collect());
    }

    /// Does a step. Whether there was anything to do.
    pub(crate) fn step(&mut self, step: &Step) -> Result<(), Broken> {
        self.driver.pass(20);
        self.controllers_notice();
        if self.perform(step)? {
            self.steps += 1;
            self.history.push(format!("{step:?}"));
        }
        Ok(())
    }

    fn perform(&mut self, step: &Step) -> Result<bool, Broken> {
        match step {
            Step::Plug { number, address, value, when, slow } => {
                Ok(self.plug(Kind::Ours, [*number, *address, *value], *when, *slow))
            }
            Step::Machine { number, address, value, when } => {
                Ok(self.plug(Kind::Machine, [*number, *address, *value], *when, false))
            }
            Step::UnrecordedPort { number, address, value, marked } => {
                let kind = if *marked { Kind::Marked } else { Kind::Unmarked };
                Ok(self.plug(kind, [*number, *address, *value], When::Quick, false))
            }
            Step::Operator { kinds } => Ok(self.operator(*kinds)),
            Step::Slot { value, when } => Ok(self.slot(*value, *when)),
            Step::Leave { pod } => {
                let outside = |pod: &Pod| pod.phase == Phase::Outside;
                let Some(id) = self.pick(*pod, outside) else { return Ok(false) };
                self.remove_row(id);
                self.vanish(id, true);
                Ok(true)
            }
            Step::Reattach { pod, number } => Ok(self.reattach(*pod, *number)),
            Step::Migrate { pod, kinds } => Ok(self.migrate(*pod, *kinds)),
            Step::MachineEnds { machine } => {
                let n = usize::from(*machine) % self.machines.len().max(1);
                let Some(machine) = self.machines.iter().nth(n).cloned() else { return Ok(false) };
                Ok(self.machines.remove(&machine))
            }
            Step::Add { pod, crash, meanwhile } => self.add(*pod, *crash, meanwhile),
            Step::Install { pod } => Ok(self.catch_up(*pod)),
            Step::Del { pod, crash, meanwhile } => self.del(*pod, *crash, meanwhile),
            Step::Unplug { pod } => Ok(self.unplug(*pod)),
            Step::Vanish { pod, row } => {
                let Some(id) = self.pick(*pod, Pod::is_living) else { return Ok(false) };
                self.vanish(id, *row);
                Ok(true)
            }
            Step::Reap { pod } => {
                let stray = |pod: &Pod| pod.phase == Phase::Gone && pod.row;
                let Some(id) = self.pick(*pod, stray) else { return Ok(false) };
                self.remove_row(id);
                Ok(true)
            }
            Step::PutBack { pod, some } => Ok(self.put_back(*pod, *some)),
            Step::Member { pod, peer, kind } => Ok(self.member(*pod, *peer, *kind)),
            Step::Odd { pod, kind } => Ok(self.odd(*pod, *kind)),
            Step::Service { service, pod } => Ok(self.service(*service, *pod)),
            Step::Rule { pod, peer, kind } => Ok(self.rule(*pod, *peer, *kind)),
            Step::Renumber { pod, number } => Ok(self.renumber(*pod, *number)),
            Step::Numbers => {
                let waiting = self.pods.iter().any(|pod| pod.row && pod.number.is_none());
                self.driver.settle_numbers();
                self.take_numbers();
                Ok(waiting && D::MAKE_BELIEVE)
            }
            Step::Forget => Ok(self.forget()),
            Step::Restart { restored, turn } => Ok(self.restart(*restored, *turn)),
            Step::Sweep { hasty, crash, meanwhile } => {
                self.sweep(*hasty, *crash, meanwhile)?;
                Ok(true)
            }
            Step::Wait { pause } => Ok(self.wait(*pause)),
        }
    }

    /// The n-th of those that are meant, counted round.
    fn pick(&self, n: u8, which: impl Fn(&Pod) -> bool) -> Option<PodId> {
        let meant: Vec<PodId> = self.pods.iter().filter(|p| which(p)).map(|p| p.id).collect();
        (!meant.is_empty()).then(|| meant[usize::from(n) % meant.len()])
    }

    fn plug(&mut self, kind: Kind, picks: [u8; 3], when: When, slow: bool) -> bool {
        let sandboxes = self.pods.iter().filter(|pod| pod.phase != Phase::Gone);
        if sandboxes.clone().count() >= SANDBOXES
            || self.pods.iter().filter(|p| p.row).count() >= ROWS
        {
            return false;
        }
        let values = if self.layout == Layout::Tenants { TENANTS } else { VALUES };
        let [number, address, value] = picks;
        let bridge = self.bridges.pick(number);
        let here = |p: &&Pod| p.bridge == bridge;
        // Some pods have the value of one on the other bridge.
        let alone = value < 128 || self.layout == Layout::Tenants;
        let (mut numbers, mut values) = (Vec::from_iter(NUMBERS), Vec::from_iter(values));
        let has = |p: &Pod, n: u16| p.row && p.number.unwrap_or(p.who.ofport) == n;
        numbers.retain(|n| !self.pods.iter().filter(here).any(|p| has(p, *n)));
        let rivals = || self.pods.iter().filter(|p| p.is_living() && (alone || here(p)));
        values.retain(|v| !rivals().any(|p| p.who.reg == *v));
        if self.layout == Layout::OpenshiftSdn {
            values = vec![1, 2];
        }
        if values.is_empty() {
            return false;
        }
        let [number, address, value] = [number, address, value].map(usize::from);
        let reg = values[value % values.len()];
        let here = |pod: &&Pod| {
            self.bridges.joins(pod.bridge, bridge)
                && self.layout.vlan(pod.who.reg) == self.layout.vlan(reg)
        };
        let taken: BTreeSet<String> =
            sandboxes.filter(here).map(|pod| pod.who.ip.clone()).collect();
        let mut addresses = Vec::from_iter(ADDRESSES);
        addresses.retain(|a| {
            let ip = format!("10.244.1.{a}");
            let machine = |(on, of): &Machine| self.bridges.joins(*on, bridge) && *of == ip;
            !taken.contains(&ip) && !self.machines.iter().any(machine)
        });
        if kind == Kind::Slot {
            (numbers, addresses) = (vec![SLOT.0], vec![SLOT.1]);
        }
        if kind == Kind::Unmarked {
            // Nothing says that it has an address: see docs/promises.md, "What it rests on".
            addresses = vec![100 + u8::try_from(self.pods.len() % 100).unwrap()];
        }
        if addresses.is_empty() {
            return false;
        }
        let address = addresses[address % addresses.len()];
        // Somebody whom nobody records is not given both a dead pod's number and its address: see
        // docs/promises.md, "What it rests on".
        let both = |pod: &Pod| {
            let ip = format!("10.244.1.{address}");
            here(&pod) && pod.numbers.contains(&numbers[number % numbers.len()]) && pod.who.ip == ip
        };
        if self.layout == Layout::Tenants && self.pods.iter().any(both) {
            return false;
        }
        let mut who = Who {
            ofport: numbers[number % numbers.len()],
            reg,
            ip: format!("10.244.1.{address}"),
            ip6: format!("fd00:10:244:1::{address:x}"),
            mac: format!("0a:58:0a:f4:01:{address:02x}"),
        };
        who.reg = self.layout.value(&who);
        let outside = matches!(kind, Kind::Marked | Kind::Unmarked);
        let pod = Pod {
            id: self.pods.len(),
            kind,
            bridge,
            attached: 0,
            who,
            phase: if outside { Phase::Outside } else { Phase::Arriving },
            row: true,
            number: None,
            numbers: BTreeSet::new(),
            known: BTreeSet::new(),
            born: self.driver.now(),
            when,
            installed: None,
            extras: Vec::new(),
            recorded: false,
            noticed: None,
        };
        self.driver.plug(&pod, slow);
        self.history.push(format!("  pod {} on bridge {bridge} is {:?}", pod.id, pod.who));
        self.pods.push(pod);
        self.take_numbers();
        if when == When::Quick {
            self.install_pod(self.pods.len() - 1);
        }
        true
    }

    /// Rules that are there once, before any pod asks for the slot.
    fn operator(&mut self, kinds: u8) -> bool {
        if !D::MAKE_BELIEVE || self.pods.iter().any(|pod| pod.kind == Kind::Slot) {
            return false;
        }
        let lines = controllers::operator().into_iter().enumerate();
        let wanted = lines.filter(|(n, _)| kinds >> n & 1 == 1);
        let lines: Vec<_> = wanted.map(|(_, line)| (Line::of(&line), Owner::Operator)).collect();
        let any = !lines.is_empty();
        self.install(lines);
        any
    }

    fn slot(&mut self, value: u8, when: When) -> bool {
        let has = |pod: &Pod| pod.kind == Kind::Slot && (pod.row || pod.phase != Phase::Gone);
        if self.pods.iter().any(has) {
            return false;
        }
        let now = self.driver.now();
        let young = |e: &Entry| e.owner == Owner::Operator && e.until + SLOT_IS_OLD_MS > now;
        if self.table.values().any(young) {
            self.wait(Pause::Long);
        }
        self.plug(Kind::Slot, [0, 0, value], when, false)
    }

    fn take_numbers(&mut self) {
        let numbers = self.driver.numbers();
        for pod in &mut self.pods {
            pod.number = numbers.get(&pod.id).and_then(|ofport| ofport.number());
            pod.numbers.extend(pod.number);
        }
    }

    /// The pod's entries, as its controller wants them now.
    fn wanted(&self, id: PodId) -> Vec<(Rc<Line>, Owner)> {
        let pod = &self.pods[id];
        let Some(number) = pod.number else { return Vec::new() };
        let lines = |ofport: u16| {
            let mut who = Who { ofport, ..pod.who.clone() };
            who.reg = self.layout.value(&who);
            let own = |line| (pod.bridge, line);
            let mut lines = Vec::from_iter(self.layout.of_pod(&who).into_iter().map(own));
            let joined = |b: &BridgeId| *b != pod.bridge && self.bridges.joins(*b, pod.bridge);
            for bridge in self.bridges.ids().filter(joined) {
                let there = self.layout.of_neighbour(&who, self.bridges.has_patch());
                lines.extend(there.into_iter().map(|line| (bridge, line)));
            }
            lines.extend(pod.extras.iter().map(|extra| own(extra.of(&who, self.layout))));
            lines
        };
        let other = lines(0xfe00);
        let named = lines(number).into_iter().zip(other).map(|(line, other)| {
            let by = (line != other).then_some(number);
            (Line::on(line.0, &line.1), Owner::Pod(id, by))
        });
        named.collect()
    }

    fn install_pod(&mut self, id: PodId) {
        let lines = self.wanted(id);
        if let Some(number) = self.pods[id].number {
            self.pods[id].installed = Some(number);
            self.install(lines);
        }
    }

    fn install(&mut self, lines: Vec<(Rc<Line>, Owner)>) {
        if lines.is_empty() {
            return;
        }
        let from = self.driver.now();
        let texts: Vec<Rc<Line>> = lines.iter().map(|(line, _)| Rc::clone(line)).collect();
        self.driver.install(&texts);
        let until = self.driver.now();
        for (line, owner) in lines {
            let slot = Rc::clone(&line.slot);
            let entry = Entry { line, owner, from, until, first: until, kept: None };
            self.table.insert(slot, entry);
        }
    }

    /// A late controller, or one that has learned of another number.
    fn catch_up(&mut self, pod: u8) -> bool {
        let owes =
            |pod: &Pod| pod.is_living() && pod.number.is_some() && pod.installed != pod.number;
        let Some(id) = self.pick(pod, owes) else { return false };
        self.install_pod(id);
        true
    }

    /// Set-based controllers see within the linger time that an address has left their sets.
    /// They fail to remove its entries, as controllers do where we are needed.
    fn controllers_notice(&mut self) {
        let (now, soon) = (self.driver.now(), self.driver.linger() * 4 / 5);
        let (pods, bridges) = (&self.pods, self.bridges);
        self.believed.retain(|_, membership| {
            let here = |p: &Pod| bridges.joins(p.bridge, membership.bridge);
            let owns = |p: &Pod, ip: &String| p.is_living() && here(p) && p.who.ip == *ip;
            let owned = |ip: &String| pods.iter().any(|p| owns(p, ip));
            if membership.ips.iter().all(owned) {
                membership.nobodys = None;
                return true;
            }
            now - *membership.nobodys.get_or_insert(now) < soon
        });
    }

    fn member(&mut self, pod: u8, peer: u8, kind: u8) -> bool {
        let Some(one) = self.pick(pod, Pod::is_living) else { return false };
        // A member may be one of a policy on the other bridge.
        let there = self.bridges.pick(peer);
        let own = self.pods[one].bridge;
        let bridge = if self.bridges.joins(own, there) { there } else { own };
        let joined = |p: &Pod| self.bridges.joins(p.bridge, bridge);
        let Some(other) = self.pick(peer, |p| p.is_living() && p.id != one && joined(p)) else {
            return false;
        };
        let [ip, peer] = [one, other].map(|id| self.pods[id].who.ip.clone());
        let line = Line::on(bridge, &member(&ip, &peer, kind));
        if self.believed.contains_key(&line.slot) || self.layout.is_alone() {
            return false;
        }
        let ips = if kind % 3 == 2 { vec![ip, peer] } else { vec![ip] };
        let membership = Membership { bridge, ips: ips.clone(), nobodys: None };
        self.believed.insert(Rc::clone(&line.slot), membership);
        self.install(vec![(line, Owner::Set(ips))]);
        true
    }

    fn odd(&mut self, pod: u8, kind: u8) -> bool {
        let may = |p: &Pod| {
            p.is_living()
                && p.installed.is_some()
                && p.installed == p.number
                && !p.extras.contains(&Extra::Odd(kind))
        };
        let Some(id) = self.pick(pod, may) else { return false };
        if self.layout == Layout::Vlans {
            return false;
        }
        self.install_extra(id, Extra::Odd(kind));
        true
    }

    fn install_extra(&mut self, id: PodId, extra: Extra) {
        self.pods[id].extras.push(extra);
        let line = self.wanted(id).pop().unwrap();
        self.install(vec![line]);
    }

    fn rule(&mut self, pod: u8, peer: u8, kind: u8) -> bool {
        // A port without marks may be an uplink: docs/promises.md, "What it rests on".
        let installed = |p: &Pod| p.installed.is_some() && p.installed == p.number;
        let may = |p: &Pod| p.is_living() && installed(p) && p.kind != Kind::Unmarked;
        let one = self.pick(pod, may);
        let other = self.pick(peer, |p| p.is_living() && Some(p.id) != one);
        let (Some(one), Some(other)) = (one, other) else { return false };
        let Who { ip, mac, .. } = self.pods[other].who.clone();
        let extra = Extra::Rule { kind: kind % 4, ip, mac };
        if self.pods[one].extras.contains(&extra) || self.layout.is_alone() {
            return false;
        }
        self.install_extra(one, extra);
        true
    }

    /// A service's controller sends to the next pod by a MODIFY, which adds nothing where nothing
    /// is. It adds the entry only when it starts anew.
    fn service(&mut self, service: u8, pod: u8) -> bool {
        let may = |p: &Pod| p.is_living() && p.number.is_some();
        let Some(id) = self.pick(pod, may) else { return false };
        let who = Who { ofport: self.pods[id].number.unwrap(), ..self.pods[id].who.clone() };
        let line = Line::on(self.pods[id].bridge, &controllers::service(service, &who));
        let Some(entry) = self.table.get_mut(&line.slot) else {
            self.install(vec![(line, Owner::Service)]);
            return true;
        };
        entry.line = Rc::clone(&line);
        self.driver.modify(&line);
        true
    }

    /// A slow controller works from an old list. It does not touch what is somebody's.
    fn put_back(&mut self, pod: u8, some: u8) -> bool {
        let dead = |p: &Pod| !p.is_living() && p.installed.is_some();
        let Some(id) = self.pick(pod, dead) else { return false };
        let ofport = self.pods[id].installed.unwrap();
        // A classifier that comes under a number after its next owner, or whoever waits for it,
        // cannot be told from the owner's: docs/promises.md, "What it rests on".
        let has = |p: &Pod| p.row && p.number.unwrap_or(p.who.ofport) == ofport;
        let taken = |p: &Pod| has(p) && p.id != id;
        if self.layout == Layout::Tenants && self.pods.iter().any(taken) {
            return false;
        }
        let number = self.pods[id].number.replace(ofport);
        let mut lines = self.wanted(id);
        self.pods[id].number = number;
        let mut n = 0;
        lines.retain(|(line, _)| {
            n += 1;
            let here = self.table.get(&line.slot);
            (some >> (n % 8)) & 1 == 1 && !here.is_some_and(|entry| self.is_live(entry))
        });
        let any = !lines.is_empty();
        self.install(lines);
        any
    }

    fn vanish(&mut self, id: PodId, row: bool) {
        self.pods[id].phase = Phase::Gone;
        self.driver.end_sandbox(&self.pods[id]);
        if !row {
            self.remove_row(id);
        }
    }

    fn remove_row(&mut self, id: PodId) {
        self.driver.unplug(&self.pods[id]);
        let pod = &mut self.pods[id];
        (pod.row, pod.number) = (false, None);
    }

    fn unplug(&mut self, pod: u8) -> bool {
        // Chains are taken down in reverse: not before our DEL is done.
        let may = |p: &Pod| p.phase == Phase::Leaving && !self.busy.contains(&p.id);
        let Some(id) = self.pick(pod, may) else { return false };
        if self.pods[id].row {
            self.remove_row(id);
        }
        self.vanish(id, true);
        true
    }

    fn renumber(&mut self, pod: u8, number: u8) -> bool {
        if self.may_forget {
            return false;
        }
        // A number that changes while ADD is under way: see docs/promises.md, "What it rests on".
        let Some(id) = self.pick(pod, Pod::may_be_renumbered) else { return false };
        let number = NUMBERS.start() + u16::from(number) % 8;
        let bridge = self.pods[id].bridge;
        let rows = || self.pods.iter().filter(|p| p.row && p.bridge == bridge);
        let other = rows().find(|p| p.number == Some(number));
        let requested = |p: &Pod| p.number.is_none() && p.who.ofport == number;
        if rows().any(requested)
            || other.is_some_and(|p| p.id == id || !D::MAKE_BELIEVE || !p.may_be_renumbered())
        {
            return false;
        }
        self.driver.renumber(&self.pods[id], number, other);
        self.take_numbers();
        true
    }

    fn reattach(&mut self, pod: u8, number: u8) -> bool {
        if self.may_forget {
            return false;
        }
        let may = |p: &Pod| p.phase == Phase::Live && !self.busy.contains(&p.id);
        let Some(id) = self.pick(pod, |p| may(p) && p.may_be_renumbered()) else { return false };
        let number = NUMBERS.start() + u16::from(number) % 8;
        let bridge = self.pods[id].bridge;
        let has = |p: &Pod| p.row && p.number.unwrap_or(p.who.ofport) == number;
        if self.pods.iter().any(|p| has(p) && p.bridge == bridge && p.id != id) {
            return false;
        }
        self.pods[id].attached += 1;
        self.driver.reattach(&self.pods[id], number);
        self.take_numbers();
        true
    }

    /// The machine lives on, with its addresses; what names them is its own from now on.
    fn migrate(&mut self, pod: u8, kinds: u8) -> bool {
        let here = self.layout != Layout::Vlans;
        let may = |p: &Pod| here && p.kind == Kind::Machine && p.phase == Phase::Live;
        let gone = |p: &Pod| self.machine(p.bridge, &p.who.ip).is_some();
        let Some(id) = self.pick(pod, |p| may(p) && !gone(p)) else { return false };
        let Who { ip, mac, .. } = self.pods[id].who.clone();
        let machine = (self.pods[id].bridge, ip.clone());
        let lines = controllers::machine(&ip, &mac).into_iter().enumerate();
        let wanted = lines.filter(|(n, _)| kinds >> n & 1 == 1);
        let owner = || Owner::Machine(machine.clone());
        let lines = wanted.map(|(_, line)| (Line::on(machine.0, &line), owner())).collect();
        self.machines.insert(machine.clone());
        self.install(lines);
        true
    }

    /// Not while a call of ours is under way: it has the lock, or puts its record later.
    fn forget(&mut self) -> bool {
        let may = D::MAKE_BELIEVE && self.under_way == 0;
        if may {
            self.driver.forget();
            self.forgot = true;
        }
        may
    }

    fn restart(&mut self, restored: bool, turn: u8) -> bool {
        let mut numbered = Vec::new();
        for bridge in self.bridges.ids() {
            let here = |p: &&Pod| p.bridge == bridge && p.may_be_renumbered();
            let rows: Vec<&Pod> = self.pods.iter().filter(here).collect();
            numbered.extend(rows.iter().enumerate().map(|(n, pod)| {
                let from = rows[(n + usize::from(turn)) % rows.len()];
                (*pod, from.number.unwrap())
            }));
        }
        let kept: Vec<Rc<Line>> = self.table.values().map(|e| Rc::clone(&e.line)).collect();
        let from = self.driver.now();
        self.started = from;
        self.driver.restart(&numbered, if restored { &kept } else { &[] });
        let until = self.driver.now();
        self.take_numbers();
        if restored {
            self.table.values_mut().for_each(|entry| (entry.from, entry.until) = (from, until));
        } else {
            self.table.clear();
            self.believed.clear();
            self.pods.iter_mut().filter(|p| p.is_living()).for_each(|p| p.installed = None);
            self.base();
        }
        true
    }

    fn wait(&mut self, pause: Pause) -> bool {
        let linger = self.driver.linger();
        let ms = match pause {
            Pause::Short => linger / 10,
            Pause::Linger => linger + 100,
            Pause::Long if D::MAKE_BELIEVE => 7_200_000,
            Pause::Long => return false,
        };
        let now = self.driver.now();
        let late = |p: &Pod| p.phase == Phase::Arriving && now + ms > p.born + ADD_TAKES_MS;
        let late: Vec<PodId> = self.pods.iter().filter(|p| late(p)).map(|p| p.id).collect();
        late.into_iter().for_each(|id| self.vanish(id, true));
        // A set-based controller does not sleep.
        for _ in 0..4 {
            self.driver.pass(ms / 4);
            self.controllers_notice();
        }
        true
    }

    fn add(&mut self, pod: u8, crash: u8, meanwhile: &[Step]) -> Result<bool, Broken> {
        let may = |p: &Pod| p.phase == Phase::Arriving && !self.busy.contains(&p.id);
        let Some(id) = self.pick(pod, may) else { return Ok(false) };
        self.in_part = !self.driver.is_small();
        let (before, from) = (self.driver.recorded(), self.driver.now());
        let call = self.driver.add(&self.pods[id], crash);
        let early = self.account_early("ADD", from)?;
        self.go_on(Some(id), meanwhile)?;
        let ended = self.finish(call);
        self.account(early, "ADD", from)?;
        let arriving = self.pods[id].phase == Phase::Arriving;
        match (ended, arriving) {
            (true, true) => {
                self.pods[id].phase = Phase::Live;
                if self.pods[id].when == When::Usual {
                    self.install_pod(id);
                }
            }
            // The runtime gives it up.
            (false, true) => self.pods[id].phase = Phase::Leaving,
            (_, false) => {}
        }
        self.after_call("ADD", &before, from, self.is_alone(meanwhile))?;
        let after = self.driver.recorded();
        let record =
            after.records.iter().any(|r| r.key.container.as_str() == self.pods[id].container());
        if ended && arriving && !record {
            return Err(format!("no record of pod {id} after its ADD"));
        }
        Ok(true)
    }

    fn del(&mut self, pod: u8, crash: u8, meanwhile: &[Step]) -> Result<bool, Broken> {
        let called = |p: &Pod| !matches!(p.phase, Phase::Gone | Phase::Outside);
        let may = |p: &Pod| called(p) && !self.busy.contains(&p.id);
        let Some(id) = self.pick(pod, may) else { return Ok(false) };
        self.pods[id].phase = Phase::Leaving;
        // Set-based controllers know it as early as the call does, however long that takes.
        self.controllers_notice();
        self.in_part = !self.driver.is_small();
        let (before, from) = (self.driver.recorded(), self.driver.now());
        let call = self.driver.del(&self.pods[id], crash);
        let early = self.account_early("DEL", from)?;
        self.go_on(Some(id), meanwhile)?;
        self.finish(call);
        self.account(early, "DEL", from)?;
        self.after_call("DEL", &before, from, self.is_alone(meanwhile))?;
        Ok(true)
    }

    fn sweep(&mut self, hasty: bool, crash: u8, meanwhile: &[Step]) -> Result<(), Broken> {
        self.in_part = hasty && !self.driver.is_small();
        let (before, from) = (self.driver.recorded(), self.driver.now());
        let call = self.driver.sweep(hasty, crash);
        let early = self.account_early("the sweep", from)?;
        self.go_on(None, meanwhile)?;
        let ended = self.finish(call);
        self.account(early, "the sweep", from)?;
        let alone = self.is_alone(meanwhile);
        self.after_call("the sweep", &before, from, alone)?;
        if ended && alone {
            self.promised_after_sweep(hasty, &before, from)?;
        }
        Ok(())
    }

    fn finish(&mut self, call: D::Call) -> bool {
        let ended = self.driver.finish(call);
        self.tally.unfinished += u64::from(!ended);
        ended
    }

    /// Whether nothing happens while a call is at work. Another one that is under way stands still
    /// in the made-up node only.
    fn is_alone(&self, meanwhile: &[Step]) -> bool {
        meanwhile.is_empty() && (D::MAKE_BELIEVE || self.under_way == 0)
    }

    /// While ours looks at the switch.
    fn go_on(&mut self, about: Option<PodId>, meanwhile: &[Step]) -> Result<(), Broken> {
        let in_part = self.in_part;
        self.busy.extend(about);
        self.under_way += 1;
        let gone_on = meanwhile.iter().try_for_each(|step| self.step(step));
        self.under_way -= 1;
        self.busy.retain(|id| Some(*id) != about);
        self.in_part = in_part;
        gone_on
    }

    /// Whether somebody needs the entry.
    pub(crate) fn is_live(&self, entry: &Entry) -> bool {
        match &entry.owner {
            Owner::Base | Owner::Service | Owner::Operator => true,
            Owner::Pod(id, by) => {
                let pod = &self.pods[*id];
                pod.is_living() && by.is_none_or(|number| pod.number == Some(number))
            }
            Owner::Set(_) => self.believed.contains_key(&entry.line.slot),
            Owner::Machine((on, ip)) => self.machine(*on, ip).is_some(),
        }
    }

    /// Whether a living pod has been left an entry under a number that it had before.
    pub(crate) fn is_outdated(&self, entry: &Entry) -> bool {
        matches!(entry.owner, Owner::Pod(id, _) if self.pods[id].is_living())
            && !self.is_live(entry)
    }

    /// What a call of the made-up node has taken on other bridges before anything else happens:
    /// nobody may have needed it then. A number may come back to its pod later.
    fn account_early(&mut self, what: &str, at: u64) -> Result<Vec<Entry>, Broken> {
        if D::MAKE_BELIEVE {
            self.account(Vec::new(), what, at)?;
            return Ok(std::mem::take(&mut self.taken));
        }
        Ok(Vec::new())
    }

    /// Takes out of the table what is not on the switch any more: nobody may have needed it.
    /// `early`: what the call took before.
    fn account(&mut self, early: Vec<Entry>, what: &str, at: u64) -> Result<(), Broken> {
        self.taken = early;
        for slot in self.driver.lost(&self.table) {
            let entry = self.table.remove(&slot).unwrap();
            if self.is_live(&entry) && self.is_in_the_window(&entry, at) {
                self.tally.window += 1;
            } else if self.is_live(&entry) {
                return Err(format!(
                    "{what} took a live entry of {:?}: {} ({})",
                    entry.owner,
                    entry.line.text,
                    self.driver.why(&slot)
                ));
            }
            self.tally.deleted += 1;
            self.taken.push(entry);
        }
        Ok(())
    }

    /// A delete names no incarnation of an entry (docs/promises.md, "What it rests on"): one that
    /// was installed anew while the call looked may go on a switch, if the call is cut short
    /// before it has put it back.
    fn is_in_the_window(&self, entry: &Entry, at: u64) -> bool {
        let here = |pod: &Pod| self.bridges.joins(pod.bridge, entry.line.bridge);
        !D::MAKE_BELIEVE && entry.from >= at
            // Restored rules look as young as the restore: its pods may be older.
            || entry.owner == Owner::Operator
                && self.pods.iter().any(|pod| {
                    let restored = pod.born < entry.until + SLOT_IS_OLD_MS;
                    pod.kind == Kind::Slot && !pod.is_living() && restored
                })
            // A death that is noticed when nobody remembers the machine any more.
            || matches!(&entry.owner, Owner::Machine((_, ip)) if {
                let had = self.pods.iter().filter(|pod| pod.who.ip == *ip && here(pod));
                let linger = self.driver.linger();
                let noticed = |pod: &Pod| pod.noticed.unwrap_or(u64::MAX);
                let forgotten = had.clone().filter(|pod| pod.kind == Kind::Machine);
                let forgotten = forgotten.map(|pod| noticed(pod).saturating_add(linger)).min();
                had.clone().any(|pod| pod.kind != Kind::Machine && Some(noticed(pod)) > forgotten)
            })
            // The linger time of an address counts from a death that somebody can know of.
            || matches!(&entry.owner, Owner::Set(ips) if ips.iter().any(|ip| {
                let last = self.pods.iter().rfind(|pod| pod.who.ip == *ip && here(pod));
                last.is_some_and(|pod| !pod.is_living() && !pod.recorded)
            }))
    }

    /// The uplink or the patch port, a pod's row, or nobody's number.
    pub(crate) fn holder(&self, bridge: BridgeId, number: u16) -> Option<Option<PodId>> {
        if number == UPLINK || number == PATCH && self.bridges.has_patch() {
            return Some(None);
        }
        let has = |p: &&Pod| p.row && p.bridge == bridge && p.number == Some(number);
        self.pods.iter().find(has).map(|p| Some(p.id))
    }

    /// The machine on another node that has this address on this bridge.
    fn machine(&self, bridge: BridgeId, ip: &str) -> Option<&Machine> {
        let is = |(on, of): &&Machine| self.bridges.joins(*on, bridge) && of == ip;
        self.machines.iter().find(is)
    }

    /// The pod of a record.
    pub(crate) fn pod_of(&self, record: &Attachment) -> PodId {
        record.key.container.as_str()[1..].parse().unwrap()
    }
}
