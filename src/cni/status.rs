//! STATUS (CNI spec 1.1.0): ok for every request that can be read.
//!
//! A STATUS that fails makes the node NotReady, and after five minutes all its pods are evicted.
//! No trouble of ours is worth that: a switch that is away is the OVS plugin's to report, and
//! what ADD would refuse, ADD says. So what is wrong goes to standard error only. Nothing is
//! written and no lock is taken, because runtimes ask every 500 ms.

use std::path::Path;
use std::time::Duration;

use log::warn;
use nix::errno::Errno;
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};

use super::Request;
use crate::config::database_socket;
use crate::ovsdb::Client;
use crate::store::Registry;
use crate::util::clock::Deadline;

/// How long OVSDB may take to answer, at most. The next STATUS asks again.
const MOST: Duration = Duration::from_secs(1);

pub(super) fn run(request: &Request) {
    state(&request.config.state_dir);
    let deadline = Deadline::after(request.config.timeout().min(MOST));
    let socket = database_socket(&request.config.ovs_run_dir());
    if let Err(failed) = Client::connect(&socket, deadline).and_then(|mut client| client.alive()) {
        warn!("OVSDB does not answer, pods that end now wait for their clean-up: {failed}");
    }
}

/// Says what ADD would refuse about the state directory. ADD makes one that is not there.
fn state(dir: &Path) {
    match Registry::open_existing(dir) {
        Err(failed) => warn!("ADD will fail: {failed}"),
        Ok(None) => {}
        Ok(Some(_)) => {
            if let Err(errno) = writable(dir) {
                warn!("ADD will fail: cannot write to {}: {errno}", dir.display());
            }
        }
    }
}

fn writable(dir: &Path) -> Result<(), Errno> {
    access(dir, AccessFlags::W_OK | AccessFlags::X_OK)?;
    let room = statvfs(dir)?;
    // Some file systems have no limit of files and say 0 of 0.
    let no_files = room.files() > 0 && room.files_available() == 0;
    if room.blocks_available() == 0 || no_files { Err(Errno::ENOSPC) } else { Ok(()) }
}
