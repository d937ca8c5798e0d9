//! `deliver`: a dead pod's row, veth, lease and cached result go, by the plugins of its own chain:
//! Debian's host-local and tuning, the tests' OVS CNI and ours. What a runtime caches is written
//! here as libcni writes it.

mod bad_plugins;
mod churn;
mod figures;
mod guards;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::rig::{Attached, Node, Outcome, Pod, Port, Setup, layouts};

/// A node with a chain of three plugins.
pub(crate) fn node(test: &str) -> Node {
    let node = Setup::new().gc_conf(json!({"lingerSeconds": 0})).up(test);
    let mut conflist = node.conflist();
    conflist["plugins"].as_array_mut().unwrap().push(json!({"type": "tuning"}));
    node.set_conflist(conflist);
    node
}

pub(crate) fn results(node: &Node) -> PathBuf {
    node.dir.join("var-lib/cni/results")
}

/// What libcni caches after the whole chain's ADD.
pub(crate) fn cached(node: &Node, pod: &Attached) -> Value {
    let text = node.dir.join(format!("config-{}", pod.container));
    fs::write(&text, node.conflist().to_string()).unwrap();
    let encoded = Command::new("base64").arg("-w0").arg(&text).output().unwrap().stdout;
    fs::remove_file(text).unwrap();
    let args = pod.args();
    let args: Vec<_> = args.split(';').filter_map(|arg| arg.split_once('=')).collect();
    json!({
        "kind": "cniCacheV1",
        "containerId": pod.container,
        "config": String::from_utf8(encoded).unwrap(),
        "ifName": pod.ifname,
        "networkName": node.conflist()["name"],
        "netns": pod.netns_path(),
        "cniArgs": args,
        "result": pod.result,
    })
}

pub(crate) fn write_cached(dir: &Path, cached: &Value) -> PathBuf {
    fs::create_dir_all(dir).unwrap();
    let part = |name: &str| cached[name].as_str().unwrap().to_owned();
    let name = [part("networkName"), part("containerId"), part("ifName")].join("-");
    fs::write(dir.join(&name), cached.to_string()).unwrap();
    dir.join(name)
}

/// A pod that a runtime started: its result is cached.
pub(crate) fn run_pod(node: &Node, name: &str) -> Attached {
    let pod = node.run_pod(name);
    write_cached(&results(node), &cached(node, &pod));
    pod
}

pub(crate) fn deliver(node: &Node, args: &[&str]) -> Outcome {
    let at = |path: PathBuf| path.display().to_string();
    let (cache, net, bin) =
        (at(results(node)), at(node.dir.join("etc/cni/net.d")), at(node.cni_bin()));
    let runtime = at(node.dir.join("sandboxes"));
    let common =
        ["deliver", "--json", "--cache-dir", &cache, "--net-dir", &net, "--cni-path", &bin];
    let all = [&common, &["--runtime-dir", &runtime][..], args].concat();
    // Some tests have many pods, each with the processes of a chain.
    node.start_admin(&all).wait_for(std::time::Duration::from_secs(240))
}

/// Each dead pod's state and why, by container.
pub(crate) fn states(outcome: &Outcome) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let found = outcome.json();
    let dead = found["dead"].as_array().unwrap_or_else(|| panic!("{outcome}")).iter();
    dead.map(|one| (text(&one["state"]), text(&one["error"]))).collect()
}

/// The one dead pod's state, and why it is left or failed.
#[track_caller]
pub(crate) fn state(outcome: &Outcome) -> (String, String) {
    let mut states = states(outcome);
    assert_eq!(states.len(), 1, "{outcome}");
    states.remove(0)
}

/// What is left of a pod: row, veth, leases, cached result.
pub(crate) fn left(node: &Node, pod: &Attached) -> [usize; 4] {
    let row = node.ports("br0").contains(&pod.port);
    let veth = node.run("ip", &["link", "show", &pod.port]).succeeded();
    let cached = results(node).join(format!("podnet-{}-{}", pod.container, pod.ifname));
    [usize::from(row), usize::from(veth), leases(node, pod), usize::from(cached.exists())]
}

fn leases(node: &Node, pod: &Pod) -> usize {
    let files = fs::read_dir(node.dir.join("ipam/podnet")).unwrap().flatten();
    let texts = files.filter_map(|file| fs::read_to_string(file.path()).ok());
    texts.filter(|text| text.starts_with(&pod.container)).count()
}

#[test]
fn all_that_a_dead_pod_left_goes_and_the_living_keep_theirs() {
    let node = node("deliver_all");
    let base = node.install("br0", &layouts::classifier_base());
    let (dead, live) = (run_pod(&node, "dead"), run_pod(&node, "live"));
    node.install("br0", &layouts::classifier(&dead.who(0x1001)));
    let lives = node.install("br0", &layouts::classifier(&live.who(0x1002)));
    assert_eq!(left(&node, &dead), [1, 1, 2, 1]);
    assert_eq!(deliver(&node, &[]).json()["dead"], json!([]), "both live");

    let cache = results(&node).display().to_string();
    let status = || node.admin(&["status", "--cache-dir", &cache]).stdout;
    assert!(!status().contains("deliver "), "{}", status());
    node.vanish(&dead, Port::Stays);
    let told = "dead pods left 1 cached result, 2 leases, and 1 port row";
    assert!(status().contains(told), "{}", status());
    let doctor = node.admin(&["doctor", "--cache-dir", &cache]).stdout;
    let line = doctor.lines().find(|line| line.contains("leftovers")).unwrap();
    assert!(line.starts_with("note") && line.contains(told), "{doctor}");
    assert!(line.ends_with("ovs-flow-gc deliver --dry-run"), "{doctor}");
    let dry = deliver(&node, &["--dry-run"]);
    assert_eq!(state(&dry).0, "due", "{dry}");
    assert_eq!(dry.json()["dead"][0]["plugins"], json!(["tuning", "ovs-flow-gc", "ovs-test-cni"]));
    assert_eq!(left(&node, &dead), [1, 0, 2, 1], "nothing is changed");
    for typo in [&["--network", "other"][..], &["zzz"], &["--network", "podnet", "zzz"]] {
        let nobody = deliver(&node, typo);
        assert_eq!(nobody.code, Some(1), "{nobody}");
        assert!(nobody.stderr.contains("no cached result matches"), "{nobody}");
    }

    let delivered = deliver(&node, &[]);
    assert_eq!(
        (delivered.code, state(&delivered).0.as_str()),
        (Some(0), "delivered"),
        "{delivered}"
    );
    assert_eq!(left(&node, &dead), [0, 0, 0, 0]);
    assert_eq!(left(&node, &live), [1, 1, 2, 1]);
    let mut all = [base, lives].concat();
    all.sort();
    assert_eq!(node.dump("br0"), all);
    let calls = node.calls();
    let del = format!("DEL {} eth0 \"\"", dead.container);
    assert_eq!(calls.iter().filter(|call| call.starts_with("DEL")).collect::<Vec<_>>(), [&del]);
    assert_eq!(deliver(&node, &[]).json()["dead"], json!([]), "nothing is left to do");
    assert_eq!(deliver(&node, &["--network", "podnet"]).json()["dead"], json!([]));
    assert!(!status().contains("dead pods left"), "{}", status());
}

/// Whoever a sweep finds dead while deliveries are on is delivered though its tombstone is gone by
/// then, and nobody lives who could show its directory.
/// As `explain` and the page of commands: a whole name is nobody else's beginning.
#[test]
fn a_whole_name_asks_for_one_pod() {
    let node = node("deliver_whole_name");
    let [web, other] = ["web", "web-1"].map(|name| {
        let pod = node.add(&Pod { name: name.to_owned(), ..node.pod(name) });
        write_cached(&results(&node), &cached(&node, &pod));
        pod
    });
    node.vanish(&other, Port::Stays);
    let due = |who: &str| states(&deliver(&node, &["--dry-run", who])).len();
    assert_eq!([due("web"), due("we"), due("web-1")], [0, 1, 1], "web lives");
    node.vanish(&web, Port::Stays);
    assert_eq!([due("web"), due("default/web"), due("we"), due(&other.container)], [1, 1, 2, 1]);
}

#[test]
fn what_sweeps_found_dead_is_not_forgotten() {
    let node = node("deliver_notes");
    let (a, b) = (run_pod(&node, "a"), run_pod(&node, "b"));
    deliver(&node, &[]).ok();
    node.vanish(&a, Port::Stays);
    node.vanish(&b, Port::Stays);
    node.admin(&["sweep"]).ok();
    let wanted = node.state_dir.join("_deliver/_wanted");
    assert!(wanted.exists(), "the path unit would start");
    let list = node.admin(&["list", "--no-flows", "--json"]).json();
    assert_eq!(list, json!([]), "no tombstone is left");
    let delivered = deliver(&node, &[]);
    assert_eq!(states(&delivered).len(), 2, "{delivered}");
    assert_eq!(left(&node, &a), [0, 0, 0, 0], "{delivered}");
    assert_eq!(left(&node, &b), [0, 0, 0, 0]);
    assert!(!wanted.exists());
    let notes = fs::read_dir(node.state_dir.join("_deliver")).unwrap().flatten();
    let is_note = |n: &fs::DirEntry| !n.file_name().to_str().unwrap().starts_with('_');
    assert_eq!(notes.filter(is_note).count(), 0);
}

/// A delivery that ends with an error goes on where it ended.
#[test]
fn after_an_error_the_next_run_goes_on_where_it_ended() {
    let node = node("deliver_resume");
    let mut conflist = node.conflist();
    conflist["plugins"].as_array_mut().unwrap()[2] = json!({"type": "counts"});
    conflist["plugins"].as_array_mut().unwrap().insert(0, json!({"type": "fails"}));
    let counts = node.dir.join("counted");
    let answer = "test \"$CNI_COMMAND\" = DEL || exec sed 's/.*\"prevResult\":\\({.*}\\)}$/\\1/'";
    node.script_plugin("counts", &format!("echo x >> {}\n{answer}", counts.display()));
    let dead = run_pod_of(&node, "dead", &conflist);
    node.vanish(&dead, Port::Stays);

    let gone = deliver(&node, &[]);
    assert_eq!(state(&gone).0, "failed", "{gone}");
    assert!(state(&gone).1.starts_with("fails: is not in /"), "{gone}");
    assert_eq!((gone.code, left(&node, &dead)), (Some(3), [0, 0, 0, 1]));
    node.script_plugin("fails", "echo '{\"code\": 11, \"msg\": \"try again\"}'; exit 1");
    let failed = deliver(&node, &[]);
    assert_eq!(state(&failed).1, "fails: exit status: 1: try again");
    let note = node.state_dir.join("_deliver").join(format!("podnet-{}-eth0", dead.container));
    let note: Value = serde_json::from_slice(&fs::read(note).unwrap()).unwrap();
    assert_eq!(note["answered"], json!(["counts", "ovs-flow-gc", "ovs-test-cni"]), "{note}");
    assert_eq!(note["attempts"], 2);
    node.script_plugin("fails", "exit 0");
    let delivered = deliver(&node, &[]);
    assert_eq!(delivered.json()["dead"][0]["plugins"], json!(["fails"]), "{delivered}");
    assert_eq!(left(&node, &dead), [0, 0, 0, 0]);
    assert_eq!(fs::read_to_string(counts).unwrap().lines().count(), 1, "called once");
}

/// Numbers for the daemon, and an entry of the journal that `undo` refuses.
#[test]
fn what_was_delivered_is_written_down() {
    let node = node("deliver_told");
    let base = node.install("br0", &layouts::classifier_base());
    let mut conflist = node.conflist();
    conflist["plugins"].as_array_mut().unwrap().insert(0, json!({"type": "fails"}));
    let (dead, fails) = (run_pod(&node, "dead"), run_pod_of(&node, "fails", &conflist));
    let live = run_pod(&node, "live");
    let its = node.install("br0", &layouts::classifier(&dead.who(0x1001)));
    let lives = node.install("br0", &layouts::classifier(&live.who(0x1002)));
    node.vanish(&dead, Port::Stays);
    node.vanish(&fails, Port::Stays);
    deliver(&node, &["--dry-run"]);
    let notes = ovs_flow_gc::store::Registry::open(&node.state_dir).unwrap().deliveries();
    assert_eq!(notes.log(), ovs_flow_gc::store::DeliveryLog::default(), "a dry run");
    assert_eq!(deliver(&node, &[]).code, Some(3));

    let log = notes.log();
    let calls = |plugin: &str| {
        let answers = log.calls["DEL"].get(plugin).copied().unwrap_or_default();
        (answers.answered, answers.failed)
    };
    assert_eq!((calls("tuning"), calls("fails")), ((2, 0), (0, 1)), "{log:?}");
    let kinds = [("cached-results", 1), ("leases", 0), ("port-rows", 0)];
    let kinds = kinds.map(|(kind, number)| (kind.to_owned(), number));
    assert_eq!(log.leftovers, kinds.into_iter().collect());
    let delivered: Vec<&str> = log.delivered.iter().map(|one| one.pod.name.as_str()).collect();
    assert_eq!(delivered, [dead.name.as_str()]);
    assert_eq!(log.delivered[0].plugins, ["tuning", "ovs-flow-gc", "ovs-test-cni"]);

    let list = node.admin(&["undo", "--list", "--json"]).json();
    let operations = list.as_array().unwrap();
    let [delivery] = &operations.iter().filter(|o| o["verb"] == "deliver").collect::<Vec<_>>()[..]
    else {
        panic!("{list:#}");
    };
    assert_eq!(delivery["state"], "cannot be undone");
    let reason = delivery["reason"].as_str().unwrap();
    for part in
        [&format!("/{} delivered (tuning,ovs-flow-gc,ovs-test-cni)", dead.name), "fails: is not in"]
    {
        assert!(reason.contains(part), "{reason}");
    }
    let refused = node.admin(&["undo", delivery["id"].as_str().unwrap()]);
    assert!(refused.code == Some(1) && refused.stderr.contains("is a delivery"), "{refused}");
    // The latest that can be undone is what the sweep before it deleted.
    node.admin(&["undo"]).ok();
    let mut all = [base, its, lives].concat();
    all.sort();
    assert_eq!(node.dump("br0"), all);
}

/// A pod whose ADD went through the node's chain and whose cached configuration is another one.
pub(crate) fn run_pod_of(node: &Node, name: &str, conflist: &Value) -> Attached {
    let pod = node.run_pod(name);
    let before = node.conflist();
    node.set_conflist(conflist.clone());
    let cached = cached(node, &pod);
    node.set_conflist(before);
    write_cached(&results(node), &cached);
    pod
}

/// Results of another boot are found from the caches alone; what lives is left alone.
#[test]
fn after_a_reboot_the_caches_of_the_boot_before_go() {
    let node = node("deliver_reboot");
    let (dead, live) = (run_pod(&node, "dead"), run_pod(&node, "live"));
    node.vanish(&dead, Port::Stays);
    let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    for file in fs::read_dir(results(&node)).unwrap().flatten() {
        fs::File::options().write(true).open(file.path()).unwrap().set_modified(old).unwrap();
    }
    // The state is on tmpfs.
    fs::remove_dir_all(&node.state_dir).unwrap();
    let delivered = deliver(&node, &[]);
    assert_eq!(state(&delivered).0, "delivered", "{delivered}");
    assert_eq!(left(&node, &dead), [0, 0, 0, 0]);
    assert_eq!(left(&node, &live), [1, 1, 2, 1]);
}

/// In a cluster: a container of its own that enters the node. Here the node is a process namespace,
/// and the container has an empty directory where the node has its cached results.
#[test]
fn a_container_delivers_in_the_mounts_of_the_node() {
    let node = node("deliver_container");
    let (dead, live) = (run_pod(&node, "dead"), run_pod(&node, "live"));
    deliver(&node, &[]).ok();
    node.vanish(&dead, Port::Stays);
    let at = |path: PathBuf| path.display().to_string();
    let (cache, bin) = (at(results(&node)), at(node.cni_bin()));
    let command = format!(
        "{bin}/ovs-flow-gc deliver --json --cache-dir {cache} --cni-path {bin} --net-dir /nonexistent \
         --runtime-dir /nonexistent --state-dir {}",
        at(node.state_dir.clone())
    );
    let inside = |options: &str| {
        let script = format!(
            "unshare --mount sh -c 'mount -t tmpfs none {cache} && exec {command} {options}'; exit $?"
        );
        node.run("unshare", &["--pid", "--fork", "--mount-proc", "sh", "-c", &script])
    };
    assert_eq!(inside("").json()["dead"], json!([]), "it sees no cached result");
    let delivered = inside("--node");
    assert_eq!(state(&delivered).0, "delivered", "{delivered}");
    assert_eq!(left(&node, &dead), [0; 4]);
    assert_eq!(left(&node, &live), [1, 1, 2, 1]);
    let script = format!("{command} --node; exit $?");
    let same = node.run("unshare", &["--pid", "--fork", "--mount-proc", "sh", "-c", &script]);
    assert!(same.code == Some(1) && same.stderr.contains("hostPID"), "{same}");
}

/// `--every` delivers again as soon as a sweep has found somebody dead.
#[test]
fn a_delivery_that_runs_on_is_woken_by_a_sweep() {
    let node = node("deliver_every");
    let (dead, live) = (run_pod(&node, "dead"), run_pod(&node, "live"));
    let at = |path: PathBuf| path.display().to_string();
    let (cache, bin) = (at(results(&node)), at(node.cni_bin()));
    let running = node.start_admin(&[
        "deliver",
        "--every",
        "3600",
        "--cache-dir",
        &cache,
        "--cni-path",
        &bin,
    ]);
    crate::rig::eventually("it runs", || node.state_dir.join("_deliver").exists());
    node.vanish(&dead, Port::Stays);
    node.admin(&["sweep"]).ok();
    crate::rig::eventually("it is delivered", || left(&node, &dead) == [0; 4]);
    running.kill();
    running.wait();
    assert_eq!(left(&node, &live), [1, 1, 2, 1]);
}
