//! The daemon with all its sources at once: the network namespaces, a real containerd with CRI,
//! and the tests' stand-in for the API server (why a stand-in: see `apiserver/mod.rs`). A real
//! switch throughout. Every test looks at the whole dump: what belongs to the living is there
//! before, during and after.

mod clocks;
mod deaths;
mod fixture;
mod lies;
mod lost;
mod outages;
mod scope;
mod telling;
