//! What only the daemon asks of the state directory: that there is no other daemon, where to
//! watch, and which tombstones there are by their names alone.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::error::Error;
use super::{Registry, file, layout, snapshot};
use crate::model::attachment::Key;

/// Held by the daemon of this state directory; released by the kernel when it ends.
#[derive(Debug)]
pub struct DaemonLock {
    path: PathBuf,
    file: File,
}

impl DaemonLock {
    /// Whether the next daemon would find it: not if the directory was removed since.
    #[must_use]
    pub fn holds(&self) -> bool {
        let ours = self.file.metadata().map(|m| (m.dev(), m.ino()));
        let there = fs::symlink_metadata(&self.path).map(|m| (m.dev(), m.ino()));
        matches!((ours, there), (Ok(ours), Ok(there)) if ours == there)
    }
}

/// What the state directory consists of, for watching it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directories {
    /// Each network's.
    pub networks: Vec<PathBuf>,
    /// Each network's tombstones'.
    pub dead: Vec<PathBuf>,
}

impl Registry {
    /// Takes the daemon's lock; `None`: another daemon has it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn lock_daemon(&self) -> Result<Option<DaemonLock>, Error> {
        let path = self.root.join(layout::DAEMON);
        let file = file::open_lock(&path).map_err(Error::io("lock", &path))?;
        match file.try_lock() {
            Ok(()) => {
                let lock = DaemonLock { path, file };
                // Removed and made again between the two: the next try finds the new one.
                Ok(lock.holds().then_some(lock))
            }
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(Error::io("lock", &path)(e)),
        }
    }

    /// Whether a file of this name in the state directory pauses the node.
    #[must_use]
    pub fn is_pause_file(name: &str) -> bool {
        name == layout::PAUSED
    }

    /// Whether a file of this name in the state directory is the daemon's lock.
    #[must_use]
    pub fn is_daemon_lock(name: &str) -> bool {
        name == layout::DAEMON
    }

    /// The networks' directories, and those of their tombstones (which may not be there yet).
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn directories(&self) -> Result<Directories, Error> {
        let mut found = Directories::default();
        for name in snapshot::names(&self.root, 1)? {
            let path = self.root.join(&name);
            if layout::network_of(&name).is_some() && path.is_dir() {
                found.dead.push(path.join(layout::DEAD));
                found.networks.push(path);
            }
        }
        Ok(found)
    }

    /// The tombstones by their names: whose life each is of. Cheap: none is opened.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn tombstones(&self) -> Result<Vec<(Key, u64)>, Error> {
        let mut all = Vec::new();
        for directory in snapshot::names(&self.root, 1)? {
            let Some(network) = layout::network_of(&directory) else { continue };
            let path = self.root.join(directory);
            if !path.is_dir() {
                continue;
            }
            let names = snapshot::names(&path.join(layout::DEAD), 1)?;
            all.extend(names.iter().filter_map(|name| layout::parse_tombstone(&network, name)));
        }
        Ok(all)
    }
}
