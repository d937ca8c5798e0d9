//! The sources of liveness beside the namespaces, and the Kubernetes Events.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use log::info;
use tokio::runtime::Handle;

use super::events::{self, Events};
use super::scheduler::Reason;
use super::{Error, Shared};
use crate::liveness::kubernetes::{self, Kubernetes};
use crate::liveness::{LivenessSource, Source, cri};

/// Where runtimes have their sockets.
const CRI_SOCKETS: [&str; 2] = ["/run/containerd/containerd.sock", "/run/crio/crio.sock"];
/// How long a sweep waits for the API server's answer about addresses.
const ADDRESS_ANSWER: Duration = Duration::from_secs(2);
/// How long no sweep waits again after that answer did not come: a dead pod also has entries
/// that do not depend on the answer, and they must not wait.
const NO_ANSWER_PAUSE: Duration = Duration::from_secs(30);

/// All of them.
pub(super) struct Sources {
    /// The sources beside the namespaces.
    pub(super) liveness: Vec<Arc<dyn LivenessSource>>,
    pub(super) events: Option<Events>,
    kubernetes: Option<Arc<Kubernetes>>,
    /// Until when the API server is not asked about addresses.
    silent: Mutex<Option<Instant>>,
}

impl Sources {
    /// Starts those that are wanted, on the daemon's runtime.
    pub(super) fn start(shared: &Arc<Shared>, runtime: &Handle) -> Result<Self, Error> {
        let options = &shared.options;
        let mut sources =
            Self { liveness: Vec::new(), events: None, kubernetes: None, silent: Mutex::new(None) };
        let wake = |reason: Reason| {
            let shared = Arc::clone(shared);
            move || shared.wakeup.wake(reason)
        };
        let up = |source: Source| {
            shared.metrics.source(source, false);
            let shared = Arc::clone(shared);
            move |up| shared.metrics.source(source, up)
        };
        let mut runtime_source: Option<Arc<dyn LivenessSource>> = None;
        if options.asks(Source::Cri) {
            let socket = cri_socket(options.cri_socket.as_deref());
            info!("cri: {}", socket.display());
            let cri = cri::start(
                socket,
                cri::Pace::default(),
                runtime,
                wake(Reason::Cri),
                up(Source::Cri),
            );
            let _ = shared.cri.set(Arc::clone(&cri));
            runtime_source = Some(cri);
        }
        sources.liveness.extend(runtime_source.clone());
        if options.asks(Source::Kubernetes) {
            let wanted = kubernetes::Options {
                kubeconfig: options.kubeconfig.clone(),
                node_name: options.node_name().unwrap_or_default(),
                runtime: runtime_source,
                timing: kubernetes::Timing::default(),
            };
            let started = Kubernetes::start(
                wanted,
                runtime,
                wake(Reason::Kubernetes),
                up(Source::Kubernetes),
            );
            let kubernetes =
                started.map_err(|error| Error::Source(Source::Kubernetes, error.to_string()))?;
            let counted = Arc::clone(shared);
            let count = move |result: events::EventResult| counted.metrics.event(result.as_str());
            sources.events =
                Some(Events::start(&kubernetes, runtime, events::Pace::default(), count));
            sources.liveness.push(Arc::clone(&kubernetes) as Arc<dyn LivenessSource>);
            sources.kubernetes = Some(kubernetes);
        }
        Ok(sources)
    }

    /// Whether there is a source that knows about addresses.
    pub(super) fn knows_addresses(&self) -> bool {
        self.kubernetes.is_some()
    }

    /// Those of the addresses that no pod of the cluster has, as the API server says. Waits for
    /// the API server, unless it is away or did not answer a moment ago.
    pub(super) fn free(&self, addresses: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
        let Some(kubernetes) = self.kubernetes.as_ref().filter(|k| k.is_up()) else {
            return BTreeSet::new();
        };
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        if silent.is_some_and(|until| Instant::now() < until) {
            return BTreeSet::new();
        }
        let asked = Instant::now();
        let free = kubernetes.free(addresses, ADDRESS_ANSWER);
        *silent = (asked.elapsed() >= ADDRESS_ANSWER).then(|| Instant::now() + NO_ANSWER_PAUSE);
        free
    }
}

/// The socket that is named; else the first that exists; else the first of the list.
fn cri_socket(named: Option<&Path>) -> PathBuf {
    let [first, ..] = CRI_SOCKETS;
    let there = || CRI_SOCKETS.into_iter().find(|path| Path::new(path).exists());
    named.map_or_else(|| PathBuf::from(there().unwrap_or(first)), Path::to_owned)
}
