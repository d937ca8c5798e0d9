//! What can go wrong with the state directory, in an operator's words.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::model::attachment::{Key, NetworkName};

/// A failure of the state directory. Every variant names the path.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed; `source` has the errno.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// `read`, `write`, `lock` …
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The state directory is somebody else's: whoever owns it decides what we delete.
    #[error("state directory {} belongs to uid {owner}, not to uid {us}: chown it, or name another stateDir", path.display())]
    NotOurs {
        /// The state directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Our effective uid.
        us: u32,
    },
    /// Others may write into the state directory.
    #[error("state directory {} has mode {mode:04o}, so that others may write to it: chmod 0700", path.display())]
    Writable {
        /// The state directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The state directory (or a network's) is a symbolic link, a file, or anything but a
    /// directory.
    #[error("{} is {what}, not a directory: remove it, or name another stateDir", path.display())]
    NotADirectory {
        /// What should be a directory.
        path: PathBuf,
        /// What it is instead.
        what: &'static str,
    },
    /// Somebody held the lock until the deadline.
    #[error("{} was locked by {} for {waited:?}: is it stopped?", path.display(), holder.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}")))]
    Busy {
        /// The lock file.
        path: PathBuf,
        /// How long we tried.
        waited: Duration,
        /// Who holds it; `None`: a process that is not seen from here.
        holder: Option<u32>,
    },
    /// A record that cannot be read as one.
    #[error(transparent)]
    Corrupt(Box<Corrupt>),
    /// What should be written is longer than what will be read back.
    #[error("{} would have {bytes} bytes, more than the {limit} that are read back", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: u64,
    },
    /// A value has no JSON form.
    #[error("cannot encode {}: {source}", path.display())]
    Encode {
        /// The file it was meant for.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// `undo` was asked for an operation that is not (or no longer) in the journal.
    #[error("there is no operation {id} in {}", path.display())]
    NoSuchOperation {
        /// As asked.
        id: String,
        /// The journal's directory.
        path: PathBuf,
    },
}

impl From<Corrupt> for Error {
    fn from(corrupt: Corrupt) -> Self {
        Self::Corrupt(Box::new(corrupt))
    }
}

impl Error {
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { doing, path, source }
    }

    /// The errno, where a system call failed.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Io { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

/// A file that should be a record (or a network's state) and is not. Never ignored: the
/// pod it stood for may be alive, and its tokens are unknown.
#[derive(Debug, thiserror::Error)]
#[error("{} is corrupt: {why}", path.display())]
pub struct Corrupt {
    /// The file.
    pub path: PathBuf,
    /// The network in whose directory it is.
    pub network: NetworkName,
    /// What it should be.
    pub slot: Slot,
    /// What is wrong with it.
    pub why: CorruptWhy,
}

/// What a file should be, going by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slot {
    /// The active record of this key.
    Active(Key),
    /// The tombstone of this life of this key.
    Tombstone(Key, u64),
    /// The network's `config.json`.
    State,
    /// A `.json` file that we would not write.
    Nothing,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum CorruptWhy {
    /// Zero bytes: a reboot or a full disk can leave that (containernetworking/cni #1055).
    #[error("it is empty")]
    Empty,
    /// Larger than anything we write.
    #[error("it has more than {0} bytes")]
    TooLarge(u64),
    /// Not the JSON it should be.
    #[error("{}", start_of(.0))]
    NotJson(#[from] serde_json::Error),
    /// Its content names another attachment than its file name.
    #[error("it holds the record of {0}")]
    WrongKey(Box<Key>),
    /// Written by another version.
    #[error("its schema is {0}; this version reads {schema}", schema = crate::model::attachment::SCHEMA)]
    Schema(u32),
    /// A `.json` file that is not named like a record.
    #[error("its name is not <containerID>:<ifname>.json")]
    Name,
    /// A directory, FIFO, link …
    #[error("it is not a regular file")]
    NotAFile,
}

/// What is said of it: a text where something else should be is quoted, and may be the whole file.
fn start_of(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.char_indices().nth(200).and_then(|(end, _)| text.get(..end)) {
        Some(start) => {
            format!("{start}… at line {} column {}", error.line(), error.column())
        }
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_one_long_text_is_not_quoted_whole() {
        let text = format!("\"{}\"", "ü".repeat(5_000));
        let error = serde_json::from_str::<Vec<u8>>(&text).unwrap_err();
        let said = CorruptWhy::from(error).to_string();
        assert!(said.chars().count() < 250 && said.contains("… at line 1 column "), "{said}");
    }
}
