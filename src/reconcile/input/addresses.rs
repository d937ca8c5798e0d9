//! Where a dead attachment's addresses may be now: whether they are evidence by themselves.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use super::BridgeInput;
use crate::config::{AddressScope, Config, NetworkState, Reg0};
use crate::model::attachment::{Attachment, NetworkName};
use crate::model::flow::Address;
use crate::reconcile::{Cause, CleanTarget, NodeSnapshot};

impl BridgeInput {
    /// A machine that has moved to another node keeps the addresses that somebody else had here
    /// before it, whenever that one's death is noticed.
    pub(super) fn heed_machines(&mut self, node: &NodeSnapshot, targets: &[CleanTarget]) {
        let mut since: HashMap<Address, u64> = HashMap::new();
        let known = targets.iter().map(|target| &target.attachment).chain(&node.tombstones);
        for record in known.filter(|record| may_live_on(node, record)) {
            let born = record.born.map_or(u64::MAX, |born| born.boot_ms);
            for address in record.addresses() {
                let of = since.entry(address).or_insert(born);
                *of = born.max(*of);
            }
        }
        for (dead, target) in self.facts.dead.values_mut().zip(self.targets.values()) {
            let born = target.id.of(targets).and_then(|target| target.attachment.born);
            let born = born.map_or(0, |born| born.boot_ms);
            let later = |address: &Address| since.get(address).is_some_and(|s| *s > born);
            if !dead.roams && dead.addresses.iter().any(later) {
                (dead.ip_evidence, dead.mac_evidence, dead.roams) = (false, false, true);
            }
        }
    }

    /// Whether a tombstone has still to say that its machine may have moved: somebody who had an
    /// address of the machine's before it is remembered, and would take that for its own.
    #[must_use]
    pub fn is_needed(node: &NodeSnapshot, tombstone: &Attachment) -> bool {
        let born = |record: &Attachment| record.born.map(|born| born.boot_ms);
        let before = |other: &&Attachment| {
            !may_live_on(node, other)
                && born(other).unwrap_or(0) < born(tombstone).unwrap_or(u64::MAX)
        };
        if !may_live_on(node, tombstone) {
            return false;
        }
        let addresses = tombstone.addresses();
        let has = |other: &Attachment| other.addresses().iter().any(|a| addresses.contains(a));
        node.tombstones.iter().filter(before).any(has)
    }
}

/// Whether it is KubeVirt's pod of a virtual machine: when the machine has migrated, this pod ends
/// and the machine lives on, with its addresses, on another node.
pub(super) fn is_virtual_machine(record: &Attachment) -> bool {
    record.pod.as_ref().is_some_and(|pod| pod.name.starts_with("virt-launcher-"))
}

/// Where a dead attachment's addresses may be now, whatever else its network has.
pub(super) fn scope_of(config: &Config, record: &Attachment) -> AddressScope {
    if is_virtual_machine(record) { AddressScope::Cluster } else { config.address_scope }
}

/// Whether the addresses of somebody dead here may live on elsewhere.
pub(super) fn may_live_on(node: &NodeSnapshot, record: &Attachment) -> bool {
    let is_free = |ip| node.free.as_ref().is_some_and(|free| free.contains(ip));
    scope_of(node.config(&record.key.network), record) == AddressScope::Cluster
        && !record.ips.iter().all(is_free)
}

/// Whether a dead attachment's IPs alone say anything. Where addresses are of the whole cluster,
/// IPAM may have given them to another node since: only at DEL they are still its own, but for a
/// machine's that may have moved, and where nobody has any of them now. (Of MACs nobody has a list.)
pub(super) fn ip_evidence(
    config: &Config,
    target: &CleanTarget,
    free: Option<&BTreeSet<IpAddr>>,
) -> bool {
    let record = &target.attachment;
    scope_of(config, record) == AddressScope::Node
        || (target.cause == Cause::Del && !is_virtual_machine(record))
        || are_free(target, free)
}

/// Whether the API server says that nobody in the cluster has any of its IPs.
pub(super) fn are_free(target: &CleanTarget, free: Option<&BTreeSet<IpAddr>>) -> bool {
    let ips = &target.attachment.ips;
    let is_free = |ip: &IpAddr| free.is_some_and(|free| free.contains(ip));
    is_pod_ip(target) && !ips.is_empty() && ips.iter().all(is_free)
}

/// The API server knows the addresses of a pod's first interface, which every runtime calls
/// `eth0`; of what Multus adds it knows nothing, so its silence is no word.
pub(super) fn is_pod_ip(target: &CleanTarget) -> bool {
    target.attachment.key.ifname.as_str() == "eth0"
}

/// The addresses of the dead that somebody in the cluster may have by now: whoever can find out
/// passes those that nobody has to the [`CleanRequest`](crate::reconcile::CleanRequest) as `free`.
#[must_use]
pub fn in_question(
    networks: &BTreeMap<NetworkName, NetworkState>,
    targets: &[CleanTarget],
) -> BTreeSet<IpAddr> {
    let mut asked = BTreeSet::new();
    let by_value = |config: &Config| config.evidence.register && config.reg0 == Reg0::Ipv4;
    for target in targets.iter().filter(|target| is_pod_ip(target)) {
        let Some(state) = networks.get(&target.attachment.key.network) else { continue };
        let config = &state.config;
        if (config.evidence.ip || by_value(config)) && !ip_evidence(config, target, None) {
            asked.extend(&target.attachment.ips);
        }
    }
    asked
}
