//! The window between the look at an entry and its deletion: controllers that put the same
//! entry anew in it, on purpose, thousands of times. Needs root and Open vSwitch.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "tests may fail this way"
)]

mod crowd;
mod rig;

#[path = "window/ground.rs"]
mod ground;
#[path = "window/proxy.rs"]
mod proxy;
#[path = "window/race.rs"]
mod race;
#[path = "window/told.rs"]
mod told;
#[path = "window/width.rs"]
mod width;
