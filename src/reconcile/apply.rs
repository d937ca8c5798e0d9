//! One bridge: look, judge, read the world again, journal, delete, look again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use super::connections::owned_by;
use super::guard::{DeleteOutcome, ReplaceGuard};
use super::remember::{remember, shared_for_good};
use super::report::{BridgeReport, FlowReport, Report};
use super::scan::{Candidate, FlowScan, again, fingerprint, scan_tables};
use super::snapshot::Error;
use super::transaction::JournalTransaction;
use super::{
    BridgeInput, Cause, CleanRequest, CleanTarget, NodeSnapshot, Prefetch, WAIT_FOR_CONTROLLER,
};
use crate::config::Mode;
use crate::judge::input::LiveRegister;
use crate::judge::{
    Judge, Learned, NotProven, Reason, Recheck, RegisterToken, Standing, Token, Verdict,
};
use crate::openflow::{Connection, Entry, Filter, delete_strict_parallel};
use crate::ovsdb::{Client, Ofport};
use crate::store::Version;
use crate::util::clock::{Deadline, Stamp};
use log::{debug, error, info, warn};

/// How many entries are deleted on one look at the world: at 20 µs each the window between
/// that look and the last delete stays under 100 ms.
const CHUNK: usize = 4_000;
/// How often a clean-up looks again before it leaves what has changed to the next one, and how
/// long after the look before.
const LOOKS_BEHIND: u32 = 8;
const FOLLOWING: Duration = Duration::from_millis(3);
/// Connections that a chunk is divided among.
const LANES: usize = 4;

/// An entry that is to go.
pub(super) struct PlannedDelete<'l> {
    pub(super) candidate: &'l Candidate,
    pub(super) verdict: Verdict,
    /// Its evidence changed before the commit: it stays for now.
    pub(super) put_off: bool,
}

/// What has changed since the verdicts, looked at right before each commit.
struct PreCommitCheck<'a> {
    request: &'a CleanRequest<'a>,
    bridge: usize,
    targets: &'a [CleanTarget],
    judged: &'a BridgeInput,
    learned: &'a Learned,
    /// The world that was judged.
    node: &'a NodeSnapshot,
    /// What its records count as, after our own writing.
    version: Option<Version>,
    /// When that was read: see [`scan_tables`].
    since: Instant,
    /// The world now, if it is another.
    fresh: Option<NodeSnapshot>,
    /// The bridge's ports, as it describes them.
    ports: Vec<(u16, String)>,
    /// `None`: nothing has changed.
    recheck: Option<Recheck>,
}

impl PreCommitCheck<'_> {
    /// Looks at records, OVSDB and the bridge's ports. What says that nothing was written
    /// is as good as reading it again, and there are many chunks.
    fn scan(&mut self, client: &mut Client, connection: &mut Connection) -> Result<(), Error> {
        let current = self.fresh.as_ref().unwrap_or(self.node);
        let check = client.ask_unchanged()?;
        let ports = connection.ports();
        let same = current.is_current(self.request.registry, self.version, client, check)?;
        let ports = ports?;
        if same && ports == self.ports {
            return Ok(());
        }
        self.ports = ports;
        if !same {
            let fresh = self.request.world_again(client, self.node.now)?;
            self.version = fresh.version;
            self.fresh = Some(fresh);
        }
        let current = self.fresh.as_ref().unwrap_or(self.node);
        let mut input = self.input(current);
        input.check_ports(current, self.bridge, &self.ports);
        self.recheck = Some(Recheck::between(&self.judged.facts, self.learned, &input.facts));
        Ok(())
    }

    fn input(&self, node: &NodeSnapshot) -> BridgeInput {
        BridgeInput::build(node, self.bridge, self.targets, self.request.adding.as_ref())
    }

    /// Of each, whether its verdict still holds.
    fn holding(&self, chunk: &[PlannedDelete<'_>]) -> Vec<bool> {
        chunk.iter().map(|planned| self.standing(planned) == Standing::Holds).collect()
    }

    fn standing(&self, planned: &PlannedDelete<'_>) -> Standing {
        let Some(recheck) = &self.recheck else { return Standing::Holds };
        match planned.candidate.entry.flow() {
            Ok(flow) => recheck.standing(&flow, &planned.verdict),
            Err(_) => Standing::Unsettled,
        }
    }

    /// A token that became live between the last look and the commit may have lost its new
    /// owner's entry. That must never be silent.
    fn suspect(&mut self, client: &mut Client, done: &[PlannedDelete<'_>], out: &mut BridgeReport) {
        let current = self.fresh.as_ref().unwrap_or(self.node);
        let same = client.ask_unchanged().map_err(Error::from).and_then(|check| {
            current.is_current(self.request.registry, self.version, client, check)
        });
        if same.unwrap_or(false) {
            return;
        }
        let Ok(after) = self.request.world_again(client, self.node.now) else {
            return;
        };
        let input = self.input(&after);
        self.recheck = Some(Recheck::between(&self.judged.facts, self.learned, &input.facts));
        for planned in done.iter().filter(|planned| !planned.put_off) {
            if self.standing(planned) == Standing::NewOwner {
                out.suspicions += 1;
                error!(
                    "bridge {}: deleted while its token found a new owner, check that pod: {}",
                    out.bridge, planned.candidate.entry
                );
            }
        }
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "one call site; the arguments are the pass's whole state"
)]
pub(super) fn pass(
    request: &CleanRequest<'_>,
    node: &NodeSnapshot,
    client: &mut Client,
    prefetch: Option<Prefetch>,
    bridge: usize,
    targets: &[CleanTarget],
    out: &mut BridgeReport,
    report: &mut Report,
) -> Result<(), Error> {
    // Deaths are as long ago as they were when the world was read; entries must be, too, or
    // one that was made while it was read would look older than it is.
    let since = Instant::now();
    let since = since.checked_sub(node.now.until(Stamp::now())).unwrap_or(since);
    let open = Prefetch::or_open(prefetch, request, &out.bridge)?;
    let (mut connection, (ports, tables)) = (open.connection, open.known);
    let mut input = BridgeInput::build(node, bridge, targets, request.adding.as_ref());
    input.check_ports(node, bridge, &ports);
    if input.facts.ovn {
        report.note(format!("bridge {}: ovn-controller runs it: OVN's, not judged", out.bridge));
        for target in &input.dead_of {
            if let Some(target) = report.targets.get_mut(*target) {
                target.ovn = true;
            }
        }
    }
    let scan = scan_tables(&mut connection, &input, request.thorough, since, &tables, open.guess)?;
    out.flows = scan.flows;
    out.full = scan.full;
    let shared = shared_for_good(node, &input, &scan.learned);
    let mut version = node.version;
    if !request.dry_run {
        // What was learned is in the look already: it changes nothing for its verdicts.
        version = remember(request, node, targets, &input, &scan, report);
    }

    let mut planned = judge(request, &input, &scan, &shared, targets, out, report);
    out.stale += planned.len() as u64;
    for target in &input.dead_of {
        if let Some(target) = report.targets.get_mut(*target) {
            target.complete = true;
        }
    }
    let observing = |target: Option<usize>| {
        let network = match target.and_then(|t| targets.get(t)) {
            Some(target) => &target.attachment.key.network,
            None => return input.networks.iter().any(|n| node.config(n).mode == Mode::Observe),
        };
        node.config(network).mode == Mode::Observe
    };
    let paused = report.paused;
    let stays = |d: &mut PlannedDelete<'_>| paused || observing(target_of(&input, &d.verdict));
    let watched: Vec<PlannedDelete<'_>> = planned.extract_if(.., stays).collect();
    if request.dry_run {
        report.observed |= !planned.is_empty();
        planned.clear();
    }
    let why = if report.paused { "paused" } else { "mode observe" };
    for planned in &watched {
        let PlannedDelete { candidate: Candidate { entry, .. }, verdict, .. } = planned;
        // How many there are of each pod is said when that changes: a sweep finds them each time.
        debug!("bridge {}: {why}, not deleted: {entry} ({})", out.bridge, verdict.reason);
        only_watched(planned, &input, out, report);
    }
    if !planned.is_empty() {
        let watch = PreCommitCheck {
            request,
            bridge,
            targets,
            judged: &input,
            learned: &scan.learned,
            node,
            version,
            since,
            fresh: None,
            ports,
            recheck: None,
        };
        delete(watch, client, &scan, planned, &mut connection, out, report)?;
    }
    Ok(())
}

/// It stays because an operator says so, and is still to be done once nobody does any more.
fn only_watched(
    planned: &PlannedDelete<'_>,
    input: &BridgeInput,
    out: &mut BridgeReport,
    report: &mut Report,
) {
    report.observed = true;
    out.observed += 1;
    let target = target_of(input, &planned.verdict);
    *out.withheld.entry(target).or_default() += 1;
    if let Some(of) = target.and_then(|t| report.targets.get_mut(t)) {
        of.waiting = true;
    }
}

/// Reasons that time may change: the tombstone waits for them.
fn may_change(
    reason: Reason,
    dead: usize,
    input: &BridgeInput,
    learned: &Learned,
    shared: bool,
) -> bool {
    match reason {
        // Until somebody elsewhere gives it back.
        Reason::MayLiveElsewhere { .. } | Reason::MayReachElsewhere { .. } => {
            input.may_be_freed.get(dead) == Some(&true)
        }
        // The other one may go, or have been a slip of the dump.
        Reason::Ambiguous
        | Reason::PolicyWaits { .. }
        | Reason::MayBeArriving { .. }
        | Reason::PortUnsettled { .. } => true,
        // A look at everything shows which VLANs there are.
        Reason::OtherVlan { .. } => !learned.is_complete(),
        // A look at everything shows which registers are output to.
        Reason::LoadsLivePort { .. } => !learned.is_complete(),
        Reason::RegisterNotProven { why: NotProven::Shared, .. } => !shared,
        // Whoever was given the value since answers for what it condemns, to the end of
        // their own life.
        Reason::RegisterNotProven { why: NotProven::LiveHasIt(l), register } => {
            let (Token::Register(RegisterToken { value, .. }), Some(live)) =
                (register, input.facts.live.get(l))
            else {
                return true;
            };
            // Without a network it is a stranger, or a dead one that is not judged now.
            let shown = learned.live_registers.get(l).copied().flatten();
            let has = live.register == LiveRegister::Is(value) || shown == Some(value);
            live.network.is_none() || !has
        }
        Reason::RegisterNotProven { .. } => true,
        _ => false,
    }
}

/// The dead (by index) that wait because of a kept entry. Those that had one register value
/// wait together: the last one left would look like its only owner. `shared`: per network, it
/// is known for good that its register values are shared.
#[must_use]
pub fn wait_together(
    input: &BridgeInput,
    learned: &Learned,
    shared: &[bool],
    verdict: &Verdict,
) -> Vec<usize> {
    let network = verdict.dead.and_then(|dead| input.facts.dead.get(dead)).map(|d| d.network);
    let for_good = network.and_then(|n| shared.get(n)).copied() == Some(true);
    let changes = |dead: &usize| may_change(verdict.reason, *dead, input, learned, for_good);
    let Some(named) = verdict.dead.filter(changes) else {
        return Vec::new();
    };
    let value = |dead: usize| {
        let register = learned.dead_registers.get(dead).copied().flatten()?;
        Some((input.facts.dead.get(dead)?.network, register))
    };
    let by_register = matches!(verdict.reason, Reason::RegisterNotProven { .. });
    let same = |dead: &usize| *dead == named || by_register && value(*dead) == value(named);
    let group: Vec<usize> = (0..input.facts.dead.len()).filter(same).collect();
    let mut died = group.iter().filter_map(|dead| input.facts.dead.get(*dead));
    if died.any(|dead| dead.died < WAIT_FOR_CONTROLLER) { group } else { Vec::new() }
}

pub(super) fn target_of(input: &BridgeInput, verdict: &Verdict) -> Option<usize> {
    verdict.dead.and_then(|dead| input.dead_of.get(dead)).copied()
}

pub(super) fn title(targets: &[CleanTarget], target: Option<usize>) -> Option<String> {
    target.and_then(|t| targets.get(t)).map(|t| t.attachment.title())
}

/// Judges every candidate; the stale ones are doomed.
fn judge<'l>(
    request: &CleanRequest<'_>,
    input: &BridgeInput,
    scan: &'l FlowScan,
    shared: &[bool],
    targets: &[CleanTarget],
    out: &mut BridgeReport,
    report: &mut Report,
) -> Vec<PlannedDelete<'l>> {
    let judge = Judge::new(&input.facts, &scan.learned);
    let mut planned = Vec::new();
    for candidate in &scan.candidates {
        let Some(verdict) = candidate.verdict(&judge) else { continue };
        let target = target_of(input, &verdict);
        let of = target.and_then(|t| report.targets.get_mut(t));
        if matches!(verdict.reason, Reason::Dangling { .. }) {
            out.dangling += 1;
        }
        if verdict.stale {
            if let Some(of) = of {
                of.stale += 1;
            }
        } else if verdict.dead.is_some() || matches!(verdict.reason, Reason::Dangling { .. }) {
            *out.kept.entry(verdict.reason.as_str()).or_default() += 1;
            if let Some(of) = of {
                *of.kept.entry(verdict.reason.as_str()).or_default() += 1;
                of.unsettled |= matches!(verdict.reason, Reason::PortUnsettled { .. });
            }
            let mut waits = Vec::new();
            if candidate.may_be_older(&judge, &verdict) {
                let patient = |d: &usize| {
                    input.facts.dead.get(*d).is_some_and(|dead| dead.died < WAIT_FOR_CONTROLLER)
                };
                waits.extend(verdict.dead.filter(patient));
                // The next answer may come sooner.
                if let Some(of) = target.and_then(|t| report.targets.get_mut(t)) {
                    of.unsettled = true;
                }
            }
            let mut kept = candidate.kept_for(&judge);
            kept.retain(|other| other.dead != verdict.dead);
            kept.push(verdict);
            for verdict in &kept {
                report.owned.extend(owned_by(&verdict.reason));
                waits.extend(wait_together(input, &scan.learned, shared, verdict));
            }
            for target in waits.into_iter().filter_map(|dead| input.dead_of.get(dead)) {
                if let Some(of) = report.targets.get_mut(*target) {
                    of.waiting = true;
                }
            }
        } else {
            continue;
        }
        if request.details {
            report.flows.push(FlowReport {
                bridge: out.bridge.clone(),
                flow: candidate.entry.to_string(),
                stale: verdict.stale,
                rule: verdict.reason.rule(),
                reason: verdict.reason.as_str(),
                text: verdict.reason.to_string(),
                pod: title(targets, target),
            });
        }
        if verdict.stale {
            planned.push(PlannedDelete { candidate, verdict, put_off: false });
        }
    }
    planned
}

/// Deletes in chunks, each after a fresh look at records, OVSDB, the bridge's ports, and what
/// others have put since.
fn delete<'l>(
    mut watch: PreCommitCheck<'_>,
    client: &mut Client,
    scan: &'l FlowScan,
    mut planned: Vec<PlannedDelete<'l>>,
    connection: &mut Connection,
    out: &mut BridgeReport,
    report: &mut Report,
) -> Result<(), Error> {
    let (request, targets, judged) = (watch.request, watch.targets, watch.judged);
    let (bridge, put_back_before, observed_before) =
        (out.bridge.clone(), out.put_back, out.observed);
    let mut guard = ReplaceGuard::over(connection, &bridge, planned.iter().map(|d| d.candidate));
    let mut transaction = JournalTransaction::open(request, &bridge, targets, judged, report);
    let only = planned.len() <= CHUNK;
    let (mut asked, mut left, mut patience) = (Vec::new(), HashSet::new(), LOOKS_BEHIND);
    // The connection that puts back what was hit at once deletes nothing itself beside others.
    let others = if guard.is_some() { LANES } else { LANES - 1 };
    let mut parallel =
        if only { Vec::new() } else { open_parallel(connection, request.deadline, others) };
    let mut chunks = planned.chunks_mut(CHUNK);
    let mut next = chunks.next();
    while let Some(chunk) = next {
        next = chunks.next();
        // Who pauses a large clean-up wants it to stop now.
        if request.is_paused() {
            report.paused = true;
            info!("bridge {bridge}: paused, not deleted: {} entries", chunk.len());
            for planned in chunk {
                planned.put_off = true;
                only_watched(planned, judged, out, report);
            }
            continue;
        }
        watch.scan(client, connection)?;
        // OVSDB and the bridge follow each other within milliseconds. A look at these two costs
        // less than another one at the entries.
        let mut holds = watch.holding(chunk);
        while patience > 0 && holds.contains(&false) {
            patience -= 1;
            std::thread::sleep(FOLLOWING);
            watch.scan(client, connection)?;
            holds = watch.holding(chunk);
        }
        if let Some(guard) = &mut guard {
            guard.listen(connection)?;
        }
        for (planned, holds) in chunk.iter_mut().zip(holds) {
            let newer = guard.as_ref().is_some_and(|w| w.is_newer(planned.candidate));
            if holds && !newer {
                continue;
            }
            info!("kept for now, its evidence changed: {}", planned.candidate.entry);
            put_off(planned, judged, report);
        }
        transaction.commit(chunk);
        let going = || chunk.iter().filter(|d| !d.put_off).map(|d| d.candidate);
        let entries: Vec<&Entry> = going().map(|candidate| &candidate.entry).collect();
        let meanwhile = |transaction: &mut JournalTransaction<'_>| {
            transaction.prepare(next.as_deref().unwrap_or_default());
        };
        let deleted = if let Some(guard) = &mut guard {
            let going: Vec<&Candidate> = going().collect();
            let deleted =
                guard.delete(connection, &mut parallel, &going, || meanwhile(&mut transaction));
            deleted.inspect_err(|_| out.suspicions += guard.lost())?
        } else if only {
            // Asks right behind the delete whether they are gone.
            asked = again(scan, going());
            let places: HashMap<u64, &Candidate> =
                going().map(|candidate| (candidate.fingerprint(), candidate)).collect();
            let since = watch.since.elapsed();
            connection.delete_strict_and_dump(&entries, &asked, &mut |raw| {
                let print = fingerprint(raw.table(), raw.priority(), raw.match_bytes());
                let there = places.get(&print);
                left.extend(
                    there.filter(|c| !c.is_older_than(raw.duration(), since)).map(|_| print),
                );
            })?
        } else {
            delete_strict_parallel(connection, &mut parallel, &entries, || {
                meanwhile(&mut transaction)
            })?
        };
        for (index, name) in &deleted.refused {
            if let Some(entry) = entries.get(*index) {
                warn!("bridge {}: {name}: could not delete {entry}", out.bridge);
            }
        }
        if let Some(guard) = &guard {
            for planned in chunk.iter_mut().filter(|d| !d.put_off) {
                spare(guard, planned, judged, &mut transaction, out, report);
            }
        }
    }
    drop(parallel);
    transaction.finish(report);

    let all = planned.len() as u64;
    planned.retain(|planned| !planned.put_off);
    let observed = out.observed.saturating_sub(observed_before);
    let put_off = all.saturating_sub(planned.len() as u64).saturating_sub(observed);
    out.stale = out.stale.saturating_sub(put_off);
    let put_back = out.put_back.saturating_sub(put_back_before);
    out.put_off += put_off.saturating_sub(put_back);
    let done = planned;
    let stayed = if let Some(guard) = &mut guard {
        stayed_untold(guard, connection, (scan, watch.since), &done, out)?
    } else {
        let mut stayed: HashSet<usize> = if only {
            let is_left =
                |(_, d): &(usize, &PlannedDelete<'_>)| left.contains(&d.candidate.fingerprint());
            done.iter().enumerate().filter(is_left).map(|(index, _)| index).collect()
        } else {
            asked = again(scan, done.iter().map(|d| d.candidate));
            unchanged(still_there(connection, &asked, &done, watch.since)?)
        };
        if !stayed.is_empty() {
            let tried = stayed.iter().filter_map(|index| done.get(*index));
            let tried: Vec<Entry> = tried.map(|d| d.candidate.entry.clone()).collect();
            connection.delete_vlan_tci(&tried)?;
            stayed = unchanged(still_there(connection, &asked, &done, watch.since)?);
        }
        stayed
    };
    let mut counts: BTreeMap<Option<usize>, BTreeMap<&'static str, u64>> = BTreeMap::new();
    for (index, planned) in done.iter().enumerate() {
        let target = target_of(judged, &planned.verdict);
        // Another one is in its place: it is judged again soon.
        if guard.as_ref().is_some_and(|w| w.outcome_of(planned.candidate) == DeleteOutcome::Again)
            && let Some(of) = target.and_then(|t| report.targets.get_mut(t))
        {
            of.waiting = true;
        }
        if stayed.contains(&index) {
            out.stayed += 1;
            warn!(
                "bridge {}: still there after its deletion: {}",
                out.bridge, planned.candidate.entry
            );
            if let Some(target) = target {
                report.fail(target, "entries are still there after their deletion");
            }
            continue;
        }
        out.deleted += 1;
        let reason = planned.verdict.reason.as_str();
        *out.deleted_by.entry(reason).or_default() += 1;
        *counts.entry(target).or_default().entry(reason).or_default() += 1;
    }
    for (target, by) in counts {
        let count: u64 = by.values().sum();
        let why: Vec<String> = by.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
        let (bridge, why) = (&out.bridge, why.join(", "));
        let of = target.and_then(|t| report.targets.get_mut(t).zip(targets.get(t)));
        match of {
            Some((of, target)) => {
                of.deleted += count;
                info!(
                    "bridge {bridge}: deleted {count} entries of {} (container {}, port {}): {why}",
                    target.attachment.title(),
                    target.attachment.key.container,
                    target.attachment.port.as_deref().unwrap_or("unknown"),
                );
            }
            None => info!("bridge {bridge}: deleted {count} entries of nobody's port: {why}"),
        }
    }
    watch.suspect(client, &done, out);
    Ok(())
}

/// It is not deleted: the next look, soon, judges it again.
fn put_off(planned: &mut PlannedDelete<'_>, judged: &BridgeInput, report: &mut Report) {
    planned.put_off = true;
    let target = target_of(judged, &planned.verdict);
    if let Some(of) = target.and_then(|t| report.targets.get_mut(t)) {
        of.waiting = true;
        of.unsettled = true;
        of.stale = of.stale.saturating_sub(1);
    }
}

/// What somebody put anew while it was to be deleted does not count as deleted.
fn spare<'a, 'l: 'a>(
    guard: &ReplaceGuard<'l>,
    planned: &mut PlannedDelete<'l>,
    judged: &BridgeInput,
    transaction: &mut JournalTransaction<'a>,
    out: &mut BridgeReport,
    report: &mut Report,
) {
    let entry = &planned.candidate.entry;
    match guard.outcome_of(planned.candidate) {
        DeleteOutcome::Unknown | DeleteOutcome::Gone => {}
        DeleteOutcome::Again => {
            let target = target_of(judged, &planned.verdict);
            if let Some(of) = target.and_then(|t| report.targets.get_mut(t)) {
                of.waiting = true;
            }
        }
        DeleteOutcome::Newer => {
            info!("kept for now, it was put anew: {entry}");
            transaction.put_back(entry);
            put_off(planned, judged, report);
        }
        DeleteOutcome::PutBack => {
            out.put_back += 1;
            transaction.put_back(entry);
            put_off(planned, judged, report);
        }
        DeleteOutcome::Lost => {
            out.suspicions += 1;
            error!(
                "bridge {}: put anew while it was being deleted, and not put back, check that \
                 pod: {entry}",
                out.bridge
            );
        }
    }
}

/// Which of the deleted entries (by index) are still there. The switch has told of those that
/// are gone; the others are looked for. `scan`: with when the world was read.
fn stayed_untold<'l>(
    guard: &mut ReplaceGuard<'l>,
    connection: &mut Connection,
    (scan, since): (&'l FlowScan, Instant),
    done: &[PlannedDelete<'l>],
    out: &mut BridgeReport,
) -> Result<HashSet<usize>, Error> {
    let unknown = |guard: &ReplaceGuard<'_>, index: &usize| {
        done.get(*index).is_some_and(|d| guard.outcome_of(d.candidate) == DeleteOutcome::Unknown)
    };
    if !(0..done.len()).any(|index| unknown(guard, &index)) {
        return Ok(HashSet::new());
    }
    // What was put in a pause is told at its end.
    guard.listen(connection)?;
    let untold: Vec<usize> = (0..done.len()).filter(|index| unknown(guard, index)).collect();
    let candidates = |some: &mut dyn Iterator<Item = usize>| -> Vec<&'l Candidate> {
        some.filter_map(|index| done.get(index)).map(|d| d.candidate).collect()
    };
    let asked = again(scan, candidates(&mut untold.iter().copied()).into_iter());
    let there = still_there(connection, &asked, done, since)?;
    guard.listen(connection)?;
    let mut stayed = HashSet::new();
    for (index, younger) in &there {
        let Some(planned) = done.get(*index) else { continue };
        if unknown(guard, index) && guard.is_still(planned.candidate, *younger) {
            stayed.insert(*index);
        }
    }
    if !stayed.is_empty() && !guard.was_deaf {
        guard.delete_vlan_tci(connection, &candidates(&mut stayed.iter().copied()))?;
        let there = unchanged(still_there(connection, &asked, done, since)?);
        stayed.retain(|index| there.contains(index));
    }
    if guard.was_deaf {
        let gone = |index: &&usize| !there.contains_key(index) && unknown(guard, index);
        for planned in untold.iter().filter(gone).filter_map(|index| done.get(*index)) {
            out.suspicions += 1;
            error!(
                "bridge {}: deleted while the switch did not tell who else put it, check that \
                 pod: {}",
                out.bridge, planned.candidate.entry
            );
        }
    }
    Ok(stayed)
}

/// In which places of the deleted entries (by index) a fresh look finds one, and whether that is
/// younger than the one that was to go. Who puts an entry anew right behind its deletion has not
/// kept us from deleting it.
fn still_there(
    connection: &mut Connection,
    asked: &[Filter],
    done: &[PlannedDelete<'_>],
    since: Instant,
) -> Result<HashMap<usize, bool>, Error> {
    let places: HashMap<u64, usize> =
        done.iter().enumerate().map(|(n, d)| (d.candidate.fingerprint(), n)).collect();
    let (mut there, began) = (HashMap::new(), since.elapsed());
    connection.dump_raw(asked, &mut |raw| {
        let print = fingerprint(raw.table(), raw.priority(), raw.match_bytes());
        let Some((index, planned)) = places.get(&print).and_then(|n| Some((*n, done.get(*n)?)))
        else {
            return;
        };
        there.insert(index, planned.candidate.is_older_than(raw.duration(), began));
    })?;
    Ok(there)
}

/// The places in which there is the entry that was to go.
fn unchanged(there: HashMap<usize, bool>) -> HashSet<usize> {
    there.into_iter().filter(|(_, younger)| !younger).map(|(index, _)| index).collect()
}

/// So many more connections to the same bridge, to delete over. Nothing is lost if there are
/// none.
fn open_parallel(connection: &Connection, deadline: Deadline, count: usize) -> Vec<Connection> {
    let begun: Vec<_> =
        (0..count).map_while(|_| Connection::begin(connection.path(), deadline).ok()).collect();
    let open = begun.into_iter().filter_map(|opening| opening.finish().ok());
    open.filter(|lane| lane.version() == connection.version()).collect()
}

/// Removes orphans' OVSDB ports whose netdev is gone, where the network wants it.
pub(super) fn reap_ports(
    request: &CleanRequest<'_>,
    node: &NodeSnapshot,
    client: &mut Client,
    targets: &[CleanTarget],
    report: &mut Report,
) {
    for (index, target) in targets.iter().enumerate() {
        let record = &target.attachment;
        let config = node.config(&record.key.network);
        // DEL leaves the port to the OVS plugin, whose DEL comes right behind.
        let wanted =
            config.reap_ports && config.mode == Mode::Enforce && !request.dry_run && !report.paused;
        let failed = report.targets.get(index).is_none_or(|t| t.error.is_some());
        if !wanted || failed || target.cause == Cause::Del {
            continue;
        }
        // Also one that is found by its name and marks may be somebody's who lives.
        let living = node.records.iter().filter(|r| !r.is_same(record));
        let claimed = living.filter_map(|r| node.place_of(r)).map(|p| p.interface.id).collect();
        let Some(place) = node.own_place_of(record, &claimed) else { continue };
        let Some(bridge) = node.ovs.bridges.get(place.bridge) else { continue };
        let netdev_gone = matches!(place.interface.ofport, Ofport::Failed)
            || place.interface.ifindex.unwrap_or(0) == 0;
        if !netdev_gone || node.ovs.is_ovn(bridge) {
            continue;
        }
        match client.remove_port(bridge.id, place.port) {
            Ok(()) => {
                info!("{}: removed port {} of {}", bridge.name, place.port.name, record.title());
                report.note(format!("removed port {} from {}", place.port.name, bridge.name));
            }
            Err(failed) => report.note(format!("port {} stays: {failed}", place.port.name)),
        }
    }
}

/// How long a bridge may be looked at by a sweep that is nobody's call.
pub const SWEEP_TIMEOUT: Duration = Duration::from_secs(120);
