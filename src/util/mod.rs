//! What knows nothing of Open vSwitch: time, files, and the log.

pub mod atomic_file;
pub mod backoff;
pub(crate) mod base64;
pub mod clock;
pub mod json;
pub mod logging;
pub(crate) mod regular_file;
