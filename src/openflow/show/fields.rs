//! Match fields by name.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::Hex;
use crate::openflow::actions::Range;
use crate::openflow::oxm::{BASIC, FieldId, NXM0, NXM1, Oxm, PACKET_REGS, registers, split};
use crate::openflow::port;
use crate::openflow::wire::{ONF, Reader};
use crate::stale::flow::MacAddr;

/// How a value is written.
#[derive(Clone, Copy)]
enum Form {
    Decimal,
    Hex,
    Mac,
    Ip4,
    Ip6,
    Port,
    /// DSCP is shown as the TOS byte it is part of.
    Dscp,
    Vlan,
    Flags(&'static [(u32, &'static str)]),
    Fragment,
}

const CT_STATE: &[(u32, &str)] = &[
    (0x01, "new"),
    (0x02, "est"),
    (0x04, "rel"),
    (0x08, "rpl"),
    (0x10, "inv"),
    (0x20, "trk"),
    (0x40, "snat"),
    (0x80, "dnat"),
];
const TCP_FLAGS: &[(u32, &str)] = &[
    (0x001, "fin"),
    (0x002, "syn"),
    (0x004, "rst"),
    (0x008, "psh"),
    (0x010, "ack"),
    (0x020, "urg"),
    (0x040, "ece"),
    (0x080, "cwr"),
    (0x100, "ns"),
];

/// Name in a match, name in an action, form.
type Named = (&'static str, &'static str, Form);

fn named(id: FieldId) -> Option<Named> {
    use Form::{Decimal, Dscp, Flags, Fragment, Ip4, Ip6, Mac, Port, Vlan};
    let hex = Form::Hex;
    Some(match (id.class, id.number) {
        (BASIC | NXM0, 0) => ("in_port", "in_port", Port),
        (BASIC, 2) => ("metadata", "metadata", hex),
        (BASIC, 3) | (NXM0, 1) => ("dl_dst", "eth_dst", Mac),
        (BASIC, 4) | (NXM0, 2) => ("dl_src", "eth_src", Mac),
        (BASIC, 5) | (NXM0, 3) => ("dl_type", "eth_type", hex),
        (NXM0, 4) => ("vlan_tci", "vlan_tci", hex),
        (BASIC, 6) => ("dl_vlan", "vlan_vid", Vlan),
        (BASIC, 7) => ("dl_vlan_pcp", "vlan_pcp", Decimal),
        (BASIC, 8) => ("nw_tos", "ip_dscp", Dscp),
        (NXM0, 5) => ("nw_tos", "nw_tos", Decimal),
        (BASIC, 9) | (NXM1, 28) => ("nw_ecn", "nw_ecn", Decimal),
        (BASIC, 10) | (NXM0, 6) => ("nw_proto", "nw_proto", Decimal),
        (NXM1, 29) => ("nw_ttl", "nw_ttl", Decimal),
        (NXM1, 26) => ("nw_frag", "ip_frag", Fragment),
        (BASIC, 11) | (NXM0, 7) => ("nw_src", "ip_src", Ip4),
        (BASIC, 12) | (NXM0, 8) => ("nw_dst", "ip_dst", Ip4),
        (BASIC, 13) | (NXM0, 9) => ("tp_src", "tcp_src", Decimal),
        (BASIC, 14) | (NXM0, 10) => ("tp_dst", "tcp_dst", Decimal),
        (BASIC, 15) | (NXM0, 11) => ("tp_src", "udp_src", Decimal),
        (BASIC, 16) | (NXM0, 12) => ("tp_dst", "udp_dst", Decimal),
        (BASIC, 17) => ("tp_src", "sctp_src", Decimal),
        (BASIC, 18) => ("tp_dst", "sctp_dst", Decimal),
        (BASIC, 19) | (NXM0, 13) => ("icmp_type", "icmp_type", Decimal),
        (BASIC, 20) | (NXM0, 14) => ("icmp_code", "icmp_code", Decimal),
        (BASIC, 29) | (NXM1, 21) => ("icmp_type", "icmpv6_type", Decimal),
        (BASIC, 30) | (NXM1, 22) => ("icmp_code", "icmpv6_code", Decimal),
        (BASIC, 21) | (NXM0, 15) => ("arp_op", "arp_op", Decimal),
        (BASIC, 22) | (NXM0, 16) => ("arp_spa", "arp_spa", Ip4),
        (BASIC, 23) | (NXM0, 17) => ("arp_tpa", "arp_tpa", Ip4),
        (BASIC, 24) | (NXM1, 17) => ("arp_sha", "arp_sha", Mac),
        (BASIC, 25) | (NXM1, 18) => ("arp_tha", "arp_tha", Mac),
        (BASIC, 26) | (NXM1, 19) => ("ipv6_src", "ipv6_src", Ip6),
        (BASIC, 27) | (NXM1, 20) => ("ipv6_dst", "ipv6_dst", Ip6),
        (BASIC, 28) | (NXM1, 27) => ("ipv6_label", "ipv6_label", hex),
        (BASIC, 31) | (NXM1, 23) => ("nd_target", "nd_target", Ip6),
        (BASIC, 32) | (NXM1, 24) => ("nd_sll", "nd_sll", Mac),
        (BASIC, 33) | (NXM1, 25) => ("nd_tll", "nd_tll", Mac),
        (BASIC, 34) => ("mpls_label", "mpls_label", Decimal),
        (BASIC, 35) => ("mpls_tc", "mpls_tc", Decimal),
        (BASIC, 36) => ("mpls_bos", "mpls_bos", Decimal),
        (NXM1, 30) => ("mpls_ttl", "mpls_ttl", Decimal),
        (BASIC, 38) | (NXM1, 16) => ("tun_id", "tun_id", hex),
        (NXM1, 31) => ("tun_src", "tun_src", Ip4),
        (NXM1, 32) => ("tun_dst", "tun_dst", Ip4),
        (NXM1, 109) => ("tun_ipv6_src", "tun_ipv6_src", Ip6),
        (NXM1, 110) => ("tun_ipv6_dst", "tun_ipv6_dst", Ip6),
        (NXM1, 33) => ("pkt_mark", "pkt_mark", hex),
        (NXM1, 35) => ("dp_hash", "dp_hash", hex),
        (NXM1, 36) => ("recirc_id", "recirc_id", hex),
        (NXM1, 37) => ("conj_id", "conj_id", Decimal),
        (NXM1, 105) => ("ct_state", "ct_state", Flags(CT_STATE)),
        (NXM1, 106) => ("ct_zone", "ct_zone", Decimal),
        (NXM1, 107) => ("ct_mark", "ct_mark", hex),
        (NXM1, 108) => ("ct_label", "ct_label", hex),
        (NXM1, 119) => ("ct_nw_proto", "ct_nw_proto", Decimal),
        (NXM1, 120) => ("ct_nw_src", "ct_nw_src", Ip4),
        (NXM1, 121) => ("ct_nw_dst", "ct_nw_dst", Ip4),
        (NXM1, 122) => ("ct_ipv6_src", "ct_ipv6_src", Ip6),
        (NXM1, 123) => ("ct_ipv6_dst", "ct_ipv6_dst", Ip6),
        (NXM1, 124) => ("ct_tp_src", "ct_tp_src", Decimal),
        (NXM1, 125) => ("ct_tp_dst", "ct_tp_dst", Decimal),
        (BASIC, 42) | (NXM1, 34) => ("tcp_flags", "tcp_flags", Flags(TCP_FLAGS)),
        (0xffff, 42) if id.experimenter == ONF => ("tcp_flags", "tcp_flags", Flags(TCP_FLAGS)),
        (BASIC, 43) => ("actset_output", "actset_output", Port),
        (0xffff, 43) if id.experimenter == ONF => ("actset_output", "actset_output", Port),
        (BASIC, 44) => ("packet_type", "packet_type", hex),
        _ => return None,
    })
}

/// `eth_type` and `ip_proto` together have short names.
fn protocol(eth_type: u16, ip_proto: Option<u8>) -> Option<&'static str> {
    Some(match (eth_type, ip_proto) {
        (0x0800, None) => "ip",
        (0x0800, Some(1)) => "icmp",
        (0x0800, Some(6)) => "tcp",
        (0x0800, Some(17)) => "udp",
        (0x0800, Some(132)) => "sctp",
        (0x0806, _) => "arp",
        (0x8035, _) => "rarp",
        (0x86dd, None) => "ipv6",
        (0x86dd, Some(6)) => "tcp6",
        (0x86dd, Some(17)) => "udp6",
        (0x86dd, Some(58)) => "icmp6",
        (0x86dd, Some(132)) => "sctp6",
        (0x8847, _) => "mpls",
        (0x8848, _) => "mplsm",
        _ => return None,
    })
}

/// Each field after a comma.
pub(super) fn matches(tlvs: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let (mut eth_type, mut ip_proto) = (None, None);
    let mut reader = Reader::new(tlvs);
    while let Ok(oxm) = Oxm::read(&mut reader) {
        match (oxm.id.class, oxm.id.number, oxm.value) {
            (BASIC, 5, [high, low]) => eth_type = Some(u16::from_be_bytes([*high, *low])),
            (BASIC, 10, [number]) => ip_proto = Some(*number),
            _ => {}
        }
    }
    let both = eth_type.and_then(|kind| protocol(kind, ip_proto));
    let alone = eth_type.and_then(|kind| protocol(kind, None));
    let mut reader = Reader::new(tlvs);
    while !reader.is_empty() {
        let before = reader.rest();
        let Ok(oxm) = Oxm::read(&mut reader) else {
            return write!(f, ",unreadable={}", Hex(before));
        };
        match (oxm.id.class, oxm.id.number) {
            (BASIC, 5) => match both.or(alone) {
                Some(name) => write!(f, ",{name}")?,
                None => field(&oxm, f)?,
            },
            (BASIC, 10) if both.is_some() && both != alone => {}
            // ARP's opcode field is called so; its protocol shorthand says nothing of it.
            _ => field(&oxm, f)?,
        }
    }
    Ok(())
}

fn field(oxm: &Oxm<'_>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if let Some((at, (value, mask))) = registers(oxm.id).zip(oxm.number()) {
        for (index, value, mask) in split(at, value, mask) {
            write!(f, ",reg{index}={}", Number(value.into()))?;
            if mask != u32::MAX {
                write!(f, "/{mask:#x}")?;
            }
        }
        return Ok(());
    }
    match named(oxm.id) {
        // 0 of 12 bits and the presence bit: no tag.
        Some((_, _, Form::Vlan)) if oxm.mask.is_none() && oxm.value == [0, 0] => {
            f.write_str(",vlan_tci=0x0000")
        }
        Some((_, _, Form::Vlan)) if oxm.mask.is_some() => {
            write!(f, ",vlan_tci=")?;
            write(oxm, Form::Hex, f)
        }
        Some((name, _, form)) => {
            write!(f, ",{name}=")?;
            write(oxm, form, f)
        }
        None => {
            write!(f, ",{}=", Unnamed(oxm.id))?;
            write(oxm, Form::Hex, f)
        }
    }
}

/// A field's name in an action.
pub(super) struct Name(pub(super) FieldId);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.class, self.0.number) {
            (NXM1, n @ 0..=15) => write!(f, "reg{n}"),
            (PACKET_REGS, n) => write!(f, "xreg{n}"),
            (NXM1, n @ 111..=114) => write!(f, "xxreg{}", n - 111),
            _ => match named(self.0) {
                Some((_, name, _)) => f.write_str(name),
                None => write!(f, "{}", Unnamed(self.0)),
            },
        }
    }
}

/// `field`, or `field[0..15]` where it is not the whole.
pub(super) struct Part(pub(super) Range);

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Range { id, width, offset, bits } = self.0;
        let last = offset.saturating_add(bits).saturating_sub(1);
        match bits {
            _ if offset == 0 && bits == width => write!(f, "{}[]", Name(id)),
            1 => write!(f, "{}[{offset}]", Name(id)),
            _ => write!(f, "{}[{offset}..{last}]", Name(id)),
        }
    }
}

struct Unnamed(FieldId);

impl fmt::Display for Unnamed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.class, self.0.number) {
            (NXM1, n @ 40..=103) => write!(f, "tun_metadata{}", n - 40),
            (class, number) => {
                write!(f, "field_{class:04x}_{number}")?;
                if self.0.experimenter != 0 {
                    write!(f, "_{:08x}", self.0.experimenter)?;
                }
                Ok(())
            }
        }
    }
}

/// A value as an action sets it: `1/0xff`.
pub(super) fn value(oxm: &Oxm<'_>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match named(oxm.id).map_or(Form::Hex, |(_, _, form)| form) {
        // The presence bit is the action's to set.
        Form::Vlan => write(oxm, Form::Decimal, f),
        form => write(oxm, form, f),
    }
}

fn write(oxm: &Oxm<'_>, form: Form, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Some((value, mask)) = oxm.number() else {
        return write!(f, "0x{}", Hex(oxm.value));
    };
    if let Form::Flags(names) = form {
        return flags(value, mask, oxm.mask.is_some(), names, f);
    }
    // A part of a number is bits.
    let form = match form {
        Form::Decimal | Form::Port | Form::Dscp | Form::Vlan if oxm.mask.is_some() => Form::Hex,
        form => form,
    };
    bare(value, oxm.value, form, f)?;
    let Some(bytes) = oxm.mask else { return Ok(()) };
    f.write_str("/")?;
    let prefix = mask.count_ones();
    let width = u32::try_from(bytes.len()).unwrap_or(16).saturating_mul(8);
    match form {
        Form::Ip4 | Form::Ip6 if mask.trailing_zeros() == width.saturating_sub(prefix) => {
            write!(f, "{prefix}")
        }
        _ => bare(mask, bytes, form, f),
    }
}

fn bare(value: u128, bytes: &[u8], form: Form, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match (form, u32::try_from(value)) {
        (Form::Mac, _) => match bytes.try_into() {
            Ok(mac) => write!(f, "{}", MacAddr(mac)),
            Err(_) => write!(f, "0x{}", Hex(bytes)),
        },
        (Form::Ip4, Ok(value)) => write!(f, "{}", Ipv4Addr::from_bits(value)),
        (Form::Ip6, _) => write!(f, "{}", Ipv6Addr::from_bits(value)),
        (Form::Port, Ok(value)) => match port::from_wire(value) {
            Some(port::LOCAL) => f.write_str("LOCAL"),
            Some(port) => write!(f, "{port}"),
            None => write!(f, "{value:#x}"),
        },
        (Form::Dscp, Ok(value)) => write!(f, "{}", value.wrapping_shl(2)),
        (Form::Vlan, Ok(value)) => write!(f, "{}", value & 0xfff),
        (Form::Decimal, _) => write!(f, "{value}"),
        (Form::Fragment, Ok(value)) => match value {
            0 => f.write_str("no"),
            1 => f.write_str("first"),
            3 => f.write_str("later"),
            _ => write!(f, "{value:#x}"),
        },
        _ => write!(f, "{}", Number(value)),
    }
}

/// Hexadecimal but for 0, as C's `%#x`.
struct Number(u128);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 { f.write_str("0") } else { write!(f, "{:#x}", self.0) }
    }
}

/// `-inv+trk`.
fn flags(
    value: u128,
    mask: u128,
    masked: bool,
    names: &[(u32, &str)],
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    if !masked {
        return write!(f, "{value:#x}");
    }
    let known: u128 = names.iter().map(|(bit, _)| u128::from(*bit)).sum();
    for (bit, name) in names {
        let bit = u128::from(*bit);
        if mask & bit != 0 {
            write!(f, "{}{name}", if value & bit != 0 { "+" } else { "-" })?;
        }
    }
    if mask & !known != 0 {
        write!(f, "{:#x}/{:#x}", value & !known, mask & !known)?;
    }
    Ok(())
}
