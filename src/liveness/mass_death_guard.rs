//! The mass-death guard ("the brake" to users): when much of a node seems to die at once, the
//! source of liveness is probably wrong.
//!
//! Deaths come one after the other, and several processes sweep (the daemon, `sweep`, the timer).
//! So the deaths that only one source reports are kept in a file that the processes share
//! ([`MassDeathGuard`]).

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Source;
use crate::model::attachment::Attachment;

/// So many may always die at once: a drained node is no emergency.
const ALWAYS: usize = 10;
/// Deaths within this time count together.
const WINDOW: Duration = Duration::from_secs(10);
/// So many deaths are acted upon at once. More within [`BURST`] wait until no more follow.
pub(crate) const FEW: usize = 3;
const BURST: Duration = Duration::from_millis(150);
/// A burst is over when the directory of namespaces has not changed for so long …
const QUIET: Duration = Duration::from_millis(250);
/// … and no sweep waits longer than this for that.
const MOST: Duration = Duration::from_secs(2);
/// What the file may hold: its reader takes 64 KB. On any node less than this is a mass death.
const MOST_CALLS: usize = 600;

/// The source that alone reports the death of more than ten attachments, and of more than half
/// of the node's, at once; `None`: there is none.
///
/// `total` counts the node's records that are not tombstones, with the dying ones; `dying` those
/// that a single source calls dead ([`Judged::dead_by`](super::Judged::dead_by) has
/// one element). Entries of one source are added up.
#[must_use]
pub fn mass_death_guard(total: usize, dying: &[(Source, usize)]) -> Option<Source> {
    dying.iter().map(|(source, _)| *source).find(|source| {
        let mine = dying.iter().filter(|(s, _)| s == source);
        let count = mine.fold(0usize, |sum, (_, n)| sum.saturating_add(*n));
        count > ALWAYS && count > total / 2
    })
}

/// For people: how many of a mass death were swept before the guard held the others back.
#[must_use]
pub fn swept_before(count: usize) -> String {
    match count {
        0 => String::new(),
        count => format!(" ({count} more were swept before: ovs-flow-gc undo --list)"),
    }
}

/// One life of an attachment, for [`MassDeathGuard`]. Another build of this program may give it
/// another number: then its death counts twice, which is the safe side.
#[must_use]
pub fn life(record: &Attachment) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&record.key, record.generation).hash(&mut hasher);
    hasher.finish()
}

/// What liveness says of all active records.
#[derive(Clone, Debug, Default)]
pub struct Deaths {
    /// Attachments that one source alone calls dead.
    pub alone: Vec<(u64, Source)>,
    /// Attachments that are alive or unknown.
    pub not_dead: HashSet<u64>,
    /// Active records in all.
    pub total: usize,
    /// The sources that were asked. The calls of other sources stay as they are.
    pub asked: Vec<Source>,
    /// How long nothing has changed in the directories that the dead namespaces were in;
    /// `None`: unknown.
    pub quiet_for: Option<Duration>,
}

/// What is done with attachments that one source alone calls dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// They are swept.
    Sweep,
    /// More may be dying at this moment: decide again after this time.
    Wait(Duration),
    /// This source reports too many deaths at once: nothing of these pods is deleted until
    /// another source agrees, the source sees them again, or an operator says so (`sweep --yes`).
    Hold(Source),
}

/// The deaths that one source alone reported lately, as the state directory has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MassDeathGuard {
    boot_id: String,
    /// The guard holds deaths back.
    pulled: Option<Pulled>,
    /// The file before this one could not be read: its guard may have held deaths back.
    doubtful: bool,
    calls: Vec<Call>,
}

/// Too many died at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Pulled {
    /// The source that reported them.
    source: Source,
    /// The smallest number of attachments since: pods that come later do not make a mass death
    /// smaller.
    of: usize,
}

/// A source called an attachment dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Call {
    life: u64,
    source: Source,
    /// CLOCK_BOOTTIME, in milliseconds.
    at: u64,
    /// It was swept, so the source is not asked about it any more.
    swept: bool,
}

impl Call {
    fn age(&self, now_ms: u64) -> Duration {
        Duration::from_millis(now_ms.saturating_sub(self.at))
    }
}

impl MassDeathGuard {
    /// No death was reported.
    #[must_use]
    pub fn new(boot_id: &str) -> Self {
        Self { boot_id: boot_id.to_owned(), ..Self::default() }
    }

    /// In place of a file that cannot be read: it holds back all deaths of this time.
    #[must_use]
    pub fn doubtful(boot_id: &str) -> Self {
        Self { doubtful: true, ..Self::new(boot_id) }
    }

    /// Deaths of another boot do not count: its attachments are all dead.
    #[must_use]
    pub fn of_boot(self, boot_id: &str) -> Self {
        if self.boot_id == boot_id { self } else { Self::new(boot_id) }
    }

    /// Whether the guard holds deaths back.
    #[must_use]
    pub fn is_pulled(&self) -> bool {
        self.doubtful || self.pulled.is_some()
    }

    /// Whether nobody waits for a decision: no death is held back, and all that were reported were
    /// swept. Only then may few who have just died be judged without all others.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        !self.is_pulled() && self.calls.iter().all(|call| call.swept)
    }

    /// How many of these deaths were swept before the guard held the others back.
    #[must_use]
    pub fn swept(&self) -> usize {
        self.calls.iter().filter(|call| call.swept).count()
    }

    /// Adds the deaths of now (`now_ms`: CLOCK_BOOTTIME) and decides about them.
    pub fn decide(&mut self, deaths: &Deaths, now_ms: u64) -> Decision {
        self.note(deaths, now_ms);
        let Some((_, first)) = deaths.alone.first() else { return Decision::Sweep };
        let asked = |call: &&Call| deaths.asked.contains(&call.source);
        let calls = || self.calls.iter().filter(asked);
        let swept = calls().filter(|call| call.swept).count();
        let total = deaths.total.saturating_add(swept);
        let before = self.pulled.filter(|pulled| deaths.asked.contains(&pulled.source));
        let of = before.map_or(total, |before| before.of.min(total));
        let dying: Vec<(Source, usize)> = calls().map(|call| (call.source, 1)).collect();
        if let Some(source) = mass_death_guard(of, &dying) {
            self.pulled = Some(Pulled { source, of });
            return Decision::Hold(source);
        }
        if before.is_some() {
            self.pulled = None;
        }
        if self.doubtful {
            return Decision::Hold(*first);
        }
        self.end_of_burst(deaths.quiet_for, now_ms).map_or(Decision::Sweep, Decision::Wait)
    }

    /// Forgets the calls that do not count any more and adds the new ones.
    fn note(&mut self, deaths: &Deaths, now_ms: u64) {
        let dead: HashSet<u64> = deaths.alone.iter().map(|(life, _)| *life).collect();
        if dead.is_empty() {
            self.pulled = self.pulled.filter(|pulled| !deaths.asked.contains(&pulled.source));
            self.doubtful = false;
        }
        // While deaths are held back, older ones count, too. They are also held back when the source
        // sees some of the attachments again, unless only a few of them are still dead.
        let (pulled, doubtful) = (self.pulled, self.doubtful);
        self.calls.retain(|call| {
            let pulled = doubtful || pulled.is_some_and(|pulled| pulled.source == call.source);
            let seen_again = deaths.not_dead.contains(&call.life);
            // One that is neither dead nor alive here had a DEL, or another source agreed.
            let stands = call.swept
                || dead.contains(&call.life)
                || pulled && dead.len() > FEW && seen_again
                || !deaths.asked.contains(&call.source);
            stands && (pulled || call.age(now_ms) < WINDOW)
        });
        let known: HashSet<u64> = self.calls.iter().map(|call| call.life).collect();
        let new = deaths.alone.iter().filter(|(life, _)| !known.contains(life));
        self.calls.extend(new.map(|(life, source)| Call {
            life: *life,
            source: *source,
            at: now_ms,
            swept: false,
        }));
    }

    /// How long to wait until no more deaths follow, if many come at this moment.
    fn end_of_burst(&self, quiet_for: Option<Duration>, now_ms: u64) -> Option<Duration> {
        let left = QUIET.checked_sub(quiet_for?).filter(|left| !left.is_zero())?;
        let waiting = || self.calls.iter().filter(|call| !call.swept);
        let longest = waiting().map(|call| call.age(now_ms)).max().unwrap_or_default();
        let at_once = self.calls.iter().filter(|call| call.age(now_ms) < BURST).count();
        let many = waiting().count().max(at_once) > FEW;
        (many && longest < MOST).then_some(left)
    }

    /// The attachments that are called dead are swept now.
    pub fn sweep(&mut self) {
        self.calls.iter_mut().for_each(|call| call.swept = true);
    }

    /// The calls that fit into the file. An attachment that is dead and not swept is found again.
    #[must_use]
    pub fn for_file(mut self) -> Self {
        self.calls.sort_by_key(|call| !call.swept);
        self.calls.truncate(MOST_CALLS);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::Source::{Cri, Kubernetes, Netns};
    use super::*;

    #[test]
    fn more_than_ten_and_more_than_half() {
        type Case = (usize, &'static [(Source, usize)], Option<Source>);
        let cases: &[Case] = &[
            (0, &[], None),
            (10, &[(Netns, 10)], None),
            (11, &[(Netns, 11)], Some(Netns)),
            (20, &[(Netns, 11)], Some(Netns)),
            (21, &[(Netns, 11)], Some(Netns)),
            (22, &[(Netns, 11)], None),
            (250, &[(Netns, 125)], None),
            (250, &[(Netns, 126)], Some(Netns)),
            (20, &[(Netns, 6), (Cri, 6)], None),
            (20, &[(Netns, 6), (Cri, 12)], Some(Cri)),
            (20, &[(Netns, 6), (Netns, 6)], Some(Netns)),
            (0, &[(Netns, usize::MAX), (Netns, 1)], Some(Netns)),
        ];
        for (total, dying, pulled) in cases {
            assert_eq!(mass_death_guard(*total, dying), *pulled, "{total} {dying:?}");
        }
    }

    const NOW: u64 = 1_000_000;

    /// These lives are dead by their namespaces, of so many; the directories are quiet.
    fn deaths(dead: std::ops::Range<u64>, total: u64) -> Deaths {
        let not_dead = (0..total).filter(|life| !dead.contains(life)).collect();
        Deaths {
            alone: dead.map(|life| (life, Netns)).collect(),
            not_dead,
            total: usize::try_from(total).unwrap(),
            asked: vec![Netns, Cri],
            quiet_for: Some(Duration::from_secs(60)),
        }
    }

    /// The same without those who were swept before.
    fn left(dead: std::ops::Range<u64>, total: u64) -> Deaths {
        let first = dead.start;
        let mut deaths = deaths(dead, total);
        deaths.not_dead.retain(|life| *life >= first);
        deaths.total = usize::try_from(total - first).unwrap();
        deaths
    }

    fn swept(guard: &mut MassDeathGuard, deaths: &Deaths, now: u64) {
        assert_eq!(guard.decide(deaths, now), Decision::Sweep);
        guard.sweep();
    }

    /// 14 pods: 7 were swept by one process, one after the other, the others are seen by another.
    #[test]
    fn who_was_swept_a_moment_ago_counts_for_everybody() {
        let mut guard = MassDeathGuard::new("boot");
        for n in 0..7 {
            swept(&mut guard, &left(n..n + 1, 14), NOW + n * 200);
        }
        let file = serde_json::to_string(&guard.for_file()).unwrap();
        let mut guard: MassDeathGuard = serde_json::from_str(&file).unwrap();
        let rest = left(7..14, 14);
        assert_eq!(guard.decide(&rest, NOW + 2_000), Decision::Hold(Netns));
        assert!(guard.is_pulled());
        assert_eq!(guard.swept(), 7);
        // However long nobody says anything, and however many come.
        assert_eq!(guard.decide(&rest, NOW + 3_600_000), Decision::Hold(Netns));
        let grown = Deaths { total: 200, ..rest.clone() };
        assert_eq!(guard.decide(&grown, NOW + 3_600_000), Decision::Hold(Netns));
        // Another source agrees about some: who is left is no mass death any more.
        let fewer = Deaths { alone: rest.alone[..3].to_vec(), ..rest };
        assert_eq!(guard.decide(&fewer, NOW + 3_600_000), Decision::Sweep);
        assert!(!guard.is_pulled());
    }

    #[test]
    fn the_window_is_ten_seconds() {
        for (later, expected) in [(9_000, Decision::Hold(Netns)), (10_001, Decision::Sweep)] {
            let mut guard = MassDeathGuard::new("boot");
            swept(&mut guard, &left(0..7, 14), NOW);
            assert_eq!(guard.decide(&left(7..14, 14), NOW + later), expected, "{later}");
        }
    }

    #[test]
    fn one_or_few_never_wait_and_more_wait_for_the_end_of_the_burst() {
        let busy = |n: u64| Deaths { quiet_for: Some(Duration::ZERO), ..deaths(0..n, 40) };
        for n in 1..=3 {
            assert_eq!(MassDeathGuard::new("boot").decide(&busy(n), NOW), Decision::Sweep);
        }
        let mut guard = MassDeathGuard::new("boot");
        assert_eq!(guard.decide(&busy(4), NOW), Decision::Wait(QUIET));
        assert_eq!(guard.decide(&busy(12), NOW + 200), Decision::Wait(QUIET));
        assert_eq!(guard.decide(&busy(21), NOW + 400), Decision::Hold(Netns), "no burst is over");
        // It is over, or there is no end of it.
        for (quiet_for, later) in [(Some(QUIET), 300), (None, 300), (Some(Duration::ZERO), 2_000)] {
            let mut guard = MassDeathGuard::new("boot");
            assert_eq!(guard.decide(&busy(12), NOW), Decision::Wait(QUIET));
            let later = (Deaths { quiet_for, ..deaths(0..12, 40) }, NOW + later);
            assert_eq!(guard.decide(&later.0, later.1), Decision::Sweep, "{quiet_for:?}");
        }
        // One by one in quick succession is a burst, too; one after the other is not.
        for (apart, expected) in [(20, Decision::Wait(QUIET)), (100, Decision::Sweep)] {
            let mut guard = MassDeathGuard::new("boot");
            let one = |n| Deaths { quiet_for: Some(Duration::ZERO), ..left(n..n + 1, 40) };
            for n in 0..3 {
                swept(&mut guard, &one(n), NOW + n * apart);
            }
            assert_eq!(guard.decide(&one(3), NOW + 3 * apart), expected, "{apart} ms");
        }
    }

    #[test]
    fn a_pulled_brake_lets_go_when_they_are_seen_again_but_not_for_some() {
        let mut guard = MassDeathGuard::new("boot");
        assert_eq!(guard.decide(&deaths(0..12, 13), NOW), Decision::Hold(Netns));
        assert_eq!(guard.decide(&deaths(4..12, 13), NOW), Decision::Hold(Netns));
        let mut seen_again = guard.clone();
        assert_eq!(seen_again.decide(&deaths(11..12, 13), NOW), Decision::Sweep);
        assert_eq!(guard.decide(&deaths(0..0, 13), NOW), Decision::Sweep);
        assert!(!guard.is_pulled());
        assert_eq!(guard.decide(&deaths(4..12, 13), NOW), Decision::Sweep);
    }

    /// The daemon asks the API server; `sweep` does not, and sees them alive.
    #[test]
    fn who_does_not_ask_a_source_does_not_release_its_brake() {
        let mut guard = MassDeathGuard::new("boot");
        let asked = vec![Netns, Kubernetes];
        let alone = (0..12).map(|life| (life, Kubernetes)).collect();
        let daemon = Deaths { alone, asked, not_dead: (12..20).collect(), ..deaths(0..0, 20) };
        assert_eq!(guard.decide(&daemon, NOW), Decision::Hold(Kubernetes));
        assert_eq!(guard.decide(&deaths(0..0, 20), NOW + 60_000), Decision::Sweep, "nobody");
        assert_eq!(guard.decide(&deaths(15..16, 20), NOW + 60_000), Decision::Sweep, "netns");
        assert!(guard.is_pulled());
        assert_eq!(guard.decide(&daemon, NOW + 90_000), Decision::Hold(Kubernetes));
    }

    /// Two of twelve had a DEL meanwhile: ten may always die.
    #[test]
    fn a_del_agrees() {
        let mut guard = MassDeathGuard::new("boot");
        assert_eq!(guard.decide(&deaths(0..12, 14), NOW), Decision::Hold(Netns));
        assert_eq!(guard.decide(&left(1..12, 14), NOW), Decision::Hold(Netns));
        assert_eq!(guard.decide(&left(2..12, 14), NOW), Decision::Sweep);
    }

    #[test]
    fn a_file_that_cannot_be_read_holds_whoever_is_dead() {
        let mut guard = MassDeathGuard::doubtful("boot");
        assert_eq!(guard.decide(&deaths(0..1, 30), NOW), Decision::Hold(Netns));
        let file = serde_json::to_string(&guard).unwrap();
        let mut guard: MassDeathGuard = serde_json::from_str(&file).unwrap();
        assert_eq!(guard.decide(&deaths(0..1, 30), NOW + 60_000), Decision::Hold(Netns));
        assert_eq!(guard.decide(&deaths(0..0, 30), NOW + 60_000), Decision::Sweep);
        assert_eq!(guard.decide(&deaths(0..1, 30), NOW + 60_000), Decision::Sweep);
    }

    #[test]
    fn nothing_counts_from_another_boot_and_any_file_fits() {
        let mut guard = MassDeathGuard::new("boot");
        swept(&mut guard, &left(0..9, 40), NOW);
        assert_eq!(guard.clone().of_boot("boot"), guard);
        assert_eq!(guard.clone().of_boot("other"), MassDeathGuard::new("other"));
        assert_eq!(guard.decide(&deaths(0..2_000, 2_000), u64::MAX), Decision::Hold(Netns));
        let long = |n| (u64::MAX - n, Kubernetes);
        let asked = vec![Kubernetes];
        let many = Deaths { alone: (0..2_000).map(long).collect(), asked, ..Deaths::default() };
        guard.decide(&many, u64::MAX);
        guard.sweep();
        let file = serde_json::to_string(&guard.for_file()).unwrap();
        assert!(file.len() <= 64 * 1024, "{}", file.len());
    }
}
