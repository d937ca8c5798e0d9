//! A pod's life and its end (issue 2, scenarios 1, 2, 3 and 6): ADD, DEL, and what is left
//! when DEL never comes, on a real switch, read with `ovs-ofctl dump-flows`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests, and what helps them, may fail this way"
)]

mod rig;

#[path = "lifecycle/add.rs"]
mod add;
#[path = "lifecycle/crowd.rs"]
mod crowd;
#[path = "lifecycle/del.rs"]
mod del;
#[path = "lifecycle/orphans.rs"]
mod orphans;
#[path = "lifecycle/orphans_config.rs"]
mod orphans_config;
#[path = "lifecycle/registers.rs"]
mod registers;
