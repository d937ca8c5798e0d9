//! Liveness by the runtime: the real containerd with its CRI plugin, sandboxes that it made
//! through our chain, and what happens to them behind its back and to itself.
//!
//! Real but for two servers: one that talks nonsense, and one that passes on what containerd
//! says and leaves things out ([`liar`]). No runtime can be told to lie.

pub(crate) mod liar;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::rig::{Containerd, Datapath, Node, Runtime, Sandbox, Setup, eventually, sleep_ms};
use nix::sys::signal::Signal;
use ovs_flow_gc::liveness::cri::{self, Cri, Pace};
use ovs_flow_gc::liveness::{
    Judged, Liveness, LivenessReason, LivenessSource, Source, combine, netns,
};
use ovs_flow_gc::model::attachment::{Attachment, Pod};
use ovs_flow_gc::util::clock::{Stamp, boot_id};

const STOPPED: Liveness = Liveness::Dead(LivenessReason::SandboxStopped);
const GONE: Liveness = Liveness::Dead(LivenessReason::SandboxGone);
const AWAY: Liveness = Liveness::Unknown(LivenessReason::SourceAway);
const NEVER: Liveness = Liveness::Unknown(LivenessReason::NeverSeen);

/// A node whose pods need not reach each other.
fn node(test: &str) -> Node {
    Setup::new().datapath(Datapath::Dummy).gc_conf(serde_json::json!({"reg0": "pod"})).up(test)
}

/// Asks only when told to: every observation is the test's.
fn by_hand() -> Pace {
    Pace { idle: Duration::from_secs(600), soon: Duration::from_secs(600), ..quick() }
}

/// Asks often.
fn quick() -> Pace {
    Pace {
        idle: Duration::from_millis(50),
        soon: Duration::from_millis(20),
        timeout: Duration::from_millis(500),
        retry: Duration::from_millis(50),
        retry_most: Duration::from_millis(200),
    }
}

/// The source under test, on a thread of its own as in the daemon.
struct Watch {
    cri: Arc<Cri>,
    changes: Arc<AtomicUsize>,
    ups: Arc<Mutex<Vec<bool>>>,
}

impl Watch {
    fn start(socket: &Path, pace: Pace) -> Self {
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let changes = Arc::new(AtomicUsize::new(0));
        let ups = Arc::new(Mutex::new(Vec::new()));
        let (counted, told) = (Arc::clone(&changes), Arc::clone(&ups));
        let cri = cri::start(
            socket,
            pace,
            tokio.handle(),
            move || {
                counted.fetch_add(1, Ordering::Relaxed);
            },
            move |up| told.lock().unwrap().push(up),
        );
        let watched = Arc::downgrade(&cri);
        thread::spawn(move || {
            tokio.block_on(async {
                while watched.strong_count() > 0 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            });
        });
        Self { cri, changes, ups }
    }

    /// The same, once the runtime has answered.
    #[track_caller]
    fn on(runtime: &Containerd<'_>, pace: Pace) -> Self {
        let watch = Self::start(&runtime.socket(), pace);
        watch.comes_up();
        watch
    }

    #[track_caller]
    fn comes_up(&self) {
        eventually("the runtime answers", || self.cri.is_up());
    }

    #[track_caller]
    fn goes_away(&self) {
        eventually("the runtime is away", || !self.cri.is_up());
    }

    /// One more observation.
    #[track_caller]
    fn ask(&self) {
        assert!(self.cri.ask(Duration::from_secs(5)), "the runtime was asked and answered");
    }

    /// What it says of a record that is old enough.
    fn says(&self, record: &Attachment) -> Liveness {
        let now = Stamp::now();
        self.cri.judge(record, Stamp { boot_ms: now.boot_ms + 31_000, ..now })
    }
}

/// What our ADD wrote down.
#[track_caller]
fn record(node: &Node, container: &str) -> Attachment {
    let file = node.state_dir.join("podnet").join(format!("{container}:eth0.json"));
    let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    serde_json::from_str(&text).unwrap()
}

/// A sandbox and its record.
#[track_caller]
fn pod(node: &Node, runtime: &Runtime<'_>, name: &str) -> (Sandbox, Attachment) {
    let sandbox = runtime.run_sandbox(name);
    let record = record(node, &sandbox.id);
    assert_eq!(record.pod.as_ref().map(|pod| pod.uid.as_str()), Some(sandbox.uid.as_str()));
    (sandbox, record)
}

fn by_netns(record: &Attachment) -> Liveness {
    netns::judge(record, &boot_id().unwrap())
}

/// What the sweeper would conclude.
fn together(watch: &Watch, record: &Attachment) -> Judged {
    combine(&[(Source::Netns, by_netns(record)), (Source::Cri, watch.says(record))])
}

#[test]
fn ready_is_alive_and_two_observations_make_a_death() {
    let node = node("cri_two_observations");
    let runtime = Runtime::start(&node);
    let (web, webs) = pod(&node, &runtime, "web");
    let (db, dbs) = pod(&node, &runtime, "db");
    let (_stays, stays) = pod(&node, &runtime, "stays");
    let watch = Watch::on(&runtime, by_hand());
    for record in [&webs, &dbs, &stays] {
        assert_eq!(watch.says(record), Liveness::Alive);
    }

    runtime.stop_sandbox(&web);
    runtime.stop_sandbox(&db);
    runtime.remove_sandbox(&db);
    assert_eq!(watch.says(&webs), Liveness::Alive, "not asked since");
    watch.ask();
    assert_eq!(watch.says(&webs), Liveness::Unknown(LivenessReason::SeenOnce));
    assert_eq!(watch.says(&dbs), Liveness::Unknown(LivenessReason::SeenOnce));
    assert_eq!(watch.changes.load(Ordering::Relaxed), 1);
    watch.ask();
    assert_eq!(watch.says(&webs), STOPPED);
    assert_eq!(watch.says(&dbs), GONE);
    assert_eq!(watch.changes.load(Ordering::Relaxed), 2);
    assert_eq!(watch.cri.judge(&webs, Stamp::now()), Liveness::Unknown(LivenessReason::Young));
    assert_eq!(together(&watch, &webs).dead_by, [Source::Netns, Source::Cri]);

    runtime.remove_sandbox(&web);
    watch.ask();
    assert_eq!(watch.says(&webs), GONE);
    assert_eq!(watch.says(&stays), Liveness::Alive);
    assert_eq!(watch.changes.load(Ordering::Relaxed), 2, "nothing more to settle");
    assert_eq!(*watch.ups.lock().unwrap(), [true]);
}

#[test]
fn asking_by_itself_it_settles_a_death_soon() {
    let node = node("cri_by_itself");
    let runtime = Runtime::start(&node);
    let (web, webs) = pod(&node, &runtime, "web");
    let (_stays, stays) = pod(&node, &runtime, "stays");
    let pace = Pace { idle: Duration::from_millis(300), ..quick() };
    let watch = Watch::on(&runtime, pace);
    runtime.remove_sandbox(&web);
    eventually("dead", || watch.says(&webs) == GONE);
    assert_eq!(watch.says(&stays), Liveness::Alive);
}

#[test]
fn behind_the_kubelets_back() {
    let node = node("cri_behind_the_back");
    let runtime = Runtime::start(&node);
    let (web, webs) = pod(&node, &runtime, "web");
    let (db, dbs) = pod(&node, &runtime, "db");
    let watch = Watch::on(&runtime, by_hand());

    // The task is killed: the namespace is pinned, and stays.
    runtime.kill_pause(&web);
    for _ in 0..3 {
        watch.ask();
    }
    assert_eq!(watch.says(&webs), Liveness::Unknown(LivenessReason::SandboxNotReady));
    assert_eq!(together(&watch, &webs).life, Liveness::Alive);
    web.delete_netns();
    assert_eq!(watch.says(&webs), STOPPED);
    assert_eq!(together(&watch, &webs).dead_by, [Source::Netns, Source::Cri]);

    // The name of the namespace goes, the processes in it live: the runtime's word counts.
    db.delete_netns();
    watch.ask();
    watch.ask();
    assert_eq!(by_netns(&dbs), Liveness::Dead(LivenessReason::NetnsGone));
    assert_eq!(watch.says(&dbs), Liveness::Alive);
    assert_eq!(together(&watch, &dbs).life, Liveness::Alive);
}

#[test]
fn who_is_unknown_to_cri_is_never_judged() {
    let node = node("cri_unknown_to_it");
    let runtime = Runtime::start(&node);
    let (web, webs) = pod(&node, &runtime, "web");
    let (_stays, _) = pod(&node, &runtime, "stays");
    let ctr = runtime.start_run("unknown-to-cri", &["/bin/sleep", "600"]);
    runtime.task_pid("unknown-to-cri");
    let ctrs = record(&node, "default-unknown-to-cri");
    let watch = Watch::on(&runtime, by_hand());
    let mut another_uid = webs.clone();
    another_uid.pod =
        Some(Pod { uid: "d41d8cd98f00b204e9800998ecf8427e".into(), ..Pod::default() });
    let mut no_uid = webs.clone();
    no_uid.pod = None;
    assert_eq!(watch.says(&no_uid), Liveness::Alive, "the container's id is enough");
    runtime.remove_sandbox(&web);
    for _ in 0..3 {
        watch.ask();
        assert_eq!(watch.says(&ctrs), NEVER);
        assert_eq!(watch.says(&another_uid), NEVER);
    }
    assert_eq!(watch.says(&webs), GONE);
    assert_eq!(watch.says(&no_uid), GONE);
    runtime.ctr(&["tasks", "kill", "-s", "SIGKILL", "unknown-to-cri"]).ok();
    ctr.wait();

    // Stopped before the daemon was there: it never saw it ready.
    let (late, lates) = pod(&node, &runtime, "late");
    runtime.stop_sandbox(&late);
    let another = Watch::on(&runtime, by_hand());
    for _ in 0..3 {
        another.ask();
        assert_eq!(another.says(&lates), NEVER);
    }
}

#[test]
fn a_restart_of_the_runtime() {
    let node = node("cri_restart");
    let mut runtime = Runtime::start(&node);
    let (dies, died) = pod(&node, &runtime, "dies");
    let (_stays, stays) = pod(&node, &runtime, "stays");
    let watch = Watch::on(&runtime, quick());
    runtime.stop();
    watch.goes_away();
    assert_eq!(watch.says(&stays), AWAY);
    assert_eq!(watch.says(&died), AWAY);
    let asked = Instant::now();
    assert!(!watch.cri.ask(Duration::from_secs(60)), "away");
    assert!(asked.elapsed() < Duration::from_secs(30), "nobody waits for it");
    // What happens meanwhile is not for this source to say.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(dies.pid), Signal::SIGKILL).unwrap();
    dies.delete_netns();
    runtime.start_again();
    runtime.answers();
    eventually("seen again", || watch.says(&stays) == Liveness::Alive);
    for _ in 0..3 {
        watch.ask();
        assert_eq!(watch.says(&died), NEVER);
        assert_eq!(watch.says(&stays), Liveness::Alive);
    }
    assert_eq!(together(&watch, &died).dead_by, [Source::Netns], "the other source knows");
    assert_eq!(*watch.ups.lock().unwrap(), [true, false, true]);
}

/// Fewer than the brake stops: nothing but the source itself protects them.
#[test]
fn a_runtime_whose_state_was_wiped_kills_nobody() {
    let node = node("cri_wiped");
    let mut runtime = Runtime::start(&node);
    let pods = ["one", "two", "three"].map(|name| pod(&node, &runtime, name).1);
    let single = [pods[0].clone()];
    let watch = Watch::on(&runtime, quick());
    for record in &pods {
        assert_eq!(watch.says(record), Liveness::Alive);
    }
    runtime.stop();
    watch.goes_away();
    runtime.wipe_state();
    runtime.start_again();
    runtime.answers();
    watch.comes_up();
    assert_eq!(runtime.try_list().unwrap(), [], "it has forgotten them");
    for _ in 0..10 {
        watch.ask();
        for record in pods.iter().chain(&single) {
            assert_eq!(watch.says(record), NEVER);
            assert_eq!(by_netns(record), Liveness::Alive);
            assert_eq!(together(&watch, record).life, Liveness::Alive);
        }
    }
}

/// As fast as can be: the source may not have noticed that the runtime was away at all.
#[test]
fn a_runtime_that_was_wiped_between_two_looks_kills_nobody() {
    let node = node("cri_wiped_unseen");
    let mut runtime = Runtime::start(&node);
    let (_, alone) = pod(&node, &runtime, "alone");
    let watch = Watch::on(&runtime, by_hand());
    runtime.stop();
    runtime.wipe_state();
    runtime.start_again();
    runtime.answers();
    assert_eq!(watch.says(&alone), Liveness::Alive, "nothing noticed yet");
    // The old connection fails; the answer that counts may come over the next one already.
    let _ = watch.cri.ask(Duration::from_secs(5));
    watch.comes_up();
    for _ in 0..4 {
        watch.ask();
        assert_eq!(watch.says(&alone), NEVER);
    }
}

#[test]
fn a_runtime_that_hangs_is_away() {
    let node = node("cri_hangs");
    let runtime = Runtime::start(&node);
    let (dies, died) = pod(&node, &runtime, "dies");
    let (_stays, stays) = pod(&node, &runtime, "stays");
    let watch = Watch::on(&runtime, quick());
    runtime.signal(Signal::SIGSTOP);
    watch.goes_away();
    assert_eq!(watch.says(&stays), AWAY);
    let late = Watch::start(&runtime.socket(), quick());
    sleep_ms(1500);
    assert!(!late.cri.is_up());
    assert_eq!(late.says(&stays), AWAY);
    assert_eq!(*late.ups.lock().unwrap(), [false]);
    runtime.signal(Signal::SIGCONT);
    watch.comes_up();
    late.comes_up();
    // Over the same connection: what was seen still counts.
    runtime.remove_sandbox(&dies);
    for watch in [&watch, &late] {
        eventually("dead", || watch.says(&died) == GONE);
        assert_eq!(watch.says(&stays), Liveness::Alive);
    }
    assert_eq!(*watch.ups.lock().unwrap(), [true, false, true]);
}

/// containerd as Docker installs it: no CRI behind the socket.
#[test]
fn a_containerd_without_cri_is_away() {
    let node = node("cri_none");
    let containerd = Containerd::start(&node);
    let watch = Watch::start(&containerd.socket(), quick());
    eventually("it was asked", || *watch.ups.lock().unwrap() == [false]);
    sleep_ms(500);
    assert_eq!(*watch.ups.lock().unwrap(), [false], "told once");
}

#[test]
fn a_runtime_that_lies_kills_nobody() {
    let node = node("cri_lies");
    let runtime = Runtime::start(&node);
    let (web, webs) = pod(&node, &runtime, "web");
    let (_db, dbs) = pod(&node, &runtime, "db");
    let (_stays, stays) = pod(&node, &runtime, "stays");
    let liar = liar::Liar::start(&runtime.socket(), &node.dir.join("liar"));
    let watch = Watch::start(&liar.socket, quick());
    watch.comes_up();
    let all = [&webs, &dbs, &stays];
    for record in all {
        assert_eq!(watch.says(record), Liveness::Alive);
    }
    for lie in liar::Lie::ALL {
        liar.tell(lie);
        let end = Instant::now() + Duration::from_millis(600);
        while Instant::now() < end {
            for record in all {
                let life = watch.says(record);
                assert!(!life.is_dead(), "{lie:?}: {life:?}");
            }
            sleep_ms(5);
        }
        assert!(!watch.cri.is_up(), "{lie:?} is no observation");
        liar.tell(liar::Lie::None);
        watch.comes_up();
        for record in all {
            assert_eq!(watch.says(record), Liveness::Alive, "after {lie:?}");
        }
    }
    // It can tell a death from a lie.
    runtime.remove_sandbox(&web);
    eventually("dead", || watch.says(&webs) == GONE);
    assert_eq!(watch.says(&dbs), Liveness::Alive);
}

#[test]
fn a_runtime_that_flaps_kills_nobody() {
    let node = node("cri_flaps");
    let runtime = Runtime::start(&node);
    let records = ["a", "b"].map(|name| pod(&node, &runtime, name).1);
    let liar = liar::Liar::start(&runtime.socket(), &node.dir.join("liar"));
    let watch = Watch::start(&liar.socket, quick());
    watch.comes_up();
    for turn in 0..60 {
        let lies = liar::Lie::ALL;
        liar.tell(if turn % 2 == 0 { liar::Lie::None } else { lies[turn / 2 % lies.len()] });
        sleep_ms(23);
        for record in &records {
            assert!(!watch.says(record).is_dead());
        }
    }
}

/// No runtime does this: a server of the test's own that talks nonsense.
#[test]
fn nonsense_on_the_socket_is_away() {
    type Talk = fn(&mut dyn ReadWrite);
    let talks: [(&str, Talk); 6] = [
        ("hangs up", |_| {}),
        ("says nothing", |_| sleep_ms(3000)),
        ("HTTP/1.1", |peer| {
            let _ = peer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
            sleep_ms(300);
        }),
        ("noise without end", |peer| {
            let noise: Vec<u8> =
                (0..65536u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
            while peer.write_all(&noise).is_ok() {}
        }),
        // SETTINGS, and then a HEADERS frame that announces 16 MB.
        ("a frame too large", |peer| {
            let _ = peer.write_all(b"\0\0\0\x04\0\0\0\0\0\xff\xff\xff\x01\x04\0\0\0\x01");
            while peer.write_all(&[0; 65536]).is_ok() {}
        }),
        // SETTINGS, and a reset of whatever stream is asked on.
        ("resets every stream", |peer| {
            let _ = peer.write_all(b"\0\0\0\x04\0\0\0\0\0");
            let mut buffer = [0; 4096];
            while peer.read(&mut buffer).is_ok_and(|n| n > 0) {
                let _ = peer.write_all(b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\x02");
            }
        }),
    ];
    let dir = tempfile::tempdir().unwrap();
    let key = serde_json::json!({"network": "net", "containerID": "c1", "ifname": "eth0"});
    let record =
        Attachment::new(serde_json::from_value(key).unwrap(), 1, boot_id().unwrap(), Stamp::now());
    for (name, talk) in talks {
        let socket = dir.path().join("sock");
        let _ = fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        thread::spawn(move || {
            for peer in listener.incoming() {
                counted.fetch_add(1, Ordering::Relaxed);
                thread::spawn(move || talk(&mut peer.unwrap()));
            }
        });
        let watch = Watch::start(&socket, quick());
        eventually(&format!("{name}: tried again"), || calls.load(Ordering::Relaxed) >= 3);
        assert!(!watch.cri.is_up(), "{name}");
        assert_eq!(watch.says(&record), AWAY, "{name}");
        assert_eq!(*watch.ups.lock().unwrap(), [false], "{name}");
        assert!(calls.load(Ordering::Relaxed) < 40, "{name}: it backs off");
    }
    let nobody = Watch::start(&dir.path().join("nobody"), quick());
    eventually("it was tried", || *nobody.ups.lock().unwrap() == [false]);
    assert_eq!(nobody.says(&record), AWAY);
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}
