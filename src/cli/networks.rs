//! Which networks this node has, from its conflists.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::conflist::{self, FileError, Inspection, PLUGIN_TYPE};

/// A conflist and what is in it.
#[derive(Debug)]
pub(super) struct File {
    pub(super) path: PathBuf,
    pub(super) inspection: Result<Inspection, FileError>,
}

/// The files named, else those of a directory in the runtimes' order.
pub(super) fn read(directory: &Path, named: &[PathBuf]) -> Result<Vec<File>, FileError> {
    if named.is_empty() {
        let found = conflist::candidates(directory)?;
        return Ok(found
            .into_iter()
            .map(|c| File { path: c.path, inspection: c.inspection })
            .collect());
    }
    let inspect = |path: &PathBuf| {
        let inspection = conflist::inspect_file(path)?;
        Ok(File { path: path.clone(), inspection: Ok(inspection) })
    };
    named.iter().map(inspect).collect()
}

/// The settings of our entry in a conflist that was read well; none if it has no entry.
pub(super) fn settings(path: &Path) -> Map<String, Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let conflist: Value = serde_json::from_str(&text).unwrap_or_default();
    let plugins = conflist.get("plugins").and_then(Value::as_array).cloned().unwrap_or_default();
    plugins
        .into_iter()
        .find(|p| p.get("type").and_then(Value::as_str) == Some(PLUGIN_TYPE))
        .and_then(|p| p.as_object().cloned())
        .unwrap_or_default()
}
