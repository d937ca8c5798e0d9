//! `self-install` and `self-uninstall`: what install.sh does, for an image without a shell.
//!
//! The order is the point here, too. A conflist that names a binary which is not there fails
//! every ADD and, worse, every DEL of the node: binary before entry, and entry out before binary.
//! Each step looks first, so a call that was killed is finished by the next one.

mod binary;
mod entries;

#[cfg(feature = "fuzzing")]
pub(super) use entries::fuzz;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{SigSet, Signal};
use serde_json::json;

use super::conflist::{self, FileError, PLUGIN_TYPE};
use super::{Context, Error, Exit, adopt, output};

/// Where things are on the node.
#[derive(Debug, Args)]
struct Places {
    /// Where CNI plugins are.
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    bin_dir: PathBuf,
    /// Where libcni caches results (`results` in it) and multus configurations (`multus`).
    #[arg(long, value_name = "DIR", default_value = "/var/lib/cni")]
    cache_dir: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct Install {
    #[command(flatten)]
    places: Places,
    /// Where conflists are.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    net_dir: PathBuf,
    /// The conflist to edit; without it, the first one in --net-dir with an OVS plugin.
    #[arg(long, value_name = "FILE")]
    conflist: Option<PathBuf>,
    /// The type of the plugin to go after, if it is not recognised.
    #[arg(long, value_name = "TYPE")]
    after: Option<String>,
    /// Settings for the entry, as a JSON object: '{"preset": "antrea"}'.
    #[arg(long, value_name = "JSON", default_value = "{}")]
    settings: String,
}

#[derive(Debug, Args)]
pub(super) struct Uninstall {
    #[command(flatten)]
    places: Places,
    /// Where conflists are; may be given more than once.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    net_dir: Vec<PathBuf>,
    /// CRI-O's socket. If it is there, its pods' configurations are in --cache-dir.
    #[arg(long, value_name = "FILE", default_value = "/run/crio/crio.sock")]
    crio_socket: PathBuf,
    /// Where CRI-O has its sandboxes: pods that ended without a DEL are not waited for.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/containers/storage")]
    crio_storage: PathBuf,
    /// Remove the binary although a runtime may still call it.
    #[arg(long)]
    force: bool,
    /// When it is done, wait for SIGTERM: a DaemonSet starts again what ends.
    #[arg(long)]
    wait: bool,
}

/// This binary, the records of the pods that run, the entry.
pub(super) fn install(context: &Context, options: &Install) -> Result<Exit, Error> {
    let entry = super::entry(&options.settings)?;
    let file = match &options.conflist {
        Some(file) => file.clone(),
        None => conflist::find_ovs(&options.net_dir)?.ok_or_else(|| {
            Error::Node(format!(
                "no configuration with an Open vSwitch plugin in {}: name the file with --conflist",
                options.net_dir.display()
            ))
        })?,
    };
    let installed = options.places.bin_dir.join(PLUGIN_TYPE);
    let did = if binary::put(&installed)? { "installed" } else { "this one is there already" };
    step(context, "binary", &format!("{}: {did}", installed.display()))?;

    let adopting = adopt::Options::of_node(
        options.conflist.as_ref(),
        &options.net_dir,
        &options.places.cache_dir.join("results"),
    );
    adopt::run(context, &adopting)?;
    let asked = conflist::Options { after: options.after.clone(), entry };
    let outcome = conflist::add_file(&file, &asked)?;
    step(context, "conflist", &outcome.to_string())?;
    if outcome.change.is_change() {
        // Pods that came between the records and the entry; and a `.conf` has another name now.
        let named = options.conflist.as_ref().map(|_| &outcome.path);
        let again = adopt::Options::of_node(
            named,
            &options.net_dir,
            &options.places.cache_dir.join("results"),
        );
        adopt::run(context, &again)?;
    }
    Ok(Exit::Done)
}

/// The entries, the state and, last, the binary.
pub(super) fn uninstall(context: &Context, options: &Uninstall) -> Result<Exit, Error> {
    // From the start: the kernel drops what the first process of a container neither handles nor
    // blocks.
    let signals = options.wait.then(blocked_signals).transpose()?;
    for file in entries::naming_us(&options.net_dir)? {
        // An entry in a file of its own is gone with that of its list.
        if !file.exists() {
            continue;
        }
        // Not an error yet: what counts is what is left.
        match conflist::remove_file(&file) {
            Ok(outcome) => step(context, "conflist", &outcome.to_string())?,
            Err(error) => output::complain(&error.to_string()),
        }
    }
    let left = entries::naming_us(&options.net_dir)?;
    if !left.is_empty() {
        let left: Vec<_> = left.iter().map(|path| path.display().to_string()).collect();
        return Err(Error::Node(format!(
            "these still name {PLUGIN_TYPE}, so the binary stays (a file that multus generates: \
             let it generate it again first): {}",
            left.join(", ")
        )));
    }
    let caches = entries::Caches {
        directory: &options.places.cache_dir,
        crio_socket: &options.crio_socket,
        crio_storage: &options.crio_storage,
    };
    let remembered = caches.remembered();
    if !remembered.is_empty() && !options.force {
        output::complain(&format!(
            "binary and state are kept: {} pods were started with the plugin, and CRI-O \
             or multus calls it again when they end: {}. Run this again when they are gone, or \
             with --force",
            remembered.len(),
            remembered.join(", ")
        ));
        return Ok(Exit::Attention);
    }
    remove_state(context)?;
    let installed = options.places.bin_dir.join(PLUGIN_TYPE);
    let did = if binary::remove(&installed)? { "removed" } else { "not there" };
    step(context, "binary", &format!("{}: {did}", installed.display()))?;
    if let Some(signals) = signals {
        signals.wait().map_err(|e| Error::Output(e.into()))?;
    }
    Ok(Exit::Done)
}

/// What is in the directory, and it too unless it is a mount, as it is in a container.
fn remove_state(context: &Context) -> Result<(), Error> {
    let dir = &context.state_dir;
    let failed = |error| Error::Conflist(io_error(dir, "remove what is in it", error));
    let did = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => "not there",
        Err(error) => return Err(failed(error)),
        Ok(entries) => {
            for entry in entries {
                let entry = entry.map_err(failed)?;
                if entry.file_type().map_err(failed)?.is_dir() {
                    fs::remove_dir_all(entry.path()).map_err(failed)?;
                } else {
                    fs::remove_file(entry.path()).map_err(failed)?;
                }
            }
            let _ = fs::remove_dir(dir);
            "removed (records, tombstones and the journal for undo)"
        }
    };
    step(context, "state", &format!("{}: {did}", dir.display()))
}

/// SIGTERM and SIGINT, blocked until they are waited for.
fn blocked_signals() -> Result<SigSet, Error> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().map_err(|e| Error::Output(e.into()))?;
    Ok(signals)
}

fn step(context: &Context, what: &str, did: &str) -> Result<(), Error> {
    output::say(context, &json!({ "step": what, "did": did }), &format!("{what}: {did}"))
}

/// Two calls at once must not share a temporary file.
fn lock(directory: &Path) -> Result<Flock<File>, FileError> {
    let file = File::open(directory).map_err(|e| io_error(directory, "open it", e))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, errno)| io_error(directory, "lock it", errno.into()))
}

fn io_error(path: &Path, what: &'static str, source: io::Error) -> FileError {
    FileError::Io { path: path.to_owned(), what, source }
}
