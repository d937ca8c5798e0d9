//! Commands with a deadline, in a network namespace.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// No command of a test takes longer, on the slowest machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What a command did.
#[derive(Debug)]
pub struct Outcome {
    /// The command line.
    pub command: String,
    /// Exit status; `None` if a signal ended it.
    pub code: Option<i32>,
    /// What it said.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

impl Outcome {
    /// Whether it exited with 0.
    pub fn succeeded(&self) -> bool {
        self.code == Some(0)
    }

    /// Standard output of a command that must succeed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.succeeded(), "{self}");
        self.stdout
    }

    /// Standard output as JSON, whatever the exit status; of one of our lists its items.
    #[track_caller]
    pub fn json(&self) -> Value {
        let mut value: Value =
            serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("not JSON ({e}): {self}"));
        if value["schema"].is_number() && value["items"].is_array() {
            value["items"].take()
        } else {
            value
        }
    }

    /// The error of a CNI call that must fail: its code and its text.
    #[track_caller]
    pub fn cni_error(&self) -> (u64, String) {
        assert!(!self.succeeded(), "should have failed: {self}");
        let error = self.json();
        let code = error["code"].as_u64().unwrap_or_else(|| panic!("no code: {self}"));
        (code, format!("{} {}", text(&error["msg"]), text(&error["details"])))
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { command, code, stdout, stderr, took } = self;
        write!(f, "{command}: exit {code:?} after {took:?}\n{}\n{}", stdout.trim(), stderr.trim())
    }
}

/// A command on its way.
pub struct Running {
    command: String,
    pid: Pid,
    since: Instant,
    output: Receiver<io::Result<Output>>,
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// SIGKILLs it, wherever it is.
    pub fn kill(&self) {
        // Nobody has reaped it unless its output is there: the id is still its own.
        let _ = kill(self.pid, Signal::SIGKILL);
    }

    /// SIGKILLs it if it still runs after this time.
    #[track_caller]
    pub fn kill_after(self, time: Duration) -> Outcome {
        match self.output.recv_timeout(time) {
            Ok(output) => self.outcome(output),
            Err(_) => {
                self.kill();
                self.wait()
            }
        }
    }

    /// Waits for its end; fails the test if it does not come.
    #[track_caller]
    pub fn wait(self) -> Outcome {
        self.wait_for(PATIENCE)
    }

    /// Waits so long for its end; fails the test if it does not come.
    #[track_caller]
    pub fn wait_for(self, time: Duration) -> Outcome {
        match self.output.recv_timeout(time) {
            Ok(output) => self.outcome(output),
            Err(RecvTimeoutError::Timeout) => {
                self.kill();
                panic!("{} still ran after {time:?}", self.command)
            }
            Err(RecvTimeoutError::Disconnected) => panic!("{}: lost", self.command),
        }
    }

    #[track_caller]
    fn outcome(&self, output: io::Result<Output>) -> Outcome {
        let output = output.unwrap_or_else(|e| panic!("{}: {e}", self.command));
        Outcome {
            command: self.command.clone(),
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            took: self.since.elapsed(),
        }
    }
}

/// Starts a command, in a network namespace if one is given.
#[track_caller]
pub fn start(mut command: Command, netns: Option<&File>, stdin: &[u8]) -> Running {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let line = describe(&command);
    let since = Instant::now();
    let mut child = spawn(&mut command, netns);
    let pid = Pid::from_raw(child.id().try_into().unwrap());
    let (sender, output) = channel();
    let input = child.stdin.take();
    let stdin = stdin.to_owned();
    thread::spawn(move || {
        thread::scope(|scope| {
            // A plugin that fails early does not read, and one that answers before it has
            // read must not block us.
            scope.spawn(|| input.map(|mut pipe| pipe.write_all(&stdin)));
            let _ = sender.send(child.wait_with_output());
        });
    });
    Running { command: line, pid, since, output }
}

/// Runs a command to its end.
#[track_caller]
pub fn run(command: Command, netns: Option<&File>, stdin: &[u8]) -> Outcome {
    start(command, netns, stdin).wait()
}

/// Spawns from a thread of its own that has entered the namespace: no helper process, and
/// the mount namespace stays the host's, as for a real runtime.
#[track_caller]
pub fn spawn(command: &mut Command, netns: Option<&File>) -> Child {
    let line = describe(command);
    let child = match netns {
        None => command.spawn(),
        Some(netns) => thread::scope(|scope| {
            let entered = scope.spawn(|| {
                setns(netns.as_fd(), CloneFlags::CLONE_NEWNET)?;
                command.spawn()
            });
            entered.join().unwrap()
        }),
    };
    child.unwrap_or_else(|e| panic!("{line}: {e}"))
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Waits until `condition` holds; fails the test with `what` if it does not in time.
#[track_caller]
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    within(Duration::from_secs(40), what, condition);
}

/// As [`eventually`], but no longer than this.
#[track_caller]
pub fn within(time: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < time, "not within {time:?}: {what}");
        sleep_ms(5);
    }
}

/// Lets time pass: flows and pods have an age.
pub fn sleep_ms(milliseconds: u64) {
    thread::sleep(Duration::from_millis(milliseconds));
}
