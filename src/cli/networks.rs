//! Which networks this node has, from its conflists.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::conflist::{self, Candidate, FileError, PLUGIN_TYPE};

impl Candidate {
    /// The settings of our entry; none if there is no entry.
    pub(super) fn settings(&self) -> Map<String, Value> {
        match &self.inspection {
            Ok(found) => {
                let file = found.entry_file(&self.path);
                settings(&std::fs::read_to_string(file).unwrap_or_default())
            }
            Err(_) => Map::new(),
        }
    }
}

/// The files named, else those of a directory in the runtimes' order.
pub(super) fn read(directory: &Path, named: &[PathBuf]) -> Result<Vec<Candidate>, FileError> {
    if named.is_empty() {
        return conflist::candidates(directory);
    }
    let inspect = |path: &PathBuf| {
        let inspection = conflist::inspect_file(path)?;
        Ok(Candidate { path: path.clone(), inspection: Ok(inspection) })
    };
    named.iter().map(inspect).collect()
}

/// Those of our entry in a text that was read well: a list, or the entry alone.
pub(super) fn settings(text: &str) -> Map<String, Value> {
    let conflist: Value = serde_json::from_str(text).unwrap_or_default();
    let plugins = conflist.get("plugins").and_then(Value::as_array).cloned();
    plugins
        .unwrap_or_else(|| vec![conflist])
        .into_iter()
        .find(|p| p.get("type").and_then(Value::as_str) == Some(PLUGIN_TYPE))
        .and_then(|p| p.as_object().cloned())
        .unwrap_or_default()
}
