//! A connection to the database that is kept from one clean-up to the next: what has not
//! changed since then is not asked for again.

use std::cell::RefCell;

use log::debug;

use crate::ovsdb::{Asked, Client};
use crate::util::clock::Deadline;

/// The connection, while nobody uses it, and what was asked ahead.
#[derive(Debug, Default)]
pub struct Database(RefCell<Option<(Client, Option<Asked>)>>);

impl Database {
    /// Whoever takes it keeps it again when done with it, if it still works. It is asked what has
    /// changed, if it was not [before](Self::ask_ahead).
    pub(super) fn take(&self, deadline: Deadline) -> Option<(Client, Asked)> {
        let (client, asked) = self.0.take()?;
        let mut client = client.renewed(deadline)?;
        let asked = asked.map_or_else(|| client.ask(), Ok);
        let asked = asked.inspect_err(|failed| debug!("{failed}; connecting again"));
        Some((client, asked.ok()?))
    }

    pub(super) fn keep(&self, client: Client) {
        self.0.replace(Some((client, None)));
    }

    /// Asks what has changed and does not wait: the clean-up that follows finds the answer there.
    pub fn ask_ahead(&self, deadline: Deadline) {
        let asked = self.take(deadline).map(|(client, asked)| (client, Some(asked)));
        self.0.replace(asked);
    }

    /// Takes in what the server has to tell, now that there is time: it remembers for us what
    /// we have not heard.
    pub fn listen(&self, deadline: Deadline) {
        let Some((mut client, asked)) = self.take(deadline) else { return };
        if client.answered(asked).is_ok() {
            self.keep(client);
        }
    }
}
