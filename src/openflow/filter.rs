//! What a dump asks for. The switch narrows: entries at least as specific as the match.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::entry::Entry;
use super::error::Malformed;
use super::oxm::{BASIC, NXM1, Oxm};
use super::port;
use super::wire::{self, Reader};
use crate::stale::flow::{Address, MacAddr};

const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
/// Its entries have the same fields as ARP's.
const RARP: u16 = 0x8035;
const IPV6: u16 = 0x86dd;
const ICMP6: u8 = 58;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

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
        let mut exact = |class: u16, field: u8, value: &[u8]| {
            out.extend_from_slice(&class.to_be_bytes());
            out.extend([field << 1, u8::try_from(value.len()).unwrap_or(0)]);
            out.extend_from_slice(value);
        };
        match self {
            Self::InPort(port) => exact(BASIC, 0, &port::to_wire(port).to_be_bytes()),
            Self::EthType(kind) => exact(BASIC, 5, &kind.to_be_bytes()),
            Self::IpProto(number) => exact(BASIC, 10, &[number]),
            Self::Icmp6Type(kind) => exact(BASIC, 29, &[kind]),
            Self::EthDst(mac) => exact(BASIC, 3, &mac.0),
            Self::EthSrc(mac) => exact(BASIC, 4, &mac.0),
            Self::Ipv4Src(ip) => exact(BASIC, 11, &ip.octets()),
            Self::Ipv4Dst(ip) => exact(BASIC, 12, &ip.octets()),
            Self::ArpSpa(ip) => exact(BASIC, 22, &ip.octets()),
            Self::ArpTpa(ip) => exact(BASIC, 23, &ip.octets()),
            Self::ArpSha(mac) => exact(BASIC, 24, &mac.0),
            Self::ArpTha(mac) => exact(BASIC, 25, &mac.0),
            Self::Ipv6Src(ip) => exact(BASIC, 26, &ip.octets()),
            Self::Ipv6Dst(ip) => exact(BASIC, 27, &ip.octets()),
            Self::NdTarget(ip) => exact(BASIC, 31, &ip.octets()),
            Self::NdSll(mac) => exact(BASIC, 32, &mac.0),
            Self::NdTll(mac) => exact(BASIC, 33, &mac.0),
            Self::CtNwSrc(ip) => exact(NXM1, 120, &ip.octets()),
            Self::CtNwDst(ip) => exact(NXM1, 121, &ip.octets()),
            Self::CtIpv6Src(ip) => exact(NXM1, 122, &ip.octets()),
            Self::CtIpv6Dst(ip) => exact(NXM1, 123, &ip.octets()),
            Self::CtState { value, mask } => masked(out, 105, value, mask),
            Self::Register { index, value, mask: u32::MAX } => {
                exact(NXM1, index & 15, &value.to_be_bytes());
            }
            Self::Register { index, value, mask } => masked(out, index & 15, value, mask),
        }
    }
}

/// Value bits outside the mask are an error to the switch (OFPBMC_BAD_WILDCARDS).
fn masked(out: &mut Vec<u8>, field: u8, value: u32, mask: u32) {
    out.extend_from_slice(&NXM1.to_be_bytes());
    out.extend([field << 1 | 1, 8]);
    out.extend_from_slice(&(value & mask).to_be_bytes());
    out.extend_from_slice(&mask.to_be_bytes());
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
            let before = reader.rest();
            // Read before, when it was dumped.
            let Ok(field) = Oxm::read(&mut reader) else { break };
            let length = before.len().saturating_sub(reader.left());
            if (field.id.class, field.id.number) != (BASIC, 7) {
                like.extend_from_slice(before.get(..length).unwrap_or_default());
            }
        }
        Self { like, ..Self::table(entry.table()) }
    }

    /// The same, in one table.
    #[must_use]
    pub fn in_table(self, table: u8) -> Self {
        Self { table: Some(table), ..self }
    }

    /// Appends the body of the request, from the multipart header on.
    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), Malformed> {
        out.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
        out.extend_from_slice(&[self.table.unwrap_or(0xff), 0, 0, 0]);
        let out_port = self.out_port.map_or(port::ANY, port::to_wire);
        out.extend_from_slice(&out_port.to_be_bytes());
        out.extend_from_slice(&port::ANY.to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.cookie.to_be_bytes());
        out.extend_from_slice(&self.cookie_mask.to_be_bytes());
        let mut tlvs = Vec::new();
        for term in &self.matches {
            term.encode(&mut tlvs);
        }
        tlvs.extend_from_slice(&self.like);
        let length = tlvs.len().saturating_add(4);
        let short = u16::try_from(length).map_err(|_| Malformed::TooLong(length))?;
        out.extend_from_slice(&1_u16.to_be_bytes());
        out.extend_from_slice(&short.to_be_bytes());
        out.extend_from_slice(&tlvs);
        out.resize(out.len().saturating_add(wire::padding(length)), 0);
        Ok(())
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
                Filter::matching([T::EthType(IPV4), T::Ipv4Src(ip)]),
                Filter::matching([T::EthType(IPV4), T::Ipv4Dst(ip)]),
            ];
            for kind in [ARP, RARP] {
                filters.push(Filter::matching([T::EthType(kind), T::ArpSpa(ip)]));
                filters.push(Filter::matching([T::EthType(kind), T::ArpTpa(ip)]));
            }
            filters.extend(tracked([T::CtNwSrc(ip), T::CtNwDst(ip)]));
            filters
        }
        Address::Ip(IpAddr::V6(ip)) => {
            let mut filters = vec![
                Filter::matching([T::EthType(IPV6), T::Ipv6Src(ip)]),
                Filter::matching([T::EthType(IPV6), T::Ipv6Dst(ip)]),
                neighbour(NEIGHBOUR_SOLICITATION, T::NdTarget(ip)),
                neighbour(NEIGHBOUR_ADVERTISEMENT, T::NdTarget(ip)),
            ];
            filters.extend(tracked([T::CtIpv6Src(ip), T::CtIpv6Dst(ip)]));
            filters
        }
        Address::Mac(mac) => {
            let mut filters = vec![
                Filter::matching([T::EthSrc(mac)]),
                Filter::matching([T::EthDst(mac)]),
                neighbour(NEIGHBOUR_SOLICITATION, T::NdSll(mac)),
                neighbour(NEIGHBOUR_ADVERTISEMENT, T::NdTll(mac)),
            ];
            for kind in [ARP, RARP] {
                filters.push(Filter::matching([T::EthType(kind), T::ArpSha(mac)]));
                filters.push(Filter::matching([T::EthType(kind), T::ArpTha(mac)]));
            }
            filters
        }
    }
}

fn neighbour(kind: u8, term: MatchTerm) -> Filter {
    use MatchTerm as T;
    Filter::matching([T::EthType(IPV6), T::IpProto(ICMP6), T::Icmp6Type(kind), term])
}

/// The original tuple may only be matched together with a ct_state that implies there is
/// one: one of these bits set, or tracked and not invalid (OVS, `is_ct_valid`).
fn tracked(terms: [MatchTerm; 2]) -> impl Iterator<Item = Filter> {
    const NEW: u32 = 0x01;
    const ESTABLISHED: u32 = 0x02;
    const RELATED: u32 = 0x04;
    const REPLY: u32 = 0x08;
    const INVALID: u32 = 0x10;
    const TRACKED: u32 = 0x20;
    const SOURCE_NAT: u32 = 0x40;
    const DESTINATION_NAT: u32 = 0x80;
    let states = [NEW, ESTABLISHED, RELATED, REPLY, SOURCE_NAT, DESTINATION_NAT]
        .map(|bit| MatchTerm::CtState { value: bit, mask: bit })
        .into_iter()
        .chain([MatchTerm::CtState { value: TRACKED, mask: TRACKED | INVALID }]);
    states.flat_map(move |state| terms.map(|term| Filter::matching([state, term])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openflow::testing::hex;

    #[test]
    fn a_request_for_everything() {
        let mut body = Vec::new();
        Filter::all().encode(&mut body).unwrap();
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
        let entry = Entry::new(super::super::Version::V13, hex(bytes)).unwrap();
        let mut body = Vec::new();
        Filter::like(&entry).encode(&mut body).unwrap();
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
            out_port: Some(port::LOCAL),
            cookie: 0x2a,
            cookie_mask: 0xff,
            ..Filter::matching([
                MatchTerm::EthType(IPV4),
                MatchTerm::Ipv4Src(Ipv4Addr::new(10, 244, 1, 5)),
                MatchTerm::Register { index: 1, value: 0xfff, mask: 0xff },
            ])
            .in_table(10)
        };
        filter.encode(&mut body).unwrap();
        assert_eq!(
            body,
            hex("00010000 00000000 0a000000 fffffffe ffffffff 00000000
                 000000000000002a 00000000000000ff
                 0001001e 80000a02 0800 80001604 0af40105 00010308 000000ff 000000ff 0000")
        );
    }
}
