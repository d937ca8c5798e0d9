//! The database: which bridges, ports and interfaces there are, and whose they are.
//!
//! A small synchronous client of `ovsdb-server` (RFC 7047) over `<rundir>/db.sock`. One
//! [`Client`] lives for one call and has one deadline over everything it does.
//!
//! | file | job |
//! | --- | --- |
//! | `frame` | cuts the byte stream into JSON objects |
//! | `rpc` | requests, replies, echo, the deadline |
//! | `value` | OVSDB's atoms, sets and maps |
//! | `rows` | the columns we read, as the server sends them |
//! | [`snapshot`] | bridges with their ports and interfaces |
//! | [`client`] | what can be asked and changed |
//! | `narrow` | asking only for the rows that could be a pod's |
//! | `watch` | what the daemon waits for (feature `daemon`) |
//! | [`mod@marks`] | how each OVS CNI writes on a port whose it is |
//! | [`find`] | which port is an attachment's |

pub mod client;
pub mod error;
pub mod find;
mod frame;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
pub mod marks;
mod narrow;
mod places;
mod rows;
mod rpc;
pub mod snapshot;
mod value;
#[cfg(feature = "daemon")]
pub mod watch;

pub use client::{Arrived, Asked, Check, Client, Moment};
pub use error::Error;
pub use find::{Found, How, Wanted, find_for_delete, find_port, same_netns, write_port};
pub use marks::{Marks, marks};
pub use snapshot::{Bridge, Interface, Ofport, Ovn, Port, Snapshot, is_tunnel_or_patch};

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
