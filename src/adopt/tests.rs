use super::*;
use crate::model::attachment::Device;
use crate::model::row::RowId;
use crate::ovsdb::testing::{interface, one_bridge, port};

const BOOT: &str = "this-boot";

/// A bridge with one port, `rep0`, whose device has index 7.
fn switch(marks: &[(&str, &str)]) -> Snapshot {
    one_bridge(vec![port(6, marks, interface(5, "rep0"))])
}

fn key(container: &str) -> Key {
    let (network, ifname) = ("podnet".parse().unwrap(), "eth0".parse().unwrap());
    Key { network, container: container.parse().unwrap(), ifname }
}

/// What libcni remembers of `c1`: that its host's end is `rep0`.
fn described(snapshot: &Snapshot, tombstone: Option<&Attachment>) -> Result<Attachment, String> {
    let host = serde_json::json!({"interfaces": [{"name": "rep0"}]});
    let result = if tombstone.is_some() { serde_json::Value::Null } else { host };
    let netns = Some("/no/such/netns/n1".to_owned());
    let pending = Pending { key: key("c1"), pod: None, netns, result };
    describe(snapshot, &Config::default(), pending, tombstone, BOOT)
}

#[test]
fn a_row_that_was_given_away_is_not_adopted() {
    let antrea = |id| [("antrea-type", "container"), ("container-id", id)];
    let ovs_cni = |netns| [("contNetns", netns), ("contIface", "eth0")];
    let (own, next) = ("/no/such/netns/n1", "/run/netns/n2");
    // By the name that libcni remembers.
    assert!(described(&switch(&ovs_cni(own)), None).is_ok());
    assert!(described(&switch(&antrea("c1")), None).is_ok());
    let neutron = [("iface-id", "i"), ("attached-mac", "02:00:00:00:00:09")];
    for marks in [&neutron[..], &[]] {
        let gone = described(&switch(marks), None).unwrap_err();
        assert!(gone.ends_with("is not there, and port rep0 may be another pod's"), "{gone}");
    }
    assert!(described(&switch(&antrea("c2")), None).is_err());
    let given = described(&switch(&ovs_cni(next)), None);
    assert_eq!(given.unwrap_err(), "podnet/c1:eth0: port rep0 is another pod's by now");
    // By the row that its tombstone knows.
    let now = Stamp { boot_ms: 1, wall_ms: 1 };
    let dead = |ifindex| {
        let mut dead = Attachment::new(key("c1"), 1, BOOT.to_owned(), now);
        dead.netns = Some(Netns::of_path(own.to_owned()));
        dead.interface = Some(RowId(5));
        dead.device = Some(Device { ifindex, mac: None });
        dead
    };
    let again = |marks: &[_], ifindex| described(&switch(marks), Some(&dead(ifindex))).is_ok();
    assert!(again(&[], 7) && again(&ovs_cni(own), 7) && again(&antrea("c1"), 8));
    assert!(!again(&[], 8), "another veth of the name");
    assert!(!again(&ovs_cni(next), 7) && !again(&antrea("c2"), 7), "the marks are another's");
    let elsewhen = Attachment { boot_id: "another".to_owned(), ..dead(8) };
    assert!(described(&switch(&[]), Some(&elsewhen)).is_ok(), "indexes begin anew");
}

/// Found by `pure_forgetful`: what the owner of before had installed under the number of now was
/// taken for the adopted pod's, and showed its register value.
#[test]
fn a_start_of_the_switch_after_the_birth_may_have_changed_the_number() {
    let at = |boot_ms| Some(Stamp { boot_ms, wall_ms: boot_ms });
    let mut record = described(&switch(&[("container-id", "c1")]), None).unwrap();
    record.born = at(100);
    assert_eq!(number_since(&record, None, at(200)), at(200));
    assert_eq!(number_since(&record, None, at(50)), None, "it has had the number all the time");
    assert_eq!(number_since(&record, None, None), None);
    record.born = None;
    assert_eq!(number_since(&record, None, at(50)), at(50));
    // A tombstone knows which number it was.
    let same = Attachment { ofport_since: at(70), ..record.clone() };
    assert_eq!(number_since(&record, Some(&same), at(200)), at(70));
    let other = Attachment { ofport: Some(77), ..same };
    assert_eq!(number_since(&record, Some(&other), at(200)), Some(record.created));
}

#[test]
fn a_row_that_somebody_recorded_has_is_not_adopted() {
    let record = described(&switch(&[("container-id", "c1")]), None).unwrap();
    let mut registry_snapshot = RegistrySnapshot::default();
    let ask = |switch: &Snapshot, registry_snapshot: &RegistrySnapshot| {
        unclaimed(switch, record.clone(), registry_snapshot, BOOT).is_ok()
    };
    assert!(ask(&switch(&[]), &registry_snapshot));
    let other = Attachment { key: key("c2"), netns: None, ..record.clone() };
    registry_snapshot.attachments.push(Attachment { interface: Some(RowId(9)), ..other.clone() });
    assert!(ask(&switch(&[]), &registry_snapshot), "it has another row");
    registry_snapshot.attachments.push(other);
    assert!(!ask(&switch(&[]), &registry_snapshot));
    // It was the other one's before this pod was marked on it.
    assert!(ask(&switch(&[("container-id", "c1")]), &registry_snapshot));
    for record in &mut registry_snapshot.attachments {
        record.device = Some(Device { ifindex: 8, mac: None });
    }
    assert!(ask(&switch(&[]), &registry_snapshot), "the other one's device is gone");
}

#[test]
fn of_two_pods_with_one_row_the_one_whose_namespace_is_there_is_adopted() {
    let one = described(&switch(&[("container-id", "c1")]), None).unwrap();
    let netns = Some(Netns::of_path("/run/netns/n".to_owned()));
    let [dead, lives, lives_too] = [("c1", None), ("c2", netns.clone()), ("c3", netns)]
        .map(|(id, netns)| Attachment { key: key(id), netns, ..one.clone() });
    let elsewhere = Attachment { key: key("c4"), interface: Some(RowId(9)), ..dead.clone() };
    let adopted = |records: &[&Attachment]| {
        let (all, again) = records.iter().map(|r| ((*r).clone(), r.key.clone())).unzip();
        let mut adopted = Adopted { adopted: all, again, ..Adopted::default() };
        adopted.leave_doubtful();
        let keys: Vec<Key> = adopted.adopted.iter().map(|record| record.key.clone()).collect();
        assert_eq!(keys, adopted.again);
        keys
    };
    assert_eq!(adopted(&[&dead, &elsewhere]), [key("c1"), key("c4")]);
    assert_eq!(adopted(&[&dead, &lives, &elsewhere]), [key("c2"), key("c4")]);
    assert_eq!(adopted(&[&dead, &lives, &lives_too]), []);
    assert_eq!(adopted(&[&dead, &Attachment { key: key("c5"), ..dead.clone() }]), []);
}
