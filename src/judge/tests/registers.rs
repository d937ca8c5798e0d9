use super::*;
use crate::judge::{NetworkFacts, NotProven, Reason};

const ID_A: u32 = 4101;
const ID_B: u32 = 4102;

/// Each pod's classifier gives it an id.
fn classifier(port: u16, id: u32) -> Flow {
    flow().table(0).from(port).load(0, id).beyond()
}

fn policy(id: u32) -> Flow {
    flow().table(20).reg(0, id)
}

/// Why `ID_A` does not condemn its policy entry; `None`: it does.
#[track_caller]
fn doubt(input: &JudgeInput, flows: &[Flow]) -> Option<NotProven> {
    let mut all = flows.to_vec();
    all.push(policy(ID_A));
    let found = verdicts(input, &all);
    all.reverse();
    let reversed = verdicts(input, &all);
    assert_eq!(found.last(), reversed.first(), "the order of the dump matters");
    match found.last().unwrap().reason {
        Reason::RegisterNotProven { why, .. } => Some(why),
        Reason::MatchesRegister { .. } => None,
        other => panic!("no word on registers: {other}"),
    }
}

fn two() -> Vec<Flow> {
    vec![classifier(A, ID_A), classifier(B, ID_B)]
}

#[test]
fn an_id_of_its_own_is_learned_and_condemns() {
    // Shown in this very dump: two pods of one workload, two values.
    dump(
        &node(LEARN_FIRST),
        &[
            ("a's classifier", classifier(A, ID_A), "stale: matches-port"),
            ("b's classifier", classifier(B, ID_B), "kept: nothing-dead"),
            ("a's policy", policy(ID_A), "stale: matches-register"),
            ("b's policy", policy(ID_B), "kept: nothing-dead"),
            ("by another name", flow().dst(IP_A).load(0, ID_A), "stale: sets-register"),
            ("a mark in it", flow().mark(0, 5, 0xf), "kept: nothing-dead"),
        ],
    );
    let input = node(LEARN_FIRST);
    let learned = survey(&input, &two());
    assert_eq!(*learned.dead_registers, [Some(ID_A)]);
    assert_eq!(*learned.live_registers, [Some(ID_B)]);
    assert_eq!(*learned.networks, [NetworkFacts { distinct_seen: true, shared_seen: false }]);
}

/// Between its record and its death it was given another value: what its own row's number loads
/// counts, and nothing that was put after the death or before the birth.
#[test]
fn what_a_dead_pods_own_port_loads_now_beats_its_record() {
    let input = |row: bool| {
        node(RegisterSource::Pod).with(|c| {
            (c.dead[0].register, c.dead[0].born) = (Some(ID_A), Some(ago(7300)));
            if row {
                c.ports.by_number.insert(A, c.dead[0].interface.unwrap());
            }
        })
    };
    let moved = |age: u64| [classifier(A, 77).aged(age), classifier(B, ID_B)];
    assert_eq!(*survey(&input(true), &moved(7200)).dead_registers, [Some(77)]);
    let found = verdicts(&input(true), &[&moved(7200)[..], &[policy(77), policy(ID_A)]].concat());
    assert_eq!(words(&found[2]), "stale: matches-register");
    assert_eq!(words(&found[3]), "kept: nothing-dead", "it may be anybody's by now");
    for age in [10, 7400] {
        assert_eq!(*survey(&input(true), &moved(age)).dead_registers, [Some(ID_A)], "{age} s");
    }
    assert_eq!(*survey(&input(false), &moved(7200)).dead_registers, [Some(ID_A)], "no row");
    let reused = input(true).and_live(live(A, &[]));
    assert_eq!(*survey(&reused, &moved(7200)).dead_registers, [Some(ID_A)], "another has it");
}

/// What a group's bucket loads, whoever sends to the group has.
#[test]
fn a_value_that_a_groups_bucket_loads_is_no_pods_own() {
    let verdict = |source, bucket: Flow, rule: Flow| {
        let input = node(source).with(|c| {
            c.dead[0].register = Some(ID_A);
            c.live[0].register = LiveRegister::Is(ID_B);
        });
        let mut survey = Survey::new(&input);
        survey.see_bucket(&bucket.actions);
        let flows = [&two()[..], &[rule]].concat();
        let wanted: Vec<bool> = flows.iter().map(|flow| survey.see(flow)).collect();
        let learned = survey.finish();
        let judge = Judge::new(&input, &learned);
        let found = judge.verdict(&flows[2]);
        assert!(wanted[2] || !found.stale);
        assert!(judge.verdict(&flows[0]).stale, "the port's number is evidence by itself");
        words(&found)
    };
    let (kept, stale) = ("kept: register-not-proven", "stale: matches-register");
    for (what, bucket, word) in [
        ("its value", flow().load(0, ID_A), kept),
        ("in a clone", flow().write(0, u32::MAX, Some(ID_A), true), kept),
        ("another value", flow().load(0, 77), stale),
        ("in another register", flow().load(1, ID_A), stale),
        ("a move into it", flow().write(0, u32::MAX, None, false), kept),
        ("a mark in it", flow().write(0, 0xf, Some(1), false), kept),
        ("no register", flow().output(B), stale),
    ] {
        assert_eq!(verdict(LEARN, bucket.clone(), policy(ID_A)), word, "{what}");
        let vouched = verdict(RegisterSource::Pod, bucket, policy(ID_A));
        let vague = what.starts_with("a m");
        assert_eq!(vouched, if vague { stale } else { word }, "{what}, vouched for");
    }
    // A computed value is the token that it is computed from, whoever loads it.
    let number = |source| verdict(source, flow().load(0, ID_A), policy(ID_A));
    assert_eq!(number(RegisterSource::ExternalId), stale);
    let mut unread = flow();
    unread.actions.unread = true;
    assert_eq!(verdict(LEARN, unread, policy(ID_A)), kept);
}

/// An output that takes its port from a register in a bucket is one like any other's.
#[test]
fn a_bucket_that_outputs_to_a_register_delivers() {
    let loads = flow().dst(IP_A).load(5, B.into()).beyond();
    let verdict = |bucket: Flow| {
        let input = plain();
        let mut survey = Survey::new(&input);
        survey.see_bucket(&bucket.actions);
        survey.see(&loads);
        let learned = survey.finish();
        words(&Judge::new(&input, &learned).verdict(&loads))
    };
    assert_eq!(verdict(flow().output_register(5, 0xffff)), "kept: loads-live-port");
    assert_eq!(verdict(flow().output_register(6, 0xffff)), "stale: matches-address");
}

#[test]
fn one_pod_alone_proves_nothing() {
    let alone = || node(LEARN_FIRST).with(|c| c.live.clear());
    let flows = [classifier(A, ID_A)];
    assert_eq!(doubt(&alone(), &flows), Some(NotProven::NeedsSecondAttachment));
    let remembered = alone().with(|c| c.networks[0].register.source = LEARN);
    assert_eq!(doubt(&remembered, &flows), None);
    let vouched = alone().with(|c| c.networks[0].register.source = RegisterSource::Pod);
    assert_eq!(doubt(&vouched, &flows), None);
    let none = alone().with(|c| c.networks[0].register.source = RegisterSource::None);
    assert_eq!(words(&verdicts(&none, &[policy(ID_A)])[0]), "kept: nothing-dead");
}

#[test]
fn pods_of_different_workloads_prove_nothing() {
    let of = |a: Option<Member>, b: Option<Member>| {
        node(LEARN_FIRST).with(|c| (c.dead[0].member, c.live[0].member) = (a, b))
    };
    let why = Some(NotProven::NeedsSecondAttachment);
    let by_name = |namespace, name| Member::by_name(namespace, name);
    for (what, a, b) in [
        ("nothing is known", None, None),
        ("of one", member("w", A), None),
        ("two workloads", member("w", A), member("v", B)),
        ("one pod", member("w", A), member("w", A)),
        ("a StatefulSet", by_name("ns", "db-0"), by_name("ns", "db-1")),
        ("two bare pods", by_name("ns", "web"), by_name("ns", "db")),
        ("a DaemonSet", by_name("ns", "proxy-x2k9z"), by_name("ns", "proxy-bqxpl")),
        (
            "two ReplicaSets of one Deployment",
            by_name("ns", "web-7d4f8b9c6f-x2k9z"),
            by_name("ns", "web-558bd4d5db-bqxpl"),
        ),
        (
            "two namespaces",
            by_name("red", "web-7d4f8b9c6f-x2k9z"),
            by_name("blue", "web-7d4f8b9c6f-bqxpl"),
        ),
    ] {
        assert_eq!(doubt(&of(a.clone(), b.clone()), &two()), why, "{what}");
        let remembered = of(a, b).with(|c| c.networks[0].register.source = LEARN);
        assert_eq!(doubt(&remembered, &two()), None, "{what}, but others were told apart");
    }
    let (a, b) = ("web-7d4f8b9c6f-x2k9z", "web-7d4f8b9c6f-bqxpl");
    assert_eq!(doubt(&of(by_name("ns", a), by_name("ns", b)), &two()), None);
}

/// Found by tests/model: a port that nobody recorded left a classifier of another tenant under
/// a number. Its next owner had no entries yet, and looked as if it had that tenant's value.
#[test]
fn what_may_be_left_of_somebody_before_proves_nothing() {
    let proves = |change: &dyn Fn(&mut JudgeInput)| {
        survey(&node(LEARN_FIRST).with(change), &two()).networks[0].distinct_seen
    };
    assert!(proves(&|_| {}));
    assert!(proves(&|c| c.switch_started = Some(ago(90_000))), "long before the entries");
    assert!(!proves(&|c| c.switch_started = Some(ago(7210))), "restored, perhaps");
    assert!(!proves(&|c| c.dead[0].born = None), "nobody knows when it came to be");
    assert!(!proves(&|c| c.live[0].born = None), "nobody knows when b came to be");
    assert!(!proves(&|c| c.dead[0].born = Some(ago(7200))), "as old as the pod");
    assert!(!proves(&|c| c.live[0].born = Some(ago(7200))), "as old as b");
    assert!(!proves(&|c| c.dead[0].number_since = Some(ago(7200))), "as old as its number");
    assert!(!proves(&|c| c.live[0].number_since = Some(ago(7200))), "as old as b's number");
    for port in [A, B] {
        let before = Dead { interface: None, ..dead(port, &[]) };
        assert!(!proves(&|c| c.dead.push(before.clone())), "{port}: one who died before");
    }
}

/// Nobody saw a alive after its entries came. Its guard, made together with its classifier, names
/// its address beside its number.
#[test]
fn an_entry_that_names_the_pod_beside_its_number_shows_whose_the_others_are() {
    let guard = |port, ip: &str| flow().table(10).from(port).src(ip).beyond();
    let proves = |change: &dyn Fn(&mut JudgeInput), guards: &[Flow]| {
        let input = node(LEARN_FIRST).with(|c| c.dead[0].seen_alive = ago(7300)).with(change);
        let mut flows = [&two()[..], guards].concat();
        let found = survey(&input, &flows).networks[0].distinct_seen;
        flows.reverse();
        assert_eq!(survey(&input, &flows).networks[0].distinct_seen, found, "the order matters");
        found
    };
    let (of_a, of_b) = (guard(A, IP_A), guard(B, IP_B));
    let own = std::slice::from_ref(&of_a);
    let as_it_is = |_: &mut JudgeInput| {};
    assert!(proves(&as_it_is, own));
    assert!(!proves(&as_it_is, &[]), "an unrecorded port's, perhaps, which had the number after a");
    assert!(!proves(&as_it_is, &[of_a.clone().aged(7190)]), "a's other entries came later");
    assert!(!proves(&as_it_is, &[of_a.clone().aged(7210)]), "they came before");
    assert!(proves(&as_it_is, &[of_a.clone(), guard(A, "0.0.0.0")]), "nobody's address");
    let unrecorded_port = guard(A, "10.244.0.99").aged(100);
    assert!(
        !proves(&as_it_is, &[of_a.clone(), unrecorded_port]),
        "an unrecorded port had the number"
    );
    assert!(!proves(&as_it_is, &[guard(A, IP_B)]), "b's address");
    assert!(!proves(&as_it_is, &[flow().from(A).dst(IP_A)]), "what is sent to it");
    let born = |c: &mut JudgeInput| c.dead[0].born = Some(ago(7200));
    assert!(!proves(&born, own), "as old as the pod");
    let late = |c: &mut JudgeInput| c.dead[0].seen_alive = ago(7321);
    assert!(!proves(&late, own), "more than two minutes after it was seen alive");
    let noticed = |c: &mut JudgeInput| c.dead[0].died = ago(7250);
    assert!(!proves(&noticed, own), "after its death was noticed");
    let successor = |c: &mut JudgeInput| c.dead.push(dead(14, &[IP_A]));
    assert!(!proves(&successor, own), "another's address, too");
    // Restored entries are as old as the restore.
    let restored = |c: &mut JudgeInput| c.switch_started = Some(ago(7201));
    assert!(proves(&restored, &[of_a.clone(), of_b]));
    assert!(!proves(&restored, own), "b's may be left of somebody before");
}

/// Found by tests/model: a port waited for its number when a slow controller put a dead pod's
/// entries back under it. The port's own pod had none yet, and looked as if it had the dead one's
/// value.
#[test]
fn an_entry_that_names_only_others_beside_the_number_shows_nothing() {
    let guard = |port, ip: &str| flow().table(10).from(port).src(ip).beyond();
    let proves = |guards: &[Flow]| {
        let mut flows = [&two()[..], guards].concat();
        let found = survey(&node(LEARN_FIRST), &flows).networks[0].distinct_seen;
        flows.reverse();
        assert_eq!(survey(&node(LEARN_FIRST), &flows).networks[0].distinct_seen, found, "order");
        found
    };
    for (port, own) in [(A, IP_A), (B, IP_B)] {
        let others = guard(port, "10.0.0.99");
        assert!(!proves(std::slice::from_ref(&others)), "{port}: somebody's whom nobody remembers");
        assert!(proves(&[others.clone(), guard(port, own)]), "{port}: the pod's own, too");
        assert!(proves(&[others.clone().src(own)]), "{port}: both in one");
        assert!(
            !proves(&[others.clone(), guard(port, own).aged(100)]),
            "{port}: its own came later"
        );
        assert!(proves(&[others.aged(7100)]), "{port}: it came later");
        assert!(proves(&[guard(port, "0a:58:0a:00:00:99")]), "{port}: a MAC may be unrecorded");
        assert!(proves(&[guard(port, "0.0.0.0")]), "{port}: nobody's");
    }
    assert!(!proves(&[guard(B, IP_A)]), "a's address under b's number");
}

/// Found by tests/model: a pod's record was forgotten, and its DEL came again. Its number was a dead
/// pod's before, whose classifier was still there.
#[test]
fn who_has_no_record_shows_no_value() {
    let proves = |recorded| {
        let input = node(LEARN_FIRST).with(|c| c.dead[0].recorded = recorded);
        survey(&input, &two()).networks[0].distinct_seen
    };
    assert!(proves(true));
    assert!(!proves(false), "it may have had another number before");
}

/// A value that a record has may have been seen in an entry that somebody before had left.
#[test]
fn a_record_alone_proves_nothing() {
    let input = node(LEARN_FIRST).with(|c| c.dead[0].register = Some(ID_A));
    assert_eq!(doubt(&input, &[classifier(B, ID_B)]), Some(NotProven::NeedsSecondAttachment));
    assert_eq!(doubt(&input, &two()), None, "its classifier stands");
    let input = node(LEARN_FIRST).with(|c| c.live[0].register = LiveRegister::Is(ID_B));
    assert_eq!(doubt(&input, &[classifier(A, ID_A)]), Some(NotProven::NeedsSecondAttachment));
}

/// Pods of one workload may live one after the other.
#[test]
fn what_a_pod_of_the_workload_showed_before_counts() {
    let proves = |shown: &[(&Member, Option<u32>)]| {
        let input = node(LEARN_FIRST).with(|c| {
            c.networks[0].shown = shown.iter().map(|(m, value)| ((*m).clone(), *value)).collect();
        });
        survey(&input, &[classifier(A, ID_A)]).networks[0].distinct_seen
    };
    let own = node(LEARN_FIRST).dead[0].member.clone().unwrap();
    let sister = Member { pod: "ns/sister".to_owned(), ..own.clone() };
    let other = Member { workload: "ns/other".to_owned(), ..sister.clone() };
    assert!(proves(&[(&sister, Some(ID_B))]));
    assert!(!proves(&[(&sister, Some(ID_A))]), "a group's value, perhaps");
    assert!(!proves(&[(&own, Some(ID_B))]), "the same pod");
    assert!(!proves(&[(&other, Some(ID_B))]), "another workload");
    assert!(!proves(&[(&sister, None)]), "it moved within the pod's life");
    assert!(!proves(&[(&sister, Some(ID_B)), (&sister, None)]));
}

/// Found by tests/model: the switch gave a living pod another number before anybody knew its
/// value. Its classifier went with the number's next owner; what matches its value was still its own.
#[test]
fn a_living_pod_whose_value_nobody_knows_may_have_any() {
    let other = classifier(14, 4103);
    let rule = || flow().reg(0, 4199).dst(IP_A);
    let why = |input: &JudgeInput, flows: &[Flow]| words(verdicts(input, flows).last().unwrap());
    let input = node(LEARN).and_live(live(14, &["10.0.0.7"]));
    let (kept, gone) = ("kept: register-not-proven", "stale: matches-address");
    assert_eq!(why(&input, &[other.clone(), rule().beyond()]), kept);
    let lost = |input: &JudgeInput| input.clone().with(|c| c.dead[0].recorded = false);
    let delivery = [other.clone(), rule().output(A)];
    assert_eq!(why(&lost(&input), &delivery), "kept: no-record", "rule 4 asks, too");
    assert_eq!(why(&input, &[other.clone(), rule().beyond().aged(90_000)]), gone, "older than b");
    assert_eq!(why(&input, &[other.clone(), classifier(B, ID_B), rule().beyond()]), gone);
    let known = input.clone().with(|c| c.live[0].register = LiveRegister::Is(ID_B));
    assert_eq!(why(&known, &[other, rule().beyond()]), gone);
    assert_eq!(why(&lost(&known), &delivery), "stale: delivers-to-nobody");
    assert_eq!(why(&input, &[rule().beyond()]), gone, "nothing tells pods by this register");
    let of_dead = input.with(|c| c.dead[0].register = Some(ID_A));
    assert_eq!(why(&of_dead, &[rule().beyond()]), kept, "but for the dead one");
}

/// Each tenant has one pod, and its value is what packets that come for it over the tunnel are
/// told by.
#[test]
fn a_tenants_value_with_one_pod_stays() {
    let way_back = |id: u32| flow().table(70).reg(0, id).tunnel().output(TUNNEL);
    let forward = |id: u32, port| flow().table(80).output(port).mark(5, id, u32::MAX);
    let names = ["red-0", "blue", "green-7d4f8b9c6f-x2k9z"];
    let pod = |n: usize| Member::by_name("ns", names[n]);
    for source in [LEARN_FIRST, RegisterSource::Learn { distinct_seen: false, shared_seen: true }] {
        let input = node(source).and_live(live(14, &["10.0.0.7"])).with(|c| {
            c.dead[0].member = pod(0);
            c.live[0].member = pod(1);
            c.live[1].member = pod(2);
        });
        let flows = [
            ("red's classifier", classifier(A, ID_A), "stale: matches-port"),
            ("blue's classifier", classifier(B, ID_B), "kept: nothing-dead"),
            ("green's classifier", classifier(14, 4103), "kept: nothing-dead"),
            ("red's way back", way_back(ID_A), "kept: register-not-proven"),
            ("blue's way back", way_back(ID_B), "kept: nothing-dead"),
            ("green's way back", way_back(4103), "kept: nothing-dead"),
            ("to green", forward(4103, 14), "kept: nothing-dead"),
        ];
        dump(&input, &flows);
        assert!(!survey(&input, &flows.map(|(_, flow, _)| flow)).networks[0].distinct_seen);
    }
}

/// An endpoint group's value: its pods, of one workload or of several, share it. One of another
/// group does not tell them apart.
#[test]
fn an_endpoint_group_with_many_pods_is_no_proof() {
    let input = |left: u16| {
        let input = node(LEARN_FIRST).with(|c| {
            c.dead[0].seen_alive = ago(0);
            c.live[0].member = member("other", B);
        });
        (0..left).fold(input, |input, n| input.and_live(live(20 + n, &[])))
    };
    for left in [3, 1] {
        let input = input(left);
        let mut flows = two();
        flows.extend((0..left).map(|n| classifier(20 + n, ID_A)));
        assert_eq!(doubt(&input, &flows), Some(NotProven::LiveHasIt(LiveId(1))));
        let facts = survey(&input, &flows).networks[0];
        assert_eq!(facts, NetworkFacts { distinct_seen: false, shared_seen: true });
    }
    // The last one, also where nobody remembers the others.
    assert_eq!(doubt(&input(0), &two()), Some(NotProven::NeedsSecondAttachment));
}

/// A label is changed, and the pod is given another group's value while it lives.
#[test]
fn a_value_that_moved_within_a_pods_life_shows_nothing() {
    let moved = node(LEARN_FIRST).with(|c| c.live[0].register = LiveRegister::Is(7));
    let learned = survey(&moved, &two());
    assert!(!learned.networks[0].distinct_seen);
    let of = |pod, value| crate::judge::Shown {
        network: NetworkId(0),
        member: member("w", pod).unwrap(),
        value,
    };
    assert_eq!(learned.shown, [of(A, Some(ID_A)), of(B, None)]);
    assert_eq!(doubt(&moved, &two()), Some(NotProven::NeedsSecondAttachment));
    let same = node(LEARN_FIRST).with(|c| c.live[0].register = LiveRegister::Is(ID_B));
    assert!(survey(&same, &two()).networks[0].distinct_seen);
}

#[test]
fn conditions_of_a_proof() {
    for source in [LEARN, RegisterSource::Pod] {
        let input = || node(source);
        let learn = source == LEARN;
        assert_eq!(doubt(&input(), &two()), None);

        let mut flows = two();
        flows.push(flow().table(0).src(IP_B).load(0, ID_A));
        assert_eq!(
            doubt(&input(), &flows),
            Some(NotProven::LiveHasIt(LiveId(0))),
            "b is given it, too"
        );

        let mut flows = two();
        flows.push(flow().table(0).from(UPLINK).load(0, ID_A));
        assert_eq!(doubt(&input(), &flows), Some(NotProven::OthersLoadIt), "from an uplink");

        let mut flows = two();
        flows.push(flow().table(5).load(0, ID_A));
        assert_eq!(doubt(&input(), &flows), Some(NotProven::OthersLoadIt), "for anybody");

        let mut flows = two();
        flows.push(flow().table(5).write(0, u32::MAX, Some(ID_A), true));
        assert_eq!(doubt(&input(), &flows), Some(NotProven::OthersLoadIt), "in a clone");

        let mut flows = two();
        flows.push(flow().table(5).from(A).dst(IP_B).load(0, ID_A));
        flows.push(flow().table(5).dst(IP_A).load(0, ID_A));
        assert_eq!(doubt(&input(), &flows), None, "every one of them names a");

        let unknown = [classifier(A, ID_A)];
        assert_eq!(doubt(&input(), &unknown), Some(NotProven::LiveUnknown(LiveId(0))));
        for register in [LiveRegister::Is(ID_B), LiveRegister::Absent] {
            let known = input().with(|c| c.live[0].register = register);
            assert_eq!(doubt(&known, &unknown), None, "{register:?}");
        }
        let elsewhere = input().with(|c| c.live[0].network = None);
        assert_eq!(doubt(&elsewhere, &unknown), None, "not of this network");

        let has = input().and_live(Live { register: LiveRegister::Is(ID_A), ..live(14, &[]) });
        assert_eq!(doubt(&has, &two()), Some(NotProven::LiveHasIt(LiveId(1))), "says its record");
        let has = has.with(|c| c.live[1].network = None);
        assert_eq!(
            doubt(&has, &two()),
            Some(NotProven::LiveHasIt(LiveId(1))),
            "whatever its network"
        );
        // It stands for another dead one, whom a sweep judges.
        let has = has.with(|c| c.live[1].ofport = None);
        assert_eq!(doubt(&has, &two()), Some(NotProven::OtherDeadHasIt));

        let both = input().with(|c| {
            c.dead[0].register = Some(ID_A);
            c.dead.push(Dead { register: Some(ID_A), ..dead(15, &[]) });
        });
        let by_record = [classifier(B, ID_B)];
        let shared = learn.then_some(NotProven::OtherDeadHasIt);
        assert_eq!(doubt(&both, &by_record), shared, "an operator says that it was given away");
        let elsewhere = both.with(|c| {
            c.networks.push(network(LEARN));
            c.dead[1].network = NetworkId(1);
        });
        assert_eq!(doubt(&elsewhere, &by_record), Some(NotProven::OtherDeadHasIt), "of no pod's");

        let mut flows = two();
        flows.push(flow().table(3).from(TUNNEL).write(0, u32::MAX, None, false));
        let moves = learn.then_some(NotProven::Obscured);
        assert_eq!(doubt(&input(), &flows), moves, "the tunnel's key is moved into it");

        let mut flows = two();
        flows.push(flow().beyond());
        flows[2].actions.unread = true;
        assert_eq!(doubt(&input(), &flows), moves, "an action of a newer switch");

        let many: Vec<Flow> = (0..=crate::judge::claims::MOST_VALUES)
            .map(|i| flow().load(0, 1_000_000 + u32::try_from(i).unwrap()))
            .collect();
        let mut flows = two();
        flows.extend(many);
        let learned = input().with(|c| c.dead[0].register = Some(ID_A));
        assert_eq!(doubt(&learned, &flows), Some(NotProven::TooManyValues));
    }
}

#[test]
fn values_that_live_pods_share_are_never_evidence_again() {
    let input = node(LEARN).and_live(live(14, &["10.0.0.7"]));
    let mut flows = two();
    flows.push(classifier(14, ID_B));
    assert_eq!(doubt(&input, &flows), Some(NotProven::Shared));
    assert!(survey(&input, &flows).networks[0].shared_seen);
    let remembered = node(RegisterSource::Learn { distinct_seen: true, shared_seen: true });
    assert_eq!(doubt(&remembered, &two()), Some(NotProven::Shared));
}

#[test]
fn the_same_value_one_after_the_other_is_reuse() {
    let after = |seen_alive: u64, age| {
        let input = node(LEARN).with(|c| c.dead[0].seen_alive = ago(seen_alive));
        let flows = [classifier(A, ID_A), classifier(B, ID_A).aged(age)];
        assert_eq!(doubt(&input, &flows), Some(NotProven::LiveHasIt(LiveId(0))));
        survey(&input, &flows).networks[0].shared_seen
    };
    assert!(after(0, 30), "DEL of a pod that had it together with b");
    assert!(after(100, 200));
    assert!(!after(100, 50), "given to b after a was last seen");
}

#[test]
fn two_dead_that_had_one_value_shared_it() {
    let input = node(LEARN).with(|c| c.dead.push(dead(15, &[])));
    let flows = [classifier(A, ID_A), classifier(15, ID_A), classifier(B, ID_B)];
    assert_eq!(doubt(&input, &flows), Some(NotProven::OthersLoadIt));
    assert!(survey(&input, &flows).networks[0].shared_seen);
    let young = [classifier(A, ID_A), classifier(15, ID_A).aged(50), classifier(B, ID_B)];
    assert!(!survey(&input, &young).networks[0].shared_seen);
}

#[test]
fn a_leftover_under_a_reused_port_says_nothing_of_its_new_owner() {
    // b was given a's port; a's id is in its record.
    let input = || {
        node(LEARN).with(|c| {
            c.dead[0].register = Some(ID_A);
            c.live[0].ofport = Some(A);
            c.live[0].born = Some(ago(30));
            c.live[0].register = LiveRegister::Is(ID_B);
            c.ports.by_number.insert(A, RowId(77));
        })
    };
    let leftover = classifier(A, ID_A);
    dump(
        &input(),
        &[
            ("leftover", leftover.clone(), "stale: sets-register"),
            ("policy", policy(ID_A), "stale: matches-register"),
        ],
    );
    let unknown_age = input().with(|c| c.live[0].born = None);
    assert_eq!(
        doubt(&unknown_age, std::slice::from_ref(&leftover)),
        Some(NotProven::LiveHasIt(LiveId(0)))
    );
    let young = leftover.clone().aged(20);
    assert_eq!(doubt(&input(), &[young]), Some(NotProven::LiveHasIt(LiveId(0))));
    let not_recorded = input().with(|c| c.dead[0].register = None);
    let learned = survey(&not_recorded, &[leftover]);
    assert_eq!(*learned.dead_registers, [None], "the port is not a's any more");
    assert_eq!(*learned.live_registers, [None], "older than b: not b's own");
    let unrecorded_port = input().with(|c| c.live.clear());
    assert_eq!(doubt(&unrecorded_port, &[classifier(A, ID_A)]), Some(NotProven::OthersLoadIt));
}

#[test]
fn what_is_learned_of_the_dead() {
    let learn = |flows: &[Flow]| survey(&node(LEARN), flows).dead_registers[0];
    assert_eq!(learn(&[flow().src(IP_A).load(0, ID_A)]), Some(ID_A), "by its address");
    assert_eq!(learn(&[flow().dst(IP_A).load(0, ID_A)]), None, "what others are given");
    assert_eq!(learn(&[flow().aged(5).src(IP_A).load(0, ID_A)]), None, "a new owner's");
    assert_eq!(learn(&[flow().from(UPLINK).src(IP_A).load(0, ID_A)]), None, "elsewhere");
    assert_eq!(learn(&[classifier(A, ID_A), classifier(A, 7)]), None, "which?");
    assert_eq!(learn(&[classifier(A, ID_A), classifier(A, 0)]), Some(ID_A), "a reset");
    assert_eq!(learn(&[flow().from(A).write(0, 0xffff, Some(7), false)]), None, "a mark");
    assert_eq!(learn(&[flow().from(A).write(0, u32::MAX, Some(7), true)]), None, "in a clone");
}

#[test]
fn one_more_live_attachment_does_not_make_the_rest_unanimous() {
    // a's port and its address are given different values: which is its id?
    let flows = [classifier(A, ID_A), flow().src(IP_A).load(0, 7), classifier(B, ID_B)];
    assert_eq!(*survey(&node(LEARN), &flows).dead_registers, [None]);
    let known = Live { register: LiveRegister::Is(9), ..live(14, &[IP_A]) };
    assert_eq!(*survey(&node(LEARN).and_live(known), &flows).dead_registers, [None]);
}

#[test]
fn a_value_of_two_dead_stays_shared_when_one_of_their_ports_is_reused() {
    let flows = [flow().from(15).src(IP_A).load(0, ID_A), classifier(B, ID_B)];
    let input = node(LEARN).with(|c| {
        c.dead[0].register = Some(ID_A);
        c.dead.push(dead(15, &[]));
    });
    assert_eq!(doubt(&input, &flows), Some(NotProven::OtherDeadHasIt));
    let young = Live { born: Some(ago(30)), register: LiveRegister::Is(9), ..live(15, &[]) };
    assert_eq!(doubt(&input.and_live(young), &flows), Some(NotProven::OtherDeadHasIt));
}

#[test]
fn a_number_that_was_passed_on_shows_its_last_owners_value() {
    // The other one was born with a's number 70 s ago, before anybody noticed a's death.
    let successor = || {
        node(LEARN).with(|c| {
            c.dead[0].born = Some(ago(90));
            let later = Dead { born: Some(ago(70)), died: ago(40), ..dead(A, &[]) };
            c.dead.insert(0, Dead { interface: Some(RowId(999)), ..later });
        })
    };
    let flows = |age| [classifier(A, ID_A).aged(age), classifier(B, ID_B)];
    let learned = |input: &JudgeInput, age| survey(input, &flows(age)).dead_registers;
    assert_eq!(*learned(&successor(), 65), [Some(ID_A), None]);
    assert_eq!(doubt(&successor(), &flows(65)), None, "it is the successor's, and its own");
    for age in [71, 80] {
        assert_eq!(
            *learned(&successor(), age),
            [Some(ID_A); 2],
            "older than the successor: whose?"
        );
    }
    let just_started = successor().with(|c| c.switch_started = Some(ago(91)));
    assert_eq!(doubt(&just_started, &flows(65)), None, "none of a's was there before");
    type Change = (&'static str, fn(&mut JudgeInput));
    let unless: [Change; 5] = [
        ("the row is a's again", |c| {
            c.ports.by_number.insert(A, RowId(1000 + u128::from(A)));
        }),
        ("a had other numbers", |c| c.dead[1].previous_ofports.push(15)),
        ("the successor had other numbers", |c| c.dead[0].previous_ofports.push(15)),
        ("nobody knows who came first", |c| c.dead[1].born = None),
        ("its age is a restore's", |c| c.switch_started = Some(ago(65))),
    ];
    for (why, change) in unless {
        let input = successor().with(change);
        assert_eq!(doubt(&input, &flows(65)), Some(NotProven::OtherDeadHasIt), "{why}");
    }
}

#[test]
fn a_field_of_the_register() {
    let input = node(LEARN).with(|c| c.networks[0].register.mask = 0xffff);
    let mark = |f: Flow, value| f.write(0, 0xffff, Some(value), false);
    dump(
        &input,
        &[
            ("a", mark(flow().from(A), 0x105), "stale: matches-port"),
            ("b", mark(flow().from(B), 0x106), "kept: nothing-dead"),
            (
                "high bits are not the field's",
                flow().table(3).write(0, 0xffff_0000, Some(1 << 16), false),
                "kept: nothing-dead",
            ),
            ("field", flow().mark(0, 0x105, 0xffff), "stale: matches-register"),
            ("whole register", flow().reg(0, 0x7_0105), "stale: matches-register"),
            ("part of the field", flow().mark(0, 0x05, 0xff), "kept: nothing-dead"),
            ("another register", flow().reg(1, 0x105), "kept: nothing-dead"),
        ],
    );
}

#[test]
fn only_the_last_word_of_a_flow_sets_the_register() {
    let input = node(RegisterSource::ExternalId).with(|c| {
        c.dead[0].register = Some(ID_A);
        c.live[0].register = LiveRegister::Is(ID_B);
    });
    each(
        &input,
        &[
            ("sets", flow().src("192.0.2.9").load(0, ID_A), "stale: sets-register"),
            ("twice", flow().load(0, 7).load(0, ID_A), "stale: sets-register"),
            ("overwritten", flow().load(0, ID_A).load(0, ID_B), "kept: only-mentions"),
            ("marked", flow().load(0, ID_A).write(0, 1, Some(1), false), "kept: only-mentions"),
            ("in a clone", flow().write(0, u32::MAX, Some(ID_A), true), "kept: only-mentions"),
        ],
    );
}

#[test]
fn computed_values() {
    let input = || {
        node(RegisterSource::ExternalId).with(|c| {
            c.dead[0].register = Some(ID_A);
            c.live[0].register = LiveRegister::Is(ID_B);
        })
    };
    assert_eq!(doubt(&input(), &[flow().load(0, ID_A)]), None, "the operator vouches");
    let live = input().with(|c| c.live[0].register = LiveRegister::Is(ID_A));
    assert_eq!(doubt(&live, &[]), Some(NotProven::LiveHasIt(LiveId(0))));
    let unknown = input().with(|c| c.live[0].register = LiveRegister::Unknown);
    assert_eq!(doubt(&unknown, &[classifier(B, ID_B)]), Some(NotProven::LiveUnknown(LiveId(0))));
    assert_eq!(doubt(&input(), &[classifier(B, ID_A)]), Some(NotProven::LiveHasIt(LiveId(0))));
    assert_eq!(doubt(&input(), &[classifier(UPLINK, ID_A)]), Some(NotProven::OthersLoadIt));
    // A field that overlaps it, of another network.
    let wider = input().with(|c| {
        let mut other = network(RegisterSource::ExternalId);
        other.register.mask = 0xff;
        c.networks.push(other);
        let (network, register) = (Some(NetworkId(1)), LiveRegister::Is(ID_A & 0xff));
        let wider = Live { network, register, ofport: None, ..c.live[0].clone() };
        c.live.push(wider);
    });
    assert_eq!(doubt(&wider, &[]), Some(NotProven::LiveHasIt(LiveId(1))));
}

#[test]
fn a_pod_that_is_being_added_with_the_same_computed_value() {
    let adding = Live { adding: true, born: Some(ago(10)), ..live(A, &[IP_A]) };
    let input = node(RegisterSource::ExternalId)
        .with(|c| {
            c.dead[0].register = Some(ID_A);
            c.live.clear();
        })
        .and_live(Live { register: LiveRegister::Is(ID_A), ..adding });
    each(
        &input,
        &[
            ("leftover", policy(ID_A), "stale: matches-register"),
            ("its own", policy(ID_A).aged(5), "kept: register-not-proven"),
            ("policy member", policy(ID_A).conjunction(), "kept: register-not-proven"),
        ],
    );
}

#[test]
fn part_of_a_dump_proves_no_learned_value() {
    let part = |input: &JudgeInput, flows: &[Flow], asked: &Flow| {
        let mut survey = Survey::partial(input);
        for flow in flows.iter().chain(flows) {
            survey.see(flow);
        }
        survey.see(asked);
        let learned = survey.finish();
        let judge = Judge::new(input, &learned);
        (words(&judge.verdict(asked)), judge.would_register_matter(asked))
    };
    let input = node(LEARN).with(|c| c.dead[0].register = Some(ID_A));
    let kept = String::from("kept: register-not-proven");
    assert_eq!(part(&input, &[classifier(A, ID_A)], &policy(ID_A)), (kept.clone(), true));
    assert_eq!(part(&input, &[], &flow().load(0, ID_A)), (kept.clone(), false), "not a's alone");
    let gives = flow().src(IP_B).dst(IP_A).load(0, ID_A).output(B);
    assert!(!part(&input, &[], &gives).1, "b has it");
    let own = flow().dst(IP_A).load(0, ID_A).output(B);
    assert!(part(&input, &[], &own).1, "rule 2 would condemn it");
    let other = flow().from(A).load(0, ID_A);
    assert_eq!(part(&input, &[], &other), ("stale: matches-port".into(), false), "stale anyway");
    // A rule of somebody's whose classifier is not in this part of the dump.
    let rule = flow().reg(0, 4199).dst(IP_A).beyond();
    assert_eq!(part(&input, &[], &rule), (kept.clone(), true), "may be b's");
    let b = input.clone().with(|c| c.live[0].register = LiveRegister::Is(ID_B));
    assert_eq!(part(&b, &[], &rule), ("stale: matches-address".into(), true), "may be another's");
    let live = input.clone().with(|c| c.live[0].register = LiveRegister::Is(ID_A));
    assert_eq!(part(&live, &[], &policy(ID_A)), (kept.clone(), false), "no dump can prove it");
    let computed = input.with(|c| {
        c.networks[0].register.source = RegisterSource::ExternalId;
        c.live[0].register = LiveRegister::Is(ID_B);
    });
    assert_eq!(
        part(&computed, &[], &policy(ID_A)),
        ("stale: matches-register".into(), false),
        "nothing to learn"
    );
    // Not recorded, but learned from what was seen: for the engine to look it up.
    let input = node(LEARN);
    let mut survey = Survey::partial(&input);
    survey.see(&classifier(A, ID_A));
    assert_eq!(*survey.finish().dead_registers, [Some(ID_A)]);
}

#[test]
fn what_the_dead_left_for_a_pod_that_is_being_added_shows_their_value_not_its() {
    // ADD of a pod that was given a's port, before its controller came.
    let adding = Live { adding: true, born: Some(ago(10)), ..live(A, &[]) };
    let input = node(LEARN).and_live(Live { register: LiveRegister::Unknown, ..adding });
    let flows = [classifier(A, ID_A), classifier(B, ID_B)];
    assert_eq!(*survey(&input, &flows).dead_registers, [Some(ID_A)]);
    assert_eq!(
        doubt(&input, &flows),
        Some(NotProven::LiveUnknown(LiveId(1))),
        "it may be given the same"
    );
    // Its own entry shows its own value.
    let own = [classifier(A, ID_A).aged(5), classifier(B, ID_B)];
    let learned = survey(&input, &own);
    assert_eq!((learned.dead_registers[0], learned.live_registers[1]), (None, Some(ID_A)));
}

#[test]
fn a_value_used_again_is_not_shared_by_the_dead() {
    // The other one died 40 s ago, a 60 s ago.
    let other = |born| {
        node(LEARN).with(|c| {
            c.dead[0].register = Some(ID_A);
            let later = Dead { born, died: ago(40), seen_alive: ago(40), ..dead(15, &[]) };
            c.dead.push(Dead { register: Some(ID_A), ..later });
        })
    };
    let flows = [classifier(B, ID_B)];
    assert_eq!(doubt(&other(Some(ago(50))), &flows), None, "born when a was known to be dead");
    for born in [Some(ago(60)), Some(ago(70)), None] {
        let both = other(born);
        assert_eq!(doubt(&both, &flows), Some(NotProven::OtherDeadHasIt), "{born:?}");
    }
}

#[test]
fn who_turns_out_to_be_dead_shares_nothing() {
    // b is an orphan whom nobody has noticed, its value and another's the same.
    let input = node(LEARN).and_live(live(14, &[]));
    let flows = [classifier(B, ID_B), classifier(14, ID_B)];
    let learned = survey(&input, &flows);
    assert!(learned.networks[0].shared_seen);
    assert!(learned.shared_without(&input, NetworkId(0), &[]));
    assert!(!learned.shared_without(&input, NetworkId(0), &[LiveId(0)]));
    let remembered = RegisterSource::Learn { distinct_seen: true, shared_seen: true };
    let input = node(remembered).and_live(live(14, &[]));
    assert!(
        survey(&input, &flows).shared_without(&input, NetworkId(0), &[LiveId(0)]),
        "it was known before"
    );
}

/// Nobody waits for an entry that phase 1 lets go.
#[test]
fn a_value_that_a_live_one_only_may_have_keeps_the_dead_waiting() {
    let number_before = |ofport| Live { ofport, previous_ofports: vec![A], ..live(14, &[]) };
    let lost_its_row = node(LEARN).and_live(number_before(None));
    let was_given_another = node(LEARN).and_live(number_before(Some(14)));
    for (input, why) in [
        (lost_its_row, NotProven::LiveUnknown(LiveId(1))),
        (was_given_another, NotProven::LiveHasIt(LiveId(1))),
    ] {
        let input = input.with(|c| c.live[1].register = LiveRegister::Unknown);
        assert_eq!(doubt(&input, &two()), Some(why));
        assert_eq!(*survey(&input, &two()).dead_registers, [Some(ID_A)]);
        let mut survey = Survey::new(&input);
        for flow in &two() {
            survey.see(flow);
        }
        assert!(survey.see(&policy(ID_A)) && !survey.see(&policy(ID_B)));
    }
}

/// The controller of a pod whose ADD has not come, or of a machine, has put what matches the value
/// that a dead pod had before the classifier that loads it.
#[test]
fn who_has_no_record_and_shows_no_value_may_have_a_dead_pods() {
    let (kept, gone) = ("kept: register-not-proven", "stale: matches-register");
    let unrecorded = Live {
        network: None,
        addresses_known: false,
        register: LiveRegister::Untold,
        ..live(14, &[])
    };
    let input = |source, age: Option<u64>| {
        let node = node(source).with(|c| {
            (c.dead[0].register, c.live[0].register) = (Some(ID_A), LiveRegister::Is(ID_B));
            c.dead[0].seen_alive = ago(70);
        });
        node.and_live(Live { born: age.map(ago), ..unrecorded.clone() })
    };
    let word = |input: &JudgeInput, flow: &Flow, more: Option<Flow>| {
        let flows: Vec<Flow> = more.into_iter().chain([flow.clone()]).collect();
        words(verdicts(input, &flows).last().unwrap())
    };
    for source in [LEARN, RegisterSource::Pod] {
        // A sandbox that is young, whenever the dead one was seen last; a machine.
        for (age, oldest) in [(Some(90), 90), (Some(30), 30), (None, 70)] {
            let input = input(source, age);
            let (young, old) = (policy(ID_A).aged(oldest), policy(ID_A).aged(oldest + 2));
            assert_eq!(word(&input, &young, None), kept, "{age:?}");
            assert_eq!(word(&input, &old, None), gone, "{age:?}: made for the dead one");
            let shown = classifier(14, ID_A + 7).aged(10);
            assert_eq!(word(&input, &young, Some(shown)), gone, "it has another value");
        }
    }
    let young = policy(ID_A).aged(20);
    let changed = |change: &dyn Fn(&mut Live)| {
        let input = input(LEARN, None).with(|c| change(c.live.last_mut().unwrap()));
        word(&input, &young, None)
    };
    assert_eq!(changed(&|live| live.register = LiveRegister::Absent), gone, "an uplink");
    assert_eq!(changed(&|live| live.ofport = None), gone, "on another bridge");
    assert_eq!(changed(&|live| live.register = LiveRegister::Is(ID_B)), gone);
    // In another register it may show what it likes.
    let elsewhere = flow().table(0).from(14).load(1, ID_B).beyond();
    assert_eq!(word(&input(LEARN, None), &young, Some(elsewhere)), kept);
    // A computed value is the token that it is computed from.
    assert_eq!(word(&input(RegisterSource::ExternalId, None), &young, None), gone);
}
