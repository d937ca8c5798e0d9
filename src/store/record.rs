//! One file of a network's directory, read and judged by its name.

use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::Deserialize;

use super::error::{Corrupt, CorruptWhy, Error, Slot};
use super::file::{self, Content};
use crate::model::attachment::{Attachment, Key, NetworkName, Register, SCHEMA, State};
use crate::model::flow::MacAddr;
use crate::util::clock::Stamp;
use crate::util::json;

/// What a slot holds.
pub(super) enum Found {
    Absent,
    Record(Box<Attachment>),
    /// A network's state: JSON of any shape.
    State(String),
    Corrupt(Box<Corrupt>),
}

/// What an attachment is on the switch, by its record.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RecordHeader {
    /// The bridge that has the port.
    pub bridge: Option<String>,
    /// Its number.
    pub ofport: Option<u16>,
    /// Its register value.
    pub register: Option<Register>,
    /// Its own IPs.
    pub ips: Vec<IpAddr>,
    /// Its own MACs.
    pub macs: Vec<MacAddr>,
}

/// Which records are wanted. A record that cannot be judged by its header is.
pub(super) type Wanted<'w> = &'w dyn Fn(&RecordHeader) -> bool;

/// Reads what is at `path`, which should be a `slot` of `network`.
pub(super) fn examine(path: &Path, network: &NetworkName, slot: Slot) -> Result<Found, Error> {
    examine_if(path, network, slot, None)
}

/// The same, but a record that is not wanted is not read to its end and counts as absent.
pub(super) fn examine_if(
    path: &Path,
    network: &NetworkName,
    slot: Slot,
    wanted: Option<Wanted<'_>>,
) -> Result<Found, Error> {
    let odd = |why, slot| {
        let network = network.clone();
        Ok(Found::Corrupt(Box::new(Corrupt { path: path.to_path_buf(), network, slot, why })))
    };
    let (bytes, meta) = match file::read(path)? {
        Content::Absent => return Ok(Found::Absent),
        Content::Odd(why) => return odd(why, slot),
        Content::Bytes(bytes, meta) => (bytes, meta),
    };
    if let (Some(wanted), Slot::Active(_) | Slot::Tombstone(..)) = (wanted, &slot)
        && json::from_slice(&bytes).is_ok_and(|brief| !wanted(&brief))
    {
        return Ok(Found::Absent);
    }
    let parsed = match &slot {
        Slot::Active(key) => parse(&bytes, key).map(|a| Found::Record(Box::new(a))),
        Slot::Tombstone(key, generation) => parse(&bytes, key).and_then(|record| {
            if record.generation == *generation {
                let moved = ctime_ms(&meta);
                Ok(Found::Record(Box::new(as_tombstone(record, moved))))
            } else {
                Err(CorruptWhy::WrongKey(Box::new(record.key)))
            }
        }),
        Slot::State => json_text(bytes).map(Found::State),
        Slot::Nothing => Err(CorruptWhy::Name),
    };
    parsed.or_else(|why| odd(why, slot))
}

/// A record, if these bytes are the one of `key`.
pub(super) fn parse(bytes: &[u8], key: &Key) -> Result<Attachment, CorruptWhy> {
    #[derive(Deserialize)]
    struct Version {
        schema: u32,
    }
    match json::from_slice::<Attachment>(bytes) {
        Ok(record) if record.schema != SCHEMA => Err(CorruptWhy::Schema(record.schema)),
        Ok(record) if record.key != *key => Err(CorruptWhy::WrongKey(Box::new(record.key))),
        Ok(record) => Ok(record),
        // Another version's record may lack what ours must have: say so rather.
        Err(error) => match json::from_slice::<Version>(bytes) {
            Ok(Version { schema }) if schema != SCHEMA => Err(CorruptWhy::Schema(schema)),
            _ => Err(error.into()),
        },
    }
}

/// A record in `dead/` is dead whatever it says: with a full disk `write_tombstone` could only move
/// it there, and when it did is when the death was noticed.
pub(super) fn as_tombstone(mut record: Attachment, moved_ms: u64) -> Attachment {
    if record.state == State::Active {
        record.state = State::Deleting;
    }
    if record.died.is_none() {
        let now = Stamp::now();
        record.died = Some(Stamp::of_wall(moved_ms, now).unwrap_or(now));
    }
    record
}

fn ctime_ms(meta: &std::fs::Metadata) -> u64 {
    let ms = meta.ctime().saturating_mul(1000).saturating_add(meta.ctime_nsec() / 1_000_000);
    u64::try_from(ms).unwrap_or(0)
}

fn json_text(bytes: Vec<u8>) -> Result<String, CorruptWhy> {
    let text = String::from_utf8(bytes)
        .map_err(|e| CorruptWhy::NotJson(serde::de::Error::custom(e.utf8_error())))?;
    serde_json::from_str::<serde::de::IgnoredAny>(&text)?;
    Ok(text)
}
