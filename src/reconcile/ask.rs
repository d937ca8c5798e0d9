//! The plugin asks the daemon to do a clean-up, and does it itself if that is not done soon.
//!
//! Guarantee: whatever the daemon is, or does, or says, the clean-up is done as without it. It
//! costs half of the time that the call has left at most, and a small part where no daemon accepts it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::time::Duration;

use log::{debug, info};

use super::outcome::Outcome;
use super::wire::CleanResult::{Accepted, Done};
use super::wire::{CleanReply, MOST_REPLY, WireRequest};
use super::{CleanRequest, CleanTarget};
use crate::util::clock::{Deadline, ReadUntil, arm, connect_at_once};

/// How long the daemon's first word is waited for, at most; and this part of what the call has left.
const LONGEST: Duration = Duration::from_millis(250);
const PART: u32 = 10;
/// The same of its work, once it has said that it does it: a node on which many pods end at once has
/// one scan for them, where each call would make its own and all would hold each other up.
const LONGEST_WORK: Duration = Duration::from_secs(2);
const PART_OF_WORK: u32 = 2;

impl CleanRequest<'_> {
    /// Deletes the targets' entries and settles their records; the daemon does it if it can.
    /// Their tombstones must have been written.
    #[must_use]
    pub fn clean_or_ask(&self, targets: Vec<CleanTarget>) -> Outcome {
        match self.ask(&targets) {
            Ok(CleanReply { result: Done, deleted, withheld, .. }) => {
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
        let left = self.deadline.left()?;
        let work = Deadline::after(LONGEST_WORK.min(left / PART_OF_WORK));
        let line = || WireRequest::of(self, targets, work.left().ok()?)?.line();
        let is_accepted =
            |answer: &[u8]| CleanReply::read(answer).is_ok_and(|reply| reply.result == Accepted);
        let longer = |answer: &[u8]| is_accepted(answer).then_some(work);
        let socket = registry.daemon_socket();
        let answer = exchange(&socket, patience(left), MOST_REPLY, line, longer)?;
        CleanReply::read(&answer).map_err(io::Error::other)
    }
}

/// How long an answer is waited for by somebody who can do without: a small part of what is left.
pub(super) fn patience(left: Duration) -> Duration {
    LONGEST.min(left / PART)
}

/// What the daemon that has this socket answers to a line. `longer` says until when another answer
/// is waited for after this one, if it is not the last. The connection is closed when this returns:
/// the daemon deletes nothing afterwards.
pub(super) fn exchange(
    socket: &Path,
    wait: Duration,
    most: u64,
    line: impl FnOnce() -> Option<Vec<u8>>,
    longer: impl FnOnce(&[u8]) -> Option<Deadline>,
) -> io::Result<Vec<u8>> {
    let stream = connect_at_once(socket)?;
    let line = line().ok_or_else(|| io::Error::other("this cannot be asked for"))?;
    stream.set_nonblocking(false)?;
    let waiting = ReadUntil { stream: &stream, until: Deadline::after(wait) };
    arm(&stream, waiting.until)?;
    (&stream).write_all(&line)?;
    let mut answers = BufReader::new(waiting.take(most));
    let mut answer = Vec::new();
    answers.read_until(b'\n', &mut answer)?;
    if let Some(until) = longer(&answer) {
        answers.get_mut().get_mut().until = until;
        answer.clear();
        answers.read_until(b'\n', &mut answer)?;
    }
    if answer.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(answer) }
}
