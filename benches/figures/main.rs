//! The figures that the project promises: whole processes, ours and OVS's by turns.
//!
//! `cargo bench` runs all of them, `cargo bench -- add` some. See benches/README.md.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a measurement that cannot be made must end the run; its files need not be atomic"
)]

#[path = "../../tests/rig/mod.rs"]
mod rig;

mod add;
mod del;
mod echo;
mod measure;
mod stall;
mod sweep;
mod table;

use table::Table;

fn main() {
    let mut args = std::env::args_os().skip(1);
    if args.next().as_deref() == Some("--rusage".as_ref()) {
        measure::report_peak(args);
    }
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let wanted = |name: &str| words.is_empty() || words.iter().any(|word| word == name);
    let mut table = Table::default();
    if wanted("add") {
        add::figures(&mut table);
    }
    if wanted("del") {
        del::figures(&mut table);
    }
    if wanted("sweep") {
        sweep::figures(&mut table);
    }
    if wanted("stall") {
        stall::figures(&mut table);
    }
    println!("{table}");
    if table.missed() {
        // For machines that are to notice: a figure that is not met is a failure.
        std::process::exit(i32::from(std::env::var_os("BENCH_STRICT").is_some()));
    }
}
