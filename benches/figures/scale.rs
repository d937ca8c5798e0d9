//! How a sweep grows with what is on the bridge: 1,000 attachments, ten of them dead, from
//! 1,000 flows to 1,000,000. Writes `docs/scale.svg` and `docs/scale.md`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use super::crowd::{Crowd, Shape, unmount, who};
use super::del::{count, empty, install};
use super::echo::{Echoes, percentile};
use super::measure::{median, on};
use super::rig::{Datapath, Node, Setup, layouts};
use super::sweep::{copy, sweep};

const PODS: usize = 1_000;
const DEAD: usize = 10;
const SIZES: [usize; 7] = [1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000];
const ROUNDS: usize = 5;
const SHAPE: Shape = Shape { policy: 0, tables: 1, linger: 30, who };

/// What was measured at a size.
struct Point {
    flows: usize,
    time: Duration,
    peak: u64,
    pause: Duration,
    p99: Duration,
}

pub(crate) fn figures() {
    let node = Setup::new().datapath(Datapath::Dummy).up("bench-scale");
    node.limit_state_dir("64m");
    let points = on(&node, || {
        let crowd = Crowd::new(&node, SHAPE);
        crowd.attach(0..PODS);
        node.ofctl(&["del-flows", "br0"]);
        install(&node, &layouts::classifier_base());
        crowd.die_all(0..DEAD);
        crowd.del_ports(0..DEAD);
        let saved = node.dir.join("saved");
        copy(&node.state_dir, &saved);
        let points: Vec<_> = SIZES.iter().map(|flows| measure(&node, &saved, *flows)).collect();
        unmount(&crowd.netns, DEAD..PODS);
        points
    });
    let text = table(&points);
    println!("{text}");
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    fs::write(docs.join("scale.md"), document(&text)).unwrap();
    fs::write(docs.join("scale.svg"), plot(&points)).unwrap();
}

fn measure(node: &Node, saved: &Path, flows: usize) -> Point {
    let dead: Vec<_> = (0..DEAD).flat_map(|n| SHAPE.entries(&who(n))).collect();
    install(node, &dead);
    let there = count(node);
    // The entries of others: what gives the living their values, then as much as fits of the rest
    // of theirs, then whatever.
    let first = (DEAD..PODS).map(|n| SHAPE.entries(&who(n)).swap_remove(0));
    let rest = (DEAD..PODS).flat_map(|n| SHAPE.entries(&who(n)).into_iter().skip(1));
    let living = first.chain(rest);
    let filler = (0..).map(|n: usize| {
        let (table, a, b, c) = (60 + n % 10, n >> 16 & 0xff, n >> 8 & 0xff, n & 0xff);
        format!("table={table}, priority=10,tcp,nw_src=11.{a}.{b}.{c},tp_dst=80 actions=drop")
    });
    let others: Vec<_> = living.chain(filler).take(flows - dead.len() - 7).collect();
    install(node, &others);
    assert!(count(node) == flows && there < flows, "{} of {flows}", count(node));
    let (mut times, mut echoes) = (Vec::new(), Vec::new());
    let sweep = sweep(node);
    let restore = || {
        install(node, &dead);
        empty(&node.state_dir);
        copy(saved, &node.state_dir);
    };
    for _ in 0..ROUNDS {
        restore();
        let client = Echoes::start(&node.run_dir.join("br0.mgmt"));
        times.push(sweep.time());
        echoes.extend(client.stop());
        // Where some of the living have no entries at all, nobody's value is proven to be theirs.
        let (left, unproven) = (count(node), if flows < PODS * 2 { 2 * DEAD } else { 0 });
        assert!(left >= flows - dead.len() && left <= flows - dead.len() + unproven, "{left}");
    }
    restore();
    let peak = sweep.peak();
    echoes.sort_unstable();
    let point = Point {
        flows,
        time: median(&mut times),
        peak,
        pause: percentile(&echoes, 100),
        p99: percentile(&echoes, 99),
    };
    eprintln!("{}", row(&point));
    point
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn row(point: &Point) -> String {
    let Point { flows, time, peak, pause, p99 } = point;
    let each = time.as_secs_f64() * 1e6 / *flows as f64;
    format!(
        "| {flows} | {:.1} | {each:.2} | {:.1} | {:.1} | {:.1} |",
        ms(*time),
        *peak as f64 / 1e6,
        ms(*p99),
        ms(*pause)
    )
}

fn table(points: &[Point]) -> String {
    let mut text = String::from(
        "| flows | sweep, ms | µs a flow | peak memory, MB | another client\'s echo, p99, ms | the \
         longest, ms |\n| --: | --: | --: | --: | --: | --: |\n",
    );
    for point in points {
        writeln!(text, "{}", row(point)).unwrap();
    }
    text
}

fn document(table: &str) -> String {
    format!(
        "# How a sweep grows\n\n`benches/scale.sh` makes this page and its picture. 1,000 attachments on \
         one bridge (dummy datapath), {DEAD} of them dead without a DEL, {} entries each; the other \
         entries are the living\'s and, beyond those, filler in ten tables. A sweep is a process of \
         `ovs-flow-gc sweep`, from its start to its end; {ROUNDS} of each, the median is told. \
         Another client asks the switch for one echo after the other meanwhile: the longest is \
         the longest pause of ovs-vswitchd.\n\n{table}\n![Time, memory and pause over the number \
         of flows, both axes logarithmic](scale.svg)\n\nWhat is grey is linear growth.\n\n\
         Memory grows by some 8 bytes for each entry that is there: the place of every entry is remembered\n\
         until the look is over, because two that look the same are not touched. At 1,000 flows most of the\n\
         living have hardly any, so that not every value can be proven and 20 entries of the dead wait.\n",
        SHAPE.each()
    )
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
const MARGIN: f64 = 60.0;
/// Powers of ten on the axes.
const X: [f64; 2] = [3.0, 6.0];
const Y: [f64; 2] = [0.0, 4.0];

fn at(flows: f64, value: f64) -> (f64, f64) {
    let share = |v: f64, [from, to]: [f64; 2]| (v.max(1e-9).log10() - from) / (to - from);
    let x = MARGIN + share(flows, X) * (WIDTH - 2.0 * MARGIN);
    (x, HEIGHT - MARGIN - share(value, Y).clamp(0.0, 1.0) * (HEIGHT - 2.0 * MARGIN))
}

fn plot(points: &[Point]) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"{WIDTH}\" \
         height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    let mut line = |points: &[(f64, f64)], colour: &str, more: &str| {
        let points: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" {more}/>",
            points.join(" ")
        )
        .unwrap();
    };
    for power in 3..=6 {
        let x = 10_f64.powi(power);
        line(&[at(x, 1.0), at(x, 1e4)], "#ddd", "");
    }
    for power in 0..=4 {
        let y = 10_f64.powi(power);
        line(&[at(1e3, y), at(1e6, y)], "#ddd", "");
    }
    for from in [1.0, 10.0] {
        line(&[at(1e3, from), at(1e6, from * 1e3)], "#bbb", "stroke-dasharray=\"4 4\"");
    }
    type Value = fn(&Point) -> f64;
    let series: [(&str, &str, Value); 3] = [
        ("#06c", "sweep, ms", |p| ms(p.time)),
        ("#c30", "longest pause of the switch, ms", |p| ms(p.pause)),
        ("#080", "peak memory, MB", |p| p.peak as f64 / 1e6),
    ];
    for (colour, _, value) in series {
        let points: Vec<_> = points.iter().map(|p| at(p.flows as f64, value(p))).collect();
        line(&points, colour, "stroke-width=\"2\"");
    }
    let mut label = |x: f64, y: f64, anchor: &str, colour: &str, what: &str| {
        writeln!(
            svg,
            "<text x=\"{x:.0}\" y=\"{y:.0}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{what}</text>"
        )
        .unwrap();
    };
    for (power, what) in (3..).zip(["1,000", "10,000", "100,000", "1,000,000 flows"]) {
        label(at(10_f64.powi(power), 1.0).0, HEIGHT - MARGIN + 18.0, "middle", "#333", what);
    }
    for (power, what) in (0..).zip(["1", "10", "100", "1,000", "10,000"]) {
        label(MARGIN - 8.0, at(1e3, 10_f64.powi(power)).1 + 4.0, "end", "#333", what);
    }
    for (n, (colour, what, _)) in (0_u32..).zip(series) {
        label(MARGIN + 12.0, MARGIN + 18.0 * (f64::from(n) + 1.0), "start", colour, what);
    }
    svg.push_str("</svg>\n");
    svg
}
