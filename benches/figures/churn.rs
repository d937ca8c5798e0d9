//! An hour of churn in a few minutes: as many deaths and births, does the daemon grow?

use std::thread;
use std::time::{Duration, Instant};

use super::crowd::{Shape, who};
use super::daemon::{args, crowded, start};
use super::guard::Daemon;
use super::idle::memory;
use super::rig::{Datapath, Setup};
use super::table::Table;

/// Twice what dies within ten seconds, and some: more would be the brake's.
const PODS: usize = 600;
const SHAPE: Shape = Shape { policy: 5, tables: 1, linger: LINGER, who };
const FLOWS: usize = 13_000;
/// They die and join so many at a time, once a second: one a second for an hour. On a busy
/// machine a batch takes longer, and there are fewer.
const BATCH: usize = 15;
const BATCHES: usize = 240;
/// As much shorter than by default: a minute of an hour has as many dead to remember.
const LINGER: u64 = 2;
const LONGEST: Duration = Duration::from_secs(300);
/// Every so many batches by DEL.
const DELETED: usize = 4;
/// Also faster by fifteen: the net, and with it the looks at everything.
const INTERVAL: &str = "--interval=2s";
const MOST: f64 = 2.0;

pub(crate) fn figures(table: &mut Table) {
    let node = Setup::new().datapath(Datapath::Dummy).up("bench-churn");
    let crowd = crowded(&node, PODS, SHAPE, FLOWS);
    let mut args = args(&crowd);
    args.push(INTERVAL.to_owned());
    let daemon = start(&node, &args);
    thread::sleep(Duration::from_secs(1));
    let mut samples = vec![sample(&daemon, 0)];
    let since = Instant::now();
    let mut batches = 0;
    while batches < BATCHES && since.elapsed() < LONGEST {
        let (began, batch) = (Instant::now(), batches);
        batches += 1;
        let dead = batch * BATCH..(batch + 1) * BATCH;
        let born = PODS + dead.start..PODS + dead.end;
        if batch.is_multiple_of(DELETED) {
            dead.clone().for_each(|n| drop(crowd.call(n, "DEL").run().ok()));
        }
        crowd.die_all(dead.clone());
        crowd.del_ports(dead);
        crowd.join(born);
        samples.push(sample(&daemon, batches * BATCH));
        thread::sleep(Duration::from_secs(1).saturating_sub(began.elapsed()));
    }
    let took = since.elapsed();
    // So that it may give back what it needed for the last.
    thread::sleep(Duration::from_secs(5));
    samples.push(sample(&daemon, batches * BATCH));
    told(table, &daemon, &samples, batches, took);
}

/// Deaths until then, and resident bytes.
fn sample(daemon: &Daemon, deaths: usize) -> (f64, f64) {
    (deaths as f64, memory(daemon, "VmRSS") as f64)
}

fn told(
    table: &mut Table,
    daemon: &Daemon,
    samples: &[(f64, f64)],
    batches: usize,
    took: Duration,
) {
    let warm = &samples[samples.len() / 4..];
    let tenth = warm.len() / 10;
    let mean = |some: &[(f64, f64)]| some.iter().map(|s| s.1).sum::<f64>() / some.len() as f64;
    let (before, after) = (mean(&warm[..tenth]), mean(&warm[warm.len() - tenth..]));
    let what = format!(
        "Daemon, {} deaths and births within {} s, {PODS} attachments, {FLOWS} flows",
        BATCH * batches,
        took.as_secs()
    );
    table.told_memory(&format!("{what}: resident, first"), samples[0].1 as u64);
    table.told_memory("the same: resident, last", samples[samples.len() - 1].1 as u64);
    table.told_memory("the same: peak", memory(daemon, "VmHWM"));
    table.grown("the same: growth after the first quarter", after - before, MOST);
    let some = samples.iter().step_by((samples.len() / 20).max(1));
    let some: Vec<_> = some.map(|(n, bytes)| format!("{n}: {:.1}", bytes / 1e6)).collect();
    eprintln!("resident MB after so many deaths: {}", some.join(", "));
    eprintln!("slope after the first quarter: {:+.1} bytes a death", slope(warm));
    let orphans = daemon.sum("orphans_total");
    eprintln!(
        "{orphans} orphans, {} sweeps, {} tombstones, {} deleted, brake pulled {}",
        daemon.sum("sweeps_total"),
        daemon.metric("tombstones"),
        daemon.sum("flows_deleted_total"),
        daemon.metric("brake_pulled_total")
    );
    let by_del = batches.div_ceil(DELETED) * BATCH;
    assert_eq!(orphans, (batches * BATCH - by_del) as f64, "not all that died were found");
    daemon.no_harm();
}

/// Least squares.
fn slope(samples: &[(f64, f64)]) -> f64 {
    let n = samples.len() as f64;
    let (x, y) = samples.iter().fold((0.0, 0.0), |(x, y), s| (x + s.0 / n, y + s.1 / n));
    let (above, below) = samples.iter().fold((0.0, 0.0), |(above, below), s| {
        (above + (s.0 - x) * (s.1 - y), below + (s.0 - x).powi(2))
    });
    above / below
}
