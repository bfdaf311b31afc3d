#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: reads the ends of partitions, until a deadline"
)]
//! Whether the last offsets of a partition hold a record at all.
//!
//! The reader joins no group and commits nothing; it goes as soon as it has its answer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::{Message as _, Offset, TopicPartitionList};

use super::trouble::{self, Watch};
use crate::lag::{Unknown, UnknownReason};

/// Partitions of `tails` (partition, committed, end) with no record between the two offsets.
pub(super) fn empty(
    config: &ClientConfig,
    servers: &str,
    topic: &str,
    tails: &[(u32, u64, u64)],
    until: Instant,
) -> Result<BTreeSet<u32>, Unknown> {
    let mut waiting: BTreeMap<i32, u64> = tails
        .iter()
        .map(|(partition, _, end)| (partition.cast_signed(), *end))
        .collect();
    let mut empty = BTreeSet::new();
    if waiting.is_empty() {
        return Ok(empty);
    }
    let reader = reader(config, topic, tails)?;
    while !waiting.is_empty() {
        let left = until.saturating_duration_since(Instant::now());
        let (partition, next) = match reader.poll(left) {
            Some(Ok(record)) => (record.partition(), record.offset().cast_unsigned()),
            // Nothing is left to read, so the next record is past the end.
            Some(Err(KafkaError::PartitionEOF(partition))) => (partition, u64::MAX),
            Some(Err(error)) => match error
                .rdkafka_error_code()
                .map(|code| trouble::of_topic(topic, code))
            {
                Some(unknown) if unknown.reason != UnknownReason::Partial => return Err(unknown),
                // A lost connection is made again.
                _ => continue,
            },
            None if left.is_zero() => return Err(late(servers, topic, &reader, &waiting)),
            None => continue,
        };
        if let Some(end) = waiting.remove(&partition)
            && next >= end
        {
            empty.insert(partition.cast_unsigned());
        }
    }
    Ok(empty)
}

fn reader(
    config: &ClientConfig,
    topic: &str,
    tails: &[(u32, u64, u64)],
) -> Result<BaseConsumer<Watch>, Unknown> {
    let mut config = config.clone();
    config
        // librdkafka assigns nothing to a consumer without a group; none is joined.
        .set("group.id", "streamstage-operator")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "error")
        .set("fetch.wait.max.ms", "10")
        .set("fetch.message.max.bytes", "1024")
        .set("queued.min.messages", "1");
    let reader: BaseConsumer<Watch> = config
        .create_with_context(Watch::default())
        .map_err(trouble::refused_setting)?;
    let mut assigned = TopicPartitionList::with_capacity(tails.len());
    let assigned = tails
        .iter()
        .try_for_each(|(partition, committed, _)| {
            let committed = Offset::Offset(committed.cast_signed());
            assigned.add_partition_offset(topic, partition.cast_signed(), committed)
        })
        .and_then(|()| reader.assign(&assigned));
    match assigned {
        Ok(()) => Ok(reader),
        Err(error) => {
            let message = format!("topic {topic} cannot be read: {error}");
            Err(Unknown::new(UnknownReason::Partial, message))
        }
    }
}

/// The deadline came first.
fn late(servers: &str, topic: &str, reader: &BaseConsumer<Watch>, waiting: &BTreeMap<i32, u64>) -> Unknown {
    if let Some(last) = reader.context().last() {
        return trouble::unreachable(servers, Some(last));
    }
    let partitions: Vec<_> = waiting.keys().collect();
    let message = format!("topic {topic}, partitions {partitions:?} were not read to their end in time");
    Unknown::new(UnknownReason::Partial, message)
}
