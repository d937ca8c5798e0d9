//! A sweep after a node lost half of its pods, against `ovs-ofctl` that is told what to
//! delete, and against the shell loop.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use super::del::{count, del_flows, empty, entries, entries_over, install};
use super::measure::{Process, median, on};
use super::rig::{Datapath, Node, Setup, layouts};
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
    saved: PathBuf,
    /// How many tables the policy is in.
    tables: usize,
}

/// Builds the node, runs this on it, and takes the namespaces away.
pub(crate) fn on_a_large_node<'n>(node: &'n Node, run: impl FnOnce(Large<'n>) + Send) {
    node.limit_state_dir("64m");
    let netns = node.dir.join("netns");
    on(node, || {
        run(Large::make(node));
        unmount(&netns, 0..ORPHANS + LIVE);
    });
}

pub(crate) fn figures(table: &mut Table) {
    let node = Setup::new().datapath(Datapath::Dummy).up("bench-sweep");
    on_a_large_node(&node, |large| large.measure(table));
}

impl<'a> Large<'a> {
    fn make(node: &'a Node) -> Self {
        let pods = ORPHANS + LIVE;
        let netns = node.dir.join("netns");
        fs::create_dir_all(&netns).unwrap();
        shell(&format!(
            "mount -t tmpfs tmpfs {dir} && cd {dir} && for n in $(seq 0 {last}); do : > $n; \
             mount --bind /run/netns/{node} $n; done",
            dir = netns.display(),
            last = pods - 1,
            node = node.name,
        ));
        ports(node, "add-port", 0..pods);
        let listed = node.ovs_vsctl(&[
            "--bare",
            "--no-headings",
            "--columns=name,ofport",
            "--format=csv",
            "list",
            "Interface",
        ]);
        let ofport = |name: &str| -> u16 {
            let line = listed.lines().find_map(|l| l.strip_prefix(&format!("{name},")));
            line.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{name}: {listed}"))
        };
        let whos: Vec<_> = (0..pods)
            .map(|n| layouts::Who {
                ofport: ofport(&name(n)),
                reg: 0x10_0000 + u32::try_from(n).unwrap(),
                ip: format!("10.244.{}.{}", n / 200, n % 200 + 2),
                ip6: format!("fd00:10:244::{:x}", n + 2),
                mac: format!("0a:58:00:00:{:02x}:{:02x}", n / 200, n % 200 + 2),
            })
            .collect();
        for (n, who) in whos.iter().enumerate() {
            let container = format!("{n:064x}");
            let path = netns.join(n.to_string()).display().to_string();
            let conf = json!({
                "type": "ovs-flow-gc", "name": "podnet", "cniVersion": "1.0.0",
                "stateDir": node.state_dir,
                "prevResult": {
                    "cniVersion": "1.0.0",
                    "interfaces": [
                        {"name": name(n)}, {"name": "eth0", "mac": who.mac, "sandbox": path},
                    ],
                    "ips": [
                        {"address": format!("{}/16", who.ip), "interface": 1},
                        {"address": format!("{}/64", who.ip6), "interface": 1},
                    ],
                },
            });
            let call = node.call("ovs-flow-gc", "ADD").conf(&conf);
            let call = call.env("CNI_CONTAINERID", container).env("CNI_IFNAME", "eth0");
            call.env("CNI_NETNS", path)
                .env("CNI_ARGS", format!("K8S_POD_NAMESPACE=default;K8S_POD_NAME={}", name(n)))
                .run()
                .ok();
        }
        let mut flows = layouts::classifier_base();
        flows.extend(whos.iter().flat_map(|who| entries(who, POLICY)));
        let filler = (0..FLOWS - flows.len())
            .map(|n| format!("table=20, priority=10,tcp,tp_dst={} actions=drop", 20_000 + n));
        flows.extend(filler.collect::<Vec<_>>());
        install(node, &flows);
        // The evictions: namespaces and ports are gone, nobody called DEL.
        unmount(&netns, 0..ORPHANS);
        ports(node, "del-port", 0..ORPHANS);
        let saved = node.dir.join("saved");
        copy(&node.state_dir, &saved);
        Self { node, whos, saved, tables: 1 }
    }

    /// The same entries, the policy in so many tables.
    pub(crate) fn spread(&mut self, tables: usize) {
        self.tables = tables;
        self.node.ofctl(&["del-flows", "br0"]);
        let mut flows = layouts::classifier_base();
        flows.extend(self.whos.iter().flat_map(|who| entries_over(who, POLICY, tables)));
        let filler = (0..FLOWS - flows.len())
            .map(|n| format!("table=20, priority=10,tcp,tp_dst={} actions=drop", 20_000 + n));
        flows.extend(filler.collect::<Vec<_>>());
        install(self.node, &flows);
        empty(&self.node.state_dir);
        copy(&self.saved, &self.node.state_dir);
    }

    /// `ovs-flow-gc sweep`.
    pub(crate) fn sweep(&self) -> Process {
        let (program, run_dir) = (self.node.plugin("ovs-flow-gc"), self.node.run_dir.clone());
        let state_dir = self.node.state_dir.clone();
        // 3 would say that something needs attention: not good.
        Process::new(self.node, b"", move || {
            let mut command = Command::new(&program);
            command.env_clear().env("OVS_RUNDIR", &run_dir);
            command.args(["sweep", "--yes", "--json", "--state-dir"]).arg(&state_dir);
            command
        })
    }

    /// Nothing of the dead is left, and everything else.
    pub(crate) fn must_be_swept(&self) {
        assert_eq!(count(self.node), FLOWS - ORPHANS * (POLICY + 15));
    }

    /// Flows and records as they were after the evictions.
    pub(crate) fn restore(&self) {
        let dead = self.whos.iter().take(ORPHANS);
        let dead = dead.flat_map(|who| entries_over(who, POLICY, self.tables));
        install(self.node, &dead.collect::<Vec<_>>());
        empty(&self.node.state_dir);
        copy(&self.saved, &self.node.state_dir);
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
        let run_dir = node.run_dir.clone();
        let told = Process::new(node, list.as_bytes(), move || {
            let mut command = Command::new("/usr/bin/ovs-ofctl");
            command.env_clear().env("OVS_RUNDIR", &run_dir);
            command.args(["-OOpenFlow14", "--bundle", "--strict", "del-flows", "br0", "-"]);
            command
        });
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
        let by_value = self.one_by_one();
        let against = format!("{what}; theirs: 500 x ovs-ofctl del-flows reg0=N");
        table.faster(&against, mine, by_value, 10.0);
        self.restore();
        let peak = ours.peak();
        self.must_be_swept();
        table.memory(&format!("{what}: peak"), peak, 40);
    }

    fn one_by_one(&self) -> Duration {
        let calls: Vec<_> =
            self.whos.iter().take(ORPHANS).map(|who| del_flows(self.node, who.reg)).collect();
        let since = Instant::now();
        for call in &calls {
            call.time();
        }
        since.elapsed()
    }
}

fn name(n: usize) -> String {
    format!("p{n:04}")
}

/// `ovs-vsctl add-port` or `del-port` of many, a few hundred at a time.
fn ports(node: &Node, what: &str, which: std::ops::Range<usize>) {
    let calls: Vec<[String; 4]> =
        which.map(|n| ["--", what, "br0", &name(n)].map(str::to_owned)).collect();
    for some in calls.chunks(200) {
        let args: Vec<&str> = some.iter().flatten().map(String::as_str).collect();
        node.ovs_vsctl(&args);
    }
}

fn unmount(netns: &std::path::Path, which: std::ops::Range<usize>) {
    let (dir, first, last) = (netns.display(), which.start, which.end - 1);
    shell(&format!(
        "cd {dir} && for n in $(seq {first} {last}); do \
         ! [ -e $n ] || {{ umount $n; rm $n; }}; done"
    ));
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    let (from, to) = (from.display(), to.display());
    shell(&format!("mkdir -p {to} && cp -a {from}/. {to}"));
}

fn shell(script: &str) {
    let status = Command::new("/bin/sh").args(["-ec", script]).status().unwrap();
    assert!(status.success(), "{script}: {status}");
}
