//! Records for pods that were there before us, or whose records were lost. Without them their
//! addresses are not live tokens.
//!
//! Two sources: libcni's cached results (the network and the addresses of each pod) and the
//! marks that OVS CNIs leave in OVSDB (the pod of each port). For live pods that were taken for
//! dead there is a third one: their tombstones.

mod cached;
mod delegates;

#[cfg(feature = "fuzzing")]
pub(crate) use cached::fuzz;
pub(crate) use cached::{
    CachedAttachment, cached_config, configs_of_multus, of_multus as multus_cache, parse_cached,
    text as cached_text, texts as cached_texts,
};
pub(crate) use delegates::{Delegate, delegates_of_multus};

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;

use crate::config::{Config, NetworkState, database_socket};
use crate::liveness::netns::{self, CaptureError};
use crate::liveness::{Liveness, LivenessReason};
use crate::model::attachment::{Attachment, ContainerId, IfName, Key, Netns, NetworkName, Pod};
use crate::model::records::Records;
use crate::ovsdb::{
    Client, Interface, Marks, Ofport, Port, Snapshot, Wanted, find_port, marks, same_netns,
    write_port,
};
use crate::reconcile::{device_of, is_anothers, marked_as, register_of, switch_started};
use crate::store::{self, Registry, RegistrySnapshot, new_generation};
use crate::util::clock::{Deadline, Stamp, boot_id};

/// Why no pod can be adopted now.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state directory.
    #[error(transparent)]
    Registry(#[from] store::Error),
    /// The database.
    #[error(transparent)]
    Ovsdb(#[from] crate::ovsdb::Error),
    /// The kernel's boot id.
    #[error("cannot read the kernel's boot id: {0}")]
    BootId(std::io::Error),
}

/// Which pods were adopted.
#[derive(Debug, Default, Serialize)]
pub struct Adopted {
    /// Their records.
    pub adopted: Vec<Attachment>,
    /// The keys of those that had a tombstone: live pods that were taken for dead.
    pub again: Vec<Key>,
    /// Which pods were not, and why.
    pub skipped: Vec<String>,
    /// How many of those have no network namespace any more: nobody misses their records.
    #[serde(skip)]
    pub over: usize,
}

/// A network that is ours to look after.
#[derive(Clone, Debug)]
pub struct Network {
    /// Its configuration and what was learned, for where nothing is recorded.
    pub state: NetworkState,
    /// The operator configured it: this configuration wins over what the last ADD wrote down.
    pub ours: bool,
}

/// What one run adopts, and how.
#[derive(Clone, Copy, Debug)]
pub struct Adoption<'a> {
    /// Where the records are.
    pub registry: &'a Registry,
    /// Where OVS's sockets are.
    pub run_dir: &'a Path,
    /// Whose pods.
    pub networks: &'a BTreeMap<NetworkName, Network>,
    /// Where libcni caches results; multus' are looked for beside it.
    pub cache_dir: &'a Path,
    /// For the database, then for the lock of the records.
    pub timeout: std::time::Duration,
    /// False: nothing is recorded.
    pub dry_run: bool,
    /// Also record live pods that have a tombstone. Only a person may ask for this: while a DEL is
    /// under way, its pod has a tombstone and a namespace that is still there.
    pub again: bool,
}

/// What is known of a pod before its port is looked up.
struct Pending {
    key: Key,
    pod: Option<Pod>,
    netns: Option<String>,
    result: serde_json::Value,
}

impl Adoption<'_> {
    /// Records the pods that run and have no record.
    ///
    /// # Errors
    /// If the database or the records cannot be read, or not written.
    pub fn run(&self) -> Result<Adopted, Error> {
        let Self { registry, networks, .. } = *self;
        let deadline = Deadline::after(self.timeout);
        let mut client = Client::connect(&database_socket(self.run_dir), deadline)?;
        let snapshot = client.snapshot()?;
        let boot = boot_id().map_err(Error::BootId)?;
        let started = switch_started(self.run_dir, Stamp::now());
        let registry_snapshot = registry.snapshot()?;
        let mut adopted = Adopted::default();

        let mut retired = Vec::new();
        for pending in self.pending(&snapshot, &registry_snapshot, &mut adopted.skipped) {
            let Some(network) = networks.get(&pending.key.network) else { continue };
            let dead: Vec<&Attachment> =
                registry_snapshot.tombstones.iter().filter(|t| pending.is_of(t)).collect();
            let last = dead.iter().copied().max_by_key(|t| (t.boot_id == boot, t.created.boot_ms));
            match last.map(|last| liveness(last, &boot)) {
                None => {}
                Some(Liveness::Alive) if self.again => {}
                Some(Liveness::Unknown(why)) if self.again => {
                    adopted.skipped.push(format!("{}: taken for dead, and {why}", pending.key));
                    continue;
                }
                Some(_) => continue,
            }
            let over = has_ended(&pending);
            let described = describe(&snapshot, &network.state.config, pending, last, &boot);
            match described
                .and_then(|record| unclaimed(&snapshot, record, &registry_snapshot, &boot))
            {
                Ok(mut record) => {
                    record.ofport_since = number_since(&record, last, started);
                    retired.extend(dead.into_iter().filter(|t| same_port(t, &record)));
                    adopted.again.extend(last.map(|_| record.key.clone()));
                    adopted.adopted.push(record);
                }
                Err(why) => {
                    adopted.skipped.push(why);
                    adopted.over += usize::from(over);
                }
            }
        }
        adopted.leave_doubtful();
        if !self.dry_run {
            self.write(&adopted.adopted, &retired)?;
        }
        Ok(adopted)
    }

    /// The pods that have a cached result, a tombstone that is doubted, or marks on a port, and no record.
    fn pending(
        &self,
        snapshot: &Snapshot,
        registry_snapshot: &RegistrySnapshot,
        skipped: &mut Vec<String>,
    ) -> Vec<Pending> {
        let (networks, records) = (self.networks, &registry_snapshot.attachments);
        let mut pending = Vec::new();
        let mut seen = BTreeSet::new();
        for directory in [self.cache_dir, &cached::of_multus(self.cache_dir)] {
            for cached in cached::read(directory, skipped) {
                if networks.contains_key(&cached.key.network) && seen.insert(cached.key.clone()) {
                    pending.push(cached);
                }
            }
        }
        if self.again {
            from_tombstones(&registry_snapshot.tombstones, &mut pending);
        }
        let mut names = networks.keys();
        let only = names.next().filter(|_| names.next().is_none());
        from_marks(snapshot, only, records, (&mut pending, skipped));
        pending.retain(|pending| !records.iter().any(|record| pending.is_of(record)));
        pending
    }

    fn write(&self, records: &[Attachment], retired: &[&Attachment]) -> Result<(), Error> {
        let lock = self.registry.lock(Deadline::after(self.timeout))?;
        for (name, network) in self.networks {
            let recorded: Option<NetworkState> = lock.network_state(name)?;
            // Sweeps follow what the last ADD had; after an edit this spares waiting for one.
            let config = &network.state.config;
            if recorded.as_ref().is_none_or(|state| network.ours && state.config != *config) {
                let mut state = recorded.unwrap_or_else(|| network.state.clone());
                state.configure(config.clone());
                lock.set_network_state(name, &state)?;
            }
        }
        for record in records {
            // An ADD may have come meanwhile: its record is the better one.
            if lock.get(&record.key)?.is_none() {
                lock.put(record)?;
                // The record is written first: if this process is killed in between, both are
                // there, and a live record's tokens win. A tombstone that stayed would wait for
                // its entries.
                for tombstone in retired.iter().filter(|t| is_of(&record.key, t)) {
                    lock.remove_tombstone(tombstone)?;
                }
            }
        }
        Ok(())
    }
}

impl Adopted {
    /// Whether a pod that may be alive has no record.
    #[must_use]
    pub fn is_incomplete(&self) -> bool {
        self.skipped.len() > self.over
    }

    /// If several pods would be recorded with one row, only the pod whose namespace is there gets
    /// it: the row passed from one pod to another, and nothing else tells which pod has it now.
    fn leave_doubtful(&mut self) {
        let all = std::mem::take(&mut self.adopted);
        let rivals = |record: &Attachment, lives: bool| {
            let rival = |other: &&Attachment| {
                other.interface == record.interface
                    && !is_of(&other.key, record)
                    && (!lives || other.netns.is_some())
            };
            all.iter().any(|other| rival(&other))
        };
        for record in &all {
            if rivals(record, record.netns.is_some()) {
                let port = record.port.as_deref().unwrap_or_default();
                self.skipped.push(format!("{}: port {port} may be another pod's", record.key));
                self.again.retain(|key| *key != record.key);
            } else {
                self.adopted.push(record.clone());
            }
        }
    }
}

impl Pending {
    fn is_of(&self, record: &Attachment) -> bool {
        is_of(&self.key, record)
    }
}

/// Whether the pod's namespace is known and is not there.
fn has_ended(pending: &Pending) -> bool {
    let path = pending.netns.as_deref().map(Path::new).filter(|path| path.is_absolute());
    path.is_some_and(|path| matches!(path.try_exists(), Ok(false)))
}

/// Whether a record is of this interface of this sandbox, in whatever network.
fn is_of(key: &Key, record: &Attachment) -> bool {
    record.key.container == key.container && record.key.ifname == key.ifname
}

/// Adds pods that were taken for dead and have no cached result.
fn from_tombstones(tombstones: &Records, pending: &mut Vec<Pending>) {
    for tombstone in tombstones {
        if !pending.iter().any(|p| p.is_of(tombstone)) {
            pending.push(Pending {
                key: tombstone.key.clone(),
                pod: tombstone.pod.clone(),
                netns: tombstone.netns.as_ref().map(|n| n.path.clone()),
                result: serde_json::Value::Null,
            });
        }
    }
}

/// Whether the pod of a tombstone is alive after all, by the namespace that the tombstone names.
fn liveness(tombstone: &Attachment, boot: &str) -> Liveness {
    if !tombstone.unrecorded {
        return netns::judge(tombstone, boot);
    }
    // A DEL without a record noted the path alone: its age tells whether it is the same one.
    let path = tombstone.netns.as_ref().map_or("", |n| n.path.as_str());
    let born = netns::born(path, Stamp::now()).filter(|_| tombstone.boot_id == boot);
    match born.is_some_and(|born| born.boot_ms <= tombstone.created.boot_ms) {
        true => Liveness::Alive,
        false => Liveness::Unknown(LivenessReason::NoNetns),
    }
}

/// Whether a tombstone is of the port that an adopted pod has: then its tokens are the live
/// pod's. A tombstone of another port of the same key still has entries to clean up.
fn same_port(tombstone: &Attachment, record: &Attachment) -> bool {
    let unknown = tombstone.interface.is_none() && tombstone.port.is_none();
    unknown || tombstone.interface == record.interface || tombstone.port == record.port
}

/// Adds what the marks say to the cached results. A port whose marks name a container for which
/// libcni cached nothing belongs to the node's only network.
fn from_marks(
    snapshot: &Snapshot,
    only: Option<&NetworkName>,
    records: &Records,
    (pending, skipped): (&mut Vec<Pending>, &mut Vec<String>),
) {
    for (port, interface) in ports(snapshot) {
        let Some(marks) = marks(port, interface) else { continue };
        let ifname = marks.ifname.clone().unwrap_or_else(|| "eth0".to_owned());
        let cached = |p: &&mut Pending| {
            let container = marks.container_id.as_deref() == Some(p.key.container.as_str());
            let netns = p.netns.as_deref().zip(marks.netns.as_deref());
            // A pod may have several interfaces here.
            p.key.ifname.as_str() == ifname
                && (container || netns.is_some_and(|(a, b)| same_netns(a, b)))
        };
        if let Some(known) = pending.iter_mut().find(cached) {
            known.pod = known.pod.take().or_else(|| pod(&marks));
            known.netns = known.netns.take().or_else(|| marks.netns.clone());
            continue;
        }
        let container = marks.container_id.as_deref().and_then(|id| id.parse::<ContainerId>().ok());
        match (container, ifname.parse::<IfName>(), only) {
            (Some(container), Ok(ifname), Some(network)) => pending.push(Pending {
                key: Key { network: network.clone(), container, ifname },
                pod: pod(&marks),
                netns: marks.netns.clone(),
                result: serde_json::Value::Null,
            }),
            // ADD has recorded whose it is.
            _ if records.iter().any(|record| record.interface == Some(interface.id)) => {}
            (Some(_), Ok(_), None) => skipped.push(format!(
                "port {}: its network is ambiguous, name it with --conflist",
                port.name
            )),
            _ => skipped.push(format!(
                "port {}: its marks ({}) name no container and libcni has no cached result",
                port.name, marks.cni
            )),
        }
    }
}

fn ports(snapshot: &Snapshot) -> impl Iterator<Item = (&Port, &Interface)> {
    let ports = snapshot.bridges.iter().flat_map(|b| &b.ports);
    ports.flat_map(|port| port.interfaces.iter().map(move |interface| (port, interface)))
}

fn pod(marks: &Marks) -> Option<Pod> {
    Some(Pod {
        namespace: marks.pod_namespace.clone()?,
        name: marks.pod_name.clone()?,
        uid: marks.pod_uid.clone().unwrap_or_default(),
    })
}

/// A record as ADD would have made it, for a pod that is alive.
fn describe(
    snapshot: &Snapshot,
    config: &Config,
    pending: Pending,
    tombstone: Option<&Attachment>,
    boot: &str,
) -> Result<Attachment, String> {
    let path = pending.netns.clone().unwrap_or_default();
    let captured = netns::capture(&path);
    let (mut record, host_interfaces) = before_its_port(pending, &path, tombstone, boot);
    let wanted = Wanted::of_pod(&record, Some(&path), &host_interfaces, config.bridge.as_deref());
    let found = find_port(snapshot, &wanted).map(|f| (f.bridge, f.port, f.interface));
    let known = || snapshot.interface(tombstone?.interface?);
    let Some((bridge, port, interface)) = found.or_else(known) else {
        return Err(format!("{}: no port of it in OVSDB", record.key));
    };
    // A row stays when its name is given to the next pod (a representor, `--may-exist add-port`).
    record.netns = Some(Netns::of_path(path.clone())).filter(|_| !path.is_empty());
    if [Some(&record), tombstone].iter().flatten().any(|r| is_anothers(port, interface, r, boot)) {
        return Err(format!("{}: port {} is another pod's by now", record.key, interface.name));
    }
    write_port(&mut record, bridge, port, interface);
    record.device = device_of(interface);
    add_former_number(&mut record, tombstone);
    add_marked_addresses(&mut record, port, interface);
    let computed = register_of(config, &record, Some((port, interface)));
    record.register = computed.or(record.register);
    if is_over(&path, &captured, interface) {
        return Err(format!(
            "{}: dead (network namespace {path} and the device of port {} are gone); its \
             leftovers are not judged",
            record.key, interface.name
        ));
    }
    // A tombstone's pod was judged to live, by a namespace that was seen.
    if tombstone.is_none()
        && has_no_namespace(&captured)
        && marked_as(port, interface, &record) != Some(true)
    {
        return Err(format!(
            "{}: its network namespace {path} is not there, and port {} may be another pod's",
            record.key, interface.name
        ));
    }
    record.netns = captured.ok();
    Ok(record)
}

/// What the cached result and the tombstone say of a pod, and its interfaces on the host.
fn before_its_port(
    pending: Pending,
    path: &str,
    tombstone: Option<&Attachment>,
    boot: &str,
) -> (Attachment, Vec<String>) {
    let now = Stamp::now();
    let own = crate::cni::own_of_result(&pending.result, path, pending.key.ifname.as_str());
    let mut record = Attachment::new(pending.key, new_generation(), boot.to_owned(), now);
    record.adopted = true;
    record.pod = pending.pod;
    record.ips = own.ips;
    record.macs = own.macs;
    record.born = netns::born(path, now);
    if let Some(known) = tombstone {
        remember(&mut record, known);
    }
    (record, own.host_interfaces)
}

/// The number that the pod had when it was taken for dead: flows are not adapted by themselves.
fn add_former_number(record: &mut Attachment, tombstone: Option<&Attachment>) {
    if let Some(before) = tombstone.filter(|t| t.bridge == record.bridge) {
        let had = [before.ofport, before.ofport_before];
        record.ofport_before = had.into_iter().flatten().find(|n| record.ofport != Some(*n));
    }
}

/// Since when a pod has its number, if it may have had another one before. Every start of
/// ovs-vswitchd gives numbers anew.
fn number_since(
    record: &Attachment,
    tombstone: Option<&Attachment>,
    started: Option<Stamp>,
) -> Option<Stamp> {
    let is_later = |start: &Stamp| record.born.is_none_or(|born| born.boot_ms < start.boot_ms);
    match tombstone.filter(|t| t.bridge == record.bridge) {
        Some(before) if before.ofport == record.ofport => before.ofport_since,
        Some(_) => Some(record.created),
        None => started.filter(is_later),
    }
}

/// The addresses that a port's marks name, where nothing better is known.
fn add_marked_addresses(record: &mut Attachment, port: &Port, interface: &Interface) {
    let Some(marks) = marks(port, interface) else { return };
    if record.ips.is_empty() {
        record.ips = marks.ips;
    }
    if record.macs.is_empty() {
        record.macs = marks.mac.into_iter().collect();
    }
}

/// A pod's record, unless the record of another pod has its row and neither the marks nor the
/// device contradict that other record.
fn unclaimed(
    snapshot: &Snapshot,
    record: Attachment,
    registry_snapshot: &RegistrySnapshot,
    boot: &str,
) -> Result<Attachment, String> {
    let Some((_, port, interface)) = record.interface.and_then(|id| snapshot.interface(id)) else {
        return Ok(record);
    };
    let mut others =
        registry_snapshot.attachments.iter().filter(|r| r.interface == record.interface);
    match others.find(|r| !is_anothers(port, interface, r, boot)) {
        Some(other) => {
            Err(format!("{}: port {} is recorded as {}'s", record.key, port.name, other.key))
        }
        None => Ok(record),
    }
}

/// Takes from the tombstone of a live pod what the cached result and the marks do not say.
fn remember(record: &mut Attachment, known: &Attachment) {
    record.pod = record.pod.take().or_else(|| known.pod.clone());
    record.born = record.born.or(known.born);
    record.register = known.register;
    if record.ips.is_empty() {
        record.ips.clone_from(&known.ips);
    }
    if record.macs.is_empty() {
        record.macs.clone_from(&known.macs);
    }
}

/// Whether the pod is gone already: its path and its device are. The path alone does not tell,
/// because no record says what it was while the pod lived: in a container without mount
/// propagation every path is gone, and behind /proc/PID there may be another process by now.
fn is_over(path: &str, captured: &Result<Netns, CaptureError>, interface: &Interface) -> bool {
    let path_gone = match captured {
        Err(CaptureError::Io { source, .. }) => {
            source.kind() == std::io::ErrorKind::NotFound && path.starts_with('/')
        }
        Ok(netns) => netns.pid_namespace.is_some(),
        Err(_) => false,
    };
    let device_gone =
        interface.ofport == Ofport::Failed || interface.ifindex.unwrap_or_default() == 0;
    path_gone && device_gone
}

/// Whether the path of a cached result is no namespace (any more). Then the port's name alone does
/// not tell whose the row is: the row may have passed to another pod or a virtual machine.
fn has_no_namespace(captured: &Result<Netns, CaptureError>) -> bool {
    match captured {
        Err(CaptureError::Io { source, .. }) => source.kind() == std::io::ErrorKind::NotFound,
        Err(CaptureError::NotANamespace { .. }) => true,
        Err(CaptureError::Empty) | Ok(_) => false,
    }
}

#[cfg(test)]
mod tests;
