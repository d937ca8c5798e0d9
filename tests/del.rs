//! DEL deletes exactly one pod's entries.

mod rig;

use rig::{Node, layouts};

#[test]
fn del_takes_exactly_one_pods_entries_out_of_several() {
    let node = Node::new("del-exact");
    let base = node.install("br0", &layouts::classifier_base());
    let pods: Vec<_> = ["web", "db", "cache"].map(|name| node.run_pod(name)).into();
    let mut flows = Vec::new();
    for (pod, reg) in pods.iter().zip([0x1001, 0x1002, 0x1003]) {
        flows.push(node.install("br0", &layouts::classifier(&pod.who(reg))));
    }
    node.must_reach(&pods[0], &pods[2].ip);

    node.del(&pods[1]);

    let mut left = [base, flows[0].clone(), flows[2].clone()].concat();
    left.sort();
    assert_eq!(node.dump("br0"), left);
    node.must_reach(&pods[0], &pods[2].ip);
    // A runtime calls DEL again, also without a namespace.
    node.try_del(&pods[1]).unwrap();
    assert_eq!(node.dump("br0"), left);
}
