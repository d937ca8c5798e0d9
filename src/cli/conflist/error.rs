//! What can be wrong with a configuration, and what to do about it.

use std::io;
use std::path::PathBuf;

use thiserror::Error as ThisError;

use super::{CNI_VERSIONS, PLUGIN_TYPE};

/// The text cannot be edited. Nothing was changed.
#[derive(Debug, ThisError, PartialEq, Eq)]
pub enum Error {
    /// Longer than any network configuration is.
    #[error("{bytes} bytes is too much for a CNI network configuration (limit {limit})")]
    TooBig {
        /// Size found.
        bytes: u64,
        /// Size accepted.
        limit: u64,
    },
    /// Runtimes would replace the bytes; we would have to guess.
    #[error("not UTF-8 at byte {offset}: save the file as UTF-8")]
    NotUtf8 {
        /// Of the first bad byte.
        offset: usize,
    },
    /// Go's JSON reader, and so every runtime, stops at it.
    #[error("starts with a byte order mark, which runtimes cannot read: save it without")]
    ByteOrderMark,
    /// A sparse or torn file.
    #[error("line {line}, column {column}: a NUL byte: the file is damaged, write it anew")]
    Nul {
        /// 1-based.
        line: usize,
        /// 1-based, in characters.
        column: usize,
    },
    /// Nothing in it.
    #[error("empty: there is no network configuration in it")]
    Empty,
    /// Not JSON.
    #[error("not valid JSON: {message} (line {line}, column {column})")]
    Json {
        /// What the parser says, without the position.
        message: String,
        /// 1-based.
        line: usize,
        /// 1-based.
        column: usize,
    },
    /// A field has another JSON type than the CNI specification gives it.
    #[error("line {line}, column {column}: `{field}` must be {expected}")]
    WrongType {
        /// Path of the field; `.` is the whole document.
        field: String,
        /// In words.
        expected: &'static str,
        /// 1-based.
        line: usize,
        /// 1-based, in characters.
        column: usize,
    },
    /// Readers differ in which one they take.
    #[error("line {line}, column {column}: `{field}` is there twice: keep one of them")]
    DuplicateKey {
        /// Path of the field.
        field: String,
        /// Of the second one.
        line: usize,
        /// Of the second one.
        column: usize,
    },
    /// Neither a list nor a plugin.
    #[error("neither `plugins` (a list) nor `type` (a single plugin) is in it")]
    NotANetwork,
    /// An object of the API instead of what it holds.
    #[error("a whole object: give what is in its `spec.config` alone")]
    WholeObject,
    /// Neither in the list nor beside it.
    #[error("it has no plugins, neither in a `plugins` of its own nor as NETWORK/*.conf beside it")]
    NoPlugins,
    /// A plugin that no runtime can start.
    #[error("line {line}, column {column}: `{field}` has no `type`")]
    NoType {
        /// Path of the plugin.
        field: String,
        /// 1-based.
        line: usize,
        /// 1-based, in characters.
        column: usize,
    },
    /// A list needs one.
    #[error("it has no `name`, and a plugin list needs one: give the network a name")]
    NoName,
    /// Our entry would make every ADD fail.
    #[error(
        "cniVersion {} is not one that {PLUGIN_TYPE} can be called in ({}): if the other plugins support a newer one \
         (`echo '{{\"cniVersion\":\"0.4.0\"}}' | CNI_COMMAND=VERSION /opt/cni/bin/TYPE` says), set it and add again",
        found.as_deref().map_or_else(|| "is not set, which means 0.1.0; that".to_owned(), |v| format!("{v:?}")),
        CNI_VERSIONS.join(", ")
    )]
    Version {
        /// As written; `None` if it is not there.
        found: Option<String>,
    },
    /// Nothing to stand behind.
    #[error(
        "no Open vSwitch plugin in it (its plugins: {}): is it the right file? If one of them attaches pods to Open vSwitch, name it with --after TYPE",
        list(types)
    )]
    NoOvsPlugin {
        /// The types that are there.
        types: Vec<String>,
    },
    /// `--after` names nothing.
    #[error("no plugin of type {after:?} in it (its plugins: {})", list(types))]
    NoSuchPlugin {
        /// Asked for.
        after: String,
        /// The types that are there.
        types: Vec<String>,
    },
    /// A meta plugin's own file.
    #[error(
        "this is the file of {meta}, which calls the Open vSwitch plugin by itself: add to the configuration that it delegates to ({}), \
         then let it write this file again",
        list(delegates)
    )]
    MetaPlugin {
        /// Its type.
        meta: String,
        /// Names or types of the delegates.
        delegates: Vec<String>,
    },
    /// Before the OVS plugin there is no port to write down, and at DEL it is already gone.
    #[error(
        "{PLUGIN_TYPE} is there, but before {ovs} (plugin {} of the list, {ovs} is {}): `conflist remove` takes it out, `conflist add` then puts it behind",
        ours + 1, ovs_index + 1
    )]
    WrongPlace {
        /// Index of our entry.
        ours: usize,
        /// Index of the OVS plugin.
        ovs_index: usize,
        /// Its type.
        ovs: String,
    },
    /// It would run twice a call.
    #[error(
        "{PLUGIN_TYPE} is there {count} times: `conflist remove` takes all of them out, then add it once"
    )]
    Repeated {
        /// How often.
        count: usize,
    },
    /// `add` does not change an entry that somebody wrote.
    #[error(
        "{PLUGIN_TYPE} is there with another `{key}` ({found}, asked for {asked}): edit the file, or `conflist remove` and add again"
    )]
    OtherSetting {
        /// First setting that differs.
        key: String,
        /// As it is.
        found: String,
        /// As it was asked for.
        asked: String,
    },
    /// `type` is not a setting.
    #[error("`{key}` is not a setting of an entry: the list has it")]
    NotASetting {
        /// Asked for.
        key: String,
    },
    /// What would be left is not a configuration.
    #[error(
        "{PLUGIN_TYPE} is the only plugin in it: delete the file, or its `plugins` if the other plugins have files of their own"
    )]
    OnlyOurs,
}

fn list(types: &[String]) -> String {
    if types.is_empty() { "none".to_owned() } else { types.join(", ") }
}

/// The file cannot be edited. What it held before is still there.
#[derive(Debug, ThisError)]
pub enum FileError {
    /// No runtime would read a file of our own beside this configuration.
    #[error("{}: the entry cannot have a file of its own: {why}", path.display())]
    NoOwnFile {
        /// The configuration.
        path: PathBuf,
        /// In words.
        why: &'static str,
    },
    /// Another file has the place of our entry's own.
    #[error("{}: is there, and has no entry of ours: rename it or take it away, and add again", path.display())]
    OwnFileTaken {
        /// The other file.
        path: PathBuf,
    },
    /// The text is at fault.
    #[error("{}: {source}", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Error,
    },
    /// The system said no.
    #[error("{}: cannot {what}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A directory, socket, device or pipe.
    #[error("{}: not a regular file", path.display())]
    NotAFile {
        /// What was named.
        path: PathBuf,
    },
    /// Runtimes read lists from `.conflist` only.
    #[error("{}: a plugin list, but runtimes read lists only from files named *.conflist: rename it first", path.display())]
    ListInConf {
        /// The file.
        path: PathBuf,
    },
    /// The other way round.
    #[error("{}: a single plugin, and runtimes read those only from *.conf: rename it, or wrap it in `plugins`", path.display())]
    SingleInConflist {
        /// The file.
        path: PathBuf,
    },
    /// The list's name is taken by something that we did not make.
    #[error(
        "{}: would become {}, which exists and is another configuration: delete the one that is not in use, then add again",
        path.display(), list.display()
    )]
    Taken {
        /// The single configuration.
        path: PathBuf,
        /// The name that it would get.
        list: PathBuf,
    },
    /// The runtime would load another network first.
    #[error(
        "{}: as {} it would sort on the other side of {}, and the runtime might use another network: rename it to *.conflist by hand",
        path.display(), list.display(), between.display()
    )]
    Order {
        /// The single configuration.
        path: PathBuf,
        /// The name that it would get.
        list: PathBuf,
        /// The file in between.
        between: PathBuf,
    },
    /// Somebody else wrote it between our reading and our renaming.
    #[error("{}: changed while it was being edited; nothing was done: try again", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
}
