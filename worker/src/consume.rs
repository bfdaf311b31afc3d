#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: reads the source topic from Kafka"
)]
//! Reads the source topic: a thread of its own polls, gathers batches, and keeps the membership of the group.
//!
//! It never commits before PostgreSQL has, and it starts every partition from PostgreSQL's position. While the
//! path is behind it stops polling, and when that lasts it pauses its partitions and polls on, so that a broken
//! database or dictionary costs no rebalance. First step of a batch.

mod assignment;
mod copy;
mod gather;
mod mirror;
mod seeks;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc as commands;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::batch::{Batch, Fetched};
use crate::health::{Health, Service};

use assignment::{Assignment, InFlight, hint};
pub use assignment::{Log, StartError, Starting, Starts, Ticket};
use copy::record;
use gather::Gather;
pub use gather::Limits;
use seeks::Seeks;

/// How long the path may stay behind before the partitions are paused and polling goes on.
const BEHIND: Duration = Duration::from_secs(1);
/// How long a call to the brokers may take.
const CALL: Duration = Duration::from_secs(10);

/// Why reading ended for good.
#[derive(Debug, thiserror::Error)]
pub enum ConsumeError {
    /// The client cannot be set up.
    #[error("cannot read topic {topic}: {source}; check spec.source and the keys of its secret")]
    Setup {
        /// The source topic.
        topic: String,
        /// What the client says.
        source: KafkaError,
    },
    /// A position cannot be read from, or cannot be found.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The client can do nothing more.
    #[error("Kafka's client gave up: {0}; the worker has to be started again")]
    Fatal(String),
    /// The polling thread is gone.
    #[error("the polling thread ended unexpectedly; its log lines say why")]
    Lost,
}

/// A batch with its ticket: the group's next rebalance waits until the ticket is dropped.
pub type Ticketed = (Batch<Fetched>, Ticket);

/// What reading needs to know.
pub struct Source {
    /// Client settings: servers, credentials, group.
    pub config: ClientConfig,
    /// The source topic.
    pub topic: String,
    /// When a batch closes.
    pub limits: Limits,
    /// Where partitions start, by PostgreSQL.
    pub starts: Arc<dyn Starts>,
    /// Where to report trouble.
    pub health: Arc<Health>,
    /// Ends the reading.
    pub stop: CancellationToken,
}

enum Command {
    /// Read the partition again from the offset, at that time.
    Seek {
        partition: i32,
        offset: i64,
        at: Instant,
    },
}

/// The reading side of a stage.
pub struct Consumer {
    kafka: Arc<BaseConsumer<Assignment>>,
    topic: String,
    commands: commands::Sender<Command>,
    thread: std::thread::JoinHandle<Result<(), ConsumeError>>,
}

impl Consumer {
    /// Joins the group and begins to read. Batches arrive at the receiver, one ahead of the path.
    ///
    /// # Errors
    /// When the client cannot be set up.
    pub fn start(source: Source) -> Result<(Self, mpsc::Receiver<Ticketed>), ConsumeError> {
        let setup = |error| ConsumeError::Setup {
            topic: source.topic.clone(),
            source: error,
        };
        let in_flight = InFlight::default();
        let context = Assignment::new(&source, Handle::current(), in_flight.clone());
        let kafka: BaseConsumer<Assignment> = source.config.create_with_context(context).map_err(setup)?;
        kafka.subscribe(&[&source.topic]).map_err(setup)?;
        let kafka = Arc::new(kafka);
        let (batches, fetched) = mpsc::channel(1);
        let (commands, obey) = commands::channel();
        let poller = Poller {
            kafka: Arc::clone(&kafka),
            gather: Gather::new(source.limits),
            topic: source.topic.clone(),
            batches,
            commands: obey,
            seeks: Seeks::default(),
            looked: None,
            runtime: Handle::current(),
            in_flight,
            health: source.health,
            stop: source.stop,
        };
        let thread = std::thread::Builder::new()
            .name(format!("poll {}", source.topic))
            .spawn(move || poller.run())
            .map_err(|error| ConsumeError::Fatal(error.to_string()))?;
        Ok((
            Self {
                kafka,
                topic: source.topic,
                commands,
                thread,
            },
            fetched,
        ))
    }

    /// Mirrors positions that PostgreSQL has committed to Kafka, for whoever reads the lag; the polling thread does it
    /// again until Kafka has taken them. Partitions that went to another worker are that worker's to mirror.
    pub fn mirror(&self, positions: &BTreeMap<i32, i64>, mode: CommitMode) {
        commit(&self.kafka, &self.topic, positions, mode);
    }

    /// Reads partitions again from an offset, after a pause.
    pub fn seek(&self, seeks: &BTreeMap<i32, i64>, pause: Duration) {
        let at = Instant::now() + pause;
        for (&partition, &offset) in seeks {
            // The thread is gone only when the stage is stopping.
            self.commands
                .send(Command::Seek {
                    partition,
                    offset,
                    at,
                })
                .unwrap_or_default();
        }
    }

    /// Leaves the group, and returns why reading ended.
    ///
    /// # Errors
    /// What made the thread end, if not a stop.
    pub async fn close(self) -> Result<(), ConsumeError> {
        // Whoever lets the client go last answers the group until it has left, and blocks: never the runtime's thread.
        let left = tokio::task::spawn_blocking(move || {
            drop(self.kafka);
            self.thread.join()
        });
        left.await
            .map_err(|_| ConsumeError::Lost)?
            .map_err(|_| ConsumeError::Lost)?
    }
}

/// Commits positions as the group's offsets, of the partitions that are this worker's.
fn commit(kafka: &BaseConsumer<Assignment>, topic: &str, positions: &BTreeMap<i32, i64>, mode: CommitMode) {
    let assigned = kafka.assignment().unwrap_or_default();
    let own = positions
        .iter()
        .filter(|(partition, _)| assigned.find_partition(topic, **partition).is_some());
    let own: BTreeMap<i32, i64> = own.map(|(&partition, &offset)| (partition, offset)).collect();
    let mut offsets = TopicPartitionList::new();
    for (&partition, &offset) in &own {
        let added = offsets.add_partition_offset(topic, partition, Offset::Offset(offset));
        added.unwrap_or_else(|error| tracing::warn!(partition, offset, %error, "offset not mirrored"));
    }
    if offsets.count() == 0 {
        return;
    }
    kafka.context().mirrors(&own);
    if let Err(error) = kafka.commit(&offsets, mode) {
        tracing::debug!(%error, "offsets not mirrored; trying again");
    }
}

/// The polling thread.
struct Poller {
    kafka: Arc<BaseConsumer<Assignment>>,
    gather: Gather,
    topic: String,
    batches: mpsc::Sender<Ticketed>,
    commands: commands::Receiver<Command>,
    seeks: Seeks,
    /// When it was last asked whether trouble is over.
    looked: Option<Instant>,
    runtime: Handle,
    in_flight: InFlight,
    health: Arc<Health>,
    stop: CancellationToken,
}

impl Poller {
    fn run(mut self) -> Result<(), ConsumeError> {
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
            match change.start {
                Some(offset) => self.gather.start(change.partition, offset),
                None => self.gather.forget(change.partition),
            }
            self.seeks.forget(change.partition);
        }
        match polled {
            Some(Ok(message)) => self.gather.push(record(&message), Instant::now()),
            Some(Err(error)) => self.trouble(&error)?,
            None => {}
        }
        self.look_after_trouble();
        if let Some(positions) = self.kafka.context().unmirrored() {
            commit(&self.kafka, &self.topic, &positions, CommitMode::Async);
        }
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

    /// Seeks that are due; a partition that waits for its time is not read.
    fn obey(&mut self) {
        for Command::Seek {
            partition,
            offset,
            at,
        } in self.commands.try_iter()
        {
            self.gather.forget(partition);
            self.seeks.ask(partition, offset, at);
            let paused = self.kafka.pause(&self.partition(partition));
            paused.unwrap_or_else(
                |error| tracing::debug!(partition, %error, "not paused; what comes of it is ignored"),
            );
        }
        for (partition, offset) in self.seeks.due(Instant::now()) {
            self.seek(partition, offset);
        }
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
