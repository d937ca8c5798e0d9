//! A bridge that is spoken to before the database has confirmed it: when an attachment is
//! cleaned up, its record names the bridge that it will be about, and what to look for on
//! it.
//!
//! Guarantee: no entries are asked for before the database's answer has come.

use std::path::Path;

use super::input::register_now;
use super::scan::expects_proof;
use super::snapshot::Answered;
use super::{CleanRequest, CleanTarget, Thorough, socket_of};
use crate::flowtable::{DumpSource, FlowSink, Groups, PortList, Prefetch, Tokens};
use crate::openflow::{Connection, Error};

/// Connects, if all targets' records name the same bridge.
pub(super) fn begin(request: &CleanRequest<'_>, targets: &[CleanTarget]) -> Option<Prefetch> {
    let bridge = targets.first()?.attachment.bridge.as_deref()?;
    if targets.iter().any(|t| t.attachment.bridge.as_deref() != Some(bridge)) {
        return None;
    }
    spare(request, bridge).or_else(|| {
        let path = socket_of(&request.run_dir, bridge).ok()?;
        Prefetch::begin(&path, request.deadline, !request.dry_run, groups(request, bridge))
    })
}

/// Over a connection that waits for us.
fn spare(request: &CleanRequest<'_>, bridge: &str) -> Option<Prefetch> {
    let groups = groups(request, bridge);
    request.replicas?.prefetch(bridge, request.deadline, !request.dry_run, groups)
}

/// A replica is asked for the evidence, which begins with the groups. It knows ports and tables.
fn groups(request: &CleanRequest<'_>, bridge: &str) -> Groups {
    match request.replicas {
        Some(replicas) if replicas.is_followed(bridge) => Groups::Only,
        Some(_) => Groups::Wanted,
        None => Groups::Not,
    }
}

/// Asks for the entries of the dead as their records know them, if a scan by tokens is to be
/// expected.
pub(super) fn guess(
    prefetch: Prefetch,
    request: &CleanRequest<'_>,
    answered: &Answered,
    targets: &[CleanTarget],
) -> Option<Prefetch> {
    // A replica needs no dump, and meanwhile there is something else to do.
    let bridge = targets.first().and_then(|target| target.attachment.bridge.as_deref());
    if bridge.zip(request.replicas).is_some_and(|(name, of)| of.is_followed(name)) {
        return prefetch.go_on();
    }
    let tokens = || {
        if request.thorough != Thorough::None { None } else { tokens(request, answered, targets) }
    };
    prefetch.guess(targets.len(), tokens)
}

/// What the records know of the dead. `None`: a scan of everything is to be expected.
fn tokens(
    request: &CleanRequest<'_>,
    answered: &Answered,
    targets: &[CleanTarget],
) -> Option<Vec<Tokens>> {
    let recorded = targets.iter().map(|target| {
        let record = &target.attachment;
        let mut state = answered.network(&record.key.network);
        let overlay = request.overlay.as_ref();
        if let Some((_, config)) = overlay.filter(|(name, _)| *name == record.key.network) {
            state.config = config.clone();
        }
        let facts = &state.register;
        let rule = state.config.register_rule(facts.register_told_apart, facts.register_shared);
        if expects_proof(rule.source, &facts.register_basis) {
            return None;
        }
        let value = register_now(&state.config, record, None).map(|register| register.value);
        let value = value.filter(|value| *value != 0);
        Some(Tokens {
            ports: record.ofport.into_iter().collect(),
            addresses: record.addresses(),
            registers: value.map(|value| (rule.index, value, rule.mask)).into_iter().collect(),
        })
    });
    recorded.collect()
}

/// A bridge that is asked for what a scan needs, and its ports if a replica does not know them; with
/// the head start if that is the same bridge's.
pub(super) fn or_open(
    prefetch: Option<Prefetch>,
    request: &CleanRequest<'_>,
    bridge: &str,
) -> Result<(Box<dyn FlowSink>, Option<PortList>), Error> {
    let path = socket_of(&request.run_dir, bridge)?;
    let prefetch = prefetch.filter(|prefetch| prefetch.path() == path);
    let (source, ports) = match prefetch.or_else(|| spare(request, bridge)).map(Prefetch::finish) {
        Some(Err(_)) if !request.deadline.passed() => open(request, &path, bridge)?,
        Some(finished) => finished?,
        None => open(request, &path, bridge)?,
    };
    let mut table = request.table(bridge, source);
    table.prepare();
    Ok((table, ports))
}

fn open(
    request: &CleanRequest<'_>,
    path: &Path,
    bridge: &str,
) -> Result<(DumpSource, Option<PortList>), Error> {
    let mut connection = Connection::open(path, request.deadline)?;
    if !request.dry_run {
        connection.watch()?;
    }
    Prefetch::of(connection, groups(request, bridge))?.finish()
}
