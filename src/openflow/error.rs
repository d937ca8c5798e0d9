//! What can go wrong with a switch, and what to do about it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::openflow::codec::hello::Version;
use crate::openflow::codec::numbers::*;
use crate::openflow::codec::wire::Reader;

/// Why bytes from a switch (or the journal) are not what they should be.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Malformed {
    /// The bytes ended inside this field.
    #[error("cut short in {0}")]
    Short(&'static str),
    /// A length that cannot be.
    #[error("{field} has the impossible length {value}")]
    Length {
        /// Of what.
        field: &'static str,
        /// As read.
        value: u32,
    },
    /// Bytes where there should be none, or other ones.
    #[error("unexpected {0}")]
    Unexpected(&'static str),
    /// Something of ours that does not fit one OpenFlow message.
    #[error("{0} bytes do not fit one message")]
    TooLong(usize),
}

/// An error as the switch sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SwitchError {
    /// OpenFlow 1.3 to 1.5 error type; 0xffff is an experimenter's.
    pub kind: u16,
    /// The code within it.
    pub code: u16,
    /// Whose, if the type is 0xffff.
    pub experimenter: Option<u32>,
}

impl SwitchError {
    /// Reads an ERROR's body.
    pub(super) fn parse(body: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let kind = reader.u16("error type")?;
        let code = reader.u16("error code")?;
        let experimenter =
            if kind == OFPET_EXPERIMENTER { Some(reader.u32("error experimenter")?) } else { None };
        Ok(Self { kind, code, experimenter })
    }

    #[cfg(test)]
    pub(super) fn write(self, out: &mut Vec<u8>) {
        use crate::openflow::codec::wire::Value as _;
        [self.kind, self.code].iter().for_each(|number| number.write(out));
        self.experimenter.iter().for_each(|number| number.write(out));
    }

    pub(super) fn is(self, kind: u16, code: u16) -> bool {
        self.experimenter.is_none() && (self.kind, self.code) == (kind, code)
    }

    /// The code of a bundle error (OFPBFC_*), native or of the 1.3 extension.
    pub(super) fn bundle_code(self) -> Option<u16> {
        match (self.kind, self.experimenter) {
            (OFPET_BUNDLE_FAILED, None) => Some(self.code),
            (OFPET_EXPERIMENTER, Some(ONF_VENDOR_ID)) => {
                self.code.checked_sub(ONFERR_BUNDLE_FIRST).filter(|code| *code < 100)
            }
            _ => None,
        }
    }

    /// The switch does not know this kind of message at all: it is too old.
    #[must_use]
    pub fn is_unknown_message(self) -> bool {
        [OFPBRC_BAD_TYPE, OFPBRC_BAD_EXPERIMENTER, OFPBRC_BAD_EXP_TYPE]
            .into_iter()
            .any(|code| self.is(OFPET_BAD_REQUEST, code))
    }

    /// The specification's name, where we know it.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        if let Some(code) = self.bundle_code() {
            return BUNDLE.get(usize::from(code)).copied().filter(|name| !name.is_empty());
        }
        let names: &[&str] = match self.kind {
            OFPET_HELLO_FAILED => HELLO,
            OFPET_BAD_REQUEST => REQUEST,
            OFPET_BAD_ACTION => ACTION,
            OFPET_BAD_INSTRUCTION => INSTRUCTION,
            OFPET_BAD_MATCH => MATCH,
            OFPET_FLOW_MOD_FAILED => FLOW_MOD,
            OFPET_BAD_PROPERTY => PROPERTY,
            _ => return None,
        };
        names.get(usize::from(self.code)).copied()
    }
}

macro_rules! codes {
    ($($name:ident: $($code:ident)*;)*) => {
        $(const $name: &[&str] = &[$(stringify!($code)),*];)*
    };
}

// The codes of each type, from 0 on (section 7.5.4; bundles 1.5.1, section 7.5.4.18).
codes! {
    HELLO: OFPHFC_INCOMPATIBLE OFPHFC_EPERM;
    REQUEST: OFPBRC_BAD_VERSION OFPBRC_BAD_TYPE OFPBRC_BAD_MULTIPART OFPBRC_BAD_EXPERIMENTER
        OFPBRC_BAD_EXP_TYPE OFPBRC_EPERM OFPBRC_BAD_LEN OFPBRC_BUFFER_EMPTY
        OFPBRC_BUFFER_UNKNOWN OFPBRC_BAD_TABLE_ID OFPBRC_IS_SECONDARY OFPBRC_BAD_PORT
        OFPBRC_BAD_PACKET OFPBRC_MULTIPART_BUFFER_OVERFLOW OFPBRC_MULTIPART_REQUEST_TIMEOUT
        OFPBRC_MULTIPART_REPLY_TIMEOUT OFPBRC_MULTIPART_BAD_SCHED OFPBRC_PIPELINE_FIELDS_ONLY
        OFPBRC_UNKNOWN;
    ACTION: OFPBAC_BAD_TYPE OFPBAC_BAD_LEN OFPBAC_BAD_EXPERIMENTER OFPBAC_BAD_EXP_TYPE
        OFPBAC_BAD_OUT_PORT OFPBAC_BAD_ARGUMENT OFPBAC_EPERM OFPBAC_TOO_MANY OFPBAC_BAD_QUEUE
        OFPBAC_BAD_OUT_GROUP OFPBAC_MATCH_INCONSISTENT OFPBAC_UNSUPPORTED_ORDER OFPBAC_BAD_TAG
        OFPBAC_BAD_SET_TYPE OFPBAC_BAD_SET_LEN OFPBAC_BAD_SET_ARGUMENT OFPBAC_BAD_SET_MASK
        OFPBAC_BAD_METER;
    INSTRUCTION: OFPBIC_UNKNOWN_INST OFPBIC_UNSUP_INST OFPBIC_BAD_TABLE_ID OFPBIC_UNSUP_METADATA
        OFPBIC_UNSUP_METADATA_MASK OFPBIC_BAD_EXPERIMENTER OFPBIC_BAD_EXP_TYPE OFPBIC_BAD_LEN
        OFPBIC_EPERM OFPBIC_DUP_INST;
    MATCH: OFPBMC_BAD_TYPE OFPBMC_BAD_LEN OFPBMC_BAD_TAG OFPBMC_BAD_DL_ADDR_MASK
        OFPBMC_BAD_NW_ADDR_MASK OFPBMC_BAD_WILDCARDS OFPBMC_BAD_FIELD OFPBMC_BAD_VALUE
        OFPBMC_BAD_MASK OFPBMC_BAD_PREREQ OFPBMC_DUP_FIELD OFPBMC_EPERM;
    FLOW_MOD: OFPFMFC_UNKNOWN OFPFMFC_TABLE_FULL OFPFMFC_BAD_TABLE_ID OFPFMFC_OVERLAP
        OFPFMFC_EPERM OFPFMFC_BAD_TIMEOUT OFPFMFC_BAD_COMMAND OFPFMFC_BAD_FLAGS
        OFPFMFC_CANT_SYNC OFPFMFC_BAD_PRIORITY;
    PROPERTY: OFPBPC_BAD_TYPE OFPBPC_BAD_LEN OFPBPC_BAD_VALUE OFPBPC_TOO_MANY OFPBPC_DUP_TYPE
        OFPBPC_BAD_EXPERIMENTER OFPBPC_BAD_EXP_TYPE OFPBPC_BAD_EXP_VALUE OFPBPC_EPERM;
    BUNDLE: OFPBFC_UNKNOWN OFPBFC_EPERM OFPBFC_BAD_ID OFPBFC_BUNDLE_EXIST OFPBFC_BUNDLE_CLOSED
        OFPBFC_OUT_OF_BUNDLES OFPBFC_BAD_TYPE OFPBFC_BAD_FLAGS OFPBFC_MSG_BAD_LEN
        OFPBFC_MSG_BAD_XID OFPBFC_MSG_UNSUP OFPBFC_MSG_CONFLICT OFPBFC_MSG_TOO_MANY
        OFPBFC_MSG_FAILED OFPBFC_TIMEOUT OFPBFC_BUNDLE_IN_PROGRESS OFPBFC_SCHED_NOT_SUPPORTED;
}

impl fmt::Display for SwitchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.name(), self.experimenter) {
            (Some(name), _) => write!(f, "{name} ({},{})", self.kind, self.code),
            (None, Some(who)) => write!(f, "experimenter {who:#x} error {}", self.code),
            (None, None) => write!(f, "OpenFlow error ({},{})", self.kind, self.code),
        }
    }
}

impl std::error::Error for SwitchError {}

/// Why a switch could not be asked or told something. `path` is the bridge's `.mgmt` socket.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection.
    #[error("cannot connect to {}: {source}{}", path.display(), remedy(source))]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A name that no bridge can have; as a path it would lead elsewhere.
    #[error("{0:?} is no bridge's name")]
    NotABridge(String),
    /// The deadline passed.
    #[error(
        "{}: ovs-vswitchd did not answer in time while {doing} (is it hung, or ovsdb-server down?)",
        path.display()
    )]
    TimedOut {
        /// The socket.
        path: PathBuf,
        /// What we were at.
        doing: &'static str,
    },
    /// The switch hung up: it stopped, the bridge was deleted, or its `protocols` changed.
    #[error("{}: ovs-vswitchd closed the connection while {doing}", path.display())]
    Closed {
        /// The socket.
        path: PathBuf,
        /// What we were at.
        doing: &'static str,
    },
    /// The operating system refused to read or write.
    #[error("{}: {source} while {doing}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What we were at.
        doing: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The bridge allows OpenFlow 1.0 only.
    #[error(
        "{}: bridge {bridge} allows OpenFlow 1.0 only, and 1.3, 1.4 or 1.5 is needed: \
         `ovs-vsctl set bridge {bridge} protocols=OpenFlow10,OpenFlow13`",
        path.display()
    )]
    OnlyVersion10 {
        /// The socket.
        path: PathBuf,
        /// The bridge, from the socket's name.
        bridge: String,
    },
    /// The bridge allows none of our versions.
    #[error(
        "{}: bridge {bridge} offers OpenFlow wire versions {offered:?}, and 1.3 (4), 1.4 (5) or \
         1.5 (6) is needed: add OpenFlow13 to its protocols (`ovs-vsctl add bridge {bridge} \
         protocols OpenFlow13`)",
        path.display()
    )]
    NoCommonVersion {
        /// The socket.
        path: PathBuf,
        /// The bridge, from the socket's name.
        bridge: String,
        /// Wire versions (1.0 is 1).
        offered: Vec<u8>,
    },
    /// The switch refused a request.
    #[error("{}: the switch refused {doing}: {error}", path.display())]
    Switch {
        /// The socket.
        path: PathBuf,
        /// What we were at.
        doing: &'static str,
        /// Its word.
        error: SwitchError,
    },
    /// A reply that cannot be believed; neither can anything else of it.
    #[error("{}: a reply makes no sense while {doing}: {what}", path.display())]
    Malformed {
        /// The socket.
        path: PathBuf,
        /// What we were at.
        doing: &'static str,
        /// What is wrong with it.
        what: Malformed,
    },
    /// The switch is too old for this.
    #[error("{}: {what} needs Open vSwitch {needs} or later ({error})", path.display())]
    Unsupported {
        /// The socket.
        path: PathBuf,
        /// What is not supported.
        what: &'static str,
        /// The first version that has it.
        needs: &'static str,
        /// The switch's answer.
        error: SwitchError,
    },
    /// Entries go back only on a connection of the version they were dumped in.
    #[error(
        "{}: an entry dumped in {dumped} cannot be sent to a connection that speaks {spoken}",
        path.display()
    )]
    OtherVersion {
        /// The socket.
        path: PathBuf,
        /// The entry's.
        dumped: Version,
        /// The connection's.
        spoken: Version,
    },
    /// An address that is nobody's own: as a filter it would mean everything.
    #[error("refusing to flush the connections of {0}: it is no pod's own address")]
    UnusableAddress(std::net::IpAddr),
}

impl Error {
    /// The switch (or we) understood and will not: the answer is the same the next time.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Switch { .. } | Self::Unsupported { .. } | Self::UnusableAddress(_))
    }
}

fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => " (ovs-vswitchd is stopped, or there is no such bridge)",
        io::ErrorKind::ConnectionRefused => " (ovs-vswitchd is not running)",
        io::ErrorKind::PermissionDenied => {
            " (the socket belongs to another user: run as that user, or keep CAP_DAC_OVERRIDE)"
        }
        io::ErrorKind::TimedOut => {
            " (ovs-vswitchd is hung and nobody accepts, or no time was left)"
        }
        _ => "",
    }
}

/// `br0` of `/run/openvswitch/br0.mgmt`.
pub(super) fn bridge_of(path: &Path) -> String {
    path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(body: &str) -> String {
        SwitchError::parse(&crate::openflow::testing::hex(body)).unwrap().to_string()
    }

    #[test]
    fn errors_have_names() {
        assert_eq!(name("0004 0006"), "OFPBMC_BAD_FIELD (4,6)");
        assert_eq!(name("0001 0004 dead"), "OFPBRC_BAD_EXP_TYPE (1,4)");
        assert_eq!(name("0011 000d"), "OFPBFC_MSG_FAILED (17,13)");
        assert_eq!(name("ffff 0909 4f4e4600"), "OFPBFC_MSG_FAILED (65535,2313)");
        assert_eq!(name("ffff 0016 00002320"), "experimenter 0x2320 error 22");
        assert_eq!(name("0063 0001"), "OpenFlow error (99,1)");
        assert_eq!(name("0004 00ff"), "OpenFlow error (4,255)");
    }

    #[test]
    fn the_text_says_what_to_do() {
        let path = PathBuf::from("/run/openvswitch/br-int.mgmt");
        let text = Error::OnlyVersion10 { bridge: bridge_of(&path), path }.to_string();
        assert!(text.contains("ovs-vsctl set bridge br-int protocols=OpenFlow10,OpenFlow13"));
    }
}
