//! Reading operations: in whole for `undo`, or just counting.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::OFlag;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::{
    BUFFER, DONE, Deleted, Header, JournalId, LONGEST_LINE, Operation, PENDING, Subject, TRUNCATED,
    files,
};
use crate::store::error::Error;
use crate::store::{Registry, layout};
use crate::util::json;

#[derive(Deserialize)]
struct AnyLine<'a> {
    subject: Option<Subject>,
    #[serde(default)]
    rule: String,
    #[serde(default)]
    reason: String,
    of: Option<usize>,
    #[serde(borrow)]
    entry: Option<&'a RawValue>,
    #[serde(borrow)]
    back: Option<&'a RawValue>,
    #[serde(default)]
    truncated: bool,
}

impl Registry {
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
    let input = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => BufReader::with_capacity(BUFFER, file),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    let finished = path.to_str().is_some_and(|p| p.ends_with(DONE));
    read_from(input, id, finished, whole, each).map(Some).map_err(failed)
}

/// The same of what is in such a file.
pub(in crate::store) fn read_from<E: DeserializeOwned>(
    mut input: impl BufRead + Seek,
    id: &JournalId,
    finished: bool,
    whole: bool,
    each: &mut dyn FnMut(Deleted<'static, E>),
) -> io::Result<Operation> {
    let mut line = Vec::new();
    let mut back = HashMap::new();
    if whole {
        back = put_back(&mut input)?;
        input.rewind()?;
    }
    next_line(&mut input, &mut line)?;
    let header: Header =
        json::from_slice(&line).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    if header.id != *id {
        let why = "it names another operation";
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    let (entries, truncated, unreadable) = (0, false, 0);
    let mut operation = Operation { header, entries, finished, truncated, unreadable };
    let mut groups = Vec::new();
    while next_line(&mut input, &mut line)? {
        if line == TRUNCATED {
            operation.truncated = true;
        } else if line.last() != Some(&b'\n') {
            operation.unreadable += 1;
        } else if !whole {
            operation.entries += usize::from(line.starts_with(b"{\"of\""));
            let back = usize::from(line.starts_with(BACK));
            operation.entries = operation.entries.saturating_sub(back);
        } else {
            match decode(&line, &mut groups, &mut back) {
                Some(Some(deleted)) => {
                    operation.entries += 1;
                    each(deleted);
                }
                Some(None) => {}
                None => operation.unreadable += 1,
            }
        }
    }
    Ok(operation)
}

/// Whose entries follow and why they went.
struct Group {
    subject: Subject,
    rule: String,
    reason: String,
}

const BACK: &[u8] = b"{\"back\"";

/// What was put back, as it is written, and how often. It is said behind the deletion.
fn put_back(input: &mut impl BufRead) -> io::Result<HashMap<String, usize>> {
    let (mut back, mut line) = (HashMap::new(), Vec::new());
    while next_line(input, &mut line)? {
        if line.starts_with(BACK)
            && let Ok(AnyLine { back: Some(entry), .. }) = json::from_slice(&line)
        {
            *back.entry(entry.get().to_owned()).or_insert(0) += 1;
        }
    }
    Ok(back)
}

/// `None`: not a line of ours. `Some(None)`: a line that is no entry, or of one that was put
/// back.
fn decode<E: DeserializeOwned>(
    line: &[u8],
    groups: &mut Vec<Group>,
    back: &mut HashMap<String, usize>,
) -> Option<Option<Deleted<'static, E>>> {
    let line: AnyLine<'_> = json::from_slice(line).ok()?;
    if line.truncated || line.back.is_some() {
        return Some(None);
    }
    if let Some(subject) = line.subject {
        groups.push(Group { subject, rule: line.rule, reason: line.reason });
        return Some(None);
    }
    let group = groups.get(line.of?)?;
    if let Some(left) = line.entry.and_then(|entry| back.get_mut(entry.get()))
        && *left > 0
    {
        *left -= 1;
        return Some(None);
    }
    Some(Some(Deleted {
        subject: Cow::Owned(group.subject.clone()),
        rule: group.rule.clone().into(),
        reason: group.reason.clone().into(),
        entry: serde_json::from_str(line.entry?.get()).ok()?,
    }))
}

/// The next line with its newline (none: it is torn, or too long); `false` at the end.
fn next_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    Ok(input.by_ref().take(LONGEST_LINE).read_until(b'\n', line)? > 0)
}
