//! Lanes: disjoint sets of the partitions, each with a batch under construction. Pure.
//!
//! The pipeline commits the batches of different lanes at the same time, because no partition is in two of them. The
//! batches of one lane are committed one after the other.

use std::collections::BTreeMap;
use std::time::Instant;

use uuid::Uuid;

use super::batch_builder::{BatchBuilder, BatchLimits};
use crate::batch::{Batch, Fetched};
use crate::record::Record;

/// The batches under construction.
#[derive(Debug)]
pub(super) struct Lanes {
    limits: BatchLimits,
    builders: Vec<BatchBuilder>,
    /// Lane of each assigned partition.
    assigned: BTreeMap<i32, usize>,
}

impl Lanes {
    /// Creates empty batches that read no partition yet; `count` is at least 1.
    #[must_use]
    pub(super) fn new(limits: BatchLimits, count: usize) -> Self {
        Self {
            limits,
            builders: (0..count.max(1)).map(|_| BatchBuilder::new(limits)).collect(),
            assigned: BTreeMap::new(),
        }
    }

    /// Number of lanes.
    #[must_use]
    pub(super) fn count(&self) -> usize {
        self.builders.len()
    }

    /// Batch of one lane.
    #[must_use]
    pub(super) fn batch(&self, lane: usize) -> &BatchBuilder {
        &self.builders[lane]
    }

    /// Sets the topic ID of the log that is read, at every assignment.
    pub(super) fn set_topic_id(&mut self, topic_id: Uuid) {
        self.builders
            .iter_mut()
            .for_each(|builder| builder.set_topic_id(topic_id));
    }

    /// Topic ID of the log that is read.
    #[must_use]
    pub(super) fn topic_id(&self) -> Uuid {
        self.builders[0].topic_id()
    }

    /// Next offset of each partition that is read.
    #[must_use]
    pub(super) fn next_offsets(&self) -> BTreeMap<i32, i64> {
        let lanes = self.builders.iter();
        lanes.flat_map(|builder| builder.next_offsets().clone()).collect()
    }

    /// Returns true if no partition is read.
    #[must_use]
    pub(super) fn reads_nothing(&self) -> bool {
        self.builders
            .iter()
            .all(|builder| builder.next_offsets().is_empty())
    }

    /// Reads the partition from this offset, and drops its records from the batch. A partition without a lane gets the one
    /// with the fewest partitions.
    pub(super) fn restart_at(&mut self, partition: i32, offset: i64) {
        let lane = self
            .assigned
            .get(&partition)
            .copied()
            .or_else(|| (0..self.count()).min_by_key(|lane| self.partitions_in(*lane)));
        let lane = lane.unwrap_or_default();
        self.assigned.insert(partition, lane);
        self.builders[lane].restart_at(partition, offset);
        self.share_bytes();
    }

    /// Drops the records of a partition from its batch, and ignores it until it is restarted, in the same lane: a batch with
    /// earlier records of it may be in flight there.
    pub(super) fn pause(&mut self, partition: i32) {
        if let Some(&lane) = self.assigned.get(&partition) {
            self.builders[lane].remove(partition);
        }
    }

    /// As [`Self::pause`], for a partition that is revoked.
    pub(super) fn remove(&mut self, partition: i32) {
        self.pause(partition);
        self.assigned.remove(&partition);
        self.share_bytes();
    }

    /// Adds a record to the batch of its partition.
    pub(super) fn push(&mut self, record: Record, now: Instant) {
        if let Some(&lane) = self.assigned.get(&record.partition) {
            self.builders[lane].push(record, now);
        }
    }

    /// Extends a batch to `end`, because the partition has no record before it.
    pub(super) fn skip_to(&mut self, partition: i32, end: i64, now: Instant) {
        if let Some(&lane) = self.assigned.get(&partition) {
            self.builders[lane].skip_to(partition, end, now);
        }
    }

    /// Drops the records of all batches, and ignores their partitions from now on.
    pub(super) fn drop_records(&mut self) {
        self.builders.iter_mut().for_each(BatchBuilder::drop_records);
    }

    /// Closes the batch of a lane and starts an empty one.
    pub(super) fn take_batch(&mut self, lane: usize) -> Batch<Fetched> {
        self.builders[lane].take_batch()
    }

    fn partitions_in(&self, lane: usize) -> usize {
        self.assigned.values().filter(|other| **other == lane).count()
    }

    /// Shares the bytes of a batch among the lanes with partitions, so that the memory does not grow with their number.
    fn share_bytes(&mut self) {
        let used = (0..self.count())
            .filter(|lane| self.partitions_in(*lane) > 0)
            .count();
        let bytes = self.limits.max_bytes / used.max(1);
        self.builders
            .iter_mut()
            .for_each(|builder| builder.set_max_bytes(bytes));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn lanes(count: usize) -> Lanes {
        let limits = BatchLimits {
            max_records: 10,
            max_bytes: 100,
            max_wait: Duration::from_secs(1),
        };
        Lanes::new(limits, count)
    }

    fn record(partition: i32, offset: i64, size: usize) -> Record {
        Record {
            partition,
            offset,
            value: Some(vec![0; size]),
            ..Record::default()
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "any instant will do as the origin of a test's time"
    )]
    fn now() -> Instant {
        Instant::now()
    }

    #[test]
    fn partitions_are_dealt_evenly_and_no_partition_is_in_two_lanes() {
        let mut lanes = lanes(2);
        for partition in [0, 2, 4, 6] {
            lanes.restart_at(partition, 0);
            lanes.push(record(partition, 0, 1), now());
        }
        let batches = [0, 1].map(|lane| lanes.take_batch(lane));
        let partitions = batches.map(|batch| batch.ranges.into_keys().collect::<Vec<_>>());
        assert_eq!(partitions, [vec![0, 4], vec![2, 6]]);
        assert_eq!(
            lanes.next_offsets(),
            BTreeMap::from([(0, 1), (2, 1), (4, 1), (6, 1)])
        );
    }

    #[test]
    fn a_restarted_partition_stays_in_its_lane_until_it_is_revoked() {
        let mut lanes = lanes(2);
        (0..3).for_each(|partition| lanes.restart_at(partition, 0));
        lanes.push(record(2, 0, 1), now());
        lanes.pause(2);
        lanes.push(record(2, 1, 1), now());
        assert!(lanes.batch(0).is_empty());
        lanes.restart_at(2, 0);
        assert!(lanes.batch(0).next_offsets().contains_key(&2));
        lanes.remove(0);
        lanes.remove(2);
        lanes.restart_at(3, 0);
        assert!(lanes.batch(0).next_offsets().contains_key(&3));
        assert!(!lanes.reads_nothing());
        lanes.remove(1);
        lanes.remove(3);
        assert!(lanes.reads_nothing());
    }

    #[test]
    fn the_lanes_with_partitions_share_the_bytes_of_a_batch() {
        let mut lanes = lanes(2);
        lanes.restart_at(0, 0);
        lanes.push(record(0, 0, 60), now());
        assert!(!lanes.batch(0).is_due(now()), "the only lane");
        lanes.restart_at(1, 0);
        assert!(lanes.batch(0).is_due(now()));
        lanes.push(record(1, 0, 40), now());
        assert!(!lanes.batch(1).is_due(now()));
        lanes.remove(0);
        lanes.push(record(1, 1, 40), now());
        assert!(!lanes.batch(1).is_due(now()), "the only lane again");
        lanes.skip_to(1, 9, now());
        assert_eq!(lanes.take_batch(1).ranges[&1].to, 9);
    }
}
