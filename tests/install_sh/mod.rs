//! `install.sh` below a root directory of its own.
//!
//! The binary is the real one, asked to put itself in place: what is tested is the order, that
//! it can be interrupted anywhere, and that it never leaves an entry without a binary. The editor
//! itself is tested in `conflist_edit.rs`. Of Open vSwitch there is the database, for `adopt`.
//! `systemctl` is a stand-in: the machine's own must not start a timer for a test.

mod refusals;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::rc::Rc;
use std::time::Duration;

use tempfile::TempDir;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_ovs-flow-gc");

pub(crate) const LIST: &str = r#"{
  "cniVersion": "0.4.0",
  "name": "net",
  "plugins": [
    { "type": "ovs", "bridge": "br1" }
  ]
}
"#;

const BRIDGE: &str = r#"{"cniVersion":"0.4.0","name":"b","plugins":[{"type":"bridge"}]}"#;

/// Counts its calls; dies with the whole process group at the chosen one.
const WATCH: &str = r#"
n=$(($(cat "$RIG/count" 2>/dev/null || echo 0) + 1)); echo $n >"$RIG/count"
if [ "$n" = "${KILL_AT:-0}" ]; then kill -9 0; fi
"#;

/// The system calls that change what a directory holds.
const CHANGES: [&str; 5] = ["mkdir", "rmdir", "rename", "unlink", "unlinkat"];

/// `show` is asked for the daemon's process.
const SYSTEMCTL: &str = r#"
if [ "$1" = show ]; then cat "$RIG/pid" 2>/dev/null; exit; fi
echo "$*" >>"$RIG/log"
"#;

/// An ovsdb-server without a bridge.
struct Database {
    dir: TempDir,
    server: Child,
}

impl Database {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let schema = "/usr/share/openvswitch/vswitch.ovsschema";
        let created = Command::new("ovsdb-tool").args(["create", &at("conf.db"), schema]).status();
        assert!(created.unwrap().success());
        let server = Command::new("ovsdb-server")
            .args([&at("conf.db"), &format!("--remote=punix:{}", at("db.sock"))])
            .arg(format!("--unixctl={}", at("ctl")))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let database = Self { dir, server };
        let socket = database.dir.path().join("db.sock");
        for _ in 0..500 {
            if UnixStream::connect(&socket).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let init = ["--timeout=5", "--no-wait", "init"];
        let to = format!("--db=unix:{}", socket.display());
        assert!(Command::new("ovs-vsctl").arg(to).args(init).status().unwrap().success());
        database
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

pub(crate) struct Node {
    dir: TempDir,
    ovs: Rc<Database>,
}

impl Node {
    pub(crate) fn new() -> Self {
        Self::of(Rc::new(Database::new()))
    }

    fn of(ovs: Rc<Database>) -> Self {
        let node = Self { dir: TempDir::new().unwrap(), ovs };
        for dir in ["root/etc/cni/net.d", "root/run/systemd/system", "path"] {
            fs::create_dir_all(node.at(dir)).unwrap();
        }
        node.put("root/etc/cni/net.d/10-ovs.conflist", LIST);
        node.put("root/etc/cni/net.d/05-bridge.conflist", BRIDGE);
        node.script("daemon", &format!("{WATCH}echo ovs-flow-gcd 0.1.0"));
        node.script("path/systemctl", &format!("{WATCH}{SYSTEMCTL}"));
        node
    }

    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    pub(crate) fn put(&self, path: &str, text: &str) {
        fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        fs::write(self.at(path), text).unwrap();
    }

    pub(crate) fn script(&self, path: &str, body: &str) {
        self.put(path, &format!("#!/bin/sh\n{body}\n"));
        fs::set_permissions(self.at(path), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn command(&self, command: &str, options: &[&str]) -> Command {
        self.under(&["sh"], &script(), command, options)
    }

    /// Where its Open vSwitch has its sockets.
    pub(crate) fn ovs(&self) -> &Path {
        self.ovs.dir.path()
    }

    /// An install.sh, run by these words.
    pub(crate) fn under(
        &self,
        words: &[&str],
        script: &Path,
        command: &str,
        options: &[&str],
    ) -> Command {
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.at("path").display());
        let mut sh = Command::new(words[0]);
        sh.args(&words[1..]).arg(script).arg(command);
        sh.arg("--prefix").arg(self.at("root")).args(options);
        sh.env("PATH", path).env("RIG", self.dir.path()).env("OVS_RUNDIR", self.ovs.dir.path());
        // A group of its own: the stand-ins kill the installer with everything it started.
        sh.process_group(0);
        let _ = fs::remove_file(self.at("count"));
        sh
    }

    fn run(&self, command: &str, options: &[&str]) -> (i32, String) {
        said(self.command(command, options).output().unwrap())
    }

    fn install(&self) -> (i32, String) {
        self.run("install", &["--binary", BINARY])
    }

    fn install_daemon(&self) -> (i32, String) {
        let daemon = self.at("daemon");
        self.run("install", &["--binary", BINARY, "--daemon-binary", daemon.to_str().unwrap()])
    }

    fn uninstall(&self) -> (i32, String) {
        self.run("uninstall", &[])
    }

    /// What systemctl was called with since the last time.
    fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.at("log")).unwrap_or_default();
        let _ = fs::remove_file(self.at("log"));
        text.lines().map(str::to_owned).collect()
    }

    pub(crate) fn list(&self) -> String {
        fs::read_to_string(self.at("root/etc/cni/net.d/10-ovs.conflist")).unwrap()
    }

    pub(crate) fn binary(&self) -> PathBuf {
        self.at("root/opt/cni/bin/ovs-flow-gc")
    }

    pub(crate) fn unit(&self, name: &str) -> PathBuf {
        self.at("root/etc/systemd/system").join(format!("ovs-flow-gc-sweep.{name}"))
    }

    fn daemon_unit(&self) -> PathBuf {
        self.at("root/etc/systemd/system/ovs-flow-gcd.service")
    }

    /// The promise: whoever is named in a conflist can be called.
    fn assert_callable_if_named(&self, when: &str) {
        if self.list().contains("ovs-flow-gc") {
            let same = fs::read(self.binary()).ok() == fs::read(BINARY).ok();
            let mode = fs::metadata(self.binary()).map_or(0, |m| m.permissions().mode() & 0o777);
            assert!(same && mode == 0o755, "{when}: an entry without a binary");
        }
    }

    pub(crate) fn files(&self) -> Vec<String> {
        let mut files = Vec::new();
        let mut todo = vec![self.at("root")];
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    todo.push(path);
                } else {
                    let path = path.strip_prefix(self.at("root")).unwrap();
                    files.push(path.display().to_string());
                }
            }
        }
        files.sort();
        files
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("install.sh")
}

pub(crate) fn said(output: Output) -> (i32, String) {
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().expect("killed"), String::from_utf8(text).unwrap())
}

/// The steps that it tells of, in their order.
fn steps(text: &str) -> Vec<&str> {
    let steps = ["binary", "conflist", "timer", "daemon", "state"];
    let step =
        |line: &'_ str| steps.into_iter().find(|step| line.starts_with(&format!("{step}: ")));
    text.lines().filter_map(step).collect()
}

pub(crate) const BARE: [&str; 2] =
    ["etc/cni/net.d/05-bridge.conflist", "etc/cni/net.d/10-ovs.conflist"];

#[test]
fn install_puts_the_binary_before_the_entry_and_says_each_step() {
    let node = Node::new();
    let (code, text) = node.install();
    assert_eq!(code, 0, "{text}");
    assert_eq!(node.log(), ["daemon-reload", "enable --now ovs-flow-gc-sweep.timer"]);
    assert_eq!(steps(&text), ["binary", "conflist", "timer"]);
    for said in ["binary: ", "0 pods adopted", ": added ovs-flow-gc", "timer: "] {
        assert!(text.contains(said), "{said}: {text}");
    }
    node.assert_callable_if_named("after install");
    assert!(node.list().contains("ovs-flow-gc"));
    assert!(node.at("root/run/ovs-flow-gc").exists(), "the records are below the root, too");
    let service = fs::read_to_string(node.unit("service")).unwrap();
    assert!(service.contains("\nExecStart=/opt/cni/bin/ovs-flow-gc sweep --only-dead\n"));

    let (before, list) = (node.files(), node.list());
    let (code, text) = node.install();
    assert_eq!(code, 0, "{text}");
    for said in ["this one is there already", "ovs-flow-gc is there already", "already, started"] {
        assert!(text.contains(said), "{said}: {text}");
    }
    assert_eq!((node.files(), node.list()), (before, list));
}

#[test]
fn uninstall_takes_the_entry_out_first_and_the_binary_last() {
    let node = Node::new();
    node.install();
    node.put("root/run/ovs-flow-gc/net/config.json", "{}");
    node.log();
    let (code, text) = node.uninstall();
    assert_eq!(code, 0, "{text}");
    assert_eq!(steps(&text), ["conflist", "timer", "daemon", "state", "binary"], "{text}");
    assert_eq!(
        node.log(),
        [
            "disable --now ovs-flow-gc-deliver.path",
            "disable --now ovs-flow-gc-deliver.timer",
            "disable --now ovs-flow-gc-deliver.service",
            "disable --now ovs-flow-gc-sweep.timer",
            "stop ovs-flow-gc-sweep.service",
            "daemon-reload",
        ]
    );
    assert_eq!(node.files(), BARE);
    assert_eq!(node.list(), LIST);

    let (code, text) = node.uninstall();
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("ovs-flow-gc is not there"), "{text}");
    let (code, text) = node.run("uninstall", &["--binary", BINARY]);
    assert_eq!(code, 0, "{text}");
    for said in ["no entry is left", "timer: ", "/ovs-flow-gc: not there"] {
        assert!(text.contains(said), "{said}: {text}");
    }
    assert!(node.log().is_empty());
}

/// SIGKILL at each change of a directory, and at each command that it runs, in turn.
#[test]
fn killed_at_any_step_nothing_dangles_and_the_next_run_finishes() {
    let ovs = Rc::new(Database::new());
    let mut kills = Vec::new();
    for (command, daemon) in
        [("install", false), ("uninstall", false), ("install", true), ("uninstall", true)]
    {
        let times = |by| (1..).take_while(|at| kill_at(&ovs, command, daemon, (by, *at))).count();
        kills.extend([CHANGES.into_iter().map(times).sum(), times("systemctl")]);
    }
    let least = [18, 2, 12, 3, 12, 7, 12, 2];
    assert!(kills.iter().zip(least).all(|(kills, least)| *kills >= least), "{kills:?}");
}

/// False if there is no such step.
fn kill_at(ovs: &Rc<Database>, command: &str, daemon: bool, (by, at): (&str, usize)) -> bool {
    assert!(at < 200, "no end");
    let node = Node::of(ovs.clone());
    let daemon_binary = node.at("daemon").display().to_string();
    let mut options = vec!["--binary", BINARY];
    match (command, daemon) {
        ("install", false) => {}
        ("install", true) => {
            node.install();
            options.extend(["--daemon-binary", daemon_binary.as_str()]);
        }
        (_, false) => drop(node.install()),
        (_, true) => drop(node.install_daemon()),
    }
    if command == "uninstall" {
        node.put("root/run/ovs-flow-gc/net/config.json", "{}");
    }
    let inject = format!("inject={by}:signal=KILL:when={at}");
    let strace = ["strace", "-qq", "-o", "/dev/null", "-e", &inject, "sh"];
    let status = match by {
        "systemctl" => node.command(command, &options).env("KILL_AT", at.to_string()).output(),
        _ => node.under(&strace, &script(), command, &options).output(),
    };
    let status = status.unwrap().status;
    if status.success() {
        return false;
    }
    let when = format!("{command} killed at {by} {at}");
    assert_eq!(status.signal(), Some(9), "{when}");
    node.assert_callable_if_named(&when);
    if daemon && command == "install" {
        let sweeper = node.unit("timer").exists() || node.daemon_unit().exists();
        assert!(sweeper, "{when}: no sweeper is left");
    }
    let (code, text) = node.run(command, &options);
    assert_eq!(code, 0, "after {when}: {text}");
    if command == "install" {
        node.assert_callable_if_named("finished");
        assert!(node.list().contains("ovs-flow-gc"));
        assert_eq!(node.unit("timer").exists(), !daemon);
        assert_eq!(node.unit("service").exists(), !daemon);
        assert_eq!(node.daemon_unit().exists(), daemon);
        let new = |f: &String| f.contains(".new.") || f.ends_with("-tmp");
        assert!(!node.files().iter().any(new), "leftovers: {when}");
    } else {
        assert_eq!(node.files(), BARE, "{when}");
        assert_eq!(node.list(), LIST);
    }
    true
}

#[test]
fn the_daemon_takes_the_timers_place() {
    let node = Node::new();
    node.install();
    node.log();
    let (code, text) = node.install_daemon();
    assert_eq!(code, 0, "{text}");
    assert_eq!(
        node.log(),
        [
            "daemon-reload",
            "enable ovs-flow-gcd.service",
            "restart ovs-flow-gcd.service",
            "disable --now ovs-flow-gc-sweep.timer",
            "stop ovs-flow-gc-sweep.service",
            "daemon-reload",
        ]
    );
    let unit = fs::read_to_string(node.daemon_unit()).unwrap();
    assert!(unit.contains("\nExecStart=/usr/local/sbin/ovs-flow-gcd\n"), "{unit}");
    assert!(node.at("root/usr/local/sbin/ovs-flow-gcd").exists());

    // Without --daemon the plugin alone is brought up to date; the daemon stays, and no timer.
    let before = node.files();
    let (code, text) = node.install();
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("timer: left out, ovs-flow-gcd.service does its work"), "{text}");
    assert_eq!(node.files(), before);
    node.log();

    let (code, text) = node.uninstall();
    assert_eq!(code, 0, "{text}");
    let log = node.log();
    assert_eq!(log[3..], ["disable --now ovs-flow-gcd.service", "daemon-reload"]);
    assert_eq!(log[0], "disable --now ovs-flow-gc-deliver.path");
    assert_eq!(node.files(), BARE);
    let (_, text) = node.run("uninstall", &["--binary", BINARY]);
    assert!(text.contains("/ovs-flow-gcd: not there"), "{text}");
}

/// Whoever runs is asked, not what the last run of the installer did: it may have been killed
/// between the new binary and the restart.
#[test]
fn a_daemon_is_started_again_only_if_it_is_another_one() {
    let node = Node::new();
    let source = r#"
        #include <stdio.h>
        #include <unistd.h>
        int main(int n, char **v) { if (n > 1) puts("ovs-flow-gcd 0.1.0"); else pause(); }
    "#;
    node.put("daemon.c", source);
    let compiled = Command::new("gcc")
        .args([node.at("daemon.c").to_str().unwrap(), "-o", node.at("daemon").to_str().unwrap()])
        .status()
        .expect("gcc, of tests/run.sh's packages, runs");
    assert!(compiled.success());
    node.install_daemon();
    let mut running = Command::new(node.at("root/usr/local/sbin/ovs-flow-gcd")).spawn().unwrap();
    node.put("pid", &running.id().to_string());
    node.log();
    let (code, same) = node.install_daemon();
    let first = node.log();
    // The same file again, but under another inode: what runs is the "(deleted)" one.
    let installed = node.at("root/usr/local/sbin/ovs-flow-gcd");
    fs::copy(&installed, node.at("copy")).unwrap();
    fs::rename(node.at("copy"), &installed).unwrap();
    let (_, other) = node.install_daemon();
    let second = node.log();
    running.kill().unwrap();
    running.wait().unwrap();
    let restarts = |log: &[String]| log.iter().any(|line| line.contains("restart"));
    assert!(code == 0 && same.contains("service: there already, started"), "{same}");
    assert!(!restarts(&first), "{first:?}");
    assert!(other.contains("daemon: ovs-flow-gcd.service: installed and started"), "{other}");
    assert!(restarts(&second), "{second:?}");
}

#[test]
fn a_daemon_that_does_not_run_here_replaces_nothing() {
    let node = Node::new();
    node.install();
    node.script("daemon", "exit 126");
    let (code, text) = node.install_daemon();
    assert_eq!(code, 1);
    assert!(text.contains("does not answer --version as ovs-flow-gcd"), "{text}");
    assert!(node.unit("timer").exists() && !node.daemon_unit().exists());
    assert_eq!(fs::read_dir(node.at("root/usr/local/sbin")).unwrap().count(), 0, "no leftovers");

    let node = Node::new();
    fs::remove_dir_all(node.at("root/run/systemd")).unwrap();
    let (code, text) = node.install_daemon();
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("daemon: systemd does not run here"), "{text}");
    assert!(!node.daemon_unit().exists());
}

#[test]
fn a_binary_that_does_not_run_here_replaces_nothing() {
    let node = Node::new();
    node.install();
    node.script("broken", "exit 126");
    let (code, text) = node.run("install", &["--binary", node.at("broken").to_str().unwrap()]);
    assert_eq!(code, 1);
    assert!(text.contains("does not answer CNI VERSION"), "{text}");
    node.assert_callable_if_named("after a bad binary");
    assert_eq!(fs::read_dir(node.at("root/opt/cni/bin")).unwrap().count(), 1, "no leftovers");
}

#[test]
fn a_failed_adopt_is_a_warning_and_a_failed_entry_an_error() {
    let node = Node::new();
    let mut install = node.command("install", &["--binary", BINARY]);
    let (code, text) = said(install.env("OVS_RUNDIR", node.at("none")).output().unwrap());
    assert_eq!(code, 3, "{text}");
    assert!(text.contains("warning: adopt: failed") && text.contains("db.sock"), "{text}");
    assert!(node.list().contains("ovs-flow-gc") && node.unit("timer").exists());

    let node = Node::new();
    let bridge = node.at("root/etc/cni/net.d/05-bridge.conflist");
    let options = ["--binary", BINARY, "--conflist", bridge.to_str().unwrap()];
    let (code, text) = node.run("install", &options);
    assert_eq!(code, 1);
    assert!(text.contains("05-bridge") && text.contains("no Open vSwitch plugin"), "{text}");
    assert_eq!(node.files(), BARE);

    let node = Node::new();
    fs::remove_file(node.at("root/etc/cni/net.d/10-ovs.conflist")).unwrap();
    let (code, text) = node.install();
    assert_eq!(code, 1);
    assert!(text.contains("name the file with --conflist"), "{text}");
}

#[test]
fn an_entry_that_stays_keeps_the_binary() {
    let node = Node::new();
    node.install();
    let list = node.list();
    node.put("root/etc/cni/net.d/10-ovs.conflist", &format!("{list} and more"));
    let (code, text) = node.uninstall();
    assert_eq!(code, 1);
    assert!(text.contains("so the binary stays") && text.contains("10-ovs.conflist"), "{text}");
    node.assert_callable_if_named("uninstall that failed");

    // multus has a copy of the list inside its own file; no editor takes that out.
    node.put("root/etc/cni/net.d/10-ovs.conflist", &list);
    let copy = r#"{"type":"multus","delegates":[{"plugins":[{"type": "ovs-flow-gc"}]}]}"#;
    node.put("root/etc/cni/net.d/00-multus.conf", copy);
    let (code, text) = node.uninstall();
    assert_eq!(code, 1);
    assert!(text.contains("00-multus.conf") && node.binary().exists(), "{text}");

    // Without a binary it is a plain error, not a clean-up.
    fs::remove_file(node.binary()).unwrap();
    let (code, text) = node.uninstall();
    assert_eq!(code, 1);
    assert!(text.contains("pods cannot end"), "{text}");
}

/// libcni 1.3 takes in `NETWORK/*.conf` with the list.
#[test]
fn an_entry_in_a_file_of_its_own_keeps_the_binary() {
    let node = Node::new();
    node.install();
    // Another plugin calls ours: no editor takes that out.
    let own = "root/etc/cni/net.d/net/50-own.conf";
    node.put(own, r#"{"type":"meta","delegates":[{"type":"ovs-flow-gc"}]}"#);
    node.put("root/etc/cni/net.d/old/50-own.conf", r#"{"type":"ovs-flow-gc"}"#);
    let (code, text) = node.uninstall();
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("net/50-own.conf") && !text.contains("old/50-own.conf"), "{text}");
    assert!(node.binary().exists());
    // The list says that it takes in nothing.
    node.put(
        "root/etc/cni/net.d/10-ovs.conflist",
        &LIST.replace("\"name\"", "\"loadOnlyInlinedPlugins\": true, \"name\""),
    );
    assert_eq!(node.uninstall().0, 0);
    assert!(!node.binary().exists() && node.at(own).exists());
}

/// A conflist in no directory of the runtimes', and what it takes in. What lies beside it is not
/// ours to edit.
#[test]
fn an_entry_elsewhere_is_taken_out_if_the_file_is_named() {
    let node = Node::new();
    for name in ["elsewhere/net.list", "elsewhere/other.conflist"] {
        node.put(name, LIST);
        let file = node.at(name).display().to_string();
        let options = ["--binary", BINARY, "--conflist", &file];
        assert_eq!(node.run("install", &options).0, 0);
    }
    let read = |name: &str| fs::read_to_string(node.at(name)).unwrap();
    let beside = read("elsewhere/other.conflist");
    let file = node.at("elsewhere/net.list").display().to_string();
    let (code, text) = node.run("uninstall", &["--conflist", &file]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(read("elsewhere/net.list"), LIST);
    assert!(beside.contains("ovs-flow-gc") && read("elsewhere/other.conflist") == beside);
}

/// CRI-O's DEL uses the configuration that ADD had, from libcni's cache.
#[test]
fn pods_that_will_still_call_it_keep_the_binary() {
    let node = Node::new();
    node.install();
    // {"plugins":[{"type":"ovs"},{"type":"ovs-flow-gc"}]}
    let config = "eyJwbHVnaW5zIjpbeyJ0eXBlIjoib3ZzIn0seyJ0eXBlIjoib3ZzLWZsb3ctZ2MifV19";
    let cached =
        format!(r#"{{"kind":"cniCacheV1","containerId":"c","config":"{config}","ifName":"eth0"}}"#);
    node.put("root/var/lib/cni/results/net-c-eth0", &cached);
    node.put("root/var/lib/cni/results/net-d-eth0", ""); // cni #1055
    fs::create_dir_all(node.at("root/run/crio")).unwrap();
    let _socket = UnixListener::bind(node.at("root/run/crio/crio.sock")).unwrap();

    let (code, text) = node.uninstall();
    assert_eq!(code, 3, "{text}");
    assert!(text.contains("binary and state are kept") && text.contains("of 1 pod that"), "{text}");
    assert!(text.contains("container c"), "{text}");
    assert!(node.binary().exists());
    assert_eq!(node.list(), LIST, "the entry is out all the same");

    // Neither its namespace nor its sandbox is there: nobody calls DEL for it.
    let args = r#""cniArgs":[["K8S_POD_NAMESPACE","default"],["K8S_POD_NAME","web"]]"#;
    let more = format!(r#","netns":"/var/run/netns/n1",{args},"result":{{}}}}"#);
    let named = cached.strip_suffix('}').unwrap().to_owned() + &more;
    node.put("root/var/lib/cni/results/net-c-eth0", &named);
    node.put("root/var/run/netns/other", "");
    node.put("root/var/lib/containers/storage/overlay-containers/c/userdata/config.json", "");
    let (code, text) = node.uninstall();
    assert!(code == 3 && text.contains("default/web"), "{text}");
    fs::remove_dir_all(node.at("root/var/lib/containers/storage/overlay-containers/c")).unwrap();
    node.put("root/var/run/netns/n1", "");
    assert_eq!(node.uninstall().0, 3);
    fs::remove_file(node.at("root/var/run/netns/n1")).unwrap();
    assert_eq!(node.uninstall().0, 0);
    assert!(!node.binary().exists());
}

#[test]
fn without_systemd_it_says_so_and_goes_on() {
    let node = Node::new();
    fs::remove_dir_all(node.at("root/run/systemd")).unwrap();
    let (code, text) = node.install();
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("systemd does not run here"), "{text}");
    assert!(!node.unit("timer").exists());
    assert!(node.log().is_empty());

    let node = Node::new();
    let (code, text) = node.run("install", &["--no-timer", "--binary", BINARY]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("left out (--no-timer)") && !node.unit("timer").exists(), "{text}");
}

#[test]
fn wrong_usage_is_status_two_and_touches_nothing() {
    let node = Node::new();
    for options in [&["--conflist"][..], &["--colour"], &["--binary", ""], &["--daemon-binary"]] {
        let (code, text) = node.run("install", options);
        assert_eq!(code, 2, "{options:?}");
        assert!(text.contains("usage: install.sh"), "{text}");
    }
    assert_eq!(node.run("remove", &[]).0, 2);
    assert_eq!(node.files(), BARE);
}

/// The units as they are installed, judged by systemd itself. It looks for the binary, so that
/// lies outside the root here.
#[test]
fn systemd_finds_nothing_to_say_about_the_units() {
    let node = Node::new();
    let bin = node.at("bin");
    let daemon = node.at("daemon").display().to_string();
    let options = ["--binary", BINARY, "--bin-dir", bin.to_str().unwrap()];
    let (code, text) = node.run("install", &options);
    assert_eq!(code, 0, "{text}");
    // The daemon's own installation takes the timer away.
    let deliver = ["path", "timer", "service"]
        .map(|kind| node.at(&format!("root/etc/systemd/system/ovs-flow-gc-deliver.{kind}")));
    let text = fs::read_to_string(&deliver[2]).unwrap();
    assert!(
        text.contains(&format!("\nExecStart={}/ovs-flow-gc deliver\n", bin.display())),
        "{text}"
    );
    let units = [node.unit("service"), node.unit("timer")]
        .into_iter()
        .chain(deliver)
        .map(|unit| {
            let copy = node.at(unit.file_name().unwrap().to_str().unwrap());
            fs::copy(&unit, &copy).unwrap();
            copy
        })
        .collect::<Vec<_>>();
    let more = ["--daemon-binary", &daemon, "--sbin-dir", bin.to_str().unwrap()];
    let (code, text) = node.run("install", &[&options[..], &more].concat());
    assert_eq!(code, 0, "{text}");
    let output = Command::new("systemd-analyze")
        .arg("verify")
        .args(units)
        .arg(node.daemon_unit())
        .env("SYSTEMD_LOG_LEVEL", "warning")
        .output()
        .expect("systemd-analyze, of the package systemd, runs");
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    let units: Vec<&str> = said.lines().filter(|line| line.contains("ovs-flow-gc")).collect();
    assert!(output.status.success() && units.is_empty(), "{said}");
}

/// The network is in NetworkAttachmentDefinitions: what is in net.d is multus and other networks.
fn multus_node() -> Node {
    let node = Node::new();
    fs::remove_file(node.at("root/etc/cni/net.d/10-ovs.conflist")).unwrap();
    let multus = r#"{"cniVersion":"0.3.1","name":"multus-cni-network","type":"multus-shim"}"#;
    node.put("root/etc/cni/net.d/00-multus.conf", multus);
    node
}

#[test]
fn without_a_conflist_all_but_the_entry_is_installed() {
    let node = multus_node();
    let read = |name: &str| fs::read_to_string(node.at("root/etc/cni/net.d").join(name)).unwrap();
    let before = (read("00-multus.conf"), read("05-bridge.conflist"));
    let (code, text) = node.install();
    assert!(code == 1 && text.contains("--no-conflist"), "{text}");
    assert!(!node.binary().exists() && node.log().is_empty());

    let (code, text) = node.run("install", &["--binary", BINARY, "--no-conflist"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(steps(&text), ["binary", "conflist", "timer"], "{text}");
    for said in ["0 pods adopted", "none edited", "conflist add -"] {
        assert!(text.contains(said), "{said}: {text}");
    }
    assert_eq!(fs::read(node.binary()).unwrap(), fs::read(BINARY).unwrap());
    assert!(node.unit("timer").exists() && node.at("root/run/ovs-flow-gc").exists());
    assert_eq!((read("00-multus.conf"), read("05-bridge.conflist")), before);
    let names = node.files();
    let again = node.run("install", &["--binary", BINARY, "--no-conflist"]);
    assert_eq!((again.0, node.files()), (0, names), "{}", again.1);

    // A pod that began with the entry keeps the binary; without one it goes.
    node.put(
        "root/var/lib/cni/multus/c1",
        r#"[{"ConfList":{"plugins":[{"type":"ovs-flow-gc"}]}}]"#,
    );
    let (code, text) = node.uninstall();
    assert!(code == 3 && node.binary().exists(), "{text}");
    assert!(
        text.contains("NetworkAttachmentDefinitions are not seen") && text.contains("c1"),
        "{text}"
    );
    fs::remove_file(node.at("root/var/lib/cni/multus/c1")).unwrap();
    let (code, text) = node.run("uninstall", &["--binary", BINARY]);
    assert!(code == 0 && !node.binary().exists(), "{text}");
    assert!(text.contains("take the entry out of each of them first"), "{text}");
    assert_eq!((read("00-multus.conf"), read("05-bridge.conflist")), before);
}

/// The daemon in the timer's place, no network at all in net.d, not even the directory.
#[test]
fn without_a_conflist_a_node_without_net_d_is_installed() {
    let node = Node::new();
    fs::remove_dir_all(node.at("root/etc/cni")).unwrap();
    let daemon = node.at("daemon");
    let options =
        ["--binary", BINARY, "--no-conflist", "--daemon-binary", daemon.to_str().unwrap()];
    let (code, text) = node.run("install", &options);
    assert_eq!(code, 0, "{text}");
    assert!(node.binary().exists() && node.daemon_unit().exists());
    assert!(!node.at("root/etc/cni").exists());
}

#[test]
fn no_conflist_goes_with_nothing_that_is_about_one() {
    let node = multus_node();
    for words in [&["--no-conflist", "--conflist", "x"][..], &["--conflist", "x", "--no-conflist"]]
    {
        let (code, text) = node.run("install", &[&["--binary", BINARY], words].concat());
        assert!(code == 2 && !node.binary().exists(), "{text}");
    }
    let (code, text) = node.run("uninstall", &["--no-conflist"]);
    assert!(code == 2 && text.contains("is for install"), "{text}");
}
