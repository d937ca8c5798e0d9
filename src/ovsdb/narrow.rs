//! Asking only for the rows that could be a pod's. OVSDB has no joins and a reply costs by
//! its size (27 µs a port for everything), while a scan by name or external_ids costs
//! microseconds: a few tiny round trips beat one large one. Rows are joined by uuid. An
//! OVSDB row exists only while a bridge refers to it, through its port: one that ends up
//! without a bridge was changed between the trips, and everything is asked again.

use serde_json::{Value, json};

use super::client::Client;
use super::error::Error;
use super::find::{How, Wanted, find_port, kube_ovn_names, netns_spellings};
use super::rows::{BRIDGE, INTERFACE, PORT, Rows, SWITCH, rows_of, select};
use super::snapshot::Snapshot;
use super::value::{Datum, map, row};
use crate::model::row::{RowId, RowSet};

/// How often to ask again when rows keep changing.
const TRIES: u32 = 10;

/// What ADD needs.
pub(super) fn find(client: &mut Client, wanted: &Wanted<'_>) -> Result<Snapshot, Error> {
    steady(|| find_once(client, wanted))
}

fn steady(mut once: impl FnMut() -> Result<Option<Snapshot>, Error>) -> Result<Snapshot, Error> {
    for _ in 0..TRIES {
        if let Some(snapshot) = once()? {
            return Ok(snapshot);
        }
    }
    Err(Error::Changed { what: "the port that was looked for".to_owned() })
}

fn find_once(client: &mut Client, wanted: &Wanted<'_>) -> Result<Option<Snapshot>, Error> {
    let mut gather = Gather::default();
    let names = kube_ovn_names(wanted.container_id, wanted.ifname);
    let mut first = Vec::new();
    for name in wanted.host_interfaces.iter().copied().chain(names.iter().map(String::as_str)) {
        first.extend(by_name(name));
    }
    gather.start(client, first)?;
    let Some(snapshot) = gather.snapshot()? else { return Ok(None) };
    if find_port(&snapshot, wanted).is_some_and(|found| found.by == How::HostInterface) {
        return Ok(Some(snapshot));
    }
    let mut second = Vec::new();
    by_container(wanted, &mut second);
    by_netns(wanted, &mut second);
    by_pod(wanted, &mut second);
    by_mac(wanted, &mut second);
    gather.more(client, second)?;
    gather.snapshot()
}

/// Rows to ask for, by one condition.
enum Ask {
    Port(Value),
    Interface(Value),
}

impl Ask {
    fn port_ids(pairs: &[(&str, &str)]) -> Self {
        Self::Port(json!(["external_ids", "includes", map(pairs.iter().copied())]))
    }

    fn interface_ids(pairs: &[(&str, &str)]) -> Self {
        Self::Interface(json!(["external_ids", "includes", map(pairs.iter().copied())]))
    }

    fn operation(&self) -> Value {
        match self {
            Self::Port(condition) => select("Port", std::slice::from_ref(condition), PORT),
            Self::Interface(condition) => {
                select("Interface", std::slice::from_ref(condition), INTERFACE)
            }
        }
    }
}

fn by_name(name: &str) -> [Ask; 2] {
    let condition = json!(["name", "==", name]);
    [Ask::Port(condition.clone()), Ask::Interface(condition)]
}

fn by_container(wanted: &Wanted<'_>, asks: &mut Vec<Ask>) {
    let id = wanted.container_id;
    if !id.is_empty() {
        asks.push(Ask::port_ids(&[("container-id", id)]));
        asks.push(Ask::interface_ids(&[("sandbox", id)]));
        asks.push(Ask::interface_ids(&[("container_id", id)]));
    }
}

fn by_netns(wanted: &Wanted<'_>, asks: &mut Vec<Ask>) {
    for path in wanted.netns.map(netns_spellings).unwrap_or_default() {
        asks.push(Ask::port_ids(&[("contNetns", &path)]));
        asks.push(Ask::port_ids(&[("net-ns", &path)]));
        asks.push(Ask::interface_ids(&[("pod_netns", &path)]));
        // k-vswitch's.
        let bare = path.replace('/', "");
        asks.push(Ask::port_ids(&[("netns", &bare)]));
        asks.push(Ask::interface_ids(&[("netns", &bare)]));
    }
}

fn by_pod(wanted: &Wanted<'_>, asks: &mut Vec<Ask>) {
    let Some((namespace, name)) = wanted.pod else { return };
    if namespace.is_empty() || name.is_empty() {
        return;
    }
    asks.push(Ask::port_ids(&[("pod-namespace", namespace), ("pod-name", name)]));
    asks.push(Ask::interface_ids(&[("pod_namespace", namespace), ("pod_name", name)]));
    let kubernetes = [("k8s_pod_namespace", namespace), ("k8s_pod_name", name)];
    asks.push(Ask::port_ids(&kubernetes));
    asks.push(Ask::interface_ids(&kubernetes));
    asks.push(Ask::interface_ids(&[("iface-id", &format!("{namespace}_{name}"))]));
}

fn by_mac(wanted: &Wanted<'_>, asks: &mut Vec<Ask>) {
    for mac in wanted.macs.iter().filter(|m| !m.is_unusable()) {
        let mac = mac.to_string();
        asks.push(Ask::port_ids(&[("attached-mac", &mac)]));
        asks.push(Ask::interface_ids(&[("attached_mac", &mac)]));
        asks.push(Ask::Port(json!(["mac", "==", mac])));
    }
}

/// Rows collected over several trips.
#[derive(Default)]
struct Gather {
    rows: Rows,
    /// Interfaces and ports whose owner was asked for already: each is asked for once, so
    /// rows that vanish meanwhile end the trips rather than repeat them.
    asked: RowSet,
    placed: RowSet,
}

impl Gather {
    /// The first trip: bridges (without their lists of ports, which are long), patch ports
    /// (so that it is known which bridges are joined) and what is asked.
    fn start(&mut self, client: &mut Client, mut asks: Vec<Ask>) -> Result<(), Error> {
        asks.push(Ask::Interface(json!(["type", "==", "patch"])));
        let mut operations =
            vec![select("Open_vSwitch", &[], SWITCH), select("Bridge", &[], BRIDGE)];
        operations.extend(asks.iter().map(Ask::operation));
        let rows = &mut self.rows;
        client.read("looking for a port", operations, |outcomes| {
            let [switch, bridges, found @ ..] = outcomes else {
                return Err(Error::malformed("looking for a port: outcomes are missing"));
            };
            rows.add_switch(switch)?;
            rows.add_bridges(bridges)?;
            keep(rows, &asks, found)
        })?;
        self.join(client)
    }

    fn more(&mut self, client: &mut Client, asks: Vec<Ask>) -> Result<(), Error> {
        if asks.is_empty() {
            return Ok(());
        }
        let operations = asks.iter().map(Ask::operation).collect();
        let rows = &mut self.rows;
        client.read("looking for a port's marks", operations, |found| keep(rows, &asks, found))?;
        self.join(client)
    }

    /// Put together; `None` if a row has no place because it was changed meanwhile.
    fn snapshot(&self) -> Result<Option<Snapshot>, Error> {
        let ports: RowSet =
            self.rows.bridges.values().flat_map(|(_, ids)| ids.iter().copied()).collect();
        let owned: RowSet = self.rows.owned();
        let (all, interfaces) = (&self.rows.ports, &self.rows.interfaces);
        let whole = all.keys().all(|id| ports.contains(id))
            && interfaces.keys().all(|id| owned.contains(id))
            && owned.iter().all(|id| interfaces.contains_key(id));
        if whole { self.rows.assemble(false).map(Some) } else { Ok(None) }
    }

    /// Fetches what the rows at hand refer to or are referred to by. Two trips at most:
    /// interface to port, port to bridge.
    fn join(&mut self, client: &mut Client) -> Result<(), Error> {
        loop {
            let owned = self.rows.owned();
            let known = &self.rows.interfaces;
            let mut asks: Vec<Ask> = Vec::new();
            for id in known.keys().filter(|id| !owned.contains(*id)) {
                if self.asked.insert(*id) {
                    asks.push(Ask::Port(json!(["interfaces", "includes", row(*id)])));
                }
            }
            for id in owned.iter().filter(|id| !known.contains_key(*id)) {
                if self.asked.insert(*id) {
                    asks.push(Ask::Interface(json!(["_uuid", "==", row(*id)])));
                }
            }
            let homeless: Vec<RowId> =
                self.rows.ports.keys().copied().filter(|id| self.placed.insert(*id)).collect();
            if asks.is_empty() && homeless.is_empty() {
                return Ok(());
            }
            let mut operations: Vec<Value> = asks.iter().map(Ask::operation).collect();
            operations.extend(
                homeless.iter().map(|id| {
                    select("Bridge", &[json!(["ports", "includes", row(*id)])], &["_uuid"])
                }),
            );
            let rows = &mut self.rows;
            client.read("looking for a port's bridge", operations, |outcomes| {
                let (found, homes) = outcomes.split_at_checked(asks.len()).unwrap_or_default();
                keep(rows, &asks, found)?;
                for (port, home) in homeless.iter().zip(homes) {
                    for bridge in rows_of::<BridgeId>("looking for a port's bridge", home)? {
                        let entry = bridge.id.row().and_then(|id| rows.bridges.get_mut(&id));
                        if let Some((_, ports)) = entry {
                            ports.push(*port);
                        }
                    }
                }
                Ok(())
            })?;
        }
    }
}

#[derive(serde::Deserialize)]
struct BridgeId {
    #[serde(rename = "_uuid")]
    id: Datum,
}

fn keep(rows: &mut Rows, asks: &[Ask], outcomes: &[super::rpc::Outcome<'_>]) -> Result<(), Error> {
    for (ask, outcome) in asks.iter().zip(outcomes) {
        match ask {
            Ask::Port(_) => rows.add_ports(outcome)?,
            Ask::Interface(_) => rows.add_interfaces(outcome)?,
        }
    }
    Ok(())
}
