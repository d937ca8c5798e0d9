//! What is asked of a switch: a file for each kind of request.

pub(super) mod bundle;
pub(super) mod connection;
pub(super) mod conntrack;
pub(super) mod describe;
pub(super) mod dump;
pub(crate) mod monitor;
pub(super) mod parallel;
pub(super) mod ports;
