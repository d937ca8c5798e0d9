//! The lock, and everything that only its holder may do.
//!
//! Order of steps, so that a crash between any two loses nothing: a tombstone is written
//! before its active record is unlinked (both of one generation: the tombstone counts);
//! nothing is written in place.

use std::fs::{self, File, TryLockError};
use std::io;
use std::marker::PhantomData;
use std::ops::Deref;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use nix::sys::stat::{major, minor};
use serde::Serialize;

use super::error::{Corrupt, CorruptWhy, Error, Slot};
use super::record::{self, Found};
use super::snapshot::{Leftover, RegistrySnapshot};
use super::{Registry, Version, file, layout};
use crate::model::attachment::{Attachment, NetworkName};
use crate::util::clock::Deadline;

/// A temporary file this old is a crash's: no writer takes a minute for 64 KB.
const STALE: Duration = Duration::from_secs(60);

/// How a tombstone was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TombstoneWrite {
    /// The tombstone has the content that was given.
    Written,
    /// For want of room the record was moved as it was.
    Moved,
}

/// The exclusive lock; released on drop, by the kernel if we are killed.
#[derive(Debug)]
pub struct Lock<'r> {
    view: Registry,
    before: Version,
    version: Version,
    _file: File,
    /// A lock does not outlive what it was taken for.
    _of: PhantomData<&'r Registry>,
}

/// Everything that reads works under the lock, too, and does not wait for it again.
impl Deref for Lock<'_> {
    type Target = Registry;

    fn deref(&self) -> &Registry {
        &self.view
    }
}

/// Tries until it works or the deadline has passed, at least once.
pub(super) fn poll(
    deadline: Deadline,
    mut attempt: impl FnMut() -> Result<(), TryLockError>,
) -> io::Result<()> {
    // A different pace per process keeps two hundred ADDs from trying in step.
    let mut pause = Duration::from_micros(150 + u64::from(std::process::id() % 128));
    loop {
        match attempt() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(TryLockError::Error(e)) => return Err(e),
            Err(TryLockError::WouldBlock) => {
                std::thread::sleep(pause.min(deadline.left()?));
                pause = (pause * 2).min(Duration::from_millis(5));
            }
        }
    }
}

/// Who holds the lock of a file, if that process is seen from here.
fn holder(file: &File) -> Option<u32> {
    let (locks, meta) = (fs::read_to_string("/proc/locks").ok()?, file.metadata().ok()?);
    let place = format!("{:02x}:{:02x}:{}", major(meta.dev()), minor(meta.dev()), meta.ino());
    locks.lines().find_map(|line| holder_in(line, &place))
}

/// Of a line of `/proc/locks`: `1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF`. Of one who waits,
/// the second word is `->`.
fn holder_in(line: &str, place: &str) -> Option<u32> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let (Some(&"FLOCK"), Some(pid), Some(of)) = (words.get(1), words.get(4), words.get(5)) else {
        return None;
    };
    pid.parse().ok().filter(|pid| *of == place && *pid > 0)
}

impl<'r> Lock<'r> {
    pub(super) fn take(registry: &'r Registry, deadline: Deadline) -> Result<Self, Error> {
        let path = registry.root.join(layout::LOCK);
        let begin = Instant::now();
        loop {
            let failed = |e| Error::io("lock", &path)(e);
            let file = file::open_lock(&path).map_err(failed)?;
            poll(deadline, || file.try_lock()).map_err(|e| match e.kind() {
                io::ErrorKind::TimedOut => {
                    let holder = holder(&file);
                    Error::Busy { path: path.clone(), waited: begin.elapsed(), holder }
                }
                _ => failed(e),
            })?;
            // The directory was removed and made again meanwhile: this lock guards nothing.
            let ours = file.metadata().map_err(failed)?;
            match fs::symlink_metadata(&path) {
                Ok(now) if (now.dev(), now.ino()) == (ours.dev(), ours.ino()) => {
                    // Counts the holders, see [`Version`]: in the length, which needs no
                    // room on a full disk.
                    let before = Version { file: (ours.dev(), ours.ino()), holders: ours.len() };
                    let version = before.next();
                    file.set_len(version.holders).map_err(failed)?;
                    let view = Registry { root: registry.root.clone(), locked: true };
                    return Ok(Self { view, before, version, _file: file, _of: PhantomData });
                }
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(failed(e)),
            }
            deadline.left().map_err(failed)?;
        }
    }

    /// The version that records which were read at `before` have once we have written, if no
    /// other process has written since. Only for a caller that knows what we wrote.
    #[must_use]
    pub fn succeeds(&self, before: Option<Version>) -> Option<Version> {
        (before == Some(self.before)).then_some(self.version)
    }

    /// Writes an active record in place of an earlier one. If that is another life of the
    /// key, [`write_tombstone`](Self::write_tombstone) it first: what it had on the switch would be forgotten.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::TooLarge`]; the earlier record is as it was.
    pub fn put(&self, a: &Attachment) -> Result<(), Error> {
        let network = layout::network(&self.root, &a.key.network);
        write_into(&[&network], &layout::active(&self.root, &a.key), a)
    }

    /// Makes an active record a tombstone with the content given, and unlinks the active
    /// one unless that is another life's. There need not be an active one.
    ///
    /// Where there is no room to write (ENOSPC), the active record is moved as it is: it
    /// reads as `deleting`, dead since the move.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::TooLarge`]; the active record is as it was.
    pub fn write_tombstone(&self, a: &Attachment) -> Result<(), Error> {
        self.write_tombstone_if(a, || self.is_active(a)).map(drop)
    }

    /// The same for a caller that knows this to be the active record: it was read, and
    /// [`succeeds`](Self::succeeds) shows that no other process has written since.
    ///
    /// # Errors
    /// As [`write_tombstone`](Self::write_tombstone).
    pub fn write_known_tombstone(&self, a: &Attachment) -> Result<TombstoneWrite, Error> {
        self.write_tombstone_if(a, || true)
    }

    fn write_tombstone_if(
        &self,
        a: &Attachment,
        is_active: impl Fn() -> bool,
    ) -> Result<TombstoneWrite, Error> {
        let active = layout::active(&self.root, &a.key);
        match self.put_tombstone(a) {
            Ok(()) if is_active() => file::remove(&active).map(|()| TombstoneWrite::Written),
            Ok(()) => Ok(TombstoneWrite::Written),
            Err(error) => {
                let to = layout::tombstone_of(&self.root, a);
                if is_active() && fs::rename(active, to).is_ok() {
                    log::warn!(
                        "{error}; the record of {} was moved to the tombstones unchanged",
                        a.key
                    );
                    return Ok(TombstoneWrite::Moved);
                }
                Err(error)
            }
        }
    }

    /// Writes a tombstone in place of an earlier one of the same life.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::TooLarge`]; the earlier one is as it was.
    pub fn put_tombstone(&self, a: &Attachment) -> Result<(), Error> {
        let network = layout::network(&self.root, &a.key.network);
        let dead = network.join(layout::DEAD);
        write_into(&[&network, &dead], &layout::tombstone_of(&self.root, a), a)
    }

    /// Removes the tombstone of this life; it may be gone already. With it goes what an
    /// interrupted [`write_tombstone`](Self::write_tombstone) left of the active record: it would come to life again.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove_tombstone(&self, a: &Attachment) -> Result<(), Error> {
        self.remove(a)?;
        file::remove(&layout::tombstone_of(&self.root, a))
    }

    /// Removes the active record if it is of this life; says whether it was.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove(&self, a: &Attachment) -> Result<bool, Error> {
        if !self.is_active(a) {
            return Ok(false);
        }
        file::remove(&layout::active(&self.root, &a.key))?;
        Ok(true)
    }

    /// Reads the record of this life again (the tombstone, if it is one by now), lets
    /// `change` at it and writes it back. `false`: this life has no record any more.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::TooLarge`]; the record is as it was.
    pub fn update(
        &self,
        a: &Attachment,
        change: impl FnOnce(&mut Attachment),
    ) -> Result<bool, Error> {
        let network = &a.key.network;
        let active = (layout::active(&self.root, &a.key), Slot::Active(a.key.clone()));
        let dead =
            (layout::tombstone_of(&self.root, a), Slot::Tombstone(a.key.clone(), a.generation));
        for (path, slot) in [dead, active] {
            if let Found::Record(mut now) = record::examine(&path, network, slot)?
                && now.is_same(a)
            {
                change(&mut now);
                // Whatever was changed, the file's name stays the truth.
                (now.key, now.generation) = (a.key.clone(), a.generation);
                return write(&path, &now).map(|()| true);
            }
        }
        Ok(false)
    }

    /// Writes a network's `config.json`.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::TooLarge`], [`Error::Encode`]; the earlier one is as it was.
    pub fn set_network_state<T: Serialize>(
        &self,
        network: &NetworkName,
        state: &T,
    ) -> Result<(), Error> {
        let directory = layout::network(&self.root, network);
        write_into(&[&directory], &layout::config(&self.root, network), state)
    }

    /// Renames a corrupt file to `*.corrupt` (`.corrupt.2` … if there are such already) for
    /// people to look at. `None`: it was left where it is, because it is not corrupt any
    /// more, is another version's (which may come back), or is not a regular file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn move_corrupt_aside(&self, corrupt: &Corrupt) -> Result<Option<PathBuf>, Error> {
        let found = record::examine(&corrupt.path, &corrupt.network, corrupt.slot.clone())?;
        let Found::Corrupt(now) = found else { return Ok(None) };
        if matches!(now.why, CorruptWhy::Schema(_) | CorruptWhy::NotAFile) {
            return Ok(None);
        }
        let mut last = io::ErrorKind::AlreadyExists.into();
        for n in 1..100 {
            let mut name = corrupt.path.clone().into_os_string();
            name.push(layout::ASIDE);
            if n > 1 {
                name.push(format!(".{n}"));
            }
            // A link, not a rename: it fails if the name is taken.
            match fs::hard_link(&corrupt.path, &name) {
                Ok(()) => {
                    file::remove(&corrupt.path)?;
                    return Ok(Some(name.into()));
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => last = e,
                Err(e) => return Err(Error::io("move aside", &corrupt.path)(e)),
            }
        }
        Err(Error::io("move aside", &corrupt.path)(last))
    }

    /// Whether records can be written: writes a file and removes it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn probe(&self) -> Result<(), Error> {
        let probe = self.root.join(layout::PROBE);
        file::replace(&probe, b"probe")?;
        file::remove(&probe)
    }

    /// Removes what crashes left behind: temporary files older than a minute, active records
    /// whose tombstone was written.
    ///
    /// # Errors
    /// [`Error::Io`] of the first that cannot be removed; the others are.
    pub fn tidy(&self, registry_snapshot: &RegistrySnapshot) -> Result<(), Error> {
        let mut done = Ok(());
        for leftover in &registry_snapshot.leftovers {
            let tidied = match leftover {
                Leftover::Temporary(path) if is_stale(path) => file::remove(path),
                Leftover::Dead(a) if self.has_tombstone(a) => self.remove(a).map(drop),
                Leftover::Temporary(_) | Leftover::Dead(_) => Ok(()),
            };
            done = done.and(tidied);
        }
        done
    }

    fn is_active(&self, a: &Attachment) -> bool {
        let path = layout::active(&self.root, &a.key);
        let found = record::examine(&path, &a.key.network, Slot::Active(a.key.clone()));
        matches!(found, Ok(Found::Record(now)) if now.is_same(a))
    }
}

/// Writes a file into a directory that is most likely there; else makes these.
fn write_into<T: Serialize>(directories: &[&Path], path: &Path, value: &T) -> Result<(), Error> {
    match write(path, value) {
        Err(e) if e.errno() == Some(nix::libc::ENOENT) => {
            for directory in directories {
                file::make_directory(directory)?;
            }
            write(path, value)
        }
        done => done,
    }
}

fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    let bytes = serde_json::to_vec(value)
        .map_err(|source| Error::Encode { path: path.to_path_buf(), source })?;
    if bytes.len() as u64 > file::MOST {
        let path = path.to_path_buf();
        return Err(Error::TooLarge { path, bytes: bytes.len(), limit: file::MOST });
    }
    file::replace(path, &bytes)
}

/// Either way round: the wall clock may have been set back since.
fn is_stale(path: &Path) -> bool {
    let Ok(modified) = fs::symlink_metadata(path).and_then(|m| m.modified()) else { return false };
    let now = SystemTime::now();
    let apart = now.duration_since(modified).or_else(|_| modified.duration_since(now));
    apart.is_ok_and(|apart| apart > STALE)
}
