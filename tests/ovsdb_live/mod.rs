//! The OVSDB client against a real ovsdb-server and ovs-vswitchd (userspace datapath), each
//! test with its own, in its own network namespace. Needs root and openvswitch-switch.

mod switch;

use std::cell::Cell;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use nix::sys::signal::Signal;
use ovs_flow_gc::model::flow::MacAddr;
use ovs_flow_gc::model::row::RowId;
use ovs_flow_gc::ovsdb::{
    Client, Error, How, Ofport, Ovn, Port, Snapshot, Wanted, find_for_delete, find_port, marks,
};
use switch::{Switch, after, median, ms, run, until};

/// Writes the marks of every CNI of the table, as each writes them.
fn write_marks(switch: &Switch) {
    switch.add_bridge("br0");
    let port = |name: &str, table: &str, sets: &[&str]| {
        switch.add_port("br0", name);
        switch.vsctl(&[&["set", table, name], sets].concat());
    };
    port(
        "ovscni",
        "port",
        &[
            "external_ids:owner=ovs-cni.network.kubevirt.io",
            "external_ids:contNetns=/var/run/netns/cni-1",
            "external_ids:contIface=net1",
            "external_ids:contPodUid=\"\"",
        ],
    );
    port(
        "antrea",
        "port",
        &[
            "external_ids:antrea-type=container",
            "external_ids:container-id=aaaa01",
            "external_ids:pod-name=web-0",
            "external_ids:pod-namespace=shop",
            "external_ids:ip-address=\"10.244.1.5,fd00::5\"",
            "external_ids:attached-mac=\"0a:00:00:00:00:05\"",
            "external_ids:net-ns=/var/run/netns/cni-2",
        ],
    );
    port(
        "0123456789ab_h",
        "interface",
        &[
            "external_ids:iface-id=web-1.shop",
            "external_ids:vendor=kube-ovn",
            "external_ids:pod_name=web-1",
            "external_ids:pod_namespace=shop",
            "external_ids:pod_netns=/var/run/netns/cni-3",
            "external_ids:ip=10.16.0.7",
        ],
    );
    port(
        "ovnk",
        "interface",
        &[
            "external_ids:sandbox=bbbb02",
            "external_ids:iface-id=shop_web-2",
            "external_ids:iface-id-ver=uid-2",
            "external_ids:attached_mac=\"0a:58:0a:f4:01:06\"",
            "external_ids:ip_addresses=10.244.1.6/24",
        ],
    );
    port("sdn", "interface", &["external_ids:sandbox=cccc03", "external_ids:ip=10.128.0.9"]);
    let kubernetes = [
        "external_ids:netns=varrunnetnscni-6",
        "external_ids:k8s_pod_namespace=shop",
        "external_ids:k8s_pod_name=web-3",
    ];
    port("kvs", "port", &[&kubernetes[..], &["mac=\"0a:00:00:00:00:0a\""]].concat());
    switch.vsctl(&[&["set", "interface", "kvs"], &kubernetes[..]].concat());
    port(
        "docker",
        "interface",
        &["external_ids:container_id=dddd04", "external_ids:container_iface=eth1"],
    );
}

#[test]
fn snapshot_agrees_with_ovs_vsctl() {
    let switch = Switch::new("snap");
    write_marks(&switch);
    switch.vsctl(&["add-port", "br0", "vx0", "--", "set", "interface", "vx0", "type=vxlan"]);
    switch.vsctl(&["add-port", "br0", "gone0"]);
    switch.vsctl(&["add-bond", "br0", "bond0", "b0", "b1"]);
    switch.vsctl(&["set", "bridge", "br0", "protocols=OpenFlow10,OpenFlow15", "fail_mode=secure"]);
    let ofport = |name: &str| switch.vsctl(&["get", "interface", name, "ofport"]);
    until("ofports are there", || ofport("docker").trim() != "[]" && ofport("b1").trim() == "-1");

    let snapshot = switch.snapshot();
    assert!(snapshot.complete);
    let br0 = snapshot.bridge("br0").unwrap();
    assert_eq!(br0.protocols, ["OpenFlow10", "OpenFlow15"]);
    assert_eq!(br0.fail_mode.as_deref(), Some("secure"));
    let mut ports: Vec<&str> = br0.ports.iter().map(|p| p.name.as_str()).collect();
    ports.retain(|name| *name != "br0");
    let listed = switch.vsctl(&["list-ports", "br0"]);
    assert_eq!(ports, listed.lines().collect::<Vec<_>>());
    let mut seen = 0;
    for (_, _, interface) in snapshot.interfaces() {
        let number = match interface.ofport {
            Ofport::Number(number) => number.to_string(),
            Ofport::Failed => "-1".to_owned(),
            Ofport::Unassigned => "[]".to_owned(),
        };
        assert_eq!(ofport(&interface.name).trim(), number, "{}", interface.name);
        assert_eq!(switch.interface(&interface.name), interface.id);
        seen += 1;
    }
    assert_eq!(seen, 12);
    let bond = br0.ports.iter().find(|p| p.name == "bond0").unwrap();
    assert_eq!(bond.interfaces.len(), 2);
}

#[test]
fn ovn_is_seen_in_both_kinds_of_snapshot() {
    let switch = Switch::without_vswitchd("ovn");
    switch.add_bridge("br-ex");
    switch.add_bridge("br-int");
    let remote = "external_ids:ovn-remote=tcp:10.0.0.1:6642";
    switch.vsctl(&["set", "open_vswitch", ".", remote, "ovs_version=3.1.0"]);
    let narrow = switch.client().find(&Wanted::default()).unwrap();
    for snapshot in [switch.snapshot(), narrow] {
        assert_eq!(snapshot.ovs_version.as_deref(), Some("3.1.0"));
        assert_eq!(snapshot.ovn, Ovn { bridges: ["br-int".to_owned()].into() });
        assert!(snapshot.is_ovn(snapshot.bridge("br-int").unwrap()));
        assert!(!snapshot.is_ovn(snapshot.bridge("br-ex").unwrap()));
    }
}

#[test]
fn every_cnis_port_is_found_by_its_marks_in_narrow_and_whole_snapshots() {
    let switch = Switch::new("marks");
    write_marks(&switch);
    switch.add_port("br0", "veth1");
    let mac = |last| [MacAddr([10, 0, 0, 0, 0, last])];
    let (kvs_mac, antrea_mac) = (mac(10), mac(5));
    let base = Wanted { container_id: "ffff99", ifname: "eth0", ..Wanted::default() };
    let cases = [
        (
            Wanted { host_interfaces: vec!["br0", "veth1"], ..base.clone() },
            "veth1",
            How::HostInterface,
        ),
        (Wanted { container_id: "aaaa01", ..base.clone() }, "antrea", How::ContainerId),
        (Wanted { container_id: "bbbb02", ..base.clone() }, "ovnk", How::ContainerId),
        (Wanted { container_id: "cccc03", ..base.clone() }, "sdn", How::ContainerId),
        (
            Wanted { container_id: "dddd04", ifname: "eth1", ..base.clone() },
            "docker",
            How::ContainerId,
        ),
        (
            Wanted { container_id: "0123456789abcd", ..base.clone() },
            "0123456789ab_h",
            How::PortName,
        ),
        (
            Wanted { netns: Some("/run/netns/cni-1"), ifname: "net1", ..base.clone() },
            "ovscni",
            How::Netns,
        ),
        (Wanted { netns: Some("/run/netns/cni-3"), ..base.clone() }, "0123456789ab_h", How::Netns),
        (Wanted { netns: Some("/run/netns/cni-6"), ..base.clone() }, "kvs", How::Netns),
        (
            Wanted { container_id: "", netns: Some("/run/netns/cni-2"), ..base.clone() },
            "antrea",
            How::Netns,
        ),
        (Wanted { pod: Some(("shop", "web-3")), ..base.clone() }, "kvs", How::Pod),
        (Wanted { pod: Some(("shop", "web-1")), ..base.clone() }, "0123456789ab_h", How::Pod),
        (
            Wanted { container_id: "", pod: Some(("shop", "web-2")), ..base.clone() },
            "ovnk",
            How::Pod,
        ),
        (
            Wanted { container_id: "", pod: Some(("shop", "web-0")), ..base.clone() },
            "antrea",
            How::Pod,
        ),
        (Wanted { macs: &kvs_mac, ..base.clone() }, "kvs", How::Mac),
        (Wanted { container_id: "", macs: &antrea_mac, ..base.clone() }, "antrea", How::Mac),
    ];
    let whole = switch.snapshot();
    assert_eq!(whole.interfaces().filter(|(_, p, i)| marks(p, i).is_some()).count(), 7);
    for (wanted, name, how) in &cases {
        let narrow = switch.client().find(wanted).unwrap();
        assert!(!narrow.complete);
        assert!(narrow.interfaces().count() < 4, "{wanted:?}: not narrow");
        for snapshot in [&whole, &narrow] {
            let found = find_port(snapshot, wanted);
            let found = found.unwrap_or_else(|| panic!("{name} by {how:?}"));
            assert_eq!((found.interface.name.as_str(), found.by), (*name, *how));
            assert_eq!(found.bridge.name, "br0");
        }
        let one = |s: &Snapshot| find_port(s, wanted).map(|f| f.port.clone());
        assert_eq!(one(&narrow).map(|p| p.external_ids), one(&whole).map(|p| p.external_ids));
        // The same by DEL without a record, where it may go by that.
        let found = find_for_delete(&whole, wanted, |_| false).map(|f| f.interface.name.clone());
        let may = matches!(how, How::ContainerId | How::PortName | How::Netns);
        assert_eq!(found, may.then(|| (*name).to_owned()), "{wanted:?}");
    }
    assert!(find_port(&switch.client().find(&base).unwrap(), &base).is_none());
}

/// A narrow question takes several round trips. An interface that is given to another port
/// row between them lives on: it must not be missed, or its flows would be taken for dead.
#[test]
fn a_row_that_moves_between_the_round_trips_is_not_lost() {
    let switch = Switch::without_vswitchd("move");
    switch.add_bridge("br0");
    switch.add_port("br0", "a");
    let a = switch.interface("a");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..150 {
                let old = switch.vsctl(&[
                    "--bare",
                    "--columns=_uuid",
                    "find",
                    "port",
                    &format!("interfaces={a}"),
                ]);
                let create =
                    ["--id=@p", "create", "port", &format!("name=a{n}")].map(str::to_owned);
                let swap = [
                    &format!("interfaces={a}"),
                    "--",
                    "remove",
                    "bridge",
                    "br0",
                    "ports",
                    old.trim(),
                    "--",
                    "add",
                    "bridge",
                    "br0",
                    "ports",
                    "@p",
                ];
                let all: Vec<&str> = create.iter().map(String::as_str).chain(swap).collect();
                switch.vsctl(&[&["--"], &all[..]].concat());
            }
            done.store(true, Ordering::Relaxed);
        });
        let wanted = Wanted { host_interfaces: vec!["a"], ..Wanted::default() };
        let mut asked = 0;
        while !done.load(Ordering::Relaxed) {
            let narrow = switch.client().find(&wanted).unwrap();
            assert!(narrow.interface(a).is_some(), "lost at question {asked}");
            asked += 1;
        }
        assert!(asked > 100, "only {asked}");
    });
}

#[test]
fn patch_ports_join_bridges_in_both_kinds_of_snapshot() {
    let switch = Switch::without_vswitchd("patch");
    for bridge in ["br-a", "br-b", "br-c", "br-d"] {
        switch.add_bridge(bridge);
    }
    for (bridge, name, peer) in
        [("br-a", "a-c", "c-a"), ("br-c", "c-a", "a-c"), ("br-d", "d-nowhere", "nowhere")]
    {
        let peer = format!("options:peer={peer}");
        let set = ["--", "set", "interface", name, "type=patch", &peer];
        switch.vsctl(&[&["add-port", bridge, name], &set[..]].concat());
    }
    let groups = [vec![0, 2], vec![1], vec![3]];
    assert_eq!(switch.snapshot().joined(), groups);
    assert_eq!(switch.client().find(&Wanted::default()).unwrap().joined(), groups);
}

#[test]
fn wait_ofport_gets_the_number_when_vswitchd_comes_late() {
    let mut switch = Switch::without_vswitchd("wait");
    switch.add_bridge("br0");
    switch.add_port("br0", "p1");
    switch.vsctl(&["add-port", "br0", "gone0"]);
    let (p1, gone) = (switch.interface("p1"), switch.interface("gone0"));
    let mut client = switch.client();

    // vswitchd is down: None at the deadline, and the client is as good as before.
    let began = Instant::now();
    assert_eq!(client.wait_ofport(p1, after(150)).unwrap(), None);
    let took = began.elapsed();
    assert!(took > ms(100), "{took:?}");
    client.alive().unwrap();
    // The whole deadline: the server's "timed out" comes in time to be told from a hang.
    let mut short = Client::connect(&switch.socket(), after(400)).unwrap();
    assert_eq!(short.wait_ofport(p1, after(400)).unwrap(), None);

    // A row that is not there is not waited for.
    let began = Instant::now();
    assert_eq!(client.wait_ofport(RowId(7), after(60_000)).unwrap(), None);
    assert!(began.elapsed() < ms(30_000));

    let socket = switch.socket();
    let waiting = std::thread::spawn(move || {
        let mut client = Client::connect(&socket, after(8000)).unwrap();
        client.wait_ofport(p1, after(8000)).unwrap()
    });
    std::thread::sleep(ms(100));
    assert!(!waiting.is_finished());
    switch.start_vswitchd();
    let ofport = waiting.join().unwrap();
    assert!(matches!(ofport, Some(Ofport::Number(1..=10))), "{ofport:?}");
    let mut client = switch.client();
    assert_eq!(client.wait_ofport(gone, after(3000)).unwrap(), Some(Ofport::Failed));
    // At once if it is there.
    let began = Instant::now();
    assert_eq!(client.wait_ofport(p1, after(60_000)).unwrap(), ofport);
    assert!(began.elapsed() < ms(30_000));
}

#[test]
fn a_stopped_server_costs_the_deadline_and_no_more() {
    let switch = Switch::without_vswitchd("stop");
    switch.add_bridge("br0");
    let mut connected = Client::connect(&switch.socket(), after(400)).unwrap();
    switch.signal_server(Signal::SIGSTOP);
    let began = Instant::now();
    let error = connected.snapshot().unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
    assert!(began.elapsed() < ms(10_000), "{:?}", began.elapsed());

    // The backlog holds 65; a plain connect of the 66th would block for ever.
    let socket = switch.socket();
    let began = Instant::now();
    let threads: Vec<_> = (0..70)
        .map(|_| {
            let socket = socket.clone();
            std::thread::spawn(move || {
                let client = Client::connect(&socket, after(600));
                client.and_then(|mut client| client.alive()).unwrap_err()
            })
        })
        .collect();
    let errors: Vec<Error> = threads.into_iter().map(|t| t.join().unwrap()).collect();
    assert!(began.elapsed() < ms(15_000), "{:?}", began.elapsed());
    let full = |e: &&Error| match e {
        Error::Connect { source, .. } => source.kind() == std::io::ErrorKind::TimedOut,
        _ => false,
    };
    let hung = |e: &&Error| matches!(e, Error::TimedOut { .. });
    assert!(errors.iter().filter(full).count() >= 5, "{errors:?}");
    assert!(errors.iter().all(|e| full(&e) || hung(&e)), "{errors:?}");

    switch.signal_server(Signal::SIGCONT);
    assert_eq!(switch.snapshot().bridges.len(), 1);
}

#[test]
fn the_ways_a_server_is_away() {
    let mut switch = Switch::without_vswitchd("away");
    let socket = switch.socket();
    let mut client = switch.client();
    // Killed: the socket stays, connections end.
    switch.kill_server();
    assert!(matches!(client.alive(), Err(Error::Closed)));
    let says = |text: &str| {
        let error = Client::connect(&socket, after(500)).unwrap_err().to_string();
        assert!(error.contains(text) && error.contains("db.sock"), "{error}");
    };
    says("left the socket behind");
    std::fs::remove_file(&socket).unwrap();
    says("is ovsdb-server running");
}

/// Root without CAP_DAC_OVERRIDE is to another user's socket what any user is.
#[test]
fn another_users_socket_names_both_remedies() {
    let switch = Switch::without_vswitchd("acl");
    let socket = switch.socket();
    let directory = switch.dir.path();
    for path in [directory, &socket] {
        run(Command::new("chown").arg("65532").arg(path));
    }
    run(Command::new("chmod").arg("755").arg(directory));
    // The capability is the process's: a test of its own connects.
    let output = Command::new("setpriv")
        .args(["--bounding-set=-dac_override", "--inh-caps=-dac_override"])
        .arg(std::env::current_exe().unwrap())
        .args(["ovsdb_live::connect_as_told", "--exact", "--nocapture", "--ignored"])
        .env("OVSDB_LIVE_SOCKET", &socket)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("CAP_DAC_OVERRIDE, or as uid 65532"), "{said}");
}

#[test]
#[ignore = "started by another_users_socket_names_both_remedies without a capability"]
fn connect_as_told() {
    let socket = PathBuf::from(std::env::var_os("OVSDB_LIVE_SOCKET").unwrap());
    let error = Client::connect(&socket, after(500)).unwrap_err();
    println!("{error}");
}

fn port(snapshot: &Snapshot, name: &str) -> (RowId, Port) {
    let bridge = snapshot.bridge("br0").unwrap();
    (bridge.id, bridge.ports.iter().find(|p| p.name == name).unwrap().clone())
}

#[test]
fn remove_port_removes_what_was_read_and_nothing_else() {
    let switch = Switch::new("reap");
    switch.add_bridge("br0");
    switch.vsctl(&["add-port", "br0", "gone0", "--", "add-port", "br0", "gone1"]);
    switch.vsctl(&["set", "port", "gone0", "external_ids:contIface=\"\""]);
    for name in ["gone0", "gone1"] {
        let id = switch.interface(name);
        let ofport = switch.client().wait_ofport(id, after(3000)).unwrap();
        assert_eq!(ofport, Some(Ofport::Failed));
    }
    until("the error is written", || {
        port(&switch.snapshot(), "gone1").1.interfaces[0].error.is_some()
    });
    let snapshot = switch.snapshot();
    let (bridge, gone0) = port(&snapshot, "gone0");
    switch.client().remove_port(bridge, &gone0).unwrap();
    let names = switch.vsctl(&["list-ports", "br0"]);
    assert_eq!(names.lines().collect::<Vec<_>>(), ["gone1"]);
    // Again: it is gone.
    let error = switch.client().remove_port(bridge, &gone0).unwrap_err();
    assert!(matches!(&error, Error::Changed { what } if what == "port gone0"), "{error:?}");

    // The netdev has come back since.
    let (_, gone1) = port(&snapshot, "gone1");
    let link = ["-n", &switch.netns, "link", "add", "gone1", "type", "veth", "peer", "name", "x1"];
    run(Command::new("ip").args(link));
    until("gone1 is back", || {
        let (_, port) = port(&switch.snapshot(), "gone1");
        port.interfaces[0].ofport.number().is_some()
    });
    let mut client = switch.client();
    let error = client.remove_port(bridge, &gone1).unwrap_err();
    assert!(matches!(error, Error::Changed { .. }), "{error:?}");
    // The same name, added anew: another row.
    switch.vsctl(&["del-port", "gone1", "--", "add-port", "br0", "gone1"]);
    assert!(matches!(client.remove_port(bridge, &gone1), Err(Error::Changed { .. })));
    // Somebody else's marks.
    let (_, now) = port(&switch.snapshot(), "gone1");
    switch.vsctl(&["set", "port", "gone1", "external_ids:contIface=eth0"]);
    assert!(matches!(client.remove_port(bridge, &now), Err(Error::Changed { .. })));
    assert_eq!(switch.vsctl(&["list-ports", "br0"]).lines().collect::<Vec<_>>(), ["gone1"]);
    // Said in the database's log who it was.
    let conf = switch.dir.path().join("conf.db");
    let log = run(Command::new("ovsdb-tool").args(["-mm", "show-log"]).arg(conf));
    assert!(log.contains("ovs-flow-gc: removed orphaned port gone0"), "{log}");
}

/// 250 ports: `find` and the narrow delete must cost a fraction of a snapshot. Prints
/// medians with `--nocapture`.
#[test]
fn narrow_questions_are_cheap() {
    let switch = Switch::without_vswitchd("cost");
    switch.add_bridge("br0");
    let mut all: Vec<String> = Vec::new();
    for n in 0..250 {
        all.extend(
            format!(
                "-- add-port br0 p{n} -- set port p{n} \
                 external_ids:owner=ovs-cni.network.kubevirt.io \
                 external_ids:contNetns=/var/run/netns/cni-{n} external_ids:contIface=eth0 \
                 -- set interface p{n} ofport={} external_ids:sandbox=id-{n}",
                n + 1
            )
            .split_whitespace()
            .map(str::to_owned),
        );
    }
    switch.vsctl(&all.iter().map(String::as_str).collect::<Vec<_>>());

    let time = |ask: &dyn Fn(&mut Client)| {
        median(
            (0..50)
                .map(|_| {
                    let began = Instant::now();
                    ask(&mut switch.client());
                    began.elapsed()
                })
                .collect(),
        )
    };
    let hosts = Wanted { host_interfaces: vec!["p77"], ..Wanted::default() };
    let netns = Some("/run/netns/cni-77");
    let by_netns = Wanted { container_id: "x", netns, ifname: "eth0", ..Wanted::default() };
    let macs = [MacAddr([2, 0, 0, 0, 0, 1])];
    let nowhere = Wanted {
        netns: Some("/run/netns/no"),
        macs: &macs,
        pod: Some(("a", "b")),
        ..by_netns.clone()
    };
    let snapshot = time(&|c| assert_eq!(c.snapshot().unwrap().interfaces().count(), 251));
    let by_host = time(&|c| assert!(find_port(&c.find(&hosts).unwrap(), &hosts).is_some()));
    let by_mark = time(&|c| assert!(find_port(&c.find(&by_netns).unwrap(), &by_netns).is_some()));
    let by_none = time(&|c| assert!(find_port(&c.find(&nowhere).unwrap(), &nowhere).is_none()));
    let alive = time(&|c| c.alive().unwrap());
    println!(
        "250 ports, connect included: snapshot {snapshot:?}, find by prevResult {by_host:?}, by \
         netns {by_mark:?}, in vain {by_none:?}, alive {alive:?}"
    );
    for (what, took) in [("prevResult", by_host), ("netns", by_mark)] {
        assert!(took * 2 < snapshot, "{what}: {took:?} beside {snapshot:?}");
    }
}

/// Whoever deletes relies on it: nothing was told before the answer, so nothing was
/// committed before the question.
#[test]
fn what_was_committed_before_the_question_is_known_with_its_answer() {
    let switch = Switch::without_vswitchd("watch");
    switch.add_bridge("br0");
    switch.add_port("br0", "p1");
    let mut client = switch.client();
    let asked = client.ask().unwrap();
    let (mut before, mut moment) = client.answered(asked).unwrap();
    for n in 0..100 {
        assert!(client.unchanged(moment).unwrap(), "nobody did anything, {n}");
        let value = format!("external_ids:n={n}");
        match n % 4 {
            0 => switch.vsctl(&["--no-wait", "set", "Interface", "p1", &value]),
            1 => switch.vsctl(&["--no-wait", "set", "Port", "p1", &value]),
            2 => switch.vsctl(&["--no-wait", "set", "Open_vSwitch", ".", &value]),
            _ => switch.vsctl(&[
                "--no-wait",
                "set",
                "Bridge",
                "br0",
                &format!("protocols=OpenFlow1{}", 3 + n / 4 % 2),
            ]),
        };
        assert!(!client.unchanged(moment).unwrap(), "{n}");
        // And for good: a later question does not make an older snapshot current.
        assert!(!client.unchanged(moment).unwrap(), "{n}");
        let asked = client.ask().unwrap();
        let (now, again) = client.answered(asked).unwrap();
        assert_ne!((&now, again), (&before, moment), "{n}");
        (before, moment) = (now, again);
    }
    // Columns that nobody here reads tell nothing: statistics change all the time.
    switch.vsctl(&["--no-wait", "set", "Interface", "p1", "other_config:x=y"]);
    assert!(client.unchanged(moment).unwrap());
}

/// A connection that is kept is told of what changes, and does not read the rest again. What it
/// makes of that is what a new one reads.
#[test]
fn what_is_told_comes_to_what_is_read() {
    let switch = Switch::new("told");
    write_marks(&switch);
    let mut kept = switch.client();
    let (changed, mut odd) = (Cell::new(0), 1_u64);
    let mut before = None;
    let mut agree = |what: &str| {
        let asked = kept.ask().unwrap();
        let (told, moment) = kept.answered(asked).unwrap();
        // ovs-vswitchd writes, too: what both were asked between two equal answers counts.
        let read = switch.snapshot();
        if kept.unchanged(moment).unwrap() {
            assert_eq!(*told, read, "{what}");
            changed.set(changed.get() + u32::from(before.as_ref() != Some(&read)));
            before = Some(read);
        }
    };
    agree("at first");
    for n in 0..120 {
        odd = odd.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let (some, name) = (odd >> 33, format!("t{}", (odd >> 40) % 6));
        let external = format!("external_ids:k{}=\"a b,{n}\"", some % 3);
        let call: Vec<&str> = match some % 8 {
            0 | 1 => vec!["--may-exist", "add-port", "br0", &name],
            2 => vec!["--if-exists", "del-port", "br0", &name],
            3 => vec!["set", "Interface", "docker", &external],
            4 => vec!["remove", "Port", "antrea", "external_ids", "pod-name"],
            5 => vec!["--may-exist", "add-br", "br1", "--", "set", "bridge", "br1", &external],
            6 => vec!["--if-exists", "del-br", "br1"],
            _ => vec!["set", "Open_vSwitch", ".", "external_ids:ovn-remote=tcp:10.0.0.1:6642"],
        };
        switch.vsctl(&[&["--no-wait"], &call[..]].concat());
        agree(&format!("{n}: {call:?}"));
    }
    assert!(changed.get() > 40, "{changed:?} times something was told");
}
