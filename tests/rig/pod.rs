//! Pods: sandboxes, who they are on the switch, how they die, what they reach.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Deref;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::host::{command, make_netns};
use super::layouts::Who;
use super::node::Node;
use super::run::{eventually, run};

/// The name that Kubernetes gives the pod that a test calls `name`. All of them are of one
/// ReplicaSet, so two of them with different register values prove that values are pods' own.
/// KubeVirt's pods of virtual machines have names of their own.
pub fn pod_name(name: &str) -> String {
    if name.starts_with("virt-launcher-") {
        return name.to_owned();
    }
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let mut rest = name.bytes().fold(0xcbf2_9ce4_8422_2325, hash);
    let random = |_| {
        let letter = ALPHABET[usize::try_from(rest % 27).unwrap()];
        rest /= 27;
        char::from(letter)
    };
    let full = format!("rig-7d4f8b9c6f-{}", (0..5).map(random).collect::<String>());
    NAMES.lock().unwrap().insert(full.clone(), name.to_owned());
    full
}

static NAMES: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());

/// What a test calls the pod of this name: the other way round.
pub fn called(name: &str) -> String {
    NAMES.lock().unwrap().get(name).map_or(name, String::as_str).to_owned()
}

/// A pod's sandbox: a network namespace and the names that a runtime passes on.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its name ([`pod_name`] of what the test calls it); the namespace is `default`.
    pub name: String,
    /// `K8S_POD_UID`.
    pub uid: String,
    /// `CNI_CONTAINERID`, unique on this machine.
    pub container: String,
    /// Its network namespace's name.
    pub netns: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// An address to ask IPAM for.
    pub wanted_ip: Option<String>,
    /// A MAC to ask for.
    pub wanted_mac: Option<String>,
}

impl Pod {
    /// `CNI_NETNS`.
    pub fn netns_path(&self) -> String {
        format!("/run/netns/{}", self.netns)
    }

    /// `CNI_ARGS`.
    pub fn args(&self) -> String {
        let Self { name, uid, container, wanted_ip, .. } = self;
        let ip = wanted_ip.as_ref().map_or(String::new(), |ip| format!(";IP={ip}"));
        format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={name};K8S_POD_UID={uid};\
             K8S_POD_INFRA_CONTAINER_ID={container}{ip}"
        )
    }

    /// Asks IPAM for this address.
    pub fn with_ip(mut self, ip: &str) -> Self {
        self.wanted_ip = Some(ip.to_owned());
        self
    }

    /// Asks for this MAC.
    pub fn with_mac(mut self, mac: &str) -> Self {
        self.wanted_mac = Some(mac.to_owned());
        self
    }

    /// The name is this and no other.
    pub fn with_name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Another interface of the same pod.
    pub fn with_ifname(mut self, ifname: &str) -> Self {
        ifname.clone_into(&mut self.ifname);
        self
    }
}

/// A pod after ADD: who it is on the switch.
#[derive(Clone, Debug)]
pub struct Attached {
    /// The sandbox.
    pub pod: Pod,
    /// What ADD returned.
    pub result: Value,
    /// The host end of the veth pair, and the port.
    pub port: String,
    /// The port's number, when ADD was done.
    pub ofport: u16,
    /// The pod's IPv4 address.
    pub ip: String,
    /// The pod's IPv6 address.
    pub ip6: String,
    /// The pod's MAC.
    pub mac: String,
}

impl Deref for Attached {
    type Target = Pod;

    fn deref(&self) -> &Pod {
        &self.pod
    }
}

impl Attached {
    /// What flows say of it, with the register value a controller chose.
    pub fn who(&self, reg: u32) -> Who {
        Who {
            ofport: self.ofport,
            reg,
            ip: self.ip.clone(),
            ip6: self.ip6.clone(),
            mac: self.mac.clone(),
        }
    }
}

/// What a vanished pod leaves in OVSDB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// Its port row.
    Stays,
    /// Nothing.
    Gone,
}

impl Node {
    /// A sandbox that nobody has attached yet.
    #[track_caller]
    pub fn pod(&self, name: &str) -> Pod {
        let number = self.sandboxes.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        // 64 hex digits as containerd's, and no two tests have the same.
        let node: u32 = self.name.rsplit('-').next().unwrap().parse().unwrap();
        let netns = format!("{}-{number}-{name}", self.name);
        make_netns(&netns);
        Pod {
            name: pod_name(name),
            uid: format!("{process:08x}-0000-4000-8000-{node:04x}{number:08x}"),
            container: format!("{number:016x}{node:016x}{process:032x}"),
            netns,
            ifname: "eth0".to_owned(),
            wanted_ip: None,
            wanted_mac: None,
        }
    }

    /// A pod that runs: sandbox and ADD.
    #[track_caller]
    pub fn run_pod(&self, name: &str) -> Attached {
        self.add(&self.pod(name))
    }

    /// ADD, which must succeed.
    #[track_caller]
    pub fn add(&self, pod: &Pod) -> Attached {
        let result = self.try_add(pod).unwrap_or_else(|failed| panic!("ADD: {failed}"));
        self.attached(pod, result)
    }

    /// Attaches a pod by hand, for the ways of other CNIs: a veth pair, its host end `port` on
    /// `bridge` without any marks, `ip` (with its prefix length) in the pod. The result is what
    /// such a CNI would return.
    #[track_caller]
    pub fn plug(&self, pod: &Pod, bridge: &str, port: &str, ip: &str) -> Attached {
        let number = self.sandboxes.fetch_add(1, Ordering::Relaxed);
        let mac = format!("0a:58:00:00:{:02x}:{:02x}", (number >> 8) & 0xff, number & 0xff);
        let (ifname, netns) = (&pod.ifname, pod.netns_path());
        let mut pair = command("ip");
        pair.args(["link", "add", port, "type", "veth", "peer", "name", ifname]);
        pair.args(["address", &mac, "netns", &netns]);
        run(pair, Some(&self.netns), b"").ok();
        self.run("ip", &["link", "set", port, "up"]).ok();
        let mut inside = command("ip");
        inside.args(["-n", &pod.netns, "-batch", "-"]);
        let up = format!("link set lo up\nlink set {ifname} up\naddress add {ip} dev {ifname}\n");
        run(inside, None, up.as_bytes()).ok();
        self.ovs_vsctl(&["add-port", bridge, port]);
        let result = json!({
            "cniVersion": self.conflist()["cniVersion"],
            "interfaces": [
                {"name": port},
                {"name": ifname, "mac": mac, "sandbox": netns},
            ],
            "ips": [{"address": ip, "interface": 1}],
            "dns": {},
        });
        self.attached(pod, result)
    }

    /// Who the pod is, from what ADD returned.
    #[track_caller]
    pub fn attached(&self, pod: &Pod, result: Value) -> Attached {
        let interfaces = result["interfaces"].as_array().unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let host = interfaces.iter().find(|i| i["sandbox"].is_null()).unwrap();
        let own = interfaces.iter().find(|i| i["name"] == pod.ifname.as_str()).unwrap();
        let ips = result["ips"].as_array().cloned().unwrap_or_default();
        let address = |v6: bool| {
            let texts = ips.iter().filter_map(|ip| ip["address"].as_str());
            let first = texts.filter(|a| a.contains(':') == v6).find_map(|a| a.split('/').next());
            first.unwrap_or_default().to_owned()
        };
        let (ip, ip6) = (address(false), address(true));
        let (port, mac) = (text(&host["name"]), text(&own["mac"]));
        let ofport = self.ofport(&port);
        Attached { pod: pod.clone(), port, ofport, ip, ip6, mac, result }
    }

    /// The pod is gone and nobody called DEL.
    #[track_caller]
    pub fn vanish(&self, pod: &Attached, port: Port) {
        self.kill_sandbox(pod);
        if port == Port::Gone {
            self.ovs_vsctl(&["--if-exists", "del-port", &pod.port]);
        }
    }

    /// Deletes a sandbox: its namespace, and with it both ends of its veth pairs.
    #[track_caller]
    pub fn kill_sandbox(&self, pod: &Pod) {
        let mut link = command("ip");
        // The kernel would take the pair away a moment after the namespace.
        link.args(["-n", &pod.netns, "link", "del", &pod.ifname]);
        run(link, None, b"");
        let mut netns = command("ip");
        netns.args(["netns", "del", &pod.netns]);
        run(netns, None, b"").ok();
    }

    /// Whether the pod reaches an address (IPv4 or IPv6).
    #[track_caller]
    pub fn ping(&self, from: &Pod, to: &str) -> bool {
        let netns = File::open(from.netns_path()).unwrap();
        // One lost packet on a busy machine is not an unreachable pod.
        (0..2).any(|_| {
            let mut ping = self.command("ping");
            ping.args(["-n", "-c1", "-W0.5", to]);
            run(ping, Some(&netns), b"").succeeded()
        })
    }

    /// Waits until the pod reaches an address.
    #[track_caller]
    pub fn must_reach(&self, from: &Pod, to: &str) {
        eventually(&format!("{} reaches {to}", from.name), || self.ping(from, to));
    }
}
