//! What a source that watches has seen of pods, and what may be concluded from it.
//! Pure: no I/O, no clock.
//!
//! Guarantees: a pod is called dead only if this source showed it alive before, and two complete
//! observations in a row do not show it alive. An attachment younger than [`GRACE`] is not called
//! dead. While the source is away, every answer is unknown. If an observation shows no pod of the
//! one before, the source has lost its memory (its state was wiped, or it is another node's list),
//! and no pod is called dead.
//!
//! Assumption: ids are not used twice: a sandbox's id, a pod's UID; never a name.
//!
//! Caveat: a death while the source is away or restarts is not noticed.

use std::collections::HashMap;
use std::time::Duration;

use super::{Liveness, LivenessReason};
use crate::model::attachment::Attachment;
use crate::util::clock::Stamp;

/// An attachment younger than this is not judged: runtimes and API servers show a pod some
/// time after ADD.
pub const GRACE: Duration = Duration::from_secs(30);

/// This many observations in a row must say dead.
const ENOUGH: u8 = 2;

/// A single pod may end between two observations. If at least this many were alive, and none of
/// them is shown any more, the source has lost its memory.
const WIPE: usize = 2;

/// This many that are gone are remembered at most; those that went first are forgotten.
const MOST_GONE: usize = 1024;

/// What one observation shows of a sandbox or pod. One that is not shown is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Alive.
    Alive,
    /// Still listed, but ended.
    Ended(LivenessReason),
}

/// One entry of a complete observation.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// How the source names it: a sandbox's id, a pod's UID.
    pub id: &'a str,
    /// The pod's UID; empty where `id` is the UID, or where it is unknown.
    pub uid: &'a str,
    /// Its state.
    pub seen: Seen,
}

/// What an observation changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Dead from now on: the second observation in a row says so.
    pub dead: usize,
    /// Not alive for the first time: the next observation decides.
    pub doubtful: usize,
    /// Alive, and not so before.
    pub alive: usize,
    /// The source has lost its memory: what it showed before is forgotten.
    pub wiped: bool,
}

/// What one source has shown. After a restart of the daemon this begins empty.
#[derive(Debug)]
pub struct Observations {
    /// What it has shown alive, by id.
    sights: HashMap<Box<str>, Sight>,
    /// Why one that is not shown any more is dead.
    gone: LivenessReason,
    /// Complete observations so far.
    round: u64,
    away: bool,
}

#[derive(Debug)]
struct Sight {
    uid: Box<str>,
    alive: bool,
    /// Observations in a row that do not show it alive, up to [`ENOUGH`].
    doubts: u8,
    /// What the last of them says.
    why: LivenessReason,
    /// The round since which it is not shown at all.
    gone_since: Option<u64>,
}

impl Sight {
    fn take_in(&mut self, seen: Option<Seen>, gone: LivenessReason, round: u64, news: &mut News) {
        self.gone_since = match seen {
            Some(_) => None,
            None => self.gone_since.or(Some(round)),
        };
        let why = match seen {
            Some(Seen::Alive) => {
                news.alive += usize::from(!self.alive);
                (self.alive, self.doubts) = (true, 0);
                return;
            }
            Some(Seen::Ended(why)) => why,
            None => gone,
        };
        self.alive = false;
        self.why = why;
        if self.doubts < ENOUGH {
            self.doubts += 1;
            news.dead += usize::from(self.doubts == ENOUGH);
            news.doubtful += usize::from(self.doubts < ENOUGH);
        }
    }
}

impl Observations {
    /// Nothing seen yet, and the source is away. `gone` says why one that is not shown any more
    /// is dead: [`LivenessReason::SandboxGone`], [`LivenessReason::PodGone`].
    #[must_use]
    pub fn new(gone: LivenessReason) -> Self {
        Self { sights: HashMap::new(), gone, round: 0, away: true }
    }

    /// Takes in a complete observation: a pod that is not in it is gone. An observation that was
    /// cut short, or has an odd part, must not come here: see [`away`](Self::away).
    pub fn complete<'a>(&mut self, shown: impl IntoIterator<Item = Shown<'a>>) -> News {
        let mut news = News::default();
        let mut now: HashMap<&str, Shown<'a>> = HashMap::new();
        for one in shown {
            let entry = now.entry(one.id).or_insert(one);
            // Listed twice: alive wins.
            if one.seen == Seen::Alive {
                *entry = one;
            }
        }
        let alive = self.sights.values().filter(|sight| sight.alive).count();
        if alive >= WIPE && !self.sights.keys().any(|id| now.contains_key(&**id)) {
            news.wiped = true;
            self.sights.clear();
        }
        self.round = self.round.saturating_add(1);
        self.away = false;
        let (gone, round) = (self.gone, self.round);
        self.sights.retain(|id, sight| {
            let seen = match now.remove(&**id) {
                Some(one) if !same(&sight.uid, one.uid) => {
                    // The id has another UID now: it is another pod.
                    now.insert(one.id, one);
                    return false;
                }
                one => one.map(|one| one.seen),
            };
            sight.take_in(seen, gone, round, &mut news);
            true
        });
        for one in now.into_values().filter(|one| one.seen == Seen::Alive) {
            let sight =
                Sight { uid: one.uid.into(), alive: true, doubts: 0, why: gone, gone_since: None };
            self.sights.insert(one.id.into(), sight);
            news.alive += 1;
        }
        self.forget_longest_gone();
        news
    }

    /// One is alive, and nothing is known of the others: news between two complete observations.
    pub fn alive(&mut self, id: &str) {
        let (uid, why) = (Box::default(), self.gone);
        let sight = Sight { uid, alive: true, doubts: 0, why, gone_since: None };
        let sight = self.sights.entry(id.into()).or_insert(sight);
        (sight.alive, sight.doubts, sight.gone_since) = (true, 0, None);
    }

    /// The source does not answer, or not completely: every answer is unknown until it does, and
    /// its next observation is the first of two.
    pub fn away(&mut self) {
        self.away = true;
        for sight in self.sights.values_mut() {
            sight.doubts = 0;
        }
    }

    /// The source was restarted, or replaced: its earlier observations say nothing about the
    /// later ones.
    pub fn forget(&mut self) {
        self.sights.clear();
        self.away = true;
    }

    /// Forgets one, because the source cannot say whether it still knows it.
    pub fn forget_one(&mut self, id: &str) {
        self.sights.remove(id);
    }

    /// The ids that the source knew and does not show any more, and that are not called dead yet:
    /// they can be asked for by name before the observation is taken in.
    pub fn missing(&self, is_shown: impl Fn(&str) -> bool) -> impl Iterator<Item = &str> {
        let unsettled = self.sights.iter().filter(|(_, sight)| sight.doubts < ENOUGH);
        unsettled.map(|(id, _)| &**id).filter(move |id| !is_shown(id))
    }

    /// Whether the next observation will decide about a death.
    #[must_use]
    pub fn is_unsettled(&self) -> bool {
        self.sights.values().any(|sight| !sight.alive && sight.doubts < ENOUGH)
    }

    /// Whether the last observation was complete.
    #[must_use]
    pub fn is_up(&self) -> bool {
        !self.away
    }

    /// Whether the pod with this `id` is alive. `uid` is the pod's, empty if unknown. With another
    /// UID than the one that was shown, the pod is one that the source never saw.
    #[must_use]
    pub fn life(&self, id: &str, uid: &str, record: &Attachment, now: Stamp) -> Liveness {
        if self.away {
            return Liveness::Unknown(LivenessReason::SourceAway);
        }
        let Some(sight) = self.sights.get(id).filter(|sight| same(&sight.uid, uid)) else {
            return Liveness::Unknown(LivenessReason::NeverSeen);
        };
        if sight.alive {
            Liveness::Alive
        } else if record.created.until(now) < GRACE {
            Liveness::Unknown(LivenessReason::Young)
        } else if sight.doubts < ENOUGH {
            Liveness::Unknown(LivenessReason::SeenOnce)
        } else {
            Liveness::Dead(sight.why)
        }
    }

    fn forget_longest_gone(&mut self) {
        let gone = || self.sights.values().filter_map(|sight| sight.gone_since);
        let surplus = gone().count().saturating_sub(MOST_GONE);
        if surplus == 0 {
            return;
        }
        let mut since: Vec<u64> = gone().collect();
        let last = *since.select_nth_unstable(surplus - 1).1;
        let mut left = surplus;
        self.sights.retain(|_, sight| {
            let forgotten = left > 0 && sight.gone_since.is_some_and(|since| since <= last);
            left -= usize::from(forgotten);
            !forgotten
        });
    }
}

/// Whether two UIDs are one pod's, as far as both are known.
fn same(one: &str, other: &str) -> bool {
    one.is_empty() || other.is_empty() || one == other
}

#[cfg(test)]
mod tests;
