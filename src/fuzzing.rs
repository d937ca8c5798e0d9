//! What fuzzers run: one body for each kind of bytes that come from outside.
//!
//! A body sits in a file beside its parser (`fuzzing.rs`, or a function `fuzz`), where it can
//! see what is private. It checks more than that nothing panics: what is read is written down
//! and read again, answers that were cut off are no answers, no token comes of an empty value,
//! no name leaves its directory, and what comes out is bounded by what went in.
//!
//! `fuzz/` has a target of three lines for each; `tests/fuzz_corpus` runs them all over the
//! committed corpus and over mutations of it, on stable Rust.
//!
//! A feature and not a hidden module: bodies assert, and a release that has none of them needs
//! no trust that nobody calls them. It costs a line in `Cargo.toml` and one at each `mod`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a broken promise is told by panicking"
)]

use crate::config::Reg0;
use crate::model::attachment::{ContainerId, IfName, NetworkName};
use crate::model::flow::MacAddr;
use crate::model::row::RowId;
use crate::{adopt, cli, cni, flowtable, openflow, ovsdb, reconcile, store};

/// A fuzz target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// What its binary and its corpus are called.
    pub name: &'static str,
    /// Whether it made sense of the input. Panics where a promise is broken.
    pub body: fn(&[u8]) -> bool,
}

macro_rules! targets {
    ($($(#[$attribute:meta])* $name:ident = $body:expr;)*) => {
        $(
            $(#[$attribute])*
            #[doc = "A body; see [`TARGETS`]."]
            #[must_use]
            pub fn $name(data: &[u8]) -> bool {
                $body(data)
            }
        )*

        /// All of them.
        pub const TARGETS: &[Target] = &[
            $($(#[$attribute])* Target { name: stringify!($name), body: $name },)*
        ];
    };
}

targets! {
    openflow_hello = openflow::fuzzing::hello;
    openflow_entry = openflow::fuzzing::entry;
    openflow_match = openflow::fuzzing::matches;
    openflow_actions = openflow::fuzzing::instructions;
    openflow_dump = openflow::fuzzing::dump;
    openflow_replies = openflow::fuzzing::replies;
    openflow_monitor = openflow::client::monitor::fuzzing::told;
    flow_replica = flowtable::fuzzing::replica;
    ovsdb_frames = ovsdb::fuzzing::frames;
    ovsdb_rows = ovsdb::fuzzing::rows;
    ovsdb_rpc = ovsdb::fuzzing::rpc;
    #[cfg(feature = "daemon")]
    ovsdb_update = ovsdb::fuzzing::update;
    cni_request = cni::fuzzing::request;
    clean_request = reconcile::wire::fuzz;
    record = store::fuzzing::record;
    network_state = store::fuzzing::network_state;
    journal = store::fuzzing::journal;
    journal_entry = openflow::fuzzing::journal_entry;
    file_names = store::fuzzing::file_names;
    cached_result = |data| std::str::from_utf8(data).is_ok_and(adopt::fuzz);
    conflist = cli::fuzzing::conflist;
    node_files = cli::fuzzing::node_files;
    arguments = cli::fuzzing::arguments;
    words = words_of;
    #[cfg(feature = "daemon")]
    cri_list = crate::liveness::cri::fuzz;
    #[cfg(feature = "daemon")]
    kubernetes_list = crate::liveness::kubernetes::fuzzing::list;
    #[cfg(feature = "daemon")]
    kubernetes_watch = crate::liveness::kubernetes::fuzzing::watch;
}

/// Single words that are parsed by themselves: whatever is one is written as it was read, or
/// at least reads as the same.
fn words_of(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let mut taken = cli::fuzzing::journal_id(text);
    let refused = |why: String| assert!(why.len() < 1_000, "{why}");
    match text.parse::<MacAddr>() {
        Ok(mac) => {
            assert_eq!(mac.to_string().parse(), Ok(mac));
            taken = true;
        }
        Err(why) => refused(why.to_string()),
    }
    match text.parse::<RowId>() {
        Ok(row) => {
            assert_eq!(row.to_string().parse(), Ok(row));
            taken = true;
        }
        Err(why) => refused(why.to_string()),
    }
    if let Ok(reg0) = text.parse::<Reg0>() {
        assert_eq!(reg0.to_string(), text);
        taken = true;
    }
    let names = [
        text.parse::<NetworkName>().map(|name| name.to_string()),
        text.parse::<ContainerId>().map(|name| name.to_string()),
        text.parse::<IfName>().map(|name| name.to_string()),
    ];
    for name in names {
        match name {
            Ok(name) => {
                assert_eq!(name, text);
                assert!(!name.contains(['/', ':', '\0', '\n', ' ']) && name != "..", "{name:?}");
                assert!((1..=200).contains(&name.len()));
                taken = true;
            }
            Err(why) => refused(why.to_string()),
        }
    }
    taken
}
