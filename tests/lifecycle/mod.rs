//! A pod's life and its end (issue 2, scenarios 1, 2, 3 and 6): ADD, DEL, and what is left
//! when DEL never comes, on a real switch, read with `ovs-ofctl dump-flows`.

mod add;
mod del;
pub(crate) mod fixture;
mod orphans;
mod orphans_config;
mod registers;
