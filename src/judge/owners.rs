//! Who owns each port number and each address of an input. It is made once for an input: the
//! survey makes it, and its [`Learned`](super::Learned) hands it on to the judge.

use foldhash::fast::RandomState;
use indexmap::IndexMap;
use smallvec::SmallVec;

use super::input::{Dead, DeadId, JudgeInput, Live, LiveId};
use super::tokens::{Field, is_pod_port, push_once};
use crate::model::flow::Address;
use crate::model::row::RowId;

/// One, as a rule.
pub(super) type Few<T> = SmallVec<[T; 1]>;

/// What is searched is small, and the rest is written one after the other: all of it is cold when
/// somebody dies.
type ByToken<K, V> = IndexMap<K, V, RandomState>;

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
    ports: ByToken<u16, PortOwners>,
    addresses: ByToken<Address, Owners>,
    /// The living attachments whose ports are not on the bridge now.
    pub(super) without_port: Vec<LiveId>,
    /// Somebody's number changed while it lived.
    pub(super) some_moved: bool,
    /// The distinct register fields of the input's networks.
    pub(super) fields: Vec<Field>,
}

impl TokenOwners {
    pub(super) fn of(input: &JudgeInput) -> Self {
        let owners = input.live.len().saturating_add(input.dead.len());
        let living: usize = input.live.values().map(|live| live.addresses.len()).sum();
        let dead: usize = input.dead.values().map(|dead| dead.addresses.len()).sum();
        let mut all = Self {
            ports: ByToken::with_capacity_and_hasher(owners, RandomState::default()),
            addresses: ByToken::with_capacity_and_hasher(
                living.saturating_add(dead),
                RandomState::default(),
            ),
            without_port: Vec::new(),
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
                add_owner(&mut self.ports.entry(*port).or_default().dead, i);
            }
            for address in dead.addresses.iter().filter(|a| !a.is_unusable()) {
                add_owner(&mut self.addresses.entry(*address).or_default().dead, i);
            }
        }
    }

    fn add_living(&mut self, input: &JudgeInput) {
        for (i, live) in input.live.iter() {
            if live.without_port {
                self.without_port.push(i);
            }
            if let Some(port) = live.ofport {
                add_owner(&mut self.ports.entry(port).or_default().live, i);
            }
            for port in live.previous_ofports.iter().filter(|p| live.ofport != Some(**p)) {
                add_owner(&mut self.ports.entry(*port).or_default().live_before, i);
            }
            for address in &live.addresses {
                add_owner(&mut self.addresses.entry(*address).or_default().live, i);
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

/// Adds an owner, once. Owners come one after the other: one that is there is the last.
fn add_owner<T: PartialEq>(owners: &mut Few<T>, owner: T) {
    if owners.last() != Some(&owner) {
        owners.push(owner);
    }
}
