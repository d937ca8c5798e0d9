//! GC: with a list, `[]`, `null`, and no key; lists that cannot be read; what it may not touch.

use serde_json::{Value, json};

use crate::rig::{Attached, Node, Setup, Valid, layouts};

struct Town {
    node: Node,
    base: Vec<String>,
    pods: Vec<Attached>,
    flows: Vec<Vec<String>>,
}

/// Three pods on a node whose chain speaks 1.1.0, the first that has GC.
fn town(test: &str) -> Town {
    let node = Setup::new().cni_version("1.1.0").up(test);
    let base = node.install("br0", &layouts::classifier_base());
    let pods: Vec<_> = ["web", "db", "cache"].map(|name| node.run_pod(name)).into();
    let flows = pods
        .iter()
        .zip(0x1001..)
        .map(|(pod, reg)| node.install("br0", &layouts::classifier(&pod.who(reg))));
    let flows = flows.collect();
    Town { node, base, pods, flows }
}

impl Town {
    #[track_caller]
    fn must_have(&self, pods: &[usize]) {
        let mut left = self.base.clone();
        pods.iter().for_each(|pod| left.extend(self.flows[*pod].clone()));
        left.sort();
        assert_eq!(self.node.dump("br0"), left);
    }

    #[track_caller]
    fn gc(&self, valid: Valid<'_>) {
        for outcome in self.node.gc(valid) {
            assert!(outcome.succeeded() && outcome.stdout.is_empty(), "{outcome}");
        }
    }

    /// GC of our plugin alone, with these keys.
    fn gc_with(&self, keys: &Value) -> crate::rig::Outcome {
        let mut conf = self.node.plugin_conf("ovs-flow-gc", None, None);
        for (key, value) in keys.as_object().unwrap() {
            conf[key] = value.clone();
        }
        self.node.call("ovs-flow-gc", "GC").conf(&conf).run()
    }
}

#[test]
fn who_is_not_in_the_list_goes() {
    let town = town("who_is_not_in_the_list_goes");
    town.gc(Valid::Pods(&[&town.pods[0], &town.pods[2]]));
    town.must_have(&[0, 2]);
    town.gc(Valid::Absent);
    town.must_have(&[0, 2]);
    town.gc(Valid::Pods(&[]));
    town.must_have(&[]);
}

#[test]
fn null_means_that_none_is_valid() {
    let town = town("null_means_that_none_is_valid");
    town.gc(Valid::Null);
    town.must_have(&[]);
}

#[test]
fn either_key_will_do_and_both_protect() {
    let town = town("either_key_will_do_and_both_protect");
    let entry = |pod: usize| json!({"containerID": town.pods[pod].container, "ifname": "eth0"});
    let outcome = town.gc_with(&json!({
        "cni.dev/valid-attachments": [entry(0)], "cni.dev/attachments": [entry(1)]}));
    assert!(outcome.succeeded(), "{outcome}");
    town.must_have(&[0, 1]);
    assert!(town.gc_with(&json!({"cni.dev/attachments": [entry(0)]})).succeeded());
    town.must_have(&[0]);
}

#[test]
fn a_list_that_cannot_be_read_protects_everybody() {
    let town = town("a_list_that_cannot_be_read_protects_everybody");
    for list in [
        json!("none"),
        json!({}),
        json!([3]),
        json!([{"ifname": "eth0"}]),
        json!([{"containerID": ""}]),
    ] {
        let outcome = town.gc_with(&json!({"cni.dev/valid-attachments": list}));
        let (code, text) = outcome.cni_error();
        assert_eq!(code, 7, "{outcome}");
        assert!(text.contains("cni.dev/valid-attachments"), "{outcome}");
        town.must_have(&[0, 1, 2]);
    }
}

#[test]
fn another_interface_of_a_valid_container_is_valid() {
    let town = town("another_interface_of_a_valid_container_is_valid");
    let list = json!([{"containerID": town.pods[1].container, "ifname": "net7"}]);
    assert!(town.gc_with(&json!({"cni.dev/valid-attachments": list})).succeeded());
    town.must_have(&[1]);
}

#[test]
fn another_networks_records_are_not_its_business() {
    let town = town("another_networks_records_are_not_its_business");
    let mut conf = town.node.plugin_conf("ovs-flow-gc", None, None);
    conf["name"] = json!("othernet");
    conf["cni.dev/valid-attachments"] = json!([]);
    let outcome = town.node.call("ovs-flow-gc", "GC").conf(&conf).run();
    assert!(outcome.succeeded(), "{outcome}");
    town.must_have(&[0, 1, 2]);
}

#[test]
fn what_it_cannot_do_it_lists_and_the_next_sweep_does() {
    let town = town("what_it_cannot_do_it_lists_and_the_next_sweep_does");
    town.node.configure(json!({"timeoutMs": 500}));
    town.node.vswitchd.pause();
    let outcome = town.gc_with(&json!({"cni.dev/valid-attachments": []}));
    town.node.vswitchd.resume();
    let (code, text) = outcome.cni_error();
    assert!(code >= 100, "{outcome}");
    for pod in &town.pods {
        assert!(text.contains(&pod.container), "{outcome}");
    }
    town.node.admin(&["sweep"]).ok();
    town.must_have(&[]);
}
