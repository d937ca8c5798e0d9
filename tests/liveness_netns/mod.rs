//! Liveness by network namespaces, with real ones. Each test has a mount namespace with a
//! /run/netns of its own. Needs root.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::inside::{again, inside, sh};
use ovs_flow_gc::liveness::netns::{CaptureError, born, capture, judge};
use ovs_flow_gc::liveness::{Liveness, LivenessReason};
use ovs_flow_gc::model::attachment::Attachment;
use ovs_flow_gc::util::clock::{Stamp, boot_id};

const RECORD: &str = "OVS_FLOW_GC_TEST_RECORD";
const X: &str = "/run/netns/x";

/// `true` inside, with an empty /run/netns.
fn alone(test: &str) -> bool {
    if !inside(test) {
        return false;
    }
    sh("mkdir -p /run/netns; mount -t tmpfs -o mode=0755 tmpfs /run/netns");
    true
}

fn record(path: &str) -> Attachment {
    let key = serde_json::json!({"network": "net", "containerID": "c1", "ifname": "eth0"});
    let key = serde_json::from_value(key).unwrap();
    let mut record = Attachment::new(key, 1, boot_id().unwrap(), Stamp::now());
    record.netns = Some(capture(path).unwrap());
    record
}

fn life(record: &Attachment) -> Liveness {
    judge(record, &boot_id().unwrap())
}

/// What a process behind `prefix` (another container, other privileges) says.
fn life_seen_from(test: &str, prefix: &[&str], record: &Attachment) -> String {
    let record = serde_json::to_string(record).unwrap();
    let output = again(test, prefix).env(RECORD, record).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    let line = said.lines().find_map(|line| line.split_once("LIFE "));
    line.unwrap_or_else(|| panic!("{prefix:?}: {said} {errors}")).1.to_owned()
}

/// The other end of [`life_seen_from`]: `true` if that is what we are.
fn only_judges() -> bool {
    let Ok(record) = std::env::var(RECORD) else { return false };
    println!("LIFE {:?}", life(&serde_json::from_str(&record).unwrap()));
    true
}

/// A process that ends with the test.
struct Process(Child);

impl Process {
    /// Its program has begun once it closes its output, so that its namespaces are there.
    fn start(command: &[&str]) -> Self {
        let (first, rest) = command.split_first().unwrap();
        let mut command = Command::new(first);
        command.args(rest).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        let output = child.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }

    fn id(&self) -> u32 {
        self.0.id()
    }

    fn netns(&self) -> String {
        format!("/proc/{}/ns/net", self.id())
    }

    fn end(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const SLEEP: [&str; 3] = ["sh", "-c", "echo ready; exec sleep 60"];

fn in_own_netns() -> Process {
    Process::start(&[&["unshare", "--net"], &SLEEP[..]].concat())
}

#[test]
fn a_pinned_namespace_lives_and_dies() {
    if !alone("liveness_netns::a_pinned_namespace_lives_and_dies") {
        return;
    }
    let before = Stamp::now();
    sh("ip netns add x");
    let record = record(X);
    assert_eq!(record.netns.as_ref().unwrap().pid_namespace, None);
    assert_eq!(life(&record), Liveness::Alive);
    assert_eq!(judge(&record, "another boot"), Liveness::Dead(LivenessReason::OtherBoot));

    // Since it was mounted, however it is used.
    let since = born(X, Stamp::now()).unwrap();
    assert!(since.boot_ms + 25 >= before.boot_ms && since.boot_ms <= record.created.boot_ms);
    std::thread::sleep(Duration::from_millis(60));
    sh("ip netns exec x ip link set lo up; stat /run/netns/x; cat /proc/self/mountinfo");
    let later = born(X, Stamp::now()).unwrap();
    assert!(later.boot_ms.abs_diff(since.boot_ms) <= 2, "{since:?} {later:?}");
    assert_eq!(life(&record), Liveness::Alive);

    // /var/run is a link to /run.
    let mut by_link = record.clone();
    by_link.netns = Some(capture("/var/run/netns/x").unwrap());
    assert_eq!(life(&by_link), Liveness::Alive);

    sh("ip netns del x");
    for record in [&record, &by_link] {
        assert_eq!(life(record), Liveness::Dead(LivenessReason::NetnsGone));
    }
    assert_eq!(born(X, Stamp::now()), None);
}

#[test]
fn a_namespace_of_the_same_name_is_another() {
    if !alone("liveness_netns::a_namespace_of_the_same_name_is_another") {
        return;
    }
    sh("ip netns add x");
    let record = record(X);
    // While it is in use its number is not given away.
    let _user = Process::start(&[&["ip", "netns", "exec", "x"], &SLEEP[..]].concat());
    sh("ip netns del x; ip netns add x");
    assert_eq!(life(&record), Liveness::Dead(LivenessReason::NetnsReplaced));
}

#[test]
fn the_same_number_mounted_later_is_unknown() {
    if !alone("liveness_netns::the_same_number_mounted_later_is_unknown") {
        return;
    }
    let process = in_own_netns();
    let bind = format!("touch {X}; mount --bind {} {X}", process.netns());
    sh(&bind);
    let record = record(X);
    assert_eq!(life(&record), Liveness::Alive);
    std::thread::sleep(Duration::from_millis(60));
    sh(&format!("umount {X}; {bind}"));
    assert_eq!(life(&record), Liveness::Unknown(LivenessReason::Remounted));
}

#[test]
fn an_unmounted_directory_is_no_death() {
    if !alone("liveness_netns::an_unmounted_directory_is_no_death") {
        return;
    }
    sh("ip netns add x");
    let record = record(X);
    // Just the namespace: a plain file is left.
    sh(&format!("umount {X}"));
    assert_eq!(life(&record), Liveness::Unknown(LivenessReason::NotANamespace));
    // The whole directory: what was below it comes to light.
    sh("umount -l /run/netns");
    assert_eq!(life(&record), Liveness::Unknown(LivenessReason::OtherDirectory));
    // Not even that.
    sh("mount -t tmpfs tmpfs /run/netns; mkdir /run/netns/dir; touch /run/netns/dir/x");
    let mut elsewhere = record.clone();
    elsewhere.netns.as_mut().unwrap().path = "/run/netns/missing/x".into();
    assert_eq!(life(&elsewhere), Liveness::Unknown(LivenessReason::DirectoryGone));
    elsewhere.netns.as_mut().unwrap().path = "/run/netns/dir/x/y".into();
    assert_eq!(life(&elsewhere), Liveness::Unknown(LivenessReason::DirectoryGone));
}

#[test]
fn other_files_in_its_place_are_no_death() {
    if !alone("liveness_netns::other_files_in_its_place_are_no_death") {
        return;
    }
    sh("ip netns add x");
    let record = record(X);
    sh(&format!("umount {X}; rm {X}"));
    for make in [
        "touch X",
        "mkfifo X",
        "mkdir X",
        "touch X; touch plain; mount --bind plain X",
        "touch X; mount --bind /proc/self/ns/uts X",
        "ln -s /proc/self/status X",
    ] {
        sh(&format!("cd /run/netns; {}", make.replace('X', "x")));
        let found = life(&record);
        // Another kind of namespace is on the same device; its number is never ours.
        let expected = if make.contains("uts") {
            LivenessReason::NetnsReplaced
        } else {
            LivenessReason::NotANamespace
        };
        match found {
            Liveness::Dead(why) | Liveness::Unknown(why) => assert_eq!(why, expected, "{make}"),
            Liveness::Alive => panic!("{make}"),
        }
        assert_eq!(found.is_dead(), make.contains("uts"), "{make}");
        sh("cd /run/netns; umount x 2>/dev/null || true; rm -rf x");
    }
    assert_eq!(life(&record), Liveness::Dead(LivenessReason::NetnsGone));
}

#[test]
fn a_container_without_mount_propagation_knows_nothing() {
    const ME: &str = "liveness_netns::a_container_without_mount_propagation_knows_nothing";
    if only_judges() || !alone(ME) {
        return;
    }
    let private = ["unshare", "--mount", "--propagation", "private"];
    let container = Process::start(&[&private[..], &SLEEP[..]].concat());
    sh("ip netns add x");
    let record = record(X);
    assert_eq!(life(&record), Liveness::Alive);
    let pid = container.id().to_string();
    let enter = ["nsenter", "--mount", "--target", &pid];
    assert_eq!(life_seen_from(ME, &enter, &record), "Unknown(NotANamespace)");
    // The file itself is shared: that it is gone can be seen.
    sh("ip netns del x");
    assert_eq!(life_seen_from(ME, &enter, &record), "Dead(NetnsGone)");
}

#[test]
fn a_link_to_a_process_is_not_judged_dead() {
    if !alone("liveness_netns::a_link_to_a_process_is_not_judged_dead") {
        return;
    }
    let mut process = in_own_netns();
    sh(&format!("ln -s {} {X}", process.netns()));
    let record = record(X);
    assert_eq!(life(&record), Liveness::Alive);
    process.end();
    assert_eq!(life(&record), Liveness::Unknown(LivenessReason::Link));
    sh(&format!("ln -sf /proc/self/ns/net {X}"));
    assert_eq!(life(&record), Liveness::Unknown(LivenessReason::Link));
}

#[test]
fn a_process_lives_and_dies() {
    const ME: &str = "liveness_netns::a_process_lives_and_dies";
    if only_judges() || !alone(ME) {
        return;
    }
    let before = Stamp::now();
    let mut process = in_own_netns();
    let record = record(&process.netns());
    assert!(record.netns.as_ref().unwrap().pid_namespace.is_some_and(|n| n > 0));
    assert_eq!(life(&record), Liveness::Alive);
    let since = born(&process.netns(), Stamp::now()).unwrap();
    assert!(since.boot_ms + 25 >= before.boot_ms && since.boot_ms <= record.created.boot_ms);

    // There the number is nobody's, or somebody else's.
    let container = ["unshare", "--pid", "--fork", "--mount-proc"];
    assert_eq!(life_seen_from(ME, &container, &record), "Unknown(OtherPidNamespace)");
    // A PID namespace of its own, but the host's /proc.
    let container = ["unshare", "--pid", "--fork"];
    assert_eq!(life_seen_from(ME, &container, &record), "Unknown(OtherPidNamespace)");
    assert_eq!(life(&record), Liveness::Alive);

    // A zombie first.
    process.0.kill().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(life(&record), Liveness::Dead(LivenessReason::ProcessGone));
    process.end();
    assert_eq!(life(&record), Liveness::Dead(LivenessReason::ProcessGone));
    assert_eq!(born(&record.netns.unwrap().path, Stamp::now()), None);
}

#[test]
fn another_namespace_behind_the_process_id() {
    if !alone("liveness_netns::another_namespace_behind_the_process_id") {
        return;
    }
    let script = "echo ready; read line; exec unshare --net sleep 60";
    let mut process = Process::start(&["unshare", "--net", "sh", "-c", script]);
    let record = record(&process.netns());
    // So that the first one's number is not given to the second.
    let user = record.netns.as_ref().unwrap().path.clone();
    let _user = Process::start(&[&["nsenter", &format!("--net={user}")][..], &SLEEP[..]].concat());
    std::io::Write::write_all(process.0.stdin.as_mut().unwrap(), b"\n").unwrap();
    for _ in 0..200 {
        if life(&record) != Liveness::Alive {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(life(&record), Liveness::Dead(LivenessReason::ProcessReplaced));
}

#[test]
fn without_privileges_less_is_known() {
    const ME: &str = "liveness_netns::without_privileges_less_is_known";
    if only_judges() || !alone(ME) {
        return;
    }
    // The daemon's: uid 0 and no capability.
    let bare = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
    sh("ip netns add x");
    let pinned = record(X);
    assert_eq!(life_seen_from(ME, &bare, &pinned), "Alive");
    let mut process = in_own_netns();
    let by_process = record(&process.netns());
    assert_eq!(life_seen_from(ME, &bare, &by_process), "Unknown(Denied)");
    // hidepid: the process is not there, but it is not gone.
    let hide = "mount -t proc -o hidepid=2,gid=65534 proc /proc; exec \"$@\"";
    let hidden = [&["unshare", "--mount", "sh", "-ec", hide, "-"][..], &bare[..]].concat();
    assert_eq!(life_seen_from(ME, &hidden, &by_process), "Unknown(Hidden)");
    process.end();
    assert_eq!(life_seen_from(ME, &hidden, &by_process), "Dead(ProcessGone)");
    sh("chown 65534 /run/netns; chmod 0700 /run/netns");
    assert_eq!(life_seen_from(ME, &bare, &pinned), "Unknown(Denied)");
    sh("ip netns del x");
    assert_eq!(life_seen_from(ME, &bare, &pinned), "Unknown(Denied)");
}

#[test]
fn what_is_no_namespace_is_not_recorded() {
    if !alone("liveness_netns::what_is_no_namespace_is_not_recorded") {
        return;
    }
    sh("cd /run/netns; touch plain; mkfifo fifo; ln -s nowhere dangling");
    assert!(matches!(capture(""), Err(CaptureError::Empty)));
    for path in ["/run/netns/plain", "/run/netns/fifo", "/run/netns", "/", "/proc/self/status"] {
        let refused = capture(path);
        assert!(matches!(refused, Err(CaptureError::NotANamespace { .. })), "{path} {refused:?}");
        assert_eq!(born(path, Stamp::now()), None, "{path}");
    }
    for path in ["/run/netns/missing", "/run/netns/dangling", "/proc/0/ns/net", "a\0b"] {
        let refused = capture(path);
        assert!(matches!(refused, Err(CaptureError::Io { .. })), "{path} {refused:?}");
        assert_eq!(born(path, Stamp::now()), None, "{path}");
    }
    // Ours, whoever looks: recorded, never judged.
    let record = record("/proc/self/ns/net");
    assert_eq!(life(&record), Liveness::Unknown(LivenessReason::OddProcPath));
    assert_eq!(born("/proc/self/ns/net", Stamp::now()), None);
    let mut without = record.clone();
    without.netns = None;
    assert_eq!(life(&without), Liveness::Unknown(LivenessReason::NoNetns));
}
