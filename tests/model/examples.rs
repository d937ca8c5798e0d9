//! The exceptions of docs/promises.md, each shown by a short walk. The list is closed: the page
//! names these and no others.

use super::bridges::Bridges;
use super::controllers::Layout;
use super::node::Model;
use super::oracle::Exception;
use super::pure::Sim;
use super::steps::{Pause, Step, When};

const SWEEP: Step = Step::Sweep { hasty: false, crash: 0, meanwhile: Vec::new() };

/// A pod with this port number, address 10.244.1.`address` and value 0x1000 + `value`.
fn plug(number: u8, address: u8, value: u8, when: When) -> Step {
    // The walk picks among what is free: on a node without rows that is everything.
    Step::Plug { number: number - 2, address: address - 2, value: value - 1, when, slow: false }
}

fn add(pod: u8) -> Step {
    Step::Add { pod, crash: 0, meanwhile: Vec::new() }
}

fn del(pod: u8) -> Step {
    Step::Del { pod, crash: 0, meanwhile: Vec::new() }
}

/// One pod, as ADD and its controller leave it: port 2, 10.244.1.2, value 0x1001.
fn one() -> Vec<Step> {
    vec![plug(2, 2, 1, When::Usual), add(0)]
}

fn with(mut steps: Vec<Step>, more: impl IntoIterator<Item = Step>) -> Vec<Step> {
    steps.extend(more);
    steps
}

/// The pod has this oddity, and is gone.
fn odd(kind: u8) -> Vec<Step> {
    with(one(), [Step::Odd { pod: 0, kind }, del(0), Step::Unplug { pod: 0 }, SWEEP])
}

/// A walk that ends in the exception, and the entry that it keeps.
pub(crate) fn of(exception: Exception) -> (Layout, Vec<Step>, &'static str) {
    let classifier = |steps, entry| (Layout::Classifier, steps, entry);
    match exception {
        Exception::NamesNobody => {
            classifier(odd(5), "table=45, priority=66,ip,nw_dst=10.244.1.2/31 actions=drop")
        }
        Exception::OnlyMentions => {
            classifier(odd(4), "table=45, priority=64,tcp,tp_dst=8002 actions=output:2")
        }
        Exception::NeverRecorded => classifier(
            vec![plug(2, 2, 1, When::Quick), Step::Vanish { pod: 0, row: false }, SWEEP],
            "table=10, priority=50,in_port=2 actions=drop",
        ),
        Exception::TooLate => classifier(
            with(
                one(),
                [
                    del(0),
                    Step::Unplug { pod: 0 },
                    // A value that is not proven is waited for longer than the linger time.
                    Step::Wait { pause: Pause::Long },
                    SWEEP,
                    Step::PutBack { pod: 0, some: 0xff },
                    SWEEP,
                ],
            ),
            "table=40, priority=100,ip,nw_dst=10.244.1.2 actions=output:2",
        ),
        Exception::UnknownNumber => classifier(
            with(
                one(),
                [
                    Step::Renumber { pod: 0, number: 1 },
                    Step::Install { pod: 0 },
                    Step::Renumber { pod: 0, number: 2 },
                    Step::Vanish { pod: 0, row: true },
                    SWEEP,
                ],
            ),
            "table=10, priority=50,in_port=3 actions=drop",
        ),
        Exception::UnknownValue => classifier(
            vec![
                plug(2, 2, 1, When::Usual),
                add(0),
                Step::Del { pod: 0, crash: 1, meanwhile: Vec::new() },
                Step::Unplug { pod: 0 },
                plug(2, 3, 2, When::Quick),
                SWEEP,
            ],
            "table=20, priority=100,reg0=0x1001 actions=resubmit(,30)",
        ),
        Exception::ValuesLookShared => classifier(
            with(
                one(),
                [
                    Step::Del { pod: 0, crash: 1, meanwhile: Vec::new() },
                    plug(3, 3, 1, When::Usual),
                    add(0),
                    SWEEP,
                    del(0),
                    del(1),
                    SWEEP,
                ],
            ),
            "table=20, priority=100,reg0=0x1001 actions=resubmit(,30)",
        ),
        Exception::TokenReused => classifier(
            with(one(), [Step::Vanish { pod: 0, row: false }, plug(2, 3, 2, When::Usual), SWEEP]),
            "table=10, priority=50,in_port=2 actions=drop",
        ),
        Exception::MadeAfterDeath => classifier(
            with(
                one(),
                [del(0), Step::PutBack { pod: 0, some: 0xff }, Step::Unplug { pod: 0 }, SWEEP],
            ),
            "table=35, priority=100,ct_state=+est+trk,ct_nw_src=10.244.1.2,ip actions=resubmit(,40)",
        ),
        Exception::MadeBeforeBirth => classifier(
            vec![
                plug(2, 2, 1, When::Quick),
                Step::Vanish { pod: 0, row: false },
                Step::Wait { pause: Pause::Long },
                plug(2, 3, 2, When::Usual),
                add(0),
                del(0),
                Step::Unplug { pod: 0 },
                SWEEP,
            ],
            "table=10, priority=100,ip,in_port=2,dl_src=0a:58:0a:f4:01:02,nw_src=10.244.1.2 \
             actions=resubmit(,20)",
        ),
        Exception::ReachesALivePort => {
            classifier(odd(1), "table=45, priority=61,ip,nw_src=10.244.1.2 actions=output:1")
        }
        Exception::LeavesTheNode => classifier(
            odd(0),
            "table=45, priority=60,ip,nw_dst=10.244.1.2 actions=set_field:0x7->tun_id,resubmit(,46)",
        ),
        Exception::ArrivesElsewhere => {
            classifier(odd(3), "table=45, priority=63,ip,in_port=1,nw_src=10.244.1.2 actions=drop")
        }
        Exception::OvnBridge => (
            Layout::Ovn,
            with(one(), [del(0), Step::Unplug { pod: 0 }, SWEEP]),
            "table=65, priority=100,reg15=0x1001,metadata=0x3 actions=output:2",
        ),
        Exception::OtherBridge => classifier(
            with(one(), [del(0), Step::Unplug { pod: 0 }, SWEEP]),
            "table=50, priority=60,ip,nw_src=10.244.1.2 actions=resubmit(,46)",
        ),
        Exception::PolicyWaits => {
            let mut steps = with(
                one(),
                [
                    plug(3, 3, 2, When::Usual),
                    add(0),
                    Step::Member { pod: 0, peer: 0, kind: 0 },
                    del(0),
                    Step::Unplug { pod: 0 },
                ],
            );
            // The controller knows that nobody has the address, and the linger time is not over.
            steps.extend(vec![Step::Wait { pause: Pause::Short }; 9]);
            classifier(
                with(steps, [SWEEP]),
                "table=20, priority=200,ip,nw_src=10.244.1.2 actions=conjunction(5,1/2)",
            )
        }
        Exception::MayBeArriving => classifier(
            vec![
                plug(2, 2, 1, When::Late),
                add(0),
                plug(3, 3, 2, When::Usual),
                Step::Install { pod: 0 },
                Step::Vanish { pod: 0, row: false },
                SWEEP,
            ],
            "table=35, priority=100,ct_state=+est+trk,ct_nw_src=10.244.1.2,ip actions=resubmit(,40)",
        ),
        Exception::PortWaits => classifier(
            with(
                one(),
                [
                    Step::Plug { number: 0, address: 0, value: 0, when: When::Usual, slow: true },
                    Step::Vanish { pod: 0, row: false },
                    SWEEP,
                ],
            ),
            "table=10, priority=50,in_port=2 actions=drop",
        ),
        Exception::LookedAtInPart => (
            Layout::Antrea,
            with(
                one(),
                [
                    del(0),
                    Step::Unplug { pod: 0 },
                    Step::Sweep { hasty: true, crash: 0, meanwhile: Vec::new() },
                ],
            ),
            "cookie=0x1010000000000, table=80, priority=200,dl_dst=0a:58:0a:f4:01:02 \
             actions=set_field:0x2->reg1,set_field:0x100/0x100->reg0,goto_table:110",
        ),
        Exception::ValueUnproven => classifier(
            with(one(), [del(0), Step::Unplug { pod: 0 }, SWEEP]),
            "table=20, priority=100,reg0=0x1001 actions=resubmit(,30)",
        ),
    }
}

/// Takes the walk; whether the entry is there, and for that reason.
pub(crate) fn show(exception: Exception) -> bool {
    let (layout, steps, entry) = of(exception);
    let bridges = if exception == Exception::OtherBridge { Bridges::Patched } else { Bridges::One };
    let small = exception != Exception::LookedAtInPart;
    let mut model = Model::new(Sim::with(bridges, layout, small, false), layout);
    for step in &steps {
        model.step(step).unwrap();
    }
    let left = model.table.values().find(|left| left.line.text == entry);
    let kept = left.map(|left| left.kept);
    if kept != Some(Some(exception)) {
        eprintln!("{exception:?}, {entry}: {kept:?}: {:#?}", model.history);
    }
    kept == Some(Some(exception))
}
