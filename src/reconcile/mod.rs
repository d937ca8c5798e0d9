//! Plan and apply: the one engine behind ADD's purge, DEL, GC and the sweep.
//!
//! read the world → look at each bridge (dump, learn) → verdicts → read the world again →
//! journal → delete → put back what was not the one that was looked at ([`guard`]) → look
//! again → settle the records. Who is dead is decided before
//! ([`orphans`], a DEL, a GC list); what dies is decided by [`crate::judge`].

mod ambiguous_entries;
mod apply;
mod connections;
mod database;
mod guard;
mod input;
mod mass_death;
mod merge;
pub mod orphans;
mod prefetch;
mod remember;
mod report;
mod request;
mod run;
mod scan;
mod settle;
mod snapshot;
mod standing;
mod transaction;
mod unowned_ports;
mod unrecorded;
mod unrecorded_ports;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use log::{debug, info};
use serde::Serialize;

pub use apply::{SWEEP_TIMEOUT, wait_together};
pub use database::Database;
pub(crate) use input::lacks_value;
pub use input::{BridgeInput, in_question, register_of};
pub use mass_death::pulled_brake;
use prefetch::Prefetch;
pub use report::{BridgeReport, FlowReport, Report, TargetReport, Withheld};
pub use request::CleanRequest;
pub use run::{Free, LivenessPass, SweepRun};
pub use scan::{FlowScan, scan_bridge};
pub use snapshot::{Error, NodeSnapshot, network_states, object};
pub(crate) use snapshot::{device_of, is_anothers, marked_as};
pub use standing::{AskedPortScan, PortScan, connect_early};
pub use unrecorded::Heritage;
pub use unrecorded_ports::{UnrecordedPort, unrecorded_ports};

use crate::config::database_socket;
use crate::model::attachment::Attachment;
use crate::openflow::Connection;
use crate::ovsdb::Client;
use crate::store::RegistrySnapshot;
use crate::util::clock::{Deadline, Stamp};

/// Why an attachment is dead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Cause {
    /// CNI DEL says so.
    Del,
    /// It is not in CNI GC's list.
    Gc,
    /// Liveness says so; the sentence.
    Orphan(String),
    /// An earlier DEL, GC or sweep did not finish, or its linger time runs.
    Tombstone,
}

/// A dead attachment whose entries are to go.
#[derive(Clone, Debug)]
pub struct CleanTarget {
    /// Its record, with `died` set.
    pub attachment: Attachment,
    /// Why it is dead.
    pub cause: Cause,
}

impl CleanRequest<'_> {
    /// Deletes the targets' entries and settles their records.
    #[must_use]
    pub fn clean(&self, targets: Vec<CleanTarget>) -> Report {
        let report = self.clean_knowing(targets, None);
        report.withheld().for_each(|withheld| info!("{withheld}"));
        report
    }

    /// The same for who has read the records a moment ago: they are not read again if it is
    /// certain that nobody has written since. What was [withheld](Report::withheld) is the
    /// caller's to say.
    #[must_use]
    pub fn clean_knowing(
        &self,
        mut targets: Vec<CleanTarget>,
        known: Option<RegistrySnapshot>,
    ) -> Report {
        let merged = merge::merge(self, &mut targets);
        let known = known.filter(|_| !merged);
        let mut report = Report::new(&targets);
        let (mut node, mut client, mut prefetch) = match self.node(&targets, known) {
            Ok(read) => read,
            Err(error) => {
                report.fail_all(&error);
                settle::settle(self, None, &targets, &mut report);
                return report;
            }
        };
        unrecorded::refresh(self, &mut node, &targets);
        unrecorded::resolve(&node, &mut targets);
        report.paused = self.is_paused();
        unrecorded_ports::adopt(self, &mut node, &mut targets, &mut report);
        for bridge in self.bridges_to_look_at(&node, &targets, &mut report) {
            let prefetch = prefetch.take();
            self.clean_bridge(&node, &mut client, prefetch, bridge, &mut targets, &mut report);
        }
        connections::flush(self, &node, &mut client, &targets, &mut report);
        apply::reap_ports(self, &node, &mut client, &targets, &mut report);
        unowned_ports::reap(self, &node, &mut client, &mut report);
        note_missing_values(&node, &targets, &mut report);
        settle::settle(self, Some(&node), &targets, &mut report);
        if let Some(database) = self.database {
            database.keep(client);
        }
        report
    }

    /// One bridge. Evidence that is in flux (a port that waits for its number, an answer that
    /// came too late to tell an entry's age) settles within milliseconds: a call that somebody
    /// waits for looks again before it leaves that to a sweep.
    fn clean_bridge(
        &self,
        node: &NodeSnapshot,
        client: &mut Client,
        prefetch: Option<Prefetch>,
        bridge: usize,
        targets: &mut [CleanTarget],
        report: &mut Report,
    ) {
        let Some(name) = node.ovs.bridges.get(bridge).map(|b| b.name.clone()) else { return };
        let mut pass = BridgeReport::new(&name);
        let mut done =
            apply::pass(self, node, client, prefetch, bridge, targets, &mut pass, report);
        for pause in SETTLING {
            let unsettled = report.targets.iter().any(|t| t.unsettled);
            if done.is_err() || !unsettled || self.dry_run || report.paused {
                break;
            }
            std::thread::sleep(pause);
            let Ok(fresh) = self.world_again(client, Stamp::now()) else { break };
            // A bridge that came or went has other indexes.
            if fresh.ovs.bridges.get(bridge).map(|b| &b.name) != Some(&name) {
                break;
            }
            learned(targets, report);
            report.look_again();
            pass.kept.clear();
            pass.withheld.clear();
            (pass.stale, pass.observed) = (pass.deleted, 0);
            done = apply::pass(self, &fresh, client, None, bridge, targets, &mut pass, report);
        }
        if let Err(error) = done {
            let input = BridgeInput::build(node, bridge, targets, None);
            pass.error = Some(error.to_string());
            for target in &input.dead_of {
                report.fail(*target, &format!("bridge {name}: {error}"));
            }
        }
        learned(targets, report);
        report.bridges.push(pass);
    }

    /// Reads the world, over the connection that is kept if there is one.
    fn node(
        &self,
        targets: &[CleanTarget],
        mut known: Option<RegistrySnapshot>,
    ) -> Result<(NodeSnapshot, Client, Option<Prefetch>), Error> {
        if let Some(client) = self.database.and_then(|database| database.take(self.deadline)) {
            match self.world_over(client, targets, &mut known) {
                Ok(read) => return Ok(read),
                // The server may have been restarted.
                Err(failed) => debug!("{failed}; connecting again"),
            }
        }
        let client = Client::connect(&database_socket(&self.run_dir), self.deadline)?;
        self.world_over(client, targets, &mut known)
    }

    /// While others work on their answers we ask the next: the database, the bridge that it
    /// will most likely be about, the records.
    fn world_over(
        &self,
        mut client: Client,
        targets: &[CleanTarget],
        known: &mut Option<RegistrySnapshot>,
    ) -> Result<(NodeSnapshot, Client, Option<Prefetch>), Error> {
        let asked = client.ask()?;
        let mut prefetch = Prefetch::begin(self, targets);
        let reading = NodeSnapshot::begin(self.registry, known.take(), asked, Stamp::now());
        prefetch = prefetch.and_then(Prefetch::go_on);
        let answered = reading.answered(&mut client)?;
        // While the switch looks for the entries that the record speaks of, the answer is
        // read.
        prefetch = prefetch.and_then(|prefetch| prefetch.guess(self, &answered, targets));
        let node = self.with_overlay(answered.finish(&self.run_dir, &mut client)?);
        Ok((node, client, prefetch))
    }

    /// The world once more; ages stay relative to `now`.
    fn world_again(&self, client: &mut Client, now: Stamp) -> Result<NodeSnapshot, Error> {
        NodeSnapshot::read(self.registry, &self.run_dir, client, now)
            .map(|node| self.with_overlay(node))
    }

    fn with_overlay(&self, mut node: NodeSnapshot) -> NodeSnapshot {
        if let Some((network, config)) = &self.overlay {
            node.networks.entry(network.clone()).or_default().config = config.clone();
        }
        node.free.clone_from(&self.free);
        node
    }

    /// Bridges that some target may have entries on; all that matter when thorough. A
    /// target whose bridge is gone from a complete answer is finished.
    fn bridges_to_look_at(
        &self,
        node: &NodeSnapshot,
        targets: &[CleanTarget],
        report: &mut Report,
    ) -> Vec<usize> {
        let mut bridges = BTreeSet::new();
        for (index, target) in targets.iter().enumerate() {
            let of = node.bridges_of(&target.attachment);
            if of.is_empty() {
                report.note(format!(
                    "{}: its bridge is gone, and its entries with it",
                    target.attachment.title()
                ));
                if let Some(target) = report.targets.get_mut(index) {
                    target.complete = true;
                    target.bridge_gone = true;
                }
            }
            bridges.extend(of);
        }
        if self.thorough {
            for record in &node.records {
                bridges.extend(node.bridges_of(record));
            }
        }
        bridges.into_iter().collect()
    }
}

/// Says of whom nobody ever saw the register value.
fn note_missing_values(node: &NodeSnapshot, targets: &[CleanTarget], report: &mut Report) {
    for (target, outcome) in targets.iter().zip(&mut report.targets) {
        let record = &target.attachment;
        let others = node.records.iter().chain(&node.tombstones);
        outcome.value_unknown = !outcome.bridge_gone
            && !outcome.ovn
            && lacks_value(node.network(&record.key.network), record, others);
    }
}

/// What a look taught of the dead counts for the next one: what showed it may be deleted.
fn learned(targets: &mut [CleanTarget], report: &Report) {
    for (target, outcome) in targets.iter_mut().zip(&report.targets) {
        let register = &mut target.attachment.register;
        *register = outcome.register.or(*register);
        target.attachment.see_vlans(&outcome.vlans);
    }
}

/// Opens a bridge's management socket.
pub(crate) fn open_bridge(
    run_dir: &std::path::Path,
    bridge: &str,
    deadline: Deadline,
) -> Result<Connection, crate::openflow::Error> {
    Connection::open(&socket_of(run_dir, bridge)?, deadline)
}

/// A bridge's management socket.
fn socket_of(run_dir: &std::path::Path, bridge: &str) -> Result<PathBuf, crate::openflow::Error> {
    let not_a_bridge = || crate::openflow::Error::NotABridge(bridge.chars().take(80).collect());
    crate::config::bridge_socket(run_dir, bridge).ok_or_else(not_a_bridge)
}

/// How long after the look before a bridge is looked at again, until it has settled.
const SETTLING: [Duration; 5] = [
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(20),
    Duration::from_millis(40),
    Duration::from_millis(80),
];

/// How long a tombstone is kept for evidence that may still be proven (a live pod's
/// register value that is not known yet), at most.
pub(crate) const WAIT_FOR_CONTROLLER: Duration = Duration::from_secs(3600);
