//! How long it takes from a death to the last entry being gone, and what the daemon costs, on
//! a node with 250 attachments and 10,000 flows. Prints; `OFG_DAEMON` names another build.

use std::path::Path;
use std::time::{Duration, Instant};

use ovs_flow_gc::openflow::Connection;
use ovs_flow_gc::util::clock::Deadline;

use crate::gcd::{Daemon, settle};
use crate::pods::{Member, add_ports, all_at_once, del_ports, end_sandboxes, records};
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

/// DELs by turns: the daemon is asked; its socket is out of sight; one `ovs-ofctl del-flows`.
#[test]
#[ignore = "figures of release builds: OFG_DAEMON and OFG_PLUGIN name them"]
fn a_del_with_and_without_the_daemon() {
    let count: u32 = std::env::var("OFG_ENTRIES").map_or(10_000, |n| n.parse().unwrap());
    let node = Setup::new().datapath(Datapath::Dummy).up("daemon_del_figures");
    if let Ok(plugin) = std::env::var("OFG_PLUGIN") {
        std::fs::remove_file(node.plugin("ovs-flow-gc")).unwrap();
        std::os::unix::fs::symlink(plugin, node.plugin("ovs-flow-gc")).unwrap();
    }
    let members: Vec<Member> = (0..120u32)
        .map(|n| Member::new(&node, n, 100 + n as u16, 10 + n as u8, 0x1001 + n))
        .collect();
    add_ports(&node, &members);
    for some in members.chunks(20) {
        all_at_once(&node, "ADD", some);
    }
    let other = |n: u32| {
        let [_, a, b, c] = n.to_be_bytes();
        format!("table=50,priority=7,ip,nw_dst=172.{}.{b}.{c} actions=drop", 16 + a)
    };
    let mut flows: Vec<String> = (0..count).map(other).collect();
    flows.extend(members.iter().flat_map(Member::lines));
    node.add_flows("br0", &flows);
    let daemon = Daemon::start(&node);
    let (socket, aside) = (node.state_dir.join("_daemon.sock"), node.dir.join("aside"));
    let mut took = [const { Vec::new() }; 3];
    for (n, member) in members[..108].iter().enumerate() {
        settle();
        let took = &mut took[n % 3];
        if n % 3 == 2 {
            let address = format!("ip,nw_dst={}", member.who.ip);
            let began = Instant::now();
            node.ofctl(&["del-flows", "br0", &address]);
            took.push(began.elapsed());
            crate::pods::call(&node, "DEL", member).run().ok();
            continue;
        }
        if n % 3 == 1 {
            std::fs::rename(&socket, &aside).unwrap();
        }
        took.push({
            let outcome = crate::pods::call(&node, "DEL", member).run();
            assert!(outcome.succeeded(), "{outcome}");
            outcome.took
        });
        if n % 3 == 1 {
            std::fs::rename(&aside, &socket).unwrap();
        }
    }
    for (what, took) in ["asks the daemon", "does it alone", "ovs-ofctl del-flows"].iter().zip(took)
    {
        let mut took = took;
        took.sort();
        let (median, p90) = (took[took.len() / 2], took[took.len() * 9 / 10]);
        eprintln!("{count} entries: DEL {what}: median {median:?}, p90 {p90:?}");
    }
    let metrics = daemon.metrics();
    metrics.iter().filter(|(name, _)| name.starts_with("requests")).for_each(|(name, n)| {
        eprintln!("  {name} {n}");
    });
    daemon.no_harm();
}
