//! What dead pods left beside their entries, in numbers.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::caches::{CachedFile, Caches, Verdict};
use super::run::{Concern, Error, Run};
use crate::adopt::CachedAttachment;
use crate::config::database_socket;
use crate::model::attachment::Attachment;
use crate::ovsdb::{Client, marks, same_netns};
use crate::reconcile::orphans;
use crate::util::clock::Deadline;
use crate::util::{base64, regular_file};

/// What dead pods left beside their entries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Leftovers {
    pub cached_results: usize,
    /// Files that are no cached results, and those of the dead whose configuration cannot be read.
    pub unreadable: usize,
    /// host-local's.
    pub leases: usize,
    /// Rows of OVSDB; none: it does not answer.
    pub port_rows: Option<usize>,
    /// Dead pods of whose DEL a plugin failed.
    pub failed: usize,
    /// Why, of one of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Run<'_> {
    /// Counts what the dead have left, in networks of ours.
    ///
    /// # Errors
    /// If the records cannot be read.
    pub(crate) fn leftovers(&self) -> Result<Leftovers, Error> {
        let Caches { files, odd, .. } = Caches::read(self.caches);
        let known = self.registry.deliveries().notes();
        let records = self.records()?;
        let swept = orphans::find(&records, &crate::util::clock::boot_id().map_err(Error::BootId)?);
        let swept: Vec<Attachment> = swept.dead.into_iter().map(|orphan| orphan.record).collect();
        let evidence = self.evidence(&records, &known, &swept)?;
        let is_dead = |file: &&CachedFile| {
            matches!(evidence.judge(file), Verdict::Dead(_) | Verdict::Unrecorded)
        };
        let concerns =
            files.iter().filter(is_dead).map(|file| (file, (self.concern)(&file.cached)));
        let (dead, concerns): (Vec<&CachedFile>, Vec<Concern>) =
            concerns.filter(|(_, concern)| *concern != Concern::None).unzip();
        let mut failed = known.iter().filter_map(|(_, note)| note.error.clone());
        let error = failed.next();
        let unread = concerns.iter().filter(|concern| **concern == Concern::Unread);
        Ok(Leftovers {
            unreadable: unread.count().saturating_add(odd.len()),
            cached_results: dead.len(),
            leases: leases(&dead),
            port_rows: self.port_rows(&dead),
            failed: failed.count().saturating_add(usize::from(error.is_some())),
            error,
        })
    }

    /// Rows whose marks name a dead pod's sandbox.
    fn port_rows(&self, dead: &[&CachedFile]) -> Option<usize> {
        if dead.is_empty() {
            return Some(0);
        }
        let deadline = Deadline::after(self.timeout);
        let mut client = Client::connect(&database_socket(self.run_dir), deadline).ok()?;
        let database = client.snapshot().ok()?;
        let is_deads = |container: Option<&str>, netns: Option<&str>| {
            dead.iter().any(|file| {
                container == Some(file.cached.key.container.as_str())
                    || netns.is_some_and(|n| file.sandboxes().iter().any(|own| same_netns(n, own)))
            })
        };
        let marked =
            database.interfaces().filter_map(|(_, port, interface)| marks(port, interface));
        Some(marked.filter(|m| is_deads(m.container_id.as_deref(), m.netns.as_deref())).count())
    }
}

/// How many of host-local's files have a dead container's id on their first line.
fn leases(dead: &[&CachedFile]) -> usize {
    let is_dead =
        |id: &str| dead.iter().any(|file| file.cached.key.container.as_str() == id.trim());
    let mut directories: Vec<PathBuf> = Vec::new();
    for directory in dead.iter().map(|file| directory_of_leases(file)) {
        if !directories.contains(&directory) {
            directories.push(directory);
        }
    }
    let files = directories.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten();
    let holder = |path: &Path| String::from_utf8(regular_file::read(path).ok()?).ok();
    let holders = files.filter_map(|file| holder(&file.path()));
    holders.filter(|text| text.lines().next().is_some_and(is_dead)).count()
}

/// Where host-local has the leases of the network of a cached result.
fn directory_of_leases(file: &CachedFile) -> PathBuf {
    let usual = || Path::new("/var/lib/cni/networks").to_owned();
    let network = file.cached.key.network.as_str();
    data_dir(&file.cached).map_or_else(usual, PathBuf::from).join(network)
}

fn data_dir(cached: &CachedAttachment) -> Option<String> {
    let config: Value =
        crate::util::json::from_slice(&base64::decode(cached.config.as_deref()?)?).ok()?;
    let plugins = config.get("plugins").and_then(Value::as_array).into_iter().flatten();
    let found = plugins.chain([&config]).find_map(|p| p.pointer("/ipam/dataDir")?.as_str());
    found.map(str::to_owned)
}
