//! The journal is bounded, and a large sweep fits into it whole.

use std::fs;
use std::time::Instant;

use serde_json::json;

use crate::operations::{deleted, journals, stale, sweep};
use crate::rig::{Datapath, Node, Port, Setup};

const BOUND: u64 = 16 * 1024 * 1024;

fn journal_bytes(node: &Node) -> u64 {
    let files = fs::read_dir(node.state_dir.join("journal")).unwrap();
    files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
}

/// 97 entries a pod, as large as those of real pipelines; `n` makes them different.
fn entries(port: u16, ip: &str, mac: &str, count: usize) -> Vec<String> {
    (0..count)
        .map(|n| match n % 4 {
            0 => format!(
                "table=10,priority=100,tcp,in_port={port},dl_src={mac},nw_src={ip},reg9={n:#x} \
                 actions=resubmit(,20)"
            ),
            1 => format!(
                "table=20,priority=90,tcp,reg9={n:#x},nw_src={ip},tp_dst=80 \
                 actions=ct(commit,zone=7,table=30,exec(set_field:{n:#x}->ct_mark))"
            ),
            2 => format!(
                "table=30,priority=80,udp,in_port={port},reg9={n:#x},nw_dst=10.0.0.0/8 \
                 actions=set_field:{n:#x}->reg2,set_field:0x7->reg3,resubmit(,40)"
            ),
            _ => format!(
                "table=40,priority=70,ip,nw_dst={ip},reg9={n:#x} \
                 actions=set_field:{mac}->eth_dst,dec_ttl,output:{port}"
            ),
        })
        .collect()
}

#[test]
fn a_sweep_of_48500_entries_can_be_undone_whole_and_the_journal_stays_bounded() {
    let node = Setup::new()
        .datapath(Datapath::Dummy)
        .gc_conf(json!({"lingerSeconds": 3600}))
        .up("journal_of_48500");
    let pods: Vec<_> = (0..5).map(|n| node.run_pod(&format!("p{n}"))).collect();
    for pod in &pods {
        node.add_flows("br0", &entries(pod.ofport, &pod.ip, &pod.mac, 9_700));
    }
    let before = node.dump("br0");
    assert_eq!(before.len(), 48_500);
    for pod in &pods {
        node.vanish(pod, Port::Stays);
    }

    let start = Instant::now();
    let report = sweep(&node, &[]);
    eprintln!("sweep {:?}, journal {} bytes", start.elapsed(), journal_bytes(&node));
    assert_eq!(stale(&report), 48_500, "{report}");
    assert_eq!(deleted(&report), 48_500, "{report}");
    assert!(node.dump("br0").is_empty());
    let whole = &journals(&node)[0];
    assert_eq!((&whole["state"], &whole["entries"]), (&json!("whole"), &json!(48_500)), "{whole}");
    assert!(journal_bytes(&node) <= BOUND);

    let start = Instant::now();
    node.admin(&["undo"]).ok();
    eprintln!("undo {:?}", start.elapsed());
    assert!(node.dump("br0") == before, "not all of it came back");

    // Another one, and the older one makes room. (What condemned by address alone is kept
    // now: to the switch undone entries are new, as those of the address's next owner.)
    assert_eq!(deleted(&sweep(&node, &[])), 48_500 / 4 * 3);
    let listed = journals(&node);
    assert_eq!(listed[0]["state"], "whole", "{listed:?}");
    assert_ne!(listed[0]["id"], whole["id"]);
    assert!(journal_bytes(&node) <= BOUND, "{}", journal_bytes(&node));
}
