//! The verdict, on nodes that a generator makes up.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "tests, and what helps them, may fail this way"
)]

mod model;
mod pods;
mod rig;
mod stale_properties;
mod watched;
