//! `bug-report`: one text that a maintainer can work with, and that hides what it was asked to hide.

use serde_json::{Value, json};

use crate::rig::{Node, Port, Setup, layouts};

fn report(node: &Node, args: &[&str]) -> String {
    let net_dir = node.conflist_path().parent().unwrap().display().to_string();
    let outcome = node.admin(&[&["bug-report", "--net-dir", &net_dir], args].concat());
    assert_eq!(outcome.code, Some(0), "{outcome}");
    outcome.stdout
}

#[test]
fn every_part_is_there_and_addresses_can_be_hidden() {
    let node = Setup::new().gc_conf(json!({"reg0": "ipv4"})).up("bug_report");
    let (web, db) = (node.run_pod("web"), node.run_pod("db"));
    for pod in [&web, &db] {
        let value = u32::from(pod.ip.parse::<std::net::Ipv4Addr>().unwrap());
        node.install("br0", &layouts::classifier(&pod.who(value)));
    }
    node.vanish(&db, Port::Stays);
    let mut conflist = node.conflist();
    conflist["plugins"][0]["apiToken"] = "do-not-show".into();
    node.set_conflist(conflist);

    let before = node.dump("br0");
    let plain = report(&node, &[]);
    for part in [
        "### System\n",
        "### ovs-flow-gc version\n",
        "### ovs-flow-gc status\n",
        "### ovs-flow-gc doctor\n",
        "### ovs-flow-gc list\n",
        "### ovs-flow-gc sweep --dry-run\n",
        "### ovs-flow-gc undo --list\n",
        &format!("### {}\n", node.conflist_path().display()),
        "config.json\n",
        &web.ip,
        &web.name,
        env!("CARGO_PKG_VERSION"),
    ] {
        assert!(plain.contains(part), "{part}: {plain}");
    }
    assert!(!plain.contains("do-not-show"), "{plain}");

    let hidden = report(&node, &["--hide-addresses"]);
    let value = u32::from(web.ip.parse::<std::net::Ipv4Addr>().unwrap());
    for secret in [&web.ip, &db.ip, &web.mac, &db.mac, &format!("{value:#x}"), &value.to_string()] {
        assert!(!hidden.contains(secret.as_str()), "{secret}: {hidden}");
    }
    assert!(hidden.contains("ip-1") && hidden.contains("mac-1"), "{hidden}");
    assert!(hidden.contains(&web.name), "only addresses are hidden");

    let parts: Value = serde_json::from_str(&report(&node, &["--json"])).unwrap();
    let titles: Vec<_> =
        parts["items"].as_array().unwrap().iter().map(|part| &part["title"]).collect();
    assert_eq!(titles.len(), plain.matches("\n### ").count() + 1, "{titles:?}");
    assert_eq!(node.dump("br0"), before, "nothing was deleted");
}

/// The parts that fail say why; the others are there.
#[test]
fn without_a_switch_and_without_records() {
    let node = Setup::new().up("bug_report_bare");
    node.vswitchd.pause();
    std::fs::write(node.conflist_path(), "{").unwrap();
    let text = report(&node, &[]);
    node.vswitchd.resume();
    assert!(text.contains("not shown, it is not JSON"), "{text}");
    assert!(text.contains("### ovs-flow-gc undo --list\n"), "{text}");
}
