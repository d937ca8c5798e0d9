//! Pods that come and go beside a daemon, with few port numbers, addresses and register values:
//! each is given away again within moments. Controllers install entries early, late, and in any order.
//!
//! What must hold whenever the node has been quiet for three seconds: every entry of a living pod is
//! there, and no entry of a dead one, unless `explain` gives a reason that docs/promises.md names.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::pods::{self, Dice, Member, all_at_once, missing};
use crate::gcd::Daemon;
use crate::rig::{Node, eventually, layouts, sleep_ms};

/// Pods that come and go.
const PODS: usize = 20;
/// Port numbers, addresses and register values that they have.
const TOKENS: u16 = 30;
/// Pods that stay. If more than half of a node dies within ten seconds, that is a mass death.
const RESIDENTS: u16 = 120;
/// For how long after the last death entries of the dead may be left.
const QUIET: Duration = Duration::from_secs(3);
/// After so many deaths everything is compared.
const COMPARED_AFTER: usize = 50;

/// Reasons for which an entry of a dead pod may be left: docs/promises.md, `value-unproven`,
/// `unknown-value`.
pub(crate) const EXPLAINED: [&str; 2] = ["register-not-proven", "unknown-value"];

/// What is tried.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trial {
    /// `reg0` of the configuration.
    pub(crate) reg0: &'static str,
    /// So many pods die, a part of them without a DEL.
    pub(crate) deaths: usize,
    /// `--replica-limit`.
    pub(crate) replica_limit: usize,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) deaths: usize,
    /// Deaths without a DEL.
    pub(crate) silent: usize,
    /// Entries that controllers installed.
    pub(crate) installed: usize,
    /// Entries of living pods that were gone.
    pub(crate) lost: Vec<String>,
    /// Entries of dead pods that were left after [`QUIET`], each with the reason.
    pub(crate) left: BTreeMap<String, String>,
    /// Deleted entries whose token found a new owner in that moment.
    pub(crate) suspicions: usize,
    /// Of these so many are there at the end.
    pub(crate) left_at_end: usize,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} deaths, {} of them without a DEL, {} entries installed; lost by the living {}; left \
             of the dead {:?}, at the end {}; suspicions {}",
            self.deaths,
            self.silent,
            self.installed,
            self.lost.len(),
            self.by_reason(),
            self.left_at_end,
            self.suspicions
        )
    }
}

impl Found {
    /// How many were left for each reason.
    pub(crate) fn by_reason(&self) -> BTreeMap<&str, usize> {
        let mut count = BTreeMap::new();
        for reason in self.left.values() {
            *count.entry(reason.as_str()).or_default() += 1;
        }
        count
    }
}

/// A living pod, and what its controller has done.
struct Living {
    member: Member,
    there: Vec<String>,
    /// What is to be installed, and when.
    pending: Vec<(Instant, Vec<String>)>,
}

/// A dead pod.
struct Dead {
    member: Member,
    /// The entry that shows its register value was there while it lived.
    classified: bool,
}

struct Turnover<'n> {
    node: &'n Node,
    dice: Dice,
    base: Vec<String>,
    residents: Vec<Member>,
    living: Vec<Living>,
    /// Ports of dead pods whose rows are left.
    rows: Vec<Member>,
    /// Tokens that nobody has: number, address, value.
    free: [Vec<u16>; 3],
    /// Who has died.
    dead: Vec<Dead>,
    born: u32,
    found: Found,
    /// What happened since the last comparison.
    diary: Vec<String>,
}

/// Lets pods come and go beside a daemon.
pub(crate) fn run(test: &str, trial: Trial) -> Found {
    let node = pods::node(test, json!({"reg0": trial.reg0}));
    node.limit_state_dir("256m");
    let mut turnover = Turnover::new(&node);
    turnover.settle_in();
    let limit = format!("--replica-limit={}", trial.replica_limit);
    let args = ["--interval=30s", "--log-level=debug", limit.as_str()];
    let daemon = Daemon::start_with(&node, &args, None);
    eventually("the daemon is ready", || daemon.get("/readyz").0 == 200);
    if trial.replica_limit > 0 {
        let since = "replica_in_sync_since_seconds{bridge=\"br0\"}";
        eventually("the bridge is followed", || daemon.metric(since) > 0.0);
    }
    turnover.arrive();
    let mut compared = 0;
    while turnover.found.deaths < trial.deaths {
        turnover.round(trial.deaths - turnover.found.deaths);
        if turnover.found.deaths >= compared + COMPARED_AFTER {
            compared = turnover.found.deaths;
            turnover.compare();
        }
    }
    turnover.compare();
    let log = daemon.log();
    if !turnover.found.left.is_empty() {
        eprintln!("the daemon said:\n{log}");
    }
    assert_eq!(daemon.metric("brake_pulled_total"), 0.0, "{log}");
    assert!(!log.contains("panicked"), "{log}");
    turnover.found.suspicions = daemon.metric("collateral_suspicions_total") as usize;
    turnover.found
}

impl<'n> Turnover<'n> {
    fn new(node: &'n Node) -> Self {
        let base = node.install("br0", &layouts::classifier_base());
        let numbers: Vec<u16> = (2..2 + TOKENS).collect();
        Self {
            node,
            dice: Dice::new("turnover"),
            base,
            residents: Vec::new(),
            living: Vec::new(),
            rows: Vec::new(),
            free: [numbers.clone(), numbers.clone(), numbers],
            dead: Vec::new(),
            born: 0,
            found: Found::default(),
            diary: Vec::new(),
        }
    }

    /// The pods that stay.
    fn settle_in(&mut self) {
        let member = |n: u16| {
            let address = u8::try_from(100 + n).unwrap();
            Member::new(self.node, 10_000_000 + u32::from(n), 1000 + n, address, value(5000 + n))
        };
        self.residents = (0..RESIDENTS).map(member).collect();
        pods::add_ports(self.node, &self.residents);
        for some in self.residents.chunks(20) {
            all_at_once(self.node, "ADD", some);
        }
        let lines: Vec<_> = self.residents.iter().flat_map(Member::lines).collect();
        self.node.add_flows("br0", &lines);
    }

    /// Some die, and others are born. At most so many die.
    fn round(&mut self, most: usize) {
        let count = (1 + self.dice.below(3)).min(most);
        let dying: Vec<_> = (0..count).filter_map(|_| self.dice.take(&mut self.living)).collect();
        self.found.deaths += dying.len();
        let (silent, with_del): (Vec<_>, Vec<_>) =
            dying.into_iter().partition(|_| self.dice.percent(60));
        self.found.silent += silent.len();
        if self.dice.percent(50) {
            self.vanish(silent);
            self.leave(with_del);
        } else {
            self.leave(with_del);
            self.vanish(silent);
        }
        if self.dice.percent(30) {
            sleep_ms(self.dice.below(150) as u64);
        }
        self.controllers();
        self.arrive();
        while self.dice.percent(60) && !self.rows.is_empty() {
            self.reap();
        }
        self.controllers();
    }

    fn note(&mut self, what: &str, member: &Member) {
        let who = &member.who;
        let (port, ip, reg) = (who.ofport, &who.ip, who.reg);
        self.diary.push(format!("{what} {}: port {port} ip {ip} reg {reg:#x}", member.port));
    }

    /// Pods end without a DEL.
    fn vanish(&mut self, dying: Vec<Living>) {
        let (members, dead) = of_dying(dying);
        // The port's row may go first, with the sandbox, later, or much later.
        let (first, later): (Vec<_>, Vec<_>) =
            members.iter().cloned().partition(|_| self.dice.percent(25));
        let (at_once, left): (Vec<_>, Vec<_>) =
            later.into_iter().partition(|_| self.dice.percent(65));
        pods::del_ports(self.node, first.iter().map(|m| m.port.as_str()));
        pods::end_sandboxes(self.node, &members);
        pods::del_ports(self.node, at_once.iter().map(|m| m.port.as_str()));
        for member in first.iter().chain(&at_once) {
            self.note("vanishes with its row", member);
            self.give_back(0, member.who.ofport);
        }
        for member in &left {
            self.note("vanishes", member);
        }
        self.rows.extend(left);
        self.ended(dead);
    }

    /// Pods end with a DEL, and then the OVS plugin's.
    fn leave(&mut self, dying: Vec<Living>) {
        let (members, dead) = of_dying(dying);
        all_at_once(self.node, "DEL", &members);
        pods::del_ports(self.node, members.iter().map(|m| m.port.as_str()));
        pods::end_sandboxes(self.node, &members);
        for member in &members {
            self.note("leaves", member);
            self.give_back(0, member.who.ofport);
        }
        self.ended(dead);
    }

    fn ended(&mut self, dead: Vec<Dead>) {
        for Dead { member, .. } in &dead {
            let address = member.who.ip.rsplit('.').next().unwrap().parse().unwrap();
            self.give_back(1, address);
            self.give_back(2, u16::try_from(member.who.reg - value(0)).unwrap());
        }
        self.dead.extend(dead);
    }

    fn give_back(&mut self, kind: usize, number: u16) {
        self.free[kind].push(number);
    }

    /// A port's row that was left goes.
    fn reap(&mut self) {
        let Some(member) = self.dice.take(&mut self.rows) else { return };
        self.note("loses its row", &member);
        pods::del_ports(self.node, [member.port.as_str()]);
        self.give_back(0, member.who.ofport);
    }

    /// A free token: often the one that was given back last.
    fn token(&mut self, kind: usize) -> Option<u16> {
        if self.dice.percent(50) {
            return self.free[kind].pop();
        }
        self.dice.take(&mut self.free[kind])
    }

    /// Pods are born until there are as many as before.
    fn arrive(&mut self) {
        let mut born = Vec::new();
        while self.living.len() + born.len() < PODS {
            if self.free.iter().any(Vec::is_empty) {
                self.reap();
            }
            let (port, address, reg) = (self.token(0), self.token(1), self.token(2));
            let (port, address, reg) = (port.unwrap(), address.unwrap(), reg.unwrap());
            self.born += 1;
            let address = u8::try_from(address).unwrap();
            let member = Member::new(self.node, self.born, port, address, value(reg));
            self.note("is born", &member);
            born.push(Living { member, there: Vec::new(), pending: Vec::new() });
        }
        let members: Vec<_> = born.iter().map(|it| it.member.clone()).collect();
        pods::add_ports(self.node, &members);
        let (mut early, mut usual) = (Vec::new(), Vec::new());
        for living in &mut born {
            for lines in self.parts(&living.member) {
                match self.dice.below(10) {
                    0..=2 => {
                        early.extend(lines.clone());
                        living.there.extend(lines);
                    }
                    3..=6 => {
                        usual.extend(lines.clone());
                        living.there.extend(lines);
                    }
                    _ => {
                        let wait = Duration::from_millis(self.dice.below(400) as u64);
                        living.pending.push((Instant::now() + wait, lines));
                    }
                }
            }
        }
        self.install(&early);
        all_at_once(self.node, "ADD", &members);
        self.install(&usual);
        self.living.extend(born);
    }

    /// What a controller installs at once: all of a pod's entries, or a table at a time, in any
    /// order.
    fn parts(&mut self, member: &Member) -> Vec<Vec<String>> {
        let lines = member.lines();
        if self.dice.percent(30) {
            return vec![lines];
        }
        let mut tables: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in lines {
            let table = line.split(',').next().unwrap().to_owned();
            tables.entry(table).or_default().push(line);
        }
        let mut parts: Vec<_> = tables.into_values().collect();
        let mut shuffled = Vec::new();
        while let Some(part) = self.dice.take(&mut parts) {
            shuffled.push(part);
        }
        shuffled
    }

    fn install(&mut self, lines: &[String]) {
        if !lines.is_empty() {
            self.found.installed += lines.len();
            self.node.add_flows("br0", lines);
        }
    }

    /// Controllers install what is due.
    fn controllers(&mut self) {
        let now = Instant::now();
        let mut lines = Vec::new();
        for living in &mut self.living {
            let (due, later) = living.pending.drain(..).partition(|(at, _)| *at <= now);
            living.pending = later;
            let due: Vec<(Instant, Vec<String>)> = due;
            for (_, part) in due {
                living.there.extend(part.clone());
                lines.extend(part);
            }
        }
        self.install(&lines);
    }

    fn wait_for_controllers(&mut self) {
        while self.living.iter().any(|living| !living.pending.is_empty()) {
            sleep_ms(10);
            self.controllers();
        }
    }

    /// What there must be, sorted.
    fn wanted(&self) -> BTreeSet<String> {
        let residents = self.residents.iter().flat_map(Member::lines);
        let living = self.living.iter().flat_map(|living| living.there.clone());
        residents.chain(living).chain(self.base.iter().cloned()).collect()
    }

    /// Compares the switch with what there must be.
    fn compare(&mut self) {
        self.wait_for_controllers();
        let (since, wanted) = (Instant::now(), self.wanted());
        let wanted: Vec<_> = wanted.into_iter().collect();
        let (lost, left) = loop {
            let late = since.elapsed() >= QUIET;
            let dump = self.node.dump("br0");
            let owned = |lines: Vec<&String>| lines.into_iter().cloned().collect::<Vec<_>>();
            let (lost, left) = (owned(missing(&wanted, &dump)), owned(missing(&dump, &wanted)));
            if late || (lost.is_empty() && left.is_empty()) {
                break (lost, left);
            }
            sleep_ms(50);
        };
        self.found.left_at_end = left.len();
        for line in left {
            if !self.found.left.contains_key(&line) {
                let reason = self.reason(&line);
                eprintln!("left: {line}: {reason}\n  {}", self.about(&line).join("\n  "));
                self.found.left.insert(line, reason);
            }
        }
        if !lost.is_empty() {
            eprintln!("lost: {lost:#?}\nlately: {:#?}", self.diary);
            self.found.lost.extend(lost);
        }
        self.diary.clear();
    }

    /// What happened to those who had a token of this entry.
    fn about(&self, line: &str) -> Vec<String> {
        let Some(who) = self.whose(line).next().map(|dead| &dead.member.who) else {
            return Vec::new();
        };
        let tokens = [
            format!("port {} ", who.ofport),
            format!("ip {} ", who.ip),
            format!("reg {:#x}", who.reg),
        ];
        let about =
            |event: &&String| tokens.iter().any(|token| format!("{event} ").contains(token));
        self.diary.iter().filter(about).cloned().collect()
    }

    /// The dead who had an entry, the last one first.
    fn whose(&self, line: &str) -> impl Iterator<Item = &Dead> {
        let of = move |dead: &&Dead| dead.member.lines().iter().any(|its| its == line);
        self.dead.iter().rev().filter(of)
    }

    /// Why an entry is kept, as `explain` says of the last pod that had it.
    fn reason(&self, line: &str) -> String {
        let mut said = "nobody remembers whose it is".to_owned();
        if line.contains("reg0=") && self.whose(line).next().is_some_and(|dead| !dead.classified) {
            return "unknown-value".to_owned();
        }
        for dead in self.whose(line).take(4) {
            let outcome = self.node.admin(&["explain", "--json", &dead.member.container]);
            if !outcome.succeeded() {
                continue;
            }
            let explained = outcome.json();
            let flows = explained.as_array().into_iter().flatten();
            let flows = flows.flat_map(|it| it["flows"].as_array().cloned().unwrap_or_default());
            let same = |flow: &Value| head(flow["flow"].as_str().unwrap()) == head(line);
            if let Some(flow) = flows.into_iter().find(same) {
                return flow["reason"].as_str().unwrap().to_owned();
            }
            said = "explain does not show it".to_owned();
        }
        said
    }
}

fn of_dying(dying: Vec<Living>) -> (Vec<Member>, Vec<Dead>) {
    let members = dying.iter().map(|it| it.member.clone()).collect();
    let dead = |Living { member, there, .. }: Living| {
        let classified = there.iter().any(|line| line.starts_with("table=0,"));
        Dead { member, classified }
    };
    (members, dying.into_iter().map(dead).collect())
}

/// Table, priority and match.
fn head(line: &str) -> BTreeSet<&str> {
    let (head, _) = line.split_once("actions=").unwrap();
    let words = head.split([',', ' ']).filter(|word| !word.is_empty());
    words.filter(|word| !word.starts_with("cookie=")).collect()
}

fn value(of: u16) -> u32 {
    0x1000 + u32::from(of)
}
