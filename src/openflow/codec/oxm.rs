//! Match fields: OXM and NXM TLVs, and which of them could be a pod's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::model::flow::{Address, AddressMatch, MacAddr, Match, RegisterMatch, Side};
use crate::openflow::codec::numbers::*;
use crate::openflow::codec::port;
use crate::openflow::codec::wire::{Reader, Value as _, padding, short};
use crate::openflow::error::Malformed;

/// A field's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FieldId {
    pub(crate) class: u16,
    pub(crate) number: u8,
    /// 0 unless the class is [`OFPXMC_EXPERIMENTER`].
    pub(crate) experimenter: u32,
}

impl FieldId {
    pub(crate) const fn of(class: u16, number: u8) -> Self {
        Self { class, number, experimenter: 0 }
    }

    /// The field of the same number in the ONF's extension.
    pub(crate) const fn of_the_onf(self) -> Self {
        Self { class: OFPXMC_EXPERIMENTER, number: self.number, experimenter: ONF_VENDOR_ID }
    }

    /// Which of `count` fields with consecutive numbers it is.
    pub(crate) fn index_among(self, first: Self, count: u8) -> Option<u8> {
        let index = self.number.checked_sub(first.number).filter(|index| *index < count);
        index.filter(|_| self.class == first.class)
    }
}

/// A TLV's header, as it stands alone in actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) id: FieldId,
    pub(crate) masked: bool,
    /// Of value and mask together.
    pub(crate) length: usize,
}

impl Header {
    #[inline]
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let class = reader.u16("field class")?;
        let [field, length] = reader.array("field header")?;
        let mut length = usize::from(length);
        let mut experimenter = 0;
        if class == OFPXMC_EXPERIMENTER {
            // Counted in the length.
            experimenter = reader.u32("field experimenter")?;
            length = length
                .checked_sub(OXM_EXPERIMENTER_LEN)
                .ok_or(Malformed::Length { field: "experimenter field", value: 0 })?;
        }
        let id = FieldId { class, number: field >> 1, experimenter };
        Ok(Self { id, masked: field & 1 == 1, length })
    }

    fn write(self, out: &mut Vec<u8>) {
        let Self { id, masked, length } = self;
        let experimenter = id.class == OFPXMC_EXPERIMENTER;
        let more = if experimenter { OXM_EXPERIMENTER_LEN } else { 0 };
        let length = u8::try_from(length.saturating_add(more)).unwrap_or(0);
        id.class.write(out);
        [id.number << 1 | u8::from(masked), length].write(out);
        if experimenter {
            id.experimenter.write(out);
        }
    }
}

/// One field with its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Oxm<'a> {
    pub(crate) id: FieldId,
    pub(crate) value: &'a [u8],
    /// `None`: exact.
    pub(crate) mask: Option<&'a [u8]>,
}

impl<'a> Oxm<'a> {
    #[inline]
    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        let header = Header::read(reader)?;
        let mut payload = reader.sub(header.length, "field value")?;
        if !header.masked {
            return Ok(Self { id: header.id, value: payload.rest(), mask: None });
        }
        let width = header.length / 2;
        let value = payload.take(width, "field value")?;
        let mask = payload.take(width, "field mask")?;
        if !payload.is_empty() {
            let value = u32::try_from(header.length).unwrap_or(u32::MAX);
            return Err(Malformed::Length { field: "masked field", value });
        }
        // All ones is as good as none.
        let mask = Some(mask).filter(|mask| mask.iter().any(|byte| *byte != 0xff));
        Ok(Self { id: header.id, value, mask })
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let mask = self.mask.unwrap_or_default();
        let length = self.value.len().saturating_add(mask.len());
        Header { id: self.id, masked: self.mask.is_some(), length }.write(out);
        out.extend_from_slice(self.value);
        out.extend_from_slice(mask);
    }

    /// The value if it is `N` bytes, all of them compared.
    fn exact<const N: usize>(&self) -> Option<[u8; N]> {
        if self.mask.is_some() { None } else { self.value.try_into().ok() }
    }

    /// Value and mask as numbers.
    #[inline]
    pub(crate) fn number(&self) -> Option<(u128, u128)> {
        let width = u32::try_from(self.value.len()).ok().filter(|n| (1..=16).contains(n))?;
        let number =
            |bytes: &[u8]| bytes.iter().fold(0_u128, |sum, byte| sum << 8 | u128::from(*byte));
        let ones = u128::MAX >> 128_u32.saturating_sub(width.saturating_mul(8));
        Some((number(self.value), self.mask.map_or(ones, number)))
    }
}

/// Reads a match (`struct ofp11_match_header`): all of it, padding included, and its fields.
pub(crate) fn read_match<'a>(r: &mut Reader<'a>) -> Result<(&'a [u8], &'a [u8]), Malformed> {
    let start = *r;
    if r.u16("match type")? != OFPMT_OXM {
        return Err(Malformed::Unexpected("match type"));
    }
    let length = usize::from(r.u16("match length")?);
    let size = length
        .checked_sub(OFP_MATCH_HEADER_LEN)
        .ok_or(Malformed::Length { field: "match", value: 0 })?;
    let fields = r.take(size, "match")?;
    r.take(padding(length), "match padding")?;
    Ok((r.since(start), fields))
}

/// Appends a match with these fields.
pub(crate) fn write_match(fields: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    let length = fields.len().saturating_add(OFP_MATCH_HEADER_LEN);
    OFPMT_OXM.write(out);
    short(length)?.write(out);
    out.extend_from_slice(fields);
    out.resize(out.len().saturating_add(padding(length)), 0);
    Ok(())
}

/// The registers a field is made of: the first one's index, and how many. The first is the
/// most significant: reg0 is the top 32 bits of xreg0 and of xxreg0.
#[inline]
pub(crate) fn registers(id: FieldId) -> Option<(u8, u8)> {
    let among = |first, count, registers| {
        id.index_among(first, count).map(|index| (index.saturating_mul(registers), registers))
    };
    among(NXM_NX_REG0, 16, 1)
        .or_else(|| among(OXM_OF_PKT_REG0, 8, 2))
        .or_else(|| among(NXM_NX_XXREG0, 4, 4))
}

/// Splits bits of such a field (number form) by register: index, its 32 bits of each of
/// `value` and `mask`. Registers with an empty mask are left out.
pub(crate) fn split(
    (first, count): (u8, u8),
    value: u128,
    mask: u128,
) -> impl Iterator<Item = (u8, u32, u32)> {
    (0..count).filter_map(move |k| {
        let shift = u32::from(count - 1 - k) * 32;
        let part = |bits: u128| u32::try_from(bits >> shift & 0xffff_ffff).unwrap_or(0);
        let mask_part = part(mask);
        (mask_part != 0).then(|| (first + k, part(value) & mask_part, mask_part))
    })
}

/// Bits `offset .. offset + count`.
pub(crate) fn bits(offset: u32, count: u32) -> u128 {
    let ones = if count >= 128 { u128::MAX } else { (1_u128 << count) - 1 };
    ones.checked_shl(offset).unwrap_or(0)
}

/// The tunnel's far end or key.
pub(crate) fn is_tunnel_target(id: FieldId) -> bool {
    matches!(id, OXM_OF_TUNNEL_ID | NXM_NX_TUN_ID | NXM_NX_TUN_IPV4_DST | NXM_NX_TUN_IPV6_DST)
}

/// vlan_vid, or vlan_tci, whose low bits are the same.
pub(crate) fn is_vlan(id: FieldId) -> bool {
    matches!(id, OXM_OF_VLAN_VID | NXM_OF_VLAN_TCI)
}

/// The VLAN in such a field, if these bits say which. Zero is that of untagged packets.
pub(crate) fn vlan(value: u128, mask: u128) -> Option<u16> {
    let all = u128::from(VLAN_VID_MASK);
    let id = u16::try_from(value & all).ok().filter(|id| *id != 0);
    id.filter(|_| mask & all == all)
}

/// Where a packet goes.
pub(crate) fn is_destination(id: FieldId) -> bool {
    const V4: [FieldId; 2] = [OXM_OF_IPV4_DST, NXM_OF_IP_DST];
    const V6: [FieldId; 2] = [OXM_OF_IPV6_DST, NXM_NX_IPV6_DST];
    matches!(id, OXM_OF_ETH_DST | NXM_OF_ETH_DST) || V4.contains(&id) || V6.contains(&id)
}

pub(crate) fn is_in_port(id: FieldId) -> bool {
    matches!(id, OXM_OF_IN_PORT | NXM_OF_IN_PORT)
}

/// What an exact field says about whom.
enum Meaning {
    InPort(u16),
    Address(Address, Side),
    NdTarget(Address),
    Icmp6Type([u8; 1]),
}

fn meaning(oxm: &Oxm<'_>) -> Option<Meaning> {
    use Side::{Destination, Source, Unknown};
    let mac = |side| oxm.exact().map(|bytes| Meaning::Address(Address::Mac(MacAddr(bytes)), side));
    let v4 = |side| {
        let ip = oxm.exact::<4>().map(|bytes| Address::Ip(IpAddr::V4(Ipv4Addr::from(bytes))));
        ip.map(|ip| Meaning::Address(ip, side))
    };
    let ip6 = || oxm.exact::<16>().map(|bytes| Address::Ip(IpAddr::V6(Ipv6Addr::from(bytes))));
    let v6 = |side| ip6().map(|ip| Meaning::Address(ip, side));
    match oxm.id {
        OXM_OF_IN_PORT => {
            let number = u32::from_be_bytes(oxm.exact()?);
            port::from_wire(number).map(Meaning::InPort)
        }
        NXM_OF_IN_PORT => oxm.exact().map(u16::from_be_bytes).map(Meaning::InPort),
        OXM_OF_ETH_DST | NXM_OF_ETH_DST => mac(Destination),
        OXM_OF_ETH_SRC | NXM_OF_ETH_SRC => mac(Source),
        OXM_OF_IPV4_SRC | NXM_OF_IP_SRC => v4(Source),
        OXM_OF_IPV4_DST | NXM_OF_IP_DST => v4(Destination),
        OXM_OF_ARP_SPA | NXM_OF_ARP_SPA => v4(Source),
        OXM_OF_ARP_TPA | NXM_OF_ARP_TPA => v4(Destination),
        OXM_OF_ARP_SHA | NXM_NX_ARP_SHA => mac(Source),
        OXM_OF_ARP_THA | NXM_NX_ARP_THA => mac(Destination),
        OXM_OF_IPV6_SRC | NXM_NX_IPV6_SRC => v6(Source),
        OXM_OF_IPV6_DST | NXM_NX_IPV6_DST => v6(Destination),
        OXM_OF_ICMPV6_TYPE | NXM_NX_ICMPV6_TYPE => oxm.exact::<1>().map(Meaning::Icmp6Type),
        OXM_OF_IPV6_ND_TARGET | NXM_NX_ND_TARGET => ip6().map(Meaning::NdTarget),
        OXM_OF_IPV6_ND_SLL | NXM_NX_ND_SLL => mac(Source),
        OXM_OF_IPV6_ND_TLL | NXM_NX_ND_TLL => mac(Source),
        // The connection's original tuple: either end may have sent this packet.
        NXM_NX_CT_NW_SRC | NXM_NX_CT_NW_DST => v4(Unknown),
        NXM_NX_CT_IPV6_SRC | NXM_NX_CT_IPV6_DST => v6(Unknown),
        _ => None,
    }
}

/// Reads the TLVs of a match. Fields we do not know are skipped by their length: the flow
/// is then condemned by what we do know, or not at all.
pub(crate) fn decode(tlvs: &[u8], into: &mut Match) -> Result<(), Malformed> {
    into.in_port = None;
    into.vlan = None;
    into.registers.clear();
    into.addresses.clear();
    let mut icmp6_type = None;
    let mut target = None;
    let mut reader = Reader::new(tlvs);
    while !reader.is_empty() {
        let oxm = Oxm::read(&mut reader)?;
        if let Some(at) = registers(oxm.id) {
            let width = usize::from(at.1) * 4;
            if let Some((value, mask)) = oxm.number().filter(|_| oxm.value.len() == width) {
                let parts = split(at, value, mask);
                let of = |(index, value, mask)| RegisterMatch { index, value, mask };
                into.registers.extend(parts.map(of));
            }
            continue;
        }
        if is_vlan(oxm.id)
            && let Some((value, mask)) = oxm.number()
        {
            into.vlan = vlan(value, mask);
        }
        match meaning(&oxm) {
            Some(Meaning::InPort(port)) => into.in_port = Some(port),
            Some(Meaning::Address(address, side)) => {
                into.addresses.push(AddressMatch { address, side });
            }
            Some(Meaning::Icmp6Type(kind)) => icmp6_type = Some(kind),
            Some(Meaning::NdTarget(address)) => target = Some(address),
            None => {}
        }
    }
    if let Some(address) = target {
        let side = match icmp6_type {
            Some([ND_NEIGHBOR_SOLICIT]) => Side::Destination,
            Some([ND_NEIGHBOR_ADVERT]) => Side::Source,
            _ => Side::Unknown,
        };
        into.addresses.push(AddressMatch { address, side });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openflow::testing::hex;

    fn matches(tlvs: &str) -> Match {
        let mut matches = Match::default();
        decode(&hex(tlvs), &mut matches).unwrap();
        matches
    }

    fn one(tlvs: &str) -> (String, Side) {
        let found = matches(tlvs).addresses;
        assert_eq!(found.len(), 1, "{tlvs}");
        (found[0].address.to_string(), found[0].side)
    }

    #[test]
    fn golden_vectors() {
        let v13 = matches("80000a02 0800 80001604 0af40105 00010004 00001005");
        assert_eq!(v13.registers, [RegisterMatch { index: 0, value: 0x1005, mask: u32::MAX }]);
        assert_eq!(v13.addresses.len(), 1);
        let v15 =
            matches("80000a02 0800 80001604 0af40105 80010110 0000100500000000 ffffffff00000000");
        assert_eq!(v15, v13);
    }

    #[test]
    fn every_address_field_in_both_forms() {
        use Side::{Destination, Source, Unknown};
        let mac = "0a0000000001";
        let ip4 = "0af40105";
        let ip6 = "fd000000000000000000000000000005";
        for (headers, value, text, side) in [
            (&["80000606", "00000206"], mac, "0a:00:00:00:00:01", Destination),
            (&["80000806", "00000406"], mac, "0a:00:00:00:00:01", Source),
            (&["80001604", "00000e04"], ip4, "10.244.1.5", Source),
            (&["80001804", "00001004"], ip4, "10.244.1.5", Destination),
            (&["80002c04", "00002004"], ip4, "10.244.1.5", Source),
            (&["80002e04", "00002204"], ip4, "10.244.1.5", Destination),
            (&["80003006", "00012206"], mac, "0a:00:00:00:00:01", Source),
            (&["80003206", "00012406"], mac, "0a:00:00:00:00:01", Destination),
            (&["80003410", "00012610"], ip6, "fd00::5", Source),
            (&["80003610", "00012810"], ip6, "fd00::5", Destination),
            (&["80004006", "00013006"], mac, "0a:00:00:00:00:01", Source),
            (&["80004206", "00013206"], mac, "0a:00:00:00:00:01", Source),
            (&["0001f004", "0001f204"], ip4, "10.244.1.5", Unknown),
            (&["0001f410", "0001f610"], ip6, "fd00::5", Unknown),
            (&["80003e10", "00012e10"], ip6, "fd00::5", Unknown),
            (&["80003a01 87 80003e10", "00012a01 87 00012e10"], ip6, "fd00::5", Destination),
            (&["80003a01 88 80003e10", "00012a01 88 00012e10"], ip6, "fd00::5", Source),
        ] {
            for header in headers {
                assert_eq!(one(&format!("{header} {value}")), (text.to_owned(), side), "{header}");
            }
        }
    }

    #[test]
    fn a_masked_address_is_nobodys_and_all_ones_is_exact() {
        assert!(matches("80001708 0af40100 ffffff00").addresses.is_empty());
        assert_eq!(one("80001708 0af40105 ffffffff").0, "10.244.1.5");
        assert!(matches("8000070c 0100 00000000 0100 00000000").addresses.is_empty());
        // A width that is not the field's own.
        assert!(matches("80001602 0af4").addresses.is_empty());
    }

    #[test]
    fn ports() {
        assert_eq!(matches("80000004 00000005").in_port, Some(5));
        assert_eq!(matches("80000004 fffffffe").in_port, Some(OFPP_LOCAL));
        assert_eq!(matches("00000002 0005").in_port, Some(5));
        assert_eq!(matches("80000004 0001ffff").in_port, None);
    }

    #[test]
    fn vlans() {
        assert_eq!(matches("80000c02 10c8").vlan, Some(200), "dl_vlan=200");
        assert_eq!(matches("80000d04 10c8 1fff").vlan, Some(200));
        assert_eq!(matches("00000904 10c8 1fff").vlan, Some(200), "vlan_tci");
        assert_eq!(matches("00000802 60c8").vlan, Some(200), "vlan_tci with a priority");
        for (name, none) in [
            ("untagged", "80000c02 0000"),
            ("tagged", "80000d04 1000 1000"),
            ("some", "80000d04 1080 1f80"),
            ("vlan_tci=0", "00000802 0000"),
            ("no VLAN", "80000004 00000005"),
        ] {
            assert_eq!(matches(none).vlan, None, "{name}");
        }
    }

    #[test]
    fn registers_in_all_sizes() {
        let r = |index, value, mask| RegisterMatch { index, value, mask };
        assert_eq!(matches("00011e04 00000007").registers, [r(15, 7, u32::MAX)]);
        assert_eq!(matches("00010108 00000005 0000ffff").registers, [r(0, 5, 0xffff)]);
        assert_eq!(
            matches("80010208 00000001 00000002").registers,
            [r(2, 1, u32::MAX), r(3, 2, u32::MAX)]
        );
        assert_eq!(
            matches("80010110 0000000000000009 00000000000000ff").registers,
            [r(1, 9, 0xff)]
        );
        assert_eq!(
            matches("0001de10 00000001 00000002 00000003 00000004").registers,
            [r(0, 1, !0), r(1, 2, !0), r(2, 3, !0), r(3, 4, !0)]
        );
        // xreg8 (OVS 3.7) is reg16 and reg17, which nobody here uses.
        assert!(matches("80011008 00000001 00000002").registers.is_empty());
    }

    #[test]
    fn unknown_fields_are_skipped() {
        let tcp_flags = "ffff5406 4f4e4600 0012";
        let nsh = "ffff0205 005ad650 07";
        let future = "9000fe03 010203";
        let found = matches(&format!("{tcp_flags} {nsh} {future} 80001604 0af40105"));
        assert_eq!(found.addresses.len(), 1);
    }

    #[test]
    fn crooked_tlvs_are_errors() {
        for bad in ["80001707 00000000000000", "ffff0202 00000000"] {
            assert!(decode(&hex(bad), &mut Match::default()).is_err(), "{bad}");
        }
    }
}
