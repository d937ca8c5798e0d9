//! What others ask the daemon for over a Unix socket in the state directory: clean-ups for calls of
//! the plugin (DEL, GC, ADD's purge), and what the commands print.
//!
//! | file | question |
//! | --- | --- |
//! | `mod` | who asks, and what: each request has a thread of its own, which no sweep holds up |
//! | `clean` | what is a request as a clean-up |
//! | `queue` | which clean-ups are done together, and when |
//! | `databases` | over which connection is the database asked |
//! | `questions` | what do the commands ask, which change nothing |
//!
//! Requests of one bridge that came together are done together: a bridge is read once for all of
//! them. The plugin is told at once that its request is accepted. It waits for a part of its time and
//! then does the work itself: a request is worked on for as long as it waits, and no longer.

mod clean;
mod databases;
mod questions;
mod queue;

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use log::{debug, info, warn};
use nix::sys::socket::{Shutdown, getsockopt, shutdown, sockopt::PeerCredentials};

use super::{STACK, Shared};
use crate::reconcile::wire::CleanResult::{Busy, Refused};
use crate::reconcile::wire::{CleanReply, CleanResult, MOST_REQUEST, WireRequest};
use crate::reconcile::{Lease, WireAnswer, WireQuestion};
use crate::store::{Registry, RegistrySnapshot};
use crate::util::clock::{Deadline, ReadUntil, arm};
use clean::{clean, job};
use databases::Databases;
pub(super) use questions::overview;
use queue::Queue;

/// Requests that are there at the same time.
const MOST_THREADS: usize = 64;
/// So many of the last ones are shown.
const MOST_SHOWN: usize = 5;
/// A plugin writes its request at once, and reads its answer.
const LINE: Duration = Duration::from_secs(1);

/// What the threads of the requests share.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    listening: Mutex<Option<Listening>>,
    threads: AtomicUsize,
    queue: Queue,
    databases: Databases,
    /// The records as the last clean-up read them.
    known: Mutex<Option<RegistrySnapshot>>,
    /// Held by the question that is being answered.
    question: Mutex<()>,
    /// What became of the last ones and when, the last in front.
    last: Mutex<VecDeque<(String, Instant)>>,
    /// What calls have counted could not be read, and the log says so.
    uncounted: AtomicBool,
}

impl Requests {
    /// Whether no clean-up is worked on.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_idle()
    }

    /// One was answered now.
    fn answered(&self, became: String) {
        let mut last = locked(&self.last);
        last.push_front((became, Instant::now()));
        last.truncate(MOST_SHOWN);
    }

    /// What became of the last ones, the last in front.
    pub(super) fn lately(&self) -> Vec<String> {
        let last = locked(&self.last);
        let lines = last.iter().map(|(became, at)| (became, crate::cli::ago(at.elapsed())));
        lines.map(|(became, ago)| format!("{became}, {ago} ago")).collect()
    }

    /// Closes connections that no request has used for a while.
    pub(super) fn close_idle(&self) {
        self.databases.close_idle();
    }
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
    let line = read(&stream);
    if let Some(line) = line.as_ref().ok().filter(|line| WireQuestion::is_one(line)) {
        return answer_question(shared, &stream, line);
    }
    let request = match line.and_then(|line| WireRequest::read(&line)) {
        Ok(request) => request,
        Err(why) => {
            debug!("a request is refused: {why}");
            let reply = not_done(Refused, &why);
            return answer(shared, &stream, "none", &reply);
        }
    };
    let (began, verb) = (Instant::now(), request.verb.as_str());
    let whose = whose(&request);
    debug!("{verb} asks for {} of the dead: {whose}", request.targets.len());
    let lease = Lease::new(stream, request.until_ms);
    let reply = match job(shared, request, lease) {
        Ok(job) => {
            let job = Arc::new(job);
            if job.request.tell_accepted {
                send(job.lease.stream(), CleanReply::accepted().line());
            }
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
    let became = format!(
        "{verb}{}{whose}: {} in {} ms, {deleted} entries deleted",
        if whose.is_empty() { "" } else { " of " },
        result.as_str(),
        began.elapsed().as_millis()
    );
    debug!("{became} {}", why.unwrap_or_default());
    shared.requests.answered(became);
    shared.requests.databases.listen();
}

/// Whose call it is: that of its dead, or, where there are none (GC), that of its network.
fn whose(request: &WireRequest) -> String {
    let mut names: Vec<String> =
        request.targets.iter().map(|t| t.key.to_string()).take(8).collect();
    if names.is_empty() {
        names.extend(request.overlay.iter().map(|overlay| overlay.network.to_string()));
    }
    names.join(", ")
}

fn answer(shared: &Shared, stream: &UnixStream, verb: &str, reply: &CleanReply) {
    let labels = [("verb", verb.to_owned()), ("result", reply.result.as_str().to_owned())];
    shared.metrics.requests.get_or_create(&labels).inc();
    send(stream, reply.line());
}

/// Whoever asked may be gone: then nobody needs the answer.
fn send(stream: &UnixStream, line: Option<Vec<u8>>) {
    let Some(line) = line else { return };
    let _ = arm(stream, Deadline::after(LINE)).and_then(|()| (&*stream).write_all(&line));
}

/// Questions are answered one after the other: they are no hurry.
fn answer_question(shared: &Shared, stream: &UnixStream, line: &[u8]) {
    let answer = {
        let _turn = locked(&shared.requests.question);
        questions::answer(shared, line)
    };
    let result = answer.result.as_str();
    debug!("a question is answered: {result}");
    let too_long = || {
        let why = "the answer would be too long".to_owned();
        WireAnswer::not_done(CleanResult::Failed, why).line()
    };
    send(stream, answer.line().or_else(too_long));
}

/// Reads a line of somebody who may ask.
fn read(stream: &UnixStream) -> Result<Vec<u8>, String> {
    let peer = getsockopt(stream, PeerCredentials).map_err(|errno| errno.to_string())?;
    if peer.uid() != 0 && peer.uid() != nix::unistd::geteuid().as_raw() {
        return Err(format!("user {} may not ask", peer.uid()));
    }
    let until = Deadline::after(LINE);
    let mut line = Vec::new();
    let bounded = ReadUntil { stream, until }.take(MOST_REQUEST + 1);
    let read = BufReader::new(bounded).read_until(b'\n', &mut line);
    read.map_err(|failed| format!("no request came: {failed}"))?;
    if line.len() as u64 > MOST_REQUEST {
        return Err(format!("a request has {MOST_REQUEST} bytes at most"));
    }
    if line.last() != Some(&b'\n') {
        return Err("the request has no end".to_owned());
    }
    Ok(line)
}

/// Takes what calls and deliveries have counted into the metrics.
pub(super) fn count_calls(shared: &Shared) {
    let Ok(registry) = registry(shared) else { return };
    shared.metrics.deliveries(&registry.deliveries().log());
    let failed = match registry.calls() {
        Ok(calls) => {
            shared.metrics.calls(&calls);
            false
        }
        // A call is writing.
        Err(failed) if failed.kind() == io::ErrorKind::WouldBlock => return,
        Err(failed) => {
            if !shared.requests.uncounted.load(Ordering::Relaxed) {
                warn!("what calls did cannot be read: {failed}; the next call begins anew");
            }
            true
        }
    };
    shared.requests.uncounted.store(failed, Ordering::Relaxed);
}

fn registry(shared: &Shared) -> Result<Registry, String> {
    let registry = Registry::open_existing(&shared.options.state_dir);
    registry
        .map_err(|error| error.to_string())?
        .ok_or_else(|| "there is no state directory".to_owned())
}
