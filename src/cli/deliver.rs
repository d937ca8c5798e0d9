//! `deliver`: calls DEL for dead pods whose runtime never did.

mod gc;

use std::cell::Cell;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use nix::sched::{CloneFlags, setns};

use super::named::named;
use super::output::counted;
use super::screen::Text;
use super::{Context, Error, Exit, Screen, Table, conflist, networks, output};
use crate::adopt::CachedAttachment;
use crate::config::{Config, Mode};
use crate::deliver::{Concern, Deliverables, Leftovers, Run};
use crate::model::attachment::Attachment;
use crate::reconcile::SweepRun;
use crate::store::Registry;
use crate::util::base64;
use crate::util::clock::Deadline;

/// Where containerd (of a distribution, k3s, RKE2) and CRI-O have a directory for each sandbox.
const RUNTIMES: [&str; 4] = [
    "/var/lib/containerd/io.containerd.grpc.v1.cri/sandboxes",
    "/var/lib/rancher/k3s/agent/containerd/io.containerd.grpc.v1.cri/sandboxes",
    "/var/lib/rancher/rke2/agent/containerd/io.containerd.grpc.v1.cri/sandboxes",
    "/var/lib/containers/storage/overlay-containers",
];

#[derive(Debug, Args)]
pub(super) struct Options {
    /// A pod (NAME or NAMESPACE/NAME) or a container id; the beginning is enough.
    #[arg(value_name = "POD_OR_CONTAINER")]
    who: Option<String>,
    /// Of this network only.
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// Say what would be called; call nothing.
    #[arg(long)]
    dry_run: bool,
    /// Also when many pods seem dead of which no record is left, and no living one shows that
    /// namespaces are seen from here. With --gc: also when the runtime knows no sandbox, or a namespace
    /// is nobody's that is known.
    #[arg(long)]
    yes: bool,
    /// Afterwards call GC in networks of cniVersion 1.1, as a runtime should: leases and the like go
    /// that no attachment has which the runtime, a cached result, a record or a port remembers.
    #[arg(long, conflicts_with = "who")]
    gc: bool,
    /// In the mounts and the network of process 1, for a container that sees the node's processes.
    #[arg(long)]
    node: bool,
    /// Again and again, every so many seconds, and as soon as a sweep has found somebody dead.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    every: Option<u64>,
    /// Where plugins are, as the runtime's CNI_PATH.
    #[arg(long, value_name = "DIR:DIR", default_value = "/opt/cni/bin")]
    cni_path: String,
    #[command(flatten)]
    places: Places,
}

/// Where runtimes have what they know.
#[derive(Clone, Debug, Args)]
pub(super) struct Places {
    /// Where libcni caches results; `../multus/results`, multus' own, is read, too.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/cni/results")]
    cache_dir: Vec<PathBuf>,
    /// Where runtimes have a directory for each sandbox that they know: nothing is called for those.
    #[arg(long, value_name = "DIR", default_values = RUNTIMES)]
    runtime_dir: Vec<PathBuf>,
    /// Where conflists are.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    net_dir: PathBuf,
}

pub(super) fn run(context: &Context, options: &Options) -> Result<Exit, Error> {
    if options.node {
        enter_node().map_err(Error::Node)?;
    }
    loop {
        let ended = once(context, options);
        let Some(every) = options.every else { return ended };
        if let Err(failed) = ended {
            output::complain(&failed.to_string());
        }
        let again = Deadline::after(Duration::from_secs(every));
        let is_wanted =
            || context.registry().ok().flatten().is_some_and(|r| r.deliveries().wanted());
        while !again.passed() && !is_wanted() {
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}

/// Goes to the mounts and the network of process 1, which must be another container's or the node's.
fn enter_node() -> Result<(), String> {
    let open = |path: &str| File::open(path).map_err(|e| format!("{path}: {e}"));
    let of = |file: &File| file.metadata().map(|meta| (meta.dev(), meta.ino())).ok();
    let (mounts, network) = (open("/proc/1/ns/mnt")?, open("/proc/1/ns/net")?);
    if of(&mounts) == of(&open("/proc/self/ns/mnt")?) {
        return Err(
            "process 1 has the same mounts: --node is for a container with hostPID".to_owned()
        );
    }
    setns(&network, CloneFlags::CLONE_NEWNET)
        .and_then(|()| setns(&mounts, CloneFlags::CLONE_NEWNS))
        .map_err(|e| format!("cannot enter the namespaces of process 1: {e}"))
}

fn once(context: &Context, options: &Options) -> Result<Exit, Error> {
    let registry = Registry::open(&context.state_dir)?;
    let notes = registry.deliveries();
    if !options.dry_run {
        // First: systemd starts us again and again while it is there.
        notes.begin();
    }
    if let (Some(pause), false) = (registry.pause(), options.dry_run) {
        output::complain(&pause.to_string());
        return Ok(Exit::Attention);
    }
    let lock = if options.dry_run { None } else { notes.lock()? };
    if lock.is_none() && !options.dry_run {
        output::complain("another `ovs-flow-gc deliver` is at work");
        return Ok(Exit::Attention);
    }
    let swept = sweep(context, &registry, options.dry_run)?;
    let run = Run {
        dry_run: options.dry_run,
        yes: options.yes,
        cni_path: &options.cni_path,
        ..of_places(context, &registry, &options.places)
    };
    let is_any = Cell::new(false);
    let which = |all: &[&CachedAttachment]| {
        let wanted = wanted(options, all);
        is_any.set(wanted.contains(&true));
        wanted
    };
    let mut found = run.run(&which, &swept)?;
    if !is_any.get() {
        asks_for_somebody(options)?;
    }
    if options.gc {
        found.gc = gc::collect(context, &run, options.network.as_deref())?;
    }
    if !options.dry_run
        && let Err(failed) = run.write_down(&found)
    {
        log::warn!("{failed}; neither metrics nor the journal have this run");
    }
    output::say(context, &found, text(context.screen, &found, options.dry_run))?;
    let dead = found.dead.iter().map(|one| one.state);
    let mut states = dead.chain(found.gc.iter().map(|one| one.state));
    let is_done = |state| matches!(state, "delivered" | "collected" | "due");
    let done = found.unknown.is_empty() && states.all(is_done);
    Ok(if done { Exit::Done } else { Exit::Attention })
}

/// A run that changes nothing.
fn of_places<'a>(context: &'a Context, registry: &'a Registry, places: &'a Places) -> Run<'a> {
    Run {
        runtimes: &places.runtime_dir,
        net_dir: &places.net_dir,
        ..looking(context, registry, &places.cache_dir)
    }
}

/// A run that only counts.
fn looking<'a>(context: &'a Context, registry: &'a Registry, caches: &'a [PathBuf]) -> Run<'a> {
    Run {
        registry,
        run_dir: &context.run_dir,
        caches,
        runtimes: &[],
        net_dir: Path::new(""),
        cni_path: "",
        timeout: context.timeout,
        dry_run: true,
        yes: false,
        concern: &concern,
    }
}

/// What the dead have left beside their entries; none: it cannot be told.
pub(super) fn leftovers(context: &Context, caches: &[PathBuf]) -> Option<Leftovers> {
    let registry = context.registry().ok()??;
    looking(context, &registry, caches).leftovers().ok()
}

/// As a line for people, and what to do about it; none: there is nothing to do.
pub(super) fn say_leftovers(left: &Leftovers) -> Option<(String, &'static str)> {
    let rows = left.port_rows;
    let rows = rows.map_or_else(|| "? port rows".to_owned(), |n| counted(n as u64, "port row"));
    let Leftovers { cached_results, unreadable, leases, failed, error, .. } = left;
    let mut text = format!(
        "dead pods left {}, {}, and {rows}",
        counted(*cached_results as u64, "cached result"),
        counted(*leases as u64, "lease")
    );
    if *unreadable > 0 {
        let files = counted(*unreadable as u64, "cached result");
        text.push_str(&format!("; {files} cannot be read"));
    }
    if let Some(error) = error {
        text.push_str(&format!("; a plugin failed for {failed} of them: {error}"));
    }
    (*cached_results > 0 || *unreadable > 0).then_some((text, "ovs-flow-gc deliver --dry-run"))
}

/// The dead go by the sweep's verdict, and their entries go before their addresses are free. In a
/// dry run: whom it would find dead.
fn sweep(context: &Context, registry: &Registry, dry_run: bool) -> Result<Vec<Attachment>, Error> {
    let run = SweepRun {
        registry: Some(registry),
        dry_run,
        ..SweepRun::new(&context.run_dir, context.timeout)
    };
    let pass = run.liveness_pass_after_burst()?;
    if dry_run {
        return Ok(pass.condemned().iter().map(|orphan| orphan.record.clone()).collect());
    }
    let outcome = run.clean(&pass, |_| true)?;
    if let Some(failed) = &outcome.failed {
        log::warn!("{failed}; entries are left for the next sweep");
    }
    Ok(Vec::new())
}

/// Of each cached result, whether it is asked for.
fn wanted(options: &Options, all: &[&CachedAttachment]) -> Vec<bool> {
    let of_network = |cached: &CachedAttachment| {
        options.network.as_deref().is_none_or(|name| cached.key.network.as_str() == name)
    };
    let meant = options.who.as_deref().map_or_else(|| vec![true; all.len()], |who| named(all, who));
    all.iter().zip(meant).map(|(cached, is_meant)| is_meant && of_network(cached)).collect()
}

/// Nobody is asked for: a name may be misspelt. A network without pods has a conflist.
fn asks_for_somebody(options: &Options) -> Result<(), Error> {
    let Some(asked) = options.who.as_ref().or(options.network.as_ref()) else { return Ok(()) };
    let conflists = networks::read(&options.places.net_dir, &[]).unwrap_or_default();
    let mut names = conflists.iter().filter_map(|it| it.inspection.as_ref().ok()?.name.as_ref());
    if options.who.is_none() && names.any(|name| name == asked) {
        return Ok(());
    }
    Err(Error::Node(format!("no cached result matches {asked:?}")))
}

/// By the configuration that the pod's ADD had.
fn concern(cached: &CachedAttachment) -> Concern {
    let config = cached.config.as_deref().and_then(base64::decode);
    let Some(text) = config.and_then(|config| String::from_utf8(config).ok()) else {
        return Concern::Unread;
    };
    concern_of(&text)
}

fn concern_of(text: &str) -> Concern {
    match conflist::inspect(text) {
        Ok(found) if found.ours.is_some() => {
            let (config, _) = Config::parse(&networks::settings(text));
            if config.mode == Mode::Observe { Concern::Observed } else { Concern::Full }
        }
        Ok(found) if found.ovs.is_some() => Concern::Full,
        Ok(_) => Concern::None,
        Err(_) => Concern::Unread,
    }
}

fn text(screen: Screen, found: &Deliverables, dry_run: bool) -> Text {
    let mut table = Table::new(
        &["DEAD POD", "CONTAINER", "NETWORK", "STATE", "PLUGINS", "WHY"],
        &["PLUGINS", "CONTAINER"],
    );
    for one in &found.dead {
        table.row(vec![
            one.pod.clone(),
            output::short(one.key.container.as_str()),
            one.key.network.to_string(),
            one.state.to_owned(),
            output::list(&one.plugins, ","),
            one.error.clone().unwrap_or_else(|| one.why.clone()),
        ]);
    }
    let mut text = Text::default();
    if !table.is_empty() {
        text = table.text(screen);
        text.push("\n");
    }
    for unknown in &found.unknown {
        text.push(&format!("not judged: {unknown}\n"));
    }
    gc::say(&mut text, &found.gc, dry_run);
    text.push(&counted(found.dead.len() as u64, "cached result"));
    text.push(" of dead pods");
    text
}
