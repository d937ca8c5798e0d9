//! Which register a network uses, and where its value comes from.

/// The register field that carries identities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegisterRule {
    /// 0 to 15.
    pub index: u8,
    /// The field within it; all ones is the whole register.
    pub mask: u32,
    /// Where values come from.
    pub source: RegisterSource,
}

/// What makes a register value evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterSource {
    /// Registers are no evidence.
    None,
    /// Learned from the dump; `distinct_seen`: two pods of one workload once had different
    /// values in the network; `shared_seen`: once two live attachments had the same.
    Learn {
        /// See above.
        distinct_seen: bool,
        /// See above.
        shared_seen: bool,
    },
    /// Learned, and the operator vouches that values are per pod.
    Pod,
    /// The port's number: dead exactly where that port is.
    Ofport,
    /// The pod's IPv4 address: dead exactly where that address is.
    Ipv4,
    /// An external id of the port, in OVSDB.
    ExternalId,
}

impl RegisterSource {
    /// Whether values are found in flows: what a pod's classifiers load.
    #[must_use]
    pub fn is_learned(self) -> bool {
        matches!(self, Self::Learn { .. } | Self::Pod)
    }

    /// Whether no two living pods have one value.
    #[must_use]
    pub fn tells_pods_apart(self) -> bool {
        matches!(
            self,
            Self::Pod | Self::Ipv4 | Self::Learn { distinct_seen: true, shared_seen: false }
        )
    }

    /// Whether values come from the record or OVSDB, not from flows.
    #[must_use]
    pub fn is_computed(self) -> bool {
        matches!(self, Self::Ofport | Self::Ipv4 | Self::ExternalId)
    }
}
