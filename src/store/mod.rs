//! Attachments on disk: records, tombstones, what a network learned, and the journal.
//!
//! Guarantees:
//! - A reader never sees half a record; a crash between any two system calls leaves every
//!   record either as it was or as it should be, and no attachment in neither place.
//! - What cannot be read is reported, never skipped: an unreadable record may be a live
//!   pod's.
//! - Everything that writes records is a method of [`Lock`]. The lock is held for moments,
//!   never across I/O with the switch.
//!
//! Assumption: one lock file, one kernel. `flock` works across containers that share the
//! directory, not across nodes.

mod calls;
#[cfg(feature = "daemon")]
mod daemon;
mod delivered;
mod deliveries;
mod error;
mod file;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod guard;
mod journal;
mod known_files;
mod layout;
mod lock;
mod pause;
mod record;
mod seen;
mod snapshot;

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

pub use calls::{CallCounts, Calls, VERBS};
#[cfg(feature = "daemon")]
pub use daemon::{DaemonLock, Directories};
pub use delivered::{Answers, DeliveredDel, DeliveryLog, LEFTOVERS};
pub use deliveries::{Deliveries, DeliveryNote};
pub use error::{Corrupt, CorruptWhy, Error, Slot};
pub use file::{new_generation, replace};
pub use guard::GuardLock;
pub use journal::{
    BadJournalId, Deleted, Header, JOURNAL_BYTES, JournalId, Operation, Subject, Writer,
};
pub use known_files::KnownFiles;
pub use lock::{Lock, TombstoneWrite};
pub use pause::Pause;
pub use record::RecordHeader;
pub use snapshot::{KnownNetwork, Leftover, RegistrySnapshot};

use crate::model::attachment::{Attachment, Key, NetworkName};
use crate::util::clock::Deadline;
use record::Found;
use seen::Seen;
use snapshot::Reading;

/// How long a reader waits for writers: they hold the lock for moments, so a longer hold is
/// a stopped process, which must not stop `list` or a sweep.
const READER_PATIENCE: Duration = Duration::from_millis(500);

/// The state directory.
#[derive(Clone, Debug)]
pub struct Registry {
    root: PathBuf,
    /// This is the view that a [`Lock`] has: no writer but us.
    locked: bool,
}

impl Registry {
    /// Opens the state directory and makes it (0700, its parents 0755) if it is not there.
    ///
    /// # Errors
    /// [`Error::Io`] with path and errno; [`Error::NotADirectory`] (a link, too),
    /// [`Error::NotOurs`] and [`Error::Writable`] for one that cannot be trusted.
    pub fn open(root: &Path) -> Result<Self, Error> {
        if let Some(registry) = Self::open_existing(root)? {
            return Ok(registry);
        }
        let root = normal(root);
        if let Some(parent) = root.parent() {
            let made = DirBuilder::new().recursive(true).mode(0o755).create(parent);
            made.map_err(Error::io("make directory", parent))?;
        }
        file::make_directory(&root)?;
        check(&root)?;
        Ok(Self { root, locked: false })
    }

    /// Opens the state directory for a command that only reads; `None` if it is not there.
    ///
    /// # Errors
    /// As [`Registry::open`].
    pub fn open_existing(root: &Path) -> Result<Option<Self>, Error> {
        let root = normal(root);
        match check(&root) {
            Ok(()) => Ok(Some(Self { root, locked: false })),
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Takes the lock that every writer of records needs.
    ///
    /// # Errors
    /// [`Error::Busy`] if another process has it until the deadline; [`Error::Io`].
    pub fn lock(&self, deadline: Deadline) -> Result<Lock<'_>, Error> {
        Lock::take(self, deadline)
    }

    /// Whether records can be written now, without writing one.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn try_to_write(&self) -> Result<(), Error> {
        file::try_to_write(&self.root)
    }

    /// Everything that is written down, of all networks. What cannot be read is in
    /// [`RegistrySnapshot::failures`] and [`RegistrySnapshot::corrupt`] and hides nothing else.
    ///
    /// Waits briefly for writers. Whoever holds the lock reads through it (a [`Lock`] has
    /// all of these methods): the registry it came from would wait for itself.
    ///
    /// # Errors
    /// [`Error::Io`] if the state directory itself cannot be listed.
    pub fn snapshot(&self) -> Result<RegistrySnapshot, Error> {
        self.snapshot_knowing(None)
    }

    fn snapshot_knowing(
        &self,
        known: Option<&RegistrySnapshot>,
    ) -> Result<RegistrySnapshot, Error> {
        let quiet = self.keep_writers_out();
        let version = quiet.version();
        let reading = Reading { passes: quiet.passes, wanted: None, known };
        let mut all = snapshot::take(&self.root, reading)?;
        Seen::read(&self.root).add_to(&mut all.attachments);
        Ok(RegistrySnapshot { version, ..all })
    }

    /// [`Registry::snapshot`] of the records that are wanted, going by what is quick to read.
    ///
    /// # Errors
    /// As [`Registry::snapshot`].
    pub fn snapshot_of(
        &self,
        wanted: &dyn Fn(&RecordHeader) -> bool,
    ) -> Result<RegistrySnapshot, Error> {
        let quiet = self.keep_writers_out();
        let reading = Reading { passes: quiet.passes, wanted: Some(wanted), known: None };
        let mut some = snapshot::take(&self.root, reading)?;
        if !some.attachments.is_empty() {
            Seen::read(&self.root).add_to(&mut some.attachments);
        }
        Ok(some)
    }

    /// Whether no process can have written a record since a snapshot was taken. False where
    /// that is unknown.
    #[must_use]
    pub fn unchanged(&self, since: Option<Version>) -> bool {
        since.is_some() && self.keep_writers_out().version() == since
    }

    /// [`Self::snapshot`], or an earlier one if that is complete and no process can have
    /// written since. If one may have, only the records are read whose files are others.
    ///
    /// # Errors
    /// As [`Self::snapshot`].
    pub fn snapshot_or(&self, known: Option<RegistrySnapshot>) -> Result<RegistrySnapshot, Error> {
        match known.filter(RegistrySnapshot::is_complete) {
            Some(known) if self.unchanged(known.version) => Ok(known),
            known => self.snapshot_knowing(known.as_ref()),
        }
    }

    /// The active record of a key. An empty file counts as none.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Io`].
    pub fn get(&self, key: &Key) -> Result<Option<Attachment>, Error> {
        let path = layout::active(&self.root, key);
        match record::examine(&path, &key.network, Slot::Active(key.clone()))? {
            // A crash left both: the tombstone counts.
            Found::Record(a) if self.has_tombstone(&a) => Ok(None),
            Found::Record(a) => {
                let seen_alive = Seen::read_of(&self.root, &a).later(&a).unwrap_or(a.seen_alive);
                Ok(Some(Attachment { seen_alive, ..*a }))
            }
            Found::Corrupt(corrupt) => absent_if_empty(*corrupt),
            Found::Absent | Found::State(_) => Ok(None),
        }
    }

    /// The tombstones of a key, oldest generation first. Corrupt ones are left to
    /// [`Registry::snapshot`].
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn tombstones_of(&self, key: &Key) -> Result<Vec<Attachment>, Error> {
        let quiet = self.keep_writers_out();
        let dead = layout::network(&self.root, &key.network).join(layout::DEAD);
        let mut tombstones = Vec::new();
        for name in snapshot::names(&dead, quiet.passes)? {
            let Some((k, generation)) = layout::parse_tombstone(&key.network, &name) else {
                continue;
            };
            if k == *key {
                let slot = Slot::Tombstone(k, generation);
                match record::examine(&dead.join(name), &key.network, slot)? {
                    Found::Record(a) => tombstones.push(*a),
                    Found::Corrupt(corrupt) => log::warn!("{corrupt}"),
                    Found::Absent | Found::State(_) => {}
                }
            }
        }
        tombstones.sort_by_key(|a| a.generation);
        Ok(tombstones)
    }

    /// The tombstone of one life. A corrupt one is left to [`Registry::snapshot`].
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn tombstone_of(&self, a: &Attachment) -> Result<Option<Attachment>, Error> {
        self.tombstone(&a.key, a.generation)
    }

    /// The same for who knows only which life.
    ///
    /// # Errors
    /// As [`Registry::tombstone_of`].
    pub fn tombstone(&self, key: &Key, generation: u64) -> Result<Option<Attachment>, Error> {
        let path = layout::tombstone(&self.root, key, generation);
        let slot = Slot::Tombstone(key.clone(), generation);
        Ok(match record::examine(&path, &key.network, slot)? {
            Found::Record(found) => Some(*found),
            Found::Corrupt(_) | Found::Absent | Found::State(_) => None,
        })
    }

    /// Where the daemon of this state directory listens.
    #[must_use]
    pub fn daemon_socket(&self) -> PathBuf {
        self.root.join(layout::SOCKET)
    }

    /// A network's `config.json`: its effective configuration and what was learned. An empty
    /// file counts as none.
    ///
    /// # Errors
    /// [`Error::Corrupt`] (also if it is not a `T`), [`Error::Io`].
    pub fn network_state<T: DeserializeOwned>(
        &self,
        network: &NetworkName,
    ) -> Result<Option<T>, Error> {
        let path = layout::config(&self.root, network);
        match record::examine(&path, network, Slot::State)? {
            Found::State(text) => snapshot::decode_state(path, network, &text).map(Some),
            Found::Corrupt(corrupt) => absent_if_empty(*corrupt),
            Found::Absent | Found::Record(_) => Ok(None),
        }
    }

    fn has_tombstone(&self, a: &Attachment) -> bool {
        // A directory or the like in its place is no tombstone.
        fs::symlink_metadata(layout::tombstone_of(&self.root, a)).is_ok_and(|m| m.is_file())
    }

    /// A shared lock, if it can be had soon. It needs no write access.
    fn keep_writers_out(&self) -> Quiet {
        if self.locked {
            return Quiet { shared: None, passes: 1 };
        }
        let path = self.root.join(layout::LOCK);
        let deadline = Deadline::after(READER_PATIENCE);
        let shared = File::open(&path)
            .and_then(|file| lock::poll(deadline, || file.try_lock_shared()).map(|()| file));
        match shared {
            Ok(file) => Quiet { shared: Some(file), passes: 1 },
            Err(e) => {
                if e.kind() == io::ErrorKind::TimedOut {
                    log::warn!("{} is held by a writer: reading without it", path.display());
                }
                Quiet { shared: None, passes: 2 }
            }
        }
    }
}

/// How often the lock was taken to write: its file, and its length, which every holder
/// changes before it can write anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    file: (u64, u64),
    holders: u64,
}

impl Version {
    /// The next holder's.
    fn next(self) -> Self {
        Self { holders: self.holders.wrapping_add(1) % MOST_HOLDERS, ..self }
    }
}

/// Where their count starts again: no file system's limit is lower.
const MOST_HOLDERS: u64 = 1 << 30;

/// While it exists no process writes, if the shared lock could be had.
struct Quiet {
    shared: Option<File>,
    /// A record that is renamed over while its directory is listed can be missing from the
    /// listing. With a writer about, directories are listed twice.
    passes: usize,
}

impl Quiet {
    /// `None` if a process may be writing.
    fn version(&self) -> Option<Version> {
        let meta = self.shared.as_ref()?.metadata().ok()?;
        Some(Version { file: (meta.dev(), meta.ino()), holders: meta.len() })
    }
}

/// Without trailing slashes, which would make lstat follow a link.
fn normal(root: &Path) -> PathBuf {
    root.components().collect()
}

/// Whoever can write into the state directory decides what is deleted.
fn check(root: &Path) -> Result<(), Error> {
    let path = || root.to_path_buf();
    let meta = fs::symlink_metadata(root).map_err(Error::io("open state directory", root))?;
    if !meta.is_dir() {
        let what = match meta.file_type() {
            kind if kind.is_symlink() => "a symbolic link",
            kind if kind.is_file() => "a file",
            _ => "something else",
        };
        return Err(Error::NotADirectory { path: path(), what });
    }
    let us = nix::unistd::geteuid().as_raw();
    if meta.uid() != us {
        return Err(Error::NotOurs { path: path(), owner: meta.uid(), us });
    }
    let mode = meta.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(Error::Writable { path: path(), mode });
    }
    Ok(())
}

fn absent_if_empty<T>(corrupt: Corrupt) -> Result<Option<T>, Error> {
    if matches!(corrupt.why, CorruptWhy::Empty) {
        log::warn!("{corrupt}: treated as absent");
        return Ok(None);
    }
    Err(corrupt.into())
}

#[cfg(test)]
mod tests;
