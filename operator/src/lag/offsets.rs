//! Offsets of one consumer group on one topic, built from Kafka's committed, end and log start offsets.
//!
//! An [`OffsetSnapshot`] covers every partition. A failed or incomplete query is a [`LagError`] with a reason and never
//! counts as zero lag. [`crate::kafka`] sends the requests.

use std::collections::BTreeMap;

use crds::StreamStage;

/// A consumer group and the topic that it reads: the key of a lag query.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupTopic {
    /// `spec.source.consumerGroup`, or its default.
    pub group: String,
    /// `spec.source.topic`.
    pub topic: String,
}

impl From<&StreamStage> for GroupTopic {
    fn from(stage: &StreamStage) -> Self {
        Self {
            group: stage.consumer_group(),
            topic: stage.spec.source.topic.clone(),
        }
    }
}

/// Offsets of all partitions of a topic, fetched within one poll.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetSnapshot {
    /// Ordered by partition id, dense from 0; at least one.
    pub partitions: Vec<PartitionSnapshot>,
}

/// Offsets of one partition for one group: `start <= end` and `committed <= end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionSnapshot {
    /// Partition id; ids are dense from 0.
    pub partition: u32,
    /// Log start offset. Equals `end` if the group has no lag, because it is not queried then.
    pub start: u64,
    /// End offset for a `read_committed` consumer (the last stable offset).
    pub end: u64,
    /// Committed offset, which the group reads next. `None` if the group has not committed one.
    pub committed: Option<u64>,
}

/// Result of one lag query.
pub type LagResult = Result<OffsetSnapshot, LagError>;

/// Error that leaves the lag of a group unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct LagError {
    /// Class of the error.
    pub reason: LagErrorReason,
    /// Cause and remedy, for the status of the stage.
    pub message: String,
}

/// Class of a [`LagError`]; also the `reason` label of the poll error metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LagErrorReason {
    /// No broker responded before the deadline.
    Unreachable,
    /// The brokers rejected the credentials, or the TLS handshake failed.
    AuthenticationFailed,
    /// An ACL for the topic or the group is missing.
    AuthorizationFailed,
    /// The topic does not exist.
    UnknownTopic,
    /// The offsets of at least one partition are missing.
    PartialOffsets,
    /// A committed offset is beyond the end offset.
    OffsetOutOfRange,
}

impl PartitionSnapshot {
    /// Offset of the next record to read: the committed offset, or the log start if retention has deleted that record.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.committed
            .map_or(self.start, |committed| committed.max(self.start))
    }

    /// `max(0, end - max(committed, start))`, in records.
    #[must_use]
    pub fn lag(&self) -> u64 {
        self.end.saturating_sub(self.position())
    }
}

impl OffsetSnapshot {
    /// Returns true if a partition has lag.
    #[must_use]
    pub fn has_lag(&self) -> bool {
        self.partitions.iter().any(|partition| partition.lag() > 0)
    }
}

impl LagError {
    pub(crate) fn new(reason: LagErrorReason, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { reason, message }
    }
}

/// Offsets by partition id.
pub type Offsets = BTreeMap<u32, u64>;

/// Responses of the brokers for one group and topic. A missing key is a partition without a response.
#[derive(Clone, Copy, Debug)]
pub struct OffsetResponses<'a> {
    /// Partition count of the topic.
    pub partition_count: u32,
    /// Committed offsets; `None` for a partition without one.
    pub committed: &'a BTreeMap<u32, Option<u64>>,
    /// Last stable offsets.
    pub ends: &'a Offsets,
    /// Log start offsets of the partitions that [need one](needs_log_start).
    pub starts: &'a Offsets,
}

/// Returns true if the log start offset can change the lag. It cannot if the group has read the whole partition.
#[must_use]
pub fn needs_log_start(committed: Option<u64>, end: u64) -> bool {
    committed.is_none_or(|committed| committed < end)
}

/// Builds a snapshot from the responses.
///
/// # Errors
/// If a partition has no response, or if a committed offset is beyond the end offset.
pub fn build_snapshot(group_topic: &GroupTopic, responses: OffsetResponses<'_>) -> LagResult {
    let GroupTopic { group, topic } = group_topic;
    let missing = |offset: &str, partition: u32| {
        let message = format!(
            "no response in time for the {offset} offset of topic {topic}, partition {partition}, group {group}; \
             check the Kafka brokers"
        );
        LagError::new(LagErrorReason::PartialOffsets, message)
    };
    if responses.partition_count == 0 {
        let message = format!("Kafka reports no partitions for topic {topic}; check the topic");
        return Err(LagError::new(LagErrorReason::PartialOffsets, message));
    }
    let snapshots = (0..responses.partition_count).map(|partition| {
        let committed = responses.committed.get(&partition);
        let committed = *committed.ok_or_else(|| missing("committed", partition))?;
        let end = responses.ends.get(&partition);
        let end = *end.ok_or_else(|| missing("end", partition))?;
        if let Some(committed) = committed.filter(|committed| *committed > end) {
            return Err(offset_out_of_range(group_topic, partition, committed, end));
        }
        let start = if needs_log_start(committed, end) {
            let start = responses.starts.get(&partition);
            // Log start offsets are queried after the end offsets, so retention may have moved the start past the end.
            *start.ok_or_else(|| missing("log start", partition))?.min(&end)
        } else {
            end
        };
        Ok(PartitionSnapshot {
            partition,
            start,
            end,
            committed,
        })
    });
    let partitions = snapshots.collect::<Result<_, _>>()?;
    Ok(OffsetSnapshot { partitions })
}

fn offset_out_of_range(group_topic: &GroupTopic, partition: u32, committed: u64, end: u64) -> LagError {
    let GroupTopic { group, topic } = group_topic;
    let message = format!(
        "the committed offset {committed} of group {group} is beyond the end offset {end} of topic {topic}, \
         partition {partition}: the topic was recreated or its log truncated; run `worker reset-offsets`"
    );
    LagError::new(LagErrorReason::OffsetOutOfRange, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Committed = BTreeMap<u32, Option<u64>>;

    fn build(partition_count: u32, committed: &Committed, ends: &Offsets, starts: &Offsets) -> LagResult {
        let group_topic = GroupTopic {
            group: "orders.stg".to_owned(),
            topic: "orders".to_owned(),
        };
        let responses = OffsetResponses {
            partition_count,
            committed,
            ends,
            starts,
        };
        build_snapshot(&group_topic, responses)
    }

    #[test]
    fn complete_responses_become_a_snapshot_ordered_by_partition() {
        let committed = Committed::from([(2, Some(9)), (0, None), (1, Some(4))]);
        let snapshot = build(
            3,
            &committed,
            &Offsets::from([(0, 5), (1, 8), (2, 9)]),
            &Offsets::from([(0, 2), (1, 6)]),
        );
        let expected = [(0, 2, 5, None), (1, 6, 8, Some(4)), (2, 9, 9, Some(9))];
        let partitions = expected.map(|(partition, start, end, committed)| PartitionSnapshot {
            partition,
            start,
            end,
            committed,
        });
        assert_eq!(snapshot.expect("complete").partitions, partitions);
    }

    #[test]
    fn a_missing_response_is_an_error_and_never_zero_lag() {
        let committed = Committed::from([(0, Some(1)), (1, None)]);
        let ends = Offsets::from([(0, 3), (1, 3)]);
        let starts = Offsets::from([(0, 0), (1, 0)]);
        build(2, &committed, &ends, &starts).expect("complete");
        for partition in 0..2 {
            let mut incomplete = (committed.clone(), ends.clone(), starts.clone());
            incomplete.0.remove(&partition);
            let no_commit = build(2, &incomplete.0, &ends, &starts);
            incomplete.1.remove(&partition);
            let no_end = build(2, &committed, &incomplete.1, &starts);
            incomplete.2.remove(&partition);
            let no_start = build(2, &committed, &ends, &incomplete.2);
            for result in [no_commit, no_end, no_start] {
                let error = result.expect_err("incomplete");
                assert_eq!(error.reason, LagErrorReason::PartialOffsets);
                assert!(
                    error.to_string().contains(&format!("partition {partition}")),
                    "{error}"
                );
            }
        }
        let result = build(0, &Committed::new(), &Offsets::new(), &Offsets::new());
        assert_eq!(
            result.expect_err("no partition").reason,
            LagErrorReason::PartialOffsets
        );
    }

    #[test]
    fn a_committed_offset_beyond_the_end_is_out_of_range() {
        let result = build(
            1,
            &Committed::from([(0, Some(4))]),
            &Offsets::from([(0, 3)]),
            &Offsets::new(),
        );
        let error = result.expect_err("beyond the end");
        assert_eq!(error.reason, LagErrorReason::OffsetOutOfRange);
        assert!(error.message.contains("worker reset-offsets"), "{error}");
    }

    #[test]
    fn a_log_start_past_the_end_is_capped_at_the_end() {
        let snapshot = build(
            1,
            &Committed::from([(0, Some(1))]),
            &Offsets::from([(0, 3)]),
            &Offsets::from([(0, 8)]),
        );
        assert_eq!(snapshot.expect("complete").partitions[0].start, 3);
    }
}
