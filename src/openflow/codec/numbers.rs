//! The numbers on the wire, by the names that the OpenFlow specification and the headers of
//! Open vSwitch give them (`include/openflow/*.h`, `include/openvswitch/meta-flow.h`,
//! `lib/ofp-actions.c`). Sections are those of OpenFlow Switch Specification 1.3.5, or 1.5.1
//! where it says so.

use crate::openflow::codec::oxm::FieldId;

macro_rules! numbers {
    ($($type:ty: $($name:ident = $number:expr),*;)*) => {
        $($(pub(crate) const $name: $type = $number;)*)*
    };
}

/// Fields of one class.
macro_rules! match_fields {
    ($class:ident: $($name:ident = $number:literal),* $(,)?) => {
        $(pub(crate) const $name: FieldId = FieldId::of($class, $number);)*
    };
}

numbers! {
    // Versions in a message's header (`include/openflow/openflow-common.h`, `enum ofp_version`).
    u8: OFP10_VERSION = 1, OFP13_VERSION = 4, OFP14_VERSION = 5, OFP15_VERSION = 6;

    // Lengths (section 7): `struct ofp_header`, `struct ofp11_match_header`, `struct
    // ofp_hello_elem_header`; type and length of an action or instruction; `struct ofp_oxs_stat`
    // of 1.5; the shortest entry of a dump, its match left out (`struct ofp13_flow_stats`, `struct
    // ofp15_flow_desc`); `struct ofp13_port`; what most lengths are multiples of
    // (OFP_ACTION_ALIGN); an experimenter's number in a field's header.
    usize: OFP_HEADER_LEN = 8, OFP_MATCH_HEADER_LEN = 4, OFP_HELLO_ELEM_HEADER_LEN = 4,
        OFP_BLOCK_HEADER_LEN = 4, OFP_OXS_STAT_LEN = 4, OFP_FLOW_STATS_MIN_LEN = 32,
        OFP13_PORT_LEN = 64, OFP_ALIGN = 8, OXM_EXPERIMENTER_LEN = 4;

    // Message types (section 7.1.1, `enum ofp_type`; 33 and 34 from 1.4 on).
    u8: OFPT_HELLO = 0, OFPT_ERROR = 1, OFPT_ECHO_REQUEST = 2, OFPT_ECHO_REPLY = 3,
        OFPT_EXPERIMENTER = 4, OFPT_FEATURES_REQUEST = 5, OFPT_FEATURES_REPLY = 6, OFPT_PORT_STATUS = 12,
        OFPT_FLOW_MOD = 14,
        OFPT_MULTIPART_REQUEST = 18, OFPT_MULTIPART_REPLY = 19, OFPT_BARRIER_REQUEST = 20,
        OFPT_BARRIER_REPLY = 21, OFPT_GET_ASYNC_REQUEST = 26, OFPT_GET_ASYNC_REPLY = 27,
        OFPT_SET_ASYNC = 28, OFPT_BUNDLE_CONTROL = 33, OFPT_BUNDLE_ADD_MESSAGE = 34;

    // Experimenters (`include/openflow/openflow-common.h`).
    u32: NX_VENDOR_ID = 0x0000_2320, ONF_VENDOR_ID = 0x4f4e_4600;

    // Their messages (`lib/ofp-msgs.h`): with the experimenter's number before their own.
    // ONFT_FLOW_MONITOR is ONFST_FLOW_MONITOR and ONFT_FLOW_MONITOR_CANCEL.
    u64: NXT_CT_FLUSH = (NX_VENDOR_ID as u64) << 32 | 32, ONFT_FLOW_MONITOR = onf(1870),
        ONFT_FLOW_MONITOR_PAUSED = onf(1871), ONFT_FLOW_MONITOR_RESUMED = onf(1872),
        ONFT_BUNDLE_CONTROL = onf(2300), ONFT_BUNDLE_ADD_MESSAGE = onf(2301);

    // Elements of a hello (section 7.5.1): one word of bits, for versions 0 to 31.
    u16: OFPHET_VERSIONBITMAP = 1, OFPHET_VERSIONBITMAP_LEN = 8;

    // Multipart messages (section 7.3.5, `enum ofp_multipart_type`; 16 from 1.4 on), their flag.
    u16: OFPMP_DESC = 0, OFPMP_FLOW = 1, OFPMP_TABLE = 3, OFPMP_GROUP_DESC = 7,
        OFPMP_PORT_DESC = 13, OFPMP_FLOW_MONITOR = 16, OFPMP_EXPERIMENTER = 0xffff,
        OFPMPF_REPLY_MORE = 1;

    // The strings of OFPMP_DESC (section 7.3.5.1).
    usize: DESC_STR_LEN = 256, SERIAL_NUM_LEN = 32;

    // Ports (`enum ofp_port`, section 7.2.1, in Open vSwitch's 16 bits), groups and tables. Real
    // ports are below OFPP_MAX. OFPP_LOCAL is the bridge's own; OVSDB calls it 65534 too.
    u16: OFPP_MAX = 0xff00, OFPP_IN_PORT = 0xfff8, OFPP_TABLE = 0xfff9, OFPP_NORMAL = 0xfffa,
        OFPP_FLOOD = 0xfffb, OFPP_ALL = 0xfffc, OFPP_CONTROLLER = 0xfffd, OFPP_LOCAL = 0xfffe,
        OFPP_NONE = 0xffff;
    u32: OFPP_ANY = 0xffff_ffff, OFPG_ANY = 0xffff_ffff, OFPG_ALL = 0xffff_fffc,
        OFP_NO_BUFFER = 0xffff_ffff;
    u8: OFPTT_ALL = 0xff;
    // The table of the switch's own entries (`ofproto/ofproto-dpif.h`): dumps leave it out.
    u8: TBL_INTERNAL = 254;

    // Flow entries (section 7.3.4.1): commands, flags, and a priority that need not be said.
    // OFPFF_CHECK_OVERLAP refuses to add what overlaps another entry of its priority; OVS remembers
    // that it was asked.
    u8: OFPFC_ADD = 0, OFPFC_DELETE_STRICT = 4;
    u16: OFPFF_SEND_FLOW_REM = 1, OFPFF_CHECK_OVERLAP = 2, OFPFF_RESET_COUNTS = 4,
        OFPFF_NO_PKT_COUNTS = 8, OFPFF_NO_BYT_COUNTS = 16, OFP_DEFAULT_PRIORITY = 0x8000;

    // Reports of ports (section 7.4.3, `enum ofp_port_reason`), and what is reported unasked (1.4,
    // section 7.3.10, `enum ofp_async_config_prop_type`: OFPACPT_LAST is the last that 1.4 and 1.5
    // have in common in Open vSwitch).
    u8: OFPPR_ADD = 0, OFPPR_DELETE = 1;
    u16: OFPACPT_PORT_STATUS_SLAVE = 2, OFPACPT_PORT_STATUS_MASTER = 3, OFPACPT_LAST = 9;

    // Bundles (1.5.1, section 7.3.9).
    u16: OFPBCT_OPEN_REQUEST = 0, OFPBCT_COMMIT_REQUEST = 4, OFPBCT_COMMIT_REPLY = 5,
        OFPBF_ATOMIC = 1, OFPBF_ORDERED = 2;

    // Flow monitors (1.5.1, section 7.3.5.18; `struct onf_flow_monitor_request`): commands, what to
    // tell (the same bits in both dialects; ONFFMF_OWN: our own changes in full), what is told.
    u8: OFPFMC_ADD = 0;
    u16: OFPFMF_ADD = 1 << 1, OFPFMF_REMOVED = 1 << 2, OFPFMF_MODIFY = 1 << 3,
        OFPFMF_INSTRUCTIONS = 1 << 4, ONFFMF_OWN = 1 << 5, OFPFMF_ONLY_OWN = 1 << 6,
        OFPFME_INITIAL = 0, OFPFME_ADDED = 1, OFPFME_REMOVED = 2, OFPFME_MODIFIED = 3,
        OFPFME_ABBREV = 4, OFPFME_PAUSED = 5, OFPFME_RESUMED = 6;
    // Why an entry was removed: to make room for another one.
    u8: OFPRR_EVICTION = 5;

    // Tuples of NXT_CT_FLUSH (`include/openflow/nicira-ext.h`, `enum nx_ct_flush_tlv_type` and
    // `enum nx_ct_flush_tuple_tlv_type`); the length of an address with its header, and of a tuple
    // of just that, both padded to 8 bytes.
    u16: NXT_CT_ORIG_TUPLE = 0, NXT_CT_REPLY_TUPLE = 1, NXT_CT_TUPLE_SRC = 0, NXT_CT_TUPLE_DST = 1,
        NXT_CT_ADDRESS_LEN = 20, NXT_CT_TUPLE_LEN = 32;

    // Errors (section 7.5.4, `enum ofp_error_type`; 17 from 1.4 on), and the codes that we act on.
    // OFPBFC_MSG_FAILED: one of a bundle's messages could not be done, so none was. From
    // ONFERR_BUNDLE_FIRST on are the 100 codes of 1.3's bundle extension (`lib/ofp-errors.h`).
    u16: OFPET_HELLO_FAILED = 0, OFPET_BAD_REQUEST = 1, OFPET_BAD_ACTION = 2,
        OFPET_BAD_INSTRUCTION = 3, OFPET_BAD_MATCH = 4, OFPET_FLOW_MOD_FAILED = 5,
        OFPET_BAD_PROPERTY = 13, OFPET_BUNDLE_FAILED = 17, OFPET_EXPERIMENTER = 0xffff,
        OFPBRC_BAD_TYPE = 1, OFPBRC_BAD_EXPERIMENTER = 3, OFPBRC_BAD_EXP_TYPE = 4,
        OFPBMC_BAD_FIELD = 6, OFPFMFC_OVERLAP = 3, OFPBFC_MSG_FAILED = 13,
        ONFERR_BUNDLE_FIRST = 2300;

    // Instructions (section 7.2.4).
    u16: OFPIT_GOTO_TABLE = 1, OFPIT_WRITE_METADATA = 2, OFPIT_WRITE_ACTIONS = 3,
        OFPIT_APPLY_ACTIONS = 4, OFPIT_CLEAR_ACTIONS = 5, OFPIT_METER = 6;

    // Actions (section 7.2.5; 28 and 29 from 1.5 on, ONFACT_COPY_FIELD is 1.3's extension).
    u16: OFPAT_OUTPUT = 0, OFPAT_SET_MPLS_TTL = 15, OFPAT_DEC_MPLS_TTL = 16, OFPAT_PUSH_VLAN = 17,
        OFPAT_POP_VLAN = 18, OFPAT_PUSH_MPLS = 19, OFPAT_POP_MPLS = 20, OFPAT_SET_QUEUE = 21,
        OFPAT_GROUP = 22, OFPAT_SET_NW_TTL = 23, OFPAT_DEC_NW_TTL = 24, OFPAT_SET_FIELD = 25,
        OFPAT_COPY_FIELD = 28, OFPAT_METER = 29, OFPAT_EXPERIMENTER = 0xffff,
        ONFACT_COPY_FIELD = 3200;

    // Nicira's actions (`lib/ofp-actions.c`, `enum ofp_raw_action_type`).
    u16: NXAST_RESUBMIT = 1, NXAST_SET_TUNNEL = 2, NXAST_SET_QUEUE = 4, NXAST_POP_QUEUE = 5,
        NXAST_REG_MOVE = 6, NXAST_REG_LOAD = 7, NXAST_NOTE = 8, NXAST_SET_TUNNEL64 = 9,
        NXAST_MULTIPATH = 10, NXAST_BUNDLE = 12, NXAST_BUNDLE_LOAD = 13, NXAST_RESUBMIT_TABLE = 14,
        NXAST_OUTPUT_REG = 15, NXAST_LEARN = 16, NXAST_EXIT = 17, NXAST_DEC_TTL = 18,
        NXAST_FIN_TIMEOUT = 19, NXAST_CONTROLLER = 20, NXAST_DEC_TTL_CNT_IDS = 21,
        NXAST_PUSH_MPLS = 23, NXAST_POP_MPLS = 24, NXAST_SET_MPLS_TTL = 25,
        NXAST_DEC_MPLS_TTL = 26, NXAST_STACK_PUSH = 27, NXAST_STACK_POP = 28, NXAST_SAMPLE = 29,
        NXAST_SET_MPLS_LABEL = 30, NXAST_SET_MPLS_TC = 31, NXAST_OUTPUT_REG2 = 32,
        NXAST_REG_LOAD2 = 33, NXAST_CONJUNCTION = 34, NXAST_CT = 35, NXAST_NAT = 36,
        NXAST_CONTROLLER2 = 37, NXAST_SAMPLE2 = 38, NXAST_OUTPUT_TRUNC = 39, NXAST_SAMPLE3 = 41,
        NXAST_CLONE = 42, NXAST_CT_CLEAR = 43, NXAST_RESUBMIT_TABLE_CT = 44, NXAST_LEARN2 = 45,
        NXAST_ENCAP = 46, NXAST_DECAP = 47, NXAST_DEC_NSH_TTL = 48, NXAST_CHECK_PKT_LARGER = 49,
        NXAST_DELETE_FIELD = 50, NXAST_SAMPLE4 = 51;

    // Arguments of these (`lib/ofp-actions.c`, `include/openflow/nicira-ext.h`).
    // NX_RESUBMIT_SAME_TABLE: the table that the resubmit stands in.
    u8: NX_RESUBMIT_SAME_TABLE = 0xff, NX_CT_RECIRC_NONE = 0xff;
    u16: NX_CT_F_COMMIT = 1, NX_CT_F_FORCE = 2, NX_NAT_F_DST = 2, NX_NAT_F_PERSISTENT = 4,
        NX_NAT_F_PROTO_HASH = 8, NX_NAT_F_PROTO_RANDOM = 16, NX_NAT_RANGE_IPV4_MIN = 1,
        NX_NAT_RANGE_IPV4_MAX = 2, NX_NAT_RANGE_IPV6_MIN = 4, NX_NAT_RANGE_IPV6_MAX = 8,
        NX_NAT_RANGE_PROTO_MIN = 16, NX_NAT_RANGE_PROTO_MAX = 32, NX_LEARN_F_SEND_FLOW_REM = 1,
        NX_LEARN_F_DELETE_LEARNED = 2, NX_LEARN_F_WRITE_RESULT = 4, NX_LEARN_N_BITS_MASK = 0x7ff,
        NX_LEARN_SRC_IMMEDIATE = 1 << 13, NX_LEARN_DST_MATCH = 0, NX_LEARN_DST_LOAD = 1 << 11,
        NX_LEARN_DST_OUTPUT = 2 << 11, NX_LEARN_DST_MASK = 3 << 11;

    // The form of a match, and classes of fields (section 7.2.2.1 and 7.2.3.3; packet registers and
    // statistics 1.5.1, section 7.2.3.3 and 7.2.4.2). NXM_0 has the fields of OpenFlow 1.0, NXM_1
    // Nicira's; behind EXPERIMENTER follows a number. A match on nothing has 4 bytes.
    u16: OFPMT_OXM = 1, OFP_EMPTY_MATCH_LEN = 4, OFPXMC_NXM_0 = 0x0000, OFPXMC_NXM_1 = 0x0001,
        OFPXMC_OPENFLOW_BASIC = 0x8000, OFPXMC_PACKET_REGS = 0x8001,
        OFPXSC_OPENFLOW_BASIC = 0x8002, OFPXMC_EXPERIMENTER = 0xffff;

    // What packets say of themselves (`lib/packets.h`, `<netinet/in.h>`, `<netinet/icmp6.h>`).
    // RARP's entries have the same fields as ARP's.
    u16: ETH_TYPE_IP = 0x0800, ETH_TYPE_ARP = 0x0806, ETH_TYPE_RARP = 0x8035,
        ETH_TYPE_IPV6 = 0x86dd, ETH_TYPE_MPLS = 0x8847, ETH_TYPE_MPLS_MCAST = 0x8848,
        VLAN_VID_MASK = 0x0fff, IPPORT_FTP = 21, IPPORT_TFTP = 69;
    u8: IPPROTO_ICMP = 1, IPPROTO_TCP = 6, IPPROTO_UDP = 17, IPPROTO_ICMPV6 = 58,
        IPPROTO_SCTP = 132, ND_NEIGHBOR_SOLICIT = 135, ND_NEIGHBOR_ADVERT = 136;
    u32: TCP_FIN = 0x001, TCP_SYN = 0x002, TCP_RST = 0x004, TCP_PSH = 0x008, TCP_ACK = 0x010,
        TCP_URG = 0x020, TCP_ECE = 0x040, TCP_CWR = 0x080, TCP_NS = 0x100;

    // What a packet is to its connection (`include/openvswitch/packets.h`), and which fragment it
    // is (`FLOW_NW_FRAG_*` in `include/openvswitch/flow.h`).
    u32: CS_NEW = 0x01, CS_ESTABLISHED = 0x02, CS_RELATED = 0x04, CS_REPLY_DIR = 0x08,
        CS_INVALID = 0x10, CS_TRACKED = 0x20, CS_SRC_NAT = 0x40, CS_DST_NAT = 0x80,
        FLOW_NW_FRAG_ANY = 1, FLOW_NW_FRAG_LATER = 2;
}

// Match fields (`include/openvswitch/meta-flow.h`; section 7.2.3.7).
match_fields! { OFPXMC_OPENFLOW_BASIC:
    OXM_OF_IN_PORT = 0, OXM_OF_METADATA = 2, OXM_OF_ETH_DST = 3, OXM_OF_ETH_SRC = 4,
    OXM_OF_ETH_TYPE = 5, OXM_OF_VLAN_VID = 6, OXM_OF_VLAN_PCP = 7, OXM_OF_IP_DSCP = 8,
    OXM_OF_IP_ECN = 9, OXM_OF_IP_PROTO = 10, OXM_OF_IPV4_SRC = 11, OXM_OF_IPV4_DST = 12,
    OXM_OF_TCP_SRC = 13, OXM_OF_TCP_DST = 14, OXM_OF_UDP_SRC = 15, OXM_OF_UDP_DST = 16,
    OXM_OF_SCTP_SRC = 17, OXM_OF_SCTP_DST = 18, OXM_OF_ICMPV4_TYPE = 19, OXM_OF_ICMPV4_CODE = 20,
    OXM_OF_ARP_OP = 21, OXM_OF_ARP_SPA = 22, OXM_OF_ARP_TPA = 23, OXM_OF_ARP_SHA = 24,
    OXM_OF_ARP_THA = 25, OXM_OF_IPV6_SRC = 26, OXM_OF_IPV6_DST = 27, OXM_OF_IPV6_FLABEL = 28,
    OXM_OF_ICMPV6_TYPE = 29, OXM_OF_ICMPV6_CODE = 30, OXM_OF_IPV6_ND_TARGET = 31,
    OXM_OF_IPV6_ND_SLL = 32, OXM_OF_IPV6_ND_TLL = 33, OXM_OF_MPLS_LABEL = 34, OXM_OF_MPLS_TC = 35,
    OXM_OF_MPLS_BOS = 36, OXM_OF_TUNNEL_ID = 38, OXM_OF_TCP_FLAGS = 42, OXM_OF_ACTSET_OUTPUT = 43,
    OXM_OF_PACKET_TYPE = 44,
}
match_fields! { OFPXSC_OPENFLOW_BASIC: OXS_OF_DURATION = 0 }
match_fields! { OFPXMC_PACKET_REGS: OXM_OF_PKT_REG0 = 0 }
match_fields! { OFPXMC_NXM_0:
    NXM_OF_IN_PORT = 0, NXM_OF_ETH_DST = 1, NXM_OF_ETH_SRC = 2, NXM_OF_ETH_TYPE = 3,
    NXM_OF_VLAN_TCI = 4, NXM_OF_IP_TOS = 5, NXM_OF_IP_PROTO = 6, NXM_OF_IP_SRC = 7,
    NXM_OF_IP_DST = 8, NXM_OF_TCP_SRC = 9, NXM_OF_TCP_DST = 10, NXM_OF_UDP_SRC = 11,
    NXM_OF_UDP_DST = 12, NXM_OF_ICMP_TYPE = 13, NXM_OF_ICMP_CODE = 14, NXM_OF_ARP_OP = 15,
    NXM_OF_ARP_SPA = 16, NXM_OF_ARP_TPA = 17,
}
match_fields! { OFPXMC_NXM_1:
    NXM_NX_REG0 = 0, NXM_NX_TUN_ID = 16, NXM_NX_ARP_SHA = 17, NXM_NX_ARP_THA = 18,
    NXM_NX_IPV6_SRC = 19, NXM_NX_IPV6_DST = 20, NXM_NX_ICMPV6_TYPE = 21, NXM_NX_ICMPV6_CODE = 22,
    NXM_NX_ND_TARGET = 23, NXM_NX_ND_SLL = 24, NXM_NX_ND_TLL = 25, NXM_NX_IP_FRAG = 26,
    NXM_NX_IPV6_LABEL = 27, NXM_NX_IP_ECN = 28, NXM_NX_IP_TTL = 29, NXM_NX_MPLS_TTL = 30,
    NXM_NX_TUN_IPV4_SRC = 31, NXM_NX_TUN_IPV4_DST = 32, NXM_NX_PKT_MARK = 33,
    NXM_NX_TCP_FLAGS = 34, NXM_NX_DP_HASH = 35, NXM_NX_RECIRC_ID = 36, NXM_NX_CONJ_ID = 37,
    NXM_NX_TUN_METADATA0 = 40, NXM_NX_CT_STATE = 105, NXM_NX_CT_ZONE = 106, NXM_NX_CT_MARK = 107,
    NXM_NX_CT_LABEL = 108, NXM_NX_TUN_IPV6_SRC = 109, NXM_NX_TUN_IPV6_DST = 110,
    NXM_NX_XXREG0 = 111, NXM_NX_CT_NW_PROTO = 119, NXM_NX_CT_NW_SRC = 120, NXM_NX_CT_NW_DST = 121,
    NXM_NX_CT_IPV6_SRC = 122, NXM_NX_CT_IPV6_DST = 123, NXM_NX_CT_TP_SRC = 124,
    NXM_NX_CT_TP_DST = 125,
}
// The ONF's extensions of 1.3.
pub(crate) const ONFOXM_ET_TCP_FLAGS: FieldId = OXM_OF_TCP_FLAGS.of_the_onf();
pub(crate) const ONFOXM_ET_ACTSET_OUTPUT: FieldId = OXM_OF_ACTSET_OUTPUT.of_the_onf();

/// A message of the ONF's.
const fn onf(kind: u32) -> u64 {
    (ONF_VENDOR_ID as u64) << 32 | kind as u64
}
