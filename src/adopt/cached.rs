//! libcni's cached results: `/var/lib/cni/results/<network>-<containerID>-<ifname>`
//! (containernetworking/cni libcni/api.go, `cachedInfo`). There the runtime has one of multus
//! itself. Those of the networks that multus calls are in multus' directory beside it,
//! `/var/lib/cni/multus/results`.

use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::Pending;
use crate::model::attachment::{Key, Pod};
use crate::util::{base64, json, regular_file};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cached {
    kind: String,
    container_id: String,
    if_name: String,
    network_name: String,
    /// Since libcni 1.2.
    netns: Option<String>,
    cni_args: Option<Vec<(String, String)>>,
    capability_args: Option<Map<String, Value>>,
    config: Option<String>,
    #[serde(default)]
    result: Value,
}

/// One cached result: what libcni wrote down at the ADD of one attachment.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CachedAttachment {
    /// Whose.
    pub key: Key,
    /// The network's configuration, in base64.
    pub config: Option<String>,
    /// `CNI_ARGS`, in their order.
    pub args: Vec<(String, String)>,
    /// What the runtime passes to plugins that declare a capability.
    pub capability_args: Map<String, Value>,
    /// The path of the network namespace; no version of libcni before 1.2 has it.
    pub netns: Option<String>,
    /// What the last plugin of the chain answered.
    pub result: Value,
}

impl CachedAttachment {
    /// A value of its `CNI_ARGS`; empty if it has none.
    pub(crate) fn arg(&self, name: &str) -> &str {
        let found = self.args.iter().find(|(key, _)| key == name);
        found.map_or("", |(_, value)| value.as_str())
    }
}

/// Where multus has the results of what it calls, if the runtime has its own in `dir`
/// (multus-cni, `cniDir` and libcni's `CacheDir`).
pub(crate) fn of_multus(dir: &Path) -> PathBuf {
    dir.with_file_name("multus").join("results")
}

/// The configurations that multus' networks had at the ADDs of the pods that run.
pub(crate) fn configs_of_multus(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(of_multus(dir)) else { return Vec::new() };
    let config =
        |path: PathBuf| String::from_utf8(cached_config(&regular_file::read(&path).ok()?)?).ok();
    entries.flatten().filter_map(|entry| config(entry.path())).collect()
}

/// The configuration in a cached result (a `[]byte` of Go).
pub(crate) fn cached_config(text: &[u8]) -> Option<Vec<u8>> {
    #[derive(Deserialize)]
    struct Cached {
        config: String,
    }
    base64::decode(&json::from_slice::<Cached>(text).ok()?.config)
}

/// The texts in a directory of cached results, or why one cannot be read. A zero-byte file is what a
/// reboot can leave (cni #1055): empty is absent.
pub(crate) fn texts(dir: &Path) -> Vec<(PathBuf, Result<String, String>)> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let texts = entries.map(|entry| {
        let text = text(&entry.path());
        (entry.path(), text.map_err(|e| e.to_string()))
    });
    texts.filter(|(_, text)| text.as_deref() != Ok("")).collect()
}

/// The text of one cached result.
pub(crate) fn text(path: &Path) -> io::Result<String> {
    String::from_utf8(regular_file::read(path)?).map_err(io::Error::other)
}

/// Reads what can be read.
pub(super) fn read(dir: &Path, skipped: &mut Vec<String>) -> Vec<Pending> {
    let mut found = Vec::new();
    for (path, text) in texts(dir) {
        match text.and_then(|text| parse(&text)) {
            Ok(pending) => found.push(pending),
            Err(why) => skipped.push(format!("{}: {why}", path.display())),
        }
    }
    found
}

/// Reads one cached result. The names in it are safe in file names.
pub(crate) fn parse_cached(text: &str) -> Result<CachedAttachment, String> {
    let cached: Cached = serde_json::from_str(text).map_err(|e| e.to_string())?;
    if cached.kind != "cniCacheV1" {
        return Err(format!("its kind is {:?}, not \"cniCacheV1\"", cached.kind));
    }
    let key = Key {
        network: cached.network_name.parse().map_err(|e| format!("{e}"))?,
        container: cached.container_id.parse().map_err(|e| format!("{e}"))?,
        ifname: cached.if_name.parse().map_err(|e| format!("{e}"))?,
    };
    Ok(CachedAttachment {
        key,
        config: cached.config,
        args: cached.cni_args.unwrap_or_default(),
        capability_args: cached.capability_args.unwrap_or_default(),
        netns: cached.netns,
        result: cached.result,
    })
}

fn parse(text: &str) -> Result<Pending, String> {
    let cached = parse_cached(text)?;
    let arg = |name| cached.arg(name).to_owned();
    let pod = Pod {
        namespace: arg("K8S_POD_NAMESPACE"),
        name: arg("K8S_POD_NAME"),
        uid: arg("K8S_POD_UID"),
    };
    let key = cached.key;
    let sandbox = cached.result.get("interfaces").and_then(Value::as_array).and_then(|list| {
        list.iter().find(|i| i.get("name").and_then(Value::as_str) == Some(key.ifname.as_str()))
    });
    let sandbox = sandbox.and_then(|i| i.get("sandbox")).and_then(Value::as_str);
    let netns = cached.netns.or_else(|| sandbox.map(str::to_owned)).filter(|n| !n.is_empty());
    Ok(Pending { key, pod: (!pod.name.is_empty()).then_some(pod), netns, result: cached.result })
}

/// Fuzz body ([`crate::fuzzing`]): one cached result.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(text: &str) -> bool {
    let Ok(pending) = parse(text) else { return false };
    crate::store::fuzzing::stays_inside(&pending.key);
    assert!(pending.pod.is_none_or(|pod| !pod.name.is_empty()));
    assert!(pending.netns.as_deref() != Some(""));
    let own = crate::cni::own_of_result(&pending.result, "", pending.key.ifname.as_str());
    let usable = |ip| !crate::model::flow::Address::Ip(ip).is_unusable();
    assert!(own.ips.into_iter().all(usable));
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifo_is_skipped_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("net-c1-eth0");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        let mut skipped = Vec::new();
        assert!(read(dir.path(), &mut skipped).is_empty());
        assert!(skipped[0].ends_with("net-c1-eth0: no regular file"), "{skipped:?}");
    }
}
