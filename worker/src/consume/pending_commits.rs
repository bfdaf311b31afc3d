//! Offset commits that Kafka has not confirmed yet. Pure: the time is passed in.
//!
//! The broker rejects a commit during a rebalance, and librdkafka only logs it. Without another commit the group
//! would show a false lag until its next record.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Delay between a commit and its verification.
const VERIFY_DELAY: Duration = Duration::from_secs(1);

/// Positions that were committed to Kafka and not verified yet, by partition.
#[derive(Debug, Default)]
pub(super) struct PendingCommits {
    positions: BTreeMap<i32, i64>,
    last_commit: Option<Instant>,
}

impl PendingCommits {
    /// Adds positions that are being committed.
    pub(super) fn add(&mut self, positions: impl IntoIterator<Item = (i32, i64)>, now: Instant) {
        self.positions.extend(positions);
        self.last_commit = Some(now);
    }

    /// Removes a partition that was revoked: its new owner commits its offset.
    pub(super) fn remove(&mut self, partition: i32) {
        self.positions.remove(&partition);
    }

    /// Takes the positions to verify, once the last commit is old enough. `None` if there is nothing to verify yet.
    #[must_use]
    pub(super) fn take_due(&mut self, now: Instant) -> Option<BTreeMap<i32, i64>> {
        let is_due = self
            .last_commit
            .is_some_and(|committed| now.duration_since(committed) >= VERIFY_DELAY);
        (is_due && !self.positions.is_empty()).then(|| std::mem::take(&mut self.positions))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_due_once_after_the_verify_delay() {
        #[expect(
            clippy::disallowed_methods,
            reason = "any instant will do as the origin of a test's time"
        )]
        let now = Instant::now();
        let mut commits = PendingCommits::default();
        assert_eq!(commits.take_due(now), None);
        commits.add([(0, 5), (1, 7)], now);
        commits.add([(1, 9)], now + VERIFY_DELAY / 2);
        commits.remove(0);
        assert_eq!(
            commits.take_due(now + VERIFY_DELAY),
            None,
            "the last commit is not old enough"
        );
        let unverified = BTreeMap::from([(1, 9)]);
        assert_eq!(commits.take_due(now + VERIFY_DELAY * 2), Some(unverified));
        assert_eq!(commits.take_due(now + VERIFY_DELAY * 2), None);
    }
}
