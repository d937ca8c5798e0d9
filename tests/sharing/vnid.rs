//! openshift-sdn: reg0 is the VNID of the namespace. The controller believes that the
//! namespace's entries are there, and will not install them again for its next pod.

use serde_json::{Value, json};

use crate::lifecycle::fixture::{sorted, sweep};
use crate::rig::{Attached, Datapath, Node, Port, Setup, layouts};

const SHOP: u32 = 0x1001;
const BANK: u32 = 0x1002;

/// With the preset, and without a word about it.
fn configurations() -> [Value; 2] {
    [json!({"preset": "openshift-sdn", "lingerSeconds": 0}), json!({"lingerSeconds": 0})]
}

/// Two namespaces: three pods in one, one in the other.
struct Sdn {
    node: Node,
    pods: Vec<Attached>,
    namespaces: Vec<String>,
    flows: Vec<Vec<String>>,
}

impl Sdn {
    #[track_caller]
    fn new(test: &str, keys: Value) -> Self {
        Self::with(test, keys, &[("web", SHOP), ("db", SHOP), ("cache", SHOP), ("vault", BANK)])
    }

    #[track_caller]
    fn with(test: &str, keys: Value, pods: &[(&str, u32)]) -> Self {
        let node =
            Setup::new().datapath(Datapath::Dummy).protocols("OpenFlow13").gc_conf(keys).up(test);
        let namespaces = [SHOP, BANK].map(layouts::openshift_namespace).concat();
        let namespaces = node.install("br0", &namespaces);
        let mut sdn = Self { node, pods: Vec::new(), namespaces, flows: Vec::new() };
        for (name, vnid) in pods {
            sdn.run(name, *vnid);
        }
        sdn
    }

    #[track_caller]
    fn run(&mut self, name: &str, vnid: u32) {
        let pod = self.node.run_pod(name);
        self.flows.push(self.node.install("br0", &layouts::openshift(&pod.who(vnid))));
        self.pods.push(pod);
    }

    /// The namespaces' entries are all there, and those of the pods that are left.
    #[track_caller]
    fn assert_left(&self, gone: &[usize]) {
        let left = self.flows.iter().enumerate().filter(|(index, _)| !gone.contains(index));
        let left: Vec<String> = left.flat_map(|(_, flows)| flows.clone()).collect();
        assert_eq!(self.node.dump("br0"), sorted([self.namespaces.clone(), left].concat()));
    }
}

#[test]
fn a_namespace_outlives_its_first_second_and_last_pod() {
    for keys in configurations() {
        let sdn = Sdn::new("a_namespace_outlives", keys);
        for last in 0..3 {
            sdn.node.del(&sdn.pods[last]);
            sdn.assert_left(&[0, 1, 2][..=last]);
        }
        sweep(&sdn.node, &[]);
        sdn.assert_left(&[0, 1, 2]);
        sdn.node.del(&sdn.pods[3]);
        sweep(&sdn.node, &[]);
        sdn.assert_left(&[0, 1, 2, 3]);
    }
}

/// The only pod of its namespace goes first: that pods of another namespace share their
/// value is enough to know what such values are.
#[test]
fn a_namespace_of_one_pod() {
    for keys in configurations() {
        let sdn = Sdn::new("a_namespace_of_one_pod", keys);
        sdn.node.del(&sdn.pods[3]);
        sdn.assert_left(&[3]);
        sweep(&sdn.node, &[]);
        sdn.assert_left(&[3]);
    }
}

#[test]
fn one_orphan_after_the_other() {
    for keys in configurations() {
        let sdn = Sdn::new("one_orphan_after_the_other", keys);
        for last in 0..3 {
            sdn.node.vanish(&sdn.pods[last], Port::Gone);
            sweep(&sdn.node, &[]);
            sdn.assert_left(&[0, 1, 2][..=last]);
        }
    }
}

/// The first read of the namespace is when all of it is dead.
#[test]
fn all_of_a_namespace_at_once() {
    for keys in configurations() {
        let sdn = Sdn::new("all_of_a_namespace_at_once", keys);
        for pod in &sdn.pods[..3] {
            sdn.node.vanish(pod, Port::Stays);
        }
        for _ in 0..2 {
            sweep(&sdn.node, &[]);
            sdn.assert_left(&[0, 1, 2]);
        }
        // Late DELs change nothing.
        for pod in &sdn.pods[..3] {
            sdn.node.try_del(pod).unwrap();
        }
        sdn.assert_left(&[0, 1, 2]);
    }
}

/// Nobody ever had another value: the value proves nothing, before and after the only pod's
/// end; and the next pod of the namespace finds its rules.
#[test]
fn one_pod_alone() {
    for keys in configurations() {
        let mut sdn = Sdn::with("one_pod_alone", keys, &[("web", SHOP)]);
        sdn.node.del(&sdn.pods[0]);
        sdn.assert_left(&[0]);
        sweep(&sdn.node, &[]);
        sdn.assert_left(&[0]);
        sdn.run("web2", SHOP);
        sweep(&sdn.node, &[]);
        sdn.assert_left(&[0]);
        sdn.node.del(&sdn.pods[1]);
        sdn.assert_left(&[0, 1]);
    }
}

/// What was learned outlives those who taught it: the namespace shrinks to one pod, and
/// another namespace comes only then.
#[test]
fn sharing_is_remembered() {
    let keys = json!({"lingerSeconds": 0});
    let mut sdn = Sdn::with("sharing_is_remembered", keys, &[("web", SHOP), ("db", SHOP)]);
    sdn.node.del(&sdn.pods[0]);
    sdn.run("vault", BANK);
    sweep(&sdn.node, &[]);
    sdn.node.del(&sdn.pods[1]);
    sdn.assert_left(&[0, 1]);
    sdn.node.del(&sdn.pods[2]);
    sweep(&sdn.node, &[]);
    sdn.assert_left(&[0, 1, 2]);
}

/// The marks of openshift-sdn itself, on a port that nobody recorded: DEL finds it by its
/// sandbox. With no record there is no more than its own port to go by, and nothing of the
/// namespace's goes.
#[test]
fn a_del_without_a_record() {
    for keys in configurations() {
        let sdn = Sdn::new("a_del_without_a_record", keys);
        let web = &sdn.pods[0];
        for id in [format!("sandbox={}", web.container), format!("ip={}", web.ip)] {
            sdn.node.ovs_vsctl(&["set", "Interface", &web.port, &format!("external_ids:{id}")]);
        }
        let network = sdn.node.state_dir.join("podnet");
        let record = network.join(format!("{}:eth0.json", web.container));
        std::fs::remove_file(record).unwrap();
        sdn.node.del(web);
        let left = sdn.node.dump("br0");
        for flow in sdn.namespaces.iter().chain(&sdn.flows[1]).chain(&sdn.flows[3]) {
            assert!(left.contains(flow), "{flow} is gone: {left:#?}");
        }
        let port = format!("in_port={},", web.ofport);
        assert!(!left.iter().any(|flow| flow.contains(&port)), "{left:#?}");
    }
}
