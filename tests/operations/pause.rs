//! `pause`: nothing more is deleted, from that moment on.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ovs_flow_gc::openflow::Connection;
use ovs_flow_gc::util::clock::Deadline;
use serde_json::json;

use crate::operations::{deleted, records, sweep};
use crate::rig::{Datapath, Node, Port, Setup, eventually, layouts};

/// More than are deleted by one sweep.
const MANY: u16 = 40_000;

fn count(node: &Node) -> u32 {
    let deadline = Deadline::after(std::time::Duration::from_secs(60));
    let mut bridge = Connection::open(&node.run_dir.join("br0.mgmt"), deadline).unwrap();
    bridge.tables().unwrap().iter().map(|(_, active)| active).sum()
}

#[test]
fn a_sweep_that_is_under_way_stops() {
    let node = Setup::new()
        .datapath(Datapath::Dummy)
        .gc_conf(json!({"lingerSeconds": 0}))
        .up("a_sweep_under_way_stops");
    let (web, db) = (node.run_pod("web"), node.run_pod("db"));
    let its = node.install("br0", &layouts::classifier(&db.who(0x1002)));
    let port = web.who(0x1001).ofport;
    let flow = |n| format!("table=7,in_port={port},tcp,tp_dst={n},actions=drop\n");
    node.add_flow_text("br0", &(1..=MANY).map(flow).collect::<String>());
    let all = count(&node);
    node.vanish(&web, Port::Stays);

    let under_way = node.start_admin(&["sweep", "--json"]);
    let pid = Pid::from_raw(under_way.pid());
    eventually("the first are gone", || count(&node) < all);
    kill(pid, Signal::SIGSTOP).unwrap();
    node.admin(&["pause"]).ok();
    kill(pid, Signal::SIGCONT).unwrap();
    let stopped = under_way.wait();
    assert!(stopped.succeeded(), "{stopped}");
    let report = stopped.json();
    assert_eq!(report["paused"], true);
    let left = count(&node) - u32::try_from(its.len()).unwrap();
    assert!(left > 0, "it was over before the pause");
    assert_eq!(deleted(&report), u64::from(u32::from(MANY) - left));
    let bridge = &report["bridges"][0];
    assert_eq!((&bridge["stale"], &bridge["observed"]), (&json!(MANY), &json!(left)));
    assert!(records(&node).contains(&("web".to_owned(), "deleting".to_owned())));

    let status = node.admin(&["status", "--json"]).json();
    assert_eq!(status["waiting"][0]["why"], "entries are not deleted: paused", "{status:#}");

    // Nothing is until somebody says so.
    assert_eq!(deleted(&sweep(&node, &[])), 0);
    node.admin(&["resume"]).ok();
    assert_eq!(deleted(&sweep(&node, &[])), u64::from(left));
    assert_eq!(node.dump("br0"), its);

    // No sweep has begun with this one.
    node.admin(&["pause"]).ok();
    node.vanish(&db, Port::Stays);
    let status = node.admin(&["status", "--json"]).json();
    let waiting = status["waiting"].as_array().unwrap();
    assert_eq!((waiting.len(), &waiting[0]["why"]), (1, &json!("paused")), "{status:#}");
    assert_eq!(waiting[0]["deadSeconds"], json!(null), "{status:#}");
}
