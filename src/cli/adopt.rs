//! `adopt`: records for pods that were there before us.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;

use super::screen::Text;
use super::{Context, Error, Exit, Screen, Table, conflist, networks, output};
use crate::adopt::{Adopted, Adoption, Network, configs_of_multus};
use crate::config::{Config, NetworkState};
use crate::model::attachment::NetworkName;
use crate::store::Registry;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// The conflist whose network to adopt; without one, those in --net-dir that have an
    /// OVS plugin or ovs-flow-gc.
    #[arg(long, value_name = "FILE")]
    conflist: Vec<PathBuf>,
    /// Where conflists are.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    net_dir: PathBuf,
    /// Where libcni caches results; `../multus/results`, multus' own, is read, too.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/cni/results")]
    cache_dir: PathBuf,
    /// Say what would be recorded, record nothing.
    #[arg(long)]
    dry_run: bool,
    /// Whether to record those again who were taken for dead and live: who installs means pods
    /// that were there before.
    #[arg(skip = true)]
    again: bool,
    /// Whether to go on if no network of ours is known.
    #[arg(skip)]
    pub(super) none_will_do: bool,
}

impl Options {
    /// The node's networks, or that of one file.
    pub(super) fn of_node(conflist: Option<&PathBuf>, net_dir: &Path, cache_dir: &Path) -> Self {
        Self {
            conflist: conflist.into_iter().cloned().collect(),
            net_dir: net_dir.to_owned(),
            cache_dir: cache_dir.to_owned(),
            dry_run: false,
            again: false,
            none_will_do: false,
        }
    }
}

pub(super) fn run(context: &Context, options: &Options) -> Result<Exit, Error> {
    let adopted = record(context, options)?;
    output::say(context, &adopted, text(context.screen, &adopted, options.dry_run))?;
    Ok(if adopted.is_incomplete() { Exit::Attention } else { Exit::Done })
}

/// The same once more. It is said only if more pods were recorded: the first time has told of all
/// that were there.
pub(super) fn run_again(context: &Context, options: &Options) -> Result<Exit, Error> {
    let adopted = record(context, options)?;
    if !adopted.adopted.is_empty() {
        output::say(context, &adopted, text(context.screen, &adopted, options.dry_run))?;
    }
    Ok(Exit::Done)
}

fn record(context: &Context, options: &Options) -> Result<Adopted, Error> {
    let networks = networks(options)?;
    let registry = Registry::open(&context.state_dir)?;
    let adoption = Adoption {
        registry: &registry,
        run_dir: &context.run_dir,
        networks: &networks,
        cache_dir: &options.cache_dir,
        timeout: context.timeout,
        dry_run: options.dry_run,
        again: options.again,
    };
    Ok(adoption.run()?)
}

/// Every network that is ours to look after.
fn networks(options: &Options) -> Result<BTreeMap<NetworkName, Network>, Error> {
    let mut networks = BTreeMap::new();
    let missing = options.none_will_do && !options.net_dir.exists();
    let files =
        if missing { Vec::new() } else { networks::read(&options.net_dir, &options.conflist)? };
    for file in files {
        let Ok(found) = &file.inspection else { continue };
        if found.ours.is_none() && found.ovs.is_none() && options.conflist.is_empty() {
            continue;
        }
        let name = found.name.as_deref().unwrap_or_default().parse::<NetworkName>();
        let Ok(name) = name else { continue };
        let (config, problems) = Config::parse(&file.settings());
        for problem in problems {
            log::warn!("{}: {problem}", file.path.display());
        }
        let state = NetworkState { config, ..NetworkState::default() };
        networks.entry(name).or_insert(Network { state, ours: found.ours.is_some() });
    }
    if options.conflist.is_empty() {
        of_multus(&options.cache_dir, &mut networks);
    }
    if networks.is_empty() && !options.none_will_do {
        return Err(Error::Usage(format!(
            "no conflist with an OVS plugin in {}, and none that multus called for a pod beside {}; \
             name one with --conflist",
            options.net_dir.display(),
            options.cache_dir.display()
        )));
    }
    Ok(networks)
}

/// Adds networks that are in NetworkAttachmentDefinitions, as multus remembers them of its pods.
/// What the last ADD wrote down of one is newer than that.
fn of_multus(cache_dir: &Path, networks: &mut BTreeMap<NetworkName, Network>) {
    let mut remembered: Vec<_> = configs_of_multus(cache_dir)
        .into_iter()
        .filter_map(|text| Some((conflist::inspect(&text).ok()?, text)))
        .filter(|(found, _)| found.ours.is_some() || found.ovs.is_some())
        .collect();
    // Of one network: how it is with the entry, if some pod began with it.
    remembered.sort_by_key(|(found, _)| found.ours.is_none());
    for (found, text) in remembered {
        let name = found.name.as_deref().unwrap_or_default().parse::<NetworkName>();
        let Ok(name) = name else { continue };
        // As `conflist add` would have it: addresses of a cluster-wide IPAM are no evidence.
        let with_entry = match conflist::add_text(&text, &conflist::Options::default()) {
            Ok(edit) => edit.text,
            Err(_) if found.ours.is_some() => text,
            Err(_) => continue,
        };
        let (config, _) = Config::parse(&networks::settings(&with_entry));
        let state = NetworkState { config, ..NetworkState::default() };
        networks.entry(name).or_insert(Network { state, ours: false });
    }
}

fn text(screen: Screen, adopted: &Adopted, dry_run: bool) -> Text {
    let mut table = Table::new(
        &["POD", "CONTAINER", "BRIDGE", "PORT", "OFPORT", "IP"],
        &["OFPORT", "PORT", "CONTAINER", "BRIDGE"],
    );
    for record in &adopted.adopted {
        let ips: Vec<_> = record.ips.iter().map(ToString::to_string).collect();
        table.row(vec![
            record.title(),
            output::short(record.key.container.as_str()),
            output::or_dash(record.bridge.as_ref()),
            output::or_dash(record.port.as_ref()),
            output::or_dash(record.ofport),
            ips.join(","),
        ]);
    }
    let mut text = Text::default();
    if !table.is_empty() {
        text = table.text(screen);
        text.push("\n");
    }
    for skipped in &adopted.skipped {
        text.push(&format!("not adopted: {skipped}\n"));
    }
    let verb = if dry_run { "would be adopted" } else { "adopted" };
    text.push(&format!("{} {verb}", output::counted(adopted.adopted.len() as u64, "pod")));
    if !adopted.again.is_empty() {
        let them = adopted.again.len();
        text.push(&format!(", {them} of them again: they live and had been taken for dead"));
    }
    text
}
