//! What a run did, written down: numbers for the daemon's metrics, and an entry of the journal.

use super::{Collected, Deliverables, Run};
use crate::store::{Error, LEFTOVERS};
use crate::util::clock::Stamp;

/// The verb of a journal entry about deliveries: nothing of it can be put back.
pub(crate) const VERB: &str = "deliver";
/// Pods that a journal entry names.
const NAMED: usize = 10;

impl Run<'_> {
    /// At a run's end.
    ///
    /// # Errors
    /// What cannot be written: the deliveries are done all the same.
    pub(crate) fn write_down(&self, found: &Deliverables) -> Result<(), Error> {
        let left = self.leftovers().ok();
        self.registry.deliveries().tell(|log| {
            for Collected { plugins, failed, .. } in &found.gc {
                plugins.iter().for_each(|plugin| log.count("GC", plugin, true));
                failed.iter().for_each(|plugin| log.count("GC", plugin, false));
            }
            log.ended_ms = Stamp::now().wall_ms;
            log.leftovers.clear();
            if let Some(left) = left {
                let numbers = [Some(left.cached_results), Some(left.leases), left.port_rows];
                let kinds = LEFTOVERS.into_iter().zip(numbers);
                let known = kinds.filter_map(|(kind, n)| Some((kind.to_owned(), n? as u64)));
                log.leftovers.extend(known);
            }
        })?;
        match summary(found) {
            Some(text) => self.registry.begin_journal(VERB, Vec::new(), &text)?.finish().map(drop),
            None => Ok(()),
        }
    }
}

/// Whose DEL was delivered, to which plugins, and where GC was called. None: nobody's.
fn summary(found: &Deliverables) -> Option<String> {
    let done = found.dead.iter().filter(|one| !one.plugins.is_empty() || one.failed.is_some());
    let mut parts: Vec<String> = done
        .clone()
        .take(NAMED)
        .map(|one| {
            let why = one.error.as_ref().map(|why| format!(", {why}")).unwrap_or_default();
            format!("{} {} ({}{why})", one.pod, one.state, one.plugins.join(","))
        })
        .collect();
    let more = done.count().saturating_sub(parts.len());
    if more > 0 {
        parts.push(format!("{more} more"));
    }
    let called = found.gc.iter().filter(|gc| !gc.plugins.is_empty() || !gc.failed.is_empty());
    parts.extend(
        called.map(|gc| format!("GC of {} {} ({})", gc.network, gc.state, gc.plugins.join(","))),
    );
    (!parts.is_empty()).then(|| parts.join("; "))
}
