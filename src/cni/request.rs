//! One call: the `CNI_*` environment and the configuration on standard input.

use std::cell::Cell;
use std::ffi::OsString;

use rscni_types::error::Error as Cni;
use rscni_types::types::Cmd;
use rscni_types::version::SpecVersion;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::Failure;
use crate::config::{Config, Mode, Problem};
use crate::model::attachment::{ContainerId, IfName, Key, NetworkName, Pod};
use crate::reconcile::Outcome;
use crate::store::CallCounts;
use crate::util::json;

/// The versions we speak. 0.3.0 differs from 0.3.1 in nothing that concerns us, and some
/// OVS CNIs still ship it.
pub const SUPPORTED: [SpecVersion; 5] = [
    SpecVersion::new(0, 3, 0),
    SpecVersion::new(0, 3, 1),
    SpecVersion::new(0, 4, 0),
    SpecVersion::new(1, 0, 0),
    SpecVersion::new(1, 1, 0),
];

/// A checked request.
#[derive(Debug)]
pub struct Request {
    /// The verb.
    pub command: Cmd,
    /// The configuration's `cniVersion`.
    pub version: SpecVersion,
    /// The configuration's `name`.
    pub network: NetworkName,
    /// `CNI_CONTAINERID`; only GC and STATUS come without.
    pub container: Option<ContainerId>,
    /// `CNI_IFNAME`, likewise.
    pub ifname: Option<IfName>,
    /// `CNI_NETNS`; may be empty on DEL.
    pub netns: Option<String>,
    /// From `CNI_ARGS`.
    pub pod: Option<Pod>,
    /// ADD's `prevResult`, to the byte.
    pub prev_result: Option<Box<RawValue>>,
    /// Our configuration.
    pub config: Config,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
    /// Everything else of the configuration (GC's lists).
    pub conf: Map<String, Value>,
    /// What the call has done so far, to be counted.
    pub did: Cell<CallCounts>,
}

/// `prevResult` must leave as it came, number spelling and unknown keys included.
#[derive(Deserialize)]
struct Raw {
    #[serde(rename = "prevResult", default)]
    prev_result: Option<Box<RawValue>>,
}

/// Reads variables, collecting the names of those that are missing.
struct Environment<F> {
    get: F,
    missing: Vec<&'static str>,
}

impl<F: Fn(&str) -> Option<OsString>> Environment<F> {
    fn optional(&self, name: &'static str) -> Result<Option<String>, Failure> {
        match (self.get)(name).map(OsString::into_string) {
            None => Ok(None),
            Some(Ok(text)) if text.is_empty() => Ok(None),
            Some(Ok(text)) if text.len() > 4096 => {
                Err(Failure::Cni(Cni::InvalidEnvValue(format!("{name} has over 4096 bytes"))))
            }
            Some(Ok(text)) => Ok(Some(text)),
            Some(Err(_)) => Err(Failure::Cni(Cni::InvalidEnvValue(format!("{name} is not UTF-8")))),
        }
    }

    fn required(&mut self, name: &'static str) -> Result<Option<String>, Failure> {
        let value = self.optional(name)?;
        if value.is_none() {
            self.missing.push(name);
        }
        Ok(value)
    }
}

/// What the environment says of a call.
struct Variables {
    container: Option<ContainerId>,
    ifname: Option<IfName>,
    netns: Option<String>,
    pod: Option<Pod>,
}

impl Variables {
    /// Reads what the verb needs, and what it can use.
    fn read(command: Cmd, get: impl Fn(&str) -> Option<OsString>) -> Result<Self, Failure> {
        let mut env = Environment { get, missing: Vec::new() };
        let (mut container, mut ifname, mut netns) = (None, None, None);
        match command {
            Cmd::Add | Cmd::Check => {
                container = env.required("CNI_CONTAINERID")?;
                netns = env.required("CNI_NETNS")?;
                ifname = env.required("CNI_IFNAME")?;
            }
            Cmd::Del => {
                container = env.required("CNI_CONTAINERID")?;
                // What DEL can do without must not fail it.
                netns = env.optional("CNI_NETNS").unwrap_or_default();
                ifname = env.required("CNI_IFNAME")?;
            }
            Cmd::Gc | Cmd::Status | Cmd::Version => {}
        }
        if !env.missing.is_empty() {
            return Err(Failure::Cni(Cni::missing_env(&env.missing)));
        }
        let args = match (env.optional("CNI_ARGS"), command) {
            (Err(bad), Cmd::Add) => return Err(bad),
            (args, _) => args.unwrap_or_default(),
        };
        Ok(Self {
            container: container.map(|c| c.parse()).transpose()?,
            ifname: ifname.map(|i| i.parse()).transpose()?,
            netns,
            pod: args.as_deref().and_then(pod_of),
        })
    }
}

impl Request {
    /// What a clean-up of the call has done.
    pub(super) fn note(&self, outcome: &Outcome) {
        let deleted = outcome.bridges.iter().map(|bridge| bridge.counts.deleted).sum();
        let unfinished = u64::from(outcome.error().is_some());
        self.did.set(CallCounts { deleted, unfinished, ..CallCounts::default() });
    }

    /// For the counters: all is left to the next sweep.
    pub(super) fn note_unfinished(&self) {
        self.did.set(CallCounts { unfinished: 1, ..CallCounts::default() });
    }

    /// Checks the configuration and the environment.
    ///
    /// # Errors
    /// With the version the error is to be reported under: code 6 for what is not JSON, 1
    /// for an unknown version, 7 for a bad network name, 4 for the environment.
    pub fn read(
        command: Cmd,
        stdin: &[u8],
        get: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, (SpecVersion, Failure)> {
        let conf = object(stdin).map_err(|f| (SpecVersion::CURRENT, f))?;
        let version = spec_version(&conf).map_err(|f| (SpecVersion::CURRENT, f))?;
        Self::checked(command, version, conf, stdin, get).map_err(|f| (version, f))
    }

    fn checked(
        command: Cmd,
        version: SpecVersion,
        conf: Map<String, Value>,
        stdin: &[u8],
        get: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, Failure> {
        allow(command, version)?;
        let prev_result = prev_result(command, stdin)?;
        let network = network_name(&conf)?;
        let Variables { container, ifname, netns, pod } = Variables::read(command, get)?;
        let (config, problems) = Config::parse(&conf);
        Ok(Self {
            command,
            version,
            network,
            container,
            ifname,
            netns,
            pod,
            prev_result,
            config,
            problems,
            conf,
            did: Cell::default(),
        })
    }

    /// The configuration that a clean-up goes by in place of the recorded one. One that has
    /// problems does not win over what an ADD had, and deletes nothing if the scope is one of
    /// them and nothing is recorded.
    #[must_use]
    pub fn overlay(&self, is_recorded: bool) -> Option<(NetworkName, Config)> {
        if !self.problems.is_empty() && is_recorded {
            return None;
        }
        let mut config = self.config.clone();
        if self.problems.iter().any(Problem::is_of_scope) {
            config.mode = Mode::Observe;
        }
        Some((self.network.clone(), config))
    }

    /// The attachment's key.
    ///
    /// # Errors
    /// Never for ADD, DEL and CHECK: their environment was checked.
    pub fn key(&self) -> Result<Key, Failure> {
        match (&self.container, &self.ifname) {
            (Some(container), Some(ifname)) => Ok(Key {
                network: self.network.clone(),
                container: container.clone(),
                ifname: ifname.clone(),
            }),
            _ => Err(Failure::bug("asked for the key of a verb without one")),
        }
    }
}

fn invalid(text: &str) -> Failure {
    Failure::Cni(Cni::InvalidNetworkConfig(text.to_owned()))
}

fn decode(error: &serde_json::Error) -> Failure {
    Failure::Cni(Cni::FailedToDecode(format!("the configuration on standard input: {error}")))
}

fn object(stdin: &[u8]) -> Result<Map<String, Value>, Failure> {
    match json::from_slice(stdin).map_err(|e| decode(&e))? {
        Value::Object(map) => Ok(map),
        _ => Err(Failure::Cni(Cni::FailedToDecode(
            "the configuration on standard input is not a JSON object".to_owned(),
        ))),
    }
}

fn spec_version(conf: &Map<String, Value>) -> Result<SpecVersion, Failure> {
    let incompatible = |what: String| {
        let known: Vec<_> = SUPPORTED.iter().map(ToString::to_string).collect();
        Failure::Cni(Cni::IncompatibleVersion(format!(
            "{what}; supported are {}",
            known.join(", ")
        )))
    };
    let text = match conf.get("cniVersion") {
        Some(Value::String(text)) => text,
        Some(_) => return Err(invalid("\"cniVersion\" is not a string")),
        None => return Err(incompatible("\"cniVersion\" is missing".to_owned())),
    };
    let wrong =
        || incompatible(format!("cniVersion {:?}", text.chars().take(40).collect::<String>()));
    SUPPORTED.into_iter().find(|v| v.to_string() == *text).ok_or_else(wrong)
}

fn allow(command: Cmd, version: SpecVersion) -> Result<(), Failure> {
    version.allows(command).map_err(|_| {
        let verb: &str = command.into();
        let since = if command == Cmd::Check { "0.4.0" } else { "1.1.0" };
        Failure::Cni(Cni::IncompatibleVersion(format!(
            "{verb} came with cniVersion {since}, and the configuration says {version}"
        )))
    })
}

/// ADD's `prevResult`. No other verb reads it.
fn prev_result(command: Cmd, stdin: &[u8]) -> Result<Option<Box<RawValue>>, Failure> {
    if command != Cmd::Add {
        return Ok(None);
    }
    let raw: Raw = json::from_slice(stdin).map_err(|e| decode(&e))?;
    Ok(raw.prev_result.filter(|raw| raw.get() != "null"))
}

fn network_name(conf: &Map<String, Value>) -> Result<NetworkName, Failure> {
    match conf.get("name") {
        Some(Value::String(name)) => Ok(name.parse()?),
        Some(_) => Err(invalid("\"name\" is not a string")),
        None => Err(invalid("\"name\" is missing")),
    }
}

/// `K8S_POD_NAMESPACE=…;K8S_POD_NAME=…;K8S_POD_UID=…`. Other runtimes send other things or
/// nothing: what is not there is not known.
fn pod_of(args: &str) -> Option<Pod> {
    let mut pod = Pod::default();
    for pair in args.split(';') {
        let Some((key, value)) = pair.split_once('=') else { continue };
        let value = || value.chars().filter(|c| !c.is_control()).take(253).collect();
        match key {
            "K8S_POD_NAMESPACE" => pod.namespace = value(),
            "K8S_POD_NAME" => pod.name = value(),
            "K8S_POD_UID" => pod.uid = value(),
            _ => {}
        }
    }
    (!pod.name.is_empty()).then_some(pod)
}
