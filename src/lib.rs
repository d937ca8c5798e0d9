//! ovs-flow-gc keeps dead pods out of Open vSwitch.
//!
//! What lives where. A module may use what stands below it in this table, and nothing above
//! it; a test below checks each `use` against the table. Bodies of fuzzers are left out: they
//! sit beside their parsers and use `fuzzing`.
//!
//! | module | job |
//! | --- | --- |
//! | `fuzzing` | what fuzzers run (feature `fuzzing`); a body sits beside each parser |
//! | `daemon` | the sweeper that runs for good (feature `daemon`) |
//! | [`cli`] | the admin commands |
//! | [`deliver`] | the DEL calls that a dead pod's runtime never made |
//! | [`adopt`] | records for pods that have none |
//! | [`cni`] | the CNI verbs |
//! | [`reconcile`] | the one engine behind ADD's purge, DEL, GC and the sweep |
//! | [`liveness`] | whether an attachment's pod is alive |
//! | [`store`] | attachments, tombstones and the journal on disk |
//! | [`ovsdb`] | the database: one snapshot, and who owns a port |
//! | [`flowtable`] | a bridge's entries: where they are read from, what changes them |
//! | [`openflow`] | the switch: hello, dump, strict delete, bundle, monitor |
//! | [`config`] | the plugin's configuration and its presets |
//! | [`judge`] | which entries are stale. Pure |
//! | [`model`] | the nouns: ids, addresses, rows, the decoded entry, the record |
//! | [`util`] | time, files and the log |

pub mod adopt;
pub mod cli;
pub mod cni;
pub mod config;
#[cfg(feature = "daemon")]
pub mod daemon;
pub mod deliver;
pub mod flowtable;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod judge;
pub mod liveness;
pub mod model;
pub mod openflow;
pub mod ovsdb;
pub mod reconcile;
pub mod store;
pub mod util;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    /// Every source file below a directory.
    fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else {
                found.push(path);
            }
        }
    }

    /// The module of a path below `src`, or of what follows `crate::`.
    fn module(path: &str) -> &str {
        path.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap()
    }

    #[test]
    fn a_module_uses_only_what_stands_below_it_in_the_map() {
        let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let map = include_str!("lib.rs");
        let rows = map.lines().filter_map(|line| line.strip_prefix("//! | "));
        let order: Vec<&str> = rows
            .map(|row| module(row.trim_start_matches(['[', '`'])))
            .filter(|name| src.join(name).exists() || src.join(format!("{name}.rs")).exists())
            .collect();
        assert!(order.len() >= 15, "{order:?}");
        let rank = |name: &str| order.iter().position(|it| *it == name);
        let mut files = Vec::new();
        sources(&src, &mut files);
        let mut wrong = Vec::new();
        for path in files {
            let inside = path.strip_prefix(&src).unwrap().to_str().unwrap();
            let Some(own) = rank(module(inside)).filter(|_| !inside.contains("fuzzing")) else {
                assert!(
                    inside.contains("fuzzing") || inside == "lib.rs" || inside.starts_with("bin"),
                    "{inside} is not in the map"
                );
                continue;
            };
            let text = fs::read_to_string(&path).unwrap();
            for used in text.split("crate::").skip(1).map(module) {
                if used != "fuzzing" && rank(used).is_some_and(|it| it < own) {
                    wrong.push(format!("{inside} uses {used}"));
                }
            }
        }
        assert_eq!(wrong, [""; 0]);
    }
}
