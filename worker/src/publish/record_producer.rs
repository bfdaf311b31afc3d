#![expect(clippy::disallowed_types, reason = "edge: sends records to Kafka")]
//! Sends records unchanged to a topic: copies of dead letters, and redriven records.
//!
//! The result of each record is its own: every record is a producer batch, because a broker accepts or rejects a
//! producer batch as a whole.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::message::{Header as KafkaHeader, OwnedHeaders};
use rdkafka::producer::future_producer::DeliveryFuture;
use rdkafka::producer::{FutureProducer, FutureRecord};

use super::error::PublishError;
use crate::record::{Header, Record};

/// Delay before a record is enqueued again, if the client's queue is full.
const QUEUE_FULL_DELAY: Duration = Duration::from_millis(5);

/// Producer of records to one topic.
pub struct RecordProducer {
    producer: FutureProducer,
    topic: String,
}

impl RecordProducer {
    /// Creates a producer to `topic`. `config` has the servers and the credentials.
    ///
    /// # Errors
    /// If the client rejects the settings.
    pub fn new(mut config: ClientConfig, topic: &str) -> Result<Self, KafkaError> {
        config
            .set("acks", "all")
            .set("batch.size", "1")
            .set("compression.type", "lz4")
            // The default partitioner of Kafka's Java client: a key has the same partition with both.
            .set("partitioner", "murmur2_random")
            // The topic's own limit applies.
            .set("message.max.bytes", "104857600")
            .set("queue.buffering.max.kbytes", "131072")
            // A topic that does not exist is reported soon.
            .set("topic.metadata.propagation.max.ms", "5000")
            .set("message.timeout.ms", "10000");
        Ok(Self {
            producer: config.create()?,
            topic: topic.to_owned(),
        })
    }

    /// Sends records with these headers, to any partition, and waits for every result, in the order of the records.
    pub async fn send<'r>(
        &self,
        records: impl Iterator<Item = (&'r Record, &'r [Header])> + Send,
    ) -> Vec<Result<(), PublishError>> {
        let mut deliveries = Vec::with_capacity(records.size_hint().0);
        for (record, headers) in records {
            deliveries.push(self.enqueue(record, headers).await);
        }
        let mut results = Vec::with_capacity(deliveries.len());
        for delivery in deliveries {
            results.push(match delivery {
                Ok(delivery) => match delivery.await {
                    Ok(Ok(_)) => Ok(()),
                    Ok(Err((error, _))) => Err(PublishError::new(&self.topic, error)),
                    Err(_) => Err(PublishError::new(&self.topic, KafkaError::Canceled)),
                },
                Err(error) => Err(error),
            });
        }
        results
    }

    /// Passes a record to the client, and waits while the client's queue is full.
    async fn enqueue(&self, record: &Record, headers: &[Header]) -> Result<DeliveryFuture, PublishError> {
        loop {
            let sent = self.producer.send_result(self.message(record, headers));
            let sent = sent.map_err(|(error, _)| PublishError::new(&self.topic, error));
            if !sent.as_ref().is_err_and(PublishError::is_queue_full) {
                return sent;
            }
            tokio::time::sleep(QUEUE_FULL_DELAY).await;
        }
    }

    fn message<'m>(&'m self, record: &'m Record, headers: &[Header]) -> FutureRecord<'m, [u8], [u8]> {
        let mut kafka_headers = OwnedHeaders::new_with_capacity(headers.len());
        for Header { name, value } in headers {
            kafka_headers = kafka_headers.insert(KafkaHeader {
                key: name,
                value: value.as_ref(),
            });
        }
        let mut message = FutureRecord::<[u8], [u8]>::to(&self.topic).headers(kafka_headers);
        message.key = record.key.as_deref();
        message.payload = record.value.as_deref();
        message
    }
}
