//! What following a bridge costs: the daemon while others change entries, the switch, and another
//! client while the copy is built. And a node that drains.

use std::fmt::Write as _;
use std::fs;
use std::ops::Range;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ovs_flow_gc::openflow::{Connection, Entry, Filter};
use ovs_flow_gc::util::clock::Deadline;

use super::daemon::{SMALL, SMALL_FLOWS, SMALL_SHAPE, args, start, with_pods};
use super::del::install;
use super::echo::{Echoes, percentile};
use super::gcd::Daemon;
use super::idle::{memory, processor};
use super::measure::median;
use super::pods::{PodSet, who};
use super::rig::{Datapath, Node, Setup, eventually};
use super::rivals::del_by_value;
use super::table::Table;

/// `0.05 %` of a processor with nobody dying; 3 % while others send 1,000 flow-mods a second.
const IDLE: f64 = 0.05;
const BUSY: f64 = 3.0;
/// How long each is measured.
const TIME: Duration = Duration::from_secs(30);
/// Ten intervals, of which one is thorough.
const IDLE_TIME: Duration = Duration::from_secs(300);
/// Between two batches of flow-mods.
const TICK: Duration = Duration::from_millis(20);

const DRAINED: usize = 250;
const AT_ONCE: usize = 8;

const SINCE: &str = "replica_in_sync_since_seconds{bridge=\"br0\"}";

/// Entries that name nobody.
fn filler(count: usize) -> String {
    let mut text = String::new();
    for n in 0..count {
        let (a, b, c) = (16 + n / 62_500, n / 250 % 250, n % 250);
        writeln!(text, "table=50,priority=7,ip,nw_dst=172.{a}.{b}.{c},actions=drop").unwrap();
    }
    text
}

/// Adds so many of them, a part at a time: no command of the rig may take long.
fn add(node: &Node, count: usize) {
    let all = filler(count);
    let lines: Vec<&str> = all.lines().collect();
    for some in lines.chunks(100_000) {
        node.add_flow_text("br0", &some.join("\n"));
    }
}

/// Resident bytes of a process.
fn resident(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

fn switch_pid(node: &Node) -> i32 {
    let pid = fs::read_to_string(node.run_dir.join("ovs-vswitchd.pid")).unwrap();
    pid.trim().parse().unwrap()
}

fn connect(node: &Node) -> Connection {
    let deadline = Deadline::after(Duration::from_secs(3600));
    Connection::open(&node.run_dir.join("br0.mgmt"), deadline).unwrap()
}

fn follow(daemon: &Daemon) {
    eventually("the bridge is followed", || daemon.metric(SINCE) > 0.0);
}

/// Processor time while nobody dies and others send so many flow-mods a second.
pub(crate) fn load(table: &mut Table) {
    let node = Setup::new().datapath(Datapath::Dummy).up("bench-load");
    let pod_set = with_pods(&node, SMALL, SMALL_SHAPE, SMALL_FLOWS);
    node.add_flow_text("br0", &filler(1_000));
    let daemon = start(&node, &args(&pod_set));
    follow(&daemon);
    thread::sleep(Duration::from_secs(5));
    let mut switch = connect(&node);
    let mut entries: Vec<Entry> = Vec::new();
    switch
        .dump(&Filter { table: Some(50), ..Filter::default() }, &mut |raw, _| {
            entries.push(raw.to_entry());
        })
        .unwrap();
    assert_eq!(entries.len(), 1_000);
    for (rate, most) in [(0, Some(IDLE)), (1_000, Some(BUSY)), (10_000, None)] {
        // The switch has closed one that was silent for so long.
        let mut switch = connect(&node);
        let count = |metric: &str| daemon.sum(metric);
        let before = (processor(daemon.pid()), count("replica_updates_total"));
        let since = Instant::now();
        let mut some = entries.chunks(rate.max(100) / 100).cycle();
        let time = if rate == 0 { IDLE_TIME } else { TIME };
        while since.elapsed() < time {
            let began = Instant::now();
            if rate > 0 {
                let some = some.next().unwrap();
                switch.delete_strict(some).unwrap();
                switch.add(some).unwrap();
            }
            thread::sleep(TICK.saturating_sub(began.elapsed()));
        }
        let took = since.elapsed();
        thread::sleep(Duration::from_millis(200));
        let used = processor(daemon.pid()).saturating_sub(before.0);
        let told = count("replica_updates_total") - before.1;
        let what = format!(
            "Daemon, 250 attachments, 10,000 entries, {:.0} changes a second: processor",
            told / took.as_secs_f64()
        );
        table.share(&what, used, took, most.unwrap_or(100.0));
        follow(&daemon);
        eprintln!(
            "built anew {} times, left to dumps {} times",
            count("replica_resyncs_total"),
            count("replica_fallbacks_total")
        );
    }
    daemon.no_harm();
}

/// Adds with a copy that follows, and without.
pub(crate) fn adds(table: &mut Table) {
    let node = Setup::new().datapath(Datapath::Dummy).up("bench-adds");
    let (mut took, flows) = ([Vec::new(), Vec::new()], filler(100_000));
    let mut used = took.clone();
    for turn in 0..6 {
        node.ofctl(&["del-flows", "br0"]);
        let limit = if turn % 2 == 0 { "--replica-limit=200000" } else { "--replica-limit=0" };
        let pod_set = PodSet::new(&node, SMALL_SHAPE);
        pod_set.attach(turn..turn + 1);
        let mut args = args(&pod_set);
        args.push(limit.to_owned());
        let daemon = start(&node, &args);
        if turn % 2 == 0 {
            follow(&daemon);
        }
        let (since, before) = (Instant::now(), processor(switch_pid(&node)));
        node.add_flow_text("br0", &flows);
        took[turn % 2].push(since.elapsed());
        used[turn % 2].push(processor(switch_pid(&node)).saturating_sub(before));
        if turn % 2 == 0 {
            eprintln!("after 100,000 adds: {} resyncs", daemon.sum("replica_resyncs_total"));
        }
    }
    for (what, mut times) in [("time", took), ("processor time of ovs-vswitchd", used)] {
        let [with, without] = times.each_mut().map(|times| median(times));
        let what = format!("100,000 adds beside a copy; theirs: beside none: {what}");
        table.at_most(&what, with, without, f64::INFINITY);
    }
}

/// Another client's echo while a copy of so many entries is built, and what the copy takes.
pub(crate) fn built(table: &mut Table, count: usize, most: u64) {
    let node = Setup::new().datapath(Datapath::Dummy).up("bench-built");
    let pod_set = with_pods(&node, SMALL, SMALL_SHAPE, SMALL_FLOWS);
    let mut args = args(&pod_set);
    args.push("--replica-limit=2000000".to_owned());
    add(&node, count);
    let before = resident(switch_pid(&node));
    let echoes = Echoes::start(&node.run_dir.join("br0.mgmt"));
    let since = Instant::now();
    let daemon = start(&node, &args);
    follow(&daemon);
    let took = since.elapsed();
    let times = echoes.stop();
    let what = format!("A copy of {} entries is built", count + SMALL_FLOWS);
    table.told(&format!("{what}: from the daemon's start to in sync"), took);
    table.told(&format!("{what}: another client's echo, p99"), percentile(&times, 99));
    table.told(&format!("{what}: the same, worst"), percentile(&times, 100));
    table.memory(&format!("{what}: resident, daemon"), memory(&daemon, "VmRSS"), most);
    table.told_memory(&format!("{what}: peak, daemon"), memory(&daemon, "VmHWM"));
    let more = resident(switch_pid(&node)).saturating_sub(before);
    table.told_memory(&format!("{what}: ovs-vswitchd has grown by"), more);
    daemon.no_harm();
}

/// All entries come at once, more than the limit and fewer.
pub(crate) fn flood(table: &mut Table) {
    let node = Setup::new().datapath(Datapath::Dummy).up("bench-flood");
    let pod_set = with_pods(&node, SMALL, SMALL_SHAPE, SMALL_FLOWS);
    let daemon = start(&node, &args(&pod_set));
    follow(&daemon);
    let since = Instant::now();
    add(&node, 1_000_000);
    let took = since.elapsed();
    table.told("1,000,000 entries come at once beside a copy of 200,000 at most: adds", took);
    eventually("it is left to dumps", || daemon.sum("replica_fallbacks_total") >= 1.0);
    table.told_memory("the same: resident, daemon", memory(&daemon, "VmRSS"));
    table.told_memory("the same: peak, daemon", memory(&daemon, "VmHWM"));
    let since = Instant::now();
    pod_set.call(0, "DEL").run().ok();
    table.told("the same: a DEL then", since.elapsed());
    assert_eq!(daemon.get("/healthz").0, 200);
    daemon.no_harm();
}

/// 250 DELs, eight at a time, on a bridge with 100,000 entries. `OFG_DRAINED` asks for fewer,
/// `OFG_PLUGIN` names another build of the plugin.
pub(crate) fn drain(table: &mut Table) {
    let node = Setup::new().datapath(Datapath::Dummy).up("bench-drain");
    if let Ok(plugin) = std::env::var("OFG_PLUGIN") {
        fs::remove_file(node.plugin("ovs-flow-gc")).unwrap();
        symlink(plugin, node.plugin("ovs-flow-gc")).unwrap();
    }
    let drained = std::env::var("OFG_DRAINED").map_or(DRAINED, |pods| pods.parse().unwrap());
    let pods = 3 * drained + 10;
    let pod_set = with_pods(&node, pods, SMALL_SHAPE, pods * SMALL_SHAPE.each() + 10);
    // In parts: all at once take longer than a command may on a busy machine.
    let fillers = filler(100_000 - pods * SMALL_SHAPE.each());
    install(&node, &fillers.lines().map(str::to_owned).collect::<Vec<_>>());
    let daemon = start(&node, &args(&pod_set));
    follow(&daemon);
    thread::sleep(Duration::from_secs(2));
    let del = |n: usize| drop(pod_set.call(n, "DEL").run().ok());
    let with = at_once(0..drained, &del);
    for (name, count) in daemon.metrics().iter().filter(|(name, _)| name.starts_with("requests")) {
        eprintln!("{name}: {count} of {drained}");
    }
    daemon.no_harm();
    drop(daemon);
    let without = at_once(drained..2 * drained, &del);
    let calls: Vec<_> = (0..pods).map(|n| del_by_value(&node, who(n).reg)).collect();
    let theirs = at_once(2 * drained..3 * drained, &|n| {
        calls[n].time();
    });
    let what = format!("A node drains, {drained} DELs, 8 at a time, 100,000 entries");
    table.beside(&format!("{what}: with the daemon; theirs: without"), with, without);
    table.at_most(
        &format!("{what}: the same; theirs: as many ovs-ofctl del-flows"),
        with,
        theirs,
        1.0,
    );
    table.at_most(&format!("{what}: without; theirs: the same"), without, theirs, f64::INFINITY);
}

/// How long these pods' calls take together.
fn at_once(pods: Range<usize>, call: &(dyn Fn(usize) + Sync)) -> Duration {
    let (next, since) = (AtomicUsize::new(pods.start), Instant::now());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= pods.end {
                        break;
                    }
                    call(n);
                }
            });
        }
    });
    since.elapsed()
}
