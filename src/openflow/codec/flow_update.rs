//! The messages of flow monitors: requests and updates (see `monitor.rs`).

use crate::openflow::client::monitor::What;
use crate::openflow::codec::hello::Version;
use crate::openflow::codec::multipart;
use crate::openflow::codec::numbers::*;
use crate::openflow::codec::oxm::{read_match, write_match};
use crate::openflow::codec::wire::{Layout as _, Reader, Value as _, layout, padding};
use crate::openflow::error::Malformed;

layout! {
    /// One monitor in a request: of every table, every match, every output.
    /// (`struct onf_flow_monitor_request`, `struct ofp14_flow_monitor_request`.)
    struct Request {
        id: u32, flags: u16, match_length: u16, out_port: u32, out_group: u32, table: u8,
        command: u8,
    }
    V13 => id, flags, match_length, out_port, table [3];
    V14 | V15 => id, out_port, out_group, flags, table, command;
}

layout! {
    /// What every update begins with (`struct ofp_flow_update_header`).
    struct Update { length: u16, event: u16 }
}

layout! {
    /// What follows in a full one (`struct onf_flow_update_full`, `struct ofp_flow_update_full`).
    /// The length of the match is 1.3's: the match says it itself. The reason is a removal's.
    pub(crate) struct Head {
        table: u8, priority: u16, cookie: u64, idle_timeout: u16, hard_timeout: u16,
        match_length: u16, reason: u8,
    }
    V13 => [1] reason, priority, idle_timeout, hard_timeout, match_length, table [1], cookie;
    V14 | V15 => table, reason, idle_timeout, hard_timeout, priority [4], cookie;
}

/// The type of multipart message.
fn multipart_type(version: Version) -> u16 {
    if version == Version::V13 { OFPMP_EXPERIMENTER } else { OFPMP_FLOW_MONITOR }
}

/// Appends a request's body: monitors with these flags, and the numbers 1, 2, 3.
pub(crate) fn request(version: Version, flags: &[u16], out: &mut Vec<u8>) -> Result<(), Malformed> {
    multipart::request(multipart_type(version), version, out);
    if version == Version::V13 {
        ONFT_FLOW_MONITOR.write(out);
    }
    for (id, flags) in (1..).zip(flags) {
        let request = Request {
            id,
            flags: *flags,
            match_length: OFP_EMPTY_MATCH_LEN,
            out_port: OFPP_ANY,
            out_group: OFPG_ANY,
            table: OFPTT_ALL,
            command: OFPFMC_ADD,
        };
        request.write(version, out);
        write_match(&[], out)?;
    }
    Ok(())
}

/// Reads such a body, and writes it again.
#[cfg(test)]
pub(crate) fn recode_request(
    version: Version,
    r: &mut Reader<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Malformed> {
    multipart::reply(multipart_type(version), version, r)?;
    if version == Version::V13 && r.u64("experimenter")? != ONFT_FLOW_MONITOR {
        return Err(Malformed::Unexpected("experimenter"));
    }
    let mut flags = Vec::new();
    while !r.is_empty() {
        let one = Request::read(version, r)?;
        read_match(r)?;
        flags.push(one.flags);
    }
    request(version, &flags, out)
}

/// One update in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlowUpdate<'a> {
    Full(Full<'a>),
    /// A change of our own, by its xid.
    Abbreviated,
    Paused,
    Resumed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full<'a> {
    pub(crate) what: What,
    /// It was changed, not added: its age goes on.
    pub(crate) modified: bool,
    pub(crate) head: Head,
    pub(crate) matches: &'a [u8],
    pub(crate) instructions: &'a [u8],
}

impl<'a> FlowUpdate<'a> {
    /// Reads one update off a message's body.
    pub(crate) fn read(version: Version, body: &mut Reader<'a>) -> Result<Self, Malformed> {
        let field = "flow update";
        let Update { length, event } = Update::read(version, &mut body.clone())?;
        // In 1.3's dialect nothing is called "initial", so everything is one less.
        let event = event.saturating_add(u16::from(version == Version::V13));
        // Shorter than any, and 0 would be read for ever.
        if usize::from(length) < OFP_ALIGN || padding(length.into()) != 0 {
            return Err(Malformed::Length { field, value: length.into() });
        }
        let mut r = body.sub(length.into(), field)?;
        Update::read(version, &mut r)?;
        let what = match event {
            // Present when asked (or reported again after a pause), added, changed.
            OFPFME_INITIAL | OFPFME_ADDED | OFPFME_MODIFIED => What::Put,
            OFPFME_REMOVED => What::Removed,
            OFPFME_ABBREV => return Ok(Self::Abbreviated),
            OFPFME_PAUSED if version != Version::V13 => return Ok(Self::Paused),
            OFPFME_RESUMED if version != Version::V13 => return Ok(Self::Resumed),
            _ => return Err(Malformed::Unexpected("kind of flow update")),
        };
        let head = Head::read(version, &mut r)?;
        let (matches, _) = read_match(&mut r)?;
        let modified = event == OFPFME_MODIFIED;
        Ok(Self::Full(Full { what, modified, head, matches, instructions: r.rest() }))
    }

    /// Appends one. (What was put is said to be added.)
    #[cfg(test)]
    pub(crate) fn write(&self, version: Version, out: &mut Vec<u8>) -> Result<(), Malformed> {
        let event = match self {
            Self::Full(Full { modified: true, .. }) => OFPFME_MODIFIED,
            Self::Full(Full { what: What::Put, .. }) => OFPFME_ADDED,
            Self::Full(Full { what: What::Removed, .. }) => OFPFME_REMOVED,
            Self::Abbreviated => OFPFME_ABBREV,
            Self::Paused => OFPFME_PAUSED,
            Self::Resumed => OFPFME_RESUMED,
        };
        let at = out.len();
        let event = event - u16::from(version == Version::V13);
        Update { length: 0, event }.write(version, out);
        match self {
            Self::Full(full) => {
                full.head.write(version, out);
                out.extend_from_slice(full.matches);
                out.extend_from_slice(full.instructions);
            }
            _ => out.extend_from_slice(&[0; 4]),
        }
        crate::openflow::codec::wire::set_length(out, at, 0)
    }
}

/// Reads an unsolicited message; false if it is not a flow monitor's.
pub(crate) fn read(
    version: Version,
    kind: u8,
    body: &[u8],
    each: &mut dyn FnMut(FlowUpdate<'_>),
) -> Result<bool, Malformed> {
    let onf = version == Version::V13;
    let mut r = Reader::new(body);
    if kind == OFPT_EXPERIMENTER && onf {
        match r.u64("experimenter")? {
            ONFT_FLOW_MONITOR_PAUSED => each(FlowUpdate::Paused),
            ONFT_FLOW_MONITOR_RESUMED => each(FlowUpdate::Resumed),
            _ => return Ok(false),
        }
        return Ok(true);
    }
    let what = multipart_type(version);
    if kind != OFPT_MULTIPART_REPLY || Reader::new(body).u16("multipart type")? != what {
        return Ok(false);
    }
    multipart::reply(what, version, &mut r)?;
    if onf && r.u64("experimenter")? != ONFT_FLOW_MONITOR {
        return Ok(false);
    }
    while !r.is_empty() {
        each(FlowUpdate::read(version, &mut r)?);
    }
    Ok(true)
}
