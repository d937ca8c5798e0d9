//! Actions by name.

use std::fmt;

use super::Hex;
use super::fields::{Name, Part, value};
use crate::openflow::codec::actions::{Action, Ct, action};
use crate::openflow::codec::learn::{Learn, Source, Target};
use crate::openflow::codec::numbers::*;
use crate::openflow::codec::port;
use crate::openflow::codec::wire::Reader;

/// Deeper lists are shown in hexadecimal.
const DEEPEST: u8 = 16;

pub(super) fn list(bytes: &[u8], depth: u8, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if depth > DEEPEST {
        return write!(f, "{}", Hex(bytes));
    }
    let mut reader = Reader::new(bytes);
    let mut comma = "";
    while !reader.is_empty() {
        f.write_str(comma)?;
        comma = ",";
        let before = reader.rest();
        match action(&mut reader) {
            Ok(action) => one(&action, depth, f)?,
            Err(_) => return write!(f, "unreadable({})", Hex(before)),
        }
    }
    Ok(())
}

fn one(action: &Action<'_>, depth: u8, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let inner = depth.saturating_add(1);
    match action {
        Action::Output { port, max_len } => match port::from_wire(*port) {
            Some(OFPP_CONTROLLER) => write!(f, "CONTROLLER:{max_len}"),
            Some(port) => output(port, f),
            None => write!(f, "output:{port:#x}"),
        },
        Action::OutputTrunc { port, max_len } => {
            write!(f, "output(port={},max_len={max_len})", Port(*port))
        }
        Action::OutputRegister(range) => write!(f, "output:{}", Part(*range)),
        Action::Controller => f.write_str("controller(…)"),
        Action::Group(group) => write!(f, "group:{group}"),
        Action::Meter(meter) => write!(f, "meter:{meter}"),
        Action::SetField(oxm) => {
            f.write_str("set_field:")?;
            value(oxm, f)?;
            write!(f, "->{}", Name(oxm.id))
        }
        Action::Load { dst, value } => write!(f, "load:{value:#x}->{}", Part(*dst)),
        Action::Move { src, dst } => write!(f, "move:{}->{}", Part(*src), Part(*dst)),
        Action::StackPush(range) => write!(f, "push:{}", Part(*range)),
        Action::StackPop(range) => write!(f, "pop:{}", Part(*range)),
        Action::Multipath(dst) => write!(f, "multipath(…,{})", Part(*dst)),
        Action::Bundle(ports, load) => bundle(ports, load.map(Part), f),
        Action::CheckPktLarger { length, dst } => {
            write!(f, "check_pkt_larger({length})->{}", Part(*dst))
        }
        Action::Resubmit { in_port, table, ct } => resubmit(*in_port, *table, *ct, f),
        Action::Learn(body) => learn(body, f),
        Action::Sample { port: Some(port) } if *port != OFPP_NONE => {
            write!(f, "sample(…,sampling_port={})", Port(*port))
        }
        Action::Sample { .. } => f.write_str("sample(…)"),
        Action::Conjunction { clause, of, id } => {
            write!(f, "conjunction({id},{}/{of})", u16::from(*clause) + 1)
        }
        Action::Ct(body) => ct(body, inner, f),
        Action::Nat(body) => nat(body, f),
        Action::Clone(body) => {
            f.write_str("clone(")?;
            list(body, inner, f)?;
            f.write_str(")")
        }
        Action::Edit(name, argument) => edit(name, *argument, f),
        Action::Note(bytes) => {
            f.write_str("note:")?;
            let dots = std::iter::once("").chain(std::iter::repeat("."));
            bytes.iter().zip(dots).try_for_each(|(byte, dot)| write!(f, "{dot}{byte:02x}"))
        }
        Action::Unknown { kind, body } => write!(f, "action {kind}({})", Hex(body)),
    }
}

/// A port as actions name it.
struct Port(u16);

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            OFPP_IN_PORT => "IN_PORT",
            OFPP_TABLE => "TABLE",
            OFPP_NORMAL => "NORMAL",
            OFPP_FLOOD => "FLOOD",
            OFPP_ALL => "ALL",
            OFPP_CONTROLLER => "CONTROLLER",
            OFPP_LOCAL => "LOCAL",
            OFPP_NONE => "NONE",
            number => return write!(f, "{number}"),
        })
    }
}

fn output(port: u16, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if port < OFPP_MAX { write!(f, "output:{port}") } else { write!(f, "{}", Port(port)) }
}

fn resubmit(in_port: u16, table: u8, ct: bool, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if table == NX_RESUBMIT_SAME_TABLE && !ct {
        return write!(f, "resubmit:{}", Port(in_port));
    }
    f.write_str("resubmit(")?;
    if in_port != OFPP_IN_PORT {
        write!(f, "{}", Port(in_port))?;
    }
    f.write_str(",")?;
    if table != NX_RESUBMIT_SAME_TABLE {
        write!(f, "{table}")?;
    }
    f.write_str(if ct { ",ct)" } else { ")" })
}

fn bundle(ports: &[u8], load: Option<Part>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match load {
        Some(dst) => write!(f, "bundle_load(…,{dst},members:")?,
        None => f.write_str("bundle(…,members:")?,
    }
    let mut comma = "";
    for pair in ports.chunks_exact(2) {
        if let Ok(bytes) = pair.try_into() {
            write!(f, "{comma}{}", Port(u16::from_be_bytes(bytes)))?;
            comma = ",";
        }
    }
    f.write_str(")")
}

fn edit(name: &str, argument: Option<u32>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str(name)?;
    match argument {
        Some(ethertype) if name.starts_with("push_") => write!(f, ":{ethertype:#06x}"),
        Some(ethertype) if name == "pop_mpls" => write!(f, ":{ethertype:#06x}"),
        Some(number) if name == "set_mpls_ttl" => write!(f, "({number})"),
        Some(number) => write!(f, ":{number}"),
        None => Ok(()),
    }
}

fn ct(ct: &Ct<'_>, depth: u8, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("ct(")?;
    let mut comma = "";
    let mut next = || std::mem::replace(&mut comma, ",");
    for (bit, name) in [(NX_CT_F_COMMIT, "commit"), (NX_CT_F_FORCE, "force")] {
        if ct.flags & bit != 0 {
            write!(f, "{}{name}", next())?;
        }
    }
    if ct.table != NX_CT_RECIRC_NONE {
        write!(f, "{}table={}", next(), ct.table)?;
    }
    match ct.zone_field {
        Some(range) => write!(f, "{}zone={}", next(), Part(range))?,
        None if ct.zone != 0 => write!(f, "{}zone={}", next(), ct.zone)?,
        None => {}
    }
    // NAT stands beside the list in the text, within it on the wire.
    let mut reader = Reader::new(ct.actions);
    let mut rest = reader.rest();
    while let Ok(Action::Nat(body)) = action(&mut reader) {
        f.write_str(next())?;
        nat(body, f)?;
        rest = reader.rest();
    }
    if !rest.is_empty() {
        write!(f, "{}exec(", next())?;
        list(rest, depth, f)?;
        f.write_str(")")?;
    }
    match ct.alg {
        0 => {}
        IPPORT_FTP => write!(f, "{}alg=ftp", next())?,
        IPPORT_TFTP => write!(f, "{}alg=tftp", next())?,
        number => write!(f, "{}alg={number}", next())?,
    }
    f.write_str(")")
}

fn nat(body: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("nat")?;
    match read_nat(body) {
        Ok(text) => f.write_str(&text),
        Err(_) => write!(f, "({})", Hex(body)),
    }
}

/// Flags, which ends of the ranges are there, and those.
fn read_nat(body: &[u8]) -> Result<String, crate::openflow::error::Malformed> {
    use std::net::{Ipv4Addr, Ipv6Addr};
    let field = "nat";
    let mut r = Reader::new(body);
    r.take(2, field)?;
    let (flags, present) = (r.u16(field)?, r.u16(field)?);
    if flags == 0 {
        return Ok(String::new());
    }
    let mut text = String::from(if flags & NX_NAT_F_DST != 0 { "(dst" } else { "(src" });
    let mut sign = "=";
    for (bit, first) in [(NX_NAT_RANGE_IPV4_MIN, "="), (NX_NAT_RANGE_IPV4_MAX, "-")] {
        if present & bit != 0 {
            text += &format!("{first}{}", Ipv4Addr::from_bits(r.u32(field)?));
            sign = ":";
        }
    }
    for (bit, first) in [(NX_NAT_RANGE_IPV6_MIN, "="), (NX_NAT_RANGE_IPV6_MAX, "-")] {
        if present & bit != 0 {
            let ip = Ipv6Addr::from(r.array::<16>(field)?);
            // Brackets only where a port follows.
            let (open, close) = if present & (NX_NAT_RANGE_PROTO_MIN | NX_NAT_RANGE_PROTO_MAX) != 0
            {
                ("[", "]")
            } else {
                ("", "")
            };
            text += &format!("{first}{open}{ip}{close}");
            sign = ":";
        }
    }
    for (bit, first) in [(NX_NAT_RANGE_PROTO_MIN, sign), (NX_NAT_RANGE_PROTO_MAX, "-")] {
        if present & bit != 0 {
            text += &format!("{first}{}", r.u16(field)?);
        }
    }
    for (bit, name) in [
        (NX_NAT_F_PERSISTENT, ",persistent"),
        (NX_NAT_F_PROTO_HASH, ",hash"),
        (NX_NAT_F_PROTO_RANDOM, ",random"),
    ] {
        if flags & bit != 0 {
            text += name;
        }
    }
    Ok(text + ")")
}

fn learn(learn: &Learn<'_>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "learn(table={}", learn.table)?;
    let names = ["idle_timeout", "hard_timeout", "fin_idle_timeout", "fin_hard_timeout"];
    for (name, seconds) in names.iter().zip(learn.timeouts).filter(|(_, seconds)| *seconds != 0) {
        write!(f, ",{name}={seconds}")?;
    }
    if learn.priority != OFP_DEFAULT_PRIORITY {
        write!(f, ",priority={}", learn.priority)?;
    }
    if learn.cookie != 0 {
        write!(f, ",cookie={:#x}", learn.cookie)?;
    }
    for (bit, name) in
        [(NX_LEARN_F_SEND_FLOW_REM, "send_flow_rem"), (NX_LEARN_F_DELETE_LEARNED, "delete_learned")]
    {
        if learn.flags & bit != 0 {
            write!(f, ",{name}")?;
        }
    }
    if learn.limit != 0 {
        write!(f, ",limit={}", learn.limit)?;
    }
    if let Some(result) = learn.result {
        write!(f, ",result_dst={}", Part(result))?;
    }
    for spec in learn.specs() {
        let Ok((source, target)) = spec else { return f.write_str(",unreadable)") };
        let source = Spec(source);
        match target {
            Target::Match(dst) => write!(f, ",{}={source}", Part(dst))?,
            Target::Load(dst) => write!(f, ",load:{source}->{}", Part(dst))?,
            Target::Output => write!(f, ",output:{source}")?,
        }
    }
    f.write_str(")")
}

struct Spec<'a>(Source<'a>);

impl fmt::Display for Spec<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Source::Field(range) => write!(f, "{}", Part(range)),
            Source::Immediate(bytes) => match self.0.number() {
                Some(number) => write!(f, "{number:#x}"),
                None => write!(f, "0x{}", Hex(bytes)),
            },
        }
    }
}
