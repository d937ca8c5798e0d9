//! An entry as one line for people, near to what `ovs-ofctl --no-names` prints. What has no
//! name here is shown in hexadecimal: nothing is left out.

mod actions;
mod fields;

use std::fmt;

use crate::openflow::codec::actions::{Instruction, instruction};
use crate::openflow::codec::entry::{Entry, RawEntry};
use crate::openflow::codec::numbers::*;
use crate::openflow::codec::wire::Reader;

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.raw(), f)
    }
}

/// `cookie=0x2a,table=10,priority=100,ip,reg0=0x1005,nw_src=10.244.1.5 actions=output:5`;
/// cookie, timeouts and flags only where there are any.
impl fmt::Display for RawEntry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.cookie() != 0 {
            write!(f, "cookie={:#x},", self.cookie())?;
        }
        write!(f, "table={},", self.table())?;
        for (name, value) in [
            ("idle_timeout", self.idle_timeout()),
            ("hard_timeout", self.hard_timeout()),
            ("importance", self.importance()),
        ] {
            if value != 0 {
                write!(f, "{name}={value},")?;
            }
        }
        for (bit, name) in [
            (OFPFF_SEND_FLOW_REM, "send_flow_rem"),
            (OFPFF_RESET_COUNTS, "reset_counts"),
            (OFPFF_NO_PKT_COUNTS, "no_packet_counts"),
            (OFPFF_NO_BYT_COUNTS, "no_byte_counts"),
        ] {
            if self.flags() & bit != 0 {
                write!(f, "{name},")?;
            }
        }
        write!(f, "priority={}", self.priority())?;
        fields::matches(self.tlvs(), f)?;
        f.write_str(" actions=")?;
        instructions(self.instruction_bytes(), f)
    }
}

/// All of a thing as hexadecimal digits.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn instructions(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if bytes.is_empty() {
        return f.write_str("drop");
    }
    let mut reader = Reader::new(bytes);
    let mut comma = "";
    while !reader.is_empty() {
        f.write_str(comma)?;
        comma = ",";
        let before = reader.rest();
        match instruction(&mut reader) {
            Ok(Instruction::Apply(list)) => actions::list(list, 0, f)?,
            Ok(Instruction::Write(list)) => {
                f.write_str("write_actions(")?;
                actions::list(list, 0, f)?;
                f.write_str(")")?;
            }
            Ok(Instruction::Goto(table)) => write!(f, "goto_table:{table}")?,
            Ok(Instruction::Meter(meter)) => write!(f, "meter:{meter}")?,
            Ok(Instruction::Clear) => f.write_str("clear_actions")?,
            Ok(Instruction::WriteMetadata { value, mask: u64::MAX }) => {
                write!(f, "write_metadata:{value:#x}")?;
            }
            Ok(Instruction::WriteMetadata { value, mask }) => {
                write!(f, "write_metadata:{value:#x}/{mask:#x}")?;
            }
            Ok(Instruction::Unknown { kind, body }) => {
                write!(f, "instruction {kind}({})", Hex(body))?;
            }
            Err(_) => return write!(f, "unreadable({})", Hex(before)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
