//! The transport: one deadline over everything, xids, echo, and reading while writing.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::openflow::client::bundle::StagedBundle;
use crate::openflow::client::monitor::Monitor;
use crate::openflow::client::ports::FollowedPorts;
use crate::openflow::codec::hello::{Version, Versions, greeting};
use crate::openflow::codec::numbers::*;
use crate::openflow::codec::wire::{self, Layout as _, MessageHeader, Reader};
use crate::openflow::error::{Error, Malformed, SwitchError, bridge_of};
use crate::util::clock::{Deadline, connect_at_once, connect_within};

/// Read at once. Two of the largest messages: a dump's are just below 64 KiB.
const CHUNK: usize = 128 * 1024;
/// How much may pile up unread while we write. Errors echo the offending message, and
/// their number is bounded by what we sent; more than this is no switch.
const MOST_UNREAD: usize = 16 * 1024 * 1024;

/// A connection to one bridge that has agreed on a version.
#[derive(Debug)]
pub struct Connection {
    path: PathBuf,
    stream: UnixStream,
    version: Version,
    deadline: Deadline,
    inbox: Inbox,
    next_xid: u32,
    pub(super) next_bundle: u32,
    /// False once the switch has said that it has no bundles.
    pub(super) bundles: bool,
    /// A bundle that waits for its commit.
    pub(super) staged: Option<StagedBundle>,
    /// What other clients change meanwhile, if we asked for it.
    pub(super) monitor: Monitor,
    /// The bridge's ports, if we asked for reports of them.
    pub(super) followed: FollowedPorts,
}

/// A switch that was hanging does not go on with what was given up: its answer to the first message of
/// a bundle fails. To close the socket is not enough for that. A child that another thread starts has
/// it, too, until its exec.
impl Drop for Connection {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// To be waited for together with others.
impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// A connection on which nothing was said yet.
#[derive(Debug)]
pub struct Opening {
    connection: Connection,
    watching: bool,
}

impl Opening {
    /// The socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.connection.path
    }

    /// [`Connection::watch`] goes out right behind our hello.
    #[must_use]
    pub fn watching(mut self, watching: bool) -> Self {
        self.watching = watching;
        self
    }

    /// Whether the switch has said something.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let mut fds = [PollFd::new(self.connection.stream.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Agrees on a version.
    ///
    /// # Errors
    /// As [`Connection::open`].
    pub fn finish(mut self) -> Result<Connection, Error> {
        self.connection.shake_hands()?;
        if self.watching {
            self.connection.watch()?;
        }
        Ok(self.connection)
    }
}

/// Bytes received and not yet handed out.
#[derive(Debug, Default)]
struct Inbox {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Inbox {
    fn unread(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    /// Room for at least half a [`CHUNK`].
    fn room(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if self.bytes.is_empty() {
            // Zeroed by the kernel, page by page as answers come: most are small.
            self.bytes = vec![0; CHUNK];
        }
        if self.bytes.len().saturating_sub(self.end) < CHUNK / 2 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end.saturating_sub(self.start));
            if self.bytes.len().saturating_sub(self.end) < CHUNK / 2 {
                self.bytes.resize(self.end.saturating_add(CHUNK), 0);
            }
        }
        self.bytes.get_mut(self.end..).unwrap_or_default()
    }
}

/// Messages for one write. Each has the xid after the one before.
#[derive(Debug)]
pub(super) struct Outgoing {
    bytes: Vec<u8>,
    pub(super) version: Version,
    /// The next message's.
    pub(super) xid: u32,
    doing: &'static str,
    /// What was wrong with the first message that could not be encoded.
    encoded: Result<(), Malformed>,
}

impl Outgoing {
    /// Appends a message of the agreed version; `body` writes what follows its header.
    pub(super) fn add(
        &mut self,
        kind: u8,
        body: impl FnOnce(&mut Vec<u8>) -> Result<(), Malformed>,
    ) {
        let encoded = wire::message(&mut self.bytes, self.version, kind, self.xid, body);
        if self.encoded.is_ok() {
            self.encoded = encoded;
        }
        self.xid = self.xid.wrapping_add(1);
    }
}

/// One message: its header, and where its body is in the inbox. Valid until the next
/// message is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message {
    pub(super) version: u8,
    pub(super) kind: u8,
    pub(super) xid: u32,
    start: usize,
    end: usize,
}

impl Connection {
    /// Connects to `<rundir>/<bridge>.mgmt` and agrees on a version: 1.4, else 1.3, else 1.5.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::OnlyVersion10`], [`Error::NoCommonVersion`], and those
    /// of any exchange: [`Error::TimedOut`], [`Error::Closed`], [`Error::Malformed`].
    pub fn open(path: &Path, deadline: Deadline) -> Result<Self, Error> {
        let failed = |source| Error::Connect { path: path.to_owned(), source };
        let stream = connect_within(path, deadline).map_err(failed)?;
        stream.set_nonblocking(true).map_err(failed)?;
        Opening { connection: Self::over(path, stream, deadline), watching: false }.finish()
    }

    /// Connects as [`Self::open`] does, but waits for nothing: the switch takes its time to
    /// say hello, and there may be something else to do meanwhile.
    ///
    /// # Errors
    /// [`Error::Connect`], also where [`Self::open`] would wait.
    pub fn begin(path: &Path, deadline: Deadline) -> Result<Opening, Error> {
        let stream = connect_at_once(path)
            .map_err(|source| Error::Connect { path: path.to_owned(), source })?;
        Ok(Opening { connection: Self::over(path, stream, deadline), watching: false })
    }

    /// [`Self::open`] over a stream that is connected already.
    ///
    /// # Errors
    /// As [`Self::open`].
    #[cfg(feature = "fuzzing")]
    pub(crate) fn on(stream: UnixStream, deadline: Deadline) -> Result<Self, Error> {
        let path = Path::new("/run/openvswitch/br0.mgmt");
        let failed = |source| Error::Connect { path: path.to_owned(), source };
        stream.set_nonblocking(true).map_err(failed)?;
        Opening { connection: Self::over(path, stream, deadline), watching: false }.finish()
    }

    fn over(path: &Path, stream: UnixStream, deadline: Deadline) -> Self {
        Self {
            path: path.to_owned(),
            stream,
            version: Version::V14,
            deadline,
            inbox: Inbox::default(),
            next_xid: 1,
            next_bundle: 1,
            bundles: true,
            staged: None,
            monitor: Monitor::default(),
            followed: FollowedPorts::default(),
        }
    }

    fn shake_hands(&mut self) -> Result<(), Error> {
        let doing = "waiting for its hello";
        let message = self.receive(doing)?;
        let offered = match message.kind {
            OFPT_HELLO => Versions::parse(message.version, self.body(message)),
            _ => Err(Malformed::Unexpected("message before hello")),
        };
        let offered = offered.map_err(|what| self.malformed(doing, what))?;
        let (path, bridge) = (self.path.clone(), bridge_of(&self.path));
        self.version = match offered.best() {
            Some(version) => version,
            None if offered.only_10() => return Err(Error::OnlyVersion10 { path, bridge }),
            None => return Err(Error::NoCommonVersion { path, bridge, offered: offered.list() }),
        };
        let xid = self.xids(2);
        let doing = "saying hello";
        let ours = greeting(self.version, [xid, xid.wrapping_add(1)])
            .map_err(|what| self.malformed(doing, what))?;
        self.send(&ours, doing)
    }

    /// What was agreed on.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The deadline of everything that follows.
    #[must_use]
    pub fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// Replaces the deadline of everything that follows.
    pub fn set_deadline(&mut self, deadline: Deadline) {
        self.deadline = deadline;
    }

    /// Waits until the switch has done everything before.
    ///
    /// # Errors
    /// Those of any exchange.
    pub fn barrier(&mut self) -> Result<(), Error> {
        let doing = "waiting for a barrier";
        let xid = self.xids(1);
        let mut out = self.outgoing(xid, doing);
        out.add(OFPT_BARRIER_REQUEST, |_| Ok(()));
        self.send_all(out)?;
        self.until_barrier(xid, 0, doing, &mut |_, _| {})
    }

    /// Reserves `n` consecutive xids (never 0: unsolicited messages have it); the first.
    pub(super) fn xids(&mut self, n: u32) -> u32 {
        // Far from the end, where `first..` would overflow.
        if self.next_xid > u32::MAX / 2 {
            self.next_xid = 1;
        }
        let first = self.next_xid;
        self.next_xid = first.saturating_add(n);
        first
    }

    /// An empty write; its first message will have this xid.
    pub(super) fn outgoing(&self, xid: u32, doing: &'static str) -> Outgoing {
        Outgoing { bytes: Vec::new(), version: self.version, xid, doing, encoded: Ok(()) }
    }

    /// Sends these messages. Nothing is sent if one of them could not be encoded.
    pub(super) fn send_all(&mut self, out: Outgoing) -> Result<(), Error> {
        out.encoded.map_err(|what| self.malformed(out.doing, what))?;
        self.send(&out.bytes, out.doing)
    }

    /// The body of a message of this kind; its error if it is one.
    pub(super) fn expect(
        &self,
        message: Message,
        kind: u8,
        doing: &'static str,
    ) -> Result<&[u8], Error> {
        if message.kind == kind {
            // Another version's body would be laid out otherwise.
            return if message.version == self.version.wire() {
                Ok(self.body(message))
            } else {
                Err(self.malformed(doing, Malformed::Unexpected("version of a reply")))
            };
        }
        Err(match self.error_in(message, doing)? {
            Some(error) => Error::Switch { path: self.path.clone(), doing, error },
            None => self.malformed(doing, Malformed::Unexpected("type of reply")),
        })
    }

    /// The error a message carries, if it is one.
    pub(super) fn error_in(
        &self,
        message: Message,
        doing: &'static str,
    ) -> Result<Option<SwitchError>, Error> {
        if message.kind != OFPT_ERROR {
            return Ok(None);
        }
        SwitchError::parse(self.body(message)).map(Some).map_err(|what| self.malformed(doing, what))
    }

    pub(super) fn body(&self, message: Message) -> &[u8] {
        self.inbox.bytes.get(message.start..message.end).unwrap_or_default()
    }

    pub(super) fn malformed(&self, doing: &'static str, what: Malformed) -> Error {
        Error::Malformed { path: self.path.clone(), doing, what }
    }

    /// The next message that is for a caller. Callers skip xids that are not theirs: OVS
    /// sends nothing unasked on `.mgmt`, but nothing forbids it.
    pub(super) fn receive(&mut self, doing: &'static str) -> Result<Message, Error> {
        loop {
            match self.parse(doing)? {
                None => self.fill(doing)?,
                Some(message) if self.is_ours(message, doing)? => {}
                Some(message) => return Ok(message),
            }
        }
    }

    /// Takes in what is there and waits for nothing. For when no answer is awaited: what is
    /// for a caller is skipped.
    pub(super) fn take_in(&mut self, doing: &'static str) -> Result<(), Error> {
        loop {
            while let Some(message) = self.parse(doing)? {
                self.is_ours(message, doing)?;
            }
            if !self.read_some(doing)? {
                return Ok(());
            }
        }
    }

    /// Waits until there is something to take in, or for so long.
    pub(super) fn wait_at_most(&self, time: Duration) {
        let time = u16::try_from(time.as_millis()).unwrap_or(u16::MAX);
        let mut fds = [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)];
        // If the socket is broken, the next read says so.
        let _ = poll(&mut fds, PollTimeout::from(time));
    }

    /// Whether a message is for the connection itself, not for a caller. Echo requests are
    /// answered, and updates of the flow monitor are kept.
    fn is_ours(&mut self, message: Message, doing: &'static str) -> Result<bool, Error> {
        match message.kind {
            OFPT_ECHO_REQUEST => self.echo(message, doing)?,
            OFPT_PORT_STATUS if self.followed.asked => self.note_port(message)?,
            // HELLO_FAILED carries no xid of ours.
            OFPT_ERROR if message.xid == 0 => {
                if let Some(error) = self.error_in(message, doing)?
                    && error.kind == OFPET_HELLO_FAILED
                {
                    return Err(Error::Switch { path: self.path.clone(), doing, error });
                }
            }
            OFPT_ERROR if self.staged.as_ref().is_some_and(|it| it.has_member(message.xid)) => {
                let error = self.error_in(message, doing)?;
                self.staged.iter_mut().zip(error).for_each(|(it, why)| it.fail(message.xid, why));
            }
            _ => return self.note(message),
        }
        Ok(true)
    }

    /// Takes a whole message out of the inbox, if there is one.
    fn parse(&mut self, doing: &'static str) -> Result<Option<Message>, Error> {
        let unread = self.inbox.unread();
        if unread.len() < OFP_HEADER_LEN {
            return Ok(None);
        }
        let mut reader = Reader::new(unread);
        let header = MessageHeader::read(self.version, &mut reader);
        let MessageHeader { version, kind, length, xid } =
            header.map_err(|what| self.malformed(doing, what))?;
        let body = usize::from(length).checked_sub(OFP_HEADER_LEN).ok_or_else(|| {
            self.malformed(doing, Malformed::Length { field: "message", value: length.into() })
        })?;
        if reader.left() < body {
            return Ok(None);
        }
        let start = self.inbox.start.saturating_add(OFP_HEADER_LEN);
        let end = start.saturating_add(body);
        self.inbox.start = end;
        Ok(Some(Message { version, kind, xid, start, end }))
    }

    fn echo(&mut self, message: Message, doing: &'static str) -> Result<(), Error> {
        let payload = self.body(message).to_vec();
        let mut out = self.outgoing(message.xid, doing);
        out.add(OFPT_ECHO_REPLY, |body| {
            body.extend_from_slice(&payload);
            Ok(())
        });
        self.send_all(out)
    }

    /// Waits for bytes and takes them.
    fn fill(&mut self, doing: &'static str) -> Result<(), Error> {
        while !self.read_some(doing)? {
            self.wait(PollFlags::POLLIN, doing)?;
        }
        Ok(())
    }

    /// Takes what is there; false if there is nothing. The deadline is checked here, too:
    /// a switch that never stops talking does not outlast it.
    fn read_some(&mut self, doing: &'static str) -> Result<bool, Error> {
        self.deadline.left().map_err(|source| self.io(doing, source))?;
        if self.inbox.unread().len() > MOST_UNREAD {
            return Err(self.malformed(doing, Malformed::Unexpected("flood of messages")));
        }
        let mut stream = &self.stream;
        match stream.read(self.inbox.room()) {
            Ok(0) => Err(Error::Closed { path: self.path.clone(), doing }),
            Ok(n) => {
                self.inbox.end = self.inbox.end.saturating_add(n);
                Ok(true)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(e) => Err(self.io(doing, e)),
        }
    }

    /// Writes all of it. Reads meanwhile: with about 100 of its replies unread the switch
    /// stops reading ours, and a writer that only writes would wait for ever.
    fn send(&mut self, mut bytes: &[u8], doing: &'static str) -> Result<(), Error> {
        while !bytes.is_empty() {
            let mut stream = &self.stream;
            match stream.write(bytes) {
                Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(PollFlags::POLLIN | PollFlags::POLLOUT, doing)?;
                    self.read_some(doing)?;
                }
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
                    return Err(Error::Closed { path: self.path.clone(), doing });
                }
                Err(e) => return Err(self.io(doing, e)),
            }
        }
        Ok(())
    }

    fn wait(&self, events: PollFlags, doing: &'static str) -> Result<(), Error> {
        let left = self.deadline.left().map_err(|source| self.io(doing, source))?;
        // Rounded up, so that the last fraction of a millisecond is not spent spinning.
        let left = u16::try_from(left.as_millis().saturating_add(1)).unwrap_or(u16::MAX);
        let mut fds = [PollFd::new(self.stream.as_fd(), events)];
        match poll(&mut fds, PollTimeout::from(left)) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(self.io(doing, errno.into())),
        }
    }

    fn io(&self, doing: &'static str, source: io::Error) -> Error {
        let path = self.path.clone();
        match source.kind() {
            io::ErrorKind::TimedOut => Error::TimedOut { path, doing },
            io::ErrorKind::ConnectionReset => Error::Closed { path, doing },
            _ => Error::Io { path, doing, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::openflow::testing::Fake;

    #[test]
    fn a_connection_that_was_given_up_ends_though_a_child_has_its_socket() {
        let fake = Fake::new(Version::V14, |peer| {
            let since = Instant::now();
            assert_eq!(peer.next_if_any(), None);
            // Its patience is 10 s.
            assert!(since.elapsed() < Duration::from_secs(5), "nobody has hung up");
        });
        let connection = fake.open().unwrap();
        let of_a_child = connection.stream.try_clone().unwrap();
        drop(connection);
        fake.done();
        drop(of_a_child);
    }
}
