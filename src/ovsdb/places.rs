//! Where the interfaces of a snapshot are. It is made when it is first asked for, and once: a
//! snapshot that is kept from one clean-up to the next need not be gone through again.

use std::sync::OnceLock;

use foldhash::HashMap;

use super::snapshot::Bridge;
use crate::model::row::{RowId, RowMap};

/// A bridge, a port of it, an interface of that.
pub(crate) type Place = [usize; 3];

#[derive(Debug, Default)]
struct Index {
    by_row: RowMap<Place>,
    by_name: HashMap<String, Place>,
    /// Per bridge; of two interfaces with one number the first.
    by_number: HashMap<(usize, u16), Place>,
}

impl Index {
    fn of(bridges: &[Bridge]) -> Self {
        let mut index = Self::default();
        for (b, bridge) in bridges.iter().enumerate() {
            for (p, port) in bridge.ports.iter().enumerate() {
                for (i, interface) in port.interfaces.iter().enumerate() {
                    index.by_row.insert(interface.id, [b, p, i]);
                    index.by_name.insert(interface.name.clone(), [b, p, i]);
                    if let Some(number) = interface.ofport.number() {
                        index.by_number.entry((b, number)).or_insert([b, p, i]);
                    }
                }
            }
        }
        index
    }
}

/// See the module's head. It tells nothing that the bridges do not: two are always equal, and a
/// copy is made anew.
#[derive(Debug, Default)]
pub struct Places(OnceLock<Index>);

impl Places {
    fn index(&self, bridges: &[Bridge]) -> &Index {
        self.0.get_or_init(|| Index::of(bridges))
    }

    pub(super) fn of_row(&self, bridges: &[Bridge], id: RowId) -> Option<Place> {
        self.index(bridges).by_row.get(&id).copied()
    }

    pub(super) fn of_name(&self, bridges: &[Bridge], name: &str) -> Option<Place> {
        self.index(bridges).by_name.get(name).copied()
    }

    pub(super) fn of_number(&self, bridges: &[Bridge], of: (usize, u16)) -> Option<Place> {
        self.index(bridges).by_number.get(&of).copied()
    }
}

impl Clone for Places {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for Places {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Places {}
