use super::*;
use crate::judge::Reason;

#[test]
fn a_dead_port() {
    each(
        &plain(),
        &[
            ("classifier", flow().from(A).beyond(), "stale: matches-port"),
            ("spoof guard", flow().from(A).src(IP_A).beyond(), "stale: matches-port"),
            (
                "made after the death by a slow controller",
                flow().from(A).aged(5),
                "stale: matches-port",
            ),
            ("the live neighbour's", flow().from(B).src(IP_B).beyond(), "kept: nothing-dead"),
            ("the uplink's", flow().from(UPLINK).beyond(), "kept: nothing-dead"),
        ],
    );
}

#[test]
fn a_port_that_is_there_is_dead_only_on_the_dead_pods_own_row() {
    let own = plain().with(|c| {
        c.ports.by_number.insert(A, c.dead[0].interface.unwrap());
    });
    each(&own, &[("DEL, before the port goes", flow().from(A), "stale: matches-port")]);
    let other = plain().with(|c| {
        c.ports.by_number.insert(A, RowId(77));
    });
    each(
        &other,
        &[(
            "antrea #430: the number is another interface's",
            flow().from(A),
            "kept: has-live-owner",
        )],
    );
    let moved = plain().with(|c| c.ports.unassigned = true);
    each(&moved, &[("some interface waits for a number", flow().from(A), "kept: port-unsettled")]);
    let claimed = plain().with(|c| c.live[0].ofport = Some(A));
    each(&claimed, &[("a live record has the number", flow().from(A), "kept: has-live-owner")]);
}

#[test]
fn what_an_operator_excludes_is_no_evidence() {
    let scoped = plain().with(|c| {
        c.networks[0].tables = Some(vec![20]);
        c.networks[0].cookie = 0x50;
        c.networks[0].cookie_mask = 0xf0;
    });
    each(
        &scoped,
        &[
            ("another table", flow().cookie(0x51).from(A), "kept: out-of-scope"),
            ("another cookie", flow().table(20).cookie(0x61).from(A), "kept: out-of-scope"),
            ("ours", flow().table(20).cookie(0x151).from(A), "stale: matches-port"),
        ],
    );
    let off = plain().with(|c| {
        c.networks[0].match_port = false;
        c.networks[0].match_ip = false;
        c.networks[0].match_mac = false;
    });
    each(
        &off,
        &[
            ("port", flow().from(A), "kept: evidence-off"),
            ("ip", flow().dst(IP_A), "kept: evidence-off"),
            ("mac", flow().dst(MAC_A), "kept: evidence-off"),
            ("delivery", flow().dst(IP_A).output(A), "kept: evidence-off"),
        ],
    );
    let ovn = plain().with(|c| c.ovn = true);
    each(&ovn, &[("ovn-controller's", flow().from(A), "kept: ovn")]);
}

#[test]
fn a_dead_address() {
    each(
        &plain(),
        &[
            ("policy by source", flow().src(IP_A).beyond(), "stale: matches-address"),
            ("drop by destination", flow().dst(IP_A), "stale: matches-address"),
            ("by MAC", flow().dst(MAC_A).beyond(), "stale: matches-address"),
            ("ct_nw_src", flow().either(IP_A).beyond(), "stale: matches-address"),
            ("NORMAL after it", flow().src(IP_A).beyond(), "stale: matches-address"),
            ("a neighbour's", flow().dst(IP_B).output(B), "kept: nothing-dead"),
            // openshift/origin #14893, #11698: no token from an empty value.
            ("no address at all", flow().beyond(), "kept: nothing-dead"),
        ],
    );
}

#[test]
fn a_reassigned_address_alone_condemns_nothing() {
    let input = plain().and_live(live(14, &[IP_A]));
    each(
        &input,
        &[
            ("policy", flow().src(IP_A).beyond(), "kept: has-live-owner"),
            ("the new owner's delivery", flow().dst(IP_A).output(14), "kept: has-live-owner"),
            ("the dead MAC is dead still", flow().dst(MAC_A).beyond(), "stale: matches-address"),
        ],
    );
}

#[test]
fn empty_identities_match_nothing() {
    let input = plain().with(|c| {
        c.dead[0].ofport = Some(0);
        c.dead[0].addresses =
            ["0.0.0.0", "::", "00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "224.0.0.1"]
                .map(address)
                .to_vec();
        c.dead[0].register = Some(0);
        c.networks[0].register.source = RegisterSource::ExternalId;
    });
    each(
        &input,
        &[
            ("port 0", flow().from(0), "kept: nothing-dead"),
            ("any v4", flow().src("0.0.0.0"), "kept: nothing-dead"),
            ("any v6", flow().src("::"), "kept: nothing-dead"),
            ("broadcast", flow().dst("ff:ff:ff:ff:ff:ff").output(A), "kept: dangling"),
            ("multicast", flow().dst("224.0.0.1"), "kept: nothing-dead"),
            ("register reset", flow().load(0, 0), "kept: nothing-dead"),
            ("register start", flow().reg(0, 0), "kept: nothing-dead"),
        ],
    );
    let local = plain().with(|c| c.dead[0].ofport = Some(65534));
    each(&local, &[("k-vswitch lists the bridge first", flow().from(65534), "kept: nothing-dead")]);
}

#[test]
fn without_a_record_addresses_are_no_evidence() {
    let input = plain().with(|c| c.dead[0].recorded = false);
    each(
        &input,
        &[
            ("rule 1", flow().from(A), "stale: matches-port"),
            ("rule 3", flow().src(IP_A), "kept: no-record"),
            ("rule 4", flow().dst(IP_A).output(A), "stale: delivers-to-nobody"),
            ("another IPv4", flow().dst("10.9.9.9").output(A), "kept: only-mentions"),
        ],
    );
    // The port's marks name an IPv4 alone: its MAC and its IPv6 are not known.
    let by_marks = input.with(|c| c.dead[0].addresses = vec![address(IP_A)]);
    each(
        &by_marks,
        &[
            ("its MAC", flow().dst(MAC_A).output(A), "stale: delivers-to-nobody"),
            ("an IPv6", flow().dst("fd00::9").output(A), "stale: delivers-to-nobody"),
            ("another IPv4", flow().dst("10.9.9.9").output(A), "kept: only-mentions"),
        ],
    );
    // A service's address, or a router's, is rewritten to the pod's.
    let unknown = by_marks.clone().with(|c| c.dead[0].addresses.clear());
    let service = || flow().dst("10.96.0.10").rewrite().output(A);
    each(
        &unknown,
        &[
            ("a service's", service(), "kept: only-mentions"),
            (
                "a router's",
                flow().dst("0a:58:0a:00:00:01").rewrite().output(A),
                "kept: only-mentions",
            ),
            ("plain", flow().dst("10.9.9.9").output(A), "stale: delivers-to-nobody"),
        ],
    );
    each(
        &by_marks,
        &[
            ("a service's IPv6", flow().dst("fd00::9").rewrite().output(A), "kept: only-mentions"),
            ("its own", flow().dst(IP_A).rewrite().output(A), "stale: delivers-to-nobody"),
        ],
    );
    let cluster = plain().with(|c| {
        (c.dead[0].ip_evidence, c.dead[0].mac_evidence) = (false, false);
    });
    each(
        &cluster,
        &[
            ("ip, cluster", flow().src(IP_A), "kept: may-live-elsewhere"),
            ("mac, cluster", flow().src(MAC_A), "kept: may-live-elsewhere"),
        ],
    );
}

#[test]
fn an_address_is_an_address_within_its_vlan() {
    let (stale, other) = ("stale: matches-address", "kept: another-vlan");
    let tagged = |vlans: &[u16]| plain().with(|c| c.dead[0].vlans = vlans.to_vec());
    let mine = |vlan| flow().vlan(vlan).src(IP_A);
    each(
        &tagged(&[100]),
        &[
            ("its own", mine(100), stale),
            ("another's", mine(200), other),
            ("another's, to it", flow().vlan(200).dst(IP_A), other),
            ("another's MAC", flow().vlan(200).dst(MAC_A).beyond(), other),
            ("no VLAN", flow().src(IP_A), stale),
            ("by its port", mine(200).from(A), "stale: matches-port"),
            ("to its port", flow().vlan(200).dst(IP_A).output(A), "stale: delivers-to-nobody"),
        ],
    );
    each(&tagged(&[100, 200]), &[("a trunk", mine(200), stale), ("beside it", mine(300), other)]);
    // A port without a tag may be in any VLAN, unless it is shown to be somebody else's.
    each(&plain(), &[("nobody is in it", mine(200), stale)]);
    let strange = || Live { network: None, addresses_known: false, born: None, ..live(14, &[]) };
    let beside = plain().and_live(Live { vlans: vec![200], ..strange() });
    each(&beside, &[("a machine is", mine(200), other), ("nobody is", mine(100), stale)]);
    dump(
        &plain().and_live(strange()),
        &[
            ("a machine's classifier", flow().from(14).into_vlan(200), "kept: nothing-dead"),
            ("its own classifier", flow().from(A).into_vlan(100), "stale: matches-port"),
            ("an uplink's", flow().from(UPLINK).vlan(300).beyond(), "kept: nothing-dead"),
            ("a machine's", mine(200), other),
            ("its own", mine(100), stale),
            ("from the uplink", mine(300), other),
        ],
    );
}

/// A port without a tag is in the VLANs that flows put its packets into, and in no other. Whether
/// it had a tag is known of it longer than its row is there.
#[test]
fn an_untagged_port_is_in_no_vlan_that_nothing_puts_it_into() {
    let (stale, other) = ("stale: matches-address", "kept: another-vlan");
    let untagged = |vlans: &[u16]| plain().with(|c| c.dead[0].vlans = [&[0], vlans].concat());
    let mine = |vlan| flow().vlan(vlan).src(IP_A);
    each(&untagged(&[]), &[("another's", mine(200), other), ("no VLAN", flow().src(IP_A), stale)]);
    // What its flows showed before they were deleted, or a tag that came later.
    each(&untagged(&[100]), &[("its own", mine(100), stale), ("another's", mine(200), other)]);
    let anybody = flow().reg(0, 7).into_vlan(200);
    let pipeline = ("pipeline", anybody.clone(), "kept: nothing-dead");
    dump(&untagged(&[]), &[pipeline, ("may be its own", mine(200), stale)]);
    let pipeline = ("pipeline", anybody, "kept: nothing-dead");
    dump(&untagged(&[]), &[pipeline, ("cannot be its own", mine(300), other)]);
    let mut unread = flow().reg(0, 7).beyond();
    unread.actions.any_vlan = true;
    dump(
        &untagged(&[]),
        &[("from a register", unread, "kept: nothing-dead"), ("any", mine(200), stale)],
    );
    let uplink = flow().from(UPLINK).into_vlan(200);
    dump(&untagged(&[]), &[("uplink", uplink, "kept: nothing-dead"), ("its", mine(200), other)]);
}

/// Packets of an uplink's peers come in a VLAN that no flow puts them into.
#[test]
fn a_flow_that_delivers_to_an_untagged_port_shows_its_vlan() {
    let (stale, other) = ("stale: matches-address", "kept: another-vlan");
    let untagged = plain().with(|c| c.dead[0].vlans = vec![0]);
    let deliver = flow().vlan(7).dst(IP_A).output(A);
    dump(
        &untagged,
        &[
            ("delivers", deliver.clone(), "stale: matches-address"),
            ("in its VLAN", flow().vlan(7).dst(IP_A).beyond(), stale),
            ("in another", flow().vlan(8).dst(IP_A).beyond(), other),
        ],
    );
    let elsewhere = flow().vlan(7).dst(IP_A).output(UPLINK);
    let in_vlan = flow().vlan(7).dst(IP_A).beyond();
    dump(&untagged, &[("to others", elsewhere, other), ("in it", in_vlan.clone(), other)]);
    // The number is somebody else's by now, and so may be the VLAN.
    let taken = untagged.clone().and_live(live(A, &[]));
    dump(&taken, &[("to the next", deliver, other), ("in it", in_vlan, other)]);
}

/// A machine with the dead pod's address and without a record, in VLAN 200 by its port's tag.
fn machine() -> Live {
    let marked = Live { network: None, addresses_known: false, born: None, ..live(14, &[]) };
    Live { vlans: vec![200], ..marked }
}

/// Guards against hopping, routing and mirrors name VLANs that are not the port's.
#[test]
fn a_flow_that_mentions_a_vlan_does_not_put_a_tagged_port_into_it() {
    let (stale, other) = ("stale: matches-address", "kept: another-vlan");
    let mention = [
        flow().from(A).vlan(200),
        flow().from(A).dst("192.168.0.1").into_vlan(200).output(UPLINK),
        flow().from(A).into_vlan(200),
    ];
    let of = |vlan: u16| flow().vlan(vlan).src(IP_A).beyond();
    let both = |input: &JudgeInput, mention: &Flow, expected| {
        let by = if mention.matches.in_port.is_some() { "stale: matches-port" } else { stale };
        let mention = ("a mention", mention.clone(), by);
        let own = dead_vlan(input).map(|vlan| ("its own", of(vlan), stale));
        let rows: Vec<_> = [Some(mention), own, Some(("the VLAN's", of(200), expected))]
            .into_iter()
            .flatten()
            .collect();
        dump(input, &rows);
    };
    for mention in &mention {
        for vlans in [&[100][..], &[0], &[100, 0], &[]] {
            let input = plain().with(|c| c.dead[0].vlans = vlans.to_vec());
            both(&input.and_live(machine()), mention, other);
        }
        // The tag decides, whoever else has one.
        let tagged = plain().with(|c| c.dead[0].vlans = vec![100]);
        both(&tagged, mention, other);
        assert!(survey(&tagged, std::slice::from_ref(mention)).shown_vlans(DeadId(0)).is_empty());
    }
    // A port without a tag is where its flows put its packets, and not where they drop them.
    let untagged = plain().with(|c| c.dead[0].vlans = vec![0]);
    both(&untagged, &mention[0], other);
    both(&untagged, &mention[1], stale);
    // An uplink's trunks are for every pod.
    let uplink = Live { is_pod: false, ..machine() };
    both(&untagged.clone().and_live(uplink), &mention[1], stale);
    // What is delivered to its port is in its VLAN, whose tag it may be.
    let deliver = flow().vlan(200).dst(IP_A).output(A);
    both(&untagged.and_live(machine()), &deliver, stale);
}

fn dead_vlan(input: &JudgeInput) -> Option<u16> {
    input.dead[0].vlans.iter().copied().find(|vlan| *vlan != 0)
}

#[test]
fn a_former_tag_counts_while_nobody_else_has_it() {
    let (stale, other) = ("stale: matches-address", "kept: another-vlan");
    let of = |vlan: u16| flow().vlan(vlan).src(IP_A).beyond();
    let moved = plain().with(|c| {
        (c.dead[0].vlans, c.dead[0].vlans_before) = (vec![100, 200], vec![200]);
    });
    each(&moved, &[("of now", of(100), stale), ("of then", of(200), stale), ("", of(300), other)]);
    let came = moved.clone().and_live(machine());
    each(&came, &[("of now", of(100), stale), ("the machine's", of(200), other)]);
    let recorded = moved.and_live(Live { vlans: vec![200], ..live(14, &["10.0.0.7"]) });
    each(&recorded, &[("of now", of(100), stale), ("a pod's", of(200), other)]);
}

#[test]
fn what_a_dead_ports_flows_show_of_vlans_is_told() {
    let input = plain();
    let learned = survey(&input, &[flow().from(A).into_vlan(100), flow().from(B).vlan(200)]);
    assert_eq!(learned.shown_vlans(DeadId(0)), [100]);
    let taken = plain().and_live(live(A, &[]));
    assert!(survey(&taken, &[flow().from(A).into_vlan(100)]).shown_vlans(DeadId(0)).is_empty());
}

#[test]
fn one_address_in_two_vlans_has_two_owners() {
    let in_vlan = |vlans: &[u16]| Live { vlans: vlans.to_vec(), ..live(14, &[IP_A]) };
    let tagged = || plain().with(|c| c.dead[0].vlans = vec![100]);
    let mine = |vlan| flow().vlan(vlan).src(IP_A);
    each(
        &tagged().and_live(in_vlan(&[200])),
        &[
            ("the dead one's", mine(100), "stale: matches-address"),
            ("the living one's", mine(200), "kept: another-vlan"),
            ("of either", flow().src(IP_A), "kept: has-live-owner"),
        ],
    );
    for vlans in [&[][..], &[100], &[100, 200]] {
        let input = tagged().and_live(in_vlan(vlans));
        each(&input, &[("in the same", mine(100), "kept: has-live-owner")]);
    }
    let untagged = plain().and_live(in_vlan(&[200]));
    each(&untagged, &[("nobody knows", mine(100), "kept: has-live-owner")]);
}

/// Part of a dump does not show who else is in a VLAN.
#[test]
fn a_vlan_that_nothing_in_part_of_a_dump_shows() {
    let input = plain();
    let mine = flow().vlan(200).src(IP_A);
    let mut survey = Survey::partial(&input);
    survey.see(&mine);
    let learned = survey.finish();
    let verdict = Judge::new(&input, &learned).verdict(&mine);
    assert_eq!(words(&verdict), "kept: another-vlan");
    let tagged = plain().with(|c| c.dead[0].vlans = vec![200]);
    let mut survey = Survey::partial(&tagged);
    survey.see(&mine);
    let learned = survey.finish();
    assert!(Judge::new(&tagged, &learned).verdict(&mine).stale);
}

#[test]
fn delivery_to_nobody() {
    // The address lives on behind another port; what delivers it to the dead port does not.
    // The new owner may be as old as anything, so rule 5 has no say.
    let input = plain().and_live(Live { born: None, ..live(14, &[IP_A, MAC_A]) });
    each(
        &input,
        &[
            ("by IP", flow().dst(IP_A).output(A), "stale: delivers-to-nobody"),
            ("by MAC", flow().dst(MAC_A).output(A), "stale: delivers-to-nobody"),
            ("a service's address", flow().dst("10.9.9.9").output(A), "kept: only-mentions"),
            (
                "headers and registers edited",
                flow().dst(IP_A).load(3, 7).output(A),
                "stale: delivers-to-nobody",
            ),
            ("twice", flow().dst(IP_A).output(A).output(A), "stale: delivers-to-nobody"),
            (
                "also to somebody alive",
                flow().dst(IP_A).output(A).output(B),
                "kept: has-live-owner",
            ),
            (
                "goto, ct, NORMAL, group, learn …",
                flow().dst(IP_A).output(A).beyond(),
                "kept: has-live-owner",
            ),
            ("from a live port", flow().from(B).dst(IP_A).output(A), "kept: has-live-owner"),
            ("from a live address", flow().src(IP_B).dst(IP_A).output(A), "kept: has-live-owner"),
            (
                "of a live address's connection",
                flow().either(IP_B).dst(IP_A).output(A),
                "kept: has-live-owner",
            ),
            ("no destination: a mirror", flow().output(A), "kept: only-mentions"),
            (
                "a flood group's address",
                flow().dst("ff:ff:ff:ff:ff:ff").output(A),
                "kept: only-mentions",
            ),
            (
                "flood list",
                flow().dst("01:00:5e:00:00:01").output(A).output(B),
                "kept: only-mentions",
            ),
            ("nothing is output", flow().dst(IP_A), "kept: has-live-owner"),
        ],
    );
}

/// A rule of a living pod's own policy for an address that somebody dead had: Neutron does not
/// install the rules of `remote_ip_prefix` again for the address's next owner.
#[test]
fn what_the_living_send_to_a_dead_address_is_theirs() {
    let input = node(LEARN).with(|c| c.live[0].register = LiveRegister::Is(4102));
    let kept = "kept: belongs-to-a-live-pod";
    each(
        &input,
        &[
            ("by register", flow().reg(0, 4102).dst(IP_A).beyond(), kept),
            ("by port", flow().from(B).dst(IP_A).beyond(), kept),
            ("a policy's", flow().src(IP_B).dst(IP_A).beyond(), "stale: matches-address"),
            ("by MAC", flow().src(MAC_B).dst(IP_A).beyond(), kept),
            ("nobody's register", flow().reg(0, 9).dst(IP_A).beyond(), "stale: matches-address"),
            ("to the living", flow().src(IP_A).dst(MAC_B).beyond(), "stale: matches-address"),
        ],
    );
    // B was given the number that the dead one had.
    let successor = input.with(|c| c.dead[0].previous_ofports = vec![B]);
    each(
        &successor,
        &[
            ("the successor's", flow().from(B).dst(IP_A).beyond(), kept),
            ("a leftover", flow().from(B).src(IP_A).beyond(), "stale: matches-address"),
        ],
    );
}

#[test]
fn from_a_live_register_a_delivery_is_kept() {
    let input = node(LEARN).with(|c| c.live[0].register = LiveRegister::Is(4102));
    let register = LiveRegister::Is(4103);
    let input = input.and_live(Live { born: None, register, ..live(14, &[IP_A]) });
    each(
        &input,
        &[
            (
                "from a live identity",
                flow().reg(0, 4102).dst(IP_A).output(A),
                "kept: has-live-owner",
            ),
            ("from nobody's", flow().reg(0, 9999).dst(IP_A).output(A), "stale: delivers-to-nobody"),
        ],
    );
}

/// Port and address went to two different pods.
fn torn() -> JudgeInput {
    let young = |l: Live| Live { born: Some(ago(30)), ..l };
    plain().and_live(young(live(A, &["10.0.0.7"]))).and_live(young(live(14, &[IP_A, MAC_A])))
}

#[test]
fn a_pair_that_nobody_alive_has() {
    each(
        &torn(),
        &[
            ("spoof guard", flow().from(A).src(IP_A).beyond(), "stale: nobody-has-both"),
            ("spoof guard, MAC", flow().from(A).src(MAC_A).beyond(), "stale: nobody-has-both"),
            ("delivery", flow().dst(IP_A).output(A), "stale: nobody-has-both"),
            ("delivery, MAC", flow().dst(MAC_A).output(A), "stale: nobody-has-both"),
            ("not on one side", flow().from(A).dst(IP_A).beyond(), "kept: has-live-owner"),
            ("either side", flow().from(A).either(IP_A).beyond(), "kept: has-live-owner"),
            ("does more than deliver", flow().dst(IP_A).output(A).beyond(), "kept: has-live-owner"),
            (
                "delivers to others too",
                flow().dst(IP_A).output(A).output(B),
                "kept: has-live-owner",
            ),
            ("younger than an owner", flow().aged(20).from(A).src(IP_A), "kept: has-live-owner"),
            ("one token alone", flow().from(A).beyond(), "kept: has-live-owner"),
        ],
    );
}

#[test]
fn a_pair_that_somebody_alive_may_have_is_kept() {
    let spoof = || [("spoof guard", flow().from(A).src(IP_A).beyond(), "kept: has-live-owner")];
    let owner = torn().live.len() - 2;
    each(&torn().with(|c| c.live[owner].addresses.push(address(IP_A))), &spoof());
    each(&torn().with(|c| c.live[owner].addresses_known = false), &spoof());
    each(&torn().with(|c| c.live[owner].born = None), &spoof());
    each(&torn().with(|c| c.live[owner + 1].ofport = None), &spoof());
    each(&torn().with(|c| c.live[owner].born = Some(ago(9000))), &spoof());
    let unexplained = torn().with(|c| {
        c.live.remove(owner);
    });
    each(&unexplained, &spoof());
    let no_record = torn().with(|c| c.dead[0].recorded = false);
    each(&no_record, &spoof());
}

#[test]
fn a_pair_beats_the_guards() {
    // The number went to another pod, the address to nobody; the entry is a policy member
    // that would have to wait.
    let input = plain()
        .and_live(Live { born: Some(ago(30)), ..live(A, &["10.0.0.7"]) })
        .with(|c| c.dead[0].lingered = false);
    each(
        &input,
        &[
            ("pair", flow().from(A).src(IP_A).dst(IP_B).conjunction(), "stale: nobody-has-both"),
            ("address alone", flow().src(IP_A).dst(IP_B).conjunction(), "kept: policy-waits"),
        ],
    );
}

#[test]
fn a_pair_with_a_register() {
    let young = |port, value| Live {
        born: Some(ago(30)),
        register: LiveRegister::Is(value),
        ..live(port, &[])
    };
    let input = node(RegisterSource::Pod)
        .with(|c| {
            c.dead[0].register = Some(4101);
            c.live[0].register = LiveRegister::Is(4102);
        })
        .and_live(young(A, 4107))
        .and_live(young(14, 4101));
    each(
        &input,
        &[
            ("gives b what a had", flow().from(A).load(0, 4101).beyond(), "stale: nobody-has-both"),
            ("matches both", flow().from(A).reg(0, 4101).beyond(), "stale: nobody-has-both"),
            (
                "the new owner's",
                flow().from(14).load(0, 4101).beyond(),
                "kept: register-not-proven",
            ),
            ("younger", flow().aged(20).from(A).load(0, 4101), "kept: register-not-proven"),
        ],
    );
    let unknown = input.clone().with(|c| c.live[1].register = LiveRegister::Unknown);
    each(
        &unknown,
        &[(
            "the port's owner may have it",
            flow().from(A).reg(0, 4101),
            "kept: register-not-proven",
        )],
    );
    let unrecorded_port = input.with(|c| {
        c.live[1].network = None;
        c.live[1].register = LiveRegister::Absent;
    });
    each(
        &unrecorded_port,
        &[("nobody recorded it", flow().from(A).load(0, 4101), "kept: register-not-proven")],
    );
}

#[test]
fn dangling() {
    let reap = || plain().with(|c| c.networks[0].reap_dangling = true);
    let rows = |input: &JudgeInput, word| {
        each(
            input,
            &[
                ("in_port", flow().from(99), word),
                ("output", flow().output(99), word),
                ("output to somebody too", flow().output(99).output(B), "kept: nothing-dead"),
            ],
        );
    };
    rows(&plain(), "kept: dangling");
    rows(&reap(), "stale: dangling");
    let more = [("more than output", flow().output(99).beyond(), "kept: dangling")];
    each(&reap(), &more);
    let two = reap().with(|c| c.networks.push(network(RegisterSource::None)));
    rows(&two, "kept: dangling");
    let other_scope = two.with(|c| c.networks[1].tables = Some(vec![99]));
    rows(&other_scope, "stale: dangling");
    let quiet =
        |input: JudgeInput| each(&input, &[("in_port", flow().from(99), "kept: nothing-dead")]);
    quiet(reap().with(|c| c.ports.unassigned = true));
    quiet(reap().with(|c| c.ports.by_number.clear()));
    quiet(reap().and_live(live(99, &[])));
    // A row asks for it whose device is missing: the entries are for the one who comes back.
    let asked = reap().with(|c| c.ports.requested.extend([99]));
    rows(&asked, "kept: nothing-dead");
    let other = reap().with(|c| c.ports.requested.extend([98]));
    rows(&other, "stale: dangling");
}

#[test]
fn leftovers_of_the_dead_do_not_hide_behind_a_pod_that_is_being_added() {
    // ADD of a pod that is 10 s old and was given a's port and address.
    let adding = Live { adding: true, born: Some(ago(10)), ..live(A, &[IP_A]) };
    let input = plain().and_live(adding.clone());
    let table = [
        ("classifier", flow().from(A).beyond(), "stale: matches-port"),
        ("drop", flow().dst(IP_A), "stale: matches-address"),
        ("its own classifier", flow().aged(5).from(A).beyond(), "kept: has-live-owner"),
        ("its own policy", flow().aged(5).dst(IP_A), "kept: has-live-owner"),
        ("made in between", flow().aged(40).dst(IP_A), "kept: has-live-owner"),
        ("delivers to its port", flow().dst(IP_A).output(A), "kept: outputs-to-live-port"),
        ("policy member", flow().dst(IP_A).conjunction(), "kept: has-live-owner"),
        ("policy member, two pods", flow().dst(IP_A).src(IP_B), "kept: has-live-owner"),
    ];
    each(&input, &table);
    let ageless = plain().and_live(Live { born: None, ..adding.clone() });
    each(&ageless, &[("classifier", flow().from(A).beyond(), "kept: has-live-owner")]);
    // Another one with the same claims protects as ever.
    let two = input.and_live(live(A, &[IP_A]));
    each(
        &two,
        &[
            ("classifier", flow().from(A).beyond(), "kept: has-live-owner"),
            ("drop", flow().dst(IP_A), "kept: has-live-owner"),
        ],
    );
}

#[test]
fn a_pod_that_is_being_added_does_not_hide_that_the_row_is_another_dead_pods() {
    // Port 12 was a's before it was c's; c's row is still there, in a network that does
    // not look at this table.
    let input = plain().with(|c| {
        c.networks.push(Network { tables: Some(vec![99]), ..network(RegisterSource::None) });
        c.dead.push(Dead { network: NetworkId(1), interface: Some(RowId(7)), ..dead(A, &[]) });
        c.ports.by_number.insert(A, RowId(7));
    });
    each(&input, &[("classifier", flow().from(A).beyond(), "kept: has-live-owner")]);
    let adding = Live { adding: true, born: Some(ago(10)), ..live(A, &[]) };
    let input = input.with(|c| c.live.push(adding));
    each(&input, &[("classifier", flow().from(A).beyond(), "kept: has-live-owner")]);
}

#[test]
fn stale_wins_and_names_its_dead() {
    // The second network is not interested in this table.
    let input = plain().with(|c| {
        c.networks.push(Network { tables: Some(vec![99]), ..network(RegisterSource::None) });
        c.dead.insert(0, Dead { network: NetworkId(1), ..dead(15, &["10.0.0.15"]) });
    });
    let flow = flow().src("10.0.0.15").dst(IP_A);
    let verdict = verdicts(&input, &[flow])[0];
    assert_eq!(
        (words(&verdict).as_str(), verdict.dead),
        ("stale: matches-address", Some(DeadId(1)))
    );
    assert_eq!(verdict.reason.rule(), Some(3));
    assert_eq!(verdict.reason.to_string(), "matches ip 10.0.0.5, the dead pod's address");
}

#[test]
fn the_words_of_a_reason_are_its_json() {
    let port = crate::judge::Token::Port(12);
    for reason in [
        Reason::MatchesPort { port },
        Reason::NobodyHasBoth { port, with: address(IP_A).into() },
        Reason::Ovn,
        Reason::NothingDead,
        Reason::Dangling { port: 3 },
    ] {
        let json = serde_json::to_value(reason).unwrap();
        assert_eq!(json["kind"], reason.as_str());
    }
    let json = serde_json::to_value(Reason::RegisterNotProven {
        register: crate::judge::RegisterToken { index: 0, mask: u32::MAX, value: 7 }.into(),
        why: crate::judge::NotProven::LiveHasIt(LiveId(3)),
    });
    let expected = r#"{"kind":"register-not-proven","register":"reg0 7","why":"live-has-it"}"#;
    assert_eq!(json.unwrap().to_string(), expected);
}

/// Each of the dead waits for its own reason: what the first is told to wait for may be over, or
/// never come, for another.
#[test]
fn what_keeps_a_flow_is_told_for_each_of_the_dead() {
    let input = plain()
        .with(|c| {
            c.dead[0].lingered = false;
            c.dead.push(dead(15, &["10.0.0.15"]));
        })
        .and_live(live(16, &["10.0.0.15"]));
    let member = flow().src(IP_A).dst("10.0.0.15");
    let learned = survey(&input, &[]);
    let judge = Judge::new(&input, &learned);
    let kept = judge.kept_for(&member);
    let told: Vec<_> = kept.iter().map(|v| (v.dead, v.reason.as_str(), v.stale)).collect();
    let expected = [(0, "policy-waits", false), (1, "has-live-owner", false)];
    assert_eq!(told, expected.map(|(i, reason, stale)| (Some(DeadId(i)), reason, stale)));
    assert_eq!(judge.verdict(&member).dead, Some(DeadId(0)), "the verdict tells of one");
}
