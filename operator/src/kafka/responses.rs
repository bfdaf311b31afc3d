//! Groups the responses of the brokers by query and by topic.
//!
//! Pure: [`super`] sends the requests, [`crate::lag::offsets`] builds the snapshots.

use std::collections::{BTreeMap, BTreeSet};

use kafka::TopicMetadata;

use super::error;
use super::requests::{GroupOffsets, PartitionOffset};
use crate::lag::offsets::{
    GroupTopic, LagError, LagErrorReason, LagResult, OffsetResponses, Offsets, build_snapshot,
    needs_log_start,
};

/// Broker ids of the partition leaders, by topic.
pub(super) type TopicLeaders<'q> = BTreeMap<&'q str, Result<Vec<i32>, LagError>>;
/// Partitions as topic and partition id.
pub(super) type TopicPartitions<'q> = Vec<(&'q str, u32)>;
/// Committed offsets by query and partition id. A missing partition has no response.
pub(super) type CommittedOffsets = BTreeMap<GroupTopic, Result<BTreeMap<u32, Option<u64>>, LagError>>;
/// Offsets by topic. A missing partition has no response.
pub(super) type TopicOffsets = BTreeMap<String, Result<Offsets, LagError>>;

/// Returns the broker id of the leader of each partition.
///
/// # Errors
/// If a partition has no leader, because no broker knows its end offset then; or if partition ids are missing.
pub(super) fn partition_leaders(topic: &str, metadata: &TopicMetadata) -> Result<Vec<i32>, LagError> {
    let leaders = (0..)
        .zip(&metadata.leaders)
        .map(|(expected, (partition, leader))| {
            leader.filter(|_| *partition == expected).ok_or_else(|| {
                let message =
                    format!("topic {topic}, partition {expected} has no leader; check the Kafka brokers");
                LagError::new(LagErrorReason::PartialOffsets, message)
            })
        });
    leaders.collect()
}

/// All partitions of a topic.
pub(super) fn partitions<'t>(topic: &'t str, leaders: &[i32]) -> impl Iterator<Item = (&'t str, u32)> {
    (0..).take(leaders.len()).map(move |partition| (topic, partition))
}

/// Groups partitions by their leader.
pub(super) fn group_by_leader<'q>(
    topics: &TopicLeaders<'_>,
    partitions: impl IntoIterator<Item = (&'q str, u32)>,
) -> Vec<(i32, TopicPartitions<'q>)> {
    let leader = |(topic, partition): (&str, u32)| {
        let leaders = topics.get(topic)?.as_ref().ok()?;
        leaders.get(usize::try_from(partition).ok()?).copied()
    };
    let mut by_leader = BTreeMap::<_, TopicPartitions<'q>>::new();
    for partition in partitions {
        if let Some(leader) = leader(partition) {
            by_leader.entry(leader).or_default().push(partition);
        }
    }
    by_leader.into_iter().collect()
}

/// Adds the response for one group to all queries of that group.
pub(super) fn add_committed(committed: &mut CommittedOffsets, group: &str, response: GroupOffsets) {
    match response {
        Ok(offsets) => {
            for PartitionOffset {
                topic,
                partition,
                offset,
            } in offsets
            {
                let query = GroupTopic {
                    group: group.to_owned(),
                    topic,
                };
                if let Some(result) = committed.get_mut(&query) {
                    let offset = offset.map_err(|code| error::group_error(group, "Describe", code));
                    add_offset(result, partition, offset.map(|offset| u64::try_from(offset).ok()));
                }
            }
        }
        Err(code) => fail_group(committed, group, &error::group_error(group, "Describe", code)),
    }
}

/// Makes the committed offsets of a group unknown.
pub(super) fn fail_group(committed: &mut CommittedOffsets, group: &str, error: &LagError) {
    let of_group = committed.iter_mut().filter(|(query, _)| query.group == group);
    for (_, result) in of_group {
        *result = Err(error.clone());
    }
}

/// Groups offsets by topic. The first error of a partition becomes the error of its topic.
pub(super) fn group_by_topic(offsets: Vec<PartitionOffset>) -> TopicOffsets {
    let mut by_topic = TopicOffsets::new();
    for PartitionOffset {
        topic,
        partition,
        offset,
    } in offsets
    {
        let offset = offset.map_err(|code| error::topic_error(&topic, code));
        // A negative offset means that the broker did not respond.
        let offset = offset.map(u64::try_from);
        let result = by_topic.entry(topic).or_insert_with(|| Ok(Offsets::new()));
        match offset {
            Ok(Ok(offset)) => add_offset(result, partition, Ok(offset)),
            Ok(Err(_)) => {}
            Err(error) => add_offset(result, partition, Err(error)),
        }
    }
    by_topic
}

/// Adds the offset of a partition to the result, or its error. An earlier error stays.
fn add_offset<T>(
    result: &mut Result<BTreeMap<u32, T>, LagError>,
    partition: i32,
    offset: Result<T, LagError>,
) {
    match (result.as_mut(), offset) {
        (Ok(offsets), Ok(offset)) => {
            offsets.insert(partition.cast_unsigned(), offset);
        }
        (Ok(_), Err(error)) => *result = Err(error),
        (Err(_), _) => {}
    }
}

/// Returns the partitions whose log start offset can change the lag of a group.
pub(super) fn needed_log_starts<'a>(
    committed: &'a CommittedOffsets,
    ends: &TopicOffsets,
) -> BTreeSet<(&'a str, u32)> {
    let complete = committed.iter().filter_map(|(query, offsets)| {
        let ends = ends.get(&query.topic)?.as_ref().ok()?;
        Some((query.topic.as_str(), offsets.as_ref().ok()?, ends))
    });
    let needed = complete.flat_map(|(topic, offsets, ends)| {
        let is_needed = |(partition, end): &(&u32, &u64)| {
            let committed = offsets.get(*partition);
            committed.is_some_and(|committed| needs_log_start(*committed, **end))
        };
        ends.iter()
            .filter(is_needed)
            .map(move |(partition, _)| (topic, *partition))
            .collect::<Vec<_>>()
    });
    needed.collect()
}

/// Builds the snapshot of one query from the grouped responses.
pub(super) fn snapshot_for(
    query: &GroupTopic,
    topics: &TopicLeaders<'_>,
    committed: &CommittedOffsets,
    ends: &TopicOffsets,
    starts: &TopicOffsets,
) -> LagResult {
    let leaders = topics[query.topic.as_str()].as_ref().map_err(LagError::clone)?;
    let empty = Offsets::new();
    let responses = OffsetResponses {
        partition_count: u32::try_from(leaders.len()).unwrap_or(u32::MAX),
        committed: committed[query].as_ref().map_err(LagError::clone)?,
        ends: topic_offsets(ends, &query.topic)?.unwrap_or(&empty),
        starts: topic_offsets(starts, &query.topic)?.unwrap_or(&empty),
    };
    build_snapshot(query, responses)
}

fn topic_offsets<'o>(by_topic: &'o TopicOffsets, topic: &str) -> Result<Option<&'o Offsets>, LagError> {
    by_topic
        .get(topic)
        .map(Result::as_ref)
        .transpose()
        .map_err(LagError::clone)
}

/// Returns the offsets of one topic.
///
/// # Errors
/// If a partition has no offset.
pub(super) fn all_offsets(
    topic: &str,
    leaders: &[i32],
    offsets: Vec<PartitionOffset>,
) -> Result<Offsets, LagError> {
    let offsets = group_by_topic(offsets)
        .remove(topic)
        .unwrap_or_else(|| Ok(Offsets::new()))?;
    match partitions(topic, leaders).find(|(_, partition)| !offsets.contains_key(partition)) {
        None => Ok(offsets),
        Some((_, partition)) => {
            let message = format!(
                "no response in time for the offset of topic {topic}, partition {partition}; check the Kafka brokers"
            );
            Err(LagError::new(LagErrorReason::PartialOffsets, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_leader_gets_one_request_for_all_its_partitions() {
        let unknown = LagError::new(LagErrorReason::UnknownTopic, "no such topic");
        let topics = TopicLeaders::from([
            ("orders", Ok(vec![3, 1, 3])),
            ("facts", Ok(vec![1, 3])),
            ("unknown", Err(unknown)),
        ]);
        let existing = topics
            .iter()
            .filter_map(|(topic, leaders)| Some((*topic, leaders.as_ref().ok()?)));
        let all = existing.flat_map(|(topic, leaders)| partitions(topic, leaders));
        assert_eq!(
            group_by_leader(&topics, all),
            [
                (1, vec![("facts", 0), ("orders", 1)]),
                (3, vec![("facts", 1), ("orders", 0), ("orders", 2)]),
            ]
        );
    }
}
