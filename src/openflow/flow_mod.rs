//! FLOW_MOD: the strict delete and the re-ADD of a dumped entry.

use super::entry::RawEntry;
use super::error::Malformed;
use super::oxm::{BASIC, NXM0, Oxm};
use super::port;
use super::wire::{self, Reader};

/// The cookie mask of every delete. **Never all ones**: that makes OVS look the flow up by
/// cookie and walk every flow that shares it: 8 ms a delete with 100,000 flows on cookie 0,
/// nine seconds of a frozen switch for a bundle of 1,000. Any other mask uses the
/// classifier, 2 µs. What goes unchecked is the topmost bit.
pub const STRICT_COOKIE_MASK: u64 = 0x7fff_ffff_ffff_ffff;

const ADD: u8 = 0;
const DELETE_STRICT: u8 = 4;
/// OFPFF_CHECK_OVERLAP: refuse to add what overlaps another entry of its priority. OVS
/// remembers that it was asked.
const CHECK_OVERLAP: u16 = 2;
const NO_BUFFER: u32 = 0xffff_ffff;

/// What a FLOW_MOD does with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Deletes it.
    Delete,
    /// Deletes it as 1.0 would have called it; see [`vlan_tci`].
    DeleteVlanTci,
    /// Puts it back.
    Add,
    /// Puts it back though it overlaps others: they may have come after it.
    AddOverlapping,
}

/// Appends the body of a FLOW_MOD, from the cookie on.
pub(super) fn encode(
    change: Change,
    entry: &RawEntry<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Malformed> {
    let adding = matches!(change, Change::Add | Change::AddOverlapping);
    let left_out = if change == Change::AddOverlapping { CHECK_OVERLAP } else { 0 };
    let when_adding = |value: u16| if adding { value } else { 0 };
    let command = if adding { ADD } else { DELETE_STRICT };
    let mask = if adding { 0 } else { STRICT_COOKIE_MASK };
    out.extend_from_slice(&entry.cookie().to_be_bytes());
    out.extend_from_slice(&mask.to_be_bytes());
    // Always the entry's own table: 0xff would delete in every one.
    out.extend_from_slice(&[entry.table(), command]);
    out.extend_from_slice(&when_adding(entry.idle_timeout()).to_be_bytes());
    out.extend_from_slice(&when_adding(entry.hard_timeout()).to_be_bytes());
    out.extend_from_slice(&entry.priority().to_be_bytes());
    out.extend_from_slice(&NO_BUFFER.to_be_bytes());
    // Left 0, out_port or out_group would match nothing, without an error.
    out.extend_from_slice(&port::ANY.to_be_bytes());
    out.extend_from_slice(&port::ANY.to_be_bytes());
    out.extend_from_slice(&when_adding(entry.flags() & !left_out).to_be_bytes());
    out.extend_from_slice(&when_adding(entry.importance()).to_be_bytes());
    match change {
        Change::DeleteVlanTci => {
            let matches = vlan_tci(entry.tlvs())?.ok_or(Malformed::Short("vlan_vid"))?;
            out.extend_from_slice(&matches);
        }
        Change::Delete | Change::Add | Change::AddOverlapping => {
            out.extend_from_slice(entry.match_bytes());
        }
    }
    if adding {
        out.extend_from_slice(entry.instruction_bytes());
    }
    Ok(())
}

/// The match of an entry on "untagged" (vlan_vid 0), said as 1.0 does: NXM vlan_tci 0.
///
/// An entry that a 1.0 client made with `vlan_tci=0x0000` (a plain `ovs-ofctl add-flow` is
/// such a client) is shown to 1.3 and later as vlan_vid 0, and a strict delete of that finds
/// nothing. `None` if the match is not on vlan_vid 0.
pub(super) fn vlan_tci(tlvs: &[u8]) -> Result<Option<Vec<u8>>, Malformed> {
    let mut reader = Reader::new(tlvs);
    let mut out = vec![0, 1, 0, 0];
    let mut found = false;
    while !reader.is_empty() {
        let before = reader.rest();
        let oxm = Oxm::read(&mut reader)?;
        let whole = before.len().saturating_sub(reader.left());
        match (oxm.id.class, oxm.id.number) {
            (BASIC, 6) => {
                if oxm.mask.is_some() || oxm.value != [0, 0] {
                    return Ok(None);
                }
                found = true;
                out.extend_from_slice(&NXM0.to_be_bytes());
                out.extend_from_slice(&[4 << 1, 2, 0, 0]);
            }
            // Part of the TCI.
            (BASIC, 7) => {}
            _ => out.extend_from_slice(before.get(..whole).unwrap_or_default()),
        }
    }
    if !found {
        return Ok(None);
    }
    let length = out.len();
    let short = u16::try_from(length).map_err(|_| Malformed::TooLong(length))?;
    if let Some(slot) = out.get_mut(2..4) {
        slot.copy_from_slice(&short.to_be_bytes());
    }
    out.resize(length.saturating_add(wire::padding(length)), 0);
    Ok(Some(out))
}
