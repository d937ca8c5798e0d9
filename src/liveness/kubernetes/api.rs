//! Asking the API server: one request, one deadline, bounded reads.
//!
//! kube brings the client (kubeconfig, in-cluster settings, TLS, tokens). Its own list and
//! watch functions read answers of any size into memory, skip lines that were cut short and
//! swallow a broken stream; whoever deletes on an answer's word must know, so the bytes are
//! read here.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::BodyExt;
use kube::client::Body;
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::core::params::{ListParams, PatchParams, PostParams, WatchParams};
use kube::core::{Request, request};
use kube::{Client, Config};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::items::Broken;
use super::pod::Refusal;

/// Of the text of a refusal, so much is read.
const LONGEST_REFUSAL: usize = 16 << 10;
/// A server that wants us to wait longer is asked again all the same.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Why there is no answer, or none to believe.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("cannot use the kubeconfig {path}: {source}")]
    Kubeconfig { path: PathBuf, source: Box<KubeconfigError> },
    #[error("not in a cluster, and no --kubeconfig given: {0}")]
    InCluster(#[from] InClusterError),
    #[error("cannot reach the API server: {}", chain(.0))]
    Client(#[from] kube::Error),
    #[error("cannot ask the API server: {0}")]
    Request(#[from] request::Error),
    #[error("the API server did not answer within {} s", .0.as_secs_f32())]
    TimedOut(Duration),
    /// 401: the token was rotated, or is not accepted any more.
    #[error("the API server does not accept our token (401): {0}")]
    Token(String),
    /// 403: the RBAC rules that come with the manifests are missing.
    #[error("the API server forbids it (403; see conf/kubernetes for the RBAC rules): {0}")]
    Forbidden(String),
    /// 410, as status or inside a watch: the server does not go back as far as we ask.
    #[error("the API server has forgotten what was between (410): {0}")]
    Expired(String),
    /// The server's cache is older than what another one told us.
    #[error("the API server is behind: {0}")]
    Behind(String),
    #[error("the API server refused ({status}): {message}")]
    Refused { status: u16, message: String, wait: Option<Duration> },
    #[error(transparent)]
    Broken(#[from] Broken),
    #[error("a watch event of the API server cannot be read: {0}")]
    Event(#[from] serde_json::Error),
    #[error("a watch event of the API server is larger than {0} bytes")]
    EventTooLarge(usize),
    #[error("a watch event of type {0:?}, which nobody knows")]
    UnknownEvent(String),
    #[error("asked for a PodList, the API server sent a {0:?}")]
    NoPodList(String),
    #[error("the API server sent a list without a resourceVersion")]
    NoVersion,
    /// A lying server, or a proxy that mixes up answers.
    #[error("asked for the pods of node {ours:?}, the API server showed one of {theirs:?}")]
    OtherNode { ours: String, theirs: String },
    #[error("the API server showed a pod without a UID")]
    NoUid,
    #[error("the API server showed more than {0} pods of one node")]
    TooMany(usize),
    #[error("the watch ended at once")]
    RecordHeader,
}

impl Failure {
    /// What the server asks us to wait (`Retry-After`).
    pub(crate) fn wait(&self) -> Option<Duration> {
        match self {
            Self::Refused { wait, .. } => *wait,
            _ => None,
        }
    }
}

/// kube's errors hide the cause ("ServiceError: client error (Connect)") in their sources.
fn chain(error: &kube::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// What to ask.
pub(crate) enum Ask<'a> {
    /// Pods of all namespaces.
    List(&'a ListParams),
    /// Changes since a version.
    Watch(&'a WatchParams, &'a str),
    /// A new event.
    Event { namespace: &'a str, body: Vec<u8> },
    /// The same again.
    EventAgain { namespace: &'a str, name: &'a str, patch: &'a serde_json::Value },
}

/// The way to the API server.
pub(crate) struct Api {
    kubeconfig: Option<PathBuf>,
    patience: Duration,
    client: Mutex<Option<Client>>,
}

impl Api {
    /// `patience` is how long one answer may take, and each part of it.
    pub(crate) fn new(kubeconfig: Option<PathBuf>, patience: Duration) -> Self {
        Self { kubeconfig, patience, client: Mutex::new(None) }
    }

    /// Whether there is a configuration at all: at start that is the operator's error.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        match &self.kubeconfig {
            Some(path) => read_kubeconfig(path).map(|_| ()),
            None => Ok(Config::incluster().map(|_| ())?),
        }
    }

    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    /// Sends a request; an answer other than 2xx is a failure. After one, the next request
    /// reads the configuration again: kube's client re-reads a token file and in-cluster
    /// CA only once a minute (`kube-client` 5.0: `client/auth/mod.rs`, `TokenFile`;
    /// `client/tls.rs`, `ReloadingVerifier`), a kubeconfig's CA and certificates never.
    pub(crate) async fn ask(&self, ask: Ask<'_>) -> Result<Body, Failure> {
        let answer = timeout(self.patience, self.send(ask)).await;
        let answer = answer.unwrap_or(Err(Failure::TimedOut(self.patience)));
        if matches!(answer, Err(Failure::Client(_) | Failure::Token(_) | Failure::TimedOut(_))) {
            *self.client.lock().await = None;
        }
        answer
    }

    async fn send(&self, ask: Ask<'_>) -> Result<Body, Failure> {
        let pods = || Request::new("/api/v1/pods");
        let events = |namespace| Request::new(format!("/api/v1/namespaces/{namespace}/events"));
        let request = match ask {
            Ask::List(params) => pods().list(params),
            Ask::Watch(params, version) => pods().watch(params, version),
            Ask::Event { namespace, body } => {
                events(namespace).create(&PostParams::default(), body)
            }
            Ask::EventAgain { namespace, name, patch } => {
                let patch = kube::core::params::Patch::Merge(patch);
                events(namespace).patch(name, &PatchParams::default(), &patch)
            }
        }?;
        let reply = self.client().await?.send(request.map(Body::from)).await?;
        let status = reply.status().as_u16();
        if (200..300).contains(&status) {
            return Ok(reply.into_body());
        }
        let wait = reply.headers().get("retry-after").and_then(|text| text.to_str().ok());
        let wait = wait.and_then(|text| text.parse().ok()).map(Duration::from_secs);
        let text = read(reply.into_body(), LONGEST_REFUSAL).await;
        let refusal: Refusal = serde_json::from_slice(&text).unwrap_or_default();
        Err(refused(status, refusal, wait))
    }

    async fn client(&self) -> Result<Client, Failure> {
        let mut client = self.client.lock().await;
        if let Some(client) = &*client {
            return Ok(client.clone());
        }
        let mut config = match &self.kubeconfig {
            Some(path) => {
                let read = read_kubeconfig(path)?;
                Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
                    .await
                    .map_err(|source| bad_kubeconfig(path, source))?
            }
            None => Config::incluster()?,
        };
        // Both are ours: see `patience` and the watcher's back-off.
        config.connect_timeout = Some(self.patience);
        config.default_retry = false;
        let new = Client::try_from(config)?;
        *client = Some(new.clone());
        Ok(new)
    }
}

/// A refusal, by what is to be done about it.
pub(crate) fn refused(status: u16, refusal: Refusal, wait: Option<Duration>) -> Failure {
    let behind = refusal.is_behind();
    let message: String = refusal.message.chars().take(200).collect();
    match status {
        401 => Failure::Token(message),
        403 => Failure::Forbidden(message),
        410 => Failure::Expired(message),
        _ if behind => Failure::Behind(message),
        _ => Failure::Refused { status, message, wait: wait.map(|w| w.min(LONGEST_WAIT)) },
    }
}

fn read_kubeconfig(path: &Path) -> Result<Kubeconfig, Failure> {
    Kubeconfig::read_from(path).map_err(|source| bad_kubeconfig(path, source))
}

fn bad_kubeconfig(path: &Path, source: KubeconfigError) -> Failure {
    Failure::Kubeconfig { path: path.to_owned(), source: Box::new(source) }
}

/// The next bytes of an answer; `None` at its end, which chunked answers mark: a connection
/// that breaks off is an error. Dropping the future loses nothing.
pub(crate) async fn chunk(
    body: &mut Body,
) -> Result<Option<impl AsRef<[u8]> + use<>>, kube::Error> {
    while let Some(frame) = body.frame().await {
        // Trailers are of no use.
        if let Ok(data) = frame?.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

/// Up to `most` bytes of an answer, for what may as well be cut.
async fn read(mut body: Body, most: usize) -> Vec<u8> {
    let mut text = Vec::new();
    while let Ok(Some(data)) = chunk(&mut body).await {
        let left = most.saturating_sub(text.len());
        text.extend(data.as_ref().iter().take(left));
        if text.len() >= most {
            break;
        }
    }
    text
}
