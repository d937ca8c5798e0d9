//! What a dump asks for. The switch narrows: entries at least as specific as the match.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::model::flow::{Address, MacAddr};
use crate::openflow::codec::entry::Entry;
use crate::openflow::codec::hello::Version;
use crate::openflow::codec::multipart;
use crate::openflow::codec::numbers::*;
use crate::openflow::codec::oxm::{FieldId, Oxm, write_match};
use crate::openflow::codec::port;
use crate::openflow::codec::wire::{Layout as _, Reader, layout};
use crate::openflow::error::Malformed;

/// One field of a filter's match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "OVS's names of the fields (ovs-fields(7))")]
pub enum MatchTerm {
    InPort(u16),
    Register { index: u8, value: u32, mask: u32 },
    EthType(u16),
    IpProto(u8),
    Icmp6Type(u8),
    EthSrc(MacAddr),
    EthDst(MacAddr),
    Ipv4Src(Ipv4Addr),
    Ipv4Dst(Ipv4Addr),
    ArpSpa(Ipv4Addr),
    ArpTpa(Ipv4Addr),
    ArpSha(MacAddr),
    ArpTha(MacAddr),
    Ipv6Src(Ipv6Addr),
    Ipv6Dst(Ipv6Addr),
    NdTarget(Ipv6Addr),
    NdSll(MacAddr),
    NdTll(MacAddr),
    CtState { value: u32, mask: u32 },
    CtNwSrc(Ipv4Addr),
    CtNwDst(Ipv4Addr),
    CtIpv6Src(Ipv6Addr),
    CtIpv6Dst(Ipv6Addr),
}

impl MatchTerm {
    fn encode(self, out: &mut Vec<u8>) {
        let mut exact = |id, value: &[u8]| Oxm { id, value, mask: None }.write(out);
        match self {
            Self::InPort(port) => exact(OXM_OF_IN_PORT, &port::to_wire(port).to_be_bytes()),
            Self::EthType(kind) => exact(OXM_OF_ETH_TYPE, &kind.to_be_bytes()),
            Self::IpProto(number) => exact(OXM_OF_IP_PROTO, &[number]),
            Self::Icmp6Type(kind) => exact(OXM_OF_ICMPV6_TYPE, &[kind]),
            Self::EthDst(mac) => exact(OXM_OF_ETH_DST, &mac.0),
            Self::EthSrc(mac) => exact(OXM_OF_ETH_SRC, &mac.0),
            Self::Ipv4Src(ip) => exact(OXM_OF_IPV4_SRC, &ip.octets()),
            Self::Ipv4Dst(ip) => exact(OXM_OF_IPV4_DST, &ip.octets()),
            Self::ArpSpa(ip) => exact(OXM_OF_ARP_SPA, &ip.octets()),
            Self::ArpTpa(ip) => exact(OXM_OF_ARP_TPA, &ip.octets()),
            Self::ArpSha(mac) => exact(OXM_OF_ARP_SHA, &mac.0),
            Self::ArpTha(mac) => exact(OXM_OF_ARP_THA, &mac.0),
            Self::Ipv6Src(ip) => exact(OXM_OF_IPV6_SRC, &ip.octets()),
            Self::Ipv6Dst(ip) => exact(OXM_OF_IPV6_DST, &ip.octets()),
            Self::NdTarget(ip) => exact(OXM_OF_IPV6_ND_TARGET, &ip.octets()),
            Self::NdSll(mac) => exact(OXM_OF_IPV6_ND_SLL, &mac.0),
            Self::NdTll(mac) => exact(OXM_OF_IPV6_ND_TLL, &mac.0),
            Self::CtNwSrc(ip) => exact(NXM_NX_CT_NW_SRC, &ip.octets()),
            Self::CtNwDst(ip) => exact(NXM_NX_CT_NW_DST, &ip.octets()),
            Self::CtIpv6Src(ip) => exact(NXM_NX_CT_IPV6_SRC, &ip.octets()),
            Self::CtIpv6Dst(ip) => exact(NXM_NX_CT_IPV6_DST, &ip.octets()),
            Self::CtState { value, mask } => masked(out, NXM_NX_CT_STATE, value, mask),
            Self::Register { index, value, mask } => {
                let id = FieldId { number: index & 15, ..NXM_NX_REG0 };
                masked(out, id, value, mask);
            }
        }
    }
}

/// Value bits outside the mask are an error to the switch (OFPBMC_BAD_WILDCARDS).
fn masked(out: &mut Vec<u8>, id: FieldId, value: u32, mask: u32) {
    let (value, bytes) = ((value & mask).to_be_bytes(), mask.to_be_bytes());
    Oxm { id, value: &value, mask: (mask != u32::MAX).then_some(&bytes) }.write(out);
}

layout! {
    /// The fixed part of a request (`struct ofp11_flow_stats_request`).
    struct Request {
        table: u8 [3], out_port: u32, out_group: u32 [4], cookie: u64, cookie_mask: u64,
    }
}

/// Which entries a dump is of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// One table; `None` is all but the internal 254.
    pub table: Option<u8>,
    /// Entries that output to this port. OVS sees output, enqueue, and outputs inside clone,
    /// ct and write_actions; it does *not* see output_trunc, bundle, groups, learn, resubmit
    /// or an output to a register.
    pub out_port: Option<u16>,
    /// Cookie, compared under the mask.
    pub cookie: u64,
    /// 0 is every cookie.
    pub cookie_mask: u64,
    /// Fields, prerequisites first; entries at least as specific are found.
    pub matches: Vec<MatchTerm>,
    /// More fields, as an entry's match has them.
    pub like: Vec<u8>,
}

impl Filter {
    /// Every entry.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// One table.
    #[must_use]
    pub fn table(table: u8) -> Self {
        Self { table: Some(table), ..Self::default() }
    }

    /// Entries that match on this in_port.
    #[must_use]
    pub fn in_port(port: u16) -> Self {
        Self::matching([MatchTerm::InPort(port)])
    }

    /// Entries that output to this port; see [`Self::out_port`](field@Self::out_port).
    #[must_use]
    pub fn out_port(port: u16) -> Self {
        Self { out_port: Some(port), ..Self::default() }
    }

    /// Entries that match on at least these bits of a register.
    #[must_use]
    pub fn register(index: u8, value: u32, mask: u32) -> Self {
        Self::matching([MatchTerm::Register { index, value, mask }])
    }

    /// Entries that match on all of these.
    #[must_use]
    pub fn matching(matches: impl Into<Vec<MatchTerm>>) -> Self {
        Self { matches: matches.into(), ..Self::default() }
    }

    /// Entries of its table whose match looks like this entry's, and what is more specific.
    ///
    /// (Without its VLAN priority: a dump may show one that no match can have.)
    #[must_use]
    pub fn like(entry: &Entry) -> Self {
        let mut like = Vec::new();
        let mut reader = Reader::new(entry.raw().tlvs());
        while !reader.is_empty() {
            let before = reader;
            // Read before, when it was dumped.
            let Ok(field) = Oxm::read(&mut reader) else { break };
            if field.id != OXM_OF_VLAN_PCP {
                like.extend_from_slice(reader.since(before));
            }
        }
        Self { like, ..Self::table(entry.table()) }
    }

    /// Appends the body of the request, from the multipart header on.
    pub(in crate::openflow) fn encode(
        &self,
        version: Version,
        out: &mut Vec<u8>,
    ) -> Result<(), Malformed> {
        multipart::request(OFPMP_FLOW, version, out);
        let request = Request {
            table: self.table.unwrap_or(OFPTT_ALL),
            out_port: self.out_port.map_or(OFPP_ANY, port::to_wire),
            out_group: OFPG_ANY,
            cookie: self.cookie,
            cookie_mask: self.cookie_mask,
        };
        request.write(version, out);
        let mut tlvs = Vec::new();
        for term in &self.matches {
            term.encode(&mut tlvs);
        }
        tlvs.extend_from_slice(&self.like);
        write_match(&tlvs, out)
    }

    /// Reads such a body; the fields are [`Self::like`].
    #[cfg(test)]
    pub(in crate::openflow) fn decode(
        version: Version,
        r: &mut Reader<'_>,
    ) -> Result<Self, Malformed> {
        multipart::reply(OFPMP_FLOW, version, r)?;
        let request = Request::read(version, r)?;
        let like = crate::openflow::codec::oxm::read_match(r)?.1.to_vec();
        Ok(Self {
            table: Some(request.table).filter(|table| *table != OFPTT_ALL),
            out_port: port::from_wire(request.out_port).filter(|port| *port != OFPP_NONE),
            cookie: request.cookie,
            cookie_mask: request.cookie_mask,
            matches: Vec::new(),
            like,
        })
    }
}

/// The filters that together find every entry with an exact match on this address: one per
/// field it can stand in. Entries that match several are found several times.
///
/// (Not found: IP entries of bridges for L3 tunnels, which have `packet_type=(1,0x800)` in
/// the place of an eth_type. A whole dump shows them.)
#[must_use]
pub fn filters_for_address(address: &Address) -> Vec<Filter> {
    use MatchTerm as T;
    match *address {
        Address::Ip(IpAddr::V4(ip)) => {
            let mut filters = vec![
                Filter::matching([T::EthType(ETH_TYPE_IP), T::Ipv4Src(ip)]),
                Filter::matching([T::EthType(ETH_TYPE_IP), T::Ipv4Dst(ip)]),
            ];
            for kind in [ETH_TYPE_ARP, ETH_TYPE_RARP] {
                filters.push(Filter::matching([T::EthType(kind), T::ArpSpa(ip)]));
                filters.push(Filter::matching([T::EthType(kind), T::ArpTpa(ip)]));
            }
            filters.extend(tracked([T::CtNwSrc(ip), T::CtNwDst(ip)]));
            filters
        }
        Address::Ip(IpAddr::V6(ip)) => {
            let mut filters = vec![
                Filter::matching([T::EthType(ETH_TYPE_IPV6), T::Ipv6Src(ip)]),
                Filter::matching([T::EthType(ETH_TYPE_IPV6), T::Ipv6Dst(ip)]),
                neighbour(ND_NEIGHBOR_SOLICIT, T::NdTarget(ip)),
                neighbour(ND_NEIGHBOR_ADVERT, T::NdTarget(ip)),
            ];
            filters.extend(tracked([T::CtIpv6Src(ip), T::CtIpv6Dst(ip)]));
            filters
        }
        Address::Mac(mac) => {
            let mut filters = vec![
                Filter::matching([T::EthSrc(mac)]),
                Filter::matching([T::EthDst(mac)]),
                neighbour(ND_NEIGHBOR_SOLICIT, T::NdSll(mac)),
                neighbour(ND_NEIGHBOR_ADVERT, T::NdTll(mac)),
            ];
            for kind in [ETH_TYPE_ARP, ETH_TYPE_RARP] {
                filters.push(Filter::matching([T::EthType(kind), T::ArpSha(mac)]));
                filters.push(Filter::matching([T::EthType(kind), T::ArpTha(mac)]));
            }
            filters
        }
    }
}

fn neighbour(kind: u8, term: MatchTerm) -> Filter {
    use MatchTerm as T;
    Filter::matching([
        T::EthType(ETH_TYPE_IPV6),
        T::IpProto(IPPROTO_ICMPV6),
        T::Icmp6Type(kind),
        term,
    ])
}

/// The original tuple may only be matched together with a ct_state that implies there is
/// one: one of these bits set, or tracked and not invalid (OVS, `is_ct_valid`).
fn tracked(terms: [MatchTerm; 2]) -> impl Iterator<Item = Filter> {
    let states = [CS_NEW, CS_ESTABLISHED, CS_RELATED, CS_REPLY_DIR, CS_SRC_NAT, CS_DST_NAT]
        .map(|bit| MatchTerm::CtState { value: bit, mask: bit })
        .into_iter()
        .chain([MatchTerm::CtState { value: CS_TRACKED, mask: CS_TRACKED | CS_INVALID }]);
    states.flat_map(move |state| terms.map(|term| Filter::matching([state, term])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openflow::testing::hex;

    #[test]
    fn a_request_for_everything() {
        let mut body = Vec::new();
        Filter::all().encode(Version::V13, &mut body).unwrap();
        assert_eq!(
            body,
            hex("00010000 00000000 ff000000 ffffffff ffffffff 00000000
                 0000000000000000 0000000000000000 00010004 00000000")
        );
    }

    #[test]
    fn a_request_for_what_looks_like_an_entry() {
        // table=7, priority=5, in_port=3, vlan_vid=0x1005, vlan_pcp=6
        let bytes = "00480700 00000001 00000000 00050000 00000000 00000000 0000000000000000
                     0000000000000000 0000000000000000
                     00010017 80000004 00000003 80000c02 1005 80000e01 06 00";
        let entry = Entry::new(Version::V13, hex(bytes)).unwrap();
        let mut body = Vec::new();
        Filter::like(&entry).encode(Version::V13, &mut body).unwrap();
        assert_eq!(
            body,
            hex("00010000 00000000 07000000 ffffffff ffffffff 00000000
                 0000000000000000 0000000000000000
                 00010012 80000004 00000003 80000c02 1005 000000000000")
        );
    }

    #[test]
    fn a_narrow_request() {
        let mut body = Vec::new();
        let filter = Filter {
            table: Some(10),
            out_port: Some(OFPP_LOCAL),
            cookie: 0x2a,
            cookie_mask: 0xff,
            ..Filter::matching([
                MatchTerm::EthType(ETH_TYPE_IP),
                MatchTerm::Ipv4Src(Ipv4Addr::new(10, 244, 1, 5)),
                MatchTerm::Register { index: 1, value: 0xfff, mask: 0xff },
            ])
        };
        filter.encode(Version::V13, &mut body).unwrap();
        assert_eq!(
            body,
            hex("00010000 00000000 0a000000 fffffffe ffffffff 00000000
                 000000000000002a 00000000000000ff
                 0001001e 80000a02 0800 80001604 0af40105 00010308 000000ff 000000ff 0000")
        );
    }
}
