//! How long to wait after a failure, so that the nodes of a cluster do not retry in step.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// A number from 0 to 1, another one each time: the keys of the standard library's hash maps are
/// its only random numbers.
#[must_use]
pub fn chance() -> f64 {
    let random = RandomState::new().build_hasher().finish() >> 32;
    f64::from(u32::try_from(random).unwrap_or(u32::MAX)) / f64::from(u32::MAX)
}

/// How long to wait after so many failures in a row: `least` after the first, doubled with each,
/// `most` at most, and of that a part from half to all. `chance` is from 0 to 1.
#[must_use]
pub fn back_off(failures: u32, least: Duration, most: Duration, chance: f64) -> Duration {
    let doubled = least.saturating_mul(1 << failures.saturating_sub(1).min(16));
    part_of(doubled.min(most), chance)
}

/// A part of a time, from half to all. `chance` is from 0 to 1.
#[must_use]
pub fn part_of(whole: Duration, chance: f64) -> Duration {
    whole.mul_f64(0.5 + 0.5 * chance.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_most_and_are_spread() {
        let ms = Duration::from_millis;
        for (failures, whole) in [(0, 100), (1, 100), (2, 200), (4, 800), (5, 1000), (99, 1000)] {
            let wait = |chance| back_off(failures, ms(100), ms(1000), chance);
            assert_eq!((wait(0.0), wait(1.0)), (ms(whole / 2), ms(whole)), "{failures}");
        }
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
