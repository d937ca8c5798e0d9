//! A range that runs out without deliveries and does not with them.

use super::*;

/// Eight addresses: 10.9.0.1 is the gateway's, five are pods'.
fn small_range(node: &Node) {
    let mut conflist = node.conflist();
    conflist["plugins"][0]["ipam"]["ranges"] = json!([[{"subnet": "10.9.0.0/29"}]]);
    node.set_conflist(conflist);
}

#[test]
fn a_range_of_eight_addresses_does_not_run_out() {
    let node = node("deliver_range");
    small_range(&node);
    let mut full = None;
    for n in 0..8 {
        let pod = node.pod(&format!("p{n}"));
        match node.try_add(&pod) {
            Ok(result) => {
                let pod = node.attached(&pod, result);
                write_cached(&results(&node), &cached(&node, &pod));
                node.vanish(&pod, Port::Stays);
            }
            Err(failed) => {
                full = Some((n, failed));
                break;
            }
        }
        node.admin(&["sweep", "--yes"]);
    }
    let (after, failed) = full.expect("without deliveries the range runs out");
    assert!(failed.to_string().contains("no IP addresses available"), "{failed}");
    assert_eq!(after, 5, "pods that could start");

    // Nobody lives: the notes say who is dead, once there are notes. Before: a person's word.
    deliver(&node, &["--yes"]).ok();
    for n in 0..20 {
        let pod = run_pod(&node, &format!("q{n}"));
        node.vanish(&pod, Port::Stays);
        // One after the other within seconds: the brake's count.
        node.admin(&["sweep", "--yes"]);
        let delivered = deliver(&node, &[]);
        assert_eq!(state(&delivered).0, "delivered", "{delivered}");
        assert_eq!(left(&node, &pod), [0; 4]);
    }
}

fn counts(node: &Node) -> [usize; 3] {
    let files = |dir: PathBuf| fs::read_dir(dir).unwrap().flatten().count();
    let leases = fs::read_dir(node.dir.join("ipam/podnet")).unwrap().flatten();
    let leases = leases.filter(|f| f.file_name().to_string_lossy().starts_with("10.")).count();
    [node.ports("br0").len(), leases, files(results(node))]
}

#[test]
fn two_hundred_that_died_without_a_del_leave_nothing() {
    let pods: usize = std::env::var("OFG_DELIVER_PODS").map_or(40, |n| n.parse().unwrap());
    let node = node("deliver_many");
    node.install("br0", &["actions=NORMAL"]);
    let live = run_pod(&node, "live");
    deliver(&node, &[]).ok();
    for batch in 0..pods.div_ceil(10) {
        let batch = (0..10).map(|n| run_pod(&node, &format!("p{batch}-{n}"))).collect::<Vec<_>>();
        batch.iter().for_each(|pod| node.vanish(pod, Port::Stays));
        node.admin(&["sweep", "--yes", "--only-dead"]);
    }
    let before = counts(&node);
    assert_eq!(before, [pods + 1; 3]);
    let began = std::time::Instant::now();
    let delivered = deliver(&node, &[]);
    let took = began.elapsed();
    assert!(states(&delivered).iter().all(|(state, _)| state == "delivered"), "{delivered}");
    let after = counts(&node);
    eprintln!(
        "{pods} dead: rows, leases, cached results {before:?} before, {after:?} after, in {took:?}"
    );
    assert_eq!(after, [1; 3]);
    let next = run_pod(&node, "next");
    node.must_reach(&next, &live.ip);
    assert_eq!(left(&node, &live), [1, 1, 2, 1]);
}
