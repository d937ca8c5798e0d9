//! `undo` puts back what was deleted, to the byte.

use std::time::{Duration, Instant};

use ovs_flow_gc::openflow::{Connection, Filter};
use ovs_flow_gc::util::clock::Deadline;
use serde_json::{Value, json};

use crate::operations::{deleted, journals, sorted, sweep};
use crate::rig::{Attached, Flows, Node, Port, Setup, eventually, layouts};

/// Everything of every entry but its age and its counters, as the switch sends it.
fn bytes(node: &Node, bridge: &str) -> Vec<Vec<u8>> {
    let socket = node.run_dir.join(format!("{bridge}.mgmt"));
    let deadline = Deadline::after(Duration::from_secs(20));
    let mut connection = Connection::open(&socket, deadline).unwrap();
    let mut all = Vec::new();
    for (table, active) in connection.tables().unwrap() {
        if active > 0 {
            let filter = Filter::table(table);
            connection.dump(&filter, &mut |raw, _| all.push(raw.content())).unwrap();
        }
    }
    all.sort();
    all
}

/// Entries of a dead port with whatever an entry can have.
fn exotic(pod: &Attached, version: &str) -> Vec<String> {
    let port = pod.ofport;
    let actions = [
        "learn(table=9,idle_timeout=10,hard_timeout=20,fin_idle_timeout=1,fin_hard_timeout=2,\
         priority=7,cookie=0x77,send_flow_rem,limit=3,NXM_OF_VLAN_TCI[0..11],\
         NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],load:0x5->NXM_NX_REG3[0..15],output:NXM_OF_IN_PORT[])",
        "ct(commit,zone=5,table=40,nat(src=10.0.0.1-10.0.0.9:1000-2000,random),\
         exec(set_field:0x1->ct_mark,move:NXM_NX_REG0[]->NXM_NX_CT_LABEL[32..63]))",
        "ct(force,commit,zone=NXM_NX_REG4[0..15],alg=ftp,nat(dst=[fd00::1]:80,hash))",
        "clone(set_field:1->reg1,clone(push_vlan:0x8100,set_field:4196->vlan_vid,2),resubmit(,40))",
        "ct_clear,check_pkt_larger(1500)->NXM_NX_REG0[3],move:NXM_OF_IP_SRC[]->NXM_OF_IP_DST[],2",
        "push:NXM_NX_REG0[0..15],pop:NXM_NX_REG1[16..31],output:NXM_NX_REG1[],in_port",
        "controller(reason=no_match,max_len=64,id=7,userdata=01.02.03.04.05)",
        "multipath(eth_src,50,modulo_n,3,0,NXM_NX_REG2[0..7]),bundle(symmetric_l4,60,hrw,ofport,members:1,2)",
        "note:de.ad.be.ef,sample(probability=12345,collector_set_id=1,obs_domain_id=2,obs_point_id=3)",
        "write_actions(set_field:00:11:22:33:44:55->eth_dst,group:1),write_metadata:0x12/0xff,goto_table:200",
        "meter:1,clear_actions,goto_table:200",
        "dec_ttl(1,2),set_queue:3,output(port=2,max_len=100),LOCAL",
        "group:1",
        "conjunction(7,1/2),conjunction(8,2/3)",
    ];
    let matches = [
        "tcp,nw_src=10.0.0.0/9,tp_dst=0x50/0xfff0,tcp_flags=+syn-ack",
        "tcp,ct_state=+trk+est-inv,ct_zone=5,ct_mark=0x1/0xf,ct_label=0x1/0xff",
        "tcp6,reg0=0x5/0xff,reg15=0x1234,xxreg1=0x1/0xffff",
        "dl_vlan=100,dl_vlan_pcp=3",
        "ip,ip_frag=later,nw_tos=32,nw_ecn=1,nw_ttl=64",
        "ip,pkt_mark=0x7,metadata=0x12/0xff",
        "icmp6,icmp_type=135,nd_target=fd00::1,nd_sll=00:01:02:03:04:05",
        "tun_id=0x1234,tun_src=192.0.2.1",
        "arp,arp_op=1,arp_sha=00:01:02:03:04:05",
        "ip,dl_src=00:01:00:00:00:00/01:01:00:00:00:00",
        "mpls,mpls_label=3,mpls_tc=2,mpls_bos=1",
        "ip,conj_id=7",
        "sctp6,ipv6_src=fd00::/17,tp_src=99",
        "udp,tp_src=53",
    ];
    let mut flows: Vec<String> = (0..)
        .zip(matches.iter().zip(actions))
        .map(|(n, (matches, actions))| {
            format!(
                "cookie={:#x},table=5,priority={n},in_port={port},{matches} actions={actions}",
                0xc000_0000_0000_0000_u64 + n
            )
        })
        .collect();
    let flags = [
        "idle_timeout=600,send_flow_rem",
        "hard_timeout=3600,reset_counts",
        "idle_timeout=65535,hard_timeout=65535,no_packet_counts,no_byte_counts",
        "check_overlap",
    ];
    flows.extend(
        (100..)
            .zip(flags)
            .map(|(n, flags)| format!("table=6,priority={n},{flags},in_port={port} actions=drop")),
    );
    if version != "OpenFlow13" {
        flows.push(format!("table=6,priority=1,importance=77,in_port={port} actions=drop"));
    }
    flows
}

/// A bridge with groups and meters, a pod with strange entries and one with plain ones.
fn strange_node(test: &str, version: &str) -> (Node, Attached, Attached) {
    let node = Setup::new()
        .protocols(version)
        .gc_conf(json!({"lingerSeconds": 600, "reg0": "pod"}))
        .up(test);
    let version = format!("-O{version}");
    node.ofctl(&[&version, "add-group", "br0", "group_id=1,type=select,bucket=actions=output:2"]);
    node.ofctl(&[&version, "add-meter", "br0", "meter=1,kbps,band=type=drop,rate=1000000"]);
    node.add_flows("br0", &layouts::classifier_base());
    let (web, db) = (node.run_pod("web"), node.run_pod("db"));
    for (pod, reg) in [(&web, 0x1001), (&db, 0x1002)] {
        node.add_flows("br0", &layouts::classifier(&pod.who(reg)));
    }
    (node, web, db)
}

#[track_caller]
fn undo(node: &Node, args: &[&str]) -> Value {
    let outcome = node.admin(&[&["undo", "--json"], args].concat());
    assert_eq!(outcome.code, Some(0), "{outcome}");
    outcome.json()["bridges"][0].clone()
}

/// The same in OpenFlow 1.3, 1.4 and 1.5: their dumps and flags differ.
fn comes_back_to_the_byte(version: &str) {
    let (node, web, db) = strange_node("undo_to_the_byte", version);
    let flows = exotic(&web, version);
    node.add_flows("br0", &flows);
    let (text, raw) = (node.dump("br0"), bytes(&node, "br0"));
    let of_web = 15 + flows.len();

    // A DEL.
    node.del(&web);
    assert_eq!(node.dump("br0").len(), text.len() - of_web);
    let would = undo(&node, &["--dry-run"]);
    assert_eq!((&would["added"], &would["thereAlready"]), (&json!(of_web), &json!(0)));
    assert_eq!(node.dump("br0").len(), text.len() - of_web, "nothing was put back");
    let done = undo(&node, &[]);
    let expected = json!({"bridge": "br0", "entries": of_web, "added": of_web, "thereAlready": 0,
        "errors": []});
    assert_eq!(done, expected);
    assert_eq!(node.dump("br0"), text, "{version}");
    assert_eq!(bytes(&node, "br0"), raw, "{version}");
    // Again: nothing is doubled, nothing is touched.
    let done = undo(&node, &[]);
    assert_eq!((&done["added"], &done["thereAlready"]), (&json!(0), &json!(of_web)));
    assert_eq!(bytes(&node, "br0"), raw);

    // A sweep takes them again, and somebody else's with them; but for the two that only an
    // address condemned: to the switch they are new, as those of its next owner would be.
    node.vanish(&db, Port::Stays);
    let report = sweep(&node, &[]);
    let taken = of_web - 2 + 15;
    assert_eq!(deleted(&report), taken as u64, "{report}");
    let id = report["journals"][0].as_str().unwrap();
    assert_eq!(undo(&node, &[id])["added"], taken);
    assert_eq!(bytes(&node, "br0"), raw, "{version}");
}

#[test]
fn undo_puts_back_byte_identical_entries_in_openflow_1_3() {
    comes_back_to_the_byte("OpenFlow13");
}

#[test]
fn undo_puts_back_byte_identical_entries_in_openflow_1_4() {
    comes_back_to_the_byte("OpenFlow14");
}

#[test]
fn undo_puts_back_byte_identical_entries_in_openflow_1_5() {
    comes_back_to_the_byte("OpenFlow15");
}

#[test]
fn undo_lists_and_takes_one_by_its_id() {
    let node = Setup::new().gc_conf(json!({"lingerSeconds": 600})).up("undo_list");
    assert!(node.admin(&["undo", "--list"]).ok().contains("nothing to undo"));
    assert_eq!(node.admin(&["undo"]).code, Some(1));
    let base = node.install("br0", &layouts::classifier_base());
    let (web, db) = (node.run_pod("web"), node.run_pod("db"));
    let its = node.install("br0", &layouts::classifier(&web.who(0x1001)));
    node.install("br0", &layouts::classifier(&db.who(0x1002)));
    node.del(&web);
    node.vanish(&db, Port::Gone);
    sweep(&node, &[]);
    assert_eq!(node.dump("br0"), base);

    let listed = journals(&node);
    let of = |key: &str| listed.iter().map(|row| row[key].clone()).collect::<Vec<_>>();
    assert_eq!(of("verb"), ["sweep", "DEL"]);
    assert_eq!(of("entries"), [15, 15]);
    assert_eq!(of("state"), ["whole", "whole"]);
    let text = node.admin(&["undo", "--list"]).ok();
    assert!(text.contains(&web.name) && text.contains(&db.name), "{text}");

    let del = listed[1]["id"].as_str().unwrap();
    let told = node.admin(&["undo", del]).ok();
    assert!(told.contains("15 of 15 entries put back"), "{told}");
    assert!(told.contains("pause"), "it says that the next sweep judges them again: {told}");
    assert_eq!(node.dump("br0"), sorted(&[&base, &its]));

    for (id, code) in [("20200101T000000.000-1", 1), ("../../etc/passwd", 2), ("", 2)] {
        let wrong = node.admin(&["undo", id]);
        assert_eq!(wrong.code, Some(code), "{wrong}");
    }
    assert_eq!(node.dump("br0"), sorted(&[&base, &its]));
}

#[test]
fn a_newer_entry_in_the_same_place_stays() {
    let node =
        Setup::new().gc_conf(json!({"lingerSeconds": 600, "reg0": "pod"})).up("undo_newer_stays");
    let web = node.run_pod("web");
    let its = node.install("br0", &layouts::classifier(&web.who(0x1001)));
    node.del(&web);
    // The controller gave the address to somebody on another port.
    let newer = format!("table=40, priority=100,ip,nw_dst={} actions=output:77", web.ip);
    let newer = node.install("br0", &[newer]);
    let done = undo(&node, &[]);
    assert_eq!((&done["added"], &done["thereAlready"]), (&json!(14), &json!(1)));
    let dump = node.dump("br0");
    assert!(dump.contains(&newer[0]), "{dump:#?}");
    let replaced =
        format!("table=40, priority=100,ip,nw_dst={} actions=output:{}", web.ip, web.ofport);
    let rest: Vec<_> = its.iter().filter(|flow| **flow != replaced).cloned().collect();
    assert_eq!(dump, sorted(&[&newer, &rest]));
}

#[test]
fn a_killed_sweeps_deletes_can_be_undone() {
    let node = Setup::new().gc_conf(json!({"lingerSeconds": 600})).up("undo_killed");
    let web = node.run_pod("web");
    let port = web.ofport;
    let flows: Vec<_> = (0..20_000)
        .map(|n| format!("table=7,priority=9,in_port={port},reg9={n:#x} actions=resubmit(,8)"))
        .collect();
    node.add_flows("br0", &flows);
    let before = bytes(&node, "br0");
    node.vanish(&web, Port::Stays);

    // Killed with some of its deletes done, others only written down.
    let running = node.start_admin(&["sweep"]);
    let journal = node.state_dir.join("journal");
    let pending = || {
        let files = std::fs::read_dir(&journal).into_iter().flatten().flatten();
        let size = |file: std::fs::DirEntry| file.metadata().map_or(0, |meta| meta.len());
        files.map(size).sum::<u64>()
    };
    // The first 4,000 are written down and gone, of the next some are written down.
    let start = Instant::now();
    while pending() < 700_000 {
        assert!(start.elapsed() < Duration::from_secs(20), "{} bytes", pending());
    }
    running.kill();
    assert_eq!(running.wait().code, None, "it was not done yet");
    eventually("the switch has done what it was sent", || {
        let left = bytes(&node, "br0").len();
        std::thread::sleep(Duration::from_millis(50));
        bytes(&node, "br0").len() == left
    });
    let left = bytes(&node, "br0").len();
    assert!((1..20_000).contains(&left), "{left} left");
    assert_eq!(journals(&node)[0]["state"], "interrupted");
    undo(&node, &[]);
    assert_eq!(bytes(&node, "br0"), before);

    // And the next sweep finishes the work.
    sweep(&node, &[]);
    assert!(bytes(&node, "br0").is_empty());
}

/// OVS is away: nothing is put back, and a sentence says what to do.
#[test]
fn nothing_is_put_back_while_the_switch_is_away() {
    let node =
        Setup::new().gc_conf(json!({"lingerSeconds": 600, "reg0": "pod"})).up("undo_switch_away");
    let web = node.run_pod("web");
    let its = node.install("br0", &layouts::classifier(&web.who(0x1001)));
    node.del(&web);
    node.vswitchd.stop();
    for dry_run in [&["undo"][..], &["undo", "--dry-run"]] {
        let undo = node.admin(dry_run);
        assert_eq!(undo.code, Some(1), "{undo}");
        assert!(undo.stdout.contains("The journal is kept: `ovs-flow-gc undo "), "{undo}");
        assert!(!undo.stdout.contains("adopt"), "{undo}");
    }
    let json = node.admin(&["undo", "--json"]);
    assert!(json.code == Some(1) && json.stderr.contains(r#""exitStatus":1"#), "{json}");
    node.restart_vswitchd(Flows::Lost);
    assert_eq!(node.admin(&["undo"]).code, Some(0));
    assert_eq!(node.dump("br0"), its);
}

#[test]
fn a_bridge_that_is_away_does_not_keep_the_others_from_their_entries() {
    let node = Setup::new()
        .gc_conf(json!({"lingerSeconds": 600, "reg0": "pod", "bridges": ["br0", "br1"]}))
        .up("undo_bridge_away");
    node.add_bridge("br1", None);
    let web = node.run_pod("web");
    let its = node.install("br0", &layouts::classifier(&web.who(0x1001)));
    let far =
        node.install("br1", &[format!("table=3, priority=5,ip,nw_src={} actions=drop", web.ip)]);
    node.del(&web);
    assert!(node.dump("br0").is_empty() && node.dump("br1").is_empty());
    let ids: Vec<_> =
        journals(&node).iter().map(|j| j["id"].as_str().unwrap().to_owned()).collect();
    node.ovs_vsctl(&["del-br", "br1"]);
    let codes: Vec<_> = ids.iter().map(|id| node.admin(&["undo", id]).code).collect();
    assert_eq!(node.dump("br0"), its);
    let mut codes = codes;
    codes.sort();
    assert_eq!(codes, [Some(0), Some(1)], "of one nothing could be put back: {far:?}");
}
