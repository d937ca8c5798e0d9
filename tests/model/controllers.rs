//! What controllers install: the five layouts of the field notes, members of policies, and
//! entries that are nobody's plain identity.

use serde_json::{Value, json};

use super::bridges::PATCH;
use crate::rig::{Who, layouts};

/// The port that leads out of the node. It is nobody's pod's.
pub(crate) const UPLINK: u16 = 1;

/// A stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Each pod has a value of its own in reg0.
    Classifier,
    /// reg0 is a namespace's.
    OpenshiftSdn,
    /// reg0 is a field of marks.
    Antrea,
    /// Registers are not used.
    KVswitch,
    /// ovn-controller runs the bridge.
    Ovn,
    /// A value in reg0 that is the port's number.
    Ofport,
    /// A value in reg0 that is the pod's IPv4.
    Ipv4,
    /// reg0 is a tenant's, and each tenant has one pod.
    Tenants,
    /// Addresses are a VLAN's: two pods may have the same in two VLANs.
    Vlans,
}

impl Layout {
    /// All five.
    pub(crate) const ALL: [Self; 5] =
        [Self::Classifier, Self::OpenshiftSdn, Self::Antrea, Self::KVswitch, Self::Ovn];

    /// Those of walks in which more happens.
    pub(crate) const WIDE: [Self; 9] = [
        Self::Classifier,
        Self::OpenshiftSdn,
        Self::Antrea,
        Self::KVswitch,
        Self::Ovn,
        Self::Ofport,
        Self::Ipv4,
        Self::Vlans,
        Self::Tenants,
    ];

    /// Whether a register value stands for a pod.
    pub(crate) fn is_by_value(self) -> bool {
        self == Self::Classifier || self.is_computed()
    }

    /// The VLAN of a pod, which its value says here.
    pub(crate) fn vlan(self, value: u32) -> Option<u16> {
        let vlan = if value.is_multiple_of(2) { 100 } else { 200 };
        (self == Self::Vlans).then_some(vlan)
    }

    /// Whether nobody else's entries are beside it: they would be ovn-controller's, or be of no
    /// VLAN.
    pub(crate) fn is_alone(self) -> bool {
        matches!(self, Self::Ovn | Self::Vlans)
    }

    /// Whether the value is computed.
    pub(crate) fn is_computed(self) -> bool {
        matches!(self, Self::Ofport | Self::Ipv4)
    }

    /// What stands for a pod in a register.
    pub(crate) fn value(self, who: &Who) -> u32 {
        match self {
            Self::Ofport => who.ofport.into(),
            Self::Ipv4 => who.ip.parse::<std::net::Ipv4Addr>().unwrap().into(),
            _ => who.reg,
        }
    }

    /// The plugin's configuration.
    pub(crate) fn conf(self) -> Value {
        let preset = match self {
            Self::Classifier | Self::Tenants | Self::Vlans => return json!({}),
            Self::Ofport => return json!({"reg0": "ofport"}),
            Self::Ipv4 => return json!({"reg0": "ipv4"}),
            Self::OpenshiftSdn => "openshift-sdn",
            Self::Antrea => "antrea",
            Self::KVswitch => "k-vswitch",
            Self::Ovn => "ovn",
        };
        json!({"preset": preset, "bridge": "br0"})
    }

    /// Entries that are there before any pod is.
    pub(crate) fn base(self) -> Vec<String> {
        let mut base = match self {
            Self::Classifier | Self::Ofport | Self::Ipv4 | Self::Vlans => {
                layouts::classifier_base()
            }
            Self::Tenants => layouts::classifier_base().into_iter().chain(tenants()).collect(),
            Self::OpenshiftSdn => (1..=2).flat_map(layouts::openshift_namespace).collect(),
            Self::Antrea => layouts::antrea_base(),
            Self::KVswitch | Self::Ovn => Vec::new(),
        };
        base.push("table=46, priority=1 actions=output:NXM_NX_REG1[]".to_owned());
        base
    }

    /// A pod's entries on a bridge that shares addresses with its own; `patch`: by a patch pair.
    pub(crate) fn of_neighbour(self, who: &Who, patch: bool) -> Vec<String> {
        let Who { ip, mac, .. } = who;
        let vlan = self.vlan(who.reg).map_or_else(String::new, |vlan| format!("dl_vlan={vlan},"));
        let mut lines = vec![
            format!("table=50, priority=60,ip,{vlan}nw_src={ip} actions=resubmit(,46)"),
            format!("table=50, priority=61,{vlan}dl_dst={mac} actions=resubmit(,46)"),
        ];
        if patch {
            lines.extend([
                format!("table=50, priority=62,ip,{vlan}nw_dst={ip} actions=output:{PATCH}"),
                format!(
                    "table=50, priority=63,ip,in_port={PATCH},{vlan}nw_src={ip} actions=resubmit(,46)"
                ),
            ]);
        }
        if self == Self::Ipv4 {
            let value = self.value(who);
            lines.push(format!("table=50, priority=64,reg0={value:#x} actions=resubmit(,46)"));
        }
        lines
    }

    /// A pod's entries.
    pub(crate) fn of_pod(self, who: &Who) -> Vec<String> {
        match self {
            Self::Classifier => layouts::classifier(who),
            Self::Vlans => {
                let by_port = |line: &String| line.contains("in_port=");
                let own = layouts::classifier(who).into_iter().filter(by_port);
                own.chain(in_vlan(who)).collect()
            }
            Self::Tenants => {
                let own = |line: &String| !line.contains(&format!("reg0={:#x}", who.reg));
                layouts::classifier(who).into_iter().filter(own).collect()
            }
            Self::Ofport | Self::Ipv4 => {
                layouts::classifier(&Who { reg: self.value(who), ..who.clone() })
            }
            Self::OpenshiftSdn => layouts::openshift(who),
            Self::Antrea => layouts::antrea(who),
            Self::KVswitch => layouts::k_vswitch(who),
            Self::Ovn => layouts::ovn(who),
        }
    }
}

/// More entries of a pod's, of the kinds that rules must tell apart.
pub(crate) const ODDITIES: u8 = 9;
/// The group that every bridge has: it leads out of the node.
pub(crate) const GROUP: u32 = 7;

/// One of them.
pub(crate) fn odd(who: &Who, kind: u8) -> String {
    let Who { ofport, ip, mac, .. } = who;
    let (net, host) = ip.rsplit_once('.').unwrap();
    let even = host.parse::<u8>().unwrap() & !1;
    match kind % ODDITIES {
        0 => format!(
            "table=45, priority=60,ip,nw_dst={ip} actions=set_field:0x7->tun_id,resubmit(,46)"
        ),
        1 => format!("table=45, priority=61,ip,nw_src={ip} actions=output:{UPLINK}"),
        2 => format!(
            "table=45, priority=62,ip,nw_src={ip} actions=set_field:{UPLINK:#x}->reg1,resubmit(,46)"
        ),
        3 => format!("table=45, priority=63,ip,in_port={UPLINK},nw_src={ip} actions=drop"),
        4 => format!(
            "table=45, priority=64,tcp,tp_dst={} actions=output:{ofport}",
            8000 + u32::from(*ofport)
        ),
        5 => format!("table=45, priority=66,ip,nw_dst={net}.{even}/31 actions=drop"),
        6 => format!(
            "table=45, priority=67,tcp,nw_dst=172.30.7.{host},tp_dst=80 actions=set_field:{ip}->ip_dst,resubmit(,46)"
        ),
        7 => format!("table=45, priority=68,in_port={ofport} actions=drop"),
        _ => format!("table=45, priority=69,dl_dst={mac} actions=group:{GROUP}"),
    }
}

/// A service's entry: its address is rewritten to a pod's, whose port it is sent to. Its slot is
/// the service's, whoever is behind it.
pub(crate) fn service(n: u8, who: &Who) -> String {
    let Who { ofport, ip, .. } = who;
    let service = n % 3;
    format!(
        "table=48, priority=100,tcp,nw_dst=10.96.0.{service},tp_dst=53 actions=set_field:{ip}->ip_dst,output:{ofport}"
    )
}

/// A pod's own rule for packets to another one's address; `by_value`: register values are pods'.
pub(crate) fn rule(who: &Who, ip: &str, mac: &str, kind: u8, by_value: bool) -> String {
    let Who { ofport, reg, mac: own, .. } = who;
    match kind % 4 {
        0 => format!("table=47, priority=70,ip,in_port={ofport},nw_dst={ip} actions=resubmit(,46)"),
        1 if by_value => {
            format!("table=47, priority=71,ip,reg0={reg:#x},nw_dst={ip} actions=resubmit(,46)")
        }
        1 => format!("table=47, priority=71,ip,in_port={ofport},nw_dst={ip} actions=drop"),
        2 => format!("table=47, priority=72,ip,dl_src={own},nw_dst={ip} actions=resubmit(,46)"),
        _ => format!("table=47, priority=73,in_port={ofport},dl_dst={mac} actions=resubmit(,46)"),
    }
}

/// The number and the last byte of the address that the operator's rules are for.
pub(crate) const SLOT: (u16, u8) = (20, 50);

/// The operator's rules for a slot, whoever is in it.
pub(crate) fn operator() -> [String; 3] {
    let (number, address) = SLOT;
    [
        format!("table=47, priority=80,udp,in_port={number},tp_dst=161 actions=drop"),
        format!("table=47, priority=81,tcp,nw_src=10.244.1.{address},tp_dst=22 actions=drop"),
        format!("table=47, priority=82,dl_dst=0a:58:0a:f4:01:{address:02x} actions=resubmit(,46)"),
    ]
}

/// A pod's entries in its VLAN.
fn in_vlan(who: &Who) -> [String; 4] {
    let Who { ofport, ip, mac, .. } = who;
    let vlan = Layout::Vlans.vlan(who.reg).unwrap();
    [
        format!("table=41, priority=60,ip,dl_vlan={vlan},nw_src={ip} actions=resubmit(,46)"),
        format!("table=41, priority=61,ip,dl_vlan={vlan},nw_dst={ip} actions=output:{ofport}"),
        format!("table=41, priority=62,dl_vlan={vlan},dl_src={mac} actions=resubmit(,46)"),
        format!("table=41, priority=63,dl_vlan={vlan},dl_dst={mac} actions=output:{ofport}"),
    ]
}

/// The tenants' values.
pub(crate) const TENANTS: std::ops::RangeInclusive<u32> = 0x2001..=0x2003;

/// The tenants' entries: they are there as long as the tenant is, whoever of its pods is here.
fn tenants() -> Vec<String> {
    let of = |value: u32| {
        [
            format!("table=20, priority=100,reg0={value:#x} actions=resubmit(,30)"),
            format!(
                "table=20, priority=105,ip,reg0={value:#x} actions=set_field:{value:#x}->tun_id,output:{UPLINK}"
            ),
        ]
    };
    TENANTS.flat_map(of).collect()
}

/// What a controller has for a machine that is on another node, after its migration.
pub(crate) fn machine(ip: &str, mac: &str) -> [String; 6] {
    [
        format!("table=49, priority=50,dl_dst={mac} actions=NORMAL"),
        format!("table=49, priority=51,dl_dst={mac} actions=group:{GROUP}"),
        format!("table=49, priority=52,ip,nw_dst={ip} actions=NORMAL"),
        format!("table=49, priority=53,ip,nw_src={ip} actions=resubmit(,46)"),
        format!("table=49, priority=54,dl_src={mac} actions=resubmit(,46)"),
        format!(
            "table=49, priority=55,ip,nw_dst={ip} actions=set_field:0x7->tun_id,output:{UPLINK}"
        ),
    ]
}

/// A member of a policy: what a controller that thinks in sets installs once.
pub(crate) fn member(ip: &str, peer: &str, kind: u8) -> String {
    match kind % 3 {
        0 => format!("table=20, priority=200,ip,nw_src={ip} actions=conjunction(5,1/2)"),
        1 => format!("table=20, priority=200,ip,nw_dst={ip} actions=conjunction(6,2/2)"),
        _ => format!("table=20, priority=201,ip,nw_src={ip},nw_dst={peer} actions=resubmit(,30)"),
    }
}
