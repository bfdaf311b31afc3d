#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: reads the ends of partitions, until a deadline"
)]
//! Finds empty tails: partitions with no readable record between position and end.
//!
//! The reader never joins a group and never commits, and is closed as soon as the result is known.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::{Message as _, Offset, TopicPartitionList};

use super::error::{self, ConnectionErrors};
use crate::lag::offsets::{LagError, LagErrorReason};

/// Returns the partitions of `tails` that have no readable record. `tails` are `(partition, position, end)`.
pub(super) fn find_empty_tails(
    config: &ClientConfig,
    bootstrap_servers: &str,
    topic: &str,
    tails: &[(u32, u64, u64)],
    deadline: Instant,
) -> Result<BTreeSet<u32>, LagError> {
    let mut pending: BTreeMap<i32, u64> = tails
        .iter()
        .map(|(partition, _, end)| (partition.cast_signed(), *end))
        .collect();
    let mut empty = BTreeSet::new();
    if pending.is_empty() {
        return Ok(empty);
    }
    let reader = tail_reader(config, topic, tails)?;
    while !pending.is_empty() {
        let remaining = deadline.saturating_duration_since(Instant::now());
        let (partition, next) = match reader.poll(remaining) {
            Some(Ok(record)) => (record.partition(), record.offset().cast_unsigned()),
            // The partition has no further record, so the next one is past the end.
            Some(Err(KafkaError::PartitionEOF(partition))) => (partition, u64::MAX),
            Some(Err(error)) => match error
                .rdkafka_error_code()
                .map(|code| error::topic_error(topic, code))
            {
                Some(error) if error.reason != LagErrorReason::PartialOffsets => return Err(error),
                // librdkafka restores a lost connection.
                _ => continue,
            },
            None if remaining.is_zero() => {
                return Err(deadline_error(bootstrap_servers, topic, &reader, &pending));
            }
            None => continue,
        };
        if let Some(end) = pending.remove(&partition)
            && next >= end
        {
            empty.insert(partition.cast_unsigned());
        }
    }
    Ok(empty)
}

fn tail_reader(
    config: &ClientConfig,
    topic: &str,
    tails: &[(u32, u64, u64)],
) -> Result<BaseConsumer<ConnectionErrors>, LagError> {
    let mut config = config.clone();
    config
        // librdkafka assigns partitions only to a consumer with a group id; the reader does not join the group.
        .set("group.id", "streamstage-operator")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "error")
        .set("fetch.wait.max.ms", "10")
        .set("fetch.message.max.bytes", "1024")
        .set("queued.min.messages", "1");
    let reader: BaseConsumer<ConnectionErrors> = config
        .create_with_context(ConnectionErrors::default())
        .map_err(error::invalid_setting)?;
    let mut assignment = TopicPartitionList::with_capacity(tails.len());
    let assigned = tails
        .iter()
        .try_for_each(|(partition, position, _)| {
            let position = Offset::Offset(position.cast_signed());
            assignment.add_partition_offset(topic, partition.cast_signed(), position)
        })
        .and_then(|()| reader.assign(&assignment));
    match assigned {
        Ok(()) => Ok(reader),
        Err(error) => {
            let message = format!("failed to assign partitions of topic {topic}: {error}");
            Err(LagError::new(LagErrorReason::PartialOffsets, message))
        }
    }
}

fn deadline_error(
    bootstrap_servers: &str,
    topic: &str,
    reader: &BaseConsumer<ConnectionErrors>,
    pending: &BTreeMap<i32, u64>,
) -> LagError {
    if let Some(last) = reader.context().last() {
        return error::unreachable_error(bootstrap_servers, Some(last));
    }
    let partitions: Vec<_> = pending.keys().collect();
    let message = format!("timed out reading topic {topic}, partitions {partitions:?} to the end");
    LagError::new(LagErrorReason::PartialOffsets, message)
}
