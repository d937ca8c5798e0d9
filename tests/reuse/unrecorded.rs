//! Pods that nobody recorded, but whose CNI has written their addresses into OVSDB: those
//! are tokens of somebody alive.

use serde_json::json;

use crate::lifecycle::fixture::{sorted, sweep};
use crate::rig::{Datapath, Node, Port, Setup};

/// One pod of each CNI that writes addresses down: table and marks. `IP` and `MAC` are to be
/// filled in.
const CNIS: [(&str, &str, &[&str]); 5] = [
    (
        "antrea",
        "Port",
        &[
            "antrea-type=container",
            "container-id=c1",
            "pod-name=p",
            "pod-namespace=n",
            "ip-address=\"fd00::9,IP\"",
            "attached-mac=\"MAC\"",
        ],
    ),
    (
        "kube-ovn",
        "Interface",
        &[
            "vendor=kube-ovn",
            "iface-id=p.n",
            "pod_name=p",
            "pod_namespace=n",
            "pod_netns=\"/run/netns/none\"",
            "ip=\"IP\"",
        ],
    ),
    (
        "ovn-kubernetes",
        "Interface",
        &[
            "sandbox=c3",
            "iface-id=n_p",
            "iface-id-ver=u3",
            "attached_mac=\"MAC\"",
            "ip_addresses=\"IP/24\"",
        ],
    ),
    ("openshift-sdn", "Interface", &["sandbox=c4", "ip=\"IP\""]),
    ("k-vswitch", "Port", &["netns=runnetnsnone", "k8s_pod_namespace=n", "k8s_pod_name=p"]),
];

#[test]
fn addresses_in_other_cnis_marks_are_alive() {
    let node = Setup::new()
        .datapath(Datapath::Dummy)
        .gc_conf(json!({"lingerSeconds": 0}))
        .up("in_other_cnis_marks");
    let mut left = Vec::new();
    let mut dead = Vec::new();
    for (number, (cni, table, marks)) in CNIS.iter().enumerate() {
        let pod = node.run_pod(cni);
        // Nothing in an entry but the address says that it has a new owner.
        let by_ip = [
            format!("table=50, priority=9,ip,nw_src={} actions=goto_table:60", pod.ip),
            format!("table=50, priority=9,arp,arp_tpa={} actions=drop", pod.ip),
        ];
        let by_mac = [format!("table=51, priority=9,dl_dst={} actions=goto_table:60", pod.mac)];
        let of_pod = [format!("table=52, priority=9,in_port={} actions=drop", pod.ofport)];
        let by_ip = node.install("br0", &by_ip);
        let by_mac = node.install("br0", &by_mac);
        node.install("br0", &of_pod);
        node.vanish(&pod, Port::Gone);

        let port = format!("other{number}");
        node.ovs_vsctl(&["add-port", "br0", &port]);
        for mark in *marks {
            let mark = mark.replace("IP", &pod.ip).replace("MAC", &pod.mac);
            node.ovs_vsctl(&["set", table, &port, &format!("external_ids:{mark}")]);
        }
        if *cni == "k-vswitch" {
            node.ovs_vsctl(&["set", "Interface", &port, "external_ids:netns=runnetnsnone"]);
            node.ovs_vsctl(&["set", "Port", &port, &format!("mac=\"{}\"", pod.mac)]);
        }
        let text = marks.concat();
        if text.contains("IP") {
            left.extend(by_ip);
        }
        if text.contains("MAC") || *cni == "k-vswitch" {
            left.extend(by_mac);
        }
        dead.push(pod);
    }
    sweep(&node, &[]);
    assert_eq!(node.dump("br0"), sorted(left.clone()));
    for pod in &dead {
        node.try_del(pod).unwrap();
    }
    assert_eq!(node.dump("br0"), sorted(left));
}

/// A pod's second record-less sibling: the same marks, and the end of the recorded one.
#[test]
fn a_del_spares_the_address_of_an_unrecorded_pod() {
    let node = Node::new("spares_unrecorded_address");
    let web = node.run_pod("web");
    let kept = node.install(
        "br0",
        &[format!("table=50, priority=9,ip,nw_src={} actions=goto_table:60", web.ip)],
    );
    node.ovs_vsctl(&[
        "add-port",
        "br0",
        "other0",
        "--",
        "set",
        "Interface",
        "other0",
        "type=internal",
        "external_ids:sandbox=c9",
        &format!("external_ids:ip=\"{}\"", web.ip),
    ]);
    node.del(&web);
    assert_eq!(node.dump("br0"), kept);
    // Once the unrecorded port is gone nobody has the address; its entry stays
    // until the next sweep.
    node.ovs_vsctl(&["del-port", "other0"]);
    sweep(&node, &[]);
    assert_eq!(node.dump("br0"), [""; 0]);
}

/// The controller of a pod whose ADD has not come puts what matches the value that it gives the
/// pod before what loads it. A dead pod had the value before.
#[test]
fn a_dead_pods_value_may_be_an_unrecorded_pods_by_now() {
    let conf = json!({"lingerSeconds": 0, "reg0": "pod"});
    let node =
        Setup::new().datapath(Datapath::Dummy).gc_conf(conf).up("value_of_an_unrecorded_pod");
    let (web, db) = (node.run_pod("web"), node.run_pod("db"));
    let loads = |port: u16, value: u32| {
        format!("table=0, in_port={port} actions=set_field:{value:#x}->reg0,resubmit(,20)")
    };
    let rule = |table: u8, value: u32| format!("table={table}, reg0={value:#x} actions=drop");
    for (pod, value) in [(&web, 0x1001), (&db, 0x1002)] {
        node.install("br0", &[loads(pod.ofport, value), rule(20, value)]);
    }
    node.ovs_vsctl(&["add-port", "br0", "vm0", "--", "set", "Interface", "vm0", "type=internal"]);
    for mark in ["iface-id=i", "attached-mac=\"0a:00:00:00:00:99\""] {
        node.ovs_vsctl(&["set", "Interface", "vm0", &format!("external_ids:{mark}")]);
    }
    // What is older than the last sight of who is dead is the dead one's.
    node.del(&db);
    let of_vm = node.install("br0", &[rule(21, 0x1001)]);
    node.vanish(&web, Port::Gone);
    sweep(&node, &[]);
    let left = node.dump("br0");
    assert!(
        left.contains(&of_vm[0]) && !left.iter().any(|flow| flow.contains("0x1002")),
        "{left:?}"
    );
    // Once it shows that its value is another one, this one is the dead pod's.
    let number = node.ovs_vsctl(&["get", "Interface", "vm0", "ofport"]).trim().parse().unwrap();
    let shown = node.install("br0", &[loads(number, 0x1003)]);
    sweep(&node, &[]);
    assert_eq!(node.dump("br0"), shown);
}
