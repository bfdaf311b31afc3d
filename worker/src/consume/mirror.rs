//! Positions that Kafka has still to take as the group's offsets. Pure: the time is passed in.
//!
//! A commit is refused while the group assigns its partitions anew. Without another one the group would seem to lag,
//! by what it has done, until its next record.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long an answer is waited for until the positions are committed again.
const AGAIN: Duration = Duration::from_secs(1);

/// The positions without an answer, by partition.
#[derive(Debug, Default)]
pub(super) struct Mirror {
    wanted: BTreeMap<i32, i64>,
    asked: Option<Instant>,
}

impl Mirror {
    /// Notes positions that are being committed.
    pub(super) fn ask(&mut self, positions: &BTreeMap<i32, i64>, now: Instant) {
        self.wanted.extend(positions);
        self.asked = Some(now);
    }

    /// Kafka took an offset; it may be one from before.
    pub(super) fn taken(&mut self, partition: i32, offset: i64) {
        if self.wanted.get(&partition) == Some(&offset) {
            self.wanted.remove(&partition);
        }
    }

    /// The partition is another worker's, and so is its offset.
    pub(super) fn forget(&mut self, partition: i32) {
        self.wanted.remove(&partition);
    }

    /// What is to be committed again, because it was not answered, or refused.
    #[must_use]
    pub(super) fn due(&self, now: Instant) -> Option<&BTreeMap<i32, i64>> {
        let waited = self.asked.is_some_and(|asked| now.duration_since(asked) >= AGAIN);
        (waited && !self.wanted.is_empty()).then_some(&self.wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_committed_again_until_kafka_has_taken_it() {
        #[expect(
            clippy::disallowed_methods,
            reason = "any instant will do as the origin of a test's time"
        )]
        let now = Instant::now();
        let mut mirror = Mirror::default();
        mirror.ask(&BTreeMap::from([(0, 5), (1, 7), (2, 9)]), now);
        assert_eq!(mirror.due(now), None, "the answer is still to come");
        mirror.taken(0, 5);
        mirror.taken(1, 6);
        mirror.forget(2);
        let left = BTreeMap::from([(1, 7)]);
        assert_eq!(mirror.due(now + AGAIN), Some(&left));
        mirror.ask(&left, now + AGAIN);
        assert_eq!(mirror.due(now + AGAIN), None);
        mirror.taken(1, 7);
        assert_eq!(mirror.due(now + AGAIN * 2), None, "everything is taken");
    }
}
