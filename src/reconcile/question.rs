//! What a command asks the daemon for, and the daemon's answer: one line of JSON each. Nothing is
//! changed for it.
//!
//! A daemon of another release refuses, for it may judge otherwise: the command reads the switch
//! itself then, as it does without a daemon.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ask::{exchange, patience};
use super::wire::{CleanResult, MOST_REQUEST, VERSION, database_identity, line, read};
use crate::model::attachment::Key;
use crate::util::json;

/// A longer answer is not given, and not read to its end.
const MOST_ANSWER: u64 = 8 << 20;
/// How long the daemon waits for the runtime's list of sandboxes.
pub const RUNTIME_ANSWERS: Duration = Duration::from_secs(5);
const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Question {
    /// How each bridge is followed.
    Status,
    /// How many entries name each attachment, by bridge.
    Counts,
    /// The entries of a bridge that name an attachment, each with its verdict.
    #[serde(rename_all = "camelCase")]
    Flows {
        /// The attachment.
        key: Key,
        /// Which life of the key.
        generation: u64,
        /// The bridge's name.
        bridge: String,
    },
    /// Every sandbox that the container runtime knows: [`Sandboxes`].
    Sandboxes,
}

/// The complete answer of a container runtime, which it gave after the question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sandboxes {
    /// The runtime's socket.
    pub socket: PathBuf,
    /// Its device and inode: the daemon may see it at another path.
    pub file: (u64, u64),
    /// `CNI_CONTAINERID` of each.
    pub ids: Vec<String>,
}

/// A question as it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WireQuestion {
    version: u64,
    release: String,
    /// See [`WireRequest`](super::wire::WireRequest).
    database: Option<(u64, u64)>,
    /// What is asked.
    pub question: Question,
}

/// An answer as it is sent.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WireAnswer {
    version: u64,
    /// What became of the question.
    pub result: CleanResult,
    answer: Value,
    why: Option<String>,
}

impl WireQuestion {
    /// Whether a line is a question, and not a request for a clean-up.
    #[must_use]
    pub fn is_one(line: &[u8]) -> bool {
        json::from_slice::<Value>(line).is_ok_and(|line| line.get("question").is_some())
    }

    /// Reads a question about this Open vSwitch from somebody of this release.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn read(line: &[u8], run_dir: &Path) -> Result<Question, String> {
        let Self { release, database, question, .. } = read(line)?;
        if release != RELEASE {
            return Err(format!("the daemon is of release {RELEASE}, and not of {release}"));
        }
        if database != database_identity(run_dir) {
            return Err("the daemon is about another Open vSwitch".to_owned());
        }
        Ok(question)
    }
}

impl WireAnswer {
    /// The answer.
    #[must_use]
    pub fn done(answer: Value) -> Self {
        Self { version: VERSION, result: CleanResult::Done, answer, why: None }
    }

    /// There is none.
    #[must_use]
    pub fn not_done(result: CleanResult, why: String) -> Self {
        Self { version: VERSION, result, answer: Value::Null, why: Some(why) }
    }

    /// As a line; `None` if it would be too long.
    #[must_use]
    pub fn line(&self) -> Option<Vec<u8>> {
        line(self, MOST_ANSWER)
    }
}

/// Asks the daemon that has this socket, and waits for a small part of this time; for what only the
/// daemon knows, longer.
///
/// # Errors
/// Those of the connection; [`io::ErrorKind::Other`]: it does not answer this question.
pub fn ask(
    socket: &Path,
    run_dir: &Path,
    question: Question,
    timeout: Duration,
) -> io::Result<Value> {
    // Only the daemon knows the runtime's sandboxes.
    let wait = match question {
        Question::Sandboxes => timeout.min(RUNTIME_ANSWERS.saturating_mul(2)),
        _ => patience(timeout),
    };
    let (release, database) = (RELEASE.to_owned(), database_identity(run_dir));
    let question = WireQuestion { version: VERSION, release, database, question };
    let line = line(&question, MOST_REQUEST).ok_or(io::ErrorKind::InvalidInput)?;
    let answer = exchange(socket, wait, MOST_ANSWER, || Some(line), |_| None)?;
    let mut answer: Value = json::from_slice(&answer)?;
    let is = |key: &str, value: Value| answer.get(key) == Some(&value);
    if is("version", VERSION.into()) && is("result", "done".into()) {
        return Ok(answer.get_mut("answer").map(Value::take).unwrap_or_default());
    }
    let why = answer.get("why").and_then(Value::as_str).unwrap_or("it is of another release");
    Err(io::Error::other(why.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_release_is_refused_and_nothing_is_guessed() {
        let run_dir = Path::new("/nonexistent");
        let question = |release: &str| WireQuestion {
            version: VERSION,
            release: release.to_owned(),
            database: None,
            question: Question::Counts,
        };
        let sent = |question: &WireQuestion| line(question, MOST_REQUEST).unwrap();
        let own = sent(&question(RELEASE));
        assert!(WireQuestion::is_one(&own));
        assert_eq!(WireQuestion::read(&own, run_dir), Ok(Question::Counts));
        let why = WireQuestion::read(&sent(&question("0.0.0")), run_dir).unwrap_err();
        assert!(why.contains("not of 0.0.0"), "{why}");
        let other = WireQuestion { database: Some((1, 2)), ..question(RELEASE) };
        assert!(WireQuestion::read(&sent(&other), run_dir).unwrap_err().contains("another Open"));
        let text = String::from_utf8(own).unwrap();
        for changed in [
            text.replace("\"version\":1", "\"version\":2"),
            text.replace("counts", "everything"),
            text.replace("{\"version\"", "{\"urgent\":true,\"version\""),
        ] {
            assert!(WireQuestion::read(changed.as_bytes(), run_dir).is_err(), "{changed}");
        }
        assert!(!WireQuestion::is_one(b"{\"version\":1,\"verb\":\"DEL\"}"));
    }
}
