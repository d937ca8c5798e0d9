//! Numbers that changed hands while their owners lived, and flows that nobody adapted.

use super::*;
use crate::judge::{NotProven, Reason};

const ID_A: u32 = 4101;
const ID_B: u32 = 4102;
const OLD: u16 = 30;

fn classifier(port: u16, id: u32) -> Flow {
    flow().table(0).from(port).load(0, id).beyond()
}

/// Only this address may send from the port.
fn guard(port: u16, address: &str) -> Flow {
    flow().from(port).src(address).beyond()
}

/// `a` had port 30 before.
fn moved(source: RegisterSource) -> JudgeInput {
    node(source).with(|c| c.dead[0].previous_ofports = vec![OLD])
}

/// `a` and `b` have exchanged their numbers: 12 is the living one's.
fn exchanged() -> JudgeInput {
    node(LEARN).with(|c| {
        (c.dead[0].ofport, c.dead[0].previous_ofports) = (Some(B), vec![A]);
        (c.live[0].ofport, c.live[0].previous_ofports) = (Some(A), vec![B]);
        c.ports.by_number.insert(A, RowId(B.into()));
        c.ports.by_number.remove(&B);
    })
}

#[test]
fn a_number_it_had_before() {
    let old = || flow().from(OLD);
    let rows = [
        ("matches it", old(), "stale: matches-port"),
        ("delivers to it", flow().dst(IP_A).output(OLD), "stale: matches-address"),
        ("a service's", flow().dst("10.9.9.9").output(OLD), "kept: only-mentions"),
    ];
    each(&moved(RegisterSource::None), &rows);
    // It is somebody's now.
    let taken = moved(RegisterSource::None).and_live(live(OLD, &["10.0.0.7"]));
    each(
        &taken,
        &[
            ("matches it", old(), "kept: has-live-owner"),
            ("and the dead address", old().src(IP_A), "stale: matches-address"),
            ("and a live one", old().src("10.0.0.7"), "kept: has-live-owner"),
            ("delivers to it", flow().dst(IP_A).output(OLD), "kept: outputs-to-live-port"),
        ],
    );
    // Somebody alive had it, too, and flows may still mean that one.
    let shared = moved(RegisterSource::None).with(|c| c.live[0].previous_ofports = vec![OLD]);
    each(&shared, &[("matches it", old(), "kept: has-live-owner")]);
}

/// The port row of somebody alive is gone for the moment (`del-port`, `add-port`). A dead one, who is
/// remembered, had its number before it; not after it, and not still.
#[test]
fn a_number_that_somebody_alive_lost_with_its_row() {
    let own = || flow().from(A).aged(30);
    let older = || flow().from(A).aged(50);
    let successor = Live {
        ofport: None,
        without_port: true,
        previous_ofports: vec![A],
        born: Some(ago(40)),
        held_number: Some(ago(40)),
        ..live(A, &["10.0.0.7"])
    };
    let rows = |of_now: &'static str| {
        [
            ("made in the living one's time", own(), of_now),
            ("older", older(), "stale: matches-port"),
        ]
    };
    let lost = plain().and_live(successor.clone());
    each(&lost, &rows("kept: has-live-owner"));
    let never_had = plain().and_live(Live { previous_ofports: Vec::new(), ..successor.clone() });
    each(&never_had, &rows("stale: matches-port"));
    // The dead one had it last: what was made before that one came is the living one's still.
    let older_pod =
        Live { born: Some(ago(90_000)), held_number: Some(ago(90_000)), ..successor.clone() };
    let before = plain().and_live(older_pod.clone());
    each(&before, &[("made later", own(), "stale: matches-port")]);
    let meanwhile = flow().from(A).aged(88_000);
    each(&before, &[("made before", meanwhile, "kept: has-live-owner")]);
    // It was given the number later than the dead one, though it is older.
    let attached = Live { held_number: Some(ago(40)), ..older_pod.clone() };
    each(&plain().and_live(attached), &[("made later", own(), "kept: has-live-owner")]);
    // Nobody saw it have the number, but the entry names it.
    let unseen = Live { previous_ofports: Vec::new(), register: LiveRegister::Is(7), ..older_pod };
    let named = [
        ("its address", flow().from(A).src("10.0.0.7").aged(30), "kept: has-live-owner"),
        ("as the destination", flow().from(A).dst("10.0.0.7").aged(30), "stale: matches-port"),
    ];
    each(&plain().and_live(unseen.clone()), &named);
    let valued = [
        ("its value", classifier(A, 7).aged(30), "kept: has-live-owner"),
        ("another value", classifier(A, 8).aged(30), "stale: matches-port"),
    ];
    each(&node(RegisterSource::Pod).and_live(unseen), &valued);
    let held = plain().and_live(successor).with(|c| {
        c.ports.by_number.insert(A, c.dead[0].interface.unwrap());
    });
    each(&held, &rows("stale: matches-port"));
}

/// The number of somebody alive whose row is gone for the moment, beside an address of a dead one who
/// never had it: what that one may do, or what is sent to it.
#[test]
fn a_lost_number_beside_an_address_of_the_dead() {
    const LOST: u16 = 40;
    let gone = Live {
        ofport: None,
        without_port: true,
        previous_ofports: vec![LOST],
        ..live(LOST, &["10.0.0.7"])
    };
    let rows = |from: &'static str, to: &'static str, sent: &'static str| {
        [
            ("to the dead one", flow().from(LOST).dst(IP_A), from),
            ("from it", flow().from(LOST).src(IP_A), sent),
            ("from it to the lost port", flow().src(IP_A).output(LOST), to),
        ]
    };
    let kept = rows(
        "kept: belongs-to-a-live-pod",
        "kept: outputs-to-live-port",
        "kept: arrives-elsewhere",
    );
    let stale = rows("stale: matches-address", "stale: matches-address", "stale: matches-address");
    each(&plain().and_live(gone.clone()), &kept);
    // Somebody who is alive has it again.
    each(&plain().and_live(live(LOST, &["10.0.0.7"])), &kept);
    // The dead one had it, too: it is not known to be the living one's.
    let both = plain().and_live(gone.clone()).with(|c| c.dead[0].previous_ofports = vec![LOST]);
    let output = [("to the lost port", flow().src(IP_A).output(LOST), "stale: matches-address")];
    each(&both, &output);
    // Nobody alive had it.
    each(&plain().and_live(Live { previous_ofports: Vec::new(), ..gone }), &stale);
}

#[test]
fn what_a_live_record_explains_is_not_dangling() {
    let input = plain().with(|c| c.networks[0].reap_dangling = true);
    each(&input, &[("nobody's", flow().from(OLD), "stale: dangling")]);
    let input = input.with(|c| c.live[0].previous_ofports = vec![OLD]);
    each(&input, &[("b's before", flow().from(OLD), "kept: nothing-dead")]);
}

#[test]
fn exchanged_numbers_teach_nothing_until_somebody_is_known() {
    let (not_adapted, adapted) =
        ([classifier(A, ID_A), classifier(B, ID_B)], [classifier(A, ID_B), classifier(B, ID_A)]);
    let policies = [flow().table(20).reg(0, ID_A), flow().table(20).reg(0, ID_B)];
    let judged = |input: &JudgeInput, flows: &[Flow]| -> Vec<bool> {
        let all = [flows, &policies[..]].concat();
        verdicts(input, &all)[flows.len()..].iter().map(|v| v.stale).collect()
    };
    // Both dumps look alike; only one of the two policies is a's.
    assert_eq!(judged(&exchanged(), &not_adapted), [false, false]);
    assert_eq!(judged(&exchanged(), &adapted), [false, false]);
    let known = exchanged().with(|c| {
        c.dead[0].register = Some(ID_A);
        c.live[0].register = LiveRegister::Is(ID_B);
    });
    // b's packets still get a's value.
    assert_eq!(judged(&known, &not_adapted), [false, false]);
    assert_eq!(judged(&known, &adapted), [true, false]);
    for flows in [&not_adapted, &adapted] {
        let learned = survey(&known, flows);
        assert!(!learned.networks[0].shared_seen, "an exchange is no sharing");
    }
    assert_eq!(*survey(&known, &not_adapted).live_registers, [None], "nothing to unlearn");
}

/// Found by tests/model: whoever had the number before may be long forgotten, and its flow
/// still there; at the death of another one with that value a living pod's entries went.
#[test]
fn a_changed_number_teaches_nothing() {
    let input = node(LEARN).with(|c| {
        (c.dead[0].ofport, c.dead[0].previous_ofports) = (Some(41), vec![A]);
        (c.live[0].ofport, c.live[0].previous_ofports) = (Some(40), vec![B]);
        c.ports.by_number.remove(&B);
        c.ports.by_number.insert(40, RowId(B.into()));
    });
    let guards = [guard(41, IP_A), guard(40, IP_B), guard(A, IP_A), guard(B, IP_B)];
    for loads in
        [[classifier(41, ID_A), classifier(40, ID_B)], [classifier(A, ID_A), classifier(B, ID_B)]]
    {
        let learned = survey(&input, &[&loads[..], &guards].concat());
        assert_eq!(*learned.dead_registers, [None]);
        assert_eq!(*learned.live_registers, [None]);
    }
}

/// Found by tests/model: a slow controller puts a dead pod's flow back, under the number that
/// a younger pod has by now, and the next scan took its value for that pod's.
#[test]
fn what_is_put_back_under_a_newer_owners_number_shows_nothing_of_it() {
    let input = node(LEARN)
        .with(|c| c.dead[0].register = Some(ID_A))
        .and_live(Live { born: Some(ago(30)), ..live(A, &["10.0.0.7"]) });
    let learned = survey(&input, &[classifier(A, ID_A).aged(10)]);
    assert_eq!(*learned.live_registers, [None, None]);
    let again = [classifier(A, ID_A).aged(10), guard(A, IP_A), guard(A, "10.0.0.7").aged(10)];
    let learned = survey(&input, &again);
    assert_eq!(*learned.live_registers, [None, Some(ID_A)], "it was given the same value");
    let learned = survey(&input, &[classifier(A, 9).aged(10)]);
    assert_eq!(*learned.live_registers, [None, Some(9)], "its own");
}

/// Found by tests/model: the dead pod had the younger one's address, too, or nobody knew its
/// addresses. All that was put back of it named the younger one, who seemed to have its value.
/// Another dead pod had the younger one's own, which then seemed to be nobody's.
#[test]
fn what_is_put_back_may_name_the_newer_owner_by_the_dead_ones_address() {
    let input = |dead: Dead| {
        node(LEARN)
            .with(|c| c.dead[0] = Dead { register: Some(ID_A), ..dead })
            .and_live(Live { born: Some(ago(30)), ..live(A, &[IP_A]) })
    };
    let unrecorded = Dead { recorded: false, ..dead(A, &[]) };
    for dead_before in [dead(A, &[IP_A]), unrecorded] {
        let again = [classifier(A, ID_A).aged(10), guard(A, IP_A).aged(10)];
        let learned = survey(&input(dead_before.clone()), &again);
        assert_eq!(*learned.live_registers, [None, None]);
        // Its own classifier is left under the number that it had before.
        let input = input(dead_before).with(|c| {
            c.dead.push(Dead { register: Some(9), ..dead(41, &["10.0.0.8"]) });
            c.live[0].register = LiveRegister::Is(ID_B);
        });
        let own = flow().table(20).reg(0, 9).aged(10);
        each(&input, &[("its own", own.clone(), "kept: register-not-proven")]);
        let wrong = input.with(|c| c.live[1].register = LiveRegister::Is(ID_A));
        each(&wrong, &[("the other dead one's", own, "stale: matches-register")]);
    }
}

/// Found by `one_more_live_attachment_never_condemns`: whoever is born with a number says
/// nothing of flows that are older.
#[test]
fn a_newborn_owner_does_not_end_what_one_before_may_mean() {
    let input = node(LEARN).with(|c| {
        c.dead[0].register = Some(ID_A);
        c.dead[0].previous_ofports = vec![OLD];
        c.live[0].previous_ofports = vec![OLD];
    });
    let flows = [classifier(B, ID_B), flow().from(OLD).load(0, ID_A).beyond()];
    let newborn =
        Live { born: Some(ago(5)), register: LiveRegister::Is(9), ..live(OLD, &["10.0.0.7"]) };
    let knows_b = input.clone().with(|c| c.live[0].register = LiveRegister::Unknown);
    for input in [knows_b.clone(), knows_b.and_live(newborn)] {
        assert!(!verdicts(&input, &flows)[1].stale);
    }
}

/// An orphan that nobody has noticed lost its row; the next pod had its number, and is dead
/// now. That pod's flow does not show the orphan's value: it is unknown, and worth waiting for.
#[test]
fn who_lost_the_number_with_its_row_does_not_claim_the_next_ones_value() {
    let ghost = Live { ofport: None, previous_ofports: vec![A], ..live(A, &["10.0.0.7"]) };
    let input = node(LEARN).with(|c| c.live.push(ghost));
    let flows = [classifier(A, ID_A), classifier(B, ID_B), flow().table(20).reg(0, ID_A)];
    match verdicts(&input, &flows)[2].reason {
        Reason::RegisterNotProven { why, .. } => assert_eq!(why, NotProven::LiveUnknown(LiveId(1))),
        other => panic!("{other}"),
    }
    let mut survey = Survey::new(&input);
    assert_eq!(flows.map(|flow| survey.see(&flow)), [true, false, true], "scanned again");
}

/// Both numbers are new since so long; the living one had the dead one's before, and vice versa.
fn exchanged_since(since: u64) -> JudgeInput {
    exchanged().with(|c| {
        c.dead[0].number_since = Some(ago(since));
        c.live[0].number_since = Some(ago(since));
    })
}

#[test]
fn what_was_made_after_a_number_changed_means_its_owner_of_now() {
    let adapted = [classifier(A, ID_B), classifier(B, ID_A)];
    let learned = |since| {
        let learned = survey(&exchanged_since(since), &adapted);
        (learned.dead_registers[0], learned.live_registers[0])
    };
    assert_eq!(learned(7300), (Some(ID_A), Some(ID_B)));
    assert_eq!(learned(7200), (None, None), "made before it, perhaps");
    let policies = [flow().table(20).reg(0, ID_A), flow().table(20).reg(0, ID_B)];
    let found = verdicts(&exchanged_since(7300), &[&adapted[..], &policies].concat());
    assert_eq!([found[2].stale, found[3].stale], [true, false]);
    // The number is two dead pods': whose entry it is nobody knows.
    let twice = exchanged_since(7300).with(|c| c.dead.push(dead(B, &[])));
    assert_eq!(survey(&twice, &adapted).dead_registers[0], None);
}

/// The numbers are as old as ovs-vswitchd: restored entries are younger, and mean the owners of
/// before.
#[test]
fn a_start_of_the_switch_may_be_followed_by_restored_entries() {
    let input = || exchanged_since(7210).with(|c| c.switch_started = Some(ago(7210)));
    let (not_adapted, adapted) =
        ([classifier(A, ID_A), classifier(B, ID_B)], [classifier(A, ID_B), classifier(B, ID_A)]);
    let (old, new) = ([guard(A, IP_A), guard(B, IP_B)], [guard(A, IP_B), guard(B, IP_A)]);
    let learned = |flows: &[Flow]| {
        let all = survey(&input(), flows);
        let reversed: Vec<Flow> = flows.iter().rev().cloned().collect();
        let again = survey(&input(), &reversed);
        assert_eq!(all.dead_registers, again.dead_registers, "the order of the dump matters");
        (all.dead_registers[0], all.live_registers[0])
    };
    assert_eq!(learned(&adapted), (None, None), "restored, perhaps");
    assert_eq!(learned(&[&not_adapted[..], &old].concat()), (None, None), "restored");
    assert_eq!(learned(&[&adapted[..], &new].concat()), (Some(ID_A), Some(ID_B)));
    let one = learned(&[&adapted[..], &new[1..]].concat());
    assert_eq!(one, (None, None), "under a's number of before there may be its value");
    // The controller comes 5 s after the restore, and its guards before its classifiers.
    let late = new.clone().map(|flow| flow.aged(7195));
    assert_eq!(learned(&[&not_adapted[..], &late].concat()), (None, None), "restored");
    // Found by tests/model: the number's owner of before has the dead one's address by now.
    let shares = input().with(|c| c.live[0].addresses.push(address(IP_A)));
    let restored = [classifier(A, ID_A), classifier(B, ID_B), guard(B, IP_A)];
    assert_eq!(*survey(&shares, &restored).dead_registers, [None]);
    // Long after the start nobody restores anything, but this number may have changed since.
    let later = [classifier(A, ID_B).aged(60), classifier(B, ID_A).aged(60)];
    assert_eq!(learned(&later), (None, None));
}

/// Found by tests/model: a pod that nobody remembers had the number and the address which one
/// pod has by now. What is left of it named that pod beside its new number, whose restored entry
/// loads the value of the number's owner of before.
#[test]
fn who_is_delivered_to_at_another_port_is_not_named_by_restored_entries() {
    let input = || exchanged_since(7210).with(|c| c.switch_started = Some(ago(7210)));
    let restored = [classifier(A, ID_A), classifier(B, ID_B), guard(A, IP_A), guard(B, IP_B)];
    let adapted = [classifier(A, ID_B), classifier(B, ID_A)];
    let left = [guard(A, IP_B), guard(B, IP_A)];
    let delivers = |a: u16, b: u16| [flow().dst(IP_A).output(a), flow().dst(IP_B).output(b)];
    let learned = |flows: &[&[Flow]]| {
        let all = survey(&input(), &flows.concat());
        (all.dead_registers[0], all.live_registers[0])
    };
    let both = (Some(ID_A), Some(ID_B));
    assert_eq!(learned(&[&restored, &left, &delivers(A, B)]), (None, None));
    assert_eq!(learned(&[&adapted, &left, &delivers(B, A)]), both, "its own are adapted");
    assert_eq!(learned(&[&adapted, &left]), both, "this pipeline delivers by other entries");
    // Nobody can have restored this one, but a slow controller may have put it back.
    let later = input().with(|c| c.live[0].number_since = Some(ago(7100)));
    let new = [classifier(A, ID_B).aged(60)];
    let now = |delivers: &[Flow]| survey(&later, &[&new[..], delivers].concat()).live_registers;
    assert_eq!(*now(&delivers(A, B)), [None], "its own are not adapted");
    assert_eq!(*now(&delivers(B, A)), [Some(ID_B)], "its own are adapted");
    assert_eq!(*now(&[]), [Some(ID_B)], "this pipeline delivers by other entries");
    // Part of a dump does not show all that is for the living.
    let input = input();
    let mut part = Survey::partial(&input);
    for flow in [&adapted[..], &left, &delivers(B, A)].concat() {
        part.see(&flow);
    }
    let part = part.finish();
    assert_eq!((part.dead_registers[0], part.live_registers[0]), (None, None));
    // Another dead pod had the living one's value.
    let other = input.with(|c| {
        c.dead.push(Dead { register: Some(ID_B), ..dead(41, &["10.0.0.8"]) });
    });
    let own = [flow().table(20).reg(0, ID_B), restored[0].clone()];
    let found = verdicts(&other, &[&own[..], &left, &delivers(A, B)].concat());
    assert!(!found[0].stale, "the living one's own");
}

/// Found by tests/model.rs: a pod was given another number, and a slow controller put an entry back
/// there for a pod that nobody remembers. The living one seemed to have that one's value, and what
/// its own controller had made under the number before to be of another dead pod.
#[test]
fn what_a_pods_two_numbers_show_must_agree() {
    let since = Some(ago(60));
    let moved = || live(40, &[IP_B]);
    let moved = || Live { previous_ofports: vec![B], number_since: since, ..moved() };
    let later = |more: Dead| {
        let case = node(LEARN).with(|c| (c.dead, c.live) = (vec![more].into(), Vec::new().into()));
        case.with(|c| _ = c.ports.by_number.remove(&B)).and_live(moved())
    };
    let never_there = || dead(41, &[]);
    let learned = |case: &JudgeInput, before: &Flow, now: u32| {
        let flows = [before.clone(), classifier(40, now).aged(10)];
        let learned = survey(case, &flows);
        (learned.live_registers[0], learned.dead_registers[0])
    };
    let own = classifier(B, ID_B);
    assert_eq!(learned(&later(never_there()), &own, ID_B), (Some(ID_B), None), "adapted");
    assert_eq!(learned(&later(never_there()), &own, ID_A), (None, None), "either may be its own");
    let older = own.clone().aged(90_000);
    assert_eq!(learned(&later(never_there()), &older, ID_A), (Some(ID_A), None), "not its own");
    // A dead pod that came to the number later, or had died before the entry was made.
    let young = Dead { born: Some(ago(50)), died: ago(0), seen_alive: ago(0), ..dead(B, &[]) };
    let early = Dead { died: ago(8000), seen_alive: ago(8000), ..dead(B, &[]) };
    for dead in [young, early] {
        let case = later(Dead { interface: None, ..dead });
        assert_eq!(learned(&case, &own, ID_A), (None, None));
        let flows = [own.clone(), classifier(40, ID_A).aged(10), flow().table(20).reg(0, ID_B)];
        assert!(!verdicts(&case, &flows)[2].stale, "the living one's own");
        let known = case.with(|c| c.live[0].register = LiveRegister::Is(ID_A));
        assert_eq!(learned(&known, &own, ID_A).1, Some(ID_B), "nobody's but the dead one's");
    }
}

/// Found by tests/model: a pod had been given another number, and its controller had not noticed.
/// A slow one put an entry back there for a pod that nobody remembers. The living pod seemed to have
/// that one's value, and its own to be the value of a dead pod.
#[test]
fn what_is_put_back_under_a_new_number_before_its_owner_adapts_is_not_the_owners() {
    let input = node(LEARN).with(|c| {
        c.dead[0].register = Some(ID_B);
        (c.live[0].ofport, c.live[0].previous_ofports) = (Some(40), vec![B]);
        c.live[0].number_since = Some(ago(60));
        c.ports.by_number.insert(40, c.ports.by_number[&B]);
        c.ports.by_number.remove(&B);
    });
    let put_back = classifier(40, 77).aged(10);
    // The classifier of its former number has been overwritten.
    let own = [flow().table(20).reg(0, ID_B), flow().dst(IP_B).output(B)];
    let flows = [&own[..], &[put_back]].concat();
    let mut reversed = flows.clone();
    reversed.reverse();
    for flows in [&flows, &reversed] {
        // An adopted pod's record does not know the number before.
        let adopted = input.clone().with(|c| {
            (c.live[0].previous_ofports, c.live[0].unknown_ofports) = (Vec::new(), true);
        });
        for input in [&input, &adopted] {
            assert_eq!(*survey(input, flows).live_registers, [None]);
            assert!(verdicts(input, flows).iter().all(|verdict| !verdict.stale), "the living's");
        }
        let settled = adopted.clone().with(|c| c.live[0].unknown_ofports = false);
        assert_eq!(*survey(&settled, flows).live_registers, [Some(77)]);
    }
    let adapted = [classifier(40, 77).aged(10), flow().dst(IP_B).output(40)];
    assert_eq!(*survey(&input, &adapted).live_registers, [Some(77)]);
}

/// An operator's rules for a slot are older than the pod that has its number and its address.
#[test]
fn what_was_there_before_the_pod_is_not_its_own() {
    let input = node(RegisterSource::Pod).with(|c| {
        c.dead[0].earliest = Some(ago(7000));
        c.dead[0].register = Some(ID_A);
        c.live[0].register = LiveRegister::Is(ID_B);
    });
    let kept = "kept: made-before-birth";
    each(
        &input,
        &[
            ("port", flow().from(A), kept),
            ("address", flow().src(IP_A), kept),
            ("register", flow().reg(0, ID_A), kept),
            ("sets it", flow().src("10.9.9.9").load(0, ID_A), kept),
            ("delivery", flow().dst(IP_A).output(A), kept),
            ("pair", flow().from(A).src(IP_A), kept),
            ("its own", flow().from(A).aged(6999), "stale: matches-port"),
            ("its own delivery", flow().dst(IP_A).output(A).aged(6999), "stale: matches-address"),
        ],
    );
    // A classifier of the slot shows nothing of the pod.
    let slot = node(LEARN).with(|c| c.dead[0].earliest = Some(ago(7000)));
    assert_eq!(*survey(&slot, &[classifier(A, ID_A)]).dead_registers, [None]);
    // Who had the number before, and whose end nobody noticed, answers for what he left.
    let before = Dead { earliest: Some(ago(9000)), ..dead(A, &["10.0.0.9"]) };
    let both = input.with(|c| c.dead.push(before));
    each(&both, &[("the earlier one's", flow().from(A), "stale: matches-port")]);
}
