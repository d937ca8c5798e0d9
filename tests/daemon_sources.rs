//! The daemon with all its sources at once: the network namespaces, a real containerd with CRI,
//! and the tests' stand-in for the API server (why a stand-in: see `apiserver/mod.rs`). A real
//! switch throughout. Every test looks at the whole dump: what belongs to the living is there
//! before, during and after.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "tests, and what helps them, may fail this way"
)]

mod apiserver;
mod crowd;
#[path = "daemon/guard.rs"]
mod guard;
#[path = "liveness_cri/liar.rs"]
mod liar;
mod rig;

#[path = "manifests/metrics.rs"]
mod metrics;

#[path = "sources/clocks.rs"]
mod clocks;
#[path = "sources/deaths.rs"]
mod deaths;
#[path = "sources/lies.rs"]
mod lies;
#[path = "sources/lost.rs"]
mod lost;
#[path = "sources/outages.rs"]
mod outages;
#[path = "sources/scope.rs"]
mod scope;
#[path = "sources/telling.rs"]
mod telling;
#[path = "sources/town.rs"]
mod town;
