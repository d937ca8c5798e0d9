//! The CNI verbs (CNI spec 1.1.0, section 2), as a chained plugin after the OVS plugin.
//!
//! stdout carries one JSON document and nothing else: the result or the error. It is
//! printed in one place, [`main`], also when the code panics.

mod add;
mod check;
mod del;
mod failure;
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

use crate::logging;

/// The largest configuration we read, in bytes. libcni sends a few kilobytes; a GC list of
/// 1,000 attachments is about 100 kB.
const MOST_STDIN: u64 = 8 << 20;

/// Runs one CNI call from the process's environment and standard input.
#[must_use]
pub fn main() -> ExitCode {
    // A panic must still end as CNI error JSON: the runtime parses stdout.
    let outcome = std::panic::catch_unwind(run).unwrap_or_else(|_| {
        Err((SpecVersion::CURRENT, Failure::bug("panicked; its message is on standard error")))
    });
    let (text, code) = match outcome {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err((version, failure)) => {
            error!("{failure}");
            let shown = ErrorResult::new(version, &failure.into_cni());
            let text = serde_json::to_string(&shown)
                .unwrap_or_else(|_| r#"{"code":999,"msg":"error without text"}"#.to_owned());
            (text, ExitCode::FAILURE)
        }
    };
    let mut stdout = std::io::stdout().lock();
    // The runtime has gone away if this fails: nobody is left to tell.
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    code
}

type Ended = Result<String, (SpecVersion, Failure)>;

fn run() -> Ended {
    logging::init(log::LevelFilter::Info, None);
    let current = SpecVersion::CURRENT;
    let command = std::env::var("CNI_COMMAND").unwrap_or_default();
    let command = Cmd::from_str(&command).map_err(|e| (current, Failure::Cni(e)))?;
    let mut stdin = Vec::new();
    let read = std::io::stdin().lock().take(MOST_STDIN + 1).read_to_end(&mut stdin);
    if command == Cmd::Version {
        return version();
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
    for problem in &request.problems {
        match command {
            Cmd::Add | Cmd::Status => return Err((version, Failure::Config(problem.clone()))),
            _ => warn!("{problem}; going on without it"),
        }
    }
    match command {
        Cmd::Add => add::run(&request),
        Cmd::Del => del::run(&request).map(|()| String::new()),
        Cmd::Check => check::run(&request).map(|()| String::new()),
        Cmd::Gc => gc::run(&request).map(|()| String::new()),
        Cmd::Status => status::run(&request).map(|()| String::new()),
        Cmd::Version => return self::version(),
    }
    .map_err(|failure| (version, failure))
}

/// VERSION answers whatever it is asked with (CNI spec 1.1.0, "VERSION").
fn version() -> Ended {
    let info = PluginInfo::new(SpecVersion::CURRENT, SUPPORTED.to_vec());
    serde_json::to_string(&info).map_err(|e| (SpecVersion::CURRENT, Failure::bug(&e.to_string())))
}

pub(crate) use result::own as own_of_result;
