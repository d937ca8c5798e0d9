//! How long it takes from a death to the last entry being gone, and what the daemon costs, on
//! a node with 250 attachments and 10,000 flows. Prints; `OFG_DAEMON` names another build.

use std::path::Path;
use std::time::{Duration, Instant};

use ovs_flow_gc::openflow::Connection;
use ovs_flow_gc::util::clock::Deadline;

use crate::crowd::{Member, add_ports, all_at_once, del_ports, end_sandboxes, records};
use crate::gcd::{Daemon, settle};
use crate::rig::{Datapath, Setup, layouts, sleep_ms};

const PODS: u32 = 250;
const FLOWS: usize = 10_000;
const DEATHS: usize = 60;

/// Entries on the bridge.
fn count(connection: &mut Connection) -> usize {
    let tables = connection.tables().unwrap();
    tables.iter().map(|(_, active)| usize::try_from(*active).unwrap()).sum()
}

#[test]
fn from_a_death_to_the_last_entry() {
    let node = Setup::new().datapath(Datapath::Dummy).up("daemon_figures");
    node.install("br0", &layouts::classifier_base());
    let members: Vec<Member> =
        (0..PODS).map(|n| Member::new(&node, n, 100 + n as u16, 2 + n as u8, 0x1001 + n)).collect();
    add_ports(&node, &members);
    for some in members.chunks(50) {
        all_at_once(&node, "ADD", some);
    }
    let mut flows: Vec<String> = members.iter().flat_map(Member::lines).collect();
    let others = FLOWS - flows.len();
    flows.extend((0..others).map(|n| {
        format!("table=30,priority=100,ip,nw_dst=172.16.{}.{} actions=drop", n / 250, n % 250)
    }));
    node.add_flows("br0", &flows);
    let daemon = Daemon::start(&node);
    settle();
    let (rss, before) = (daemon.rss(), daemon.cpu());
    sleep_ms(2000);
    eprintln!("idle: {:?} of 2 s, {rss} kB resident", daemon.cpu() - before);

    let socket = node.run_dir.join("br0.mgmt");
    let mut switch = Connection::open(&socket, Deadline::after(Duration::from_secs(600))).unwrap();
    let each = members[0].lines().len();
    let mut all = count(&mut switch);
    let (mut took, mut removed) = (Vec::new(), Vec::new());
    for (n, member) in members[..DEATHS].iter().enumerate() {
        let path = member.pod.netns_path();
        let gone = std::thread::scope(|scope| {
            let watch = scope.spawn(|| {
                while Path::new(&path).exists() {
                    std::thread::sleep(Duration::from_micros(50));
                }
                Instant::now()
            });
            end_sandboxes(&node, [member]);
            watch.join().unwrap()
        });
        if n % 2 == 1 {
            del_ports(&node, [member.port.as_str()]);
        }
        all -= each;
        while count(&mut switch) > all {
            assert!(gone.elapsed() < Duration::from_secs(40), "{} of {}", count(&mut switch), all);
            // Each look costs the switch as much as a small dump: not too many of them.
            std::thread::sleep(Duration::from_millis(4));
        }
        let of = if n % 2 == 1 { &mut removed } else { &mut took };
        of.push(gone.elapsed());
        sleep_ms(200);
    }
    for (row, mut took) in [("stays", took), ("is removed, too", removed)] {
        took.sort();
        let at = |percent: usize| took[(took.len() * percent / 100).min(took.len() - 1)];
        eprintln!(
            "death to last entry gone, {} deaths one by one, the port's row {row}: median {:?}, \
             p90 {:?}, worst {:?}",
            took.len(),
            at(50),
            at(90),
            at(100)
        );
    }
    eprintln!("after it: {} kB resident", daemon.rss());
    for (name, value) in daemon.metrics() {
        if name.starts_with("cleanup_latency") || name.starts_with("sweeps_total") {
            eprintln!("  {name} {value}");
        }
    }
    // On a slow machine the first tombstones have ended by now: the living are counted.
    assert_eq!(records(&node).attachments.len(), PODS as usize - DEATHS);
    let orphans =
        daemon.metrics().into_iter().filter(|(name, _)| name.starts_with("orphans_total"));
    assert_eq!(orphans.map(|(_, count)| count).sum::<f64>(), DEATHS as f64);
    daemon.no_harm();
}
