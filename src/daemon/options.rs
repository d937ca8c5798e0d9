//! The daemon's command line and environment.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Parser;

use crate::config;
use crate::flowtable::Limits;
use crate::flowtable::memory::MemoryLimit;
use crate::liveness::Source;
use crate::util::logging;

const AFTER_HELP: &str = "\
Every option is also an environment variable, OVS_FLOW_GC_<OPTION>: OVS_FLOW_GC_INTERVAL=1m.
OVS's sockets are looked for in $OVS_RUNDIR, else /var/run/openvswitch. What is deleted and what
is only watched is each network's own configuration (its entry in the conflist), not the daemon's.

Signals: SIGTERM and SIGINT end it within a second; nothing is lost, the next start goes on where
it stopped. SIGHUP sweeps at once. Nothing is read again: restart it to change an option.

One daemon a node: a second one on the same state directory says so and waits for the first to end.
`ovs-flow-gc pause` stops all deleting on this node, `ovs-flow-gc resume` ends that.

Exit status: 0 ended by a signal, 1 failed, 2 wrong usage.";

/// Keeps dead pods out of Open vSwitch, for good: watches network namespaces, the switch's
/// database and the records that the CNI plugin ovs-flow-gc writes, and deletes what a dead
/// pod left on the switch within a moment of its death.
#[derive(Clone, Debug, Parser)]
#[command(name = "ovs-flow-gcd", version, after_help = AFTER_HELP)]
pub struct Options {
    /// Where the plugin keeps its records; the same as `stateDir` in the conflist.
    #[arg(long, env = "OVS_FLOW_GC_STATE_DIR", value_name = "DIR", default_value = config::STATE_DIR)]
    pub state_dir: PathBuf,
    /// Sweep at least so often, whatever is or is not heard of: 30s, 500ms, 2m. Events make it
    /// sweep at once; this is the net below them.
    #[arg(long, env = "OVS_FLOW_GC_INTERVAL", value_name = "TIME", default_value = "30s", value_parser = interval)]
    pub interval: Duration,
    /// Where to serve /metrics, /healthz and /readyz: an address with its port, or "none".
    #[arg(
        long,
        env = "OVS_FLOW_GC_LISTEN",
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:9477"
    )]
    pub listen: Listen,
    /// Who is asked whether a pod lives, separated by commas: netns (its network namespace;
    /// always asked), cri (the container runtime), kubernetes (the API server).
    #[arg(
        long,
        env = "OVS_FLOW_GC_LIVENESS",
        value_name = "SOURCES",
        value_delimiter = ',',
        default_value = "netns",
        value_parser = source
    )]
    pub liveness: Vec<Source>,
    /// The container runtime's socket for `cri`; by default the first that is there of
    /// /run/containerd/containerd.sock and /run/crio/crio.sock.
    #[arg(long, env = "OVS_FLOW_GC_CRI_SOCKET", value_name = "PATH")]
    pub cri_socket: Option<PathBuf>,
    /// This node's name for `kubernetes`; by default $NODE_NAME, from the downward API.
    #[arg(long, env = "OVS_FLOW_GC_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,
    /// How to reach the API server; by default the pod's service account.
    #[arg(long, env = "OVS_FLOW_GC_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// A directory of network namespaces to watch; may be given again. Directories that
    /// records point to are watched, too.
    #[arg(
        long,
        env = "OVS_FLOW_GC_NETNS_DIR",
        value_name = "DIR",
        value_delimiter = ',',
        default_value = "/var/run/netns"
    )]
    pub netns_dir: Vec<PathBuf>,
    /// Where libcni caches results. If the state directory is removed under it, the pods that run
    /// are recorded again from there and from Open vSwitch's database.
    #[arg(
        long,
        env = "OVS_FLOW_GC_CACHE_DIR",
        value_name = "DIR",
        default_value = "/var/lib/cni/results"
    )]
    pub cache_dir: PathBuf,
    /// Follow each bridge with a copy of its entries in memory, if it has at most so many; a bridge
    /// with more, or a switch before Open vSwitch 3.0, is read whenever a pod dies. 0: every bridge.
    /// 100,000 entries take about 30 MB.
    #[arg(
        long,
        env = "OVS_FLOW_GC_REPLICA_LIMIT",
        value_name = "ENTRIES",
        default_value_t = 200_000
    )]
    pub replica_limit: usize,
    /// Bytes of memory that this process may use: copies of bridges stay an eighth below it. By
    /// default what its control group may use (cgroup v2: `MemoryMax=`, a container's limit).
    #[arg(long, env = "OVS_FLOW_GC_MEMORY_LIMIT", value_name = "BYTES")]
    pub memory_limit: Option<u64>,
    /// error, warn, info, debug or trace; on standard error.
    #[arg(long, env = "OVS_FLOW_GC_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    pub log_level: log::LevelFilter,
    /// text or json: how a line of the log looks.
    #[arg(long, env = "OVS_FLOW_GC_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub log_format: logging::Format,
}

impl Options {
    /// What copies of bridges may take.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let memory = self.memory_limit.map(MemoryLimit::Given).unwrap_or_default();
        Limits { entries: self.replica_limit, memory }
    }

    /// Whether a source is asked.
    #[must_use]
    pub fn asks(&self, source: Source) -> bool {
        source == Source::Netns || self.liveness.contains(&source)
    }

    /// `--node-name`, else `NODE_NAME`.
    #[must_use]
    pub fn node_name(&self) -> Option<String> {
        let given = self.node_name.clone().or_else(|| std::env::var("NODE_NAME").ok());
        given.filter(|name| !name.is_empty())
    }
}

/// Where to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// Nowhere.
    None,
    /// Here.
    At(SocketAddr),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::None);
        }
        text.parse().map(Self::At).map_err(|_| {
            "not an address with a port, as in 127.0.0.1:9477, 0.0.0.0:9477 or [::]:9477; nor \
             \"none\""
                .to_owned()
        })
    }
}

fn source(text: &str) -> Result<Source, String> {
    Source::ALL
        .iter()
        .copied()
        .find(|source| source.as_str() == text.trim())
        .ok_or_else(|| "not one of netns, cri and kubernetes".to_owned())
}

const LEAST: Duration = Duration::from_millis(100);
const MOST: Duration = Duration::from_secs(3600);

fn interval(text: &str) -> Result<Duration, String> {
    let (number, unit) =
        text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: u64 =
        number.parse().map_err(|_| "not a time, as in 30s, 500ms or 2m".to_owned())?;
    let time = match unit {
        "ms" => Duration::from_millis(number),
        "" | "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number.saturating_mul(60)),
        _ => return Err(format!("unknown unit {unit:?}: ms, s or m")),
    };
    if (LEAST..=MOST).contains(&time) { Ok(time) } else { Err("from 100ms to 60m".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Options, String> {
        Options::try_parse_from([&["ovs-flow-gcd"], args].concat()).map_err(|e| e.to_string())
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let options = parse(&[]).unwrap();
        assert_eq!(options.interval, Duration::from_secs(30));
        assert_eq!(options.listen, Listen::At("127.0.0.1:9477".parse().unwrap()));
        assert_eq!(options.liveness, [Source::Netns]);
        assert_eq!(options.netns_dir, [PathBuf::from("/var/run/netns")]);
        assert_eq!(options.state_dir, PathBuf::from("/run/ovs-flow-gc"));
        assert_eq!(options.cache_dir, PathBuf::from("/var/lib/cni/results"));
        assert!(options.asks(Source::Netns) && !options.asks(Source::Cri));
    }

    #[test]
    fn what_is_given_is_understood() {
        let options = parse(&[
            "--interval=1500ms",
            "--listen=none",
            "--liveness=netns,cri,kubernetes",
            "--netns-dir=/a",
            "--netns-dir=/b,/c",
        ])
        .unwrap();
        assert_eq!(options.interval, Duration::from_millis(1500));
        assert_eq!(options.listen, Listen::None);
        assert!(options.asks(Source::Kubernetes) && options.asks(Source::Cri));
        assert_eq!(options.netns_dir.len(), 3);
        assert_eq!(parse(&["--interval=2m"]).unwrap().interval, Duration::from_secs(120));
        assert_eq!(parse(&["--interval=7"]).unwrap().interval, Duration::from_secs(7));
        // Only netns notices another boot: it is always asked.
        assert!(parse(&["--liveness=cri"]).unwrap().asks(Source::Netns));
    }

    #[test]
    fn mistakes_say_what_is_wrong() {
        for (arg, says) in [
            ("--interval=0", "from 100ms to 60m"),
            ("--interval=2h", "unknown unit \"h\""),
            ("--interval=soon", "30s, 500ms or 2m"),
            ("--interval=99999999999999999999", "30s, 500ms or 2m"),
            ("--listen=9477", "127.0.0.1:9477"),
            ("--liveness=netns,docker", "netns, cri and kubernetes"),
            ("--log-level=loud", "loud"),
            ("--log-format=xml", "not text, nor json"),
            ("--intervall=30s", "--interval"),
        ] {
            let error = parse(&[arg]).unwrap_err();
            assert!(error.contains(says), "{arg}: {error}");
        }
    }
}
