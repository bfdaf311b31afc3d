//! Positions that Kafka may not have as the group's offsets yet. Pure: the time is passed in.
//!
//! A commit is refused while the group assigns its partitions anew, and nobody is told: librdkafka only logs what
//! becomes of one. Without another one the group would seem to lag, by what it has done, until its next record.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long after a commit it is asked what Kafka has.
const AFTER: Duration = Duration::from_secs(1);

/// The positions that were committed, and not found yet, by partition.
#[derive(Debug, Default)]
pub(super) struct Mirror {
    wanted: BTreeMap<i32, i64>,
    committed: Option<Instant>,
}

impl Mirror {
    /// Notes positions that are being committed.
    pub(super) fn commits(&mut self, positions: impl IntoIterator<Item = (i32, i64)>, now: Instant) {
        self.wanted.extend(positions);
        self.committed = Some(now);
    }

    /// Kafka has this offset of the partition; it may be one from before.
    pub(super) fn found(&mut self, partition: i32, offset: i64) {
        if self.wanted.get(&partition) == Some(&offset) {
            self.wanted.remove(&partition);
        }
    }

    /// The partition is another worker's, and so is its offset.
    pub(super) fn forget(&mut self, partition: i32) {
        self.wanted.remove(&partition);
    }

    /// Whether it is time to ask for the offsets of [`Mirror::wanted`].
    #[must_use]
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let waited = self
            .committed
            .is_some_and(|committed| now.duration_since(committed) >= AFTER);
        waited && !self.wanted.is_empty()
    }

    /// The positions that Kafka is not known to have.
    #[must_use]
    pub(super) fn wanted(&self) -> &BTreeMap<i32, i64> {
        &self.wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_wanted_until_kafka_has_it() {
        #[expect(
            clippy::disallowed_methods,
            reason = "any instant will do as the origin of a test's time"
        )]
        let now = Instant::now();
        let mut mirror = Mirror::default();
        mirror.commits([(0, 5), (1, 7), (2, 9)], now);
        assert!(!mirror.is_due(now), "the answer is still to come");
        assert!(mirror.is_due(now + AFTER));
        mirror.found(0, 5);
        mirror.found(1, 6);
        mirror.forget(2);
        let left = BTreeMap::from([(1, 7)]);
        assert_eq!(mirror.wanted(), &left);
        mirror.commits(left, now + AFTER);
        assert!(!mirror.is_due(now + AFTER));
        mirror.found(1, 7);
        assert!(!mirror.is_due(now + AFTER * 2), "Kafka has everything");
    }
}
