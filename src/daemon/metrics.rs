//! What is counted. Names and help texts are for people: `docs/` and the alert rules use them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::events::EventResult;
use super::process;
use super::scheduler::Reason;
use crate::flowtable::ReplicaStatus;
use crate::flowtable::replica;
use crate::judge;
use crate::liveness::Source;
use crate::model::attachment::{Attachment, State};
use crate::reconcile::Outcome;
use crate::reconcile::wire::CleanResult;
use crate::store::{Answers, Calls, DeliveryLog, LEFTOVERS, RegistrySnapshot, VERBS};
use crate::util::clock::{BootTime, Stamp};

/// The content type of [`Metrics::encode`].
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The content type of [`plain`].
pub const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

/// One label.
pub type Label = [(&'static str, String); 1];
/// Two labels.
pub type Labels = [(&'static str, String); 2];
/// Three labels.
pub type ThreeLabels = [(&'static str, String); 3];
type Seconds = Gauge<f64, AtomicU64>;

/// The two daemons of OVS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// The database.
    Ovsdb,
    /// The switch.
    Vswitchd,
}

/// Why a stale entry was left.
pub const LEFT: [&str; 5] = ["paused", "observe", "brake", "put-off", "stayed"];
const RESULTS: [CleanResult; 5] = [
    CleanResult::Done,
    CleanResult::Failed,
    CleanResult::Busy,
    CleanResult::Refused,
    CleanResult::Withdrawn,
];

/// Seconds: from a millisecond to half a minute.
const BUCKETS: [f64; 15] =
    [0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Declares the metrics, each with its name, its field and its help text, and registers them in
/// this order.
macro_rules! metrics {
    ($($name:literal $field:ident: $kind:ty $(= $new:expr)?, $help:literal;)*) => {
        /// Everything that is counted.
        #[derive(Debug)]
        pub struct Metrics {
            registry: Registry,
            $(#[doc = concat!($help, ".")] pub $field: $kind,)*
        }

        impl Metrics {
            fn registered() -> Self {
                let mut metrics = Self {
                    registry: Registry::with_prefix("ovs_flow_gc"),
                    $($field: metrics!(@new $kind $(, $new)?),)*
                };
                let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
                metrics.registry.register("build", "The version that runs", version);
                $(metrics.registry.register($name, $help, metrics.$field.clone());)*
                metrics
            }
        }
    };
    (@new $kind:ty) => { <$kind>::default() };
    (@new $kind:ty, $new:expr) => { $new };
}

metrics! {
    "attachments" attachments: Family<Label, Gauge>,
        "Pod interfaces that are recorded, by state: active, deleting (dead, entries may be left), gone (dead and clean, watched for its linger time)";
    "orphans" orphans: Family<Label, Counter>,
        "Pods found dead without a DEL, by who said so";
    "flows_deleted" flows_deleted: Family<Label, Counter>,
        "Stale OpenFlow entries deleted, by reason";
    "flows_kept" flows_kept: Family<Label, Gauge>,
        "Entries that name a dead pod and were kept by the last sweep, by reason";
    "stale_flows_left" stale_flows_left: Family<Label, Gauge>,
        "Stale entries found and left by the last sweep, by why: paused, observe, brake, put-off, stayed";
    "dangling_flows" dangling_flows: Gauge,
        "Entries that name a port which is nobody's: now, on bridges that are followed; at the last scan of whole bridges, on others";
    "tombstones" tombstones: Gauge,
        "Dead pod interfaces that are still watched for";
    "oldest_tombstone_age_seconds" oldest_tombstone_age: Seconds,
        "Time since the death of the one that is watched for longest";
    "values_never_known" values_never_known: Counter,
        "Dead pods of which nobody ever saw the register value: entries that only match on it stay";
    "oldest_unfinished_tombstone_age_seconds" oldest_unfinished_age: Seconds,
        "Age of the oldest dead attachment whose clean-up is not finished";
    "unrecorded_ports" unrecorded_ports: Gauge,
        "Ports that an OVS CNI has marked and nobody recorded, at the last scan of whole bridges";
    "corrupt_records" corrupt_records: Gauge,
        "Files in the state directory that should be records and cannot be read";
    "sweeps" sweeps: Family<Labels, Counter>,
        "Sweeps, by what made the daemon sweep and by result";
    "requests" requests: Family<Labels, Counter>,
        "Clean-ups that a call of the plugin has asked for, by verb and result: done, failed, busy, refused, withdrawn; what is not done the plugin does";
    "calls" calls: Family<Labels, Counter>,
        "Calls of the plugin since the state directory was made, by verb and result: done, unfinished (the next sweep goes on), failed";
    "call_flows_deleted" call_flows_deleted: Family<Label, Counter>,
        "Stale entries that calls of the plugin have deleted themselves, not by this daemon, by verb";
    "call_seconds" call_seconds: Family<Label, Counter<f64, AtomicU64>>,
        "How long calls of the plugin took together, by verb";
    "sweep_duration_seconds" sweep_duration: Histogram = Histogram::new(BUCKETS),
        "How long sweeps took";
    "last_sweep_timestamp_seconds" last_sweep: Seconds,
        "When a sweep last went well, in Unix time";
    "dump_flows" dump_flows: Family<Label, Gauge>,
        "Entries read in the last scan of a bridge";
    "replica_in_sync_since_seconds" replica_since: Family<Label, Seconds>,
        "Since when the copy of a bridge follows it, in Unix time; 0 while it does not and the bridge is read at each death";
    "replica_doubt" replica_doubt: Family<Labels, Gauge>,
        "Why the copy of a bridge does not follow it now, by reason: over-limit, no-memory, refused (Open vSwitch before 3.0), paused and others";
    "replica_entries" replica_entries: Family<Label, Gauge>,
        "Entries in the copy of a bridge";
    "replica_bytes" replica_bytes: Family<Label, Gauge>,
        "Bytes of the entries in the copy of a bridge";
    "replica_updates" replica_updates: Family<Label, Counter>,
        "Changes of a bridge that the switch has reported";
    "replica_resyncs" replica_resyncs: Family<Label, Counter>,
        "How often the copy of a bridge was built again, because changes may have been missed";
    "replica_fallbacks" replica_fallbacks: Family<Label, Counter>,
        "How often following a bridge was given up for a while";
    "cleanup_latency_seconds" cleanup_latency: Histogram = Histogram::new(BUCKETS),
        "Time from a death being seen to its last entry being gone";
    "ovs_up" ovs_up: Family<Label, Gauge>,
        "Whether ovsdb-server and ovs-vswitchd answer";
    "source_up" source_up: Family<Label, Gauge>,
        "Whether a source of liveness answers";
    "flows_put_back" put_back: Counter,
        "Entries that somebody put anew while they were being deleted, and that were put back at once";
    "collateral_suspicions" suspicions: Counter,
        "Entries deleted while what they name found a new owner, or while the switch did not tell what others put; must stay 0";
    "brake_engaged" brake_engaged: Gauge,
        "Whether nothing is deleted because most of the node seems to have died at once";
    "brake_pulled" brake_pulled: Counter,
        "How often that was so";
    "paused" paused: Gauge,
        "Whether an operator has paused all deleting on this node";
    "delivery_calls" delivery_calls: Family<ThreeLabels, Counter>,
        "Calls of CNI plugins by `ovs-flow-gc deliver` since the state directory was made, by verb (DEL, GC), plugin and result: answered, failed";
    "delivery_leftovers" delivery_leftovers: Family<Label, Gauge>,
        "What dead pods still had when `ovs-flow-gc deliver` last ended, by kind: cached-results, leases, port-rows; missing if it never ran";
    "last_delivery_timestamp_seconds" last_delivery: Family<[(&'static str, String); 0], Seconds>,
        "When `ovs-flow-gc deliver` last ended, in Unix time; missing if it never ran";
    "kubernetes_events" events: Family<Label, Counter>,
        "Events written to the API server, by result";
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero.
    #[must_use]
    pub fn new() -> Self {
        let metrics = Self::registered();
        metrics.start();
        metrics
    }

    /// Labels that are shown from the start: a missing one looks like a broken daemon.
    fn start(&self) {
        for state in ["active", "deleting", "gone"] {
            self.attachments.get_or_create(&[("state", state.to_owned())]).set(0);
        }
        let two = |a: (&'static str, &str), b: (&'static str, &str)| {
            [(a.0, a.1.to_owned()), (b.0, b.1.to_owned())]
        };
        for verb in VERBS {
            for result in RESULTS {
                let labels = two(("verb", verb), ("result", result.as_str()));
                drop(self.requests.get_or_create(&labels));
            }
        }
        self.calls(&Calls::default());
        for trigger in Reason::ALL {
            for result in ["ok", "failed"] {
                let labels = two(("trigger", trigger.as_str()), ("result", result));
                drop(self.sweeps.get_or_create(&labels));
            }
        }
        for source in Source::ALL.iter().map(|source| source.as_str()).chain(["boot"]) {
            drop(self.orphans.get_or_create(&[("source", source.to_owned())]));
        }
        let (deleting, keeping) = judge::Reason::words();
        for reason in deleting {
            drop(self.flows_deleted.get_or_create(&[("reason", (*reason).to_owned())]));
        }
        replace(&self.flows_kept, "reason", keeping, &BTreeMap::new());
        replace(&self.stale_flows_left, "reason", &LEFT, &BTreeMap::new());
        for result in EventResult::ALL {
            drop(self.events.get_or_create(&[("result", result.as_str().to_owned())]));
        }
        self.source(Source::Netns, true);
        self.server(Server::Ovsdb, false);
        self.server(Server::Vswitchd, false);
    }

    /// Counts a Kubernetes Event by what became of it.
    pub fn event(&self, result: &str) {
        self.events.get_or_create(&[("result", result.to_owned())]).inc();
    }

    /// What calls of the plugin did. A counter that goes back begins anew for Prometheus, too.
    pub fn calls(&self, calls: &Calls) {
        for (verb, counts) in VERBS.iter().zip(calls) {
            let label = [("verb", (*verb).to_owned())];
            let set = |counter: &Counter, value| counter.inner().store(value, Ordering::Relaxed);
            for (result, value) in [
                ("done", counts.done),
                ("unfinished", counts.unfinished),
                ("failed", counts.failed),
            ] {
                let labels = [("verb", (*verb).to_owned()), ("result", result.to_owned())];
                set(&self.calls.get_or_create(&labels), value);
            }
            set(&self.call_flows_deleted.get_or_create(&label), counts.deleted);
            let seconds = Duration::from_micros(counts.microseconds).as_secs_f64();
            let counter = self.call_seconds.get_or_create(&label);
            counter.inner().store(seconds.to_bits(), Ordering::Relaxed);
        }
    }

    /// What `deliver` did.
    pub fn deliveries(&self, log: &DeliveryLog) {
        for (verb, plugins) in &log.calls {
            for (plugin, Answers { answered, failed }) in plugins {
                for (result, value) in [("answered", answered), ("failed", failed)] {
                    let labels = [
                        ("verb", verb.clone()),
                        ("plugin", plugin.clone()),
                        ("result", result.to_owned()),
                    ];
                    let counter = self.delivery_calls.get_or_create(&labels);
                    counter.inner().store(*value, Ordering::Relaxed);
                }
            }
        }
        for kind in LEFTOVERS {
            let label = [("kind", kind.to_owned())];
            match log.leftovers.get(kind) {
                Some(number) => {
                    let number = i64::try_from(*number).unwrap_or(i64::MAX);
                    self.delivery_leftovers.get_or_create(&label).set(number);
                }
                None => drop(self.delivery_leftovers.remove(&label)),
            }
        }
        if log.ended_ms > 0 {
            let seconds = Duration::from_millis(log.ended_ms).as_secs_f64();
            self.last_delivery.get_or_create(&[]).set(seconds);
        }
    }

    /// Whether a source of liveness answers.
    pub fn source(&self, source: Source, up: bool) {
        let label = [("source", source.as_str().to_owned())];
        self.source_up.get_or_create(&label).set(i64::from(up));
    }

    /// Whether one of OVS's daemons answers.
    pub fn server(&self, server: Server, up: bool) {
        let name = match server {
            Server::Ovsdb => "ovsdb-server",
            Server::Vswitchd => "ovs-vswitchd",
        };
        self.ovs_up.get_or_create(&[("server", name.to_owned())]).set(i64::from(up));
    }

    /// The records in a snapshot of the state directory; `corrupt` more files are no records.
    pub(super) fn records(&self, snapshot: &RegistrySnapshot, corrupt: usize, now: Stamp) {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let tombstones = &snapshot.tombstones;
        let gone = tombstones.iter().filter(|t| t.state == State::Gone).count();
        for (state, n) in [
            ("active", snapshot.attachments.len()),
            ("gone", gone),
            ("deleting", tombstones.len().saturating_sub(gone)),
        ] {
            self.attachments.get_or_create(&[("state", state.to_owned())]).set(count(n));
        }
        self.tombstones.set(count(tombstones.len()));
        let oldest = |wanted: fn(&Attachment) -> bool| {
            let died = tombstones.iter().filter(|t| wanted(t)).filter_map(|t| t.died);
            died.map(|died| died.until(now)).max().unwrap_or_default().as_secs_f64()
        };
        self.oldest_tombstone_age.set(oldest(|_| true));
        self.oldest_unfinished_age.set(oldest(|t| t.state == State::Deleting));
        self.corrupt_records.set(count(corrupt.saturating_add(snapshot.aside.len())));
    }

    /// What a clean-up deleted.
    pub(super) fn cleaned(&self, outcome: &Outcome) {
        for bridge in &outcome.bridges {
            for (reason, n) in &bridge.deleted_by {
                self.flows_deleted.get_or_create(&[("reason", (*reason).to_owned())]).inc_by(*n);
            }
            self.put_back.inc_by(bridge.counts.put_back);
            self.suspicions.inc_by(bridge.counts.suspicions);
        }
        let ended = outcome.targets.iter().filter(|target| target.ended && target.value_unknown);
        self.values_never_known.inc_by(ended.count() as u64);
    }

    /// As OpenMetrics text.
    ///
    /// # Errors
    /// None that is known of.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode_registry(&mut text, &self.registry)?;
        text.push_str(&process::metrics());
        encode_eof(&mut text)?;
        Ok(text)
    }
}

/// Sets a family of gauges to these values, and to 0 where there is a word and no value.
pub fn replace(
    family: &Family<Label, Gauge>,
    label: &'static str,
    words: &[&str],
    values: &BTreeMap<&str, u64>,
) {
    family.clear();
    let zeros = words.iter().filter(|word| !values.contains_key(**word)).map(|word| (word, &0));
    for (name, value) in values.iter().chain(zeros) {
        let value = i64::try_from(*value).unwrap_or(i64::MAX);
        family.get_or_create(&[(label, (*name).to_owned())]).set(value);
    }
}

impl Metrics {
    /// How the copies of the bridges are.
    pub fn replicas(&self, replicas: &[(String, ReplicaStatus)]) {
        self.replica_since.clear();
        self.replica_entries.clear();
        self.replica_doubt.clear();
        self.replica_bytes.clear();
        for (bridge, status) in replicas {
            let label = [("bridge", bridge.clone())];
            let since = match status.state {
                replica::State::InSync { since } => {
                    let now = Duration::from_millis(Stamp::now().wall_ms);
                    now.saturating_sub(since.until(BootTime::now())).as_secs_f64()
                }
                replica::State::Building | replica::State::Doubt(_) => 0.0,
            };
            self.replica_since.get_or_create(&label).set(since);
            if let replica::State::Doubt(doubt) = status.state {
                let reason = ("reason", doubt.word().to_owned());
                self.replica_doubt.get_or_create(&[("bridge", bridge.clone()), reason]).set(1);
            }
            let gauge = |family: &Family<Label, Gauge>, value: usize| {
                family.get_or_create(&label).set(i64::try_from(value).unwrap_or(i64::MAX));
            };
            gauge(&self.replica_entries, status.entries);
            gauge(&self.replica_bytes, status.bytes);
            let count = |family: &Family<Label, Counter>, value: u64| {
                let counter = family.get_or_create(&label);
                counter.inc_by(value.saturating_sub(counter.get()));
            };
            count(&self.replica_updates, status.counters.updates);
            count(&self.replica_resyncs, status.counters.resyncs);
            count(&self.replica_fallbacks, status.counters.fallbacks);
        }
    }
}

/// OpenMetrics text as the older text format: there a counter's name has its `_total` in the
/// comments, too, `info` is a gauge, and there is no end mark.
#[must_use]
pub fn plain(openmetrics: &str) -> String {
    let kinds: BTreeMap<&str, &str> = openmetrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .collect();
    let mut text = String::with_capacity(openmetrics.len());
    for line in openmetrics.lines() {
        let comment = line.strip_prefix("# ").map(|rest| rest.splitn(3, ' ').collect::<Vec<_>>());
        match comment.as_deref() {
            None => text.push_str(line),
            Some([what @ ("HELP" | "TYPE"), name, rest]) => {
                let (suffix, kind) = match kinds.get(name) {
                    Some(&"counter") => ("_total", "counter"),
                    Some(&"info") => ("_info", "gauge"),
                    Some(kind) => ("", *kind),
                    None => ("", "untyped"),
                };
                let rest = if *what == "TYPE" { kind } else { rest };
                text.push_str(&format!("# {what} {name}{suffix} {rest}"));
            }
            Some(_) => continue,
        }
        text.push('\n');
    }
    text
}

/// The numbers of a family of gauges with one label that are not 0, out of OpenMetrics text: a
/// [`Family`] cannot be read otherwise.
#[must_use]
pub fn labelled<'t>(openmetrics: &'t str, name: &str) -> BTreeMap<&'t str, u64> {
    let number = |line: &'t str| {
        let rest = line.strip_prefix("ovs_flow_gc_")?.strip_prefix(name)?.strip_prefix('{')?;
        let (label, value) = rest.split_once("} ")?;
        let label = label.split_once("=\"")?.1.strip_suffix('"')?;
        Some((label, value.parse().ok()?))
    };
    openmetrics.lines().filter_map(number).filter(|(_, value)| *value > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_name_a_counter_as_they_should() {
        let metrics = Metrics::new();
        metrics.flows_deleted.get_or_create(&[("reason", "matches-port".to_owned())]).inc_by(3);
        metrics.sweep_duration.observe(0.004);
        let open = metrics.encode().unwrap();
        assert!(open.ends_with("# EOF\n"));
        assert!(open.contains("# TYPE ovs_flow_gc_flows_deleted counter\n"), "{open}");
        let sample = "ovs_flow_gc_flows_deleted_total{reason=\"matches-port\"} 3\n";
        assert!(open.contains(sample), "{open}");
        assert!(open.contains("ovs_flow_gc_build_info{version="), "{open}");
        let plain = plain(&open);
        assert!(plain.contains("# TYPE ovs_flow_gc_flows_deleted_total counter\n"), "{plain}");
        assert!(plain.contains("# TYPE ovs_flow_gc_build_info gauge\n"), "{plain}");
        assert!(plain.contains("# TYPE ovs_flow_gc_sweep_duration_seconds histogram\n"));
        assert!(plain.contains(sample) && !plain.contains("# EOF"), "{plain}");
        let values = BTreeMap::from([("observe", 2), ("paused", 1)]);
        replace(&metrics.flows_kept, "reason", &["paused", "stayed"], &values);
        assert!(metrics.encode().unwrap().contains("flows_kept{reason=\"stayed\"} 0\n"));
        let open = metrics.encode().unwrap();
        let kept = BTreeMap::from([("observe", 2), ("paused", 1)]);
        assert_eq!(
            (labelled(&open, "flows_kept"), labelled(&open, "flows")),
            (kept, BTreeMap::new())
        );
        // A metric that must stay 0 is shown before anything has happened.
        assert!(plain.contains("\novs_flow_gc_collateral_suspicions_total 0\n"), "{plain}");
        assert!(plain.contains("\novs_flow_gc_brake_engaged 0\n"), "{plain}");
    }

    #[test]
    fn a_reason_that_is_over_is_not_shown_for_ever() {
        let family = Family::default();
        replace(&family, "reason", &[], &BTreeMap::from([("paused", 3)]));
        replace(&family, "reason", &[], &BTreeMap::from([("observe", 1)]));
        let mut registry = Registry::default();
        registry.register("left", "Left", family);
        let mut text = String::new();
        encode_registry(&mut text, &registry).unwrap();
        assert!(text.contains("left{reason=\"observe\"} 1") && !text.contains("paused"), "{text}");
    }
}
