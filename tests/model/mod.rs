//! The model test: a reference model of a node, walked at random, against the real engine.

pub(crate) mod bridges;
pub(crate) mod controllers;
pub(crate) mod entries;
pub(crate) mod examples;
pub(crate) mod node;
pub(crate) mod oracle;
pub(crate) mod pure;
pub(crate) mod run;
pub(crate) mod steps;
pub(crate) mod switch;

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use crate::rig::{Node, Who};
use bridges::Bridges;
use controllers::{Layout, ODDITIES, machine, member, odd, operator, rule, service};
use entries::Line;
use node::Model;
use oracle::{Exception, Tally};
use ovs_flow_gc::config::bridge_socket;
use ovs_flow_gc::model::flow::{AddressMatch, Flow};
use ovs_flow_gc::openflow::{Connection, Filter, RawEntry};
use ovs_flow_gc::util::clock::{BootTime, Deadline};
use pure::Sim;
use run::{Ran, Walk, Walks, asked, run, seed_or, walk};
use steps::{Pause, Step, When};
use switch::Switch;

fn take_pure(it: &Walk) -> (u64, Tally, Result<(), String>) {
    let mut model = Model::new(Sim::with(it.bridges, it.layout, it.small, it.kernel), it.layout);
    model.may_forget = it.may_forget;
    let taken = walk(&mut model, &it.steps);
    (model.steps, model.tally, taken)
}

/// Steps of the pure variant from each seed. `OFG_MODEL_STEPS` asks for more.
const PURE: u64 = 100_000;
/// A million steps, from seeds of which most once found something: docs/promises.md, "How far the
/// model is trusted". `OFG_SEED=clock`, as tests/nightly.sh has it, makes up new walks.
const SEEDS: [u64; 10] = [4, 7, 13, 25, 1002, 1022, 1040, 2021, 310_957_151, 522_987_682];

/// Walks of the pure variant from each of these seeds.
fn pure_walks(name: &str, which: Walks, seeds: &[u64]) -> Ran {
    let steps = asked("OFG_MODEL_STEPS", PURE);
    let seeds = if std::env::var_os("OFG_SEED").is_some() { &[0] } else { seeds };
    let mut ran = Ran::default();
    for seed in seeds {
        ran.add(&run(name, which, seed_or(*seed), steps, 120, 3_000, take_pure));
    }
    ran.tell(name);
    ran
}

#[test]
fn pure() {
    let ran = pure_walks("pure", Walks::Plain, &SEEDS);
    ran.must_have_met(&Exception::of_one_bridge(), 1);
}

/// Seeds of wide walks, of which some once found something.
const WIDE: [u64; 4] = [1, 2, 3, 5];

/// With what others do on a node and in its pipelines.
#[test]
fn pure_wide() {
    let ran = pure_walks("pure wide", Walks::Wide, &WIDE);
    ran.must_have_met(&Exception::of_one_bridge(), 1);
}

/// The same on two bridges, where a port number is two pods'.
#[test]
fn pure_two_bridges() {
    let ran = pure_walks("pure two bridges", Walks::TwoBridges, &WIDE);
    ran.must_have_met(&Exception::ALL, 1);
}

/// The same where the records are lost and made anew from what libcni and the CNI remember. Only the
/// living are watched: nobody knows the dead of before.
#[test]
fn pure_forgetful() {
    let ran = pure_walks("pure forgetful", Walks::Forgetful, &WIDE);
    ran.must_have_met(&[], 0);
}

/// Found by `pure`: our ADD judged a pod that had died long ago, and took a policy's member from
/// whoever comes after the address's last owner, who had just died. He was not judged.
#[test]
fn the_latest_death_of_an_address_counts() {
    let plug = |number, address, value| Step::Plug {
        number,
        address,
        value,
        when: When::Usual,
        slow: false,
    };
    let add = |crash| Step::Add { pod: 0, crash, meanwhile: Vec::new() };
    let del = |pod| Step::Del { pod, crash: 0, meanwhile: Vec::new() };
    let steps = [
        // Port 2, 10.244.1.2; and a peer.
        plug(0, 0, 0),
        add(0),
        plug(0, 0, 0),
        add(0),
        Step::Member { pod: 0, peer: 0, kind: 0 },
        del(0),
        Step::Unplug { pod: 0 },
        Step::Wait { pause: Pause::Short },
        // Port 4, the same address. Its ADD fails when it has a record.
        plug(1, 0, 0),
        Step::Wait { pause: Pause::Linger },
        add(2),
        del(1),
        // Port 2, another address.
        plug(0, 0, 0),
        add(0),
    ];
    let layout = Layout::Classifier;
    let mut model = Model::new(Sim::new(layout, true, false), layout);
    for step in &steps {
        model.step(step).unwrap();
    }
    let tokens = |id: usize| (model.pods[id].who.ofport, model.pods[id].who.ip.as_str());
    let pods = [tokens(0), tokens(2), tokens(3)];
    assert_eq!(pods, [(2, "10.244.1.2"), (4, "10.244.1.2"), (2, "10.244.1.4")]);
    let member = "table=20, priority=200,ip,nw_src=10.244.1.2";
    assert!(model.table.contains_key(member), "{:#?}", model.history);
}

/// Found by `pure_two_bridges` and `pure_wide`: entries that were left for what the call could not
/// know. On the second bridge: the value of a living pod, which the first one was about to show. At a
/// DEL: that one of two pods with the same value was gone. After a crash: on which bridge a pod without
/// a record was, whose value is on record.
#[test]
fn what_a_call_could_not_know_explains_what_is_left() {
    let plug = |number, value, when| Step::Plug { number, address: 0, value, when, slow: false };
    let quick = |value| plug(0, value, When::Quick);
    let machine = |value| Step::Machine { number: 0, address: 0, value, when: When::Usual };
    let add = |pod, meanwhile| Step::Add { pod, crash: 0, meanwhile };
    let del = |pod, crash| Step::Del { pod, crash, meanwhile: Vec::new() };
    let unknown = vec![
        quick(0),
        plug(0, 0, When::Usual),
        plug(128, 0, When::Quick),
        quick(0),
        add(11, Vec::new()),
        add(42, Vec::new()),
        Step::Rule { pod: 136, peer: 2, kind: 253 },
        Step::Wait { pause: Pause::Long },
        Step::Reap { pod: 31 },
        del(11, 2),
        Step::Sweep { hasty: false, crash: 0, meanwhile: Vec::new() },
    ];
    let gone = vec![
        machine(1),
        machine(6),
        quick(41),
        add(52, Vec::new()),
        quick(255),
        add(92, vec![quick(0)]),
        del(11, 0),
        add(1, Vec::new()),
        Step::Operator { kinds: 1 },
        add(0, vec![del(48, 0)]),
        add(0, Vec::new()),
        Step::Vanish { pod: 13, row: false },
        Step::Slot { value: 16, when: When::Usual },
        add(0, Vec::new()),
        Step::Wait { pause: Pause::Short },
        del(166, 0),
    ];
    let no_bridge = vec![
        Step::Slot { value: 1, when: When::Usual },
        machine(170),
        plug(128, 162, When::Quick),
        Step::Install { pod: 1 },
        add(95, Vec::new()),
        Step::Del { pod: 76, crash: 4, meanwhile: vec![Step::Vanish { pod: 11, row: false }] },
        Step::Unplug { pod: 0 },
        add(0, Vec::new()),
        quick(0),
        quick(0),
    ];
    let walks = [(Bridges::Named, unknown), (Bridges::One, gone), (Bridges::Apart, no_bridge)];
    for (bridges, steps) in walks {
        let layout = Layout::Classifier;
        let mut model = Model::new(Sim::with(bridges, layout, false, false), layout);
        walk(&mut model, &steps).unwrap();
    }
}

/// Found by `pure_two_bridges`: who is outside our chain had an address, and after him another one on the
/// other bridge, whose port's row was left behind. A rule of the first one's for a dead pod may be the
/// second one's, by the value that is computed from the address.
#[test]
fn an_address_is_somebodys_until_the_row_that_names_it_is_gone() {
    let unrecorded_port =
        |number| Step::UnrecordedPort { number, address: 0, value: 0, marked: true };
    let steps = [
        unrecorded_port(128),
        Step::Plug { number: 0, address: 0, value: 0, when: When::Quick, slow: false },
        Step::Add { pod: 0, crash: 0, meanwhile: Vec::new() },
        Step::Rule { pod: 0, peer: 0, kind: 1 },
        Step::Leave { pod: 0 },
        unrecorded_port(0),
        Step::Vanish { pod: 1, row: true },
        Step::Del { pod: 0, crash: 0, meanwhile: Vec::new() },
    ];
    let layout = Layout::Ipv4;
    let mut model = Model::new(Sim::with(Bridges::Named, layout, false, false), layout);
    walk(&mut model, &steps).unwrap();
    let text = "table=47, priority=71,ip,reg0=0xaf40102,nw_dst=10.244.1.3";
    assert!(model.table.contains_key(&Line::slot(1, text)), "{:#?}", model.history);
}

/// Found by `pure_two_bridges`: a sweep took what stood under a number that its pod did not have any
/// more, and had it again before the sweep was done with the other bridge.
#[test]
fn what_goes_before_a_number_comes_back_is_nobodys() {
    let plug =
        |address| Step::Plug { number: 3, address, value: 0, when: When::Quick, slow: false };
    let renumber = |number| Step::Renumber { pod: 0, number };
    let sweep = |meanwhile| Step::Sweep { hasty: false, crash: 0, meanwhile };
    let add = || Step::Add { pod: 0, crash: 0, meanwhile: Vec::new() };
    let entry = "table=10, priority=50,in_port=5 actions=drop";
    // Every other call goes over the first bridge before the second number changes.
    for before in [vec![], vec![sweep(Vec::new())]] {
        let mut steps = vec![plug(0), add()];
        steps.extend([Step::Del { pod: 0, crash: 0, meanwhile: Vec::new() }]);
        steps.extend([Step::Unplug { pod: 0 }, plug(1), add()]);
        steps.extend(before);
        steps.push(renumber(5));
        let layout = Layout::Classifier;
        let mut model = Model::new(Sim::with(Bridges::Named, layout, false, false), layout);
        steps.iter().for_each(|step| model.step(step).unwrap());
        assert_eq!((model.pods[0].numbers.first(), model.pods[1].number), (Some(&5), Some(7)));
        assert!(model.table.values().any(|left| left.line.text == entry));
        model.step(&sweep(vec![renumber(3)])).unwrap();
        assert_eq!(model.pods[1].number, Some(5));
    }
}

/// docs/promises.md names the model's exceptions and no others, each with its entry.
#[test]
fn the_promises_page_has_every_exception() {
    let page = include_str!("../../docs/promises.md");
    let named: BTreeSet<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("### ")?.strip_prefix('`')?.strip_suffix('`'))
        .map(str::to_owned)
        .collect();
    let known = Exception::ALL.map(Exception::name);
    assert_eq!(named, BTreeSet::from(known));
    for exception in Exception::ALL {
        let (_, _, entry) = examples::of(exception);
        let (_, section) = page.split_once(&format!("### `{}`", exception.name())).unwrap();
        let section = section.split("\n### ").next().unwrap();
        assert!(section.contains(entry), "{exception:?}: {entry}");
    }
    let not_shown = Exception::ALL.into_iter().filter(|exception| !examples::show(*exception));
    assert_eq!(not_shown.collect::<Vec<_>>(), []);
}

/// What the model reads in a line is what the engine reads from the wire.
#[test]
fn lines_are_read_as_the_engine_reads_them() {
    let node = switch::node("lines_are_read");
    let who = |n: u8| Who {
        ofport: 2 + u16::from(n),
        reg: 0x1001 + u32::from(n),
        ip: format!("10.244.1.{}", 2 + n),
        ip6: format!("fd00:10:244:1::{:x}", 2 + n),
        mac: format!("0a:58:0a:f4:01:{:02x}", 2 + n),
    };
    let (mut compared, pods) = (0, [who(0), who(1)]);
    for layout in Layout::WIDE {
        let mut lines = layout.base();
        lines.extend(operator());
        for pod in &pods {
            lines.extend(layout.of_pod(pod));
            lines.extend(layout.of_neighbour(pod, true));
            lines.extend((0..ODDITIES).map(|kind| odd(pod, kind)));
            lines.extend((0..3).map(|kind| member(&pod.ip, "10.244.1.9", kind)));
            lines.push(service(u8::try_from(pod.ofport).unwrap(), pod));
            let (ip, mac) = ("10.244.1.9", "0a:58:0a:f4:01:09");
            lines.extend((0..8).map(|n| rule(pod, ip, mac, n, n < 4)));
            lines.extend(machine(&pod.ip, &pod.mac));
        }
        let lines: BTreeSet<String> = lines.into_iter().collect();
        node.ofctl(&["del-flows", "br0"]);
        node.add_flows("br0", &lines.iter().collect::<Vec<_>>());
        assert_eq!(BTreeSet::from_iter(node.dump("br0")), lines, "{layout:?}");
        let deadline = Deadline::after(Duration::from_secs(10));
        let mut bridge =
            Connection::open(&bridge_socket(&node.run_dir, "br0").unwrap(), deadline).unwrap();
        let mut seen = Vec::new();
        let mut see = |_: usize, _: &RawEntry<'_>, flow: &mut Flow| {
            seen.push(sorted(Flow { made: BootTime::default(), ..flow.clone() }));
        };
        bridge.dump_many(&[Filter::default()], &mut see).unwrap();
        assert_eq!(seen.len(), lines.len());
        for line in &lines {
            let flow = sorted(Line::of(line).flow.clone());
            let near = seen.iter().filter(|f| (f.table, f.priority) == (flow.table, flow.priority));
            assert!(seen.contains(&flow), "{line}: {flow:?}\n{:#?}", near.collect::<Vec<_>>());
            compared += 1;
        }
    }
    eprintln!("model: {compared} lines are read as the engine reads them");
    assert!(compared > 100);
}

fn sorted(mut flow: Flow) -> Flow {
    let key = |m: &AddressMatch| format!("{m:?}");
    flow.matches.addresses.sort_by_key(key);
    flow.matches.registers.sort_by_key(|m| m.index);
    flow
}

fn take_switch(node: &Node, it: &Walk) -> (u64, Tally, Result<(), String>) {
    let mut model = Model::new(Switch::new(node, it.layout, it.bridges), it.layout);
    let taken = walk(&mut model, &it.steps);
    (model.steps, model.tally, taken)
}

/// Steps of the variant on the switch, and nodes at once. `OFG_MODEL_SWITCH_STEPS` and
/// `OFG_MODEL_NODES` ask for more.
const SWITCH: u64 = 600;
const NODES: u64 = 2;

#[test]
fn switch() {
    let (steps, nodes) = (asked("OFG_MODEL_SWITCH_STEPS", SWITCH), asked("OFG_MODEL_NODES", NODES));
    let one = |n: u64| {
        let name = format!("switch {n}");
        let node = switch::node(&name);
        let walks = if n.is_multiple_of(2) { Walks::Wide } else { Walks::TwoBridges };
        run(&name, walks, seed_or(11 + n), steps / nodes, 60, 60, |it| take_switch(&node, it))
    };
    let one = &one;
    let all: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> = (0..nodes).map(|n| scope.spawn(move || one(n))).collect();
        running.into_iter().map(|node| node.join().unwrap()).collect()
    });
    let mut ran = Ran::default();
    for one in all {
        ran.add(&one);
    }
    ran.tell("switch");
    ran.must_have_met(&[Exception::NeverRecorded, Exception::ValueUnproven], 1);
}
