//! A connection to the database that is kept from one clean-up to the next: what has not
//! changed since then is not asked for again.

use std::cell::RefCell;

use crate::ovsdb::Client;
use crate::util::clock::Deadline;

/// The connection, while nobody uses it.
#[derive(Debug, Default)]
pub struct Database(RefCell<Option<Client>>);

impl Database {
    /// Whoever takes it keeps it again when done with it, if it still works.
    pub(super) fn take(&self, deadline: Deadline) -> Option<Client> {
        self.0.take().and_then(|client| client.renewed(deadline))
    }

    pub(super) fn keep(&self, client: Client) {
        self.0.replace(Some(client));
    }

    /// Takes in what the server has to tell, now that there is time: it remembers for us what
    /// we have not heard.
    pub fn listen(&self, deadline: Deadline) {
        let Some(mut client) = self.take(deadline) else { return };
        if client.ask().and_then(|asked| client.answered(asked)).is_ok() {
            self.keep(client);
        }
    }
}
