//! A tenant's value while each tenant has one pod looks just like a pod's own. The default
//! configuration must not take it for one.

use serde_json::{Value, json};

use crate::lifecycle::fixture::{sorted, states, sweep};
use crate::rig::{Attached, Datapath, Node, Setup};

/// Pods that the tenants' controller knows, and what it installed: each pod's classifier is the
/// only entry that loads the value, and packets find their way back by it.
struct Tenants {
    node: Node,
    pods: Vec<Attached>,
    classifiers: Vec<String>,
    ways_back: Vec<String>,
}

impl Tenants {
    #[track_caller]
    fn new(test: &str, pods: &[(&str, u32)]) -> Self {
        let conf = json!({"lingerSeconds": 0});
        let node = Setup::new().datapath(Datapath::Dummy).gc_conf(conf).up(test);
        let values: std::collections::BTreeSet<u32> = pods.iter().map(|pod| pod.1).collect();
        let (mut classifiers, mut ways_back) = (Vec::new(), Vec::new());
        for id in values {
            let ways = [
                format!(
                    "table=20, priority=100,reg0={id:#x} actions=set_field:{id:#x}->tun_id,output:LOCAL"
                ),
                format!("table=30, priority=100,tun_id={id:#x} actions=resubmit(,40)"),
            ];
            ways_back.extend(node.install("br0", &ways));
        }
        let attach = |(name, id): &(&str, u32)| {
            let pod = node.add(&node.pod(name).with_name(name));
            let port = pod.ofport;
            let classifier = format!(
                "table=0, priority=100,in_port={port} actions=set_field:{id:#x}->reg0,resubmit(,20)"
            );
            classifiers.extend(node.install("br0", &[classifier]));
            pod
        };
        let pods = pods.iter().map(attach).collect();
        Self { node, pods, classifiers, ways_back }
    }

    #[track_caller]
    fn assert_left(&self, gone: usize) {
        let left = [self.ways_back.clone(), self.classifiers[gone..].to_vec()].concat();
        assert_eq!(self.node.dump("br0"), sorted(left));
    }

    fn doctor(&self) -> Value {
        let doctor = self.node.admin(&["doctor", "--json"]).json();
        let found = doctor.as_array().unwrap().iter().find(|row| row["what"] == "registers");
        found.cloned().unwrap_or_default()
    }
}

#[test]
fn a_tenants_value_outlives_its_only_pod() {
    let names = [
        // Bare, a StatefulSet's, and two ReplicaSets of one Deployment.
        ("a_tenants_value_bare", ["red", "blue", "green"]),
        ("a_tenants_value_set", ["db-0", "db-1", "db-2"]),
        (
            "a_tenants_value_deployment",
            ["web-7d4f8b9c6f-x2k9z", "web-558bd4d5db-bqxpl", "app-7d4f8b9c6f-44444"],
        ),
    ];
    for (test, names) in names {
        let [a, b, c] = names;
        let tenants = Tenants::new(test, &[(a, 0x501), (b, 0x502), (c, 0x503)]);
        for last in 0..3 {
            tenants.node.del(&tenants.pods[last]);
            sweep(&tenants.node, &[]);
            tenants.assert_left(last + 1);
        }
        assert_eq!(states(&tenants.node)[a], "deleting", "it is not forgotten");
        let told = tenants.node.admin(&["explain", a]).ok();
        for words in ["register-not-proven", "one workload", "reg0: \"pod\""] {
            let json = tenants.node.admin(&["explain", a, "--json"]).stdout;
            assert!(told.contains(words) || json.contains(words), "{words}: {told}");
        }
        let found = tenants.doctor();
        assert_eq!(found["level"], "note", "{found}");
        assert!(found["found"].as_str().unwrap().contains("one workload"), "{found}");
        assert!(found["remedy"].as_str().unwrap().contains("\"none\" or a preset"), "{found}");

        // The operator vouches: values are pods' own.
        tenants.node.configure(json!({"reg0": "pod", "lingerSeconds": 0}));
        let next = tenants.node.run_pod("next");
        let port = next.ofport;
        let load = format!("table=0, in_port={port} actions=set_field:0x504->reg0,resubmit(,20)");
        let load = tenants.node.install("br0", &[load]);
        sweep(&tenants.node, &[]);
        let left = tenants.ways_back.iter().filter(|flow| !flow.contains("reg0=")).cloned();
        assert_eq!(tenants.node.dump("br0"), sorted([left.collect(), load].concat()));
    }
}

/// The pods of one ReplicaSet are told apart by their values, also one after the other: it is no
/// group's value. That is remembered.
#[test]
fn two_pods_of_one_workload_are_the_proof() {
    let (web, next, db) = ("web-7d4f8b9c6f-x2k9z", "web-7d4f8b9c6f-bqxpl", "db-0");
    let tenants = Tenants::new("two_of_one_workload", &[(web, 0x501), (db, 0x502)]);
    tenants.node.del(&tenants.pods[0]);
    tenants.assert_left(1);
    let pod = tenants.node.add(&tenants.node.pod("next").with_name(next));
    let port = pod.ofport;
    let load = format!("table=0, in_port={port} actions=set_field:0x503->reg0,resubmit(,20)");
    tenants.node.install("br0", &[load]);
    for _ in 0..2 {
        sweep(&tenants.node, &[]);
    }
    let flow = |id: u32| {
        let dump = tenants.node.dump("br0");
        dump.iter().any(|flow| flow.contains(&format!("reg0={id:#x} ")))
    };
    assert!(!flow(0x501) && flow(0x502));
    assert_eq!(tenants.doctor()["level"], "ok");
    tenants.node.del(&tenants.pods[1]);
    assert!(!flow(0x502), "of others, too");
}
