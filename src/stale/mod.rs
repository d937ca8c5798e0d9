//! The core: which flows are stale. Pure: no I/O, no clock, no configuration files.

pub mod case;
pub mod flow;
