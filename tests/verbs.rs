//! The contract with the runtime: bad input, GC, CHECK and STATUS, a state directory out of
//! order (issue's scenarios 8, 9 and 13).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a broken test must fail at once"
)]

mod rig;

#[path = "verbs/gc.rs"]
mod gc;
#[path = "verbs/health.rs"]
mod health;
#[path = "verbs/input.rs"]
mod input;
#[path = "verbs/state_dir.rs"]
mod state_dir;
