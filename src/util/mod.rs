//! What knows nothing of Open vSwitch: time, and the log.

pub mod clock;
pub mod logging;
