//! One connection to the runtime, and the two questions asked over it.
//!
//! Guarantee: an answer that was cut short, came too late, is too large, or has any part that
//! cannot be so is an error, never a shorter list.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{
    ListPodSandboxRequest, ListPodSandboxResponse, PodSandboxState, PodSandboxStatusRequest,
    VersionRequest,
};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// What the kubelet takes from a runtime at most.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// Ids are at most so long where we write them down, too.
const MAX_ID: usize = 200;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens, or not for us.
    #[error("cannot connect to {}: {source} (is it the runtime's socket, and mounted here?)", socket.display())]
    Connect {
        /// The runtime's socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It does not answer.
    #[error("{}: no answer to {call} within {} ms", socket.display(), within.as_millis())]
    TimedOut {
        /// The runtime's socket.
        socket: PathBuf,
        /// The call.
        call: &'static str,
        /// How long was waited.
        within: Duration,
    },
    /// It speaks gRPC, but not CRI v1.
    #[error("{}: no CRI v1 here (it takes containerd 1.6 or CRI-O 1.23, with the CRI plugin on): {message}", socket.display())]
    NoCriV1 {
        /// The runtime's socket.
        socket: PathBuf,
        /// What it said.
        message: String,
    },
    /// It refused, or the connection broke.
    #[error("{}: {call} failed: {code:?}: {message}", socket.display())]
    Failed {
        /// The runtime's socket.
        socket: PathBuf,
        /// The call.
        call: &'static str,
        /// gRPC's code.
        code: Code,
        /// What it said.
        message: String,
    },
    /// The list cannot be true.
    #[error("{}: the list of sandboxes is not to be believed: {what} ({id:?})", socket.display())]
    Odd {
        /// The runtime's socket.
        socket: PathBuf,
        /// What is wrong.
        what: &'static str,
        /// The sandbox.
        id: String,
    },
}

/// A sandbox, as listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sandbox {
    /// `CNI_CONTAINERID`.
    pub(super) id: String,
    /// Its pod's UID; empty if nobody said.
    pub(super) uid: String,
    /// `SANDBOX_READY`.
    pub(super) ready: bool,
}

/// One connection. It is never made anew behind our back: another one may lead to a runtime
/// that was restarted.
#[derive(Debug)]
pub(super) struct Client {
    calls: RuntimeServiceClient<Channel>,
    lost: Arc<AtomicBool>,
    socket: PathBuf,
    within: Duration,
}

impl Client {
    /// Connects, and asks who is there: name and version, for the log. `within` counts for
    /// each step, and for each call later.
    pub(super) async fn connect(socket: &Path, within: Duration) -> Result<(Self, String), Error> {
        let stream = timeout(within, UnixStream::connect(socket)).await;
        let stream = stream
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|source| Error::Connect { socket: socket.to_owned(), source })?;
        let lost = Arc::new(AtomicBool::new(false));
        let asked_again = Arc::clone(&lost);
        let mut only_once = Some(stream);
        let connector = tower::service_fn(move |_| {
            let stream = only_once.take();
            if stream.is_none() {
                asked_again.store(true, Ordering::Relaxed);
            }
            let lost = || io::Error::from(io::ErrorKind::NotConnected);
            std::future::ready(stream.map(TokioIo::new).ok_or_else(lost))
        });
        // gRPC servers in Go look at the authority; this is what the kubelet sends.
        let endpoint = Endpoint::from_static("http://localhost");
        let channel = endpoint.connect_with_connector(connector);
        let (call, to) = ("the HTTP/2 handshake", || socket.to_owned());
        let channel = timeout(within, channel).await;
        let channel = channel.map_err(|_| Error::TimedOut { socket: to(), call, within })?;
        let channel = channel.map_err(|source| {
            let message = causes(&source);
            Error::Failed { socket: to(), call, code: Code::Unavailable, message }
        })?;
        let calls = RuntimeServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        let mut client = Self { calls, lost, socket: socket.to_owned(), within };
        let version = client.version().await?;
        Ok((client, version))
    }

    /// Whether the connection is gone. A call that fails may be the first to notice; then the
    /// next one does.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Every sandbox that the runtime knows.
    pub(super) async fn list(&mut self) -> Result<Vec<Sandbox>, Error> {
        const CALL: &str = "ListPodSandbox";
        let call = self.calls.list_pod_sandbox(ListPodSandboxRequest { filter: None });
        let answer = timeout(self.within, call).await.map_err(|_| self.timed_out(CALL))?;
        let list = answer.map_err(|status| self.failed(CALL, &status))?.into_inner();
        sandboxes(list).map_err(|(what, id)| {
            let id = clean(&id);
            Error::Odd { socket: self.socket.clone(), what, id }
        })
    }

    /// Whether the runtime knows a sandbox by this id; `None` if it cannot say.
    pub(super) async fn knows(&mut self, id: &str) -> Result<Option<bool>, Error> {
        const CALL: &str = "PodSandboxStatus";
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let call = self.calls.pod_sandbox_status(request);
        match timeout(self.within, call).await.map_err(|_| self.timed_out(CALL))? {
            Ok(_) => Ok(Some(true)),
            Err(status) => match status.code() {
                Code::NotFound => Ok(Some(false)),
                Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded => {
                    Err(self.failed(CALL, &status))
                }
                _ if self.is_lost() => Err(self.failed(CALL, &status)),
                _ => Ok(None),
            },
        }
    }

    /// A list that does not show a sandbox which the runtime knows.
    pub(super) fn cut_short(&self, id: &str) -> Error {
        let what = "it lacks a sandbox that the runtime knows";
        Error::Odd { socket: self.socket.clone(), what, id: clean(id) }
    }

    async fn version(&mut self) -> Result<String, Error> {
        const CALL: &str = "Version";
        let call = self.calls.version(VersionRequest { version: "v1".to_owned() });
        let answer = timeout(self.within, call).await.map_err(|_| self.timed_out(CALL))?;
        let version = answer.map_err(|status| self.failed(CALL, &status))?.into_inner();
        Ok(clean(&format!("{} {}", version.runtime_name, version.runtime_version)))
    }

    /// The error of a call that was not answered in time.
    pub(super) fn timed_out(&self, call: &'static str) -> Error {
        Error::TimedOut { socket: self.socket.clone(), call, within: self.within }
    }

    fn failed(&self, call: &'static str, status: &Status) -> Error {
        let socket = self.socket.clone();
        let message = match std::error::Error::source(status) {
            Some(source) => causes(source),
            None => clean(status.message()),
        };
        match status.code() {
            Code::Unimplemented => Error::NoCriV1 { socket, message },
            code => Error::Failed { socket, call, code, message },
        }
    }
}

/// What is of use in a list, or what is wrong with it and where.
fn sandboxes(list: ListPodSandboxResponse) -> Result<Vec<Sandbox>, (&'static str, String)> {
    let mut ids = HashSet::with_capacity(list.items.len());
    for item in &list.items {
        if item.id.is_empty() || item.id.len() > MAX_ID {
            return Err(("an id has no length that it can have", item.id.clone()));
        }
        if item.metadata.is_none() {
            return Err(("a sandbox has no metadata", item.id.clone()));
        }
        if PodSandboxState::try_from(item.state).is_err() {
            return Err(("a sandbox is in a state that we do not know", item.id.clone()));
        }
        if !ids.insert(item.id.as_str()) {
            return Err(("a sandbox is in it twice", item.id.clone()));
        }
    }
    drop(ids);
    let ready = i32::from(PodSandboxState::SandboxReady);
    let items = list.items.into_iter().map(|item| Sandbox {
        ready: item.state == ready,
        uid: item.metadata.map(|metadata| metadata.uid).unwrap_or_default(),
        id: item.id,
    });
    Ok(items.collect())
}

/// An error and what is behind it: tonic says "transport error" and keeps the rest to itself.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    clean(&text)
}

/// Text from outside, fit for a line of the log.
fn clean(text: &str) -> String {
    text.chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Fuzz body ([`crate::fuzzing`]): a list of sandboxes, one a line: state, id, UID, each ended by
/// a tab; without the last there is no metadata. (The protobuf itself is prost's.)
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(data: &[u8]) -> bool {
    use k8s_cri::v1::{PodSandbox, PodSandboxMetadata};
    let text = String::from_utf8_lossy(data);
    let item = |line: &str| {
        let mut words = line.split('\t');
        let state = words.next().and_then(|word| word.parse().ok()).unwrap_or(-1);
        let id = words.next().unwrap_or_default().to_owned();
        let metadata = words
            .next()
            .map(|uid| PodSandboxMetadata { uid: uid.to_owned(), ..Default::default() });
        PodSandbox { id, metadata, state, ..Default::default() }
    };
    let items: Vec<PodSandbox> = text.lines().map(item).collect();
    let given = items.len();
    match sandboxes(ListPodSandboxResponse { items }) {
        Ok(list) => {
            assert_eq!(list.len(), given, "a shorter list than was given");
            let ids: HashSet<&str> = list.iter().map(|sandbox| sandbox.id.as_str()).collect();
            assert_eq!(ids.len(), given);
            assert!(ids.iter().all(|id| (1..=MAX_ID).contains(&id.len())));
            true
        }
        Err((_, id)) => {
            assert!(!clean(&id).chars().any(char::is_control));
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_cri::v1::{PodSandbox, PodSandboxMetadata};

    use super::*;

    fn item(id: &str, state: i32) -> PodSandbox {
        let metadata = PodSandboxMetadata { uid: format!("uid-of-{id}"), ..Default::default() };
        PodSandbox { id: id.to_owned(), metadata: Some(metadata), state, ..Default::default() }
    }

    fn of(items: Vec<PodSandbox>) -> Result<Vec<Sandbox>, (&'static str, String)> {
        sandboxes(ListPodSandboxResponse { items })
    }

    #[test]
    fn a_list_is_read() {
        let seen =
            |id: &str, ready| Sandbox { id: id.to_owned(), uid: format!("uid-of-{id}"), ready };
        assert_eq!(of(vec![]).unwrap(), []);
        let list = of(vec![item("a", 0), item("b", 1)]).unwrap();
        assert_eq!(list, [seen("a", true), seen("b", false)]);
    }

    #[test]
    fn an_odd_list_is_none() {
        let bare = PodSandbox { metadata: None, ..item("x", 0) };
        for odd in [item("", 0), item(&"x".repeat(201), 0), item("x", 2), item("x", -1), bare] {
            for list in [vec![odd.clone()], vec![item("a", 0), odd.clone()]] {
                assert_eq!(of(list).unwrap_err().1, odd.id);
            }
        }
        let twice = of(vec![item("a", 0), item("b", 0), item("a", 1)]).unwrap_err();
        assert_eq!(twice, ("a sandbox is in it twice", "a".to_owned()));
    }

    #[test]
    fn text_from_outside_is_one_short_line() {
        assert_eq!(clean("a\nb\u{1b}[0m"), "a b [0m");
        assert_eq!(clean(&"x".repeat(1000)).len(), 300);
    }
}
