//! Members of policies. A controller that thinks in sets will not install a member again for
//! the address's next owner: it waits until the linger time has passed and nobody has claimed
//! the address.

use serde_json::json;

use super::fixture::Fixture;
use crate::lifecycle::fixture::{states, sweep};
use crate::rig::{Attached, Port, sleep_ms};

/// The pod's memberships, and what is everybody's in those policies.
struct Policy {
    members: Vec<String>,
    shared: Vec<String>,
}

impl Policy {
    #[track_caller]
    fn install(fixture: &Fixture, pod: &Attached, peer: &Attached) -> Self {
        let (ip, other) = (&pod.ip, &peer.ip);
        let members = [
            format!("table=20, priority=200,ip,nw_src={ip} actions=conjunction(5,1/2)"),
            format!("table=20, priority=200,ip,nw_dst={ip} actions=conjunction(6,2/2)"),
            format!("table=20, priority=201,ip,nw_src={ip},nw_dst={other} actions=resubmit(,30)"),
            format!(
                "table=20, priority=201,tcp,nw_src={other},nw_dst={ip},tp_dst=80 actions=resubmit(,30)"
            ),
        ];
        let shared = [
            format!("table=20, priority=200,ip,nw_src={other} actions=conjunction(6,1/2)"),
            "table=20, priority=200,conj_id=5,ip actions=resubmit(,30)".to_owned(),
            "table=20, priority=200,conj_id=6,ip actions=drop".to_owned(),
        ];
        Self {
            members: fixture.node.install("br0", &members),
            shared: fixture.node.install("br0", &shared),
        }
    }

    fn all(&self) -> Vec<String> {
        [self.members.clone(), self.shared.clone()].concat()
    }
}

#[test]
fn members_wait_for_the_linger_time() {
    let fixture = Fixture::quick("members_wait", json!({"lingerSeconds": 1}), &["web", "db"]);
    let policy = Policy::install(&fixture, &fixture.pods[1], &fixture.pods[0]);
    fixture.node.del(&fixture.pods[1]);
    fixture.assert_left(&[0], &policy.all());
    sweep(&fixture.node, &[]);
    fixture.assert_left(&[0], &policy.all());
    assert_eq!(states(&fixture.node)["db"], "deleting", "it is not forgotten");
    sleep_ms(1_100);
    sweep(&fixture.node, &[]);
    fixture.assert_left(&[0], &policy.shared);
    assert_eq!(states(&fixture.node).get("db"), None);
}

#[test]
fn members_of_an_orphan_wait_from_when_its_death_was_noticed() {
    let fixture =
        Fixture::quick("members_of_an_orphan", json!({"lingerSeconds": 1}), &["web", "db"]);
    let policy = Policy::install(&fixture, &fixture.pods[1], &fixture.pods[0]);
    fixture.node.vanish(&fixture.pods[1], Port::Stays);
    sleep_ms(1_100);
    sweep(&fixture.node, &[]);
    fixture.assert_left(&[0], &policy.all());
    sleep_ms(1_100);
    sweep(&fixture.node, &[]);
    fixture.assert_left(&[0], &policy.shared);
}

/// The next owner of the address comes within the linger time: the memberships are its own
/// now, through ADD's purge and every sweep, until it dies.
#[test]
fn members_of_an_address_that_was_claimed() {
    let mut fixture =
        Fixture::quick("that_was_claimed", json!({"lingerSeconds": 1}), &["web", "db"]);
    let policy = Policy::install(&fixture, &fixture.pods[1], &fixture.pods[0]);
    let db = fixture.pods[1].clone();
    fixture.node.del(&db);
    let next = fixture.run_at("next", &db.ip);
    let next = fixture.install(next);
    fixture.assert_left(&[0, next], &policy.all());
    sleep_ms(1_100);
    sweep(&fixture.node, &[]);
    fixture.assert_left(&[0, next], &policy.all());
    fixture.node.del(&fixture.pods[next]);
    fixture.assert_left(&[0], &policy.all());
    sleep_ms(1_100);
    sweep(&fixture.node, &[]);
    fixture.assert_left(&[0], &policy.shared);
}

/// An orphan's, and the new pod's ADD is the first to notice.
#[test]
fn members_of_an_orphans_address_that_was_claimed() {
    let mut fixture =
        Fixture::quick("orphans_address", json!({"lingerSeconds": 0}), &["web", "db"]);
    let policy = Policy::install(&fixture, &fixture.pods[1], &fixture.pods[0]);
    let db = fixture.pods[1].clone();
    fixture.node.vanish(&db, Port::Stays);
    let next = fixture.run_at("next", &db.ip);
    let next = fixture.install(next);
    for _ in 0..2 {
        sweep(&fixture.node, &[]);
        fixture.assert_left(&[0, next], &policy.all());
    }
}

/// The other end of a pair dies later: it must not take what the first one's successor needs.
#[test]
fn both_ends_of_a_pair() {
    let mut fixture = Fixture::quick("both_ends", json!({"lingerSeconds": 1}), &["web", "db", "x"]);
    let policy = Policy::install(&fixture, &fixture.pods[1], &fixture.pods[0]);
    let (web, db) = (fixture.pods[0].clone(), fixture.pods[1].clone());
    fixture.node.del(&db);
    fixture.node.del(&web);
    fixture.assert_left(&[2], &policy.all());
    let successors = [fixture.run_at("web2", &web.ip), fixture.run_at("db2", &db.ip)];
    let successors = successors.map(|pod| fixture.install(pod));
    sleep_ms(1_100);
    sweep(&fixture.node, &[]);
    fixture.assert_left(&[2, successors[0], successors[1]], &policy.all());
}
