//! The identity of an OVSDB row, and maps that are keyed by it.

use std::fmt;
use std::str::FromStr;

use foldhash::{HashMap, HashSet};

use crate::model::text::serde_as_text;

/// The UUID of an OVSDB row.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowId(pub u128);

serde_as_text!(RowId);

/// Why a string is not a row's UUID.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a UUID")]
pub struct NotARowId(String);

/// A map by row.
pub type RowMap<V> = HashMap<RowId, V>;

/// A set of rows.
pub type RowSet = HashSet<RowId>;

impl FromStr for RowId {
    type Err = NotARowId;

    fn from_str(text: &str) -> Result<Self, NotARowId> {
        let wrong = || NotARowId(text.chars().take(64).collect());
        if text.len() != 36 {
            return Err(wrong());
        }
        let (mut value, mut digits) = (0_u128, 0);
        for byte in text.bytes().filter(|byte| *byte != b'-') {
            let digit = char::from(byte).to_digit(16).ok_or_else(wrong)?;
            value = value << 4 | u128::from(digit);
            digits += 1;
        }
        if digits == 32 { Ok(Self(value)) } else { Err(wrong()) }
    }
}

impl fmt::Debug for RowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for RowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e] = [
            (96, u32::MAX.into()),
            (80, 0xffff),
            (64, 0xffff),
            (48, 0xffff),
            (0, 0xffff_ffff_ffff),
        ]
        .map(|(shift, mask): (u32, u128)| (self.0 >> shift) & mask);
        write!(f, "{a:08x}-{b:04x}-{c:04x}-{d:04x}-{e:012x}")
    }
}
