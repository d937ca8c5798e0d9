//! The columns we read, as the server sends them. Only columns that have been there since
//! OVS 2.x; never whole rows (`statistics` changes every five seconds).

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::error::Error;
use super::rpc::{Outcome, parse};
use super::snapshot::{Bridge, Interface, Ofport, Ovn, Port, Snapshot};
use super::value::Datum;
use crate::model::row::{RowId, RowMap, RowSet};

pub(super) const SWITCH: &[&str] = &["external_ids", "ovs_version"];
pub(super) const BRIDGE: &[&str] = &["_uuid", "name", "datapath_type", "protocols", "fail_mode"];
pub(super) const BRIDGE_WHOLE: &[&str] =
    &["_uuid", "name", "datapath_type", "protocols", "fail_mode", "ports"];
pub(super) const PORT: &[&str] =
    &["_uuid", "name", "interfaces", "external_ids", "mac", "tag", "trunks"];
pub(super) const INTERFACE: &[&str] = &[
    "_uuid",
    "name",
    "type",
    "ofport",
    "ofport_request",
    "external_ids",
    "mac_in_use",
    "ifindex",
    "error",
    "options",
];

/// A `select` of some columns of the rows for which all conditions hold.
pub(super) fn select(table: &str, conditions: &[Value], columns: &[&str]) -> Value {
    json!({"op": "select", "table": table, "where": conditions, "columns": columns})
}

#[derive(Clone, Debug, Deserialize)]
struct SwitchRow {
    external_ids: Datum,
    ovs_version: Datum,
}

#[derive(Clone, Debug, Deserialize)]
struct BridgeRow {
    /// Not in a notification: it is the row's name there.
    #[serde(rename = "_uuid")]
    id: Option<Datum>,
    name: Datum,
    datapath_type: Datum,
    protocols: Datum,
    fail_mode: Datum,
    ports: Option<Datum>,
}

#[derive(Clone, Debug, Deserialize)]
struct PortRow {
    #[serde(rename = "_uuid")]
    id: Option<Datum>,
    name: Datum,
    interfaces: Datum,
    external_ids: Datum,
    mac: Datum,
    tag: Option<Datum>,
    trunks: Option<Datum>,
}

#[derive(Clone, Debug, Deserialize)]
struct InterfaceRow {
    #[serde(rename = "_uuid")]
    id: Option<Datum>,
    name: Datum,
    #[serde(rename = "type")]
    kind: Datum,
    ofport: Datum,
    ofport_request: Option<Datum>,
    external_ids: Datum,
    mac_in_use: Datum,
    ifindex: Datum,
    error: Datum,
    options: Datum,
}

/// The rows of one outcome.
pub(super) fn rows_of<'a, T: Deserialize<'a>>(
    doing: &'static str,
    outcome: &Outcome<'a>,
) -> Result<Vec<T>, Error> {
    let rows = outcome.rows.ok_or_else(|| Error::malformed(format!("{doing}: no rows")))?;
    parse(rows.get(), doing)
}

/// A column that must hold what it should: without it the answer means nothing.
pub(super) fn must<T>(table: &str, column: &str, value: Option<T>) -> Result<T, Error> {
    value.ok_or_else(|| Error::malformed(format!("{table}.{column} is not what it should be")))
}

/// Rows as they come in, before they are put together.
#[derive(Debug, Default)]
pub(super) struct Rows {
    switch: (Ovn, Option<String>),
    pub(super) bridges: RowMap<(Bridge, Vec<RowId>)>,
    /// With their interfaces' ids.
    pub(super) ports: RowMap<(Port, Vec<RowId>)>,
    pub(super) interfaces: RowMap<Interface>,
}

/// What became of a row: "new" is the whole of it, and is not there if it is gone (RFC 7047,
/// section 4.1.6).
#[derive(Deserialize)]
struct Update<T> {
    new: Option<T>,
}

type Updates<T> = BTreeMap<String, Update<T>>;

/// Does to a table's rows what a notification says of them.
fn follow<T: DeserializeOwned, R>(
    rows: &mut RowMap<R>,
    updates: &str,
    doing: &'static str,
    read: impl Fn(&T, RowId) -> Result<R, Error>,
) -> Result<(), Error> {
    for (name, update) in parse::<Updates<T>>(updates, doing)? {
        let id = name.parse().map_err(|_| Error::malformed(format!("{doing}: no row: {name}")))?;
        match update.new {
            Some(row) => drop(rows.insert(id, read(&row, id)?)),
            None => drop(rows.remove(&id)),
        }
    }
    Ok(())
}

impl SwitchRow {
    fn read(&self) -> Result<(Ovn, Option<String>), Error> {
        let ids = must("Open_vSwitch", "external_ids", self.external_ids.text_map())?;
        Ok((Ovn::read(&ids), self.ovs_version.text()))
    }
}

fn id_of(table: &str, id: Option<&Datum>) -> Result<RowId, Error> {
    must(table, "_uuid", id.and_then(Datum::row))
}

impl BridgeRow {
    fn read(&self, id: RowId) -> Result<(Bridge, Vec<RowId>), Error> {
        let ports = match &self.ports {
            Some(ports) => must("Bridge", "ports", ports.rows())?,
            None => Vec::new(),
        };
        let bridge = Bridge {
            id,
            name: must("Bridge", "name", self.name.text())?,
            datapath_type: self.datapath_type.text().unwrap_or_default(),
            protocols: self.protocols.texts(),
            fail_mode: self.fail_mode.text(),
            ports: Vec::new(),
        };
        Ok((bridge, ports))
    }
}

impl PortRow {
    fn vlans(&self) -> Vec<u16> {
        let both = self.tag.iter().chain(&self.trunks).flat_map(Datum::integers);
        both.filter_map(|id| u16::try_from(id).ok()).filter(|id| (1..=4095).contains(id)).collect()
    }

    fn read(&self, id: RowId) -> Result<(Port, Vec<RowId>), Error> {
        let interfaces = must("Port", "interfaces", self.interfaces.rows())?;
        let port = Port {
            id,
            name: must("Port", "name", self.name.text())?,
            external_ids: must("Port", "external_ids", self.external_ids.text_map())?,
            mac: self.mac.text().and_then(|m| m.parse().ok()),
            vlans: self.vlans(),
            interfaces: Vec::new(),
        };
        Ok((port, interfaces))
    }
}

impl InterfaceRow {
    fn read(&self, id: RowId) -> Result<Interface, Error> {
        let options = must("Interface", "options", self.options.text_map())?;
        let request = self.ofport_request.as_ref().and_then(Datum::integer);
        Ok(Interface {
            id,
            name: must("Interface", "name", self.name.text())?,
            kind: self.kind.text().unwrap_or_default(),
            ofport: Ofport::read(self.ofport.integer()),
            ofport_request: Ofport::read(request).number(),
            external_ids: must("Interface", "external_ids", self.external_ids.text_map())?,
            mac_in_use: self.mac_in_use.text().and_then(|m| m.parse().ok()),
            ifindex: self.ifindex.integer().and_then(|i| u64::try_from(i).ok()),
            error: self.error.text(),
            patch_peer: options.get("peer").filter(|p| !p.is_empty()).cloned(),
        })
    }
}

impl Rows {
    pub(super) fn add_switch(&mut self, outcome: &Outcome<'_>) -> Result<(), Error> {
        let rows: Vec<SwitchRow> = rows_of("reading Open_vSwitch", outcome)?;
        let [switch] = rows.as_slice() else {
            return Err(Error::malformed(format!("{} Open_vSwitch rows, not one", rows.len())));
        };
        self.switch = switch.read()?;
        Ok(())
    }

    pub(super) fn add_bridges(&mut self, outcome: &Outcome<'_>) -> Result<(), Error> {
        for row in rows_of::<BridgeRow>("reading bridges", outcome)? {
            let id = id_of("Bridge", row.id.as_ref())?;
            self.bridges.insert(id, row.read(id)?);
        }
        Ok(())
    }

    pub(super) fn add_ports(&mut self, outcome: &Outcome<'_>) -> Result<(), Error> {
        for row in rows_of::<PortRow>("reading ports", outcome)? {
            let id = id_of("Port", row.id.as_ref())?;
            self.ports.insert(id, row.read(id)?);
        }
        Ok(())
    }

    pub(super) fn add_interfaces(&mut self, outcome: &Outcome<'_>) -> Result<(), Error> {
        for row in rows_of::<InterfaceRow>("reading interfaces", outcome)? {
            let id = id_of("Interface", row.id.as_ref())?;
            self.interfaces.insert(id, row.read(id)?);
        }
        Ok(())
    }

    /// Applies a notification: `params` are `[<monitor's id>, <table updates>]`.
    ///
    /// # Errors
    /// [`Error::Malformed`]; then these rows are good for nothing more.
    pub(super) fn apply(&mut self, params: &str) -> Result<(), Error> {
        let doing = "hearing of changes";
        let (_, tables): (IgnoredAny, BTreeMap<String, &RawValue>) = parse(params, doing)?;
        for (table, updates) in tables {
            let updates = updates.get();
            match table.as_str() {
                "Open_vSwitch" => {
                    for update in parse::<Updates<SwitchRow>>(updates, doing)?.into_values() {
                        self.switch = must("Open_vSwitch", "its only row", update.new)?.read()?;
                    }
                }
                "Bridge" => follow(&mut self.bridges, updates, doing, BridgeRow::read)?,
                "Port" => follow(&mut self.ports, updates, doing, PortRow::read)?,
                "Interface" => follow(&mut self.interfaces, updates, doing, InterfaceRow::read)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// The interfaces that the ports at hand have.
    pub(super) fn owned(&self) -> RowSet {
        self.ports.values().flat_map(|(_, ids)| ids.iter().copied()).collect()
    }

    /// Puts ports on bridges and interfaces on ports. In a complete answer a reference to
    /// a row that is not there means that something was lost; in a narrow one it is a row
    /// that nobody asked for.
    pub(super) fn assemble(&self, complete: bool) -> Result<Snapshot, Error> {
        let mut bridges = Vec::with_capacity(self.bridges.len());
        for (bridge, port_ids) in self.bridges.values() {
            let mut bridge = bridge.clone();
            for id in port_ids {
                match self.ports.get(id) {
                    Some((port, interfaces)) => {
                        let mut port = port.clone();
                        port.interfaces = self.interfaces_of(&port.name, interfaces, complete)?;
                        bridge.ports.push(port);
                    }
                    None if complete => return Err(lost("bridge", &bridge.name, "port", *id)),
                    None => {}
                }
            }
            bridge.ports.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
            bridges.push(bridge);
        }
        // A server allows each name once. An answer that does not is read the same way each time.
        bridges.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        let (ovn, ovs_version) = self.switch.clone();
        Ok(Snapshot { complete, ovn, ovs_version, bridges, ..Snapshot::default() })
    }

    fn interfaces_of(
        &self,
        port: &str,
        ids: &[RowId],
        complete: bool,
    ) -> Result<Vec<Interface>, Error> {
        let mut interfaces = Vec::with_capacity(ids.len());
        for id in ids {
            match self.interfaces.get(id) {
                Some(interface) => interfaces.push(interface.clone()),
                None if complete => return Err(lost("port", port, "interface", *id)),
                None => {}
            }
        }
        Ok(interfaces)
    }
}

fn lost(owner: &str, name: &str, what: &str, id: RowId) -> Error {
    Error::malformed(format!("{owner} {name} has {what} {id}, which is not in the answer"))
}
