//! The record of one attachment: who a pod interface is on the switch.
//!
//! An attachment is one (network, containerID, ifname), the key of everything
//! (CNI spec 1.1.0, section 2).

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::model::flow::UNTAGGED;
use crate::model::flow::{Address, MacAddr};
use crate::model::row::RowId;
use crate::model::text::{serde_as_text, text_enum};
use crate::model::workload::Member;
use crate::util::clock::Stamp;

/// The version of the record's layout.
pub const SCHEMA: u32 = 1;

/// How long after a sandbox came to be its ADD may still be under way: the kubelet's
/// `runtimeRequestTimeout`, after which it starts another one.
pub const ADD_TAKES_MS: u64 = 120_000;

/// Why a string from outside cannot be part of a key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{what} {value:?} {why}")]
pub struct BadName {
    /// `containerID`, `ifname` or `network name`.
    pub what: &'static str,
    /// What was given, cut to 80 characters.
    pub value: String,
    /// What is wrong with it.
    pub why: &'static str,
}

fn check(what: &'static str, value: &str, most: usize, spec: bool) -> Result<String, BadName> {
    let bad = |why| Err(BadName { what, value: value.chars().take(80).collect(), why });
    if value.is_empty() {
        return bad("is empty");
    }
    if value.len() > most {
        return bad("is too long");
    }
    if spec {
        let mut bytes = value.bytes();
        if !bytes.next().is_some_and(|b| b.is_ascii_alphanumeric()) {
            return bad("must start with a letter or a digit");
        }
        if !bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-')) {
            return bad("may hold only letters, digits, '_', '.' and '-'");
        }
    } else {
        if value == "." || value == ".." {
            return bad("must not be '.' or '..'");
        }
        if value.chars().any(|c| c == '/' || c == ':' || c.is_whitespace() || c.is_control()) {
            return bad("must not hold '/', ':', space or control characters");
        }
    }
    Ok(value.to_owned())
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $most:literal, $spec:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(String);

        serde_as_text!($type);

        impl $type {
            /// The checked text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = BadName;
            fn from_str(text: &str) -> Result<Self, BadName> {
                check($what, text, $most, $spec).map(Self)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A network's name, safe as a directory name.
    NetworkName, "network name", 200, true
);
name!(
    /// A container id, safe in a file name.
    ContainerId, "containerID", 200, true
);
name!(
    /// An interface name inside the pod (Linux: at most 15 bytes), safe in a file name.
    IfName, "ifname", 15, false
);

/// The key of an attachment.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// The conflist's `name`.
    pub network: NetworkName,
    /// `CNI_CONTAINERID`.
    #[serde(rename = "containerID")]
    pub container: ContainerId,
    /// `CNI_IFNAME`.
    pub ifname: IfName,
}

impl Key {
    /// What libcni calls its cached result.
    #[must_use]
    pub fn cached_name(&self) -> String {
        format!("{}-{}-{}", self.network, self.container, self.ifname)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short: String = self.container.as_str().chars().take(13).collect();
        write!(f, "{}/{short}:{}", self.network, self.ifname)
    }
}

/// The pod, from `CNI_ARGS` (`K8S_POD_NAMESPACE`, `K8S_POD_NAME`, `K8S_POD_UID`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID; empty if the runtime did not say.
    #[serde(default)]
    pub uid: String,
}

impl fmt::Display for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The pod's network namespace as it was at ADD. Paths get re-used: an inode on a device
/// is what identifies a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Netns {
    /// `CNI_NETNS`.
    pub path: String,
    /// Device of the namespace file.
    pub device: u64,
    /// Inode of the namespace file.
    pub inode: u64,
    /// Device of the directory that holds it.
    pub parent_device: u64,
    /// Inode of the directory that holds it.
    pub parent_inode: u64,
    /// Inode of the PID namespace that ADD ran in, if the path is in /proc.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid_namespace: Option<u64>,
}

/// The device behind a port, as OVSDB shows it. A port that is attached anew has another row and
/// another number, and the same device: a veth keeps both of these for as long as it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its index in the switch's network namespace.
    pub ifindex: u64,
    /// Its own MAC, not the pod's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
}

impl Netns {
    /// One of which only the path is known, as OVS CNIs mark their ports with it: it is never
    /// judged.
    #[must_use]
    pub fn of_path(path: String) -> Self {
        let (device, inode, parent_device, parent_inode, pid_namespace) = (0, 0, 0, 0, None);
        Self { path, device, inode, parent_device, parent_inode, pid_namespace }
    }
}

/// How a register value was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RegisterHow {
    /// Loaded by the pod's own classifier flows.
    Learned,
    /// The pod's IPv4 address.
    Ipv4,
    /// The port number.
    Ofport,
    /// An external_id.
    ExternalId,
}

/// A register value and how it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register {
    /// In place: bits outside the configured mask are zero.
    pub value: u32,
    /// How it was found.
    pub how: RegisterHow,
}

text_enum! {
    /// Where an attachment is in its life.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "camelCase")]
    pub enum State {
        /// Its pod is alive as far as we know.
        Active = "active",
        /// Its pod is gone, its entries may not be: the next sweep finishes.
        Deleting = "deleting",
        /// Its entries were deleted; watched for the linger time.
        Gone = "gone",
    }
}

/// One attachment, as written to `<network>/<containerID>:<ifname>.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Who it is.
    #[serde(flatten)]
    pub key: Key,
    /// Tells two lives of the same key apart.
    pub generation: u64,
    /// The boot it belongs to; another one is death by itself.
    pub boot_id: String,
    /// The pod, where the runtime said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,
    /// Its pod's owner and revision, where the API server said; empty: it has none that makes pods
    /// alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    /// Its namespace, where the runtime said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<Netns>,
    /// The bridge that has the port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// The port's (and interface's) name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// The OVSDB Interface row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<RowId>,
    /// The OpenFlow port number (1 to 65279).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ofport: Option<u16>,
    /// The number it had before the switch gave it another (a restart, another interface's
    /// `ofport_request`): flows are not adapted by themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ofport_before: Option<u16>,
    /// When it has had its number at the latest, if it was given another one: the start of
    /// ovs-vswitchd since the number before was known, else when the change was noticed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ofport_since: Option<Stamp>,
    /// When its port's row was last found to be another one, with the same number or not: the port was
    /// off the bridge before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attached: Option<Stamp>,
    /// The device behind the port, once it was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<Device>,
    /// The VLANs that its port was in: tag and trunks, of now and before; [`UNTAGGED`] if it had
    /// none. Of the dead also those that their own flows showed. Empty: nobody knows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vlans: Vec<u16>,
    /// Of these, those that OVSDB did not say of its port any more when it was last seen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vlans_before: Vec<u16>,
    /// The register value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub register: Option<Register>,
    /// Its own IPs.
    #[serde(default)]
    pub ips: Vec<IpAddr>,
    /// Its own MACs.
    #[serde(default)]
    pub macs: Vec<MacAddr>,
    /// No entry older than this was made for it: when its sandbox came to be. Known for
    /// namespaces that are pinned to a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub born: Option<Stamp>,
    /// When the first of those came to be who had one of its tokens before it and left entries
    /// under it: they go with this one at the latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inherits: Option<Stamp>,
    /// When ADD recorded it.
    pub created: Stamp,
    /// When it was last seen alive.
    pub seen_alive: Stamp,
    /// When its death was noticed: an upper bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub died: Option<Stamp>,
    /// Where it is in its life.
    pub state: State,
    /// Tries to clean up so far.
    #[serde(default)]
    pub attempts: u32,
    /// Why the last try failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Made by DEL without a record: nobody knows when its addresses were freed.
    #[serde(default)]
    pub unrecorded: bool,
    /// Made by `adopt` rather than ADD.
    #[serde(default)]
    pub adopted: bool,
}

impl Attachment {
    /// A new record that knows only who it is.
    #[must_use]
    pub fn new(key: Key, generation: u64, boot_id: String, now: Stamp) -> Self {
        Self {
            schema: SCHEMA,
            key,
            generation,
            boot_id,
            pod: None,
            workload: None,
            netns: None,
            bridge: None,
            port: None,
            interface: None,
            ofport: None,
            ofport_before: None,
            ofport_since: None,
            attached: None,
            device: None,
            vlans: Vec::new(),
            vlans_before: Vec::new(),
            register: None,
            ips: Vec::new(),
            macs: Vec::new(),
            born: None,
            inherits: None,
            created: now,
            seen_alive: now,
            died: None,
            state: State::Active,
            attempts: 0,
            last_error: None,
            unrecorded: false,
            adopted: false,
        }
    }

    /// Remembers the VLANs that its port is in by OVSDB, or that it has none. Whoever has no port
    /// row any more when it dies is judged by what it had.
    pub fn see_port_vlans(&mut self, vlans: &[u16]) {
        self.see_vlans(if vlans.is_empty() { &[UNTAGGED] } else { vlans });
        let known = self.vlans.iter().copied();
        self.vlans_before = known.filter(|v| *v != UNTAGGED && !vlans.contains(v)).collect();
    }

    /// Whether [`Self::see_port_vlans`] changes nothing.
    #[must_use]
    pub fn has_seen_port_vlans(&self, vlans: &[u16]) -> bool {
        let now = if vlans.is_empty() { &[UNTAGGED] } else { vlans };
        let before = self.vlans.iter().filter(|v| **v != UNTAGGED && !vlans.contains(v));
        now.iter().all(|vlan| self.vlans.contains(vlan)) && before.eq(&self.vlans_before)
    }

    /// Remembers the VLANs of an earlier record of the same port.
    pub fn see_vlans_of(&mut self, other: &Self) {
        let before = other.vlans_before.iter().filter(|vlan| !self.vlans.contains(vlan));
        self.vlans_before.extend(before);
        self.see_vlans(&other.vlans);
    }

    /// Remembers VLANs. One that it was in before stays known: flows are not adapted by themselves.
    pub fn see_vlans(&mut self, vlans: &[u16]) {
        for vlan in vlans {
            if !self.vlans.contains(vlan) {
                self.vlans.push(*vlan);
            }
        }
    }

    /// No entry older than this was made for it, or for those whose entries it inherits. Where its
    /// sandbox does not tell its age, an ADD of the longest kind may have been under way before its
    /// record; when a pod came to be that was recorded later nobody knows.
    #[must_use]
    pub fn earliest(&self) -> Option<Stamp> {
        let before_add = Stamp {
            boot_ms: self.created.boot_ms.saturating_sub(ADD_TAKES_MS),
            wall_ms: self.created.wall_ms.saturating_sub(ADD_TAKES_MS),
        };
        let added = Some(before_add).filter(|_| !self.adopted && !self.unrecorded);
        let own = self.born.or(added)?;
        Some(self.inherits.map_or(own, |first| first.min(own)))
    }

    /// A time at which it had its number, or the last that it had, and nobody else: the latest that is
    /// known. `None`: none is.
    #[must_use]
    pub fn held_number(&self) -> Option<Stamp> {
        let recorded = self.ofport.map(|_| self.created);
        let known = [self.born, recorded, self.ofport_since, self.attached];
        known.into_iter().flatten().max_by_key(|at| at.boot_ms)
    }

    /// Its IPs and MACs.
    #[must_use]
    pub fn addresses(&self) -> Vec<Address> {
        let ips = self.ips.iter().copied().map(Address::Ip);
        ips.chain(self.macs.iter().copied().map(Address::Mac))
            .filter(|a| !a.is_unusable())
            .collect()
    }

    /// The pod as one of a workload's: by the API server's word, else by its name.
    #[must_use]
    pub fn member(&self) -> Option<Member> {
        let Pod { namespace, name, uid } = self.pod.as_ref()?;
        match self.workload.as_deref() {
            Some("") => None,
            // A StatefulSet's pods of one name are several.
            Some(workload) => Some(Member { workload: workload.to_owned(), pod: uid.clone() }),
            None => Member::by_name(namespace, name),
        }
    }

    /// Whether another record is of the same life of the same key.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.key == other.key && self.generation == other.generation
    }

    /// `namespace/name` of the pod, else the key: what a person calls it.
    #[must_use]
    pub fn title(&self) -> String {
        self.pod.as_ref().map_or_else(|| self.key.to_string(), Pod::to_string)
    }
}
