//! A node that is made up: a table with ages, OVSDB rows, records. The verdicts are the real
//! ones: `BridgeInput::build`, `Survey`, `Judge`, `Recheck`, `wait_together`. What has no part without
//! I/O (who gets a tombstone, what is written down when) is done here as `sweep` and `plugin` do it,
//! with a place to crash after each of its stages.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use ovs_flow_gc::config::{Config, NetworkState};
use ovs_flow_gc::judge::input::{JudgeInput, Live, LiveId, NetworkId};
use ovs_flow_gc::judge::{Judge, Learned, Recheck, Standing, Survey, Verdict};
use ovs_flow_gc::model::attachment::{self, Attachment, Key, Netns, Register, RegisterHow, State};
use ovs_flow_gc::model::flow::{Flow, RegisterMatch};
use ovs_flow_gc::model::register::RegisterSource;
use ovs_flow_gc::model::row::RowId;
use ovs_flow_gc::ovsdb::{
    Bridge, Interface, Ofport, Ovn, Port, Snapshot, Wanted, find_for_delete, find_port, write_port,
};
use ovs_flow_gc::reconcile::orphans::died;
use ovs_flow_gc::reconcile::{
    self, BridgeInput, Cause, CleanTarget, NodeSnapshot, Predecessors, RecordId, register_of,
    wait_together,
};
use ovs_flow_gc::util::clock::{BootTime, Stamp};
use serde_json::json;
use std::time::Duration;

use super::bridges::{BridgeId, Bridges, NAMES, PATCH, PATCHES, UPLINKS};
use super::controllers::{Layout, UPLINK};
use super::entries::{Line, Slot};
use super::node::{Driver, Kind, Pod, PodId, Recorded, Table};
use crate::rig::Who;

/// `lingerSeconds`.
const LINGER: u64 = 30_000;
const BOOT: &str = "this";
/// As `liveness::netns` allows for the file clock.
const TICK: u64 = 10;
/// As `sweep::input` has it.
const ADD_TAKES: Duration = Duration::from_secs(120);

fn stamp(ms: u64) -> Stamp {
    Stamp { boot_ms: ms, wall_ms: ms }
}

#[derive(Clone, Debug)]
struct Row {
    id: RowId,
    kind: Kind,
    bridge: BridgeId,
    name: String,
    container: String,
    who: Who,
    ofport: Ofport,
    born: u64,
    sandbox: bool,
    wanted: u16,
}

impl Row {
    /// `external_ids` of its port.
    fn marks(&self) -> BTreeMap<String, String> {
        let mut marks = vec![
            ("antrea-type", "container".to_owned()),
            ("container-id", self.container.clone()),
            ("net-ns", Sim::path(&self.container)),
        ];
        let Who { ip, ip6, mac, .. } = &self.who;
        match self.kind {
            Kind::Ours | Kind::Machine | Kind::Slot => {}
            Kind::Marked => {
                marks.extend([("ip-address", format!("{ip},{ip6}")), ("attached-mac", mac.clone())])
            }
            Kind::Unmarked => marks.clear(),
        }
        marks.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

/// The made-up node.
#[derive(Debug)]
pub(crate) struct Sim {
    now: u64,
    layout: Layout,
    bridges: Bridges,
    config: Config,
    /// Few entries: a call looks at all of them.
    small: bool,
    /// The datapath is the kernel's: a port whose device is gone fails at a restart.
    kernel: bool,
    started: u64,
    rows: BTreeMap<PodId, Row>,
    sandboxes: BTreeSet<String>,
    table: BTreeMap<Slot, (Rc<Line>, u64)>,
    lost: Vec<Slot>,
    verdicts: BTreeMap<Slot, Verdict>,
    records: Vec<Attachment>,
    tombstones: Vec<Attachment>,
    state: Option<NetworkState>,
    generation: u64,
    /// Calls so far: they take turns in which bridge something happens during.
    calls: usize,
}

/// A call that has looked.
#[derive(Debug)]
pub(crate) enum Call {
    /// It crashed, or is done: nothing is left to do.
    Over { ended: bool },
    /// It has verdicts.
    Looked(Box<Looked>),
}

#[derive(Debug)]
pub(crate) struct Looked {
    work: Work,
    pass: Pass,
    /// The bridges behind this one.
    rest: Vec<BridgeId>,
}

/// What a call is about.
#[derive(Debug)]
struct Work {
    crash: u8,
    thorough: bool,
    /// What was read when it began, once for all bridges.
    world: NodeSnapshot,
    targets: Vec<CleanTarget>,
    adding: Option<Key>,
    waiting: Vec<bool>,
    started: u64,
}

/// A look at one bridge.
#[derive(Debug)]
struct Pass {
    bridge: BridgeId,
    looked: u64,
    input: BridgeInput,
    learned: Learned,
    planned: Vec<(Slot, Flow, Verdict)>,
}

/// After which stage a call crashes.
mod stage {
    pub(super) const BEGUN: u8 = 1;
    pub(super) const RECORDED: u8 = 2;
    pub(super) const LOOKED: u8 = 3;
    pub(super) const REMEMBERED: u8 = 4;
    pub(super) const RECHECKED: u8 = 5;
    pub(super) const DELETED_ONE: u8 = 6;
    pub(super) const DELETED_SOME: u8 = 7;
    pub(super) const DELETED: u8 = 8;
    pub(super) const SETTLED_ONE: u8 = 9;
}

impl Sim {
    pub(crate) fn new(layout: Layout, small: bool, kernel: bool) -> Self {
        Self::with(Bridges::One, layout, small, kernel)
    }

    pub(crate) fn with(bridges: Bridges, layout: Layout, small: bool, kernel: bool) -> Self {
        let mut conf = bridges.conf(layout.conf());
        conf.as_object_mut().unwrap().insert("lingerSeconds".to_owned(), json!(LINGER / 1000));
        let (config, problems) = Config::parse(conf.as_object().unwrap());
        assert!(problems.is_empty(), "{problems:?}");
        let now = 10_000_000;
        Self {
            now,
            layout,
            bridges,
            config,
            small,
            kernel,
            started: now,
            rows: BTreeMap::new(),
            sandboxes: BTreeSet::new(),
            table: BTreeMap::new(),
            lost: Vec::new(),
            verdicts: BTreeMap::new(),
            records: Vec::new(),
            tombstones: Vec::new(),
            state: None,
            generation: 0,
            calls: 0,
        }
    }

    fn key(container: &str) -> Key {
        Key {
            network: "podnet".parse().unwrap(),
            container: container.parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        }
    }

    fn path(container: &str) -> String {
        format!("/run/netns/{container}")
    }

    fn row_id(pod: &Pod) -> RowId {
        RowId(1_000 + pod.id as u128 * 100 + u128::from(pod.attached))
    }

    fn interface(id: RowId, name: &str, kind: &str, ofport: Ofport) -> Interface {
        Interface {
            id,
            name: name.to_owned(),
            kind: kind.to_owned(),
            ofport,
            ofport_request: None,
            external_ids: BTreeMap::new(),
            mac_in_use: None,
            ifindex: Some(1),
            error: None,
            patch_peer: None,
        }
    }

    fn snapshot(&self) -> Snapshot {
        let port = |name: &str, external_ids, interface: Interface| Port {
            id: RowId(interface.id.0 + 1_000_000),
            name: name.to_owned(),
            external_ids,
            mac: None,
            vlans: Vec::new(),
            interfaces: vec![interface],
        };
        let fixed = |bridge: BridgeId, n: u128, name: &str, kind: &str, ofport: u16| {
            let id = RowId(10 * bridge as u128 + n);
            port(name, BTreeMap::new(), Self::interface(id, name, kind, Ofport::Number(ofport)))
        };
        let ports = |on: BridgeId| {
            let mut ports = vec![
                fixed(on, 1, NAMES[on], "internal", 65534),
                fixed(on, 2, UPLINKS[on], "", UPLINK),
            ];
            if self.bridges.has_patch() {
                let mut patch = fixed(on, 3, PATCHES[on], "patch", PATCH);
                patch.interfaces[0].patch_peer = Some(PATCHES[1 - on].to_owned());
                ports.push(patch);
            }
            for row in self.rows.values().filter(|row| row.bridge == on) {
                let mut interface = Self::interface(row.id, &row.name, "", row.ofport);
                // A sandbox takes its device along.
                interface.ifindex = row.sandbox.then_some(1);
                let mut port = port(&row.name, row.marks(), interface);
                port.vlans = self.layout.vlan(row.who.reg).into_iter().collect();
                ports.push(port);
            }
            ports
        };
        let ovn = if self.layout == Layout::Ovn {
            Ovn { bridges: self.bridges.ids().map(|on| NAMES[on].to_owned()).collect() }
        } else {
            Ovn::default()
        };
        let bridge = |on: BridgeId| Bridge {
            id: RowId(10 * on as u128 + 9),
            name: NAMES[on].to_owned(),
            datapath_type: "netdev".to_owned(),
            protocols: Vec::new(),
            fail_mode: None,
            ports: ports(on),
        };
        let bridges = self.bridges.ids().map(bridge).collect();
        Snapshot { complete: true, ovn, bridges, ..Snapshot::default() }
    }

    /// Everything as a call reads it; ages count back from `now`.
    fn world(&self, now: u64) -> NodeSnapshot {
        let mut world = NodeSnapshot::of(stamp(now), BOOT.to_owned(), self.snapshot().into());
        world.records = self.records.clone().into();
        world.tombstones = self.tombstones.clone().into();
        if let Some(state) = &self.state {
            world.networks.insert("podnet".parse().unwrap(), state.clone());
        } else {
            let mut state = NetworkState::default();
            state.config.mode = ovs_flow_gc::config::Mode::Observe;
            world.networks.insert("podnet".parse().unwrap(), state);
        }
        world.switch_started = Some(stamp(self.started));
        world
    }

    fn input(
        &self,
        world: &NodeSnapshot,
        bridge: BridgeId,
        targets: &[CleanTarget],
        adding: Option<&Key>,
    ) -> BridgeInput {
        let mut input = BridgeInput::build(world, reconcile::BridgeId(bridge), targets, adding);
        let here = self.rows.values().filter(|row| row.bridge == bridge);
        let named = here.filter_map(|row| Some((row.ofport.number()?, row.name.clone())));
        let mut described: Vec<_> = named.collect();
        described.push((UPLINK, UPLINKS[bridge].to_owned()));
        if self.bridges.has_patch() {
            described.push((PATCH, PATCHES[bridge].to_owned()));
        }
        input.check_ports(world, reconcile::BridgeId(bridge), &described);
        // There is no namespace on this machine whose file could tell an unrecorded pod's age.
        // A target's port is the dead's own, even if its tombstone does not say so yet.
        let dead = self.tombstones.iter().chain(targets.iter().map(|t| &t.attachment));
        let leaving: BTreeSet<RowId> = dead.filter_map(|t| t.interface).collect();
        let mut arriving: BTreeMap<Option<u16>, BootTime> = BTreeMap::new();
        let marked = |row: &&Row| row.sandbox && row.kind != Kind::Unmarked;
        let near = |row: &&Row| self.bridges.joins(row.bridge, bridge);
        let rows = self.rows.values().filter(near);
        for row in rows.filter(|row| marked(row) && !leaving.contains(&row.id)) {
            let recorded = |r: &Attachment| {
                // An adopted record without addresses explains nothing.
                r.interface == Some(row.id) && !(r.adopted && r.addresses().is_empty())
            };
            // As the call read them: who was recorded since is still arriving to it.
            if world.records.iter().any(recorded) {
                continue;
            }
            let born = stamp(row.born - TICK);
            if born.until(world.now) <= ADD_TAKES {
                // Only on its own bridge does it have a number.
                let number = row.ofport.number().filter(|_| row.bridge == bridge);
                let first = arriving.entry(number).or_insert(born.into());
                *first = BootTime::from(born).min(*first);
            }
        }
        let unrecorded_port = |l: &&mut Live| l.network.is_none() && !l.addresses_known && l.is_pod;
        for live in input.facts.live.values_mut().filter(unrecorded_port) {
            live.born = arriving.get(&live.ofport).copied();
        }
        input
    }

    fn flow(line: &Line, added: u64) -> Flow {
        Flow { made: stamp(added).into(), ..line.flow.clone() }
    }

    /// Which entries a scan by tokens is answered with (`flowtable::Tokens`).
    fn answers(facts: &JudgeInput, flow: &Flow) -> bool {
        facts.dead.values().any(|dead| {
            let rule = facts.networks.get(dead.network).unwrap().register;
            let m = &flow.matches;
            let previous_ofports = |r: &RegisterMatch| {
                rule.source == RegisterSource::Ofport
                    && r.index == rule.index
                    && dead.previous_ofports.iter().any(|port| u32::from(*port) == r.value)
            };
            m.in_port.is_some_and(|port| dead.had(port))
                || m.registers.iter().any(previous_ofports)
                || m.addresses.iter().any(|m| dead.addresses.contains(&m.address))
                || flow.actions.outputs.iter().any(|port| dead.had(*port))
                || dead.register.is_some_and(|value| {
                    m.registers
                        .iter()
                        .any(|r| r.index == rule.index && r.mask == u32::MAX && r.value == value)
                })
        })
    }

    /// A look at the switch (`sweep::look`): what may be stale, and what was learned.
    fn scan(
        &self,
        bridge: BridgeId,
        facts: &JudgeInput,
        thorough: bool,
    ) -> (Vec<(Slot, Flow)>, Learned, bool) {
        let proof = facts.dead.values().any(|dead| {
            let source = facts.networks.get(dead.network).unwrap().register.source;
            matches!(
                source,
                RegisterSource::Pod
                    | RegisterSource::Learn { distinct_seen: true, shared_seen: false }
            )
        });
        let here = || self.table.iter().filter(|(_, (line, _))| line.bridge == bridge);
        let flows = || here().map(|(slot, (line, added))| (slot.clone(), Self::flow(line, *added)));
        if !thorough && !self.small && facts.dead.len() <= 4 && !proof {
            let mut survey = Survey::partial(facts);
            let seen: Vec<_> = flows()
                .filter(|(_, flow)| Self::answers(facts, flow))
                .filter(|(_, flow)| survey.see(flow))
                .collect();
            let learned = survey.finish();
            let judge = Judge::new(facts, &learned);
            let newly = |(dead, value): (&ovs_flow_gc::judge::input::Dead, &Option<u32>)| {
                let rule = facts.networks.get(dead.network).unwrap().register;
                let learns =
                    matches!(rule.source, RegisterSource::Learn { .. } | RegisterSource::Pod);
                learns
                    && dead.register.is_none()
                    && value.is_some_and(|value| {
                        here().any(|(_, (line, _))| {
                            line.flow
                                .matches
                                .registers
                                .iter()
                                .any(|r| r.index == rule.index && r.value == value)
                        })
                    })
            };
            let more = seen.iter().any(|(_, flow)| judge.would_register_matter(flow))
                || facts.dead.values().zip(learned.dead_registers.values()).any(newly);
            if !more {
                return (seen, learned, false);
            }
        }
        let mut survey = Survey::new(facts);
        let seen = flows().filter(|(_, flow)| survey.see(flow)).collect();
        (seen, survey.finish(), true)
    }

    /// `sweep::unrecorded::refresh`.
    fn refresh(&mut self, world: &NodeSnapshot, targets: &[CleanTarget]) {
        let predecessors = Predecessors::of(world, targets);
        for record in &mut self.records {
            if let Some(row) = Self::certain(&self.rows, record) {
                Self::renew(world, record, row);
            }
            record.inherits = predecessors.first(record).or(record.inherits);
        }
    }

    /// `NodeSnapshot::certain_place_of`.
    fn certain<'r>(rows: &'r BTreeMap<PodId, Row>, record: &Attachment) -> Option<&'r Row> {
        let id = record.interface?;
        let container = record.key.container.as_str();
        let own = |row: &&Row| row.id == id;
        let marked = |row: &&Row| row.container == container && row.kind != Kind::Unmarked;
        rows.values().find(own).or_else(|| rows.values().find(marked))
    }

    fn renew(world: &NodeSnapshot, record: &mut Attachment, row: &Row) {
        record.interface = Some(row.id);
        let now = row.ofport.number();
        if now.is_some() && now != record.ofport {
            record.ofport_since = Some(world.number_changed(record));
            record.ofport_before = record.ofport.or(record.ofport_before);
            record.ofport = now;
        }
    }

    /// `sweep::unrecorded::resolve`.
    fn resolve(&self, world: &NodeSnapshot, record: &mut Attachment) {
        if let Some(row) = Self::certain(&self.rows, record)
            && record.interface != Some(row.id)
        {
            Self::renew(world, record, row);
        }
        if record.interface.is_some() || record.port.is_some() {
            return;
        }
        let claimed: Vec<RowId> = world.records.iter().filter_map(|r| r.interface).collect();
        let wanted = Wanted {
            container_id: record.key.container.as_str(),
            ifname: record.key.ifname.as_str(),
            netns: record.netns.as_ref().map(|n| n.path.as_str()),
            pod: None,
            host_interfaces: Vec::new(),
            macs: &[],
            bridge: None,
        };
        let found = find_for_delete(&world.ovs, &wanted, |i| claimed.contains(&i.id));
        if let Some(found) = found {
            write_port(record, found.bridge, found.port, found.interface);
        }
    }

    /// `sweep::remember`.
    fn remember(
        &mut self,
        world: &NodeSnapshot,
        input: &BridgeInput,
        targets: &mut [CleanTarget],
        learned: &Learned,
        full: bool,
        shared: &ovs_flow_gc::model::table::Table<NetworkId, bool>,
    ) {
        let learns =
            matches!(self.config.register_rule(false, false).source, RegisterSource::Learn { .. });
        if let (true, Some(facts), Some(state)) =
            (full, learned.networks.values().next(), &mut self.state)
        {
            state.register.register_told_apart |= facts.distinct_seen;
            state.register.register_shared |= shared.values().next().unwrap();
        }
        if let (Some(state), true) = (&mut self.state, learns) {
            let shown = learned.shown.iter().filter(|shown| full || shown.value.is_none());
            shown.for_each(|s| state.register.show(&s.member, s.value));
        }
        let found = |value: &u32| Register { value: *value, how: RegisterHow::Learned };
        for (live, value) in input.records.values().zip(learned.live_registers.values()) {
            let (Some(index), Some(value), true) = (live, value, full && learns) else { continue };
            let of = index.of(world).unwrap();
            let same = |r: &&mut Attachment| r.is_same(of);
            if let Some(record) = self.records.iter_mut().chain(&mut self.tombstones).find(same) {
                record.register = Some(found(value));
            }
        }
        for (target, value) in input.targets.values().zip(learned.dead_registers.values()) {
            let (Some(value), true) = (value, learns) else { continue };
            let of = &mut targets[target.id.0].attachment;
            if of.register.is_none() {
                of.register = Some(found(value));
                let same = |t: &&mut Attachment| t.is_same(of);
                if let Some(tombstone) = self.tombstones.iter_mut().find(same) {
                    tombstone.register = of.register;
                }
            }
        }
    }

    /// `CleanRequest::clean`, up to where the first bridge, or in turn the second, is to be acted upon.
    fn clean(
        &mut self,
        mut targets: Vec<CleanTarget>,
        adding: Option<Key>,
        thorough: bool,
        crash: u8,
    ) -> Call {
        if targets.is_empty() && !thorough {
            return Call::Over { ended: true };
        }
        let now = self.now;
        let world = self.world(now);
        self.refresh(&world, &targets);
        let world = self.world(now);
        for target in &mut targets {
            self.resolve(&world, &mut target.attachment);
        }
        self.verdicts.clear();
        let mut bridges = Self::bridges_to_look_at(&world, &targets, thorough);
        let (waiting, started) = (vec![false; targets.len()], self.started);
        let mut work = Work { crash, thorough, world, targets, adding, waiting, started };
        self.calls += 1;
        let turn = self.calls % bridges.len().max(1);
        let rest = bridges.split_off(turn);
        for bridge in bridges {
            if let Some(pass) = self.judge(&mut work, bridge, false) {
                self.delete(&mut work, pass, false);
            }
        }
        let Some((bridge, rest)) = rest.split_first() else { return Call::Over { ended: true } };
        match self.judge(&mut work, *bridge, true) {
            Some(pass) => Call::Looked(Box::new(Looked { work, pass, rest: rest.to_vec() })),
            None => Call::Over { ended: false },
        }
    }

    /// `CleanRequest::bridges_to_look_at`.
    fn bridges_to_look_at(
        world: &NodeSnapshot,
        targets: &[CleanTarget],
        thorough: bool,
    ) -> Vec<BridgeId> {
        let dead = targets.iter().map(|target| &target.attachment);
        let living = world.records.iter().filter(|_| thorough);
        let bridges: BTreeSet<_> = dead.chain(living).flat_map(|r| world.bridges_of(r)).collect();
        bridges.into_iter().map(|bridge| bridge.0).collect()
    }

    /// The first half of a pass over a bridge: look, learn, judge. `None`: it crashed.
    fn judge(&mut self, work: &mut Work, bridge: BridgeId, may_crash: bool) -> Option<Pass> {
        let Work { crash, thorough, world, targets, adding, waiting, .. } = work;
        let crashes = |at: u8| may_crash && *crash == at;
        let looked = self.now;
        let input = self.input(world, bridge, targets, adding.as_ref());
        let (seen, learned, full) = self.scan(bridge, &input.facts, *thorough);
        if crashes(stage::LOOKED) {
            return None;
        }
        let ghost = |record: &Option<RecordId>| {
            let record = record.and_then(|record| record.of(world));
            record.is_some_and(|r| !self.sandboxes.contains(r.key.container.as_str()))
        };
        let ghosts: Vec<LiveId> =
            input.records.iter().filter(|(_, r)| ghost(r)).map(|(l, _)| l).collect();
        let shared = input.networks.map(|n, _| learned.shared_without(&input.facts, n, &ghosts));
        self.remember(world, &input, targets, &learned, full, &shared);
        if crashes(stage::REMEMBERED) {
            return None;
        }
        let judge = Judge::new(&input.facts, &learned);
        let mut planned = Vec::new();
        for (slot, flow) in seen {
            let verdict = judge.verdict(&flow);
            self.verdicts.insert(slot.clone(), verdict);
            if verdict.stale {
                planned.push((slot, flow, verdict));
            } else {
                let mut kept = judge.kept_for(&flow);
                kept.retain(|other| other.dead != verdict.dead);
                kept.push(verdict);
                let waits = |kept| wait_together(&input, &learned, &shared, &kept);
                for dead in kept.into_iter().flat_map(waits) {
                    waiting[input.target(dead).unwrap().0] = true;
                }
            }
        }
        drop(judge);
        Some(Pass { bridge, looked, input, learned, planned })
    }

    /// The second half: look at the world again, delete. Whether it came to its end.
    fn delete(&mut self, work: &mut Work, pass: Pass, may_crash: bool) -> bool {
        let Pass { bridge, looked, input, learned, mut planned } = pass;
        let Work { world, targets, adding, waiting, .. } = work;
        // The switch tells what was put since the scan (`reconcile::guard`).
        planned.retain(|(slot, _, verdict)| {
            let newer = self.table.get(slot).is_some_and(|(_, added)| *added > looked);
            if let (true, Some(dead)) = (newer, verdict.dead) {
                waiting[input.target(dead).unwrap().0] = true;
            }
            !newer
        });
        let fresh = self.world(world.now.boot_ms);
        let fresh = self.input(&fresh, bridge, targets, adding.as_ref());
        let recheck = Recheck::between(&input.facts, &learned, &fresh.facts);
        planned.retain(|(_, flow, verdict)| {
            let holds = recheck.standing(flow, verdict) == Standing::Holds;
            if let (false, Some(dead)) = (holds, verdict.dead) {
                waiting[input.target(dead).unwrap().0] = true;
            }
            holds
        });
        let crash = if may_crash { work.crash } else { 0 };
        let most = match crash {
            stage::RECHECKED => 0,
            stage::DELETED_ONE => 1,
            stage::DELETED_SOME => planned.len() / 2,
            _ => usize::MAX,
        };
        for (slot, ..) in planned.iter().take(most) {
            if self.table.remove(slot).is_some() {
                self.lost.push(Rc::clone(slot));
            }
        }
        !matches!(crash, stage::RECHECKED..=stage::DELETED)
    }

    /// The rest of a call: delete on the bridge that was scanned, go over the others, settle.
    fn act(&mut self, looked: Looked) -> bool {
        let Looked { mut work, pass, rest } = looked;
        if !self.delete(&mut work, pass, true) {
            return false;
        }
        for bridge in rest {
            if let Some(pass) = self.judge(&mut work, bridge, false) {
                self.delete(&mut work, pass, false);
            }
        }
        let Work { crash, world, targets, waiting, started, .. } = work;
        for (n, (target, waits)) in targets.iter().zip(waiting).enumerate() {
            if crash == stage::SETTLED_ONE && n == 1 {
                return false;
            }
            self.settle(target, waits, &world, started);
        }
        true
    }

    /// `sweep::settle`.
    fn settle(&mut self, target: &CleanTarget, waits: bool, node: &NodeSnapshot, started: u64) {
        let mut record = target.attachment.clone();
        let known = self.tombstones.iter().position(|t| t.is_same(&record));
        record.register = record.register.or_else(|| self.tombstones[known?].register);
        let since = record.died.map_or(0, |died| died.boot_ms).max(started);
        let lingered = stamp(since).until(node.now) >= Duration::from_millis(LINGER);
        let nothing_known = record.unrecorded && record.interface.is_none();
        if let Some(known) = known {
            self.tombstones.remove(known);
        }
        if waits {
            record.state = State::Deleting;
        } else if nothing_known || lingered && !BridgeInput::is_needed(node, &record) {
            return;
        } else {
            record.state = State::Gone;
        }
        self.tombstones.push(record);
    }

    fn write_tombstone(&mut self, record: &Attachment) {
        self.records.retain(|r| !r.is_same(record));
        self.tombstones.push(record.clone());
    }

    fn dead(record: &Attachment, now: u64) -> Attachment {
        died(record.clone(), stamp(now), BOOT)
    }

    fn new_record(&mut self, key: Key, pod: &Pod, now: u64) -> Attachment {
        let ((namespace, name), uid) = (pod.name(self.layout), String::new());
        let mut record = self.record_of(key, now);
        record.pod = Some(attachment::Pod { namespace, name, uid });
        record
    }

    /// Of a pod that nothing else is known of.
    fn record_of(&mut self, key: Key, now: u64) -> Attachment {
        self.generation += 1;
        let path = Self::path(key.container.as_str());
        let mut record = Attachment::new(key, self.generation, BOOT.to_owned(), stamp(now));
        record.netns = Some(Netns {
            path,
            device: 1,
            inode: self.generation,
            parent_device: 1,
            parent_inode: 1,
            pid_namespace: None,
        });
        record
    }
}

impl Driver for Sim {
    type Call = Call;
    const MAKE_BELIEVE: bool = true;

    fn bridges(&self) -> Bridges {
        self.bridges
    }

    fn now(&mut self) -> u64 {
        self.now
    }

    fn pass(&mut self, ms: u64) {
        self.now += ms;
    }

    fn linger(&self) -> u64 {
        LINGER
    }

    fn plug(&mut self, pod: &Pod, slow: bool) {
        let wanted = pod.who.ofport;
        let ofport = if slow { Ofport::Unassigned } else { Ofport::Number(wanted) };
        let (name, container) = (pod.port(), pod.container());
        self.sandboxes.insert(container.clone());
        let (id, kind, who) = (Self::row_id(pod), pod.kind, pod.who.clone());
        let (born, sandbox, bridge) = (pod.born, true, pod.bridge);
        let row = Row { id, kind, bridge, name, container, who, ofport, born, sandbox, wanted };
        self.rows.insert(pod.id, row);
        self.now += 5;
    }

    fn end_sandbox(&mut self, pod: &Pod) {
        self.sandboxes.remove(&pod.container());
        if let Some(row) = self.rows.get_mut(&pod.id) {
            row.sandbox = false;
        }
    }

    fn unplug(&mut self, pod: &Pod) {
        self.rows.remove(&pod.id);
    }

    fn renumber(&mut self, pod: &Pod, number: u16, other: Option<&Pod>) {
        let was = self.rows[&pod.id].ofport;
        if let Some(other) = other {
            self.rows.get_mut(&other.id).unwrap().ofport = was;
        }
        self.rows.get_mut(&pod.id).unwrap().ofport = Ofport::Number(number);
    }

    fn reattach(&mut self, pod: &Pod, number: u16) {
        let row = self.rows.get_mut(&pod.id).unwrap();
        (row.id, row.ofport) = (Self::row_id(pod), Ofport::Number(number));
    }

    fn settle_numbers(&mut self) {
        for row in self.rows.values_mut().filter(|row| row.ofport == Ofport::Unassigned) {
            row.ofport = Ofport::Number(row.wanted);
        }
    }

    fn restart(&mut self, numbers: &[(&Pod, u16)], restored: &[Rc<Line>]) {
        self.settle_numbers();
        for (pod, number) in numbers {
            let kernel = self.kernel;
            let row = self.rows.get_mut(&pod.id).unwrap();
            let failed = kernel && !row.sandbox;
            row.ofport = if failed { Ofport::Failed } else { Ofport::Number(*number) };
        }
        (self.started, self.now) = (self.now, self.now + 30);
        self.table.clear();
        self.install(restored);
    }

    /// `adopt`: who has a sandbox and a marked row, by what libcni's cache and the marks say.
    fn forget(&mut self) {
        let known = std::mem::take(&mut self.records);
        self.tombstones.clear();
        self.state = Some(NetworkState { config: self.config.clone(), ..NetworkState::default() });
        let snapshot = self.snapshot();
        let marked = |row: &&Row| row.sandbox && row.kind != Kind::Unmarked;
        let rows: Vec<Row> = self.rows.values().filter(marked).cloned().collect();
        for row in rows {
            let key = Self::key(&row.container);
            let cached = known.iter().find(|record| record.key == key);
            let mut record = self.record_of(key, self.now);
            record.adopted = true;
            record.born = Some(stamp(row.born - TICK));
            if let Some(cached) = cached {
                record.pod.clone_from(&cached.pod);
                record.ips.clone_from(&cached.ips);
                record.macs.clone_from(&cached.macs);
            } else if row.kind == Kind::Marked {
                let Who { ip, ip6, mac, .. } = &row.who;
                record.ips = vec![ip.parse().unwrap(), ip6.parse().unwrap()];
                record.macs = vec![mac.parse().unwrap()];
            }
            let Some((bridge, port, interface)) = snapshot.interface(row.id) else { continue };
            write_port(&mut record, bridge, port, interface);
            record.register = register_of(&self.config, &record, Some((port, interface)));
            record.ofport_since = Some(stamp(self.started)).filter(|_| row.born < self.started);
            self.records.push(record);
        }
    }

    fn numbers(&mut self) -> BTreeMap<PodId, Ofport> {
        self.rows.iter().map(|(id, row)| (*id, row.ofport)).collect()
    }

    fn install(&mut self, lines: &[Rc<Line>]) {
        for line in lines {
            self.table.insert(Rc::clone(&line.slot), (Rc::clone(line), self.now));
        }
    }

    fn modify(&mut self, line: &Rc<Line>) {
        self.table.get_mut(&line.slot).unwrap().0 = Rc::clone(line);
    }

    /// `plugin::add`.
    fn add(&mut self, pod: &Pod, crash: u8) -> Call {
        if crash == stage::BEGUN {
            return Call::Over { ended: false };
        }
        let key = Self::key(&pod.container());
        let mut record = self.new_record(key.clone(), pod, self.now);
        let who = &pod.who;
        record.ips = vec![who.ip.parse().unwrap(), who.ip6.parse().unwrap()];
        record.macs = vec![who.mac.parse().unwrap()];
        record.born = Some(stamp(pod.born - TICK));
        let snapshot = self.snapshot();
        let wanted = Wanted {
            container_id: record.key.container.as_str(),
            ifname: "eth0",
            netns: record.netns.as_ref().map(|n| n.path.as_str()),
            pod: None,
            host_interfaces: Vec::new(),
            macs: &[],
            bridge: None,
        };
        if let Some(found) = find_port(&snapshot, &wanted) {
            write_port(&mut record, found.bridge, found.port, found.interface);
            record.register =
                register_of(&self.config, &record, Some((found.port, found.interface)));
        }
        self.state.get_or_insert_default().config = self.config.clone();
        self.records.retain(|other| other.key != record.key);
        self.records.push(record.clone());
        if crash == stage::RECORDED {
            return Call::Over { ended: false };
        }
        let shares = |other: &Attachment| {
            let port = other.ofport.is_some()
                && other.ofport == record.ofport
                && other.bridge == record.bridge;
            port || other.ips.iter().any(|ip| record.ips.contains(ip))
                || other.macs.iter().any(|m| record.macs.contains(m))
        };
        let (mut targets, now) = (Vec::new(), self.now);
        for tombstone in self.tombstones.iter().filter(|t| shares(t)) {
            targets.push(CleanTarget {
                attachment: Self::dead(tombstone, now),
                cause: Cause::Tombstone,
            });
        }
        let gone = |r: &&Attachment| {
            shares(r) && !r.is_same(&record) && !self.sandboxes.contains(r.key.container.as_str())
        };
        let orphans: Vec<_> =
            self.records.iter().filter(gone).map(|r| Self::dead(r, now)).collect();
        for orphan in orphans {
            self.write_tombstone(&orphan);
            targets
                .push(CleanTarget { attachment: orphan, cause: Cause::Orphan("gone".to_owned()) });
        }
        self.clean(targets, Some(key), false, crash)
    }

    /// `plugin::del`.
    fn del(&mut self, pod: &Pod, crash: u8) -> Call {
        if crash == stage::BEGUN {
            return Call::Over { ended: false };
        }
        let (key, now) = (Self::key(&pod.container()), self.now);
        let mut targets = Vec::new();
        let earlier: Vec<_> = self.tombstones.iter().filter(|t| t.key == key).cloned().collect();
        if let Some(record) = self.records.iter().find(|r| r.key == key) {
            let mut record = Self::dead(record, now);
            if self.sandboxes.contains(&pod.container()) {
                record.seen_alive = stamp(now);
            }
            self.write_tombstone(&record);
            targets.push(CleanTarget { attachment: record, cause: Cause::Del });
        }
        for tombstone in earlier {
            let attachment = Self::dead(&tombstone, now);
            targets.push(CleanTarget { attachment, cause: Cause::Tombstone });
        }
        if targets.is_empty() {
            let mut record = self.new_record(key, pod, now);
            record.unrecorded = true;
            let there = self.sandboxes.contains(&pod.container());
            record.born = there.then(|| stamp(pod.born - TICK));
            let record = Self::dead(&record, now);
            self.tombstones.push(record.clone());
            targets.push(CleanTarget { attachment: record, cause: Cause::Del });
        }
        if self.state.is_none() {
            self.state =
                Some(NetworkState { config: self.config.clone(), ..NetworkState::default() });
        }
        if crash == stage::RECORDED {
            return Call::Over { ended: false };
        }
        self.clean(targets, None, false, crash)
    }

    fn is_small(&self) -> bool {
        self.small
    }

    /// `sweep::Once`.
    fn sweep(&mut self, hasty: bool, crash: u8) -> Call {
        if crash == stage::BEGUN {
            return Call::Over { ended: false };
        }
        let now = self.now;
        let tombstone = |t: &Attachment| CleanTarget {
            attachment: Self::dead(t, now),
            cause: Cause::Tombstone,
        };
        let mut targets: Vec<CleanTarget> = self.tombstones.iter().map(tombstone).collect();
        let gone = |r: &&Attachment| !self.sandboxes.contains(r.key.container.as_str());
        let orphans: Vec<_> =
            self.records.iter().filter(gone).map(|r| Self::dead(r, now)).collect();
        for (n, orphan) in orphans.into_iter().enumerate() {
            if crash == stage::RECORDED && n == 1 {
                return Call::Over { ended: false };
            }
            self.write_tombstone(&orphan);
            targets
                .push(CleanTarget { attachment: orphan, cause: Cause::Orphan("gone".to_owned()) });
        }
        if crash == stage::RECORDED {
            return Call::Over { ended: false };
        }
        for record in &mut self.records {
            record.seen_alive = stamp(now);
        }
        self.clean(targets, None, !hasty, crash)
    }

    fn finish(&mut self, call: Call) -> bool {
        match call {
            Call::Over { ended } => ended,
            Call::Looked(looked) => self.act(*looked),
        }
    }

    fn lost(&mut self, table: &Table) -> Vec<Slot> {
        let mut lost = std::mem::take(&mut self.lost);
        // What was put back since is there.
        lost.retain(|slot| table.contains_key(slot) && !self.table.contains_key(slot));
        lost.sort();
        lost.dedup();
        lost
    }

    fn recorded(&mut self) -> Recorded {
        Recorded {
            records: self.records.clone(),
            tombstones: self.tombstones.clone(),
            state: self.state.clone().unwrap_or_default(),
            configured: self.state.is_some(),
        }
    }

    fn is_row_of(&self, record: &Attachment, pod: &Pod) -> bool {
        record.interface == Some(Self::row_id(pod))
    }

    fn why(&self, slot: &Slot) -> String {
        let verdict = self.verdicts.get(slot);
        verdict.map_or_else(|| "nothing".to_owned(), |verdict| format!("{:?}", verdict.reason))
    }
}
