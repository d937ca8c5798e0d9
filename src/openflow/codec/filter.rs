//! What a dump asks for. The switch narrows: entries at least as specific as the match.

use std::net::IpAddr;

use crate::model::flow::{Address, MacAddr, Match};
use crate::openflow::codec::entry::Entry;
use crate::openflow::codec::hello::Version;
use crate::openflow::codec::multipart;
use crate::openflow::codec::numbers::*;
use crate::openflow::codec::oxm::{self, FieldId, Oxm, write_match};
use crate::openflow::codec::port;
use crate::openflow::codec::wire::{Layout as _, Reader, layout};
use crate::openflow::error::Malformed;

mod matching;

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
    /// Fields as a match has them, prerequisites first; entries at least as specific are found.
    pub fields: Vec<u8>,
}

impl Filter {
    /// One table.
    #[must_use]
    pub fn table(table: u8) -> Self {
        Self { table: Some(table), ..Self::default() }
    }

    /// Entries that match on this in_port.
    #[must_use]
    pub fn in_port(port: u16) -> Self {
        Self::default().exact(OXM_OF_IN_PORT, &port::to_wire(port).to_be_bytes())
    }

    /// Entries that output to this port; see [`Self::out_port`](field@Self::out_port).
    #[must_use]
    pub fn out_port(port: u16) -> Self {
        Self { out_port: Some(port), ..Self::default() }
    }

    /// Entries that match on at least these bits of a register.
    #[must_use]
    pub fn register(index: u8, value: u32, mask: u32) -> Self {
        let id = FieldId { number: index & 15, ..NXM_NX_REG0 };
        Self::default().masked(id, value, mask)
    }

    /// Entries that match on this Ethernet type.
    #[must_use]
    pub fn eth_type(kind: u16) -> Self {
        Self::default().exact(OXM_OF_ETH_TYPE, &kind.to_be_bytes())
    }

    /// Of these entries only those that also match on this value.
    fn exact(mut self, id: FieldId, value: &[u8]) -> Self {
        Oxm { id, value, mask: None }.write(&mut self.fields);
        self
    }

    /// Of these entries only those that also match on at least these bits. Value bits outside the
    /// mask are an error to the switch (OFPBMC_BAD_WILDCARDS).
    fn masked(mut self, id: FieldId, value: u32, mask: u32) -> Self {
        let (value, bytes) = ((value & mask).to_be_bytes(), mask.to_be_bytes());
        let mask = (mask != u32::MAX).then_some(bytes.as_slice());
        Oxm { id, value: &value, mask }.write(&mut self.fields);
        self
    }

    /// Entries of its table whose match looks like this entry's, and what is more specific.
    ///
    /// (Without its VLAN priority: a dump may show one that no match can have.)
    #[must_use]
    pub fn like(entry: &Entry) -> Self {
        let mut fields = Vec::new();
        let mut reader = Reader::new(entry.raw().tlvs());
        while !reader.is_empty() {
            let before = reader;
            // Read before, when it was dumped.
            let Ok(field) = Oxm::read(&mut reader) else { break };
            if field.id != OXM_OF_VLAN_PCP {
                fields.extend_from_slice(reader.since(before));
            }
        }
        Self { fields, ..Self::table(entry.table()) }
    }

    /// What every entry names that it finds, besides the table and the output port. `None` if its
    /// fields cannot be read.
    #[must_use]
    pub fn named(&self) -> Option<Match> {
        let mut named = Match::default();
        oxm::decode(&self.fields, &mut named).ok().map(|()| named)
    }

    /// Appends the body of the request, from the multipart header on.
    pub(crate) fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), Malformed> {
        multipart::request(OFPMP_FLOW, version, out);
        let request = Request {
            table: self.table.unwrap_or(OFPTT_ALL),
            out_port: self.out_port.map_or(OFPP_ANY, port::to_wire),
            out_group: OFPG_ANY,
            cookie: self.cookie,
            cookie_mask: self.cookie_mask,
        };
        request.write(version, out);
        write_match(&self.fields, out)
    }

    /// Reads such a body.
    #[cfg(test)]
    pub(crate) fn decode(version: Version, r: &mut Reader<'_>) -> Result<Self, Malformed> {
        multipart::reply(OFPMP_FLOW, version, r)?;
        let request = Request::read(version, r)?;
        let fields = oxm::read_match(r)?.1.to_vec();
        Ok(Self {
            table: Some(request.table).filter(|table| *table != OFPTT_ALL),
            out_port: port::from_wire(request.out_port).filter(|port| *port != OFPP_NONE),
            cookie: request.cookie,
            cookie_mask: request.cookie_mask,
            fields,
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
    match *address {
        Address::Ip(IpAddr::V4(ip)) => {
            let ip = &ip.octets();
            let mut filters = vec![
                of_type(ETH_TYPE_IP, OXM_OF_IPV4_SRC, ip),
                of_type(ETH_TYPE_IP, OXM_OF_IPV4_DST, ip),
            ];
            filters.extend(arp([OXM_OF_ARP_SPA, OXM_OF_ARP_TPA], ip));
            filters.extend(tracked([NXM_NX_CT_NW_SRC, NXM_NX_CT_NW_DST], ip));
            filters
        }
        Address::Ip(IpAddr::V6(ip)) => {
            let ip = &ip.octets();
            let mut filters = vec![
                of_type(ETH_TYPE_IPV6, OXM_OF_IPV6_SRC, ip),
                of_type(ETH_TYPE_IPV6, OXM_OF_IPV6_DST, ip),
                neighbour(ND_NEIGHBOR_SOLICIT, OXM_OF_IPV6_ND_TARGET, ip),
                neighbour(ND_NEIGHBOR_ADVERT, OXM_OF_IPV6_ND_TARGET, ip),
            ];
            filters.extend(tracked([NXM_NX_CT_IPV6_SRC, NXM_NX_CT_IPV6_DST], ip));
            filters
        }
        Address::Mac(MacAddr(mac)) => {
            let mut filters = vec![
                Filter::default().exact(OXM_OF_ETH_SRC, &mac),
                Filter::default().exact(OXM_OF_ETH_DST, &mac),
                neighbour(ND_NEIGHBOR_SOLICIT, OXM_OF_IPV6_ND_SLL, &mac),
                neighbour(ND_NEIGHBOR_ADVERT, OXM_OF_IPV6_ND_TLL, &mac),
            ];
            filters.extend(arp([OXM_OF_ARP_SHA, OXM_OF_ARP_THA], &mac));
            filters
        }
    }
}

fn of_type(kind: u16, id: FieldId, value: &[u8]) -> Filter {
    Filter::eth_type(kind).exact(id, value)
}

fn arp(ids: [FieldId; 2], value: &[u8]) -> impl Iterator<Item = Filter> {
    let kinds = [ETH_TYPE_ARP, ETH_TYPE_RARP].into_iter();
    kinds.flat_map(move |kind| ids.map(|id| of_type(kind, id, value)))
}

fn neighbour(kind: u8, id: FieldId, value: &[u8]) -> Filter {
    let icmp = of_type(ETH_TYPE_IPV6, OXM_OF_IP_PROTO, &[IPPROTO_ICMPV6]);
    icmp.exact(OXM_OF_ICMPV6_TYPE, &[kind]).exact(id, value)
}

/// The original tuple may only be matched together with a ct_state that implies there is
/// one: one of these bits set, or tracked and not invalid (OVS, `is_ct_valid`).
fn tracked(ids: [FieldId; 2], ip: &[u8]) -> impl Iterator<Item = Filter> {
    let states = [CS_NEW, CS_ESTABLISHED, CS_RELATED, CS_REPLY_DIR, CS_SRC_NAT, CS_DST_NAT]
        .map(|bit| (bit, bit))
        .into_iter()
        .chain([(CS_TRACKED, CS_TRACKED | CS_INVALID)]);
    states.flat_map(move |(value, mask)| {
        ids.map(|id| Filter::default().masked(NXM_NX_CT_STATE, value, mask).exact(id, ip))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openflow::testing::hex;

    #[test]
    fn a_request_for_everything() {
        let mut body = Vec::new();
        Filter::default().encode(Version::V13, &mut body).unwrap();
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
            ..of_type(ETH_TYPE_IP, OXM_OF_IPV4_SRC, &[10, 244, 1, 5]).masked(
                FieldId { number: 1, ..NXM_NX_REG0 },
                0xfff,
                0xff,
            )
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
