//! Entries of the dead that come after their clean-up: a controller that is slow, or puts them back.
//!
//! Where a bridge is followed the switch reports each change, so the dead need not be swept again and
//! again: one is swept when an entry comes that names one of its tokens. What such an entry is,
//! and whether somebody else has the token by now, is judged as ever.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::retry_queue::{AttachmentLife, life};
use crate::config::NetworkState;
use crate::flowtable::{Arrived, Replicas, Token, Tokens};
use crate::model::attachment::{Attachment, NetworkName};

/// What is known of such entries when a sweep begins.
#[derive(Debug, Default)]
pub(super) struct LateEntries {
    /// The dead that are watched for, each with its bridge and its tokens.
    watched: HashMap<AttachmentLife, (String, Vec<Token>)>,
    /// The bridges that are followed.
    followed: BTreeSet<String>,
    /// What has come on them, and no sweep has judged yet.
    arrived: BTreeMap<String, Arrived>,
}

impl LateEntries {
    /// Watches for these dead from now on, and takes in what has come.
    pub(super) fn watch<'r>(
        &mut self,
        replicas: &Replicas,
        dead: impl Iterator<Item = &'r Attachment>,
        networks: &BTreeMap<NetworkName, NetworkState>,
    ) {
        let watched = dead.filter_map(|record| {
            let tokens = tokens_of(record, networks.get(&record.key.network));
            Some((life(record), (record.bridge.clone()?, tokens)))
        });
        self.watched = watched.collect();
        let mut by_bridge: BTreeMap<&str, HashSet<Token>> = BTreeMap::new();
        for (bridge, tokens) in self.watched.values() {
            by_bridge.entry(bridge).or_default().extend(tokens);
        }
        replicas.watch(by_bridge);
        let arrived = replicas.take_arrived();
        self.followed = arrived.keys().cloned().collect();
        for (bridge, Arrived { tokens, any }) in arrived {
            let known = self.arrived.entry(bridge).or_default();
            known.tokens.extend(tokens);
            known.any |= any;
        }
    }

    /// Forgets what has come: a sweep has judged it.
    pub(super) fn judged(&mut self) {
        self.arrived.clear();
    }

    /// Whether an entry may have come that names one of its tokens.
    pub(super) fn has_come(&self, life: &AttachmentLife) -> bool {
        self.watched.get(life).is_some_and(|(bridge, tokens)| {
            self.arrived.get(bridge).is_some_and(|arrived| arrived.has(tokens))
        })
    }

    /// Whether nothing of it comes unnoticed, if these are all bridges that it may have entries on.
    pub(super) fn is_watched(&self, life: &AttachmentLife, bridges: &[String]) -> bool {
        self.watched.get(life).is_some_and(|(bridge, _)| bridges == [bridge.as_str()])
            && bridges.iter().all(|bridge| self.followed.contains(bridge))
    }
}

/// What one of the dead is named by.
fn tokens_of(record: &Attachment, state: Option<&NetworkState>) -> Vec<Token> {
    let register = record.register.zip(state).map(|(register, state)| {
        let (index, mask) = (state.config.register, state.config.register_mask);
        (index, register.value & mask, mask)
    });
    let named = Tokens {
        ports: record.ofport.into_iter().chain(record.ofport_before).collect(),
        addresses: record.addresses(),
        registers: register.into_iter().collect(),
    };
    named.names().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::attachment::Key;
    use crate::util::clock::Stamp;

    fn record(container: &str, ofport: u16) -> Attachment {
        let key = Key {
            network: "podnet".parse().unwrap(),
            container: container.parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        let now = Stamp { boot_ms: 1, wall_ms: 1 };
        let mut record = Attachment::new(key, 1, "boot".to_owned(), now);
        (record.bridge, record.ofport) = (Some("br0".to_owned()), Some(ofport));
        record
    }

    #[test]
    fn only_whom_an_entry_names_is_swept() {
        let (one, other) = (record("c1", 2), record("c2", 3));
        let late = |any: bool, followed: bool| {
            let of = |record: &Attachment| ("br0".to_owned(), tokens_of(record, None));
            let br0 = "br0".to_owned();
            let arrived = Arrived { tokens: HashSet::from([Token::Output(2)]), any };
            LateEntries {
                watched: [(life(&one), of(&one)), (life(&other), of(&other))].into(),
                followed: followed.then(|| br0.clone()).into_iter().collect(),
                arrived: [(br0, arrived)].into(),
            }
        };
        let mut named = late(false, true);
        assert!(named.has_come(&life(&one)) && !named.has_come(&life(&other)));
        assert!(late(true, true).has_come(&life(&other)), "it was built anew");
        let (br0, both) = (["br0".to_owned()], ["br0".to_owned(), "br1".to_owned()]);
        assert!(named.is_watched(&life(&one), &br0));
        assert!(!named.is_watched(&life(&one), &both), "nobody watches the other bridge");
        assert!(!named.is_watched(&life(&record("c3", 4)), &br0));
        assert!(!late(false, false).is_watched(&life(&one), &br0));
        named.judged();
        assert!(!named.has_come(&life(&one)));
    }
}
