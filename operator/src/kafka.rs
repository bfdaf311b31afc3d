#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: queries Kafka, until a deadline"
)]
//! Queries Kafka for committed, end and log start offsets. One client per connection serves all groups.
//!
//! A partition without a response makes the lag of its group a [`LagError`]; other groups and topics are not affected.
//! [`crate::lag`] builds the snapshots. Writes nothing to Kafka, except for the start offsets in
//! [`Cluster::commit_start`], and reads no record.
//!
//! The brokers may be those of a hostile tenant: answers have a maximum size, and every client shares the limits of its
//! namespace and of the operator, see [`limits`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crds::stage::StartFrom;
use futures::future::join_all;
use kafka::protocol::error::ResponseError;
use kafka::{Cause, Metadata, RequestError, Restrictions, Security, Settings};

use crate::connection::KafkaConnection;
use crate::lag::members::GroupMembers;
use crate::lag::offsets::{GroupTopic, LagError, LagResult, Offsets};
use brokers::{Brokers, remaining};
use coordinators::Coordinators;
use requests::{OffsetSpec, PartitionOffset, PartitionsByTopic};
use responses::{
    CommittedOffsets, TopicLeaders, TopicPartitions, all_offsets, group_by_leader, group_by_topic,
    partition_leaders, partitions,
};

mod brokers;
mod coordinators;
mod error;
pub mod limits;
mod requests;
mod responses;

/// `client.id` of the operator.
const CLIENT_ID: &str = "streamstage-operator";
/// Offset in Kafka's response for a timestamp after the last record.
const NO_SUCH_RECORD: i64 = -1;

/// Maximum length of a cluster ID, which is kept for every stage; those of Kafka have 22 characters.
const MAX_CLUSTER_ID_BYTES: usize = 64;

/// State of a consumer group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupState {
    /// Members; `None` if the brokers do not describe them.
    pub members: Option<GroupMembers>,
}

impl GroupState {
    /// Returns true if the group assigns its partitions: a scaling step now would prolong it.
    #[must_use]
    pub fn is_rebalancing(&self) -> bool {
        self.members == Some(GroupMembers::Assigning)
    }
}

/// Client of a Kafka cluster for one connection.
pub struct Cluster {
    bootstrap_servers: String,
    metadata: tokio::sync::Mutex<kafka::Cluster>,
    last_id: Mutex<Option<Arc<str>>>,
    brokers: Brokers,
    coordinators: Coordinators,
}

impl Cluster {
    /// Creates a client, which connects at its first request.
    #[must_use]
    pub fn new(connection: &KafkaConnection, restrictions: Restrictions) -> Self {
        let setting = |name: &str| {
            let mut settings = connection.client_settings.iter();
            settings
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.as_str())
        };
        let settings = Settings {
            client_id: CLIENT_ID.to_owned(),
            security: Security::from_settings(setting),
            max_response_bytes: limits::MAX_RESPONSE_BYTES,
            restrictions,
        };
        let servers = connection.bootstrap_servers.clone();
        Self {
            bootstrap_servers: servers.join(","),
            metadata: tokio::sync::Mutex::new(kafka::Cluster::new(servers, settings.clone())),
            last_id: Mutex::default(),
            brokers: Brokers::new(settings),
            coordinators: Coordinators::default(),
        }
    }

    /// ID of the cluster in its last metadata; `None` before the first answer, or if the brokers send none of at most 64
    /// bytes.
    #[must_use]
    pub fn cluster_id(&self) -> Option<Arc<str>> {
        self.lock_last_id().clone()
    }

    fn lock_last_id(&self) -> MutexGuard<'_, Option<Arc<str>>> {
        self.last_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fetches the offsets of each group and topic, in the order of `queries`.
    ///
    /// Committed offsets are fetched before end offsets, and end offsets before log start offsets, so that concurrent
    /// progress never yields a committed offset beyond the end. Each step gets half of the remaining time, so that one
    /// broker that does not respond leaves time for the later steps.
    pub async fn fetch_snapshots(&self, queries: &[GroupTopic], timeout: Duration) -> Vec<LagResult> {
        if queries.is_empty() {
            return Vec::new();
        }
        let deadline = Instant::now() + timeout;
        let topics = queries.iter().map(|query| query.topic.as_str()).collect();
        let metadata = match self.metadata(&topics, half_of_remaining(deadline)).await {
            Ok(metadata) => metadata,
            Err(error) => return vec![Err(error); queries.len()],
        };
        self.brokers.close_others(&metadata);
        let topics = leaders_of(&metadata, topics);
        let committed = self
            .committed_offsets(&metadata, queries, &topics, half_of_remaining(deadline))
            .await;
        let existing = topics
            .iter()
            .filter_map(|(topic, leaders)| Some((*topic, leaders.as_ref().ok()?)));
        let all = group_by_leader(
            &topics,
            existing.flat_map(|(topic, leaders)| partitions(topic, leaders)),
        );
        let ends = self.list_offsets(&metadata, &all, OffsetSpec::End, half_of_remaining(deadline));
        let ends = group_by_topic(ends.await);
        let needed = group_by_leader(&topics, responses::needed_log_starts(&committed, &ends));
        let starts = self.list_offsets(&metadata, &needed, OffsetSpec::Start, deadline);
        let starts = group_by_topic(starts.await);
        let snapshot = |query| responses::snapshot_for(query, &topics, &committed, &ends, &starts);
        queries.iter().map(snapshot).collect()
    }

    /// Describes the groups. A group whose coordinator does not answer is missing in the result.
    ///
    /// # Errors
    /// If no broker responds.
    pub async fn describe_groups(
        &self,
        queries: &[GroupTopic],
        timeout: Duration,
    ) -> Result<BTreeMap<GroupTopic, GroupState>, LagError> {
        if queries.is_empty() {
            return Ok(BTreeMap::new());
        }
        let deadline = Instant::now() + timeout;
        let metadata = self
            .metadata(&BTreeSet::new(), half_of_remaining(deadline))
            .await?;
        let groups: BTreeSet<&str> = queries.iter().map(|query| query.group.as_str()).collect();
        let groups: Vec<&str> = groups.into_iter().collect();
        let (by_coordinator, _) = self
            .coordinators
            .group(&self.brokers, &metadata, &groups, deadline)
            .await;
        let described = by_coordinator.iter().map(async |(broker, groups)| {
            let request = |_| vec![requests::describe_groups(groups)];
            let responses = self.brokers.request(&metadata, *broker, request, deadline).await;
            responses.unwrap_or_default()
        });
        let responses: Vec<_> = join_all(described).await.into_iter().flatten().collect();
        let states = queries.iter().filter_map(|query| {
            let group = requests::find_group(&responses, &query.group)?;
            let members = requests::group_members(group, &query.topic);
            Some((query.clone(), GroupState { members }))
        });
        Ok(states.collect())
    }

    /// Commits the start offsets of a group without members.
    ///
    /// # Errors
    /// If Kafka rejects the commit or does not respond; some partitions may have been committed then.
    pub async fn commit_start(
        &self,
        group_topic: &GroupTopic,
        offsets: &Offsets,
        timeout: Duration,
    ) -> Result<(), LagError> {
        let deadline = Instant::now() + timeout;
        let GroupTopic { group, topic } = group_topic;
        let metadata = self
            .metadata(&BTreeSet::new(), half_of_remaining(deadline))
            .await?;
        let (by_coordinator, failed) = self
            .coordinators
            .group(&self.brokers, &metadata, &[group], half_of_remaining(deadline))
            .await;
        if let Some(cause) = failed.into_values().next() {
            return Err(cause.group_error(group, "Read"));
        }
        let Some(broker) = by_coordinator.into_keys().next() else {
            return Err(error::group_error(
                group,
                "Read",
                ResponseError::CoordinatorNotAvailable,
            ));
        };
        let request = |_| vec![requests::commit_offsets(group, topic, offsets)];
        let responses = self.brokers.request(&metadata, broker, request, deadline).await;
        let committed = responses.map_err(|cause| cause.group_error(group, "Read"))?;
        let committed = committed
            .first()
            .map_or(Err(ResponseError::UnknownServerError), |response| {
                requests::check_commit(response, offsets.len())
            });
        committed.map_err(|code| {
            self.coordinators.forget(group);
            error::group_error(group, "Read", code)
        })
    }

    /// Resolves `startFrom` to the start offset of every partition. A time after the last record resolves to the end.
    ///
    /// # Errors
    /// If the topic or the offset of a partition is unknown.
    pub async fn start_offsets(
        &self,
        topic: &str,
        start_from: StartFrom,
        timeout: Duration,
    ) -> Result<Offsets, LagError> {
        let deadline = Instant::now() + timeout;
        let names = BTreeSet::from([topic]);
        let metadata = self.metadata(&names, half_of_remaining(deadline)).await?;
        let topics = leaders_of(&metadata, names);
        let leaders = topics[topic].as_ref().map_err(LagError::clone)?;
        let all = group_by_leader(&topics, partitions(topic, leaders));
        let list = async |spec, deadline| self.list_offsets(&metadata, &all, spec, deadline).await;
        match start_from {
            StartFrom::Earliest => all_offsets(topic, leaders, list(OffsetSpec::Start, deadline).await),
            StartFrom::Latest => all_offsets(topic, leaders, list(OffsetSpec::End, deadline).await),
            StartFrom::Timestamp(time) => {
                // End offsets come first, so that a record that arrives in between is not skipped.
                let ends = list(OffsetSpec::End, half_of_remaining(deadline)).await;
                let ends = all_offsets(topic, leaders, ends)?;
                let resolved = list(OffsetSpec::Time(time.as_millisecond()), deadline).await;
                let resolved = resolved.into_iter().map(|mut resolved| {
                    if resolved.offset == Ok(NO_SUCH_RECORD) {
                        let end = u32::try_from(resolved.partition)
                            .ok()
                            .and_then(|partition| ends.get(&partition));
                        resolved.offset = Ok(end.map_or(NO_SUCH_RECORD, |end| end.cast_signed()));
                    }
                    resolved
                });
                all_offsets(topic, leaders, resolved.collect())
            }
        }
    }

    /// Fetches the metadata of the topics, with one request.
    async fn metadata(&self, topics: &BTreeSet<&str>, deadline: Instant) -> Result<Metadata, LagError> {
        let topics: Vec<&str> = topics.iter().copied().collect();
        let fetch = async {
            let mut cluster = self.metadata.lock().await;
            cluster.metadata(&topics, remaining(deadline)).await
        };
        let metadata = tokio::time::timeout_at(deadline.into(), fetch).await;
        let timed_out = || RequestError::new(&self.bootstrap_servers, "Metadata", Cause::TimedOut);
        let metadata = metadata.unwrap_or_else(|_| Err(timed_out())).map_err(|error| {
            tracing::debug!(%error, "failed to fetch the metadata");
            error::unreachable_error(&self.bootstrap_servers, &error.cause)
        })?;
        let mut known = self.lock_last_id();
        let id = metadata
            .cluster_id
            .as_deref()
            .filter(|id| (1..=MAX_CLUSTER_ID_BYTES).contains(&id.len()));
        if known.as_deref() != id {
            *known = id.map(Arc::from);
        }
        drop(known);
        Ok(metadata)
    }

    /// Fetches the committed offsets, with one request per coordinator.
    async fn committed_offsets(
        &self,
        metadata: &Metadata,
        queries: &[GroupTopic],
        topics: &TopicLeaders<'_>,
        deadline: Instant,
    ) -> CommittedOffsets {
        let mut committed: CommittedOffsets = queries
            .iter()
            .map(|query| (query.clone(), Ok(BTreeMap::new())))
            .collect();
        let partitions_by_group = partitions_by_group(queries, topics);
        let groups: Vec<&str> = partitions_by_group.keys().copied().collect();
        let (by_coordinator, failed) = self
            .coordinators
            .group(&self.brokers, metadata, &groups, half_of_remaining(deadline))
            .await;
        for (group, cause) in failed {
            responses::fail_group(&mut committed, group, &cause.group_error(group, "Describe"));
        }
        let fetched = by_coordinator.into_iter().map(async |(broker, groups)| {
            let wanted: Vec<(&str, PartitionsByTopic<'_>)> = groups
                .iter()
                .map(|group| (*group, partitions_by_group[group].clone()))
                .collect();
            let request = |version| requests::fetch_offsets(&wanted, version);
            let responses = self.brokers.request(metadata, broker, request, deadline).await;
            let offsets = responses.map(|responses| requests::committed_offsets(&wanted, responses));
            (groups, offsets)
        });
        for (groups, offsets) in join_all(fetched).await {
            let mut offsets = match offsets {
                Ok(offsets) => offsets,
                Err(cause) => {
                    for group in groups {
                        self.coordinators.forget(group);
                        responses::fail_group(&mut committed, group, &cause.group_error(group, "Describe"));
                    }
                    continue;
                }
            };
            for group in groups {
                let of_group = offsets
                    .remove(group)
                    .unwrap_or(Err(ResponseError::CoordinatorNotAvailable));
                if of_group.is_err() {
                    self.coordinators.forget(group);
                }
                responses::add_committed(&mut committed, group, of_group);
            }
        }
        committed
    }

    /// Lists offsets of partitions, with one request per leader.
    async fn list_offsets(
        &self,
        metadata: &Metadata,
        by_leader: &[(i32, TopicPartitions<'_>)],
        spec: OffsetSpec,
        deadline: Instant,
    ) -> Vec<PartitionOffset> {
        let listed = by_leader.iter().map(async |(leader, partitions)| {
            let request = |_| vec![requests::list_offsets(partitions, spec)];
            // A partition without a response is an error of its topic.
            self.brokers
                .request(metadata, *leader, request, deadline)
                .await
                .unwrap_or_default()
        });
        let responses = join_all(listed).await.into_iter().flatten();
        responses
            .flat_map(|response| requests::listed_offsets(&response).collect::<Vec<_>>())
            .collect()
    }
}

fn leaders_of<'q>(metadata: &Metadata, topics: BTreeSet<&'q str>) -> TopicLeaders<'q> {
    let leaders = topics.into_iter().map(|topic| {
        let leaders = metadata
            .topic(topic)
            .map_err(|code| error::topic_error(topic, code));
        (
            topic,
            leaders.and_then(|metadata| partition_leaders(topic, metadata)),
        )
    });
    leaders.collect()
}

/// Partitions of each group, of the topics that exist.
fn partitions_by_group<'q>(
    queries: &'q [GroupTopic],
    topics: &TopicLeaders<'_>,
) -> BTreeMap<&'q str, PartitionsByTopic<'q>> {
    let mut by_group = BTreeMap::<&str, PartitionsByTopic<'_>>::new();
    for GroupTopic { group, topic } in queries {
        if let Ok(leaders) = &topics[topic.as_str()] {
            let ids = partitions(topic, leaders).map(|(_, partition)| partition);
            by_group.entry(group).or_default().insert(topic, ids.collect());
        }
    }
    by_group
}

fn half_of_remaining(deadline: Instant) -> Instant {
    Instant::now() + remaining(deadline) / 2
}
