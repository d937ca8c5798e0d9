//! Scenario 2: a pod's entries come after its ADD, so who it is in the register is found at
//! DEL; and every other way to know it.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::fixture::{Fixture, register, sorted, states, sweep};
use crate::rig::{Attached, Datapath, Node, Port, Setup, layouts};

fn node(test: &str, keys: Value) -> Node {
    Setup::new().datapath(Datapath::Dummy).gc_conf(keys).up(test)
}

/// Entries that only a register value makes a pod's: a classifier that loads it, a policy
/// that matches it, and an entry that gives the identity to whoever sends (rule 2).
struct Identity {
    classifier: Vec<String>,
    policy: Vec<String>,
    giveaway: Vec<String>,
}

impl Identity {
    /// `target` as in `set_field:VALUE->TARGET`, `field` as in a match.
    #[track_caller]
    fn install(node: &Node, pod: &Attached, target: &str, value: u32) -> Self {
        let port = pod.ofport;
        let classifier = format!(
            "table=0, priority=100,in_port={port} actions=set_field:{value:#x}->{target},resubmit(,20)"
        );
        let policy = [
            format!("table=20, priority=100,{target}={value:#x} actions=resubmit(,30)"),
            format!("table=20, priority=110,tcp,{target}={value:#x},tp_dst=25 actions=drop"),
        ];
        let giveaway = format!(
            "table=21, priority=9,tcp,tp_src={port} actions=set_field:{value:#x}->{target},resubmit(,20)"
        );
        Self {
            classifier: node.install("br0", &[classifier]),
            policy: node.install("br0", &policy),
            giveaway: node.install("br0", &[giveaway]),
        }
    }

    fn all(&self) -> Vec<String> {
        [self.classifier.clone(), self.policy.clone(), self.giveaway.clone()].concat()
    }
}

/// Two pods in a network whose values the operator says how to know. The first one goes;
/// its entries go and the second one's stay.
#[track_caller]
fn a_computed_value(node: &Node, target: &str, value: impl Fn(&Attached) -> u32) {
    let (web, db) = (node.run_pod("web"), node.run_pod("db"));
    let ofs = [&web, &db].map(|pod| Identity::install(node, pod, target, value(pod)));
    node.del(&web);
    assert_eq!(node.dump("br0"), sorted(ofs[1].all()));
    node.del(&db);
    assert_eq!(node.dump("br0"), [""; 0]);
}

/// The default configuration, one pod of each kind: values turn out to be pods' own addresses, so
/// no second pod of a workload is needed. A neighbour's entries stay, and so do those that a
/// controller made for the address's next owner.
#[test]
fn an_address_is_found_to_be_the_value() {
    let node = node("an_address_is_found", json!({"lingerSeconds": 0}));
    let value = |pod: &Attached| u32::from(pod.ip.parse::<Ipv4Addr>().unwrap());
    let own = |pod: &Attached, priority: u16| {
        let (port, value) = (pod.ofport, value(pod));
        let load =
            format!("table=0, in_port={port} actions=set_field:{value:#x}->reg0,resubmit(,20)");
        let policy = format!("table=20, priority={priority},reg0={value:#x} actions=resubmit(,30)");
        [node.install("br0", &[load]), node.install("br0", &[policy])].concat()
    };
    let bare = |name: &str| node.pod(name).with_name(name);
    let (web, db) = (node.add(&bare("web")), node.add(&bare("db")));
    let (_, of_db) = (own(&web, 100), own(&db, 100));
    node.del(&web);
    assert_eq!(node.dump("br0"), sorted(of_db.clone()));
    let doctor = node.admin(&["doctor"]).stdout;
    assert!(doctor.contains("each is its pod's own IPv4 address"), "{doctor}");

    // It dies without a DEL, and its address is given away before anybody notices.
    node.vanish(&db, Port::Gone);
    node.forget_lease(&db.ip);
    let successor = node.add(&bare("successor").with_ip(&db.ip));
    let of_successor = own(&successor, 110);
    sweep(&node, &[]);
    // Whose the old policy is nobody can tell any more: it goes with the successor.
    assert_eq!(node.dump("br0"), sorted([of_successor, vec![of_db[1].clone()]].concat()));
    node.del(&successor);
    assert_eq!(node.dump("br0"), [""; 0]);
}

#[test]
fn learned_at_del() {
    let node = node("learned_at_del", json!({}));
    let fixture = Fixture::new(&node, &["web", "db", "cache"]);
    let list = node.admin(&["list", "--json", "--no-flows"]);
    assert!(!list.stdout.contains("\"register\""), "nothing was known at ADD: {list}");

    let db = &fixture.pods[1];
    let value = register(1);
    let by_register = |node: &Node| {
        let of = |flow: &String| flow.contains(&format!("reg0={value:#x}"));
        node.dump("br0").into_iter().filter(of).count()
    };
    assert_eq!(by_register(&node), 4);
    node.del(db);
    assert_eq!(by_register(&node), 0);
    assert_eq!(node.dump("br0"), fixture.without(&[1]));
}

/// The look that DEL takes writes down what the living have: their classifier entries may
/// be gone when it is their turn.
#[test]
fn what_was_learned_is_remembered() {
    let node = node("what_was_learned_is_remembered", json!({}));
    let fixture = Fixture::new(&node, &["web", "db", "cache"]);
    node.del(&fixture.pods[0]);
    node.ofctl(&["del-flows", "br0", &format!("table=0,in_port={}", fixture.pods[1].ofport)]);
    node.del(&fixture.pods[1]);
    assert_eq!(node.dump("br0"), fixture.without(&[0, 1]));
}

/// What is sent to a group whose bucket loads a pod's value has it, too. Another pod's value is its
/// own, and so is this one when the group is gone.
#[test]
fn a_value_that_a_groups_bucket_loads() {
    let node = node("a_groups_bucket", json!({"lingerSeconds": 0}));
    let fixture = Fixture::new(&node, &["web", "db", "cache"]);
    let value = register(0);
    let group = format!("group_id=7,type=select,bucket=load:{value:#x}->NXM_NX_REG0[],output:9");
    node.ofctl(&["add-group", "br0", &group]);
    node.del(&fixture.pods[0]);
    node.del(&fixture.pods[1]);
    let waits = |flow: &&String| flow.contains(&format!("reg0={value:#x}"));
    let policy: Vec<_> = fixture.flows[0].iter().filter(waits).cloned().collect();
    assert_eq!(node.dump("br0"), sorted([fixture.without(&[0, 1]), policy].concat()));
    node.ofctl(&["del-groups", "br0"]);
    sweep(&node, &[]);
    assert_eq!(node.dump("br0"), fixture.without(&[0, 1]));
}

/// One pod alone proves nothing: its value may be its namespace's. Its policy stays, and is
/// gone once a second pod has shown that values differ.
#[test]
fn one_pod_alone_is_no_proof() {
    let node = node("one_pod_alone", json!({"lingerSeconds": 0}));
    let fixture = Fixture::new(&node, &["web"]);
    node.del(&fixture.pods[0]);
    let waits = |flow: &&String| flow.contains("reg0=0x1001");
    let policy: Vec<_> = fixture.flows[0].iter().filter(waits).cloned().collect();
    assert_eq!(node.dump("br0"), sorted([fixture.without(&[0]), policy.clone()].concat()));
    assert_eq!(states(&node)["web"], "deleting", "it is not forgotten");

    let db = node.run_pod("db");
    let second = node.install("br0", &layouts::classifier(&db.who(0x1002)));
    sweep(&node, &[]);
    assert_eq!(node.dump("br0"), sorted([fixture.without(&[0]), second].concat()));
    assert_eq!(states(&node), [("db".to_owned(), "active".to_owned())].into());
}

/// A namespace's value: the second pod with it is the proof that it is nobody's own.
#[test]
fn a_value_of_two_is_nobodys() {
    let node = node("a_value_of_two", json!({"lingerSeconds": 0}));
    let pods = ["web", "db", "other"].map(|name| node.run_pod(name));
    let values = [0x2001, 0x2001, 0x2002];
    let shared = node.install("br0", &["table=20, priority=7,reg0=0x2001 actions=NORMAL"]);
    for (pod, value) in pods.iter().zip(values) {
        let port = pod.ofport;
        let load =
            format!("table=0, in_port={port} actions=set_field:{value:#x}->reg0,resubmit(,20)");
        node.install("br0", &[load]);
    }
    for pod in &pods {
        node.del(pod);
        assert!(node.dump("br0").contains(&shared[0]), "after the end of {}", pod.name);
    }
    sweep(&node, &[]);
    assert_eq!(node.dump("br0"), shared);
}

#[test]
fn pod_is_the_operators_word() {
    let node = node("pod_is_the_operators_word", json!({"reg0": "pod"}));
    let fixture = Fixture::new(&node, &["web"]);
    node.del(&fixture.pods[0]);
    assert_eq!(node.dump("br0"), fixture.without(&[0]));
}

#[test]
fn ipv4_is_the_value() {
    let node = node("ipv4_is_the_value", json!({"reg0": "ipv4"}));
    a_computed_value(&node, "reg0", |pod| pod.ip.parse::<Ipv4Addr>().unwrap().into());
}

#[test]
fn ofport_is_the_value() {
    let node = node("ofport_is_the_value", json!({"reg0": "ofport"}));
    a_computed_value(&node, "reg0", |pod| pod.ofport.into());
}

/// The dead pod's number goes to somebody who is not in our chain. What he installs with the
/// number in a register is his, as what matches on the number itself is.
#[test]
fn ofport_is_the_value_of_whoever_has_the_number_now() {
    let keys = json!({"reg0": "ofport", "register": "reg1", "lingerSeconds": 0});
    let node = node("ofport_is_whoever_has_it", keys);
    let (web, db) = (node.run_pod("web"), node.run_pod("db"));
    let port = web.ofport;
    let theirs = Identity::install(&node, &db, "reg1", db.ofport.into()).all();
    node.vanish(&web, Port::Gone);
    let request = format!("ofport_request={port}");
    let add = ["add-port", "br0", "other0", "--", "set", "Interface", "other0", "type=internal"];
    node.ovs_vsctl(&[&add[..], &[&request]].concat());
    assert_eq!(node.ofport("other0"), port);
    let successors = [
        format!(
            "table=1, priority=200,dl_dst=0a:58:0a:f4:01:99 actions=set_field:{port:#x}->reg1,resubmit(,2)"
        ),
        format!("table=2, priority=200,reg1={port:#x} actions=output:NXM_NX_REG1[]"),
    ];
    let successors = node.install("br0", &successors);
    sweep(&node, &[]);
    assert_eq!(node.dump("br0"), sorted([theirs.clone(), successors.clone()].concat()));
}

/// A number is one bridge's: what another bridge has in the register is its own port's.
#[test]
fn ofport_is_the_value_on_the_ports_own_bridge() {
    let keys = json!({"reg0": "ofport", "register": "reg5", "bridges": ["br0", "br-phy"]});
    let node = node("ofport_on_its_own_bridge", keys);
    node.add_bridge("br-phy", None);
    let (web, db) = (node.run_pod("web"), node.run_pod("db"));
    let request = format!("ofport_request={}", web.ofport);
    let add = ["add-port", "br-phy", "other0", "--", "set", "Interface", "other0", "type=internal"];
    node.ovs_vsctl(&[&add[..], &[&request]].concat());
    let of = [&web, &db].map(|pod| Identity::install(&node, pod, "reg5", pod.ofport.into()));
    let elsewhere = [&web, &db].map(|pod| {
        let value = pod.ofport;
        format!("table=20, priority=100,reg5={value:#x} actions=resubmit(,30)")
    });
    let elsewhere = node.install("br-phy", &elsewhere);
    node.del(&web);
    assert_eq!(node.dump("br0"), sorted(of[1].all()));
    assert_eq!(node.dump("br-phy"), sorted(elsewhere));
}

#[test]
fn another_register() {
    let node = node("another_register", json!({"reg0": "ipv4", "register": "reg9"}));
    a_computed_value(&node, "reg9", |pod| pod.ip.parse::<Ipv4Addr>().unwrap().into());
}

/// The value is in bits 8 to 23; what else is in the register is no identity.
#[test]
fn a_field_of_another_register() {
    let keys = json!({"reg0": "ofport", "register": "reg5", "registerMask": "0x00ffff00"});
    let node = node("a_field_of_another_register", keys);
    let (web, db) = (node.run_pod("web"), node.run_pod("db"));
    let flows = |pod: &Attached| {
        let (port, value) = (pod.ofport, u32::from(pod.ofport) << 8);
        vec![
            format!(
                "table=0, in_port={port} actions=set_field:{value:#x}/0xffff00->reg5,resubmit(,20)"
            ),
            format!("table=20, priority=1,reg5={value:#x}/0xffff00 actions=drop"),
            // Other bits beside the field: one conjunct is enough.
            format!("table=20, priority=2,reg5={:#x}/0xffffff00 actions=drop", value | 0x0700_0000),
            format!(
                "table=21, priority=3,tcp,tp_src={port} actions=set_field:{value:#x}/0xffff00->reg5,resubmit(,20)"
            ),
        ]
    };
    let nobodys = |pod: &Attached| {
        let (port, value) = (pod.ofport, u32::from(pod.ofport) << 8);
        vec![
            // A part of the field, the number in other bits, another register.
            format!("table=22, priority={port},reg5={value:#x}/0xff00 actions=drop"),
            format!("table=23, priority={port},reg5={port:#x} actions=drop"),
            format!("table=24, priority={port},reg0={value:#x}/0xffff00 actions=drop"),
        ]
    };
    node.install("br0", &flows(&web));
    let theirs = node.install("br0", &flows(&db));
    let kept = node.install("br0", &[nobodys(&web), nobodys(&db)].concat());
    node.del(&web);
    assert_eq!(node.dump("br0"), sorted([theirs, kept.clone()].concat()));
    node.del(&db);
    assert_eq!(node.dump("br0"), sorted(kept));
}

/// Learned in a field, too: bits outside the mask are somebody else's marks.
#[test]
fn a_field_is_learned() {
    let keys = json!({"register": "reg3", "registerMask": "0xffff"});
    let node = node("a_field_is_learned", keys);
    let pods = ["web", "db"].map(|name| node.run_pod(name));
    let flows: Vec<_> = pods
        .iter()
        .zip([0x51, 0x52])
        .map(|(pod, value)| {
            let port = pod.ofport;
            node.install(
                "br0",
                &[
                    format!("table=0, in_port={port} actions=set_field:{value:#x}/0xffff->reg3,set_field:0x10000/0x10000->reg3,resubmit(,20)"),
                    format!("table=20, priority=1,reg3={value:#x}/0xffff actions=drop"),
                ],
            )
        })
        .collect();
    node.del(&pods[0]);
    assert_eq!(node.dump("br0"), sorted(flows[1].clone()));
}

#[test]
fn an_external_id_is_the_value() {
    // The controller writes it on the Interface or on the Port, as it likes to.
    for (table, text, value) in
        [("Interface", "4101", 4101), ("Port", "0x1005", 0x1005), ("Port", "10.9.8.7", 0x0a09_0807)]
    {
        let node = node("an_external_id", json!({"reg0": "externalId:endpoint"}));
        let pods = ["web", "db"].map(|name| node.run_pod(name));
        let values = [value, 77];
        for (pod, text) in pods.iter().zip([text, "77"]) {
            node.ovs_vsctl(&["set", table, &pod.port, &format!("external_ids:endpoint={text}")]);
        }
        let [mine, theirs] = [0, 1].map(|n| Identity::install(&node, &pods[n], "reg0", values[n]));
        assert_eq!(node.dump("br0").len(), mine.all().len() + theirs.all().len());
        node.del(&pods[0]);
        assert_eq!(node.dump("br0"), sorted(theirs.all()), "{table} {text}");
    }
}

/// Written down at ADD, when the key was there: the port row may be gone when DEL comes.
#[test]
fn an_external_id_is_remembered() {
    let node = node("an_external_id_is_remembered", json!({"reg0": "externalId:contPodUid"}));
    // A UID is no number: it stands for nobody.
    let web = node.run_pod("web");
    let identity = Identity::install(&node, &web, "reg0", 7);
    node.del(&web);
    let rest = [identity.policy, identity.giveaway].concat();
    assert_eq!(node.dump("br0"), sorted(rest));
    node.ofctl(&["del-flows", "br0"]);

    node.configure(json!({"reg0": "externalId:endpoint"}));
    let db = node.run_pod("db");
    node.ovs_vsctl(&["set", "Interface", &db.port, "external_ids:endpoint=4102"]);
    // The runtime calls ADD again (a repeated ADD must not lose what the first one knew).
    let conf = node.plugin_conf("ovs-flow-gc", Some(&db), Some(&db.result));
    node.call_for(&conf, "ADD", &db).run().ok();
    Identity::install(&node, &db, "reg0", 4102);
    node.ovs_vsctl(&["del-port", &db.port]);
    node.del(&db);
    assert_eq!(node.dump("br0"), [""; 0]);
}

#[test]
fn none_is_no_evidence() {
    let node = node("none_is_no_evidence", json!({"reg0": "none"}));
    let pods = ["web", "db"].map(|name| node.run_pod(name));
    let of = [0, 1].map(|n| Identity::install(&node, &pods[n], "reg0", register(n)));
    node.del(&pods[0]);
    let kept = [of[0].policy.clone(), of[0].giveaway.clone(), of[1].all()].concat();
    assert_eq!(node.dump("br0"), sorted(kept));
    assert_eq!(states(&node)["web"], "gone", "there is nothing to wait for");
}

/// `match` without it says the same.
#[test]
fn evidence_that_does_not_count() {
    let node = node("evidence_that_does_not_count", json!({"match": ["port"]}));
    let fixture = Fixture::new(&node, &["web", "db"]);
    let web = &fixture.pods[0];
    node.del(web);
    let left = node.dump("br0");
    for flow in &fixture.flows[0] {
        let port = [format!("in_port={},", web.ofport), format!("in_port={} ", web.ofport)];
        let (matches, actions) = flow.split_once(" actions=").unwrap();
        let by_port = port.iter().any(|port| format!("{matches} ").contains(port.as_str()));
        // Rule 4 needs the port alone, and a destination.
        let delivers = actions.ends_with(&format!("output:{}", web.ofport));
        let to_nobody = delivers && !matches.contains("reg0=");
        assert_eq!(!left.contains(flow), by_port || to_nobody, "{flow}");
    }
    assert!(fixture.without(&[0]).iter().all(|flow| left.contains(flow)));
}
