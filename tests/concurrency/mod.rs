//! Many calls at once, and calls that are killed.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::pods::{Dice, Member, all_at_once, call, missing, records, sweep};
use crate::rig::{Node, Outcome, layouts, sleep_ms};
use ovs_flow_gc::config::NetworkState;
use ovs_flow_gc::model::attachment::Attachment;
use ovs_flow_gc::store::Registry;
use ovs_flow_gc::util::clock::Deadline;
use serde_json::{Value, json};

/// Entries that must be there now, and the dumps that looked for them.
#[derive(Default)]
struct Watch {
    alive: Mutex<BTreeSet<String>>,
    over: AtomicBool,
    looks: AtomicU32,
    sweeps: AtomicU32,
}

impl Watch {
    fn expect(&self, lines: impl IntoIterator<Item = String>) {
        self.alive.lock().unwrap().extend(lines);
    }

    fn give_up<'l>(&self, lines: impl IntoIterator<Item = &'l String>) {
        let mut alive = self.alive.lock().unwrap();
        for line in lines {
            alive.remove(line);
        }
    }

    /// Dumps until it is over. What is expected before a dump and still after it is in it.
    fn look(&self, node: &Node) {
        while !self.over.load(Ordering::Relaxed) {
            let before = self.alive.lock().unwrap().clone();
            let dump: BTreeSet<String> = node.dump("br0").into_iter().collect();
            let after = self.alive.lock().unwrap();
            let lost: Vec<_> =
                before.intersection(&after).filter(|line| !dump.contains(*line)).collect();
            assert!(lost.is_empty(), "live entries are gone: {lost:#?}");
            self.looks.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn sweep(&self, node: &Node) {
        while !self.over.load(Ordering::Relaxed) {
            sweep(node);
            self.sweeps.fetch_add(1, Ordering::Relaxed);
            sleep_ms(20);
        }
    }
}

/// Ends the watch also when the test fails.
struct Over<'w>(&'w Watch);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_hundred_adds_then_a_hundred_dels_with_a_sweep_running_through() {
    let node = crate::pods::node("hundred", json!({"lingerSeconds": 1}));
    let base = node.install("br0", &layouts::classifier_base());
    let pods: Vec<Member> = (0..100)
        .map(|n: u8| Member::new(&node, n.into(), u16::from(n) + 1, n + 2, u32::from(n) + 0x1000))
        .collect();
    crate::pods::add_ports(&node, &pods);
    let watch = Watch::default();
    watch.expect(base.clone());

    thread::scope(|scope| {
        let _over = Over(&watch);
        scope.spawn(|| watch.look(&node));
        scope.spawn(|| watch.sweep(&node));

        // Half of the controllers are quicker than ADD.
        let (quick, slow) = pods.split_at(50);
        let install = |of: &[Member]| {
            let lines: Vec<String> = of.iter().flat_map(Member::lines).collect();
            node.add_flows("br0", &lines);
            watch.expect(lines);
        };
        install(quick);
        all_at_once(&node, "ADD", &pods);
        install(slow);
        let alive = records(&node).attachments;
        assert_eq!(alive.len(), 100);
        for pod in &pods {
            let record = alive.iter().find(|r| r.key == pod.key()).expect("a record is lost");
            assert_eq!(record.ofport, Some(pod.who.ofport));
        }
        let (seen, swept) =
            (watch.looks.load(Ordering::Relaxed), watch.sweeps.load(Ordering::Relaxed));

        // The first ten stay: a pod is as safe when few are left as among many.
        let (_, leaving) = pods.split_at(10);
        watch.give_up(&leaving.iter().flat_map(Member::lines).collect::<Vec<_>>());
        all_at_once(&node, "DEL", leaving);
        assert!(watch.looks.load(Ordering::Relaxed) > seen, "nobody looked");
        assert!(watch.sweeps.load(Ordering::Relaxed) > swept, "no sweep ran through it");
    });

    let (staying, leaving) = pods.split_at(10);
    assert_eq!(records(&node).attachments.len(), staying.len());
    crate::pods::del_ports(&node, leaving.iter().map(|p| p.port.as_str()));
    crate::pods::end_sandboxes(&node, leaving);
    all_at_once(&node, "DEL", staying);
    sleep_ms(1100);
    sweep(&node);
    assert_eq!(node.dump("br0"), base);
    let left = records(&node);
    assert_eq!((left.attachments.len(), left.tombstones.len()), (0, 0), "{:?}", left.tombstones);
}

/// How long one call takes, undisturbed: kills are spread over it.
fn time_of(work: impl Fn()) -> Duration {
    let mut times: Vec<_> = (0..3)
        .map(|_| {
            let since = Instant::now();
            work();
            since.elapsed()
        })
        .collect();
    times.sort();
    times[1]
}

/// The scene of the kills: bystanders who must not notice, and numbers for the victims.
struct Range {
    node: Node,
    dice: Dice,
    base: Vec<String>,
    bystanders: Vec<Member>,
    born: u32,
    kills: [u32; 3],
    /// How long each took when it was last not killed: a machine is slow at times.
    takes: [Duration; 3],
    /// Entries of pods that nobody had recorded, which no rule promises to find.
    excused: BTreeSet<String>,
    /// What the calls of this round said.
    log: Vec<String>,
}

/// Pods that must not notice.
const BYSTANDERS: u32 = 4;

/// The verbs that are killed, by their index in `Range::kills` and `Range::takes`.
const ADD: usize = 0;
const DEL: usize = 1;
const SWEEP: usize = 2;

impl Range {
    fn new() -> Self {
        let dice = Dice::new("killed");
        let node = crate::pods::node("killed", json!({"lingerSeconds": 0, "logLevel": "debug"}));
        let base = node.install("br0", &layouts::classifier_base());
        let (born, kills, takes) = (0, [0; 3], [Duration::ZERO; 3]);
        let (excused, log) = (BTreeSet::new(), Vec::new());
        let bystanders = Vec::new();
        let mut range = Self { node, dice, base, bystanders, born, kills, takes, excused, log };
        for _ in 0..BYSTANDERS {
            let pod = range.victim();
            range.bring_up(&pod);
            range.bystanders.push(pod);
        }
        sweep(&range.node);
        range
    }

    /// The next pod, with a port of its own.
    fn victim(&mut self) -> Member {
        self.born += 1;
        // The first are the bystanders, whose numbers nobody gets again.
        let n = if self.born <= BYSTANDERS { self.born } else { 10 + self.born % 230 };
        let n = u8::try_from(n).unwrap();
        let pod = Member::new(&self.node, self.born, n.into(), n, 0x1000 + u32::from(n));
        crate::pods::add_ports(&self.node, [&pod]);
        pod
    }

    /// The next pod, with another's port number, address and register value.
    fn heir_of(&mut self, dead: &Member) -> Member {
        self.born += 1;
        let mut pod = Member::new(&self.node, self.born, dead.who.ofport, 0, dead.who.reg);
        (pod.who.ip, pod.who.ip6) = (dead.who.ip.clone(), dead.who.ip6.clone());
        crate::pods::add_ports(&self.node, [&pod]);
        pod
    }

    fn bring_up(&mut self, pod: &Member) {
        self.call("ADD", pod);
        self.node.add_flows("br0", &pod.lines());
        // An entry that came a moment before the death cannot be told from one that came
        // after it.
        sleep_ms(30);
    }

    /// A call that nobody kills.
    #[track_caller]
    fn call(&mut self, verb: &str, pod: &Member) {
        let outcome = call(&self.node, verb, pod).run();
        self.log.push(format!("{verb} {}: {outcome}", pod.name));
        assert!(outcome.succeeded(), "{outcome}");
    }

    #[track_caller]
    fn sweep(&mut self) {
        let outcome = self.node.admin(&["sweep", "--yes"]);
        self.log.push(format!("sweep: {outcome}"));
        assert!(outcome.succeeded(), "{outcome}");
    }

    /// No DEL: the namespace is gone, and the port row maybe.
    fn vanish(&self, pod: &Member, port_too: bool) {
        crate::pods::end_sandboxes(&self.node, [pod]);
        if port_too {
            crate::pods::del_ports(&self.node, [pod.port.as_str()]);
        }
    }

    /// A moment within a call that takes this long, or a little after it.
    fn moment(&mut self, of: Duration) -> Duration {
        of * u32::try_from(self.dice.below(1100)).unwrap() / 1000
    }

    /// Runs a plugin call and kills it at some moment.
    fn kill_call(&mut self, verb: usize, name: &str, pod: &Member) {
        let moment = self.moment(self.takes[verb]);
        let outcome = call(&self.node, name, pod).start().kill_after(moment);
        self.killed(verb, &outcome);
    }

    fn killed(&mut self, verb: usize, outcome: &Outcome) {
        match outcome.code {
            None => self.kills[verb] += 1,
            Some(_) => self.takes[verb] = outcome.took,
        }
        self.log.push(format!("killed: {outcome}"));
        assert!(matches!(outcome.code, None | Some(0)), "{outcome}");
        records(&self.node);
    }

    /// DEL that nobody kills. What is not recorded is judged by less.
    fn finish(&mut self, pod: &Member) {
        let registry_snapshot = records(&self.node);
        let mut all = registry_snapshot.attachments.iter().chain(&registry_snapshot.tombstones);
        if !all.any(|r| r.key == pod.key() && !r.unrecorded) {
            let by_address = |line: &String| line.contains("ct_nw_");
            self.excused.extend(pod.lines().into_iter().filter(by_address));
        }
        self.call("DEL", pod);
    }

    /// The bystanders' entries are there and nobody else's; nobody else is written down.
    #[track_caller]
    fn must_be_clean(&mut self) {
        let networks = records(&self.node).networks;
        let state = networks.iter().find_map(|n| n.state::<NetworkState>().unwrap());
        let shared = state.is_some_and(|state| state.register.register_shared);
        assert!(!shared, "no two had one value while both lived: {}", self.log.join("\n"));
        let mut wanted = self.base.clone();
        wanted.extend(self.bystanders.iter().flat_map(Member::lines));
        let dump = self.node.dump("br0");
        assert_eq!(missing(&wanted, &dump), [""; 0], "a bystander's entries are gone");
        let stale: Vec<_> =
            missing(&dump, &wanted).into_iter().filter(|l| !self.excused.contains(*l)).collect();
        assert_eq!(stale, [""; 0], "stale entries stay: {}", self.log.join("\n"));
        let registry_snapshot = records(&self.node);
        let alive: Vec<_> = registry_snapshot.attachments.iter().map(Attachment::title).collect();
        assert_eq!(alive.len(), self.bystanders.len(), "{alive:?} {}", self.log.join("\n"));
        self.log.clear();
        assert!(registry_snapshot.tombstones.is_empty(), "{:?}", registry_snapshot.tombstones);
        // The excuse ends when somebody looks: a person would.
        let excused: Vec<_> = dump.iter().filter(|l| self.excused.contains(*l)).cloned().collect();
        for line in excused {
            let (flow, _) = line.split_once(" actions=").unwrap();
            let flow = flow.replace("priority=100,", "").replace(", ", ",");
            self.node.ofctl(&["del-flows", "br0", &flow]);
        }
        self.excused.clear();
    }

    fn add_is_killed(&mut self) {
        // Somebody vanished, and the added pod gets what was theirs: ADD has to purge.
        let dead = self.victim();
        self.bring_up(&dead);
        self.vanish(&dead, true);
        let pod = self.heir_of(&dead);
        let controller_is_quick = self.dice.percent(50);
        if controller_is_quick {
            self.node.add_flows("br0", &pod.lines());
        }
        self.kill_call(ADD, "ADD", &pod);
        if self.dice.percent(30) {
            // The runtime tries again.
            self.bring_up(&pod);
            let dump = self.node.dump("br0");
            assert_eq!(missing(&pod.lines(), &dump), [""; 0]);
        }
        self.finish(&pod);
        self.vanish(&pod, true);
        self.sweep();
        self.must_be_clean();
    }

    fn del_is_killed(&mut self) {
        let pod = self.victim();
        self.bring_up(&pod);
        self.kill_call(DEL, "DEL", &pod);
        if self.dice.percent(50) {
            // The runtime tries again; a sweep has nothing left to do.
            self.finish(&pod);
            self.must_be_clean();
            self.vanish(&pod, true);
        } else {
            // It does not: the sweep finishes alone.
            let port_too = self.dice.percent(50);
            self.vanish(&pod, port_too);
            self.sweep();
            self.must_be_clean();
            self.vanish_port(&pod);
        }
    }

    fn sweep_is_killed(&mut self) {
        let dead: Vec<_> = (0..3).map(|_| self.victim()).collect();
        for pod in &dead {
            self.bring_up(pod);
            let port_too = self.dice.percent(50);
            self.vanish(pod, port_too);
        }
        let moment = self.moment(self.takes[SWEEP]);
        let outcome = self.node.start_admin(&["sweep", "--yes"]).kill_after(moment);
        self.killed(SWEEP, &outcome);
        if self.dice.percent(30) {
            self.finish(&dead[0]);
        }
        self.sweep();
        self.must_be_clean();
        crate::pods::del_ports(&self.node, dead.iter().map(|p| p.port.as_str()));
    }

    fn vanish_port(&self, pod: &Member) {
        crate::pods::del_ports(&self.node, [pod.port.as_str()]);
    }
}

#[test]
fn killed_at_random_moments_a_del_and_a_sweep_leave_nothing_stale_and_nothing_torn() {
    const OF_EACH: u32 = 24;
    let mut range = Range::new();
    let probe = range.victim();
    let node = &range.node;
    let add = time_of(|| drop(call(node, "ADD", &probe).run().ok()));
    node.add_flows("br0", &probe.lines());
    let del = time_of(|| drop(call(node, "DEL", &probe).run().ok()));
    let whole_sweep = time_of(|| drop(sweep(node)));
    range.vanish(&probe, true);
    range.must_be_clean();
    eprintln!("killed: ADD {add:?}, DEL {del:?}, sweep {whole_sweep:?}");

    range.takes = [add, del, whole_sweep];
    for round in 0.. {
        if range.kills.iter().all(|kills| *kills >= OF_EACH) {
            break;
        }
        assert!(round < 150, "kills come too late: {:?}", range.kills);
        if range.kills[ADD] < OF_EACH {
            range.add_is_killed();
        }
        if range.kills[DEL] < OF_EACH {
            range.del_is_killed();
        }
        if range.kills[SWEEP] < OF_EACH {
            range.sweep_is_killed();
        }
    }
    eprintln!("killed: {:?} calls", range.kills);

    let node = &range.node;
    // What was being written when the kill came is whole under its name or not there: the
    // rest lies about for a minute, then a sweep takes it.
    let temporary = || {
        let all = crate::pods::files(&node.state_dir).into_iter();
        all.filter(|p| p.extension().is_some_and(|e| e == "tmp")).collect::<Vec<_>>()
    };
    for path in temporary() {
        node.run("touch", &["-d", "2 minutes ago", path.to_str().unwrap()]).ok();
    }
    sweep(node);
    assert_eq!(temporary(), [""; 0].map(std::path::PathBuf::from));
    // Nobody who was killed holds the lock, and the journal can be read to its end.
    let registry = Registry::open(&node.state_dir).unwrap();
    drop(registry.lock(Deadline::after(Duration::from_millis(500))).unwrap());
    let operations = registry.journals().unwrap();
    assert!(operations.len() > 20);
    for operation in operations {
        let read = registry.read_journal::<Value>(&operation.header.id, &mut |_| {}).unwrap();
        assert!(read.unreadable <= 1, "{read:?}");
    }
}
