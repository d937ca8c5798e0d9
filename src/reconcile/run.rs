//! One sweep from its beginning to its end, for the admin command and for the daemon: the
//! liveness pass (who is there, who is dead), then the clean-up of the dead.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use log::warn;

use super::orphans::{self, CleanTargets, Orphan, Orphans, SweepRecords};
use super::{
    CleanRequest, CleanTarget, Contested, Database, Error, Outcome, Progress, Thorough,
    in_question, mass_death, network_states,
};
use crate::flowtable::BridgeTables;
use crate::liveness::mass_death_guard::{Decision, FEW};
use crate::liveness::{LivenessSource, Source};
use crate::model::attachment::Attachment;
use crate::store::{Registry, RegistrySnapshot};
use crate::util::clock::{Deadline, Stamp, boot_id};

/// Which of these addresses nobody has.
pub type Free<'f> = dyn Fn(&BTreeSet<IpAddr>) -> BTreeSet<IpAddr> + 'f;

/// How to sweep.
#[derive(Clone, Copy)]
pub struct SweepRun<'a> {
    /// Where the records are; none: no directory, no records.
    pub registry: Option<&'a Registry>,
    /// Where OVS's sockets are.
    pub run_dir: &'a Path,
    /// For everything done on the switch.
    pub timeout: Duration,
    /// Who is asked beside the network namespaces.
    pub sources: &'a [&'a dyn LivenessSource],
    /// This process saw the brake pulled: a guard's file that is missing proves nothing.
    pub held: bool,
    /// Who knows which of these addresses nobody in the cluster has now; none: nobody knows.
    pub free: Option<&'a Free<'a>>,
    /// Whose namespaces have just gone, by name; none: anybody's may have.
    pub named: Option<NamedDeaths<'a>>,
    /// A connection to the database that is kept; none: there is one for this sweep alone.
    pub database: Option<&'a Database>,
    /// Copies of bridges that follow them; none: the switch is asked each time.
    pub replicas: Option<&'a dyn BridgeTables>,
    /// Who remembers what is put back again and again; none: nobody does.
    pub contested: Option<&'a Contested>,
    /// Who is told how far it is; none: nobody waits for it.
    pub progress: Option<&'a Progress>,
    /// False: a dry run, nothing is changed anywhere.
    pub dry_run: bool,
    /// An operator says so: no brake.
    pub yes: bool,
    /// Which bridges are scanned as a whole, also if nobody is dead.
    pub thorough: Thorough,
    /// Scan bridges with a live pod whose register value is not known, also if nobody is dead.
    pub learning: bool,
    /// List every flow in the report.
    pub details: bool,
}

/// Namespaces that have just gone. Those who had them are judged and nobody else, if they are few:
/// the mass-death guard must see all who die at once.
#[derive(Clone, Copy)]
pub struct NamedDeaths<'a> {
    /// The names of their files.
    pub names: &'a [String],
    /// How many have gone since; `None`: nobody knows.
    pub since: &'a dyn Fn() -> Option<usize>,
}

impl NamedDeaths<'_> {
    fn are_few(&self) -> bool {
        (self.since)().is_some_and(|since| self.names.len().saturating_add(since) <= FEW)
    }
}

/// Who is there and who is dead.
#[derive(Debug)]
pub struct LivenessPass {
    /// Everything that is written down.
    pub registry_snapshot: RegistrySnapshot,
    /// What liveness says.
    pub orphans: Orphans,
    /// When it was asked: whoever is alive was alive then, and may have died since.
    judged_at: Stamp,
    /// Nothing is deleted on the word of one source alone: too many at once by this one's.
    pub braked: Option<Source>,
    /// More may be dying at this moment: those of one source's word wait so long, and are counted
    /// again.
    pub waits: Option<Duration>,
    /// How many of the same burst were swept before.
    pub swept_before: usize,
    /// An operator said that nothing is deleted.
    pub paused: bool,
    /// Files that should be records and are not.
    pub corrupt: Vec<String>,
    /// Only few were judged, by the names of their namespaces.
    pub is_partial: bool,
    boot_id: String,
}

/// How long one sweep waits for the end of a burst of deaths, at most: longer than the guard does.
const LONGEST_BURST: Duration = Duration::from_secs(4);

impl LivenessPass {
    /// Whether those who are dead on the word of one source alone are left alone for now.
    fn holds_back(&self) -> bool {
        self.braked.is_some() || self.waits.is_some()
    }

    /// Those whose tombstones this sweep writes, and whose entries it deletes.
    #[must_use]
    pub fn condemned(&self) -> Cow<'_, [Orphan]> {
        if self.holds_back() {
            let sure = self.orphans.dead.iter().filter(|orphan| orphan.alone().is_none());
            Cow::Owned(sure.cloned().collect())
        } else {
            Cow::Borrowed(&self.orphans.dead)
        }
    }

    /// Those whom it does not, because one source alone calls them dead.
    pub fn held_back(&self) -> impl Iterator<Item = &Orphan> {
        let holds_back = self.holds_back();
        self.orphans.dead.iter().filter(move |orphan| holds_back && orphan.alone().is_some())
    }
}

impl<'a> SweepRun<'a> {
    /// A sweep that knows nothing and asks nobody beside the network namespaces.
    #[must_use]
    pub fn new(run_dir: &'a Path, timeout: Duration) -> Self {
        Self {
            registry: None,
            run_dir,
            timeout,
            sources: &[],
            held: false,
            free: None,
            named: None,
            database: None,
            replicas: None,
            contested: None,
            progress: None,
            dry_run: false,
            yes: false,
            thorough: Thorough::None,
            learning: false,
            details: false,
        }
    }

    /// Reads the records, tidies up, and judges.
    ///
    /// # Errors
    /// If the state directory cannot be read or written.
    pub fn liveness_pass(&self) -> Result<LivenessPass, Error> {
        self.liveness_pass_knowing(None)
    }

    /// The same for who has read the records before: they are read again only if somebody may
    /// have written since.
    ///
    /// # Errors
    /// As [`liveness_pass`](Self::liveness_pass).
    pub fn liveness_pass_knowing(
        &self,
        known: Option<RegistrySnapshot>,
    ) -> Result<LivenessPass, Error> {
        let registry_snapshot = match self.registry {
            // What could not be read then may be readable now.
            Some(registry) => registry.snapshot_or(known)?,
            None => RegistrySnapshot::default(),
        };
        let corrupt: Vec<String> =
            registry_snapshot.corrupt.iter().map(ToString::to_string).collect();
        let untidy =
            !registry_snapshot.corrupt.is_empty() || !registry_snapshot.leftovers.is_empty();
        if let (Some(registry), true, true) = (self.registry, !self.dry_run, untidy) {
            let lock = registry.lock(Deadline::after(self.timeout))?;
            for torn in &registry_snapshot.corrupt {
                if let Err(failed) = lock.move_corrupt_aside(torn) {
                    warn!("{failed}; {torn}");
                }
            }
            if let Err(failed) = lock.tidy(&registry_snapshot) {
                warn!("{failed}; the next sweep tries again");
            }
        }
        let boot_id = boot_id().map_err(Error::BootId)?;
        let judged_at = Stamp::now();
        let named = self.find_named(&registry_snapshot, &boot_id);
        let is_partial = named.is_some();
        let orphans =
            named.unwrap_or_else(|| orphans::find_with(&registry_snapshot, &boot_id, self.sources));
        let paused = self.registry.is_some_and(Registry::paused);
        let (decision, swept_before) =
            mass_death::consult(self, &registry_snapshot, &orphans, paused, &boot_id);
        let (braked, waits) = match decision {
            Decision::Sweep => (None, None),
            Decision::Wait(left) => (None, Some(left)),
            Decision::Hold(source) => (Some(source), None),
        };
        Ok(LivenessPass {
            registry_snapshot,
            orphans,
            braked,
            waits,
            swept_before,
            paused,
            corrupt,
            is_partial,
            boot_id,
            judged_at,
        })
    }

    /// Those whose namespaces have just gone; `None`: everybody is to be judged.
    fn find_named(&self, snapshot: &RegistrySnapshot, boot_id: &str) -> Option<Orphans> {
        let named = self.named.filter(NamedDeaths::are_few)?;
        let orphans = orphans::find_named(snapshot, boot_id, self.sources, named.names);
        // Who else has died meanwhile counts for the guard.
        let decides = !orphans.dead.is_empty() && named.are_few();
        (decides && mass_death::is_idle(self, boot_id)).then_some(orphans)
    }

    /// [`liveness_pass`](Self::liveness_pass), again and again until a burst of deaths has come to its end.
    ///
    /// # Errors
    /// As [`liveness_pass`](Self::liveness_pass).
    pub fn liveness_pass_after_burst(&self) -> Result<LivenessPass, Error> {
        let until = Deadline::after(LONGEST_BURST);
        loop {
            let pass = self.liveness_pass()?;
            match pass.waits {
                Some(left) if !until.passed() => std::thread::sleep(left),
                _ => return Ok(pass),
            }
        }
    }

    /// Cleans up behind the dead of a liveness pass, and behind those earlier dead that `pick`
    /// wants judged. The switch is spoken to only if there are any, if thorough, or if learning.
    ///
    /// # Errors
    /// If the lock cannot be had. What goes wrong with one record or on the switch is in the
    /// outcome.
    pub fn clean(
        &self,
        pass: &LivenessPass,
        pick: impl FnMut(&Attachment) -> bool,
    ) -> Result<Outcome, Error> {
        let LivenessPass { registry_snapshot, boot_id, .. } = pass;
        let CleanTargets { targets, tombstones_failed, records } = match self.registry {
            Some(registry) => {
                let dead = pass.condemned();
                let act = !self.dry_run && !pass.paused;
                let deadline = Deadline::after(self.timeout);
                {
                    let of = SweepRecords { registry, registry_snapshot, boot_id, act, deadline };
                    orphans::targets(of, &dead, pick)?
                }
            }
            None => CleanTargets::default(),
        };
        let mut outcome = if targets.is_empty() && self.thorough == Thorough::None && !self.learning
        {
            Outcome::default()
        } else {
            let free = self.free(registry_snapshot, &targets);
            CleanRequest::of_sweep(self, free).clean_knowing(targets, records)
        };
        for (target, failed) in tombstones_failed {
            outcome.add_failed(&target, format!("its tombstone could not be written: {failed}"));
        }
        Ok(outcome)
    }

    /// Writes down who was seen alive: behind the clean-up, for nothing waits for it.
    pub fn sighted(&self, pass: &mut LivenessPass) {
        let Some(registry) = self.registry.filter(|_| !self.dry_run && !pass.paused) else {
            return;
        };
        let deadline = Deadline::after(self.timeout);
        let written = orphans::sighted(
            registry,
            &mut pass.registry_snapshot,
            &pass.orphans,
            self.sources,
            pass.judged_at,
            deadline,
        );
        if let Err(failed) = written {
            warn!("could not write down who was seen alive: {failed}");
        }
    }

    /// The addresses of these dead that nobody has, where that has to be asked.
    fn free(
        &self,
        registry_snapshot: &RegistrySnapshot,
        targets: &[CleanTarget],
    ) -> Option<BTreeSet<IpAddr>> {
        let free = self.free?;
        let addresses = in_question(&network_states(registry_snapshot), targets);
        Some(if addresses.is_empty() { addresses } else { free(&addresses) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::liveness::mass_death_guard::MassDeathGuard;
    use crate::model::attachment::{Key, Netns};
    use crate::store;
    use crate::util::clock::Stamp;

    /// A record that could not be read once would be unknown for as long as nobody writes one.
    #[test]
    fn what_could_not_be_read_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(&dir.path().join("state")).unwrap();
        let key = Key {
            network: "podnet".parse().unwrap(),
            container: "c1".parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        let boot = boot_id().unwrap();
        let lock = registry.lock(Deadline::after(Duration::from_secs(5))).unwrap();
        lock.put(&Attachment::new(key, 1, boot, Stamp::now())).unwrap();
        drop(lock);
        let run = SweepRun {
            registry: Some(&registry),
            ..SweepRun::new(Path::new("/nonexistent"), Duration::from_secs(5))
        };
        let whole = registry.snapshot().unwrap();
        let failed = std::io::Error::from_raw_os_error(nix::libc::EIO);
        let path = dir.path().join("state/podnet/c1:eth0.json");
        let failures = vec![store::Error::io("read", &path)(failed)];
        let known =
            RegistrySnapshot { version: whole.version, failures, ..RegistrySnapshot::default() };
        assert_eq!(run.liveness_pass_knowing(Some(known)).unwrap().orphans.total, 1);
        let known = RegistrySnapshot { version: whole.version, ..RegistrySnapshot::default() };
        assert_eq!(
            run.liveness_pass_knowing(Some(known)).unwrap().orphans.total,
            0,
            "not read again"
        );
    }

    /// A death judges those who had the namespace, and nobody else; but for what the guard must see.
    #[test]
    fn few_whose_namespaces_have_gone_are_judged_without_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(&dir.path().join("state")).unwrap();
        let soon = || Deadline::after(Duration::from_secs(5));
        let lock = registry.lock(soon()).unwrap();
        // Dead, all of them: they are of another boot.
        for n in 1..=5 {
            let key = Key {
                network: "podnet".parse().unwrap(),
                container: format!("c{n}").parse().unwrap(),
                ifname: "eth0".parse().unwrap(),
            };
            let mut record = Attachment::new(key, n, "another".to_owned(), Stamp::now());
            record.netns = Some(Netns::of_path(format!("/run/netns/n{n}")));
            lock.put(&record).unwrap();
        }
        drop(lock);
        let judged = |names: &[&str], since: Option<usize>, held: bool| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let named = NamedDeaths { names: &names, since: &|| since };
            let run = SweepRun {
                registry: Some(&registry),
                named: Some(named),
                held,
                ..SweepRun::new(Path::new("/nonexistent"), Duration::from_secs(5))
            };
            let pass = run.liveness_pass().unwrap();
            assert_eq!(pass.orphans.total, 5);
            (pass.orphans.dead.len(), pass.is_partial)
        };
        let (few, all) = (|n| (n, true), (5, false));
        assert_eq!(judged(&["n2"], Some(0), false), few(1));
        assert_eq!(judged(&["n2", "n4", "n5"], Some(0), false), few(3));
        assert_eq!(judged(&["n1", "n2", "n3", "n4"], Some(0), false), all, "too many");
        assert_eq!(judged(&["n2", "n3"], Some(2), false), all, "others went meanwhile");
        assert_eq!(judged(&["n2"], None, false), all, "nobody knows whether others did");
        assert_eq!(judged(&["n6"], Some(0), false), all, "nobody had it");
        assert_eq!(judged(&[], Some(0), false), all);
        assert_eq!(judged(&["n2"], Some(0), true), all, "the brake was pulled");
        let guard = registry.lock_guard(soon()).unwrap();
        guard.write(&MassDeathGuard::doubtful(&boot_id().unwrap())).unwrap();
        drop(guard);
        assert_eq!(judged(&["n2"], Some(0), false), all, "the brake is pulled");
    }
}
