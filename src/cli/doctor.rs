//! `doctor`: is this node set up right? Each finding says what to do about it.

mod chain;
mod multus;
mod records;
mod switch;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use super::{Context, Error, Exit, Table, deliver, output};
use crate::reconcile::Question;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Where conflists are.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    net_dir: PathBuf,
    /// Where CNI plugins are.
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    bin_dir: PathBuf,
    /// Where libcni caches results; `../multus/results`, multus' own, is read, too.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/cni/results")]
    cache_dir: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Note,
    Warning,
    Failure,
}

#[derive(Debug, Serialize)]
struct Finding {
    level: Level,
    what: &'static str,
    found: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    remedy: String,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn ok(&mut self, what: &'static str, found: impl Into<String>) {
        self.add(Level::Ok, what, found, "");
    }

    fn note(&mut self, what: &'static str, found: impl Into<String>, remedy: &str) {
        self.add(Level::Note, what, found, remedy);
    }

    fn warn(&mut self, what: &'static str, found: impl Into<String>, remedy: &str) {
        self.add(Level::Warning, what, found, remedy);
    }

    fn fail(&mut self, what: &'static str, found: impl Into<String>, remedy: &str) {
        self.add(Level::Failure, what, found, remedy);
    }

    fn add(&mut self, level: Level, what: &'static str, found: impl Into<String>, remedy: &str) {
        self.0.push(Finding { level, what, found: found.into(), remedy: remedy.to_owned() });
    }
}

pub(super) fn run(context: &Context, options: &Options) -> Result<Exit, Error> {
    let mut findings = Findings::default();
    findings.ok("version", env!("CARGO_PKG_VERSION"));
    let bridges = records::state(context, &mut findings);
    switch::switch(context, options, &bridges, &mut findings);
    daemon(context, &mut findings);
    if let Some(left) = deliver::leftovers(context, &options.cache_dir) {
        match deliver::say_leftovers(&left) {
            Some((text, remedy)) => findings.note("leftovers", text, remedy),
            None => findings.ok("leftovers", "no cached result is a dead pod's"),
        }
    }
    chain::chain(context, options, &mut findings);
    multus::multus(context, options, &mut findings);
    chain::access(options, &mut findings);
    runtime(&mut findings);
    let mut table = Table::new(&["", "CHECK", "FOUND", "WHAT TO DO"], &[]);
    for finding in &findings.0 {
        let level = match finding.level {
            Level::Ok => "ok",
            Level::Note => "note",
            Level::Warning => "WARN",
            Level::Failure => "FAIL",
        };
        table.row(vec![
            level.to_owned(),
            finding.what.to_owned(),
            finding.found.clone(),
            finding.remedy.clone(),
        ]);
    }
    output::say(context, &findings.0, table.text(context.screen))?;
    let worst = findings.0.iter().map(|f| f.level).max();
    Ok(if worst >= Some(Level::Warning) { Exit::Attention } else { Exit::Done })
}

/// Whether the daemon answers, and how it follows each bridge.
fn daemon(context: &Context, findings: &mut Findings) {
    // What cannot be opened is another finding.
    let Ok(Some(registry)) = context.registry() else { return };
    let what = "daemon";
    let socket = registry.daemon_socket().display().to_string();
    let answer = match context.ask(Question::Status) {
        Ok(answer) => answer,
        Err(failed) => {
            let (found, remedy) = match failed.kind() {
                ErrorKind::NotFound => {
                    return findings.note(
                        what,
                        "none: calls and the sweep timer do the work",
                        "install.sh install --daemon, or of a package systemctl enable --now ovs-flow-gcd: \
                         it finds deaths at once",
                    );
                }
                ErrorKind::ConnectionRefused => {
                    let remedy = "it was killed: systemctl status ovs-flow-gcd; meanwhile each call \
                                  does its own work";
                    ("nobody listens".to_owned(), remedy)
                }
                ErrorKind::Other => (failed.to_string(), "restart it after an upgrade"),
                _ => (
                    format!("no answer ({failed})"),
                    "systemctl status ovs-flow-gcd; meanwhile each call does its own work",
                ),
            };
            return findings.warn(what, format!("{socket}: {found}"), remedy);
        }
    };
    findings.ok(what, format!("{socket} answers"));
    if answer.get("limit") == Some(&Value::from(0)) {
        findings.note(what, "no bridge is followed", "--replica-limit is 0");
    }
    let bridges = answer.get("bridges").and_then(Value::as_array);
    for bridge in bridges.into_iter().flatten() {
        let text = |key| bridge.get(key).and_then(Value::as_str).unwrap_or_default();
        let followed = bridge.get("followed") == Some(&Value::Bool(true));
        let level = if followed { Level::Ok } else { Level::Note };
        findings.add(level, what, text("found"), text("remedy"));
    }
}

fn runtime(findings: &mut Findings) {
    let sockets = ["/run/containerd/containerd.sock", "/run/crio/crio.sock"];
    match sockets.iter().find(|s| Path::new(s).exists()) {
        Some(socket) => findings.ok("runtime", *socket),
        None => findings.note("runtime", "no socket of containerd or CRI-O", ""),
    }
}
