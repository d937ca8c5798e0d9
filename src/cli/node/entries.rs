//! Who will call us: configurations that name us, and pods whose runtime remembers one that did.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Error, PLUGIN_TYPE, below};
use crate::adopt::cached_config;
use crate::cli::conflist::{directory_of, io_error, is_loadable, paths};
use crate::model::attachment::ContainerId;
use crate::util::{json, regular_file};

/// Files of these directories that have an entry of ours at any depth (multus has lists within
/// its own), and also if they cannot be parsed. By the text, not by what an editor understands.
/// With them, those of a list's plugins that have files of their own (`NETWORK/*.conf`). Of the
/// directory around the file that is named, that file and what it takes in.
///
/// # Errors
/// A directory or file cannot be read, so it may name us.
pub(super) fn naming_us(
    directories: &[PathBuf],
    named: Option<&PathBuf>,
) -> Result<Vec<PathBuf>, Error> {
    let around = named.map(|file| directory_of(file));
    // X.conf became X.conflist.
    let list = named.map(|file| file.with_extension("conflist"));
    let is_named = |path: &Path| {
        named.into_iter().chain(&list).any(|file| file.file_name() == path.file_name())
    };
    let mut found = Vec::new();
    for directory in directories.iter().chain(&around) {
        let whole = directories.contains(directory);
        let (mut lists, mut inner) = (Vec::new(), Vec::new());
        for path in paths(directory)? {
            let loaded = whole && is_loadable(&path);
            if path.is_dir() {
                inner.push(path);
            } else if (loaded || around.as_ref() == Some(directory) && is_named(&path))
                && path.is_file()
            {
                let text = dense(&regular_file::read(&path).map_err(io_error(&path, "read it"))?);
                if has_entry(&text) {
                    found.push(path.clone());
                }
                if path.extension().is_some_and(|e| e == "conflist") {
                    lists.push(text);
                }
            }
        }
        inner.retain(|network| lists.iter().any(|list| takes_in(list, network)));
        for network in inner {
            let plugins = paths(&network)?.into_iter();
            let is_plugin = |p: &PathBuf| p.as_os_str().as_bytes().ends_with(b".conf");
            for path in plugins.filter(|p| is_plugin(p) && p.is_file()) {
                if has_entry(&regular_file::read(&path).map_err(io_error(&path, "read it"))?) {
                    found.push(path);
                }
            }
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// Whether a list has plugins in this directory, because it is named as the list's network.
fn takes_in(list: &[u8], directory: &Path) -> bool {
    let Some(network) = directory.file_name() else { return false };
    let has = |wanted: &[u8]| list.windows(wanted.len()).any(|w| w.eq_ignore_ascii_case(wanted));
    let name = [b"\"name\":\"", network.as_bytes(), b"\""].concat();
    let only_inlined = ["true", "\"true\""]
        .iter()
        .any(|yes| has(format!("\"loadOnlyInlinedPlugins\":{yes}").as_bytes()));
    has(&name) && !only_inlined
}

/// Where runtimes keep configurations that name us, and where it can be seen which of their
/// sandboxes live.
pub(super) struct Caches {
    /// The node's, under which the namespaces are.
    pub(super) root: PathBuf,
    /// libcni's (`results` in it) and multus's.
    pub(super) directory: PathBuf,
    pub(super) crio_socket: PathBuf,
    /// Where CRI-O has its sandboxes (`overlay-containers` in it).
    pub(super) crio_storage: PathBuf,
}

impl Caches {
    /// The pods that CRI-O and multus would call us for: they call DEL with the configuration that
    /// ADD had, from their caches. (containerd fills the same cache, but uses the current file.)
    pub(super) fn remembered(&self) -> Vec<String> {
        let crio = fs::metadata(&self.crio_socket).is_ok_and(|meta| meta.file_type().is_socket());
        let results = if crio { texts(&self.directory.join("results")) } else { Vec::new() };
        let names_us = |text: &[u8]| cached_config(text).is_some_and(|config| has_entry(&config));
        let cached = results.into_iter().filter(|(_, text)| names_us(text));
        let living = cached.filter_map(|(file, text)| {
            let cached = json::from_slice(&text).unwrap_or_default();
            (!self.is_over(&cached)).then(|| title(&cached).unwrap_or(file))
        });
        let multus = texts(&self.directory.join("multus")).into_iter();
        let multus = multus.filter(|(_, text)| has_entry(text)).map(|(file, _)| file);
        let mut all: Vec<String> = living.chain(multus).collect();
        all.sort();
        all
    }

    /// Whether neither the network namespace nor the sandbox is there any more: a cache keeps what
    /// no DEL took out. What cannot be seen from here is taken to be there.
    fn is_over(&self, cached: &Value) -> bool {
        let text = |key: &str| cached.get(key).and_then(Value::as_str).filter(|t| !t.is_empty());
        let id = text("containerId").and_then(|id| id.parse::<ContainerId>().ok());
        let interfaces = cached.pointer("/result/interfaces").and_then(Value::as_array);
        let mut sandboxes = interfaces.into_iter().flatten().filter_map(|i| i.get("sandbox"));
        let sandbox = || sandboxes.find_map(Value::as_str).filter(|path| !path.is_empty());
        let netns = text("netns").or_else(sandbox);
        let Some((id, netns)) = id.zip(netns) else { return false };
        is_gone(&self.root, Path::new(netns)) && self.has_no_sandbox(id.as_str())
    }

    fn has_no_sandbox(&self, id: &str) -> bool {
        let Ok(entries) = fs::read_dir(&self.crio_storage) else { return false };
        let drivers: Vec<PathBuf> = entries
            .flatten()
            .filter(|entry| entry.file_name().as_bytes().ends_with(b"-containers"))
            .map(|entry| entry.path())
            .collect();
        let gone = |path: PathBuf| matches!(path.try_exists(), Ok(false));
        !drivers.is_empty() && drivers.iter().all(|driver| gone(driver.join(id)))
    }
}

/// Whether a namespace's file is not in its directory. A container has the directory as /run/netns.
fn is_gone(root: &Path, netns: &Path) -> bool {
    let run = netns.strip_prefix("/var/run").map(|rest| Path::new("/run").join(rest));
    let paths = [Some(netns.to_owned()), run.ok()].into_iter().flatten();
    let paths = paths.filter(|path| path.is_absolute()).map(|path| below(root, &path));
    let mut paths = paths.filter(|p| p.parent().is_some_and(Path::is_dir));
    let mut seen = false;
    let gone = paths.all(|path| {
        seen = true;
        matches!(path.try_exists(), Ok(false))
    });
    seen && gone
}

/// The pod's name, else its container's.
fn title(cached: &Value) -> Option<String> {
    let args = cached.get("cniArgs").and_then(Value::as_array);
    let arg = |name: &str| {
        let mut pairs = args.into_iter().flatten();
        let pair = pairs.find(|pair| pair.get(0).and_then(Value::as_str) == Some(name));
        pair.and_then(|pair| pair.get(1)).and_then(Value::as_str)
    };
    let container = cached.get("containerId").and_then(Value::as_str);
    match (arg("K8S_POD_NAMESPACE"), arg("K8S_POD_NAME")) {
        (Some(namespace), Some(name)) => Some(format!("{namespace}/{name}")),
        _ => container.map(|id| format!("container {id}")),
    }
}

/// Every file of a directory that can be read, with its name; none if it is not there.
fn texts(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let text = |entry: fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        regular_file::read(&entry.path()).ok().map(|text| (name, text))
    };
    entries.flatten().filter_map(text).collect()
}

fn dense(text: &[u8]) -> Vec<u8> {
    text.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect()
}

/// Whether JSON has an entry of ours, however it is laid out.
fn has_entry(text: &[u8]) -> bool {
    let wanted = format!("\"type\":\"{PLUGIN_TYPE}\"");
    dense(text).windows(wanted.len()).any(|window| window == wanted.as_bytes())
}

/// Fuzz body ([`crate::fuzzing`]): a configuration, or an entry of libcni's cache.
#[cfg(feature = "fuzzing")]
#[expect(clippy::panic, reason = "a broken promise is told by panicking")]
pub(in crate::cli) fn fuzz(data: &[u8]) -> bool {
    let named = has_entry(data);
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(seen) = super::super::conflist::inspect(text)
    {
        // A file that may still call us is never overlooked. (No file has the type with escapes.)
        let overlooked = seen.ours.is_some() && !named && !text.contains('\\');
        assert!(!overlooked, "{text}");
    }
    match cached_config(data) {
        Some(config) => {
            if config.len() > data.len() {
                panic!("{} bytes of base64 are {}", data.len(), config.len());
            }
            has_entry(&config);
            true
        }
        None => named,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_found_in_any_layout_and_only_as_a_type() {
        assert!(has_entry(b"{\"plugins\": [{\n \"type\" :\t\"ovs-flow-gc\"}]}"));
        assert!(!has_entry(br#"{"name": "ovs-flow-gc", "type": "ovs-flow-gcd"}"#));
    }
}
