#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: polls Kafka"
)]
//! The polling thread: polls Kafka, builds batches and executes the commands of the pipeline between two polls.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc as commands;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::{Metadata, MetadataTopic};
use rdkafka::{Offset, TopicPartitionList};
use telemetry::progress::StepGuard;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::batch_builder::BatchBuilder;
use super::error::{ConsumeError, StartError, remedy};
use super::in_flight::{InFlight, TrackedBatch};
use super::message::copy_record;
use super::offset_commit::commit_assigned;
use super::pending_commits::PendingCommits;
use super::pending_seeks::PendingSeeks;
use super::rebalance::RebalanceHandler;
use super::settings::{ConsumerSettings, REQUEST_TIMEOUT};
use crate::health::{Dependency, Health};

/// Time that the pipeline may be busy before the partitions are paused and polling continues.
const BACKPRESSURE_TIMEOUT: Duration = Duration::from_secs(1);
/// Timeout of a request that the thread makes between two polls.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Minimum interval between two probes for the recovery of the source.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// A request of the pipeline to the polling thread.
pub(super) enum Command {
    /// Read the partition again from the offset, at that time.
    Seek {
        partition: i32,
        offset: i64,
        at: Instant,
    },
    /// Verify that Kafka has stored these committed offsets.
    Committed(BTreeMap<i32, i64>),
}

/// State of the polling thread.
pub(super) struct Poller {
    kafka: Arc<BaseConsumer<RebalanceHandler>>,
    builder: BatchBuilder,
    topic: String,
    batches: mpsc::Sender<TrackedBatch>,
    commands: commands::Receiver<Command>,
    pending_seeks: PendingSeeks,
    pending_commits: PendingCommits,
    last_source_probe: Option<Instant>,
    runtime: Handle,
    in_flight: InFlight,
    health: Arc<Health>,
    step: StepGuard,
    stop: CancellationToken,
}

impl Poller {
    /// Creates the state of a thread that sends its batches to `batches`. Call it inside of a runtime.
    pub(super) fn new(
        kafka: Arc<BaseConsumer<RebalanceHandler>>,
        settings: ConsumerSettings,
        batches: mpsc::Sender<TrackedBatch>,
        commands: commands::Receiver<Command>,
        in_flight: InFlight,
    ) -> Self {
        Self {
            kafka,
            builder: BatchBuilder::new(settings.limits),
            topic: settings.topic,
            batches,
            commands,
            pending_seeks: PendingSeeks::default(),
            pending_commits: PendingCommits::default(),
            last_source_probe: None,
            runtime: Handle::current(),
            in_flight,
            step: settings.health.begin_step("poll", "poll Kafka"),
            health: settings.health,
            stop: settings.stop,
        }
    }

    /// Polls until a shutdown or a terminal error, then waits for the in-flight batches.
    pub(super) fn run(mut self) -> Result<(), ConsumeError> {
        while !self.stop.is_cancelled() {
            self.process_commands();
            self.poll(self.builder.poll_timeout(Instant::now()))?;
            if self.builder.is_due(Instant::now()) {
                self.send_batch()?;
            }
        }
        drop(self.batches);
        self.in_flight.wait_until_empty();
        Ok(())
    }

    /// Polls for one record; rebalance callbacks run inside of this call.
    fn poll(&mut self, timeout: Duration) -> Result<(), ConsumeError> {
        self.step.renew();
        let polled = self.kafka.poll(timeout);
        for change in self.kafka.context().take_changes()? {
            if let Some(offset) = change.start_offset {
                self.builder.restart_at(change.partition, offset);
                self.pending_commits
                    .add([(change.partition, offset)], Instant::now());
            } else {
                self.builder.remove(change.partition);
                self.pending_commits.remove(change.partition);
            }
            self.pending_seeks.remove(change.partition);
        }
        match polled {
            Some(Ok(message)) => self.builder.push(copy_record(&message), Instant::now()),
            Some(Err(error)) => self.handle_error(&error)?,
            None => {}
        }
        self.probe_source_recovery();
        self.recommit_missing_offsets();
        Ok(())
    }

    /// Requests metadata during an outage: the client reports its start, but not its end. A record does not prove a
    /// recovery, because the client may have fetched it before the outage.
    fn probe_source_recovery(&mut self) {
        let is_recent = self
            .last_source_probe
            .is_some_and(|probe| probe.elapsed() < PROBE_INTERVAL);
        if is_recent || !self.health.is_unavailable(Dependency::Source) {
            return;
        }
        let metadata = self.kafka.fetch_metadata(Some(&self.topic), PROBE_TIMEOUT);
        let has_topic = |metadata: &Metadata| {
            metadata
                .topics()
                .iter()
                .all(|topic| topic.error().is_none() && !topic.partitions().is_empty())
                && metadata
                    .topics()
                    .iter()
                    .flat_map(MetadataTopic::partitions)
                    .all(|partition| partition.leader() >= 0)
        };
        if metadata.is_ok_and(|metadata| has_topic(&metadata)) {
            self.health.mark_available(Dependency::Source);
        }
        self.kafka.context().retry_leaderless(&self.kafka);
        self.last_source_probe = Some(Instant::now());
    }

    /// Reads the committed offsets that are due for verification, and commits the missing ones again.
    fn recommit_missing_offsets(&mut self) {
        let Some(mut positions) = self.pending_commits.take_due(Instant::now()) else {
            return;
        };
        let mut partitions = TopicPartitionList::new();
        for &partition in positions.keys() {
            partitions.add_partition(&self.topic, partition);
        }
        let committed = self
            .kafka
            .committed_offsets(partitions, PROBE_TIMEOUT)
            .unwrap_or_default();
        for element in committed.elements() {
            // A higher offset is right too: the pipeline may have committed more since.
            if let Offset::Offset(offset) = element.offset()
                && positions
                    .get(&element.partition())
                    .is_some_and(|&position| offset >= position)
            {
                positions.remove(&element.partition());
            }
        }
        let owned = commit_assigned(&self.kafka, &self.topic, &positions, CommitMode::Async);
        self.pending_commits.add(owned, Instant::now());
    }

    /// Sends the batch to the pipeline. If the pipeline stays busy, the partitions are paused and polling continues,
    /// so that the worker remains a member of the group.
    fn send_batch(&mut self) -> Result<(), ConsumeError> {
        let batch = self.builder.take_batch();
        let batches = self.batches.clone();
        let mut is_paused = false;
        loop {
            let reserve = async { tokio::time::timeout(BACKPRESSURE_TIMEOUT, batches.reserve()).await };
            match self.runtime.clone().block_on(reserve) {
                Ok(Ok(permit)) => {
                    permit.send(TrackedBatch::new(batch, self.in_flight.guard()));
                    break;
                }
                Ok(Err(_)) => break,
                Err(_) if self.stop.is_cancelled() => break,
                Err(_) => {
                    let assigned = self.kafka.assignment().unwrap_or_default();
                    is_paused |= self.kafka.pause(&assigned).is_ok();
                    self.poll(Duration::ZERO)?;
                }
            }
        }
        if is_paused {
            // The current assignment: a rebalance may have changed it meanwhile.
            let resumed = self
                .kafka
                .assignment()
                .and_then(|assigned| self.kafka.resume(&self.exclude_pending_seeks(&assigned)));
            resumed.unwrap_or_else(|error| tracing::warn!(%error, "failed to resume partitions"));
        }
        Ok(())
    }

    /// Assigned partitions without a scheduled seek; the others stay paused until their seek.
    fn exclude_pending_seeks(&self, assigned: &TopicPartitionList) -> TopicPartitionList {
        let mut included = TopicPartitionList::new();
        for element in assigned.elements() {
            if !self.pending_seeks.contains(element.partition()) {
                included.add_partition(element.topic(), element.partition());
            }
        }
        included
    }

    /// Executes the commands of the pipeline, and the seeks that are due.
    fn process_commands(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Seek {
                    partition,
                    offset,
                    at,
                } => self.schedule_seek(partition, offset, at),
                Command::Committed(positions) => self.pending_commits.add(positions, Instant::now()),
            }
        }
        for (partition, offset) in self.pending_seeks.due(Instant::now()) {
            self.seek(partition, offset);
        }
    }

    /// Pauses a partition until its seek.
    fn schedule_seek(&mut self, partition: i32, offset: i64, at: Instant) {
        self.builder.remove(partition);
        self.pending_seeks.schedule(partition, offset, at);
        let paused = self.kafka.pause(&self.single_partition(partition));
        paused.unwrap_or_else(
            |error| tracing::debug!(partition, %error, "failed to pause partition; its records are dropped"),
        );
    }

    /// Seeks, unless the partition was revoked. A failed seek is retried: without it, the partition would never be
    /// read.
    fn seek(&mut self, partition: i32, offset: i64) {
        let assigned = self.kafka.assignment();
        if assigned.is_ok_and(|all| all.find_partition(&self.topic, partition).is_none()) {
            return self.pending_seeks.remove(partition);
        }
        // Resumed first: the batch builder ignores records from before the seek.
        let result = self
            .kafka
            .resume(&self.single_partition(partition))
            .and_then(|()| {
                self.kafka
                    .seek(&self.topic, partition, Offset::Offset(offset), REQUEST_TIMEOUT)
            });
        match result {
            Ok(()) => {
                self.pending_seeks.remove(partition);
                self.builder.restart_at(partition, offset);
            }
            Err(error) => {
                tracing::warn!(partition, offset, %error, "seek failed, retrying");
                self.pending_seeks.postpone(partition, Instant::now());
            }
        }
    }

    fn single_partition(&self, partition: i32) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.topic, partition);
        list
    }

    /// Returns a terminal error, and reports any other error as an outage of the source.
    fn handle_error(&self, error: &KafkaError) -> Result<(), ConsumeError> {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                Err(StartError::out_of_range(&self.topic, &error.to_string()).into())
            }
            Some(RDKafkaErrorCode::Fatal) => Err(ConsumeError::Fatal(error.to_string())),
            _ => {
                let cause = format!("{}: {error}{}", self.topic, remedy(error));
                self.health.mark_unavailable(Dependency::Source, &cause);
                Ok(())
            }
        }
    }
}
