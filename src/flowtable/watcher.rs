//! Keeps a bridge's [`Replica`]: a thread that follows the switch, and builds the replica anew
//! when it is in doubt.
//!
//! Two connections: one has the flow monitor and is read at once, the other dumps. A replica is
//! built while no other bridge's is, because a dump stalls the switch. A switch that gives cause
//! for doubt again and again, that has no flow monitors, or that has too many entries is left to
//! dumps for a while.

use std::convert::Infallible;
use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use log::{debug, info, warn};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::memory::Memory;
use super::replica::{Doubt, Replica, State};
use super::spare::Spare;
use super::{DumpSource, FlowSource as _, Groups, Limits, News, PortList, Prefetch};
use crate::openflow::{Connection, Error, Update};
use crate::util::backoff::{back_off, chance};
use crate::util::clock::{BootTime, Deadline};

/// For how long a switch is waited for that is asked for a connection or a dump.
const BUILD_TIME: Duration = Duration::from_secs(20);
/// For how long a barrier's answer is waited for. Whoever waits for it is told that there is none.
const BARRIER_TIME: Duration = Duration::from_secs(1);
/// So many barriers without an answer, and the connection is given up.
const MOST_UNANSWERED: u32 = 30;
/// A barrier is sent at least this often: an entry that comes was made after the last one.
const TICK: Duration = Duration::from_secs(1);
/// How often the switch's hello is looked for on a spare connection.
const OPENING: Duration = Duration::from_millis(5);
/// How often the end of another bridge's dump is looked for.
const TURN: Duration = Duration::from_millis(20);
/// More doubts than this in a minute, and dumps serve for a while.
const MOST_REBUILDS: usize = 3;
const MINUTE: Duration = Duration::from_secs(60);
/// After a doubt it is built again after this time, or, if the switch is not there, up to that.
const LEAST: Duration = Duration::from_millis(100);
const MOST: Duration = Duration::from_secs(5);
/// For how long a switch is left to dumps that has no flow monitors, or too many entries.
const LONG: Duration = Duration::from_secs(300);
/// Nothing in here recurses.
const STACK: usize = 512 << 10;

/// Lets one replica be built at a time.
#[derive(Debug, Default)]
pub struct Turns(Mutex<()>);

impl Turns {
    /// Waits for its turn; `None` if it need not wait any longer.
    fn take(&self, stopped: impl Fn() -> bool) -> Option<MutexGuard<'_, ()>> {
        while !stopped() {
            match self.0.try_lock() {
                Ok(turn) => return Some(turn),
                Err(TryLockError::Poisoned(turn)) => return Some(turn.into_inner()),
                Err(TryLockError::WouldBlock) => thread::sleep(TURN),
            }
        }
        None
    }
}

/// Keeps a replica until it is dropped.
#[derive(Debug)]
pub struct Watcher {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    replica: Mutex<Replica>,
    /// The bridge's ports as far as the switch has reported; `None`: it does not.
    ports: Mutex<Option<PortList>>,
    limits: Limits,
    /// Who waits for a barrier.
    asked: Mutex<Vec<SyncSender<Option<u64>>>>,
    /// A byte on it wakes the thread.
    wake: UnixStream,
    stopped: AtomicBool,
    on_news: OnNews,
    spare: Spare,
    /// A spare connection was used, and is not any more.
    spare_wanted: AtomicBool,
}

/// Called with what is news of a bridge.
#[derive(Clone)]
pub struct OnNews(pub Arc<dyn Fn(News) + Send + Sync>);

impl fmt::Debug for OnNews {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnNews")
    }
}

impl Watcher {
    /// Keeps the replica of the bridge with this socket, within these limits.
    ///
    /// # Errors
    /// If there is no thread or socket to be had.
    pub fn start(
        path: &Path,
        limits: Limits,
        turns: Arc<Turns>,
        on_news: OnNews,
    ) -> io::Result<Self> {
        let (wake, woken) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            replica: Mutex::new(Replica::new(limits.entries, BootTime::now())),
            ports: Mutex::default(),
            limits,
            asked: Mutex::default(),
            wake,
            stopped: AtomicBool::new(false),
            on_news,
            spare: Spare::default(),
            spare_wanted: AtomicBool::new(false),
        });
        let thread = thread::Builder::new().name("replica".to_owned()).stack_size(STACK);
        let of_thread = Arc::clone(&shared);
        thread.spawn(move || Thread { shared: of_thread, woken, turns, synced: false }.run())?;
        Ok(Self { shared })
    }

    /// Returns when all that was changed before this call is in the replica, with the number of
    /// its next change; `None` if the replica is not in sync, or the switch does not answer.
    #[must_use]
    pub fn barrier(&self, deadline: Deadline) -> Option<u64> {
        self.ask_barrier().and_then(|asked| asked.wait(deadline))
    }

    /// Asks for a [`barrier`](Self::barrier) and does not wait.
    #[must_use]
    pub fn ask_barrier(&self) -> Option<AskedBarrier> {
        if !self.replica().is_in_sync() {
            return None;
        }
        let (answer, answered) = sync_channel(1);
        self.shared.asked().push(answer);
        self.shared.wake();
        Some(AskedBarrier(answered))
    }

    /// The ports that the bridge had at the last [`barrier`](Self::barrier), or later; `None`: the
    /// switch does not report them.
    #[must_use]
    pub fn ports(&self) -> Option<PortList> {
        self.shared.ports().clone()
    }

    /// A connection to the bridge that was opened before, if there is one: see
    /// [`BridgeTables::prefetch`](super::BridgeTables::prefetch).
    #[must_use]
    pub fn take_spare(
        &self,
        deadline: Deadline,
        watching: bool,
        groups: Groups,
    ) -> Option<Prefetch> {
        self.shared.spare.take(deadline, watching, groups)
    }

    /// Somebody has died on the bridge: asks what the clean-up will ask first.
    pub fn ask_ahead(&self) {
        if self.replica().is_in_sync() {
            self.shared.spare.ask_ahead();
        }
    }

    /// Nobody waits for the bridge now: a connection is opened for the next one.
    pub fn want_spare(&self) {
        self.shared.spare_wanted.store(true, Ordering::Release);
        self.shared.wake();
    }

    /// The replica. Whoever holds it keeps the watcher waiting.
    pub fn replica(&self) -> MutexGuard<'_, Replica> {
        self.shared.replica()
    }
}

/// A barrier that was asked for.
#[derive(Debug)]
pub struct AskedBarrier(Receiver<Option<u64>>);

impl AskedBarrier {
    /// Waits until all that was changed before the question is in the replica.
    #[must_use]
    pub fn wait(self, deadline: Deadline) -> Option<u64> {
        self.0.recv_timeout(deadline.left().ok()?).ok().flatten()
    }
}

impl Drop for Watcher {
    /// The thread ends by itself. A switch that has just been asked and hangs may keep it for
    /// [`BUILD_TIME`]: whoever does not follow that bridge any longer must not wait so long.
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        self.shared.wake();
    }
}

impl Shared {
    fn replica(&self) -> MutexGuard<'_, Replica> {
        self.replica.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ports(&self) -> MutexGuard<'_, Option<PortList>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_news(&self) {
        let news = self.replica().take_news();
        if !news.is_none() {
            (self.on_news.0)(news);
        }
    }

    fn asked(&self) -> MutexGuard<'_, Vec<SyncSender<Option<u64>>>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // If it does not fit, there are bytes enough to wake it.
        let _ = (&self.wake).write(&[0]);
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    fn bridge(&self) -> String {
        self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// What a session ended with, and why.
struct End {
    doubt: Doubt,
    why: String,
}

impl From<Doubt> for End {
    fn from(doubt: Doubt) -> Self {
        Self { doubt, why: doubt.to_string() }
    }
}

impl From<Error> for End {
    fn from(failed: Error) -> Self {
        let malformed = matches!(failed, Error::Malformed { .. });
        let doubt = if malformed { Doubt::Malformed } else { Doubt::Closed };
        Self { doubt, why: failed.to_string() }
    }
}

/// What the thread has.
struct Thread {
    shared: Arc<Shared>,
    woken: UnixStream,
    turns: Arc<Turns>,
    /// The replica was in sync in this session.
    synced: bool,
}

impl Thread {
    fn run(mut self) {
        let mut rebuilds = Rebuilds::default();
        let bridge = self.shared.bridge();
        loop {
            let Err(End { doubt, why }) = self.session();
            let synced = std::mem::take(&mut self.synced);
            self.shared.replica().doubt(doubt);
            *self.shared.ports() = None;
            if self.shared.is_stopped() {
                break;
            }
            let pause = rebuilds.after(doubt, synced, Instant::now(), chance());
            if pause.new {
                self.shared.replica().fall_back();
                warn!("bridge {bridge}: served by dumps for {:?}: {why}", pause.time);
            } else if pause.fallback {
                debug!("bridge {bridge}: still served by dumps: {why}");
            } else {
                debug!("bridge {bridge}: the replica is built anew in {:?}: {why}", pause.time);
            }
            self.rest(pause.time);
        }
        self.answer(None);
    }

    /// Nobody gets an answer for so long.
    fn rest(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while !self.shared.is_stopped() {
            self.answer(None);
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.wait(None, left);
        }
    }

    fn answer(&self, with: Option<u64>) {
        for asked in std::mem::take(&mut *self.shared.asked()) {
            // Whoever asked may have gone.
            let _ = asked.try_send(with);
        }
    }

    /// Builds the replica, and follows the switch until there is a doubt.
    fn session(&mut self) -> Result<Infallible, End> {
        let mut monitor = self.build()?;
        self.synced = true;
        let (mut tick, mut unanswered) = (Instant::now() + TICK, 0);
        let mut opening = self.shared.spare.keep(&self.shared.path);
        loop {
            let soon = if opening { OPENING } else { TICK };
            let rest = tick.saturating_duration_since(Instant::now());
            self.wait(Some(&monitor), rest.min(soon));
            if self.shared.is_stopped() {
                return Err(Doubt::Closed.into());
            }
            monitor.set_deadline(Deadline::after(BUILD_TIME));
            let updates = monitor.updates()?;
            self.take_in(&mut monitor, &updates)?;
            let waiting = std::mem::take(&mut *self.shared.asked());
            if waiting.is_empty() && Instant::now() < tick {
                let wanted = self.shared.spare_wanted.swap(false, Ordering::AcqRel);
                opening = (opening || wanted) && self.shared.spare.keep(&self.shared.path);
                continue;
            }
            let is_short = || self.shared.limits.memory.now().is_some_and(Memory::is_short);
            if Instant::now() >= tick && is_short() {
                return Err(Doubt::NoMemory.into());
            }
            let answer = self.barrier(&mut monitor).inspect_err(|end| {
                // Before anybody is told that there is no answer.
                self.shared.replica().doubt(end.doubt);
            })?;
            for asked in waiting {
                // Whoever asked may have gone.
                let _ = asked.try_send(answer);
            }
            unanswered = if answer.is_some() { 0 } else { unanswered + 1 };
            if unanswered >= MOST_UNANSWERED {
                return Err(Doubt::Closed.into());
            }
            if Instant::now() >= tick {
                opening = self.shared.spare.keep(&self.shared.path);
            }
            tick = Instant::now() + TICK;
        }
    }

    /// The monitor's connection, when the replica is in sync.
    fn build(&mut self) -> Result<Connection, End> {
        let path = &self.shared.path;
        let deadline = || Deadline::after(BUILD_TIME);
        // A switch that is away or hangs takes no turn, and a monitor is asked for when it is read.
        drop(Connection::open(path, deadline())?);
        let Some(turn) = self.turns.take(|| self.shared.is_stopped()) else {
            return Err(Doubt::Closed.into());
        };
        let mut monitor = Connection::open(path, deadline())?;
        let asked = BootTime::now();
        monitor.watch()?;
        monitor.barrier()?;
        if !monitor.is_watching() {
            return Err(Doubt::Refused.into());
        }
        let mut dump = Connection::open(path, deadline())?;
        if dump.datapath_id()? != monitor.datapath_id()? || dump.version() != monitor.version() {
            return Err(Doubt::OtherDatapath.into());
        }
        self.check_limits(&mut dump)?;
        let (source, _) = DumpSource::over(dump)?;
        self.shared.replica().begin(monitor.version(), asked);
        self.read_dump(&mut monitor, source)?;
        drop(turn);
        if !monitor.follow_ports()? {
            debug!("bridge {}: does not report its ports", self.shared.bridge());
        }
        if self.barrier(&mut monitor)?.is_none() {
            return Err(Doubt::Closed.into());
        }
        self.shared.replica().complete_dump(BootTime::now());
        self.shared.tell_news();
        let (entries, bridge) = (self.shared.replica().len(), self.shared.bridge());
        info!("bridge {bridge}: {entries} entries are watched");
        Ok(monitor)
    }

    /// Nothing is dumped that does not fit.
    fn check_limits(&self, switch: &mut Connection) -> Result<(), End> {
        let Limits { entries: most, memory } = &self.shared.limits;
        let tables = switch.tables()?.into_iter();
        let entries: u64 = tables.map(|(_, active)| u64::from(active)).sum();
        if usize::try_from(entries).map_or(true, |entries| entries > *most) {
            return Err(Doubt::OverLimit.into());
        }
        let fits = memory.now().is_none_or(|memory| memory.fits(entries));
        if fits { Ok(()) } else { Err(Doubt::NoMemory.into()) }
    }

    /// Reads the dump in a thread of its own: a monitor that is not read meanwhile is paused.
    fn read_dump(&self, monitor: &mut Connection, mut source: DumpSource) -> Result<(), End> {
        let shared = &self.shared;
        thread::scope(|scope| {
            let read = move || {
                let filters = source.everything()?;
                source.scan(&filters, &mut |seen| {
                    shared.replica().dumped(&seen.raw, seen.made);
                    Ok(())
                })
            };
            let reader = thread::Builder::new().name("dump".to_owned()).stack_size(STACK);
            let reader = reader.spawn_scoped(scope, read).map_err(|_| Doubt::Closed)?;
            while !reader.is_finished() {
                monitor.wait_for_updates(TURN / 10);
                let updates = monitor.updates()?;
                self.take_in(monitor, &updates)?;
                self.answer(None);
            }
            let read = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            read.map_err(End::from)
        })
    }

    /// Returns when the replica has all that happened before this call, with the number of its
    /// next change; `None`: the switch does not answer.
    fn barrier(&self, monitor: &mut Connection) -> Result<Option<u64>, End> {
        let sent = BootTime::now();
        monitor.set_deadline(Deadline::after(BARRIER_TIME));
        match monitor.barrier() {
            Ok(()) => {}
            Err(Error::TimedOut { .. }) => return Ok(None),
            Err(failed) => return Err(failed.into()),
        }
        let updates = monitor.noted();
        self.take_in(monitor, &updates)?;
        let mut replica = self.shared.replica();
        replica.heard_until(sent);
        Ok(Some(replica.seq()))
    }

    /// Takes in what the switch has reported.
    fn take_in(&self, monitor: &mut Connection, updates: &[Update]) -> Result<(), End> {
        let doubt = if monitor.take_pause() {
            Some(Doubt::Paused)
        } else if monitor.is_flooded() {
            Some(Doubt::Flooded)
        } else {
            // This connection changes nothing.
            monitor.take_abbreviated().then_some(Doubt::Abbreviated)
        };
        if let Some(doubt) = doubt {
            return Err(doubt.into());
        }
        if let Some(ports) = monitor.changed_ports() {
            *self.shared.ports() = Some(Arc::new(ports));
        }
        let (now, mut replica) = (BootTime::now(), self.shared.replica());
        for update in updates {
            replica.apply(update, now);
        }
        let state = replica.state();
        drop(replica);
        self.shared.tell_news();
        match state {
            State::Doubt(doubt) => Err(doubt.into()),
            _ => Ok(()),
        }
    }

    /// Waits until the switch says something, or somebody wakes us, or for so long.
    fn wait(&mut self, monitor: Option<&Connection>, time: Duration) {
        // Rounded up, so that the last fraction of a millisecond is not spent spinning.
        let time = u16::try_from(time.as_millis().saturating_add(1)).unwrap_or(u16::MAX);
        let mut fds = vec![PollFd::new(self.woken.as_fd(), PollFlags::POLLIN)];
        fds.extend(monitor.map(|it| PollFd::new(it.as_fd(), PollFlags::POLLIN)));
        // If the socket is broken, the next read says so.
        let _ = poll(&mut fds, PollTimeout::from(time));
        let mut bytes = [0; 64];
        while self.woken.read(&mut bytes).is_ok_and(|n| n > 0) {}
    }
}

/// When to build again.
#[derive(Debug, Default)]
struct Rebuilds {
    /// The doubts of the last minute.
    recent: Vec<Instant>,
    /// How often in a row the switch was not there.
    failures: u32,
    fallback: bool,
}

/// How long to wait before building again.
#[derive(Debug, PartialEq, Eq)]
struct Pause {
    time: Duration,
    /// Dumps serve meanwhile.
    fallback: bool,
    /// And did not before.
    new: bool,
}

impl Rebuilds {
    /// After this doubt; `synced`: the replica was in sync until then.
    fn after(&mut self, doubt: Doubt, synced: bool, now: Instant, chance: f64) -> Pause {
        self.recent.retain(|at| now.saturating_duration_since(*at) < MINUTE);
        self.failures = if synced { 0 } else { self.failures.saturating_add(1) };
        let long = matches!(doubt, Doubt::Refused | Doubt::OverLimit | Doubt::NoMemory);
        // A switch that is away costs nothing: whoever waits for it is there when it is back.
        let away = doubt == Doubt::Closed && !synced;
        if !away {
            self.recent.push(now);
        }
        let fallback = long || self.recent.len() > MOST_REBUILDS;
        let new = fallback && !self.fallback;
        // Until it has been in sync for a while.
        self.fallback = fallback || (self.fallback && !synced);
        let time = match (long, fallback) {
            (true, _) => LONG,
            (false, true) => MINUTE,
            _ => back_off(self.failures, LEAST, MOST, chance),
        };
        Pause { time, fallback, new }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_that_gives_cause_for_doubt_again_and_again_is_left_to_dumps() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut rebuilds = Rebuilds::default();
        for s in 0..3 {
            let pause = rebuilds.after(Doubt::Paused, true, at(s), 1.0);
            assert_eq!(pause, Pause { time: LEAST, fallback: false, new: false });
        }
        let pause = rebuilds.after(Doubt::Paused, true, at(3), 1.0);
        assert_eq!(pause, Pause { time: MINUTE, fallback: true, new: true });
        // A minute later there is another try.
        let pause = rebuilds.after(Doubt::Evicted, true, at(64), 1.0);
        assert_eq!(pause, Pause { time: LEAST, fallback: false, new: false });
    }

    #[test]
    fn a_switch_that_is_away_is_waited_for() {
        let now = Instant::now();
        let mut rebuilds = Rebuilds::default();
        for n in 0..20 {
            let pause = rebuilds.after(Doubt::Closed, false, now, 1.0);
            assert!(!pause.fallback && pause.time <= MOST, "{n}: {pause:?}");
        }
        assert_eq!(rebuilds.after(Doubt::Closed, true, now, 1.0).time, LEAST);
    }

    #[test]
    fn a_switch_without_monitors_is_said_once() {
        let now = Instant::now();
        let mut rebuilds = Rebuilds::default();
        for n in 0..3 {
            let pause = rebuilds.after(Doubt::Refused, false, now + LONG * n, 1.0);
            assert_eq!(pause, Pause { time: LONG, fallback: true, new: n == 0 });
        }
    }
}
