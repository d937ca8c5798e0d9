//! DEL: deletes the attachment's flows. It runs before the OVS plugin's DEL, while the
//! port still exists and the IP is not yet free.
//!
//! A DEL that fails blocks the OVS plugin's DEL behind it and leaks ports and addresses
//! (containerd #12130): whatever happens on the switch or on disk, it succeeds, and what
//! it could not do a tombstone remembers.

use std::time::Duration;

use log::warn;

use super::{Failure, Request};
use crate::config::{Config, NetworkState};
use crate::liveness::{Liveness, netns};
use crate::model::attachment::{Attachment, Key, Netns};
use crate::reconcile::{Cause, CleanRequest, CleanTarget, orphans};
use crate::store::{self, Registry, new_generation};
use crate::util::clock::{Deadline, Stamp, boot_id};

pub(super) fn run(request: &Request) -> Result<(), Failure> {
    let key = request.key()?;
    let deadline = Deadline::after(request.config.timeout());
    let registry = Registry::open(&request.config.state_dir)
        .inspect_err(|failed| warn!("{failed}; going on without records"))
        .ok();
    let boot = boot_id()
        .inspect_err(|failed| warn!("cannot read the kernel's boot id: {failed}"))
        .unwrap_or_default();
    let now = Stamp::now();

    let state = registry.as_ref().map(|r| r.network_state::<NetworkState>(&request.network));
    let overlay = request.overlay(matches!(state, Some(Ok(Some(_)))));
    // Before the tombstone is written: if this process is killed after it, both are there.
    if let (Some(registry), Some((_, config)), Some(Ok(None))) = (&registry, &overlay, state) {
        keep_configuration(registry, &key, config);
    }
    let recorded = registry.as_ref().map(|r| recorded(r, &key, now, &boot, deadline));
    let Ok(mut targets) = recorded.unwrap_or_else(|| Ok(Vec::new())).inspect_err(|busy| {
        warn!("{key}: {busy} Nothing is deleted; a sweep finds the pod dead once its namespace is gone");
    }) else {
        request.note_unfinished();
        return Ok(());
    };
    if targets.is_empty() {
        targets.push(unrecorded(request, key.clone(), now, &boot));
        remember(registry.as_ref(), &targets, deadline);
    }
    let run_dir = request.config.ovs_run_dir();
    let cleaning = CleanRequest::of_call(registry.as_ref(), run_dir, deadline, "DEL");
    let outcome = cleaning.overlaid(overlay).clean_or_ask(targets);
    request.note(&outcome);
    if let Some(failed) = outcome.error() {
        warn!("clean-up unfinished, the next sweep goes on: {failed}");
    }
    Ok(())
}

/// A tombstone in a network that has no configuration on record (the state directory vanished)
/// needs this call's: a sweep deletes nothing where it does not know the scope.
fn keep_configuration(registry: &Registry, key: &Key, config: &Config) {
    let grace = Deadline::after(Duration::from_millis(500));
    let written = registry.lock(grace).and_then(|lock| {
        if lock.network_state::<NetworkState>(&key.network)?.is_some() {
            return Ok(());
        }
        let state = NetworkState { config: config.clone(), ..NetworkState::default() };
        lock.set_network_state(&key.network, &state)
    });
    if let Err(failed) = written {
        warn!("{key}: {failed}; the next ADD of the network has to say what is in scope");
    }
}

/// The record, turned into a tombstone before the switch is touched, and earlier
/// tombstones of the key.
///
/// # Errors
/// Another process had the lock until the deadline: no time is left for the switch.
fn recorded(
    registry: &Registry,
    key: &Key,
    now: Stamp,
    boot: &str,
    deadline: Deadline,
) -> Result<Vec<CleanTarget>, store::Error> {
    let mut targets = Vec::new();
    let lock = match registry.lock(deadline) {
        Err(busy @ store::Error::Busy { .. }) => return Err(busy),
        Err(failed) => {
            warn!("{failed}; the record stays for the next sweep");
            None
        }
        Ok(lock) => Some(lock),
    };
    // The holder of the lock has to read through it.
    let (record, tombstones) = match &lock {
        Some(lock) => (lock.get(key), lock.tombstones_of(key)),
        None => (registry.get(key), registry.tombstones_of(key)),
    };
    match record {
        Ok(Some(record)) => {
            let mut record = orphans::died(record, now, boot);
            if netns::judge(&record, boot) == Liveness::Alive {
                record.seen_alive = now;
            }
            if let Some(Err(failed)) = lock.as_ref().map(|lock| lock.write_tombstone(&record)) {
                warn!("{key}: cannot write its tombstone: {failed}");
            }
            targets.push(CleanTarget { attachment: record, cause: Cause::Del });
        }
        Ok(None) => {}
        Err(failed) => warn!("{key}: {failed}"),
    }
    match tombstones {
        Ok(tombstones) => {
            for tombstone in tombstones {
                if !targets.iter().any(|t| t.attachment.is_same(&tombstone)) {
                    targets.push(CleanTarget::of_tombstone(tombstone, now, boot));
                }
            }
        }
        Err(failed) => warn!("{key}: {failed}"),
    }
    Ok(targets)
}

/// A target without a record: what the request says. Its port is looked up in OVSDB.
fn unrecorded(request: &Request, key: Key, now: Stamp, boot: &str) -> CleanTarget {
    let mut record = Attachment::new(key, new_generation(), boot.to_owned(), now);
    record.unrecorded = true;
    record.pod.clone_from(&request.pod);
    // Only the path counts: it is what OVS CNIs mark their ports with.
    record.netns = request.netns.clone().map(Netns::of_path);
    // An entry that is older than the sandbox was not made for it.
    record.born = request.netns.as_deref().and_then(|path| netns::born(path, now));
    CleanTarget { attachment: orphans::died(record, now, boot), cause: Cause::Del }
}

fn remember(registry: Option<&Registry>, targets: &[CleanTarget], deadline: Deadline) {
    let Some(registry) = registry else { return };
    for target in targets {
        let written =
            registry.lock(deadline).and_then(|lock| lock.put_tombstone(&target.attachment));
        if let Err(failed) = written {
            warn!(
                "{}: {failed}; if the switch does not answer now, nobody will retry",
                target.attachment.key
            );
        }
    }
}
