//! Entries that name a pod only in what they do with packets. No rule condemns those: they are about
//! other packets, a service's for example, and their controller changes them.

use std::collections::HashSet;
use std::net::IpAddr;

use crate::flowtable::FlowSource;
use crate::model::attachment::Attachment;
use crate::model::flow::{Address, Flow};
use crate::openflow::{self, FlowKey};
use crate::reconcile::FlowReport;

/// The reason of such an entry, for machines.
pub(super) const REASON: &str = "in-actions";
/// What an address can be loaded into.
const FIELDS: [&str; 4] = ["NXM_OF_IP_", "NXM_OF_ETH_", "NXM_OF_ARP_", "NXM_NX_ARP_"];
/// A port's number has so many bits: a shorter field has something else.
const PORT_BITS: u32 = 16;

/// Those of a bridge that name one of these pods, without the entries that are `known`.
pub(super) fn find(
    bridge: &str,
    source: &mut dyn FlowSource,
    pods: &[&Attachment],
    known: &HashSet<FlowKey<'_>>,
) -> Result<Vec<FlowReport>, openflow::Error> {
    let (mut found, mut flow) = (Vec::new(), Flow::default());
    let everything = source.everything()?;
    source.scan(&everything, &mut |seen| {
        if known.contains(&seen.raw.key()) {
            return Ok(());
        }
        seen.raw.decode(&mut flow)?;
        let text = seen.raw.to_string();
        let does = text.split_once(" actions=").map_or("", |(_, does)| does);
        if let Some(what) = pods.iter().find_map(|pod| named(pod, does, &flow)) {
            found.push(FlowReport {
                bridge: bridge.to_owned(),
                stale: false,
                rule: None,
                reason: REASON,
                text: format!(
                    "only its actions name {what}: it is about other packets, and its controller's \
                     to change"
                ),
                pod: None,
                flow: text,
            });
        }
        Ok(())
    })?;
    Ok(found)
}

/// What of a pod these actions name.
fn named(pod: &Attachment, does: &str, flow: &Flow) -> Option<String> {
    let mut addresses = pod.addresses().into_iter();
    if let Some(address) = addresses.find(|address| writes_address(does, *address)) {
        return Some(format!("the dead pod's address {address}"));
    }
    let number = pod.ofport?;
    let is_its = |value: u32, mask: u32| {
        mask.count_ones() >= PORT_BITS
            && value >> mask.trailing_zeros().min(31) == u32::from(number)
    };
    let mut writes = flow.actions.register_writes.iter();
    let write = writes.find(|write| write.value.is_some_and(|value| is_its(value, write.mask)))?;
    Some(format!("the dead pod's port number {number}, or a value like it, for reg{}", write.index))
}

/// As they are printed: `set_field:10.1.2.3->ip_dst`, `load:0xa010203->NXM_OF_IP_DST[]`, and within
/// `nat(dst=10.1.2.3)`.
fn writes_address(does: &str, address: Address) -> bool {
    let number = match address {
        Address::Ip(IpAddr::V4(ip)) => Some(u32::from(ip).into()),
        Address::Ip(IpAddr::V6(_)) => None,
        Address::Mac(mac) => Some(mac.0.iter().fold(0, |all, one| all << 8 | u64::from(*one))),
    };
    let loads = |number: u64| {
        FIELDS.iter().any(|field| does.contains(&format!("load:{number:#x}->{field}")))
    };
    let text = address.to_string();
    // 10.1.2.3 is no part of 10.1.2.30.
    let goes_on = |c: char| c.is_ascii_hexdigit() || c == '.' || c == ':' && text.contains(':');
    let is_whole = |at: usize| {
        let before = does.get(..at).unwrap_or_default();
        let behind = does.get(at.saturating_add(text.len())..).unwrap_or_default();
        before.ends_with([':', '=', '-', '[', '(']) && !behind.starts_with(goes_on)
    };
    number.is_some_and(loads) || does.match_indices(&text).any(|(at, _)| is_whole(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_as_it_is_printed_and_no_part_of_another_is() {
        let named = |address: &str, does: &str| {
            let ip = address.parse().map(Address::Ip);
            let address = ip.unwrap_or_else(|_| Address::Mac(address.parse().unwrap()));
            writes_address(does, address)
        };
        for does in [
            "set_field:10.1.2.3->ip_dst,resubmit(,5)",
            "ct(commit,nat(dst=10.1.2.3:80))",
            "ct(commit,nat(dst=10.1.2.1-10.1.2.3))",
            "load:0xa010203->NXM_OF_IP_DST[],output:5",
        ] {
            assert!(named("10.1.2.3", does), "{does}");
            assert!(!named("10.1.2.30", does) && !named("0.1.2.3", does), "{does}");
        }
        assert!(!named("10.1.2.3", "load:0xa010203->NXM_NX_REG1[]"), "no address");
        assert!(!named("10.1.2.3", "set_field:10.1.2.30->ip_dst"));
        assert!(named("02:00:00:00:00:01", "set_field:02:00:00:00:00:01->eth_dst"));
        assert!(named("02:00:00:00:00:01", "load:0x20000000001->NXM_OF_ETH_DST[]"));
        assert!(named("fd00::1", "ct(nat(dst=[fd00::1]:80))"));
        assert!(!named("fd00::1", "set_field:fd00::1:5->ipv6_dst"));
    }
}
