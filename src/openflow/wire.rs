//! Reading what somebody else wrote: no indexing, every short read says which field it was.

use super::error::Malformed;

/// OpenFlow message types (1.3 and later).
pub(super) mod kind {
    pub(in crate::openflow) const HELLO: u8 = 0;
    pub(in crate::openflow) const ERROR: u8 = 1;
    pub(in crate::openflow) const ECHO_REQUEST: u8 = 2;
    pub(in crate::openflow) const ECHO_REPLY: u8 = 3;
    pub(in crate::openflow) const EXPERIMENTER: u8 = 4;
    pub(in crate::openflow) const FEATURES_REQUEST: u8 = 5;
    pub(in crate::openflow) const FLOW_MOD: u8 = 14;
    pub(in crate::openflow) const MULTIPART_REQUEST: u8 = 18;
    pub(in crate::openflow) const MULTIPART_REPLY: u8 = 19;
    pub(in crate::openflow) const BARRIER_REQUEST: u8 = 20;
    pub(in crate::openflow) const BARRIER_REPLY: u8 = 21;
    pub(in crate::openflow) const BUNDLE_CONTROL: u8 = 33;
    pub(in crate::openflow) const BUNDLE_ADD: u8 = 34;
}

/// Nicira's experimenter (vendor) number.
pub(super) const NICIRA: u32 = 0x0000_2320;
/// The Open Networking Foundation's.
pub(super) const ONF: u32 = 0x4f4e_4600;
/// Bytes of a message header.
pub(super) const HEADER: usize = 8;

/// A cursor over bytes from outside.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn left(&self) -> usize {
        self.0.len()
    }

    /// What has not been read yet.
    pub(super) fn rest(self) -> &'a [u8] {
        self.0
    }

    pub(super) fn take(&mut self, n: usize, field: &'static str) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(Malformed::Short(field))?;
        self.0 = tail;
        Ok(head)
    }

    /// A reader of the next `n` bytes.
    pub(super) fn sub(&mut self, n: usize, field: &'static str) -> Result<Self, Malformed> {
        self.take(n, field).map(Self)
    }

    pub(super) fn array<const N: usize>(
        &mut self,
        field: &'static str,
    ) -> Result<[u8; N], Malformed> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(Malformed::Short(field))?;
        self.0 = tail;
        Ok(*head)
    }

    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, Malformed> {
        self.array(field).map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, Malformed> {
        self.array(field).map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, Malformed> {
        self.array(field).map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self, field: &'static str) -> Result<u64, Malformed> {
        self.array(field).map(u64::from_be_bytes)
    }

    /// Reads `type, length` of an action or instruction and hands out its body (what
    /// follows these 4 bytes). Lengths count the whole thing and are multiples of 8.
    pub(super) fn block(&mut self, what: &'static str) -> Result<(u16, Self), Malformed> {
        let kind = self.u16(what)?;
        let length = self.u16(what)?;
        let body = usize::from(length)
            .checked_sub(4)
            .filter(|_| length >= 8 && length % 8 == 0)
            .ok_or(Malformed::Length { field: what, value: length.into() })?;
        Ok((kind, self.sub(body, what)?))
    }
}

/// How many zero bytes follow `length` ones to reach a multiple of 8.
pub(super) fn padding(length: usize) -> usize {
    length.wrapping_neg() % 8
}

/// Appends one message to `out`; `body` writes what follows the header.
///
/// # Errors
/// [`Malformed::TooLong`] if it does not fit a message; `out` is then as it was.
pub(super) fn message(
    out: &mut Vec<u8>,
    version: u8,
    kind: u8,
    xid: u32,
    body: impl FnOnce(&mut Vec<u8>) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let at = out.len();
    out.extend_from_slice(&[version, kind, 0, 0]);
    out.extend_from_slice(&xid.to_be_bytes());
    let done = body(out).and_then(|()| {
        let whole = out.len().saturating_sub(at);
        let length = u16::try_from(whole).map_err(|_| Malformed::TooLong(whole))?;
        match out.get_mut(at..).and_then(|m| m.get_mut(2..4)) {
            Some(slot) => slot.copy_from_slice(&length.to_be_bytes()),
            None => return Err(Malformed::Short("message header")),
        }
        Ok(())
    });
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
        let err = message(&mut out, 4, 0, 1, |out| {
            out.resize(70_000, 0);
            Ok(())
        });
        assert!(matches!(err, Err(Malformed::TooLong(_))));
        assert_eq!(out, [9]);
    }
}
