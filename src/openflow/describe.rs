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

impl Connection {
    /// Each table and how many entries it has (internal ones included: a table with 0 need
    /// not be dumped).
    ///
    /// # Errors
    /// As [`Self::dump`].
    pub fn tables(&mut self) -> Result<Vec<(u8, u32)>, Error> {
        let mut tables = Vec::new();
        self.describe(TABLE, &[], "counting flows", &mut |r, _| {
            let mut entry = r.sub(24, "table statistics")?;
            let table = entry.u8("table")?;
            entry.take(3, "table statistics")?;
            tables.push((table, entry.u32("table's entries")?));
            Ok(())
        })?;
        Ok(tables)
    }

    /// The ports of *now*, by number. LOCAL is 65534. Names longer than 15 bytes are cut by
    /// the protocol.
    ///
    /// # Errors
    /// As [`Self::dump`].
    pub fn ports(&mut self) -> Result<Vec<(u16, String)>, Error> {
        let mut ports = Vec::new();
        // 1.5 asks for one port or, as here, any.
        let any = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
        let body: &[u8] = if self.version() == Version::V15 { &any } else { &[] };
        self.describe(PORT_DESCRIPTION, body, "listing ports", &mut |r, version| {
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
        self.describe(DESCRIPTION, &[], "asking its version", &mut |r, _| {
            r.take(512, "manufacturer and hardware")?;
            let text = r.take(256, "software description")?;
            r.take(288, "serial number and datapath description")?;
            let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
            software = String::from_utf8_lossy(text).into_owned();
            Ok(())
        })?;
        Ok(software)
    }

    /// One multipart exchange; `each` reads one item.
    fn describe(
        &mut self,
        what: u16,
        request: &[u8],
        doing: &'static str,
        each: &mut dyn FnMut(&mut Reader<'_>, Version) -> Result<(), Malformed>,
    ) -> Result<(), Error> {
        let xid = self.xids(1);
        let mut out = Vec::new();
        self.encode(&mut out, kind::MULTIPART_REQUEST, xid, doing, |out| {
            out.extend_from_slice(&what.to_be_bytes());
            out.extend_from_slice(&[0; 6]);
            out.extend_from_slice(request);
            Ok(())
        })?;
        self.send(&out, doing)?;
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
