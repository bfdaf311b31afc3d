//! Requests of the fetcher, and the meaning of their answers. Pure.

use kafka::protocol::error::{ParseResponseErrorCode as _, ResponseError};
use kafka::protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka::protocol::messages::fetch_response::PartitionData;
use kafka::protocol::messages::{FetchRequest, TopicName};
use kafka::protocol::protocol::StrBytes;

use super::fetch_state::{PartitionRequest, Plan};
use super::record_batch::{RecordBatch, RecordSet, split};
use super::transactions::{Aborted, visible_batches};

/// Maximum time that a broker waits for the first record.
const MAX_WAIT_MILLIS: i32 = 100;
/// The same while answers of other partitions are not read yet: these must not wait for a partition without records.
const MAX_WAIT_PARTIAL_MILLIS: i32 = 10;
/// Compressed bytes of an answer, in total and per partition. A larger batch is sent alone.
const MAX_BYTES: i32 = 1 << 20;
const MAX_PARTITION_BYTES: i32 = 64 << 10;
/// A consumer is replica -1, and has no fetch session.
const CONSUMER: i32 = -1;
const NO_SESSION: i32 = -1;
const READ_COMMITTED: i8 = 1;

/// Answer of a broker for one partition.
#[derive(Debug)]
pub(super) enum PartitionOutcome {
    /// Batches, with their visibility, and the next offset to fetch; empty at the end of the partition.
    Batches(Vec<(RecordBatch, bool)>, i64),
    /// The first batch is not as its producer has sent it.
    Corrupt,
    /// The log does not contain the offset.
    OutOfRange,
    /// The broker does not lead the partition any more, or not yet.
    LeaderChanged,
    /// The partition cannot be read; cause and remedy.
    Failed(String),
}

/// Builds the request for the partitions of a broker.
pub(super) fn fetch_request(topic: &str, plan: &Plan) -> FetchRequest {
    let partitions = plan.wanted.iter().map(|wanted| {
        FetchPartition::default()
            .with_partition(wanted.partition)
            .with_current_leader_epoch(-1)
            .with_fetch_offset(wanted.offset)
            .with_last_fetched_epoch(-1)
            .with_log_start_offset(-1)
            .with_partition_max_bytes(MAX_PARTITION_BYTES)
    });
    let topic = FetchTopic::default()
        .with_topic(TopicName(StrBytes::from_string(topic.to_owned())))
        .with_partitions(partitions.collect());
    FetchRequest::default()
        .with_replica_id(CONSUMER.into())
        .with_max_wait_ms(if plan.is_partial {
            MAX_WAIT_PARTIAL_MILLIS
        } else {
            MAX_WAIT_MILLIS
        })
        .with_min_bytes(1)
        .with_max_bytes(MAX_BYTES)
        .with_isolation_level(READ_COMMITTED)
        .with_session_epoch(NO_SESSION)
        .with_topics(vec![topic])
}

/// Reads the answer for a partition.
pub(super) fn read_answer(topic: &str, wanted: PartitionRequest, data: PartitionData) -> PartitionOutcome {
    let place = format!("{topic}, partition {}", wanted.partition);
    match data.error_code.err() {
        None => {}
        Some(ResponseError::OffsetOutOfRange) => return PartitionOutcome::OutOfRange,
        Some(
            ResponseError::NotLeaderOrFollower
            | ResponseError::LeaderNotAvailable
            | ResponseError::ReplicaNotAvailable
            | ResponseError::FencedLeaderEpoch
            | ResponseError::UnknownLeaderEpoch
            | ResponseError::OffsetNotAvailable,
        ) => return PartitionOutcome::LeaderChanged,
        Some(error) => return PartitionOutcome::Failed(format!("{place}: {error}{}", remedy(error))),
    }
    let aborted = data
        .aborted_transactions
        .unwrap_or_default()
        .into_iter()
        .map(|aborted| Aborted {
            first_offset: aborted.first_offset,
            producer_id: *aborted.producer_id,
        });
    let records = data.records.unwrap_or_default();
    let has_records = !records.is_empty();
    let mut set = split(records, data.high_watermark);
    let corrupt = set.batches.iter().position(|batch| batch.is_corrupt);
    match corrupt {
        Some(0) if !wanted.accepts_corrupt => return PartitionOutcome::Corrupt,
        // The batches after a corrupt one are fetched again.
        Some(index) => set.batches.truncate(index.max(1)),
        None => {}
    }
    let visible = visible_batches(&set.batches, aborted.collect());
    continue_after(&place, wanted, set, visible, has_records)
}

/// Finds the next offset to fetch.
fn continue_after(
    place: &str,
    wanted: PartitionRequest,
    set: RecordSet,
    visible: Vec<bool>,
    has_records: bool,
) -> PartitionOutcome {
    let next_offset = set
        .batches
        .last()
        .map_or(wanted.offset, |last| last.last_offset.saturating_add(1));
    if next_offset > wanted.offset {
        return PartitionOutcome::Batches(set.batches.into_iter().zip(visible).collect(), next_offset);
    }
    match set.malformed {
        Some(cause) => PartitionOutcome::Failed(format!("{place}, offset {}: {cause}", wanted.offset)),
        None if has_records => PartitionOutcome::Failed(format!(
            "{place}, offset {}: the broker sends no whole batch at this offset; check the log of the broker with \
             kafka-dump-log",
            wanted.offset
        )),
        None => PartitionOutcome::Batches(Vec::new(), wanted.offset),
    }
}

/// Remedy for an error code, to append to its message.
fn remedy(error: ResponseError) -> &'static str {
    match error {
        ResponseError::TopicAuthorizationFailed => {
            "; grant the operation Read on the topic to the user of spec.source.authSecretName"
        }
        ResponseError::UnknownTopicOrPartition | ResponseError::UnknownTopicId => {
            "; create the topic, or correct spec.source.topic"
        }
        ResponseError::KafkaStorageError => "; check the disks of the broker",
        _ => "",
    }
}
