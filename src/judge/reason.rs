//! Why a flow is stale or kept.

use std::fmt;

use serde::{Serialize, Serializer};

use super::input::LiveId;
use super::tokens::{RegisterToken, Token};

/// Why a dead attachment's register value proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NotProven {
    /// A live attachment has the value.
    LiveHasIt(LiveId),
    /// A flow loads it that does not match this attachment.
    OthersLoadIt,
    /// Another dead attachment has the value.
    OtherDeadHasIt,
    /// Attachments of the network were seen to share values.
    Shared,
    /// Flows change the register to what cannot be read as a value: marks in some of its
    /// bits, moves.
    Obscured,
    /// More values are loaded than pods fit on a node.
    TooManyValues,
    /// Only part of the bridge was dumped.
    PartialDump,
    /// A live attachment's value is not known.
    LiveUnknown(LiveId),
    /// No two pods of one workload were seen with different values in the network.
    NeedsSecondAttachment,
}

impl NotProven {
    /// Stable, for metrics and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LiveHasIt(_) => "live-has-it",
            Self::OthersLoadIt => "others-load-it",
            Self::OtherDeadHasIt => "other-dead-has-it",
            Self::Shared => "shared",
            Self::Obscured => "obscured",
            Self::TooManyValues => "too-many-values",
            Self::PartialDump => "partial-dump",
            Self::LiveUnknown(_) => "live-unknown",
            Self::NeedsSecondAttachment => "needs-second-attachment",
        }
    }
}

impl fmt::Display for NotProven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LiveHasIt(_) => "a live attachment has the value",
            Self::OthersLoadIt => "a flow that is not this pod's loads it too",
            Self::OtherDeadHasIt => "another dead pod had the same value",
            Self::Shared => {
                "two pods of this network had one register value while both lived \
                 (set reg0 to \"none\" or a preset, or to \"pod\" if they did not)"
            }
            Self::Obscured => {
                "other flows move or mark bits of this register \
                 (see the configuration's registerMask and reg0)"
            }
            Self::TooManyValues => "flows load more values into it than there can be pods",
            Self::PartialDump => "only part of the bridge was read",
            Self::LiveUnknown(_) => "a live attachment's value is not known yet",
            Self::NeedsSecondAttachment => {
                "no two pods of one workload were seen with different values, so it may be a \
                 namespace's or a tenant's (set reg0 to \"pod\" if each pod has its own, to \
                 \"none\" or a preset if not)"
            }
        })
    }
}

impl Serialize for NotProven {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Why a flow is stale or kept. Of several reasons the first in this order is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Reason {
    /// Rule 1: matches a dead port.
    MatchesPort {
        /// The port.
        port: Token,
    },
    /// Rule 1: matches a dead register value.
    MatchesRegister {
        /// The value.
        register: Token,
    },
    /// Rule 2: sets the register to a dead value.
    SetsRegister {
        /// The value.
        register: Token,
    },
    /// Rule 3: matches a dead address, and no guard holds.
    MatchesAddress {
        /// The address.
        address: Token,
    },
    /// Rule 4: delivers to nobody.
    DeliversToNobody {
        /// The (lowest) port it outputs to.
        port: Token,
    },
    /// Rule 5: pairs two tokens that nobody alive has together.
    NobodyHasBoth {
        /// The port.
        port: Token,
        /// The other one.
        with: Token,
    },
    /// Names a port that OVSDB does not have and no record explains.
    Dangling {
        /// The port.
        port: u16,
    },

    /// ovn-controller runs the bridge.
    Ovn,
    /// Looks the same as another entry of the dump, so a delete may hit either.
    Ambiguous,
    /// Was deleted several times, and put back each time.
    Contested,
    /// A live owner's own flow, by what it matches as the source.
    BelongsToLivePod {
        /// The dead address it matches.
        address: Token,
        /// The live owner's token.
        owner: Token,
    },
    /// Guard: younger than the death.
    CreatedAfterDeath {
        /// The dead address it matches.
        address: Token,
    },
    /// Guard: outputs to a live port.
    OutputsToLivePort {
        /// The dead address it matches.
        address: Token,
        /// The live port.
        port: u16,
    },
    /// Guard: loads a live port into a register that is output to.
    LoadsLivePort {
        /// The dead address it matches.
        address: Token,
        /// The register's index.
        register: u8,
    },
    /// Guard: sends to another node.
    SetsTunnel {
        /// The dead address it matches.
        address: Token,
    },
    /// Guard: sends to a group. Whom its buckets reach is not asked, so they may lead to another
    /// node (a virtual machine that moved) or to a live port.
    SendsToGroup {
        /// The dead address it matches.
        address: Token,
    },
    /// Guard: sends by NORMAL, FLOOD or ALL, or to the controller, and the address may live on
    /// another node.
    MayReachElsewhere {
        /// The dead address it matches.
        address: Token,
    },
    /// Guard: for packets from a live port that was never the pod's.
    ArrivesElsewhere {
        /// The dead address it matches.
        address: Token,
        /// The live port.
        port: u16,
    },
    /// Guard: as young as a pod whose ADD has not come yet, and which may have the address; or made
    /// after a start of the switch, and a machine's, perhaps, whose addresses nobody knows.
    MayBeArriving {
        /// The dead address it matches.
        address: Token,
    },
    /// Guard: a policy member that waits for the linger time.
    PolicyWaits {
        /// The dead address it matches.
        address: Token,
    },
    /// The flow is about another VLAN than the dead attachment's.
    OtherVlan {
        /// The dead address it matches.
        address: Token,
    },
    /// The register value proves nothing.
    RegisterNotProven {
        /// The value.
        register: Token,
        /// Why.
        why: NotProven,
    },
    /// Was there long before the pod: made for a slot, not for it.
    MadeBeforeBirth {
        /// The pod's token that it names.
        token: Token,
    },
    /// Somebody alive has the token now.
    HasLiveOwner {
        /// The token.
        token: Token,
    },
    /// An interface without a number may be given this port.
    PortUnsettled {
        /// The port.
        port: Token,
    },
    /// Nobody recorded when the address was freed.
    NoRecord {
        /// The address.
        address: Token,
    },
    /// IPAM may have given the address to another node.
    MayLiveElsewhere {
        /// The address.
        address: Token,
    },
    /// The network's configuration does not count such evidence.
    EvidenceOff {
        /// The token.
        token: Token,
    },
    /// Rule 0: table or cookie is not in the network's scope.
    OutOfScope,
    /// Rule 6: names the dead pod, but no rule condemns it.
    OnlyMentions {
        /// The token it names.
        token: Token,
    },
    /// Rule 6: has nothing to do with anybody dead.
    NothingDead,
}

impl Reason {
    /// The number of the rule that decided (docs/decisions.md); `None` where no rule has one.
    #[must_use]
    pub fn rule(&self) -> Option<u8> {
        match self {
            Self::OutOfScope => Some(0),
            Self::MatchesPort { .. } | Self::MatchesRegister { .. } => Some(1),
            Self::SetsRegister { .. } => Some(2),
            Self::MatchesAddress { .. } => Some(3),
            Self::DeliversToNobody { .. } => Some(4),
            Self::NobodyHasBoth { .. } => Some(5),
            Self::Dangling { .. } | Self::Ovn | Self::Ambiguous | Self::Contested => None,
            _ => Some(6),
        }
    }

    /// What the sentence names beside the token.
    fn other(&self) -> Option<&dyn fmt::Display> {
        match self {
            Self::NobodyHasBoth { with: token, .. }
            | Self::BelongsToLivePod { owner: token, .. } => Some(token),
            Self::OutputsToLivePort { port, .. }
            | Self::ArrivesElsewhere { port, .. }
            | Self::Dangling { port } => Some(port),
            Self::LoadsLivePort { register, .. } => Some(register),
            Self::RegisterNotProven { why, .. } => Some(why),
            _ => None,
        }
    }

    /// The dead pod's token that the reason is about.
    #[must_use]
    pub fn token(&self) -> Option<Token> {
        match *self {
            Self::MatchesPort { port }
            | Self::DeliversToNobody { port }
            | Self::NobodyHasBoth { port, .. }
            | Self::PortUnsettled { port } => Some(port),
            Self::MatchesRegister { register }
            | Self::SetsRegister { register }
            | Self::RegisterNotProven { register, .. } => Some(register),
            Self::MatchesAddress { address }
            | Self::BelongsToLivePod { address, .. }
            | Self::CreatedAfterDeath { address }
            | Self::OutputsToLivePort { address, .. }
            | Self::LoadsLivePort { address, .. }
            | Self::SetsTunnel { address }
            | Self::SendsToGroup { address }
            | Self::MayReachElsewhere { address }
            | Self::ArrivesElsewhere { address, .. }
            | Self::MayBeArriving { address }
            | Self::PolicyWaits { address }
            | Self::OtherVlan { address }
            | Self::NoRecord { address }
            | Self::MayLiveElsewhere { address } => Some(address),
            Self::HasLiveOwner { token }
            | Self::EvidenceOff { token }
            | Self::MadeBeforeBirth { token }
            | Self::OnlyMentions { token } => Some(token),
            Self::Dangling { .. }
            | Self::Ovn
            | Self::Ambiguous
            | Self::Contested
            | Self::OutOfScope
            | Self::NothingDead => None,
        }
    }
}

impl From<RegisterToken> for Token {
    fn from(register: RegisterToken) -> Self {
        Self::Register(register)
    }
}

impl From<crate::model::flow::Address> for Token {
    fn from(address: crate::model::flow::Address) -> Self {
        Self::Address(address)
    }
}

/// The word of each reason, stable, for metrics and JSON; and its sentence, with a gap for the token
/// and one for what else is named.
macro_rules! words {
    ($($reason:ident: $word:literal, $sentence:literal;)*) => {
        impl Reason {
            /// The word of each, those that may delete in front.
            #[cfg(feature = "daemon")]
            const WORDS: &'static [&'static str] = &[$($word,)*];

            /// Stable, for metrics and JSON.
            #[must_use]
            pub fn as_str(&self) -> &'static str {
                match self {
                    $(Self::$reason { .. } => $word,)*
                }
            }

            fn sentence(&self) -> &'static str {
                match self {
                    $(Self::$reason { .. } => $sentence,)*
                }
            }
        }
    };
}

words! {
    MatchesPort: "matches-port", "matches {}, the dead pod's port";
    MatchesRegister: "matches-register", "matches {}, the dead pod's identity";
    SetsRegister: "sets-register", "gives {}, the dead pod's identity, to whoever sends";
    MatchesAddress: "matches-address", "matches {}, the dead pod's address";
    DeliversToNobody: "delivers-to-nobody",
        "delivers to {}, the dead pod's port, and to nobody alive";
    NobodyHasBoth: "nobody-has-both",
        "pairs {} with {}: both were the dead pod's, nobody alive has both";
    Dangling: "dangling", "names port {}, which OVSDB does not have and no record explains";
    Ovn: "ovn", "ovn-controller runs this bridge: OVN's, not judged";
    Ambiguous: "ambiguous", "another entry of the dump looks the same";
    Contested: "contested", "is the dead pod's, and was put back each time it was deleted";
    BelongsToLivePod: "belongs-to-a-live-pod",
        "matches {}, but is a living pod's own: it comes from {}";
    CreatedAfterDeath: "created-after-death",
        "matches {}, but was made after the pod died: for a new owner";
    OutputsToLivePort: "outputs-to-live-port", "matches {}, but outputs to live port {}";
    LoadsLivePort: "loads-live-port", "matches {}, but may load a live port into reg{}";
    SetsTunnel: "sets-tunnel", "matches {}, but sends to another node: the address moved";
    SendsToGroup: "sends-to-a-group",
        "matches {}, but sends to a group, which may lead to its next owner";
    MayReachElsewhere: "may-reach-another-node",
        "matches {}, which another node may have (addressScope cluster), and may \
         send there (NORMAL, FLOOD, ALL, controller)";
    ArrivesElsewhere: "arrives-elsewhere",
        "matches {}, but from live port {}, which never was the dead pod's";
    MayBeArriving: "may-be-arriving", "matches {}, which somebody whose addresses are not known yet may have";
    PolicyWaits: "policy-waits",
        "matches {} as a policy member: waits for the linger time and a new owner";
    OtherVlan: "another-vlan", "matches {} in a VLAN that is not known to be the dead pod's";
    RegisterNotProven: "register-not-proven",
        "uses {}, which is not proven to be the dead pod's own: {}";
    MadeBeforeBirth: "made-before-birth",
        "names {}, but was there long before the pod: made for a slot";
    HasLiveOwner: "has-live-owner", "{} has a live owner now";
    PortUnsettled: "port-unsettled",
        "names {}, but an interface of the bridge waits for its number and may get it";
    NoRecord: "no-record", "matches {}, but without a record nobody knows when it was freed";
    MayLiveElsewhere: "may-live-elsewhere",
        "matches {}, which another node may have now (addressScope cluster)";
    EvidenceOff: "evidence-off", "names {}, which this network's match does not count as evidence";
    OutOfScope: "out-of-scope", "its table or cookie is not in the network's scope";
    OnlyMentions: "only-mentions", "names {}, the dead pod's, but no rule condemns it";
    NothingDead: "nothing-dead", "names nobody dead";
}

#[cfg(feature = "daemon")]
impl Reason {
    /// The words of those that may delete, and of those that keep an entry.
    #[must_use]
    pub fn words() -> (&'static [&'static str], &'static [&'static str]) {
        let last = Self::Dangling { port: 0 }.as_str();
        let deleting = Self::WORDS.iter().position(|word| *word == last).map_or(0, |last| last + 1);
        Self::WORDS.split_at(deleting)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = self.token();
        let token = token.as_ref().map(|token| token as &dyn fmt::Display);
        let mut named = token.into_iter().chain(self.other());
        let mut parts = self.sentence().split("{}");
        f.write_str(parts.next().unwrap_or_default())?;
        parts.try_for_each(|part| match named.next() {
            Some(named) => write!(f, "{named}{part}"),
            None => f.write_str(part),
        })
    }
}
