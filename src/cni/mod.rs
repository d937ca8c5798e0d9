//! The CNI verbs (CNI spec 1.1.0, section 2), as a chained plugin after the OVS plugin.
//!
//! stdout carries one JSON document and nothing else: the result or the error. It is
//! printed in one place, [`main`], also when the code panics.

mod add;
mod check;
mod del;
mod failure;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod gc;
mod request;
mod result;
mod status;

use std::io::{Read, Write};
use std::process::ExitCode;
use std::str::FromStr;

use log::{error, warn};
use rscni_types::types::{Cmd, ErrorResult};
use rscni_types::version::{PluginInfo, SpecVersion};

pub use failure::Failure;
pub use request::{Request, SUPPORTED};

use crate::config::Config;
use crate::store::Registry;
use crate::util::clock::{BootTime, Stamp};
use crate::util::json;
use crate::util::logging;

/// The largest configuration we read, in bytes. libcni sends a few kilobytes; a GC list of
/// 1,000 attachments is about 100 kB.
const MOST_STDIN: u64 = 8 << 20;

/// Runs one CNI call from the process's environment and standard input.
#[must_use]
pub fn main() -> ExitCode {
    let called = Stamp::now();
    let command = std::env::var("CNI_COMMAND").unwrap_or_default();
    answer_panics(&command);
    let ended = run(&command, called);
    logging::Often::say_rest(true);
    if answer(ended) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

type Ended = Result<String, (SpecVersion, Failure)>;

/// A panic must still end as CNI error JSON, because the runtime parses stdout. Releases abort
/// on a panic: the process ends here, with its answer.
fn answer_panics(command: &str) {
    let (command, tell) = (command.to_owned(), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        std::process::exit(i32::from(!answer(panicked(&command))));
    }));
}

/// The end of a call that panicked. A DEL has left a record or a tombstone to the next sweep, and
/// must not block the OVS plugin's DEL behind it.
fn panicked(command: &str) -> Ended {
    let failure = Failure::bug("panicked; its message is on standard error");
    if command == <&str>::from(Cmd::Del) {
        error!("{failure}; the next sweep cleans up");
        return Ok(String::new());
    }
    Err((SpecVersion::CURRENT, failure))
}

/// Writes the answer to standard output. Returns whether the call succeeded: it did not if its
/// result could not be written.
fn answer(ended: Ended) -> bool {
    let (text, succeeded) = answer_text(ended);
    let mut stdout = std::io::stdout().lock();
    let said = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    if let Err(failed) = &said {
        error!("cannot write the result to standard output: {failed}");
    }
    succeeded && said.is_ok()
}

/// What goes to standard output, and whether the call succeeded.
fn answer_text(ended: Ended) -> (String, bool) {
    match ended {
        Ok(text) => (text, true),
        Err((version, failure)) => {
            error!("{failure}");
            let shown = ErrorResult::new(version, &failure.into_cni());
            let text = serde_json::to_string(&shown)
                .unwrap_or_else(|_| r#"{"code":999,"msg":"error without text"}"#.to_owned());
            (readable(&text), false)
        }
    }
}

/// JSON that runtimes can write to their logs as it is. Characters that JSON allows and that would
/// break or reverse a line of a log are escaped by their number.
fn readable(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if logging::is_plain(c) {
            text.push(c);
        } else {
            text.push_str(&format!("\\u{:04x}", u32::from(c)));
        }
    }
    text
}

fn run(command: &str, called: Stamp) -> Ended {
    logging::init(log::LevelFilter::Info, None);
    let began = BootTime::now();
    let current = SpecVersion::CURRENT;
    let command = Cmd::from_str(command).map_err(|e| (current, Failure::Cni(e)))?;
    let mut stdin = Vec::new();
    let read = std::io::stdin().lock().take(MOST_STDIN + 1).read_to_end(&mut stdin);
    if command == Cmd::Version {
        return version(&stdin);
    }
    let read = read.map_err(|e| Failure::stdin(&e)).and_then(|_| {
        if stdin.len() as u64 > MOST_STDIN { Err(Failure::oversized(MOST_STDIN)) } else { Ok(()) }
    });
    read.map_err(|f| (current, f))?;

    let request = Request::read(command, &stdin, |name| std::env::var_os(name))?;
    let version = request.version;
    if let Ok(level) = request.config.log_level.parse() {
        logging::init(level, request.config.log_file.as_deref());
    }
    for warning in Config::warnings(&request.conf) {
        warn!("{warning}");
    }
    for problem in &request.problems {
        match command {
            Cmd::Add => return Err((version, Failure::Config(problem.clone()))),
            _ => warn!("{problem}; going on without it"),
        }
    }
    let ended = match command {
        Cmd::Add => add::run(&request),
        Cmd::Del => del::run(&request).map(|()| String::new()),
        Cmd::Check => check::run(&request).map(|()| String::new()),
        Cmd::Gc => gc::run(&request, called).map(|()| String::new()),
        Cmd::Status => {
            status::run(&request);
            Ok(String::new())
        }
        Cmd::Version => return self::version(&stdin),
    };
    if matches!(command, Cmd::Add | Cmd::Del | Cmd::Gc) {
        count(&request, began, ended.is_ok());
    }
    ended.map_err(|failure| (version, failure))
}

/// For the daemon's metrics.
fn count(request: &Request, began: BootTime, is_ok: bool) {
    let mut did = request.did.get();
    if !is_ok {
        (did.unfinished, did.failed) = (0, 1);
    }
    did.done = u64::from(did.unfinished == 0 && is_ok);
    let took = began.until(BootTime::now());
    did.microseconds = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    if let Ok(Some(registry)) = Registry::open_existing(&request.config.state_dir) {
        registry.count_call(request.command.into(), did);
    }
}

/// VERSION answers whatever it is asked with, in the version it is asked in if we know that
/// one (CNI spec 1.1.0, "VERSION").
fn version(stdin: &[u8]) -> Ended {
    let asked = json::from_slice::<serde_json::Value>(stdin).ok();
    let asked = asked.as_ref().and_then(|conf| conf.get("cniVersion")?.as_str());
    let spoken = SUPPORTED.into_iter().find(|v| asked == Some(v.to_string().as_str()));
    let info = PluginInfo::new(spoken.unwrap_or(SpecVersion::CURRENT), SUPPORTED.to_vec());
    serde_json::to_string(&info).map_err(|e| (SpecVersion::CURRENT, Failure::bug(&e.to_string())))
}

pub(crate) use result::own as own_of_result;

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// The process that panics is this test's own program, run again.
    #[test]
    fn a_panic_ends_as_cni_error_json() {
        const VERB: &str = "OFG_TEST_PANIC";
        if let Ok(verb) = std::env::var(VERB) {
            answer_panics(&verb);
            panic!("on purpose");
        }
        let ended = |verb: &str| {
            let test = "a_panic_ends_as_cni_error_json";
            let mut again = std::process::Command::new(std::env::current_exe().unwrap());
            let output = again.args([test, "--nocapture"]).env(VERB, verb).output().unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert!(stderr.contains("on purpose"), "{stderr}");
            (output.status.code(), String::from_utf8(output.stdout).unwrap())
        };
        for verb in ["ADD", "CHECK", "GC", "STATUS", "VERSION", ""] {
            let (status, stdout) = ended(verb);
            assert_eq!(status, Some(1), "{verb}");
            let error: Value = serde_json::from_str(&stdout[stdout.find('{').unwrap()..]).unwrap();
            assert_eq!((&error["cniVersion"], &error["code"]), (&"1.1.0".into(), &199.into()));
            assert!(error["details"].as_str().unwrap().contains("panicked"), "{stdout}");
        }
        // containerd #12130: a DEL that fails blocks the OVS plugin's DEL.
        let (status, stdout) = ended("DEL");
        assert_eq!((status, stdout.contains('{')), (Some(0), false), "{stdout}");
    }

    #[test]
    fn an_error_turns_no_line_round() {
        let (text, _) = answer_text(Err((
            SpecVersion::CURRENT,
            Failure::Switch("a\u{202e}b\u{2028}c\nd".to_owned()),
        )));
        assert!(text.chars().all(logging::is_plain), "{text:?}");
        let error: Value = serde_json::from_str(&text).unwrap();
        let details = error["details"].as_str().unwrap();
        assert!(details.ends_with("a\u{202e}b\u{2028}c\nd"), "{text}");
    }
}
