//! Properties of the core that hold for every case and every dump.
//!
//! Values come from tiny ranges, so that ports, addresses and registers of the dead, the
//! live and unrecorded pods collide all the time.

// Helpers of tests are tests too, but clippy's exception covers only #[test] functions.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ovs_flow_gc::flowtable::Tokens;
use ovs_flow_gc::judge::input::{
    Dead, DeadId, JudgeInput, Live, LiveId, LiveRegister, Network, NetworkId, Ports,
};
use ovs_flow_gc::judge::{
    Basis, BasisFacts, Judge, Learned, NotProven, Reason, Survey, Token, Verdict,
};
use ovs_flow_gc::model::flow::{
    Actions, Address, AddressMatch, Flow, MacAddr, Match, RegisterMatch, RegisterRange,
    RegisterWrite, Side,
};
use ovs_flow_gc::model::register::{RegisterRule, RegisterSource};
use ovs_flow_gc::model::row::RowId;
use ovs_flow_gc::model::table::{Id, Table};
use ovs_flow_gc::model::workload::Member;
use ovs_flow_gc::reconcile::{
    needs_proof, tokens_of_evidence, tokens_of_the_dead, values_to_look_for,
};
use ovs_flow_gc::util::clock::{BootTime, Stamp};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option::{of, weighted};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::strategy::ValueTree;

const LOCAL: u16 = 65534;

fn seconds() -> impl Strategy<Value = Duration> {
    (0..12u64).prop_map(|n| Duration::from_secs(n * 10))
}

/// When the node was read.
fn now() -> BootTime {
    BootTime::from(Stamp { boot_ms: 3_600_000, wall_ms: 0 })
}

fn past() -> impl Strategy<Value = BootTime> {
    seconds().prop_map(|ago| now() - ago)
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![12 => 1..6u16, 1 => Just(LOCAL), 1 => Just(0)]
}

fn address() -> impl Strategy<Value = Address> {
    prop_oneof![
        8 => (1..6u8).prop_map(|n| Address::Ip(IpAddr::V4(Ipv4Addr::new(10, 0, 0, n)))),
        4 => (1..5u8).prop_map(|n| Address::Mac(MacAddr([2, 0, 0, 0, 0, n]))),
        1 => Just(Address::Ip(IpAddr::V4(Ipv4Addr::UNSPECIFIED))),
        1 => Just(Address::Mac(MacAddr([0xff; 6]))),
    ]
}

fn mask() -> impl Strategy<Value = u32> {
    prop_oneof![6 => Just(u32::MAX), 1 => Just(0xffff), 1 => Just(0xff), 1 => Just(3)]
}

fn source() -> impl Strategy<Value = RegisterSource> {
    prop_oneof![
        1 => Just(RegisterSource::None),
        3 => (any::<bool>(), weighted(0.2, Just(()))).prop_map(|(distinct_seen, shared)| {
            RegisterSource::Learn { distinct_seen, shared_seen: shared.is_some() }
        }),
        3 => Just(RegisterSource::Pod),
        1 => Just(RegisterSource::Ofport),
        1 => Just(RegisterSource::Ipv4),
        2 => Just(RegisterSource::ExternalId),
    ]
}

/// What is remembered of whether values are addresses or port numbers.
fn basis() -> impl Strategy<Value = BasisFacts> {
    let fact = || weighted(0.2, Just(()));
    let facts = [fact(), fact(), fact(), fact()];
    facts.prop_map(|facts| {
        let [ipv4, not_ipv4, renumbered, not_ofport] = facts.map(|fact| fact.is_some());
        BasisFacts { ipv4, not_ipv4, ports: Vec::new(), renumbered, not_ofport }
    })
}

prop_compose! {
    fn network()(
        tables in weighted(0.15, vec(0..3u8, 0..3)),
        scoped in weighted(0.15, 0..4u64),
        on in [weighted(0.1, Just(())), weighted(0.1, Just(())), weighted(0.1, Just(()))],
        index in prop_oneof![5 => Just(0u8), 1 => Just(1u8)],
        mask in mask(),
        source in source(),
        basis in basis(),
        reap_dangling in any::<bool>(),
    ) -> Network {
        let [match_port, match_ip, match_mac] = on.map(|off| off.is_none());
        Network {
            tables,
            cookie: scoped.unwrap_or(0),
            cookie_mask: if scoped.is_some() { 3 } else { 0 },
            match_port,
            match_ip,
            match_mac,
            register: RegisterRule { index, mask, source },
            basis,
            shown: Vec::new(),
            reap_dangling,
        }
    }
}

fn member() -> impl Strategy<Value = Option<Member>> {
    let member =
        |(workload, pod): (u8, u8)| Member { workload: workload.to_string(), pod: pod.to_string() };
    of((0..2u8, 0..5u8).prop_map(member))
}

prop_compose! {
    fn dead(networks: usize)(
        network in 0..networks,
        ofport in weighted(0.8, port()),
        (previous_ofports, number_since) in (vec(port(), 0..2), of(past())),
        interface in of((0..6u128).prop_map(RowId)),
        addresses in vec(address(), 0..3),
        vlans in prop_oneof![3 => Just(Vec::new()), 1 => vec(0..3u16, 1..2)],
        register in weighted(0.6, 0..5u32),
        died in past(),
        seen_before in seconds(),
        born_before in weighted(0.6, seconds()),
        (lingered, earliest) in (any::<bool>(), weighted(0.3, past())),
        recorded in weighted(0.9, Just(())),
        holds_addresses in any::<bool>(),
        ip_evidence in weighted(0.9, Just(())),
        mac_evidence in weighted(0.9, Just(())),
        member in member(),
    ) -> Dead {
        Dead {
            network: NetworkId(network),
            ofport,
            previous_ofports,
            unknown_ofports: false,
            number_since,
            held_number: number_since.or(born_before.map(|before| died - seen_before - before)),
            interface,
            addresses,
            vlans_before: if register == Some(1) { vlans.clone() } else { Vec::new() },
            vlans,
            register,
            born: born_before.map(|before| died - seen_before - before),
            died,
            seen_alive: died - seen_before,
            earliest,
            lingered,
            recorded: recorded.is_some(),
            holds_addresses,
            ip_evidence: ip_evidence.is_some(),
            mac_evidence: mac_evidence.is_some(),
            roams: mac_evidence.is_none(),
            member,
        }
    }
}

prop_compose! {
    fn live(networks: usize)(
        network in weighted(0.8, 0..networks),
        ofport in weighted(0.8, port()),
        (previous_ofports, number_since) in (vec(port(), 0..2), of(past())),
        addresses in vec(address(), 0..3),
        vlans in prop_oneof![3 => Just(Vec::new()), 1 => vec(1..3u16, 1..2)],
        addresses_known in weighted(0.8, Just(())),
        register in prop_oneof![
            3 => (1..5u32).prop_map(LiveRegister::Is),
            1 => Just(LiveRegister::Absent),
            2 => Just(LiveRegister::Unknown),
        ],
        born in weighted(0.8, past()),
        adding in weighted(0.3, Just(())),
        member in member(),
    ) -> Live {
        Live {
            network: network.map(NetworkId),
            ofport,
            previous_ofports,
            unknown_ofports: false,
            number_since,
            held_number: number_since.or(born),
            without_port: ofport.is_none() && network.is_some(),
            addresses,
            vlans,
            addresses_known: addresses_known.is_some(),
            is_pod: true,
            register,
            born,
            adding: adding.is_some(),
            member,
        }
    }
}

fn input() -> impl Strategy<Value = JudgeInput> {
    vec(network(), 1..3).prop_flat_map(|networks| {
        let n = networks.len();
        (
            vec(dead(n), 0..4),
            vec(live(n), 0..5),
            (btree_map(port(), (0..9u128).prop_map(RowId), 0..6), btree_set(port(), 0..3)),
            weighted(0.1, Just(())),
            weighted(0.2, past()),
        )
            .prop_map(
                move |(dead, live, (by_number, requested), unassigned, switch_started)| {
                    JudgeInput {
                        networks: networks.clone().into(),
                        dead: dead.into(),
                        live: live.into(),
                        ports: Ports { by_number, requested, unassigned: unassigned.is_some() },
                        now: now(),
                        switch_started,
                        ovn: false,
                    }
                },
            )
    })
}

fn side() -> impl Strategy<Value = Side> {
    select(vec![Side::Source, Side::Destination, Side::Unknown])
}

prop_compose! {
    fn matches()(
        in_port in weighted(0.5, port()),
        registers in vec((0..2u8, 0..5u32, mask()), 0..2),
        addresses in vec((address(), side()), 0..3),
        vlan in weighted(0.1, 1..3u16),
    ) -> Match {
        Match {
            in_port,
            vlan,
            registers: registers
                .into_iter()
                .map(|(index, value, mask)| RegisterMatch { index, value: value & mask, mask })
                .collect(),
            addresses: addresses
                .into_iter()
                .map(|(address, side)| AddressMatch { address, side })
                .collect(),
        }
    }
}

prop_compose! {
    fn actions()(
        outputs in prop_oneof![2 => Just(Vec::new()), 3 => vec(port(), 1..3)],
        port_references in prop_oneof![9 => Just(Vec::new()), 1 => vec(port(), 1..2)],
        output_registers in prop_oneof![9 => Just(Vec::new()), 1 => vec((0..2u8, mask()), 1..2)],
        writes in vec((0..2u8, mask(), weighted(0.9, 0..5u32), weighted(0.15, Just(()))), 0..3),
        vlans in prop_oneof![5 => Just(Vec::new()), 1 => vec(1..3u16, 1..2)],
        sets_tunnel in weighted(0.1, Just(())),
        conjunction in weighted(0.1, Just(())),
        group in weighted(0.05, Just(())),
        beyond in weighted(0.4, Just(())),
        [spreads, controller, rewrites_destination] in [any::<bool>(), any::<bool>(), any::<bool>()],
    ) -> Actions {
        let beyond = beyond.is_some();
        Actions {
            outputs,
            port_references,
            group: group.is_some(),
            // Whoever names no port does more than output.
            spreads: beyond && spreads,
            controller: beyond && controller,
            rewrites_destination,
            beyond: beyond || group.is_some() || !output_registers.is_empty() || conjunction.is_some(),
            output_registers: output_registers
                .into_iter()
                .map(|(index, mask)| RegisterRange { index, mask })
                .collect(),
            register_writes: writes
                .into_iter()
                .map(|(index, mask, value, nested)| RegisterWrite {
                    index,
                    mask,
                    value: value.map(|v| v & mask),
                    nested: nested.is_some(),
                })
                .collect(),
            vlans,
            any_vlan: false,
            sets_tunnel: sets_tunnel.is_some(),
            conjunction: conjunction.is_some(),
            unread: false,
        }
    }
}

prop_compose! {
    fn flow()(
        table in 0..3u8,
        cookie in 0..4u64,
        made in past(),
        matches in matches(),
        actions in actions(),
    ) -> Flow {
        Flow { table, priority: 1, cookie, made, matches, actions }
    }
}

// Plain classifiers, the kind that proves something: at random they are too rare.
prop_compose! {
    fn classifier()(
        port in 1..6u16, by_port in any::<bool>(), ip in address(), value in 1..5u32, made in past(),
    ) -> Flow {
        let mut flow = Flow { made, ..Flow::default() };
        if by_port {
            flow.matches.in_port = Some(port);
        } else {
            flow.matches.addresses.push(AddressMatch { address: ip, side: Side::Source });
        }
        let write = RegisterWrite { index: 0, mask: u32::MAX, value: Some(value), nested: false };
        flow.actions.register_writes.push(write);
        flow.actions.beyond = true;
        flow
    }
}

// Old pairs of a port and an address, as spoof guards and deliveries have them.
prop_compose! {
    fn pair()(port in 1..6u16, address in address(), delivery in any::<bool>(), age in 9..14u64) -> Flow {
        let mut flow = Flow { made: now() - Duration::from_secs(age * 10), ..Flow::default() };
        let side = if delivery { Side::Destination } else { Side::Source };
        flow.matches.addresses.push(AddressMatch { address, side });
        if delivery {
            flow.actions.outputs.push(port);
        } else {
            flow.matches.in_port = Some(port);
        }
        flow
    }
}

fn flows() -> impl Strategy<Value = Vec<Flow>> {
    vec(prop_oneof![3 => flow(), 2 => classifier(), 1 => pair()], 0..7)
}

fn learn(input: &JudgeInput, flows: &[Flow]) -> Learned {
    let mut survey = Survey::new(input);
    for flow in flows {
        survey.see(flow);
    }
    survey.finish()
}

/// The evidence: what a source that has an index hands out, as the engine asks for it.
fn evidence(input: &JudgeInput, flows: &[Flow]) -> Option<Vec<bool>> {
    let mut tokens = tokens_of_evidence(input)?;
    loop {
        let seen: Vec<bool> =
            flows.iter().map(|flow| flow.teaches() || is_named(flow, &tokens)).collect();
        let learned = learn(input, &those(flows, &seen));
        let values = learned.values_of_the_dead().into_iter();
        let registers: Vec<_> = values
            .map(|token| (token.index, token.value, token.mask))
            .filter(|value| !tokens.iter().any(|tokens| tokens.registers.contains(value)))
            .collect();
        if registers.is_empty() {
            return Some(seen);
        }
        tokens.push(Tokens { registers, ..Tokens::default() });
    }
}

/// Whether a source that has an index hands a flow out for these tokens.
fn is_named(flow: &Flow, tokens: &[Tokens]) -> bool {
    tokens.iter().flat_map(Tokens::names).any(|token| token.is_in(flow))
}

fn those(flows: &[Flow], seen: &[bool]) -> Vec<Flow> {
    flows.iter().zip(seen).filter(|(_, seen)| **seen).map(|(flow, _)| flow.clone()).collect()
}

fn judge(input: &JudgeInput, flows: &[Flow]) -> Vec<Verdict> {
    let learned = learn(input, flows);
    let judge = Judge::new(input, &learned);
    flows.iter().map(|flow| judge.verdict(flow)).collect()
}

/// What a flow that only names one live attachment looks like: masks, ages and everything
/// else are `shape`'s, tokens are its own.
fn of_owners(input: &JudgeInput, owners: &[LiveId], mut shape: Flow, picks: &[Index]) -> Flow {
    let mut picks = picks.iter().cycle();
    let mut owner = || input.live.get(*picks.next().unwrap().get(owners)).unwrap();
    shape.matches.in_port = shape.matches.in_port.and_then(|_| owner().ofport);
    let mut addresses = Vec::new();
    for m in &shape.matches.addresses {
        addresses.extend(owner().addresses.first().map(|a| AddressMatch { address: *a, ..*m }));
    }
    shape.matches.addresses = addresses;
    shape.actions.outputs = shape.actions.outputs.iter().filter_map(|_| owner().ofport).collect();
    let value = |live: &Live| match live.register {
        LiveRegister::Is(value) => Some((live.network, value)),
        _ => None,
    };
    let mut registers = Vec::new();
    for _ in &shape.matches.registers {
        let Some((network, value)) = value(owner()) else { continue };
        let index = network.map_or(0, |n| input.networks.get(n).unwrap().register.index);
        registers.push(RegisterMatch { index, value, mask: u32::MAX });
    }
    shape.matches.registers = registers;
    let mut writes = Vec::new();
    for w in &shape.actions.register_writes {
        let Some((network, value)) = value(owner()) else { continue };
        let index = network.map_or(0, |n| input.networks.get(n).unwrap().register.index);
        writes.push(RegisterWrite { index, mask: u32::MAX, value: Some(value), ..*w });
    }
    shape.actions.register_writes = writes;
    shape
}

fn owns(input: &JudgeInput, learned: &Learned, i: DeadId, token: Token) -> bool {
    let dead = input.dead.get(i).unwrap();
    match token {
        Token::Port(port) => dead.had(port),
        Token::Address(address) => dead.addresses.contains(&address),
        Token::Register(register) => {
            // A number that its port has or had, or its address, where values are computed.
            let number = register.value >> register.mask.trailing_zeros();
            let found = learned.basis_facts.get(dead.network).unwrap().found();
            let configured = input.networks.get(dead.network).unwrap().register.source;
            let by_number = configured == RegisterSource::Ofport || found == Some(Basis::Ofport);
            let computed = match found {
                Some(Basis::Ipv4) => dead.addresses.contains(&Address::Ip(ipv4(number))),
                _ => by_number && u16::try_from(number).is_ok_and(|port| dead.had(port)),
            };
            let known = learned.dead_registers.get(i).unwrap().map(|v| v & register.mask);
            register.value != 0 && (computed || known == Some(register.value))
        }
    }
}

fn ipv4(number: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(number))
}

fn names(flow: &Flow, token: Token) -> bool {
    match token {
        Token::Port(port) => {
            flow.matches.in_port == Some(port) || flow.actions.outputs.contains(&port)
        }
        Token::Address(address) => flow.matches.addresses.iter().any(|m| m.address == address),
        Token::Register(register) => {
            let matched = flow.matches.registers.iter().any(|m| {
                m.index == register.index
                    && m.mask & register.mask == register.mask
                    && m.value & register.mask == register.value
            });
            matched
                || flow.actions.register_writes.iter().any(|w| {
                    w.index == register.index
                        && w.value.map(|v| v & register.mask) == Some(register.value)
                })
        }
    }
}

/// What must not depend on the order: not the index of a live attachment, nor which of two
/// dead with the same token is named.
fn gist(verdict: &Verdict) -> (bool, &'static str, Option<Token>) {
    let name = match verdict.reason {
        Reason::RegisterNotProven { why, .. } => why.as_str(),
        reason => reason.as_str(),
    };
    (verdict.stale, name, verdict.reason.token())
}

proptest! {
    // A counter-example becomes a named test in src/judge/tests, not a seed in a file.
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(5_000),
        max_global_rejects: 10_000_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// What neither teaches nor has a token that matters changes nothing: a source with an index
    /// need not hand it out.
    #[test]
    fn the_evidence_shows_what_everything_shows(input in input(), flows in flows()) {
        let mut input = input;
        // Entries of nobody's ports are looked for in everything.
        input.networks.values_mut().for_each(|network| network.reap_dangling = false);
        if let Some(seen) = evidence(&input, &flows) {
            let (all, part) = (learn(&input, &flows), learn(&input, &those(&flows, &seen)));
            prop_assert_eq!(&part.dead_registers, &all.dead_registers);
            prop_assert_eq!(&part.live_registers, &all.live_registers);
            prop_assert_eq!(&part.networks, &all.networks);
            prop_assert_eq!(&part.basis_facts, &all.basis_facts);
            prop_assert_eq!(&part.shown, &all.shown);
            let (of_all, of_part) = (Judge::new(&input, &all), Judge::new(&input, &part));
            for (flow, seen) in flows.iter().zip(seen) {
                let (whole, part) = (of_all.verdict(flow), of_part.verdict(flow));
                prop_assert!(!whole.stale || seen, "not handed out: {:?}: {}", flow, whole.reason);
                prop_assert!(whole.dead.is_none() || seen, "not found: {:?}: {}", flow, whole.reason);
                prop_assert!(
                    gist(&whole) == gist(&part),
                    "{:?}: {}; by the evidence: {}", flow, whole.reason, part.reason
                );
            }
        }
    }

    /// What a scan of everything deletes, an index finds by the tokens of the dead: it is deleted, or
    /// kept as theirs until a scan of everything. What the index does not find names nobody dead, but
    /// for a value that only the rest teaches and does not prove. What is kept either way may be
    /// kept for another reason, that the rest tells. Unless the rest has to be read, and is.
    #[test]
    fn the_tokens_of_the_dead_show_what_everything_shows(input in input(), flows in flows()) {
        let mut input = input;
        // Entries of nobody's ports are looked for in everything.
        input.networks.values_mut().for_each(|network| network.reap_dangling = false);
        prop_assume!(!needs_proof(&input));
        let tokens: Vec<Tokens> = tokens_of_the_dead(&input).collect();
        let seen: Vec<bool> = flows.iter().map(|flow| is_named(flow, &tokens)).collect();
        let found = those(&flows, &seen);
        let mut survey = Survey::partial(&input);
        for flow in &found {
            survey.see(flow);
        }
        let (part, all) = (survey.finish(), learn(&input, &flows));
        let (of_part, of_all) = (Judge::new(&input, &part), Judge::new(&input, &all));
        let asks = |flow: &Flow| {
            of_part.would_register_matter(flow) || of_part.waits_for_the_rest(flow)
        };
        prop_assume!(!found.iter().any(asks) && values_to_look_for(&input, &part).is_empty());
        for (flow, seen) in flows.iter().zip(seen) {
            let (whole, part) = (of_all.verdict(flow), of_part.verdict(flow));
            let taught_by_the_rest = matches!(whole.reason, Reason::RegisterNotProven { .. });
            prop_assert!(
                whole.dead.is_none() || seen || taught_by_the_rest,
                "not found: {:?}: {}", flow, whole.reason
            );
            prop_assert!(
                part.stale || part.dead.is_some() || gist(&whole) == gist(&part),
                "{:?}: {}; by tokens: {}", flow, whole.reason, part.reason
            );
        }
    }

    /// The promise. By rule 5 only a flow that pairs tokens of two can go.
    #[test]
    fn a_flow_of_the_living_is_never_stale(
        input in input(), another in live(1), mut flows in flows(),
        shape in prop_oneof![2 => flow(), 1 => classifier(), 2 => pair()],
        one in any::<bool>(), picks in vec(any::<Index>(), 9),
    ) {
        let mut input = input;
        input.live.add(another);
        input.live.values_mut().for_each(|live| live.adding = false);
        let all: Vec<LiveId> = input.live.ids().collect();
        let owners = if one { vec![*picks[0].get(&all)] } else { all };
        flows.push(of_owners(&input, &owners, shape, &picks));
        let verdict = *judge(&input, &flows).last().unwrap();
        prop_assert!(
            !verdict.stale || (!one && verdict.reason.rule() == Some(5)),
            "{:?}: {}", flows.last(), verdict.reason
        );
    }

    #[test]
    fn the_order_of_flows_does_not_matter(
        input in input(), flows in flows(), seed in any::<u64>(),
    ) {
        let order = shuffled(flows.len(), seed);
        let before = judge(&input, &flows);
        let moved: Vec<Flow> = order.iter().map(|i| flows[*i].clone()).collect();
        let after = judge(&input, &moved);
        for (to, from) in order.iter().enumerate() {
            prop_assert_eq!(before[*from], after[to]);
        }
    }

    #[test]
    fn the_order_of_attachments_does_not_matter(
        input in input(), flows in flows(), seed in any::<u64>(),
    ) {
        let mut other = input.clone();
        other.dead = moved(&input.dead, &shuffled(input.dead.len(), seed));
        other.live = moved(&input.live, &shuffled(input.live.len(), seed));
        other.networks = input.networks.values().rev().cloned().collect();
        let last = input.networks.len() - 1;
        let reversed = |NetworkId(n)| NetworkId(last - n);
        other.dead.values_mut().for_each(|d| d.network = reversed(d.network));
        other.live.values_mut().for_each(|l| l.network = l.network.map(reversed));
        for (a, b) in judge(&input, &flows).iter().zip(judge(&other, &flows)) {
            prop_assert_eq!(gist(a), gist(&b));
        }
    }

    #[test]
    fn an_empty_identity_condemns_nothing(
        input in input(), flows in flows(), ports in vec(select(vec![0, LOCAL, 0xff00, 0xffff]), 4),
    ) {
        let mut input = input;
        input.networks.values_mut().for_each(|n| n.reap_dangling = false);
        for (dead, port) in input.dead.values_mut().zip(ports) {
            dead.ofport = dead.ofport.map(|_| port);
            dead.previous_ofports.iter_mut().for_each(|number| *number = port);
            dead.addresses = vec![
                Address::Ip(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
                Address::Mac(MacAddr([0; 6])),
                Address::Mac(MacAddr([0xff; 6])),
            ];
            dead.register = dead.register.map(|_| 0);
        }
        for (flow, verdict) in flows.iter().zip(judge(&input, &flows)) {
            prop_assert!(!verdict.stale, "{:?}: {}", flow, verdict.reason);
        }
    }

    /// More life, fewer deletes. The new one brings its own port row: a record for a port
    /// that nobody explained so far takes doubt away, which is something else. So is a
    /// another pod's different register value, if both are of one workload, which is the proof
    /// that `learn` waits for, and so is what it shows of addresses and numbers: these facts are given
    /// to both. Its own entries may also show that values are not what they were taken for, which
    /// ends that wait; under a dead pod's number they no longer show that pod's VLAN; a number that
    /// somebody alive lost with its row is not given back any more, but the new one's; and an address
    /// beside the dead pod's is no longer one that nobody knows.
    #[test]
    fn one_more_live_attachment_never_condemns(
        input in input(), flows in flows(), new in live(1),
    ) {
        let mut more = input.clone();
        let row = RowId(99);
        let port = new.ofport;
        if let Some(port) = port {
            let explained = input.live.values().any(|l| l.ofport == Some(port))
                || input.ports.by_number.get(&port).is_none_or(|row| {
                    input.dead.values().any(|d| d.ofport == Some(port) && d.interface == Some(*row))
                });
            prop_assume!(port != LOCAL && explained);
            more.ports.by_number.entry(port).or_insert(row);
        }
        let addresses = new.addresses.clone();
        more.live.add(new);
        let learned = learn(&more, &flows);
        let succeeds = input.dead.values().any(|dead| dead.ofport.is_some() && dead.ofport == port);
        let mut input = input;
        for (network, facts) in input.networks.values_mut().zip(learned.basis_facts.values()) {
            network.basis = facts.clone();
        }
        for (network, facts) in input.networks.values_mut().zip(learned.networks.values()) {
            if let RegisterSource::Learn { distinct_seen, .. } = &mut network.register.source {
                *distinct_seen |= facts.distinct_seen;
            }
        }
        for ((flow, before), after) in
            flows.iter().zip(judge(&input, &flows)).zip(judge(&more, &flows))
        {
            let by_rule = matches!(after.reason.rule(), Some(1..=4));
            let doubt_goes = match before.reason {
                Reason::RegisterNotProven { why, .. } => why == NotProven::NeedsSecondAttachment,
                Reason::OtherVlan { .. } => succeeds,
                Reason::HasLiveOwner { token: Token::Port(lost) } => {
                    Some(lost) == port && input.live.values().all(|live| live.ofport != port)
                }
                Reason::MayBeArriving { .. } => {
                    flow.matches.addresses.iter().any(|m| addresses.contains(&m.address))
                }
                _ => false,
            };
            let condemned = !before.stale && after.stale && by_rule && !doubt_goes;
            prop_assert!(!condemned, "{:?}: {} became {}", flow, before.reason, after.reason);
        }
    }

    #[test]
    fn every_rule_is_reached_through_a_token_of_the_dead(input in input(), flows in flows()) {
        let learned = learn(&input, &flows);
        let judge = Judge::new(&input, &learned);
        for flow in &flows {
            let verdict = judge.verdict(flow);
            match (verdict.stale, verdict.reason, verdict.dead) {
                (true, Reason::Dangling { .. }, None) => {}
                (true, reason, Some(i)) => {
                    let token = reason.token().unwrap();
                    prop_assert!(owns(&input, &learned, i, token) && names(flow, token), "{}", reason);
                    if let Reason::NobodyHasBoth { with, .. } = reason {
                        prop_assert!(owns(&input, &learned, i, with) && names(flow, with), "{}", reason);
                    }
                    // Without it, nothing about this token is left to condemn.
                    let mut without = input.clone();
                    let others = input.dead.values().filter(|d| match token {
                        Token::Port(port) => !d.had(port),
                        Token::Address(address) => !d.addresses.contains(&address),
                        Token::Register(_) => false,
                    });
                    without.dead = others.cloned().collect();
                    let again = self::judge(&without, &flows);
                    let again = flows.iter().zip(again).find(|(f, _)| *f == flow).unwrap().1;
                    prop_assert!(!again.stale || again.reason.token() != Some(token));
                }
                (true, reason, None) => prop_assert!(false, "nobody's: {}", reason),
                (false, ..) => {}
            }
        }
    }

    #[test]
    fn what_the_survey_lets_go_is_kept(input in input(), flows in flows()) {
        let mut survey = Survey::new(&input);
        let wanted: Vec<bool> = flows.iter().map(|flow| survey.see(flow)).collect();
        let learned = survey.finish();
        let judge = Judge::new(&input, &learned);
        for (flow, wanted) in flows.iter().zip(wanted) {
            let verdict = judge.verdict(flow);
            prop_assert!(wanted || !verdict.stale, "{:?}: {}", flow, verdict.reason);
            prop_assert!(!judge.would_register_matter(flow), "every flow was seen");
        }
    }

    /// What part of a dump condemns, the whole would condemn too: what is not seen is
    /// assumed, or an entry that a register's meaning may save has the rest read (`part_of_a_dump_
    /// asks_for_the_rest` in `src/judge/tests/carried.rs`). What names the dead one's own value beside
    /// its address is its own, whoever has the value by now; and a register that may tell a VLAN in
    /// which nobody alive is harms nobody: the rest would be read for nothing, with each DEL. Not so where more was promised than a dump shows: computed values, an
    /// identity register that is output to, a port number that is put together in pieces.
    /// Rule 4 asks for live registers as a courtesy.
    #[test]
    fn part_of_a_dump_condemns_no_more_than_the_whole(
        input in input(), flows in flows(), part in vec(any::<bool>(), 7),
        wide in select(vec![u32::MAX, 0xffff]),
    ) {
        let mut input = input;
        for network in input.networks.values_mut() {
            network.register.index = 0;
            if network.register.source.is_computed() {
                network.register.source = RegisterSource::Pod;
            }
        }
        let mut flows = flows;
        for flow in &mut flows {
            let Actions { output_registers, register_writes, .. } = &mut flow.actions;
            output_registers.retain(|range| range.index != 0);
            output_registers.iter_mut().for_each(|range| range.mask = wide);
            register_writes.iter_mut().filter(|w| w.index != 0).for_each(|w| w.mask = wide);
        }
        let mut survey = Survey::partial(&input);
        let mut seen = Vec::new();
        for (flow, _) in flows.iter().zip(part).filter(|(_, part)| *part) {
            let wanted = survey.see(flow);
            seen.push((flow, wanted));
        }
        let learned = survey.finish();
        let judge = Judge::new(&input, &learned);
        let whole = self::judge(&input, &flows);
        for (flow, wanted) in seen {
            let in_part = judge.verdict(flow);
            let in_whole = flows.iter().zip(&whole).find(|(f, _)| *f == flow).unwrap().1;
            prop_assert!(wanted || !in_part.stale);
            let asks_for_the_rest = judge.would_register_matter(flow);
            let names_its_value = in_part.dead.and_then(|i| input.dead.get(i)).is_some_and(|dead| {
                flow.matches.registers.iter().any(|m| dead.register == Some(m.value))
            });
            let vlans: Vec<u16> = input.live.values().flat_map(|l| l.vlans.clone()).collect();
            let is_somebodys = |m: &RegisterMatch| vlans.iter().any(|v| u32::from(*v) == m.value);
            let in_nobodys_vlan = matches!(in_whole.reason, Reason::OtherVlan { .. })
                && flow.matches.vlan.is_none()
                && !flow.matches.registers.iter().any(is_somebodys);
            prop_assert!(
                !in_part.stale
                    || in_whole.stale
                    || asks_for_the_rest
                    || names_its_value
                    || in_nobodys_vlan
                    || in_part.reason.rule() == Some(4),
                "{:?}: {} in part, {} in whole", flow, in_part.reason, in_whole.reason
            );
        }
    }
}

fn moved<I: Id, T: Clone>(list: &Table<I, T>, order: &[usize]) -> Table<I, T> {
    order.iter().map(|index| list.get(I::of(*index)).unwrap().clone()).collect()
}

fn shuffled(n: usize, mut seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        order.swap(i, (seed >> 33) as usize % (i + 1));
    }
    order
}

/// Properties over cases that never get anywhere would prove nothing.
#[test]
fn the_generators_reach_every_reason() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut reached = std::collections::BTreeMap::new();
    for _ in 0..60_000 {
        let input = input().new_tree(&mut runner).unwrap().current();
        let flows = flows().new_tree(&mut runner).unwrap().current();
        for verdict in judge(&input, &flows) {
            let (_, gist, _) = gist(&verdict);
            *reached.entry(gist).or_insert(0) += 1;
        }
    }
    for word in [
        "matches-port",
        "matches-register",
        "sets-register",
        "matches-address",
        "delivers-to-nobody",
        "nobody-has-both",
        "dangling",
        "created-after-death",
        "outputs-to-live-port",
        "loads-live-port",
        "sets-tunnel",
        "sends-to-a-group",
        "may-reach-another-node",
        "another-vlan",
        "belongs-to-a-live-pod",
        "arrives-elsewhere",
        "may-be-arriving",
        "policy-waits",
        "has-live-owner",
        "made-before-birth",
        "port-unsettled",
        "no-record",
        "may-live-elsewhere",
        "evidence-off",
        "out-of-scope",
        "only-mentions",
        "nothing-dead",
        "live-has-it",
        "others-load-it",
        "other-dead-has-it",
        "shared",
        "obscured",
        "live-unknown",
        "needs-second-attachment",
    ] {
        assert!(reached.get(word).is_some_and(|n| *n >= 10), "{word}: {reached:?}");
    }
}
