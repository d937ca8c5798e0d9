//! The bell that wakes the sweeper: anybody rings it with a reason, one waits for it.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::triggers::{Outcome, Reason, Reasons, Triggers};

/// The bell. Its times are since it was made.
#[derive(Debug)]
pub struct Bell {
    start: Instant,
    state: Mutex<State>,
    rung: Condvar,
}

#[derive(Debug)]
struct State {
    triggers: Triggers,
    stopped: bool,
}

impl Bell {
    /// Rings at once, and then at least once an interval.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        let state = State { triggers: Triggers::new(interval, Duration::ZERO), stopped: false };
        Self { start: Instant::now(), state: Mutex::new(state), rung: Condvar::new() }
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Something happened that may be a death.
    pub fn ring(&self, reason: Reason) {
        let now = self.now();
        let news = self.state().triggers.event(reason, now);
        if news {
            log::debug!("event: {reason}");
            self.rung.notify_all();
        }
    }

    /// Waits until a sweep is due; `None`: it is over.
    pub fn wait(&self) -> Option<Reasons> {
        let mut state = self.state();
        loop {
            if state.stopped {
                return None;
            }
            let now = self.now();
            let left = state.triggers.due().saturating_sub(now);
            if left.is_zero() {
                return Some(state.triggers.begin(now));
            }
            let waited = self.rung.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The sweep that [`Bell::wait`] asked for has ended.
    pub fn done(&self, outcome: &Outcome) {
        let now = self.now();
        self.state().triggers.done(outcome, now, chance());
    }

    /// It needed no sweep.
    pub fn nothing_new(&self) {
        let now = self.now();
        self.state().triggers.nothing_new(now);
    }

    /// Ends [`Bell::wait`] for good.
    pub fn stop(&self) {
        self.state().stopped = true;
        self.rung.notify_all();
    }

    /// Whether it was stopped.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.state().stopped
    }

    /// Sleeps, but not past the end; whether it is over.
    pub fn sleep(&self, time: Duration) -> bool {
        let until = self.now().saturating_add(time);
        let mut state = self.state();
        loop {
            let left = until.saturating_sub(self.now());
            if state.stopped || left.is_zero() {
                return state.stopped;
            }
            let waited = self.rung.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// From 0 to 1, another one each time: seeds of hash maps are random.
#[must_use]
pub fn chance() -> f64 {
    let random = RandomState::new().build_hasher().finish() >> 32;
    f64::from(u32::try_from(random).unwrap_or(u32::MAX)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    #[test]
    fn a_ring_ends_the_wait_and_a_stop_ends_it_for_good() {
        let bell = Arc::new(Bell::new(Duration::from_secs(3600)));
        assert!(bell.wait().unwrap().has(Reason::Start));
        bell.done(&Outcome::default());
        let ringer = Arc::clone(&bell);
        let ringing = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            ringer.ring(Reason::Netns);
            thread::sleep(Duration::from_millis(50));
            ringer.stop();
        });
        assert_eq!(bell.wait().unwrap().to_string(), "netns");
        bell.done(&Outcome::default());
        assert!(bell.sleep(Duration::from_secs(3600)), "it is over");
        assert_eq!(bell.wait(), None);
        ringing.join().unwrap();
    }

    #[test]
    fn chances_differ_and_are_chances() {
        let some: std::collections::BTreeSet<u64> = (0..64)
            .map(|_| chance())
            .inspect(|c| assert!((0.0..=1.0).contains(c), "{c}"))
            .map(f64::to_bits)
            .collect();
        assert!(some.len() > 32);
    }
}
