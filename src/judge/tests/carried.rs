//! Registers that carry a port's number or its VLAN, and those that carry what pods share.

use super::*;

const C: u16 = 14;
const STALE: &str = "stale: matches-address";
const LIVES: &str = "kept: belongs-to-a-live-pod";
const OTHER: &str = "kept: another-vlan";
const NOT_ABOUT: &str = "kept: nothing-dead";

/// The dead one and `C` are in VLAN 100, `b` is in 200. None of the registers is configured.
fn neutron() -> JudgeInput {
    let tagged = |c: &mut JudgeInput| {
        c.dead[0].vlans = vec![100];
        c.live[0].vlans = vec![200];
    };
    plain().with(tagged).and_live(Live { vlans: vec![100], ..live(C, &[]) })
}

/// Table 60: reg5 is the port, reg6 the network's VLAN on this node.
fn transient(port: u16, vlan: u32) -> Flow {
    flow().table(60).from(port).load(5, port.into()).load(6, vlan).beyond()
}

#[test]
fn neutrons_rules_of_living_ports_for_a_dead_address() {
    let rules = |living: &'static str, others: &'static str| {
        [
            ("b's, to it", flow().reg(5, B.into()).dst(IP_A).beyond(), living),
            ("b's, from it", flow().reg(5, B.into()).src(IP_A).beyond(), living),
            (
                "C's, and its network",
                flow().reg(5, C.into()).reg(6, 100).dst(IP_A).beyond(),
                living,
            ),
            ("C's member", flow().reg(5, C.into()).src(IP_A).conjunction(), living),
            ("its own", flow().reg(5, A.into()).src(IP_A).beyond(), STALE),
            ("nobody's", flow().reg(5, 99).src(IP_A).beyond(), STALE),
            ("its network's", flow().reg(6, 100).dst(IP_A).beyond(), STALE),
            ("its network's, by MAC", flow().reg(6, 100).dst(MAC_A).beyond(), STALE),
            ("its network's member", flow().reg(6, 100).src(IP_A).conjunction(), STALE),
            ("b's network's", flow().reg(6, 200).src(IP_A).beyond(), others),
            ("b's network's, by MAC", flow().reg(6, 200).dst(MAC_A).beyond(), others),
        ]
    };
    let classifiers =
        || vec![("b", transient(B, 200), NOT_ABOUT), ("C", transient(C, 100), NOT_ABOUT)];
    // Whether or not the dead one's classifier is still there.
    let mut table = classifiers();
    table.extend(rules(LIVES, OTHER));
    dump(&neutron(), &table);
    table.push(("a", transient(A, 100), "stale: matches-port"));
    let nowhere = flow().reg(5, C.into()).dst(IP_A).output(A);
    table.push(("C's, to a dead port only", nowhere, "stale: delivers-to-nobody"));
    dump(&neutron(), &table);
    // Neither is told where neither was loaded.
    each(&neutron(), &rules(STALE, STALE));
    // An unrecorded machine's, by Neutron's marks.
    let marked = Live { network: None, addresses_known: false, born: None, ..live(C, &[]) };
    let input = plain().and_live(Live { vlans: vec![100], ..marked });
    dump(
        &input,
        &[
            ("classifier", transient(C, 100), NOT_ABOUT),
            ("its rule", flow().reg(5, C.into()).dst(IP_A).beyond(), LIVES),
        ],
    );
    // An uplink is nobody's source.
    let uplink = flow().reg(5, UPLINK.into()).dst(IP_A).beyond();
    dump(&neutron(), &[("C", transient(C, 100), NOT_ABOUT), ("uplink", uplink, STALE)]);
}

/// A mark of all pods keeps nothing, however few of them are left.
#[test]
fn antreas_marks_are_nobodys_own() {
    let mark = |port: u16| flow().table(0).from(port).write(0, 0xf, Some(3), false).beyond();
    let of_dead = |flow: Flow| flow.mark(0, 3, 0xf).src(IP_A).beyond();
    let whole = |port: u16| flow().table(0).from(port).load(0, 3).beyond();
    let target = flow().table(6).dst(MAC_B).load(1, B.into()).beyond();
    let rows = |classifiers: &[Flow]| {
        let mut rows: Vec<_> = classifiers.iter().map(|f| ("", f.clone(), NOT_ABOUT)).collect();
        rows.push(("its target", target.clone(), NOT_ABOUT));
        rows.push(("from a pod", of_dead(flow()), STALE));
        rows.push(("as a whole", flow().reg(0, 3).dst(IP_A).beyond(), STALE));
        rows.push(("to b's port", flow().reg(1, B.into()).src(IP_A).conjunction(), STALE));
        rows
    };
    // The mark is the number of a port that is there, too.
    let input = || plain().and_live(live(3, &[]));
    dump(&input(), &rows(&[mark(B), mark(3)]));
    dump(&input(), &rows(&[mark(3)]));
    dump(&input(), &rows(&[whole(B), whole(3)]));
    dump(&plain(), &rows(&[mark(B)]));
}

/// A namespace's value does not keep the dead pod's entries where one pod of the namespace, or of
/// a peer's, is left.
#[test]
fn a_namespaces_value_is_no_ones_own() {
    let vnid = 0x0b_1234;
    let peer = 0x0c_5678;
    let classifier = |port, value| flow().table(20).from(port).load(0, value).beyond();
    for source in [RegisterSource::None, LEARN, LEARN_FIRST] {
        dump(
            &node(source).and_live(live(C, &["10.0.0.7"])),
            &[
                ("the same namespace's", classifier(C, vnid), NOT_ABOUT),
                ("a peer's", classifier(B, peer), NOT_ABOUT),
                ("within it", flow().table(80).reg(1, vnid).dst(IP_A).beyond(), STALE),
                (
                    "of a peer",
                    flow().table(80).reg(1, vnid).mark(2, peer, u32::MAX).dst(IP_A).beyond(),
                    STALE,
                ),
            ],
        );
    }
    let input = plain().and_live(live(C, &["10.0.0.7"]));
    dump(
        &input,
        &[
            ("the same namespace's", classifier(C, vnid), NOT_ABOUT),
            ("a peer's", classifier(B, peer), NOT_ABOUT),
            ("from it", flow().table(80).reg(0, vnid).src(IP_A).beyond(), STALE),
            ("from a peer", flow().table(80).reg(0, peer).reg(1, vnid).dst(IP_A).beyond(), STALE),
        ],
    );
}

/// ACI: reg0 is the endpoint group, reg4 the bridge domain, reg6 the routing domain.
#[test]
fn acis_domains_and_groups_are_no_ones_own() {
    let classifier = |port, group| {
        flow().table(1).from(port).load(0, group).load(4, 5).load(5, 7).load(6, 2).beyond()
    };
    dump(
        &plain().and_live(live(C, &[])),
        &[
            ("b", classifier(B, 0x8001), NOT_ABOUT),
            ("C", classifier(C, 0x8002), NOT_ABOUT),
            (
                "bridge",
                flow().table(3).reg(4, 5).dst(MAC_A).load(2, 1).load(7, A.into()).beyond(),
                STALE,
            ),
            ("route", flow().table(6).reg(6, 2).dst(IP_A).load(2, 1).beyond(), STALE),
            ("group", flow().table(9).reg(0, 0x8001).dst(IP_A).beyond(), STALE),
        ],
    );
}

#[test]
fn one_load_of_something_else_and_a_field_carries_neither() {
    let rule = || flow().reg(5, B.into()).dst(IP_A).beyond();
    let with = |other: Flow, expected| {
        dump(
            &neutron(),
            &[
                ("b", transient(B, 200), NOT_ABOUT),
                ("", other, NOT_ABOUT),
                ("b's", rule(), expected),
            ],
        );
    };
    with(flow().from(C).load(5, 77).beyond(), STALE);
    with(flow().from(UPLINK).write(5, u32::MAX, None, false).beyond(), STALE);
    // Zero is what every register starts with; without an in_port it is for whom it is sent to.
    with(flow().from(C).load(5, 0).beyond(), LIVES);
    with(flow().dst(MAC_B).load(5, 77).beyond(), LIVES);
    // VLAN 200's port 200: the register is the port's.
    let ports = [
        ("b", flow().from(B).load(5, B.into()).beyond(), NOT_ABOUT),
        ("200", flow().from(200).load(5, 200).beyond(), NOT_ABOUT),
        ("its own", flow().reg(5, A.into()).src(IP_A).beyond(), STALE),
    ];
    dump(&neutron().and_live(Live { vlans: vec![200], ..live(200, &[]) }), &ports);
}

/// A DEL does not see the neighbours' classifiers: its own shows what a register carries, or
/// everything is read.
#[test]
fn part_of_a_dump_asks_for_the_rest() {
    let input = neutron();
    let part = |seen: &[Flow], asked: &Flow| {
        let mut survey = Survey::partial(&input);
        seen.iter().chain([asked]).for_each(|flow| {
            survey.see(flow);
        });
        let learned = survey.finish();
        let judge = Judge::new(&input, &learned);
        (words(&judge.verdict(asked)), judge.would_register_matter(asked))
    };
    let rule = flow().reg(5, B.into()).dst(IP_A).beyond();
    let network = flow().reg(6, 200).dst(IP_A).beyond();
    let own = flow().reg(6, 100).reg(5, A.into()).dst(IP_A).beyond();
    let constant = flow().reg(7, 0x5000).dst(IP_A).beyond();
    for asked in [&rule, &network] {
        assert_eq!(part(&[], asked), (STALE.to_owned(), true));
    }
    assert_eq!(part(&[transient(A, 100)], &rule), (LIVES.to_owned(), false));
    assert_eq!(part(&[transient(A, 100)], &network), (OTHER.to_owned(), false));
    for asked in [&own, &constant] {
        assert_eq!(part(&[], asked), (STALE.to_owned(), false));
    }
    let something_else = flow().from(A).load(5, 0x8001).load(6, 0x8002).beyond();
    assert_eq!(part(&[something_else], &rule), (STALE.to_owned(), false));
}

/// Two more whose own shape says nothing of the register: a pair of the dead one's tokens, of
/// which one is somebody's by now, and an entry with another dead one's value.
#[test]
fn part_of_a_dump_asks_for_the_rest_of_pairs_and_of_others_values() {
    let asks = |input: &JudgeInput, asked: &Flow| {
        let mut survey = Survey::partial(input);
        survey.see(asked);
        let learned = survey.finish();
        let judge = Judge::new(input, &learned);
        (words(&judge.verdict(asked)), judge.would_register_matter(asked))
    };
    let pair = flow().from(A).reg(6, 200).src(IP_A).beyond();
    let reused = neutron().with(|c| c.dead[0].ip_evidence = false).and_live(Live {
        born: Some(ago(1)),
        addresses_known: true,
        ..live(A, &[])
    });
    assert_eq!(asks(&reused, &pair), ("stale: nobody-has-both".to_owned(), true));
    let whole = [("b", transient(B, 200), NOT_ABOUT), ("", pair, OTHER)];
    dump(&reused, &whole);

    let mut two = node(LEARN_FIRST);
    two.live[0].register = LiveRegister::Is(9);
    two.dead[0].register = Some(7);
    let other =
        Dead { register: Some(8), ofport: None, addresses: Vec::new(), ..two.dead[0].clone() };
    two.dead.push(other);
    for (number, expected) in [(7, false), (8, true)] {
        let asked = flow().reg(0, number).src(IP_A).beyond();
        assert_eq!(asks(&two, &asked), (STALE.to_owned(), expected), "{number}");
    }
}
