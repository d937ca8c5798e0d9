//! Thousands of random births and deaths that share a handful of addresses, port numbers and
//! register values, with an oracle that knows whose each entry is.

mod town;

use std::time::Instant;

use town::Town;

/// Births, deaths, ports removed, entries put back, sweeps. `OFG_STEPS` asks for more.
const STEPS: u32 = 2000;

#[test]
fn random_churn_leaves_nothing_stale_and_no_live_entry_missing() {
    let asked = std::env::var("OFG_STEPS").ok().map(|steps| steps.parse().unwrap());
    let steps = asked.unwrap_or(STEPS);
    let (since, mut town) = (Instant::now(), Town::new());
    let mut restarted = false;
    for round in 1.. {
        town.round();
        if round % 25 == 0 {
            town.settle();
        }
        if town.steps > steps / 2 && !restarted {
            restarted = true;
            town.restart();
        }
        if town.steps > steps {
            eprintln!("churn: {} steps, {round} rounds in {:?}", town.steps, since.elapsed());
            break;
        }
    }
    town.settle();
    town.end();
}
