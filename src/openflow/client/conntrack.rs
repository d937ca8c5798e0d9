//! Flushing an address's connections (NXT_CT_FLUSH, Open vSwitch 3.1).

use std::net::IpAddr;

use crate::model::flow::Address;
use crate::openflow::client::connection::Connection;
use crate::openflow::codec::ct_flush::CtFlush;
use crate::openflow::codec::numbers::*;
use crate::openflow::codec::wire::Layout as _;
use crate::openflow::error::Error;

const DOING: &str = "flushing connections";
/// Original and reply tuple: NAT makes them differ, and both present would be ANDed.
const TUPLES: [u16; 2] = [NXT_CT_ORIG_TUPLE, NXT_CT_REPLY_TUPLE];
/// Source and destination.
const SIDES: [u16; 2] = [NXT_CT_TUPLE_SRC, NXT_CT_TUPLE_DST];
/// "Any" for IPv4.
const ANY: [u8; 1] = [0];
/// For IPv6 never "any", because that includes ICMPv6: the userspace datapath looks up the
/// reverse of an ICMPv6 type among those of ICMP and aborts ovs-vswitchd (seen with 3.1.0 and
/// `ovs-ofctl ct-flush`; `tuple_to_conn_key` in lib/conntrack.c). TCP, UDP and SCTP are what
/// that datapath tracks besides, and ICMPv6 entries expire within a minute by themselves.
const NOT_ICMPV6: [u8; 3] = [IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP];

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
        let address = match ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        };
        let requests: Vec<CtFlush> = protocols
            .iter()
            .flat_map(|p| {
                TUPLES.map(|tuple| SIDES.map(|side| CtFlush::of(address, *p, tuple, side)))
            })
            .flatten()
            .collect();
        let count = u32::try_from(requests.len()).unwrap_or(u32::MAX);
        let first = self.xids(count + 1);
        let mut out = self.outgoing(first, DOING);
        let version = self.version();
        for request in requests {
            out.add(OFPT_EXPERIMENTER, |body| {
                request.write(version, body);
                Ok(())
            });
        }
        out.add(OFPT_BARRIER_REQUEST, |_| Ok(()));
        self.send_all(out)?;
        let mut refused = None;
        self.until_barrier(first, count, DOING, &mut |_, error| {
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
