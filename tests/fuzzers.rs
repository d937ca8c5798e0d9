//! The fuzzers' corpora, replayed. A crate of its own: it measures its own memory.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "tests, and what helps them, may fail this way"
)]

mod fuzz_corpus;
mod rig;
