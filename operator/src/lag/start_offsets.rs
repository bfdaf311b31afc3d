//! Start offsets of a group that has not committed any.
//!
//! `Earliest` needs no commit: everything from the log start on counts as lag. For `Latest` and for a time the start
//! offsets are committed before the first worker starts. Otherwise a record that arrives in between could be skipped.

use std::collections::BTreeSet;
use std::time::Duration;

use crds::stage::StartFrom;

use super::offsets::{GroupTopic, LagError, OffsetSnapshot};
use crate::kafka::Cluster;
use crate::stage_summary::StageSummary;

/// Returns true if the group has partitions whose start offset must be committed.
pub(super) fn needs_start_commit(stage: &StageSummary, snapshot: &OffsetSnapshot) -> bool {
    let mut partitions = snapshot.partitions.iter();
    stage.start_from != StartFrom::Earliest && partitions.any(|partition| partition.committed.is_none())
}

/// Commits the start offsets of the partitions that have no committed offset. Takes up to twice the `timeout`.
///
/// # Errors
/// If Kafka does not respond in time or rejects the commit; some partitions may have been committed then.
pub(super) async fn commit_start(
    cluster: &Cluster,
    group_topic: &GroupTopic,
    start_from: StartFrom,
    snapshot: &OffsetSnapshot,
    timeout: Duration,
) -> Result<(), LagError> {
    let start_from = start_for_new_partitions(start_from, snapshot);
    let mut offsets = cluster
        .start_offsets(&group_topic.topic, start_from, timeout)
        .await?;
    let uncommitted: BTreeSet<u32> = snapshot
        .partitions
        .iter()
        .filter(|partition| partition.committed.is_none())
        .map(|partition| partition.partition)
        .collect();
    offsets.retain(|partition, _| uncommitted.contains(partition));
    cluster.commit_start(group_topic, &offsets, timeout).await
}

/// Returns the start offset for partitions without a committed offset.
///
/// `Latest` and a time become `Earliest` for partitions that were added to a topic that the group already reads: they
/// would skip the records that arrived before the partition was noticed.
fn start_for_new_partitions(start_from: StartFrom, snapshot: &OffsetSnapshot) -> StartFrom {
    let is_topic_read = snapshot
        .partitions
        .iter()
        .any(|partition| partition.committed.is_some());
    if is_topic_read {
        StartFrom::Earliest
    } else {
        start_from
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lag::offsets::PartitionSnapshot;

    #[test]
    fn a_partition_added_to_a_topic_that_is_read_starts_at_the_log_start() {
        let snapshot = |committed: [Option<u64>; 2]| OffsetSnapshot {
            partitions: std::iter::zip(0.., committed)
                .map(|(partition, committed)| PartitionSnapshot {
                    partition,
                    start: 0,
                    end: 9,
                    committed,
                })
                .collect(),
        };
        let (new_group, added_partition) = (snapshot([None, None]), snapshot([Some(4), None]));
        let time = StartFrom::Timestamp(k8s_openapi::jiff::Timestamp::UNIX_EPOCH);
        for start_from in [StartFrom::Latest, time] {
            assert_eq!(start_for_new_partitions(start_from, &new_group), start_from);
            assert_eq!(
                start_for_new_partitions(start_from, &added_partition),
                StartFrom::Earliest
            );
        }
    }
}
