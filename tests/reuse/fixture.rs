//! Pods whose packets flow, and the ways to give one what another had.

use std::path::Path;

use serde_json::{Value, json};

use crate::lifecycle::fixture::sorted;
use crate::rig::{Attached, Datapath, Node, Setup, layouts};

/// A node with the classifier pipeline. Every line of its dumps has an owner.
pub(super) struct Fixture {
    pub(super) node: Node,
    pub(super) base: Vec<String>,
    pub(super) pods: Vec<Attached>,
    pub(super) flows: Vec<Vec<String>>,
}

impl Fixture {
    /// Packets flow.
    #[track_caller]
    pub(super) fn new(test: &str, keys: Value, names: &[&str]) -> Self {
        Self::on(Setup::new().gc_conf(keys).up(test), names)
    }

    /// Quicker; no packets.
    #[track_caller]
    pub(super) fn quick(test: &str, keys: Value, names: &[&str]) -> Self {
        Self::on(Setup::new().datapath(Datapath::Dummy).gc_conf(keys).up(test), names)
    }

    #[track_caller]
    fn on(node: Node, names: &[&str]) -> Self {
        let base = node.install("br0", &layouts::classifier_base());
        let mut fixture = Self { node, base, pods: Vec::new(), flows: Vec::new() };
        for name in names {
            let pod = fixture.node.run_pod(name);
            fixture.install(pod);
        }
        fixture
    }

    /// The controller installs a pod's entries; those of a predecessor that match the same
    /// are replaced. Returns the pod's index.
    #[track_caller]
    pub(super) fn install(&mut self, pod: Attached) -> usize {
        let index = self.pods.len();
        let flows = layouts::classifier(&pod.who(0x1001 + u32::try_from(index).unwrap()));
        self.node.add_flows("br0", &flows);
        self.flows.push(flows);
        self.pods.push(pod);
        index
    }

    /// Gives the address of a dead pod to a new one.
    #[track_caller]
    pub(super) fn run_at(&self, name: &str, ip: &str) -> Attached {
        let lease = self.node.dir.join("ipam/podnet").join(ip);
        if lease.exists() {
            self.node.forget_lease(ip);
        }
        let pod = self.node.add(&self.node.pod(name).with_ip(ip));
        assert_eq!(pod.ip, ip);
        // Whoever spoke with the old one asks again who has the address.
        for pod in self.pods.iter().filter(|pod| Path::new(&pod.netns_path()).exists()) {
            self.node.run("ip", &["-n", &pod.netns, "neigh", "flush", "all"]).ok();
        }
        pod
    }

    /// Gives the port number of a dead pod to a new one.
    #[track_caller]
    pub(super) fn run_on(&self, name: &str, ofport: u16) -> Attached {
        self.node.configure_plugin("ovs-test-cni", json!({"ofport": ofport}));
        let pod = self.node.run_pod(name);
        self.node.configure_plugin("ovs-test-cni", json!({"ofport": null}));
        assert_eq!(pod.ofport, ofport);
        pod
    }

    /// Nothing is on the switch but the base, these pods' entries, and `more`.
    #[track_caller]
    pub(super) fn assert_left(&self, pods: &[usize], more: &[String]) {
        let of_pods = pods.iter().flat_map(|pod| self.flows[*pod].clone()).collect();
        let left = sorted([self.base.clone(), of_pods, more.to_vec()].concat());
        let dump = self.node.dump("br0");
        let missing: Vec<_> = left.iter().filter(|flow| !dump.contains(flow)).collect();
        let too_much: Vec<_> = dump.iter().filter(|flow| !left.contains(flow)).collect();
        assert_eq!((missing, too_much), (Vec::new(), Vec::new()), "missing, too much");
    }
}

/// `set_field` and the like, as a dump writes them.
pub(super) fn strings<const N: usize>(flows: [&str; N]) -> Vec<String> {
    flows.map(str::to_owned).to_vec()
}
