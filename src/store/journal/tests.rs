use serde_json::{Value, json};

use super::*;
use crate::store::layout::tests::key;
use crate::store::{Registry, replace};

fn registry() -> (tempfile::TempDir, Registry) {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::open(&dir.path().join("state")).unwrap();
    (dir, registry)
}

fn subject(pod: usize) -> Subject {
    let key = key("net", &format!("c{pod}"), "eth0");
    Subject { bridge: "br0".into(), pod: format!("ns/pod-{pod}"), key: Some(key) }
}

fn deleted(pod: usize, n: usize, padding: usize) -> Deleted<'static, Value> {
    Deleted {
        subject: Cow::Owned(subject(pod)),
        rule: "1".into(),
        reason: format!("in_port {pod} is dead").into(),
        entry: json!({"n": n, "match": "f".repeat(padding)}),
    }
}

fn read_back(registry: &Registry, id: &JournalId) -> (Operation, Vec<Deleted<'static, Value>>) {
    let mut all = Vec::new();
    let operation = registry.read_journal(id, &mut |d| all.push(d)).unwrap();
    (operation, all)
}

fn size_of(registry: &Registry) -> u64 {
    let files = files(&registry.root.join("journal")).unwrap();
    files.iter().map(|(.., bytes)| bytes).sum()
}

#[test]
fn what_was_recorded_comes_back_in_order() {
    let (_dir, registry) = registry();
    let mut writer = registry.begin_journal("sweep", vec!["br0".into()], "timer").unwrap();
    let written: Vec<_> = (0..50).map(|n| deleted(n % 3, n, 10)).collect();
    for d in &written {
        writer.record(d).unwrap();
    }
    let id = writer.finish().unwrap();
    let (operation, all) = read_back(&registry, &id);
    assert_eq!(all, written);
    assert_eq!(operation.header.verb, "sweep");
    assert_eq!(operation.header.bridges, ["br0"]);
    assert!(operation.finished && !operation.truncated);
    assert_eq!((operation.entries, operation.unreadable), (50, 0));
    assert_eq!(registry.journals().unwrap(), [operation]);
}

#[test]
fn flushed_lines_are_there_before_the_end_and_after_a_crash() {
    let (_dir, registry) = registry();
    let mut writer = registry.begin_journal("DEL", vec![], "").unwrap();
    writer.record(&deleted(1, 1, 10)).unwrap();
    writer.flush().unwrap();
    writer.record(&deleted(1, 2, 10)).unwrap();
    let id = writer.id.clone();
    drop(writer);
    let (operation, all) = read_back(&registry, &id);
    assert_eq!(all, [deleted(1, 1, 10)]);
    assert!(!operation.finished);
    assert_eq!(registry.journals().unwrap(), [operation]);
}

#[test]
fn what_was_prepared_can_be_taken_back() {
    let (_dir, registry) = registry();
    let mut writer = registry.begin_journal("sweep", vec![], "").unwrap();
    writer.prepare(&deleted(1, 1, 10)).unwrap();
    writer.flush().unwrap();
    // More than is written at once otherwise; a group of its own among them.
    let large: Vec<_> = (0..20).map(|n| deleted(2 + n % 2, n, 10_000)).collect();
    for d in &large {
        writer.prepare(d).unwrap();
    }
    assert!(writer.has_room());
    let path = registry.root.join(format!("journal/{}.jsonl.pending", writer.id));
    assert_eq!(fs::read_to_string(path).unwrap().lines().count(), 3);
    writer.take_back();
    for d in &large[1..] {
        writer.prepare(d).unwrap();
    }
    let (_, all) = read_back(&registry, &writer.finish().unwrap());
    assert_eq!(all[0], deleted(1, 1, 10));
    assert_eq!(all[1..], large[1..]);
}

#[test]
fn a_notice_that_was_taken_back_is_written_again_and_one_that_was_written_stays() {
    let (_dir, registry) = registry();
    let mut writer = registry.begin_journal_within(30_000, "sweep", vec![], "").unwrap();
    for n in 0..8 {
        writer.prepare(&deleted(1, n, 10_000)).unwrap();
    }
    assert!(writer.truncated);
    writer.take_back();
    assert!(!writer.truncated);
    for n in 0..8 {
        writer.prepare(&deleted(1, n, 10_000)).unwrap();
    }
    writer.flush().unwrap();
    writer.take_back();
    assert!(writer.truncated);
    let (operation, all) = read_back(&registry, &writer.finish().unwrap());
    assert!(operation.truncated && !all.is_empty() && all.len() < 8, "{}", all.len());
}

#[test]
fn what_was_put_back_does_not_count_as_deleted() {
    let (_dir, registry) = registry();
    let mut writer = registry.begin_journal("sweep", vec![], "").unwrap();
    let written: Vec<_> = (0..6).map(|n| deleted(n % 2, n / 2, 10)).collect();
    for d in &written {
        writer.record(d).unwrap();
    }
    for n in [0, 2, 4] {
        writer.put_back(&written[n].entry).unwrap();
    }
    let (operation, all) = read_back(&registry, &writer.finish().unwrap());
    assert_eq!((operation.entries, operation.unreadable), (3, 0));
    // Two of one kind, one of which is back: which one makes no difference.
    assert_eq!(all, [&written[1], &written[3], &written[5]].map(Clone::clone));
    assert_eq!(registry.journals().unwrap(), [operation]);
}

#[test]
fn a_torn_last_line_is_left_out() {
    let (_dir, registry) = registry();
    let mut writer = registry.begin_journal("DEL", vec![], "").unwrap();
    for n in 0..2 {
        writer.record(&deleted(1, n, 10)).unwrap();
    }
    let id = writer.finish().unwrap();
    let path = registry.root.join(format!("journal/{id}.jsonl"));
    let bytes = fs::read(&path).unwrap();
    let header = bytes.iter().position(|b| *b == b'\n').unwrap();
    for length in header + 1..bytes.len() {
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_len(length as u64).unwrap();
        let (operation, all) = read_back(&registry, &id);
        assert!(all.len() < 2);
        let whole = bytes[length - 1] == b'\n';
        assert_eq!(operation.unreadable, usize::from(!whole), "cut at {length}");
        assert_eq!(registry.journals().unwrap()[0].entries, all.len());
        replace(&path, &bytes).unwrap();
    }
}

#[test]
fn abandoned_is_gone() {
    let (_dir, registry) = registry();
    let writer = registry.begin_journal("DEL", vec![], "").unwrap();
    let id = writer.id.clone();
    writer.abandon().unwrap();
    let read = registry.read_journal::<Value>(&id, &mut |_| {});
    assert!(matches!(read, Err(Error::NoSuchOperation { .. })));
}

#[test]
fn the_oldest_operations_make_room() {
    let (_dir, registry) = registry();
    let limit = 1024 * 1024;
    let mut ids = Vec::new();
    for n in 0..8 {
        let mut writer = registry.begin_journal_within(limit, "sweep", vec![], "").unwrap();
        for k in 0..200 {
            writer.record(&deleted(n, k, 1000)).unwrap();
        }
        ids.push(writer.finish().unwrap());
        assert!(size_of(&registry) <= limit, "{}", size_of(&registry));
        // An operation is named after its millisecond; a name that is free again would be taken again.
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let left: Vec<_> = registry.journals().unwrap();
    assert!(left.iter().all(|o| o.entries == 200 && !o.truncated));
    let left: Vec<_> = left.into_iter().map(|o| o.header.id).collect();
    ids.reverse();
    assert!(left.len() >= 2, "{left:?}");
    assert_eq!(left, ids[..left.len()], "the newest stay");
}

#[test]
fn an_operation_larger_than_the_bound_is_cut_and_says_so() {
    let (_dir, registry) = registry();
    let limit = 1024 * 1024;
    let small = registry.begin_journal_within(limit, "DEL", vec![], "").unwrap().finish().unwrap();
    let mut writer = registry.begin_journal_within(limit, "sweep", vec![], "").unwrap();
    for n in 0..5000 {
        writer.record(&deleted(n % 7, n, 1000)).unwrap();
    }
    assert!(writer.truncated);
    let id = writer.finish().unwrap();
    assert!(size_of(&registry) <= limit);
    let (operation, all) = read_back(&registry, &id);
    assert!(operation.truncated);
    assert!(all.len() > 700, "{}", all.len());
    assert!(all.iter().enumerate().all(|(n, d)| *d == deleted(n % 7, n, 1000)));
    assert!(matches!(
        registry.read_journal::<Value>(&small, &mut |_| {}),
        Err(Error::NoSuchOperation { .. })
    ));
}

#[test]
fn an_operation_that_is_being_written_is_spared() {
    let (_dir, registry) = registry();
    let limit = 1024 * 1024;
    let mut early = registry.begin_journal_within(limit, "sweep", vec![], "").unwrap();
    early.record(&deleted(1, 1, 10)).unwrap();
    early.flush().unwrap();
    let mut late = registry.begin_journal_within(limit, "sweep", vec![], "").unwrap();
    for n in 0..2000 {
        late.record(&deleted(2, n, 1000)).unwrap();
    }
    late.finish().unwrap();
    let id = early.finish().unwrap();
    assert_eq!(read_back(&registry, &id).1, [deleted(1, 1, 10)]);
}

#[test]
fn there_are_not_thousands_of_small_ones() {
    let (_dir, registry) = registry();
    let mut last = None;
    for _ in 0..MOST_OPERATIONS + 20 {
        last = Some(registry.begin_journal("DEL", vec![], "").unwrap().finish().unwrap());
    }
    let all = registry.journals().unwrap();
    assert_eq!(all.len(), MOST_OPERATIONS);
    assert_eq!(all.first().map(|o| &o.header.id), last.as_ref());
}

#[test]
fn ids_are_checked_before_they_become_a_path() {
    for bad in [
        "",
        "..",
        "../lock",
        "20261121T101112.123-",
        "20261121T101112.123-4711/../x",
        "20261121T101112.123-x",
        "20261121T101112.123-99999999999",
        "20261121T101112.123-1\n",
    ] {
        assert!(bad.parse::<JournalId>().is_err(), "{bad:?}");
    }
    let id = JournalId::new(1_795_255_872_123);
    assert_eq!(id.as_str(), format!("20261121T101112.123-{}", std::process::id()));
    assert_eq!(id.as_str().parse::<JournalId>(), Ok(id));
}

#[test]
fn an_entry_of_another_shape_hides_no_other() {
    let (_dir, registry) = registry();
    let mut writer = registry.begin_journal("DEL", vec![], "").unwrap();
    for entry in [json!(1), json!("two"), json!(3)] {
        writer.record(&Deleted { entry, ..deleted(1, 0, 0) }).unwrap();
    }
    let id = writer.finish().unwrap();
    let mut numbers = Vec::new();
    let operation = registry.read_journal::<u32>(&id, &mut |d| numbers.push(d.entry)).unwrap();
    assert_eq!((numbers, operation.unreadable), (vec![1, 3], 1));
}
