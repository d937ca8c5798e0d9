//! Which changes of a bridge's entries are news for whoever follows it. Pure.
//!
//! | change | because |
//! | --- | --- |
//! | an entry came that names a token of the dead | a controller that is late put it there: it is judged at once |
//! | an entry went that names such a token | fewer are kept, or left |
//! | an entry came or went that names a port which nobody has | it is counted as dangling |

use std::collections::{BTreeSet, HashMap, HashSet};

use super::index::{Field, Token, tokens};
use crate::model::flow::Flow;

/// What is news for whoever follows a bridge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// An entry shows a register value that is [waited for](super::replica::Replica::await_lessons).
    pub lesson: bool,
    /// An entry has come that names a token of the dead, or the replica was built anew, and nobody
    /// knows what came before.
    pub dead: bool,
    /// What is counted has changed: entries of the dead, or of ports that nobody has.
    pub counts: bool,
}

impl News {
    /// Whether there is none.
    #[must_use]
    pub fn is_none(self) -> bool {
        self == Self::default()
    }
}

/// What has come since somebody last asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arrived {
    /// Tokens of the dead that entries name which have come.
    pub tokens: HashSet<Token>,
    /// The replica was built anew: any may have come.
    pub any: bool,
}

impl Arrived {
    /// Whether an entry with one of these tokens may have come.
    #[must_use]
    pub fn has(&self, of: &[Token]) -> bool {
        self.any || of.iter().any(|token| self.tokens.contains(token))
    }
}

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Watchlist {
    dead: HashSet<Token>,
    /// The parts of registers that they are about.
    fields: Vec<Field>,
    arrived: Arrived,
    news: News,
    /// How many entries name each port.
    named: HashMap<u16, u32>,
    /// Those of the named ports that somebody had when the others were last asked for; `None`:
    /// nobody has asked.
    owned: Option<HashSet<u16>>,
}

impl Watchlist {
    /// Watches for these tokens of the dead, and no others.
    pub(super) fn watch(&mut self, dead: HashSet<Token>) {
        let mut fields: Vec<Field> = Vec::new();
        for field in dead.iter().filter_map(Token::field) {
            if !fields.contains(&field) {
                fields.push(field);
            }
        }
        (self.dead, self.fields) = (dead, fields);
    }

    /// An entry has come.
    pub(super) fn came(&mut self, flow: &Flow) {
        let Self { dead, fields, arrived, news, .. } = self;
        if !dead.is_empty() {
            tokens(flow, fields, &mut |token| {
                if dead.contains(&token) {
                    arrived.tokens.insert(token);
                    news.dead = true;
                }
            });
        }
        for port in ports(flow) {
            *self.named.entry(port).or_default() += 1;
            self.count(port);
        }
    }

    /// An entry has gone.
    pub(super) fn went(&mut self, flow: &Flow) {
        let Self { dead, fields, news, .. } = self;
        if !dead.is_empty() {
            tokens(flow, fields, &mut |token| news.counts |= dead.contains(&token));
        }
        for port in ports(flow) {
            if let Some(count) = self.named.get_mut(&port) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.named.remove(&port);
                }
            }
            self.count(port);
        }
    }

    fn count(&mut self, port: u16) {
        self.news.counts |= self.owned.as_ref().is_some_and(|owned| !owned.contains(&port));
    }

    /// The ports that entries name and of which this is true.
    pub(super) fn ports_of_nobody(&mut self, is_nobodys: &dyn Fn(u16) -> bool) -> Vec<u16> {
        let named = self.named.keys().copied();
        let (nobodys, owned): (Vec<u16>, HashSet<u16>) = {
            let (nobodys, owned): (Vec<u16>, Vec<u16>) = named.partition(|port| is_nobodys(*port));
            (nobodys, owned.into_iter().collect())
        };
        self.owned = Some(owned);
        nobodys
    }

    /// All entries are forgotten.
    pub(super) fn forget(&mut self) {
        (self.named, self.owned) = (HashMap::new(), None);
    }

    /// All entries are known, and what came before is not.
    pub(super) fn built(&mut self) {
        let is_watched = !self.dead.is_empty();
        self.news = News { dead: is_watched, counts: true, ..self.news };
        self.arrived = Arrived { any: true, ..Arrived::default() };
    }

    /// The news since the last call.
    pub(super) fn take_news(&mut self) -> News {
        std::mem::take(&mut self.news)
    }

    /// What has come since the last call.
    pub(super) fn take_arrived(&mut self) -> Arrived {
        std::mem::take(&mut self.arrived)
    }
}

/// The ports that a flow names, each once.
fn ports(flow: &Flow) -> BTreeSet<u16> {
    let actions = &flow.actions;
    let named = actions.outputs.iter().chain(&actions.port_references).copied();
    named.chain(flow.matches.in_port).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::flow::RegisterMatch;

    fn flow(in_port: u16) -> Flow {
        let mut flow = Flow::default();
        flow.matches.in_port = Some(in_port);
        flow
    }

    #[test]
    fn what_names_the_dead_is_news_when_it_comes() {
        let mut list = Watchlist::default();
        list.came(&flow(2));
        assert!(list.take_news().is_none(), "nobody watches");
        let register = Token::Register { index: 0, value: 7, mask: 0xff };
        list.watch(HashSet::from([Token::InPort(2), register]));
        list.came(&flow(3));
        assert!(list.take_news().is_none());
        list.came(&flow(2));
        assert_eq!(list.take_news(), News { dead: true, ..News::default() });
        let mut marked = flow(3);
        marked.matches.registers = vec![RegisterMatch { index: 0, value: 0x107, mask: u32::MAX }];
        list.came(&marked);
        let arrived = list.take_arrived();
        assert!(arrived.has(&[Token::InPort(2)]) && arrived.has(&[Token::InPort(9), register]));
        assert!(!arrived.has(&[Token::InPort(3)]));
        assert!(!list.take_arrived().has(&[register]), "each is handed out once");
        list.take_news();
        list.went(&flow(2));
        assert_eq!(list.take_news(), News { counts: true, ..News::default() });
        // What came before it was built nobody knows.
        list.built();
        assert!(list.take_news().dead && list.take_arrived().has(&[Token::InPort(9)]));
    }

    #[test]
    fn ports_of_nobody_are_known_and_their_entries_are_news() {
        let mut list = Watchlist::default();
        let mut both = flow(2);
        both.actions.outputs = vec![2, 5];
        list.came(&both);
        list.came(&flow(2));
        assert!(list.take_news().is_none(), "nobody has asked");
        assert_eq!(list.ports_of_nobody(&|port| port == 5), [5]);
        list.came(&flow(2));
        assert!(list.take_news().is_none(), "somebody has it");
        list.came(&flow(5));
        list.went(&flow(5));
        assert!(list.take_news().counts);
        list.came(&flow(9));
        assert!(list.take_news().counts, "nobody knows whether somebody has it");
        list.went(&flow(9));
        list.went(&both);
        assert_eq!(list.ports_of_nobody(&|port| port != 2), [0; 0]);
        list.forget();
        assert_eq!(list.ports_of_nobody(&|_| true), [0; 0]);
    }
}
