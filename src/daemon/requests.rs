//! Does clean-ups for calls of the plugin (DEL, GC, ADD's purge), which ask over a Unix socket in
//! the state directory.
//!
//! Each request has a thread of its own, which no sweep holds up, and the engine that every verb
//! uses. Requests of one bridge that came together are done together: a bridge is read once for
//! all of them. Only two of its clean-ups are under way at the same time, so that a bridge that
//! hangs holds up nobody else's. The plugin waits for a small part of its time and then does the work
//! itself: a request is worked on for as long as it waits, and no longer.

use std::collections::{HashMap, VecDeque};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use log::{debug, info, warn};
use nix::sys::socket::{Shutdown, getsockopt, shutdown, sockopt::PeerCredentials};

use super::{STACK, Shared};
use crate::model::attachment::Key;
use crate::reconcile::wire::CleanResult::{Busy, Failed, Refused, Withdrawn};
use crate::reconcile::wire::{
    CleanReply, CleanResult, MOST_REQUEST, WireRequest, WireTarget, database_identity,
};
use crate::reconcile::{CleanRequest, CleanTarget, Database, Lease, Leases, Outcome, orphans};
use crate::store::Registry;
use crate::util::clock::{Deadline, Stamp, arm, boot_id};

/// Clean-ups at the same time: of all bridges, of one.
const MOST: usize = 8;
const MOST_OF_ONE: usize = 2;
/// Requests that are there at the same time.
const MOST_THREADS: usize = 64;
/// A plugin writes its request at once, and reads its answer.
const LINE: Duration = Duration::from_secs(1);
/// However long a call says that it waits.
const LONGEST: Duration = Duration::from_secs(2);
/// How long it is remembered how long a bridge takes.
const RECENT: Duration = Duration::from_secs(2);
/// Connections to the database that are kept for the next requests, and for how long.
const MOST_DATABASES: usize = 4;
const KEPT: Duration = Duration::from_secs(60);

/// What the threads of the requests share.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    listening: Mutex<Option<Listening>>,
    threads: AtomicUsize,
    queue: Queue,
    databases: Mutex<Vec<(Instant, Database)>>,
}

/// A listener whose thread ends when this is dropped.
#[derive(Debug)]
struct Listening(UnixListener);

impl Drop for Listening {
    fn drop(&mut self) {
        // Ends the thread's accept.
        let _ = shutdown(self.0.as_raw_fd(), Shutdown::Both);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn not_done(result: CleanResult, why: &str) -> CleanReply {
    CleanReply::not_done(result, why)
}

/// Serves calls in this state directory, in place of an earlier one. Only for the holder of the
/// daemon's lock: a socket that is there was left behind by a daemon that is gone.
pub(super) fn listen(shared: &Arc<Shared>, registry: &Registry) {
    let path = registry.daemon_socket();
    // Nobody finds the earlier one any more.
    locked(&shared.requests.listening).take();
    let started = bind(&path).and_then(|listener| {
        let (serving, listening) = (Arc::clone(shared), Listening(listener.try_clone()?));
        let thread = std::thread::Builder::new().name("requests".to_owned()).stack_size(STACK);
        thread.spawn(move || accept(&serving, &listener))?;
        Ok(listening)
    });
    match started {
        Ok(listening) => {
            *locked(&shared.requests.listening) = Some(listening);
            info!("calls may ask at {}", path.display());
        }
        Err(failed) => warn!("{}: {failed}; calls do their own work", path.display()),
    }
}

fn bind(path: &std::path::Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(failed) if failed.kind() != io::ErrorKind::NotFound => return Err(failed),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Runs until the listener is shut down.
fn accept(shared: &Arc<Shared>, listener: &UnixListener) {
    loop {
        match listener.accept() {
            Ok((stream, _)) => begin(shared, stream),
            // It was shut down.
            Err(failed) if failed.kind() == io::ErrorKind::InvalidInput => return,
            Err(failed) if failed.kind() == io::ErrorKind::Interrupted => {}
            Err(failed) => {
                warn!("cannot accept a call's request: {failed}");
                std::thread::sleep(LINE);
            }
        }
    }
}

/// Counts a thread for as long as it exists.
struct Counted(Arc<Shared>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.requests.threads.fetch_sub(1, Ordering::Relaxed);
    }
}

fn begin(shared: &Arc<Shared>, stream: UnixStream) {
    let before = shared.requests.threads.fetch_add(1, Ordering::Relaxed);
    let counted = Counted(Arc::clone(shared));
    if before >= MOST_THREADS {
        let reply = not_done(Busy, "too many calls at once");
        return answer(shared, &stream, "none", &reply);
    }
    let thread = std::thread::Builder::new().name("request".to_owned()).stack_size(STACK);
    let spawned = thread.spawn(move || serve(&counted.0, stream));
    if let Err(failed) = spawned {
        warn!("cannot start a thread for a call's request: {failed}");
    }
}

/// One request from its first byte to its answer.
fn serve(shared: &Shared, stream: UnixStream) {
    let request = match read(&stream) {
        Ok(request) => request,
        Err(why) => {
            debug!("a request is refused: {why}");
            let reply = not_done(Refused, &why);
            return answer(shared, &stream, "none", &reply);
        }
    };
    let (began, verb) = (Instant::now(), request.verb.as_str());
    let names: Vec<String> = request.targets.iter().map(|t| t.key.to_string()).take(8).collect();
    debug!("{verb} asks for {} of the dead: {}", request.targets.len(), names.join(", "));
    let lease = Lease::new(stream, request.until_ms);
    let reply = match job(shared, request, lease) {
        Ok(job) => {
            let job = Arc::new(job);
            let reply = shared.requests.queue.serve(&job, &|jobs| clean(shared, jobs));
            answer(shared, job.lease.stream(), verb, &reply);
            reply
        }
        Err((lease, reply)) => {
            answer(shared, lease.stream(), verb, &reply);
            reply
        }
    };
    let CleanReply { result, deleted, why, .. } = reply;
    debug!(
        "{verb} of {}: {} after {} ms, {deleted} entries deleted {}",
        names.join(", "),
        result.as_str(),
        began.elapsed().as_millis(),
        why.unwrap_or_default()
    );
    shared.requests.listen();
}

fn answer(shared: &Shared, stream: &UnixStream, verb: &str, reply: &CleanReply) {
    let labels = [("verb", verb.to_owned()), ("result", reply.result.as_str().to_owned())];
    shared.metrics.requests.get_or_create(&labels).inc();
    // The call may be gone: then nobody needs the answer.
    let Some(line) = reply.line() else { return };
    let _ = arm(stream, Deadline::after(LINE)).and_then(|()| (&*stream).write_all(&line));
}

/// Reads a request of somebody who may ask.
fn read(stream: &UnixStream) -> Result<WireRequest, String> {
    let peer = getsockopt(stream, PeerCredentials).map_err(|errno| errno.to_string())?;
    if peer.uid() != 0 && peer.uid() != nix::unistd::geteuid().as_raw() {
        return Err(format!("user {} may not ask", peer.uid()));
    }
    let until = Deadline::after(LINE);
    let mut line = Vec::new();
    let bounded = Until { stream, until }.take(MOST_REQUEST + 1);
    let read = BufReader::new(bounded).read_until(b'\n', &mut line);
    read.map_err(|failed| format!("no request came: {failed}"))?;
    if line.len() as u64 > MOST_REQUEST {
        return Err(format!("a request has {MOST_REQUEST} bytes at most"));
    }
    if line.last() != Some(&b'\n') {
        return Err("the request has no end".to_owned());
    }
    WireRequest::read(&line)
}

/// Reads until a moment, however slowly it is written to.
struct Until<'s> {
    stream: &'s UnixStream,
    until: Deadline,
}

impl Read for Until<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        arm(self.stream, self.until)?;
        self.stream.read(buffer)
    }
}

/// A request that can be done.
#[derive(Debug)]
struct Job {
    request: WireRequest,
    targets: Vec<CleanTarget>,
    lease: Lease,
    /// Whoever has done it puts the answer here.
    reply: Mutex<Option<CleanReply>>,
}

/// So many of the dead are cleaned up at once, at most.
const MOST_TARGETS: usize = 64;

impl Job {
    fn keys(&self) -> impl Iterator<Item = &Key> {
        self.targets.iter().map(|target| &target.attachment.key)
    }

    fn is_of(&self, key: &Key) -> bool {
        self.keys().any(|own| own == key)
    }

    /// Whether it can be done together with another: the same verb and configuration, and no dead
    /// in common.
    fn goes_with(&self, other: &Self) -> bool {
        let WireRequest { verb, overlay, adding, .. } = &self.request;
        let alike = *verb == other.request.verb && *overlay == other.request.overlay;
        alike && adding.is_none() && !other.keys().any(|key| self.is_of(key))
    }

    /// The bridge that it is about, as far as the records tell.
    fn bridge(&self) -> String {
        let named = self.targets.iter().find_map(|target| target.attachment.bridge.clone());
        named.unwrap_or_default()
    }

    fn left(&self) -> Duration {
        let left = self.request.until_ms.saturating_sub(Stamp::now().boot_ms);
        Duration::from_millis(left).min(LONGEST)
    }

    /// What came of it in a clean-up that it was part of.
    fn reply_of(&self, outcome: &Outcome) -> CleanReply {
        let own = || outcome.targets.iter().filter(|target| self.is_of(&target.life.0));
        let error = own().find_map(|target| target.error.as_deref());
        if let Some(why) = outcome.failed.as_deref().or(error) {
            return not_done(if self.lease.holds() { Failed } else { Withdrawn }, why);
        }
        let withheld = outcome.withheld().filter(|w| w.of.is_some_and(|of| self.is_of(&of.life.0)));
        let withheld = withheld.map(|withheld| withheld.count).sum();
        CleanReply::done(own().map(|target| target.entries.deleted).sum(), withheld)
    }
}

/// A request as something that can be done, or why it cannot.
fn job(shared: &Shared, request: WireRequest, lease: Lease) -> Result<Job, (Lease, CleanReply)> {
    match targets_of(shared, &request) {
        Ok(_) if !lease.holds() => {
            Err((lease, not_done(Withdrawn, "the call does not wait any longer")))
        }
        Ok(targets) => Ok(Job { request, targets, lease, reply: Mutex::default() }),
        Err(reply) => Err((lease, reply)),
    }
}

fn targets_of(shared: &Shared, request: &WireRequest) -> Result<Vec<CleanTarget>, CleanReply> {
    let boot = boot_id().map_err(|error| not_done(Failed, &error.to_string()))?;
    if request.boot_id != boot {
        return Err(not_done(Refused, "it is of another boot"));
    }
    if database_identity(&shared.run_dir) != Some(request.database) {
        return Err(not_done(Refused, "it is about another Open vSwitch"));
    }
    let registry = registry(shared).map_err(|why| not_done(Failed, &why))?;
    targets(&registry, &request.targets, &boot).map_err(|why| not_done(Failed, &why))
}

fn registry(shared: &Shared) -> Result<Registry, String> {
    let registry = Registry::open_existing(&shared.options.state_dir);
    registry
        .map_err(|error| error.to_string())?
        .ok_or_else(|| "there is no state directory".to_owned())
}

/// Does requests that go together, and answers each.
fn clean(shared: &Shared, jobs: &[Arc<Job>]) {
    let Some(first) = jobs.first() else { return };
    let registry = match registry(shared) {
        Ok(registry) => registry,
        Err(why) => {
            jobs.iter().for_each(|job| *locked(&job.reply) = Some(not_done(Failed, &why)));
            return;
        }
    };
    let mut leases = Leases::default();
    jobs.iter().for_each(|job| leases.add(&job.lease, job.keys()));
    let deadline = Deadline::after(jobs.iter().map(|job| job.left()).max().unwrap_or_default());
    let database = shared.requests.database();
    let request = &first.request;
    let overlay = request.overlay.clone().map(|overlay| (overlay.network, overlay.config));
    let run_dir = shared.run_dir.clone();
    let mut cleaning =
        CleanRequest::of_call(Some(&registry), run_dir, deadline, request.verb.as_str())
            .overlaid(overlay)
            .leased(&leases, &database)
            .following(&shared.replicas);
    if let Some(key) = request.adding.clone() {
        cleaning = cleaning.adding(key);
    }
    let targets = jobs.iter().flat_map(|job| job.targets.clone()).collect();
    let outcome = cleaning.clean(targets);
    shared.metrics.cleaned(&outcome);
    for job in jobs {
        *locked(&job.reply) = Some(job.reply_of(&outcome));
    }
    // Others wait for their part, too.
    shared.requests.queue.changed.notify_all();
    drop(cleaning);
    shared.requests.keep(database);
}

/// The dead as they are written down. One that is not has to be cleaned up by who knows of it.
fn targets(
    registry: &Registry,
    asked: &[WireTarget],
    boot: &str,
) -> Result<Vec<CleanTarget>, String> {
    let now = Stamp::now();
    let target = |asked: &WireTarget| {
        let WireTarget { key, generation, cause } = asked;
        let tombstone = registry.tombstone(key, *generation).map_err(|error| error.to_string())?;
        let tombstone = tombstone.ok_or_else(|| format!("{key}: it has no such tombstone"))?;
        let attachment = orphans::died(tombstone, now, boot);
        Ok(CleanTarget { attachment, cause: cause.clone() })
    };
    asked.iter().map(target).collect()
}

impl Requests {
    /// Whether no request is worked on.
    pub(super) fn is_idle(&self) -> bool {
        locked(&self.queue.state).working == 0
    }

    /// A connection to the database that an earlier request has kept, or will be made.
    fn database(&self) -> Database {
        let mut kept = locked(&self.databases);
        kept.retain(|(since, _)| since.elapsed() < KEPT);
        kept.pop().map(|(_, database)| database).unwrap_or_default()
    }

    /// Takes in what the server has told of on a connection that is kept. No call waits for it.
    fn listen(&self) {
        let kept = locked(&self.databases).pop();
        if let Some((_, database)) = kept {
            database.listen(Deadline::after(LINE));
            self.keep(database);
        }
    }

    /// Keeps it for the next request.
    fn keep(&self, database: Database) {
        let mut kept = locked(&self.databases);
        if kept.len() < MOST_DATABASES {
            kept.push((Instant::now(), database));
        }
    }

    /// Closes connections that no request has used for a while.
    pub(super) fn close_idle(&self) {
        locked(&self.databases).retain(|(since, _)| since.elapsed() < KEPT);
    }
}

/// The requests that wait, and how many are worked on.
#[derive(Debug, Default)]
struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct QueueState {
    working: usize,
    bridges: HashMap<String, Lane>,
}

/// The requests of one bridge.
#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<Arc<Job>>,
    working: usize,
    /// How long the last clean-up took, and when it ended.
    last: Option<(Duration, Instant)>,
}

impl Lane {
    /// Whether one more is done in time, as far as can be told.
    fn is_in_time(&self, left: Duration) -> bool {
        self.recent().is_none_or(|took| took < left)
    }

    fn recent(&self) -> Option<Duration> {
        self.last.filter(|(_, ended)| ended.elapsed() < RECENT).map(|(took, _)| took)
    }

    /// The next requests that are done together.
    fn take(&mut self) -> Vec<Arc<Job>> {
        let (mut batch, mut rest) = (Vec::<Arc<Job>>::new(), VecDeque::new());
        let mut count = 0usize;
        for job in std::mem::take(&mut self.waiting) {
            let fits = count.saturating_add(job.targets.len()) <= MOST_TARGETS;
            if batch.is_empty() || fits && batch.iter().all(|other| job.goes_with(other)) {
                count = count.saturating_add(job.targets.len());
                batch.push(job);
            } else {
                rest.push_back(job);
            }
        }
        self.waiting = rest;
        batch
    }
}

/// A clean-up that is under way.
struct Turn<'q> {
    queue: &'q Queue,
    bridge: &'q str,
    began: Instant,
}

impl Queue {
    /// Waits until the request is done, and does what is next meanwhile: each thread that waits
    /// also works, so that requests which came together are done together.
    fn serve(&self, job: &Arc<Job>, clean: &dyn Fn(&[Arc<Job>])) -> CleanReply {
        let bridge = job.bridge();
        let mut state = locked(&self.state);
        let lane = state.bridges.entry(bridge.clone()).or_default();
        if !lane.is_in_time(job.left()) {
            return not_done(Busy, "the bridge answers slowly");
        }
        lane.waiting.push_back(Arc::clone(job));
        loop {
            if let Some(reply) = locked(&job.reply).take() {
                return reply;
            }
            let room = state.working < MOST;
            let lane = state.bridges.entry(bridge.clone()).or_default();
            let waits = lane.waiting.iter().any(|other| Arc::ptr_eq(other, job));
            let left = job.left();
            if waits && left.is_zero() {
                lane.waiting.retain(|other| !Arc::ptr_eq(other, job));
                return not_done(Withdrawn, "the call does not wait any longer");
            }
            if waits && room && lane.working < MOST_OF_ONE {
                let batch = lane.take();
                lane.working += 1;
                state.working += 1;
                drop(state);
                let turn = Turn { queue: self, bridge: &bridge, began: Instant::now() };
                clean(&batch);
                drop(turn);
                state = locked(&self.state);
                continue;
            }
            // Another thread has it: it ends by its deadline.
            let pause = if waits { left } else { LINE };
            let waited = self.changed.wait_timeout(state, pause);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = locked(&self.queue.state);
        state.working = state.working.saturating_sub(1);
        if let Some(lane) = state.bridges.get_mut(self.bridge) {
            lane.working = lane.working.saturating_sub(1);
            lane.last = Some((self.began.elapsed(), Instant::now()));
        }
        let idle = |lane: &Lane| lane.working == 0 && lane.waiting.is_empty();
        state.bridges.retain(|_, lane| !idle(lane) || lane.recent().is_some());
        self.queue.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use serde_json::json;

    use super::*;
    use crate::model::attachment::Attachment;
    use crate::reconcile::Cause;
    use crate::reconcile::wire::CleanResult::Done;

    /// A request for one of the dead; the call's end of its connection.
    fn job(container: &str, bridge: &str, wait: Duration) -> (Arc<Job>, UnixStream) {
        let until = Stamp::now().boot_ms + u64::try_from(wait.as_millis()).unwrap();
        let request = json!({
            "version": 1, "verb": "DEL", "bootId": "b", "untilMs": until, "database": [1, 2],
            "adding": null, "overlay": null, "targets": [],
        });
        let request = WireRequest::read(request.to_string().as_bytes()).unwrap();
        let key = Key {
            network: "podnet".parse().unwrap(),
            container: container.parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        let mut attachment = Attachment::new(key, 1, "b".to_owned(), Stamp::now());
        attachment.bridge = Some(bridge.to_owned());
        let (call, stream) = UnixStream::pair().unwrap();
        let targets = vec![CleanTarget { attachment, cause: Cause::Del }];
        let (lease, reply) = (Lease::new(stream, until), Mutex::default());
        (Arc::new(Job { request, targets, lease, reply }), call)
    }

    const LONG: Duration = Duration::from_secs(2);
    const SHORT: Duration = Duration::from_millis(60);

    /// Answers each of a batch, after this time.
    fn clean_after(pause: Duration, sizes: &Mutex<Vec<usize>>) -> impl Fn(&[Arc<Job>]) {
        move |jobs| {
            std::thread::sleep(pause);
            locked(sizes).push(jobs.len());
            for job in jobs {
                *locked(&job.reply) = Some(CleanReply::done(1, 0));
            }
        }
    }

    #[test]
    fn requests_that_come_together_are_done_together() {
        let (queue, sizes) = (Queue::default(), Mutex::new(Vec::new()));
        let clean = clean_after(Duration::from_millis(100), &sizes);
        std::thread::scope(|scope| {
            for n in 0..20 {
                let (queue, clean) = (&queue, &clean as &(dyn Fn(&[Arc<Job>]) + Sync));
                scope.spawn(move || {
                    let (job, _call) = job(&format!("c{n}"), "br0", LONG);
                    let reply = queue.serve(&job, &|jobs| clean(jobs));
                    assert_eq!(reply.result, Done, "{reply:?}");
                });
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let sizes = locked(&sizes).clone();
        assert_eq!(sizes.iter().sum::<usize>(), 20, "each once");
        assert!(sizes.len() < 10, "{sizes:?}");
        assert_eq!(locked(&queue.state).working, 0);
    }

    #[test]
    fn a_bridge_that_hangs_holds_up_nobody_elses_requests() {
        let (queue, sizes) = (Queue::default(), Mutex::new(Vec::new()));
        let at_once = clean_after(Duration::ZERO, &sizes);
        std::thread::scope(|scope| {
            for n in 0..MOST {
                let queue = &queue;
                scope.spawn(move || {
                    let (job, _call) = job(&format!("c{n}"), "br0", LONG);
                    queue.serve(&job, &|jobs| {
                        std::thread::sleep(Duration::from_millis(300));
                        for job in jobs {
                            *locked(&job.reply) = Some(not_done(Failed, "it hangs"));
                        }
                    })
                });
            }
            std::thread::sleep(Duration::from_millis(100));
            assert!(locked(&queue.state).working <= MOST_OF_ONE);
            let (other, _call) = job("other", "br1", LONG);
            let began = Instant::now();
            assert_eq!(queue.serve(&other, &at_once).result, Done);
            assert!(began.elapsed() < Duration::from_millis(150), "{:?}", began.elapsed());
            let (late, _call) = job("late", "br0", SHORT);
            assert_eq!(queue.serve(&late, &at_once).result, Withdrawn);
        });
        // It takes longer than this call waits, and is not tried for the moment.
        let (next, _call) = job("next", "br0", SHORT);
        assert_eq!(queue.serve(&next, &at_once).result, Busy);
        let (patient, _call) = job("patient", "br0", LONG);
        assert_eq!(queue.serve(&patient, &at_once).result, Done);
    }

    #[test]
    fn two_calls_for_one_pod_are_not_one_clean_up() {
        let (one, _call) = job("c1", "br0", LONG);
        let (again, _call) = job("c1", "br0", LONG);
        let (other, _call) = job("c2", "br0", LONG);
        assert!(one.goes_with(&other) && !one.goes_with(&again));
        let mut lane = Lane::default();
        lane.waiting.extend([&one, &again, &other].map(Arc::clone));
        assert_eq!((lane.take().len(), lane.take().len(), lane.take().len()), (2, 1, 0));
    }
}
