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
mod poll;
mod seeks;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc as commands;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::batch::{Batch, Fetched};
use crate::health::Health;

use assignment::{Assignment, InFlight};
pub use assignment::{Log, StartError, Starting, Starts, Ticket};
use gather::Gather;
pub use gather::Limits;
use mirror::Mirror;
use poll::Poller;
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
    /// These positions were committed to Kafka.
    Committed(BTreeMap<i32, i64>),
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
            mirror: Mirror::default(),
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
    /// again when Kafka has not taken them. Partitions that went to another worker are that worker's to mirror.
    pub fn mirror(&self, positions: &BTreeMap<i32, i64>, mode: CommitMode) {
        let own = commit(&self.kafka, &self.topic, positions, mode);
        // The thread is gone only when the stage is stopping.
        self.commands.send(Command::Committed(own)).unwrap_or_default();
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

/// Commits those of the positions whose partitions are this worker's; returns them.
fn commit(
    kafka: &BaseConsumer<Assignment>,
    topic: &str,
    positions: &BTreeMap<i32, i64>,
    mode: CommitMode,
) -> BTreeMap<i32, i64> {
    let assigned = kafka.assignment().unwrap_or_default();
    let mut own = positions.clone();
    own.retain(|partition, _| assigned.find_partition(topic, *partition).is_some());
    let mut offsets = TopicPartitionList::new();
    for (&partition, &offset) in &own {
        let added = offsets.add_partition_offset(topic, partition, Offset::Offset(offset));
        added.unwrap_or_else(|error| tracing::warn!(partition, offset, %error, "offset not mirrored"));
    }
    if offsets.count() > 0
        && let Err(error) = kafka.commit(&offsets, mode)
    {
        tracing::debug!(%error, "offsets not mirrored; trying again");
    }
    own
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::*;

    struct FromTheBeginning;

    impl Starts for FromTheBeginning {
        fn starts(&self, logs: BTreeMap<i32, Log>) -> Starting<'_> {
            Box::pin(async move { Ok(logs.into_keys().map(|partition| (partition, 0)).collect()) })
        }

        fn start_time(&self) -> Option<i64> {
            None
        }
    }

    /// Waits until the group has this offset.
    async fn has(consumer: &Consumer, offset: i64) {
        let deadline = Instant::now() + CALL * 3;
        let mut asked = TopicPartitionList::new();
        asked.add_partition("orders", 0);
        loop {
            let found = consumer.kafka.committed_offsets(asked.clone(), CALL);
            let found = found.expect("an answer").elements()[0].offset();
            if found == Offset::Offset(offset) {
                return;
            }
            assert!(Instant::now() < deadline, "{found:?}, not {offset}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_commit_that_kafka_refuses_is_made_again() {
        let kafka = MockCluster::new(1).expect("a mock cluster");
        kafka.create_topic("orders", 1, 1).expect("a topic");
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", kafka.bootstrap_servers())
            .set("group.id", "orders.stg")
            .set("enable.auto.commit", "false")
            .set("partition.assignment.strategy", "cooperative-sticky");
        let stop = CancellationToken::new();
        let source = Source {
            config,
            topic: "orders".to_owned(),
            limits: Limits {
                records: 1,
                bytes: 1,
                wait: Duration::from_millis(10),
            },
            starts: Arc::new(FromTheBeginning),
            health: Arc::new(Health::new("stg")),
            stop: stop.clone(),
        };
        let (consumer, _fetched) = Consumer::start(source).expect("a consumer");
        has(&consumer, 0).await;
        let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_COMMIT_OFFSET_SIZE;
        kafka.request_errors(RDKafkaApiKey::OffsetCommit, &[refusal]);
        consumer.mirror(&BTreeMap::from([(0, 5)]), CommitMode::Async);
        has(&consumer, 5).await;
        stop.cancel();
        consumer.close().await.expect("it leaves in good order");
    }
}
