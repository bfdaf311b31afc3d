#![expect(
    clippy::disallowed_types,
    reason = "edge: writes outputs and dead letters to Kafka"
)]
//! Publishes what a batch produced, and waits until every message is acknowledged.
//!
//! Called after the effects are written and before they are committed: what PostgreSQL holds is on its way for
//! certain. A message that is published twice, because the commit failed, is the same message twice.

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

use crate::batch::Rejected;
use crate::dead_letter::{self, Origin};
use crate::decode::{DIGEST_HEADER, to_hex};
use crate::layer::Output;
use crate::policy::Policy;
use crate::record::{Header, Record};

/// What a record batch needs beside the value: its header, the key, the digest.
const OVERHEAD: usize = 512;
/// What Kafka takes by default (`message.max.bytes`), when the topic's setting cannot be read.
const DEFAULT_MAX_MESSAGE_BYTES: usize = 1_048_588;
/// Largest batch of the client (`batch.size`), unless the topics take less.
const BATCH_BYTES: usize = 1_000_000;
/// How long a call to the brokers may take.
const CALL: Duration = Duration::from_secs(10);

/// Largest value that the output topic takes, in bytes; read from the topic, shared with the layer.
#[derive(Clone, Debug)]
pub struct OutputLimit(Arc<AtomicUsize>);

impl OutputLimit {
    /// The limit of a topic that takes `max_message_bytes`.
    #[must_use]
    pub fn of_topic(max_message_bytes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(
            max_message_bytes.saturating_sub(OVERHEAD),
        )))
    }

    /// Bytes that a value may have.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Why publishing failed. Nothing of the batch is committed then.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The topic takes less than it did when the limit was read.
    #[error("topic {0} refuses a message as too large")]
    TooLarge(String),
    /// Kafka did not take a message, or did not say so in time.
    #[error("topic {topic}: {source}; check that the topic exists and that the stage may write to it")]
    Refused {
        /// The topic.
        topic: String,
        /// What the client says.
        source: KafkaError,
    },
    /// The client can do nothing more.
    #[error("Kafka's client gave up: {0}; the worker has to be started again")]
    Fatal(KafkaError),
}

impl PublishError {
    fn new(topic: &str, source: KafkaError) -> Self {
        match source.rdkafka_error_code() {
            Some(RDKafkaErrorCode::MessageSizeTooLarge) => Self::TooLarge(topic.to_owned()),
            Some(RDKafkaErrorCode::Fatal | RDKafkaErrorCode::OutOfOrderSequenceNumber) => Self::Fatal(source),
            _ => Self::Refused {
                topic: topic.to_owned(),
                source,
            },
        }
    }

    /// Whether the client has no room for another message.
    fn is_queue_full(&self) -> bool {
        let Self::Refused { source, .. } = self else {
            return false;
        };
        source.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull)
    }

    /// See the table in [`crate::policy`].
    #[must_use]
    pub fn policy(&self) -> Policy {
        match self {
            Self::TooLarge(_) => Policy::DeadLetter,
            Self::Refused { .. } => Policy::Retry,
            Self::Fatal(_) => Policy::Stop,
        }
    }
}

/// The publishing side of a stage.
pub struct Publisher {
    /// Replaced when the topics take less than its largest batch.
    producer: RwLock<FutureProducer>,
    config: ClientConfig,
    output: Option<String>,
    dead_letter: String,
    limit: OutputLimit,
    /// Whether each message is a batch of its own, because nobody tells what the topics take.
    singly: AtomicBool,
    origin: Origin,
}

/// How long the client is given to let go of messages that are acknowledged.
const ROOM: Duration = Duration::from_millis(5);

/// Messages that are on their way, and their topics.
type OnTheWay<'t> = VecDeque<(&'t str, DeliveryFuture)>;

impl Publisher {
    /// Sets up the client; `config` has the servers and the credentials, `output` is the next topic.
    ///
    /// # Errors
    /// When the client refuses the settings.
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
            // The same key goes to the same partition as with Kafka's own clients.
            .set("partitioner", "murmur2_random")
            // The broker knows what the topic takes; see OutputLimit.
            .set("message.max.bytes", "104857600")
            .set("queue.buffering.max.kbytes", "131072")
            // Shorter than the server waits for an idle transaction (see warehouse).
            .set("message.timeout.ms", "30000");
        let producer = RwLock::new(producer(&config, BATCH_BYTES)?);
        let limit = OutputLimit::of_topic(DEFAULT_MAX_MESSAGE_BYTES);
        Ok(Self {
            producer,
            config,
            output,
            dead_letter,
            limit,
            singly: AtomicBool::new(false),
            origin,
        })
    }

    /// The limit, which [`Self::read_limit`] updates.
    #[must_use]
    pub fn limit(&self) -> OutputLimit {
        self.limit.clone()
    }

    /// Reads what the topics take; whether Kafka tells it of the output topic. A stage that may not read a topic's
    /// settings keeps Kafka's default.
    pub async fn read_limit(&self) -> bool {
        let mut taken = self.max_message_bytes(&self.dead_letter).await;
        let output = match &self.output {
            Some(topic) => self.max_message_bytes(topic).await,
            None => None,
        };
        if let Some(bytes) = output {
            self.limit
                .0
                .store(bytes.saturating_sub(OVERHEAD), Ordering::Relaxed);
            taken = taken.into_iter().chain([bytes]).min();
        }
        let taken = taken.map_or(BATCH_BYTES, |bytes| bytes.saturating_sub(OVERHEAD).max(1));
        // The broker measures a batch, not its messages: one that is too large is refused with all of them.
        if taken < BATCH_BYTES && !self.singly.load(Ordering::Relaxed) {
            self.take_batches_of(taken);
        }
        output.is_some()
    }

    /// Sends each message in a batch of its own from now on; `false` when it does so already.
    pub fn send_singly(&self) -> bool {
        let begins = !self.singly.swap(true, Ordering::Relaxed);
        if begins {
            self.take_batches_of(1);
        }
        begins
    }

    fn take_batches_of(&self, bytes: usize) {
        match producer(&self.config, bytes) {
            Ok(smaller) => *self.producer.write().unwrap_or_else(PoisonError::into_inner) = smaller,
            Err(error) => tracing::warn!(%error, "the size of batches stays as it is"),
        }
    }

    /// `max.message.bytes` of a topic, if Kafka tells.
    async fn max_message_bytes(&self, topic: &str) -> Option<usize> {
        let described = async {
            let admin: AdminClient<DefaultClientContext> = self.config.create()?;
            let options = AdminOptions::new().request_timeout(Some(CALL));
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
            tracing::warn!(
                topic,
                "cannot read max.message.bytes of the topic; taking Kafka's default"
            );
        }
        bytes
    }

    /// Publishes outputs and dead letters; returns once every one of them is acknowledged.
    ///
    /// A dead letter that its topic refuses as too large is left to the table, which holds it in full.
    ///
    /// # Errors
    /// See [`PublishError`]; some messages may be published all the same.
    pub async fn publish(
        &self,
        outputs: impl Iterator<Item = &Output> + Send,
        dead: &[Rejected],
    ) -> Result<(), PublishError> {
        let mut sent = OnTheWay::new();
        if let Some(topic) = &self.output {
            for output in outputs {
                self.put(&mut sent, topic, || self.send_output(topic, output))
                    .await?;
            }
        }
        let topic = &self.dead_letter;
        for letter in dead {
            let headers = dead_letter::headers(&self.origin, letter);
            self.put(&mut sent, topic, || {
                self.send_record(topic, &letter.record, &headers)
            })
            .await?;
        }
        self.all_acknowledged(sent).await
    }

    /// Hands one message to the client. When the client's queue is full, the acknowledgements of what was sent before
    /// make room; what is left then is another task's, or is just being let go.
    async fn put<'t>(
        &self,
        sent: &mut OnTheWay<'t>,
        topic: &'t str,
        hand_over: impl Fn() -> Result<DeliveryFuture, PublishError> + Send,
    ) -> Result<(), PublishError> {
        loop {
            let delivery = hand_over();
            if !delivery.as_ref().is_err_and(PublishError::is_queue_full) {
                sent.push_back((topic, delivery?));
                return Ok(());
            }
            match sent.pop_front() {
                Some((topic, earlier)) => self.acknowledged(topic, earlier).await?,
                None => tokio::time::sleep(ROOM).await,
            }
        }
    }

    async fn all_acknowledged(&self, sent: OnTheWay<'_>) -> Result<(), PublishError> {
        for (topic, delivery) in sent {
            self.acknowledged(topic, delivery).await?;
        }
        Ok(())
    }

    async fn acknowledged(&self, topic: &str, delivery: DeliveryFuture) -> Result<(), PublishError> {
        let error = match delivery.await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err((error, _))) => PublishError::new(topic, error),
            Err(_) => PublishError::new(topic, KafkaError::Canceled),
        };
        if topic == self.dead_letter && matches!(error, PublishError::TooLarge(_)) {
            tracing::warn!(
                topic,
                "a dead letter is too large for its topic; streamstage.dead_letter has it"
            );
            return Ok(());
        }
        Err(error)
    }

    /// Sends records back to the source topic as they came, to any of its partitions.
    ///
    /// # Errors
    /// See [`PublishError`]; some records may be sent all the same.
    pub async fn send_back(&self, records: impl Iterator<Item = &Record> + Send) -> Result<(), PublishError> {
        let topic = &self.origin.topic;
        let mut sent = OnTheWay::new();
        for record in records {
            self.put(&mut sent, topic, || {
                self.send_record(topic, record, &record.headers)
            })
            .await?;
        }
        self.all_acknowledged(sent).await
    }

    fn send_output(&self, topic: &str, output: &Output) -> Result<DeliveryFuture, PublishError> {
        let key = output.object_id.to_string();
        let digest = to_hex(&output.digest);
        let headers = OwnedHeaders::new_with_capacity(1).insert(KafkaHeader {
            key: DIGEST_HEADER,
            value: Some(&digest),
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

/// A client whose batches hold so many bytes at most, or one message.
fn producer(config: &ClientConfig, batch_bytes: usize) -> Result<FutureProducer, KafkaError> {
    let mut config = config.clone();
    config.set("batch.size", batch_bytes.to_string());
    config.create()
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_batch_of_more_messages_than_the_queue_holds_is_published() {
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
                digest: [0; 32],
            })
            .collect();
        publisher.publish(outputs.iter(), &[]).await.expect("published");
    }
}
