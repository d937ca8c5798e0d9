//! Plan and apply: the one engine behind ADD's purge, DEL, GC and the sweep.
//!
//! read the world → look at each bridge (dump, learn) → verdicts → read the world again →
//! journal → delete → put back what was not the one that was looked at ([`window`]) → look
//! again → settle the records. Who is dead is decided before
//! ([`orphans`], a DEL, a GC list); what dies is decided by [`crate::stale`].

mod apply;
mod connections;
mod database;
mod early;
mod ledger;
mod look;
mod mass_death;
mod merge;
mod once;
pub mod orphans;
mod remember;
mod report;
mod scene;
mod settle;
mod standing;
mod twins;
mod unowned_ports;
mod unrecorded;
mod unrecorded_ports;
mod window;
mod world;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use log::{debug, info};
use serde::Serialize;

pub use apply::{SWEEP_TIMEOUT, wait_together};
pub use database::Database;
use early::Early;
pub use look::{Look, look_at};
pub use mass_death::pulled_brake;
pub use once::{Free, Once, Roll};
pub use report::{BridgeReport, FlowReport, Report, TargetReport, Withheld};
pub(crate) use scene::lacks_value;
pub use scene::{Scene, in_question, register_of};
pub use standing::{AskedPortScan, PortScan, connect_early};
pub use unrecorded::Heritage;
pub use unrecorded_ports::{UnrecordedPort, unrecorded_ports};
pub use world::{Error, World, network_states, object};
pub(crate) use world::{device_of, is_anothers, marked_as};

use crate::attachment::{Attachment, Key, NetworkName};
use crate::clock::{Deadline, Stamp};
use crate::config::{Config, database_socket};
use crate::openflow::Connection;
use crate::ovsdb::Client;
use crate::registry::{Everything, Registry};

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
pub struct Target {
    /// Its record, with `died` set.
    pub attachment: Attachment,
    /// Why it is dead.
    pub cause: Cause,
}

/// How to clean.
#[derive(Debug)]
pub struct Engine<'a> {
    /// Where the records are; none when the state directory is out of order.
    pub registry: Option<&'a Registry>,
    /// Where OVS's sockets are.
    pub run_dir: PathBuf,
    /// For everything done on the switch.
    pub deadline: Deadline,
    /// False: a dry run, nothing is changed anywhere.
    pub act: bool,
    /// `ADD`, `DEL`, `GC` or `sweep`: for the journal.
    pub verb: &'static str,
    /// The attachment that is being ADDed.
    pub newcomer: Option<Key>,
    /// A network's configuration as the caller has it; wins over the recorded one.
    pub overlay: Option<(NetworkName, Config)>,
    /// Look at whole bridges, also those where nobody died: finds dangling flows.
    pub thorough: bool,
    /// List every flow in the report, not just counts.
    pub details: bool,
    /// Of the addresses that are [`in_question`], those that nobody in the cluster has; none:
    /// there is nobody to ask, now or later.
    pub free: Option<BTreeSet<IpAddr>>,
    /// A connection to the database that outlives this clean-up; none: there is one for it
    /// alone.
    pub database: Option<&'a Database>,
}

impl<'a> Engine<'a> {
    /// How a call cleans that a runtime waits for: the bridges of its own dead, and no more.
    #[must_use]
    pub fn of_call(
        registry: Option<&'a Registry>,
        run_dir: PathBuf,
        deadline: Deadline,
        verb: &'static str,
    ) -> Self {
        Self {
            registry,
            run_dir,
            deadline,
            act: true,
            verb,
            newcomer: None,
            overlay: None,
            thorough: false,
            details: false,
            free: None,
            database: None,
        }
    }
}

impl Engine<'_> {
    /// Deletes the targets' entries and settles their records.
    #[must_use]
    pub fn clean(&self, targets: Vec<Target>) -> Report {
        let report = self.clean_knowing(targets, None);
        report.withheld().for_each(|withheld| info!("{withheld}"));
        report
    }

    /// The same for who has read the records a moment ago: they are not read again if it is
    /// certain that nobody has written since. What was [withheld](Report::withheld) is the
    /// caller's to say.
    #[must_use]
    pub fn clean_knowing(&self, mut targets: Vec<Target>, known: Option<Everything>) -> Report {
        let merged = merge::merge(self, &mut targets);
        let known = known.filter(|_| !merged);
        let mut report = Report::new(&targets);
        let (mut world, mut client, mut early) = match self.world(&targets, known) {
            Ok(read) => read,
            Err(error) => {
                report.fail_all(&error);
                settle::settle(self, None, &targets, &mut report);
                return report;
            }
        };
        unrecorded::refresh(self, &mut world, &targets);
        unrecorded::resolve(&world, &mut targets);
        report.paused = self.is_paused();
        unrecorded_ports::adopt(self, &mut world, &mut targets, &mut report);
        for bridge in self.bridges_to_look_at(&world, &targets, &mut report) {
            let early = early.take();
            self.clean_bridge(&world, &mut client, early, bridge, &mut targets, &mut report);
        }
        connections::flush(self, &world, &mut client, &targets, &mut report);
        apply::reap_ports(self, &world, &mut client, &targets, &mut report);
        unowned_ports::reap(self, &world, &mut client, &mut report);
        note_missing_values(&world, &targets, &mut report);
        settle::settle(self, Some(&world), &targets, &mut report);
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
        world: &World,
        client: &mut Client,
        early: Option<Early>,
        bridge: usize,
        targets: &mut [Target],
        report: &mut Report,
    ) {
        let Some(name) = world.ovs.bridges.get(bridge).map(|b| b.name.clone()) else { return };
        let mut pass = BridgeReport::new(&name);
        let mut done = apply::pass(self, world, client, early, bridge, targets, &mut pass, report);
        for pause in SETTLING {
            let unsettled = report.targets.iter().any(|t| t.unsettled);
            if done.is_err() || !unsettled || !self.act || report.paused {
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
            let scene = Scene::build(world, bridge, targets, None);
            pass.error = Some(error.to_string());
            for target in &scene.dead_of {
                report.fail(*target, &format!("bridge {name}: {error}"));
            }
        }
        learned(targets, report);
        report.bridges.push(pass);
    }

    /// Reads the world, over the connection that is kept if there is one.
    fn world(
        &self,
        targets: &[Target],
        mut known: Option<Everything>,
    ) -> Result<(World, Client, Option<Early>), Error> {
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
        targets: &[Target],
        known: &mut Option<Everything>,
    ) -> Result<(World, Client, Option<Early>), Error> {
        let asked = client.ask()?;
        let mut early = Early::begin(self, targets);
        let reading = World::begin(self.registry, known.take(), asked, Stamp::now());
        early = early.and_then(Early::go_on);
        let answered = reading.answered(&mut client)?;
        // While the switch looks for the entries that the record speaks of, the answer is
        // read.
        early = early.and_then(|early| early.guess(self, &answered, targets));
        let world = self.overlaid(answered.finish(&self.run_dir, &mut client)?);
        Ok((world, client, early))
    }

    /// The world once more; ages stay relative to `now`.
    fn world_again(&self, client: &mut Client, now: Stamp) -> Result<World, Error> {
        World::read(self.registry, &self.run_dir, client, now).map(|world| self.overlaid(world))
    }

    /// Whether an operator wants nothing deleted, at this moment.
    fn is_paused(&self) -> bool {
        self.registry.is_some_and(Registry::paused)
    }

    fn overlaid(&self, mut world: World) -> World {
        if let Some((network, config)) = &self.overlay {
            world.networks.entry(network.clone()).or_default().config = config.clone();
        }
        world.free.clone_from(&self.free);
        world
    }

    /// Bridges that some target may have entries on; all that matter when thorough. A
    /// target whose bridge is gone from a complete answer is finished.
    fn bridges_to_look_at(
        &self,
        world: &World,
        targets: &[Target],
        report: &mut Report,
    ) -> Vec<usize> {
        let mut bridges = BTreeSet::new();
        for (index, target) in targets.iter().enumerate() {
            let of = world.bridges_of(&target.attachment);
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
            for record in &world.records {
                bridges.extend(world.bridges_of(record));
            }
        }
        bridges.into_iter().collect()
    }
}

/// Says of whom nobody ever saw the register value.
fn note_missing_values(world: &World, targets: &[Target], report: &mut Report) {
    for (target, outcome) in targets.iter().zip(&mut report.targets) {
        let record = &target.attachment;
        let others = world.records.iter().chain(&world.tombstones);
        outcome.value_unknown = !outcome.bridge_gone
            && !outcome.ovn
            && lacks_value(world.network(&record.key.network), record, others);
    }
}

/// What a look taught of the dead counts for the next one: what showed it may be deleted.
fn learned(targets: &mut [Target], report: &Report) {
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
pub(crate) const PATIENCE: Duration = Duration::from_secs(3600);
