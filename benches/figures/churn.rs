//! An hour of churn in a few minutes: as many deaths and births, does the daemon grow?
//! `OFG_CHURN=hour` takes the hour itself, with the defaults.

use std::thread;
use std::time::{Duration, Instant};

use super::daemon::{args, start, with_pods};
use super::gcd::Daemon;
use super::idle::memory;
use super::pods::{Shape, who};
use super::rig::{Datapath, Setup};
use super::table::Table;

/// Twice what dies within ten seconds, and some: more would be the brake's.
const PODS: usize = 600;
const FLOWS: usize = 13_000;
/// Every so many batches by DEL.
const DELETED: usize = 4;
const MOST: f64 = 2.0;

/// They die and join so many at a time, once a second.
struct Pace {
    batch: usize,
    batches: usize,
    longest: Duration,
    /// Seconds.
    linger: u64,
    interval: &'static str,
}

/// Faster by fifteen: a minute of an hour has as many dead to remember, and the net and with it
/// the scans of whole bridges come as often. On a busy machine a batch takes longer, and there are
/// fewer.
const FAST: Pace = Pace {
    batch: 15,
    batches: 240,
    longest: Duration::from_secs(300),
    linger: 2,
    interval: "--interval=2s",
};
const HOUR: Pace = Pace {
    batch: 1,
    batches: 3600,
    longest: Duration::from_secs(3600),
    linger: 30,
    interval: "--interval=30s",
};

pub(crate) fn figures(table: &mut Table) {
    let hour = std::env::var("OFG_CHURN").is_ok_and(|churn| churn == "hour");
    let pace = if hour { HOUR } else { FAST };
    let shape = Shape { policy: 5, tables: 1, linger: pace.linger, who };
    let node = Setup::new().datapath(Datapath::Dummy).up("bench-churn");
    let pod_set = with_pods(&node, PODS, shape, FLOWS);
    let mut args = args(&pod_set);
    args.push(pace.interval.to_owned());
    let daemon = start(&node, &args);
    thread::sleep(Duration::from_secs(1));
    let mut samples = vec![sample(&daemon, 0)];
    let since = Instant::now();
    let mut batches = 0;
    while batches < pace.batches && since.elapsed() < pace.longest {
        let (began, batch) = (Instant::now(), batches);
        batches += 1;
        let dead = batch * pace.batch..(batch + 1) * pace.batch;
        let born = PODS + dead.start..PODS + dead.end;
        if batch.is_multiple_of(DELETED) {
            dead.clone().for_each(|n| drop(pod_set.call(n, "DEL").run().ok()));
        }
        pod_set.die_all(dead.clone());
        pod_set.del_ports(dead);
        pod_set.join(born);
        samples.push(sample(&daemon, batches * pace.batch));
        thread::sleep(Duration::from_secs(1).saturating_sub(began.elapsed()));
    }
    let took = since.elapsed();
    // So that it may give back what it needed for the last.
    thread::sleep(Duration::from_secs(5));
    samples.push(sample(&daemon, batches * pace.batch));
    told(table, &daemon, &samples, (batches, pace.batch), took);
}

/// Deaths until then, and resident bytes.
fn sample(daemon: &Daemon, deaths: usize) -> (f64, f64) {
    (deaths as f64, memory(daemon, "VmRSS") as f64)
}

fn told(
    table: &mut Table,
    daemon: &Daemon,
    samples: &[(f64, f64)],
    (batches, batch): (usize, usize),
    took: Duration,
) {
    let warm = &samples[samples.len() / 4..];
    let tenth = warm.len() / 10;
    let mean = |some: &[(f64, f64)]| some.iter().map(|s| s.1).sum::<f64>() / some.len() as f64;
    let (before, after) = (mean(&warm[..tenth]), mean(&warm[warm.len() - tenth..]));
    let what = format!(
        "Daemon, {} deaths and births within {} s, {PODS} attachments, {FLOWS} flows",
        batch * batches,
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
    let by_del = batches.div_ceil(DELETED) * batch;
    assert_eq!(orphans, (batches * batch - by_del) as f64, "not all that died were found");
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
