//! The ports of a bridge, followed: the switch reports which come and go, in the order in which they
//! do, between its other answers.
//!
//! A list of a thousand ports costs the switch a millisecond. Open vSwitch reports nothing unasked on a
//! management socket; to set what it reports changes that (`handle_nxt_set_async_config`).

use std::collections::BTreeMap;

use crate::openflow::client::connection::{Connection, Message};
use crate::openflow::codec::numbers::*;
use crate::openflow::codec::port_status;
use crate::openflow::codec::wire::Reader;
use crate::openflow::error::Error;

const DOING: &str = "following its ports";

/// What was reported.
#[derive(Debug, Default)]
pub(super) struct FollowedPorts {
    /// The switch was asked to report.
    pub(super) asked: bool,
    by_number: BTreeMap<u16, String>,
    /// Since they were last taken.
    changed: bool,
}

impl Connection {
    /// Asks the switch for its ports, and to report which come and go from now on. False: it does not
    /// say that it will.
    ///
    /// # Errors
    /// Those of any exchange.
    pub fn follow_ports(&mut self) -> Result<bool, Error> {
        let (xid, version) = (self.xids(2), self.version());
        let mut out = self.outgoing(xid, DOING);
        out.add(OFPT_SET_ASYNC, |body| {
            port_status::request(version, body);
            Ok(())
        });
        out.add(OFPT_GET_ASYNC_REQUEST, |_| Ok(()));
        self.send_all(out)?;
        if !self.hear_agreement(xid)? {
            return Ok(false);
        }
        self.followed.asked = true;
        // What was reported before this answer is in it.
        let ports = self.ports()?;
        self.followed.by_number = ports.into_iter().collect();
        self.followed.changed = true;
        Ok(true)
    }

    /// Whether the switch says that it reports. Of what it reports before that nothing is kept: the
    /// list of all ports is asked for behind it.
    fn hear_agreement(&mut self, xid: u32) -> Result<bool, Error> {
        loop {
            let message = self.receive(DOING)?;
            // Nothing but an error answers the first of the two.
            if message.xid == xid || message.kind == OFPT_ERROR {
                return Ok(false);
            }
            if message.xid == xid.wrapping_add(1) {
                let mut reader = Reader::new(self.expect(message, OFPT_GET_ASYNC_REPLY, DOING)?);
                let agreed = port_status::is_agreed(self.version(), &mut reader);
                return agreed.map_err(|what| self.malformed(DOING, what));
            }
        }
    }

    /// The ports as far as the switch has reported, if they are others than at the last call.
    pub fn changed_ports(&mut self) -> Option<Vec<(u16, String)>> {
        let FollowedPorts { by_number, changed, .. } = &mut self.followed;
        let ports = || by_number.iter().map(|(number, name)| (*number, name.clone())).collect();
        std::mem::take(changed).then(ports)
    }

    /// Takes in a report.
    pub(super) fn note_port(&mut self, message: Message) -> Result<(), Error> {
        let mut reader = Reader::new(self.body(message));
        let read = port_status::read(self.version(), &mut reader);
        let (is_there, port) = read.map_err(|what| self.malformed(DOING, what))?;
        let Some((number, name)) = port.named() else { return Ok(()) };
        let FollowedPorts { by_number, changed, .. } = &mut self.followed;
        *changed = true;
        if is_there {
            by_number.insert(number, name);
        } else {
            by_number.remove(&number);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::openflow::codec::hello::Version;
    use crate::openflow::testing::{Fake, hex};

    /// As Open vSwitch 3.1.0 says it: number, MAC, name.
    fn port(version: Version, number: u8, name: &str) -> Vec<u8> {
        let length = if version == Version::V13 { "0000" } else { "0048" };
        let name: String = format!("{name:\0<16}").bytes().map(|b| format!("{b:02x}")).collect();
        let rest = if version == Version::V13 { 32 } else { 40 };
        let text = format!("000000{number:02x} {length}0000 aa55aa550002 0000 {name}");
        [hex(&text), vec![0; rest]].concat()
    }

    #[test]
    fn ports_that_come_and_go_are_followed() {
        for version in [Version::V13, Version::V14, Version::V15] {
            let switch = Fake::new(version, move |peer| {
                let status = |reason, number, name| {
                    [vec![reason, 0, 0, 0, 0, 0, 0, 0], port(version, number, name)].concat()
                };
                let (kind, _, asked) = peer.next();
                assert_eq!((kind, asked.is_empty()), (28, false));
                let (kind, xid, _) = peer.next();
                assert_eq!(kind, 26);
                // What it was asked for is what it says.
                peer.send(27, xid, &asked);
                let (kind, xid, _) = peer.next();
                assert_eq!(kind, 18);
                peer.send(12, 0, &status(0, 9, "before"));
                let all = [port(version, 1, "p1"), port(version, 2, "p2")].concat();
                peer.send(19, xid, &[hex("000d 0000 00000000"), all].concat());
                peer.send(12, 0, &status(1, 1, "p1"));
                peer.send(12, 0, &status(0, 3, "p3"));
                let (kind, xid, _) = peer.next();
                assert_eq!(kind, 20);
                peer.send(21, xid, &[]);
            });
            let mut connection = switch.open().unwrap();
            assert!(connection.follow_ports().unwrap());
            let named = |ports: Option<Vec<(u16, String)>>| {
                ports.map(|all| all.into_iter().map(|(_, name)| name).collect::<Vec<_>>())
            };
            assert_eq!(named(connection.changed_ports()).unwrap(), ["p1", "p2"], "{version:?}");
            connection.barrier().unwrap();
            assert_eq!(named(connection.changed_ports()).unwrap(), ["p2", "p3"]);
            assert_eq!(connection.changed_ports(), None);
            switch.done();
        }
    }

    #[test]
    fn a_switch_that_does_not_agree_is_not_believed() {
        for (kind, reply) in [(27, hex("00030008 00000000")), (1, hex("0001 0001"))] {
            let switch = Fake::new(Version::V14, move |peer| {
                peer.next();
                let (_, xid, _) = peer.next();
                peer.send(kind, xid, &reply);
            });
            assert!(!switch.open().unwrap().follow_ports().unwrap());
            switch.done();
        }
    }
}
