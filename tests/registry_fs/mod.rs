//! The state directory on file systems that fail, under processes that are killed, and with
//! many at once. Needs root.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::inside::{again, inside, sh};
use ovs_flow_gc::config::Reg0;
use ovs_flow_gc::model::attachment::{Attachment, Key, State};
use ovs_flow_gc::reconcile::network_states;
use ovs_flow_gc::store::{Deleted, Error, Pause, Registry, Subject, new_generation};
use ovs_flow_gc::util::clock::{Deadline, Stamp};
use serde_json::{Value, json};

const ENOSPC: Option<i32> = Some(28);
const EROFS: Option<i32> = Some(30);

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(10))
}

fn key(container: &str) -> Key {
    let (network, ifname) = ("net".parse().unwrap(), "eth0".parse().unwrap());
    Key { network, container: container.parse().unwrap(), ifname }
}

fn attachment(container: &str) -> Attachment {
    Attachment::new(key(container), new_generation(), "boot".into(), Stamp::now())
}

fn gone(a: &Attachment) -> Attachment {
    Attachment { state: State::Gone, died: Some(Stamp::now()), ..a.clone() }
}

fn deleted(n: usize) -> Deleted<'static, Value> {
    let subject = Subject { bridge: "br0".into(), pod: "ns/web".into(), key: Some(key("c1")) };
    let entry = json!({"n": n, "match": "f".repeat(400)});
    Deleted { subject: Cow::Owned(subject), rule: "1".into(), reason: "dead".into(), entry }
}

/// A tmpfs of its own, which ends with the mount namespace.
fn tmpfs(options: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    sh(&format!("mount -t tmpfs -o {options} tmpfs {}", dir.path().display()));
    let root = dir.path().join("state");
    (dir, root)
}

fn hidden_files(root: &Path) -> String {
    sh(&format!("find {} -name '.*.tmp'", root.display()))
}

#[test]
fn a_full_disk_loses_nothing() {
    if !inside("registry_fs::a_full_disk_loses_nothing") {
        return;
    }
    let (_dir, root) = tmpfs("size=64k,mode=0755");
    let registry = Registry::open(&root).unwrap();
    let lock = registry.lock(soon()).unwrap();
    let mut written = Vec::new();
    let error = loop {
        let a = attachment(&format!("c{}", written.len()));
        match lock.put(&a) {
            Ok(()) => written.push(a),
            Err(e) => break e,
        }
        assert!(written.len() < 100, "a tmpfs of 64 KB holds no hundred records");
    };
    assert_eq!(error.errno(), ENOSPC, "{error}");
    assert!(error.to_string().contains("No space left on device"), "{error}");
    assert!(error.to_string().contains(root.to_str().unwrap()), "{error}");
    assert_eq!(hidden_files(&root), "");

    // A change that does not fit leaves the record as it was.
    let first = written.first().unwrap();
    let refused = lock.update(first, |a| a.last_error = Some("x".repeat(5000))).unwrap_err();
    assert_eq!(refused.errno(), ENOSPC);
    assert_eq!(lock.get(&first.key).unwrap().as_ref(), Some(first));
    assert_eq!(lock.set_network_state(&first.key.network, &1).unwrap_err().errno(), ENOSPC);

    // A death is written down even so, and the operator can pause.
    lock.write_tombstone(&gone(first)).unwrap();
    assert_eq!(lock.get(&first.key).unwrap(), None);
    let tombstone = lock.tombstones_of(&first.key).unwrap().remove(0);
    assert_eq!((tombstone.state, tombstone.generation), (State::Deleting, first.generation));
    assert!(tombstone.died.is_some());
    assert!(!registry.begin_pause(&Pause::default()).unwrap(), "it has no end");
    assert!(registry.paused());

    let error = registry.begin_journal("DEL", vec![], "").unwrap_err();
    assert_eq!(error.errno(), ENOSPC);
    assert!(registry.journals().unwrap().is_empty());
    assert_eq!(sh(&format!("ls -A {}/journal", root.display())), "");

    let registry_snapshot = lock.snapshot().unwrap();
    assert_eq!(registry_snapshot.attachments.len(), written.len() - 1);
    assert!(registry_snapshot.is_complete() && registry_snapshot.corrupt.is_empty());
    assert!(registry_snapshot.leftovers.is_empty());

    // Room again.
    lock.remove_tombstone(&tombstone).unwrap();
    lock.put(&attachment("again")).unwrap();
}

#[test]
fn a_journal_that_meets_a_full_disk_keeps_what_was_flushed() {
    if !inside("registry_fs::a_journal_that_meets_a_full_disk_keeps_what_was_flushed") {
        return;
    }
    let (_dir, root) = tmpfs("size=64k,mode=0755");
    let registry = Registry::open(&root).unwrap();
    let mut writer = registry.begin_journal("sweep", vec!["br0".into()], "").unwrap();
    let mut kept = 0;
    let error = loop {
        for n in 0..10 {
            writer.record(&deleted(kept + n)).unwrap();
        }
        match writer.flush() {
            Ok(()) => kept += 10,
            Err(e) => break e,
        }
        assert!(kept < 1000);
    };
    assert_eq!(error.errno(), ENOSPC, "{error}");
    assert!(kept > 0);
    let id = writer.finish().unwrap();
    let mut back = Vec::new();
    let operation = registry.read_journal(&id, &mut |d| back.push(d)).unwrap();
    assert_eq!(back, (0..kept).map(deleted).collect::<Vec<_>>());
    assert_eq!(operation.unreadable, 0);
}

#[test]
fn no_inode_left_is_an_error_too() {
    if !inside("registry_fs::no_inode_left_is_an_error_too") {
        return;
    }
    // The root, `state`, `lock` and `net`: none for the record.
    let (_dir, root) = tmpfs("nr_inodes=4,mode=0755");
    let registry = Registry::open(&root).unwrap();
    let lock = registry.lock(soon()).unwrap();
    let error = lock.put(&attachment("c1")).unwrap_err();
    assert_eq!(error.errno(), ENOSPC, "{error}");
    let registry_snapshot = lock.snapshot().unwrap();
    assert!(registry_snapshot.attachments.is_empty() && registry_snapshot.leftovers.is_empty());
}

#[test]
fn a_read_only_directory_can_be_read() {
    if !inside("registry_fs::a_read_only_directory_can_be_read") {
        return;
    }
    let (dir, root) = tmpfs("size=1m,mode=0755");
    let a = attachment("c1");
    Registry::open(&root).unwrap().lock(soon()).unwrap().put(&a).unwrap();
    sh(&format!("mount -o remount,ro {}", dir.path().display()));

    let registry = Registry::open(&root).unwrap();
    assert_eq!(registry.snapshot().unwrap().attachments, vec![a.clone()].into());
    assert_eq!(registry.get(&a.key).unwrap(), Some(a));
    let error = registry.lock(soon()).unwrap_err();
    assert_eq!(error.errno(), EROFS, "{error}");
    assert!(error.to_string().contains("Read-only file system"), "{error}");
    assert_eq!(registry.begin_pause(&Pause::default()).unwrap_err().errno(), EROFS);
    assert_eq!(registry.begin_journal("DEL", vec![], "").unwrap_err().errno(), EROFS);

    let missing = dir.path().join("elsewhere");
    assert!(Registry::open_existing(&missing).unwrap().is_none());
    let error = Registry::open(&missing).unwrap_err();
    assert_eq!(error.errno(), EROFS);
    assert!(error.to_string().contains(missing.to_str().unwrap()), "{error}");
}

#[test]
fn a_directory_of_somebody_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("state");
    Registry::open(&root).unwrap();
    std::os::unix::fs::chown(&root, Some(65534), None).unwrap();
    for refused in [Registry::open(&root).map(Some), Registry::open_existing(&root)] {
        let error = refused.unwrap_err();
        assert!(matches!(error, Error::NotOurs { owner: 65534, us: 0, .. }), "{error}");
    }
}

const STATE: &str = "OVS_FLOW_GC_TEST_STATE";

/// On tmpfs, as on a node: a disk spends its time on renames, and kills would hit nothing
/// else.
fn in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

/// What a crash must leave whole, whenever it happens. Returns the keys that are there.
fn check_after_a_crash(registry: &Registry) -> Vec<Key> {
    // The kernel released the dead one's lock.
    let lock = registry.lock(Deadline::after(Duration::from_millis(500))).unwrap();
    let registry_snapshot = lock.snapshot().unwrap();
    assert!(registry_snapshot.corrupt.is_empty(), "{:?}", registry_snapshot.corrupt);
    assert!(registry_snapshot.is_complete(), "{:?}", registry_snapshot.failures);
    for network in &registry_snapshot.networks {
        network.state::<Value>().unwrap();
    }
    lock.tidy(&registry_snapshot).unwrap();
    let tidied = lock.snapshot().unwrap();
    assert_eq!(tidied.attachments, registry_snapshot.attachments);
    assert_eq!(tidied.tombstones, registry_snapshot.tombstones);
    let all = registry_snapshot.attachments.iter().chain(&registry_snapshot.tombstones);
    all.map(|a| a.key.clone()).collect()
}

/// One of everything that writes records.
fn a_life(registry: &Registry) {
    let lock = registry.lock(soon()).unwrap();
    let mut a = attachment("c1");
    lock.put(&a).unwrap();
    lock.set_network_state(&a.key.network, &json!({"stage": 1})).unwrap();
    assert!(lock.update(&a, |a| a.attempts += 1).unwrap());
    lock.write_tombstone(&gone(&a)).unwrap();
    assert!(lock.update(&a, |a| a.attempts += 1).unwrap());
    let old = a.clone();
    a.generation = new_generation();
    lock.put(&a).unwrap();
    lock.remove_tombstone(&old).unwrap();
    lock.write_tombstone(&gone(&a)).unwrap();
    lock.set_network_state(&a.key.network, &json!({"stage": 2})).unwrap();
}

#[test]
fn killed_before_each_system_call_nothing_is_torn_or_forgotten() {
    const ME: &str = "registry_fs::killed_before_each_system_call_nothing_is_torn_or_forgotten";
    if let Some(root) = std::env::var_os(STATE) {
        return a_life(&Registry::open(Path::new(&root)).unwrap());
    }
    let dir = in_memory();
    let mut between = 0;
    for call in ["openat", "write", "rename", "unlink", "mkdir", "flock"] {
        for when in 1.. {
            assert!(when < 100, "{call} is not called that often");
            let root = dir.path().join(format!("{call}-{when}"));
            let trace = format!("trace={call}");
            let inject = format!("inject={call}:signal=KILL:when={when}");
            let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
            let mut child = again(ME, &strace);
            let status = child.env(STATE, &root).stdout(Stdio::null()).status().unwrap();
            // Otherwise it was killed on its way here.
            if let Some(registry) = Registry::open_existing(&root).unwrap() {
                let keys = check_after_a_crash(&registry);
                let stage: Option<Value> = registry.network_state(&key("c1").network).unwrap();
                assert!(stage.is_none() || keys.contains(&key("c1")), "forgotten at {call} {when}");
                assert!(!status.success() || stage == Some(json!({"stage": 2})));
                between += usize::from(stage.is_some() && !status.success());
            }
            if status.success() {
                break;
            }
        }
    }
    assert!(between > 30, "it must have been killed in the middle, was {between} times");
}

/// Everything that writes, for ever.
fn scribble(registry: &Registry) {
    let pid = std::process::id();
    for n in u64::from(pid).. {
        let lock = registry.lock(soon()).unwrap();
        let key = key(&format!("c{}", n % 3));
        match lock.get(&key).unwrap() {
            None => lock.put(&attachment(key.container.as_str())).unwrap(),
            Some(a) if n % 2 == 0 => assert!(lock.update(&a, |a| a.attempts += 1).unwrap()),
            Some(a) => lock.write_tombstone(&gone(&a)).unwrap(),
        }
        let tombstones = lock.tombstones_of(&key).unwrap();
        if let [first, _, ..] = &tombstones[..] {
            lock.remove_tombstone(first).unwrap();
        }
        let state = json!({"pid": pid, "text": "y".repeat(2000)});
        lock.set_network_state(&key.network, &state).unwrap();
        drop(lock);
        let mut writer = registry.begin_journal("sweep", vec![], "").unwrap();
        for n in 0..30 {
            writer.record(&deleted(n)).unwrap();
            if n % 10 == 9 {
                writer.flush().unwrap();
            }
        }
        writer.finish().unwrap();
    }
}

#[test]
fn killed_at_random_moments_nothing_is_torn_or_forgotten() {
    const ME: &str = "registry_fs::killed_at_random_moments_nothing_is_torn_or_forgotten";
    if let Some(root) = std::env::var_os(STATE) {
        return scribble(&Registry::open(Path::new(&root)).unwrap());
    }
    let dir = in_memory();
    let root = dir.path().join("state");
    let registry = Registry::open(&root).unwrap();
    let (mut known, mut pending) = (Vec::new(), 0);
    for round in 0..60u64 {
        let mut child =
            again(ME, &["env"]).env(STATE, &root).stdout(Stdio::null()).spawn().unwrap();
        let pid = json!(child.id());
        let going = || {
            let state: Option<Value> = registry.network_state(&key("c1").network).unwrap();
            state.is_some_and(|state| state["pid"] == pid)
        };
        let deadline = soon();
        while !going() {
            assert!(!deadline.passed(), "the child does not get going");
            std::thread::sleep(Duration::from_micros(200));
        }
        std::thread::sleep(Duration::from_micros(round * 1_319 % 7_000));
        child.kill().unwrap();
        assert!(child.wait().unwrap().code().is_none(), "it must not have ended by itself");

        let keys = check_after_a_crash(&registry);
        for key in &known {
            assert!(keys.contains(key), "{key} was forgotten in round {round}");
        }
        known = keys;
        for operation in registry.journals().unwrap() {
            let mut entries = 0;
            let id = &operation.header.id;
            let read = registry.read_journal::<Value>(id, &mut |_| entries += 1).unwrap();
            if read.finished {
                assert_eq!((entries, read.unreadable), (30, 0), "{id}");
            } else {
                pending += 1;
                assert!(entries <= 30 && read.unreadable <= 1, "{id}");
            }
        }
    }
    assert!(!known.is_empty());
    assert!(pending > 0, "some were killed while writing the journal");
}

#[test]
fn processes_at_once_lose_no_update() {
    const ME: &str = "registry_fs::processes_at_once_lose_no_update";
    if let Some(root) = std::env::var_os(STATE) {
        let registry = Registry::open(Path::new(&root)).unwrap();
        let shared = registry.get(&key("shared")).unwrap().unwrap();
        for n in 0..25 {
            assert!(registry.lock(soon()).unwrap().update(&shared, |a| a.attempts += 1).unwrap());
            let own = attachment(&format!("p{}-{n}", std::process::id()));
            registry.lock(soon()).unwrap().put(&own).unwrap();
            if n % 2 == 0 {
                registry.lock(soon()).unwrap().write_tombstone(&gone(&own)).unwrap();
            }
        }
        return;
    }
    let dir = in_memory();
    let root = dir.path().join("state");
    let registry = Registry::open(&root).unwrap();
    registry.lock(soon()).unwrap().put(&attachment("shared")).unwrap();
    let spawn = |_| {
        let mut command: Command = again(ME, &["env"]);
        command.env(STATE, &root).stdout(Stdio::null()).spawn().unwrap()
    };
    let mut children: Vec<_> = (0..8).map(spawn).collect();
    while children.iter_mut().any(|c| c.try_wait().unwrap().is_none()) {
        let registry_snapshot = registry.snapshot().unwrap();
        assert!(registry_snapshot.attachments.iter().any(|a| a.key == key("shared")));
        assert!(registry_snapshot.corrupt.is_empty() && registry_snapshot.is_complete());
    }
    assert!(children.iter_mut().all(|c| c.wait().unwrap().success()));
    let registry_snapshot = registry.snapshot().unwrap();
    assert_eq!(registry_snapshot.attachments.len(), 1 + 8 * 12);
    assert_eq!(registry_snapshot.tombstones.len(), 8 * 13);
    assert_eq!(registry.get(&key("shared")).unwrap().unwrap().attempts, 8 * 25);
}

/// Files as 2e44880 wrote them: an upgrade forgets nobody. (`daemon::versions` tries the binaries.)
#[test]
fn what_an_older_version_wrote_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/older_state");
    let root = dir.path().join("state");
    sh(&format!("cp -r {data} {} && chmod -R go-rwx {}", root.display(), root.display()));
    let registry = Registry::open(&root).unwrap();
    let snapshot = registry.snapshot().unwrap();
    assert!(snapshot.corrupt.is_empty() && snapshot.is_complete(), "{:?}", snapshot.corrupt);
    assert_eq!((snapshot.attachments.len(), snapshot.tombstones.len()), (1, 1));
    let live = snapshot.attachments.iter().next().unwrap();
    let dead = snapshot.tombstones.iter().next().unwrap();
    assert_eq!((live.ofport, live.ips.len(), live.macs.len()), (Some(2), 2, 1));
    assert_eq!((dead.ofport, dead.state, dead.attempts), (Some(1), State::Deleting, 1));
    let states = network_states(&snapshot);
    let config = &states.values().next().unwrap().config;
    assert_eq!((config.reg0.clone(), config.linger_seconds), (Reg0::Pod, 30));
    // What this version writes of it has every key that the older one needs.
    registry.lock(soon()).unwrap().put(live).unwrap();
    let read = |root: &Path| -> Value {
        let text = std::fs::read(root.join("podnet/c2:eth0.json")).unwrap();
        serde_json::from_slice(&text).unwrap()
    };
    let (then, now) = (read(Path::new(data)), read(&root));
    for (key, value) in then.as_object().unwrap() {
        assert_eq!(&now[key], value, "{key}");
    }
}
