//! `explain`: why is this flow stale, or why is it not?

use std::time::Instant;

use clap::Args;
use serde::Serialize;

use super::{Context, Error, Exit, Table, output, registers};
use crate::attachment::{Attachment, State};
use crate::clock::{Stamp, boot_id};
use crate::config::database_socket;
use crate::liveness::{Life, netns};
use crate::logging::escape;
use crate::ovsdb::Client;
use crate::stale::Judge;
use crate::sweep::{Cause, FlowReport, Scene, Target, World, look_at, open_bridge, orphans};

#[derive(Debug, Args)]
pub(super) struct Options {
    /// A pod (NAME or NAMESPACE/NAME) or a container id (the beginning is enough).
    #[arg(value_name = "POD_OR_CONTAINER")]
    who: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Explanation<'a> {
    attachment: &'a Attachment,
    liveness: String,
    flows: Vec<FlowReport>,
    /// What is missing for its register value to be evidence.
    #[serde(skip_serializing_if = "String::is_empty")]
    register: String,
    /// Its bridges that ovn-controller runs: not judged.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ovn: Vec<String>,
}

pub(super) fn run(context: &Context, options: &Options) -> Result<Exit, Error> {
    let nobody = || Error::NoSuchPod(options.who.clone());
    let registry = context.registry()?.ok_or_else(nobody)?;
    let boot = boot_id().map_err(Error::BootId)?;
    let now = Stamp::now();
    let mut client = Client::connect(&database_socket(&context.run_dir), context.deadline())?;
    let world = World::read(Some(&registry), &context.run_dir, &mut client, now)?;
    let found: Vec<Attachment> = world
        .records
        .iter()
        .chain(&world.tombstones)
        .filter(|record| is_meant(record, &options.who))
        .cloned()
        .collect();
    if found.is_empty() {
        return Err(nobody());
    }
    let mut explanations = Vec::new();
    for record in &found {
        let liveness = match (record.state, netns::judge(record, &boot)) {
            (State::Active, Life::Alive) => "alive; what a DEL now would do:".to_owned(),
            (State::Active, Life::Unknown(why)) => {
                format!("nobody knows whether it is alive ({why}); what a DEL now would do:")
            }
            (State::Active, Life::Dead(why)) => {
                format!("dead, to be swept ({why}):")
            }
            (State::Gone, _) => "dead, its entries are deleted; what comes late is still looked \
                for, until a sweep after its linger time:"
                .to_owned(),
            (State::Deleting, _) => "dead, to be cleaned up by the next sweep:".to_owned(),
        };
        let cause = if record.state == State::Active { Cause::Del } else { Cause::Tombstone };
        let attachment = orphans::died(record.clone(), now, &boot);
        let targets = [Target { attachment, cause }];
        let (mut flows, mut ovn) = (Vec::new(), Vec::new());
        for bridge in world.bridges_of(record) {
            let found = world.ovs.bridges.get(bridge).filter(|b| world.ovs.is_ovn(b));
            if let Some(found) = found {
                ovn.push(found.name.clone());
                continue;
            }
            flows.extend(explain(context, &world, bridge, &targets)?);
        }
        let state = world.network(&record.key.network);
        let of = |r: &&Attachment| r.key.network == record.key.network;
        let records = world.records.iter().chain(&world.tombstones).filter(of);
        let register = registers::line(state, records);
        explanations.push(Explanation { attachment: record, liveness, flows, register, ovn });
    }
    let text: Vec<String> = explanations.iter().map(text).collect();
    output::say(context, &explanations, &text.join("\n"))?;
    Ok(Exit::Done)
}

fn is_meant(record: &Attachment, who: &str) -> bool {
    let container = who.len() >= 4 && record.key.container.as_str().starts_with(who);
    container || record.pod.as_ref().is_some_and(|pod| pod.name == who || pod.to_string() == who)
}

fn explain(
    context: &Context,
    world: &World,
    bridge: usize,
    targets: &[Target],
) -> Result<Vec<FlowReport>, Error> {
    let Some(name) = world.ovs.bridges.get(bridge).map(|b| b.name.clone()) else {
        return Ok(Vec::new());
    };
    let since = Instant::now();
    let mut connection = open_bridge(&context.run_dir, &name, context.deadline())?;
    let mut scene = Scene::build(world, bridge, targets, None);
    scene.check_ports(world, bridge, &connection.ports()?);
    let look = look_at(&mut connection, &scene, true, since)?;
    let judge = Judge::new(&scene.case, &look.learned);
    let mut flows = Vec::new();
    for candidate in &look.candidates {
        let Some(verdict) = candidate.verdict(&judge) else { continue };
        if !verdict.stale && verdict.dead.is_none() {
            continue;
        }
        flows.push(FlowReport {
            bridge: name.clone(),
            flow: candidate.entry.to_string(),
            stale: verdict.stale,
            rule: verdict.reason.rule(),
            reason: verdict.reason.as_str(),
            text: verdict.reason.to_string(),
            pod: None,
        });
    }
    Ok(flows)
}

fn text(explanation: &Explanation<'_>) -> String {
    let record = explanation.attachment;
    let mut table = Table::new(&["VERDICT", "BRIDGE", "FLOW", "WHY"]);
    for flow in &explanation.flows {
        let verdict = match (flow.stale, flow.rule) {
            (true, Some(rule)) => format!("delete (rule {rule})"),
            (true, None) => "delete".to_owned(),
            (false, _) => "keep".to_owned(),
        };
        table.row(vec![verdict, flow.bridge.clone(), flow.flow.clone(), flow.text.clone()]);
    }
    let mut flows = match (table.is_empty(), explanation.ovn.is_empty()) {
        (true, true) => "no flow mentions it\n".to_owned(),
        (true, false) => String::new(),
        (false, _) => table.to_string(),
    };
    for bridge in &explanation.ovn {
        flows.push_str(&format!("bridge {}: OVN's, not judged\n", escape(bridge)));
    }
    if !explanation.register.is_empty() {
        flows.push_str(&format!("{}\n", explanation.register));
    }
    format!(
        "{} ({}), port {}, ofport {}, register {}, {}\n{}\n{flows}",
        escape(&record.title()),
        record.key,
        escape(record.port.as_deref().unwrap_or("unknown")),
        record.ofport.map_or_else(|| "unknown".to_owned(), |n| n.to_string()),
        record.register.map_or_else(|| "unknown".to_owned(), |r| format!("{:#x}", r.value)),
        record.addresses().iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        explanation.liveness,
    )
}
