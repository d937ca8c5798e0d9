//! What lets the daemon work for calls that wait for it.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};

use crate::model::attachment::Key;
use crate::util::clock::Stamp;

/// The call's permission to delete for it: its connection for as long as it is open, until the
/// call's deadline.
///
/// A call that will not wait any longer closes the connection and does the work itself. The
/// kernel knows of that at once, also while the daemon stands still: a daemon that was frozen and
/// goes on when an address has its next owner finds the connection closed, and deletes nothing.
/// A call that is killed closes it, too. Nothing of a lease is left on disk.
#[derive(Debug)]
pub struct Lease {
    stream: UnixStream,
    until_ms: u64,
}

impl Lease {
    /// One on this connection, until this moment of `CLOCK_BOOTTIME`, in milliseconds.
    #[must_use]
    pub fn new(stream: UnixStream, until_ms: u64) -> Self {
        Self { stream, until_ms }
    }

    /// The connection.
    #[must_use]
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Whether the call still waits. A call that sends more than its request is not understood.
    #[must_use]
    pub fn holds(&self) -> bool {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        let open = loop {
            match recv(self.stream.as_raw_fd(), &mut [0], flags) {
                Err(Errno::EINTR) => {}
                told => break told == Err(Errno::EAGAIN),
            }
        };
        open && Stamp::now().boot_ms < self.until_ms
    }
}

/// The leases of the calls that a clean-up is for, each with the keys of its dead.
#[derive(Debug, Default)]
pub struct Leases<'l>(Vec<(&'l Lease, Vec<Key>)>);

impl<'l> Leases<'l> {
    /// One more call.
    pub fn add<'k>(&mut self, lease: &'l Lease, keys: impl Iterator<Item = &'k Key>) {
        self.0.push((lease, keys.cloned().collect()));
    }

    /// Whether one of the calls still waits.
    pub(super) fn any_holds(&self) -> bool {
        self.0.iter().any(|(lease, _)| lease.holds())
    }

    /// Of each attachment whether a call still waits for its clean-up.
    pub(super) fn holding<'k>(&self, keys: impl Iterator<Item = &'k Key>) -> Vec<bool> {
        let holds: Vec<bool> = self.0.iter().map(|(lease, _)| lease.holds()).collect();
        let calls = || self.0.iter().zip(&holds).filter(|(_, holds)| **holds);
        keys.map(|key| calls().any(|((_, keys), _)| keys.contains(key))).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::Shutdown;

    use super::*;

    fn lease(until_ms: u64) -> (UnixStream, Lease) {
        let (call, daemon) = UnixStream::pair().unwrap();
        (call, Lease::new(daemon, until_ms))
    }

    #[test]
    fn it_holds_while_the_call_waits() {
        let later = Stamp::now().boot_ms + 60_000;
        let (call, waits) = lease(later);
        assert!(waits.holds());
        drop(call);
        assert!(!waits.holds(), "it has hung up");

        let (call, closed) = lease(later);
        call.shutdown(Shutdown::Both).unwrap();
        assert!(!closed.holds(), "whoever else has the socket");

        let (mut call, more) = lease(later);
        call.write_all(b"x").unwrap();
        assert!(!more.holds(), "it says more than it should");
    }

    #[test]
    fn each_call_permits_what_is_its_own() {
        let key = |container: &str| Key {
            network: "podnet".parse().unwrap(),
            container: container.parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        let (one, two, other) = (key("c1"), key("c2"), key("c3"));
        let later = Stamp::now().boot_ms + 60_000;
        let ((call, first), (call_of_two, second)) = (lease(later), lease(later));
        let mut leases = Leases::default();
        leases.add(&first, [&one].into_iter());
        leases.add(&second, [&two].into_iter());
        let holding = |leases: &Leases<'_>| leases.holding([&two, &one, &other].into_iter());
        assert_eq!(holding(&leases), [true, true, false]);
        drop(call);
        assert_eq!(holding(&leases), [true, false, false]);
        assert!(leases.any_holds());
        drop(call_of_two);
        assert!(!leases.any_holds());
    }

    #[test]
    fn it_ends_with_the_deadline() {
        let (_call, over) = lease(Stamp::now().boot_ms);
        assert!(!over.holds());
    }
}
