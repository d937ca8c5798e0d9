use super::*;
use crate::openflow::Malformed;
use crate::openflow::testing::{Fake, GOLDEN_13, GOLDEN_15, hex};

/// A match on an IPv4 source and reg0, and its instructions, as in the golden entries.
const MATCH_13: &str = "0001001a 80000a02 0800 80001604 0af40105 00010004 00001005 0000 00000000";
const MATCH_15: &str =
    "0001 0026 80000a02 0800 80001604 0af40105 80010110 0000100500000000 ffffffff00000000 0000";
const DOES: &str =
    "00040028 00000000 00000010 00000005 00000000 00000000 ffff0010 00002320 000efff8 14000000";

fn golden(version: Version) -> Entry {
    let text = if version == Version::V15 { GOLDEN_15 } else { GOLDEN_13 };
    Entry::new(version, hex(text)).unwrap()
}

/// The golden entry as an update: what 1.3 calls it, and 1.4 and 1.5.
fn told(version: Version, event: u16, instructions: &str) -> Vec<u8> {
    let matches = hex(if version == Version::V15 { MATCH_15 } else { MATCH_13 });
    let instructions = hex(instructions);
    let length = u16::try_from(24 + matches.len() + instructions.len()).unwrap();
    let head = match version {
        Version::V13 => format!("{length:04x}{event:04x} 0000 0064 003c 0000 001a 0a00"),
        _ => format!("{length:04x}{event:04x} 0a00 003c 0000 0064 00000000"),
    };
    [hex(&head), hex("00000000 0000002a"), matches, instructions].concat()
}

fn reply(version: Version, updates: &[Vec<u8>]) -> Vec<u8> {
    let head = match version {
        Version::V13 => "ffff0000 00000000 4f4e4600 0000074e",
        _ => "00100000 00000000",
    };
    [vec![hex(head)], updates.to_vec()].concat().concat()
}

/// What the dialect calls put, removed, changed, and abbreviated.
fn events(version: Version) -> [u16; 4] {
    if version == Version::V13 { [0, 1, 2, 3] } else { [1, 2, 3, 4] }
}

#[test]
fn the_request() {
    let asked = [
        (
            Version::V13,
            "ffff0000 00000000 4f4e4600 0000074e
             00000001 001a 0004 ffffffff ff000000 00010004 00000000
             00000002 0024 0004 ffffffff ff000000 00010004 00000000",
        ),
        (
            Version::V14,
            "00100000 00000000
             00000001 ffffffff ffffffff 001a ff 00 00010004 00000000
             00000002 ffffffff ffffffff 0044 ff 00 00010004 00000000
             00000003 ffffffff ffffffff 0004 ff 00 00010004 00000000",
        ),
    ];
    for (version, request) in asked {
        let fake = Fake::new(version, move |peer| {
            let (kind, xid, body) = peer.next();
            assert_eq!((kind, body), (18, hex(request)));
            peer.send(19, xid, &reply(version, &[]));
            let (_, barrier, _) = peer.next();
            peer.send(21, barrier, &[]);
        });
        let mut connection = fake.open().unwrap();
        connection.watch().unwrap();
        assert!(!connection.is_watching(), "not before the switch has said so");
        connection.barrier().unwrap();
        assert!(connection.is_watching());
        fake.done();
    }
}

#[test]
fn a_switch_that_refuses_is_not_watched() {
    for (version, error) in [(Version::V13, "0001 0003"), (Version::V14, "0010 0005")] {
        let fake = Fake::new(version, move |peer| {
            let (_, xid, _) = peer.next();
            peer.send(1, xid, &hex(error));
            let (_, barrier, _) = peer.next();
            peer.send(21, barrier, &[]);
        });
        let mut connection = fake.open().unwrap();
        connection.watch().unwrap();
        connection.barrier().unwrap();
        assert!(!connection.is_watching() && connection.noted().is_empty());
        drop(connection);
        fake.done();
    }
}

#[test]
fn what_is_told_between_other_answers_is_kept_in_order() {
    for version in [Version::V13, Version::V14, Version::V15] {
        let [added, removed, changed, own] = events(version);
        let fake = Fake::new(version, move |peer| {
            let (_, xid, _) = peer.next();
            peer.send(19, xid, &reply(version, &[]));
            let (_, barrier, _) = peer.next();
            let own = hex(&format!("0008{own:04x} 00000007"));
            let both = [told(version, added, DOES), own, told(version, removed, "")];
            peer.send(19, 0, &reply(version, &both));
            peer.send(2, 9, &hex("abcd"));
            peer.send(19, 0, &reply(version, &[told(version, changed, DOES)]));
            peer.send(21, barrier, &[]);
            assert_eq!(peer.next(), (3, 9, hex("abcd")));
        });
        let mut connection = fake.open().unwrap();
        connection.watch().unwrap();
        connection.barrier().unwrap();
        assert_eq!(connection.update_seq(), 3);
        assert!(connection.take_abbreviated() && !connection.take_abbreviated());
        let updates = connection.noted();
        let golden = golden(version);
        let kinds: Vec<_> = updates.iter().map(|u| (u.at, u.what)).collect();
        assert_eq!(kinds, [(0, What::Put), (1, What::Removed), (2, What::Put)], "{version}");
        for update in &updates {
            assert_eq!((update.table, update.priority, update.cookie), (10, 100, 0x2a));
            assert_eq!(update.match_bytes(), golden.match_bytes());
        }
        assert_eq!(updates[0].entry(&golden).unwrap().content(), golden.content());
        assert!(connection.noted().is_empty());
        assert_eq!(connection.update_seq(), 3);
        fake.done();
    }
}

#[test]
fn changes_and_evictions_are_told_apart_from_additions_and_deletes() {
    for version in [Version::V13, Version::V14, Version::V15] {
        let [added, removed, changed, _] = events(version);
        // OFPRR_IDLE_TIMEOUT, OFPRR_DELETE, OFPRR_EVICTION. An addition has no reason.
        let with = |event, reason| {
            let mut bytes = told(version, event, "");
            bytes[5] = reason;
            bytes
        };
        let cases = [
            (with(added, 5), (false, false)),
            (with(changed, 0), (true, false)),
            (with(removed, 0), (false, false)),
            (with(removed, 2), (false, false)),
            (with(removed, 5), (false, true)),
        ];
        for (bytes, expected) in cases {
            let mut monitor = Monitor::default();
            let update = FlowUpdate::read(version, &mut Reader::new(&bytes)).unwrap();
            monitor.take_note(update, version);
            let [update] = &monitor.updates[..] else { panic!("{:?}", monitor.updates) };
            assert_eq!((update.modified, update.evicted), expected, "{version} {bytes:x?}");
        }
    }
}

#[test]
fn a_pause_is_remembered_until_somebody_asks() {
    for version in [Version::V13, Version::V14] {
        let fake = Fake::new(version, move |peer| {
            let (_, xid, _) = peer.next();
            peer.send(19, xid, &reply(version, &[]));
            for step in [5_u16, 6] {
                let (_, barrier, _) = peer.next();
                match version {
                    Version::V13 => {
                        peer.send(4, 0, &hex(&format!("4f4e4600 {:08x}", 1866 + u32::from(step))));
                    }
                    _ => {
                        let update = hex(&format!("0008{step:04x} 00000000"));
                        peer.send(19, 0, &reply(version, &[update]));
                    }
                }
                peer.send(21, barrier, &[]);
            }
        });
        let mut connection = fake.open().unwrap();
        connection.watch().unwrap();
        connection.barrier().unwrap();
        assert!(connection.is_paused() && connection.take_pause() && connection.take_pause());
        connection.barrier().unwrap();
        assert!(!connection.is_paused() && connection.take_pause() && !connection.take_pause());
        fake.done();
    }
}

#[test]
fn more_than_is_kept_is_a_flood() {
    let version = Version::V14;
    let fake = Fake::new(version, move |peer| {
        let (_, xid, _) = peer.next();
        peer.send(19, xid, &reply(version, &[]));
        let (_, barrier, _) = peer.next();
        let many = vec![told(version, 1, DOES); 600];
        for _ in 0..200 {
            peer.send(19, 0, &reply(version, &many));
        }
        peer.send(21, barrier, &[]);
    });
    let mut connection = fake.open().unwrap();
    connection.watch().unwrap();
    connection.barrier().unwrap();
    assert!(connection.is_flooded());
    assert_eq!(connection.update_seq(), 120_000);
    assert!(connection.noted().len() < 120_000);
    fake.done();
}

#[test]
fn updates_that_cannot_be_are_refused() {
    for version in [Version::V13, Version::V14, Version::V15] {
        let [added, removed, ..] = events(version);
        let good = told(version, added, DOES);
        let parse = |bytes: &[u8]| FlowUpdate::read(version, &mut Reader::new(bytes)).map(|_| ());
        parse(&good).unwrap();
        parse(&told(version, removed, "")).unwrap();
        let with = |at: usize, value: u16| {
            let mut bytes = good.clone();
            bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
            bytes
        };
        for length in [0, 7, 9, 24] {
            parse(&with(0, length)).unwrap_err();
        }
        assert_eq!(parse(&with(2, 9)), Err(Malformed::Unexpected("kind of flow update")));
        assert_eq!(parse(&with(24, 0)), Err(Malformed::Unexpected("match type")));
        for length in [3, 0xffff] {
            parse(&with(26, length)).unwrap_err();
        }
    }
}

#[test]
fn what_is_nobodys_business_is_left_to_the_caller() {
    let version = Version::V13;
    for (kind, body) in [(4, "00002320 0000074f"), (10, "00"), (4, "4f4e4600 00000001")] {
        assert_eq!(read(version, kind, &hex(body), &mut |_| panic!()), Ok(false));
    }
    let other = hex("ffff0000 00000000 4f4e4600 00000001");
    assert_eq!(read(version, 19, &other, &mut |_| panic!()), Ok(false));
    assert_eq!(read(Version::V14, 19, &hex("0001"), &mut |_| panic!()), Ok(false));
    read(Version::V14, 19, &hex("0010"), &mut |_| panic!()).unwrap_err();
}

proptest::proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(kind in 0_u8..30, body: Vec<u8>) {
        for version in [Version::V13, Version::V14, Version::V15] {
            drop(read(version, kind, &body, &mut |_| {}));
            drop(read(version, 19, &[reply(version, &[]), body.clone()].concat(), &mut |_| {}));
        }
    }
}
