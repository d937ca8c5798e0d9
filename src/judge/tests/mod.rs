//! Scenarios as tables: a node, its flows, and what becomes of each.
//!
//! The cast: `a` is dead for 60 s (port 12, 10.0.0.5, MAC …:05), `b` is alive for a day
//! (port 13, 10.0.0.6), port 1 is a tunnel and port 2 an uplink that nobody explains.

use super::input::{
    Dead, DeadId, JudgeInput, Live, LiveId, LiveRegister, Network, NetworkId, Ports,
};
use super::testing::{self, address, ago, network};
use super::{Judge, Learned, Survey, Verdict};
use crate::model::flow::{AddressMatch, Flow, RegisterMatch, RegisterRange, RegisterWrite, Side};
use crate::model::register::RegisterSource;
use crate::model::row::RowId;
use crate::model::workload::Member;

mod basis;
mod carried;
mod computed;
mod guards;
mod layouts;
mod numbers;
mod registers;
mod rules;

const TUNNEL: u16 = 1;
const UPLINK: u16 = 2;
const A: u16 = 12;
const B: u16 = 13;
const IP_A: &str = "10.0.0.5";
const IP_B: &str = "10.0.0.6";
const MAC_A: &str = "0a:58:0a:00:00:05";
const MAC_B: &str = "0a:58:0a:00:00:06";

/// A flow, two hours old unless it says otherwise.
fn flow() -> Flow {
    Flow { table: 10, priority: 100, made: ago(7200), ..Flow::default() }
}

impl Flow {
    fn aged(mut self, seconds: u64) -> Self {
        self.made = ago(seconds);
        self
    }

    fn table(mut self, table: u8) -> Self {
        self.table = table;
        self
    }

    fn cookie(mut self, cookie: u64) -> Self {
        self.cookie = cookie;
        self
    }

    fn from(mut self, port: u16) -> Self {
        self.matches.in_port = Some(port);
        self
    }

    fn addressed(mut self, text: &str, side: Side) -> Self {
        self.matches.addresses.push(AddressMatch { address: address(text), side });
        self
    }

    fn src(self, text: &str) -> Self {
        self.addressed(text, Side::Source)
    }

    fn dst(self, text: &str) -> Self {
        self.addressed(text, Side::Destination)
    }

    fn either(self, text: &str) -> Self {
        self.addressed(text, Side::Unknown)
    }

    fn reg(mut self, index: u8, value: u32) -> Self {
        self.matches.registers.push(RegisterMatch { index, value, mask: u32::MAX });
        self
    }

    fn mark(mut self, index: u8, value: u32, mask: u32) -> Self {
        self.matches.registers.push(RegisterMatch { index, value, mask });
        self
    }

    fn write(mut self, index: u8, mask: u32, value: Option<u32>, nested: bool) -> Self {
        self.actions.register_writes.push(RegisterWrite { index, mask, value, nested });
        self
    }

    fn load(self, index: u8, value: u32) -> Self {
        self.write(index, u32::MAX, Some(value), false)
    }

    fn output(mut self, port: u16) -> Self {
        self.actions.outputs.push(port);
        self
    }

    fn output_register(mut self, index: u8, mask: u32) -> Self {
        self.actions.output_registers.push(RegisterRange { index, mask });
        self.beyond()
    }

    /// goto, resubmit, ct, NORMAL and the like.
    fn beyond(mut self) -> Self {
        self.actions.beyond = true;
        self
    }

    fn conjunction(mut self) -> Self {
        self.actions.conjunction = true;
        self.beyond()
    }

    fn group(mut self) -> Self {
        self.actions.group = true;
        self.beyond()
    }

    /// To NORMAL, FLOOD or ALL.
    fn spread(mut self) -> Self {
        self.actions.spreads = true;
        self.beyond()
    }

    fn rewrite(mut self) -> Self {
        self.actions.rewrites_destination = true;
        self
    }

    fn vlan(mut self, vlan: u16) -> Self {
        self.matches.vlan = Some(vlan);
        self
    }

    fn into_vlan(mut self, vlan: u16) -> Self {
        self.actions.vlans.push(vlan);
        self.beyond()
    }

    fn controller(mut self) -> Self {
        self.actions.controller = true;
        self.beyond()
    }

    fn tunnel(mut self) -> Self {
        self.actions.sets_tunnel = true;
        self
    }
}

const LEARN: RegisterSource = RegisterSource::Learn { distinct_seen: true, shared_seen: false };
const LEARN_FIRST: RegisterSource =
    RegisterSource::Learn { distinct_seen: false, shared_seen: false };

/// A pod of a workload. Those of the cast are all of one.
fn member(workload: &str, pod: u16) -> Option<Member> {
    Some(Member { workload: workload.to_owned(), pod: pod.to_string() })
}

fn dead(port: u16, addresses: &[&str]) -> Dead {
    Dead { member: member("w", port), ..testing::dead(port, addresses) }
}

fn live(port: u16, addresses: &[&str]) -> Live {
    Live { member: member("w", port), ..testing::live(port, addresses) }
}

/// The cast of the module's head.
fn node(source: RegisterSource) -> JudgeInput {
    let ports = [super::tokens::LOCAL, TUNNEL, UPLINK, B];
    JudgeInput {
        networks: vec![network(source)].into(),
        dead: vec![dead(A, &[IP_A, MAC_A])].into(),
        live: vec![live(B, &[IP_B, MAC_B])].into(),
        ports: Ports {
            by_number: ports.into_iter().map(|p| (p, RowId(p.into()))).collect(),
            ..Ports::default()
        },
        now: testing::now(),
        switch_started: None,
        ovn: false,
    }
}

fn plain() -> JudgeInput {
    node(RegisterSource::None)
}

impl JudgeInput {
    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// A live attachment with its own row.
    fn and_live(mut self, live: Live) -> Self {
        if let Some(port) = live.ofport {
            self.ports.by_number.insert(port, RowId(u128::from(port) + 5000));
        }
        self.live.push(live);
        self
    }
}

fn survey(input: &JudgeInput, flows: &[Flow]) -> Learned {
    let mut survey = Survey::new(input);
    for flow in flows {
        survey.see(flow);
    }
    survey.finish()
}

/// Sees all flows, then judges them; checks that phase 1 missed nothing.
fn verdicts(input: &JudgeInput, flows: &[Flow]) -> Vec<Verdict> {
    let mut survey = Survey::new(input);
    let wanted: Vec<bool> = flows.iter().map(|flow| survey.see(flow)).collect();
    let learned = survey.finish();
    let judge = Judge::new(input, &learned);
    let verdicts: Vec<_> = flows.iter().map(|flow| judge.verdict(flow)).collect();
    for (wanted, verdict) in wanted.iter().zip(&verdicts) {
        assert!(*wanted || !verdict.stale, "phase 1 let go of {verdict:?}");
    }
    verdicts
}

/// `"stale: reason"` or `"kept: reason"`.
fn words(verdict: &Verdict) -> String {
    format!("{}: {}", if verdict.stale { "stale" } else { "kept" }, verdict.reason.as_str())
}

/// The whole table is one dump.
#[track_caller]
fn dump(input: &JudgeInput, table: &[(&str, Flow, &str)]) {
    let flows: Vec<Flow> = table.iter().map(|row| row.1.clone()).collect();
    let found = verdicts(input, &flows);
    let wrong: Vec<String> = table
        .iter()
        .zip(&found)
        .filter(|((_, _, expected), verdict)| words(verdict) != *expected)
        .map(|((name, _, expected), verdict)| {
            format!("{name}: expected {expected}, found {}: {}", words(verdict), verdict.reason)
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every row is a dump by itself.
#[track_caller]
fn each(input: &JudgeInput, table: &[(&str, Flow, &str)]) {
    for row in table {
        dump(input, std::slice::from_ref(row));
    }
}
