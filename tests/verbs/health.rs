//! CHECK and STATUS, in good and bad health.

use std::time::Duration;

use crate::rig::{Node, Setup};

fn node(test: &str) -> Node {
    let setup = Setup::new().cni_version("1.1.0");
    setup.gc_conf(serde_json::json!({"timeoutMs": 1000})).up(test)
}

#[track_caller]
fn error(node: &Node, verb: &str, pod: Option<&crate::rig::Attached>) -> (u64, String) {
    let prev = pod.map(|p| p.result.clone());
    let conf = node.plugin_conf("ovs-flow-gc", pod.map(|p| &p.pod), prev.as_ref());
    let mut call = node.call("ovs-flow-gc", verb).conf(&conf);
    if let Some(pod) = pod {
        call = call.pod(&pod.pod);
    }
    call.run().cni_error()
}

#[test]
fn check_says_what_differs() {
    let node = node("check_says_what_differs");
    let pod = node.run_pod("web");
    node.try_check(&pod).unwrap();

    node.ovs_vsctl(&["set", "interface", &pod.port, "ofport_request=77"]);
    crate::rig::eventually("the new number", || node.ofport(&pod.port) == 77);
    let (code, text) = error(&node, "CHECK", Some(&pod));
    assert!(code >= 100 && text.contains("ofport") && text.contains("77"), "{code} {text}");

    node.ovs_vsctl(&["del-port", &pod.port]);
    let (code, text) = error(&node, "CHECK", Some(&pod));
    assert!(code >= 100 && text.contains(&pod.port), "{code} {text}");

    std::fs::remove_dir_all(&node.state_dir).unwrap();
    let (code, text) = error(&node, "CHECK", Some(&pod));
    assert!(code >= 100 && text.contains("no record"), "{code} {text}");
}

#[test]
fn check_with_a_hung_database_asks_to_try_again() {
    let node = node("check_with_a_hung_database_asks_to_try_again");
    let pod = node.run_pod("web");
    node.ovsdb.pause();
    let (code, _) = error(&node, "CHECK", Some(&pod));
    node.ovsdb.resume();
    assert_eq!(code, 11);
}

#[test]
fn status_is_cheap_in_good_health_and_says_what_is_missing() {
    let node = node("status_is_cheap_in_good_health_and_says_what_is_missing");
    let conf = node.plugin_conf("ovs-flow-gc", None, None);
    let outcome = node.call("ovs-flow-gc", "STATUS").conf(&conf).run();
    assert!(outcome.succeeded() && outcome.stdout.is_empty(), "{outcome}");

    node.ovsdb.pause();
    let (code, text) = error(&node, "STATUS", None);
    assert!(code == 50 && text.contains("ovsdb-server did not answer"), "{code} {text}");
    node.ovsdb.resume();
    node.call("ovs-flow-gc", "STATUS").conf(&conf).run().ok();

    node.ovsdb.kill();
    let (code, text) = error(&node, "STATUS", None);
    assert!(code == 50 && text.contains("db.sock"), "{code} {text}");
}

#[test]
fn status_with_pods_that_wait_is_51() {
    let node = node("status_with_pods_that_wait_is_51");
    let pod = node.run_pod("web");
    node.vswitchd.kill();
    node.ovsdb.kill();
    let conf = node.plugin_conf("ovs-flow-gc", Some(&pod), Some(&pod.result));
    node.call("ovs-flow-gc", "DEL").pod(&pod).conf(&conf).run().ok();
    let (code, text) = error(&node, "STATUS", None);
    assert_eq!(code, 51, "{text}");
}

#[test]
fn status_is_patient_with_a_busy_switch() {
    let node = node("status_is_patient_with_a_busy_switch");
    let conf = node.plugin_conf("ovs-flow-gc", None, None);
    node.ovsdb.pause();
    let running = node.call("ovs-flow-gc", "STATUS").conf(&conf).start();
    std::thread::sleep(Duration::from_millis(600));
    node.ovsdb.resume();
    running.wait().ok();
}
