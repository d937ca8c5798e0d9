//! Who owns each port number and each address of an input. It is made once for an input: the
//! survey makes it, and its [`Learned`](super::Learned) hands it on to the judge.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Deref;

use super::input::{Dead, DeadId, JudgeInput, Live, LiveId};
use super::tokens::{Field, is_pod_port, push_once};
use crate::model::flow::Address;
use crate::model::row::RowId;

/// A list of mostly one: it needs no memory of its own then.
#[derive(Debug)]
pub(super) enum Few<T> {
    One(T),
    Some(Vec<T>),
}

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self::Some(Vec::new())
    }
}

impl<T> Deref for Few<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::One(item) => std::slice::from_ref(item),
            Self::Some(items) => items,
        }
    }
}

impl<'f, T> IntoIterator for &'f Few<T> {
    type Item = &'f T;
    type IntoIter = std::slice::Iter<'f, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<T: Copy + PartialEq> Few<T> {
    /// Adds an owner, once. Owners come one after the other: one that is there is the last.
    fn add(&mut self, item: T) {
        if self.last() == Some(&item) {
            return;
        }
        match self {
            Self::One(one) => *self = Self::Some(vec![*one, item]),
            Self::Some(items) if items.is_empty() => *self = Self::One(item),
            Self::Some(items) => items.push(item),
        }
    }
}

/// Hashes a port's number: there are so few that nobody can choose some with one hash.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PortHasher(u64);

impl Hasher for PortHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u16(u16::from(*byte)));
    }

    fn write_u16(&mut self, port: u16) {
        // 2^64 divided by the golden ratio: neighbours are far apart.
        self.0 = (self.0 ^ u64::from(port)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

type PortMap = HashMap<u16, PortOwners, BuildHasherDefault<PortHasher>>;

/// Who has an address.
#[derive(Debug, Default)]
pub(super) struct Owners {
    pub(super) dead: Few<DeadId>,
    pub(super) live: Few<LiveId>,
}

/// Who has a port number.
#[derive(Debug, Default)]
pub(super) struct PortOwners {
    pub(super) dead: Few<DeadId>,
    pub(super) live: Few<LiveId>,
    /// The living that had it before. The dead that did are among `dead`.
    pub(super) live_before: Few<LiveId>,
    pub(super) row: Option<RowId>,
    /// The row is not of a dead attachment that had the number.
    pub(super) foreign: bool,
}

/// The owners of every token of an input. Only usable tokens of the dead are in it: an empty
/// or reserved value would match everybody's flows.
#[derive(Debug, Default)]
pub(super) struct TokenOwners {
    ports: PortMap,
    addresses: HashMap<Address, Owners>,
    /// Somebody's number changed while it lived.
    pub(super) some_moved: bool,
    /// The distinct register fields of the input's networks.
    pub(super) fields: Vec<Field>,
}

impl TokenOwners {
    pub(super) fn of(input: &JudgeInput) -> Self {
        let owners = input.live.len().saturating_add(input.dead.len());
        let mut all = Self {
            ports: PortMap::with_capacity_and_hasher(
                owners.max(input.ports.by_number.len()),
                BuildHasherDefault::default(),
            ),
            addresses: HashMap::with_capacity(owners.saturating_mul(2)),
            some_moved: input.dead.values().any(Dead::has_moved)
                || input.live.values().any(Live::has_moved),
            fields: Vec::new(),
        };
        all.add_dead(input);
        all.add_living(input);
        for (port, row) in &input.ports.by_number {
            let owners = all.ports.entry(*port).or_default();
            let mut dead = owners.dead.iter().filter_map(|i| input.dead.get(*i));
            owners.foreign = !dead.any(|d| d.interface == Some(*row));
            owners.row = Some(*row);
        }
        for field in input.networks.values().filter_map(|n| Field::of(&n.register)) {
            push_once(&mut all.fields, field);
        }
        all
    }

    fn add_dead(&mut self, input: &JudgeInput) {
        for (i, dead) in input.dead.iter() {
            if input.networks.get(dead.network).is_none() {
                continue;
            }
            let ports = dead.ofport.iter().chain(&dead.previous_ofports);
            for port in ports.filter(|p| is_pod_port(**p)) {
                self.ports.entry(*port).or_default().dead.add(i);
            }
            for address in dead.addresses.iter().filter(|a| !a.is_unusable()) {
                self.addresses.entry(*address).or_default().dead.add(i);
            }
        }
    }

    fn add_living(&mut self, input: &JudgeInput) {
        for (i, live) in input.live.iter() {
            if let Some(port) = live.ofport {
                self.ports.entry(port).or_default().live.add(i);
            }
            for port in live.previous_ofports.iter().filter(|p| live.ofport != Some(**p)) {
                self.ports.entry(*port).or_default().live_before.add(i);
            }
            for address in &live.addresses {
                self.addresses.entry(*address).or_default().live.add(i);
            }
        }
    }

    pub(super) fn port(&self, port: u16) -> Option<&PortOwners> {
        self.ports.get(&port)
    }

    pub(super) fn address(&self, address: Address) -> Option<&Owners> {
        self.addresses.get(&address)
    }
}
