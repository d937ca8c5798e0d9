//! What a switch is asked to report of its ports, and its reports.

use crate::openflow::codec::hello::Version;
use crate::openflow::codec::multipart::Port;
use crate::openflow::codec::numbers::*;
use crate::openflow::codec::wire::{Layout as _, Reader, layout};
use crate::openflow::error::Malformed;

/// A port comes (reason 0), and a port goes (reason 1).
const COMES_AND_GOES: u32 = 1 << OFPPR_ADD | 1 << OFPPR_DELETE;

layout! {
    /// `struct ofp13_async_config`: of each kind of report the wanted reasons, first those of a master
    /// or an equal.
    struct AsyncConfig {
        packet_in: u32, packet_in_slave: u32,
        port_status: u32, port_status_slave: u32,
        flow_removed: u32, flow_removed_slave: u32,
    }
}

layout! {
    /// `struct ofp14_async_config_prop_reasons`.
    struct AsyncProperty { kind: u16, length: u16, mask: u32 }
}

layout! {
    /// `struct ofp_port_status`, before the port.
    struct PortStatus { reason: u8 [7] }
}

/// The body of a request to be told which ports come and go, and of nothing else.
pub(crate) fn request(version: Version, out: &mut Vec<u8>) {
    let (port_status, port_status_slave) = (COMES_AND_GOES, COMES_AND_GOES);
    if version == Version::V13 {
        AsyncConfig { port_status, port_status_slave, ..AsyncConfig::default() }
            .write(version, out);
        return;
    }
    for kind in 0..=OFPACPT_LAST {
        let is_port = matches!(kind, OFPACPT_PORT_STATUS_SLAVE | OFPACPT_PORT_STATUS_MASTER);
        let mask = if is_port { COMES_AND_GOES } else { 0 };
        AsyncProperty { kind, length: 8, mask }.write(version, out);
    }
}

/// Whether that is what the switch says it does.
pub(crate) fn is_agreed(version: Version, r: &mut Reader<'_>) -> Result<bool, Malformed> {
    if version == Version::V13 {
        return Ok(AsyncConfig::read(version, r)?.port_status & COMES_AND_GOES == COMES_AND_GOES);
    }
    let mut agreed = false;
    while !r.is_empty() {
        let property = AsyncProperty::read(version, r)?;
        agreed |= property.kind == OFPACPT_PORT_STATUS_MASTER
            && property.mask & COMES_AND_GOES == COMES_AND_GOES;
    }
    Ok(agreed)
}

/// A port that came, or that went: false.
pub(crate) fn read(version: Version, r: &mut Reader<'_>) -> Result<(bool, Port), Malformed> {
    let PortStatus { reason } = PortStatus::read(version, r)?;
    Ok((reason != OFPPR_DELETE, Port::next(version, r)?))
}
