//! Writing an operation, and making room for it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use serde::Serialize;

use super::{
    BUFFER, DONE, Deleted, Header, JOURNAL_BYTES, JournalId, LONGEST_LINE, MOST_OPERATIONS,
    PENDING, PREPARED, STEP, Subject, TRUNCATED, files,
};
use crate::store::error::Error;
use crate::store::{Registry, file, layout};
use crate::util::clock::Stamp;

/// Whose entries follow and why they went: many have this in common.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize)]
struct Group<'a> {
    subject: Cow<'a, Subject>,
    rule: Cow<'a, str>,
    reason: Cow<'a, str>,
}

#[derive(Serialize)]
struct EntryLine<'a, E> {
    of: usize,
    entry: &'a E,
}

#[derive(Serialize)]
struct BackLine<'a, E> {
    back: &'a E,
}

/// An operation being written. Dropped without [`finish`](Self::finish) it stays `.pending`,
/// as after a crash.
#[derive(Debug)]
pub struct Writer {
    pub(super) id: JournalId,
    directory: PathBuf,
    path: PathBuf,
    file: File,
    buffer: Vec<u8>,
    /// Bytes in the file, all of them whole lines.
    written: u64,
    /// Bytes that it may have before room must be made again.
    allowed: u64,
    limit: u64,
    /// Numbers of the groups so far: a few for each dead attachment.
    groups: HashMap<Group<'static>, usize>,
    /// How many of them are in the file.
    groups_written: usize,
    /// The bound was reached: deleted flows are missing.
    pub(super) truncated: bool,
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

    pub(super) fn begin_journal_within(
        &self,
        limit: u64,
        verb: &str,
        bridges: Vec<String>,
        reason: &str,
    ) -> Result<Writer, Error> {
        let directory = self.root.join(layout::JOURNAL);
        file::make_directory(&directory)?;
        let when = Stamp::now();
        let (id, path, file) = create(&directory, when.wall_ms)?;
        // Held while we run: pruning spares a file that is locked.
        let _ = file.try_lock();
        let mut writer = Writer {
            id: id.clone(),
            directory,
            path,
            file,
            buffer: Vec::new(),
            written: 0,
            // Whoever ended last has left room for it.
            allowed: STEP.min(limit),
            limit,
            groups: HashMap::new(),
            groups_written: 0,
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
}

impl Writer {
    /// Adds a flow that is about to be deleted. [`flush`](Self::flush) before the delete is
    /// sent.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Encode`]; what was flushed before stays readable.
    pub fn record<E: Serialize>(&mut self, deleted: &Deleted<'_, E>) -> Result<(), Error> {
        self.prepare(deleted)?;
        if self.buffer.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    /// Whether there is room to [`prepare`](Self::prepare) more.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.buffer.len() < PREPARED
    }

    /// Adds a flow that may be about to be deleted: kept in memory, where
    /// [`take_back`](Self::take_back) still finds it, until the next flush.
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub fn prepare<E: Serialize>(&mut self, deleted: &Deleted<'_, E>) -> Result<(), Error> {
        if self.truncated {
            return Ok(());
        }
        let Deleted { subject, rule, reason, entry } = deleted;
        let group = Group {
            subject: Cow::Borrowed(subject.as_ref()),
            rule: Cow::Borrowed(rule.as_ref()),
            reason: Cow::Borrowed(reason.as_ref()),
        };
        if let Some(of) = self.groups.get(&group) {
            let lines = self.line(&EntryLine { of: *of, entry })?;
            return self.push(&lines);
        }
        let of = self.groups.len();
        let mut lines = self.line(&group)?;
        lines.extend(self.line(&EntryLine { of, entry })?);
        let group = Group {
            subject: Cow::Owned(group.subject.into_owned()),
            rule: Cow::Owned(group.rule.into_owned()),
            reason: Cow::Owned(group.reason.into_owned()),
        };
        self.groups.insert(group.clone(), of);
        // A number without its line would shift all later ones.
        let pushed = self.push(&lines);
        if pushed.is_err() {
            self.groups.remove(&group);
        }
        pushed
    }

    /// Says of a recorded flow that it was put back at once: it does not count as deleted.
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub fn put_back<E: Serialize>(&mut self, entry: &E) -> Result<(), Error> {
        if self.truncated {
            return Ok(());
        }
        let line = self.line(&BackLine { back: entry })?;
        self.push(&line)
    }

    /// Hands everything recorded so far to the kernel: from here on it survives our being
    /// killed.
    ///
    /// # Errors
    /// [`Error::Io`]; lines since the last flush are gone, the earlier ones stay readable.
    pub fn flush(&mut self) -> Result<(), Error> {
        match self.file.write_all(&self.buffer) {
            Ok(()) => {
                self.written += self.buffer.len() as u64;
                self.buffer.clear();
                self.groups_written = self.groups.len();
                Ok(())
            }
            Err(e) => {
                // Shrinking works on a full disk, too.
                let _ = self.file.set_len(self.written);
                self.take_back();
                Err(Error::io("write", &self.path)(e))
            }
        }
    }

    /// Forgets what was recorded since the last [`flush`](Self::flush) that succeeded.
    pub fn take_back(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        self.buffer.clear();
        let written = self.groups_written;
        self.groups.retain(|_, number| *number < written);
        self.truncated = false;
    }

    /// Ends the operation: its deletes were sent.
    ///
    /// # Errors
    /// [`Error::Io`]; it stays readable as one that did not finish.
    pub fn finish(mut self) -> Result<JournalId, Error> {
        self.flush()?;
        let done = self.directory.join(format!("{}{DONE}", self.id));
        fs::rename(&self.path, &done).map_err(Error::io("write", &done))?;
        // Room for the next one, now that no delete waits for it.
        let room = drop_oldest(&self.directory, &self.id, self.written + STEP, self.limit);
        if let Err(failed) = room {
            log::warn!("{failed}: older operations stay");
        }
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
        Ok(())
    }
}

/// Makes the file of an operation that began then.
fn create(directory: &Path, wall_ms: u64) -> Result<(JournalId, PathBuf, File), Error> {
    // Containers have process ids of their own: the same name may be taken.
    let mut taken = 0;
    loop {
        let id = JournalId::new(wall_ms.saturating_add(taken));
        let path = directory.join(format!("{id}{PENDING}"));
        if directory.join(format!("{id}{DONE}")).exists() {
            taken += 1;
            continue;
        }
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_APPEND).bits();
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600).custom_flags(flags);
        match options.open(&path) {
            Ok(file) => return Ok((id, path, file)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && taken < 1000 => taken += 1,
            Err(e) => return Err(Error::io("write", &path)(e)),
        }
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
        // Its writer still has it locked.
        if File::open(&path).is_ok_and(|f| f.try_lock_shared().is_err()) {
            continue;
        }
        file::remove(&path)?;
        taken = taken.saturating_sub(bytes);
        count -= 1;
    }
    Ok(limit.saturating_sub(taken).min(wanted))
}
