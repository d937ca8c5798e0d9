//! The network namespaces that are on this node, and which of them are nobody's that is remembered.
//!
//! Not seen: one that is mounted only where this process's mounts are not, or only held open, and in
//! which no process is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::libc::{EACCES, EPERM};
use nix::sys::stat::makedev;

use crate::liveness::netns::{born, is_younger};
use crate::model::attachment::Attachment;
use crate::ovsdb::same_netns;
use crate::util::clock::Stamp;

/// A pod's ADD has ended after so long: the kubelet gives up on a sandbox after four minutes.
const STARTS_MS: u64 = 600_000;
/// Where namespaces are, whether or not a cached result names one.
const NAMESPACES: &str = "/run/netns";

/// Device and inode.
type File = (u64, u64);

/// A path at which somebody who is remembered has, or had, a namespace.
pub(super) struct Named {
    path: String,
    /// When it was written down, by the wall clock. Who is there since later is somebody else.
    written_ms: Option<u64>,
    file: Option<File>,
}

impl Named {
    pub(super) fn by_cached(path: &str, written_ms: u64) -> Self {
        Self { path: path.to_owned(), written_ms: Some(written_ms), file: None }
    }

    pub(super) fn by_record(record: &Attachment) -> Option<Self> {
        let netns = record.netns.as_ref()?;
        let file = Some((netns.device, netns.inode));
        let written_ms = Some(record.created.wall_ms);
        Some(Self { path: netns.path.clone(), written_ms, file })
    }

    /// When marks were written nobody knows: they name nobody who may be starting.
    pub(super) fn by_marks(path: String) -> Self {
        Self { path, written_ms: None, file: None }
    }

    fn names(&self, seen: &Seen, now_ms: u64) -> bool {
        let later = match self.written_ms {
            Some(wall_ms) => is_younger(seen.since_ms, Stamp { wall_ms, boot_ms: 0 }),
            None => seen.may_be_starting(now_ms),
        };
        !later && self.file.is_none_or(|file| file == seen.file) && same_netns(&self.path, &seen.at)
    }
}

/// A namespace, or what is in its place in a directory of them.
struct Seen {
    at: String,
    file: File,
    /// By the wall clock: a mounted one's file is as old as its mount, others are as old as a process.
    since_ms: u64,
}

impl Seen {
    /// None: it is gone by now.
    fn entry(path: &Path, now: Stamp) -> Option<Result<Self, String>> {
        let at = path.display().to_string();
        let meta = match fs::symlink_metadata(path) {
            Ok(meta) => meta,
            Err(e) if e.kind() == ErrorKind::NotFound => return None,
            Err(e) => return Some(Err(format!("{at}: {e}"))),
        };
        let target = fs::read_link(path).ok().and_then(|target| since_ms(&target, now));
        let since_ms = changed_ms(&meta).max(target.unwrap_or(0));
        // A link that leads nowhere is a file by itself.
        let file = fs::metadata(path).unwrap_or(meta);
        Some(Ok(Self { at, file: (file.dev(), file.ino()), since_ms }))
    }

    fn may_be_starting(&self, now_ms: u64) -> bool {
        self.since_ms.saturating_add(STARTS_MS) > now_ms
    }
}

fn changed_ms(meta: &fs::Metadata) -> u64 {
    let ms = meta.ctime().saturating_mul(1000).saturating_add(meta.ctime_nsec() / 1_000_000);
    u64::try_from(ms).unwrap_or(0)
}

/// A process's is as old as the process: its file comes to be when somebody looks.
fn since_ms(path: &Path, now: Stamp) -> Option<u64> {
    match path.to_str().filter(|path| path.starts_with("/proc/")) {
        Some(process) => born(process, now).map(|stamp| stamp.wall_ms),
        None => fs::metadata(path).ok().map(|meta| changed_ms(&meta)),
    }
}

/// Why the pod of a namespace may be nobody's that is remembered. `yes`: a person says that none is
/// a pod's, but for those that may be starting.
pub(super) fn unremembered(remembered: &[Named], yes: bool) -> Option<String> {
    let now = Stamp::now();
    let entries = entries(remembered, now);
    let named = remembered.iter().filter(|named| named.path.starts_with("/proc/"));
    let processes = named.filter_map(|named| {
        let path = Path::new(&named.path);
        let since_ms = since_ms(path, now)?;
        let meta = fs::metadata(path).ok()?;
        Some(Seen { at: named.path.clone(), file: (meta.dev(), meta.ino()), since_ms })
    });
    let processes: Vec<Seen> = processes.collect();
    let mut known = of_node();
    known.extend(known_of(entries.iter().flatten().chain(&processes), remembered, now.wall_ms));
    let others = entries.into_iter().chain(mounts(now)).chain(processes_but(&known, now));
    first_of(others, &known, now.wall_ms, yes)
}

fn known_of<'a>(
    seen: impl Iterator<Item = &'a Seen>,
    remembered: &[Named],
    now_ms: u64,
) -> Vec<File> {
    let known = seen.filter(|one| remembered.iter().any(|named| named.names(one, now_ms)));
    known.map(|one| one.file).collect()
}

fn first_of(
    all: impl Iterator<Item = Result<Seen, String>>,
    known: &BTreeSet<File>,
    now_ms: u64,
    yes: bool,
) -> Option<String> {
    let mut all = all.filter(|one| one.as_ref().map_or(true, |seen| !known.contains(&seen.file)));
    all.find_map(|one| match one {
        Err(why) => Some(why),
        Ok(seen) if seen.may_be_starting(now_ms) => {
            Some(format!("a pod may be starting: {} is younger than 10 minutes", seen.at))
        }
        Ok(_) if yes => None,
        Ok(seen) => Some(format!("nobody knows whose pod is in {}: `--yes` if none is", seen.at)),
    })
}

/// The node's own namespace, which is no pod's: that of the first process, and ours.
fn of_node() -> BTreeSet<File> {
    let files = ["/proc/self/ns/net", "/proc/1/ns/net"].into_iter().map(fs::metadata);
    files.flatten().map(|meta| (meta.dev(), meta.ino())).collect()
}

/// What is in `/run/netns` and in the directories that are named.
fn entries(remembered: &[Named], now: Stamp) -> Vec<Result<Seen, String>> {
    let paths = remembered.iter().map(|named| named.path.as_str());
    let parents = paths.filter(|path| !path.starts_with("/proc/"));
    let mut directories: Vec<&Path> = vec![Path::new(NAMESPACES)];
    directories.extend(parents.filter_map(|path| Path::new(path).parent()));
    directories.sort_unstable();
    directories.dedup();
    let paths = directories.into_iter().flat_map(paths_in);
    paths.filter_map(|path| Seen::entry(&path, now)).collect()
}

/// Those that are mounted anywhere.
fn mounts(now: Stamp) -> Vec<Result<Seen, String>> {
    match fs::read_to_string("/proc/self/mountinfo") {
        Ok(text) => text.lines().filter_map(|line| mounted(line, now)).map(Ok).collect(),
        Err(e) => vec![Err(format!("/proc/self/mountinfo: {e}"))],
    }
}

/// Of a line of mountinfo (proc(5)): the third field is the device, the fourth the namespace, and
/// the fifth where it is mounted.
fn mounted(line: &str, now: Stamp) -> Option<Seen> {
    let mut fields = line.split(' ').skip(2);
    let (major, minor) = fields.next()?.split_once(':')?;
    let inode = fields.next()?.strip_prefix("net:[")?.strip_suffix(']')?;
    let at = fields.next()?.to_owned();
    let file = (makedev(major.parse().ok()?, minor.parse().ok()?), inode.parse().ok()?);
    // Another mount may hide it: then nobody knows how old it is.
    let entry = Seen::entry(Path::new(&at), now).and_then(Result::ok);
    let since_ms = entry.filter(|seen| seen.file == file).map_or(0, |seen| seen.since_ms);
    Some(Seen { at, file, since_ms })
}

/// Those that processes are in and that are not known, each with the oldest of its processes.
fn processes_but(known: &BTreeSet<File>, now: Stamp) -> Vec<Result<Seen, String>> {
    let mut oldest: BTreeMap<File, Seen> = BTreeMap::new();
    let mut hidden = Vec::new();
    for process in paths_in(Path::new("/proc")) {
        let id = process.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
        let path = process.join("ns/net");
        let meta = match id.map(|_| fs::metadata(&path)) {
            Some(Ok(meta)) => meta,
            Some(Err(e)) if id != Some(1) && is_denied(&e) => {
                hidden.push(Err(format!("{}: {e}", path.display())));
                continue;
            }
            // It has ended, or is none.
            _ => continue,
        };
        let file = (meta.dev(), meta.ino());
        let Some(since_ms) = since_ms(&path, now).filter(|_| !known.contains(&file)) else {
            continue;
        };
        if oldest.get(&file).is_none_or(|other| since_ms < other.since_ms) {
            let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
            let at = format!("{} ({})", path.display(), name.trim_end().escape_debug());
            oldest.insert(file, Seen { at, file, since_ms });
        }
    }
    hidden.into_iter().chain(oldest.into_values().map(Ok)).collect()
}

fn is_denied(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(EACCES | EPERM))
}

pub(super) fn paths_in(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(path: &Path) -> Seen {
        Seen::entry(path, Stamp::now()).unwrap().unwrap()
    }

    fn stopped(seen: Seen, remembered: &[Named], now_ms: u64, yes: bool) -> Option<String> {
        let known = known_of([&seen].into_iter(), remembered, now_ms).into_iter().collect();
        first_of([Ok(seen)].into_iter(), &known, now_ms, yes)
    }

    #[test]
    fn a_namespace_that_nobody_remembers_stops_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ns");
        crate::store::replace(&path, b"").unwrap();
        assert!(Seen::entry(&dir.path().join("gone"), Stamp::now()).is_none());
        let now = Stamp::now().wall_ms;
        let later = now + STARTS_MS + 2_000;
        for yes in [false, true] {
            let why = stopped(seen(&path), &[], now, yes).unwrap();
            assert!(why.contains("may be starting"), "{why}");
        }
        let why = stopped(seen(&path), &[], later, false).unwrap();
        assert!(why.contains("nobody knows"), "{why}");
        assert_eq!(stopped(seen(&path), &[], later, true), None);
    }

    #[test]
    fn a_namespace_is_not_named_by_what_is_older() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ns");
        crate::store::replace(&path, b"").unwrap();
        let text = path.display().to_string();
        let one = seen(&path);
        let (born, file) = (one.since_ms, one.file);
        let stops = |named: Named, now: u64| stopped(seen(&path), &[named], now, false).is_some();
        assert!(!stops(Named::by_cached(&text, born + 5), born));
        assert!(stops(Named::by_cached(&text, born - 1_000), born));
        assert!(stops(Named::by_cached(&text, born - 1_000), born + STARTS_MS));
        let record = |file| Named { file: Some(file), ..Named::by_cached(&text, born + 5) };
        assert!(!stops(record(file), born));
        assert!(stops(record((file.0, file.1 + 1)), born), "another was there");
        assert!(stops(Named::by_marks(text.clone()), born), "whenever they were written");
        assert!(!stops(Named::by_marks(text.replace('/', "")), born + STARTS_MS));
        assert!(stops(Named::by_cached("/run/netns/other", born + 5), born));
    }

    #[test]
    fn a_link_is_as_young_as_what_it_leads_to() {
        let dir = tempfile::tempdir().unwrap();
        let (link, target) = (dir.path().join("link"), dir.path().join("ns"));
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let leads_nowhere = seen(&link).file;
        std::thread::sleep(std::time::Duration::from_millis(30));
        crate::store::replace(&target, b"").unwrap();
        assert_eq!(
            (seen(&link).file, seen(&link).since_ms),
            (seen(&target).file, seen(&target).since_ms)
        );
        assert_ne!(leads_nowhere, seen(&link).file);
    }

    #[test]
    fn mounts_of_namespaces_are_read() {
        let at = |line: &str| mounted(line, Stamp::now()).map(|s| (s.at, s.file, s.since_ms));
        let line =
            "354 42 0:4 net:[4026573670] /nonexistent/docker/netns/x rw shared:582 - nsfs nsfs rw";
        let expected =
            ("/nonexistent/docker/netns/x".to_owned(), (makedev(0, 4), 4_026_573_670), 0);
        assert_eq!(at(line), Some(expected));
        for other in [
            "355 42 0:4 mnt:[4026573670] /run/mnt rw shared:582 - nsfs nsfs rw",
            "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw",
            "",
            "1 2 x net:[1] /a",
        ] {
            assert_eq!(at(other), None, "{other}");
        }
    }
}
