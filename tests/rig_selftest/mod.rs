//! Each facility of the rig, against the real thing: a scenario that fails should say
//! something about `ovs-flow-gc`, not about the ground it stands on.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::rig::{Containerd, Datapath, Flows, Node, Port, Setup, Valid, layouts};
use crate::rig::{eventually, sleep_ms};
use serde_json::{Value, json};

/// A node without `ovs-flow-gc`: what is tested here is the rest.
fn node(test: &str) -> Node {
    Setup::new().without_gc().up(test)
}

fn contains_all(dump: &[String], flows: &[String]) -> bool {
    flows.iter().all(|flow| dump.contains(flow))
}

#[test]
fn a_node_comes_and_goes() {
    let start = Instant::now();
    let node = node("a_node_comes_and_goes");
    let took = start.elapsed();
    assert_eq!(node.ovs_vsctl(&["list-br"]), "br0");
    assert_eq!(node.dump("br0"), [""; 0], "fail_mode is secure");
    eprintln!("up in {took:?}");

    let netns = Path::new("/run/netns").join(&node.name);
    let pod = node.pod("web");
    let (dir, pids) = (node.dir.clone(), [node.ovsdb.pid(), node.vswitchd.pid()]);
    assert!(netns.exists() && dir.exists() && Path::new(&pod.netns_path()).exists());
    node.vswitchd.pause();
    drop(node);
    assert!(!netns.exists() && !dir.exists() && !Path::new(&pod.netns_path()).exists());
    assert!(pids.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()));
}

#[test]
fn a_panic_leaves_nothing() {
    let left = thread::spawn(|| {
        let node = node("a_panic_leaves_nothing (on purpose)");
        let _kept = node.run_pod("web");
        std::panic::panic_any((node.name.clone(), node.dir.clone()));
    })
    .join()
    .unwrap_err();
    let (name, dir) = left.downcast::<(String, std::path::PathBuf)>().map(|left| *left).unwrap();
    assert!(!dir.exists());
    let netns = fs::read_dir("/run/netns").unwrap().flatten();
    let names: Vec<_> = netns.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    assert!(!names.iter().any(|n| *n == name || n.starts_with(&format!("{name}-"))), "{names:?}");
}

#[test]
fn two_nodes_do_not_meet() {
    let (one, two) = (node("two_nodes_do_not_meet"), node("two_nodes_do_not_meet"));
    let (a, b) = (one.run_pod("a"), two.run_pod("b"));
    assert_eq!(a.ip, b.ip);
    assert_eq!(one.ports("br0"), [a.port.as_str()]);
    assert_eq!(two.ports("br0"), [b.port.as_str()]);
}

#[test]
fn add_and_del_as_a_runtime_calls_them() {
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let node = Setup::new()
            .without_gc()
            .cni_version(version)
            .datapath(Datapath::Dummy)
            .up("add_and_del_as_a_runtime_calls_them");
        let web = node.run_pod("web");
        assert_eq!(web.result["cniVersion"], version);
        assert_eq!(web.result["interfaces"][1]["sandbox"], web.netns_path());
        assert_eq!(web.result["ips"][0]["interface"], 1);
        let family = &web.result["ips"][0]["version"];
        assert_eq!(family.is_string(), version.starts_with("0."), "{version}: {family}");
        assert_eq!((web.ip.as_str(), web.ip6.as_str()), ("10.244.1.2", "fd00:10:244:1::2"));
        assert_ne!(web.ofport, 0);

        let marks = node.ovs_vsctl(&["get", "Port", &web.port, "external_ids"]);
        for mark in [
            "owner=ovs-cni.network.kubevirt.io".to_owned(),
            format!("contNetns=\"{}\"", web.netns_path()),
            "contIface=eth0".to_owned(),
            format!("contPodUid=\"{}\"", web.uid),
        ] {
            assert!(marks.contains(&mark), "{mark} in {marks}");
        }
        node.del(&web);
        assert!(node.ports("br0").is_empty());
        assert!(!Path::new(&web.netns_path()).exists());
        node.try_del(&web).unwrap();
        // The address is free again, and the next pod gets the next one.
        node.run_pod("web2");
    }
}

#[test]
fn check_status_and_gc() {
    let node = Setup::new()
        .without_gc()
        .cni_version("1.1.0")
        .datapath(Datapath::Dummy)
        .up("check_status_and_gc");
    let web = node.run_pod("web");
    node.try_check(&web).unwrap();
    node.status().unwrap();
    assert!(node.gc(Valid::Pods(&[])).is_empty());
    assert_eq!(node.ports("br0"), [web.port.as_str()], "as ovs-cni: no GC");
    let verbs: Vec<_> =
        node.calls().iter().map(|call| call.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(verbs, ["ADD", "CHECK", "STATUS", "GC"]);

    node.ovs_vsctl(&["del-port", &web.port]);
    assert_eq!(node.try_check(&web).unwrap_err().cni_error().0, 100);
    node.ovs_vsctl(&["del-br", "br0"]);
    assert_eq!(node.status().unwrap_err().cni_error().0, 50);
}

/// A plugin behind the OVS plugin that keeps what it was given.
const RECORDER: &str = "
    conf=$(cat); echo \"$CNI_COMMAND $conf\" >> $(dirname $0)/../../../calls/recorder
    [ \"$CNI_COMMAND\" != ADD ] || echo \"$conf\" | sed 's/.*\"prevResult\"://; s/}$//'";

fn recorded(node: &Node) -> Vec<(String, Value)> {
    let text = fs::read_to_string(node.dir.join("calls/recorder")).unwrap_or_default();
    text.lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(verb, conf)| (verb.to_owned(), serde_json::from_str(conf).unwrap()))
        .collect()
}

fn with_recorder(node: &Node) {
    node.script_plugin("recorder", RECORDER);
    let mut conflist = node.conflist();
    conflist["plugins"].as_array_mut().unwrap().push(json!({"type": "recorder"}));
    node.set_conflist(conflist);
}

#[test]
fn the_chain_hands_results_on() {
    for (version, del_has_prev) in [("0.3.1", false), ("0.4.0", true), ("1.1.0", true)] {
        let node = Setup::new()
            .without_gc()
            .cni_version(version)
            .datapath(Datapath::Dummy)
            .up("the_chain_hands_results_on");
        with_recorder(&node);
        let web = node.run_pod("web");
        node.try_del(&web).unwrap();

        let calls = recorded(&node);
        let verbs: Vec<_> = calls.iter().map(|(verb, _)| verb.as_str()).collect();
        assert_eq!(verbs, ["ADD", "DEL"]);
        let (add, del) = (&calls[0].1, &calls[1].1);
        assert_eq!(add["prevResult"], web.result);
        assert_eq!(add["name"], "podnet");
        assert_eq!(add["cniVersion"], version);
        assert_eq!(del.get("prevResult"), del_has_prev.then_some(&web.result), "{version}");
    }
}

#[test]
fn gc_hands_over_a_list() {
    let node = Setup::new()
        .without_gc()
        .cni_version("1.1.0")
        .datapath(Datapath::Dummy)
        .up("gc_hands_over_a_list");
    let web = node.run_pod("web");
    with_recorder(&node);
    node.gc(Valid::Null);
    node.gc(Valid::Absent);
    node.gc(Valid::Pods(&[&web]));
    let lists: Vec<_> = recorded(&node)
        .into_iter()
        .map(|(_, conf)| conf.get("cni.dev/valid-attachments").cloned())
        .collect();
    let one = json!([{"containerID": web.container, "ifname": "eth0"}]);
    assert_eq!(lists, [Some(Value::Null), None, Some(one)]);
}

#[test]
fn del_goes_in_reverse_and_stops_at_the_first_error() {
    let node = Setup::new().without_gc().datapath(Datapath::Dummy).up("del_goes_in_reverse");
    with_recorder(&node);
    let web = node.run_pod("web");
    node.script_plugin("recorder", "cat >/dev/null; echo '{\"code\":11,\"msg\":\"no\"}'; exit 1");
    let failed = node.try_del(&web).unwrap_err();
    assert_eq!(failed.cni_error().0, 11);
    assert_eq!(node.ports("br0"), [web.port.as_str()], "the OVS plugin was never asked");
    assert_eq!(node.calls().len(), 1);
}

#[test]
fn a_failed_add_undoes_itself() {
    let node = Setup::new().without_gc().datapath(Datapath::Dummy).up("a_failed_add");
    let pod = node.pod("web");
    node.configure_plugin("ovs-test-cni", json!({"bridge": "br9"}));
    let (_, text) = node.try_add(&pod).unwrap_err().cni_error();
    assert!(text.contains("no bridge named br9"), "{text}");
    node.configure_plugin("ovs-test-cni", json!({"bridge": null}));
    let again = node.add(&pod);
    assert_eq!(node.ports("br0"), [again.port.as_str()]);
}

#[test]
fn single_calls_and_bad_input() {
    let node = Setup::new().datapath(Datapath::Dummy).up("single_calls_and_bad_input");
    let version = node.call("ovs-test-cni", "VERSION").conf(&json!({"cniVersion": "1.0.0"})).run();
    assert_eq!(version.json()["supportedVersions"][3], "1.1.0");
    let bad = node.call("ovs-test-cni", "ADD").conf(&json!({"cniVersion": "9.9.9"})).run();
    assert_eq!(bad.cni_error().0, 1);
    let torn = node.call("ovs-test-cni", "ADD").stdin("{\"cniVersion\":").run();
    assert_eq!(torn.cni_error().0, 7);
    let pod = node.pod("web");
    let conf = node.plugin_conf("ovs-test-cni", Some(&pod), None);
    let call = node.call("ovs-test-cni", "ADD").conf(&conf).pod(&pod).without("CNI_NETNS");
    assert_eq!(call.run().cni_error().0, 4);
    // The chained plugin is there, and gets its keys.
    assert_eq!(node.plugin_conf("ovs-flow-gc", None, None)["stateDir"], json!(node.state_dir));
    assert_eq!(node.admin(&["--help"]).command.split(' ').nth(1), Some("--help"));
}

#[test]
fn a_command_has_a_deadline() {
    let node = Setup::new().datapath(Datapath::Dummy).up("a_command_has_a_deadline");
    node.script_plugin("hangs", "exec sleep 600");
    let start = Instant::now();
    let outcome = node.call("hangs", "ADD").start().kill_after(Duration::from_millis(50));
    assert_eq!(outcome.code, None);
    let hung = node.call("hangs", "ADD").start();
    let late = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        hung.wait_for(Duration::from_millis(50))
    }));
    assert!(late.is_err());
    assert!(start.elapsed() < Duration::from_secs(60));
}

#[test]
fn addresses_and_macs_on_request() {
    let node = Setup::new().without_gc().datapath(Datapath::Dummy).up("addresses_on_request");
    let pod = node.pod("web").with_ip("10.244.1.77").with_mac("02:00:00:00:00:77");
    let web = node.add(&pod);
    assert_eq!((web.ip.as_str(), web.mac.as_str()), ("10.244.1.77", "02:00:00:00:00:77"));
    node.vanish(&web, Port::Stays);
    let taken = node.try_add(&node.pod("next").with_ip("10.244.1.77")).unwrap_err();
    assert!(taken.cni_error().1.contains("10.244.1.77"), "{taken}");
    node.forget_lease("10.244.1.77");
    assert_eq!(node.add(&node.pod("next").with_ip("10.244.1.77")).ip, "10.244.1.77");
}

#[test]
fn pods_of_other_cnis() {
    let node = node("pods_of_other_cnis");
    node.add_bridge("br-int", Some("OpenFlow13"));
    let a = node.plug(&node.pod("a"), "br-int", "h1", "10.9.0.1/24");
    let b = node.plug(&node.pod("b"), "br-int", "h2", "10.9.0.2/24");
    assert_eq!((b.port.as_str(), b.ip.as_str()), ("h2", "10.9.0.2"));
    assert_ne!((a.ofport, &a.mac), (b.ofport, &b.mac));
    node.add_flows("br-int", &["table=0, priority=0 actions=NORMAL"]);
    node.must_reach(&a, &b.ip);
    assert_eq!(node.dump("br-int"), ["table=0, priority=0 actions=NORMAL"]);
}

#[test]
fn vlans() {
    let node = Setup::new().without_gc().ovs_conf(json!({"vlan": 100})).up("vlans");
    let (a, b) = (node.run_pod("a"), node.run_pod("b"));
    node.configure_plugin("ovs-test-cni", json!({"vlan": 200}));
    let c = node.run_pod("c");
    assert_eq!(node.ovs_vsctl(&["get", "Port", &c.port, "tag"]), "200");
    node.add_flows("br0", &["actions=NORMAL"]);
    node.must_reach(&a, &b.ip);
    assert!(!node.ping(&a, &c.ip));
}

#[test]
fn a_small_state_directory_goes_with_the_node() {
    let node = Setup::new().datapath(Datapath::Dummy).up("a_small_state_directory");
    node.limit_state_dir("16k");
    let full = fs::write(node.state_dir.join("big"), [0_u8; 32 * 1024]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    let dir = node.dir.clone();
    drop(node);
    assert!(!dir.exists());
}

#[test]
fn pods_reach_each_other_through_the_classifier() {
    let node = node("pods_reach_each_other");
    let (a, b, c) = (node.run_pod("a"), node.run_pod("b"), node.run_pod("c"));
    assert!(!node.ping(&a, &b.ip), "no flows, no packets");
    node.add_flows("br0", &layouts::classifier_base());
    node.add_flows("br0", &layouts::classifier(&a.who(0x1001)));
    node.add_flows("br0", &layouts::classifier(&b.who(0x1002)));
    node.must_reach(&a, &b.ip);
    node.must_reach(&b, &a.ip);
    node.must_reach(&a, &b.ip6);
    assert!(!node.ping(&a, &c.ip), "c has no flows");
    // Established connections take the conntrack entries of the layout.
    let stats = node.ofctl(&["dump-flows", "br0", "table=35,ip"]);
    assert!(
        stats.lines().any(|l| l.contains("n_packets=") && !l.contains("n_packets=0,")),
        "{stats}"
    );
}

#[test]
fn layouts_are_written_as_dumps_show_them() {
    let node = Setup::new().without_gc().datapath(Datapath::Dummy).up("layouts_as_dumped");
    let (a, b) = (node.run_pod("a").who(0x1001), node.run_pod("b").who(0x1002));
    let layouts = [
        [layouts::classifier_base(), layouts::classifier(&a), layouts::classifier(&b)].concat(),
        [layouts::openshift_namespace(0x1001), layouts::openshift(&a), layouts::openshift(&b)]
            .concat(),
        [layouts::antrea_base(), layouts::antrea(&a), layouts::antrea(&b)].concat(),
    ];
    for mut layout in layouts {
        node.ofctl(&["del-flows", "br0"]);
        layout.sort();
        assert_eq!(node.install("br0", &layout), layout);
    }
    // A bridge limited to one version shows them, too.
    node.ofctl(&["del-flows", "br0"]);
    node.set_protocols("br0", "OpenFlow13");
    let openshift = layouts::openshift(&a);
    node.add_flows("br0", &openshift);
    assert!(contains_all(&node.dump("br0"), &openshift));
    node.set_protocols("br0", "OpenFlow10,OpenFlow15");
    assert!(contains_all(&node.dump("br0"), &openshift));
    node.set_protocols("br0", "OpenFlow10");
    assert_eq!(node.dump("br0").len(), openshift.len());
}

#[test]
fn death_without_del() {
    let node = node("death_without_del");
    let (stays, gone) = (node.run_pod("stays"), node.run_pod("gone"));
    node.vanish(&stays, Port::Stays);
    node.vanish(&gone, Port::Gone);
    assert_eq!(node.ports("br0"), [stays.port.as_str()]);
    // Userspace datapath: the row keeps its number, and only ifindex tells.
    assert_eq!(node.ofport(&stays.port), stays.ofport);
    eventually("the switch has seen it", || {
        node.ovs_vsctl(&["get", "Interface", &stays.port, "ifindex"]) == "0"
    });
    assert_eq!(node.calls().len(), 2, "no DEL");
}

#[test]
fn the_switch_hangs_dies_and_comes_back() {
    let node = node("the_switch_hangs_dies_and_comes_back");
    let flow = ["table=3, priority=7,in_port=9 actions=drop".to_owned()];
    assert_eq!(node.install("br0", &flow), flow);

    node.vswitchd.pause();
    let hung = node.try_ofctl(&["--timeout=1", "dump-flows", "br0"]);
    assert!(!hung.succeeded());
    // The database still answers; ovs-vsctl does not wait for the switch.
    assert_eq!(node.ovs_vsctl(&["list-br"]), "br0");
    node.vswitchd.resume();
    assert_eq!(node.dump("br0"), flow);

    node.restart_vswitchd(Flows::Restored);
    assert_eq!(node.dump("br0"), flow);
    node.restart_vswitchd(Flows::Lost);
    assert_eq!(node.dump("br0"), [""; 0]);
    node.vswitchd.kill();
    assert!(node.run_dir.join("br0.mgmt").exists(), "killed: its sockets stay");
    node.restart_vswitchd(Flows::Lost);
    node.vswitchd.stop();
    assert!(!node.run_dir.join("br0.mgmt").exists(), "stopped in order: they do not");
    node.vswitchd.start();

    node.ovsdb.pause();
    assert!(!node.try_ovs_vsctl(&["--timeout=1", "list-br"]).succeeded());
    node.ovsdb.resume();
    node.ovsdb.kill();
    let refused = node.try_add(&node.pod("web")).unwrap_err();
    assert!(refused.cni_error().1.contains("db.sock"), "{refused}");
    node.ovsdb.start();
    node.run_pod("web");
}

#[test]
fn many_adds_at_once() {
    let node = node("many_adds_at_once");
    let pods: Vec<_> = (0..100).map(|n| node.pod(&format!("p{n}"))).collect();
    let start = Instant::now();
    thread::scope(|scope| {
        for pod in &pods {
            scope.spawn(|| node.try_add(pod).unwrap());
        }
    });
    let added = start.elapsed();
    assert_eq!(node.ports("br0").len(), 100);
    thread::scope(|scope| {
        for pod in &pods {
            scope.spawn(|| node.try_del(pod).unwrap());
        }
    });
    assert!(node.ports("br0").is_empty());
    eprintln!("100 ADDs {added:?}, 100 DELs {:?}", start.elapsed() - added);
}

#[test]
fn keys_of_a_plugin_can_change() {
    let node = Setup::new().datapath(Datapath::Dummy).up("keys_of_a_plugin_can_change");
    node.configure(json!({"mode": "observe", "lingerSeconds": 1}));
    node.configure(json!({"lingerSeconds": null}));
    let written: Value = serde_json::from_slice(&fs::read(node.conflist_path()).unwrap()).unwrap();
    assert_eq!(written, node.conflist());
    assert_eq!(written["plugins"][1]["mode"], "observe");
    assert_eq!(written["plugins"][1].get("lingerSeconds"), None);
}

#[test]
fn containerd_calls_add_and_del() {
    let node = node("containerd_calls_add_and_del");
    let containerd = Containerd::start(&node);
    let outcome = containerd.run("called", &["/bin/ip", "-o", "addr", "show", "eth0"]);
    assert!(outcome.stdout.contains("10.244.1.2/24"), "{outcome}\n{}", containerd.log());
    let calls = node.calls();
    assert_eq!(calls.len(), 2, "{calls:?}");
    assert!(
        calls[0].starts_with("ADD default-called eth") && calls[0].contains("\"/proc/"),
        "{calls:?}"
    );
    assert!(calls[1].starts_with("DEL default-called eth"), "{calls:?}");
    assert!(node.ports("br0").is_empty());
}

#[test]
fn containerd_killed_never_calls_del() {
    let node = node("containerd_killed_never_calls_del");
    let containerd = Containerd::start(&node);
    let ctr = containerd.start_run("killed", &["/bin/sleep", "600"]);
    eventually("ADD has happened", || !node.ports("br0").is_empty());
    containerd.task_pid("killed");
    ctr.kill();
    assert_eq!(ctr.wait().code, None);
    containerd.wipe("killed");
    sleep_ms(200);
    assert_eq!(node.calls().len(), 1, "{:?}", node.calls());
    assert_eq!(node.ports("br0").len(), 1, "the port row is left over");
}
