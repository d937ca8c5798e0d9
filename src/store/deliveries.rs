//! Notes for `deliver`: whose DEL is missing, and how far it came with each.
//!
//! The directory is there once `deliver` ran on this boot. Until then no sweep leaves a note: where
//! delivery is off, nobody would remove it.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::file::{self, Content};
use super::{Error, Registry, layout};
use crate::model::attachment::{Attachment, Key};
use crate::util::json;

/// So many notes are kept, at most: each takes a page of the tmpfs.
const MOST_NOTES: usize = 4096;

/// What is known of one attachment whose DEL is missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeliveryNote {
    /// The record of the dead, as the sweep that found the death had it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record: Option<Attachment>,
    /// The plugins that answered their DEL well, in this order.
    pub answered: Vec<String>,
    /// A number of the cached result that they were called with.
    pub cached: u64,
    /// Why the last try ended before the end of the chain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Tries that ended so.
    pub attempts: u32,
}

/// The directory of notes.
#[derive(Debug)]
pub struct Deliveries(pub(super) PathBuf);

impl Registry {
    /// The notes, whether or not there is a directory of them.
    #[must_use]
    pub fn deliveries(&self) -> Deliveries {
        Deliveries(self.root.join(layout::DELIVER))
    }
}

impl Deliveries {
    /// Makes the directory and takes the lock: one process delivers at a time. `None`: another one
    /// does.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn lock(&self) -> Result<Option<File>, Error> {
        file::make_directory(&self.0)?;
        let path = self.0.join("_lock");
        let failed = |e| Error::io("lock", &path)(e);
        let lock = file::open_lock(&path).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(lock)),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(e)) => Err(failed(e)),
        }
    }

    /// Takes away the file that asks for a run of `deliver`.
    pub fn begin(&self) {
        let _ = file::remove(&self.0.join(layout::WANTED));
    }

    /// Whether a sweep asked for a run.
    #[must_use]
    pub fn wanted(&self) -> bool {
        self.0.join(layout::WANTED).exists()
    }

    /// What a sweep leaves of those whom it found dead without a DEL, and that there is something to
    /// deliver. Nothing if there is no directory.
    pub fn leave(&self, dead: &[&Attachment]) {
        let Some(first) = dead.first() else { return };
        let Ok(notes) = fs::read_dir(&self.0) else { return };
        let room = MOST_NOTES.saturating_sub(notes.count());
        for record in dead.iter().take(room) {
            let note = DeliveryNote { record: Some((*record).clone()), ..DeliveryNote::default() };
            if let Err(failed) = self.put(&record.key, &note) {
                log::warn!("{failed}; `deliver` finds it if a pod lives");
            }
        }
        if let Err(failed) =
            file::replace(&self.0.join(layout::WANTED), first.key.to_string().as_bytes())
        {
            log::warn!("{failed}");
        }
    }

    /// All notes that can be read, by the names of their cached results.
    #[must_use]
    pub fn notes(&self) -> Vec<(String, DeliveryNote)> {
        let names = fs::read_dir(&self.0).into_iter().flatten().flatten();
        let names = names.filter_map(|entry| entry.file_name().into_string().ok());
        names
            .filter(|name| name.starts_with(|c: char| c.is_ascii_alphanumeric()))
            .filter_map(|name| match file::read(&self.0.join(&name)) {
                Ok(Content::Bytes(bytes, _)) => Some((name, json::from_slice(&bytes).ok()?)),
                _ => None,
            })
            .collect()
    }

    /// Writes a note.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn put(&self, key: &Key, note: &DeliveryNote) -> Result<(), Error> {
        let path = self.0.join(key.cached_name());
        let bytes =
            serde_json::to_vec(note).map_err(|e| Error::io("write", &path)(io::Error::other(e)))?;
        file::replace(&path, &bytes)
    }

    /// Removes the note of this name.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        file::remove(&self.0.join(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::clock::Stamp;

    #[test]
    fn a_sweep_leaves_notes_only_where_deliver_ran() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(&dir.path().join("state")).unwrap();
        let notes = registry.deliveries();
        let key = Key {
            network: "podnet".parse().unwrap(),
            container: "c1".parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        let record = Attachment::new(key.clone(), 1, "boot".to_owned(), Stamp::now());
        notes.leave(&[&record]);
        assert!(notes.notes().is_empty() && !dir.path().join("state/_deliver").exists());

        let lock = notes.lock().unwrap();
        assert!(lock.is_some());
        assert!(notes.lock().unwrap().is_none(), "one at a time");
        notes.leave(&[&record]);
        assert!(dir.path().join("state/_deliver/_wanted").exists());
        let known = notes.notes();
        assert_eq!(known[0].0, "podnet-c1-eth0");
        assert_eq!(known[0].1.record.as_ref(), Some(&record));
        file::replace(&dir.path().join("state/_deliver/torn"), b"{").unwrap();
        assert_eq!(notes.notes(), known);
        notes.begin();
        assert!(!dir.path().join("state/_deliver/_wanted").exists());
        notes.remove(&key.cached_name()).unwrap();
        assert!(notes.notes().is_empty());
        // No network's directory: a snapshot does not see it.
        assert!(registry.snapshot().unwrap().is_complete());
    }
}
