//! What the daemon makes of it: every message of its start and of its first sweep goes wrong
//! once, and it gets over that by itself.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::checks::{End, Extent, Summary, extent, wanted};
use super::proxy::{Fault, Plan, Proxy, Way};
use super::verbs::{Stage, Verb};
use crate::gcd::Daemon;
use crate::rig::sleep_ms;

/// How long it may take to get over a fault: its retries back off from a second, and a question
/// to a switch that says nothing is given up after two.
const PATIENCE: Duration = Duration::from_secs(12);

#[test]
fn the_daemon_gets_over_every_message_that_goes_wrong_once() {
    let mut stage = Stage::new("faults::daemon", Verb::Sweep);
    let node = &stage.fixture.node;
    let proxy = Proxy::start(&node.run_dir, node.dir.join("proxy"));
    let mut names = stage.names();
    names.insert(0, (proxy.dir.display().to_string(), "RUN"));
    let mut summary = Summary::new("daemon messages", names);

    let seen = {
        let (end, log) = sweep(&mut stage, &proxy, None);
        assert_eq!(end, Ok(End::AsIfNothing), "{log}");
        proxy.seen()
    };
    assert!(seen.len() > 40, "{seen:?}");
    // In a sample: the first of each kind of message.
    let mut kinds = Vec::new();
    let mut slowest = Duration::ZERO;
    for (at, message) in seen.iter().enumerate() {
        let kind = (message.peer, message.way, message.what.clone());
        let is_new = !kinds.contains(&kind);
        kinds.push(kind);
        let bundled = message.what == "bundle add";
        if !is_new && (bundled || extent() == Extent::Sample) {
            continue;
        }
        let all = Fault::all(message.peer, message.way);
        let by_turns = [all[at % all.len()]];
        for fault in if extent() == Extent::All { all } else { &by_turns } {
            let (peer, way, number) = (message.peer, message.way, Some(message.number));
            let case =
                format!("daemon {peer:?} {way:?} {} {fault:?}: {}", message.number, message.what);
            if !wanted(&case) {
                continue;
            }
            let stall = Duration::from_millis(1500);
            let plan = Plan { peer, way, number, fault: *fault, stall };
            let (end, log) = sweep(&mut stage, &proxy, Some(plan));
            slowest = slowest.max(log.took);
            let kind = format!("{peer:?} {fault:?}").to_lowercase();
            // Which of its threads asks first is not settled.
            summary.add(&case, &kind, proxy.happened() > 0, &log, end);
        }
    }
    let asked = seen.iter().filter(|s| s.way == Way::Asked).count();
    summary.end(
        20,
        &format!("; {asked} requests, {} answers; over it within {slowest:?}", seen.len() - asked),
    );
}

/// A daemon is started on a node where somebody has died, and must clean up behind him.
fn sweep(
    stage: &mut Stage,
    proxy: &Proxy,
    plan: Option<Plan>,
) -> (Result<End, String>, crate::rig::Outcome) {
    stage.before();
    proxy.expect(plan);
    let run_dir = format!("OVS_RUNDIR={}", proxy.dir.display());
    let since = Instant::now();
    let prefix = ["env", run_dir.as_str()];
    let daemon = Daemon::start_behind(&stage.fixture.node, &prefix, &["--interval=10m"], None);
    let mut end = Err("never".to_owned());
    while since.elapsed() < PATIENCE && end.is_err() {
        sleep_ms(10);
        end = stage.clean();
        if end.as_ref().is_err_and(|why| why.contains("GONE")) {
            break;
        }
    }
    let took = since.elapsed();
    let stderr = daemon.log();
    let (code, _) = daemon.end(Signal::SIGTERM);
    let (command, stdout) = ("ovs-flow-gcd".to_owned(), String::new());
    let outcome = crate::rig::Outcome { command, code, stdout, stderr, took };
    let end = end.and_then(|()| {
        if outcome.stderr.contains("panicked") {
            return Err("panicked".to_owned());
        }
        if outcome.code != Some(0) {
            return Err("did not end well".to_owned());
        }
        let complained = !super::checks::complaints(&outcome).is_empty();
        Ok(if complained { End::Finished } else { End::AsIfNothing })
    });
    (end, outcome)
}
