//! Everything read about this node at one moment: records and OVSDB.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::UNIX_EPOCH;

use crate::config::{Config, Mode, NetworkState};
use crate::model::attachment::{Attachment, Device, NetworkName};
use crate::model::records::Records;
use crate::model::row::{RowId, RowSet};
use crate::openflow;
use crate::ovsdb::{
    self, Arrived, Asked, Bridge, Check, Client, Interface, Marks, Moment, Port, Snapshot,
};
use crate::ovsdb::{marks, same_netns};
use crate::store::{self, KnownFiles, Registry, Version};
use crate::util::clock::{Stamp, boot_id};

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
    Registry(#[from] store::Error),
    /// The kernel's boot id.
    #[error("cannot read the kernel's boot id: {0}")]
    BootId(std::io::Error),
    /// A lease.
    #[error("the call that asked for it does not wait any longer")]
    Withdrawn,
}

/// What an error is about.
pub mod object {
    /// The database.
    pub const OVSDB: &str = "OVSDB";
    /// ovs-vswitchd.
    pub const SWITCH: &str = "ovs-vswitchd";
    /// The state directory.
    pub const STATE_DIRECTORY: &str = "the state directory";
    /// The kernel.
    pub const KERNEL: &str = "the kernel";
    /// A call that the daemon works for.
    pub const CALL: &str = "a call";
}

impl Error {
    /// What it is about: one of [`object`].
    #[must_use]
    pub fn object(&self) -> &'static str {
        match self {
            Self::Ovsdb(_) => object::OVSDB,
            Self::OpenFlow(_) => object::SWITCH,
            Self::Registry(_) => object::STATE_DIRECTORY,
            Self::BootId(_) => object::KERNEL,
            Self::Withdrawn => object::CALL,
        }
    }
}

/// Records and OVSDB, each read completely.
#[derive(Debug)]
pub struct NodeSnapshot {
    /// When.
    pub now: Stamp,
    /// This boot.
    pub boot_id: String,
    /// Active records.
    pub records: Records,
    /// Dead ones.
    pub tombstones: Records,
    /// Per network: configuration and what was learned.
    pub networks: BTreeMap<NetworkName, NetworkState>,
    /// OVSDB.
    pub ovs: Arc<Snapshot>,
    /// When ovs-vswitchd started, from its pid file.
    pub switch_started: Option<Stamp>,
    /// Addresses that nobody in the cluster has: [`CleanRequest::free`](super::CleanRequest::free).
    pub free: Option<BTreeSet<IpAddr>>,
    /// For telling whether all this still holds.
    moment: Moment,
    pub(super) version: Option<Version>,
    /// What the records were read from.
    pub(super) files: KnownFiles,
}

/// A snapshot that is being read: the database has been asked.
#[derive(Debug)]
pub(super) struct Reading {
    registry_snapshot: store::RegistrySnapshot,
    asked: Asked,
    now: Stamp,
}

/// One whose answer has come.
#[derive(Debug)]
pub(super) struct Answered {
    registry_snapshot: store::RegistrySnapshot,
    arrived: Arrived,
    now: Stamp,
}

/// What a port was found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Row,
    /// Its row, which is another's by its marks or its device: the next pod's, or its own that
    /// keeps a predecessor's marks. Who lives keeps it, who is dead does not have it.
    ReusedRow,
    Marks,
    Device,
    /// Nothing else speaks for it, or against.
    Name,
}

/// An index into the bridges of a node's database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BridgeId(pub usize);

/// An interface with where it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PortLocation<'w> {
    pub(crate) bridge: BridgeId,
    pub(crate) port: &'w Port,
    pub(crate) interface: &'w Interface,
}

impl NodeSnapshot {
    /// A snapshot that has only a switch. Nothing can tell whether it still holds.
    #[must_use]
    pub fn of(now: Stamp, boot_id: String, ovs: Arc<Snapshot>) -> Self {
        Self {
            now,
            boot_id,
            records: Records::default(),
            tombstones: Records::default(),
            networks: BTreeMap::new(),
            ovs,
            switch_started: None,
            free: None,
            moment: Moment::default(),
            version: None,
            files: KnownFiles::default(),
        }
    }

    /// Reads it. Without a registry there are no records.
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

    /// Reads it once more. `version` is what its records count as: they are not read again if nobody
    /// else has written since, and neither is what was learned and written down meanwhile.
    pub(super) fn again(
        &self,
        registry: Option<&Registry>,
        version: Option<Version>,
        run_dir: &Path,
        client: &mut Client,
    ) -> Result<Self, Error> {
        let asked = client.ask()?;
        if !registry.is_none_or(|registry| registry.unchanged(version)) {
            let known = store::RegistrySnapshot {
                attachments: self.records.clone(),
                tombstones: self.tombstones.clone(),
                files: self.files.clone(),
                ..store::RegistrySnapshot::default()
            };
            let reading = Self::begin(registry, Some(known), asked, self.now);
            return reading.answered(client)?.finish(run_dir, client);
        }
        let (ovs, moment) = client.answered(asked)?;
        let mut node = Self::of(self.now, self.boot_id.clone(), ovs);
        node.records = self.records.clone();
        node.tombstones = self.tombstones.clone();
        node.networks = self.networks.clone();
        node.switch_started = switch_started(run_dir, self.now);
        (node.moment, node.version, node.files) = (moment, version, self.files.clone());
        Ok(node)
    }

    /// Reads the records while the database works on its answer. (A record or a row that
    /// came between the two is found out before a commit: [`NodeSnapshot::is_current`].) What is
    /// `known` is not read again if nobody has written since.
    pub(super) fn begin(
        registry: Option<&Registry>,
        known: Option<store::RegistrySnapshot>,
        asked: Asked,
        now: Stamp,
    ) -> Reading {
        let registry_snapshot = match registry {
            Some(registry) => registry.snapshot_or(known),
            None => Ok(store::RegistrySnapshot::default()),
        };
        let registry_snapshot = registry_snapshot.unwrap_or_else(|failed| {
            store::RegistrySnapshot { failures: vec![failed], ..store::RegistrySnapshot::default() }
        });
        Reading { registry_snapshot, asked, now }
    }

    /// Whether nothing was written since this snapshot was read: no record, and no row of
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

    /// A bridge.
    #[must_use]
    pub fn bridge(&self, id: BridgeId) -> Option<&Bridge> {
        self.ovs.bridges.get(id.0)
    }

    /// All of them.
    pub(super) fn bridge_ids(&self) -> impl Iterator<Item = BridgeId> {
        (0..self.ovs.bridges.len()).map(BridgeId)
    }

    pub(super) fn bridge_named(&self, name: &str) -> Option<BridgeId> {
        self.ovs.bridges.iter().position(|bridge| bridge.name == *name).map(BridgeId)
    }

    pub(crate) fn places(&self) -> impl Iterator<Item = PortLocation<'_>> {
        self.ovs.bridges.iter().zip(self.bridge_ids()).flat_map(|(b, bridge)| {
            b.ports.iter().flat_map(move |port| {
                port.interfaces.iter().map(move |interface| PortLocation {
                    bridge,
                    port,
                    interface,
                })
            })
        })
    }

    fn at(&self, [bridge, port, interface]: [usize; 3]) -> Option<PortLocation<'_>> {
        let bridge = BridgeId(bridge);
        let port = self.bridge(bridge)?.ports.get(port)?;
        Some(PortLocation { bridge, port, interface: port.interfaces.get(interface)? })
    }

    pub(super) fn row(&self, id: RowId) -> Option<PortLocation<'_>> {
        self.ovs.place_of_row(id).and_then(|at| self.at(at))
    }

    /// The interface that has this number on a bridge; the first, if two have it.
    pub(super) fn numbered(&self, bridge: BridgeId, number: u16) -> Option<PortLocation<'_>> {
        self.ovs.place_of_number(bridge.0, number).and_then(|at| self.at(at))
    }

    fn named(&self, name: &str) -> Option<PortLocation<'_>> {
        self.ovs.place_of_name(name).and_then(|at| self.at(at))
    }

    /// Where an attachment's port is now: its row, else a row of its port's name (a port that is
    /// attached anew has a new row). Names and rows are given to the next pod, too: marks or a
    /// device that contradict the record make it another's.
    fn port_of(&self, record: &Attachment) -> Option<(PortLocation<'_>, By)> {
        if let Some(place) = self.recorded_row_of(record) {
            let by = if self.is_anothers(&place, record) { By::ReusedRow } else { By::Row };
            return Some((place, by));
        }
        let place = self.named(record.port.as_deref()?)?;
        let here = self.bridge(place.bridge).map(|b| &b.name) == record.bridge.as_ref();
        let marked = marked_as(place.port, place.interface, record);
        match (marked, has_device(place.interface, record, &self.boot_id)) {
            (Some(its), _) => its.then_some((place, By::Marks)),
            (None, Some(its)) => its.then_some((place, By::Device)),
            (None, None) => here.then_some((place, By::Name)),
        }
    }

    /// The rows that a record or a tombstone explains.
    pub(super) fn recorded_rows(&self) -> RowSet {
        let records = self.records.iter().chain(&self.tombstones);
        records.filter_map(|record| self.place_of(record)).map(|p| p.interface.id).collect()
    }

    /// Whether an interface is somebody else's by its marks, or by its device if they do not say.
    fn is_anothers(&self, place: &PortLocation<'_>, record: &Attachment) -> bool {
        is_anothers(place.port, place.interface, record, &self.boot_id)
    }

    /// The row that an attachment had, if it was not given to somebody else since (a
    /// representor's, or `--may-exist add-port`). One that is gone is nobody else's.
    pub(super) fn former_row_of(&self, record: &Attachment) -> Option<RowId> {
        let id = record.interface?;
        let reused = self.row(id).is_some_and(|place| self.is_anothers(&place, record));
        (!reused).then_some(id)
    }

    /// A live attachment's interface now. Where nothing but the name speaks for it, or its row
    /// seems to be another's, it is its own as far as keeping goes: nothing of it is written down.
    pub(crate) fn place_of(&self, record: &Attachment) -> Option<PortLocation<'_>> {
        let row = self.recorded_row_of(record);
        row.or_else(|| self.port_of(record).map(|(place, _)| place))
    }

    /// The row that a record names, whoever has it now.
    pub(super) fn recorded_row_of(&self, record: &Attachment) -> Option<PortLocation<'_>> {
        record.interface.and_then(|id| self.row(id))
    }

    /// The interface of an attachment that lives or whose DEL is under way, where it is certain.
    pub(super) fn certain_place_of(&self, record: &Attachment) -> Option<PortLocation<'_>> {
        let certain = |by: &By| matches!(by, By::Row | By::Marks | By::Device);
        self.port_of(record).filter(|(_, by)| certain(by)).map(|(place, _)| place)
    }

    /// A dead attachment's own interface, if it is still there and nobody alive has it. Its device
    /// is no evidence: another pod may have been given it. (While a DEL is under way it is the
    /// dead pod's still: `unrecorded::resolve`.)
    pub(crate) fn own_place_of(
        &self,
        dead: &Attachment,
        claimed: &RowSet,
    ) -> Option<PortLocation<'_>> {
        let own = self.port_of(dead).filter(|(_, by)| matches!(by, By::Row | By::Marks));
        own.map(|(place, _)| place).filter(|own| !claimed.contains(&own.interface.id))
    }

    /// The bridges that an attachment may have entries on. Empty: they are all
    /// gone from OVSDB.
    #[must_use]
    pub fn bridges_of(&self, record: &Attachment) -> Vec<BridgeId> {
        let config = self.config(&record.key.network);
        let index = |name: &String| self.bridge_named(name);
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
            None => self.bridge_ids().collect(),
        }
    }

    /// When an attachment was given the number that it has now and its record does not know yet,
    /// at the latest. Every start of ovs-vswitchd gives numbers anew.
    #[must_use]
    pub fn number_changed(&self, record: &Attachment) -> Stamp {
        let known = record.ofport_since.map_or(record.created, |since| since.max(record.created));
        self.switch_started.filter(|start| start.boot_ms > known.boot_ms).unwrap_or(self.now)
    }
}

impl Reading {
    /// Waits for the database's answer.
    pub(super) fn answered(self, client: &mut Client) -> Result<Answered, Error> {
        let Self { registry_snapshot, asked, now } = self;
        Ok(Answered { registry_snapshot, arrived: client.arrived(asked)?, now })
    }
}

impl Answered {
    /// A network's state as recorded.
    pub(super) fn network(&self, name: &NetworkName) -> NetworkState {
        let network = self.registry_snapshot.networks.iter().find(|n| n.name == *name);
        network.and_then(|n| n.state().ok().flatten()).unwrap_or_default()
    }

    /// Puts it together.
    pub(super) fn finish(self, run_dir: &Path, client: &mut Client) -> Result<NodeSnapshot, Error> {
        let Self { mut registry_snapshot, arrived, now } = self;
        let (ovs, moment) = client.read_arrived(arrived)?;
        // What could not be read may be alive.
        if let Some(failed) = registry_snapshot.failures.pop() {
            return Err(failed.into());
        }
        let networks = network_states(&registry_snapshot);
        let store::RegistrySnapshot { attachments, tombstones, version, files, .. } =
            registry_snapshot;
        let mut node = NodeSnapshot::of(now, boot_id().map_err(Error::BootId)?, ovs);
        (node.records, node.tombstones, node.networks) = (attachments, tombstones, networks);
        node.switch_started = switch_started(run_dir, now);
        (node.moment, node.version, node.files) = (moment, version, files);
        Ok(node)
    }
}

/// Whether a row is somebody else's by its marks, or by its device if they do not say.
pub(crate) fn is_anothers(
    port: &Port,
    interface: &Interface,
    record: &Attachment,
    boot: &str,
) -> bool {
    let its = marked_as(port, interface, record).or_else(|| has_device(interface, record, boot));
    its == Some(false)
}

/// Whether the device behind an interface is the one that an attachment had.
fn has_device(interface: &Interface, record: &Attachment, boot: &str) -> Option<bool> {
    let (was, is) = (record.device?, device_of(interface)?);
    // Indexes begin anew with a boot, and with a node that is a container.
    if record.boot_id != boot {
        return None;
    }
    let same_mac = was.mac == is.mac || was.mac.is_none() || is.mac.is_none();
    match was.ifindex == is.ifindex {
        true => same_mac.then_some(true),
        false => Some(false),
    }
}

/// Whether the marks of a port name this attachment. `None`: they do not say.
pub(crate) fn marked_as(port: &Port, interface: &Interface, record: &Attachment) -> Option<bool> {
    are_of(&marks(port, interface)?, record)
}

/// Whether marks name this attachment, if they name anybody by what no two pods have.
fn are_of(marks: &Marks, record: &Attachment) -> Option<bool> {
    let differ = |ours: &str, theirs: Option<&str>| {
        !ours.is_empty() && theirs.is_some_and(|theirs| theirs != ours)
    };
    let uid = record.pod.as_ref().map_or("", |pod| pod.uid.as_str());
    if differ(record.key.ifname.as_str(), marks.ifname.as_deref())
        || differ(uid, marks.pod_uid.as_deref())
    {
        return Some(false);
    }
    if let Some(container) = marks.container_id.as_deref() {
        return Some(container == record.key.container.as_str());
    }
    let path = record.netns.as_ref().map(|n| n.path.as_str()).filter(|path| !path.is_empty());
    Some(same_netns(path?, marks.netns.as_deref()?))
}

/// The device behind an interface, if it is there.
pub(crate) fn device_of(interface: &Interface) -> Option<Device> {
    let ifindex = interface.ifindex.filter(|index| *index != 0)?;
    Some(Device { ifindex, mac: interface.mac_in_use })
}

/// The pid file is written at start: its mtime is when ovs-vswitchd started.
pub(crate) fn switch_started(run_dir: &Path, now: Stamp) -> Option<Stamp> {
    let written = std::fs::metadata(run_dir.join("ovs-vswitchd.pid")).ok()?.modified().ok()?;
    let wall = u64::try_from(written.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()?;
    Stamp::of_wall(wall, now)
}

/// What each network's `config.json` holds. Where there is none, or one that cannot be read,
/// nobody knows which flows are in scope, what a register means there, or whether anything is
/// to be deleted at all: then nothing is, until an ADD writes it down again or a call brings
/// its configuration along.
#[must_use]
pub fn network_states(
    registry_snapshot: &store::RegistrySnapshot,
) -> BTreeMap<NetworkName, NetworkState> {
    let mut states = BTreeMap::new();
    for network in &registry_snapshot.networks {
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

#[cfg(test)]
mod tests;
