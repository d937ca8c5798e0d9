//! The daemon on a real switch: deaths that nobody told it of, bad days, and what it says.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "tests, and what helps them, may fail this way"
)]

mod crowd;
mod rig;

#[path = "daemon/bad_days.rs"]
mod bad_days;
#[path = "daemon/deaths.rs"]
mod deaths;
#[path = "daemon/figures.rs"]
mod figures;
#[path = "daemon/guard.rs"]
mod guard;
#[path = "daemon/life.rs"]
mod life;
