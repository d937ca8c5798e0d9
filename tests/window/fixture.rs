//! A bridge with the entries of pods that are dead, their next owners' entries, and a DEL.

use std::path::PathBuf;
use std::time::Duration;

use ovs_flow_gc::config::NetworkState;
use ovs_flow_gc::model::attachment::{Attachment, Key};
use ovs_flow_gc::openflow::{Connection, Entry, Filter};
use ovs_flow_gc::reconcile::{Cause, CleanRequest, CleanTarget, Outcome};
use ovs_flow_gc::store::Registry;
use ovs_flow_gc::util::clock::{Deadline, Stamp, boot_id};

use crate::rig::node::NETWORK;
use crate::rig::{Datapath, Node, Setup, sleep_ms};
use crate::window::proxy::Proxy;

/// Ages are told apart from 10 ms on, and the switch's clock ticks when it has time for it.
const AGEING_MS: u64 = 50;
/// Entries that are nobody's, so that dead tokens are looked for one by one.
const FILLER: usize = 3_000;
/// Of the port that every next owner has.
const LIVE: u16 = 1;

/// A dead pod: its record, and its entries as they were and as its address's next owner has them.
pub(crate) struct Dead {
    pub(crate) record: Attachment,
    pub(crate) old: Vec<Entry>,
    pub(crate) new: Vec<Entry>,
    /// What the controller makes of them when it changes its mind.
    pub(crate) newer: Vec<Entry>,
}

pub(crate) struct Fixture {
    pub(crate) node: Node,
    pub(crate) registry: Registry,
    pub(crate) proxy: Proxy,
    pub(crate) dead: Vec<Dead>,
}

pub(crate) fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

impl Fixture {
    /// So many dead pods with so many entries each.
    pub(crate) fn new(test: &str, protocols: &str, pods: u16, entries: usize) -> Self {
        Self::beside(test, protocols, pods, entries, FILLER)
    }

    /// The same beside so many that are nobody's.
    pub(crate) fn beside(
        test: &str,
        protocols: &str,
        pods: u16,
        entries: usize,
        filler: usize,
    ) -> Self {
        let node = Setup::new().datapath(Datapath::Dummy).protocols(protocols).up(test);
        let request = format!("ofport_request={LIVE}");
        node.ovs_vsctl(&["add-port", "br0", "live0", "--", "set", "Interface", "live0", &request]);
        assert_eq!(node.ofport("live0"), LIVE);
        let line = |n| format!("table=50,priority=10,tcp,tp_dst={} actions=drop", 10_000 + n);
        node.add_flows("br0", &(0..filler).map(line).collect::<Vec<_>>());
        let registry = Registry::open(&node.state_dir).unwrap();
        let state = NetworkState::default();
        registry
            .lock(soon())
            .unwrap()
            .set_network_state(&NETWORK.parse().unwrap(), &state)
            .unwrap();
        let proxy = Proxy::new(&node.run_dir, &node.dir.join("via"));
        let mut fixture = Self { node, registry, proxy, dead: Vec::new() };
        let mut connection = fixture.connect();
        for pod in 0..pods {
            fixture.dead.push(dead(&fixture.node, &mut connection, pod, entries));
        }
        fixture
    }

    /// A connection past the proxy.
    pub(crate) fn connect(&self) -> Connection {
        Connection::open(&self.node.run_dir.join("br0.mgmt"), soon()).unwrap()
    }

    /// The dead pods' entries, old enough to be theirs; nobody remembers the last round.
    pub(crate) fn restore(&self, connection: &mut Connection) {
        connection.set_deadline(soon());
        for dead in &self.dead {
            assert_eq!(connection.add(&dead.old).unwrap().refused, []);
        }
        for part in [format!("{NETWORK}/dead"), "journal".to_owned()] {
            let _ = std::fs::remove_dir_all(self.node.state_dir.join(part));
        }
        sleep_ms(AGEING_MS);
    }

    /// Entries of nobody's in a table of their own. Put once more at once they are more than the switch
    /// tells of without a pause.
    pub(crate) fn flood(&self, connection: &mut Connection) -> Vec<Entry> {
        let line = |n| format!("table=41,priority=5,tcp,tp_dst={n},actions=output:1");
        self.node.add_flows("br0", &(1..=8_000).map(line).collect::<Vec<_>>());
        let mut flood = Vec::new();
        connection.dump(&Filter::table(41), &mut |raw, _| flood.push(raw.to_entry())).unwrap();
        flood
    }

    /// DEL of some of them at once. `via` the proxy, or directly.
    pub(crate) fn del(&self, dead: &[Dead], via: bool) -> Outcome {
        let now = Stamp::now();
        let target = |dead: &Dead| {
            let mut attachment = dead.record.clone();
            attachment.died = Some(now);
            CleanTarget { attachment, cause: Cause::Del }
        };
        let run_dir = if via { self.proxy.run_dir.clone() } else { self.run_dir() };
        let request = CleanRequest::of_call(Some(&self.registry), run_dir, soon(), "DEL");
        let outcome = request.clean(dead.iter().map(target).collect());
        // Who is not told takes what was put anew behind the deletes for what they left.
        let left = |error: &str| error.contains("still there after their deletion");
        let fine = outcome.error().is_none_or(|error| self.proxy.is_mute() && left(error));
        assert!(fine, "{outcome:?}");
        assert_eq!(outcome.bridges.len(), 1, "{outcome:?}");
        outcome
    }

    fn run_dir(&self) -> PathBuf {
        self.node.run_dir.clone()
    }
}

/// The entries that such text makes, as a dump shows them; they are not on the bridge after.
fn entries(node: &Node, connection: &mut Connection, lines: &[String]) -> Vec<Entry> {
    node.add_flows("br0", lines);
    let mut all = Vec::new();
    let table = Filter::table(40);
    connection.set_deadline(soon());
    connection.dump(&table, &mut |raw, _| all.push(raw.to_entry())).unwrap();
    assert_eq!(all.len(), lines.len());
    node.ofctl(&["del-flows", "br0", "table=40"]);
    all.sort_by(|a, b| a.key().cmp(&b.key()));
    all
}

fn dead(node: &Node, connection: &mut Connection, pod: u16, count: usize) -> Dead {
    let [high, low] = pod.to_be_bytes();
    let (ip, gone) = (format!("10.7.{high}.{low}"), 1000 + pod);
    let line = |n: usize, actions: String| {
        let side = if n.is_multiple_of(4) { "src" } else { "dst" };
        // Of what the switch tells nothing: flags. Of what it tells: timeouts.
        let more = ["", "send_flow_rem,", "idle_timeout=600,", "hard_timeout=900,"][n % 4];
        format!(
            "table=40,cookie=0x7{pod:03x},{more}priority=100,tcp,nw_{side}={ip},tp_dst={} \
             actions={actions}",
            1 + n
        )
    };
    let mut lines = |actions: &dyn Fn(usize) -> String| -> Vec<Entry> {
        let lines: Vec<String> = (0..count).map(|n| line(n, actions(n))).collect();
        entries(node, connection, &lines)
    };
    let old = lines(&|_| format!("output:{gone}"));
    let new = lines(&|n| format!("set_field:{}->tcp_dst,output:{LIVE}", 20_000 + n % 20_000));
    let newer = lines(&|n| format!("set_field:{}->tcp_dst,output:{LIVE}", 40_000 + n % 20_000));
    let key = Key {
        network: NETWORK.parse().unwrap(),
        container: format!("c{pod}").parse().unwrap(),
        ifname: "eth0".parse().unwrap(),
    };
    let mut record = Attachment::new(key, u64::from(pod) + 1, boot_id().unwrap(), Stamp::now());
    record.bridge = Some("br0".to_owned());
    record.port = Some(format!("gone{pod}"));
    record.ofport = Some(gone);
    record.ips = vec![ip.parse().unwrap()];
    Dead { record, old, new, newer }
}
