//! The DEL calls that a dead pod's runtime never made, built from what libcni cached at the
//! pod's ADD. Pure but for its parts: `caches` reads cached results and judges their pods, `call`
//! runs a plugin, `run` puts them together, and `gc` calls GC afterwards, if each namespace that
//! `living` sees is a known pod's.
//!
//! The calls are those of libcni's `DelNetworkList` and `DelNetwork` (containernetworking/cni
//! libcni/api.go), with two differences:
//! - `CNI_NETNS` is always empty. The pod's namespace is gone, and its path may be another pod's
//!   by now.
//! - What libcni would repair or convert is refused: a result that is missing or of another
//!   version than the configuration.
//!
//! Plugins that libcni 1.3 loads from a directory of the network are not in the cached
//! configuration: see [`Delivery::inlined_only`].

mod caches;
mod call;
mod gc;
mod leftovers;
mod living;
mod rows;
mod run;
mod told;

#[cfg(test)]
mod tests;

pub(crate) use gc::{Collected, Conflist, Gc};
pub(crate) use leftovers::Leftovers;
pub(crate) use run::{Concern, Deliverables, Error, Run};
pub(crate) use told::VERB as JOURNAL_VERB;

use serde_json::{Map, Value};

use crate::adopt::{CachedAttachment, parse_cached};
use crate::model::attachment::Key;
use crate::util::base64;

/// Plugins in one chain, at most.
const MOST_PLUGINS: usize = 64;

/// From this version on plugins get the result of ADD at DEL.
const RESULT_SINCE: (u32, u32, u32) = (0, 4, 0);

/// What one dead attachment's chain is to be told.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// Whose DEL.
    pub key: Key,
    /// The calls, in the order in which they are made: the last plugin of the chain is first.
    pub calls: Vec<Call>,
    /// The cached configuration holds all plugins of the chain. If not, the runtime may have
    /// loaded more from the network's directory beside its configuration.
    pub inlined_only: bool,
    args: String,
}

/// One plugin's DEL.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// The file to run, a name without a slash: to be looked for in `CNI_PATH` only.
    pub plugin: String,
    /// What it reads from standard input.
    pub stdin: String,
}

impl Delivery {
    /// Of one cached result with this file name.
    ///
    /// # Errors
    /// Why libcni would not have made these calls, or we do not know that it would have.
    pub fn of_cached(file_name: &str, text: &str) -> Result<Self, String> {
        let cached = parse_cached(text)?;
        if file_name != cached.key.cached_name() {
            return Err(format!("it is about {}, and its file name is not", cached.key));
        }
        let args: Vec<_> =
            cached.args.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let args = args.join(";");
        if args.contains('\0') {
            return Err("its CNI_ARGS hold a zero byte".to_owned());
        }
        let chain = Chain::of(&cached)?;
        let calls = chain.plugins.iter().rev().map(|plugin| chain.call(plugin, &cached));
        let calls = calls.collect::<Result<_, _>>()?;
        Ok(Self { key: cached.key.clone(), calls, inlined_only: chain.inlined_only, args })
    }

    /// The variables that libcni sets for each plugin; the rest of the environment is the
    /// caller's own.
    #[must_use]
    pub fn environment<'a>(&'a self, cni_path: &'a str) -> [(&'static str, &'a str); 6] {
        [
            ("CNI_COMMAND", "DEL"),
            ("CNI_CONTAINERID", self.key.container.as_str()),
            ("CNI_NETNS", ""),
            ("CNI_ARGS", &self.args),
            ("CNI_IFNAME", self.key.ifname.as_str()),
            ("CNI_PATH", cni_path),
        ]
    }
}

/// A cached configuration.
struct Chain {
    version: String,
    plugins: Vec<Map<String, Value>>,
    inlined_only: bool,
    /// Plugins get the result of ADD.
    with_result: bool,
}

impl Chain {
    fn of(cached: &CachedAttachment) -> Result<Self, String> {
        let config = cached.config.as_deref().filter(|text| !text.is_empty());
        let config = config.ok_or("it has no configuration")?;
        let config = base64::decode(config).ok_or("its configuration is not base64")?;
        let config: Map<String, Value> = serde_json::from_slice(&config)
            .map_err(|e| format!("its configuration is no JSON object: {e}"))?;
        if config.get("name").and_then(Value::as_str) != Some(cached.key.network.as_str()) {
            return Err("its configuration is another network's".to_owned());
        }
        let version = version_of(&config, &cached.result)?;
        let with_result = number(&version)? >= RESULT_SINCE;
        let of_result = cached.result.get("cniVersion").and_then(Value::as_str);
        if with_result && of_result != Some(version.as_str()) {
            return Err(format!("its result is not of cniVersion {version}"));
        }
        // libcni's AddNetwork caches the configuration of its only plugin.
        let single = !config.contains_key("plugins");
        let inlined_only = single || is_true(config.get("loadOnlyInlinedPlugins"));
        let plugins = if single { vec![config] } else { plugins_of(config)? };
        Ok(Self { version, plugins, inlined_only, with_result })
    }

    /// The call of one plugin: its own configuration with the network's name and version, the
    /// result, and those of the runtime's arguments that it declares.
    fn call(&self, plugin: &Map<String, Value>, cached: &CachedAttachment) -> Result<Call, String> {
        let name = plugin_type(plugin)?.to_owned();
        let mut stdin = plugin.clone();
        stdin.insert("name".to_owned(), cached.key.network.as_str().into());
        stdin.insert("cniVersion".to_owned(), self.version.as_str().into());
        if self.with_result {
            stdin.insert("prevResult".to_owned(), cached.result.clone());
        }
        let declared = match plugin.get("capabilities") {
            None | Some(Value::Null) => None,
            Some(Value::Object(declared)) => Some(declared),
            Some(_) => return Err(format!("the capabilities of {name} are no JSON object")),
        };
        let passed: Map<String, Value> = declared
            .into_iter()
            .flatten()
            .filter(|(_, supported)| **supported == Value::Bool(true))
            .filter_map(|(key, _)| cached.capability_args.get_key_value(key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if !passed.is_empty() {
            stdin.insert("runtimeConfig".to_owned(), passed.into());
        }
        Ok(Call { plugin: name, stdin: Value::Object(stdin).to_string() })
    }
}

fn plugins_of(mut list: Map<String, Value>) -> Result<Vec<Map<String, Value>>, String> {
    let plugins = match list.remove("plugins") {
        Some(Value::Array(plugins)) if (1..=MOST_PLUGINS).contains(&plugins.len()) => plugins,
        _ => return Err(format!("its configuration has no list of 1 to {MOST_PLUGINS} plugins")),
    };
    let plugins = plugins.into_iter().map(|plugin| match plugin {
        Value::Object(plugin) => Ok(plugin),
        _ => Err("a plugin of its configuration is no JSON object".to_owned()),
    });
    plugins.collect()
}

/// The version that ADD was called with. Where the configuration offers several, libcni takes
/// the highest that it knows: the result says which.
fn version_of(config: &Map<String, Value>, result: &Value) -> Result<String, String> {
    let mut offered = Vec::new();
    match config.get("cniVersions") {
        None => {}
        Some(Value::Array(several)) => offered.extend(several.iter()),
        Some(_) => return Err("the \"cniVersions\" of its configuration are no list".to_owned()),
    }
    offered.extend(config.get("cniVersion"));
    match (offered.as_slice(), result.get("cniVersion")) {
        ([], _) => Ok(String::new()),
        ([Value::String(only)], _) => Ok(only.clone()),
        (several, Some(Value::String(answered)))
            if several.iter().any(|v| v.as_str() == Some(answered)) =>
        {
            Ok(answered.clone())
        }
        _ => Err("the cniVersion of its ADD is not known".to_owned()),
    }
}

/// A version's parts. Without one libcni takes 0.1.0.
fn number(version: &str) -> Result<(u32, u32, u32), String> {
    let wrong = || format!("its configuration has cniVersion {version:?}");
    let text = if version.is_empty() { "0.1.0" } else { version };
    let mut parts = text.split('.').map(|part| part.parse().map_err(|_| wrong()));
    let mut part = || parts.next().unwrap_or(Ok(0));
    let number = (part()?, part()?, part()?);
    if parts.next().is_some() { Err(wrong()) } else { Ok(number) }
}

/// The file of a plugin.
fn plugin_type(plugin: &Map<String, Value>) -> Result<&str, String> {
    // Go takes a member for a field whose name differs only in its case.
    let doubtful = |key: &&String| {
        ["type", "capabilities"]
            .iter()
            .any(|name| key.as_str() != *name && key.eq_ignore_ascii_case(name))
    };
    if let Some(key) = plugin.keys().find(doubtful) {
        return Err(format!("a plugin of its configuration has a member {key:?}"));
    }
    let name = plugin.get("type").and_then(Value::as_str).unwrap_or_default();
    if matches!(name, "" | "." | "..") || name.len() > 255 || name.contains(['/', '\0']) {
        let start: String = name.chars().take(80).collect();
        return Err(format!("a plugin of its configuration has the type {start:?}"));
    }
    Ok(name)
}

/// A flag of a configuration list; libcni also takes the word.
fn is_true(flag: Option<&Value>) -> bool {
    match flag {
        Some(Value::Bool(flag)) => *flag,
        Some(Value::String(word)) => word.eq_ignore_ascii_case("true"),
        _ => false,
    }
}
