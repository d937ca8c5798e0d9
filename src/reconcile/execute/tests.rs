//! Plans that are carried out on a fake switch: what is written, deleted and put back, and when.

use std::path::Path;
use std::time::Duration;

use super::fake::{Answer, Bridge, FakeEvidence, FakeTable, NOW};
use super::*;
use crate::model::attachment::{Attachment, Key};
use crate::model::row::RowId;
use crate::openflow::Version as Protocol;
use crate::openflow::testing::hex;
use crate::ovsdb::testing;
use crate::reconcile::plan::{Orders, PlanInput, plan};
use crate::reconcile::scan::{Extent, scan_bridge};
use crate::reconcile::{Cause, Lease, Leases};
use crate::store::{Pause, Registry};
use crate::util::clock::{Deadline, Stamp};

/// The dead pod's port.
const PORT: u16 = 5;

/// Two hours old, for packets from the dead pod's port, in this table.
fn entry(table: u8, priority: u16, output: u8) -> Entry {
    aged(7_200, table, priority, output)
}

fn aged(seconds: u32, table: u8, priority: u16, output: u8) -> Entry {
    let mut bytes = hex("00580000 00000000 00000000 00000000 00000000 00000000");
    bytes.extend(hex("00000000 0000002a 00000000 00000000 00000000 00000000"));
    bytes.extend(hex("0001000c 80000004 00000005 00000000"));
    bytes.extend(hex("00040018 00000000 00000010 000000"));
    bytes.push(output);
    bytes.extend([0; 8]);
    bytes[2] = table;
    bytes[4..8].copy_from_slice(&seconds.to_be_bytes());
    bytes[12..14].copy_from_slice(&priority.to_be_bytes());
    Entry::new(Protocol::V13, bytes).unwrap()
}

fn at(boot_ms: u64) -> Stamp {
    Stamp { boot_ms, wall_ms: boot_ms }
}

/// `br0`, with the dead pod's number given to this row.
fn node(given_to: Option<u128>) -> NodeSnapshot {
    let ports = given_to.map(|row| testing::port(60, &[], testing::interface(row, "veth9")));
    let ovs = testing::one_bridge(ports.into_iter().collect());
    NodeSnapshot::of(NOW, "boot".to_owned(), ovs.into())
}

/// Who died a minute ago.
fn target() -> CleanTarget {
    let key = Key {
        network: "net".parse().unwrap(),
        container: "c1".parse().unwrap(),
        ifname: "eth0".parse().unwrap(),
    };
    let mut record = Attachment::new(key, 1, "boot".to_owned(), at(1_000));
    record.bridge = Some("br0".to_owned());
    record.port = Some("veth5".to_owned());
    (record.interface, record.ofport) = (Some(RowId(PORT.into())), Some(PORT));
    record.died = Some(at(9_940_000));
    CleanTarget { attachment: record, cause: Cause::Tombstone }
}

/// What came of it, and the registry with its journal.
struct Played {
    done: Executed,
    error: Option<Error>,
    registry: Registry,
    _directory: tempfile::TempDir,
}

/// How many deleted entries the journal has; what was put back at once is not counted.
fn journal(registry: &Registry) -> usize {
    registry.journals().unwrap().iter().map(|operation| operation.entries).sum()
}

/// Scans the fake switch, plans, and carries the plan out. `meanwhile` is called before that, with
/// the state directory.
fn play(
    table: &mut FakeTable,
    evidence: &mut dyn Evidence,
    meanwhile: impl FnOnce(&Path, &mut FakeTable),
) -> Played {
    play_for(None, table, evidence, meanwhile)
}

/// The same for calls that wait.
fn play_for(
    leases: Option<&Leases<'_>>,
    table: &mut FakeTable,
    evidence: &mut dyn Evidence,
    meanwhile: impl FnOnce(&Path, &mut FakeTable),
) -> Played {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("state");
    let registry = Registry::open(&root).unwrap();
    let (targets, before) = ([target()], node(None));
    let deadline = Deadline::after(Duration::from_secs(60));
    let request = CleanRequest::of_call(Some(&registry), "/nonexistent".into(), deadline, "sweep");
    let request = CleanRequest { leases, ..request };
    let input = BridgeInput::build(&before, BridgeId(0), &targets, None);
    let scan = scan_bridge(table, &input, Extent::Everything).unwrap();
    let read = ScannedBridge {
        request: &request,
        targets: &targets,
        node: &before,
        bridge: (BridgeId(0), "br0"),
        version: None,
        ports: PortList::default(),
        input,
        scan,
    };
    let shared = vec![false].into();
    let planned = plan(&PlanInput {
        bridge: "br0",
        targets: &targets,
        input: &read.input,
        scan: &read.scan,
        shared: &shared,
        orders: Orders { observe: vec![false].into(), ..Orders::default() },
    });
    assert_eq!(planned.delete.len(), read.scan.candidates.len(), "{:?}", planned.kept);
    meanwhile(&root, table);
    let mut done = Executed::default();
    let error = execute(&read, &planned.delete, evidence, table, &mut done).err();
    Played { done, error, registry, _directory: directory }
}

fn unchanged_evidence() -> FakeEvidence<'static> {
    FakeEvidence(None)
}

/// The call that asked for it hangs up when all is planned.
#[test]
fn nothing_is_deleted_for_a_call_that_is_gone() {
    for hangs_up in [true, false] {
        let mut table = FakeTable::with(vec![entry(0, 1, 7), entry(1, 1, 7)]);
        let (call, stream) = std::os::unix::net::UnixStream::pair().unwrap();
        let lease = Lease::new(stream, Stamp::now().boot_ms + 60_000);
        let mut leases = Leases::default();
        leases.add(&lease, [&target().attachment.key].into_iter());
        let mut waits = Some(call);
        let hang_up = |_: &Path, _: &mut FakeTable| drop(waits.take_if(|_| hangs_up));
        let played = play_for(Some(&leases), &mut table, &mut unchanged_evidence(), hang_up);
        assert_eq!(matches!(played.error, Some(Error::Withdrawn)), hangs_up);
        let left = if hangs_up { 2 } else { 0 };
        assert_eq!((table.bridge.entries.len(), journal(&played.registry)), (left, 2 - left));
    }
}

#[test]
fn an_entry_is_in_the_journal_before_it_is_deleted() {
    let mut table = FakeTable::with(vec![entry(0, 1, 7), entry(1, 1, 7)]);
    let played = play(&mut table, &mut unchanged_evidence(), |root, table| {
        let root = root.to_owned();
        table.on_delete = Box::new(move |bridge: &mut Bridge| {
            let registry = Registry::open_existing(&root).unwrap().unwrap();
            assert_eq!((bridge.entries.len(), journal(&registry)), (2, 2));
            Answer::Done
        });
    });
    assert_eq!(played.done.outcomes, [EntryOutcome::Deleted; 2]);
    assert!(played.error.is_none() && played.done.journal.is_some());
    assert_eq!((table.bridge.entries.len(), journal(&played.registry)), (0, 2));
}

/// An operator pauses the node when all is planned: the lines that were made ahead are not written.
#[test]
fn what_a_pause_withholds_is_not_in_the_journal() {
    let mut table = FakeTable::with(vec![entry(0, 1, 7), entry(1, 1, 7)]);
    let pause = |root: &Path, _: &mut FakeTable| {
        let registry = Registry::open_existing(root).unwrap().unwrap();
        assert!(registry.begin_pause(&Pause::default()).unwrap());
    };
    let played = play(&mut table, &mut unchanged_evidence(), pause);
    assert_eq!(played.done.outcomes, [EntryOutcome::Withheld; 2]);
    assert_eq!((table.bridge.entries.len(), journal(&played.registry)), (2, 0));
}

/// The dead pod's number is somebody else's by now, as OVSDB or as the bridge says.
#[test]
fn evidence_that_changed_before_the_commit_keeps_the_entry() {
    let given = || node(Some(9));
    let mut table = FakeTable::with(vec![entry(0, 1, 7)]);
    let played = play(&mut table, &mut FakeEvidence(Some(&given)), |_, _| {});
    assert_eq!(
        (&*played.done.outcomes, table.bridge.entries.len()),
        (&[EntryOutcome::PutOff][..], 1)
    );
    assert_eq!((journal(&played.registry), played.done.suspicions), (0, 0));

    let mut table = FakeTable::with(vec![entry(0, 1, 7)]);
    table.bridge.ports = vec![(PORT, "veth9".to_owned())];
    let played = play(&mut table, &mut unchanged_evidence(), |_, _| {});
    assert_eq!(
        (&*played.done.outcomes, table.bridge.entries.len()),
        (&[EntryOutcome::PutOff][..], 1)
    );
}

/// Nobody can take the delete back then, so it must at least be told.
#[test]
fn a_number_that_changed_hands_behind_the_commit_is_a_suspicion() {
    let given = || node(Some(9));
    struct Later<'n>(FakeEvidence<'n>, u8);
    impl Evidence for Later<'_> {
        fn ask(&mut self) -> Result<(), Error> {
            self.1 += 1;
            Ok(())
        }
        fn is_current(&mut self, node: &NodeSnapshot, v: Option<Version>) -> Result<bool, Error> {
            if self.1 == 1 { Ok(true) } else { self.0.is_current(node, v) }
        }
        fn read(&mut self, of: &NodeSnapshot, v: Option<Version>) -> Result<NodeSnapshot, Error> {
            self.0.read(of, v)
        }
    }
    let mut table = FakeTable::with(vec![entry(0, 1, 7)]);
    let mut evidence = Later(FakeEvidence(Some(&given)), 0);
    let played = play(&mut table, &mut evidence, |_, _| {});
    assert_eq!((&*played.done.outcomes, played.done.suspicions), (&[EntryOutcome::Deleted][..], 1));
}

#[test]
fn a_refused_bundle_loses_nothing() {
    let all = vec![entry(0, 1, 7), entry(1, 1, 7)];
    let mut table = FakeTable::with(all.clone());
    table.on_delete = Box::new(|_| Answer::Refuse);
    let played = play(&mut table, &mut unchanged_evidence(), |_, _| {});
    assert_eq!(played.done.outcomes, [EntryOutcome::Stayed; 2]);
    assert_eq!((table.bridge.entries, played.done.suspicions), (all, 0));
    assert!(played.error.is_none());
}

/// A controller puts the same entry for the number's next owner while the deletes are under way.
#[test]
fn what_was_put_anew_in_the_window_goes_back() {
    let anew = aged(0, 0, 1, 8);
    let mut table = FakeTable::with(vec![entry(0, 1, 7), entry(1, 1, 7)]);
    let put = anew.clone();
    table.on_delete = Box::new(move |bridge: &mut Bridge| {
        bridge.put(put.clone());
        Answer::Done
    });
    let played = play(&mut table, &mut unchanged_evidence(), |_, _| {});
    assert_eq!(played.done.outcomes, [EntryOutcome::PutBack, EntryOutcome::Deleted]);
    assert_eq!(journal(&played.registry), 1);
    let left: Vec<Vec<u8>> = table.bridge.entries.iter().map(Entry::content).collect();
    assert_eq!((left, played.done.suspicions), (vec![anew.content()], 0));
}

/// Put before the deletes are sent: then it is not deleted at all.
#[test]
fn what_was_put_anew_before_the_commit_stays() {
    let anew = aged(0, 0, 1, 8);
    let mut table = FakeTable::with(vec![entry(0, 1, 7), entry(1, 1, 7)]);
    let put = anew.clone();
    let played = play(&mut table, &mut unchanged_evidence(), |_, table| table.bridge.put(put));
    assert_eq!(played.done.outcomes, [EntryOutcome::PutOff, EntryOutcome::Deleted]);
    assert_eq!(table.bridge.entries, [anew]);
}

/// The first chunk is done and known to be; the second is left for the next clean-up.
#[test]
fn a_deadline_that_passes_between_two_chunks_forgets_nothing() {
    let all: Vec<Entry> = (0..CHUNK + 10).map(|n| entry(0, u16::try_from(n).unwrap(), 7)).collect();
    let mut table = FakeTable::with(all);
    let mut calls = 0;
    table.on_delete = Box::new(move |_| {
        calls += 1;
        // Deletes go out in bundles; the last of the first chunk uses up the time.
        if calls == 4 { Answer::Late } else { Answer::Done }
    });
    let played = play(&mut table, &mut unchanged_evidence(), |_, _| {});
    assert!(matches!(played.error, Some(Error::OpenFlow(_))), "{:?}", played.error);
    assert_eq!(played.done.outcomes.len(), CHUNK);
    assert!(played.done.outcomes.iter().all(|outcome| outcome.is_done()));
    assert_eq!(table.bridge.entries.len(), 10);
    assert_eq!(played.done.suspicions, 0);
}

/// Whoever called is out of time, but an entry of the living that was hit goes back.
#[test]
fn what_was_hit_goes_back_after_the_deadline() {
    let anew = aged(0, 0, 1, 8);
    let mut table = FakeTable::with(vec![entry(0, 1, 7)]);
    let put = anew.clone();
    table.on_delete = Box::new(move |bridge: &mut Bridge| {
        bridge.put(put.clone());
        Answer::Late
    });
    let played = play(&mut table, &mut unchanged_evidence(), |_, _| {});
    let left: Vec<Vec<u8>> = table.bridge.entries.iter().map(Entry::content).collect();
    assert_eq!(left, [anew.content()]);
    assert_eq!(played.done.suspicions, 0);
}
