//! STATUS (CNI spec 1.1.0): is there what ADD needs? Cheap, because runtimes ask every
//! 500 ms; patient, because a busy switch must not make the node NotReady.

use std::time::Duration;

use super::{Failure, Request};
use crate::attachment::State;
use crate::clock::Deadline;
use crate::config::database_socket;
use crate::ovsdb::Client;
use crate::registry::Registry;

pub(super) fn run(request: &Request) -> Result<(), Failure> {
    let patience = request.config.timeout().max(Duration::from_secs(1));
    let deadline = Deadline::after(patience);
    let affected = || {
        let everything = Registry::open_existing(&request.config.state_dir).ok().flatten();
        let everything = everything.and_then(|registry| registry.snapshot().ok());
        everything.is_some_and(|e| {
            e.tombstones.iter().any(|t| t.state == State::Deleting && t.last_error.is_some())
        })
    };
    let unavailable = |what: String| Failure::Unavailable { what, affected: affected() };
    Registry::open(&request.config.state_dir)
        .and_then(|registry| registry.lock(deadline)?.probe())
        .map_err(|failed| unavailable(failed.to_string()))?;
    let socket = database_socket(&request.config.ovs_run_dir());
    Client::connect(&socket, deadline)
        .and_then(|mut client| client.alive())
        .map_err(|failed| unavailable(failed.to_string()))
}
