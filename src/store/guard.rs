//! The file of the mass-death guard, shared by all sweeps.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::Error;
use super::file::{self, Content};
use super::{Registry, layout, lock};
use crate::util::clock::Deadline;
use crate::util::json;

/// Held from reading the guard's file to writing it: two sweeps at once must not overlook each
/// other's deaths. It locks the state directory itself, not the records: taking it does not make
/// a snapshot of the records stale.
#[derive(Debug)]
pub struct GuardLock {
    path: PathBuf,
    _directory: File,
}

impl Registry {
    /// Takes the guard's lock.
    ///
    /// # Errors
    /// [`Error::Io`], also if another process has it until the deadline.
    pub fn lock_guard(&self, deadline: Deadline) -> Result<GuardLock, Error> {
        let failed = |e| Error::io("lock", &self.root)(e);
        let directory = File::open(&self.root).map_err(failed)?;
        lock::poll(deadline, || directory.try_lock()).map_err(failed)?;
        Ok(GuardLock { path: self.root.join(layout::DEATHS), _directory: directory })
    }

    /// What the guard's file says; `None`: there is none.
    ///
    /// # Errors
    /// [`Error::Io`], also if it is torn.
    pub fn guard<T: DeserializeOwned>(&self) -> Result<Option<T>, Error> {
        let path = self.root.join(layout::DEATHS);
        let torn = |why: String| Error::io("read", &path)(io::Error::other(why));
        match file::read(&path)? {
            Content::Absent => Ok(None),
            Content::Odd(why) => Err(torn(why.to_string())),
            Content::Bytes(bytes, _) => {
                json::from_slice(&bytes).map(Some).map_err(|e| torn(e.to_string()))
            }
        }
    }
}

impl GuardLock {
    /// Writes the guard's file.
    ///
    /// # Errors
    /// [`Error::Io`]; the earlier one is as it was.
    pub fn write<T: Serialize>(&self, guard: &T) -> Result<(), Error> {
        let encode = |source| Error::Encode { path: self.path.clone(), source };
        file::replace(&self.path, &serde_json::to_vec(guard).map_err(encode)?)
    }
}
