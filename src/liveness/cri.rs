//! Liveness by the container runtime, over CRI v1: containerd, CRI-O.
//!
//! The runtime is asked again and again for all its sandboxes; each complete answer is one
//! [observation](super::observations). Events are not used: containerd has them from 1.7 on,
//! CRI-O only if it is configured to.
//!
//! Guarantees: dead is said only of a sandbox that this runtime showed ready over the same
//! connection, when two lists in a row do not, and the runtime, asked for it by id, does not
//! know it ([`LivenessReason::SandboxGone`]), or has it not ready and its network namespace is gone
//! ([`LivenessReason::SandboxStopped`]).
//!
//! Assumption: a runtime that was restarted, and may have lost its state, has closed its
//! connections. What was seen over another connection is forgotten.
//!
//! Caveats: what dies while the runtime is restarted is left to the other sources; so are
//! containers of `ctr`, podman and nerdctl, which CRI does not list.

mod client;
#[cfg(feature = "fuzzing")]
pub(crate) use client::fuzz;

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use log::{debug, info, warn};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

pub use self::client::Error;
use self::client::{Client, Sandbox};
use super::observations::{News, Observations, Seen, Shown};
use super::{Liveness, LivenessReason, LivenessSource, Source, netns};
use crate::model::attachment::Attachment;
use crate::util::backoff::{back_off, chance};
use crate::util::clock::{Stamp, boot_id};

/// How often, and how patiently, the runtime is asked.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Between two lists while nothing happens. The kubelet asks every second.
    pub idle: Duration,
    /// Before the list that confirms or refutes a death.
    pub soon: Duration,
    /// For connecting, and for each call.
    pub timeout: Duration,
    /// Before the first retry; doubled with each failure, with jitter.
    pub retry: Duration,
    /// Between two retries at most.
    pub retry_most: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(2),
            soon: Duration::from_millis(250),
            timeout: Duration::from_secs(5),
            retry: Duration::from_millis(250),
            retry_most: Duration::from_secs(15),
        }
    }
}

/// The runtime as a source of liveness. Dropping it ends the asking.
pub struct Cri {
    shared: Arc<Shared>,
    socket: PathBuf,
    boot_id: String,
    task: AbortHandle,
}

impl fmt::Debug for Cri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let view = self.shared.view();
        f.debug_struct("Cri").field("up", &view.seen.is_up()).finish_non_exhaustive()
    }
}

/// Starts asking the runtime at `socket`, on `runtime`. `on_change` is called when a sandbox
/// is not ready or gone, and again when that is settled: a sweep may find something. `up` is
/// called whenever the runtime starts or ceases to answer. Neither may block.
pub fn start(
    socket: impl Into<PathBuf>,
    pace: Pace,
    runtime: &Handle,
    on_change: impl Fn() + Send + Sync + 'static,
    up: impl Fn(bool) + Send + Sync + 'static,
) -> Arc<Cri> {
    let shared = Arc::new(Shared {
        view: Mutex::new(View {
            seen: Observations::new(LivenessReason::SandboxGone),
            listed: Vec::new(),
            begun: 0,
            done: 0,
            failed: 0,
        }),
        settled: Condvar::new(),
        wanted: Notify::new(),
    });
    let socket = socket.into();
    let watcher = Watcher {
        shared: Arc::clone(&shared),
        socket: socket.clone(),
        pace,
        on_change: Box::new(on_change),
        up: Box::new(up),
        reported: None,
        failures: 0,
    };
    let task = runtime.spawn(watcher.run()).abort_handle();
    // Without a boot id other boots are not judged here; `netns` says what is wrong.
    let boot_id = boot_id().unwrap_or_default();
    Arc::new(Cri { shared, socket, boot_id, task })
}

/// How long a sweep waits for a new answer of the runtime.
const REFRESH: Duration = Duration::from_millis(250);

impl Cri {
    /// Has the runtime asked now, and waits for the answer, so that the next judgement is of
    /// now: a veto of two seconds ago keeps a dead pod's entries. False if it did not answer
    /// `within` that time, or is away. Not to be called on the runtime's own thread.
    #[must_use]
    pub fn ask(&self, within: Duration) -> bool {
        let mut view = self.shared.view();
        if !view.seen.is_up() {
            return false;
        }
        // One that is under way may have been answered before the caller's question arose.
        let ours = view.begun.saturating_add(1);
        self.shared.wanted.notify_one();
        let end = Instant::now().checked_add(within);
        while view.done < ours && view.failed < ours {
            let left =
                end.map_or(Duration::ZERO, |end| end.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return false;
            }
            let waited = self.shared.settled.wait_timeout(view, left);
            view = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        view.done >= ours
    }

    /// Every sandbox that the runtime knows, ready or not, by an answer that it gives after this
    /// call. `None`: it does not answer completely `within` that time.
    #[must_use]
    pub fn sandboxes(&self, within: Duration) -> Option<Vec<String>> {
        let answers = self.ask(within);
        let view = self.shared.view();
        (answers && view.seen.is_up()).then(|| view.listed.clone())
    }

    /// The runtime's socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Whether the runtime answered when it was last asked.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.shared.view().seen.is_up()
    }
}

impl Drop for Cri {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl LivenessSource for Cri {
    fn refresh(&self) {
        let _ = self.ask(REFRESH);
    }

    fn source(&self) -> Source {
        Source::Cri
    }

    fn judge(&self, record: &Attachment, now: Stamp) -> Liveness {
        let uid = record.pod.as_ref().map_or("", |pod| pod.uid.as_str());
        let life = self.shared.view().seen.life(record.key.container.as_str(), uid, record, now);
        match life {
            // Not ready is also a sandbox that the runtime has lost sight of, or is stopping.
            Liveness::Dead(LivenessReason::SandboxStopped) => {
                match netns::judge(record, &self.boot_id) {
                    Liveness::Dead(_) => life,
                    Liveness::Alive => Liveness::Unknown(LivenessReason::SandboxNotReady),
                    unknown => unknown,
                }
            }
            life => life,
        }
    }
}

/// What the watcher writes and the sweeper reads.
struct Shared {
    view: Mutex<View>,
    /// An observation has been answered, or has failed.
    settled: Condvar,
    /// A caller waits for one.
    wanted: Notify,
}

struct View {
    seen: Observations,
    /// The ids in the last complete answer.
    listed: Vec<String>,
    /// Observations are numbered: the last that was begun, answered, failed.
    begun: u64,
    done: u64,
    failed: u64,
}

impl Shared {
    fn view(&self) -> MutexGuard<'_, View> {
        // A thread that panicked with the lock left whole steps behind.
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Watcher {
    shared: Arc<Shared>,
    socket: PathBuf,
    pace: Pace,
    on_change: Box<dyn Fn() + Send + Sync>,
    up: Box<dyn Fn(bool) + Send + Sync>,
    /// The last argument of `up`.
    reported: Option<bool>,
    failures: u32,
}

impl Watcher {
    async fn run(mut self) {
        loop {
            match Client::connect(&self.socket, self.pace.timeout).await {
                Ok((client, runtime)) => {
                    debug!("cri: connected to {runtime} at {}", self.socket.display());
                    self.watch(client, &runtime).await;
                    self.shared.view().seen.forget();
                }
                Err(error) => {
                    self.away(&error);
                    sleep(self.pause()).await;
                }
            }
        }
    }

    /// Before it is asked again, behind a failure.
    fn pause(&self) -> Duration {
        back_off(self.failures, self.pace.retry, self.pace.retry_most, chance())
    }

    /// One connection's life.
    async fn watch(&mut self, mut client: Client, runtime: &str) {
        loop {
            let number = {
                let mut view = self.shared.view();
                view.begun = view.begun.saturating_add(1);
                view.begun
            };
            // Each call has its time; all of them together have no more than twice that.
            let most = self.pace.timeout.saturating_mul(2);
            let asked = timeout(most, self.ask(&mut client)).await;
            let pause = match asked.unwrap_or_else(|_| Err(client.timed_out("all its calls"))) {
                Ok(sandboxes) => {
                    let unsettled = self.take_in(number, &sandboxes, runtime);
                    if unsettled { self.pace.soon } else { self.pace.idle }
                }
                Err(error) => {
                    self.away(&error);
                    if client.is_lost() {
                        return;
                    }
                    self.pause()
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                // A caller that waits does not shorten a back-off.
                () = self.shared.wanted.notified(), if self.failures == 0 => {}
            }
        }
    }

    /// One list. A sandbox that is missing is asked for by id, so that no pod is called dead by a
    /// list that was cut short.
    async fn ask(&self, client: &mut Client) -> Result<Vec<Sandbox>, Error> {
        let sandboxes = client.list().await?;
        let missing: Vec<String> = {
            let view = self.shared.view();
            let shown: HashSet<&str> =
                sandboxes.iter().map(|sandbox| sandbox.id.as_str()).collect();
            view.seen.missing(|id| shown.contains(id)).map(str::to_owned).collect()
        };
        for id in missing {
            match client.knows(&id).await? {
                Some(false) => {}
                Some(true) => return Err(client.cut_short(&id)),
                None => {
                    warn!("cri: the runtime cannot say whether it knows sandbox {id}: not judged");
                    self.shared.view().seen.forget_one(&id);
                }
            }
        }
        Ok(sandboxes)
    }

    /// Whether another observation is wanted soon.
    fn take_in(&mut self, number: u64, sandboxes: &[Sandbox], runtime: &str) -> bool {
        let shown = sandboxes.iter().map(|sandbox| Shown {
            id: &sandbox.id,
            uid: &sandbox.uid,
            seen: if sandbox.ready {
                Seen::Alive
            } else {
                Seen::Ended(LivenessReason::SandboxStopped)
            },
        });
        let (news, unsettled) = {
            let view = &mut *self.shared.view();
            view.listed = sandboxes.iter().map(|sandbox| sandbox.id.clone()).collect();
            (view.seen.complete(shown), view.seen.is_unsettled())
        };
        self.failures = 0;
        if self.report(true) {
            info!(
                "cri: {runtime} at {} answers: {} sandboxes, {} ready",
                self.socket.display(),
                sandboxes.len(),
                sandboxes.iter().filter(|sandbox| sandbox.ready).count(),
            );
        }
        let News { dead, doubtful, wiped, .. } = news;
        if wiped {
            warn!(
                "cri: {runtime} at {} does not know a single sandbox any more of those it had \
                 ready: its state was lost, and nobody is called dead for it",
                self.socket.display()
            );
        }
        if dead > 0 || doubtful > 0 {
            debug!("cri: {dead} sandboxes gone or stopped, {doubtful} asked about again soon");
            (self.on_change)();
        }
        self.shared.view().done = number;
        self.shared.settled.notify_all();
        unsettled
    }

    fn away(&mut self, error: &Error) {
        {
            let mut view = self.shared.view();
            view.seen.away();
            view.failed = view.begun;
        }
        self.shared.settled.notify_all();
        self.failures = self.failures.saturating_add(1);
        if self.report(false) {
            warn!("cri: nobody is judged by the runtime until it answers: {error}");
        } else {
            debug!("cri: still away: {error}");
        }
    }

    /// Calls `up` if the state has changed; whether it has.
    fn report(&mut self, up: bool) -> bool {
        let news = self.reported != Some(up);
        if news {
            self.reported = Some(up);
            (self.up)(up);
        }
        news
    }
}
