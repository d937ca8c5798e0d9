//! Applying many FLOW_MODs: in bundles, or one by one with barriers where there are none.
//!
//! A bundle of 1,000 stalls the switch 2 to 4 ms and buys one table version and one
//! acknowledgement. OPEN, every ADD and COMMIT go out together: the switch works in order,
//! so the COMMIT's answer comes after every ADD's error.

use std::borrow::Borrow;
use std::collections::VecDeque;

use crate::openflow::client::connection::{Connection, Message, Outgoing};
use crate::openflow::client::dump::PIPELINE;
use crate::openflow::codec::bundle_message::BundleMessage;
use crate::openflow::codec::entry::{Entry, RawEntry};
use crate::openflow::codec::filter::Filter;
use crate::openflow::codec::flow_mod::{self, Change};
use crate::openflow::codec::hello::Version;
use crate::openflow::codec::numbers::*;
use crate::openflow::codec::wire::{self, Layout as _, Reader};
use crate::openflow::error::{Error, Malformed, SwitchError};

/// Entries in a bundle.
const BUNDLE: usize = 1000;
/// Bundles that are sent ahead: the switch has the next one as soon as it is done with one.
const AHEAD: usize = 2;
/// Entries before a barrier, without bundles. OVS handles 50 messages of a connection per turn.
const BATCH: usize = 49;

const DELETING: &str = "deleting flows";

/// What was done to a list of entries.
///
/// A strict delete that finds nothing is *not* an error and has no answer: only a fresh
/// dump tells what is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Entries the switch was told and did not refuse.
    pub sent: usize,
    /// Those it refused: index into the list, and why.
    pub refused: Vec<(usize, SwitchError)>,
}

/// Entries with their places in the caller's list.
type Numbered<'e> = Vec<(usize, &'e Entry)>;

/// A bundle that was sent: the xids of its first message and of its commit, and how many entries it has.
#[derive(Debug)]
struct SentBundle {
    open: u32,
    commit: u32,
    count: u32,
}

/// A bundle that was sent but for its commit.
#[derive(Debug)]
pub(super) struct StagedBundle {
    id: u32,
    open: u32,
    entries: Vec<Entry>,
    /// Those that the switch refused.
    refused: Vec<(usize, SwitchError)>,
}

impl StagedBundle {
    fn place(&self, xid: u32) -> Option<usize> {
        let place = usize::try_from(xid.wrapping_sub(self.open).checked_sub(1)?).ok()?;
        (place < self.entries.len()).then_some(place)
    }

    /// Whether a message of this bundle has this xid.
    pub(super) fn has_member(&self, xid: u32) -> bool {
        self.place(xid).is_some()
    }

    /// The switch refuses it.
    pub(super) fn fail(&mut self, xid: u32, why: SwitchError) {
        self.refused.extend(self.place(xid).map(|place| (place, why)));
    }
}

/// How many xids a list takes: never many.
fn count_of<T>(entries: &[T]) -> u32 {
    u32::try_from(entries.len()).unwrap_or(0)
}

fn applied(all: usize, mut refused: Vec<(usize, SwitchError)>) -> Applied {
    refused.sort_unstable_by_key(|(i, _)| *i);
    refused.dedup_by_key(|(i, _)| *i);
    Applied { sent: all.saturating_sub(refused.len()), refused }
}

impl Connection {
    /// Deletes exactly these entries: same table, priority, match, and cookie but for its
    /// top bit ([`STRICT_COOKIE_MASK`](crate::openflow::STRICT_COOKIE_MASK)).
    ///
    /// # Errors
    /// Those of any exchange; [`Error::OtherVersion`] if an entry was dumped in another
    /// version (nothing is sent then). What the switch refuses is in the result. After an
    /// error part of the list may be deleted.
    pub fn delete_strict<E: Borrow<Entry>>(&mut self, entries: &[E]) -> Result<Applied, Error> {
        let staged = self.staged.take();
        let is_all = |staged: &StagedBundle| entries.iter().map(E::borrow).eq(&staged.entries);
        if let Some(staged) = staged.filter(is_all)
            && let Some(applied) = self.commit(staged)?
        {
            return Ok(applied);
        }
        self.apply(Change::Delete, entries, DELETING)
    }

    /// These will most likely be what is [deleted](Self::delete_strict) next: the switch takes them in
    /// while we are busy, and deletes nothing. What is not deleted then is forgotten with the connection.
    ///
    /// # Errors
    /// As [`Self::delete_strict`].
    pub fn stage_delete<E: Borrow<Entry>>(&mut self, entries: &[E]) -> Result<(), Error> {
        let is_ours = |entry: &E| entry.borrow().version() == self.version();
        let fits = !entries.is_empty() && entries.len() <= BUNDLE && entries.iter().all(is_ours);
        if !self.bundles || self.staged.is_some() || !fits {
            return Ok(());
        }
        let entries: Vec<Entry> = entries.iter().map(|entry| entry.borrow().clone()).collect();
        let (id, open) = (self.bundle_id(), self.xids(1 + count_of(&entries)));
        let mut out = self.outgoing(open, DELETING);
        out.add_control(id, OFPBCT_OPEN_REQUEST);
        entries.iter().for_each(|entry| out.add_member(id, Change::Delete, entry));
        self.send_all(out)?;
        self.staged = Some(StagedBundle { id, open, entries, refused: Vec::new() });
        Ok(())
    }

    /// Carries out what was staged; `None`: nothing of it was done.
    fn commit(&mut self, staged: StagedBundle) -> Result<Option<Applied>, Error> {
        let StagedBundle { id, open, entries, mut refused } = staged;
        let commit = self.xids(1);
        let mut out = self.outgoing(commit, DELETING);
        out.add_control(id, OFPBCT_COMMIT_REQUEST);
        self.send_all(out)?;
        let sent = SentBundle { open, commit, count: count_of(&entries) };
        let chunk: Numbered<'_> = entries.iter().enumerate().collect();
        match self.finish_bundle(&sent, &chunk, &mut refused, DELETING) {
            Ok(true) => Ok(Some(applied(entries.len(), refused))),
            Ok(false) => Ok(None),
            // It has waited too long for its commit.
            Err(Error::Switch { error, .. }) if error.bundle_code().is_some() => Ok(None),
            Err(failed) => Err(failed),
        }
    }

    fn bundle_id(&mut self) -> u32 {
        let id = self.next_bundle;
        self.next_bundle = id.wrapping_add(1);
        id
    }

    /// The second try for entries that match on "untagged" and that
    /// [`Self::delete_strict`] left: 1.0 clients make such entries in a way that only 1.0's
    /// name of the field (vlan_tci) deletes. Entries that match on no vlan_vid of 0 are
    /// passed over and not counted as sent.
    ///
    /// # Errors
    /// As [`Self::delete_strict`].
    pub fn delete_vlan_tci(&mut self, entries: &[Entry]) -> Result<Applied, Error> {
        let doing = "deleting flows by vlan_tci";
        let mut chosen = Vec::new();
        let mut indices = Vec::new();
        for (i, entry) in entries.iter().enumerate() {
            let renamed = flow_mod::vlan_tci(entry.raw().tlvs());
            if renamed.map_err(|what| self.malformed(doing, what))?.is_some() {
                chosen.push(entry.clone());
                indices.push(i);
            }
        }
        self.apply_some(Change::DeleteVlanTci, &chosen, &indices, doing)
    }

    /// Puts dumped entries back as they were, but for duration and counters. (One that was
    /// added with check_overlap and overlaps others now goes back without that flag.)
    ///
    /// # Errors
    /// As [`Self::delete_strict`].
    pub fn add(&mut self, entries: &[Entry]) -> Result<Applied, Error> {
        let doing = "adding flows";
        let mut added = self.apply(Change::Add, entries, doing)?;
        let overlaps =
            |(_, error): &(usize, SwitchError)| error.is(OFPET_FLOW_MOD_FAILED, OFPFMFC_OVERLAP);
        let again = added.refused.iter().copied().filter(overlaps).map(|(i, _)| i);
        let indices: Vec<usize> = again.collect();
        added.refused.retain(|refused| !overlaps(refused));
        let chosen: Vec<Entry> = indices.iter().filter_map(|i| entries.get(*i)).cloned().collect();
        let second = self.apply_some(Change::AddOverlapping, &chosen, &indices, doing)?;
        added.sent = added.sent.saturating_add(second.sent);
        added.refused.extend(second.refused);
        added.refused.sort_unstable_by_key(|(i, _)| *i);
        Ok(added)
    }

    /// [`Self::apply`] to entries chosen from a longer list: `indices` are theirs in it.
    fn apply_some(
        &mut self,
        change: Change,
        chosen: &[Entry],
        indices: &[usize],
        doing: &'static str,
    ) -> Result<Applied, Error> {
        let mut applied = self.apply(change, chosen, doing)?;
        for (i, _) in &mut applied.refused {
            *i = indices.get(*i).copied().unwrap_or(*i);
        }
        Ok(applied)
    }

    fn apply<E: Borrow<Entry>>(
        &mut self,
        change: Change,
        entries: &[E],
        doing: &'static str,
    ) -> Result<Applied, Error> {
        if let Some(other) = entries.iter().map(E::borrow).find(|e| e.version() != self.version()) {
            return Err(Error::OtherVersion {
                path: self.path().to_owned(),
                dumped: other.version(),
                spoken: self.version(),
            });
        }
        let mut refused = Vec::new();
        let mut rest = Vec::new();
        let mut ahead: VecDeque<(SentBundle, Numbered<'_>)> = VecDeque::new();
        let mut chunks = entries.chunks(BUNDLE).enumerate();
        loop {
            let next = if ahead.len() < AHEAD { chunks.next() } else { None };
            if let Some((n, chunk)) = next {
                let chunk: Numbered<'_> = (n * BUNDLE..).zip(chunk.iter().map(E::borrow)).collect();
                if self.bundles {
                    ahead.push_back((self.send_bundle(change, &chunk, doing)?, chunk));
                } else {
                    rest.push(chunk);
                }
            } else if let Some((sent, chunk)) = ahead.pop_front() {
                if !self.finish_bundle(&sent, &chunk, &mut refused, doing)? {
                    rest.push(chunk);
                }
            } else {
                break;
            }
        }
        for chunk in rest {
            self.one_by_one(change, &chunk, &mut refused, doing)?;
        }
        Ok(applied(entries.len(), refused))
    }

    /// [`Self::delete_strict`], and right behind it [`Self::dump_raw`] of what is to be seen
    /// afterwards: one exchange where the switch has bundles and one is enough.
    ///
    /// # Errors
    /// As these two.
    pub fn delete_strict_and_dump<E: Borrow<Entry>>(
        &mut self,
        entries: &[E],
        filters: &[Filter],
        each: &mut dyn FnMut(&RawEntry<'_>),
    ) -> Result<Applied, Error> {
        let doing = DELETING;
        let same_version = entries.iter().all(|e| e.borrow().version() == self.version());
        let little = entries.len() <= BUNDLE && filters.len() <= PIPELINE;
        if !(self.bundles && same_version && little) || entries.is_empty() {
            let applied = self.delete_strict(entries)?;
            self.dump_raw(filters, each)?;
            return Ok(applied);
        }
        let chunk: Numbered<'_> = entries.iter().map(E::borrow).enumerate().collect();
        let sent = self.send_bundle(Change::Delete, &chunk, doing)?;
        let asked = self.ask_dumps(filters)?;
        let mut refused = Vec::new();
        let committed = self.finish_bundle(&sent, &chunk, &mut refused, doing)?;
        self.hear_dumps(asked, filters.len(), &mut |_, raw| {
            if committed {
                each(raw);
            }
            Ok(())
        })?;
        if !committed {
            self.one_by_one(Change::Delete, &chunk, &mut refused, doing)?;
            self.dump_raw(filters, each)?;
        }
        Ok(applied(entries.len(), refused))
    }

    /// Sends one bundle.
    fn send_bundle(
        &mut self,
        change: Change,
        entries: &[(usize, &Entry)],
        doing: &'static str,
    ) -> Result<SentBundle, Error> {
        let (id, count) = (self.bundle_id(), count_of(entries));
        let open = self.xids(count.saturating_add(2));
        let mut out = self.outgoing(open, doing);
        out.add_control(id, OFPBCT_OPEN_REQUEST);
        for (_, entry) in entries {
            out.add_member(id, change, entry);
        }
        out.add_control(id, OFPBCT_COMMIT_REQUEST);
        self.send_all(out)?;
        Ok(SentBundle { open, commit: open.saturating_add(1 + count), count })
    }

    /// Waits for a bundle's end. False: nothing of it was done. Errors of its ADDs are collected by
    /// xid: they do not fail the commit.
    fn finish_bundle(
        &mut self,
        sent: &SentBundle,
        entries: &[(usize, &Entry)],
        refused: &mut Vec<(usize, SwitchError)>,
        doing: &'static str,
    ) -> Result<bool, Error> {
        let SentBundle { open, commit, count } = *sent;
        let first = open.saturating_add(1);
        let (mut missing, mut errors) = (false, Vec::new());
        loop {
            let message = self.receive(doing)?;
            let error = self.error_in(message, doing)?;
            let member = message.xid.wrapping_sub(first);
            if message.xid == open {
                missing |= error.is_some_and(SwitchError::is_unknown_message);
            } else if member < count {
                let index = usize::try_from(member).ok().and_then(|i| entries.get(i));
                if let (Some((index, _)), Some(error)) = (index, error) {
                    errors.push((*index, error));
                }
            } else if message.xid == commit {
                match error {
                    None => {
                        self.committed(message, doing)?;
                        refused.append(&mut errors);
                        return Ok(true);
                    }
                    Some(error) if missing || error.is_unknown_message() => self.bundles = false,
                    // The failed ones fail again one by one, and say why; the rest is done.
                    Some(error) if error.bundle_code() == Some(OFPBFC_MSG_FAILED) => {}
                    Some(error) => {
                        return Err(Error::Switch { path: self.path().to_owned(), doing, error });
                    }
                }
                return Ok(false);
            }
        }
    }

    fn committed(&self, message: Message, doing: &'static str) -> Result<(), Error> {
        let body = self.expect(message, kind_of(self.version(), OFPT_BUNDLE_CONTROL), doing)?;
        match BundleMessage::read(self.version(), &mut Reader::new(body)) {
            Ok(reply) if reply.what == OFPBCT_COMMIT_REPLY => Ok(()),
            _ => Err(self.malformed(doing, Malformed::Unexpected("reply to a bundle's commit"))),
        }
    }

    /// Without a bundle: FLOW_MODs pipelined, a barrier after each few.
    fn one_by_one(
        &mut self,
        change: Change,
        entries: &[(usize, &Entry)],
        refused: &mut Vec<(usize, SwitchError)>,
        doing: &'static str,
    ) -> Result<(), Error> {
        for batch in entries.chunks(BATCH) {
            let count = u32::try_from(batch.len()).unwrap_or(0);
            let first = self.xids(count.saturating_add(1));
            let mut out = self.outgoing(first, doing);
            for (_, entry) in batch {
                out.add(OFPT_FLOW_MOD, |body| flow_mod::encode(change, &entry.raw(), body));
            }
            out.add(OFPT_BARRIER_REQUEST, |_| Ok(()));
            self.send_all(out)?;
            self.until_barrier(first, count, doing, &mut |member, error| {
                if let Some((index, _)) = batch.get(member) {
                    refused.push((*index, error));
                }
            })?;
        }
        Ok(())
    }

    /// Reads up to the reply to the barrier that follows `count` messages, the first of which
    /// has the xid `first`; `failed` gets the errors of these messages.
    pub(super) fn until_barrier(
        &mut self,
        first: u32,
        count: u32,
        doing: &'static str,
        failed: &mut dyn FnMut(usize, SwitchError),
    ) -> Result<(), Error> {
        loop {
            let message = self.receive(doing)?;
            if message.xid == first.saturating_add(count) {
                return self.expect(message, OFPT_BARRIER_REPLY, doing).map(|_| ());
            }
            let member = message.xid.wrapping_sub(first);
            if member < count
                && let Some(error) = self.error_in(message, doing)?
            {
                failed(usize::try_from(member).unwrap_or(usize::MAX), error);
            }
        }
    }
}

impl Outgoing {
    /// Appends OPEN or COMMIT.
    fn add_control(&mut self, id: u32, what: u16) {
        let version = self.version;
        self.add(kind_of(version, OFPT_BUNDLE_CONTROL), |body| {
            BundleMessage::control(id, what).write(version, body);
            Ok(())
        });
    }

    /// Appends an ADD with the FLOW_MOD inside; both have the same xid, or OVS refuses.
    fn add_member(&mut self, id: u32, change: Change, entry: &Entry) {
        let (version, xid) = (self.version, self.xid);
        self.add(kind_of(version, OFPT_BUNDLE_ADD_MESSAGE), |body| {
            BundleMessage::add(id).write(version, body);
            wire::message(body, version, OFPT_FLOW_MOD, xid, |body| {
                flow_mod::encode(change, &entry.raw(), body)
            })
        });
    }
}

/// In 1.3 a bundle's messages are an experimenter's.
fn kind_of(version: Version, later: u8) -> u8 {
    if version == Version::V13 { OFPT_EXPERIMENTER } else { later }
}

#[cfg(test)]
mod tests;
