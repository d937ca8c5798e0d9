//! What is asked of a switch: a file for each kind of request.

pub(in crate::openflow) mod bundle;
pub(in crate::openflow) mod connection;
pub(in crate::openflow) mod conntrack;
pub(in crate::openflow) mod describe;
pub(in crate::openflow) mod dump;
pub(crate) mod monitor;
pub(in crate::openflow) mod parallel;
