//! NXT_CT_FLUSH (Open vSwitch 3.1): forgets the connections of an address.

use crate::openflow::codec::numbers::*;
use crate::openflow::codec::wire::layout;

layout! {
    /// `struct nx_ct_flush` with one tuple, and one address in that. Never MARK or LABELS: 3.1 and
    /// 3.2 ignore them, and what is left is "everything". Protocol 0 is any; IPv4 addresses are
    /// mapped.
    pub(crate) struct CtFlush {
        experimenter: u64, protocol: u8 [7],
        tuple: u16, tuple_length: u16 [4],
        side: u16, address_length: u16, address: [u8; 16] [4],
    }
}

impl CtFlush {
    pub(crate) fn of(address: [u8; 16], protocol: u8, tuple: u16, side: u16) -> Self {
        Self {
            experimenter: NXT_CT_FLUSH,
            protocol,
            tuple,
            tuple_length: NXT_CT_TUPLE_LEN,
            side,
            address_length: NXT_CT_ADDRESS_LEN,
            address,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openflow::Version;
    use crate::openflow::codec::wire::Layout as _;
    use crate::openflow::testing::hex;

    #[test]
    fn a_flush_as_ovs_ctl_sends_it() {
        let ip: std::net::Ipv6Addr = "fd00::5".parse().unwrap();
        let mut out = Vec::new();
        CtFlush::of(ip.octets(), 17, 1, 1).write(Version::V13, &mut out);
        let sent = "00002320 00000020 11000000 00000000 00010020 00000000 00010014
                    fd000000 00000000 00000000 00000005 00000000";
        assert_eq!(out, hex(sent));
    }
}
