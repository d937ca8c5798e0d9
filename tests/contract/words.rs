//! What the commands say is so: who is dead, how many entries are whose, what would happen.

use std::fs;

use serde_json::{Value, json};

use super::pods;
use crate::rig::{Attached, Node, Port, Setup, layouts};

/// FLOWS of each row of `list`, by pod.
#[track_caller]
fn must_count_the_same(node: &Node, pods: &[Attached]) {
    let rows = node.admin(&["list", "--json"]).json();
    for pod in pods {
        let row = rows.as_array().unwrap().iter().find(|row| row["containerID"] == *pod.container);
        let Some(row) = row else { continue };
        let told = node.admin(&["explain", &pod.container, "--json"]).json();
        let shown = told[0]["flows"].as_array().unwrap().len();
        assert!(shown > 0, "{told}");
        assert_eq!(row["flows"], shown, "{}: {row:#} {told:#}", pod.name);
        assert_eq!(row["liveness"], told[0]["liveness"], "{row:#} {told:#}");
    }
}

#[test]
fn list_counts_what_explain_shows() {
    let node = Setup::new()
        .gc_conf(json!({"bridges": ["br0", "br1"], "lingerSeconds": 600}))
        .up("words_count");
    node.add_bridge("br1", None);
    node.install("br0", &layouts::classifier_base());
    let (pods, _) = pods(&node, &["web", "db", "cache", "late"]);
    let (web, db) = (&pods[0], &pods[1]);
    node.add_flows(
        "br0",
        &[
            // One of two, one that only names a port, one that sets a value for somebody else.
            format!(
                "table=20,priority=7,ip,nw_src={},nw_dst={} actions=conjunction(1,1/2)",
                web.ip, db.ip
            ),
            format!("table=30,priority=7 actions=output:{},output:{}", web.ofport, db.ofport),
            format!("table=31,priority=7,ip,nw_dst={} actions=load:0x1001->NXM_NX_REG0[]", db.ip),
        ],
    );
    node.add_flows("br1", &[format!("table=3,priority=7,ip,nw_src={} actions=drop", web.ip)]);
    must_count_the_same(&node, &pods);
    let rows = node.admin(&["list", "--json"]).json();
    let flows = |pod: &Attached| {
        let rows = rows.as_array().unwrap().iter();
        let mut of = rows.filter(|row| row["containerID"] == *pod.container);
        of.next().unwrap()["flows"].as_u64().unwrap()
    };
    assert_eq!(flows(web), flows(&pods[2]) + 3, "{rows:#}");

    node.vanish(&pods[2], Port::Gone);
    node.del(&pods[3]);
    node.add_flows("br0", &[format!("table=9,priority=7,ip,nw_src={} actions=drop", pods[3].ip)]);
    must_count_the_same(&node, &pods);
    node.admin(&["sweep"]).ok();
    node.add_flows("br0", &[format!("table=9,priority=7,ip,nw_src={} actions=drop", pods[2].ip)]);
    must_count_the_same(&node, &pods);
}

/// One word, before any sweep and after it, in text and JSON, in each command.
#[test]
fn the_dead_are_dead_in_every_command() {
    let node = Setup::new().up("words_dead");
    let (pods, _) = pods(&node, &["web", "db", "cache"]);
    node.vanish(&pods[2], Port::Gone);
    let state = |name: &str| {
        let table = node.admin(&["list", "--no-flows"]).ok();
        let row = table.lines().find(|line| line.contains(name)).map(str::to_owned);
        row.unwrap_or_else(|| panic!("{name}: {table}"))
    };
    assert!(state(&pods[2].name).contains(" dead "), "{}", state(&pods[2].name));
    assert!(state(&pods[0].name).contains(" active "));
    let dry = |args: &[&str]| node.admin(&[&["sweep", "--dry-run"], args].concat()).ok();
    assert!(
        dry(&[]).contains("3 attachments, 1 dead; 15 entries would be deleted"),
        "{}",
        dry(&[])
    );
    assert!(!dry(&[]).contains("actions=") && dry(&["--details"]).contains("actions="));
    let status = node.admin(&["status"]).stdout;
    assert!(status.contains("2 live, 1 dead"), "{status}");

    node.del(&pods[1]);
    for args in [&["sweep", "--dry-run"][..], &["sweep"], &["sweep"]] {
        let text = node.admin(args).ok();
        assert!(text.contains("3 attachments, 2 dead; "), "{text}");
        let json = node.admin(&[args, &["--json"]].concat()).json();
        assert_eq!((&json["attachments"], &json["dead"]), (&json!(3), &json!(2)), "{json}");
    }
    let rows = node.admin(&["list", "--json"]).json();
    let dead = rows.as_array().unwrap().iter().filter(|row| row["liveness"] == "dead").count();
    assert_eq!(dead, 2, "{rows}");
    assert!(node.admin(&["status"]).stdout.contains("1 live, 2 dead"));
}

#[test]
fn rows_are_by_pod_and_one_is_one() {
    let node = Setup::new().gc_conf(json!({"lingerSeconds": 0, "reg0": "pod"})).up("words_order");
    let (web, _) = pods(&node, &["web"]);
    let text = node.admin(&["sweep", "--dry-run"]).ok();
    assert!(text.contains("1 attachment, 0 dead; 0 entries would be deleted"), "{text}");
    let all = ["zoo", "cache", "db"].map(|name| node.run_pod(name));
    let column = |text: &str| -> Vec<String> {
        let rows = text.lines().filter(|line| line.starts_with("default/"));
        rows.map(|row| row.split_whitespace().next().unwrap().to_owned()).collect()
    };
    let listed = column(&node.admin(&["list"]).ok());
    let mut by_name = listed.clone();
    by_name.sort();
    assert!(listed.len() == 4 && listed == by_name, "{listed:?}");
    all.iter().for_each(|pod| node.vanish(pod, Port::Gone));
    let swept = column(&node.admin(&["sweep", "--yes"]).ok());
    by_name.retain(|name| !name.ends_with(&web[0].name));
    assert_eq!(swept, by_name);
}

/// Records that cannot be read are no empty answer.
#[test]
fn what_cannot_be_read_is_said() {
    let node = Setup::new().up("words_unread");
    let (_, _) = pods(&node, &["web"]);
    let network = node.state_dir.join("podnet");
    let aside = node.dir.join("aside");
    fs::rename(&network, &aside).unwrap();
    let empty = node.admin(&["list"]);
    assert_eq!((empty.code, empty.stdout.trim()), (Some(0), "no attachments"));
    std::os::unix::fs::symlink(&aside, &network).unwrap();
    let unread = node.admin(&["list"]);
    assert_eq!(unread.code, Some(3), "{unread}");
    assert!(unread.stderr.contains("podnet is a symbolic link"), "{unread}");
}

/// Each line of standard error is an object, errors too.
#[test]
fn the_log_of_a_command_may_be_json() {
    let node = Setup::new().up("words_log");
    let (pods, _) = pods(&node, &["web", "db"]);
    node.vanish(&pods[0], Port::Gone);
    let lines = |args: &[&str]| -> Vec<Value> {
        let log = ["--log-format", "json", "--log-level", "debug"];
        let stderr = node.admin(&[args, &log[..]].concat()).stderr;
        let read =
            |line| serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {stderr}"));
        stderr.lines().map(read).collect()
    };
    let has = |lines: &[Value], level: &str, what: &str| {
        let is = |line: &&Value| line["level"] == level && line["time"].is_string();
        let mut of = lines.iter().filter(is);
        of.any(|line| line["message"].as_str().unwrap().contains(what))
    };
    let swept = lines(&["sweep"]);
    assert!(has(&swept, "info", "is dead: its network namespace is gone"), "{swept:?}");
    let failed = lines(&["explain", "nobody"]);
    assert!(has(&failed, "error", "no attachment matches"), "{failed:?}");
}
