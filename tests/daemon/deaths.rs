//! Deaths that nobody told the daemon of.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::gcd::{Daemon, settle};
use crate::pods::{Member, attached, end_sandboxes};
use crate::rig::{Attached, Datapath, Node, Port, Setup, eventually, layouts, sleep_ms};

/// Pods with their entries.
struct Pods {
    pods: Vec<Attached>,
    flows: Vec<Vec<String>>,
    base: Vec<String>,
}

impl Pods {
    #[track_caller]
    fn new(node: &Node, count: u32) -> Self {
        let base = node.install("br0", &layouts::classifier_base());
        let pods: Vec<_> = (0..count).map(|n| node.run_pod(&format!("p{n}"))).collect();
        let flows = pods
            .iter()
            .zip(0x1001..)
            .map(|(pod, reg)| node.install("br0", &layouts::classifier(&pod.who(reg))))
            .collect();
        Self { pods, flows, base }
    }

    /// What is there once these are gone.
    fn without(&self, gone: &[usize]) -> Vec<String> {
        let living = self.flows.iter().enumerate().filter(|(n, _)| !gone.contains(n));
        let mut all: Vec<String> = living.flat_map(|(_, flows)| flows.clone()).collect();
        all.extend(self.base.clone());
        all.sort();
        all
    }
}

/// Waits for the bridge to look so; how long that took.
#[track_caller]
fn until(node: &Node, flows: &[String]) -> Duration {
    let since = Instant::now();
    eventually("its entries are gone", || node.dump("br0") == flows);
    since.elapsed()
}

#[test]
fn a_namespace_that_is_gone_is_a_death_with_or_without_its_port() {
    let node = Setup::new().up("daemon_death");
    let pods = Pods::new(&node, 4);
    let daemon = Daemon::start(&node);
    node.vanish(&pods.pods[1], Port::Stays);
    let stays = until(&node, &pods.without(&[1]));
    node.vanish(&pods.pods[2], Port::Gone);
    let gone = until(&node, &pods.without(&[1, 2]));
    eprintln!("port stays: {stays:?}; port gone: {gone:?} (with the test's own dumps)");
    eventually("it is counted", || daemon.metric("cleanup_latency_seconds_count") == 2.0);
    assert_eq!(daemon.metric("orphans_total{source=\"netns\"}"), 2.0);
    assert_eq!(daemon.sum("flows_deleted_total"), 30.0, "{:?}", daemon.metrics());
    let log = daemon.log();
    let p1 = &pods.pods[1];
    for says in [&p1.name, &p1.container, &p1.port, "deleted 15 entries", "matches-port"] {
        assert!(log.contains(says), "{says}: {log}");
    }
    node.must_reach(&pods.pods[0], &pods.pods[3].ip);
    daemon.no_harm();
}

#[test]
fn a_burst_of_deaths_is_a_handful_of_sweeps() {
    let node = Setup::new()
        .datapath(Datapath::Dummy)
        .gc_conf(json!({"lingerSeconds": 1}))
        .up("daemon_burst");
    node.install("br0", &layouts::classifier_base());
    let members = attached(&node, 240);
    let daemon = Daemon::start(&node);
    settle();
    let (before, all) = (daemon.sum("sweeps_total"), node.dump("br0").len());
    // The most that is no brake.
    let (dead, living) = members.split_at(110);
    let since = Instant::now();
    end_sandboxes(&node, dead);
    let each = dead[0].lines().len();
    eventually("they are gone", || node.dump("br0").len() == all - each * dead.len());
    eprintln!("110 deaths at once: {:?} until the last entry was gone", since.elapsed());
    let sweeps = daemon.sum("sweeps_total") - before;
    eprintln!("{sweeps} sweeps for 110 deaths");
    assert!(sweeps <= 25.0, "{sweeps} sweeps for 110 deaths");
    let left = node.dump("br0");
    assert!(living.iter().all(|m| left.iter().any(|l| l.contains(&m.who.ip))), "the living");
    assert_eq!(daemon.metric("brake_pulled_total"), 0.0);
    daemon.no_harm();
}

/// How many of how many the first sweep judged that this log tells of.
fn first_judged(log: &str) -> Option<(usize, usize)> {
    let (_, line) = log.split_once("sweep (")?;
    let (judged, _) = line.split_once(" judged")?;
    let mut words = judged.rsplit(' ');
    let (total, _, judged) = (words.next()?, words.next()?, words.next()?);
    Some((judged.parse().ok()?, total.parse().ok()?))
}

/// Whose namespace has gone is judged, and nobody else. What may have been anybody's death has all
/// judged: many at once, events that were lost, a directory of namespaces that is gone.
#[test]
fn a_death_judges_one_and_what_may_be_anybodys_judges_all() {
    let node = Setup::new().datapath(Datapath::Dummy).up("daemon_judges_one");
    node.install("br0", &layouts::classifier_base());
    let members = attached(&node, 16);
    let (all, each) = (node.dump("br0").len(), members[0].lines().len());
    let names = node.dir.join("names");
    fs::create_dir(&names).unwrap();
    let others = format!("--netns-dir={}", names.display());
    let daemon = Daemon::start_with(&node, &["--interval=10m", &others], None);
    eventually("it is ready", || daemon.get("/readyz").0 == 200);
    // Of the first sweep after this, once all were judged behind it, too.
    let mut left = members.len();
    let mut judged = |dead: &[Member], what: &dyn Fn()| {
        sleep_ms(1_000);
        let before = daemon.log().len();
        what();
        left -= dead.len();
        let gone = all - each * (members.len() - left);
        eventually("their entries are gone", || node.dump("br0").len() == gone);
        let mut first = None;
        eventually("the sweep is told", || {
            first = first_judged(&daemon.log()[before..]);
            first.is_some()
        });
        first.unwrap()
    };
    let stopped = |what: &dyn Fn()| {
        daemon.signal(Signal::SIGSTOP);
        what();
        daemon.signal(Signal::SIGCONT);
    };
    // On a busy machine something else may wake the sweep, too.
    let mut alone = |dead: &[Member], total: usize| {
        let of = (0..).zip(dead.chunks(1)).map(|(n, one): (usize, _)| {
            (judged(one, &|| end_sandboxes(&node, one)), (1, total - n))
        });
        let of: Vec<_> = of.collect();
        assert!(of.iter().any(|(judged, one)| judged == one), "{of:?}");
    };
    alone(&members[..4], 16);
    let storm = &members[4..9];
    assert_eq!(judged(storm, &|| stopped(&|| end_sandboxes(&node, storm))), (12, 12));
    let one = &members[9..10];
    let flood = || {
        // More than `fs.inotify.max_queued_events`.
        for n in 0..20_000 {
            let path = names.join(n.to_string());
            fs::write(&path, "").unwrap();
            fs::remove_file(path).unwrap();
        }
        end_sandboxes(&node, one);
    };
    assert_eq!(judged(one, &|| stopped(&flood)), (7, 7));
    eventually("the loss is told", || daemon.log().contains("events were lost"));
    assert_eq!(judged(&[], &|| fs::remove_dir(&names).unwrap()), (6, 6));
    daemon.no_harm();
}

#[test]
fn a_del_that_could_not_finish_is_finished() {
    let node = Setup::new().gc_conf(json!({"timeoutMs": 300})).up("daemon_del");
    let pods = Pods::new(&node, 3);
    let daemon = Daemon::start(&node);
    let all = node.dump("br0");
    node.vswitchd.pause();
    let pod = &pods.pods[0];
    let conf = node.plugin_conf("ovs-flow-gc", Some(pod), Some(&pod.result));
    node.call("ovs-flow-gc", "DEL").pod(pod).conf(&conf).start().wait().ok();
    // The daemon hangs on the same switch.
    settle();
    node.vswitchd.resume();
    assert_ne!(all, pods.without(&[0]));
    let took = until(&node, &pods.without(&[0]));
    eprintln!("the switch goes on: {took:?} until the DEL was finished");
    daemon.no_harm();
}

#[test]
fn a_pause_stops_it_and_its_end_lets_it_go_on() {
    let node = Setup::new().up("daemon_pause");
    let pods = Pods::new(&node, 3);
    let daemon = Daemon::start(&node);
    node.admin(&["pause"]).ok();
    eventually("it is paused", || daemon.metric("paused") == 1.0);
    node.vanish(&pods.pods[0], Port::Gone);
    let left = "stale_flows_left{reason=\"paused\"}";
    eventually("it is counted", || daemon.metric(left) == 15.0);
    assert_eq!(node.dump("br0"), pods.without(&[]));
    node.admin(&["resume"]).ok();
    until(&node, &pods.without(&[0]));
    eventually("nothing is left", || daemon.metric(left) == 0.0);
    assert_eq!(daemon.metric("orphans_total{source=\"netns\"}"), 1.0);
    daemon.no_harm();
}

/// Each sweep finds the same entries again, and the log may be on a disk that is full.
#[test]
fn what_is_only_watched_is_said_once() {
    let node = Setup::new().gc_conf(json!({"mode": "observe"})).up("daemon_says_once");
    let pods = Pods::new(&node, 2);
    let daemon = Daemon::start(&node);
    let said = || {
        let log = daemon.log();
        let lines = log.lines().filter(|line| line.contains("not deleted"));
        lines.filter(|line| !line.to_lowercase().contains("debug")).map(str::to_owned).collect()
    };
    let look_again = || {
        for _ in 0..5 {
            let sweeps = daemon.sum("sweeps_total");
            daemon.signal(Signal::SIGHUP);
            eventually("it sweeps", || daemon.sum("sweeps_total") > sweeps);
        }
    };
    node.vanish(&pods.pods[0], Port::Stays);
    let left = |why: &str| daemon.metric(&format!("stale_flows_left{{reason=\"{why}\"}}"));
    eventually("it is counted", || left("observe") == 15.0);
    look_again();
    let lines: Vec<String> = said();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(
        lines[0].contains("mode observe, not deleted: 15 stale entries of default/"),
        "{lines:?}"
    );
    node.admin(&["pause"]).ok();
    eventually("it is paused", || left("paused") == 15.0);
    look_again();
    let lines: Vec<String> = said();
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert!(lines[1].contains("paused, not deleted: 15 stale entries of default/"), "{lines:?}");
    assert_eq!(node.dump("br0"), pods.without(&[]));
}

#[test]
fn most_of_a_node_at_once_needs_a_persons_word() {
    let node = Setup::new().gc_conf(json!({"lingerSeconds": 0})).up("daemon_brake");
    let pods = Pods::new(&node, 13);
    let daemon = Daemon::start(&node);
    // While it looks away: else it sees one after the other.
    daemon.signal(Signal::SIGSTOP);
    for pod in &pods.pods[..12] {
        node.kill_sandbox(pod);
    }
    daemon.signal(Signal::SIGCONT);
    eventually("the brake is engaged", || daemon.metric("brake_engaged") == 1.0);
    let left = "stale_flows_left{reason=\"brake\"}";
    eventually("what it keeps is counted", || daemon.metric(left) == 12.0 * 15.0);
    settle();
    assert_eq!(node.dump("br0"), pods.without(&[]));
    assert_eq!(daemon.metric("brake_pulled_total"), 1.0);
    assert!(daemon.log().contains("brake: 12 of 13 attachments"), "{}", daemon.log());
    node.admin(&["sweep", "--yes"]);
    until(&node, &pods.without(&(0..12).collect::<Vec<_>>()));
    eventually("it is released", || daemon.metric("brake_engaged") == 0.0);
    daemon.no_harm();
}

/// All namespaces of a node are gone within some milliseconds. The daemon hears of one after the
/// other: it acts on a few at most before it sees what happens, and what it holds back no other
/// sweep deletes, also when the daemon has ended.
#[test]
fn all_at_once_is_held_by_whoever_sweeps() {
    let node = Setup::new()
        .datapath(Datapath::Dummy)
        .gc_conf(json!({"lingerSeconds": 0}))
        .up("daemon_one_guard");
    let members = attached(&node, 14);
    let each = members[0].lines().len();
    let all = node.dump("br0").len();
    let daemon = Daemon::start(&node);
    end_sandboxes(&node, &members);
    eventually("the brake is engaged", || daemon.metric("brake_engaged") == 1.0);
    settle();
    let orphans = daemon.metric("orphans_total{source=\"netns\"}");
    eprintln!("{orphans} of 14 were swept before the brake was pulled");
    assert!(orphans <= 3.0, "{orphans}");
    let left = node.dump("br0");
    assert_eq!(left.len(), all - orphans as usize * each);
    daemon.no_harm();
    drop(daemon);

    let swept = node.admin(&["sweep", "--json"]);
    assert_eq!(swept.code, Some(3), "{swept}");
    assert_eq!(swept.json()["braked"], true, "{swept}");
    assert_eq!(node.dump("br0"), left);
    let doctor = node.admin(&["doctor"]).stdout;
    assert!(doctor.contains("seem dead at once on the word of netns alone"), "{doctor}");
    // Nor does a daemon that knows of nothing but the file.
    let daemon = Daemon::start(&node);
    assert_eq!(daemon.metric("brake_engaged"), 1.0);
    assert_eq!(node.dump("br0"), left);
    node.admin(&["sweep", "--yes"]);
    assert_eq!(node.dump("br0").len(), all - 14 * each);
    eventually("it is released", || daemon.metric("brake_engaged") == 0.0);
    daemon.no_harm();
}

/// An ill source tells of one death after the other: `rm -rf` of the directory.
#[test]
fn one_after_the_other_is_at_once_too() {
    let node = Setup::new().datapath(Datapath::Dummy).up("daemon_slow_brake");
    let members = attached(&node, 40);
    let daemon = Daemon::start(&node);
    // One process for all: on a busy machine each start would take longer than a moment.
    let mut ip = node.command("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut lines = ip.stdin.take().unwrap();
    for member in &members {
        writeln!(lines, "netns del {}", member.pod.netns).unwrap();
        sleep_ms(20);
    }
    drop(lines);
    assert!(ip.wait().unwrap().success());
    eventually("the brake is engaged", || daemon.metric("brake_engaged") == 1.0);
    settle();
    let each = members[0].lines().len();
    let left = node.dump("br0").len();
    // The fourth within a moment waits for those that follow.
    let swept = daemon.metric("orphans_total{source=\"netns\"}");
    eprintln!("{swept} of 40 were swept before the brake was pulled");
    assert!(swept <= 10.0, "{swept}");
    assert!(left >= 30 * each, "{left} entries are left of {}", members.len() * each);
    daemon.no_harm();
}

#[test]
fn entries_that_come_back_after_a_del_are_found() {
    let node = Setup::new().up("daemon_linger");
    let pods = Pods::new(&node, 2);
    let daemon = Daemon::start(&node);
    node.del(&pods.pods[0]);
    until(&node, &pods.without(&[0]));
    // A slow controller. It says what it said before, of a pod that is gone.
    sleep_ms(200);
    let again = layouts::classifier(&pods.pods[0].who(0x1001));
    node.add_flows("br0", &again);
    let port = format!("in_port={}", pods.pods[0].ofport);
    let since = Instant::now();
    // Those that only name its address may be somebody else's: made after its death.
    eventually("they are gone again", || !node.dump("br0").iter().any(|flow| flow.contains(&port)));
    eprintln!("put back after its DEL: gone after {:?}", since.elapsed());
    let left = node.dump("br0");
    assert!(pods.without(&[0]).iter().all(|flow| left.contains(flow)), "{left:#?}");
    daemon.no_harm();
}
