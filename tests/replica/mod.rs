//! The standing copy of a bridge's flow table, compared with a dump after every step of a random
//! walk of other clients. Needs root and Open vSwitch 3.0 or later.
//!
//! `OFG_REPLICA_STEPS=20000 OFG_SEED=7 cargo test --test switch replica::` makes another, longer walk.

mod faults;
mod spare;
mod walk;
