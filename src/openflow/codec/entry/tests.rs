use proptest::prelude::*;

use super::*;
use crate::openflow::testing::{GOLDEN_13, GOLDEN_15, hex};

fn golden(version: Version) -> Entry {
    let text = if version == Version::V15 { GOLDEN_15 } else { GOLDEN_13 };
    Entry::new(version, hex(text)).unwrap()
}

#[test]
fn golden_entries() {
    for version in [Version::V13, Version::V14, Version::V15] {
        let entry = golden(version);
        let raw = entry.raw();
        assert_eq!((raw.table(), raw.priority(), raw.cookie()), (10, 100, 0x2a), "{version}");
        assert_eq!((raw.idle_timeout(), raw.hard_timeout()), (60, 0));
        assert_eq!((raw.flags(), raw.importance()), (0, 0));
        let ms = if version == Version::V15 { 3 } else { 1 };
        assert_eq!(raw.duration(), Duration::from_millis(ms));
        assert_eq!(raw.match_bytes().len() % 8, 0);
        let flow = entry.flow(BootTime::LATEST).unwrap();
        assert_eq!(flow.matches.registers.len(), 1);
        assert_eq!(flow.matches.addresses.len(), 1);
        assert_eq!(flow.actions.outputs, [5]);
        assert!(flow.actions.beyond);
        assert_eq!(
            entry.to_string(),
            "cookie=0x2a,table=10,idle_timeout=60,priority=100,ip,nw_src=10.244.1.5,reg0=0x1005 \
             actions=output:5,resubmit(,20)"
        );
    }
}

#[test]
fn content_is_what_the_adder_chose() {
    let mut bytes = hex(GOLDEN_13);
    bytes[4..12].fill(7);
    bytes[32..48].fill(7);
    let older = Entry::new(Version::V13, bytes.clone()).unwrap();
    assert_eq!(older.content(), golden(Version::V13).content());
    assert_eq!(older.key(), golden(Version::V13).key());
    bytes[31] ^= 1;
    let other = Entry::new(Version::V13, bytes).unwrap();
    assert_ne!(other.content(), older.content(), "another cookie");
    let mut bytes = hex(GOLDEN_15);
    bytes[72..80].fill(7);
    let older = Entry::new(Version::V15, bytes).unwrap();
    assert_ne!(older, golden(Version::V15));
    assert_eq!(older.content(), golden(Version::V15).content());
}

#[test]
fn the_journal_gives_back_what_it_was_given() {
    for version in [Version::V13, Version::V14, Version::V15] {
        let text = serde_json::to_string(&golden(version)).unwrap();
        let back: Entry = serde_json::from_str(&text).unwrap();
        assert_eq!(back.version(), version);
        assert_eq!(back.content(), golden(version).content());
        assert_eq!(back.raw().duration(), Duration::ZERO);
        assert_eq!(serde_json::to_string(&back).unwrap(), text);
    }
    let text = String::from(golden(Version::V13));
    let matches = "80000a02080080001604 0af40105 00010004 00001005".replace(' ', "");
    let resubmit = "00040028 00000000 00000010 00000005 00000000 00000000 \
                    ffff0010 00002320 000efff8 14000000";
    assert_eq!(text, format!("4 a 64 2a 3c 0 0 0 {matches} {}", resubmit.replace(' ', "")));
}

#[test]
fn what_is_no_entry_is_refused() {
    let golden = String::from(golden(Version::V13));
    let word = |index: usize, word: &str| {
        let mut words: Vec<&str> = golden.split(' ').collect();
        words[index] = word;
        words.join(" ")
    };
    for (text, why) in [
        (String::new(), "ten words, not 1"),
        (format!("{golden} 00"), "ten words, not 11"),
        (word(0, "3"), "version"),
        (word(1, "100"), "too large"),
        (word(2, "-1"), "invalid digit"),
        (word(3, ""), "empty"),
        (word(8, "0"), "even number"),
        (word(8, "zz"), "even number"),
        (word(8, "00é"), "even number"),
        (word(8, "80000a02"), "cut short"),
        (word(9, "0004"), "cut short"),
        (word(9, "00040003"), "impossible length"),
        (word(9, &"00".repeat(70_000)), "do not fit"),
    ] {
        let error = serde_json::from_value::<Entry>(text.into()).unwrap_err().to_string();
        assert!(error.contains(why), "{why}: {error}");
    }
}

#[test]
fn match_lengths_that_cannot_be() {
    for (at, value) in [(51, 3), (51, 0), (51, 0xff), (50, 0xff), (49, 0)] {
        let mut bytes = hex(GOLDEN_13);
        bytes[at] = value;
        assert!(Entry::new(Version::V13, bytes).is_err(), "{at} {value}");
    }
    // An entry of 1.5 without a duration would seem brand-new.
    let mut bytes = hex(GOLDEN_15);
    bytes[70] = 0x0e;
    let error = Entry::new(Version::V15, bytes).unwrap_err();
    assert_eq!(error, BadEntry::Malformed(Malformed::Short("duration")));
}

fn version() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V13), Just(Version::V14), Just(Version::V15)]
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(version in version(), bytes: Vec<u8>) {
        if let Ok(entry) = Entry::new(version, bytes) {
            prop_assert!(!entry.to_string().is_empty());
        }
    }

    /// Most arbitrary bytes fail at the first length; bent golden ones get further.
    #[test]
    fn bent_entries_never_panic(
        version in version(),
        bends in proptest::collection::vec((2_usize..0x78, any::<u8>()), 1..6),
    ) {
        let mut bytes = golden(version).bytes().to_vec();
        for (at, value) in bends {
            bytes[at] = value;
        }
        if let Ok(entry) = Entry::new(version, bytes) {
            prop_assert!(!entry.to_string().is_empty());
            prop_assert_eq!(entry.flow(BootTime::LATEST).unwrap().table, entry.table());
            prop_assert_eq!(entry.match_bytes().len() % 8, 0);
        }
    }

    /// Actions of every kind with arbitrary arguments.
    #[test]
    fn arbitrary_actions_never_panic(
        kind in prop_oneof![Just(0xffff_u16), 0_u16..32],
        subtype in 0_u16..56,
        mut arguments in proptest::collection::vec(any::<u8>(), 0..80),
    ) {
        arguments.resize((arguments.len() + 10).next_multiple_of(8) - 10, 0);
        let length = u16::try_from(arguments.len() + 10).unwrap();
        let action = [
            kind.to_be_bytes().as_slice(),
            &length.to_be_bytes(),
            &0x2320_u32.to_be_bytes(),
            &subtype.to_be_bytes(),
            &arguments,
        ].concat();
        let mut bytes = hex(GOLDEN_13)[..80].to_vec();
        bytes.extend([0, 4]);
        bytes.extend((length + 8).to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(action);
        let whole = u16::try_from(bytes.len()).unwrap();
        bytes[..2].copy_from_slice(&whole.to_be_bytes());
        if let Ok(entry) = Entry::new(Version::V13, bytes) {
            prop_assert!(entry.to_string().contains("actions="));
        }
    }
}
