//! What is counted. Names and help texts are for people: `docs/` and the alert rules use them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::liveness::Source;

/// The content type of [`Metrics::encode`].
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The content type of [`plain`].
pub const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

/// One label.
pub type Label = [(&'static str, String); 1];
/// Two labels.
pub type Labels = [(&'static str, String); 2];
type Seconds = Gauge<f64, AtomicU64>;

/// The two daemons of OVS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// The database.
    Ovsdb,
    /// The switch.
    Vswitchd,
}

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// By state: active, deleting, gone.
    pub attachments: Family<Label, Gauge>,
    /// By the source that told of them.
    pub orphans: Family<Label, Counter>,
    /// By the verdict's reason.
    pub flows_deleted: Family<Label, Counter>,
    /// By the verdict's reason.
    pub flows_kept: Family<Label, Gauge>,
    /// By why they were left.
    pub stale_flows_left: Family<Label, Gauge>,
    /// Entries that name a port which is nobody's.
    pub dangling_flows: Gauge,
    /// Dead attachments that are still looked after.
    pub tombstones: Gauge,
    /// Of the oldest of them.
    pub oldest_tombstone_age: Seconds,
    /// Of the oldest whose clean-up is not finished.
    pub oldest_unfinished_age: Seconds,
    /// Records that cannot be read.
    pub corrupt_records: Gauge,
    /// By trigger and result.
    pub sweeps: Family<Labels, Counter>,
    /// How long sweeps took.
    pub sweep_duration: Histogram,
    /// When one last went well.
    pub last_sweep: Seconds,
    /// Tombstones that ended, and the register value was never seen.
    pub values_never_known: Counter,
    /// Ports that an OVS CNI has marked and nobody recorded.
    pub unrecorded_ports: Gauge,
    /// Entries seen, by bridge.
    pub dump_flows: Family<Label, Gauge>,
    /// From death seen to last entry gone.
    pub cleanup_latency: Histogram,
    /// By daemon of OVS.
    pub ovs_up: Family<Label, Gauge>,
    /// By source of liveness.
    pub source_up: Family<Label, Gauge>,
    /// Put anew while they were being deleted, and put back.
    pub put_back: Counter,
    /// Deleted while its token found a new owner.
    pub suspicions: Counter,
    /// Whether the brake is engaged.
    pub brake_engaged: Gauge,
    /// How often it was.
    pub brake_pulled: Counter,
    /// Whether this node is paused.
    pub paused: Gauge,
    /// Kubernetes Events written, by result.
    pub events: Family<Label, Counter>,
}

/// Seconds: from a millisecond to half a minute.
const BUCKETS: [f64; 15] =
    [0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("ovs_flow_gc"),
            attachments: Family::default(),
            orphans: Family::default(),
            flows_deleted: Family::default(),
            flows_kept: Family::default(),
            stale_flows_left: Family::default(),
            dangling_flows: Gauge::default(),
            tombstones: Gauge::default(),
            oldest_tombstone_age: Seconds::default(),
            oldest_unfinished_age: Seconds::default(),
            corrupt_records: Gauge::default(),
            sweeps: Family::default(),
            sweep_duration: Histogram::new(BUCKETS),
            last_sweep: Seconds::default(),
            values_never_known: Counter::default(),
            unrecorded_ports: Gauge::default(),
            dump_flows: Family::default(),
            cleanup_latency: Histogram::new(BUCKETS),
            ovs_up: Family::default(),
            source_up: Family::default(),
            put_back: Counter::default(),
            suspicions: Counter::default(),
            brake_engaged: Gauge::default(),
            brake_pulled: Counter::default(),
            paused: Gauge::default(),
            events: Family::default(),
        };
        metrics.register();
        metrics.start();
        metrics
    }

    fn register(&mut self) {
        let version = vec![("version", env!("CARGO_PKG_VERSION"))];
        let r = &mut self.registry;
        r.register("build", "The version that runs", Info::new(version));
        r.register("attachments", "Pod interfaces that are recorded, by state: active, deleting (dead, entries may be left), gone (dead and clean, watched for its linger time)", self.attachments.clone());
        r.register(
            "orphans",
            "Pods found dead without a DEL, by who said so",
            self.orphans.clone(),
        );
        r.register(
            "flows_deleted",
            "Stale OpenFlow entries deleted, by reason",
            self.flows_deleted.clone(),
        );
        r.register(
            "flows_kept",
            "Entries that name a dead pod and were kept at the last look, by reason",
            self.flows_kept.clone(),
        );
        r.register("stale_flows_left", "Stale entries found and left by the last look, by why: paused, observe, brake, put-off, stayed", self.stale_flows_left.clone());
        r.register(
            "dangling_flows",
            "Entries that name a port which is nobody's, at the last look at everything",
            self.dangling_flows.clone(),
        );
        r.register(
            "tombstones",
            "Dead pod interfaces that are still looked after",
            self.tombstones.clone(),
        );
        r.register(
            "oldest_tombstone_age_seconds",
            "Time since the death of the one that is looked after longest",
            self.oldest_tombstone_age.clone(),
        );
        r.register(
            "values_never_known",
            "Dead pods of which nobody ever saw the register value: entries that only match on it stay",
            self.values_never_known.clone(),
        );
        r.register(
            "oldest_unfinished_tombstone_age_seconds",
            "Age of the oldest dead attachment whose clean-up is not finished",
            self.oldest_unfinished_age.clone(),
        );
        r.register(
            "unrecorded_ports",
            "Ports that an OVS CNI has marked and nobody recorded, at the last look at everything",
            self.unrecorded_ports.clone(),
        );
        r.register(
            "corrupt_records",
            "Files in the state directory that should be records and cannot be read",
            self.corrupt_records.clone(),
        );
        r.register(
            "sweeps",
            "Sweeps, by what made the daemon sweep and by result",
            self.sweeps.clone(),
        );
        r.register("sweep_duration_seconds", "How long sweeps took", self.sweep_duration.clone());
        r.register(
            "last_sweep_timestamp_seconds",
            "When a sweep last went well, in Unix time",
            self.last_sweep.clone(),
        );
        r.register(
            "dump_flows",
            "Entries seen in the last look at a bridge",
            self.dump_flows.clone(),
        );
        r.register(
            "cleanup_latency_seconds",
            "Time from a death being seen to its last entry being gone",
            self.cleanup_latency.clone(),
        );
        r.register("ovs_up", "Whether ovsdb-server and ovs-vswitchd answer", self.ovs_up.clone());
        r.register("source_up", "Whether a source of liveness answers", self.source_up.clone());
        r.register(
            "flows_put_back",
            "Entries that somebody put anew while they were being deleted, and that were put back at once",
            self.put_back.clone(),
        );
        r.register(
            "collateral_suspicions",
            "Entries deleted while what they name found a new owner; must stay 0",
            self.suspicions.clone(),
        );
        r.register(
            "brake_engaged",
            "Whether nothing is deleted because most of the node seems to have died at once",
            self.brake_engaged.clone(),
        );
        r.register("brake_pulled", "How often that was so", self.brake_pulled.clone());
        r.register(
            "paused",
            "Whether an operator has paused all deleting on this node",
            self.paused.clone(),
        );
        r.register(
            "kubernetes_events",
            "Events written to the API server, by result",
            self.events.clone(),
        );
    }

    /// What is there from the start, so that nobody has to guess whether it is missing.
    fn start(&self) {
        for state in ["active", "deleting", "gone"] {
            self.attachments.get_or_create(&[("state", state.to_owned())]).set(0);
        }
        for source in ["netns", "boot"] {
            drop(self.orphans.get_or_create(&[("source", source.to_owned())]));
        }
        self.source(Source::Netns, true);
        self.server(Server::Ovsdb, false);
        self.server(Server::Vswitchd, false);
    }

    /// What became of an Event.
    pub fn told(&self, result: &str) {
        self.events.get_or_create(&[("result", result.to_owned())]).inc();
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

    /// As OpenMetrics text.
    ///
    /// # Errors
    /// None that is known of.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// Sets a family of gauges to exactly these values.
pub fn replace(family: &Family<Label, Gauge>, label: &'static str, values: &BTreeMap<&str, u64>) {
    family.clear();
    for (name, value) in values {
        let value = i64::try_from(*value).unwrap_or(i64::MAX);
        family.get_or_create(&[(label, (*name).to_owned())]).set(value);
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
        // Who must stay 0 is there before anything happened.
        assert!(plain.contains("\novs_flow_gc_collateral_suspicions_total 0\n"), "{plain}");
        assert!(plain.contains("\novs_flow_gc_brake_engaged 0\n"), "{plain}");
    }

    #[test]
    fn a_reason_that_is_over_is_not_shown_for_ever() {
        let family = Family::default();
        replace(&family, "reason", &BTreeMap::from([("paused", 3)]));
        replace(&family, "reason", &BTreeMap::from([("observe", 1)]));
        let mut registry = Registry::default();
        registry.register("left", "Left", family);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        assert!(text.contains("left{reason=\"observe\"} 1") && !text.contains("paused"), "{text}");
    }
}
