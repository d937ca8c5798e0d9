//! Flushing an address's connections (NXT_CT_FLUSH, Open vSwitch 3.1).

use std::net::{IpAddr, Ipv6Addr};

use super::connection::Connection;
use super::error::{Error, Malformed};
use super::wire::{NICIRA, kind};
use crate::stale::flow::Address;

const CT_FLUSH: u32 = 32;
const DOING: &str = "flushing connections";
/// Original and reply tuple: NAT makes them differ, and both present would be ANDed.
const TUPLES: [u16; 2] = [0, 1];
/// Source and destination.
const SIDES: [u16; 2] = [0, 1];
/// "Any" for IPv4.
const ANY: [u8; 1] = [0];
/// For IPv6 never "any", because that includes ICMPv6: the userspace datapath looks up the
/// reverse of an ICMPv6 type among those of ICMP and aborts ovs-vswitchd (seen with 3.1.0 and
/// `ovs-ofctl ct-flush`; `tuple_to_conn_key` in lib/conntrack.c). TCP, UDP and SCTP are what
/// that datapath tracks besides, and ICMPv6 entries expire within a minute by themselves.
const NOT_ICMPV6: [u8; 3] = [6, 17, 132];

impl Connection {
    /// Forgets every connection that this address is an end of, in all zones; of an IPv6
    /// address only those of TCP, UDP and SCTP. Acts on the whole datapath, not on the
    /// bridge alone.
    ///
    /// # Errors
    /// [`Error::UnusableAddress`] for an address that is nobody's own (a flush without one
    /// flushes *everything*); [`Error::Unsupported`] before Open vSwitch 3.1, unharmed;
    /// those of any exchange.
    pub fn flush_conntrack(&mut self, ip: IpAddr) -> Result<(), Error> {
        let ip = ip.to_canonical();
        if Address::Ip(ip).is_unusable() {
            return Err(Error::UnusableAddress(ip));
        }
        let protocols: &[u8] = if ip.is_ipv4() { &ANY } else { &NOT_ICMPV6 };
        let requests: Vec<(u8, u16, u16)> = protocols
            .iter()
            .flat_map(|p| TUPLES.map(|tuple| SIDES.map(|side| (*p, tuple, side))))
            .flatten()
            .collect();
        let count = u32::try_from(requests.len()).unwrap_or(u32::MAX);
        let first = self.xids(count + 1);
        let barrier = first.saturating_add(count);
        let mut out = Vec::new();
        for (xid, (protocol, tuple, side)) in (first..).zip(requests) {
            self.encode(&mut out, kind::EXPERIMENTER, xid, DOING, |out| {
                encode(ip, protocol, tuple, side, out);
                Ok(())
            })?;
        }
        self.encode(&mut out, kind::BARRIER_REQUEST, barrier, DOING, |_| Ok::<_, Malformed>(()))?;
        self.send(&out, DOING)?;
        let mut refused = None;
        self.until_barrier(barrier, first, count, DOING, &mut |_, error| {
            refused = refused.or(Some(error));
        })?;
        let path = self.path().to_owned();
        match refused {
            None => Ok(()),
            Some(error) if error.is_unknown_message() => Err(Error::Unsupported {
                path,
                what: "flushing connections by address",
                needs: "3.1",
                error,
            }),
            Some(error) => Err(Error::Switch { path, doing: DOING, error }),
        }
    }
}

/// The body, from the vendor on: one protocol or any, one tuple with one address. Never MARK
/// or LABELS: 3.1 and 3.2 ignore them, and what is left is "everything".
fn encode(ip: IpAddr, protocol: u8, tuple: u16, side: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(&NICIRA.to_be_bytes());
    out.extend_from_slice(&CT_FLUSH.to_be_bytes());
    out.push(protocol);
    out.extend_from_slice(&[0; 7]);
    // A tuple's length counts its 4 bytes of padding, and the address's.
    out.extend_from_slice(&tuple.to_be_bytes());
    out.extend_from_slice(&32_u16.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&side.to_be_bytes());
    out.extend_from_slice(&20_u16.to_be_bytes());
    let mapped: Ipv6Addr = match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    out.extend_from_slice(&mapped.octets());
    out.extend_from_slice(&[0; 4]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openflow::testing::hex;

    #[test]
    fn a_flush_as_ovs_ctl_sends_it() {
        let mut out = Vec::new();
        encode("10.244.1.5".parse().unwrap(), 0, 0, 0, &mut out);
        assert_eq!(
            out,
            hex("00002320 00000020 00000000 00000000 00000020 00000000 00000014
                 00000000 00000000 0000ffff 0af40105 00000000")
        );
        out.clear();
        encode("fd00::5".parse().unwrap(), 17, 1, 1, &mut out);
        assert_eq!(
            out,
            hex("00002320 00000020 11000000 00000000 00010020 00000000 00010014
                 fd000000 00000000 00000000 00000005 00000000")
        );
    }
}
