//! Plan and execute: the one engine behind ADD's purge, DEL, GC and the sweep.
//!
//! Each builds a [`CleanRequest`]. [`CleanRequest::clean`] reads the node ([`NodeSnapshot`]),
//! scans each bridge ([`scan`]), plans what is to be done ([`plan`], a pure function), carries
//! the plan out ([`execute`]: evidence once more, journal, delete, put back what was not the entry
//! that was scanned, asks whether it is gone) and settles the records ([`settle`]). What came of
//! it is an [`Outcome`]; what of that is printed is a [`Report`]. Who is dead is decided before
//! ([`orphans`], a DEL, a GC list); what dies is decided by [`crate::judge`].

mod ambiguous_entries;
mod ask;
mod clean;
mod connections;
mod contested;
mod database;
mod evidence;
mod execute;
mod guard;
mod input;
mod lease;
mod mass_death;
mod merge;
pub mod orphans;
mod outcome;
mod plan;
mod prefetch;
mod progress;
mod question;
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
pub mod wire;

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use contested::{Contested, MOST_ANSWERS};
pub use database::Database;
pub(crate) use input::lacks_value;
pub use input::{BridgeInput, DeadTarget, RecordId, in_question, register_of};
pub use lease::{Lease, Leases};
pub use mass_death::pulled_brake;
pub use outcome::{
    BridgeOutcome, Counts, Outcome, TargetEntries, TargetId, TargetOutcome, Withheld,
};
pub use plan::wait_together;
pub use progress::Progress;
pub use question::{Question, RUNTIME_ANSWERS, Sandboxes, WireAnswer, WireQuestion, ask};
pub use report::{BridgeReport, FlowReport, Report, TargetReport};
pub use request::{CleanRequest, Thorough};
pub use run::{Free, LivenessPass, NamedDeaths, SweepRun};
pub use scan::{
    Extent, FlowScan, needs_proof, scan_bridge, tokens_of_evidence, tokens_of_the_dead,
    values_to_look_for,
};
pub use snapshot::{BridgeId, Error, NodeSnapshot, network_states, object};
pub(crate) use snapshot::{device_of, is_anothers, marked_as, switch_started};
pub use standing::{AskedPortScan, PortScan, connect_early};
pub use unrecorded::Predecessors;
pub use unrecorded_ports::{UnrecordedPort, unrecorded_ports};

use crate::flowtable::{DumpSource, PortList};
use crate::model::attachment::Attachment;
use crate::openflow::Connection;
use crate::util::clock::{Deadline, Stamp};

/// Why an attachment is dead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

impl CleanTarget {
    /// One whose death was noticed before.
    #[must_use]
    pub fn of_tombstone(tombstone: Attachment, now: Stamp, boot_id: &str) -> Self {
        let attachment = orphans::died(tombstone, now, boot_id);
        Self { attachment, cause: Cause::Tombstone }
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

/// A bridge's flow table as the switch has it, and the bridge's ports.
pub(crate) fn open_table(
    run_dir: &std::path::Path,
    bridge: &str,
    deadline: Deadline,
) -> Result<(DumpSource, PortList), crate::openflow::Error> {
    DumpSource::over(open_bridge(run_dir, bridge, deadline)?)
}

/// A bridge's management socket.
fn socket_of(run_dir: &std::path::Path, bridge: &str) -> Result<PathBuf, crate::openflow::Error> {
    let not_a_bridge = || crate::openflow::Error::NotABridge(bridge.chars().take(80).collect());
    crate::config::bridge_socket(run_dir, bridge).ok_or_else(not_a_bridge)
}

/// How long a tombstone is kept for evidence that may still be proven (a live pod's
/// register value that is not known yet), at most.
pub(crate) const WAIT_FOR_CONTROLLER: Duration = Duration::from_secs(3600);
