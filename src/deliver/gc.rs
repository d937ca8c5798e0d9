//! CNI GC (specification 1.1) for runtimes that do not call it. As libcni's `GCNetworkList`, but for
//! the DELs in it, which are `run`'s.
//!
//! Guarantee: an attachment is not in the list of valid ones only if nobody remembers it. The runtime
//! does not know its sandbox, and it has neither a cached result, a record nor a marked port. No plugin
//! is called while a pod may be starting: until its ADD has ended, nobody remembers it.
//!
//! Caveat: an ADD that begins while a plugin's GC runs is noticed only afterwards.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use log::{info, warn};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::caches::{Caches, Verdict};
use super::living::{self, Named};
use super::run::Run;
use super::{call, number, plugin_type, plugins_of};
use crate::config::database_socket;
use crate::model::attachment::Key;
use crate::ovsdb::{Client, Marks, marks};
use crate::util::clock::Deadline;

/// GC came with this version.
const SINCE: (u32, u32, u32) = (1, 1, 0);
/// libcni passes over versions that are newer, where a list offers several.
const NEWEST: (u32, u32, u32) = (1, 1, 0);
/// The interface of a pod in its first network.
const FIRST: &str = "eth0";

/// A network's configuration, as the runtime has it.
pub(crate) struct Conflist {
    pub path: PathBuf,
    pub text: String,
    /// Why nothing is collected.
    pub obstacle: Option<String>,
}

/// An attachment that plugins are told to leave alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Valid {
    #[serde(rename = "containerID")]
    container: String,
    ifname: String,
}

/// What became of one network's GC.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Collected {
    pub network: String,
    pub conflist: PathBuf,
    /// `collected`, `due` (a dry run), `failed` or `left`.
    pub state: &'static str,
    /// The plugins that answered, or that will be called.
    pub plugins: Vec<String>,
    /// The list that they got last: `CONTAINER IFNAME` of each.
    pub valid_attachments: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The plugins that failed.
    #[serde(skip)]
    pub failed: Vec<String>,
}

/// How to collect.
pub(crate) struct Gc<'a> {
    pub run: &'a Run<'a>,
    /// Every sandbox that the node's runtime knows, or why nobody can tell.
    pub sandboxes: &'a dyn Fn() -> Result<Vec<String>, String>,
}

/// A network whose plugins have GC.
#[derive(Debug)]
struct Network {
    name: String,
    version: String,
    plugins: Vec<Map<String, Value>>,
}

impl Network {
    /// None: its version has no GC, or it is switched off.
    fn of(text: &str) -> Result<Option<Self>, String> {
        let list: Map<String, Value> = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let name = list.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let Some(version) = version_of(&list)? else { return Ok(None) };
        let off = flag(&list, "disableGC")?;
        for other in ["disableCheck", "loadOnlyInlinedPlugins"] {
            flag(&list, other)?;
        }
        if off || !list.contains_key("plugins") {
            return Ok(None);
        }
        let plugins = plugins_of(list)?;
        plugins.iter().try_for_each(|plugin| plugin_type(plugin).map(drop))?;
        Ok(Some(Self { name, version, plugins }))
    }

    fn stdin(&self, plugin: &Map<String, Value>, valid: &[Valid]) -> String {
        let mut stdin = plugin.clone();
        stdin.insert("name".to_owned(), self.name.as_str().into());
        stdin.insert("cniVersion".to_owned(), self.version.as_str().into());
        // libcni writes it under both names: the specification had the second one for a while.
        for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
            stdin.insert(key.to_owned(), json!(valid));
        }
        Value::Object(stdin).to_string()
    }
}

/// The version that libcni takes, if it has GC.
fn version_of(list: &Map<String, Value>) -> Result<Option<String>, String> {
    let several = match list.get("cniVersions") {
        None => Vec::new(),
        Some(Value::Array(several)) => several.iter().collect(),
        Some(_) => return Err("its \"cniVersions\" are no list".to_owned()),
    };
    let offered = several.into_iter().chain(list.get("cniVersion"));
    let mut best: Option<((u32, u32, u32), &str)> = None;
    for version in offered {
        let text = version.as_str().ok_or("a cniVersion is no text")?;
        best = best.max(Some((number(text)?, text)).filter(|(number, _)| *number <= NEWEST));
    }
    Ok(best.filter(|(number, _)| *number >= SINCE).map(|(_, text)| text.to_owned()))
}

/// A flag of the list. libcni refuses a list with another value.
fn flag(list: &Map<String, Value>, name: &str) -> Result<bool, String> {
    match list.get(name) {
        None => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(Value::String(word)) if word.eq_ignore_ascii_case("true") => Ok(true),
        Some(Value::String(word)) if word.eq_ignore_ascii_case("false") => Ok(false),
        Some(other) => Err(format!("its {name:?} is {other}: runtimes refuse the list")),
    }
}

/// Who is remembered.
#[derive(Default)]
struct Remembered {
    containers: BTreeSet<String>,
    /// The names that interfaces have on this node, in whichever network.
    ifnames: BTreeSet<String>,
    namespaces: Vec<Named>,
}

impl Remembered {
    fn add(&mut self, key: &Key) {
        self.containers.insert(key.container.to_string());
        self.ifnames.insert(key.ifname.to_string());
    }

    /// Marks without a container's id tell of no lease whose it is: they name no namespace.
    fn add_marks(&mut self, marks: Marks) {
        self.ifnames.extend(marks.ifname);
        let Some(container) = marks.container_id else { return };
        self.namespaces.extend(marks.netns.map(Named::by_marks));
        self.containers.insert(container);
    }

    /// Each container with each name: a runtime knows sandboxes, and not the names of their
    /// interfaces.
    fn valid(mut self) -> Vec<Valid> {
        self.ifnames.insert(FIRST.to_owned());
        let Self { containers, ifnames, .. } = &self;
        let valid = |(container, ifname): (&String, &String)| Valid {
            container: container.clone(),
            ifname: ifname.clone(),
        };
        let each = containers.iter().flat_map(|one| ifnames.iter().map(move |name| (one, name)));
        each.map(valid).collect()
    }
}

impl Gc<'_> {
    /// Calls a network's plugins; none: there is nothing to call.
    pub(crate) fn collect(&self, conflist: &Conflist) -> Option<Collected> {
        let mut report = Collected {
            network: String::new(),
            conflist: conflist.path.clone(),
            state: "left",
            plugins: Vec::new(),
            valid_attachments: Vec::new(),
            error: None,
            failed: Vec::new(),
        };
        let network = match Network::of(&conflist.text) {
            Ok(network) => network?,
            Err(why) => return Some(Collected { error: Some(why), ..report }),
        };
        report.network.clone_from(&network.name);
        let ended = match &conflist.obstacle {
            Some(why) => Err(why.clone()),
            None => self.call_all(&network, &mut report),
        };
        match ended {
            Err(why) => report.error = Some(why),
            Ok(failed) if failed.is_empty() => {
                report.state = if self.run.dry_run { "due" } else { "collected" };
                let count = report.valid_attachments.len();
                info!("{}: GC with {count} valid attachments is done", network.name);
            }
            Ok(failed) => {
                warn!("{}: GC: {}", network.name, failed.join("; "));
                (report.state, report.error) = ("failed", Some(failed.join("; ")));
            }
        }
        Some(report)
    }

    /// As libcni, an error of a plugin keeps no other from being called. The list is made anew for
    /// each.
    fn call_all(&self, network: &Network, report: &mut Collected) -> Result<Vec<String>, String> {
        let run = self.run;
        let mut failed = Vec::new();
        let environment = [
            ("CNI_COMMAND", "GC"),
            ("CNI_CONTAINERID", ""),
            ("CNI_NETNS", ""),
            ("CNI_ARGS", ""),
            ("CNI_IFNAME", ""),
            ("CNI_PATH", run.cni_path),
        ];
        for plugin in &network.plugins {
            let valid = self.valid(&network.name)?;
            let shown = valid.iter().map(|one| format!("{} {}", one.container, one.ifname));
            report.valid_attachments = shown.collect();
            let (name, stdin) = (plugin_type(plugin)?, network.stdin(plugin, &valid));
            let answered = match call::find(name, run.cni_path) {
                _ if run.dry_run => Ok(()),
                Some(path) => call::call(&path, &environment, &stdin, run.timeout),
                None => Err(format!("is not in {}", run.cni_path)),
            };
            match answered {
                Ok(()) => report.plugins.push(name.to_owned()),
                Err(why) => {
                    failed.push(format!("{name}: {why}"));
                    report.failed.push(name.to_owned());
                }
            }
        }
        let known = self.remembered(&network.name)?;
        let started = self.starting(&known.namespaces).filter(|_| !run.dry_run);
        failed.extend(started.map(|who| format!("during the last plugin's GC: {who}")));
        Ok(failed)
    }

    /// The attachments that are valid now, or why that cannot be told.
    fn valid(&self, network: &str) -> Result<Vec<Valid>, String> {
        let known = self.remembered(network)?;
        // Last: whoever began before is remembered by now, or seen here.
        match self.starting(&known.namespaces) {
            Some(who) => Err(who),
            None => Ok(known.valid()),
        }
    }

    fn remembered(&self, network: &str) -> Result<Remembered, String> {
        let run = self.run;
        if run.registry.paused() {
            return Err("the node is paused".to_owned());
        }
        let sandboxes = (self.sandboxes)()?;
        if sandboxes.is_empty() && !run.yes {
            return Err("the runtime knows no sandbox, and may have lost them: `--yes`".to_owned());
        }
        let mut known = Remembered::default();
        known.containers.extend(sandboxes);
        known.containers.extend(run.runtimes.iter().flat_map(|dir| names_in(dir)));
        let mut caches = Caches::read(run.caches);
        if let Some(odd) = caches.odd.pop() {
            return Err(format!("nobody knows whose cached result this is: {odd}"));
        }
        let records = run.records().map_err(|failed| failed.to_string())?;
        let notes = run.registry.deliveries().notes();
        let evidence = run.evidence(&records, &notes, &[]).map_err(|failed| failed.to_string())?;
        for file in &caches.files {
            // Nobody delivers the loopback that containerd cached before its ADD here was cut off.
            let is_over = || matches!(evidence.judge(file), Verdict::Dead(_) | Verdict::Unrecorded);
            if file.cached.key.network.as_str() == network || !is_over() {
                known.add(&file.cached.key);
            }
            known.ifnames.insert(file.cached.key.ifname.to_string());
            let named = |path| Named::by_cached(path, file.written_ms);
            known.namespaces.extend(file.sandboxes().into_iter().map(named));
        }
        for record in records.attachments.iter() {
            known.add(&record.key);
            known.namespaces.extend(Named::by_record(record));
        }
        let deadline = Deadline::after(run.timeout);
        let database = Client::connect(&database_socket(run.run_dir), deadline)
            .and_then(|mut client| client.snapshot())
            .map_err(|failed| failed.to_string())?;
        database
            .interfaces()
            .filter_map(|(_, port, interface)| marks(port, interface))
            .for_each(|marks| known.add_marks(marks));
        Ok(known)
    }

    /// Whose attachment nobody may remember yet, or ever: an ADD that is under way, and a namespace
    /// that none of the `remembered` is.
    fn starting(&self, remembered: &[Named]) -> Option<String> {
        adding().or_else(|| living::unremembered(remembered, self.run.yes))
    }
}

/// A process that is a plugin's ADD.
fn adding() -> Option<String> {
    let is_add =
        |variables: &[u8]| variables.split(|byte| *byte == 0).any(|one| one == b"CNI_COMMAND=ADD");
    let mut processes = living::paths_in(Path::new("/proc")).into_iter();
    let found = processes.find(|path| fs::read(path.join("environ")).is_ok_and(|v| is_add(&v)))?;
    Some(format!("a pod is starting: {} is an ADD", found.display()))
}

fn names_in(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).into_iter().flatten().flatten();
    names.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(more: &Value) -> String {
        let mut list = json!({"name": "podnet", "cniVersion": "1.1.0",
            "plugins": [{"type": "ovs", "ipam": {"type": "host-local"}}, {"type": "ovs-flow-gc"}]});
        let more = more.as_object().unwrap().clone();
        list.as_object_mut().unwrap().extend(more);
        list.to_string()
    }

    fn version(more: &Value) -> Option<String> {
        Network::of(&list(more)).unwrap().map(|network| network.version)
    }

    #[test]
    fn networks_without_gc_have_none() {
        let is = |version: &str| Some(version.to_owned());
        assert_eq!(version(&json!({})), is("1.1.0"));
        assert_eq!(version(&json!({"cniVersion": "1.0.0"})), None);
        assert_eq!(version(&json!({"cniVersion": ""})), None);
        let several = json!({"cniVersion": "0.4.0", "cniVersions": ["1.0.0", "1.1.0", "1.2.0"]});
        assert_eq!(version(&several), is("1.1.0"));
        assert_eq!(version(&json!({"cniVersions": ["1.0.0"], "cniVersion": "0.3.1"})), None);
        for off in [json!(true), json!("True")] {
            assert_eq!(version(&json!({"disableGC": off})), None);
        }
        for off in [json!(false), json!("false")] {
            assert_eq!(version(&json!({"disableGC": off})), is("1.1.0"));
        }
        for bad in [
            json!({"plugins": []}),
            json!({"plugins": [{"type": "../sh"}]}),
            json!({"plugins": [{"type": "a"}, {}]}),
            json!({"cniVersion": "one"}),
            json!({"cniVersion": 1}),
            json!({"cniVersions": "1.1.0"}),
            json!({"disableGC": "yes"}),
            json!({"disableGC": 1}),
            json!({"disableGC": true, "disableCheck": null}),
            json!({"loadOnlyInlinedPlugins": "no"}),
        ] {
            assert!(Network::of(&list(&bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn plugins_are_told_as_libcni_tells_them() {
        let network = Network::of(&list(&json!({"cniVersions": ["1.1.0"]}))).unwrap().unwrap();
        let valid = [Valid { container: "c1".to_owned(), ifname: "eth0".to_owned() }];
        let told: Value =
            serde_json::from_str(&network.stdin(&network.plugins[0], &valid)).unwrap();
        let list = json!([{"containerID": "c1", "ifname": "eth0"}]);
        let expected = json!({"type": "ovs", "ipam": {"type": "host-local"}, "name": "podnet",
            "cniVersion": "1.1.0", "cni.dev/valid-attachments": list, "cni.dev/attachments": list});
        assert_eq!(told, expected);
    }

    #[test]
    fn each_container_is_valid_under_each_name() {
        let key = |network: &str, container: &str, ifname: &str| Key {
            network: network.parse().unwrap(),
            container: container.parse().unwrap(),
            ifname: ifname.parse().unwrap(),
        };
        let mut known = Remembered::default();
        known.containers.insert("sandbox".to_owned());
        known.add(&key("podnet", "a", "net1"));
        known.add(&key("other", "b", "net7"));
        let marks = |container: Option<&str>| Marks {
            container_id: container.map(str::to_owned),
            ifname: Some(if container.is_some() { "net9" } else { "net8" }.to_owned()),
            netns: Some("/run/netns/x".to_owned()),
            ..Marks::default()
        };
        known.add_marks(marks(None));
        assert!(known.namespaces.is_empty(), "whose it is nobody says");
        known.add_marks(marks(Some("c")));
        assert_eq!(known.namespaces.len(), 1);
        let valid = known.valid();
        let valid: Vec<String> =
            valid.iter().map(|v| format!("{} {}", v.container, v.ifname)).collect();
        let names = ["eth0", "net1", "net7", "net8", "net9"];
        let expected: Vec<String> = ["a", "b", "c", "sandbox"]
            .iter()
            .flat_map(|one| names.map(|name| format!("{one} {name}")))
            .collect();
        assert_eq!(valid, expected);
    }
}
