//! Files that somebody else put into the state directory. It is root's alone, and refused if it
//! is not (`tests/state_dir`, `somebody_elses_or_open_to_others`); here is what holds, and what
//! does not, if he could write into it all the same.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::rig::{Attached, Datapath, Node, Setup, layouts};
use crate::security::is_plain;

struct Fixture {
    node: Node,
    pods: Vec<Attached>,
    flows: Vec<String>,
}

impl Fixture {
    fn new(test: &str) -> Self {
        let setup = Setup::new().datapath(Datapath::Dummy).cni_version("1.1.0");
        let conf =
            json!({"reg0": "pod", "lingerSeconds": 0, "reapDangling": true, "reapPorts": true});
        let node = setup.gc_conf(conf).up(test);
        let pods: Vec<Attached> = ["one", "two"].map(|name| node.run_pod(name)).into();
        let mut flows = layouts::classifier_base();
        for (pod, reg) in pods.iter().zip(0x1001..) {
            flows.extend(layouts::classifier(&pod.who(reg)));
        }
        node.add_flows("br0", &flows);
        let flows = node.dump("br0");
        // What their registers are is learned, and that they differ.
        node.admin(&["sweep"]).ok();
        assert_eq!(node.dump("br0"), flows);
        Self { node, pods, flows }
    }

    fn network(&self) -> PathBuf {
        self.node.state_dir.join("podnet")
    }

    fn record_of(&self, pod: &Attached) -> PathBuf {
        self.network().join(format!("{}:{}.json", pod.container, pod.ifname))
    }

    fn read(&self, pod: &Attached) -> Value {
        serde_json::from_slice(&fs::read(self.record_of(pod)).unwrap()).unwrap()
    }

    fn plant(&self, record: &Value, dead: bool) -> PathBuf {
        let text = |key: &str| record[key].as_str().unwrap().to_owned();
        let name = format!("{}:{}", text("containerID"), text("ifname"));
        let path = if dead {
            fs::create_dir_all(self.network().join("dead")).unwrap();
            self.network().join("dead").join(format!("{name}.{}.json", record["generation"]))
        } else {
            self.network().join(format!("{name}.json"))
        };
        fs::write(&path, record.to_string()).unwrap();
        path
    }

    fn sweep(&self) -> Value {
        let swept = self.node.admin(&["sweep", "--yes", "--json"]);
        assert!(matches!(swept.code, Some(0 | 3)), "{swept}");
        is_plain(&swept);
        swept.json()
    }
}

/// Whatever is planted beside them: as long as the living have their records, nothing of theirs
/// goes, in no sweep and in no DEL.
#[test]
fn planted_records_condemn_nobody_who_is_recorded() {
    let fixture = Fixture::new("planted");
    let victim = &fixture.pods[0];
    let own = fixture.read(victim);
    let long_ago = json!({"boot_ms": 1, "wall_ms": 1});
    let mut planted = 0;
    for (what, dead, keys) in [
        ("a tombstone with all of its tokens", true, json!({})),
        ("the same, of another port's row", true, json!({"interface": null})),
        ("a dead record with another boot", false, json!({"bootId": "another"})),
        (
            "a record whose namespace is gone",
            false,
            json!({"netns": {
            "path": "/run/netns/nobody", "device": 4, "inode": 7,
            "parentDevice": own["netns"]["parentDevice"], "parent_device": own["netns"]["parent_device"],
            "parent_inode": own["netns"]["parent_inode"]}}),
        ),
        ("a number before", true, json!({"ofport": null, "ofportBefore": own["ofport"]})),
        (
            "an address alone",
            true,
            json!({"ofport": null, "interface": null, "register": null, "bridge": null}),
        ),
        (
            "a register alone",
            true,
            json!({"ofport": null, "interface": null, "ips": [], "macs": [],
            "register": {"value": 0x1001, "how": "learned"}}),
        ),
        (
            "empty values",
            true,
            json!({"ofport": 0, "interface": null, "ips": ["0.0.0.0", "::"],
            "macs": ["00:00:00:00:00:00"], "register": {"value": 0, "how": "learned"}}),
        ),
        (
            "the bridge's own port",
            true,
            json!({"ofport": 65534, "interface": null, "ips": ["255.255.255.255"]}),
        ),
        (
            "born and dead long ago",
            true,
            json!({"born": long_ago, "created": long_ago, "died": long_ago}),
        ),
    ] {
        let mut record = own.clone();
        record["containerID"] = json!(format!("planted{planted}"));
        record["generation"] = json!(4_700 + planted);
        if dead {
            record["state"] = json!("deleting");
            record["died"] = json!({"boot_ms": u64::MAX / 2, "wall_ms": u64::MAX / 2});
        }
        for (key, value) in keys.as_object().unwrap() {
            record[key] = value.clone();
        }
        let path = fixture.plant(&record, dead);
        let swept = fixture.sweep();
        assert_eq!(swept["corrupt"], json!([]), "{what}: {swept}");
        assert!(!swept["targets"].as_array().unwrap().is_empty(), "{what}: not judged: {swept}");
        assert_eq!(fixture.node.dump("br0"), fixture.flows, "{what}: {swept}");
        // The dummy datapath has no devices, as if every port's were gone: `reapPorts` would take
        // whatever is not claimed.
        assert_eq!(
            fixture.node.ports("br0").len(),
            fixture.pods.len(),
            "{what}: a port was removed"
        );
        let _ = fs::remove_file(path);
        planted += 1;
    }
    let dead = fixture.node.state_dir.join("podnet/dead");
    let _ = fs::remove_dir_all(dead);
    println!("planted: {planted} records, 0 of {} entries lost", fixture.flows.len());
}

/// A pod without its record is protected by its port row only. That is the line: whoever can take
/// away the record of a pod that lives can have its addresses' entries deleted, and with its row's
/// UUID in a tombstone those of its port, too. (`undo` puts them back.)
#[test]
fn without_its_record_a_pod_is_not_protected() {
    let fixture = Fixture::new("planted_alone");
    let victim = &fixture.pods[0];
    let own = fixture.read(victim);
    let others = |flows: &[String]| -> Vec<String> {
        let of_two = [&fixture.pods[1].ip, &fixture.pods[1].mac, &fixture.pods[1].ip6];
        let port = format!("in_port={},", fixture.pods[1].ofport);
        let of_two = |flow: &&String| {
            of_two.iter().any(|token| flow.contains(token.as_str())) || flow.contains(&port)
        };
        flows.iter().filter(of_two).cloned().collect()
    };
    // It is sandboxed long enough not to count as one whose ADD is under way.
    let mark = |key: &str| format!("external_ids:{key}=\"{}\"", victim.netns_path());
    let _ = fixture.node.try_ovs_vsctl(&["set", "Port", &victim.port, &mark("x")]);
    fixture.node.ovs_vsctl(&["clear", "Port", &victim.port, "external_ids"]);
    fs::remove_file(fixture.record_of(victim)).unwrap();
    let mut record = own.clone();
    record["containerID"] = json!("planted");
    record["state"] = json!("deleting");
    record["died"] = json!({"boot_ms": u64::MAX / 2, "wall_ms": u64::MAX / 2});
    record["interface"] = Value::Null;
    fixture.plant(&record, true);
    fixture.sweep();
    let left = fixture.node.dump("br0");
    let port = format!("in_port={}", victim.ofport);
    let alone = |flow: &&String| flow.contains(&port) && !flow.contains(&victim.mac);
    assert_eq!(
        left.iter().filter(alone).count(),
        fixture.flows.iter().filter(alone).count(),
        "its port is OVSDB's word, not a record's: {left:#?}"
    );
    assert!(fixture.flows.iter().filter(alone).count() >= 2);
    assert!(
        left.len() < fixture.flows.len(),
        "docs/security.md says that its addresses are not safe"
    );
    assert_eq!(others(&left), others(&fixture.flows), "nobody else's");

    record["generation"] = json!(4_712);
    record["interface"] = own["interface"].clone();
    fixture.plant(&record, true);
    fixture.sweep();
    let left = fixture.node.dump("br0");
    assert!(!left.iter().any(|flow| flow.contains(&port)), "docs/security.md says that they go");
    assert_eq!(others(&left), others(&fixture.flows), "nobody else's");
    assert!(fixture.node.ports("br0").contains(&fixture.pods[1].port));
}

/// Records, tombstones and journals that name a bridge by a path: no other socket is spoken to.
#[test]
fn a_bridges_name_leads_to_no_other_socket() {
    let fixture = Fixture::new("planted_path");
    let evil = fixture.node.dir.join("evil.mgmt");
    let listener = UnixListener::bind(&evil).unwrap();
    listener.set_nonblocking(true).unwrap();
    let bridge = "../evil";
    assert!(fixture.node.run_dir.join(format!("{bridge}.mgmt")).exists(), "it does lead there");
    let mut record = fixture.read(&fixture.pods[0]);
    record["containerID"] = json!("planted");
    record["bridge"] = json!(bridge);
    record["interface"] = Value::Null;
    let active = fixture.plant(&record, false);
    let listed = fixture.node.admin(&["list"]);
    is_plain(&listed);
    // OVSDB has no such bridge, so that its socket is not even looked for.
    assert!(listed.succeeded() && listed.stdout.contains("planted"), "{listed}");
    fs::remove_file(active).unwrap();
    record["state"] = json!("deleting");
    record["died"] = record["created"].clone();
    fixture.plant(&record, true);
    fixture.sweep();
    let journal = fixture.node.state_dir.join("journal");
    fs::create_dir_all(&journal).unwrap();
    let id = "20261121T101112.123-4711";
    let lines = [
        json!({"id": id, "when": {"boot_ms": 1, "wall_ms": 1}, "verb": "sweep", "bridges": [bridge], "reason": "x"}),
        json!({"subject": {"bridge": bridge, "pod": "a\nb"}, "rule": "x", "reason": "y"}),
        json!({"of": 0, "entry": "6 0 64 0 0 0 0 0  "}),
    ];
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(journal.join(format!("{id}.jsonl")), text).unwrap();
    let undone = fixture.node.admin(&["undo", id]);
    is_plain(&undone);
    assert!(undone.stdout.contains("is no bridge's name"), "{undone}");
    let accepted = listener.accept();
    assert!(accepted.is_err(), "somebody connected");
    assert_eq!(fixture.node.dump("br0"), fixture.flows);
}
