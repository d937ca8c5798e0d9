//! Fakes for the tests of `execute`: a switch and a database in memory. The switch does what Open
//! vSwitch does with strict deletes and additions, and reports changes as a flow monitor does.
//! What it does on the wire is not here: `guard/tests.rs` and `tests/window` have that.

use std::collections::HashSet;
use std::time::Duration;

use crate::flowtable::{
    Changes, EvidenceReader, FlowSink, FlowSource, Made, Parallel, PortList, Reporting, Seen,
    Token, Tokens, Visit,
};
use crate::model::flow::Actions;
use crate::openflow::{
    Applied, Connection, Entry, Error as SwitchFailed, Filter, SwitchError, Update,
};
use crate::reconcile::evidence::Evidence;
use crate::reconcile::{Error, NodeSnapshot};
use crate::store::Version;
use crate::util::clock::{BootTime, Deadline, Stamp};

/// What is on the fake switch, and what it has reported.
pub(super) struct Bridge {
    pub(super) entries: Vec<Entry>,
    pub(super) ports: Vec<(u16, String)>,
    pub(super) deadline: Deadline,
    updates: Vec<Update>,
    seq: u64,
}

impl Bridge {
    /// Somebody puts an entry, over one with the same key if there is one.
    pub(super) fn put(&mut self, entry: Entry) {
        self.entries.retain(|other| other.key() != entry.key());
        self.updates.push(Update::put(self.seq, &entry));
        self.seq += 1;
        self.entries.push(entry);
    }

    fn remove(&mut self, entries: &[&Entry]) {
        let gone: HashSet<_> = entries.iter().map(|e| (e.key(), e.cookie())).collect();
        for gone in self.entries.extract_if(.., |e| gone.contains(&(e.key(), e.cookie()))) {
            self.updates.push(Update::removed(self.seq, &gone));
            self.seq += 1;
        }
    }

    fn in_time(&self) -> Result<(), SwitchFailed> {
        let late = || SwitchFailed::TimedOut { path: "fake".into(), doing: "deleting flows" };
        if self.deadline.passed() { Err(late()) } else { Ok(()) }
    }
}

/// When everything is read: the clock stands still.
pub(super) const NOW: Stamp = Stamp { boot_ms: 10_000_000, wall_ms: 10_000_000 };

/// What the switch makes of a list of deletes.
pub(super) enum Answer {
    Done,
    /// It does them, and that uses up the caller's time.
    Late,
    /// It refuses each of them.
    Refuse,
}

/// What happens between the commit and the deletes.
pub(super) type OnDelete = Box<dyn FnMut(&mut Bridge) -> Answer + Send>;

/// A fake switch.
pub(in crate::reconcile) struct FakeTable {
    pub(super) bridge: Bridge,
    pub(super) on_delete: OnDelete,
    /// So many entries, the first ones, are all that a query by addresses finds; `None`: it prefers
    /// scans.
    pub(in crate::reconcile) queried: Option<usize>,
    /// It has an index.
    pub(in crate::reconcile) indexed: bool,
}

impl FakeTable {
    pub(in crate::reconcile) fn with(entries: Vec<Entry>) -> Self {
        let deadline = Deadline::after(Duration::from_secs(60));
        let (ports, updates) = (Vec::new(), Vec::new());
        let bridge = Bridge { entries, ports, deadline, updates, seq: 0 };
        Self { bridge, on_delete: Box::new(|_| Answer::Done), queried: None, indexed: false }
    }
}

fn hand_out<'e>(entries: impl Iterator<Item = &'e Entry>, filter: usize, each: &mut Visit<'_>) {
    let now = BootTime::from(NOW);
    for entry in entries {
        let raw = entry.raw();
        each(&Seen { raw, filter, made: Made::by(raw.duration(), now, now) }).unwrap();
    }
}

impl FlowSource for FakeTable {
    fn everything(&mut self) -> Result<Vec<Filter>, SwitchFailed> {
        Ok(vec![Filter::default()])
    }

    fn prefers_scan(&self, _: usize) -> bool {
        self.queried.is_none()
    }

    fn scan(&mut self, filters: &[Filter], each: &mut Visit<'_>) -> Result<(), SwitchFailed> {
        self.bridge.in_time()?;
        for (n, filter) in filters.iter().enumerate() {
            hand_out(self.bridge.entries.iter().filter(|entry| filter.matches(entry)), n, each);
        }
        Ok(())
    }

    fn query(&mut self, of: &[Tokens], each: &mut Visit<'_>) -> Result<Vec<Filter>, SwitchFailed> {
        let found = self.queried.expect("it prefers scans");
        let any = of.iter().any(|tokens| !tokens.addresses.is_empty());
        hand_out(self.bridge.entries.iter().take(if any { found } else { 0 }), 0, each);
        self.everything()
    }

    fn naming(
        &mut self,
        tokens: &[Token],
        reader: &mut dyn EvidenceReader,
    ) -> Result<bool, SwitchFailed> {
        let now = BootTime::from(NOW);
        for entry in self.bridge.entries.iter().filter(|_| self.indexed) {
            let raw = entry.raw();
            let seen = Seen { raw, filter: 0, made: Made::by(raw.duration(), now, now) };
            let flow = entry.flow(seen.made.latest).unwrap();
            if tokens.iter().any(|token| token.is_in(&flow)) && reader.flow(&flow) {
                reader.entry(&seen);
            }
        }
        Ok(self.indexed)
    }

    fn buckets(&mut self) -> Result<Vec<Actions>, SwitchFailed> {
        Ok(Vec::new())
    }

    fn is_watching(&self) -> bool {
        true
    }

    fn seq(&self) -> u64 {
        self.bridge.seq
    }

    fn changes_since(&mut self, seq: u64, _: Duration) -> Result<Changes, SwitchFailed> {
        self.bridge.in_time()?;
        let mut updates = self.noted();
        updates.retain(|update| update.at >= seq);
        Ok(Changes { updates, reporting: Reporting::Complete })
    }
}

impl FlowSink for FakeTable {
    fn connection(&self) -> &Connection {
        unreachable!("a fake has none")
    }

    fn connection_mut(&mut self) -> &mut Connection {
        unreachable!("a fake has none")
    }

    fn ports(&mut self) -> Result<PortList, SwitchFailed> {
        self.bridge.in_time()?;
        Ok(self.bridge.ports.clone().into())
    }

    fn delete_strict(&mut self, entries: &[&Entry]) -> Result<Applied, SwitchFailed> {
        let answer = (self.on_delete)(&mut self.bridge);
        self.bridge.in_time()?;
        if matches!(answer, Answer::Refuse) {
            let why = SwitchError { kind: 5, code: 0, experimenter: None };
            let refused = (0..entries.len()).map(|n| (n, why)).collect();
            return Ok(Applied { sent: 0, refused });
        }
        self.bridge.remove(entries);
        if matches!(answer, Answer::Late) {
            self.bridge.deadline = Deadline::after(Duration::ZERO);
        }
        Ok(Applied { sent: entries.len(), refused: Vec::new() })
    }

    fn stage_delete(&mut self, _: &[&Entry]) -> Result<(), SwitchFailed> {
        Ok(())
    }

    fn delete_strict_and_scan(
        &mut self,
        _: &[&Entry],
        _: &[Filter],
        _: &mut dyn FnMut(&Seen<'_>),
    ) -> Result<Applied, SwitchFailed> {
        unreachable!("it reports changes")
    }

    fn open_parallel(&self, _: usize, _: Deadline) -> Parallel {
        Parallel::default()
    }

    fn delete_vlan_tci(&mut self, _: &[Entry]) -> Result<(), SwitchFailed> {
        self.bridge.in_time()
    }

    fn add(&mut self, entries: &[Entry]) -> Result<Applied, SwitchFailed> {
        self.bridge.in_time()?;
        // Our own additions are reported by a mere number.
        for entry in entries {
            self.bridge.entries.retain(|other| other.key() != entry.key());
            self.bridge.entries.push(entry.clone());
        }
        Ok(Applied { sent: entries.len(), refused: Vec::new() })
    }

    fn barrier(&mut self) -> Result<(), SwitchFailed> {
        self.bridge.in_time()
    }

    fn noted(&mut self) -> Vec<Update> {
        std::mem::take(&mut self.bridge.updates)
    }

    fn has_missed(&mut self) -> bool {
        false
    }

    fn has_abbreviated(&mut self) -> bool {
        false
    }

    fn deadline(&self) -> Deadline {
        self.bridge.deadline
    }

    fn set_deadline(&mut self, deadline: Deadline) {
        self.bridge.deadline = deadline;
    }
}

/// A fake of records and database: nothing has changed, or the node is another one by now.
pub(super) struct FakeEvidence<'n>(pub(super) Option<&'n dyn Fn() -> NodeSnapshot>);

impl Evidence for FakeEvidence<'_> {
    fn ask(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn is_current(&mut self, _: &NodeSnapshot, _: Option<Version>) -> Result<bool, Error> {
        Ok(self.0.is_none())
    }

    fn read(&mut self, _: &NodeSnapshot, _: Option<Version>) -> Result<NodeSnapshot, Error> {
        Ok(self.0.unwrap()())
    }
}
