//! The flows that controllers install for a pod, as text for `ovs-ofctl`.
//!
//! The lines are written as a dump in OpenFlow 1.5 shows them (`rig_selftest.rs` holds them
//! to it), so a test can look for them in a dump: it knows which line belongs to whom.

/// Who a pod is in flows.
#[derive(Clone, Debug)]
pub struct Who {
    /// Its port number.
    pub ofport: u16,
    /// The value that stands for it, or for its namespace, in a register.
    pub reg: u32,
    /// Its IPv4 address.
    pub ip: String,
    /// Its IPv6 address.
    pub ip6: String,
    /// Its MAC.
    pub mac: String,
}

fn lines<const N: usize>(lines: [String; N]) -> Vec<String> {
    lines.to_vec()
}

/// What the classifier pipeline has before there is any pod. Tables: 0 classifier, 10 spoof
/// and ARP guard, 20 policy, 30 conntrack, 35 connections, 40 delivery.
pub fn classifier_base() -> Vec<String> {
    [
        "table=0, priority=0 actions=drop",
        "table=10, priority=0 actions=drop",
        "table=20, priority=0 actions=drop",
        "table=30, priority=100,ip actions=ct(commit,table=35,zone=1)",
        "table=30, priority=0 actions=resubmit(,40)",
        "table=35, priority=0 actions=resubmit(,40)",
        "table=40, priority=0 actions=drop",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// A pod in a pipeline that gives every pod a value of its own in reg0. Packets flow between
/// two pods that have these, IPv4 and IPv6.
pub fn classifier(who: &Who) -> Vec<String> {
    let Who { ofport, reg, ip, ip6, mac } = who;
    lines([
        format!(
            "table=0, priority=100,in_port={ofport} actions=set_field:{reg:#x}->reg0,resubmit(,10)"
        ),
        // Spoof guard.
        format!(
            "table=10, priority=100,ip,in_port={ofport},dl_src={mac},nw_src={ip} actions=resubmit(,20)"
        ),
        format!(
            "table=10, priority=100,ipv6,in_port={ofport},dl_src={mac},ipv6_src={ip6} actions=resubmit(,20)"
        ),
        format!(
            "table=10, priority=100,arp,in_port={ofport},dl_src={mac},arp_spa={ip},arp_sha={mac} actions=resubmit(,20)"
        ),
        format!(
            "table=10, priority=110,icmp6,in_port={ofport},icmp_type=136,icmp_code=0,nd_target={ip6},nd_tll={mac} actions=resubmit(,20)"
        ),
        format!("table=10, priority=50,in_port={ofport} actions=drop"),
        // Policy.
        format!("table=20, priority=100,reg0={reg:#x} actions=resubmit(,30)"),
        format!("table=20, priority=110,tcp,reg0={reg:#x},tp_dst=25 actions=drop"),
        // Connections.
        format!("table=35, priority=100,ct_state=+est+trk,ct_nw_src={ip},ip actions=resubmit(,40)"),
        format!("table=35, priority=100,ct_state=+est+trk,ct_nw_dst={ip},ip actions=resubmit(,40)"),
        // Delivery.
        format!("table=40, priority=100,ip,nw_dst={ip} actions=output:{ofport}"),
        format!("table=40, priority=100,arp,arp_tpa={ip} actions=output:{ofport}"),
        format!("table=40, priority=100,ipv6,ipv6_dst={ip6} actions=output:{ofport}"),
        format!(
            "table=40, priority=110,icmp6,icmp_type=135,icmp_code=0,nd_target={ip6} actions=output:{ofport}"
        ),
        format!("table=40, priority=50,dl_dst={mac} actions=output:{ofport}"),
    ])
}

/// openshift-sdn: the entries of a namespace, here `who.reg` is its VNID. They are there
/// once, whoever of its pods comes and goes.
pub fn openshift_namespace(vnid: u32) -> Vec<String> {
    lines([
        format!(
            "table=80, priority=100,reg0={vnid:#x},reg1={vnid:#x} actions=output:NXM_NX_REG2[]"
        ),
        format!(
            "table=60, priority=100,tcp,reg0={vnid:#x},nw_dst=172.30.7.7,tp_dst=80 actions=set_field:{vnid:#x}->reg1,set_field:0x2->reg2,goto_table:80"
        ),
        format!("table=100, priority=1,reg0={vnid:#x} actions=goto_table:101"),
    ])
}

/// openshift-sdn: one pod's entries. reg0 is the source VNID, reg1 the destination VNID,
/// reg2 the output port.
pub fn openshift(who: &Who) -> Vec<String> {
    let Who { ofport, reg: vnid, ip, .. } = who;
    lines([
        format!(
            "table=20, priority=100,arp,in_port={ofport},arp_spa={ip} actions=set_field:{vnid:#x}->reg0,goto_table:21"
        ),
        format!(
            "table=20, priority=100,ip,in_port={ofport},nw_src={ip} actions=set_field:{vnid:#x}->reg0,goto_table:21"
        ),
        format!(
            "table=25, priority=100,ip,nw_src={ip} actions=set_field:{vnid:#x}->reg0,goto_table:30"
        ),
        format!("table=40, priority=100,arp,arp_tpa={ip} actions=output:{ofport}"),
        format!(
            "table=70, priority=100,ip,nw_dst={ip} actions=set_field:{vnid:#x}->reg1,set_field:{ofport:#x}->reg2,goto_table:80"
        ),
    ])
}

/// antrea: what the node has before there is any pod. reg0 is a field of marks: bits 0–3
/// source, 4–7 destination, 8 "output port found", 9 "rewrite MAC"; reg1 is the output port.
pub fn antrea_base() -> Vec<String> {
    [
        "cookie=0x1000000000000, table=0, priority=200,in_port=1 actions=set_field:0x1/0xf->reg0,goto_table:30",
        "cookie=0x1000000000000, table=80, priority=0 actions=goto_table:110",
        "cookie=0x1000000000000, table=110, priority=200,reg0=0x100/0x100 actions=output:NXM_NX_REG1[]",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// antrea: one pod's entries (OpenFlow 1.5 only). `who.reg` is not used: no register value
/// stands for a pod.
pub fn antrea(who: &Who) -> Vec<String> {
    let Who { ofport, ip, ip6, mac, .. } = who;
    let cookie = "cookie=0x1010000000000";
    lines([
        format!(
            "{cookie}, table=0, priority=190,in_port={ofport} actions=set_field:0x3/0xf->reg0,goto_table:10"
        ),
        format!(
            "{cookie}, table=10, priority=200,ip,in_port={ofport},dl_src={mac},nw_src={ip} actions=goto_table:30"
        ),
        format!(
            "{cookie}, table=10, priority=200,ipv6,in_port={ofport},dl_src={mac},ipv6_src={ip6} actions=goto_table:30"
        ),
        format!(
            "{cookie}, table=20, priority=200,arp,in_port={ofport},arp_spa={ip},arp_sha={mac} actions=goto_table:21"
        ),
        format!(
            "{cookie}, table=70, priority=200,ip,reg0=0x200/0x200,nw_dst={ip} actions=set_field:0a:58:0a:f4:01:01->eth_src,set_field:{mac}->eth_dst,dec_ttl,goto_table:80"
        ),
        format!(
            "{cookie}, table=80, priority=200,dl_dst={mac} actions=set_field:{ofport:#x}->reg1,set_field:0x100/0x100->reg0,goto_table:110"
        ),
    ])
}

/// k-vswitch: one pod's entries, from the list of pods. Registers are not used.
pub fn k_vswitch(who: &Who) -> Vec<String> {
    let Who { ofport, ip, mac, .. } = who;
    lines([
        format!("table=0, priority=100,ip,in_port={ofport},nw_src={ip} actions=goto_table:20"),
        format!("table=10, priority=100,arp,arp_tpa={ip} actions=output:{ofport}"),
        format!(
            "table=20, priority=100,ip,nw_dst={ip} actions=set_field:{mac}->eth_dst,dec_ttl,goto_table:30"
        ),
        format!("table=30, priority=100,dl_dst={mac} actions=output:{ofport}"),
    ])
}

/// OVN: one logical port's entries; `who.reg` is its key in the datapath. ovn-controller owns
/// every entry of the bridge.
pub fn ovn(who: &Who) -> Vec<String> {
    let Who { ofport, reg, mac, .. } = who;
    lines([
        format!(
            "table=0, priority=100,in_port={ofport} actions=set_field:{reg:#x}->reg13,set_field:0x3->metadata,set_field:{reg:#x}->reg14,resubmit(,8)"
        ),
        format!(
            "table=8, priority=50,reg14={reg:#x},metadata=0x3,dl_src={mac} actions=resubmit(,9)"
        ),
        format!("table=37, priority=100,reg15={reg:#x},metadata=0x3 actions=resubmit(,38)"),
        format!("table=65, priority=100,reg15={reg:#x},metadata=0x3 actions=output:{ofport}"),
    ])
}
