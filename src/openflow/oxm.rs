//! Match fields: OXM and NXM TLVs, and which of them could be a pod's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::error::Malformed;
use super::port;
use super::wire::Reader;
use crate::stale::flow::{Address, AddressMatch, MacAddr, Match, RegisterMatch, Side};

/// OXM_CLASS_OPENFLOW_BASIC.
pub(super) const BASIC: u16 = 0x8000;
/// OXM_CLASS_PACKET_REGS: xreg0 to xreg7.
pub(super) const PACKET_REGS: u16 = 0x8001;
/// NXM_OF, the fields of OpenFlow 1.0.
pub(super) const NXM0: u16 = 0x0000;
/// NXM_NX, Nicira's.
pub(super) const NXM1: u16 = 0x0001;
/// An experimenter's number follows the header.
pub(super) const EXPERIMENTER: u16 = 0xffff;

/// A field's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FieldId {
    pub(super) class: u16,
    pub(super) number: u8,
    /// 0 unless the class is [`EXPERIMENTER`].
    pub(super) experimenter: u32,
}

/// A TLV's header, as it stands alone in actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) id: FieldId,
    pub(super) masked: bool,
    /// Of value and mask together.
    pub(super) length: usize,
}

impl Header {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let class = reader.u16("field class")?;
        let [field, length] = reader.array("field header")?;
        let mut length = usize::from(length);
        let mut experimenter = 0;
        if class == EXPERIMENTER {
            // Counted in the length.
            experimenter = reader.u32("field experimenter")?;
            length = length
                .checked_sub(4)
                .ok_or(Malformed::Length { field: "experimenter field", value: 0 })?;
        }
        let id = FieldId { class, number: field >> 1, experimenter };
        Ok(Self { id, masked: field & 1 == 1, length })
    }
}

/// One field with its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Oxm<'a> {
    pub(super) id: FieldId,
    pub(super) value: &'a [u8],
    /// `None`: exact.
    pub(super) mask: Option<&'a [u8]>,
}

impl<'a> Oxm<'a> {
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
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

    /// The value if it is `N` bytes, all of them compared.
    fn exact<const N: usize>(&self) -> Option<[u8; N]> {
        if self.mask.is_some() { None } else { self.value.try_into().ok() }
    }

    /// Value and mask as numbers.
    pub(super) fn number(&self) -> Option<(u128, u128)> {
        let width = u32::try_from(self.value.len()).ok().filter(|n| (1..=16).contains(n))?;
        let number =
            |bytes: &[u8]| bytes.iter().fold(0_u128, |sum, byte| sum << 8 | u128::from(*byte));
        let ones = u128::MAX >> 128_u32.saturating_sub(width.saturating_mul(8));
        Some((number(self.value), self.mask.map_or(ones, number)))
    }
}

/// The registers a field is made of: the first one's index, and how many. The first is the
/// most significant: reg0 is the top 32 bits of xreg0 and of xxreg0.
pub(super) fn registers(id: FieldId) -> Option<(u8, u8)> {
    match (id.class, id.number) {
        (NXM1, n @ 0..=15) => Some((n, 1)),
        (PACKET_REGS, n @ 0..=7) => Some((n * 2, 2)),
        (NXM1, n @ 111..=114) => Some(((n - 111) * 4, 4)),
        _ => None,
    }
}

/// Splits bits of such a field (number form) by register: index, its 32 bits of each of
/// `value` and `mask`. Registers with an empty mask are left out.
pub(super) fn split(
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
pub(super) fn bits(offset: u32, count: u32) -> u128 {
    let ones = if count >= 128 { u128::MAX } else { (1_u128 << count) - 1 };
    ones.checked_shl(offset).unwrap_or(0)
}

/// The tunnel's far end or key.
pub(super) fn is_tunnel_target(id: FieldId) -> bool {
    matches!((id.class, id.number), (BASIC, 38) | (NXM1, 16 | 32 | 110))
}

/// vlan_vid, or vlan_tci, whose low bits are the same.
pub(super) fn is_vlan(id: FieldId) -> bool {
    matches!((id.class, id.number), (BASIC, 6) | (NXM0, 4))
}

/// The VLAN in such a field, if these bits say which. Zero is that of untagged packets.
pub(super) fn vlan(value: u128, mask: u128) -> Option<u16> {
    let id = u16::try_from(value & 0xfff).ok().filter(|id| *id != 0);
    id.filter(|_| mask & 0xfff == 0xfff)
}

/// dl_dst, nw_dst, ipv6_dst: where a packet goes.
pub(super) fn is_destination(id: FieldId) -> bool {
    matches!((id.class, id.number), (BASIC, 3 | 12 | 27) | (NXM0, 1 | 8) | (NXM1, 20))
}

pub(super) fn is_in_port(id: FieldId) -> bool {
    matches!((id.class, id.number), (BASIC | NXM0, 0))
}

/// What an exact field says about whom.
enum Meaning {
    InPort(u16),
    Address(Address, Side),
    NdTarget(Address),
    Icmp6Type(u8),
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
    match (oxm.id.class, oxm.id.number) {
        (BASIC, 0) => {
            let number = u32::from_be_bytes(oxm.exact()?);
            port::from_wire(number).map(Meaning::InPort)
        }
        (NXM0, 0) => oxm.exact().map(u16::from_be_bytes).map(Meaning::InPort),
        (BASIC, 3) | (NXM0, 1) => mac(Destination),
        (BASIC, 4) | (NXM0, 2) => mac(Source),
        (BASIC, 11) | (NXM0, 7) => v4(Source),
        (BASIC, 12) | (NXM0, 8) => v4(Destination),
        (BASIC, 22) | (NXM0, 16) => v4(Source),
        (BASIC, 23) | (NXM0, 17) => v4(Destination),
        (BASIC, 24) | (NXM1, 17) => mac(Source),
        (BASIC, 25) | (NXM1, 18) => mac(Destination),
        (BASIC, 26) | (NXM1, 19) => v6(Source),
        (BASIC, 27) | (NXM1, 20) => v6(Destination),
        (BASIC, 29) | (NXM1, 21) => oxm.exact().map(|[kind]| Meaning::Icmp6Type(kind)),
        (BASIC, 31) | (NXM1, 23) => ip6().map(Meaning::NdTarget),
        (BASIC, 32) | (NXM1, 24) => mac(Source),
        (BASIC, 33) | (NXM1, 25) => mac(Source),
        // The connection's original tuple: either end may have sent this packet.
        (NXM1, 120 | 121) => v4(Unknown),
        (NXM1, 122 | 123) => v6(Unknown),
        _ => None,
    }
}

/// Reads the TLVs of a match. Fields we do not know are skipped by their length: the flow
/// is then condemned by what we do know, or not at all.
pub(super) fn decode(tlvs: &[u8], into: &mut Match) -> Result<(), Malformed> {
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
                into.registers.extend(parts.map(|(index, value, mask)| RegisterMatch {
                    index,
                    value,
                    mask,
                }));
            }
            continue;
        }
        if let Some((value, mask)) = oxm.number().filter(|_| is_vlan(oxm.id)) {
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
            Some(135) => Side::Destination,
            Some(136) => Side::Source,
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
        assert_eq!(matches("80000004 fffffffe").in_port, Some(port::LOCAL));
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
    fn cut_and_crooked_tlvs_are_errors() {
        let whole = hex("80000a02 0800 80001708 0af40105 ffffff00 ffff5406 4f4e4600 0012");
        let ends = [0, 6, 18, 28];
        for cut in 0..whole.len() {
            let done = decode(&whole[..cut], &mut Match::default());
            assert_eq!(done.is_ok(), ends.contains(&cut), "{cut}");
        }
        for bad in ["80001707 00000000000000", "ffff0202 00000000"] {
            assert!(decode(&hex(bad), &mut Match::default()).is_err(), "{bad}");
        }
    }
}
