//! Which records need not be read again.
//!
//! Every write puts a new file in the place of the one before. While a path has the file that a
//! record was read from, the record is as it was read.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The kernel stamps files with a clock that ticks (at most 10 ms apart), and gives the number of a
/// removed file to the next one: a file that was written a moment ago may be another one with the
/// same stamp.
const SETTLED: Duration = Duration::from_millis(100);

/// What tells a file from every other that had its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileStamp {
    file: (u64, u64),
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileStamp {
    /// Of what is at a path now, if that is a file.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let meta = fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file)?;
        Some(Self {
            file: (meta.dev(), meta.ino()),
            size: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }

    /// Whether no file that is written from now on can have it. By the wall clock: where that was
    /// set back a file seems to be of the future.
    fn is_settled(self) -> bool {
        let (seconds, nanoseconds) = self.changed;
        let at = u64::try_from(seconds).ok().zip(u32::try_from(nanoseconds).ok());
        let at = at.and_then(|(s, ns)| UNIX_EPOCH.checked_add(Duration::new(s, ns)));
        at.and_then(|at| SystemTime::now().duration_since(at).ok()).is_some_and(|age| age > SETTLED)
    }
}

/// The files that the records of a snapshot were read from. A copy copies no path.
#[derive(Clone, Debug, Default)]
pub struct KnownFiles(Arc<HashMap<PathBuf, FileStamp>>);

impl KnownFiles {
    /// A record was read from a path that had this stamp right before.
    pub(super) fn add(&mut self, path: PathBuf, stamp: Option<FileStamp>) {
        if let Some(stamp) = stamp.filter(|stamp| stamp.is_settled()) {
            Arc::make_mut(&mut self.0).insert(path, stamp);
        }
    }

    /// Whether a path has the file that its record was read from.
    pub(super) fn has(&self, path: &Path, stamp: Option<FileStamp>) -> bool {
        stamp.is_some() && self.0.get(path).copied() == stamp
    }
}
