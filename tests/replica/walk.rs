//! The walk: what other clients do to the bridge, one step after the other.

use std::fmt::Write as _;
use std::time::Instant;

use ovs_flow_gc::flowtable::Tokens;
use ovs_flow_gc::flowtable::replica::{Doubt, State};
use ovs_flow_gc::model::flow::Address;

use crate::rig::{Datapath, Flows, Node, Setup, sleep_ms};
use crate::watched::{Watched, soon};

const MATCHES: [&str; 12] = [
    "in_port=5",
    "in_port=6,reg0=0x1005",
    "reg0=0x1005",
    "reg0=0x5/0xffff",
    "ip,nw_src=10.244.1.5",
    "ip,nw_dst=10.244.1.6",
    "arp,arp_spa=10.244.1.5,arp_tha=02:00:00:00:00:01",
    "ipv6,ipv6_src=fd00::5",
    "dl_dst=02:00:00:00:00:01",
    "dl_vlan=5,dl_vlan_pcp=3",
    "ct_state=+est+trk,ip,ct_nw_dst=10.0.0.2",
    "",
];
const ACTIONS: [&str; 8] = [
    "drop",
    "output:5",
    "output:6,output:7",
    "load:0x1005->NXM_NX_REG0[],resubmit(,3)",
    "set_field:0x77->reg1,goto_table:9",
    "group:7",
    "conjunction(5,1/2)",
    "clone(output:3),NORMAL",
];

/// A small generator: one number says the whole walk.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        let n = self.below(of.len() as u64);
        of[n as usize]
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// What is done now and then, besides flow-mods.
const RARE: [Rare; 8] = [
    Rare::Bundle,
    Rare::StoppedReader,
    Rare::Evict,
    Rare::Restart,
    Rare::OtherBridge,
    Rare::Protocols,
    Rare::Bundle,
    Rare::Protocols,
];

#[derive(Clone, Copy, Debug)]
enum Rare {
    Bundle,
    StoppedReader,
    Evict,
    Restart,
    OtherBridge,
    Protocols,
}

struct Walk {
    node: Node,
    watched: Watched,
    dice: Dice,
    file: String,
}

impl Walk {
    /// A table and a match; without a priority all entries are meant that are as specific.
    fn loose(&mut self) -> String {
        let (table, matches) = (self.dice.below(4), self.dice.one(&MATCHES));
        let comma = if matches.is_empty() { "" } else { "," };
        format!("table={table}{comma}{matches}")
    }

    fn flow(&mut self) -> String {
        let (loose, priority) = (self.loose(), self.dice.below(3));
        format!("priority={priority},{loose}")
    }

    /// One line of a file of flow-mods.
    fn change(&mut self, out: &mut String) {
        let (flow, loose) = (self.flow(), self.loose());
        let actions = self.dice.one(&ACTIONS);
        let cookie = self.dice.below(3);
        match self.dice.below(12) {
            0 => writeln!(out, "delete {loose}"),
            1 | 2 => writeln!(out, "delete_strict {flow}"),
            3 => writeln!(out, "modify cookie={cookie},{loose},actions={actions}"),
            4 => writeln!(out, "modify_strict {flow},actions={actions}"),
            5 => writeln!(out, "add hard_timeout=1,{flow},actions={actions}"),
            6 => writeln!(out, "add idle_timeout=1,{flow},actions={actions}"),
            7 => writeln!(out, "add importance=3,send_flow_rem,{flow},actions={actions}"),
            _ => writeln!(out, "add cookie={cookie},{flow},actions={actions}"),
        }
        .unwrap();
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.file, text).unwrap();
    }

    fn ofctl(&self, args: &[&str]) {
        self.node.ofctl(&[args, &["br0", self.file.as_str()]].concat());
    }

    fn group(&self) {
        self.node.ofctl(&[
            "-OOpenFlow15",
            "add-group",
            "br0",
            "group_id=7,type=all,bucket=output:1",
        ]);
    }

    fn step(&mut self) {
        match self.dice.below(100) {
            0 => {
                self.node.ofctl(&["-OOpenFlow15", "del-groups", "br0", "group_id=7"]);
                self.watched.compare();
                self.group();
            }
            1 => {
                let count = 1 + self.dice.below(20);
                let mut text = String::new();
                for _ in 0..count {
                    let (flow, actions) = (self.flow(), self.dice.one(&ACTIONS));
                    writeln!(text, "{flow},actions={actions}").unwrap();
                }
                self.write(&text);
                self.ofctl(&["replace-flows"]);
            }
            n => {
                let mut text = String::new();
                for _ in 0..=self.dice.below(6) {
                    self.change(&mut text);
                }
                self.write(&text);
                let bundle: &[&str] =
                    if n < 10 { &["--bundle", "add-flows"] } else { &["add-flows"] };
                self.ofctl(bundle);
            }
        }
    }

    fn many(&self, count: usize, first: &str) -> String {
        let mut text = String::new();
        for n in 0..count {
            let (a, b) = (n / 250, n % 250);
            writeln!(text, "{first}table=20,ip,nw_src=10.1.{a}.{b},actions=output:5,output:6")
                .unwrap();
        }
        text
    }

    fn rare(&mut self, what: Rare) {
        match what {
            Rare::Bundle => {
                self.write(&self.many(8_000, ""));
                self.ofctl(&["--bundle", "add-flows"]);
                self.settle();
                self.node.ofctl(&["del-flows", "br0", "table=20"]);
            }
            Rare::StoppedReader => {
                let before = self.watched.watcher.replica().counters().resyncs;
                {
                    let _stopped = self.watched.watcher.replica();
                    for _ in 0..3 {
                        self.write(&self.many(3_000, ""));
                        self.ofctl(&["add-flows"]);
                        self.node.ofctl(&["del-flows", "br0", "table=20"]);
                    }
                }
                // It reads on, and says that it missed something.
                let watcher = &self.watched.watcher;
                crate::rig::eventually("it is in doubt", || {
                    let replica = watcher.replica();
                    !replica.is_in_sync() || replica.counters().resyncs > before
                });
            }
            Rare::Evict => {
                let set = "flow_tables:30=@t";
                let table =
                    ["--id=@t", "create", "Flow_Table", "flow_limit=5", "overflow_policy=evict"];
                self.node.ovs_vsctl(
                    &[&["--"], &table[..], &["--", "set", "Bridge", "br0", set]].concat(),
                );
                for n in 0..8 {
                    let flow =
                        format!("hard_timeout=100,table=30,ip,nw_src=10.2.0.{n},actions=drop");
                    self.node.ofctl(&["add-flow", "br0", &flow]);
                    self.watched.compare();
                }
                self.node.ovs_vsctl(&["clear", "Bridge", "br0", "flow_tables"]);
                assert!(self.watched.doubts.contains(&Doubt::Evicted), "{:?}", self.watched.doubts);
            }
            Rare::Restart => {
                self.node.restart_vswitchd(Flows::Lost);
                self.group();
            }
            Rare::OtherBridge => {
                self.node.ovs_vsctl(&["del-br", "br0"]);
                self.node.add_bridge("br0", None);
                self.group();
            }
            Rare::Protocols => {
                let n = self.dice.below(3) as usize;
                let ours = ["OpenFlow13,", "OpenFlow14,", ""][n];
                self.node.set_protocols("br0", &format!("OpenFlow10,{ours}OpenFlow15"));
            }
        }
        self.settle();
    }

    /// Compares at once, whatever it says, and once it is in sync.
    fn settle(&mut self) {
        let start = Instant::now();
        self.watched.compare();
        self.watched.sync();
        while !self.watched.compare() {
            self.watched.sync();
            assert!(start.elapsed().as_secs() < 40, "{:?}", self.watched.watcher.replica().state());
        }
    }
}

#[test]
fn it_is_what_a_dump_shows_after_every_step() {
    let (steps, seed) = (number("OFG_REPLICA_STEPS", 2_000), number("OFG_SEED", 1));
    eprintln!("replica: OFG_SEED={seed}, {steps} steps");
    let node = Setup::new().datapath(Datapath::Dummy).without_gc().up("replica");
    let file = node.dir.join("flows.txt").to_str().unwrap().to_owned();
    let watched = Watched::of(&node, "br0");
    let dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut walk = Walk { node, watched, dice, file };
    walk.group();
    walk.settle();
    let every = steps / (RARE.len() as u64 + 1);
    let (mut in_sync, tokens) = (0, tokens());
    for n in 0..steps {
        if n % every == every - 1 {
            let rare = RARE[(n / every) as usize % RARE.len()];
            walk.rare(rare);
        }
        walk.step();
        if walk.watched.compare() {
            in_sync += 1;
        } else {
            walk.settle();
        }
        if n % 50 == 0 {
            walk.watched.compare_queries(&tokens);
        }
    }
    let Watched { compared, entries, far, queried, doubts, .. } = &walk.watched;
    eprintln!(
        "replica: {compared} comparisons of {entries} entries, {far} ages off, {queried} found by token; doubts: {doubts:?}"
    );
    assert!(*queried > 0);
    // But for what is done to bring it into doubt it is in sync.
    assert!(in_sync >= steps - 5, "{in_sync} of {steps} steps in sync; doubts: {doubts:?}");
    // A copy that is built while the machine stalls has late ages until it is built again.
    assert!(far * 4 <= *entries, "{far} of {entries} ages are off by more than 100 ms");
}

/// Those of two pods, and of a network with half a register.
fn tokens() -> Vec<Tokens> {
    let ip = |text: &str| Address::Ip(text.parse().unwrap());
    let mac = Address::Mac("02:00:00:00:00:01".parse().unwrap());
    vec![
        Tokens {
            ports: vec![5],
            addresses: vec![ip("10.244.1.5"), ip("fd00::5"), mac],
            registers: vec![(0, 0x1005, u32::MAX)],
        },
        Tokens {
            ports: vec![6, 7],
            addresses: vec![ip("10.0.0.2")],
            registers: vec![(0, 5, 0xff)],
        },
    ]
}

/// A watcher that is dropped ends, whatever its switch does.
#[test]
fn a_switch_that_is_away_or_hangs_is_told_and_the_watcher_ends() {
    let node = Setup::new().datapath(Datapath::Dummy).without_gc().up("replica_away");
    let mut watched = Watched::of(&node, "br0");
    watched.sync();
    node.vswitchd.pause();
    let since = Instant::now();
    let within = ovs_flow_gc::util::clock::Deadline::after(std::time::Duration::from_millis(200));
    assert_eq!(watched.watcher.barrier(within), None, "it hangs");
    assert!(since.elapsed().as_millis() < 1_000);
    node.vswitchd.resume();
    crate::rig::eventually("it answers again", || watched.compare());
    node.vswitchd.kill();
    crate::rig::eventually("it is in doubt", || {
        watched.watcher.replica().state() == State::Doubt(Doubt::Closed)
    });
    assert_eq!(watched.watcher.barrier(soon()), None);
    node.vswitchd.start();
    watched.sync();
    assert!(watched.compare());
    node.vswitchd.pause();
    sleep_ms(20);
    let since = Instant::now();
    drop(watched);
    assert!(since.elapsed().as_secs() < 5, "{:?}", since.elapsed());
    node.vswitchd.resume();
}
