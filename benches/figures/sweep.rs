//! A sweep after a node lost half of its pods, against `ovs-ofctl` that is told what to
//! delete, and against the shell loop.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::del::{count, empty, entries, install};
use super::measure::{Process, median, on};
use super::pods::{PodSet, Shape, shell, unmount, who};
use super::rig::{Datapath, Node, Setup, layouts};
use super::rivals::{bundle, del_by_value, one_by_one};
use super::table::Table;

const ORPHANS: usize = 500;
const LIVE: usize = 530;
const FLOWS: usize = 100_000;
/// 97 entries a pod: 500 orphans have 48,500.
const POLICY: usize = 82;
const ROUNDS: usize = 5;

/// A node with many pods. Their namespaces are mounts of one.
pub(crate) struct Large<'a> {
    node: &'a Node,
    pub(crate) whos: Vec<layouts::Who>,
    saved: Saved<'a>,
    netns: PathBuf,
    shape: Shape,
}

/// Builds the node, runs this on it, and takes the namespaces away.
pub(crate) fn on_a_large_node<'n>(node: &'n Node, run: impl FnOnce(Large<'n>) + Send) {
    node.limit_state_dir("64m");
    on(node, || {
        let large = Large::make(node);
        let netns = large.netns.clone();
        run(large);
        unmount(&netns, ORPHANS..ORPHANS + LIVE);
    });
}

pub(crate) fn figures(table: &mut Table) {
    let node = Setup::new().datapath(Datapath::Dummy).up("bench-sweep");
    on_a_large_node(&node, |large| large.measure(table));
}

impl<'a> Large<'a> {
    fn make(node: &'a Node) -> Self {
        let pods = ORPHANS + LIVE;
        let shape = Shape { policy: POLICY, tables: 1, linger: 30, who };
        let pod_set = PodSet::new(node, shape);
        pod_set.attach(0..pods);
        let whos: Vec<_> = (0..pods).map(who).collect();
        install(node, &shape.bridge(&whos, FLOWS));
        // The evictions: namespaces and ports are gone, nobody called DEL.
        pod_set.die_all(0..ORPHANS);
        pod_set.del_ports(0..ORPHANS);
        Self { node, netns: pod_set.netns, whos, saved: Saved::of(node), shape }
    }

    /// The same entries, the policy in so many tables.
    pub(crate) fn spread(&mut self, tables: usize) {
        self.shape.tables = tables;
        self.node.ofctl(&["del-flows", "br0"]);
        install(self.node, &self.shape.bridge(&self.whos, FLOWS));
        self.saved.restore();
    }

    pub(crate) fn sweep(&self) -> Process {
        sweep(self.node, "ovs-flow-gc")
    }

    /// Nothing of the dead is left, and everything else.
    pub(crate) fn must_be_swept(&self) {
        assert_eq!(count(self.node), FLOWS - ORPHANS * self.shape.each());
    }

    /// Flows and records as they were after the evictions.
    pub(crate) fn restore(&self) {
        let dead = self.whos.iter().take(ORPHANS);
        let dead = dead.flat_map(|who| self.shape.entries(who));
        install(self.node, &dead.collect::<Vec<_>>());
        self.saved.restore();
        assert_eq!(count(self.node), FLOWS);
    }

    fn measure(&self, table: &mut Table) {
        let node = self.node;
        let ours = self.sweep();
        let mut list = String::new();
        for entry in self.whos.iter().take(ORPHANS).flat_map(|who| entries(who, POLICY)) {
            let (matches, _) = entry.split_once(" actions=").unwrap();
            writeln!(list, "{matches}").unwrap();
        }
        let told = bundle(node, &list, &["--strict"]);
        let mut times: [Vec<_>; 2] = Default::default();
        for _ in 0..ROUNDS {
            for (times, process) in times.iter_mut().zip([&ours, &told]) {
                times.push(process.time());
                self.must_be_swept();
                self.restore();
            }
        }
        let [mine, bundle] = times.each_mut().map(|times| median(times));
        let what = "Sweep of 500 orphans, 48,500 of 100,000 flows";
        let against = format!("{what}; theirs: ovs-ofctl --bundle --strict del-flows, told which");
        table.at_most(&against, mine, bundle, 1.5);
        let dead = self.whos.iter().take(ORPHANS);
        let calls: Vec<_> = dead.map(|who| del_by_value(node, who.reg)).collect();
        let by_value = one_by_one(&calls);
        let against = format!("{what}; theirs: 500 x ovs-ofctl del-flows reg0=N");
        table.faster(&against, mine, by_value, 10.0);
        self.restore();
        let peak = ours.peak();
        self.must_be_swept();
        table.memory(&format!("{what}: peak"), peak, 40);
    }
}

/// Records as they were: the next round begins where this one did.
pub(crate) struct Saved<'a> {
    node: &'a Node,
    copy: PathBuf,
}

impl<'a> Saved<'a> {
    /// As they are now.
    pub(crate) fn of(node: &'a Node) -> Self {
        let saved = node.dir.join("saved");
        copy(&node.state_dir, &saved);
        Self { node, copy: saved }
    }

    pub(crate) fn restore(&self) {
        empty(&self.node.state_dir);
        copy(&self.copy, &self.node.state_dir);
    }
}

/// Everything in a directory.
fn copy(from: &Path, to: &Path) {
    let (from, to) = (from.display(), to.display());
    shell(&format!("mkdir -p {to} && cp -a {from}/. {to}"));
}

/// `ovs-flow-gc sweep`, of the build that `CNI_PATH` has by this name.
pub(crate) fn sweep(node: &Node, build: &str) -> Process {
    let (program, run_dir) = (node.plugin(build), node.run_dir.clone());
    let state_dir = node.state_dir.clone();
    // 3 would say that something needs attention: not good.
    Process::new(node, b"", move || {
        let mut command = Command::new(&program);
        command.env_clear().env("OVS_RUNDIR", &run_dir);
        command.args(["sweep", "--yes", "--json", "--state-dir"]).arg(&state_dir);
        command
    })
}
