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

#[path = "../../tests/apiserver/mod.rs"]
mod apiserver;
#[path = "../../tests/gcd/mod.rs"]
mod gcd;

mod add;
mod burden;
mod churn;
mod compare;
mod daemon;
mod del;
mod echo;
mod idle;
mod measure;
mod paired;
mod pods;
mod rivals;
mod scale;
mod stall;
mod sweep;
mod table;
mod turnover;
mod watch;

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
    // The parts that make up the daemon's figures.
    let wanted = |part: &str| wanted("daemon") || wanted(part);
    if wanted("daemon-deaths") {
        daemon::small(&mut table);
    }
    if wanted("daemon-replica") {
        daemon::replica(&mut table);
    }
    if wanted("daemon-replica-large") {
        daemon::replica_of_large(&mut table);
    }
    if wanted("daemon-alike") {
        daemon::alike(&mut table);
    }
    if wanted("daemon-large") {
        daemon::large(&mut table);
    }
    if wanted("daemon-many") {
        daemon::many(&mut table);
    }
    if wanted("daemon-sources") {
        idle::all_sources(&mut table);
    }
    if wanted("daemon-churn") {
        churn::figures(&mut table);
    }
    // These make tables of their own, and are not among "all".
    if words.iter().any(|word| word == "compare") {
        println!("{}", compare::figures());
    }
    if words.iter().any(|word| word == "scale") {
        scale::figures();
    }
    let named = |name: &str| words.iter().any(|word| word == name);
    if named("paired") {
        paired::figures(&mut table);
    }
    if named("daemon-load") {
        burden::load(&mut table);
    }
    if named("daemon-adds") {
        burden::adds(&mut table);
    }
    if named("daemon-built") {
        burden::built(&mut table, 100_000, 40);
    }
    if named("daemon-million") {
        burden::built(&mut table, 1_000_000, 256);
        burden::flood(&mut table);
    }
    if named("daemon-drain") {
        burden::drain(&mut table);
    }
    if named("daemon-turnover") {
        turnover::figures();
    }
    println!("{table}");
    if table.missed() {
        // For machines that are to notice: a figure that is not met is a failure.
        std::process::exit(i32::from(std::env::var_os("BENCH_STRICT").is_some()));
    }
}
