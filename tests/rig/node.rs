//! A node: a network namespace, directories, a switch, and a CNI configuration.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use serde_json::{Map, Value, json};

use super::host::{PLUGINS, command, make_netns, must_have_what_we_need, unmount_all_below};
use super::ovs::{Daemon, Datapath};
use super::run::{Outcome, Running, run, start};

/// The network of the node's conflist.
pub const NETWORK: &str = "podnet";

/// How a node is made; the default is what most tests want.
#[derive(Clone, Debug)]
pub struct Setup {
    datapath: Datapath,
    cni_version: String,
    ovs_conf: Value,
    gc_conf: Option<Value>,
    protocols: Option<String>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            datapath: Datapath::Netdev,
            cni_version: "1.0.0".to_owned(),
            ovs_conf: json!({}),
            gc_conf: Some(json!({})),
            protocols: None,
        }
    }
}

impl Setup {
    /// A bridge that forwards packets, and the test OVS CNI with `ovs-flow-gc` behind it.
    pub fn new() -> Self {
        Self::default()
    }

    /// `Datapath::Dummy` is quicker and forwards nothing.
    pub fn datapath(mut self, datapath: Datapath) -> Self {
        self.datapath = datapath;
        self
    }

    /// The conflist's `cniVersion` (1.0.0).
    pub fn cni_version(mut self, version: &str) -> Self {
        version.clone_into(&mut self.cni_version);
        self
    }

    /// The OpenFlow versions that br0 allows, e.g. `OpenFlow13`.
    pub fn protocols(mut self, protocols: &str) -> Self {
        self.protocols = Some(protocols.to_owned());
        self
    }

    /// More keys for the OVS plugin.
    pub fn ovs_conf(mut self, keys: Value) -> Self {
        self.ovs_conf = keys;
        self
    }

    /// More keys for `ovs-flow-gc`.
    pub fn gc_conf(mut self, keys: Value) -> Self {
        self.gc_conf = Some(keys);
        self
    }

    /// The OVS plugin alone: a node as it was before us.
    pub fn without_gc(mut self) -> Self {
        self.gc_conf = None;
        self
    }

    /// Makes it.
    pub fn up(self, test: &str) -> Node {
        Node::make(test, self)
    }
}

/// A node. Dropping it takes everything away that it made.
#[derive(Debug)]
pub struct Node {
    /// `ofg-<pid>-<n>`: its namespace, and the prefix of its pods' namespaces.
    pub name: String,
    /// Everything it has on disk.
    pub dir: PathBuf,
    /// `OVS_RUNDIR`.
    pub run_dir: PathBuf,
    /// `stateDir`.
    pub state_dir: PathBuf,
    /// The database server.
    pub ovsdb: Daemon,
    /// The switch.
    pub vswitchd: Daemon,
    pub(super) netns: File,
    pub(super) conflist: Mutex<Value>,
    /// libcni's cache: the result of each attachment, by container and interface.
    pub(super) results: Mutex<BTreeMap<(String, String), Value>>,
    pub(super) sandboxes: AtomicU32,
    test: String,
}

impl Node {
    /// A node with the default [`Setup`].
    pub fn new(test: &str) -> Self {
        Setup::new().up(test)
    }

    fn make(test: &str, setup: Setup) -> Self {
        static NODES: AtomicU32 = AtomicU32::new(0);
        must_have_what_we_need();
        let number = NODES.fetch_add(1, Ordering::Relaxed);
        let name = format!("ofg-{}-{number}", std::process::id());
        // Short: a Unix socket's path has 107 bytes at most.
        let dir = Path::new("/tmp").join(&name);
        let run_dir = dir.join("run");
        for part in ["run", "calls", "etc/cni/net.d", "opt/cni/bin", "var-lib/cni"] {
            fs::create_dir_all(dir.join(part)).unwrap();
        }
        let netns = make_netns(&name);
        let node = Self {
            ovsdb: Daemon::ovsdb_server(&run_dir, &netns),
            vswitchd: Daemon::ovs_vswitchd(&run_dir, &netns, setup.datapath),
            state_dir: dir.join("state"),
            conflist: Mutex::new(Value::Null),
            results: Mutex::default(),
            sandboxes: AtomicU32::new(0),
            test: test.to_owned(),
            name,
            dir,
            run_dir,
            netns,
        };
        node.install_plugins();
        node.set_conflist(node.default_conflist(&setup));
        node.boot_switch(setup.protocols.as_deref());
        node
    }

    /// A command on this node: in its namespace, with `OVS_RUNDIR`.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = command(program);
        command.env("OVS_RUNDIR", &self.run_dir);
        command
    }

    /// Runs a command on this node.
    #[track_caller]
    pub fn run(&self, program: &str, args: &[&str]) -> Outcome {
        let mut command = self.command(program);
        command.args(args);
        run(command, Some(&self.netns), b"")
    }

    /// Runs `ovs-flow-gc`'s admin command on this node.
    #[track_caller]
    pub fn admin(&self, args: &[&str]) -> Outcome {
        self.start_admin(args).wait()
    }

    /// Starts it.
    #[track_caller]
    pub fn start_admin(&self, args: &[&str]) -> Running {
        let mut command = self.command(self.plugin("ovs-flow-gc"));
        command.args(args).arg("--state-dir").arg(&self.state_dir);
        start(command, Some(&self.netns), b"")
    }

    /// Where `CNI_PATH` has a plugin.
    pub fn plugin(&self, name: &str) -> PathBuf {
        self.cni_bin().join(name)
    }

    /// `CNI_PATH`.
    pub fn cni_bin(&self) -> PathBuf {
        self.dir.join("opt/cni/bin")
    }

    /// Puts a shell script into `CNI_PATH`: plugins that fail, hang, or do strange things.
    pub fn script_plugin(&self, name: &str, body: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.plugin(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The conflist in `net.d`.
    pub fn conflist_path(&self) -> PathBuf {
        self.dir.join("etc/cni/net.d/10-podnet.conflist")
    }

    /// The conflist.
    pub fn conflist(&self) -> Value {
        self.conflist.lock().unwrap().clone()
    }

    /// Replaces the conflist, in `net.d` too.
    pub fn set_conflist(&self, conflist: Value) {
        let text = serde_json::to_string_pretty(&conflist).unwrap();
        fs::write(self.conflist_path(), text).unwrap();
        *self.conflist.lock().unwrap() = conflist;
    }

    /// Sets keys of `ovs-flow-gc` in the conflist; `null` takes one out.
    #[track_caller]
    pub fn configure(&self, keys: Value) {
        self.configure_plugin("ovs-flow-gc", keys);
    }

    /// Sets keys of one plugin in the conflist; `null` takes one out.
    #[track_caller]
    pub fn configure_plugin(&self, plugin: &str, keys: Value) {
        let mut conflist = self.conflist();
        let plugins = conflist["plugins"].as_array_mut().unwrap();
        let conf = plugins.iter_mut().find(|conf| conf["type"] == plugin).expect(plugin);
        merge(conf, keys);
        self.set_conflist(conflist);
    }

    /// The calls that the test OVS CNI had, e.g. `ADD <containerID> eth0 "<netns>"`.
    pub fn calls(&self) -> Vec<String> {
        let log = fs::read_to_string(self.call_log()).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    fn call_log(&self) -> PathBuf {
        self.dir.join("calls/log")
    }

    /// Puts a file system of this size (e.g. `64k`) under the state directory.
    #[track_caller]
    pub fn limit_state_dir(&self, size: &str) {
        fs::create_dir_all(&self.state_dir).unwrap();
        let options = format!("size={size},mode=0700");
        let mut mount = command("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&self.state_dir);
        run(mount, None, b"").ok();
    }

    /// Gives an address back to IPAM though nobody called DEL for it.
    #[track_caller]
    pub fn forget_lease(&self, ip: &str) {
        let lease = self.dir.join("ipam").join(NETWORK).join(ip);
        fs::remove_file(&lease).unwrap_or_else(|e| panic!("{}: {e}", lease.display()));
    }

    fn install_plugins(&self) {
        for (name, binary) in [
            ("ovs-flow-gc", env!("CARGO_BIN_EXE_ovs-flow-gc")),
            ("ovs-test-cni", env!("CARGO_BIN_EXE_ovs-test-cni")),
        ] {
            symlink(binary, self.plugin(name)).unwrap();
        }
        for name in ["host-local", "loopback", "tuning"] {
            symlink(Path::new(PLUGINS).join(name), self.plugin(name)).unwrap();
        }
    }

    fn default_conflist(&self, setup: &Setup) -> Value {
        let mut ovs = json!({
            "type": "ovs-test-cni",
            "bridge": "br0",
            "callLog": self.call_log(),
            "capabilities": {"mac": true},
            "ipam": {
                "type": "host-local",
                "dataDir": self.dir.join("ipam"),
                "ranges": [
                    [{"subnet": "10.244.1.0/24"}],
                    [{"subnet": "fd00:10:244:1::/64"}],
                ],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        });
        merge(&mut ovs, setup.ovs_conf.clone());
        let mut plugins = vec![ovs];
        if let Some(keys) = &setup.gc_conf {
            let mut gc = json!({"type": "ovs-flow-gc", "stateDir": self.state_dir});
            merge(&mut gc, keys.clone());
            plugins.push(gc);
        }
        json!({"cniVersion": setup.cni_version, "name": NETWORK, "plugins": plugins})
    }

    /// The command that gets a person onto this node.
    fn way_in(&self) -> String {
        format!(
            "nsenter --net=/run/netns/{} env OVS_RUNDIR={} bash",
            self.name,
            self.run_dir.display()
        )
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::env::var_os("OFG_KEEP").is_some() {
            eprintln!("{}: kept; look around with: {}", self.test, self.way_in());
            return;
        }
        if thread::panicking() {
            eprintln!("{}: run it with OFG_KEEP=1 to look around afterwards", self.test);
        }
        self.vswitchd.kill_quietly();
        self.ovsdb.kill_quietly();
        // Not one `?` or panic in here: what can be taken away is taken away.
        let ours = fs::read_dir("/run/netns").into_iter().flatten().flatten();
        let ours = ours.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let pods = format!("{}-", self.name);
        let lines: String = ours
            .filter(|name| *name == self.name || name.starts_with(&pods))
            .map(|name| format!("netns del {name}\n"))
            .collect();
        let mut ip = command("ip");
        ip.args(["-force", "-batch", "-"]);
        run(ip, None, lines.as_bytes());
        unmount_all_below(&self.dir);
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn merge(conf: &mut Value, keys: Value) {
    let (Some(conf), Value::Object(keys)) = (conf.as_object_mut(), keys) else { return };
    for (key, value) in keys {
        set(conf, key, value);
    }
}

fn set(conf: &mut Map<String, Value>, key: String, value: Value) {
    if value.is_null() {
        conf.shift_remove(&key);
    } else {
        conf.insert(key, value);
    }
}
