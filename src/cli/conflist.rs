//! `conflist add FILE` / `remove FILE`: puts `{"type": "ovs-flow-gc"}` right after the OVS
//! plugin of a CNI network configuration, or takes it out. `-` instead of a file: from standard
//! input to standard output.
//!
//! The text is edited, not re-serialised: what is not ours stays byte for byte as it was
//! (key order, number spelling, blank lines, CRLF), and `remove` after `add` gives the very
//! same file. No version is raised and no other plugin is touched.
//!
//! | file | job |
//! | --- | --- |
//! | `document` | where the plugins are in the text |
//! | `edit` | text in, text out |
//! | `single` | a single `.conf` as a list |
//! | `file` | the same on disk: temporary file, rename, `.conf` ↔ `.conflist` |
//! | `stream` | the same on standard input and output |
//! | `directory` | which file of `/etc/cni/net.d` is the one |
//! | `drop_in` | plugins of a list that have files of their own |

mod directory;
mod document;
mod drop_in;
mod edit;
mod error;
mod file;
mod single;
mod stream;

pub use directory::{Candidate, candidates, find_ours, find_ovs, inspect_file};
pub(super) use directory::{is_loadable, paths};
pub use edit::{Edit, add_text, remove_text};
pub use error::{Error, FileError};
pub use file::{Change, Outcome, add_file, check_file, remove_file};
pub(super) use file::{directory_of, io_error, lock_directory, read};
pub use stream::{STREAM, add_stream, remove_stream};

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};

use document::{Body, Document};

/// Our `type` in a plugin list: the name of the binary.
pub const PLUGIN_TYPE: &str = "ovs-flow-gc";

/// The versions in which the runtime may call us. An entry in a list of another version would
/// fail every ADD of the node, so `add` refuses such a list. 0.3.0 is what Antrea ships; its
/// results have the form of 0.3.1.
pub const CNI_VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Plugins that attach a pod to Open vSwitch, each with the preset of its network.
const OVS_PLUGINS: [(&str, Option<&str>); 9] = [
    ("ovs", Some("ovs-cni")),
    ("ovs-cni", Some("ovs-cni")),
    ("antrea", Some("antrea")),
    ("openshift-sdn", Some("openshift-sdn")),
    ("ovn-k8s-cni-overlay", Some("ovn")),
    ("kube-ovn", Some("ovn")),
    ("k-vswitch-cni", Some("k-vswitch")),
    ("k-vswitch", Some("k-vswitch")),
    ("ovs-dpdk", None),
];

/// What `add` is asked for.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The `type` of the plugin to stand behind; `None` looks for a known OVS plugin.
    pub after: Option<String>,
    /// Settings beside `type`.
    pub entry: Entry,
    /// In a file of its own, which who writes the list anew leaves alone.
    pub own_file: bool,
}

/// Settings of our plugin, without `type`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Entry(pub Map<String, Value>);

impl Entry {
    /// As it is asked for on a command line.
    pub(super) fn option(&self) -> String {
        if self.0.is_empty() {
            return String::new();
        }
        let settings = Value::Object(self.0.clone()).to_string();
        format!(" --settings '{}'", settings.replace('\'', r"'\''"))
    }
}

/// What a network configuration says, as far as we are concerned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// The network.
    pub name: Option<String>,
    /// `cniVersion` as written.
    pub cni_version: Option<String>,
    /// False for a single plugin (`.conf`).
    pub list: bool,
    /// The `type` of each plugin, in order.
    pub plugins: Vec<String>,
    /// The first entry of ours.
    pub ours: Option<usize>,
    /// The OVS plugin.
    pub ovs: Option<usize>,
    /// Where the last of the plugins are, if they have files of their own.
    pub drop_ins: Vec<PathBuf>,
}

impl Inspection {
    /// The OVS plugin's type and the preset of its network, if there is one.
    pub fn preset(&self) -> Option<(&str, &'static str)> {
        let kind = self.plugins.get(self.ovs?)?;
        let (_, preset) = OVS_PLUGINS.iter().find(|(known, _)| known == kind)?;
        Some((kind, (*preset)?))
    }

    /// The file that has our entry: the list, or one of its own.
    pub fn entry_file<'a>(&'a self, list: &'a Path) -> &'a Path {
        let inlined = self.plugins.len().saturating_sub(self.drop_ins.len());
        let drop_in = self.ours.and_then(|ours| self.drop_ins.get(ours.checked_sub(inlined)?));
        drop_in.map_or(list, PathBuf::as_path)
    }
}

/// Reads the text of a configuration, without plugins that have files of their own.
///
/// # Errors
/// The text is not a network configuration.
pub fn inspect(text: &str) -> Result<Inspection, Error> {
    Document::parse(text).map(|document| inspection(document, Vec::new()))
}

fn inspection(document: Document<'_>, drop_ins: Vec<drop_in::DropIn>) -> Inspection {
    let own = drop_ins.iter().map(|drop_in| &drop_in.plugin);
    let plugins: Vec<String> = document.plugins().chain(own).map(|p| p.kind.clone()).collect();
    Inspection {
        ours: plugins.iter().position(|p| p == PLUGIN_TYPE),
        ovs: ovs_plugin(&plugins),
        list: matches!(document.body, Body::List { .. }),
        name: document.name,
        cni_version: document.cni_version,
        plugins,
        drop_ins: drop_ins.into_iter().map(|drop_in| drop_in.path).collect(),
    }
}

/// The OVS plugin among these types: a known one, else one whose name says so. Known
/// plugins come first because a helper (`ovs-mirror-producer`) stands after the plugin it helps.
fn ovs_plugin(types: &[String]) -> Option<usize> {
    let known = |t: &String| OVS_PLUGINS.iter().any(|(known, _)| known == t);
    let looks =
        |t: &String| t != PLUGIN_TYPE && ["ovs", "ovn", "vswitch"].iter().any(|w| t.contains(w));
    types.iter().position(known).or_else(|| types.iter().position(looks))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(list: &[&str]) -> Vec<String> {
        list.iter().map(|t| (*t).to_owned()).collect()
    }

    #[test]
    fn a_known_plugin_wins_over_one_that_only_sounds_like_it() {
        assert_eq!(ovs_plugin(&types(&["ovs-mirror-producer", "ovs", "portmap"])), Some(1));
        assert_eq!(ovs_plugin(&types(&["tuning", "my-ovs-plugin"])), Some(1));
        assert_eq!(ovs_plugin(&types(&["bridge", "portmap", PLUGIN_TYPE])), None);
    }

    #[test]
    fn presets_of_plugins_are_presets() {
        for (kind, preset) in OVS_PLUGINS {
            let text = format!(r#"{{"name":"n","plugins":[{{"type":"{kind}"}}]}}"#);
            assert_eq!(inspect(&text).unwrap().preset(), preset.map(|preset| (kind, preset)));
            let settings = preset.map(|preset| ("preset".to_owned(), Value::from(preset)));
            let (_, problems) = crate::config::Config::parse(&settings.into_iter().collect());
            assert_eq!(problems, [], "{kind}");
        }
        let unknown = inspect(r#"{"name":"n","plugins":[{"type":"my-ovs-plugin"}]}"#).unwrap();
        assert_eq!((unknown.ovs, unknown.preset()), (Some(0), None));
    }

    #[test]
    fn inspection_tells_the_order() {
        let seen = inspect(
            r#"{"name":"n","cniVersion":"0.4.0","plugins":[{"type":"ovs-flow-gc"},{"type":"ovs"}]}"#,
        )
        .unwrap();
        assert_eq!((seen.ours, seen.ovs, seen.list), (Some(0), Some(1), true));
        assert_eq!(seen.name.as_deref(), Some("n"));
        assert_eq!(seen.cni_version.as_deref(), Some("0.4.0"));
    }
}
