//! Side by side with what is used instead: what each takes, whom it harms, what it leaves.
//!
//! A node of 1,030 pods loses 500 of them without a DEL. Some of what the dead had is somebody
//! else's by now: addresses and register values of pods that came after them, and values that a
//! living pod always shared with a dead one. Every entry's cookie tells whose it is, which nobody
//! who deletes looks at.

use std::fmt::Write as _;
use std::ops::Range;
use std::time::Duration;

use super::daemon;
use super::del::install;
use super::measure::{Process, median, on};
use super::pods::{PodSet, Shape, unmount, who};
use super::rig::{Datapath, Node, Setup, layouts};
use super::rivals::{bundle, del_by_value, del_flows, one_by_one};
use super::sweep::{Saved, sweep};

const DEAD: Range<usize> = 0..500;
const LIVING: Range<usize> = 500..1030;
/// Have the address of a dead pod, then: its register value.
const SUCCESSORS: Range<usize> = 1030..1070;
const OF_EACH: usize = 20;
const FLOWS: usize = 100_000;
const SHAPE: Shape = Shape { policy: 82, tables: 1, linger: 30, who: kin };
const ROUNDS: usize = 3;
/// A loop that looks every five seconds finds a death after half of that.
const MEAN_WAIT: Duration = Duration::from_millis(2500);

const ALIVE: u64 = 1;
const GONE: u64 = 2;

/// [`who`], with what the successors and the sharers have of the dead.
fn kin(n: usize) -> layouts::Who {
    let own = who(n);
    let from = |dead: usize| who(DEAD.start + dead);
    let successor = n.wrapping_sub(SUCCESSORS.start);
    let sharer = n.wrapping_sub(LIVING.start);
    if successor < OF_EACH {
        let dead = from(successor);
        layouts::Who { ip: dead.ip, ip6: dead.ip6, ..own }
    } else if successor < 2 * OF_EACH {
        layouts::Who { reg: from(successor).reg, ..own }
    } else if sharer < OF_EACH {
        layouts::Who { reg: from(2 * OF_EACH + sharer).reg, ..own }
    } else {
        own
    }
}

/// Entries of these pods, marked.
fn marked(pods: impl Iterator<Item = usize>, cookie: u64) -> Vec<String> {
    let entries = pods.flat_map(|n| SHAPE.entries(&kin(n)));
    entries.map(|entry| format!("cookie={cookie:#x}, {entry}")).collect()
}

/// How many entries have this cookie.
fn count(node: &Node, cookie: u64) -> usize {
    let text = node.ofctl(&["dump-aggregate", "br0", &format!("cookie={cookie:#x}/-1")]);
    text.split("flow_count=").nth(1).unwrap().trim().parse().unwrap()
}

/// Everything that matches, one a line, as `del-flows --strict` wants it.
fn list(node: &Node) -> Vec<String> {
    let text = node.ofctl(&["-OOpenFlow14", "dump-flows", "--no-stats", "--no-names", "br0"]);
    let matches = |line: &str| {
        let line = line.trim().strip_prefix("cookie=")?;
        let (_, rest) = line.split_once(", ")?;
        Some(rest.split_once(" actions=")?.0.to_owned())
    };
    text.lines().filter_map(matches).collect()
}

/// What came of one way to clean.
struct Outcome {
    who: &'static str,
    time: Duration,
    /// Of the living, entries that are gone.
    harmed: usize,
    /// Of the dead, entries that are still there.
    left: usize,
    peak: u64,
    needs: &'static str,
}

/// The table.
pub(crate) fn figures() -> String {
    let node = Setup::new().datapath(Datapath::Dummy).up("bench-compare");
    node.limit_state_dir("64m");
    let outcomes = on(&node, || {
        let pod_set = PodSet::new(&node, SHAPE);
        let outcomes = all(&node, &pod_set);
        unmount(&pod_set.netns, 0..SUCCESSORS.end);
        outcomes
    });
    drop(node);
    let [ours, theirs] = daemon::beside_a_loop();
    told(&outcomes, ours, theirs)
}

/// The bridge as nobody has cleaned it.
fn fill(node: &Node) -> [usize; 2] {
    node.ofctl(&["del-flows", "br0"]);
    install(node, &layouts::classifier_base());
    install(node, &marked(DEAD, GONE));
    // What is the same as a dead one's is the living one's.
    install(node, &marked(LIVING.chain(SUCCESSORS), ALIVE));
    let [alive, gone] = [ALIVE, GONE].map(|cookie| count(node, cookie));
    let filler = (0..FLOWS.saturating_sub(alive + gone))
        .map(|n| format!("table=20, priority=10,tcp,tp_dst={} actions=drop", 20_000 + n));
    install(node, &filler.collect::<Vec<_>>());
    [alive, gone]
}

fn all(node: &Node, pod_set: &PodSet<'_>) -> Vec<Outcome> {
    // What happens on a node that has us: the successors' ADDs come after the deaths.
    pod_set.attach(DEAD.start..LIVING.end);
    node.ofctl(&["del-flows", "br0"]);
    install(node, &layouts::classifier_base());
    install(node, &marked(DEAD, GONE));
    install(node, &marked(LIVING, ALIVE));
    pod_set.die_all(DEAD);
    pod_set.del_ports(DEAD);
    pod_set.attach(SUCCESSORS);
    install(node, &marked(SUCCESSORS, ALIVE));
    let before = list(node);
    let saved = Saved::of(node);
    let sweep = sweep(node, "ovs-flow-gc");
    let time = sweep.time();
    let after = list(node);
    let [alive, gone] = [ALIVE, GONE].map(|cookie| count(node, cookie));
    let after: std::collections::HashSet<_> = after.into_iter().collect();
    let mut deleted = String::new();
    let mut deletions = 0;
    for entry in before.into_iter().filter(|entry| !after.contains(entry)) {
        writeln!(deleted, "{entry}").unwrap();
        deletions += 1;
    }
    let [all_alive, all_gone] = fill(node);
    eprintln!("{all_alive} entries of the living, {all_gone} of the dead, {deletions} deleted");
    assert!(deletions > 40_000 && all_gone > deletions, "there was something to do");
    let mut outcomes = vec![Outcome {
        who: "ovs-flow-gc sweep",
        time,
        harmed: all_alive - alive,
        left: gone,
        peak: {
            fill(node);
            saved.restore();
            sweep.peak()
        },
        needs: "one static binary, the sockets of OVS",
    }];
    let told = bundle(node, &deleted, &["--strict"]);
    let mut rival = |who, needs, rounds, process: &Process, run: &dyn Fn() -> Duration| {
        let mut times = Vec::new();
        let mut seen = [0; 2];
        for _ in 0..rounds {
            fill(node);
            times.push(run());
            seen = [ALIVE, GONE].map(|cookie| count(node, cookie));
        }
        let [alive, gone] = seen;
        let (harmed, peak) = (all_alive - alive, process.peak());
        outcomes.push(Outcome { who, time: median(&mut times), harmed, left: gone, peak, needs });
    };
    rival(
        "ovs-ofctl --bundle --strict, given our list of what to delete",
        "ovs-ofctl; somebody who knows the list",
        ROUNDS,
        &told,
        &|| told.time(),
    );
    let by_value: Vec<_> = DEAD.map(|n| del_by_value(node, kin(n).reg)).collect();
    rival(
        "shell loop every 5 s: del-flows reg0=N for each",
        "a shell, kubectl and the API server, ovs-ofctl",
        1,
        &by_value[0],
        &|| one_by_one(&by_value) + MEAN_WAIT,
    );
    let by_token: Vec<_> = DEAD.flat_map(|n| del_by_tokens(node, &kin(n))).collect();
    rival(
        "shell loop every 5 s: six del-flows for each, by port, value and address",
        "the same, and a list of who had what",
        1,
        &by_token[0],
        &|| one_by_one(&by_token) + MEAN_WAIT,
    );
    let by_address: Vec<_> =
        DEAD.map(|n| bundle(node, &addresses(&kin(n).ip).join("\n"), &[])).collect();
    rival(
        "del-flows by address, four matches for each",
        "ovs-ofctl; somebody who tells of the deaths",
        1,
        &by_address[0],
        &|| one_by_one(&by_address),
    );
    // Ours once more, twice: the time of one run is no figure.
    let mut times = vec![time];
    for _ in 1..ROUNDS {
        fill(node);
        saved.restore();
        times.push(sweep.time());
    }
    outcomes[0].time = median(&mut times);
    outcomes
}

/// What openshift-sdn deletes of a pod: everything that has its address on either side.
fn addresses(ip: &str) -> [String; 4] {
    ["ip,nw_src", "ip,nw_dst", "arp,arp_spa", "arp,arp_tpa"].map(|field| format!("{field}={ip}"))
}

/// A call for each of what is known of a pod, as scripts that clean up after one have it.
fn del_by_tokens(node: &Node, pod: &layouts::Who) -> Vec<Process> {
    let own = [format!("in_port={}", pod.ofport), format!("reg0={:#x}", pod.reg)];
    own.iter().chain(&addresses(&pod.ip)).map(|matching| del_flows(node, matching)).collect()
}

fn told(outcomes: &[Outcome], ours: Duration, theirs: Duration) -> String {
    let mut text = String::from(
        "| 500 of 1,030 pods die, 100,000 flows | time to clean | beside ours | entries of the \
         living that are gone | entries of the dead that are left | peak memory | needs |\n\
         | --- | --: | --: | --: | --: | --: | --- |\n",
    );
    let first = outcomes.first().map_or(Duration::ZERO, |o| o.time).as_secs_f64();
    for Outcome { who, time, harmed, left, peak, needs } in outcomes {
        let (ms, ratio) = (time.as_secs_f64() * 1e3, time.as_secs_f64() / first);
        let peak = *peak as f64 / 1e6;
        writeln!(
            text,
            "| {who} | {ms:.0} ms | {ratio:.2} | {harmed} | {left} | {peak:.1} MB | {needs} |"
        )
        .unwrap();
    }
    let (mine, loops) = (ours.as_secs_f64() * 1e3, theirs.as_secs_f64() * 1e3);
    writeln!(
        text,
        "\nOne pod of 250 dies, 10,000 flows, from its death to the last entry that goes: \
         ovs-flow-gcd {mine:.0} ms, the shell loop {loops:.0} ms, {:.0} times as long.\n\n\
         A loop that looks every 5 s finds a death after 2.5 s in the mean, which is in its time; \
         what kubectl and the API server take to answer is not, nor what it takes to know a dead \
         pod's port, value and addresses. The others' times are of the call alone.",
        loops / mine
    )
    .unwrap();
    text
}
