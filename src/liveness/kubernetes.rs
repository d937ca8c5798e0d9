//! Liveness by the API server: the pods of this node, by UID.
//!
//! Guarantees: dead is a pod whose UID was seen alive on this node and is not there any more,
//! or which has ended (Failed, as evicted pods are, or Succeeded) and whose sandbox is known to
//! be stopped; both only by two observations that do not come from one answer (see `view`), and
//! neither for an attachment younger than 30 s. A list that was cut short, that is older than
//! what we have seen or that shows another node's pod is no observation. Names mean nothing.
//!
//! Assumptions: a UID is not used twice, and a pod stays on its node. `CNI_ARGS` has the UID
//! (containerd and CRI-O pass it); a record without one is not judged.
//!
//! Caveats: a pod that was deleted by force is gone here while its containers may still run for
//! a moment; with the `cri` source on, its ready sandbox keeps it alive. Static pods are never
//! dead by this source.
//!
//! Of the API only what core/v1 has promised since 1.20: pods by `spec.nodeName`, list and
//! watch with bookmarks.

mod addresses;
mod api;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod items;
mod list;
mod pod;
mod view;
mod watch;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

pub(crate) use api::{Api, Ask, Failure};
use view::View;
use watch::Watcher;

use super::{Liveness, LivenessReason, LivenessSource, Source, netns};
use crate::model::attachment::Attachment;
use crate::util::clock::{Stamp, boot_id};

/// Why this source cannot start. (An API server that is away is no such reason.)
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name of this node is not known.
    #[error(
        "the liveness source kubernetes needs this node's name: set --node-name or NODE_NAME (in \
         a pod: fieldRef spec.nodeName, as conf/kubernetes does)"
    )]
    NoNodeName,
    /// A node's name is a DNS subdomain.
    #[error("{0:?} is no node's name: lower case letters, digits, '-' and '.' only")]
    BadNodeName(String),
    /// The kubeconfig, or what a pod has instead.
    #[error("{0}")]
    Config(String),
    /// The kernel's boot id.
    #[error("cannot read the kernel's boot id: {0}")]
    BootId(std::io::Error),
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// One answer of the API server.
    pub answer: Duration,
    /// From a doubt to the list that confirms it: what else dies meanwhile shares the list.
    pub confirm: Duration,
    /// A watch that is silent for longer is asked for anew. Servers send a bookmark about once
    /// a minute.
    pub silence: Duration,
    /// With no answer for so long, this source does not know anything any more.
    pub away: Duration,
    /// The first wait after a failure.
    pub retry_least: Duration,
    /// The longest.
    pub retry_most: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(15),
            confirm: Duration::from_millis(500),
            silence: Duration::from_secs(90),
            away: Duration::from_secs(180),
            retry_least: Duration::from_millis(250),
            retry_most: Duration::from_secs(30),
        }
    }
}

/// What to watch, and how.
#[derive(Clone, Default)]
pub struct Options {
    /// `--kubeconfig`; without it, the settings that a pod has.
    pub kubeconfig: Option<PathBuf>,
    /// This node (`--node-name`, `NODE_NAME`).
    pub node_name: String,
    /// The source `cri`, where it is on: besides the record's network namespace it can say that
    /// a sandbox is stopped.
    pub runtime: Option<Arc<dyn LivenessSource>>,
    /// How long things may take.
    pub timing: Timing,
}

/// What the task and those who ask share.
pub(crate) struct Shared {
    view: Mutex<View>,
    contact: Mutex<Contact>,
    on_change: Box<dyn Fn() + Send + Sync>,
    up: Box<dyn Fn(bool) + Send + Sync>,
    away: Duration,
}

/// When the API server was last heard of.
#[derive(Debug)]
struct Contact {
    last: Option<Instant>,
    up: Option<bool>,
}

impl Shared {
    fn view(&self) -> MutexGuard<'_, View> {
        // Nothing in there can be left half-done by a panic that would matter more than going on.
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn contact(&self) -> MutexGuard<'_, Contact> {
        self.contact.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answered(&self) {
        self.contact().last = Some(Instant::now());
        self.set_up(true);
    }

    /// What was seen is kept over a short outage: deaths wait for a list anyway.
    fn failed(&self) {
        if self.is_away() {
            self.view().away();
        }
        self.set_up(false);
    }

    fn is_away(&self) -> bool {
        self.contact().last.is_none_or(|last| last.elapsed() > self.away)
    }

    fn set_up(&self, up: bool) {
        let before = self.contact().up.replace(up);
        if before != Some(up) {
            (self.up)(up);
        }
    }
}

/// The source `kubernetes`.
pub struct Kubernetes {
    shared: Arc<Shared>,
    api: Arc<Api>,
    node: String,
    cri: Option<Arc<dyn LivenessSource>>,
    boot_id: String,
    runtime: Handle,
    task: JoinHandle<()>,
}

impl Kubernetes {
    /// Begins to watch, on `runtime`. `on_change` is called when somebody is dead who was not,
    /// `up` when the API server goes or comes; both from the task, and must not block.
    ///
    /// # Errors
    /// If the node's name or the configuration is missing or wrong. An API server that does not
    /// answer is asked again for ever.
    pub fn start(
        options: Options,
        runtime: &Handle,
        on_change: impl Fn() + Send + Sync + 'static,
        up: impl Fn(bool) + Send + Sync + 'static,
    ) -> Result<Arc<Self>, Error> {
        let node = checked(&options.node_name)?;
        let boot_id = boot_id().map_err(Error::BootId)?;
        let timing = options.timing;
        let api = Arc::new(Api::new(options.kubeconfig, timing.answer));
        api.check().map_err(|failure| Error::Config(failure.to_string()))?;
        let shared = Arc::new(Shared {
            view: Mutex::new(View::new()),
            contact: Mutex::new(Contact { last: None, up: None }),
            on_change: Box::new(on_change),
            up: Box::new(up),
            away: timing.away,
        });
        let watcher = Watcher::new(Arc::clone(&api), node.clone(), timing, Arc::clone(&shared));
        let task = runtime.spawn(watcher.run());
        let (runtime, cri) = (runtime.clone(), options.runtime);
        Ok(Arc::new(Self { shared, api, node, cri, boot_id, runtime, task }))
    }

    /// Whether the API server answered the last time.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.shared.contact().up == Some(true)
    }

    /// How many pods of this node the API server shows.
    #[must_use]
    pub fn pods(&self) -> usize {
        self.shared.view().len()
    }

    /// This node's name.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// For asking it other things.
    pub(crate) fn api(&self) -> Arc<Api> {
        Arc::clone(&self.api)
    }

    /// A pod that has ended keeps its sandbox until the kubelet stops it.
    fn is_stopped(&self, record: &Attachment, now: Stamp) -> bool {
        netns::judge(record, &self.boot_id).is_dead()
            || self.cri.as_ref().is_some_and(|cri| {
                let life = cri.judge(record, now);
                life.is_dead() || life == Liveness::Unknown(LivenessReason::SandboxNotReady)
            })
    }
}

impl Drop for Kubernetes {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl LivenessSource for Kubernetes {
    fn source(&self) -> Source {
        Source::Kubernetes
    }

    fn judge(&self, record: &Attachment, now: Stamp) -> Liveness {
        if self.shared.is_away() {
            return Liveness::Unknown(LivenessReason::SourceAway);
        }
        self.shared.view().judge(record, now, |record| self.is_stopped(record, now))
    }

    fn workload(&self, record: &Attachment) -> Option<String> {
        let uid = record.pod.as_ref().map(|pod| pod.uid.as_str())?;
        self.shared.view().workload(uid).map(str::to_owned)
    }
}

/// A node's name goes into a field selector: it must not say more than a name.
fn checked(name: &str) -> Result<String, Error> {
    if name.is_empty() {
        return Err(Error::NoNodeName);
    }
    let fits = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'.');
    if name.len() > 253 || !name.bytes().all(fits) {
        return Err(Error::BadNodeName(name.chars().take(80).collect()));
    }
    Ok(name.to_owned())
}
