//! A real switch with pods on it, and the state in which every run finds them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ovs_flow_gc::model::attachment::Key;
use ovs_flow_gc::openflow::{Connection, Entry, Filter};
use ovs_flow_gc::store::{Registry, RegistrySnapshot};
use ovs_flow_gc::util::clock::Deadline;
use serde_json::{Value, json};

use crate::rig::node::NETWORK;
use crate::rig::run::run;
use crate::rig::{Datapath, Node, Outcome, Pod, Setup, Who, layouts};

/// So many entries of nobody in the table of the pods' addresses: a dump of it has two parts.
const FILLERS: u32 = 700;
/// Dumps are compared with `ovs-ofctl`'s as often.
const CROSS_CHECK: usize = 50;

/// A pod. Its namespace is named by a link, so that its end is as cheap as its return.
pub(super) struct LinkedPod {
    pub(super) pod: Pod,
    pub(super) link: PathBuf,
    pub(super) port: String,
    pub(super) who: Who,
}

impl LinkedPod {
    /// What the OVS plugin before us returned.
    pub(super) fn result(&self) -> Value {
        let Who { ip, ip6, mac, .. } = &self.who;
        json!({
            "cniVersion": "1.0.0",
            "interfaces": [
                {"name": self.port},
                {"name": self.pod.ifname, "mac": mac, "sandbox": self.link},
            ],
            "ips": [
                {"address": format!("{ip}/24"), "interface": 1},
                {"address": format!("{ip6}/64"), "interface": 1},
            ],
            "dns": {},
        })
    }

    pub(super) fn key(&self) -> Key {
        Key {
            network: NETWORK.parse().unwrap(),
            container: self.pod.container.parse().unwrap(),
            ifname: self.pod.ifname.parse().unwrap(),
        }
    }

    /// Its namespace is there.
    pub(super) fn lives(&self) {
        if fs::symlink_metadata(&self.link).is_err() {
            symlink(self.pod.netns_path(), &self.link).unwrap();
        }
    }

    /// It has a sandbox that was made just now, younger than every entry.
    #[track_caller]
    pub(super) fn is_new(&self, node: &Node) {
        let name = &self.pod.netns;
        let mut ip = node.command("ip");
        ip.args(["-batch", "-"]);
        run(ip, None, format!("netns del {name}\nnetns add {name}\n").as_bytes()).ok();
        self.lives();
    }

    /// Its namespace is gone.
    pub(super) fn ends(&self) {
        if fs::symlink_metadata(&self.link).is_ok() {
            fs::remove_file(&self.link).unwrap();
        }
    }
}

/// Entries, by all that whoever added them chose.
pub(super) type Entries = BTreeMap<Vec<u8>, Entry>;

/// A file or (without content) a directory, with its mode.
type Tree = Vec<(PathBuf, u32, Option<Vec<u8>>)>;

/// A node, and what it is to look like before a run.
pub(super) struct Fixture {
    pub(super) node: Node,
    switch: Connection,
    /// What every run finds.
    entries: Entries,
    state: Tree,
    restored: usize,
    /// How often `ovs-ofctl` saw the same.
    pub(super) cross_checked: usize,
}

impl Fixture {
    /// The classifier's own entries and those of nobody; no pods.
    pub(super) fn new(test: &str) -> Self {
        let keys = json!({"lingerSeconds": 0, "timeoutMs": 2000, "conntrack": true});
        let node = Setup::new().datapath(Datapath::Dummy).gc_conf(keys).up(test);
        fs::create_dir(node.dir.join("netns")).unwrap();
        let filler = |n: u32| {
            let [_, _, high, low] = n.to_be_bytes();
            format!("table=40, priority=7,ip,nw_dst=172.16.{high}.{low} actions=NORMAL")
        };
        let mut base = layouts::classifier_base();
        base.extend((0..FILLERS).map(filler));
        node.add_flows("br0", &base);
        let switch = connect(&node.run_dir);
        // A switch that has just been started makes no difference between young and old.
        let started = fs::File::options().write(true).open(node.run_dir.join("ovs-vswitchd.pid"));
        started.unwrap().set_modified(SystemTime::now() - Duration::from_secs(3600)).unwrap();
        Self {
            node,
            switch,
            entries: Entries::new(),
            state: Tree::new(),
            restored: 0,
            cross_checked: 0,
        }
    }

    /// A pod with a port and without entries or a record. `number` is its own, `address` may
    /// be somebody's before it.
    #[track_caller]
    pub(super) fn resident(&self, name: &str, number: u8, address: u8) -> LinkedPod {
        let pod = self.node.pod(name);
        let link = self.node.dir.join("netns").join(name);
        let who = Who {
            ofport: 100 + u16::from(number),
            reg: 0x1000 + u32::from(number),
            ip: format!("10.244.1.{address}"),
            ip6: format!("fd00:10:244:1::{address:x}"),
            mac: format!("02:42:0a:f4:01:{number:02x}"),
        };
        let resident = LinkedPod { pod, link, port: format!("veth{number}"), who };
        resident.lives();
        let port = &resident.port;
        let request = format!("ofport_request={}", resident.who.ofport);
        let id = |key: &str, value: &str| format!("external_ids:{key}=\"{value}\"");
        let args = [
            ["add-port", "br0", port, "--"].map(str::to_owned).to_vec(),
            ["set", "Interface", port, &request, "--"].map(str::to_owned).to_vec(),
            ["set", "Port", port].map(str::to_owned).to_vec(),
            vec![
                id("antrea-type", "container"),
                id("container-id", &resident.pod.container),
                id("net-ns", &resident.link.display().to_string()),
            ],
        ]
        .concat();
        self.node.ovs_vsctl(&args.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(self.node.ofport(port), resident.who.ofport);
        resident
    }

    /// A controller installs a pod's entries.
    #[track_caller]
    pub(super) fn install(&self, resident: &LinkedPod) {
        self.node.add_flows("br0", &layouts::classifier(&resident.who));
    }

    /// A call for a pod behind `prefix`; `keys` are added to the configuration.
    #[track_caller]
    pub(super) fn cni(
        &self,
        verb: &str,
        of: &LinkedPod,
        how: &How<'_>,
        keys: &[(&str, Value)],
    ) -> Outcome {
        let prev = of.result();
        let mut conf = self.node.plugin_conf("ovs-flow-gc", None, Some(&prev));
        for (key, value) in keys {
            conf[*key] = value.clone();
        }
        let mut command = self.behind(how, &[]);
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_PATH", self.node.cni_bin())
            .env("CNI_CONTAINERID", &of.pod.container)
            .env("CNI_NETNS", &of.link)
            .env("CNI_IFNAME", &of.pod.ifname)
            .env("CNI_ARGS", of.pod.args());
        run(command, None, conf.to_string().as_bytes())
    }

    /// A sweep behind `prefix`.
    #[track_caller]
    pub(super) fn sweep(&self, how: &How<'_>, seconds: u64) -> Outcome {
        let state = self.node.state_dir.display().to_string();
        let seconds = seconds.to_string();
        let args = ["sweep", "--json", "--timeout", &seconds, "--state-dir", &state];
        run(self.behind(how, &args), None, b"")
    }

    fn behind(&self, how: &How<'_>, args: &[&str]) -> std::process::Command {
        let plugin = self.node.plugin("ovs-flow-gc").display().to_string();
        let mut words = how.prefix.to_vec();
        words.push(plugin);
        words.extend(args.iter().map(|arg| (*arg).to_owned()));
        let mut command = self.node.command(&words[0]);
        command.args(&words[1..]);
        if let Some(run_dir) = how.run_dir {
            command.env("OVS_RUNDIR", run_dir);
        }
        command
    }

    /// What is on the bridge.
    #[track_caller]
    pub(super) fn dump(&mut self) -> Entries {
        let mut all = Entries::new();
        self.switch.set_deadline(soon());
        self.switch
            .dump(&Filter::default(), &mut |raw, _| {
                all.insert(raw.content(), raw.to_entry());
            })
            .unwrap();
        all
    }

    /// From now on every run finds what is there now.
    #[track_caller]
    pub(super) fn keep(&mut self) {
        self.entries = self.dump();
        assert!(self.entries.len() > FILLERS as usize, "{}", self.entries.len());
        self.state = tree(&self.node.state_dir);
        self.cross_check();
    }

    /// Puts entries and records back as [`Self::keep`] found them.
    #[track_caller]
    pub(super) fn restore(&mut self) {
        let now = self.dump();
        let beyond = only_in(&now, &self.entries);
        let missing = only_in(&self.entries, &now);
        self.delete(&beyond);
        self.add(&missing);
        let _ = fs::remove_dir_all(&self.node.state_dir);
        plant(&self.state);
        self.restored += 1;
        if self.restored.is_multiple_of(CROSS_CHECK) {
            assert!(self.dump().keys().eq(self.entries.keys()));
            self.cross_check();
        }
    }

    /// Puts entries on the bridge.
    #[track_caller]
    pub(super) fn put(&mut self, entries: &Entries) {
        self.add(&entries.values().cloned().collect::<Vec<_>>());
    }

    /// Takes entries off the bridge.
    #[track_caller]
    pub(super) fn take_away(&mut self, entries: &Entries) {
        self.delete(&entries.values().cloned().collect::<Vec<_>>());
    }

    #[track_caller]
    fn add(&mut self, entries: &[Entry]) {
        self.switch.set_deadline(soon());
        let added = self.switch.add(entries).unwrap();
        assert!(added.refused.is_empty(), "{:?}", added.refused);
    }

    #[track_caller]
    fn delete(&mut self, entries: &[Entry]) {
        self.switch.set_deadline(soon());
        let deleted = self.switch.delete_strict(entries).unwrap();
        assert!(deleted.refused.is_empty(), "{:?}", deleted.refused);
    }

    /// Somebody else's dump has as many entries as ours.
    #[track_caller]
    fn cross_check(&mut self) {
        assert_eq!(self.node.dump("br0").len(), self.entries.len());
        self.cross_checked += 1;
    }

    /// What every run finds on the bridge.
    pub(super) fn kept(&self) -> &Entries {
        &self.entries
    }

    /// Everything that is written down.
    #[track_caller]
    pub(super) fn records(&self) -> RegistrySnapshot {
        match Registry::open_existing(&self.node.state_dir).unwrap() {
            Some(registry) => registry.snapshot().unwrap(),
            None => RegistrySnapshot::default(),
        }
    }
}

/// How a call is made: behind these words, and with another directory of sockets.
#[derive(Clone, Default)]
pub(super) struct How<'a> {
    pub(super) prefix: Vec<String>,
    pub(super) run_dir: Option<&'a Path>,
}

fn connect(run_dir: &Path) -> Connection {
    Connection::open(&run_dir.join("br0.mgmt"), soon()).unwrap()
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

/// Entries of `these` that `those` lack.
pub(super) fn only_in(these: &Entries, those: &Entries) -> Vec<Entry> {
    let only = these.iter().filter(|(content, _)| !those.contains_key(*content));
    only.map(|(_, entry)| entry.clone()).collect()
}

fn tree(dir: &Path) -> Tree {
    let mut all = vec![(dir.to_owned(), dir.metadata().unwrap().mode() & 0o7777, None)];
    let mut entries: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            all.extend(tree(&path));
        } else {
            let mode = path.metadata().unwrap().mode() & 0o7777;
            let content = fs::read(&path).unwrap();
            all.push((path, mode, Some(content)));
        }
    }
    all
}

fn plant(tree: &Tree) {
    for (path, mode, content) in tree {
        match content {
            None => fs::DirBuilder::new().mode(*mode).create(path).unwrap(),
            Some(content) => {
                fs::write(path, content).unwrap();
                fs::set_permissions(path, fs::Permissions::from_mode(*mode)).unwrap();
            }
        }
    }
}
