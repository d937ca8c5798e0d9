//! Who is dead without a DEL.

use std::time::Duration;

use log::{info, warn};

use super::{Cause, Target};
use crate::attachment::{Attachment, State};
use crate::clock::{Deadline, Stamp};
use crate::liveness::brake::brake;
use crate::liveness::netns::judge;
use crate::liveness::{Life, Source};
use crate::registry::{self, Everything, Lock, Registry};

/// How often a sighting is written down. It tells pods that shared a register value from
/// pods that had it one after the other.
const SIGHTING: Duration = Duration::from_secs(10);

/// What liveness says of the node.
#[derive(Debug, Default)]
pub struct Orphans {
    /// Dead, with the sentence that says why.
    pub dead: Vec<(Attachment, String)>,
    /// Alive.
    pub alive: Vec<Attachment>,
    /// Not judged: nobody knows.
    pub unknown: Vec<(Attachment, String)>,
    /// Active records in all.
    pub total: usize,
    /// The brake is pulled: too many at once on the word of one source.
    pub braked: bool,
}

/// Judges every active record.
#[must_use]
pub fn find(everything: &Everything, boot_id: &str) -> Orphans {
    let mut orphans = Orphans { total: everything.attachments.len(), ..Orphans::default() };
    for record in &everything.attachments {
        match judge(record, boot_id) {
            Life::Alive => orphans.alive.push(record.clone()),
            Life::Dead(why) => orphans.dead.push((record.clone(), why.to_string())),
            Life::Unknown(why) => orphans.unknown.push((record.clone(), why.to_string())),
        }
    }
    // Another boot needs no second witness: nothing of it can be alive.
    let doubtful = orphans.dead.iter().filter(|(r, _)| r.boot_id == boot_id).count();
    orphans.braked = brake(orphans.total, &[(Source::Netns, doubtful)]).is_some();
    orphans
}

/// The targets of a sweep: orphans (buried as tombstones first, so that nothing is
/// forgotten if we die) and the tombstones of earlier deaths.
///
/// # Errors
/// If the records cannot be written.
pub fn targets(
    registry: &Registry,
    everything: &Everything,
    orphans: Orphans,
    boot_id: &str,
    act: bool,
    deadline: Deadline,
) -> Result<Vec<Target>, registry::Error> {
    let now = Stamp::now();
    let mut targets: Vec<Target> = everything
        .tombstones
        .iter()
        .map(|t| Target { attachment: died(t.clone(), now, boot_id), cause: Cause::Tombstone })
        .collect();
    let lock = if act { Some(registry.lock(deadline)?) } else { None };
    if let Some(lock) = &lock {
        for record in &orphans.alive {
            if record.seen_alive.until(now) >= SIGHTING {
                lock.update(record, |record| record.seen_alive = now)?;
            }
        }
    }
    for (record, why) in orphans.dead {
        let record = died(record, now, boot_id);
        if let Some(lock) = &lock {
            match bury(lock, &record) {
                Ok(true) => info!("{} ({}) is dead: {why}", record.title(), record.key),
                // DEL or another sweep was quicker: theirs is the tombstone.
                Ok(false) => continue,
                Err(failed) => {
                    warn!("{}: cannot bury its record: {failed}", record.key);
                    return Err(failed);
                }
            }
        }
        targets.push(Target { attachment: record, cause: Cause::Orphan(why) });
    }
    Ok(targets)
}

/// The record of somebody whose death is noticed now, unless it was before.
#[must_use]
pub fn died(mut record: Attachment, now: Stamp, boot_id: &str) -> Attachment {
    if record.boot_id != boot_id {
        // Its stamps count from another boot; it was dead when this one began.
        record.died = Some(Stamp { boot_ms: 0, wall_ms: now.wall_ms.saturating_sub(now.boot_ms) });
        record.born = None;
    }
    record.died.get_or_insert(now);
    if record.state == State::Active {
        record.state = State::Deleting;
    }
    record
}

/// Makes an active record a tombstone, unless somebody else did or another life has the key.
///
/// # Errors
/// If the records cannot be read or written.
pub fn bury(lock: &Lock<'_>, record: &Attachment) -> Result<bool, registry::Error> {
    match lock.get(&record.key)? {
        Some(now) if now.is_same(record) => lock.bury(record).map(|()| true),
        _ => Ok(false),
    }
}
