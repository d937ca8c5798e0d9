//! Rows for unit tests.

use std::collections::BTreeMap;

use super::{Bridge, Interface, Ofport, Port, Snapshot};
use crate::model::row::RowId;

/// An interface with number 5, whose device has index 7, and no marks.
pub(crate) fn interface(id: u128, name: &str) -> Interface {
    Interface {
        id: RowId(id),
        name: name.to_owned(),
        kind: String::new(),
        ofport: Ofport::Number(5),
        ofport_request: None,
        external_ids: BTreeMap::new(),
        mac_in_use: None,
        ifindex: Some(7),
        error: None,
        patch_peer: None,
    }
}

/// An untagged port of one interface and its name.
pub(crate) fn port(id: u128, marks: &[(&str, &str)], interface: Interface) -> Port {
    Port {
        id: RowId(id),
        name: interface.name.clone(),
        external_ids: marks.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        mac: None,
        vlans: Vec::new(),
        interfaces: vec![interface],
    }
}

/// All that there is: `br0` with these ports.
pub(crate) fn one_bridge(ports: Vec<Port>) -> Snapshot {
    let bridge = Bridge {
        id: RowId(1),
        name: "br0".to_owned(),
        datapath_type: String::new(),
        protocols: Vec::new(),
        fail_mode: None,
        ports,
    };
    Snapshot { complete: true, bridges: vec![bridge], ..Snapshot::default() }
}
