//! Applying many FLOW_MODs: in bundles, or one by one with barriers where there are none.
//!
//! A bundle of 1,000 stalls the switch 2 to 4 ms and buys one table version and one
//! acknowledgement. OPEN, every ADD and COMMIT go out together: the switch works in order,
//! so the COMMIT's answer comes after every ADD's error.

use std::borrow::Borrow;

use super::connection::{Connection, Message};
use super::entry::Entry;
use super::error::{Error, Malformed, SwitchError};
use super::flow_mod::{self, Change};
use super::hello::Version;
use super::wire::{self, ONF, kind};

/// Entries a bundle.
const BUNDLE: usize = 1000;
/// Entries a barrier, without bundles. OVS handles 50 messages of a connection per turn.
const BATCH: usize = 49;
/// Atomic and ordered; every message of a bundle carries the OPEN's flags.
const FLAGS: u16 = 3;
const OPEN: u16 = 0;
const COMMIT: u16 = 4;
const COMMITTED: u16 = 5;
/// OFPBFC_MSG_FAILED: one of them could not be done, so none was.
const MESSAGE_FAILED: u16 = 13;

/// What became of a list of entries.
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

/// How a bundle ended.
enum End {
    Committed,
    /// The switch has no bundles; nothing was done.
    None,
    /// Something failed at commit; nothing was done.
    Failed,
}

impl Connection {
    /// Deletes exactly these entries: same table, priority, match, and cookie but for its
    /// top bit ([`STRICT_COOKIE_MASK`](super::STRICT_COOKIE_MASK)).
    ///
    /// # Errors
    /// Those of any exchange; [`Error::OtherVersion`] if an entry was dumped in another
    /// version (nothing is sent then). What the switch refuses is in the result. After an
    /// error part of the list may be deleted.
    pub fn delete_strict<E: Borrow<Entry>>(&mut self, entries: &[E]) -> Result<Applied, Error> {
        self.apply(Change::Delete, entries, "deleting flows")
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
        let overlaps = |(_, error): &(usize, SwitchError)| error.is(5, 3);
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
        for (n, chunk) in entries.chunks(BUNDLE).enumerate() {
            let mut waiting: Vec<(usize, &Entry)> =
                (n * BUNDLE..).zip(chunk.iter().map(E::borrow)).collect();
            let mut end = End::None;
            if self.bundles {
                let mut errors = Vec::new();
                end = self.bundle(change, &waiting, &mut errors, doing)?;
                match end {
                    End::None => self.bundles = false,
                    End::Committed => refused.append(&mut errors),
                    // The failed ones fail again below, and say why; the rest is done.
                    End::Failed => {}
                }
            }
            if !matches!(end, End::Committed) {
                self.one_by_one(change, &mut waiting, &mut refused, doing)?;
            }
        }
        refused.sort_unstable_by_key(|(i, _)| *i);
        refused.dedup_by_key(|(i, _)| *i);
        Ok(Applied { sent: entries.len().saturating_sub(refused.len()), refused })
    }

    /// One bundle. Errors of its ADDs are collected by xid: they do not fail the commit.
    fn bundle(
        &mut self,
        change: Change,
        entries: &[(usize, &Entry)],
        refused: &mut Vec<(usize, SwitchError)>,
        doing: &'static str,
    ) -> Result<End, Error> {
        let id = self.next_bundle;
        self.next_bundle = id.wrapping_add(1);
        let count = u32::try_from(entries.len()).unwrap_or(0);
        let open = self.xids(count.saturating_add(2));
        let (first, commit) = (open.saturating_add(1), open.saturating_add(1 + count));
        let mut out = Vec::new();
        self.control(&mut out, open, id, OPEN, doing)?;
        for (xid, (_, entry)) in (first..).zip(entries) {
            self.member(&mut out, xid, id, change, entry, doing)?;
        }
        self.control(&mut out, commit, id, COMMIT, doing)?;
        self.send(&out, doing)?;
        let mut missing = false;
        loop {
            let message = self.receive(doing)?;
            let error = self.error_in(message, doing)?;
            let member = message.xid.wrapping_sub(first);
            if message.xid == open {
                missing |= error.is_some_and(SwitchError::is_unknown_message);
            } else if member < count {
                let index = usize::try_from(member).ok().and_then(|i| entries.get(i));
                if let (Some((index, _)), Some(error)) = (index, error) {
                    refused.push((*index, error));
                }
            } else if message.xid == commit {
                return match error {
                    None => self.committed(message, doing),
                    Some(error) if missing || error.is_unknown_message() => Ok(End::None),
                    Some(error) if error.bundle_code() == Some(MESSAGE_FAILED) => Ok(End::Failed),
                    Some(error) => {
                        Err(Error::Switch { path: self.path().to_owned(), doing, error })
                    }
                };
            }
        }
    }

    /// Appends OPEN or COMMIT.
    fn control(
        &self,
        out: &mut Vec<u8>,
        xid: u32,
        id: u32,
        what: u16,
        doing: &'static str,
    ) -> Result<(), Error> {
        let extension = self.version() == Version::V13;
        let kind = if extension { kind::EXPERIMENTER } else { kind::BUNDLE_CONTROL };
        self.encode(out, kind, xid, doing, |out| {
            if extension {
                out.extend_from_slice(&ONF.to_be_bytes());
                out.extend_from_slice(&2300_u32.to_be_bytes());
            }
            out.extend_from_slice(&id.to_be_bytes());
            out.extend_from_slice(&what.to_be_bytes());
            out.extend_from_slice(&FLAGS.to_be_bytes());
            Ok(())
        })
    }

    /// Appends an ADD with the FLOW_MOD inside; both have the same xid, or OVS refuses.
    fn member(
        &self,
        out: &mut Vec<u8>,
        xid: u32,
        id: u32,
        change: Change,
        entry: &Entry,
        doing: &'static str,
    ) -> Result<(), Error> {
        let extension = self.version() == Version::V13;
        let kind = if extension { kind::EXPERIMENTER } else { kind::BUNDLE_ADD };
        let version = self.version().wire();
        self.encode(out, kind, xid, doing, |out| {
            if extension {
                out.extend_from_slice(&ONF.to_be_bytes());
                out.extend_from_slice(&2301_u32.to_be_bytes());
            }
            out.extend_from_slice(&id.to_be_bytes());
            out.extend_from_slice(&[0, 0]);
            out.extend_from_slice(&FLAGS.to_be_bytes());
            wire::message(out, version, kind::FLOW_MOD, xid, |out| {
                flow_mod::encode(change, &entry.raw(), out)
            })
        })
    }

    fn committed(&self, message: Message, doing: &'static str) -> Result<End, Error> {
        let (kind, at) = match self.version() {
            Version::V13 => (kind::EXPERIMENTER, 12),
            Version::V14 | Version::V15 => (kind::BUNDLE_CONTROL, 4),
        };
        let body = self.expect(message, kind, doing)?;
        match body.get(at..).and_then(|rest| rest.first_chunk()) {
            Some(what) if u16::from_be_bytes(*what) == COMMITTED => Ok(End::Committed),
            _ => Err(self.malformed(doing, Malformed::Unexpected("reply to a bundle's commit"))),
        }
    }

    /// Without a bundle: FLOW_MODs pipelined, a barrier after each few.
    fn one_by_one(
        &mut self,
        change: Change,
        entries: &mut [(usize, &Entry)],
        refused: &mut Vec<(usize, SwitchError)>,
        doing: &'static str,
    ) -> Result<(), Error> {
        for batch in entries.chunks(BATCH) {
            let count = u32::try_from(batch.len()).unwrap_or(0);
            let first = self.xids(count.saturating_add(1));
            let barrier = first.saturating_add(count);
            let mut out = Vec::new();
            for (xid, (_, entry)) in (first..).zip(batch) {
                self.encode(&mut out, kind::FLOW_MOD, xid, doing, |out| {
                    flow_mod::encode(change, &entry.raw(), out)
                })?;
            }
            self.encode(&mut out, kind::BARRIER_REQUEST, barrier, doing, |_| Ok(()))?;
            self.send(&out, doing)?;
            self.until_barrier(barrier, first, count, doing, &mut |member, error| {
                if let Some((index, _)) = batch.get(member) {
                    refused.push((*index, error));
                }
            })?;
        }
        Ok(())
    }

    /// Reads up to a barrier's reply; `failed` gets the errors of the `count` messages from
    /// `first` on.
    pub(super) fn until_barrier(
        &mut self,
        barrier: u32,
        first: u32,
        count: u32,
        doing: &'static str,
        failed: &mut dyn FnMut(usize, SwitchError),
    ) -> Result<(), Error> {
        loop {
            let message = self.receive(doing)?;
            if message.xid == barrier {
                return self.expect(message, kind::BARRIER_REPLY, doing).map(|_| ());
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

#[cfg(test)]
mod tests;
