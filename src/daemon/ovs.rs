//! Watches the interfaces in OVSDB, on a thread of its own.

use std::sync::Arc;
use std::time::Duration;

use log::{debug, info, warn};

use super::metrics::Server;
use super::scheduler::{RETRY, Reason};
use super::{Shared, Thread};
use crate::config::database_socket;
use crate::ovsdb;
use crate::ovsdb::watch::{Change, Watcher};
use crate::util::backoff::{back_off, chance};
use crate::util::clock::Deadline;

/// For connecting, and for answering a probe: a busy server may take a while.
const ANSWER: Duration = Duration::from_secs(5);
/// Between tries to reach a server that is away, at most.
const RECONNECT: Duration = Duration::from_secs(5);

/// Runs until the daemon ends.
pub(super) fn start(shared: Arc<Shared>) -> Result<Thread, super::Error> {
    super::spawn("ovsdb", move || watch(&shared))
}

fn watch(shared: &Shared) {
    let (mut failures, mut before) = (0, false);
    while !shared.wakeup.stopped() {
        let failed = match connect(shared) {
            Ok(watcher) => {
                info!("ovsdb-server answers");
                shared.server(Server::Ovsdb, true);
                if before || failures > 0 {
                    // What happened meanwhile is unknown.
                    shared.wakeup.wake(Reason::Database);
                }
                (before, failures) = (true, 0);
                follow(shared, watcher)
            }
            Err(failed) => failed,
        };
        shared.server(Server::Ovsdb, false);
        failures += 1;
        if failures == 1 {
            warn!("{failed}; trying again");
        } else {
            debug!("{failed}; trying again");
        }
        shared.database.wait(back_off(failures, RETRY, RECONNECT, chance()));
    }
}

fn connect(shared: &Shared) -> Result<Watcher, ovsdb::Error> {
    Watcher::start(&database_socket(&shared.run_dir), Deadline::after(ANSWER))
}

/// Wakes the sweeper for changes, until the connection is lost.
fn follow(shared: &Shared, mut watcher: Watcher) -> ovsdb::Error {
    // Not much more often than anything else happens on a quiet node.
    let quiet = shared.options.interval.max(ANSWER);
    loop {
        let changes = match watcher.next(quiet, ANSWER) {
            Ok(changes) => changes,
            Err(failed) => return failed,
        };
        for change in &changes {
            debug!("OVSDB: {change:?}");
        }
        for change in changes {
            shared.wakeup.wake(match change {
                Change::Removed(_) | Change::Failed(_) => Reason::Interface,
                Change::Numbered(_) => Reason::Port,
                Change::Unknown => Reason::Database,
            });
        }
    }
}
