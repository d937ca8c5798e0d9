//! What needs no switch: records, conflists, namespaces, the installer.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "tests, and what helps them, may fail this way"
)]

mod conflist_edit;
mod docs;
mod inside;
mod install_sh;
mod liveness_netns;
mod packages;
mod registry_fs;
