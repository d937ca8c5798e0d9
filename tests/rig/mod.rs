//! The ground that scenario tests stand on: a real switch, real pods, a runtime's ways.
//!
//! | part | what it gives |
//! | --- | --- |
//! | [`node`] | a [`Node`]: its network namespace, directories, switch and CNI configuration |
//! | [`ovs`] | ovsdb-server and ovs-vswitchd: start, pause, kill; ports and flows |
//! | [`pod`] | pods: sandboxes, who they are on the switch, how they die, what they reach |
//! | [`chain`] | what a runtime does with a conflist, and single calls to a plugin |
//! | [`layouts`] | the flows that controllers install for a pod |
//! | [`containerd`] | a containerd of the node's own, driven by `ctr` |
//! | [`cri`] | the same with CRI: sandboxes, as the kubelet asks for them |
//! | [`host`] | what the machine must have, and the namespaces made on it |
//! | [`run`] | commands with a deadline, in a network namespace |
//!
//! A test makes a [`Node`]; dropping it takes everything away, also after a panic. With
//! `OFG_KEEP=1` everything stays, and the test says how to look around.

#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "several test crates share this module, and each uses a part of it"
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a broken rig must fail the test at once; its files need not be atomic"
)]

pub mod chain;
pub mod containerd;
pub mod cri;
pub mod host;
pub mod layouts;
pub mod node;
pub mod ovs;
pub mod pod;
pub mod run;

pub use chain::{Call, Valid};
pub use containerd::Containerd;
pub use cri::{Runtime, Sandbox};
pub use layouts::Who;
pub use node::{Node, Setup};
pub use ovs::{Datapath, Flows};
pub use pod::{Attached, Pod, Port, called, pod_name};
pub use run::{Outcome, Running, eventually, sleep_ms, within};
