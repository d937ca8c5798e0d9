//! Fuzz bodies: whatever a switch sends (see [`crate::fuzzing`]).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a broken promise is told by panicking"
)]

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::model::flow::{Actions, Address, Flow, Match};
use crate::openflow::Applied;
use crate::openflow::Connection;
use crate::openflow::Entry;
use crate::openflow::Error;
use crate::openflow::Filter;
use crate::openflow::RawEntry;
use crate::openflow::STRICT_COOKIE_MASK;
use crate::openflow::Version;
use crate::openflow::codec::flow_mod::{self, Change};
use crate::openflow::codec::hello::{Versions, greeting};
use crate::openflow::codec::numbers::OFP_HEADER_LEN as HEADER;
use crate::openflow::codec::oxm::{self, Oxm};
use crate::openflow::codec::wire::Reader;
use crate::util::clock::BootTime;
use crate::util::clock::Deadline;

/// No script of ours takes in more than a few messages.
const MOST: usize = 64 << 10;

pub(super) fn version(selector: u8) -> Version {
    [Version::V13, Version::V14, Version::V15][usize::from(selector) % 3]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The header's version, then a HELLO's body.
pub(crate) fn hello(data: &[u8]) -> bool {
    let Some((header, body)) = data.split_first() else { return false };
    let Ok(offered) = Versions::parse(*header, body) else { return false };
    let (list, best) = (offered.list(), offered.best());
    assert!(list.iter().all(|v| (1..32).contains(v)), "{list:?}");
    assert_eq!(best.is_some(), list.iter().any(|v| (4..=6).contains(v)), "{list:?}");
    assert!(best.is_none_or(|best| list.contains(&best.wire())));
    assert_eq!(offered.only_10(), list == [1]);
    // As a bitmap it is the same again.
    let bits: u32 = list.iter().map(|v| 1_u32 << v).sum();
    let element = [&[0, 1, 0, 8], bits.to_be_bytes().as_slice()].concat();
    assert_eq!(Versions::parse(0, &element).unwrap().list(), list);
    // And what we answer offers just the one that was chosen.
    if let Some(best) = best {
        let ours = greeting(best, [1, 2]).unwrap();
        assert_eq!(Versions::parse(ours[0], &ours[HEADER..16]).unwrap().list(), [best.wire()]);
    }
    true
}

/// A version's selector, then one entry of a dump.
pub(crate) fn entry(data: &[u8]) -> bool {
    let Some((selector, bytes)) = data.split_first() else { return false };
    let Ok(entry) = Entry::new(version(*selector), bytes) else { return false };
    assert_eq!(entry.bytes(), bytes);
    check_entry(&entry);
    true
}

/// A version's selector, then the fields of a match.
pub(crate) fn matches(data: &[u8]) -> bool {
    let Some((selector, tlvs)) = data.split_first() else { return false };
    let mut read = Match::default();
    if oxm::decode(tlvs, &mut read).is_err() {
        return false;
    }
    // Whatever is said of anybody is in the bytes, where a field's value stands.
    let mut reader = Reader::new(tlvs);
    let mut values = Vec::new();
    while !reader.is_empty() {
        let oxm = Oxm::read(&mut reader).expect("the same bytes were read a moment ago");
        if oxm.mask.is_none() {
            values.push(oxm.value.to_vec());
        }
    }
    assert!(read.addresses.len() <= values.len());
    for found in &read.addresses {
        let bytes = match found.address {
            Address::Mac(mac) => mac.0.to_vec(),
            Address::Ip(std::net::IpAddr::V4(ip)) => ip.octets().to_vec(),
            Address::Ip(std::net::IpAddr::V6(ip)) => ip.octets().to_vec(),
        };
        assert!(values.contains(&bytes), "{} is not in the match", found.address);
    }
    for register in &read.registers {
        assert!(register.index < 16 && register.mask != 0, "{register:?}");
        assert_eq!(register.value & !register.mask, 0, "{register:?}");
    }
    if let Ok(entry) = written(version(*selector), tlvs, &[]) {
        assert_eq!(entry.flow(BootTime::LATEST).unwrap().matches, read);
        check_entry(&entry);
    }
    true
}

/// A version's selector, then instructions.
pub(crate) fn instructions(data: &[u8]) -> bool {
    let Some((selector, bytes)) = data.split_first() else { return false };
    let Ok(entry) = written(version(*selector), &[], bytes) else { return false };
    assert_eq!(entry.raw().instruction_bytes(), bytes);
    check_entry(&entry);
    true
}

/// An entry as the journal has it.
pub(crate) fn journal_entry(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let Ok(entry) = Entry::try_from(text.to_owned()) else { return false };
    assert_eq!(entry.raw().duration(), Duration::ZERO);
    check_entry(&entry);
    true
}

pub(crate) fn written(
    version: Version,
    tlvs: &[u8],
    instructions: &[u8],
) -> Result<Entry, crate::openflow::BadEntry> {
    let (tlvs, instructions) = (hex(tlvs), hex(instructions));
    Entry::try_from(format!("{:x} a 64 2a 3c 0 0 0 {tlvs} {instructions}", version.wire()))
}

/// What holds of everything that counts as an entry.
pub(super) fn check_entry(entry: &Entry) {
    let raw = entry.raw();
    let size = entry.bytes().len();
    assert!(size <= usize::from(u16::MAX));
    assert_eq!(raw.match_bytes().len() % 8, 0);
    let flow = entry.flow(BootTime::LATEST).unwrap();
    let mut dirty = Flow {
        matches: Match { in_port: Some(7), ..Match::default() },
        actions: Actions {
            outputs: vec![7],
            unread: true,
            sets_tunnel: true,
            ..Actions::default()
        },
        ..Flow::default()
    };
    raw.decode(&mut dirty).unwrap();
    assert_eq!(dirty, flow, "a flow that was used before decodes to something else");
    let actions = &flow.actions;
    assert!(actions.beyond || !(actions.unread || actions.conjunction));
    assert!(actions.outputs.len() + actions.port_references.len() <= size);
    assert!(actions.register_writes.len() + actions.output_registers.len() <= size);
    for write in &actions.register_writes {
        assert!(write.index < 16 && write.mask != 0, "{write:?}");
        assert_eq!(write.value.unwrap_or(0) & !write.mask, 0, "{write:?}");
    }
    // For people: one line, and not much longer than what it shows.
    let shown = entry.to_string();
    assert!(!shown.chars().any(char::is_control), "{shown:?}");
    assert!(shown.len() <= 1_000 + 64 * size, "{} bytes are shown as {}", size, shown.len());
    // Through the journal and back: the same flow to whoever added it.
    let text = String::from(entry.clone());
    let back = Entry::try_from(text.clone()).unwrap();
    assert_eq!(back.raw().tlvs(), raw.tlvs());
    assert_eq!(back.raw().instruction_bytes(), raw.instruction_bytes());
    assert_eq!(
        (back.table(), back.priority(), back.cookie()),
        (flow.table, flow.priority, flow.cookie)
    );
    assert_eq!(String::from(back.clone()), text);
    let again = back.flow(BootTime::LATEST).unwrap();
    assert_eq!((&again.matches, &again.actions), (&flow.matches, &flow.actions));
    check_changes(&raw);
}

/// What we send because of it: this very entry, and never by the mask that freezes the switch.
fn check_changes(raw: &RawEntry<'_>) {
    for change in [Change::Delete, Change::DeleteVlanTci, Change::Add, Change::AddOverlapping] {
        let mut out = Vec::new();
        if flow_mod::encode(change, raw, &mut out).is_err() {
            assert_eq!(change, Change::DeleteVlanTci);
            continue;
        }
        let number = |at: usize| u64::from_be_bytes(out[at..at + 8].try_into().unwrap());
        assert_eq!(number(0), raw.cookie());
        assert_eq!(out[16], raw.table());
        assert_eq!(out[28..36], [0xff; 8], "out_port or out_group is not ANY");
        let is_delete = matches!(change, Change::Delete | Change::DeleteVlanTci);
        if is_delete {
            assert_eq!((out[17], number(8)), (4, STRICT_COOKIE_MASK), "not a strict delete");
        } else {
            assert_eq!((out[17], number(8)), (0, 0), "not an ADD");
        }
        let rest = &out[40..];
        match change {
            Change::Delete => assert_eq!(rest, raw.match_bytes()),
            Change::DeleteVlanTci => assert_eq!(rest.len() % 8, 0),
            _ => assert_eq!(rest, [raw.match_bytes(), raw.instruction_bytes()].concat()),
        }
    }
}

/// A script's selector, then all that a switch says before it hangs up. Dumps.
pub(crate) fn dump(data: &[u8]) -> bool {
    let Some((selector, said)) = data.split_first() else { return false };
    let filters = match selector % 3 {
        0 => vec![Filter::default()],
        1 => {
            vec![Filter::table(0), Filter::in_port(1), Filter::eth_type(2048)]
        }
        _ => Vec::new(),
    };
    type Seen = Vec<(usize, Vec<u8>)>;
    let listen = |said: &[u8]| -> Option<Seen> {
        let mut connection = connection(said)?;
        let mut seen = Vec::new();
        let heard = connection.dump_many(&filters, &mut |i, raw, flow| {
            assert_eq!((flow.table, flow.cookie), (raw.table(), raw.cookie()));
            seen.push((i, raw.bytes().to_vec()));
        });
        believe(heard).map(|()| seen)
    };
    let whole = listen(said);
    if let Some(seen) = &whole {
        assert_eq!(complete_dump(said, filters.len()), Some(seen.len()), "taken for complete");
    }
    check_cuts(said, &whole, listen);
    whole.is_some()
}

/// How many entries dumps with the first xids have, if each came to its last part. Written
/// without a look at how `dump.rs` does it.
fn complete_dump(said: &[u8], dumps: usize) -> Option<usize> {
    // 1 and 2 are our hello's and features request's.
    let mut open: Vec<u32> = (3..).take(dumps).collect();
    let (mut rest, mut entries, mut hello) = (said, 0, true);
    while !open.is_empty() {
        let length = usize::from(u16::from_be_bytes([*rest.get(2)?, *rest.get(3)?]));
        let message = rest.get(..length)?;
        rest = rest.get(length..)?;
        let (kind, xid) = (message[1], u32::from_be_bytes(message[4..8].try_into().unwrap()));
        // Echo requests may come before the hello, too.
        if hello {
            hello = kind == 2 || (kind == 1 && xid == 0);
            continue;
        }
        if !open.contains(&xid) || kind == 2 {
            continue;
        }
        // "I do not know this field": then no entry has it.
        let unknown_field = kind == 1 && message.get(8..12) == Some(&[0, 4, 0, 6]);
        if kind == 19 {
            let mut at = message.get(16..)?;
            while !at.is_empty() {
                let length = usize::from(u16::from_be_bytes([*at.first()?, *at.get(1)?]));
                at = at.get(length.max(1)..)?;
                entries += 1;
            }
        }
        if unknown_field || (kind == 19 && message[11] & 1 == 0) {
            open.retain(|open| *open != xid);
        }
    }
    Some(entries)
}

/// A script's selector, then all that a switch says before it hangs up. Everything else that
/// it is asked or told.
pub(crate) fn replies(data: &[u8]) -> bool {
    let Some((selector, said)) = data.split_first() else { return false };
    let listen = |said: &[u8]| -> Option<String> {
        let mut connection = connection(said)?;
        let version = connection.version();
        let entries = entries(version);
        let applied = |applied: Result<Applied, Error>| {
            believe(applied).map(|applied| {
                check_applied(&applied, entries.len());
                format!("{applied:?}")
            })
        };
        match selector % 8 {
            0 => believe(
                connection
                    .ask_ports_and_tables(false)
                    .and_then(|asked| connection.hear_ports_and_tables(asked)),
            )
            .map(|((ports, tables), _)| {
                assert!(ports.iter().all(|(_, name)| name.len() <= 16 * 3));
                format!("{ports:?} {tables:?}")
            }),
            1 => applied(connection.delete_strict(&entries)),
            2 => applied(connection.add(&entries)),
            3 => believe(connection.barrier()).map(|()| String::new()),
            4 => believe(connection.description()),
            5 => {
                let ip = "10.244.1.5".parse().unwrap();
                believe(connection.flush_conntrack(ip)).map(|()| String::new())
            }
            6 => {
                let mut left = 0;
                let filters = [Filter::table(10)];
                let done =
                    connection.delete_strict_and_dump(&entries, &filters, &mut |_| left += 1);
                applied(done).map(|applied| format!("{applied} {left}"))
            }
            _ => {
                believe(connection.watch())?;
                believe(connection.barrier())?;
                let (on, told) = (connection.is_watching(), connection.noted());
                assert_eq!(connection.update_seq(), told.len() as u64);
                let paused = (connection.is_paused(), connection.take_pause());
                // What came behind the answer, up to the end.
                assert_eq!(believe(connection.updates()), None, "it had hung up");
                let more = connection.noted();
                assert!((0..).zip(told.iter().chain(&more)).all(|(at, update)| update.at == at));
                Some(format!("{on} {paused:?} {told:?}"))
            }
        }
    };
    let whole = listen(said);
    check_cuts(said, &whole, listen);
    whole.is_some()
}

fn check_applied(applied: &Applied, entries: usize) {
    assert_eq!(applied.sent + applied.refused.len(), entries, "{applied:?}");
    let indices: Vec<usize> = applied.refused.iter().map(|(i, _)| *i).collect();
    assert!(indices.iter().all(|i| *i < entries), "{applied:?}");
    assert!(indices.is_sorted_by(|a, b| a < b), "{applied:?}");
}

/// Three entries to be told of.
fn entries(version: Version) -> Vec<Entry> {
    [1, 2, 3].map(|port| written(version, &[0x80, 0, 0, 4, 0, 0, 0, port], &[]).unwrap()).to_vec()
}

/// What a switch said is believed or it is not. Nobody waits for one that has hung up.
fn believe<T>(heard: Result<T, Error>) -> Option<T> {
    let failed = match heard {
        Ok(heard) => return Some(heard),
        Err(failed) => failed,
    };
    assert!(!matches!(failed, Error::TimedOut { .. } | Error::Io { .. }), "{failed}");
    let text = failed.to_string();
    assert!(text.len() < 1_000 && !text.chars().any(char::is_control), "{text:?}");
    None
}

fn connection(said: &[u8]) -> Option<Connection> {
    let said = said.get(..said.len().min(MOST)).unwrap_or_default();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(said).unwrap();
    theirs.shutdown(std::net::Shutdown::Write).unwrap();
    // What is asked is still taken in: it ends with the process.
    HEARERS.with(|hearers| *hearers.borrow_mut() = Some(theirs));
    believe(Connection::on(ours, Deadline::after(Duration::from_secs(10))))
}

thread_local! {
    /// The far end, open until the next connection.
    static HEARERS: std::cell::RefCell<Option<UnixStream>> = const { std::cell::RefCell::new(None) };
}

/// The beginning of an answer is either no answer or had all that mattered.
fn check_cuts<T: PartialEq + std::fmt::Debug>(
    said: &[u8],
    whole: &Option<T>,
    listen: impl Fn(&[u8]) -> Option<T>,
) {
    let mut cuts = Vec::new();
    let mut at = 0;
    while let Some(length) = said.get(at + 2..at + 4) {
        let length = usize::from(u16::from_be_bytes(length.try_into().unwrap()));
        let end = at + length.max(HEADER);
        cuts.extend([end, end.saturating_sub(1), at + 4, at + length / 2]);
        at = end;
        if cuts.len() > 12 {
            break;
        }
    }
    for cut in cuts.into_iter().filter(|cut| *cut < said.len()) {
        let part = listen(&said[..cut]);
        assert!(part.is_none() || part == *whole, "cut at {cut}: {part:?}, not {whole:?}");
    }
}
