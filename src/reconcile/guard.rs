//! The window between the scan that shows an entry and its deletion.
//!
//! A strict delete hits whatever has the table, priority, match and cookie when it is done. A
//! controller that puts the same entry anew in between, for the address's next owner, would
//! lose it. So the switch is asked, before the scan, to tell of every change in the order in
//! which they happen ([`crate::openflow::Connection::watch`]):
//!
//! - what was put anew before the commit is not deleted;
//! - what was put anew and then removed while our deletes were under way was hit by them, and
//!   is put back at once, as it was put;
//! - what is gone after a pause of the switch's telling may have been put anew or changed in the
//!   pause. Nobody can know that afterwards, so it is a suspicion.
//!
//! Nothing in OpenFlow adds an entry only if it is not there (OFPFF_CHECK_OVERLAP does not
//! refuse to replace the same entry). So the switch's word is asked before and behind: who has
//! put it back himself in the meantime is left alone, and who did so in the moment in which we
//! put it back has his own put back again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use log::{debug, error};

use super::plan::DeleteId;
use super::scan::Candidate;
use crate::flowtable::{Changes, FlowSink, Parallel, Reporting};
use crate::model::table::Table;
use crate::openflow::{Applied, Entry, Error, FlowKey, Update, What};
use crate::util::clock::Deadline;
use crate::util::logging::Often;

/// Deletes that are under way on the connection that puts back what they hit: a bundle.
const AT_ONCE: usize = 1_000;
/// Put back in one bundle: the first are not to wait for the last.
const LOT: usize = 100;
/// For how long a switch that has paused its telling is waited for.
const MONITOR_WAIT: Duration = Duration::from_millis(200);
/// How long nothing may be heard while others delete.
const TICK: Duration = Duration::from_millis(1);
/// Whoever calls us may be out of time: what was hit goes back nevertheless.
const GRACE: Duration = Duration::from_secs(2);
/// A controller that puts its entries more often than this while we put them back has them there.
const ROUNDS: u8 = 16;
const STACK: usize = 256 << 10;

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DeleteOutcome {
    /// The switch has not said: a dump does.
    Unknown,
    /// It is gone, and nobody has put it since.
    Gone,
    /// It is gone, and the switch paused its telling while it was being deleted: somebody may have
    /// put another one in its place, or changed it, and that may be what is gone.
    GoneUntold,
    /// It is gone, and somebody has put it again.
    Again,
    /// Somebody has put it anew, and that one is there.
    Newer,
    /// Somebody had put it anew, and that one was deleted and is there again.
    PutBack,
    /// The same, and the switch did not tell whether somebody put yet another one meanwhile.
    PutBackUntold,
    /// Somebody had put it anew, and that one was deleted and could not be put back.
    Lost,
}

impl DeleteOutcome {
    /// Why the entry may be one of a living pod's that is gone, or not the latest.
    pub(super) fn suspicion(self) -> Option<&'static str> {
        match self {
            Self::Lost => Some("put anew while it was being deleted, and not put back"),
            Self::GoneUntold => {
                Some("deleted while the switch did not tell who else put or changed it")
            }
            Self::PutBackUntold => {
                Some("put back while the switch did not tell who else put it, may be outdated")
            }
            _ => None,
        }
    }
}

#[derive(Debug)]
enum State {
    Listed,
    Gone,
    /// Somebody put it since the scan.
    Newer(Box<Update>),
    /// That one was deleted.
    Hit(Box<Update>),
    /// It is on its way back.
    Mending,
    Back,
    Lost,
    /// A dump has found another one in its place.
    Another,
}

#[derive(Debug)]
struct TrackedEntry<'l> {
    candidate: &'l Candidate,
    state: State,
    /// The one that was scanned is gone.
    gone: bool,
    /// Its delete may still be under way.
    flying: bool,
    /// It was not deleted, as it may be a newer one.
    held: bool,
    /// The switch paused its telling while this was deleted, or put back.
    untold: bool,
    /// How often it was put back.
    tries: u8,
}

/// What the switch tells of the entries that are to go.
#[derive(Debug)]
pub(super) struct ReplaceGuard<'l> {
    bridge: String,
    entries: Table<DeleteId, TrackedEntry<'l>>,
    /// Where in `entries` each is.
    places: HashMap<FlowKey<'l>, DeleteId>,
    /// Those that were hit.
    hit: Vec<DeleteId>,
    /// The number of the first change that was not heard yet.
    heard: u64,
    /// The switch does not report what is put: nothing is deleted.
    misses_changes: bool,
    /// It did not while deletes were under way.
    pub(super) has_missed: bool,
}

impl<'l> ReplaceGuard<'l> {
    /// Of a plan's entries; none if the switch does not tell.
    pub(super) fn over(
        table: &dyn FlowSink,
        bridge: &str,
        planned: impl Iterator<Item = &'l Candidate>,
    ) -> Option<Self> {
        if !table.is_watching() {
            debug!(
                "bridge {bridge}: does not tell what changes: it is not known what a delete hits"
            );
            return None;
        }
        let tracked = |candidate: &'l Candidate| TrackedEntry {
            candidate,
            state: State::Listed,
            gone: false,
            flying: false,
            held: false,
            untold: false,
            tries: 0,
        };
        let entries: Table<_, _> = planned.map(tracked).collect();
        let keys = entries.iter().map(|(id, tracked)| (tracked.candidate.entry.key(), id));
        let (places, hit) = (keys.collect(), Vec::new());
        let heard = entries.values().map(|tracked| tracked.candidate.seq).min().unwrap_or_default();
        let bridge = bridge.to_owned();
        Some(Self { bridge, entries, places, hit, heard, misses_changes: false, has_missed: false })
    }

    /// Hears what was told up to now: right before a commit.
    pub(super) fn listen(&mut self, table: &mut dyn FlowSink) -> Result<(), Error> {
        let reporting = self.hear_out(table, Deadline::after(MONITOR_WAIT))?;
        table.has_missed();
        self.misses_changes = reporting != Reporting::Complete;
        Ok(())
    }

    /// Hears what was told up to now, and waits for the end of a pause: it tells what is there.
    fn hear_out(
        &mut self,
        table: &mut dyn FlowSink,
        resumed: Deadline,
    ) -> Result<Reporting, Error> {
        let mut reporting = self.hear_since(table, Duration::ZERO)?;
        while reporting == Reporting::Paused && !resumed.passed() {
            reporting = self.hear_since(table, TICK)?;
        }
        Ok(reporting)
    }

    /// Hears what has changed since the scan and was not heard yet.
    fn hear_since(&mut self, table: &mut dyn FlowSink, wait: Duration) -> Result<Reporting, Error> {
        let Changes { updates, reporting } = table.changes_since(self.heard, wait)?;
        self.hear(updates);
        Ok(reporting)
    }

    /// Whether somebody has put this one since the scan, or may have.
    pub(super) fn is_newer(&self, id: DeleteId) -> bool {
        self.misses_changes
            || matches!(self.outcome_of(id), DeleteOutcome::Newer | DeleteOutcome::Again)
    }

    pub(super) fn outcome_of(&self, id: DeleteId) -> DeleteOutcome {
        let Some(tracked) = self.entries.get(id) else { return DeleteOutcome::Unknown };
        match tracked.state {
            State::Listed | State::Newer(_) if tracked.held => DeleteOutcome::Newer,
            State::Listed => DeleteOutcome::Unknown,
            State::Gone if tracked.untold => DeleteOutcome::GoneUntold,
            State::Gone => DeleteOutcome::Gone,
            State::Newer(_) if tracked.gone => DeleteOutcome::Again,
            // It may have been put once more, and deleted, and neither was told.
            State::Newer(_) if self.has_missed => DeleteOutcome::Unknown,
            State::Newer(_) => DeleteOutcome::Newer,
            State::Another => DeleteOutcome::Again,
            State::Back if tracked.untold => DeleteOutcome::PutBackUntold,
            State::Back => DeleteOutcome::PutBack,
            State::Hit(_) | State::Mending | State::Lost => DeleteOutcome::Lost,
        }
    }

    /// Takes in what a dump has found in the place of a deleted entry. Whether that is the entry
    /// which was to go, and not one that somebody has put since: the switch has told of it, or
    /// its age says so (what is put in a pause is told only when the pause is over).
    pub(super) fn is_still(&mut self, id: DeleteId, younger: bool) -> bool {
        let Some(tracked) = self.entries.get_mut(id) else { return !younger };
        let another = younger || matches!(tracked.state, State::Newer(_));
        if another {
            tracked.state = State::Another;
        }
        !another
    }

    /// Deletes these, over `parallel` if there are any, and puts back what should not have been
    /// hit. `meanwhile` is done on this thread while others delete.
    pub(super) fn delete(
        &mut self,
        table: &mut dyn FlowSink,
        parallel: &mut Parallel,
        chunk: &[DeleteId],
        meanwhile: impl FnOnce(),
    ) -> Result<Applied, Error> {
        let (mut all, mut meanwhile) = (Applied::default(), Some(meanwhile));
        // With others to delete, this connection is free to put back at any time.
        let at_once = if parallel.is_empty() { AT_ONCE } else { usize::MAX };
        let mut rest = (0..).zip(chunk.iter().copied()).peekable();
        while rest.peek().is_some() {
            self.listen(table)?;
            let mut going: Vec<(usize, DeleteId)> = rest.by_ref().take(at_once).collect();
            going.retain(|(_, id)| {
                let newer = self.is_newer(*id);
                if let Some(tracked) = self.entries.get_mut(*id) {
                    (tracked.flying, tracked.held) = (!newer, newer);
                }
                !newer
            });
            let (places, going): (Vec<usize>, Vec<DeleteId>) = going.into_iter().unzip();
            let entries = self.entries_of(&going);
            let deleted = if parallel.is_empty() {
                self.delete_here(table, (&going, &entries))?
            } else {
                let meanwhile = meanwhile.take();
                self.delete_over(table, parallel, &entries, || {
                    if let Some(meanwhile) = meanwhile {
                        meanwhile();
                    }
                })?
            };
            self.landed(&going);
            if self.has_missed {
                // Whoever has put his behind our deletes has not lost it.
                self.hear_out(table, Deadline::after(MONITOR_WAIT))?;
            }
            all.sent = all.sent.saturating_add(deleted.sent);
            let refused = deleted.refused.into_iter();
            all.refused.extend(refused.filter_map(|(i, why)| Some((*places.get(i)?, why))));
        }
        Ok(all)
    }

    fn entries_of(&self, ids: &[DeleteId]) -> Vec<&'l Entry> {
        let tracked = ids.iter().filter_map(|id| self.entries.get(*id));
        tracked.map(|tracked| &tracked.candidate.entry).collect()
    }

    fn delete_here(
        &mut self,
        table: &mut dyn FlowSink,
        (going, entries): (&[DeleteId], &[&Entry]),
    ) -> Result<Applied, Error> {
        table.has_abbreviated();
        let applied = table.delete_strict(entries);
        self.has_missed |= table.has_abbreviated();
        self.hear(table.noted());
        self.note_pause(table);
        if applied.is_ok() {
            self.landed(going);
        }
        // Also if it came to no good end: part of it may be done.
        let mended = self.mend(table);
        let applied = applied?;
        mended.map(|()| applied)
    }

    fn delete_over(
        &mut self,
        table: &mut dyn FlowSink,
        parallel: &mut Parallel,
        entries: &[&Entry],
        meanwhile: impl FnOnce(),
    ) -> Result<Applied, Error> {
        let done = AtomicBool::new(false);
        let (applied, watched) = thread::scope(|scope| {
            let watching = || self.mend_until(table, &done);
            let watcher = thread::Builder::new().stack_size(STACK);
            let watcher = watcher.spawn_scoped(scope, watching).ok();
            let applied =
                parallel.delete_strict(entries, meanwhile).unwrap_or(Ok(Applied::default()));
            done.store(true, Ordering::Release);
            let end = |watcher: thread::ScopedJoinHandle<'_, _>| {
                watcher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            (applied, watcher.map(end))
        });
        // There was no thread to be had for it.
        let watched = watched.unwrap_or_else(|| self.mend_until(table, &done));
        let applied = applied?;
        watched.map(|()| applied)
    }

    /// The second try, of entries that match on "untagged".
    pub(super) fn delete_vlan_tci(
        &mut self,
        table: &mut dyn FlowSink,
        chunk: &[DeleteId],
    ) -> Result<(), Error> {
        let entries: Vec<Entry> = self.entries_of(chunk).into_iter().cloned().collect();
        for id in chunk {
            if let Some(tracked) = self.entries.get_mut(*id) {
                tracked.flying = true;
            }
        }
        let applied = table.delete_vlan_tci(&entries);
        self.hear(table.noted());
        self.note_pause(table);
        if applied.is_ok() {
            self.landed(chunk);
        }
        self.mend(table)?;
        applied
    }

    /// How many were hit and are not back, or perhaps not the latest. For when it all ended in
    /// an error.
    pub(super) fn lost(&self) -> u64 {
        let lost = self.entries.iter().filter_map(|(id, tracked)| {
            let what = self.outcome_of(id).suspicion()?;
            let (bridge, entry) = (&self.bridge, &tracked.candidate.entry);
            error!("bridge {bridge}: {what}, check that pod: {entry}");
            Some(())
        });
        u64::try_from(lost.count()).unwrap_or(u64::MAX)
    }

    /// Takes note of a pause since the last call, and whether there was one. A delete that is under
    /// way in a pause may hit what was put or changed in it. The switch tells of none of the three,
    /// and not by whom an entry is removed that was there before the pause.
    fn note_pause(&mut self, table: &mut dyn FlowSink) -> bool {
        let paused = table.has_missed();
        if paused {
            self.has_missed = true;
            let flying = self.entries.values_mut().filter(|tracked| tracked.flying);
            flying.for_each(|tracked| tracked.untold = true);
        }
        paused
    }

    /// The deletes of these are done.
    fn landed(&mut self, ids: &[DeleteId]) {
        for id in ids {
            if let Some(tracked) = self.entries.get_mut(*id) {
                tracked.flying = false;
            }
        }
    }

    /// Puts back what others' deletes hit, until they are done.
    fn mend_until(&mut self, table: &mut dyn FlowSink, done: &AtomicBool) -> Result<(), Error> {
        while !done.load(Ordering::Acquire) {
            self.hear_since(table, TICK)?;
            self.mend(table)?;
        }
        // What they did was told before this is answered.
        table.barrier()?;
        self.hear(table.noted());
        self.note_pause(table);
        self.mend(table)
    }

    /// Puts back what was hit, as far as the switch has told by now.
    fn mend(&mut self, table: &mut dyn FlowSink) -> Result<(), Error> {
        self.hear(table.noted());
        if self.hit.is_empty() {
            return Ok(());
        }
        let before = table.deadline();
        if before.left().is_ok_and(|left| left < GRACE) || before.passed() {
            table.set_deadline(Deadline::after(GRACE));
        }
        let mended = self.put_back(table);
        table.set_deadline(before);
        mended
    }

    /// Some of those that were hit, as they are put back.
    fn take_hit(&mut self) -> (Vec<DeleteId>, Vec<Entry>) {
        let (mut ids, mut entries) = (Vec::new(), Vec::new());
        for id in self.hit.drain(..self.hit.len().min(LOT)) {
            let Some(tracked) = self.entries.get_mut(id) else { continue };
            tracked.state = match std::mem::replace(&mut tracked.state, State::Lost) {
                State::Hit(_) if tracked.tries >= ROUNDS => State::Back,
                State::Hit(newer) => match newer.entry(&tracked.candidate.entry) {
                    Ok(entry) => {
                        tracked.tries += 1;
                        ids.push(id);
                        entries.push(entry);
                        State::Mending
                    }
                    Err(bad) => {
                        error!("bridge {}: cannot put back what was deleted: {bad}", self.bridge);
                        State::Lost
                    }
                },
                other => other,
            };
        }
        (ids, entries)
    }

    fn put_back(&mut self, table: &mut dyn FlowSink) -> Result<(), Error> {
        let resumed = Deadline::after(MONITOR_WAIT);
        // More may be hit while these go back.
        while !self.hit.is_empty() {
            // Whoever was quicker than us has put a newer one.
            self.hear_out(table, resumed)?;
            self.note_pause(table);
            let (ids, entries) = self.take_hit();
            if entries.is_empty() {
                continue;
            }
            let added = table.add(&entries)?;
            for (index, why) in &added.refused {
                let Some((entry, id)) = entries.get(*index).zip(ids.get(*index)) else {
                    continue;
                };
                error!("bridge {}: {why}: could not put back {entry}", self.bridge);
                if let Some(tracked) = self.entries.get_mut(*id) {
                    tracked.state = State::Lost;
                }
            }
            // Who put one between the delete and our answer to it may have been overwritten.
            self.hear(table.noted());
            let paused = self.note_pause(table);
            for (id, entry) in ids.iter().zip(&entries) {
                let Some(tracked) = self.entries.get_mut(*id) else { continue };
                if matches!(tracked.state, State::Mending) {
                    tracked.state = State::Back;
                    tracked.untold |= paused;
                    Often::PutBack.say(&format_args!(
                        "bridge {}: put back at once what was put anew while it was being \
                         deleted: {entry}",
                        self.bridge
                    ));
                }
            }
        }
        Ok(())
    }

    fn hear(&mut self, updates: Vec<Update>) {
        for update in updates {
            self.heard = self.heard.max(update.at.saturating_add(1));
            let Some(id) = self.places.get(&update.key()).copied() else { continue };
            let Some(tracked) = self.entries.get_mut(id) else { continue };
            if update.at < tracked.candidate.seq {
                continue;
            }
            let (state, what) = (std::mem::replace(&mut tracked.state, State::Lost), update.what);
            tracked.state = match (state, what) {
                (State::Listed | State::Gone | State::Newer(_) | State::Hit(_), What::Put) => {
                    State::Newer(Box::new(update))
                }
                (State::Listed, What::Removed) => {
                    tracked.gone = true;
                    State::Gone
                }
                (State::Newer(newer), What::Removed) if tracked.flying => {
                    self.hit.push(id);
                    State::Hit(newer)
                }
                // Whoever put it took it away.
                (State::Newer(_), What::Removed) => {
                    tracked.gone = true;
                    State::Gone
                }
                (State::Mending, What::Put) => {
                    tracked.untold = false;
                    self.hit.push(id);
                    State::Hit(Box::new(update))
                }
                (other, _) => other,
            };
        }
    }
}

#[cfg(test)]
mod tests;
