//! The replicas of a node's bridges.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::memory::MemoryLimit;
use super::replica::{Counters, State};
use super::watcher::{OnNews, Turns, Watcher};
use super::{
    Arrived, BridgeTables, DumpSource, FlowSink, Groups, News, Prefetch, ReplicaSource, Token,
};
use crate::util::clock::Deadline;

/// Follows each bridge that it is told of.
#[derive(Debug)]
pub struct Replicas {
    limits: Limits,
    turns: Arc<Turns>,
    on_news: OnNews,
    watchers: Mutex<BTreeMap<String, Arc<Watcher>>>,
}

/// What replicas may take.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// Entries of each. A bridge that has more is asked each time.
    pub entries: usize,
    /// Memory of all.
    pub memory: MemoryLimit,
}

/// How a bridge's replica is.
#[derive(Clone, Copy, Debug)]
pub struct ReplicaStatus {
    /// Whether it is believed.
    pub state: State,
    /// Entries that it has.
    pub entries: usize,
    /// Their bytes.
    pub bytes: usize,
    /// What was counted.
    pub counters: Counters,
}

impl Replicas {
    /// Of no bridge yet.
    #[must_use]
    pub fn new(limits: Limits, on_news: OnNews) -> Self {
        Self { limits, turns: Arc::default(), on_news, watchers: Mutex::default() }
    }

    /// Follows these bridges, by name, and no others. Of each, these ports' pods have register values
    /// that are not known yet. `socket`: a bridge's management socket.
    ///
    /// # Errors
    /// If there is no thread or socket to be had for one of them. The others are followed.
    pub fn follow<'p>(
        &self,
        bridges: BTreeMap<&str, BTreeSet<u16>>,
        socket: impl Fn(&str) -> Option<std::path::PathBuf> + 'p,
    ) -> io::Result<()> {
        let mut watchers = self.watchers();
        watchers.retain(|bridge, _| bridges.contains_key(bridge.as_str()));
        let (mut failed, mut news) = (Ok(()), News::default());
        for (bridge, ports) in bridges.into_iter().filter(|_| self.limits.entries > 0) {
            let Some(path) = socket(bridge) else { continue };
            let watcher = match watchers.entry(bridge.to_owned()) {
                Entry::Occupied(watcher) => watcher.into_mut(),
                Entry::Vacant(place) => {
                    let (turns, on_news) = (Arc::clone(&self.turns), self.on_news.clone());
                    match Watcher::start(Path::new(&path), self.limits.clone(), turns, on_news) {
                        Ok(watcher) => place.insert(Arc::new(watcher)),
                        Err(error) => {
                            failed = Err(error);
                            continue;
                        }
                    }
                }
            };
            let mut replica = watcher.replica();
            replica.await_lessons(ports);
            let News { lesson, dead, counts } = replica.take_news();
            news.lesson |= lesson;
            news.dead |= dead;
            news.counts |= counts;
        }
        drop(watchers);
        if !news.is_none() {
            (self.on_news.0)(news);
        }
        failed
    }

    /// Asks each switch something and waits for no answer: the first one after a pause takes longest.
    pub fn rouse(&self) {
        self.watchers().values().for_each(|watcher| drop(watcher.ask_barrier()));
    }

    /// Somebody has died on this bridge: see [`Watcher::ask_ahead`].
    pub fn ask_ahead(&self, bridge: &str) {
        let watcher = self.watchers().get(bridge).cloned();
        watcher.inspect(|watcher| watcher.ask_ahead());
    }

    /// Watches on each bridge for entries that name these tokens of the dead, and no others.
    pub fn watch(&self, mut dead: BTreeMap<&str, HashSet<Token>>) {
        for (bridge, watcher) in &*self.watchers() {
            watcher.replica().watch(dead.remove(bridge.as_str()).unwrap_or_default());
        }
    }

    /// What entries of the dead have come since the last call, by bridge: of those whose replica is
    /// in sync.
    pub fn take_arrived(&self) -> BTreeMap<String, Arrived> {
        let arrived = |watcher: &Watcher| {
            let mut replica = watcher.replica();
            replica.is_in_sync().then(|| replica.take_arrived())
        };
        let watchers = self.watchers();
        let arrived = watchers.iter().filter_map(|(name, of)| Some((name.clone(), arrived(of)?)));
        arrived.collect()
    }

    /// How each of them is, by its bridge's name.
    #[must_use]
    pub fn status(&self) -> Vec<(String, ReplicaStatus)> {
        let watchers: Vec<(String, Arc<Watcher>)> =
            self.watchers().iter().map(|(name, of)| (name.clone(), Arc::clone(of))).collect();
        let status = |watcher: &Watcher| {
            let replica = watcher.replica();
            let (state, counters) = (replica.state(), replica.counters());
            ReplicaStatus { state, entries: replica.len(), bytes: replica.bytes(), counters }
        };
        watchers.iter().map(|(name, watcher)| (name.clone(), status(watcher))).collect()
    }

    fn watchers(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Watcher>>> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BridgeTables for Replicas {
    fn source(&self, bridge: &str, switch: DumpSource) -> Box<dyn FlowSink> {
        let watcher = self.watchers().get(bridge).cloned();
        match watcher {
            Some(watcher) => Box::new(ReplicaSource::new(watcher, switch)),
            None => Box::new(switch),
        }
    }

    fn prefetch(
        &self,
        bridge: &str,
        deadline: Deadline,
        watching: bool,
        groups: Groups,
    ) -> Option<Prefetch> {
        let watcher = self.watchers().get(bridge).cloned();
        watcher.and_then(|watcher| watcher.take_spare(deadline, watching, groups))
    }

    fn is_followed(&self, bridge: &str) -> bool {
        self.watchers().get(bridge).is_some_and(|watcher| watcher.replica().is_in_sync())
    }
}
