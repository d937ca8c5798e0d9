//! The daemon: acts on events, keeps the interval as a net, and says what it does.

pub mod events;

use std::process::ExitCode;

/// Runs the daemon with the command line and the environment of this process.
#[must_use]
pub fn main() -> ExitCode {
    ExitCode::FAILURE
}
