//! The sources of liveness beside the namespaces, and what is told to the API server.

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
/// How long a sweep waits for the API server's word on addresses.
const ADDRESSES: Duration = Duration::from_secs(2);
/// When it did not come, how long nobody waits for it again: the newly dead have other entries
/// than those that rest on an address.
const PATIENCE: Duration = Duration::from_secs(30);

/// All of them.
pub(super) struct Sources {
    /// Who is asked beside the namespaces.
    pub(super) witnesses: Vec<Arc<dyn LivenessSource>>,
    /// For operators of the cluster.
    pub(super) events: Option<Events>,
    kubernetes: Option<Arc<Kubernetes>>,
    /// Until when it is not asked about addresses.
    silent: Mutex<Option<Instant>>,
}

impl Sources {
    /// Starts those that are wanted, on the daemon's runtime.
    pub(super) fn start(shared: &Arc<Shared>, runtime: &Handle) -> Result<Self, Error> {
        let options = &shared.options;
        let mut sources = Self {
            witnesses: Vec::new(),
            events: None,
            kubernetes: None,
            silent: Mutex::new(None),
        };
        let ring = |reason: Reason| {
            let shared = Arc::clone(shared);
            move || shared.wakeup.ring(reason)
        };
        let up = |source: Source| {
            shared.metrics.source(source, false);
            let shared = Arc::clone(shared);
            move |up| shared.metrics.source(source, up)
        };
        let mut runtime_witness: Option<Arc<dyn LivenessSource>> = None;
        if options.asks(Source::Cri) {
            let socket = cri_socket(options.cri_socket.as_deref());
            info!("cri: {}", socket.display());
            let cri = cri::start(
                socket,
                cri::Pace::default(),
                runtime,
                ring(Reason::Cri),
                up(Source::Cri),
            );
            runtime_witness = Some(cri);
        }
        sources.witnesses.extend(runtime_witness.clone());
        if options.asks(Source::Kubernetes) {
            let wanted = kubernetes::Options {
                kubeconfig: options.kubeconfig.clone(),
                node_name: options.node_name().unwrap_or_default(),
                runtime: runtime_witness,
                timing: kubernetes::Timing::default(),
            };
            let started = Kubernetes::start(
                wanted,
                runtime,
                ring(Reason::Kubernetes),
                up(Source::Kubernetes),
            );
            let kubernetes =
                started.map_err(|error| Error::Source(Source::Kubernetes, error.to_string()))?;
            let teller = Arc::clone(shared);
            let told = move |told: events::Told| teller.metrics.told(told.as_str());
            sources.events =
                Some(Events::start(&kubernetes, runtime, events::Pace::default(), told));
            sources.witnesses.push(Arc::clone(&kubernetes) as Arc<dyn LivenessSource>);
            sources.kubernetes = Some(kubernetes);
        }
        Ok(sources)
    }

    /// Whether there is anybody to ask about addresses.
    pub(super) fn knows_addresses(&self) -> bool {
        self.kubernetes.is_some()
    }

    /// Those of the addresses that nobody in the cluster has, by the API server's word. Waits for
    /// it, unless it is away or did not answer a moment ago.
    pub(super) fn free(&self, addresses: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
        let Some(kubernetes) = self.kubernetes.as_ref().filter(|k| k.is_up()) else {
            return BTreeSet::new();
        };
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        if silent.is_some_and(|until| Instant::now() < until) {
            return BTreeSet::new();
        }
        let asked = Instant::now();
        let free = kubernetes.free(addresses, ADDRESSES);
        *silent = (asked.elapsed() >= ADDRESSES).then(|| Instant::now() + PATIENCE);
        free
    }
}

/// The first that is there, if none is named; else the first that may come to be.
fn cri_socket(named: Option<&Path>) -> PathBuf {
    let [first, ..] = CRI_SOCKETS;
    let there = || CRI_SOCKETS.into_iter().find(|path| Path::new(path).exists());
    named.map_or_else(|| PathBuf::from(there().unwrap_or(first)), Path::to_owned)
}
