//! GC (CNI spec 1.1.0): every record of this network that is not in the list is an orphan
//! now.

use log::{info, warn};
use rscni_types::error::Error as Cni;
use serde_json::Value;

use super::{Failure, Request};
use crate::config::NetworkState;
use crate::reconcile::{Cause, CleanRequest, CleanTarget, orphans};
use crate::store::Registry;
use crate::util::clock::{Deadline, Stamp, boot_id};
use crate::util::logging::Often;

/// The list, under its name and under the one that libcni adds for compatibility.
const KEYS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

pub(super) fn run(request: &Request, called: Stamp) -> Result<(), Failure> {
    let Some(valid) = valid_containers(request)? else {
        info!("GC without a list of valid attachments: nothing to do");
        return Ok(());
    };
    let deadline = Deadline::after(request.config.timeout());
    let registry = Registry::open(&request.config.state_dir)?;
    let boot = boot_id().map_err(Failure::BootId)?;
    let registry_snapshot = registry.snapshot()?;
    let state = registry.network_state::<NetworkState>(&request.network);
    let now = Stamp::now();
    let mut targets: Vec<CleanTarget> = registry_snapshot
        .tombstones
        .iter()
        .filter(|t| t.key.network == request.network)
        .map(|t| CleanTarget::of_tombstone(t.clone(), now, &boot))
        .collect();
    // A record that cannot be read or written stops no other: the next GC or sweep finds it.
    let mut left: Vec<String> =
        registry_snapshot.failures.iter().map(|failed| format!("not judged: {failed}")).collect();
    for record in &registry_snapshot.attachments {
        // A container that is valid under any ifname protects all its attachments; so does
        // having been ADDed since the list was made.
        let valid = valid.iter().any(|id| id == record.key.container.as_str());
        let younger = record.boot_id == boot && record.created >= called;
        if record.key.network != request.network || valid || younger {
            continue;
        }
        let dead = orphans::died(record.clone(), now, &boot);
        let lock = registry.lock(deadline)?;
        match orphans::write_tombstone(&lock, &dead) {
            Ok(true) => {
                let (pod, key) = (dead.title(), &dead.key);
                Often::Dead.say(&format_args!("{pod} ({key}) is dead: not in the runtime's list"));
                targets.push(CleanTarget { attachment: dead, cause: Cause::Gc });
            }
            Ok(false) => {}
            Err(failed) => {
                warn!("{}: cannot write its tombstone: {failed}", dead.key);
                let (pod, container) = (dead.title(), &dead.key.container);
                left.push(format!("{pod} ({container}): cannot write its tombstone: {failed}"));
            }
        }
    }
    let of = targets.len().saturating_add(left.len());
    let overlay = request.overlay(matches!(state, Ok(Some(_))));
    let run_dir = request.config.ovs_run_dir();
    let cleaning = CleanRequest::of_call(Some(&registry), run_dir, deadline, "GC");
    let outcome = cleaning.overlaid(overlay).clean_or_ask(targets);
    request.note(&outcome);
    left.extend(outcome.targets.iter().filter_map(|t| {
        t.error.as_ref().map(|error| format!("{} ({}): {error}", t.pod, t.life.0.container))
    }));
    if left.is_empty() { Ok(()) } else { Err(Failure::Unfinished { left, of }) }
}

/// `None`: both keys are absent, do nothing. `null` (CRI-O, for a network without pods) and
/// `[]`: none is valid. A list that cannot be read protects all pods: an error.
pub(super) fn valid_containers(request: &Request) -> Result<Option<Vec<String>>, Failure> {
    let mut valid = None;
    for key in KEYS {
        let Some(list) = request.conf.get(key) else { continue };
        let bad = |what: String| Failure::Cni(Cni::InvalidNetworkConfig(format!("{key:?} {what}")));
        let items = match list {
            Value::Null => &Vec::new(),
            Value::Array(items) => items,
            _ => return Err(bad("is not a list".to_owned())),
        };
        let valid: &mut Vec<String> = valid.get_or_insert_default();
        for (index, item) in items.iter().enumerate() {
            let id = item.get("containerID").and_then(Value::as_str);
            let id = id.filter(|id| !id.is_empty());
            valid.push(
                id.ok_or_else(|| bad(format!("entry {index} has no containerID")))?.to_owned(),
            );
        }
    }
    Ok(valid)
}
