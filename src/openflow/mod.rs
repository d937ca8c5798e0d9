//! OpenFlow 1.3, 1.4 and 1.5 as Open vSwitch speaks them on `<rundir>/<bridge>.mgmt`.
//!
//! Synchronous, one [`Connection`] per bridge, everything within one deadline. Layers, top
//! down: requests ([`Connection`]'s methods, a file each) → `connection` (transport, xids,
//! echo) → codecs (`entry`, `oxm`, `actions`, `filter`) → `wire` (checked reading).
//!
//! What the switch makes easy to get wrong, and where it is dealt with:
//!
//! | trap | answer |
//! | --- | --- |
//! | a delete with an all-ones cookie mask is looked up by cookie and freezes the switch for seconds | [`STRICT_COOKIE_MASK`], `flow_mod.rs` |
//! | bridges that allow 1.3 only, or 1.0 and 1.5 only | three versions, `hello.rs` |
//! | a client that sent no FEATURES_REQUEST diverts table misses to userspace | sent with our hello, `connection.rs` |
//! | a dump stalls the switch 2 µs a flow | [`Filter`]s pipelined, [`Connection::tables`] to go table by table |
//! | errors on a bundle's members do not fail its commit | collected by xid, `bundle.rs` |
//! | a switch with ~100 unread replies stops reading, and a blocking writer hangs | reads while it writes, `connection.rs` |
//! | CT_FLUSH without an address it understands flushes everything | unusable addresses are refused, `conntrack.rs` |
//! | `out_port`/`out_group` left 0 match nothing, silently | always ANY, `flow_mod.rs` |
//! | a delete cannot be tied to one incarnation of an entry | a flow monitor tells which one it was, `monitor.rs` |
//! | 1.0-made VLAN matches resist a strict delete | [`Connection::delete_vlan_tci`]; dump again and report what stayed |

mod actions;
mod bundle;
mod bundle_message;
mod connection;
mod conntrack;
mod ct_flush;
mod describe;
mod dump;
mod effects;
mod entry;
mod error;
mod filter;
mod flow_mod;
mod flow_update;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod group;
mod hello;
mod lanes;
mod learn;
pub(crate) mod monitor;
mod multipart;
mod numbers;
mod oxm;
mod port;
mod show;
mod wire;

#[cfg(test)]
mod samples;
#[cfg(test)]
pub(crate) mod testing;

pub use bundle::Applied;
pub use connection::{Connection, Opening};
pub use describe::{Asked, PortsAndTables};
pub use dump::AskedDump;
pub use entry::{BadEntry, Entry, FlowKey, RawEntry};
pub use error::{Error, Malformed, SwitchError};
pub use filter::{Filter, MatchTerm, filters_for_address};
pub use flow_mod::STRICT_COOKIE_MASK;
pub use hello::Version;
pub use lanes::delete_strict_over;
pub use monitor::{Update, What};
