//! What `deliver` did, for the daemon to tell: numbers for its metrics, and the last deliveries for
//! Kubernetes Events. Only the holder of the deliveries' lock writes it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::deliveries::Deliveries;
use super::file::{self, Content};
use super::{Error, layout};
use crate::model::attachment::Pod;
use crate::util::json;

/// So many deliveries are remembered.
const MOST_DELIVERED: usize = 256;
/// Calls of more plugins than these are counted under [`OTHERS`].
const MOST_PLUGINS: usize = 64;
const OTHERS: &str = "others";
/// What dead pods leave beside their entries.
pub const LEFTOVERS: [&str; 3] = ["cached-results", "leases", "port-rows"];

/// How a plugin's calls ended, since the state directory was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Answers {
    /// Well.
    pub answered: u64,
    /// With an error, not in time, or there is no such plugin.
    pub failed: u64,
}

/// One attachment whose DEL was delivered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeliveredDel {
    /// When, by the wall clock, in milliseconds.
    pub wall_ms: u64,
    /// Whose.
    pub pod: Pod,
    /// The plugins that answered.
    pub plugins: Vec<String>,
}

/// All that is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeliveryLog {
    /// By verb (`DEL`, `GC`), then by plugin.
    pub calls: BTreeMap<String, BTreeMap<String, Answers>>,
    /// What dead pods still had when the last run ended, by kind.
    pub leftovers: BTreeMap<String, u64>,
    /// When the last run ended, by the wall clock, in milliseconds.
    pub ended_ms: u64,
    /// The last deliveries, the newest last.
    pub delivered: Vec<DeliveredDel>,
}

impl DeliveryLog {
    /// Counts one call.
    pub fn count(&mut self, verb: &str, plugin: &str, answered: bool) {
        let plugins = self.calls.entry(verb.to_owned()).or_default();
        let is_one_more = plugins.len() >= MOST_PLUGINS && !plugins.contains_key(plugin);
        let plugin = if is_one_more { OTHERS } else { plugin };
        let answers = plugins.entry(plugin.to_owned()).or_default();
        let count = if answered { &mut answers.answered } else { &mut answers.failed };
        *count = count.saturating_add(1);
    }

    /// Remembers a delivery.
    pub fn add(&mut self, one: DeliveredDel) {
        self.delivered.push(one);
        let old = self.delivered.len().saturating_sub(MOST_DELIVERED);
        self.delivered.drain(..old);
    }
}

impl Deliveries {
    /// What is told; nothing if `deliver` never ran. A file that is not what we write is nothing.
    #[must_use]
    pub fn log(&self) -> DeliveryLog {
        match file::read(&self.0.join(layout::DELIVERED)) {
            Ok(Content::Bytes(bytes, _)) => json::from_slice(&bytes).unwrap_or_default(),
            _ => DeliveryLog::default(),
        }
    }

    /// Changes it. Only for the holder of [`Deliveries::lock`].
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn tell(&self, change: impl FnOnce(&mut DeliveryLog)) -> Result<(), Error> {
        let path = self.0.join(layout::DELIVERED);
        let mut log = self.log();
        change(&mut log);
        let bytes = serde_json::to_vec(&log)
            .map_err(|e| Error::io("write", &path)(std::io::Error::other(e)))?;
        file::replace(&path, &bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Registry;

    #[test]
    fn what_was_delivered_is_added_up_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let notes = Registry::open(&dir.path().join("state")).unwrap().deliveries();
        assert_eq!(notes.log(), DeliveryLog::default());
        let _lock = notes.lock().unwrap();
        notes.tell(|log| log.count("DEL", "tuning", true)).unwrap();
        notes.tell(|log| log.count("DEL", "tuning", true)).unwrap();
        notes.tell(|log| log.count("DEL", "tuning", false)).unwrap();
        assert_eq!(notes.log().calls["DEL"]["tuning"], Answers { answered: 2, failed: 1 });
        let pod = Pod { namespace: "ns".into(), name: "web".into(), uid: "uid".into() };
        notes
            .tell(|log| {
                for n in 0..300 {
                    log.count("GC", &format!("p{n}"), true);
                    log.add(DeliveredDel { wall_ms: n, pod: pod.clone(), plugins: Vec::new() });
                }
            })
            .unwrap();
        let log = notes.log();
        assert_eq!((log.calls["GC"].len(), log.calls["GC"][OTHERS].answered), (65, 236));
        assert_eq!((log.delivered.len(), log.delivered[0].wall_ms), (256, 44));
        assert!(notes.notes().is_empty(), "it is no note");
        for bad in ["", "{", "[]", "{\"calls\": 1}"] {
            file::replace(&notes.0.join(layout::DELIVERED), bad.as_bytes()).unwrap();
            assert_eq!(notes.log(), DeliveryLog::default(), "{bad}");
        }
    }
}
