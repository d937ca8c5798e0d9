//! The journal: what was deleted, so that `undo` can put it back. One file per operation,
//! one JSON object per line:
//!
//! ```text
//! {"id":"20261121T101112.123-4711","when":{…},"verb":"sweep","bridges":["br0"],"reason":"…"}
//! {"subject":{"bridge":"br0","pod":"default/web","key":{…}},"rule":"…","reason":"…"}   group 0
//! {"of":0,"entry":"4 0 64 …"}                                       one deleted flow
//! {"back":"4 0 64 …"}                                               it was put back at once
//! {"truncated":true}                                                the bound was reached
//! ```
//!
//! Lines are on disk *before* the delete they describe is sent ([`Writer::flush`]); while an
//! operation runs, and for ever if it is killed, its file is called `.pending`: its last
//! deletes may not have happened. Putting back an entry that is still there changes nothing.
//!
//! All operations together stay within [`JOURNAL_BYTES`]: the oldest go first, and an
//! operation that alone is larger is cut short and says so. No lock is needed: each
//! operation has its own file, locked while it is written.

mod reader;
mod writer;

use std::borrow::Cow;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

#[cfg(feature = "fuzzing")]
pub(super) use reader::read_from;
pub use writer::Writer;

use super::error::Error;
use crate::model::attachment::Key;
use crate::model::text::serde_as_text;
use crate::util::clock::{Stamp, Utc};

/// What all operations together may take (tmpfs pages counted whole).
pub const JOURNAL_BYTES: u64 = 16 * 1024 * 1024;
/// And how many there may be: every DEL looks at all of them.
const MOST_OPERATIONS: usize = 256;
/// Room is made in steps of this size.
const STEP: u64 = 256 * 1024;
/// Lines collected before they are written.
const BUFFER: usize = 64 * 1024;
/// And at most, where it is not known yet whether they will be.
const PREPARED: usize = 2 * 1024 * 1024;
/// No line we write is longer (a flow's match and actions are bounded by OpenFlow's 64 KB).
const LONGEST_LINE: u64 = 1024 * 1024;

const DONE: &str = ".jsonl";
const PENDING: &str = ".jsonl.pending";
const TRUNCATED: &[u8] = b"{\"truncated\":true}\n";

/// An operation's name: when it began (UTC, sortable), and the process.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JournalId(String);

serde_as_text!(JournalId);

/// Why a string names no operation.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not an operation's id (like 20261121T101112.123-4711)")]
pub struct BadJournalId(String);

impl JournalId {
    fn new(wall_ms: u64) -> Self {
        let Utc { year, month, day, hour, minute, second, millisecond } = Utc::of(wall_ms);
        Self(format!(
            "{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}.{millisecond:03}-{}",
            std::process::id()
        ))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for JournalId {
    type Err = BadJournalId;

    /// Digits with `T`, `.` and `-` in their places: it becomes a file name.
    fn from_str(text: &str) -> Result<Self, BadJournalId> {
        let shape: String =
            text.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
        let process = shape.strip_prefix("99999999T999999.999-").unwrap_or("");
        if (1..=10).contains(&process.len()) && process.bytes().all(|b| b == b'9') {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadJournalId(text.chars().take(64).collect()))
        }
    }
}

impl fmt::Display for JournalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// An operation's first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Its name.
    pub id: JournalId,
    /// When it began.
    pub when: Stamp,
    /// `DEL`, `GC`, `ADD` or `sweep`.
    pub verb: String,
    /// The bridges it was about to delete from.
    pub bridges: Vec<String>,
    /// Why it ran, for people.
    pub reason: String,
}

/// An operation, as it is in the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Its first line.
    pub header: Header,
    /// Deleted flows, without those that were put back at once.
    pub entries: usize,
    /// It ran to its end. If not, its last deletes may not have happened.
    pub finished: bool,
    /// The journal's bound was reached: not all of its deleted flows are here.
    pub truncated: bool,
    /// Lines that cannot be read (a crash tears at most the last).
    pub unreadable: usize,
}

/// Whose flow it was.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Subject {
    /// The bridge it was on.
    pub bridge: String,
    /// [`Attachment::title`](crate::model::attachment::Attachment::title).
    pub pod: String,
    /// Its attachment; `None` for a dangling flow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Key>,
}

/// One deleted flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deleted<'a, E> {
    /// Whose it was.
    pub subject: Cow<'a, Subject>,
    /// The rule that condemned it.
    pub rule: Cow<'a, str>,
    /// The same for people.
    pub reason: Cow<'a, str>,
    /// All that is needed to put it back.
    pub entry: E,
}

/// The operations' ids, file names and sizes, the oldest first.
fn files(directory: &Path) -> Result<Vec<(JournalId, String, u64)>, Error> {
    let failed = |e| Error::io("list", directory)(e);
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed(e)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let id = name.strip_suffix(DONE).or_else(|| name.strip_suffix(PENDING));
        let Some(id) = id.and_then(|id| id.parse().ok()) else { continue };
        // A small file takes a page.
        let Ok(meta) = entry.metadata() else { continue };
        files.push((id, name, meta.len().max(meta.blocks().saturating_mul(512))));
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests;
