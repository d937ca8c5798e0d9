//! FLOW_MOD: the strict delete and the re-ADD of a dumped entry.

use crate::openflow::codec::entry::RawEntry;
#[cfg(test)]
use crate::openflow::codec::hello::Version;
use crate::openflow::codec::numbers::*;
#[cfg(test)]
use crate::openflow::codec::oxm::read_match;
use crate::openflow::codec::oxm::{Oxm, write_match};
use crate::openflow::codec::wire::{Layout as _, Reader, layout};
use crate::openflow::error::Malformed;

/// The cookie mask of every delete. **Never all ones**: that makes OVS look the flow up by
/// cookie and walk every flow that shares it: 8 ms a delete with 100,000 flows on cookie 0,
/// nine seconds of a frozen switch for a bundle of 1,000. Any other mask uses the
/// classifier, 2 µs. What goes unchecked is the topmost bit.
pub const STRICT_COOKIE_MASK: u64 = 0x7fff_ffff_ffff_ffff;

/// What a FLOW_MOD does with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Deletes it.
    Delete,
    /// Deletes it as 1.0 would have called it; see [`vlan_tci`].
    DeleteVlanTci,
    /// Puts it back.
    Add,
    /// Puts it back though it overlaps others: they may have come after it.
    AddOverlapping,
}

layout! {
    /// The fixed part of a FLOW_MOD (`struct ofp11_flow_mod`; 1.3 has padding for the importance).
    struct FlowMod {
        cookie: u64, cookie_mask: u64, table: u8, command: u8, idle_timeout: u16,
        hard_timeout: u16, priority: u16, buffer: u32, out_port: u32, out_group: u32, flags: u16,
        importance: u16,
    }
}

/// Appends the body of a FLOW_MOD, from the cookie on.
pub(crate) fn encode(
    change: Change,
    entry: &RawEntry<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Malformed> {
    let adding = matches!(change, Change::Add | Change::AddOverlapping);
    let left_out = if change == Change::AddOverlapping { OFPFF_CHECK_OVERLAP } else { 0 };
    let when_adding = |value: u16| if adding { value } else { 0 };
    let head = FlowMod {
        cookie: entry.cookie(),
        cookie_mask: if adding { 0 } else { STRICT_COOKIE_MASK },
        // Always the entry's own: OFPTT_ALL would delete in every one.
        table: entry.table(),
        command: if adding { OFPFC_ADD } else { OFPFC_DELETE_STRICT },
        idle_timeout: when_adding(entry.idle_timeout()),
        hard_timeout: when_adding(entry.hard_timeout()),
        priority: entry.priority(),
        buffer: OFP_NO_BUFFER,
        // Left 0, out_port or out_group would match nothing, without an error.
        out_port: OFPP_ANY,
        out_group: OFPG_ANY,
        flags: when_adding(entry.flags() & !left_out),
        importance: when_adding(entry.importance()),
    };
    head.write(entry.version(), out);
    if change == Change::DeleteVlanTci {
        write_match(&vlan_tci(entry.tlvs())?.ok_or(Malformed::Short("vlan_vid"))?, out)?;
    } else {
        out.extend_from_slice(entry.match_bytes());
    }
    if adding {
        out.extend_from_slice(entry.instruction_bytes());
    }
    Ok(())
}

/// Reads the body of a FLOW_MOD, and writes it again.
#[cfg(test)]
pub(crate) fn recode(
    version: Version,
    r: &mut Reader<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Malformed> {
    let fixed = FlowMod::read(version, r)?;
    let (_, fields) = read_match(r)?;
    crate::openflow::codec::effects::decode(r.rest(), &mut crate::model::flow::Actions::default())?;
    fixed.write(version, out);
    write_match(fields, out)?;
    out.extend_from_slice(r.rest());
    Ok(())
}

/// The match fields of an entry on "untagged" (vlan_vid 0), said as 1.0 does: NXM vlan_tci 0.
///
/// An entry that a 1.0 client made with `vlan_tci=0x0000` (a plain `ovs-ofctl add-flow` is
/// such a client) is shown to 1.3 and later as vlan_vid 0, and a strict delete of that finds
/// nothing. `None` if the match is not on vlan_vid 0.
pub(crate) fn vlan_tci(tlvs: &[u8]) -> Result<Option<Vec<u8>>, Malformed> {
    let mut reader = Reader::new(tlvs);
    let (mut out, mut found) = (Vec::new(), false);
    while !reader.is_empty() {
        let before = reader;
        let oxm = Oxm::read(&mut reader)?;
        match oxm.id {
            OXM_OF_VLAN_VID => {
                if oxm.mask.is_some() || oxm.value != [0, 0] {
                    return Ok(None);
                }
                found = true;
                Oxm { id: NXM_OF_VLAN_TCI, ..oxm }.write(&mut out);
            }
            // Part of the TCI.
            OXM_OF_VLAN_PCP => {}
            _ => out.extend_from_slice(reader.since(before)),
        }
    }
    Ok(found.then_some(out))
}
