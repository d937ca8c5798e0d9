//! `list`: what this node knows.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use clap::Args;
use log::warn;
use serde::Serialize;
use serde_json::Value;

use super::output::{self, or_dash, short};
use super::screen::Text;
use super::{Context, Error, Exit, Table, ago, explain};
use crate::config::database_socket;
use crate::flowtable::FlowSource;
#[cfg(feature = "daemon")]
use crate::flowtable::{FlowSink, PortList};
use crate::judge::{Judge, Survey};
use crate::liveness::{Liveness, netns};
use crate::model::attachment::{Attachment, State};
use crate::model::flow::Flow;
use crate::openflow;
use crate::ovsdb::Client;
use crate::reconcile::{
    BridgeId, CleanTarget, NodeSnapshot, Question, lacks_value, network_states, open_table,
};
use crate::store::{Registry, RegistrySnapshot};
use crate::util::clock::{Deadline, Stamp, boot_id};

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Do not count flows: asks the switch for nothing.
    #[arg(long)]
    no_flows: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row<'a> {
    #[serde(flatten)]
    attachment: &'a Attachment,
    /// Of its pod: see [`life`].
    liveness: &'static str,
    age_seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    flows: Option<u64>,
    /// ovn-controller runs all bridges of the attachment: its flows are not judged.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    ovn: bool,
    /// The pod is dead, and its register value was never seen.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    value_unknown: bool,
}

pub(super) fn run(context: &Context, options: &Options) -> Result<Exit, Error> {
    let registry = context.registry()?;
    let registry_snapshot = registry.as_ref().map(Registry::snapshot).transpose()?;
    let registry_snapshot = registry_snapshot.unwrap_or_default();
    let counts = match &registry {
        Some(registry) if !options.no_flows && !registry_snapshot.has_no_records() => {
            let counted = Counts::of_node(context, registry);
            counted.inspect_err(|failed| warn!("flows are not counted: {failed}")).ok()
        }
        _ => None,
    };
    let rows = rows(&registry_snapshot, &counts.unwrap_or_default())?;
    let text: Text = match (&registry, rows.is_empty()) {
        (None, _) => context.no_records("no attachments").as_str().into(),
        (Some(_), true) => "no attachments".into(),
        (Some(_), false) => table(&rows).text(context.screen),
    };
    output::say(context, &rows, text)?;
    let corrupt = registry_snapshot.corrupt.iter().map(ToString::to_string);
    let unread = registry_snapshot.failures.iter().map(ToString::to_string);
    let missing: Vec<String> = corrupt.chain(unread).collect();
    missing.iter().for_each(|what| output::complain(what));
    Ok(if missing.is_empty() { Exit::Done } else { Exit::Attention })
}

/// Whether the pod lives, in one word for every command: a tombstone's is dead, of another the
/// network namespace tells.
pub(super) fn life(record: &Attachment, namespace: Liveness) -> &'static str {
    match (record.state, namespace) {
        (State::Deleting | State::Gone, _) | (State::Active, Liveness::Dead(_)) => "dead",
        (State::Active, Liveness::Alive) => "alive",
        (State::Active, Liveness::Unknown(_)) => "unknown",
    }
}

/// Every record and tombstone by pod, with what the node says of it now.
fn rows<'a>(snapshot: &'a RegistrySnapshot, counts: &Counts) -> Result<Vec<Row<'a>>, Error> {
    let (boot, now) = (boot_id().map_err(Error::BootId)?, Stamp::now());
    let namespaces = netns::judge_all(&snapshot.attachments, &boot);
    let dead = snapshot.tombstones.iter().map(|dead| (dead, "dead"));
    let active = snapshot.attachments.iter().zip(namespaces);
    let active = active.map(|(record, namespace)| (record, life(record, namespace)));
    let all: Vec<(&Attachment, &str)> = active.chain(dead).collect();
    let networks = network_states(snapshot);
    let value_unknown = |a: &Attachment| {
        let state = networks.get(&a.key.network).filter(|_| a.state != State::Active);
        state.is_some_and(|state| lacks_value(state, a, all.iter().map(|(record, _)| *record)))
    };
    let row = |(attachment, liveness): &(&'a Attachment, &'static str)| {
        let id = id_of(attachment);
        let ovn = counts.ovn.contains(&id);
        Row {
            attachment,
            liveness,
            age_seconds: attachment.created.until(now).as_secs(),
            flows: counts.flows.get(&id).copied(),
            ovn,
            value_unknown: !ovn && value_unknown(attachment),
        }
    };
    let mut rows: Vec<Row<'a>> = all.iter().map(row).collect();
    rows.sort_by_cached_key(|row| output::by_pod(row.attachment));
    Ok(rows)
}

#[rustfmt::skip]
const HEAD: [&str; 13] = [
    "POD", "CONTAINER", "IFNAME", "NETWORK", "BRIDGE", "PORT", "OFPORT", "REG0", "IP", "MAC",
    "STATE", "AGE", "FLOWS",
];

/// What a narrow terminal does not get, the first one first.
#[rustfmt::skip]
const SPARE: [&str; 10] = [
    "MAC", "REG0", "PORT", "OFPORT", "CONTAINER", "BRIDGE", "AGE", "IP", "IFNAME", "NETWORK",
];

fn table(rows: &[Row<'_>]) -> Table {
    let mut table = Table::new(&HEAD, &SPARE);
    for row in rows {
        let a = row.attachment;
        table.row(vec![
            or_dash(a.pod.as_ref()),
            short(a.key.container.as_str()),
            a.key.ifname.to_string(),
            a.key.network.to_string(),
            or_dash(a.bridge.as_ref()),
            or_dash(a.port.as_ref()),
            or_dash(a.ofport),
            match a.register {
                Some(register) => format!("{:#x}", register.value),
                None if row.value_unknown => "never known".to_owned(),
                None => "-".to_owned(),
            },
            output::list(&a.ips, ","),
            output::list(&a.macs, ","),
            match (a.state, row.liveness) {
                (State::Active, "dead") => "dead".to_owned(),
                (state, _) => state.to_string(),
            },
            ago(Duration::from_secs(row.age_seconds)),
            match (row.ovn, row.flows) {
                (true, _) => "OVN's, not judged".to_owned(),
                (false, None) => "?".to_owned(),
                (false, Some(n)) => n.to_string(),
            },
        ]);
    }
    table
}

/// How an attachment is named in an answer of the daemon's.
fn id_of(attachment: &Attachment) -> String {
    format!("{} {}", attachment.key, attachment.generation)
}

/// The entries of each attachment, on all bridges that it may have some on.
#[derive(Default)]
struct Counts {
    /// None of an attachment if one of its bridges did not answer.
    flows: HashMap<String, u64>,
    /// Whose bridges are all OVN's.
    ovn: BTreeSet<String>,
}

impl Counts {
    /// OVSDB and all bridges share one deadline: if one of them hangs, the records are printed all
    /// the same.
    fn of_node(context: &Context, registry: &Registry) -> Result<Self, Error> {
        let deadline = context.deadline();
        let database = Deadline::after(context.timeout / 2);
        let mut client = Client::connect(&database_socket(&context.run_dir), database)?;
        let now = Stamp::now();
        let node = NodeSnapshot::read(Some(registry), &context.run_dir, &mut client, now)?;
        let answer = context.ask(Question::Counts).ok();
        let mut counts = Self::default();
        let targets = targets(&node)?;
        for CleanTarget { attachment, .. } in &targets {
            let all = node.bridges_of(attachment);
            let is_ovn = |id: &BridgeId| node.bridge(*id).is_some_and(|b| node.ovs.is_ovn(b));
            if !all.is_empty() && all.iter().all(is_ovn) {
                counts.ovn.insert(id_of(attachment));
            }
            counts.flows.insert(id_of(attachment), 0);
        }
        for (id, targets) in by_bridge(&node, &targets) {
            let Some(bridge) = node.bridge(id) else { continue };
            let known = answer.as_ref().and_then(|all| counted(all.get(&bridge.name)?, &targets));
            let found = known.map_or_else(|| read(context, &node, id, &targets, deadline), Ok);
            let found = found.inspect_err(|failed| {
                warn!("{}: flows are not counted: {failed}", bridge.name);
            });
            for target in &targets {
                let id = id_of(&target.attachment);
                let more = found.as_ref().ok().and_then(|found| found.get(&id));
                match (counts.flows.get_mut(&id), more) {
                    (Some(sum), Some(more)) => *sum = sum.saturating_add(*more),
                    _ => drop(counts.flows.remove(&id)),
                }
            }
        }
        Ok(counts)
    }
}

/// Everybody, as they would be if they were dead now.
fn targets(node: &NodeSnapshot) -> Result<Vec<CleanTarget>, Error> {
    let boot = boot_id().map_err(Error::BootId)?;
    let all = node.records.iter().chain(&node.tombstones);
    Ok(all.map(|record| explain::target(record, node.now, &boot)).collect())
}

/// Who may have entries on which bridge, but for OVN's.
fn by_bridge(node: &NodeSnapshot, targets: &[CleanTarget]) -> BTreeMap<BridgeId, Vec<CleanTarget>> {
    let mut bridges: BTreeMap<BridgeId, Vec<CleanTarget>> = BTreeMap::new();
    for target in targets {
        for id in node.bridges_of(&target.attachment) {
            if node.bridge(id).is_some_and(|bridge| !node.ovs.is_ovn(bridge)) {
                bridges.entry(id).or_default().push(target.clone());
            }
        }
    }
    bridges
}

/// What the daemon has counted, if it knows all of them.
fn counted(answer: &Value, targets: &[CleanTarget]) -> Option<HashMap<String, u64>> {
    let ids = targets.iter().map(|target| id_of(&target.attachment));
    ids.map(|id| answer.get(&id)?.as_u64().map(|count| (id, count))).collect()
}

/// Counts by the switch's own table.
fn read(
    context: &Context,
    node: &NodeSnapshot,
    id: BridgeId,
    targets: &[CleanTarget],
    deadline: Deadline,
) -> Result<HashMap<String, u64>, openflow::Error> {
    let name = node.bridge(id).map_or("", |bridge| &bridge.name);
    let (mut source, ports) = open_table(&context.run_dir, name, deadline)?;
    let bridge = explain::Read { node, bridge: (id, name), targets, ports: &ports };
    count(&bridge, &mut source)
}

/// How many entries of a bridge name each of the targets: those that `explain` shows.
fn count(
    bridge: &explain::Read<'_>,
    source: &mut dyn FlowSource,
) -> Result<HashMap<String, u64>, openflow::Error> {
    let input = bridge.input();
    let mut survey = Survey::new(&input.facts);
    source.buckets()?.iter().for_each(|bucket| survey.see_bucket(bucket));
    each_flow(source, &mut |flow| {
        survey.see(flow);
    })?;
    let learned = survey.finish();
    let judge = Judge::new(&input.facts, &learned);
    let mut counts = input.targets.map(|_, _| 0_u64);
    each_flow(source, &mut |flow| {
        for dead in judge.named(flow) {
            counts.get_mut(dead).into_iter().for_each(|count| *count = count.saturating_add(1));
        }
    })?;
    let mut found: HashMap<String, u64> =
        bridge.targets.iter().map(|target| (id_of(&target.attachment), 0)).collect();
    for (target, count) in input.targets.values().zip(counts.values()) {
        if let Some(CleanTarget { attachment, .. }) = bridge.targets.get(target.id.0) {
            found.insert(id_of(attachment), *count);
        }
    }
    Ok(found)
}

fn each_flow(
    source: &mut dyn FlowSource,
    each: &mut dyn FnMut(&Flow),
) -> Result<(), openflow::Error> {
    let mut flow = Flow::default();
    let everything = source.everything()?;
    source.scan(&everything, &mut |seen| {
        seen.raw.decode(&mut flow)?;
        flow.made = seen.made.latest;
        each(&flow);
        Ok(())
    })
}

/// How the daemon answers [`Question::Counts`]. `source` reads a bridge that is followed, with its
/// ports; none of another.
#[cfg(feature = "daemon")]
pub(crate) fn counts(
    node: &NodeSnapshot,
    mut source: impl FnMut(&str) -> Option<(Box<dyn FlowSink>, PortList)>,
) -> Result<Value, Error> {
    let mut answer = serde_json::Map::new();
    for (id, targets) in by_bridge(node, &targets(node)?) {
        let Some(bridge) = node.bridge(id) else { continue };
        let Some((mut source, ports)) = source(&bridge.name) else { continue };
        let targets = &targets;
        let read = explain::Read { node, bridge: (id, &bridge.name), targets, ports: &ports };
        answer.insert(bridge.name.clone(), serde_json::to_value(count(&read, &mut *source)?)?);
    }
    Ok(Value::Object(answer))
}
