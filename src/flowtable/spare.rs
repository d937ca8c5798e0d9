//! A connection to a bridge that waits for the next clean-up: a switch with a thousand ports takes two
//! milliseconds to say hello.
//!
//! Guarantee: nothing was asked on it, but what a clean-up that is about to begin asks first. Whoever
//! takes it closes it in the end, with the flow monitor and the bundles that it was used for. The next
//! one is opened behind that, while nobody waits.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Groups, Prefetch};
use crate::openflow::{AskedGroups, Connection, Opening};
use crate::util::clock::Deadline;

/// For how long the switch's hello is waited for. The switch itself waits for a second.
const HELLO: Duration = Duration::from_secs(1);
/// For how long what was asked ahead counts: no switch tells when its groups change.
const FRESH: Duration = Duration::from_millis(10);
/// How long a flow monitor may stand that nobody reads.
const UNUSED: Duration = Duration::from_secs(1);

/// The connection, if there is one.
#[derive(Debug, Default)]
pub(super) struct Spare(Mutex<State>);

#[derive(Debug, Default)]
enum State {
    #[default]
    None,
    /// The switch has not said hello yet.
    Opening(Opening, Deadline),
    Ready(Connection),
    /// It tells what changes since then, and was asked for the groups.
    Asked(Connection, AskedGroups, Instant),
}

impl Spare {
    /// Takes it out, with what is asked first. `None`: there is none, or the switch has closed it.
    pub(super) fn take(
        &self,
        deadline: Deadline,
        watching: bool,
        groups: Groups,
    ) -> Option<Prefetch> {
        let mut state = self.state();
        let (mut connection, asked) = match std::mem::take(&mut *state) {
            State::Ready(connection) => (connection, None),
            State::Asked(connection, asked, at) => {
                (connection, Some(asked).filter(|_| at.elapsed() < FRESH))
            }
            none @ (State::None | State::Opening(..)) => {
                *state = none;
                return None;
            }
        };
        drop(state);
        connection.set_deadline(deadline);
        if let Some(asked) = asked {
            return Some(Prefetch::Followed(connection, asked));
        }
        connection.updates().ok()?;
        Prefetch::over(connection, watching, groups)
    }

    /// Asks ahead what the clean-up of a bridge begins with that is followed, and waits for nothing.
    pub(super) fn ask_ahead(&self) {
        let mut state = self.state();
        *state = match std::mem::take(&mut *state) {
            State::Ready(mut connection) => {
                connection.set_deadline(Deadline::after(HELLO));
                let asked = connection.watch().and_then(|()| connection.ask_buckets());
                asked.map_or(State::None, |asked| State::Asked(connection, asked, Instant::now()))
            }
            other => other,
        };
    }

    /// Opens it if there is none, goes on with it if it is being opened, and answers the switch's echo
    /// requests. Waits for nothing. True: it is being opened.
    pub(super) fn keep(&self, path: &Path) -> bool {
        let mut state = self.state();
        *state = match std::mem::take(&mut *state) {
            State::None => {
                let until = Deadline::after(HELLO);
                Connection::begin(path, until)
                    .map_or(State::None, |opening| State::Opening(opening, until))
            }
            State::Opening(opening, _) if opening.is_ready() => {
                opening.finish().map_or(State::None, State::Ready)
            }
            State::Opening(_, until) if until.passed() => State::None,
            State::Ready(mut connection) => {
                connection.set_deadline(Deadline::after(HELLO));
                let works = connection.updates().is_ok();
                if works { State::Ready(connection) } else { State::None }
            }
            State::Asked(_, _, at) if at.elapsed() > UNUSED => State::None,
            other => other,
        };
        matches!(*state, State::Opening(..))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
