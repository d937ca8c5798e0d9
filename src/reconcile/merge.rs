//! One tombstone for a key, sandbox and port.
//!
//! A runtime whose calls are killed retries them: ADD, DEL, ADD, DEL of one sandbox. Each ADD
//! starts another life of the key, and each DEL that is killed leaves a tombstone. All of them
//! stand for one pod interface, so one of them is kept with what the others know.
//!
//! Guarantee: a crash loses nothing. The tombstone that is kept is written before another goes.

use std::collections::HashSet;

use log::{debug, warn};

use super::{Cause, CleanRequest, CleanTarget};
use crate::model::attachment::{Attachment, Netns, State};
use crate::ovsdb::same_netns;
use crate::store;

/// Merges the targets that stand for one pod interface. Returns whether tombstones changed.
pub(super) fn merge(request: &CleanRequest<'_>, targets: &mut Vec<CleanTarget>) -> bool {
    let mut keys = HashSet::new();
    if targets.iter().all(|target| keys.insert(&target.attachment.key)) {
        return false;
    }
    let mut merged: Vec<(CleanTarget, Vec<Attachment>)> = Vec::with_capacity(targets.len());
    for target in std::mem::take(targets) {
        let same = |(kept, _): &&mut (CleanTarget, Vec<Attachment>)| {
            is_one(&kept.attachment, &target.attachment)
        };
        match merged.iter_mut().rev().find(same) {
            Some((kept, others)) => others.push(add(kept, target)),
            None => merged.push((target, Vec::new())),
        }
    }
    // In a pause nobody writes a tombstone: an orphan's record is still an active one.
    let writes =
        !request.dry_run && !request.is_paused() && merged.iter().any(|(_, o)| !o.is_empty());
    if writes && let Err(failed) = write(request, &merged) {
        warn!("tombstones of one sandbox are not merged yet: {failed}");
    }
    targets.extend(merged.into_iter().map(|(kept, _)| kept));
    writes
}

fn write(
    request: &CleanRequest<'_>,
    merged: &[(CleanTarget, Vec<Attachment>)],
) -> Result<(), store::Error> {
    let Some(registry) = request.registry else { return Ok(()) };
    let lock = registry.lock(request.deadline)?;
    for (kept, others) in merged.iter().filter(|(_, others)| !others.is_empty()) {
        lock.put_tombstone(&kept.attachment)?;
        for other in others {
            debug!("{}: life {} is the same sandbox's", other.key, other.generation);
            lock.remove_tombstone(other)?;
        }
    }
    Ok(())
}

/// Puts a target's knowledge into another. Returns the record that need not be kept.
fn add(kept: &mut CleanTarget, other: CleanTarget) -> Attachment {
    let newer = |a: &Attachment, b: &Attachment| {
        (!a.unrecorded, a.generation) > (!b.unrecorded, b.generation)
    };
    if kept.cause == Cause::Tombstone {
        kept.cause = other.cause;
    }
    let mut other = other.attachment;
    let record = &mut kept.attachment;
    if newer(&other, record) {
        std::mem::swap(record, &mut other);
    }
    if other.ofport != record.ofport {
        let before = other.ofport.filter(|_| record.ofport.is_some());
        record.ofport_before = record.ofport_before.or(before);
    }
    record.ofport = record.ofport.or(other.ofport);
    record.ofport_before = record.ofport_before.or(other.ofport_before);
    record.bridge = record.bridge.take().or_else(|| other.bridge.clone());
    record.port = record.port.take().or_else(|| other.port.clone());
    record.interface = record.interface.or(other.interface);
    record.device = record.device.or(other.device);
    record.see_vlans_of(&other);
    record.register = record.register.or(other.register);
    record.pod = record.pod.take().or_else(|| other.pod.clone());
    record.born = record.born.or(other.born);
    // Without a record nobody knows when its addresses were freed.
    if other.unrecorded == record.unrecorded {
        record.died = record.died.max(other.died);
        if record.ips.is_empty() {
            record.ips.clone_from(&other.ips);
        }
        if record.macs.is_empty() {
            record.macs.clone_from(&other.macs);
        }
    }
    if other.state == State::Deleting {
        record.state = State::Deleting;
    }
    record.attempts = record.attempts.max(other.attempts);
    other
}

/// Whether two of the dead stand for one pod interface on one port, with the same addresses.
fn is_one(a: &Attachment, b: &Attachment) -> bool {
    fn agree<T: PartialEq>(a: &[T], b: &[T]) -> bool {
        a.is_empty() || b.is_empty() || a == b
    }
    let port = match (a.interface, b.interface) {
        (Some(a), Some(b)) => a == b,
        _ => a.port.is_none() || b.port.is_none() || a.port == b.port,
    };
    port && is_one_sandbox(a, b) && agree(&a.ips, &b.ips) && agree(&a.macs, &b.macs)
}

/// Whether two records are of one interface of one sandbox, whatever port it had.
pub(super) fn is_one_sandbox(a: &Attachment, b: &Attachment) -> bool {
    // A DEL without a record knows only the path.
    let known = |netns: &Netns| netns.inode != 0;
    let same = |(a, b): (&Netns, &Netns)| {
        let seen = (a.device, a.inode) == (b.device, b.inode) || !known(a) || !known(b);
        seen && same_netns(&a.path, &b.path)
    };
    let netns = a.netns.as_ref().zip(b.netns.as_ref());
    a.key == b.key && a.boot_id == b.boot_id && netns.is_some_and(same)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::attachment::{Key, Register, RegisterHow};
    use crate::model::row::RowId;
    use crate::util::clock::Stamp;

    fn at(ms: u64) -> Stamp {
        Stamp { boot_ms: ms, wall_ms: ms }
    }

    fn dead(generation: u64, row: u128) -> CleanTarget {
        let key = Key {
            network: "podnet".parse().unwrap(),
            container: "c1".parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        let mut attachment = Attachment::new(key, generation, "boot".to_owned(), at(1));
        attachment.netns = Some(Netns {
            path: "/run/netns/a".to_owned(),
            device: 4,
            inode: 77,
            parent_device: 1,
            parent_inode: 2,
            pid_namespace: None,
        });
        attachment.interface = Some(RowId(row));
        attachment.ofport = Some(5);
        attachment.ips = vec!["10.0.0.5".parse().unwrap()];
        attachment.died = Some(at(generation * 100));
        attachment.state = State::Deleting;
        CleanTarget { attachment, cause: Cause::Tombstone }
    }

    fn merged(mut targets: Vec<CleanTarget>) -> Vec<CleanTarget> {
        let deadline = crate::util::clock::Deadline::after(std::time::Duration::from_secs(1));
        let request = CleanRequest::of_call(None, "/nonexistent".into(), deadline, "sweep");
        let request = CleanRequest { dry_run: true, ..request };
        merge(&request, &mut targets);
        targets
    }

    #[test]
    fn what_is_dead_twice_is_dead_once() {
        let mut first = dead(1, 9);
        let register = Some(Register { value: 7, how: RegisterHow::Learned });
        (first.attachment.register, first.attachment.attempts) = (register, 3);
        let mut last = dead(3, 9);
        (last.cause, last.attachment.ofport) = (Cause::Del, Some(6));
        let found = merged(vec![first, dead(2, 9), last]);
        assert_eq!(found.len(), 1);
        let of = &found[0].attachment;
        assert_eq!((of.generation, of.register, of.attempts), (3, register, 3));
        assert_eq!((of.ofport, of.ofport_before), (Some(6), Some(5)));
        assert_eq!((of.died, &found[0].cause), (Some(at(300)), &Cause::Del));
    }

    #[test]
    fn others_stay_apart() {
        let apart = |change: &dyn Fn(&mut Attachment)| {
            let mut other = dead(2, 9);
            change(&mut other.attachment);
            merged(vec![dead(1, 9), other]).len() == 2
        };
        assert!(!apart(&|_| {}));
        assert!(apart(&|a| a.interface = Some(RowId(8))), "another port");
        assert!(apart(&|a| a.netns.as_mut().unwrap().inode = 78), "another sandbox");
        assert!(apart(&|a| a.netns = None), "nobody knows which sandbox");
        assert!(apart(&|a| a.boot_id = "other".to_owned()));
        assert!(apart(&|a| a.ips = vec!["10.0.0.6".parse().unwrap()]), "other addresses");
        assert!(apart(&|a| a.key.ifname = "net1".parse().unwrap()));
    }

    /// When its addresses were freed only the recorded one tells.
    #[test]
    fn a_tombstone_without_a_record_adds_only_its_port() {
        let mut bare = dead(2, 9);
        bare.attachment.unrecorded = true;
        bare.attachment.netns.as_mut().unwrap().inode = 0;
        let found = merged(vec![bare, dead(1, 9)]);
        assert_eq!(found.len(), 1);
        assert!(!found[0].attachment.unrecorded);
        assert_eq!(found[0].attachment.died, Some(at(100)));
    }
}
