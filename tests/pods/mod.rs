//! Pods by the hundred: sandboxes and ports in batches, `ovs-flow-gc` called directly as a
//! runtime would behind an OVS plugin that takes no time. For the dummy datapath, where a
//! port needs no device.

#![allow(dead_code, reason = "two test crates share this module, and each uses a part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a broken rig must fail the test at once"
)]

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use ovs_flow_gc::model::attachment::Key;
use ovs_flow_gc::store::{Registry, RegistrySnapshot};
use serde_json::{Value, json};

use crate::rig::node::NETWORK;
use crate::rig::run::run;
use crate::rig::{Call, Datapath, Node, Pod, Setup, Who, layouts};

/// Random numbers that a seed brings back (splitmix64, S. Vigna).
pub(crate) struct Dice(u64);

impl Dice {
    /// From `OFG_SEED`, else the clock; says which, so that a failure can be had again.
    pub(crate) fn new(test: &str) -> Self {
        let given = std::env::var("OFG_SEED").ok();
        let clock = || u64::from(std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos());
        let seed = given.map_or_else(clock, |seed| seed.parse().expect("OFG_SEED is a number"));
        eprintln!("{test}: OFG_SEED={seed}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end).unwrap()).unwrap()
    }

    /// True so many times in a hundred.
    pub(crate) fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// Takes one out, if there is one.
    pub(crate) fn take<T>(&mut self, from: &mut Vec<T>) -> Option<T> {
        if from.is_empty() { None } else { Some(from.swap_remove(self.below(from.len()))) }
    }
}

/// A pod, its port, and who it is on the switch.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) pod: Pod,
    pub(crate) port: String,
    pub(crate) who: Who,
}

impl Deref for Member {
    type Target = Pod;

    fn deref(&self) -> &Pod {
        &self.pod
    }
}

impl Member {
    /// A sandbox; `number` is its own for ever, port, address and value may be anybody's
    /// before and after.
    #[track_caller]
    pub(crate) fn new(node: &Node, number: u32, ofport: u16, address: u8, reg: u32) -> Self {
        let [a, b, c, d] = number.to_be_bytes();
        let who = Who {
            ofport,
            reg,
            ip: format!("10.244.1.{address}"),
            ip6: format!("fd00:10:244:1::{address:x}"),
            mac: format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}"),
        };
        Self { pod: node.pod(&format!("p{number}")), port: format!("veth{number:08x}"), who }
    }

    /// What the OVS plugin before us returned.
    pub(crate) fn result(&self) -> Value {
        let Who { ip, ip6, mac, .. } = &self.who;
        json!({
            "cniVersion": "1.0.0",
            "interfaces": [
                {"name": self.port},
                {"name": self.ifname, "mac": mac, "sandbox": self.netns_path()},
            ],
            "ips": [
                {"address": format!("{ip}/24"), "interface": 1},
                {"address": format!("{ip6}/64"), "interface": 1},
            ],
            "dns": {},
        })
    }

    /// Its entries, as a dump shows them.
    pub(crate) fn lines(&self) -> Vec<String> {
        layouts::classifier(&self.who)
    }

    /// The key of its record.
    pub(crate) fn key(&self) -> Key {
        Key {
            network: NETWORK.parse().unwrap(),
            container: self.container.parse().unwrap(),
            ifname: self.ifname.parse().unwrap(),
        }
    }
}

/// A node on the dummy datapath.
pub(crate) fn node(test: &str, gc_conf: Value) -> Node {
    Setup::new().datapath(Datapath::Dummy).gc_conf(gc_conf).up(test)
}

/// Adds ports, marked as antrea marks them, and waits until they have their numbers.
#[track_caller]
pub(crate) fn add_ports<'m>(node: &Node, members: impl IntoIterator<Item = &'m Member>) {
    add_ports_to(node, "br0", members);
}

/// The same on this bridge.
#[track_caller]
pub(crate) fn add_ports_to<'m>(
    node: &Node,
    bridge: &str,
    members: impl IntoIterator<Item = &'m Member>,
) {
    let mut args = Vec::new();
    for m in members {
        let id = |key: &str, value: &str| format!("external_ids:{key}=\"{value}\"");
        let request = format!("ofport_request={}", m.who.ofport);
        args.extend(["--", "add-port", bridge, &m.port].map(str::to_owned));
        args.extend(["--", "set", "Interface", &m.port, &request].map(str::to_owned));
        args.extend(["--", "set", "Port", &m.port].map(str::to_owned));
        args.extend([
            id("antrea-type", "container"),
            id("container-id", &m.container),
            id("net-ns", &m.netns_path()),
        ]);
    }
    vsctl(node, &args);
}

/// Removes ports.
#[track_caller]
pub(crate) fn del_ports<'m>(node: &Node, ports: impl IntoIterator<Item = &'m str>) {
    let each = |port| ["--", "--if-exists", "del-port", port].map(str::to_owned);
    vsctl(node, &ports.into_iter().flat_map(each).collect::<Vec<_>>());
}

#[track_caller]
fn vsctl(node: &Node, args: &[String]) {
    if !args.is_empty() {
        node.ovs_vsctl(&args.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

/// Ends sandboxes: their namespaces are gone.
#[track_caller]
pub(crate) fn end_sandboxes<'m>(node: &Node, members: impl IntoIterator<Item = &'m Member>) {
    let lines: String =
        members.into_iter().map(|m| format!("netns del {}\n", m.pod.netns)).collect();
    let mut ip = node.command("ip");
    ip.args(["-batch", "-"]);
    run(ip, None, lines.as_bytes()).ok();
}

/// A call of `ovs-flow-gc` for a pod, not yet started.
pub(crate) fn call<'n>(node: &'n Node, verb: &str, member: &Member) -> Call<'n> {
    let mut conf = node.plugin_conf("ovs-flow-gc", Some(member), Some(&member.result()));
    if verb == "DEL" && member.who.ofport.is_multiple_of(2) {
        // As with a runtime that lost its state.
        conf.as_object_mut().unwrap().shift_remove("prevResult");
    }
    node.call("ovs-flow-gc", verb).pod(member).conf(&conf)
}

/// The same verb for many pods at once; each must succeed.
#[track_caller]
pub(crate) fn all_at_once<'m>(
    node: &Node,
    verb: &str,
    members: impl IntoIterator<Item = &'m Member>,
) {
    let running: Vec<_> = members.into_iter().map(|m| call(node, verb, m).start()).collect();
    for call in running {
        call.wait().ok();
    }
}

/// So many pods on `br0`, with their ports and entries.
#[track_caller]
pub(crate) fn attached(node: &Node, count: u32) -> Vec<Member> {
    let member = |n| Member::new(node, n, 100 + n as u16, 10 + n as u8, 0x1001 + n);
    let members: Vec<Member> = (0..count).map(member).collect();
    add_ports(node, &members);
    for some in members.chunks(40) {
        all_at_once(node, "ADD", some);
    }
    node.add_flows("br0", &members.iter().flat_map(Member::lines).collect::<Vec<_>>());
    members
}

/// One sweep, which must do what it is there for.
#[track_caller]
pub(crate) fn sweep(node: &Node) -> Value {
    let outcome = node.admin(&["sweep", "--yes", "--json"]);
    assert!(outcome.succeeded(), "{outcome}");
    outcome.json()
}

/// Everything that is written down: all of it can be read, and nothing is torn.
#[track_caller]
pub(crate) fn records(node: &Node) -> RegistrySnapshot {
    let Some(registry) = Registry::open_existing(&node.state_dir).unwrap() else {
        return RegistrySnapshot::default();
    };
    let registry_snapshot = registry.snapshot().unwrap();
    assert!(registry_snapshot.corrupt.is_empty(), "{:?}", registry_snapshot.corrupt);
    assert!(registry_snapshot.aside.is_empty(), "{:?}", registry_snapshot.aside);
    assert!(registry_snapshot.failures.is_empty(), "{:?}", registry_snapshot.failures);
    for network in &registry_snapshot.networks {
        network.state::<ovs_flow_gc::config::NetworkState>().unwrap();
    }
    registry_snapshot
}

/// Every file below a directory.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { all.extend(files(&path)) } else { all.push(path) }
    }
    all
}

/// What is in one list and not in the other.
pub(crate) fn missing<'l>(wanted: &'l [String], from: &[String]) -> Vec<&'l String> {
    wanted.iter().filter(|line| !from.contains(line)).collect()
}
