//! Plugins that have files of their own. Since libcni 1.3 a list `DIR/X.conflist` of the network
//! N takes in `DIR/N/*.conf`, by name and behind its own plugins, unless it says
//! `loadOnlyInlinedPlugins`; it then needs no `plugins`. (libcni/conf.go, `NetworkConfFromFile`.)

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::directory::{has_extension, paths};
use super::document::{Document, Plugin, slice};
use super::edit::{Style, check_version, ours_behind, same_settings, stand_behind, with_scope};
use super::error::FileError;
use super::file::{directory_of, read, text_error};
use super::{Entry, Options, PLUGIN_TYPE, ovs_plugin};
use crate::model::attachment::NetworkName;

/// Our entry's file where no other plugin has one.
pub(super) const OWN_FILE: &str = "ovs-flow-gc.conf";

/// A plugin in a file of its own.
pub(super) struct DropIn {
    pub(super) path: PathBuf,
    pub(super) plugin: Plugin,
    text: String,
}

impl DropIn {
    pub(super) fn is_ours(&self) -> bool {
        self.plugin.kind == PLUGIN_TYPE
    }
}

/// What is to be done to put our entry in.
pub(super) enum Place {
    /// Into the list itself.
    List,
    /// Nothing: it is in this file already.
    There(PathBuf),
    /// Into this new file, which the list takes in behind the OVS plugin.
    New(PathBuf, Entry),
}

/// The plugins that `list` takes in, in their order.
///
/// # Errors
/// One of them cannot be read. libcni does not load the list then.
pub(super) fn of_list(list: &Path, document: &Document<'_>) -> Result<Vec<DropIn>, FileError> {
    let Some(directory) = directory_of_plugins(list, document) else { return Ok(Vec::new()) };
    // Also a file that is called `.conf`. libcni reads a link to a directory, and fails.
    let is_plugin = |path: &PathBuf| {
        let is_dir = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir());
        !is_dir && path.as_os_str().as_bytes().ends_with(b".conf")
    };
    paths(&directory)?.into_iter().filter(is_plugin).map(read_one).collect()
}

fn read_one(path: PathBuf) -> Result<DropIn, FileError> {
    let text = read(&path)?;
    let plugin = Document::plugin(&text).map_err(|source| text_error(&path, source))?;
    Ok(DropIn { path, plugin, text })
}

/// The list that takes in `path`, if that is an entry of ours in a file of its own.
pub(super) fn list_of(path: &Path) -> Option<PathBuf> {
    let network = path.parent()?;
    let lists = paths(&directory_of(network)).ok()?;
    let mut lists = lists.into_iter().filter(|path| has_extension(path, &["conflist"]));
    let takes_in = |list: &PathBuf| {
        let Ok(text) = read(list) else { return false };
        let drop_ins = Document::parse(&text).ok().and_then(|d| of_list(list, &d).ok());
        drop_ins.unwrap_or_default().iter().any(|d| d.is_ours() && is_same(&d.path, path))
    };
    lists.find(takes_in)
}

/// Of the same directory's subdirectories, so the last two names tell.
fn is_same(one: &Path, other: &Path) -> bool {
    let names = |path: &Path| {
        let directory = path.parent().and_then(Path::file_name).map(ToOwned::to_owned);
        (directory, path.file_name().map(ToOwned::to_owned))
    };
    names(one) == names(other)
}

/// Where our entry belongs in the network of `list`, or is already.
///
/// # Errors
/// Of the list's text, as for an entry in the list itself.
pub(super) fn place(
    list: &Path,
    document: &Document<'_>,
    options: &Options,
) -> Result<Place, FileError> {
    let drop_ins = of_list(list, document)?;
    if drop_ins.is_empty() && !options.own_file {
        return Ok(Place::List);
    }
    let error = |source| text_error(list, source);
    let inlined = document.plugins().count();
    let own = drop_ins.iter().map(|drop_in| &drop_in.plugin);
    let types: Vec<String> = document.plugins().chain(own).map(|p| p.kind.clone()).collect();
    let ovs = stand_behind(document, &types, options).map_err(error)?;
    let file = |at: usize| at.checked_sub(inlined).and_then(|at| drop_ins.get(at));
    if let Some(ours) = ours_behind(&types, ovs).map_err(error)? {
        let Some(there) = file(ours) else { return Ok(Place::List) };
        same_settings(&there.text, &there.plugin, &options.entry)
            .map_err(|source| text_error(&there.path, source))?;
        return Ok(Place::There(there.path.clone()));
    }
    let path = match file(ovs) {
        // `X.ovs-flow-gc.conf` sorts behind `X.conf`.
        Some(behind) => behind.path.with_extension(format!("{PLUGIN_TYPE}.conf")),
        None if options.own_file => own_file(list, document)?,
        None => return Ok(Place::List),
    };
    check_version(document).map_err(error)?;
    let attaches = ovs_plugin(&types).unwrap_or(ovs);
    let ovs = match file(attaches) {
        Some(drop_in) => drop_in.text.as_str(),
        None => {
            document.plugins().nth(attaches).map_or("", |p| slice(document.text, &p.object.span))
        }
    };
    Ok(Place::New(path, with_scope(ovs, &options.entry)))
}

/// Where the list takes in a file behind its own plugins.
fn own_file(list: &Path, document: &Document<'_>) -> Result<PathBuf, FileError> {
    let why = match directory_of_plugins(list, document) {
        Some(directory) => return Ok(directory.join(OWN_FILE)),
        None if document.only_inlined => "the list says loadOnlyInlinedPlugins",
        None if !has_extension(list, &["conflist"]) => {
            "only a .conflist takes plugins from files of their own"
        }
        None => "the list's name is no file name",
    };
    Err(FileError::NoOwnFile { path: list.to_owned(), why })
}

/// Where the plugins of `list` are that have files of their own.
fn directory_of_plugins(list: &Path, document: &Document<'_>) -> Option<PathBuf> {
    let name = document.name.as_deref().and_then(|name| name.parse::<NetworkName>().ok())?;
    let takes_in = has_extension(list, &["conflist"]) && !document.only_inlined;
    takes_in.then(|| list.with_file_name(name.to_string()))
}

/// Our entry as a file of its own.
pub(super) fn text(entry: &Entry) -> String {
    let style = Style { open: "\n  ", colon: ": ", comma: "\n  ", close: "\n" };
    style.entry(entry) + "\n"
}
