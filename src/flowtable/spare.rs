//! A connection to a bridge that waits for the next clean-up: a switch with a thousand ports takes two
//! milliseconds to say hello.
//!
//! Guarantee: nothing was asked on it. Whoever takes it closes it in the end, with the flow monitor and
//! the bundles that it was used for. The next one is opened behind that, while nobody waits.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::openflow::{Connection, Opening};
use crate::util::clock::Deadline;

/// For how long the switch's hello is waited for. The switch itself waits for a second.
const HELLO: Duration = Duration::from_secs(1);

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
}

impl Spare {
    /// Takes it out. `None`: there is none, or the switch has closed it.
    pub(super) fn take(&self, deadline: Deadline) -> Option<Connection> {
        let mut state = self.state();
        let State::Ready(mut connection) = std::mem::take(&mut *state) else { return None };
        drop(state);
        connection.set_deadline(deadline);
        connection.updates().is_ok().then_some(connection)
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
            opening @ State::Opening(..) => opening,
        };
        matches!(*state, State::Opening(..))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
