//! The state directory and what is recorded in it.

use std::collections::BTreeSet;

use super::{Context, Findings, Level};
use crate::cli::output::counted;
use crate::cli::registers;
use crate::liveness::mass_death_guard;
use crate::model::attachment::State;
use crate::reconcile::{network_states, orphans, pulled_brake};
use crate::store::{Registry, RegistrySnapshot};
use crate::util::clock::boot_id;

/// The state directory; returns the bridges that records name.
pub(super) fn state(context: &Context, findings: &mut Findings) -> BTreeSet<String> {
    let Some(registry) = state_directory(context, findings) else { return BTreeSet::new() };
    if let Some(pause) = registry.pause() {
        findings.warn("pause", pause.to_string(), "ovs-flow-gc resume");
    }
    let registry_snapshot = match registry.snapshot() {
        Ok(registry_snapshot) => registry_snapshot,
        Err(error) => {
            findings.fail("records", error.to_string(), "");
            return BTreeSet::new();
        }
    };
    records(&registry_snapshot, findings);
    if let Some(why) = registry.why_uncounted() {
        findings.warn("metrics", why, "remove it");
    }
    register_values(&registry_snapshot, findings);
    if let Ok(boot) = boot_id() {
        liveness(&registry, &registry_snapshot, &boot, findings);
    }
    let records = registry_snapshot.attachments.iter().chain(&registry_snapshot.tombstones);
    records.filter_map(|r| r.bridge.clone()).collect()
}

/// Whether ADD can write to the state directory; `None` if it cannot be opened.
fn state_directory(context: &Context, findings: &mut Findings) -> Option<Registry> {
    let what = "state directory";
    let dir = context.state_dir.display().to_string();
    let mend = "ADD fails until this is mended";
    let registry = match Registry::open_existing(&context.state_dir) {
        Ok(Some(registry)) => registry,
        Ok(None) => {
            let found = format!("{dir} does not exist");
            findings.note(what, found, "the first ADD makes it");
            return None;
        }
        Err(error) => {
            findings.fail(what, error.to_string(), mend);
            return None;
        }
    };
    match registry.lock(context.deadline()).and_then(|lock| lock.probe()) {
        Ok(()) => findings.ok(what, format!("{dir} is writable")),
        Err(error) => findings.fail(what, error.to_string(), mend),
    }
    Some(registry)
}

/// Records that cannot be read or lack their port, and dead pods that wait for their clean-up.
fn records(registry_snapshot: &RegistrySnapshot, findings: &mut Findings) {
    for torn in &registry_snapshot.corrupt {
        findings.warn(
            "records",
            torn.to_string(),
            "ovs-flow-gc sweep moves it aside; ovs-flow-gc adopt records the pod again",
        );
    }
    let portless = registry_snapshot.attachments.iter().filter(|r| r.ofport.is_none()).count();
    if portless > 0 {
        findings.warn(
            "records",
            format!("without a port: {}", counted(portless as u64, "attachment")),
            "is the entry after the OVS plugin, and was OVS up at ADD?",
        );
    }
    let waiting: Vec<_> =
        registry_snapshot.tombstones.iter().filter(|t| t.state == State::Deleting).collect();
    if let Some(first) = waiting.first() {
        let why = first.last_error.clone().unwrap_or_else(|| "not tried yet".to_owned());
        findings.warn(
            "tombstones",
            format!("clean-up waits for {} ({why})", counted(waiting.len() as u64, "dead pod")),
            "ovs-flow-gc sweep; is the timer on?",
        );
    }
}

/// How many of the recorded pods live, have died without a DEL, or cannot be judged.
fn liveness(
    registry: &Registry,
    registry_snapshot: &RegistrySnapshot,
    boot: &str,
    findings: &mut Findings,
) {
    let orphans = orphans::find(registry_snapshot, boot);
    findings.ok("records", counted(orphans.total as u64, "attachment"));
    if let Some((source, swept)) = pulled_brake(registry, registry_snapshot, &orphans, boot) {
        let found = format!(
            "{} of {} attachments seem dead at once on the word of {source} alone{}: nothing of \
             theirs is deleted",
            orphans.dead.iter().filter(|orphan| orphan.alone().is_some()).count(),
            orphans.total,
            mass_death_guard::swept_before(swept)
        );
        let remedy = "is the netns directory mounted? If they are dead indeed: ovs-flow-gc \
                      sweep --yes";
        findings.warn("brake", found, remedy);
    }
    if !orphans.dead.is_empty() {
        let found = format!("{} died without a DEL", orphans.dead.len());
        findings.warn("orphans", found, "ovs-flow-gc sweep --dry-run shows them");
    }
    if let Some((_, why)) = orphans.unknown.first() {
        let found = format!("nobody knows whether {} live: {why}", orphans.unknown.len());
        findings.note("liveness", found, "");
    }
}

/// Whether register values are evidence, where they are learned.
fn register_values(registry_snapshot: &RegistrySnapshot, findings: &mut Findings) {
    for (network, state) in network_states(registry_snapshot) {
        let records = registry_snapshot.attachments.iter().chain(&registry_snapshot.tombstones);
        let of = records.filter(|record| record.key.network == network);
        if let Some(proof) = registers::proof(&state, of) {
            let level = if proof.holds { Level::Ok } else { Level::Note };
            let found = format!("network {network}: {}", proof.found);
            findings.add(level, "registers", found, proof.remedy);
        }
    }
}
