//! The nouns that everything above shares: ids, addresses, rows, the decoded entry, the record.

pub mod attachment;
pub mod flow;
pub mod records;
pub mod register;
pub mod row;
pub mod table;
pub(crate) mod text;
pub mod workload;
