//! Requests to the brokers, and the meaning of their answers. Pure.

use std::collections::BTreeMap;

use kafka::protocol::error::{ParseResponseErrorCode as _, ResponseError};
use kafka::protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka::protocol::messages::find_coordinator_response::Coordinator;
use kafka::protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka::protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka::protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka::protocol::messages::{
    DescribeGroupsRequest, DescribeGroupsResponse, FindCoordinatorRequest, FindCoordinatorResponse, GroupId,
    ListOffsetsRequest, ListOffsetsResponse, OffsetCommitRequest, OffsetCommitResponse, OffsetFetchRequest,
    OffsetFetchResponse, TopicName,
};
use kafka::protocol::protocol::StrBytes;

use crate::lag::members::GroupMembers;
use crate::lag::offsets::Offsets;

/// First version of a request for several groups.
const FIND_COORDINATORS_VERSION: i16 = 4;
const FETCH_OFFSETS_OF_GROUPS_VERSION: i16 = 8;
/// A client is replica -1.
const CLIENT: i32 = -1;
/// End offsets are last stable offsets, so records of an open transaction do not count as lag.
const READ_COMMITTED: i8 = 1;
/// Prefix of the client IDs of workers.
const CLIENT_ID_PREFIX: &str = "streamstage-";
/// Generation of a commit by a client that is not a member of the group.
const NO_GENERATION: i32 = -1;

/// Offset that a broker is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum OffsetSpec {
    /// Last stable offset.
    End,
    /// Log start offset.
    Start,
    /// Offset of the first record from this time on, in milliseconds since the epoch.
    Time(i64),
}

/// Offset of one partition, or the error of its broker.
#[derive(Clone, Debug)]
pub(super) struct PartitionOffset {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) offset: Result<i64, ResponseError>,
}

/// Committed offsets of a group, or the error of its coordinator.
pub(super) type GroupOffsets = Result<Vec<PartitionOffset>, ResponseError>;

/// Partition ids by topic.
pub(super) type PartitionsByTopic<'q> = BTreeMap<&'q str, Vec<u32>>;

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn result<T>(code: i16, value: T) -> Result<T, ResponseError> {
    code.err().map_or(Ok(value), Err)
}

/// Requests for the coordinators of groups.
pub(super) fn find_coordinators(groups: &[&str], version: i16) -> Vec<FindCoordinatorRequest> {
    if version >= FIND_COORDINATORS_VERSION {
        let keys = groups.iter().map(|group| text(group)).collect();
        return vec![FindCoordinatorRequest::default().with_coordinator_keys(keys)];
    }
    let requests = groups
        .iter()
        .map(|group| FindCoordinatorRequest::default().with_key(text(group)));
    requests.collect()
}

/// Coordinator of each group, as broker id and `(host, port)`. `responses` are those of [`find_coordinators`].
pub(super) fn coordinators<'g>(
    groups: &[&'g str],
    responses: &[FindCoordinatorResponse],
) -> BTreeMap<&'g str, Result<i32, ResponseError>> {
    let by_key: BTreeMap<&str, &Coordinator> = responses
        .iter()
        .flat_map(|response| &response.coordinators)
        .map(|coordinator| (&*coordinator.key, coordinator))
        .collect();
    let found = groups.iter().enumerate().map(|(index, group)| {
        let of_group = match (by_key.get(group), responses.get(index)) {
            (Some(coordinator), _) => result(coordinator.error_code, *coordinator.node_id),
            (None, Some(response)) if response.coordinators.is_empty() => {
                result(response.error_code, *response.node_id)
            }
            _ => Err(ResponseError::CoordinatorNotAvailable),
        };
        (*group, of_group)
    });
    found.collect()
}

/// Requests for the committed offsets of groups with one coordinator.
pub(super) fn fetch_offsets(
    groups: &[(&str, PartitionsByTopic<'_>)],
    version: i16,
) -> Vec<OffsetFetchRequest> {
    let indexes = |partitions: &[u32]| {
        partitions
            .iter()
            .map(|partition| partition.cast_signed())
            .collect()
    };
    if version >= FETCH_OFFSETS_OF_GROUPS_VERSION {
        let groups = groups.iter().map(|(group, topics)| {
            let topics = topics.iter().map(|(topic, partitions)| {
                OffsetFetchRequestTopics::default()
                    .with_name(TopicName(text(topic)))
                    .with_partition_indexes(indexes(partitions))
            });
            OffsetFetchRequestGroup::default()
                .with_group_id(GroupId(text(group)))
                .with_topics(Some(topics.collect()))
        });
        return vec![OffsetFetchRequest::default().with_groups(groups.collect())];
    }
    let requests = groups.iter().map(|(group, topics)| {
        let topics = topics.iter().map(|(topic, partitions)| {
            OffsetFetchRequestTopic::default()
                .with_name(TopicName(text(topic)))
                .with_partition_indexes(indexes(partitions))
        });
        OffsetFetchRequest::default()
            .with_group_id(GroupId(text(group)))
            .with_topics(Some(topics.collect()))
    });
    requests.collect()
}

/// Committed offsets by group. `responses` are those of [`fetch_offsets`].
pub(super) fn committed_offsets(
    groups: &[(&str, PartitionsByTopic<'_>)],
    responses: Vec<OffsetFetchResponse>,
) -> BTreeMap<String, GroupOffsets> {
    let names = groups.iter().map(|(group, _)| *group);
    let by_group = names.zip(responses).flat_map(|(group, response)| {
        if response.groups.is_empty() {
            let offsets = response.topics.iter().flat_map(|topic| {
                let partitions = topic.partitions.iter();
                partitions.map(|partition| PartitionOffset {
                    topic: topic.name.to_string(),
                    partition: partition.partition_index,
                    offset: result(partition.error_code, partition.committed_offset),
                })
            });
            return vec![(group.to_owned(), result(response.error_code, offsets.collect()))];
        }
        let groups = response.groups.iter().map(|group| {
            let offsets = group.topics.iter().flat_map(|topic| {
                let partitions = topic.partitions.iter();
                partitions.map(|partition| PartitionOffset {
                    topic: topic.name.to_string(),
                    partition: partition.partition_index,
                    offset: result(partition.error_code, partition.committed_offset),
                })
            });
            (
                group.group_id.to_string(),
                result(group.error_code, offsets.collect()),
            )
        });
        groups.collect()
    });
    by_group.collect()
}

/// Request for one offset of each partition.
pub(super) fn list_offsets(partitions: &[(&str, u32)], spec: OffsetSpec) -> ListOffsetsRequest {
    let timestamp = match spec {
        OffsetSpec::End => -1,
        OffsetSpec::Start => -2,
        OffsetSpec::Time(millis) => millis.max(0),
    };
    let mut by_topic = BTreeMap::<&str, Vec<ListOffsetsPartition>>::new();
    for (topic, partition) in partitions {
        let partition = ListOffsetsPartition::default()
            .with_partition_index(partition.cast_signed())
            .with_timestamp(timestamp);
        by_topic.entry(topic).or_default().push(partition);
    }
    let topics = by_topic.into_iter().map(|(topic, partitions)| {
        ListOffsetsTopic::default()
            .with_name(TopicName(text(topic)))
            .with_partitions(partitions)
    });
    ListOffsetsRequest::default()
        .with_replica_id(CLIENT.into())
        .with_isolation_level(READ_COMMITTED)
        .with_topics(topics.collect())
}

/// Offset of each partition in the answer.
pub(super) fn listed_offsets(response: &ListOffsetsResponse) -> impl Iterator<Item = PartitionOffset> {
    response.topics.iter().flat_map(|topic| {
        let partitions = topic.partitions.iter();
        partitions.map(|partition| PartitionOffset {
            topic: topic.name.to_string(),
            partition: partition.partition_index,
            offset: result(partition.error_code, partition.offset),
        })
    })
}

/// Request that commits offsets of a group without members.
pub(super) fn commit_offsets(group: &str, topic: &str, offsets: &Offsets) -> OffsetCommitRequest {
    let partitions = offsets.iter().map(|(partition, offset)| {
        OffsetCommitRequestPartition::default()
            .with_partition_index(partition.cast_signed())
            .with_committed_offset(offset.cast_signed())
            .with_committed_metadata(Some(StrBytes::default()))
    });
    let topic = OffsetCommitRequestTopic::default()
        .with_name(TopicName(text(topic)))
        .with_partitions(partitions.collect());
    OffsetCommitRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_generation_id_or_member_epoch(NO_GENERATION)
        .with_topics(vec![topic])
}

/// Checks that all of `count` partitions are committed.
///
/// # Errors
/// The first error of a partition; [`ResponseError::UnknownServerError`] if an answer is missing.
pub(super) fn check_commit(response: &OffsetCommitResponse, count: usize) -> Result<(), ResponseError> {
    let mut committed = 0;
    for partition in response.topics.iter().flat_map(|topic| &topic.partitions) {
        result(partition.error_code, ())?;
        committed += 1;
    }
    if committed == count {
        Ok(())
    } else {
        Err(ResponseError::UnknownServerError)
    }
}

/// Request for the states of groups with one coordinator.
pub(super) fn describe_groups(groups: &[&str]) -> DescribeGroupsRequest {
    let groups = groups.iter().map(|group| GroupId(text(group)));
    DescribeGroupsRequest::default().with_groups(groups.collect())
}

/// Description of a group; `None` if no answer has it.
pub(super) fn find_group<'r>(
    responses: &'r [DescribeGroupsResponse],
    group: &str,
) -> Option<&'r DescribedGroup> {
    let mut groups = responses.iter().flat_map(|response| &response.groups);
    groups.find(|described| *described.group_id.0 == *group)
}

/// Members of the group with their partitions of the topic; `None` if the answer does not describe them.
pub(super) fn group_members(group: &DescribedGroup, topic: &str) -> Option<GroupMembers> {
    result(group.error_code, ()).ok()?;
    let state: &str = &group.group_state;
    match state {
        "Stable" => {
            let members = group.members.iter().map(|member| {
                let partitions = kafka::assigned_partitions(&member.member_assignment, topic)?;
                let partitions = partitions.into_iter().map(i32::cast_unsigned).collect();
                Some((member_name(&group.members, member), partitions))
            });
            members.collect::<Option<_>>().map(GroupMembers::Assigned)
        }
        "PreparingRebalance" | "CompletingRebalance" => Some(GroupMembers::Assigning),
        // A group without members waits for its first worker, which a rebalance would delay.
        _ => None,
    }
}

/// The client ID, which has the name of the pod; or the member ID if it is not unique.
fn member_name(members: &[DescribedGroupMember], member: &DescribedGroupMember) -> String {
    let same = members.iter().filter(|other| other.client_id == member.client_id);
    let name = if same.count() == 1 {
        member.client_id.trim_start_matches(CLIENT_ID_PREFIX)
    } else {
        &member.member_id
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::kafka::GroupState;

    fn described(state: &str, code: i16) -> DescribedGroup {
        let member = |name: &str, partition: u8| {
            let assignment = [
                &[0, 0, 0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 1, 0, 0, 0, partition][..],
                &[0; 4],
            ];
            DescribedGroupMember::default()
                .with_member_id(text(name))
                .with_member_assignment(assignment.concat().into())
        };
        DescribedGroup::default()
            .with_group_id(GroupId(text("g")))
            .with_group_state(text(state))
            .with_error_code(code)
            .with_members(vec![member("a", 0), member("b", 3)])
    }

    #[test]
    fn the_members_of_a_stable_group_are_known_with_their_partitions() {
        let assigned = BTreeMap::from([("a".to_owned(), vec![0]), ("b".to_owned(), vec![3])]);
        for (state, code, members, rebalances) in [
            ("Stable", 0, Some(GroupMembers::Assigned(assigned)), false),
            ("PreparingRebalance", 0, Some(GroupMembers::Assigning), true),
            ("CompletingRebalance", 0, Some(GroupMembers::Assigning), true),
            ("Empty", 0, None, false),
            // The state of a group of another protocol, and an error.
            ("Dead", 0, None, false),
            ("Stable", 30, None, false),
        ] {
            let group = GroupState {
                members: group_members(&described(state, code), "t"),
            };
            assert_eq!(group.members, members, "{state}");
            assert_eq!(group.is_rebalancing(), rebalances, "{state}");
        }
        let responses = [DescribeGroupsResponse::default().with_groups(vec![described("Stable", 0)])];
        assert_eq!(find_group(&responses, "g"), Some(&described("Stable", 0)));
        assert_eq!(find_group(&responses, "other"), None);
    }

    #[test]
    fn a_member_has_the_name_of_its_pod_if_no_other_has_it() {
        let member = |client: &str, id: &str| {
            DescribedGroupMember::default()
                .with_client_id(text(client))
                .with_member_id(text(id))
        };
        let members = [
            member("streamstage-stg-worker-1", "a"),
            member("streamstage-stg", "b"),
            member("streamstage-stg", "c"),
        ];
        let names = members.each_ref().map(|of_group| member_name(&members, of_group));
        assert_eq!(names, ["stg-worker-1", "b", "c"]);
    }
}
