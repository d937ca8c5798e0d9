//! Entries as text, and as the core sees them. A line is what `ovs-ofctl` takes and a dump
//! shows; `switch.rs` holds what is read here against what the engine reads from the wire.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use ovs_flow_gc::model::flow::{
    Actions, Address, AddressMatch, Flow, Match, RegisterMatch, RegisterRange, RegisterWrite, Side,
};

use super::bridges::{BridgeId, NAMES};

/// One entry's text and meaning.
#[derive(Debug)]
pub(crate) struct Line {
    /// As a dump shows it.
    pub(crate) text: String,
    /// Its bridge.
    pub(crate) bridge: BridgeId,
    /// Table, priority and match, behind the name of a second bridge: an ADD of the same replaces
    /// it.
    pub(crate) slot: Rc<str>,
    /// What the core is to see; without its age.
    pub(crate) flow: Flow,
}

/// Where an entry is.
pub(crate) type Slot = Rc<str>;

impl Line {
    /// Reads a line of the first bridge.
    pub(crate) fn of(text: &str) -> Rc<Self> {
        Self::on(0, text)
    }

    /// Reads a line; each only once.
    pub(crate) fn on(bridge: BridgeId, text: &str) -> Rc<Self> {
        thread_local! {
            static KNOWN: [RefCell<HashMap<String, Rc<Line>>>; NAMES.len()] = Default::default();
        }
        KNOWN.with(|known| {
            let mut known = known[bridge].borrow_mut();
            let read = || Rc::new(Self::read(bridge, text));
            Rc::clone(known.entry(text.to_owned()).or_insert_with(read))
        })
    }

    /// Where the line of this head is.
    pub(crate) fn slot(bridge: BridgeId, head: &str) -> Slot {
        if bridge == 0 { head.into() } else { format!("{} {head}", NAMES[bridge]).into() }
    }

    fn read(bridge: BridgeId, text: &str) -> Self {
        let (head, actions) = text.split_once(" actions=").expect(text);
        let (cookie, head) = match head.strip_prefix("cookie=0x") {
            Some(rest) => {
                let (cookie, head) = rest.split_once(", ").expect(text);
                (u64::from_str_radix(cookie, 16).unwrap(), head)
            }
            None => (0, head),
        };
        let mut flow = Flow { cookie, ..Flow::default() };
        read_match(head, &mut flow);
        flow.actions = read_actions(actions);
        Self { text: text.to_owned(), bridge, slot: Self::slot(bridge, head), flow }
    }
}

/// A number, decimal or hexadecimal.
fn number(text: &str) -> u32 {
    let hex = text.strip_prefix("0x");
    hex.map_or_else(|| text.parse(), |hex| u32::from_str_radix(hex, 16)).expect(text)
}

fn masked(text: &str) -> (u32, u32) {
    let (value, mask) = text.split_once('/').map_or((text, None), |(v, m)| (v, Some(m)));
    (number(value), mask.map_or(u32::MAX, number))
}

fn register(name: &str) -> Option<u8> {
    name.strip_prefix("reg")?.parse().ok()
}

fn read_match(head: &str, flow: &mut Flow) {
    let words = || head.split(',').map(str::trim);
    let value = |key: &str| words().find_map(|w| w.strip_prefix(key)?.strip_prefix('='));
    flow.table = value("table").unwrap().parse().unwrap();
    flow.priority = value("priority").unwrap().parse().unwrap();
    let nd = match value("icmp_type") {
        Some("135") => Side::Destination,
        Some("136") => Side::Source,
        _ => Side::Unknown,
    };
    let Match { in_port, registers, addresses, vlan } = &mut flow.matches;
    for (key, text) in words().filter_map(|word| word.split_once('=')) {
        if let Some(index) = register(key) {
            let (value, mask) = masked(text);
            registers.push(RegisterMatch { index, value, mask });
            continue;
        }
        let side = match key {
            "dl_vlan" => {
                *vlan = Some(text.parse().expect(text));
                continue;
            }
            "in_port" => {
                *in_port = Some(text.parse().expect(text));
                continue;
            }
            "dl_src" | "nw_src" | "ipv6_src" | "arp_spa" | "arp_sha" | "nd_tll" => Side::Source,
            "dl_dst" | "nw_dst" | "ipv6_dst" | "arp_tpa" | "arp_tha" => Side::Destination,
            "nd_target" => nd,
            "ct_nw_src" | "ct_nw_dst" => Side::Unknown,
            _ => continue,
        };
        let ip = text.parse().map(Address::Ip).ok();
        let address = ip.or_else(|| text.parse().map(Address::Mac).ok());
        // A masked one is nobody's.
        addresses.extend(address.map(|address| AddressMatch { address, side }));
    }
}

/// Cuts at the commas that are in no parentheses.
fn cut(list: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0);
    for (at, c) in list.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&list[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&list[start..]);
    parts
}

fn read_actions(list: &str) -> Actions {
    let mut all = Actions::default();
    for action in cut(list) {
        if let Some(port) = action.strip_prefix("output:") {
            match port.strip_prefix("NXM_NX_REG").and_then(|r| r.strip_suffix("[]")) {
                Some(index) => {
                    all.beyond = true;
                    let index = index.parse().unwrap();
                    all.output_registers.push(RegisterRange { index, mask: u32::MAX });
                }
                None => all.outputs.push(port.parse().unwrap()),
            }
        } else if let Some((value, field)) =
            action.strip_prefix("set_field:").and_then(|set| set.split_once("->"))
        {
            if let Some(index) = register(field) {
                let (value, mask) = masked(value);
                let write = RegisterWrite { index, mask, value: Some(value), nested: false };
                all.register_writes.push(write);
            }
            all.sets_tunnel |= matches!(field, "tun_id" | "tun_dst");
            all.rewrites_destination |= matches!(field, "eth_dst" | "ip_dst" | "ipv6_dst");
        } else if action.starts_with("conjunction(") {
            (all.beyond, all.conjunction) = (true, true);
        } else if action.starts_with("group:") {
            (all.beyond, all.group) = (true, true);
        } else if !matches!(action, "drop" | "dec_ttl") {
            // goto_table, resubmit to a table, ct, NORMAL
            all.beyond = true;
            all.spreads |= matches!(action, "NORMAL" | "FLOOD" | "ALL");
            all.controller |= action.starts_with("CONTROLLER");
        }
    }
    all
}
