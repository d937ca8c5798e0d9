//! One bridge or two, and what a network's configuration says of them.

use ovs_flow_gc::model::attachment::Attachment;
use serde_json::{Value, json};

/// Index of a bridge in [`NAMES`].
pub(crate) type BridgeId = usize;

pub(crate) const NAMES: [&str; 2] = ["br0", "br1"];
/// The ports that lead out of the node.
pub(crate) const UPLINKS: [&str; 2] = ["uplink0", "uplink1"];
/// The patch pair, and its number on either bridge.
pub(crate) const PATCHES: [&str; 2] = ["patch0", "patch1"];
pub(crate) const PATCH: u16 = 30;

/// The node's bridges. A port number is one bridge's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bridges {
    /// One.
    One,
    /// Two, which the network's `bridges` names.
    Named,
    /// The same, and a patch pair between them.
    Both,
    /// Two with a patch pair, which the configuration does not name: a pod is looked for on the
    /// bridge of its port.
    Patched,
    /// Two that have nothing to do with each other: an address is one bridge's own.
    Apart,
}

impl Bridges {
    /// Those of walks with two.
    pub(crate) const TWO: [Self; 4] = [Self::Named, Self::Both, Self::Patched, Self::Apart];

    /// All bridges.
    pub(crate) fn ids(self) -> std::ops::Range<BridgeId> {
        0..if self == Self::One { 1 } else { 2 }
    }

    /// The one that a pick stands for.
    pub(crate) fn pick(self, pick: u8) -> BridgeId {
        usize::from(self != Self::One && pick >= 128)
    }

    pub(crate) fn has_patch(self) -> bool {
        matches!(self, Self::Both | Self::Patched)
    }

    /// Whether the network's configuration names both.
    pub(crate) fn are_named(self) -> bool {
        matches!(self, Self::Named | Self::Both)
    }

    /// Whether these two share addresses.
    pub(crate) fn joins(self, one: BridgeId, other: BridgeId) -> bool {
        one == other || self != Self::Apart
    }

    /// Whether the entries of a dead pod are looked for on this bridge.
    pub(crate) fn are_judged(self, dead: &Attachment, bridge: BridgeId) -> bool {
        self.are_named() || dead.bridge.as_deref().is_none_or(|name| name == NAMES[bridge])
    }

    /// Whether a living pod is an owner of addresses on this bridge.
    pub(crate) fn reach(self, live: &Attachment, bridge: BridgeId) -> bool {
        self != Self::Apart || self.are_judged(live, bridge)
    }

    /// The plugin's configuration on these bridges.
    pub(crate) fn conf(self, mut conf: Value) -> Value {
        let keys = conf.as_object_mut().unwrap();
        if self != Self::One {
            keys.remove("bridge");
        }
        if self.are_named() {
            keys.insert("bridges".to_owned(), json!(NAMES));
        }
        conf
    }
}
