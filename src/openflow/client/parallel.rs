//! Deleting over several connections to one bridge at once.
//!
//! ovs-vswitchd takes 50 messages of a connection per turn of its main loop, and a turn costs
//! by the ports of the switch, however few messages it takes: most of the time of a long list
//! that comes over one connection. Deletes do not depend on each other, so it does not matter
//! which connection is ahead.

use std::borrow::Borrow;
use std::thread;

use crate::openflow::client::bundle::Applied;
use crate::openflow::client::connection::Connection;
use crate::openflow::codec::entry::Entry;
use crate::openflow::error::Error;

/// Bundles are encoded and errors read: nothing recurses.
const STACK: usize = 256 << 10;

/// [`Connection::delete_strict`] of a list, divided among connections to the same bridge, and
/// `meanwhile` on this thread. When it returns nothing is under way on any of them.
///
/// # Errors
/// As [`Connection::delete_strict`]: one connection's error is the whole list's.
pub fn delete_strict_parallel<E: Borrow<Entry> + Sync>(
    first: &mut Connection,
    others: &mut [Connection],
    entries: &[E],
    meanwhile: impl FnOnce(),
) -> Result<Applied, Error> {
    let share = entries.len().div_ceil(others.len().saturating_add(1)).max(1);
    let done = thread::scope(|scope| {
        let parallel = std::iter::once(&mut *first).chain(others.iter_mut());
        let mut running = Vec::new();
        for (connection, some) in parallel.zip(entries.chunks(share)) {
            let thread = thread::Builder::new().stack_size(STACK);
            running.push(thread.spawn_scoped(scope, || connection.delete_strict(some)).ok());
        }
        meanwhile();
        let end = |running: thread::ScopedJoinHandle<'_, _>| {
            running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        running.into_iter().map(|started| started.map(end)).collect::<Vec<_>>()
    });
    let mut all = Applied::default();
    for (n, (some, applied)) in entries.chunks(share).zip(done).enumerate() {
        // No thread could be started for this share.
        let applied = applied.unwrap_or_else(|| first.delete_strict(some))?;
        all.sent = all.sent.saturating_add(applied.sent);
        let at = n.saturating_mul(share);
        all.refused.extend(applied.refused.into_iter().map(|(i, why)| (at.saturating_add(i), why)));
    }
    Ok(all)
}
