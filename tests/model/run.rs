//! Makes up walks, takes them, and makes those that fail short.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

use super::bridges::Bridges;
use super::controllers::Layout;
use super::node::{Broken, Driver, Model};
use super::oracle::{Exception, Tally};
use super::steps::{Pause, Step, forgetful_step, step, wide_step};

/// A walk: a node, and what happens on it.
#[derive(Clone, Debug)]
pub(crate) struct Walk {
    pub(crate) layout: Layout,
    pub(crate) bridges: Bridges,
    pub(crate) small: bool,
    pub(crate) kernel: bool,
    /// Records are lost.
    pub(crate) may_forget: bool,
    pub(crate) steps: Vec<Step>,
}

/// What walks are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Walks {
    /// Our chain alone. Seeds that once found something bring the same walks as then.
    Plain,
    /// And whatever else there is on nodes and in pipelines.
    Wide,
    /// The same with two bridges.
    TwoBridges,
    /// The same as wide, and records are lost.
    Forgetful,
}

fn walks(which: Walks, most: usize) -> impl Strategy<Value = Walk> {
    let mut layouts = match which {
        Walks::Plain => Layout::ALL.to_vec(),
        Walks::Wide | Walks::TwoBridges | Walks::Forgetful => Layout::WIDE.to_vec(),
    };
    layouts.extend([Layout::Classifier; 3]);
    let steps = match which {
        Walks::Plain => vec(step().boxed(), 1..=most),
        Walks::Wide | Walks::TwoBridges => vec(wide_step().boxed(), 1..=most),
        Walks::Forgetful => vec(forgetful_step().boxed(), 1..=most),
    };
    let bridges = match which {
        Walks::Plain | Walks::Wide | Walks::Forgetful => Just(Bridges::One).boxed(),
        Walks::TwoBridges => select(Bridges::TWO.to_vec()).boxed(),
    };
    (select(layouts), any::<bool>(), any::<bool>(), steps, bridges).prop_map(
        move |(layout, small, kernel, steps, bridges)| {
            let may_forget = which == Walks::Forgetful;
            Walk { layout, bridges, small, kernel, may_forget, steps }
        },
    )
}

/// Takes a walk and comes to rest.
pub(crate) fn walk<D: Driver>(model: &mut Model<D>, steps: &[Step]) -> Result<(), Broken> {
    let sweep = || Step::Sweep { hasty: false, crash: 0, meanwhile: Vec::new() };
    let rest = [sweep(), Step::Numbers, Step::Wait { pause: Pause::Linger }, sweep(), sweep()];
    let taken = steps.iter().chain(&rest).try_for_each(|step| model.step(step));
    taken.map_err(|broken| {
        let lately = model.history.len().saturating_sub(60);
        format!(
            "{broken}\nwhat happened: {:#?}\nthe pods: {:#?}",
            &model.history[lately..],
            model.pods
        )
    })
}

/// What a run did.
#[derive(Debug, Default)]
pub(crate) struct Ran {
    pub(crate) steps: u64,
    pub(crate) walks: u64,
    pub(crate) tally: Tally,
    pub(crate) took: Duration,
}

/// The number that an environment variable holds.
pub(crate) fn asked(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect(variable))
}

/// The seed of a run: `OFG_SEED`, which may be `clock`; else a number of its own.
pub(crate) fn seed_or(own: u64) -> u64 {
    match std::env::var("OFG_SEED").as_deref() {
        Ok("clock") => u64::from(std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos()),
        Ok(seed) => seed.parse().expect("OFG_SEED is a number, or clock"),
        Err(_) => own,
    }
}

/// Takes walks until there are so many steps. The same seed brings the same ones.
pub(crate) fn run(
    name: &str,
    which: Walks,
    seed: u64,
    steps: u64,
    most: usize,
    shrinks: u32,
    take: impl Fn(&Walk) -> (u64, Tally, Result<(), Broken>),
) -> Ran {
    let since = Instant::now();
    eprintln!("model, {name}: OFG_SEED={seed}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    // Nodes at once take different walks.
    bytes[16..].iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
    let config = Config {
        cases: 64,
        failure_persistence: None,
        max_shrink_iters: shrinks,
        max_shrink_time: 30_000,
        ..Config::default()
    };
    let (strategy, mut batch) = (walks(which, most), 0_u64);
    let ran = RefCell::new(Ran::default());
    while ran.borrow().steps < steps {
        bytes[8..16].copy_from_slice(&batch.to_be_bytes());
        batch += 1;
        // A runner is spent when it has run its cases.
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let mut runner = TestRunner::new_with_rng(config.clone(), rng);
        let outcome = runner.run(&strategy, |walk| {
            if ran.borrow().steps >= steps {
                return Ok(());
            }
            let (steps, tally, taken) = take(&walk);
            let mut ran = ran.borrow_mut();
            (ran.steps, ran.walks) = (ran.steps + steps, ran.walks + 1);
            ran.tally.add(&tally);
            taken.map_err(TestCaseError::fail)
        });
        match outcome {
            Ok(()) => {}
            Err(TestError::Fail(why, walk)) => {
                panic!("{name}: OFG_SEED={seed}: {why}\nthe shortest walk: {walk:?}")
            }
            Err(abort) => panic!("{name}: {abort}"),
        }
    }
    let mut ran = ran.into_inner();
    ran.took = since.elapsed();
    ran
}

impl Ran {
    /// Another one at the same time.
    pub(crate) fn add(&mut self, other: &Self) {
        (self.steps, self.walks) = (self.steps + other.steps, self.walks + other.walks);
        self.tally.add(&other.tally);
        self.took = self.took.max(other.took);
    }

    /// One line, for whoever reads the log of a run.
    pub(crate) fn tell(&self, name: &str) {
        let Self { steps, walks, tally, took } = self;
        let Tally {
            deleted,
            calls,
            unfinished,
            judged,
            kept,
            outdated,
            learned,
            window,
            forgotten,
        } = tally;
        let kept: Vec<String> = kept.iter().map(|(why, n)| format!("{} {n}", why.name())).collect();
        eprintln!(
            "model, {name}: {steps} steps in {walks} walks, {:.1} s; calls {calls:?}, {unfinished} \
             of them cut short; {deleted} entries deleted, live ones 0 ({window} in the window); {judged} looks at stale \
             entries that were left, each explained: {}; {outdated} at outdated ones; {learned} values known; {forgotten} entries forgotten while they waited",
            took.as_secs_f64(),
            kept.join(", "),
        );
    }

    /// Nothing has passed because it was never met.
    pub(crate) fn must_have_met(&self, exceptions: &[Exception], least: u64) {
        let Tally { deleted, calls, unfinished, kept, .. } = &self.tally;
        assert!(*deleted >= self.steps / 10, "{deleted} deleted");
        for call in ["ADD", "DEL", "the sweep"] {
            assert!(calls.get(call).is_some_and(|n| *n >= self.steps / 50), "{call}: {calls:?}");
        }
        assert!(*unfinished >= self.steps / 200, "{unfinished} cut short");
        // A rare one is not met in a short run.
        for exception in exceptions.iter().filter(|_| self.steps >= 500_000) {
            assert!(kept.get(exception).is_some_and(|n| *n >= least), "{exception:?}: {kept:?}");
        }
    }
}
