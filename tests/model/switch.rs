//! A real switch (`dummy` datapath), real records, and `ovs-flow-gc` as a process that can be
//! killed.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::rc::Rc;
use std::time::Duration;

use ovs_flow_gc::config::database_socket;
use ovs_flow_gc::ovsdb::{Client, Ofport};
use ovs_flow_gc::util::clock::{Deadline, Stamp};
use serde_json::json;

use super::bridges::{BridgeId, Bridges, NAMES, PATCH, PATCHES, UPLINKS};
use super::controllers::{GROUP, Layout, UPLINK};
use super::entries::{Line, Slot};
use super::node::{Driver, Kind, Pod, PodId, Recorded, Table};
use crate::pods::{self, Member, add_ports_to, call, del_ports, end_sandboxes};
use crate::rig::{Flows, Node, Running, Who, eventually, sleep_ms};
use crate::watched::Watched;

/// `lingerSeconds`.
const LINGER_MS: u64 = 1000;
/// A call takes about ten times this.
const CRASH: Duration = Duration::from_micros(900);

/// A node for many walks, with two bridges.
pub(crate) fn node(name: &str) -> Node {
    let node = pods::node(name, json!({}));
    node.add_bridge(NAMES[1], None);
    let request = format!("ofport_request={UPLINK}");
    for (bridge, uplink) in NAMES.iter().zip(UPLINKS) {
        let set = ["--", "set", "Interface", uplink, &request];
        node.ovs_vsctl(&[&["add-port", bridge, uplink], &set[..]].concat());
    }
    add_groups(&node);
    node
}

fn add_groups(node: &Node) {
    let group = format!("group_id={GROUP},type=all,bucket=output:{UPLINK}");
    for bridge in NAMES {
        node.ofctl(&["--may-create", "mod-group", bridge, &group]);
    }
}

fn add_patches(node: &Node) {
    let request = format!("ofport_request={PATCH}");
    for (n, bridge) in NAMES.iter().enumerate() {
        let peer = format!("options:peer={}", PATCHES[1 - n]);
        let set = ["--", "set", "Interface", PATCHES[n], "type=patch", &peer, &request];
        node.ovs_vsctl(&[&["add-port", bridge, PATCHES[n]], &set[..]].concat());
    }
}

/// The switch of one walk.
pub(crate) struct Switch<'n> {
    node: &'n Node,
    members: BTreeMap<PodId, Member>,
    sandboxes: BTreeSet<PodId>,
    layout: Layout,
    bridges: Bridges,
    /// The daemon's copy of each bridge.
    watched: Vec<Watched>,
}

/// A call on its way.
pub(crate) struct Call {
    running: Running,
    crash: u8,
    /// Exit statuses that are as good as 0.
    fine: &'static [i32],
}

impl<'n> Switch<'n> {
    /// The node as it was made.
    pub(crate) fn new(node: &'n Node, layout: Layout, bridges: Bridges) -> Self {
        for bridge in NAMES {
            let ports = node.ports(bridge);
            let ports = ports.iter().map(String::as_str).filter(|port| !UPLINKS.contains(port));
            del_ports(node, ports);
            node.ofctl(&["del-flows", bridge]);
        }
        if bridges.has_patch() {
            add_patches(node);
        }
        if node.state_dir.exists() {
            fs::remove_dir_all(&node.state_dir).unwrap();
        }
        let mut keys = json!({
            "preset": null, "bridge": null, "bridges": null, "reg0": null,
            "lingerSeconds": LINGER_MS / 1000,
        });
        let conf = bridges.conf(layout.conf());
        for (key, value) in conf.as_object().unwrap() {
            keys[key] = value.clone();
        }
        node.configure(keys);
        let ovn = [
            "set",
            "Open_vSwitch",
            ".",
            "external_ids:ovn-remote=unix:/x",
            "external_ids:ovn-bridge=br0",
            "external_ids:ovn-bridge-two=br1",
        ];
        let none = [
            "remove",
            "Open_vSwitch",
            ".",
            "external_ids",
            "ovn-remote",
            "--",
            "remove",
            "Open_vSwitch",
            ".",
            "external_ids",
            "ovn-bridge",
            "--",
            "remove",
            "Open_vSwitch",
            ".",
            "external_ids",
            "ovn-bridge-two",
        ];
        if layout == Layout::Ovn {
            node.ovs_vsctl(&ovn)
        } else {
            node.ovs_vsctl(&none)
        };
        let (members, sandboxes) = (BTreeMap::new(), BTreeSet::new());
        let watched = bridges.ids().map(|bridge| Watched::of(node, NAMES[bridge])).collect();
        Self { node, members, sandboxes, layout, bridges, watched }
    }

    /// The copy of each bridge is what a dump shows, or says that it is not.
    fn compare_copies(&mut self) {
        for watched in &mut self.watched {
            while !watched.compare() {
                watched.sync();
            }
        }
    }

    fn member(&self, pod: &Pod) -> &Member {
        &self.members[&pod.id]
    }

    fn tag(&self, pod: &Pod, port: &str) {
        if let Some(vlan) = self.layout.vlan(pod.who.reg) {
            self.node.ovs_vsctl(&["set", "Port", port, &format!("tag={vlan}")]);
        }
    }

    fn request(&self, pod: &Pod, number: u16) {
        let request = format!("ofport_request={number}");
        self.node.ovs_vsctl(&["set", "Interface", &self.member(pod).port, &request]);
    }

    fn number(&mut self, pod: &Pod) -> Option<u16> {
        self.numbers().get(&pod.id).and_then(|ofport| ofport.number())
    }
}

impl Drop for Switch<'_> {
    fn drop(&mut self) {
        let left = self.sandboxes.iter().map(|id| &self.members[id]);
        end_sandboxes(self.node, left);
    }
}

impl Driver for Switch<'_> {
    type Call = Call;
    const MAKE_BELIEVE: bool = false;

    fn bridges(&self) -> Bridges {
        self.bridges
    }

    fn now(&mut self) -> u64 {
        Stamp::now().boot_ms
    }

    /// Only long waits are waits: a step takes its time here.
    fn pass(&mut self, ms: u64) {
        if ms > 20 {
            sleep_ms(ms);
        }
    }

    fn linger(&self) -> u64 {
        LINGER_MS
    }

    fn plug(&mut self, pod: &Pod, _slow: bool) {
        // File clocks tick: else it seems to be as old as what was just installed.
        sleep_ms(15);
        let (_, name) = pod.name(self.layout);
        let mut sandbox = self.node.pod(&name);
        // The rig's own names are all of one ReplicaSet, whichever tenant's.
        sandbox.name = name;
        sandbox.container = pod.container();
        let member = Member { pod: sandbox, port: pod.port(), who: pod.who.clone() };
        self.sandboxes.insert(pod.id);
        add_ports_to(self.node, NAMES[pod.bridge], [&member]);
        let Who { ip, ip6, mac, .. } = &pod.who;
        self.tag(pod, &member.port);
        match pod.kind {
            Kind::Ours | Kind::Machine | Kind::Slot => {}
            Kind::Marked => {
                let ips = format!("external_ids:ip-address=\"{ip},{ip6}\"");
                let mac = format!("external_ids:attached-mac=\"{mac}\"");
                self.node.ovs_vsctl(&["set", "Port", &member.port, &ips, &mac]);
            }
            Kind::Unmarked => {
                self.node.ovs_vsctl(&["clear", "Port", &member.port, "external_ids"]);
            }
        }
        self.members.insert(pod.id, member);
    }

    fn end_sandbox(&mut self, pod: &Pod) {
        if self.sandboxes.remove(&pod.id) {
            end_sandboxes(self.node, [self.member(pod)]);
        }
    }

    fn unplug(&mut self, pod: &Pod) {
        del_ports(self.node, [self.member(pod).port.as_str()]);
    }

    fn renumber(&mut self, pod: &Pod, number: u16, _other: Option<&Pod>) {
        self.request(pod, number);
        eventually("it has its number", || self.number(pod) == Some(number));
    }

    fn reattach(&mut self, pod: &Pod, number: u16) {
        let mut member = self.member(pod).clone();
        member.who.ofport = number;
        del_ports(self.node, [member.port.as_str()]);
        add_ports_to(self.node, NAMES[pod.bridge], [&member]);
        self.tag(pod, &member.port);
        eventually("it has its number", || self.number(pod) == Some(number));
    }

    fn settle_numbers(&mut self) {}

    fn restart(&mut self, numbers: &[(&Pod, u16)], restored: &[Rc<Line>]) {
        self.node.vswitchd.stop();
        for (pod, number) in numbers {
            self.request(pod, *number);
        }
        self.node.restart_vswitchd(Flows::Lost);
        for (pod, number) in numbers {
            eventually("it has its number", || self.number(pod) == Some(*number));
        }
        add_groups(self.node);
        self.install(restored);
    }

    fn numbers(&mut self) -> BTreeMap<PodId, Ofport> {
        let deadline = Deadline::after(Duration::from_secs(10));
        let mut client = Client::connect(&database_socket(&self.node.run_dir), deadline).unwrap();
        let snapshot = client.snapshot().unwrap();
        let id = |name: &str| name.strip_prefix("veth")?.parse().ok();
        let all = snapshot.interfaces();
        all.filter_map(|(_, _, i)| Some((id(&i.name)?, i.ofport))).collect()
    }

    fn install(&mut self, lines: &[Rc<Line>]) {
        for (bridge, name) in NAMES.iter().enumerate() {
            let here = lines.iter().filter(|line| line.bridge == bridge);
            let lines: Vec<&str> = here.map(|line| line.text.as_str()).collect();
            if !lines.is_empty() {
                self.node.add_flows(name, &lines);
            }
        }
    }

    fn modify(&mut self, line: &Rc<Line>) {
        self.node.ofctl(&["--strict", "mod-flows", NAMES[line.bridge], &line.text]);
    }

    fn add(&mut self, pod: &Pod, crash: u8) -> Call {
        let running = call(self.node, "ADD", self.member(pod)).start();
        Call { running, crash, fine: &[0] }
    }

    fn del(&mut self, pod: &Pod, crash: u8) -> Call {
        let running = call(self.node, "DEL", self.member(pod)).start();
        Call { running, crash, fine: &[0] }
    }

    fn is_small(&self) -> bool {
        true
    }

    fn sweep(&mut self, hasty: bool, crash: u8) -> Call {
        let some: &[&str] = if hasty { &["--only-dead"] } else { &[] };
        let running = self.node.start_admin(&[&["sweep", "--yes", "--json"], some].concat());
        // 3: something needs attention.
        Call { running, crash, fine: &[0, 3] }
    }

    fn finish(&mut self, call: Call) -> bool {
        let Call { running, crash, fine } = call;
        let outcome = match crash {
            0 => running.wait(),
            _ => running.kill_after(CRASH * u32::from(crash)),
        };
        match outcome.code {
            Some(code) => {
                assert!(fine.contains(&code), "{outcome}");
                true
            }
            None => {
                // What it had written to the switch is still read.
                sleep_ms(5);
                false
            }
        }
    }

    fn lost(&mut self, table: &Table) -> Vec<Slot> {
        let dump = |on: BridgeId| self.node.dump(NAMES[on]).into_iter().map(move |text| (on, text));
        let dump: HashSet<(BridgeId, String)> = self.bridges.ids().flat_map(dump).collect();
        let there = |entry: &&super::node::Entry| {
            dump.contains(&(entry.line.bridge, entry.line.text.clone()))
        };
        self.compare_copies();
        let known = table.values().filter(there).count();
        assert_eq!(known, dump.len(), "the switch has what nobody installed: {dump:#?} {table:#?}");
        table.iter().filter(|(_, e)| !there(e)).map(|(slot, _)| Rc::clone(slot)).collect()
    }

    fn recorded(&mut self) -> Recorded {
        let registry_snapshot = pods::records(self.node);
        let state = registry_snapshot.networks.iter().find_map(|n| n.state().unwrap());
        Recorded {
            records: registry_snapshot.attachments.iter().cloned().collect(),
            tombstones: registry_snapshot.tombstones.iter().cloned().collect(),
            configured: state.is_some(),
            state: state.unwrap_or_default(),
        }
    }
}
