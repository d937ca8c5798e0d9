//! Fuzz bodies: whatever is in the state directory (see [`crate::fuzzing`]).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a broken promise is told by panicking"
)]

use std::io::Cursor;
use std::path::{Component, Path};

use serde_json::Value;

use super::error::CorruptWhy;
use super::journal::read_from;
use super::{JournalId, RecordHeader, layout, record};
use crate::config::NetworkState;
use crate::model::attachment::{Attachment, Key, NetworkName, SCHEMA, State};
use crate::openflow::Entry;

const ROOT: &str = "/run/ovs-flow-gc";

/// A record's file.
pub(crate) fn record(data: &[u8]) -> bool {
    // The key that its file's name would have.
    let named = serde_json::from_slice::<Value>(data).ok().and_then(|value| {
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
        Some(Key {
            network: text("network").parse().ok()?,
            container: text("containerID").parse().ok()?,
            ifname: text("ifname").parse().ok()?,
        })
    });
    let other = key();
    let parsed = record::parse(data, named.as_ref().unwrap_or(&other));
    if let Err(why) = &parsed {
        assert!(why.to_string().len() < 1_000, "{why}");
    }
    let Ok(record) = parsed else { return false };
    let key = named.expect("a record without a key counts as one");
    stays_inside(&key);
    assert_eq!((record.schema, &record.key), (SCHEMA, &key));
    if key != other {
        let elsewhere = record::parse(data, &other);
        assert!(matches!(elsewhere, Err(CorruptWhy::WrongKey(_))), "{elsewhere:?}");
    }
    let text = serde_json::to_vec(&record).unwrap();
    assert_eq!(record::parse(&text, &key).unwrap(), record);
    assert!(record.addresses().iter().all(|address| !address.is_unusable()));
    // The short way to read it says the same, or wants the long one.
    if let Ok(brief) = serde_json::from_slice::<RecordHeader>(data) {
        let RecordHeader { bridge, ofport, register, ips, macs } = brief;
        let short = (bridge, ofport, register, ips, macs);
        let Attachment { bridge, ofport, register, ips, macs, .. } = record.clone();
        assert_eq!(short, (bridge, ofport, register, ips, macs));
    }
    let dead = record::as_tombstone(record, 0);
    assert!(dead.state != State::Active && dead.died.is_some());
    true
}

/// A network's `config.json`.
pub(crate) fn network_state(data: &[u8]) -> bool {
    let Ok(state) = serde_json::from_slice::<NetworkState>(data) else { return false };
    let text = serde_json::to_vec(&state).unwrap();
    assert_eq!(serde_json::from_slice::<NetworkState>(&text).unwrap(), state);
    true
}

/// An operation's file.
pub(crate) fn journal(data: &[u8]) -> bool {
    let id = data.split(|byte| *byte == b'\n').next().and_then(|line| {
        let header: Value = serde_json::from_slice(line).ok()?;
        header.get("id")?.as_str()?.parse::<JournalId>().ok()
    });
    let none: JournalId = "20261121T101112.123-4711".parse().unwrap();
    let id = id.unwrap_or(none);
    let mut entries: Vec<String> = Vec::new();
    let whole = read_from::<Entry>(Cursor::new(data), &id, true, true, &mut |deleted| {
        entries.push(deleted.entry.into());
    });
    let counted =
        read_from::<Entry>(Cursor::new(data), &id, true, false, &mut |_| panic!("not asked for"));
    assert_eq!(whole.is_ok(), counted.is_ok());
    let Ok(whole) = whole else { return false };
    assert_eq!(whole.entries, entries.len());
    let lines = data.iter().filter(|byte| **byte == b'\n').count();
    // Longer lines than we write are read in parts.
    let most = lines + data.len() / (1 << 20) + 1;
    assert!(whole.entries + whole.unreadable <= most, "{whole:?}");
    // What was put back is said behind it: a part says more.
    let back = b"\"back\"";
    if data.windows(back.len()).any(|part| part == back) {
        return true;
    }
    // Cut anywhere, it has the same beginning: a torn line is left out, never half-believed.
    for eighth in 1..8 {
        let cut = &data[..data.len() * eighth / 8];
        let mut before: Vec<String> = Vec::new();
        let read = read_from::<Entry>(Cursor::new(cut), &id, false, true, &mut |deleted| {
            before.push(deleted.entry.into());
        });
        assert!(read.is_err() || entries.starts_with(&before), "{before:?}");
    }
    true
}

/// Names as they are found: a directory's, a line break, a file's.
pub(crate) fn file_names(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let (directory, file) = text.split_once('\n').unwrap_or(("podnet", text));
    let Some(network) = layout::network_of(directory) else { return false };
    let root = Path::new(ROOT);
    assert_eq!(layout::network(root, &network), root.join(directory));
    if let Some(key) = layout::parse_active(&network, file) {
        assert_eq!(layout::active(root, &key), root.join(directory).join(file));
        stays_inside(&key);
    }
    if let Some((key, generation)) = layout::parse_tombstone(&network, file) {
        let path = layout::tombstone(root, &key, generation);
        assert_eq!(path, root.join(directory).join("dead").join(file));
        stays_inside(&key);
    }
    true
}

/// Whatever its names are, an attachment's files are where they should be, under names that
/// are its own.
pub(crate) fn stays_inside(key: &Key) {
    let root = Path::new(ROOT);
    let inside = |path: &Path, deep: usize| {
        let below = path.strip_prefix(root).expect("inside of the state directory");
        let parts: Vec<_> = below.components().collect();
        assert_eq!(parts.len(), deep, "{}", path.display());
        assert!(parts.iter().all(|part| matches!(part, Component::Normal(_))), "{parts:?}");
        assert!(!path.as_os_str().as_encoded_bytes().iter().any(u8::is_ascii_control), "{key:?}");
        assert!(path.file_name().unwrap().len() <= 255 - ".corrupt.99".len(), "{key:?}");
    };
    let (active, dead) = (layout::active(root, key), layout::tombstone(root, key, u64::MAX));
    inside(&active, 2);
    inside(&dead, 3);
    inside(&layout::config(root, &key.network), 2);
    assert_ne!(active, layout::config(root, &key.network));
    let file = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    assert_eq!(layout::parse_active(&key.network, &file(&active)).as_ref(), Some(key));
    let parsed = layout::parse_tombstone(&key.network, &file(&dead));
    assert_eq!(parsed, Some((key.clone(), u64::MAX)));
}

fn key() -> Key {
    let network: NetworkName = "some".parse().unwrap();
    Key { network, container: "one".parse().unwrap(), ifname: "eth7".parse().unwrap() }
}
