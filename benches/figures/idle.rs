//! What it costs to have the daemon on a node where nobody dies.

use std::fs;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use super::apiserver::{ApiServer, pod};
use super::daemon::{SMALL, SMALL_FLOWS, SMALL_SHAPE, args, start, with_pods};
use super::gcd::Daemon;
use super::pods::{uid, who};
use super::rig::{Datapath, Runtime, Setup, eventually};
use super::table::Table;

const MINUTE: Duration = Duration::from_secs(60);
/// `0 %` of a processor: what `top` shows as 0.0 or 0.1.
const NOTHING: f64 = 0.1;
/// Real ones: each has processes that take more memory than what is measured.
const SANDBOXES: usize = 25;
/// What a pod takes in the API server's JSON.
const POD_BYTES: usize = 6000;
const NODE: &str = "n1";

/// A line of `/proc/PID/status`, in bytes.
pub(crate) fn memory(daemon: &Daemon, line: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let value = status.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(':')).unwrap();
    value.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

/// Processor time of all threads of a process, in nanoseconds where `/proc/PID/stat` has ticks
/// of ten milliseconds.
pub(crate) fn processor(pid: i32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let time = |task: fs::DirEntry| -> u64 {
        // A thread may have ended by now.
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|time| time.parse().ok()).unwrap_or(0)
    };
    Duration::from_nanos(tasks.map(time).sum())
}

/// A minute in which nothing happens, after everything that is looked at seldom has been.
fn minute(table: &mut Table, daemon: &Daemon, what: &str) {
    daemon.signal(Signal::SIGHUP);
    thread::sleep(Duration::from_secs(3));
    let (_, before) = sweeps(daemon);
    let (ticks, exact) = (daemon.cpu(), processor(daemon.pid()));
    thread::sleep(MINUTE);
    let (ticks, exact) = (daemon.cpu() - ticks, processor(daemon.pid()).saturating_sub(exact));
    // In /run/netns, where containerd has its namespaces, others may be at work.
    let (reasons, after) = sweeps(daemon);
    eprintln!("sweeps until after that minute: {reasons:?}");
    let n = after - before;
    let title = format!("Daemon, idle for a minute ({n} sweeps), {what}: processor, by ticks");
    table.share(&title, ticks, MINUTE, NOTHING);
    table.told(&format!("{title}; exactly"), exact);
}

/// Sweeps so far, by trigger, and all of them.
fn sweeps(daemon: &Daemon) -> (Vec<(String, f64)>, f64) {
    let metrics = daemon.metrics().into_iter();
    let all: Vec<_> = metrics.filter(|(name, _)| name.starts_with("sweeps_total")).collect();
    let sum = all.iter().map(|(_, n)| n).sum();
    (all, sum)
}

pub(crate) fn netns_alone(table: &mut Table, daemon: &Daemon, what: &str) {
    minute(table, daemon, what);
    table.memory("the same: resident, netns alone", memory(daemon, "VmRSS"), 12);
    table.told_memory("the same: peak until then", memory(daemon, "VmHWM"));
}

/// With a real containerd, and a stand-in for the API server.
pub(crate) fn all_sources(table: &mut Table) {
    let node = Setup::new().datapath(Datapath::Dummy).up("bench-sources");
    let pod_set = with_pods(&node, SMALL, SMALL_SHAPE, SMALL_FLOWS);
    let runtime = Runtime::start(&node);
    let sandboxes: Vec<_> = (0..SANDBOXES).map(|n| runtime.run_sandbox(&format!("s{n}"))).collect();
    let server = ApiServer::start();
    let uids = sandboxes.iter().map(|s| (s.uid.clone(), "10.244.1.1".to_owned()));
    for (uid, ip) in uids.chain((0..SMALL).map(|n| (uid(n), who(n).ip))) {
        let mut pod = pod(&uid, NODE, "Running", &[&ip]);
        pod["metadata"]["managedFields"] = json!("x".repeat(POD_BYTES));
        server.put(pod);
    }
    let kubeconfig = node.dir.join("kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         clusters: [{{name: k, cluster: {{server: 'http://{}'}}}}]\n\
         contexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n\
         users: [{{name: u, user: {{}}}}]\n",
        server.address
    );
    fs::write(&kubeconfig, text).unwrap();
    let mut args = args(&pod_set);
    args.push("--liveness=netns,cri,kubernetes".to_owned());
    args.push(format!("--cri-socket={}", runtime.socket().display()));
    args.push(format!("--kubeconfig={}", kubeconfig.display()));
    args.push(format!("--node-name={NODE}"));
    let daemon = start(&node, &args);
    for source in ["netns", "cri", "kubernetes"] {
        let up = format!("source_up{{source=\"{source}\"}}");
        eventually(&up, || daemon.metric(&up) == 1.0);
    }
    let what = format!(
        "{} attachments, 10,000 flows, all sources ({SANDBOXES} sandboxes, {} pods)",
        SMALL + SANDBOXES,
        SMALL + SANDBOXES
    );
    minute(table, &daemon, &what);
    table.memory("the same: resident, all sources", memory(&daemon, "VmRSS"), 24);
    table.told_memory("the same: peak until then", memory(&daemon, "VmHWM"));
    assert_eq!(daemon.metric("attachments{state=\"active\"}"), (SMALL + SANDBOXES) as f64);
    daemon.no_harm();
}
