//! The core: which flows are stale. Pure: no I/O, no clock, no configuration files.
//!
//! A dump is read twice. [`Survey`] sees every flow once, learns register values from it
//! and says which entries are worth keeping; [`Judge`] gives those their [`Verdict`].
//! The promise that every rule is read against: a live pod's entries are never deleted,
//! so whatever is in doubt is kept.
//!
//! | file | job |
//! | --- | --- |
//! | [`input`] | the input beside the entries: who is dead and who is alive |
//! | `tokens`, `owners` | tokens, and who owns a port, an address, a register value |
//! | `survey`, `learned` | what a dump shows of registers: the pass over it, and what is found |
//! | `lesson`, `claims` | what one flow shows; who has which value |
//! | `proof` | whether a register value is a dead attachment's own |
//! | `vlans` | in which VLAN an address is |
//! | `carried` | registers in which a pipeline carries a port's number or its VLAN |
//! | `guards` | when an address has an owner whom we cannot see |
//! | `verdict`, `pair` | the rules; rule 5 |
//! | `living` | whether a flow that names a dead token may be a living pod's own |
//! | `basis` | which token a network's register values are computed from |
//! | [`workload`] | which pods are made from one template |
//! | `recheck` | whether a verdict still holds when it is carried out |
//! | `reason` | each way to be stale or kept, as a sentence |

pub mod input;

mod basis;
mod carried;
mod claims;
mod guards;
mod learned;
mod lesson;
mod living;
mod owners;
mod pair;
mod proof;
mod reason;
mod recheck;
mod survey;
mod tokens;
mod verdict;
mod vlans;

pub use basis::{Basis, BasisFacts, ENOUGH_PORTS, PortValue};
pub use claims::Owner;
pub use learned::{Learned, NetworkFacts, Sharers, Shown};
pub use reason::{NotProven, Reason};
pub use recheck::{Recheck, Standing};
pub use survey::Survey;
pub use tokens::{RegisterToken, Token};
pub use verdict::{Judge, Verdict};

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
