//! A node on which pods come and go, and the list that says whose each entry is.
//!
//! What the book promises: an entry of a live pod is there; an entry of a dead one is gone
//! after the sweep. Those that match its register value may wait until [`Churn::settle`],
//! while some live pod's value is not known yet. Excused for good are an address that is put
//! back after its owner's death (its next owner's entry looks the same), and what nobody can
//! know.

use std::collections::{BTreeMap, BTreeSet};

use ovs_flow_gc::config::NetworkState;
use ovs_flow_gc::model::attachment::Attachment;
use serde_json::json;

use crate::pods::{self, Dice, Member, all_at_once, missing, records};
use crate::rig::{Flows, Node, Who, layouts, sleep_ms};

/// Port numbers, addresses and register values that there are: few, so that they are used
/// again and again.
const TOKENS: u16 = 36;
/// Pods alive at once, at most.
pub(crate) const PODS: usize = 22;
/// `lingerSeconds`.
const LINGER_MS: u64 = 1000;

/// When a controller installs a pod's entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Controller {
    /// As soon as it sees the port.
    Quick,
    /// After ADD.
    Usual,
    /// This many rounds after ADD.
    Late(u32),
}

#[derive(Clone, Debug)]
struct LivePod {
    member: Member,
    /// Rounds until its entries come; `None`: they are there.
    wait: Option<u32>,
    /// A sweep has seen its entries while it lived.
    seen: bool,
    /// It was given the value of a pod whose death nobody had noticed: for all anybody knows
    /// they shared it, and when both are dead its entries are left alone for an hour.
    doubtful: bool,
}

/// What the book says of a dead pod's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// Gone with the next sweep.
    Now,
    /// Gone when every live pod's value is known.
    Later,
    /// Nobody can promise.
    Never,
}

pub(crate) struct Churn {
    pub(crate) node: Node,
    dice: Dice,
    base: Vec<String>,
    alive: Vec<LivePod>,
    /// Ports whose pods vanished without a DEL: numbers that OVS does not give away.
    rows: Vec<Member>,
    /// The values of pods whose death nobody has noticed.
    unnoticed_values: BTreeSet<u32>,
    /// Values that somebody doubtful had.
    doubtful: BTreeSet<u32>,
    dead: BTreeMap<String, Due>,
    born: u32,
    pub(crate) steps: u32,
    /// What happened lately, for the report of a failure.
    history: Vec<String>,
}

impl Churn {
    pub(crate) fn new() -> Self {
        let dice = Dice::new("churn");
        let node = pods::node("churn", json!({"lingerSeconds": LINGER_MS / 1000}));
        let base = node.install("br0", &layouts::classifier_base());
        Self {
            node,
            dice,
            base,
            alive: Vec::new(),
            rows: Vec::new(),
            unnoticed_values: BTreeSet::new(),
            doubtful: BTreeSet::new(),
            dead: BTreeMap::new(),
            born: 0,
            steps: 0,
            history: Vec::new(),
        }
    }

    fn note(&mut self, event: &str, member: &Member) {
        let who = &member.who;
        let (port, ip, reg) = (who.ofport, &who.ip, who.reg);
        self.history.push(format!("{event} {}: port {port} ip {ip} reg {reg:#x}", member.name));
        self.steps += 1;
    }

    /// Some of everything; ends with a sweep and a look.
    pub(crate) fn round(&mut self) {
        let excess = self.alive.len().saturating_sub(PODS / 3);
        let (vanishing, leaving) = (self.dice.below(6), self.dice.below(6));
        self.vanish(vanishing.min(excess));
        let left = self.leave(leaving.min(excess));
        self.reap();
        let put_back = self.put_back(&left);
        self.controllers_catch_up();
        let arriving = 3 + self.dice.below(10);
        self.arrive(arriving.min(PODS - self.alive.len()), &put_back);
        self.sweep();
    }

    /// Pods die and nobody says so.
    fn vanish(&mut self, count: usize) {
        let gone: Vec<_> = (0..count).filter_map(|_| self.dice.take(&mut self.alive)).collect();
        let (mut ports, mut members) = (Vec::new(), Vec::new());
        for LivePod { member, wait, seen, doubtful } in gone {
            self.note("vanishes", &member);
            if wait.is_none() {
                for line in member.lines() {
                    // Its successor's controller may overwrite what shows its value.
                    let unknown = is_of_value(&line) && (!seen || doubtful);
                    let due = if unknown { Due::Never } else { due(&line) };
                    self.dead.insert(line, due);
                }
            }
            self.unnoticed_values.insert(member.who.reg);
            if self.dice.percent(50) {
                ports.push(member.port.clone());
            } else {
                self.rows.push(member.clone());
            }
            members.push(member);
        }
        pods::end_sandboxes(&self.node, &members);
        pods::del_ports(&self.node, ports.iter().map(String::as_str));
    }

    /// Pods end as they should: DEL, all at once; then the OVS plugin's DEL.
    fn leave(&mut self, count: usize) -> Vec<LivePod> {
        let left: Vec<_> = (0..count).filter_map(|_| self.dice.take(&mut self.alive)).collect();
        for LivePod { member, wait, doubtful, .. } in &left {
            self.note("leaves", member);
            if wait.is_none() {
                for line in member.lines() {
                    let doubtful = is_of_value(&line) && *doubtful;
                    let due = if doubtful { Due::Never } else { due(&line) };
                    self.dead.insert(line, due);
                }
            }
        }
        let members: Vec<_> = left.iter().map(|r| &r.member).collect();
        all_at_once(&self.node, "DEL", members.iter().copied());
        self.look("after DEL", false);
        let ports: Vec<_> = members.iter().map(|m| m.port.clone()).collect();
        pods::del_ports(&self.node, ports.iter().map(String::as_str));
        pods::end_sandboxes(&self.node, members);
        left
    }

    /// Somebody removes the port rows of pods that vanished.
    fn reap(&mut self) {
        let mut ports = Vec::new();
        while self.dice.percent(75) {
            let Some(member) = self.dice.take(&mut self.rows) else { break };
            self.note("loses its port row,", &member);
            ports.push(member.port);
        }
        pods::del_ports(&self.node, ports.iter().map(String::as_str));
    }

    /// A slow controller puts entries of dead pods back. Nobody has their tokens yet.
    fn put_back(&mut self, left: &[LivePod]) -> Vec<Member> {
        let mut whose = Vec::new();
        let mut lines = Vec::new();
        for LivePod { member, wait, seen, doubtful } in left {
            if wait.is_some() || !self.dice.percent(30) {
                continue;
            }
            self.note("is put back,", member);
            for line in member.lines().into_iter().filter(|_| self.dice.percent(70)) {
                let of_address = line.contains("ct_nw_");
                let unknown = is_of_value(&line) && (!seen || *doubtful);
                let due = if of_address || unknown { Due::Never } else { due(&line) };
                self.dead.insert(line.clone(), due);
                lines.push(line);
            }
            whose.push(member.clone());
        }
        if !lines.is_empty() {
            self.node.add_flows("br0", &lines);
            // Else whoever is born within a tick of the file clock seems to be as old.
            sleep_ms(20);
        }
        whose
    }

    /// Late controllers install what they owe.
    fn controllers_catch_up(&mut self) {
        let mut lines = Vec::new();
        for resident in &mut self.alive {
            resident.wait = match resident.wait {
                Some(0) => {
                    lines.extend(resident.member.lines());
                    None
                }
                Some(rounds) => Some(rounds - 1),
                None => None,
            };
        }
        if !lines.is_empty() {
            self.node.add_flows("br0", &lines);
        }
    }

    /// Pods are born, with whatever tokens nobody alive has.
    fn arrive(&mut self, count: usize, put_back: &[Member]) {
        let mut addresses: Vec<u16> = (2..2 + TOKENS).collect();
        let (mut ports, mut values) = (addresses.clone(), addresses.clone());
        let alive: Vec<&Member> = self.alive.iter().map(|r| &r.member).chain(put_back).collect();
        let taken = |of: fn(&Member) -> u32| alive.iter().map(|m| of(m)).collect::<BTreeSet<_>>();
        let (by_port, by_value) = (taken(|m| u32::from(m.who.ofport)), taken(|m| m.who.reg));
        let by_address: BTreeSet<_> = alive.iter().map(|m| m.who.ip.clone()).collect();
        let rows: BTreeSet<_> = self.rows.iter().map(|m| m.who.ofport).collect();
        ports.retain(|p| !by_port.contains(&u32::from(*p)) && !rows.contains(p));
        values.retain(|v| !by_value.contains(&value(*v)));
        addresses.retain(|a| !by_address.contains(&format!("10.244.1.{a}")));

        let mut newborn = Vec::new();
        for _ in 0..count {
            let picks = [&mut ports, &mut addresses, &mut values].map(|from| self.dice.take(from));
            let [Some(port), Some(address), Some(reg)] = picks else { break };
            self.born += 1;
            let address = u8::try_from(address).unwrap();
            let member = Member::new(&self.node, self.born, port, address, value(reg));
            let controller = match self.dice.below(10) {
                0..=2 => Controller::Quick,
                3..=4 => Controller::Late(u32::try_from(self.dice.below(3)).unwrap()),
                _ => Controller::Usual,
            };
            self.note(&format!("{controller:?}:"), &member);
            newborn.push((member, controller));
        }
        let of = |which: fn(Controller) -> bool| -> Vec<String> {
            let some = newborn.iter().filter(|(_, c)| which(*c));
            some.flat_map(|(member, _)| member.lines()).collect()
        };
        pods::add_ports(&self.node, newborn.iter().map(|(m, _)| m));
        let quick = of(|c| c == Controller::Quick);
        if !quick.is_empty() {
            self.node.add_flows("br0", &quick);
        }
        all_at_once(&self.node, "ADD", newborn.iter().map(|(m, _)| m));
        let dump = self.look("after ADD", false);
        self.nothing_is_left_for(newborn.iter().map(|(m, _)| m), &dump);
        let usual = of(|c| c == Controller::Usual);
        if !usual.is_empty() {
            self.node.add_flows("br0", &usual);
        }
        self.alive.extend(newborn.into_iter().map(|(member, controller)| {
            let wait = if let Controller::Late(rounds) = controller { Some(rounds) } else { None };
            let doubtful = self.unnoticed_values.contains(&member.who.reg);
            LivePod { member, wait, seen: false, doubtful }
        }));
        let doubtful = self.alive.iter().filter(|r| r.doubtful).map(|r| r.member.who.reg);
        self.doubtful.extend(doubtful);
    }

    /// Before ADD returns, what the dead had under a newborn's port or address is gone.
    fn nothing_is_left_for<'m>(&self, newborn: impl Iterator<Item = &'m Member>, dump: &[String]) {
        let newborn: Vec<_> = newborn.collect();
        // What suits one of them is its own, or as good as its own.
        let own: Vec<_> = newborn.iter().flat_map(|m| m.lines()).collect();
        let names = |line: &str, Who { ofport, ip, ip6, .. }: &Who| {
            let mut words = line.split([' ', ',']);
            words.any(|word| {
                let value = word.split_once(['=', ':']).map_or("", |(_, value)| value);
                let port = word.starts_with("in_port=") || word.starts_with("actions=output:");
                value == ip
                    || value == ip6
                    || (port && word.ends_with(&format!(":{ofport}")))
                    || word == format!("in_port={ofport}")
            })
        };
        let mut left = self.stale(dump, |due| due == Due::Now);
        left.retain(|line| !own.contains(line) && newborn.iter().any(|m| names(line, &m.who)));
        self.must(left.is_empty(), "leftovers under a newborn's tokens after ADD", &left);
    }

    fn sweep(&mut self) {
        pods::sweep(&self.node);
        self.history.push("-- sweep".to_owned());
        self.steps += 1;
        self.unnoticed_values.clear();
        for resident in self.alive.iter_mut().filter(|r| r.wait.is_none()) {
            resident.seen = true;
        }
        self.look("after the sweep", true);
    }

    /// Every controller is done and every linger time is over: now nothing waits.
    pub(crate) fn settle(&mut self) {
        for _ in 0..4 {
            self.controllers_catch_up();
        }
        self.sweep();
        sleep_ms(LINGER_MS + 50);
        // What a tombstone kept back another one's end sets free.
        self.sweep();
        self.sweep();
        let dump = self.node.dump("br0");
        let waiting = self.stale(&dump, |due| due == Due::Later);
        self.must(waiting.is_empty(), "stale entries are still waited for", &waiting);
        let registry_snapshot = records(&self.node);
        let brief = |t: &Attachment| {
            format!("{} {:?} {:?} {:?}", t.title(), t.state, t.register, t.last_error)
        };
        let doubtful =
            |t: &&Attachment| t.register.is_some_and(|r| self.doubtful.contains(&r.value));
        let left: Vec<_> =
            registry_snapshot.tombstones.iter().filter(|t| !doubtful(t)).map(brief).collect();
        self.must(left.is_empty(), "tombstones are stuck", &left);
        let known: BTreeSet<_> =
            registry_snapshot.attachments.iter().map(|r| r.key.clone()).collect();
        let alive: BTreeSet<_> = self.alive.iter().map(|r| r.member.key()).collect();
        assert_eq!(known, alive, "the records are not those of the living");
    }

    /// ovs-vswitchd restarts and everything is put back in bulk: its age proves nothing.
    pub(crate) fn restart(&mut self) {
        self.history.push("-- ovs-vswitchd is restarted".to_owned());
        self.vanish(2);
        self.node.restart_vswitchd(Flows::Restored);
        self.look("after the restart", false);
    }

    /// Everybody leaves.
    pub(crate) fn end(&mut self) {
        self.leave(PODS);
        self.settle();
    }

    fn expected(&self) -> Vec<String> {
        let there = self.alive.iter().filter(|r| r.wait.is_none());
        let mut lines: Vec<_> = there.flat_map(|r| r.member.lines()).collect();
        lines.extend(self.base.iter().cloned());
        lines
    }

    /// What is in a dump, nobody's, and so due.
    fn stale(&self, dump: &[String], due: fn(Due) -> bool) -> Vec<String> {
        // What suits somebody whose controller is late is as good as theirs.
        let alive = self.alive.iter().flat_map(|r| r.member.lines());
        let owned: Vec<_> = alive.chain(self.base.iter().cloned()).collect();
        let nobodys = missing(dump, &owned).into_iter();
        nobodys.filter(|l| self.dead.get(*l).is_none_or(|d| due(*d))).cloned().collect()
    }

    /// Compares the switch with the book.
    fn look(&mut self, when: &str, swept: bool) -> Vec<String> {
        let dump = self.node.dump("br0");
        let expected = self.expected();
        let lost: Vec<_> = missing(&expected, &dump).into_iter().cloned().collect();
        self.must(lost.is_empty(), &format!("live entries are missing {when}"), &lost);
        let networks = records(&self.node).networks;
        let state = networks.iter().find_map(|n| n.state::<NetworkState>().unwrap());
        let shared = state.is_some_and(|s| s.register.register_shared);
        self.must(
            !shared,
            &format!("no two had one value at once, but so it is learned {when}"),
            &[],
        );
        if swept {
            let stale = self.stale(&dump, |due| due == Due::Now);
            self.must(stale.is_empty(), &format!("stale entries {when}"), &stale);
            // Overwritten by a successor, or gone: nothing to remember.
            self.dead.retain(|line, _| dump.contains(line) && !expected.contains(line));
        }
        dump
    }

    #[track_caller]
    fn must(&self, holds: bool, what: &str, which: &[String]) {
        let lately = self.history.len().saturating_sub(60);
        let (_, lately) = self.history.split_at(lately);
        assert!(holds, "{what}: {which:#?}\nlately: {lately:#?}",);
    }
}

fn value(of: u16) -> u32 {
    0x1000 + u32::from(of)
}

/// An entry that nothing but a register value ties to its pod.
fn is_of_value(line: &str) -> bool {
    line.contains("reg0=0x")
}

fn due(line: &str) -> Due {
    if is_of_value(line) { Due::Later } else { Due::Now }
}
