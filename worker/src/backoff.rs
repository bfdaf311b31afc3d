//! Delays between retries: exponential backoff with jitter.
//!
//! A delay doubles from 0.1 s up to 5 s. Jitter shortens it by up to a half, so that workers that failed together
//! do not retry together. The caller waits, so that a shutdown can end the wait.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};

/// Upper bound of the first delay.
const INITIAL_BACKOFF: Duration = Duration::from_millis(100);
/// Upper bound of every delay.
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// Delays of one series of retries; a success starts a new series.
#[derive(Debug)]
pub struct Backoff(ExponentialBackoff);

impl Default for Backoff {
    fn default() -> Self {
        // The library's jitter lengthens a delay up to twofold, so its delays are the lower bounds: half of ours.
        Self(lower_bounds().with_jitter().build())
    }
}

impl Backoff {
    /// The delay before the next attempt.
    pub fn next_delay(&mut self) -> Duration {
        // The series is endless.
        self.0.next().unwrap_or(MAX_BACKOFF)
    }
}

/// Shortest possible delays.
fn lower_bounds() -> ExponentialBuilder {
    ExponentialBuilder::new()
        .with_min_delay(INITIAL_BACKOFF / 2)
        .with_max_delay(MAX_BACKOFF / 2)
        .without_max_times()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_maximum_and_stay_there() {
        let delays: Vec<Duration> = lower_bounds().build().take(12).collect();
        assert_eq!(delays[0], INITIAL_BACKOFF / 2);
        assert!(delays.is_sorted());
        assert_eq!(delays[11], MAX_BACKOFF / 2);
        assert!(Backoff::default().next_delay() < INITIAL_BACKOFF);
    }

    #[test]
    fn jitter_shortens_a_delay_by_up_to_a_half() {
        let mut backoff = Backoff::default();
        for lower_bound in lower_bounds().build().take(12) {
            let delay = backoff.next_delay();
            assert!((lower_bound..=lower_bound * 2).contains(&delay), "{delay:?}");
        }
    }
}
