#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: polls Kafka"
)]
//! The polling thread: gathers records into batches, and does at its pace what the path asks for.

use std::sync::Arc;
use std::sync::mpsc as commands;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::assignment::{Assignment, InFlight, StartError, hint};
use super::copy::record;
use super::gather::Gather;
use super::mirror::Mirror;
use super::seeks::Seeks;
use super::{BEHIND, CALL, Command, ConsumeError, Ticketed, commit};
use crate::health::{Health, Service};

/// The thread.
pub(super) struct Poller {
    pub(super) kafka: Arc<BaseConsumer<Assignment>>,
    pub(super) gather: Gather,
    pub(super) topic: String,
    pub(super) batches: mpsc::Sender<Ticketed>,
    pub(super) commands: commands::Receiver<Command>,
    pub(super) seeks: Seeks,
    pub(super) mirror: Mirror,
    /// When it was last asked whether trouble is over.
    pub(super) looked: Option<Instant>,
    pub(super) runtime: Handle,
    pub(super) in_flight: InFlight,
    pub(super) health: Arc<Health>,
    pub(super) stop: CancellationToken,
}

impl Poller {
    pub(super) fn run(mut self) -> Result<(), ConsumeError> {
        while !self.stop.is_cancelled() {
            self.obey();
            self.poll(self.gather.patience(Instant::now()))?;
            if self.gather.is_due(Instant::now()) {
                self.hand_over()?;
            }
        }
        drop(self.batches);
        self.in_flight.wait();
        Ok(())
    }

    /// Waits for one record; the callbacks of a rebalance run in here.
    fn poll(&mut self, patience: Duration) -> Result<(), ConsumeError> {
        let polled = self.kafka.poll(patience);
        for change in self.kafka.context().changes()? {
            if let Some(offset) = change.start {
                self.gather.start(change.partition, offset);
                self.mirror.commits([(change.partition, offset)], Instant::now());
            } else {
                self.gather.forget(change.partition);
                self.mirror.forget(change.partition);
            }
            self.seeks.forget(change.partition);
        }
        match polled {
            Some(Ok(message)) => self.gather.push(record(&message), Instant::now()),
            Some(Err(error)) => self.trouble(&error)?,
            None => {}
        }
        self.look_after_trouble();
        self.look_after_mirror();
        Ok(())
    }

    /// Kafka reports when trouble begins, not when it ends: that is asked for, whether records come or not. A record
    /// alone says nothing, because it may have been fetched before the trouble.
    fn look_after_trouble(&mut self) {
        let looked = self.looked.is_some_and(|looked| looked.elapsed() < BEHIND);
        if looked || !self.health.is_troubled(Service::Source) {
            return;
        }
        let metadata = self.kafka.fetch_metadata(Some(&self.topic), BEHIND);
        let found = |metadata: &rdkafka::metadata::Metadata| {
            metadata
                .topics()
                .iter()
                .all(|topic| topic.error().is_none() && !topic.partitions().is_empty())
        };
        if metadata.is_ok_and(|metadata| found(&metadata)) {
            self.health.fine(Service::Source);
        }
        self.looked = Some(Instant::now());
    }

    /// Asks Kafka for the offsets that were committed, and commits those again that it has not taken.
    fn look_after_mirror(&mut self) {
        let Some(mut positions) = self.mirror.due(Instant::now()) else {
            return;
        };
        let mut asked = TopicPartitionList::new();
        for &partition in positions.keys() {
            asked.add_partition(&self.topic, partition);
        }
        let found = self.kafka.committed_offsets(asked, BEHIND).unwrap_or_default();
        for element in found.elements() {
            // The path may have committed more just now.
            if let Offset::Offset(offset) = element.offset()
                && positions
                    .get(&element.partition())
                    .is_some_and(|&wanted| offset >= wanted)
            {
                positions.remove(&element.partition());
            }
        }
        let own = commit(&self.kafka, &self.topic, &positions, CommitMode::Async);
        self.mirror.commits(own, Instant::now());
    }

    /// Gives the batch to the path. The path being behind is normal; for long, it is not.
    fn hand_over(&mut self) -> Result<(), ConsumeError> {
        let batch = self.gather.take();
        let batches = self.batches.clone();
        let mut is_paused = false;
        loop {
            let room = async { tokio::time::timeout(BEHIND, batches.reserve()).await };
            match self.runtime.clone().block_on(room) {
                Ok(Ok(permit)) => {
                    permit.send((batch, self.in_flight.ticket()));
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
            // Those of now: the group may have given out others meanwhile.
            let resumed = self
                .kafka
                .assignment()
                .and_then(|assigned| self.kafka.resume(&self.without_seeks(&assigned)));
            resumed.unwrap_or_else(
                |error| tracing::warn!(%error, "partitions not resumed; a rebalance will do it"),
            );
        }
        Ok(())
    }

    /// The partitions that are to be read now.
    fn without_seeks(&self, assigned: &TopicPartitionList) -> TopicPartitionList {
        let mut read = TopicPartitionList::new();
        for element in assigned.elements() {
            if !self.seeks.holds(element.partition()) {
                read.add_partition(element.topic(), element.partition());
            }
        }
        read
    }

    /// What the path asks for, and the seeks that are due; a partition that waits for its time is not read.
    fn obey(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Seek {
                    partition,
                    offset,
                    at,
                } => self.put_off(partition, offset, at),
                Command::Committed(positions) => self.mirror.commits(positions, Instant::now()),
            }
        }
        for (partition, offset) in self.seeks.due(Instant::now()) {
            self.seek(partition, offset);
        }
    }

    /// Reads a partition no further, and again from the offset when its time has come.
    fn put_off(&mut self, partition: i32, offset: i64, at: Instant) {
        self.gather.forget(partition);
        self.seeks.ask(partition, offset, at);
        let paused = self.kafka.pause(&self.partition(partition));
        paused.unwrap_or_else(
            |error| tracing::debug!(partition, %error, "not paused; what comes of it is ignored"),
        );
    }

    /// Seeks, unless the partition went to another worker. A seek that fails is tried again: without it, the
    /// partition would never be read.
    fn seek(&mut self, partition: i32, offset: i64) {
        let assigned = self.kafka.assignment();
        if assigned.is_ok_and(|all| all.find_partition(&self.topic, partition).is_none()) {
            return self.seeks.forget(partition);
        }
        // Resumed first: what still comes of the place before is ignored until the partition starts.
        let sought = self.kafka.resume(&self.partition(partition)).and_then(|()| {
            self.kafka
                .seek(&self.topic, partition, Offset::Offset(offset), CALL)
        });
        match sought {
            Ok(()) => {
                self.seeks.forget(partition);
                self.gather.start(partition, offset);
            }
            Err(error) => {
                tracing::warn!(partition, offset, %error, "cannot seek; trying again");
                self.seeks.postpone(partition, Instant::now());
            }
        }
    }

    /// One partition, as a list.
    fn partition(&self, partition: i32) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.topic, partition);
        list
    }

    fn trouble(&self, error: &KafkaError) -> Result<(), ConsumeError> {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                Err(StartError::out_of_range(&self.topic, &error.to_string()).into())
            }
            Some(RDKafkaErrorCode::Fatal) => Err(ConsumeError::Fatal(error.to_string())),
            _ => {
                let trouble = format!("{}: {error}{}", self.topic, hint(error));
                self.health.trouble(Service::Source, &trouble);
                Ok(())
            }
        }
    }
}
