//! Why a replica is not believed, for code, metrics and logs.

use std::fmt;

/// Why a replica is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Doubt {
    /// Nobody has begun to build it.
    New,
    /// The switch paused the monitor: this client had not read enough.
    Paused,
    /// The switch removed an entry to make room for another one.
    Evicted,
    /// More changes were reported than are kept.
    Flooded,
    /// A change was reported by a mere xid.
    Abbreviated,
    /// Something that the switch sent cannot be.
    Malformed,
    /// An entry was removed or changed that is not there.
    Unknown,
    /// One of two entries that look alike has changed.
    Ambiguous,
    /// The connection has ended, or the switch refused something.
    Closed,
    /// Another datapath has this name now.
    OtherDatapath,
    /// The bridge has more entries than the replica may hold.
    OverLimit,
    /// The switch has no flow monitors: it is older than OVS 3.0.
    Refused,
    /// It would take more memory than this process may use.
    NoMemory,
}

impl Doubt {
    /// One word, for metrics and logs.
    #[must_use]
    pub fn word(self) -> &'static str {
        self.texts().0
    }

    /// The word, and the reason in words.
    fn texts(self) -> (&'static str, &'static str) {
        match self {
            Self::New => ("new", "it is not built yet"),
            Self::Paused => ("paused", "the switch paused its flow monitor"),
            Self::Evicted => ("evicted", "the switch evicted an entry"),
            Self::Flooded => ("flooded", "the switch reported more changes than are kept"),
            Self::Abbreviated => {
                ("abbreviated", "the switch reported a change without saying which")
            }
            Self::Malformed => ("malformed", "the switch sent what cannot be read"),
            Self::Unknown => ("unknown", "an entry changed that is not in the replica"),
            Self::Ambiguous => ("ambiguous", "one of two entries that look alike has changed"),
            Self::Closed => ("closed", "the connection has ended"),
            Self::OtherDatapath => ("other-datapath", "the bridge is another one now"),
            Self::OverLimit => ("over-limit", "the bridge has more entries than --replica-limit"),
            Self::Refused => {
                ("refused", "the switch has no flow monitors (Open vSwitch before 3.0)")
            }
            Self::NoMemory => {
                ("no-memory", "a copy would take more memory than the daemon may use")
            }
        }
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.texts().1)
    }
}
