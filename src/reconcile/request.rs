//! What a clean-up is asked for. ADD's purge, DEL, GC, the one-shot sweep and the daemon build one
//! request each.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use super::{CleanTarget, Contested, Database, Extent, Leases, Progress, SweepRun};
use crate::config::Config;
use crate::flowtable::{BridgeTables, DumpSource, FlowSink};
use crate::model::attachment::{Key, NetworkName};
use crate::store::Registry;
use crate::util::clock::Deadline;

/// Which bridges are scanned as a whole, also if nobody died there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Thorough {
    /// None.
    #[default]
    None,
    /// Those that are followed: the switch is not asked for it.
    Followed,
    /// All that pods are recorded on. One that is not followed is dumped.
    All,
}

/// How to clean.
#[derive(Debug)]
pub struct CleanRequest<'a> {
    /// Where the records are; none when the state directory is out of order.
    pub(super) registry: Option<&'a Registry>,
    /// Where OVS's sockets are.
    pub(super) run_dir: PathBuf,
    /// For everything done on the switch.
    pub(super) deadline: Deadline,
    /// Nothing is changed anywhere.
    pub(super) dry_run: bool,
    /// `ADD`, `DEL`, `GC` or `sweep`: for the journal.
    pub(super) verb: &'static str,
    /// The attachment that is being ADDed.
    pub(super) adding: Option<Key>,
    /// A network's configuration as the caller has it; wins over the recorded one.
    pub(super) overlay: Option<(NetworkName, Config)>,
    /// Which bridges are scanned as a whole, also if nobody died: finds dangling flows.
    pub(super) thorough: Thorough,
    /// Scan bridges with a living pod whose register value is not known, too.
    pub(super) learning: bool,
    /// List every flow in the report, not just counts.
    pub(super) details: bool,
    /// Of the addresses that are [`in_question`](super::in_question), those that nobody in the
    /// cluster has; none: there is nobody to ask, now or later.
    pub(super) free: Option<BTreeSet<IpAddr>>,
    /// A connection to the database that outlives this clean-up; none: there is one for it
    /// alone.
    pub(super) database: Option<&'a Database>,
    /// Copies of bridges that follow them; none: the switch is asked each time.
    pub(super) replicas: Option<&'a dyn BridgeTables>,
    /// Who remembers what is put back again and again; none: nobody does.
    pub(super) contested: Option<&'a Contested>,
    /// Who is told how far it is; none: nobody waits for it.
    pub(super) progress: Option<&'a Progress>,
    /// The permissions of the calls that wait for this clean-up in other processes; none: it is this
    /// process's own.
    pub(super) leases: Option<&'a Leases<'a>>,
}

impl<'a> CleanRequest<'a> {
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
            dry_run: false,
            verb,
            adding: None,
            overlay: None,
            thorough: Thorough::None,
            learning: false,
            details: false,
            free: None,
            database: None,
            replicas: None,
            contested: None,
            progress: None,
            leases: None,
        }
    }

    /// How a sweep cleans. `free`: see there.
    pub(super) fn of_sweep(run: &SweepRun<'a>, free: Option<BTreeSet<IpAddr>>) -> Self {
        let (run_dir, deadline) = (run.run_dir.to_owned(), Deadline::after(run.timeout));
        Self {
            dry_run: run.dry_run,
            thorough: run.thorough,
            learning: run.learning,
            details: run.details,
            free,
            database: run.database,
            replicas: run.replicas,
            contested: run.contested,
            progress: run.progress,
            ..Self::of_call(run.registry, run_dir, deadline, "sweep")
        }
    }

    /// The same while this attachment is being ADDed.
    #[must_use]
    pub fn adding(self, key: Key) -> Self {
        Self { adding: Some(key), ..self }
    }

    /// The same with a network's configuration as the caller has it.
    #[must_use]
    pub fn overlaid(self, overlay: Option<(NetworkName, Config)>) -> Self {
        Self { overlay, ..self }
    }

    /// The same for calls that wait in other processes, over a connection that is kept.
    #[must_use]
    pub fn leased(self, leases: &'a Leases<'a>, database: &'a Database) -> Self {
        Self { leases: Some(leases), database: Some(database), ..self }
    }

    /// The same for a process that follows the bridges.
    #[must_use]
    pub fn following(self, replicas: &'a dyn BridgeTables) -> Self {
        Self { replicas: Some(replicas), ..self }
    }

    /// A bridge's table, read from its copy if it is followed.
    pub(super) fn table(&self, bridge: &str, switch: DumpSource) -> Box<dyn FlowSink> {
        match self.replicas {
            Some(replicas) => replicas.source(bridge, switch),
            None => Box::new(switch),
        }
    }

    /// Who remembers what is put back: only the daemon does, and the plugin does not carry it.
    pub(super) fn contested(&self) -> Option<&'a Contested> {
        self.contested.filter(|_| cfg!(feature = "daemon"))
    }

    /// How much of a bridge is to be seen at least.
    pub(super) fn least(&self, bridge: &str) -> Extent {
        let thorough = self.thorough != Thorough::None;
        if thorough && self.replicas.is_some_and(|replicas| replicas.is_followed(bridge)) {
            Extent::Dangling
        } else if self.thorough == Thorough::All {
            Extent::Everything
        } else if self.learning {
            Extent::Evidence
        } else {
            Extent::Tokens
        }
    }

    /// No call waits any longer: each does its work itself.
    pub(super) fn is_withdrawn(&self) -> bool {
        self.leases.is_some_and(|leases| !leases.any_holds())
    }

    /// Of each target whether the clean-up is still wanted; `None`: of all.
    pub(super) fn holding(&self, targets: &[CleanTarget]) -> Option<Vec<bool>> {
        let keys = targets.iter().map(|target| &target.attachment.key);
        self.leases.map(|leases| leases.holding(keys))
    }

    /// Whether an operator wants nothing deleted, at this moment.
    pub(super) fn is_paused(&self) -> bool {
        self.registry.is_some_and(Registry::paused)
    }
}
