//! `list`: what this node knows.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use clap::Args;
use log::warn;
use serde::Serialize;
use serde_json::Value;

use super::output::{self, or_dash, short};
use super::{Context, Error, Exit, Table, ago};
use crate::config::{NetworkState, database_socket};
use crate::model::attachment::{Attachment, NetworkName, State};
use crate::model::flow::{Address, Flow};
use crate::openflow::{self, Filter};
use crate::ovsdb::{Client, Ovn, Wanted};
use crate::reconcile::{Question, lacks_value, network_states, open_bridge};
use crate::store::RegistrySnapshot;
use crate::util::clock::{Deadline, Stamp};

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Do not count flows: asks the switch for nothing.
    #[arg(long)]
    no_flows: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row<'a> {
    #[serde(flatten)]
    attachment: &'a Attachment,
    age_seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    flows: Option<u64>,
    /// ovn-controller runs the attachment's bridge: its flows are not judged.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    ovn: bool,
    /// OVSDB did not say whether ovn-controller does.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    ovn_unknown: bool,
    /// The pod is dead, and its register value was never seen.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    value_unknown: bool,
}

pub(super) fn run(context: &Context, options: &Options) -> Result<Exit, Error> {
    let registry_snapshot = match context.registry()? {
        Some(registry) => registry.snapshot()?,
        None => RegistrySnapshot::default(),
    };
    let rows = rows(context, options, &registry_snapshot);
    let text = if rows.is_empty() { "no attachments".to_owned() } else { table(&rows).to_string() };
    output::say(context, &rows, &text)?;
    Ok(if registry_snapshot.corrupt.is_empty() { Exit::Done } else { Exit::Attention })
}

/// Every record and tombstone, with what the node says of it now.
fn rows<'a>(
    context: &Context,
    options: &Options,
    registry_snapshot: &'a RegistrySnapshot,
) -> Vec<Row<'a>> {
    let all: Vec<&Attachment> =
        registry_snapshot.attachments.iter().chain(&registry_snapshot.tombstones).collect();
    // OVSDB and all bridges share one deadline: if one of them hangs, the records are printed all
    // the same.
    let deadline = context.deadline();
    let nothing_to_ask = options.no_flows || all.is_empty();
    let ovn = if nothing_to_ask { Some(Ovn::default()) } else { ovn(context) };
    let ovn_unknown = ovn.is_none();
    let ovn = ovn.unwrap_or_default();
    let is_ovn = |a: &Attachment| a.bridge.as_ref().is_some_and(|b| ovn.bridges.contains(b));
    let networks = network_states(registry_snapshot);
    let flows = if options.no_flows {
        vec![None; all.len()]
    } else {
        count_flows(context, &all, &networks, is_ovn, deadline)
    };
    let value_unknown = |a: &Attachment| {
        let state = networks.get(&a.key.network).filter(|_| a.state != State::Active);
        state.is_some_and(|state| !is_ovn(a) && lacks_value(state, a, all.iter().copied()))
    };
    let now = Stamp::now();
    let row = |(attachment, flows): (&&'a Attachment, _)| Row {
        attachment,
        age_seconds: attachment.created.until(now).as_secs(),
        flows,
        ovn: is_ovn(attachment),
        ovn_unknown,
        value_unknown: value_unknown(attachment),
    };
    all.iter().zip(flows).map(row).collect()
}

#[rustfmt::skip]
const HEAD: [&str; 13] = [
    "POD", "CONTAINER", "IFNAME", "NETWORK", "BRIDGE", "PORT", "OFPORT", "REG0", "IP", "MAC",
    "STATE", "AGE", "FLOWS",
];

fn table(rows: &[Row<'_>]) -> Table {
    let mut table = Table::new(&HEAD);
    for row in rows {
        let a = row.attachment;
        table.row(vec![
            or_dash(a.pod.as_ref()),
            short(a.key.container.as_str()),
            a.key.ifname.to_string(),
            a.key.network.to_string(),
            or_dash(a.bridge.as_ref()),
            or_dash(a.port.as_ref()),
            or_dash(a.ofport),
            match a.register {
                Some(register) => format!("{:#x}", register.value),
                None if row.value_unknown => "never known".to_owned(),
                None => "-".to_owned(),
            },
            output::list(&a.ips, ","),
            output::list(&a.macs, ","),
            a.state.to_string(),
            ago(Duration::from_secs(row.age_seconds)),
            match (row.ovn, row.flows) {
                (true, _) => "OVN's, not judged".to_owned(),
                (false, None) => "?".to_owned(),
                (false, Some(n)) if row.ovn_unknown => format!("{n} (OVN's?)"),
                (false, Some(n)) => n.to_string(),
            },
        ]);
    }
    table
}

/// The bridges that ovn-controller runs; `None` if OVSDB does not say. A database that hangs
/// leaves half of the time for the bridges.
fn ovn(context: &Context) -> Option<Ovn> {
    let deadline = Deadline::after(context.timeout / 2);
    let asked = Client::connect(&database_socket(&context.run_dir), deadline)
        .and_then(|mut client| client.find(&Wanted::default()));
    asked
        .map(|snapshot| snapshot.ovn)
        .inspect_err(|failed| warn!("which bridges are OVN's is not known: {failed}"))
        .ok()
}

/// Flows that match a token of each attachment, bridge by bridge. `None` where the switch
/// did not answer.
fn count_flows(
    context: &Context,
    all: &[&Attachment],
    networks: &BTreeMap<NetworkName, NetworkState>,
    is_ovn: impl Fn(&Attachment) -> bool,
    deadline: Deadline,
) -> Vec<Option<u64>> {
    let mut counts = vec![None; all.len()];
    let bridges = by_bridge(all.iter().copied().enumerate().filter(|(_, a)| !is_ovn(a)), networks);
    let answer = if bridges.is_empty() { None } else { context.ask(Question::Counts).ok() };
    for (bridge, tokens) in bridges {
        let counted = answer.as_ref().and_then(|all_of| tokens.counted(all_of.get(bridge)?, all));
        match counted.map_or_else(|| count_on(context, bridge, &tokens, deadline), Ok) {
            Ok(found) => {
                for (index, found) in found {
                    if let Some(count) = counts.get_mut(index) {
                        *count = Some(found);
                    }
                }
            }
            Err(failed) => warn!("{bridge}: flows are not counted: {failed}"),
        }
    }
    counts
}

/// Flows of one bridge that match a token of each of its attachments.
fn count_on(
    context: &Context,
    bridge: &str,
    tokens: &TokenIndex,
    deadline: Deadline,
) -> Result<HashMap<usize, u64>, openflow::Error> {
    let mut found = tokens.nothing();
    let mut connection = open_bridge(&context.run_dir, bridge, deadline)?;
    for (table, active) in connection.tables()? {
        if active > 0 {
            connection
                .dump(&Filter::table(table), &mut |_, flow| tokens.count(flow, &mut found))?;
        }
    }
    Ok(found)
}

/// The attachments of each bridge, with their places in the list.
fn by_bridge<'a>(
    all: impl Iterator<Item = (usize, &'a Attachment)>,
    networks: &BTreeMap<NetworkName, NetworkState>,
) -> HashMap<&'a str, TokenIndex> {
    let mut bridges: HashMap<&str, TokenIndex> = HashMap::new();
    for (index, attachment) in all {
        if let Some(bridge) = &attachment.bridge {
            let state = networks.get(&attachment.key.network);
            bridges.entry(bridge).or_default().add(index, attachment, state);
        }
    }
    bridges
}

/// How an attachment is named in an answer of the daemon's.
fn life(attachment: &Attachment) -> String {
    format!("{} {}", attachment.key, attachment.generation)
}

/// How the daemon answers [`Question::Counts`]. `read` hands out a bridge's entries, or says that it
/// cannot.
#[cfg(feature = "daemon")]
pub(crate) fn counts<'a>(
    snapshot: &'a RegistrySnapshot,
    mut read: impl FnMut(&str, &mut dyn FnMut(&Flow)) -> bool + 'a,
) -> impl Iterator<Item = (String, Value)> + 'a {
    let all: Vec<&Attachment> = snapshot.attachments.iter().chain(&snapshot.tombstones).collect();
    let bridges = by_bridge(all.iter().copied().enumerate(), &network_states(snapshot));
    bridges.into_iter().filter_map(move |(bridge, tokens)| {
        let mut found = tokens.nothing();
        let is_read = read(bridge, &mut |flow| tokens.count(flow, &mut found));
        let named = |(index, count): (usize, u64)| Some((life(all.get(index)?), count.into()));
        let counts = found.into_iter().filter_map(named).collect();
        is_read.then(|| (bridge.to_owned(), Value::Object(counts)))
    })
}

/// Which of the listed attachments has a token, on one bridge.
#[derive(Default)]
struct TokenIndex {
    members: Vec<usize>,
    ports: HashMap<u16, Vec<usize>>,
    /// By the register's index, mask and value.
    registers: HashMap<(u8, u32, u32), Vec<usize>>,
    addresses: HashMap<Address, Vec<usize>>,
}

impl TokenIndex {
    fn add(&mut self, index: usize, attachment: &Attachment, state: Option<&NetworkState>) {
        self.members.push(index);
        if let Some(ofport) = attachment.ofport {
            self.ports.entry(ofport).or_default().push(index);
        }
        for address in attachment.addresses() {
            self.addresses.entry(address).or_default().push(index);
        }
        if let Some(register) = attachment.register {
            let state = state.cloned().unwrap_or_default();
            let field = (state.config.register, state.config.register_mask, register.value);
            self.registers.entry(field).or_default().push(index);
        }
    }

    /// Nothing is counted yet.
    fn nothing(&self) -> HashMap<usize, u64> {
        self.members.iter().map(|index| (*index, 0)).collect()
    }

    fn count(&self, flow: &Flow, found: &mut HashMap<usize, u64>) {
        for index in self.owners(flow) {
            *found.entry(index).or_default() += 1;
        }
    }

    /// What the daemon has counted, if it knows all of them.
    fn counted(&self, answer: &Value, all: &[&Attachment]) -> Option<HashMap<usize, u64>> {
        let count = |index: &usize| Some((*index, answer.get(life(all.get(*index)?))?.as_u64()?));
        self.members.iter().map(count).collect()
    }

    /// The attachments of which a flow names a token, each once.
    fn owners(&self, flow: &Flow) -> BTreeSet<usize> {
        let ports = flow.matches.in_port.iter().chain(&flow.actions.outputs);
        let ports = ports.filter_map(|port| self.ports.get(port));
        let addresses = flow.matches.addresses.iter();
        let addresses = addresses.filter_map(|a| self.addresses.get(&a.address));
        let is_matched = |(index, mask, value): &(u8, u32, u32)| {
            let mut registers = flow.matches.registers.iter();
            registers
                .any(|r| r.index == *index && r.mask & mask == *mask && r.value & mask == *value)
        };
        let registers = self.registers.iter().filter(|(field, _)| is_matched(field));
        ports.chain(addresses).chain(registers.map(|(_, of)| of)).flatten().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::attachment::{Key, Register, RegisterHow};
    use crate::model::flow::{AddressMatch, RegisterMatch, Side};

    fn attachment(container: &str, ofport: u16, ip: &str) -> Attachment {
        let key = Key {
            network: "podnet".parse().unwrap(),
            container: container.parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        let now = Stamp { boot_ms: 1, wall_ms: 1 };
        let mut attachment = Attachment::new(key, 1, "boot".to_owned(), now);
        (attachment.ofport, attachment.ips) = (Some(ofport), vec![ip.parse().unwrap()]);
        attachment
    }

    #[test]
    fn a_flow_counts_once_for_each_attachment_that_it_names() {
        let mut tokens = TokenIndex::default();
        tokens.add(0, &attachment("c1", 5, "10.0.0.5"), None);
        let mut other = attachment("c2", 6, "10.0.0.5");
        other.register = Some(Register { value: 7, how: RegisterHow::Learned });
        tokens.add(3, &other, None);
        let owners = |edit: &dyn Fn(&mut Flow)| {
            let mut flow = Flow::default();
            edit(&mut flow);
            tokens.owners(&flow).into_iter().collect::<Vec<_>>()
        };
        let to_address = |flow: &mut Flow| {
            let address = Address::Ip("10.0.0.5".parse().unwrap());
            flow.matches.addresses.push(AddressMatch { address, side: Side::Destination });
        };
        let with_value = |value, mask| {
            move |flow: &mut Flow| {
                flow.matches.registers.push(RegisterMatch { index: 0, value, mask });
            }
        };
        assert_eq!(owners(&|_| {}), [0; 0]);
        assert_eq!(owners(&to_address), [0, 3]);
        assert_eq!(owners(&|flow| flow.actions.outputs = vec![9, 6]), [3]);
        assert_eq!(owners(&with_value(7, u32::MAX)), [3]);
        assert_eq!(owners(&with_value(7, 0xf)), [0; 0], "a part of the register");
        let both = |flow: &mut Flow| {
            flow.matches.in_port = Some(5);
            flow.actions.outputs = vec![5];
        };
        assert_eq!(owners(&both), [0]);
    }
}
