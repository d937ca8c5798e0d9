//! Kubernetes Events (core/v1): a cluster's operators see there what was cleaned up.
//!
//! On the pod while there are few; a burst (an evicted node) is told as one Event on the node,
//! which is counted up rather than repeated. Needs RBAC `create` and `patch` on `events`. What
//! cannot be told is counted and forgotten: nothing waits for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use log::debug;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::sleep_until;

use crate::liveness::Source;
use crate::liveness::kubernetes::{Api, Ask, Failure, Kubernetes};
use crate::model::attachment::Pod;

/// Who reports.
const COMPONENT: &str = "ovs-flow-gc";
/// The same Event is counted up for so long (API servers keep Events for an hour).
const SAME: Duration = Duration::from_secs(1800);
/// What waits to be told; more is dropped.
const WAITING: usize = 256;
/// Names of pods that a summary gives.
const NAMED: usize = 5;
/// A pod's or namespace's name has no more.
const LONGEST_NAME: usize = 253;

/// How much may be told.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// So many pods may get an Event of their own at once…
    pub burst: u32,
    /// …and one more each time this has passed.
    pub refill: Duration,
    /// Beyond, they are told together, after so long.
    pub together: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { burst: 10, refill: Duration::from_secs(10), together: Duration::from_secs(30) }
    }
}

/// What became of an Event: `ovs_flow_gc_kubernetes_events_total{result}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// The API server took it.
    Sent,
    /// It did not.
    Failed,
    /// Told as part of another one.
    Aggregated,
    /// Too many wait, or the pod's name is no name.
    Dropped,
}

impl Told {
    /// As the metric's label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Failed => "failed",
            Self::Aggregated => "aggregated",
            Self::Dropped => "dropped",
        }
    }
}

/// An orphan that was cleaned up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cleaned {
    /// Whose it was.
    pub pod: Pod,
    /// How many entries were deleted.
    pub flows: u64,
    /// On whose word it was dead; nobody's: another boot.
    pub by: Option<Source>,
}

/// Tells of orphans that were cleaned up.
#[derive(Clone)]
pub struct Events {
    queue: Sender<Cleaned>,
    told: Arc<dyn Fn(Told) + Send + Sync>,
}

impl Events {
    /// Tells the API server that `kubernetes` watches, on `runtime`. `told` hears what became of
    /// each.
    #[must_use]
    pub fn start(
        kubernetes: &Kubernetes,
        runtime: &Handle,
        pace: Pace,
        told: impl Fn(Told) + Send + Sync + 'static,
    ) -> Self {
        let told: Arc<dyn Fn(Told) + Send + Sync> = Arc::new(told);
        let (queue, waiting) = channel(WAITING);
        let node = kubernetes.node().to_owned();
        let teller =
            Teller { api: kubernetes.api(), node, pace, told: Arc::clone(&told), last: None };
        runtime.spawn(teller.run(waiting));
        Self { queue, told }
    }

    /// An orphan was cleaned up. Never blocks.
    pub fn cleaned(&self, cleaned: Cleaned) {
        let names = [&cleaned.pod.namespace, &cleaned.pod.name];
        // They came from CNI_ARGS and go into a URL.
        if !names.into_iter().all(|name| is_name(name)) || self.queue.try_send(cleaned).is_err() {
            (self.told)(Told::Dropped);
        }
    }
}

fn is_name(name: &str) -> bool {
    let fits = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'.');
    let alphanumeric = name.bytes().next().is_some_and(|c| c.is_ascii_alphanumeric());
    alphanumeric && name.len() <= LONGEST_NAME && name.bytes().all(fits)
}

/// What is told together.
#[derive(Debug, Default)]
struct Crowd {
    pods: u64,
    flows: u64,
    names: Vec<String>,
}

impl Crowd {
    fn add(&mut self, cleaned: &Cleaned) {
        self.pods = self.pods.saturating_add(1);
        self.flows = self.flows.saturating_add(cleaned.flows);
        if self.names.len() < NAMED {
            self.names.push(cleaned.pod.to_string());
        }
    }

    fn message(&self) -> String {
        let more = if self.pods > NAMED as u64 { ", …" } else { "" };
        format!(
            "Deleted {} stale OpenFlow entries of {} pods whose CNI DEL never came ({}{more})",
            self.flows,
            self.pods,
            self.names.join(", "),
        )
    }
}

/// How many may go out at once.
#[derive(Debug)]
struct Bucket {
    pace: Pace,
    left: u32,
    since: Instant,
}

impl Bucket {
    fn new(pace: Pace, now: Instant) -> Self {
        Self { pace, left: pace.burst, since: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        let Pace { burst, refill, .. } = self.pace;
        while self.left < burst && now.saturating_duration_since(self.since) >= refill {
            (self.left, self.since) = (self.left + 1, self.since + refill);
        }
        if self.left == burst {
            self.since = now;
        }
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}

struct Teller {
    api: Arc<Api>,
    node: String,
    pace: Pace,
    told: Arc<dyn Fn(Told) + Send + Sync>,
    /// The last Event on the node.
    last: Option<Last>,
}

struct Last {
    name: String,
    count: u32,
    first: Instant,
}

impl Teller {
    async fn run(mut self, mut waiting: Receiver<Cleaned>) {
        let mut bucket = Bucket::new(self.pace, Instant::now());
        let together = self.pace.together;
        let mut crowd: Option<(Crowd, tokio::time::Instant)> = None;
        loop {
            let due = crowd.as_ref().map(|(_, due)| *due);
            let crowded = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                cleaned = waiting.recv() => {
                    let Some(cleaned) = cleaned else { return };
                    if crowd.is_none() && bucket.take(Instant::now()) {
                        self.tell_of(&cleaned).await;
                        continue;
                    }
                    let (crowd, _) = crowd.get_or_insert_with(|| {
                        (Crowd::default(), tokio::time::Instant::now() + together)
                    });
                    crowd.add(&cleaned);
                    (self.told)(Told::Aggregated);
                }
                () = crowded => {
                    if let Some((crowd, _)) = crowd.take() {
                        self.tell_of_many(&crowd).await;
                    }
                }
            }
        }
    }

    async fn tell_of(&self, cleaned: &Cleaned) {
        let pod = &cleaned.pod;
        let by = cleaned.by.map_or_else(String::new, |source| format!(", dead by {source}"));
        let message =
            format!("Deleted {} stale OpenFlow entries: its CNI DEL never came{by}", cleaned.flows);
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "namespace": pod.namespace, "name": pod.name, "uid": pod.uid,
        });
        let event = event(&self.node, &pod.namespace, object, &message);
        self.count(self.create(&pod.namespace, &event).await);
    }

    /// Events of objects without a namespace are in `default`, as the kubelet's are.
    async fn tell_of_many(&mut self, crowd: &Crowd) {
        const NAMESPACE: &str = "default";
        if let Some(last) = self.last.as_mut().filter(|last| last.first.elapsed() < SAME) {
            last.count = last.count.saturating_add(1);
            let patch = json!({
                "count": last.count, "lastTimestamp": now(), "message": crowd.message(),
            });
            let ask = Ask::EventAgain { namespace: NAMESPACE, name: &last.name, patch: &patch };
            let done = self.api.ask(ask).await.map(|_| ());
            // Somebody deleted it, perhaps: then it is told anew.
            if done.is_ok() {
                return self.count(done);
            }
        }
        // The kubelet names itself so: by the node's name, not its UID.
        let object =
            json!({ "apiVersion": "v1", "kind": "Node", "name": self.node, "uid": self.node });
        let event = event(&self.node, NAMESPACE, object, &crowd.message());
        let name = event.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let done = self.create(NAMESPACE, &event).await;
        self.last =
            done.is_ok().then(|| Last { name: name.to_owned(), count: 1, first: Instant::now() });
        self.count(done);
    }

    async fn create(&self, namespace: &str, event: &Value) -> Result<(), Failure> {
        let body = event.to_string().into_bytes();
        self.api.ask(Ask::Event { namespace, body }).await.map(|_| ())
    }

    fn count(&self, done: Result<(), Failure>) {
        if let Err(failure) = &done {
            debug!("kubernetes: cannot tell of a cleaned orphan: {failure}");
        }
        (self.told)(if done.is_ok() { Told::Sent } else { Told::Failed });
    }
}

fn now() -> String {
    // metav1.Time has no fractions.
    format!("{:.0}", Timestamp::now())
}

fn event(node: &str, namespace: &str, object: Value, message: &str) -> Value {
    let about = object.get("name").and_then(Value::as_str).unwrap_or_default();
    // As client-go names them: what it is about and when.
    let unique = Timestamp::now().as_nanosecond();
    let most = LONGEST_NAME.saturating_sub(40);
    let about: String = about.chars().take(most).collect();
    let about = about.trim_end_matches(['-', '.']);
    let time = now();
    json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": { "name": format!("{about}.{unique:x}"), "namespace": namespace },
        "involvedObject": object,
        "reason": "StaleFlowsDeleted",
        "message": message,
        "type": "Normal",
        "source": { "component": COMPONENT, "host": node },
        "reportingComponent": COMPONENT, "reportingInstance": node,
        "firstTimestamp": time, "lastTimestamp": time, "count": 1,
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Event;

    use super::*;

    fn cleaned(name: &str, flows: u64) -> Cleaned {
        let pod = Pod { namespace: "ns".into(), name: name.into(), uid: "uid".into() };
        Cleaned { pod, flows, by: Some(Source::Netns) }
    }

    #[test]
    fn a_burst_is_let_through_and_then_one_at_a_time() {
        let start = Instant::now();
        let pace = Pace::default();
        let (burst, refill) = (pace.burst as usize, pace.refill);
        let mut bucket = Bucket::new(pace, start);
        let taken = |bucket: &mut Bucket, at| (0..100).filter(|_| bucket.take(at)).count();
        assert_eq!(taken(&mut bucket, start), burst);
        assert_eq!(taken(&mut bucket, start + refill / 2), 0);
        assert_eq!(taken(&mut bucket, start + refill), 1);
        assert_eq!(taken(&mut bucket, start + refill * 4), 3);
        assert_eq!(taken(&mut bucket, start + refill * 1000), burst);
        assert_eq!(taken(&mut bucket, start + refill * 1000), 0);
    }

    #[test]
    fn a_crowd_is_counted_and_some_are_named() {
        let mut crowd = Crowd::default();
        for n in 0..7 {
            crowd.add(&cleaned(&format!("web-{n}"), 3));
        }
        assert_eq!(
            crowd.message(),
            "Deleted 21 stale OpenFlow entries of 7 pods whose CNI DEL never came (ns/web-0, \
             ns/web-1, ns/web-2, ns/web-3, ns/web-4, …)"
        );
    }

    #[test]
    fn what_is_sent_is_an_event_of_core_v1() {
        let long = format!("{}-{}", "a".repeat(212), "b".repeat(40));
        for name in ["web-0", &long] {
            let object = json!({ "kind": "Pod", "namespace": "ns", "name": name, "uid": "u" });
            let sent = event("n1", "ns", object, "said");
            let read: Event = serde_json::from_value(sent).unwrap();
            let sent_name = read.metadata.name.unwrap();
            assert!(is_name(&sent_name) && !sent_name.contains("-."), "{sent_name}");
            assert_eq!(read.involved_object.uid.as_deref(), Some("u"));
            let time = serde_json::to_value(read.last_timestamp.unwrap()).unwrap();
            let time = time.as_str().unwrap();
            assert!(time.len() == 20 && time.ends_with('Z'), "{time}");
        }
    }

    #[test]
    fn names_from_outside_stay_names() {
        for good in ["web", "web-0.example"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "Web", "a/b", "../x", "a?b", "a b", "-a", &"a".repeat(254)] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
