//! The admin commands.

pub mod conflist;
