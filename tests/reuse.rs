//! What a dead pod had, others have now (issue 2, scenario 5): its port number, its address,
//! both; here, on another VLAN, on another node. Nobody alive loses an entry, on a real
//! switch, read with `ovs-ofctl dump-flows` and shown with ping.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests, and what helps them, may fail this way"
)]

mod rig;

#[path = "reuse/addresses.rs"]
mod addresses;
#[path = "lifecycle/crowd.rs"]
#[allow(dead_code, reason = "another test crate uses the rest of it")]
mod crowd;
#[path = "reuse/elsewhere.rs"]
mod elsewhere;
#[path = "reuse/nobodys.rs"]
mod nobodys;
#[path = "reuse/policy.rs"]
mod policy;
#[path = "reuse/ports.rs"]
mod ports;
#[path = "reuse/results.rs"]
mod results;
#[path = "reuse/scope.rs"]
mod scope;
#[path = "reuse/strangers.rs"]
mod strangers;
#[path = "reuse/town.rs"]
mod town;
