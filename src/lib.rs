//! ovs-flow-gc keeps dead pods out of Open vSwitch.
//!
//! What lives where. Arrows point one way: edges → engine → core.
//!
//! | module | job | may call |
//! | --- | --- | --- |
//! | [`stale`] | the core: what a flow is, and whether it is stale. Pure | nothing |
//! | [`attachment`] | the record of one pod interface | `stale` (its words) |
//! | [`clock`] | stamps, deadlines, connecting within one | |
//! | [`config`] | the plugin's configuration and its presets | |
//! | [`openflow`] | the wire: hello, dump, strict delete, bundle, barrier | `stale::flow`, `clock` |
//! | [`ovsdb`] | the database: one snapshot, who owns a port | `clock` |
//! | [`registry`] | attachments, tombstones and the journal on disk | `attachment`, `clock` |
//! | [`liveness`] | is this attachment's pod alive | `attachment` |
//! | [`sweep`] | plan and apply: the one engine behind DEL, GC and sweep | all above |
//! | [`adopt`] | records for pods that have none | `liveness`, `ovsdb`, `registry`, `sweep` |
//! | [`plugin`] | the CNI verbs | `sweep` |
//! | [`cli`] | the admin commands | `sweep` |
//! | `daemon` | the sweeper that runs for good (feature `daemon`) | `sweep`, `adopt`, `liveness`, `ovsdb` |
//! | `fuzzing` | what fuzzers run (feature `fuzzing`); a body sits beside each parser | all parsers |

pub mod adopt;
pub mod attachment;
pub mod cli;
pub mod clock;
pub mod config;
#[cfg(feature = "daemon")]
pub mod daemon;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod liveness;
pub mod logging;
pub mod openflow;
pub mod ovsdb;
pub mod plugin;
pub mod registry;
pub mod stale;
pub mod sweep;
