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

    /// The partition is another worker's, and so is its offset.
    pub(super) fn forget(&mut self, partition: i32) {
        self.wanted.remove(&partition);
    }

    /// The positions to look for, once Kafka has had time to take them; what it lacks is committed again.
    #[must_use]
    pub(super) fn due(&mut self, now: Instant) -> Option<BTreeMap<i32, i64>> {
        let waited = self
            .committed
            .is_some_and(|committed| now.duration_since(committed) >= AFTER);
        (waited && !self.wanted.is_empty()).then(|| std::mem::take(&mut self.wanted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_due_once_a_while_after_their_commit() {
        #[expect(
            clippy::disallowed_methods,
            reason = "any instant will do as the origin of a test's time"
        )]
        let now = Instant::now();
        let mut mirror = Mirror::default();
        assert_eq!(mirror.due(now), None);
        mirror.commits([(0, 5), (1, 7)], now);
        mirror.commits([(1, 9)], now + AFTER / 2);
        mirror.forget(0);
        assert_eq!(mirror.due(now + AFTER), None, "Kafka may still take it");
        let left = BTreeMap::from([(1, 9)]);
        assert_eq!(mirror.due(now + AFTER * 2), Some(left));
        assert_eq!(mirror.due(now + AFTER * 2), None);
    }
}
