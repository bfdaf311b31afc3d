//! Exponential backoff for failed reconciles and failed lag polls.
//!
//! Pure: the jitter follows from the name of the stage, so a delay is the same at each computation.

use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};

/// Delay after the first failure.
const INITIAL_BACKOFF: Duration = Duration::from_millis(500);
/// Upper bound of the delay.
const MAX_BACKOFF: Duration = Duration::from_mins(1);
/// Delays of consecutive failures: each doubles the previous one; the eighth is [`MAX_BACKOFF`].
const BACKOFF: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(INITIAL_BACKOFF)
    .with_factor(2.0)
    .with_max_delay(MAX_BACKOFF)
    .with_max_times(8);

/// Returns the delay before the retry that follows `failures` failures in a row, with jitter per `stage`.
#[must_use]
pub fn retry_delay(failures: u32, stage: &str) -> Duration {
    let attempts = usize::try_from(failures.max(1)).unwrap_or(usize::MAX);
    let delay = BACKOFF.build().take(attempts).last();
    with_jitter(delay.unwrap_or(MAX_BACKOFF), (stage, failures))
}

/// Returns `delay` shortened by up to a quarter, so that stages that were reconciled together are requeued apart.
///
/// The share follows from `seed`, not from a random number, and never lengthens the delay. The jitter of `backon` is
/// random and up to doubles the delay, also beyond its maximum.
#[must_use]
pub fn with_jitter(delay: Duration, seed: impl Hash) -> Duration {
    let mut hasher = DefaultHasher::new();
    seed.hash(&mut hasher);
    let share = u32::try_from(hasher.finish() % 256).unwrap_or(0);
    delay * (1024 - share) / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_retry_delay_grows_to_its_maximum_and_differs_between_stages() {
        let delays: Vec<Duration> = (1..=12)
            .map(|failures| retry_delay(failures, "orders/stg"))
            .collect();
        assert!(delays[0] <= INITIAL_BACKOFF && delays[0] >= INITIAL_BACKOFF * 3 / 4);
        assert!(delays[11] <= MAX_BACKOFF && delays[11] >= MAX_BACKOFF * 3 / 4);
        assert!(
            delays.windows(2).take(6).all(|pair| pair[0] < pair[1]),
            "{delays:?}"
        );
        assert_ne!(retry_delay(5, "orders/stg"), retry_delay(5, "orders/dds"));
        assert!(retry_delay(u32::MAX, "orders/stg") <= MAX_BACKOFF);
    }

    #[test]
    fn jitter_spreads_delays_over_a_quarter() {
        let minute = Duration::from_mins(1);
        let delays: Vec<Duration> = (0..1000).map(|stage| with_jitter(minute, stage)).collect();
        assert!(
            delays
                .iter()
                .all(|delay| (minute * 3 / 4..=minute).contains(delay))
        );
        for quarter in 0..4 {
            let from = minute * (12 + quarter) / 16;
            let in_quarter = delays
                .iter()
                .filter(|delay| (from..from + minute / 16).contains(*delay));
            assert!((150..350).contains(&in_quarter.count()), "{quarter}");
        }
    }
}
