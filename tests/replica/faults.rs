//! A switch that is cut off at any byte, says nothing more, refuses, or is another one.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use ovs_flow_gc::flowtable::replica::{Doubt, State};
use ovs_flow_gc::util::clock::Deadline;

use crate::rig::{Datapath, Node, Setup, eventually, sleep_ms};
use crate::watched::Watched;

/// What becomes of the bytes of one connection.
#[derive(Clone, Debug, Default)]
struct Plan {
    /// The connection ends after so many bytes of the switch's.
    cut_after: Option<usize>,
    /// After so many the switch says nothing more.
    silent_after: Option<usize>,
    /// A flow monitor is refused, as by a switch that has none.
    refuses: bool,
    /// Another socket that answers.
    other: Option<PathBuf>,
}

type Plans = Arc<Mutex<Box<dyn FnMut(usize) -> Plan + Send>>>;

/// A socket in front of a bridge's.
struct Middle {
    path: PathBuf,
    plans: Plans,
    /// Bytes of the switch's, of all connections.
    answered: Arc<Mutex<usize>>,
}

impl Middle {
    fn new(node: &Node) -> Self {
        let path = node.dir.join("middle.mgmt");
        let listener = UnixListener::bind(&path).unwrap();
        let plans: Plans = Arc::new(Mutex::new(Box::new(|_| Plan::default())));
        let answered = Arc::default();
        let (behind, of_thread, bytes) =
            (node.run_dir.join("br0.mgmt"), Arc::clone(&plans), Arc::clone(&answered));
        // Lives until the test process ends.
        thread::spawn(move || {
            for (number, client) in listener.incoming().enumerate() {
                let plan = of_thread.lock().unwrap()(number);
                let behind = plan.other.as_deref().unwrap_or(&behind);
                let Ok(server) = UnixStream::connect(behind) else { continue };
                both_ways(&client.unwrap(), &server, &plan, &bytes);
            }
        });
        Self { path, plans, answered }
    }

    /// Each connection from now on has a plan of its own, by its number.
    fn expect(&self, mut plan: impl FnMut(usize) -> Plan + Send + 'static) {
        let mut first = None;
        *self.answered.lock().unwrap() = 0;
        *self.plans.lock().unwrap() =
            Box::new(move |number| plan(number - *first.get_or_insert(number)));
    }

    fn watched(&self, node: &Node) -> Watched {
        Watched::behind(&self.path, node.run_dir.join("br0.mgmt"))
    }
}

fn both_ways(client: &UnixStream, server: &UnixStream, plan: &Plan, bytes: &Arc<Mutex<usize>>) {
    let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let (refuses, back) = (plan.refuses, client.try_clone().unwrap());
    thread::spawn(move || {
        let mut chunk = vec![0; 64 << 10];
        while let Ok(n @ 1..) = from.read(&mut chunk) {
            let sent = if refuses {
                refusing(&chunk[..n], &back, &mut to)
            } else {
                to.write_all(&chunk[..n])
            };
            if sent.is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
    let (mut from, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    let (plan, bytes) = (plan.clone(), Arc::clone(bytes));
    thread::spawn(move || {
        let (mut sent, mut chunk) = (0, vec![0; 64 << 10]);
        while let Ok(n @ 1..) = from.read(&mut chunk) {
            let end = plan.cut_after.map_or(n, |cut| n.min(cut - sent));
            let spoken =
                plan.silent_after.map_or(end, |silent| end.min(silent.saturating_sub(sent)));
            *bytes.lock().unwrap() += spoken;
            if to.write_all(&chunk[..spoken]).is_err() {
                break;
            }
            sent += end;
            if plan.cut_after == Some(sent) {
                let _ = from.shutdown(Shutdown::Both);
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}

/// Whether a request is that for a flow monitor: OFPT_MULTIPART_REQUEST with OFPMP_FLOW_MONITOR, or
/// with the experimenter's of OpenFlow 1.3.
fn is_monitor(message: &[u8]) -> bool {
    message.len() > 10 && message[1] == 18 && matches!(message[8..10], [0, 16] | [0xff, 0xff])
}

/// OFPBRC_BAD_MULTIPART, as Open vSwitch 2.17 says to a request for a flow monitor; other requests
/// go on. They are small and come whole.
fn refusing(mut asked: &[u8], mut back: &UnixStream, to: &mut UnixStream) -> std::io::Result<()> {
    while let [version, _, high, low, ..] = *asked {
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (message, rest) = asked.split_at(length);
        if is_monitor(message) {
            let mut error = vec![version, 1, 0, 12, 0, 0, 0, 0, 0, 1, 0, 2];
            error[4..8].copy_from_slice(&message[4..8]);
            back.write_all(&error)?;
        } else {
            to.write_all(message)?;
        }
        asked = rest;
    }
    Ok(())
}

fn node(test: &str) -> Node {
    let node = Setup::new().datapath(Datapath::Dummy).without_gc().up(test);
    let flows: Vec<String> = (0..40)
        .map(|n| format!("table={},ip,nw_src=10.244.1.{n},actions=output:{n}", n % 4))
        .collect();
    node.add_flows("br0", &flows);
    node
}

/// Others change the bridge meanwhile.
fn change(node: &Node, round: usize) {
    let n = round % 40;
    node.ofctl(&["del-flows", "br0", &format!("ip,nw_src=10.244.1.{n}")]);
    let flow = format!("table={},ip,nw_src=10.244.1.{n},actions=output:{}", n % 4, round % 60 + 1);
    node.ofctl(&["add-flow", "br0", &flow]);
}

/// Whatever it says it has is what a dump shows, and it gets over each cut.
#[test]
fn a_connection_that_is_cut_at_any_byte() {
    let node = node("replica_cut");
    let middle = Middle::new(&node);
    middle.expect(|_| Plan::default());
    let mut watched = middle.watched(&node);
    watched.sync();
    assert!(watched.compare());
    drop(watched);
    let all = *middle.answered.lock().unwrap();
    // Of each of the three connections, the whole of what it said, and more.
    let rounds = std::env::var("OFG_ROUNDS").map_or(90, |rounds| rounds.parse().unwrap());
    let (mut in_sync, mut doubts) = (0, 0);
    for round in 0..rounds {
        let cut = (round / 3 * 7919) % (all + 600);
        middle.expect(move |number| {
            let cut_after = (number == round % 3).then_some(cut);
            Plan { cut_after, ..Plan::default() }
        });
        let mut watched = middle.watched(&node);
        let since = Instant::now();
        while since.elapsed() < Duration::from_millis(60) {
            if watched.compare() {
                in_sync += 1;
            } else {
                doubts += 1;
                sleep_ms(3);
            }
            change(&node, round);
        }
        watched.sync();
        while !watched.compare() {
            watched.sync();
        }
        in_sync += 1;
    }
    eprintln!("cut at {rounds} bytes of {all}: {in_sync} times in sync, {doubts} times in doubt");
    assert!(in_sync >= rounds && doubts > 0);
}

/// Nobody is told anything by a switch that does not say what it promised, and a watcher that
/// waits for it holds nobody up.
#[test]
fn a_switch_that_says_nothing_more() {
    let node = node("replica_silent");
    let middle = Middle::new(&node);
    for (connection, silent) in [(0, 0), (1, 0), (1, 40), (2, 0), (2, 200), (2, 1000)] {
        middle.expect(move |number| {
            let silent_after = (number == connection).then_some(silent);
            Plan { silent_after, ..Plan::default() }
        });
        let watched = middle.watched(&node);
        sleep_ms(100);
        let state = watched.watcher.replica().state();
        assert!(!matches!(state, State::InSync { .. }), "{connection} {silent}: {state:?}");
        let within = Deadline::after(Duration::from_millis(200));
        assert_eq!(watched.watcher.barrier(within), None);
        let since = Instant::now();
        drop(watched);
        let took = since.elapsed();
        assert!(took < Duration::from_secs(1), "{connection} {silent}: {took:?}");
    }
}

/// Open vSwitch before 3.0 has no flow monitors in the versions of OpenFlow that are spoken.
#[test]
fn a_switch_without_flow_monitors_is_left_to_dumps() {
    let node = node("replica_refused");
    let middle = Middle::new(&node);
    middle.expect(|_| Plan { refuses: true, ..Plan::default() });
    let watched = middle.watched(&node);
    eventually("it is refused", || {
        watched.watcher.replica().state() == State::Doubt(Doubt::Refused)
    });
    assert_eq!(watched.watcher.barrier(crate::watched::soon()), None);
    assert_eq!(watched.watcher.replica().counters().fallbacks, 1);
    assert_eq!(watched.watcher.replica().len(), 0);
}

/// The name means another bridge between the two connections.
#[test]
fn a_dump_of_another_datapath_is_not_taken() {
    let node = node("replica_other");
    node.add_bridge("br1", None);
    node.ofctl(&["add-flow", "br1", "table=9,actions=drop"]);
    let middle = Middle::new(&node);
    let path = node.run_dir.join("br1.mgmt");
    // The first one is only a question whether the switch is there.
    middle.expect(move |number| {
        let other = (number == 2).then(|| path.clone());
        Plan { other, ..Plan::default() }
    });
    let mut watched = middle.watched(&node);
    let mut seen = Vec::new();
    eventually("it is in sync", || {
        let state = watched.watcher.replica().state();
        seen.push(state);
        matches!(state, State::InSync { .. })
    });
    assert!(seen.contains(&State::Doubt(Doubt::OtherDatapath)), "{seen:?}");
    assert!(watched.compare());
}
