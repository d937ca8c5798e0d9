//! `explain`: why is this flow stale, or why is it not?

mod in_actions;

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use super::list::life;
use super::named::named;
use super::screen::Text;
use super::{Context, Error, Exit, Screen, Table, output, registers};
use crate::config::database_socket;
use crate::flowtable::FlowSource;
use crate::judge::Judge;
use crate::liveness::{Liveness, netns};
use crate::model::attachment::{Attachment, State};
use crate::openflow;
use crate::ovsdb::Client;
use crate::reconcile::{
    BridgeId, BridgeInput, Cause, CleanTarget, Extent, FlowReport, NodeSnapshot, Question,
    open_table, orphans, scan_bridge,
};
use crate::util::clock::{Stamp, boot_id};
use crate::util::logging::escape;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// A pod (NAME or NAMESPACE/NAME) or a container id; the beginning is enough.
    #[arg(value_name = "POD_OR_CONTAINER")]
    who: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Explanation<'a> {
    attachment: &'a Attachment,
    /// Of its pod: alive, dead or unknown.
    liveness: &'static str,
    /// The same in words, with the reason.
    found: String,
    /// Of each a [`FlowReport`]. While the pod is not dead, `stale` is what a DEL would delete.
    flows: Vec<Value>,
    /// Of each a [`FlowReport`]: the entries that name it in their actions only. They stay.
    in_actions: Vec<Value>,
    /// What is missing for its register value to be evidence.
    #[serde(skip_serializing_if = "String::is_empty")]
    register: String,
    /// Its bridges that ovn-controller runs: not judged.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ovn: Vec<String>,
}

pub(super) fn run(context: &Context, options: &Options) -> Result<Exit, Error> {
    let nobody = || Error::NoSuchPod(options.who.clone());
    let registry =
        context.registry()?.ok_or_else(|| Error::Node(context.no_records("no attachments")))?;
    let boot = boot_id().map_err(Error::BootId)?;
    let now = Stamp::now();
    let mut client = Client::connect(&database_socket(&context.run_dir), context.deadline())?;
    let node = NodeSnapshot::read(Some(&registry), &context.run_dir, &mut client, now)?;
    let all: Vec<&Attachment> = node.records.iter().chain(&node.tombstones).collect();
    let is_meant = named(&all, &options.who);
    let meant = all.iter().zip(is_meant).filter(|(_, is_meant)| *is_meant);
    let mut found: Vec<Attachment> = meant.map(|(record, _)| (*record).clone()).collect();
    if found.is_empty() {
        return Err(nobody());
    }
    found.sort_by_cached_key(output::by_pod);
    let mut explanations = Vec::new();
    for record in &found {
        let namespace = netns::judge(record, &boot);
        let targets = [target(record, now, &boot)];
        let (mut flows, mut ovn) = (Vec::<Value>::new(), Vec::new());
        for bridge in node.bridges_of(record) {
            let found = node.bridge(bridge).filter(|b| node.ovs.is_ovn(b));
            if let Some(found) = found {
                ovn.push(found.name.clone());
                continue;
            }
            flows.extend(explain(context, &node, bridge, &targets)?);
        }
        let is_matched = |flow: &Value| flow.get("reason") != Some(&in_actions::REASON.into());
        let (flows, in_actions) = flows.into_iter().partition(is_matched);
        let state = node.network(&record.key.network);
        let of = |r: &&Attachment| r.key.network == record.key.network;
        let records = node.records.iter().chain(&node.tombstones).filter(of);
        let register = registers::line(state, records);
        let (liveness, found) = (life(record, namespace), sentence(record, namespace));
        explanations.push(Explanation {
            attachment: record,
            liveness,
            found,
            flows,
            in_actions,
            register,
            ovn,
        });
    }
    let mut all = Text::default();
    for explanation in &explanations {
        all.push_text(&text(context.screen, explanation));
        all.push("\n");
    }
    output::say(context, &explanations, all)?;
    Ok(Exit::Done)
}

/// How it is, as the head of its entries. Of who is not dead they say what would be if.
fn sentence(record: &Attachment, namespace: Liveness) -> String {
    let text = match (record.state, namespace) {
        (State::Active, Liveness::Alive) => "alive; if it were deleted now:",
        (State::Active, Liveness::Unknown(why)) => {
            return format!("nobody knows whether it is alive ({why}); if it were deleted now:");
        }
        (State::Active, Liveness::Dead(why)) => return format!("dead, to be swept ({why}):"),
        (State::Gone, _) => {
            "dead, its entries are deleted; what comes late is still looked for, until a sweep \
             after its linger time:"
        }
        (State::Deleting, _) => "dead, to be cleaned up by the next sweep:",
    };
    text.to_owned()
}

/// What would be cleaned up if it were dead.
pub(crate) fn target(record: &Attachment, now: Stamp, boot: &str) -> CleanTarget {
    let cause = if record.state == State::Active { Cause::Del } else { Cause::Tombstone };
    CleanTarget { attachment: orphans::died(record.clone(), now, boot), cause }
}

fn explain(
    context: &Context,
    node: &NodeSnapshot,
    bridge: BridgeId,
    targets: &[CleanTarget],
) -> Result<Vec<Value>, Error> {
    let Some(name) = node.bridge(bridge).map(|b| b.name.clone()) else {
        return Ok(Vec::new());
    };
    let asked = targets.first().map(|CleanTarget { attachment, .. }| Question::Flows {
        key: attachment.key.clone(),
        generation: attachment.generation,
        bridge: name.clone(),
    });
    if let Some(Ok(Value::Array(flows))) = asked.map(|question| context.ask(question)) {
        return Ok(flows);
    }
    let (mut source, ports) = open_table(&context.run_dir, &name, context.deadline())?;
    let read = Read { node, bridge: (bridge, &name), targets, ports: &ports };
    let flows = read.flows(&mut source, Extent::Everything)?;
    Ok(flows.iter().map(serde_json::to_value).collect::<Result<_, _>>()?)
}

/// A bridge that is read for this.
pub(crate) struct Read<'a> {
    pub(crate) node: &'a NodeSnapshot,
    pub(crate) bridge: (BridgeId, &'a str),
    pub(crate) targets: &'a [CleanTarget],
    /// The bridge's ports, as it describes them.
    pub(crate) ports: &'a [(u16, String)],
}

impl Read<'_> {
    /// What the judge is told about the bridge.
    pub(crate) fn input(&self) -> BridgeInput {
        let Self { node, bridge: (bridge, _), targets, ports } = self;
        let mut input = BridgeInput::build(node, *bridge, targets, None);
        input.check_ports(node, *bridge, ports);
        input
    }

    /// The entries that name a target, in the order of their tables; then those that do so in their
    /// actions only.
    pub(crate) fn flows(
        &self,
        source: &mut dyn FlowSource,
        least: Extent,
    ) -> Result<Vec<FlowReport>, openflow::Error> {
        let (_, name) = self.bridge;
        let input = self.input();
        let mut scan = scan_bridge(source, &input, least)?;
        scan.candidates.sort_by(|a, b| a.entry.key().cmp(&b.entry.key()));
        let judge = Judge::new(&input.facts, &scan.learned);
        let verdicts = scan.candidates.iter();
        let verdicts = verdicts.filter_map(|of| Some((of, of.verdict(&judge)?)));
        let named: Vec<_> = verdicts.filter(|(_, verdict)| verdict.dead.is_some()).collect();
        let known = named.iter().map(|(of, _)| of.entry.key()).collect();
        let pods: Vec<&Attachment> = self.targets.iter().map(|of| &of.attachment).collect();
        let others = in_actions::find(name, source, &pods, &known)?;
        let named = named.iter();
        let named = named.map(|(of, verdict)| FlowReport::new(name, &of.entry, verdict, None));
        Ok(named.chain(others).collect())
    }
}

fn text(screen: Screen, explanation: &Explanation<'_>) -> Text {
    let record = explanation.attachment;
    let mut table = Table::new(&["VERDICT", "BRIDGE", "FLOW", "WHY"], &["BRIDGE"]);
    let is_dead = explanation.liveness == "dead";
    let (delete, keep) = if is_dead { ("delete", "keep") } else { ("would go", "would stay") };
    for flow in explanation.flows.iter().chain(&explanation.in_actions) {
        let verdict = match (flow.get("stale") == Some(&Value::Bool(true)), flow.get("rule")) {
            (true, Some(rule)) => format!("{delete} (rule {rule})"),
            (true, None) => delete.to_owned(),
            (false, _) => keep.to_owned(),
        };
        let cell = |key| flow.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut why = cell("text");
        if !is_dead {
            // The reasons are written for the dead.
            why = why.replace("the dead pod's", "this pod's");
        }
        table.row(vec![verdict, cell("bridge"), cell("flow"), why]);
    }
    let mut text = Text::from(&*format!(
        "{} ({}), port {}, ofport {}, register {}, {}\n{}\n",
        escape(&record.title()),
        record.key,
        escape(record.port.as_deref().unwrap_or("unknown")),
        record.ofport.map_or_else(|| "unknown".to_owned(), |n| n.to_string()),
        record.register.map_or_else(|| "unknown".to_owned(), |r| format!("{:#x}", r.value)),
        record.addresses().iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        explanation.found,
    ));
    match (table.is_empty(), explanation.ovn.is_empty()) {
        (true, true) => text.push("no flow mentions it\n"),
        (true, false) => {}
        (false, _) => text.push_text(&table.text(screen)),
    }
    for bridge in &explanation.ovn {
        text.push(&format!("bridge {}: OVN's, not judged\n", escape(bridge)));
    }
    if !explanation.register.is_empty() {
        text.push(&format!("{}\n", explanation.register));
    }
    text
}
