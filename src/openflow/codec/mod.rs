//! The bytes of messages, matches and actions: reading beside writing.

pub(in crate::openflow) mod actions;
pub(in crate::openflow) mod bundle_message;
pub(in crate::openflow) mod ct_flush;
pub(in crate::openflow) mod effects;
pub(in crate::openflow) mod entry;
pub(in crate::openflow) mod filter;
pub(in crate::openflow) mod flow_mod;
pub(in crate::openflow) mod flow_update;
pub(in crate::openflow) mod group;
pub(in crate::openflow) mod hello;
pub(in crate::openflow) mod learn;
pub(in crate::openflow) mod multipart;
pub(in crate::openflow) mod numbers;
pub(in crate::openflow) mod oxm;
pub(in crate::openflow) mod port;
pub(in crate::openflow) mod wire;
