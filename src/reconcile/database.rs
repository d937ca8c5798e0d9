//! A connection to the database that is kept from one clean-up to the next: what has not
//! changed since then is not asked for again.

use std::cell::RefCell;

use crate::ovsdb::{Asked, Client};
use crate::util::clock::Deadline;

/// The connection, while nobody uses it, and what was asked ahead.
#[derive(Debug, Default)]
pub struct Database(RefCell<Option<(Client, Option<Asked>)>>);

impl Database {
    /// Whoever takes it keeps it again when done with it, if it still works.
    pub(super) fn take(&self, deadline: Deadline) -> Option<(Client, Option<Asked>)> {
        let (client, asked) = self.0.take()?;
        Some((client.renewed(deadline)?, asked))
    }

    pub(super) fn keep(&self, client: Client) {
        self.0.replace(Some((client, None)));
    }

    /// Asks what has changed and does not wait: the clean-up that follows finds the answer there.
    pub fn ask_ahead(&self, deadline: Deadline) {
        let Some((mut client, None)) = self.take(deadline) else { return };
        if let Ok(asked) = client.ask() {
            self.0.replace(Some((client, Some(asked))));
        }
    }

    /// Takes in what the server has to tell, now that there is time: it remembers for us what
    /// we have not heard.
    pub fn listen(&self, deadline: Deadline) {
        let Some((mut client, asked)) = self.take(deadline) else { return };
        let asked = asked.map_or_else(|| client.ask(), Ok);
        if asked.and_then(|asked| client.answered(asked)).is_ok() {
            self.keep(client);
        }
    }
}
