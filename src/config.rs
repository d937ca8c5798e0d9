//! The plugin's configuration: every key, its default and its presets.
//!
//! Parsing never stops at the first fault: ADD refuses a configuration with any
//! [`Problem`], DEL and GC warn and go on with what could be read, because a rolled-back
//! conflist must not block pods from ending.

mod facts;
mod parse;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::model::register::{RegisterRule, RegisterSource};
use crate::model::text::serde_as_text;

pub use facts::{RegisterFacts, SharedValue, Sharer, ShownValue};

/// Where state lives unless configured: tmpfs, so that a full disk cannot stop us.
pub const STATE_DIR: &str = "/run/ovs-flow-gc";
/// Where OVS keeps its sockets unless `OVS_RUNDIR` says otherwise.
pub const OVS_RUN_DIR: &str = "/var/run/openvswitch";

/// Where a pod's register value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reg0 {
    /// The constant its classifier flows load, once shown to be its own.
    Learn,
    /// As learned; the operator vouches that values are per pod.
    Pod,
    /// Its IPv4 address as an integer.
    Ipv4,
    /// Its port number.
    Ofport,
    /// A key of the OVSDB Interface's or Port's external_ids.
    ExternalId(String),
    /// Registers are no evidence.
    None,
}

serde_as_text!(Reg0);

/// Where the owner of a pod's address (IP or MAC) may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AddressScope {
    /// An address stays on its node.
    Node,
    /// On another node, too: IPAM of the whole cluster, fixed addresses, machines that migrate.
    Cluster,
}

/// Whether we delete or only say what we would.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Delete.
    Enforce,
    /// Everything but the deleting.
    Observe,
}

/// Which tokens count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// Port numbers.
    pub port: bool,
    /// Register values.
    pub register: bool,
    /// IP addresses.
    pub ip: bool,
    /// Ethernet addresses.
    pub mac: bool,
}

/// A network's configuration with every default and preset applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Config {
    /// The bridge that has the pod's port; none: whichever has it.
    pub bridge: Option<String>,
    /// Bridges to look for flows on; empty: the port's own.
    pub bridges: Vec<String>,
    /// Tables in scope; none: all.
    pub tables: Option<Vec<u8>>,
    /// Cookie in scope.
    pub cookie: u64,
    /// Its mask; 0: every cookie.
    pub cookie_mask: u64,
    /// Where register values come from.
    pub reg0: Reg0,
    /// The register, 0 to 15.
    pub register: u8,
    /// The field within it.
    pub register_mask: u32,
    /// Which evidence counts.
    #[serde(rename = "match")]
    pub evidence: Evidence,
    /// The preset that was applied.
    pub preset: Option<String>,
    /// Where an address's owner may be. Older releases wrote `ipScope`.
    #[serde(alias = "ipScope")]
    pub address_scope: AddressScope,
    /// Delete, or watch.
    pub mode: Mode,
    /// Flush conntrack entries of dead IPs.
    pub conntrack: bool,
    /// Delete flows whose port does not exist.
    pub reap_dangling: bool,
    /// Remove an orphan's OVSDB port when its netdev is gone.
    pub reap_ports: bool,
    /// How long to keep looking after a DEL, in seconds.
    pub linger_seconds: u64,
    /// For everything one call does on the switch, in milliseconds.
    pub timeout_ms: u64,
    /// Where state lives.
    pub state_dir: PathBuf,
    /// Where OVS keeps its sockets; none: `OVS_RUNDIR` or the default.
    pub ovs_run_dir: Option<PathBuf>,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub log_level: String,
    /// Where to log; none: standard error.
    pub log_file: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            bridge: None,
            bridges: Vec::new(),
            tables: None,
            cookie: 0,
            cookie_mask: 0,
            reg0: Reg0::Learn,
            register: 0,
            register_mask: u32::MAX,
            evidence: Evidence { port: true, register: true, ip: true, mac: true },
            preset: None,
            address_scope: AddressScope::Node,
            mode: Mode::Enforce,
            conntrack: false,
            reap_dangling: false,
            reap_ports: false,
            linger_seconds: 30,
            timeout_ms: 5000,
            state_dir: STATE_DIR.into(),
            ovs_run_dir: None,
            log_level: "info".into(),
            log_file: None,
        }
    }
}

/// One fault in a configuration, naming the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key.
    pub key: String,
    /// What is wrong with it and what would be right.
    pub text: String,
}

impl Problem {
    /// Whether the key says what may be deleted: then nobody knows, and the default may be
    /// more.
    #[must_use]
    pub fn is_of_scope(&self) -> bool {
        parse::SCOPE.contains(&self.key.as_str())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "configuration key {:?}: {}", self.key, self.text)
    }
}

impl Config {
    /// Reads a plugin configuration. What cannot be read keeps its default and is in the
    /// list of problems.
    #[must_use]
    pub fn parse(conf: &Map<String, Value>) -> (Self, Vec<Problem>) {
        parse::parse(conf)
    }

    /// Keys of older releases that do nothing now, and lists without which nothing is deleted: to be
    /// warned of, never an error.
    #[must_use]
    pub fn warnings(conf: &Map<String, Value>) -> Vec<Problem> {
        parse::warnings(conf)
    }

    /// The bridges that it names.
    pub fn named_bridges(&self) -> impl Iterator<Item = &str> {
        self.bridges.iter().chain(&self.bridge).map(String::as_str)
    }

    /// `lingerSeconds`.
    #[must_use]
    pub fn linger(&self) -> Duration {
        Duration::from_secs(self.linger_seconds)
    }

    /// `timeoutMs`.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// The directory of OVS's sockets: configured, else [`run_dir`].
    #[must_use]
    pub fn ovs_run_dir(&self) -> PathBuf {
        self.ovs_run_dir.clone().unwrap_or_else(run_dir)
    }

    /// The register field and its source, as the core wants it. The facts are what the
    /// network's state remembers.
    #[must_use]
    pub fn register_rule(&self, distinct_seen: bool, shared_seen: bool) -> RegisterRule {
        let source = match self.reg0 {
            _ if !self.evidence.register => RegisterSource::None,
            Reg0::None => RegisterSource::None,
            Reg0::Learn => RegisterSource::Learn { distinct_seen, shared_seen },
            Reg0::Pod => RegisterSource::Pod,
            Reg0::Ipv4 => RegisterSource::Ipv4,
            Reg0::Ofport => RegisterSource::Ofport,
            Reg0::ExternalId(_) => RegisterSource::ExternalId,
        };
        RegisterRule { index: self.register, mask: self.register_mask, source }
    }
}

/// `$OVS_RUNDIR`, else [`OVS_RUN_DIR`].
#[must_use]
pub fn run_dir() -> PathBuf {
    said_run_dir().unwrap_or_else(|| PathBuf::from(OVS_RUN_DIR))
}

/// `$OVS_RUNDIR`, if it is set.
#[must_use]
pub fn said_run_dir() -> Option<PathBuf> {
    std::env::var_os("OVS_RUNDIR").filter(|dir| !dir.is_empty()).map(PathBuf::from)
}

/// `<rundir>/db.sock`.
#[must_use]
pub fn database_socket(run_dir: &Path) -> PathBuf {
    run_dir.join("db.sock")
}

/// `<rundir>/<bridge>.mgmt`; `None` for what is no bridge's name (ovs-vswitchd makes none with a
/// slash): whoever can write one into a record or into OVSDB must not choose whom we talk to.
#[must_use]
pub fn bridge_socket(run_dir: &Path, bridge: &str) -> Option<PathBuf> {
    let is_name = !bridge.is_empty() && !bridge.contains(['/', '\0']);
    is_name.then(|| run_dir.join(format!("{bridge}.mgmt")))
}

impl fmt::Display for Reg0 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Learn => f.write_str("learn"),
            Self::Pod => f.write_str("pod"),
            Self::Ipv4 => f.write_str("ipv4"),
            Self::Ofport => f.write_str("ofport"),
            Self::ExternalId(key) => write!(f, "externalId:{key}"),
            Self::None => f.write_str("none"),
        }
    }
}

impl FromStr for Reg0 {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "learn" => Self::Learn,
            "pod" => Self::Pod,
            "ipv4" => Self::Ipv4,
            "ofport" => Self::Ofport,
            "none" => Self::None,
            other => match other.strip_prefix("externalId:") {
                Some(key) if !key.is_empty() => Self::ExternalId(key.to_owned()),
                _ => {
                    return Err(format!(
                        "{other:?} is none of \"learn\", \"pod\", \"ipv4\", \"ofport\", \
                         \"externalId:KEY\", \"none\""
                    ));
                }
            },
        })
    }
}

/// What a network's `config.json` holds: the effective configuration and what was learned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NetworkState {
    /// As the last ADD had it.
    pub config: Config,
    /// What was learned of register values.
    #[serde(flatten)]
    pub register: RegisterFacts,
}

impl NetworkState {
    /// Takes a configuration in. What was learned of another register field says nothing of this
    /// one.
    pub fn configure(&mut self, config: Config) {
        let field = |config: &Config| (config.register, config.register_mask);
        if field(&self.config) != field(&config) {
            self.register = RegisterFacts::default();
        }
        self.config = config;
    }
}
