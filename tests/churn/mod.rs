//! Thousands of random births and deaths that share a handful of addresses, port numbers and
//! register values, with an oracle that knows whose each entry is.

mod node;

use std::time::Instant;

use node::Churn;

/// Births, deaths, ports removed, entries put back, sweeps. `OFG_STEPS` asks for more.
const STEPS: u32 = 2000;

#[test]
fn random_churn_leaves_nothing_stale_and_no_live_entry_missing() {
    let asked = std::env::var("OFG_STEPS").ok().map(|steps| steps.parse().unwrap());
    let steps = asked.unwrap_or(STEPS);
    let (since, mut churn) = (Instant::now(), Churn::new());
    let mut restarted = false;
    for round in 1.. {
        churn.round();
        if round % 25 == 0 {
            churn.settle();
        }
        if churn.steps > steps / 2 && !restarted {
            restarted = true;
            churn.restart();
        }
        if churn.steps > steps {
            eprintln!("churn: {} steps, {round} rounds in {:?}", churn.steps, since.elapsed());
            break;
        }
    }
    churn.settle();
    churn.end();
}
