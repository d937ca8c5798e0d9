//! The daemon: acts on events, keeps the interval as a net, and says what it does.
//!
//! | file | job |
//! | --- | --- |
//! | [`options`] | command line and environment |
//! | [`scheduler`] | why and when the next sweep is due. Pure |
//! | [`wakeup`] | wakes the sweeper, which waits for it |
//! | `sweeper` | the thread that sweeps, with the engine that every verb uses |
//! | `mass_death_guard` | what the guard keeps, for logs and metrics |
//! | `late_entries` | what comes of the dead after their clean-up, where a bridge is followed |
//! | `retry_queue` | the dead pods that are still watched, each with when it is due |
//! | `requests` | does clean-ups for calls of the plugin, which ask over a socket |
//! | `recovery` | the state directory was removed: the pods that run are recorded again |
//! | `sources`, [`events`] | the other sources of liveness; Kubernetes Events |
//! | `ovs`, `files` | the threads that wait for OVSDB and for the kernel |
//! | [`metrics`], [`progress`] | what is counted, and whether the daemon works |
//! | `process` | what Prometheus clients say of their process |
//! | `complaints` | what does not work at this time |
//! | `http`, `page`, `systemd` | where the state of the daemon is shown |
//!
//! Threads of our own block in the kernel until something happens; the first one runs
//! signals, HTTP and the sources that talk to servers. The daemon may be killed at any
//! instruction, and the next start finishes its work: each dead pod has its tombstone before an
//! entry of it is deleted.

mod complaints;
pub mod events;
mod files;
mod gone_names;
mod http;
mod late_entries;
mod mass_death_guard;
pub mod metrics;
pub mod options;
mod ovs;
mod page;
mod process;
pub mod progress;
mod recovery;
mod requests;
mod retry_queue;
pub mod scheduler;
mod sources;
mod sweeper;
mod systemd;
pub mod wakeup;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use clap::Parser;
use log::{error, info};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::cli::Exit;
use crate::config;
use crate::flowtable::watcher::OnNews;
use crate::flowtable::{News, Replicas};
use crate::liveness::Source;
use crate::liveness::cri::Cri;
use crate::util::logging::{self, Often};
use gone_names::GoneNames;
use metrics::Metrics;
use options::{Listen, Options};
use progress::Progress;
use scheduler::Reason;
use sources::Sources;
use wakeup::Wakeup;

/// How long a running sweep may go on after a signal. It may be ended at any instruction.
const SHUTDOWN_GRACE: Duration = Duration::from_millis(600);
/// Threads need little: nothing recurses deeply, and buffers are on the heap.
const STACK: usize = 512 << 10;

/// Why the daemon cannot work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The port.
    #[error("cannot listen on {address}: {source}; name another with --listen, or \"none\"")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The async runtime.
    #[error("cannot start: {0}")]
    Runtime(io::Error),
    /// Signals.
    #[error("cannot handle signals: {0}")]
    Signals(io::Error),
    /// inotify.
    #[error("cannot watch files: {0} (fs.inotify.max_user_instances?)")]
    Inotify(io::Error),
    /// A thread.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// A thread that must run for good.
    #[error("the {0} thread has ended, which is a mistake in this program")]
    Ended(&'static str),
    /// A source that cannot be asked.
    #[error("--liveness {0}: {1}")]
    Source(Source, String),
}

/// What the daemon's parts share.
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) run_dir: PathBuf,
    pub(crate) wakeup: Arc<Wakeup>,
    pub(crate) metrics: Metrics,
    pub(crate) progress: Progress,
    pub(crate) replicas: Replicas,
    pub(crate) wanted: files::Wanted,
    pub(crate) gone_names: GoneNames,
    pub(crate) database: WakeableSleep,
    pub(crate) requests: requests::Requests,
    /// The container runtime, if it is a source of liveness.
    pub(crate) cri: OnceLock<Arc<Cri>>,
}

impl Shared {
    /// Whether one of OVS's daemons answers: a metric, and part of being ready.
    fn server(&self, server: metrics::Server, up: bool) {
        self.metrics.server(server, up);
        self.progress.server(server, up);
    }
}

/// A sleep that can be ended.
#[derive(Debug, Default)]
pub(crate) struct WakeableSleep {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl WakeableSleep {
    fn wake(&self) {
        *self.woken.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Sleeps so long, or until [`WakeableSleep::wake`].
    fn wait(&self, most: Duration) {
        let woken = self.woken.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(woken, most, |woken| !*woken);
        *waited.unwrap_or_else(PoisonError::into_inner).0 = false;
    }
}

/// A thread. `ended` resolves when it ends, also by a panic.
#[derive(Debug)]
pub(crate) struct Thread {
    name: &'static str,
    ended: oneshot::Receiver<()>,
}

fn spawn(name: &'static str, run: impl FnOnce() + Send + 'static) -> Result<Thread, Error> {
    let (sender, ended) = oneshot::channel::<()>();
    let builder = std::thread::Builder::new().name(name.to_owned()).stack_size(STACK);
    let spawned = builder.spawn(move || {
        // Dropped when the thread ends, also by a panic.
        let _ended = sender;
        run();
    });
    spawned.map_err(Error::Thread)?;
    Ok(Thread { name, ended })
}

/// Runs the daemon with the command line and the environment of this process.
#[must_use]
pub fn main() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) => {
            // Help and version are errors to clap, and go to standard output.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Done }.into();
        }
    };
    logging::set_format(options.log_format);
    logging::init(options.log_level, None);
    match run(options) {
        Ok(()) => Exit::Done.into(),
        Err(failed) => {
            error!("{failed}");
            Exit::Failed.into()
        }
    }
}

fn run(options: Options) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .thread_stack_size(STACK)
        .build()
        .map_err(Error::Runtime)?;
    let listener = match options.listen {
        Listen::At(address) => Some(http::bind(address)?),
        Listen::None => None,
    };
    let (wanted, woken) = files::prepare(&options.netns_dir)?;
    let allowance = options.interval.mul_f64(1.5) + sweeper::TIMEOUT * 3;
    let wakeup = Arc::new(Wakeup::new(options.interval));
    let sweeper = Arc::clone(&wakeup);
    let on_news = OnNews(Arc::new(move |news| {
        let News { lesson, dead, counts } = news;
        let reasons = [(lesson, Reason::Register), (dead, Reason::Late), (counts, Reason::Flows)];
        reasons.into_iter().filter(|(is, _)| *is).for_each(|(_, reason)| sweeper.wake(reason));
    }));
    let shared = Arc::new(Shared {
        run_dir: config::run_dir(),
        wakeup,
        metrics: Metrics::new(),
        progress: Progress::new(allowance),
        replicas: Replicas::new(options.limits(), on_news),
        wanted,
        gone_names: GoneNames::default(),
        database: WakeableSleep::default(),
        requests: requests::Requests::default(),
        cri: OnceLock::new(),
        options,
    });
    info!(
        "ovs-flow-gcd {}: state in {}, OVS in {}, interval {:?}",
        env!("CARGO_PKG_VERSION"),
        shared.options.state_dir.display(),
        shared.run_dir.display(),
        shared.options.interval
    );
    let ended = runtime.block_on(async {
        // From here on a signal ends the daemon in order.
        let signals = Signals::new().map_err(Error::Signals)?;
        let sources = Sources::start(&shared, runtime.handle())?;
        ovs::start(Arc::clone(&shared))?;
        files::start(Arc::clone(&shared), woken)?;
        let sweeper = sweeper::start(Arc::clone(&shared), sources)?;
        if let Some(listener) = listener {
            serve(listener, Arc::clone(&shared));
        }
        supervise(&shared, signals, sweeper).await
    });
    // The other threads end with the process: they have no work that must be finished.
    runtime.shutdown_background();
    ended
}

/// Serves HTTP beside everything else.
fn serve(listener: std::net::TcpListener, shared: Arc<Shared>) {
    if let Ok(address) = listener.local_addr() {
        info!("listening on {address}");
    }
    let served = http::serve(listener, shared);
    tokio::spawn(async move {
        if let Err(failed) = served.await {
            error!("HTTP has ended: {failed}");
        }
    });
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

/// Waits until a signal ends the daemon, or the sweeper's thread ends by itself.
async fn supervise(
    shared: &Shared,
    mut signals: Signals,
    mut sweeper: Thread,
) -> Result<(), Error> {
    let mut ready = false;
    let watchdog = systemd::watchdog();
    // Often until systemd knows that the daemon is ready, then as often as its watchdog wants.
    let mut pace = tokio::time::interval(Duration::from_millis(50));
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => break,
            _ = signals.interrupt.recv() => break,
            _ = signals.hangup.recv() => {
                info!("SIGHUP: sweeping at once");
                shared.wakeup.wake(Reason::Hangup);
            }
            _ = &mut sweeper.ended => return Err(Error::Ended(sweeper.name)),
            _ = pace.tick(), if !ready || watchdog.is_some() => {
                if !ready && shared.progress.started() {
                    ready = true;
                    systemd::ready("sweeping");
                    pace = tokio::time::interval(watchdog.unwrap_or(SHUTDOWN_GRACE));
                }
                if shared.progress.healthy(shared.wakeup.now()).is_ok() {
                    systemd::alive();
                }
            }
        }
    }
    Often::say_rest(true);
    info!("ending");
    systemd::stopping();
    shared.wakeup.stop();
    if tokio::time::timeout(SHUTDOWN_GRACE, &mut sweeper.ended).await.is_err() {
        info!("a sweep is left unfinished: the next start goes on with it");
    }
    Ok(())
}
