//! What the switch says about itself: tables, ports, groups, version.

use super::connection::Connection;
use super::dump::multipart;
use super::effects;
use super::error::{Error, Malformed};
use super::hello::Version;
use super::port;
use super::wire::{Reader, kind};
use crate::stale::flow::Actions;

const DESCRIPTION: u16 = 0;
const TABLE: u16 = 3;
const GROUP_DESCRIPTION: u16 = 7;
const PORT_DESCRIPTION: u16 = 13;
const COUNTING: &str = "counting flows";
const LISTING: &str = "listing ports";
const READING: &str = "reading groups";

/// What [`Connection::ports`] and [`Connection::tables`] return.
pub type PortsAndTables = (Vec<(u16, String)>, Vec<(u8, u32)>);

/// A question that was sent: the xid of its first part.
#[derive(Debug)]
#[must_use = "its answer is still to come"]
pub struct Asked(u32);

impl Connection {
    /// Each table and how many entries it has (internal ones included: a table with 0 need
    /// not be dumped).
    ///
    /// # Errors
    /// As [`Self::dump`].
    pub fn tables(&mut self) -> Result<Vec<(u8, u32)>, Error> {
        let asked = self.ask(&[(TABLE, &[])], COUNTING)?;
        self.hear_tables(asked)
    }

    /// The ports of *now*, by number. LOCAL is 65534. Names longer than 15 bytes are cut by
    /// the protocol.
    ///
    /// # Errors
    /// As [`Self::dump`].
    pub fn ports(&mut self) -> Result<Vec<(u16, String)>, Error> {
        let asked = self.ask(&[(PORT_DESCRIPTION, self.any_port())], LISTING)?;
        self.hear_ports(asked)
    }

    /// [`Self::ports`] and [`Self::tables`] in one exchange.
    ///
    /// # Errors
    /// As [`Self::dump`].
    pub fn ports_and_tables(&mut self) -> Result<PortsAndTables, Error> {
        let asked = self.ask_ports_and_tables()?;
        self.hear_ports_and_tables(asked)
    }

    /// Asks for [`Self::ports_and_tables`] and does not wait.
    ///
    /// # Errors
    /// As [`Self::dump`].
    pub fn ask_ports_and_tables(&mut self) -> Result<Asked, Error> {
        self.ask(&[(PORT_DESCRIPTION, self.any_port()), (TABLE, &[])], LISTING).map(Asked)
    }

    /// What was asked.
    ///
    /// # Errors
    /// As [`Self::dump`].
    pub fn hear_ports_and_tables(&mut self, asked: Asked) -> Result<PortsAndTables, Error> {
        let ports = self.hear_ports(asked.0)?;
        Ok((ports, self.hear_tables(asked.0.wrapping_add(1))?))
    }

    /// 1.5 asks for one port or, as here, any.
    fn any_port(&self) -> &'static [u8] {
        if self.version() == Version::V15 { &[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0] } else { &[] }
    }

    fn hear_tables(&mut self, xid: u32) -> Result<Vec<(u8, u32)>, Error> {
        let mut tables = Vec::new();
        self.hear(xid, TABLE, COUNTING, &mut |r, _| {
            let mut entry = r.sub(24, "table statistics")?;
            let table = entry.u8("table")?;
            entry.take(3, "table statistics")?;
            tables.push((table, entry.u32("table's entries")?));
            Ok(())
        })?;
        Ok(tables)
    }

    fn hear_ports(&mut self, xid: u32) -> Result<Vec<(u16, String)>, Error> {
        let mut ports = Vec::new();
        self.hear(xid, PORT_DESCRIPTION, LISTING, &mut |r, version| {
            let number = Reader::new(r.rest()).u32("port number")?;
            let length = match version {
                Version::V13 => 64,
                Version::V14 | Version::V15 => {
                    let mut head = *r;
                    head.take(4, "port")?;
                    usize::from(head.u16("port length")?)
                }
            };
            let mut port = r.sub(length, "port")?;
            port.take(16, "port")?;
            let name: [u8; 16] = port.array("port name")?;
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            if let Some(number) = port::from_wire(number) {
                ports.push((number, String::from_utf8_lossy(name).into_owned()));
            }
            Ok(())
        })?;
        Ok(ports)
    }

    /// What the buckets of all groups do, each bucket by itself.
    ///
    /// # Errors
    /// As [`Self::dump`].
    pub fn buckets(&mut self) -> Result<Vec<Actions>, Error> {
        // 1.5 asks for one group or, as here, all.
        let all: &[u8] = match self.version() {
            Version::V15 => &[0xff, 0xff, 0xff, 0xfc, 0, 0, 0, 0],
            Version::V13 | Version::V14 => &[],
        };
        let mut found = Vec::new();
        let xid = self.ask(&[(GROUP_DESCRIPTION, all)], READING)?;
        self.hear(xid, GROUP_DESCRIPTION, READING, &mut |r, version| {
            read_group(r, version, &mut found)
        })?;
        Ok(found)
    }

    /// The switch's own version, as `3.1.0`.
    ///
    /// # Errors
    /// As [`Self::dump`].
    pub fn description(&mut self) -> Result<String, Error> {
        let mut software = String::new();
        let doing = "asking its version";
        let xid = self.ask(&[(DESCRIPTION, &[])], doing)?;
        self.hear(xid, DESCRIPTION, doing, &mut |r, _| {
            r.take(512, "manufacturer and hardware")?;
            let text = r.take(256, "software description")?;
            r.take(288, "serial number and datapath description")?;
            let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
            software = String::from_utf8_lossy(text).into_owned();
            Ok(())
        })?;
        Ok(software)
    }

    /// Sends multipart requests of these kinds in one write; the first one's xid, the
    /// others' follow.
    fn ask(&mut self, requests: &[(u16, &[u8])], doing: &'static str) -> Result<u32, Error> {
        let first = self.xids(u32::try_from(requests.len()).unwrap_or(1));
        let mut out = Vec::new();
        for (xid, (what, request)) in (first..).zip(requests) {
            self.encode(&mut out, kind::MULTIPART_REQUEST, xid, doing, |out| {
                out.extend_from_slice(&what.to_be_bytes());
                out.extend_from_slice(&[0; 6]);
                out.extend_from_slice(request);
                Ok(())
            })?;
        }
        self.send(&out, doing)?;
        Ok(first)
    }

    /// Takes the answer in; `each` reads one item. Answers come in the order of the
    /// requests, and what answers none of ours is skipped.
    fn hear(
        &mut self,
        xid: u32,
        what: u16,
        doing: &'static str,
        each: &mut dyn FnMut(&mut Reader<'_>, Version) -> Result<(), Malformed>,
    ) -> Result<(), Error> {
        loop {
            let message = self.receive(doing)?;
            if message.xid != xid {
                continue;
            }
            let mut reader = Reader::new(self.expect(message, kind::MULTIPART_REPLY, doing)?);
            let mut read = || {
                let more = multipart(&mut reader, what)?;
                while !reader.is_empty() {
                    each(&mut reader, self.version())?;
                }
                Ok(more)
            };
            if !read().map_err(|what| self.malformed(doing, what))? {
                return Ok(());
            }
        }
    }
}

/// Reads one group: its length, type and number, then its buckets; in 1.5 with their length before
/// them and the group's properties behind them.
fn read_group(
    r: &mut Reader<'_>,
    version: Version,
    found: &mut Vec<Actions>,
) -> Result<(), Malformed> {
    let length = Reader::new(r.rest()).u16("group's length")?;
    let mut group = r.sub(length.into(), "group")?;
    group.take(8, "group")?;
    let mut buckets = match version {
        Version::V13 | Version::V14 => group,
        Version::V15 => {
            let length = group.u16("length of a group's buckets")?;
            group.take(6, "group")?;
            group.sub(length.into(), "group's buckets")?
        }
    };
    while !buckets.is_empty() {
        let length = Reader::new(buckets.rest()).u16("bucket's length")?;
        let mut bucket = buckets.sub(length.into(), "bucket")?;
        bucket.take(2, "bucket")?;
        let list = match version {
            Version::V13 | Version::V14 => {
                bucket.take(14, "bucket")?;
                bucket.rest()
            }
            Version::V15 => {
                let length = bucket.u16("length of a bucket's actions")?;
                bucket.take(4, "bucket")?;
                bucket.take(length.into(), "bucket's actions")?
            }
        };
        let mut actions = Actions::default();
        effects::decode_list(list, &mut actions)?;
        found.push(actions);
    }
    Ok(())
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

    #[test]
    fn a_group_that_is_cut_short_is_no_answer() {
        let version = Version::V14;
        let whole = groups(version);
        for cut in 1..whole.len() {
            let part = whole[..cut].to_vec();
            // What is cut behind a whole group is another answer.
            if part.len() == 0x60 {
                continue;
            }
            let mut found = Vec::new();
            let mut reader = Reader::new(&part);
            let mut read = || {
                while !reader.is_empty() {
                    read_group(&mut reader, version, &mut found)?;
                }
                Ok::<_, Malformed>(())
            };
            assert!(read().is_err(), "{cut}");
        }
        for length in ["0000", "0004"] {
            let mut reader = hex(&format!("{length} 0000 00000008"));
            reader.resize(16, 0);
            assert!(read_group(&mut Reader::new(&reader), version, &mut Vec::new()).is_err());
        }
    }
}
