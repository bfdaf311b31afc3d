#![expect(clippy::disallowed_types, reason = "edge: commits offsets to Kafka")]
//! Commits offsets to Kafka. They are a copy of the stored positions, for monitoring and lag.

use std::collections::BTreeMap;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::{Offset, TopicPartitionList};

/// Commits the positions of partitions that are assigned to this worker, and returns these positions. The other
/// partitions are committed by the workers that own them.
pub(super) fn commit_assigned<C: ConsumerContext>(
    kafka: &BaseConsumer<C>,
    topic: &str,
    positions: &BTreeMap<i32, i64>,
    mode: CommitMode,
) -> BTreeMap<i32, i64> {
    let assigned = kafka.assignment().unwrap_or_default();
    let mut owned = positions.clone();
    owned.retain(|partition, _| assigned.find_partition(topic, *partition).is_some());
    let mut offsets = TopicPartitionList::new();
    for (&partition, &offset) in &owned {
        let added = offsets.add_partition_offset(topic, partition, Offset::Offset(offset));
        added.unwrap_or_else(
            |error| tracing::warn!(partition, offset, %error, "failed to commit offsets to Kafka"),
        );
    }
    if offsets.count() > 0
        && let Err(error) = kafka.commit(&offsets, mode)
    {
        tracing::debug!(%error, "failed to commit offsets to Kafka, retrying");
    }
    owned
}
