//! OpenFlow 1.3, 1.4 and 1.5 as Open vSwitch speaks them on `<rundir>/<bridge>.mgmt`.
//!
//! Synchronous, one [`Connection`] per bridge, everything within one deadline. `client` asks:
//! a file for each kind of request, on `connection` (transport, xids, echo). `codec` reads and
//! writes the bytes; `wire` is its checked reading. `text` prints entries as `ovs-ofctl` does.
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
//! | a delete cannot be tied to one incarnation of an entry | a flow monitor reports which one it was, `monitor.rs` |
//! | 1.0-made VLAN matches resist a strict delete | [`Connection::delete_vlan_tci`]; dump again and report what stayed |

pub(crate) mod client;
mod codec;
mod error;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod text;

#[cfg(test)]
mod samples;
#[cfg(test)]
pub(crate) mod testing;

pub use client::bundle::Applied;
pub use client::connection::{Connection, Opening};
pub use client::describe::{Asked, AskedGroups, Heard, PortsAndTables};
pub use client::dump::AskedDump;
pub use client::monitor::{Update, What};
pub use client::parallel::delete_strict_parallel;
pub use codec::entry::{BadEntry, Entry, FlowKey, PackedEntry, RawEntry, Unreported};
pub use codec::filter::{Filter, filters_for_address};
pub use codec::flow_mod::STRICT_COOKIE_MASK;
pub use codec::hello::Version;
pub use error::{Error, Malformed, SwitchError};
