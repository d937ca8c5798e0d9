//! `doctor`: is this node set up right? Each finding says what to do about it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use serde_json::{Map, Value};

use super::conflist::{Candidate, Inspection};
use super::{Context, Error, Exit, Table, networks, output, registers};
use crate::config::{Config, database_socket};
use crate::liveness::{Liveness, mass_death_guard, netns};
use crate::model::attachment::{Attachment, Key, State};
use crate::ovsdb::{Client, Snapshot};
use crate::reconcile::{
    NodeSnapshot, Question, network_states, open_bridge, orphans, pulled_brake, unrecorded_ports,
};
use crate::store::{Registry, RegistrySnapshot};
use crate::util::clock::{Stamp, boot_id};

/// How many pods of one finding are named; the rest is counted.
const MOST_NAMED: usize = 10;

/// What findings about conflists are of.
const CONFLIST: &str = "conflist";

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Where conflists are.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    net_dir: PathBuf,
    /// Where CNI plugins are.
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    bin_dir: PathBuf,
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
    let bridges = state(context, &mut findings);
    switch(context, &bridges, &mut findings);
    daemon(context, &mut findings);
    chain(context, options, &mut findings);
    access(options, &mut findings);
    runtime(&mut findings);
    let mut table = Table::new(&["", "CHECK", "FOUND", "WHAT TO DO"]);
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
    output::say(context, &findings.0, &table.to_string())?;
    let worst = findings.0.iter().map(|f| f.level).max();
    Ok(if worst >= Some(Level::Warning) { Exit::Attention } else { Exit::Done })
}

/// The state directory; returns the bridges that records name.
fn state(context: &Context, findings: &mut Findings) -> BTreeSet<String> {
    let Some(registry) = state_directory(context, findings) else { return BTreeSet::new() };
    if let Some(pause) = registry.pause() {
        findings.warn("pause", pause.to_string(), "ovs-flow-gc resume");
    }
    let registry_snapshot = match registry.snapshot() {
        Ok(registry_snapshot) => registry_snapshot,
        Err(error) => {
            findings.fail("records", error.to_string(), "");
            return BTreeSet::new();
        }
    };
    records(&registry_snapshot, findings);
    register_values(&registry_snapshot, findings);
    if let Ok(boot) = boot_id() {
        liveness(&registry, &registry_snapshot, &boot, findings);
    }
    let records = registry_snapshot.attachments.iter().chain(&registry_snapshot.tombstones);
    records.filter_map(|r| r.bridge.clone()).collect()
}

/// Whether ADD can write to the state directory; `None` if it cannot be opened.
fn state_directory(context: &Context, findings: &mut Findings) -> Option<Registry> {
    let what = "state directory";
    let dir = context.state_dir.display().to_string();
    let mend = "ADD fails until this is mended";
    let registry = match Registry::open_existing(&context.state_dir) {
        Ok(Some(registry)) => registry,
        Ok(None) => {
            let found = format!("{dir} does not exist");
            findings.note(what, found, "the first ADD makes it");
            return None;
        }
        Err(error) => {
            findings.fail(what, error.to_string(), mend);
            return None;
        }
    };
    match registry.lock(context.deadline()).and_then(|lock| lock.probe()) {
        Ok(()) => findings.ok(what, format!("{dir} is writable")),
        Err(error) => findings.fail(what, error.to_string(), mend),
    }
    Some(registry)
}

/// Records that cannot be read or lack their port, and dead pods that wait for their clean-up.
fn records(registry_snapshot: &RegistrySnapshot, findings: &mut Findings) {
    for torn in &registry_snapshot.corrupt {
        findings.warn(
            "records",
            torn.to_string(),
            "ovs-flow-gc sweep moves it aside; ovs-flow-gc adopt records the pod again",
        );
    }
    let portless = registry_snapshot.attachments.iter().filter(|r| r.ofport.is_none()).count();
    if portless > 0 {
        findings.warn(
            "records",
            format!("{portless} attachments have no port"),
            "is the entry after the OVS plugin, and was OVS up at ADD?",
        );
    }
    let waiting: Vec<_> =
        registry_snapshot.tombstones.iter().filter(|t| t.state == State::Deleting).collect();
    if let Some(first) = waiting.first() {
        let why = first.last_error.clone().unwrap_or_else(|| "not tried yet".to_owned());
        findings.warn(
            "tombstones",
            format!("{} dead pods wait for clean-up ({why})", waiting.len()),
            "ovs-flow-gc sweep; is the timer on?",
        );
    }
}

/// How many of the recorded pods live, have died without a DEL, or cannot be judged.
fn liveness(
    registry: &Registry,
    registry_snapshot: &RegistrySnapshot,
    boot: &str,
    findings: &mut Findings,
) {
    let orphans = orphans::find(registry_snapshot, boot);
    findings.ok("records", format!("{} attachments", orphans.total));
    if let Some((source, swept)) = pulled_brake(registry, registry_snapshot, &orphans, boot) {
        let found = format!(
            "{} of {} attachments seem dead at once on the word of {source} alone{}: nothing of \
             theirs is deleted",
            orphans.dead.iter().filter(|orphan| orphan.alone().is_some()).count(),
            orphans.total,
            mass_death_guard::swept_before(swept)
        );
        let remedy = "is the netns directory mounted? If they are dead indeed: ovs-flow-gc \
                      sweep --yes";
        findings.warn("brake", found, remedy);
    }
    if !orphans.dead.is_empty() {
        let found = format!("{} died without a DEL", orphans.dead.len());
        findings.warn("orphans", found, "ovs-flow-gc sweep --dry-run shows them");
    }
    if let Some((_, why)) = orphans.unknown.first() {
        let found = format!("nobody knows whether {} live: {why}", orphans.unknown.len());
        findings.note("liveness", found, "");
    }
}

/// Whether register values are evidence, where they are learned.
fn register_values(registry_snapshot: &RegistrySnapshot, findings: &mut Findings) {
    for (network, state) in network_states(registry_snapshot) {
        let records = registry_snapshot.attachments.iter().chain(&registry_snapshot.tombstones);
        let of = records.filter(|record| record.key.network == network);
        if let Some(proof) = registers::proof(&state, of) {
            let level = if proof.holds { Level::Ok } else { Level::Note };
            let found = format!("network {network}: {}", proof.found);
            findings.add(level, "registers", found, proof.remedy);
        }
    }
}

fn switch(context: &Context, recorded: &BTreeSet<String>, findings: &mut Findings) {
    let socket = database_socket(&context.run_dir);
    let read = Client::connect(&socket, context.deadline())
        .and_then(|mut client| client.snapshot().map(|snapshot| (snapshot, client)));
    let (snapshot, mut client) = match read {
        Ok(read) => read,
        Err(error) => {
            findings.fail(
                "OVSDB",
                error.to_string(),
                "is ovsdb-server running, and is OVS_RUNDIR right?",
            );
            return;
        }
    };
    findings.ok("OVSDB", format!("{} answers", socket.display()));
    let snapshot = Arc::new(snapshot);
    unplugged(context, &snapshot, findings);
    unrecorded(context, &mut client, findings);
    for name in recorded {
        if !snapshot.bridges.iter().any(|b| b.name == *name) {
            let found = format!("records name {name}, which is not there");
            findings.note("bridge", found, "its tombstones end with the next sweep");
        }
    }
    for bridge in &snapshot.bridges {
        if snapshot.is_ovn(bridge) {
            findings.note(
                "bridge",
                format!("{} is run by ovn-controller: OVN's, not judged", bridge.name),
                "",
            );
        }
        match open_bridge(&context.run_dir, &bridge.name, context.deadline()) {
            Ok(mut connection) => {
                let software = connection.description().unwrap_or_default();
                let version = connection.version();
                findings.ok("bridge", format!("{} speaks {version}, OVS {software}", bridge.name));
            }
            Err(error) => {
                let level = if recorded.is_empty() || recorded.contains(&bridge.name) {
                    Level::Failure
                } else {
                    Level::Note
                };
                let remedy =
                    "is ovs-vswitchd running, and does the bridge allow OpenFlow 1.3 or later?";
                findings.add(level, "bridge", format!("{}: {error}", bridge.name), remedy);
            }
        }
    }
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

/// Records of live pods whose port is not in OVSDB any more: it was unplugged, and the DEL came
/// with another container id than the ADD, or not at all.
fn unplugged(context: &Context, snapshot: &Arc<Snapshot>, findings: &mut Findings) {
    let read = context.registry().map(|registry| registry.map(|registry| registry.snapshot()));
    // What cannot be read is another finding.
    let Ok(Some(Ok(registry_snapshot))) = read else { return };
    let Ok(boot) = boot_id() else { return };
    let node = NodeSnapshot::of(Stamp::now(), boot.clone(), Arc::clone(snapshot));
    let without_port = |record: &&Attachment| {
        record.port.is_some()
            && node.place_of(record).is_none()
            && netns::judge(record, &boot) == Liveness::Alive
    };
    let found: Vec<&Attachment> =
        registry_snapshot.attachments.iter().filter(without_port).collect();
    for record in found.iter().take(MOST_NAMED) {
        let Key { network, container, ifname } = &record.key;
        let port = record.port.as_deref().unwrap_or_default();
        let pod = record.title();
        findings.warn(
            "records",
            format!(
                "{pod}, {ifname} in {network}, container {container}: its sandbox lives, its port \
                 {port} is gone"
            ),
            "if it was unplugged: DEL with this container id (docs/promises.md, \"What it rests \
             on\"); else its entries stay until the sandbox ends",
        );
    }
    let more = found.len().saturating_sub(MOST_NAMED);
    if more > 0 {
        let found = format!("{more} more whose sandbox lives and whose port is gone");
        findings.warn("records", found, "was a bridge made anew without its ports?");
    }
}

/// Ports that an OVS CNI has marked and that have no record: a runtime was killed in an ADD.
fn unrecorded(context: &Context, client: &mut Client, findings: &mut Findings) {
    let Ok(registry) = context.registry() else { return };
    // What cannot be read is another finding.
    let read = NodeSnapshot::read(registry.as_ref(), &context.run_dir, client, Stamp::now());
    let found = read.map(|node| unrecorded_ports(&node)).unwrap_or_default();
    for port in found.iter().take(MOST_NAMED) {
        let remedy = if port.gone {
            "ovs-flow-gc sweep deletes its entries; ovs-vsctl del-port removes the port"
        } else {
            "ovs-flow-gc adopt, if its pod runs"
        };
        findings.warn("unrecorded port", port.sentence(), remedy);
    }
    let more = found.len().saturating_sub(MOST_NAMED);
    if more > 0 {
        let found = format!("{more} more ports that a CNI marked and nobody recorded");
        findings.warn("unrecorded port", found, "ovs-flow-gc adopt");
    }
}

/// The conflists that have our entry.
fn chain(context: &Context, options: &Options, findings: &mut Findings) {
    let files = networks::read(&options.net_dir, &[]).unwrap_or_default();
    let Some(first) = files.first().map(|file| file.path.clone()) else {
        let found = format!("none in {}", options.net_dir.display());
        findings.warn(CONFLIST, found, "--net-dir names another directory");
        return;
    };
    let only_multus = is_only_multus(&files);
    let mut ours = 0;
    for file in files {
        let settings = file.settings();
        let Candidate { path, inspection } = file;
        let found = match inspection {
            Ok(found) => found,
            Err(error) => {
                let remedy = "runtimes cannot read it either: mend it or take it away";
                findings.warn(CONFLIST, error.to_string(), remedy);
                continue;
            }
        };
        let Some(entry) = found.ours else { continue };
        ours += 1;
        if path != first {
            findings.warn(
                CONFLIST,
                format!(
                    "{} has the entry, but runtimes use {} (it sorts first)",
                    path.display(),
                    first.display()
                ),
                "DEL never reaches us if another conflist sorts first at DEL time",
            );
        }
        position(&path, &found, entry, findings);
        let name = found.entry_file(&path).display().to_string();
        problems(&name, &settings, findings);
        let binary = options.bin_dir.join("ovs-flow-gc");
        if !is_executable(&binary) {
            findings.fail(
                "binary",
                format!("{} is not there, but {name} calls it", binary.display()),
                "install.sh install; a missing binary blocks every DEL on the node",
            );
        }
    }
    if ours == 0 && only_multus {
        in_the_api(context, options, findings);
    } else if ours == 0 {
        let found = format!("no entry in {}", options.net_dir.display());
        findings.warn(CONFLIST, found, "ovs-flow-gc conflist add FILE");
    }
}

/// Whether multus is there and no file has an OVS plugin: the OVS networks are in
/// NetworkAttachmentDefinitions then.
fn is_only_multus(files: &[Candidate]) -> bool {
    let seen = || files.iter().filter_map(|file| file.inspection.as_ref().ok());
    let is_multus = |found: &Inspection| found.plugins.iter().any(|kind| kind.contains("multus"));
    seen().any(is_multus) && seen().all(|found| found.ovs.is_none())
}

/// Networks whose configuration is not on the node: those of which there are records.
fn in_the_api(context: &Context, options: &Options, findings: &mut Findings) {
    let mut networks: BTreeMap<String, usize> = BTreeMap::new();
    let registry = context.registry().ok().flatten();
    for record in registry.and_then(|r| r.snapshot().ok()).into_iter().flat_map(|s| s.attachments) {
        *networks.entry(record.key.network.to_string()).or_default() += 1;
    }
    let place = format!("multus, and no Open vSwitch plugin in {}", options.net_dir.display());
    if networks.is_empty() {
        let remedy = "is the entry in the NetworkAttachmentDefinitions? ovs-flow-gc conflist add -";
        findings.warn(CONFLIST, format!("{place}; no pod of theirs is recorded"), remedy);
    } else {
        let seen: Vec<_> = networks.iter().map(|(name, pods)| format!("{name}: {pods}")).collect();
        findings.ok(CONFLIST, format!("{place}; recorded of other networks: {}", seen.join(", ")));
    }
    let binary = options.bin_dir.join("ovs-flow-gc");
    if !is_executable(&binary) {
        findings.fail(
            "binary",
            format!("{} is not there", binary.display()),
            "install.sh install --no-conflist; no pod of an edited network can start or end",
        );
    }
}

/// Whether our entry comes after the OVS plugin.
fn position(path: &Path, found: &Inspection, entry: usize, findings: &mut Findings) {
    let name = path.display();
    match found.ovs {
        Some(ovs) if ovs < entry => {
            let plugin = found.plugins.get(ovs).map_or("the OVS plugin", String::as_str);
            findings.ok(CONFLIST, format!("{name}: after {plugin}"));
        }
        Some(_) => findings.fail(
            CONFLIST,
            format!("{name}: the entry is before the OVS plugin"),
            "ovs-flow-gc conflist remove FILE, then add",
        ),
        None => {
            findings.warn(CONFLIST, format!("{name}: no OVS plugin known to us in the chain"), "")
        }
    }
}

/// What ADD would refuse or ignore of our entry.
fn problems(name: &str, settings: &Map<String, Value>, findings: &mut Findings) {
    for warning in Config::retired(settings) {
        findings.warn(CONFLIST, format!("{name}: {warning}"), "take it out");
    }
    let (_, problems) = Config::parse(settings);
    for problem in problems {
        findings.fail(CONFLIST, format!("{name}: {problem}"), "ADD fails with this");
    }
}

/// Files that everybody may write: who can write what the runtime runs or reads is root at the
/// next pod.
fn access(options: &Options, findings: &mut Findings) {
    let files = networks::read(&options.net_dir, &[]).unwrap_or_default();
    // A list's plugins may have files of their own, in a directory of the list's.
    let all_of = |file: Candidate| {
        let own = file.inspection.map(|found| found.drop_ins).unwrap_or_default();
        let directory = own.first().and_then(|own| own.parent()).map(Path::to_owned);
        [file.path].into_iter().chain(directory).chain(own)
    };
    let files = files.into_iter().flat_map(all_of);
    let binary = options.bin_dir.join("ovs-flow-gc");
    let all = [options.bin_dir.clone(), binary, options.net_dir.clone()].into_iter().chain(files);
    for path in all {
        let mode = std::fs::metadata(&path).map_or(0, |meta| meta.permissions().mode() & 0o7777);
        if mode & 0o002 != 0 {
            findings.warn(
                "access",
                format!("{} has mode {mode:04o}: everybody may write to it", path.display()),
                "chmod o-w: whoever writes there is root at the next pod",
            );
        }
    }
}

fn is_executable(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

fn runtime(findings: &mut Findings) {
    let sockets = ["/run/containerd/containerd.sock", "/run/crio/crio.sock"];
    match sockets.iter().find(|s| Path::new(s).exists()) {
        Some(socket) => findings.ok("runtime", *socket),
        None => findings.note("runtime", "no socket of containerd or CRI-O", ""),
    }
}
