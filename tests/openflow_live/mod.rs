//! The OpenFlow client against a real ovs-vswitchd (userspace datapath), with `ovs-ofctl`
//! as the oracle. Needs root and the Debian package `openvswitch-switch`; fails without.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use ovs_flow_gc::model::flow::{Actions, Address, Flow, Side};
use ovs_flow_gc::openflow::{
    Applied, Connection, Entry, Error, Filter, RawEntry, Version, delete_strict_parallel,
    filters_for_address,
};
use ovs_flow_gc::util::clock::Deadline;

/// A switch of its own: network namespace, run directory, database, both daemons.
struct Switch {
    namespace: String,
    run: PathBuf,
    children: Vec<Child>,
}

impl Switch {
    fn start() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("ofl{}-{n}", std::process::id());
        let run = std::env::temp_dir().join(&namespace);
        std::fs::create_dir_all(&run).unwrap();
        let mut switch = Self { namespace, run, children: Vec::new() };
        ok(Command::new("ip").args(["netns", "add", &switch.namespace]));
        let db = switch.run.join("conf.db");
        ok(Command::new("ovsdb-tool")
            .arg("create")
            .arg(&db)
            .arg("/usr/share/openvswitch/vswitch.ovsschema"));
        let socket = switch.run.join("db.sock");
        let remote = format!("--remote=punix:{}", socket.display());
        switch.spawn("ovsdb-server", &[db.to_str().unwrap(), &remote]);
        eventually("db.sock", || socket.exists());
        switch.vsctl(&["--no-wait", "init"]);
        let log = format!("--log-file={}", switch.run.join("vswitchd.log").display());
        switch.spawn("ovs-vswitchd", &["--disable-system", "-vfile:info", &log, "unix:db.sock"]);
        switch.bridge("br0", &[]);
        switch
    }

    fn spawn(&mut self, daemon: &str, args: &[&str]) {
        let child = Command::new("ip")
            .args(["netns", "exec", &self.namespace, daemon, "-vconsole:off", "--pidfile"])
            .args(args)
            .current_dir(&self.run)
            .env("OVS_RUNDIR", &self.run)
            .env("OVS_DBDIR", &self.run)
            .env("OVS_LOGDIR", &self.run)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.children.push(child);
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("OVS_RUNDIR", &self.run).arg("--timeout=10");
        command
    }

    fn vsctl(&self, args: &[&str]) -> String {
        let remote = format!("--db=unix:{}", self.run.join("db.sock").display());
        ok(self.command("ovs-vsctl").arg(remote).args(args))
    }

    fn ofctl(&self, args: &[&str]) -> String {
        ok(self.command("ovs-ofctl").args(args))
    }

    fn bridge(&self, name: &str, settings: &[&str]) -> PathBuf {
        let mut args = vec!["add-br", name, "--", "set", "bridge", name, "datapath_type=netdev"];
        args.extend(settings);
        args.extend(["--", "set-fail-mode", name, "secure"]);
        self.vsctl(&args);
        let path = self.run.join(format!("{name}.mgmt"));
        eventually("the bridge's socket", || path.exists());
        path
    }

    fn add_port(&self, bridge: &str, name: &str) -> u16 {
        self.vsctl(&["add-port", bridge, name, "--", "set", "interface", name, "type=internal"]);
        self.vsctl(&["get", "interface", name, "ofport"]).trim().parse().unwrap()
    }

    fn path(&self, bridge: &str) -> PathBuf {
        self.run.join(format!("{bridge}.mgmt"))
    }

    /// A connection that can only agree on this version.
    fn open(&self, bridge: &str, version: Version) -> Connection {
        let protocols = format!("protocols=OpenFlow10,{version}");
        self.vsctl(&["set", "bridge", bridge, &protocols]);
        let connection = Connection::open(&self.path(bridge), within(5000)).unwrap();
        assert_eq!(connection.version(), version);
        connection
    }

    fn add_flows(&self, bridge: &str, version: &str, flows: &[&str]) {
        let file = self.run.join("flows.txt");
        let mut text = flows.join("\n");
        text.push('\n');
        write(&file, &text);
        self.ofctl(&["-O", version, "add-flows", bridge, file.to_str().unwrap()]);
    }

    fn appctl(&self, args: &[&str]) -> String {
        let pid = std::fs::read_to_string(self.run.join("ovs-vswitchd.pid")).unwrap();
        let ctl = self.run.join(format!("ovs-vswitchd.{}.ctl", pid.trim()));
        ok(self.command("ovs-appctl").args(["-t", ctl.to_str().unwrap()]).args(args))
    }

    fn signal(&self, signal: &str) {
        let pid = std::fs::read_to_string(self.run.join("ovs-vswitchd.pid")).unwrap();
        ok(Command::new("kill").args([signal, pid.trim()]));
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            drop(child.kill());
            drop(child.wait());
        }
        drop(Command::new("ip").args(["netns", "del", &self.namespace]).status());
        drop(std::fs::remove_dir_all(&self.run));
    }
}

#[expect(clippy::disallowed_methods, reason = "a test's input file")]
fn write(path: &PathBuf, text: &str) {
    std::fs::write(path, text).unwrap();
}

fn ok(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = String::from_utf8_lossy(&stdout).into_owned();
    assert!(status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&stderr));
    text
}

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(40), "waited in vain for {what}");
        sleep(Duration::from_millis(10));
    }
}

fn within(ms: u64) -> Deadline {
    Deadline::after(Duration::from_millis(ms))
}

const VERSIONS: [Version; 3] = [Version::V13, Version::V14, Version::V15];

fn dump(connection: &mut Connection, filter: &Filter) -> Vec<(Entry, Flow)> {
    connection.set_deadline(within(20_000));
    let mut found = Vec::new();
    connection.dump(filter, &mut |raw, flow| found.push((raw.to_entry(), flow.clone()))).unwrap();
    found
}

fn entries(connection: &mut Connection) -> Vec<Entry> {
    dump(connection, &Filter::default()).into_iter().map(|(entry, _)| entry).collect()
}

/// Every match field that OVS 3.1 lets a client add, an address or not.
const MATCHES: &[&str] = &[
    "in_port=5",
    "in_port=LOCAL",
    "metadata=0x5",
    "metadata=0x5/0xff",
    "dl_src=0a:00:00:00:00:01",
    "dl_dst=0a:00:00:00:00:01",
    "dl_dst=01:00:00:00:00:00/01:00:00:00:00:00",
    "dl_type=0x88cc",
    "dl_vlan=5",
    "dl_vlan=5,dl_vlan_pcp=3",
    "ip",
    "ip,nw_src=10.244.1.5",
    "ip,nw_dst=10.244.1.5",
    "ip,nw_src=10.244.1.0/24",
    "ip,nw_dst=10.0.1.5/255.0.255.255",
    "ip,nw_tos=32",
    "ip,nw_ecn=2",
    "ip,nw_ttl=64",
    "ip,nw_frag=first",
    "ip,nw_proto=47",
    "tcp,tp_src=80",
    "tcp,tp_dst=80",
    "tcp,tp_dst=0x50/0xfff0",
    "tcp,tcp_flags=+syn-ack",
    "udp,tp_src=53",
    "udp,tp_dst=53",
    "sctp,tp_src=5",
    "sctp,tp_dst=5",
    "icmp,icmp_type=8,icmp_code=0",
    "icmp6,icmp_type=128,icmp_code=0",
    "arp,arp_op=1",
    "arp,arp_spa=10.244.1.5",
    "arp,arp_tpa=10.244.1.5",
    "arp,arp_sha=0a:00:00:00:00:01",
    "arp,arp_tha=0a:00:00:00:00:01",
    "rarp,arp_spa=10.244.1.5",
    "rarp,arp_tpa=10.244.1.5",
    "rarp,arp_sha=0a:00:00:00:00:01",
    "rarp,arp_tha=0a:00:00:00:00:01",
    "ipv6",
    "ipv6,ipv6_src=fd00::5",
    "ipv6,ipv6_dst=fd00::5",
    "ipv6,ipv6_src=fd00::/64",
    "ipv6,ipv6_label=0x12345",
    "tcp6,tp_dst=80",
    "icmp6,icmp_type=135,nd_target=fd00::5",
    "icmp6,icmp_type=136,nd_target=fd00::5",
    "icmp6,icmp_type=135,nd_sll=0a:00:00:00:00:01",
    "icmp6,icmp_type=136,nd_tll=0a:00:00:00:00:01",
    "mpls,mpls_label=5,mpls_tc=3,mpls_bos=1",
    "mpls,mpls_ttl=9",
    "tun_id=0x5",
    "tun_src=1.2.3.4",
    "tun_dst=1.2.3.4",
    "tun_ipv6_src=fd00::9",
    "tun_ipv6_dst=fd00::9",
    "reg0=0x5",
    "reg1=0x5",
    "reg15=0x5",
    "reg3=0x5/0xff",
    "reg0=0x1,reg1=0x2,reg2=0x3,reg3=0x4",
    "pkt_mark=0x5",
    "conj_id=5",
    "ct_state=+trk-inv",
    "ct_zone=5",
    "ct_mark=0x5",
    "ct_label=0x5",
    "ct_state=+new+trk,ip,ct_nw_src=10.244.1.5",
    "ct_state=+trk-inv,ip,ct_nw_src=10.244.1.5",
    "ct_state=+est+trk,ip,ct_nw_dst=10.244.1.5",
    "ct_state=+rel+trk,ip,ct_nw_dst=10.244.1.5",
    "ct_state=+rpl+trk,ip,ct_nw_dst=10.244.1.5",
    "ct_state=+snat+trk,ip,ct_nw_src=10.244.1.5",
    "ct_state=+dnat+trk,ip,ct_nw_src=10.244.1.5",
    "ct_state=+trk-inv,ipv6,ct_ipv6_src=fd00::5",
    "ct_state=+est+trk,ipv6,ct_ipv6_dst=fd00::5",
    "ct_state=+new+trk,tcp,ct_nw_proto=6,ct_tp_src=80,ct_tp_dst=81",
    "actset_output=5",
];

/// Actions whose text is ours to check against `ovs-ofctl`'s.
const ACTIONS: &[&str] = &[
    "drop",
    "output:5",
    "LOCAL",
    "NORMAL",
    "FLOOD",
    "ALL",
    "IN_PORT",
    "CONTROLLER:65535",
    "output(port=5,max_len=100)",
    "resubmit(,10)",
    "resubmit:5",
    "resubmit(5,10)",
    "resubmit(,10,ct)",
    "goto_table:20",
    "clear_actions",
    "write_actions(output:5)",
    "write_metadata:0x5",
    "write_metadata:0x5/0xff",
    "set_queue:3,output:5,pop_queue",
    "clone(output:5)",
    "clone(clone(output:5),output:6)",
    "ct(commit,zone=5)",
    "ct(commit,table=10,zone=5)",
    "ct(commit,zone=5,nat(src=10.0.0.1-10.0.0.5:100-200))",
    "ct(commit,nat(dst=10.0.0.1:80))",
    "ct(table=1,nat)",
    "ct_clear",
    "conjunction(5,1/2)",
    "set_field:0x1005->reg0",
    "set_field:0x1122334455667788->xreg0",
    "set_field:aa:bb:cc:dd:ee:ff->eth_dst",
    "set_field:fd00::1->ipv6_dst",
    "set_field:0x5->tun_id",
    "set_field:1.2.3.4->tun_dst",
    "set_field:4101->vlan_vid",
    "push_vlan:0x8100",
    "pop_vlan",
    "push_mpls:0x8847",
    "pop_mpls:0x0800",
    "dec_ttl",
    "exit",
];

/// Others: they must be read without "unread", whatever they look like.
const OTHERS: &[&str] = &[
    "output:NXM_NX_REG1[0..15]",
    "load:0x1005->NXM_NX_REG0[]",
    "load:5->NXM_NX_REG0[0..15]",
    "set_field:5/0xff->reg0",
    "load:0x5->NXM_NX_XXREG0[96..127]",
    "load:5->OXM_OF_PKT_REG0[32..63]",
    "load:7->NXM_OF_IN_PORT[]",
    "move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[]",
    "move:NXM_NX_REG1[]->NXM_NX_REG0[]",
    "push:NXM_NX_REG0[],pop:NXM_NX_REG2[0..15]",
    "multipath(eth_src,50,modulo_n,1,0,NXM_NX_REG0[])",
    "bundle(eth_src,0,hrw,ofport,members:4,8)",
    "bundle_load(eth_src,0,hrw,ofport,NXM_NX_REG0[],members:4,8)",
    "check_pkt_larger(1500)->NXM_NX_REG0[0]",
    "learn(table=10,reg0=0x5,load:7->OXM_OF_IN_PORT[])",
    "learn(table=10,NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],load:NXM_NX_REG1[0..15]->NXM_NX_REG0[0..15],output:NXM_OF_IN_PORT[])",
    "learn(table=10,limit=5,result_dst=NXM_NX_REG0[3],delete_learned,eth_type=0x800,NXM_OF_IP_DST[]=NXM_OF_IP_SRC[],output:NXM_NX_REG0[0..15])",
    "controller(reason=no_match,max_len=128,id=5)",
    "controller(userdata=01.02)",
    "controller(pause)",
    "sample(probability=3,collector_set_id=1,obs_domain_id=2,obs_point_id=3)",
    "sample(probability=3,collector_set_id=1,obs_domain_id=2,obs_point_id=3,sampling_port=5)",
    "sample(probability=3,collector_set_id=1,obs_domain_id=2,obs_point_id=3,sampling_port=5,egress)",
    "note:01.02.03",
    "fin_timeout(idle_timeout=5)",
    "dec_ttl(1,2)",
    "ct(commit,zone=NXM_NX_REG5[0..15],exec(load:1->NXM_NX_CT_MARK[]))",
    "ct(commit,alg=ftp)",
    "set_mpls_ttl(5)",
    "dec_mpls_ttl",
    "mod_nw_ttl:5",
    "mod_nw_tos:32",
    "mod_tp_dst:80",
    "encap(nsh),set_field:5->nsh_spi,decap()",
    "group:7",
    "meter:1",
    "delete_field:tun_metadata0",
];

/// A flow's terms, in no order.
fn terms(text: &str) -> BTreeSet<String> {
    text.split(',').map(|term| term.trim().to_owned()).filter(|term| !term.is_empty()).collect()
}

/// The flows as `ovs-ofctl` prints them: match terms and action text.
fn oracle(switch: &Switch, bridge: &str, version: Version) -> Vec<(BTreeSet<String>, String)> {
    let text = switch.ofctl(&[
        "-O",
        &version.to_string(),
        "--no-names",
        "--no-stats",
        "dump-flows",
        bridge,
    ]);
    let lines = text.lines().filter(|line| line.contains("actions="));
    lines
        .map(|line| {
            let (matches, actions) = line.split_once("actions=").unwrap();
            (terms(matches.trim()), actions.to_owned())
        })
        .collect()
}

fn ours(entry: &Entry) -> (BTreeSet<String>, String) {
    let text = entry.to_string();
    let (matches, actions) = text.split_once(" actions=").unwrap();
    let mut terms = terms(matches);
    // ovs-ofctl leaves defaults out.
    terms.remove("table=0");
    terms.remove("priority=32768");
    (terms, actions.to_owned())
}

/// Numbered by cookie, so that lists can be matched up.
fn numbered(flows: &[String]) -> Vec<String> {
    flows.iter().enumerate().map(|(i, flow)| format!("cookie={:#x},{flow}", i + 1)).collect()
}

fn add_numbered(switch: &Switch, bridge: &str, flows: &[String]) {
    let flows = numbered(flows);
    let flows: Vec<&str> = flows.iter().map(String::as_str).collect();
    switch.add_flows(bridge, "OpenFlow15", &flows);
}

fn all_flows() -> Vec<String> {
    let matches = MATCHES.iter().enumerate();
    let mut flows: Vec<String> = matches
        .map(|(i, m)| format!("table={},priority={},{m},actions=output:9", i % 3, 1000 + i))
        .collect();
    for (i, action) in ACTIONS.iter().chain(OTHERS).enumerate() {
        let needs = match *action {
            a if a.starts_with("conjunction") => "ip,",
            a if a.contains(",ct)") => "ct_state=+trk-inv,ip,",
            a if a.contains("mpls_ttl") => "mpls,",
            a if a.contains("pop_mpls") => "mpls,",
            a if a.contains("ipv6_dst") => "ipv6,",
            a if a.contains("vlan_vid") || a.contains("pop_vlan") => "dl_vlan=7,",
            a if ["tp_dst", "fin_timeout", "alg="].iter().any(|x| a.contains(x)) => "tcp,",
            a if ["ct(", "ttl", "nw_tos", "NXM_OF_IP"].iter().any(|x| a.contains(x)) => "ip,",
            _ => "",
        };
        flows.push(format!("table=4,priority={},{needs}reg7={i},actions={action}", 2000 + i));
    }
    flows
}

fn prepare(switch: &Switch) {
    switch.vsctl(&[
        "set",
        "bridge",
        "br0",
        "protocols=OpenFlow10,OpenFlow13,OpenFlow14,OpenFlow15",
    ]);
    switch.ofctl(&["-O", "OpenFlow15", "del-flows", "br0"]);
    switch.ofctl(&["-O", "OpenFlow15", "--may-create", "mod-group", "br0", "group_id=7,type=all"]);
    drop(
        switch
            .command("ovs-ofctl")
            .args(["-O", "OpenFlow15", "add-meter", "br0", "meter=1,kbps,band=type=drop,rate=9"])
            .output(),
    );
    drop(
        switch
            .command("ovs-ofctl")
            .args(["add-tlv-map", "br0", "{class=0xffff,type=0,len=4}->tun_metadata0"])
            .output(),
    );
}

#[test]
fn every_field_and_action_is_read_shown_deleted_and_put_back() {
    let switch = Switch::start();
    for version in VERSIONS {
        prepare(&switch);
        let flows = all_flows();
        add_numbered(&switch, "br0", &flows);
        let mut connection = switch.open("br0", version);
        let before = dump(&mut connection, &Filter::default());
        assert_eq!(before.len(), flows.len(), "{version}");
        let shown = oracle(&switch, "br0", version);
        assert_eq!(shown.len(), flows.len());
        let mut differ = Vec::new();
        for (entry, flow) in &before {
            let cookie = format!("cookie={:#x}", entry.cookie());
            let (terms, actions) = ours(entry);
            let theirs = shown.iter().find(|(terms, _)| terms.contains(&cookie)).unwrap();
            if terms != theirs.0 {
                differ.push(format!("{version} {terms:?} {:?}", theirs.0));
            }
            let source = &flows[usize::try_from(entry.cookie()).unwrap() - 1];
            let comparable = ACTIONS.iter().any(|a| source.ends_with(&format!("actions={a}")));
            if comparable && actions != theirs.1 {
                differ.push(format!("{version} {actions} {}", theirs.1));
            }
            assert!(!actions.contains("unreadable"), "{version} {entry}");
            assert!(!flow.actions.unread, "{version} {entry}");
            let age = entry.raw().duration();
            assert!(age < Duration::from_secs(60) && !age.is_zero());
        }
        assert!(differ.is_empty(), "ours, ovs-ofctl's:\n{}", differ.join("\n"));

        let list: Vec<Entry> = before.into_iter().map(|(entry, _)| entry).collect();
        let deleted = connection.delete_strict(&list).unwrap();
        assert_eq!((deleted.sent, deleted.refused), (list.len(), vec![]), "{version}");
        assert_eq!(entries(&mut connection), [], "{version}: not all gone");

        let added = connection.add(&list).unwrap();
        assert_eq!(added.refused, [], "{version}");
        let again = entries(&mut connection);
        let contents = |list: &[Entry]| list.iter().map(Entry::content).collect::<BTreeSet<_>>();
        assert_eq!(contents(&again), contents(&list), "{version}: not as it was");
    }
}

#[test]
fn timeouts_flags_and_importance_come_back_too() {
    let switch = Switch::start();
    let flows = [
        "idle_timeout=600,hard_timeout=700,send_flow_rem,priority=1,ip,actions=drop",
        "importance=9,priority=2,ip,actions=drop",
        "no_packet_counts,no_byte_counts,priority=3,ip,actions=drop",
        "check_overlap,reset_counts,priority=4,arp,actions=drop",
    ];
    for version in VERSIONS {
        prepare(&switch);
        switch.add_flows("br0", "OpenFlow15", &flows);
        switch.add_flows("br0", "OpenFlow10", &["priority=5,ip,actions=drop"]);
        let mut connection = switch.open("br0", version);
        let before = entries(&mut connection);
        assert_eq!(before.len(), 5);
        assert_eq!(connection.delete_strict(&before).unwrap().sent, 5);
        assert_eq!(entries(&mut connection), []);
        assert_eq!(connection.add(&before).unwrap().refused, []);
        let after = entries(&mut connection);
        let content = |list: &[Entry]| list.iter().map(Entry::content).collect::<BTreeSet<_>>();
        assert_eq!(content(&after), content(&before), "{version}");
    }
}

#[test]
fn an_entry_that_asked_for_no_overlap_goes_back_beside_later_ones() {
    let switch = Switch::start();
    for version in VERSIONS {
        prepare(&switch);
        switch.add_flows(
            "br0",
            "OpenFlow15",
            &["cookie=1,check_overlap,priority=9,ip,actions=drop"],
        );
        switch.add_flows("br0", "OpenFlow15", &["cookie=2,priority=9,in_port=1,actions=drop"]);
        let mut connection = switch.open("br0", version);
        let mut list = entries(&mut connection);
        list.sort_by_key(Entry::cookie);
        assert_eq!(connection.delete_strict(&list[..1]).unwrap().sent, 1);
        let added = connection.add(&list[..1]).unwrap();
        assert_eq!((added.sent, added.refused), (1, vec![]), "{version}");
        assert_eq!(entries(&mut connection).len(), 2, "{version}");
    }
}

#[test]
fn filters_find_every_flow_of_an_address() {
    let switch = Switch::start();
    for version in VERSIONS {
        prepare(&switch);
        add_numbered(&switch, "br0", &all_flows());
        let mut connection = switch.open("br0", version);
        let registry_snapshot = dump(&mut connection, &Filter::default());
        for text in ["10.244.1.5", "fd00::5", "0a:00:00:00:00:01"] {
            let address = text
                .parse()
                .map(Address::Ip)
                .unwrap_or_else(|_| Address::Mac(text.parse().unwrap()));
            let wanted: BTreeSet<u64> = registry_snapshot
                .iter()
                .filter(|(_, flow)| flow.matches.addresses.iter().any(|a| a.address == address))
                .map(|(entry, _)| entry.cookie())
                .collect();
            assert!(wanted.len() >= 6, "{version} {text} {wanted:?}");
            let mut found = BTreeSet::new();
            let filters = filters_for_address(&address);
            connection
                .dump_many(&filters, &mut |_, raw, flow| {
                    assert!(flow.matches.addresses.iter().any(|a| a.address == address));
                    found.insert(raw.cookie());
                })
                .unwrap();
            assert_eq!(found, wanted, "{version} {text}");
        }
    }
}

/// What a filter decides by itself about an entry is what the switch decides.
#[test]
fn a_filter_matches_what_the_switch_finds_by_it() {
    let switch = Switch::start();
    let address = |text: &str| Address::Ip(text.parse().unwrap());
    let mac = Address::Mac("0a:00:00:00:00:01".parse().unwrap());
    for version in VERSIONS {
        prepare(&switch);
        add_numbered(&switch, "br0", &all_flows());
        let mut connection = switch.open("br0", version);
        let mut all = entries(&mut connection);
        // The switch's own entries, which it shows only to whoever asks for their table.
        let hidden = dump(&mut connection, &Filter::table(254));
        all.extend(hidden.into_iter().map(|(entry, _)| entry));
        let mut filters = [0, 1, 254].map(Filter::table).to_vec();
        filters.push(Filter::default());
        for port in [1, 5, 6, 77, 0xfffa, 0xfffb, 0xfffc, 0xfffd, 0xfffe] {
            filters.extend([Filter::in_port(port), Filter::out_port(port)]);
        }
        for text in ["10.244.1.5", "10.244.1.0", "fd00::5"] {
            filters.extend(filters_for_address(&address(text)));
        }
        filters.extend(filters_for_address(&mac));
        for index in 0..16 {
            for (value, mask) in [(5, u32::MAX), (0x1005, u32::MAX), (5, 0xff), (0x1000, 0xf000)] {
                filters.push(Filter::register(index, value, mask));
            }
        }
        for n in [0, 1, 5, 0x105, u64::MAX] {
            filters.push(Filter { cookie: n, cookie_mask: 0xff, ..Filter::default() });
        }
        // Each as it looks, against all the others.
        filters.extend(all.iter().map(Filter::like));
        let mut found: Vec<BTreeSet<u64>> = vec![BTreeSet::new(); filters.len()];
        let mut see = |n: usize, raw: &RawEntry<'_>, _: &mut Flow| {
            found[n].insert(raw.cookie());
        };
        connection.dump_many(&filters, &mut see).unwrap();
        for (filter, found) in filters.iter().zip(&found) {
            let own = all.iter().filter(|entry| filter.matches(entry)).map(Entry::cookie);
            assert_eq!(own.collect::<BTreeSet<u64>>(), *found, "{version} {filter:?}");
        }
        let narrow = found.iter().filter(|found| (1..=3).contains(&found.len())).count();
        assert!(narrow > 100, "{version}: {narrow} of {}", found.len());
    }
}

#[test]
fn filters_by_port_register_table_and_cookie() {
    let switch = Switch::start();
    let flows = [
        "cookie=1,table=1,in_port=5,actions=drop",
        "cookie=2,table=2,in_port=LOCAL,actions=output:5",
        "cookie=3,table=2,reg0=0x1005,actions=LOCAL",
        "cookie=4,table=3,reg0=0x5/0xff,actions=clone(output:5)",
        "cookie=5,table=3,ip,reg1=0x1005,actions=ct(commit,exec(load:1->NXM_NX_CT_MARK[])),output:5",
        "cookie=0x106,table=4,ip,actions=write_actions(output:5)",
    ];
    for version in VERSIONS {
        prepare(&switch);
        switch.add_flows("br0", "OpenFlow15", &flows);
        let mut connection = switch.open("br0", version);
        let mut cookies = |filters: &[Filter]| {
            let mut found: Vec<Vec<u64>> = vec![Vec::new(); filters.len()];
            connection.dump_many(filters, &mut |i, raw, _| found[i].push(raw.cookie())).unwrap();
            for list in &mut found {
                list.sort_unstable();
            }
            found
        };
        assert_eq!(
            cookies(&[
                Filter::in_port(5),
                Filter::in_port(65534),
                Filter::out_port(5),
                Filter::out_port(65534),
                Filter::register(0, 0x1005, u32::MAX),
                Filter::register(1, 0x1005, u32::MAX),
                Filter::register(0, 5, 0xff),
                Filter::table(3),
                Filter { cookie: 6, cookie_mask: 0xff, ..Filter::default() },
                Filter::in_port(77),
                Filter { table: Some(1), ..Filter::register(0, 0x1005, u32::MAX) },
            ]),
            [
                vec![1],
                vec![2],
                vec![2, 4, 5, 0x106],
                vec![3],
                vec![3],
                vec![5],
                vec![3, 4],
                vec![4, 5],
                vec![0x106],
                vec![],
                vec![]
            ],
            "{version}"
        );
        // More than one group of requests in flight.
        let many: Vec<Filter> = (0..200).map(|_| Filter::in_port(5)).collect();
        assert!(cookies(&many).iter().all(|found| found == &[1]), "{version}");
    }
}

#[test]
fn the_core_sees_what_it_should() {
    let switch = Switch::start();
    for version in VERSIONS {
        prepare(&switch);
        switch.add_flows(
            "br0",
            "OpenFlow15",
            &["cookie=0x2a,table=10,priority=100,ip,in_port=3,reg0=0x1005,reg3=0x1/0xf,\
               nw_src=10.244.1.5,nw_dst=10.0.0.0/8,\
               actions=load:0x7->NXM_NX_REG1[],set_field:9->reg2,set_field:1.2.3.4->tun_dst,\
               output:5,resubmit(,20)"],
        );
        let mut connection = switch.open("br0", version);
        let (entry, flow) = dump(&mut connection, &Filter::default()).remove(0);
        assert_eq!((flow.table, flow.priority, flow.cookie), (10, 100, 0x2a));
        assert_eq!(flow.matches.in_port, Some(3));
        let registers: Vec<_> =
            flow.matches.registers.iter().map(|r| (r.index, r.value, r.mask)).collect();
        assert_eq!(registers, [(0, 0x1005, u32::MAX), (3, 1, 0xf)]);
        assert_eq!(flow.matches.addresses.len(), 1);
        assert_eq!(flow.matches.addresses[0].side, Side::Source);
        let writes: Vec<_> =
            flow.actions.register_writes.iter().map(|w| (w.index, w.value, w.mask)).collect();
        assert_eq!(writes, [(1, Some(7), u32::MAX), (2, Some(9), u32::MAX)]);
        assert_eq!(flow.actions.outputs, [5]);
        assert!(flow.actions.beyond && flow.actions.sets_tunnel && !flow.actions.unread);
        let json = serde_json::to_string(&entry).unwrap();
        assert!(json.starts_with(&format!("\"{} a 64 2a 0 0 0 0 ", version.wire())), "{json}");
        let back: Entry = serde_json::from_str(&json).unwrap();
        assert_eq!(back.content(), entry.content());
        // All but its age and its counters.
        assert_eq!(back.flow(flow.made).unwrap(), flow);
    }
}

#[test]
fn tables_ports_and_description() {
    let switch = Switch::start();
    let p1 = switch.add_port("br0", "p1");
    let p2 = switch.add_port("br0", "a-long-name-15c");
    for version in VERSIONS {
        prepare(&switch);
        switch.add_flows("br0", "OpenFlow15", &["table=7,ip,actions=drop", "table=7,actions=drop"]);
        let mut connection = switch.open("br0", version);
        let tables = connection.tables().unwrap();
        let used: Vec<_> = tables.iter().filter(|(_, n)| *n != 0).collect();
        assert_eq!(used, [&(7, 2)], "{version}");
        assert_eq!(tables.len(), 254);
        let mut ports = connection.ports().unwrap();
        ports.sort_unstable();
        let wanted =
            [(p1, "p1".to_owned()), (p2, "a-long-name-15c".to_owned()), (65534, "br0".to_owned())];
        assert_eq!(ports, wanted, "{version}");
        assert!(connection.description().unwrap().starts_with(|c: char| c.is_ascii_digit()));
        assert_eq!(connection.buckets().unwrap(), [], "{version}");
        for group in [
            "group_id=1,type=select,bucket=load:7->NXM_NX_REG0[],output:1,bucket=weight:50,output:2",
            "group_id=2,type=ff,bucket=watch_port:1,output:1",
            "group_id=3,type=all",
        ] {
            switch.ofctl(&["-O", &version.to_string(), "add-group", "br0", group]);
        }
        let mut buckets = connection.buckets().unwrap();
        buckets.sort_by_key(|bucket| (bucket.register_writes.len(), bucket.outputs.clone()));
        let outputs: Vec<_> = buckets.iter().map(|bucket| bucket.outputs.as_slice()).collect();
        assert_eq!(outputs, [[1], [2], [1]], "{version}");
        let loaded = |bucket: &Actions| bucket.register_writes.iter().map(|w| w.value).collect();
        let loaded: Vec<Vec<Option<u32>>> = buckets.iter().map(loaded).collect();
        assert_eq!(loaded, [vec![], vec![], vec![Some(7)]], "{version}");
        switch.ofctl(&["-O", &version.to_string(), "del-groups", "br0"]);
        connection.barrier().unwrap();
    }
}

#[test]
fn bridges_limited_to_some_versions() {
    let switch = Switch::start();
    for (protocols, version) in [
        ("OpenFlow13", Version::V13),
        ("OpenFlow10,OpenFlow15", Version::V15),
        ("OpenFlow13,OpenFlow15", Version::V13),
        ("OpenFlow10,OpenFlow11,OpenFlow12,OpenFlow13,OpenFlow14,OpenFlow15", Version::V14),
    ] {
        switch.vsctl(&["set", "bridge", "br0", &format!("protocols={protocols}")]);
        let mut connection = Connection::open(&switch.path("br0"), within(5000)).unwrap();
        assert_eq!(connection.version(), version, "{protocols}");
        connection.barrier().unwrap();
    }
    switch.vsctl(&["set", "bridge", "br0", "protocols=OpenFlow10"]);
    let error = Connection::open(&switch.path("br0"), within(5000)).unwrap_err();
    assert!(matches!(error, Error::OnlyVersion10 { .. }), "{error}");
    assert!(
        error.to_string().contains("ovs-vsctl set bridge br0 protocols=OpenFlow10,OpenFlow13"),
        "{error}"
    );
    switch.vsctl(&["set", "bridge", "br0", "protocols=OpenFlow10,OpenFlow12"]);
    let error = Connection::open(&switch.path("br0"), within(5000)).unwrap_err();
    assert!(matches!(&error, Error::NoCommonVersion { offered, .. } if *offered == [1, 3]));
}

#[test]
fn a_switch_that_is_away_hung_or_hangs_up() {
    let switch = Switch::start();
    let path = switch.path("br0");
    let error = Connection::open(&switch.run.join("no.mgmt"), within(500)).unwrap_err();
    assert!(matches!(&error, Error::Connect { source, .. }
        if source.kind() == std::io::ErrorKind::NotFound));

    let mut connection = Connection::open(&path, within(5000)).unwrap();
    switch.signal("-STOP");
    for attempt in ["open", "dump"] {
        let start = Instant::now();
        let error = match attempt {
            "open" => Connection::open(&path, within(300)).unwrap_err(),
            _ => {
                connection.set_deadline(within(300));
                connection.dump(&Filter::default(), &mut |_, _| {}).unwrap_err()
            }
        };
        assert!(matches!(error, Error::TimedOut { .. }), "{attempt}: {error}");
        // Not before its deadline, and not for ever: how soon after it is the machine's.
        assert!(start.elapsed() >= Duration::from_millis(290), "{attempt}");
    }
    // More than its backlog of 64: connect itself would block for ever.
    let waiting: Vec<_> = (0..80)
        .filter_map(|_| ovs_flow_gc::util::clock::connect_within(&path, within(20)).ok())
        .collect();
    assert!(waiting.len() < 80);
    let error = Connection::open(&path, within(200)).unwrap_err();
    assert!(
        matches!(&error, Error::Connect { source, .. }
        if source.kind() == std::io::ErrorKind::TimedOut),
        "{error}"
    );
    drop(waiting);
    switch.signal("-CONT");

    let mut connection = Connection::open(&path, within(5000)).unwrap();
    // A change of its protocols closes the bridge's connections.
    switch.vsctl(&["set", "bridge", "br0", "protocols=OpenFlow13"]);
    let error = connection.dump(&Filter::default(), &mut |_, _| {}).unwrap_err();
    assert!(matches!(error, Error::Closed { .. }), "{error}");
}

#[test]
fn errors_have_names_and_do_not_lose_the_others() {
    let switch = Switch::start();
    for version in VERSIONS {
        prepare(&switch);
        let flows: Vec<String> =
            (0..120).map(|i| format!("table=1,priority={},ip,actions=drop", i + 1)).collect();
        let flows: Vec<&str> = flows.iter().map(String::as_str).collect();
        switch.add_flows("br0", "OpenFlow15", &flows);
        let mut connection = switch.open("br0", version);
        let mut list = entries(&mut connection);
        let count = list.len();
        // Internal flows cannot be touched: each fails the commit of its bundle.
        let internal: Vec<Entry> = dump(&mut connection, &Filter::table(254))
            .into_iter()
            .map(|(entry, _)| entry)
            .collect();
        assert!(!internal.is_empty());
        list.insert(60, internal[0].clone());
        // A field that the switch does not know cannot even be put into the bundle.
        let mut bytes = list[3].bytes().to_vec();
        let at = bytes.windows(6).position(|w| w == [0x80, 0, 0x0a, 2, 8, 0]).unwrap();
        bytes[at..at + 6].copy_from_slice(&[0x90, 0, 0xfe, 2, 8, 0]);
        list.insert(3, Entry::new(version, bytes).unwrap());
        let deleted = connection.delete_strict(&list).unwrap();
        let refused: Vec<_> =
            deleted.refused.iter().map(|(i, error)| (*i, error.to_string())).collect();
        assert_eq!(
            refused,
            [(3, "OFPBMC_BAD_FIELD (4,6)".to_owned()), (61, "OFPBRC_EPERM (1,5)".to_owned())],
            "{version}"
        );
        assert_eq!(deleted.sent, count);
        assert_eq!(entries(&mut connection), [], "{version}");
    }
}

#[test]
fn five_thousand_entries_and_nothing_else() {
    let switch = Switch::start();
    for version in VERSIONS {
        prepare(&switch);
        let flows: Vec<String> = (0..6000_u32)
            .map(|i| {
                let [_, _, c, d] = i.to_be_bytes();
                format!("table={},priority=7,ip,nw_src=10.9.{c}.{d},actions=drop", i % 5)
            })
            .collect();
        let flows: Vec<&str> = flows.iter().map(String::as_str).collect();
        switch.add_flows("br0", "OpenFlow15", &flows);
        let mut connection = switch.open("br0", version);
        let all = entries(&mut connection);
        assert_eq!(all.len(), 6000);
        let (gone, kept) = all.split_at(5000);
        assert_eq!(connection.delete_strict(gone).unwrap().sent, 5000);
        let content = |list: &[Entry]| list.iter().map(Entry::content).collect::<BTreeSet<_>>();
        assert_eq!(content(&entries(&mut connection)), content(kept), "{version}");
        // And a thousand and more errors, unread while we write.
        let broken: Vec<Entry> = gone
            .iter()
            .map(|entry| {
                let mut bytes = entry.bytes().to_vec();
                let at = bytes.windows(4).position(|w| w == [0x80, 0, 0x0a, 2]).unwrap();
                bytes[at] = 0x90;
                Entry::new(version, bytes).unwrap()
            })
            .collect();
        connection.set_deadline(within(10_000));
        let deleted = connection.delete_strict(&broken).unwrap();
        assert_eq!((deleted.sent, deleted.refused.len()), (0, 5000), "{version}");
    }
}

#[test]
fn several_connections_delete_one_list() {
    let switch = Switch::start();
    for version in VERSIONS {
        prepare(&switch);
        let flows: Vec<String> = (0..2600_u32)
            .map(|i| format!("table={},priority={},ip,actions=drop", i % 2, i + 1))
            .collect();
        let flows: Vec<&str> = flows.iter().map(String::as_str).collect();
        switch.add_flows("br0", "OpenFlow15", &flows);
        let mut connection = switch.open("br0", version);
        let mut list = entries(&mut connection);
        let kept = list.split_off(2500);
        // What is refused is named by its place in the whole list.
        let internal = dump(&mut connection, &Filter::table(254)).remove(0).0;
        for at in [700, 2400] {
            list.insert(at, internal.clone());
        }
        let mut others = [switch.open("br0", version), switch.open("br0", version)];
        let mut meanwhile = 0;
        let deleted =
            delete_strict_parallel(&mut connection, &mut others, &list, || meanwhile += 1).unwrap();
        assert_eq!((deleted.sent, meanwhile), (2500, 1), "{version}");
        assert_eq!(deleted.refused.iter().map(|(i, _)| *i).collect::<Vec<_>>(), [700, 2400]);
        let content = |list: &[Entry]| list.iter().map(Entry::content).collect::<BTreeSet<_>>();
        assert_eq!(content(&entries(&mut connection)), content(&kept), "{version}");
        // One that does not answer in time fails the call.
        others[1].set_deadline(within(0));
        let failed = delete_strict_parallel(&mut connection, &mut others, &kept, || {});
        assert!(matches!(failed, Err(Error::TimedOut { .. })), "{failed:?}");
        let none: [Entry; 0] = [];
        let nothing = delete_strict_parallel(&mut connection, &mut [], &none, || {}).unwrap();
        assert_eq!(nothing, Applied::default());
    }
}

#[test]
fn cookies_are_compared() {
    let switch = Switch::start();
    for version in VERSIONS {
        prepare(&switch);
        switch.add_flows("br0", "OpenFlow15", &["cookie=5,ip,actions=drop"]);
        let mut connection = switch.open("br0", version);
        let list = entries(&mut connection);
        switch.add_flows("br0", "OpenFlow10", &["cookie=6,ip,actions=drop"]);
        assert_eq!(connection.delete_strict(&list).unwrap().refused, []);
        let left = entries(&mut connection);
        assert_eq!(left.len(), 1, "{version}: the controller's new entry is gone");
        assert_eq!(left[0].cookie(), 6);
    }
}

#[test]
fn entries_of_another_version_are_not_sent() {
    let switch = Switch::start();
    switch.add_flows("br0", "OpenFlow13", &["ip,actions=drop"]);
    let list = entries(&mut switch.open("br0", Version::V13));
    let mut connection = switch.open("br0", Version::V15);
    let error = connection.delete_strict(&list).unwrap_err();
    assert!(matches!(error, Error::OtherVersion { .. }), "{error}");
    assert_eq!(entries(&mut connection).len(), 1);
}

#[test]
fn vlan_matches_of_openflow_10_clients() {
    let switch = Switch::start();
    for version in VERSIONS {
        prepare(&switch);
        switch.add_flows(
            "br0",
            "OpenFlow10",
            &[
                "cookie=1,ip,nw_src=10.0.0.1,vlan_tci=0x0000,actions=drop",
                "cookie=2,arp,actions=drop",
            ],
        );
        let mut connection = switch.open("br0", version);
        let list = entries(&mut connection);
        assert_eq!(connection.delete_strict(&list).unwrap().refused, []);
        let left = entries(&mut connection);
        assert_eq!(left.len(), 1, "{version}: the trap is gone? {left:?}");
        let deleted = connection.delete_vlan_tci(&list).unwrap();
        assert_eq!((deleted.sent, deleted.refused), (1, vec![]));
        assert_eq!(entries(&mut connection), [], "{version}");
    }
}

/// A UDP packet, as hexadecimal digits.
fn packet(source: [u8; 4], destination: [u8; 4]) -> String {
    let mut ip = vec![0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0];
    ip.extend(source);
    ip.extend(destination);
    let sum: u32 = ip.chunks(2).map(|p| u32::from(p[0]) << 8 | u32::from(p[1])).sum();
    let folded = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    ip[10..12].copy_from_slice(&folded.to_be_bytes());
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    bytes.extend(ip);
    bytes.extend([0x10, 0, 0x20, 0, 0, 12, 0, 0, 1, 2, 3, 4]);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_flush_forgets_an_addresss_connections_and_no_other() {
    let switch = Switch::start();
    let (pod, peer, other) = ([10, 244, 1, 5], [10, 0, 0, 9], [10, 0, 0, 8]);
    for version in VERSIONS {
        for (source, destination, actions) in [
            (pod, peer, "ct(commit,zone=5)"),
            (peer, pod, "ct(commit)"),
            // The reply tuples name the pod, the original ones do not.
            (other, peer, "ct(commit,zone=6,nat(src=10.244.1.5))"),
            (peer, other, "ct(commit,zone=7,nat(dst=10.244.1.5))"),
            (peer, other, "ct(commit,zone=5)"),
        ] {
            let packet = packet(source, destination);
            let message = format!("in_port=LOCAL packet={packet} actions={actions}");
            switch.vsctl(&["set", "bridge", "br0", "protocols=OpenFlow10,OpenFlow13"]);
            switch.ofctl(&["-O", "OpenFlow13", "packet-out", "br0", &message]);
        }
        let connections = || switch.appctl(&["dpctl/dump-conntrack"]);
        eventually("connections", || connections().lines().count() == 5);
        let mut connection = switch.open("br0", version);
        for ip in ["0.0.0.0", "::", "::ffff:0.0.0.0", "224.0.0.1", "127.0.0.1"] {
            let error = connection.flush_conntrack(ip.parse().unwrap()).unwrap_err();
            assert!(matches!(error, Error::UnusableAddress(_)), "{ip}: {error}");
        }
        connection.flush_conntrack("fd00::5".parse().unwrap()).unwrap();
        assert_eq!(connections().lines().count(), 5, "{version}: {}", connections());
        connection.flush_conntrack(pod.into()).unwrap();
        let left = connections();
        assert_eq!(left.lines().count(), 1, "{version}: {left}");
        assert!(left.contains("src=10.0.0.9,dst=10.0.0.8") && left.contains("zone=5"), "{left}");
        switch.appctl(&["dpctl/flush-conntrack"]);
    }
}

#[test]
fn deletes_go_in_bundles_as_the_switch_understands_them() {
    let switch = Switch::start();
    let log = switch.run.join("vswitchd.log");
    switch.appctl(&["vlog/set", "vconn:file:dbg"]);
    for version in VERSIONS {
        prepare(&switch);
        switch.add_flows("br0", "OpenFlow15", &["cookie=7,table=3,priority=9,ip,actions=drop"]);
        let mut connection = switch.open("br0", version);
        let list = entries(&mut connection);
        switch.appctl(&["vlog/reopen"]);
        let before = std::fs::read_to_string(&log).unwrap().len();
        assert_eq!(connection.delete_strict(&list).unwrap().sent, 1);
        // A reply is logged after it was sent.
        let mut said = String::new();
        for _ in 0..200 {
            said = std::fs::read_to_string(&log).unwrap().split_off(before);
            if said.contains("type=COMMIT_REPLY") {
                break;
            }
            sleep(Duration::from_millis(10));
        }
        for part in [
            "type=OPEN_REQUEST flags=atomic ordered",
            "DEL_STRICT table:3 priority=9,ip cookie:0x7/0x7fffffffffffffff",
            "type=COMMIT_REQUEST flags=atomic ordered",
            "type=COMMIT_REPLY",
        ] {
            assert!(said.contains(part), "{version}: no {part} in {said}");
        }
        assert!(!said.contains("BARRIER"), "{version}: {said}");
    }
}

#[test]
fn table_misses_stay_dropped_while_we_are_connected() {
    let switch = Switch::start();
    let port = switch.add_port("br0", "p1");
    let mut connection = switch.open("br0", Version::V13);
    connection.barrier().unwrap();
    let flow = format!("in_port={port}");
    let trace = || switch.appctl(&["ofproto/trace", "br0", &flow]);
    assert!(trace().contains("Datapath actions: drop"), "{}", trace());
}
