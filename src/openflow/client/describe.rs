//! What the switch says about itself: tables, ports, groups, version.

use crate::model::flow::Actions;
use crate::openflow::client::connection::Connection;
use crate::openflow::codec::effects;
use crate::openflow::codec::group;
use crate::openflow::codec::hello::Version;
use crate::openflow::codec::multipart::{self, Port, TableStats, Which};
use crate::openflow::codec::numbers::*;
use crate::openflow::codec::wire::{Layout as _, Reader};
use crate::openflow::error::{Error, Malformed};

const COUNTING: &str = "counting flows";
const LISTING: &str = "listing ports";
const READING: &str = "reading groups";
/// A question that names nothing in particular.
const TABLES: (u16, Option<Which>) = (OFPMP_TABLE, None);
const PORTS: (u16, Option<Which>) = (OFPMP_PORT_DESC, Some(Which { number: OFPP_ANY }));
const GROUPS: (u16, Option<Which>) = (OFPMP_GROUP_DESC, Some(Which { number: OFPG_ALL }));

/// What [`Connection::ports`] and [`Connection::tables`] return.
pub type PortsAndTables = (Vec<(u16, String)>, Vec<(u8, u32)>);

/// A question that was sent: the xid of its first part, and whether it asked for groups.
#[derive(Debug)]
#[must_use = "its answer is still to come"]
pub struct Asked(u32, bool);

/// A question for groups that was sent.
#[derive(Debug)]
#[must_use = "its answer is still to come"]
pub struct AskedGroups(u32);

/// What [`Connection::hear_ports_and_tables`] returns: with the groups' buckets, or why there are
/// none, if they were asked for.
pub type Heard = (PortsAndTables, Option<Result<Vec<Actions>, Error>>);

impl Connection {
    /// Each table and how many entries it has (internal ones included: a table with 0 need
    /// not be dumped).
    ///
    /// # Errors
    /// As [`Self::dump`].
    pub fn tables(&mut self) -> Result<Vec<(u8, u32)>, Error> {
        let asked = self.ask(&[TABLES], COUNTING)?;
        self.hear_tables(asked)
    }

    /// The ports of *now*, by number. LOCAL is 65534. Names longer than 15 bytes are cut by
    /// the protocol.
    ///
    /// # Errors
    /// As [`Self::dump`].
    pub fn ports(&mut self) -> Result<Vec<(u16, String)>, Error> {
        let asked = self.ask(&[PORTS], LISTING)?;
        self.hear_ports(asked)
    }

    /// Asks for [`Self::ports`] and [`Self::tables`] in one exchange, and perhaps for
    /// [`Self::buckets`], and does not wait.
    ///
    /// # Errors
    /// As [`Self::dump`].
    pub fn ask_ports_and_tables(&mut self, groups: bool) -> Result<Asked, Error> {
        let questions = [PORTS, TABLES, GROUPS];
        let questions = questions.get(..if groups { 3 } else { 2 }).unwrap_or_default();
        self.ask(questions, LISTING).map(|first| Asked(first, groups))
    }

    /// What was asked.
    ///
    /// # Errors
    /// As [`Self::dump`].
    pub fn hear_ports_and_tables(&mut self, asked: Asked) -> Result<Heard, Error> {
        let Asked(first, groups) = asked;
        let ports = self.hear_ports(first)?;
        let tables = self.hear_tables(first.wrapping_add(1))?;
        let buckets = groups.then(|| self.hear_buckets(AskedGroups(first.wrapping_add(2))));
        match buckets {
            // A switch that has no groups is no reason not to hear of the rest.
            Some(Err(failed)) if !failed.is_refusal() => Err(failed),
            buckets => Ok(((ports, tables), buckets)),
        }
    }

    fn hear_tables(&mut self, xid: u32) -> Result<Vec<(u8, u32)>, Error> {
        self.hear(xid, OFPMP_TABLE, COUNTING, &mut |r, version| {
            TableStats::read(version, r).map(|of| (of.table, of.active))
        })
    }

    fn hear_ports(&mut self, xid: u32) -> Result<Vec<(u16, String)>, Error> {
        let ports = self.hear(xid, OFPMP_PORT_DESC, LISTING, &mut |r, version| {
            Port::next(version, r).map(|port| port.named())
        })?;
        Ok(ports.into_iter().flatten().collect())
    }

    /// What the buckets of all groups do, each bucket by itself.
    ///
    /// # Errors
    /// As [`Self::dump`].
    pub fn buckets(&mut self) -> Result<Vec<Actions>, Error> {
        let asked = self.ask_buckets()?;
        self.hear_buckets(asked)
    }

    /// Asks for [`Self::buckets`] and does not wait.
    ///
    /// # Errors
    /// As [`Self::dump`].
    pub fn ask_buckets(&mut self) -> Result<AskedGroups, Error> {
        self.ask(&[GROUPS], READING).map(AskedGroups)
    }

    /// What was asked.
    ///
    /// # Errors
    /// As [`Self::dump`].
    pub fn hear_buckets(&mut self, asked: AskedGroups) -> Result<Vec<Actions>, Error> {
        let mut found = Vec::new();
        self.hear(asked.0, OFPMP_GROUP_DESC, READING, &mut |r, version| {
            group::read(version, r, &mut |list| {
                let mut actions = Actions::default();
                effects::decode_list(list, &mut actions)?;
                found.push(actions);
                Ok(())
            })
        })?;
        Ok(found)
    }

    /// The number of the bridge's datapath.
    ///
    /// # Errors
    /// As [`Self::dump`].
    pub fn datapath_id(&mut self) -> Result<u64, Error> {
        let doing = "asking its datapath id";
        let xid = self.xids(1);
        let mut out = self.outgoing(xid, doing);
        out.add(OFPT_FEATURES_REQUEST, |_| Ok(()));
        self.send_all(out)?;
        loop {
            let message = self.receive(doing)?;
            if message.xid == xid {
                let mut reader = Reader::new(self.expect(message, OFPT_FEATURES_REPLY, doing)?);
                return reader.u64("datapath id").map_err(|what| self.malformed(doing, what));
            }
        }
    }

    /// The switch's own version, as `3.1.0`.
    ///
    /// # Errors
    /// As [`Self::dump`].
    pub fn description(&mut self) -> Result<String, Error> {
        let doing = "asking its version";
        let xid = self.ask(&[(OFPMP_DESC, None)], doing)?;
        let said = self.hear(xid, OFPMP_DESC, doing, &mut |r, _| multipart::read_software(r))?;
        Ok(said.into_iter().next_back().unwrap_or_default())
    }

    /// Sends multipart requests of these kinds in one write; the first one's xid, the
    /// others' follow.
    fn ask(
        &mut self,
        requests: &[(u16, Option<Which>)],
        doing: &'static str,
    ) -> Result<u32, Error> {
        let first = self.xids(u32::try_from(requests.len()).unwrap_or(1));
        let mut out = self.outgoing(first, doing);
        let version = self.version();
        for (what, which) in requests {
            out.add(OFPT_MULTIPART_REQUEST, |body| {
                multipart::request(*what, version, body);
                which.iter().for_each(|which| which.write(version, body));
                Ok(())
            });
        }
        self.send_all(out)?;
        Ok(first)
    }

    /// Takes the answer in; `each` reads one item. Answers come in the order of the
    /// requests, and what answers none of ours is skipped.
    fn hear<T>(
        &mut self,
        xid: u32,
        what: u16,
        doing: &'static str,
        each: &mut dyn FnMut(&mut Reader<'_>, Version) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Error> {
        let (version, mut found) = (self.version(), Vec::new());
        loop {
            let message = self.receive(doing)?;
            if message.xid != xid {
                continue;
            }
            let mut reader = Reader::new(self.expect(message, OFPT_MULTIPART_REPLY, doing)?);
            let mut read = || {
                let more = multipart::reply(what, version, &mut reader)?;
                while !reader.is_empty() {
                    found.push(each(&mut reader, version)?);
                }
                Ok(more)
            };
            if !read().map_err(|what| self.malformed(doing, what))? {
                return Ok(found);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openflow::testing::{Fake, hex};

    const LOAD_7: &str = "ffff0018 00002320 0007001f 00010004 0000000000000007";
    const OUTPUT_5: &str = "00000010 00000005 00000000 00000000";

    /// Group 7 with two buckets, then one without any, as Open vSwitch 3.1.0 tells of them.
    fn groups(version: Version) -> Vec<u8> {
        let list = format!("{LOAD_7} {OUTPUT_5}");
        let text = match version {
            Version::V13 | Version::V14 => format!(
                "0060 0100 00000007
                 0038 0064 ffffffff ffffffff 00000000 {list}
                 0020 0064 ffffffff ffffffff 00000000 {OUTPUT_5}
                 0008 0000 00000008"
            ),
            Version::V15 => format!(
                "0068 0100 00000007 0058 000000000000
                 0038 0028 00000000 {list} 0000 0008 0064 0000
                 0020 0010 00000001 {OUTPUT_5} 0000 0008 0064 0000
                 0010 0000 00000008 0000 000000000000"
            ),
        };
        hex(&text)
    }

    #[test]
    fn a_datapath_has_a_number() {
        let switch = Fake::new(Version::V14, |peer| {
            let (kind, xid, body) = peer.next();
            assert_eq!((kind, body), (5, vec![]));
            peer.send(6, xid, &hex("0000 02000000000a 00000000 fe 00 0000 0000004f 00000000"));
        });
        assert_eq!(switch.open().unwrap().datapath_id().unwrap(), 0x0200_0000_000a);
        switch.done();
    }

    #[test]
    fn what_buckets_do_is_read() {
        for version in [Version::V13, Version::V14, Version::V15] {
            let switch = Fake::new(version, move |peer| {
                let (kind, xid, body) = peer.next();
                let all = if version == Version::V15 { "fffffffc 00000000" } else { "" };
                assert_eq!((kind, body), (18, hex(&format!("0007 0000 00000000 {all}"))));
                // In two parts, the second one empty.
                peer.send(19, xid, &[hex("0007 0001 00000000"), groups(version)].concat());
                peer.send(19, xid, &hex("0007 0000 00000000"));
            });
            let buckets = switch.open().unwrap().buckets().unwrap();
            let [first, second] = buckets.as_slice() else { panic!("{buckets:?}") };
            let write = &first.register_writes[0];
            assert_eq!((write.index, write.mask, write.value), (0, u32::MAX, Some(7)));
            assert_eq!((&first.outputs, first.unread), (&vec![5], false));
            assert_eq!((&second.outputs, second.register_writes.len()), (&vec![5], 0));
            switch.done();
        }
    }
}
