//! An Open vSwitch of a test's own, and what it takes to wait for it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ovs_flow_gc::model::row::RowId;
use ovs_flow_gc::ovsdb::{Client, Snapshot};
use ovs_flow_gc::util::clock::Deadline;

const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) fn after(milliseconds: u64) -> Deadline {
    Deadline::after(ms(milliseconds))
}

/// An Open vSwitch of a test's own. Everything it started ends with it.
pub(crate) struct Switch {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) netns: String,
    server: Option<Child>,
    vswitchd: Option<Child>,
}

impl Switch {
    /// Starts both daemons.
    pub(crate) fn new(name: &str) -> Self {
        let mut switch = Self::without_vswitchd(name);
        switch.start_vswitchd();
        switch
    }

    pub(crate) fn without_vswitchd(name: &str) -> Self {
        // A short path: a Unix socket's has 107 bytes.
        let dir = tempfile::Builder::new().prefix("odb").tempdir_in("/tmp").unwrap();
        let netns = format!("odb-{}-{name}", std::process::id());
        let conf = dir.path().join("conf.db");
        run(Command::new("ovsdb-tool").arg("create").args([&conf, Path::new(SCHEMA)]));
        let server = daemon(
            dir.path(),
            Command::new("ovsdb-server").arg(&conf).args([
                format!("--remote=punix:{}", dir.path().join("db.sock").display()),
                format!("--unixctl={}", dir.path().join("server.ctl").display()),
                format!("--pidfile={}", dir.path().join("server.pid").display()),
            ]),
        );
        // From here on, dropping it cleans up.
        let switch = Self { dir, netns, server: Some(server), vswitchd: None };
        run(Command::new("ip").args(["netns", "add", &switch.netns]));
        // Between bind and listen the socket is there and refuses.
        let answers = || {
            let client = Client::connect(&switch.socket(), after(1000));
            client.and_then(|mut client| client.alive()).is_ok()
        };
        until("ovsdb-server answers", answers);
        switch.vsctl(&["init"]);
        switch
    }

    pub(crate) fn start_vswitchd(&mut self) {
        let db = format!("unix:{}", self.socket().display());
        let pid = self.dir.path().join("ovs-vswitchd.pid");
        self.vswitchd = Some(daemon(
            self.dir.path(),
            Command::new("ip").args([
                "netns",
                "exec",
                &self.netns,
                "ovs-vswitchd",
                &db,
                "--disable-system",
                &format!("--pidfile={}", pid.display()),
            ]),
        ));
        until("ovs-vswitchd runs", || pid.exists());
    }

    pub(crate) fn stop_vswitchd(&mut self) {
        if let Some(child) = self.vswitchd.take() {
            end(child);
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("db.sock")
    }

    /// Runs ovs-vsctl, not waiting for ovs-vswitchd.
    pub(crate) fn vsctl(&self, arguments: &[&str]) -> String {
        let db = format!("--db=unix:{}", self.socket().display());
        run(Command::new("ovs-vsctl").args([&db, "--timeout=10", "--no-wait"]).args(arguments))
    }

    pub(crate) fn add_bridge(&self, name: &str) {
        self.vsctl(&["add-br", name, "--", "set", "bridge", name, "datapath_type=netdev"]);
    }

    /// Adds a port whose device ovs-vswitchd makes itself.
    pub(crate) fn add_port(&self, bridge: &str, name: &str) {
        self.vsctl(&["add-port", bridge, name, "--", "set", "interface", name, "type=internal"]);
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.socket(), after(60_000)).unwrap()
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.client().snapshot().unwrap()
    }

    pub(crate) fn interface(&self, name: &str) -> RowId {
        self.vsctl(&["get", "interface", name, "_uuid"]).trim().parse().unwrap()
    }

    pub(crate) fn signal_server(&self, signal: Signal) {
        send(self.server.as_ref().unwrap(), signal);
    }

    pub(crate) fn kill_server(&mut self) {
        let mut server = self.server.take().unwrap();
        send(&server, Signal::SIGKILL);
        server.wait().unwrap();
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            send(server, Signal::SIGCONT);
        }
        self.stop_vswitchd();
        if let Some(server) = self.server.take() {
            end(server);
        }
        let _ = Command::new("ip").args(["netns", "del", &self.netns]).status();
    }
}

/// To a child that nobody has waited for yet: its pid is nobody else's.
fn send(child: &Child, signal: Signal) {
    let _ = kill(Pid::from_raw(child.id().try_into().unwrap()), signal);
}

fn end(mut child: Child) {
    send(&child, Signal::SIGTERM);
    let _ = child.wait();
}

/// A daemon in the foreground, so that its pid is known; `ip netns exec` becomes it.
fn daemon(rundir: &Path, command: &mut Command) -> Child {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(rundir.join("log"));
    command
        .env("OVS_RUNDIR", rundir)
        .env("OVS_DBDIR", rundir)
        .env("OVS_LOGDIR", rundir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log.unwrap())
        .spawn()
        .unwrap()
}

pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = after(10_000);
    while !is() {
        assert!(!deadline.passed(), "not in ten seconds: {what}");
        std::thread::sleep(ms(2));
    }
}

pub(crate) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
