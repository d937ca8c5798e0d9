//! Instructions and actions, each read into a plain value. `effects` says what they mean for
//! a verdict, `text` how they look to a person.

use crate::openflow::codec::learn::Learn;
use crate::openflow::codec::numbers::*;
use crate::openflow::codec::oxm::{FieldId, Header, Oxm};
use crate::openflow::codec::wire::Reader;
use crate::openflow::error::Malformed;

/// Part of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) id: FieldId,
    /// Width of the whole field.
    pub(crate) width: u32,
    pub(crate) offset: u32,
    pub(crate) bits: u32,
}

impl Range {
    pub(crate) fn new(header: Header, offset: u16, bits: u32) -> Self {
        let bytes = if header.masked { header.length / 2 } else { header.length };
        let width = u32::try_from(bytes).unwrap_or(0).saturating_mul(8);
        Self { id: header.id, width, offset: offset.into(), bits }
    }

    /// OVS packs both into 16 bits: offset << 6 | (bits - 1).
    fn packed(header: Header, ofs_nbits: u16) -> Self {
        Self::new(header, ofs_nbits >> 6, u32::from(ofs_nbits & 0x3f) + 1)
    }
}

/// One action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action<'a> {
    Output {
        port: u32,
        max_len: u16,
    },
    OutputTrunc {
        port: u16,
        max_len: u32,
    },
    OutputRegister(Range),
    Controller,
    Group(u32),
    Meter(u32),
    SetField(Oxm<'a>),
    Load {
        dst: Range,
        value: u64,
    },
    Move {
        src: Range,
        dst: Range,
    },
    StackPush(Range),
    StackPop(Range),
    Multipath(Range),
    /// Member ports, u16s each, and the field that the chosen one is loaded into.
    Bundle(&'a [u8], Option<Range>),
    CheckPktLarger {
        length: u16,
        dst: Range,
    },
    Resubmit {
        in_port: u16,
        table: u8,
        ct: bool,
    },
    Learn(Learn<'a>),
    Sample {
        port: Option<u16>,
    },
    Conjunction {
        clause: u8,
        of: u8,
        id: u32,
    },
    Ct(Ct<'a>),
    Nat(&'a [u8]),
    Clone(&'a [u8]),
    /// Edits the packet or its handling: the action's name and argument. Names no port and no
    /// register.
    Edit(&'static str, Option<u32>),
    /// Bytes for whoever added the entry; the switch ignores them.
    Note(&'a [u8]),
    /// An action that we cannot read: all of its body.
    Unknown {
        kind: u16,
        body: &'a [u8],
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ct<'a> {
    pub(crate) flags: u16,
    /// The zone's field, if it is not `zone`.
    pub(crate) zone_field: Option<Range>,
    pub(crate) zone: u16,
    /// NX_CT_RECIRC_NONE: none.
    pub(crate) table: u8,
    pub(crate) alg: u16,
    pub(crate) actions: &'a [u8],
}

/// One instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Instruction<'a> {
    Goto(u8),
    WriteMetadata { value: u64, mask: u64 },
    Write(&'a [u8]),
    Apply(&'a [u8]),
    Clear,
    Meter(u32),
    Unknown { kind: u16, body: &'a [u8] },
}

/// Reads the next instruction.
pub(crate) fn instruction<'a>(reader: &mut Reader<'a>) -> Result<Instruction<'a>, Malformed> {
    let (kind, mut body) = reader.block("instruction")?;
    Ok(match kind {
        OFPIT_GOTO_TABLE => Instruction::Goto(body.u8("goto_table")?),
        OFPIT_WRITE_METADATA => {
            body.take(4, "write_metadata")?;
            let value = body.u64("write_metadata")?;
            Instruction::WriteMetadata { value, mask: body.u64("write_metadata")? }
        }
        OFPIT_WRITE_ACTIONS | OFPIT_APPLY_ACTIONS => {
            body.take(4, "instruction's actions")?;
            let list = body.rest();
            let write = kind == OFPIT_WRITE_ACTIONS;
            if write { Instruction::Write(list) } else { Instruction::Apply(list) }
        }
        OFPIT_CLEAR_ACTIONS => Instruction::Clear,
        OFPIT_METER => Instruction::Meter(body.u32("meter")?),
        _ => Instruction::Unknown { kind, body: body.rest() },
    })
}

/// Reads the next action. Unknown ones are a value; only lengths that cannot be are errors.
pub(crate) fn action<'a>(reader: &mut Reader<'a>) -> Result<Action<'a>, Malformed> {
    let (kind, body) = reader.block("action")?;
    let mut r = body;
    Ok(match kind {
        OFPAT_OUTPUT => Action::Output { port: r.u32("output")?, max_len: r.u16("output")? },
        OFPAT_SET_MPLS_TTL => edit("set_mpls_ttl", Some(r.u8("set_mpls_ttl")?.into())),
        OFPAT_DEC_MPLS_TTL => edit("dec_mpls_ttl", None),
        OFPAT_PUSH_VLAN => edit("push_vlan", Some(r.u16("push_vlan")?.into())),
        OFPAT_POP_VLAN => edit("pop_vlan", None),
        OFPAT_PUSH_MPLS => edit("push_mpls", Some(r.u16("push_mpls")?.into())),
        OFPAT_POP_MPLS => edit("pop_mpls", Some(r.u16("pop_mpls")?.into())),
        OFPAT_SET_QUEUE => edit("set_queue", Some(r.u32("set_queue")?)),
        OFPAT_GROUP => Action::Group(r.u32("group")?),
        OFPAT_SET_NW_TTL => edit("mod_nw_ttl", Some(r.u8("set_nw_ttl")?.into())),
        OFPAT_DEC_NW_TTL => edit("dec_ttl", None),
        OFPAT_SET_FIELD => Action::SetField(Oxm::read(&mut r)?),
        OFPAT_COPY_FIELD => copy_field(&mut r, 2)?,
        OFPAT_METER => Action::Meter(r.u32("meter")?),
        OFPAT_EXPERIMENTER => experimenter(kind, body)?,
        _ => Action::Unknown { kind, body: body.rest() },
    })
}

fn edit(name: &'static str, argument: Option<u32>) -> Action<'static> {
    Action::Edit(name, argument)
}

/// 1.0's set_tunnel: the tunnel's key, seen as a write to tun_id.
fn set_tunnel(value: u64) -> Action<'static> {
    Action::Load { dst: Range { id: NXM_NX_TUN_ID, width: 64, offset: 0, bits: 64 }, value }
}

/// n_bits, both offsets, padding, both headers.
fn copy_field<'a>(r: &mut Reader<'a>, padding: usize) -> Result<Action<'a>, Malformed> {
    let field = "copy_field";
    let (bits, src, dst) = (u32::from(r.u16(field)?), r.u16(field)?, r.u16(field)?);
    r.take(padding, field)?;
    let src = Range::new(Header::read(r)?, src, bits);
    Ok(Action::Move { src, dst: Range::new(Header::read(r)?, dst, bits) })
}

fn experimenter(kind: u16, body: Reader<'_>) -> Result<Action<'_>, Malformed> {
    let mut r = body;
    let unknown = Action::Unknown { kind, body: body.rest() };
    match (r.u32("action's vendor")?, r.u16("action's subtype")?) {
        (NX_VENDOR_ID, subtype) => Ok(nicira(subtype, r)?.unwrap_or(unknown)),
        (ONF_VENDOR_ID, ONFACT_COPY_FIELD) => {
            r.take(2, "copy_field")?;
            copy_field(&mut r, 2)
        }
        _ => Ok(unknown),
    }
}

/// Arguments from offset 10 of the action.
fn nicira(subtype: u16, mut r: Reader<'_>) -> Result<Option<Action<'_>>, Malformed> {
    Ok(Some(match subtype {
        NXAST_RESUBMIT | NXAST_RESUBMIT_TABLE | NXAST_RESUBMIT_TABLE_CT => {
            let (in_port, ct) = (r.u16("resubmit")?, subtype == NXAST_RESUBMIT_TABLE_CT);
            let same = subtype == NXAST_RESUBMIT;
            let table = if same { NX_RESUBMIT_SAME_TABLE } else { r.u8("resubmit")? };
            Action::Resubmit { in_port, table, ct }
        }
        NXAST_NOTE => Action::Note(r.rest()),
        NXAST_BUNDLE | NXAST_BUNDLE_LOAD => bundle(r, subtype == NXAST_BUNDLE_LOAD)?,
        NXAST_OUTPUT_REG | NXAST_OUTPUT_REG2 => {
            let packed = r.u16("output to a register")?;
            if subtype == NXAST_OUTPUT_REG2 {
                r.take(2, "output to a register")?;
            }
            Action::OutputRegister(Range::packed(Header::read(&mut r)?, packed))
        }
        NXAST_LEARN | NXAST_LEARN2 => Action::Learn(Learn::read(r, subtype == NXAST_LEARN2)?),
        NXAST_CONTROLLER | NXAST_CONTROLLER2 => Action::Controller,
        NXAST_SAMPLE => Action::Sample { port: None },
        NXAST_SAMPLE2 | NXAST_SAMPLE3 | NXAST_SAMPLE4 => {
            r.take(if subtype == NXAST_SAMPLE4 { 22 } else { 14 }, "sample")?;
            Action::Sample { port: Some(r.u16("sample")?) }
        }
        NXAST_CONJUNCTION => {
            let (clause, of) = (r.u8("conjunction")?, r.u8("conjunction")?);
            Action::Conjunction { clause, of, id: r.u32("conjunction")? }
        }
        NXAST_CT => Action::Ct(ct(&mut r)?),
        NXAST_NAT => Action::Nat(r.rest()),
        NXAST_OUTPUT_TRUNC => {
            Action::OutputTrunc { port: r.u16("output")?, max_len: r.u32("output")? }
        }
        NXAST_CLONE => {
            r.take(6, "clone")?;
            Action::Clone(r.rest())
        }
        _ => {
            let written = nicira_field(subtype, r)?;
            return if written.is_some() { Ok(written) } else { nicira_edit(subtype, r) };
        }
    }))
}

/// The Nicira actions that write a field, or the stack.
fn nicira_field(subtype: u16, mut r: Reader<'_>) -> Result<Option<Action<'_>>, Malformed> {
    Ok(Some(match subtype {
        NXAST_SET_TUNNEL => {
            r.take(2, "set_tunnel")?;
            set_tunnel(r.u32("set_tunnel")?.into())
        }
        NXAST_SET_TUNNEL64 => {
            r.take(6, "set_tunnel")?;
            set_tunnel(r.u64("set_tunnel")?)
        }
        NXAST_REG_MOVE => copy_field(&mut r, 0)?,
        NXAST_REG_LOAD => {
            let packed = r.u16("load")?;
            let dst = Range::packed(Header::read(&mut r)?, packed);
            Action::Load { dst, value: r.u64("load")? }
        }
        NXAST_REG_LOAD2 => {
            r.take(6, "load2")?;
            Action::SetField(Oxm::read(&mut r)?)
        }
        NXAST_MULTIPATH => {
            r.take(16, "multipath")?;
            let packed = r.u16("multipath")?;
            Action::Multipath(Range::packed(Header::read(&mut r)?, packed))
        }
        NXAST_STACK_PUSH | NXAST_STACK_POP => {
            let offset = r.u16("stack")?;
            let header = Header::read(&mut r)?;
            let range = Range::new(header, offset, r.u16("stack")?.into());
            let push = subtype == NXAST_STACK_PUSH;
            if push { Action::StackPush(range) } else { Action::StackPop(range) }
        }
        NXAST_CHECK_PKT_LARGER => {
            let (length, bit) = (r.u16("check_pkt_larger")?, r.u16("check_pkt_larger")?);
            Action::CheckPktLarger { length, dst: Range::new(Header::read(&mut r)?, bit, 1) }
        }
        _ => return Ok(None),
    }))
}

/// The Nicira actions that are an [`Action::Edit`].
fn nicira_edit(subtype: u16, mut r: Reader<'_>) -> Result<Option<Action<'_>>, Malformed> {
    Ok(Some(match subtype {
        NXAST_SET_QUEUE => {
            r.take(2, "set_queue")?;
            edit("set_queue", Some(r.u32("set_queue")?))
        }
        NXAST_POP_QUEUE => edit("pop_queue", None),
        NXAST_EXIT => edit("exit", None),
        NXAST_DEC_TTL | NXAST_DEC_TTL_CNT_IDS => edit("dec_ttl", None),
        NXAST_FIN_TIMEOUT => edit("fin_timeout", None),
        NXAST_PUSH_MPLS => edit("push_mpls", Some(r.u16("push_mpls")?.into())),
        NXAST_POP_MPLS => edit("pop_mpls", Some(r.u16("pop_mpls")?.into())),
        NXAST_SET_MPLS_TTL => edit("set_mpls_ttl", Some(r.u8("set_mpls_ttl")?.into())),
        NXAST_DEC_MPLS_TTL => edit("dec_mpls_ttl", None),
        NXAST_SET_MPLS_LABEL => edit("set_mpls_label", None),
        NXAST_SET_MPLS_TC => edit("set_mpls_tc", None),
        NXAST_CT_CLEAR => edit("ct_clear", None),
        NXAST_ENCAP => edit("encap", None),
        NXAST_DECAP => edit("decap", None),
        NXAST_DEC_NSH_TTL => edit("dec_nsh_ttl", None),
        NXAST_DELETE_FIELD => edit("delete_field", None),
        _ => return Ok(None),
    }))
}

/// A bundle action: its member ports, and the field that gets the chosen one.
fn bundle(mut r: Reader<'_>, loads: bool) -> Result<Action<'_>, Malformed> {
    r.take(10, "bundle")?;
    let count = usize::from(r.u16("bundle")?);
    let packed = r.u16("bundle")?;
    let mut dst = r.sub(8, "bundle")?;
    let load = if loads { Some(Range::packed(Header::read(&mut dst)?, packed)) } else { None };
    let bytes = count.checked_mul(2).ok_or(Malformed::Short("bundle's members"))?;
    Ok(Action::Bundle(r.take(bytes, "bundle's members")?, load))
}

fn ct<'a>(r: &mut Reader<'a>) -> Result<Ct<'a>, Malformed> {
    let flags = r.u16("ct flags")?;
    let mut source = *r;
    let zone_source = r.u32("ct zone source")?;
    let zone = r.u16("ct zone")?;
    let zone_field = match zone_source {
        0 => None,
        _ => Some(Range::packed(Header::read(&mut source)?, zone)),
    };
    let table = r.u8("ct table")?;
    r.take(3, "ct")?;
    let alg = r.u16("ct alg")?;
    Ok(Ct { flags, zone_field, zone, table, alg, actions: r.rest() })
}
