//! A flow as the core sees it: what it matches that could be a pod's, and where it sends
//! packets. `openflow` fills it from a dump; nothing in it knows the wire.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use crate::model::text::serde_as_text;
use crate::util::clock::BootTime;

/// Among a port's VLANs: it had no tag and no trunks. (OpenFlow's `OFPVID_NONE`, too.)
pub const UNTAGGED: u16 = 0;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddr(pub [u8; 6]);

serde_as_text!(MacAddr);

impl MacAddr {
    /// All zero, or with the group bit: never a pod's own.
    #[must_use]
    pub fn is_unusable(self) -> bool {
        let [first, ..] = self.0;
        self.0 == [0; 6] || first & 1 == 1
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a string is not an Ethernet address.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not an Ethernet address (six hexadecimal bytes separated by colons)")]
pub struct NotAMac(String);

impl FromStr for MacAddr {
    type Err = NotAMac;

    fn from_str(text: &str) -> Result<Self, NotAMac> {
        let wrong = || NotAMac(text.chars().take(64).collect());
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|p| matches!(p.len(), 1 | 2)).ok_or_else(wrong)?;
            if !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(wrong());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() { Err(wrong()) } else { Ok(Self(bytes)) }
    }
}

/// An address a match or a pod can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// IPv4 or IPv6.
    Ip(IpAddr),
    /// Ethernet.
    Mac(MacAddr),
}

/// The kinds of addresses that a pod has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressKind {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// Ethernet.
    Mac,
}

impl Address {
    /// Its kind.
    #[must_use]
    pub fn kind(self) -> AddressKind {
        match self {
            Self::Ip(IpAddr::V4(_)) => AddressKind::V4,
            Self::Ip(IpAddr::V6(_)) => AddressKind::V6,
            Self::Mac(_) => AddressKind::Mac,
        }
    }

    /// Unspecified, multicast, broadcast, loopback or all-zero: never a pod's own, and an
    /// empty match would match everything.
    #[must_use]
    pub fn is_unusable(self) -> bool {
        match self {
            Self::Mac(mac) => mac.is_unusable(),
            Self::Ip(ip) if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() => true,
            Self::Ip(IpAddr::V4(ip)) => ip.is_broadcast(),
            Self::Ip(IpAddr::V6(ip)) => ip == Ipv6Addr::UNSPECIFIED,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => fmt::Display::fmt(ip, f),
            Self::Mac(mac) => fmt::Display::fmt(mac, f),
        }
    }
}

/// On which side of the packet an address stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// nw_src, ipv6_src, arp_spa, dl_src, arp_sha, nd_sll, and of an advertisement (sent by
    /// whom it is about) nd_target and nd_tll.
    Source,
    /// nw_dst, ipv6_dst, arp_tpa, dl_dst, arp_tha, nd_target of a solicitation.
    Destination,
    /// ct_nw_src and the like (the connection's original tuple: either end may have sent
    /// the packet), nd_target without an icmp_type.
    Unknown,
}

/// An exact (fully masked) match on an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AddressMatch {
    /// The address.
    pub address: Address,
    /// Its side.
    pub side: Side,
}

/// A match on a register, exact or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RegisterMatch {
    /// 0 to 15.
    pub index: u8,
    /// Value, zero outside the mask.
    pub value: u32,
    /// Bits compared.
    pub mask: u32,
}

/// What a flow matches, as far as it could belong to a pod. Masked addresses are nobody's
/// and left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// in_port, as OVS numbers it inside (16 bits).
    pub in_port: Option<u16>,
    /// The VLAN, if it says one (dl_vlan, vlan_vid, vlan_tci).
    pub vlan: Option<u16>,
    /// Registers, one entry each at most.
    pub registers: Vec<RegisterMatch>,
    /// Exact addresses.
    pub addresses: Vec<AddressMatch>,
}

/// A write into a register by one action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RegisterWrite {
    /// 0 to 15.
    pub index: u8,
    /// Bits written.
    pub mask: u32,
    /// The constant, aligned to the mask; `None` if it is not one (move, pop, multipath …).
    pub value: Option<u32>,
    /// Inside a clone, an action set or a learn: it does not reach the rest of the
    /// pipeline by itself.
    pub nested: bool,
}

/// Part of a register that an output action takes its port from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegisterRange {
    /// 0 to 15.
    pub index: u8,
    /// Bits read.
    pub mask: u32,
}

/// What a flow does, as far as it matters to whom it delivers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actions {
    /// Ports that packets are output to by number, nested ones (clone, write-actions, ct,
    /// bundle members, enqueue, output_trunc, learned outputs) included. Reserved numbers other than LOCAL
    /// (65534) are not here but set `beyond`.
    pub outputs: Vec<u16>,
    /// Ports named otherwise: resubmit's or load's in_port, sampling ports.
    pub port_references: Vec<u16>,
    /// Registers that an output takes its port from.
    pub output_registers: Vec<RegisterRange>,
    /// Writes into registers, in order, xreg and xxreg split.
    pub register_writes: Vec<RegisterWrite>,
    /// VLANs that it puts packets into.
    pub vlans: Vec<u16>,
    /// Puts packets into a VLAN that cannot be read: from a register, say.
    pub any_vlan: bool,
    /// Sets tun_dst, tun_ipv6_dst or tun_id: what it delivers goes to another node.
    pub sets_tunnel: bool,
    /// Sends to a group: whom its buckets reach is not in the flow.
    pub group: bool,
    /// Outputs to NORMAL, FLOOD or ALL: whoever the switch believes to be there, on whatever node.
    pub spreads: bool,
    /// Hands packets to the controller, which may send them anywhere.
    pub controller: bool,
    /// Writes another destination into packets (dl_dst, nw_dst, ipv6_dst): a service or a router.
    pub rewrites_destination: bool,
    /// Has a conjunction action: a member of a policy.
    pub conjunction: bool,
    /// Does more than edit headers or registers and output: goto, resubmit, ct, learn,
    /// group, meter, write-actions, output to a register, reserved ports (NORMAL, FLOOD,
    /// ALL, IN_PORT, TABLE, CONTROLLER), sampling, or anything we cannot read.
    pub beyond: bool,
    /// Holds an action or instruction that we cannot read (sets `beyond` too).
    pub unread: bool,
}

/// One flow of a dump.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Table number.
    pub table: u8,
    /// Priority.
    pub priority: u16,
    /// Cookie.
    pub cookie: u64,
    /// When it was ADDed, at the latest; a MODIFY is not meant. Its bytes do not tell it: who has
    /// read them sets it.
    pub made: BootTime,
    /// What it matches.
    pub matches: Match,
    /// What it does.
    pub actions: Actions,
}

impl Flow {
    /// Whether it may show something of others than those whom it names: who has a register value,
    /// that a register's value is a port, or which VLANs there are.
    #[must_use]
    pub fn teaches(&self) -> bool {
        let Actions { register_writes, output_registers, vlans, any_vlan, unread, .. } =
            &self.actions;
        !register_writes.is_empty()
            || !output_registers.is_empty()
            || !vlans.is_empty()
            || *any_vlan
            || *unread
            || self.matches.vlan.is_some()
    }
}
