//! An attachment's register value, and what it means where.

use std::net::IpAddr;

use crate::config::{Config, NetworkState, Reg0};
use crate::model::attachment::{Attachment, Register, RegisterHow};
use crate::model::workload::Member;
use crate::ovsdb::{Interface, Port};
use crate::reconcile::NodeSnapshot;

/// Its workload, while the network still waits for two pods of one that differ.
pub(super) fn member(node: &NodeSnapshot, record: &Attachment) -> Option<Member> {
    let state = node.network(&record.key.network);
    let waits = state.config.reg0 == Reg0::Learn && !state.register.register_told_apart;
    if !waits {
        return None;
    }
    let member = record.member()?;
    state.register.may_tell_apart(&member.workload).then_some(member)
}

/// Whether an attachment's register value means it on a bridge where its port has this number:
/// one that is computed from the number means somebody else on every other bridge.
pub(super) fn is_of_bridge(config: &Config, ofport: Option<u16>) -> bool {
    config.reg0 != Reg0::Ofport || ofport.is_some()
}

/// Puts a value into the configured field: bits outside the mask are zero.
fn placed(config: &Config, value: u32, how: RegisterHow) -> Option<Register> {
    let mask = config.register_mask;
    let shift = mask.trailing_zeros().min(31);
    // A value that does not fit its field would be another's after cutting.
    (value <= mask >> shift).then(|| Register { value: value << shift, how })
}

pub(super) fn external_id(
    config: &Config,
    key: &str,
    port: &Port,
    interface: &Interface,
) -> Option<Register> {
    let text = interface.external_ids.get(key).or_else(|| port.external_ids.get(key))?;
    let value = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok().or_else(|| text.parse().ok().map(std::net::Ipv4Addr::into)),
    };
    placed(config, value.filter(|v| *v != 0)?, RegisterHow::ExternalId)
}

/// An attachment's register value: computed from what it is now, else as recorded.
pub(in crate::reconcile) fn register_now(
    config: &Config,
    record: &Attachment,
    place: Option<(&Port, &Interface)>,
) -> Option<Register> {
    let recorded = |how| record.register.filter(|r| r.how == how);
    match &config.reg0 {
        Reg0::None => None,
        Reg0::Learn | Reg0::Pod => recorded(RegisterHow::Learned),
        Reg0::Ipv4 => {
            let ip = record.ips.iter().find_map(|ip| match ip {
                IpAddr::V4(ip) => Some(u32::from(*ip)),
                IpAddr::V6(_) => None,
            })?;
            placed(config, ip, RegisterHow::Ipv4)
        }
        Reg0::Ofport => {
            let now = place.and_then(|(_, interface)| interface.ofport.number());
            placed(config, now.or(record.ofport)?.into(), RegisterHow::Ofport)
        }
        Reg0::ExternalId(key) => place
            .and_then(|(port, interface)| external_id(config, key, port, interface))
            .or_else(|| recorded(RegisterHow::ExternalId)),
    }
}

/// Whether register values of a network's pods are found in their classifiers.
#[must_use]
pub(in crate::reconcile) fn learns(config: &Config) -> bool {
    config.register_rule(false, false).source.is_learned()
}

/// Whether an attachment has no register value where others of its network have one: entries
/// that only match on its value are not found then. `others`: records and tombstones.
pub(crate) fn lacks_value<'a>(
    state: &NetworkState,
    record: &Attachment,
    others: impl IntoIterator<Item = &'a Attachment>,
) -> bool {
    let has = |other: &Attachment| {
        other.key.network == record.key.network
            && other.register.is_some_and(|r| r.how == RegisterHow::Learned)
    };
    learns(&state.config)
        && (state.config.reg0 == Reg0::Pod || state.register.register_basis.found().is_none())
        && record.register.is_none()
        && record.ofport.is_some()
        && (state.config.reg0 == Reg0::Pod
            || state.register.register_told_apart
            || others.into_iter().any(has))
}

/// What ADD can say about a register value at once: computed ones.
#[must_use]
pub fn register_of(
    config: &Config,
    record: &Attachment,
    place: Option<(&Port, &Interface)>,
) -> Option<Register> {
    register_now(config, record, place).filter(|r| r.how != RegisterHow::Learned)
}
