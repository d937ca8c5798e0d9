//! `deliver --gc`: what nobody remembers goes, and what one of those who could know remembers stays.

use std::os::unix::net::UnixListener;

use super::*;
use crate::gcd::Daemon;
use crate::rig::{Runtime, eventually};

/// A node's `/run`, mounts of namespaces and processes, without those of other tests: what the shell
/// is to do first, the namespaces that it has, and `deliver`.
pub(super) fn alone(node: &Node, before: &str, namespaces: &[String], args: &[&str]) -> Outcome {
    let run = at(node.dir.join("own-run"));
    let script = format!(
        "for n in {}; do touch {run}/netns/$n; mount --bind /run/netns/$n {run}/netns/$n; done; \
         awk -v own={run}/ '$4 ~ /^net:/ && index($5, own) != 1 {{ print $5 }}' \
         /proc/self/mountinfo | xargs -r umount -l; mount --rbind {run} /run; {before} {} {} --state-dir={}; exit $?",
        namespaces.join(" "),
        at(node.plugin("ovs-flow-gc")),
        arguments(node, args).join(" "),
        at(node.state_dir.clone()),
    );
    let _ = fs::remove_dir_all(node.dir.join("own-run/netns"));
    fs::create_dir_all(node.dir.join("own-run/netns")).unwrap();
    node.run("unshare", &["--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", &script])
}

#[track_caller]
fn left(outcome: &Outcome, why: &str) {
    let gc = collected(outcome);
    assert_eq!((gc["state"].as_str(), outcome.code), (Some("left"), Some(3)), "{outcome}");
    assert!(gc["error"].as_str().unwrap().contains(why), "{why:?}: {outcome}");
    assert_eq!(gc["plugins"], json!([]), "{outcome}");
}

/// A plugin whose GC gives back the leases of containers that are not in the list.
pub(super) fn collects(ipam: &str) -> String {
    format!(
        "test \"$CNI_COMMAND\" = GC || exit 1; conf=$(cat); for f in {ipam}/[1f]*; do \
         id=$(head -n 1 $f | tr -d '\\r'); case \"$conf\" in *\"$id\"*) ;; *) rm $f;; esac; done"
    )
}

/// containerd 1.6 loads no list of 1.1: from here on it is one, with more plugins.
pub(super) fn of_1_1(node: &Node, more: &[&str]) {
    let mut plugins = node.conflist()["plugins"].as_array().unwrap().clone();
    plugins.truncate(2);
    plugins.extend(more.iter().map(|name| json!({"type": name})));
    conflist_of(node, &json!({"cniVersion": "1.1.0", "plugins": plugins}));
}

fn conflist_of(node: &Node, more: &Value) {
    let mut conflist = node.conflist();
    conflist.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    node.set_conflist(conflist);
}

#[test]
fn what_nobody_remembers_is_collected() {
    let node = node("deliver_gc");
    let runtime = Runtime::start(&node);
    let (a, b) = (runtime.run_sandbox("a"), runtime.run_sandbox("b"));
    // Of another runtime: our record is all that is known of it. And one of whom only the marks of
    // its port tell.
    let (podman, marked) = (node.run_pod("podman"), node.run_pod("marked"));
    let marks = ["external_ids:sandbox=", &marked.container].concat();
    node.run("ovs-vsctl", &["clear", "port", &marked.port, "external_ids"]).ok();
    node.run("ovs-vsctl", &["set", "interface", &marked.port, &marks]).ok();
    let record = format!("podnet/{}:eth0.json", marked.container);
    fs::remove_file(node.state_dir.join(record)).unwrap();
    let ipam = node.dir.join("ipam/podnet");
    fs::write(ipam.join("10.244.1.200"), "lost\r\neth0").unwrap();
    let mut living =
        vec![a.id.clone(), b.id.clone(), podman.container.clone(), marked.container.clone()];
    living.sort();
    let with_lost = || [&living[..], &["lost".to_owned()]].concat();
    assert_eq!(lease_holders(&node), with_lost());

    node.script_plugin("fails", "exit 4");
    node.script_plugin("collects", &collects(&at(ipam)));
    of_1_1(&node, &["fails", "collects"]);
    let name = |path: &std::path::Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let own = [name(&a.netns), name(&b.netns), podman.netns.clone()];
    let gc = |before: &str, args: &[&str]| alone(&node, before, &own, &[&["--gc"], args].concat());

    left(&gc("", &[]), "no daemon asks the runtime");
    let daemon = Daemon::start(&node);
    left(&gc("", &[]), "does not ask the runtime");
    daemon.end(nix::sys::signal::Signal::SIGTERM);
    let socket = format!("--cri-socket={}", at(runtime.socket()));
    let daemon = Daemon::start_with(&node, &["--liveness=netns,cri", &socket], None);
    eventually("the runtime answers", || daemon.metric("source_up{source=\"cri\"}") == 1.0);

    // The marked one's namespace is nobody's.
    let all = [&own[..], std::slice::from_ref(&marked.netns)].concat();
    left(&alone(&node, "", &all, &["--gc"]), "may be starting");
    left(&gc("env CNI_COMMAND=ADD sleep 60 & sleep 0.2;", &["--yes"]), "is an ADD");
    // Another runtime's, without a name or in a directory that nobody names.
    left(&gc("unshare --net sleep 60 & sleep 0.2;", &["--yes"]), "/ns/net (sleep) is younger");
    let docker = "mkdir /run/docker; touch /run/docker/x; unshare --net=/run/docker/x true;";
    left(&gc(docker, &["--yes"]), "/run/docker/x is younger");
    fs::remove_dir_all(node.dir.join("own-run/docker")).unwrap();
    let torn = node.dir.join("var-lib/cni/results/podnet-torn-eth0");
    fs::write(&torn, "{\"kind\": ").unwrap();
    left(&gc("", &[]), "podnet-torn-eth0");
    fs::remove_file(torn).unwrap();
    fs::create_dir_all(node.dir.join("own-run/crio")).unwrap();
    let other = UnixListener::bind(node.dir.join("own-run/crio/crio.sock")).unwrap();
    left(&gc("", &[]), "/run/crio/crio.sock is another runtime's");
    fs::remove_dir_all(node.dir.join("own-run/crio")).unwrap();
    drop(other);
    assert_eq!(lease_holders(&node), with_lost());

    let dry = gc("", &["--dry-run"]);
    let due = collected(&dry);
    assert_eq!((dry.code, due["state"].as_str()), (Some(0), Some("due")), "{dry}");
    let plugins = ["ovs-test-cni", "ovs-flow-gc", "fails", "collects"];
    assert_eq!(due["plugins"], json!(plugins));
    let listed = due["validAttachments"].as_array().unwrap();
    let listed: Vec<&str> = listed.iter().map(|one| one.as_str().unwrap()).collect();
    // `lo`: containerd's cached results of its own loopback.
    let both = |container: &String| ["eth0", "lo"].map(|name| format!("{container} {name}"));
    let all: Vec<String> = living.iter().flat_map(both).collect();
    assert_eq!(listed, all);
    assert_eq!(lease_holders(&node), with_lost(), "nothing is called");

    // As libcni: a plugin that fails keeps no other from being called.
    let outcome = gc("", &[]);
    let failed = collected(&outcome);
    assert_eq!((failed["state"].as_str(), outcome.code), (Some("failed"), Some(3)), "{outcome}");
    assert_eq!(failed["error"], "fails: exit status: 4", "{outcome}");
    assert_eq!(failed["plugins"], json!([plugins[0], plugins[1], plugins[3]]));
    assert_eq!(lease_holders(&node), living);
    node.script_plugin("fails", "exit 0");
    let outcome = gc("", &[]);
    assert_eq!((outcome.code, &collected(&outcome)["state"]), (Some(0), &json!("collected")));
    assert_eq!(lease_holders(&node), living);

    // It answers late, and then not at all.
    runtime.signal(nix::sys::signal::Signal::SIGSTOP);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            crate::rig::sleep_ms(1200);
            runtime.signal(nix::sys::signal::Signal::SIGCONT);
        });
        let outcome = gc("", &["--dry-run"]);
        assert_eq!(collected(&outcome)["state"], "due", "{outcome}");
    });
    runtime.signal(nix::sys::signal::Signal::SIGSTOP);
    left(&gc("", &[]), "the runtime");
    runtime.signal(nix::sys::signal::Signal::SIGCONT);
    conflist_of(&node, &json!({"disableGC": "yes"}));
    left(&gc("", &[]), "runtimes refuse the list");
    for off in [json!({"disableGC": true}), json!({"cniVersion": "1.0.0"})] {
        conflist_of(&node, &off);
        assert_eq!(gc("", &[]).json()["gc"], json!([]));
    }
}
