//! Hears from the kernel (inotify) what happens to files, on a thread of its own: to network
//! namespaces, to the records, and to OVS's sockets.
//!
//! A directory that is not there (yet, or any more) is waited for through the nearest one
//! above it that is. No event tells what happened before a watch was set: a new watch wakes the
//! sweeper by itself.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};
use log::{debug, warn};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Deserialize;

use super::scheduler::Reason;
use super::{Error, Shared, Thread};
use crate::model::attachment::{Attachment, Netns};
use crate::store::Registry;

/// Directories of namespaces at most: each watch costs kernel memory.
const MOST_DIRECTORIES: usize = 1024;
/// How soon a watch that could not be set is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// How often it is tried at once, when directories come while they are looked for.
const ATTEMPTS: usize = 8;
/// A record at most.
const MOST_BYTES: u64 = 64 << 10;

/// A watched directory is gone, or has another name.
const GONE: EventMask = EventMask::DELETE_SELF
    .union(EventMask::MOVE_SELF)
    .union(EventMask::IGNORED)
    .union(EventMask::UNMOUNT);
/// An entry came into a watched directory.
const CAME: EventMask = EventMask::CREATE.union(EventMask::MOVED_TO);
/// An entry left it.
const WENT: EventMask = EventMask::DELETE.union(EventMask::MOVED_FROM);

/// The directories of namespaces that are to be watched: the sweeper adds to them, the thread
/// watches them.
#[derive(Debug)]
pub(crate) struct Wanted {
    directories: Mutex<BTreeSet<PathBuf>>,
    waker: UnixStream,
}

impl Wanted {
    /// Adds the directories of these records' namespaces.
    pub(super) fn of_records<'r>(&self, records: impl Iterator<Item = &'r Attachment>) {
        let directories = records.filter_map(|r| directory_of(r.netns.as_ref()?));
        let mut wanted = self.directories.lock().unwrap_or_else(PoisonError::into_inner);
        let before = wanted.len();
        for directory in directories {
            if wanted.len() < MOST_DIRECTORIES && !wanted.contains(directory) {
                wanted.insert(directory.to_owned());
            }
        }
        if wanted.len() != before {
            drop(wanted);
            self.changed();
        }
    }

    /// Wakes the thread: there may be more to watch.
    pub(super) fn changed(&self) {
        // A full pipe wakes it as well.
        let _ = (&self.waker).write(&[0]);
    }

    fn now(&self) -> Vec<PathBuf> {
        let wanted = self.directories.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.iter().cloned().collect()
    }
}

/// The directory of a namespace; none for one in /proc, where inotify reports nothing.
fn directory_of(netns: &Netns) -> Option<&Path> {
    let parent = Path::new(&netns.path).parent()?;
    (netns.pid_namespace.is_none() && parent.is_absolute()).then_some(parent)
}

/// What a watched directory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Network namespaces.
    Namespaces,
    /// The state directory.
    State,
    /// A network's records.
    Network,
    /// A network's tombstones.
    Dead,
    /// OVS's sockets.
    Sockets,
    /// A directory below it is not there yet.
    Above,
}

struct Watched {
    path: PathBuf,
    role: Role,
}

/// The ends of the pipe: one to add directories and wake the thread, one for the thread.
pub(super) fn prepare(directories: &[PathBuf]) -> Result<(Wanted, UnixStream), Error> {
    let (ours, theirs) = UnixStream::pair().map_err(Error::Inotify)?;
    for end in [&ours, &theirs] {
        end.set_nonblocking(true).map_err(Error::Inotify)?;
    }
    let directories = Mutex::new(directories.iter().cloned().collect());
    Ok((Wanted { directories, waker: ours }, theirs))
}

/// Runs until the daemon ends.
pub(super) fn start(shared: Arc<Shared>, woken: UnixStream) -> Result<Thread, Error> {
    let inotify = Inotify::init().map_err(Error::Inotify)?;
    super::spawn("files", move || {
        let mut files = Files {
            shared: &shared,
            inotify,
            watched: HashMap::new(),
            known: HashSet::new(),
            missing: false,
            complained: false,
        };
        files.watch_all(false);
        files.run(woken);
    })
}

struct Files<'s> {
    shared: &'s Shared,
    inotify: Inotify,
    watched: HashMap<WatchDescriptor, Watched>,
    /// Records whose directories are watched: each later write of one changes nothing.
    known: HashSet<PathBuf>,
    /// Something could not be watched, and no event will say when it can.
    missing: bool,
    complained: bool,
}

impl Files<'_> {
    fn run(&mut self, mut woken: UnixStream) {
        // One event with the longest of names takes less than 300 bytes.
        let mut buffer = [0; 16 << 10];
        while !self.shared.wakeup.stopped() {
            let timeout = if self.missing {
                PollTimeout::try_from(TRY_AGAIN).unwrap_or(PollTimeout::NONE)
            } else {
                PollTimeout::NONE
            };
            let ready = {
                let mut fds = [
                    PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN),
                    PollFd::new(woken.as_fd(), PollFlags::POLLIN),
                ];
                poll(&mut fds, timeout)
            };
            match ready {
                Ok(0) => self.watch_all(true),
                Ok(_) => {
                    let mut asked = false;
                    while woken.read(&mut [0; 64]).is_ok_and(|n| n > 0) {
                        asked = true;
                    }
                    self.read(&mut buffer);
                    if asked {
                        self.watch_all(true);
                    }
                }
                Err(Errno::EINTR) => {}
                Err(errno) => {
                    warn!("inotify cannot be waited for: {errno}; the interval remains");
                    return;
                }
            }
        }
    }

    fn read(&mut self, buffer: &mut [u8]) {
        let mut again = false;
        loop {
            let events: Vec<_> = match self.inotify.read_events(buffer) {
                Ok(events) => events.map(|event| event.to_owned()).collect(),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    warn!("inotify cannot be read: {e}");
                    break;
                }
            };
            if events.is_empty() {
                break;
            }
            for event in events {
                again |= self.happened(&event.wd, event.mask, event.name.as_deref());
            }
        }
        if again {
            self.watch_all(true);
        }
    }

    /// Handles an event; whether more directories may have to be watched.
    fn happened(&mut self, wd: &WatchDescriptor, mask: EventMask, name: Option<&OsStr>) -> bool {
        if mask.contains(EventMask::Q_OVERFLOW) {
            debug!("inotify: events were lost");
            self.shared.gone_names.lose();
            for reason in [Reason::Netns, Reason::Tombstone, Reason::Pause] {
                self.shared.wakeup.wake(reason);
            }
            return true;
        }
        let Some(Watched { path, role }) = self.watched.get(wd) else { return false };
        let role = *role;
        if mask.intersects(GONE) {
            debug!("{} is gone", path.display());
            self.directory_gone(wd, role, mask);
            return true;
        }
        let Some(name) = name.and_then(OsStr::to_str) else { return false };
        if let Some(reason) = reason(role, name, mask) {
            // Before the sweeper is woken: it judges who had the name.
            if reason == Reason::Netns {
                self.shared.gone_names.add(name);
            }
            self.shared.wakeup.wake(reason);
            if reason == Reason::Netns {
                self.shared.replicas.rouse();
            }
        }
        let (came, is_directory) = (mask.intersects(CAME), mask.contains(EventMask::ISDIR));
        match role {
            Role::Network if !is_directory => {
                let file = path.join(name);
                if mask.intersects(WENT) {
                    self.known.remove(&file);
                } else if is_record(name) && mask.contains(EventMask::MOVED_TO) {
                    self.record(file);
                }
            }
            Role::Sockets if came && name == "db.sock" => self.shared.database.wake(),
            _ => {}
        }
        came && match role {
            Role::State | Role::Network => is_directory,
            Role::Above => true,
            Role::Namespaces | Role::Dead | Role::Sockets => false,
        }
    }

    /// A directory is not watched any more.
    fn directory_gone(&mut self, wd: &WatchDescriptor, role: Role, mask: EventMask) {
        match role {
            Role::Namespaces => {
                self.shared.gone_names.lose();
                self.shared.wakeup.wake(Reason::Netns);
            }
            Role::State => self.shared.wakeup.wake(Reason::StateDirectory),
            Role::Network | Role::Dead | Role::Sockets | Role::Above => {}
        }
        if mask.contains(EventMask::MOVE_SELF) {
            // The watch moved with the directory, and another directory may have its name now.
            let _ = self.inotify.watches().remove(wd.clone());
        }
        self.watched.remove(wd);
    }

    /// A new record: its namespace is watched from now on.
    fn record(&mut self, file: PathBuf) {
        #[derive(Deserialize)]
        struct Record {
            netns: Option<Netns>,
        }
        if self.known.contains(&file) {
            return;
        }
        let Ok(opened) = std::fs::File::open(&file) else { return };
        let mut text = String::new();
        let read = opened.take(MOST_BYTES).read_to_string(&mut text);
        let Ok(Ok(record)) = read.map(|_| serde_json::from_str::<Record>(&text)) else { return };
        if let Some(directory) = record.netns.as_ref().and_then(directory_of) {
            let mut wanted =
                self.shared.wanted.directories.lock().unwrap_or_else(PoisonError::into_inner);
            if wanted.len() < MOST_DIRECTORIES && wanted.insert(directory.to_owned()) {
                drop(wanted);
                self.watch_all(true);
            }
        }
        if self.known.len() < 16 * MOST_DIRECTORIES {
            self.known.insert(file);
        }
    }

    /// Watches what is not watched yet. `wake`: a new watch wakes the sweeper, because something
    /// may have happened there before.
    fn watch_all(&mut self, wake: bool) {
        self.missing = false;
        let shared = self.shared;
        let mut reasons = BTreeSet::new();
        let mut wanted: Vec<(PathBuf, Role)> =
            shared.wanted.now().into_iter().map(|path| (path, Role::Namespaces)).collect();
        wanted.push((shared.run_dir.clone(), Role::Sockets));
        wanted.push((shared.options.state_dir.clone(), Role::State));
        for (path, role) in wanted {
            if self.watch(&path, role) && wake {
                reasons.extend(match role {
                    Role::Namespaces => Some(Reason::Netns),
                    Role::Sockets => Some(Reason::Switch),
                    _ => None,
                });
            }
        }
        // The state directory is watched by now: no network can come unnoticed.
        let found = Registry::open_existing(&shared.options.state_dir)
            .and_then(|registry| registry.map(|r| r.directories()).transpose());
        let below = found.ok().flatten().unwrap_or_default();
        for path in below.networks {
            self.watch(&path, Role::Network);
        }
        for path in below.dead {
            if path.is_dir() && self.watch(&path, Role::Dead) && wake {
                reasons.insert(Reason::Tombstone);
            }
        }
        for reason in reasons {
            shared.gone_names.lose();
            shared.wakeup.wake(reason);
        }
    }

    /// Watches a directory, or the nearest one above it that is there; whether the directory
    /// itself is watched now and was not before.
    fn watch(&mut self, path: &Path, role: Role) -> bool {
        // No event tells what was made below before the one above was watched.
        for _ in 0..ATTEMPTS {
            let (new, below) = self.watch_nearest(path, role);
            if new || !below.is_some_and(Path::exists) {
                return new;
            }
        }
        false
    }

    /// One try. If a directory above had to be watched: also the one below that was not there.
    fn watch_nearest<'p>(&mut self, path: &'p Path, role: Role) -> (bool, Option<&'p Path>) {
        let (mut at, mut as_what, mut below) = (path, role, None);
        loop {
            match self.inotify.watches().add(at, mask(as_what)) {
                Ok(wd) => {
                    let before = self.watched.get(&wd).map(|watched| watched.role);
                    if before.is_none_or(|before| before == Role::Above && as_what != Role::Above) {
                        debug!("watching {} ({as_what:?})", at.display());
                        self.watched.insert(wd, Watched { path: at.to_owned(), role: as_what });
                        return (as_what == role, below);
                    }
                    return (false, below);
                }
                Err(e)
                    if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory]
                        .contains(&e.kind()) =>
                {
                    let Some(above) = at.parent() else { return (false, None) };
                    (at, as_what, below) = (above, Role::Above, Some(at));
                    // If it comes between the two calls, no event tells.
                    self.missing = true;
                }
                Err(e) => {
                    self.missing = true;
                    if !self.complained {
                        self.complained = true;
                        warn!(
                            "cannot watch {}: {e}; what happens there is only noticed at the \
                             interval (fs.inotify.max_user_watches, max_user_instances?)",
                            at.display()
                        );
                    }
                    return (false, None);
                }
            }
        }
    }
}

/// Why the sweeper is woken when an entry of a watched directory changes.
fn reason(role: Role, name: &str, mask: EventMask) -> Option<Reason> {
    let (came, went) = (mask.intersects(CAME), mask.intersects(WENT));
    let is_switch = name == "ovs-vswitchd.pid" || name.ends_with(".mgmt");
    match role {
        Role::Namespaces if went || mask.contains(EventMask::MOVED_TO) => Some(Reason::Netns),
        Role::State if Registry::is_pause_file(name) => Some(Reason::Pause),
        // The daemon holds its lock file open: inotify does not call the directory itself gone.
        Role::State if went && Registry::is_daemon_lock(name) => Some(Reason::StateDirectory),
        Role::Dead if came && is_record(name) => Some(Reason::Tombstone),
        Role::Network if mask.contains(EventMask::MOVED_TO) && is_record(name) => {
            Some(Reason::Record)
        }
        Role::Sockets if came && is_switch => Some(Reason::Switch),
        _ => None,
    }
}

fn is_record(name: &str) -> bool {
    name.ends_with(".json") && !name.starts_with('.') && name != "config.json"
}

fn mask(role: Role) -> WatchMask {
    let mask = WatchMask::CREATE
        | WatchMask::MOVED_TO
        | WatchMask::DELETE
        | WatchMask::DELETE_SELF
        | WatchMask::MOVE_SELF
        | WatchMask::ONLYDIR;
    match role {
        // Every record that is written was a temporary file before.
        Role::Network | Role::Dead => mask,
        _ => mask | WatchMask::MOVED_FROM,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_wakes_the_sweeper_for_its_reason() {
        let (created, deleted) = (EventMask::CREATE, EventMask::DELETE);
        let (renamed_to, renamed_from) = (EventMask::MOVED_TO, EventMask::MOVED_FROM);
        for (role, name, mask, expected) in [
            (Role::Namespaces, "cni-1", deleted, Some(Reason::Netns)),
            (Role::Namespaces, "cni-1", renamed_from, Some(Reason::Netns)),
            (Role::Namespaces, "cni-1", renamed_to, Some(Reason::Netns)),
            (Role::Namespaces, "cni-1", created, None),
            (Role::State, "paused", created, Some(Reason::Pause)),
            (Role::State, "paused", deleted, Some(Reason::Pause)),
            (Role::State, "daemon.lock", deleted, Some(Reason::StateDirectory)),
            (Role::State, "podnet", created | EventMask::ISDIR, None),
            (Role::Network, "c1:eth0.json", renamed_to, Some(Reason::Record)),
            (Role::Network, "c1:eth0.json", deleted, None),
            (Role::Network, "config.json", renamed_to, None),
            (Role::Dead, "1-c1:eth0.json", renamed_to, Some(Reason::Tombstone)),
            (Role::Dead, "1-c1:eth0.json", deleted, None),
            (Role::Dead, ".tmp.json", created, None),
            (Role::Sockets, "br0.mgmt", created, Some(Reason::Switch)),
            (Role::Sockets, "ovs-vswitchd.pid", renamed_to, Some(Reason::Switch)),
            (Role::Sockets, "br0.mgmt", deleted, None),
            (Role::Sockets, "db.sock", created, None),
            (Role::Above, "run", created | EventMask::ISDIR, None),
        ] {
            assert_eq!(reason(role, name, mask), expected, "{role:?} {name} {mask:?}");
        }
    }
}
