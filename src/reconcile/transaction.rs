//! What a clean-up of a bridge writes into the journal, before each commit.

use std::borrow::Cow;
use std::collections::HashMap;

use log::warn;

use super::CleanTarget;
use super::execute::ScannedBridge;
use super::outcome::TargetId;
use super::plan::{PlannedDelete, title};
use crate::store::{Deleted, Error, Subject, Writer};

/// The journal of a clean-up. A full state directory must not stop a DEL: whatever fails here
/// ends the journal and nothing else.
pub(super) struct JournalTransaction<'a> {
    bridge: &'a str,
    targets: &'a [CleanTarget],
    writer: Option<Writer>,
    subjects: HashMap<Option<TargetId>, Subject>,
    /// So many of the next commit are in the writer's memory.
    prepared: usize,
    /// Was recorded and is there again.
    back: Vec<&'a crate::openflow::Entry>,
}

impl<'a> JournalTransaction<'a> {
    pub(super) fn open(judged: &ScannedBridge<'a>, notes: &mut Vec<String>) -> Self {
        let ScannedBridge { request, targets, bridge: (_, bridge), .. } = *judged;
        let reason = targets.iter().map(|t| t.attachment.title()).take(8).collect::<Vec<_>>();
        let begun = request.registry.map(|registry| {
            registry.begin_journal(request.verb, vec![bridge.to_owned()], &reason.join(", "))
        });
        let writer = begun.and_then(|begun| {
            begun
                .inspect_err(|failed| {
                    warn!("no undo for this clean-up: {failed}");
                    notes.push(format!("no undo for this clean-up: {failed}"));
                })
                .ok()
        });
        let (subjects, back) = (HashMap::new(), Vec::new());
        Self { bridge, targets, writer, subjects, prepared: 0, back }
    }

    /// Encodes the lines of the commit after this one while there is time. Nothing of it is
    /// written before [`Self::commit`]: its evidence is still to be checked.
    pub(super) fn prepare(&mut self, next: &[PlannedDelete<'_>]) {
        for planned in next {
            if !self.writer.as_ref().is_some_and(Writer::has_room) {
                return;
            }
            self.note(planned, |writer, deleted| writer.prepare(deleted));
            self.prepared += 1;
        }
    }

    /// Hands what is about to be deleted to the kernel: of a chunk that which `goes`.
    pub(super) fn commit(&mut self, chunk: &[PlannedDelete<'_>], goes: &[bool]) {
        let mut prepared = std::mem::take(&mut self.prepared);
        if goes.iter().take(prepared).any(|goes| !goes) {
            self.take_back();
            prepared = 0;
        }
        let rest = chunk.iter().zip(goes).skip(prepared);
        for (planned, _) in rest.filter(|(_, goes)| **goes) {
            self.note(planned, |writer, deleted| writer.record(deleted));
        }
        let flushed = self.writer.as_mut().map(Writer::flush);
        self.end_if_failed(flushed.unwrap_or(Ok(())));
    }

    /// Of what was recorded this is there again, or still: somebody had put it anew.
    pub(super) fn put_back(&mut self, entry: &'a crate::openflow::Entry) {
        self.back.push(entry);
    }

    /// The journal's id, if anything was written.
    pub(super) fn finish(mut self) -> Option<String> {
        // What was prepared and not committed: an operator has paused the clean-up.
        self.take_back();
        for entry in std::mem::take(&mut self.back) {
            let noted = self.writer.as_mut().map(|writer| writer.put_back(&entry));
            self.end_if_failed(noted.unwrap_or(Ok(())));
        }
        let finished = self.writer.map(Writer::finish).transpose();
        let id = finished.inspect_err(|failed| warn!("no undo for this clean-up: {failed}"));
        id.ok().flatten().map(|id| id.to_string())
    }

    fn take_back(&mut self) {
        if let Some(writer) = &mut self.writer {
            writer.take_back();
        }
    }

    fn note(
        &mut self,
        planned: &PlannedDelete<'_>,
        how: impl FnOnce(&mut Writer, &Deleted<'_, &crate::openflow::Entry>) -> Result<(), Error>,
    ) {
        let Some(writer) = &mut self.writer else { return };
        let target = planned.target;
        let subject = self.subjects.entry(target).or_insert_with(|| Subject {
            bridge: self.bridge.to_owned(),
            pod: title(self.targets, target).unwrap_or_default(),
            key: target.and_then(|t| t.of(self.targets)).map(|t| t.attachment.key.clone()),
        });
        let deleted = Deleted {
            subject: Cow::Borrowed(&*subject),
            rule: Cow::Borrowed(planned.verdict.reason.as_str()),
            reason: Cow::Owned(planned.verdict.reason.to_string()),
            entry: &planned.candidate.entry,
        };
        let noted = how(writer, &deleted);
        self.end_if_failed(noted);
    }

    fn end_if_failed(&mut self, done: Result<(), Error>) {
        if let Err(failed) = done {
            warn!("no undo for the rest of this clean-up: {failed}");
            self.writer = None;
        }
    }
}
