//! What a real switch tells, in each version: the bytes of a dump, in the order of the changes.

use std::time::{Duration, Instant};

use ovs_flow_gc::openflow::{Connection, Entry, Error, Filter, Update, Version, What};
use ovs_flow_gc::util::clock::Deadline;

use crate::rig::{Datapath, Node, Setup, sleep_ms};
use crate::window::fixture::soon;

const VERSIONS: [Version; 3] = [Version::V13, Version::V14, Version::V15];

/// Matches and actions of many kinds.
const FLOWS: [&str; 16] = [
    "cookie=0x2a,table=10,priority=100,idle_timeout=60,ip,reg0=0x1005,nw_src=10.244.1.5,actions=output:5,resubmit(,20)",
    "cookie=0x8000000000000001,priority=1,in_port=7,vlan_tci=0x1064/0x1fff,actions=strip_vlan,output:2",
    "priority=2,arp,arp_spa=10.0.0.1,arp_tha=02:00:00:00:00:01,actions=drop",
    "priority=3,icmp6,icmp_type=135,icmp_code=0,nd_target=fd00::5,nd_sll=02:00:00:00:00:02,actions=NORMAL",
    "priority=4,ct_state=+est+trk,ct_zone=5,ct_mark=0x1/0xf,ip,ct_nw_dst=10.0.0.2,actions=ct(commit,zone=5,table=10)",
    "priority=5,tcp,tcp_flags=+syn-ack,tp_dst=80,actions=conjunction(5,1/2)",
    "priority=6,conj_id=5,ip,actions=load:0x1005->NXM_NX_REG0[],goto_table:10",
    "priority=7,tun_id=0x77,tun_src=192.0.2.1,actions=LOCAL",
    "priority=8,metadata=0x55/0xff,dl_dst=01:00:00:00:00:00/01:00:00:00:00:00,actions=group:7",
    "priority=9,reg0=0x5/0xffff,reg1=0x6,reg15=1,actions=set_field:0x11223344->reg3,output:NXM_NX_REG1[0..15]",
    "priority=10,ipv6,ipv6_src=fd00::/64,ipv6_label=0x12345,actions=clone(output:3),output:4",
    "priority=11,mpls,mpls_label=99,actions=learn(table=10,NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],output:NXM_OF_IN_PORT[])",
    "priority=12,hard_timeout=900,send_flow_rem,ip,nw_tos=8,nw_ttl=3,actions=dec_ttl,CONTROLLER",
    "priority=13,pkt_mark=0x3,dl_vlan=5,dl_vlan_pcp=3,actions=mod_vlan_vid:6,output:in_port",
    "priority=65535,actions=drop",
    "priority=0,udp,tp_src=0x1000/0xf000,actions=bundle(eth_src,0,hrw,ofport,members:4,8)",
];

fn node(test: &str) -> Node {
    let node = Setup::new().datapath(Datapath::Dummy).without_gc().up(test);
    node.ofctl(&["-OOpenFlow15", "add-group", "br0", "group_id=7,type=all,bucket=output:1"]);
    node
}

fn open(node: &Node, version: Version) -> Connection {
    node.set_protocols("br0", &format!("OpenFlow10,{version}"));
    let connection = Connection::open(&node.run_dir.join("br0.mgmt"), soon()).unwrap();
    assert_eq!(connection.version(), version);
    connection
}

fn watching(node: &Node, version: Version) -> Connection {
    let mut connection = open(node, version);
    connection.watch().unwrap();
    connection.barrier().unwrap();
    assert!(connection.is_watching(), "{version}: Open vSwitch 3.0 or later");
    connection
}

fn dumped(connection: &mut Connection) -> Vec<Entry> {
    let mut all = Vec::new();
    connection.dump(&Filter::default(), &mut |raw, _| all.push(raw.to_entry())).unwrap();
    all.sort_by(|a, b| a.key().cmp(&b.key()));
    all
}

/// Everything told up to now.
fn told(connection: &mut Connection) -> Vec<Update> {
    connection.barrier().unwrap();
    connection.noted()
}

fn is_of(update: &Update, entry: &Entry) -> bool {
    (update.table, update.priority, update.match_bytes())
        == (entry.table(), entry.priority(), entry.match_bytes())
}

#[test]
fn what_is_told_is_what_a_dump_shows() {
    let node = node("what_is_told");
    let mut count = 0;
    for version in VERSIONS {
        let mut connection = watching(&node, version);
        for flow in FLOWS {
            node.add_flows("br0", &[flow]);
        }
        let put = told(&mut connection);
        let all = dumped(&mut connection);
        assert_eq!((put.len(), all.len()), (FLOWS.len(), FLOWS.len()));
        for entry in &all {
            let update = put.iter().find(|u| is_of(u, entry)).unwrap_or_else(|| panic!("{entry}"));
            assert_eq!(update.what, What::Put);
            assert_eq!(update.entry(entry).unwrap().content(), entry.content(), "{entry}");
            count += 1;
        }
        // Our own removals, in full, also in a bundle.
        assert_eq!(connection.delete_strict(&all).unwrap().refused, []);
        let gone = told(&mut connection);
        assert_eq!(gone.len(), all.len(), "{version}: {gone:#?}");
        for entry in &all {
            let update = gone.iter().find(|u| is_of(u, entry)).unwrap_or_else(|| panic!("{entry}"));
            assert_eq!((update.what, update.cookie), (What::Removed, entry.cookie()));
            count += 1;
        }
        assert!(gone.windows(2).all(|pair| pair[0].at < pair[1].at));
        // Our own additions are not news.
        assert_eq!(connection.add(&all).unwrap().refused, []);
        assert_eq!(told(&mut connection), []);
        assert_eq!(dumped(&mut connection).len(), FLOWS.len());
        node.ofctl(&["del-flows", "br0"]);
        assert_eq!(told(&mut connection).len(), FLOWS.len());
    }
    eprintln!("told: {count} updates as a dump has them, in {} versions", VERSIONS.len());
    assert_eq!(count, 2 * 3 * FLOWS.len());
}

#[test]
fn every_kind_of_change_is_told_in_order() {
    let node = node("every_kind_of_change");
    for version in VERSIONS {
        let mut connection = watching(&node, version);
        let of = format!("-O{version}");
        let flow = "priority=5,in_port=9";
        let added = [
            vec!["add-flow", "br0", "cookie=1,priority=5,in_port=9,actions=drop"],
            // The same again: another incarnation.
            vec!["add-flow", "br0", "cookie=1,priority=5,in_port=9,actions=drop"],
            vec!["mod-flows", "br0", "in_port=9,actions=output:1"],
            vec!["--strict", "mod-flows", "br0", "priority=5,in_port=9,actions=output:2"],
            // Changes nothing: nothing is told.
            vec!["--strict", "mod-flows", "br0", "priority=5,in_port=9,actions=output:2"],
            vec!["--strict", "del-flows", "br0", flow],
            // Finds nothing.
            vec!["--strict", "del-flows", "br0", flow],
            vec!["--bundle", "add-flow", "br0", "priority=5,in_port=9,actions=drop"],
            vec!["replace-flows", "br0", "-"],
        ];
        for args in added {
            let all: Vec<&str> = [of.as_str()].into_iter().chain(args).collect();
            node.ofctl(&all);
        }
        let (put, gone) = (What::Put, What::Removed);
        let kinds: Vec<What> = told(&mut connection).iter().map(|u| u.what).collect();
        assert_eq!(kinds, [put, put, put, put, gone, put, gone], "{version}");
        // A timeout.
        node.ofctl(&[&of, "add-flow", "br0", "priority=5,hard_timeout=1,in_port=9,actions=drop"]);
        let since = Instant::now();
        let mut kinds = Vec::new();
        while kinds.len() < 2 && since.elapsed() < Duration::from_secs(10) {
            connection.wait_for_updates(Duration::from_millis(100));
            kinds.extend(connection.updates().unwrap().iter().map(|u| u.what));
        }
        assert_eq!(kinds, [put, gone], "{version}");
    }
}

/// Whoever does not read makes the switch stop telling. It says so, and then what is there.
#[test]
fn a_pause_is_told_and_what_came_in_it() {
    let node = node("a_pause_is_told");
    for version in VERSIONS {
        let mut connection = watching(&node, version);
        // A first lot fills the socket and the switch's buffer, the second is not told.
        let lot = |table: u8| -> Vec<String> {
            let line = |n| format!("table={table},priority=5,tcp,tp_dst={n},actions=output:1");
            (1..=8_000).map(line).collect()
        };
        node.add_flows("br0", &lot(1));
        node.add_flows("br0", &lot(2));
        let (mut updates, mut paused) = (Vec::new(), false);
        let since = Instant::now();
        while (!paused || connection.is_paused() || updates.len() < 16_000)
            && since.elapsed() < Duration::from_secs(20)
        {
            connection.wait_for_updates(Duration::from_millis(5));
            updates.extend(connection.updates().unwrap());
            paused |= connection.take_pause();
        }
        assert!(paused && !connection.is_paused(), "{version}");
        assert!(!connection.is_flooded() && !connection.take_pause());
        assert!(updates.iter().all(|u| u.what == What::Put), "{version}");
        let of = |table: u8| updates.iter().filter(move |u| u.table == table);
        assert_eq!((of(1).count(), of(2).count()), (8_000, 8_000), "{version}");
        node.ofctl(&["del-flows", "br0"]);
    }
}

/// A switch that hangs has our deletes in its socket when we give up. It must not do them when it
/// is back: nobody is there who would put anything back.
#[test]
fn deletes_that_were_given_up_are_not_done_later() {
    let node = node("given_up");
    for version in VERSIONS {
        let mut connection = watching(&node, version);
        node.add_flows("br0", &FLOWS);
        let all = dumped(&mut connection);
        assert_eq!(all.len(), FLOWS.len());
        node.vswitchd.pause();
        connection.set_deadline(Deadline::after(Duration::from_millis(200)));
        let failed = connection.delete_strict(&all).unwrap_err();
        assert!(matches!(failed, Error::TimedOut { .. }), "{failed}");
        drop(connection);
        node.vswitchd.resume();
        let mut again = Connection::open(&node.run_dir.join("br0.mgmt"), soon()).unwrap();
        again.barrier().unwrap();
        sleep_ms(100);
        assert_eq!(dumped(&mut again).len(), FLOWS.len(), "{version}");
        node.ofctl(&["del-flows", "br0"]);
    }
}
