//! Whom nothing is delivered for.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::json;

use super::*;

/// Not one plugin is called, and why.
#[track_caller]
fn left_alone(node: &Node, pod: &Attached, args: &[&str], why: &str) {
    let (calls, before) = (node.calls().len(), left(node, pod));
    let outcome = deliver(node, args);
    let (state, said) = state(&outcome);
    assert_eq!(state, "left", "{outcome}");
    assert!(said.contains(why), "{said:?} is not {why:?}");
    assert_eq!((node.calls().len(), left(node, pod)), (calls, before), "{outcome}");
}

#[test]
fn pause_observe_the_runtime_and_drop_ins_stand_against_it() {
    let node = node("deliver_guards");
    let dead = run_pod(&node, "dead");
    node.vanish(&dead, Port::Stays);

    node.admin(&["pause"]).ok();
    let paused = deliver(&node, &[]);
    assert_eq!((paused.code, paused.stdout.as_str()), (Some(3), ""), "{paused}");
    assert!(paused.stderr.contains("nothing on this node is deleted"), "{paused}");
    node.admin(&["resume"]).ok();

    let sandbox = node.dir.join("sandboxes").join(&dead.container);
    fs::create_dir_all(&sandbox).unwrap();
    left_alone(&node, &dead, &[], "the runtime knows its sandbox");
    fs::remove_dir(&sandbox).unwrap();

    let drop_in = node.dir.join("etc/cni/net.d/podnet");
    fs::create_dir(&drop_in).unwrap();
    fs::write(drop_in.join("more.conf"), "{\"type\": \"more\"}").unwrap();
    left_alone(&node, &dead, &[], "plugins in files of their own");
    fs::remove_dir_all(&drop_in).unwrap();

    let mut observed = node.conflist();
    observed["plugins"][1]["mode"] = json!("observe");
    let enforced = node.conflist();
    node.set_conflist(observed);
    write_cached(&results(&node), &cached(&node, &dead));
    left_alone(&node, &dead, &[], "observe");
    node.set_conflist(enforced);
    write_cached(&results(&node), &cached(&node, &dead));

    node.ovsdb.stop();
    let outcome = deliver(&node, &[]);
    assert!(state(&outcome).1.contains("db.sock"), "{outcome}");
    node.ovsdb.start();
    assert_eq!(state(&deliver(&node, &[])).0, "delivered");
    assert_eq!(left(&node, &dead), [0, 0, 0, 0]);
}

#[test]
fn what_the_living_hold_is_not_given_back() {
    let node = node("deliver_living");
    let (dead, live) = (run_pod(&node, "dead"), run_pod(&node, "live"));
    node.vanish(&dead, Port::Stays);
    let good = cached(&node, &dead);

    // A record's address, though the cached result of the living is lost.
    let lives = results(&node).join(format!("podnet-{}-eth0", live.container));
    let text = fs::read(&lives).unwrap();
    fs::remove_file(&lives).unwrap();
    let mut with_address = good.clone();
    with_address["result"]["ips"] = live.result["ips"].clone();
    write_cached(&results(&node), &with_address);
    left_alone(&node, &dead, &[], &format!("{} is podnet/", live.ip));
    // A record's port.
    let mut with_port = good.clone();
    with_port["result"]["interfaces"][0]["name"] = json!(live.port);
    write_cached(&results(&node), &with_port);
    left_alone(&node, &dead, &[], &format!("{} is podnet/", live.port));

    // Neither records nor sweeps know the living one: its cached result, and its marks.
    fs::write(&lives, text).unwrap();
    let records = node.state_dir.join("podnet");
    let record = records.join(format!("{}:eth0.json", live.container));
    fs::remove_file(record).unwrap();
    write_cached(&results(&node), &with_address);
    left_alone(&node, &dead, &["--yes"], &format!("{} is podnet/", live.ip));
    write_cached(&results(&node), &with_port);
    left_alone(&node, &dead, &["--yes"], "is marked as another's");
    // Another network's cached result of the same interface.
    write_cached(&results(&node), &good);
    let mut other = good.clone();
    other["networkName"] = json!("other");
    other["netns"] = json!(live.netns_path());
    let other = write_cached(&results(&node), &other);
    left_alone(&node, &dead, &["--yes"], "has its container id and interface");
    fs::remove_file(other).unwrap();

    assert_eq!(state(&deliver(&node, &["--yes"])).0, "delivered");
    assert_eq!(left(&node, &dead), [0, 0, 0, 0]);
    assert_eq!(left(&node, &live), [1, 1, 2, 1]);
}

/// What a plugin does in its DEL may make the address another pod's: the plugins before it are not
/// called any more.
#[test]
fn an_address_that_changes_hands_during_the_delivery_is_not_given_back() {
    let node = node("deliver_hands");
    let live = run_pod(&node, "live");
    let record = node.state_dir.join(format!("podnet/{}:eth0.json", live.container));
    let lives = results(&node).join(format!("podnet-{}-eth0", live.container));
    let mut with_hook = node.conflist();
    with_hook["plugins"].as_array_mut().unwrap().push(json!({"type": "hook"}));
    for (n, whose) in ["cached", "recorded", "marked"].into_iter().enumerate() {
        let dead = run_pod_of(&node, whose, &with_hook);
        let before = [fs::read_to_string(&record).unwrap(), fs::read_to_string(&lives).unwrap()];
        // The living one now has the dead one's IPv4 address.
        let [_, cached] = before.each_ref().map(|text| text.replace(&live.ip, &dead.ip));
        let kept = node.dir.join(format!("hands-{n}"));
        let script = match whose {
            "marked" => {
                let marks = format!("sandbox=x ip={}", dead.ip).replace(' ', " external_ids:");
                format!(
                    "ovs-vsctl clear port {0} external_ids -- set interface {0} external_ids:{marks}",
                    live.port
                )
            }
            "cached" => {
                fs::write(&kept, cached).unwrap();
                format!("cp {} {}", kept.display(), lives.display())
            }
            _ => {
                fs::write(&kept, before[0].replace(&live.ip, &dead.ip)).unwrap();
                format!("cp {} {}", kept.display(), record.display())
            }
        };
        node.script_plugin("hook", &script);
        node.vanish(&dead, Port::Stays);
        let outcome = deliver(&node, &[]);
        let (became, why) = state(&outcome);
        assert_eq!(became, "left", "{whose}: {outcome}");
        let says = if whose == "marked" {
            "marked as another's"
        } else {
            &format!("{} is podnet/", dead.ip)
        };
        assert!(why.contains(says), "{whose}: {outcome}");
        assert_eq!(outcome.json()["dead"][0]["plugins"], json!(["hook"]), "{whose}");
        assert_eq!(left(&node, &dead), [1, 0, 2, 1], "{whose}");

        fs::write(&record, &before[0]).unwrap();
        fs::write(&lives, &before[1]).unwrap();
        node.script_plugin("hook", "exit 0");
        if whose != "marked" {
            assert_eq!(state(&deliver(&node, &[])).0, "delivered");
        }
    }
    assert_eq!(left(&node, &live), [1, 1, 2, 1]);
}

#[test]
fn a_path_of_a_process_or_that_is_there_again_is_left_alone() {
    let node = node("deliver_paths");
    let dead = run_pod(&node, "dead");
    let live = run_pod(&node, "live");
    node.vanish(&dead, Port::Stays);
    let mut by_process = cached(&node, &dead);
    by_process["result"]["interfaces"][1]["sandbox"] = json!("/proc/1/ns/net");
    write_cached(&results(&node), &by_process);
    let outcome = deliver(&node, &[]);
    assert!(outcome.json()["unknown"][0].as_str().unwrap().contains("/proc/1/ns/net"), "{outcome}");

    write_cached(&results(&node), &cached(&node, &dead));
    node.run("ip", &["netns", "add", &dead.netns]).ok();
    let outcome = deliver(&node, &[]);
    assert!(outcome.json()["unknown"][0].as_str().unwrap().ends_with("is there"), "{outcome}");
    assert_eq!(left(&node, &dead), [1, 0, 2, 1]);
    node.run("ip", &["netns", "del", &dead.netns]).ok();
    assert_eq!(state(&deliver(&node, &[])).0, "delivered");
    assert_eq!(left(&node, &live), [1, 1, 2, 1]);
}

/// Many without a record: the brake, unless an operator says so.
#[test]
fn many_without_a_record_need_a_persons_word() {
    let node = node("deliver_brake");
    let live = run_pod(&node, "live");
    let dead: Vec<_> = (0..12).map(|n| run_pod(&node, &format!("p{n}"))).collect();
    for pod in &dead {
        node.vanish(pod, Port::Stays);
        let record = format!("podnet/{}:eth0.json", pod.container);
        fs::remove_file(node.state_dir.join(record)).unwrap();
    }
    let held = deliver(&node, &[]);
    assert!(
        states(&held).iter().all(|(state, why)| state == "left" && why.contains("--yes")),
        "{held}"
    );
    assert_eq!(states(&held).len(), 12);
    let delivered = deliver(&node, &["--yes"]);
    assert!(states(&delivered).iter().all(|(state, _)| state == "delivered"), "{delivered}");
    for pod in &dead {
        assert_eq!(left(&node, pod), [0, 0, 0, 0]);
    }
    assert_eq!(left(&node, &live), [1, 1, 2, 1]);
}

/// The sweep's own brake counts, too: whoever is not swept is not delivered.
#[test]
fn whom_the_sweep_holds_back_is_not_delivered() {
    let node = node("deliver_swept");
    let dead: Vec<_> = (0..11).map(|n| run_pod(&node, &format!("p{n}"))).collect();
    for pod in &dead {
        node.vanish(pod, Port::Stays);
    }
    for args in [&["--dry-run"][..], &[]] {
        let held = deliver(&node, args);
        let found = held.json();
        let unknown = found["unknown"].as_array().unwrap();
        assert_eq!((unknown.len(), states(&held).len()), (11, 0), "{held}");
        assert!(unknown[0].as_str().unwrap().contains("no sweep has called it dead"), "{held}");
    }
    assert_eq!(left(&node, &dead[0]), [1, 0, 2, 1]);
    node.admin(&["sweep", "--yes"]).ok();
    let delivered = deliver(&node, &[]);
    assert_eq!(states(&delivered).len(), 11, "{delivered}");
    assert!(states(&delivered).iter().all(|(state, _)| state == "delivered"), "{delivered}");
}

/// A runtime's own DEL at the same moment: whoever comes first, nothing is left and nobody fails.
#[test]
fn a_runtimes_own_del_at_the_same_moment_is_harmless() {
    let node = node("deliver_race");
    let live = run_pod(&node, "live");
    for round in 0..6 {
        let dead: Vec<_> = (0..3).map(|n| run_pod(&node, &format!("p{round}-{n}"))).collect();
        dead.iter().for_each(|pod| node.vanish(pod, Port::Stays));
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let outcome = deliver(&node, &[]);
                    assert!(
                        states(&outcome).iter().all(|(state, _)| state != "failed"),
                        "{outcome}"
                    );
                }
            });
            for pod in &dead {
                // As libcni: the chain, then the cached result.
                node.try_del(pod).unwrap_or_else(|failed| panic!("the runtime's DEL: {failed}"));
                let _ = fs::remove_file(
                    results(&node).join(format!("podnet-{}-{}", pod.container, pod.ifname)),
                );
            }
            stop.store(true, Ordering::Relaxed);
        });
        for pod in &dead {
            assert_eq!(left(&node, pod), [0, 0, 0, 0], "round {round}");
        }
    }
    assert_eq!(left(&node, &live), [1, 1, 2, 1]);
}

#[test]
fn two_runtimes_caches_side_by_side() {
    let node = node("deliver_two");
    let (a, b, live) = (run_pod(&node, "a"), node.run_pod("b"), run_pod(&node, "live"));
    let other = node.dir.join("other/results");
    let of_b = write_cached(&other, &cached(&node, &b));
    node.vanish(&a, Port::Stays);
    node.vanish(&b, Port::Stays);
    let (own, other) = (results(&node).display().to_string(), other.display().to_string());
    let delivered = deliver(&node, &["--cache-dir", &own, "--cache-dir", &other]);
    assert_eq!(states(&delivered).len(), 2, "{delivered}");
    assert_eq!(left(&node, &a), [0, 0, 0, 0]);
    assert_eq!((left(&node, &b), of_b.exists()), ([0, 0, 0, 0], false));
    assert_eq!(left(&node, &live), [1, 1, 2, 1]);
}
