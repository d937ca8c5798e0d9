//! The daemon on a real switch: deaths that nobody told it of, bad days, and what it says.

mod bad_days;
mod dashboard;
mod deaths;
mod figures;
mod life;
mod logs;
mod questions;
mod replica;
mod requests;
mod status;
mod turnover;
mod versions;
