//! Pods that come and go, with few port numbers, addresses and register values, beside the daemon.

use crate::turnover::{EXPLAINED, Trial, run};

/// `OFG_DEATHS` asks for more.
fn deaths() -> usize {
    std::env::var("OFG_DEATHS").map_or(100, |deaths| deaths.parse().unwrap())
}

/// Nobody alive loses an entry. What is left of the dead has one of these reasons.
#[track_caller]
fn run_with(test: &str, reg0: &'static str, explained: &[&str]) {
    let found = run(test, Trial { reg0, deaths: deaths(), replica_limit: 200_000 });
    eprintln!("reg0 {reg0}: {found}");
    assert!(found.lost.is_empty(), "{:#?}", found.lost);
    let left = found.by_reason();
    assert!(left.keys().all(|reason| explained.contains(reason)), "{:#?}", found.left);
}

#[test]
fn values_of_pods() {
    run_with("turnover_pod", "pod", &["unknown-value"]);
}

#[test]
fn values_that_are_learned() {
    run_with("turnover_learn", "learn", &EXPLAINED);
}
