//! Which clean-ups are done together, and when: by bridge, two of a bridge at the same time at most,
//! so that a bridge that hangs holds up nobody else's.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::clean::Job;
use super::{LINE, locked, not_done};
use crate::reconcile::wire::CleanReply;
use crate::reconcile::wire::CleanResult::{Busy, Withdrawn};

/// Clean-ups at the same time: of all bridges, of one.
const MOST: usize = 8;
const MOST_OF_ONE: usize = 2;
/// How long it is remembered how long a bridge takes.
const RECENT: Duration = Duration::from_secs(2);
/// So many of the dead are cleaned up at once, at most.
const MOST_TARGETS: usize = 64;

/// The requests that wait, and how many are worked on.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<QueueState>,
    pub(super) changed: Condvar,
}

#[derive(Debug, Default)]
struct QueueState {
    working: usize,
    bridges: HashMap<String, BridgeQueue>,
}

/// The requests of one bridge.
#[derive(Debug, Default)]
struct BridgeQueue {
    waiting: VecDeque<Arc<Job>>,
    working: usize,
    /// How long the last clean-up took, and when it ended.
    last: Option<(Duration, Instant)>,
}

impl BridgeQueue {
    /// Whether one more is done in time, as far as can be told.
    fn is_in_time(&self, left: Duration) -> bool {
        self.recent().is_none_or(|took| took < left)
    }

    fn recent(&self) -> Option<Duration> {
        self.last.filter(|(_, ended)| ended.elapsed() < RECENT).map(|(took, _)| took)
    }

    /// The next requests that are done together.
    fn take(&mut self) -> Vec<Arc<Job>> {
        let (mut batch, mut rest) = (Vec::<Arc<Job>>::new(), VecDeque::new());
        let mut count = 0usize;
        for job in std::mem::take(&mut self.waiting) {
            let fits = count.saturating_add(job.targets.len()) <= MOST_TARGETS;
            if batch.is_empty() || fits && batch.iter().all(|other| job.goes_with(other)) {
                count = count.saturating_add(job.targets.len());
                batch.push(job);
            } else {
                rest.push_back(job);
            }
        }
        self.waiting = rest;
        batch
    }
}

/// A clean-up that is under way.
struct Turn<'q> {
    queue: &'q Queue,
    bridge: &'q str,
    began: Instant,
}

impl Queue {
    /// Whether nothing is worked on.
    pub(super) fn is_idle(&self) -> bool {
        locked(&self.state).working == 0
    }

    /// Waits until the request is done, and does what is next meanwhile: each thread that waits
    /// also works, so that requests which came together are done together.
    pub(super) fn serve(&self, job: &Arc<Job>, clean: &dyn Fn(&[Arc<Job>])) -> CleanReply {
        let bridge = job.bridge();
        let mut state = locked(&self.state);
        let of_bridge = state.bridges.entry(bridge.clone()).or_default();
        if !of_bridge.is_in_time(job.left()) {
            return not_done(Busy, "the bridge answers slowly");
        }
        of_bridge.waiting.push_back(Arc::clone(job));
        loop {
            if let Some(reply) = locked(&job.reply).take() {
                return reply;
            }
            let room = state.working < MOST;
            let of_bridge = state.bridges.entry(bridge.clone()).or_default();
            let waits = of_bridge.waiting.iter().any(|other| Arc::ptr_eq(other, job));
            let left = job.left();
            if waits && left.is_zero() {
                of_bridge.waiting.retain(|other| !Arc::ptr_eq(other, job));
                return not_done(Withdrawn, "the call does not wait any longer");
            }
            if waits && room && of_bridge.working < MOST_OF_ONE {
                let batch = of_bridge.take();
                of_bridge.working += 1;
                state.working += 1;
                drop(state);
                let turn = Turn { queue: self, bridge: &bridge, began: Instant::now() };
                clean(&batch);
                drop(turn);
                state = locked(&self.state);
                continue;
            }
            // Another thread has it: it ends by its deadline.
            let pause = if waits { left } else { LINE };
            let waited = self.changed.wait_timeout(state, pause);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = locked(&self.queue.state);
        state.working = state.working.saturating_sub(1);
        if let Some(of_bridge) = state.bridges.get_mut(self.bridge) {
            of_bridge.working = of_bridge.working.saturating_sub(1);
            of_bridge.last = Some((self.began.elapsed(), Instant::now()));
        }
        let idle = |queue: &BridgeQueue| queue.working == 0 && queue.waiting.is_empty();
        state.bridges.retain(|_, of_bridge| !idle(of_bridge) || of_bridge.recent().is_some());
        self.queue.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use serde_json::json;

    use super::*;
    use crate::model::attachment::{Attachment, Key};
    use crate::reconcile::wire::CleanResult::{Done, Failed};
    use crate::reconcile::wire::WireRequest;
    use crate::reconcile::{Cause, CleanTarget, Lease};
    use crate::util::clock::Stamp;

    /// A request for one of the dead; the call's end of its connection.
    fn job(container: &str, bridge: &str, wait: Duration) -> (Arc<Job>, UnixStream) {
        let until = Stamp::now().boot_ms + u64::try_from(wait.as_millis()).unwrap();
        let request = json!({
            "version": 1, "verb": "DEL", "bootId": "b", "untilMs": until, "database": [1, 2],
            "adding": null, "overlay": null, "targets": [],
        });
        let request = WireRequest::read(request.to_string().as_bytes()).unwrap();
        let key = Key {
            network: "podnet".parse().unwrap(),
            container: container.parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        let mut attachment = Attachment::new(key, 1, "b".to_owned(), Stamp::now());
        attachment.bridge = Some(bridge.to_owned());
        let (call, stream) = UnixStream::pair().unwrap();
        let targets = vec![CleanTarget { attachment, cause: Cause::Del }];
        let (lease, reply) = (Lease::new(stream, until), Mutex::default());
        (Arc::new(Job { request, targets, lease, reply }), call)
    }

    const LONG: Duration = Duration::from_secs(2);
    const SHORT: Duration = Duration::from_millis(60);

    /// Answers each of a batch, after this time.
    fn clean_after(pause: Duration, sizes: &Mutex<Vec<usize>>) -> impl Fn(&[Arc<Job>]) {
        move |jobs| {
            std::thread::sleep(pause);
            locked(sizes).push(jobs.len());
            for job in jobs {
                *locked(&job.reply) = Some(CleanReply::done(1, 0));
            }
        }
    }

    #[test]
    fn requests_that_come_together_are_done_together() {
        let (queue, sizes) = (Queue::default(), Mutex::new(Vec::new()));
        let clean = clean_after(Duration::from_millis(100), &sizes);
        std::thread::scope(|scope| {
            for n in 0..20 {
                let (queue, clean) = (&queue, &clean as &(dyn Fn(&[Arc<Job>]) + Sync));
                scope.spawn(move || {
                    let (job, _call) = job(&format!("c{n}"), "br0", LONG);
                    let reply = queue.serve(&job, &|jobs| clean(jobs));
                    assert_eq!(reply.result, Done, "{reply:?}");
                });
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let sizes = locked(&sizes).clone();
        assert_eq!(sizes.iter().sum::<usize>(), 20, "each once");
        assert!(sizes.len() < 10, "{sizes:?}");
        assert_eq!(locked(&queue.state).working, 0);
    }

    #[test]
    fn a_bridge_that_hangs_holds_up_nobody_elses_requests() {
        let (queue, sizes) = (Queue::default(), Mutex::new(Vec::new()));
        let at_once = clean_after(Duration::ZERO, &sizes);
        std::thread::scope(|scope| {
            for n in 0..MOST {
                let queue = &queue;
                scope.spawn(move || {
                    let (job, _call) = job(&format!("c{n}"), "br0", LONG);
                    queue.serve(&job, &|jobs| {
                        std::thread::sleep(Duration::from_millis(300));
                        for job in jobs {
                            *locked(&job.reply) = Some(not_done(Failed, "it hangs"));
                        }
                    })
                });
            }
            std::thread::sleep(Duration::from_millis(100));
            assert!(locked(&queue.state).working <= MOST_OF_ONE);
            let (other, _call) = job("other", "br1", LONG);
            let began = Instant::now();
            assert_eq!(queue.serve(&other, &at_once).result, Done);
            assert!(began.elapsed() < Duration::from_millis(150), "{:?}", began.elapsed());
            let (late, _call) = job("late", "br0", SHORT);
            assert_eq!(queue.serve(&late, &at_once).result, Withdrawn);
        });
        // It takes longer than this call waits, and is not tried for the moment.
        let (next, _call) = job("next", "br0", SHORT);
        assert_eq!(queue.serve(&next, &at_once).result, Busy);
        let (patient, _call) = job("patient", "br0", LONG);
        assert_eq!(queue.serve(&patient, &at_once).result, Done);
    }

    #[test]
    fn two_calls_for_one_pod_are_not_one_clean_up() {
        let (one, _call) = job("c1", "br0", LONG);
        let (again, _call) = job("c1", "br0", LONG);
        let (other, _call) = job("c2", "br0", LONG);
        assert!(one.goes_with(&other) && !one.goes_with(&again));
        let mut queue = BridgeQueue::default();
        queue.waiting.extend([&one, &again, &other].map(Arc::clone));
        assert_eq!((queue.take().len(), queue.take().len(), queue.take().len()), (2, 1, 0));
    }
}
