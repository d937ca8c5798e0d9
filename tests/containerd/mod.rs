//! Through real containerd: `ctr run --cni` calls the chain through libcni, and dies.
//!
//! `ctr` passes `/proc/PID/ns/net` as the namespace: who is dead can be told only from the
//! PID namespace that ADD ran in.

use std::fs;

use crate::rig::{Containerd, Node, Running, Setup, Who, eventually, layouts, sleep_ms};
use serde_json::{Value, json};

/// Two pods of containerd's at most: that values are per pod is the operator's word.
fn node(test: &str) -> Node {
    Setup::new().gc_conf(json!({"lingerSeconds": 0, "reg0": "pod"})).up(test)
}

/// What our ADD wrote down about a container of `ctr`'s.
#[track_caller]
fn record(node: &Node, id: &str) -> Option<Value> {
    let list = node.admin(&["list", "--no-flows", "--json"]).json();
    let container = format!("default-{id}");
    let row = list.as_array().unwrap().iter().find(|r| r["containerID"] == container.as_str());
    row.cloned()
}

fn who(record: &Value, reg: u32) -> Who {
    let address = |v6: bool| {
        let ips = record["ips"].as_array().unwrap().iter().filter_map(Value::as_str);
        ips.filter(|ip| ip.contains(':') == v6).map(str::to_owned).next().unwrap()
    };
    Who {
        ofport: record["ofport"].as_u64().unwrap().try_into().unwrap(),
        reg,
        ip: address(false),
        ip6: address(true),
        mac: record["macs"][0].as_str().unwrap().to_owned(),
    }
}

/// A container that runs until it is killed, and the flows of its pod. The id must be this
/// test's own: the cgroup is called after it, and runc wants it empty.
#[track_caller]
fn run_pod(node: &Node, containerd: &Containerd<'_>, id: &str, reg: u32) -> (Running, Vec<String>) {
    let ctr = containerd.start_run(id, &["/bin/sleep", "600"]);
    containerd.task_pid(id);
    let record = record(node, id).expect("ADD recorded it");
    let netns = record["netns"]["path"].as_str().unwrap();
    assert!(netns.starts_with("/proc/") && netns.ends_with("/ns/net"), "{record}");
    assert!(record["netns"]["pid_namespace"].is_u64(), "{record}");
    (ctr, node.install("br0", &layouts::classifier(&who(&record, reg))))
}

fn sorted(parts: &[&[String]]) -> Vec<String> {
    let mut all = parts.concat();
    all.sort();
    all
}

fn verbs(node: &Node) -> Vec<String> {
    node.calls().iter().map(|call| call.split(' ').next().unwrap().to_owned()).collect()
}

/// libcni's own cache, as `ctr` leaves it.
fn cached(node: &Node) -> Vec<std::path::PathBuf> {
    let results = fs::read_dir(node.dir.join("var-lib/cni/results")).into_iter().flatten();
    results.map(|file| file.unwrap().path()).collect()
}

#[test]
fn a_normal_end_leaves_nothing() {
    let node = node("containerd_normal_end");
    let containerd = Containerd::start(&node);
    let base = node.install("br0", &layouts::classifier_base());
    let (web, its) = run_pod(&node, &containerd, "web-end", 0x1001);
    let (other, others) = run_pod(&node, &containerd, "other-end", 0x1002);
    assert_eq!(node.dump("br0"), sorted(&[&base, &its, &others]));

    containerd.ctr(&["tasks", "kill", "-s", "SIGKILL", "web-end"]).ok();
    web.wait();
    assert_eq!(verbs(&node), ["ADD", "ADD", "DEL"], "{}", containerd.log());
    assert_eq!(node.dump("br0"), sorted(&[&base, &others]));
    assert!(record(&node, "web-end").is_none_or(|r| r["state"] == "gone"));
    assert_eq!(node.ports("br0").len(), 1);

    containerd.ctr(&["tasks", "kill", "-s", "SIGKILL", "other-end"]).ok();
    other.wait();
    assert_eq!(node.dump("br0"), base);
    assert!(cached(&node).is_empty());
}

#[test]
fn ctr_is_killed_and_a_sweep_cleans_exactly_its_entries() {
    let node = node("containerd_killed");
    let containerd = Containerd::start(&node);
    let base = node.install("br0", &layouts::classifier_base());
    let (web, its) = run_pod(&node, &containerd, "web-kill", 0x1001);
    let (other, others) = run_pod(&node, &containerd, "other-kill", 0x1002);
    let all = sorted(&[&base, &its, &others]);

    web.kill();
    assert_eq!(web.wait().code, None);
    node.admin(&["sweep"]).ok();
    assert_eq!(node.dump("br0"), all, "without ctr the pod still runs");
    containerd.wipe("web-kill");
    sleep_ms(100);
    assert_eq!(verbs(&node), ["ADD", "ADD"], "nobody calls DEL");
    assert_eq!(node.dump("br0"), all);

    // From another PID namespace nobody knows what /proc/PID was.
    let elsewhere = ["--pid", "--fork", "--mount-proc", "--", "sh", "-c"];
    let sweep = format!(
        "{} sweep --state-dir {}",
        node.plugin("ovs-flow-gc").display(),
        node.state_dir.display()
    );
    let outcome = node.run("unshare", &[&elsewhere[..], &[sweep.as_str()]].concat());
    assert!(outcome.stdout.contains("2 attachments, 0 dead"), "{outcome}");
    assert_eq!(node.dump("br0"), all);

    let report = node.admin(&["sweep", "--json"]).json();
    assert_eq!(node.dump("br0"), sorted(&[&base, &others]), "{report:#}");
    assert_eq!(report["targets"][0]["containerID"], "default-web-kill");
    assert!(record(&node, "web-kill").is_none() && record(&node, "other-kill").is_some());

    containerd.ctr(&["tasks", "kill", "-s", "SIGKILL", "other-kill"]).ok();
    other.wait();
    assert_eq!(node.dump("br0"), base);
}

/// containerd #12923: whoever called ADD dies before the result is saved. The chain has run,
/// the pod never starts, and no DEL follows.
#[test]
fn killed_between_add_and_saving_its_result() {
    let node = node("containerd_12923");
    let hold = node.dir.join("hold");
    node.script_plugin(
        "slow",
        &format!(
            "conf=$(cat); [ \"$CNI_COMMAND\" = ADD ] || exit 0; touch {0}; \
             while [ -e {0} ]; do sleep 0.05; done; \
             echo \"$conf\" | sed 's/.*\"prevResult\"://; s/}}$//'",
            hold.display()
        ),
    );
    let mut conflist = node.conflist();
    conflist["plugins"].as_array_mut().unwrap().push(json!({"type": "slow"}));
    node.set_conflist(conflist);
    let containerd = Containerd::start(&node);
    let base = node.install("br0", &layouts::classifier_base());

    let ctr = containerd.start_run("web-early", &["/bin/sleep", "600"]);
    eventually("the chain has come to its last plugin", || hold.exists());
    let record = record(&node, "web-early").expect("ADD recorded it");
    let its = node.install("br0", &layouts::classifier(&who(&record, 0x1001)));
    ctr.kill();
    assert_eq!(ctr.wait().code, None);
    fs::remove_file(&hold).unwrap();
    assert!(cached(&node).is_empty(), "the result was never saved");
    node.admin(&["sweep"]).ok();
    assert_eq!(node.dump("br0"), sorted(&[&base, &its]), "its sandbox is still there");
    // The container was made and never started: its first process waits for that.
    containerd.ctr(&["tasks", "rm", "-f", "web-early"]).ok();
    containerd.ctr(&["containers", "rm", "web-early"]).ok();
    assert_eq!(verbs(&node), ["ADD"], "no DEL: libcni knows nothing of it");

    let report = node.admin(&["sweep", "--json"]).json();
    assert_eq!(node.dump("br0"), base, "{report:#}");
}

/// containernetworking/cni #1055: a reboot (here: a truncation) leaves an empty cached result.
#[test]
fn an_empty_cached_result_does_not_keep_entries() {
    let node = node("containerd_cni_1055");
    let containerd = Containerd::start(&node);
    let base = node.install("br0", &layouts::classifier_base());
    let (web, its) = run_pod(&node, &containerd, "web-empty", 0x1001);
    let files = cached(&node);
    assert!(!files.is_empty());
    for file in &files {
        fs::File::options().write(true).truncate(true).open(file).unwrap();
    }
    containerd.ctr(&["tasks", "kill", "-s", "SIGKILL", "web-empty"]).ok();
    let ended = web.wait();
    // "failed to get network "podnet" cached result": containerd 1.6's libcni calls no DEL.
    if verbs(&node) == ["ADD"] {
        assert!(ended.stderr.contains("cached result"), "{ended}");
        assert_eq!(node.dump("br0"), sorted(&[&base, &its]));
    }
    node.admin(&["sweep"]).ok();
    assert_eq!(node.dump("br0"), base);
}

/// libcni's real cache is what `adopt` reads.
#[test]
fn adopt_reads_what_libcni_cached() {
    let node = Setup::new().without_gc().up("containerd_adopt");
    let containerd = Containerd::start(&node);
    let base = node.install("br0", &layouts::classifier_base());
    let web = containerd.start_run("web-adopt", &["/bin/sleep", "600"]);
    containerd.task_pid("web-adopt");
    let file = node.conflist_path().display().to_string();
    let settings = json!({"stateDir": node.state_dir, "lingerSeconds": 0, "reg0": "pod"});
    let add = ["conflist", "add", &file, "--after", "ovs-test-cni", "--settings"];
    node.admin(&[&add[..], &[settings.to_string().as_str()]].concat()).ok();
    let cache = node.dir.join("var-lib/cni/results").display().to_string();
    let net_dir = node.conflist_path().parent().unwrap().display().to_string();
    let adopted = node.admin(&["adopt", "--cache-dir", &cache, "--net-dir", &net_dir]);
    assert!(adopted.stdout.contains("1 pod adopted"), "{adopted}");
    let record = record(&node, "web-adopt").unwrap();
    let its = node.install("br0", &layouts::classifier(&who(&record, 0x1001)));
    node.admin(&["sweep"]).ok();
    assert_eq!(node.dump("br0"), sorted(&[&base, &its]), "it lives");

    web.kill();
    web.wait();
    containerd.wipe("web-adopt");
    assert_eq!(verbs(&node), ["ADD"]);
    node.admin(&["sweep"]).ok();
    assert_eq!(node.dump("br0"), base);
}
