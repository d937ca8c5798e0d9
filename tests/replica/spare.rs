//! What a clean-up begins before it needs it: a connection, and the replica's barrier.

use std::sync::Arc;
use std::time::Duration;

use ovs_flow_gc::flowtable::{DumpSource, FlowSink, FlowSource, Groups, ReplicaSource, Tokens};
use ovs_flow_gc::openflow::{Connection, Filter};

use crate::rig::{Datapath, Flows, Node, Setup, eventually, sleep_ms};
use crate::watched::{Watched, soon};

const ENTRY: &str = "table=0,priority=7,in_port=5,actions=drop";

fn watched(test: &str) -> (Node, Watched) {
    let node = Setup::new().datapath(Datapath::Dummy).without_gc().up(test);
    node.add_flow_text("br0", ENTRY);
    let mut watched = Watched::of(&node, "br0");
    watched.sync();
    (node, watched)
}

fn take(watched: &Watched) -> Option<DumpSource> {
    let prefetch = watched.watcher.take_spare(soon(), false, Groups::Only)?;
    prefetch.finish().ok().map(|(source, _)| source)
}

fn taken(watched: &Watched) -> DumpSource {
    let mut taken = None;
    eventually("a connection is there", || {
        taken = take(watched);
        taken.is_some()
    });
    taken.unwrap()
}

#[test]
fn a_connection_waits_for_the_next_clean_up() {
    let (node, watched) = watched("spare");
    let mut first = taken(&watched);
    assert!(first.ports().unwrap().iter().any(|(_, name)| name == "br0"));
    assert!(!first.is_watching(), "nothing was asked on it");
    drop(first);
    assert!(take(&watched).is_none(), "it is used once");
    watched.watcher.want_spare();
    taken(&watched).barrier().unwrap();
    // What a switch has closed is not handed out.
    watched.watcher.want_spare();
    drop(taken(&watched));
    watched.watcher.want_spare();
    sleep_ms(100);
    node.restart_vswitchd(Flows::Lost);
    if let Some(mut source) = take(&watched) {
        source.barrier().unwrap();
    }
}

/// What was asked ahead is used at once, and asked again a while later: nobody tells when groups change.
#[test]
fn what_was_asked_ahead_is_used_while_it_is_fresh() {
    let (node, watched) = watched("ask_ahead");
    for (group, wait) in [(1, 0), (2, 50)] {
        eventually("what is asked first was asked", || {
            watched.watcher.want_spare();
            watched.watcher.ask_ahead();
            let source = take(&watched).filter(|source| source.is_watching());
            source.is_some()
        });
        watched.watcher.want_spare();
        sleep_ms(100);
        watched.watcher.ask_ahead();
        node.ofctl(&["add-group", "br0", &format!("group_id={group},type=all,bucket=output:7")]);
        sleep_ms(wait);
        let mut source = taken(&watched);
        assert!(source.is_watching());
        let known = source.buckets().unwrap().len();
        let there = usize::try_from(group).unwrap();
        assert!(known == there || wait == 0 && known == there - 1, "{known} of {there}");
    }
}

/// The copy is read before the switch has answered: what it did before its answer is not missed.
#[test]
fn a_scan_that_was_too_early_is_made_again() {
    let node = Setup::new().datapath(Datapath::Dummy).without_gc().up("too_early");
    node.add_flow_text("br0", ENTRY);
    let mut other = Connection::open(&node.run_dir.join("br0.mgmt"), soon()).unwrap();
    let mut entries = Vec::new();
    other.dump_raw(&[Filter::in_port(5)], &mut |raw| entries.push(raw.to_entry())).unwrap();
    let mut watched = Watched::of(&node, "br0");
    watched.sync();
    let switch = DumpSource::over(Connection::open(&watched.path, soon()).unwrap()).unwrap().0;
    let mut source = ReplicaSource::new(Arc::clone(&watched.watcher), switch);
    let found = |source: &mut ReplicaSource| {
        let mut found = 0;
        let tokens = [Tokens { ports: vec![5], ..Tokens::default() }];
        let query = source.query(&tokens, &mut |_| {
            found += 1;
            Ok(())
        });
        query.unwrap();
        found
    };
    // The switch hears its clients in the order in which they came, if it waits for them.
    eventually("the entry comes before the answer", || {
        node.ofctl(&["del-flows", "br0", "in_port=5"]);
        assert_eq!(found(&mut source), 0);
        source.prepare();
        assert_eq!(found(&mut source), 0);
        assert!(source.is_confirmed(), "nothing has changed");
        sleep_ms(50);
        node.vswitchd.pause();
        let is_missed = std::thread::scope(|scope| {
            scope.spawn(|| other.add(&entries).unwrap());
            sleep_ms(100);
            source.prepare();
            assert_eq!(found(&mut source), 0);
            node.vswitchd.resume();
            !source.is_confirmed()
        });
        assert_eq!(found(&mut source), 1);
        assert!(source.is_confirmed());
        is_missed
    });
}

/// A controller puts an entry anew between the barrier that was asked for early and the scan: if the
/// scan does not show it, the change is news for whoever deletes.
#[test]
fn what_comes_after_a_prepared_barrier_is_news() {
    let (node, watched) = watched("prepared");
    let mut connection = Connection::open(&watched.path, soon()).unwrap();
    connection.watch().unwrap();
    let (switch, _) = DumpSource::over(connection).unwrap();
    let mut source = ReplicaSource::new(Arc::clone(&watched.watcher), switch);
    assert!(source.is_watching());
    source.prepare();
    node.add_flow_text("br0", ENTRY);
    // The report of it is read, but by nobody who would delete.
    source.ports().unwrap();
    let seq = source.seq();
    let news = source.changes_since(seq, Duration::ZERO).unwrap().updates;
    assert_eq!(news.len(), 1, "{news:?}");
    let mut found = 0;
    let tokens = [Tokens { ports: vec![5], ..Tokens::default() }];
    let query = source.query(&tokens, &mut |_| {
        found += 1;
        Ok(())
    });
    query.unwrap();
    assert_eq!(found, 1);
    // The next scan has a barrier of its own.
    assert!(source.seq() > seq);
}

/// A number that is given to another port is told before the barrier that a delete waits for.
#[test]
fn ports_that_come_and_go_are_known() {
    let (node, watched) = watched("followed_ports");
    for n in 0..6 {
        let name = format!("x{}", n % 2);
        if n > 0 {
            node.ovs_vsctl(&["del-port", "br0", &format!("x{}", (n + 1) % 2)]);
        }
        let asks = "ofport_request=7";
        node.ovs_vsctl(&["add-port", "br0", &name, "--", "set", "Interface", &name, asks]);
        watched.watcher.barrier(soon()).unwrap();
        let followed = watched.watcher.ports().unwrap();
        let mut said = Connection::open(&watched.path, soon()).unwrap().ports().unwrap();
        said.sort();
        assert_eq!(*followed, said);
        assert!(followed.contains(&(7, name)));
    }
}
