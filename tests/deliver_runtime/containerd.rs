//! What a real containerd leaves: killed before it saved the result of an ADD, its state wiped, its
//! conflist changed since.

use nix::sys::signal::Signal;

use super::*;
use crate::rig::{Port, Runtime, eventually};

/// containerd's own directory of sandboxes.
fn of_containerd(runtime: &Runtime<'_>) -> String {
    let sandboxes = runtime.socket().with_file_name("root/io.containerd.grpc.v1.cri/sandboxes");
    format!("--runtime-dir={}", at(sandboxes))
}

fn deliver(node: &Node, args: &[&str]) -> Outcome {
    let args = arguments(node, args);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    node.start_admin(&args).wait_for(std::time::Duration::from_secs(120))
}

fn states(outcome: &Outcome) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let found = outcome.json();
    let dead = found["dead"].as_array().unwrap_or_else(|| panic!("{outcome}")).iter();
    let mut states: Vec<_> =
        dead.map(|one| (text(&one["containerID"]), text(&one["state"]))).collect();
    states.sort();
    states
}

/// The configuration that counts is the one of the ADD.
#[test]
fn a_wiped_containerds_sandboxes_are_delivered_by_the_chain_of_their_add() {
    let node = node("deliver_wiped");
    let (old, new) = (node.dir.join("old-called"), node.dir.join("new-called"));
    // libcni's JSON has its keys in order.
    let answer = "test \"$CNI_COMMAND\" = DEL || \
                  exec sed 's/.*\"prevResult\":\\({.*}\\),\"type\".*/\\1/'";
    for (name, called) in [("old", &old), ("new", &new)] {
        let note = format!("echo $CNI_COMMAND $CNI_CONTAINERID >> {}\n{answer}", called.display());
        node.script_plugin(name, &note);
    }
    let with = |name: &str| {
        let mut conflist = node.conflist();
        conflist["plugins"].as_array_mut().unwrap().truncate(2);
        conflist["plugins"].as_array_mut().unwrap().push(json!({"type": name}));
        node.set_conflist(conflist);
    };
    let live = node.run_pod("live");
    with("old");
    let mut runtime = Runtime::start(&node);
    let (dead, stays) = (runtime.run_sandbox("dead"), runtime.run_sandbox("stays"));
    with("new");
    let own = of_containerd(&runtime);

    // Its process and its namespace are gone: containerd knows it, and will call DEL.
    runtime.kill_pause(&dead);
    dead.delete_netns();
    let known = deliver(&node, &[&own]);
    assert_eq!(states(&known), [(dead.id.clone(), "left".to_owned())], "{known}");
    assert!(known.stdout.contains("the runtime knows its sandbox"), "{known}");

    runtime.stop();
    runtime.wipe_state();
    runtime.start_again();
    runtime.answers();
    let delivered = deliver(&node, &[&own]);
    assert_eq!(states(&delivered), [(dead.id.clone(), "delivered".to_owned())], "{delivered}");
    let plugins = json!(["old", "ovs-flow-gc", "ovs-test-cni"]);
    assert_eq!(delivered.json()["dead"][0]["plugins"], plugins);
    let called = fs::read_to_string(&old).unwrap();
    assert!(called.ends_with(&format!("DEL {}\n", dead.id)), "{called}");
    assert!(!fs::read_to_string(&new).unwrap_or_default().contains("DEL"));
    // The wiped one's other sandbox runs on.
    let mut living = [live.container.clone(), stays.id.clone()];
    living.sort();
    assert_eq!(lease_holders(&node), living);
    assert_eq!(node.ports("br0").len(), 2);

    runtime_forgot(&node, &stays, &own);
    assert_eq!(lease_holders(&node), std::slice::from_ref(&live.container));
    node.vanish(&live, Port::Gone);
}

/// It ends later, and nobody calls DEL for it.
#[track_caller]
fn runtime_forgot(node: &Node, stays: &crate::rig::Sandbox, own: &str) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(stays.pid), Signal::SIGKILL).unwrap();
    stays.delete_netns();
    let delivered = deliver(node, &[own]);
    assert_eq!(states(&delivered), [(stays.id.clone(), "delivered".to_owned())], "{delivered}");
}

/// The chain has run, and nothing was saved: there is no DEL to deliver. GC is for that lease.
#[test]
fn killed_between_add_and_saving_its_result() {
    let node = node("deliver_unsaved");
    let hold = node.dir.join("hold");
    let slow = format!(
        "conf=$(cat); [ \"$CNI_COMMAND\" = ADD ] || exit 0; touch {0}; \
         while [ -e {0} ]; do sleep 0.05; done; \
         echo \"$conf\" | sed 's/.*\"prevResult\"://; s/}}$//'",
        hold.display()
    );
    let mut runtime = Runtime::start(&node);
    let live = runtime.run_sandbox("live");
    node.script_plugin("slow", &slow);
    let before = node.conflist();
    let mut conflist = before.clone();
    conflist["plugins"].as_array_mut().unwrap().push(json!({"type": "slow"}));
    node.set_conflist(conflist);
    let own = of_containerd(&runtime);
    std::thread::scope(|scope| {
        let failed = scope.spawn(|| runtime.try_run_sandbox("unsaved").is_err());
        eventually("the chain has come to its last plugin", || hold.exists());
        runtime.signal(Signal::SIGKILL);
        assert!(failed.join().unwrap());
    });
    fs::remove_file(&hold).unwrap();
    node.set_conflist(before);
    let holders = lease_holders(&node);
    assert_eq!(holders.len(), 2, "{holders:?}");
    let unsaved = holders.iter().find(|id| **id != live.id).unwrap();
    runtime.end_killed();
    runtime.start_again();
    // What containerd had of it until then is a container without a process.
    runtime.ctr(&["--namespace", "k8s.io", "containers", "rm", unsaved]).ok();
    runtime.stop();
    runtime.start_again();
    runtime.answers();

    // Its namespace is still there. Afterwards a sweep finds it dead, and there is no cached result.
    let list = node.admin(&["list", "--no-flows", "--json"]).json();
    let rows = list.as_array().unwrap();
    let record = rows.iter().find(|row| row["containerID"] == unsaved.as_str()).unwrap();
    let netns = record["netns"]["path"].as_str().unwrap().to_owned();
    let nothing = deliver(&node, &[&own]);
    assert_eq!(states(&nothing), [], "{nothing}");
    node.run("ip", &["netns", "del", netns.rsplit('/').next().unwrap()]).ok();
    let nothing = deliver(&node, &[&own]);
    assert_eq!(states(&nothing), [], "{nothing}");
    assert_eq!(lease_holders(&node), holders);

    let ipam = at(node.dir.join("ipam/podnet"));
    node.script_plugin("collects", &gc::collects(&ipam));
    gc::of_1_1(&node, &["collects"]);
    let socket = format!("--cri-socket={}", at(runtime.socket()));
    let daemon = crate::gcd::Daemon::start_with(&node, &["--liveness=netns,cri", &socket], None);
    eventually("the runtime answers", || daemon.metric("source_up{source=\"cri\"}") == 1.0);
    let name = live.netns.file_name().unwrap().to_string_lossy().into_owned();
    // containerd's cached result of its loopback is still there. That its namespace is gone nothing
    // shows in a `/run` that is another one than at the ADDs, and a person's word does not, either.
    let names = [name];
    for more in [None, Some("--yes")] {
        let args: Vec<&str> = ["--gc", own.as_str()].into_iter().chain(more).collect();
        let outcome = gc::alone(&node, "", &names, &args);
        assert_eq!(collected(&outcome)["state"], "collected", "{outcome}");
        assert_eq!(lease_holders(&node), holders, "{outcome}");
    }
    let caches = fs::read_dir(node.dir.join("var-lib/cni/results")).unwrap();
    let cached: Vec<_> = caches.map(|entry| entry.unwrap().path()).collect();
    let loopback =
        cached.iter().find(|path| path.to_string_lossy().contains(unsaved.as_str())).unwrap();
    fs::remove_file(loopback).unwrap();
    let outcome = gc::alone(&node, "", &names, &["--gc", &own]);
    assert_eq!(collected(&outcome)["state"], "collected", "{outcome}");
    assert_eq!(lease_holders(&node), std::slice::from_ref(&live.id), "{outcome}");
}
