//! The bytes of messages, matches and actions: reading beside writing.

pub(super) mod actions;
pub(super) mod bundle_message;
pub(super) mod ct_flush;
pub(super) mod effects;
pub(super) mod entry;
pub(super) mod filter;
pub(super) mod flow_mod;
pub(super) mod flow_update;
pub(super) mod group;
pub(super) mod hello;
pub(super) mod learn;
pub(super) mod multipart;
pub(super) mod numbers;
pub(super) mod oxm;
pub(super) mod port;
pub(super) mod port_status;
pub(super) mod wire;
