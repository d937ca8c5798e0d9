//! The admin command. People get tables, `--json` gives machines the same.

mod adopt;
mod bug_report;
pub mod conflist;
mod deliver;
mod doctor;
pub(crate) mod explain;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod journal;
pub(crate) mod list;
mod named;
mod networks;
mod node;
pub(crate) mod output;
mod pause;
mod registers;
mod screen;
pub(crate) mod status;
mod sweep;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use serde_json::{Map, Value, json};

use crate::config;
use crate::config::Config;
use crate::ovsdb::Client;
use crate::reconcile::{self, Question};
use crate::store::{self, Registry};
use crate::util::clock::Deadline;
use crate::util::logging;

pub(crate) use output::{ago, short};
pub(crate) use screen::{Screen, Table};

/// The commit that `conf/image/release.sh` built this from.
const COMMIT: Option<&str> = option_env!("OVS_FLOW_GC_COMMIT");

/// Keeps dead pods out of Open vSwitch: a chained CNI plugin (when the container runtime
/// sets CNI_COMMAND) and this admin command.
#[derive(Debug, Parser)]
#[command(name = "ovs-flow-gc", version)]
#[command(after_help = "Exit status: 0 done, 1 failed, 2 wrong usage, 3 done but something needs \
    attention.\nOVS's sockets are looked for in $OVS_RUNDIR, else /var/run/openvswitch.")]
struct Line {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
struct Common {
    /// Print JSON instead of tables (docs/json.md).
    #[arg(long, global = true)]
    json: bool,
    /// wide: every column, however narrow the terminal is; json: the same as --json.
    #[arg(short, long, global = true, value_name = "FORMAT", value_parser = ["wide", "json"])]
    output: Option<String>,
    /// Where the records are.
    #[arg(long, global = true, value_name = "DIR", default_value = config::STATE_DIR)]
    state_dir: PathBuf,
    /// Seconds for everything done on the switch [default: 60, for list and status 5]
    #[arg(long, global = true, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// error, warn, info, debug or trace; on standard error.
    #[arg(long, global = true, value_name = "LEVEL", default_value = "warn")]
    log_level: log::LevelFilter,
    /// text or json: how a line of the log looks.
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    log_format: logging::Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Delete what dead pods left on the switch, once.
    Sweep(sweep::Options),
    /// List the attachments this node knows.
    List(list::Options),
    /// Show every flow that mentions a pod, with its verdict and the reason.
    Explain(explain::Options),
    /// Record pods that were there before us.
    Adopt(adopt::Options),
    /// Put back what a sweep or a DEL deleted.
    Undo(journal::Options),
    /// Call DEL for dead pods whose runtime never did: runs the plugins of their chains.
    Deliver(deliver::Options),
    /// Delete nothing on this node until `resume`, or for a time.
    Pause(pause::Options),
    /// Delete again.
    Resume,
    /// Put ovs-flow-gc into a conflist after its OVS plugin, or take it out.
    #[command(subcommand)]
    Conflist(ConflistCommand),
    /// Put this binary, the records of the pods that run, and the entry on this node. May be run
    /// again at any time.
    SelfInstall(node::Install),
    /// Take the entry out of every conflist, then the state and, last, the binary off this node.
    SelfUninstall(node::Uninstall),
    /// Is all well on this node, now? One screen.
    Status(status::Options),
    /// Is this node set up right? Says what to do about each finding.
    Doctor(doctor::Options),
    /// Print the version, the commit that it was built from, and the CNI versions.
    Version,
    /// Print what a maintainer needs to know of this node, to paste it into an issue.
    BugReport(bug_report::Options),
}

#[derive(Debug, Subcommand)]
enum ConflistCommand {
    /// Put it in, right after the OVS plugin.
    Add {
        /// The conflist, or a single .conf, which becomes a .conflist; `-`: from standard input to
        /// standard output, as for the `spec.config` of a NetworkAttachmentDefinition.
        file: PathBuf,
        #[command(flatten)]
        entry: Entry,
    },
    /// Print the file that runtimes would use with an OVS plugin in it.
    Find {
        /// Where conflists are.
        #[arg(default_value = "/etc/cni/net.d")]
        directory: PathBuf,
        /// Print every file that has our entry instead.
        #[arg(long)]
        ours: bool,
    },
    /// Take it out; everything else stays as it was, to the byte.
    Remove {
        /// The conflist; `-`: from standard input to standard output.
        file: PathBuf,
    },
}

/// Our entry in a conflist.
#[derive(Debug, Args)]
struct Entry {
    /// The type of the plugin to go after, if it is not recognised.
    #[arg(long, value_name = "TYPE")]
    after: Option<String>,
    /// Settings for the entry, as a JSON object: '{"preset": "antrea"}'.
    #[arg(long, value_name = "JSON", default_value = "{}")]
    settings: String,
    /// The same as --settings '{"preset": "NAME"}': what registers mean in this network.
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// In a file of its own, NETWORK/ovs-flow-gc.conf beside the conflist: an agent that writes the
    /// conflist again leaves it alone. Runtimes read it from libcni 1.3 on, older ones do not.
    #[arg(long)]
    own_file: bool,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// Wrong usage.
    Usage = 2,
    /// Done, but something needs attention.
    Attention = 3,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Registry(#[from] store::Error),
    #[error(transparent)]
    Adopt(#[from] crate::adopt::Error),
    #[error(transparent)]
    Deliver(#[from] crate::deliver::Error),
    #[error(transparent)]
    Sweep(#[from] reconcile::Error),
    #[error(transparent)]
    Ovsdb(#[from] crate::ovsdb::Error),
    #[error(transparent)]
    OpenFlow(#[from] crate::openflow::Error),
    #[error(transparent)]
    Conflist(#[from] conflist::FileError),
    #[error("cannot read the kernel's boot id: {0}")]
    BootId(std::io::Error),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Node(String),
    #[error("no attachment matches {0:?}; `ovs-flow-gc list` shows what there is")]
    NoSuchPod(String),
    #[error("there is nothing to undo in {}", .0.display())]
    NothingToUndo(PathBuf),
    #[error("{0} is a delivery: what plugins gave back in their DEL cannot be put back")]
    Delivery(store::JournalId),
    #[error("cannot write the output: {0}")]
    Output(#[from] std::io::Error),
    #[error("cannot write JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// What commands work with.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) json: bool,
    pub(crate) screen: Screen,
    pub(crate) state_dir: PathBuf,
    pub(crate) run_dir: PathBuf,
    pub(crate) timeout: Duration,
}

impl Context {
    pub(crate) fn deadline(&self) -> Deadline {
        Deadline::after(self.timeout)
    }

    /// What the daemon answers, if there is one that does so soon.
    pub(crate) fn ask(&self, question: Question) -> std::io::Result<Value> {
        let registry = Registry::open_existing(&self.state_dir).map_err(std::io::Error::other)?;
        let registry = registry.ok_or(std::io::ErrorKind::NotFound)?;
        reconcile::ask(&registry.daemon_socket(), &self.run_dir, question, self.timeout)
    }

    /// Why there is nothing to show: no state directory.
    fn no_records(&self, nothing: &str) -> String {
        format!("{nothing}: {} is not there, so nothing was recorded", self.state_dir.display())
    }

    /// For commands that only read: no directory is no records.
    pub(crate) fn registry(&self) -> Result<Option<Registry>, Error> {
        Ok(Registry::open_existing(&self.state_dir)?)
    }
}

/// The command line's description, for its man pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    <Line as clap::CommandFactory>::command()
}

/// Runs the command line.
#[must_use]
pub fn main() -> ExitCode {
    let line = match Line::try_parse() {
        Ok(line) => line,
        Err(error) => {
            // Help and version are errors to clap, and go to standard output.
            if error.use_stderr() && std::env::args_os().any(|argument| argument == "--json") {
                output::fail(true, &error.to_string(), Exit::Usage);
            } else {
                let _ = error.print();
            }
            return if error.use_stderr() { Exit::Usage } else { Exit::Done }.into();
        }
    };
    logging::set_format(line.common.log_format);
    logging::init(line.common.log_level, None);
    // Records are worth printing at once, whether or not the switch has something to add.
    let usual = if matches!(line.command, Command::List(_) | Command::Status(_)) { 5 } else { 60 };
    let timeout = line.common.timeout.unwrap_or(usual).clamp(1, 86_400);
    let output = line.common.output.as_deref();
    let context = Context {
        json: line.common.json || output == Some("json"),
        screen: Screen::of_stdout(output == Some("wide")),
        state_dir: line.common.state_dir,
        run_dir: config::run_dir(),
        timeout: Duration::from_secs(timeout),
    };
    let ended = match line.command {
        Command::Sweep(options) => sweep::run(&context, &options),
        Command::List(options) => list::run(&context, &options),
        Command::Explain(options) => explain::run(&context, &options),
        Command::Adopt(options) => adopt::run(&context, &options),
        Command::Undo(options) => journal::run(&context, &options),
        Command::Deliver(options) => deliver::run(&context, &options),
        Command::Pause(options) => pause::pause(&context, &options),
        Command::Resume => pause::resume(&context),
        Command::Conflist(command) => edit(&context, command),
        Command::SelfInstall(options) => node::install(&context, &options),
        Command::SelfUninstall(options) => node::uninstall(&context, &options),
        Command::Status(options) => status::run(&context, &options),
        Command::Doctor(options) => doctor::run(&context, &options),
        Command::Version => version(&context),
        Command::BugReport(options) => bug_report::run(&context, &options),
    };
    logging::Often::say_rest(true);
    match ended {
        Ok(exit) => exit.into(),
        // Somebody closed the pipe (`list | head`): no failure.
        Err(Error::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            Exit::Done.into()
        }
        Err(error) => {
            let exit = if matches!(error, Error::Usage(_)) { Exit::Usage } else { Exit::Failed };
            output::fail(context.json, &error.to_string(), exit);
            exit.into()
        }
    }
}

fn version(context: &Context) -> Result<Exit, Error> {
    let (version, commit) = (env!("CARGO_PKG_VERSION"), COMMIT.unwrap_or("unknown"));
    let cni = conflist::CNI_VERSIONS;
    let value = json!({"version": version, "commit": commit, "cniVersions": cni});
    let text = format!("ovs-flow-gc {version}\ncommit {commit}\nCNI {}", cni.join(", "));
    output::say(context, &value, &*text)?;
    Ok(Exit::Done)
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Entry {
    /// What is to be put in. `--settings` is read as ADD will read it, before anything is written:
    /// an entry that ADD refuses fails every pod of the node.
    fn asked(&self) -> Result<conflist::Options, Error> {
        let mut settings: Map<String, Value> = serde_json::from_str(&self.settings)
            .map_err(|e| Error::Usage(format!("--settings is not a JSON object: {e}")))?;
        if let Some(preset) = &self.preset {
            let other = settings.insert("preset".to_owned(), preset.as_str().into());
            if other.is_some() {
                return Err(Error::Usage("--preset and --settings both name a preset".to_owned()));
            }
        }
        for warning in Config::warnings(&settings) {
            output::complain(&warning.to_string());
        }
        let (config, problems) = Config::parse(&settings);
        if problems.is_empty() {
            warn_of_bridges(&config);
            let entry = conflist::Entry(settings);
            let (after, own_file) = (self.after.clone(), self.own_file);
            return Ok(conflist::Options { after, entry, own_file });
        }
        let texts: Vec<_> = problems.iter().map(ToString::to_string).collect();
        Err(Error::Usage(format!(
            "--settings: {}; every ADD would fail, so nothing is written",
            texts.join("; ")
        )))
    }
}

/// Says which of its bridges this machine's Open vSwitch does not have, if there is one that
/// answers. They may be made later.
fn warn_of_bridges(config: &Config) {
    if config.named_bridges().next().is_none() {
        return;
    }
    let socket = config::database_socket(&config.ovs_run_dir());
    let client = Client::connect(&socket, Deadline::after(Duration::from_secs(1)));
    let Ok(snapshot) = client.and_then(|mut client| client.snapshot()) else { return };
    let mut missing: Vec<&str> = config.named_bridges().collect();
    missing.retain(|name| !snapshot.bridges.iter().any(|bridge| bridge.name == *name));
    missing.dedup();
    if !missing.is_empty() {
        output::complain(&format!(
            "--settings: Open vSwitch has no bridge {} here: no entry is looked for there until it \
             has",
            missing.join(", ")
        ));
    }
}

/// Puts the entry into a file. If no preset is asked for and one is of the file's network, says so.
fn add_entry(file: &Path, asked: &conflist::Options) -> Result<conflist::Outcome, Error> {
    let outcome = conflist::add_file(file, asked)?;
    if asked.own_file && outcome.change.is_change() {
        output::complain(
            "a runtime built with a libcni before 1.3 does not read this file and does not say so: \
             start a pod, and see that `ovs-flow-gc list` has it",
        );
    }
    if outcome.change.is_change()
        && !asked.entry.0.contains_key("preset")
        && let Ok(seen) = conflist::inspect_file(&outcome.path)
        && let Some((kind, preset)) = seen.preset()
    {
        let path = outcome.path.display();
        let own = if asked.own_file { " --own-file" } else { "" };
        output::complain(&format!(
            "{path}: no preset was given, and there is one for {kind:?}, which says what registers \
             mean there. To have it: ovs-flow-gc conflist remove {path} && ovs-flow-gc conflist \
             add --preset {preset}{own}{} {path}",
            asked.entry.option()
        ));
    }
    Ok(outcome)
}

fn edit(context: &Context, command: ConflistCommand) -> Result<Exit, Error> {
    let is_stream = |file: &PathBuf| file.as_os_str() == conflist::STREAM;
    let outcome = match command {
        ConflistCommand::Add { file, entry } if is_stream(&file) => {
            if entry.own_file {
                let why = "--own-file needs a file, and a spec.config has none";
                return Err(Error::Usage(why.to_owned()));
            }
            let text = conflist::add_stream(std::io::stdin().lock(), &entry.asked()?)?;
            output::as_it_is(&text)?;
            return Ok(Exit::Done);
        }
        ConflistCommand::Remove { file } if is_stream(&file) => {
            output::as_it_is(&conflist::remove_stream(std::io::stdin().lock())?)?;
            return Ok(Exit::Done);
        }
        ConflistCommand::Add { file, entry } => add_entry(&file, &entry.asked()?)?,
        ConflistCommand::Find { directory, ours } => {
            let found: Vec<PathBuf> = if ours {
                conflist::find_ours(&directory)?
            } else {
                conflist::find_ovs(&directory)?.into_iter().collect()
            };
            let lines: Vec<_> = found.iter().map(|p| p.display().to_string()).collect();
            output::say(context, &lines, &*lines.join("\n"))?;
            return Ok(if found.is_empty() { Exit::Failed } else { Exit::Done });
        }
        ConflistCommand::Remove { file } => conflist::remove_file(&file)?,
    };
    output::say(context, &outcome, &*outcome.to_string())?;
    Ok(Exit::Done)
}
