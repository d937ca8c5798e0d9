use super::*;

#[test]
fn another_owner_whom_we_cannot_see() {
    each(
        &plain(),
        &[
            ("made after the death", flow().aged(59).dst(IP_A), "kept: created-after-death"),
            ("at the death", flow().aged(60).dst(IP_A), "kept: created-after-death"),
            ("before it", flow().aged(61).dst(IP_A), "stale: matches-address"),
            ("to a live port", flow().dst(IP_A).output(B), "kept: outputs-to-live-port"),
            ("to a group", flow().dst(MAC_A).group(), "kept: sends-to-a-group"),
            ("by a live port", flow().from(B).dst(IP_A).beyond(), "kept: belongs-to-a-live-pod"),
            ("to LOCAL", flow().dst(IP_A).output(65534), "kept: outputs-to-live-port"),
            ("to the uplink", flow().dst(IP_A).output(UPLINK), "kept: outputs-to-live-port"),
            ("to its own port", flow().dst(IP_A).output(A).beyond(), "stale: matches-address"),
            ("moved VM", flow().dst(IP_A).tunnel().beyond(), "kept: sets-tunnel"),
            ("other VLAN", flow().from(UPLINK).src(IP_A), "kept: arrives-elsewhere"),
            ("other VLAN, connection", flow().from(UPLINK).either(IP_A), "kept: arrives-elsewhere"),
            ("from outside to it", flow().from(UPLINK).dst(IP_A), "stale: matches-address"),
            ("MACs of two pods", flow().src(MAC_A).dst(MAC_B).beyond(), "stale: matches-address"),
            (
                "its own two addresses",
                flow().src(MAC_A).src(IP_A).beyond(),
                "stale: matches-address",
            ),
        ],
    );
}

/// docs/promises.md, "NORMAL, FLOOD and CONTROLLER".
#[test]
fn what_may_reach_another_node() {
    let registers = |c: &mut JudgeInput| {
        c.networks[0].register.source = RegisterSource::ExternalId;
        c.dead[0].register = Some(4101);
        c.live[0].register = LiveRegister::Absent;
    };
    let rows = |input: &JudgeInput, ip: &str, mac: &str, mac_alone: &str| {
        for to in [Flow::spread, Flow::controller] {
            each(
                input,
                &[
                    ("by its port", to(flow().from(A)), "stale: matches-port"),
                    ("by its register", to(flow().reg(0, 4101)), "stale: matches-register"),
                    ("by its IP", to(flow().dst(IP_A)), ip),
                    ("from its IP", to(flow().src(IP_A)), ip),
                    ("by its MAC", to(flow().dst(MAC_A)), mac),
                ],
            );
        }
        each(input, &[("and no further", flow().dst(MAC_A), mac_alone)]);
    };
    let stale = "stale: matches-address";
    rows(&plain().with(registers), stale, stale, stale);
    // At DEL its IPs are its own, but what sends them on may mean who gets them next.
    let elsewhere = "kept: may-live-elsewhere";
    let at_del = plain().with(registers).with(|c| {
        (c.dead[0].mac_evidence, c.dead[0].roams) = (false, true);
    });
    rows(&at_del, "kept: may-reach-another-node", elsewhere, elsewhere);
    each(&at_del, &[("an IP and no further", flow().dst(IP_A), stale)]);
    let later = at_del.clone().with(|c| c.dead[0].ip_evidence = false);
    rows(&later, elsewhere, elsewhere, elsewhere);
    // Nobody has the IPs; of MACs nobody can say so.
    let free = at_del.with(|c| c.dead[0].roams = false);
    rows(&free, stale, elsewhere, elsewhere);
}

#[test]
fn a_pod_that_is_being_added_may_have_the_address() {
    // Its port is there for 90 s, its record is not: the death was noticed 60 s ago.
    let unexplained = Live { network: None, addresses_known: false, ..live(14, &[]) };
    let arriving = Live { born: Some(ago(90)), ..unexplained.clone() };
    let either = |age| flow().aged(age).either(IP_A).beyond();
    each(
        &plain().and_live(arriving),
        &[
            ("as young as it", either(90), "kept: may-be-arriving"),
            ("a MAC", flow().aged(61).dst(MAC_A).beyond(), "kept: may-be-arriving"),
            ("older", either(91), "stale: matches-address"),
            ("by its port", flow().aged(70).from(A).src(IP_A), "stale: matches-port"),
            // A set-based controller would not install it again for who is arriving.
            ("a policy's", flow().src(IP_A).conjunction(), "kept: may-be-arriving"),
            ("of two pods", flow().src(IP_A).dst(IP_B), "kept: may-be-arriving"),
        ],
    );
    let held = plain()
        .with(|c| c.dead[0].holds_addresses = true)
        .and_live(Live { network: None, is_pod: false, ..live(15, &["0a:00:00:00:00:01"]) })
        .and_live(Live { born: Some(ago(90)), ..unexplained.clone() });
    let from_it = |to| flow().aged(90).src(IP_A).dst(to).beyond();
    let to_it = || flow().aged(90).dst(IP_A).beyond();
    each(
        &held,
        &[
            ("its DEL is under way", either(90), "stale: matches-address"),
            // The rules of who is arriving for the address: by its port, MAC, value.
            ("by port", to_it().from(14), "kept: belongs-to-a-live-pod"),
            ("by MAC", to_it().src("0a:00:00:00:00:14"), "kept: may-be-arriving"),
            ("by value", to_it().reg(0, 4199), "kept: may-be-arriving"),
            ("to its MAC", from_it("0a:00:00:00:00:14"), "kept: may-be-arriving"),
            ("to b", from_it(IP_B), "stale: matches-address"),
            ("to the gateway", from_it("0a:00:00:00:00:01"), "stale: matches-address"),
        ],
    );
    // In another VLAN the address is another one, which nobody holds.
    let elsewhere = held.clone().with(|c| {
        c.dead[0].vlans = vec![100];
        c.live.last_mut().unwrap().vlans = vec![200];
    });
    each(&elsewhere, &[("in another VLAN", either(90), "kept: may-be-arriving")]);
    let there_for_long = Live { born: None, ..unexplained };
    each(&plain().and_live(there_for_long), &[("old", either(90), "stale: matches-address")]);
    // A restored entry's age proves nothing after a death, but there is nobody to have it.
    let restarted = plain().with(|c| c.switch_started = Some(ago(20)));
    each(&restarted, &[("restored", either(15), "stale: matches-address")]);
    // A machine whose marks name a MAC: how old it is nobody knows.
    let machine = Live {
        network: None,
        addresses_known: false,
        born: None,
        register: LiveRegister::Untold,
        ..live(14, &["0a:00:00:00:00:15"])
    };
    let marked = restarted.clone().and_live(machine.clone());
    let rows = |ip: &'static str| {
        [
            ("its IP, perhaps", either(15), ip),
            ("not its MAC", flow().aged(15).dst(MAC_A).beyond(), "stale: matches-address"),
            ("before the restart", either(70), "stale: matches-address"),
        ]
    };
    each(&marked, &rows("kept: may-be-arriving"));
    let gone = Live { register: LiveRegister::Absent, ..machine.clone() };
    each(&restarted.clone().and_live(gone), &rows("stale: matches-address"));
    let uplink = Live { is_pod: false, ..machine.clone() };
    each(&restarted.clone().and_live(uplink), &rows("stale: matches-address"));
    let known =
        Live { addresses: live(14, &["10.0.0.9", "0a:00:00:00:00:15"]).addresses, ..machine };
    each(&restarted.clone().and_live(known), &rows("stale: matches-address"));
    let arriving = Live { born: Some(ago(16)), ..live(14, &[]) };
    let arriving = Live { network: None, addresses_known: false, ..arriving };
    each(&restarted.and_live(arriving), &[("or not", either(15), "kept: may-be-arriving")]);
}

#[test]
fn its_own_port_number_is_nobody_elses_side() {
    // The number is another interface's now, the address is nobody's.
    let input = plain().with(|c| {
        c.ports.by_number.insert(A, RowId(77));
    });
    each(&input, &[("spoof guard", flow().from(A).src(IP_A), "stale: matches-address")]);
    let unknown = input.with(|c| c.dead[0].ofport = None);
    each(&unknown, &[("number unknown", flow().from(A).src(IP_A), "kept: arrives-elsewhere")]);
}

#[test]
fn a_live_port_in_a_register_that_is_output_to() {
    let out = || ("output", flow().output_register(1, 0xffff), "kept: nothing-dead");
    let low = |value| flow().dst(IP_A).write(1, 0xffff, Some(value), false).beyond();
    dump(
        &plain(),
        &[
            out(),
            ("live port", low(B.into()), "kept: loads-live-port"),
            ("its own port", low(A.into()), "stale: matches-address"),
            ("whole register", flow().dst(IP_A).load(1, 0x0007_000d), "kept: loads-live-port"),
            ("another register", flow().dst(IP_A).load(2, B.into()), "stale: matches-address"),
            (
                "the other half",
                flow().dst(IP_A).write(1, 0xffff_0000, Some(0x000d_0000), false),
                "stale: matches-address",
            ),
            (
                "not a constant",
                flow().dst(IP_A).write(1, 0xffff, None, false),
                "kept: loads-live-port",
            ),
            (
                "part of it",
                flow().dst(IP_A).write(1, 0xff, Some(13), false),
                "kept: loads-live-port",
            ),
            (
                "in a clone",
                flow().dst(IP_A).write(1, 0xffff, Some(13), true),
                "kept: loads-live-port",
            ),
            ("NORMAL", low(0xfffa), "kept: loads-live-port"),
            ("no port", low(0), "stale: matches-address"),
        ],
    );
    each(&plain(), &[("nobody outputs to it", low(B.into()), "stale: matches-address")]);
}

#[test]
fn a_high_range_is_read_in_place() {
    dump(
        &plain(),
        &[
            ("output", flow().output_register(1, 0xffff_0000), "kept: nothing-dead"),
            ("live", flow().dst(IP_A).load(1, 0x000d_0000), "kept: loads-live-port"),
            ("not live", flow().dst(IP_A).load(1, 0x000c_000d), "stale: matches-address"),
        ],
    );
}

#[test]
fn part_of_a_dump_shows_no_output_registers() {
    let input = node(LEARN).with(|c| c.dead[0].register = Some(4101));
    let learned = Survey::partial(&input).finish();
    let judge = Judge::new(&input, &learned);
    for (flow, expected) in [
        (flow().dst(IP_A).load(1, B.into()), "kept: loads-live-port"),
        (flow().dst(IP_A).load(1, 0x000d_0000), "kept: loads-live-port"),
        (flow().dst(IP_A).load(1, 77), "stale: matches-address"),
        (flow().dst(IP_A).load(0, B.into()), "stale: matches-address"),
    ] {
        assert_eq!(words(&judge.verdict(&flow)), expected, "{flow:?}");
    }
}

#[test]
fn policy_members_wait_for_the_linger_time() {
    let rows = |word| {
        [
            ("conjunction", flow().src(IP_A).conjunction(), word),
            ("two pods", flow().src(IP_A).dst(IP_B), word),
            ("two pods, one of them outside", flow().src("192.0.2.1").dst(IP_A), word),
        ]
    };
    each(&plain().with(|c| c.dead[0].lingered = false), &rows("kept: policy-waits"));
    each(&plain(), &rows("stale: matches-address"));
    each(&plain().and_live(live(14, &[IP_A])), &rows("kept: has-live-owner"));
}

/// A rule of a living pod's own policy for what the dead one sent it, however it tells itself. What
/// it sends to the dead address is its own for good.
#[test]
fn rules_of_the_living_for_what_the_dead_sent_wait_too() {
    let mine = |address: &'static str| flow().addressed(address, Side::Source).beyond();
    let rows = |waits: &'static str| {
        let target = flow().dst(MAC_B).load(1, B.into()).beyond();
        [
            ("its target", target, "kept: nothing-dead"),
            ("by MAC", mine(IP_A).dst(MAC_B), waits),
            ("an IPv6", mine("fd00::5").dst(MAC_B), waits),
            ("MACs", mine(MAC_A).dst(MAC_B), waits),
            ("a MAC and an IP", mine(MAC_A).dst(IP_B), waits),
            ("a connection's", mine(MAC_A).either(IP_B), waits),
            ("by its port", mine(IP_A).reg(1, B.into()), waits),
            ("by its port and a mark", mine(MAC_A).mark(1, B.into(), u32::MAX).reg(0, 3), waits),
            ("sent", flow().src(MAC_B).dst(IP_A), "kept: belongs-to-a-live-pod"),
            // Its own on both sides, or beside what nobody alive has.
            ("its own", mine(IP_A).dst(MAC_A), "stale: matches-address"),
            ("its target's", mine(IP_A).reg(1, A.into()), "stale: matches-address"),
            ("nobody's", mine(IP_A).dst("0a:00:00:00:00:99"), "stale: matches-address"),
            ("no port", mine(IP_A).reg(1, 99), "stale: matches-address"),
            ("the uplink's", mine(IP_A).reg(1, UPLINK.into()), "stale: matches-address"),
            ("another register", mine(IP_A).reg(2, B.into()), "stale: matches-address"),
            ("to it by a router", flow().dst(MAC_B).dst(IP_A).beyond(), "stale: matches-address"),
            ("a gateway's", mine(IP_A).dst("0a:00:00:00:00:01"), "stale: matches-address"),
        ]
    };
    let gateway = Live { network: None, is_pod: false, ..live(3, &["0a:00:00:00:00:01"]) };
    let input = plain().and_live(gateway).with(|c| c.dead[0].addresses.push(address("fd00::5")));
    let fresh = input.clone().with(|c| c.dead[0].lingered = false);
    dump(&fresh, &rows("kept: policy-waits"));
    dump(&input, &rows("stale: matches-address"));
    // The dead one's own load shows the register, too.
    let own = ("", flow().dst(MAC_A).load(1, A.into()).beyond(), "stale: matches-address");
    let rule = |word| ("by port", mine(IP_A).reg(1, B.into()), word);
    dump(&fresh, &[own, rule("kept: policy-waits")]);
    let other = ("", flow().dst(MAC_B).load(1, 77).beyond(), "kept: nothing-dead");
    dump(&fresh, &[other, rule("stale: matches-address")]);
    // Whoever is being ADDed with the address has the rule for it.
    let adding = Live { adding: true, born: Some(ago(10)), ..live(14, &[IP_A]) };
    let successor = input.and_live(adding);
    each(
        &successor,
        &[
            ("a leftover", mine(IP_A), "stale: matches-address"),
            ("by MAC", mine(IP_A).dst(MAC_B), "kept: has-live-owner"),
        ],
    );
    // So may have whoever is arriving, however old the rule is.
    let unknown = Live { network: None, addresses_known: false, ..live(14, &[]) };
    let arriving = plain().and_live(Live { born: Some(ago(10)), ..unknown });
    each(&arriving, &[("by MAC", mine(IP_A).dst(MAC_B), "kept: may-be-arriving")]);
}

#[test]
fn ages_of_entries_that_were_restored_in_bulk_prove_nothing() {
    let input = plain().with(|c| {
        c.dead[0].died = ago(600);
        c.switch_started = Some(ago(100));
    });
    each(
        &input,
        &[
            ("restored", flow().aged(99).dst(IP_A), "stale: matches-address"),
            ("restored last", flow().aged(70).dst(IP_A), "stale: matches-address"),
            ("made since", flow().aged(69).dst(IP_A), "kept: created-after-death"),
            (
                "the live-port guard stays",
                flow().aged(99).dst(IP_A).output(B),
                "kept: outputs-to-live-port",
            ),
        ],
    );
    let before = input.with(|c| c.switch_started = Some(ago(700)));
    each(&before, &[("no restart since", flow().aged(99).dst(IP_A), "kept: created-after-death")]);
}

#[test]
fn a_port_of_the_dead_is_not_a_live_port() {
    // Two dead pods whose rows are still there.
    let input = plain().with(|c| {
        c.dead.push(dead(15, &["10.0.0.15"]));
        for i in 0..2 {
            let port = c.dead[i].ofport.unwrap();
            c.ports.by_number.insert(port, c.dead[i].interface.unwrap());
        }
    });
    each(
        &input,
        &[
            ("to the other dead", flow().src(IP_A).output(15), "stale: matches-address"),
            ("from the other dead", flow().from(15).src(IP_A), "stale: matches-port"),
        ],
    );
}
