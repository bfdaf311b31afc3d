#![expect(
    clippy::disallowed_types,
    reason = "edge: asks Kafka for the ends of partitions"
)]
//! Advances positions over empty tails: offsets after the last record that no consumer can read.
//!
//! Transaction markers, records of aborted transactions and compacted records occupy offsets. Once retention has deleted
//! them, nothing shows whether they were records, so a position before them could no longer be trusted. Therefore an idle
//! partition is checked while they exist: the end offset is fetched first, then the partition is read again from its
//! position. If the client reaches the end without a record, no record is before that end offset.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};

use super::batch_builder::BatchBuilder;

/// Time that a partition must be idle before its tail is checked.
const IDLE_DELAY: Duration = Duration::from_millis(200);
/// Delay before a failed check is repeated.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// Timeout of a request to the brokers.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);

/// State of a tail that is not verified yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tail {
    /// Records were read, and the end of the partition was not reached yet.
    Reading,
    /// The end was reached; the tail is checked at that time.
    Idle(Instant),
    /// The end offset was `end` when the partition was read again from `from`.
    Rereading { from: i64, end: i64 },
}

/// Tails that are not verified yet, by partition.
#[derive(Debug, Default)]
pub(super) struct EmptyTails(BTreeMap<i32, Tail>);

impl EmptyTails {
    /// A record was read, or the partition was assigned.
    pub(super) fn mark_unverified(&mut self, partition: i32) {
        self.0.insert(partition, Tail::Reading);
    }

    /// The partition was revoked, or is paused until a seek.
    pub(super) fn remove(&mut self, partition: i32) {
        self.0.remove(&partition);
    }

    /// The client reached the end of the partition. Advances the position over the tail if it was read again.
    pub(super) fn reach_end(&mut self, partition: i32, builder: &mut BatchBuilder, now: Instant) {
        let tail = self.0.get(&partition);
        match (tail, builder.idle_offset(partition)) {
            (Some(&Tail::Rereading { from, end }), Some(next)) if from == next => {
                builder.skip_to(partition, end, now);
                self.0.remove(&partition);
            }
            _ => drop(self.0.insert(partition, Tail::Idle(now + IDLE_DELAY))),
        }
    }

    /// Checks the tails of partitions that have been idle long enough.
    pub(super) fn check_idle<C: ConsumerContext>(
        &mut self,
        kafka: &BaseConsumer<C>,
        topic: &str,
        builder: &BatchBuilder,
        now: Instant,
    ) {
        self.0
            .retain(|partition, _| builder.next_offsets().contains_key(partition));
        let is_due = |tail: &Tail| matches!(tail, Tail::Idle(at) if *at <= now);
        let due = self.0.iter().filter(|(_, tail)| is_due(tail));
        for partition in due.map(|(&partition, _)| partition).collect::<Vec<_>>() {
            let next = builder.idle_offset(partition);
            let checked = next.map(|next| reread(kafka, topic, partition, next, REQUEST_TIMEOUT));
            self.record_check(partition, checked.as_ref(), now);
        }
    }

    /// Checks every tail once, until the deadline, because the worker stops.
    pub(super) fn check_all<C: ConsumerContext>(
        &mut self,
        kafka: &BaseConsumer<C>,
        topic: &str,
        builder: &BatchBuilder,
        remaining: impl Fn() -> Duration,
    ) {
        self.0.retain(|&partition, tail| {
            let timeout = remaining();
            let next = builder.idle_offset(partition).filter(|_| !timeout.is_zero());
            let checked = next.and_then(|next| reread(kafka, topic, partition, next, timeout).ok().flatten());
            checked.is_some_and(|rereading| {
                *tail = rereading;
                true
            })
        });
    }

    /// Returns true if a partition is being read again.
    pub(super) fn is_rereading(&self) -> bool {
        self.0.values().any(|tail| matches!(tail, Tail::Rereading { .. }))
    }

    /// Records the result of a check: `None` if the open batch has records of the partition.
    fn record_check<E>(&mut self, partition: i32, checked: Option<&Result<Option<Tail>, E>>, now: Instant) {
        match checked {
            Some(Ok(Some(rereading))) => drop(self.0.insert(partition, *rereading)),
            Some(Ok(None)) => self.remove(partition),
            Some(Err(_)) => drop(self.0.insert(partition, Tail::Idle(now + RETRY_DELAY))),
            None => drop(self.0.insert(partition, Tail::Idle(now + IDLE_DELAY))),
        }
    }
}

/// Reads the partition again from its next offset; `None` if that is its end.
fn reread<C: ConsumerContext>(
    kafka: &BaseConsumer<C>,
    topic: &str,
    partition: i32,
    next: i64,
    timeout: Duration,
) -> Result<Option<Tail>, rdkafka::error::KafkaError> {
    // The last stable offset, because the client reads committed records only.
    let (_, end) = kafka.fetch_watermarks(topic, partition, timeout)?;
    if end <= next {
        return Ok(None);
    }
    kafka.seek(topic, partition, Offset::Offset(next), timeout)?;
    Ok(Some(Tail::Rereading { from: next, end }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consume::BatchLimits;
    use crate::record::Record;

    fn builder() -> BatchBuilder {
        let mut builder = BatchBuilder::new(BatchLimits {
            max_records: 100,
            max_bytes: 1000,
            max_wait: Duration::from_millis(10),
        });
        builder.restart_at(0, 8);
        builder
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "any instant will do as the origin of a test's time"
    )]
    fn now() -> Instant {
        Instant::now()
    }

    #[expect(clippy::unnecessary_wraps, reason = "the result of a check")]
    fn rereading(from: i64, end: i64) -> Option<Result<Option<Tail>, ()>> {
        Some(Ok(Some(Tail::Rereading { from, end })))
    }

    #[test]
    fn a_tail_without_a_record_advances_the_position_to_the_end_that_was_fetched_before() {
        let (mut tails, mut builder, now) = (EmptyTails::default(), builder(), now());
        tails.mark_unverified(0);
        // The first end proves nothing about an end offset that is fetched later.
        tails.reach_end(0, &mut builder, now);
        assert_eq!(builder.idle_offset(0), Some(8));
        tails.record_check(0, rereading(8, 9).as_ref(), now);
        assert!(tails.is_rereading());
        tails.reach_end(0, &mut builder, now);
        let range = builder.take_batch().ranges[&0];
        assert_eq!((range.from, range.to), (8, 9));
        assert!(!tails.is_rereading());
    }

    #[test]
    fn a_record_in_the_tail_or_another_position_ends_the_check() {
        let (mut tails, mut builder, now) = (EmptyTails::default(), builder(), now());
        tails.record_check(0, rereading(8, 20).as_ref(), now);
        let record = Record {
            offset: 12,
            ..Record::default()
        };
        builder.push(record, now);
        tails.mark_unverified(0);
        tails.reach_end(0, &mut builder, now);
        assert_eq!(builder.take_batch().ranges[&0].to, 13);
        tails.record_check(0, rereading(8, 20).as_ref(), now);
        tails.reach_end(0, &mut builder, now);
        assert_eq!(
            builder.idle_offset(0),
            Some(13),
            "the check was from another offset"
        );
    }

    #[test]
    fn a_check_waits_for_the_records_of_the_open_batch_and_a_failed_one_is_repeated() {
        let (mut tails, now) = (EmptyTails::default(), now());
        tails.record_check::<()>(0, None, now);
        assert_eq!(tails.0[&0], Tail::Idle(now + IDLE_DELAY));
        tails.record_check(0, Some(&Err(())), now);
        assert_eq!(tails.0[&0], Tail::Idle(now + RETRY_DELAY));
        tails.record_check::<()>(0, Some(&Ok(None)), now);
        assert!(tails.0.is_empty());
    }
}
