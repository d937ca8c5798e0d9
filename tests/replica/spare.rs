//! What a clean-up begins before it needs it: a connection, and the replica's barrier.

use std::sync::Arc;
use std::time::Duration;

use ovs_flow_gc::flowtable::{DumpSource, FlowSink, FlowSource, ReplicaSource, Tokens};
use ovs_flow_gc::openflow::Connection;

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

fn taken(watched: &Watched) -> Connection {
    let mut taken = None;
    eventually("a connection is there", || {
        taken = watched.watcher.take_spare(soon());
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
    assert!(watched.watcher.take_spare(soon()).is_none(), "it is used once");
    watched.watcher.want_spare();
    taken(&watched).barrier().unwrap();
    // What a switch has closed is not handed out.
    watched.watcher.want_spare();
    drop(taken(&watched));
    watched.watcher.want_spare();
    sleep_ms(100);
    node.restart_vswitchd(Flows::Lost);
    if let Some(mut connection) = watched.watcher.take_spare(soon()) {
        connection.barrier().unwrap();
    }
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
