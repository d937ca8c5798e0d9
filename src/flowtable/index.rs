//! Which entries name a token: an in_port, a register value, an address, an output port.
//!
//! One sorted set of pairs (hash of a token, number of an entry), 8 bytes each. What it finds may
//! be too much (hashes collide) and is never too little: whoever asks looks at each entry again.
//! A set of pairs has no long lists, so an entry goes as quickly if a hundred thousand others
//! share its tokens.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hash, RandomState};

use crate::model::flow::{Address, Flow};

/// What an entry is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Token {
    /// Entries that match on this in_port.
    InPort(u16),
    /// Entries that match on at least these bits of a register.
    Register {
        /// 0 to 15.
        index: u8,
        /// The value, zero outside the mask.
        value: u32,
        /// Bits compared.
        mask: u32,
    },
    /// Entries that load a constant into at least these bits of a register.
    Load {
        /// 0 to 15.
        index: u8,
        /// The value, zero outside the mask.
        value: u32,
        /// Bits written.
        mask: u32,
    },
    /// Entries with an exact match on this address, in whatever field.
    Address(Address),
    /// Entries that output to this port by its number.
    Output(u16),
    /// Entries that refer to this port otherwise than by an output.
    Reference(u16),
    /// Entries that [teach](Flow::teaches): classifiers are among them.
    Teaches,
}

impl Token {
    /// Whether a flow names it.
    #[must_use]
    pub fn is_in(&self, flow: &Flow) -> bool {
        let (matches, actions) = (&flow.matches, &flow.actions);
        match *self {
            Self::InPort(port) => matches.in_port == Some(port),
            Self::Register { index, value, mask } => matches
                .registers
                .iter()
                .any(|r| r.index == index && r.mask & mask == mask && r.value & mask == value),
            Self::Load { index, value, mask } => actions.register_writes.iter().any(|w| {
                w.index == index
                    && w.mask & mask == mask
                    && w.value.is_some_and(|written| written & mask == value)
            }),
            Self::Address(address) => matches.addresses.iter().any(|m| m.address == address),
            Self::Output(port) => actions.outputs.contains(&port),
            Self::Reference(port) => actions.port_references.contains(&port),
            Self::Teaches => flow.teaches(),
        }
    }

    /// The part of a register that it is about.
    pub(super) fn field(&self) -> Option<Field> {
        match *self {
            Self::Register { index, mask, .. } | Self::Load { index, mask, .. } => {
                Some(Field { index, mask })
            }
            _ => None,
        }
    }
}

/// A part of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field {
    index: u8,
    mask: u32,
}

/// What is hashed. Entries are found by their key, too: table, priority, fields of the match.
#[derive(Hash)]
enum Name<'a> {
    Token(Token),
    Key((u8, u16, &'a [u8])),
}

/// Fields that are indexed, at most. Each network has one.
const MOST_FIELDS: usize = 32;

/// The index.
#[derive(Debug)]
pub(super) struct Index {
    pairs: BTreeSet<u64>,
    hasher: RandomState,
    /// Parts of registers that somebody has asked for.
    fields: Vec<Field>,
}

impl Index {
    pub(super) fn new() -> Self {
        let fields = vec![Field { index: 0, mask: u32::MAX }];
        Self { pairs: BTreeSet::new(), hasher: RandomState::new(), fields }
    }

    /// Forgets all entries.
    pub(super) fn clear(&mut self) {
        self.pairs = BTreeSet::new();
    }

    pub(super) fn insert(&mut self, id: u32, key: (u8, u16, &[u8]), flow: &Flow) {
        let name = self.start(&Name::Key(key));
        self.pairs.insert(name | u64::from(id));
        self.insert_tokens(id, flow);
    }

    pub(super) fn insert_tokens(&mut self, id: u32, flow: &Flow) {
        let Self { pairs, hasher, fields } = self;
        tokens(flow, fields, &mut |token| {
            pairs.insert(start(hasher, &Name::Token(token)) | u64::from(id));
        });
    }

    /// Forgets an entry: the same that was inserted.
    pub(super) fn remove(&mut self, id: u32, key: (u8, u16, &[u8]), flow: &Flow) {
        let name = self.start(&Name::Key(key));
        self.pairs.remove(&(name | u64::from(id)));
        self.remove_tokens(id, flow);
    }

    pub(super) fn remove_tokens(&mut self, id: u32, flow: &Flow) {
        let Self { pairs, hasher, fields } = self;
        tokens(flow, fields, &mut |token| {
            pairs.remove(&(start(hasher, &Name::Token(token)) | u64::from(id)));
        });
    }

    /// Entries that may have this key.
    pub(super) fn with_key(&self, key: (u8, u16, &[u8])) -> impl Iterator<Item = u32> {
        self.ids(self.start(&Name::Key(key)))
    }

    /// Entries that may name this token; `None` if all may.
    pub(super) fn with_token(&self, token: Token) -> Option<impl Iterator<Item = u32>> {
        let known = token.field().is_none_or(|field| self.fields.contains(&field));
        known.then(|| self.ids(self.start(&Name::Token(token))))
    }

    /// Whether entries are to be inserted again, with tokens of a field that is indexed from now on.
    pub(super) fn learn(&mut self, token: Token) -> bool {
        let new = token.field().filter(|field| !self.fields.contains(field));
        match new.filter(|_| self.fields.len() < MOST_FIELDS) {
            Some(field) => {
                self.fields.push(field);
                true
            }
            None => false,
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    fn ids(&self, start: u64) -> impl Iterator<Item = u32> {
        let range = self.pairs.range(start..=start | u64::from(u32::MAX));
        range.map(|pair| u32::try_from(pair & u64::from(u32::MAX)).unwrap_or(u32::MAX))
    }

    fn start(&self, name: &Name<'_>) -> u64 {
        start(&self.hasher, name)
    }
}

/// The first pair that this name can have.
fn start(hasher: &RandomState, name: &Name<'_>) -> u64 {
    hasher.hash_one(name) & !u64::from(u32::MAX)
}

/// The tokens that a flow names.
pub(super) fn tokens(flow: &Flow, fields: &[Field], each: &mut dyn FnMut(Token)) {
    let (matches, actions) = (&flow.matches, &flow.actions);
    if let Some(port) = matches.in_port {
        each(Token::InPort(port));
    }
    for found in &matches.addresses {
        each(Token::Address(found.address));
    }
    for port in &actions.outputs {
        each(Token::Output(*port));
    }
    for port in &actions.port_references {
        each(Token::Reference(*port));
    }
    if flow.teaches() {
        each(Token::Teaches);
    }
    for field in fields {
        let Field { index, mask } = *field;
        for r in matches.registers.iter().filter(|r| r.index == index && r.mask & mask == mask) {
            each(Token::Register { index, value: r.value & mask, mask });
        }
        for w in &actions.register_writes {
            if let Some(value) = w.value.filter(|_| w.index == index && w.mask & mask == mask) {
                each(Token::Load { index, value: value & mask, mask });
            }
        }
    }
}
