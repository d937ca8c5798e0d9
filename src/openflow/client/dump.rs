//! Flow dumps as a stream: nothing is kept but one decoded flow.

use crate::model::flow::Flow;
use crate::openflow::client::connection::Connection;
use crate::openflow::codec::entry::RawEntry;
use crate::openflow::codec::filter::Filter;
use crate::openflow::codec::multipart;
use crate::openflow::codec::numbers::*;
use crate::openflow::codec::wire::Reader;
use crate::openflow::error::{Error, Malformed};

/// Requests in flight. OVS handles at most 50 messages of a connection per turn, and stops
/// reading at 100 replies that it could not write: we read as we write.
pub(super) const PIPELINE: usize = 96;
const DOING: &str = "dumping flows";

/// Dumps that were asked for.
#[derive(Debug)]
pub struct AskedDump {
    first: u32,
    filters: Vec<Filter>,
}

impl AskedDump {
    /// What of.
    #[must_use]
    pub fn filters(&self) -> &[Filter] {
        &self.filters
    }
}

impl Connection {
    /// Streams the entries that a filter finds. The dump is complete only if this returns
    /// `Ok`: until then an entry's absence proves nothing.
    ///
    /// # Errors
    /// Those of any exchange; [`Error::Switch`]; [`Error::Malformed`] for any length that
    /// cannot be, after which nothing of the dump is to be believed.
    pub fn dump(
        &mut self,
        filter: &Filter,
        each: &mut dyn FnMut(&RawEntry<'_>, &mut Flow),
    ) -> Result<(), Error> {
        self.dump_many(std::slice::from_ref(filter), &mut |_, raw, flow| each(raw, flow))
    }

    /// The same for several filters, asked in one write; `each` gets the filter's index
    /// too. An entry that several filters find comes several times.
    ///
    /// A filter on a field that the switch does not know (OFPBMC_BAD_FIELD: older than the
    /// field) finds nothing, for no entry of such a switch can match on it.
    ///
    /// # Errors
    /// As [`Self::dump`].
    pub fn dump_many(
        &mut self,
        filters: &[Filter],
        each: &mut dyn FnMut(usize, &RawEntry<'_>, &mut Flow),
    ) -> Result<(), Error> {
        let mut flow = Flow::default();
        self.dump_each(filters, &mut |i, raw| {
            raw.decode(&mut flow).map(|()| each(i, raw, &mut flow))
        })
    }

    /// The same for whoever decides which entries to read: match and instructions of the others
    /// are not read. An error of `each` ends the dump.
    ///
    /// # Errors
    /// As [`Self::dump`].
    pub fn dump_each(
        &mut self,
        filters: &[Filter],
        each: &mut dyn FnMut(usize, &RawEntry<'_>) -> Result<(), Malformed>,
    ) -> Result<(), Error> {
        let mut done = 0;
        for group in filters.chunks(PIPELINE) {
            let first = self.ask_dumps(group)?;
            self.hear_dumps(first, group.len(), &mut |i, raw| each(done + i, raw))?;
            done += group.len();
        }
        Ok(())
    }

    /// [`Self::dump_each`] of many entries. Each of these turns is asked for when the first part
    /// of the answer to the one before it has come: so the switch never waits for us, and never
    /// has two of them in one turn of its main loop. `each` gets the filter's index among all.
    ///
    /// # Errors
    /// As [`Self::dump`].
    pub fn dump_in_turns(
        &mut self,
        turns: &[&[Filter]],
        each: &mut dyn FnMut(usize, &RawEntry<'_>) -> Result<(), Malformed>,
    ) -> Result<(), Error> {
        let asked = turns.iter().map(|turn| turn.len()).sum();
        let first = self.xids(u32::try_from(asked).unwrap_or(0));
        let (mut hearing, mut begin) = (Hearing::of(first, asked), 0);
        for turn in turns {
            self.send_dumps(first.saturating_add(u32::try_from(begin).unwrap_or(0)), turn)?;
            while hearing.left > 0 && self.hear_part(&mut hearing, each)? < begin {}
            begin += turn.len();
        }
        while hearing.left > 0 {
            self.hear_part(&mut hearing, each)?;
        }
        Ok(())
    }

    /// [`Self::dump_each`] for whom an entry's place is enough: match and instructions are not
    /// read.
    ///
    /// # Errors
    /// As [`Self::dump`].
    pub fn dump_raw(
        &mut self,
        filters: &[Filter],
        each: &mut dyn FnMut(&RawEntry<'_>),
    ) -> Result<(), Error> {
        self.dump_each(filters, &mut |_, raw| {
            each(raw);
            Ok(())
        })
    }

    /// Asks for [`Self::dump_each`] and does not wait. Answers that are never read are skipped.
    ///
    /// # Errors
    /// As [`Self::dump`]; [`Error::Malformed`] for more filters than fit one exchange.
    pub fn ask_dump(&mut self, filters: Vec<Filter>) -> Result<AskedDump, Error> {
        if filters.len() > PIPELINE {
            return Err(self.malformed(DOING, Malformed::TooLong(filters.len())));
        }
        let first = self.ask_dumps(&filters)?;
        Ok(AskedDump { first, filters })
    }

    /// What was asked.
    ///
    /// # Errors
    /// As [`Self::dump`].
    pub fn hear_dump(
        &mut self,
        asked: &AskedDump,
        each: &mut dyn FnMut(usize, &RawEntry<'_>) -> Result<(), Malformed>,
    ) -> Result<(), Error> {
        self.hear_dumps(asked.first, asked.filters.len(), each)
    }

    /// Asks for dumps in one write; the first one's xid, the others' follow.
    pub(super) fn ask_dumps(&mut self, filters: &[Filter]) -> Result<u32, Error> {
        let first = self.xids(u32::try_from(filters.len()).unwrap_or(0));
        self.send_dumps(first, filters)?;
        Ok(first)
    }

    fn send_dumps(&mut self, first: u32, filters: &[Filter]) -> Result<(), Error> {
        let mut out = self.outgoing(first, DOING);
        let version = self.version();
        for filter in filters {
            out.add(OFPT_MULTIPART_REQUEST, |body| filter.encode(version, body));
        }
        self.send_all(out)
    }

    /// Takes in so many dumps that were asked for.
    pub(super) fn hear_dumps(
        &mut self,
        first: u32,
        asked: usize,
        each: &mut dyn FnMut(usize, &RawEntry<'_>) -> Result<(), Malformed>,
    ) -> Result<(), Error> {
        let mut hearing = Hearing::of(first, asked);
        while hearing.left > 0 {
            self.hear_part(&mut hearing, each)?;
        }
        Ok(())
    }

    /// Takes in one message of these dumps; which of them it is of.
    fn hear_part(
        &mut self,
        hearing: &mut Hearing,
        each: &mut dyn FnMut(usize, &RawEntry<'_>) -> Result<(), Malformed>,
    ) -> Result<usize, Error> {
        loop {
            let message = self.receive(DOING)?;
            let index = usize::try_from(message.xid.wrapping_sub(hearing.first)).ok();
            let Some((index, open)) = index.and_then(|i| Some((i, hearing.open.get_mut(i)?)))
            else {
                continue;
            };
            if !*open {
                return Err(self.malformed(DOING, Malformed::Unexpected("part after the last")));
            }
            let unknown_field = self
                .error_in(message, DOING)?
                .is_some_and(|error| error.is(OFPET_BAD_MATCH, OFPBMC_BAD_FIELD));
            let more = !unknown_field && {
                let body = self.expect(message, OFPT_MULTIPART_REPLY, DOING)?;
                part(self.version(), body, &mut |raw| each(index, raw))
                    .map_err(|what| self.malformed(DOING, what))?
            };
            if !more {
                *open = false;
                hearing.left = hearing.left.saturating_sub(1);
            }
            return Ok(index);
        }
    }
}

/// Dumps that are being answered.
struct Hearing {
    /// The first one's xid; the others' follow.
    first: u32,
    /// Per dump: more is to come.
    open: Vec<bool>,
    /// How many are open.
    left: usize,
}

impl Hearing {
    fn of(first: u32, asked: usize) -> Self {
        Self { first, open: vec![true; asked], left: asked }
    }
}

/// Reads one message of a dump; whether more follow.
pub(crate) fn part(
    version: crate::openflow::Version,
    body: &[u8],
    each: &mut dyn FnMut(&RawEntry<'_>) -> Result<(), Malformed>,
) -> Result<bool, Malformed> {
    let mut reader = Reader::new(body);
    let more = multipart::reply(OFPMP_FLOW, version, &mut reader)?;
    while !reader.is_empty() {
        let length = Reader::new(reader.rest()).u16("entry length")?;
        // Shorter than any entry: and 0 would read the same one for ever.
        if usize::from(length) < OFP_FLOW_STATS_MIN_LEN {
            return Err(Malformed::Length { field: "entry", value: length.into() });
        }
        let raw = RawEntry::new(version, reader.take(length.into(), "entry")?)?;
        each(&raw)?;
    }
    Ok(more)
}

#[cfg(test)]
mod tests;
