//! Everything read about this node at one moment: records and OVSDB.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::UNIX_EPOCH;

use crate::attachment::{Attachment, NetworkName};
use crate::clock::{Stamp, boot_id};
use crate::config::{Config, Mode, NetworkState};
use crate::openflow;
use crate::ovsdb::marks;
use crate::ovsdb::{self, Arrived, Asked, Check, Client, Interface, Moment, Port, Snapshot};
use crate::registry::{self, Registry, Version};
use crate::stale::case::{RowId, RowMap, RowSet};

/// What can go wrong on the way to a verdict.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database.
    #[error(transparent)]
    Ovsdb(#[from] ovsdb::Error),
    /// A bridge.
    #[error(transparent)]
    OpenFlow(#[from] openflow::Error),
    /// The state directory.
    #[error(transparent)]
    Registry(#[from] registry::Error),
    /// The kernel's boot id.
    #[error("cannot read the kernel's boot id: {0}")]
    BootId(std::io::Error),
}

/// Records and OVSDB, each read completely.
#[derive(Debug)]
pub struct World {
    /// When; every age is counted back from here.
    pub now: Stamp,
    /// This boot.
    pub boot_id: String,
    /// Active records.
    pub records: Vec<Attachment>,
    /// Dead ones.
    pub tombstones: Vec<Attachment>,
    /// Per network: configuration and what was learned.
    pub networks: BTreeMap<NetworkName, NetworkState>,
    /// OVSDB.
    pub ovs: Arc<Snapshot>,
    /// When ovs-vswitchd started, from its pid file.
    pub switch_started: Option<Stamp>,
    /// Addresses that nobody in the cluster has: [`Engine::free`](super::Engine::free).
    pub free: Option<BTreeSet<IpAddr>>,
    /// For telling whether all this still holds.
    moment: Moment,
    pub(super) version: Option<Version>,
    /// Where an interface is, by row and by name: bridge, port, interface.
    by_row: RowMap<[usize; 3]>,
    by_name: HashMap<String, [usize; 3]>,
}

/// A world that is being read: the database has been asked.
#[derive(Debug)]
pub(super) struct Reading {
    everything: registry::Everything,
    asked: Asked,
    now: Stamp,
}

/// One whose answer has come.
#[derive(Debug)]
pub(super) struct Answered {
    everything: registry::Everything,
    arrived: Arrived,
    now: Stamp,
}

/// An interface with where it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'w> {
    pub(crate) bridge: usize,
    pub(crate) port: &'w Port,
    pub(crate) interface: &'w Interface,
}

impl World {
    /// A world that has only a switch. Nothing can tell whether it still holds.
    #[must_use]
    pub fn of(now: Stamp, boot_id: String, ovs: Arc<Snapshot>) -> Self {
        let (mut by_row, mut by_name) = (RowMap::default(), HashMap::new());
        for (b, bridge) in ovs.bridges.iter().enumerate() {
            for (p, port) in bridge.ports.iter().enumerate() {
                for (i, interface) in port.interfaces.iter().enumerate() {
                    by_row.insert(interface.id, [b, p, i]);
                    by_name.insert(interface.name.clone(), [b, p, i]);
                }
            }
        }
        Self {
            now,
            boot_id,
            records: Vec::new(),
            tombstones: Vec::new(),
            networks: BTreeMap::new(),
            ovs,
            switch_started: None,
            free: None,
            moment: Moment::default(),
            version: None,
            by_row,
            by_name,
        }
    }

    /// Reads it; ages count from `now`. Without a registry there are no records.
    ///
    /// # Errors
    /// If OVSDB does not answer completely or the records cannot be listed: absence is
    /// believed only after a complete answer.
    pub fn read(
        registry: Option<&Registry>,
        run_dir: &Path,
        client: &mut Client,
        now: Stamp,
    ) -> Result<Self, Error> {
        let asked = client.ask()?;
        let reading = Self::begin(registry, None, asked, now);
        reading.answered(client)?.finish(run_dir, client)
    }

    /// Reads the records while the database works on its answer. (A record or a row that
    /// came between the two is found out before a commit: [`World::is_current`].) What is
    /// `known` is not read again if nobody has written since.
    pub(super) fn begin(
        registry: Option<&Registry>,
        known: Option<registry::Everything>,
        asked: Asked,
        now: Stamp,
    ) -> Reading {
        let everything = match registry {
            Some(registry) => registry.snapshot_or(known),
            None => Ok(registry::Everything::default()),
        };
        let everything = everything.unwrap_or_else(|failed| registry::Everything {
            failures: vec![failed],
            ..registry::Everything::default()
        });
        Reading { everything, asked, now }
    }

    /// Whether nothing was written since this world was read: no record, and no row of
    /// OVSDB. `version` is what its records count as.
    pub(super) fn is_current(
        &self,
        registry: Option<&Registry>,
        version: Option<Version>,
        client: &mut Client,
        check: Check,
    ) -> Result<bool, Error> {
        let rows = client.answered_unchanged(check, self.moment)?;
        Ok(rows && registry.is_none_or(|registry| registry.unchanged(version)))
    }

    /// A network's state; the default for one that was never recorded.
    pub(crate) fn network(&self, name: &NetworkName) -> &NetworkState {
        static NEVER_RECORDED: LazyLock<NetworkState> = LazyLock::new(NetworkState::default);
        self.networks.get(name).unwrap_or(&NEVER_RECORDED)
    }

    /// A network's configuration.
    #[must_use]
    pub fn config(&self, name: &NetworkName) -> &Config {
        &self.network(name).config
    }

    pub(crate) fn places(&self) -> impl Iterator<Item = Place<'_>> {
        self.ovs.bridges.iter().enumerate().flat_map(|(bridge, b)| {
            b.ports.iter().flat_map(move |port| {
                port.interfaces.iter().map(move |interface| Place { bridge, port, interface })
            })
        })
    }

    fn at(&self, [bridge, port, interface]: [usize; 3]) -> Option<Place<'_>> {
        let port = self.ovs.bridges.get(bridge)?.ports.get(port)?;
        Some(Place { bridge, port, interface: port.interfaces.get(interface)? })
    }

    pub(super) fn row(&self, id: RowId) -> Option<Place<'_>> {
        self.by_row.get(&id).and_then(|at| self.at(*at))
    }

    fn named(&self, name: &str) -> Option<Place<'_>> {
        self.by_name.get(name).and_then(|at| self.at(*at))
    }

    /// A live attachment's interface now: its row, else the row that has its port's name
    /// (del-port and add-port in one transaction give a new row).
    pub(crate) fn place_of(&self, record: &Attachment) -> Option<Place<'_>> {
        record.interface.and_then(|id| self.row(id)).or_else(|| self.named(record.port.as_deref()?))
    }

    /// A dead attachment's own interface, if it is still there and nobody alive has it: its
    /// row, else a row of that name whose marks say that it is this container's.
    pub(crate) fn own_place_of(&self, dead: &Attachment, claimed: &RowSet) -> Option<Place<'_>> {
        let by_row = dead.interface.and_then(|id| self.row(id));
        let own = by_row
            .or_else(|| self.named(dead.port.as_deref()?).filter(|place| marked_as(place, dead)))?;
        (!claimed.contains(&own.interface.id)).then_some(own)
    }

    /// Indexes of the bridges that an attachment may have entries on. Empty: they are all
    /// gone from OVSDB.
    #[must_use]
    pub fn bridges_of(&self, record: &Attachment) -> Vec<usize> {
        let config = self.config(&record.key.network);
        let index = |name: &String| self.ovs.bridges.iter().position(|b| b.name == *name);
        if !config.bridges.is_empty() {
            return config.bridges.iter().filter_map(index).collect();
        }
        let own = self.place_of(record).map(|p| p.bridge);
        if let Some(named) = record.bridge.as_ref().or(config.bridge.as_ref()) {
            return own.or_else(|| index(named)).into_iter().collect();
        }
        match own {
            Some(bridge) => vec![bridge],
            // Nobody knows where its port was: its addresses may be matched anywhere.
            None => (0..self.ovs.bridges.len()).collect(),
        }
    }
}

impl Reading {
    /// Waits for the database's answer.
    pub(super) fn answered(self, client: &mut Client) -> Result<Answered, Error> {
        let Self { everything, asked, now } = self;
        Ok(Answered { everything, arrived: client.arrived(asked)?, now })
    }
}

impl Answered {
    /// A network's state as recorded.
    pub(super) fn network(&self, name: &NetworkName) -> NetworkState {
        let network = self.everything.networks.iter().find(|n| n.name == *name);
        network.and_then(|n| n.state().ok().flatten()).unwrap_or_default()
    }

    /// Puts it together.
    pub(super) fn finish(self, run_dir: &Path, client: &mut Client) -> Result<World, Error> {
        let Self { mut everything, arrived, now } = self;
        let (ovs, moment) = client.read_arrived(arrived)?;
        // What could not be read may be alive.
        if let Some(failed) = everything.failures.pop() {
            return Err(failed.into());
        }
        let networks = network_states(&everything);
        let registry::Everything { attachments, tombstones, version, .. } = everything;
        let mut world = World::of(now, boot_id().map_err(Error::BootId)?, ovs);
        (world.records, world.tombstones, world.networks) = (attachments, tombstones, networks);
        world.switch_started = switch_started(run_dir, now);
        (world.moment, world.version) = (moment, version);
        Ok(world)
    }
}

/// Whether an interface's marks name this container or its namespace.
fn marked_as(place: &Place<'_>, dead: &Attachment) -> bool {
    marks(place.port, place.interface).is_some_and(|marks| {
        let container = marks.container_id.as_deref() == Some(dead.key.container.as_str());
        let netns = dead.netns.as_ref().map(|n| n.path.as_str());
        container || (netns.is_some() && marks.netns.as_deref() == netns)
    })
}

/// The pid file is written at start: its mtime is when ovs-vswitchd started.
fn switch_started(run_dir: &Path, now: Stamp) -> Option<Stamp> {
    let written = std::fs::metadata(run_dir.join("ovs-vswitchd.pid")).ok()?.modified().ok()?;
    let wall = u64::try_from(written.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()?;
    Stamp::of_wall(wall, now)
}

/// What each network's `config.json` holds. Where there is none, or one that cannot be read,
/// nobody knows which flows are in scope, what a register means there, or whether anything is
/// to be deleted at all: then nothing is, until an ADD writes it down again or a call brings
/// its configuration along.
#[must_use]
pub fn network_states(everything: &registry::Everything) -> BTreeMap<NetworkName, NetworkState> {
    let mut states = BTreeMap::new();
    for network in &everything.networks {
        match network.state::<NetworkState>() {
            Ok(Some(state)) => {
                states.insert(network.name.clone(), state);
                continue;
            }
            Ok(None) => log::debug!("network {}: no configuration is recorded", network.name),
            Err(failed) => log::warn!("{failed}; nothing of this network is deleted"),
        }
        let mut state = NetworkState::default();
        state.config.mode = Mode::Observe;
        states.insert(network.name.clone(), state);
    }
    states
}
