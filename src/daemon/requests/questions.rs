//! What the commands (`list`, `explain`, `doctor`) ask, which change nothing. They are answered from
//! the copy of a bridge that is followed; of any other the command reads the switch itself.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Shared, registry};
use crate::cli::status::Status;
use crate::cli::{explain, list};
use crate::config::database_socket;
use crate::daemon::metrics::labelled;
use crate::flowtable::replica::{Doubt, State};
use crate::flowtable::{BridgeTables, ReplicaStatus};
use crate::model::attachment::Key;
use crate::ovsdb::Client;
use crate::reconcile::wire::CleanResult::{Failed, Refused};
use crate::reconcile::{
    Extent, NodeSnapshot, Question, RUNTIME_ANSWERS, Sandboxes, WireAnswer, WireQuestion,
    open_table,
};
use crate::store::Registry;
use crate::util::clock::{BootTime, Deadline, Stamp, boot_id};

use super::LINE;

/// The answer to a line that is a question.
pub(super) fn answer(shared: &Shared, line: &[u8]) -> WireAnswer {
    let question = match WireQuestion::read(line, &shared.run_dir) {
        Ok(question) => question,
        Err(why) => return WireAnswer::not_done(Refused, why),
    };
    let answer = match question {
        Question::Status => Ok(status(shared)),
        Question::Counts => counts(shared),
        Question::Flows { key, generation, bridge } => flows(shared, (&key, generation), &bridge),
        Question::Sandboxes => sandboxes(shared),
    };
    match answer {
        Ok(answer) => WireAnswer::done(answer),
        Err(why) => WireAnswer::not_done(Failed, why),
    }
}

/// What `status` and `doctor` say of the daemon, in words and numbers.
fn status(shared: &Shared) -> Value {
    let bridges = shared.replicas.status();
    let bridges = bridges.iter().map(|(bridge, status)| {
        let (found, remedy) = sentences(bridge, status);
        json!({"followed": matches!(status.state, State::InSync { .. }), "found": found,
            "remedy": remedy})
    });
    let bridges: Vec<Value> = bridges.collect();
    let metrics = &shared.metrics;
    let text = metrics.encode().unwrap_or_default();
    let now = Duration::from_millis(Stamp::now().wall_ms);
    let last_sweep = Some(metrics.last_sweep.get()).filter(|seconds| *seconds > 0.0);
    let ago = last_sweep.map(|seconds| now.as_secs_f64() - seconds);
    json!({
        "bridges": bridges,
        "limit": shared.options.replica_limit,
        "upSeconds": shared.wakeup.now().as_secs(),
        "wellSeconds": shared.progress.well_for(shared.wakeup.now()).map(|well| well.as_secs()),
        "notReady": shared.progress.ready().err(),
        "lastSweepSeconds": ago.map(|ago| ago.max(0.0) as u64),
        "left": labelled(&text, "stale_flows_left"),
        "kept": labelled(&text, "flows_kept"),
        "suspicions": metrics.suspicions.get(),
        "calls": shared.requests.lately(),
    })
}

/// What the command `status` shows.
pub(in crate::daemon) fn overview(shared: &Shared) -> Result<Status, String> {
    let registry = Registry::open_existing(&shared.options.state_dir);
    let registry = registry.map_err(|error| error.to_string())?;
    Status::read(registry.as_ref(), Ok(status(shared))).map_err(|error| error.to_string())
}

/// What is found, and what to do about it.
fn sentences(bridge: &str, status: &ReplicaStatus) -> (String, &'static str) {
    match status.state {
        State::InSync { since } => {
            let ago = crate::cli::ago(since.until(BootTime::now()));
            let ReplicaStatus { entries, bytes, .. } = status;
            let entries = crate::cli::output::counted(*entries as u64, "entry");
            let found = format!("{bridge} is followed since {ago}: {entries}, {bytes} bytes");
            (found, "")
        }
        State::Building => {
            (format!("{bridge} is read at each death: its copy is being built"), "wait a moment")
        }
        State::Doubt(doubt) => (format!("{bridge} is read at each death: {doubt}"), remedy(doubt)),
    }
}

fn remedy(doubt: Doubt) -> &'static str {
    match doubt {
        Doubt::OverLimit => "raise --replica-limit, and MemoryMax with it: 320 bytes an entry",
        Doubt::Refused => "Open vSwitch 3.0 or newer has them; nothing is lost without",
        Doubt::NoMemory => "raise MemoryMax (or the container's limit), or lower --replica-limit",
        _ => "it is built anew by itself; if this stays, the daemon's log says why",
    }
}

/// How many entries name each attachment, by bridge; none of bridges that are not followed.
fn counts(shared: &Shared) -> Result<Value, String> {
    let deadline = Deadline::after(LINE);
    let node = node(shared, deadline)?;
    let counts = list::counts(&node, |bridge| {
        if !shared.replicas.is_followed(bridge) {
            return None;
        }
        let (switch, ports) = open_table(&shared.run_dir, bridge, deadline).ok()?;
        Some((shared.replicas.source(bridge, switch), ports))
    });
    counts.map_err(|error| error.to_string())
}

/// What the container runtime answers now.
fn sandboxes(shared: &Shared) -> Result<Value, String> {
    let cri =
        shared.cri.get().ok_or("the daemon does not ask the runtime: --liveness=netns,cri")?;
    let ids = cri.sandboxes(RUNTIME_ANSWERS).ok_or("the runtime does not answer completely")?;
    let socket = cri.socket().to_owned();
    let meta = fs::metadata(&socket).map_err(|error| error.to_string())?;
    let answer = Sandboxes { socket, file: (meta.dev(), meta.ino()), ids };
    serde_json::to_value(answer).map_err(|error| error.to_string())
}

/// Records and OVSDB.
fn node(shared: &Shared, deadline: Deadline) -> Result<NodeSnapshot, String> {
    let registry = registry(shared)?;
    let client = Client::connect(&database_socket(&shared.run_dir), deadline);
    let mut client = client.map_err(|error| error.to_string())?;
    let node = NodeSnapshot::read(Some(&registry), &shared.run_dir, &mut client, Stamp::now());
    node.map_err(|error| error.to_string())
}

/// The entries of a bridge that name an attachment, each with its verdict.
fn flows(shared: &Shared, life: (&Key, u64), bridge: &str) -> Result<Value, String> {
    if !shared.replicas.is_followed(bridge) {
        return Err(format!("{bridge} is not followed"));
    }
    let (deadline, now) = (Deadline::after(LINE), Stamp::now());
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let node = node(shared, deadline)?;
    let mut records = node.records.iter().chain(&node.tombstones);
    let record = records.find(|record| (&record.key, record.generation) == life);
    let record = record.ok_or("there is no such attachment")?;
    let boot = boot_id().map_err(|error| text(&error))?;
    let mut ids = node.bridges_of(record).into_iter();
    let id = ids.find(|id| node.bridge(*id).is_some_and(|of| of.name == bridge));
    let id = id.ok_or("it has no such bridge")?;
    let (switch, ports) =
        open_table(&shared.run_dir, bridge, deadline).map_err(|error| text(&error))?;
    let mut source = shared.replicas.source(bridge, switch);
    let targets = [explain::target(record, now, &boot)];
    let read =
        explain::Read { node: &node, bridge: (id, bridge), targets: &targets, ports: &ports };
    let flows = read.flows(&mut *source, Extent::Dangling).map_err(|error| text(&error))?;
    serde_json::to_value(flows).map_err(|error| text(&error))
}
