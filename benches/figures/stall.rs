//! What others on the bridge notice of a large sweep: the echoes of another OpenFlow client
//! while 48,500 of 100,000 entries are deleted.

use std::time::Duration;

use super::echo::{Echoes, percentile};
use super::rig::{Datapath, Setup};
use super::sweep::on_a_large_node;
use super::table::Table;

const ROUNDS: usize = 5;

pub(crate) fn figures(table: &mut Table) {
    let node = Setup::new().datapath(Datapath::Dummy).up("bench-stall");
    let socket = node.run_dir.join("br0.mgmt");
    on_a_large_node(&node, |mut large| {
        for tables in [10, 1] {
            large.spread(tables);
            let sweep = large.sweep();
            let mut times = Vec::new();
            for round in 0..ROUNDS {
                if round > 0 {
                    large.restore();
                }
                let echoes = Echoes::start(&socket);
                sweep.time();
                times.extend(echoes.stop());
                large.must_be_swept();
            }
            times.sort_unstable();
            let (p99, worst) = (percentile(&times, 99), percentile(&times, 100));
            let n = times.len();
            if tables == 1 {
                let what = format!("Another client's echo during that sweep, in 1 table, of {n}");
                table.told(&format!("{what}: p99"), p99);
                table.told(&format!("{what}: worst"), worst);
            } else {
                let what = format!("Another client's echo during that sweep, in 10 tables, of {n}");
                table.within(&format!("{what}: p99"), p99, Duration::from_millis(50));
                table.within(&format!("{what}: worst"), worst, Duration::from_millis(150));
            }
        }
    });
}
