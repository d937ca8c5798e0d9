//! The LEARN action's body: what the flows it makes will match and do.

use crate::openflow::codec::actions::Range;
use crate::openflow::codec::numbers::*;
use crate::openflow::codec::oxm::Header;
use crate::openflow::codec::wire::Reader;
use crate::openflow::error::Malformed;

/// LEARN, or LEARN2 with a limit and a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Learn<'a> {
    pub(crate) table: u8,
    pub(crate) priority: u16,
    pub(crate) cookie: u64,
    /// Idle, hard, and both after a FIN; in seconds, 0 is none.
    pub(crate) timeouts: [u16; 4],
    /// LEARN2: so many flows at most; 0 is no limit.
    pub(crate) limit: u32,
    /// NX_LEARN_F_*.
    pub(crate) flags: u16,
    /// LEARN2: the bit that says whether it worked.
    pub(crate) result: Option<Range>,
    specs: &'a [u8],
}

/// Where a spec's bits come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source<'a> {
    /// Right-aligned.
    Immediate(&'a [u8]),
    Field(Range),
}

impl Source<'_> {
    pub(crate) fn number(&self) -> Option<u128> {
        match self {
            Self::Immediate(bytes) if bytes.len() <= 16 => {
                Some(bytes.iter().fold(0, |sum, byte| sum << 8 | u128::from(*byte)))
            }
            _ => None,
        }
    }
}

/// Where they go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Match(Range),
    Load(Range),
    Output,
}

impl<'a> Learn<'a> {
    /// From offset 10 of the action.
    pub(crate) fn read(mut r: Reader<'a>, second: bool) -> Result<Self, Malformed> {
        let field = "learn";
        let (idle, hard) = (r.u16(field)?, r.u16(field)?);
        let priority = r.u16(field)?;
        let cookie = r.u64(field)?;
        let flags = r.u16(field)?;
        let table = r.u8(field)?;
        r.take(1, field)?;
        let timeouts = [idle, hard, r.u16(field)?, r.u16(field)?];
        let (mut limit, mut result) = (0, None);
        if second {
            limit = r.u32(field)?;
            let bit = r.u16(field)?;
            r.take(2, field)?;
            if flags & NX_LEARN_F_WRITE_RESULT != 0 {
                result = Some(Range::new(Header::read(&mut r)?, bit, 1));
            }
        }
        Ok(Self { table, priority, cookie, timeouts, limit, flags, result, specs: r.rest() })
    }

    pub(crate) fn specs(&self) -> impl Iterator<Item = Result<(Source<'a>, Target), Malformed>> {
        let mut reader = Reader::new(self.specs);
        let mut broken = false;
        std::iter::from_fn(move || {
            // Padding shorter than a spec's header, or a zero header, ends the list.
            if broken || reader.left() < 2 {
                return None;
            }
            let spec = spec(&mut reader).transpose()?;
            broken = spec.is_err();
            Some(spec)
        })
    }
}

fn spec<'a>(r: &mut Reader<'a>) -> Result<Option<(Source<'a>, Target)>, Malformed> {
    let field = "learn spec";
    let header = r.u16(field)?;
    if header == 0 {
        return Ok(None);
    }
    let bits = header & NX_LEARN_N_BITS_MASK;
    let part = |r: &mut Reader<'a>| {
        let header = Header::read(r)?;
        Ok::<_, Malformed>(Range::new(header, r.u16(field)?, bits.into()))
    };
    let source = if header & NX_LEARN_SRC_IMMEDIATE == 0 {
        Source::Field(part(r)?)
    } else {
        Source::Immediate(r.take(usize::from(bits.div_ceil(16)) * 2, field)?)
    };
    let target = match header & NX_LEARN_DST_MASK {
        NX_LEARN_DST_MATCH => Target::Match(part(r)?),
        NX_LEARN_DST_LOAD => Target::Load(part(r)?),
        NX_LEARN_DST_OUTPUT => Target::Output,
        _ => return Err(Malformed::Unexpected("learn spec's destination")),
    };
    Ok(Some((source, target)))
}
