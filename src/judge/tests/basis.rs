//! Learned values that are found to be pods' own IPv4 addresses or port numbers.

use super::*;
use crate::judge::{Basis, BasisFacts, NotProven, PortValue, Reason};

const IP_VALUE_A: u32 = 0x0a00_0005;
const IP_VALUE_B: u32 = 0x0a00_0006;
const SUCCESSOR: &str = "10.0.0.7";
const DAY: u64 = 86_400;
const MISSING: Option<NotProven> = Some(NotProven::NeedsSecondAttachment);

/// Pods of no workload, so that only the values themselves can tell. `a` was born when `b` was.
fn bare() -> JudgeInput {
    node(LEARN_FIRST).with(|c| {
        (c.dead[0].member, c.dead[0].born) = (None, Some(ago(DAY)));
        c.live[0].member = None;
    })
}

/// `a` is the only pod.
fn alone() -> JudgeInput {
    bare().with(|c| c.live.clear())
}

fn classifier(port: u16, value: u32) -> Flow {
    flow().table(0).from(port).load(0, value).beyond()
}

fn policy(value: u32) -> Flow {
    flow().table(20).reg(0, value)
}

/// Why a dead value does not condemn its policy entry; `None`: it does.
#[track_caller]
fn doubt(input: &JudgeInput, flows: &[Flow], value: u32) -> Option<NotProven> {
    let mut all = flows.to_vec();
    all.push(policy(value));
    let found = verdicts(input, &all);
    all.reverse();
    assert_eq!(found.last(), verdicts(input, &all).first(), "the order of the dump matters");
    match found.last().unwrap().reason {
        Reason::RegisterNotProven { why, .. } => Some(why),
        Reason::MatchesRegister { .. } => None,
        other => panic!("no word on registers: {other}"),
    }
}

fn facts(input: &JudgeInput, flows: &[Flow]) -> BasisFacts {
    survey(input, flows).basis_facts.remove(0)
}

fn remembers(facts: &BasisFacts) -> impl FnOnce(&mut JudgeInput) + use<> {
    let facts = facts.clone();
    move |c| c.networks[0].basis = facts
}

/// A network whose values are known to be port numbers.
fn by_ports() -> BasisFacts {
    BasisFacts { renumbered: true, ..BasisFacts::default() }
}

#[test]
fn one_pods_own_ipv4_address_is_enough() {
    dump(
        &alone(),
        &[
            ("its classifier", classifier(A, IP_VALUE_A), "stale: matches-port"),
            ("its policy", policy(IP_VALUE_A), "stale: matches-register"),
            ("another's policy", policy(IP_VALUE_B), "kept: nothing-dead"),
            ("by another name", flow().dst(IP_A).load(0, IP_VALUE_A), "stale: sets-register"),
        ],
    );
    // A living pod shows it; the dead one's value is recorded.
    let recorded = bare().with(|c| c.dead[0].register = Some(IP_VALUE_A));
    assert_eq!(doubt(&recorded, &[classifier(B, IP_VALUE_B)], IP_VALUE_A), None);
    // Classified by the address alone.
    let by_address = [flow().src(IP_A).load(0, IP_VALUE_A).beyond()];
    assert_eq!(doubt(&alone(), &by_address, IP_VALUE_A), None);
    // Two had it as if both lived: whoever had the address before.
    let learn = RegisterSource::Learn { distinct_seen: false, shared_seen: true };
    let shared = alone().with(|c| c.networks[0].register.source = learn);
    assert_eq!(doubt(&shared, &[classifier(A, IP_VALUE_A)], IP_VALUE_A), None);
}

#[test]
fn an_address_fits_the_field_or_is_none() {
    let masked = |mask: u32, shift: u32| {
        let flows = [flow().from(A).write(0, mask, Some(IP_VALUE_A << shift & mask), false)];
        let input = alone().with(|c| c.networks[0].register.mask = mask);
        facts(&input, &flows)
    };
    assert!(masked(u32::MAX, 0).ipv4);
    let low = masked(0xffff, 0);
    assert!(!low.ipv4 && low.not_ipv4, "the rest of an address is many addresses'");
}

/// A tenant's value beside the addresses: it ends for good.
#[test]
fn one_other_value_ends_it() {
    let own = classifier(A, IP_VALUE_A);
    let both = [own.clone(), classifier(B, 7)];
    assert_eq!(doubt(&bare(), &both, IP_VALUE_A), MISSING);
    let ended = facts(&bare(), &both);
    assert!(ended.ipv4 && ended.not_ipv4 && ended.not_ofport && ended.found().is_none());
    let later = alone().with(remembers(&ended));
    assert_eq!(doubt(&later, std::slice::from_ref(&own), IP_VALUE_A), MISSING, "b is gone");
    // Two of a workload that differ still tell.
    let apart = later.with(|c| c.networks[0].register.source = LEARN);
    assert_eq!(doubt(&apart, &[own], IP_VALUE_A), None);
}

/// Its entry may be older than its number: it ends nothing for good, but proves nothing now.
#[test]
fn a_value_that_may_be_somebody_elses_puts_it_off() {
    let flows = [classifier(A, IP_VALUE_A), classifier(B, 7)];
    for unknown in [
        bare().with(|c| c.live[0].born = None),
        bare()
            .with(|c| c.switch_started = Some(ago(7200)))
            .with(remembers(&BasisFacts { ipv4: true, ..BasisFacts::default() })),
    ] {
        assert!(!facts(&unknown, &flows).not_ipv4);
        assert_eq!(doubt(&unknown, &flows, IP_VALUE_A), MISSING);
    }
}

/// Nobody knows yet what it will be given.
#[test]
fn a_living_pod_without_a_value_is_waited_for() {
    let why = doubt(&bare(), &[classifier(A, IP_VALUE_A)], IP_VALUE_A);
    assert_eq!(why, Some(NotProven::LiveUnknown(LiveId(0))));
    let moves = flow().from(TUNNEL).write(0, u32::MAX, None, false).beyond();
    let why = doubt(&alone(), &[classifier(A, IP_VALUE_A), moves], IP_VALUE_A);
    assert_eq!(why, Some(NotProven::Obscured));
}

#[test]
fn what_the_numbers_former_owner_left_proves_nothing() {
    // The number's and the addresses' owner before loads his address: older than b, restored by a
    // start of the switch, or under a number that b was given since.
    let loads = || classifier(B, 0x0a00_0063);
    let old = bare().with(|c| c.live[0].born = Some(ago(3600)));
    let restored = bare().with(|c| c.switch_started = Some(ago(7210)));
    let given = bare().with(|c| c.live[0].number_since = Some(ago(3600)));
    let renumbered = bare().with(|c| {
        (c.live[0].previous_ofports, c.live[0].number_since) = (vec![40], Some(ago(3600)));
    });
    // Of somebody dead whose end is just noticed.
    let known = bare().with(|c| {
        c.dead.push(Dead { ofport: Some(B), born: Some(ago(2 * DAY)), ..dead(B, &[SUCCESSOR]) });
    });
    for (what, input) in [
        ("older", old),
        ("restored", restored),
        ("another number", given),
        ("a changed number", renumbered),
        ("a dead one had it", known),
    ] {
        assert!(facts(&input, &[loads()]).is_empty(), "{what}");
        // Nor does it show that the value is the port's number.
        assert!(facts(&input, &[classifier(B, B.into())]).is_empty(), "{what}");
    }
    assert!(facts(&bare(), &[loads()]).not_ipv4);
    let young =
        bare().with(|c| (c.live[0].born, c.switch_started) = (Some(ago(7205)), Some(ago(7210))));
    assert!(facts(&young, &[loads()]).not_ipv4, "it came after the start");
    assert!(!facts(&bare(), &[classifier(B, B.into())]).ports.is_empty());
}

#[test]
fn what_is_made_after_the_death_proves_nothing() {
    let made = |age: u64| facts(&alone(), &[classifier(A, IP_VALUE_A).aged(age)]);
    assert!(made(7200).ipv4 && made(61).ipv4);
    assert!(made(59).is_empty() && made(2 * DAY).is_empty());
    let unknown = alone().with(|c| c.dead[0].born = None);
    assert!(facts(&unknown, &[classifier(A, IP_VALUE_A)]).is_empty());
    // At a DEL the port's row is still its own.
    let at_del = alone().with(|c| {
        (c.dead[0].died, c.dead[0].seen_alive) = (ago(0), ago(9000));
        c.ports.by_number.insert(A, c.dead[0].interface.unwrap());
    });
    assert!(facts(&at_del, &[classifier(A, IP_VALUE_A)]).ipv4);
    let taken = at_del.and_live(live(A, &[SUCCESSOR]));
    assert!(!facts(&taken, &[classifier(A, IP_VALUE_A)]).ipv4);
}

/// `a` and living pods, each with its port's number as its value.
fn numbered(pods: u16) -> (JudgeInput, Vec<Flow>) {
    let mut flows = vec![classifier(A, A.into())];
    let mut input = alone();
    for port in 20..20 + pods {
        input = input.and_live(Live { member: None, ..live(port, &[&format!("10.0.1.{port}")]) });
        flows.push(classifier(port, port.into()));
    }
    (input, flows)
}

#[test]
fn eight_port_numbers_are_no_accident() {
    let (seven, flows) = numbered(6);
    assert_eq!(doubt(&seven, &flows, A.into()), MISSING);
    let found = facts(&seven, &flows);
    assert_eq!((found.ports.len(), found.found()), (7, None));
    let (eight, flows) = numbered(7);
    assert_eq!(doubt(&eight, &flows, A.into()), None);
    // One more later.
    let later = alone().with(remembers(&found)).and_live(live(50, &[SUCCESSOR]));
    let flows = [classifier(A, A.into()), classifier(50, 50)];
    assert_eq!(doubt(&later, &flows, A.into()), None);
    assert_eq!(facts(&later, &flows).found(), Some(Basis::Ofport));
    // A neighbour's stays, and so does that of whoever has the number now.
    assert_eq!(words(&verdicts(&later, &[policy(50)])[0]), "kept: nothing-dead");
}

/// One pod after the other is given one number, and one tenant's value.
#[test]
fn one_number_counts_once() {
    let mut known = BasisFacts::default();
    for row in 1..20 {
        known.add(&BasisFacts {
            ports: vec![PortValue { row: RowId(row), ofport: A }],
            ..BasisFacts::default()
        });
    }
    assert_eq!((known.ports.len(), known.found()), (1, None));
    let again = facts(&alone().with(remembers(&known)), &[classifier(A, A.into())]);
    assert_eq!((&again.ports, again.found()), (&known.ports, None));
}

/// Tenants of one pod each are numbered as their ports are, until one has a second pod.
#[test]
fn a_tenants_number_is_a_ports_by_chance() {
    let (input, mut flows) = numbered(7);
    let found = facts(&input, &flows);
    assert_eq!(found.found(), Some(Basis::Ofport));
    // Its second pod: nobody knows its value yet, its value is another pod's, or it is gone again.
    let second = input.and_live(Live { member: None, ..live(50, &[SUCCESSOR]) });
    let waits = doubt(&second, &flows, A.into());
    assert!(matches!(waits, Some(NotProven::LiveUnknown(_))), "{waits:?}");
    flows.push(classifier(50, A.into()));
    assert!(matches!(doubt(&second, &flows, A.into()), Some(NotProven::LiveHasIt(_))));
    let mut ended = found;
    ended.add(&facts(&second, &flows));
    assert_eq!(ended.found(), None);
    flows.pop();
    let after = numbered(7).0.with(remembers(&ended));
    assert_eq!(doubt(&after, &flows, A.into()), MISSING);
}

#[test]
fn a_number_that_changed_with_its_port_is_no_accident() {
    const OLD: u16 = 30;
    let first = bare().with(|c| {
        (c.live[0].ofport, c.ports) = (Some(OLD), Ports::default());
        c.ports.by_number.insert(OLD, RowId(B.into()));
    });
    let before = facts(&first, &[classifier(OLD, OLD.into())]);
    assert_eq!((before.ports.len(), before.found()), (1, None));
    let moved = |previous_ofports: u16, row: u128| {
        bare().with(remembers(&before)).with(|c| {
            (c.live[0].previous_ofports, c.live[0].number_since) =
                (vec![previous_ofports], Some(ago(8000)));
            c.ports.by_number.insert(B, RowId(row));
        })
    };
    let now = classifier(B, B.into());
    let after = facts(&moved(OLD, B.into()), std::slice::from_ref(&now));
    assert_eq!(after.found(), Some(Basis::Ofport));
    assert_eq!(
        facts(&moved(31, B.into()), std::slice::from_ref(&now)).found(),
        None,
        "another number"
    );
    assert_eq!(facts(&moved(OLD, 77), &[now]).found(), None, "another attachment");
    // A value that stays when the number changes is not the number.
    let stays = facts(&moved(OLD, B.into()), &[classifier(B, OLD.into())]);
    assert!(stays.not_ofport && stays.found().is_none());
}

#[test]
fn a_found_value_has_its_tokens_questions() {
    let ports = || alone().with(remembers(&by_ports()));
    let judged = |input: &JudgeInput, value: u32| {
        let port = classifier(A, value);
        words(&verdicts(input, &[port, policy(value)])[1])
    };
    let port = |input: &JudgeInput| judged(input, A.into());
    assert_eq!(port(&ports()), "stale: matches-register");
    // Somebody unrecorded has the number, or may be given it.
    let row = ports().with(|c| {
        c.ports.by_number.insert(A, RowId(77));
    });
    assert_eq!(port(&row), "kept: has-live-owner");
    assert_eq!(port(&ports().with(|c| c.ports.unassigned = true)), "kept: port-unsettled");
    // The port was on another bridge: nobody knows whose number it is here.
    let elsewhere = ports().with(|c| (c.dead[0].ofport, c.dead[0].register) = (None, Some(12)));
    assert_eq!(port(&elsewhere), "kept: register-not-proven");

    let known = BasisFacts { ipv4: true, ..BasisFacts::default() };
    let ips = || alone().with(remembers(&known));
    let ip = |input: &JudgeInput| judged(input, IP_VALUE_A);
    assert_eq!(ip(&ips()), "stale: matches-register");
    let unrecorded_port =
        Live { network: None, addresses_known: false, born: None, ..live(14, &[IP_A]) };
    let unrecorded_port = Live { register: LiveRegister::Absent, ..unrecorded_port };
    assert_eq!(ip(&ips().and_live(unrecorded_port.clone())), "kept: has-live-owner");
    let arriving = Live { born: Some(ago(8000)), addresses: Vec::new(), ..unrecorded_port };
    assert_eq!(ip(&ips().and_live(arriving)), "kept: may-be-arriving");
    let away = ips().with(|c| c.dead[0].ip_evidence = false);
    assert_eq!(ip(&away), "kept: may-live-elsewhere");
    // Another value than its address is no address, whatever others have.
    for source in [LEARN_FIRST, LEARN] {
        let other = ips().with(|c| {
            (c.dead[0].register, c.networks[0].register.source) = (Some(99), source);
        });
        assert_eq!(doubt(&other, &[], 99), MISSING);
    }
}

/// Nothing shows its value any more; and it had another number before.
#[test]
fn a_value_that_nobody_has_seen_is_computed() {
    let ports = || alone().with(remembers(&by_ports()));
    assert_eq!(doubt(&ports(), &[], A.into()), None);
    assert_eq!(*survey(&ports(), &[]).dead_registers, [None], "it is not written down");
    let moved =
        ports().with(|c| (c.dead[0].previous_ofports, c.dead[0].register) = (vec![30], Some(30)));
    for value in [A.into(), 30] {
        assert_eq!(doubt(&moved, &[], value), None, "{value}");
    }
    let known = LiveRegister::Is(30);
    let old = moved.and_live(Live { register: known, ..live(30, &[SUCCESSOR]) });
    let flows = [classifier(30, 30), policy(30), policy(A.into())];
    let found = verdicts(&old, &flows);
    assert_eq!(words(&found[1]), "kept: has-live-owner");
    assert_eq!(words(&found[2]), "stale: matches-register");
    // Configured otherwise, nothing that is remembered counts.
    let pod = ports().with(|c| c.networks[0].register.source = RegisterSource::Pod);
    assert_eq!(words(&verdicts(&pod, &[policy(A.into())])[0]), "kept: nothing-dead");
}

/// A successor is given the dead pod's number before anybody noticed the end: no sharing.
#[test]
fn the_next_owner_of_a_number_has_its_value() {
    let input = alone().with(remembers(&by_ports())).with(|c| {
        let successor = Dead { born: Some(ago(3600)), died: ago(30), ..dead(A, &[SUCCESSOR]) };
        c.dead.push(successor);
    });
    assert_eq!(doubt(&input, &[classifier(A, A.into()).aged(3000)], A.into()), None);
    let successor = alone().with(remembers(&by_ports())).and_live(live(A, &[SUCCESSOR]));
    let found = verdicts(&successor, &[classifier(A, A.into()), policy(A.into())]);
    assert_eq!(words(&found[1]), "kept: has-live-owner");
}
