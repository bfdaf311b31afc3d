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
use rdkafka::{Offset, TopicPartitionList};
use telemetry::progress::StepGuard;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::batch_builder::BatchBuilder;
use super::empty_tails::EmptyTails;
use super::error::{ConsumeError, StartError, remedy};
use super::in_flight::{InFlight, TrackedBatch};
use super::message::copy_record;
use super::offset_commit::commit_assigned;
use super::pending_commits::PendingCommits;
use super::pending_seeks::PendingSeeks;
use super::rebalance::RebalanceHandler;
use super::settings::{ConsumerSettings, REQUEST_TIMEOUT, StartOffsets};
use super::source_check::SourceCheck;
use super::source_topic::{SourceTopic, store_stop};
use crate::health::{Dependency, Health};

/// Time that the pipeline may be busy before the partitions are paused and polling continues.
const BACKPRESSURE_TIMEOUT: Duration = Duration::from_secs(1);
/// Timeout of a request that the thread makes between two polls.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum time of a shutdown for the empty tails.
const TAIL_TIMEOUT: Duration = Duration::from_secs(3);

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
    topic: Arc<SourceTopic>,
    start_offsets: Arc<dyn StartOffsets>,
    batches: mpsc::Sender<TrackedBatch>,
    commands: commands::Receiver<Command>,
    pending_seeks: PendingSeeks,
    pending_commits: PendingCommits,
    empty_tails: EmptyTails,
    source_check: SourceCheck,
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
        topic: Arc<SourceTopic>,
        batches: mpsc::Sender<TrackedBatch>,
        commands: commands::Receiver<Command>,
        in_flight: InFlight,
    ) -> Self {
        let source_check = SourceCheck::new(Arc::clone(&topic), Arc::clone(&settings.health));
        Self {
            kafka,
            builder: BatchBuilder::new(settings.limits),
            topic,
            start_offsets: settings.start_offsets,
            batches,
            commands,
            pending_seeks: PendingSeeks::default(),
            pending_commits: PendingCommits::default(),
            empty_tails: EmptyTails::default(),
            source_check,
            runtime: Handle::current(),
            in_flight,
            step: settings.health.begin_step("poll", "poll Kafka"),
            health: settings.health,
            stop: settings.stop,
        }
    }

    /// Polls until a shutdown or a terminal error, then waits for the in-flight batches.
    pub(super) fn run(mut self) -> Result<(), ConsumeError> {
        let polled = self.poll_until_shutdown().and_then(|()| self.finish_tails());
        if let Err(ConsumeError::Start(StartError::Stopped(stop))) = &polled {
            let stored = store_stop(&*self.start_offsets, &self.health, &self.stop, stop);
            self.runtime.block_on(stored);
        }
        drop(self.batches);
        self.in_flight.wait_until_empty();
        polled
    }

    fn poll_until_shutdown(&mut self) -> Result<(), ConsumeError> {
        while !self.stop.is_cancelled() {
            self.process_commands();
            self.poll(self.builder.poll_timeout(Instant::now()))?;
            if self.builder.is_due(Instant::now()) {
                self.send_batch()?;
            }
        }
        Ok(())
    }

    /// Polls for one record; rebalance callbacks run inside of this call.
    fn poll(&mut self, timeout: Duration) -> Result<(), ConsumeError> {
        self.step.renew();
        let polled = self.kafka.poll(timeout);
        for change in self.kafka.context().take_changes()? {
            if let Some((topic_id, offset)) = change.start {
                self.builder.set_topic_id(topic_id);
                self.builder.restart_at(change.partition, offset);
                self.empty_tails.mark_unverified(change.partition);
                self.pending_commits
                    .add([(change.partition, offset)], Instant::now());
            } else {
                self.builder.remove(change.partition);
                self.empty_tails.remove(change.partition);
                self.pending_commits.remove(change.partition);
            }
            self.pending_seeks.remove(change.partition);
        }
        match polled {
            Some(Ok(message)) => {
                let record = copy_record(&message, self.builder.topic_id());
                self.empty_tails.mark_unverified(record.partition);
                self.builder.push(record, Instant::now());
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                self.empty_tails
                    .reach_end(partition, &mut self.builder, Instant::now());
            }
            Some(Err(error)) => self.handle_error(&error)?,
            None => {}
        }
        if self.source_check.probe_recovery(&self.kafka) {
            self.kafka.context().retry_leaderless(&self.kafka);
        }
        self.recommit_missing_offsets();
        self.empty_tails
            .check_idle(&self.kafka, &self.topic.name, &self.builder, Instant::now());
        if !self.builder.next_offsets().is_empty() {
            self.source_check.check_topic_id(&self.kafka)?;
        }
        Ok(())
    }

    /// Advances the positions over empty tails before a shutdown. Records of the open batch are read again after the
    /// restart.
    fn finish_tails(&mut self) -> Result<(), ConsumeError> {
        let deadline = Instant::now() + TAIL_TIMEOUT;
        let remaining = || deadline.saturating_duration_since(Instant::now());
        self.builder.drop_records();
        self.empty_tails
            .check_all(&self.kafka, &self.topic.name, &self.builder, remaining);
        while self.empty_tails.is_rereading() && !remaining().is_zero() {
            self.poll(remaining().min(Duration::from_millis(20)))?;
        }
        self.builder.drop_records();
        if self.builder.is_empty() {
            Ok(())
        } else {
            self.send_batch()
        }
    }

    /// Reads the committed offsets that are due for verification, and commits the missing ones again.
    fn recommit_missing_offsets(&mut self) {
        let Some(mut positions) = self.pending_commits.take_due(Instant::now()) else {
            return;
        };
        let mut partitions = TopicPartitionList::new();
        for &partition in positions.keys() {
            partitions.add_partition(&self.topic.name, partition);
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
        let owned = commit_assigned(&self.kafka, &self.topic.name, &positions, CommitMode::Async);
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
        self.empty_tails.remove(partition);
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
        if assigned.is_ok_and(|all| all.find_partition(&self.topic.name, partition).is_none()) {
            return self.pending_seeks.remove(partition);
        }
        // Resumed first: the batch builder ignores records from before the seek.
        let result = self
            .kafka
            .resume(&self.single_partition(partition))
            .and_then(|()| {
                self.kafka.seek(
                    &self.topic.name,
                    partition,
                    Offset::Offset(offset),
                    REQUEST_TIMEOUT,
                )
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
        list.add_partition(&self.topic.name, partition);
        list
    }

    /// Returns a terminal error, and reports any other error as an outage of the source.
    fn handle_error(&self, error: &KafkaError) -> Result<(), ConsumeError> {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => Err(self
                .source_check
                .find_lost_position(&self.kafka, self.builder.next_offsets(), error)
                .into()),
            Some(RDKafkaErrorCode::Fatal) => Err(ConsumeError::Fatal(error.to_string())),
            _ => {
                let cause = format!("{}: {error}{}", self.topic.name, remedy(error));
                self.health.mark_unavailable(Dependency::Source, &cause);
                Ok(())
            }
        }
    }
}
