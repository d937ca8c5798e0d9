//! What a CNI call can fail with, and the specification's code for it.

use std::io;
use std::path::PathBuf;

use rscni_types::error::Error as Cni;

use crate::config::Problem;
use crate::model::attachment::BadName;
use crate::store;

/// Codes of our own (CNI spec 1.1.0: plugins use 100 and above).
mod code {
    pub(super) const NO_RECORD: u32 = 100;
    pub(super) const PORT_GONE: u32 = 101;
    pub(super) const DIFFERS: u32 = 102;
    pub(super) const UNFINISHED: u32 = 103;
    pub(super) const BUG: u32 = 199;
}

/// Why a CNI call failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The environment or the configuration, in the specification's words.
    #[error("{0}")]
    Cni(Cni),
    /// A key of our configuration.
    #[error("{0}")]
    Config(Problem),
    /// An id that cannot be part of a key.
    #[error("{0}")]
    Name(#[from] BadName),
    /// There is no prevResult: we are not chained after a plugin that attaches.
    #[error(
        "no prevResult: ovs-flow-gc must come after the OVS plugin in the conflist (`ovs-flow-gc conflist add FILE` puts it there)"
    )]
    NoPrevResult,
    /// What the plugin before us returned is no result.
    #[error(
        "prevResult is not a JSON object: the plugin before ovs-flow-gc returned no CNI result"
    )]
    BadPrevResult,
    /// The state directory.
    #[error("{0}")]
    State(#[from] store::Error),
    /// The kernel's boot id cannot be read.
    #[error("cannot read /proc/sys/kernel/random/boot_id: {0}")]
    BootId(io::Error),
    /// CHECK: nothing is recorded.
    #[error("no record of this attachment in {}", .0.display())]
    NoRecord(PathBuf),
    /// CHECK: the port is not there.
    #[error("port {port:?} is not on the switch any more")]
    PortGone {
        /// Its name.
        port: String,
    },
    /// CHECK: something is not as recorded.
    #[error("{what} is {now} on the switch, recorded is {recorded}")]
    Differs {
        /// What.
        what: &'static str,
        /// As it is.
        now: String,
        /// As recorded.
        recorded: String,
    },
    /// CHECK could not ask.
    #[error("cannot ask the switch: {0}")]
    Switch(String),
    /// GC: what is left to do.
    #[error("{} of {} not cleaned up, the next sweep retries: {}", .left.len(), .of, .left.join("; "))]
    Unfinished {
        /// One text each.
        left: Vec<String>,
        /// How many were to be cleaned.
        of: usize,
    },
    /// Ours.
    #[error("ovs-flow-gc {0}: please report this")]
    Bug(String),
}

impl Failure {
    pub(super) fn bug(what: &str) -> Self {
        Self::Bug(what.to_owned())
    }

    pub(super) fn stdin(error: &io::Error) -> Self {
        Self::Cni(Cni::IOFailure(format!(
            "cannot read the configuration from standard input: {error}"
        )))
    }

    pub(super) fn oversized(most: u64) -> Self {
        Self::Cni(Cni::FailedToDecode(format!("the configuration has more than {most} bytes")))
    }

    /// The error as the runtime gets it.
    #[must_use]
    pub fn into_cni(self) -> Cni {
        let details = self.to_string();
        let own = |code, msg: &str| Cni::Custom(code, msg.to_owned(), details.clone());
        match self {
            Self::Cni(error) => error,
            Self::Config(_) | Self::NoPrevResult | Self::BadPrevResult => {
                Cni::InvalidNetworkConfig(details)
            }
            Self::Name(ref bad) if bad.what == "network name" => Cni::InvalidNetworkConfig(details),
            Self::Name(_) => Cni::InvalidEnvValue(details),
            Self::State(_) | Self::BootId(_) => Cni::IOFailure(details),
            Self::NoRecord(_) => own(code::NO_RECORD, "Attachment not recorded"),
            Self::PortGone { .. } => own(code::PORT_GONE, "Port gone"),
            Self::Differs { .. } => own(code::DIFFERS, "Attachment differs"),
            Self::Switch(_) => Cni::TryAgainLater(details),
            Self::Unfinished { .. } => own(code::UNFINISHED, "Garbage collection unfinished"),
            Self::Bug(_) => own(code::BUG, "Internal error"),
        }
    }
}
