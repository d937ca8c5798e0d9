//! What the unit tests share: bytes, the golden entry, and a switch that follows a script.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::openflow::Connection;
use crate::openflow::Error;
use crate::openflow::Version;
use crate::util::clock::Deadline;

/// Bytes of hexadecimal digits; spaces are for the reader.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| u8::try_from(c.to_digit(16).unwrap()).unwrap())
        .collect();
    assert_eq!(digits.len() % 2, 0, "{text}");
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// `cookie=0x2a,table=10,priority=100,idle_timeout=60,ip,reg0=0x1005,nw_src=10.244.1.5,
/// actions=output:5,resubmit(,20)` as Open vSwitch 3.1.0 dumps it in 1.3 and 1.4.
pub(crate) const GOLDEN_13: &str = "
    00780a00 00000000 000f4240 0064003c 00000000 00000000
    00000000 0000002a 00000000 00000000 00000000 00000000
    0001001a 80000a02 0800 80001604 0af40105 00010004 00001005 0000 00000000
    00040028 00000000 00000010 00000005 00000000 00000000 ffff0010 00002320 000efff8 14000000";

/// The same in 1.5.
pub(crate) const GOLDEN_15: &str = "
    00a00000 0a000064 003c0000 00000000 00000000 0000002a
    0001 0026 80000a02 0800 80001604 0af40105 80010110 0000100500000000 ffffffff00000000 0000
    00000034 80020008 00000000002dc6c0 80020208 0000000000000000 80020808 0000000000000000
    80020a08 0000000000000000 00000000
    00040028 00000000 00000010 00000005 00000000 00000000 ffff0010 00002320 000efff8 14000000";

/// The far end of a connection.
pub(crate) struct Peer {
    stream: UnixStream,
    version: u8,
}

impl Peer {
    pub(crate) fn send(&mut self, kind: u8, xid: u32, body: &[u8]) {
        let length = u16::try_from(body.len() + 8).unwrap();
        let mut out = vec![self.version, kind];
        out.extend(length.to_be_bytes());
        out.extend(xid.to_be_bytes());
        out.extend(body);
        self.raw(&out);
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        // The client may have had enough by now.
        drop(self.stream.write_all(bytes));
    }

    /// Type, xid and body of the client's next message.
    pub(crate) fn next(&mut self) -> (u8, u32, Vec<u8>) {
        self.next_if_any().unwrap()
    }

    /// The same; none if it has hung up.
    pub(crate) fn next_if_any(&mut self) -> Option<(u8, u32, Vec<u8>)> {
        let mut header = [0; 8];
        self.stream.read_exact(&mut header).ok()?;
        let length = u16::from_be_bytes([header[2], header[3]]);
        let mut body = vec![0; usize::from(length) - 8];
        self.stream.read_exact(&mut body).unwrap();
        Some((header[1], u32::from_be_bytes(header[4..].try_into().unwrap()), body))
    }
}

/// A switch that offers one version, shakes hands, and then follows the script.
pub(crate) struct Fake {
    _directory: tempfile::TempDir,
    path: std::path::PathBuf,
    thread: Option<JoinHandle<()>>,
}

impl Fake {
    pub(crate) fn new(version: Version, script: impl FnOnce(&mut Peer) + Send + 'static) -> Self {
        let wire = version.wire();
        Self::raw(wire, move |peer| {
            let bitmap = (1_u32 << wire).to_be_bytes();
            peer.send(0, 1, &[&[0, 1, 0, 8], bitmap.as_slice()].concat());
            let (kind, _, body) = peer.next();
            assert_eq!((kind, body.len()), (0, 8));
            assert_eq!(peer.next().0, 5, "FEATURES_REQUEST must follow our hello");
            script(peer);
        })
    }

    /// One that does not even say hello by itself.
    pub(crate) fn raw(version: u8, script: impl FnOnce(&mut Peer) + Send + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("br0.mgmt");
        let listener = UnixListener::bind(&path).unwrap();
        let thread = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            script(&mut Peer { stream, version });
        });
        Self { _directory: directory, path, thread: Some(thread) }
    }

    pub(crate) fn open(&self) -> Result<Connection, Error> {
        Connection::open(&self.path, Deadline::after(Duration::from_secs(5)))
    }

    /// Waits for the script's end; its assertions count.
    pub(crate) fn done(mut self) {
        self.thread.take().unwrap().join().unwrap();
    }
}
