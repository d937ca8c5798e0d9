//! docs/json.md against what the commands print: each key of a document is on the page, with its
//! type, and each key of the page was printed by a command.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::{Map, Value, json};

use super::adopt::cache;
use crate::deliver;
use crate::gcd::Daemon;
use crate::rig::{Attached, Node, Port, Setup, eventually, layouts};

/// A row of a table of the page.
struct Row {
    key: String,
    may_be_missing: bool,
    kind: String,
}

/// The page: of each heading the rows of its table.
struct Page {
    sections: BTreeMap<String, Vec<Row>>,
    seen: RefCell<BTreeSet<(String, String)>>,
}

impl Page {
    fn read() -> Self {
        let mut sections: BTreeMap<String, Vec<Row>> = BTreeMap::new();
        let mut heading = String::new();
        for line in include_str!("../../docs/json.md").lines() {
            if line.starts_with("##") {
                heading = line.trim_start_matches('#').trim().trim_matches('`').to_owned();
            } else if let Some(cells) = line.strip_prefix("| ")
                && !cells.starts_with("key ")
                && !cells.starts_with("---")
            {
                let mut cells = cells.split(" |").map(str::trim);
                let key = cells.next().unwrap().trim_matches('`');
                let rows = sections.entry(heading.clone()).or_default();
                rows.push(Row {
                    key: key.trim_end_matches('?').to_owned(),
                    may_be_missing: key.ends_with('?'),
                    kind: cells.next().unwrap().to_owned(),
                });
            }
        }
        Self { sections, seen: RefCell::default() }
    }

    /// Whether a document is what the section says.
    #[track_caller]
    fn must_fit(&self, section: &str, mut document: Value) {
        assert_eq!(document["schema"], 1, "{section}: {document:#}");
        document.as_object_mut().unwrap().shift_remove("schema");
        if let Err(why) = self.object(section, document.as_object().unwrap(), true) {
            panic!("{section}: {why}: {document:#}");
        }
    }

    /// `whole`: no other section has more of its keys.
    fn object(
        &self,
        section: &str,
        members: &Map<String, Value>,
        whole: bool,
    ) -> Result<BTreeSet<String>, String> {
        let rows = self.sections.get(section).ok_or(format!("no section {section:?}"))?;
        let mut known = BTreeSet::new();
        for Row { key, may_be_missing, kind } in rows {
            let seen = || self.seen.borrow_mut().insert((section.to_owned(), key.clone()));
            if key == "all of" {
                seen();
                known.extend(self.object(&name(kind), members, false)?);
                continue;
            }
            known.insert(key.clone());
            match members.get(key) {
                Some(value) => {
                    seen();
                    self.value(kind, value).map_err(|why| format!("{section}.{key}: {why}"))?;
                }
                None if *may_be_missing => {}
                None => return Err(format!("{section}.{key} is missing")),
            }
        }
        let more = members.keys().find(|key| whole && !known.contains(*key));
        more.map_or(Ok(known), |key| Err(format!("{section}: {key:?} is not on the page")))
    }

    fn value(&self, kind: &str, value: &Value) -> Result<(), String> {
        if let Some((one, other)) = kind.split_once(" or ") {
            return self.value(one, value).or_else(|_| self.value(other, value));
        }
        if let Some(kind) = kind.strip_prefix("list of ") {
            let items = value.as_array().ok_or(format!("no list: {value}"))?;
            return items.iter().try_for_each(|item| self.value(kind, item));
        }
        if let Some(kind) = kind.strip_suffix(" by reason") {
            let members = value.as_object().ok_or(format!("no object: {value}"))?;
            return members.values().try_for_each(|member| self.value(kind, member));
        }
        let fits = match kind {
            "text" => value.is_string(),
            "number" => value.is_u64(),
            "boolean" => value.is_boolean(),
            "null" => value.is_null(),
            _ => {
                let members = value.as_object().ok_or(format!("no object: {value}"))?;
                return self.object(&name(kind), members, true).map(drop);
            }
        };
        if fits { Ok(()) } else { Err(format!("no {kind}: {value}")) }
    }

    /// Keys that no document had.
    fn unseen(&self) -> Vec<String> {
        let seen = self.seen.borrow();
        let all = self
            .sections
            .iter()
            .flat_map(|(section, rows)| rows.iter().map(move |row| (section, row)));
        let unseen =
            all.filter(|(section, row)| !seen.contains(&((*section).clone(), row.key.clone())));
        unseen.map(|(section, row)| format!("{section}.{}", row.key)).collect()
    }
}

/// `[Name](#name)`.
fn name(link: &str) -> String {
    link.trim_start_matches('[').split(']').next().unwrap().to_owned()
}

/// A node and the page that it must print by.
struct Checked {
    node: Node,
    page: Page,
}

impl Checked {
    #[track_caller]
    fn run(&self, section: &str, args: &[&str]) -> Value {
        let outcome = self.node.admin(&[args, &["--json"]].concat());
        let document: Value =
            serde_json::from_str(&outcome.stdout).unwrap_or_else(|e| panic!("{e}: {outcome}"));
        self.page.must_fit(section, document.clone());
        document
    }
}

/// A record with every key.
fn whole_record(record: &Value) -> Value {
    let stamp = record["created"].clone();
    let mut whole = record.clone();
    for (key, value) in [
        ("workload", json!("")),
        ("ofportBefore", json!(7)),
        ("ofportSince", stamp.clone()),
        ("attached", stamp.clone()),
        ("device", json!({"ifindex": 3, "mac": "02:00:00:00:00:03"})),
        ("vlans", json!([10, 11])),
        ("vlansBefore", json!([11])),
        ("register", json!({"value": 4097, "how": "learned"})),
        ("born", stamp.clone()),
        ("inherits", stamp.clone()),
        ("died", stamp),
        ("lastError", json!("it hangs")),
        ("state", json!("deleting")),
        ("containerID", json!("whole")),
    ] {
        whole[key] = value;
    }
    whole["netns"]["pid_namespace"] = json!(4_026_531_836_u64);
    whole
}

#[test]
fn the_page_of_json_is_what_the_commands_print() {
    let node = Setup::new().up("json_page");
    let it = Checked { node, page: Page::read() };
    let node = &it.node;
    let first = node.run_pod("a");
    node.install("br0", &layouts::classifier(&first.who(0x1001)));
    it.run("sweep", &["sweep"]);
    // One pod's value is no evidence yet.
    it.run("explain", &["explain", &first.name]);
    let more = ["b", "c", "d", "lost"].map(|name| node.run_pod(name));
    for (pod, value) in more.iter().zip(0x1002..0x1005) {
        node.install("br0", &layouts::classifier(&pod.who(value)));
    }
    let pods: Vec<Attached> = [first].into_iter().chain(more).collect();
    let net_dir = node.conflist_path().parent().unwrap().display().to_string();
    it.run("version", &["version"]);
    it.run("status", &["status"]);
    it.run("doctor", &["doctor", "--net-dir", &net_dir]);
    it.run("bug-report", &["bug-report", "--net-dir", &net_dir]);
    it.run("explain", &["explain", &pods[0].name]);
    it.run("pause", &["pause", "--for", "1h", "--reason", "a test"]);
    it.run("status", &["status"]);
    it.run("resume", &["resume"]);
    of_the_dead(&it, &pods);
    of_deliveries(&it);
    of_a_bad_day(&it, &pods);
    of_files(&it, &net_dir, &pods[3]);
    assert_eq!(it.page.unseen(), [""; 0], "on the page, and never printed");
}

/// Sweeps, with a daemon and without; what they delete is put back.
fn of_the_dead(it: &Checked, pods: &[Attached]) {
    let node = &it.node;
    let (dead, lost) = (&pods[1], &pods[4]);
    fs::remove_file(node.state_dir.join(format!("podnet/{}:eth0.json", lost.container))).unwrap();
    node.kill_sandbox(lost);
    eventually("the switch has seen it", || {
        node.ovs_vsctl(&["get", "Interface", &lost.port, "ifindex"]) == "0"
    });
    node.vanish(dead, Port::Stays);
    it.run("sweep", &["sweep", "--dry-run", "--details"]);
    it.run("explain", &["explain", &dead.container]);
    node.del(&pods[2]);
    let whole = node.state_dir.join("podnet/whole:eth0.json");
    let record = format!("podnet/{}:eth0.json", pods[0].container);
    let record: Value =
        serde_json::from_str(&fs::read_to_string(node.state_dir.join(record)).unwrap()).unwrap();
    fs::write(&whole, whole_record(&record).to_string()).unwrap();
    it.run("list", &["list"]);
    fs::remove_file(&whole).unwrap();
    it.run("sweep", &["sweep"]);
    it.run("undo --list", &["undo", "--list"]);
    it.run("undo", &["undo", "--dry-run"]);
    it.run("undo", &["undo"]);
    let daemon = Daemon::start(node);
    let status = it.run("status", &["status"]);
    assert!(status["daemon"]["bridges"][0].is_object(), "{status:#}");
    it.run("list", &["list"]);
    it.run("doctor", &["doctor"]);
    drop(daemon);
}

/// OVS is away, hangs, or is OVN's.
fn of_a_bad_day(it: &Checked, pods: &[Attached]) {
    let node = &it.node;
    node.configure(json!({"reg0": "pod"}));
    let late = node.run_pod("late");
    node.vanish(&late, Port::Gone);
    node.vswitchd.pause();
    it.run("sweep", &["sweep", "--timeout", "1"]);
    it.run("status", &["status"]);
    node.vswitchd.resume();
    it.run("sweep", &["sweep"]);
    it.run("list", &["list"]);
    for id in ["ovn-remote-hv1=\"tcp:192.0.2.1:6642\"", "ovn-bridge-hv1=br0"] {
        node.ovs_vsctl(&["set", "Open_vSwitch", ".", &format!("external_ids:{id}")]);
    }
    it.run("list", &["list"]);
    it.run("explain", &["explain", &pods[0].name]);
    it.run("sweep", &["sweep"]);
    node.ovsdb.stop();
    it.run("sweep", &["sweep"]);
    let failed = node.admin(&["explain", "nobody", "--json"]);
    it.page.must_fit("Error", serde_json::from_str(&failed.stderr).unwrap());
    node.ovsdb.start();
}

/// A pod without a DEL, of whose chain a plugin is missing.
fn of_deliveries(it: &Checked) {
    let node = &it.node;
    let (pod, conflist) = (node.run_pod("undelivered"), node.conflist());
    let mut without = conflist.clone();
    without["plugins"].as_array_mut().unwrap().push(json!({"type": "missing"}));
    node.set_conflist(without);
    deliver::write_cached(&deliver::results(node), &deliver::cached(node, &pod));
    node.set_conflist(conflist.clone());
    node.vanish(&pod, Port::Stays);
    let document: Value = serde_json::from_str(&deliver::deliver(node, &[]).stdout).unwrap();
    it.page.must_fit("deliver", document);
    // No daemon asks a runtime.
    node.set_conflist({
        let mut conflist = node.conflist();
        conflist["cniVersion"] = json!("1.1.0");
        conflist
    });
    let document = deliver::deliver(node, &["--gc"]).stdout;
    node.set_conflist(conflist);
    it.page.must_fit("deliver", serde_json::from_str(&document).unwrap());
    let results = deliver::results(node).display().to_string();
    it.run("status", &["status", "--cache-dir", &results]);
    fs::remove_dir_all(deliver::results(node)).unwrap();
}

/// Conflists, adopted pods, installing.
fn of_files(it: &Checked, net_dir: &str, pod: &Attached) {
    let node = &it.node;
    it.run("conflist find", &["conflist", "find", net_dir]);
    let at = |name: &str| node.dir.join(name).display().to_string();
    let add = |file: &str, more: &[&str]| {
        it.run("conflist add", &[&["conflist", "add", file], more].concat())
    };
    let remove = |file: &str| it.run("conflist add", &["conflist", "remove", file]);
    fs::create_dir(at("net.d")).unwrap();
    let single = r#"{"cniVersion": "1.0.0", "name": "n", "type": "ovs", "bridge": "br0"}"#;
    let (conf, list) = (at("net.d/10-n.conf"), at("net.d/10-n.conflist"));
    fs::write(&conf, single).unwrap();
    add(&conf, &[]);
    add(&list, &[]);
    remove(&list);
    add(&conf, &[]);
    let edited = fs::read_to_string(&list).unwrap().replace("br0", "br1");
    fs::write(&list, edited).unwrap();
    remove(&list);
    add(&list, &["--own-file"]);
    remove(&list);
    let args = ["adopt", "--net-dir", net_dir, "--cache-dir", &at("cache")];
    it.run("adopt", &args);
    // A pod that lives was taken for dead.
    let conf = node.plugin_conf("ovs-flow-gc", Some(pod), Some(&pod.result));
    assert!(node.call_for(&conf, "DEL", pod).run().succeeded());
    cache(node, pod);
    it.run("adopt", &args);
    let args = ["self-install", "--no-conflist", "--bin-dir", &at("bin"), "--net-dir", net_dir];
    let steps = node.admin(&[&args[..], &["--cache-dir", &at("cache"), "--json"]].concat());
    let steps: Vec<Value> =
        serde_json::Deserializer::from_str(&steps.stdout).into_iter().map(Result::unwrap).collect();
    assert!(!steps.is_empty());
    for step in steps {
        it.page.must_fit(if step["step"].is_string() { "self-install" } else { "adopt" }, step);
    }
}

/// A command that is new has a section.
#[test]
fn each_command_is_on_the_page_of_json() {
    let page = Page::read();
    let is_there = |name: &str| page.sections.keys().any(|section| section == name);
    for command in ovs_flow_gc::cli::command().get_subcommands() {
        let name = command.get_name();
        // `self-uninstall` prints what `self-install` prints.
        let found = is_there(name)
            || name == "self-uninstall"
            || command.get_subcommands().any(|sub| is_there(&format!("{name} {}", sub.get_name())));
        assert!(found, "{name}");
    }
}
