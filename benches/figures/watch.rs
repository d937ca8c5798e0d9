//! A client of the bench's own on the bridge: when are so many entries gone?

use std::thread;
use std::time::{Duration, Instant};

use ovs_flow_gc::openflow::{Connection, Filter, What};
use ovs_flow_gc::util::clock::Deadline;

use super::rig::Node;

/// Between two dumps: each takes the switch a quarter of a millisecond.
const PAUSE: Duration = Duration::from_millis(2);
/// Nothing that is measured takes longer.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long nothing may be told before that is looked at: what a death that takes longer is rounded to.
const TOLD: Duration = Duration::from_millis(10);

/// It counts by OFPMP_TABLE: that costs the switch the same whatever is on the bridge, where a
/// dump with a filter goes through every entry of the layout that the filter fits. While one pod
/// dies it does not even count: a flow monitor tells of every entry that goes, as it goes.
pub(crate) struct Watch {
    switch: Connection,
}

impl Watch {
    pub(crate) fn on(node: &Node) -> Self {
        let deadline = Deadline::after(Duration::from_secs(3600));
        let mut switch = Connection::open(&node.run_dir.join("br0.mgmt"), deadline).unwrap();
        switch.watch().unwrap();
        switch.barrier().unwrap();
        assert!(switch.is_watching(), "the switch has no flow monitor");
        Self { switch }
    }

    /// Entries on the bridge.
    pub(crate) fn count(&mut self) -> usize {
        let tables = self.switch.tables().unwrap();
        // What was told before is counted.
        self.switch.noted();
        tables.iter().map(|(_, active)| usize::try_from(*active).unwrap()).sum()
    }

    /// Waits until no more than so many of these are left; how long after `since` the switch told of the
    /// last one that went. Nothing is asked before that.
    pub(crate) fn until(&mut self, mut there: usize, left: usize, since: Instant) -> Duration {
        loop {
            let took = since.elapsed();
            if there <= left {
                there = self.count();
                if there <= left {
                    return took;
                }
            }
            assert!(took < PATIENCE, "{there} entries after {took:?}, not {left}");
            self.switch.wait_for_updates(TOLD);
            for update in self.switch.updates().unwrap() {
                match update.what {
                    What::Put => there += 1,
                    What::Removed => there -= 1,
                }
            }
        }
    }

    /// The same by looks, for more than a switch tells without a pause.
    pub(crate) fn until_by_looks(&mut self, left: usize, since: Instant) -> Duration {
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
