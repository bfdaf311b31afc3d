//! Seeks that are scheduled: partitions to read again, each from an offset and at a time. Pure: the time is passed
//! in.

use std::collections::BTreeMap;
use std::time::Instant;

/// Scheduled seeks by partition.
#[derive(Debug, Default)]
pub(super) struct PendingSeeks(BTreeMap<i32, (i64, Instant)>);

impl PendingSeeks {
    /// Schedules a seek to `offset` at `at`, or at the time of an earlier seek of the partition if that is later. A
    /// batch that was in flight when its partition was blocked must not unblock it early.
    pub(super) fn schedule(&mut self, partition: i32, offset: i64, at: Instant) {
        let scheduled = self.0.get(&partition).map(|(_, scheduled)| *scheduled);
        let at = scheduled.map_or(at, |scheduled| scheduled.max(at));
        self.0.insert(partition, (offset, at));
    }

    /// Partition and offset of every seek that is due. It remains scheduled until [`Self::remove`].
    #[must_use]
    pub(super) fn due(&self, now: Instant) -> Vec<(i32, i64)> {
        let due = self.0.iter().filter(|(_, (_, at))| *at <= now);
        due.map(|(&partition, &(offset, _))| (partition, offset))
            .collect()
    }

    /// Removes a seek that is done, or whose partition was revoked.
    pub(super) fn remove(&mut self, partition: i32) {
        self.0.remove(&partition);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[expect(
        clippy::disallowed_methods,
        reason = "any instant will do as the origin of a test's time"
    )]
    fn now() -> Instant {
        Instant::now()
    }

    #[test]
    fn an_in_flight_batch_does_not_unblock_its_partition_early() {
        let (mut seeks, now) = (PendingSeeks::default(), now());
        let delay = Duration::from_secs(10);
        seeks.schedule(3, 7, now + delay);
        seeks.schedule(3, 7, now);
        assert_eq!(seeks.due(now + delay / 2), []);
        assert_eq!(seeks.due(now + delay), [(3, 7)]);
    }

    #[test]
    fn a_seek_is_due_until_it_is_removed() {
        let (mut seeks, now) = (PendingSeeks::default(), now());
        seeks.schedule(3, 7, now);
        assert_eq!(seeks.due(now), [(3, 7)]);
        seeks.remove(3);
        assert_eq!(seeks.due(now), []);
    }
}
