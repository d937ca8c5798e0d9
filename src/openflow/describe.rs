//! What the switch says about itself: tables, ports, version.

use super::connection::Connection;
use super::dump::multipart;
use super::error::{Error, Malformed};
use super::hello::Version;
use super::port;
use super::wire::{Reader, kind};

const DESCRIPTION: u16 = 0;
const TABLE: u16 = 3;
const PORT_DESCRIPTION: u16 = 13;
const COUNTING: &str = "counting flows";
const LISTING: &str = "listing ports";

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
