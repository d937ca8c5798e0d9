//! Bad days: OVS, the state directory and the daemon itself come and go. Nobody alive is
//! touched, and the dead are found when it is over.

use std::fs;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::gcd::{Daemon, settle};
use crate::rig::{Attached, Flows, Node, Port, Setup, eventually, layouts};

#[track_caller]
fn two_pods(node: &Node) -> ([Attached; 2], [Vec<String>; 2]) {
    let pods = [node.run_pod("web"), node.run_pod("db")];
    let web = node.install("br0", &layouts::classifier(&pods[0].who(0x1001)));
    let db = node.install("br0", &layouts::classifier(&pods[1].who(0x1002)));
    (pods, [web, db])
}

#[track_caller]
fn until(node: &Node, flows: &[String]) {
    eventually("the entries are as they should be", || {
        let outcome = node.try_ofctl(&["--no-stats", "--no-names", "dump-flows", "br0"]);
        outcome.succeeded() && node.dump("br0") == flows
    });
}

#[test]
fn ovs_vswitchd_restarted_ten_times() {
    let node = Setup::new().gc_conf(json!({"lingerSeconds": 60})).up("daemon_restarts");
    let (pods, [web, db]) = two_pods(&node);
    let daemon = Daemon::start(&node);
    node.vanish(&pods[1], Port::Gone);
    until(&node, &web);
    for round in 0..10 {
        // Whoever saved the entries before the death puts them back: also the dead one's.
        node.restart_vswitchd(if round % 2 == 0 { Flows::Restored } else { Flows::Lost });
        if round % 2 == 1 {
            node.add_flows("br0", &layouts::classifier(&pods[0].who(0x1001)));
        }
        assert!(node.dump("br0").len() >= web.len());
    }
    assert_eq!(daemon.get("/healthz").0, 200);
    eventually("the switch is up", || daemon.metric("ovs_up{server=\"ovs-vswitchd\"}") == 1.0);
    // A controller that has not heard of the death: the daemon may be quicker than this test reads.
    let deleted = daemon.sum("flows_deleted_total");
    node.add_flows("br0", &layouts::classifier(&pods[1].who(0x1002)));
    node.restart_vswitchd(Flows::Restored);
    eventually("they are gone again", || {
        daemon.sum("flows_deleted_total") >= deleted + db.len() as f64
    });
    until(&node, &web);
    node.vanish(&pods[0], Port::Stays);
    until(&node, &[]);
    daemon.no_harm();
}

#[test]
fn ovsdb_server_restarted() {
    let node = Setup::new().up("daemon_ovsdb");
    let (pods, [web, _]) = two_pods(&node);
    let daemon = Daemon::start(&node);
    let up = "ovs_up{server=\"ovsdb-server\"}";
    assert_eq!(daemon.metric(up), 1.0);
    node.ovsdb.kill();
    eventually("it is down", || daemon.metric(up) == 0.0);
    // Dies while nobody can be asked whose port it is.
    node.kill_sandbox(&pods[1]);
    settle();
    assert_eq!(daemon.get("/healthz").0, 200);
    let (status, why) = daemon.get("/readyz");
    assert_eq!((status, why.contains("ovsdb-server")), (503, true), "{why}");
    assert!(daemon.sum("sweeps_total") > 0.0);
    // A DEL of that time is done as far as the runtime is concerned: its age is told.
    let age = "oldest_unfinished_tombstone_age_seconds";
    assert_eq!(daemon.metric(age), 0.0);
    node.call("ovs-flow-gc", "DEL")
        .pod(&pods[1])
        .conf(&node.plugin_conf("ovs-flow-gc", Some(&pods[1]), Some(&pods[1].result)))
        .start()
        .wait()
        .ok();
    eventually("it waits", || daemon.metric(age) > 0.0);
    node.ovsdb.start();
    until(&node, &web);
    eventually("it has ended", || daemon.metric(age) == 0.0);
    // The sweep has a connection of its own, and is ahead of the watch.
    eventually("it is up", || daemon.metric(up) == 1.0);
    eventually("it is ready again", || daemon.get("/readyz").0 == 200);
    daemon.no_harm();
}

/// A sweep that has nothing to do asks nobody: whoever is away is not back because of it.
#[test]
fn works_again_is_said_once_and_when_it_is_true() {
    let node = Setup::new().up("daemon_works_again");
    let (pods, [web, _]) = two_pods(&node);
    let daemon = Daemon::start(&node);
    let up = "ovs_up{server=\"ovsdb-server\"}";
    node.ovsdb.kill();
    eventually("it is down", || daemon.metric(up) == 0.0);
    node.kill_sandbox(&pods[1]);
    let failed = || {
        let metrics = daemon.metrics();
        let failed = |name: &&String| name.starts_with("sweeps_total") && name.contains("failed");
        metrics.keys().filter(failed).map(|name| metrics[name]).sum::<f64>()
    };
    eventually("it has failed", || failed() >= 1.0);
    // Sweeps for nobody's death, between those that try again.
    let idle = daemon.sum("sweeps_total") - failed();
    eventually("some sweeps have nothing to do", || {
        // Tries are ever further apart: events come in between.
        for _ in 0..10 {
            let other = format!("/run/netns/ofg-nobody-{}", std::process::id());
            fs::write(&other, "").unwrap();
            fs::remove_file(&other).unwrap();
            crate::rig::sleep_ms(50);
        }
        daemon.sum("sweeps_total") - failed() >= idle + 3.0
    });
    assert!(!daemon.log().contains("works again"), "{}", daemon.log());
    node.ovsdb.start();
    until(&node, &web);
    eventually("it says so", || daemon.log().contains("OVSDB: works again"));
    settle();
    assert_eq!(daemon.log().matches("OVSDB: works again").count(), 1, "{}", daemon.log());
    daemon.no_harm();
}

#[test]
fn ovs_is_not_there_at_the_start() {
    let node = Setup::new().up("daemon_no_ovs");
    let (pods, [web, _]) = two_pods(&node);
    node.vanish(&pods[1], Port::Gone);
    node.ovsdb.kill();
    let daemon = Daemon::start_with(&node, &["--interval=10m"], None);
    settle();
    let (status, why) = daemon.get("/readyz");
    assert_eq!((status, why.contains("OVS has not answered")), (503, true), "{why}");
    assert_eq!(daemon.get("/healthz").0, 200);
    node.ovsdb.start();
    until(&node, &web);
    eventually("it is ready", || daemon.get("/readyz").0 == 200);
    daemon.no_harm();
}

/// A rollout does not wait for an OVS that the node's pods do not use.
#[test]
fn a_node_without_a_network_needs_no_ovs() {
    let node = Setup::new().up("daemon_idle");
    node.ovsdb.kill();
    node.vswitchd.kill();
    let daemon = Daemon::start(&node);
    assert_eq!(daemon.metric("ovs_up{server=\"ovsdb-server\"}"), 0.0);
    daemon.no_harm();
}

/// A DEL that the plugin finished is no clean-up of the daemon's, and has no latency.
#[test]
fn a_del_before_the_start_is_no_sample() {
    let node = Setup::new().up("daemon_sample");
    let (pods, [web, _]) = two_pods(&node);
    node.del(&pods[1]);
    assert_eq!(node.dump("br0"), web);
    let daemon = Daemon::start_with(&node, &["--interval=1s"], None);
    eventually("it is ready", || daemon.get("/readyz").0 == 200);
    eventually("it has looked", || daemon.sum("sweeps_total") >= 4.0);
    assert_eq!(daemon.metric("cleanup_latency_seconds_count"), 0.0);
    node.vanish(&pods[0], Port::Stays);
    eventually("its own is one", || daemon.metric("cleanup_latency_seconds_count") == 1.0);
    daemon.no_harm();
}

/// Here nobody can say who they were: no result is cached, and marks name no container. (Where
/// that can be said: `sources/lost.rs`.)
#[test]
fn the_state_directory_is_removed_under_it() {
    let node = Setup::new().up("daemon_state_dir");
    let (pods, [web, db]) = two_pods(&node);
    let mut both = [web.clone(), db].concat();
    both.sort();
    let daemon = Daemon::start(&node);
    // It may be writing there right now.
    eventually("it is removed", || fs::remove_dir_all(&node.state_dir).is_ok());
    eventually("it is made again", || node.state_dir.join("daemon.lock").exists());
    eventually("it says so", || daemon.log().contains("was removed"));
    // Nobody knows them any more, so nobody deletes what is theirs.
    node.kill_sandbox(&pods[1]);
    settle();
    assert_eq!(node.dump("br0"), both);
    // New ones are cleaned up as ever.
    let cache = node.run_pod("cache");
    node.install("br0", &layouts::classifier(&cache.who(0x1003)));
    let of_cache = || {
        let mut left = node.dump("br0");
        left.retain(|flow| !both.contains(flow));
        left.len()
    };
    assert!(of_cache() > 4);
    node.vanish(&cache, Port::Gone);
    // Two name its register value, which is not proven to be its own, two its address alone,
    // which one of the others may have: theirs are not known any more.
    eventually("its other entries are gone", || of_cache() <= 4);
    // While a living pod shows where namespaces are, the dead one's port may be swept by its marks.
    let left = node.dump("br0");
    assert!(web.iter().all(|flow| left.contains(flow)), "{left:#?}");
    assert_eq!(daemon.get("/readyz").0, 200);
    daemon.no_harm();
}

#[test]
fn a_second_daemon_waits_and_takes_over() {
    let node = Setup::new().up("daemon_second");
    let (pods, [web, _]) = two_pods(&node);
    let first = Daemon::start(&node);
    let second = Daemon::start_with(&node, &["--interval=10m"], None);
    eventually("it says so", || second.log().contains("another daemon has the state directory"));
    assert_eq!((second.get("/healthz").0, second.get("/readyz").0), (200, 503));
    assert_eq!(first.end(Signal::SIGKILL).0, None);
    eventually("it takes over", || second.get("/readyz").0 == 200);
    node.vanish(&pods[1], Port::Stays);
    until(&node, &web);
    second.no_harm();
}

#[test]
fn what_died_while_it_was_away_is_found_at_its_start() {
    let node = Setup::new().up("daemon_away");
    let (pods, [web, _]) = two_pods(&node);
    let first = Daemon::start(&node);
    // Killed at any instruction: here while the switch hangs in the middle of a sweep.
    node.vswitchd.pause();
    node.kill_sandbox(&pods[1]);
    settle();
    first.end(Signal::SIGKILL);
    node.vswitchd.resume();
    let second = Daemon::start(&node);
    until(&node, &web);
    second.no_harm();
}

/// A netns directory that is not there yet, and one that only a record names.
#[test]
fn directories_that_come_later_are_watched() {
    let node = Setup::new().up("daemon_directories");
    let later = node.dir.join("later/netns");
    let dir = format!("--netns-dir={}", later.display());
    let daemon = Daemon::start_with(&node, &["--interval=10m", &dir], None);
    eventually("it is ready", || daemon.get("/readyz").0 == 200);
    fs::create_dir_all(&later).unwrap();
    eventually("it is watched", || daemon.log().contains("later/netns (Namespaces)"));
    // /run/netns was not named: the record does.
    let (pods, [web, _]) = two_pods(&node);
    eventually("the record's is watched", || daemon.log().contains("netns (Namespaces)"));
    node.kill_sandbox(&pods[1]);
    until(&node, &web);
    fs::remove_dir_all(&later).unwrap();
    fs::create_dir_all(&later).unwrap();
    let times = |daemon: &Daemon| daemon.log().matches("later/netns (Namespaces)").count();
    eventually("and watched again", || times(&daemon) >= 2);
    daemon.no_harm();
}
