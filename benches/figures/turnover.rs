//! Ten thousand deaths of pods that re-use port numbers, addresses and register values: what the
//! living lose, and what is left of the dead, with the copy of the bridge and without.

#[path = "../../tests/pods/mod.rs"]
mod pods;
#[path = "../../tests/turnover/mod.rs"]
mod trial;

use std::time::Instant;

use trial::{Trial, run};

/// `OFG_DEATHS` asks for more or fewer, `OFG_REG0` for one configuration.
const DEATHS: usize = 10_000;

pub(crate) fn figures() {
    let deaths = std::env::var("OFG_DEATHS").map_or(DEATHS, |deaths| deaths.parse().unwrap());
    let only = std::env::var("OFG_REG0").ok();
    let rows = [("pod", 200_000), ("learn", 200_000), ("pod", 0), ("learn", 0)];
    for (reg0, replica_limit) in rows {
        if only.as_deref().is_some_and(|only| only != reg0) {
            continue;
        }
        let since = Instant::now();
        let found = run("bench-turnover", Trial { reg0, deaths, replica_limit });
        let copy = if replica_limit > 0 { "with the copy" } else { "without" };
        println!("reg0 {reg0}, {copy}: {found}; {} s", since.elapsed().as_secs());
        for (reason, count) in found.by_reason() {
            assert!(trial::EXPLAINED.contains(&reason) || replica_limit == 0, "{count} {reason}");
        }
        assert!(found.lost.is_empty());
    }
}
