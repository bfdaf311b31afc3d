#![expect(
    clippy::disallowed_types,
    reason = "edge: writes outputs and dead letters to Kafka"
)]
//! Publishes the outputs and dead letters of a batch, and waits until every message is acknowledged.
//!
//! Runs after the effects are written and before they are committed, so every committed effect has been published. If
//! the commit fails, the retry publishes identical messages again.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header as KafkaHeader, OwnedHeaders};
use rdkafka::producer::future_producer::DeliveryFuture;
use rdkafka::producer::{FutureProducer, FutureRecord};

use crate::batch::RejectedRecord;
use crate::dead_letter::{self, Origin};
use crate::error_policy::ErrorPolicy;
use crate::output::Output;
use crate::record::{Header, Record};
use crate::version::VERSION_HEADER;

/// Bytes of a producer batch besides the value: batch header, key and version.
const RECORD_OVERHEAD_BYTES: usize = 512;
/// Kafka's default of `message.max.bytes`, assumed if the topic's setting cannot be read.
const DEFAULT_MAX_MESSAGE_BYTES: usize = 1_048_588;
/// Maximum size of a producer batch (`batch.size`), unless a topic's limit is lower.
const MAX_BATCH_BYTES: usize = 1_000_000;
/// Timeout of a request to the brokers.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Delay before a message is enqueued again, if the client's queue is full of acknowledged messages it has not
/// released.
const QUEUE_FULL_DELAY: Duration = Duration::from_millis(5);
/// Detail of an `OutputTooLarge` rejection if the limit of the output topic is unknown.
pub const TOO_LARGE_FOR_UNKNOWN_LIMIT: &str =
    "the output topic rejects the message, and the stage is not authorized to read its max.message.bytes";

/// Largest value that the output topic accepts, in bytes. Clones share the value, which the publisher refreshes.
#[derive(Clone, Debug)]
pub struct OutputLimit(Arc<AtomicUsize>);

impl OutputLimit {
    /// Limit of a topic with this `max.message.bytes`.
    #[must_use]
    pub fn from_max_message_bytes(max_message_bytes: usize) -> Self {
        let limit = Self(Arc::default());
        limit.set_max_message_bytes(max_message_bytes);
        limit
    }

    /// Maximum bytes of a value.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn set_max_message_bytes(&self, max_message_bytes: usize) {
        let bytes = max_message_bytes.saturating_sub(RECORD_OVERHEAD_BYTES);
        self.0.store(bytes, Ordering::Relaxed);
    }
}

/// Error of a publish. Nothing of the batch is committed then.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The topic's limit was lowered since it was read.
    #[error("topic {0} rejects a message as too large; raise its max.message.bytes")]
    TooLarge(String),
    /// A message was not acknowledged: rejected, or not confirmed in time.
    #[error("topic {topic}: {source}; check that the topic exists and that the stage may write to it")]
    Unacknowledged {
        /// Topic of the message.
        topic: String,
        /// Error of the client.
        source: KafkaError,
    },
    /// The client cannot recover.
    #[error("fatal Kafka client error: {0}; restart the worker")]
    Fatal(KafkaError),
}

impl PublishError {
    fn new(topic: &str, source: KafkaError) -> Self {
        match source.rdkafka_error_code() {
            Some(RDKafkaErrorCode::MessageSizeTooLarge) => Self::TooLarge(topic.to_owned()),
            Some(RDKafkaErrorCode::Fatal | RDKafkaErrorCode::OutOfOrderSequenceNumber) => Self::Fatal(source),
            _ => Self::Unacknowledged {
                topic: topic.to_owned(),
                source,
            },
        }
    }

    fn is_queue_full(&self) -> bool {
        let Self::Unacknowledged { source, .. } = self else {
            return false;
        };
        source.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull)
    }

    /// Policy by the table in [`crate::error_policy`].
    #[must_use]
    pub fn policy(&self) -> ErrorPolicy {
        match self {
            Self::TooLarge(_) => ErrorPolicy::DeadLetter,
            Self::Unacknowledged { .. } => ErrorPolicy::Retry,
            Self::Fatal(_) => ErrorPolicy::Stop,
        }
    }
}

/// Messages that the client has accepted and the brokers have not acknowledged, with their topics.
type InFlightMessages<'t> = VecDeque<(&'t str, DeliveryFuture)>;

/// Producer of one stage.
pub struct Publisher {
    /// Recreated with a smaller batch size if a topic's limit is lower.
    producer: RwLock<FutureProducer>,
    config: ClientConfig,
    output: Option<String>,
    dead_letter: String,
    limit: OutputLimit,
    /// True if each message is a producer batch of its own, because the limits of the topics cannot be read.
    is_batching_disabled: AtomicBool,
    origin: Origin,
}

impl Publisher {
    /// Creates the producer. `config` has the servers and the credentials; `output` is `None` for a stage without an
    /// output topic.
    ///
    /// # Errors
    /// If the client rejects the settings.
    pub fn new(
        mut config: ClientConfig,
        output: Option<String>,
        dead_letter: String,
        origin: Origin,
    ) -> Result<Self, KafkaError> {
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
            // The transaction of the batch waits meanwhile, with its locks. It is shorter than the
            // `idle_in_transaction_session_timeout` of the transaction.
            .set("message.timeout.ms", "5000");
        let producer = RwLock::new(create_producer(&config, MAX_BATCH_BYTES)?);
        let limit = OutputLimit::from_max_message_bytes(DEFAULT_MAX_MESSAGE_BYTES);
        Ok(Self {
            producer,
            config,
            output,
            dead_letter,
            limit,
            is_batching_disabled: AtomicBool::new(false),
            origin,
        })
    }

    /// Limit of the output topic; [`Self::refresh_limit`] updates it.
    #[must_use]
    pub fn limit(&self) -> OutputLimit {
        self.limit.clone()
    }

    /// Reads the limits of the topics again. Returns true if the limit of the output topic is known; otherwise the
    /// last known limit, or Kafka's default, applies.
    pub async fn refresh_limit(&self) -> bool {
        let mut lowest = self.max_message_bytes(&self.dead_letter).await;
        let output = match &self.output {
            Some(topic) => self.max_message_bytes(topic).await,
            None => None,
        };
        if let Some(bytes) = output {
            self.limit.set_max_message_bytes(bytes);
            lowest = lowest.into_iter().chain([bytes]).min();
        }
        let batch_bytes = lowest.map_or(MAX_BATCH_BYTES, |bytes| {
            bytes.saturating_sub(RECORD_OVERHEAD_BYTES).max(1)
        });
        // The broker applies the limit to a producer batch, not to a message: it rejects a too large batch as a
        // whole.
        if batch_bytes < MAX_BATCH_BYTES && !self.is_batching_disabled.load(Ordering::Relaxed) {
            self.set_batch_bytes(batch_bytes);
        }
        output.is_some()
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
            tracing::warn!(topic, "failed to read max.message.bytes, assuming the default");
        }
        bytes
    }

    /// Publishes outputs and dead letters; returns after every one of them is acknowledged.
    ///
    /// A dead letter that is too large for its topic is skipped: the table `streamstage.dead_letter` has it in full.
    ///
    /// # Errors
    /// See [`PublishError`]; some messages may be published nevertheless.
    pub async fn publish(
        &self,
        outputs: impl Iterator<Item = &Output> + Send,
        dead_letters: &[RejectedRecord],
    ) -> Result<(), PublishError> {
        let mut in_flight = InFlightMessages::new();
        if let Some(topic) = &self.output {
            for output in outputs {
                self.enqueue(&mut in_flight, topic, || self.send_output(topic, output))
                    .await?;
            }
        }
        let topic = &self.dead_letter;
        for rejected in dead_letters {
            let headers = dead_letter::build_headers(&self.origin, rejected);
            self.enqueue(&mut in_flight, topic, || {
                self.send_record(topic, &rejected.record, &headers)
            })
            .await?;
        }
        self.wait_all_acknowledged(in_flight).await
    }

    /// Passes one message to the client. If the client's queue is full, waits for the acknowledgement of the oldest
    /// in-flight message. Without one, the queue is full of messages of another task, or of acknowledged ones that
    /// the client has not released yet.
    async fn enqueue<'t>(
        &self,
        in_flight: &mut InFlightMessages<'t>,
        topic: &'t str,
        send: impl Fn() -> Result<DeliveryFuture, PublishError> + Send,
    ) -> Result<(), PublishError> {
        loop {
            let delivery = send();
            if !delivery.as_ref().is_err_and(PublishError::is_queue_full) {
                in_flight.push_back((topic, delivery?));
                return Ok(());
            }
            match in_flight.pop_front() {
                Some((topic, oldest)) => self.wait_acknowledged(topic, oldest).await?,
                None => tokio::time::sleep(QUEUE_FULL_DELAY).await,
            }
        }
    }

    async fn wait_all_acknowledged(&self, in_flight: InFlightMessages<'_>) -> Result<(), PublishError> {
        for (topic, delivery) in in_flight {
            self.wait_acknowledged(topic, delivery).await?;
        }
        Ok(())
    }

    async fn wait_acknowledged(&self, topic: &str, delivery: DeliveryFuture) -> Result<(), PublishError> {
        let error = match delivery.await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err((error, _))) => PublishError::new(topic, error),
            Err(_) => PublishError::new(topic, KafkaError::Canceled),
        };
        if topic == self.dead_letter && matches!(error, PublishError::TooLarge(_)) {
            tracing::warn!(
                topic,
                "dead letter too large for its topic; stored in streamstage.dead_letter only"
            );
            return Ok(());
        }
        Err(error)
    }

    /// Redrives records: sends them to the source topic unchanged, to any of its partitions.
    ///
    /// # Errors
    /// See [`PublishError`]; some records may be sent nevertheless.
    pub async fn redrive(&self, records: impl Iterator<Item = &Record> + Send) -> Result<(), PublishError> {
        let topic = &self.origin.topic;
        let mut in_flight = InFlightMessages::new();
        for record in records {
            self.enqueue(&mut in_flight, topic, || {
                self.send_record(topic, record, &record.headers)
            })
            .await?;
        }
        self.wait_all_acknowledged(in_flight).await
    }

    fn send_output(&self, topic: &str, output: &Output) -> Result<DeliveryFuture, PublishError> {
        let key = output.object_id.to_string();
        let version = output.version.to_header();
        let headers = OwnedHeaders::new_with_capacity(1).insert(KafkaHeader {
            key: VERSION_HEADER,
            value: Some(&version),
        });
        self.send(
            FutureRecord::to(topic)
                .key(&key)
                .payload(&output.payload)
                .headers(headers),
        )
    }

    fn send_record(
        &self,
        topic: &str,
        record: &Record,
        headers: &[Header],
    ) -> Result<DeliveryFuture, PublishError> {
        let mut kafka_headers = OwnedHeaders::new_with_capacity(headers.len());
        for Header { name, value } in headers {
            kafka_headers = kafka_headers.insert(KafkaHeader {
                key: name,
                value: value.as_ref(),
            });
        }
        let mut message = FutureRecord::<[u8], [u8]>::to(topic).headers(kafka_headers);
        message.key = record.key.as_deref();
        message.payload = record.value.as_deref();
        self.send(message)
    }

    fn send<K: rdkafka::message::ToBytes + ?Sized, V: rdkafka::message::ToBytes + ?Sized>(
        &self,
        record: FutureRecord<'_, K, V>,
    ) -> Result<DeliveryFuture, PublishError> {
        let topic = record.topic.to_owned();
        let producer = self.producer.read().unwrap_or_else(PoisonError::into_inner);
        producer
            .send_result(record)
            .map_err(|(error, _)| PublishError::new(&topic, error))
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
    use rdkafka::mocking::MockCluster;

    use super::*;
    use crate::version::Version;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_batch_that_exceeds_the_queue_of_the_client_is_published() {
        let kafka = MockCluster::new(1).expect("a mock cluster");
        kafka.create_topic("out", 1, 1).expect("a topic");
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", kafka.bootstrap_servers())
            .set("queue.buffering.max.messages", "10");
        let origin = Origin {
            stage: "stg".into(),
            consumer_group: "orders.stg".into(),
            topic: "orders".into(),
        };
        let publisher = Publisher::new(config, Some("out".into()), "orders.dlq".into(), origin);
        let publisher = publisher.expect("settings");
        let outputs: Vec<Output> = (0..100)
            .map(|object_id| Output {
                object_id,
                payload: b"{}".to_vec(),
                version: Version::new(0, "OPEN", None, [0; 32]),
            })
            .collect();
        publisher.publish(outputs.iter(), &[]).await.expect("published");
    }
}
