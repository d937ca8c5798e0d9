//! How a sweep grows with what is on the bridge: 1,000 attachments, ten of them dead, from
//! 1,000 flows to 1,000,000; and with what is stale: 100,000 flows, of which from 97 to 89,919
//! are of the dead. Writes `docs/scale.svg` and `docs/scale.md`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use super::del::{count, install};
use super::echo::{Echoes, percentile};
use super::measure::{median, on};
use super::pods::{PodSet, Shape, unmount, who};
use super::rig::{Datapath, Node, Setup, layouts};
use super::sweep::{Saved, sweep};

const PODS: usize = 1_000;
const DEAD: usize = 10;
const SIZES: [usize; 7] = [1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000];
const ROUNDS: usize = 5;
const SHAPE: Shape = Shape { policy: 0, tables: 1, linger: 30, who };

/// With what is stale: 97 entries each, that is 99,910.
const MANY: usize = 1_030;
const FLOWS: usize = 100_000;
const DEAD_OF_MANY: [usize; 7] = [1, 10, 52, 103, 258, 515, 927];
const MANY_SHAPE: Shape = Shape { policy: 82, tables: 10, linger: 30, who };

/// What was measured, of so many flows that are there or stale.
struct Point {
    flows: usize,
    time: Duration,
    peak: u64,
    pause: Duration,
    p99: Duration,
}

pub(crate) fn figures() {
    let stale = by_what_is_stale();
    let there = by_what_is_there();
    let [there_text, stale_text] =
        [table("flows", &there), table("stale flows, of 100,000", &stale)];
    println!("{there_text}\n{stale_text}");
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    fs::write(docs.join("scale.md"), document(&there_text, &stale_text)).unwrap();
    fs::write(docs.join("scale.svg"), picture(&there, &stale)).unwrap();
}

fn by_what_is_there() -> Vec<Point> {
    let node = Setup::new().datapath(Datapath::Dummy).up("bench-scale");
    node.limit_state_dir("64m");
    on(&node, || {
        let pod_set = PodSet::new(&node, SHAPE);
        pod_set.attach(0..PODS);
        node.ofctl(&["del-flows", "br0"]);
        install(&node, &layouts::classifier_base());
        pod_set.die_all(0..DEAD);
        pod_set.del_ports(0..DEAD);
        let saved = Saved::of(&node);
        let points = SIZES.iter().map(|flows| {
            let dead: Vec<_> = (0..DEAD).flat_map(|n| SHAPE.entries(&who(n))).collect();
            install(&node, &dead);
            fill(&node, flows - dead.len() - 7);
            assert_eq!(count(&node), *flows);
            // Where some of the living have no entries at all, nobody's value is proven to be
            // theirs.
            let unproven = if *flows < PODS * 2 { 2 * DEAD } else { 0 };
            measure(&node, &saved, *flows, &dead, unproven)
        });
        let points = points.collect();
        unmount(&pod_set.netns, DEAD..PODS);
        points
    })
}

/// The entries of others: what gives the living their values, then as much as fits of the rest
/// of theirs, then whatever.
fn fill(node: &Node, entries: usize) {
    let first = (DEAD..PODS).map(|n| SHAPE.entries(&who(n)).swap_remove(0));
    let rest = (DEAD..PODS).flat_map(|n| SHAPE.entries(&who(n)).into_iter().skip(1));
    let filler = (0..).map(|n: usize| {
        let (table, a, b, c) = (60 + n % 10, n >> 16 & 0xff, n >> 8 & 0xff, n & 0xff);
        format!("table={table}, priority=10,tcp,nw_src=11.{a}.{b}.{c},tp_dst=80 actions=drop")
    });
    install(node, &first.chain(rest).chain(filler).take(entries).collect::<Vec<_>>());
}

fn by_what_is_stale() -> Vec<Point> {
    let node = Setup::new().datapath(Datapath::Dummy).up("bench-stale");
    node.limit_state_dir("128m");
    on(&node, || {
        let pod_set = PodSet::new(&node, MANY_SHAPE);
        pod_set.attach(0..MANY);
        let whos: Vec<_> = (0..MANY).map(who).collect();
        node.ofctl(&["del-flows", "br0"]);
        install(&node, &MANY_SHAPE.bridge(&whos, FLOWS));
        let saved = Saved::of(&node);
        let mut gone = 0;
        let points = DEAD_OF_MANY.iter().map(|dead| {
            pod_set.die_all(gone..*dead);
            pod_set.del_ports(gone..*dead);
            gone = *dead;
            let dead = whos.iter().take(*dead).flat_map(|who| MANY_SHAPE.entries(who));
            let dead: Vec<_> = dead.collect();
            measure(&node, &saved, dead.len(), &dead, 0)
        });
        let points = points.collect();
        unmount(&pod_set.netns, 0..MANY);
        points
    })
}

/// Sweeps of these entries of the dead, which all go but for so many.
fn measure(node: &Node, saved: &Saved<'_>, flows: usize, dead: &[String], most: usize) -> Point {
    let (mut times, mut echoes) = (Vec::new(), Vec::new());
    let sweep = sweep(node, "ovs-flow-gc");
    let restore = || {
        install(node, dead);
        saved.restore();
        count(node)
    };
    for _ in 0..ROUNDS {
        let all = restore();
        let client = Echoes::start(&node.run_dir.join("br0.mgmt"));
        times.push(sweep.time());
        echoes.extend(client.stop());
        let left = count(node);
        assert!((all - dead.len()..=all - dead.len() + most).contains(&left), "{left} of {all}");
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

fn table(what: &str, points: &[Point]) -> String {
    let mut text = format!(
        "| {what} | sweep, ms | µs a flow | peak memory, MB | another client's echo, p99, ms | \
         the longest, ms |\n| --: | --: | --: | --: | --: | --: |\n",
    );
    for point in points {
        writeln!(text, "{}", row(point)).unwrap();
    }
    text
}

fn document(there: &str, stale: &str) -> String {
    format!(
        "# How a sweep grows

`benches/scale.sh` makes this page and its picture. A sweep is a process of `ovs-flow-gc sweep`,
from its start to its end; {ROUNDS} of each, the median is told. Another client asks the switch for
one echo after the other meanwhile: the longest is the longest pause of ovs-vswitchd. The datapath
is OVS's dummy.

![Time, memory and pause over the number of flows, and over the number of stale ones; all axes
logarithmic](scale.svg)

What is grey is linear growth.

## With what is there

1,000 attachments on one bridge, {DEAD} of them dead without a DEL, {} entries each; the other
entries are the living's and, beyond those, filler in ten tables.

{there}
What is there is not remembered, only what may be stale: memory is as good as the same. At 1,000
flows most of the living have hardly any, so that not every value can be proven and 20 entries of
the dead wait.

## With what is stale

100,000 flows on one bridge, {} entries of each of 1,030 attachments, in ten tables; some of these
are dead without a DEL. The time is per stale flow.

{stale}",
        SHAPE.each(),
        MANY_SHAPE.each()
    )
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
const MARGIN: f64 = 60.0;
/// Powers of ten on the axes.
const Y: [i32; 2] = [0, 4];

/// One diagram: its powers of ten, and how far down it is.
struct Panel {
    x: [i32; 2],
    top: f64,
    svg: String,
}

impl Panel {
    fn at(&self, flows: f64, value: f64) -> (f64, f64) {
        let share = |v: f64, [from, to]: [i32; 2]| {
            (v.max(1e-9).log10() - f64::from(from)) / f64::from(to - from)
        };
        let x = MARGIN + share(flows, self.x) * (WIDTH - 2.0 * MARGIN);
        let y = share(value, Y).clamp(0.0, 1.0) * (HEIGHT - 2.0 * MARGIN);
        (x, self.top + HEIGHT - MARGIN - y)
    }

    fn line(&mut self, points: &[(f64, f64)], colour: &str, more: &str) {
        let at = points.iter().map(|(flows, value)| self.at(*flows, *value));
        let points: Vec<_> = at.map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        writeln!(
            self.svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" {more}/>",
            points.join(" ")
        )
        .unwrap();
    }

    fn label(&mut self, (x, y): (f64, f64), anchor: &str, colour: &str, what: &str) {
        writeln!(
            self.svg,
            "<text x=\"{x:.0}\" y=\"{y:.0}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{what}</text>"
        )
        .unwrap();
    }
}

/// Both diagrams, one above the other.
fn picture(there: &[Point], stale: &[Point]) -> String {
    let (upper, lower) = (
        panel([3, 6], 0.0, "flows", there),
        panel([1, 5], HEIGHT, "stale flows, of 100,000", stale),
    );
    let height = 2.0 * HEIGHT;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"{WIDTH}\" \
         height=\"{height}\" fill=\"white\"/>\n{upper}{lower}</svg>\n"
    )
}

fn panel(x: [i32; 2], top: f64, what: &str, points: &[Point]) -> String {
    let mut panel = Panel { x, top, svg: String::new() };
    let ten = |power: i32| 10_f64.powi(power);
    let ([left, right], [bottom, ceiling]) = (x.map(ten), Y.map(ten));
    for power in x[0]..=x[1] {
        panel.line(&[(ten(power), bottom), (ten(power), ceiling)], "#ddd", "");
        let (x, y) = panel.at(ten(power), bottom);
        panel.label((x, y + 18.0), "middle", "#333", &grouped(power));
    }
    let (x, y) = panel.at((left * right).sqrt(), bottom);
    panel.label((x, y + 36.0), "middle", "#333", what);
    for power in Y[0]..=Y[1] {
        panel.line(&[(left, ten(power)), (right, ten(power))], "#ddd", "");
        let (x, y) = panel.at(left, ten(power));
        panel.label((x - 8.0, y + 4.0), "end", "#333", &grouped(power));
    }
    for last in [ten(Y[1] - 1), ceiling] {
        let first = left.max(right * bottom / last);
        let ends = [(first, last * first / right), (right, last)];
        panel.line(&ends, "#bbb", "stroke-dasharray=\"4 4\"");
    }
    type Value = fn(&Point) -> f64;
    let series: [(&str, &str, Value); 3] = [
        ("#06c", "sweep, ms", |p| ms(p.time)),
        ("#c30", "longest pause of the switch, ms", |p| ms(p.pause)),
        ("#080", "peak memory, MB", |p| p.peak as f64 / 1e6),
    ];
    for (n, (colour, what, value)) in (0_u32..).zip(series) {
        let points: Vec<_> = points.iter().map(|p| (p.flows as f64, value(p))).collect();
        panel.line(&points, colour, "stroke-width=\"2\"");
        let place = (MARGIN + 12.0, top + MARGIN + 18.0 * (f64::from(n) + 1.0));
        panel.label(place, "start", colour, what);
    }
    panel.svg
}

/// A power of ten, as one writes it.
fn grouped(power: i32) -> String {
    match power {
        3.. => {
            format!("1{},000", "0".repeat(usize::try_from(power % 3).unwrap()))
                + &",000".repeat(usize::try_from(power / 3 - 1).unwrap())
        }
        _ => format!("{}", 10_f64.powi(power)),
    }
}
