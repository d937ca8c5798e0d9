//! A bridge whose replica is compared with a dump, all of it, whenever that is asked for.

#![allow(dead_code, reason = "two test crates share this module, and each uses a part of it")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ovs_flow_gc::flowtable::replica::{Doubt, Held, State};
use ovs_flow_gc::flowtable::watcher::{OnNews, Turns, Watcher};
use ovs_flow_gc::flowtable::{DumpSource, FlowSource, Limits, Made, ReplicaSource, Tokens};
use ovs_flow_gc::openflow::{Connection, Entry, Filter};
use ovs_flow_gc::util::clock::{BootTime, Deadline};

use crate::rig::{Node, sleep_ms};

/// Entries of the bridges here are fewer.
const LIMIT: usize = 100_000;
/// Ages that differ by more are too far off, if the machine is not busy.
const CLOSE: Duration = Duration::from_millis(100);
/// Ages are told in whole milliseconds.
const EXACT: Duration = Duration::from_millis(3);

fn limits() -> Limits {
    Limits { entries: LIMIT, ..Limits::default() }
}

pub(crate) fn nobody() -> OnNews {
    OnNews(Arc::new(|_| ()))
}

pub(crate) fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

/// A watched bridge, and what was compared.
pub(crate) struct Watched {
    /// The switch's socket, which the oracle dumps.
    pub(crate) path: PathBuf,
    /// The socket that the replica follows.
    followed: PathBuf,
    pub(crate) watcher: Arc<Watcher>,
    pub(crate) compared: u64,
    pub(crate) entries: u64,
    /// Entries whose age was more than [`CLOSE`] off.
    pub(crate) far: u64,
    /// Entries that were found by token.
    pub(crate) queried: u64,
    /// How often it was in doubt.
    pub(crate) doubts: Vec<Doubt>,
}

impl Watched {
    pub(crate) fn of(node: &Node, bridge: &str) -> Self {
        let path = node.run_dir.join(format!("{bridge}.mgmt"));
        Self::behind(&path.clone(), path)
    }

    /// The replica follows the switch through another socket than the oracle's.
    pub(crate) fn behind(followed: &Path, path: PathBuf) -> Self {
        let watcher = Watcher::start(followed, limits(), Arc::default(), nobody()).unwrap();
        let (watcher, followed) = (Arc::new(watcher), followed.to_owned());
        let (compared, entries, far, queried, doubts) = (0, 0, 0, 0, Vec::new());
        Self { path, followed, watcher, compared, entries, far, queried, doubts }
    }

    /// Waits until it is in sync. A watcher that leaves the switch to dumps for a while is
    /// replaced by another one.
    pub(crate) fn sync(&mut self) {
        let start = Instant::now();
        loop {
            let (state, counters) = {
                let replica = self.watcher.replica();
                (replica.state(), replica.counters())
            };
            match state {
                State::InSync { .. } => return,
                State::Doubt(doubt) if counters.fallbacks > 0 => {
                    assert_eq!(self.watcher.barrier(soon()), None);
                    assert_eq!(self.held().len(), 0, "{doubt}");
                    let turns = Arc::new(Turns::default());
                    self.watcher = Arc::new(
                        Watcher::start(&self.followed, limits(), turns, nobody()).unwrap(),
                    );
                }
                _ => {}
            }
            assert!(start.elapsed() < Duration::from_secs(40), "{state:?}");
            sleep_ms(2);
        }
    }

    fn held(&self) -> Vec<Held> {
        let mut held = Vec::new();
        self.watcher.replica().all(BootTime::now(), &mut |it| held.push(it));
        held.sort_by(|a, b| a.entry.key().cmp(&b.entry.key()));
        held
    }

    /// Compares everything, if it is in sync. False: it says that it is not.
    pub(crate) fn compare(&mut self) -> bool {
        // What times out between replica and dump is in one of them only: the number of changes
        // shows that.
        for _ in 0..200 {
            let Some(before) = self.watcher.barrier(soon()) else { return self.doubtful() };
            let mut held = Vec::new();
            {
                let replica = self.watcher.replica();
                if replica.seq() != before {
                    continue;
                }
                replica.all(BootTime::now(), &mut |it| held.push(it));
            }
            let dumped = self.dump();
            match self.watcher.barrier(soon()) {
                None => return self.doubtful(),
                Some(after) if after != before => continue,
                Some(_) => {}
            }
            held.sort_by(|a, b| a.entry.key().cmp(&b.entry.key()));
            self.same(&held, &dumped);
            return true;
        }
        panic!("the switch changes all the time");
    }

    fn doubtful(&mut self) -> bool {
        match self.watcher.replica().state() {
            State::InSync { .. } => panic!("in sync, and without an answer"),
            State::Building => {}
            State::Doubt(doubt) => self.doubts.push(doubt),
        }
        false
    }

    fn dump(&self) -> Vec<(Entry, Made)> {
        let mut connection = Connection::open(&self.path, soon()).unwrap();
        let (asked, mut dumped) = (BootTime::now(), Vec::new());
        connection
            .dump(&Filter::default(), &mut |raw, _| {
                dumped.push((raw.to_entry(), Made::by(raw.duration(), asked, BootTime::now())));
            })
            .unwrap();
        dumped.sort_by(|(a, _), (b, _)| a.key().cmp(&b.key()));
        dumped
    }

    fn same(&mut self, held: &[Held], dumped: &[(Entry, Made)]) {
        let text = |entries: Vec<&Entry>| -> Vec<String> {
            entries.iter().map(|entry| format!("{entry:?}")).collect()
        };
        let keys = |entries: &[&Entry]| -> Vec<_> {
            entries.iter().map(|entry| entry.key().into_owned()).collect()
        };
        let ours: Vec<&Entry> = held.iter().map(|it| &it.entry).collect();
        let theirs: Vec<&Entry> = dumped.iter().map(|(entry, _)| entry).collect();
        if keys(&ours) != keys(&theirs) {
            panic!("replica: {:#?}\ndump: {:#?}", text(ours), text(theirs));
        }
        for (held, (entry, made)) in held.iter().zip(dumped) {
            let (ours, theirs) = (held.entry.raw(), entry.raw());
            let said = |raw: &ovs_flow_gc::openflow::RawEntry<'_>| {
                (
                    raw.version(),
                    raw.cookie(),
                    raw.idle_timeout(),
                    raw.hard_timeout(),
                    raw.match_bytes().to_vec(),
                    raw.instruction_bytes().to_vec(),
                )
            };
            assert_eq!(said(&ours), said(&theirs), "{:?} {entry:?}", held.entry);
            if let Some(known) = held.unreported {
                let is = (theirs.flags(), theirs.importance());
                assert_eq!((known.flags, known.importance), is, "{entry:?}");
            }
            assert!(!held.ambiguous, "{entry:?}");
            let possible = held.made.earliest <= made.latest + EXACT
                && made.earliest <= held.made.latest + EXACT;
            assert!(possible, "{entry:?} was made at {made:?}, not at {:?}", held.made);
            let late = made.latest.until(held.made.latest);
            self.far += u64::from(late > CLOSE);
        }
        self.compared += 1;
        self.entries += held.len() as u64;
    }

    /// Compares what it finds by tokens with what the switch finds.
    pub(crate) fn compare_queries(&mut self, tokens: &[Tokens]) {
        let switch = || DumpSource::over(Connection::open(&self.path, soon()).unwrap()).unwrap().0;
        let query = |source: &mut dyn FlowSource| {
            let mut found = BTreeSet::new();
            let queried = source.query(tokens, &mut |seen| {
                found.insert((seen.raw.key().into_owned(), seen.raw.instruction_bytes().to_vec()));
                Ok(())
            });
            queried.map(|_| found)
        };
        for _ in 0..200 {
            let Some(before) = self.watcher.barrier(soon()) else { return };
            let found = query(&mut ReplicaSource::new(Arc::clone(&self.watcher), switch()));
            let wanted = query(&mut switch()).unwrap();
            let Some(after) = self.watcher.barrier(soon()) else { return };
            if after == before {
                assert_eq!(found.unwrap(), wanted);
                self.queried += wanted.len() as u64;
                return;
            }
        }
        panic!("the switch changes all the time");
    }
}
