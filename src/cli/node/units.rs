//! systemd's part: the sweep timer or, in its place, the daemon. Beside either, the units that call
//! the DELs that runtimes did not call, which the operator enables.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Error, Node, files};

const TIMER: &str = "ovs-flow-gc-sweep.timer";
const SWEEP: &str = "ovs-flow-gc-sweep.service";
const DAEMON: &str = "ovs-flow-gcd.service";

/// Their texts, and where what they start is unless it was put elsewhere.
const SWEEP_TEXT: &str = include_str!("../../../conf/systemd/ovs-flow-gc-sweep.service");
const TIMER_TEXT: &str = include_str!("../../../conf/systemd/ovs-flow-gc-sweep.timer");
const DAEMON_TEXT: &str = include_str!("../../../conf/systemd/ovs-flow-gcd.service");

/// Those that are not enabled: the two that start the third, and that one.
const DELIVER: [(&str, &str); 3] = [
    ("ovs-flow-gc-deliver.path", include_str!("../../../conf/systemd/ovs-flow-gc-deliver.path")),
    ("ovs-flow-gc-deliver.timer", include_str!("../../../conf/systemd/ovs-flow-gc-deliver.timer")),
    (
        "ovs-flow-gc-deliver.service",
        include_str!("../../../conf/systemd/ovs-flow-gc-deliver.service"),
    ),
];

/// The sweeper that the node is to have.
pub(super) fn install(node: &mut Node<'_>, daemon: Option<&Path>) -> Result<(), Error> {
    match daemon {
        Some(daemon) => install_daemon(node, daemon),
        None if !node.places.systemd => Ok(()),
        None if unit(node, DAEMON).exists() => node.step(
            "timer",
            "left out, ovs-flow-gcd.service does its work (--daemon brings the daemon up to date)",
        ),
        None => install_timer(node),
    }
}

fn install_timer(node: &mut Node<'_>) -> Result<(), Error> {
    if !runs(node) {
        let installed = node.places.binary();
        return node.step(
            "timer",
            &format!(
                "systemd does not run here; run '{} sweep --only-dead' every 30 seconds by other \
                 means",
                installed.display()
            ),
        );
    }
    let service = put(node, SWEEP, SWEEP_TEXT, &node.places.bin_dir())?;
    let changed = put(node, TIMER, TIMER_TEXT, &node.places.bin_dir())? || service;
    put_deliver(node)?;
    must("timer", &["daemon-reload"])?;
    must("timer", &["enable", "--now", TIMER])?;
    let did = if changed { "installed and started" } else { "there already, started" };
    node.step("timer", &format!("{TIMER}: {did}"))
}

/// The timer goes last: there is no moment without a sweeper, and two at once do no harm.
fn install_daemon(node: &mut Node<'_>, daemon: &Path) -> Result<(), Error> {
    let installed = node.places.daemon();
    let changed = node.put_binary("daemon", daemon, &installed, files::must_be_the_daemon)?;
    if !node.places.systemd {
        return Ok(());
    }
    if !runs(node) {
        return node.step(
            "daemon",
            &format!(
                "systemd does not run here; start {} by other means, and again when it ends",
                installed.display()
            ),
        );
    }
    let changed = put(node, DAEMON, DAEMON_TEXT, &node.places.sbin_dir())? || changed;
    put_deliver(node)?;
    must("daemon", &["daemon-reload"])?;
    must("daemon", &["enable", DAEMON])?;
    // Also one that was killed between the new binary and here runs the old one: ask systemd.
    let did = if changed || !runs_what_is(&installed) {
        must("daemon", &["restart", DAEMON]).map_err(|error| {
            Error::Node(format!(
                "{error} (journalctl -u ovs-flow-gcd says why); the timer was left as it was"
            ))
        })?;
        "installed and started"
    } else {
        "there already, started"
    };
    node.step("daemon", &format!("{DAEMON}: {did}"))?;
    remove_timer(node)
}

pub(super) fn remove(node: &mut Node<'_>) -> Result<(), Error> {
    if !node.places.systemd {
        return Ok(());
    }
    remove_deliver(node)?;
    remove_timer(node)?;
    let there = unit(node, DAEMON).exists();
    if there && runs(node) {
        node.try_to("daemon", &["disable", "--now", DAEMON]);
    }
    files::remove(&unit(node, DAEMON))?;
    if there && runs(node) {
        node.try_to("daemon", &["daemon-reload"]);
    }
    let gone = files::remove(&node.places.daemon())?;
    let did = if there || gone { "stopped and removed, its unit too" } else { "not there" };
    node.step("daemon", &format!("{}: {did}", node.places.daemon().display()))
}

fn put_deliver(node: &Node<'_>) -> Result<(), Error> {
    DELIVER
        .iter()
        .try_for_each(|(name, text)| put(node, name, text, &node.places.bin_dir()).map(drop))
}

/// Those that start it first. A delivery that is at work ends with the plugin that it is at.
fn remove_deliver(node: &mut Node<'_>) -> Result<(), Error> {
    for (name, _) in DELIVER {
        if unit(node, name).exists() && runs(node) {
            node.try_to("deliver", &["disable", "--now", name]);
        }
        files::remove(&unit(node, name))?;
    }
    Ok(())
}

fn remove_timer(node: &mut Node<'_>) -> Result<(), Error> {
    let there = [SWEEP, TIMER].iter().any(|name| unit(node, name).exists());
    if there && runs(node) {
        node.try_to("timer", &["disable", "--now", TIMER]);
        // A sweep may be at work; it needs its state until it ends.
        node.try_to("timer", &["stop", SWEEP]);
    }
    for name in [SWEEP, TIMER] {
        files::remove(&unit(node, name))?;
    }
    if there && runs(node) {
        node.try_to("timer", &["daemon-reload"]);
    }
    let did = if there { "stopped and removed" } else { "not there" };
    node.step("timer", &format!("{TIMER}: {did}"))
}

fn unit(node: &Node<'_>, name: &str) -> PathBuf {
    node.places.below("/etc/systemd/system").join(name)
}

/// False if it was there so. What it starts is in `directory`, as the node calls it.
fn put(node: &Node<'_>, name: &str, text: &str, directory: &Path) -> Result<bool, Error> {
    let directory = directory.strip_prefix(&node.places.root).unwrap_or(directory);
    let start = format!("ExecStart={}/ovs-flow-gc", Path::new("/").join(directory).display());
    let text = ["/opt/cni/bin", "/usr/local/sbin"].iter().fold(text.to_owned(), |text, usual| {
        text.replace(&format!("ExecStart={usual}/ovs-flow-gc"), &start)
    });
    files::put(&unit(node, name), text.as_bytes(), 0o644, |_| Ok(()))
}

fn runs(node: &Node<'_>) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    node.places.below("/run/systemd/system").is_dir()
        && std::env::split_paths(&path).any(|directory| directory.join("systemctl").is_file())
}

fn must(what: &str, words: &[&str]) -> Result<(), Error> {
    if systemctl(words) {
        return Ok(());
    }
    Err(Error::Node(format!("{what}: systemctl {} failed", words.join(" "))))
}

/// What it has to say goes to standard error; standard output is ours.
pub(super) fn systemctl(words: &[&str]) -> bool {
    let mut command = Command::new("systemctl");
    command.args(words).stdin(Stdio::null()).stdout(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Whether the daemon's process is the file that is there now: a replaced one is "(deleted)".
fn runs_what_is(installed: &Path) -> bool {
    let mut command = Command::new("systemctl");
    command.args(["show", "--property=MainPID", "--value", DAEMON]);
    let Ok(output) = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output() else {
        return false;
    };
    let pid = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let inode = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    let running = inode(&Path::new("/proc").join(&pid).join("exe"));
    !pid.is_empty() && running.is_some() && running == inode(installed)
}
