//! Rows of OVSDB that are replaced, gone, or of no use.

use super::{
    PodWithFlows, SMALL, del_gives_up, hasty_node, list, only, our_del, record_of, settle, sweep,
    sweep_finishes, tombstones,
};
use crate::pods::{self, Member};
use crate::rig::{Flows, Node, Port, Setup, Who, eventually, layouts};
use serde_json::json;

fn row(node: &Node, port: &str) -> String {
    node.ovs_vsctl(&["get", "Interface", port, "_uuid"])
}

fn ofport(node: &Node, port: &str) -> String {
    node.ovs_vsctl(&["get", "Interface", port, "ofport"])
}

/// The arguments that put a port back: its name, its marks if they are kept, its number.
fn add_port_again(node: &Node, pod: &PodWithFlows, marks: bool, number: u16) -> Vec<String> {
    let port = &pod.port;
    let mut args = vec!["--".to_owned(), "add-port".to_owned(), "br0".to_owned(), port.clone()];
    if marks {
        let ids = node.ovs_vsctl(&["get", "Port", port, "external_ids"]);
        args.extend(["--", "set", "Port", port].map(str::to_owned));
        args.push(format!("external_ids={ids}"));
    }
    args.extend(["--", "set", "Interface", port].map(str::to_owned));
    args.push(format!("ofport_request={number}"));
    args
}

/// del-port and add-port in one transaction: the same name is a new row with a new number.
fn replace_row(node: &Node, pod: &PodWithFlows, marks: bool, number: u16) {
    let before = row(node, &pod.port);
    let mut args = vec!["del-port".to_owned(), pod.port.clone()];
    args.extend(add_port_again(node, pod, marks, number));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    node.ovs_vsctl(&args);
    assert_ne!(row(node, &pod.port), before, "another row");
    eventually("it has its number", || ofport(node, &pod.port) == number.to_string());
}

#[test]
fn a_live_pods_row_replaced_in_one_transaction() {
    for marks in [true, false] {
        let node = Setup::new()
            .gc_conf(json!({"lingerSeconds": 60, "reapDangling": true}))
            .up("a_live_pods_row_replaced_in_one_transaction");
        let (base, [web, db, cache]) = settle(&node, ["web", "db", "cache"]);
        // The timer's sweep has seen who is who: a changed number teaches nothing.
        sweep(&node);
        replace_row(&node, &web, marks, 40);
        // Its controller has not noticed yet: nothing of it goes, whoever dies.
        sweep(&node);
        only(&node, &[&base, &web.flows, &db.flows, &cache.flows]);
        node.del(&db);
        only(&node, &[&base, &web.flows, &cache.flows]);

        // Now it has, and what named the old number is still there.
        let mut who = web.who(web.reg);
        who.ofport = 40;
        let renewed = layouts::classifier(&who);
        node.add_flows("br0", &renewed);
        let old: Vec<_> = web.flows.iter().filter(|f| f.contains("in_port")).cloned().collect();
        sweep(&node);
        only(&node, &[&base, &renewed, &old, &cache.flows]);
        node.must_reach(&web, &cache.ip);

        // Its own end takes both numbers' entries: without its marks, the device behind the new
        // row is still its own.
        our_del(&node, &web).ok();
        only(&node, &[&base, &cache.flows]);
        node.del(&web);
        sweep(&node);
        only(&node, &[&base, &cache.flows]);
    }
}

/// How a pod whose port was attached anew ends, and whether a sweep came in between.
#[derive(Clone, Copy, Debug)]
enum End {
    Del { swept: bool },
    Orphan,
}

/// What its controller installs for a pod's new number.
fn renew(node: &Node, pod: &PodWithFlows, number: u16) -> Vec<String> {
    let mut who = pod.who(pod.reg);
    who.ofport = number;
    let flows = layouts::classifier(&who);
    node.add_flows("br0", &flows);
    flows
}

fn end(node: &Node, pod: &PodWithFlows, how: End) {
    match how {
        End::Del { .. } => drop(our_del(node, pod).ok()),
        End::Orphan => {
            node.vanish(pod, Port::Gone);
            sweep(node);
        }
    }
}

/// Somebody takes a living pod's veth off the bridge and puts it back later: another row, another
/// number, no marks.
#[test]
fn a_live_pods_port_is_attached_anew() {
    for how in [End::Del { swept: true }, End::Del { swept: false }, End::Orphan] {
        let node = hasty_node("a_live_pods_port_is_attached_anew", 5000);
        node.configure(json!({"reapDangling": true}));
        let (base, [web, db, cache]) = settle(&node, ["web", "db", "cache"]);
        sweep(&node);
        node.ovs_vsctl(&["del-port", &web.port]);
        // Between the two it lives without a port.
        sweep(&node);
        only(&node, &[&base, &web.flows, &db.flows, &cache.flows]);
        node.ovs_vsctl(&["add-port", "br0", &web.port]);
        let number = node.ofport(&web.port);
        assert_ne!(number, web.ofport);
        let its = renew(&node, &web, number);
        let old: Vec<_> =
            web.flows.iter().filter(|flow| flow.contains("in_port")).cloned().collect();
        if !matches!(how, End::Del { swept: false }) {
            sweep(&node);
            let now = record_of(&node, &web);
            let want = (json!(number), json!(web.ofport), json!(row(&node, &web.port)));
            let known = (&now["ofport"], &now["ofportBefore"], &now["interface"]);
            assert_eq!(known, (&want.0, &want.1, &want.2), "{now:#}");
        }
        only(&node, &[&base, &its, &old, &db.flows, &cache.flows]);
        end(&node, &web, how);
        only(&node, &[&base, &db.flows, &cache.flows]);
        node.must_reach(&db, &cache.ip);
    }
}

/// The same, with the number of a pod that died shortly before, and is still watched: what the living
/// one has under the number is no leftover of the dead one's.
#[test]
fn a_live_pod_without_its_row_had_a_dead_ones_number() {
    let node = pods::node(
        "a_live_pod_without_its_row_had_a_dead_ones_number",
        json!({"lingerSeconds": 60}),
    );
    let base = node.install("br0", &layouts::classifier_base());
    let others = pods::attached(&node, 2);
    let [dead, next] = [(50, 0x1050), (51, 0x1051)]
        .map(|(number, reg)| Member::new(&node, number, 40, u8::try_from(number).unwrap(), reg));
    pods::add_ports(&node, [&dead]);
    pods::all_at_once(&node, "ADD", [&dead]);
    node.add_flows("br0", &dead.lines());
    sweep(&node);
    // Nobody says so. A sweep leaves nothing of it, and it is remembered.
    pods::del_ports(&node, [dead.port.as_str()]);
    pods::end_sandboxes(&node, [&dead]);
    sweep(&node);
    pods::add_ports(&node, [&next]);
    pods::all_at_once(&node, "ADD", [&next]);
    node.add_flows("br0", &next.lines());
    let all = [&base[..], &next.lines(), &others[0].lines(), &others[1].lines()];
    let left: Vec<String> = all.concat();
    sweep(&node);
    only(&node, &[&left]);

    pods::del_ports(&node, [next.port.as_str()]);
    assert!(!tombstones(&node).is_empty(), "the dead one is still watched");
    sweep(&node);
    only(&node, &[&left]);
    pods::all_at_once(&node, "DEL", [&others[0]]);
    let own = others[0].lines();
    let left: Vec<String> = left.into_iter().filter(|line| !own.contains(line)).collect();
    only(&node, &[&left]);

    // It comes back with its number, as its owner asks for it.
    pods::add_ports(&node, [&next]);
    sweep(&node);
    only(&node, &[&left]);
    pods::all_at_once(&node, "DEL", [&next]);
    only(&node, &[&base, &others[1].lines()]);
}

/// A pod's row is away for a moment, and another pod has its number meanwhile and dies. What the living
/// one has under the number stays, while its row is away, when it is back, and when it is away again.
#[test]
fn somebody_dead_had_a_living_ones_number_while_its_row_was_away() {
    let node = pods::node(
        "somebody_dead_had_a_living_ones_number_while_its_row_was_away",
        json!({"lingerSeconds": 60, "reg0": "pod"}),
    );
    let base = node.install("br0", &layouts::classifier_base());
    let others = pods::attached(&node, 2);
    let living = Member::new(&node, 50, 40, 50, 0x1050);
    pods::add_ports(&node, [&living]);
    pods::all_at_once(&node, "ADD", [&living]);
    node.add_flows("br0", &living.lines());
    let all = [&base[..], &living.lines(), &others[0].lines(), &others[1].lines()].concat();
    sweep(&node);
    only(&node, &[&all]);

    pods::del_ports(&node, [living.port.as_str()]);
    sweep(&node);
    let dead = Member::new(&node, 51, 40, 51, 0x1051);
    pods::add_ports(&node, [&dead]);
    // It dies before its controller has put anything under the number.
    pods::all_at_once(&node, "ADD", [&dead]);
    only(&node, &[&all]);
    pods::all_at_once(&node, "DEL", [&dead]);
    only(&node, &[&all]);
    pods::del_ports(&node, [dead.port.as_str()]);
    pods::end_sandboxes(&node, [&dead]);
    sweep(&node);
    only(&node, &[&all]);

    pods::add_ports(&node, [&living]);
    sweep(&node);
    let again = living.lines();
    // Its controller puts all of it once more: younger than the dead one.
    node.add_flows("br0", &again);
    sweep(&node);
    only(&node, &[&all]);
    pods::del_ports(&node, [living.port.as_str()]);
    assert!(!tombstones(&node).is_empty(), "the dead one is still watched");
    sweep(&node);
    only(&node, &[&all]);
    pods::add_ports(&node, [&living]);
    pods::all_at_once(&node, "DEL", [&living]);
    sweep(&node);
    only(&node, &[&base, &others[0].lines(), &others[1].lines()]);
}

/// A living pod's own rules about an address that a dead pod had, while the living one's row is away.
#[test]
fn a_live_pods_rules_about_a_dead_ones_address_while_its_row_is_away() {
    let node = pods::node(
        "a_live_pods_rules_about_a_dead_ones_address_while_its_row_is_away",
        json!({"lingerSeconds": 0, "reg0": "pod"}),
    );
    let base = node.install("br0", &layouts::classifier_base());
    let living = Member::new(&node, 50, 40, 50, 0x1050);
    let dead = Member::new(&node, 51, 41, 51, 0x1051);
    pods::add_ports(&node, [&living, &dead]);
    pods::all_at_once(&node, "ADD", [&living, &dead]);
    let rules = [
        format!("table=72,priority=78,ip,in_port=40,nw_dst={},actions=drop", dead.who.ip),
        format!("table=72,priority=79,ip,in_port=40,nw_src={},actions=drop", dead.who.ip),
        format!("table=73,priority=81,ip,nw_src={},actions=output:40", dead.who.ip),
    ];
    node.add_flows("br0", &living.lines());
    node.add_flows("br0", &dead.lines());
    let rules = node.install("br0", &rules);
    let kept = [&base[..], &living.lines(), &rules].concat();
    sweep(&node);
    pods::del_ports(&node, [living.port.as_str()]);
    pods::all_at_once(&node, "DEL", [&dead]);
    pods::del_ports(&node, [dead.port.as_str()]);
    pods::end_sandboxes(&node, [&dead]);
    sweep(&node);
    only(&node, &[&kept]);
    pods::add_ports(&node, [&living]);
    sweep(&node);
    only(&node, &[&kept]);
}

/// The bridge is deleted and made anew under running pods, as a script that "repairs" it does.
#[test]
fn a_bridge_made_anew_under_running_pods() {
    for how in [End::Del { swept: true }, End::Del { swept: false }, End::Orphan] {
        let node = hasty_node("a_bridge_made_anew", 5000);
        let (base, [web, db]) = settle(&node, ["web", "db"]);
        sweep(&node);
        node.ovs_vsctl(&["del-br", "br0"]);
        assert!(node.admin(&["sweep"]).succeeded());
        node.add_bridge("br0", None);
        // The other way round: their numbers are exchanged.
        let (webs, dbs) = (web.ofport, db.ofport);
        for (pod, number) in [(&db, webs), (&web, dbs)] {
            let request = format!("ofport_request={number}");
            node.ovs_vsctl(&[
                "add-port",
                "br0",
                &pod.port,
                "--",
                "set",
                "Interface",
                &pod.port,
                &request,
            ]);
        }
        assert_eq!((node.ofport(&web.port), node.ofport(&db.port)), (dbs, webs));
        node.add_flows("br0", &base);
        let (web_now, db_now) = (renew(&node, &web, dbs), renew(&node, &db, webs));
        if !matches!(how, End::Del { swept: false }) {
            sweep(&node);
        }
        only(&node, &[&base, &web_now, &db_now]);
        end(&node, &web, how);
        only(&node, &[&base, &db_now]);
        assert_eq!(record_of(&node, &db)["ofport"], json!(webs));
        our_del(&node, &db).ok();
        sweep(&node);
        only(&node, &[&base]);
    }
}

/// A pod's veth is gone and somebody whom nobody recorded has its name.
#[test]
fn a_port_name_that_another_pod_has_now() {
    let node = hasty_node("a_port_name_that_another_pod_has_now", 5000);
    let (base, [web, db]) = settle(&node, ["web", "db"]);
    sweep(&node);
    node.ovs_vsctl(&["del-port", &web.port]);
    node.run("ip", &["link", "del", &web.port]).ok();
    let other = node.plug(&node.pod("other"), "br0", &web.port, "10.244.1.77/24");
    assert_ne!(other.ofport, web.ofport);
    let its = node.install(
        "br0",
        &layouts::classifier(&Who { ip6: "fd00::77".to_owned(), ..other.who(0x1077) }),
    );
    let swept = sweep(&node);
    only(&node, &[&base, &web.flows, &db.flows, &its]);
    let known = record_of(&node, &web);
    assert_eq!(known["ofport"], json!(web.ofport), "{swept:#}");
    our_del(&node, &web).ok();
    only(&node, &[&base, &db.flows, &its]);
    sweep(&node);
    only(&node, &[&base, &db.flows, &its]);
}

/// A dead pod's row is another pod's by now, whose ADD has not come to us: a representor that
/// stays and is marked anew, or `--may-exist add-port` of another veth with the name.
fn give_row_away(node: &Node, web: &PodWithFlows, representor: bool) {
    let next = node.pod("next");
    let ifindex = || node.ovs_vsctl(&["get", "Interface", &web.port, "ifindex"]);
    let before = ifindex();
    if representor {
        node.run("ip", &["-n", &web.netns, "link", "set", "eth0", "netns", &next.netns]).ok();
    }
    node.vanish(web, Port::Stays);
    let netns = next.netns_path();
    let marks = if representor {
        format!("external_ids={{contNetns=\"{netns}\",contIface=eth0}}")
    } else {
        let peer = ["type", "veth", "peer", "name", "eth0", "netns", &next.netns];
        node.run("ip", &[&["link", "add", web.port.as_str()], &peer[..]].concat()).ok();
        "external_ids={}".to_owned()
    };
    node.run("ip", &["link", "set", &web.port, "up"]).ok();
    let number = format!("ofport_request={}", web.ofport);
    let (add, port) = (["--may-exist", "add-port", "br0"], web.port.as_str());
    let set = ["--", "set", "Port", port, &marks, "--", "set", "Interface", port, &number];
    node.ovs_vsctl(&[&add[..], &[port], &set[..]].concat());
    eventually("the row has its device", || {
        let same = ifindex() == before;
        ofport(node, port) == web.ofport.to_string() && same == representor && ifindex() != "0"
    });
}

#[test]
fn a_row_that_another_pod_has_now() {
    for (representor, swept) in [(true, true), (true, false), (false, true), (false, false)] {
        let node = hasty_node("a_row_that_another_pod_has_now", 5000);
        let (base, [web, db]) = settle(&node, ["web", "db"]);
        sweep(&node);
        let had = row(&node, &web.port);
        give_row_away(&node, &web, representor);
        assert_eq!(row(&node, &web.port), had);
        let its = Who {
            ofport: web.ofport,
            reg: 0x1077,
            ip: "10.244.1.77".to_owned(),
            ip6: "fd00::77".to_owned(),
            mac: "0a:58:00:00:77:77".to_owned(),
        };
        // One of them takes the place of the dead pod's.
        let its = layouts::classifier(&its);
        node.add_flows("br0", &its);
        let all_there = |when: &str| {
            let now = node.dump("br0");
            let live = [&base[..], &db.flows, &its].concat();
            let gone: Vec<_> = live.iter().filter(|flow| !now.contains(flow)).collect();
            assert!(gone.is_empty(), "{when}, representor: {representor}: {gone:#?}");
        };
        if !swept {
            our_del(&node, &web).ok();
            all_there("a late DEL");
        }
        sweep(&node);
        all_there("a sweep");
        sweep(&node);
        all_there("another sweep");
        assert!(node.ports("br0").contains(&web.port));
    }
}

/// openshift/origin #18634: del-br and add-br in one transaction keep the flows.
#[test]
fn a_bridge_replaced_in_one_transaction_keeps_its_flows() {
    let node = hasty_node("a_bridge_replaced_in_one_transaction", 5000);
    let (base, [web, db, cache]) = settle(&node, ["web", "db", "cache"]);
    // The timer's sweep has seen who is who.
    sweep(&node);
    node.vanish(&web, Port::Stays);
    let mut args: Vec<String> =
        ["del-br", "br0", "--", "add-br", "br0", "--", "set", "Bridge", "br0"]
            .map(str::to_owned)
            .to_vec();
    args.extend(["datapath_type=netdev", "fail_mode=secure"].map(str::to_owned));
    // One pod's port is put back with it, the other's is not.
    args.extend(add_port_again(&node, &db, true, db.ofport));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    node.ovs_vsctl(&args);
    assert_eq!(node.ports("br0"), [db.port.as_str()]);
    only(&node, &[&base, &web.flows, &db.flows, &cache.flows]);

    // The loss of a row kills the port, not the pod.
    sweep_finishes(&node);
    only(&node, &[&base, &db.flows, &cache.flows]);
    // Nor are a live pod's entries dangling: its record explains them.
    node.configure(json!({"reapDangling": true}));
    let next = super::with_flows(&node, node.run_pod("brings-the-new-configuration"), 0x1009);
    let report = sweep(&node);
    only(&node, &[&base, &db.flows, &cache.flows, &next.flows]);
    assert_eq!(report["bridges"][0]["dangling"], 0, "{report:#}");

    for pod in [&db, &cache, &next] {
        node.del(pod);
    }
    only(&node, &[&base]);
}

#[test]
fn a_bridge_that_is_gone_ends_its_tombstones() {
    let node = hasty_node("a_bridge_that_is_gone", 500);
    node.configure(json!({"lingerSeconds": 60}));
    let (_, [web, db, cache]) = settle(&node, ["web", "db", "cache"]);
    node.vswitchd.pause();
    del_gives_up(&node, &web, std::time::Duration::from_millis(500) + SMALL);
    // As long as the database does not answer, the bridge is not gone.
    node.ovsdb.pause();
    let swept = node.admin(&["sweep", "--timeout", "1"]);
    assert!(!swept.succeeded(), "{swept}");
    node.ovsdb.resume();
    assert_eq!(tombstones(&node).len(), 1);
    node.vswitchd.resume();

    node.ovs_vsctl(&["del-br", "br0"]);
    node.vanish(&db, Port::Gone);
    let swept = sweep(&node);
    assert!(swept["notes"].to_string().contains("its bridge is gone"), "{swept:#}");
    // Nothing to watch for: not even the linger time counts.
    let left = list(&node);
    assert_eq!(left.len(), 1, "{left:#?}");
    assert_eq!(record_of(&node, &cache)["state"], "active");
    our_del(&node, &cache).ok();
    sweep_finishes(&node);
}

/// antrea #276: a crash leaves a port row with "could not open network device", ofport −1.
#[test]
fn a_crash_leaves_a_row_without_a_number() {
    let node = Setup::new()
        .gc_conf(json!({"lingerSeconds": 0, "reapPorts": true, "reapDangling": true}))
        .up("a_crash_leaves_a_row_without_a_number");
    let (base, [web, db, cache]) = settle(&node, ["web", "db", "cache"]);
    let all = node.dump("br0");
    node.vswitchd.kill();
    node.vanish(&web, Port::Stays);
    // The device of a live pod is not there either; nobody called its end.
    node.run("ip", &["link", "del", &cache.port]).ok();
    node.restart_vswitchd(Flows::Lost);
    node.add_flows("br0", &all);
    for port in [&web.port, &cache.port] {
        eventually("the device cannot be opened", || ofport(&node, port) == "-1");
    }

    sweep_finishes(&node);
    only(&node, &[&base, &db.flows, &cache.flows]);
    let mut left = [db.port.clone(), cache.port.clone()];
    left.sort();
    assert_eq!(node.ports("br0"), left, "the orphan's row is gone, the live pod's is not");

    // The next pod is given the dead pod's number.
    let next = super::with_flows(&node, node.run_pod("next"), 0x1009);
    assert_eq!(next.ofport, web.ofport);
    sweep(&node);
    only(&node, &[&base, &db.flows, &cache.flows, &next.flows]);
    node.must_reach(&next, &db.ip);
    node.del(&cache);
    only(&node, &[&base, &db.flows, &next.flows]);
}

/// After a reboot there are no records, and the database has the rows of the pods of before.
#[test]
fn a_reboot_leaves_rows_of_nobodys() {
    let node = Setup::new()
        .gc_conf(json!({"lingerSeconds": 0, "reapPorts": true}))
        .up("a_reboot_leaves_rows_of_nobodys");
    let names = ["old", "unmarked", "elsewhere", "seen", "broken"];
    let [old, unmarked, elsewhere, seen, broken] = names.map(|name| node.run_pod(name));
    node.vswitchd.kill();
    for pod in [&old, &unmarked, &elsewhere] {
        node.vanish(pod, Port::Stays);
    }
    std::fs::remove_dir_all(&node.state_dir).unwrap();
    // Two pods that live (one of them nobody recorded) have lost their devices.
    for pod in [&seen, &broken] {
        node.run("ip", &["link", "del", &pod.port]).ok();
    }
    node.ovs_vsctl(&["clear", "Port", &unmarked.port, "external_ids"]);
    // Marked with a sandbox in a directory that nobody has looked into.
    let mark = format!("external_ids:contNetns=\"/run/others/{}\"", elsewhere.netns);
    node.ovs_vsctl(&["set", "Port", &elsewhere.port, &mark]);
    node.restart_vswitchd(Flows::Lost);
    let all = [&old, &unmarked, &elsewhere, &seen, &broken];
    for pod in all {
        eventually("the device cannot be opened", || ofport(&node, &pod.port) == "-1");
    }
    let ports = || node.ports("br0");

    // Nobody lives whose sandbox would show that sandboxes can be seen.
    sweep(&node);
    assert_eq!(ports().len(), 5);
    let next = node.run_pod("next");
    let dry = node.admin(&["sweep", "--dry-run"]).ok();
    assert!(dry.contains(&format!("would remove port {}", old.port)), "{dry}");
    node.configure(json!({"reapPorts": false}));
    let other = node.run_pod("other");
    sweep(&node);
    assert!(ports().contains(&old.port), "not without reapPorts");
    node.configure(json!({"reapPorts": true}));
    let third = node.run_pod("third");
    node.admin(&["pause"]).ok();
    sweep(&node);
    assert!(ports().contains(&old.port), "not while paused");
    node.admin(&["resume"]).ok();

    let swept = sweep(&node);
    assert!(swept["notes"].to_string().contains(&old.port), "{swept:#}");
    let mut left: Vec<_> = [&unmarked, &elsewhere, &seen, &broken, &next, &other, &third]
        .map(|p| p.port.clone())
        .to_vec();
    left.sort();
    assert_eq!(ports(), left);
}
