//! Open vSwitch, its bridges and their ports.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Context, Findings, Level, Options};
use crate::cli::networks;
use crate::config::{Config, database_socket};
use crate::liveness::{Liveness, netns};
use crate::model::attachment::{Attachment, Key};
use crate::ovsdb::{Client, Snapshot};
use crate::reconcile::{NodeSnapshot, network_states, open_bridge, unrecorded_ports};
use crate::util::clock::{Stamp, boot_id};

/// How many pods of one finding are named; the rest is counted.
const MOST_NAMED: usize = 10;

pub(super) fn switch(
    context: &Context,
    options: &Options,
    recorded: &BTreeSet<String>,
    findings: &mut Findings,
) {
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
    configured(context, options, &snapshot, findings);
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

/// Bridges that configurations name and Open vSwitch does not have.
fn configured(context: &Context, options: &Options, snapshot: &Snapshot, findings: &mut Findings) {
    let files = networks::read(&options.net_dir, &[]).unwrap_or_default();
    let of_files = files.iter().map(|file| {
        let (config, _) = Config::parse(&file.settings());
        (file.path.display().to_string(), config)
    });
    let records = context.registry().ok().flatten().and_then(|registry| registry.snapshot().ok());
    let networks = records.as_ref().map(network_states).unwrap_or_default().into_iter();
    let of_networks = networks.map(|(name, state)| (format!("network {name}"), state.config));
    let mut said = BTreeSet::new();
    for (place, config) in of_files.chain(of_networks) {
        for name in config.named_bridges() {
            let is_there = snapshot.bridges.iter().any(|bridge| bridge.name == name);
            if !is_there && said.insert(name.to_owned()) {
                findings.warn(
                    "bridge",
                    format!("{place}: the entry names bridge {name}, which is not there"),
                    "mend its bridge or bridges: no entry is looked for on a bridge that is not there",
                );
            }
        }
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
