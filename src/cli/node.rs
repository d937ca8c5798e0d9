//! `self-install` and `self-uninstall`: what install.sh and the containers of conf/kubernetes call.
//!
//! The order is the point. A conflist that names a binary which is not there fails every ADD and,
//! worse, every DEL of the node: binary before entry, and entry out before binary. Each step looks
//! first, so a call that was killed is finished by the next one.

mod entries;
mod files;
mod ovs;
mod units;

#[cfg(feature = "fuzzing")]
pub(super) use entries::fuzz;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use nix::sys::signal::{SigSet, Signal};
use serde_json::json;

use super::conflist::{self, FileError, PLUGIN_TYPE, io_error};
use super::{Context, Error, Exit, adopt, output};
use crate::config::STATE_DIR;

/// Where entries may be beside the directory of the runtime: distributions and multus have their
/// own.
const OTHER_NET_DIRS: [&str; 4] = [
    "/etc/kubernetes/cni/net.d",
    "/etc/cni/multus/net.d",
    "/run/multus/cni/net.d",
    "/var/lib/rancher/k3s/agent/etc/cni/net.d",
];

/// Where things are on the node.
#[derive(Debug, Args)]
struct Places {
    /// The node's root directory: every default path, that of the records too, is below it.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Where CNI plugins are [default: /opt/cni/bin]
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Where libcni caches results (`results` in it) and multus configurations (`multus`)
    /// [default: /var/lib/cni]
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// The sweeper of systemd, too: the timer or, if there is one, the daemon.
    #[arg(long)]
    systemd: bool,
    /// Where the daemon is [default: /usr/local/sbin]
    #[arg(long, value_name = "DIR")]
    sbin_dir: Option<PathBuf>,
}

impl Places {
    fn below(&self, path: &str) -> PathBuf {
        below(&self.root, Path::new(path))
    }

    fn or(&self, given: Option<&PathBuf>, usual: &str) -> PathBuf {
        given.cloned().unwrap_or_else(|| self.below(usual))
    }

    fn bin_dir(&self) -> PathBuf {
        self.or(self.bin_dir.as_ref(), "/opt/cni/bin")
    }

    fn sbin_dir(&self) -> PathBuf {
        self.or(self.sbin_dir.as_ref(), "/usr/local/sbin")
    }

    fn cache_dir(&self) -> PathBuf {
        self.or(self.cache_dir.as_ref(), "/var/lib/cni")
    }

    fn binary(&self) -> PathBuf {
        self.bin_dir().join(PLUGIN_TYPE)
    }

    fn daemon(&self) -> PathBuf {
        self.sbin_dir().join("ovs-flow-gcd")
    }
}

/// A path of the node's, below its root directory.
fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

#[derive(Debug, Args)]
pub(super) struct Install {
    #[command(flatten)]
    places: Places,
    /// Where conflists are [default: /etc/cni/net.d]
    #[arg(long, value_name = "DIR")]
    net_dir: Option<PathBuf>,
    /// The conflist to edit; without it, the first one in --net-dir with an OVS plugin.
    #[arg(long, value_name = "FILE")]
    conflist: Option<PathBuf>,
    #[command(flatten)]
    entry: super::Entry,
    /// Edit no conflist: the network's configuration is in NetworkAttachmentDefinitions, which
    /// `conflist add -` edits.
    #[arg(long, conflicts_with_all = ["conflist", "after", "settings", "preset", "own_file"])]
    no_conflist: bool,
    /// Where Open vSwitch has its sockets on the node. The entry gets it as `ovsRunDir`, unless it is
    /// /run/openvswitch. A container has it at $OVS_RUNDIR [default: $OVS_RUNDIR]
    #[arg(long, value_name = "DIR")]
    ovs_dir: Option<PathBuf>,
    /// Put this ovs-flow-gcd into --sbin-dir; with --systemd its unit takes the timer's place.
    #[arg(long, value_name = "FILE")]
    daemon: Option<PathBuf>,
    /// Go on if the pods that run cannot be recorded. They are not swept then. Status 3 says that
    /// not all could be.
    #[arg(long)]
    adopt_may_fail: bool,
}

#[derive(Debug, Args)]
pub(super) struct Uninstall {
    #[command(flatten)]
    places: Places,
    /// Where conflists are; may be given more than once [default: /etc/cni/net.d]. Those of
    /// multus, of Kubernetes distributions and of k3s are looked at as well.
    #[arg(long, value_name = "DIR")]
    net_dir: Vec<PathBuf>,
    /// One that is elsewhere.
    #[arg(long, value_name = "FILE")]
    conflist: Option<PathBuf>,
    /// CRI-O's socket. If it is there, its pods' configurations are in --cache-dir
    /// [default: /run/crio/crio.sock]
    #[arg(long, value_name = "FILE")]
    crio_socket: Option<PathBuf>,
    /// Where CRI-O has its sandboxes: pods that ended without a DEL are not waited for
    /// [default: /var/lib/containers/storage]
    #[arg(long, value_name = "DIR")]
    crio_storage: Option<PathBuf>,
    /// Remove the binary although a runtime may still call it.
    #[arg(long)]
    force: bool,
    /// Change nothing; say who would still call the binary (status 1: a conflist, 3: pods that
    /// were started with it).
    #[arg(long, conflicts_with_all = ["force", "wait"])]
    check: bool,
    /// When it is done, wait for SIGTERM: a DaemonSet starts again what ends.
    #[arg(long)]
    wait: bool,
}

/// What a command does to the node, and how it went so far.
struct Node<'a> {
    context: Context,
    places: &'a Places,
    exit: Exit,
}

impl<'a> Node<'a> {
    fn new(context: &Context, places: &'a Places) -> Self {
        let mut context = context.clone();
        if context.state_dir == Path::new(STATE_DIR) {
            context.state_dir = places.below(STATE_DIR);
        }
        Self { context, places, exit: Exit::Done }
    }

    fn step(&self, what: &str, did: &str) -> Result<(), Error> {
        let text = format!("{what}: {did}");
        output::say(&self.context, &json!({ "step": what, "did": did }), &*text)
    }

    /// It goes on, and needs attention.
    fn warn(&mut self, text: &str) {
        output::complain(&format!("warning: {text}"));
        self.exit = Exit::Attention;
    }

    fn try_to(&mut self, what: &str, words: &[&str]) {
        if !units::systemctl(words) {
            self.warn(&format!("{what}: systemctl {} failed", words.join(" ")));
        }
    }

    /// False if it was there already.
    fn put_binary(
        &self,
        what: &str,
        file: &Path,
        installed: &Path,
        check: fn(&Path) -> Result<(), Error>,
    ) -> Result<bool, Error> {
        let bytes = fs::read(file).map_err(io_error(file, "read it"))?;
        let changed = files::put(installed, &bytes, 0o755, check)?;
        let did = if changed { "installed" } else { "this one is there already" };
        self.step(what, &format!("{}: {did}", installed.display()))?;
        Ok(changed)
    }

    /// Records of the pods that run, by one of the two ways to say whose they are. False if they
    /// could not be recorded and may stay without.
    fn adopt(
        &mut self,
        options: &Install,
        conflist: Option<&PathBuf>,
        run: fn(&Context, &adopt::Options) -> Result<Exit, Error>,
    ) -> Result<bool, Error> {
        let cache = self.places.cache_dir().join("results");
        let mut adopting = adopt::Options::of_node(conflist, &options.net_dir(), &cache);
        adopting.none_will_do = options.no_conflist;
        match run(&self.context, &adopting) {
            Err(error) if options.adopt_may_fail => {
                self.warn(&format!(
                    "adopt: failed, so pods from before today have no records and are not swept \
                     (run '{} adopt' later): {error}",
                    self.places.binary().display()
                ));
                Ok(false)
            }
            Err(error) => Err(error),
            // A container that ends with 3 is started again for ever, and its daemon never.
            Ok(exit) => {
                if options.adopt_may_fail && exit == Exit::Attention {
                    self.exit = exit;
                }
                Ok(true)
            }
        }
    }
}

impl Install {
    fn net_dir(&self) -> PathBuf {
        self.places.or(self.net_dir.as_ref(), "/etc/cni/net.d")
    }

    /// The file to edit.
    fn file(&self) -> Result<PathBuf, Error> {
        if let Some(file) = &self.conflist {
            return Ok(file.clone());
        }
        let net_dir = self.net_dir();
        conflist::find_ovs(&net_dir)?.ok_or_else(|| {
            Error::Node(format!(
                "no configuration with an Open vSwitch plugin in {}: name the file with --conflist, \
                 or give --no-conflist if it is in a NetworkAttachmentDefinition",
                net_dir.display()
            ))
        })
    }
}

/// This binary, the records of the pods that run, the entry, the sweeper.
pub(super) fn install(context: &Context, options: &Install) -> Result<Exit, Error> {
    let mut asked = options.entry.asked()?;
    let mut node = Node::new(context, &options.places);
    let file = if options.no_conflist { None } else { Some(options.file()?) };
    let there = file.as_deref().and_then(|file| conflist::inspect_file(file).ok()?.ours);
    let entry = (&mut asked.entry, there.is_none());
    ovs::settle(&mut node.context, options.ovs_dir.as_deref(), entry)?;
    if let Some(file) = &file {
        conflist::check_file(file, &asked)?;
    }
    let own = Path::new("/proc/self/exe");
    node.put_binary("binary", own, &options.places.binary(), files::must_speak_cni)?;
    let adopted = node.adopt(options, options.conflist.as_ref(), adopt::run)?;
    match file {
        Some(file) => {
            let changed = add_entry(&mut node, (&file, &asked))?;
            if let Some(path) = changed.filter(|_| adopted) {
                // Pods that came between the records and the entry; and a `.conf` has another name
                // now.
                let conflist = options.conflist.as_ref().map(|_| &path);
                node.adopt(options, conflist, adopt::run_again)?;
            }
        }
        None => node.step("conflist", &not_edited(&asked))?,
    }
    units::install(&mut node, options.daemon.as_deref())?;
    Ok(node.exit)
}

/// What is left to do for networks that no file has.
fn not_edited(asked: &conflist::Options) -> String {
    format!(
        "none edited (--no-conflist); 'ovs-flow-gc conflist add -{}' edits the spec.config of a \
         NetworkAttachmentDefinition, when every node has the binary",
        asked.entry.option()
    )
}

/// The file, if it was changed.
fn add_entry(
    node: &mut Node<'_>,
    (file, asked): (&Path, &conflist::Options),
) -> Result<Option<PathBuf>, Error> {
    let outcome = super::add_entry(file, asked)?;
    node.step("conflist", &outcome.to_string())?;
    Ok(outcome.change.is_change().then_some(outcome.path))
}

/// The entries, the sweeper, the state and, last, the binary.
pub(super) fn uninstall(context: &Context, options: &Uninstall) -> Result<Exit, Error> {
    // From the start: the kernel drops what the first process of a container neither handles nor
    // blocks.
    let signals = options.wait.then(blocked_signals).transpose()?;
    let mut node = Node::new(context, &options.places);
    if options.check {
        return check(node, options);
    }
    remove_entries(&node, options)?;
    units::remove(&mut node)?;
    if !options.force
        && let Some(pods) = options.remembered()
    {
        let again = "Run this again when they are gone, or with --force";
        node.warn(&format!("binary and state are kept: {pods}. {again}"));
        return Ok(node.exit);
    }
    remove_state(&node)?;
    let installed = options.places.binary();
    let did = if files::remove(&installed)? { "removed" } else { "not there" };
    node.step("binary", &format!("{}: {did}", installed.display()))?;
    if let Some(signals) = signals {
        signals.wait().map_err(|e| Error::Output(e.into()))?;
    }
    Ok(node.exit)
}

/// Who would call the binary, and nothing changed.
fn check(mut node: Node<'_>, options: &Uninstall) -> Result<Exit, Error> {
    let files = options.naming_us()?;
    warn_of_multus(options);
    if !files.is_empty() {
        return Err(Error::Node(format!(
            "these name {PLUGIN_TYPE}, and without it their pods can neither start nor end: {}",
            listed(&files)
        )));
    }
    node.step("conflist", &format!("no file names {PLUGIN_TYPE}"))?;
    match options.remembered() {
        Some(pods) => node.warn(&pods),
        None => node.step("pods", &format!("no runtime calls {PLUGIN_TYPE} for one"))?,
    }
    Ok(node.exit)
}

impl Uninstall {
    /// The files that name us.
    fn naming_us(&self) -> Result<Vec<PathBuf>, Error> {
        let mut directories = self.net_dir.clone();
        if directories.is_empty() {
            directories.push(self.places.below("/etc/cni/net.d"));
        }
        directories.extend(OTHER_NET_DIRS.map(|directory| self.places.below(directory)));
        entries::naming_us(&directories, self.conflist.as_ref())
    }

    /// Who was started with the plugin and is there, in words.
    fn remembered(&self) -> Option<String> {
        let places = &self.places;
        let caches = entries::Caches {
            root: places.root.clone(),
            directory: places.cache_dir(),
            crio_socket: places.or(self.crio_socket.as_ref(), "/run/crio/crio.sock"),
            crio_storage: places.or(self.crio_storage.as_ref(), "/var/lib/containers/storage"),
        };
        let pods = caches.remembered();
        (!pods.is_empty()).then(|| {
            format!(
                "CRI-O or multus calls the plugin again at the end of {} that began with it: {}",
                output::counted(pods.len() as u64, "pod"),
                pods.join(", ")
            )
        })
    }
}

fn warn_of_multus(options: &Uninstall) {
    if options.places.cache_dir().join("multus").is_dir() {
        output::complain(
            "multus is on this node, and its NetworkAttachmentDefinitions are not seen from here: \
             take the entry out of each of them first ('ovs-flow-gc conflist remove -'), or their \
             pods cannot start without the binary",
        );
    }
}

fn listed(files: &[PathBuf]) -> String {
    let files: Vec<_> = files.iter().map(|path| path.display().to_string()).collect();
    files.join(", ")
}

fn remove_entries(node: &Node<'_>, options: &Uninstall) -> Result<(), Error> {
    let files = options.naming_us()?;
    warn_of_multus(options);
    if files.is_empty() {
        return node.step("conflist", "no entry is left");
    }
    for file in files {
        // An entry in a file of its own is gone with that of its list.
        if !file.exists() {
            continue;
        }
        // Not an error yet: what counts is what is left.
        match conflist::remove_file(&file) {
            Ok(outcome) => node.step("conflist", &outcome.to_string())?,
            Err(error) => output::complain(&error.to_string()),
        }
    }
    let left = options.naming_us()?;
    if left.is_empty() {
        return Ok(());
    }
    Err(Error::Node(format!(
        "these still name {PLUGIN_TYPE}, so the binary stays (a file that multus generates: \
         let it generate it again first): {}",
        listed(&left)
    )))
}

/// What is in the directory, and it too unless it is a mount, as it is in a container.
fn remove_state(node: &Node<'_>) -> Result<(), Error> {
    let dir = &node.context.state_dir;
    let failed = |error| Error::Conflist(io_error(dir, "remove what is in it")(error));
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
    node.step("state", &format!("{}: {did}", dir.display()))
}

/// SIGTERM and SIGINT, blocked until they are waited for.
fn blocked_signals() -> Result<SigSet, Error> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().map_err(|e| Error::Output(e.into()))?;
    Ok(signals)
}
