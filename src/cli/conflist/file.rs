//! The edit on disk.
//!
//! A runtime may read the directory at any moment, so a file is replaced whole by a rename, and
//! while a `.conf` becomes a `.conflist` (or comes back) one of the two is always there. Both
//! at once is harmless: `X.conf` sorts first, and either gives the pod the same network.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;

use super::directory::{self, has_extension};
use super::document::{Body, Document, MAX_BYTES};
use super::edit::{add_text, remove_text};
use super::error::{Error, FileError};
use super::{Options, drop_in, single};
use crate::util::atomic_file::{NewFile, sync_directory};

/// Runtimes load `*.conf`, `*.conflist` and `*.json`, dot files too: the suffix hides a file.
const ORIGINAL: &str = ".ovs-flow-gc-orig";
const TEMPORARY: &str = ".ovs-flow-gc-tmp";

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// The file that holds the network's configuration now.
    pub path: PathBuf,
    /// What happened to it.
    pub change: Change,
}

/// What happened to a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// Our entry was there already.
    AlreadyThere,
    /// Our entry was not there.
    NotThere,
    /// The entry went in.
    Added,
    /// The entry came out.
    Removed,
    /// A single `.conf` became a list; it is kept under another name.
    Converted {
        /// Where the `.conf` is kept.
        original: PathBuf,
    },
    /// The `.conf` is back and the list that stood in for it is gone.
    Restored {
        /// The list that is gone.
        list: PathBuf,
    },
    /// The entry came out of a list made from a `.conf`, but the list was edited since, so it
    /// stays.
    RemovedFromEdited {
        /// Where the `.conf` is kept.
        original: PathBuf,
    },
    /// The entry went in as a file of its own, because the OVS plugin has one.
    DropInAdded {
        /// The new file.
        file: PathBuf,
    },
    /// The entry had files of its own, which are gone.
    DropInsRemoved {
        /// Those that are gone.
        files: Vec<PathBuf>,
    },
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.change {
            Change::AlreadyThere => write!(f, "{path}: ovs-flow-gc is there already"),
            Change::NotThere => write!(f, "{path}: ovs-flow-gc is not in it"),
            Change::Added => write!(f, "{path}: added ovs-flow-gc behind the OVS plugin"),
            Change::Removed => write!(f, "{path}: removed ovs-flow-gc"),
            Change::Converted { original } => write!(
                f,
                "{path}: made from a single configuration (kept as {}), with ovs-flow-gc behind it",
                original.display()
            ),
            Change::Restored { list } => {
                write!(f, "{path}: put back as it was; {} is gone", list.display())
            }
            Change::RemovedFromEdited { original } => write!(
                f,
                "{path}: removed ovs-flow-gc; it stays a list, because it was edited after it was made from {}",
                original.display()
            ),
            Change::DropInAdded { file } => {
                write!(f, "{path}: added ovs-flow-gc behind the OVS plugin, as {}", file.display())
            }
            Change::DropInsRemoved { files } => {
                let files: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
                write!(f, "{path}: removed ovs-flow-gc: {} is gone", files.join(", "))
            }
        }
    }
}

impl Change {
    /// Whether anything on disk is different now.
    pub fn is_change(&self) -> bool {
        !matches!(self, Self::AlreadyThere | Self::NotThere)
    }
}

/// Puts our entry into the configuration `path`. A single `X.conf` (or `X.json`) becomes
/// `X.conflist`; naming either finds it again.
///
/// # Errors
/// See [`FileError`]; nothing has changed then.
pub fn add_file(path: &Path, options: &Options) -> Result<Outcome, FileError> {
    let _lock = lock_directory(path)?;
    let path = in_force(path);
    let source = Source::read(&path)?;
    match Addition::of(&path, &source, options)? {
        Addition::There(path) => Ok(Outcome { path, change: Change::AlreadyThere }),
        Addition::DropIn(file, text) => {
            let directory = directory_of(&file);
            match fs::DirBuilder::new().mode(0o755).create(&directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(io_error(&directory, "make it")(error));
                }
                _ => source.write_to(&file, &text)?,
            }
            Ok(Outcome { path, change: Change::DropInAdded { file } })
        }
        Addition::List(list, text) => {
            // The list first, then the `.conf` out of the way: there is no moment without a
            // network.
            source.write_to(&list, &text)?;
            let original = with_suffix(&path, ORIGINAL);
            rename(&path, &original)?;
            Ok(Outcome { path: list, change: Change::Converted { original } })
        }
        Addition::Entry(text) => {
            source.replace(&text)?;
            Ok(Outcome { path, change: Change::Added })
        }
    }
}

/// Whether [`add_file`] would do it; writes nothing.
///
/// # Errors
/// Those of [`add_file`], but for what only writing finds out.
pub fn check_file(path: &Path, options: &Options) -> Result<(), FileError> {
    let path = in_force(path);
    Addition::of(&path, &Source::read(&path)?, options).map(drop)
}

/// What there is to write to put our entry in.
enum Addition {
    /// Nothing: it is in this file.
    There(PathBuf),
    /// A file of its own, and its text.
    DropIn(PathBuf, String),
    /// The list that takes the place of a single configuration, and its text.
    List(PathBuf, String),
    /// The text of the file with the entry.
    Entry(String),
}

impl Addition {
    fn of(path: &Path, source: &Source, options: &Options) -> Result<Self, FileError> {
        let error = |source| text_error(path, source);
        let document = Document::parse(&source.text).map_err(error)?;
        match drop_in::place(path, &document, options)? {
            drop_in::Place::List => {}
            drop_in::Place::There(file) => return Ok(Self::There(file)),
            drop_in::Place::New(file, _) if exists(&file) => {
                return Err(FileError::OwnFileTaken { path: file });
            }
            drop_in::Place::New(file, entry) => {
                return Ok(Self::DropIn(file, drop_in::text(&entry)));
            }
        }
        let edit = add_text(&source.text, options).map_err(error)?;
        source.check_name(path)?;
        if edit.converted {
            // No runtime loads a list without one from a file.
            if document.name.as_deref().unwrap_or_default().is_empty() {
                return Err(error(Error::NoName));
            }
            return Ok(Self::List(free_list(path, source)?, edit.text));
        }
        Ok(if edit.changed { Self::Entry(edit.text) } else { Self::There(path.to_owned()) })
    }
}

/// Takes our entry out of the configuration `path`, and puts back the `.conf` that it was
/// made from.
///
/// # Errors
/// See [`FileError`]; nothing has changed then.
pub fn remove_file(path: &Path) -> Result<Outcome, FileError> {
    let _lock = lock_directory(path)?;
    if let Some(list) = drop_in::list_of(path) {
        remove_drop_in(path)?;
        let change = Change::DropInsRemoved { files: vec![path.to_owned()] };
        return Ok(Outcome { path: list, change });
    }
    let path = &in_force(path);
    let source = Source::read(path)?;
    let files = remove_drop_ins(path, &source)?;
    let edit = remove_text(&source.text).map_err(|e| text_error(path, e))?;
    if !edit.changed && !files.is_empty() {
        return Ok(Outcome { path: path.clone(), change: Change::DropInsRemoved { files } });
    }
    if source.single()? {
        // Converted once: not finished, or somebody wrote the .conf anew.
        let list = path.with_extension("conflist");
        if is_loadable_single(path) && same_list(&list, &source.text) {
            unlink(&list)?;
            return Ok(Outcome { path: path.clone(), change: Change::Restored { list } });
        }
        return Ok(Outcome { path: path.clone(), change: Change::NotThere });
    }
    for single in singles_of(path) {
        // Killed half-way: the .conf is there and the list still stands in for it.
        if let Ok(there) = Source::read(&single)
            && list_of(&there.text).is_some_and(|list| list == edit.text)
        {
            unlink(path)?;
            return Ok(Outcome { path: single, change: Change::Restored { list: path.clone() } });
        }
        let original = with_suffix(&single, ORIGINAL);
        let Ok(kept) = Source::read(&original) else { continue };
        if list_of(&kept.text).is_some_and(|list| list == edit.text) && !exists(&single) {
            rename(&original, &single)?;
            unlink(path)?;
            return Ok(Outcome { path: single, change: Change::Restored { list: path.clone() } });
        }
        if edit.changed {
            source.replace(&edit.text)?;
            let change = Change::RemovedFromEdited { original };
            return Ok(Outcome { path: path.clone(), change });
        }
    }
    if !edit.changed {
        return Ok(Outcome { path: path.clone(), change: Change::NotThere });
    }
    source.replace(&edit.text)?;
    Ok(Outcome { path: path.clone(), change: Change::Removed })
}

/// Entries of ours that the list takes in from files of their own.
fn remove_drop_ins(path: &Path, list: &Source) -> Result<Vec<PathBuf>, FileError> {
    let Ok(document) = Document::parse(&list.text) else { return Ok(Vec::new()) };
    let drop_ins = drop_in::of_list(path, &document)?.into_iter();
    let ours: Vec<PathBuf> = drop_ins.filter(|d| d.is_ours()).map(|d| d.path).collect();
    ours.iter().try_for_each(|file| remove_drop_in(file))?;
    Ok(ours)
}

/// And the directory that was made for it, if nothing else is in it.
fn remove_drop_in(file: &Path) -> Result<(), FileError> {
    unlink(file)?;
    if file.file_name().is_some_and(|name| name == drop_in::OWN_FILE) {
        let _ = fs::remove_dir(directory_of(file));
    }
    Ok(())
}

/// The name of the list that takes the place of a single configuration.
fn free_list(path: &Path, source: &Source) -> Result<PathBuf, FileError> {
    let list = path.with_extension("conflist");
    let original = with_suffix(path, ORIGINAL);
    if exists(&list) {
        // Ours to replace if it is what we would make, or made, from the .conf.
        let made = same_list(&list, &source.text)
            || Source::read(&original).is_ok_and(|kept| same_list(&list, &kept.text));
        if !made {
            return Err(FileError::Taken { path: path.to_owned(), list });
        }
    }
    match directory::between(path, &list) {
        Some(between) => Err(FileError::Order { path: path.to_owned(), list, between }),
        None => Ok(list),
    }
}

/// `X.conf` that was converted is `X.conflist` now.
fn in_force(path: &Path) -> PathBuf {
    let list = path.with_extension("conflist");
    let converted =
        is_loadable_single(path) && !exists(path) && exists(&with_suffix(path, ORIGINAL));
    if converted && exists(&list) { list } else { path.to_owned() }
}

/// A file as it was read, and where to write it.
struct Source {
    /// Behind symbolic links: they stay, their target is edited.
    target: PathBuf,
    text: String,
    mode: u32,
    uid: u32,
    gid: u32,
}

impl Source {
    fn read(path: &Path) -> Result<Self, FileError> {
        let target = fs::canonicalize(path).map_err(io_error(path, "find it"))?;
        // Without O_NONBLOCK a pipe would hold us for ever.
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(nix::libc::O_NONBLOCK);
        let file = options.open(&target).map_err(io_error(path, "open it"))?;
        let meta = file.metadata().map_err(io_error(path, "stat it"))?;
        if !meta.is_file() {
            return Err(FileError::NotAFile { path: path.to_owned() });
        }
        let text = read_text(&file, path)?;
        let mode = meta.permissions().mode() & 0o7777;
        Ok(Self { target, text, mode, uid: meta.uid(), gid: meta.gid() })
    }

    fn single(&self) -> Result<bool, FileError> {
        let document = Document::parse(&self.text).map_err(|e| text_error(&self.target, e))?;
        Ok(matches!(document.body, Body::Single(_)))
    }

    /// Name and content must agree, or no runtime loads the result.
    fn check_name(&self, path: &Path) -> Result<(), FileError> {
        match (self.single()?, is_loadable_single(path)) {
            (false, true) => Err(FileError::ListInConf { path: path.to_owned() }),
            (true, false) => Err(FileError::SingleInConflist { path: path.to_owned() }),
            _ => Ok(()),
        }
    }

    fn replace(&self, text: &str) -> Result<(), FileError> {
        let now = Self::read(&self.target)?;
        if now.text != self.text {
            return Err(FileError::Changed { path: self.target.clone() });
        }
        self.write_to(&self.target, text)
    }

    /// Writes `path` whole, with this file's mode and owner. The directory is locked, so the
    /// temporary file's name is ours; one that is there was left by a call that was killed.
    fn write_to(&self, path: &Path, text: &str) -> Result<(), FileError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let temporary = path.with_file_name(format!(".{name}{TEMPORARY}"));
        let _ = fs::remove_file(&temporary);
        let written = NewFile::write(temporary, |file| {
            file.write_all(text.as_bytes())?;
            let meta = file.metadata()?;
            if (meta.uid(), meta.gid()) != (self.uid, self.gid) {
                fchown(&*file, Some(self.uid), Some(self.gid))?;
            }
            // After fchown, which clears set-id bits.
            file.set_permissions(fs::Permissions::from_mode(self.mode))?;
            file.sync_all()
        });
        written.and_then(|new| new.replace(path)).map_err(io_error(path, "write it"))?;
        sync_directory(&directory_of(path));
        Ok(())
    }
}

fn read_text(file: &File, path: &Path) -> Result<String, FileError> {
    bounded_text(file, path, || file.metadata().map_or(MAX_BYTES + 1, |meta| meta.len()))
}

/// All of `input`, if it is no larger than a configuration may be; `size` is for the message.
pub(super) fn bounded_text(
    input: impl Read,
    path: &Path,
    size: impl FnOnce() -> u64,
) -> Result<String, FileError> {
    let mut bytes = Vec::new();
    input.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(io_error(path, "read it"))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(text_error(path, Error::TooBig { bytes: size(), limit: MAX_BYTES }));
    }
    String::from_utf8(bytes)
        .map_err(|e| text_error(path, Error::NotUtf8 { offset: e.utf8_error().valid_up_to() }))
}

/// The text of `path`, for callers that change nothing.
pub(in crate::cli) fn read(path: &Path) -> Result<String, FileError> {
    Source::read(path).map(|source| source.text)
}

/// Two calls at once must not share a temporary file or undo one another.
pub(in crate::cli) fn lock_directory(path: &Path) -> Result<Flock<File>, FileError> {
    let directory = directory_of(path);
    let file = File::open(&directory).map_err(io_error(&directory, "open it"))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, errno)| io_error(&directory, "lock it")(errno.into()))
}

pub(in crate::cli) fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// The list that a single configuration makes, without our entry.
fn list_of(text: &str) -> Option<String> {
    let document = Document::parse(text).ok()?;
    matches!(document.body, Body::Single(_)).then(|| single::as_list(&document))
}

/// Whether `list` is what `single` makes, with or without our entry.
fn same_list(list: &Path, single: &str) -> bool {
    let there = Source::read(list).ok().and_then(|s| remove_text(&s.text).ok());
    there.is_some_and(|edit| Some(edit.text) == list_of(single))
}

/// What `X.conflist` may have been made from.
fn singles_of(path: &Path) -> Vec<PathBuf> {
    if has_extension(path, &["conflist"]) {
        vec![path.with_extension("conf"), path.with_extension("json")]
    } else {
        Vec::new()
    }
}

fn is_loadable_single(path: &Path) -> bool {
    has_extension(path, &["conf", "json"])
}

/// Also a dangling symbolic link is there.
fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::rename(from, to).map_err(io_error(from, "rename it"))?;
    sync_directory(&directory_of(to));
    Ok(())
}

fn unlink(path: &Path) -> Result<(), FileError> {
    fs::remove_file(path).map_err(io_error(path, "remove it"))?;
    sync_directory(&directory_of(path));
    Ok(())
}

pub(super) fn text_error(path: &Path, source: Error) -> FileError {
    FileError::Text { path: path.to_owned(), source }
}

pub(in crate::cli) fn io_error(path: &Path, what: &'static str) -> impl Fn(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError::Io { path: path.clone(), what, source }
}
