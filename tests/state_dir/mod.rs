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
struct Town {
    node: Node,
    pods: Vec<Attached>,
    flows: Vec<Vec<String>>,
}

impl Town {
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
    let town = Town::new("other_version", &["web", "db", "live"]);
    let files = ["_later", "podnet/later", "later.sock"].map(|at| town.node.state_dir.join(at));
    files.iter().for_each(|file| fs::write(file, "of another version").unwrap());
    town.del(&town.pods[0]);
    town.node.vanish(&town.pods[1], Port::Stays);
    for args in [&["list"][..], &["sweep"], &["status"]] {
        let outcome = town.node.admin(args);
        assert!(outcome.succeeded(), "{outcome}");
        assert!(!outcome.to_string().contains("later"), "{outcome}");
    }
    let left = town.node.dump("br0");
    assert!(town.without(&[0, 1]).iter().all(|flow| left.contains(flow)), "{left:#?}");
    assert!(files.iter().all(|file| file.exists()));
}

#[test]
fn full() {
    let town = Town::on_tmpfs("full", &["web", "db", "cache"]);
    fill(town.node.state_dir.join("filler"));
    town.add_is_refused(&["No space left on device", "os error 28"]);
    town.status_warns(&["No space left on device"]);
    assert_eq!(town.temporary_files(), "");
    assert_eq!(town.node.dump("br0"), town.without(&[]));
    // Everything that is on record is still known.
    let [done, unfinished, failed] = town.counted_dels().unwrap();
    town.del(&town.pods[0]);
    assert_eq!(town.node.dump("br0"), town.without(&[0]));
    // The numbers have their place already.
    let counted = town.counted_dels().unwrap();
    assert_eq!((counted.iter().sum::<u64>(), counted[2]), (done + unfinished + failed + 1, failed));
    // The OVS plugin's comes behind ours; else a port that nothing explains would stay.
    town.node.ovs_vsctl(&["del-port", &town.pods[0].port]);
    assert_ne!(town.records().get("web").map(String::as_str), Some("active"));
    // One that died without DEL while there was no room.
    town.node.vanish(&town.pods[1], Port::Stays);
    let swept = town.node.admin(&["sweep"]);
    assert!(swept.code.is_some(), "{swept}");
    assert!(town.without(&[0, 1]).iter().all(|f| town.node.dump("br0").contains(f)));

    // Where there is no place for them, they are not counted, and no call says or waits for it.
    fs::remove_file(town.node.state_dir.join("_calls")).unwrap();
    fill(town.node.state_dir.join("more"));
    let del = town.del(&town.pods[0]);
    assert!(!del.stderr.contains("_calls"), "{del}");
    assert_eq!(town.counted_dels(), None);
    for file in ["filler", "more"] {
        fs::remove_file(town.node.state_dir.join(file)).unwrap();
    }
    town.del(&town.pods[0]);
    assert_eq!(town.counted_dels().map(|dels| dels.iter().sum()), Some(1));
    town.node.admin(&["sweep"]).ok();
    assert_eq!(town.node.dump("br0"), town.without(&[0, 1]));
    assert_eq!(town.records().into_keys().collect::<Vec<_>>(), ["cache"]);
    town.node.run_pod("next");
}

#[test]
fn read_only() {
    let town = Town::on_tmpfs("read_only", &["web", "db"]);
    let dir = town.node.state_dir.display().to_string();
    town.node.run("mount", &["-o", "remount,ro", &dir]).ok();
    town.add_is_refused(&["Read-only file system", "os error 30"]);
    town.status_warns(&["Read-only file system"]);
    assert_eq!(town.node.dump("br0"), town.without(&[]));
    let counted = town.counted_dels();
    let del = town.del(&town.pods[0]);
    assert_eq!(town.node.dump("br0"), town.without(&[0]));
    assert!(town.counted_dels() == counted && !del.stderr.contains("_calls"), "{del}");
    // Who only reads, can.
    assert_eq!(town.records().len(), 2);
    town.node.admin(&["sweep", "--dry-run"]).ok();
    town.node.admin(&["explain", &town.pods[1].name]).ok();
    let swept = town.node.admin(&["sweep"]);
    assert_eq!(swept.code, Some(1), "{swept}");
    assert!(swept.stderr.contains("Read-only") && swept.stderr.contains(&dir), "{swept}");

    town.node.run("mount", &["-o", "remount,rw", &dir]).ok();
    town.node.kill_sandbox(&town.pods[0]);
    town.node.admin(&["sweep"]).ok();
    assert_eq!(town.node.dump("br0"), town.without(&[0]));
    assert_eq!(town.records().into_keys().collect::<Vec<_>>(), ["db"]);
}

/// A record that cannot become a tombstone (its file's own error) keeps no other from it, is told of,
/// and is what the next sweep finds.
#[test]
fn a_record_that_cannot_become_a_tombstone_stops_no_other() {
    for verb in ["sweep", "GC"] {
        let town = Town::new("unburied", &["web", "stuck", "db", "live"]);
        let (stuck, live) = (&town.pods[1], &town.pods[3]);
        // Everybody's register value is known, as on a node that has been up for a while.
        town.node.admin(&["sweep"]).ok();
        town.pods[..3].iter().for_each(|pod| town.node.vanish(pod, Port::Gone));
        let record: Value = serde_json::from_slice(&fs::read(town.file(stuck)).unwrap()).unwrap();
        let name = format!("{}:{}.{}.json", stuck.container, stuck.ifname, record["generation"]);
        let tombstone = town.node.state_dir.join("podnet/dead").join(name);
        // The second tombstone: writing its tombstone, and moving its record instead.
        let script = format!(
            "exec strace -f -qq -o /dev/null -e inject=rename:error=EIO:when=2..3 {} \"$@\"",
            town.node.plugin(GC).display(),
        );
        town.node.script_plugin("disturbed", &script);
        let state = town.node.state_dir.display().to_string();
        let clean = |plugin: &str| match verb {
            "GC" => {
                let mut conf = town.node.plugin_conf(GC, None, None);
                conf["cni.dev/valid-attachments"] =
                    json!([{"containerID": live.container, "ifname": live.ifname}]);
                town.node.call(plugin, "GC").conf(&conf).run()
            }
            _ => {
                let plugin = town.node.plugin(plugin).display().to_string();
                town.node.run(&plugin, &["sweep", "--yes", "--json", "--state-dir", &state])
            }
        };
        let outcome = clean("disturbed");
        assert_eq!(town.node.dump("br0"), town.without(&[0, 2]), "{verb}: {outcome}");
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
        assert_eq!(town.records(), left, "{verb}");

        let outcome = clean(GC);
        assert!(outcome.succeeded(), "{outcome}");
        assert_eq!(town.node.dump("br0"), town.without(&[0, 1, 2]));
        assert_eq!(town.records().into_keys().collect::<Vec<_>>(), ["live"]);
    }
}

/// ovs-cni #304: its state vanished from /tmp, and DEL quietly did nothing.
#[test]
fn missing_at_del() {
    let town = Town::new("missing_at_del", &["web", "db"]);
    fs::remove_dir_all(&town.node.state_dir).unwrap();
    town.del_without_record(0, &UNPROVEN);
    // Again, and for a pod that nobody ever saw.
    let before = town.node.dump("br0");
    town.del(&town.pods[0]);
    town.del(&town.node.pod("nobody"));
    assert_eq!(town.node.dump("br0"), before);
}

/// The same while the switch is away: the retry knows what the network is configured to.
#[test]
fn missing_at_del_while_the_switch_is_away() {
    let town = Town::new("missing_and_away", &["web", "db"]);
    fs::remove_dir_all(&town.node.state_dir).unwrap();
    town.node.ovsdb.stop();
    town.del(&town.pods[0]);
    town.node.ovsdb.start();
    assert_eq!(town.node.dump("br0"), town.without(&[]));
    town.node.admin(&["sweep"]).ok();
    let left = town.node.dump("br0");
    let of_its_port = format!("in_port={},", town.pods[0].ofport);
    assert!(!left.iter().any(|flow| flow.contains(&of_its_port)), "{left:#?}");
    assert!(town.without(&[0]).iter().all(|flow| left.contains(flow)), "{left:#?}");
    // It waits for evidence of whose register value it was.
    assert_eq!(town.records()["web"], "deleting");
}

#[test]
fn missing_at_add_is_made() {
    let town = Town::new("missing_at_add", &[]);
    let deep = town.node.dir.join("not/yet/there");
    town.node.configure(json!({"stateDir": deep}));
    let web = town.node.run_pod("web");
    let mode = |path: &str| fs::metadata(deep.join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(""), mode("podnet")), (0o700, 0o700));
    let record = format!("podnet/{}:eth0.json", web.container);
    assert_eq!((mode(&record), mode("lock"), mode("podnet/config.json")), (0o600, 0o600, 0o600));
    // The commands that only read do not make one.
    for command in [&["list"][..], &["sweep", "--dry-run"], &["undo", "--list"]] {
        assert_eq!(town.node.admin(command).code, Some(0), "{command:?}");
    }
    assert!(!town.node.state_dir.exists());
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
        let town = Town::new(case, &["web", "db"]);
        let dir = &town.node.state_dir;
        let aside = town.node.dir.join("aside");
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
        let content =
            || town.node.run("find", &[town.node.dir.to_str().unwrap(), "-path", "*net/*"]).ok();
        let before = content();

        town.add_is_refused(words);
        town.status_warns(words);
        for command in [&["list"][..], &["sweep"], &["explain", "web"], &["pause"]] {
            let refused = town.node.admin(command);
            assert_eq!(refused.code, Some(1), "{case}: {refused}");
            assert!(words.iter().all(|w| refused.stderr.contains(w)), "{case}: {refused}");
        }
        assert_eq!(town.node.dump("br0"), town.without(&[]), "{case}");
        town.del_without_record(0, &UNPROVEN);
        assert_eq!(content(), before, "{case}: written into");
    }
}

/// The kernel, a full disk or an operator: a record is cut, another is empty (cni #1055).
#[test]
fn torn_and_empty_records_beside_good_ones() {
    let town = Town::new("torn", &["web", "dead", "torn", "empty"]);
    let [web, dead, torn, empty] = [0, 1, 2, 3].map(|index| &town.pods[index]);
    let whole = fs::read(town.file(torn)).unwrap();
    fs::write(town.file(torn), &whole[..whole.len() / 2]).unwrap();
    fs::write(town.file(empty), "").unwrap();
    town.node.vanish(dead, Port::Gone);

    let listed = town.node.admin(&["list", "--no-flows"]);
    assert_eq!(listed.code, Some(3), "{listed}");
    let swept = town.node.admin(&["sweep", "--json"]);
    assert_eq!(swept.code, Some(3), "{swept}");
    let corrupt = swept.json()["corrupt"].to_string();
    for pod in [torn, empty] {
        assert!(corrupt.contains(town.file(pod).to_str().unwrap()), "{swept}");
        assert!(!town.file(pod).exists());
        let aside = format!("{}.corrupt", town.file(pod).display());
        assert!(fs::metadata(&aside).is_ok(), "{aside} is for people to look at");
    }
    assert_eq!(town.node.dump("br0"), town.without(&[1]), "the living keep theirs");
    let again = town.node.admin(&["sweep", "--json"]);
    assert_eq!(again.code, Some(0), "{again}");
    assert_eq!(again.json()["corrupt"], json!([]));
    assert_eq!(town.node.dump("br0"), town.without(&[1]));

    // Life goes on: CHECK and DEL of the good, DEL of the others by their ports.
    town.node.try_check(web).unwrap();
    town.node.run_pod("next");
    let port = |pod: &Attached| format!("in_port={},", pod.ofport);
    for pod in [torn, empty] {
        town.del(pod);
        assert!(!town.node.dump("br0").iter().any(|flow| flow.contains(&port(pod))));
    }
    assert!(town.flows[0].iter().all(|flow| town.node.dump("br0").contains(flow)));
}

#[test]
fn a_torn_record_stops_neither_its_own_del_nor_its_own_add() {
    let town = Town::new("torn_own", &["web", "db"]);
    for broken in ["", "{", "null", "{\"schema\":1}", "\u{0}\u{0}\u{0}"] {
        fs::write(town.file(&town.pods[0]), broken).unwrap();
        let pod = &town.pods[0];
        let conf = town.node.plugin_conf(GC, Some(pod), Some(&pod.result));
        let added = town.node.call(GC, "ADD").pod(pod).conf(&conf).run();
        assert!(added.succeeded(), "{broken:?}: {added}");
        assert_eq!(added.json(), pod.result);
        assert_eq!(town.records()["web"], "active");
    }
    // What the register means is learned from pods on record, and written down for the network.
    town.node.admin(&["sweep"]).ok();
    fs::write(town.file(&town.pods[0]), "{").unwrap();
    town.del_without_record(0, &["ct_nw_"]);
}

/// The address of a pod that died was given to one whose record is torn: nobody on record has
/// it, and the entries of the new owner stay all the same.
#[test]
fn the_address_of_a_torn_record_is_not_free() {
    let town = Town::new("torn_address", &["old", "db"]);
    town.node.configure(json!({"lingerSeconds": 600}));
    let old = &town.pods[0];
    town.node.del(old);
    assert_eq!(town.node.dump("br0"), town.without(&[0]));
    let new = town.node.add(&town.node.pod("new").with_ip(&old.ip));
    let its = town.node.install("br0", &layouts::classifier(&new.who(0x2001)));
    fs::write(town.file(&new), "{\"sch").unwrap();
    for _ in 0..2 {
        let swept = town.node.admin(&["sweep"]);
        assert!(matches!(swept.code, Some(0 | 3)), "{swept}");
        let mut all = [town.without(&[0]), its.clone()].concat();
        all.sort();
        assert_eq!(town.node.dump("br0"), all, "{swept}");
    }
}

/// What may be deleted at all is in the network's configuration: without it nothing is, until
/// an ADD says it again.
#[test]
fn a_torn_configuration_deletes_nothing() {
    let mut broken = vec![Some("{\"config\":{\"mo"), Some(""), Some("{\"config\":{\"mode\":7}}")];
    broken.push(None);
    for broken in broken {
        let town = Town::new("torn_config", &["web", "db", "cache"]);
        town.node.configure(json!({"mode": "observe", "reg0": "none"}));
        let conf = town.node.plugin_conf(GC, Some(&town.pods[0]), Some(&town.pods[0].result));
        let again = town.node.call(GC, "ADD").pod(&town.pods[0]).conf(&conf).run();
        assert!(again.succeeded(), "{again}");
        let config = town.node.state_dir.join("podnet/config.json");
        match broken {
            Some(text) => fs::write(&config, text).unwrap(),
            None => fs::remove_file(&config).unwrap(),
        }
        town.node.vanish(&town.pods[1], Port::Gone);
        for _ in 0..2 {
            let swept = town.node.admin(&["sweep"]);
            assert!(matches!(swept.code, Some(0 | 3)), "{broken:?}: {swept}");
            assert_eq!(town.node.dump("br0"), town.without(&[]), "{broken:?}: {swept}");
        }
        // The next ADD mends it; from then on it is as configured.
        if let Some(text) = broken {
            fs::write(&config, text).unwrap();
        }
        town.node.run_pod("next");
        town.node.configure(json!({"mode": null, "reg0": null}));
        town.node.run_pod("last");
        town.node.admin(&["sweep"]).ok();
        let left = town.node.dump("br0");
        let (others, its) = (town.without(&[1]), "reg0=0x1002");
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
        let town = Town::new("killed_del", &["web", "db"]);
        town.node.configure(json!({"timeoutMs": 30_000}));
        if everything_gone {
            fs::remove_dir_all(&town.node.state_dir).unwrap();
        } else {
            fs::remove_file(town.node.state_dir.join("podnet/config.json")).unwrap();
        }
        let web = &town.pods[0];
        let conf = town.node.plugin_conf(GC, Some(web), None);
        town.node.vswitchd.pause();
        let del = town.node.call(GC, "DEL").pod(web).conf(&conf).start();
        let dead = town.node.state_dir.join("podnet/dead");
        // The file counts once it has its name: while it is written it is called `.….tmp`.
        eventually("DEL leaves a tombstone", || {
            fs::read_dir(&dead).is_ok_and(|mut dir| {
                dir.any(|entry| entry.unwrap().path().extension().is_some_and(|it| it == "json"))
            })
        });
        del.kill();
        del.wait();
        town.node.vswitchd.resume();

        town.node.admin(&["sweep"]).ok();
        let (left, of_others) = (town.node.dump("br0"), town.without(&[0]));
        assert!(of_others.iter().all(|flow| left.contains(flow)), "{left:#?}");
        let rest: Vec<_> = left.iter().filter(|flow| !of_others.contains(flow)).collect();
        let unproven = |flow: &&String| UNPROVEN.iter().any(|word| flow.contains(word));
        let waits = if everything_gone { 2 * UNPROVEN.len() } else { 0 };
        assert!(rest.len() == waits && rest.iter().all(unproven), "{rest:#?}");
    }
}
