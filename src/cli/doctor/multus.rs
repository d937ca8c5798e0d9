//! Multus: which NetworkAttachmentDefinitions' pods this node has, by what multus itself wrote down.

use std::collections::BTreeMap;

use super::{Context, Findings, Options};
use crate::adopt::{Delegate, delegates_of_multus};
use crate::cli::conflist;
use crate::cli::output::counted;
use crate::model::attachment::Key;

const MULTUS: &str = "multus";

/// The pods of one NetworkAttachmentDefinition with an Open vSwitch plugin.
#[derive(Default)]
struct Seen {
    /// The network's name in the configuration.
    network: String,
    pods: usize,
    with_entry: usize,
    recorded: usize,
}

pub(super) fn multus(context: &Context, options: &Options, findings: &mut Findings) {
    let delegates: Vec<Delegate> =
        options.cache_dir.iter().flat_map(|dir| delegates_of_multus(dir)).collect();
    if delegates.is_empty() {
        return;
    }
    let registry = context.registry().ok().flatten();
    let records = registry.and_then(|registry| registry.snapshot().ok()).unwrap_or_default();
    let is_recorded = |delegate: &Delegate| {
        let is_its = |key: &Key| {
            key.container.as_str() == delegate.container && key.network.as_str() == delegate.network
        };
        records.attachments.iter().any(|record| is_its(&record.key))
    };
    let (mut seen, mut others) = (BTreeMap::<String, Seen>::new(), 0_usize);
    for delegate in delegates {
        let found = conflist::inspect(&delegate.config).ok();
        let Some(found) = found.filter(|found| found.ovs.is_some() || found.ours.is_some()) else {
            others = others.saturating_add(1);
            continue;
        };
        let of = seen.entry(delegate.name.clone()).or_default();
        of.pods = of.pods.saturating_add(1);
        of.with_entry = of.with_entry.saturating_add(usize::from(found.ours.is_some()));
        of.recorded = of.recorded.saturating_add(usize::from(is_recorded(&delegate)));
        of.network = delegate.network;
    }
    for (name, seen) in &seen {
        say(name, seen, findings);
    }
    if seen.is_empty() {
        let found = format!(
            "{} of pods, none of an Open vSwitch plugin",
            counted(others as u64, "interface")
        );
        findings.note(MULTUS, found, "");
    }
}

fn say(name: &str, seen: &Seen, findings: &mut Findings) {
    let Seen { network, pods, with_entry, recorded } = seen;
    let found = format!(
        "{name} (network {network}): {}, {with_entry} with the entry, {recorded} recorded",
        counted(*pods as u64, "interface")
    );
    if recorded < pods {
        let remedy = "ovs-flow-gc adopt records those that run: without a record nothing of theirs \
                      is cleaned up";
        findings.note(MULTUS, found, remedy);
    } else if with_entry < pods {
        let remedy = "those end without a DEL of ours, and a sweep cleans up after them; new pods: \
                      ovs-flow-gc conflist add -";
        findings.note(MULTUS, found, remedy);
    } else {
        findings.ok(MULTUS, found);
    }
}
