#![expect(
    clippy::disallowed_types,
    reason = "edge: handles the rebalances of the group"
)]
//! Handles rebalances: partitions that the group assigns or revokes.
//!
//! An assigned partition starts at the position in PostgreSQL, never at the committed offset. A revocation waits for
//! the in-flight batches, so that the next owner finds the position up to date.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::metadata::{MetadataPartition, MetadataTopic};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::error::{StartError, remedy};
use super::in_flight::InFlight;
use super::settings::{ConsumerSettings, PartitionOffsets, REQUEST_TIMEOUT, StartOffsets};
use super::source_topic::SourceTopic;
use crate::backoff::Backoff;
use crate::health::{Dependency, Health};
use crate::position::LogRange;

/// A partition that was assigned or revoked.
pub(super) struct AssignmentChange {
    /// Partition id.
    pub partition: i32,
    /// Topic ID and start offset of an assigned partition; `None` if it was revoked.
    pub start: Option<(Uuid, i64)>,
}

/// Rebalance callbacks. They run in the polling thread, inside of a poll.
pub(super) struct RebalanceHandler {
    topic: Arc<SourceTopic>,
    start_offsets: Arc<dyn StartOffsets>,
    runtime: Handle,
    in_flight: InFlight,
    health: Arc<Health>,
    stop: CancellationToken,
    changes: Mutex<Result<Vec<AssignmentChange>, StartError>>,
    /// Assigned partitions that cannot be read yet, because they have no leader.
    leaderless: Mutex<BTreeSet<i32>>,
}

impl RebalanceHandler {
    /// Creates the handler; `runtime` runs the queries for start offsets.
    pub(super) fn new(
        settings: &ConsumerSettings,
        topic: Arc<SourceTopic>,
        runtime: Handle,
        in_flight: InFlight,
    ) -> Self {
        Self {
            topic,
            start_offsets: Arc::clone(&settings.start_offsets),
            runtime,
            in_flight,
            health: Arc::clone(&settings.health),
            stop: settings.stop.clone(),
            changes: Mutex::new(Ok(Vec::new())),
            leaderless: Mutex::default(),
        }
    }

    /// Changes of the assignment since the last call, or the terminal error of one.
    pub(super) fn take_changes(&self) -> Result<Vec<AssignmentChange>, StartError> {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut changes, Ok(Vec::new()))
    }

    fn record_change(&self, change: Result<Vec<AssignmentChange>, StartError>) {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        match (change, &mut *changes) {
            (Ok(new), Ok(recorded)) => recorded.extend(new),
            (Err(error), recorded) => *recorded = Err(error),
            (Ok(_), Err(_)) => {}
        }
    }

    /// Assigns the partitions at their start offsets, later those without a leader. Retries until PostgreSQL and Kafka
    /// answer, or a shutdown.
    fn assign(&self, kafka: &BaseConsumer<Self>, partitions: &TopicPartitionList) {
        let ids = partition_ids(partitions);
        let Some((topic_id, starts)) = self.wait_start_offsets(kafka, &ids) else {
            let assigned = self.assign_paused(kafka, ids.into_iter());
            return assigned.unwrap_or_else(|error| tracing::debug!(%error, "failed to assign partitions"));
        };
        self.leaderless().extend(ids);
        self.assign_at(kafka, topic_id, starts);
    }

    /// Assigns the partitions that have a leader since they were assigned to this worker.
    pub(super) fn retry_leaderless(&self, kafka: &BaseConsumer<Self>) {
        let ids: Vec<i32> = self.leaderless().iter().copied().collect();
        if ids.is_empty() {
            return;
        }
        match self.resolve_start_offsets(kafka, &ids) {
            Ok((topic_id, starts)) => self.assign_at(kafka, topic_id, starts),
            Err(error) => drop(self.report_start_error(error)),
        }
    }

    /// Assigns partitions whose start offsets are resolved.
    fn assign_at(&self, kafka: &BaseConsumer<Self>, topic_id: Uuid, starts: BTreeMap<i32, i64>) {
        // Both dependencies have answered. On an idle topic nothing else would report it.
        self.health.mark_available(Dependency::Warehouse);
        self.leaderless()
            .retain(|partition| !starts.contains_key(partition));
        let leaderless = self.leaderless().clone();
        if leaderless.is_empty() {
            self.health.mark_available(Dependency::Source);
        } else {
            let cause = format!(
                "{}: no leader for the partitions {leaderless:?}; the others are read",
                self.topic.name
            );
            self.health.mark_unavailable(Dependency::Source, &cause);
        }
        let mut positions = TopicPartitionList::new();
        let assigned = starts.iter().try_for_each(|(&partition, &offset)| {
            positions.add_partition_offset(&self.topic.name, partition, Offset::Offset(offset))
        });
        match assigned.and_then(|()| self.assign_paused(kafka, starts.keys().copied())) {
            Ok(()) => {
                tracing::info!(topic = self.topic.name, positions = ?starts, "partitions assigned");
                // The committed offsets may be older than the positions if the previous owner crashed.
                let committed = kafka.commit(&positions, CommitMode::Async);
                committed.unwrap_or_else(
                    |error| tracing::debug!(%error, "failed to commit offsets to Kafka, retrying"),
                );
                self.report_assignment(kafka);
                self.record_change(Ok(starts
                    .into_iter()
                    .map(|(partition, offset)| AssignmentChange {
                        partition,
                        start: Some((topic_id, offset)),
                    })
                    .collect()));
            }
            Err(error) => {
                let cause = format!("failed to assign partitions: {error}");
                self.health.mark_unavailable(Dependency::Source, &cause);
            }
        }
    }

    /// Accepts partitions without reading them: the fetcher does. A client that does not answer the group can never leave
    /// it. The offset is the end, so that the client has nothing to read before it is paused.
    fn assign_paused(
        &self,
        kafka: &BaseConsumer<Self>,
        partitions: impl Iterator<Item = i32>,
    ) -> Result<(), KafkaError> {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition_offset(&self.topic.name, partition, Offset::End)?;
        }
        kafka.incremental_assign(&list)?;
        kafka.pause(&list)
    }

    /// Resolves the start offsets, with retries. `None` after a shutdown or a terminal error, which
    /// [`Self::take_changes`] returns.
    fn wait_start_offsets(
        &self,
        kafka: &BaseConsumer<Self>,
        partitions: &[i32],
    ) -> Option<(Uuid, BTreeMap<i32, i64>)> {
        let mut backoff = Backoff::default();
        while !self.stop.is_cancelled() {
            let _step = self.health.begin_step("poll", "resolve start offsets");
            let error = match self.resolve_start_offsets(kafka, partitions) {
                Ok(starts) => return Some(starts),
                Err(error) => error,
            };
            self.report_start_error(error)?;
            std::thread::sleep(backoff.next_delay());
        }
        None
    }

    /// Reports an error that is retried. `None` after a terminal one, which [`Self::take_changes`] returns.
    fn report_start_error(&self, error: StartError) -> Option<()> {
        let dependency = match error {
            StartError::Stopped(_) => {
                self.record_change(Err(error));
                return None;
            }
            StartError::Warehouse(_) => Dependency::Warehouse,
            StartError::Source(_) => Dependency::Source,
        };
        self.health.mark_unavailable(dependency, &error.to_string());
        Some(())
    }

    /// Returns the topic ID, and the start offsets of those assigned partitions that have a leader.
    fn resolve_start_offsets(
        &self,
        kafka: &BaseConsumer<Self>,
        assigned: &[i32],
    ) -> Result<(Uuid, BTreeMap<i32, i64>), StartError> {
        let topic_id = self.topic.confirm(kafka, REQUEST_TIMEOUT)?;
        let decides_all = self
            .runtime
            .block_on(self.start_offsets.decides_all_partitions())?;
        let mut ids = self.partitions_with_leader(kafka)?;
        ids.retain(|id| decides_all || assigned.contains(id));
        if ids.is_empty() {
            return Ok((topic_id, BTreeMap::new()));
        }
        let offsets = self.fetch_offsets(kafka, &ids)?;
        let mut starts = self
            .runtime
            .block_on(self.start_offsets.start_offsets(topic_id, offsets))?;
        starts.retain(|partition, _| assigned.contains(partition));
        Ok((topic_id, starts))
    }

    /// Fetches the log range, the committed offset and the offset at the start time of each partition.
    fn fetch_offsets(
        &self,
        kafka: &BaseConsumer<Self>,
        ids: &BTreeSet<i32>,
    ) -> Result<BTreeMap<i32, PartitionOffsets>, StartError> {
        let offset = |list: &TopicPartitionList, partition| match list
            .find_partition(&self.topic.name, partition)?
            .offset()
        {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        };
        let mut partitions = TopicPartitionList::new();
        for &partition in ids {
            partitions.add_partition(&self.topic.name, partition);
        }
        let committed = kafka.committed_offsets(partitions, REQUEST_TIMEOUT)?;
        let at_start_time = self
            .start_offsets
            .start_time()
            .map(|time| self.offsets_for_time(kafka, ids, time))
            .transpose()?;
        let mut offsets = BTreeMap::new();
        for &partition in ids {
            let (start, end) = kafka.fetch_watermarks(&self.topic.name, partition, REQUEST_TIMEOUT)?;
            let partition_offsets = PartitionOffsets {
                log: LogRange { start, end },
                committed: offset(&committed, partition),
                at_start_time: at_start_time
                    .as_ref()
                    .map(|list| offset(list, partition).unwrap_or(end)),
            };
            offsets.insert(partition, partition_offsets);
        }
        Ok(offsets)
    }

    /// Partitions of the topic that have a leader. The offsets of another one cannot be read.
    fn partitions_with_leader(&self, kafka: &BaseConsumer<Self>) -> Result<BTreeSet<i32>, KafkaError> {
        let metadata = kafka.fetch_metadata(Some(&self.topic.name), REQUEST_TIMEOUT)?;
        let partitions = metadata.topics().iter().flat_map(MetadataTopic::partitions);
        Ok(partitions
            .filter(|partition| partition.leader() >= 0)
            .map(MetadataPartition::id)
            .collect())
    }

    /// First offset at or after `time` (milliseconds since the Unix epoch) in each partition.
    fn offsets_for_time(
        &self,
        kafka: &BaseConsumer<Self>,
        partitions: &BTreeSet<i32>,
        time: i64,
    ) -> Result<TopicPartitionList, KafkaError> {
        let mut times = TopicPartitionList::new();
        for &partition in partitions {
            times.add_partition_offset(&self.topic.name, partition, Offset::Offset(time))?;
        }
        kafka.offsets_for_times(times, REQUEST_TIMEOUT)
    }

    /// Unassigns revoked partitions after their in-flight batches are committed.
    fn revoke(&self, kafka: &BaseConsumer<Self>, partitions: &TopicPartitionList) {
        if !self.in_flight.wait_until_empty() {
            tracing::warn!(
                "in-flight batches did not finish before revocation; the position check settles them"
            );
        }
        let revoked = partition_ids(partitions);
        let mut assigned = TopicPartitionList::new();
        for &partition in &revoked {
            // A partition without a leader is not assigned to the client.
            if !self.leaderless().remove(&partition) {
                assigned.add_partition(&self.topic.name, partition);
            }
        }
        if let Err(error) = kafka.incremental_unassign(&assigned) {
            tracing::warn!(%error, "failed to unassign partitions");
        }
        tracing::info!(topic = self.topic.name, partitions = ?revoked, "partitions revoked");
        // The next owner reports whether a partition is still blocked.
        for &partition in &revoked {
            self.health.unblock_partition(partition);
        }
        self.report_assignment(kafka);
        self.record_change(Ok(revoked
            .into_iter()
            .map(|partition| AssignmentChange {
                partition,
                start: None,
            })
            .collect()));
    }

    fn leaderless(&self) -> MutexGuard<'_, BTreeSet<i32>> {
        self.leaderless.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report_assignment(&self, kafka: &BaseConsumer<Self>) {
        let count = kafka.assignment().map_or(0, |all| all.count());
        self.health.set_assigned_partitions(count);
    }
}

fn partition_ids(partitions: &TopicPartitionList) -> Vec<i32> {
    partitions
        .elements()
        .iter()
        .map(TopicPartitionListElem::partition)
        .collect()
}

impl ClientContext for RebalanceHandler {
    fn error(&self, error: KafkaError, reason: &str) {
        let cause = format!("{error}: {reason}{}", remedy(&error));
        self.health.mark_unavailable(Dependency::Source, &cause);
    }
}

impl ConsumerContext for RebalanceHandler {
    fn rebalance(
        &self,
        kafka: &BaseConsumer<Self>,
        cause: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        match cause {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assign(kafka, partitions),
            _ => self.revoke(kafka, partitions),
        }
    }
}
