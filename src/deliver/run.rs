//! One run of `deliver`: whose DEL is missing, what stands against it, and the calls.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::{info, warn};
use serde::Serialize;

use super::caches::{CachedFile, Caches, Evidence, Verdict};
use super::rows::Taken;
use super::{Collected, call};
use crate::adopt::{CachedAttachment, cached_text};
use crate::config::database_socket;
use crate::liveness::mass_death_guard::mass_death_guard;
use crate::liveness::netns::Directories;
use crate::liveness::{LivenessReason, Source};
use crate::model::attachment::{Attachment, Key, Pod};
use crate::ovsdb::Client;
use crate::store::{DeliveredDel, Deliveries, DeliveryNote, Registry, RegistrySnapshot};
use crate::util::clock::{Deadline, Stamp, boot_id};

/// Why nothing can be delivered now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Registry(#[from] crate::store::Error),
    #[error("cannot read the kernel's boot id: {0}")]
    BootId(std::io::Error),
    #[error("not every record can be read, so nobody knows who lives: {0}")]
    Unread(String),
}

/// What a network is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Concern {
    /// It has neither an OVS plugin nor our entry.
    None,
    /// Its configuration cannot be read.
    Unread,
    /// Its entry has the mode `observe`.
    Observed,
    Full,
}

/// How to deliver.
pub(crate) struct Run<'a> {
    pub registry: &'a Registry,
    /// Where OVS's sockets are.
    pub run_dir: &'a Path,
    /// Where runtimes have libcni's cached results; multus' are beside them.
    pub caches: &'a [PathBuf],
    /// Where runtimes have a directory for each sandbox that they know.
    pub runtimes: &'a [PathBuf],
    /// Where the runtime has conflists.
    pub net_dir: &'a Path,
    pub cni_path: &'a str,
    /// For the database, and for each plugin.
    pub timeout: Duration,
    /// Nothing is changed anywhere.
    pub dry_run: bool,
    /// An operator says so: no brake, and directories of namespaces are seen here as they are.
    pub yes: bool,
    /// What the network of a cached result is to us.
    pub concern: &'a dyn Fn(&CachedAttachment) -> Concern,
}

/// What became of one attachment whose DEL is missing.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Delivered {
    #[serde(flatten)]
    pub key: Key,
    /// Of its `CNI_ARGS`.
    pub pod: String,
    /// Where its cached result is.
    pub cached: PathBuf,
    /// `delivered`, `due` (a dry run, or `status`), `failed` or `left`.
    pub state: &'static str,
    /// Why its pod is dead.
    pub why: String,
    /// The plugins that answered, or that will be called.
    pub plugins: Vec<String>,
    /// Why it failed or is left alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The plugin that failed.
    #[serde(skip)]
    pub failed: Option<String>,
}

/// What a run found.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Deliverables {
    pub dead: Vec<Delivered>,
    /// Cached results that are none, and whose pods nobody can judge.
    pub unknown: Vec<String>,
    /// Of `--gc`, by network.
    pub gc: Vec<Collected>,
}

/// What is known when the first delivery begins.
struct Basis<'a> {
    evidence: &'a Evidence,
    caches: &'a Caches,
    living: &'a Living,
}

/// What the living hold.
#[derive(Default)]
struct Living {
    addresses: Vec<(IpAddr, Key)>,
    ports: Vec<(String, Key)>,
    keys: Vec<Key>,
}

impl Living {
    fn add_record(&mut self, record: &Attachment) {
        let key = &record.key;
        self.addresses.extend(record.ips.iter().map(|ip| (ip.to_canonical(), key.clone())));
        self.ports.extend(record.port.clone().map(|port| (port, key.clone())));
        self.keys.push(key.clone());
    }

    fn add_cached(&mut self, file: &CachedFile) {
        let key = &file.cached.key;
        self.addresses.extend(file.addresses().into_iter().map(|ip| (ip, key.clone())));
        self.keys.push(key.clone());
    }

    /// Who lives and has something of this dead one.
    fn holder(&self, file: &CachedFile) -> Option<String> {
        let own = &file.cached.key;
        if self.keys.iter().any(|k| k.container == own.container && k.ifname == own.ifname) {
            return Some("a living pod has its container id and interface".to_owned());
        }
        let (addresses, ports) = (file.addresses(), file.host_interfaces());
        let address = self.addresses.iter().find(|(ip, _)| addresses.contains(ip));
        let port = self.ports.iter().find(|(port, _)| ports.contains(&port.as_str()));
        let address = address.map(|(ip, who)| format!("{ip} is {who}'s"));
        address.or_else(|| port.map(|(port, who)| format!("{port} is {who}'s")))
    }
}

impl Run<'_> {
    /// Delivers to the dead. `wanted` says of each cached result whether it is asked for. `swept`: whom
    /// the sweep before this found dead, if that left no tombstones.
    ///
    /// # Errors
    /// If the records cannot be read.
    pub(crate) fn run(
        &self,
        wanted: &dyn Fn(&[&CachedAttachment]) -> Vec<bool>,
        swept: &[Attachment],
    ) -> Result<Deliverables, Error> {
        let mut caches = Caches::read(self.caches);
        let unknown = std::mem::take(&mut caches.odd);
        let mut found = Deliverables { unknown, ..Deliverables::default() };
        let notes = self.registry.deliveries();
        let known = notes.notes();
        let records = self.records()?;
        let evidence = self.evidence(&records, &known, swept)?;
        let files = &caches.files;
        let verdicts: Vec<Verdict> = files.iter().map(|file| evidence.judge(file)).collect();
        let held = self.holds_back(&records, &verdicts);
        let mut living = Living::default();
        for record in records.attachments.iter().filter(|r| !swept.iter().any(|s| s.key == r.key)) {
            living.add_record(record);
        }
        for (file, verdict) in files.iter().zip(&verdicts) {
            if matches!(verdict, Verdict::Alive | Verdict::Unknown(_)) {
                living.add_cached(file);
            }
        }
        let wanted = wanted(&files.iter().map(|file| &file.cached).collect::<Vec<_>>());
        for ((file, verdict), is_wanted) in files.iter().zip(verdicts).zip(wanted) {
            if !is_wanted {
                continue;
            }
            let held = held && verdict == Verdict::Unrecorded;
            let why = match ((self.concern)(&file.cached), verdict) {
                (Concern::None, _) | (_, Verdict::Alive) => continue,
                (_, Verdict::Unknown(why)) => Err(why),
                (Concern::Unread, _) => {
                    let why = file.delivery().err();
                    Err(why.unwrap_or_else(|| "its configuration cannot be read".to_owned()))
                }
                (_, Verdict::Dead(why)) => Ok(why),
                (_, Verdict::Unrecorded) => Ok(LivenessReason::NetnsGone),
            };
            let why = match why {
                Ok(why) => why,
                Err(why) => {
                    found.unknown.push(format!("{}: {why}", file.path.display()));
                    continue;
                }
            };
            let mut one = One::new(self, file, why, &notes);
            let name = file.cached.key.cached_name();
            let note = known.iter().find(|(of, _)| *of == name);
            one.note = note.map(|(_, note)| note.clone()).unwrap_or_default();
            one.deliver(&Basis { evidence: &evidence, caches: &caches, living: &living }, held);
            self.tell(&notes, &one);
            found.dead.push(one.report);
        }
        if !self.dry_run {
            forget(&notes, &known, files);
        }
        Ok(found)
    }

    pub(super) fn records(&self) -> Result<RegistrySnapshot, Error> {
        let records = self.registry.snapshot()?;
        let failed = records.failures.iter().map(ToString::to_string);
        match failed.chain(records.corrupt.iter().map(ToString::to_string)).next() {
            Some(failed) => Err(Error::Unread(failed)),
            None => Ok(records),
        }
    }

    pub(super) fn evidence(
        &self,
        records: &RegistrySnapshot,
        notes: &[(String, DeliveryNote)],
        swept: &[Attachment],
    ) -> Result<Evidence, Error> {
        let boot_id = boot_id().map_err(Error::BootId)?;
        let noted = notes.iter().filter_map(|(_, note)| note.record.as_ref());
        // Tombstones of one key are sorted.
        let dead = noted.chain(&records.tombstones).chain(swept).cloned().collect();
        let directories = Directories::of(&records.attachments, &boot_id);
        let active = records.attachments.iter().map(|record| record.key.clone()).collect();
        Ok(Evidence { boot_id, dead, active, directories, trusted: self.yes })
    }

    /// The brake, for those of whom no record is left: their number is compared with that of the
    /// living.
    fn holds_back(&self, records: &RegistrySnapshot, verdicts: &[Verdict]) -> bool {
        let alone = verdicts.iter().filter(|verdict| **verdict == Verdict::Unrecorded).count();
        let total = records.attachments.len().saturating_add(alone);
        !self.yes && mass_death_guard(total, &[(Source::Netns, alone)]).is_some()
    }

    /// For the daemon's metrics and Events.
    fn tell(&self, notes: &Deliveries, one: &One<'_>) {
        let report = &one.report;
        if self.dry_run || report.plugins.is_empty() && report.failed.is_none() {
            return;
        }
        let told = notes.tell(|log| {
            report.plugins.iter().for_each(|plugin| log.count("DEL", plugin, true));
            report.failed.iter().for_each(|plugin| log.count("DEL", plugin, false));
            if report.state == "delivered" {
                let arg = |name| one.file.cached.arg(name).to_owned();
                let pod = Pod {
                    namespace: arg("K8S_POD_NAMESPACE"),
                    name: arg("K8S_POD_NAME"),
                    uid: arg("K8S_POD_UID"),
                };
                let plugins = one.note.answered.clone();
                log.add(DeliveredDel { wall_ms: Stamp::now().wall_ms, pod, plugins });
            }
        });
        if let Err(failed) = told {
            warn!("{failed}; the daemon does not tell of it");
        }
    }

    /// The runtime's directory of a sandbox that it knows.
    fn known_to_runtime(&self, key: &Key) -> Option<PathBuf> {
        let directories = self.runtimes.iter().map(|dir| dir.join(key.container.as_str()));
        directories.into_iter().find(|dir| dir.symlink_metadata().is_ok())
    }

    /// A port that the DEL would take from somebody else.
    fn holder_in_database(&self, taken: &Taken<'_>) -> Result<Option<String>, crate::ovsdb::Error> {
        let deadline = Deadline::after(self.timeout);
        let database = Client::connect(&database_socket(self.run_dir), deadline)?.snapshot()?;
        let mut rows = database.interfaces();
        Ok(rows.find_map(|(bridge, port, row)| taken.stopped_by(&bridge.name, port, row)))
    }
}

/// Removes the notes whose cached results are gone: the runtime's own DEL came, or ours did.
fn forget(notes: &Deliveries, known: &[(String, DeliveryNote)], files: &[CachedFile]) {
    let there: Vec<String> = files.iter().map(|file| file.cached.key.cached_name()).collect();
    for (name, _) in known.iter().filter(|(name, _)| !there.contains(name)) {
        if let Err(failed) = notes.remove(name) {
            warn!("{failed}");
        }
    }
}

/// One attachment whose DEL is missing.
struct One<'a> {
    run: &'a Run<'a>,
    file: &'a CachedFile,
    notes: &'a Deliveries,
    note: DeliveryNote,
    report: Delivered,
}

/// Why a delivery ends.
enum End {
    /// It is left alone: nothing failed.
    Left(String),
    Failed(String),
}

impl<'a> One<'a> {
    fn new(
        run: &'a Run<'a>,
        file: &'a CachedFile,
        why: LivenessReason,
        notes: &'a Deliveries,
    ) -> Self {
        let arg = |name| file.cached.arg(name);
        let report = Delivered {
            key: file.cached.key.clone(),
            pod: format!("{}/{}", arg("K8S_POD_NAMESPACE"), arg("K8S_POD_NAME")),
            cached: file.path.clone(),
            state: "left",
            why: why.to_string(),
            plugins: Vec::new(),
            error: None,
            failed: None,
        };
        Self { run, file, notes, note: DeliveryNote::default(), report }
    }

    fn deliver(&mut self, basis: &Basis<'_>, held: bool) {
        let ended = match self.obstacle(basis, held) {
            Some(why) => Err(End::Left(why)),
            None => self.deliver_chain(basis),
        };
        let (key, why) = (&self.report.key, &self.report.why);
        match ended {
            Ok(()) if self.run.dry_run => self.report.state = "due",
            Ok(()) => {
                info!("{key}: its DEL is delivered ({why}): {}", self.report.plugins.join(", "));
                self.report.state = "delivered";
            }
            Err(End::Left(why)) => self.report.error = Some(why),
            Err(End::Failed(why)) => {
                warn!("{key}: its DEL is not delivered: {why}");
                self.report.state = "failed";
                self.note.error = Some(why.clone());
                self.note.attempts = self.note.attempts.saturating_add(1);
                self.write_note();
                self.report.error = Some(why);
            }
        }
    }

    /// What stands against it, before any plugin is called.
    fn obstacle(&self, basis: &Basis<'_>, held: bool) -> Option<String> {
        let (run, key) = (self.run, &self.file.cached.key);
        if (run.concern)(&self.file.cached) == Concern::Observed {
            return Some("the network's mode is observe".to_owned());
        }
        if held {
            return Some(
                "no records are left of many pods that seem dead: `deliver --yes`".to_owned(),
            );
        }
        if let Some(dir) = run.known_to_runtime(key) {
            return Some(format!("the runtime knows its sandbox: {}", dir.display()));
        }
        basis.living.holder(self.file).or_else(|| self.holder_in_database(basis))
    }

    fn deliver_chain(&mut self, basis: &Basis<'_>) -> Result<(), End> {
        let (run, file) = (self.run, self.file);
        let delivery = file.delivery().map_err(End::Left)?;
        if !delivery.inlined_only && self.has_drop_ins() {
            let why = "its network has plugins in files of their own, and the cached result has none of them";
            return Err(End::Left(why.to_owned()));
        }
        if self.note.cached != file.digest() {
            self.note.answered.clear();
            self.note.cached = file.digest();
        }
        let answered = self.note.answered.len();
        if run.dry_run {
            let left = delivery.calls.iter().skip(answered);
            self.report.plugins = left.map(|call| call.plugin.clone()).collect();
            return Ok(());
        }
        let environment = delivery.environment(run.cni_path);
        for one in delivery.calls.iter().skip(answered) {
            self.check_again(basis)?;
            let answered = call::find(&one.plugin, run.cni_path)
                .ok_or_else(|| format!("is not in {}", run.cni_path))
                .and_then(|file| call::call(&file, &environment, &one.stdin, run.timeout));
            if let Err(why) = answered {
                self.report.failed = Some(one.plugin.clone());
                return Err(End::Failed(format!("{}: {why}", one.plugin)));
            }
            self.report.plugins.push(one.plugin.clone());
            self.note.answered.push(one.plugin.clone());
            self.write_note();
        }
        self.check_again(basis)?;
        // As libcni: every plugin has answered.
        fs::remove_file(&file.path).map_err(|e| End::Failed(e.to_string()))?;
        if let Err(failed) = self.notes.remove(&file.cached.key.cached_name()) {
            warn!("{failed}");
        }
        Ok(())
    }

    /// Whether libcni 1.3 would have loaded more plugins for this network.
    fn has_drop_ins(&self) -> bool {
        let dir = self.run.net_dir.join(self.file.cached.key.network.as_str());
        let mut files = fs::read_dir(dir).into_iter().flatten().flatten();
        files.any(|file| Path::new(&file.file_name()).extension().is_some_and(|e| e == "conf"))
    }

    /// Before each plugin: all is as it was when the pod was found dead, and nobody said to stop.
    fn check_again(&self, basis: &Basis<'_>) -> Result<(), End> {
        let (run, file) = (self.run, self.file);
        let left = |why: &str| Err(End::Left(why.to_owned()));
        match cached_text(&file.path) {
            Ok(text) if file.is_same(&text) => {}
            Ok(_) => return left("its cached result is another one now"),
            Err(_) => return left("its cached result is gone: the runtime's own DEL came"),
        }
        if let Verdict::Alive | Verdict::Unknown(_) = basis.evidence.judge(file) {
            return left("its sandbox is there now");
        }
        if run.registry.paused() {
            return left("the node is paused");
        }
        match run.registry.get(&file.cached.key) {
            Ok(None) => {}
            Ok(Some(_)) => return left("an ADD came meanwhile"),
            Err(failed) => return Err(End::Left(failed.to_string())),
        }
        match run.known_to_runtime(&file.cached.key) {
            Some(_) => left("the runtime knows its sandbox"),
            None => self.holder_now(basis).map_or(Ok(()), |why| Err(End::Left(why))),
        }
    }

    /// Who lives now and has something of the dead, or why nobody can tell. A cached result that came
    /// meanwhile is a living pod's.
    fn holder_now(&self, basis: &Basis<'_>) -> Option<String> {
        let (newer, records) = match (basis.caches.newer(self.run.caches), self.run.records()) {
            (Ok(newer), Ok(records)) => (newer, records),
            (Err(why), _) => return Some(why),
            (_, Err(why)) => return Some(why.to_string()),
        };
        let mut living = Living::default();
        records.attachments.iter().for_each(|record| living.add_record(record));
        newer.iter().for_each(|file| living.add_cached(file));
        living.holder(self.file).or_else(|| self.holder_in_database(basis))
    }

    fn holder_in_database(&self, basis: &Basis<'_>) -> Option<String> {
        let taken = Taken::of(self.file, basis.evidence.record(self.file));
        self.run.holder_in_database(&taken).unwrap_or_else(|failed| Some(failed.to_string()))
    }

    fn write_note(&self) {
        if let Err(failed) = self.notes.put(&self.file.cached.key, &self.note) {
            warn!("{failed}; the next run begins with the first plugin");
        }
    }
}
