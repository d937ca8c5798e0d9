//! The daemon: how long the entries of a pod stay that died without DEL, and what it costs to
//! have it.
//!
//! A death is measured from the namespace's name being gone to the moment in which the switch
//! tells [`Watch`] that the last entry is. A look right behind shows that it is so.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ovs_flow_gc::model::flow::Address;
use ovs_flow_gc::openflow::{Connection, Entry, Filter, RawEntry, filters_for_address};
use ovs_flow_gc::util::clock::Deadline;

use super::del::install;
use super::echo::{Echoes, percentile};
use super::gcd::Daemon;
use super::idle;
use super::measure::median;
use super::pods::{PodSet, Shape, who};
use super::rig::{Datapath, Node, Setup};
use super::rivals::bundle;
use super::table::Table;
use super::watch::Watch;

/// 250 attachments, 10,000 flows: 39 entries each.
pub(crate) const SMALL: usize = 250;
pub(crate) const SMALL_FLOWS: usize = 10_000;
pub(crate) const SMALL_SHAPE: Shape = Shape { policy: 24, tables: 10, linger: 30, who };
/// 1,000 attachments and some, 100,000 flows: 97 entries each.
const LARGE: usize = 1_030;
const LARGE_FLOWS: usize = 100_000;
const LARGE_SHAPE: Shape = Shape { policy: 82, tables: 10, linger: 30, who };
const ORPHANS: usize = 500;

/// 1,030 attachments with 39 entries each, and a few others.
const FEW_OF_LARGE: usize = 41_000;
const DEATHS_ALIKE: usize = 40;
const TURNS_OF_MANY: usize = 3;

const DEATHS: usize = 120;
const DEATHS_OF_LARGE: usize = 60;
const DEATHS_OF_RIVAL: usize = 8;
const DEATHS_BESIDE: usize = 20;
/// Turns of each daemon, and deaths in each.
const TURNS: usize = 2;
const DEATHS_OF_TURN: usize = 12;
/// Between a replacement and the next death, and a little more each time: what recurs must
/// not meet every death.
const PAUSE: Duration = Duration::from_millis(300);
const MORE: u32 = 37;

const MS: Duration = Duration::from_millis(1);

/// A node with so many pods and entries.
pub(crate) fn with_pods(node: &Node, pods: usize, shape: Shape, flows: usize) -> PodSet<'_> {
    node.limit_state_dir("64m");
    let pod_set = PodSet::new(node, shape);
    pod_set.attach(0..pods);
    let whos: Vec<_> = (0..pods).map(who).collect();
    install(node, &shape.bridge(&whos, flows));
    pod_set
}

/// What the daemon is started with: the node's own namespaces, and the defaults.
pub(crate) fn args(pod_set: &PodSet<'_>) -> Vec<String> {
    vec!["--log-level=info".to_owned(), format!("--netns-dir={}", pod_set.netns.display())]
}

pub(crate) fn start(node: &Node, args: &[String]) -> Daemon {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let daemon = Daemon::start_with(node, &args, None);
    let since = Instant::now();
    while daemon.get("/readyz").0 != 200 {
        assert!(since.elapsed() < Duration::from_secs(20), "not ready:\n{}", daemon.log());
        thread::sleep(MS * 20);
    }
    daemon
}

/// With 250 attachments.
pub(crate) fn small(table: &mut Table) {
    let node = Setup::new().datapath(Datapath::Dummy).up("bench-daemon");
    let pod_set = with_pods(&node, SMALL, SMALL_SHAPE, SMALL_FLOWS);
    let daemon = start(&node, &args(&pod_set));
    let what = "250 attachments, 10,000 flows";
    idle::netns_alone(table, &daemon, what);
    let mut deaths = Deaths::of(&node, &pod_set, SMALL_SHAPE, SMALL);
    let mut ours = deaths.happen(&daemon, DEATHS);
    deaths.told(table, what, &mut ours, [[MS * 30, MS * 100].map(Some); 2]);
    daemon.no_harm();
    drop(daemon);
    let theirs = deaths.under_a_loop();
    let against =
        format!("the same, {what}, median of all; theirs: sh, every 5 s del-flows reg0=N");
    table.beside(&against, median(&mut ours.concat()), theirs);
}

/// The median of some deaths, under the daemon and under the loop.
pub(crate) fn beside_a_loop() -> [Duration; 2] {
    let node = Setup::new().datapath(Datapath::Dummy).up("bench-beside");
    let pod_set = with_pods(&node, SMALL, SMALL_SHAPE, SMALL_FLOWS);
    let daemon = start(&node, &args(&pod_set));
    let mut deaths = Deaths::of(&node, &pod_set, SMALL_SHAPE, SMALL);
    let ours = median(&mut deaths.happen(&daemon, DEATHS_BESIDE).concat());
    daemon.no_harm();
    drop(daemon);
    [ours, deaths.under_a_loop()]
}

/// With 1,000.
pub(crate) fn large(table: &mut Table) {
    let node = Setup::new().datapath(Datapath::Dummy).up("bench-daemon-large");
    let pod_set = with_pods(&node, LARGE, LARGE_SHAPE, LARGE_FLOWS);
    let daemon = start(&node, &args(&pod_set));
    thread::sleep(Duration::from_secs(2));
    table.told_memory(
        "Daemon, 1,030 attachments, 100,000 flows: peak of start",
        idle::memory(&daemon, "VmHWM"),
    );
    let mut deaths = Deaths::of(&node, &pod_set, LARGE_SHAPE, LARGE);
    let mut ours = deaths.happen(&daemon, DEATHS_OF_LARGE);
    let what = "1,030 attachments, 100,000 flows";
    deaths.told(table, what, &mut ours, [[None, Some(MS * 1000)]; 2]);
    daemon.no_harm();
}

/// Half of 1,030 die at once; beside it one `ovs-ofctl` that is told every entry of theirs. Each on
/// nodes of their own, by turns.
pub(crate) fn many(table: &mut Table) {
    let mut times: [Vec<Duration>; 2] = Default::default();
    let mut memory = [0; 2];
    for _ in 0..TURNS_OF_MANY {
        let node = Setup::new().datapath(Datapath::Dummy).up("bench-many");
        let pod_set = with_pods(&node, LARGE, LARGE_SHAPE, LARGE_FLOWS);
        let mut watch = Watch::on(&node);
        let left = watch.count() - ORPHANS * LARGE_SHAPE.each();
        let entries: Vec<_> = (0..ORPHANS).flat_map(|n| LARGE_SHAPE.entries(&who(n))).collect();
        let matches = entries.iter().map(|entry| entry.split_once(" actions=").unwrap().0);
        let told = bundle(&node, &matches.collect::<Vec<_>>().join("\n"), &["--strict"]);
        times[1].push(told.time());
        assert_eq!(watch.count(), left);
        install(&node, &entries);
        let daemon = start(&node, &args(&pod_set));
        thread::sleep(Duration::from_secs(3));
        // It sees all of them at once.
        daemon.signal(nix::sys::signal::Signal::SIGSTOP);
        pod_set.die_all(0..ORPHANS);
        pod_set.del_ports(0..ORPHANS);
        let since = Instant::now();
        daemon.signal(nix::sys::signal::Signal::SIGCONT);
        times[0].push(watch.until_by_looks(left, since));
        thread::sleep(Duration::from_secs(1));
        assert_eq!(watch.count(), left);
        memory = ["VmHWM", "VmRSS"].map(|of| idle::memory(&daemon, of));
        daemon.no_harm();
    }
    eprintln!("at once: {times:?}");
    let [ours, theirs] = times.each_mut().map(|of| median(of));
    let what = "500 of 1,030 die at once, 100,000 flows: to the last entry gone";
    table.at_most(&format!("{what}; theirs: one ovs-ofctl --bundle --strict"), ours, theirs, 1.2);
    table.memory("the same: peak memory", memory[0], 48);
    table.told_memory("the same: resident a second later", memory[1]);
}

/// With the bridge's copy and without (`--replica-limit 0`), by turns on one node.
pub(crate) fn replica(table: &mut Table) {
    beside_looks(table, SMALL, SMALL_SHAPE, SMALL_FLOWS, "250 attachments, 10,000 flows");
}

/// The same with 100,000 flows.
pub(crate) fn replica_of_large(table: &mut Table) {
    beside_looks(table, LARGE, LARGE_SHAPE, LARGE_FLOWS, "1,030 attachments, 100,000 flows");
}

fn beside_looks(table: &mut Table, pods: usize, shape: Shape, flows: usize, what: &str) {
    let node = Setup::new().datapath(Datapath::Dummy).up("bench-replica");
    let pod_set = with_pods(&node, pods, shape, flows);
    let mut deaths = Deaths::of(&node, &pod_set, shape, pods);
    let mut times: [[Vec<Duration>; 2]; 2] = Default::default();
    for turn in 0..TURNS * 2 {
        let which = turn % 2;
        let mut args = args(&pod_set);
        if which == 1 {
            args.push("--replica-limit=0".to_owned());
        }
        let daemon = start(&node, &args);
        // The copy is there, and so is the first scan of whole bridges.
        thread::sleep(Duration::from_secs(3));
        let of = deaths.happen(&daemon, DEATHS_OF_TURN);
        for (all, some) in times[which].iter_mut().zip(of) {
            all.extend(some);
        }
        daemon.no_harm();
    }
    let [with, without] = &mut times;
    for (row, n) in [("left", 0), ("removed too", 1)] {
        with[n].sort_unstable();
        without[n].sort_unstable();
        for (percent, name) in [(50, "median"), (100, "worst")] {
            let what = format!("Death, port row {row}, {what}, of {}: {name}", with[n].len());
            let [ours, theirs] = [&with[n], &without[n]].map(|of| percentile(of, percent));
            table.beside(&format!("{what}; theirs: --replica-limit 0"), ours, theirs);
        }
    }
}

/// Whether a death costs what died, and not what is there: the same pods with few other entries on the
/// bridge and with many, for few pods and for many. Beside it the floor: the same entries deleted over
/// an open connection by somebody who has the list.
pub(crate) fn alike(table: &mut Table) {
    for (pods, few) in [(SMALL, SMALL_FLOWS), (LARGE, FEW_OF_LARGE)] {
        let mut medians = Vec::new();
        for flows in [few, LARGE_FLOWS] {
            let node = Setup::new().datapath(Datapath::Dummy).up("bench-alike");
            let pod_set = with_pods(&node, pods, SMALL_SHAPE, flows);
            let mut deaths = Deaths::of(&node, &pod_set, SMALL_SHAPE, pods);
            let daemon = start(&node, &args(&pod_set));
            thread::sleep(Duration::from_secs(3));
            let mut times = deaths.happen(&daemon, DEATHS_ALIKE);
            daemon.no_harm();
            drop(daemon);
            let what = format!("{pods} attachments, {flows} entries");
            let mut floor = deaths.by_hand();
            floor.sort_unstable();
            let mut stalls = deaths.stalls();
            let stall = median(&mut stalls);
            let targets = [[MS * 3, MS * 10].map(Some), [Some(stall + MS * 3), None]];
            deaths.told(table, &what, &mut times, targets);
            table.told(&format!("The switch's stall for a port's removal, {what}: median"), stall);
            medians.push(percentile(&times[0], 50));
            for (percent, name) in [(50, "median"), (100, "worst")] {
                let what = format!("The same entries by one who has the list, {what}: {name}");
                table.told(&what, percentile(&floor, percent));
            }
        }
        let what =
            format!("Death, port row left, {pods} attachments, 100,000 entries beside {few}");
        table.at_most(&what, medians[1], medians[0], 1.3);
    }
}

/// Pods die, and others take their places.
struct Deaths<'a> {
    node: &'a Node,
    pod_set: &'a PodSet<'a>,
    shape: Shape,
    watch: Watch,
    /// The oldest pod that lives.
    first: usize,
    /// One more than the youngest.
    next: usize,
    /// Entries on the bridge while nobody is dead.
    all: usize,
    /// Processor time that the daemon and ovs-vswitchd took from the deaths to their ends. It
    /// tells what the machine's other work does not change.
    used: [Duration; 2],
}

impl<'a> Deaths<'a> {
    fn of(node: &'a Node, pod_set: &'a PodSet<'a>, shape: Shape, pods: usize) -> Self {
        let mut watch = Watch::on(node);
        let all = watch.count();
        Self { node, pod_set, shape, watch, first: 0, next: pods, all, used: [Duration::ZERO; 2] }
    }

    /// One after the other; with every second one the port's row goes, too. How long it took
    /// each, those with the row left first.
    fn happen(&mut self, daemon: &Daemon, deaths: usize) -> [Vec<Duration>; 2] {
        let mut times: [Vec<Duration>; 2] = Default::default();
        let pids = [daemon.pid(), self.node.vswitchd.pid()];
        for n in 0..deaths {
            let row_goes = n % 2 == 1;
            let dead = self.first;
            let left = self.all - self.shape.each();
            let before = pids.map(idle::processor);
            let since = self.pod_set.die(dead);
            let took = thread::scope(|scope| {
                if row_goes {
                    scope.spawn(|| self.pod_set.drop_port(dead));
                }
                self.watch.until(self.all, left, since)
            });
            let after = pids.map(idle::processor);
            for ((used, after), before) in self.used.iter_mut().zip(after).zip(before) {
                *used += after.saturating_sub(before);
            }
            times[usize::from(row_goes)].push(took);
            // Neither fewer nor more.
            thread::sleep(MS * 20);
            assert_eq!(self.watch.count(), left, "of pod {dead}");
            assert_eq!(self.watch.with_value(who(dead).reg), 0);
            self.replace();
            thread::sleep(PAUSE + MS * (u32::try_from(n).unwrap() * MORE % 500));
        }
        times
    }

    /// How long it takes to delete a pod's entries over a connection that is open, for one who has the
    /// list. They are put back.
    fn by_hand(&mut self) -> Vec<Duration> {
        let deadline = Deadline::after(Duration::from_secs(600));
        let socket = self.node.run_dir.join("br0.mgmt");
        let mut switch = Connection::open(&socket, deadline).unwrap();
        let mut times = Vec::new();
        for n in 0..DEATHS_OF_TURN {
            let dead = self.first + n;
            let entries = self.entries_of(&mut switch, dead);
            let there = self.watch.count();
            thread::sleep(PAUSE + MS * (u32::try_from(n).unwrap() * MORE % 500));
            let since = Instant::now();
            let took = thread::scope(|scope| {
                scope.spawn(|| switch.delete_strict(&entries).unwrap());
                self.watch.until(there, there - self.shape.each(), since)
            });
            times.push(took);
            install(self.node, &self.shape.entries(&who(dead)));
        }
        times
    }

    /// How long another client waits for an echo at most while a port's row is removed, and nobody dies.
    fn stalls(&mut self) -> Vec<Duration> {
        let socket = self.node.run_dir.join("br0.mgmt");
        let mut stalls = Vec::new();
        for _ in 0..DEATHS_OF_TURN {
            thread::sleep(PAUSE);
            let echoes = Echoes::start(&socket);
            self.pod_set.drop_port(self.first);
            thread::sleep(PAUSE);
            stalls.extend(echoes.stop().last());
            self.replace();
        }
        stalls
    }

    fn entries_of(&self, switch: &mut Connection, n: usize) -> Vec<Entry> {
        let who = who(n);
        let addresses = [who.ip.parse().map(Address::Ip), who.ip6.parse().map(Address::Ip)];
        let addresses = addresses.map(Result::unwrap).into_iter();
        let addresses = addresses.chain([Address::Mac(who.mac.parse().unwrap())]);
        let mut filters: Vec<_> = addresses.flat_map(|a| filters_for_address(&a)).collect();
        filters.push(Filter::in_port(who.ofport));
        filters.push(Filter::register(0, who.reg, u32::MAX));
        let mut entries: Vec<Entry> = Vec::new();
        let mut take = |raw: &RawEntry<'_>| {
            let entry = raw.to_entry();
            if entries.iter().all(|known| known.key() != entry.key()) {
                entries.push(entry);
            }
        };
        switch.dump_raw(&filters, &mut take).unwrap();
        assert_eq!(entries.len(), self.shape.each());
        entries
    }

    /// The oldest pod is dead and gone: another one comes.
    fn replace(&mut self) {
        self.pod_set.del_ports(self.first..self.first + 1);
        self.pod_set.join(self.next..self.next + 1);
        self.first += 1;
        self.next += 1;
        self.all = self.watch.count();
    }

    fn told(
        &mut self,
        table: &mut Table,
        what: &str,
        times: &mut [Vec<Duration>; 2],
        targets: [[Option<Duration>; 2]; 2],
    ) {
        let deaths = u32::try_from(times.iter().map(Vec::len).sum::<usize>()).unwrap();
        for (who, used) in ["the daemon", "ovs-vswitchd"].iter().zip(self.used) {
            table.told(
                &format!("Death without DEL, {what}: processor time of {who}, mean"),
                used / deaths,
            );
        }
        for ((row, times), targets) in ["left", "removed too"].iter().zip(times).zip(targets) {
            times.sort_unstable();
            let n = times.len();
            let what = format!("Death without DEL, port row {row}, {what}, of {n}");
            for (percent, name, target) in
                [(50, "median", targets[0]), (99, "p99", targets[1]), (100, "worst", None)]
            {
                let (what, time) = (format!("{what}: {name}"), percentile(times, percent));
                match target {
                    Some(target) => table.within(&what, time, target),
                    None => table.told(&what, time),
                }
            }
        }
    }

    /// The same deaths under the usual shell loop; the median. It deletes the entries that
    /// match on the value, so only those are waited for: the others stay for ever.
    fn under_a_loop(&mut self) -> Duration {
        let shell = Loop::start(self.node, self.first..self.next);
        let mut times = Vec::new();
        let (mut matching, mut leaves) = (0, 0);
        for n in 0..DEATHS_OF_RIVAL {
            let dead = self.first;
            matching = self.watch.with_value(who(dead).reg);
            leaves = self.shape.each() - matching;
            let since = self.pod_set.die(dead);
            shell.dies(dead);
            times.push(self.watch.until(self.all, self.all - matching, since));
            shell.joins(self.next);
            self.replace();
            // Deaths come whenever they come.
            thread::sleep(MS * 1300 * u32::try_from(n % 4).unwrap());
        }
        drop(shell);
        eprintln!("the loop: {times:?}; deletes {matching} of each, leaves {leaves}");
        median(&mut times)
    }
}

/// What vanished from a list since five seconds ago is deleted by its value. In the place of
/// what `kubectl get pods` would say there is a directory: a file for each, named by its value.
const LOOP: &str = "cd $1
before=$(echo *)
while sleep 5; do
    now=$(echo *)
    for value in $before; do
        case \" $now \" in
            *\" $value \"*) ;;
            *) ovs-ofctl del-flows br0 reg0=$value ;;
        esac
    done
    before=$now
done";

/// That, at work.
struct Loop {
    child: Child,
    list: PathBuf,
}

impl Loop {
    fn start(node: &Node, pods: Range<usize>) -> Self {
        let list = node.dir.join("alive");
        fs::create_dir_all(&list).unwrap();
        let mut command = node.command("sh");
        command.args(["-c", LOOP, "loop"]).arg(&list).stdin(Stdio::null()).stdout(Stdio::null());
        pods.for_each(|n| Self::write(&list, n));
        Self { child: command.spawn().unwrap(), list }
    }

    fn write(list: &Path, n: usize) {
        fs::write(list.join(who(n).reg.to_string()), "").unwrap();
    }

    fn joins(&self, n: usize) {
        Self::write(&self.list, n);
    }

    fn dies(&self, n: usize) {
        fs::remove_file(self.list.join(who(n).reg.to_string())).unwrap();
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
