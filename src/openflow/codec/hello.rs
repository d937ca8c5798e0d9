//! Agreeing on a version. The switch talks first, so we read its set, pick one and offer
//! exactly that one.

use crate::model::text::text_enum;
use crate::openflow::codec::numbers::*;
use crate::openflow::codec::wire::{Reader, Value as _, message, padding};
use crate::openflow::error::Malformed;

text_enum! {
    /// A version of OpenFlow that we speak.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub enum Version {
        /// 1.3, wire version 4.
        V13 = "OpenFlow13",
        /// 1.4, wire version 5.
        V14 = "OpenFlow14",
        /// 1.5, wire version 6.
        V15 = "OpenFlow15",
    }
}

impl Version {
    /// As in a message's header.
    #[must_use]
    pub fn wire(self) -> u8 {
        match self {
            Self::V13 => OFP13_VERSION,
            Self::V14 => OFP14_VERSION,
            Self::V15 => OFP15_VERSION,
        }
    }
}

/// The wire versions that a switch speaks: bit n is version n.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Versions(u32);

impl Versions {
    /// Reads a HELLO: its header's version and its body.
    pub(crate) fn parse(header: u8, body: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        while !reader.is_empty() {
            let kind = reader.u16("hello element")?;
            let length = reader.u16("hello element")?;
            let size = usize::from(length)
                .checked_sub(OFP_HELLO_ELEM_HEADER_LEN)
                .ok_or(Malformed::Length { field: "hello element", value: length.into() })?;
            let mut element = reader.sub(size, "hello element")?;
            if kind == OFPHET_VERSIONBITMAP {
                // One word covers versions 0 to 31.
                return element.u32("version bitmap").map(Self);
            }
            // The last element's padding may be missing.
            let behind = padding(length.into()).min(reader.left());
            reader.take(behind, "hello padding")?;
        }
        // No bitmap: "this version and every earlier one" (OVS omits it when that is so).
        Ok(Self(u32::MAX.checked_shl(u32::from(header) + 1).map_or(u32::MAX, |high| !high) & !1))
    }

    /// Appends a HELLO's body.
    pub(crate) fn write(self, out: &mut Vec<u8>) {
        OFPHET_VERSIONBITMAP.write(out);
        OFPHET_VERSIONBITMAP_LEN.write(out);
        self.0.write(out);
    }

    fn has(self, version: u8) -> bool {
        self.0.checked_shr(version.into()).is_some_and(|bits| bits & 1 == 1)
    }

    /// 1.4 first; 1.5 last: its dumps are a third bigger.
    pub(crate) fn best(self) -> Option<Version> {
        [Version::V14, Version::V13, Version::V15].into_iter().find(|v| self.has(v.wire()))
    }

    pub(crate) fn only_10(self) -> bool {
        self.0 & !1 == 1 << OFP10_VERSION
    }

    pub(crate) fn list(self) -> Vec<u8> {
        (1..32).filter(|v| self.has(*v)).collect()
    }
}

/// Our HELLO, and the FEATURES_REQUEST that must follow it: while a client has sent none,
/// OVS takes it for one that wants table misses and diverts them to userspace.
pub(crate) fn greeting(version: Version, xids: [u32; 2]) -> Result<Vec<u8>, Malformed> {
    let [hello, features] = xids;
    let mut out = Vec::with_capacity(24);
    message(&mut out, version, OFPT_HELLO, hello, |out| {
        Versions(1 << version.wire()).write(out);
        Ok(())
    })?;
    message(&mut out, version, OFPT_FEATURES_REQUEST, features, |_| Ok(()))?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openflow::testing::hex;

    fn versions(message: &str) -> Versions {
        let bytes = hex(message);
        Versions::parse(bytes[0], &bytes[8..]).unwrap()
    }

    #[test]
    fn hellos_of_ovs() {
        let all = versions("06000008 00000001");
        assert_eq!((all.list(), all.best()), (vec![1, 2, 3, 4, 5, 6], Some(Version::V14)));
        let sdn = versions("04000010 00000001 00010008 00000010");
        assert_eq!((sdn.list(), sdn.best()), (vec![4], Some(Version::V13)));
        let antrea = versions("06000010 00000001 00010008 00000042");
        assert_eq!((antrea.list(), antrea.best()), (vec![1, 6], Some(Version::V15)));
        let old = versions("01000008 00000001");
        assert!(old.only_10() && old.best().is_none());
        let odd = versions("03000008 00000001");
        assert!(!odd.only_10() && odd.best().is_none());
        assert_eq!(versions("ff000008 00000001").best(), Some(Version::V14));
    }

    #[test]
    fn unknown_elements_are_skipped_and_short_ones_refused() {
        assert_eq!(
            versions("06000018 00000001 00090007 aabbcc00 00010008 00000040").best(),
            Some(Version::V15)
        );
        for bad in ["0001", "0001 0003 00000000", "0001 0008 0000"] {
            assert!(Versions::parse(6, &hex(bad)).is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_hellos_never_panic(header: u8, body: Vec<u8>) {
            if let Ok(versions) = Versions::parse(header, &body) {
                versions.best();
                versions.list();
            }
        }
    }

    #[test]
    fn our_greeting() {
        assert_eq!(
            greeting(Version::V13, [1, 2]).unwrap(),
            hex("04000010 00000001 00010008 00000010 04050008 00000002")
        );
    }
}
