//! Which configuration of `/etc/cni/net.d` is the one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::document::Document;
use super::error::{Error, FileError};
use super::file::{directory_of, io_error, read, text_error};
use super::{Inspection, drop_in, inspection};

/// A file that a runtime would load, and what it says.
#[derive(Debug)]
pub struct Candidate {
    /// The file.
    pub path: PathBuf,
    /// What is in it, or why it cannot be read.
    pub inspection: Result<Inspection, FileError>,
}

/// The configurations of a directory in the order of the runtimes: by name, bytewise. The first
/// that is valid is the node's network (containerd's `max_conf_num` is 1, CRI-O has no other).
///
/// # Errors
/// The directory cannot be read.
pub fn candidates(directory: &Path) -> Result<Vec<Candidate>, FileError> {
    fs::read_dir(directory).map_err(io_error(directory, "read it"))?;
    let candidate = |path: PathBuf| Candidate { inspection: inspect_file(&path), path };
    // As libcni does: no directories, and no more than these three names.
    let is_file = |path: &PathBuf| is_loadable(path) && !path.is_dir();
    Ok(paths(directory)?.into_iter().filter(is_file).map(candidate).collect())
}

/// What is in a directory, by name; nothing if it is not there.
pub(in crate::cli) fn paths(directory: &Path) -> Result<Vec<PathBuf>, FileError> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io_error(directory, "read it"))?,
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>();
    let mut paths: Vec<PathBuf> = paths.map_err(io_error(directory, "read it"))?;
    paths.sort_unstable_by(|a, b| a.as_os_str().cmp(b.as_os_str()));
    Ok(paths)
}

/// Reads one configuration, with the plugins that have files of their own.
///
/// # Errors
/// One of the files cannot be read or is not what it should be: runtimes cannot load it either.
pub fn inspect_file(path: &Path) -> Result<Inspection, FileError> {
    let text = read(path)?;
    let error = |source| text_error(path, source);
    let document = Document::parse(&text).map_err(error)?;
    let drop_ins = drop_in::of_list(path, &document)?;
    let seen = inspection(document, drop_ins);
    if seen.plugins.is_empty() { Err(error(Error::NoPlugins)) } else { Ok(seen) }
}

/// The first configuration with an OVS plugin.
///
/// # Errors
/// The directory cannot be read. Files that cannot be are passed over.
pub fn find_ovs(directory: &Path) -> Result<Option<PathBuf>, FileError> {
    let has_ovs = |c: &Candidate| c.inspection.as_ref().is_ok_and(|i| i.ovs.is_some());
    Ok(candidates(directory)?.into_iter().find(has_ovs).map(|c| c.path))
}

/// Every file with an entry of ours.
///
/// # Errors
/// The directory cannot be read. Files that cannot be are passed over.
pub fn find_ours(directory: &Path) -> Result<Vec<PathBuf>, FileError> {
    let ours = |c: Candidate| {
        let seen = c.inspection.ok().filter(|seen| seen.ours.is_some())?;
        Some(seen.entry_file(&c.path).to_owned())
    };
    Ok(candidates(directory)?.into_iter().filter_map(ours).collect())
}

pub(super) fn has_extension(path: &Path, any: &[&str]) -> bool {
    path.extension().is_some_and(|e| any.iter().any(|one| e == *one))
}

/// Whether runtimes load a file of this name.
pub(in crate::cli) fn is_loadable(path: &Path) -> bool {
    has_extension(path, &["conf", "conflist", "json"])
}

/// A neighbour that sorts between the two names, so that a rename would change who is first.
pub(super) fn between(old: &Path, new: &Path) -> Option<PathBuf> {
    let (low, high) = (old.file_name().min(new.file_name()), old.file_name().max(new.file_name()));
    let is_between = |path: &PathBuf| low < path.file_name() && path.file_name() < high;
    let paths = paths(&directory_of(old)).ok()?;
    paths.into_iter().find(|path| is_loadable(path) && is_between(path))
}
