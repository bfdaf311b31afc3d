//! Answers of brokers for one partition.

use kafka::protocol::error::ResponseError;
use kafka::protocol::messages::fetch_response::PartitionData;

use super::super::answer::{PartitionOutcome, fetch_request, read_answer};
use super::super::fetch_state::{PartitionRequest, Plan};
use super::*;

const REQUEST: PartitionRequest = PartitionRequest {
    partition: 7,
    generation: 1,
    offset: 5,
    accepts_corrupt: false,
};

fn answer(request: PartitionRequest, records: &[u8]) -> PartitionOutcome {
    let data = PartitionData::default()
        .with_high_watermark(100)
        .with_records(Some(Bytes::copy_from_slice(records)));
    read_answer("orders", request, data)
}

fn error(error: ResponseError) -> PartitionOutcome {
    read_answer(
        "orders",
        REQUEST,
        PartitionData::default().with_error_code(error.code()),
    )
}

/// Number of batches, and the next offset.
fn batches(outcome: PartitionOutcome) -> (usize, i64) {
    match outcome {
        PartitionOutcome::Batches(batches, next_offset) => (batches.len(), next_offset),
        other => panic!("{other:?}"),
    }
}

fn cause(outcome: PartitionOutcome) -> String {
    match outcome {
        PartitionOutcome::Failed(cause) => cause,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_request_reads_committed_records_and_waits_only_briefly_beside_unread_answers() {
    let plan = |is_partial| Plan {
        wanted: vec![REQUEST],
        is_partial,
    };
    let request = fetch_request("orders", &plan(false));
    assert_eq!(
        (request.isolation_level, request.max_wait_ms, request.min_bytes),
        (1, 100, 1)
    );
    assert_eq!(*request.topics[0].topic, StrBytes::from_static_str("orders"));
    let partition = &request.topics[0].partitions[0];
    assert_eq!((partition.partition, partition.fetch_offset), (7, 5));
    assert_eq!(fetch_request("orders", &plan(true)).max_wait_ms, 10);
}

#[test]
fn whole_batches_are_read_and_the_rest_is_fetched_again() {
    let first = batch(Codec::Lz4, &[encoded(5, None), encoded(6, None)]);
    let second = batch(Codec::Lz4, &[encoded(7, None)]);
    let both = [&first[..], &second[..]].concat();
    assert_eq!(batches(answer(REQUEST, &both)), (2, 8));
    assert_eq!(batches(answer(REQUEST, &both[..both.len() - 1])), (1, 7));
    assert_eq!(batches(answer(REQUEST, &[])), (0, 5));
}

#[test]
fn a_corrupt_batch_is_fetched_alone_and_again_before_it_is_read() {
    let first = batch(Codec::None, &[encoded(5, None)]);
    let mut second = batch(Codec::None, &[encoded(6, None)]).to_vec();
    second[50] ^= 1;
    let third = batch(Codec::None, &[encoded(7, None)]);
    let bytes = [&first[..], &second[..], &third[..]].concat();
    assert_eq!(batches(answer(REQUEST, &bytes)), (1, 6));
    let from_second = PartitionRequest { offset: 6, ..REQUEST };
    let rest = &bytes[first.len()..];
    assert!(matches!(answer(from_second, rest), PartitionOutcome::Corrupt));
    let last_attempt = PartitionRequest {
        accepts_corrupt: true,
        ..from_second
    };
    assert_eq!(batches(answer(last_attempt, rest)), (1, 7));
}

#[test]
fn a_batch_beyond_the_end_of_the_log_is_corrupt() {
    let beyond = batch(Codec::None, &[encoded(100, None)]);
    assert!(matches!(answer(REQUEST, &beyond), PartitionOutcome::Corrupt));
}

#[test]
fn an_answer_that_does_not_advance_is_a_failure_with_its_offset() {
    let before = batch(Codec::None, &[encoded(3, None)]);
    let mut old = before.to_vec();
    old[16] = 1;
    for (records, expected) in [
        (&before[..], "no whole batch"),
        (&before[..40], "no whole batch"),
        (&old[..], "message format 1"),
        (&[0xff; 100][..], "not a record batch"),
    ] {
        let cause = cause(answer(REQUEST, records));
        assert!(
            cause.starts_with("orders, partition 7, offset 5: ") && cause.contains(expected),
            "{cause}"
        );
    }
}

#[test]
fn an_error_code_is_a_lost_position_a_new_leader_or_a_failure_with_its_remedy() {
    assert!(matches!(
        error(ResponseError::OffsetOutOfRange),
        PartitionOutcome::OutOfRange
    ));
    for moved in [
        ResponseError::NotLeaderOrFollower,
        ResponseError::FencedLeaderEpoch,
    ] {
        assert!(matches!(error(moved), PartitionOutcome::LeaderChanged));
    }
    let denied = cause(error(ResponseError::TopicAuthorizationFailed));
    assert!(denied.contains("grant the operation Read"), "{denied}");
    assert!(cause(error(ResponseError::KafkaStorageError)).contains("check the disks"));
    assert!(cause(error(ResponseError::UnknownServerError)).starts_with("orders, partition 7: "));
}
