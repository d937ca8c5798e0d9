//! Every system call fails once, in turn: `strace -e inject`. Every file is cut short:
//! RLIMIT_FSIZE lets a write be short, and fails the next.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::checks::{Extent, Summary, Terms, extent, wanted};
use super::fixture::How;
use super::verbs::{Stage, Verb};

/// What a disturbed call has on the switch, in seconds.
const SECONDS: u64 = 2;

#[test]
fn every_system_call_of_add_fails_once() {
    Trial::new(Verb::Add).each_call(100);
}

#[test]
fn every_system_call_of_del_fails_once() {
    Trial::new(Verb::Del).each_call(100);
}

#[test]
fn every_system_call_of_a_sweep_fails_once() {
    Trial::new(Verb::Sweep).each_call(100);
}

#[test]
fn every_system_call_of_a_gc_fails_once() {
    Trial::new(Verb::Gc).each_call(100);
}

#[test]
fn every_system_call_of_a_check_fails_once() {
    Trial::new(Verb::Check).each_call(20);
}

#[test]
fn every_system_call_of_a_status_fails_once() {
    Trial::new(Verb::Status).each_call(15);
}

#[test]
fn every_file_is_cut_short() {
    for verb in [Verb::Add, Verb::Del, Verb::Sweep] {
        Trial::new(verb).each_length();
    }
}

/// These do not fail: their manual pages have no such error. (Linux frees a descriptor before
/// anything of close() can; a failure by strace would leave it open, and its lock taken.
/// getrandom() with GRND_INSECURE waits for nothing.)
const CANNOT_FAIL: [&str; 11] = [
    "close",
    "execve",
    "getrandom",
    "exit_group",
    "getpid",
    "gettid",
    "getuid",
    "geteuid",
    "getgid",
    "getegid",
    "sched_yield",
];
/// The process's memory: the allocator ends the process if it cannot have any.
const MEMORY: [&str; 6] = ["brk", "mmap", "munmap", "mprotect", "mremap", "madvise"];

/// A system call of an undisturbed run.
struct Call {
    name: String,
    /// Which of that name, from 1.
    number: usize,
    /// As strace shows it.
    text: String,
    /// Before `main`, or of the process's memory.
    below_us: bool,
}

impl Call {
    fn is(&self, names: &[&str]) -> bool {
        names.contains(&self.name.as_str())
    }

    /// Whether its descriptor is this one, as strace shows it (`3</path>`, `4<socket:[5]>`).
    fn on(&self, what: &str) -> bool {
        let first = self.text.split_once('(').map_or("", |(_, rest)| rest);
        let first = first.split(',').next().unwrap_or_default();
        first.contains(what)
    }

    /// Of the request itself: its configuration, and its result.
    fn is_of_the_request(&self) -> bool {
        self.is(&["read", "write"]) && (self.on("0<") || self.on("1<"))
    }

    /// What it may fail with.
    fn errors(&self) -> &'static [&'static str] {
        let socket = self.on("UNIX") || self.on("socket:") || self.is(&["socket", "connect"]);
        let writes = self.is(&["write", "ftruncate", "mkdir", "rename", "link", "symlink"])
            || self.text.contains("O_CREAT");
        if self.is(&MEMORY) {
            &["ENOMEM"]
        } else if self.is(&["poll", "ppoll"]) || self.below_us {
            &["EINTR", "EIO"]
        } else if socket {
            &["ECONNRESET", "EINTR", "EIO"]
        } else if writes {
            &["ENOSPC", "EIO", "EINTR"]
        } else {
            &["EIO", "EINTR"]
        }
    }
}

struct Trial {
    stage: Stage,
    trace: PathBuf,
    summary: Summary,
}

impl Trial {
    fn new(verb: Verb) -> Self {
        let stage = Stage::new("faults::syscalls", verb);
        let trace = stage.fixture.node.dir.join("trace");
        let summary = Summary::new(&format!("{verb:?} syscalls"), stage.names());
        Self { stage, trace, summary }
    }

    /// Behind strace, with these options.
    fn strace(&self, options: &[&str]) -> How<'static> {
        let trace = self.trace.display().to_string();
        let words = ["strace", "-f", "-qq", "-yy", "-e", "signal=none", "-o", &trace];
        let all = words.iter().chain(options).map(|word| (*word).to_owned());
        How { prefix: all.collect(), run_dir: None }
    }

    /// The calls of an undisturbed run.
    fn calls(&mut self) -> Vec<Call> {
        self.stage.before();
        let outcome = self.stage.call(&self.strace(&["-s", "64"]), &[], SECONDS);
        assert!(outcome.succeeded(), "{outcome}");
        let text = fs::read_to_string(&self.trace).unwrap();
        let lines: Vec<(&str, &str)> = text.lines().filter_map(call_of).collect();
        // The standard library's last act before `main`.
        let start = lines.iter().position(|(_, line)| line.starts_with("sigaltstack({ss_sp"));
        let start = start.expect("sigaltstack before main");
        // Its first after: the same again.
        let end = lines.iter().rposition(|(_, line)| line.starts_with("sigaltstack(")).unwrap();
        assert!(start < end, "{start} {end}");
        let mut calls: Vec<Call> = Vec::new();
        for (at, (name, line)) in lines.into_iter().enumerate() {
            let number = calls.iter().filter(|call| call.name == name).count() + 1;
            let below_us = at <= start || at >= end || MEMORY.contains(&name);
            calls.push(Call { name: name.to_owned(), number, text: line.to_owned(), below_us });
        }
        calls
    }

    /// Fails each of them.
    fn each_call(mut self, least: usize) {
        let calls = self.calls();
        let (mut ours, mut skipped) = (0, 0);
        // In a sample: GC is a sweep, but for its list; who asks does little.
        let every = match self.stage.verb {
            Verb::Gc => 6,
            Verb::Check | Verb::Status => 1,
            _ => 2,
        };
        for call in &calls {
            if call.is(&CANNOT_FAIL) {
                continue;
            }
            let errors = call.errors();
            ours += usize::from(!call.below_us);
            // Every so many of ours, one error each.
            let turn = ours / every;
            let by_turns = [errors[turn % errors.len()]];
            let errors = match extent() {
                Extent::All => errors,
                Extent::Sample if call.below_us || ours % every != 1 % every => {
                    skipped += 1;
                    continue;
                }
                Extent::Sample => &by_turns,
            };
            for error in errors {
                self.fail(call, error, turn % 2 == 0);
            }
        }
        let more = format!(
            "; {} calls, {ours} of them ours, {skipped} not tried; ovs-ofctl agreed {} times, {} looks again",
            calls.len(),
            self.stage.fixture.cross_checked,
            self.stage.looks_again
        );
        assert!(ours >= least, "{ours} calls of ours: {more}");
        self.summary.end(least / 2 / every, &more);
    }

    fn fail(&mut self, call: &Call, error: &str, again: bool) {
        let Call { name, number, text, below_us } = call;
        let case = format!("{:?} {name} {number} {error}: {text}", self.stage.verb);
        if !wanted(&case) {
            return;
        }
        let inject = format!("inject={name}:error={error}:when={number}");
        let trace = format!("trace={name}");
        let how = self.strace(&["--seccomp-bpf", "-e", &trace, "-e", &inject]);
        self.stage.before();
        let outcome = self.stage.call(&how, &[], SECONDS);
        let happened = fs::read_to_string(&self.trace).unwrap().contains("(INJECTED)");
        let mut terms = Terms::new(Duration::from_secs(SECONDS));
        terms.below_us = *below_us;
        terms.request = call.is_of_the_request();
        terms.mute = call.is(&["write"]) && call.on("2<");
        let end = self.stage.after(&outcome, terms, again);
        self.summary.add(&case, error, happened, &outcome, end);
    }

    /// No file may have more than so many bytes.
    fn each_length(mut self) {
        self.summary =
            Summary::new(&format!("{:?} file sizes", self.stage.verb), self.stage.names());
        let step = if extent() == Extent::All { 7 } else { 97 };
        let lengths = (0..4).chain((4..2500).step_by(step));
        for (at, length) in lengths.enumerate() {
            let case = format!("{:?} files of {length} bytes", self.stage.verb);
            if !wanted(&case) {
                continue;
            }
            let script = format!("trap '' XFSZ; exec prlimit --fsize={length} \"$@\"");
            let prefix = ["sh", "-c", &script, "sh"].map(str::to_owned).to_vec();
            self.stage.before();
            let outcome = self.stage.call(&How { prefix, run_dir: None }, &[], SECONDS);
            let end =
                self.stage.after(&outcome, Terms::new(Duration::from_secs(SECONDS)), at % 2 == 0);
            // Long enough for all that is written: then nothing happens.
            let happened = length >= 1500 || !super::checks::complaints(&outcome).is_empty();
            self.summary.add(&case, "EFBIG", happened, &outcome, end);
        }
        self.summary.end(10, "");
    }
}

/// A line of the trace: the call's name, and the line without its process id.
fn call_of(line: &str) -> Option<(&str, &str)> {
    let line = line.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start();
    let (name, _) = line.split_once('(')?;
    let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    is_name.then_some((name, line))
}
