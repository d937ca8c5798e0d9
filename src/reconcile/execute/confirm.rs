//! Whether deleted entries are gone: those of which the switch has not said so.

use std::collections::{HashMap, HashSet};

use log::error;

use super::ScannedBridge;
use crate::flowtable::FlowSink;
use crate::openflow::{Entry, Filter, FlowKey};
use crate::reconcile::guard::{DeleteOutcome, ReplaceGuard};
use crate::reconcile::plan::PlannedDelete;
use crate::reconcile::scan::again;
use crate::reconcile::snapshot::Error;

/// Asks the switch what stands in the places of the deleted entries.
pub(super) struct Confirmation<'a> {
    pub(super) table: &'a mut dyn FlowSink,
    pub(super) judged: &'a ScannedBridge<'a>,
}

impl Confirmation<'_> {
    /// Deletes those that stayed (by index) once more, as entries that match on "untagged". Which
    /// of them are still there.
    pub(super) fn again(
        &mut self,
        asked: &[Filter],
        done: &[&PlannedDelete<'_>],
        stayed: HashSet<usize>,
    ) -> Result<HashSet<usize>, Error> {
        if stayed.is_empty() {
            return Ok(stayed);
        }
        let tried = stayed.iter().filter_map(|index| done.get(*index));
        let tried: Vec<Entry> = tried.map(|d| d.candidate.entry.clone()).collect();
        self.table.delete_vlan_tci(&tried)?;
        Ok(unchanged(self.still_there(asked, done)?))
    }

    /// Which of the deleted entries (by index) are still there, and how many suspicions there are.
    /// The switch has told of those that are gone; the others are scanned for.
    pub(super) fn untold(
        &mut self,
        guard: &mut ReplaceGuard<'_>,
        done: &[&PlannedDelete<'_>],
    ) -> Result<(HashSet<usize>, u64), Error> {
        let told = |guard: &ReplaceGuard<'_>, index: &usize| {
            done.get(*index).map(|d| guard.outcome_of(d.id))
        };
        let unknown = |guard: &ReplaceGuard<'_>, index: &usize| {
            told(guard, index) == Some(DeleteOutcome::Unknown)
        };
        if !(0..done.len()).any(|index| unknown(guard, &index)) {
            return Ok((HashSet::new(), 0));
        }
        // What was put in a pause is told at its end.
        guard.listen(self.table)?;
        let untold: Vec<usize> = (0..done.len()).filter(|index| unknown(guard, index)).collect();
        let candidates = untold.iter().filter_map(|index| done.get(*index)).map(|d| d.candidate);
        let asked = again(&self.judged.scan, candidates);
        let there = self.still_there(&asked, done)?;
        guard.listen(self.table)?;
        let mut stayed = HashSet::new();
        for (index, younger) in &there {
            let Some(planned) = done.get(*index) else { continue };
            if unknown(guard, index) && guard.is_still(planned.id, *younger) {
                stayed.insert(*index);
            }
        }
        if !stayed.is_empty() && !guard.has_missed {
            let ids = stayed.iter().filter_map(|index| done.get(*index)).map(|d| d.id);
            guard.delete_vlan_tci(self.table, &ids.collect::<Vec<_>>())?;
            let there = unchanged(self.still_there(&asked, done)?);
            stayed.retain(|index| there.contains(index));
        }
        let gone = |index: &&usize| match told(guard, index) {
            Some(DeleteOutcome::Unknown) => !there.contains_key(index),
            untold => untold == Some(DeleteOutcome::GoneUntold),
        };
        let hurt = untold.iter().filter(|_| guard.has_missed).filter(gone);
        let hurt = hurt.filter_map(|index| done.get(*index)).inspect(|planned| {
            error!(
                "bridge {}: deleted while the switch did not tell who else put it, check that \
                 pod: {}",
                self.judged.bridge.1, planned.candidate.entry
            );
        });
        let suspicions = hurt.count() as u64;
        Ok((stayed, suspicions))
    }

    /// In which places of the deleted entries (by index) a new scan finds one, and whether that
    /// is younger than the one that was to go. Who puts an entry anew right behind its deletion
    /// has not kept us from deleting it.
    pub(super) fn still_there(
        &mut self,
        asked: &[Filter],
        done: &[&PlannedDelete<'_>],
    ) -> Result<HashMap<usize, bool>, Error> {
        let places: HashMap<FlowKey<'_>, usize> =
            done.iter().enumerate().map(|(n, d)| (d.candidate.entry.key(), n)).collect();
        let mut there = HashMap::new();
        self.table.scan(asked, &mut |seen| {
            let place = places.get(&seen.raw.key());
            if let Some((index, planned)) = place.and_then(|n| Some((*n, done.get(*n)?))) {
                there.insert(index, planned.candidate.is_older_than(seen));
            }
            Ok(())
        })?;
        Ok(there)
    }
}

/// The places in which there is the entry that was to go.
pub(super) fn unchanged(there: HashMap<usize, bool>) -> HashSet<usize> {
    there.into_iter().filter(|(_, younger)| !younger).map(|(index, _)| index).collect()
}
