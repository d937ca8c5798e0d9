//! The plugin asks the daemon to do a clean-up, and does it itself if that is not done soon.
//!
//! Guarantee: whatever the daemon is, or does, or says, the clean-up is done as without it. It
//! costs a small part of the call's time at most.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::time::Duration;

use log::{debug, info};

use super::outcome::Outcome;
use super::wire::{CleanReply, CleanResult, MOST_REPLY, WireRequest};
use super::{CleanRequest, CleanTarget};
use crate::util::clock::{Deadline, ReadUntil, arm, connect_at_once};

/// How long the daemon is waited for, at most; and this part of what the call has left.
const LONGEST: Duration = Duration::from_millis(250);
const PART: u32 = 10;

impl CleanRequest<'_> {
    /// Deletes the targets' entries and settles their records; the daemon does it if it can.
    /// Their tombstones must have been written.
    #[must_use]
    pub fn clean_or_ask(&self, targets: Vec<CleanTarget>) -> Outcome {
        match self.ask(&targets) {
            Ok(CleanReply { result: CleanResult::Done, deleted, withheld, .. }) => {
                let verb = self.verb;
                info!("{verb}: done by the daemon: {deleted} entries deleted, {withheld} withheld");
                return Outcome::new(&targets);
            }
            Ok(CleanReply { result, why, .. }) => {
                debug!("the daemon: {}: {}", result.as_str(), why.unwrap_or_default());
            }
            Err(failed) => debug!("not done by a daemon: {failed}"),
        }
        self.clean(targets)
    }

    fn ask(&self, targets: &[CleanTarget]) -> io::Result<CleanReply> {
        let registry = self.registry.ok_or(io::ErrorKind::NotFound)?;
        let line = |wait| WireRequest::of(self, targets, wait)?.line();
        let wait = patience(self.deadline.left()?);
        let answer = exchange(&registry.daemon_socket(), wait, MOST_REPLY, line)?;
        CleanReply::read(&answer).map_err(io::Error::other)
    }
}

/// How long an answer is waited for by somebody who can do without: a small part of what is left.
pub(super) fn patience(left: Duration) -> Duration {
    LONGEST.min(left / PART)
}

/// What the daemon that has this socket answers to a line, which says how long the answer is waited
/// for. The connection is closed when this returns: the daemon deletes nothing afterwards.
pub(super) fn exchange(
    socket: &Path,
    wait: Duration,
    most: u64,
    line: impl FnOnce(Duration) -> Option<Vec<u8>>,
) -> io::Result<Vec<u8>> {
    let stream = connect_at_once(socket)?;
    let line = line(wait).ok_or_else(|| io::Error::other("this cannot be asked for"))?;
    stream.set_nonblocking(false)?;
    let waiting = ReadUntil { stream: &stream, until: Deadline::after(wait) };
    arm(&stream, waiting.until)?;
    (&stream).write_all(&line)?;
    let mut answer = Vec::new();
    BufReader::new(waiting.take(most)).read_until(b'\n', &mut answer)?;
    if answer.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(answer) }
}
