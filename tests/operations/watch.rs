//! `pause` and `mode: observe`: nothing is deleted, everything is reported and remembered,
//! and done once the operator says so.

use serde_json::json;

use crate::operations::{deleted, records, sorted, stale, sweep};
use crate::rig::{Attached, Node, Port, Setup, Valid, layouts};

/// A pod of each kind of end, and one that lives.
struct Ends {
    node: Node,
    lives: Attached,
    base: Vec<String>,
    its: Vec<String>,
    all: Vec<String>,
}

fn states(node: &Node) -> Vec<(String, String)> {
    records(node)
}

/// Four pods end while nobody may delete: one by DEL, one by GC, one unnoticed, and one
/// whose address a new pod gets.
fn everybody_ends(node: Node, keep_going: impl FnOnce(&Node)) -> Ends {
    let base = node.install("br0", &layouts::classifier_base());
    let names = ["lives", "del", "gc", "orphan", "reborn"];
    let pods: Vec<_> = names.map(|name| node.run_pod(name)).into();
    let flows: Vec<_> = pods
        .iter()
        .zip(0x1001..)
        .map(|(pod, reg)| node.install("br0", &layouts::classifier(&pod.who(reg))))
        .collect();
    let all = node.dump("br0");
    keep_going(&node);

    node.del(&pods[1]);
    assert_eq!(node.dump("br0"), all, "DEL");
    node.kill_sandbox(&pods[2]);
    let valid = [&pods[0].pod, &pods[3].pod, &pods[4].pod];
    let failed = node.gc(Valid::Pods(&valid));
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(node.dump("br0"), all, "GC");
    node.vanish(&pods[4], Port::Gone);
    node.forget_lease(&pods[4].ip);
    node.forget_lease(&pods[4].ip6);
    let next = node.add(&node.pod("next").with_ip(&pods[4].ip));
    assert_eq!(node.dump("br0"), all, "ADD's purge");
    node.vanish(&next, Port::Gone);
    node.vanish(&pods[3], Port::Stays);
    let report = sweep(&node, &[]);
    assert_eq!(node.dump("br0"), all, "sweep");
    assert_eq!(deleted(&report), 0);
    assert_eq!(report["observed"], true, "{report}");
    assert!(stale(&report) >= 3 * 14, "it says what it would do: {report}");
    Ends { lives: pods[0].clone(), base, its: flows[0].clone(), all, node }
}

#[test]
fn pause_deletes_nothing_and_resume_makes_up_for_it() {
    let node = Setup::new()
        .cni_version("1.1.0")
        .gc_conf(json!({"lingerSeconds": 0}))
        .up("pause_deletes_nothing");
    let ends = everybody_ends(node, |node| {
        assert!(node.admin(&["pause"]).ok().contains("resume"));
    });
    let node = &ends.node;
    assert!(node.admin(&["sweep"]).stdout.contains("paused: nothing was deleted"));
    let remembered = records(node);
    assert_eq!(remembered.len(), 6, "{remembered:?}");
    // Found dead during a pause, it is judged again afterwards.
    assert!(remembered.contains(&("orphan".to_owned(), "active".to_owned())), "{remembered:?}");
    let undo = node.admin(&["undo"]);
    assert!(!undo.succeeded() && undo.stderr.contains("nothing to undo"), "{undo}");

    node.admin(&["resume"]).ok();
    assert_eq!(node.dump("br0"), ends.all);
    let report = sweep(node, &[]);
    assert_eq!(node.dump("br0"), sorted(&[&ends.base, &ends.its]), "{report}");
    assert_eq!(states(node), [("lives".to_owned(), "active".to_owned())]);
    node.must_be_untouched(&ends.lives);
}

#[test]
fn observe_mode_deletes_nothing_until_it_is_over() {
    let node = Setup::new()
        .cni_version("1.1.0")
        .gc_conf(json!({"lingerSeconds": 0, "mode": "observe", "logLevel": "info"}))
        .up("observe_mode_deletes_nothing");
    let ends = everybody_ends(node, |_| {});
    let node = &ends.node;
    let sweep_text = node.admin(&["sweep"]).stdout;
    assert!(sweep_text.contains("stay because the mode of the network is \"observe\""));
    assert!(!states(node).iter().any(|(pod, state)| pod != "lives" && state != "deleting"));

    // The network's next ADD brings the new mode.
    node.configure(json!({"mode": null}));
    let new = node.run_pod("new");
    sweep(node, &[]);
    // As long as it has no flows, nobody knows which value the new pod has.
    let kept = node.dump("br0").len() - ends.base.len() - ends.its.len();
    assert_eq!(kept, 4 * 2, "policy by reg0");
    let its = node.install("br0", &layouts::classifier(&new.who(0x2001)));
    let report = sweep(node, &[]);
    assert_eq!(node.dump("br0"), sorted(&[&ends.base, &ends.its, &its]), "{report}");
    let active = |pod: &str| (pod.to_owned(), "active".to_owned());
    assert_eq!(states(node), [active("lives"), active("new")]);
    node.must_be_untouched(&ends.lives);
    node.del(&new);
}

#[test]
fn a_watching_del_says_what_it_would_do() {
    for paused in [false, true] {
        let mode = if paused { json!(null) } else { json!("observe") };
        let node = Setup::new()
            .gc_conf(json!({"mode": mode, "logLevel": "debug"}))
            .up("a_watching_del_says_what_it_would_do");
        node.install("br0", &layouts::classifier_base());
        let web = node.run_pod("web");
        node.install("br0", &layouts::classifier(&web.who(0x1001)));
        if paused {
            node.admin(&["pause"]).ok();
        }
        let conf = node.plugin_conf("ovs-flow-gc", Some(&web), Some(&web.result));
        let del = node.call_for(&conf, "DEL", &web).run();
        let said = |text: &str| del.stderr.lines().any(|line| line.contains(text));
        assert!(del.succeeded() && said("not deleted"), "{del}");
        assert!(said(if paused { "paused" } else { "mode observe" }), "{del}");
        assert!(said(&format!("nw_dst={}", web.ip)) && said("actions="), "{del}");
        let counted = del.stderr.lines().filter(|line| line.contains("stale entries of")).count();
        assert_eq!(counted, 1, "{del}");
        assert_eq!(node.admin(&["undo"]).code, Some(1), "nothing was done");
    }
}

#[test]
fn a_dry_run_changes_nothing() {
    let node = Setup::new().gc_conf(json!({"lingerSeconds": 0})).up("a_dry_run_changes_nothing");
    node.install("br0", &layouts::classifier_base());
    let (web, db) = (node.run_pod("web"), node.run_pod("db"));
    node.install("br0", &layouts::classifier(&web.who(0x1001)));
    node.install("br0", &layouts::classifier(&db.who(0x1002)));
    node.vanish(&web, Port::Stays);
    let (flows, ports) = (node.dump("br0"), node.ports("br0"));
    let before = records(&node);
    let report = sweep(&node, &["--dry-run", "--details"]);
    assert_eq!((report["dryRun"].as_bool(), stale(&report)), (Some(true), 15), "{report}");
    let listed = report["flows"].as_array().unwrap();
    assert_eq!(listed.iter().filter(|f| f["stale"] == true).count(), 15, "each with its reason");
    assert!(listed.iter().all(|f| !f["text"].as_str().unwrap().is_empty()));
    assert_eq!((node.dump("br0"), node.ports("br0")), (flows, ports));
    assert_eq!(records(&node), before);
    assert!(!node.state_dir.join("journal").exists());
    assert_eq!(deleted(&sweep(&node, &[])), 15);
}

/// The STATE of a dry run is what the next sweep does.
#[test]
fn a_dry_run_says_what_would_happen() {
    let node = Setup::new().gc_conf(json!({"lingerSeconds": 0})).up("a_dry_run_says");
    node.install("br0", &layouts::classifier_base());
    let web = node.run_pod("web");
    node.install("br0", &layouts::classifier(&web.who(0x1001)));
    let dead = format!("default/{} ", web.name);
    let dry_run = |state: &str, count: &str| {
        let text = node.admin(&["sweep", "--dry-run"]).stdout;
        assert!(!text.contains("actions="), "entries are for --details: {text}");
        let row = text.lines().find(|line| line.starts_with(&dead));
        assert!(row.is_some_and(|row| row.trim_end().ends_with(state)), "{state}: {text}");
        assert!(text.contains(&format!("{count} entries would be deleted")), "{text}");
    };
    node.vanish(&web, Port::Stays);
    // Its value is not proven while there is no other.
    dry_run("would go, the rest waits: will be judged again", "13");
    let other = node.run_pod("other");
    node.install("br0", &layouts::classifier(&other.who(0x1002)));
    dry_run("would be clean", "15");
    let plan = sweep(&node, &["--dry-run"]);
    assert_eq!(plan["targets"][0]["waiting"], false, "{plan}");
    node.admin(&["pause"]).ok();
    dry_run("would stay: paused", " 0");
    node.admin(&["resume"]).ok();

    // The network's next ADD brings the new mode.
    node.configure(json!({"mode": "observe"}));
    let db = node.run_pod("db");
    node.install("br0", &layouts::classifier(&db.who(0x2001)));
    dry_run("would stay: mode observe", " 0");
    node.configure(json!({"mode": null}));
    let cache = node.run_pod("cache");
    node.install("br0", &layouts::classifier(&cache.who(0x3001)));
    dry_run("would be clean", "15");
    let done = node.admin(&["sweep"]).stdout;
    let row = done.lines().find(|line| line.starts_with(&dead));
    assert!(row.is_some_and(|row| row.trim_end().ends_with("clean")), "{done}");
    assert!(!done.contains("would"), "{done}");
}

impl Node {
    /// The pod's record is there, and CHECK is content.
    #[track_caller]
    fn must_be_untouched(&self, pod: &Attached) {
        self.try_check(pod).unwrap_or_else(|failed| panic!("CHECK: {failed}"));
    }
}
