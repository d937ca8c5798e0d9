//! ovs-vswitchd or ovsdb-server away or hung when a pod comes or goes.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::{
    SMALL, del_gives_up, hasty_node, only, our_del, record_of, settle, still_there, sweep,
    sweep_finishes, tombstones,
};
use crate::rig::{Datapath, Flows, Node, Setup, layouts, sleep_ms};
use serde_json::json;

/// ovs-vswitchd is back, and the controller (or `ovs-ctl restart`) has put all entries back.
fn bring_back(node: &Node, flows: &[String]) {
    node.restart_vswitchd(Flows::Lost);
    node.add_flows("br0", flows);
}

#[test]
fn vswitchd_stopped_or_killed_at_del() {
    for killed in [false, true] {
        let node = hasty_node("vswitchd_stopped_or_killed_at_del", 5000);
        let (base, [web, db]) = settle(&node, ["web", "db"]);
        let all = node.dump("br0");
        if killed {
            node.vswitchd.kill()
        } else {
            node.vswitchd.stop()
        }

        let why = del_gives_up(&node, &web, SMALL);
        assert!(why.contains("br0.mgmt") && why.contains("ovs-vswitchd is"), "{why}");
        node.del(&web);

        bring_back(&node, &all);
        sweep_finishes(&node);
        only(&node, &[&base, &db.flows]);
        node.must_reach(&db, &db.ip);
    }
}

/// A process that is stopped while it has the lock of the state directory.
#[test]
fn a_lock_that_is_held_at_del() {
    let node = hasty_node("a_lock_that_is_held_at_del", 600);
    let (base, [web, db]) = settle(&node, ["web", "db"]);
    let lock = std::fs::File::open(node.state_dir.join("lock")).unwrap();
    lock.lock().unwrap();
    let outcome = our_del(&node, &web);
    assert!(outcome.succeeded() && outcome.took < Duration::from_millis(900), "{outcome}");
    let holder = format!("lock was locked by process {} for ", std::process::id());
    assert!(outcome.stderr.contains(&holder), "{outcome}");
    assert!(!outcome.stderr.contains("db.sock"), "{outcome}");
    only(&node, &[&base, &web.flows, &db.flows]);
    drop(lock);
    node.kill_sandbox(&web);
    sweep_finishes(&node);
    only(&node, &[&base, &db.flows]);
}

#[test]
fn vswitchd_hung_at_del() {
    let node = hasty_node("vswitchd_hung_at_del", 700);
    let (base, [web, db, cache]) = settle(&node, ["web", "db", "cache"]);
    node.vswitchd.pause();

    let why = del_gives_up(&node, &web, Duration::from_millis(700) + SMALL);
    assert!(why.contains("did not answer in time"), "{why}");
    // The runtime goes on: the OVS plugin's DEL, the sandbox, a retry.
    node.del(&web);
    node.try_del(&web).unwrap();
    // A sweep gives up in its own time, and forgets nothing.
    let swept = node.admin(&["sweep", "--json", "--timeout", "1"]);
    assert_eq!(swept.code, Some(3), "{swept}");
    assert!(swept.took < Duration::from_secs(1) + SMALL, "{swept}");
    assert_eq!(tombstones(&node).len(), 1);

    node.vswitchd.resume();
    sweep_finishes(&node);
    assert_eq!(still_there(&node, &web.flows), [""; 0]);
    only(&node, &[&base, &db.flows, &cache.flows]);
}

#[test]
fn ovsdb_server_hung_at_del() {
    let node = hasty_node("ovsdb_server_hung_at_del", 700);
    let (base, [web, db]) = settle(&node, ["web", "db"]);
    node.ovsdb.pause();
    let why = del_gives_up(&node, &web, Duration::from_millis(700) + SMALL);
    assert!(why.contains("ovsdb-server did not answer in time"), "{why}");
    node.ovsdb.resume();
    sweep_finishes(&node);
    only(&node, &[&base, &db.flows]);
    node.del(&web);
    only(&node, &[&base, &db.flows]);
}

/// With ovsdb-server down, ovs-vswitchd goes on forwarding, accepts OpenFlow connections and
/// may never answer. Nothing of ours waits without end.
#[test]
fn ovsdb_server_stopped_or_killed_at_del() {
    for killed in [false, true] {
        let node = hasty_node("ovsdb_server_stopped_or_killed_at_del", 700);
        let (base, [web, db]) = settle(&node, ["web", "db"]);
        if killed {
            node.ovsdb.kill()
        } else {
            node.ovsdb.stop()
        }
        UnixStream::connect(node.run_dir.join("br0.mgmt")).expect("ovs-vswitchd accepts");

        let why = del_gives_up(&node, &web, Duration::from_millis(700) + SMALL);
        assert!(why.contains("cannot connect to OVSDB"), "{why}");
        let listed = node.admin(&["list", "--timeout", "1"]);
        assert!(listed.succeeded() && listed.took < Duration::from_secs(1) + SMALL, "{listed}");

        node.ovsdb.start();
        sweep_finishes(&node);
        only(&node, &[&base, &db.flows]);
    }
}

/// ovsdb-server answers, ovs-vswitchd accepts and never does: a database that went away and
/// came back while ovs-vswitchd was hung.
#[test]
fn vswitchd_accepts_and_never_answers() {
    let node = hasty_node("vswitchd_accepts_and_never_answers", 700);
    let (base, [web, db]) = settle(&node, ["web", "db"]);
    node.vswitchd.pause();
    node.ovsdb.kill();
    node.ovsdb.start();
    let mut mute = UnixStream::connect(node.run_dir.join("br0.mgmt")).expect("it accepts");
    mute.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    std::io::Read::read(&mut mute, &mut [0]).expect_err("and never answers");
    del_gives_up(&node, &web, Duration::from_millis(700) + SMALL);
    node.vswitchd.resume();
    // It has to find its database again first.
    node.ovs_vsctl(&["set", "Open_vSwitch", ".", "external_ids:rig=back"]);
    sweep_finishes(&node);
    only(&node, &[&base, &db.flows]);
}

/// The listen backlog is 64: the 66th client of a stopped switch blocks in connect itself.
#[test]
fn more_clients_than_the_backlog_holds() {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
    use std::os::fd::AsRawFd;

    let node = hasty_node("more_clients_than_the_backlog_holds", 700);
    let (base, [web, db]) = settle(&node, ["web", "db"]);
    node.vswitchd.pause();
    let address = UnixAddr::new(&node.run_dir.join("br0.mgmt")).unwrap();
    let waiting: Vec<_> = (0..80)
        .map(|_| {
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap();
            let connected = connect(fd.as_raw_fd(), &address).is_ok();
            (fd, connected)
        })
        .collect();
    assert!(!waiting.last().unwrap().1, "the backlog is full");
    assert!(waiting.iter().filter(|(_, connected)| *connected).count() >= 65);

    let why = del_gives_up(&node, &web, Duration::from_millis(700) + SMALL);
    assert!(why.contains("nobody accepts"), "{why}");
    node.del(&web);

    drop(waiting);
    node.vswitchd.resume();
    sweep_finishes(&node);
    only(&node, &[&base, &db.flows]);
}

/// containerd #12130: a plugin that fails DEL blocks those in front of it, and their ports and
/// addresses leak. Whatever ails the switch, the OVS plugin's DEL runs.
#[test]
fn whatever_ails_the_switch_the_ovs_plugins_del_runs() {
    type Ailment = (&'static str, fn(&Node), fn(&Node));
    let ailments: [Ailment; 4] = [
        ("hung", |n| n.vswitchd.pause(), |n| n.vswitchd.resume()),
        (
            "speaks 1.0 only",
            |n| n.set_protocols("br0", "OpenFlow10"),
            |n| n.set_protocols("br0", "[]"),
        ),
        ("killed", |n| n.vswitchd.kill(), |n| n.restart_vswitchd(Flows::Lost)),
        ("stopped", |n| n.vswitchd.stop(), |n| n.restart_vswitchd(Flows::Lost)),
    ];
    // One pod alone: the operator vouches for its reg0.
    let keys = json!({"timeoutMs": 400, "lingerSeconds": 0, "reg0": "pod"});
    let node = Setup::new()
        .gc_conf(keys)
        .datapath(Datapath::Dummy)
        .up("whatever_ails_the_switch_the_ovs_plugins_del_runs");
    for (what, ail, heal) in ailments {
        let web = node.run_pod("web");
        node.add_flows("br0", &layouts::classifier(&web.who(0x1001)));
        ail(&node);
        node.try_del(&web).unwrap_or_else(|failed| panic!("{what}: {failed}"));
        let calls = node.calls();
        assert!(calls.last().unwrap().starts_with(&format!("DEL {}", web.container)), "{calls:?}");
        assert!(node.ports("br0").is_empty(), "{what}");
        node.kill_sandbox(&web);
        heal(&node);
        sweep_finishes(&node);
        assert_eq!(node.dump("br0"), [""; 0], "{what}");
    }
}

#[test]
fn ovsdb_server_killed_at_add() {
    let node = hasty_node("ovsdb_server_killed_at_add", 2000);
    let (base, [db, cache]) = settle(&node, ["db", "cache"]);
    // The OVS plugin has just done its part.
    let chain = node.conflist();
    let mut front = chain.clone();
    front["plugins"].as_array_mut().unwrap().pop();
    node.set_conflist(front);
    let web = node.run_pod("web");
    node.set_conflist(chain);
    node.ovsdb.kill();

    let conf = node.plugin_conf("ovs-flow-gc", Some(&web), Some(&web.result));
    let start = Instant::now();
    let added = node.call_for(&conf, "ADD", &web).run();
    assert!(start.elapsed() < Duration::from_millis(2000) + SMALL);
    assert!(added.succeeded(), "{added}");
    assert_eq!(added.json(), web.result, "prevResult goes on unchanged");
    assert!(added.stderr.contains("cannot connect to OVSDB"), "{added}");
    assert!(added.stderr.contains("recorded without its port"), "{added}");
    let record = record_of(&node, &web);
    assert_eq!(record["ips"], json!([web.ip, web.ip6]));
    assert_eq!(record["macs"], json!([web.mac]));

    node.ovsdb.start();
    let web = super::with_flows(&node, web, 0x1003);
    // The next sweep looks the port up.
    sweep(&node);
    only(&node, &[&base, &db.flows, &cache.flows, &web.flows]);
    let record = record_of(&node, &web);
    assert_eq!((&record["port"], &record["ofport"]), (&json!(web.port), &json!(web.ofport)));
    node.del(&web);
    only(&node, &[&base, &db.flows, &cache.flows]);
}

/// As above, but DEL comes before any sweep.
#[test]
fn a_record_without_a_port_is_completed_at_del() {
    let node = hasty_node("a_record_without_a_port_is_completed_at_del", 2000);
    let (base, [db]) = settle(&node, ["db"]);
    let chain = node.conflist();
    let mut front = chain.clone();
    front["plugins"].as_array_mut().unwrap().pop();
    node.set_conflist(front);
    let web = node.run_pod("web");
    node.set_conflist(chain);
    node.ovsdb.kill();
    let conf = node.plugin_conf("ovs-flow-gc", Some(&web), Some(&web.result));
    node.call_for(&conf, "ADD", &web).run().ok();
    node.ovsdb.start();
    let web = super::with_flows(&node, web, 0x1003);
    let deleted = our_del(&node, &web);
    assert!(deleted.succeeded(), "{deleted}");
    only(&node, &[&base, &db.flows]);
}

/// DEL found ovs-vswitchd down; it comes back empty, is swept, and only then somebody puts all
/// entries back. However long ago the pod died, the linger time counts from there.
#[test]
fn swept_after_the_restart_and_before_the_restore() {
    let node = Setup::new().gc_conf(json!({"lingerSeconds": 2})).up("swept_before_the_restore");
    let (base, [web, db]) = settle(&node, ["web", "db"]);
    let all = node.dump("br0");
    node.vswitchd.kill();
    node.del(&web);
    sleep_ms(2100);
    node.restart_vswitchd(Flows::Lost);
    sweep(&node);
    assert_eq!(tombstones(&node).len(), 1);
    node.add_flows("br0", &all);
    sweep(&node);
    only(&node, &[&base, &db.flows]);
    sleep_ms(2100);
    sweep_finishes(&node);
}

/// A sweep while ovs-vswitchd is on its way up: its bridges are not there yet, its numbers
/// are those of before.
#[test]
fn sweeps_while_vswitchd_restarts() {
    let node = Setup::new().gc_conf(json!({"lingerSeconds": 60})).up("sweeps_while_it_restarts");
    let (base, [web, db, cache]) = settle(&node, ["web", "db", "cache"]);
    let all = node.dump("br0");
    node.vswitchd.kill();
    our_del(&node, &web).ok();
    node.vanish(&web, crate::rig::Port::Gone);
    std::thread::scope(|scope| {
        let sweeps = scope.spawn(|| {
            for _ in 0..10 {
                node.admin(&["sweep", "--timeout", "1"]);
                sleep_ms(20);
            }
        });
        bring_back(&node, &all);
        sweeps.join().unwrap();
    });
    sweep(&node);
    only(&node, &[&base, &db.flows, &cache.flows]);
}
