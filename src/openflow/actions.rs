//! Instructions and actions, each read into a plain value. What they mean for a verdict is
//! `effects`' business, how they look to a person `show`'s.

use super::error::Malformed;
use super::learn::Learn;
use super::oxm::{FieldId, Header, Oxm};
use super::wire::{NICIRA, ONF, Reader};

/// Part of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) id: FieldId,
    /// Width of the whole field.
    pub(super) width: u32,
    pub(super) offset: u32,
    pub(super) bits: u32,
}

impl Range {
    pub(super) fn new(header: Header, offset: u16, bits: u32) -> Self {
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
pub(super) enum Action<'a> {
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
    /// Member ports are u16s.
    Bundle {
        ports: &'a [u8],
        load: Option<Range>,
    },
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
    /// Edits the packet or says something about it; nobody's port, nobody's register.
    Edit {
        name: &'static str,
        argument: Option<u32>,
    },
    /// Bytes that somebody wanted to remember.
    Note(&'a [u8]),
    /// One we cannot read, whole.
    Unknown {
        kind: u16,
        body: &'a [u8],
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ct<'a> {
    pub(super) flags: u16,
    /// The zone's field, if it is not `zone`.
    pub(super) zone_field: Option<Range>,
    pub(super) zone: u16,
    /// 0xff: none.
    pub(super) table: u8,
    pub(super) alg: u16,
    pub(super) actions: &'a [u8],
}

/// One instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Instruction<'a> {
    Goto(u8),
    WriteMetadata { value: u64, mask: u64 },
    Write(&'a [u8]),
    Apply(&'a [u8]),
    Clear,
    Meter(u32),
    Unknown { kind: u16, body: &'a [u8] },
}

/// Reads the next instruction.
pub(super) fn instruction<'a>(reader: &mut Reader<'a>) -> Result<Instruction<'a>, Malformed> {
    let (kind, mut body) = reader.block("instruction")?;
    Ok(match kind {
        1 => Instruction::Goto(body.u8("goto_table")?),
        2 => {
            body.take(4, "write_metadata")?;
            let value = body.u64("write_metadata")?;
            Instruction::WriteMetadata { value, mask: body.u64("write_metadata")? }
        }
        3 | 4 => {
            body.take(4, "instruction's actions")?;
            if kind == 3 {
                Instruction::Write(body.rest())
            } else {
                Instruction::Apply(body.rest())
            }
        }
        5 => Instruction::Clear,
        6 => Instruction::Meter(body.u32("meter")?),
        _ => Instruction::Unknown { kind, body: body.rest() },
    })
}

/// Reads the next action. Unknown ones are a value; only lengths that cannot be are errors.
pub(super) fn action<'a>(reader: &mut Reader<'a>) -> Result<Action<'a>, Malformed> {
    let (kind, body) = reader.block("action")?;
    let mut r = body;
    Ok(match kind {
        0 => Action::Output { port: r.u32("output")?, max_len: r.u16("output")? },
        15 => edit("set_mpls_ttl", Some(r.u8("set_mpls_ttl")?.into())),
        16 => edit("dec_mpls_ttl", None),
        17 => edit("push_vlan", Some(r.u16("push_vlan")?.into())),
        18 => edit("pop_vlan", None),
        19 => edit("push_mpls", Some(r.u16("push_mpls")?.into())),
        20 => edit("pop_mpls", Some(r.u16("pop_mpls")?.into())),
        21 => edit("set_queue", Some(r.u32("set_queue")?)),
        22 => Action::Group(r.u32("group")?),
        23 => edit("mod_nw_ttl", Some(r.u8("set_nw_ttl")?.into())),
        24 => edit("dec_ttl", None),
        25 => Action::SetField(Oxm::read(&mut r)?),
        28 => copy_field(&mut r)?,
        29 => Action::Meter(r.u32("meter")?),
        0xffff => experimenter(kind, body)?,
        _ => Action::Unknown { kind, body: body.rest() },
    })
}

fn edit(name: &'static str, argument: Option<u32>) -> Action<'static> {
    Action::Edit { name, argument }
}

/// n_bits, both offsets, 2 bytes of padding, both headers.
fn copy_field<'a>(r: &mut Reader<'a>) -> Result<Action<'a>, Malformed> {
    let field = "copy_field";
    let (bits, src, dst) = (u32::from(r.u16(field)?), r.u16(field)?, r.u16(field)?);
    r.take(2, field)?;
    let src = Range::new(Header::read(r)?, src, bits);
    Ok(Action::Move { src, dst: Range::new(Header::read(r)?, dst, bits) })
}

fn experimenter(kind: u16, body: Reader<'_>) -> Result<Action<'_>, Malformed> {
    let mut r = body;
    let unknown = Ok(Action::Unknown { kind, body: body.rest() });
    let vendor = r.u32("action's vendor")?;
    match (vendor, r.u16("action's subtype")?) {
        (NICIRA, subtype) => {
            Ok(nicira(subtype, r)?.unwrap_or(Action::Unknown { kind, body: body.rest() }))
        }
        // The extension that became 1.5's COPY_FIELD.
        (ONF, 3200) => {
            r.take(2, "copy_field")?;
            copy_field(&mut r)
        }
        _ => unknown,
    }
}

/// Arguments from offset 10 of the action.
#[expect(clippy::too_many_lines, reason = "one table: subtype, layout")]
fn nicira(subtype: u16, mut r: Reader<'_>) -> Result<Option<Action<'_>>, Malformed> {
    Ok(Some(match subtype {
        1 => Action::Resubmit { in_port: r.u16("resubmit")?, table: 0xff, ct: false },
        14 | 44 => {
            let in_port = r.u16("resubmit")?;
            Action::Resubmit { in_port, table: r.u8("resubmit")?, ct: subtype == 44 }
        }
        // 1.0's set_tunnel: the tunnel's key, seen as a write to tun_id.
        2 | 9 => {
            let id = FieldId { class: super::oxm::NXM1, number: 16, experimenter: 0 };
            r.take(if subtype == 2 { 2 } else { 6 }, "set_tunnel")?;
            let value =
                if subtype == 2 { r.u32("set_tunnel")?.into() } else { r.u64("set_tunnel")? };
            Action::Load { dst: Range { id, width: 64, offset: 0, bits: 64 }, value }
        }
        4 => edit(
            "set_queue",
            Some({
                r.take(2, "set_queue")?;
                r.u32("set_queue")?
            }),
        ),
        5 => edit("pop_queue", None),
        6 => {
            let field = "move";
            let (bits, src, dst) = (u32::from(r.u16(field)?), r.u16(field)?, r.u16(field)?);
            let src = Range::new(Header::read(&mut r)?, src, bits);
            Action::Move { src, dst: Range::new(Header::read(&mut r)?, dst, bits) }
        }
        7 => {
            let packed = r.u16("load")?;
            let dst = Range::packed(Header::read(&mut r)?, packed);
            Action::Load { dst, value: r.u64("load")? }
        }
        8 => Action::Note(r.rest()),
        10 => {
            r.take(16, "multipath")?;
            let packed = r.u16("multipath")?;
            Action::Multipath(Range::packed(Header::read(&mut r)?, packed))
        }
        12 | 13 => {
            r.take(10, "bundle")?;
            let count = usize::from(r.u16("bundle")?);
            let packed = r.u16("bundle")?;
            let mut dst = r.sub(8, "bundle")?;
            let load = match subtype {
                13 => Some(Range::packed(Header::read(&mut dst)?, packed)),
                _ => None,
            };
            let bytes = count.checked_mul(2).ok_or(Malformed::Short("bundle's members"))?;
            Action::Bundle { ports: r.take(bytes, "bundle's members")?, load }
        }
        15 | 32 => {
            let packed = r.u16("output to a register")?;
            if subtype == 32 {
                r.take(2, "output to a register")?;
            }
            Action::OutputRegister(Range::packed(Header::read(&mut r)?, packed))
        }
        16 | 45 => Action::Learn(Learn::read(r, subtype == 45)?),
        17 => edit("exit", None),
        18 | 21 => edit("dec_ttl", None),
        19 => edit("fin_timeout", None),
        20 | 37 => Action::Controller,
        23 => edit("push_mpls", Some(r.u16("push_mpls")?.into())),
        24 => edit("pop_mpls", Some(r.u16("pop_mpls")?.into())),
        25 => edit("set_mpls_ttl", Some(r.u8("set_mpls_ttl")?.into())),
        26 => edit("dec_mpls_ttl", None),
        27 | 28 => {
            let offset = r.u16("stack")?;
            let header = Header::read(&mut r)?;
            let range = Range::new(header, offset, r.u16("stack")?.into());
            if subtype == 27 { Action::StackPush(range) } else { Action::StackPop(range) }
        }
        29 => Action::Sample { port: None },
        38 | 41 | 51 => {
            r.take(if subtype == 51 { 22 } else { 14 }, "sample")?;
            Action::Sample { port: Some(r.u16("sample")?) }
        }
        30 => edit("set_mpls_label", None),
        31 => edit("set_mpls_tc", None),
        33 => {
            r.take(6, "load2")?;
            Action::SetField(Oxm::read(&mut r)?)
        }
        34 => {
            let (clause, of) = (r.u8("conjunction")?, r.u8("conjunction")?);
            Action::Conjunction { clause, of, id: r.u32("conjunction")? }
        }
        35 => Action::Ct(ct(&mut r)?),
        36 => Action::Nat(r.rest()),
        39 => Action::OutputTrunc { port: r.u16("output")?, max_len: r.u32("output")? },
        42 => {
            r.take(6, "clone")?;
            Action::Clone(r.rest())
        }
        43 => edit("ct_clear", None),
        46 => edit("encap", None),
        47 => edit("decap", None),
        48 => edit("dec_nsh_ttl", None),
        49 => {
            let (length, bit) = (r.u16("check_pkt_larger")?, r.u16("check_pkt_larger")?);
            Action::CheckPktLarger { length, dst: Range::new(Header::read(&mut r)?, bit, 1) }
        }
        50 => edit("delete_field", None),
        _ => return Ok(None),
    }))
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
