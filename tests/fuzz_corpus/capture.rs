//! Captures the corpus: what a real switch and a real database say to the very questions that
//! the bodies ask, the files that ADD, DEL and a sweep write, the requests of a runtime. What no
//! server of ours says (a runtime's list, an API server's) is written down here.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use ovs_flow_gc::model::flow::MacAddr;
use ovs_flow_gc::openflow::{Connection, Entry, Filter, Version};
use ovs_flow_gc::ovsdb::watch::Watcher;
use ovs_flow_gc::ovsdb::{Client, Wanted};
use ovs_flow_gc::util::clock::Deadline;
use serde_json::{Value, json};

use crate::fuzz_corpus::directory;
use crate::rig::{Attached, Node, Port, Setup, layouts};

/// k-vswitch: entries by port and address.
const K_VSWITCH: &[&str] = &[
    "table=10, priority=500,ip,nw_dst=10.244.1.77 actions=set_field:0a:00:00:00:00:07->eth_dst,output:1",
    "table=20, priority=500,arp,arp_tpa=10.244.1.77 actions=output:1",
    "table=30, priority=100,ip,nw_dst=10.244.9.0/24 actions=set_field:192.168.0.9->tun_dst,output:1",
];

/// OVN: registers are scratch, reg14 the in-port, reg15 the out-port, metadata the datapath.
const OVN: &[&str] = &[
    "cookie=0x7d1c, table=0, priority=100,in_port=1 actions=set_field:0x5->reg13,set_field:0x3->metadata,set_field:0x2->reg14,resubmit(,8)",
    "cookie=0x7d1d, table=73, priority=95,arp,reg14=0x2,metadata=0x3 actions=resubmit(,74)",
    "cookie=0x7d1e, table=65, priority=100,reg15=0x2,metadata=0x3 actions=push:NXM_OF_IN_PORT[],set_field:0->in_port,output:1,pop:NXM_OF_IN_PORT[]",
    "cookie=0x7d1f, table=44, priority=2002,ct_state=+new-est+trk,ip,reg15=0x2,metadata=0x3,nw_src=10.244.1.78 actions=conjunction(7,1/2)",
];

/// Kinds of matches and actions that the layouts have not.
const ODD: &[&str] = &[
    "table=200, priority=1,icmp6,icmp_type=135,nd_target=fd00::5,nd_sll=0a:00:00:00:00:01 actions=drop",
    "table=200, priority=2,ct_state=+trk-inv,ipv6,ct_ipv6_src=fd00::5 actions=drop",
    "table=200, priority=3,tcp,tcp_flags=+syn-ack,tp_dst=0x50/0xfff0 actions=drop",
    "table=200, priority=4,reg0=0x1,reg1=0x2,reg2=0x3,reg3=0x4/0xff,tun_id=0x5,tun_src=1.2.3.4 actions=drop",
    "table=200, priority=5,dl_vlan=5,dl_vlan_pcp=3,dl_dst=01:00:00:00:00:00/01:00:00:00:00:00 actions=drop",
    "table=200, priority=6,mpls,mpls_label=5,mpls_tc=3,mpls_bos=1 actions=drop",
    "table=201, priority=1,ip actions=write_actions(output:1),goto_table:202",
    "table=201, priority=2,ip actions=clone(clone(output:1),output:2),output(port=1,max_len=100)",
    "table=201, priority=3,ip actions=ct(commit,zone=NXM_NX_REG5[0..15],nat(src=10.0.0.1-10.0.0.5:100-200),exec(load:1->NXM_NX_CT_MARK[]))",
    "table=201, priority=4,ip actions=learn(table=10,limit=5,result_dst=NXM_NX_REG0[3],delete_learned,eth_type=0x800,NXM_OF_IP_DST[]=NXM_OF_IP_SRC[],load:7->OXM_OF_IN_PORT[],output:NXM_NX_REG0[0..15])",
    "table=201, priority=5,ip actions=multipath(eth_src,50,modulo_n,1,0,NXM_NX_REG0[]),bundle_load(eth_src,0,hrw,ofport,NXM_NX_REG0[],members:1,2),bundle(eth_src,0,hrw,ofport,members:1,2)",
    "table=201, priority=6,ip actions=controller(userdata=01.02),sample(probability=3,collector_set_id=1,obs_domain_id=2,obs_point_id=3,sampling_port=1),note:01.02.03",
    "table=201, priority=7,ip actions=check_pkt_larger(1500)->NXM_NX_REG0[0],move:NXM_NX_REG1[]->NXM_NX_REG0[],load:0x5->NXM_NX_XXREG0[96..127],output:NXM_NX_REG1[0..15]",
    "table=201, priority=8,ct_state=+trk,ip actions=clear_actions,write_metadata:0x5/0xff",
    "table=201, priority=9,ip actions=resubmit(1,10),set_queue:3,pop_queue,push_vlan:0x8100,set_field:4101->vlan_vid,dec_ttl",
    "cookie=0x9, idle_timeout=600, hard_timeout=700, send_flow_rem, table=202, priority=1 actions=NORMAL,FLOOD,IN_PORT,CONTROLLER:65535,LOCAL",
];

/// The corpus that is being written.
struct Corpus {
    files: usize,
}

impl Corpus {
    fn add(&mut self, target: &str, name: &str, bytes: impl AsRef<[u8]>) {
        let directory = directory().join("corpus").join(target);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(name), bytes).unwrap();
        self.files += 1;
    }

    /// The same behind a selector.
    fn add_to(&mut self, target: &str, name: &str, selector: u8, bytes: impl AsRef<[u8]>) {
        self.add(target, name, [&[selector], bytes.as_ref()].concat());
    }
}

/// A socket whose server's words are written down. One client.
struct Tap {
    path: PathBuf,
    said: JoinHandle<Vec<u8>>,
}

impl Tap {
    fn on(server: &Path) -> Self {
        let path = server.with_extension("tap");
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let server = server.to_owned();
        let said = std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut upstream = UnixStream::connect(server).unwrap();
            let (mut from, mut to) = (client.try_clone().unwrap(), upstream.try_clone().unwrap());
            let asked = std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Both);
            });
            let (mut said, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
            while let Ok(read @ 1..) = upstream.read(&mut buffer) {
                said.extend(&buffer[..read]);
                let _ = client.write_all(&buffer[..read]);
            }
            asked.join().unwrap();
            said
        });
        Self { path, said }
    }

    /// What was said, when the client has hung up.
    fn said(self) -> Vec<u8> {
        self.said.join().unwrap()
    }
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(10))
}

#[test]
#[ignore = "writes fuzz/corpus anew; as root: cargo test --test fuzzers -- --ignored"]
fn capture_the_corpus() {
    let _ = fs::remove_dir_all(directory().join("corpus"));
    let mut corpus = Corpus { files: 0 };
    let node = Setup::new().cni_version("1.1.0").gc_conf(json!({"reg0": "pod"})).up("capture");
    let pods: Vec<Attached> = ["web", "db"].map(|name| node.run_pod(name)).into();
    install(&node, &pods);
    for version in [Version::V13, Version::V14, Version::V15] {
        openflow(&node, version, &mut corpus);
    }
    database(&node, &mut corpus);
    runtime(&node, &pods, &mut corpus);
    state(&node, &pods, &mut corpus);
    conflists(&mut corpus);
    by_hand(&mut corpus);
    println!("fuzz corpus: {} files captured", corpus.files);
}

fn install(node: &Node, pods: &[Attached]) {
    let mut flows = [layouts::classifier_base(), layouts::antrea_base()].concat();
    flows.extend(layouts::openshift_namespace(0x77));
    for (pod, reg) in pods.iter().zip(0x1001..) {
        let who = pod.who(reg);
        flows.extend(layouts::classifier(&who));
        flows.extend(layouts::openshift(&layouts::Who { reg: 0x77, ..who.clone() }));
        flows.extend(layouts::antrea(&who));
    }
    flows.extend([K_VSWITCH, OVN, ODD].concat().into_iter().map(str::to_owned));
    node.add_flows("br0", &flows);
    assert!(node.dump("br0").len() >= flows.len() / 2, "{:#?}", node.dump("br0"));
}

/// Every question to a switch, and all of its answers. The same questions as the bodies'.
fn openflow(node: &Node, version: Version, corpus: &mut Corpus) {
    node.set_protocols("br0", &format!("OpenFlow10,{version}"));
    let socket = node.run_dir.join("br0.mgmt");
    let ask = |ask: &mut dyn FnMut(&mut Connection)| -> Vec<u8> {
        let tap = Tap::on(&socket);
        let mut connection = Connection::open(&tap.path, soon()).unwrap();
        assert_eq!(connection.version(), version);
        ask(&mut connection);
        drop(connection);
        tap.said()
    };
    let selector = version.wire() - 4;

    // Each kind of entry once: the two pods' differ in numbers only.
    let (mut kinds, mut matches, mut actions) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut entries: Vec<Entry> = Vec::new();
    let all = ask(&mut |connection| {
        connection
            .dump(&Filter::default(), &mut |raw, _| {
                if kinds.insert((raw.table(), raw.priority(), raw.bytes().len())) {
                    entries.push(raw.to_entry());
                }
            })
            .unwrap();
    });
    corpus.add_to("openflow_dump", &format!("all-{version}"), 0, &all);
    corpus.add_to("openflow_hello", &version.to_string(), all[0], hello(&all));
    let pick = |n: usize| n % 3 == usize::from(selector);
    for (n, entry) in entries.iter().enumerate() {
        let raw = entry.raw();
        let length = usize::from(u16::from_be_bytes(raw.match_bytes()[2..4].try_into().unwrap()));
        let tlvs = &raw.match_bytes()[4..length];
        if pick(n) {
            corpus.add_to("openflow_entry", &format!("{version}-{n}"), selector, raw.bytes());
            let text = String::from(entry.clone());
            corpus.add("journal_entry", &format!("{version}-{n}"), text);
        }
        if matches.insert(tlvs.len()) {
            corpus.add_to("openflow_match", &format!("{version}-{n}"), selector, tlvs);
        }
        let instructions = raw.instruction_bytes();
        if actions.insert(instructions.len()) {
            corpus.add_to("openflow_actions", &format!("{version}-{n}"), selector, instructions);
        }
    }

    let three = ask(&mut |connection| {
        let filters = [Filter::table(0), Filter::in_port(1), Filter::eth_type(2048)];
        connection.dump_many(&filters, &mut |_, _, _| {}).unwrap();
    });
    corpus.add_to("openflow_dump", &format!("three-{version}"), 1, three);

    let mut reply = |name: &str, selector: u8, script: &mut dyn FnMut(&mut Connection)| {
        corpus.add_to("openflow_replies", &format!("{name}-{version}"), selector, ask(script));
    };
    // Entries that are there, and that are put back.
    let there: Vec<Entry> = entries.iter().filter(|e| e.table() == 200).take(3).cloned().collect();
    assert_eq!(there.len(), 3);
    reply("ports-and-tables", 0, &mut |c| {
        let asked = c.ask_ports_and_tables(false).unwrap();
        drop(c.hear_ports_and_tables(asked).unwrap());
    });
    reply("delete", 1, &mut |c| drop(c.delete_strict(&there).unwrap()));
    reply("add", 2, &mut |c| drop(c.add(&there).unwrap()));
    reply("barrier", 3, &mut |c| c.barrier().unwrap());
    reply("description", 4, &mut |c| drop(c.description().unwrap()));
    reply("flush", 5, &mut |c| c.flush_conntrack("10.244.1.5".parse().unwrap()).unwrap());
    reply("delete-and-dump", 6, &mut |c| {
        let filters = [Filter::table(10)];
        drop(c.delete_strict_and_dump(&there, &filters, &mut |_| {}).unwrap());
    });
    reply("watch", 7, &mut |c| {
        c.watch().unwrap();
        c.barrier().unwrap();
        changes(node, version);
        c.barrier().unwrap();
    });
    reply("add-again", 2, &mut |c| drop(c.add(&there).unwrap()));
    // A bundle that the switch refuses: into the internal table.
    let refused: Vec<Entry> = there
        .iter()
        .map(|entry| {
            let mut words: Vec<String> =
                String::from(entry.clone()).split(' ').map(str::to_owned).collect();
            words[1] = "fe".to_owned();
            Entry::try_from(words.join(" ")).unwrap()
        })
        .collect();
    reply("refused", 1, &mut |c| drop(c.delete_strict(&refused).unwrap()));
    reply("refused-add", 2, &mut |c| drop(c.add(&refused).unwrap()));

    // What is told of every kind of change, our own among them, a message each.
    let told = ask(&mut |c| {
        c.watch().unwrap();
        c.barrier().unwrap();
        changes(node, version);
        c.delete_strict(&there).unwrap();
        c.add(&there).unwrap();
    });
    let (mut kinds, mut bodies) = (BTreeSet::new(), Vec::new());
    for (n, message) in messages(&told).into_iter().enumerate() {
        let asked_for = message[4..8] != [0; 4];
        if message[1] == 19 && !asked_for && kinds.insert(message.len()) {
            let name = format!("{version}-{n}");
            corpus.add_to("openflow_monitor", &name, selector, &message[8..]);
            bodies.push(message[8..].to_vec());
        }
    }
    assert!(kinds.len() > 5, "{version}: {kinds:?}");
    // The same in one message.
    let header = if version == Version::V13 { 16 } else { 8 };
    let updates: Vec<&[u8]> = bodies.iter().map(|body| &body[header..]).collect();
    let half = &updates[..updates.len() / 2];
    for (name, updates) in
        [("all", &updates[..]), ("first", half), ("twice", &[&updates[..]; 2].concat())]
    {
        let body = [&bodies[0][..header], &updates.concat()].concat();
        corpus.add_to("flow_replica", &format!("{version}-{name}"), selector, body);
    }
}

/// Entries are added, replaced, changed, removed, and time out.
fn changes(node: &Node, version: Version) {
    let of = format!("-O{version}");
    for flow in ODD.iter().step_by(3) {
        let flow = flow.replace("table=20", "table=21").replace("table:20", "table:21");
        node.add_flows("br0", &[flow]);
    }
    let entry = "cookie=7,table=213,priority=5,in_port=9,actions=drop";
    for args in [
        vec!["add-flow", "br0", entry],
        vec!["add-flow", "br0", entry],
        vec!["mod-flows", "br0", "table=213,in_port=9,actions=output:1"],
        vec!["del-flows", "br0", "table=213"],
        vec!["add-flow", "br0", "table=213,hard_timeout=1,in_port=9,actions=drop"],
    ] {
        node.ofctl(&[&[of.as_str()], args.as_slice()].concat());
    }
    std::thread::sleep(Duration::from_millis(2500));
    node.ofctl(&["del-flows", "br0", "table=210"]);
    node.ofctl(&["del-flows", "br0", "table=211"]);
    node.ofctl(&["del-flows", "br0", "table=212"]);
}

/// The messages of a stream.
fn messages(mut said: &[u8]) -> Vec<&[u8]> {
    let mut all = Vec::new();
    while said.len() >= 8 {
        let (message, rest) = said.split_at(u16::from_be_bytes([said[2], said[3]]).into());
        all.push(message);
        said = rest;
    }
    all
}

/// A first message's body.
fn hello(said: &[u8]) -> &[u8] {
    let length = usize::from(u16::from_be_bytes([said[2], said[3]]));
    &said[8..length]
}

/// Every question to the database.
fn database(node: &Node, corpus: &mut Corpus) {
    for (port, table, ids) in [
        (
            "veth1",
            "Port",
            "antrea-type=container,container-id=aaaa01,pod-name=web-0,\
                           pod-namespace=shop,ip-address=10.244.1.5,attached-mac=0a:00:00:00:00:05",
        ),
        ("sdn", "Interface", "sandbox=aaaa01,ip=10.128.0.9"),
        ("ovscni", "Port", "owner=ovs-cni.network.kubevirt.io,contIface=net1,contPodUid=u1"),
        ("0123456789ab_h", "Interface", "vendor=kube-ovn,pod_name=web-1,pod_namespace=shop"),
        ("kvs", "Interface", "netns=varrunnetnscni-6,k8s_pod_name=w,k8s_pod_namespace=shop"),
    ] {
        let mut args = vec!["add-port", "br0", port, "--", "set", "Interface", port];
        args.extend(["type=internal", "--", "set", table, port]);
        let ids: Vec<String> = ids
            .split(',')
            .map(|pair| {
                let (key, value) = pair.trim().split_once('=').unwrap();
                format!("external_ids:{key}=\"{value}\"")
            })
            .collect();
        args.extend(ids.iter().map(String::as_str));
        node.ovs_vsctl(&args);
    }
    node.ovs_vsctl(&[
        "add-br",
        "br1",
        "--",
        "add-port",
        "br0",
        "to1",
        "--",
        "set",
        "Interface",
        "to1",
        "type=patch",
        "options:peer=to0",
        "--",
        "add-port",
        "br1",
        "to0",
        "--",
        "set",
        "Interface",
        "to0",
        "type=patch",
        "options:peer=to1",
    ]);
    let socket = node.run_dir.join("db.sock");
    let mut ask = |name: &str, selector: u8, ask: &mut dyn FnMut(&mut Client)| -> Vec<u8> {
        let tap = Tap::on(&socket);
        let mut client = Client::connect(&tap.path, soon()).unwrap();
        ask(&mut client);
        drop(client);
        let said = tap.said();
        corpus.add_to("ovsdb_rpc", name, selector, &said);
        corpus.add_to("ovsdb_frames", name, 61, &said);
        said
    };
    let mac = [MacAddr([10, 0, 0, 0, 0, 5])];
    let wanted = Wanted {
        container_id: "aaaa01",
        ifname: "eth0",
        netns: Some("/var/run/netns/cni-1"),
        pod: Some(("shop", "web-0")),
        host_interfaces: vec!["veth1"],
        macs: &mac,
        bridge: None,
    };
    let said = ask("snapshot", 0, &mut |c| drop(c.snapshot().unwrap()));
    let watched = ask("watched", 1, &mut |c| {
        let asked = c.ask().unwrap();
        let (_, moment) = c.answered(asked).unwrap();
        node.ovs_vsctl(&["add-port", "br0", "later", "--", "del-port", "kvs"]);
        assert!(!c.unchanged(moment).unwrap());
        let asked = c.ask().unwrap();
        c.answered(asked).unwrap();
    });
    ask("unchanged", 1, &mut |c| {
        let asked = c.ask().unwrap();
        let (_, moment) = c.answered(asked).unwrap();
        assert!(c.unchanged(moment).unwrap());
        let asked = c.ask().unwrap();
        c.answered(asked).unwrap();
    });
    ask("find", 2, &mut |c| drop(c.find(&wanted).unwrap()));
    ask("alive", 6, &mut |c| c.alive().unwrap());
    let answer: Value = serde_json::from_slice(&said).unwrap();
    corpus.add("ovsdb_rows", "snapshot", answer["result"].to_string());
    let messages = serde_json::Deserializer::from_slice(&watched).into_iter::<Value>();
    let messages: Vec<Value> = messages.flatten().collect();
    let whole = messages.iter().find(|m| m["result"][3].is_object()).unwrap();
    let told = messages.iter().filter(|m| m["method"] == "update");
    let told: String = told.map(|m| format!("\n{}", m["params"])).collect();
    assert!(!told.is_empty());
    corpus.add("ovsdb_rows", "told", whole["result"].to_string() + &told);

    let tap = Tap::on(&socket);
    let mut watcher = Watcher::start(&tap.path, soon()).unwrap();
    node.ovs_vsctl(&["del-port", "sdn"]);
    let told = watcher.next(Duration::from_secs(5), Duration::from_secs(5)).unwrap();
    assert!(!told.is_empty());
    drop(watcher);
    let said = tap.said();
    let messages = serde_json::Deserializer::from_slice(&said).into_iter::<Value>();
    let updates: Vec<Value> = messages.flatten().filter(|m| m["method"] == "update").collect();
    assert!(!updates.is_empty());
    for (n, update) in updates.iter().enumerate() {
        corpus.add("ovsdb_update", &format!("removed-{n}"), update["params"].to_string());
    }
}

/// The requests that libcni makes.
fn runtime(node: &Node, pods: &[Attached], corpus: &mut Corpus) {
    let pod = &pods[0];
    let mut add = |name: &str, verb: u8, variables: [&str; 4], conf: &Value| {
        let variables: String = variables.map(|v| format!("{v}\0")).concat();
        corpus.add_to("cni_request", name, verb, variables + &conf.to_string());
    };
    let (netns, args) = (pod.netns_path(), pod.args());
    let own = [pod.container.as_str(), pod.ifname.as_str(), netns.as_str(), args.as_str()];
    let conf = |prev: Option<&Value>| node.plugin_conf("ovs-flow-gc", Some(pod), prev);
    add("add", 0, own, &conf(Some(&pod.result)));
    add("del", 1, own, &conf(Some(&pod.result)));
    add("del-late", 1, [own[0], own[1], "", own[3]], &conf(None));
    add("check", 2, own, &conf(Some(&pod.result)));
    let mut gc = conf(None);
    gc["cni.dev/valid-attachments"] = json!([{"containerID": pod.container, "ifname": "eth0"}]);
    gc["cni.dev/attachments"] = gc["cni.dev/valid-attachments"].clone();
    add("gc", 3, [""; 4], &gc);
    gc["cni.dev/valid-attachments"] = Value::Null;
    add("gc-null", 3, [""; 4], &gc);
    add("status", 4, [""; 4], &conf(None));
    let mut rich = conf(Some(&pod.result));
    for (key, value) in [
        ("cniVersion", json!("0.4.0")),
        ("preset", json!("openshift-sdn")),
        ("bridges", json!(["br-int", "br-tun"])),
        ("tables", json!([0, 10, "20"])),
        ("cookie", json!("0x2a/0xff")),
        ("reg0", json!("externalId:pod-id")),
        ("register", json!("reg3")),
        ("registerMask", json!("0xffff")),
        ("match", json!(["ip", "port"])),
        ("ipScope", json!("cluster")),
        ("mode", json!("observe")),
        ("lingerSeconds", json!(7)),
        ("logLevel", json!("debug")),
        ("logFile", json!("/var/log/ovs-flow-gc.log")),
        ("conntrack", json!(true)),
    ] {
        rich[key] = value;
    }
    rich["prevResult"]["routes"] = json!([{"dst": "0.0.0.0/0", "gw": "10.244.1.1"}]);
    add("add-rich", 0, own, &rich);
    rich["brigde"] = json!("br0");
    rich["tables"] = json!([255]);
    add("del-wrong", 1, own, &rich);
}

/// What ADD, DEL and a sweep write.
fn state(node: &Node, pods: &[Attached], corpus: &mut Corpus) {
    let files = |path: &str| -> Vec<(String, Vec<u8>)> {
        let entries = fs::read_dir(node.state_dir.join(path)).into_iter().flatten().flatten();
        let files = entries.filter(|entry| entry.path().is_file());
        let mut files: Vec<_> = files
            .map(|f| (f.file_name().into_string().unwrap(), fs::read(f.path()).unwrap()))
            .collect();
        files.sort();
        files
    };
    let records = |corpus: &mut Corpus, path: &str, kind: &str| -> usize {
        let mut found = 0;
        for (n, (name, bytes)) in files(path).into_iter().enumerate() {
            if name == "config.json" {
                corpus.add("network_state", kind, bytes);
                continue;
            }
            corpus.add("record", &format!("{kind}-{n}"), bytes);
            corpus.add("file_names", &format!("{kind}-{n}"), format!("podnet\n{name}"));
            found += 1;
        }
        found
    };
    assert_eq!(records(corpus, "podnet", "active"), pods.len());
    // One dies with a DEL, one without.
    node.try_del(&pods[0]).unwrap();
    node.vanish(&pods[1], Port::Gone);
    let swept = node.admin(&["sweep", "--yes"]);
    assert!(matches!(swept.code, Some(0 | 3)), "{swept}");
    assert_eq!(records(corpus, "podnet/dead", "dead"), pods.len());
    records(corpus, "podnet", "swept");
    let journals = files("journal");
    assert!(!journals.is_empty());
    for (n, (name, bytes)) in journals.into_iter().enumerate() {
        corpus.add("journal", &format!("{n}"), bytes);
        corpus.add("words", &format!("journal-{n}"), name.replace(".jsonl", ""));
    }
}

fn conflists(corpus: &mut Corpus) {
    let root = directory().parent().unwrap().to_owned();
    for path in ["conf/conflists", "tests/data/conflists"] {
        for entry in fs::read_dir(root.join(path)).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            if name.contains(".conf") {
                let bytes = fs::read(entry.path()).unwrap();
                corpus.add("conflist", &format!("{}-{name}", path.replace('/', "-")), &bytes);
                if name.starts_with("10-") {
                    corpus.add("node_files", &format!("{}-{name}", path.replace('/', "-")), &bytes);
                }
            }
        }
    }
}

#[expect(clippy::too_many_lines, reason = "a list")]
fn by_hand(corpus: &mut Corpus) {
    for (name, header, body) in [
        ("all", 6, "".as_bytes()),
        ("old", 1, b""),
        ("unknown-element", 6, b"\0\x09\0\x07\xaa\xbb\xcc\0\0\x01\0\x08\0\0\0\x42"),
    ] {
        corpus.add_to("openflow_hello", name, header, body);
    }
    // An error in the place of a dump, of a bundle's commit, of everything.
    let v13 = |messages: &[(u8, u32, &[u8])]| {
        let mut said = b"\x04\0\0\x10\0\0\0\x01\0\x01\0\x08\0\0\0\x10".to_vec();
        for (kind, xid, body) in messages {
            said.extend([4, *kind]);
            said.extend(u16::try_from(body.len() + 8).unwrap().to_be_bytes());
            said.extend(xid.to_be_bytes());
            said.extend(*body);
        }
        said
    };
    let unknown_field: &[u8] = b"\0\x04\0\x06";
    corpus.add_to("openflow_dump", "unknown-field", 0, v13(&[(1, 3, unknown_field)]));
    let empty: &[u8] = b"\0\x01\0\0\0\0\0\0";
    let first: &[u8] = b"\0\x01\0\x01\0\0\0\0";
    let parts = [(2, 0, &b"echo"[..]), (19, 3, first), (19, 3, first), (19, 3, empty)];
    corpus.add_to("openflow_dump", "parts-and-echo", 0, v13(&parts));
    // A switch without bundles is told one by one: a barrier's reply.
    let none: &[u8] = b"\0\x01\0\x03";
    let no_bundles = [(1, 3, none), (1, 4, none), (1, 7, none), (21, 11, &b""[..])];
    corpus.add_to("openflow_replies", "no-bundles", 1, v13(&no_bundles));
    let refused = [(1, 3, none), (1, 7, none), (1, 8, &b"\0\x05\0\x04"[..]), (21, 11, b"")];
    corpus.add_to("openflow_replies", "no-bundles-refused", 1, v13(&refused));

    // A pause, and a change of our own by a mere xid.
    let (paused, resumed) = (b"ONF\0\0\0\x07\x4f", b"ONF\0\0\0\x07\x50");
    corpus.add_to("openflow_monitor", "paused-13", 0x80, paused);
    corpus.add_to("openflow_monitor", "resumed-13", 0x80, resumed);
    let told = b"\0\x10\0\0\0\0\0\0\0\x08\0\x05\0\0\0\0\0\x08\0\x06\0\0\0\0\0\x08\0\x04\0\0\0\x07";
    corpus.add_to("openflow_monitor", "paused-14", 1, told);
    let paused = [(19, 3, &b"\xff\xff\0\0\0\0\0\0ONF\0\0\0\x07\x4e"[..]), (4, 0, paused)];
    let paused = [&paused[..], &[(21, 4, b"")]].concat();
    corpus.add_to("openflow_replies", "watch-paused", 7, v13(&paused));

    for (name, selector, said) in [
        ("number", 5, r#"{"id":1,"result":[{},{"rows":[{"ofport":5}]}],"error":null}"#),
        (
            "no-number",
            5,
            r#"{"id":1,"result":[{"error":"timed out","details":"x"},null],"error":null}"#,
        ),
        ("removed", 7, r#"{"id":1,"result":[{},{},{"count":1},{}],"error":null}"#),
        ("changed", 7, r#"{"id":1,"result":[{"error":"timed out"},null,null,null],"error":null}"#),
        (
            "probed",
            6,
            r#"{"id":"echo","method":"echo","params":[1]}{"id":1,"result":["Open_vSwitch"],"error":null}"#,
        ),
        ("refused", 6, r#"{"id":1,"error":{"error":"unknown database","details":"none"}}"#),
        ("other", 6, r#"{"id":2,"result":[],"error":null}"#),
    ] {
        corpus.add_to("ovsdb_rpc", name, selector, said);
        corpus.add_to("ovsdb_frames", name, 1, said);
    }
    let root = directory().parent().unwrap().join("tests/data/ovsdb");
    for entry in fs::read_dir(root).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        let Ok(answer) = serde_json::from_slice::<Value>(&fs::read(entry.path()).unwrap()) else {
            continue;
        };
        let name = name.trim_end_matches(".json");
        corpus.add("ovsdb_rows", name, answer["result"].to_string());
        corpus.add_to("ovsdb_rpc", name, 0, answer.to_string());
    }
    let row = r#"["uuid","1bba7323-f214-49f0-82a3-7998adef5aea"]"#;
    let rows = format!(
        r#"[{{"rows":[{{"external_ids":["map",[["ovn-remote","ssl:1"]]],"ovs_version":"3.1.0"}}]}},{{"rows":[{{"_uuid":{row},"name":"b","datapath_type":"","protocols":["set",[]],"fail_mode":["set",[]],"ports":{row}}}]}},{{"rows":[{{"_uuid":{row},"name":"p","interfaces":{row},"external_ids":["map",[["container-id","a\nb"]]],"mac":"0a:00:00:00:00:01"}}]}},{{"rows":[{{"_uuid":{row},"name":"i","type":"","ofport":70000,"external_ids":["map",[["ip","0.0.0.0"],["sandbox","x"]]],"mac_in_use":["set",[]],"ifindex":0,"error":"gone","options":["map",[]]}}]}}]"#
    );
    corpus.add("ovsdb_rows", "small", rows);
    for (name, update) in [
        (
            "failed",
            r#"[null,{"Interface":{"u":{"old":{"ofport":5},"new":{"name":"veth1","ofport":-1}}}}]"#,
        ),
        ("nothing", "[null,{}]"),
        (
            "unassigned",
            r#"["x",{"Interface":{"u":{"old":{"ofport":["set",[]]},"new":{"name":"v","ofport":5}}}}]"#,
        ),
        (
            "insert",
            r#"[null,{"Interface":{"u":{"new":{"name":"v","ofport":["set",[]]}},"w":{"old":{"name":"w"}}}}]"#,
        ),
    ] {
        corpus.add("ovsdb_update", name, update);
    }

    let cached = json!({
        "kind": "cniCacheV1", "containerId": "c1f2", "config": "eyJ0eXBlIjoib3ZzLWZsb3ctZ2MifQ==",
        "ifName": "eth0", "networkName": "podnet", "netns": "/var/run/netns/cni-1",
        "cniArgs": [["IgnoreUnknown", "1"], ["K8S_POD_NAMESPACE", "shop"], ["K8S_POD_NAME", "web"]],
        "result": {"cniVersion": "1.0.0", "interfaces": [{"name": "veth1"},
            {"name": "eth0", "mac": "0a:00:00:00:00:05", "sandbox": "/var/run/netns/cni-1"}],
            "ips": [{"address": "10.244.1.5/24", "gateway": "10.244.1.1", "interface": 1}]},
    });
    let mut old = cached.clone();
    old["netns"] = Value::Null;
    old["cniArgs"] = Value::Null;
    let mut bare = cached.clone();
    bare["result"] = Value::Null;
    let mut hostile = cached.clone();
    hostile["containerId"] = json!("../../etc/passwd");
    let mut other = cached.clone();
    other["kind"] = json!("cniCacheV2");
    for (name, value) in
        [("new", &cached), ("old", &old), ("bare", &bare), ("hostile", &hostile), ("other", &other)]
    {
        corpus.add("cached_result", name, value.to_string());
    }
    corpus.add("node_files", "cached", cached.to_string());
    corpus.add("node_files", "multus", r#"{"delegates":[{"plugins":[{"type" : "ovs-flow-gc"}]}]}"#);

    for (name, file) in [
        ("lock", "_lock\nc:eth0.json"),
        ("dots", "a.b-c\nc.d:net1.5.7.json"),
        ("odd", "podnet\nc1:eth0.007.json"),
        ("traversal", "..\n../x.json"),
    ] {
        corpus.add("file_names", name, file);
    }
    corpus.add("network_state", "empty", "{}");
    corpus.add("network_state", "learned", r#"{"config":{"reg0":"externalId:x","match":{"port":true,"register":false,"ip":true,"mac":true},"cookie":42,"cookieMask":255},"registerShared":true}"#);
    corpus.add(
        "network_state",
        "cluster",
        r#"{"config":{"ipScope":"cluster","mode":"observe","tables":[0,10],"stateDir":"/x"}}"#,
    );
    corpus.add("journal", "torn", "{\"id\":\"20261121T101112.123-4711\",\"when\":{\"boot_ms\":1,\"wall_ms\":2},\"verb\":\"sweep\",\"bridges\":[\"br0\"],\"reason\":\"x\"}\n{\"subject\":{\"bridge\":\"br0\",\"pod\":\"a/b\"},\"rule\":\"r\",\"reason\":\"s\"}\n{\"of\":0,\"entry\":\"4 0 64 0 0 0 0 0  \"}\n{\"of\":7,\"entry\":\"4 0 64 0 0 0 0 0  \"}\n{\"truncated\":true}\n{\"of\":0,\"en");
    corpus.add("journal", "header", "{\"id\":\"20261121T101112.123-4711\",\"when\":{\"boot_ms\":1,\"wall_ms\":2},\"verb\":\"DEL\",\"bridges\":[],\"reason\":\"\"}\n");

    for (name, daemon, line) in [
        ("sweep", 0, "sweep\0--dry-run\0--json"),
        ("explain", 0, "explain\0shop/web-0\0--state-dir\0/x"),
        ("undo", 0, "undo\x0020261121T101112.123-4711"),
        ("adopt", 0, "adopt\0--conflist\0/etc/cni/net.d/10-x.conflist\0--dry-run"),
        (
            "conflist",
            0,
            "conflist\0add\0/x\0--after\0ovs\0--settings\0{\"preset\":\"antrea\",\"tables\":[1]}",
        ),
        ("find", 0, "conflist\0find\0/etc/cni/net.d\0--ours"),
        ("install", 0, "self-install\0--net-dir\0/x"),
        ("doctor", 0, "doctor\0--timeout\x007\0--log-level\0debug"),
        (
            "daemon",
            1,
            "--interval\x001500ms\0--listen\0[::]:9477\0--liveness\0netns,cri,kubernetes",
        ),
        (
            "daemon-more",
            1,
            "--node-name\0n1\0--netns-dir\0/a,/b\0--cri-socket\0/run/crio/crio.sock",
        ),
    ] {
        corpus.add_to("arguments", name, daemon, line);
    }
    for (name, word) in [
        ("mac", "0a:00:00:00:00:05"),
        ("mac-dashes", "A-0-0-0-0-5"),
        ("row", "1bba7323-f214-49f0-82a3-7998adef5aea"),
        ("id", "20261121T101112.123-4711"),
        ("reg0", "externalId:pod-id"),
        ("ifname", "eth0@if7"),
        ("traversal", "../../etc"),
    ] {
        corpus.add("words", name, word);
    }
    for (name, list) in [
        ("empty", ""),
        ("two", "0\taaaa01\tuid-1\n1\tbbbb02\t\n"),
        ("no-uid", "0\taaaa01\t"),
        ("twice", "0\ta\tu\n0\ta\tu"),
        ("odd-state", "7\ta\tu"),
        ("bare", "0\ta"),
    ] {
        corpus.add("cri_list", name, list);
    }
    let pod = |uid: &str, phase: &str| {
        format!(
            r#"{{"metadata":{{"name":"web","uid":"{uid}","resourceVersion":"7","annotations":{{"a":"b","kubernetes.io/config.hash":"h","kubernetes.io/config.mirror":"h"}}}},"spec":{{"nodeName":"n1"}},"status":{{"phase":"{phase}","podIP":"10.0.0.1","podIPs":[{{"ip":"10.0.0.1"}},{{"ip":"fd00::1"}}]}}}}"#
        )
    };
    let plain = |uid: &str, phase: &str| {
        format!(
            r#"{{"metadata":{{"uid":"{uid}","resourceVersion":"8"}},"spec":{{"nodeName":"n1"}},"status":{{"phase":"{phase}"}}}}"#
        )
    };
    let (running, failed) = (plain("uid-1", "Running"), plain("uid-1", "Failed"));
    for (name, items) in [
        ("empty", "[]".to_owned()),
        ("null", "null".to_owned()),
        ("two", format!("[{running}, {}]", pod("uid-2", "Failed"))),
        ("tricky", r#"[ {"a":"}]\"","b":[{"items":[{}]}]}, {} ]"#.to_owned()),
    ] {
        let list = format!(
            r#"{{"kind":"PodList","metadata":{{"resourceVersion":"7","continue":""}},"items":{items}}}"#
        );
        corpus.add_to("kubernetes_list", name, 7, list);
    }
    corpus.add_to("kubernetes_list", "cut", 7, r#"{"kind":"PodList","metadata":{},"items":[{"#);
    for (name, events) in [
        ("life", vec![("ADDED", &running), ("MODIFIED", &failed), ("DELETED", &failed)]),
        ("running", vec![("ADDED", &running), ("BOOKMARK", &running)]),
        ("mirror", vec![("ADDED", &pod("uid-3", "Running"))]),
        ("unknown", vec![("GONE", &running)]),
    ] {
        let lines: String = events
            .iter()
            .map(|(kind, object)| format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n"))
            .collect();
        corpus.add_to("kubernetes_watch", name, 9, lines);
    }
    corpus.add_to("kubernetes_watch", "expired", 200, "{\"type\":\"ERROR\",\"object\":{\"code\":410,\"message\":\"too old\",\"details\":{\"causes\":[{\"reason\":\"ResourceVersionTooLarge\"}]}}}\n");
}
