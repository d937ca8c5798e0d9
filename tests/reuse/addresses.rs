//! An address that somebody else on this node has now; address and number that two others
//! have.

use serde_json::json;

use super::fixture::{Fixture, strings};
use crate::lifecycle::fixture::sweep;
use crate::rig::{Attached, Port, sleep_ms};

/// Delivery to the pod by entries that its successor's do not replace.
fn delivery(pod: &Attached) -> Vec<String> {
    let Attached { ip, ofport, .. } = pod;
    vec![
        format!("table=40, priority=120,ip,nw_dst={ip} actions=output:{ofport}"),
        format!("table=40, priority=120,arp,arp_tpa={ip} actions=output:{ofport}"),
    ]
}

/// The dead pod's entries blackhole the new one, as they do without us; the sweep ends it.
#[test]
fn a_blackholed_address_is_reached_again() {
    for port in [Port::Stays, Port::Gone] {
        let mut fixture = Fixture::new("a_blackholed_address", json!({}), &["web", "db"]);
        let db = fixture.pods[1].clone();
        fixture.node.install("br0", &delivery(&db));
        fixture.node.must_reach(&fixture.pods[0], &db.ip);
        fixture.node.vanish(&db, port);
        // As if ADD had not looked for leftovers.
        fixture.node.admin(&["pause"]).ok();
        let next = fixture.run_at("next", &db.ip);
        let next = fixture.install(next);
        assert!(
            !fixture.node.ping(&fixture.pods[0], &fixture.pods[next].ip),
            "a dead pod takes it"
        );
        fixture.node.admin(&["resume"]).ok();

        sweep(&fixture.node, &[]);

        fixture.node.must_reach(&fixture.pods[0], &fixture.pods[next].ip);
        fixture.node.must_reach(&fixture.pods[next], &fixture.pods[0].ip);
        fixture.assert_left(&[0, next], &[]);
    }
}

/// ADD itself purges them: the new pod never notices.
#[test]
fn add_purges_before_the_pod_starts() {
    let mut fixture = Fixture::new("add_purges", json!({}), &["web", "db"]);
    let db = fixture.pods[1].clone();
    fixture.node.install("br0", &delivery(&db));
    // The dead pod was not allowed to be reached at all.
    fixture
        .node
        .install("br0", &[format!("table=20, priority=130,ip,nw_dst={} actions=drop", db.ip)]);
    fixture.node.vanish(&db, Port::Stays);
    let next = fixture.run_at("next", &db.ip);
    let next = fixture.install(next);
    fixture.node.must_reach(&fixture.pods[0], &fixture.pods[next].ip);
    sweep(&fixture.node, &[]);
    fixture.assert_left(&[0, next], &[]);
}

/// A DEL that came, and the address is given out again at once: while the tombstone
/// lingers, nothing of the new pod's is taken for the old one's.
#[test]
fn an_address_given_out_again_at_once() {
    let mut fixture = Fixture::new("given_out_again", json!({}), &["web", "db"]);
    let db = fixture.pods[1].clone();
    fixture.node.del(&db);
    let next = fixture.run_at("next", &db.ip);
    let next = fixture.install(next);
    let policy = fixture
        .node
        .install("br0", &[format!("table=20, priority=90,ip,nw_src={} actions=drop", db.ip)]);
    for _ in 0..2 {
        sweep(&fixture.node, &[]);
        fixture.assert_left(&[0, next], &policy);
    }
    fixture.node.try_del(&db).unwrap();
    fixture.assert_left(&[0, next], &policy);
    fixture.node.must_reach(&fixture.pods[0], &fixture.pods[next].ip);
}

/// One pod has the dead one's address, another one its number. An entry for both is for
/// nobody (rule 5), and sends the one's packets to the other.
#[test]
fn address_and_number_went_to_two_pods() {
    let mut fixture = Fixture::new("went_to_two_pods", json!({}), &["web", "db"]);
    let db = fixture.pods[1].clone();
    let (ip, port) = (db.ip.clone(), db.ofport);
    fixture.node.install("br0", &delivery(&db));
    fixture.node.install(
        "br0",
        &[
            format!("table=10, priority=120,ip,in_port={port},nw_src={ip} actions=resubmit(,20)"),
            format!("table=10, priority=120,arp,in_port={port},arp_spa={ip} actions=resubmit(,20)"),
        ],
    );
    // One token alone is right for its new owner, too.
    let rightful = fixture.node.install(
        "br0",
        &[
            format!("table=20, priority=90,ip,nw_src={ip} actions=resubmit(,30)"),
            format!("table=20, priority=80,in_port={port} actions=resubmit(,30)"),
        ],
    );
    sweep(&fixture.node, &[]);
    fixture.node.vanish(&db, Port::Gone);
    fixture.node.admin(&["pause"]).ok();
    let successor = fixture.run_at("successor", &ip);
    let successor = fixture.install(successor);
    let tenant = fixture.run_on("tenant", port);
    let tenant = fixture.install(tenant);
    assert!(!fixture.node.ping(&fixture.pods[0], &ip), "the tenant gets what is for the successor");
    fixture.node.admin(&["resume"]).ok();

    let plan = sweep(&fixture.node, &["--dry-run", "--details"]);
    let by_pair = plan["flows"].as_array().unwrap().iter().filter(|flow| flow["rule"] == 5);
    let by_pair: Vec<&str> = by_pair.map(|flow| flow["flow"].as_str().unwrap()).collect();
    for part in strings(["priority=120,ip,nw_dst=", "priority=120,arp,arp_tpa="]) {
        assert!(by_pair.iter().any(|flow| flow.contains(&part)), "{part} in {by_pair:#?}");
    }
    sweep(&fixture.node, &[]);

    fixture.assert_left(&[0, successor, tenant], &rightful);
    fixture.node.must_reach(&fixture.pods[0], &ip);
    fixture.node.must_reach(&fixture.pods[tenant], &ip);
    fixture.node.must_reach(&fixture.pods[successor], &fixture.pods[tenant].ip);
}

/// The pair is younger than its tokens' new owners: somebody made it for them.
#[test]
fn a_pair_that_was_made_since() {
    let mut fixture = Fixture::quick("a_pair_that_was_made_since", json!({}), &["web", "db"]);
    let db = fixture.pods[1].clone();
    fixture.node.vanish(&db, Port::Gone);
    let successor = fixture.run_at("successor", &db.ip);
    let successor = fixture.install(successor);
    let tenant = fixture.run_on("tenant", db.ofport);
    let tenant = fixture.install(tenant);
    let pairs = fixture.node.install("br0", &delivery(&db));
    sweep(&fixture.node, &[]);
    fixture.assert_left(&[0, successor, tenant], &pairs);
}

/// The address of an orphan that nobody has noticed goes to a pod whose ADD has come to the OVS
/// plugin only, and its controller is quick. A sweep at that moment sees no record of the new
/// one: all that shows it is a port with marks.
#[test]
fn a_sweep_between_the_ovs_plugins_add_and_ours() {
    let mut fixture =
        Fixture::quick("between_two_adds", json!({"lingerSeconds": 0}), &["web", "db"]);
    let db = fixture.pods[1].clone();
    let of_address = |ip: &str| {
        ["src", "dst"].map(|side| {
            format!("table=35, priority=90,ct_state=+est+trk,ct_nw_{side}={ip},ip actions=drop")
        })
    };
    let old = format!("table=20, priority=90,ip,nw_src={} actions=drop", db.ip);
    fixture.node.install("br0", &[old]);
    fixture.node.vanish(&db, Port::Stays);
    sleep_ms(20);

    fixture.node.forget_lease(&db.ip);
    let successor = fixture.node.pod("successor").with_ip(&db.ip);
    let conf = fixture.node.plugin_conf("ovs-test-cni", Some(&successor), None);
    let result = fixture.node.call_for(&conf, "ADD", &successor).run().json();
    let successor = fixture.node.attached(&successor, result.clone());
    assert_eq!(successor.ip, db.ip);
    let new = fixture.node.install("br0", &of_address(&successor.ip));
    let successor = fixture.install(successor);
    sweep(&fixture.node, &[]);
    fixture.assert_left(&[0, successor], &new);

    // Its ADD comes through, and it dies in turn: nothing protects them any more.
    let successor = fixture.pods[successor].clone();
    let conf = fixture.node.plugin_conf("ovs-flow-gc", Some(&successor), Some(&result));
    fixture.node.call_for(&conf, "ADD", &successor).run().ok();
    fixture.node.vanish(&successor, Port::Gone);
    sweep(&fixture.node, &[]);
    fixture.assert_left(&[0], &[]);
}
