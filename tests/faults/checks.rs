//! What a disturbed call said, what became of it, and the summary of a test.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::rig::Outcome;

/// What a call may take beyond its timeout: the lock's grace of 500 ms, and a busy machine.
const SMALL: Duration = Duration::from_secs(10);

/// How a disturbed call ended, all promises held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    /// As if nothing had happened.
    AsIfNothing,
    /// It said so, and a later call did the rest.
    Finished,
    /// It failed, said so, and nothing of it was left over.
    Failed,
}

/// What the words of a call are measured by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// What it had on the switch.
    pub(super) timeout: Duration,
    /// The fault was in the process's own start or memory, before or below any code of ours:
    /// it may die of it without a word. The promises hold all the same.
    pub(super) below_us: bool,
    /// The request itself could not be read or the result not be written: even DEL may fail.
    pub(super) request: bool,
    /// What is left waits for a better look: nothing to complain of.
    pub(super) patient: bool,
    /// Whoever is to hear of it cannot: standard error is what failed.
    pub(super) mute: bool,
}

impl Terms {
    pub(super) fn new(timeout: Duration) -> Self {
        Self { timeout, below_us: false, request: false, patient: false, mute: false }
    }
}

/// What a call complained of: warnings, errors, and what its JSON has of them.
pub(super) fn complaints(outcome: &Outcome) -> Vec<String> {
    let mut all: Vec<String> = outcome.stderr.lines().filter_map(complaint).collect();
    let Ok(json) = serde_json::from_str::<serde_json::Value>(&outcome.stdout) else { return all };
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    if json["code"].is_u64() {
        let part = |key: &str| text(&json[key]).unwrap_or_default();
        all.push(format!("CNI error {}: {} | {}", json["code"], part("msg"), part("details")));
    }
    all.extend(text(&json["failed"]));
    for list in ["targets", "bridges"] {
        let each = json[list].as_array().into_iter().flatten();
        all.extend(each.filter_map(|one| text(&one["error"])));
    }
    for list in ["notes", "corrupt", "unjudged"] {
        all.extend(json[list].as_array().into_iter().flatten().filter_map(text));
    }
    all
}

/// A line of our log that is a complaint, without its time; any line that is none of our log.
fn complaint(line: &str) -> Option<String> {
    let mut words = line.splitn(3, ' ');
    let (_, level, rest) = (words.next(), words.next(), words.next());
    match (level, rest) {
        (Some("INFO" | "DEBUG" | "TRACE"), Some(_)) => None,
        (Some("WARN" | "ERROR"), Some(rest)) => Some(rest.to_owned()),
        _ => Some(line.to_owned()),
    }
}

/// Whether an operator is told what it was about.
fn names_an_object(text: &str) -> bool {
    let objects = ["/", "OVSDB", "ovsdb-server", "standard input", "standard output", "br0"];
    objects.iter().any(|object| text.contains(object))
}

/// What holds for every call, whatever went wrong.
pub(super) fn manners(outcome: &Outcome, terms: Terms) -> Result<(), String> {
    let Terms { timeout, below_us, request, .. } = terms;
    if outcome.took > timeout + SMALL {
        return Err(format!("took {:?}, its timeout is {timeout:?}", outcome.took));
    }
    if below_us || request {
        return Ok(());
    }
    if outcome.stderr.contains("panicked") || outcome.code.is_none_or(|code| code > 3) {
        return Err("panicked, or died".to_owned());
    }
    let stdout = outcome.stdout.trim();
    if !stdout.is_empty() && serde_json::from_str::<serde_json::Value>(stdout).is_err() {
        return Err("standard output is not JSON".to_owned());
    }
    for text in complaints(outcome) {
        if !names_an_object(&text) {
            return Err(format!("does not say on what: {text}"));
        }
    }
    Ok(())
}

/// For a call that did not do all that it should have: it says so.
pub(super) fn must_complain(outcome: &Outcome, terms: Terms) -> Result<(), String> {
    if complaints(outcome).is_empty() && !(terms.mute || terms.patient || terms.below_us) {
        return Err("not everything was done, and not a word of it".to_owned());
    }
    Ok(())
}

/// Counts of a test, and what was said in it.
pub(super) struct Summary {
    test: String,
    since: Instant,
    runs: usize,
    /// Faults that happened, by kind.
    injected: BTreeMap<String, usize>,
    /// Cases whose fault did not come about: the call was not made this time.
    missed: usize,
    ends: BTreeMap<End, usize>,
    /// Each message once: how often, and after what.
    said: BTreeMap<String, (usize, String)>,
    failures: Vec<String>,
    /// Digits and names that differ from run to run.
    names: Vec<(String, &'static str)>,
}

impl Summary {
    pub(super) fn new(test: &str, names: Vec<(String, &'static str)>) -> Self {
        Self {
            test: test.to_owned(),
            since: Instant::now(),
            runs: 0,
            injected: BTreeMap::new(),
            missed: 0,
            ends: BTreeMap::new(),
            said: BTreeMap::new(),
            failures: Vec::new(),
            names,
        }
    }

    /// One run: what was done, how often it happened, what became of it.
    pub(super) fn add(
        &mut self,
        case: &str,
        kind: &str,
        happened: bool,
        outcome: &Outcome,
        end: Result<End, String>,
    ) {
        self.runs += 1;
        if happened {
            *self.injected.entry(kind.to_owned()).or_default() += 1;
        } else {
            self.missed += 1;
        }
        for text in complaints(outcome) {
            let text = self.plain(&text);
            self.said.entry(text).or_insert_with(|| (0, case.to_owned())).0 += 1;
        }
        match end {
            Ok(end) => *self.ends.entry(end).or_default() += 1,
            Err(why) => self.failures.push(format!("{case}: {why}\n{outcome}")),
        }
    }

    /// A message without what differs from run to run.
    fn plain(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (name, stands_for) in &self.names {
            text = text.replace(name, stands_for);
        }
        let mut plain = String::new();
        for c in text.chars() {
            match c {
                '0'..='9' if plain.ends_with('N') => {}
                '0'..='9' => plain.push('N'),
                c => plain.push(c),
            }
        }
        plain
    }

    /// Faults that came about.
    pub(super) fn happened(&self) -> usize {
        self.injected.values().sum()
    }

    /// Prints it, writes the messages down, and fails if a run did. At least `least` faults,
    /// and three in four of the runs, must have come about (how often a call waits or reads
    /// differs a little from run to run).
    #[track_caller]
    pub(super) fn end(self, least: usize, more: &str) {
        let path = self.write_messages();
        let kinds: Vec<_> = self.injected.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
        let ends: Vec<_> = self.ends.iter().map(|(end, n)| format!("{n} {end:?}")).collect();
        eprintln!(
            "faults, {}: {} runs, {} faults ({}), {} not reached; {}; {} failed; {} messages in {}{more}; {:?}",
            self.test,
            self.runs,
            self.happened(),
            kinds.join(", "),
            self.missed,
            ends.join(", "),
            self.failures.len(),
            self.said.len(),
            path.display(),
            self.since.elapsed(),
        );
        let some = self.failures.iter().take(30).cloned().collect::<Vec<_>>().join("\n\n");
        assert!(self.failures.is_empty(), "{} failed:\n{some}", self.failures.len());
        let only = chosen().is_some();
        assert!(self.happened() >= least || only, "{} faults", self.happened());
        assert!(self.happened() * 4 >= self.runs * 3 || only, "too many faults not reached");
    }

    fn write_messages(&self) -> PathBuf {
        let mut text = String::new();
        for (said, (times, case)) in &self.said {
            let _ = writeln!(text, "{times:5} {said}\n      ({case})");
        }
        let name = format!("faults-{}.txt", self.test.replace(' ', "-"));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

/// Which faults to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// Each call and message in one way, by turns.
    Sample,
    /// In every way.
    All,
}

/// As `OFG_FAULTS` says.
pub(super) fn extent() -> Extent {
    if std::env::var_os("OFG_FAULTS").is_some() { Extent::All } else { Extent::Sample }
}

/// The text that a case must have, if only some are asked for.
fn chosen() -> Option<String> {
    std::env::var("OFG_FAULTS").ok().filter(|asked| asked != "all")
}

/// Whether a case is asked for.
pub(super) fn wanted(case: &str) -> bool {
    chosen().is_none_or(|text| case.contains(&text))
}
