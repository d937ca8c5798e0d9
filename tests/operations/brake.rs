//! The brake and `explain`: a person looks before much happens.

use serde_json::json;

use crate::rig::{Port, Setup, layouts};
use crate::{deleted, sorted, sweep};

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
    node.add_flows("br0", &[policy]);
    let before = node.dump("br0");

    for who in ["web", "default/web", &web.container[..20]] {
        let told = node.admin(&["explain", who, "--json"]);
        assert_eq!(told.code, Some(0), "{told}");
        let told = told.json();
        assert_eq!(told.as_array().unwrap().len(), 1, "{told}");
        assert!(told[0]["liveness"].as_str().unwrap().starts_with("alive"), "{told}");
        let flows = told[0]["flows"].as_array().unwrap();
        let kept: Vec<_> = flows.iter().filter(|f| f["stale"] == false).collect();
        assert_eq!((flows.len(), kept.len()), (16, 1), "{told:#}");
        assert!(kept[0]["flow"].as_str().unwrap().contains("conjunction(1,1/2)"), "{told}");
        assert_eq!(kept[0]["reason"], "policy-waits", "{told}");
        assert!(flows.iter().all(|f| f["stale"] == false || f["rule"].is_u64()), "{told}");
    }
    let text = node.admin(&["explain", "web"]).ok();
    assert!(text.contains("delete (rule 1)") && text.contains("keep"), "{text}");
    assert!(text.contains(&web.ip) && text.contains(&web.port), "{text}");

    node.vanish(&web, Port::Stays);
    assert!(node.admin(&["explain", "web"]).ok().contains("dead, to be swept"));
    node.del(&db);
    let text = node.admin(&["explain", "db"]).ok();
    assert!(text.contains("dead, its tombstone"), "{text}");

    let nobody = node.admin(&["explain", "nobody"]);
    assert_eq!(nobody.code, Some(1));
    assert!(nobody.stderr.contains("\"nobody\"") && nobody.stderr.contains("list"), "{nobody}");
    assert_eq!(before.len() - node.dump("br0").len(), 15, "only the DEL deleted");
}
