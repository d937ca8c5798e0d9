//! The admin command's manners: exit codes, usage, JSON, the table of `list`.

use std::fs;

use serde_json::Value;

use crate::contract::{GC, pods};
use crate::rig::{Datapath, Node, Outcome, Port, Setup, layouts, pod_name};

/// Without `--state-dir`, which the rig adds.
fn bare(node: &Node, args: &[&str]) -> Outcome {
    node.run(node.plugin(GC).to_str().unwrap(), args)
}

/// An entry that ADD refuses fails every pod of the node.
#[test]
fn settings_that_add_refuses_are_not_written() {
    let node = Setup::new().without_gc().datapath(Datapath::Dummy).up("cli_settings");
    let file = node.conflist_path().display().to_string();
    let before = fs::read_to_string(&file).unwrap();
    let bin_dir = node.dir.join("host-bin").display().to_string();
    fs::create_dir(&bin_dir).unwrap();
    for (settings, words) in [
        (r#"{"presett": "antrea"}"#, ["\"presett\"", "\"preset\""]),
        (r#"{"lingerSeconds": "ten"}"#, ["\"lingerSeconds\"", "ten"]),
        (r#"{"preset": "calico"}"#, ["\"preset\"", "antrea"]),
        (r#"{"stateDir": "run/x", "modus": 1}"#, ["\"stateDir\"", "\"modus\""]),
    ] {
        let behind = ["--after", "ovs-test-cni", "--settings", settings];
        let add = [&["conflist", "add", &file][..], &behind].concat();
        let install = ["self-install", "--conflist", &file, "--bin-dir", &bin_dir];
        for args in [add, [&install[..], &behind].concat()] {
            let outcome = node.admin(&args);
            assert_eq!(outcome.code, Some(2), "{outcome}");
            assert!(words.iter().all(|word| outcome.stderr.contains(word)), "{outcome}");
        }
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), before);
    assert_eq!(fs::read_dir(&bin_dir).unwrap().count(), 0);
    assert!(!node.state_dir.exists());
}

#[test]
fn wrong_usage_is_2_and_says_how_it_is_right() {
    let node = Setup::new().datapath(Datapath::Dummy).up("cli_usage");
    for args in [
        &[][..],
        &["frobnicate"],
        &["sweep", "--frobnicate"],
        &["sweep", "more"],
        &["explain"],
        &["explain", "a", "b"],
        &["undo", "id", "--list"],
        &["conflist"],
        &["conflist", "add"],
        &["conflist", "add", "x.conflist", "--settings", "not JSON"],
        &["list", "--timeout", "soon"],
        &["list", "--log-level", "loud"],
        &["list", "--log-format", "xml"],
    ] {
        let outcome = bare(&node, args);
        assert_eq!(outcome.code, Some(2), "{outcome}");
        assert!(outcome.stdout.is_empty() && !outcome.stderr.is_empty(), "{outcome}");
        assert!(!outcome.stderr.contains("panicked"), "{outcome}");
    }
    let near = bare(&node, &["swep"]);
    assert!(near.stderr.contains("sweep"), "{near}");
    for args in [
        &["--help"][..],
        &["sweep", "--help"],
        &["help", "conflist", "add"],
        &["version"],
        &["conflist", "add", "-h"],
        &["--version"],
    ] {
        let outcome = bare(&node, args);
        assert_eq!(outcome.code, Some(0), "{outcome}");
        assert!(!outcome.stdout.is_empty() && outcome.stderr.is_empty(), "{outcome}");
    }
    let help = bare(&node, &["--help"]).ok();
    assert!(help.contains("Exit status: 0 done, 1 failed, 2 wrong usage, 3"), "{help}");
    assert!(!node.state_dir.exists());
}

#[test]
fn what_fails_is_1_with_a_reason_on_standard_error() {
    let node = Setup::new().up("cli_failures");
    let file = node.dir.join("none.conflist").display().to_string();
    for args in [
        &["explain", "nobody"][..],
        &["undo"],
        &["undo", "20200101T000000Z-1"],
        &["conflist", "add", &file],
        &["conflist", "remove", &file],
    ] {
        let outcome = node.admin(args);
        assert_eq!(outcome.code, Some(1), "{outcome}");
        assert!(outcome.stdout.is_empty(), "{outcome}");
        assert!(outcome.stderr.starts_with("ovs-flow-gc: "), "{outcome}");
        let json = node.admin(&[args, &["--json"]].concat());
        let error: Value = serde_json::from_str(&json.stderr).unwrap();
        assert!(error["exitStatus"] == 1 && error["error"].is_string(), "{json}");
        assert!(json.stdout.is_empty(), "{json}");
    }
    for wrong in [&["pause", "--for", "soon", "--json"][..], &["--json", "nothing"]] {
        let json = node.admin(wrong);
        let error: Value = serde_json::from_str(&json.stderr).unwrap();
        assert!(error["exitStatus"] == 2 && json.code == Some(2), "{json}");
    }
    let web = node.run_pod("web");
    node.ovsdb.stop();
    let net_dir = node.conflist_path().parent().unwrap().display().to_string();
    for args in [&["explain", "web"][..], &["adopt", "--net-dir", &net_dir]] {
        let outcome = node.admin(args);
        assert_eq!(outcome.code, Some(1), "{outcome}");
        assert!(outcome.stderr.contains("db.sock"), "{outcome}");
    }
    // A sweep that could not look has failed, whether or not there is somebody to sweep for.
    node.vanish(&web, Port::Stays);
    let swept = node.admin(&["sweep", "--json"]);
    assert_eq!(swept.code, Some(1), "{swept}");
    assert!(swept.json()["failed"].as_str().unwrap().contains("db.sock"), "{swept}");
    fs::remove_dir_all(&node.state_dir).unwrap();
    let swept = node.admin(&["sweep"]);
    assert_eq!(swept.code, Some(1), "{swept}");
    assert!(format!("{}{}", swept.stdout, swept.stderr).contains("db.sock"), "{swept}");
}

/// What is written down does not wait for a switch: one deadline for all that is asked.
#[test]
fn list_says_what_it_could_not_ask() {
    let node = Setup::new().up("cli_list_away");
    pods(&node, &["web"]);
    node.add_bridge("br1", None);
    // A second bridge is not a second deadline.
    let other = node.state_dir.join("podnet/other:eth0.json");
    let mine = fs::read_dir(node.state_dir.join("podnet")).unwrap().flatten();
    let mine = mine.map(|entry| entry.path()).find(|p| p.to_string_lossy().contains("eth0.json"));
    let mut record: Value =
        serde_json::from_str(&fs::read_to_string(mine.unwrap()).unwrap()).unwrap();
    record["bridge"] = "br1".into();
    record["containerID"] = "other".into();
    fs::write(&other, record.to_string()).unwrap();
    let cells = |outcome: &Outcome| -> Vec<String> {
        let rows = outcome.stdout.lines().skip(1).filter(|line| line.contains(&pod_name("web")));
        rows.map(|row| row.split("  ").last().unwrap().trim().to_owned()).collect()
    };
    let list = |usual: bool| {
        let args: &[&str] = if usual { &["list"] } else { &["list", "--timeout", "2"] };
        let outcome = node.admin(args);
        let most = std::time::Duration::from_secs(if usual { 8 } else { 4 });
        assert!(outcome.took < most, "{:?}: {outcome}", outcome.took);
        assert!(outcome.stdout.contains(&pod_name("web")), "{outcome}");
        outcome
    };
    let well = cells(&list(true));
    assert!(well.len() == 2 && well[0].parse::<u64>().unwrap() > 0, "{well:?}");

    node.ovsdb.pause();
    let outcome = list(false);
    assert_eq!(cells(&outcome), ["?", "?"], "{outcome}");
    assert!(outcome.stderr.contains("flows are not counted"), "{outcome}");
    node.vswitchd.pause();
    assert_eq!(cells(&list(true)), ["?", "?"]);
    node.ovsdb.resume();
    node.ovsdb.stop();
    assert_eq!(cells(&list(true)), ["?", "?"]);
    node.vswitchd.resume();
    list(true);
}

#[test]
fn json_is_one_valid_document_for_every_command() {
    let node = Setup::new().gc_conf(serde_json::json!({"lingerSeconds": 0})).up("cli_json");
    let (pods, _flows) = pods(&node, &["web", "db", "cache", "dead"]);
    node.vanish(&pods[3], Port::Gone);
    let file = node.conflist_path().display().to_string();
    let net_dir = node.conflist_path().parent().unwrap().display().to_string();
    let copy = node.dir.join("copy.conflist").display().to_string();
    fs::copy(&file, &copy).unwrap();
    for (args, codes) in [
        (&["list"][..], &[0][..]),
        (&["list", "--no-flows"], &[0]),
        (&["explain", &pods[0].name], &[0]),
        (&["explain", &pods[3].name], &[0]),
        (&["sweep", "--dry-run"], &[0]),
        (&["pause", "--for", "1h", "--reason", "a test"], &[0]),
        (&["status"], &[3]),
        (&["pause"], &[0]),
        (&["sweep"], &[0, 3]),
        (&["resume"], &[0]),
        (&["sweep", "--details"], &[0]),
        (&["sweep", "--only-dead"], &[0]),
        (&["undo", "--list"], &[0]),
        (&["undo", "--dry-run"], &[0]),
        (&["version"], &[0]),
        (&["undo"], &[0]),
        (&["adopt", "--dry-run", "--net-dir", &net_dir], &[0]),
        (&["adopt", "--net-dir", &net_dir], &[0]),
        (&["conflist", "find", &net_dir], &[0]),
        (&["conflist", "find", &net_dir, "--ours"], &[0]),
        (&["conflist", "remove", &copy], &[0]),
        (&["conflist", "add", &copy, "--after", "ovs-test-cni"], &[0]),
        (&["doctor", "--net-dir", &net_dir], &[0, 3]),
        (&["bug-report", "--net-dir", &net_dir], &[0]),
    ] {
        // The flag is taken before and after the command.
        let outcome = node.admin(&[args, &["--json"]].concat());
        assert!(codes.contains(&outcome.code.unwrap()), "{outcome}");
        let value = outcome.json();
        assert!(value.is_array() || value.is_object(), "{outcome}");
        let before = node.admin(&[&["--json"], args].concat());
        let _: Value = before.json();
    }
}

#[test]
fn list_is_a_table_for_eyes() {
    let node = Setup::new().gc_conf(serde_json::json!({"reg0": "ofport"})).up("cli_list");
    let empty = node.admin(&["list"]);
    let nothing = format!(
        "no attachments: {} is not there, so nothing was recorded",
        node.state_dir.display()
    );
    assert_eq!((empty.code, empty.stdout.trim()), (Some(0), &*nothing));
    assert!(node.admin(&["sweep", "--dry-run"]).ok().contains(&nothing));
    assert!(node.admin(&["undo", "--list"]).ok().contains("is not there"));
    assert!(node.admin(&["explain", "web"]).stderr.contains(&nothing));
    let web = node.run_pod("web");
    node.install("br0", &layouts::classifier(&web.who(web.ofport.into())));
    let db = node.run_pod("db");
    node.del(&db);

    let table = node.admin(&["list"]).ok();
    let lines: Vec<&str> = table.lines().collect();
    let head: Vec<&str> = lines[0].split_whitespace().collect();
    assert_eq!(
        head,
        [
            "POD",
            "CONTAINER",
            "IFNAME",
            "NETWORK",
            "BRIDGE",
            "PORT",
            "OFPORT",
            "REG0",
            "IP",
            "MAC",
            "STATE",
            "AGE",
            "FLOWS",
        ]
    );
    let row: Vec<&str> = lines[1].split_whitespace().collect();
    let register = format!("{:#x}", web.ofport);
    let ips = format!("{},{}", web.ip, web.ip6);
    let ofport = web.ofport.to_string();
    let age = row[11];
    assert_eq!(
        row,
        [
            &format!("default/{}", web.name),
            &web.container[..13],
            "eth0",
            "podnet",
            "br0",
            &web.port,
            &ofport,
            &register,
            &ips,
            &web.mac,
            "active",
            age,
            "15",
        ]
    );
    assert!(age.ends_with('s'), "{age}");
    assert!(lines[2].contains(&db.name) && lines[2].contains("gone"), "{table}");
    // Columns stand under their heads.
    for column in ["STATE", "OFPORT", "MAC"] {
        let at = lines[0].find(column).unwrap();
        assert!(
            lines[1..].iter().all(|l| l.as_bytes()[at - 1] == b' ' && l.as_bytes()[at] != b' ')
        );
    }
    assert!(lines.iter().all(|line| line.trim_end() == *line), "{table:?}");

    // The switch is away: flows are not counted, everything else is there.
    node.vswitchd.stop();
    let table = node.admin(&["list"]).ok();
    assert!(table.lines().nth(1).unwrap().ends_with('?'), "{table}");
}

#[test]
fn explain_finds_a_pod_by_name_or_container_and_says_who_is_unknown() {
    let node = Setup::new().up("cli_explain");
    let (pods, _) = pods(&node, &["live", "dead"]);
    node.vanish(&pods[1], Port::Gone);
    let mut before = node.dump("br0");
    let live = node.admin(&["explain", &format!("default/{}", pods[0].name)]).ok();
    assert!(live.contains("alive") && live.contains(&pods[0].ip), "{live}");
    let dead = node.admin(&["explain", &pods[1].container]).ok();
    assert!(dead.contains("dead") && dead.contains("delete (rule 1)"), "{dead}");
    assert_eq!(node.dump("br0"), before, "explain changes nothing");
    node.admin(&["sweep"]).ok();
    before = node.dump("br0");
    let clean = node.admin(&["explain", &pods[1].container]).ok();
    assert!(clean.contains("dead, its entries are deleted; what comes late"), "{clean}");
    // The beginning of a name is enough where nobody is called so.
    let beginning = &pods[0].name[..16];
    let all = node.admin(&["explain", beginning]).ok();
    let named: Vec<_> = pods.iter().filter(|pod| pod.name.starts_with(beginning)).collect();
    assert!(!named.is_empty() && named.iter().all(|pod| all.contains(&pod.name)), "{all}");
    for nobody in ["web-7", "other/live", &"f".repeat(64), "", "../live"] {
        let unknown = node.admin(&["explain", nobody]);
        assert_eq!(unknown.code, Some(1), "{unknown}");
        assert!(unknown.stderr.contains("no attachment matches"), "{unknown}");
    }
    assert_eq!(node.dump("br0"), before, "explain changes nothing");
}

/// It is shown in a line of a terminal, and on a page.
#[test]
fn the_reason_of_a_pause_is_one_line_of_text() {
    let node = Setup::new().up("cli_pause_reason");
    node.admin(&["pause", "--reason", "an upgrade\n\u{1b}[2Jof OVS"]).ok();
    let told = node.admin(&["status", "--json"]).stdout;
    assert!(told.contains("an upgrade  [2Jof OVS"), "{told}");
}
