//! The marks of every OVS CNI of the field notes, written with ovs-vsctl as that CNI writes
//! them: ADD finds the port by them, and so does a DEL without a record. Never a row that
//! somebody else owns: kube-ovn's clean-up by name deleted live interfaces (kube-ovn #5811)
//! and an uplink (kube-ovn #2085).

use crate::rig::{Attached, Datapath, Node, Pod, Port, Setup, layouts};
use serde_json::{Value, json};

const GC: &str = "ovs-flow-gc";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::enum_variant_names, reason = "the projects are called so")]
enum Cni {
    OvsCni,
    Antrea,
    KubeOvn,
    OvnKubernetes,
    OpenshiftSdn,
    KVswitch,
    OvsDocker,
}

use Cni::{Antrea, KVswitch, KubeOvn, OpenshiftSdn, OvnKubernetes, OvsCni, OvsDocker};

const ALL: [Cni; 7] = [OvsCni, Antrea, KubeOvn, OvnKubernetes, OpenshiftSdn, KVswitch, OvsDocker];

impl Cni {
    /// What it calls a pod's port.
    fn port(self, pod: &Pod) -> String {
        match self {
            KubeOvn => format!("{}_h", &pod.container[..12]),
            _ => format!("p{}", &pod.container[..8]),
        }
    }

    /// Writes its marks on a port that has none.
    fn mark(self, node: &Node, pod: &Attached) {
        let netns = pod.netns_path();
        let bare = netns.replace('/', "");
        let both = format!("{},{}", pod.ip, pod.ip6);
        let cidr = format!("{}/24", pod.ip);
        let logical = format!("default_{}", pod.name);
        let dotted = format!("{}.default", pod.name);
        type Ids<'a> = &'a [(&'a str, &'a str)];
        let (port, interface): (Ids<'_>, Ids<'_>) = match self {
            OvsCni => (
                &[
                    ("owner", "ovs-cni.network.kubevirt.io"),
                    ("contNetns", &netns),
                    ("contIface", &pod.ifname),
                    ("contPodUid", &pod.uid),
                ],
                &[],
            ),
            Antrea => (
                &[
                    ("antrea-type", "container"),
                    ("container-id", &pod.container),
                    ("pod-name", &pod.name),
                    ("pod-namespace", "default"),
                    ("ip-address", &both),
                    ("attached-mac", &pod.mac),
                    ("net-ns", &netns),
                ],
                &[],
            ),
            KubeOvn => (
                &[],
                &[
                    ("iface-id", &dotted),
                    ("vendor", "kube-ovn"),
                    ("pod_name", &pod.name),
                    ("pod_namespace", "default"),
                    ("pod_netns", &netns),
                    ("ip", &pod.ip),
                ],
            ),
            OvnKubernetes => (
                &[],
                &[
                    ("sandbox", &pod.container),
                    ("iface-id", &logical),
                    ("iface-id-ver", &pod.uid),
                    ("attached_mac", &pod.mac),
                    ("ip_addresses", &cidr),
                ],
            ),
            OpenshiftSdn => (&[], &[("sandbox", &pod.container), ("ip", &pod.ip)]),
            KVswitch => {
                let mac = format!("mac=\"{}\"", pod.mac);
                node.ovs_vsctl(&["set", "Port", &pod.port, &mac]);
                let marks: &[(&str, &str)] = &[
                    ("netns", &bare),
                    ("k8s_pod_namespace", "default"),
                    ("k8s_pod_name", &pod.name),
                ];
                set(node, "Port", &pod.port, marks);
                set(node, "Interface", &pod.port, marks);
                return;
            }
            OvsDocker => {
                (&[], &[("container_id", &pod.container), ("container_iface", &pod.ifname)])
            }
        };
        set(node, "Port", &pod.port, port);
        set(node, "Interface", &pod.port, interface);
    }
}

fn set(node: &Node, table: &str, record: &str, marks: &[(&str, &str)]) {
    if marks.is_empty() {
        return;
    }
    let pairs: Vec<String> =
        marks.iter().map(|(key, value)| format!("external_ids:\"{key}\"=\"{value}\"")).collect();
    let pairs: Vec<&str> = pairs.iter().map(String::as_str).collect();
    node.ovs_vsctl(&[&["set", table, record], &pairs[..]].concat());
}

fn node(test: &str) -> Node {
    Setup::new().datapath(Datapath::Netdev).cni_version("0.3.1").up(test)
}

/// A sandbox whose container id does not begin like all the others'.
fn sandbox(node: &Node, name: &str, number: u32) -> Pod {
    let mut pod = node.pod(name);
    pod.container.replace_range(..12, &format!("{:08x}{number:04x}", 0xabcd_0000 + number));
    pod
}

/// A pod as that CNI attaches one, with a classifier's flows: nothing of it is recorded yet.
fn attach(node: &Node, cni: Cni, name: &str, number: u32) -> (Attached, Vec<String>) {
    let pod = sandbox(node, name, number);
    let ip = format!("10.9.0.{number}/24");
    let mut pod = node.plug(&pod, "br0", &cni.port(&pod), &ip);
    pod.ip6 = format!("fd00:9::{number}");
    cni.mark(node, &pod);
    let flows = node.install("br0", &layouts::classifier(&pod.who(0x1000 + number)));
    (pod, flows)
}

/// ADD of us alone. prevResult says nothing about the host's end.
#[track_caller]
fn add(node: &Node, pod: &Attached) {
    let mut prev = pod.result.clone();
    prev["interfaces"].as_array_mut().unwrap().remove(0);
    prev["ips"][0]["interface"] = json!(0);
    let conf = node.plugin_conf(GC, Some(pod), Some(&prev));
    let added = node.call(GC, "ADD").pod(pod).conf(&conf).run();
    assert_eq!(added.ok(), prev.to_string());
}

/// DEL of us alone; below cniVersion 0.4.0 it has no prevResult.
#[track_caller]
fn del(node: &Node, pod: &Pod, netns: &str) {
    let conf = node.plugin_conf(GC, Some(pod), None);
    let done = node.call(GC, "DEL").pod(pod).env("CNI_NETNS", netns).conf(&conf).run();
    assert!(done.succeeded() && done.stdout.is_empty(), "{done}");
}

/// The record of a pod.
#[track_caller]
fn record(node: &Node, pod: &Pod) -> Value {
    let rows = node.admin(&["list", "--json", "--no-flows"]).json();
    let row = rows.as_array().unwrap().iter().find(|r| r["containerID"] == pod.container.as_str());
    row.unwrap_or_else(|| panic!("{} is not in {rows:#}", pod.name)).clone()
}

#[track_caller]
fn untouched(node: &Node, flows: &[&[String]], why: &str) {
    let left = node.dump("br0");
    assert!(flows.concat().iter().all(|flow| left.contains(flow)), "{why}: {left:#?}");
}

#[test]
fn add_finds_the_port_by_the_marks_of_every_cni() {
    for cni in ALL {
        let node = node("marks_add");
        let (_other, _) = attach(&node, cni, "other", 1);
        let (pod, _) = attach(&node, cni, "pod", 2);
        add(&node, &pod);
        let record = record(&node, &pod);
        assert_eq!(record["port"], pod.port.as_str(), "{cni:?}: {record:#}");
        assert_eq!(record["ofport"], pod.ofport, "{cni:?}");
        assert_eq!((&record["bridge"], &record["ips"]), (&json!("br0"), &json!([pod.ip])));
    }
}

#[test]
fn a_del_without_a_record_finds_the_port_by_the_marks_of_every_cni() {
    for cni in ALL {
        let node = node("marks_del");
        let (pod, flows) = attach(&node, cni, "pod", 1);
        let (live, kept) = attach(&node, cni, "live", 2);
        add(&node, &live);
        del(&node, &pod, &pod.netns_path());
        let left = node.dump("br0");
        untouched(&node, &[&kept], &format!("{cni:?}"));
        // Rules 1, 2 and 4 only: what names nothing but an address or a register stays,
        // because nobody knows when the address was freed.
        let rest: Vec<_> = left.iter().filter(|flow| flows.contains(flow)).collect();
        let unproven = |flow: &str| flow.contains("reg0=") || flow.contains("ct_nw_");
        assert!(rest.iter().all(|flow| unproven(flow)), "{cni:?}: {rest:#?}");
    }
}

/// The kubelet calls DEL again with an empty `CNI_NETNS`: who marks by container is found all
/// the same, who marks by namespace is not guessed.
#[test]
fn a_del_without_a_netns_finds_who_is_marked_by_container() {
    for cni in ALL {
        let node = node("marks_no_netns");
        let (pod, flows) = attach(&node, cni, "pod", 1);
        let (_live, kept) = attach(&node, cni, "live", 2);
        del(&node, &pod, "");
        untouched(&node, &[&kept], &format!("{cni:?}"));
        let by_netns = matches!(cni, OvsCni | KVswitch);
        assert_eq!(node.dump("br0").contains(&flows[5]), by_netns, "{cni:?}");
    }
}

/// DEL of one interface is not DEL of the pod's others.
#[test]
fn another_interface_of_the_same_pod_is_another_attachment() {
    for cni in ALL {
        let node = node("marks_ifname");
        let (pod, flows) = attach(&node, cni, "pod", 1);
        for ifname in ["net1", "eth1", "e"] {
            del(&node, &pod.pod.clone().with_ifname(ifname), &pod.netns_path());
        }
        assert_eq!(node.dump("br0"), flows, "{cni:?}");
    }
    // A secondary network of ovn-kubernetes: nothing tells which interface it is.
    let node = node("marks_nad");
    let (pod, flows) = attach(&node, OvnKubernetes, "pod", 1);
    set(&node, "Interface", &pod.port, &[("k8s.ovn.org/nad", "default/blue")]);
    del(&node, &pod, &pod.netns_path());
    assert_eq!(node.dump("br0"), flows);
}

/// A path to a namespace is used again: the row with that mark is on somebody's record.
#[test]
fn a_row_that_another_record_claims_is_never_taken() {
    for cni in ALL {
        let node = node("marks_claimed");
        let (live, flows) = attach(&node, cni, "live", 1);
        add(&node, &live);
        let mut late = sandbox(&node, "late", 2);
        late.netns.clone_from(&live.netns);
        del(&node, &late, &live.netns_path());
        assert_eq!(node.dump("br0"), flows, "{cni:?}");
        assert_eq!(record(&node, &live)["state"], "active");
    }
}

/// kube-ovn #5811, antrea #827: a pod's name is not the pod. A StatefulSet's next pod, or a
/// virtual machine that moves, has the name, the address and the MAC of the one before.
#[test]
fn kube_ovn_5811_a_name_an_address_and_a_mac_are_no_proof_of_ownership() {
    for cni in ALL {
        let node = node("marks_names");
        let (live, flows) = attach(&node, cni, "web-0", 1);
        let old = sandbox(&node, "web-0", 2);
        let mut conf = node.plugin_conf(GC, Some(&old), Some(&live.result));
        conf["cniVersion"] = json!("1.0.0");
        for netns in ["", &old.netns_path()] {
            let call = node.call(GC, "DEL").pod(&old).env("CNI_NETNS", netns).conf(&conf);
            call.env("CNI_ARGS", live.args()).run().ok();
            assert_eq!(node.dump("br0"), flows, "{cni:?} {netns:?}");
        }
        assert!(node.ports("br0").contains(&live.port), "{cni:?}");
    }
}

/// A crash left a second row with the same marks (openshift/origin #20670): which one is
/// meant, nobody knows.
#[test]
fn two_rows_with_the_same_marks_are_nobodys() {
    for cni in ALL.into_iter().filter(|cni| *cni != KubeOvn) {
        let node = node("marks_twice");
        let (pod, flows) = attach(&node, cni, "pod", 1);
        let (mut second, more) = attach(&node, cni, "second", 2);
        for table in ["Port", "Interface"] {
            node.ovs_vsctl(&["clear", table, &second.port, "external_ids"]);
        }
        let port = second.port.clone();
        (second.pod, second.port) = (pod.pod.clone(), port);
        cni.mark(&node, &second);
        del(&node, &pod, &pod.netns_path());
        untouched(&node, &[&flows, &more], &format!("{cni:?}"));
    }
}

/// kube-ovn #2085: an uplink was deleted for the name it had. A dead pod's port name is the
/// uplink's now, and its number, too.
#[test]
fn kube_ovn_2085_an_uplink_is_nobodys_leftover() {
    let node = Setup::new().gc_conf(json!({"reapPorts": true, "lingerSeconds": 0})).up("uplink");
    let _live = node.run_pod("live");
    let dead = node.run_pod("dead");
    node.kill_sandbox(&dead);
    // Nothing is behind it yet, as after a reboot: its row looks like a leftover.
    let request = format!("ofport_request={}", dead.ofport);
    node.ovs_vsctl(&[
        "del-port",
        &dead.port,
        "--",
        "add-port",
        "br0",
        &dead.port,
        "--",
        "set",
        "Interface",
        &dead.port,
        "type=internal",
        &request,
    ]);
    node.run("ip", &["link", "del", &dead.port]);
    assert_eq!(node.ofport(&dead.port), dead.ofport);
    let uplink = format!("in_port={}", dead.ofport);
    let flows = node.install(
        "br0",
        &[
            format!("table=0, priority=9,{uplink} actions=resubmit(,40)"),
            format!("table=40, priority=9,ip,nw_dst=192.0.2.1 actions=output:{}", dead.ofport),
        ],
    );
    node.admin(&["sweep"]).ok();
    assert_eq!(node.dump("br0"), flows);
    assert!(node.ports("br0").contains(&dead.port));
    del(&node, &dead, &dead.netns_path());
    assert_eq!(node.dump("br0"), flows);
}

/// Marks that a CNI leaves empty (openshift/origin #14893) match nothing.
#[test]
fn empty_marks_match_nothing() {
    let node = node("marks_empty");
    let (pod, flows) = attach(&node, OvsCni, "pod", 1);
    let (other, more) = attach(&node, KubeOvn, "other", 2);
    let ids = [("contNetns", ""), ("contIface", ""), ("container-id", ""), ("net-ns", "")];
    set(&node, "Port", &pod.port, &ids);
    set(&node, "Interface", &other.port, &[("pod_netns", ""), ("sandbox", ""), ("ip", "")]);
    let nobody = sandbox(&node, "nobody", 3);
    del(&node, &nobody, "");
    del(&node, &nobody, &nobody.netns_path());
    untouched(&node, &[&flows, &more], "empty");
    node.vanish(&pod, Port::Gone);
    del(&node, &pod, "");
    untouched(&node, &[&more], "empty");
}
