//! Records for pods that were there before us, or whose records were lost. Without them their
//! addresses are not live tokens.
//!
//! Two witnesses: libcni's cached results (who is in which network, with its addresses) and
//! the marks that OVS CNIs leave in OVSDB (which port is whose). A third one for pods that were
//! taken for dead and live: their tombstones.

mod cached;

#[cfg(feature = "fuzzing")]
pub(crate) use cached::fuzz;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use crate::attachment::{Attachment, ContainerId, IfName, Key, Netns, NetworkName, Pod};
use crate::clock::{Deadline, Stamp, boot_id};
use crate::config::{Config, NetworkState, database_socket};
use crate::liveness::netns::{self, CaptureError};
use crate::liveness::{Life, Why};
use crate::ovsdb::{
    Client, Interface, Marks, Ofport, Port, Snapshot, Wanted, find_port, marks, same_netns,
};
use crate::registry::{self, Registry, new_generation};
use crate::sweep::{device_of, register_of};

/// Why nobody can be adopted now.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state directory.
    #[error(transparent)]
    Registry(#[from] registry::Error),
    /// The database.
    #[error(transparent)]
    Ovsdb(#[from] crate::ovsdb::Error),
    /// The kernel's boot id.
    #[error("cannot read the kernel's boot id: {0}")]
    BootId(std::io::Error),
}

/// Who was adopted.
#[derive(Debug, Default, Serialize)]
pub struct Adopted {
    /// Their records.
    pub adopted: Vec<Attachment>,
    /// Of them, those that had a tombstone: they were taken for dead and live.
    pub again: Vec<Key>,
    /// Who was not, and why.
    pub skipped: Vec<String>,
}

/// A network that is ours to look after.
#[derive(Clone, Debug)]
pub struct Network {
    /// Its configuration and what was learned, for where nothing is recorded.
    pub state: NetworkState,
    /// It is the operator's word: it wins over what the last ADD wrote down.
    pub ours: bool,
}

/// Whom, and how.
#[derive(Clone, Copy, Debug)]
pub struct Adoption<'a> {
    /// Where the records are.
    pub registry: &'a Registry,
    /// Where OVS's sockets are.
    pub run_dir: &'a Path,
    /// Whose pods.
    pub networks: &'a BTreeMap<NetworkName, Network>,
    /// Where libcni caches results.
    pub cache_dir: &'a Path,
    /// For the database, then for the lock of the records.
    pub timeout: std::time::Duration,
    /// False: nothing is recorded.
    pub act: bool,
    /// Record pods that have a tombstone, too, if they live. It takes a person's word: a DEL that
    /// is under way has a tombstone and a namespace that is still there.
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
        let everything = registry.snapshot()?;
        let mut adopted = Adopted::default();

        let mut pending = Vec::new();
        for cached in cached::read(self.cache_dir, &mut adopted.skipped) {
            if networks.contains_key(&cached.key.network) {
                pending.push(cached);
            }
        }
        if self.again {
            from_tombstones(&everything.tombstones, &mut pending);
        }
        let mut names = networks.keys();
        let only = names.next().filter(|_| names.next().is_none());
        from_marks(&snapshot, only, &mut pending, &mut adopted.skipped);
        let mut retired = Vec::new();
        for pending in pending {
            if everything.attachments.iter().any(|r| pending.is_of(r)) {
                continue;
            }
            let Some(network) = networks.get(&pending.key.network) else { continue };
            let dead: Vec<&Attachment> =
                everything.tombstones.iter().filter(|t| pending.is_of(t)).collect();
            let last = dead.iter().copied().max_by_key(|t| (t.boot_id == boot, t.created.boot_ms));
            match last.map(|last| life(last, &boot)) {
                None => {}
                Some(Life::Alive) if self.again => {}
                Some(Life::Unknown(why)) if self.again => {
                    adopted.skipped.push(format!("{}: taken for dead, and {why}", pending.key));
                    continue;
                }
                Some(_) => continue,
            }
            match describe(&snapshot, &network.state.config, pending, last, &boot) {
                Ok(record) => {
                    retired.extend(dead.into_iter().filter(|t| same_port(t, &record)));
                    adopted.again.extend(last.map(|_| record.key.clone()));
                    adopted.adopted.push(record);
                }
                Err(why) => adopted.skipped.push(why),
            }
        }
        if self.act {
            self.write(&adopted.adopted, &retired)?;
        }
        Ok(adopted)
    }

    fn write(&self, records: &[Attachment], retired: &[&Attachment]) -> Result<(), Error> {
        let lock = self.registry.lock(Deadline::after(self.timeout))?;
        for (name, network) in self.networks {
            let recorded: Option<NetworkState> = lock.network_state(name)?;
            // Sweeps follow what the last ADD had; after an edit this spares waiting for one.
            let config = &network.state.config;
            if recorded.as_ref().is_none_or(|state| network.ours && state.config != *config) {
                let mut state = recorded.unwrap_or_else(|| network.state.clone());
                state.config = config.clone();
                lock.set_network_state(name, &state)?;
            }
        }
        for record in records {
            // An ADD may have come meanwhile: its record is the better one.
            if lock.get(&record.key)?.is_none() {
                lock.put(record)?;
                // Behind the record: whoever is killed between the two leaves both, and a live
                // record's tokens win. A tombstone that stayed would wait for its entries.
                for tombstone in retired.iter().filter(|t| is_of(&record.key, t)) {
                    lock.remove_tombstone(tombstone)?;
                }
            }
        }
        Ok(())
    }
}

impl Pending {
    fn is_of(&self, record: &Attachment) -> bool {
        is_of(&self.key, record)
    }
}

/// Whether a record is of this interface of this sandbox, in whatever network.
fn is_of(key: &Key, record: &Attachment) -> bool {
    record.key.container == key.container && record.key.ifname == key.ifname
}

/// Pods that were taken for dead, where no cached result and no mark speaks of them.
fn from_tombstones(tombstones: &[Attachment], pending: &mut Vec<Pending>) {
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

/// Whether somebody who has a tombstone lives after all, by the namespace that it names.
fn life(tombstone: &Attachment, boot: &str) -> Life {
    if !tombstone.unrecorded {
        return netns::judge(tombstone, boot);
    }
    // A DEL without a record noted the path alone: its age tells whether it is the same one.
    let path = tombstone.netns.as_ref().map_or("", |n| n.path.as_str());
    let born = netns::born(path, Stamp::now()).filter(|_| tombstone.boot_id == boot);
    match born.is_some_and(|born| born.boot_ms <= tombstone.created.boot_ms) {
        true => Life::Alive,
        false => Life::Unknown(Why::NoNetns),
    }
}

/// Whether a tombstone is of the port that an adopted pod has: its tokens are the living pod's.
/// One of another port of the same key still has entries to clean up.
fn same_port(tombstone: &Attachment, record: &Attachment) -> bool {
    let unknown = tombstone.interface.is_none() && tombstone.port.is_none();
    unknown || tombstone.interface == record.interface || tombstone.port == record.port
}

/// What the marks add to cached results, and ports whose marks name the container where
/// libcni cached nothing: they are of the node's only network.
fn from_marks(
    snapshot: &Snapshot,
    only: Option<&NetworkName>,
    pending: &mut Vec<Pending>,
    skipped: &mut Vec<String>,
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
    let now = Stamp::now();
    let mut record = Attachment::new(pending.key, new_generation(), boot.to_owned(), now);
    record.adopted = true;
    record.pod = pending.pod;
    let path = pending.netns.unwrap_or_default();
    let own = crate::plugin::own_of_result(&pending.result, &path, record.key.ifname.as_str());
    record.ips = own.ips;
    record.macs = own.macs;
    let captured = netns::capture(&path);
    record.born = netns::born(&path, now);
    if let Some(known) = tombstone {
        remember(&mut record, known);
    }
    let wanted = Wanted {
        container_id: record.key.container.as_str(),
        ifname: record.key.ifname.as_str(),
        netns: (!path.is_empty()).then_some(path.as_str()),
        pod: record.pod.as_ref().map(|p| (p.namespace.as_str(), p.name.as_str())),
        host_interfaces: own.host_interfaces.iter().map(String::as_str).collect(),
        macs: &record.macs,
        bridge: config.bridge.as_deref(),
    };
    let found = find_port(snapshot, &wanted).map(|f| (f.bridge, f.port, f.interface));
    // Nobody but this pod can have the row that it had, marked or not.
    let known = || snapshot.interface(tombstone?.interface?);
    let Some((bridge, port, interface)) = found.or_else(known) else {
        return Err(format!("{}: no port of it in OVSDB", record.key));
    };
    record.bridge = Some(bridge.name.clone());
    record.port = Some(interface.name.clone());
    record.interface = Some(interface.id);
    record.see_vlans(&port.vlans);
    record.device = device_of(interface);
    if let Ofport::Number(number) = interface.ofport {
        record.ofport = Some(number);
    }
    if let Some(before) = tombstone.filter(|t| t.bridge == record.bridge) {
        let had = [before.ofport, before.ofport_before];
        record.ofport_before = had.into_iter().flatten().find(|n| record.ofport != Some(*n));
    }
    if let Some(marks) = marks(port, interface) {
        if record.ips.is_empty() {
            record.ips = marks.ips;
        }
        if record.macs.is_empty() {
            record.macs = marks.mac.into_iter().collect();
        }
    }
    let computed = register_of(config, &record, Some((port, interface)));
    record.register = computed.or(record.register);
    if is_over(&path, &captured, interface) {
        return Err(format!(
            "{}: dead (network namespace {path} and the device of port {} are gone); its \
             leftovers are not judged",
            record.key, interface.name
        ));
    }
    record.netns = captured.ok();
    Ok(record)
}

/// What a tombstone knows of a pod that lives, where nothing of now says it.
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

/// Whether the pod is gone already. Two witnesses, because nobody recorded what the path
/// looked like while it lived: seen from a container without mount propagation, every path
/// is gone. And behind /proc/PID there may be another process by now.
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
