//! The file that pauses a node: while it is there and has not ended, nothing on the node is deleted.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::file::{self, Content};
use super::{Error, Registry, layout, replace};
use crate::util::clock::{Stamp, Utc, boot_id};
use crate::util::json;

/// An operator's order to delete nothing: by whom, why, and until when.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pause {
    /// The boot that the times are of.
    pub boot_id: String,
    /// Since when; `None`: unknown.
    pub since: Option<Stamp>,
    /// When it ends by itself; `None`: when somebody ends it.
    pub until: Option<Stamp>,
    /// Who asked for it.
    pub by: Option<String>,
    /// What for.
    pub reason: Option<String>,
}

impl Pause {
    /// One that begins now and lasts so long; `None`: until somebody ends it.
    ///
    /// # Errors
    /// If the kernel's boot id cannot be read.
    pub fn new(
        lasts: Option<Duration>,
        by: Option<String>,
        reason: Option<String>,
    ) -> std::io::Result<Self> {
        let now = Stamp::now();
        let until = lasts.map(|lasts| {
            let ms = u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX);
            let (boot_ms, wall_ms) =
                (now.boot_ms.saturating_add(ms), now.wall_ms.saturating_add(ms));
            Stamp { boot_ms, wall_ms }
        });
        Ok(Self { boot_id: boot_id()?, since: Some(now), until, by, reason })
    }

    /// Whether it has ended by itself. The wall clock may be set: it counts only after a reboot,
    /// which ends the boot clock.
    fn is_over(&self, boot_id: &str, now: Stamp) -> bool {
        self.until.is_some_and(|until| {
            if self.boot_id == boot_id {
                until.boot_ms <= now.boot_ms
            } else {
                until.wall_ms <= now.wall_ms
            }
        })
    }

    /// How long until it ends by itself.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        self.until.map(|until| Stamp::now().until(until))
    }
}

/// As in "nothing is deleted until 2026-01-02T03:04:05.000Z, by root: OVS is upgraded".
impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nothing on this node is deleted")?;
        if let Some(until) = self.until {
            write!(f, " until {}", Utc::of(until.wall_ms))?;
        }
        if let Some(by) = &self.by {
            write!(f, ", says {by}")?;
        }
        if let Some(since) = self.since {
            write!(f, " since {}", Utc::of(since.wall_ms))?;
        }
        self.reason.as_ref().map_or(Ok(()), |reason| write!(f, ": {reason}"))
    }
}

impl Registry {
    /// The pause that there is now. One whose file cannot be read has no end.
    #[must_use]
    pub fn pause(&self) -> Option<Pause> {
        let path = self.root.join(layout::PAUSED);
        let pause = match file::read(&path) {
            Ok(Content::Absent) => return None,
            Ok(Content::Odd(_)) => Pause::default(),
            Ok(Content::Bytes(bytes, _)) => json::from_slice(&bytes).unwrap_or_default(),
            // The state directory is none.
            Err(failed) if failed.errno() == Some(nix::libc::ENOTDIR) => return None,
            Err(failed) => {
                log::warn!("{failed}; nothing is deleted, as if it were there");
                Pause::default()
            }
        };
        let over = boot_id().is_ok_and(|boot| pause.is_over(&boot, Stamp::now()));
        (!over).then_some(pause)
    }

    /// Whether nothing on this node is to be deleted. Yes, too, if that cannot be found out.
    #[must_use]
    pub fn paused(&self) -> bool {
        self.pause().is_some()
    }

    /// Begins a pause, in place of one that there is. False: the disk is full and takes an empty file
    /// only, so that the pause has no end and no reason.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn begin_pause(&self, pause: &Pause) -> Result<bool, Error> {
        let path = self.root.join(layout::PAUSED);
        let encode = |source| Error::Encode { path: path.clone(), source };
        let text = serde_json::to_vec(pause).map_err(encode)?;
        match replace(&path, &text) {
            Ok(()) => Ok(true),
            Err(failed) if failed.errno() == Some(nix::libc::ENOSPC) => {
                replace(&path, b"").map(|()| false)
            }
            Err(failed) => Err(failed),
        }
    }

    /// Ends the pause that there is.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn end_pause(&self) -> Result<(), Error> {
        file::remove(&self.root.join(layout::PAUSED))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_ends_by_the_boot_clock_and_after_a_reboot_by_the_wall_clock() {
        let at = |boot_ms, wall_ms| Stamp { boot_ms, wall_ms };
        let until = |until| Pause { boot_id: "b".to_owned(), until, ..Pause::default() };
        let pause = until(Some(at(1_000, 50_000)));
        assert!(!pause.is_over("b", at(999, 90_000)), "somebody set the wall clock");
        assert!(pause.is_over("b", at(1_000, 40_000)));
        assert!(!pause.is_over("other", at(5_000, 49_999)), "another boot");
        assert!(pause.is_over("other", at(5, 50_000)));
        assert!(!until(None).is_over("b", at(u64::MAX, u64::MAX)));
    }

    #[test]
    fn what_cannot_be_read_pauses_without_an_end() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(&dir.path().join("state")).unwrap();
        let path = registry.root.join(layout::PAUSED);
        assert_eq!(registry.pause(), None);
        for text in ["", "{}", "{\"until\":1}", "nonsense", &"x".repeat(100_000)] {
            replace(&path, text.as_bytes()).unwrap();
            assert_eq!(registry.pause(), Some(Pause::default()), "{text:.20}");
        }
        registry.end_pause().unwrap();
        assert_eq!(registry.pause(), None);
        std::fs::create_dir(&path).unwrap();
        assert!(registry.paused());
        std::fs::remove_dir(&path).unwrap();
        let over = Pause::new(Some(Duration::ZERO), None, None).unwrap();
        assert!(registry.begin_pause(&over).unwrap());
        assert_eq!(registry.pause(), None, "it is over");
        let by = (Some("root".to_owned()), Some("OVS is upgraded".to_owned()));
        let hour = Pause::new(Some(Duration::from_secs(3600)), by.0, by.1).unwrap();
        assert!(registry.begin_pause(&hour).unwrap());
        assert_eq!(registry.pause(), Some(hour.clone()));
        let left = hour.left().unwrap().as_secs();
        assert!((3590..=3600).contains(&left), "{left}");
        let text = hour.to_string();
        assert!(
            text.contains("Z, says root since ") && text.ends_with("Z: OVS is upgraded"),
            "{text}"
        );
    }
}
