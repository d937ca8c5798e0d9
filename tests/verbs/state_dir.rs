//! The state directory: full, read-only, missing, somebody else's; torn records in it.
//! ADD fails with code 5, the path and the errno; DEL deletes all the same, and succeeds.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};

use crate::rig::{Attached, Node, layouts};

fn populated(test: &str) -> (Node, Attached, Vec<String>) {
    let node = Node::new(test);
    let base = node.install("br0", &layouts::classifier_base());
    let pod = node.run_pod("web");
    node.add_flows("br0", &layouts::classifier(&pod.who(0x1001)));
    (node, pod, base)
}

/// ADD of another pod fails for the directory's sake, and says so.
#[track_caller]
fn add_is_refused(node: &Node, names: &str) {
    let pod = node.pod("next");
    let (code, text) = node.try_add(&pod).unwrap_err().cni_error();
    assert_eq!(code, 5, "{text}");
    assert!(text.contains(names), "{names:?} is not named: {text}");
    assert!(text.contains(node.state_dir.to_str().unwrap()), "no path: {text}");
    node.try_del(&pod).unwrap();
}

/// What is left of the pod by rules that need no second pod and no record.
#[track_caller]
fn del_leaves_at_most_what_needs_proof(node: &Node, pod: &Attached, base: &[String]) {
    node.try_del(pod).unwrap();
    let left: Vec<_> = node.dump("br0").into_iter().filter(|line| !base.contains(line)).collect();
    let port = format!("in_port={},", pod.ofport);
    assert!(
        !left.iter().any(|l| l.contains(&port) || l.contains(&format!("output:{}", pod.ofport))),
        "{left:?}"
    );
}

#[test]
fn full() {
    let node = Node::new("full");
    node.limit_state_dir("64k");
    let base = node.install("br0", &layouts::classifier_base());
    let pod = node.run_pod("web");
    node.add_flows("br0", &layouts::classifier(&pod.who(0x1001)));
    let filler = node.state_dir.join("filler");
    let chunk = vec![0_u8; 1 << 20];
    let _ = fs::write(&filler, chunk);
    add_is_refused(&node, "No space left");
    del_leaves_at_most_what_needs_proof(&node, &pod, &base);
    fs::remove_file(filler).unwrap();
    node.admin(&["list", "--json"]).ok();
    node.run_pod("later");
}

#[test]
fn another_users() {
    let (node, pod, base) = populated("another_users");
    chown(&node.state_dir, Some(4711), None).unwrap();
    add_is_refused(&node, "4711");
    del_leaves_at_most_what_needs_proof(&node, &pod, &base);
}

#[test]
fn writable_by_others() {
    let (node, pod, base) = populated("writable_by_others");
    fs::set_permissions(&node.state_dir, Permissions::from_mode(0o777)).unwrap();
    add_is_refused(&node, "writ");
    del_leaves_at_most_what_needs_proof(&node, &pod, &base);
}

#[test]
fn a_file_in_its_place() {
    let (node, pod, base) = populated("a_file_in_its_place");
    fs::remove_dir_all(&node.state_dir).unwrap();
    fs::write(&node.state_dir, "").unwrap();
    add_is_refused(&node, "directory");
    del_leaves_at_most_what_needs_proof(&node, &pod, &base);
    fs::remove_file(&node.state_dir).unwrap();
}

#[test]
fn missing_is_made() {
    let (node, pod, base) = populated("missing_is_made");
    fs::remove_dir_all(&node.state_dir).unwrap();
    // ovs-cni #304: state vanished, and DEL quietly did nothing.
    del_leaves_at_most_what_needs_proof(&node, &pod, &base);
    fs::remove_dir_all(&node.state_dir).unwrap();
    node.run_pod("next");
    let mode = fs::metadata(&node.state_dir).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn torn_and_empty_records_stop_nobody() {
    let (node, pod, _) = populated("torn_and_empty_records_stop_nobody");
    let network = node.state_dir.join("podnet");
    fs::write(network.join("torn:eth0.json"), "{\"schema\": 1, \"contai").unwrap();
    fs::write(network.join("empty:eth0.json"), "").unwrap();
    let swept = node.admin(&["sweep", "--json"]);
    assert_eq!(swept.code, Some(3), "{swept}");
    let corrupt = swept.json()["corrupt"].to_string();
    assert!(corrupt.contains("torn:eth0") && corrupt.contains("empty:eth0"), "{swept}");
    assert!(network.join("torn:eth0.json.corrupt").exists());
    let again = node.admin(&["sweep", "--json"]);
    assert_eq!(again.json()["corrupt"].to_string(), "[]", "{again}");
    node.try_check(&pod).unwrap();
    node.run_pod("next");
    node.try_del(&pod).unwrap();
    let in_port = format!("in_port={}", pod.ofport);
    assert!(!node.dump("br0").iter().any(|line| line.contains(&in_port)));
}
