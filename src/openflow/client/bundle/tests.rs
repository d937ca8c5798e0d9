use super::*;
use crate::openflow::testing::{Fake, GOLDEN_13, GOLDEN_15, Peer, hex};

fn golden(version: Version) -> Entry {
    let text = if version == Version::V15 { GOLDEN_15 } else { GOLDEN_13 };
    Entry::new(version, hex(text)).unwrap()
}

/// The FLOW_MOD that deletes the golden entry, but for its version and xid.
const DELETE: &str = "
    00000000 0000002a 7fffffff ffffffff 0a040000 00000064 ffffffff ffffffff ffffffff 00000000
    0001001a 80000a02 0800 80001604 0af40105 00010004 00001005 0000 00000000";

#[test]
fn a_bundle_in_1_3() {
    let fake = Fake::new(Version::V13, |peer| {
        let (kind, open, body) = peer.next();
        assert_eq!((kind, body), (4, hex("4f4e4600 000008fc 00000001 0000 0003")));
        let (kind, xid, body) = peer.next();
        assert_eq!(kind, 4);
        let inner = format!("040e0050 {xid:08x} {DELETE}");
        assert_eq!(body, hex(&format!("4f4e4600 000008fd 00000001 0000 0003 {inner}")));
        let (kind, commit, body) = peer.next();
        assert_eq!((kind, body), (4, hex("4f4e4600 000008fc 00000001 0004 0003")));
        peer.send(4, open, &hex("4f4e4600 000008fc 00000001 0001 0000"));
        peer.send(4, commit, &hex("4f4e4600 000008fc 00000001 0005 0000"));
    });
    let applied = fake.open().unwrap().delete_strict(&[golden(Version::V13)]).unwrap();
    assert_eq!(applied, Applied { sent: 1, refused: vec![] });
    fake.done();
}

#[test]
fn a_bundle_in_1_4_and_1_5_and_an_error_beside() {
    for version in [Version::V14, Version::V15] {
        let fake = Fake::new(version, move |peer| {
            let (kind, open, body) = peer.next();
            assert_eq!((kind, body), (33, hex("00000001 0000 0003")));
            let adds: Vec<(u32, Vec<u8>)> = (0..2)
                .map(|_| {
                    let (kind, xid, body) = peer.next();
                    assert_eq!(kind, 34);
                    (xid, body)
                })
                .collect();
            if version == Version::V14 {
                let inner = format!("050e0050 {:08x} {DELETE}", adds[0].0);
                assert_eq!(adds[0].1, hex(&format!("00000001 0000 0003 {inner}")));
            }
            let (kind, commit, body) = peer.next();
            assert_eq!((kind, body), (33, hex("00000001 0004 0003")));
            peer.send(33, open, &hex("00000001 0001 0000"));
            peer.send(1, adds[1].0, &hex("0004 0009"));
            peer.send(33, commit, &hex("00000001 0005 0000"));
        });
        let list = [golden(version), golden(version)];
        let applied = fake.open().unwrap().delete_strict(&list).unwrap();
        assert_eq!(applied.sent, 1);
        assert_eq!(applied.refused[0].0, 1);
        assert_eq!(applied.refused[0].1.name(), Some("OFPBMC_BAD_PREREQ"));
        fake.done();
    }
}

/// Takes a bundle of so many up to its last member; the xids, with that of its opening.
fn staged_bundle(peer: &mut Peer, id: u8, count: usize) -> Vec<u32> {
    let messages: Vec<_> = (0..=count).map(|_| peer.next()).collect();
    assert_eq!(messages[0].2, hex(&format!("000000{id:02x} 0000 0003")));
    assert!(messages[1..].iter().all(|(kind, ..)| *kind == 34));
    messages.into_iter().map(|(_, xid, _)| xid).collect()
}

fn commit(peer: &mut Peer, id: u8) -> u32 {
    let (kind, xid, body) = peer.next();
    assert_eq!((kind, body), (33, hex(&format!("000000{id:02x} 0004 0003"))));
    xid
}

#[test]
fn what_is_staged_waits_for_its_commit() {
    let fake = Fake::new(Version::V14, |peer| {
        let xids = staged_bundle(peer, 1, 2);
        peer.send(33, xids[0], &hex("00000001 0001 0000"));
        peer.send(1, xids[2], &hex("0004 0009"));
        let (kind, xid, _) = peer.next();
        assert_eq!(kind, 20, "nothing is done before");
        peer.send(21, xid, &[]);
        let xid = commit(peer, 1);
        peer.send(33, xid, &hex("00000001 0005 0000"));
    });
    let list = [golden(Version::V14), golden(Version::V14)];
    let mut connection = fake.open().unwrap();
    connection.stage_delete(&list).unwrap();
    connection.barrier().unwrap();
    let applied = connection.delete_strict(&list).unwrap();
    assert_eq!((applied.sent, applied.refused.len(), applied.refused[0].0), (1, 1, 1));
    fake.done();
}

/// Another list than the staged one, and a bundle that the switch has given up meanwhile.
#[test]
fn what_is_not_as_staged_goes_by_itself() {
    for changed in [true, false] {
        let fake = Fake::new(Version::V14, move |peer| {
            staged_bundle(peer, 1, 2);
            if !changed {
                let xid = commit(peer, 1);
                peer.send(1, xid, &hex("0011 000e"));
            }
            let xids = staged_bundle(peer, 2, if changed { 1 } else { 2 });
            let xid = commit(peer, 2);
            peer.send(33, xids[0], &hex("00000002 0001 0000"));
            peer.send(33, xid, &hex("00000002 0005 0000"));
        });
        let list = [golden(Version::V14), golden(Version::V14)];
        let list = &list[usize::from(changed)..];
        let mut connection = fake.open().unwrap();
        connection.stage_delete(&[golden(Version::V14), golden(Version::V14)]).unwrap();
        assert_eq!(connection.delete_strict(list).unwrap().sent, list.len());
        fake.done();
    }
}

/// Takes FLOW_MODs up to a barrier, refuses the `refuse`-th, answers; how many there were.
fn plain_batch(peer: &mut Peer, refuse: Option<usize>) -> usize {
    let mut count = 0;
    loop {
        let (kind, xid, body) = peer.next();
        if kind == 20 {
            peer.send(21, xid, &[]);
            return count;
        }
        assert_eq!(kind, 14);
        assert_eq!(body[8..16], [0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        if refuse == Some(count) {
            peer.send(1, xid, &hex("0001 0005"));
        }
        count += 1;
    }
}

#[test]
fn a_switch_without_bundles() {
    for (version, error) in
        [(Version::V13, "0001 0003"), (Version::V13, "0001 0004"), (Version::V14, "0001 0001")]
    {
        let fake = Fake::new(version, move |peer| {
            for _ in 0..62 {
                let (_, xid, _) = peer.next();
                peer.send(1, xid, &hex(error));
            }
            assert_eq!(plain_batch(peer, Some(7)), 49);
            assert_eq!(plain_batch(peer, None), 11);
            // It is not asked again.
            assert_eq!(plain_batch(peer, None), 1);
        });
        let mut connection = fake.open().unwrap();
        let list = vec![golden(version); 60];
        let applied = connection.delete_strict(&list).unwrap();
        assert_eq!((applied.sent, applied.refused.len()), (59, 1));
        assert_eq!(applied.refused[0].0, 7);
        assert_eq!(connection.delete_strict(&list[..1]).unwrap().sent, 1);
        drop(connection);
        fake.done();
    }
}

#[test]
fn one_that_fails_at_commit_does_not_lose_the_others() {
    let fake = Fake::new(Version::V14, |peer| {
        let xids: Vec<u32> = (0..4).map(|_| peer.next().1).collect();
        peer.send(33, xids[0], &hex("00000001 0001 0000"));
        peer.send(1, xids[2], &hex("0001 0005"));
        peer.send(1, xids[3], &hex("0011 000d"));
        assert_eq!(plain_batch(peer, Some(1)), 2);
    });
    let list = [golden(Version::V14), golden(Version::V14)];
    let applied = fake.open().unwrap().delete_strict(&list).unwrap();
    assert_eq!(applied.sent, 1);
    assert_eq!(applied.refused.len(), 1);
    assert_eq!(applied.refused[0].1.to_string(), "OFPBRC_EPERM (1,5)");
    fake.done();
}

#[test]
fn other_ends_of_a_bundle_are_errors() {
    for (kind, reply, wanted) in [
        (1, "0011 000e", "OFPBFC_TIMEOUT"),
        (33, "00000001 0007 0000", "unexpected reply to a bundle's commit"),
        (33, "0000", "unexpected reply to a bundle's commit"),
        (21, "", "unexpected type of reply"),
    ] {
        let fake = Fake::new(Version::V14, move |peer| {
            let commit = (0..3).map(|_| peer.next().1).last().unwrap();
            peer.send(kind, commit, &hex(reply));
        });
        let error = fake.open().unwrap().delete_strict(&[golden(Version::V14)]).unwrap_err();
        assert!(error.to_string().contains(wanted), "{error}");
        fake.done();
    }
}

#[test]
fn nothing_is_sent_for_nothing() {
    let fake = Fake::new(Version::V14, |_| {});
    let mut connection = fake.open().unwrap();
    assert_eq!(connection.delete_strict::<Entry>(&[]).unwrap(), Applied::default());
    assert_eq!(connection.add(&[]).unwrap(), Applied::default());
    fake.done();
}

#[test]
fn vlan_vid_0_is_said_as_vlan_tci() {
    let tlvs = hex("80000a02 0800 80000c02 0000 80001604 0af40105");
    let renamed = flow_mod::vlan_tci(&tlvs).unwrap().unwrap();
    assert_eq!(renamed, hex("80000a02 0800 00000802 0000 80001604 0af40105"));
    for other in ["80000a02 0800", "80000c02 1005", "80000d04 0000 1000"] {
        assert_eq!(flow_mod::vlan_tci(&hex(other)).unwrap(), None, "{other}");
    }
}
