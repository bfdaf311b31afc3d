#![expect(clippy::disallowed_types, reason = "edge: writes outputs to Kafka")]
//! Publishes the outputs of a batch, and waits until every message is acknowledged.
//!
//! Runs after the effects are written and before they are committed, so every committed effect has been published. If
//! the commit fails, the retry publishes only what the brokers have not acknowledged yet. Dead letters are not part of
//! this: [`crate::copy_task`] produces their copies after the commit.

mod deliveries;
pub mod error;
pub mod limit;
pub mod record_producer;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::KafkaError;
use rdkafka::message::{Header as KafkaHeader, OwnedHeaders};
use rdkafka::producer::future_producer::DeliveryFuture;
use rdkafka::producer::{FutureProducer, FutureRecord};

use deliveries::Deliveries;
use limit::RECORD_OVERHEAD_BYTES;

use crate::batch::{Batch, Published};
use crate::output::Output;
use crate::record::{Record, RecordId};
use crate::version::VERSION_HEADER;

pub use error::PublishError;
pub use limit::OutputLimit;

/// Maximum size of a producer batch (`batch.size`), unless a topic's limit is lower.
const MAX_BATCH_BYTES: usize = 1_000_000;
/// Timeout of a request to the brokers.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Time that a batch may wait for its acknowledgments: meanwhile its transaction holds locks. The messages stay in
/// flight, so that a slow broker delays the batch but does not prevent it.
const ACKNOWLEDGMENT_TIMEOUT: Duration = Duration::from_secs(5);

/// Delay before a message is enqueued again, if the client's queue is full.
const QUEUE_FULL_DELAY: Duration = Duration::from_millis(5);
/// Detail of an `OutputTooLarge` rejection if the limit of the output topic is unknown.
pub const TOO_LARGE_FOR_UNKNOWN_LIMIT: &str =
    "the output topic rejects the message, and the stage is not authorized to read its max.message.bytes";

/// Producer of one stage.
pub struct Publisher {
    /// Recreated with a smaller batch size if the topic's limit is lower.
    producer: RwLock<FutureProducer>,
    /// Batch size of the producer. Recreating it without need would lose the messages in flight.
    batch_bytes: AtomicUsize,
    config: ClientConfig,
    output: Option<String>,
    limit: OutputLimit,
    /// True if each message is a producer batch of its own, because the limit of the topic cannot be read.
    is_batching_disabled: AtomicBool,
    deliveries: Deliveries,
}

impl Publisher {
    /// Creates the producer. `config` has the servers and the credentials; `output` is `None` for a stage without an
    /// output topic.
    ///
    /// # Errors
    /// If the client rejects the settings.
    pub fn new(mut config: ClientConfig, output: Option<String>) -> Result<Self, KafkaError> {
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "2")
            .set("compression.type", "lz4")
            // The default partitioner of Kafka's Java client: a key has the same partition with both.
            .set("partitioner", "murmur2_random")
            // The topic's own limit applies; see OutputLimit.
            .set("message.max.bytes", "104857600")
            .set("queue.buffering.max.kbytes", "131072")
            // Long, so that the client itself retries: a message that it reports as failed may be in the log, and would
            // be there twice.
            .set("message.timeout.ms", "300000");
        let producer = RwLock::new(create_producer(&config, MAX_BATCH_BYTES)?);
        Ok(Self {
            producer,
            batch_bytes: AtomicUsize::new(MAX_BATCH_BYTES),
            config,
            output,
            limit: OutputLimit::unknown(),
            is_batching_disabled: AtomicBool::new(false),
            deliveries: Deliveries::default(),
        })
    }

    /// Limit of the output topic; [`Self::refresh_limit`] updates it.
    #[must_use]
    pub fn limit(&self) -> OutputLimit {
        self.limit.clone()
    }

    /// Returns the limit of the output topic if it is less than `bytes`. It is read again first: it may have been raised,
    /// or could not be read before. A limit that cannot be read rejects nothing; then the brokers decide.
    pub async fn exceeded_limit(&self, bytes: usize) -> Option<usize> {
        if bytes <= self.limit.bytes() {
            return None;
        }
        if !self.refresh_limit().await {
            self.limit.forget();
        }
        Some(self.limit.bytes()).filter(|&limit| bytes > limit)
    }

    /// Reads the limit of the output topic again. Returns true if it is known; otherwise the last known limit applies.
    pub async fn refresh_limit(&self) -> bool {
        let Some(topic) = &self.output else {
            return false;
        };
        let Some(bytes) = self.max_message_bytes(topic).await else {
            return false;
        };
        self.limit.set_max_message_bytes(bytes);
        let batch_bytes = bytes.saturating_sub(RECORD_OVERHEAD_BYTES).max(1);
        // The broker applies the limit to a producer batch, not to a message: it rejects a too large batch as a
        // whole.
        if batch_bytes < MAX_BATCH_BYTES && !self.is_batching_disabled.load(Ordering::Relaxed) {
            self.set_batch_bytes(batch_bytes);
        }
        true
    }

    /// Sends each message in a producer batch of its own from now on. Returns false if that was so already.
    pub fn disable_batching(&self) -> bool {
        let was_enabled = !self.is_batching_disabled.swap(true, Ordering::Relaxed);
        if was_enabled {
            self.set_batch_bytes(1);
        }
        was_enabled
    }

    fn set_batch_bytes(&self, bytes: usize) {
        if self.batch_bytes.swap(bytes, Ordering::Relaxed) == bytes {
            return;
        }
        match create_producer(&self.config, bytes) {
            Ok(producer) => {
                *self.producer.write().unwrap_or_else(PoisonError::into_inner) = producer;
            }
            Err(error) => tracing::warn!(%error, "failed to recreate producer, batch size unchanged"),
        }
    }

    /// `max.message.bytes` of a topic; `None` if it cannot be read.
    async fn max_message_bytes(&self, topic: &str) -> Option<usize> {
        let described = async {
            let admin: AdminClient<DefaultClientContext> = self.config.create()?;
            let options = AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT));
            admin
                .describe_configs([&ResourceSpecifier::Topic(topic)], &options)
                .await
        };
        let bytes = described.await.ok().and_then(|resources| {
            let topic = resources.into_iter().next()?.ok()?;
            topic
                .get("max.message.bytes")?
                .value
                .as_deref()?
                .parse::<usize>()
                .ok()
        });
        if bytes.is_none() {
            tracing::warn!(topic, "failed to read max.message.bytes");
        }
        bytes
    }

    /// Publishes the output of each record; returns after every one of them is acknowledged. An output that an earlier
    /// attempt of its batch has passed to the brokers is not sent again.
    ///
    /// May be dropped at any time: the messages stay in flight, and the next attempt waits for them.
    ///
    /// # Errors
    /// See [`PublishError`]; some messages may be published nevertheless.
    pub async fn publish<'o>(
        &self,
        outputs: impl Iterator<Item = (&'o Record, &'o Output)> + Send,
    ) -> Result<Vec<RecordId>, PublishError> {
        let Some(topic) = &self.output else {
            return Ok(Vec::new());
        };
        let acknowledged = self.send_and_wait(topic, outputs);
        let acknowledged = tokio::time::timeout(ACKNOWLEDGMENT_TIMEOUT, acknowledged).await;
        acknowledged.unwrap_or_else(|_| {
            Err(PublishError::TimedOut {
                topic: topic.clone(),
                timeout: ACKNOWLEDGMENT_TIMEOUT,
            })
        })
    }

    async fn send_and_wait<'o>(
        &self,
        topic: &str,
        outputs: impl Iterator<Item = (&'o Record, &'o Output)> + Send,
    ) -> Result<Vec<RecordId>, PublishError> {
        let mut ids = Vec::new();
        for (record, output) in outputs {
            let id = record.id();
            if !self.deliveries.contains(id, output) {
                let delivery = self.enqueue(topic, output).await?;
                self.deliveries.add(id, output, delivery);
            }
            ids.push(id);
        }
        self.deliveries.wait_acknowledged(topic, &ids).await?;
        Ok(ids)
    }

    /// Publishes outputs that belong to no batch, also if they were published before; returns after every one of them is
    /// acknowledged.
    ///
    /// # Errors
    /// See [`PublishError`]; some messages may be published nevertheless.
    pub async fn publish_again(&self, outputs: &[Output]) -> Result<(), PublishError> {
        let Some(topic) = &self.output else {
            return Ok(());
        };
        let mut deliveries = Vec::with_capacity(outputs.len());
        for output in outputs {
            deliveries.push(self.enqueue(topic, output).await?);
        }
        for delivery in deliveries {
            let error = match delivery.await {
                Ok(Ok(_)) => continue,
                Ok(Err((error, _))) => error,
                Err(_) => KafkaError::Canceled,
            };
            return Err(PublishError::new(topic, error));
        }
        Ok(())
    }

    /// Forgets the deliveries of a committed batch. Until then, a retry must not send its outputs again.
    pub fn forget_committed(&self, committed: &Batch<Published>) {
        self.deliveries
            .remove_committed(&committed.ranges, &committed.state);
    }

    /// Passes one message to the client, and waits while the client's queue is full: of messages of another task, or of
    /// acknowledged ones that the client has not released yet.
    async fn enqueue(&self, topic: &str, output: &Output) -> Result<DeliveryFuture, PublishError> {
        loop {
            let sent = self.send_output(topic, output);
            if !sent.as_ref().is_err_and(PublishError::is_queue_full) {
                return sent;
            }
            tokio::time::sleep(QUEUE_FULL_DELAY).await;
        }
    }

    fn send_output(&self, topic: &str, output: &Output) -> Result<DeliveryFuture, PublishError> {
        let key = output.object_id.to_string();
        let version = output.version.to_header();
        let headers = OwnedHeaders::new_with_capacity(1).insert(KafkaHeader {
            key: VERSION_HEADER,
            value: Some(&version),
        });
        let message = FutureRecord::to(topic)
            .key(&key)
            .payload(&output.payload)
            .headers(headers);
        let producer = self.producer.read().unwrap_or_else(PoisonError::into_inner);
        let sent = producer.send_result(message);
        sent.map_err(|(error, _)| PublishError::new(topic, error))
    }
}

/// Creates a producer whose batches have at most `batch_bytes` bytes, or one message.
fn create_producer(config: &ClientConfig, batch_bytes: usize) -> Result<FutureProducer, KafkaError> {
    let mut config = config.clone();
    config.set("batch.size", batch_bytes.to_string());
    config.create()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rdkafka::consumer::{BaseConsumer, Consumer as _};
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::DefaultProducerContext;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::*;
    use crate::batch::OffsetUpdates;
    use crate::position::{OffsetRange, OffsetRanges};
    use crate::version::Version;
    use uuid::Uuid;

    struct Fixture {
        kafka: MockCluster<'static, DefaultProducerContext>,
        publisher: Publisher,
        consumer: BaseConsumer,
    }

    /// A publisher to the topic `out` of a mock cluster, whose client queue has room for ten messages.
    fn fixture() -> Fixture {
        let kafka = MockCluster::new(1).expect("a mock cluster");
        kafka.create_topic("out", 1, 1).expect("a topic");
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", kafka.bootstrap_servers());
        let consumer = config.create().expect("a consumer");
        config.set("queue.buffering.max.messages", "10");
        Fixture {
            kafka,
            publisher: Publisher::new(config, Some("out".into())).expect("settings"),
            consumer,
        }
    }

    impl Fixture {
        async fn publish(&self, items: &[(Record, Output)]) -> Result<Vec<RecordId>, PublishError> {
            let outputs = items.iter().map(|(record, output)| (record, output));
            self.publisher.publish(outputs).await
        }

        fn published(&self) -> i64 {
            let watermarks = self.consumer.fetch_watermarks("out", 0, REQUEST_TIMEOUT);
            watermarks.expect("an answer").1
        }
    }

    fn items(offsets: std::ops::Range<i64>) -> Vec<(Record, Output)> {
        let item = |offset| {
            let record = Record {
                offset,
                ..Record::default()
            };
            let output = Output {
                object_id: offset,
                payload: b"{}".to_vec(),
                version: Version::new(0, "OPEN", None, [0; 32]),
            };
            (record, output)
        };
        offsets.map(item).collect()
    }

    /// A committed batch of partition 0 without outputs.
    fn committed(range: std::ops::Range<i64>, offset_updates: OffsetUpdates) -> Batch<Published> {
        let range = OffsetRange {
            from: range.start,
            to: range.end,
            topic_id: Uuid::nil(),
        };
        Batch {
            ranges: OffsetRanges::from([(0, range)]),
            state: Published {
                offset_updates,
                ..Published::default()
            },
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_batch_that_exceeds_the_queue_of_the_client_is_published() {
        let fixture = fixture();
        fixture.publish(&items(0..100)).await.expect("published");
        assert_eq!(fixture.published(), 100);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_acknowledged_output_is_not_sent_again_until_its_batch_is_committed() {
        let fixture = fixture();
        fixture.publish(&items(0..10)).await.expect("published");
        // A retry of the same batch, a part of it, and a batch that overlaps with it.
        for retried in [0..10, 3..5, 5..12] {
            fixture.publish(&items(retried)).await.expect("published");
        }
        assert_eq!(fixture.published(), 12);

        let mut other_version = items(3..4);
        other_version[0].1.version = Version::new(0, "OPEN", None, [1; 32]);
        fixture.publish(&other_version).await.expect("published");
        assert_eq!(fixture.published(), 13, "another version is another message");

        fixture
            .publisher
            .forget_committed(&committed(0..10, OffsetUpdates::default()));
        fixture.publish(&items(9..12)).await.expect("published");
        assert_eq!(
            fixture.published(),
            14,
            "only the output of a committed batch is sent again"
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_output_stays_known_while_its_record_will_be_read_again() {
        let fixture = fixture();
        fixture.publish(&items(0..10)).await.expect("published");
        let seeks = OffsetUpdates {
            seeks: BTreeMap::from([(0, 0)]),
            ..OffsetUpdates::default()
        };
        fixture.publisher.forget_committed(&committed(0..10, seeks));
        let blocked = OffsetUpdates {
            positions: BTreeMap::from([(0, 4)]),
            ..OffsetUpdates::default()
        };
        fixture.publisher.forget_committed(&committed(0..10, blocked));
        fixture.publish(&items(4..10)).await.expect("published");
        assert_eq!(fixture.published(), 10);
        fixture.publish(&items(3..10)).await.expect("published");
        assert_eq!(fixture.published(), 11, "the position is past record 3");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_retry_sends_only_the_outputs_that_failed() {
        let fixture = fixture();
        fixture.publish(&items(0..5)).await.expect("published");
        let error = RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
        fixture.kafka.request_errors(RDKafkaApiKey::Produce, &[error]);
        let failed = fixture.publish(&items(0..6)).await;
        assert!(failed.is_err(), "{failed:?}");
        fixture.publish(&items(0..6)).await.expect("published");
        assert_eq!(fixture.published(), 6);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_retry_waits_for_messages_in_flight_instead_of_sending_them_again() {
        let fixture = fixture();
        fixture.kafka.broker_down(1).expect("a broker");
        let items = items(0..5);
        let attempt = tokio::time::timeout(Duration::from_millis(10), fixture.publish(&items));
        attempt.await.expect_err("no broker answers");
        fixture.kafka.broker_up(1).expect("a broker");
        fixture.publish(&items).await.expect("published");
        assert_eq!(fixture.published(), 5);
    }
}
