//! A node with many pods on it, their entries on the bridge, and how they come and go.
//!
//! On the dummy datapath a port needs no device, so a pod is a port's row, a record that ADD
//! made, its entries, and a network namespace: a mount of one that all of them share.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Instant;

use serde_json::{Value, json};

use super::del::{entries_over, install};
use super::rig::{Call, Node, layouts, pod_name};

/// Ports are numbered from here.
const FIRST_PORT: usize = 10;

/// What a node's pods look like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Entries of each beside the 15 of the classifier's layout.
    pub(crate) policy: usize,
    /// In so many tables.
    pub(crate) tables: usize,
    /// `lingerSeconds`.
    pub(crate) linger: u64,
    /// Who the pod of a number is on the switch.
    pub(crate) who: fn(usize) -> layouts::Who,
}

/// Makes pods, and lets them die.
pub(crate) struct PodSet<'a> {
    node: &'a Node,
    /// Where the namespaces are.
    pub(crate) netns: PathBuf,
    shape: Shape,
}

impl Shape {
    /// Entries of one pod.
    pub(crate) fn each(self) -> usize {
        self.policy + 15
    }

    /// One pod's entries.
    pub(crate) fn entries(self, who: &layouts::Who) -> Vec<String> {
        entries_over(who, self.policy, self.tables)
    }

    /// Everything on a bridge with these pods and so many entries.
    pub(crate) fn bridge<'w>(
        self,
        whos: impl IntoIterator<Item = &'w layouts::Who>,
        flows: usize,
    ) -> Vec<String> {
        let mut all = layouts::classifier_base();
        all.extend(whos.into_iter().flat_map(|who| self.entries(who)));
        let filler = (0..flows - all.len()).map(|n| {
            let (table, port) = (20 + n / 40_000, 20_000 + n % 40_000);
            format!("table={table}, priority=10,tcp,tp_dst={port} actions=drop")
        });
        all.extend(filler.collect::<Vec<_>>());
        all
    }
}

/// Who the pod of this number is on the switch. Nobody before or after is the same.
pub(crate) fn who(n: usize) -> layouts::Who {
    layouts::Who {
        ofport: u16::try_from(FIRST_PORT + n).unwrap(),
        reg: 0x10_0000 + u32::try_from(n).unwrap(),
        ip: format!("10.245.{}.{}", n / 200, n % 200 + 2),
        ip6: format!("fd00:10:245::{:x}", n + 2),
        mac: format!("0a:58:00:00:{:02x}:{:02x}", n / 200, n % 200 + 2),
    }
}

/// Its UID in the API server.
pub(crate) fn uid(n: usize) -> String {
    format!("{n:08x}-0000-4000-8000-000000000000")
}

fn name(n: usize) -> String {
    format!("p{n:04}")
}

impl<'a> PodSet<'a> {
    /// Nobody yet.
    pub(crate) fn new(node: &'a Node, shape: Shape) -> Self {
        let netns = node.dir.join("netns");
        fs::create_dir_all(&netns).unwrap();
        shell(&format!("mount -t tmpfs tmpfs {}", netns.display()));
        Self { node, netns, shape }
    }

    /// Sandboxes, ports and ADD; no entries.
    pub(crate) fn attach(&self, which: Range<usize>) {
        shell(&format!(
            "cd {dir} && for n in $(seq {first} {last}); do : > $n; \
             mount --bind /run/netns/{node} $n; done",
            dir = self.netns.display(),
            first = which.start,
            last = which.end - 1,
            node = self.node.name,
        ));
        let port = |n| {
            let (name, request) = (name(n), format!("ofport_request={}", FIRST_PORT + n));
            let add = ["--", "add-port", "br0", &name].map(str::to_owned).to_vec();
            [add, ["--", "set", "Interface", &name, &request].map(str::to_owned).to_vec()].concat()
        };
        self.vsctl(which.clone().map(port).collect());
        let middle = which.start + which.len() / 2;
        thread::scope(|scope| {
            for half in [which.start..middle, middle..which.end] {
                scope.spawn(|| half.for_each(|n| drop(self.call(n, "ADD").run().ok())));
            }
        });
    }

    /// [`Self::attach`], and their entries.
    pub(crate) fn join(&self, which: Range<usize>) {
        let whos = which.clone().map(self.shape.who);
        let flows: Vec<_> = whos.flat_map(|who| self.shape.entries(&who)).collect();
        self.attach(which);
        install(self.node, &flows);
    }

    /// A call of the plugin for a pod.
    pub(crate) fn call(&self, n: usize, verb: &str) -> Call<'a> {
        let path = self.netns.join(n.to_string()).display().to_string();
        let args = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={};K8S_POD_UID={}",
            pod_name(&name(n)),
            uid(n)
        );
        let call = self.node.call("ovs-flow-gc", verb).conf(&self.conf(n, &path));
        let call = call.env("CNI_CONTAINERID", format!("{n:064x}")).env("CNI_IFNAME", "eth0");
        call.env("CNI_NETNS", path).env("CNI_ARGS", args)
    }

    fn conf(&self, n: usize, netns: &str) -> Value {
        let who = (self.shape.who)(n);
        json!({
            "type": "ovs-flow-gc", "name": "podnet", "cniVersion": "1.0.0",
            "stateDir": self.node.state_dir, "lingerSeconds": self.shape.linger,
            "prevResult": {
                "cniVersion": "1.0.0",
                "interfaces": [
                    {"name": name(n)}, {"name": "eth0", "mac": who.mac, "sandbox": netns},
                ],
                "ips": [
                    {"address": format!("{}/16", who.ip), "interface": 1},
                    {"address": format!("{}/64", who.ip6), "interface": 1},
                ],
            },
        })
    }

    /// Its namespace is gone; since when. That is from the moment that its name goes: what is
    /// mounted there has gone just before, and lazily, as with `ip netns del`: whoever looks at
    /// it would keep it busy.
    pub(crate) fn die(&self, n: usize) -> Instant {
        let path = self.netns.join(n.to_string());
        let status = Command::new("umount").arg("-l").arg(&path).status().unwrap();
        assert!(status.success(), "umount {}: {status}", path.display());
        let since = Instant::now();
        fs::remove_file(&path).unwrap();
        since
    }

    /// The namespaces of many are gone.
    pub(crate) fn die_all(&self, which: Range<usize>) {
        unmount(&self.netns, which);
    }

    /// Removes ports' rows, and waits for the switch.
    pub(crate) fn del_ports(&self, which: Range<usize>) {
        let port = |n| ["--", "--if-exists", "del-port", "br0", &name(n)].map(str::to_owned);
        self.vsctl(which.map(|n| port(n).to_vec()).collect());
    }

    /// Removes a port's row, and does not wait for the switch.
    pub(crate) fn drop_port(&self, n: usize) {
        self.node.ovs_vsctl(&["--no-wait", "del-port", "br0", &name(n)]);
    }

    /// A few hundred at a time.
    fn vsctl(&self, calls: Vec<Vec<String>>) {
        for some in calls.chunks(200) {
            let args: Vec<&str> = some.iter().flatten().map(String::as_str).collect();
            self.node.ovs_vsctl(&args);
        }
    }
}

/// Takes namespaces away, as `ip netns del` does.
pub(crate) fn unmount(netns: &Path, which: Range<usize>) {
    let (dir, first, last) = (netns.display(), which.start, which.end - 1);
    shell(&format!(
        "cd {dir} && for n in $(seq {first} {last}); do \
         ! [ -e $n ] || {{ umount -l $n; rm $n; }}; done"
    ));
}

/// A shell command that must succeed.
pub(crate) fn shell(script: &str) {
    let status = Command::new("/bin/sh").args(["-ec", script]).status().unwrap();
    assert!(status.success(), "{script}: {status}");
}
