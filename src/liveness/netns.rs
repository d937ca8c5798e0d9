//! Liveness by the pod's network namespace.
//!
//! Guarantee: dead is said only where the kernel shows that the namespace which ADD recorded
//! is no longer behind the path, seen from where ADD saw it. Everything else is "don't
//! know": an unmounted directory, a container without mount propagation (plain files), a
//! /proc of another PID namespace, a missing permission.
//!
//! Assumption: whoever removes the file of a namespace from the runtime's directory ends the
//! sandbox. Caveat: the kernel re-uses namespace numbers, so a re-created namespace with the
//! same number is not called dead, only unknown.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::signal::kill;
use nix::sys::stat::{Mode, fstatat};
use nix::sys::statfs::{FsType, NSFS_MAGIC, PROC_SUPER_MAGIC, fstatfs};
use nix::unistd::{Pid, SysconfVar, sysconf};

use super::{Liveness, LivenessReason};
use crate::model::attachment::{Attachment, Netns};
use crate::model::records::Records;
use crate::util::clock::Stamp;

/// File times are taken from a clock that ticks (at most 10 ms apart at HZ=100).
const TICK_MS: u64 = 10;

/// Why a namespace cannot be recorded.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The runtime named none.
    #[error("CNI_NETNS is empty")]
    Empty,
    /// It is not a namespace.
    #[error("network namespace {path:?} is not a namespace file")]
    NotANamespace {
        /// `CNI_NETNS`.
        path: String,
    },
    /// It cannot be looked at.
    #[error("cannot look at network namespace {path:?}: {source}")]
    Io {
        /// `CNI_NETNS`.
        path: String,
        /// Why.
        source: io::Error,
    },
}

/// Notes what identifies the namespace at `path` (`CNI_NETNS`), as ADD sees it.
///
/// # Errors
/// [`CaptureError`]; a record without a namespace is never judged by this source.
pub fn capture(path: &str) -> Result<Netns, CaptureError> {
    if path.is_empty() {
        return Err(CaptureError::Empty);
    }
    let failed = |source: Errno| CaptureError::Io { path: path.to_owned(), source: source.into() };
    let parent = Seen::of(open_path(parent_of(path), OFlag::O_DIRECTORY).map_err(failed)?)
        .map_err(|source| CaptureError::Io { path: path.to_owned(), source })?;
    let namespace = Seen::of(open_path(Path::new(path), OFlag::empty()).map_err(failed)?)
        .map_err(|source| CaptureError::Io { path: path.to_owned(), source })?;
    if namespace.kind != NSFS_MAGIC {
        return Err(CaptureError::NotANamespace { path: path.to_owned() });
    }
    let in_proc = parent.kind == PROC_SUPER_MAGIC;
    Ok(Netns {
        path: path.to_owned(),
        device: namespace.device,
        inode: namespace.inode,
        parent_device: parent.device,
        parent_inode: parent.inode,
        // 0 is no namespace's number: where ours is not known, the path is never judged.
        pid_namespace: in_proc.then(|| own_pid_namespace().unwrap_or(0)),
    })
}

/// Whether the pod of a record is alive, going by its namespace. `boot_id` is this boot's
/// ([`clock::boot_id`](crate::util::clock::boot_id)).
#[must_use]
pub fn judge(record: &Attachment, boot_id: &str) -> Liveness {
    if record.boot_id != boot_id && !record.boot_id.is_empty() && !boot_id.is_empty() {
        return Liveness::Dead(LivenessReason::OtherBoot);
    }
    let netns = record.netns.as_ref().filter(|netns| !netns.path.is_empty());
    let judged = netns.ok_or(LivenessReason::NoNetns).and_then(|netns| match netns.pid_namespace {
        Some(recorded) => in_proc(netns, recorded),
        None => pinned(netns, record.created),
    });
    judged.unwrap_or_else(Liveness::Unknown)
}

/// [`judge`] of many: a namespace that is as ADD saw it costs one stat.
#[must_use]
pub fn judge_all(records: &Records, boot_id: &str) -> Vec<Liveness> {
    let mut last: Option<(&Path, Option<Directory>)> = None;
    let mut lives = Vec::with_capacity(records.len());
    for record in records {
        let netns = record.netns.as_ref().filter(|n| n.pid_namespace.is_none());
        let netns = netns.filter(|n| !n.path.is_empty() && record.boot_id == boot_id);
        let unchanged = netns.is_some_and(|netns| {
            let path = parent_of(&netns.path);
            if last.as_ref().is_none_or(|(before, _)| *before != path) {
                last = Some((path, Directory::open(path)));
            }
            let directory = last.as_ref().and_then(|(_, directory)| directory.as_ref());
            directory.is_some_and(|directory| directory.shows(netns, record.created))
        });
        lives.push(if unchanged { Liveness::Alive } else { judge(record, boot_id) });
    }
    lives
}

/// How long nothing has changed in the directories that these records' namespaces were in.
/// `None`: there is no such directory.
#[must_use]
pub fn quiet_for<'a>(records: impl Iterator<Item = &'a Attachment>) -> Option<Duration> {
    let pinned = records.filter_map(|record| record.netns.as_ref());
    let pinned = pinned.filter(|netns| netns.pid_namespace.is_none() && !netns.path.is_empty());
    let directories: BTreeSet<&Path> = pinned.map(|netns| parent_of(&netns.path)).collect();
    let changed = directories.into_iter().filter_map(|path| path.metadata().ok()?.modified().ok());
    // The wall clock may have been set back since: then it counts as changed now.
    changed.map(|at| at.elapsed().unwrap_or_default()).min()
}

/// A directory of namespaces.
struct Directory {
    file: File,
    device: u64,
    inode: u64,
}

impl Directory {
    fn open(path: &Path) -> Option<Self> {
        let file = File::from(open_path(path, OFlag::O_DIRECTORY).ok()?);
        let meta = file.metadata().ok()?;
        Some(Self { file, device: meta.dev(), inode: meta.ino() })
    }

    /// Whether it is the one that ADD saw.
    fn is_of(&self, netns: &Netns) -> bool {
        (self.device, self.inode) == (netns.parent_device, netns.parent_inode)
    }

    /// Whether it is the one that ADD saw and the namespace in it is. (A namespace file is
    /// known by its device: the kernel has one for all of them and for nothing else.)
    fn shows(&self, netns: &Netns, recorded: Stamp) -> bool {
        let Some(name) = Path::new(&netns.path).file_name() else { return false };
        if !self.is_of(netns) {
            return false;
        }
        let Ok(seen) = fstatat(&self.file, name, AtFlags::empty()) else { return false };
        let changed = seen.st_ctime.saturating_mul(1000);
        let changed = changed.saturating_add(seen.st_ctime_nsec / 1_000_000);
        (seen.st_dev, seen.st_ino) == (netns.device, netns.inode)
            && !is_younger(u64::try_from(changed).unwrap_or(u64::MAX), recorded)
    }
}

/// The directories of namespaces that are seen here as ADD saw them: those in which a living
/// attachment's namespace is. What is not in them is gone, also where nobody recorded it.
#[derive(Default)]
pub struct Directories {
    known: Vec<(String, Directory)>,
    /// Those that are not seen here as an ADD of this boot saw them.
    others: Vec<String>,
}

impl Directories {
    /// Those of these records.
    #[must_use]
    pub fn of(records: &Records, boot_id: &str) -> Self {
        let (mut known, mut others): (Vec<(String, Directory)>, _) = (Vec::new(), Vec::new());
        for record in records.iter().filter(|record| record.boot_id == boot_id) {
            let Some(netns) = record.netns.as_ref().filter(|n| n.pid_namespace.is_none()) else {
                continue;
            };
            let Some(path) = parent_of(&netns.path).to_str().map(run_path) else { continue };
            if known.iter().any(|(other, _)| *other == path) {
                continue;
            }
            let directory = Directory::open(parent_of(&netns.path));
            if !directory.as_ref().is_some_and(|directory| directory.is_of(netns)) {
                others.push(path);
                continue;
            }
            let shown = directory.filter(|directory| directory.shows(netns, record.created));
            known.extend(shown.map(|directory| (path, directory)));
        }
        Self { known, others }
    }

    /// Whether the directory of a path is another one than an ADD of this boot saw, and no living
    /// attachment's namespace is in it.
    #[must_use]
    pub fn is_another(&self, path: &str) -> bool {
        let directory = parent_of(path).to_str().map(run_path);
        directory.is_some_and(|directory| {
            self.others.contains(&directory)
                && !self.known.iter().any(|(known, _)| *known == directory)
        })
    }

    /// Whether the namespace at a path, as a CNI marks its port with it, is gone for certain.
    #[must_use]
    pub fn lack(&self, path: &str) -> bool {
        let path = run_path(path);
        self.known.iter().any(|(directory, opened)| {
            let name = if path.contains('/') {
                path.strip_prefix(directory).and_then(|name| name.strip_prefix('/'))
            } else {
                // k-vswitch writes paths without slashes.
                let bare = path.strip_prefix("var").unwrap_or(&path);
                bare.strip_prefix(&directory.replace('/', ""))
            };
            let name = name.filter(|name| !name.is_empty() && !name.contains('/') && *name != "..");
            let seen = |name| fstatat(&opened.file, name, AtFlags::AT_SYMLINK_NOFOLLOW);
            name.is_some_and(|name| matches!(seen(name), Err(Errno::ENOENT)))
        })
    }
}

/// `/var/run` is `/run`.
fn run_path(path: &str) -> String {
    path.strip_prefix("/var").filter(|rest| rest.starts_with("/run/")).unwrap_or(path).to_owned()
}

/// A namespace that is mounted on a file, such as `/run/netns/NAME`. An error is why nobody knows.
fn pinned(netns: &Netns, recorded: Stamp) -> Result<Liveness, LivenessReason> {
    // The parent stays open: whatever happens to its name, we look into the one compared.
    let parent = match open_path(parent_of(&netns.path), OFlag::O_DIRECTORY) {
        Ok(parent) => File::from(parent),
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Err(LivenessReason::DirectoryGone),
        Err(errno) => return Err(unknown(errno)),
    };
    let meta = parent.metadata().map_err(|_| LivenessReason::Failed)?;
    if (meta.dev(), meta.ino()) != (netns.parent_device, netns.parent_inode) {
        return Err(LivenessReason::OtherDirectory);
    }
    let name = Path::new(&netns.path).file_name().ok_or(LivenessReason::Failed)?;
    let at = |flags| openat(&parent, name, OFlag::O_PATH | OFlag::O_CLOEXEC | flags, Mode::empty());
    let is_link = || {
        let file = at(OFlag::O_NOFOLLOW).map(File::from);
        file.is_ok_and(|f| f.metadata().is_ok_and(|m| m.is_symlink()))
    };
    let seen = match at(OFlag::empty()) {
        Ok(fd) => Seen::of(fd).map_err(|_| LivenessReason::Failed)?,
        // A link to /proc/PID/ns/net leads nowhere in another PID namespace.
        Err(Errno::ENOENT) if is_link() => return Err(LivenessReason::Link),
        Err(Errno::ENOENT) => return Ok(Liveness::Dead(LivenessReason::NetnsGone)),
        Err(errno) => return Err(unknown(errno)),
    };
    match same(&seen, netns)? {
        false if is_link() => Err(LivenessReason::Link),
        false => Ok(Liveness::Dead(LivenessReason::NetnsReplaced)),
        true if seen.is_younger_than(recorded) => Err(LivenessReason::Remounted),
        true => Ok(Liveness::Alive),
    }
}

/// A namespace by its process: `/proc/PID/ns/net`. An error is why nobody knows.
fn in_proc(netns: &Netns, recorded: u64) -> Result<Liveness, LivenessReason> {
    let pid = pid_of(&netns.path).ok_or(LivenessReason::OddProcPath)?;
    // What /proc/self leads to is ours by whatever /proc is mounted here; if /proc is of a
    // namespace that does not see us, it leads nowhere.
    if own_pid_namespace() != Some(recorded) {
        return Err(LivenessReason::OtherPidNamespace);
    }
    let seen = match open_path(Path::new(&netns.path), OFlag::empty()) {
        Ok(fd) => Seen::of(fd).map_err(|_| LivenessReason::Failed)?,
        Err(Errno::ENOENT | Errno::ESRCH) => return ended(pid),
        Err(errno) => return Err(unknown(errno)),
    };
    Ok(match same(&seen, netns)? {
        true => Liveness::Alive,
        false => Liveness::Dead(LivenessReason::ProcessReplaced),
    })
}

/// Why /proc does not show a process's namespace: it has ended, or it is hidden from us.
fn ended(pid: i32) -> Result<Liveness, LivenessReason> {
    let left = match kill(Pid::from_raw(pid), None) {
        Err(Errno::ESRCH) => true,
        // A zombie has left its namespaces.
        _ => matches!(state_and_start(pid), Some((b'Z' | b'X', _))),
    };
    if left { Ok(Liveness::Dead(LivenessReason::ProcessGone)) } else { Err(LivenessReason::Hidden) }
}

/// A lower bound of the sandbox's life, for [`Attachment::born`]: no entry older than this
/// was made for it. `None` if anything is odd.
///
/// A pinned namespace's file comes to be when it is mounted, and keeps its ctime while it
/// is; a path in /proc is as old as its process. File times are wall-clock: ask soon after
/// the sandbox came to be, before the clock has been set back.
#[must_use]
pub fn born(path: &str, now: Stamp) -> Option<Stamp> {
    if path.is_empty() {
        return None;
    }
    let parent = Seen::of(open_path(parent_of(path), OFlag::O_DIRECTORY).ok()?).ok()?;
    let seen = Seen::of(open_path(Path::new(path), OFlag::empty()).ok()?).ok()?;
    if seen.kind != NSFS_MAGIC {
        return None;
    }
    if parent.kind != PROC_SUPER_MAGIC {
        return Stamp::of_wall(seen.changed_ms.checked_sub(TICK_MS)?, now);
    }
    let (state, ticks) = state_and_start(pid_of(path)?)?;
    let per_second = u64::try_from(sysconf(SysconfVar::CLK_TCK).ok()??).ok()?;
    let boot_ms = ticks.checked_sub(1)?.checked_mul(1000)?.checked_div(per_second)?;
    let ago = now.boot_ms.checked_sub(boot_ms)?;
    let wall_ms = now.wall_ms.checked_sub(ago)?;
    (state != b'Z').then_some(Stamp { boot_ms, wall_ms })
}

/// What is to be seen of an open file.
struct Seen {
    kind: FsType,
    device: u64,
    inode: u64,
    changed_ms: u64,
}

impl Seen {
    fn of(fd: OwnedFd) -> io::Result<Self> {
        let kind = fstatfs(&fd)?.filesystem_type();
        let meta = File::from(fd).metadata()?;
        let changed =
            meta.ctime().saturating_mul(1000).saturating_add(meta.ctime_nsec() / 1_000_000);
        let changed_ms = u64::try_from(changed).unwrap_or(0);
        Ok(Self { kind, device: meta.dev(), inode: meta.ino(), changed_ms })
    }

    fn is_younger_than(&self, then: Stamp) -> bool {
        is_younger(self.changed_ms, then)
    }
}

/// Mounted after `then`: another namespace that was given the same number, or the same one,
/// mounted anew. Wall time with wall time: a clock set since moved neither.
pub(crate) fn is_younger(changed_ms: u64, then: Stamp) -> bool {
    changed_ms > then.wall_ms.saturating_add(TICK_MS)
}

/// Whether it is the namespace that was recorded; what makes the question moot otherwise.
fn same(seen: &Seen, netns: &Netns) -> Result<bool, LivenessReason> {
    if seen.kind != NSFS_MAGIC {
        return Err(LivenessReason::NotANamespace);
    }
    if seen.device != netns.device {
        return Err(LivenessReason::OtherDevice);
    }
    Ok(seen.inode == netns.inode)
}

/// Opens for looking only: no FIFO blocks, no device stirs.
fn open_path(path: &Path, flags: OFlag) -> Result<OwnedFd, Errno> {
    open(path, OFlag::O_PATH | OFlag::O_CLOEXEC | flags, Mode::empty())
}

fn parent_of(path: &str) -> &Path {
    let parent = Path::new(path).parent().unwrap_or(Path::new("/"));
    if parent.as_os_str().is_empty() { Path::new(".") } else { parent }
}

fn unknown(errno: Errno) -> LivenessReason {
    match errno {
        Errno::EACCES | Errno::EPERM => LivenessReason::Denied,
        _ => LivenessReason::Failed,
    }
}

/// PID of `/proc/PID/ns/net` or `/proc/PID/task/TID/ns/net`; `/proc/self` is another process
/// for everybody who looks.
fn pid_of(path: &str) -> Option<i32> {
    let process = path.strip_prefix("/proc/")?.strip_suffix("/ns/net")?;
    let digits = process.split_once("/task/").map_or(process, |(pid, _)| pid);
    digits.bytes().all(|b| b.is_ascii_digit()).then_some(())?;
    digits.parse().ok().filter(|pid| *pid > 0)
}

fn own_pid_namespace() -> Option<u64> {
    std::fs::metadata("/proc/self/ns/pid").ok().map(|m| m.ino())
}

/// Fields 3 and 22 of `/proc/PID/stat` (proc(5)): the state's letter, and the start in clock
/// ticks since boot, suspend included. Counted from the last `)`, because a process may call
/// itself anything.
fn state_and_start(pid: i32) -> Option<(u8, u64)> {
    parse_stat(&std::fs::read(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(stat: &[u8]) -> Option<(u8, u64)> {
    let end = stat.iter().rposition(|b| *b == b')')?;
    let mut fields = std::str::from_utf8(stat.get(end + 1..)?).ok()?.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn stat_is_read_behind_the_last_parenthesis() {
        let fields = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20 21";
        for name in ["sh", "a b", "evil) S 1 2 3", ") R ("] {
            let stat = format!("42 ({name}) S {fields}");
            assert_eq!(parse_stat(stat.as_bytes()), Some((b'S', 777)), "{name}");
        }
        for odd in ["", "42 (sh", "42 (sh)", "42 (sh) S 1 2 3"] {
            assert_eq!(parse_stat(odd.as_bytes()), None, "{odd}");
        }
        let ours = i32::try_from(std::process::id()).unwrap();
        let (state, ticks) = state_and_start(ours).unwrap();
        assert!(matches!(state, b'R' | b'S') && ticks > 0);
    }

    #[test]
    fn a_directory_that_shows_a_living_namespace_shows_who_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("netns");
        std::fs::create_dir(&path).unwrap();
        for name in ["cni-1", "cni-2"] {
            File::create(path.join(name)).unwrap();
        }
        let at = |name: &str| path.join(name).to_str().unwrap().to_owned();
        let meta = |path: &Path| std::fs::metadata(path).unwrap();
        let (file, parent) = (meta(&path.join("cni-1")), meta(&path));
        let key = crate::model::attachment::Key {
            network: "podnet".parse().unwrap(),
            container: "c1".parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        let mut record = Attachment::new(key, 1, "boot".to_owned(), Stamp::now());
        record.netns = Some(Netns {
            path: at("cni-1"),
            device: file.dev(),
            inode: file.ino(),
            parent_device: parent.dev(),
            parent_inode: parent.ino(),
            pid_namespace: None,
        });
        let of = |record: &Attachment| Directories::of(&vec![record.clone()].into(), "boot");
        let bare = |name: &str| at(name).replace('/', "");
        let known = of(&record);
        assert!(known.lack(&at("cni-3")) && known.lack(&bare("cni-3")));
        for there in [at("cni-1"), at("cni-2"), bare("cni-2")] {
            assert!(!known.lack(&there), "{there}");
        }
        // Nothing is known of other directories, and of what is no name.
        let beside = format!("{}-of-others/cni-3", path.display());
        let below = at("below/cni-3");
        for odd in [beside.as_str(), &below, &at(""), &at(".."), "/run/netns/cni-3", "cni-3", ""] {
            assert!(!known.lack(odd), "{odd}");
        }
        // Nor from a place where this directory is another one, or its namespaces do not show.
        let mut elsewhere = record.clone();
        elsewhere.netns.as_mut().unwrap().parent_inode += 1;
        let mut unseen = record.clone();
        unseen.netns.as_mut().unwrap().inode += 1;
        let before = Attachment { boot_id: "before".to_owned(), ..record.clone() };
        for (record, is_another) in [(&elsewhere, true), (&unseen, false), (&before, false)] {
            let seen = of(record);
            assert!(!seen.lack(&at("cni-3")));
            assert_eq!(seen.is_another(&at("cni-3")), is_another);
            assert!(!seen.is_another(&beside));
        }
        let both = Directories::of(&vec![elsewhere, record].into(), "boot");
        assert!(!both.is_another(&at("cni-3")), "a living one is seen in it");
        assert_eq!(run_path("/var/run/netns/x"), "/run/netns/x");
        assert_eq!(run_path("/var/runs/x"), "/var/runs/x");
    }

    #[test]
    fn only_numbered_processes_are_judged() {
        assert_eq!(pid_of("/proc/42/ns/net"), Some(42));
        assert_eq!(pid_of("/proc/42/task/43/ns/net"), Some(42));
        for odd in [
            "/proc/self/ns/net",
            "/proc/thread-self/ns/net",
            "/proc/42/fd/7",
            "/proc/42/ns/pid",
            "/proc//ns/net",
            "/proc/0/ns/net",
            "/proc/-1/ns/net",
            "/proc/+1/ns/net",
            "/proc/99999999999/ns/net",
            "/run/netns/x",
            "/ns/net",
            "",
        ] {
            assert_eq!(pid_of(odd), None, "{odd}");
        }
    }

    proptest! {
        #[test]
        fn any_path_and_any_stat_are_survived(path: String, stat: Vec<u8>) {
            let _ = pid_of(&path);
            let _ = parse_stat(&stat);
            let _ = parent_of(&path);
        }
    }
}
