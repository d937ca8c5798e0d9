//! What real stacks put into a bridge (field notes, §2).

use super::*;

/// openshift-sdn: reg0 is the namespace's VNID; the tunnel's key is moved into it. `live`
/// is what is left of the namespace of `a`; b is the only pod of another one.
fn openshift(pods: &[(u16, &str)]) -> Vec<(&'static str, Flow, &'static str)> {
    let vnid = 0x0b_1234;
    let mut table = vec![
        (
            "b's classifier",
            flow().table(20).from(B).src(IP_B).load(0, 0x0c_5678).beyond(),
            "kept: nothing-dead",
        ),
        ("namespace: out", flow().table(70).reg(0, vnid).load(1, vnid).beyond(), ""),
        ("namespace: in", flow().table(80).reg(0, vnid).reg(1, vnid).beyond(), ""),
    ];
    for (port, ip) in pods {
        table.push(("classifier", flow().table(20).from(*port).src(ip).load(0, vnid).beyond(), ""));
        table.push((
            "delivery",
            flow().table(70).dst(ip).load(1, vnid).load(2, (*port).into()).beyond(),
            "",
        ));
    }
    table
}

fn tunnel_key() -> Flow {
    flow().table(10).from(TUNNEL).write(0, u32::MAX, None, false).beyond()
}

/// Every entry of the namespace that is not of a pod stays; the dead pod's go.
fn check_openshift(input: &JudgeInput, table: &[(&str, Flow, &str)]) {
    let flows: Vec<Flow> = table.iter().map(|row| row.1.clone()).collect();
    for ((name, flow, _), verdict) in table.iter().zip(verdicts(input, &flows)) {
        let own = flow.matches.addresses.iter().any(|m| m.address == address(IP_A));
        assert_eq!(verdict.stale, own, "{name}: {}", verdict.reason);
    }
}

#[test]
fn the_namespaces_entries_survive_its_first_second_and_last_pod() {
    // The default configuration, on a bridge that it is not made for; without the tunnel's
    // entry, which would settle the matter by itself.
    let mut facts = (false, false);
    let others: [(u16, &str); 2] = [(14, "10.0.0.7"), (15, "10.0.0.8")];
    for left in [2, 1, 0] {
        let input = node(RegisterSource::Learn { distinct_seen: facts.0, shared_seen: facts.1 });
        // A DEL: the namespace is still there.
        let input = input.with(|c| c.dead[0].seen_alive = ago(0));
        // b is another namespace's.
        let input = input.with(|c| c.live[0].member = member("other", B));
        let input = others[..left]
            .iter()
            .fold(input, |input, (port, ip)| input.and_live(live(*port, &[ip])));
        let mut pods = vec![(A, IP_A)];
        pods.extend(&others[..left]);
        let table = openshift(&pods);
        check_openshift(&input, &table);
        let flows: Vec<Flow> = table.into_iter().map(|row| row.1).collect();
        let learned = survey(&input, &flows);
        facts = (learned.networks[0].distinct_seen, learned.networks[0].shared_seen);
    }
    assert_eq!(facts, (false, true));
}

#[test]
fn a_namespace_that_only_ever_had_one_pod_is_saved_by_the_tunnels_entry() {
    let input = node(LEARN);
    let mut table = openshift(&[(A, IP_A)]);
    table.push(("tunnel", tunnel_key(), ""));
    check_openshift(&input, &table);
}

#[test]
fn with_its_preset_registers_are_no_evidence() {
    check_openshift(&plain(), &openshift(&[(A, IP_A)]));
}

#[test]
fn antrea_marks_in_reg0() {
    // reg0 is a bit field, reg1 the target port.
    for source in [LEARN, LEARN_FIRST, RegisterSource::Pod] {
        let mark = |f: Flow| f.write(0, 0xf, Some(3), false).beyond();
        dump(
            &node(source),
            &[
                ("a's classifier", mark(flow().table(0).from(A)), "stale: matches-port"),
                ("b's classifier", mark(flow().table(0).from(B)), "kept: nothing-dead"),
                (
                    "tunnel",
                    flow().table(0).from(TUNNEL).write(0, 0xf, Some(1), false).beyond(),
                    "kept: nothing-dead",
                ),
                (
                    "a's spoof guard",
                    flow().table(1).from(A).src(IP_A).src(MAC_A).beyond(),
                    "stale: matches-port",
                ),
                ("from pods", flow().table(5).mark(0, 3, 0xf).beyond(), "kept: nothing-dead"),
                (
                    "a's delivery",
                    flow()
                        .table(6)
                        .dst(MAC_A)
                        .load(1, A.into())
                        .write(0, 0x200, Some(0x200), false)
                        .beyond(),
                    "stale: matches-address",
                ),
                (
                    "b's delivery",
                    flow().table(6).dst(MAC_B).load(1, B.into()).beyond(),
                    "kept: nothing-dead",
                ),
                (
                    "output",
                    flow().table(9).mark(0, 0x200, 0x200).output_register(1, u32::MAX),
                    "kept: nothing-dead",
                ),
                (
                    "policy on a's port",
                    flow().table(8).reg(1, A.into()).conjunction(),
                    "kept: nothing-dead",
                ),
            ],
        );
    }
}

#[test]
fn a_fixed_ip_pod_moved_to_another_node() {
    dump(
        &plain(),
        &[
            ("what led to it here", flow().table(70).dst(IP_A).output(A), "stale: matches-address"),
            (
                "what leads to it there",
                flow().table(71).dst(IP_A).tunnel().output(TUNNEL),
                "kept: outputs-to-live-port",
            ),
            (
                "by flow-based tunnel",
                flow().table(72).dst(IP_A).tunnel().beyond(),
                "kept: sets-tunnel",
            ),
            (
                "what comes from there",
                flow().table(10).from(TUNNEL).src(IP_A).beyond(),
                "kept: arrives-elsewhere",
            ),
            (
                "ARP for it",
                flow().table(73).dst(IP_A).beyond().aged(30),
                "kept: created-after-death",
            ),
        ],
    );
}

#[test]
fn entries_of_everybody_survive() {
    dump(
        &plain(),
        &[
            (
                "flood list",
                flow().dst("ff:ff:ff:ff:ff:ff").output(A).output(B).output(UPLINK),
                "kept: only-mentions",
            ),
            ("flood list without a match", flow().output(A).output(B), "kept: only-mentions"),
            ("pipeline", flow().table(0).beyond(), "kept: nothing-dead"),
            (
                "goto beside its port",
                flow().dst("10.0.0.99").output(A).beyond(),
                "kept: only-mentions",
            ),
            ("gateway", flow().dst("10.0.0.1").output(65534), "kept: nothing-dead"),
            ("gateway's ARP", flow().src(IP_B).dst("10.0.0.1").beyond(), "kept: nothing-dead"),
            ("service", flow().dst("10.96.0.1").beyond(), "kept: nothing-dead"),
            (
                "same address, other VLAN",
                flow().from(UPLINK).src(IP_A).src(MAC_A),
                "kept: arrives-elsewhere",
            ),
            ("a VLAN's uplink", flow().dst(IP_A).output(UPLINK), "kept: outputs-to-live-port"),
        ],
    );
}
