//! What of a clean-up is printed, for people and machines. It is made from the [`Outcome`] at the
//! end, and nothing is decided by it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::outcome::{BridgeOutcome, Counts, Outcome, TargetOutcome};
use super::{Cause, UnrecordedPort};
use crate::judge::Verdict;
use crate::openflow::Entry;

/// One entry in a report.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowReport {
    /// The bridge.
    pub bridge: String,
    /// The entry, as ovs-ofctl would write it.
    pub flow: String,
    /// Whether it is stale.
    pub stale: bool,
    /// The rule that says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<u8>,
    /// The reason, for machines.
    pub reason: &'static str,
    /// The reason, for people.
    pub text: String,
    /// The pod it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
}

impl FlowReport {
    pub(crate) fn new(bridge: &str, entry: &Entry, verdict: &Verdict, pod: Option<String>) -> Self {
        Self {
            bridge: bridge.to_owned(),
            flow: entry.to_string(),
            stale: verdict.stale,
            rule: verdict.reason.rule(),
            reason: verdict.reason.as_str(),
            text: verdict.reason.to_string(),
            pod,
        }
    }
}

/// What became of one bridge.
#[derive(Debug, Serialize)]
pub struct BridgeReport<'o> {
    /// Its name.
    pub bridge: &'o str,
    /// What was counted.
    #[serde(flatten)]
    pub counts: &'o Counts,
    /// Why the bridge could not be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'o str>,
}

impl<'o> BridgeReport<'o> {
    fn of(outcome: &'o BridgeOutcome) -> Self {
        let BridgeOutcome { bridge, counts, error, .. } = outcome;
        Self { bridge, counts, error: error.as_deref() }
    }
}

/// What became of one dead attachment.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetReport<'o> {
    /// The pod or, without one, the key.
    pub pod: &'o str,
    /// Network.
    pub network: &'o str,
    /// Container id.
    #[serde(rename = "containerID")]
    pub container: &'o str,
    /// Interface.
    pub ifname: &'o str,
    /// Why it is dead.
    pub cause: &'o Cause,
    /// Entries found stale because of it.
    pub stale: u64,
    /// Entries deleted.
    pub deleted: u64,
    /// Entries that mention it and were kept, by reason.
    pub kept: &'o BTreeMap<&'static str, u64>,
    /// Every bridge that may have its entries was scanned.
    pub complete: bool,
    /// ovn-controller runs a bridge of it: what is left there was not judged.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ovn: bool,
    /// Some evidence may still be proven.
    pub waiting: bool,
    /// Entries that only match on its register value are not found: nobody ever saw it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub value_unknown: bool,
    /// A pause or observe mode keeps some of its stale entries: which.
    #[serde(skip)]
    pub withheld: Option<&'static str>,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'o str>,
}

impl<'o> TargetReport<'o> {
    fn of(target: &'o TargetOutcome) -> Self {
        let (key, entries) = (&target.life.0, &target.entries);
        Self {
            pod: &target.pod,
            network: key.network.as_str(),
            container: key.container.as_str(),
            ifname: key.ifname.as_str(),
            cause: &target.cause,
            stale: entries.stale,
            deleted: entries.deleted,
            kept: &entries.kept,
            complete: target.complete,
            ovn: target.ovn,
            waiting: entries.waiting,
            value_unknown: target.value_unknown,
            withheld: target.withheld,
            error: target.error.as_deref(),
        }
    }
}

/// What was done.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report<'o> {
    /// Something was not deleted by intention: dry run, observe mode or pause.
    pub observed: bool,
    /// Why nothing could be scanned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<&'o str>,
    /// Bridge by bridge.
    pub bridges: Vec<BridgeReport<'o>>,
    /// One per dead attachment.
    pub targets: Vec<TargetReport<'o>>,
    /// Stale and (with details) kept entries.
    pub flows: &'o [FlowReport],
    /// Ports that an OVS CNI has marked and that nobody recorded.
    pub unrecorded_ports: &'o [UnrecordedPort],
    /// What a person should know.
    pub notes: &'o [String],
    /// The journal's ids, one a bridge, for `undo`.
    pub journals: &'o [String],
}

impl<'o> Report<'o> {
    /// What is printed of an outcome.
    #[must_use]
    pub fn of(outcome: &'o Outcome) -> Self {
        Self {
            observed: outcome.observed,
            failed: outcome.failed.as_deref(),
            bridges: outcome.bridges.iter().map(BridgeReport::of).collect(),
            targets: outcome.targets.iter().map(TargetReport::of).collect(),
            flows: &outcome.flows,
            unrecorded_ports: &outcome.unrecorded_ports,
            notes: &outcome.notes,
            journals: &outcome.journals,
        }
    }

    /// The sum of a count over all bridges.
    #[must_use]
    pub fn sum(&self, count: impl Fn(&Counts) -> u64) -> u64 {
        self.bridges.iter().map(|bridge| count(bridge.counts)).sum()
    }
}
