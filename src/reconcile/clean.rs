//! One clean-up from its beginning to its end, for every [`CleanRequest`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use log::debug;

use super::evidence::NodeEvidence;
use super::execute::{Executed, ScannedBridge, execute};
use super::outcome::{BridgeOutcome, Outcome, TargetId};
use super::plan::{Orders, Plan, PlanInput, PlannedDelete, plan};
use super::remember::{Taught, remember, shared_for_good};
use super::{
    BridgeId, BridgeInput, CleanRequest, CleanTarget, Error, NodeSnapshot, connections,
    lacks_value, merge, prefetch, scan_bridge, settle, unowned_ports, unrecorded, unrecorded_ports,
};
use crate::config::{Mode, database_socket};
use crate::flowtable::{FlowSink, Prefetch};
use crate::ovsdb::{Asked, Client};
use crate::store::RegistrySnapshot;
use crate::util::clock::Stamp;
use crate::util::logging::Often;

/// How long after a scan a bridge is scanned again, until it has settled.
const SETTLING: [Duration; 5] = [
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(20),
    Duration::from_millis(40),
    Duration::from_millis(80),
];

impl CleanRequest<'_> {
    /// Deletes the targets' entries and settles their records.
    #[must_use]
    pub fn clean(&self, targets: Vec<CleanTarget>) -> Outcome {
        let outcome = self.clean_knowing(targets, None);
        outcome.withheld().for_each(|withheld| Often::Withheld.say(&withheld));
        outcome
    }

    /// The same for who has read the records a moment ago: they are not read again if it is
    /// certain that nobody has written since. What was [withheld](Outcome::withheld) is the
    /// caller's to say.
    #[must_use]
    pub fn clean_knowing(
        &self,
        mut targets: Vec<CleanTarget>,
        known: Option<RegistrySnapshot>,
    ) -> Outcome {
        let merged = merge::merge(self, &mut targets);
        let known = known.filter(|_| !merged);
        let mut outcome = Outcome::new(&targets);
        let (mut node, client, mut prefetch) = match self.node(&targets, known) {
            Ok(read) => read,
            Err(error) => {
                outcome.fail_all(&error);
                settle::settle(self, None, &targets, &mut outcome);
                return outcome;
            }
        };
        unrecorded::refresh(self, &mut node, &targets);
        unrecorded::resolve(&node, &mut targets);
        outcome.paused = self.is_paused();
        unrecorded_ports::adopt(self, &mut node, &mut targets, &mut outcome);
        let mut run = CleanUp { request: self, client, targets, outcome, taught: Vec::new() };
        let bridges = run.bridges_to_scan(&node);
        let count = bridges.len();
        for (index, (bridge, here)) in bridges.into_iter().enumerate() {
            if self.is_withdrawn() {
                break;
            }
            if let (Some(progress), Some(bridge)) = (self.progress, node.bridge(bridge)) {
                progress.at(&bridge.name, index, count);
            }
            run.clean_bridge(&node, (bridge, here), prefetch.take());
        }
        let CleanUp { mut client, targets, mut outcome, .. } = run;
        self.note_withdrawn(&targets, &mut outcome);
        connections::flush(self, &node, &mut client, &targets, &mut outcome);
        unowned_ports::reap_of_the_dead(self, &node, &mut client, &targets, &mut outcome);
        unowned_ports::reap(self, &node, &mut client, &mut outcome);
        note_missing_values(&node, &targets, &mut outcome);
        settle::settle(self, Some(&node), &targets, &mut outcome);
        if let Some(contested) = self.contested() {
            contested.note(&outcome);
        }
        if let Some(database) = self.database {
            database.keep(client);
        }
        outcome
    }

    /// What a call does itself is not finished here. The records are the call's to settle, too.
    fn note_withdrawn(&self, targets: &[CleanTarget], outcome: &mut Outcome) {
        for (index, holds) in self.holding(targets).into_iter().flatten().enumerate() {
            if !holds {
                outcome.fail(TargetId(index), &Error::Withdrawn.to_string());
            }
        }
    }

    /// Reads the node, over the connection that is kept if there is one.
    fn node(
        &self,
        targets: &[CleanTarget],
        mut known: Option<RegistrySnapshot>,
    ) -> Result<(NodeSnapshot, Client, Option<Prefetch>), Error> {
        if let Some(kept) = self.database.and_then(|database| database.take(self.deadline)) {
            match self.node_over(kept, targets, &mut known) {
                Ok(read) => return Ok(read),
                // The server may have been restarted.
                Err(failed) => debug!("{failed}; connecting again"),
            }
        }
        let mut client = Client::connect(&database_socket(&self.run_dir), self.deadline)?;
        let asked = client.ask()?;
        self.node_over((client, asked), targets, &mut known)
    }

    /// While others work on their answers we ask the next: the database, the bridge that it
    /// will most likely be about, the records.
    fn node_over(
        &self,
        (mut client, asked): (Client, Asked),
        targets: &[CleanTarget],
        known: &mut Option<RegistrySnapshot>,
    ) -> Result<(NodeSnapshot, Client, Option<Prefetch>), Error> {
        let mut prefetch = prefetch::begin(self, targets);
        let reading = NodeSnapshot::begin(self.registry, known.take(), asked, Stamp::now());
        prefetch = prefetch.and_then(Prefetch::go_on);
        let answered = reading.answered(&mut client)?;
        // While the switch looks for the entries that the record speaks of, the answer is
        // read.
        prefetch = prefetch.and_then(|it| prefetch::guess(it, self, &answered, targets));
        let node = self.with_overlay(answered.finish(&self.run_dir, &mut client)?);
        Ok((node, client, prefetch))
    }

    /// The node once more, as of `now`.
    pub(super) fn node_again(
        &self,
        client: &mut Client,
        now: Stamp,
    ) -> Result<NodeSnapshot, Error> {
        NodeSnapshot::read(self.registry, &self.run_dir, client, now)
            .map(|node| self.with_overlay(node))
    }

    pub(super) fn with_overlay(&self, mut node: NodeSnapshot) -> NodeSnapshot {
        if let Some((network, config)) = &self.overlay {
            node.networks.entry(network.clone()).or_default().config = config.clone();
        }
        node.free.clone_from(&self.free);
        node
    }
}

/// A clean-up that is under way.
struct CleanUp<'a> {
    request: &'a CleanRequest<'a>,
    client: Client,
    targets: Vec<CleanTarget>,
    outcome: Outcome,
    /// What the scans of a bridge taught of the dead.
    taught: Vec<Taught>,
}

impl CleanUp<'_> {
    /// Bridges that some target may have entries on, with these targets; all that matter when
    /// thorough. A target whose bridge is gone from a complete answer is finished.
    fn bridges_to_scan(&mut self, node: &NodeSnapshot) -> BTreeMap<BridgeId, Vec<TargetId>> {
        let mut bridges: BTreeMap<BridgeId, Vec<TargetId>> = BTreeMap::new();
        for (id, target) in TargetId::each(&self.targets) {
            let of = node.bridges_of(&target.attachment);
            if of.is_empty() {
                let title = target.attachment.title();
                self.outcome.note(format!("{title}: its bridge is gone, and its entries with it"));
                if let Some(target) = self.outcome.target(id) {
                    (target.complete, target.bridge_gone) = (true, true);
                }
            }
            of.into_iter().for_each(|bridge| bridges.entry(bridge).or_default().push(id));
        }
        let shown: BTreeSet<BridgeId> = node
            .bridge_ids()
            .filter(|id| {
                let name = node.bridge(*id).map(|bridge| bridge.name.as_str());
                name.is_some_and(|name| self.request.least(name).shows_dangling())
            })
            .collect();
        if !shown.is_empty() {
            let recorded = node.records.iter().flat_map(|record| node.bridges_of(record));
            for bridge in recorded.filter(|bridge| shown.contains(bridge)) {
                bridges.entry(bridge).or_default();
            }
        }
        if self.request.learning {
            let lacking = node.records.iter().filter(|record| {
                lacks_value(node.network(&record.key.network), record, &node.records)
            });
            for bridge in lacking.flat_map(|record| node.bridges_of(record)) {
                bridges.entry(bridge).or_default();
            }
        }
        bridges
    }

    /// One bridge. Evidence that is in flux (a port that waits for its number, an answer that
    /// came too late to tell an entry's age) settles within milliseconds: a call that somebody
    /// waits for scans again before it leaves that to a sweep.
    fn clean_bridge(
        &mut self,
        node: &NodeSnapshot,
        (bridge, here): (BridgeId, Vec<TargetId>),
        prefetch: Option<Prefetch>,
    ) {
        let Some(name) = node.bridge(bridge).map(|b| b.name.clone()) else { return };
        let mut on = BridgeOutcome::new(&name);
        on.targets.extend(here.into_iter().map(|id| (id, Default::default())));
        let mut done = self.pass(node, bridge, prefetch, &mut on);
        for pause in SETTLING {
            let ends = self.request.dry_run || self.outcome.paused || !on.is_unsettled();
            if done.is_err() || ends {
                break;
            }
            std::thread::sleep(pause);
            self.outcome.waited += pause;
            let Ok(fresh) = self.request.node_again(&mut self.client, Stamp::now()) else { break };
            // A bridge that came or went has other indexes.
            if fresh.bridge(bridge).map(|b| &b.name) != Some(&name) {
                break;
            }
            self.heed();
            on.scan_again();
            done = self.pass(&fresh, bridge, None, &mut on);
        }
        self.heed();
        on.error = done.err().map(|error| error.to_string());
        self.outcome.add_bridge(on);
    }

    /// What a scan taught of the dead counts for the next one: what showed it may be deleted.
    fn heed(&mut self) {
        for Taught { target, register, vlans } in self.taught.drain(..) {
            let Some(target) = self.targets.get_mut(target.0) else { continue };
            let record = &mut target.attachment;
            record.register = register.or(record.register);
            record.see_vlans(&vlans);
        }
    }

    /// Reads the bridge, plans, and carries the plan out.
    fn pass(
        &mut self,
        node: &NodeSnapshot,
        bridge: BridgeId,
        prefetch: Option<Prefetch>,
        on: &mut BridgeOutcome,
    ) -> Result<(), Error> {
        let Self { request, client, targets, outcome, taught } = self;
        let name = on.bridge.clone();
        let (mut read, mut table) = scan(request, node, (bridge, &name), targets, prefetch)?;
        if let Some(contested) = request.contested() {
            contested.mark(&name, targets, &read.input, &mut read.scan);
        }
        let shared = shared_for_good(node, &read.input, &read.scan.learned);
        if !request.dry_run {
            // What was learned is in the scan already: it changes nothing for its verdicts.
            let (version, dead) = remember(request, node, targets, &read.input, &read.scan);
            read.version = version;
            taught.extend(dead);
        }
        let ScannedBridge { input, scan, .. } = &read;
        (on.counts.flows, on.counts.full) = (scan.flows, scan.extent.shows_dangling());
        if input.facts.ovn {
            outcome.note(format!("bridge {name}: ovn-controller runs it: OVN's, not judged"));
        }
        for target in on.targets.keys() {
            if let Some(target) = outcome.target(*target) {
                target.complete = true;
                target.ovn |= input.facts.ovn;
            }
        }
        let orders = Orders {
            dry_run: request.dry_run,
            paused: outcome.paused,
            observe: input.networks.map(|_, name| node.config(name).mode == Mode::Observe),
            details: request.details,
        };
        let plan =
            plan(&PlanInput { bridge: &name, targets, input, scan, shared: &shared, orders });
        on.planned(&plan);
        log_withheld(&name, &plan);
        outcome.observed |= !plan.withhold.is_empty();
        outcome.owned.extend(plan.owned);
        outcome.flows.extend(plan.details);
        if plan.delete.is_empty() {
            return Ok(());
        }
        let mut done = Executed::default();
        let mut evidence = NodeEvidence::new(request, client);
        let executed = execute(&read, &plan.delete, &mut evidence, &mut *table, &mut done);
        on.executed(&plan.delete, &done);
        if let Some(contested) = request.contested() {
            contested.count(&name, targets, &plan.delete, &done.outcomes);
        }
        outcome.executed(done);
        executed
    }
}

/// Reads a bridge.
fn scan<'a>(
    request: &'a CleanRequest<'a>,
    node: &'a NodeSnapshot,
    bridge: (BridgeId, &'a str),
    targets: &'a [CleanTarget],
    prefetch: Option<Prefetch>,
) -> Result<(ScannedBridge<'a>, Box<dyn FlowSink>), Error> {
    let version = node.version;
    let build = || BridgeInput::build(node, bridge.0, targets, request.adding.as_ref());
    // While the switch answers what it was asked ahead.
    let mut input = build();
    let (mut table, mut ports) = prefetch::or_open(prefetch, request, bridge.1)?;
    loop {
        let ports = match ports.take() {
            Some(ports) => ports,
            None => table.ports_of_scan()?,
        };
        input.check_ports(node, bridge.0, &ports);
        let scan = scan_bridge(&mut *table, &input, request.least(bridge.1))?;
        if table.is_confirmed() {
            if !scan.candidates.is_empty() {
                // The switch answers while the plan is made.
                table.prepare();
            }
            let read =
                ScannedBridge { request, targets, node, bridge, version, ports, input, scan };
            return Ok((read, table));
        }
        input = build();
    }
}

/// Logs each entry that the plan withholds. How many there are of each pod is said when that
/// changes: a sweep finds them each time.
fn log_withheld(bridge: &str, plan: &Plan) {
    for (PlannedDelete { candidate, verdict, .. }, why) in plan.withheld() {
        let (entry, reason) = (&candidate.entry, verdict.reason);
        debug!("bridge {bridge}: {why}, not deleted: {entry} ({reason})");
    }
}

/// Says of whom nobody ever saw the register value.
fn note_missing_values(node: &NodeSnapshot, targets: &[CleanTarget], outcome: &mut Outcome) {
    for (target, outcome) in targets.iter().zip(&mut outcome.targets) {
        let record = &target.attachment;
        let others = node.records.iter().chain(&node.tombstones);
        outcome.value_unknown = !outcome.bridge_gone
            && !outcome.ovn
            && lacks_value(node.network(&record.key.network), record, others);
    }
}
