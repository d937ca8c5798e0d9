//! Hears from the kernel (inotify) what happens to files, on a thread of its own: to network
//! namespaces, to the records, and to OVS's sockets.
//!
//! A directory that is not there (yet, or any more) is waited for through the nearest one
//! above it that is. Whatever happened before a watch was set has rung no bell: a new watch
//! rings it.

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

/// Which directories of namespaces are to be watched: the sweeper says so, the thread does.
#[derive(Debug)]
pub(crate) struct Wanted {
    directories: Mutex<BTreeSet<PathBuf>>,
    poke: Mutex<UnixStream>,
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
            self.look_again();
        }
    }

    /// Has the thread look at what there is to watch.
    pub(super) fn look_again(&self) {
        let mut poke = self.poke.lock().unwrap_or_else(PoisonError::into_inner);
        // A full pipe wakes it as well.
        let _ = poke.write(&[0]);
    }

    fn now(&self) -> Vec<PathBuf> {
        let wanted = self.directories.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.iter().cloned().collect()
    }
}

/// /proc tells nobody when a process ends.
fn directory_of(netns: &Netns) -> Option<&Path> {
    let parent = Path::new(&netns.path).parent()?;
    (netns.pid_namespace.is_none() && parent.is_absolute()).then_some(parent)
}

/// What a watched directory is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// It has network namespaces.
    Namespaces,
    /// The state directory.
    State,
    /// A network's records.
    Network,
    /// A network's tombstones.
    Dead,
    /// OVS's sockets.
    Sockets,
    /// Something below it is waited for.
    Above,
}

struct Watched {
    path: PathBuf,
    role: Role,
}

/// The pipe's ends: one for who wants something watched, one for the thread.
pub(super) fn prepare(directories: &[PathBuf]) -> Result<(Wanted, UnixStream), Error> {
    let (ours, theirs) = UnixStream::pair().map_err(Error::Inotify)?;
    for end in [&ours, &theirs] {
        end.set_nonblocking(true).map_err(Error::Inotify)?;
    }
    let directories = Mutex::new(directories.iter().cloned().collect());
    Ok((Wanted { directories, poke: Mutex::new(ours) }, theirs))
}

/// Runs until the daemon ends.
pub(super) fn start(shared: Arc<Shared>, poked: UnixStream) -> Result<Thread, Error> {
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
        files.look(false);
        files.run(poked);
    })
}

struct Files<'s> {
    shared: &'s Shared,
    inotify: Inotify,
    watched: HashMap<WatchDescriptor, Watched>,
    /// Records whose directories are watched: they are written again and again.
    known: HashSet<PathBuf>,
    /// Something could not be watched and nothing will tell us when it can.
    missing: bool,
    complained: bool,
}

impl Files<'_> {
    fn run(&mut self, mut poked: UnixStream) {
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
                    PollFd::new(poked.as_fd(), PollFlags::POLLIN),
                ];
                poll(&mut fds, timeout)
            };
            match ready {
                Ok(0) => self.look(true),
                Ok(_) => {
                    let mut asked = false;
                    while poked.read(&mut [0; 64]).is_ok_and(|n| n > 0) {
                        asked = true;
                    }
                    self.read(&mut buffer);
                    if asked {
                        self.look(true);
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
            self.look(true);
        }
    }

    /// Rings for an event; whether what is watched must be looked at.
    fn happened(&mut self, wd: &WatchDescriptor, mask: EventMask, name: Option<&OsStr>) -> bool {
        let ring = |reason| self.shared.wakeup.ring(reason);
        if mask.contains(EventMask::Q_OVERFLOW) {
            debug!("inotify: events were lost");
            for reason in [Reason::Netns, Reason::Tombstone, Reason::Pause] {
                ring(reason);
            }
            return true;
        }
        let Some(Watched { path, role }) = self.watched.get(wd) else { return false };
        let role = *role;
        let gone =
            EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::IGNORED | EventMask::UNMOUNT;
        if mask.intersects(gone) {
            debug!("{} is gone", path.display());
            match role {
                Role::Namespaces => ring(Reason::Netns),
                Role::State => ring(Reason::StateDirectory),
                Role::Network | Role::Dead | Role::Sockets | Role::Above => {}
            }
            if mask.contains(EventMask::MOVE_SELF) {
                // It is watched wherever it is now; who has its name now is somebody else.
                let _ = self.inotify.watches().remove(wd.clone());
            }
            self.watched.remove(wd);
            return true;
        }
        let Some(name) = name.and_then(OsStr::to_str) else { return false };
        let came = mask.intersects(EventMask::CREATE | EventMask::MOVED_TO);
        let went = mask.intersects(EventMask::DELETE | EventMask::MOVED_FROM);
        match role {
            Role::Namespaces => {
                if went || mask.contains(EventMask::MOVED_TO) {
                    ring(Reason::Netns);
                }
                false
            }
            Role::State if Registry::is_pause_file(name) => {
                ring(Reason::Pause);
                false
            }
            // The directory itself is not gone for inotify as long as we hold the lock open.
            Role::State if went && Registry::is_daemon_lock(name) => {
                ring(Reason::StateDirectory);
                false
            }
            Role::State => came && mask.contains(EventMask::ISDIR),
            Role::Network if mask.contains(EventMask::ISDIR) => came,
            Role::Network => {
                let file = path.join(name);
                if went {
                    self.known.remove(&file);
                } else if is_record(name) && mask.contains(EventMask::MOVED_TO) {
                    self.record(file);
                }
                false
            }
            Role::Dead => {
                if came && is_record(name) {
                    ring(Reason::Tombstone);
                }
                false
            }
            Role::Sockets => {
                if came && (name == "ovs-vswitchd.pid" || name.ends_with(".mgmt")) {
                    ring(Reason::Switch);
                } else if came && name == "db.sock" {
                    self.shared.database.poke();
                }
                false
            }
            Role::Above => came,
        }
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
                self.look(true);
            }
        }
        if self.known.len() < 16 * MOST_DIRECTORIES {
            self.known.insert(file);
        }
    }

    /// Watches what is not watched yet. `ring`: something may have happened there before.
    fn look(&mut self, ring: bool) {
        self.missing = false;
        let shared = self.shared;
        let mut rung = BTreeSet::new();
        let mut wanted: Vec<(PathBuf, Role)> =
            shared.wanted.now().into_iter().map(|path| (path, Role::Namespaces)).collect();
        wanted.push((shared.run_dir.clone(), Role::Sockets));
        wanted.push((shared.options.state_dir.clone(), Role::State));
        for (path, role) in wanted {
            if self.watch(&path, role) && ring {
                rung.extend(match role {
                    Role::Namespaces => Some(Reason::Netns),
                    Role::Sockets => Some(Reason::Switch),
                    _ => None,
                });
            }
        }
        // The networks once the directory itself is watched: none comes in between.
        let found = Registry::open_existing(&shared.options.state_dir)
            .and_then(|registry| registry.map(|r| r.directories()).transpose());
        let below = found.ok().flatten().unwrap_or_default();
        for path in below.networks {
            self.watch(&path, Role::Network);
        }
        for path in below.dead {
            if path.is_dir() && self.watch(&path, Role::Dead) && ring {
                rung.insert(Reason::Tombstone);
            }
        }
        for reason in rung {
            shared.wakeup.ring(reason);
        }
    }

    /// Watches a directory, or the nearest one above it that is there. Whether the former is
    /// new.
    fn watch(&mut self, path: &Path, role: Role) -> bool {
        // What was made below before the one above was watched has told nobody.
        for _ in 0..ATTEMPTS {
            let (new, below) = self.watch_nearest(path, role);
            if new || !below.is_some_and(Path::exists) {
                return new;
            }
        }
        false
    }

    /// One try; and, if it had to be a directory above, the one below that was not there.
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
                    // It may have come between the two: then nobody tells us.
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
