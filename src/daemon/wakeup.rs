//! Wakes the sweeper: any thread does it with a reason, and the sweeper waits for it.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::scheduler::{Reason, Reasons, SweepResult, SweepScheduler};
use crate::util::backoff::chance;

/// Whoever sleeps for less is woken too late: a timer has 50 µs to spare.
const TURN: Duration = Duration::from_micros(100);

/// What the sweeper waits for. Its times are since it was made.
#[derive(Debug)]
pub struct Wakeup {
    start: Instant,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    scheduler: SweepScheduler,
    stopped: bool,
}

impl Wakeup {
    /// The first sweep is due at once, each later one within an interval.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        let state =
            State { scheduler: SweepScheduler::new(interval, Duration::ZERO), stopped: false };
        Self { start: Instant::now(), state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Something happened that may be a death.
    pub fn wake(&self, reason: Reason) {
        let now = self.now();
        let news = self.state().scheduler.event(reason, now);
        if news {
            log::debug!("event: {reason}");
            self.changed.notify_all();
        }
    }

    /// Waits until a sweep is due; `None`: the daemon ends.
    pub fn wait(&self) -> Option<Reasons> {
        let mut state = self.state();
        loop {
            if state.stopped {
                return None;
            }
            let now = self.now();
            let left = state.scheduler.due().saturating_sub(now);
            if left.is_zero() {
                return Some(state.scheduler.begin(now));
            }
            if left < TURN {
                drop(state);
                std::thread::yield_now();
                state = self.state();
                continue;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The sweep that [`Wakeup::wait`] asked for has ended.
    pub fn done(&self, result: &SweepResult) {
        let now = self.now();
        self.state().scheduler.done(result, now, chance());
    }

    /// What [`Wakeup::wait`] returned needed no sweep.
    pub fn nothing_new(&self) {
        let now = self.now();
        self.state().scheduler.nothing_new(now);
    }

    /// Ends [`Wakeup::wait`] for good.
    pub fn stop(&self) {
        self.state().stopped = true;
        self.changed.notify_all();
    }

    /// Whether it was stopped.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.state().stopped
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    #[test]
    fn a_reason_ends_the_wait_and_a_stop_ends_it_for_good() {
        let wakeup = Arc::new(Wakeup::new(Duration::from_secs(3600)));
        assert!(wakeup.wait().unwrap().has(Reason::Start));
        wakeup.done(&SweepResult::default());
        let waker = Arc::clone(&wakeup);
        let waking = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            waker.wake(Reason::Netns);
            thread::sleep(Duration::from_millis(50));
            waker.stop();
        });
        assert_eq!(wakeup.wait().unwrap().to_string(), "netns");
        wakeup.done(&SweepResult::default());
        assert_eq!(wakeup.wait(), None);
        waking.join().unwrap();
    }
}
