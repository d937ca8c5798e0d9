//! Running one plugin: in a process group of its own, with a time limit, and with bounds for what
//! it prints.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::Value;

use crate::util::clock::Deadline;

/// So much of what a plugin prints is kept, in bytes. More is read and thrown away.
const MOST_PRINTED: usize = 4096;
/// So much of an error is told, in characters.
const MOST_TOLD: usize = 300;
/// How often an end is looked for that no pipe shows, in milliseconds.
const LOOK: u8 = 5;

/// The plugin's file in `CNI_PATH`, as libcni looks for it. A directory that is not absolute is
/// passed over.
pub(crate) fn find(plugin: &str, cni_path: &str) -> Option<PathBuf> {
    let directories = cni_path.split(':').map(Path::new).filter(|path| path.is_absolute());
    directories.map(|path| path.join(plugin)).find(|path| path.is_file())
}

/// Calls a plugin and waits for its end, at most for this time. Then its process group is killed.
///
/// # Errors
/// What it said is wrong, or why it did not end well.
pub(crate) fn call(
    plugin: &Path,
    environment: &[(&str, &str)],
    stdin: &str,
    limit: Duration,
) -> Result<(), String> {
    let mut command = Command::new(plugin);
    command.envs(environment.iter().copied()).process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| format!("cannot be run: {e}"))?;
    let ended = Pipes::of(&mut child, stdin).and_then(|mut pipes| {
        let status = pipes.serve(&mut child, Deadline::after(limit))?;
        Ok((status, pipes))
    });
    match ended {
        Ok((Some(status), _)) if status.success() => Ok(()),
        Ok((Some(status), pipes)) => Err(pipes.complaint(status)),
        Ok((None, _)) => {
            end(&mut child);
            Err(format!("took longer than {} s and was killed", limit.as_secs()))
        }
        Err(failed) => {
            end(&mut child);
            Err(failed.to_string())
        }
    }
}

/// Kills all of the plugin's process group.
fn end(child: &mut Child) {
    if let Ok(group) = i32::try_from(child.id()) {
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
    let _ = child.wait();
}

/// What a plugin prints to one pipe, until that is closed.
struct Printed<R> {
    pipe: Option<R>,
    text: Vec<u8>,
}

impl<R: Read + AsFd> Printed<R> {
    fn of(pipe: Option<R>) -> io::Result<Self> {
        pipe.iter().try_for_each(dont_wait)?;
        Ok(Self { pipe, text: Vec::new() })
    }

    /// Reads what is there.
    fn read(&mut self) {
        let mut buffer = [0; 4096];
        let Some(pipe) = &mut self.pipe else { return };
        match pipe.read(&mut buffer) {
            Err(e)
                if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Ok(0) | Err(_) => self.pipe = None,
            Ok(count) => {
                let room = MOST_PRINTED.saturating_sub(self.text.len());
                self.text.extend(buffer.iter().take(count.min(room)));
            }
        }
    }
}

fn dont_wait(pipe: &impl AsFd) -> io::Result<()> {
    fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(())
}

struct Pipes<'a> {
    stdin: Option<std::process::ChildStdin>,
    left: &'a [u8],
    stdout: Printed<std::process::ChildStdout>,
    stderr: Printed<std::process::ChildStderr>,
}

impl<'a> Pipes<'a> {
    fn of(child: &mut Child, stdin: &'a str) -> io::Result<Self> {
        child.stdin.iter().try_for_each(dont_wait)?;
        Ok(Self {
            stdin: child.stdin.take(),
            left: stdin.as_bytes(),
            stdout: Printed::of(child.stdout.take())?,
            stderr: Printed::of(child.stderr.take())?,
        })
    }

    /// Writes and reads until the plugin has ended. What it has started may still hold the pipes:
    /// nobody waits for that. `None`: it has not ended in time.
    fn serve(&mut self, child: &mut Child, until: Deadline) -> io::Result<Option<ExitStatus>> {
        loop {
            self.write();
            self.stdout.read();
            self.stderr.read();
            if let Some(status) = child.try_wait()? {
                self.stdout.read();
                self.stderr.read();
                return Ok(Some(status));
            }
            if until.passed() {
                return Ok(None);
            }
            let readable = PollFlags::POLLIN;
            let mut fds = Vec::with_capacity(3);
            fds.extend(self.stdin.iter().map(|p| PollFd::new(p.as_fd(), PollFlags::POLLOUT)));
            fds.extend(self.stdout.pipe.iter().map(|p| PollFd::new(p.as_fd(), readable)));
            fds.extend(self.stderr.pipe.iter().map(|p| PollFd::new(p.as_fd(), readable)));
            let _ = poll(&mut fds, LOOK);
        }
    }

    fn write(&mut self) {
        let Some(stdin) = &mut self.stdin else { return };
        match stdin.write(self.left) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
            Ok(count) => self.left = self.left.get(count..).unwrap_or_default(),
            // A plugin that fails early does not read.
            Err(_) => self.left = &[],
        }
        if self.left.is_empty() {
            self.stdin = None;
        }
    }

    /// The error of the specification on standard output, else what is on standard error, or else on
    /// standard output.
    fn complaint(&self, status: ExitStatus) -> String {
        let error: Value = serde_json::from_slice(&self.stdout.text).unwrap_or_default();
        let part = |name| error.get(name).and_then(Value::as_str).unwrap_or_default();
        let mut said = [part("msg"), part("details")].join(" ");
        for printed in [&self.stderr.text, &self.stdout.text] {
            if said.trim().is_empty() {
                said = String::from_utf8_lossy(printed).into_owned();
            }
        }
        let words: Vec<&str> = said.split_whitespace().collect();
        let said: String = words.join(" ").chars().take(MOST_TOLD).collect();
        if said.is_empty() { status.to_string() } else { format!("{status}: {said}") }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Instant;

    use super::*;

    fn run(body: &str, stdin: &str, limit: Duration) -> Result<(), String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plugin");
        crate::store::replace(&path, format!("#!/bin/sh\n{body}\n").as_bytes()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        // What another test forks has the file open for writing until it runs something else.
        let until = Deadline::after(LONG);
        loop {
            match call(&path, &[("CNI_COMMAND", "DEL")], stdin, limit) {
                Err(busy) if busy.contains("Text file busy") && !until.passed() => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                done => return done,
            }
        }
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn a_plugin_reads_all_and_says_what_is_wrong() {
        let much = "x".repeat(1 << 20);
        let read = "test \"$CNI_COMMAND\" = DEL && test $(wc -c) = 1048576";
        assert_eq!(run(read, &much, LONG), Ok(()));
        assert_eq!(run("exit 0", &much, LONG), Ok(()), "it does not read");
        let said = "echo '{\"code\": 7, \"msg\": \"no lease\", \"details\": \"at all\"}'; exit 1";
        assert_eq!(run(said, "{}", LONG).unwrap_err(), "exit status: 1: no lease at all");
        assert_eq!(run("echo plain; exit 3", "", LONG).unwrap_err(), "exit status: 3: plain");
        let lines = run("printf 'no\\n  lease\\n' >&2; exit 2", "{}", LONG).unwrap_err();
        assert_eq!(lines, "exit status: 2: no lease", "a line of the log, a cell of a table");
        assert_eq!(run("exit 3", "{}", LONG).unwrap_err(), "exit status: 3");
        let killed = run("kill -9 $$", "{}", LONG).unwrap_err();
        assert!(killed.contains("signal: 9"), "{killed}");
        let gone = call(Path::new("/nonexistent/plugin"), &[], "", LONG).unwrap_err();
        assert!(gone.starts_with("cannot be run"), "{gone}");
    }

    #[test]
    fn garbage_without_an_end_is_bounded() {
        let garbage =
            run("while :; do echo garbage; echo more >&2; done", "{}", Duration::from_secs(1));
        assert!(garbage.unwrap_err().contains("longer than 1 s"));
        let some =
            run("head -c 3000000 /dev/zero; head -c 3000000 /dev/urandom >&2; exit 1", "", LONG);
        assert!(some.unwrap_err().chars().count() < MOST_TOLD + 30);
    }

    #[test]
    fn one_that_hangs_is_killed_with_all_that_it_has_started() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let body = format!("sleep 1000 & echo $! > {}; wait", pid.display());
        let begun = Instant::now();
        let hung = run(&body, "{}", Duration::from_secs(1)).unwrap_err();
        assert_eq!(hung, "took longer than 1 s and was killed");
        assert!(begun.elapsed() < Duration::from_secs(10));
        let pid: i32 = fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
        let gone =
            || !fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z"));
        let until = Deadline::after(LONG);
        while !gone() && !until.passed() {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(gone(), "{pid}");
    }

    #[test]
    fn what_a_plugin_leaves_running_is_not_waited_for() {
        let begun = Instant::now();
        assert_eq!(run("sleep 15 & exit 0", "{}", LONG), Ok(()));
        assert!(begun.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_plugin_is_looked_for_in_absolute_directories_only() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().display().to_string();
        fs::create_dir(dir.path().join("directory")).unwrap();
        fs::File::create(dir.path().join("file")).unwrap();
        let path = format!("relative::/nonexistent:{at}");
        assert_eq!(find("file", &path), Some(dir.path().join("file")));
        assert_eq!(find("directory", &path), None);
        assert_eq!(find("Cargo.toml", ".:"), None);
    }
}
