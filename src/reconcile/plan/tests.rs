//! Decisions on hand-made bridges: no switch, no database.

use super::*;
use crate::judge::input::{Dead, JudgeInput, Live, Ports};
use crate::judge::{Survey, testing};
use crate::model::attachment::{Attachment, Key};
use crate::model::register::RegisterSource;
use crate::model::row::RowId;
use crate::openflow::testing::hex;
use crate::openflow::{Entry, Version};
use crate::reconcile::{Cause, DeadTarget};
use crate::util::clock::Stamp;

const HOUR: u32 = 3600;
const A: u16 = 12;
const C: u16 = 14;

/// An entry of this age that matches on `oxm` and sends to a port.
fn entry(seconds: u32, oxm: &str, output: u16) -> Entry {
    let oxm = hex(oxm);
    let length = u16::try_from(oxm.len() + 4).unwrap();
    let mut bytes = hex("00000a00 00000000 00000000 0064003c 00000000 00000000");
    bytes.extend(hex("00000000 0000002a 00000000 00000000 00000000 00000000 0001"));
    bytes.extend(length.to_be_bytes());
    bytes.extend(oxm);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes.extend(hex("0004001800000000 00000010 0000"));
    bytes.extend(output.to_be_bytes());
    bytes.resize(bytes.len() + 8, 0);
    let length = u16::try_from(bytes.len()).unwrap();
    bytes[..2].copy_from_slice(&length.to_be_bytes());
    bytes[4..8].copy_from_slice(&seconds.to_be_bytes());
    Entry::new(Version::V13, bytes).unwrap()
}

/// An old entry for packets from a port.
fn from(port: u16) -> Entry {
    entry(2 * HOUR, &format!("80000004 0000{port:04x}"), 1)
}

/// An old entry for packets to 10.0.0.`host`, which has the port of this number.
fn to(host: u8) -> Entry {
    entry(2 * HOUR, &format!("80000a02 0800 80001804 0a0000{host:02x}"), host.into())
}

/// An old entry that matches on a register value.
fn of_value(value: u32) -> Entry {
    entry(2 * HOUR, &format!("00010004 {value:08x}"), 1)
}

fn dead(port: u16) -> Dead {
    Dead { born: None, ..testing::dead(port, &[&format!("10.0.0.{port}")]) }
}

/// Who lives on port 13.
fn live() -> Live {
    Live { register: LiveRegister::Absent, ..testing::live(13, &["10.0.0.13"]) }
}

/// A bridge, its entries, and what may be done.
struct Case {
    input: BridgeInput,
    targets: Vec<CleanTarget>,
    scan: FlowScan,
    orders: Orders,
    shared: Table<NetworkId, bool>,
}

/// The dead had these ports, and nobody else has them now.
fn case(dead_ports: &[u16], source: RegisterSource) -> Case {
    let by_number = [1, 13, 65534].map(|port: u16| (port, RowId(port.into()))).into();
    let facts = JudgeInput {
        networks: vec![testing::network(source)].into(),
        dead: dead_ports.iter().map(|port| dead(*port)).collect(),
        live: vec![live()].into(),
        ports: Ports { by_number, ..Ports::default() },
        now: testing::now(),
        switch_started: None,
        ovn: false,
    };
    let count = dead_ports.len();
    let target = |index: usize| {
        let key = Key {
            network: "net".parse().unwrap(),
            container: format!("c{index}").parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        let now = Stamp { boot_ms: 1, wall_ms: 1 };
        let attachment = Attachment::new(key, 1, "boot".to_owned(), now);
        CleanTarget { attachment, cause: Cause::Del }
    };
    let input = BridgeInput {
        facts,
        targets: (0..count).map(|n| DeadTarget { id: TargetId(n), may_be_freed: false }).collect(),
        records: vec![None].into(),
        networks: vec!["net".parse().unwrap()].into(),
    };
    let orders = Orders { observe: vec![false].into(), ..Orders::default() };
    let targets = (0..count).map(target).collect();
    let scan = scan(&input.facts, Vec::new());
    Case { input, targets, scan, orders, shared: vec![false].into() }
}

fn scan(facts: &JudgeInput, entries: Vec<Entry>) -> FlowScan {
    let mut survey = Survey::new(facts);
    let flows = entries.len() as u64;
    let now = testing::now();
    let mut sees = |entry: &Entry| survey.see(&entry.flow(now - entry.raw().duration()).unwrap());
    let wanted: Vec<Entry> = entries.into_iter().filter(|entry| sees(entry)).collect();
    let seen = wanted.into_iter().map(|entry| Candidate::seen(entry, now, 0));
    let candidates = seen.collect();
    let learned = survey.finish();
    FlowScan {
        candidates,
        learned,
        flows,
        asked: Vec::new(),
        extent: crate::reconcile::Extent::Everything,
    }
}

impl Case {
    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn seeing(self, entries: Vec<Entry>) -> Self {
        let scan = scan(&self.input.facts, entries);
        Self { scan, ..self }
    }

    fn plan(&self) -> Plan<'_> {
        let Self { input, targets, scan, orders, shared } = self;
        let Orders { dry_run, paused, details, ref observe } = *orders;
        let orders = Orders { dry_run, paused, details, observe: observe.clone() };
        plan(&PlanInput { bridge: "br0", targets, input, scan, shared, orders })
    }
}

fn one_dead() -> Case {
    case(&[A], RegisterSource::None)
}

/// Stale, waiting, unsettled.
fn state(plan: &Plan<'_>, target: usize) -> (u64, bool, bool) {
    let none = TargetEntries::default();
    let of = plan.targets.get(&TargetId(target)).unwrap_or(&none);
    (of.stale, of.waiting, of.unsettled)
}

fn deleted<'s>(plan: &Plan<'s>) -> Vec<&'s Entry> {
    plan.delete.iter().map(|planned| &planned.candidate.entry).collect()
}

#[test]
fn what_is_the_deads_goes_and_what_is_a_live_pods_stays() {
    let case = one_dead().seeing(vec![from(A), from(13), to(12), to(13)]);
    let plan = case.plan();
    assert_eq!(deleted(&plan), [&from(A), &to(12)]);
    assert!(plan.delete.iter().all(|planned| planned.target == Some(TargetId(0))));
    assert_eq!(state(&plan, 0), (2, false, false));
    assert!(plan.withhold.is_empty() && plan.kept.is_empty() && plan.details.is_empty());
}

#[test]
fn what_was_made_after_the_death_stays_and_its_address_has_an_owner() {
    let case = one_dead().seeing(vec![entry(5, "80000a02 0800 80001804 0a00000c", 1)]);
    let plan = case.plan();
    assert_eq!(deleted(&plan).len(), 0);
    assert_eq!(plan.kept, BTreeMap::from([("created-after-death", 1)]));
    assert_eq!(plan.targets[&TargetId(0)].kept, plan.kept);
    assert_eq!(state(&plan, 0), (0, false, false));
    assert_eq!(plan.owned, BTreeSet::from(["10.0.0.12".parse().unwrap()]));
}

#[test]
fn an_entry_that_looks_like_another_waits_for_an_hour() {
    let ambiguous = |case: &mut Case| case.scan.candidates[0].ambiguous = true;
    let case = one_dead().seeing(vec![from(A)]).with(ambiguous);
    let plan = case.plan();
    assert_eq!((deleted(&plan).len(), state(&plan, 0)), (0, (0, true, false)));
    let long_dead =
        |case: &mut Case| case.input.facts.dead[0].died = testing::now() - WAIT_FOR_CONTROLLER;
    let case = one_dead().with(long_dead).seeing(vec![from(A)]).with(ambiguous);
    assert_eq!(state(&case.plan(), 0), (0, false, false));
}

/// Two pods had this port one after the other.
#[test]
fn an_entry_is_contested_for_the_last_one_that_had_its_token() {
    let for_whom = |contested: &[DeadId]| {
        let contested = contested.to_vec();
        let case = case(&[A, A, A], RegisterSource::None);
        let later = |case: &mut Case| case.input.facts.dead[1].died = testing::ago(30);
        let case = case.with(later).seeing(vec![from(A)]);
        let case = case.with(|case| case.scan.candidates[0].contested = contested);
        let plan = case.plan();
        let kept = plan.targets.values().map(|of| of.kept.get("contested").copied().unwrap_or(0));
        (plan.delete.first().map(|planned| planned.target), kept.sum::<u64>())
    };
    let last = Some(Some(TargetId(1)));
    assert_eq!(for_whom(&[]), (last, 0));
    assert_eq!(for_whom(&[DeadId(0), DeadId(2)]), (last, 0));
    assert_eq!(for_whom(&[DeadId(1)]), (None, 1));
}

#[test]
fn a_port_without_a_number_leaves_the_numbers_of_the_dead_unsettled() {
    let unassigned = |case: &mut Case| case.input.facts.ports.unassigned = true;
    let case = one_dead().with(unassigned).seeing(vec![from(A)]);
    let plan = case.plan();
    assert_eq!((deleted(&plan).len(), state(&plan, 0)), (0, (0, true, true)));
}

#[test]
fn observe_mode_a_pause_and_a_dry_run_withhold_what_is_stale() {
    type Change = fn(&mut Orders);
    let table: [(Change, Withholding, bool); 4] = [
        (|orders| orders.observe = vec![true].into(), Withholding::Observe, true),
        (|orders| orders.paused = true, Withholding::Paused, true),
        (|orders| orders.dry_run = true, Withholding::DryRun, false),
        // A dry run says what an operator withholds.
        (
            |orders| (orders.dry_run, orders.observe) = (true, vec![true].into()),
            Withholding::Observe,
            true,
        ),
    ];
    for (change, why, waits) in table {
        let case = one_dead().seeing(vec![from(A)]).with(|case| change(&mut case.orders));
        let plan = case.plan();
        assert!(plan.delete.is_empty(), "{why:?}");
        let found: Vec<_> = plan.withhold.iter().map(|(_, why)| *why).collect();
        assert_eq!(found, [why]);
        assert_eq!(state(&plan, 0), (1, false, false), "{why:?}");
        let mut on = crate::reconcile::BridgeOutcome::new("br0");
        on.planned(&plan);
        assert_eq!((on.counts.stale, on.counts.observed), (1, u64::from(waits)), "{why:?}");
        assert_eq!(on.targets[&TargetId(0)].waiting, waits, "{why:?}");
    }
}

#[test]
fn a_port_that_is_nobodys_is_dangling_and_goes_where_that_is_wanted() {
    let case = one_dead().seeing(vec![from(99)]);
    let plan = case.plan();
    assert_eq!((plan.dangling, deleted(&plan).len()), (1, 0));
    assert_eq!(plan.kept.values().sum::<u64>(), 1);
    let reaps = |case: &mut Case| case.input.facts.networks[0].reap_dangling = true;
    let case = one_dead().with(reaps).seeing(vec![from(99)]);
    let plan = case.plan();
    assert_eq!((plan.dangling, deleted(&plan)), (1, vec![&from(99)]));
    assert_eq!(plan.delete[0].target, None);
    // It may be of any network on the bridge: one that observes keeps it.
    let case = case.with(|case| case.orders.observe = vec![true].into());
    assert_eq!(case.plan().withhold.len(), 1);
}

#[test]
fn two_of_the_dead_that_had_one_value_wait_together() {
    let source = RegisterSource::Learn { distinct_seen: true, shared_seen: false };
    let one_value = |case: &mut Case| {
        case.input.facts.dead.iter_mut().for_each(|dead| dead.register = Some(7));
    };
    let case = case(&[A, C], source).with(one_value).seeing(vec![of_value(7)]);
    let plan = case.plan();
    assert_eq!(deleted(&plan).len(), 0);
    assert_eq!((state(&plan, 0), state(&plan, 1)), ((0, true, false), (0, true, false)));
}

#[test]
fn details_name_each_stale_and_kept_entry_with_its_pod() {
    let entries = vec![from(A), from(13), from(99)];
    let case = one_dead().seeing(entries).with(|case| case.orders.details = true);
    let plan = case.plan();
    let found: Vec<_> = plan.details.iter().map(|flow| (flow.stale, flow.pod.as_deref())).collect();
    assert_eq!(found, [(true, Some("net/c0:eth0")), (false, None)]);
    assert!(plan.details.iter().all(|flow| flow.bridge == "br0"));
}
