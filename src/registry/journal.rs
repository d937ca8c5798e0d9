//! The journal: what was deleted, so that `undo` can put it back. One file per operation,
//! one JSON object per line:
//!
//! ```text
//! {"id":"20261121T101112.123-4711","when":{…},"verb":"sweep","bridges":["br0"],"reason":"…"}
//! {"subject":{"bridge":"br0","pod":"default/web","key":{…}}}     subject 0, then 1, 2 …
//! {"of":0,"rule":"1","reason":"in_port 5 is dead","entry":{…}}    one deleted flow
//! {"truncated":true}                                             the bound was reached
//! ```
//!
//! Lines are on disk *before* the delete they describe is sent ([`Writer::flush`]); while an
//! operation runs, and for ever if it is killed, its file is called `.pending`: its last
//! deletes may not have happened. Putting back an entry that is still there changes nothing.
//!
//! All operations together stay within [`JOURNAL_BYTES`]: the oldest go first, and an
//! operation that alone is larger is cut short and says so. No lock is needed: each
//! operation has its own file, locked while it is written.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use nix::fcntl::OFlag;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::error::Error;
use super::{Registry, file, layout};
use crate::attachment::Key;
use crate::clock::{Stamp, Utc};

/// What all operations together may take (tmpfs pages counted whole).
pub const JOURNAL_BYTES: u64 = 16 * 1024 * 1024;
/// And how many there may be: every DEL looks at all of them.
const MOST_OPERATIONS: usize = 500;
/// Room is made in steps of this size.
const STEP: u64 = 256 * 1024;
/// Lines collected before they are written.
const BUFFER: usize = 64 * 1024;
/// No line we write is longer (a flow's match and actions are bounded by OpenFlow's 64 KB).
const LONGEST_LINE: u64 = 1024 * 1024;

const DONE: &str = ".jsonl";
const PENDING: &str = ".jsonl.pending";
const TRUNCATED: &[u8] = b"{\"truncated\":true}\n";

/// An operation's name: when it began (UTC, sortable), and the process.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JournalId(String);

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

impl TryFrom<String> for JournalId {
    type Error = BadJournalId;

    fn try_from(text: String) -> Result<Self, BadJournalId> {
        text.parse()
    }
}

impl From<JournalId> for String {
    fn from(id: JournalId) -> Self {
        id.0
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
    /// Deleted flows.
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
    /// [`Attachment::title`](crate::attachment::Attachment::title).
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

#[derive(Serialize)]
struct SubjectLine<'a> {
    subject: &'a Subject,
}

#[derive(Serialize)]
struct EntryLine<'a, E> {
    of: usize,
    rule: &'a str,
    reason: &'a str,
    entry: &'a E,
}

#[derive(Deserialize)]
struct AnyLine<'a> {
    subject: Option<Subject>,
    of: Option<usize>,
    #[serde(default)]
    rule: String,
    #[serde(default)]
    reason: String,
    #[serde(borrow)]
    entry: Option<&'a RawValue>,
    #[serde(default)]
    truncated: bool,
}

/// An operation being written. Dropped without [`finish`](Self::finish) it stays `.pending`,
/// as after a crash.
#[derive(Debug)]
pub struct Writer {
    id: JournalId,
    directory: PathBuf,
    path: PathBuf,
    file: File,
    buffer: Vec<u8>,
    /// Bytes in the file, all of them whole lines.
    written: u64,
    /// Bytes that it may have before room must be made again.
    allowed: u64,
    limit: u64,
    /// Numbers of the subjects so far: as many as there are dead attachments.
    subjects: HashMap<Subject, usize>,
    /// How many of them are in the file.
    subjects_written: usize,
    truncated: bool,
}

impl Registry {
    /// Begins an operation. Only one that deletes something: an empty one would push an older
    /// one out.
    ///
    /// # Errors
    /// [`Error::Io`], and then nothing is left behind. Whether to delete without a journal
    /// is the caller's decision.
    pub fn begin_journal(
        &self,
        verb: &str,
        bridges: Vec<String>,
        reason: &str,
    ) -> Result<Writer, Error> {
        self.begin_journal_within(JOURNAL_BYTES, verb, bridges, reason)
    }

    fn begin_journal_within(
        &self,
        limit: u64,
        verb: &str,
        bridges: Vec<String>,
        reason: &str,
    ) -> Result<Writer, Error> {
        let directory = self.root.join(layout::JOURNAL);
        file::make_directory(&directory)?;
        let when = Stamp::now();
        // Containers have process ids of their own: the same name may be taken.
        let mut taken = 0;
        let (id, path, file) = loop {
            let id = JournalId::new(when.wall_ms.saturating_add(taken));
            let path = directory.join(format!("{id}{PENDING}"));
            if directory.join(format!("{id}{DONE}")).exists() {
                taken += 1;
                continue;
            }
            let flags = (OFlag::O_NOFOLLOW | OFlag::O_APPEND).bits();
            match OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .custom_flags(flags)
                .open(&path)
            {
                Ok(file) => break (id, path, file),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && taken < 1000 => taken += 1,
                Err(e) => return Err(Error::io("write", &path)(e)),
            }
        };
        // Held while we live: pruning spares what is being written.
        let _ = file.try_lock();
        let subjects = HashMap::new();
        let mut writer = Writer {
            id: id.clone(),
            directory,
            path,
            file,
            buffer: Vec::new(),
            written: 0,
            allowed: 0,
            limit,
            subjects,
            subjects_written: 0,
            truncated: false,
        };
        let header = Header { id, when, verb: verb.to_owned(), bridges, reason: reason.to_owned() };
        // The first line is never cut: even a full journal says that something was deleted.
        let begun = writer.line(&header).and_then(|line| {
            writer.buffer.extend(line);
            writer.make_room(0)?;
            writer.flush()
        });
        match begun {
            Ok(()) => Ok(writer),
            Err(e) => {
                let _ = writer.abandon();
                Err(e)
            }
        }
    }

    /// All operations, the newest first. One whose first line cannot be read is left out
    /// with a warning.
    ///
    /// # Errors
    /// [`Error::Io`] if the journal's directory cannot be listed.
    pub fn journals(&self) -> Result<Vec<Operation>, Error> {
        let mut operations = Vec::new();
        for (id, name, _) in files(&self.root.join(layout::JOURNAL))?.into_iter().rev() {
            let path = self.root.join(layout::JOURNAL).join(name);
            match read::<serde::de::IgnoredAny>(&path, &id, false, &mut |_| {}) {
                Ok(Some(operation)) => operations.push(operation),
                Ok(None) => {}
                Err(e) => log::warn!("{e}"),
            }
        }
        Ok(operations)
    }

    /// Reads an operation, one deleted flow at a time, in the order of deletion. A torn last
    /// line (we were killed before its delete was sent) is counted and left out.
    ///
    /// # Errors
    /// [`Error::NoSuchOperation`], [`Error::Io`].
    pub fn read_journal<E: DeserializeOwned>(
        &self,
        id: &JournalId,
        each: &mut dyn FnMut(Deleted<'static, E>),
    ) -> Result<Operation, Error> {
        let directory = self.root.join(layout::JOURNAL);
        for ending in [DONE, PENDING] {
            if let Some(read) = read(&directory.join(format!("{id}{ending}")), id, true, each)? {
                return Ok(read);
            }
        }
        Err(Error::NoSuchOperation { id: id.to_string(), path: directory })
    }
}

impl Writer {
    /// The operation's name.
    #[must_use]
    pub fn id(&self) -> &JournalId {
        &self.id
    }

    /// Whether the bound was reached and deleted flows are missing.
    #[must_use]
    pub fn truncated(&self) -> bool {
        self.truncated
    }

    /// Adds a flow that is about to be deleted. [`flush`](Self::flush) before the delete is
    /// sent.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Encode`]; what was flushed before stays readable.
    pub fn record<E: Serialize>(&mut self, deleted: &Deleted<'_, E>) -> Result<(), Error> {
        if self.truncated {
            return Ok(());
        }
        let known = self.subjects.get(deleted.subject.as_ref()).copied();
        let of = known.unwrap_or(self.subjects.len());
        let mut lines = match known {
            Some(_) => Vec::new(),
            None => self.line(&SubjectLine { subject: &deleted.subject })?,
        };
        let Deleted { rule, reason, entry, .. } = deleted;
        lines.extend(self.line(&EntryLine { of, rule, reason, entry })?);
        if known.is_some() {
            return self.push(&lines);
        }
        let subject = deleted.subject.as_ref();
        self.subjects.insert(subject.clone(), of);
        // A number without its line would shift all later ones.
        let pushed = self.push(&lines);
        if pushed.is_err() {
            self.subjects.remove(subject);
        }
        pushed
    }

    /// Hands everything recorded so far to the kernel: from here on it survives our being
    /// killed.
    ///
    /// # Errors
    /// [`Error::Io`]; lines since the last flush are gone, the earlier ones stay readable.
    pub fn flush(&mut self) -> Result<(), Error> {
        let done = self.file.write_all(&self.buffer);
        let bytes = self.buffer.len() as u64;
        self.buffer.clear();
        match done {
            Ok(()) => {
                self.written += bytes;
                self.subjects_written = self.subjects.len();
                Ok(())
            }
            Err(e) => {
                // Shrinking works on a full disk, too.
                let _ = self.file.set_len(self.written);
                let written = self.subjects_written;
                self.subjects.retain(|_, number| *number < written);
                self.truncated = false;
                Err(Error::io("write", &self.path)(e))
            }
        }
    }

    /// Ends the operation: its deletes were sent.
    ///
    /// # Errors
    /// [`Error::Io`]; it stays readable as one that did not finish.
    pub fn finish(mut self) -> Result<JournalId, Error> {
        self.flush()?;
        let done = self.directory.join(format!("{}{DONE}", self.id));
        fs::rename(&self.path, &done).map_err(Error::io("write", &done))?;
        Ok(self.id)
    }

    /// Forgets the operation: none of its deletes was sent.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn abandon(self) -> Result<(), Error> {
        file::remove(&self.path)
    }

    fn line<T: Serialize>(&self, value: &T) -> Result<Vec<u8>, Error> {
        let mut line = serde_json::to_vec(value)
            .map_err(|source| Error::Encode { path: self.path.clone(), source })?;
        line.push(b'\n');
        if line.len() as u64 > LONGEST_LINE {
            let (path, limit) = (self.path.clone(), LONGEST_LINE);
            return Err(Error::TooLarge { path, bytes: line.len(), limit });
        }
        Ok(line)
    }

    /// Whether so many bytes more, and the notice, stay within the bound.
    fn make_room(&mut self, more: usize) -> Result<bool, Error> {
        let size = self.written + (self.buffer.len() + more + TRUNCATED.len()) as u64;
        if size > self.allowed {
            self.allowed = drop_oldest(&self.directory, &self.id, size + STEP, self.limit)?;
        }
        Ok(size <= self.allowed)
    }

    fn push(&mut self, lines: &[u8]) -> Result<(), Error> {
        if !self.make_room(lines.len())? {
            self.truncated = true;
            self.buffer.extend(TRUNCATED);
            return Ok(());
        }
        self.buffer.extend(lines);
        if self.buffer.len() >= BUFFER { self.flush() } else { Ok(()) }
    }
}

/// Drops the oldest operations until one may have `wanted` bytes; says how many it may
/// have.
fn drop_oldest(directory: &Path, ours: &JournalId, wanted: u64, limit: u64) -> Result<u64, Error> {
    let others: Vec<_> = files(directory)?.into_iter().filter(|(id, ..)| id != ours).collect();
    let mut taken: u64 = others.iter().map(|(.., bytes)| bytes).sum();
    let mut count = others.len() + 1;
    for (_, name, bytes) in others {
        if taken.saturating_add(wanted) <= limit && count <= MOST_OPERATIONS {
            break;
        }
        let path = directory.join(name);
        // Somebody is still writing it.
        if File::open(&path).is_ok_and(|f| f.try_lock_shared().is_err()) {
            continue;
        }
        file::remove(&path)?;
        taken = taken.saturating_sub(bytes);
        count -= 1;
    }
    Ok(limit.saturating_sub(taken).min(wanted))
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

/// Reads an operation's file; `None` if it is not there. With `whole`, every line is
/// decoded and handed out; otherwise lines are only counted.
fn read<E: DeserializeOwned>(
    path: &Path,
    id: &JournalId,
    whole: bool,
    each: &mut dyn FnMut(Deleted<'static, E>),
) -> Result<Option<Operation>, Error> {
    let failed = |e| Error::io("read", path)(e);
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let mut input = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => BufReader::with_capacity(BUFFER, file),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    let mut line = Vec::new();
    next_line(&mut input, &mut line).map_err(failed)?;
    let header: Header = serde_json::from_slice(&line)
        .map_err(|e| failed(io::Error::new(io::ErrorKind::InvalidData, e)))?;
    if header.id != *id {
        let why = "it names another operation";
        return Err(failed(io::Error::new(io::ErrorKind::InvalidData, why)));
    }
    let finished = path.to_str().is_some_and(|p| p.ends_with(DONE));
    let (entries, truncated, unreadable) = (0, false, 0);
    let mut operation = Operation { header, entries, finished, truncated, unreadable };
    let mut subjects = Vec::new();
    while next_line(&mut input, &mut line).map_err(failed)? {
        if line == TRUNCATED {
            operation.truncated = true;
        } else if line.last() != Some(&b'\n') {
            operation.unreadable += 1;
        } else if !whole {
            operation.entries += usize::from(line.starts_with(b"{\"of\""));
        } else {
            match decode(&line, &mut subjects) {
                Some(Some(deleted)) => {
                    operation.entries += 1;
                    each(deleted);
                }
                Some(None) => {}
                None => operation.unreadable += 1,
            }
        }
    }
    Ok(Some(operation))
}

/// `None`: not a line of ours. `Some(None)`: a line that is no entry.
fn decode<E: DeserializeOwned>(
    line: &[u8],
    subjects: &mut Vec<Subject>,
) -> Option<Option<Deleted<'static, E>>> {
    let line: AnyLine<'_> = serde_json::from_slice(line).ok()?;
    if line.truncated {
        return Some(None);
    }
    if let Some(subject) = line.subject {
        subjects.push(subject);
        return Some(None);
    }
    Some(Some(Deleted {
        subject: Cow::Owned(subjects.get(line.of?)?.clone()),
        rule: line.rule.into(),
        reason: line.reason.into(),
        entry: serde_json::from_str(line.entry?.get()).ok()?,
    }))
}

/// The next line with its newline (none: it is torn, or too long); `false` at the end.
fn next_line(input: &mut BufReader<File>, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    Ok(input.by_ref().take(LONGEST_LINE).read_until(b'\n', line)? > 0)
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
