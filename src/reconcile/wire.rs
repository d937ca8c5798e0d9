//! A [`CleanRequest`] as the plugin sends it to the daemon, and the daemon's answer: one line of
//! JSON each.
//!
//! The first key is the version. A version that is not this one, and a key that this version does
//! not have, is refused: the plugin does the work itself, as it does without a daemon.
//!
//! A request names tombstones and carries none: the daemon reads records, OVSDB and the switch
//! anew. It carries what only the call knows: the configuration of its conflist, why each of the
//! dead is dead, and until when it waits.

use std::path::Path;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Cause, CleanRequest, CleanTarget};
use crate::config::{Config, database_socket};
use crate::model::attachment::{Key, NetworkName};
use crate::util::clock::{Stamp, boot_id};
use crate::util::json;

/// The form's version.
pub(super) const VERSION: u64 = 1;
/// A longer request is not sent, and not read to its end.
pub const MOST_REQUEST: u64 = 256 << 10;
/// The same of an answer.
pub const MOST_REPLY: u64 = 16 << 10;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verb {
    /// For what earlier owners of its tokens left.
    Add,
    /// For the pod that ends.
    Del,
    /// For those who are not in its list.
    Gc,
}

impl Verb {
    /// As the journal has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Gc => "GC",
        }
    }

    fn of(text: &str) -> Option<Self> {
        [Self::Add, Self::Del, Self::Gc].into_iter().find(|verb| verb.as_str() == text)
    }
}

/// One of the dead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WireTarget {
    /// Who it was.
    pub key: Key,
    /// Which life of the key: its tombstone's.
    pub generation: u64,
    /// Why it is dead.
    pub cause: Cause,
}

/// The configuration of a call's conflist. It wins over the recorded one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WireOverlay {
    /// Its network.
    pub network: NetworkName,
    /// All of it.
    pub config: Config,
}

/// What a call asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WireRequest {
    version: u64,
    /// Who asks.
    pub verb: Verb,
    /// The boot that the call is of.
    pub boot_id: String,
    /// Until when it waits, in milliseconds of `CLOCK_BOOTTIME`.
    pub until_ms: u64,
    /// It waits that long for who has said [`CleanResult::Accepted`], and not for another.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tell_accepted: bool,
    /// Device and inode of the database's socket, which may have other paths in a container.
    pub database: (u64, u64),
    /// The attachment that is being ADDed.
    pub adding: Option<Key>,
    /// The configuration of the call.
    pub overlay: Option<WireOverlay>,
    /// The dead.
    pub targets: Vec<WireTarget>,
}

impl WireRequest {
    /// What a call asks for that waits so long; `None` if it cannot be asked for.
    pub(super) fn of(
        request: &CleanRequest<'_>,
        targets: &[CleanTarget],
        wait: Duration,
    ) -> Option<Self> {
        let overlay = request.overlay.clone();
        let target = |CleanTarget { attachment, cause }: &CleanTarget| WireTarget {
            key: attachment.key.clone(),
            generation: attachment.generation,
            cause: cause.clone(),
        };
        Some(Self {
            version: VERSION,
            verb: Verb::of(request.verb)?,
            boot_id: boot_id().ok()?,
            until_ms: Stamp::now().boot_ms.checked_add(u64::try_from(wait.as_millis()).ok()?)?,
            tell_accepted: true,
            database: database_identity(&request.run_dir)?,
            adding: request.adding.clone(),
            overlay: overlay.map(|(network, config)| WireOverlay { network, config }),
            targets: targets.iter().map(target).collect(),
        })
    }

    /// Reads a line.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn read(line: &[u8]) -> Result<Self, String> {
        read(line)
    }

    /// As a line; `None` if it would be too long.
    #[must_use]
    pub fn line(&self) -> Option<Vec<u8>> {
        line(self, MOST_REQUEST)
    }
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CleanResult {
    /// It is understood. Another line says what became of it.
    Accepted,
    /// All of it: the switch has confirmed every delete, and the records are settled.
    Done,
    /// Something went wrong.
    Failed,
    /// Others are served first, or the bridge answers slowly.
    Busy,
    /// It was not understood, or is not this daemon's to do.
    Refused,
    /// The call did not wait any longer.
    Withdrawn,
}

impl CleanResult {
    /// As metrics have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Busy => "busy",
            Self::Refused => "refused",
            Self::Withdrawn => "withdrawn",
        }
    }
}

/// The daemon's answer. What is not done is the plugin's to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CleanReply {
    version: u64,
    /// What became of the request.
    pub result: CleanResult,
    /// Entries deleted.
    pub deleted: u64,
    /// Stale entries that a pause or observe mode keeps.
    pub withheld: u64,
    /// Why it is not done.
    pub why: Option<String>,
}

impl CleanReply {
    /// It will be done, if nothing comes between.
    #[must_use]
    pub fn accepted() -> Self {
        Self { result: CleanResult::Accepted, ..Self::done(0, 0) }
    }

    /// It is done.
    #[must_use]
    pub fn done(deleted: u64, withheld: u64) -> Self {
        Self { version: VERSION, result: CleanResult::Done, deleted, withheld, why: None }
    }

    /// It is not.
    #[must_use]
    pub fn not_done(result: CleanResult, why: &str) -> Self {
        let why = Some(why.chars().take(1_000).collect());
        Self { version: VERSION, result, deleted: 0, withheld: 0, why }
    }

    /// Reads a line.
    ///
    /// # Errors
    /// Why it is not understood.
    pub fn read(line: &[u8]) -> Result<Self, String> {
        read(line)
    }

    /// As a line; `None` if it would be too long.
    #[must_use]
    pub fn line(&self) -> Option<Vec<u8>> {
        line(self, MOST_REPLY)
    }
}

/// Device and inode of the database's socket; `None`: there is none.
#[must_use]
pub fn database_identity(run_dir: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(database_socket(run_dir)).ok()?;
    Some((meta.dev(), meta.ino()))
}

/// What was sent may be long.
fn brief(error: &serde_json::Error) -> String {
    error.to_string().chars().take(200).collect()
}

/// Reads a line of this version. It is accepted if it is written as it was read: nothing in it is
/// left out because it is not known here.
pub(super) fn read<T: DeserializeOwned + Serialize>(line: &[u8]) -> Result<T, String> {
    let raw: Value = json::from_slice(line).map_err(|e| brief(&e))?;
    match raw.get("version").and_then(Value::as_u64) {
        Some(VERSION) => {}
        Some(version) => return Err(format!("version {version}, and only {VERSION} is known")),
        None => return Err("no version".to_owned()),
    }
    let known: T = json::from_slice(line).map_err(|e| brief(&e))?;
    match serde_json::to_value(&known) {
        Ok(written) if written == raw => Ok(known),
        _ => Err("it has keys that are not known".to_owned()),
    }
}

pub(super) fn line(value: &impl Serialize, most: u64) -> Option<Vec<u8>> {
    let mut line = serde_json::to_vec(value).ok()?;
    line.push(b'\n');
    (line.len() as u64 <= most).then_some(line)
}

#[cfg(feature = "fuzzing")]
#[allow(clippy::unwrap_used, reason = "a broken promise is told by panicking")]
pub(crate) fn fuzz(data: &[u8]) -> bool {
    let refused = |why: &str| assert!(why.len() < 1_000, "{why}");
    let reply = CleanReply::read(data).inspect_err(|why| refused(why)).inspect(|reply| {
        let line = reply.line();
        // A reason may be longer than an answer of ours.
        assert!(line.is_none_or(|line| CleanReply::read(&line).as_ref() == Ok(reply)));
    });
    let request = WireRequest::read(data).inspect_err(|why| refused(why)).inspect(|request| {
        let keys = request.targets.iter().map(|target| &target.key).chain(&request.adding);
        keys.for_each(crate::store::fuzzing::stays_inside);
        let line = request.line();
        assert!(line.is_none_or(|line| WireRequest::read(&line).as_ref() == Ok(request)));
    });
    assert!(reply.is_err() || request.is_err());
    reply.is_ok() || request.is_ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request() -> WireRequest {
        let key = |container: &str| Key {
            network: "podnet".parse().unwrap(),
            container: container.parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        let target =
            |container: &str, cause| WireTarget { key: key(container), generation: 7, cause };
        WireRequest {
            version: VERSION,
            verb: Verb::Del,
            boot_id: "5e5f5d4c".to_owned(),
            until_ms: 123_456,
            tell_accepted: true,
            database: (24, 77),
            adding: None,
            overlay: Some(WireOverlay {
                network: "podnet".parse().unwrap(),
                config: Config::default(),
            }),
            targets: vec![
                target("c1", Cause::Del),
                target("c2", Cause::Orphan("its network namespace is gone".to_owned())),
            ],
        }
    }

    fn changed(change: impl Fn(&mut Value)) -> Result<WireRequest, String> {
        let mut value = serde_json::to_value(request()).unwrap();
        change(&mut value);
        WireRequest::read(value.to_string().as_bytes())
    }

    #[test]
    fn what_is_sent_is_what_is_read() {
        let line = request().line().unwrap();
        assert!(line.starts_with(b"{\"version\":1,"), "the version comes first");
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert_eq!(WireRequest::read(&line), Ok(request()));
        let busy = CleanReply::not_done(CleanResult::Busy, "later");
        for reply in [CleanReply::accepted(), CleanReply::done(15, 0), busy] {
            assert_eq!(CleanReply::read(&reply.line().unwrap()), Ok(reply));
        }
    }

    #[test]
    fn what_is_not_known_is_refused() {
        assert_eq!(changed(|_| {}), Ok(request()));
        let refused = |change: &dyn Fn(&mut Value), says: &str| {
            let why = changed(change).unwrap_err();
            assert!(why.contains(says), "{why}");
        };
        refused(&|v| v["version"] = json!(2), "version 2, and only 1 is known");
        refused(&|v| v["version"] = json!("1"), "no version");
        refused(&|v| drop(v.as_object_mut().unwrap().remove("version")), "no version");
        refused(&|v| v["verb"] = json!("CHECK"), "CHECK");
        let unknown = "keys that are not known";
        refused(&|v| v["urgent"] = json!(true), unknown);
        refused(&|v| v["targets"][0]["key"]["uid"] = json!("u"), unknown);
        refused(&|v| v["targets"][1]["force"] = json!(false), unknown);
        // The scope of another release may be narrower than what is left of it here.
        refused(&|v| v["overlay"]["config"]["vlans"] = json!([3]), unknown);
        // And one that lacks a key is completed with a default, which nobody has configured.
        refused(
            &|v| drop(v["overlay"]["config"].as_object_mut().unwrap().remove("cookieMask")),
            unknown,
        );
        refused(&|v| v["targets"][0]["key"]["containerID"] = json!("../c1"), "containerID");
        // A call of an earlier release waits for one line.
        let earlier = changed(|v| drop(v.as_object_mut().unwrap().remove("tellAccepted")));
        assert!(!earlier.unwrap().tell_accepted);
        for garbage in [&b""[..], b"{", b"null", b"[]", b"{}", b"\xff\xfe", b"{\"version\":1}"] {
            assert!(WireRequest::read(garbage).is_err());
            assert!(CleanReply::read(garbage).is_err());
        }
        let later = br#"{"version":2,"result":"done","deleted":1,"withheld":0,"why":null}"#;
        assert!(CleanReply::read(later).unwrap_err().contains("version 2"));
        let more = br#"{"version":1,"result":"done","deleted":1,"withheld":0,"why":null,"x":1}"#;
        assert!(CleanReply::read(more).unwrap_err().contains(unknown));
    }

    #[test]
    fn a_request_that_is_too_long_is_not_sent() {
        let mut long = request();
        let target = long.targets[0].clone();
        long.targets = vec![target; 4_000];
        assert_eq!(long.line(), None);
    }
}
