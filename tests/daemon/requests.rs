//! Calls that ask the daemon: what it does for them, and what they do without it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use ovs_flow_gc::reconcile::wire::{CleanReply, database_identity};
use ovs_flow_gc::reconcile::{
    Cause, CleanRequest, CleanTarget, Database, Lease, Leases, Outcome as Cleaned, orphans,
};
use ovs_flow_gc::store::Registry;
use ovs_flow_gc::util::clock::{Deadline, Stamp, boot_id};
use serde_json::{Value, json};

use crate::gcd::{Daemon, settle};
use crate::pods::{self, Member, all_at_once, attached};
use crate::rig::{
    Attached, Datapath, Node, Outcome, Port, Running, Setup, Valid, eventually, layouts, sleep_ms,
};

const DONE: &str = "requests_total{verb=\"DEL\",result=\"done\"}";
const WITHDRAWN: &str = "requests_total{verb=\"DEL\",result=\"withdrawn\"}";

/// What the plugin says when the daemon has done its work.
const SAID: &str = "done by the daemon";

const ACCEPTED: &[u8] =
    b"{\"version\":1,\"result\":\"accepted\",\"deleted\":0,\"withheld\":0,\"why\":null}\n";

fn socket(node: &Node) -> PathBuf {
    node.state_dir.join("_daemon.sock")
}

fn start_del(node: &Node, pod: &Attached) -> Running {
    let mut conf = node.plugin_conf("ovs-flow-gc", Some(pod), Some(&pod.result));
    conf["logLevel"] = json!("debug");
    node.call("ovs-flow-gc", "DEL").pod(pod).conf(&conf).start()
}

/// A DEL of our plugin alone.
#[track_caller]
fn del(node: &Node, pod: &Attached) -> Outcome {
    let outcome = start_del(node, pod).wait();
    assert!(outcome.succeeded(), "{outcome}");
    outcome
}

#[track_caller]
fn pod(node: &Node, name: &str, reg: u32) -> (Attached, Vec<String>) {
    let pod = node.run_pod(name);
    let flows = node.install("br0", &layouts::classifier(&pod.who(reg)));
    (pod, flows)
}

#[track_caller]
fn until(node: &Node, flows: &[String]) {
    eventually("the entries are as they should be", || node.dump("br0") == flows);
}

/// Writes the tombstone of a pod, as its DEL does before it asks.
#[track_caller]
fn write_tombstone(node: &Node, pod: &Attached) -> CleanTarget {
    let registry = Registry::open(&node.state_dir).unwrap();
    let boot = boot_id().unwrap();
    let lock = registry.lock(Deadline::after(Duration::from_secs(20))).unwrap();
    let records = lock.snapshot().unwrap().attachments;
    let of =
        |a: &&ovs_flow_gc::model::attachment::Attachment| a.key.container.as_str() == pod.container;
    let record = records.iter().find(of).unwrap().clone();
    let dead = orphans::died(record, Stamp::now(), &boot);
    lock.write_tombstone(&dead).unwrap();
    CleanTarget { attachment: dead, cause: Cause::Del }
}

/// A request as a plugin would send it.
fn request(node: &Node, target: &CleanTarget) -> Value {
    json!({
        "version": 1,
        "verb": "DEL",
        "bootId": boot_id().unwrap(),
        "untilMs": Stamp::now().boot_ms + 20_000,
        "database": database_identity(&node.run_dir).unwrap(),
        "adding": null,
        "overlay": null,
        "targets": [{
            "key": target.attachment.key,
            "generation": target.attachment.generation,
            "cause": target.cause,
        }],
    })
}

#[track_caller]
fn connect(node: &Node) -> UnixStream {
    let until = Deadline::after(Duration::from_secs(5));
    let stream = ovs_flow_gc::util::clock::connect_within(&socket(node), until).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// The answer to these bytes.
#[track_caller]
fn ask(node: &Node, bytes: &[u8]) -> Value {
    let mut stream = connect(node);
    stream.write_all(bytes).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"))
}

#[test]
fn the_daemon_does_what_del_gc_and_add_ask_for() {
    let node = Setup::new().cni_version("1.1.0").up("requests_served");
    let (web, web_flows) = pod(&node, "web", 0x1001);
    let (db, _) = pod(&node, "db", 0x1002);
    let daemon = Daemon::start(&node);
    let meta = fs::symlink_metadata(socket(&node)).unwrap();
    assert!(meta.file_type().is_socket());
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);

    // A GC that finds nobody dead is its network's.
    assert_eq!(node.gc(Valid::Pods(&[&web, &db])).len(), 0);
    let screen = node.admin(&["status"]).stdout;
    assert!(screen.contains("GC of podnet: done"), "{screen}");

    let outcome = del(&node, &db);
    assert_eq!(node.dump("br0"), web_flows, "as soon as DEL is done");
    assert!(outcome.stderr.contains(&format!("{SAID}: 15 entries deleted")), "{outcome}");
    assert_eq!(daemon.metric(DONE), 1.0);
    assert_eq!(daemon.sum("flows_deleted_total"), 15.0);
    assert!(daemon.log().contains(&format!("deleted 15 entries of default/{}", db.name)));
    let journal = node.admin(&["undo", "--list"]).ok();
    assert!(journal.contains("DEL"), "{journal}");
    // The records are settled as a DEL settles them.
    let record = pods::records(&node);
    assert_eq!((record.attachments.len(), record.tombstones.len()), (1, 1));
    assert_eq!(record.tombstones[0].state.to_string(), "gone");
    // Again, and one that nobody knows.
    del(&node, &db);
    let nobody = Attached { pod: node.pod("nobody"), ..db.clone() };
    del(&node, &nobody);
    assert_eq!(node.dump("br0"), web_flows);
    node.ovs_vsctl(&["--if-exists", "del-port", &db.port]);

    // What the conflist says at this DEL counts, not what is recorded.
    let (cache, _) = pod(&node, "cache", 0x1003);
    node.configure(json!({"mode": "observe"}));
    let outcome = del(&node, &cache);
    assert!(outcome.stderr.contains("0 entries deleted, 15 withheld"), "{outcome}");
    // The daemon's own sweeps go by what is recorded.
    node.configure(json!({"mode": null}));
    assert_eq!(node.gc(Valid::Pods(&[&web])).len(), 0);
    until(&node, &web_flows);
    assert_eq!(daemon.metric("requests_total{verb=\"GC\",result=\"done\"}"), 2.0);
    node.ovs_vsctl(&["--if-exists", "del-port", &cache.port]);
    node.must_reach(&web, &web.ip);
    daemon.no_harm();
}

/// Without the check of the lease the first clean-up would delete: all evidence holds.
#[test]
fn nothing_is_deleted_for_a_call_that_does_not_wait_any_longer() {
    let node = Setup::new().up("requests_lease");
    let (_web, web_flows) = pod(&node, "web", 0x1001);
    let (db, _) = pod(&node, "db", 0x1002);
    let all = node.dump("br0");
    let target = write_tombstone(&node, &db);
    let registry = Registry::open(&node.state_dir).unwrap();
    let database = Database::default();
    let clean = |lease: &Lease| -> Cleaned {
        let mut leases = Leases::default();
        leases.add(lease, [&target.attachment.key].into_iter());
        let deadline = Deadline::after(Duration::from_secs(20));
        let cleaning =
            CleanRequest::of_call(Some(&registry), node.run_dir.clone(), deadline, "DEL");
        cleaning.leased(&leases, &database).clean(vec![target.clone()])
    };
    let later = Stamp::now().boot_ms + 60_000;
    let tombstone = || registry.tombstone_of(&target.attachment).unwrap().unwrap();
    let (call, stream) = UnixStream::pair().unwrap();
    for gone in [Lease::new(stream.try_clone().unwrap(), 1), {
        drop(call);
        Lease::new(stream, later)
    }] {
        let outcome = clean(&gone);
        let why = outcome.error().unwrap();
        assert!(why.contains("does not wait any longer"), "{why}");
        assert_eq!(node.dump("br0"), all);
        let left = tombstone();
        assert_eq!((left.state.to_string().as_str(), left.attempts), ("deleting", 0));
    }
    let (_call, stream) = UnixStream::pair().unwrap();
    let outcome = clean(&Lease::new(stream, later));
    assert_eq!(outcome.error(), None);
    assert_eq!(node.dump("br0"), web_flows);
    assert_eq!(tombstone().state.to_string(), "gone");
}

/// The daemon stands still between accepting a request and deleting for it, and goes on when the
/// address has its next owner.
#[test]
fn a_daemon_that_was_frozen_does_nothing_late() {
    let node = Setup::new().up("requests_frozen");
    let (web, web_flows) = pod(&node, "web", 0x1001);
    let (db, _) = pod(&node, "db", 0x1002);
    let daemon = Daemon::start(&node);
    // The request is accepted, and waits for the switch.
    node.vswitchd.pause();
    let began = Instant::now();
    let running = start_del(&node, &db);
    eventually("the request has come", || daemon.log().contains("DEL asks for 1"));
    sleep_ms(50);
    daemon.signal(Signal::SIGSTOP);
    node.vswitchd.resume();
    let outcome = running.wait();
    eprintln!("DEL beside a frozen daemon: {:?}", began.elapsed());
    assert!(outcome.succeeded() && !outcome.stderr.contains(SAID), "{outcome}");
    assert_eq!(node.dump("br0"), web_flows, "the plugin has done it");

    // Its address, its register value and its port number go to the next pod.
    node.ovs_vsctl(&["--if-exists", "del-port", &db.port]);
    node.kill_sandbox(&db);
    node.forget_lease(&db.ip);
    let next = node.add(&node.pod("next").with_ip(&db.ip));
    let next_flows = node.install("br0", &layouts::classifier(&next.who(0x1002)));
    let mut both = [web_flows, next_flows].concat();
    both.sort();
    daemon.signal(Signal::SIGCONT);
    eventually("it notices that the call is gone", || daemon.metric(WITHDRAWN) == 1.0);
    settle();
    assert_eq!(node.dump("br0"), both, "nothing of the next owner's is gone");
    assert_eq!(daemon.metric(DONE), 0.0);
    // A frozen daemon costs a DEL a quarter of a second at most, also before it accepts.
    daemon.signal(Signal::SIGSTOP);
    let outcome = del(&node, &next);
    eprintln!("DEL with a daemon that does not answer: {:?}", outcome.took);
    assert!(outcome.stderr.contains("not done by a daemon"), "{outcome}");
    daemon.signal(Signal::SIGCONT);
    eventually("that call is gone, too", || daemon.metric(WITHDRAWN) == 2.0);
    node.must_reach(&web, &web.ip);
    daemon.no_harm();
}

#[test]
fn a_socket_that_was_left_behind_is_replaced() {
    let node = Setup::new().up("requests_left_behind");
    let mut pods: Vec<_> =
        ["a", "b", "c"].into_iter().zip(0x1001..).map(|(n, r)| pod(&node, n, r)).collect();
    let first = Daemon::start(&node);
    let second = Daemon::start_with(&node, &["--interval=10m"], None);
    eventually("it waits", || second.log().contains("another daemon has the state directory"));
    assert!(!second.log().contains("calls may ask"), "only the holder of the lock serves");
    let (b, _) = pods.remove(1);
    assert!(del(&node, &b).stderr.contains(SAID));
    assert_eq!((first.metric(DONE), second.metric(DONE)), (1.0, 0.0));
    second.signal(Signal::SIGSTOP);
    first.end(Signal::SIGKILL);
    assert!(socket(&node).exists(), "nobody has removed it");
    let (c, _) = pods.remove(1);
    let outcome = del(&node, &c);
    assert!(outcome.stderr.contains("not done by a daemon"), "{outcome}");
    assert_eq!(node.dump("br0"), pods[0].1);
    second.signal(Signal::SIGCONT);
    eventually("it serves", || second.log().contains("calls may ask"));
    assert!(del(&node, &pods[0].0).stderr.contains(SAID));
    assert_eq!(node.dump("br0"), [""; 0]);
    // With the state directory goes the socket.
    eventually("it is removed", || fs::remove_dir_all(&node.state_dir).is_ok());
    // A removal that needed two tries was of two sockets: the log alone does not say which is meant.
    eventually("it is made again", || {
        socket(&node).exists() && second.log().matches("calls may ask").count() >= 2
    });
    let (d, _) = pod(&node, "d", 0x1004);
    let outcome = del(&node, &d);
    assert!(outcome.stderr.contains(&format!("{SAID}: 13 entries deleted")), "{outcome}");
}

#[test]
fn what_is_not_understood_is_refused_on_both_sides() {
    let node = Setup::new().up("requests_refused");
    let (_web, _) = pod(&node, "web", 0x1001);
    let (db, _) = pod(&node, "db", 0x1002);
    let all = node.dump("br0");
    let daemon = Daemon::start(&node);
    node.admin(&["pause"]).ok();
    let target = write_tombstone(&node, &db);
    node.admin(&["resume"]).ok();
    // A sweep would do it in a second.
    let sent = |change: &dyn Fn(&mut Value)| {
        let mut value = request(&node, &target);
        change(&mut value);
        ask(&node, format!("{value}\n").as_bytes())
    };
    let refused = |answer: Value, says: &str| {
        let why = answer["why"].as_str().unwrap_or_default();
        assert!(answer["result"] == "refused" && why.contains(says), "{says}: {answer}");
    };
    node.vswitchd.pause();
    refused(sent(&|v| v["version"] = json!(2)), "version 2");
    refused(sent(&|v| v["priority"] = json!(9)), "keys that are not known");
    refused(sent(&|v| v["bootId"] = json!("another")), "another boot");
    refused(sent(&|v| v["database"] = json!([1, 1])), "another Open vSwitch");
    refused(ask(&node, b"\n"), "EOF");
    refused(ask(&node, b"\0\xff\x01garbage\n"), "utf-8");
    refused(ask(&node, b"garbage\n"), "expected");
    refused(ask(&node, &[b'x'; 300 << 10]), "262144 bytes at most");
    let answer = sent(&|v| v["untilMs"] = json!(1));
    assert_eq!(answer["result"], "withdrawn", "{answer}");
    let answer = sent(&|v| v["targets"][0]["generation"] = json!(7));
    assert_eq!(answer["result"], "failed", "{answer}");
    // Connects and says nothing, says half of it, hangs up behind it.
    let silent = connect(&node);
    connect(&node).write_all(b"{\"version\":1,").unwrap();
    let before = daemon.metric(WITHDRAWN);
    connect(&node).write_all(format!("{}\n", request(&node, &target)).as_bytes()).unwrap();
    eventually("it has hung up", || daemon.metric(WITHDRAWN) > before);
    drop(silent);
    assert_eq!(daemon.metric(DONE), 0.0);
    node.vswitchd.resume();
    eventually("the sweep does it", || node.dump("br0").len() == all.len() - 15);
    daemon.no_harm();
    daemon.end(Signal::SIGKILL);

    // A daemon of another release, and worse.
    let answers: [&[u8]; 8] = [
        ACCEPTED,
        b"{\"version\":2,\"result\":\"done\",\"deleted\":0,\"withheld\":0,\"why\":null}\n",
        b"{\"version\":1,\"result\":\"done\",\"deleted\":0,\"withheld\":0,\"why\":null,\"x\":0}\n",
        b"{\"version\":1,\"result\":\"begun\",\"deleted\":0,\"withheld\":0,\"why\":null}\n",
        b"{\"version\":1,\"result\":\"done\"",
        b"",
        b"\n",
        &[b'['; 64 << 10],
    ];
    for (answer, reg) in answers.into_iter().zip(0x1003..) {
        let before = node.dump("br0");
        let (next, _) = pod(&node, "next", reg);
        fs::remove_file(socket(&node)).unwrap();
        let listener = UnixListener::bind(socket(&node)).unwrap();
        let liar = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            assert!(stream.read(&mut [0; 1024]).unwrap() > 0);
            let _ = stream.write_all(answer);
        });
        let outcome = del(&node, &next);
        liar.join().unwrap();
        assert!(outcome.stderr.contains("not done by a daemon"), "{outcome}");
        assert_eq!(node.dump("br0"), before, "{outcome}");
        node.ovs_vsctl(&["--if-exists", "del-port", &next.port]);
    }
}

/// Who has accepted a request has longer than who says nothing.
#[test]
fn a_daemon_that_has_accepted_is_waited_for() {
    let node = Setup::new().up("requests_accepted");
    let (web, _) = pod(&node, "web", 0x1001);
    let (db, _) = pod(&node, "db", 0x1002);
    // No daemon that is slow for so long, and no longer, can be had: the test answers.
    let listener = UnixListener::bind(socket(&node)).unwrap();
    let answer = |accepts: bool| {
        let (mut stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["tellAccepted"], true, "{line}");
        if accepts {
            stream.write_all(ACCEPTED).unwrap();
        }
        sleep_ms(600);
        let _ = stream.write_all(&CleanReply::done(3, 0).line().unwrap());
    };
    for (pod, accepts) in [(&web, true), (&db, false)] {
        let outcome = thread::scope(|scope| {
            scope.spawn(|| answer(accepts));
            del(&node, pod)
        });
        let waited = outcome.stderr.contains(&format!("{SAID}: 3 entries deleted"));
        assert_eq!(waited, accepts, "{outcome}");
    }
}

#[test]
fn two_hundred_dels_at_once() {
    // A machine that is busy with other tests is slow.
    let slow = json!({"timeoutMs": 60_000});
    let node = Setup::new().datapath(Datapath::Dummy).gc_conf(slow).up("requests_many");
    node.install("br0", &layouts::classifier_base());
    let members = attached(&node, 210);
    let daemon = Daemon::start(&node);
    let (dead, living) = members.split_at(200);
    let all = node.dump("br0").len();
    let began = Instant::now();
    all_at_once(&node, "DEL", dead);
    eprintln!(
        "200 DELs at once: {:?}; the daemon did {}, of {} that asked",
        began.elapsed(),
        daemon.metric(DONE),
        daemon.sum("requests_total")
    );
    assert_eq!(daemon.sum("requests_total"), 200.0, "each has asked once");
    assert_eq!(node.dump("br0").len(), all - 200 * dead[0].lines().len());
    assert_eq!(pods::records(&node).attachments.len(), living.len());
    daemon.no_harm();
}

/// The daemon is killed and started again while DELs wait for it, with a copy of the bridge and
/// entries that must not be dumped for each.
#[test]
fn restarted_while_dels_wait_for_it() {
    let slow = json!({"timeoutMs": 30_000});
    let node = Setup::new().datapath(Datapath::Dummy).gc_conf(slow).up("requests_restarted");
    node.install("br0", &layouts::classifier_base());
    let members = attached(&node, 42);
    let (living, dead) = members.split_at(2);
    let mut daemon = Daemon::start(&node);
    for (round, some) in dead.chunks(8).enumerate() {
        let since = "replica_in_sync_since_seconds{bridge=\"br0\"}";
        eventually("the bridge is followed", || daemon.metric(since) > 0.0);
        let running: Vec<_> =
            some.iter().map(|member| pods::call(&node, "DEL", member).start()).collect();
        sleep_ms(4 + 7 * round as u64);
        daemon.end(Signal::SIGKILL);
        daemon = Daemon::start_with(&node, &["--interval=10m"], None);
        for call in running {
            call.wait().ok();
        }
        let dump = node.dump("br0");
        for line in living.iter().flat_map(Member::lines) {
            assert!(dump.contains(&line), "{line}");
        }
        let of = |member: &Member| member.lines().into_iter().filter(|line| dump.contains(line));
        let left: Vec<_> = some.iter().flat_map(of).collect();
        assert!(left.is_empty(), "round {round}, as soon as the DELs are done: {left:#?}");
    }
    assert_eq!(pods::records(&node).attachments.len(), living.len());
    daemon.no_harm();
}

/// Killed between any two steps, the daemon, the call or both: what is left the next sweep does.
#[test]
fn killed_at_any_step_nothing_is_left() {
    let node = Setup::new().up("requests_killed");
    let (_web, web_flows) = pod(&node, "web", 0x1001);
    for round in 0..24u64 {
        let (next, _) = pod(&node, "next", 0x1002 + round as u32);
        let daemon = Daemon::start(&node);
        let running = start_del(&node, &next);
        // From before it connects until after it is done.
        thread::sleep(Duration::from_micros(2_000 + 1_500 * (round / 3)));
        if round % 3 == 1 {
            running.kill();
        }
        if round % 3 != 0 {
            sleep_ms(round % 2);
        }
        daemon.end(Signal::SIGKILL);
        if round % 3 == 2 {
            running.kill();
        }
        let outcome = running.wait();
        if round % 3 == 0 {
            assert!(outcome.succeeded(), "{outcome}");
            assert_eq!(node.dump("br0"), web_flows, "{outcome}");
        }
        node.vanish(&next, Port::Gone);
        pods::sweep(&node);
        assert_eq!(node.dump("br0"), web_flows, "round {round}: {outcome}");
    }
    let daemon = Daemon::start(&node);
    until(&node, &web_flows);
    daemon.no_harm();
}
