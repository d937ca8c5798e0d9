//! Records for pods that were there before us, or whose records were lost. Without them their
//! addresses are not live tokens.
//!
//! Two witnesses: libcni's cached results (who is in which network, with its addresses) and
//! the marks that OVS CNIs leave in OVSDB (which port is whose).

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
use crate::ovsdb::{
    Client, Interface, Marks, Ofport, Port, Snapshot, Wanted, find_port, marks, same_netns,
};
use crate::registry::{self, Registry, new_generation};
use crate::sweep::register_of;

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
        let mut names = networks.keys();
        let only = names.next().filter(|_| names.next().is_none());
        from_marks(&snapshot, only, &mut pending, &mut adopted.skipped);
        for pending in pending {
            let known = everything.attachments.iter().chain(&everything.tombstones);
            let same = |r: &Attachment| {
                r.key.container == pending.key.container && r.key.ifname == pending.key.ifname
            };
            if known.into_iter().any(same) {
                continue;
            }
            let Some(network) = networks.get(&pending.key.network) else { continue };
            match describe(&snapshot, &network.state.config, pending, &boot) {
                Ok(record) => adopted.adopted.push(record),
                Err(why) => adopted.skipped.push(why),
            }
        }
        if self.act {
            self.write(&adopted.adopted)?;
        }
        Ok(adopted)
    }

    fn write(&self, records: &[Attachment]) -> Result<(), Error> {
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
            }
        }
        Ok(())
    }
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
    let wanted = Wanted {
        container_id: record.key.container.as_str(),
        ifname: record.key.ifname.as_str(),
        netns: (!path.is_empty()).then_some(path.as_str()),
        pod: record.pod.as_ref().map(|p| (p.namespace.as_str(), p.name.as_str())),
        host_interfaces: own.host_interfaces.iter().map(String::as_str).collect(),
        macs: &record.macs,
        bridge: config.bridge.as_deref(),
    };
    let Some(found) = find_port(snapshot, &wanted) else {
        return Err(format!("{}: no port of it in OVSDB", record.key));
    };
    record.bridge = Some(found.bridge.name.clone());
    record.port = Some(found.interface.name.clone());
    record.interface = Some(found.interface.id);
    if let Ofport::Number(number) = found.interface.ofport {
        record.ofport = Some(number);
    }
    if let Some(marks) = marks(found.port, found.interface) {
        if record.ips.is_empty() {
            record.ips = marks.ips;
        }
        if record.macs.is_empty() {
            record.macs = marks.mac.into_iter().collect();
        }
    }
    record.register = register_of(config, &record, Some((found.port, found.interface)));
    if is_over(&path, &captured, found.interface) {
        return Err(format!(
            "{}: dead (network namespace {path} and the device of port {} are gone); its \
             leftovers are not judged",
            record.key, found.interface.name
        ));
    }
    record.netns = captured.ok();
    Ok(record)
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
