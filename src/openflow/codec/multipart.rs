//! Multipart messages: their header, and what they tell of tables, ports and the switch itself.

use crate::openflow::codec::hello::Version;
use crate::openflow::codec::numbers::*;
use crate::openflow::codec::port;
use crate::openflow::codec::wire::{Layout as _, Reader, layout};
use crate::openflow::error::Malformed;

layout! {
    /// What they begin with (`struct ofp11_stats_msg`).
    struct Multipart { kind: u16, flags: u16 [4] }
}

/// Appends a request's header.
pub(crate) fn request(kind: u16, version: Version, out: &mut Vec<u8>) {
    Multipart { kind, flags: 0 }.write(version, out);
}

/// Reads a reply's header; whether more parts follow.
pub(crate) fn reply(kind: u16, version: Version, r: &mut Reader<'_>) -> Result<bool, Malformed> {
    let header = Multipart::read(version, r)?;
    if header.kind != kind {
        return Err(Malformed::Unexpected("multipart type"));
    }
    Ok(header.flags & OFPMPF_REPLY_MORE != 0)
}

layout! {
    /// 1.5 asks for one port (`struct ofp15_port_desc_request`) or group (`struct
    /// ofp15_group_desc_request`) or, as here, any. Older versions do not say.
    pub(crate) struct Which { number: u32 }
    V13 | V14 => ;
    V15 => number [4];
}

layout! {
    /// How many entries a table has (`struct ofp13_table_stats`).
    pub(crate) struct TableStats { table: u8 [3], active: u32 [16] }
}

layout! {
    /// A port (`struct ofp11_port`, `struct ofp14_port`).
    pub(crate) struct Port { number: u32, length: u16, name: [u8; 16] }
    V13 => number [12], name;
    V14 | V15 => number, length [10], name;
}

impl Port {
    fn size(&self, version: Version) -> usize {
        if version == Version::V13 { OFP13_PORT_LEN } else { self.length.into() }
    }

    /// Reads one, and skips what we do not need.
    pub(crate) fn next(version: Version, r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let size = Self::read(version, &mut r.clone())?.size(version);
        Self::read(version, &mut r.sub(size, "port")?)
    }

    #[cfg(test)]
    pub(crate) fn write_whole(self, version: Version, out: &mut Vec<u8>) {
        let end = out.len() + self.size(version);
        self.write(version, out);
        out.resize(end, 0);
    }

    /// Number and name, if it has a number that OVS can have.
    pub(crate) fn named(&self) -> Option<(u16, String)> {
        port::from_wire(self.number).map(|number| (number, text(&self.name)))
    }
}

/// Reads what the switch says of itself (`struct ofp_desc_stats`): its software's version.
pub(crate) fn read_software(r: &mut Reader<'_>) -> Result<String, Malformed> {
    r.take(2 * DESC_STR_LEN, "manufacturer and hardware")?;
    let software = r.take(DESC_STR_LEN, "software description")?;
    r.take(SERIAL_NUM_LEN + DESC_STR_LEN, "serial number and datapath description")?;
    Ok(text(software))
}

#[cfg(test)]
pub(crate) fn write_software(software: &str, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + 2 * DESC_STR_LEN, 0);
    out.extend(software.bytes());
    out.resize(start + 4 * DESC_STR_LEN + SERIAL_NUM_LEN, 0);
}

/// Text up to the first zero.
fn text(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}
