//! The state directory out of order (issue 2, scenario 9): full, read-only, missing, somebody
//! else's, with torn and empty records in it. ADD fails with code 5, the path and the errno;
//! DEL deletes all the same and succeeds; nobody alive loses an entry.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::PathBuf;

use crate::rig::{
    Attached, Node, Outcome, Pod, Port, Setup, called, eventually, layouts, sleep_ms,
};
use serde_json::{Value, json};

const GC: &str = "ovs-flow-gc";

/// What names a pod by nothing but its address or its register's value, two entries each:
/// without a record nobody knows whose these are now.
const UNPROVEN: [&str; 2] = ["reg0=", "ct_nw_"];

/// A node with pods on it, each with a classifier's flows.
struct Fixture {
    node: Node,
    pods: Vec<Attached>,
    flows: Vec<Vec<String>>,
}

impl Fixture {
    fn new(test: &str, names: &[&str]) -> Self {
        Self::build(Setup::new().cni_version("1.1.0").up(test), names)
    }

    /// With a state directory that is a file system of its own.
    fn on_tmpfs(test: &str, names: &[&str]) -> Self {
        let node = Setup::new().cni_version("1.1.0").up(test);
        node.limit_state_dir("64k");
        Self::build(node, names)
    }

    fn build(node: Node, names: &[&str]) -> Self {
        node.configure(json!({"lingerSeconds": 0}));
        let (mut pods, mut flows) = (Vec::new(), Vec::new());
        for (name, reg) in names.iter().zip(0x1001..) {
            let pod = node.run_pod(name);
            flows.push(node.install("br0", &layouts::classifier(&pod.who(reg))));
            pods.push(pod);
            // Nobody's entries are taken for those of whoever comes next.
            sleep_ms(20);
        }
        Self { node, pods, flows }
    }

    /// The flows of all but these.
    fn without(&self, gone: &[usize]) -> Vec<String> {
        let of = self.flows.iter().enumerate().filter(|(index, _)| !gone.contains(index));
        let mut flows: Vec<String> = of.flat_map(|(_, flows)| flows.clone()).collect();
        flows.sort();
        flows
    }

    /// The command `status`: not all is well.
    #[track_caller]
    fn admin_status_says(&self, why: &str) {
        let status = self.node.admin(&["status"]);
        assert!(
            status.code == Some(3) && status.stdout.starts_with("state   cannot write to"),
            "{status}"
        );
        assert!(status.stdout.contains(why) && status.stdout.contains("ADD fails"), "{status}");
    }

    fn del(&self, pod: &Pod) -> Outcome {
        let conf = self.node.plugin_conf(GC, Some(pod), None);
        let outcome = self.node.call(GC, "DEL").pod(pod).conf(&conf).run();
        assert!(outcome.succeeded() && outcome.stdout.is_empty(), "{outcome}");
        outcome
    }

    /// ADD of a new pod is refused: code 5, with the path and with these words.
    #[track_caller]
    fn add_is_refused(&self, words: &[&str]) {
        let pod = self.node.pod("refused");
        let failed = self.node.try_add(&pod).unwrap_err();
        let (code, text) = failed.cni_error();
        assert_eq!((code, failed.code), (5, Some(1)), "{failed}");
        let path = self.node.state_dir.display().to_string();
        for word in words.iter().chain([&path.as_str()]) {
            assert!(text.contains(word), "{word:?} is not in {failed}");
        }
        self.node.try_del(&pod).unwrap();
    }

    /// STATUS says beforehand what ADD would say. It does not fail: that would evict the node.
    #[track_caller]
    fn status_warns(&self, words: &[&str]) {
        let conf = self.node.plugin_conf(GC, None, None);
        let outcome = self.node.call(GC, "STATUS").conf(&conf).run();
        assert!(outcome.succeeded() && outcome.stdout.is_empty(), "{outcome}");
        assert!(words.iter().all(|word| outcome.stderr.contains(word)), "{words:?}: {outcome}");
    }

    /// A DEL that has no record to go by takes what its port proves, and nothing of others.
    /// Of its own only what these words say stays.
    #[track_caller]
    fn del_without_record(&self, index: usize, left_over: &[&str]) {
        self.del(&self.pods[index]);
        let left = self.node.dump("br0");
        let of_others = self.without(&[index]);
        assert!(of_others.iter().all(|flow| left.contains(flow)), "{left:#?}");
        let rest: Vec<_> = left.into_iter().filter(|flow| !of_others.contains(flow)).collect();
        let known = |flow: &String| left_over.iter().any(|word| flow.contains(word));
        assert!(rest.len() == 2 * left_over.len() && rest.iter().all(known), "{rest:#?}");
    }

    fn file(&self, pod: &Pod) -> PathBuf {
        let name = format!("{}:{}.json", pod.container, pod.ifname);
        self.node.state_dir.join("podnet").join(name)
    }

    /// Records, the dead ones too: pod to state.
    fn records(&self) -> BTreeMap<String, String> {
        let rows = self.node.admin(&["list", "--no-flows", "--json"]).json();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let rows = rows.as_array().unwrap();
        rows.iter().map(|row| (called(&text(&row["pod"]["name"])), text(&row["state"]))).collect()
    }

    /// How many DELs did all, left something, and failed, as the daemon will export it; `None`:
    /// nothing was counted.
    fn counted_dels(&self) -> Option<[u64; 3]> {
        let text = fs::read_to_string(self.node.state_dir.join("_calls")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("DEL "))?;
        let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().unwrap()).collect();
        Some([numbers[0], numbers[1], numbers[2]])
    }

    fn temporary_files(&self) -> String {
        self.node.run("find", &[self.node.state_dir.to_str().unwrap(), "-name", ".*.tmp"]).stdout
    }
}

fn fill(path: PathBuf) {
    let mut filler = fs::File::create(path).unwrap();
    while filler.write_all(&[0_u8; 512]).is_ok() {}
}

/// The two halves of an upgrade are not upgraded in one moment.
#[test]
fn a_file_of_another_version_is_left_alone() {
    let fixture = Fixture::new("other_version", &["web", "db", "live"]);
    let files = ["_later", "podnet/later", "later.sock"].map(|at| fixture.node.state_dir.join(at));
    files.iter().for_each(|file| fs::write(file, "of another version").unwrap());
    fixture.del(&fixture.pods[0]);
    fixture.node.vanish(&fixture.pods[1], Port::Stays);
    for args in [&["list"][..], &["sweep"], &["status"]] {
        let outcome = fixture.node.admin(args);
        assert!(outcome.succeeded(), "{outcome}");
        assert!(!outcome.to_string().contains("later"), "{outcome}");
    }
    let left = fixture.node.dump("br0");
    assert!(fixture.without(&[0, 1]).iter().all(|flow| left.contains(flow)), "{left:#?}");
    assert!(files.iter().all(|file| file.exists()));
}

#[test]
fn full() {
    let fixture = Fixture::on_tmpfs("full", &["web", "db", "cache"]);
    fill(fixture.node.state_dir.join("filler"));
    fixture.add_is_refused(&["No space left on device", "os error 28"]);
    fixture.status_warns(&["No space left on device"]);
    fixture.admin_status_says("No space left on device");
    assert_eq!(fixture.temporary_files(), "");
    assert_eq!(fixture.node.dump("br0"), fixture.without(&[]));
    // Everything that is on record is still known.
    let [done, unfinished, failed] = fixture.counted_dels().unwrap();
    fixture.del(&fixture.pods[0]);
    assert_eq!(fixture.node.dump("br0"), fixture.without(&[0]));
    // The numbers have their place already.
    let counted = fixture.counted_dels().unwrap();
    assert_eq!((counted.iter().sum::<u64>(), counted[2]), (done + unfinished + failed + 1, failed));
    // The OVS plugin's comes behind ours; else a port that nothing explains would stay.
    fixture.node.ovs_vsctl(&["del-port", &fixture.pods[0].port]);
    assert_ne!(fixture.records().get("web").map(String::as_str), Some("active"));
    // One that died without DEL while there was no room.
    fixture.node.vanish(&fixture.pods[1], Port::Stays);
    let swept = fixture.node.admin(&["sweep"]);
    assert!(swept.code.is_some(), "{swept}");
    assert!(fixture.without(&[0, 1]).iter().all(|f| fixture.node.dump("br0").contains(f)));

    // Where there is no place for them, they are not counted, and no call says or waits for it.
    fs::remove_file(fixture.node.state_dir.join("_calls")).unwrap();
    fill(fixture.node.state_dir.join("more"));
    let del = fixture.del(&fixture.pods[0]);
    assert!(!del.stderr.contains("_calls"), "{del}");
    assert_eq!(fixture.counted_dels(), None);
    for file in ["filler", "more"] {
        fs::remove_file(fixture.node.state_dir.join(file)).unwrap();
    }
    fixture.del(&fixture.pods[0]);
    assert_eq!(fixture.counted_dels().map(|dels| dels.iter().sum()), Some(1));
    fixture.node.admin(&["sweep"]).ok();
    assert_eq!(fixture.node.dump("br0"), fixture.without(&[0, 1]));
    assert_eq!(fixture.records().into_keys().collect::<Vec<_>>(), ["cache"]);
    fixture.node.run_pod("next");
    assert_eq!(fixture.node.admin(&["status"]).code, Some(0));
}

#[test]
fn read_only() {
    let fixture = Fixture::on_tmpfs("read_only", &["web", "db"]);
    let dir = fixture.node.state_dir.display().to_string();
    fixture.node.run("mount", &["-o", "remount,ro", &dir]).ok();
    fixture.add_is_refused(&["Read-only file system", "os error 30"]);
    fixture.status_warns(&["Read-only file system"]);
    fixture.admin_status_says("Read-only file system");
    assert_eq!(fixture.node.dump("br0"), fixture.without(&[]));
    let counted = fixture.counted_dels();
    let del = fixture.del(&fixture.pods[0]);
    assert_eq!(fixture.node.dump("br0"), fixture.without(&[0]));
    assert!(fixture.counted_dels() == counted && !del.stderr.contains("_calls"), "{del}");
    // Who only reads, can.
    assert_eq!(fixture.records().len(), 2);
    fixture.node.admin(&["sweep", "--dry-run"]).ok();
    fixture.node.admin(&["explain", &fixture.pods[1].name]).ok();
    let swept = fixture.node.admin(&["sweep"]);
    assert_eq!(swept.code, Some(1), "{swept}");
    assert!(swept.stderr.contains("Read-only") && swept.stderr.contains(&dir), "{swept}");

    fixture.node.run("mount", &["-o", "remount,rw", &dir]).ok();
    fixture.node.kill_sandbox(&fixture.pods[0]);
    fixture.node.admin(&["sweep"]).ok();
    assert_eq!(fixture.node.dump("br0"), fixture.without(&[0]));
    assert_eq!(fixture.records().into_keys().collect::<Vec<_>>(), ["db"]);
}

/// A record that cannot become a tombstone (its file's own error) keeps no other from it, is told of,
/// and is what the next sweep finds.
#[test]
fn a_record_that_cannot_become_a_tombstone_stops_no_other() {
    for verb in ["sweep", "GC"] {
        let fixture = Fixture::new("unburied", &["web", "stuck", "db", "live"]);
        let (stuck, live) = (&fixture.pods[1], &fixture.pods[3]);
        // Everybody's register value is known, as on a node that has been up for a while.
        fixture.node.admin(&["sweep"]).ok();
        fixture.pods[..3].iter().for_each(|pod| fixture.node.vanish(pod, Port::Gone));
        let record: Value =
            serde_json::from_slice(&fs::read(fixture.file(stuck)).unwrap()).unwrap();
        let name = format!("{}:{}.{}.json", stuck.container, stuck.ifname, record["generation"]);
        let tombstone = fixture.node.state_dir.join("podnet/dead").join(name);
        // The second tombstone: writing its tombstone, and moving its record instead.
        let script = format!(
            "exec strace -f -qq -o /dev/null -e inject=rename:error=EIO:when=2..3 {} \"$@\"",
            fixture.node.plugin(GC).display(),
        );
        fixture.node.script_plugin("disturbed", &script);
        let state = fixture.node.state_dir.display().to_string();
        let clean = |plugin: &str| match verb {
            "GC" => {
                let mut conf = fixture.node.plugin_conf(GC, None, None);
                conf["cni.dev/valid-attachments"] =
                    json!([{"containerID": live.container, "ifname": live.ifname}]);
                fixture.node.call(plugin, "GC").conf(&conf).run()
            }
            _ => {
                let plugin = fixture.node.plugin(plugin).display().to_string();
                fixture.node.run(&plugin, &["sweep", "--yes", "--json", "--state-dir", &state])
            }
        };
        let outcome = clean("disturbed");
        assert_eq!(fixture.node.dump("br0"), fixture.without(&[0, 2]), "{verb}: {outcome}");
        assert_eq!(outcome.code, Some(if verb == "GC" { 1 } else { 3 }), "{outcome}");
        let said: Vec<&str> = outcome
            .stdout
            .lines()
            .filter(|line| line.contains("tombstone could not") || line.contains("its tombstone"))
            .collect();
        assert_eq!(said.len(), 1, "{outcome}");
        let path = tombstone.display().to_string();
        assert!(said[0].contains(&path) && said[0].contains("os error 5"), "{outcome}");
        let left: BTreeMap<String, String> =
            ["live", "stuck"].map(|name| (name.to_owned(), "active".to_owned())).into();
        assert_eq!(fixture.records(), left, "{verb}");

        let outcome = clean(GC);
        assert!(outcome.succeeded(), "{outcome}");
        assert_eq!(fixture.node.dump("br0"), fixture.without(&[0, 1, 2]));
        assert_eq!(fixture.records().into_keys().collect::<Vec<_>>(), ["live"]);
    }
}

/// ovs-cni #304: its state vanished from /tmp, and DEL quietly did nothing.
#[test]
fn missing_at_del() {
    let fixture = Fixture::new("missing_at_del", &["web", "db"]);
    fs::remove_dir_all(&fixture.node.state_dir).unwrap();
    fixture.del_without_record(0, &UNPROVEN);
    // Again, and for a pod that nobody ever saw.
    let before = fixture.node.dump("br0");
    fixture.del(&fixture.pods[0]);
    fixture.del(&fixture.node.pod("nobody"));
    assert_eq!(fixture.node.dump("br0"), before);
}

/// The same while the switch is away: the retry knows what the network is configured to.
#[test]
fn missing_at_del_while_the_switch_is_away() {
    let fixture = Fixture::new("missing_and_away", &["web", "db"]);
    fs::remove_dir_all(&fixture.node.state_dir).unwrap();
    fixture.node.ovsdb.stop();
    fixture.del(&fixture.pods[0]);
    fixture.node.ovsdb.start();
    assert_eq!(fixture.node.dump("br0"), fixture.without(&[]));
    fixture.node.admin(&["sweep"]).ok();
    let left = fixture.node.dump("br0");
    let of_its_port = format!("in_port={},", fixture.pods[0].ofport);
    assert!(!left.iter().any(|flow| flow.contains(&of_its_port)), "{left:#?}");
    assert!(fixture.without(&[0]).iter().all(|flow| left.contains(flow)), "{left:#?}");
    // It waits for evidence of whose register value it was.
    assert_eq!(fixture.records()["web"], "deleting");
}

#[test]
fn missing_at_add_is_made() {
    let fixture = Fixture::new("missing_at_add", &[]);
    let deep = fixture.node.dir.join("not/yet/there");
    fixture.node.configure(json!({"stateDir": deep}));
    let web = fixture.node.run_pod("web");
    let mode = |path: &str| fs::metadata(deep.join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(""), mode("podnet")), (0o700, 0o700));
    let record = format!("podnet/{}:eth0.json", web.container);
    assert_eq!((mode(&record), mode("lock"), mode("podnet/config.json")), (0o600, 0o600, 0o600));
    // The commands that only read do not make one.
    for command in [&["list"][..], &["sweep", "--dry-run"], &["undo", "--list"]] {
        assert_eq!(fixture.node.admin(command).code, Some(0), "{command:?}");
    }
    assert!(!fixture.node.state_dir.exists());
}

/// A directory that others can write to decides nothing: what it holds may be forged.
#[test]
fn somebody_elses_or_open_to_others() {
    for (case, words) in [
        ("owner", &["4711", "chown"][..]),
        ("group", &["0770", "chmod"]),
        ("world", &["0702", "chmod"]),
        ("sticky", &["1777", "chmod"]),
        ("link", &["symbolic link"]),
        ("file", &["not a directory"]),
    ] {
        let fixture = Fixture::new(case, &["web", "db"]);
        let dir = &fixture.node.state_dir;
        let aside = fixture.node.dir.join("aside");
        let open = |mode| fs::set_permissions(dir, Permissions::from_mode(mode)).unwrap();
        match case {
            "owner" => chown(dir, Some(4711), None).unwrap(),
            "group" => open(0o770),
            "world" => open(0o702),
            "sticky" => open(0o1777),
            _ => fs::rename(dir, &aside).unwrap(),
        }
        match case {
            "link" => symlink(&aside, dir).unwrap(),
            "file" => fs::write(dir, "").unwrap(),
            _ => {}
        }
        let content = || {
            fixture.node.run("find", &[fixture.node.dir.to_str().unwrap(), "-path", "*net/*"]).ok()
        };
        let before = content();

        fixture.add_is_refused(words);
        fixture.status_warns(words);
        for command in [&["list"][..], &["sweep"], &["explain", "web"], &["pause"]] {
            let refused = fixture.node.admin(command);
            assert_eq!(refused.code, Some(1), "{case}: {refused}");
            assert!(words.iter().all(|w| refused.stderr.contains(w)), "{case}: {refused}");
        }
        assert_eq!(fixture.node.dump("br0"), fixture.without(&[]), "{case}");
        fixture.del_without_record(0, &UNPROVEN);
        assert_eq!(content(), before, "{case}: written into");
    }
}

/// The kernel, a full disk or an operator: a record is cut, another is empty (cni #1055).
#[test]
fn torn_and_empty_records_beside_good_ones() {
    let fixture = Fixture::new("torn", &["web", "dead", "torn", "empty"]);
    let [web, dead, torn, empty] = [0, 1, 2, 3].map(|index| &fixture.pods[index]);
    let whole = fs::read(fixture.file(torn)).unwrap();
    fs::write(fixture.file(torn), &whole[..whole.len() / 2]).unwrap();
    fs::write(fixture.file(empty), "").unwrap();
    fixture.node.vanish(dead, Port::Gone);

    let listed = fixture.node.admin(&["list", "--no-flows"]);
    assert_eq!(listed.code, Some(3), "{listed}");
    let swept = fixture.node.admin(&["sweep", "--json"]);
    assert_eq!(swept.code, Some(3), "{swept}");
    let corrupt = swept.json()["corrupt"].to_string();
    for pod in [torn, empty] {
        assert!(corrupt.contains(fixture.file(pod).to_str().unwrap()), "{swept}");
        assert!(!fixture.file(pod).exists());
        let aside = format!("{}.corrupt", fixture.file(pod).display());
        assert!(fs::metadata(&aside).is_ok(), "{aside} is for people to look at");
    }
    assert_eq!(fixture.node.dump("br0"), fixture.without(&[1]), "the living keep theirs");
    let again = fixture.node.admin(&["sweep", "--json"]);
    assert_eq!(again.code, Some(0), "{again}");
    assert_eq!(again.json()["corrupt"], json!([]));
    assert_eq!(fixture.node.dump("br0"), fixture.without(&[1]));

    // Life goes on: CHECK and DEL of the good, DEL of the others by their ports.
    fixture.node.try_check(web).unwrap();
    fixture.node.run_pod("next");
    let port = |pod: &Attached| format!("in_port={},", pod.ofport);
    for pod in [torn, empty] {
        fixture.del(pod);
        assert!(!fixture.node.dump("br0").iter().any(|flow| flow.contains(&port(pod))));
    }
    assert!(fixture.flows[0].iter().all(|flow| fixture.node.dump("br0").contains(flow)));
}

#[test]
fn a_torn_record_stops_neither_its_own_del_nor_its_own_add() {
    let fixture = Fixture::new("torn_own", &["web", "db"]);
    for broken in ["", "{", "null", "{\"schema\":1}", "\u{0}\u{0}\u{0}"] {
        fs::write(fixture.file(&fixture.pods[0]), broken).unwrap();
        let pod = &fixture.pods[0];
        let conf = fixture.node.plugin_conf(GC, Some(pod), Some(&pod.result));
        let added = fixture.node.call(GC, "ADD").pod(pod).conf(&conf).run();
        assert!(added.succeeded(), "{broken:?}: {added}");
        assert_eq!(added.json(), pod.result);
        assert_eq!(fixture.records()["web"], "active");
    }
    // What the register means is learned from pods on record, and written down for the network.
    fixture.node.admin(&["sweep"]).ok();
    fs::write(fixture.file(&fixture.pods[0]), "{").unwrap();
    fixture.del_without_record(0, &["ct_nw_"]);
}

/// The address of a pod that died was given to one whose record is torn: nobody on record has
/// it, and the entries of the new owner stay all the same.
#[test]
fn the_address_of_a_torn_record_is_not_free() {
    let fixture = Fixture::new("torn_address", &["old", "db"]);
    fixture.node.configure(json!({"lingerSeconds": 600}));
    let old = &fixture.pods[0];
    fixture.node.del(old);
    assert_eq!(fixture.node.dump("br0"), fixture.without(&[0]));
    let new = fixture.node.add(&fixture.node.pod("new").with_ip(&old.ip));
    let its = fixture.node.install("br0", &layouts::classifier(&new.who(0x2001)));
    fs::write(fixture.file(&new), "{\"sch").unwrap();
    for _ in 0..2 {
        let swept = fixture.node.admin(&["sweep"]);
        assert!(matches!(swept.code, Some(0 | 3)), "{swept}");
        let mut all = [fixture.without(&[0]), its.clone()].concat();
        all.sort();
        assert_eq!(fixture.node.dump("br0"), all, "{swept}");
    }
}

/// What may be deleted at all is in the network's configuration: without it nothing is, until
/// an ADD says it again.
#[test]
fn a_torn_configuration_deletes_nothing() {
    let mut broken = vec![Some("{\"config\":{\"mo"), Some(""), Some("{\"config\":{\"mode\":7}}")];
    broken.push(None);
    for broken in broken {
        let fixture = Fixture::new("torn_config", &["web", "db", "cache"]);
        fixture.node.configure(json!({"mode": "observe", "reg0": "none"}));
        let conf =
            fixture.node.plugin_conf(GC, Some(&fixture.pods[0]), Some(&fixture.pods[0].result));
        let again = fixture.node.call(GC, "ADD").pod(&fixture.pods[0]).conf(&conf).run();
        assert!(again.succeeded(), "{again}");
        let config = fixture.node.state_dir.join("podnet/config.json");
        match broken {
            Some(text) => fs::write(&config, text).unwrap(),
            None => fs::remove_file(&config).unwrap(),
        }
        fixture.node.vanish(&fixture.pods[1], Port::Gone);
        for _ in 0..2 {
            let swept = fixture.node.admin(&["sweep"]);
            assert!(matches!(swept.code, Some(0 | 3)), "{broken:?}: {swept}");
            assert_eq!(fixture.node.dump("br0"), fixture.without(&[]), "{broken:?}: {swept}");
        }
        // The next ADD mends it; from then on it is as configured.
        if let Some(text) = broken {
            fs::write(&config, text).unwrap();
        }
        fixture.node.run_pod("next");
        fixture.node.configure(json!({"mode": null, "reg0": null}));
        fixture.node.run_pod("last");
        fixture.node.admin(&["sweep"]).ok();
        let left = fixture.node.dump("br0");
        let (others, its) = (fixture.without(&[1]), "reg0=0x1002");
        assert!(others.iter().all(|flow| left.contains(flow)), "{broken:?}");
        // Two pods are new, and nobody knows their register values yet.
        let rest: Vec<_> = left.iter().filter(|flow| !others.contains(flow)).collect();
        assert!(rest.iter().all(|flow| flow.contains(its)), "{broken:?}: {rest:#?}");
    }
}

/// A DEL is killed while the switch does not answer, in a network whose configuration is gone: it
/// has left its own beside the tombstone, and a sweep finishes what it had begun.
#[test]
fn a_killed_del_without_a_configuration_is_finished_by_a_sweep() {
    for everything_gone in [false, true] {
        let fixture = Fixture::new("killed_del", &["web", "db"]);
        fixture.node.configure(json!({"timeoutMs": 30_000}));
        if everything_gone {
            fs::remove_dir_all(&fixture.node.state_dir).unwrap();
        } else {
            fs::remove_file(fixture.node.state_dir.join("podnet/config.json")).unwrap();
        }
        let web = &fixture.pods[0];
        let conf = fixture.node.plugin_conf(GC, Some(web), None);
        fixture.node.vswitchd.pause();
        let del = fixture.node.call(GC, "DEL").pod(web).conf(&conf).start();
        let dead = fixture.node.state_dir.join("podnet/dead");
        // The file counts once it has its name: while it is written it is called `.….tmp`.
        eventually("DEL leaves a tombstone", || {
            fs::read_dir(&dead).is_ok_and(|mut dir| {
                dir.any(|entry| entry.unwrap().path().extension().is_some_and(|it| it == "json"))
            })
        });
        del.kill();
        del.wait();
        fixture.node.vswitchd.resume();

        fixture.node.admin(&["sweep"]).ok();
        let (left, of_others) = (fixture.node.dump("br0"), fixture.without(&[0]));
        assert!(of_others.iter().all(|flow| left.contains(flow)), "{left:#?}");
        let rest: Vec<_> = left.iter().filter(|flow| !of_others.contains(flow)).collect();
        let unproven = |flow: &&String| UNPROVEN.iter().any(|word| flow.contains(word));
        let waits = if everything_gone { 2 * UNPROVEN.len() } else { 0 };
        assert!(rest.len() == waits && rest.iter().all(unproven), "{rest:#?}");
    }
}
