//! ADD: writes down who the pod is on the switch, purges what dead pods left under the same
//! tokens, and returns prevResult as it came.

use log::{debug, info, warn};
use serde_json::Value;

use super::{Failure, Request, result};
use crate::config::{NetworkState, database_socket};
use crate::liveness::{Liveness, LivenessReason, netns};
use crate::model::attachment::{Attachment, Register, State};
use crate::ovsdb::{Client, Ofport, Snapshot, Wanted, find_port, write_port};
use crate::reconcile::{
    AskedPortScan, Cause, CleanRequest, CleanTarget, PortScan, connect_early, device_of, orphans,
    register_of,
};
use crate::store::{self, Lock, RecordHeader, Registry, RegistrySnapshot, new_generation};
use crate::util::clock::{Deadline, Stamp, boot_id};
use crate::util::logging::Often;

pub(super) fn run(request: &Request) -> Result<String, Failure> {
    let raw = request.prev_result.as_deref().ok_or(Failure::NoPrevResult)?;
    let previous: Value = serde_json::from_str(raw.get())
        .ok()
        .filter(Value::is_object)
        .ok_or(Failure::BadPrevResult)?;
    let deadline = Deadline::after(request.config.timeout());
    let registry = Registry::open(&request.config.state_dir)?;
    let boot = boot_id().map_err(Failure::BootId)?;

    let early = connect_early(&request.config, deadline);
    let now = Stamp::now();
    let mut record = Attachment::new(request.key()?, new_generation(), boot.clone(), now);
    let host_interfaces = describe(&mut record, request, &previous, now);
    let located = locate(&mut record, request, &host_interfaces, deadline);
    let ovs = located.unwrap_or_else(|failed| {
        // A pod without a record would be worse than a record without a port: the next
        // sweep and DEL look the port up again.
        warn!("{}: {failed}; recorded without its port", record.title());
        None
    });
    // While the switch answers, the record is written and dead pods are looked for.
    let scan = ovs.and_then(|ovs| {
        let state = NetworkState { config: request.config.clone(), ..NetworkState::default() };
        PortScan::begin(&record, &state, ovs, early, deadline)
    });
    let (waiting, asked) = match scan {
        Some(scan) if scan.is_ready() => (None, Some(scan.ask())),
        waiting => (waiting, None),
    };
    let record = write(&registry, record, request)?;
    let asked = asked.or_else(|| waiting.map(PortScan::ask));
    if purge(&registry, &record, request, &boot, deadline) == Number::OwnAlone
        && let Some(asked) = asked
    {
        match asked.and_then(AskedPortScan::value) {
            Ok(Some(register)) => write_value(&registry, &record, register, deadline),
            Ok(None) => {}
            Err(failed) => debug!("{}: its classifier was not read: {failed}", record.key),
        }
    }
    Ok(raw.get().to_owned())
}

/// Whether entries under the new pod's port number may be somebody else's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    /// No dead pod had it.
    OwnAlone,
    /// A dead pod had it, or this is not known: the purge has written down what it could tell.
    HadByTheDead,
}

/// Writes down the value that the pod's classifier loads. The port's number may go to another pod
/// before a sweep or another pod's DEL sees the value.
fn write_value(registry: &Registry, record: &Attachment, register: Register, deadline: Deadline) {
    if record.register == Some(register) {
        return;
    }
    let written = registry
        .lock(deadline)
        .and_then(|lock| lock.update(record, |record| record.register = Some(register)));
    match written {
        Ok(_) => debug!("{}: its classifier loads {:#x}", record.key, register.value),
        Err(failed) => warn!("{}: its register value is not recorded: {failed}", record.key),
    }
}

/// Writes down what the request itself says; returns the host's interfaces of prevResult.
fn describe(
    record: &mut Attachment,
    request: &Request,
    previous: &Value,
    now: Stamp,
) -> Vec<String> {
    let path = request.netns.as_deref().unwrap_or_default();
    let own = result::own(previous, path, record.key.ifname.as_str());
    record.pod.clone_from(&request.pod);
    record.ips = own.ips;
    record.macs = own.macs;
    match netns::capture(path) {
        Ok(captured) => record.netns = Some(captured),
        Err(failed) => {
            warn!("{}: network namespace {path}: {failed}; its end will not be noticed", record.key)
        }
    }
    record.born = netns::born(path, now);
    if record.netns.is_some() && record.born.is_none() {
        warn!(
            "{}: cannot tell how old network namespace {path} is; entries under its addresses \
             that may be its own stay for the next sweep",
            record.key
        );
    }
    own.host_interfaces
}

/// What OVSDB says: the port, and its number once it has one. Returns what was read, if the
/// number was there already.
fn locate(
    record: &mut Attachment,
    request: &Request,
    host_interfaces: &[String],
    deadline: Deadline,
) -> Result<Option<Snapshot>, String> {
    let run_dir = request.config.ovs_run_dir();
    let (netns, bridge) = (request.netns.as_deref(), request.config.bridge.as_deref());
    let wanted = Wanted::of_pod(record, netns, host_interfaces, bridge);
    let mut client = Client::connect(&database_socket(&run_dir), deadline)
        .map_err(|failed| failed.to_string())?;
    let snapshot = client.find(&wanted).map_err(|failed| failed.to_string())?;
    let found = find_port(&snapshot, &wanted).ok_or_else(|| {
        "no port of this pod in OVSDB (neither an interface of prevResult nor a mark of a known \
         OVS CNI)"
            .to_owned()
    })?;
    write_port(record, found.bridge, found.port, found.interface);
    record.device = device_of(found.interface);
    let number = match found.interface.ofport {
        Ofport::Unassigned => client
            .wait_ofport(found.interface.id, deadline)
            .map_err(|failed| failed.to_string())?
            .unwrap_or(Ofport::Unassigned),
        known => known,
    };
    let mut interface = found.interface.clone();
    interface.ofport = number;
    record.register = register_of(&request.config, record, Some((found.port, &interface)));
    match number {
        Ofport::Number(number) => {
            record.ofport = Some(number);
            debug!("{}: port {} is {number} ({:?})", record.key, interface.name, found.by);
            let known = found.interface.ofport.number().is_some();
            Ok(known.then_some(snapshot))
        }
        Ofport::Failed => {
            Err(format!("port {} has no number: the switch cannot open it", interface.name))
        }
        Ofport::Unassigned => Err(format!("port {} got no number in time", interface.name)),
    }
}

/// Writes the record and the network's configuration.
fn write(
    registry: &Registry,
    mut record: Attachment,
    request: &Request,
) -> Result<Attachment, Failure> {
    let lock = registry.lock(Deadline::after(request.config.timeout()))?;
    let recorded: Option<NetworkState> =
        mended(&lock, lock.network_state(&record.key.network))?.flatten();
    let mut state = recorded.clone().unwrap_or_default();
    state.configure(request.config.clone());
    if recorded.as_ref() != Some(&state) {
        lock.set_network_state(&record.key.network, &state)?;
    }
    if let Some(old) = mended(&lock, lock.get(&record.key))?.flatten() {
        if same_life(&old, &record) {
            // A repeated ADD must not lose what the first one knew.
            record.generation = old.generation;
            record.created = old.created;
            record.born = old.born.or(record.born);
            record.register = record.register.or(old.register);
            record.pod = record.pod.or(old.pod);
            record.workload = old.workload;
            record.bridge = record.bridge.or(old.bridge);
            record.port = record.port.or(old.port);
            record.interface = record.interface.or(old.interface);
            record.ofport = record.ofport.or(old.ofport);
            record.device = record.device.or(old.device);
            if record.ips.is_empty() {
                record.ips = old.ips;
            }
            if record.macs.is_empty() {
                record.macs = old.macs;
            }
        } else {
            info!("{}: ADD again without a DEL; what the first one left is cleaned up", record.key);
            lock.write_tombstone(&orphans::died(old, Stamp::now(), &record.boot_id))?;
        }
    }
    lock.put(&record)?;
    info!(
        "{}: recorded {} as port {} on {}",
        record.title(),
        record.key,
        record.ofport.map_or_else(|| "unknown".to_owned(), |n| n.to_string()),
        record.bridge.as_deref().unwrap_or("an unknown bridge"),
    );
    Ok(record)
}

/// What was read. A corrupt file is moved aside for an operator: it must not stop pods from
/// starting until then.
fn mended<T>(lock: &Lock<'_>, read: Result<T, store::Error>) -> Result<Option<T>, Failure> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(store::Error::Corrupt(corrupt)) => {
            let aside = lock.move_corrupt_aside(&corrupt)?;
            warn!("{corrupt}; {}", if aside.is_some() { "moved aside" } else { "written anew" });
            Ok(None)
        }
        Err(failed) => Err(failed.into()),
    }
}

/// Whether two records of one key are of one sandbox on one port.
fn same_life(old: &Attachment, new: &Attachment) -> bool {
    let sandbox = old.netns == new.netns && old.boot_id == new.boot_id;
    sandbox
        && (new.interface.is_none() || old.interface == new.interface || old.interface.is_none())
}

/// Whether a dead pod may have left entries under a token of the new one.
fn shares_a_token(dead: &RecordHeader, new: &Attachment) -> bool {
    let port = dead.ofport.is_some() && dead.ofport == new.ofport && dead.bridge == new.bridge;
    let register =
        dead.register.is_some() && dead.register.map(|r| r.value) == new.register.map(|r| r.value);
    port || register
        || dead.ips.iter().any(|ip| new.ips.contains(ip))
        || dead.macs.iter().any(|mac| new.macs.contains(mac))
}

/// Leftovers are gone before ADD returns; what cannot be done now the next sweep does.
fn purge(
    registry: &Registry,
    record: &Attachment,
    request: &Request,
    boot: &str,
    deadline: Deadline,
) -> Number {
    // All attachments that share a token, dead or alive.
    let registry_snapshot = match registry.snapshot_of(&|other| shares_a_token(other, record)) {
        Ok(registry_snapshot) => registry_snapshot,
        Err(failed) => {
            warn!("cannot look for leftovers: {failed}");
            return Number::HadByTheDead;
        }
    };
    for failed in &registry_snapshot.failures {
        warn!("{}: cannot look for leftovers everywhere: {failed}", record.title());
    }
    let targets = dead_pods(registry, &registry_snapshot, record, boot, deadline);
    let had_it = |a: &Attachment| a.ofport == record.ofport && a.bridge == record.bridge;
    let unread = !registry_snapshot.failures.is_empty();
    let number = if unread || targets.iter().any(|t| had_it(&t.attachment)) {
        Number::HadByTheDead
    } else {
        Number::OwnAlone
    };
    if targets.is_empty() {
        return number;
    }
    let cleaning =
        CleanRequest::of_call(Some(registry), request.config.ovs_run_dir(), deadline, "ADD")
            .adding(record.key.clone())
            .overlaid(Some((request.network.clone(), request.config.clone())));
    let outcome = cleaning.clean_or_ask(targets);
    request.note(&outcome);
    if let Some(failed) = outcome.error() {
        warn!("{}: leftovers stay for the next sweep: {failed}", record.title());
    }
    number
}

/// The dead pods that share a token with the new one: tombstones, and orphans, of which tombstones
/// are written here.
fn dead_pods(
    registry: &Registry,
    registry_snapshot: &RegistrySnapshot,
    record: &Attachment,
    boot: &str,
    deadline: Deadline,
) -> Vec<CleanTarget> {
    let now = Stamp::now();
    let mut targets: Vec<CleanTarget> = registry_snapshot
        .tombstones
        .iter()
        .map(|t| CleanTarget::of_tombstone(t.clone(), now, boot))
        .collect();
    for other in &registry_snapshot.attachments {
        if other.is_same(record) || other.state != State::Active {
            continue;
        }
        let why = match netns::judge(other, boot) {
            Liveness::Dead(why) => why,
            Liveness::Unknown(why @ LivenessReason::Failed) => {
                warn!("{} ({}) may have left something: {why}", other.title(), other.key);
                continue;
            }
            Liveness::Alive | Liveness::Unknown(_) => continue,
        };
        let dead = orphans::died(other.clone(), now, boot);
        match registry.lock(deadline).and_then(|lock| orphans::write_tombstone(&lock, &dead)) {
            Ok(true) => {
                Often::Dead.say(&format_args!("{} ({}) is dead: {why}", dead.title(), dead.key));
                targets
                    .push(CleanTarget { attachment: dead, cause: Cause::Orphan(why.to_string()) });
            }
            // Another process was quicker. To it the new pod's tokens are a live pod's, so what
            // the dead pod left under them has to be purged here.
            Ok(false) => {
                let tombstones = registry.tombstones_of(&dead.key).unwrap_or_default();
                targets.extend(
                    tombstones
                        .into_iter()
                        .filter(|t| t.is_same(&dead))
                        .map(|attachment| CleanTarget { attachment, cause: Cause::Tombstone }),
                );
            }
            Err(failed) => warn!("{}: cannot write its tombstone: {failed}", dead.key),
        }
    }
    targets
}
