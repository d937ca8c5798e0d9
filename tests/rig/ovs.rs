//! The switch: a real ovsdb-server and ovs-vswitchd, their ports and flows.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Mutex;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::host::command;
use super::node::Node;
use super::run::{Outcome, eventually, run, spawn};

/// Whatever a bridge allows: the highest version that both speak is taken.
const EVERY_VERSION: &str = "--protocols=OpenFlow10,OpenFlow13,OpenFlow14,OpenFlow15";

/// The datapath of the node's bridges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datapath {
    /// Userspace: packets flow.
    Netdev,
    /// No packets, no devices behind ports: quick, for many steps.
    Dummy,
}

/// What becomes of the flows when ovs-vswitchd is restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flows {
    /// They are gone, as after a crash.
    Lost,
    /// All are put back at once, as `ovs-ctl restart` does: their age proves nothing.
    Restored,
}

/// One of the two daemons.
#[derive(Debug)]
pub struct Daemon {
    program: &'static str,
    args: Vec<String>,
    run_dir: PathBuf,
    netns: File,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    child: Option<Child>,
    paused: bool,
}

impl Daemon {
    pub(super) fn ovsdb_server(run_dir: &Path, netns: &File) -> Self {
        let database = run_dir.join("conf.db").display().to_string();
        let mut create = command("ovsdb-tool");
        create.args(["create", &database, "/usr/share/openvswitch/vswitch.ovsschema"]);
        run(create, None, b"").ok();
        let socket = format!("--remote=punix:{}/db.sock", run_dir.display());
        Self::new("ovsdb-server", vec![database, socket], run_dir, netns)
    }

    pub(super) fn ovs_vswitchd(run_dir: &Path, netns: &File, datapath: Datapath) -> Self {
        let mut args = vec![format!("unix:{}/db.sock", run_dir.display())];
        args.push(match datapath {
            Datapath::Netdev => "--disable-system".to_owned(),
            Datapath::Dummy => "--enable-dummy=override".to_owned(),
        });
        Self::new("ovs-vswitchd", args, run_dir, netns)
    }

    fn new(program: &'static str, mut args: Vec<String>, run_dir: &Path, netns: &File) -> Self {
        let at = |suffix| format!("{}/{program}.{suffix}", run_dir.display());
        args.push(format!("--pidfile={}", at("pid")));
        args.push(format!("--log-file={}", at("log")));
        args.push("-vconsole:off".to_owned());
        args.push("--no-chdir".to_owned());
        Self {
            program,
            args,
            run_dir: run_dir.to_owned(),
            netns: netns.try_clone().unwrap(),
            state: Mutex::default(),
        }
    }

    /// Starts it, and waits until it can be spoken to.
    #[track_caller]
    pub fn start(&self) {
        let mut state = self.state.lock().unwrap();
        assert!(state.child.is_none(), "{} runs already", self.program);
        let mut command = command(self.program);
        command.args(&self.args).env("OVS_RUNDIR", &self.run_dir);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = spawn(&mut command, Some(&self.netns));
        let socket = match self.program {
            "ovsdb-server" => self.run_dir.join("db.sock"),
            _ => self.run_dir.join(format!("{}.{}.ctl", self.program, child.id())),
        };
        *state = State { child: Some(child), paused: false };
        eventually(self.program, || UnixStream::connect(&socket).is_ok());
    }

    /// SIGSTOP: it hangs, its sockets accept and never answer.
    #[track_caller]
    pub fn pause(&self) {
        let pid = self.signal(Signal::SIGSTOP);
        eventually("it is stopped", || process_state(pid) == Some('T'));
        self.state.lock().unwrap().paused = true;
    }

    /// SIGCONT.
    #[track_caller]
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
        self.state.lock().unwrap().paused = false;
    }

    /// SIGKILL: its sockets stay and refuse.
    #[track_caller]
    pub fn kill(&self) {
        self.signal(Signal::SIGKILL);
        self.reap();
    }

    /// SIGTERM: an orderly end, its sockets are gone.
    #[track_caller]
    pub fn stop(&self) {
        self.signal(Signal::SIGTERM);
        self.reap();
    }

    /// Whether it answers: started, and not paused.
    pub fn answers(&self) -> bool {
        let state = self.state.lock().unwrap();
        state.child.is_some() && !state.paused
    }

    /// Its process id.
    #[track_caller]
    pub fn pid(&self) -> i32 {
        let state = self.state.lock().unwrap();
        state.child.as_ref().expect("it is not running").id().try_into().unwrap()
    }

    #[track_caller]
    fn signal(&self, signal: Signal) -> i32 {
        let pid = self.pid();
        kill(Pid::from_raw(pid), signal).unwrap();
        pid
    }

    fn reap(&self) {
        let child = self.state.lock().unwrap().child.take();
        child.map(|mut child| child.wait());
    }

    /// For the end of a test: no panic, whatever state it is in.
    pub(super) fn kill_quietly(&self) {
        let Ok(mut state) = self.state.lock() else { return };
        if let Some(mut child) = state.child.take() {
            // SIGKILL ends a stopped process, too.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Node {
    pub(super) fn boot_switch(&self, protocols: Option<&str>) {
        self.ovsdb.start();
        self.vswitchd.start();
        self.add_bridge("br0", protocols);
    }

    /// Adds a bridge that drops what no flow matches.
    #[track_caller]
    pub fn add_bridge(&self, name: &str, protocols: Option<&str>) {
        let mut args = vec!["add-br", name, "--", "set", "Bridge", name, "datapath_type=netdev"];
        args.push("fail_mode=secure");
        let protocols = protocols.map(|list| format!("protocols={list}"));
        args.extend(protocols.as_deref());
        self.ovs_vsctl(&args);
    }

    /// `ovs-vsctl`, which must succeed. Waits until the switch has done it, if the switch
    /// can do anything.
    #[track_caller]
    pub fn ovs_vsctl(&self, args: &[&str]) -> String {
        self.try_ovs_vsctl(args).ok().trim().to_owned()
    }

    /// `ovs-vsctl`.
    #[track_caller]
    pub fn try_ovs_vsctl(&self, args: &[&str]) -> Outcome {
        let db = format!("--db=unix:{}/db.sock", self.run_dir.display());
        let mut all = vec![db.as_str(), "--timeout=60"];
        if !self.vswitchd.answers() {
            all.push("--no-wait");
        }
        all.extend(args);
        self.run("ovs-vsctl", &all)
    }

    /// `ovs-ofctl`, which must succeed.
    #[track_caller]
    pub fn ofctl(&self, args: &[&str]) -> String {
        self.try_ofctl(args).ok()
    }

    /// `ovs-ofctl`. A `-O` among the arguments wins over "every version".
    #[track_caller]
    pub fn try_ofctl(&self, args: &[&str]) -> Outcome {
        let all: Vec<&str> = [EVERY_VERSION, "--timeout=60"].iter().chain(args).copied().collect();
        self.run("ovs-ofctl", &all)
    }

    /// `ovs-appctl -t ovs-vswitchd`, which must succeed.
    #[track_caller]
    pub fn appctl(&self, args: &[&str]) -> String {
        let all: Vec<&str> = ["--timeout=60"].iter().chain(args).copied().collect();
        self.run("ovs-appctl", &all).ok()
    }

    /// The bridge's flows, without counters and ages, each with its table, sorted. In the highest OpenFlow
    /// version that the bridge allows: the text of one flow differs between versions.
    #[track_caller]
    pub fn dump(&self, bridge: &str) -> Vec<String> {
        self.dump_in(bridge, EVERY_VERSION)
    }

    /// As [`Self::dump`], in one OpenFlow version, e.g. `-OOpenFlow13`.
    #[track_caller]
    pub fn dump_in(&self, bridge: &str, version: &str) -> Vec<String> {
        let text = self.ofctl(&[version, "--no-stats", "--no-names", "dump-flows", bridge]);
        // The first line of an OpenFlow 1.0 dump is a heading.
        let flows = text.lines().filter(|line| line.contains("actions="));
        let mut flows: Vec<String> = flows.map(with_table).collect();
        flows.sort();
        flows
    }

    /// Adds flows, one a line, in `ovs-ofctl`'s syntax.
    #[track_caller]
    pub fn add_flows(&self, bridge: &str, flows: &[impl AsRef<str>]) {
        let text: String = flows.iter().map(|flow| format!("{}\n", flow.as_ref())).collect();
        self.add_flow_text(bridge, &text);
    }

    /// As [`Self::add_flows`], from one text; empty lines and `#` comments are skipped.
    #[track_caller]
    pub fn add_flow_text(&self, bridge: &str, text: &str) {
        let mut ofctl = self.command("ovs-ofctl");
        ofctl.args([EVERY_VERSION, "--timeout=60", "add-flows", bridge, "-"]);
        run(ofctl, Some(&self.netns), text.as_bytes()).ok();
    }

    /// Adds flows and returns them as a dump shows them: for comparing later dumps.
    #[track_caller]
    pub fn install(&self, bridge: &str, flows: &[impl AsRef<str>]) -> Vec<String> {
        let before = self.dump(bridge);
        self.add_flows(bridge, flows);
        let mut after = self.dump(bridge);
        after.retain(|flow| !before.contains(flow));
        assert_eq!(after.len(), flows.len(), "not every flow is a new one: {after:#?}");
        after
    }

    /// The OpenFlow versions that a bridge allows, e.g. `OpenFlow10,OpenFlow15`.
    #[track_caller]
    pub fn set_protocols(&self, bridge: &str, protocols: &str) {
        self.ovs_vsctl(&["set", "Bridge", bridge, &format!("protocols={protocols}")]);
    }

    /// A port's number, once it has one.
    #[track_caller]
    pub fn ofport(&self, port: &str) -> u16 {
        let mut number = None;
        eventually(&format!("{port} has an ofport"), || {
            number = self.ovs_vsctl(&["get", "Interface", port, "ofport"]).parse().ok();
            number.is_some()
        });
        number.unwrap()
    }

    /// The bridge's ports, without the bridge's own.
    #[track_caller]
    pub fn ports(&self, bridge: &str) -> Vec<String> {
        self.ovs_vsctl(&["list-ports", bridge]).lines().map(str::to_owned).collect()
    }

    /// Stops ovs-vswitchd in order, if it runs, and starts it again.
    #[track_caller]
    pub fn restart_vswitchd(&self, flows: Flows) {
        let saved: Vec<(String, String)> = if flows == Flows::Restored {
            let bridges = self.ovs_vsctl(&["list-br"]);
            let dump = |bridge: &str| self.dump(bridge).join("\n");
            bridges.lines().map(|bridge| (bridge.to_owned(), dump(bridge))).collect()
        } else {
            Vec::new()
        };
        if self.vswitchd.answers() {
            self.vswitchd.stop();
        }
        self.vswitchd.start();
        // Without --no-wait this returns when the bridges are as the database says.
        self.ovs_vsctl(&["set", "Open_vSwitch", ".", "external_ids:rig=restarted"]);
        self.ovs_vsctl(&["remove", "Open_vSwitch", ".", "external_ids", "rig"]);
        for (bridge, text) in saved {
            self.add_flow_text(&bridge, &text);
        }
    }

    /// What ovs-vswitchd wrote to its log.
    pub fn vswitchd_log(&self) -> String {
        fs::read_to_string(self.run_dir.join("ovs-vswitchd.log")).unwrap_or_default()
    }
}

/// A dump leaves table 0 out.
fn with_table(line: &str) -> String {
    let line = line.trim();
    if line.starts_with("table=") || line.contains(", table=") {
        return line.to_owned();
    }
    match line.strip_prefix("cookie=").and_then(|rest| rest.split_once(", ")) {
        Some((cookie, rest)) => format!("cookie={cookie}, table=0, {rest}"),
        None => format!("table=0, {line}"),
    }
}

/// The state letter of a process (proc(5)).
fn process_state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.trim_start().chars().next()
}
