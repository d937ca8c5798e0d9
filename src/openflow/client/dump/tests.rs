use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::openflow::Version;
use crate::openflow::testing::{Fake, GOLDEN_13, GOLDEN_15, Peer, hex};
use crate::util::clock::Deadline;

/// The body of a reply's part.
fn body(flags: u16, entries: &[&str]) -> Vec<u8> {
    let mut body = vec![0, 1];
    body.extend(flags.to_be_bytes());
    body.extend([0; 4]);
    for entry in entries {
        body.extend(hex(entry));
    }
    body
}

/// What a dump makes of a script's answer.
fn dumped(
    version: Version,
    answer: impl FnOnce(&mut Peer, u32) + Send + 'static,
) -> (usize, Result<(), Error>) {
    let fake = Fake::new(version, move |peer| {
        let (kind, xid, _) = peer.next();
        assert_eq!(kind, 18);
        answer(peer, xid);
    });
    let mut connection = fake.open().unwrap();
    let mut seen = 0;
    let result = connection.dump(&Filter::default(), &mut |_, flow| {
        assert_eq!((flow.table, flow.cookie), (10, 0x2a));
        seen += 1;
    });
    drop(connection);
    fake.done();
    (seen, result)
}

#[test]
fn parts_echoes_and_other_replies() {
    for version in [Version::V13, Version::V14, Version::V15] {
        let golden = if version == Version::V15 { GOLDEN_15 } else { GOLDEN_13 };
        let (seen, result) = dumped(version, move |peer, xid| {
            peer.send(6, 2, &[0; 24]); // The answer to our FEATURES_REQUEST.
            peer.send(19, xid, &body(1, &[golden, golden]));
            peer.send(10, 0, &[1, 2, 3]); // A PACKET_IN nobody asked for.
            peer.send(2, 0, b"are you there");
            peer.send(19, xid ^ 0x8000, &[9; 40]); // Not ours, however broken.
            assert_eq!(peer.next(), (3, 0, b"are you there".to_vec()));
            peer.send(19, xid, &body(1, &[]));
            peer.send(19, xid, &body(0, &[golden]));
        });
        result.unwrap();
        assert_eq!(seen, 3);
    }
}

#[test]
fn bytes_may_come_one_by_one() {
    let (seen, result) = dumped(Version::V13, |peer, xid| {
        let mut whole = vec![4, 19];
        let body = body(0, &[GOLDEN_13]);
        whole.extend(u16::try_from(body.len() + 8).unwrap().to_be_bytes());
        whole.extend(xid.to_be_bytes());
        whole.extend(body);
        for byte in whole {
            peer.raw(&[byte]);
        }
    });
    result.unwrap();
    assert_eq!(seen, 1);
}

#[test]
fn an_end_before_the_last_part_is_no_dump() {
    let (_, result) = dumped(Version::V13, |peer, xid| peer.send(19, xid, &body(1, &[GOLDEN_13])));
    assert!(matches!(result, Err(Error::Closed { .. })), "{result:?}");
    let (_, result) = dumped(Version::V13, |peer, xid| {
        peer.raw(&[4, 19, 1, 0]);
        peer.raw(&xid.to_be_bytes());
    });
    assert!(matches!(result, Err(Error::Closed { .. })), "{result:?}");
}

#[test]
fn broken_framing_is_not_believed() {
    let golden = || hex(GOLDEN_13);
    let with_length = |length: u16| {
        let mut bytes = golden();
        bytes[..2].copy_from_slice(&length.to_be_bytes());
        bytes
    };
    for (what, entries) in [
        ("an entry of length 0", with_length(0)),
        ("an entry shorter than its head", with_length(31)),
        ("an entry longer than its message", with_length(0x80)),
        ("an entry that ends in its actions", with_length(0x70)),
        ("bytes after the last entry", [golden(), vec![0]].concat()),
        ("a cut second entry", [golden(), golden()[..0x77].to_vec()].concat()),
    ] {
        let (_, result) = dumped(Version::V13, move |peer, xid| {
            peer.send(19, xid, &[body(0, &[]), entries].concat());
        });
        assert!(matches!(result, Err(Error::Malformed { .. })), "{what}: {result:?}");
    }
    for (what, kind, reply) in [
        ("another multipart type", 19, hex("0003 0000 00000000")),
        ("no multipart header", 19, hex("0001 00")),
        ("another type of message", 21, vec![]),
    ] {
        let (_, result) = dumped(Version::V13, move |peer, xid| peer.send(kind, xid, &reply));
        assert!(matches!(result, Err(Error::Malformed { .. })), "{what}: {result:?}");
    }
    let (_, result) = dumped(Version::V13, |peer, _| peer.raw(&[4, 19, 0, 7, 0, 0, 0, 0]));
    assert!(matches!(result, Err(Error::Malformed { .. })), "{result:?}");
}

#[test]
fn a_reply_in_another_version_is_not_believed() {
    let (_, result) = dumped(Version::V13, |peer, xid| {
        let mut reply = hex("05130010 00000000 00010000 00000000");
        reply[4..8].copy_from_slice(&xid.to_be_bytes());
        peer.raw(&reply);
    });
    assert!(matches!(result, Err(Error::Malformed { .. })), "{result:?}");
}

#[test]
fn refusals() {
    let (_, result) = dumped(Version::V13, |peer, xid| peer.send(1, xid, &hex("0004 0009 0412")));
    let text = result.unwrap_err().to_string();
    assert!(text.contains("OFPBMC_BAD_PREREQ (4,9)"), "{text}");
    // A switch too old to know the field has no entry that matches on it.
    let (seen, result) = dumped(Version::V13, |peer, xid| peer.send(1, xid, &hex("0004 0006")));
    assert!(result.is_ok() && seen == 0);
    let (_, result) = dumped(Version::V13, |peer, xid| peer.send(1, xid, &hex("0004")));
    assert!(matches!(result, Err(Error::Malformed { .. })), "{result:?}");
}

#[test]
fn several_filters_are_told_apart() {
    let fake = Fake::new(Version::V13, |peer| {
        let xids: Vec<u32> = (0..3).map(|_| peer.next().1).collect();
        peer.send(19, xids[0], &body(1, &[GOLDEN_13]));
        peer.send(19, xids[0], &body(0, &[GOLDEN_13]));
        peer.send(1, xids[1], &hex("0004 0006"));
        peer.send(19, xids[2], &body(0, &[GOLDEN_13]));
        peer.send(19, xids[2], &body(0, &[GOLDEN_13])); // One too many, and too late to matter.
        let (_, xid, _) = peer.next();
        peer.send(19, xid, &body(0, &[]));
    });
    let mut connection = fake.open().unwrap();
    let filters = [Filter::in_port(1), Filter::in_port(2), Filter::in_port(3)];
    let mut seen = Vec::new();
    connection.dump_many(&filters, &mut |i, _, _| seen.push(i)).unwrap();
    assert_eq!(seen, [0, 0, 2]);
    connection.dump_many(&[], &mut |_, _, _| panic!("nothing was asked")).unwrap();
    connection.dump(&Filter::default(), &mut |_, _| panic!("there is none")).unwrap();
    drop(connection);
    fake.done();
}

#[test]
fn a_part_after_the_last_is_not_believed() {
    let fake = Fake::new(Version::V13, |peer| {
        let xids: Vec<u32> = (0..2).map(|_| peer.next().1).collect();
        peer.send(19, xids[0], &body(0, &[GOLDEN_13]));
        peer.send(19, xids[0], &body(0, &[GOLDEN_13]));
        peer.send(19, xids[1], &body(0, &[]));
    });
    let mut connection = fake.open().unwrap();
    let filters = [Filter::in_port(1), Filter::in_port(2)];
    let error = connection.dump_many(&filters, &mut |_, _, _| {}).unwrap_err();
    assert!(matches!(error, Error::Malformed { .. }), "{error}");
    drop(connection);
    fake.done();
}

#[test]
fn the_deadline_counts_even_while_a_switch_talks() {
    let fake = Fake::new(Version::V13, |peer| {
        for _ in 0..200 {
            peer.send(10, 0, &[0; 8]);
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let mut connection = fake.open().unwrap();
    connection.set_deadline(Deadline::after(Duration::from_millis(100)));
    let start = Instant::now();
    let error = connection.dump(&Filter::default(), &mut |_, _| {}).unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    assert!((95..500).contains(&start.elapsed().as_millis()));
    drop(connection);
    fake.done();
}

#[test]
fn hellos_that_are_none() {
    for (what, bytes) in [
        ("an echo reply", hex("04030008 00000001")),
        ("a broken element", hex("0400000c 00000001 00010003")),
        ("a length below a header's", hex("04000004 00000001")),
    ] {
        let fake = Fake::raw(4, move |peer| peer.raw(&bytes));
        let error = fake.open().unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{what}: {error}");
        fake.done();
    }
    let fake = Fake::raw(4, |_| {});
    let error = fake.open().unwrap_err();
    assert!(matches!(error, Error::Closed { .. }), "{error}");
    fake.done();
    let fake = Fake::raw(4, |peer| peer.raw(&hex("0401000c 00000000 00000000")));
    let error = fake.open().unwrap_err();
    assert!(error.to_string().contains("OFPHFC_INCOMPATIBLE"), "{error}");
    fake.done();
}

proptest! {
    /// Whatever a switch sends: an error or entries, never a panic, never for ever.
    #[test]
    fn arbitrary_parts_never_panic(
        bends in proptest::collection::vec((0_usize..0xf8, any::<u8>()), 0..6),
        cut in 0_usize..0xf8,
        tail: Vec<u8>,
    ) {
        let mut bytes = body(0, &[GOLDEN_13, GOLDEN_13]);
        for (at, value) in bends {
            bytes[at] = value;
        }
        bytes.truncate(cut);
        bytes.extend(tail);
        let mut seen = 0;
        for version in [Version::V13, Version::V15] {
            let mut flow = Flow::default();
            drop(part(version, &bytes, &mut |raw| {
                seen += 1;
                raw.decode(&mut flow)
            }));
        }
        prop_assert!(seen <= bytes.len() / 32 * 2);
    }
}
