//! A node with an API server, and pods that all three sources know of.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use ovs_flow_gc::store::Registry;
use ovs_flow_gc::util::clock::Deadline;
use serde_json::{Value, json};

use crate::apiserver::{self, ApiServer};
use crate::gcd::Daemon;
use crate::pods::{missing, records};
use crate::rig::{
    Attached, Datapath, Node, Runtime, Sandbox, Setup, Who, eventually, layouts, sleep_ms, within,
};

/// `NODE_NAME`.
pub(crate) const NODE: &str = "n1";
/// Longer than the sources' back-off lasts (15 s and 30 s at most).
pub(crate) const BACK: Duration = Duration::from_secs(50);

/// A node whose pods need not reach each other. Sandboxes of the runtime have bare names,
/// which prove nothing of register values: the operator vouches for them.
pub(crate) fn node(test: &str, mut keys: Value) -> Node {
    keys.as_object_mut().unwrap().entry("reg0").or_insert_with(|| json!("pod"));
    Setup::new().datapath(Datapath::Dummy).gc_conf(keys).up(test)
}

/// The entries of everybody on br0, by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flows(BTreeMap<String, Vec<String>>);

impl Flows {
    /// The pipeline's own entries.
    #[track_caller]
    pub(crate) fn new(node: &Node) -> Self {
        let base = node.install("br0", &layouts::classifier_base());
        Self(BTreeMap::from([("base".to_owned(), base)]))
    }

    /// Installs those of a pod.
    #[track_caller]
    pub(crate) fn install(&mut self, node: &Node, name: &str, who: &Who) {
        let lines = node.install("br0", &layouts::classifier(who));
        assert!(self.0.insert(name.to_owned(), lines).is_none(), "{name} twice");
    }

    /// More of somebody's.
    pub(crate) fn add(&mut self, name: &str, lines: Vec<String>) {
        self.0.entry(name.to_owned()).or_default().extend(lines);
    }

    /// The next register value.
    pub(crate) fn reg(&self) -> u32 {
        0x1001 + u32::try_from(self.0.len()).unwrap()
    }

    /// Whose death is expected from now on: the lines.
    #[track_caller]
    pub(crate) fn forget(&mut self, name: &str) -> Vec<String> {
        let name = crate::rig::called(name);
        self.0.remove(&name).unwrap_or_else(|| panic!("nobody is called {name}"))
    }

    /// The whole dump, if only these are left.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.0.values().flatten().cloned().collect();
        lines.sort();
        lines
    }

    /// Nobody else's entries are there, within this time; everybody's are, all the while.
    #[track_caller]
    pub(crate) fn only(&self, node: &Node, time: Duration) -> Duration {
        let (since, lines) = (Instant::now(), self.lines());
        within(time, "the entries of the dead are gone", || {
            let dump = node.dump("br0");
            let lost = missing(&lines, &dump);
            assert!(lost.is_empty(), "entries of the living are gone: {lost:#?}");
            dump == lines
        });
        since.elapsed()
    }

    /// Everybody's entries are there, and stay there for so long.
    #[track_caller]
    pub(crate) fn stay(&self, node: &Node, time: Duration) {
        let (since, lines) = (Instant::now(), self.lines());
        loop {
            let dump = node.dump("br0");
            let lost = missing(&lines, &dump);
            assert!(lost.is_empty(), "entries of the living are gone: {lost:#?}");
            if since.elapsed() >= time {
                return;
            }
            sleep_ms(100);
        }
    }
}

/// Who a record says that a pod is.
#[track_caller]
pub(crate) fn who(node: &Node, container: &str, reg: u32) -> Who {
    let all = records(node).attachments;
    let record = all.iter().find(|a| a.key.container.as_str() == container).expect("a record");
    let ip = |v6: bool| record.ips.iter().find(|ip| ip.is_ipv6() == v6).unwrap().to_string();
    let (ip, ip6, mac) = (ip(false), ip(true), record.macs[0].to_string());
    Who { ofport: record.ofport.unwrap(), reg, ip, ip6, mac }
}

/// All that ADD has recorded so far is a minute old: `cri` and `kubernetes` do not judge
/// anybody younger than 30 s. Other clocks than the one that ages are left alone.
#[track_caller]
pub(crate) fn age(node: &Node) {
    let registry = Registry::open(&node.state_dir).unwrap();
    let lock = registry.lock(Deadline::after(Duration::from_secs(5))).unwrap();
    for record in records_of(&registry) {
        lock.update(&record, |record| record.created.boot_ms -= 60_000).unwrap();
    }
}

fn records_of(registry: &Registry) -> ovs_flow_gc::model::records::Records {
    registry.snapshot().unwrap().attachments
}

/// A pod as the API server has it.
pub(crate) fn api_pod(uid: &str, name: &str, node: &str, phase: &str, ips: &[&str]) -> Value {
    let mut pod = apiserver::pod(uid, node, phase, ips);
    pod["metadata"]["namespace"] = json!("default");
    pod["metadata"]["name"] = json!(name);
    pod
}

/// A sandbox by the runtime, its entries, and its pod in the API.
#[track_caller]
pub(crate) fn pod(
    node: &Node,
    runtime: &Runtime<'_>,
    api: &ApiServer,
    flows: &mut Flows,
    name: &str,
) -> (Sandbox, Who) {
    let sandbox = runtime.run_sandbox(name);
    let who = who(node, &sandbox.id, flows.reg());
    flows.install(node, name, &who);
    api.put(api_pod(&sandbox.uid, name, NODE, "Running", &[&who.ip, &who.ip6]));
    (sandbox, who)
}

/// A bridge with nothing on it but these pods.
#[track_caller]
pub(crate) fn pods<const N: usize>(
    node: &Node,
    runtime: &Runtime<'_>,
    api: &ApiServer,
    names: [&str; N],
) -> (Flows, [(Sandbox, Who); N]) {
    let mut flows = Flows::new(node);
    let pods = names.map(|name| pod(node, runtime, api, &mut flows, name));
    (flows, pods)
}

/// A pod that the runtime does not know (podman's, say), with its pod in the API.
#[track_caller]
pub(crate) fn pod_without_sandbox(
    node: &Node,
    api: &ApiServer,
    flows: &mut Flows,
    name: &str,
) -> Attached {
    let pod = node.run_pod(name);
    flows.install(node, name, &pod.who(flows.reg()));
    api.put(api_pod(&pod.uid, name, NODE, "Running", &[&pod.ip, &pod.ip6]));
    pod
}

/// A kubeconfig for the API server.
pub(crate) fn kubeconfig(node: &Node, api: &ApiServer) -> String {
    let path = node.dir.join("kubeconfig");
    fs::write(node.dir.join("token"), "first").unwrap();
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         clusters: [{{name: k, cluster: {{server: 'http://{}'}}}}]\n\
         contexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n\
         users: [{{name: u, user: {{tokenFile: token}}}}]\n",
        api.address
    );
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// The daemon with all three sources, once each of them has answered.
#[track_caller]
pub(crate) fn start(node: &Node, socket: &Path, api: &ApiServer, args: &[&str]) -> Daemon {
    let daemon = start_unsettled(node, socket, api, &[], args);
    eventually("all sources answer", || up(&daemon, "cri") && up(&daemon, "kubernetes"));
    eventually("it is ready", || daemon.get("/readyz").0 == 200);
    daemon
}

/// The daemon with all three sources.
#[track_caller]
pub(crate) fn start_unsettled(
    node: &Node,
    socket: &Path,
    api: &ApiServer,
    prefix: &[&str],
    args: &[&str],
) -> Daemon {
    let socket = format!("--cri-socket={}", socket.display());
    let kubeconfig = format!("--kubeconfig={}", kubeconfig(node, api));
    let name = format!("--node-name={NODE}");
    let all = ["--liveness=netns,cri,kubernetes", &socket, &kubeconfig, &name];
    Daemon::start_behind(node, prefix, &[&all, args].concat(), None)
}

/// Whether a source answers, by the daemon's word.
#[track_caller]
pub(crate) fn up(daemon: &Daemon, source: &str) -> bool {
    daemon.metric(&format!("source_up{{source=\"{source}\"}}")) == 1.0
}

/// It is well and touched nobody alive.
#[track_caller]
pub(crate) fn well(daemon: &Daemon) {
    assert_eq!(daemon.get("/healthz").0, 200);
    // Readiness follows OVS: the watch of ovsdb-server connects again after a while.
    within(BACK, "it is ready", || daemon.get("/readyz").0 == 200);
    assert_eq!(daemon.metric("brake_pulled_total"), 0.0);
    daemon.no_harm();
}
