//! What was done, for people and machines.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use serde::Serialize;

use super::{Cause, CleanTarget, Error, UnrecordedPort};
use crate::model::attachment::{Key, Register};
use crate::util::clock::Stamp;

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

/// What became of one bridge.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BridgeReport {
    /// Its name.
    pub bridge: String,
    /// Entries seen.
    pub flows: u64,
    /// Entries found stale.
    pub stale: u64,
    /// Entries deleted.
    pub deleted: u64,
    /// The same by reason.
    #[serde(skip)]
    pub deleted_by: BTreeMap<&'static str, u64>,
    /// Entries that were to be deleted and are still there.
    pub stayed: u64,
    /// Stale entries left for the next look: their evidence changed before the commit.
    pub put_off: u64,
    /// Entries that somebody put anew while they were being deleted, and that were put back at
    /// once. They count as not deleted.
    pub put_back: u64,
    /// Stale entries that only pause or observe mode keeps.
    pub observed: u64,
    /// The same by target; `None`: a port that is nobody's.
    #[serde(skip)]
    pub withheld: BTreeMap<Option<usize>, u64>,
    /// Entries that name a port which is nobody's.
    pub dangling: u64,
    /// Everything was seen, not just what has a dead token.
    pub full: bool,
    /// Kept entries that mention a dead pod, by reason.
    pub kept: BTreeMap<&'static str, u64>,
    /// Deleted entries whose token became live in the meantime, or that were put anew and could
    /// not be put back: must stay 0.
    pub suspicions: u64,
    /// Why the bridge could not be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl BridgeReport {
    pub(super) fn new(name: &str) -> Self {
        Self { bridge: name.to_owned(), ..Self::default() }
    }
}

/// What became of one dead attachment.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetReport {
    /// The pod or, without one, the key.
    pub pod: String,
    /// Network.
    pub network: String,
    /// Container id.
    #[serde(rename = "containerID")]
    pub container: String,
    /// Interface.
    pub ifname: String,
    /// Which life of the key.
    #[serde(skip)]
    pub life: (Key, u64),
    /// When its death was noticed.
    #[serde(skip)]
    pub died: Option<Stamp>,
    /// Why it is dead.
    pub cause: Cause,
    /// Entries found stale because of it.
    pub stale: u64,
    /// Entries deleted.
    pub deleted: u64,
    /// Entries that mention it and were kept, by reason.
    pub kept: BTreeMap<&'static str, u64>,
    /// Every bridge that may have its entries was looked at.
    pub complete: bool,
    /// ovn-controller runs a bridge of it: what is left there was not judged.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ovn: bool,
    /// Its bridges are gone, and every entry with them: nothing is left to watch for.
    #[serde(skip)]
    pub bridge_gone: bool,
    /// Some evidence may still be proven: look again.
    pub waiting: bool,
    /// Some evidence is in flux: look again soon.
    #[serde(skip)]
    pub unsettled: bool,
    /// Others of its network have register values, and nobody ever saw its own: entries that only
    /// match on it are not found.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub value_unknown: bool,
    /// Its tombstone ended with this clean-up.
    #[serde(skip)]
    pub ended: bool,
    /// Its register value, if a look at the switch taught it.
    #[serde(skip)]
    pub register: Option<Register>,
    /// Its VLANs, if a look at the switch taught one.
    #[serde(skip)]
    pub vlans: Vec<u16>,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Stale entries of one pod on one bridge that only a pause or observe mode keeps; displayed as a
/// line of the log.
#[derive(Clone, Copy, Debug)]
pub struct Withheld<'r> {
    /// The bridge.
    pub bridge: &'r str,
    /// `paused` or `mode observe`.
    pub why: &'static str,
    /// How many.
    pub count: u64,
    /// Whose; `None`: a port's that is nobody's.
    pub of: Option<&'r TargetReport>,
}

impl fmt::Display for Withheld<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bridge, why, count, of } = self;
        write!(f, "bridge {bridge}: {why}, not deleted: {count} stale entries of ")?;
        match of {
            Some(of) => write!(f, "{} (container {})", of.pod, of.container),
            None => f.write_str("nobody's port"),
        }
    }
}

/// What was done.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Nothing was deleted by intention: dry run, observe mode or pause.
    pub observed: bool,
    /// It was a pause: before the first deletion, or in the middle.
    #[serde(skip)]
    pub paused: bool,
    /// IPs that kept entries show to have another owner: their connections are not the dead's.
    #[serde(skip)]
    pub owned: BTreeSet<IpAddr>,
    /// Why nothing could be looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// What that was about: one of [`object`](super::object).
    #[serde(skip)]
    pub failed_in: Option<&'static str>,
    /// Bridge by bridge.
    pub bridges: Vec<BridgeReport>,
    /// One per target, in order; then who could not be buried.
    pub targets: Vec<TargetReport>,
    /// Stale and (with details) kept entries.
    pub flows: Vec<FlowReport>,
    /// Ports that an OVS CNI has marked and that nobody recorded, if whole bridges were looked at.
    pub unrecorded_ports: Vec<UnrecordedPort>,
    /// What a person should know.
    pub notes: Vec<String>,
    /// The journal's ids, one a bridge, for `undo`.
    pub journals: Vec<String>,
}

impl TargetReport {
    pub(crate) fn new(t: &CleanTarget) -> Self {
        Self {
            pod: t.attachment.title(),
            network: t.attachment.key.network.to_string(),
            container: t.attachment.key.container.to_string(),
            ifname: t.attachment.key.ifname.to_string(),
            life: (t.attachment.key.clone(), t.attachment.generation),
            died: t.attachment.died,
            cause: t.cause.clone(),
            stale: 0,
            deleted: 0,
            kept: BTreeMap::new(),
            complete: false,
            ovn: false,
            bridge_gone: false,
            waiting: false,
            unsettled: false,
            value_unknown: false,
            ended: false,
            register: None,
            vlans: Vec::new(),
            error: None,
        }
    }
}

impl Report {
    pub(super) fn new(targets: &[CleanTarget]) -> Self {
        Self { targets: targets.iter().map(TargetReport::new).collect(), ..Self::default() }
    }

    /// Forgets what the next look finds again.
    pub(super) fn look_again(&mut self) {
        for target in &mut self.targets {
            target.kept.clear();
            target.waiting = false;
            target.stale = target.deleted;
            target.unsettled = false;
        }
    }

    pub(super) fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    pub(super) fn fail(&mut self, target: usize, text: &str) {
        if let Some(target) = self.targets.get_mut(target) {
            target.error.get_or_insert_with(|| text.to_owned());
        }
    }

    /// One more of the dead.
    pub(super) fn add(&mut self, target: &CleanTarget) {
        self.targets.push(TargetReport::new(target));
    }

    /// One more of the dead, of whom nothing could be deleted.
    pub(super) fn add_failed(&mut self, target: &CleanTarget, error: String) {
        let mut failed = TargetReport::new(target);
        failed.error = Some(error);
        self.targets.push(failed);
    }

    pub(super) fn fail_all(&mut self, error: &Error) {
        let text = error.to_string();
        for target in 0..self.targets.len() {
            self.fail(target, &text);
        }
        self.failed = Some(text);
        self.failed_in = Some(error.object());
    }

    /// Entries deleted on all bridges.
    #[must_use]
    pub fn deleted(&self) -> u64 {
        self.bridges.iter().map(|b| b.deleted).sum()
    }

    /// Entries put back at once on all bridges.
    #[must_use]
    pub fn put_back(&self) -> u64 {
        self.bridges.iter().map(|b| b.put_back).sum()
    }

    /// Stale entries that only pause or observe mode keeps, on all bridges.
    #[must_use]
    pub fn observed(&self) -> u64 {
        self.bridges.iter().map(|b| b.observed).sum()
    }

    /// Pod by pod what only a pause or observe mode keeps.
    pub fn withheld(&self) -> impl Iterator<Item = Withheld<'_>> {
        let why = if self.paused { "paused" } else { "mode observe" };
        self.bridges.iter().flat_map(move |bridge| {
            bridge.withheld.iter().map(move |(target, count)| Withheld {
                bridge: &bridge.bridge,
                why,
                count: *count,
                of: target.and_then(|target| self.targets.get(target)),
            })
        })
    }

    /// Entries found stale on all bridges.
    #[must_use]
    pub fn stale(&self) -> u64 {
        self.bridges.iter().map(|b| b.stale).sum()
    }

    /// The first thing that went wrong.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        let bridges = self.bridges.iter().filter_map(|b| b.error.as_deref());
        let targets = self.targets.iter().filter_map(|t| t.error.as_deref());
        self.failed.as_deref().into_iter().chain(targets).chain(bridges).next()
    }

    /// Whether something needs attention: errors, entries that stayed, suspicions.
    #[must_use]
    pub fn needs_attention(&self) -> bool {
        self.error().is_some() || self.bridges.iter().any(|b| b.stayed > 0 || b.suspicions > 0)
    }
}
