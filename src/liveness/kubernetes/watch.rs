//! The task that keeps the [`View`] as the API server has it: list, watch, and list again when
//! something is to be confirmed or was missed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::client::Body;
use kube::core::params::{ListParams, WatchParams};
use log::{debug, info, warn};
use tokio::time::{sleep, sleep_until, timeout};

use super::api::{Api, Ask, Failure, chunk, refused};
use super::pod::{Event, Pod, Refusal};
use super::view::Pods;
use super::{Shared, Timing};
use crate::util::backoff::{back_off, chance, part_of};

/// An event of this size is none: etcd refuses objects beyond 1.5 MiB.
const LARGEST_EVENT: usize = 4 << 20;
/// The server ends a watch by itself after so long, and keeps its own resources that way
/// (client-go: five to ten minutes, kube: at most 295 s).
const WATCH_SECONDS: u32 = 290;
/// A watch that ends sooner is a failure: a server that ends them all would be asked in a loop.
const BRIEF: Duration = Duration::from_secs(1);
/// A server behind what another one told us catches up within seconds. One that does not after
/// so many tries has another history (etcd was restored from a backup).
const BEHIND: u32 = 6;
/// How often an API server that stays away is spoken of.
const REMIND: Duration = Duration::from_secs(600);

/// What happens to a watch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Lines,
    Confirm,
    Silence,
    End,
}

pub(super) struct Watcher {
    pub(super) api: Arc<Api>,
    pub(super) node: String,
    pub(super) timing: Timing,
    pub(super) shared: Arc<Shared>,
    /// What the watch goes on from; none: a list is needed.
    version: Option<String>,
    /// The newest version that was shown: no list may be older.
    newest: String,
    /// How often in a row the server was behind it.
    behind: u32,
    /// When to ask for a list that confirms what is in doubt.
    confirm: Option<tokio::time::Instant>,
    outage: Option<Outage>,
}

/// The API server does not answer.
struct Outage {
    since: Instant,
    said: Instant,
}

impl Watcher {
    pub(super) fn new(api: Arc<Api>, node: String, timing: Timing, shared: Arc<Shared>) -> Self {
        let newest = String::new();
        let (version, confirm, outage) = (None, None, None);
        Self { api, node, timing, shared, version, newest, behind: 0, confirm, outage }
    }

    pub(super) async fn run(mut self) {
        let mut failures = 0;
        loop {
            let started = Instant::now();
            let ended = self.follow().await;
            if started.elapsed() > self.timing.retry_most {
                failures = 0;
            }
            let Err(failure) = ended else { continue };
            self.take_in(&failure);
            failures += 1;
            let Timing { retry_least, retry_most, .. } = self.timing;
            let wait = back_off(failures, retry_least, retry_most, chance());
            sleep(wait.max(failure.wait().unwrap_or_default())).await;
        }
    }

    /// One watch, with a list before it if one is needed. `Ok`: it came to its end or fell
    /// silent, and the next one goes on where it was.
    async fn follow(&mut self) -> Result<(), Failure> {
        if self.version.is_none() {
            self.list().await?;
        }
        let version = self.version.clone().unwrap_or_default();
        let params = WatchParams { timeout: Some(WATCH_SECONDS), ..WatchParams::default() }
            .fields(&self.of_node());
        let started = Instant::now();
        let mut body = self.api.ask(Ask::Watch(&params, &version)).await?;
        self.answered();
        let mut line = Vec::new();
        let mut heard = false;
        loop {
            match self.next(&mut body, &mut line).await? {
                Next::Lines => heard = true,
                Next::Confirm => {}
                // Not even a bookmark: a server that knows no such version yet (a restored
                // etcd, a lie about versions) says nothing either. A list finds out.
                Next::Silence if !heard => {
                    self.confirm_soon();
                    return Ok(());
                }
                Next::End if !heard && started.elapsed() < BRIEF => {
                    return Err(Failure::RecordHeader);
                }
                Next::Silence | Next::End => return Ok(()),
            }
        }
    }

    fn of_node(&self) -> String {
        format!("spec.nodeName={}", self.node)
    }

    /// What comes next on a watch. A half-closed connection sends nothing and never ends, and a
    /// bookmark comes about once a minute: a watch that is silent for longer is given up and
    /// asked for anew, which costs the server next to nothing.
    async fn next(&mut self, body: &mut Body, line: &mut Vec<u8>) -> Result<Next, Failure> {
        let confirm = async {
            match self.confirm {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let next = tokio::select! {
            data = timeout(self.timing.silence, chunk(body)) => match data {
                Err(_) => Next::Silence,
                Ok(data) => match data? {
                    None => Next::End,
                    Some(data) => {
                        line.extend_from_slice(data.as_ref());
                        Next::Lines
                    }
                },
            },
            () = confirm => Next::Confirm,
        };
        match next {
            Next::Lines => {
                self.lines(line)?;
                self.answered();
            }
            Next::Confirm => {
                if let Err(failure) = self.list().await {
                    // What is in doubt stays so.
                    let wait =
                        part_of(self.timing.retry_most.min(self.timing.confirm * 8), chance());
                    let wait = wait.max(failure.wait().unwrap_or_default());
                    self.confirm = Some(tokio::time::Instant::now() + wait);
                    return Err(failure);
                }
            }
            Next::Silence => debug!("kubernetes: the watch is silent, asking anew"),
            Next::End => {}
        }
        Ok(next)
    }

    /// Takes in whole lines and leaves what is not yet one.
    pub(super) fn lines(&mut self, buffer: &mut Vec<u8>) -> Result<(), Failure> {
        let mut rest = buffer.as_slice();
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, more) = rest.split_at(end);
            rest = more.get(1..).unwrap_or_default();
            if !line.trim_ascii().is_empty() {
                self.event(line)?;
            }
        }
        let done = buffer.len() - rest.len();
        buffer.drain(..done);
        if buffer.len() > LARGEST_EVENT {
            return Err(Failure::EventTooLarge(LARGEST_EVENT));
        }
        buffer.shrink_to(64 << 10);
        Ok(())
    }

    fn event(&mut self, line: &[u8]) -> Result<(), Failure> {
        let event: Event<'_> = serde_json::from_slice(line)?;
        if event.kind == "ERROR" {
            let refusal: Refusal = serde_json::from_str(event.object.get())?;
            return Err(refused(refusal.code, refusal, None));
        }
        let pod: Pod = serde_json::from_str(event.object.get())?;
        let doubt = match event.kind {
            "ADDED" | "MODIFIED" => self.shared.view().changed(&pod, &self.node)?,
            "DELETED" => self.shared.view().deleted(&pod, &self.node)?,
            // It has a version and nothing else.
            "BOOKMARK" => false,
            other => return Err(Failure::UnknownEvent(other.chars().take(80).collect())),
        };
        if event.kind == "BOOKMARK" && is_older(&pod.metadata.resource_version, &self.newest) {
            let theirs = pod.metadata.resource_version;
            return Err(Failure::Behind(format!("version {theirs}, not {}", self.newest)));
        }
        if !pod.metadata.resource_version.is_empty() {
            self.shown(&pod.metadata.resource_version);
            self.version = Some(pod.metadata.resource_version);
        }
        if doubt {
            self.confirm_soon();
        }
        Ok(())
    }

    /// Doubts come in bursts: they are confirmed together.
    fn confirm_soon(&mut self) {
        let soon = tokio::time::Instant::now() + self.timing.confirm;
        self.confirm.get_or_insert(soon);
    }

    /// A list that is not older than anything we were shown.
    ///
    /// Versions: the first list may come from any server's cache ("0", as client-go asks): who
    /// is not in it was never seen and is not judged. After that a version without a limit means
    /// "not older than", which a cache answers, too. (Without a version the server would read
    /// all pods of the cluster from etcd.)
    async fn list(&mut self) -> Result<(), Failure> {
        let version = match self.newest.as_str() {
            "" => Some("0".to_owned()),
            // Straight from etcd: if that is older, it is another history.
            _ if self.behind >= BEHIND => None,
            newest => Some(newest.to_owned()),
        };
        let from_etcd = version.is_none();
        let mut params = ListParams::default().fields(&self.of_node());
        params.resource_version = version;
        let mut pods = Pods::default();
        let node = &self.node;
        let shown = self.api.list(params, &mut |pod| pods.see(pod, node)).await?;
        if is_older(&shown, &self.newest) {
            if !from_etcd {
                return Err(Failure::Behind(format!("version {shown}, not {}", self.newest)));
            }
            warn!(
                "kubernetes: the API server's history begins anew (version {shown} after {}): what \
                 was seen of pods is forgotten",
                self.newest
            );
            self.shared.view().forget();
            self.newest.clear();
        }
        self.behind = 0;
        self.confirm = None;
        self.shown(&shown);
        self.version = Some(shown);
        let news = self.shared.view().list(pods);
        self.answered();
        if news.wiped {
            warn!("kubernetes: all pods of this node are gone at once; nobody is judged by that");
        }
        if news.doubtful > 0 {
            self.confirm_soon();
        }
        if news.dead > 0 {
            debug!("kubernetes: {} pods of this node are dead", news.dead);
            (self.shared.on_change)();
        }
        Ok(())
    }

    fn shown(&mut self, version: &str) {
        if !is_older(version, &self.newest) {
            version.clone_into(&mut self.newest);
        }
    }

    fn answered(&mut self) {
        self.shared.answered();
        if let Some(outage) = self.outage.take() {
            info!("kubernetes: the API server answers again, after {:?}", outage.since.elapsed());
        }
    }

    fn take_in(&mut self, failure: &Failure) {
        match failure {
            // The watch goes on where it was.
            Failure::Client(_)
            | Failure::TimedOut(_)
            | Failure::RecordHeader
            | Failure::Refused { .. }
            | Failure::Token(_)
            | Failure::Forbidden(_)
            | Failure::Kubeconfig { .. }
            | Failure::InCluster(_)
            | Failure::Request(_) => {}
            Failure::Behind(_) => {
                self.behind = self.behind.saturating_add(1);
                if self.behind >= BEHIND {
                    self.version = None;
                }
            }
            // Something was missed, or cannot be believed: begin again with a list.
            _ => {
                self.version = None;
                self.shared.view().gap();
            }
        }
        if matches!(failure, Failure::Expired(_)) {
            debug!("kubernetes: {failure}; listing anew");
            return;
        }
        self.shared.failed();
        let now = Instant::now();
        match &mut self.outage {
            None => {
                warn!("kubernetes: {failure}; trying again, until then nobody new is dead by it");
                self.outage = Some(Outage { since: now, said: now });
            }
            Some(outage) if now - outage.said >= REMIND => {
                outage.said = now;
                warn!("kubernetes: for {:?} now: {failure}", outage.since.elapsed());
            }
            Some(_) => debug!("kubernetes: {failure}"),
        }
    }
}

/// Whether a version is older than another one, as far as both are numbers, as every server's
/// are: elsewhere they are opaque.
fn is_older(one: &str, other: &str) -> bool {
    match (one.parse::<u128>(), other.parse::<u128>()) {
        (Ok(one), Ok(other)) => one < other,
        _ => false,
    }
}
