#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: consumes the source topic from Kafka"
)]
//! Consumes the source topic: the first step of a batch.
//!
//! A dedicated thread builds batches of the records that `fetch` requests from the brokers, and polls librdkafka, which
//! maintains the group membership. Each of the lanes has some of the partitions, and builds batches of its own. Partitions
//! start at the position stored in PostgreSQL; offsets are committed to Kafka only after the PostgreSQL commit.
//! Backpressure: a busy pipeline stops the reading, and with it the requests. The polling continues, so that a database or
//! Redis outage causes no rebalance.

mod batch_builder;
mod error;
mod fetch;
mod in_flight;
mod lanes;
mod log_confirmation;
mod offset_commit;
mod pending_commits;
mod pending_seeks;
mod poll;
mod rebalance;
mod settings;
mod source_check;
mod source_topic;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc as commands;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::Span;

use crate::health::Health;
use in_flight::InFlight;
use poll::{Command, Poller};
use rebalance::RebalanceHandler;
use source_topic::SourceTopic;

pub use batch_builder::BatchLimits;
pub use error::{ConsumeError, StartError};
pub use in_flight::{InFlightGuard, TrackedBatch};
pub use log_confirmation::LogConfirmation;
pub use settings::{ConsumerSettings, PartitionOffsets, StartFuture, StartOffsets};

/// Time that the consumer has to commit its last positions and to leave the group.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(8);

/// Handle of a stage's polling thread.
pub struct Consumer {
    kafka: Arc<BaseConsumer<RebalanceHandler>>,
    topic: Arc<SourceTopic>,
    start_offsets: Arc<dyn StartOffsets>,
    health: Arc<Health>,
    stop: CancellationToken,
    commands: commands::Sender<Command>,
    thread: std::thread::JoinHandle<Result<(), ConsumeError>>,
}

impl Consumer {
    /// Joins the group and starts the polling thread in the current tracing span. Each lane has a receiver, which gets its
    /// batches; one batch waits in the channel while the lane is busy.
    ///
    /// # Errors
    /// If the client rejects its settings.
    pub fn start(
        settings: ConsumerSettings,
    ) -> Result<(Self, Vec<mpsc::Receiver<TrackedBatch>>), ConsumeError> {
        let setup = |error| ConsumeError::Setup {
            topic: settings.topic.clone(),
            source: error,
        };
        let in_flight = InFlight::default();
        let topic = Arc::new(SourceTopic::new(&settings.topic));
        let context = RebalanceHandler::new(
            &settings,
            Arc::clone(&topic),
            Handle::current(),
            in_flight.clone(),
        );
        let kafka: BaseConsumer<RebalanceHandler> =
            settings.config.create_with_context(context).map_err(setup)?;
        kafka.subscribe(&[&settings.topic]).map_err(setup)?;
        let kafka = Arc::new(kafka);
        let (start_offsets, health) = (Arc::clone(&settings.start_offsets), Arc::clone(&settings.health));
        let stop = settings.stop.clone();
        let (batches, fetched) = (0..settings.lanes).map(|_| mpsc::channel(1)).unzip();
        let (commands, received) = commands::channel();
        let name = format!("poll {}", topic.name);
        let poller = Poller::new(
            Arc::clone(&kafka),
            settings,
            Arc::clone(&topic),
            batches,
            received,
            in_flight,
        );
        let span = Span::current();
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || span.in_scope(|| poller.run()))
            .map_err(|error| ConsumeError::Fatal(error.to_string()))?;
        Ok((
            Self {
                kafka,
                topic,
                start_offsets,
                health,
                stop,
                commands,
                thread,
            },
            fetched,
        ))
    }

    /// Commits positions that PostgreSQL has committed to Kafka, for monitoring. The polling thread verifies the
    /// commit and repeats it if it was lost. Partitions that another worker owns now are left to that worker.
    pub fn commit_offsets(&self, positions: &BTreeMap<i32, i64>) {
        let owned =
            offset_commit::commit_assigned(&self.kafka, &self.topic.name, positions, CommitMode::Async);
        // The receiver is gone only during a shutdown.
        self.commands.send(Command::Committed(owned)).unwrap_or_default();
    }

    /// Confirms that batches are from the log that the positions belong to.
    #[must_use]
    pub fn log_confirmation(&self) -> LogConfirmation {
        LogConfirmation {
            kafka: Arc::clone(&self.kafka),
            topic: Arc::clone(&self.topic),
            start_offsets: Arc::clone(&self.start_offsets),
            health: Arc::clone(&self.health),
            stop: self.stop.clone(),
        }
    }

    /// Reads partitions again from an offset, after a delay.
    pub fn seek(&self, seeks: &BTreeMap<i32, i64>, delay: Duration) {
        let at = Instant::now() + delay;
        for (&partition, &offset) in seeks {
            // The receiver is gone only during a shutdown.
            self.commands
                .send(Command::Seek {
                    partition,
                    offset,
                    at,
                })
                .unwrap_or_default();
        }
    }

    /// Commits the last positions, leaves the group and waits for the polling thread; without an answer of Kafka, for
    /// at most 8 s.
    ///
    /// # Errors
    /// The terminal error that ended the thread, if it was not a shutdown.
    pub async fn close(self, positions: BTreeMap<i32, i64>) -> Result<(), ConsumeError> {
        // The last owner of the client answers the group until it has left it, and blocks meanwhile. That must not be
        // a thread of the runtime.
        let closed = tokio::task::spawn_blocking(move || {
            offset_commit::commit_assigned(&self.kafka, &self.topic.name, &positions, CommitMode::Sync);
            drop(self.kafka);
            self.thread.join()
        });
        let Ok(joined) = tokio::time::timeout(CLOSE_TIMEOUT, closed).await else {
            tracing::warn!("no answer from Kafka, leaving the group without it");
            return Ok(());
        };
        joined
            .map_err(|_| ConsumeError::ThreadPanicked)?
            .map_err(|_| ConsumeError::ThreadPanicked)?
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{FutureProducer, FutureRecord};
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
    use rdkafka::{ClientConfig, Offset, TopicPartitionList};
    use uuid::Uuid;

    use super::settings::REQUEST_TIMEOUT;
    use super::*;
    use crate::position::Stop;

    struct StartAtZero;

    impl StartOffsets for StartAtZero {
        fn decides_all_partitions(&self) -> StartFuture<'_, bool> {
            Box::pin(async { Ok(false) })
        }

        fn start_offsets(
            &self,
            _: Uuid,
            partitions: BTreeMap<i32, PartitionOffsets>,
        ) -> StartFuture<'_, BTreeMap<i32, i64>> {
            Box::pin(async move { Ok(partitions.into_keys().map(|partition| (partition, 0)).collect()) })
        }

        fn store_stop(&self, _: Stop) -> StartFuture<'_, ()> {
            Box::pin(async { Ok(()) })
        }

        fn start_time(&self) -> Option<i64> {
            None
        }
    }

    /// Waits until the group has committed this offset.
    async fn wait_committed(consumer: &Consumer, offset: i64) {
        let deadline = Instant::now() + REQUEST_TIMEOUT * 3;
        let mut partition = TopicPartitionList::new();
        partition.add_partition("orders", 0);
        loop {
            let committed = consumer
                .kafka
                .committed_offsets(partition.clone(), REQUEST_TIMEOUT);
            let committed = committed.expect("an answer").elements()[0].offset();
            if committed == Offset::Offset(offset) {
                return;
            }
            assert!(Instant::now() < deadline, "{committed:?}, not {offset}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Settings of a consumer whose batches have one record.
    fn settings(bootstrap_servers: &str, health: &Arc<Health>, stop: &CancellationToken) -> ConsumerSettings {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", bootstrap_servers)
            .set("group.id", "orders.stg")
            .set("enable.auto.commit", "false")
            .set("partition.assignment.strategy", "cooperative-sticky");
        ConsumerSettings {
            config,
            topic: "orders".to_owned(),
            limits: BatchLimits {
                max_records: 1,
                max_bytes: 1,
                max_wait: Duration::from_millis(10),
            },
            max_record_bytes: 1 << 20,
            lanes: 1,
            start_offsets: Arc::new(StartAtZero),
            health: Arc::clone(health),
            stop: stop.clone(),
        }
    }

    /// Produces one record to a partition.
    async fn produce(bootstrap_servers: &str, partition: i32) {
        let producer: FutureProducer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap_servers)
            .create()
            .expect("a producer");
        let record = FutureRecord::<(), str>::to("orders")
            .partition(partition)
            .payload("{}");
        producer
            .send(record, REQUEST_TIMEOUT)
            .await
            .expect("an acknowledgement");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_partition_without_a_leader_does_not_delay_the_others() {
        let kafka = MockCluster::new(1).expect("a mock cluster");
        kafka.create_topic("orders", 2, 1).expect("a topic");
        let servers = kafka.bootstrap_servers();
        for partition in [0, 1] {
            produce(&servers, partition).await;
        }
        kafka.partition_leader("orders", 1, None).expect("no leader");
        let (health, stop) = (Arc::new(Health::new("stg")), CancellationToken::new());
        let settings = settings(&servers, &health, &stop);
        let (consumer, mut fetched) = Consumer::start(settings).expect("a consumer");
        let mut partitions = Vec::new();
        for leader in [None, Some(1)] {
            let received = tokio::time::timeout(REQUEST_TIMEOUT * 3, fetched[0].recv()).await;
            let batch = received.expect("no batch").expect("a batch");
            partitions.extend(batch.batch.ranges.into_keys());
            if leader.is_none() {
                let unavailable = health.snapshot().unavailable;
                let cause = &unavailable[&crate::health::Dependency::Source];
                assert!(cause.contains("no leader for the partitions {1}"), "{cause}");
                kafka.partition_leader("orders", 1, Some(1)).expect("a leader");
            }
        }
        assert_eq!(partitions, [0, 1]);
        stop.cancel();
        consumer.close(BTreeMap::new()).await.expect("a clean shutdown");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_commit_that_kafka_rejects_is_repeated() {
        let kafka = MockCluster::new(1).expect("a mock cluster");
        kafka.create_topic("orders", 1, 1).expect("a topic");
        let (health, stop) = (Arc::new(Health::new("stg")), CancellationToken::new());
        let settings = settings(&kafka.bootstrap_servers(), &health, &stop);
        let (consumer, _fetched) = Consumer::start(settings).expect("a consumer");
        wait_committed(&consumer, 0).await;
        let error = RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_COMMIT_OFFSET_SIZE;
        kafka.request_errors(RDKafkaApiKey::OffsetCommit, &[error]);
        consumer.commit_offsets(&BTreeMap::from([(0, 5)]));
        wait_committed(&consumer, 5).await;
        stop.cancel();
        consumer.close(BTreeMap::new()).await.expect("a clean shutdown");
    }
}
