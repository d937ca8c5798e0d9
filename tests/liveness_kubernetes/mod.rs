//! The API server as a source of liveness, against a stand-in that lies, hangs and breaks (why a
//! stand-in: see `apiserver/mod.rs`). Whatever happens, nobody who is alive is called dead:
//! every test has a guard that asks without a pause.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::apiserver::{ApiServer, Bad, mirror, pod, status};
use ovs_flow_gc::daemon::events::{Cleaned, EventResult, Events, Pace};
use ovs_flow_gc::liveness::kubernetes::{Error, Kubernetes, Options, Timing};
use ovs_flow_gc::liveness::{Liveness, LivenessReason, LivenessSource, Source};
use ovs_flow_gc::model::attachment::{Attachment, Key, Netns, Pod};
use ovs_flow_gc::util::clock::{Stamp, boot_id};
use serde_json::json;

const NODE: &str = "n1";
const ALIVE: [&str; 3] = ["stays-1", "stays-2", "stays-3"];
const GONE: Liveness = Liveness::Dead(LivenessReason::PodGone);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn timing() -> Timing {
    Timing {
        answer: ms(700),
        confirm: ms(50),
        silence: ms(500),
        away: ms(1500),
        retry_least: ms(20),
        retry_most: ms(200),
    }
}

/// Another source, for the only question that is put to it.
struct Runtime {
    stopped: Arc<AtomicBool>,
}

impl LivenessSource for Runtime {
    fn source(&self) -> Source {
        Source::Cri
    }

    fn judge(&self, _: &Attachment, _: Stamp) -> Liveness {
        let stopped = self.stopped.load(Ordering::Relaxed);
        if stopped { Liveness::Unknown(LivenessReason::SandboxNotReady) } else { Liveness::Alive }
    }
}

/// A node with a watching source, and a guard over those who stay alive.
struct Rig {
    kubernetes: Arc<Kubernetes>,
    server: ApiServer,
    changes: Arc<AtomicUsize>,
    ups: Arc<Mutex<Vec<bool>>>,
    dir: tempfile::TempDir,
    stopped: Arc<AtomicBool>,
    runtime: tokio::runtime::Handle,
    end: Option<(Arc<AtomicBool>, std::thread::JoinHandle<usize>)>,
    quit: Option<tokio::sync::oneshot::Sender<()>>,
}

impl Rig {
    fn new() -> Self {
        Self::with(timing(), |_| {})
    }

    fn with(timing: Timing, prepare: impl FnOnce(&ApiServer)) -> Self {
        let server = ApiServer::start();
        for uid in ALIVE {
            server.put(pod(uid, NODE, "Running", &["10.0.0.1"]));
        }
        server.put(pod("elsewhere", "n2", "Running", &["10.0.1.1"]));
        prepare(&server);
        let dir = tempfile::tempdir().unwrap();
        let kubeconfig = dir.path().join("kubeconfig");
        put(&dir.path().join("token"), "first");
        put(
            &kubeconfig,
            &format!(
                "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
                 clusters: [{{name: k, cluster: {{server: 'http://{}'}}}}]\n\
                 contexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n\
                 users: [{{name: u, user: {{tokenFile: token}}}}]\n",
                server.address
            ),
        );
        let (tell, runtime) = std::sync::mpsc::channel();
        let (quit, quitting) = tokio::sync::oneshot::channel::<()>();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            tell.send(runtime.handle().clone()).unwrap();
            let _ = runtime.block_on(quitting);
        });
        let runtime = runtime.recv().unwrap();
        let (changes, ups) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let stopped = Arc::new(AtomicBool::new(false));
        let options = Options {
            kubeconfig: Some(kubeconfig),
            node_name: NODE.to_owned(),
            runtime: Some(Arc::new(Runtime { stopped: Arc::clone(&stopped) })),
            timing,
        };
        let (changed, up) = (Arc::clone(&changes), Arc::clone(&ups));
        let kubernetes = Kubernetes::start(
            options,
            &runtime,
            move || {
                changed.fetch_add(1, Ordering::Relaxed);
            },
            move |is_up| up.lock().unwrap().push(is_up),
        )
        .unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let guard = std::thread::spawn({
            let (over, kubernetes) = (Arc::clone(&over), Arc::clone(&kubernetes));
            move || {
                let mut looks = 0;
                while !over.load(Ordering::Relaxed) {
                    for uid in ALIVE {
                        let life = judge(&kubernetes, uid);
                        assert!(!life.is_dead(), "{uid} is alive and called {life:?}");
                    }
                    looks += 1;
                    std::thread::sleep(ms(1));
                }
                looks
            }
        });
        let end = Some((over, guard));
        Self { kubernetes, server, changes, ups, dir, stopped, runtime, end, quit: Some(quit) }
    }

    /// With a first list and a watch.
    fn watching() -> Self {
        let rig = Self::new();
        rig.settled();
        rig
    }

    fn settled(&self) {
        eventually("the source watches", || {
            self.server.watching() > 0 && ALIVE.iter().all(|uid| self.life(uid) == Liveness::Alive)
        });
    }

    fn life(&self, uid: &str) -> Liveness {
        judge(&self.kubernetes, uid)
    }

    /// Whatever happened, deaths are still noticed.
    fn still_works(&self) {
        self.settled();
        self.server.put(pod("last", NODE, "Running", &["10.0.0.9"]));
        eventually("a new pod is seen", || self.life("last") == Liveness::Alive);
        self.server.delete("last");
        eventually("its death is seen", || self.life("last") == GONE);
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some((over, guard)) = self.end.take() {
            over.store(true, Ordering::Relaxed);
            let looks = guard.join();
            if !std::thread::panicking() {
                assert!(looks.expect("nobody alive was called dead") > 0);
            }
        }
        drop(self.quit.take());
    }
}

fn put(path: &std::path::Path, text: &str) {
    let new = path.with_extension("new");
    std::io::Write::write_all(&mut std::fs::File::create(&new).unwrap(), text.as_bytes()).unwrap();
    std::fs::rename(new, path).unwrap();
}

/// An attachment of a minute ago.
fn record(uid: &str) -> Attachment {
    let key = Key {
        network: "net".parse().unwrap(),
        container: "c1".parse().unwrap(),
        ifname: "eth0".parse().unwrap(),
    };
    let now = Stamp::now();
    let then = Stamp { boot_ms: now.boot_ms - 60_000, wall_ms: now.wall_ms - 60_000 };
    let mut record = Attachment::new(key, 1, boot_id().unwrap(), then);
    record.pod = Some(Pod { namespace: "ns".into(), name: "web".into(), uid: uid.into() });
    record
}

fn judge(kubernetes: &Kubernetes, uid: &str) -> Liveness {
    kubernetes.judge(&record(uid), Stamp::now())
}

#[track_caller]
fn eventually(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(40);
    while !condition() {
        assert!(Instant::now() < end, "not within 40 s: {what}");
        std::thread::sleep(ms(2));
    }
}

#[test]
fn a_deleted_pod_is_dead_within_a_second_and_one_list_confirms_many() {
    let rig = Rig::watching();
    for n in 0..50 {
        rig.server.put(pod(&format!("p{n}"), NODE, "Running", &["10.0.0.2"]));
    }
    eventually("they are seen", || rig.life("p49") == Liveness::Alive);
    let (lists, changes) = (rig.server.lists(), rig.changes.load(Ordering::Relaxed));
    for n in 0..50 {
        rig.server.delete(&format!("p{n}"));
    }
    eventually("all are dead", || (0..50).all(|n| rig.life(&format!("p{n}")) == GONE));
    assert!(rig.server.lists() - lists <= 3, "{}", rig.server.lists() - lists);
    // Right after.
    eventually("the daemon is told", || rig.changes.load(Ordering::Relaxed) > changes);
    // From a cache, but none that is older than what was seen; never all pods of the cluster.
    for asked in rig.server.asked() {
        assert!(asked.target.contains("fieldSelector=spec.nodeName%3Dn1"), "{}", asked.target);
        assert!(asked.target.contains("resourceVersion="), "{}", asked.target);
    }
    assert_eq!(rig.life("elsewhere"), Liveness::Unknown(LivenessReason::NeverSeen));
    assert_eq!(rig.life(""), Liveness::Unknown(LivenessReason::NeverSeen));
}

/// Which pods are made from one template is the API server's word; it stays when they are deleted,
/// as the record has it.
#[test]
fn the_pods_of_a_stateful_set_are_of_one_workload() {
    let rig = Rig::watching();
    let owned = |uid: &str, revision: &str| {
        let mut pod = pod(uid, NODE, "Running", &[]);
        pod["metadata"]["labels"] = json!({"app": "x", "controller-revision-hash": revision});
        pod["metadata"]["ownerReferences"] = json!([{
            "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "set-uid",
            "controller": true, "blockOwnerDeletion": true,
        }]);
        pod
    };
    for pod in [owned("db-0", "db-1f"), owned("db-1", "db-1f"), owned("db-2", "db-2f")] {
        rig.server.put(pod);
    }
    rig.server.put(pod("bare", NODE, "Running", &[]));
    eventually("they are seen", || rig.life("bare") == Liveness::Alive);
    let member = |uid: &str| {
        let mut record = record(uid);
        record.workload = rig.kubernetes.workload(&record);
        (record.workload.is_some(), record.member())
    };
    let [one, other, revised] = ["db-0", "db-1", "db-2"].map(|uid| member(uid).1.unwrap());
    assert_eq!(one.workload, other.workload);
    assert!(one.pod != other.pod && one.workload != revised.workload);
    assert_eq!(member("bare"), (true, None), "it has no owner");
    assert_eq!(member("never-seen"), (false, None));
}

#[test]
fn a_young_attachment_is_not_judged() {
    let rig = Rig::watching();
    rig.server.put(pod("a", NODE, "Running", &[]));
    eventually("it is seen", || rig.life("a") == Liveness::Alive);
    rig.server.delete("a");
    eventually("it is dead", || rig.life("a") == GONE);
    let mut young = record("a");
    young.created = Stamp::now();
    assert_eq!(
        rig.kubernetes.judge(&young, Stamp::now()),
        Liveness::Unknown(LivenessReason::Young)
    );
}

#[test]
fn an_evicted_pod_is_dead_when_its_sandbox_is_stopped() {
    let rig = Rig::watching();
    rig.server.put(pod("a", NODE, "Running", &["10.0.0.2"]));
    eventually("it is seen", || rig.life("a") == Liveness::Alive);
    rig.server.put(pod("a", NODE, "Failed", &["10.0.0.2"]));
    let may_run = Liveness::Unknown(LivenessReason::SandboxMayRun);
    eventually("it has ended", || rig.life("a") == may_run);
    // The runtime says so.
    rig.stopped.store(true, Ordering::Relaxed);
    assert_eq!(rig.life("a"), Liveness::Dead(LivenessReason::PodEnded));
    rig.stopped.store(false, Ordering::Relaxed);
    // Its namespace says so.
    let parent = std::fs::metadata(rig.dir.path()).unwrap();
    let mut gone = record("a");
    gone.netns = Some(Netns {
        path: rig.dir.path().join("netns").to_str().unwrap().to_owned(),
        device: 4,
        inode: 4_026_531_999,
        parent_device: parent.dev(),
        parent_inode: parent.ino(),
        pid_namespace: None,
    });
    let ended = Liveness::Dead(LivenessReason::PodEnded);
    assert_eq!(rig.kubernetes.judge(&gone, Stamp::now()), ended);
    assert_eq!(rig.life("a"), may_run, "whose namespace nobody knows");
    // The garbage collector removes the pod.
    rig.server.delete("a");
    eventually("it is gone", || rig.life("a") == GONE);
}

#[test]
fn a_static_pod_outlives_its_mirror() {
    let rig = Rig::watching();
    rig.server.put(mirror("api-uid", NODE, "hash"));
    eventually("it is known by its hash", || rig.life("hash") == Liveness::Alive);
    assert_eq!(rig.life("api-uid"), Liveness::Alive);
    rig.server.delete("api-uid");
    eventually("its mirror is gone", || {
        rig.life("hash") == Liveness::Unknown(LivenessReason::NeverSeen)
    });
    rig.still_works();
    for uid in ["hash", "api-uid"] {
        assert_eq!(rig.life(uid), Liveness::Unknown(LivenessReason::NeverSeen));
    }
}

/// Lists that must not count, whatever they say.
#[test]
fn a_lying_or_broken_list_kills_nobody() {
    let empty = |version: &str| {
        format!(
            r#"{{"kind":"PodList","apiVersion":"v1","metadata":{{"resourceVersion":"{version}"}},"items":[]}}"#
        )
    };
    let one = |pod: serde_json::Value| {
        serde_json::json!({ "kind": "PodList", "metadata": { "resourceVersion": "99999" }, "items": [pod] })
            .to_string()
    };
    let other = one(pod("stays-1", "n2", "Running", &[]));
    let no_uid = one(pod("", NODE, "Running", &[]));
    let bads = [
        Bad::Without("stays-1"),
        Bad::Broken(400),
        Bad::Broken(0),
        Bad::Cut(400),
        Bad::Cut(0),
        Bad::Hang,
        Bad::Slow(1, ms(50)),
        Bad::Body(empty("100000")),
        Bad::Body(empty("1")),
        Bad::Body(empty("")),
        Bad::Body("{}".to_owned()),
        Bad::Body("[]".to_owned()),
        Bad::Body("null".to_owned()),
        Bad::Body(status(200, "ok")),
        Bad::Body(empty("100000").replace("PodList", "NodeList")),
        Bad::Body(r#"{"kind":"PodList","metadata":{"resourceVersion":"100000"}}"#.to_owned()),
        Bad::Body(other),
        Bad::Body(no_uid),
        Bad::Status(404, status(404, "not found")),
        Bad::Status(403, status(403, "forbidden")),
        Bad::Status(429, status(429, "slow down")),
        Bad::Status(500, "<html>".to_owned()),
        Bad::Status(503, String::new()),
        Bad::Status(410, status(410, "expired")),
    ];
    for bad in bads {
        let rig = Rig::watching();
        let said = format!("{bad:?}");
        // Once as the list that a doubt asks for (the watch lies, too), once after a gap.
        rig.server.next_list(bad.clone());
        rig.server.bookmark();
        rig.server.put(pod("other", NODE, "Running", &[]));
        eventually(&said, || rig.life("other") == Liveness::Alive);
        rig.server.delete("other");
        eventually(&said, || rig.server.bad_left() == 0);
        // Not twice in a row, as two lists that agree are believed: a true one is asked for.
        let lists = rig.server.lists();
        eventually(&said, || rig.server.lists() > lists);
        rig.settled();
        rig.server.next_list(bad);
        rig.server.expire(said.len() % 2 == 0);
        eventually(&said, || rig.server.bad_left() == 0);
        rig.still_works();
    }
}

#[test]
fn a_lying_watch_kills_nobody() {
    let of = |kind: &str, pod: serde_json::Value| {
        format!("{}\n", serde_json::json!({ "type": kind, "object": pod }))
    };
    let deleted = of("DELETED", pod("stays-1", NODE, "Running", &[]));
    let failed = of("MODIFIED", pod("stays-1", NODE, "Failed", &[]));
    for lines in [
        deleted.clone(),
        deleted.repeat(3),
        failed.clone(),
        format!("{failed}{deleted}"),
        of("DELETED", pod("stays-1", "n2", "Running", &[])),
        of("MODIFIED", pod("stays-1", "n2", "Failed", &[])),
        of("DELETED", pod("", NODE, "Running", &[])),
        of("SURPRISE", pod("stays-1", NODE, "Failed", &[])),
        "{}\n".to_owned(),
        "nonsense\n".to_owned(),
        "{\"type\":\"ERROR\",\"object\":{}}\n".to_owned(),
        format!("{{\"type\":\"ERROR\",\"object\":{}}}\n", status(500, "etcd")),
    ] {
        for torn in [false, true] {
            let rig = Rig::watching();
            rig.stopped.store(true, Ordering::Relaxed);
            rig.server.next_watch(if torn {
                Bad::Torn(lines[..lines.len() - 1].to_owned())
            } else {
                Bad::Lines(lines.clone())
            });
            rig.server.end_watches();
            eventually(&lines, || rig.server.bad_left() == 0);
            rig.still_works();
        }
    }
}

#[test]
fn gone_in_both_forms_is_followed_by_lists() {
    for event in [false, true] {
        let rig = Rig::watching();
        rig.server.put(pod("a", NODE, "Running", &[]));
        eventually("it is seen", || rig.life("a") == Liveness::Alive);
        rig.server.delete("a");
        // Most likely unseen: nobody can watch from before.
        rig.server.expire(event);
        eventually("its death is seen by two lists", || rig.life("a") == GONE);
        assert!(!rig.ups.lock().unwrap().contains(&false), "a 410 is no outage");
        rig.still_works();
    }
}

#[test]
fn a_half_closed_watch_is_given_up_and_resumed_where_it_was() {
    let rig = Rig::watching();
    rig.server.put(pod("before", NODE, "Running", &[]));
    eventually("the watch was heard", || rig.life("before") == Liveness::Alive);
    rig.server.next_watch(Bad::Silent);
    rig.server.end_watches();
    eventually("the silent watch is asked for", || rig.server.bad_left() == 0);
    // Nobody tells of these on the silent watch.
    rig.server.put(pod("a", NODE, "Running", &[]));
    eventually("the next one tells", || rig.life("a") == Liveness::Alive);
    assert!(!rig.ups.lock().unwrap().contains(&false), "silence is no outage");
    rig.still_works();
}

#[test]
fn a_server_that_is_away_makes_it_not_know_and_comes_back() {
    let rig = Rig::watching();
    rig.server.put(pod("a", NODE, "Running", &[]));
    eventually("it is seen", || rig.life("a") == Liveness::Alive);
    rig.server.down(true);
    eventually("it says so", || rig.ups.lock().unwrap().last() == Some(&false));
    assert!(!rig.kubernetes.is_up());
    let away = Liveness::Unknown(LivenessReason::SourceAway);
    eventually("it does not know any more", || rig.life("a") == away);
    rig.server.delete("a");
    rig.server.expire(true);
    std::thread::sleep(ms(300));
    assert_eq!(rig.life("a"), away);
    rig.server.down(false);
    eventually("a is dead, by two lists after the outage", || rig.life("a") == GONE);
    assert_eq!(*rig.ups.lock().unwrap(), [true, false, true]);
    rig.still_works();
}

#[test]
fn a_server_that_is_away_at_the_start_is_waited_for() {
    let rig = Rig::with(timing(), |server| server.down(true));
    std::thread::sleep(ms(300));
    assert_eq!(rig.life("stays-1"), Liveness::Unknown(LivenessReason::SourceAway));
    rig.server.down(false);
    rig.still_works();
}

#[test]
fn a_rotated_token_is_read_again() {
    let rig = Rig::watching();
    let start = Instant::now();
    rig.server.want_token("second");
    eventually("it is refused", || rig.ups.lock().unwrap().last() == Some(&false));
    put(&rig.dir.path().join("token"), "second");
    rig.still_works();
    // kube's client by itself reads it once a minute.
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

#[test]
fn a_paged_list_counts_when_its_last_page_came() {
    let rig = Rig::with(timing(), |server| server.page(Some(1)));
    rig.still_works();
    // The last page of the next list breaks.
    for bad in
        [Bad::Broken(10), Bad::Status(410, status(410, "expired")), Bad::Status(500, String::new())]
    {
        let said = format!("{bad:?}");
        for truth in [Bad::Slow(1000, ms(0)), Bad::Slow(1000, ms(0)), bad] {
            rig.server.next_list(truth);
        }
        rig.server.expire(false);
        eventually(&said, || rig.server.bad_left() == 0);
        rig.still_works();
    }
}

#[test]
fn a_slow_list_is_waited_for() {
    let rig = Rig::with(timing(), |server| server.next_list(Bad::Slow(50, ms(10))));
    rig.still_works();
}

#[test]
fn a_server_that_is_behind_is_no_witness_and_a_new_history_begins_anew() {
    let rig = Rig::watching();
    for n in 0..20 {
        rig.server.put(pod(&format!("p{n}"), NODE, "Running", &[]));
    }
    eventually("they are seen", || rig.life("p19") == Liveness::Alive);
    // A backup of long ago, without any of them, and with versions that count from there.
    for n in 0..20 {
        rig.server.delete(&format!("p{n}"));
    }
    rig.server.restore(50);
    rig.settled();
    let never_seen = Liveness::Unknown(LivenessReason::NeverSeen);
    eventually("the new history is accepted", || rig.life("p19") == never_seen);
    rig.still_works();
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Those of the addresses that nobody has, by the API server's word.
fn free<'a>(rig: &Rig, ips: &[&'a str]) -> Vec<&'a str> {
    let asked: BTreeSet<IpAddr> = ips.iter().map(|text| ip(text)).collect();
    let free = rig.kubernetes.free(&asked, ms(1500));
    ips.iter().copied().filter(|text| free.contains(&ip(text))).collect()
}

#[test]
fn who_has_an_address_in_the_cluster() {
    const NONE: [&str; 0] = [];
    let rig = Rig::watching();
    rig.server.put(pod("ended", "n2", "Succeeded", &["10.0.1.2"]));
    rig.server.put(pod("dual", "n2", "Pending", &["10.0.1.3", "fd00::3"]));
    let v4 = ["10.0.1.1", "10.0.1.2", "10.0.1.3", "10.0.1.4"];
    assert_eq!(free(&rig, &v4), ["10.0.1.2", "10.0.1.4"]);
    let by_selector = |rig: &Rig| {
        rig.server.asked().iter().filter(|a| a.target.contains("status.podIP%3D")).count()
    };
    assert_eq!(by_selector(&rig), 4);
    // The selector knows no secondary address: everybody is looked at, page by page.
    rig.server.page(Some(2));
    assert_eq!(free(&rig, &["fd00::3", "fd00::4"]), ["fd00::4"]);
    assert_eq!(by_selector(&rig), 4);
    // A cluster where pods here have an IPv6 address first.
    rig.server.page(None);
    rig.server.put(pod("six", NODE, "Running", &["fd00::6", "10.0.0.6"]));
    eventually("it is seen", || rig.life("six") == Liveness::Alive);
    assert_eq!(free(&rig, &["10.0.0.6", "10.0.0.7"]), ["10.0.0.7"]);
    assert_eq!(by_selector(&rig), 4);
    // None but a complete answer says nobody.
    for bad in [
        Bad::Broken(300),
        Bad::Cut(300),
        Bad::Hang,
        Bad::Slow(1, ms(50)),
        Bad::Body("{}".to_owned()),
        Bad::Status(403, status(403, "forbidden")),
        Bad::Status(500, String::new()),
    ] {
        let said = format!("{bad:?}");
        rig.server.next_list(bad);
        assert_eq!(free(&rig, &["10.0.0.7"]), NONE, "{said}");
    }
    assert_eq!(free(&rig, &["10.0.0.7"]), ["10.0.0.7"]);
    rig.server.down(true);
    assert_eq!(free(&rig, &["10.0.0.7"]), NONE);
}

#[test]
fn events_are_told_once_then_together_and_failures_are_counted() {
    let rig = Rig::watching();
    let told: Arc<Mutex<Vec<EventResult>>> = Arc::default();
    let pace = Pace { burst: 3, refill: Duration::from_secs(60), together: ms(100) };
    let hear = Arc::clone(&told);
    let events = Events::start(&rig.kubernetes, &rig.runtime, pace, move |what| {
        hear.lock().unwrap().push(what);
    });
    let clean = |name: &str| {
        let pod = Pod { namespace: "ns".into(), name: name.into(), uid: "u-1".into() };
        events.cleaned(Cleaned { pod, flows: 7, by: Some(Source::Netns), delivered: None });
    };
    let count = |what| told.lock().unwrap().iter().filter(|one| **one == what).count();
    let writes = || -> Vec<crate::apiserver::Asked> {
        rig.server.asked().into_iter().filter(|asked| asked.method != "GET").collect()
    };
    rig.server.next_write(Bad::Status(403, status(403, "forbidden")));
    clean("Not/A/Name");
    for n in 0..3 {
        clean(&format!("web-{n}"));
    }
    eventually("three are told", || told.lock().unwrap().len() == 4);
    assert_eq!(
        (count(EventResult::Dropped), count(EventResult::Failed), count(EventResult::Sent)),
        (1, 1, 2)
    );
    let first = writes().remove(0);
    assert!(first.target.starts_with("/api/v1/namespaces/ns/events"), "{}", first.target);
    let event: serde_json::Value = serde_json::from_str(&first.body).unwrap();
    assert_eq!(event["involvedObject"]["kind"], "Pod");
    assert_eq!(event["involvedObject"]["uid"], "u-1");
    assert_eq!(event["count"], 1);
    // More than that is one event on the node, and the next one counts it up.
    for n in 0..100 {
        clean(&format!("web-{n}"));
    }
    eventually("they are told together", || count(EventResult::Sent) == 3);
    assert_eq!((count(EventResult::Aggregated), writes().len()), (100, 4));
    let counted = writes().remove(3);
    assert!(counted.target.starts_with("/api/v1/namespaces/default/events"), "{}", counted.target);
    assert!(counted.body.contains("700 stale OpenFlow entries of 100 pods"), "{}", counted.body);
    clean("web-7");
    eventually("it is counted up", || count(EventResult::Sent) == 4);
    let again = writes().remove(4);
    assert_eq!(again.method, "PATCH");
    assert!(again.body.contains("\"count\":2"), "{}", again.body);
    // A server that is away holds nobody up.
    rig.server.down(true);
    let start = Instant::now();
    for n in 0..1000 {
        clean(&format!("web-{n}"));
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    eventually("it fails", || count(EventResult::Failed) == 2);
}

#[test]
fn what_is_missing_is_said() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let start = |options: Options| {
        Kubernetes::start(options, runtime.handle(), || {}, |_| {}).map(|_| ()).unwrap_err()
    };
    let missing = start(Options::default());
    assert!(matches!(missing, Error::NoNodeName) && missing.to_string().contains("NODE_NAME"));
    for odd in ["a,spec.nodeName=b", "a b", "A", &"a".repeat(254)] {
        let options = Options { node_name: odd.to_owned(), ..Options::default() };
        assert!(matches!(start(options), Error::BadNodeName(_)), "{odd}");
    }
    let options = Options {
        node_name: NODE.to_owned(),
        kubeconfig: Some("/nonexistent/kubeconfig".into()),
        ..Options::default()
    };
    let error = start(options).to_string();
    assert!(error.contains("/nonexistent/kubeconfig"), "{error}");
    let options = Options { node_name: NODE.to_owned(), ..Options::default() };
    let error = start(options).to_string();
    assert!(error.contains("--kubeconfig"), "{error}");
}

/// A field of /proc/self/status, in kB.
fn memory(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()
}

#[test]
fn a_long_list_costs_the_memory_of_what_is_kept() {
    // A process of its own: the other tests' memory is none of ours.
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "liveness_kubernetes::memory_of_a_long_list", "--nocapture"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    let said = said.lines().find_map(|line| line.strip_prefix("peak kB: "));
    let peak: u64 = said.expect("the child measured").parse().unwrap();
    println!("1,000 pods of 20 kB, 20 MB in all: {peak} kB at the peak");
    assert!(peak < 6_000, "{peak} kB");
}

#[test]
#[ignore = "run by a_long_list_costs_the_memory_of_what_is_kept, in a process of its own"]
fn memory_of_a_long_list() {
    let rig = Rig::watching();
    let before = memory("VmRSS:");
    rig.server.next_list(Bad::Many(1000, 20_000));
    rig.server.expire(false);
    eventually("the list is in", || rig.kubernetes.pods() == 1000);
    println!("\npeak kB: {}", memory("VmHWM:").saturating_sub(before));
}

/// The handshake with a server that is not ours: OpenSSL's, which serves one file.
#[test]
fn a_list_comes_over_tls() {
    let dir = tempfile::tempdir().unwrap();
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-days", "2", "-subj", "/CN=k"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    std::fs::create_dir_all(dir.path().join("api/v1")).unwrap();
    let list = serde_json::json!({
        "kind": "PodList", "metadata": { "resourceVersion": "7" },
        "items": [pod("a", NODE, "Running", &["10.0.0.1"])],
    });
    put(
        &dir.path().join("api/v1/pods?&fieldSelector=spec.nodeName%3Dn1&resourceVersion=0"),
        &format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{list}"),
    );
    let mut server = std::process::Command::new("openssl")
        .args(["s_server", "-accept", "127.0.0.1:0", "-cert", "cert.pem", "-key", "key.pem"])
        .arg("-HTTP")
        .current_dir(dir.path())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let said = std::io::BufReader::new(server.stdout.take().unwrap());
    let mut lines = std::io::BufRead::lines(said).map(Result::unwrap);
    let address = lines.find_map(|line| line.strip_prefix("ACCEPT ").map(str::to_owned)).unwrap();
    std::thread::spawn(move || lines.for_each(drop));
    let kubeconfig = dir.path().join("kubeconfig");
    put(
        &kubeconfig,
        &format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             clusters: [{{name: k, cluster: {{server: 'https://{address}', certificate-authority: \
             cert.pem}}}}]\n\
             contexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n\
             users: [{{name: u, user: {{token: t}}}}]\n"
        ),
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let options = Options {
        kubeconfig: Some(kubeconfig),
        node_name: NODE.to_owned(),
        timing: timing(),
        ..Options::default()
    };
    let kubernetes = Kubernetes::start(options, runtime.handle(), || {}, |_| {}).unwrap();
    runtime.block_on(async {
        for _ in 0..500 {
            if kubernetes.pods() > 0 {
                break;
            }
            tokio::time::sleep(ms(10)).await;
        }
    });
    let pods = kubernetes.pods();
    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!(pods, 1);
}
