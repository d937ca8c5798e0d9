//! How long to wait after a failure.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Doubles up to a limit; each wait is a random part of it, so that a cluster's nodes do not
/// come back all at once.
#[derive(Debug)]
pub(crate) struct Backoff {
    least: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(least: Duration, most: Duration) -> Self {
        Self { least, most, next: least }
    }

    /// Between half of what it has come to and all of it, and not less than `asked`.
    pub(crate) fn wait(&mut self, asked: Option<Duration>) -> Duration {
        let wait = part_of(self.next);
        self.next = self.next.saturating_mul(2).min(self.most);
        wait.max(asked.unwrap_or_default())
    }

    pub(crate) fn reset(&mut self) {
        self.next = self.least;
    }
}

/// A random part of it, at least half.
pub(crate) fn part_of(whole: Duration) -> Duration {
    // Randomly keyed: the standard library's only dice.
    let dice = RandomState::new().hash_one(0);
    let thousandths = u32::try_from(dice % 501).unwrap_or(0) + 500;
    whole.saturating_mul(thousandths) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_are_spread() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(1000));
        for most in [100, 200, 400, 800, 1000, 1000] {
            let wait = backoff.wait(None);
            assert!(wait >= ms(most / 2) && wait <= ms(most), "{wait:?} of {most}");
        }
        assert_eq!(backoff.wait(Some(ms(5000))), ms(5000));
        backoff.reset();
        assert!(backoff.wait(None) <= ms(100));
        let waits: std::collections::HashSet<Duration> =
            (0..50).map(|_| part_of(ms(9999))).collect();
        assert!(waits.len() > 10);
    }
}
