//! A client of the bench's own on the bridge: when are so many entries gone?

use std::thread;
use std::time::{Duration, Instant};

use ovs_flow_gc::clock::Deadline;
use ovs_flow_gc::openflow::{Connection, Filter};

use super::rig::Node;

/// Between two looks: each takes the switch a quarter of a millisecond.
const PAUSE: Duration = Duration::from_millis(2);
/// Nothing that is measured takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// It counts by OFPMP_TABLE: that costs the switch the same whatever is on the bridge, where a
/// dump with a filter goes through every entry of the layout that the filter fits.
pub(crate) struct Watch {
    switch: Connection,
    /// What the looks took.
    pub(crate) looks: Vec<Duration>,
}

impl Watch {
    pub(crate) fn on(node: &Node) -> Self {
        let deadline = Deadline::after(Duration::from_secs(3600));
        let switch = Connection::open(&node.run_dir.join("br0.mgmt"), deadline).unwrap();
        Self { switch, looks: Vec::new() }
    }

    /// Entries on the bridge.
    pub(crate) fn count(&mut self) -> usize {
        let since = Instant::now();
        let tables = self.switch.tables().unwrap();
        self.looks.push(since.elapsed());
        tables.iter().map(|(_, active)| usize::try_from(*active).unwrap()).sum()
    }

    /// Waits until no more than so many are left; how long after `since` that was seen.
    pub(crate) fn until(&mut self, left: usize, since: Instant) -> Duration {
        loop {
            let count = self.count();
            let took = since.elapsed();
            if count <= left {
                return took;
            }
            assert!(took < PATIENCE, "{count} entries after {took:?}, not {left}");
            thread::sleep(PAUSE);
        }
    }

    /// Entries that match a register's value, by a dump.
    pub(crate) fn with_value(&mut self, reg: u32) -> usize {
        let mut found = 0;
        let filter = Filter::register(0, reg, u32::MAX);
        self.switch.dump_raw(&[filter], &mut |_| found += 1).unwrap();
        found
    }
}
