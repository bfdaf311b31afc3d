//! Builds batches of records. Pure: the time is passed in.
//!
//! A batch closes at its limit of records, bytes or waiting time, whichever comes first; and before that, as soon as the
//! pipeline waits for it and no further record is at hand.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::batch::{Batch, Fetched};
use crate::position::{OffsetRange, OffsetRanges};
use crate::record::Record;

/// Maximum time that one poll blocks. It bounds the delay of a shutdown or a command.
const MAX_POLL_WAIT: Duration = Duration::from_millis(100);
/// Maximum time that one poll blocks while records wait for a busy pipeline.
const BUSY_POLL_WAIT: Duration = Duration::from_millis(2);

/// Limits at which a batch closes.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Maximum number of records.
    pub max_records: usize,
    /// Maximum bytes of the records, including keys and headers. The record that reaches the limit is the last one.
    pub max_bytes: usize,
    /// Maximum time between the first record and the end of the batch, while the pipeline is busy.
    pub max_wait: Duration,
}

/// The batch under construction, and the next offset of every partition that is read.
#[derive(Debug)]
pub(super) struct BatchBuilder {
    limits: BatchLimits,
    topic_id: Uuid,
    next_offsets: BTreeMap<i32, i64>,
    ranges: OffsetRanges,
    records: Vec<Record>,
    bytes: usize,
    first_record_at: Option<Instant>,
}

impl BatchBuilder {
    /// Creates an empty batch that reads no partition yet.
    #[must_use]
    pub(super) fn new(limits: BatchLimits) -> Self {
        Self {
            limits,
            topic_id: Uuid::nil(),
            next_offsets: BTreeMap::new(),
            ranges: OffsetRanges::new(),
            records: Vec::new(),
            bytes: 0,
            first_record_at: None,
        }
    }

    /// Sets the topic ID of the log that is read, at every assignment.
    pub(super) fn set_topic_id(&mut self, topic_id: Uuid) {
        self.topic_id = topic_id;
    }

    /// Sets the maximum bytes of a batch.
    pub(super) fn set_max_bytes(&mut self, max_bytes: usize) {
        self.limits.max_bytes = max_bytes;
    }

    /// Topic ID of the log that is read.
    #[must_use]
    pub(super) fn topic_id(&self) -> Uuid {
        self.topic_id
    }

    /// Next offset of each partition that is read.
    pub(super) fn next_offsets(&self) -> &BTreeMap<i32, i64> {
        &self.next_offsets
    }

    /// Extends the batch to `end`, because the partition has no record before it.
    pub(super) fn skip_to(&mut self, partition: i32, end: i64, now: Instant) {
        if let Some(next_offset) = self.next_offsets.get_mut(&partition)
            && *next_offset < end
        {
            let range = self.ranges.entry(partition).or_insert(OffsetRange {
                topic_id: self.topic_id,
                from: *next_offset,
                to: *next_offset,
            });
            range.to = end;
            *next_offset = end;
            self.first_record_at.get_or_insert(now);
        }
    }

    /// Drops the records of the batch, and ignores their partitions from now on.
    pub(super) fn drop_records(&mut self) {
        while let Some(partition) = self.records.first().map(|record| record.partition) {
            self.remove(partition);
        }
    }

    /// Reads the partition from this offset, and drops its records from the batch.
    pub(super) fn restart_at(&mut self, partition: i32, offset: i64) {
        self.remove(partition);
        self.next_offsets.insert(partition, offset);
    }

    /// Drops the records of a partition from the batch, and ignores its records from now on.
    pub(super) fn remove(&mut self, partition: i32) {
        self.next_offsets.remove(&partition);
        if self.ranges.remove(&partition).is_some() {
            self.records.retain(|record| record.partition != partition);
            self.bytes = self.records.iter().map(Record::size_bytes).sum();
        }
    }

    /// Adds a record. A record of a partition that is not read, or before the next offset of its partition, is
    /// ignored.
    pub(super) fn push(&mut self, record: Record, now: Instant) {
        let Some(next_offset) = self.next_offsets.get_mut(&record.partition) else {
            return;
        };
        if record.offset < *next_offset {
            return;
        }
        let range = self.ranges.entry(record.partition).or_insert(OffsetRange {
            topic_id: self.topic_id,
            from: *next_offset,
            to: *next_offset,
        });
        range.to = record.offset + 1;
        *next_offset = range.to;
        self.bytes += record.size_bytes();
        self.first_record_at.get_or_insert(now);
        self.records.push(record);
    }

    /// Returns true if the batch covers no offsets.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Returns true if a limit is reached and the batch covers offsets.
    #[must_use]
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let has_waited = self
            .first_record_at
            .is_some_and(|first| now.duration_since(first) >= self.limits.max_wait);
        !self.is_empty()
            && (has_waited
                || self.records.len() >= self.limits.max_records
                || self.bytes >= self.limits.max_bytes)
    }

    /// Returns true if the batch has records and the pipeline waits for it: since `ready_at`, or not at all.
    ///
    /// A batch without records, which only advances a position, always waits for its limit.
    #[must_use]
    pub(super) fn is_awaited(&self, now: Instant, ready_at: Option<Instant>) -> bool {
        !self.records.is_empty() && ready_at.is_some_and(|ready_at| now >= ready_at)
    }

    /// Time that the next poll may block. `ready_at` is as in [`Self::is_awaited`].
    #[must_use]
    pub(super) fn poll_timeout(&self, now: Instant, ready_at: Option<Instant>) -> Duration {
        let Some(first) = self.first_record_at else {
            return MAX_POLL_WAIT;
        };
        let until_limit = self.limits.max_wait.saturating_sub(now.duration_since(first));
        if self.records.is_empty() {
            return until_limit.min(MAX_POLL_WAIT);
        }
        let until_ready = ready_at.map_or(BUSY_POLL_WAIT, |ready_at| ready_at.saturating_duration_since(now));
        until_limit.min(until_ready).min(MAX_POLL_WAIT)
    }

    /// Closes the batch and starts an empty one.
    pub(super) fn take_batch(&mut self) -> Batch<Fetched> {
        self.bytes = 0;
        self.first_record_at = None;
        let next = Vec::with_capacity(self.records.len());
        let records = std::mem::replace(&mut self.records, next);
        Batch {
            ranges: std::mem::take(&mut self.ranges),
            state: Fetched { records },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC_ID: Uuid = Uuid::from_u128(7);

    const LIMITS: BatchLimits = BatchLimits {
        max_records: 3,
        max_bytes: 100,
        max_wait: Duration::from_millis(10),
    };

    fn record(partition: i32, offset: i64, size: usize) -> Record {
        Record {
            partition,
            offset,
            value: Some(vec![0; size]),
            ..Record::default()
        }
    }

    fn range(from: i64, to: i64) -> OffsetRange {
        OffsetRange {
            topic_id: TOPIC_ID,
            from,
            to,
        }
    }

    fn builder() -> (BatchBuilder, Instant) {
        let mut builder = BatchBuilder::new(LIMITS);
        builder.set_topic_id(TOPIC_ID);
        builder.restart_at(0, 10);
        builder.restart_at(1, 0);
        #[expect(
            clippy::disallowed_methods,
            reason = "any instant will do as the origin of a test's time"
        )]
        let now = Instant::now();
        (builder, now)
    }

    #[test]
    fn a_batch_closes_at_its_limit_of_records_bytes_or_waiting_time() {
        let (mut by_records, now) = builder();
        (0..3).for_each(|offset| by_records.push(record(1, offset, 1), now));
        assert!(by_records.is_due(now));
        let (mut by_bytes, now) = builder();
        by_bytes.push(record(1, 0, 100), now);
        assert!(by_bytes.is_due(now));
        let (mut by_wait, now) = builder();
        by_wait.push(record(1, 0, 1), now);
        assert!(!by_wait.is_due(now));
        assert!(by_wait.is_due(now + LIMITS.max_wait));
        assert_eq!(by_wait.poll_timeout(now + LIMITS.max_wait, None), Duration::ZERO);
    }

    #[test]
    fn a_batch_with_records_closes_as_soon_as_the_pipeline_waits_for_it() {
        let (mut builder, now) = builder();
        let (early, late) = (now + LIMITS.max_wait / 5, now + LIMITS.max_wait * 2);
        assert!(!builder.is_awaited(now, Some(now)), "without records");
        builder.skip_to(0, 11, now);
        assert!(!builder.is_awaited(now, Some(now)), "only offsets");
        assert_eq!(builder.poll_timeout(now, Some(now)), LIMITS.max_wait);
        builder.push(record(1, 0, 1), now);
        assert!(builder.is_awaited(now, Some(now)) && !builder.is_due(now));
        assert_eq!(builder.poll_timeout(now, Some(now)), Duration::ZERO);
        assert!(!builder.is_awaited(now, None), "the pipeline is busy");
        assert_eq!(builder.poll_timeout(now, None), BUSY_POLL_WAIT);
        assert!(!builder.is_awaited(now, Some(early)) && builder.is_awaited(early, Some(early)));
        assert_eq!(builder.poll_timeout(now, Some(early)), LIMITS.max_wait / 5);
        assert_eq!(builder.poll_timeout(now, Some(late)), LIMITS.max_wait);
    }

    #[test]
    fn an_empty_batch_is_never_due() {
        let (builder, now) = builder();
        assert!(!builder.is_due(now + Duration::from_hours(1)));
    }

    #[test]
    fn an_offset_range_begins_at_the_end_of_the_previous_one_despite_gaps() {
        let (mut builder, now) = builder();
        builder.push(record(0, 12, 1), now);
        builder.push(record(0, 15, 1), now);
        assert_eq!(
            builder.take_batch().ranges,
            OffsetRanges::from([(0, range(10, 16))])
        );
        builder.push(record(0, 20, 1), now);
        assert_eq!(
            builder.take_batch().ranges,
            OffsetRanges::from([(0, range(16, 21))])
        );
    }

    #[test]
    fn a_restarted_partition_drops_its_records_from_the_batch() {
        let (mut builder, now) = builder();
        builder.push(record(0, 10, 60), now);
        builder.push(record(1, 0, 1), now);
        builder.restart_at(0, 5);
        builder.push(record(0, 4, 1), now);
        builder.push(record(7, 0, 1), now);
        builder.push(record(0, 5, 1), now);
        let batch = builder.take_batch();
        assert_eq!(
            batch.ranges,
            OffsetRanges::from([(0, range(5, 6)), (1, range(0, 1))])
        );
        assert_eq!(batch.state.records.len(), 2);
    }

    #[test]
    fn a_partition_is_extended_over_offsets_without_a_record() {
        let (mut builder, now) = builder();
        assert!(builder.is_empty() && builder.topic_id() == TOPIC_ID);
        builder.skip_to(0, 15, now);
        builder.skip_to(7, 5, now);
        builder.skip_to(0, 12, now);
        assert!(!builder.is_empty() && builder.is_due(now + LIMITS.max_wait));
        assert_eq!(builder.next_offsets(), &BTreeMap::from([(0, 15), (1, 0)]));
        let batch = builder.take_batch();
        assert_eq!(batch.ranges, OffsetRanges::from([(0, range(10, 15))]));
        assert!(batch.state.records.is_empty() && builder.is_empty());
    }

    #[test]
    fn a_removed_partition_takes_only_its_own_records_and_bytes_along() {
        let (mut builder, now) = builder();
        builder.push(record(0, 10, 60), now);
        builder.push(record(1, 0, 60), now);
        assert!(builder.is_due(now));
        builder.remove(0);
        assert!(!builder.is_due(now));
        builder.push(record(0, 11, 60), now);
        builder.push(record(1, 1, 40), now);
        assert!(builder.is_due(now));
        let batch = builder.take_batch();
        assert!(batch.state.records.iter().all(|record| record.partition == 1));
        assert_eq!(batch.ranges, OffsetRanges::from([(1, range(0, 2))]));
        assert_eq!(builder.poll_timeout(now, Some(now)), MAX_POLL_WAIT);
    }

    #[test]
    fn dropped_records_are_not_read_again_without_a_restart() {
        let (mut builder, now) = builder();
        builder.push(record(0, 10, 1), now);
        builder.drop_records();
        assert!(builder.is_empty());
        assert_eq!(builder.next_offsets(), &BTreeMap::from([(1, 0)]));
        builder.push(record(0, 11, 1), now);
        assert!(builder.take_batch().state.records.is_empty());
    }
}
