//! Reading and writing bytes of a message. Reading never indexes, and every short read says which
//! field it was. Fixed parts are declared once for both directions ([`layout`]).

use crate::openflow::codec::hello::Version;
use crate::openflow::codec::numbers::{OFP_ALIGN, OFP_BLOCK_HEADER_LEN};
use crate::openflow::error::Malformed;

/// A number, or a few bytes, that stand in a message as they are.
pub(crate) trait Value: Sized {
    fn read(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, Malformed>;
    fn write(&self, out: &mut Vec<u8>);
}

macro_rules! values {
    ($($number:ident),*) => {
        $(impl Value for $number {
            #[inline]
            fn read(r: &mut Reader<'_>, field: &'static str) -> Result<Self, Malformed> {
                r.array(field).map(Self::from_be_bytes)
            }

            fn write(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_be_bytes());
            }
        })*

        impl Reader<'_> {
            $(#[inline]
            pub(crate) fn $number(&mut self, field: &'static str) -> Result<$number, Malformed> {
                Value::read(self, field)
            })*
        }
    };
}
values!(u8, u16, u32, u64);

impl<const N: usize> Value for [u8; N] {
    fn read(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, Malformed> {
        reader.array(field)
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
}

/// The fixed part of a message, or of something in one.
pub(crate) trait Layout: Sized {
    fn read(version: Version, r: &mut Reader<'_>) -> Result<Self, Malformed>;
    fn write(&self, version: Version, out: &mut Vec<u8>);
}

/// Declares such a part: its fields in their order, `[4]` behind one for 4 bytes of padding or
/// what we do not read, written as zeros. If versions differ, the order in each of them follows.
macro_rules! layout {
    ($(#[$meta:meta])* $vis:vis struct $name:ident {
        $($(#[$doc:meta])* $field:ident: $type:ty $([$pad:literal])?),* $(,)?
    }) => {
        $crate::openflow::codec::wire::layout! {
            $(#[$meta])* $vis struct $name { $($(#[$doc])* $field: $type),* }
            V13 | V14 | V15 => $($field $([$pad])?),*;
        }
    };
    ($(#[$meta:meta])* $vis:vis struct $name:ident {
        $($(#[$doc:meta])* $field:ident: $type:ty),* $(,)?
    } $($($version:ident)|+ => $([$first:literal])? $($said:ident $([$pad:literal])?),*;)+) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        $vis struct $name { $($(#[$doc])* $vis $field: $type),* }

        impl $crate::openflow::codec::wire::Layout for $name {
            fn read(
                version: $crate::openflow::Version,
                r: &mut $crate::openflow::codec::wire::Reader<'_>,
            ) -> Result<Self, $crate::openflow::Malformed> {
                let mut it = Self::default();
                match version {$($($crate::openflow::Version::$version)|+ => {
                    $(r.take($first, "padding")?;)?
                    $(
                        it.$said = $crate::openflow::codec::wire::Value::read(r, stringify!($said))?;
                        $(r.take($pad, "padding")?;)?
                    )*
                })+}
                Ok(it)
            }

            fn write(&self, version: $crate::openflow::Version, out: &mut Vec<u8>) {
                match version {$($($crate::openflow::Version::$version)|+ => {
                    $(out.extend([0; $first]);)?
                    $(
                        $crate::openflow::codec::wire::Value::write(&self.$said, out);
                        $(out.extend([0; $pad]);)?
                    )*
                })+}
            }
        }
    };
}
pub(crate) use layout;

/// A cursor over bytes from outside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn left(&self) -> usize {
        self.0.len()
    }

    /// What has not been read yet.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }

    /// What has been read of `all`, which it was at before.
    pub(crate) fn since(self, all: Self) -> &'a [u8] {
        all.0.get(..all.left().saturating_sub(self.left())).unwrap_or_default()
    }

    #[inline]
    pub(crate) fn take(&mut self, n: usize, field: &'static str) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(Malformed::Short(field))?;
        self.0 = tail;
        Ok(head)
    }

    /// A reader of the next `n` bytes.
    pub(crate) fn sub(&mut self, n: usize, field: &'static str) -> Result<Self, Malformed> {
        self.take(n, field).map(Self)
    }

    /// A reader of what a 16-bit length, which counts itself, says is next.
    pub(crate) fn counted(&mut self, field: &'static str) -> Result<Self, Malformed> {
        let length = Self(self.0).u16(field)?;
        self.sub(length.into(), field)
    }

    #[inline]
    pub(crate) fn array<const N: usize>(
        &mut self,
        field: &'static str,
    ) -> Result<[u8; N], Malformed> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(Malformed::Short(field))?;
        self.0 = tail;
        Ok(*head)
    }

    /// Reads `type, length` of an action or instruction and hands out its body (what
    /// follows these 4 bytes). Lengths count the whole thing and are multiples of 8.
    #[inline]
    pub(crate) fn block(&mut self, what: &'static str) -> Result<(u16, Self), Malformed> {
        let kind = self.u16(what)?;
        let length = self.u16(what)?;
        let whole = usize::from(length);
        let body = whole
            .checked_sub(OFP_BLOCK_HEADER_LEN)
            .filter(|_| whole >= OFP_ALIGN && padding(whole) == 0)
            .ok_or(Malformed::Length { field: what, value: length.into() })?;
        Ok((kind, self.sub(body, what)?))
    }
}

/// How many zero bytes follow `length` ones to reach a multiple of 8.
pub(crate) fn padding(length: usize) -> usize {
    length.wrapping_neg() % OFP_ALIGN
}

/// A length as most are written.
pub(crate) fn short(length: usize) -> Result<u16, Malformed> {
    u16::try_from(length).map_err(|_| Malformed::TooLong(length))
}

/// Writes the length of what begins at `start` over the 16 bits that are `at` bytes into it.
pub(crate) fn set_length(out: &mut [u8], start: usize, at: usize) -> Result<(), Malformed> {
    let whole = out.get_mut(start..).unwrap_or_default();
    let length = short(whole.len())?;
    let slot = whole.get_mut(at..).and_then(|rest| rest.first_chunk_mut());
    *slot.ok_or(Malformed::Short("length"))? = length.to_be_bytes();
    Ok(())
}

layout! {
    /// What every message begins with (`struct ofp_header`), in any version.
    pub(crate) struct MessageHeader { version: u8, kind: u8, length: u16, xid: u32 }
}

/// Appends one message to `out`; `body` writes what follows the header.
///
/// # Errors
/// [`Malformed::TooLong`] if it does not fit a message; `out` is then as it was.
pub(crate) fn message(
    out: &mut Vec<u8>,
    version: Version,
    kind: u8,
    xid: u32,
    body: impl FnOnce(&mut Vec<u8>) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let at = out.len();
    MessageHeader { version: version.wire(), kind, length: 0, xid }.write(version, out);
    let done = body(out).and_then(|()| set_length(out, at, 2));
    if done.is_err() {
        out.truncate(at);
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_read_names_the_field_and_reads_nothing() {
        let mut reader = Reader::new(&[0, 1, 2]);
        assert_eq!(reader.u16("a").unwrap(), 1);
        assert_eq!(reader.u32("cookie"), Err(Malformed::Short("cookie")));
        assert_eq!(reader.rest(), [2]);
    }

    #[test]
    fn blocks_need_a_length_that_is_there_and_a_multiple_of_8() {
        for (bytes, length) in [([0, 0, 0, 0, 0, 0, 0, 0], 0), ([0, 0, 0, 7, 0, 0, 0, 0], 7)] {
            assert_eq!(
                Reader::new(&bytes).block("action").unwrap_err(),
                Malformed::Length { field: "action", value: length }
            );
        }
        let err = Reader::new(&[0, 0, 0, 16, 0, 0, 0, 0]).block("action").unwrap_err();
        assert_eq!(err, Malformed::Short("action"));
    }

    #[test]
    fn padding_reaches_eight() {
        assert_eq!([0, 1, 7, 8, 26].map(padding), [0, 7, 1, 0, 6]);
    }

    #[test]
    fn an_oversized_message_leaves_nothing_behind() {
        let mut out = vec![9];
        let err = message(&mut out, Version::V13, 0, 1, |out| {
            out.resize(70_000, 0);
            Ok(())
        });
        assert!(matches!(err, Err(Malformed::TooLong(_))));
        assert_eq!(out, [9]);
    }
}
