//! What instructions mean for a verdict: where packets go, which registers are written.
//!
//! Whatever is not on the list of header edits, register writes and plain outputs sets
//! [`Actions::beyond`]; what we cannot read sets [`Actions::unread`] too.

use crate::model::flow::{Actions, RegisterRange, RegisterWrite};
use crate::openflow::codec::actions::{Action, Instruction, Range, action, instruction};
use crate::openflow::codec::learn::{Learn, Source, Target};
use crate::openflow::codec::numbers::*;
use crate::openflow::codec::oxm::{
    FieldId, Oxm, bits, is_destination, is_in_port, is_tunnel_target, is_vlan, registers, split,
    vlan,
};
use crate::openflow::codec::port;
use crate::openflow::codec::wire::Reader;
use crate::openflow::error::Malformed;

/// Ports that send to every port, or to the one that has learned the address.
const SPREADING: [u16; 3] = [OFPP_NORMAL, OFPP_FLOOD, OFPP_ALL];
/// Lists within lists that we follow; what is deeper is unread. OVS nests two in practice.
const DEEPEST: u8 = 16;

/// Reads an entry's instructions, forgetting what `into` held.
pub(crate) fn decode(instructions: &[u8], into: &mut Actions) -> Result<(), Malformed> {
    clear(into);
    let mut reader = Reader::new(instructions);
    while !reader.is_empty() {
        match instruction(&mut reader)? {
            Instruction::Apply(list) => actions(list, Scope { depth: 0, nested: false }, into)?,
            Instruction::Write(list) => {
                into.beyond = true;
                actions(list, Scope { depth: 0, nested: true }, into)?;
            }
            Instruction::WriteMetadata { .. } | Instruction::Clear => {}
            Instruction::Goto(_) | Instruction::Meter(_) => into.beyond = true,
            Instruction::Unknown { .. } => unread(into),
        }
    }
    Ok(())
}

/// Reads a list of actions without an instruction: a group's bucket.
pub(crate) fn decode_list(list: &[u8], into: &mut Actions) -> Result<(), Malformed> {
    clear(into);
    actions(list, Scope { depth: 0, nested: false }, into)
}

/// Keeps the vectors' memory: one value serves a dump of a million flows.
fn clear(into: &mut Actions) {
    let mut old = std::mem::take(into);
    old.outputs.clear();
    old.port_references.clear();
    old.output_registers.clear();
    old.register_writes.clear();
    old.vlans.clear();
    let Actions { outputs, port_references, output_registers, register_writes, vlans, .. } = old;
    *into = Actions { outputs, port_references, output_registers, register_writes, vlans, ..*into };
}

fn unread(into: &mut Actions) {
    into.beyond = true;
    into.unread = true;
}

#[derive(Clone, Copy)]
struct Scope {
    depth: u8,
    /// See [`RegisterWrite::nested`].
    nested: bool,
}

impl Scope {
    fn inner(self) -> Self {
        Self { depth: self.depth.saturating_add(1), nested: true }
    }
}

fn actions(list: &[u8], scope: Scope, into: &mut Actions) -> Result<(), Malformed> {
    if scope.depth > DEEPEST {
        unread(into);
        return Ok(());
    }
    let mut reader = Reader::new(list);
    while !reader.is_empty() {
        let action = action(&mut reader)?;
        into.beyond |= is_beyond(&action);
        match action {
            Action::Output { port, .. } => output(port::from_wire(port), into),
            Action::OutputTrunc { port, .. } => output(Some(port), into),
            Action::OutputRegister(range) => output_register(range, into),
            Action::Bundle(ports, load) => {
                members(ports, load.is_some(), into)?;
                if let Some(range) = load {
                    write_unknown(range, scope, into);
                }
            }
            Action::SetField(oxm) => set_field(&oxm, scope, into),
            Action::Load { dst, value } => load(dst, value.into(), scope, into),
            Action::Move { dst, .. } | Action::StackPop(dst) | Action::Multipath(dst) => {
                write_unknown(dst, scope, into);
            }
            Action::CheckPktLarger { dst, .. } => write_unknown(dst, scope, into),
            Action::Resubmit { in_port, .. } => reference(in_port, into),
            Action::Sample { port } => reference(port.unwrap_or(OFPP_NONE), into),
            Action::Learn(learned) => learn(&learned, scope, into),
            Action::Conjunction { .. } => into.conjunction = true,
            Action::Ct(ct) => actions(ct.actions, scope.inner(), into)?,
            Action::Clone(list) => actions(list, scope.inner(), into)?,
            Action::Group(_) => into.group = true,
            Action::Controller => into.controller = true,
            Action::StackPush(_) | Action::Nat(_) | Action::Note(_) => {}
            Action::Meter(_) | Action::Edit(..) => {}
            Action::Unknown { .. } => unread(into),
        }
    }
    Ok(())
}

/// Whether an action does more than edit headers or registers, and than output to a port.
fn is_beyond(action: &Action<'_>) -> bool {
    matches!(
        action,
        Action::OutputRegister(_)
            | Action::Group(_)
            | Action::Meter(_)
            | Action::Controller
            | Action::Resubmit { .. }
            | Action::Learn(_)
            | Action::Sample { .. }
            | Action::Conjunction { .. }
            | Action::Ct(_)
            | Action::Unknown { .. }
    )
}

fn is_port(port: u16) -> bool {
    port < OFPP_MAX || port == OFPP_LOCAL
}

fn output(port: Option<u16>, into: &mut Actions) {
    match port.filter(|port| is_port(*port)) {
        Some(port) => into.outputs.push(port),
        None => {
            into.beyond = true;
            into.spreads |= port.is_some_and(|port| SPREADING.contains(&port));
            into.controller |= port == Some(OFPP_CONTROLLER);
        }
    }
}

/// A port that is named without an output. Reserved numbers (OFPP_IN_PORT: the packet's own)
/// name no port.
fn reference(port: u16, into: &mut Actions) {
    if is_port(port) {
        into.port_references.push(port);
    }
}

fn members(ports: &[u8], loaded: bool, into: &mut Actions) -> Result<(), Malformed> {
    let mut reader = Reader::new(ports);
    while !reader.is_empty() {
        let port = reader.u16("bundle's member")?;
        if loaded { reference(port, into) } else { output(Some(port), into) }
    }
    Ok(())
}

fn output_register(range: Range, into: &mut Actions) {
    if let Some(at) = registers(range.id) {
        let parts = split(at, 0, bits(range.offset, range.bits));
        into.output_registers.extend(parts.map(|(index, _, mask)| RegisterRange { index, mask }));
    }
}

fn set_field(oxm: &Oxm<'_>, scope: Scope, into: &mut Actions) {
    match oxm.number() {
        Some((value, mask)) => write(oxm.id, Some(value), mask, scope, into),
        None if registers(oxm.id).is_some() => unread(into),
        None => into.rewrites_destination |= is_destination(oxm.id),
    }
}

fn load(dst: Range, value: u128, scope: Scope, into: &mut Actions) {
    let value = value.checked_shl(dst.offset).unwrap_or(0);
    write(dst.id, Some(value), bits(dst.offset, dst.bits), scope, into);
}

fn write_unknown(dst: Range, scope: Scope, into: &mut Actions) {
    write(dst.id, None, bits(dst.offset, dst.bits), scope, into);
}

/// A write of these bits; `None` is a value that the entry does not say.
fn write(id: FieldId, value: Option<u128>, mask: u128, scope: Scope, into: &mut Actions) {
    into.rewrites_destination |= is_destination(id);
    if is_vlan(id) {
        into.any_vlan |= value.is_none();
        into.vlans.extend(value.and_then(|value| vlan(value, mask)));
    }
    if let Some(at) = registers(id) {
        let parts = split(at, value.unwrap_or(0), mask);
        into.register_writes.extend(parts.map(|(index, part, mask)| RegisterWrite {
            index,
            mask,
            value: value.map(|_| part),
            nested: scope.nested,
        }));
    } else if is_tunnel_target(id) {
        into.sets_tunnel = true;
    } else if let Some(value) = value.filter(|_| is_in_port(id)) {
        mention(id, value, into);
    }
}

/// A port number written to, or learned as, in_port.
fn mention(id: FieldId, value: u128, into: &mut Actions) {
    let port = match id.class {
        OFPXMC_NXM_0 => u16::try_from(value).ok(),
        _ => u32::try_from(value).ok().and_then(port::from_wire),
    };
    if let Some(port) = port {
        reference(port, into);
    }
}

fn learn(learn: &Learn<'_>, scope: Scope, into: &mut Actions) {
    if let Some(result) = learn.result {
        write_unknown(result, scope, into);
    }
    let scope = Scope { nested: true, ..scope };
    for spec in learn.specs() {
        match spec {
            Ok((source, Target::Load(dst))) => match source.number() {
                Some(value) => load(dst, value, scope, into),
                None => write_unknown(dst, scope, into),
            },
            Ok((source, Target::Match(field))) => {
                if let Some(value) = source.number().filter(|_| is_in_port(field.id)) {
                    mention(field.id, value, into);
                }
            }
            Ok((Source::Field(range), Target::Output)) => output_register(range, into),
            Ok((source @ Source::Immediate(_), Target::Output)) => {
                // 16 bits wide, or 32 from a newer encoder.
                let port = source.number().and_then(|n| u32::try_from(n).ok());
                output(port.and_then(|n| u16::try_from(n).ok().or(port::from_wire(n))), into);
            }
            Err(_) => {
                unread(into);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
