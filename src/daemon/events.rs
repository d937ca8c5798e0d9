//! Kubernetes Events (core/v1): a cluster's operators see there what was cleaned up.
//!
//! A few get an Event on each pod. A burst (an evicted node) gets one Event on the node, which is
//! counted up rather than repeated. Needs RBAC `create` and `patch` on `events`. An Event that
//! cannot be written is counted and dropped: nothing waits for it.

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
use crate::model::text::text_enum;

/// The component that Events name.
const COMPONENT: &str = "ovs-flow-gc";
/// The same Event is counted up for so long (API servers keep Events for an hour).
const SAME: Duration = Duration::from_secs(1800);
/// How many wait to be written; more are dropped.
const QUEUE: usize = 256;
/// Names of pods that a summary gives.
const NAMED: usize = 5;
/// The reasons of Events.
const DELETED: &str = "StaleFlowsDeleted";
const DELIVERED: &str = "MissingDelDelivered";
/// A pod's or namespace's name has no more.
const LONGEST_NAME: usize = 253;

/// How many Events may be written.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// So many pods may get an Event of their own at once…
    pub burst: u32,
    /// …and one more each time this has passed.
    pub refill: Duration,
    /// Beyond, they share an Event, which waits so long for more.
    pub together: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { burst: 10, refill: Duration::from_secs(10), together: Duration::from_secs(30) }
    }
}

text_enum! {
    /// What became of an Event: `ovs_flow_gc_kubernetes_events_total{result}`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum EventResult {
        /// The API server took it.
        Sent = "sent",
        /// It did not.
        Failed = "failed",
        /// It is part of a shared one.
        Aggregated = "aggregated",
        /// Too many wait, or the pod's name is no name.
        Dropped = "dropped",
    }
}

/// An orphan that was cleaned up, for its Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cleaned {
    /// Whose it was.
    pub pod: Pod,
    /// How many entries were deleted.
    pub flows: u64,
    /// The source that said it was dead; none: it was of another boot.
    pub by: Option<Source>,
    /// Not its entries were deleted, but its DEL was delivered to these plugins.
    pub delivered: Option<Vec<String>>,
}

impl Cleaned {
    fn reason(&self) -> &'static str {
        if self.delivered.is_some() { DELIVERED } else { DELETED }
    }

    fn message(&self) -> String {
        if let Some(plugins) = &self.delivered {
            let plugins = plugins.join(", ");
            return format!("Delivered its CNI DEL, which never came, to {plugins}");
        }
        let by = self.by.map_or_else(String::new, |source| format!(", dead by {source}"));
        format!("Deleted {} stale OpenFlow entries: its CNI DEL never came{by}", self.flows)
    }
}

/// Writes Events about orphans that were cleaned up.
#[derive(Clone)]
pub struct Events {
    queue: Sender<Cleaned>,
    count: Arc<dyn Fn(EventResult) + Send + Sync>,
}

impl Events {
    /// Writes them to the API server that `kubernetes` watches, on `runtime`. `count` is called
    /// with what became of each.
    #[must_use]
    pub fn start(
        kubernetes: &Kubernetes,
        runtime: &Handle,
        pace: Pace,
        count: impl Fn(EventResult) + Send + Sync + 'static,
    ) -> Self {
        let count: Arc<dyn Fn(EventResult) + Send + Sync> = Arc::new(count);
        let (queue, waiting) = channel(QUEUE);
        let node = kubernetes.node().to_owned();
        let writer =
            Writer { api: kubernetes.api(), node, pace, count: Arc::clone(&count), last: None };
        runtime.spawn(writer.run(waiting));
        Self { queue, count }
    }

    /// An orphan was cleaned up. Never blocks.
    pub fn cleaned(&self, cleaned: Cleaned) {
        let names = [&cleaned.pod.namespace, &cleaned.pod.name];
        // They came from CNI_ARGS and go into a URL.
        if !names.into_iter().all(|name| is_name(name)) || self.queue.try_send(cleaned).is_err() {
            (self.count)(EventResult::Dropped);
        }
    }
}

fn is_name(name: &str) -> bool {
    let fits = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'.');
    let alphanumeric = name.bytes().next().is_some_and(|c| c.is_ascii_alphanumeric());
    alphanumeric && name.len() <= LONGEST_NAME && name.bytes().all(fits)
}

/// Orphans that share an Event.
#[derive(Debug, Default)]
struct Summary {
    pods: u64,
    flows: u64,
    /// Pods whose DEL was delivered.
    delivered: u64,
    names: Vec<String>,
}

impl Summary {
    fn add(&mut self, cleaned: &Cleaned) {
        match cleaned.delivered {
            Some(_) => self.delivered = self.delivered.saturating_add(1),
            None => self.pods = self.pods.saturating_add(1),
        }
        self.flows = self.flows.saturating_add(cleaned.flows);
        if self.names.len() < NAMED {
            self.names.push(cleaned.pod.to_string());
        }
    }

    fn message(&self) -> String {
        let Self { pods, flows, delivered, names } = self;
        let more = if pods.saturating_add(*delivered) > NAMED as u64 { ", …" } else { "" };
        let names = names.join(", ");
        let did = match (pods, delivered) {
            (0, _) => format!("Delivered the CNI DEL of {delivered} pods, which never came"),
            (_, 0) => {
                format!(
                    "Deleted {flows} stale OpenFlow entries of {pods} pods whose CNI DEL never came"
                )
            }
            _ => format!(
                "Deleted {flows} stale OpenFlow entries of {pods} pods, and delivered the CNI DEL of \
                 {delivered}, which never came"
            ),
        };
        format!("{did} ({names}{more})")
    }

    fn reason(&self) -> &'static str {
        if self.pods > 0 { DELETED } else { DELIVERED }
    }
}

/// A token bucket: how many may be written at once.
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

struct Writer {
    api: Arc<Api>,
    node: String,
    pace: Pace,
    count: Arc<dyn Fn(EventResult) + Send + Sync>,
    /// The last Event on the node.
    last: Option<Last>,
}

struct Last {
    name: String,
    count: u32,
    first: Instant,
}

impl Writer {
    async fn run(mut self, mut waiting: Receiver<Cleaned>) {
        let mut bucket = Bucket::new(self.pace, Instant::now());
        let together = self.pace.together;
        let mut summary: Option<(Summary, tokio::time::Instant)> = None;
        loop {
            let due = summary.as_ref().map(|(_, due)| *due);
            let summary_due = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                cleaned = waiting.recv() => {
                    let Some(cleaned) = cleaned else { return };
                    if summary.is_none() && bucket.take(Instant::now()) {
                        self.write_one(&cleaned).await;
                        continue;
                    }
                    let (summary, _) = summary.get_or_insert_with(|| {
                        (Summary::default(), tokio::time::Instant::now() + together)
                    });
                    summary.add(&cleaned);
                    (self.count)(EventResult::Aggregated);
                }
                () = summary_due => {
                    if let Some((summary, _)) = summary.take() {
                        self.write_summary(&summary).await;
                    }
                }
            }
        }
    }

    async fn write_one(&self, cleaned: &Cleaned) {
        let pod = &cleaned.pod;
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "namespace": pod.namespace, "name": pod.name, "uid": pod.uid,
        });
        let (reason, message) = (cleaned.reason(), cleaned.message());
        let event = event(&self.node, &pod.namespace, object, (reason, &message));
        self.count_result(self.create(&pod.namespace, &event).await);
    }

    /// Events of objects without a namespace are in `default`, as the kubelet's are.
    async fn write_summary(&mut self, summary: &Summary) {
        const NAMESPACE: &str = "default";
        if let Some(last) = self.last.as_mut().filter(|last| last.first.elapsed() < SAME) {
            last.count = last.count.saturating_add(1);
            let patch = json!({
                "count": last.count, "lastTimestamp": now(), "message": summary.message(),
            });
            let ask = Ask::EventAgain { namespace: NAMESPACE, name: &last.name, patch: &patch };
            let done = self.api.ask(ask).await.map(|_| ());
            // It may have been deleted: then a new one is written.
            if done.is_ok() {
                return self.count_result(done);
            }
        }
        // As the kubelet does it: the node's name stands for its UID.
        let object =
            json!({ "apiVersion": "v1", "kind": "Node", "name": self.node, "uid": self.node });
        let (reason, message) = (summary.reason(), summary.message());
        let event = event(&self.node, NAMESPACE, object, (reason, &message));
        let name = event.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let done = self.create(NAMESPACE, &event).await;
        self.last =
            done.is_ok().then(|| Last { name: name.to_owned(), count: 1, first: Instant::now() });
        self.count_result(done);
    }

    async fn create(&self, namespace: &str, event: &Value) -> Result<(), Failure> {
        let body = event.to_string().into_bytes();
        self.api.ask(Ask::Event { namespace, body }).await.map(|_| ())
    }

    fn count_result(&self, done: Result<(), Failure>) {
        if let Err(failure) = &done {
            debug!("kubernetes: cannot tell of a cleaned orphan: {failure}");
        }
        (self.count)(if done.is_ok() { EventResult::Sent } else { EventResult::Failed });
    }
}

fn now() -> String {
    // metav1.Time has no fractions.
    format!("{:.0}", Timestamp::now())
}

fn event(node: &str, namespace: &str, object: Value, (reason, message): (&str, &str)) -> Value {
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
        "reason": reason,
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
        Cleaned { pod, flows, by: Some(Source::Netns), delivered: None }
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
    fn a_summary_counts_pods_and_names_some() {
        let mut summary = Summary::default();
        for n in 0..7 {
            summary.add(&cleaned(&format!("web-{n}"), 3));
        }
        assert_eq!(
            summary.message(),
            "Deleted 21 stale OpenFlow entries of 7 pods whose CNI DEL never came (ns/web-0, \
             ns/web-1, ns/web-2, ns/web-3, ns/web-4, …)"
        );
        assert_eq!(summary.reason(), DELETED);
    }

    #[test]
    fn a_summary_tells_deliveries_from_deletes() {
        let delivered = |name: &str| Cleaned {
            delivered: Some(vec!["tuning".to_owned(), "ovs".to_owned()]),
            ..cleaned(name, 0)
        };
        assert_eq!(
            delivered("web").message(),
            "Delivered its CNI DEL, which never came, to tuning, ovs"
        );
        let mut summary = Summary::default();
        summary.add(&delivered("web"));
        assert_eq!(summary.reason(), DELIVERED);
        assert_eq!(summary.message(), "Delivered the CNI DEL of 1 pods, which never came (ns/web)");
        summary.add(&cleaned("db", 4));
        assert_eq!(summary.reason(), DELETED);
        assert_eq!(
            summary.message(),
            "Deleted 4 stale OpenFlow entries of 1 pods, and delivered the CNI DEL of 1, which never \
             came (ns/web, ns/db)"
        );
    }

    #[test]
    fn what_is_sent_is_an_event_of_core_v1() {
        let long = format!("{}-{}", "a".repeat(212), "b".repeat(40));
        for name in ["web-0", &long] {
            let object = json!({ "kind": "Pod", "namespace": "ns", "name": name, "uid": "u" });
            let sent = event("n1", "ns", object, ("Why", "said"));
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
