//! What the core is told about one bridge: who is dead, who is alive, which ports there are.
//! All times are moments on the boot clock (no clock in here).

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::basis::BasisFacts;
use crate::model::flow::{Address, Flow};
use crate::model::register::{RegisterRule, RegisterSource};
use crate::model::row::RowId;
use crate::model::table::{Id, Table};
use crate::model::workload::Member;
use crate::util::clock::BootTime;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub struct $name(pub usize);

        impl Id for $name {
            fn of(index: usize) -> Self {
                Self(index)
            }

            fn index(self) -> usize {
                self.0
            }
        }
    )*};
}

ids! {
    /// The place of a network in [`JudgeInput::networks`].
    NetworkId,
    /// The place of a dead attachment in [`JudgeInput::dead`].
    DeadId,
    /// The place of a live owner in [`JudgeInput::live`].
    LiveId,
}

/// Everything about a bridge that a verdict depends on, but for its flows.
#[derive(Clone, Debug, Default)]
pub struct JudgeInput {
    /// The networks that have pods on this bridge.
    pub networks: Table<NetworkId, Network>,
    /// Dead attachments whose flows are looked for.
    pub dead: Table<DeadId, Dead>,
    /// Everybody else who may own a token on this bridge or one joined to it: live
    /// attachments, and OVSDB interfaces that no record explains.
    pub live: Table<LiveId, Live>,
    /// OVSDB's word of now on the bridge's port numbers.
    pub ports: Ports,
    /// When the node was read.
    pub now: BootTime,
    /// When ovs-vswitchd started, where known.
    pub switch_started: Option<BootTime>,
    /// ovn-controller runs this bridge: nothing here is stale.
    pub ovn: bool,
}

/// One network's rules.
#[derive(Clone, Debug)]
pub struct Network {
    /// Tables in scope; `None` is all.
    pub tables: Option<Vec<u8>>,
    /// Cookie and mask in scope.
    pub cookie: u64,
    /// Its mask; 0 is every cookie.
    pub cookie_mask: u64,
    /// Port numbers are evidence.
    pub match_port: bool,
    /// IPs are evidence.
    pub match_ip: bool,
    /// MACs are evidence.
    pub match_mac: bool,
    /// The register field and what makes its value a pod's own.
    pub register: RegisterRule,
    /// What is remembered of which token its learned values are computed from.
    pub basis: BasisFacts,
    /// What pods of workloads showed before: their register values. `None`: a value moved within
    /// a pod's life.
    pub shown: Vec<(Member, Option<u32>)>,
    /// Dangling flows (a port that is nobody's) are stale too.
    pub reap_dangling: bool,
}

impl Network {
    /// Whether no two pods of one workload are known yet that had different register values.
    #[must_use]
    pub fn waits_for_two(&self) -> bool {
        matches!(self.register.source, RegisterSource::Learn { distinct_seen: false, .. })
    }
}

/// A dead attachment.
#[derive(Clone, Debug)]
pub struct Dead {
    /// Whose rules apply.
    pub network: NetworkId,
    /// Its number on *this* bridge, if its port was here.
    pub ofport: Option<u16>,
    /// Numbers that it had here before, by its record: flows may still mean it by them.
    pub previous_ofports: Vec<u16>,
    /// It may have had numbers that its record does not know.
    pub unknown_ofports: bool,
    /// Since when it has had its number, at the latest, if it had another before; `None`: unknown.
    /// A start of ovs-vswitchd gives numbers before anybody puts entries, restored ones too.
    pub number_since: Option<BootTime>,
    /// The latest time at which it is known to have had its number, or the last that it had.
    pub held_number: Option<BootTime>,
    /// Its OVSDB Interface row.
    pub interface: Option<RowId>,
    /// Its own IPs and MACs.
    pub addresses: Vec<Address>,
    /// The VLANs that its port is known to have been in: tag, trunks, those that its own flows
    /// showed; [`UNTAGGED`] if it had no tag. Empty: nobody knows.
    pub vlans: Vec<u16>,
    /// Of these, those that OVSDB does not, or did not last, say of its port: the tag of former
    /// days, what flows showed. They are its own while no pod's port has them.
    pub vlans_before: Vec<u16>,
    /// Its register value, computed or learned while it lived (unmasked position, i.e.
    /// `value & !mask == 0`).
    pub register: Option<u32>,
    /// When it came to be, at the earliest; `None`: unknown.
    pub born: Option<BootTime>,
    /// Its first entry may have been made then. An older one was there before the pod, made for a
    /// slot: for a port number that is asked for, a fixed address. (One that was restored in bulk is
    /// older still than it looks.) `None`: unknown.
    pub earliest: Option<BootTime>,
    /// When its death was noticed.
    pub died: BootTime,
    /// When it was last seen alive; now for a DEL whose namespace is still there,
    /// `died` if nobody knows better. Two attachments that had one register value while
    /// both lived share it; the same value one after the other is only re-use.
    pub seen_alive: BootTime,
    /// The linger time has passed since.
    pub lingered: bool,
    /// There is a record. Without one nobody knows when its address was freed: rules 1, 2
    /// and 4 only.
    pub recorded: bool,
    /// Its addresses cannot be anybody else's yet: its DEL is under way, and the IPAM plugin's
    /// comes behind ours.
    pub holds_addresses: bool,
    /// IP-only evidence may be used: no other node can have its IPs now.
    pub ip_evidence: bool,
    /// The same of its MACs.
    pub mac_evidence: bool,
    /// Its addresses may find, or have, an owner on another node (`addressScope: cluster`), and
    /// nobody who knows says that they have none.
    pub roams: bool,
    /// Its workload, if its pod is known to be one of several that are made alike.
    pub member: Option<Member>,
}

impl Dead {
    /// Whether an entry was there before the attachment, for others than those whose entries it
    /// may have been left.
    #[must_use]
    pub fn is_younger_than(&self, flow: &Flow) -> bool {
        self.earliest.is_some_and(|earliest| flow.made < earliest)
    }

    /// Whether the number was its own, now or before.
    #[must_use]
    pub fn had(&self, port: u16) -> bool {
        self.ofport == Some(port) || self.previous_ofports.contains(&port)
    }

    /// Whether its number has changed, or may have, while it lived.
    #[must_use]
    pub fn has_moved(&self) -> bool {
        self.unknown_ofports || !self.previous_ofports.is_empty()
    }

    /// Whether its port is in the VLAN by what OVSDB said of it last.
    #[must_use]
    pub fn is_in_vlan(&self, vlan: u16) -> bool {
        self.vlans.contains(&vlan) && !self.vlans_before.contains(&vlan)
    }

    /// Whether an address of its own is evidence by itself: no other node can have it.
    #[must_use]
    pub fn is_evidence(&self, address: Address) -> bool {
        match address {
            Address::Ip(_) => self.ip_evidence,
            Address::Mac(_) => self.mac_evidence,
        }
    }
}

/// A live owner of tokens.
#[derive(Clone, Debug)]
pub struct Live {
    /// Its network, if it is an attachment of ours.
    pub network: Option<NetworkId>,
    /// Its number on this bridge, if its port is here.
    pub ofport: Option<u16>,
    /// Numbers that it had here before, by its record: flows may still mean it by them.
    pub previous_ofports: Vec<u16>,
    /// As [`Dead::unknown_ofports`].
    pub unknown_ofports: bool,
    /// As [`Dead::number_since`].
    pub number_since: Option<BootTime>,
    /// As [`Dead::held_number`].
    pub held_number: Option<BootTime>,
    /// It is an attachment of ours whose port is on no bridge now.
    pub without_port: bool,
    /// Its addresses.
    pub addresses: Vec<Address>,
    /// The VLANs of its port, by OVSDB. Empty: it may be in any.
    pub vlans: Vec<u16>,
    /// Its IPs and MACs are all known: if not, it may have any.
    pub addresses_known: bool,
    /// It is known to be a pod's or a machine's port, by a record or by marks: not an uplink.
    pub is_pod: bool,
    /// Its register value.
    pub register: LiveRegister,
    /// When it came to be, at the latest ("no entry older than this was made for it");
    /// `None`: unknown. That of an interface that no record explains is known while its ADD may be
    /// under way ([`Live::is_arriving`]).
    pub born: Option<BootTime>,
    /// It is being ADDed right now: its claims on tokens do not protect flows that are
    /// older than it *and* than the dead attachment's death (leftovers that ADD purges).
    pub adding: bool,
    /// Its workload, if its pod is known to be one of several that are made alike.
    pub member: Option<Member>,
}

/// By what it has. Two things tell nothing of that: its workload, which is asked for only until the
/// network's pods have been told apart, and since when it has its number.
impl PartialEq for Live {
    fn eq(&self, other: &Self) -> bool {
        // Every field is named, so that a new one is decided here.
        let Self {
            network,
            ofport,
            previous_ofports,
            unknown_ofports,
            number_since: _,
            held_number,
            without_port,
            addresses,
            vlans,
            addresses_known,
            is_pod,
            register,
            born,
            adding,
            member: _,
        } = self;
        *network == other.network
            && *ofport == other.ofport
            && *previous_ofports == other.previous_ofports
            && *unknown_ofports == other.unknown_ofports
            && *held_number == other.held_number
            && *without_port == other.without_port
            && *addresses == other.addresses
            && *vlans == other.vlans
            && *addresses_known == other.addresses_known
            && *is_pod == other.is_pod
            && *register == other.register
            && *born == other.born
            && *adding == other.adding
    }
}

impl Eq for Live {}

impl Live {
    /// Whether it stands for a dead attachment that is none of those judged now, and has not lost
    /// its register value yet.
    #[must_use]
    pub fn is_unjudged_dead(&self) -> bool {
        self.network.is_none() && self.ofport.is_none() && self.addresses_known
    }

    /// As [`Dead::has_moved`].
    #[must_use]
    pub fn has_moved(&self) -> bool {
        self.unknown_ofports || !self.previous_ofports.is_empty()
    }

    /// Whether it is a port that no record explains yet: a pod whose ADD may be under way, with
    /// addresses that nobody knows. Entries that are not older than it may be its own.
    #[must_use]
    pub fn is_arriving(&self) -> bool {
        self.network.is_none() && !self.addresses_known && self.born.is_some()
    }
}

/// What is known of a live owner's register value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LiveRegister {
    /// It has this one.
    Is(u32),
    /// It has none and will not be given one (no record, or computed from what it lacks).
    Absent,
    /// Not known yet: learn it from the dump, else registers are no evidence in its network.
    Unknown,
    /// It is a pod's or a machine's port that no record explains: it may have one that its flows
    /// do not show yet.
    Untold,
}

/// The bridge's ports as OVSDB has them now.
#[derive(Clone, Debug, Default)]
pub struct Ports {
    /// Port number to Interface row. LOCAL (65534) is in it.
    pub by_number: BTreeMap<u16, RowId>,
    /// Numbers that a row of the bridge asks for (`ofport_request`). Its owner may be without a
    /// number for the moment, because its device is missing, and come back to this one.
    pub requested: BTreeSet<u16>,
    /// Some interface of the bridge has no number yet: it may be given any, so no port
    /// number is dead.
    pub unassigned: bool,
}
