//! Everything that is written down, read at once.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::error::{Corrupt, CorruptWhy, Error, Slot};
use super::known_files::{FileStamp, KnownFiles};
use super::layout;
use super::record::{self, Found, Wanted};
use crate::model::attachment::{Attachment, Key, NetworkName};
use crate::model::records::Records;

/// All networks' records, sorted by key and generation.
#[derive(Debug, Default)]
pub struct RegistrySnapshot {
    /// Every network that has a directory.
    pub networks: Vec<KnownNetwork>,
    /// Active records.
    pub attachments: Records,
    /// Tombstones.
    pub tombstones: Records,
    /// Files that should be one of these and are not. Each may stand for a live pod.
    pub corrupt: Vec<Corrupt>,
    /// Corrupt files that were moved aside earlier, for the operator.
    pub aside: Vec<PathBuf>,
    /// What crashes left behind, for [`Lock::tidy`](super::Lock::tidy).
    pub leftovers: Vec<Leftover>,
    /// For [`Registry::unchanged`](super::Registry::unchanged).
    pub version: Option<super::Version>,
    /// For [`Registry::snapshot_or`](super::Registry::snapshot_or): known once that was asked for.
    pub files: KnownFiles,
    /// Files and directories that could not be read. If there are any, absence from the
    /// rest proves nothing.
    pub failures: Vec<Error>,
}

/// A network that has a directory.
#[derive(Clone, Debug)]
pub struct KnownNetwork {
    /// Its name.
    pub name: NetworkName,
    path: PathBuf,
    state: Option<String>,
}

impl KnownNetwork {
    /// What is in its `config.json`.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is not a `T`.
    pub fn state<T: DeserializeOwned>(&self) -> Result<Option<T>, Error> {
        let decode = |text| decode_state(self.path.clone(), &self.name, text);
        self.state.as_deref().map(decode).transpose()
    }
}

/// What a crash left behind.
#[derive(Clone, Debug)]
pub enum Leftover {
    /// A file that was never renamed.
    Temporary(PathBuf),
    /// An active record whose tombstone was written.
    Dead(Arc<Attachment>),
}

pub(super) fn decode_state<T: DeserializeOwned>(
    path: PathBuf,
    network: &NetworkName,
    text: &str,
) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|e| {
        let (network, why) = (network.clone(), CorruptWhy::NotJson(e));
        Corrupt { path, network, slot: Slot::State, why }.into()
    })
}

/// The names in a directory, sorted; none if it is not there. Names that are not UTF-8 are
/// left out: we write none.
pub(super) fn names(directory: &Path, passes: usize) -> Result<BTreeSet<String>, Error> {
    let mut names = BTreeSet::new();
    for _ in 0..passes {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => break,
            Err(e) => return Err(Error::io("list", directory)(e)),
        };
        for entry in entries {
            let entry = entry.map_err(Error::io("list", directory))?;
            names.extend(entry.file_name().into_string().ok());
        }
    }
    Ok(names)
}

/// How to read the records.
#[derive(Clone, Copy)]
pub(super) struct Reading<'w> {
    /// How often a directory is listed.
    pub(super) passes: usize,
    /// Which records; `None`: all.
    pub(super) wanted: Option<Wanted<'w>>,
    /// What was read before: a record whose file is the same is not read again.
    pub(super) known: Option<&'w RegistrySnapshot>,
}

impl RegistrySnapshot {
    /// Whether nobody is recorded, alive or dead.
    #[must_use]
    pub fn has_no_records(&self) -> bool {
        self.attachments.is_empty() && self.tombstones.is_empty()
    }
}

pub(super) fn take(root: &Path, reading: Reading<'_>) -> Result<RegistrySnapshot, Error> {
    let mut all = RegistrySnapshot::default();
    for directory in names(root, reading.passes)? {
        let Some(network) = layout::network_of(&directory) else { continue };
        let path = root.join(directory);
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_dir() => all.add_network(network, &path, reading),
            // Records may be behind it, but we make no links: neither trust nor ignore it.
            Ok(meta) if meta.is_symlink() => {
                let what = "a symbolic link";
                all.failures.push(Error::NotADirectory { path, what });
            }
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => all.failures.push(Error::io("read", &path)(e)),
        }
    }
    all.attachments.sort();
    all.tombstones.sort();
    Ok(all)
}

impl RegistrySnapshot {
    /// Whether everything could be read (which may be corrupt nevertheless).
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.failures.is_empty()
    }

    /// The same, whoever has written since or not: [`Registry::snapshot_or`](super::Registry::snapshot_or)
    /// looks at every file, and reads those that are others.
    #[must_use]
    pub fn to_be_looked_at(self) -> Self {
        Self { version: None, ..self }
    }

    /// The same for somebody else who will read the records; what is not in it, torn files say, is
    /// found again. `None` if this snapshot is not complete.
    #[must_use]
    pub fn for_another(&self) -> Option<Self> {
        self.after_tombstones(std::iter::empty(), self.version)
    }

    /// What the next snapshot will find once these tombstones were written, if nothing else was:
    /// `version` is the records' version then. Has only networks, active records,
    /// tombstones and their files; `None` if this snapshot is not complete.
    #[must_use]
    pub fn after_tombstones<'a>(
        &self,
        tombstones_written: impl Iterator<Item = &'a Attachment>,
        version: Option<super::Version>,
    ) -> Option<Self> {
        if version.is_none() || !self.is_complete() {
            return None;
        }
        let mut tombstones = self.tombstones.clone();
        tombstones.extend(tombstones_written.cloned());
        tombstones.sort();
        let mut attachments = self.attachments.clone();
        // A number is compared sooner than a key.
        let generations: HashSet<u64> = tombstones.iter().map(|dead| dead.generation).collect();
        let is_dead = |a: &Attachment| {
            let life = (&a.key, a.generation);
            tombstones.place_of(|dead| (&dead.key, dead.generation).cmp(&life)).is_some()
        };
        attachments.retain(|a| !generations.contains(&a.generation) || !is_dead(a));
        let (networks, files) = (self.networks.clone(), self.files.clone());
        Some(Self { networks, attachments, tombstones, version, files, ..Self::default() })
    }

    fn add_network(&mut self, network: NetworkName, path: &Path, reading: Reading<'_>) {
        let config = path.join(layout::CONFIG);
        let state = match record::examine(&config, &network, Slot::State) {
            Ok(Found::State(text)) => Some(text),
            Ok(found) => {
                self.note(found);
                None
            }
            Err(e) => {
                self.failures.push(e);
                None
            }
        };
        // Active records first: one that dies meanwhile is then found as a tombstone.
        let active = self.add_directory(path, reading, &network, |name| {
            layout::parse_active(&network, name).map(Slot::Active)
        });
        let dead = self.add_directory(&path.join(layout::DEAD), reading, &network, |name| {
            layout::parse_tombstone(&network, name).map(|(k, g)| Slot::Tombstone(k, g))
        });
        let tombstones_written: HashSet<(&Key, u64)> =
            dead.iter().map(|a| (&a.key, a.generation)).collect();
        for a in active {
            if tombstones_written.contains(&(&a.key, a.generation)) {
                self.leftovers.push(Leftover::Dead(a));
            } else {
                self.attachments.push(a);
            }
        }
        self.tombstones.append(dead);
        self.networks.push(KnownNetwork { name: network, path: config, state });
    }

    /// Reads one directory's records.
    fn add_directory(
        &mut self,
        directory: &Path,
        reading: Reading<'_>,
        network: &NetworkName,
        slot_of: impl Fn(&str) -> Option<Slot>,
    ) -> Records {
        let names = names(directory, reading.passes).unwrap_or_else(|e| {
            self.failures.push(e);
            BTreeSet::new()
        });
        let mut records = Records::default();
        for name in names {
            let path = directory.join(&name);
            if name.starts_with('.') {
                if name.ends_with(layout::TEMPORARY) {
                    self.leftovers.push(Leftover::Temporary(path));
                }
            } else if name.ends_with(".json") {
                if name == layout::CONFIG {
                    continue;
                }
                let slot = slot_of(&name).unwrap_or(Slot::Nothing);
                let stamp = reading.known.and_then(|_| FileStamp::of(&path));
                let known = reading.known.filter(|known| known.files.has(&path, stamp));
                if let Some(record) = known.and_then(|known| known.record(&slot)) {
                    records.push(Arc::clone(record));
                    self.files.add(path, stamp);
                    continue;
                }
                match record::examine_if(&path, network, slot, reading.wanted) {
                    Ok(Found::Record(a)) => {
                        records.push(*a);
                        self.files.add(path, stamp);
                    }
                    Ok(found) => self.note(found),
                    Err(e) => self.failures.push(e),
                }
            } else if name.contains(".json.corrupt") {
                self.aside.push(path);
            }
        }
        records
    }

    /// The record that was read from a file of this name.
    fn record(&self, slot: &Slot) -> Option<&Arc<Attachment>> {
        let (of, found) = match slot {
            Slot::Active(key) => (&self.attachments, self.attachments.place_of(|a| a.key.cmp(key))),
            Slot::Tombstone(key, generation) => {
                let life = (key, *generation);
                let by_life = |a: &Attachment| (&a.key, a.generation).cmp(&life);
                (&self.tombstones, self.tombstones.place_of(by_life))
            }
            Slot::State | Slot::Nothing => return None,
        };
        of.shared(found?)
    }

    fn note(&mut self, found: Found) {
        if let Found::Corrupt(corrupt) = found {
            self.corrupt.push(*corrupt);
        }
    }
}
