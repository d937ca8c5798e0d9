//! The replicas of a node's bridges.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::replica::{Counters, State};
use super::watcher::{OnLesson, Turns, Watcher};
use super::{BridgeTables, DumpSource, FlowSink, ReplicaSource};

/// Follows each bridge that it is told of.
#[derive(Debug)]
pub struct Replicas {
    /// Entries of a replica, at most.
    limit: usize,
    turns: Arc<Turns>,
    on_lesson: OnLesson,
    watchers: Mutex<BTreeMap<String, Arc<Watcher>>>,
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
    /// Of no bridge yet. `limit`: entries of each, at most; a bridge that has more is asked
    /// each time.
    #[must_use]
    pub fn new(limit: usize, on_lesson: OnLesson) -> Self {
        Self { limit, turns: Arc::default(), on_lesson, watchers: Mutex::default() }
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
        let (mut failed, mut lesson) = (Ok(()), false);
        for (bridge, ports) in bridges.into_iter().filter(|_| self.limit > 0) {
            let Some(path) = socket(bridge) else { continue };
            let watcher = match watchers.entry(bridge.to_owned()) {
                Entry::Occupied(watcher) => watcher.into_mut(),
                Entry::Vacant(place) => {
                    let (turns, on_lesson) = (Arc::clone(&self.turns), self.on_lesson.clone());
                    match Watcher::start(Path::new(&path), self.limit, turns, on_lesson) {
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
            lesson |= replica.take_lesson();
        }
        drop(watchers);
        if lesson {
            (self.on_lesson.0)();
        }
        failed
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
}
