//! Connections to the database that are kept for the next requests.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::{LINE, locked};
use crate::reconcile::Database;
use crate::util::clock::Deadline;

/// So many are kept, and for so long.
const MOST: usize = 4;
const KEPT: Duration = Duration::from_secs(60);

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Databases(Mutex<Vec<(Instant, Database)>>);

impl Databases {
    /// One that an earlier request has kept, or one that will be made.
    pub(super) fn take(&self) -> Database {
        let mut kept = locked(&self.0);
        kept.retain(|(since, _)| since.elapsed() < KEPT);
        kept.pop().map(|(_, database)| database).unwrap_or_default()
    }

    /// Takes in what the server has reported on a connection that is kept. No call waits for it.
    pub(super) fn listen(&self) {
        let kept = locked(&self.0).pop();
        if let Some((_, database)) = kept {
            database.listen(Deadline::after(LINE));
            self.keep(database);
        }
    }

    /// Keeps it for the next request.
    pub(super) fn keep(&self, database: Database) {
        let mut kept = locked(&self.0);
        if kept.len() < MOST {
            kept.push((Instant::now(), database));
        }
    }

    /// Closes those that no request has used for a while.
    pub(super) fn close_idle(&self) {
        locked(&self.0).retain(|(since, _)| since.elapsed() < KEPT);
    }
}
