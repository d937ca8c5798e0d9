//! What runs for good: `ovs-flow-gcd`, the runtimes and the API server that it listens to, and
//! what is delivered with it.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "tests, and what helps them, may fail this way"
)]

mod apiserver;
mod containerd;
mod daemon;
mod daemon_sources;
mod deliver_runtime;
mod gcd;
mod liveness_cri;
mod liveness_kubernetes;
mod manifests;
mod pods;
mod rig;
mod turnover;
