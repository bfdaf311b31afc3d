//! Partitions that are to be read again, each from an offset and at a time. Pure: the time is passed in.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a seek that Kafka's client refused waits before it is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// The seeks that wait for their time, by partition.
#[derive(Debug, Default)]
pub(super) struct Seeks(BTreeMap<i32, (i64, Instant)>);

impl Seeks {
    /// Asks for a partition to be read from `offset`, at `at` or when the seek that waits already would have been
    /// due, whichever is later: what was in flight when its partition was held must not end the hold.
    pub(super) fn ask(&mut self, partition: i32, offset: i64, at: Instant) {
        let waiting = self.0.get(&partition).map(|(_, waiting)| *waiting);
        let at = waiting.map_or(at, |waiting| waiting.max(at));
        self.0.insert(partition, (offset, at));
    }

    /// Partition and offset of each seek whose time has come.
    #[must_use]
    pub(super) fn due(&self, now: Instant) -> Vec<(i32, i64)> {
        let due = self.0.iter().filter(|(_, (_, at))| *at <= now);
        due.map(|(&partition, &(offset, _))| (partition, offset))
            .collect()
    }

    /// The seek failed: it is due again after a pause.
    pub(super) fn postpone(&mut self, partition: i32, now: Instant) {
        if let Some((_, at)) = self.0.get_mut(&partition) {
            *at = now + AGAIN;
        }
    }

    /// The seek is done, or its partition is another worker's.
    pub(super) fn forget(&mut self, partition: i32) {
        self.0.remove(&partition);
    }

    /// Whether the partition waits for a seek.
    #[must_use]
    pub(super) fn holds(&self, partition: i32) -> bool {
        self.0.contains_key(&partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(
        clippy::disallowed_methods,
        reason = "any instant will do as the origin of a test's time"
    )]
    fn now() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_hold_is_not_ended_by_what_was_in_flight_when_it_began() {
        let (mut seeks, now) = (Seeks::default(), now());
        let hold = Duration::from_secs(10);
        seeks.ask(3, 7, now + hold);
        seeks.ask(3, 7, now);
        assert_eq!(seeks.due(now + hold / 2), []);
        assert_eq!(seeks.due(now + hold), [(3, 7)]);
    }

    #[test]
    fn a_seek_that_failed_is_tried_again_until_it_is_forgotten() {
        let (mut seeks, now) = (Seeks::default(), now());
        seeks.ask(3, 7, now);
        seeks.postpone(3, now);
        assert_eq!(seeks.due(now), []);
        assert_eq!(seeks.due(now + AGAIN), [(3, 7)]);
        assert!(seeks.holds(3));
        seeks.forget(3);
        assert_eq!(seeks.due(now + AGAIN), []);
        assert!(!seeks.holds(3));
    }
}
