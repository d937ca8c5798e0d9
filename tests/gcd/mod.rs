//! An `ovs-flow-gcd` of a node's own.

#![allow(dead_code, reason = "two test crates share this module, and each uses a part of it")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::rig::{Node, eventually, sleep_ms};

/// A running daemon; dropping it kills it.
pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
    /// Where it listens.
    address: String,
}

impl Daemon {
    /// Starts it with an interval that no test waits for, and waits until it is ready.
    #[track_caller]
    pub(crate) fn start(node: &Node) -> Self {
        let daemon = Self::start_with(node, &["--interval=10m"], None);
        eventually("the daemon is ready", || daemon.get("/readyz").0 == 200);
        daemon
    }

    /// Starts it, and waits until it listens.
    #[track_caller]
    pub(crate) fn start_with(node: &Node, args: &[&str], notify: Option<&str>) -> Self {
        Self::start_behind(node, &[], args, notify)
    }

    /// Starts it behind a prefix such as `unshare --mount`, and waits until it listens.
    #[track_caller]
    pub(crate) fn start_behind(
        node: &Node,
        prefix: &[&str],
        args: &[&str],
        notify: Option<&str>,
    ) -> Self {
        let number = fs::read_dir(&node.dir).unwrap().count();
        let log = node.dir.join(format!("daemon-{number}.log"));
        let program = std::env::var("OFG_DAEMON");
        let program = program.unwrap_or_else(|_| env!("CARGO_BIN_EXE_ovs-flow-gcd").to_owned());
        let mut words = prefix.iter().copied().chain([program.as_str()]);
        let mut command = node.command(words.next().unwrap());
        command
            .args(words)
            .arg("--state-dir")
            .arg(&node.state_dir)
            .arg("--listen=127.0.0.1:0")
            .env("OVS_FLOW_GC_LOG_LEVEL", "debug")
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap());
        if let Some(socket) = notify {
            command.env("NOTIFY_SOCKET", socket).env("WATCHDOG_USEC", "300000");
        }
        let child = command.spawn().unwrap();
        let mut daemon = Self { child, log, address: String::new() };
        eventually("the daemon listens", || {
            let log = daemon.log();
            let address = log.split("listening on ").nth(1).and_then(|rest| rest.lines().next());
            // The line may be JSON.
            daemon.address = address.unwrap_or_default().trim_end_matches("\"}").to_owned();
            assert!(daemon.child.try_wait().unwrap().is_none(), "it has ended:\n{log}");
            !daemon.address.is_empty()
        });
        daemon
    }

    /// What it has said.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id().try_into().unwrap()
    }

    #[track_caller]
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Its exit status, and how long it took.
    #[track_caller]
    pub(crate) fn end(mut self, signal: Signal) -> (Option<i32>, Duration) {
        let since = Instant::now();
        self.signal(signal);
        eventually("the daemon ends", || self.child.try_wait().unwrap().is_some());
        (self.child.wait().unwrap().code(), since.elapsed())
    }

    /// Status and body of a GET.
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let (status, _, body) = self.get_as(path, "*/*");
        (status, body)
    }

    /// Status, head and body of a GET with this `Accept`.
    #[track_caller]
    pub(crate) fn get_as(&self, path: &str, accept: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_lowercase(), body.to_owned())
    }

    /// Every sample of `/metrics`, by its name and labels.
    #[track_caller]
    pub(crate) fn metrics(&self) -> BTreeMap<String, f64> {
        let (status, text) = self.get("/metrics");
        assert_eq!(status, 200);
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let sample = |line: &str| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            Some((name.strip_prefix("ovs_flow_gc_")?.to_owned(), value.parse().unwrap()))
        };
        samples.filter_map(sample).collect()
    }

    /// One sample; 0 if it is not there.
    #[track_caller]
    pub(crate) fn metric(&self, name: &str) -> f64 {
        self.metrics().get(name).copied().unwrap_or(0.0)
    }

    /// All samples of a family together.
    #[track_caller]
    pub(crate) fn sum(&self, family: &str) -> f64 {
        let of = |name: &&String| name.split('{').next() == Some(family);
        let metrics = self.metrics();
        metrics.keys().filter(of).map(|name| metrics[name]).sum()
    }

    /// What no test may see: nobody alive was touched.
    #[track_caller]
    pub(crate) fn no_harm(&self) {
        assert_eq!(self.metric("collateral_suspicions_total"), 0.0);
    }

    /// Resident memory, in kilobytes.
    pub(crate) fn rss(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Processor time used so far.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the daemon said:\n{}", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// systemd's end of the notifications.
pub(crate) struct Systemd {
    socket: UnixDatagram,
    pub(crate) path: String,
}

impl Systemd {
    pub(crate) fn new(node: &Node) -> Self {
        let path = node.dir.join("notify").display().to_string();
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self { socket, path }
    }

    /// Waits for a message with this line in it.
    #[track_caller]
    pub(crate) fn hears(&self, line: &str) {
        let until = Instant::now() + Duration::from_secs(10);
        let mut buffer = [0; 4096];
        while Instant::now() < until {
            let n = self.socket.recv(&mut buffer).unwrap_or_else(|e| panic!("no {line}: {e}"));
            if String::from_utf8_lossy(&buffer[..n]).lines().any(|l| l == line) {
                return;
            }
        }
        panic!("systemd was not told {line}");
    }
}

/// Waits until nothing has happened for a while: tests that run beside this one delete
/// namespaces, too.
pub(crate) fn settle() {
    sleep_ms(300);
}
