//! Gathers records into batches. Pure: the time is passed in.
//!
//! A batch closes at its number of records, at its bytes, or when its first record has waited long enough,
//! whichever comes first.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::batch::{Batch, Fetched};
use crate::position::{Span, Spans};
use crate::record::Record;

/// How long one call may wait for a record when nothing else is due: what a stop or a command waits at most.
const PATIENCE: Duration = Duration::from_millis(100);

/// When a batch closes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Records.
    pub records: usize,
    /// Bytes of records, keys and headers included.
    pub bytes: usize,
    /// Time since the first record came.
    pub wait: Duration,
}

/// The batch that is being gathered, and the position of every assigned partition.
#[derive(Debug)]
pub(super) struct Gather {
    limits: Limits,
    next: BTreeMap<i32, i64>,
    spans: Spans,
    records: Vec<Record>,
    bytes: usize,
    since: Option<Instant>,
}

impl Gather {
    /// Nothing gathered, nothing assigned.
    #[must_use]
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            next: BTreeMap::new(),
            spans: Spans::new(),
            records: Vec::new(),
            bytes: 0,
            since: None,
        }
    }

    /// Reads the partition from this offset on; what was gathered of it is dropped.
    pub(super) fn start(&mut self, partition: i32, offset: i64) {
        self.forget(partition);
        self.next.insert(partition, offset);
    }

    /// Drops what was gathered of the partition, and ignores what still comes of it.
    pub(super) fn forget(&mut self, partition: i32) {
        self.next.remove(&partition);
        if self.spans.remove(&partition).is_some() {
            self.records.retain(|record| record.partition != partition);
            self.bytes = self.records.iter().map(Record::size).sum();
        }
    }

    /// Takes a record, unless it is of a partition that is not read, or from before its position.
    pub(super) fn push(&mut self, record: Record, now: Instant) {
        let Some(next) = self.next.get_mut(&record.partition) else {
            return;
        };
        if record.offset < *next {
            return;
        }
        let span = self.spans.entry(record.partition).or_insert(Span {
            from: *next,
            to: *next,
        });
        span.to = record.offset + 1;
        *next = span.to;
        self.bytes += record.size();
        self.since.get_or_insert(now);
        self.records.push(record);
    }

    /// Whether the batch closes now.
    #[must_use]
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let waited = self
            .since
            .is_some_and(|since| now.duration_since(since) >= self.limits.wait);
        !self.spans.is_empty()
            && (waited || self.records.len() >= self.limits.records || self.bytes >= self.limits.bytes)
    }

    /// How long to wait for the next record.
    #[must_use]
    pub(super) fn patience(&self, now: Instant) -> Duration {
        let left = self
            .since
            .map(|since| self.limits.wait.saturating_sub(now.duration_since(since)));
        left.map_or(PATIENCE, |left| left.min(PATIENCE))
    }

    /// The batch as it is, and an empty one in its place.
    pub(super) fn take(&mut self) -> Batch<Fetched> {
        self.bytes = 0;
        self.since = None;
        let next = Vec::with_capacity(self.records.len());
        let records = std::mem::replace(&mut self.records, next);
        Batch {
            spans: std::mem::take(&mut self.spans),
            state: Fetched { records },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        records: 3,
        bytes: 100,
        wait: Duration::from_millis(10),
    };

    fn record(partition: i32, offset: i64, size: usize) -> Record {
        Record {
            partition,
            offset,
            value: Some(vec![0; size]),
            ..Record::default()
        }
    }

    fn gather() -> (Gather, Instant) {
        let mut gather = Gather::new(LIMITS);
        gather.start(0, 10);
        gather.start(1, 0);
        #[expect(
            clippy::disallowed_methods,
            reason = "any instant will do as the origin of a test's time"
        )]
        let now = Instant::now();
        (gather, now)
    }

    #[test]
    fn a_batch_closes_at_its_records_its_bytes_or_its_wait() {
        let (mut by_records, now) = gather();
        (0..3).for_each(|offset| by_records.push(record(1, offset, 1), now));
        assert!(by_records.is_due(now));
        let (mut by_bytes, now) = gather();
        by_bytes.push(record(1, 0, 100), now);
        assert!(by_bytes.is_due(now));
        let (mut by_wait, now) = gather();
        by_wait.push(record(1, 0, 1), now);
        assert!(!by_wait.is_due(now));
        assert!(by_wait.is_due(now + LIMITS.wait));
        assert_eq!(by_wait.patience(now + LIMITS.wait), Duration::ZERO);
    }

    #[test]
    fn an_empty_batch_is_never_due() {
        let (gather, now) = gather();
        assert!(!gather.is_due(now + Duration::from_hours(1)));
    }

    #[test]
    fn a_span_begins_where_the_last_batch_ended_whatever_gaps_the_log_has() {
        let (mut gather, now) = gather();
        gather.push(record(0, 12, 1), now);
        gather.push(record(0, 15, 1), now);
        assert_eq!(gather.take().spans, Spans::from([(0, Span { from: 10, to: 16 })]));
        gather.push(record(0, 20, 1), now);
        assert_eq!(gather.take().spans, Spans::from([(0, Span { from: 16, to: 21 })]));
    }

    #[test]
    fn a_partition_that_is_read_again_forgets_what_was_gathered() {
        let (mut gather, now) = gather();
        gather.push(record(0, 10, 60), now);
        gather.push(record(1, 0, 1), now);
        gather.start(0, 5);
        gather.push(record(0, 4, 1), now);
        gather.push(record(7, 0, 1), now);
        gather.push(record(0, 5, 1), now);
        let batch = gather.take();
        assert_eq!(
            batch.spans,
            Spans::from([(0, Span { from: 5, to: 6 }), (1, Span { from: 0, to: 1 })])
        );
        assert_eq!(batch.state.records.len(), 2);
    }
}
