//! Match fields by name.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::Hex;
use crate::model::flow::MacAddr;
use crate::openflow::codec::actions::Range;
use crate::openflow::codec::numbers::*;
use crate::openflow::codec::oxm::{FieldId, Oxm, registers, split};
use crate::openflow::codec::port;
use crate::openflow::codec::wire::Reader;

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
    (CS_NEW, "new"),
    (CS_ESTABLISHED, "est"),
    (CS_RELATED, "rel"),
    (CS_REPLY_DIR, "rpl"),
    (CS_INVALID, "inv"),
    (CS_TRACKED, "trk"),
    (CS_SRC_NAT, "snat"),
    (CS_DST_NAT, "dnat"),
];
const TCP_FLAGS: &[(u32, &str)] = &[
    (TCP_FIN, "fin"),
    (TCP_SYN, "syn"),
    (TCP_RST, "rst"),
    (TCP_PSH, "psh"),
    (TCP_ACK, "ack"),
    (TCP_URG, "urg"),
    (TCP_ECE, "ece"),
    (TCP_CWR, "cwr"),
    (TCP_NS, "ns"),
];

/// A fragment that is not the first.
const LATER: u32 = FLOW_NW_FRAG_ANY | FLOW_NW_FRAG_LATER;

/// Name in a match, name in an action, form.
type Named = (&'static str, &'static str, Form);

/// One flat table, longer than other functions: each field is one line.
fn named(id: FieldId) -> Option<Named> {
    use Form::{Decimal, Dscp, Flags, Fragment, Ip4, Ip6, Mac, Port, Vlan};
    let hex = Form::Hex;
    Some(match id {
        OXM_OF_IN_PORT | NXM_OF_IN_PORT => ("in_port", "in_port", Port),
        OXM_OF_METADATA => ("metadata", "metadata", hex),
        OXM_OF_ETH_DST | NXM_OF_ETH_DST => ("dl_dst", "eth_dst", Mac),
        OXM_OF_ETH_SRC | NXM_OF_ETH_SRC => ("dl_src", "eth_src", Mac),
        OXM_OF_ETH_TYPE | NXM_OF_ETH_TYPE => ("dl_type", "eth_type", hex),
        NXM_OF_VLAN_TCI => ("vlan_tci", "vlan_tci", hex),
        OXM_OF_VLAN_VID => ("dl_vlan", "vlan_vid", Vlan),
        OXM_OF_VLAN_PCP => ("dl_vlan_pcp", "vlan_pcp", Decimal),
        OXM_OF_IP_DSCP => ("nw_tos", "ip_dscp", Dscp),
        NXM_OF_IP_TOS => ("nw_tos", "nw_tos", Decimal),
        OXM_OF_IP_ECN | NXM_NX_IP_ECN => ("nw_ecn", "nw_ecn", Decimal),
        OXM_OF_IP_PROTO | NXM_OF_IP_PROTO => ("nw_proto", "nw_proto", Decimal),
        NXM_NX_IP_TTL => ("nw_ttl", "nw_ttl", Decimal),
        NXM_NX_IP_FRAG => ("nw_frag", "ip_frag", Fragment),
        OXM_OF_IPV4_SRC | NXM_OF_IP_SRC => ("nw_src", "ip_src", Ip4),
        OXM_OF_IPV4_DST | NXM_OF_IP_DST => ("nw_dst", "ip_dst", Ip4),
        OXM_OF_TCP_SRC | NXM_OF_TCP_SRC => ("tp_src", "tcp_src", Decimal),
        OXM_OF_TCP_DST | NXM_OF_TCP_DST => ("tp_dst", "tcp_dst", Decimal),
        OXM_OF_UDP_SRC | NXM_OF_UDP_SRC => ("tp_src", "udp_src", Decimal),
        OXM_OF_UDP_DST | NXM_OF_UDP_DST => ("tp_dst", "udp_dst", Decimal),
        OXM_OF_SCTP_SRC => ("tp_src", "sctp_src", Decimal),
        OXM_OF_SCTP_DST => ("tp_dst", "sctp_dst", Decimal),
        OXM_OF_ICMPV4_TYPE | NXM_OF_ICMP_TYPE => ("icmp_type", "icmp_type", Decimal),
        OXM_OF_ICMPV4_CODE | NXM_OF_ICMP_CODE => ("icmp_code", "icmp_code", Decimal),
        OXM_OF_ICMPV6_TYPE | NXM_NX_ICMPV6_TYPE => ("icmp_type", "icmpv6_type", Decimal),
        OXM_OF_ICMPV6_CODE | NXM_NX_ICMPV6_CODE => ("icmp_code", "icmpv6_code", Decimal),
        OXM_OF_ARP_OP | NXM_OF_ARP_OP => ("arp_op", "arp_op", Decimal),
        OXM_OF_ARP_SPA | NXM_OF_ARP_SPA => ("arp_spa", "arp_spa", Ip4),
        OXM_OF_ARP_TPA | NXM_OF_ARP_TPA => ("arp_tpa", "arp_tpa", Ip4),
        OXM_OF_ARP_SHA | NXM_NX_ARP_SHA => ("arp_sha", "arp_sha", Mac),
        OXM_OF_ARP_THA | NXM_NX_ARP_THA => ("arp_tha", "arp_tha", Mac),
        OXM_OF_IPV6_SRC | NXM_NX_IPV6_SRC => ("ipv6_src", "ipv6_src", Ip6),
        OXM_OF_IPV6_DST | NXM_NX_IPV6_DST => ("ipv6_dst", "ipv6_dst", Ip6),
        OXM_OF_IPV6_FLABEL | NXM_NX_IPV6_LABEL => ("ipv6_label", "ipv6_label", hex),
        OXM_OF_IPV6_ND_TARGET | NXM_NX_ND_TARGET => ("nd_target", "nd_target", Ip6),
        OXM_OF_IPV6_ND_SLL | NXM_NX_ND_SLL => ("nd_sll", "nd_sll", Mac),
        OXM_OF_IPV6_ND_TLL | NXM_NX_ND_TLL => ("nd_tll", "nd_tll", Mac),
        OXM_OF_MPLS_LABEL => ("mpls_label", "mpls_label", Decimal),
        OXM_OF_MPLS_TC => ("mpls_tc", "mpls_tc", Decimal),
        OXM_OF_MPLS_BOS => ("mpls_bos", "mpls_bos", Decimal),
        NXM_NX_MPLS_TTL => ("mpls_ttl", "mpls_ttl", Decimal),
        OXM_OF_TUNNEL_ID | NXM_NX_TUN_ID => ("tun_id", "tun_id", hex),
        NXM_NX_TUN_IPV4_SRC => ("tun_src", "tun_src", Ip4),
        NXM_NX_TUN_IPV4_DST => ("tun_dst", "tun_dst", Ip4),
        NXM_NX_TUN_IPV6_SRC => ("tun_ipv6_src", "tun_ipv6_src", Ip6),
        NXM_NX_TUN_IPV6_DST => ("tun_ipv6_dst", "tun_ipv6_dst", Ip6),
        NXM_NX_PKT_MARK => ("pkt_mark", "pkt_mark", hex),
        NXM_NX_DP_HASH => ("dp_hash", "dp_hash", hex),
        NXM_NX_RECIRC_ID => ("recirc_id", "recirc_id", hex),
        NXM_NX_CONJ_ID => ("conj_id", "conj_id", Decimal),
        NXM_NX_CT_STATE => ("ct_state", "ct_state", Flags(CT_STATE)),
        NXM_NX_CT_ZONE => ("ct_zone", "ct_zone", Decimal),
        NXM_NX_CT_MARK => ("ct_mark", "ct_mark", hex),
        NXM_NX_CT_LABEL => ("ct_label", "ct_label", hex),
        NXM_NX_CT_NW_PROTO => ("ct_nw_proto", "ct_nw_proto", Decimal),
        NXM_NX_CT_NW_SRC => ("ct_nw_src", "ct_nw_src", Ip4),
        NXM_NX_CT_NW_DST => ("ct_nw_dst", "ct_nw_dst", Ip4),
        NXM_NX_CT_IPV6_SRC => ("ct_ipv6_src", "ct_ipv6_src", Ip6),
        NXM_NX_CT_IPV6_DST => ("ct_ipv6_dst", "ct_ipv6_dst", Ip6),
        NXM_NX_CT_TP_SRC => ("ct_tp_src", "ct_tp_src", Decimal),
        NXM_NX_CT_TP_DST => ("ct_tp_dst", "ct_tp_dst", Decimal),
        OXM_OF_TCP_FLAGS | NXM_NX_TCP_FLAGS | ONFOXM_ET_TCP_FLAGS => {
            ("tcp_flags", "tcp_flags", Flags(TCP_FLAGS))
        }
        OXM_OF_ACTSET_OUTPUT | ONFOXM_ET_ACTSET_OUTPUT => ("actset_output", "actset_output", Port),
        OXM_OF_PACKET_TYPE => ("packet_type", "packet_type", hex),
        _ => return None,
    })
}

/// `eth_type` and `ip_proto` together have short names.
fn protocol(eth_type: u16, ip_proto: Option<u8>) -> Option<&'static str> {
    Some(match (eth_type, ip_proto) {
        (ETH_TYPE_IP, None) => "ip",
        (ETH_TYPE_IP, Some(IPPROTO_ICMP)) => "icmp",
        (ETH_TYPE_IP, Some(IPPROTO_TCP)) => "tcp",
        (ETH_TYPE_IP, Some(IPPROTO_UDP)) => "udp",
        (ETH_TYPE_IP, Some(IPPROTO_SCTP)) => "sctp",
        (ETH_TYPE_ARP, _) => "arp",
        (ETH_TYPE_RARP, _) => "rarp",
        (ETH_TYPE_IPV6, None) => "ipv6",
        (ETH_TYPE_IPV6, Some(IPPROTO_TCP)) => "tcp6",
        (ETH_TYPE_IPV6, Some(IPPROTO_UDP)) => "udp6",
        (ETH_TYPE_IPV6, Some(IPPROTO_ICMPV6)) => "icmp6",
        (ETH_TYPE_IPV6, Some(IPPROTO_SCTP)) => "sctp6",
        (ETH_TYPE_MPLS, _) => "mpls",
        (ETH_TYPE_MPLS_MCAST, _) => "mplsm",
        _ => return None,
    })
}

/// Each field after a comma.
pub(super) fn matches(tlvs: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let (mut eth_type, mut ip_proto) = (None, None);
    let mut reader = Reader::new(tlvs);
    while let Ok(oxm) = Oxm::read(&mut reader) {
        match (oxm.id, oxm.value) {
            (OXM_OF_ETH_TYPE, [high, low]) => eth_type = Some(u16::from_be_bytes([*high, *low])),
            (OXM_OF_IP_PROTO, [number]) => ip_proto = Some(*number),
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
        match oxm.id {
            OXM_OF_ETH_TYPE => match both.or(alone) {
                Some(name) => write!(f, ",{name}")?,
                None => field(&oxm, f)?,
            },
            OXM_OF_IP_PROTO if both.is_some() && both != alone => {}
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
        let among = |first, count| self.0.index_among(first, count);
        match (among(NXM_NX_REG0, 16), among(OXM_OF_PKT_REG0, 128), among(NXM_NX_XXREG0, 4)) {
            (Some(n), ..) => write!(f, "reg{n}"),
            (_, Some(n), _) => write!(f, "xreg{n}"),
            (.., Some(n)) => write!(f, "xxreg{n}"),
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
        let FieldId { class, number, experimenter } = self.0;
        match self.0.index_among(NXM_NX_TUN_METADATA0, 64) {
            Some(index) => write!(f, "tun_metadata{index}"),
            None if experimenter == 0 => write!(f, "field_{class:04x}_{number}"),
            None => write!(f, "field_{class:04x}_{number}_{experimenter:08x}"),
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
            Some(OFPP_LOCAL) => f.write_str("LOCAL"),
            Some(port) => write!(f, "{port}"),
            None => write!(f, "{value:#x}"),
        },
        (Form::Dscp, Ok(value)) => write!(f, "{}", value.wrapping_shl(2)),
        (Form::Vlan, Ok(value)) => write!(f, "{}", value & u32::from(VLAN_VID_MASK)),
        (Form::Decimal, _) => write!(f, "{value}"),
        (Form::Fragment, Ok(value)) => match value {
            0 => f.write_str("no"),
            FLOW_NW_FRAG_ANY => f.write_str("first"),
            LATER => f.write_str("later"),
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
