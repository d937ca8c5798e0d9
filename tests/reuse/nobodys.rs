//! Entries that name a dead pod and are not its own: flood lists, pipelines, services, and
//! values that are not proven.

use serde_json::json;

use super::fixture::Fixture;
use crate::lifecycle::fixture::{states, sweep};
use crate::rig::{Datapath, Node, Port, Setup, layouts};

/// A number that entries output to beside more. The next pod that is given the number is
/// served by them, too.
#[test]
fn a_number_in_flood_lists_and_pipelines() {
    let mut fixture = Fixture::new("in_flood_lists", json!({"lingerSeconds": 0}), &["web", "db"]);
    let (web, db) = (fixture.pods[0].ofport, fixture.pods[1].ofport);
    fixture.node.ofctl(&["add-group", "br0", &format!("group_id=1,type=all,bucket=output:{db}")]);
    let shared = fixture.node.install(
        "br0",
        &[
            format!(
                "table=60, priority=9,dl_dst=ff:ff:ff:ff:ff:ff actions=output:{web},output:{db}"
            ),
            format!("table=60, priority=9,dl_dst=01:00:5e:00:00:01 actions=output:{db}"),
            format!("table=60, priority=9,ip,nw_dst=224.0.0.5 actions=output:{db}"),
            format!(
                "table=60, priority=8,ip,nw_dst=10.244.1.200 actions=output:{db},goto_table:61"
            ),
            format!(
                "table=60, priority=8,ip,nw_dst=10.244.1.201 actions=output:{db},resubmit(,61)"
            ),
            format!("table=60, priority=8,ip,nw_dst=10.244.1.202 actions=output:{db},output:{web}"),
            format!(
                "table=60, priority=8,ip,nw_dst=10.244.1.203 actions=output:{db},CONTROLLER:65535"
            ),
            "table=60, priority=8,ip,nw_dst=10.244.1.204 actions=group:1".to_owned(),
            format!("table=60, priority=7,ip,nw_dst=10.244.1.0/24 actions=output:{db}"),
            format!("table=61, priority=9,reg5=0x7 actions=output:{db}"),
            format!("table=61, priority=9,in_port={web} actions=output:{db}"),
            format!(
                "table=61, priority=8,tcp,tp_dst=80 actions=set_field:{db:#x}->reg1,goto_table:62"
            ),
            format!("table=61, priority=7,udp actions=resubmit({db},62)"),
            "table=62, priority=0 actions=output:NXM_NX_REG1[]".to_owned(),
            format!("table=0, priority=0,in_port={web},arp,arp_tpa=10.244.1.9 actions=output:{db}"),
        ],
    );
    fixture.node.del(&fixture.pods[1]);
    fixture.assert_left(&[0], &shared);
    sweep(&fixture.node, &[]);
    fixture.assert_left(&[0], &shared);
    let next = fixture.run_on("next", db);
    let next = fixture.install(next);
    sweep(&fixture.node, &[]);
    fixture.assert_left(&[0, next], &shared);
    fixture.node.vanish(&fixture.pods[next], Port::Stays);
    sweep(&fixture.node, &[]);
    fixture.assert_left(&[0], &shared);
}

/// A service is not its endpoint. The controller changes its entries when endpoints change.
#[test]
fn a_service_address() {
    let fixture = Fixture::quick("a_service_address", json!({"lingerSeconds": 0}), &["web", "db"]);
    let db = &fixture.pods[1];
    let (ip, port, mac) = (&db.ip, db.ofport, &db.mac);
    fixture.node.ofctl(&[
        "add-group",
        "br0",
        &format!("group_id=7,type=select,bucket=set_field:{ip}->ip_dst,output:{port}"),
    ]);
    let service = fixture.node.install(
        "br0",
        &[
            format!("table=50, priority=9,tcp,nw_dst=172.30.7.7,tp_dst=80 actions=ct(commit,table=40,zone=1,nat(dst={ip}))"),
            format!("table=50, priority=9,tcp,nw_dst=172.30.7.7,tp_dst=81 actions=set_field:{ip}->ip_dst,resubmit(,40)"),
            format!("table=50, priority=9,tcp,nw_dst=172.30.7.7,tp_dst=82 actions=set_field:{mac}->eth_dst,set_field:{port:#x}->reg1,goto_table:60"),
            "table=50, priority=9,tcp,nw_dst=172.30.7.7,tp_dst=83 actions=group:7".to_owned(),
            "table=50, priority=9,tcp,nw_src=172.30.7.7,tp_src=80 actions=resubmit(,40)".to_owned(),
            "table=50, priority=9,arp,arp_tpa=172.30.7.7,arp_op=1 actions=NORMAL".to_owned(),
        ],
    );
    fixture.node.del(db);
    sweep(&fixture.node, &[]);
    fixture.assert_left(&[0], &service);
}

/// One pod alone: its value may be the first of its namespace's. What matches it stays, with
/// the reason; the next pod with the value finds it.
#[test]
fn a_value_that_is_not_proven_to_be_the_pods_own() {
    let setup = Setup::new().datapath(Datapath::Dummy);
    let node = setup.gc_conf(json!({"lingerSeconds": 0})).up("not_proven");
    let mut left = node.install("br0", &layouts::classifier_base());
    let web = node.run_pod("web");
    node.install("br0", &layouts::classifier(&web.who(0x1001)));
    let rule = |flow: &String| flow.starts_with("table=20") && flow.contains("reg0=0x1001");
    left.extend(layouts::classifier(&web.who(0x1001)).into_iter().filter(rule));
    left.sort();
    node.vanish(&web, Port::Gone);
    for _ in 0..2 {
        let answer = sweep(&node, &[]);
        assert_eq!(node.dump("br0"), left);
        assert_eq!(answer["targets"][0]["kept"], json!({"register-not-proven": 2}));
        assert_eq!(states(&node)["web"], "deleting");
    }
    let web2 = node.run_pod("web2");
    node.add_flows("br0", &layouts::classifier(&web2.who(0x1001)));
    sweep(&node, &[]);
    for flow in left.iter().chain(&layouts::classifier(&web2.who(0x1001))) {
        assert!(node.dump("br0").contains(flow), "{flow}");
    }
}

/// openshift/origin #14893, #11698: no address, no number. A match that is built from
/// nothing matches everything.
#[test]
fn a_pod_without_an_address() {
    let node = Node::new("a_pod_without_an_address");
    node.configure_plugin("ovs-test-cni", json!({"ipam": null}));
    let (web, db) = (node.run_pod("web"), node.run_pod("db"));
    assert_eq!(db.ip, "");
    let kept = node.install(
        "br0",
        &[
            "table=0, priority=0 actions=NORMAL".to_owned(),
            "table=1, priority=1,ip actions=drop".to_owned(),
            "table=1, priority=1,arp,arp_spa=0.0.0.0 actions=drop".to_owned(),
            "table=1, priority=1,reg0=0 actions=drop".to_owned(),
            "table=1, priority=1,dl_src=00:00:00:00:00:00 actions=drop".to_owned(),
            format!("table=2, priority=1,in_port={} actions=drop", web.ofport),
        ],
    );
    node.install("br0", &[format!("table=2, priority=1,in_port={} actions=drop", db.ofport)]);
    node.del(&db);
    assert_eq!(node.dump("br0"), kept);
    // Its port is gone before DEL, so that there is no number either.
    node.ovs_vsctl(&["del-port", &web.port]);
    std::fs::remove_dir_all(node.state_dir.join("podnet")).unwrap();
    node.del(&web);
    assert_eq!(node.dump("br0"), kept);
}
