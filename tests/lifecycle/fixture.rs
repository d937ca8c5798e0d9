//! Pods with every kind of entry, beside entries that are nobody's.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::rig::{Attached, Node, Who, called, layouts};

/// Several pods, and which line of a dump belongs to whom.
pub(crate) struct Fixture {
    /// The pods.
    pub(crate) pods: Vec<Attached>,
    /// Per pod: its entries.
    pub(crate) flows: Vec<Vec<String>>,
    /// Entries of no pod in particular.
    pub(crate) base: Vec<String>,
}

impl Fixture {
    /// Pods whose entries come after ADD, as a controller installs them.
    #[track_caller]
    pub(crate) fn new(node: &Node, names: &[&str]) -> Self {
        let base = node.install("br0", &layouts::classifier_base());
        let pods: Vec<_> = names.iter().map(|name| node.run_pod(name)).collect();
        let mut fixture = Self { pods, flows: Vec::new(), base };
        for (index, pod) in fixture.pods.iter().enumerate() {
            let who = pod.who(register(index));
            let lines = [layouts::classifier(&who), corners(&who)].concat();
            fixture.flows.push(node.install("br0", &lines));
        }
        let ports: Vec<u16> = fixture.pods.iter().map(|pod| pod.ofport).collect();
        fixture.base.extend(node.install("br0", &nobodys(&ports)));
        fixture
    }

    /// The dump once these pods' entries are gone.
    pub(crate) fn without(&self, gone: &[usize]) -> Vec<String> {
        let kept = self.flows.iter().enumerate().filter(|(index, _)| !gone.contains(index));
        sorted([self.base.clone(), kept.flat_map(|(_, flows)| flows.clone()).collect()].concat())
    }

    /// The dump as long as nobody's entries are gone.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.without(&[])
    }
}

/// The value that stands for a pod.
pub(crate) fn register(index: usize) -> u32 {
    0x1001 + u32::try_from(index).unwrap()
}

pub(crate) fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

/// One pod's entries in rarer fields and ways to deliver. Not a pipeline: no packet comes
/// to these tables.
fn corners(who: &Who) -> Vec<String> {
    let Who { ofport, reg, ip, ip6, mac } = who;
    [
        format!("table=35, priority=100,ct_state=+est+trk,ct_ipv6_src={ip6},ipv6 actions=resubmit(,40)"),
        format!("table=35, priority=90,ct_state=+est+trk,ct_ipv6_dst={ip6},ipv6 actions=resubmit(,40)"),
        format!("table=50, priority=1,arp,arp_tha={mac} actions=drop"),
        format!("table=50, priority=65535,arp,arp_sha={mac},arp_op=2 actions=NORMAL"),
        format!("table=50, priority=2,icmp6,icmp_type=135,icmp_code=0,nd_sll={mac} actions=drop"),
        format!("table=51, priority=0,dl_vlan=7,dl_dst={mac} actions=pop_vlan,output:{ofport}"),
        format!("table=51, priority=7,ip,nw_dst={ip} actions=set_field:{mac}->eth_dst,dec_ttl,output:{ofport}"),
        format!("table=51, priority=8,reg0={reg:#x},metadata=0x5 actions=write_actions(output:{ofport})"),
        format!("table=51, priority=9,udp,nw_src={ip},tp_dst=53 actions=goto_table:60"),
        format!("table=51, priority=9,tcp,reg0={reg:#x},reg3=0x7,tp_dst=443 actions=learn(table=53,hard_timeout=9,NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],output:NXM_OF_IN_PORT[]),resubmit(,60)"),
        format!("cookie=0xfeed, table=52, priority=9,in_port={ofport} actions=note:0a.0b.0c.00.00.00"),
    ]
    .to_vec()
}

/// Entries that look like somebody's and are nobody's: a dead pod must not take them along.
fn nobodys(ports: &[u16]) -> Vec<String> {
    let flood: Vec<String> = ports.iter().map(|port| format!("output:{port}")).collect();
    let first = ports[0];
    [
        "table=60, priority=10,ip,nw_dst=10.244.1.0/24 actions=NORMAL".to_owned(),
        "table=60, priority=10,ipv6,ipv6_dst=fd00:10:244:1::/64 actions=NORMAL".to_owned(),
        "table=60, priority=11,ip,nw_dst=10.244.1.1 actions=LOCAL".to_owned(),
        "table=60, priority=11,in_port=LOCAL actions=NORMAL".to_owned(),
        format!("table=60, priority=12,dl_dst=ff:ff:ff:ff:ff:ff actions={}", flood.join(",")),
        // Marks: a part of the register, and another register with the same number.
        "table=60, priority=13,reg0=0x1000/0xf000 actions=drop".to_owned(),
        "table=60, priority=13,reg1=0x1002 actions=drop".to_owned(),
        "table=60, priority=13,metadata=0x1002 actions=drop".to_owned(),
        "table=60, priority=13,ct_mark=0x1002 actions=drop".to_owned(),
        // The number of a port, as another number.
        format!("table=60, priority=14,tcp,tp_dst={first} actions=drop"),
        format!("table=60, priority=14,dl_vlan={first} actions=drop"),
        format!("table=60, priority=14,tun_id={first:#x} actions=drop"),
        // No match at all.
        "table=61, priority=0 actions=NORMAL".to_owned(),
    ]
    .to_vec()
}

/// What `list --json` says: per pod, as the test calls it, its state.
pub(crate) fn states(node: &Node) -> BTreeMap<String, String> {
    let list = node.admin(&["list", "--json", "--no-flows"]).json();
    let rows = list.as_array().unwrap_or_else(|| panic!("a list of attachments: {list:#}"));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    rows.iter().map(|row| (called(&text(&row["pod"]["name"])), text(&row["state"]))).collect()
}

/// `sweep`, which must be content. Returns its answer.
#[track_caller]
pub(crate) fn sweep(node: &Node, options: &[&str]) -> Value {
    let outcome = node.admin(&[&["sweep", "--json"], options].concat());
    assert!(outcome.succeeded(), "{outcome}");
    outcome.json()
}

/// Every file below a directory, with its content.
pub(crate) fn tree(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                files.insert(format!("{}/", path.display()), Vec::new());
                todo.push(path);
            } else {
                files.insert(path.display().to_string(), fs::read(&path).unwrap());
            }
        }
    }
    files
}
