//! What one call, one sweep and one command do, on a real Open vSwitch.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "tests, and what helps them, may fail this way"
)]

mod bad_days;
mod churn;
mod concurrency;
mod contract;
mod deliver;
mod faults;
mod gcd;
mod lifecycle;
mod marks;
mod openflow_live;
mod operations;
mod ovsdb_live;
mod pods;
mod replica;
mod reuse;
mod rig;
mod rig_selftest;
mod security;
mod sharing;
mod state_dir;
mod watched;
mod window;
