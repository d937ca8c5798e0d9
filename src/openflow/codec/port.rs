//! Port numbers. OVS has 16 bits inside; OpenFlow 1.1 and later shows 32.

use crate::openflow::codec::numbers::OFPP_MAX;

/// The 16-bit form of a 32-bit number; `None` for one that OVS cannot have.
pub(crate) fn from_wire(port: u32) -> Option<u16> {
    let [high, low] = [port >> 16, port & 0xffff].map(|half| u16::try_from(half).unwrap_or(0));
    match high {
        0 if low < OFPP_MAX => Some(low),
        0xffff if low >= OFPP_MAX => Some(low),
        _ => None,
    }
}

/// The 32-bit form.
pub(crate) fn to_wire(port: u16) -> u32 {
    if port < OFPP_MAX { port.into() } else { 0xffff_0000 | u32::from(port) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_map_both_ways() {
        let pairs = [(5, 5), (0xfeff, 0xfeff), (0xffff_fffe, 0xfffe), (0xffff_ff00, 0xff00)];
        for (wire, port) in pairs {
            assert_eq!(from_wire(wire), Some(port));
            assert_eq!(to_wire(port), wire);
        }
        for impossible in [0xff00, 0xffff, 0x1_0000, 0xffff_0005, 0xffff_feff] {
            assert_eq!(from_wire(impossible), None, "{impossible:#x}");
        }
    }
}
