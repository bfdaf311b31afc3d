//! Builds batches of records. Pure: the time is passed in.
//!
//! A batch closes at its limit of records, bytes or waiting time, whichever comes first.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::batch::{Batch, Fetched};
use crate::position::{OffsetRange, OffsetRanges};
use crate::record::Record;

/// Maximum time that one poll blocks. It bounds the delay of a shutdown or a command.
const MAX_POLL_WAIT: Duration = Duration::from_millis(100);

/// Limits at which a batch closes.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Maximum number of records.
    pub max_records: usize,
    /// Maximum bytes of the records, including keys and headers. The record that reaches the limit is the last one.
    pub max_bytes: usize,
    /// Maximum time between the first record and the end of the batch.
    pub max_wait: Duration,
}

/// The batch under construction, and the next offset of every partition that is read.
#[derive(Debug)]
pub(super) struct BatchBuilder {
    limits: BatchLimits,
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
            next_offsets: BTreeMap::new(),
            ranges: OffsetRanges::new(),
            records: Vec::new(),
            bytes: 0,
            first_record_at: None,
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
            from: *next_offset,
            to: *next_offset,
        });
        range.to = record.offset + 1;
        *next_offset = range.to;
        self.bytes += record.size_bytes();
        self.first_record_at.get_or_insert(now);
        self.records.push(record);
    }

    /// Returns true if a limit is reached and the batch has records.
    #[must_use]
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let has_waited = self
            .first_record_at
            .is_some_and(|first| now.duration_since(first) >= self.limits.max_wait);
        !self.ranges.is_empty()
            && (has_waited
                || self.records.len() >= self.limits.max_records
                || self.bytes >= self.limits.max_bytes)
    }

    /// Time that the next poll may block.
    #[must_use]
    pub(super) fn poll_timeout(&self, now: Instant) -> Duration {
        let remaining = self
            .first_record_at
            .map(|first| self.limits.max_wait.saturating_sub(now.duration_since(first)));
        remaining.map_or(MAX_POLL_WAIT, |remaining| remaining.min(MAX_POLL_WAIT))
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

    fn builder() -> (BatchBuilder, Instant) {
        let mut builder = BatchBuilder::new(LIMITS);
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
        assert_eq!(by_wait.poll_timeout(now + LIMITS.max_wait), Duration::ZERO);
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
            OffsetRanges::from([(0, OffsetRange { from: 10, to: 16 })])
        );
        builder.push(record(0, 20, 1), now);
        assert_eq!(
            builder.take_batch().ranges,
            OffsetRanges::from([(0, OffsetRange { from: 16, to: 21 })])
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
            OffsetRanges::from([
                (0, OffsetRange { from: 5, to: 6 }),
                (1, OffsetRange { from: 0, to: 1 })
            ])
        );
        assert_eq!(batch.state.records.len(), 2);
    }
}
