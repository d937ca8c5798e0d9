//! A computed register value is the token that it is computed from, with that token's questions.

use super::*;

/// `b`'s port, `a`'s successor in some other way, somebody whom nobody recorded.
const SUCCESSOR: &str = "10.0.0.7";
const VALUE_A: u32 = A as u32;
const IP_VALUE_A: u32 = 0x0a00_0005;

/// Values are port numbers, in reg1.
fn by_port() -> JudgeInput {
    node(RegisterSource::Ofport).with(|c| {
        c.networks[0].register.index = 1;
        c.dead[0].register = Some(VALUE_A);
        c.live[0].register = LiveRegister::Is(B.into());
    })
}

/// Values are IPv4 addresses, in reg0.
fn by_address() -> JudgeInput {
    node(RegisterSource::Ipv4).with(|c| {
        c.dead[0].register = Some(IP_VALUE_A);
        c.live[0].register = LiveRegister::Is(0x0a00_0006);
    })
}

fn learns_port() -> Flow {
    flow().dst(SUCCESSOR).load(1, VALUE_A).beyond()
}

fn outputs_port() -> Flow {
    flow().reg(1, VALUE_A).beyond()
}

/// Both ways to use the value are judged alike.
#[track_caller]
fn both(input: &JudgeInput, load: &str, matches: &str) {
    each(input, &[("load", learns_port(), load), ("match", outputs_port(), matches)]);
}

#[test]
fn the_value_of_a_dead_port() {
    both(&by_port(), "stale: sets-register", "stale: matches-register");
    // Half of another flow's output register, a living pod's own entry.
    each(
        &by_port(),
        &[
            ("from b", flow().from(B).reg(1, VALUE_A).beyond(), "kept: belongs-to-a-live-pod"),
            ("b sends there", flow().from(B).dst(IP_A).load(1, VALUE_A).beyond(), LOADS_FOR_B),
        ],
    );
    // What b's entry loads for its packets to a does not make the value b's.
    let load = flow().from(B).dst(IP_A).load(1, VALUE_A).beyond();
    let found = verdicts(&by_port(), &[load, outputs_port()]);
    assert_eq!(words(&found[1]), "stale: matches-register");
}

const LOADS_FOR_B: &str = "kept: belongs-to-a-live-pod";

#[test]
fn the_number_is_somebody_elses() {
    // Somebody who is not in our chain, or whose ADD has not come yet.
    let row = by_port().with(|c| {
        c.ports.by_number.insert(A, RowId(77));
    });
    both(&row, "kept: has-live-owner", "kept: has-live-owner");
    let unrecorded_port =
        Live { network: None, addresses_known: false, born: None, ..live(A, &[]) };
    let unrecorded_port = Live { register: LiveRegister::Absent, ..unrecorded_port };
    let unrecorded = by_port().and_live(unrecorded_port.clone());
    both(&unrecorded, "kept: has-live-owner", "kept: has-live-owner");
    let arriving = by_port().and_live(Live { born: Some(ago(5)), ..unrecorded_port });
    both(&arriving, "kept: has-live-owner", "kept: has-live-owner");
    // Recorded in a network that knows nothing of register values.
    let other = by_port().with(|c| c.networks.push(network(RegisterSource::None)));
    let other = other.and_live(Live {
        network: Some(NetworkId(1)),
        register: LiveRegister::Absent,
        ..live(A, &[SUCCESSOR])
    });
    both(&other, "kept: has-live-owner", "kept: has-live-owner");
    // Nobody has it, but an interface waits for its number.
    let waits = by_port().with(|c| c.ports.unassigned = true);
    both(&waits, "kept: port-unsettled", "kept: port-unsettled");
}

#[test]
fn a_number_is_one_bridges() {
    // The dead port was on the other bridge; here 12 is the number of a living pod, or nobody's.
    let here = || by_port().with(|c| c.dead[0].ofport = None);
    both(&here(), "kept: nothing-dead", "kept: nothing-dead");
    let taken =
        here().and_live(Live { register: LiveRegister::Is(VALUE_A), ..live(A, &[SUCCESSOR]) });
    both(&taken, "kept: nothing-dead", "kept: nothing-dead");
}

#[test]
fn the_values_of_former_numbers() {
    const OLD: u16 = 30;
    let moved = || by_port().with(|c| c.dead[0].previous_ofports = vec![OLD]);
    let old = || flow().reg(1, OLD.into()).beyond();
    each(&moved(), &[("old", old(), "stale: matches-register")]);
    both(&moved(), "stale: sets-register", "stale: matches-register");
    let taken = moved().and_live(Live { register: LiveRegister::Absent, ..live(OLD, &[]) });
    each(&taken, &[("old", old(), "kept: has-live-owner")]);
    let meant = moved().with(|c| c.live[0].previous_ofports = vec![OLD]);
    each(&meant, &[("old", old(), "kept: has-live-owner")]);
    // Another network means something else by it.
    let other = moved().with(|c| c.networks.push(network(RegisterSource::Pod)));
    let other = other.with(|c| c.networks[1].register.index = 1).and_live(Live {
        network: Some(NetworkId(1)),
        register: LiveRegister::Is(OLD.into()),
        ..live(14, &[])
    });
    each(&other, &[("old", old(), "kept: register-not-proven")]);
    // Another network's field is part of this one, and its pod has the same bits there.
    let narrow = other.with(|c| c.networks[1].register.mask = 0xff);
    let load = flow().dst(SUCCESSOR).load(1, OLD.into()).beyond();
    each(&narrow, &[("old", old(), "kept: nothing-dead"), ("load", load, "kept: nothing-dead")]);
}

#[test]
fn in_a_field() {
    let input = by_port().with(|c| {
        c.networks[0].register.mask = 0x00ff_ff00;
        c.dead[0].register = Some(VALUE_A << 8);
        c.live[0].register = LiveRegister::Is(u32::from(B) << 8);
    });
    let field = || flow().mark(1, VALUE_A << 8, 0x00ff_ff00);
    each(&input, &[("dead", field(), "stale: matches-register")]);
    let row = input.with(|c| {
        c.ports.by_number.insert(A, RowId(77));
    });
    each(&row, &[("somebody else's", field(), "kept: has-live-owner")]);
}

#[test]
fn the_value_of_an_address() {
    let loads = || flow().aged(50).from(14).load(0, IP_VALUE_A).beyond();
    let policy = || flow().reg(0, IP_VALUE_A);
    let dead = || by_address();
    each(&dead(), &[("policy", policy(), "stale: matches-register")]);
    // The address's next owner: marked, or recorded in another network.
    let marked = Live { network: None, addresses_known: false, born: None, ..live(14, &[IP_A]) };
    let marked = Live { register: LiveRegister::Absent, ..marked };
    let other =
        Live { network: Some(NetworkId(1)), register: LiveRegister::Absent, ..live(14, &[IP_A]) };
    for successor in [marked.clone(), other] {
        let input =
            dead().with(|c| c.networks.push(network(RegisterSource::None))).and_live(successor);
        each(
            &input,
            &[
                ("policy", policy(), "kept: has-live-owner"),
                ("its classifier", loads(), "kept: has-live-owner"),
            ],
        );
    }
    // Somebody who is arriving may have it.
    let arriving = Live { born: Some(ago(8000)), addresses: Vec::new(), ..marked };
    each(&dead().and_live(arriving), &[("policy", policy(), "kept: may-be-arriving")]);
    type Edit = fn(&mut JudgeInput);
    let table: [(&str, Edit, Flow, &str); 6] = [
        ("no record", |c| c.dead[0].recorded = false, policy(), "kept: no-record"),
        ("elsewhere", |c| c.dead[0].ip_evidence = false, policy(), "kept: may-live-elsewhere"),
        ("put after the death", |_| (), policy().aged(50), "kept: created-after-death"),
        ("to a live port", |_| (), policy().output(B), "kept: outputs-to-live-port"),
        ("to another node", |_| (), policy().tunnel(), "kept: sets-tunnel"),
        ("a policy's member", |c| c.dead[0].lingered = false, policy().dst(IP_B), WAITS),
    ];
    for (what, change, flow, expected) in table {
        each(&dead().with(change), &[(what, flow, expected)]);
    }
}

const WAITS: &str = "kept: policy-waits";

#[test]
fn what_an_orphan_left_under_its_address_goes_at_the_next_owners_add() {
    let adding = Live { adding: true, born: Some(ago(10)), ..live(14, &[IP_A]) };
    let input = by_address()
        .with(|c| (c.dead[0].died, c.dead[0].seen_alive) = (ago(0), ago(20)))
        .and_live(Live { register: LiveRegister::Is(IP_VALUE_A), ..adding });
    each(
        &input,
        &[
            ("leftover", flow().reg(0, IP_VALUE_A), "stale: matches-register"),
            ("its own", flow().reg(0, IP_VALUE_A).aged(5), "kept: has-live-owner"),
            ("beside the address", flow().src(IP_A).reg(0, IP_VALUE_A), "stale: matches-register"),
        ],
    );
}

#[test]
fn a_value_is_no_second_token_beside_its_own() {
    // Somebody younger has the port: by rule 5 the pair of port and value must not go.
    let successor = || {
        by_port().and_live(Live {
            born: Some(ago(30)),
            register: LiveRegister::Is(VALUE_A),
            ..live(A, &[SUCCESSOR])
        })
    };
    let pair = flow().from(A).reg(1, VALUE_A);
    each(&successor(), &[("pair", pair, "kept: has-live-owner")]);
    let load = flow().from(A).load(1, VALUE_A).beyond();
    each(&successor(), &[("classifier", load, "kept: has-live-owner")]);
    // The port is a younger one's, the address nobody's: nobody has both.
    let successor = by_address().and_live(Live {
        born: Some(ago(30)),
        register: LiveRegister::Is(0x0a00_0007),
        ..live(A, &[SUCCESSOR])
    });
    let load = flow().from(A).load(0, IP_VALUE_A).beyond();
    each(&successor, &[("classifier", load, "stale: sets-register")]);
}

/// A verdict by a computed value is one by its token, also when it is carried out.
#[test]
fn a_verdict_ends_with_its_token() {
    use crate::judge::{Recheck, Standing};
    let standing = |input: &JudgeInput, flow: Flow, change: &dyn Fn(&mut JudgeInput)| {
        let learned = survey(input, std::slice::from_ref(&flow));
        let verdict = Judge::new(input, &learned).verdict(&flow);
        assert!(verdict.stale, "{}", verdict.reason);
        let after = input.clone().with(change);
        Recheck::between(input, &learned, &after).standing(&flow, &verdict)
    };
    let given = |c: &mut JudgeInput| {
        c.ports.by_number.insert(A, RowId(99));
    };
    let waits = |c: &mut JudgeInput| c.ports.unassigned = true;
    let nothing = |_: &mut JudgeInput| ();
    assert_eq!(standing(&by_port(), outputs_port(), &given), Standing::NewOwner);
    assert_eq!(standing(&by_port(), learns_port(), &waits), Standing::Unsettled);
    assert_eq!(standing(&by_port(), learns_port(), &nothing), Standing::Holds);
    let policy = || flow().reg(0, IP_VALUE_A);
    let next = |c: &mut JudgeInput| {
        c.live.push(Live { network: None, register: LiveRegister::Absent, ..live(14, &[IP_A]) });
    };
    let arriving = |c: &mut JudgeInput| {
        let young = Live { born: Some(ago(8000)), addresses_known: false, ..live(14, &[]) };
        c.live.push(Live { network: None, register: LiveRegister::Absent, ..young });
    };
    assert_eq!(standing(&by_address(), policy(), &next), Standing::NewOwner);
    assert_eq!(standing(&by_address(), policy(), &arriving), Standing::Unsettled);
    assert_eq!(standing(&by_address(), policy(), &given), Standing::Holds);
}

/// Nobody recorded it and part of a dump shows no claim of its: its port, or its address, is
/// alive, so the value is.
#[test]
fn a_rule_of_an_unrecorded_ports_by_its_value() {
    let unrecorded_port =
        Live { network: None, register: LiveRegister::Absent, ..live(14, &[SUCCESSOR]) };
    let rule = |index, value| flow().reg(index, value).dst(IP_A).beyond();
    let kept = "kept: belongs-to-a-live-pod";
    each(
        &by_port().and_live(unrecorded_port.clone()),
        &[("its number", rule(1, 14), kept), ("nobody's", rule(1, 15), "stale: matches-address")],
    );
    each(
        &by_address().and_live(unrecorded_port),
        &[
            ("its address", rule(0, 0x0a00_0007), kept),
            ("nobody's", rule(0, 0x0a00_0009), "stale: matches-address"),
        ],
    );
}
