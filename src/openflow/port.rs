//! Port numbers. OVS has 16 bits inside; OpenFlow 1.1 and later shows 32.

/// OFPP_LOCAL, the bridge's own port; OVSDB calls it 65534 too.
pub(super) const LOCAL: u16 = 0xfffe;
/// OFPP_NORMAL, OFPP_FLOOD and OFPP_ALL: to all, or to whoever is known to be there.
pub(super) const SPREADING: [u16; 3] = [0xfffa, 0xfffb, 0xfffc];
/// OFPP_CONTROLLER.
pub(super) const CONTROLLER: u16 = 0xfffd;
/// The first reserved number: real ports are 1 to 0xfeff.
pub(super) const FIRST_RESERVED: u16 = 0xff00;
/// OFPP_ANY as a filter.
pub(super) const ANY: u32 = 0xffff_ffff;

/// The 16-bit form of a 32-bit number; `None` for one that OVS cannot have.
pub(super) fn from_wire(port: u32) -> Option<u16> {
    let [high, low] = [port >> 16, port & 0xffff].map(|half| u16::try_from(half).unwrap_or(0));
    match high {
        0 if low < FIRST_RESERVED => Some(low),
        0xffff if low >= FIRST_RESERVED => Some(low),
        _ => None,
    }
}

/// The 32-bit form.
pub(super) fn to_wire(port: u16) -> u32 {
    if port < FIRST_RESERVED { port.into() } else { 0xffff_0000 | u32::from(port) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_map_both_ways() {
        for (wire, port) in [(5, 5), (0xfeff, 0xfeff), (0xffff_fffe, LOCAL), (0xffff_ff00, 0xff00)]
        {
            assert_eq!(from_wire(wire), Some(port));
            assert_eq!(to_wire(port), wire);
        }
        for impossible in [0xff00, 0xffff, 0x1_0000, 0xffff_0005, 0xffff_feff] {
            assert_eq!(from_wire(impossible), None, "{impossible:#x}");
        }
    }
}
