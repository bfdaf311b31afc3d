#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: polls Kafka"
)]
//! The polling thread: polls Kafka, builds batches of the fetched records, and executes the commands of the pipeline.

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

use super::error::{ConsumeError, StartError, remedy};
use super::fetch::{Fetched, Fetcher};
use super::in_flight::{InFlight, TrackedBatch};
use super::lanes::Lanes;
use super::offset_commit::commit_assigned;
use super::pending_commits::PendingCommits;
use super::pending_seeks::PendingSeeks;
use super::rebalance::RebalanceHandler;
use super::settings::{ConsumerSettings, StartOffsets};
use super::source_check::SourceCheck;
use super::source_topic::{SourceTopic, store_stop};
use crate::health::{Dependency, Health};

/// Interval between two polls of the client, whose callbacks handle rebalances.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Events that are handled in one poll; each call of the client handles one.
const EVENTS_PER_POLL: usize = 16;
/// Timeout of a request that the thread makes between two polls.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum time of a shutdown for the offsets after the last records.
const TAIL_TIMEOUT: Duration = Duration::from_secs(1);

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
    fetcher: Fetcher,
    last_poll: Instant,
    lanes: Lanes,
    topic: Arc<SourceTopic>,
    start_offsets: Arc<dyn StartOffsets>,
    /// Channel of each lane.
    batches: Vec<mpsc::Sender<TrackedBatch>>,
    commands: commands::Receiver<Command>,
    pending_seeks: PendingSeeks,
    pending_commits: PendingCommits,
    source_check: SourceCheck,
    runtime: Handle,
    in_flight: InFlight,
    health: Arc<Health>,
    step: StepGuard,
    stop: CancellationToken,
}

impl Poller {
    /// Creates the state of a thread that sends the batches of each lane to one of `batches`. Call it inside of a runtime.
    pub(super) fn new(
        kafka: Arc<BaseConsumer<RebalanceHandler>>,
        settings: ConsumerSettings,
        topic: Arc<SourceTopic>,
        batches: Vec<mpsc::Sender<TrackedBatch>>,
        commands: commands::Receiver<Command>,
        in_flight: InFlight,
    ) -> Self {
        let source_check = SourceCheck::new(Arc::clone(&topic), Arc::clone(&settings.health));
        let runtime = Handle::current();
        let health = Arc::clone(&settings.health);
        let fetcher = Fetcher::start(
            &settings.config,
            &topic.name,
            settings.max_record_bytes,
            health,
            &runtime,
        );
        Self {
            kafka,
            fetcher,
            last_poll: Instant::now(),
            lanes: Lanes::new(settings.limits, batches.len()),
            topic,
            start_offsets: settings.start_offsets,
            batches,
            commands,
            pending_seeks: PendingSeeks::default(),
            pending_commits: PendingCommits::default(),
            source_check,
            runtime,
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
            if self.last_poll.elapsed() >= POLL_INTERVAL {
                self.poll()?;
            }
            // The state of the pipeline matters only once all fetched records are taken.
            let has_more = self.take_fetched(Duration::ZERO)? || self.take_fetched(self.poll_timeout())?;
            let now = Instant::now();
            for lane in 0..self.lanes.count() {
                if self.is_complete(lane, has_more, now) {
                    self.send_batch(lane)?;
                }
            }
        }
        Ok(())
    }

    /// Time for which the thread may wait for a record.
    fn poll_timeout(&self) -> Duration {
        let now = Instant::now();
        let lanes = 0..self.lanes.count();
        let timeouts = lanes.map(|lane| {
            self.lanes
                .batch(lane)
                .poll_timeout(now, self.in_flight.ready_at(lane))
        });
        timeouts.fold(POLL_INTERVAL, Duration::min)
    }

    /// Returns true if the batch of a lane is due, or if the pipeline waits for it and no record is at hand.
    fn is_complete(&self, lane: usize, has_more: bool, now: Instant) -> bool {
        let batch = self.lanes.batch(lane);
        batch.is_due(now) || !has_more && batch.is_awaited(now, self.in_flight.ready_at(lane))
    }

    /// Polls the client; rebalance callbacks run inside of this call. It delivers no records, because its partitions are
    /// paused.
    fn poll(&mut self) -> Result<(), ConsumeError> {
        self.step.renew();
        self.last_poll = Instant::now();
        for _ in 0..EVENTS_PER_POLL {
            if let Some(Err(error)) = self.kafka.poll(Duration::ZERO) {
                self.handle_error(&error)?;
            }
        }
        for change in self.kafka.context().take_changes()? {
            if let Some((topic_id, offset)) = change.start {
                self.lanes.set_topic_id(topic_id);
                self.read_from(change.partition, offset);
                self.pending_commits
                    .add([(change.partition, offset)], Instant::now());
            } else {
                self.lanes.remove(change.partition);
                self.fetcher.stop(change.partition);
                self.pending_commits.remove(change.partition);
            }
            self.pending_seeks.remove(change.partition);
        }
        if self
            .source_check
            .probe_recovery(&self.kafka, self.fetcher.is_healthy())
        {
            self.kafka.context().retry_leaderless(&self.kafka);
        }
        self.recommit_missing_offsets();
        if !self.lanes.reads_nothing() {
            self.source_check.check_topic_id(&self.kafka)?;
        }
        Ok(())
    }

    /// Adds the next fetched record to the batch; waits for at most `timeout`. Returns false without a record.
    fn take_fetched(&mut self, timeout: Duration) -> Result<bool, ConsumeError> {
        match self.fetcher.next(timeout) {
            Some(Fetched::Record(mut record)) => {
                record.topic_id = self.lanes.topic_id();
                self.lanes.push(record, Instant::now());
            }
            Some(Fetched::SkipTo { partition, offset }) => {
                self.lanes.skip_to(partition, offset, Instant::now());
            }
            Some(Fetched::OutOfRange { partition, offset }) => {
                let cause = format!("the broker rejects the offset {offset} of partition {partition}");
                return Err(self.find_lost_position(&cause));
            }
            None => return Ok(false),
        }
        Ok(true)
    }

    fn read_from(&mut self, partition: i32, offset: i64) {
        self.lanes.restart_at(partition, offset);
        self.fetcher.read_from(partition, offset);
    }

    /// Advances the positions over markers, aborted records and gaps after the last records before a shutdown. Records of
    /// the open batch are read again after the restart.
    fn finish_tails(&mut self) -> Result<(), ConsumeError> {
        let deadline = Instant::now() + TAIL_TIMEOUT;
        self.lanes.drop_records();
        while self.has_unread_tail() && Instant::now() < deadline {
            self.take_fetched(POLL_INTERVAL)?;
            self.lanes.drop_records();
        }
        (0..self.lanes.count())
            .filter(|lane| !self.lanes.batch(*lane).is_empty())
            .collect::<Vec<_>>()
            .into_iter()
            .try_for_each(|lane| self.send_batch(lane))
    }

    /// Returns true if a partition without a record in the open batch may have offsets that are not records.
    fn has_unread_tail(&self) -> bool {
        let mut partitions = self.lanes.next_offsets().into_keys();
        self.fetcher.is_healthy() && partitions.any(|partition| !self.fetcher.is_caught_up(partition))
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

    /// Sends the batch of a lane to the pipeline. While that lane is busy, polling continues, so that the worker remains a
    /// member of the group; no fetched record is read, so that the fetcher stops, too.
    fn send_batch(&mut self, lane: usize) -> Result<(), ConsumeError> {
        let batch = self.lanes.take_batch(lane);
        let batches = self.batches[lane].clone();
        loop {
            let reserve = async { tokio::time::timeout(POLL_INTERVAL, batches.reserve()).await };
            match self.runtime.clone().block_on(reserve) {
                Ok(Ok(permit)) => {
                    permit.send(TrackedBatch::new(batch, self.in_flight.guard(lane)));
                    return Ok(());
                }
                Ok(Err(_)) => return Ok(()),
                Err(_) if self.stop.is_cancelled() => return Ok(()),
                Err(_) => self.poll()?,
            }
        }
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

    /// Reads nothing of a partition until its seek.
    fn schedule_seek(&mut self, partition: i32, offset: i64, at: Instant) {
        self.lanes.pause(partition);
        self.fetcher.stop(partition);
        self.pending_seeks.schedule(partition, offset, at);
    }

    /// Seeks, unless the partition was revoked.
    fn seek(&mut self, partition: i32, offset: i64) {
        self.pending_seeks.remove(partition);
        let assigned = self.kafka.assignment();
        let is_revoked = assigned.is_ok_and(|all| all.find_partition(&self.topic.name, partition).is_none());
        if !is_revoked {
            self.read_from(partition, offset);
        }
    }

    /// Returns a terminal error, and reports any other error as an outage of the source.
    fn handle_error(&self, error: &KafkaError) -> Result<(), ConsumeError> {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            return Err(ConsumeError::Fatal(error.to_string()));
        }
        let cause = format!("{}: {error}{}", self.topic.name, remedy(error));
        self.health.mark_unavailable(Dependency::Source, &cause);
        Ok(())
    }

    /// Finds the cause of an offset that the broker rejects.
    fn find_lost_position(&self, cause: &str) -> ConsumeError {
        let next_offsets = self.lanes.next_offsets();
        self.source_check
            .find_lost_position(&self.kafka, &next_offsets, cause)
            .into()
    }
}
