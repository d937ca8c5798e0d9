//! The address lives on: on another node, on another VLAN, in a network without us.

use serde_json::json;

use super::fixture::Fixture;
use crate::lifecycle::fixture::{sorted, sweep};
use crate::rig::{Attached, Datapath, Node, Port, Setup};

/// The tunnel to the other nodes.
#[track_caller]
fn tunnel(node: &Node) -> u16 {
    node.ovs_vsctl(&[
        "add-port",
        "br0",
        "vxlan0",
        "--",
        "set",
        "Interface",
        "vxlan0",
        "type=vxlan",
        "options:remote_ip=flow",
        "options:key=flow",
    ]);
    node.ofport("vxlan0")
}

/// What a controller installs for an address on another node, in every way that shows it.
fn remote(ip: &str, tunnel: u16) -> Vec<String> {
    vec![
        format!(
            "table=40, priority=100,ip,nw_dst={ip} actions=set_field:192.0.2.7->tun_dst,output:{tunnel}"
        ),
        format!("table=44, priority=5,ip,nw_dst={ip} actions=output:{tunnel}"),
        format!(
            "table=44, priority=6,arp,arp_tpa={ip} actions=set_field:192.0.2.7->tun_dst,goto_table:60"
        ),
        format!("table=44, priority=7,ip,nw_dst={ip} actions=set_field:0x2a->tun_id,resubmit(,60)"),
        format!("table=44, priority=8,ip,in_port={tunnel},nw_src={ip} actions=goto_table:60"),
        format!(
            "table=44, priority=9,ip,nw_dst={ip} actions=set_field:{tunnel:#x}->reg1,goto_table:60"
        ),
        "table=60, priority=0 actions=output:NXM_NX_REG1[]".to_owned(),
    ]
}

/// The controller was quicker than we: the entries are there before anybody notices the
/// death, so that they are no younger than it.
#[test]
fn on_another_node_before_the_death_was_noticed() {
    for port in [Port::Stays, Port::Gone] {
        let fixture = Fixture::new("on_another_node", json!({"lingerSeconds": 0}), &["web", "db"]);
        let tunnel = tunnel(&fixture.node);
        let db = &fixture.pods[1];
        fixture.node.vanish(db, port);
        let remote = fixture.node.install("br0", &remote(&db.ip, tunnel));
        sweep(&fixture.node, &[]);
        fixture.assert_left(&[0], &remote);
        sweep(&fixture.node, &[]);
        fixture.assert_left(&[0], &remote);
    }
}

/// After a DEL: what is younger than the death is somebody else's, whatever it does.
#[test]
fn on_another_node_after_a_del() {
    let fixture = Fixture::new("on_another_node_after_a_del", json!({}), &["web", "db"]);
    let tunnel = tunnel(&fixture.node);
    let db = &fixture.pods[1];
    fixture.node.del(db);
    let mut flows = remote(&db.ip, tunnel);
    flows.push(format!("table=45, priority=1,ip,nw_dst={} actions=goto_table:60", db.ip));
    flows.push(format!("table=45, priority=2,ip,nw_src={} actions=drop", db.ip));
    let remote = fixture.node.install("br0", &flows);
    sweep(&fixture.node, &[]);
    fixture.assert_left(&[0], &remote);
    // The kubelet calls DEL several times.
    fixture.node.try_del(db).unwrap();
    fixture.assert_left(&[0], &remote);
}

/// A VM, or a pod with a fixed address, moved: the controller has *modified* the entry, which
/// is as old as ever, before the old pod's DEL.
#[test]
fn a_moved_pod_keeps_its_entry() {
    let fixture = Fixture::new("a_moved_pod", json!({"lingerSeconds": 0}), &["web", "vm"]);
    let tunnel = tunnel(&fixture.node);
    let vm = &fixture.pods[1];
    let moved = [
        format!(
            "table=40, priority=100,ip,nw_dst={} actions=set_field:192.0.2.7->tun_dst,output:{tunnel}",
            vm.ip
        ),
        format!(
            "table=40, priority=100,arp,arp_tpa={} actions=set_field:0x2a->tun_id,set_field:192.0.2.7->tun_dst,output:{tunnel}",
            vm.ip
        ),
        format!(
            "table=40, priority=50,dl_dst={} actions=set_field:192.0.2.7->tun_dst,goto_table:60",
            vm.mac
        ),
    ];
    for flow in &moved {
        fixture.node.ofctl(&["--strict", "mod-flows", "br0", flow]);
    }
    fixture.node.del(vm);
    sweep(&fixture.node, &[]);
    fixture.assert_left(&[0], &moved);
}

/// A pod in a VLAN: what arrives from it, and what is delivered to it.
fn in_vlan(pod: &Attached, vlan: u16) -> Vec<String> {
    let Attached { ip, ofport, .. } = pod;
    vec![
        format!(
            "table=0, priority=9,in_port={ofport} actions=set_field:{vlan:#x}->metadata,goto_table:5"
        ),
        format!(
            "table=5, priority=9,ip,metadata={vlan:#x},in_port={ofport},nw_src={ip} actions=goto_table:6"
        ),
        format!(
            "table=5, priority=9,arp,metadata={vlan:#x},in_port={ofport},arp_spa={ip} actions=goto_table:6"
        ),
        format!("table=6, priority=9,ip,metadata={vlan:#x},nw_dst={ip} actions=output:{ofport}"),
        format!("table=6, priority=9,arp,metadata={vlan:#x},arp_tpa={ip} actions=output:{ofport}"),
        format!(
            "table=7, priority=9,ip,metadata={vlan:#x},nw_dst={ip} actions=set_field:{ofport:#x}->reg1,goto_table:8"
        ),
    ]
}

const BY_REGISTER: &str = "table=8, priority=9 actions=output:NXM_NX_REG1[]";

/// Two pods have one address, each in its VLAN. The end of one is not the other's.
#[test]
fn the_same_address_on_another_vlan() {
    let node = Setup::new().ovs_conf(json!({"vlan": 100})).up("on_another_vlan");
    let (red, red2) = (node.run_pod("red"), node.run_pod("red2"));
    node.configure_plugin("ovs-test-cni", json!({"vlan": 200}));
    node.forget_lease(&red.ip);
    let (blue, blue2) = (node.add(&node.pod("blue").with_ip(&red.ip)), node.run_pod("blue2"));
    assert_eq!(blue.ip, red.ip);
    let mut flows = node.install("br0", &[BY_REGISTER]);
    let of_red = node.install("br0", &in_vlan(&red, 100));
    for (pod, vlan) in [(&red2, 100), (&blue, 200), (&blue2, 200)] {
        flows.extend(node.install("br0", &in_vlan(pod, vlan)));
    }
    // Nothing but the address says whose this is: it may be the other one's.
    let either = format!("table=9, priority=9,ip,nw_dst={} actions=goto_table:60", red.ip);
    flows.extend(node.install("br0", &[either]));
    assert_eq!(of_red.len(), 6);
    node.must_reach(&red2, &red.ip);
    node.must_reach(&blue2, &blue.ip);

    node.del(&red);

    let left = node.dump("br0");
    for flow in &flows {
        assert!(left.contains(flow), "{flow} is gone");
    }
    // Only what loads a port number, and the address alone, cannot be told from blue's.
    let leaked: Vec<_> = left.iter().filter(|flow| !flows.contains(flow)).collect();
    assert!(leaked.iter().all(|flow| flow.starts_with("table=7")), "{leaked:#?}");
    node.must_reach(&blue2, &blue.ip);
    assert!(!node.ping(&red2, &red.ip));
}

/// The other one's network is not ours: no record, no marks, just a port.
#[test]
fn the_same_address_in_a_network_without_us() {
    let node = Node::new("in_a_network_without_us");
    let (red, red2) = (node.run_pod("red"), node.run_pod("red2"));
    let vm = node.plug(&node.pod("vm"), "br0", "tap1", &format!("{}/24", red.ip));
    let vm2 = node.plug(&node.pod("vm2"), "br0", "tap2", "10.244.1.250/24");
    let mut flows = node.install("br0", &[BY_REGISTER]);
    let of_red = node.install("br0", &in_vlan(&red, 100));
    for (pod, vlan) in [(&red2, 100), (&vm, 200), (&vm2, 200)] {
        flows.extend(node.install("br0", &in_vlan(pod, vlan)));
    }
    assert_eq!(of_red.len(), 6);
    node.must_reach(&vm2, &vm.ip);

    node.del(&red);

    assert_eq!(node.dump("br0"), sorted(flows.clone()));
    node.must_reach(&vm2, &vm.ip);
    node.vanish(&red2, Port::Gone);
    sweep(&node, &[]);
    flows.retain(|flow| !in_vlan(&red2, 100).contains(flow));
    assert_eq!(node.dump("br0"), sorted(flows));
    node.must_reach(&vm2, &vm.ip);
}

/// A virtual machine that no record knows has the pod's address in another VLAN. Its flows say the
/// VLAN, and its port's tag does.
#[test]
fn the_same_address_in_the_vlan_of_a_machine() {
    let node = Setup::new()
        .datapath(Datapath::Dummy)
        .ovs_conf(json!({"vlan": 100}))
        .gc_conf(json!({"lingerSeconds": 0}))
        .up("the_vlan_of_a_machine");
    let (red, gone) = (node.run_pod("red"), node.run_pod("gone"));
    let machine = node.plug(&node.pod("vm"), "br0", "tap1", &format!("{}/24", red.ip));
    node.ovs_vsctl(&["set", "Port", "tap1", "tag=200"]);
    let in_vlan = |vlan: u16, ip: &str| {
        [
            format!("table=50, priority=9,ip,dl_vlan={vlan},nw_src={ip} actions=goto_table:60"),
            format!("table=50, priority=9,arp,dl_vlan={vlan},arp_tpa={ip} actions=drop"),
        ]
    };
    let mut machines = node.install("br0", &in_vlan(200, &red.ip));
    node.install("br0", &in_vlan(100, &red.ip));
    let of_gone = node.install("br0", &in_vlan(200, &gone.ip));
    node.install("br0", &in_vlan(100, &gone.ip));
    node.del(&red);
    // The row is gone before anybody looks: the record knows the VLAN.
    node.vanish(&gone, Port::Gone);
    sweep(&node, &[]);
    machines.extend(of_gone);
    assert_eq!(node.dump("br0"), sorted(machines.clone()));

    // Neutron marks the machine's port: it owns its MAC, whoever had it before.
    for id in ["iface-id=0d4b2e5a", &format!("attached-mac=\"{}\"", machine.mac)] {
        node.ovs_vsctl(&["set", "Interface", "tap1", &format!("external_ids:{id}")]);
    }
    let before = node.add(&node.pod("before").with_mac(&machine.mac));
    assert_eq!(before.mac, machine.mac);
    machines.extend(node.install(
        "br0",
        &[format!("table=50, priority=9,dl_dst={} actions=goto_table:60", machine.mac)],
    ));
    node.del(&before);
    assert_eq!(node.dump("br0"), sorted(machines));
}

/// A pod's flows say in which VLAN it is, and go at its DEL. Whoever looks later still knows it, and
/// that another pod's port had no tag and was put into no VLAN.
#[test]
fn the_vlan_of_a_port_that_is_gone() {
    let node = Setup::new().datapath(Datapath::Dummy).up("the_vlan_of_the_gone");
    let (red, plain) = (node.run_pod("red"), node.run_pod("plain"));
    let mut others = Vec::new();
    for pod in [&red, &plain] {
        let ip = &pod.ip;
        others.extend(node.install(
            "br0",
            &[
                format!("table=50, priority=9,ip,dl_vlan=300,nw_src={ip} actions=goto_table:60"),
                format!("table=50, priority=9,arp,dl_vlan=300,arp_tpa={ip} actions=drop"),
            ],
        ));
    }
    let into = format!(
        "table=0, priority=9000,in_port={},vlan_tci=0x0000/0x1fff \
         actions=push_vlan:0x8100,set_field:4196->vlan_vid,goto_table:1",
        red.ofport
    );
    let own =
        format!("table=50, priority=9,ip,dl_vlan=100,nw_src={} actions=goto_table:60", red.ip);
    node.install("br0", &[into, own]);

    node.del(&red);
    node.del(&plain);
    for _ in 0..2 {
        assert_eq!(node.dump("br0"), sorted(others.clone()));
        sweep(&node, &[]);
    }
    assert_eq!(node.dump("br0"), sorted(others));
}

/// Neutron's pipeline carries the port in reg5 and its VLAN in reg6, and no register is configured:
/// a machine that no record knows keeps its rules for a dead pod's address, and its network's.
#[test]
fn the_rules_of_a_machine_by_registers_that_nobody_configured() {
    let node = Setup::new()
        .datapath(Datapath::Dummy)
        .ovs_conf(json!({"vlan": 100}))
        .gc_conf(json!({"lingerSeconds": 0}))
        .up("registers_of_a_machine");
    let (red, other) = (node.run_pod("red"), node.run_pod("other"));
    let vm = node.plug(&node.pod("vm"), "br0", "tap1", &format!("{}/24", red.ip));
    node.ovs_vsctl(&["set", "Port", "tap1", "tag=200"]);
    for id in ["iface-id=0d4b2e5a", &format!("attached-mac=\"{}\"", vm.mac)] {
        node.ovs_vsctl(&["set", "Interface", "tap1", &format!("external_ids:{id}")]);
    }
    let machine = node.ofport("tap1");
    let transient = |port: u16, vlan: u16| {
        format!(
            "table=60, priority=9,in_port={port} \
             actions=set_field:{port:#x}->reg5,set_field:{vlan:#x}->reg6,resubmit(,71)"
        )
    };
    let mut kept = vec![transient(machine, 200), transient(other.ofport, 100)];
    for ip in [&red.ip, &other.ip] {
        kept.push(format!("table=72, priority=77,ip,reg5={machine:#x},nw_dst={ip} actions=drop"));
    }
    kept.push(format!("table=82, priority=70,ip,reg6=0xc8,nw_src={} actions=drop", red.ip));
    let kept = node.install("br0", &kept);
    node.install(
        "br0",
        &[
            transient(red.ofport, 100),
            format!(
                "table=72, priority=77,ip,reg5={:#x},nw_src={} actions=drop",
                red.ofport, red.ip
            ),
            format!("table=82, priority=70,ip,reg6=0x64,nw_src={} actions=drop", red.ip),
        ],
    );

    node.del(&red);
    assert_eq!(node.dump("br0"), sorted(kept.clone()));
    sweep(&node, &[]);
    assert_eq!(node.dump("br0"), sorted(kept));
}
