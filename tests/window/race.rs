//! A controller that puts a dead pod's entries anew, for its address's next owner, at random
//! moments of the DEL. The entries of the living must be there; if one was gone, then for the
//! moment that it takes to put it back.

use std::collections::HashMap;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ovs_flow_gc::openflow::{Connection, Entry, Filter, FlowKey, What};
use ovs_flow_gc::store::Deleted;

use crate::pods::Dice;
use crate::window::fixture::{Dead, Fixture, soon};

/// Who races has the machine for himself, as far as this program goes.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Races that each test runs; `OFG_RACES` asks for other numbers.
fn races(usual: usize) -> usize {
    std::env::var("OFG_RACES").map_or(usual, |races| races.parse().unwrap())
}

/// What one entry is at the moment, as somebody sees it whom the switch tells everything.
#[derive(Default)]
struct Sight {
    alive: bool,
    lost: Option<Instant>,
}

#[derive(Default)]
struct Book {
    sights: HashMap<(u8, u16, Box<[u8]>), Sight>,
    /// How long each was gone that was somebody's and came back.
    gaps: Vec<Duration>,
}

/// Watches the bridge from beside.
struct Observer {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<bool>>,
    book: Arc<Mutex<Book>>,
}

impl Observer {
    fn new(fixture: &Fixture) -> Self {
        let old = fixture.dead.iter().flat_map(|d| &d.old);
        let old: HashMap<FlowKey<'_>, Entry> =
            old.map(|e| (e.key().into_owned(), e.clone())).collect();
        let (stop, book) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::default()));
        let mut connection = fixture.connect();
        connection.watch().unwrap();
        connection.barrier().unwrap();
        assert!(connection.is_watching());
        let (stopped, noted) = (Arc::clone(&stop), Arc::clone(&book));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                connection.set_deadline(soon());
                connection.wait_for_updates(Duration::from_millis(20));
                let updates = connection.updates().unwrap();
                let (now, mut book) = (Instant::now(), noted.lock().unwrap());
                let book: &mut Book = &mut book;
                for update in updates {
                    let Some(old) = old.get(&update.key()) else { continue };
                    let place = (update.table, update.priority, update.match_bytes().into());
                    let sight = book.sights.entry(place).or_default();
                    match update.what {
                        What::Put => {
                            let entry = update.entry(old).unwrap();
                            let does =
                                entry.raw().instruction_bytes() != old.raw().instruction_bytes();
                            if let (Some(lost), true) = (sight.lost.take(), does) {
                                book.gaps.push(now.duration_since(lost));
                            }
                            *sight = Sight { alive: does, lost: None };
                        }
                        What::Removed if sight.alive => {
                            *sight = Sight { alive: false, lost: Some(now) };
                        }
                        What::Removed => {}
                    }
                }
            }
            // Thousands at once may be too many for it: then it has not seen every gap.
            connection.take_pause() || connection.is_flooded()
        });
        Self { stop, thread: Some(thread), book }
    }

    /// The gaps, and whether it has missed any.
    fn end(mut self) -> (Vec<Duration>, bool) {
        self.stop.store(true, Ordering::Relaxed);
        let missed = self.thread.take().unwrap().join().unwrap();
        let mut gaps = std::mem::take(&mut self.book.lock().unwrap().gaps);
        gaps.sort_unstable();
        (gaps, missed)
    }
}

/// What the controller is to do: so long after it hears of it.
struct Order {
    delay: Duration,
    /// In so many turns, in order.
    turns: Vec<Vec<Entry>>,
    pause: Duration,
}

/// A controller, on a connection and a thread of its own.
fn controller(mut connection: Connection, orders: Receiver<Order>, done: Sender<()>) {
    while let Ok(order) = orders.recv() {
        connection.set_deadline(soon());
        thread::sleep(order.delay);
        for turn in &order.turns {
            assert_eq!(connection.add(turn).unwrap().refused, []);
            if !order.pause.is_zero() {
                thread::sleep(order.pause);
            }
        }
        done.send(()).unwrap();
    }
}

/// What a series of races came to.
#[derive(Debug, Default)]
struct Score {
    races: usize,
    entries: usize,
    /// Entries of the living that were gone in the end.
    lost: usize,
    /// That were there as they had been before.
    outdated: usize,
    put_back: u64,
    put_off: u64,
    deleted: u64,
    suspicions: u64,
    /// Entries of the living that were lost or outdated, in a race in which that was not said of
    /// as many.
    unsaid: usize,
    took: Duration,
    /// Of those that were gone and came back: median, 99th percentile, longest.
    gaps: usize,
    gap: [Duration; 3],
    /// There were more that nobody saw.
    missed: bool,
}

impl Score {
    fn say(&self, what: &str) {
        let Self { races, entries, lost, outdated, put_back, put_off, .. } = self;
        let Self { deleted, suspicions, .. } = self;
        let [median, p99, longest] = self.gap;
        eprintln!(
            "window, {what}: {races} races, {entries} entries put anew, {put_off} of them seen in \
             time, {put_back} hit and put back (gone for {median:.2?} median, {p99:.2?} p99, \
             {longest:.2?} at most, of {}{}), {lost} lost for good, {outdated} outdated, \
             {suspicions} suspicions, {deleted} deletions, {:.1?}",
            self.gaps,
            if self.missed { " that were seen" } else { "" },
            self.took
        );
    }
}

fn draw(dice: &mut Dice, dead: &Dead, span: Duration) -> Order {
    let micros = usize::try_from(span.as_micros()).unwrap().max(1);
    let delay = Duration::from_micros(dice.below(micros) as u64);
    let whole = || vec![dead.new.clone()];
    let (turns, pause) = match dice.below(10) {
        // All at once, as a controller that reconciles.
        0..5 => (whole(), Duration::ZERO),
        // And has second thoughts at once.
        5..7 => (vec![dead.new.clone(), dead.newer.clone()], Duration::ZERO),
        // One by one, some twice.
        7..9 => {
            let alone = |entries: &[Entry]| -> Vec<Vec<Entry>> {
                entries.iter().take(200).map(|e| vec![e.clone()]).collect()
            };
            let mut one_by_one = alone(&dead.new);
            for newer in alone(&dead.newer) {
                if dice.percent(30) {
                    one_by_one.insert(dice.below(one_by_one.len() + 1), newer);
                }
            }
            (one_by_one, Duration::ZERO)
        }
        // In a few lots, with pauses.
        _ => {
            let lots = dead.new.chunks(dead.new.len().div_ceil(6)).map(<[Entry]>::to_vec);
            (lots.collect(), Duration::from_micros(dice.below(800) as u64))
        }
    };
    Order { delay, turns, pause }
}

/// How many of these are not there, and how many not as they should be.
fn missing(
    connection: &mut Connection,
    mut wanted: HashMap<FlowKey<'_>, Vec<u8>>,
) -> (usize, usize) {
    let mut outdated = 0;
    connection.set_deadline(soon());
    connection
        .dump(&Filter::table(40), &mut |raw, _| {
            if let Some(content) = wanted.remove(&raw.key().into_owned()) {
                outdated += usize::from(content != raw.content());
            }
        })
        .unwrap();
    (wanted.len(), outdated)
}

fn race(fixture: &Fixture, dice: &mut Dice, races: usize, via: bool) -> Score {
    let since = Instant::now();
    let observer = Observer::new(fixture);
    let mut score = Score::default();
    let (orders, inbox) = channel();
    let (outbox, done) = channel();
    let theirs = fixture.connect();
    let controller = thread::spawn(move || controller(theirs, inbox, outbox));
    let mut connection = fixture.connect();
    let mut span = Duration::from_millis(5);
    // Until the window was hit, too: a machine that is busy has it wider, and elsewhere.
    let hit = |score: &Score| score.put_back > 0 || fixture.proxy.is_mute() && via;
    while score.races < races || !hit(&score) && score.races < 10 * races {
        fixture.restore(&mut connection);
        for dead in &fixture.dead {
            let order = draw(dice, dead, span);
            let mut last: HashMap<FlowKey<'_>, Vec<u8>> = HashMap::new();
            for entry in order.turns.iter().flatten() {
                last.insert(entry.key().into_owned(), entry.content());
            }
            let begun = Instant::now();
            orders.send(order).unwrap();
            let outcome = fixture.del(std::slice::from_ref(dead), via);
            let bridge = &outcome.bridges[0];
            match (bridge.counts.put_back, bridge.counts.put_off) {
                // A little more than it takes when nobody is in its way.
                (0, 0) => span = (span * 7 + begun.elapsed() * 5 / 4) / 8,
                // All of it came before the commit: the machine has other things to do.
                (0, _) => span = (span * 5 / 4).min(Duration::from_secs(1)),
                _ => {}
            }
            done.recv().unwrap();
            // What is there again is nothing to be undone.
            let mut undoable = 0;
            for id in &outcome.journals {
                let read = &mut |_: Deleted<'static, Entry>| undoable += 1;
                fixture.registry.read_journal(&id.parse().unwrap(), read).unwrap();
            }
            assert_eq!(undoable, bridge.counts.deleted + bridge.counts.stayed, "{outcome:?}");
            assert!(bridge.counts.stayed == 0 || fixture.proxy.is_mute(), "{outcome:?}");
            score.races += 1;
            score.entries += last.len();
            score.put_back += bridge.counts.put_back;
            score.put_off += bridge.counts.put_off;
            score.deleted += bridge.counts.deleted;
            score.suspicions += bridge.counts.suspicions;
            // The controller has spoken last.
            let (lost, outdated) = missing(&mut connection, last);
            score.lost += lost;
            score.outdated += outdated;
            let said = usize::try_from(bridge.counts.suspicions).unwrap();
            score.unsaid += (lost + outdated).saturating_sub(said);
        }
    }
    drop(orders);
    controller.join().unwrap();
    let (gaps, missed) = observer.end();
    score.missed = missed;
    let at =
        |percent: usize| gaps.get((gaps.len() * percent / 100).min(gaps.len().saturating_sub(1)));
    score.gap = [50, 99, 100].map(|percent| at(percent).copied().unwrap_or_default());
    score.gaps = gaps.len();
    score.took = since.elapsed();
    score
}

/// Not as long as a sweep's interval, on a machine that has other things to do: the figures
/// themselves are printed.
const MOMENT: Duration = Duration::from_secs(5);

#[track_caller]
fn assert_harmless(score: &Score) {
    assert_eq!((score.lost, score.outdated, score.suspicions), (0, 0, 0), "{score:?}");
    assert!(score.put_back > 0, "the window was hardly ever hit: {score:?}");
    assert!(score.gap[2] < MOMENT, "{score:?}");
    assert!(score.missed || score.gaps as u64 >= score.put_back, "{score:?}");
}

/// The same races against a switch that does not tell, and against one that does.
#[test]
fn a_controller_that_races_a_del_loses_nothing() {
    let _alone = alone();
    let mut dice = Dice::new("a_controller_that_races_a_del");
    let fixture = Fixture::new("races_a_del", "OpenFlow10,OpenFlow14", 50, 40);
    let races = races(2_000);

    fixture.proxy.mute(true);
    let without = race(&fixture, &mut dice, races / 5, true);
    without.say("the switch does not tell");
    assert!(fixture.proxy.refused() >= without.races as u64, "it was asked each time");
    assert_eq!(without.put_back, 0);
    assert!(without.lost > 0, "the races do not hit the window: {without:?}");

    fixture.proxy.mute(false);
    let through = race(&fixture, &mut dice, races / 5, true);
    through.say("it does, the same way");
    assert_harmless(&through);

    let with = race(&fixture, &mut dice, races, false);
    with.say("it does");
    assert_harmless(&with);
}

/// In OpenFlow 1.3's dialect, and in 1.5.
#[test]
fn the_other_dialects_race_as_well() {
    let _alone = alone();
    let mut dice = Dice::new("the_other_dialects_race");
    for version in ["OpenFlow13", "OpenFlow15"] {
        let fixture = Fixture::new("races_in_a_dialect", &format!("OpenFlow10,{version}"), 50, 40);
        let score = race(&fixture, &mut dice, races(2_000) / 4, false);
        score.say(version);
        assert_harmless(&score);
    }
}

/// Thousands of entries: in several bundles, and over several connections at once.
#[test]
fn long_lists_race_as_well() {
    let _alone = alone();
    let mut dice = Dice::new("long_lists_race");
    for entries in [2_500, 5_000] {
        let fixture = Fixture::new("races_a_long_list", "OpenFlow10,OpenFlow14", 1, entries);
        let score = race(&fixture, &mut dice, races(2_000) / 40, false);
        score.say(&format!("{entries} entries"));
        // So many may be too much for a switch on a busy machine: it pauses its telling. What
        // that does is said, of each.
        assert_eq!(score.unsaid, 0, "{score:?}");
        assert!(score.put_back > 0, "the window was hardly ever hit: {score:?}");
        assert!(score.missed || score.gaps as u64 >= score.put_back, "{score:?}");
    }
}

/// A switch that stops telling at the worst moment: what it deleted may have been anything, and
/// that is said.
#[test]
fn what_was_not_told_is_a_suspicion() {
    let fixture = Fixture::new("not_told", "OpenFlow10,OpenFlow14", 2, 40);
    let mut connection = fixture.connect();
    for (pause, suspicions) in [(false, 0), (true, 40)] {
        fixture.restore(&mut connection);
        fixture.proxy.pause(pause);
        let outcome = fixture.del(&fixture.dead[..1], true);
        let bridge = &outcome.bridges[0];
        assert_eq!(
            (bridge.counts.deleted, bridge.counts.suspicions),
            (40, suspicions),
            "{outcome:?}"
        );
        assert_eq!(outcome.needs_attention(), pause);
    }
}

/// A switch that pauses between a deletion and our putting back what it hit. A controller's later
/// entry that is put in the pause is there, or it is said that it may not be.
#[test]
fn what_is_put_back_in_a_pause_is_said() {
    let fixture = Fixture::new("put_back_in_a_pause", "OpenFlow10,OpenFlow14", 1, 40);
    let mut connection = fixture.connect();
    let flood = fixture.flood(&mut connection);
    let (mut suspicions, mut all) = (0, 0);
    for _ in 0..5 {
        fixture.restore(&mut connection);
        let (mut first, mut then) = (fixture.connect(), fixture.connect());
        let (new, newer) = (fixture.dead[0].new.clone(), fixture.dead[0].newer.clone());
        let last = newer.iter().map(|e| (e.key().into_owned(), e.content())).collect();
        fixture.proxy.before_commit(move || {
            first.set_deadline(soon());
            assert_eq!(first.add(&new).unwrap().refused, []);
        });
        let flood = flood.clone();
        fixture.proxy.after_commit(move || {
            then.set_deadline(soon());
            for some in [flood, newer] {
                assert_eq!(then.add(&some).unwrap().refused, []);
            }
        });
        let outcome = fixture.del(&fixture.dead, true);
        let counts = &outcome.bridges[0].counts;
        let (lost, outdated) = missing(&mut connection, last);
        assert_eq!(lost, 0, "{outcome:?}");
        assert!(outdated as u64 <= counts.suspicions, "{outdated}: {outcome:?}");
        suspicions += counts.suspicions;
        all += outdated;
    }
    eprintln!("window, put back in a pause: {all} of 200 outdated, {suspicions} suspicions");
}

/// A switch that pauses before it deletes, and tells of the first removal only. What a controller puts
/// anew in the pause, or changes there, is what goes: nobody can know that, so it is said.
#[test]
fn what_goes_in_a_pause_is_said() {
    let fixture = Fixture::new("goes_in_a_pause", "OpenFlow10,OpenFlow14", 1, 40);
    let mut connection = fixture.connect();
    let flood = fixture.flood(&mut connection);
    let bridge = format!("unix:{}", fixture.node.run_dir.join("br0.mgmt").display());
    for modify in [false, true] {
        fixture.restore(&mut connection);
        let Dead { old, new, .. } = &fixture.dead[0];
        let wanted = new.iter().map(|e| (e.key().into_owned(), e.content())).collect();
        let (mut theirs, bridge) = (fixture.connect(), bridge.clone());
        let (flood, old, new) = (flood.clone(), old.clone(), new.clone());
        fixture.proxy.unheard_before_commit(move || {
            theirs.set_deadline(soon());
            assert_eq!(theirs.add(&flood).unwrap().refused, []);
            if modify {
                let args = ["-OOpenFlow14", "mod-flows", &bridge, "table=40,actions=output:1"];
                let done = Command::new("ovs-ofctl").args(args).status().unwrap();
                assert!(done.success());
            } else {
                assert_eq!(theirs.delete_strict(&old).unwrap().refused, []);
                assert_eq!(theirs.add(&new).unwrap().refused, []);
            }
        });
        let outcome = fixture.del(&fixture.dead, true);
        let counts = &outcome.bridges[0].counts;
        let (lost, _) = missing(&mut connection, wanted);
        assert_eq!((lost, counts.suspicions), (40, 40), "modify {modify}: {outcome:?}");
        assert!(outcome.needs_attention());
    }
}

/// What is put right behind its deletion, while the switch does not tell, has not stayed.
#[test]
fn what_is_put_behind_its_deletion_has_not_stayed() {
    let fixture = Fixture::new("put_behind", "OpenFlow10,OpenFlow14", 1, 40);
    let mut connection = fixture.connect();
    fixture.restore(&mut connection);
    fixture.proxy.pause(true);
    let (mut theirs, new) = (fixture.connect(), fixture.dead[0].new.clone());
    fixture.proxy.after_commit(move || {
        theirs.set_deadline(soon());
        assert_eq!(theirs.add(&new).unwrap().refused, []);
    });
    let outcome = fixture.del(&fixture.dead, true);
    let bridge = &outcome.bridges[0];
    assert_eq!(
        (bridge.counts.deleted, bridge.counts.stayed, bridge.counts.suspicions),
        (40, 0, 0),
        "{outcome:?}"
    );
    let mut there = 0;
    connection.set_deadline(soon());
    connection.dump(&Filter::table(40), &mut |_, _| there += 1).unwrap();
    assert_eq!(there, 40);
}
