//! The guards of rule 3. Each says that an address has another owner whom we cannot see.
//!
//! Guarantee: an entry that a controller made for the address's next owner is kept, as
//! long as that owner is reached in a way that the entry shows, or the entry is younger
//! than the death.
//! Assumption: a controller ADDs entries for a new owner. One that MODIFYs an old entry
//! leaves its duration alone; then only what the entry does can show the owner.

use std::net::IpAddr;
use std::time::Duration;

use super::basis::Basis;
use super::carried::Carried;
use super::input::{Dead, JudgeInput, Live, LiveId, LiveRegister};
use super::reason::Reason;
use super::tokens::{Field, Index, is_made_before, is_older};
use super::vlans::is_other_owners;
use crate::model::flow::{
    Address, AddressMatch, Flow, RegisterMatch, RegisterRange, RegisterWrite, Side,
};

/// How long after the start of ovs-vswitchd entries may still be restored in bulk
/// (`ovs-ctl restart`, or a controller that reconnects).
const RESTORE_WINDOW: Duration = Duration::from_secs(30);

/// What is known of the registers that outputs take their port from, and of those that carry the
/// port that a packet is for.
#[derive(Clone, Copy)]
pub(super) struct OutputRegisters<'a> {
    /// Those seen.
    pub(super) seen: &'a [RegisterRange],
    /// Every flow was seen: there are no others.
    pub(super) complete: bool,
    /// See [`Carried::targets`].
    pub(super) carried: &'a Carried,
}

/// The guard that holds for this dead address in this flow, if any does.
pub(super) fn guard(
    index: &Index<'_>,
    outputs: OutputRegisters<'_>,
    flow: &Flow,
    dead: &Dead,
    token: &AddressMatch,
) -> Option<Reason> {
    let address = token.address.into();
    if created_after(index.input, dead, flow) {
        return Some(Reason::CreatedAfterDeath { address });
    }
    if let Some(port) = live_output(index, flow, dead) {
        return Some(Reason::OutputsToLivePort { address, port });
    }
    if let Some(register) = loads_live_port(index, outputs, flow, dead) {
        return Some(Reason::LoadsLivePort { address, register });
    }
    if flow.actions.sets_tunnel {
        return Some(Reason::SetsTunnel { address });
    }
    if flow.actions.group {
        return Some(Reason::SendsToGroup { address });
    }
    if may_reach_elsewhere(dead, flow) {
        return Some(Reason::MayReachElsewhere { address });
    }
    // ct_nw_src and the like may be either side: both count.
    if let Some(port) = flow.matches.in_port
        && token.side != Side::Destination
        && index.is_live_port_beside(dead, port)
        && !dead.had(port)
    {
        return Some(Reason::ArrivesElsewhere { address, port });
    }
    // A set-based controller would not install a member again, however old it is.
    let with_living = pairs_with_living(index, outputs, flow, dead, token);
    if with_living && is_of_adding(index, flow, dead, token) {
        return Some(Reason::HasLiveOwner { token: address });
    }
    let policy =
        with_living || is_policy_member(dead, flow) || pairs_by_register(dead, flow, token);
    let is_known =
        |address: Address| index.address(address).is_some_and(|owners| !owners.live.is_empty());
    let held = dead.holds_addresses && !names_somebody_else(dead, flow, is_known);
    let hides_age = !is_made_before(flow, dead.died) && is_restored_since(index.input, dead, flow);
    let may_be_own = |live: &Live| {
        (live.is_arriving()
            && (!held || is_in_another_vlan(dead, live))
            && (policy || !is_older(flow, live)))
            || (hides_age && may_have_since(dead, live, token.address))
    };
    if index.input.live.values().any(may_be_own) {
        return Some(Reason::MayBeArriving { address });
    }
    if policy && !all_lingered(index, dead, flow) {
        return Some(Reason::PolicyWaits { address });
    }
    None
}

/// Whether a port is in another VLAN than the dead attachment's, where its address is another one.
pub(super) fn is_in_another_vlan(dead: &Dead, live: &Live) -> bool {
    !live.vlans.is_empty() && !live.vlans.iter().any(|vlan| dead.is_in_vlan(*vlan))
}

/// Whether the flow names somebody else, whoever that is, as the source, or as a destination that
/// is nobody's whom `is_known` knows: whose addresses and value nobody knows yet may have a rule for
/// an address that the dead one still holds.
pub(super) fn names_somebody_else(
    dead: &Dead,
    flow: &Flow,
    is_known: impl Fn(Address) -> bool,
) -> bool {
    let another = |m: &AddressMatch| {
        !dead.addresses.contains(&m.address) && (m.side == Side::Source || !is_known(m.address))
    };
    let value = |m: &RegisterMatch| dead.register != Some(m.value);
    flow.matches.registers.iter().any(value) || flow.matches.addresses.iter().any(another)
}

/// Whether a machine or a pod without a record may have been given an address of the dead
/// attachment's since: its port is on this bridge, no address of that kind is known of it, nor how
/// old it is. One that lost its device has nothing any more.
fn may_have_since(dead: &Dead, live: &Live, address: Address) -> bool {
    live.network.is_none()
        && live.is_pod
        && live.ofport.is_some()
        && live.register != LiveRegister::Absent
        && !live.addresses.iter().any(|own| own.kind() == address.kind())
        && !is_in_another_vlan(dead, live)
}

/// Whether the linger time has passed since the last of the dead whom a policy member names: who
/// had the address first must not take it from who may come after the last.
fn all_lingered(index: &Index<'_>, dead: &Dead, flow: &Flow) -> bool {
    let owners = flow.matches.addresses.iter().filter_map(|m| index.address(m.address));
    let mut named = owners.flat_map(|owners| &owners.dead).filter_map(|i| index.input.dead.get(*i));
    dead.lingered && named.all(|other| other.lingered)
}

/// Whether the flow was made after the attachment's death, as far as can be told.
pub(super) fn created_after(input: &JudgeInput, dead: &Dead, flow: &Flow) -> bool {
    !is_made_before(flow, dead.died) && !is_restored_since(input, dead, flow)
}

/// Whether the switch started since the death, and the flow's age may be that of a restore.
fn is_restored_since(input: &JudgeInput, dead: &Dead, flow: &Flow) -> bool {
    input.switch_started.is_some_and(|started| started > dead.died) && was_restored(input, flow)
}

/// Whether the flow is as old as the switch, so that its age may be that of a restore.
pub(super) fn was_restored(input: &JudgeInput, flow: &Flow) -> bool {
    input.switch_started.is_some_and(|started| flow.made <= started + RESTORE_WINDOW)
}

/// A conjunction, or exact addresses of two ends, whosever they are.
pub(super) fn looks_like_policy(flow: &Flow) -> bool {
    let mut ips = ips(flow);
    let first = ips.next();
    flow.actions.conjunction || ips.any(|ip| Some(ip) != first)
}

/// Whether the flow may be of the kind of [`pairs_with_living`], whoever lives: it names two ends,
/// or a register.
pub(super) fn may_pair(flow: &Flow) -> bool {
    let matches = &flow.matches;
    let mut sides = matches.addresses.iter().map(|m| m.side);
    let first = sides.next();
    !matches.registers.is_empty() || sides.any(|side| Some(side) != first)
}

/// A conjunction, or an IP of the dead attachment beside somebody else's. Of MACs see
/// [`pairs_with_living`].
pub(super) fn is_policy_member(dead: &Dead, flow: &Flow) -> bool {
    let own = |ip: &IpAddr| dead.addresses.contains(&Address::Ip(*ip));
    flow.actions.conjunction || (ips(flow).any(|ip| own(&ip)) && ips(flow).any(|ip| !own(&ip)))
}

/// The same, if a register value stands for the dead attachment's address.
fn pairs_by_register(dead: &Dead, flow: &Flow, token: &AddressMatch) -> bool {
    let own = |ip: &IpAddr| dead.addresses.contains(&Address::Ip(*ip));
    !flow.matches.addresses.contains(token) && ips(flow).any(|ip| !own(&ip))
}

/// Whether the flow is for packets from the dead attachment to a living pod, whom it tells by an
/// address of any kind, or by its port in a register: a rule of the living one's own policy.
/// What it sends is its own for good.
fn pairs_with_living(
    index: &Index<'_>,
    outputs: OutputRegisters<'_>,
    flow: &Flow,
    dead: &Dead,
    token: &AddressMatch,
) -> bool {
    let is_pods = |l: &LiveId| index.live(*l).is_some_and(|live| live.is_pod);
    let to_pod = |m: &AddressMatch| {
        m.side != Side::Source
            && m.side != token.side
            && !dead.addresses.contains(&m.address)
            && index.address(m.address).is_some_and(|owners| owners.live.iter().any(is_pods))
    };
    let to_port = |port: u16| index.is_pods_port(port) && !dead.had(port);
    flow.matches.addresses.iter().any(to_pod)
        || token.side != Side::Destination && outputs.carried.targets(flow).any(to_port)
}

/// Whether a pod that is being ADDed has the address: a rule of somebody else's policy is right for
/// it, too, however old.
fn is_of_adding(index: &Index<'_>, flow: &Flow, dead: &Dead, token: &AddressMatch) -> bool {
    let has_it = |live: &Live| live.adding && !is_other_owners(dead, live, flow);
    let owners = index.address(token.address).map_or(&[][..], |owners| &owners.live);
    owners.iter().filter_map(|l| index.live(*l)).any(has_it)
}

fn ips(flow: &Flow) -> impl Iterator<Item = IpAddr> {
    flow.matches.addresses.iter().filter_map(|m| match m.address {
        Address::Ip(ip) => Some(ip),
        Address::Mac(_) => None,
    })
}

/// Whether packets for an address of the dead may reach its owner on another node: by NORMAL,
/// FLOOD or ALL, or by the controller. Only addresses ask this, and only where they may live on
/// another node: a port number and a register value are this bridge's own, and an address that
/// stays on its node has no owner whom such an output could reach.
fn may_reach_elsewhere(dead: &Dead, flow: &Flow) -> bool {
    dead.roams && (flow.actions.spreads || flow.actions.controller)
}

/// A live port that the flow outputs to, or names in a resubmit.
fn live_output(index: &Index<'_>, flow: &Flow, dead: &Dead) -> Option<u16> {
    let actions = &flow.actions;
    let mut named = actions.outputs.iter().chain(&actions.port_references).copied();
    named.find(|port| index.is_live_port_beside(dead, *port))
}

/// The register that the flow loads a live port into for a later output. A write that
/// nobody can read counts: it may be a live port.
fn loads_live_port(
    index: &Index<'_>,
    outputs: OutputRegisters<'_>,
    flow: &Flow,
    dead: &Dead,
) -> Option<u8> {
    let is_live = |port: u16| index.is_live_port_beside(dead, port);
    let writes = &flow.actions.register_writes;
    let loads = |write: &&RegisterWrite| may_load_live_port(index, outputs, write, &is_live);
    writes.iter().find(loads).map(|write| write.index)
}

fn may_load_live_port(
    index: &Index<'_>,
    outputs: OutputRegisters<'_>,
    write: &RegisterWrite,
    is_live: &dyn Fn(u16) -> bool,
) -> bool {
    let mut ranges = outputs
        .seen
        .iter()
        .filter(|range| range.index == write.index && range.mask & write.mask != 0)
        .peekable();
    if outputs.complete || ranges.peek().is_some() {
        return ranges.any(|range| match write.value {
            Some(value) if write.mask & range.mask == range.mask => {
                is_live_value(is_live, aligned(value, range.mask))
            }
            _ => true,
        });
    }
    // Not every flow was seen: any register may be one that some flow outputs to, but for
    // those that carry identities. A mark may be a piece of a port number, but nobody puts
    // one together like that; without that much trust no DEL would get past a mark.
    match identity_register(index, write) {
        Identity::Learned => false,
        // It may hold port numbers itself.
        Identity::Computed => write.value.is_none_or(|value| is_live_value(is_live, value)),
        Identity::No => write.value.is_none_or(|value| {
            [value, aligned(value, write.mask), value & 0xffff, value >> 16]
                .into_iter()
                .any(|port| is_live_value(is_live, port))
        }),
    }
}

enum Identity {
    No,
    Learned,
    Computed,
}

fn identity_register(index: &Index<'_>, write: &RegisterWrite) -> Identity {
    let mut found = Identity::No;
    for network in index.input.networks.values() {
        let Some(field) = Field::of(&network.register) else { continue };
        if field.index == write.index && write.mask & !field.mask == 0 {
            let ports = network.basis.found() == Some(Basis::Ofport);
            if network.register.source.is_computed() || ports {
                return Identity::Computed;
            }
            found = Identity::Learned;
        }
    }
    found
}

fn aligned(value: u32, mask: u32) -> u32 {
    (value & mask).checked_shr(mask.trailing_zeros()).unwrap_or(0)
}

/// Whether a register that holds this value outputs to somebody alive. Reserved numbers
/// (NORMAL, FLOOD, IN_PORT, LOCAL; 16 or 32 bits wide) reach the living.
fn is_live_value(is_live: &dyn Fn(u16) -> bool, value: u32) -> bool {
    match value {
        0xff00..=0xffff | 0xffff_ff00..=u32::MAX => true,
        _ => u16::try_from(value).is_ok_and(is_live),
    }
}
