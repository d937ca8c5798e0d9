//! What pods share (issue 2, scenario 4): a namespace's VNID, marks in a register. It stays
//! when the first, the second and the last pod ends, on a real switch, read with
//! `ovs-ofctl dump-flows`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests, and what helps them, may fail this way"
)]

mod rig;

#[path = "lifecycle/crowd.rs"]
#[allow(dead_code, reason = "another test crate uses the rest of it")]
mod crowd;
#[path = "sharing/marks.rs"]
mod marks;
#[path = "sharing/tenants.rs"]
mod tenants;
#[path = "sharing/vnid.rs"]
mod vnid;
