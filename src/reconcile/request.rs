//! What a clean-up is asked for. ADD's purge, DEL, GC, the one-shot sweep and the daemon build one
//! request each.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use super::{Database, SweepRun};
use crate::config::Config;
use crate::model::attachment::{Key, NetworkName};
use crate::store::Registry;
use crate::util::clock::Deadline;

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
    /// Look at whole bridges, also those where nobody died: finds dangling flows.
    pub(super) thorough: bool,
    /// List every flow in the report, not just counts.
    pub(super) details: bool,
    /// Of the addresses that are [`in_question`](super::in_question), those that nobody in the
    /// cluster has; none: there is nobody to ask, now or later.
    pub(super) free: Option<BTreeSet<IpAddr>>,
    /// A connection to the database that outlives this clean-up; none: there is one for it
    /// alone.
    pub(super) database: Option<&'a Database>,
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
            thorough: false,
            details: false,
            free: None,
            database: None,
        }
    }

    /// How a sweep cleans. `free`: see there.
    pub(super) fn of_sweep(run: &SweepRun<'a>, free: Option<BTreeSet<IpAddr>>) -> Self {
        let (run_dir, deadline) = (run.run_dir.to_owned(), Deadline::after(run.timeout));
        Self {
            dry_run: run.dry_run,
            thorough: run.thorough,
            details: run.details,
            free,
            database: run.database,
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

    /// Whether an operator wants nothing deleted, at this moment.
    pub(super) fn is_paused(&self) -> bool {
        self.registry.is_some_and(Registry::paused)
    }
}
