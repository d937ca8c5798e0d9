//! The messages of a bundle: OpenFlow 1.4's, which 1.3 has as the ONF's extension.

use crate::openflow::codec::numbers::*;
use crate::openflow::codec::wire::layout;

layout! {
    /// `struct ofp14_bundle_ctrl_msg`, and what comes before the message in an ADD (`struct
    /// ofp14_bundle_add_msg`, in which the type is padding). Every message of a bundle carries the
    /// OPEN's flags.
    pub(crate) struct BundleMessage { experimenter: u64, id: u32, what: u16, flags: u16 }
    V13 => experimenter, id, what, flags;
    V14 | V15 => id, what, flags;
}

impl BundleMessage {
    const FLAGS: u16 = OFPBF_ATOMIC | OFPBF_ORDERED;

    pub(crate) fn control(id: u32, what: u16) -> Self {
        Self { experimenter: ONFT_BUNDLE_CONTROL, id, what, flags: Self::FLAGS }
    }

    pub(crate) fn add(id: u32) -> Self {
        Self { experimenter: ONFT_BUNDLE_ADD_MESSAGE, id, what: 0, flags: Self::FLAGS }
    }
}
