//! The brake and `explain`: a person looks before much happens.

use serde_json::json;

use crate::operations::{deleted, sorted, sweep};
use crate::rig::{Datapath, Port, Setup, layouts};

#[test]
fn most_of_a_node_dying_at_once_needs_a_persons_word() {
    let node = Setup::new().gc_conf(json!({"lingerSeconds": 0})).up("the_brake");
    let base = node.install("br0", &layouts::classifier_base());
    let pods: Vec<_> = (0..13).map(|n| node.run_pod(&format!("p{n}"))).collect();
    let flows: Vec<_> = pods
        .iter()
        .zip(0x1001..)
        .map(|(pod, reg)| node.install("br0", &layouts::classifier(&pod.who(reg))))
        .collect();
    let all = node.dump("br0");
    for pod in &pods[..11] {
        node.vanish(pod, Port::Stays);
    }

    let braked = node.admin(&["sweep"]);
    assert_eq!(braked.code, Some(3), "{braked}");
    assert!(braked.stdout.contains("brake: 11 of 13 attachments"), "{braked}");
    assert!(braked.stdout.contains("sweep --yes"), "{braked}");
    let status = node.admin(&["status", "--json"]).json();
    let waiting = status["waiting"].as_array().unwrap();
    let held =
        |one: &&serde_json::Value| one["why"].as_str().unwrap().starts_with("the brake holds it (");
    assert_eq!((waiting.len(), waiting.iter().filter(held).count()), (11, 11), "{status:#}");
    assert_eq!(status["pods"]["foundDead"], 11, "{status:#}");
    let report = sweep(&node, &[]);
    assert_eq!((report["braked"].as_bool(), deleted(&report)), (Some(true), 0));
    assert_eq!(node.dump("br0"), all);

    // One died by DEL: that has its own word, the brake is no excuse.
    node.del(&pods[12]);
    let mut left = [base.clone(), flows[..12].concat()].concat();
    left.sort();
    assert_eq!(node.dump("br0"), left);

    let report = sweep(&node, &["--yes"]);
    assert_eq!(node.dump("br0"), sorted(&[&base, &flows[11]]), "{report}");
    assert_eq!(deleted(&report), 11 * 15);
}

#[test]
fn ten_may_always_die_at_once() {
    let node = Setup::new().gc_conf(json!({"lingerSeconds": 0})).up("ten_may_die");
    let pods: Vec<_> = (0..10).map(|n| node.run_pod(&format!("p{n}"))).collect();
    for (pod, reg) in pods.iter().zip(0x1001..) {
        node.install("br0", &layouts::classifier(&pod.who(reg)));
        node.vanish(pod, Port::Gone);
    }
    let report = sweep(&node, &[]);
    assert_eq!(report["braked"], false);
    assert_eq!(node.dump("br0"), [""; 0], "{report}");
}

/// One sweep after the other (a timer's, a person's) deletes those of ten at most.
#[test]
fn the_brake_counts_what_other_sweeps_have_done() {
    let node = Setup::new()
        .datapath(Datapath::Dummy)
        .gc_conf(json!({"lingerSeconds": 0}))
        .up("the_brake_counts_sweeps");
    let pods: Vec<_> = (0..14).map(|n| node.run_pod(&format!("p{n}"))).collect();
    for (pod, reg) in pods.iter().zip(0x1001..) {
        node.install("br0", &layouts::classifier(&pod.who(reg)));
    }
    // Ports that stay might be the next pods' once their tombstones are forgotten.
    pods[..7].iter().for_each(|pod| node.vanish(pod, Port::Gone));
    let report = sweep(&node, &["--only-dead"]);
    assert_eq!((report["braked"].as_bool(), deleted(&report)), (Some(false), 7 * 15), "{report:#}");
    let left = node.dump("br0");
    pods[7..].iter().for_each(|pod| node.vanish(pod, Port::Gone));
    for _ in 0..2 {
        let braked = node.admin(&["sweep", "--only-dead"]);
        assert_eq!(braked.code, Some(3), "{braked}");
        assert!(braked.stdout.contains("brake: 7 of 7 attachments"), "{braked}");
        assert!(braked.stdout.contains("7 more were swept before"), "{braked}");
        assert_eq!(node.dump("br0"), left);
    }
    let doctor = node.admin(&["doctor"]).stdout;
    assert!(doctor.contains("7 of 7 attachments seem dead at once"), "{doctor}");

    // A file that cannot be read may have said so, too.
    std::fs::write(node.state_dir.join("deaths.json"), "{\"bootId\": ").unwrap();
    let report = sweep(&node, &[]);
    assert_eq!((report["braked"].as_bool(), deleted(&report)), (Some(true), 0));
    assert_eq!(node.dump("br0"), left);

    let report = sweep(&node, &["--yes"]);
    assert_eq!(deleted(&report), 7 * 15, "{report:#}");
    assert_eq!(node.dump("br0"), [""; 0]);
    // It is over: who dies now is nobody's mass death.
    let pod = node.run_pod("later");
    node.install("br0", &layouts::classifier(&pod.who(0x2001)));
    node.vanish(&pod, Port::Stays);
    assert_eq!(deleted(&sweep(&node, &[])), 15);
}

#[test]
fn explain_says_why_for_the_living_and_the_dead() {
    let node = Setup::new().up("explain");
    node.install("br0", &layouts::classifier_base());
    let (web, db) = (node.run_pod("web"), node.run_pod("db"));
    node.install("br0", &layouts::classifier(&web.who(0x1001)));
    node.install("br0", &layouts::classifier(&db.who(0x1002)));
    // One that mentions web and must stay.
    let policy = format!(
        "table=20, priority=7,ip,nw_src={},nw_dst={} actions=conjunction(1,1/2)",
        web.ip, db.ip
    );
    // Two of a service that name web in what they do.
    let service = [
        format!(
            "table=40, priority=9,ip,nw_dst=192.0.2.1 actions=mod_nw_dst:{},resubmit(,50)",
            web.ip
        ),
        format!(
            "table=40, priority=9,ip,nw_dst=192.0.2.2 actions=load:{}->NXM_NX_REG5[],resubmit(,50)",
            web.ofport
        ),
    ];
    node.add_flows("br0", &[policy]);
    node.add_flows("br0", &service);
    let before = node.dump("br0");

    for who in [&web.name, &format!("default/{}", web.name), &web.container[..20]] {
        let told = node.admin(&["explain", who, "--json"]);
        assert_eq!(told.code, Some(0), "{told}");
        let told = told.json();
        assert_eq!(told.as_array().unwrap().len(), 1, "{told}");
        assert_eq!(told[0]["liveness"], "alive", "{told}");
        let flows = told[0]["flows"].as_array().unwrap();
        let kept: Vec<_> = flows.iter().filter(|f| f["stale"] == false).collect();
        assert_eq!((flows.len(), kept.len()), (16, 1), "{told:#}");
        assert!(kept[0]["flow"].as_str().unwrap().contains("conjunction(1,1/2)"), "{told}");
        assert_eq!(kept[0]["reason"], "policy-waits", "{told}");
        let others = told[0]["inActions"].as_array().unwrap();
        assert_eq!(others.len(), 2, "{told:#}");
        assert!(
            others.iter().all(|f| f["stale"] == false && f["reason"] == "in-actions"),
            "{told}"
        );
        assert!(flows.iter().all(|f| f["stale"] == false || f["rule"].is_u64()), "{told}");
    }
    let text = node.admin(&["explain", &web.name]).ok();
    // She lives: nothing of hers is deleted.
    assert!(text.contains("would go (rule 1)") && text.contains("would stay"), "{text}");
    assert!(text.contains("alive; if it were deleted now:"), "{text}");
    assert!(!text.contains("delete (") && !text.contains("keep"), "{text}");
    assert!(!text.contains("dead") && text.contains("this pod's port"), "{text}");
    assert!(text.contains(&web.ip) && text.contains(&web.port), "{text}");
    assert!(
        text.contains(&format!("only its actions name this pod's address {}", web.ip)),
        "{text}"
    );
    assert!(text.contains("or a value like it, for reg5"), "{text}");

    node.vanish(&web, Port::Stays);
    assert!(node.admin(&["explain", &web.name]).ok().contains("dead, to be swept"));
    node.del(&db);
    let text = node.admin(&["explain", &db.name]).ok();
    assert!(text.contains("dead, to be cleaned up by the next sweep"), "{text}");

    let nobody = node.admin(&["explain", "nobody"]);
    assert_eq!(nobody.code, Some(1));
    assert!(nobody.stderr.contains("\"nobody\"") && nobody.stderr.contains("list"), "{nobody}");
    assert_eq!(before.len() - node.dump("br0").len(), 15, "only the DEL deleted");
}
