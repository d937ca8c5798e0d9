//! Facts of a bridge for unit tests, here and in the modules above. A test says only what it is
//! about: `Dead { born: None, ..dead(5, &[]) }`.

use std::time::Duration;

use super::BasisFacts;
use super::input::{Dead, Live, LiveRegister, Network, NetworkId};
use crate::model::flow::Address;
use crate::model::register::{RegisterRule, RegisterSource};
use crate::model::row::RowId;
use crate::util::clock::{BootTime, Stamp};

/// A network whose values are in reg0, with everything as evidence.
pub(crate) fn network(source: RegisterSource) -> Network {
    Network {
        tables: None,
        cookie: 0,
        cookie_mask: 0,
        match_port: true,
        match_ip: true,
        match_mac: true,
        register: RegisterRule { index: 0, mask: u32::MAX, source },
        basis: BasisFacts::default(),
        shown: Vec::new(),
        reap_dangling: false,
    }
}

/// When the node was read: an hour after the boot. What is older than that was made before.
pub(crate) fn now() -> BootTime {
    BootTime::from(Stamp { boot_ms: 3_600_000, wall_ms: 0 })
}

/// So many seconds before.
pub(crate) fn ago(seconds: u64) -> BootTime {
    now() - Duration::from_secs(seconds)
}

/// Who died a minute ago, after a day, and whose linger time is over.
pub(crate) fn dead(port: u16, addresses: &[&str]) -> Dead {
    Dead {
        network: NetworkId(0),
        ofport: Some(port),
        previous_ofports: Vec::new(),
        unknown_ofports: false,
        number_since: None,
        held_number: Some(ago(86_400)),
        interface: Some(RowId(u128::from(port) + 1000)),
        addresses: addresses.iter().map(|a| address(a)).collect(),
        vlans: Vec::new(),
        vlans_before: Vec::new(),
        register: None,
        born: Some(ago(86_400)),
        earliest: None,
        died: ago(60),
        seen_alive: ago(60),
        lingered: true,
        recorded: true,
        holds_addresses: false,
        ip_evidence: true,
        mac_evidence: true,
        roams: false,
        member: None,
    }
}

/// Who has lived for a day and whose register value nobody knows.
pub(crate) fn live(port: u16, addresses: &[&str]) -> Live {
    Live {
        network: Some(NetworkId(0)),
        ofport: Some(port),
        previous_ofports: Vec::new(),
        unknown_ofports: false,
        number_since: None,
        held_number: Some(ago(86_400)),
        without_port: false,
        addresses: addresses.iter().map(|a| address(a)).collect(),
        vlans: Vec::new(),
        addresses_known: true,
        is_pod: true,
        register: LiveRegister::Unknown,
        born: Some(ago(86_400)),
        adding: false,
        member: None,
    }
}

/// An IP or a MAC.
pub(crate) fn address(text: &str) -> Address {
    text.parse().map(Address::Ip).or_else(|_| text.parse().map(Address::Mac)).unwrap()
}
