//! The fuzzers' bodies on stable Rust: over the committed corpus of `fuzz/corpus`, and over
//! mutations of it. `fuzz/README.md` says how the same bodies are run by libFuzzer.
//!
//! `FUZZ_CASES=100000 cargo test --test fuzzers` makes so many mutations for each target.
//! `cargo test --test fuzzers -- --ignored` captures the corpus anew (as root: it starts an
//! Open vSwitch).

mod capture;

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ovs_flow_gc::fuzzing::{TARGETS, Target};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

/// Mutations of each target.
const CASES: u32 = 1_000;
/// Of one input, on a machine that does something else at the same time. libFuzzer's limit, where
/// nothing else runs, is in `fuzz/run.sh`.
const LONGEST: Duration = Duration::from_secs(5);
/// Of this process, KiB: 25 targets' inputs of some kB each. The largest thing that any of them
/// may hold is what a reader buffers.
const MOST_MEMORY: i64 = 64 * 1024;
/// Of the whole corpus, bytes.
const MOST_CORPUS: u64 = 300_000;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// A target's corpus, by file name.
fn corpus(target: &Target) -> Vec<(String, Vec<u8>)> {
    let directory = directory().join("corpus").join(target.name);
    let entries = fs::read_dir(&directory).unwrap_or_else(|e| panic!("{directory:?}: {e}"));
    let mut files: Vec<_> = entries
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
        })
        .collect();
    files.sort();
    files
}

/// Runs a body; whether it made sense of the input, or how it failed.
fn run(target: &Target, input: &[u8]) -> Result<bool, String> {
    let begin = Instant::now();
    let body = target.body;
    let ended = catch_unwind(AssertUnwindSafe(|| body(input)));
    let took = begin.elapsed();
    let understood = ended.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "a panic without a text".to_owned())
    })?;
    if took > LONGEST {
        return Err(format!("took {took:?} for {} bytes", input.len()));
    }
    Ok(understood)
}

/// Peak resident memory, KiB. Not `getrusage`: that counts what cargo was before it became us.
fn peak() -> i64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim_end_matches("kB").trim().parse().unwrap()
}

#[test]
fn every_target_is_a_binary_with_a_corpus() {
    let names: BTreeSet<String> = TARGETS.iter().map(|t| t.name.to_owned()).collect();
    assert_eq!(names.len(), TARGETS.len());
    let listed = |path: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(directory().join(path)).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap().replace(".rs", ""))
            .collect()
    };
    assert_eq!(listed("fuzz_targets"), names);
    assert_eq!(listed("corpus"), names);
    let manifest = fs::read_to_string(directory().join("Cargo.toml")).unwrap();
    let binaries: BTreeSet<String> = manifest
        .lines()
        .filter_map(|line| line.strip_prefix("path = \"fuzz_targets/")?.strip_suffix(".rs\""))
        .map(str::to_owned)
        .collect();
    assert_eq!(binaries, names);
    for name in &names {
        let path = directory().join("fuzz_targets").join(format!("{name}.rs"));
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(&format!("ovs_flow_gc::fuzzing::{name}(data)")), "{path:?}");
    }
    let files = TARGETS.iter().flat_map(corpus);
    let bytes: u64 = files.map(|(_, bytes)| bytes.len() as u64).sum();
    assert!(bytes < MOST_CORPUS, "{bytes} bytes of corpus");
}

#[test]
fn the_corpus_is_replayed() {
    let (mut inputs, mut understood) = (0, 0);
    for target in TARGETS {
        let mut here = 0;
        for (name, bytes) in corpus(target) {
            match run(target, &bytes) {
                Ok(sense) => here += usize::from(sense),
                Err(why) => panic!("{}/{name}: {why}", target.name),
            }
            inputs += 1;
        }
        // A corpus that is all refused would exercise nothing but refusals.
        assert!(here >= 2, "{}: {here} of its corpus make sense", target.name);
        understood += here;
    }
    let targets = TARGETS.len();
    println!(
        "fuzz corpus: {targets} targets, {inputs} inputs, {understood} make sense, 0 failures"
    );
    assert!(inputs >= 5 * targets, "{inputs}");
}

/// What is done to an input.
#[derive(Clone, Debug)]
enum Change {
    Set(prop::sample::Index, u8),
    Flip(prop::sample::Index, u8),
    /// Another digit for a digit, another letter for a letter: texts stay what they are.
    Like(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Remove(prop::sample::Index, usize),
    Repeat(prop::sample::Index, usize),
    Insert(prop::sample::Index, Vec<u8>),
    /// The end of another input of the corpus.
    Splice(prop::sample::Index, prop::sample::Index, prop::sample::Index),
    /// A length, somewhere, that is a little or a lot off.
    Length(prop::sample::Index, u16),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<prop::sample::Index>;
    let token = prop::sample::select(
        [
            "\"",
            "\\",
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "null",
            "-1",
            "0",
            "1e999",
            "\\u0000",
            "\n",
            "\0",
            "../",
            "0.0.0.0",
            "\u{202e}",
            "\u{1b}[2J",
            "[\"set\",[]]",
            "18446744073709551616",
            "\u{fffd}",
            ";",
            "$(reboot)",
            "%n",
        ]
        .map(str::as_bytes)
        .map(<[u8]>::to_vec)
        .to_vec(),
    );
    prop_oneof![
        4 => (at(), any::<u8>()).prop_map(|(i, b)| Change::Set(i, b)),
        4 => (at(), 0..8_u8).prop_map(|(i, b)| Change::Flip(i, b)),
        6 => (at(), any::<u8>()).prop_map(|(i, n)| Change::Like(i, n)),
        2 => at().prop_map(Change::Cut),
        2 => (at(), 1..40_usize).prop_map(|(i, n)| Change::Remove(i, n)),
        1 => (at(), 1..200_usize).prop_map(|(i, n)| Change::Repeat(i, n)),
        3 => (at(), prop_oneof![token, vec(any::<u8>(), 1..9)])
            .prop_map(|(i, bytes)| Change::Insert(i, bytes)),
        2 => (at(), at(), at()).prop_map(|(a, b, c)| Change::Splice(a, b, c)),
        2 => (at(), prop_oneof![Just(0), Just(4), Just(7), Just(u16::MAX), any::<u16>()])
            .prop_map(|(i, n)| Change::Length(i, n)),
    ]
}

impl Change {
    fn apply(&self, input: &mut Vec<u8>, others: &[(String, Vec<u8>)]) {
        let place = |at: &prop::sample::Index| at.index(input.len() + 1);
        match self {
            Self::Set(at, byte) => {
                let at = place(at);
                if let Some(slot) = input.get_mut(at) {
                    *slot = *byte;
                }
            }
            Self::Flip(at, bit) => {
                let at = place(at);
                if let Some(slot) = input.get_mut(at) {
                    *slot ^= 1 << bit;
                }
            }
            Self::Like(at, by) => {
                let at = place(at);
                if let Some(slot) = input.get_mut(at) {
                    *slot = match *slot {
                        b'0'..=b'9' => b'0' + by % 10,
                        b'a'..=b'z' => b'a' + by % 26,
                        b'A'..=b'Z' => b'A' + by % 26,
                        other => other,
                    };
                }
            }
            Self::Cut(at) => input.truncate(place(at)),
            Self::Remove(at, count) => {
                let at = place(at);
                input.drain(at..(at + count).min(input.len()));
            }
            Self::Repeat(at, count) => {
                let at = place(at);
                let part = input[at..(at + count).min(input.len())].to_vec();
                input.splice(at..at, part);
            }
            Self::Insert(at, bytes) => {
                let at = place(at);
                input.splice(at..at, bytes.iter().copied());
            }
            Self::Splice(at, other, from) => {
                let other = &others[other.index(others.len())].1;
                input.truncate(place(at));
                input.extend(&other[from.index(other.len() + 1)..]);
            }
            Self::Length(at, length) => {
                let at = place(at);
                if let Some(slot) = input.get_mut(at..at + 2) {
                    slot.copy_from_slice(&length.to_be_bytes());
                }
            }
        }
    }
}

#[test]
fn mutations_of_the_corpus() {
    let cases = std::env::var("FUZZ_CASES").ok().map_or(CASES, |n| n.parse().unwrap());
    let (mut runs, mut understood) = (0_u64, 0_u64);
    for target in TARGETS {
        let seeds = corpus(target);
        assert!(!seeds.is_empty(), "{}", target.name);
        let strategy = (any::<prop::sample::Index>(), vec(change(), 1..6));
        let (here, sense) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
        let config = Config { cases, failure_persistence: None, ..Config::default() };
        let mut runner = TestRunner::new(config);
        let ended = runner.run(&strategy, |(seed, changes)| {
            let mut input = seeds[seed.index(seeds.len())].1.clone();
            for change in &changes {
                change.apply(&mut input, &seeds);
            }
            here.set(here.get() + 1);
            match run(target, &input) {
                Ok(understood) => {
                    sense.set(sense.get() + u64::from(understood));
                    Ok(())
                }
                Err(why) => Err(TestCaseError::fail(format!(
                    "{}: {why}\ninput: {}",
                    target.name,
                    input.escape_ascii()
                ))),
            }
        });
        if let Err(failed) = ended {
            panic!("{failed}");
        }
        assert!(here.get() >= u64::from(cases), "{}: {} runs", target.name, here.get());
        // A mutation that nobody understands reaches no further than the first check.
        assert!(sense.get() > 0, "{}: none of {} mutations makes sense", target.name, here.get());
        runs += here.get();
        understood += sense.get();
    }
    let (targets, memory) = (TARGETS.len(), peak());
    println!(
        "fuzz mutations: {targets} targets, {runs} runs, {understood} make sense, 0 failures, \
         peak {memory} KiB"
    );
    assert!(memory < MOST_MEMORY, "{memory} KiB");
}
