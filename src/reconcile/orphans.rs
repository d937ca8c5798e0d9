//! Who is dead without a DEL.

use std::time::Duration;

use log::warn;

use super::{Cause, CleanTarget};
use crate::liveness::mass_death_guard::{Deaths, life};
use crate::liveness::{Liveness, LivenessReason, LivenessSource, Source, combine, netns};
use crate::model::attachment::{Attachment, State};
use crate::store::{self, Lock, Registry, RegistrySnapshot, TombstoneWrite};
use crate::util::clock::{Deadline, Stamp};
use crate::util::logging::Often;

/// How often a sighting is written down. It tells pods that shared a register value from
/// pods that had it one after the other.
const SIGHTING: Duration = Duration::from_secs(10);

/// Somebody who is dead without a DEL.
#[derive(Clone, Debug)]
pub struct Orphan {
    /// The record.
    pub record: Attachment,
    /// Why it is dead.
    pub why: LivenessReason,
    /// Who says so; nobody for another boot, which is death by itself.
    pub by: Vec<Source>,
}

impl Orphan {
    /// Whose word it is: the first source's, or `boot`.
    #[must_use]
    pub fn source(&self) -> &'static str {
        self.by.first().map_or("boot", |source| source.as_str())
    }

    /// The one source on whose word alone it is dead. Another boot needs no second source:
    /// nothing of it can be alive.
    #[must_use]
    pub fn alone(&self) -> Option<Source> {
        match self.by[..] {
            [source] => Some(source),
            _ => None,
        }
    }
}

/// What liveness says of the node.
#[derive(Debug, Default)]
pub struct Orphans {
    /// Dead.
    pub dead: Vec<Orphan>,
    /// Alive: indexes of [`RegistrySnapshot::attachments`].
    pub alive: Vec<usize>,
    /// Not judged: nobody knows.
    pub unknown: Vec<(Attachment, LivenessReason)>,
    /// Active records in all.
    pub total: usize,
    /// Who was asked.
    pub asked: Vec<Source>,
}

impl Orphans {
    /// How many were judged.
    #[must_use]
    pub fn judged(&self) -> usize {
        self.dead.len() + self.alive.len() + self.unknown.len()
    }

    /// What the mass-death guard must know of them.
    #[must_use]
    pub fn deaths(&self, registry_snapshot: &RegistrySnapshot) -> Deaths {
        let alone = || self.dead.iter().filter(|orphan| orphan.alone().is_some());
        let records =
            self.alive.iter().filter_map(|index| registry_snapshot.attachments.get(*index));
        let records = records.chain(self.unknown.iter().map(|(record, _)| record));
        let by_namespace = alone().filter(|orphan| orphan.alone() == Some(Source::Netns));
        let records_of = by_namespace.map(|orphan| &orphan.record);
        Deaths {
            alone: alone().filter_map(|o| Some((life(&o.record), o.alone()?))).collect(),
            not_dead: records.map(life).collect(),
            total: self.total,
            asked: self.asked.clone(),
            quiet_for: netns::quiet_for(records_of),
        }
    }
}

/// Judges every active record by its namespace.
#[must_use]
pub fn find(registry_snapshot: &RegistrySnapshot, boot_id: &str) -> Orphans {
    find_with(registry_snapshot, boot_id, &[])
}

/// Judges every active record by its namespace and by what these sources say.
#[must_use]
pub fn find_with(
    registry_snapshot: &RegistrySnapshot,
    boot_id: &str,
    sources: &[&dyn LivenessSource],
) -> Orphans {
    let namespaces = netns::judge_all(&registry_snapshot.attachments, boot_id);
    judged(registry_snapshot, namespaces.into_iter().enumerate().collect(), sources)
}

/// Judges those active records whose namespaces have one of these names; nothing is said of the
/// others. In which directory a name was does not count.
#[must_use]
pub fn find_named(
    registry_snapshot: &RegistrySnapshot,
    boot_id: &str,
    sources: &[&dyn LivenessSource],
    names: &[String],
) -> Orphans {
    let named = named(registry_snapshot, names);
    let namespaces = named.map(|(index, record)| (index, netns::judge(record, boot_id))).collect();
    judged(registry_snapshot, namespaces, sources)
}

/// The active records whose namespaces have one of these names, each with its index.
pub fn named<'r>(
    registry_snapshot: &'r RegistrySnapshot,
    names: &'r [String],
) -> impl Iterator<Item = (usize, &'r Attachment)> {
    let is_named = move |record: &Attachment| {
        let path = record.netns.as_ref().map(|netns| netns.path.as_str());
        let file = path.and_then(|path| path.rsplit_once('/')).map(|(_, file)| file);
        file.is_some_and(|file| names.iter().any(|name| name == file))
    };
    registry_snapshot.attachments.iter().enumerate().filter(move |(_, record)| is_named(record))
}

/// What all sources say of those records of which the namespaces say this.
fn judged(
    registry_snapshot: &RegistrySnapshot,
    namespaces: Vec<(usize, Liveness)>,
    sources: &[&dyn LivenessSource],
) -> Orphans {
    let mut orphans = Orphans { total: registry_snapshot.attachments.len(), ..Orphans::default() };
    orphans.asked.push(Source::Netns);
    orphans.asked.extend(sources.iter().map(|source| source.source()));
    let now = Stamp::now();
    if namespaces.iter().any(|(_, life)| life.is_dead()) {
        sources.iter().for_each(|source| source.refresh());
    }
    let mut answers = Vec::with_capacity(sources.len().saturating_add(1));
    for (index, life) in namespaces {
        let Some(record) = registry_snapshot.attachments.get(index) else { continue };
        answers.clear();
        answers.push((Source::Netns, life));
        answers.extend(sources.iter().map(|source| (source.source(), source.judge(record, now))));
        let judged = combine(&answers);
        match judged.life {
            Liveness::Alive => orphans.alive.push(index),
            Liveness::Dead(why) => {
                orphans.dead.push(Orphan { record: record.clone(), why, by: judged.dead_by });
            }
            Liveness::Unknown(why) => orphans.unknown.push((record.clone(), why)),
        }
    }
    orphans
}

/// Whom a sweep is about.
#[derive(Debug, Default)]
pub struct CleanTargets {
    /// The dead.
    pub targets: Vec<CleanTarget>,
    /// Dead too, but their tombstones could not be written: they stay active records, which the
    /// next sweep finds. Nothing of theirs is deleted without a tombstone.
    pub tombstones_failed: Vec<(CleanTarget, store::Error)>,
    /// The records as they are now, if nobody but us has written any since they were read.
    pub records: Option<RegistrySnapshot>,
}

/// What the targets of a sweep are chosen from.
#[derive(Clone, Copy)]
pub struct SweepRecords<'a> {
    /// Where the records are.
    pub registry: &'a Registry,
    /// What was read there.
    pub registry_snapshot: &'a RegistrySnapshot,
    /// This boot.
    pub boot_id: &'a str,
    /// Orphans become tombstones. If not, nothing is written.
    pub act: bool,
    /// For the lock.
    pub deadline: Deadline,
}

/// The targets of a sweep: orphans (made tombstones first, so that nothing is forgotten if we die)
/// and those tombstones of earlier deaths that `pick` wants; if nothing is written, those orphans.
/// One whose tombstone cannot be written keeps no other from it.
///
/// # Errors
/// If the lock cannot be had.
pub fn targets(
    of: SweepRecords<'_>,
    dead: &[Orphan],
    mut pick: impl FnMut(&Attachment) -> bool,
) -> Result<CleanTargets, store::Error> {
    let SweepRecords { registry, registry_snapshot, boot_id, act, deadline } = of;
    let now = Stamp::now();
    let earlier = registry_snapshot.tombstones.iter().filter(|tombstone| pick(tombstone));
    let mut targets: Vec<CleanTarget> =
        earlier.map(|t| CleanTarget::of_tombstone(t.clone(), now, boot_id)).collect();
    if dead.is_empty() {
        let records = registry_snapshot.for_another();
        return Ok(CleanTargets { targets, tombstones_failed: Vec::new(), records });
    }
    let lock = if act { Some(registry.lock(deadline)?) } else { None };
    // What the liveness pass read need not be read again.
    let known = lock.as_ref().and_then(|lock| lock.succeeds(registry_snapshot.version));
    let mut version = if act { known } else { registry_snapshot.version };
    let (first, mut tombstones_failed) = (targets.len(), Vec::new());
    // If nobody makes them tombstones: as with tombstones, they need not be judged every time.
    let dead = dead.iter().filter(|orphan| act || pick(&orphan.record));
    for Orphan { record, why, .. } in dead {
        let record = died(record.clone(), now, boot_id);
        let target = CleanTarget { attachment: record, cause: Cause::Orphan(why.to_string()) };
        let Some(lock) = &lock else {
            targets.push(target);
            continue;
        };
        match write_orphan(lock, &target.attachment, known.is_some()) {
            Ok(Some(write)) => {
                say_dead(&target.attachment, &why.to_string());
                version = version.filter(|_| write == TombstoneWrite::Written);
                targets.push(target);
            }
            // DEL or another sweep was quicker: theirs is the tombstone.
            Ok(None) => {}
            Err(failed) => {
                warn!("{}: cannot write its tombstone: {failed}", target.attachment.key);
                // Half of it may be done.
                version = None;
                tombstones_failed.push((target, failed));
            }
        }
    }
    let written = targets.iter().skip(first).map(|target| &target.attachment);
    if act {
        registry.deliveries().leave(&written.clone().collect::<Vec<_>>());
    }
    let records = registry_snapshot.after_tombstones(written.filter(|_| act), version);
    Ok(CleanTargets { targets, tombstones_failed, records })
}

/// Makes an orphan's record a tombstone. `known`: nobody has written since the records were read.
fn write_orphan(
    lock: &Lock<'_>,
    record: &Attachment,
    known: bool,
) -> Result<Option<TombstoneWrite>, store::Error> {
    if known {
        return lock.write_known_tombstone(record).map(Some);
    }
    let written = write_tombstone(lock, record)?;
    Ok(written.then_some(TombstoneWrite::Written))
}

fn say_dead(record: &Attachment, why: &str) {
    Often::Dead.say(&format_args!(
        "{} ({}, container {}, port {}) is dead: {why}",
        record.title(),
        record.key,
        record.key.container,
        record.port.as_deref().unwrap_or("unknown"),
    ));
}

/// Writes down that the living were seen when they were judged (`at`), where the last time was a
/// while before, and of which workload their pods are, once a source knows. Nothing waits for it: the
/// dead go first, and somebody may have died meanwhile. If nobody else has written since everything was
/// read, it is what is there afterwards, too.
///
/// # Errors
/// The first, if records cannot be written; the others are.
pub fn sighted(
    registry: &Registry,
    registry_snapshot: &mut RegistrySnapshot,
    orphans: &Orphans,
    sources: &[&dyn LivenessSource],
    at: Stamp,
    deadline: Deadline,
) -> Result<(), store::Error> {
    let records = &registry_snapshot.attachments;
    let alive = || orphans.alive.iter().filter_map(|index| Some((*index, records.get(*index)?)));
    let is_long_ago = |record: &Attachment| record.seen_alive.until(at) >= SIGHTING;
    let workload = |(index, record): (usize, &Attachment)| {
        let is_unknown = record.workload.is_none() && record.pod.is_some();
        let workload = || sources.iter().find_map(|source| source.workload(record));
        Some((index, is_unknown.then(workload)??))
    };
    let seen: Vec<usize> =
        alive().filter(|(_, r)| is_long_ago(r)).map(|(index, _)| index).collect();
    let workloads: Vec<(usize, String)> = alive().filter_map(workload).collect();
    if seen.is_empty() && workloads.is_empty() {
        return Ok(());
    }
    let lock = registry.lock(deadline)?;
    let known = lock.succeeds(registry_snapshot.version);
    let records = &mut registry_snapshot.attachments;
    for index in seen {
        if let Some(record) = records.get(index) {
            records.replace(index, Attachment { seen_alive: at, ..record.clone() });
        }
    }
    let mut done = lock.put_seen(records);
    for (index, workload) in workloads {
        let Some(record) = records.get(index) else { continue };
        let name = |record: &mut Attachment| record.workload = Some(workload);
        let written = if known.is_some() {
            let mut named = record.clone();
            name(&mut named);
            lock.put(&named).map(|()| records.replace(index, named))
        } else {
            lock.update(record, name).map(drop)
        };
        done = done.and(written);
    }
    registry_snapshot.version = known;
    done
}

/// The record of somebody whose death is noticed now, unless it was before.
#[must_use]
pub fn died(mut record: Attachment, now: Stamp, boot_id: &str) -> Attachment {
    // Where either is not known, nothing says that it was another one.
    let known = !record.boot_id.is_empty() && !boot_id.is_empty();
    if known && record.boot_id != boot_id {
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
pub fn write_tombstone(lock: &Lock<'_>, record: &Attachment) -> Result<bool, store::Error> {
    match lock.get(&record.key)? {
        Some(now) if now.is_same(record) => lock.write_tombstone(record).map(|()| true),
        _ => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(container: &str, boot: &str, now: Stamp) -> Attachment {
        let key = crate::model::attachment::Key {
            network: "podnet".parse().unwrap(),
            container: container.parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        Attachment::new(key, 1, boot.to_owned(), now)
    }

    /// The next liveness pass need not read what this one has written, unless somebody else wrote.
    #[test]
    fn who_was_seen_is_known_and_written() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(&dir.path().join("state")).unwrap();
        let soon = || Deadline::after(Duration::from_secs(20));
        let long_ago = Stamp { boot_ms: 1, wall_ms: 1 };
        let lock = registry.lock(soon()).unwrap();
        for container in ["c1", "c2", "c3"] {
            lock.put(&attachment(container, "boot", long_ago)).unwrap();
        }
        drop(lock);
        let mut registry_snapshot = registry.snapshot().unwrap();
        let orphans = Orphans { alive: vec![0, 2], ..Orphans::default() };
        // A sweep took long: who was alive when it judged may be dead when it writes.
        let judged = Stamp { boot_ms: 60_000, wall_ms: 60_000 };
        sighted(&registry, &mut registry_snapshot, &orphans, &[], judged, soon()).unwrap();
        assert!(registry.unchanged(registry_snapshot.version));
        let read = registry.snapshot().unwrap();
        assert_eq!(registry_snapshot.attachments, read.attachments);
        let seen =
            |e: &RegistrySnapshot| e.attachments.iter().map(|r| r.seen_alive == judged).collect();
        let seen: Vec<bool> = seen(&read);
        assert_eq!(seen, [true, false, true]);

        // Somebody else has written: his word stays, and all is read again.
        let lock = registry.lock(soon()).unwrap();
        let theirs =
            Attachment { attempts: 7, seen_alive: long_ago, ..read.attachments[0].clone() };
        lock.put(&theirs).unwrap();
        lock.remove(&read.attachments[2]).unwrap();
        drop(lock);
        let mut old = read;
        for record in &mut old.attachments {
            record.seen_alive = long_ago;
        }
        sighted(&registry, &mut old, &orphans, &[], judged, soon()).unwrap();
        assert!(!registry.unchanged(old.version));
        let read = registry.snapshot().unwrap();
        assert_eq!(read.attachments.len(), 2);
        assert_eq!(read.attachments[0].attempts, 7);
        assert_eq!(read.attachments[0].seen_alive, judged);
    }

    /// Who knows of workloads.
    struct Owners;

    impl LivenessSource for Owners {
        fn source(&self) -> Source {
            Source::Kubernetes
        }

        fn judge(&self, _: &Attachment, _: Stamp) -> Liveness {
            Liveness::Alive
        }

        fn workload(&self, record: &Attachment) -> Option<String> {
            let uid = record.pod.as_ref().map(|pod| pod.uid.as_str())?;
            uid.starts_with("db").then(|| "StatefulSet o 5f".to_owned())
        }
    }

    /// Two pods of a StatefulSet are of one workload once the API server says so.
    #[test]
    fn a_living_pods_workload_is_written_once() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(&dir.path().join("state")).unwrap();
        let soon = || Deadline::after(Duration::from_secs(20));
        let lock = registry.lock(soon()).unwrap();
        for (container, name) in [("c1", "db-0"), ("c2", "db-1"), ("c3", "web")] {
            let mut record = attachment(container, "boot", Stamp::now());
            let (namespace, uid) = ("ns".to_owned(), format!("{name}-uid"));
            record.pod =
                Some(crate::model::attachment::Pod { namespace, name: name.to_owned(), uid });
            lock.put(&record).unwrap();
        }
        drop(lock);
        let mut registry_snapshot = registry.snapshot().unwrap();
        let members: Vec<_> =
            registry_snapshot.attachments.iter().map(Attachment::member).collect();
        assert_eq!(members, [None, None, None], "their names say nothing");
        let orphans = Orphans { alive: vec![0, 1, 2], ..Orphans::default() };
        sighted(&registry, &mut registry_snapshot, &orphans, &[&Owners], Stamp::now(), soon())
            .unwrap();
        let read = registry.snapshot().unwrap();
        assert_eq!(registry_snapshot.attachments, read.attachments);
        let members = read.attachments.iter().map(Attachment::member).collect::<Vec<_>>();
        let [Some(one), Some(other), None] = members.as_slice() else { panic!("{members:?}") };
        assert!(one.workload == other.workload && one.pod != other.pod);
        sighted(&registry, &mut registry_snapshot, &orphans, &[&Owners], Stamp::now(), soon())
            .unwrap();
        assert!(registry.unchanged(read.version), "once");

        // A bare pod that is called like a Deployment's.
        let mut bare = attachment("c4", "boot", Stamp::now());
        let (namespace, name) = ("ns".to_owned(), "web-7d4f8b9c6f-x2k9z".to_owned());
        bare.pod = Some(crate::model::attachment::Pod { namespace, name, uid: "uid".to_owned() });
        assert!(bare.member().is_some());
        bare.workload = Some(String::new());
        assert_eq!(bare.member(), None);
    }

    /// Without a boot id a DEL knows nothing of boots. A death that it dates back to the boot
    /// would make every entry younger than it.
    #[test]
    fn an_unknown_boot_is_no_other_boot() {
        let now = Stamp { boot_ms: 5_000_000, wall_ms: 1_795_255_871_123 };
        let record = |boot: &str| attachment("c1", boot, now);
        assert_eq!(died(record("this"), now, "this").died, Some(now));
        assert_eq!(died(record("this"), now, "").died, Some(now));
        assert_eq!(died(record(""), now, "this").died, Some(now));
        assert_eq!(died(record("other"), now, "this").died.map(|died| died.boot_ms), Some(0));
    }
}
