//! antrea: reg0 is a field of marks (where a packet came from, what was found out about it).
//! A mark is in every pod's entries and nobody's own.

use serde_json::{Value, json};

use crate::lifecycle::fixture::{sorted, sweep};
use crate::rig::{Attached, Datapath, Node, Port, Setup, layouts};

fn configurations() -> [Value; 2] {
    [json!({"preset": "antrea", "lingerSeconds": 0}), json!({"lingerSeconds": 0})]
}

/// antrea's bridge, which allows OpenFlow 1.0 and 1.5 only; port 1 is the tunnel.
#[track_caller]
fn antrea(test: &str, keys: Value) -> Node {
    let node = Setup::new()
        .datapath(Datapath::Dummy)
        .ovs_conf(json!({"bridge": "br-int"}))
        .gc_conf(keys)
        .up(test);
    node.add_bridge("br-int", Some("OpenFlow10,OpenFlow15"));
    node.ovs_vsctl(&[
        "add-port",
        "br-int",
        "antrea-tun0",
        "--",
        "set",
        "Interface",
        "antrea-tun0",
        "type=geneve",
        "options:remote_ip=flow",
        "options:key=flow",
        "ofport_request=1",
    ]);
    assert_eq!(node.ofport("antrea-tun0"), 1);
    node
}

/// Three pods end, one by one; `own` are the entries of one of them, `shared` those of all.
#[track_caller]
fn shared_outlives_them(
    node: &Node,
    shared: &[String],
    own: impl Fn(&Attached) -> Vec<String>,
    end: impl Fn(&Attached),
) {
    let mut shared = node.install("br-int", shared);
    let pods = ["web", "db", "cache"].map(|name| node.run_pod(name));
    let flows: Vec<_> = pods.iter().map(|pod| node.install("br-int", &own(pod))).collect();
    for (index, pod) in pods.iter().enumerate() {
        end(pod);
        let left = flows.iter().skip(index + 1).flatten().cloned().collect();
        let left = sorted([shared.clone(), left].concat());
        assert_eq!(node.dump("br-int"), left, "after the end of {}", pod.name);
    }
    sweep(node, &[]);
    shared.sort();
    assert_eq!(node.dump("br-int"), shared);
}

#[test]
fn marks_outlive_the_first_second_and_last_pod() {
    for keys in configurations() {
        let node = antrea("marks_outlive", keys);
        let own = |pod: &Attached| layouts::antrea(&pod.who(0));
        shared_outlives_them(&node, &layouts::antrea_base(), own, |pod| node.del(pod));
    }
}

#[test]
fn marks_outlive_orphans() {
    for keys in configurations() {
        let node = antrea("marks_outlive_orphans", keys);
        let own = |pod: &Attached| layouts::antrea(&pod.who(0));
        shared_outlives_them(&node, &layouts::antrea_base(), own, |pod| {
            node.vanish(pod, Port::Gone);
            sweep(&node, &[]);
        });
    }
}

/// A mark that fills the register, "from a local pod", and what is done with it.
#[test]
fn a_mark_that_fills_the_register() {
    for keys in configurations() {
        let node = antrea("a_mark_that_fills_the_register", keys);
        let shared = [
            "table=0, priority=200,in_port=1 actions=set_field:0x1->reg0,goto_table:30",
            "table=30, priority=9,reg0=0x1 actions=NORMAL",
            "table=30, priority=9,reg0=0x2 actions=goto_table:40",
            "table=31, priority=9,tcp,tp_dst=179 actions=set_field:0x2->reg0,goto_table:40",
        ];
        let own = |pod: &Attached| {
            let Attached { ofport, ip, .. } = pod;
            vec![
                format!(
                    "table=0, priority=190,in_port={ofport} actions=set_field:0x2->reg0,goto_table:10"
                ),
                format!(
                    "table=10, priority=200,ip,in_port={ofport},nw_src={ip} actions=goto_table:30"
                ),
            ]
        };
        shared_outlives_them(&node, &shared.map(str::to_owned), own, |pod| node.del(pod));
    }
}

/// Two marks, each in half of the register, as antrea had them before 1.0.
#[test]
fn marks_in_halves_of_the_register() {
    for keys in configurations() {
        let node = antrea("marks_in_halves", keys);
        let shared = [
            "table=30, priority=9,reg0=0x2/0xffff actions=goto_table:40",
            "table=30, priority=8,reg0=0x10002 actions=goto_table:40",
            "table=40, priority=9,reg0=0x10000/0x10000 actions=output:NXM_NX_REG1[]",
        ];
        let own = |pod: &Attached| {
            let Attached { ofport, mac, .. } = pod;
            vec![
                format!(
                    "table=0, priority=190,in_port={ofport} actions=set_field:0x2/0xffff->reg0,goto_table:10"
                ),
                format!(
                    "table=35, priority=200,dl_dst={mac} actions=set_field:{ofport:#x}->reg1,set_field:0x10000/0x10000->reg0,goto_table:40"
                ),
            ]
        };
        shared_outlives_them(&node, &shared.map(str::to_owned), own, |pod| node.del(pod));
    }
}
