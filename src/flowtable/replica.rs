//! A copy of a bridge's flow table that follows the switch. No I/O and no clock in here.
//!
//! It is built from a flow monitor without initial state, and then a dump over another connection.
//! A flow monitor reports every change in the order in which it happened; a dump tells flags,
//! importance and ages, which monitors do not report. A change that was reported outranks what the
//! dump says of the same key, whichever came first: nothing came after it, or that was reported too.
//!
//! It is believed only while it is [`State::InSync`]. What the switch does not report, or what we
//! may have missed, is a [`Doubt`]: then all is forgotten, and built anew.
//!
//! | what happens | because |
//! | --- | --- |
//! | a pause is a doubt at once, and its end is not trusted | what was re-added and deleted in a pause is never reported |
//! | a removal by eviction is a doubt | the entry that took the place is not reported |
//! | a removal or a change of an entry that is not there is a doubt | something was missed |
//! | two entries of a dump that look alike are kept, and a change of one is a doubt | it is not known which of them it was |
//! | tables that a dump hides are left out | a monitor reports their entries nevertheless |

mod doubt;

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

pub use self::doubt::Doubt;
use super::index::{Index, Token};
use super::watchlist::{Arrived, News, Watchlist};
use super::{EvidenceReader, Made, Seen};
use crate::model::flow::Flow;
use crate::openflow::{
    Entry, Filter, FlowKey, Malformed, PackedEntry, RawEntry, Unreported, Update, Version, What,
};
use crate::util::clock::BootTime;

/// Whether a replica is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The monitor is on, and the dump is being read.
    Building,
    /// It is what the switch has.
    InSync {
        /// Since then.
        since: BootTime,
    },
    /// It is not.
    Doubt(Doubt),
}

/// What is counted, from the start of the process on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Changes that the switch reported.
    pub updates: u64,
    /// How often it was built again after a doubt.
    pub resyncs: u64,
    /// How often it was given up for a while.
    pub fallbacks: u64,
}

/// An entry of the replica.
#[derive(Debug)]
struct Slot {
    entry: PackedEntry,
    /// When it was made, at the earliest.
    earliest: BootTime,
    /// So many milliseconds later at the latest.
    width_ms: u32,
    /// How it came to be known.
    told: Told,
}

impl Slot {
    fn made(&self) -> Made {
        let width = Duration::from_millis(self.width_ms.into());
        Made { earliest: self.earliest, latest: self.earliest + width }
    }
}

/// How wide the interval is: whole milliseconds, rounded up.
fn width_ms(made: Made) -> u32 {
    let width = made.earliest.until(made.latest);
    u32::try_from(width.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX)
}

/// How an entry came to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// By the dump.
    Dumped,
    /// By the dump, twice: two entries look alike.
    Twice,
    /// By the monitor: it was added.
    Added,
    /// By the monitor, while the dump was under way: it was changed, so it was there before.
    Changed,
}

/// The copy.
#[derive(Debug)]
pub struct Replica {
    version: Version,
    state: State,
    /// Entries that it may hold.
    limit: usize,
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    index: Index,
    bytes: usize,
    /// Removed while the dump was under way: the dump may still show them.
    gone: HashSet<FlowKey<'static>>,
    /// All that happened before was reported.
    heard: BootTime,
    counters: Counters,
    built: bool,
    /// Ports whose pods' register values are not known yet.
    awaited: BTreeSet<u16>,
    /// An entry of such a port has come that loads a register.
    lesson: bool,
    watchlist: Watchlist,
    flow: Flow,
}

/// Filters with their numbers.
type Numbered<'f> = Vec<(usize, &'f Filter)>;

/// An entry that a replica hands out.
#[derive(Debug)]
pub struct Held {
    /// As a dump of this moment shows it, but for counters. Flags and importance are 0 if they
    /// are not known.
    pub entry: Entry,
    /// When it was made; a change of it does not count.
    pub made: Made,
    /// Its flags and its importance, if they are known.
    pub unreported: Option<Unreported>,
    /// Another entry looks just the same.
    pub ambiguous: bool,
}

impl Replica {
    /// An empty one, that is not believed.
    #[must_use]
    pub fn new(limit: usize, now: BootTime) -> Self {
        Self {
            version: Version::V14,
            state: State::Doubt(Doubt::New),
            limit,
            slots: Vec::new(),
            free: Vec::new(),
            index: Index::new(),
            bytes: 0,
            gone: HashSet::new(),
            heard: now,
            counters: Counters::default(),
            built: false,
            awaited: BTreeSet::new(),
            lesson: false,
            watchlist: Watchlist::default(),
            flow: Flow::default(),
        }
    }

    /// Begins to build it: the monitor was asked for at `asked`, and the switch has agreed.
    pub fn begin(&mut self, version: Version, asked: BootTime) {
        self.forget();
        self.counters.resyncs += u64::from(self.built);
        self.built = true;
        self.version = version;
        self.state = State::Building;
        self.heard = asked;
    }

    /// Takes in an entry of the dump.
    pub fn dumped(&mut self, raw: &RawEntry<'_>, made: Made) {
        if self.state != State::Building {
            return;
        }
        let key = raw.key();
        if self.gone.contains(&key) {
            return;
        }
        match self.place(&key) {
            None => self.insert_dumped(raw, made, Told::Dumped),
            Some(id) => match self.told(id) {
                Some(Told::Dumped | Told::Twice) => {
                    self.set_told(id, Told::Twice);
                    self.insert_dumped(raw, made, Told::Twice);
                }
                Some(Told::Changed) => self.complete(id, raw, made),
                // The dump may show what was there before: its age and its flags prove nothing.
                Some(Told::Added) | None => {}
            },
        }
    }

    /// The dump is complete, and all that happened before its end was reported.
    pub fn complete_dump(&mut self, now: BootTime) {
        if self.state == State::Building {
            self.gone = HashSet::new();
            self.state = State::InSync { since: now };
            self.watchlist.built();
        }
    }

    /// All that happened before this time was reported.
    pub fn heard_until(&mut self, heard: BootTime) {
        self.heard = self.heard.max(heard);
    }

    /// Takes in a change, which was reported at `now` at the latest.
    pub fn apply(&mut self, update: &Update, now: BootTime) {
        if matches!(self.state, State::Doubt(_)) {
            return;
        }
        self.counters.updates = self.counters.updates.saturating_add(1);
        if update.evicted {
            return self.doubt(Doubt::Evicted);
        }
        if !update.is_hidden() {
            self.take_in(update, now);
        }
    }

    fn take_in(&mut self, update: &Update, now: BootTime) {
        let key = update.key();
        let (place, building) = (self.place(&key), self.state == State::Building);
        if place.is_some_and(|id| self.told(id) == Some(Told::Twice)) {
            return self.doubt(Doubt::Ambiguous);
        }
        match (update.what, place) {
            (What::Removed, Some(id)) => self.remove(id),
            (What::Removed, None) if building => {}
            (What::Put, Some(id)) => return self.put_over(id, update, now),
            (What::Put, None) if building || !update.modified => {
                if building {
                    self.gone.remove(&key.into_owned());
                }
                return self.put(update, now);
            }
            (What::Removed | What::Put, None) => return self.doubt(Doubt::Unknown),
        }
        if building {
            self.gone.insert(key.into_owned());
            self.check_limit();
        }
    }

    /// Waits for entries of these ports, and no others, that load a register: for those that are
    /// there, if a port is new to it, and for those that come.
    pub fn await_lessons(&mut self, ports: BTreeSet<u16>) {
        let Self { index, slots, flow, awaited, .. } = self;
        let new =
            ports.difference(awaited).filter_map(|port| index.with_token(Token::InPort(*port)));
        let slots = new.flatten().filter_map(|id| slots.get(usize::try_from(id).ok()?)?.as_ref());
        let mut is_lesson =
            |slot: &Slot| slot.entry.decode(flow).is_ok() && is_lesson(flow, &ports);
        self.lesson |= slots.into_iter().any(&mut is_lesson);
        self.awaited = ports;
    }

    /// Watches for entries that name these tokens of the dead, and no others.
    pub fn watch(&mut self, dead: HashSet<Token>) {
        self.watchlist.watch(dead);
    }

    /// What is news since the last call. None before it is in sync.
    pub fn take_news(&mut self) -> News {
        let lesson = std::mem::take(&mut self.lesson);
        let news = self.watchlist.take_news();
        if self.is_in_sync() { News { lesson, ..news } } else { News { lesson, ..News::default() } }
    }

    /// What entries of the dead have come since the last call.
    pub fn take_arrived(&mut self) -> Arrived {
        self.watchlist.take_arrived()
    }

    /// The ports that entries name and of which this is true: nobody has them. From now on an
    /// entry of such a port that comes or goes is news.
    pub fn ports_of_nobody(&mut self, is_nobodys: &dyn Fn(u16) -> bool) -> Vec<u16> {
        self.watchlist.ports_of_nobody(is_nobodys)
    }

    /// It is not believed any more, and all is forgotten.
    pub fn doubt(&mut self, why: Doubt) {
        self.forget();
        self.state = State::Doubt(why);
    }

    /// It was given up for a while: dumps serve.
    pub fn fall_back(&mut self) {
        self.counters.fallbacks = self.counters.fallbacks.saturating_add(1);
    }

    /// Whether it is believed.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether it is believed.
    #[must_use]
    pub fn is_in_sync(&self) -> bool {
        matches!(self.state, State::InSync { .. })
    }

    /// How many entries it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of its entries, without the index.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// How many changes it has taken in.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.counters.updates
    }

    /// Hands out every entry. Nothing if it is not in sync.
    pub fn all(&self, now: BootTime, each: &mut dyn FnMut(Held)) {
        if self.is_in_sync() {
            for slot in self.slots.iter().flatten() {
                self.hand_out(slot, now, each);
            }
        }
    }

    /// Hands out every entry that one of these filters finds, with the number of one that does.
    /// Nothing if the replica is not in sync.
    pub fn find(&mut self, filters: &[Filter], now: BootTime, each: &mut dyn FnMut(usize, Held)) {
        // An address has many filters, and one place in the index.
        let mut groups: Vec<(Option<Token>, Numbered<'_>)> = Vec::new();
        for numbered in filters.iter().enumerate() {
            let token = token_of(numbered.1);
            match groups.iter_mut().find(|(known, _)| *known == token) {
                Some((_, filters)) => filters.push(numbered),
                None => groups.push((token, vec![numbered])),
            }
        }
        for (token, filters) in groups {
            self.candidates(token, now, &mut |held| {
                let found = filters.iter().find(|(_, filter)| filter.matches(&held.entry));
                if let Some((number, _)) = found {
                    each(*number, held);
                }
            });
        }
    }

    /// Has every entry read that names one of these tokens, each once, or twice if another one looks
    /// like it. Nothing if the replica is not in sync. The index is believed: an entry with a token of
    /// the same hash comes, too, and whoever asks for evidence is not misled by more of it.
    ///
    /// # Errors
    /// If the bytes of an entry are none. (They were read when it came.)
    pub fn naming_any(
        &mut self,
        tokens: &[Token],
        now: BootTime,
        reader: &mut dyn EvidenceReader,
    ) -> Result<(), Malformed> {
        if !self.is_in_sync() {
            return Ok(());
        }
        let new = tokens.iter().filter(|token| self.index.learn(**token)).count();
        if new > 0 {
            self.index_again();
        }
        let (mut named, mut is_indexed) = (Vec::new(), true);
        for token in tokens {
            match self.index.with_token(*token) {
                Some(ids) => named.extend(ids),
                None => {
                    is_indexed = false;
                    named.extend((0..self.slots.len()).filter_map(|id| u32::try_from(id).ok()));
                }
            }
        }
        named.sort_unstable();
        named.dedup();
        let mut flow = std::mem::take(&mut self.flow);
        let mut read = Ok(());
        for slot in named.into_iter().filter_map(|id| self.slot(id)) {
            read = slot.entry.decode(&mut flow);
            if read.is_err() {
                break;
            }
            flow.made = slot.made().latest;
            if is_indexed || tokens.iter().any(|token| token.is_in(&flow)) {
                self.have_read(slot, &flow, now, reader);
            }
        }
        self.flow = flow;
        read
    }

    fn have_read(&self, slot: &Slot, flow: &Flow, now: BootTime, reader: &mut dyn EvidenceReader) {
        for _ in 0..if slot.told == Told::Twice { 2 } else { 1 } {
            if reader.flow(flow) {
                self.hand_out(slot, now, &mut |held| {
                    reader.entry(&Seen { raw: held.entry.raw(), filter: 0, made: held.made });
                });
            }
        }
    }

    /// The entries among which all are that name the token.
    fn candidates(&mut self, token: Option<Token>, now: BootTime, each: &mut dyn FnMut(Held)) {
        if !self.is_in_sync() {
            return;
        }
        let Some(token) = token else { return self.all(now, each) };
        if self.index.learn(token) {
            self.index_again();
        }
        match self.index.with_token(token) {
            None => self.all(now, each),
            Some(ids) => {
                for slot in ids.filter_map(|id| self.slot(id)) {
                    self.hand_out(slot, now, each);
                }
            }
        }
    }

    fn hand_out(&self, slot: &Slot, now: BootTime, each: &mut dyn FnMut(Held)) {
        let made = slot.made();
        // Its bytes were read when it came.
        let age = made.latest.until(now);
        let Ok(entry) = slot.entry.to_entry(self.version, age) else { return };
        let ambiguous = slot.told == Told::Twice;
        each(Held { entry, made, unreported: slot.entry.unreported(), ambiguous });
    }

    fn slot(&self, id: u32) -> Option<&Slot> {
        self.slots.get(usize::try_from(id).ok()?)?.as_ref()
    }

    fn slot_mut(&mut self, id: u32) -> Option<&mut Slot> {
        self.slots.get_mut(usize::try_from(id).ok()?)?.as_mut()
    }

    fn told(&self, id: u32) -> Option<Told> {
        self.slot(id).map(|slot| slot.told)
    }

    fn set_told(&mut self, id: u32, told: Told) {
        if let Some(slot) = self.slot_mut(id) {
            slot.told = told;
        }
    }

    /// The entry with this key.
    fn place(&self, key: &FlowKey<'_>) -> Option<u32> {
        let mut ids = self.index.with_key(key.place());
        ids.find(|id| self.slot(*id).is_some_and(|slot| slot.entry.has_key(key)))
    }

    fn insert_dumped(&mut self, raw: &RawEntry<'_>, made: Made, told: Told) {
        match PackedEntry::of_dump(raw) {
            Ok(entry) => self.insert(entry, made, told),
            Err(_) => self.doubt(Doubt::Malformed),
        }
    }

    /// A put of a key that is not there.
    fn put(&mut self, update: &Update, now: BootTime) {
        let made = Made { earliest: self.heard, latest: now };
        let told = if update.modified { Told::Changed } else { Told::Added };
        match PackedEntry::of_update(update, None) {
            Ok(entry) => self.insert(entry, made, told),
            Err(_) => self.doubt(Doubt::Malformed),
        }
    }

    /// A put of a key that is there: a change keeps age and flags, an addition does not.
    fn put_over(&mut self, id: u32, update: &Update, now: BootTime) {
        let Some(before) = self.slot(id) else { return };
        let (made, told, unreported) = if update.modified {
            (before.made(), before.told, before.entry.unreported())
        } else {
            (Made { earliest: self.heard, latest: now }, Told::Added, None)
        };
        match PackedEntry::of_update(update, unreported) {
            Ok(entry) => {
                self.remove(id);
                self.insert(entry, made, told);
            }
            Err(_) => self.doubt(Doubt::Malformed),
        }
    }

    /// The dump says of an entry that was changed meanwhile what the monitor does not report.
    fn complete(&mut self, id: u32, raw: &RawEntry<'_>, made: Made) {
        let unreported = Unreported { flags: raw.flags(), importance: raw.importance() };
        if let Some(slot) = self.slot_mut(id) {
            slot.entry.set_unreported(unreported);
            (slot.earliest, slot.width_ms) = (made.earliest, width_ms(made));
            slot.told = Told::Dumped;
        }
    }

    fn insert(&mut self, entry: PackedEntry, made: Made, told: Told) {
        if entry.decode(&mut self.flow).is_err() {
            return self.doubt(Doubt::Malformed);
        }
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                self.slots.push(None);
                u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.bytes = self.bytes.saturating_add(entry.size());
        self.index.insert(id, entry.place(), &self.flow);
        self.lesson |= is_lesson(&self.flow, &self.awaited);
        self.watchlist.came(&self.flow);
        let (earliest, width_ms) = (made.earliest, width_ms(made));
        let place = usize::try_from(id).ok().and_then(|id| self.slots.get_mut(id));
        if let Some(place) = place {
            *place = Some(Slot { entry, earliest, width_ms, told });
        }
        self.check_limit();
    }

    fn remove(&mut self, id: u32) {
        let place = usize::try_from(id).ok().and_then(|id| self.slots.get_mut(id));
        let Some(slot) = place.and_then(Option::take) else { return };
        // It was read when it came.
        drop(slot.entry.decode(&mut self.flow));
        self.index.remove(id, slot.entry.place(), &self.flow);
        self.watchlist.went(&self.flow);
        self.bytes = self.bytes.saturating_sub(slot.entry.size());
        self.free.push(id);
    }

    fn check_limit(&mut self) {
        if self.len().saturating_add(self.gone.len()) > self.limit {
            self.doubt(Doubt::OverLimit);
        }
    }

    fn index_again(&mut self) {
        let Self { slots, index, flow, .. } = self;
        for (id, slot) in (0..).zip(slots) {
            if let Some(slot) = slot
                && slot.entry.decode(flow).is_ok()
            {
                index.insert_tokens(id, flow);
            }
        }
    }

    fn forget(&mut self) {
        (self.slots, self.free, self.bytes) = (Vec::new(), Vec::new(), 0);
        self.gone = HashSet::new();
        self.index.clear();
        self.watchlist.forget();
    }
}

/// Whether a flow of one of these ports loads a register.
fn is_lesson(flow: &Flow, ports: &BTreeSet<u16>) -> bool {
    !flow.actions.register_writes.is_empty()
        && flow.matches.in_port.is_some_and(|port| ports.contains(&port))
}

/// A token that every entry names which the filter finds.
fn token_of(filter: &Filter) -> Option<Token> {
    let named = filter.named()?;
    let port = named.in_port.map(Token::InPort);
    let address = || named.addresses.first().map(|found| Token::Address(found.address));
    let register = || {
        let found = named.registers.first()?;
        Some(Token::Register { index: found.index, value: found.value, mask: found.mask })
    };
    port.or_else(address).or_else(register).or(filter.out_port.map(Token::Output))
}

#[cfg(test)]
mod tests;
