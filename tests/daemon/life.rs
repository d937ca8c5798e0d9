//! The daemon's own life: signals, options, systemd, what it serves, what it costs.

use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::gcd::{Daemon, Systemd, settle};
use crate::rig::{Node, Port, Setup, eventually, layouts, sleep_ms};

#[test]
fn sigterm_ends_it_soon_also_in_the_middle_of_a_sweep() {
    let node = Setup::new().up("daemon_sigterm");
    let (pod, other) = (node.run_pod("web"), node.run_pod("db"));
    node.install("br0", &layouts::classifier(&pod.who(0x1001)));
    let stay = node.install("br0", &layouts::classifier(&other.who(0x1002)));
    // A second on a machine that has it: its timeouts are longer than this.
    let soon = Duration::from_secs(5);
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let (code, took) = Daemon::start(&node).end(signal);
        eprintln!("{signal}: {took:?}");
        assert_eq!(code, Some(0));
        assert!(took < soon, "{took:?}");
    }
    let daemon = Daemon::start(&node);
    node.vswitchd.pause();
    node.vanish(&pod, Port::Stays);
    eventually("it has begun", || daemon.log().contains("is dead: "));
    let (code, took) = daemon.end(Signal::SIGTERM);
    eprintln!("in a sweep: {took:?}");
    assert_eq!(code, Some(0));
    assert!(took < soon, "{took:?}");
    node.vswitchd.resume();
    let _next = Daemon::start(&node);
    eventually("the next one finishes", || node.dump("br0") == stay);
}

#[test]
fn sighup_sweeps_at_once() {
    let node = Setup::new().up("daemon_sighup");
    let daemon = Daemon::start(&node);
    settle();
    let count = "sweeps_total{trigger=\"hangup\",result=\"ok\"}";
    assert_eq!(daemon.metric(count), 0.0);
    daemon.signal(Signal::SIGHUP);
    eventually("it has swept", || daemon.metric(count) == 1.0);
}

#[test]
fn systemd_is_told() {
    let node = Setup::new().up("daemon_systemd");
    let systemd = Systemd::new(&node);
    let daemon = Daemon::start_with(&node, &["--interval=10m"], Some(&systemd.path));
    systemd.hears("READY=1");
    systemd.hears("WATCHDOG=1");
    systemd.hears("WATCHDOG=1");
    assert_eq!(daemon.end(Signal::SIGTERM).0, Some(0));
    systemd.hears("STOPPING=1");
}

#[test]
fn metrics_are_valid_in_both_formats() {
    let node = Setup::new().up("daemon_metrics");
    let (pod, other) = (node.run_pod("web"), node.run_pod("db"));
    node.install("br0", &layouts::classifier(&pod.who(0x1001)));
    node.install("br0", &layouts::classifier(&other.who(0x1002)));
    let daemon = Daemon::start(&node);
    node.vanish(&pod, Port::Stays);
    eventually("something was deleted", || daemon.sum("flows_deleted_total") == 15.0);
    let (_, text) = daemon.get("/metrics");
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped());
    promtool.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = promtool.spawn().expect("promtool (apt-get install prometheus)");
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
    let checked = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(checked.status.success() && said.is_empty(), "{said}\n{text}");
    for name in [
        "build_info{version=",
        "attachments{state=\"active\"}",
        "orphans_total{source=\"netns\"} 1",
        "flows_deleted_total{reason=\"matches-port\"}",
        "tombstones",
        "oldest_tombstone_age_seconds",
        "oldest_unfinished_tombstone_age_seconds",
        "corrupt_records",
        "sweeps_total{trigger=\"netns\",result=\"ok\"}",
        "sweep_duration_seconds_bucket",
        "last_sweep_timestamp_seconds",
        "dump_flows{bridge=\"br0\"}",
        "cleanup_latency_seconds_bucket",
        "ovs_up{server=\"ovsdb-server\"} 1",
        "ovs_up{server=\"ovs-vswitchd\"} 1",
        "source_up{source=\"netns\"} 1",
        "flows_put_back_total 0",
        "collateral_suspicions_total 0",
        "brake_engaged 0",
        "brake_pulled_total 0",
        "paused 0",
        "dangling_flows",
    ] {
        assert!(text.contains(&format!("\novs_flow_gc_{name}")), "{name}: {text}");
    }

    let accept = "application/openmetrics-text;version=1.0.0";
    let (status, head, open) = daemon.get_as("/metrics", accept);
    assert_eq!(status, 200);
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(open.ends_with("# EOF\n"), "{open}");
    assert_eq!(daemon.get("/nothing").0, 404);
}

#[test]
fn wrong_usage_is_said_and_exits_with_2() {
    let node = Setup::new().up("daemon_usage");
    let run = |args: &[&str], env: &[(&str, &str)]| {
        let mut command = node.command(env!("CARGO_BIN_EXE_ovs-flow-gcd"));
        command.args(args).envs(env.iter().copied());
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said, String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, said, _) = run(&["--interval=0s"], &[]);
    assert_eq!((code, said.contains("from 100ms to 60m")), (Some(2), true), "{said}");
    let (code, said, _) = run(&[], &[("OVS_FLOW_GC_LISTEN", "everywhere")]);
    assert_eq!((code, said.contains("127.0.0.1:9477")), (Some(2), true), "{said}");
    let (code, _, help) = run(&["--help"], &[]);
    assert_eq!(code, Some(0));
    for taught in ["OVS_FLOW_GC_INTERVAL", "SIGHUP", "OVS_RUNDIR", "--netns-dir", "Exit status"] {
        assert!(help.contains(taught), "{taught}: {help}");
    }
    // A port that is taken.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let state = node.state_dir.display().to_string();
    let (code, said, _) = run(&["--listen", &address, "--state-dir", &state], &[]);
    assert_eq!((code, said.contains(&address)), (Some(1), true), "{said}");
    assert!(said.contains("--listen"), "{said}");
}

/// Idle it does nothing at all: no wake-ups that could be seen.
#[test]
fn idle_costs_nothing() {
    let node = Node::new("daemon_idle");
    let daemon = Daemon::start(&node);
    settle();
    let before = daemon.cpu();
    sleep_ms(3000);
    let used = daemon.cpu() - before;
    eprintln!("idle: {used:?} of 3 s; {} kB resident", daemon.rss());
    // Other tests delete namespaces meanwhile: each is one read of the records.
    assert!(used <= Duration::from_millis(500), "{used:?}");
}
