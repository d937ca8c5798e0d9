//! What calls of the plugin did, in numbers that the daemon exports.
//!
//! One small file that is written in its place: a full disk takes nothing from what is there, and
//! no reader of records is woken. No call fails for it, or waits: what cannot be counted at once is
//! not counted.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use log::{debug, warn};

use super::{Registry, file, layout};

/// The verbs that are counted.
pub const VERBS: [&str; 3] = ["ADD", "DEL", "GC"];
/// The first line.
const HEAD: &str = "ovs-flow-gc calls 1\n";
/// Nobody writes more.
const MOST: u64 = 1_024;
/// Another call holds the file for microseconds.
const TRIES: u32 = 5;

/// Of each of [`VERBS`].
pub type Calls = [CallCounts; VERBS.len()];

/// What the calls of a verb did, since the state directory was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallCounts {
    /// They did all that was to do, or the daemon did.
    pub done: u64,
    /// They succeeded, and left something to the next sweep.
    pub unfinished: u64,
    /// They failed.
    pub failed: u64,
    /// Entries that they deleted themselves.
    pub deleted: u64,
    /// How long they took together.
    pub microseconds: u64,
}

impl CallCounts {
    fn numbers(&mut self) -> [&mut u64; 5] {
        let Self { done, unfinished, failed, deleted, microseconds } = self;
        [done, unfinished, failed, deleted, microseconds]
    }
}

impl Registry {
    /// Adds what a call did.
    pub fn count_call(&self, verb: &str, mut call: CallCounts) {
        let path = self.root.join(layout::CALLS);
        let counted = file::open_lock(&path).and_then(|mut file| {
            lock(&file)?;
            let mut calls = read(&mut file).unwrap_or_else(|why| {
                warn!("{} cannot be read ({why}): counting begins anew", path.display());
                Calls::default()
            });
            for (counts, _) in calls.iter_mut().zip(VERBS).filter(|(_, name)| *name == verb) {
                for (sum, more) in counts.numbers().into_iter().zip(call.numbers()) {
                    *sum = sum.saturating_add(*more);
                }
            }
            let text = text(calls);
            file.write_all_at(text.as_bytes(), 0)?;
            match file.metadata()?.len() == text.len() as u64 {
                true => Ok(()),
                false => file.set_len(text.len() as u64),
            }
        });
        if let Err(failed) = counted {
            match self.why_uncounted() {
                Some(why) => warn!("{why}"),
                None => debug!("{}: a call is not counted: {failed}", path.display()),
            }
        }
    }

    /// Why no call is counted until somebody mends it.
    #[must_use]
    pub fn why_uncounted(&self) -> Option<String> {
        let path = self.root.join(layout::CALLS);
        let is_other = std::fs::symlink_metadata(&path).is_ok_and(|meta| !meta.is_file());
        is_other.then(|| format!("{} is no file: calls are not counted", path.display()))
    }

    /// What calls did; nothing if none was counted.
    ///
    /// # Errors
    /// If the file cannot be read, or is nothing that we have written.
    #[cfg(feature = "daemon")]
    pub fn calls(&self) -> io::Result<Calls> {
        let path = self.root.join(layout::CALLS);
        match std::fs::symlink_metadata(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Calls::default()),
            Err(e) => return Err(e),
            Ok(_) => {}
        }
        let mut file = file::open_lock(&path)?;
        lock(&file)?;
        read(&mut file)
    }
}

fn lock(file: &File) -> io::Result<()> {
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    for _ in 0..TRIES {
        if file.try_lock().is_ok() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Err(io::ErrorKind::WouldBlock.into())
}

fn read(file: &mut File) -> io::Result<Calls> {
    let mut text = String::new();
    file.take(MOST).read_to_string(&mut text)?;
    if text.is_empty() {
        return Ok(Calls::default());
    }
    parse(&text).ok_or_else(|| io::Error::other("it is not what calls write"))
}

fn parse(text: &str) -> Option<Calls> {
    let mut words = text.strip_prefix(HEAD)?.split_ascii_whitespace();
    let mut calls = Calls::default();
    for (counts, verb) in calls.iter_mut().zip(VERBS) {
        if words.next() != Some(verb) {
            return None;
        }
        for number in counts.numbers() {
            *number = words.next()?.parse().ok()?;
        }
    }
    words.next().is_none().then_some(calls)
}

/// Always of one length, so that what is written covers what was there.
fn text(calls: Calls) -> String {
    let mut text = HEAD.to_owned();
    for (mut counts, verb) in calls.into_iter().zip(VERBS) {
        text.push_str(verb);
        for number in counts.numbers() {
            text.push_str(&format!(" {number:020}"));
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn one() -> CallCounts {
        CallCounts { done: 1, deleted: 15, microseconds: 4_000, ..CallCounts::default() }
    }

    #[test]
    fn what_calls_did_is_added_up() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(&dir.path().join("state")).unwrap();
        let path = dir.path().join("state").join(layout::CALLS);
        for _ in 0..3 {
            registry.count_call("DEL", one());
        }
        registry.count_call("GC", CallCounts { failed: 1, ..CallCounts::default() });
        registry.count_call("CHECK", one());
        let written = fs::read_to_string(&path).unwrap();
        let calls = parse(&written).unwrap();
        assert_eq!(calls[0], CallCounts::default());
        let three = CallCounts { done: 3, deleted: 45, microseconds: 12_000, ..calls[1] };
        assert_eq!((calls[1], calls[2].failed), (three, 1));
        // Torn, or somebody else's: counting begins anew.
        for bad in [
            &written[..40],
            "ovs-flow-gc calls 2\n",
            "{}",
            &written.replace("DEL", "ADD"),
            &format!("{written}1"),
            &written.replace("00000000000000000045", "-0000000000000000045"),
            &"9".repeat(4_000),
        ] {
            assert_eq!(parse(bad), None, "{bad}");
            file::replace(&path, bad.as_bytes()).unwrap();
            registry.count_call("DEL", one());
            let calls = parse(&fs::read_to_string(&path).unwrap()).unwrap();
            assert_eq!(calls[1], one(), "{bad}");
        }
        let most = CallCounts { done: u64::MAX, ..one() };
        file::replace(&path, text([most; 3]).as_bytes()).unwrap();
        registry.count_call("DEL", one());
        assert_eq!(parse(&fs::read_to_string(&path).unwrap()).unwrap()[1].done, u64::MAX);
    }

    #[test]
    fn no_call_waits_for_the_file_or_follows_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(&dir.path().join("state")).unwrap();
        let path = dir.path().join("state").join(layout::CALLS);
        registry.count_call("DEL", one());
        let held = File::open(&path).unwrap();
        held.lock().unwrap();
        registry.count_call("DEL", one());
        assert_eq!(registry.why_uncounted(), None, "the next call is counted");
        assert_eq!(parse(&fs::read_to_string(&path).unwrap()).unwrap()[1], one());
        drop(held);
        fs::remove_file(&path).unwrap();
        let other = dir.path().join("other");
        symlink(&other, &path).unwrap();
        registry.count_call("DEL", one());
        assert!(
            registry.why_uncounted().unwrap().ends_with("_calls is no file: calls are not counted")
        );
        assert!(!other.exists());
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        registry.count_call("DEL", one());
    }
}
