//! The names of all metrics: what dashboard and alerts may ask for, and what the daemon serves.

/// What `/metrics` has, as Prometheus stores it (`up` is Prometheus' own).
pub(crate) const METRICS: [&str; 24] = [
    "ovs_flow_gc_build_info",
    "ovs_flow_gc_attachments",
    "ovs_flow_gc_orphans_total",
    "ovs_flow_gc_flows_deleted_total",
    "ovs_flow_gc_flows_kept",
    "ovs_flow_gc_stale_flows_left",
    "ovs_flow_gc_dangling_flows",
    "ovs_flow_gc_tombstones",
    "ovs_flow_gc_oldest_tombstone_age_seconds",
    "ovs_flow_gc_corrupt_records",
    "ovs_flow_gc_sweeps_total",
    "ovs_flow_gc_sweep_duration_seconds_bucket",
    "ovs_flow_gc_last_sweep_timestamp_seconds",
    "ovs_flow_gc_dump_flows",
    "ovs_flow_gc_cleanup_latency_seconds_bucket",
    "ovs_flow_gc_ovs_up",
    "ovs_flow_gc_source_up",
    "ovs_flow_gc_flows_put_back_total",
    "ovs_flow_gc_collateral_suspicions_total",
    "ovs_flow_gc_brake_engaged",
    "ovs_flow_gc_brake_pulled_total",
    "ovs_flow_gc_paused",
    "ovs_flow_gc_kubernetes_events_total",
    "up",
];
