//! Networks that are in NetworkAttachmentDefinitions: multus calls their plugins for `net1`, and
//! no file of the node has their configuration. What multus does is done here by the chain.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::sorted;
use crate::rig::{Attached, Node, Outcome, Setup, layouts};

/// A node whose `net.d` has multus alone. The chain's conflist is that of the first network.
fn node(test: &str) -> Node {
    let node = Setup::new().without_gc().up(test);
    only_multus(&node);
    node
}

fn net_dir(node: &Node) -> String {
    node.conflist_path().parent().unwrap().display().to_string()
}

fn only_multus(node: &Node) {
    let _ = fs::remove_file(node.conflist_path());
    let multus =
        json!({"cniVersion": "0.3.1", "name": "multus-cni-network", "type": "multus-shim"});
    fs::write(node.dir.join("etc/cni/net.d/00-multus.conf"), multus.to_string()).unwrap();
}

/// The `spec.config`: one plugin, no list, as ovs-cni's examples have it.
fn spec_config(node: &Node) -> Value {
    let first = &node.conflist()["plugins"][0];
    json!({
        "cniVersion": "0.4.0",
        "name": "vlan",
        "type": "ovs-test-cni",
        "bridge": "br0",
        "callLog": first["callLog"],
        "x-trunk": [{"id": 42}, {"minID": 1000, "maxID": 1010}],
        "ipam": {
            "type": "host-local",
            "dataDir": first["ipam"]["dataDir"],
            "ranges": [[{"subnet": "192.168.9.0/24"}], [{"subnet": "fd00:9::/64"}]],
        },
    })
}

/// `conflist add -`, and what it printed.
fn with_entry(node: &Node, config: &Value) -> Value {
    let settings = json!({"stateDir": node.state_dir, "lingerSeconds": 0, "reg0": "pod"});
    let settings = settings.to_string();
    let mut child = Command::new(node.plugin("ovs-flow-gc"))
        .args(["conflist", "add", "-", "--settings", &settings])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The chain has this network from now on; the node has no file of it.
fn serve(node: &Node, network: &Value) {
    node.set_conflist(network.clone());
    only_multus(node);
}

/// libcni's cache of what multus called: its `config` is Go's base64 of the NAD's.
fn cache_of_multus(node: &Node, pod: &Attached, config: &Value) {
    let text = node.dir.join("config");
    fs::write(&text, config.to_string()).unwrap();
    let encoded = Command::new("base64").arg("-w0").arg(&text).output().unwrap().stdout;
    let cached = json!({
        "kind": "cniCacheV1",
        "containerId": pod.container,
        "config": String::from_utf8(encoded).unwrap(),
        "ifName": pod.ifname,
        "networkName": config["name"],
        "netns": pod.netns_path(),
        "cniArgs": [["K8S_POD_NAMESPACE", "default"], ["K8S_POD_NAME", pod.name]],
        "result": pod.result,
    });
    let dir = node.dir.join("var-lib/cni/multus/results");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join(format!("vlan-{}-{}", pod.container, pod.ifname)), cached.to_string())
        .unwrap();
}

fn doctor(node: &Node) -> Outcome {
    let bin_dir = node.cni_bin().display().to_string();
    node.admin(&["doctor", "--json", "--net-dir", &net_dir(node), "--bin-dir", &bin_dir])
}

/// What `doctor` says of conflists: level and text.
fn of_conflist(node: &Node) -> (String, String) {
    let findings = doctor(node).json();
    let all = findings.as_array().unwrap().iter();
    let found: Vec<_> = all.filter(|finding| finding["what"] == "conflist").collect();
    assert_eq!(found.len(), 1, "{findings:#}");
    (found[0]["level"].as_str().unwrap().to_owned(), found[0]["found"].to_string())
}

#[test]
fn net1_of_an_edited_nad_is_cleaned_up_and_eth0_of_another_cni_is_left_alone() {
    let node = node("multus_net1");
    let base = node.install("br0", &layouts::classifier_base());
    let eth0 = node.run_pod("web");
    let others = node.install("br0", &layouts::classifier(&eth0.who(0x1001)));
    assert_eq!(of_conflist(&node).0, "warning", "nothing of ours is seen");

    let edited = with_entry(&node, &spec_config(&node));
    assert_eq!(edited["plugins"][0]["x-trunk"], spec_config(&node)["x-trunk"]);
    serve(&node, &edited);
    let net1 = node.add(&eth0.pod.clone().with_ifname("net1"));
    let net2 = node.add(&eth0.pod.clone().with_ifname("net2"));
    let of_net1 = node.install("br0", &layouts::classifier(&net1.who(0x2001)));
    let of_net2 = node.install("br0", &layouts::classifier(&net2.who(0x2002)));
    let (level, found) = of_conflist(&node);
    assert!(level == "ok" && found.contains("vlan: 2"), "{level}: {found}");

    node.admin(&["sweep"]).ok();
    assert_eq!(node.dump("br0"), sorted(&[&base, &others, &of_net1, &of_net2]), "all live");
    node.try_del(&net1).unwrap();
    assert_eq!(node.dump("br0"), sorted(&[&base, &others, &of_net2]), "unplugged");
    // The sandbox goes without a DEL of net2; eth0 is another CNI's to clean up.
    node.kill_sandbox(&net2);
    node.admin(&["sweep"]);
    assert_eq!(node.dump("br0"), sorted(&[&base, &others]));
}

/// `doctor` says which NetworkAttachmentDefinitions' pods multus has on the node.
#[test]
fn doctor_says_whose_pods_multus_called() {
    let node = node("multus_doctor");
    let edited = with_entry(&node, &spec_config(&node));
    let eth0 = node.run_pod("web");
    serve(&node, &edited);
    let net1 = node.add(&eth0.pod.clone().with_ifname("net1"));
    let cache = node.dir.join("var-lib/cni/results").display().to_string();
    let found = || {
        let doctor = ["doctor", "--json", "--net-dir", &net_dir(&node), "--cache-dir", &cache];
        let findings = node.admin(&doctor).json();
        let all = findings.as_array().unwrap().iter();
        let of_multus = all.filter(|one| one["what"] == "multus");
        let text = |one: &Value| format!("{}: {}", one["level"].as_str().unwrap(), one["found"]);
        of_multus.map(text).collect::<Vec<_>>()
    };
    assert_eq!(found(), [""; 0], "multus has not called anybody");
    // As multus writes it (`saveDelegates`).
    let delegate = |name: &str, config: &Value| {
        let text = node.dir.join("config");
        fs::write(&text, config.to_string()).unwrap();
        let encoded = Command::new("base64").arg("-w0").arg(&text).output().unwrap().stdout;
        json!({"Name": name, "Bytes": String::from_utf8(encoded).unwrap()})
    };
    let write = |container: &str, delegates: Value| {
        let dir = node.dir.join("var-lib/cni/multus");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(container), delegates.to_string()).unwrap();
    };
    let flannel = json!({"name": "cbr0", "type": "flannel"});
    write(&net1.container, json!([delegate("cbr0", &flannel), delegate("default/vlan", &edited)]));
    let whole = "default/vlan (network vlan): 1 interface, 1 with the entry, 1 recorded";
    assert_eq!(found(), [format!("ok: \"{whole}\"")]);
    // Two began before the edit, and nobody has adopted them.
    for container in ["c1", "c2"] {
        write(container, json!([delegate("default/vlan", &spec_config(&node))]));
    }
    let some = "default/vlan (network vlan): 3 interfaces, 1 with the entry, 1 recorded";
    assert_eq!(found(), [format!("note: \"{some}\"")]);
}

#[test]
fn adopt_finds_the_pods_of_nads_in_multus_cache() {
    let node = node("multus_adopt");
    let base = node.install("br0", &layouts::classifier_base());
    let eth0 = node.run_pod("web");
    let others = node.install("br0", &layouts::classifier(&eth0.who(0x1001)));
    let config = spec_config(&node);
    serve(&node, &json!({"cniVersion": "0.4.0", "name": "vlan", "plugins": [config]}));
    let net1 = node.add(&eth0.pod.clone().with_ifname("net1"));
    let its = node.install("br0", &layouts::classifier(&net1.who(0x2001)));

    // The runtime's own cache is of multus.
    let cache = node.dir.join("var-lib/cni/results").display().to_string();
    let adopt = ["adopt", "--net-dir", &net_dir(&node), "--cache-dir", &cache];
    let none = node.admin(&adopt);
    assert!(none.code == Some(2) && none.stderr.contains("multus"), "{none}");
    // An IPAM of the whole cluster gives a dead pod's address to another node.
    let mut remembered = config.clone();
    remembered["ipam"] = json!({"type": "whereabouts", "range": "192.168.9.0/24"});
    cache_of_multus(&node, &net1, &remembered);
    let outcome = node.admin(&adopt);
    // The other CNI's port is of nobody whom a cached result names.
    assert_eq!(outcome.code, Some(3), "{outcome}");
    let adopted = outcome.stdout;
    assert!(adopted.contains("1 pod adopted") && adopted.contains(&net1.ip), "{adopted}");
    let list = node.admin(&["list", "--no-flows", "--json"]).json();
    let row = &list.as_array().unwrap()[0];
    assert_eq!((&row["network"], &row["ifname"]), (&json!("vlan"), &json!("net1")), "{list:#}");
    let network = fs::read_to_string(node.state_dir.join("vlan/config.json")).unwrap();
    assert!(network.contains("\"cluster\""), "as the entry will have it: {network}");
    node.admin(&["sweep"]).ok();
    assert_eq!(node.dump("br0"), sorted(&[&base, &others, &its]), "it lives");

    // The NAD was edited meanwhile, and the pod ends.
    serve(&node, &with_entry(&node, &config));
    node.try_del(&net1).unwrap();
    assert_eq!(node.dump("br0"), sorted(&[&base, &others]));
}
