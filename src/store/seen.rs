//! When the living were seen alive: one file for all of them, for each sweep says it anew.
//!
//! A record says it, too, from its own writing. The later word counts. A file that is lost or torn
//! costs that: the dead seem to have been dead for longer, and an entry that may be somebody else's
//! is kept.

use std::fmt::Write;
use std::path::Path;

use log::debug;

use super::error::Error;
use super::{Lock, file, layout};
use crate::model::attachment::Attachment;
use crate::model::records::Records;
use crate::util::clock::Stamp;
use crate::util::regular_file;

/// The first line.
const HEAD: &str = "ovs-flow-gc seen 1\n";

/// When lives were seen alive. In the file: milliseconds since boot and since 1970, generation, network,
/// container and interface, a life a line, in the order of records.
#[derive(Debug, Default)]
pub(super) struct Seen {
    lives: Vec<(u64, String, Stamp)>,
    /// The life after the one that was asked for: the next record's.
    next: usize,
}

impl Seen {
    /// What is written down; nothing, if that cannot be read.
    pub(super) fn read(root: &Path) -> Self {
        Self::read_if(root, &|_| true)
    }

    /// What is written down of a record's life, where there are many others.
    pub(super) fn read_of(root: &Path, record: &Attachment) -> Self {
        let its = format!(" {} {}", record.generation, key(record));
        Self::read_if(root, &|line| line.ends_with(&its))
    }

    fn read_if(root: &Path, wanted: &dyn Fn(&str) -> bool) -> Self {
        let path = root.join(layout::SEEN);
        let text = match regular_file::read(&path) {
            Ok(bytes) => String::from_utf8(bytes).unwrap_or_default(),
            Err(failed) if failed.kind() == std::io::ErrorKind::NotFound => return Self::default(),
            Err(failed) => {
                debug!("{}: {failed}", path.display());
                return Self::default();
            }
        };
        Self::parse(&text, wanted).unwrap_or_else(|| {
            debug!("{} is not what a sweep writes: it is written anew", path.display());
            Self::default()
        })
    }

    fn parse(text: &str, wanted: &dyn Fn(&str) -> bool) -> Option<Self> {
        let mut all = Self::default();
        for line in text.strip_prefix(HEAD)?.lines().filter(|line| wanted(line)) {
            let mut words = line.splitn(4, ' ');
            let (boot_ms, wall_ms) = (number(words.next())?, number(words.next())?);
            let (generation, key) = (number(words.next())?, words.next()?.to_owned());
            all.lives.push((generation, key, Stamp { boot_ms, wall_ms }));
        }
        Some(all)
    }

    fn of(&mut self, record: &Attachment) -> Option<Stamp> {
        let is_its = |index: &usize| {
            let life = self.lives.get(*index);
            life.is_some_and(|(of, name, _)| *of == record.generation && *name == key(record))
        };
        let found = (self.next..self.lives.len()).chain(0..self.next).find(is_its)?;
        self.next = found.saturating_add(1);
        self.lives.get(found).map(|(.., seen)| *seen)
    }

    /// When a record's life was seen alive, if that is later than the record says.
    pub(super) fn later(&mut self, record: &Attachment) -> Option<Stamp> {
        self.of(record).filter(|seen| *seen > record.seen_alive)
    }

    /// Adds it to the records that say less.
    pub(super) fn add_to(mut self, records: &mut Records) {
        for index in 0..records.len() {
            let Some(record) = records.get(index) else { continue };
            if let Some(seen_alive) = self.later(record) {
                records.replace(index, Attachment { seen_alive, ..record.clone() });
            }
        }
    }
}

fn number(word: Option<&str>) -> Option<u64> {
    word?.parse().ok()
}

fn key(record: &Attachment) -> String {
    let key = &record.key;
    format!("{} {} {}", key.network, key.container, key.ifname)
}

impl Lock<'_> {
    /// Writes down when these were seen alive, in place of what was written before.
    ///
    /// # Errors
    /// [`Error::Io`]; what was written before is there.
    pub fn put_seen(&self, records: &Records) -> Result<(), Error> {
        let mut before = Seen::read(&self.root);
        let mut text = HEAD.to_owned();
        for record in records {
            let seen = before.of(record).map_or(record.seen_alive, |at| at.max(record.seen_alive));
            let (Stamp { boot_ms, wall_ms }, generation) = (seen, record.generation);
            let _ = writeln!(text, "{boot_ms} {wall_ms} {generation} {}", key(record));
        }
        file::replace(&self.root.join(layout::SEEN), text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_torn_says_nothing() {
        let line = "5 6 7 net c1 eth 0\n";
        let text = format!("{HEAD}{line}");
        let lives = Seen::parse(&text, &|_| true).unwrap().lives;
        let seen = Stamp { boot_ms: 5, wall_ms: 6 };
        assert_eq!(lives, [(7, "net c1 eth 0".to_owned(), seen)]);
        assert!(Seen::parse(HEAD, &|_| true).unwrap().lives.is_empty());
        assert!(Seen::parse(&text, &|line| line.ends_with("c1 eth1")).unwrap().lives.is_empty());
        for torn in ["", "ovs-flow-gc seen 2\n", &text[..text.len() - 16], line] {
            assert!(Seen::parse(torn, &|_| true).is_none(), "{torn:?}");
        }
    }
}
