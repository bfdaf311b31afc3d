//! Raw records of a topic, and administration of topics.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: produces to, reads and administers topics, until a deadline"
)]

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewPartitions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, FutureProducer, FutureRecord, Producer as _};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{Offset, TopicPartitionList};

use super::drain::wait_until;
use super::instance::Pipeline;
use crate::services::create_topic;

/// Timeout of one Kafka request.
const KAFKA_TIMEOUT: Duration = Duration::from_secs(30);

/// One record of a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Partition id.
    pub partition: i32,
    /// Offset in the partition; ignored when the record is produced.
    pub offset: i64,
    /// Milliseconds since 1970; `None` lets the producer set the time.
    pub timestamp: Option<i64>,
    /// Key; `None` differs from an empty key.
    pub key: Option<Vec<u8>>,
    /// Value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// Headers; names may repeat, values may be null.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Record {
    /// Text of the last header with this name; empty if the record has no such header.
    #[must_use]
    pub fn header(&self, name: &str) -> String {
        let mut headers = self.headers.iter().rev();
        let header = headers.find(|(header_name, _)| header_name == name);
        let value = header.and_then(|(_, value)| value.as_deref());
        String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
    }
}

impl Pipeline {
    /// Produces records unchanged, each to its partition, and waits for every acknowledgment.
    ///
    /// # Errors
    /// When Kafka rejects a record.
    pub async fn send(&self, topic: &str, records: &[Record]) -> Result<()> {
        self.send_with(topic, records, &[]).await
    }

    /// Produces records of one partition in one batch that `codec` compresses. The topic must accept the compressed size.
    ///
    /// # Errors
    /// When Kafka rejects the batch.
    pub async fn send_as_batch(&self, topic: &str, codec: &str, records: &[Record]) -> Result<()> {
        let settings = [
            ("compression.codec", codec),
            ("message.max.bytes", "1000000000"),
            ("batch.size", "1000000000"),
            ("queue.buffering.max.kbytes", "2097151"),
            // Longer than it takes to add the records.
            ("linger.ms", "20000"),
        ];
        self.send_with(topic, records, &settings).await
    }

    async fn send_with(&self, topic: &str, records: &[Record], settings: &[(&str, &str)]) -> Result<()> {
        let mut config = self.client_config();
        // The topic's own limit applies.
        config
            .set("enable.idempotence", "true")
            .set("message.max.bytes", "104857600");
        for (name, value) in settings {
            config.set(*name, *value);
        }
        let producer: FutureProducer = config.create()?;
        let mut deliveries = Vec::with_capacity(records.len());
        for record in records {
            let headers = OwnedHeaders::new_with_capacity(record.headers.len());
            let headers = record.headers.iter().fold(headers, |headers, (key, value)| {
                headers.insert(Header {
                    key,
                    value: value.as_ref(),
                })
            });
            let mut outgoing = FutureRecord::<[u8], [u8]>::to(topic)
                .partition(record.partition)
                .headers(headers);
            outgoing.key = record.key.as_deref();
            outgoing.payload = record.value.as_deref();
            outgoing.timestamp = record.timestamp;
            deliveries.push(producer.send_result(outgoing).map_err(|(error, _)| error)?);
        }
        if !settings.is_empty() {
            // Ends the wait for more records of the batch.
            let flushed = tokio::task::spawn_blocking(move || producer.flush(KAFKA_TIMEOUT));
            flushed.await??;
        }
        for delivery in deliveries {
            delivery.await?.map_err(|(error, _)| error)?;
        }
        Ok(())
    }

    /// All records of a topic, by partition and offset.
    ///
    /// # Errors
    /// When Kafka does not deliver them within 30 seconds per partition.
    pub fn read_topic(&self, topic: &str) -> Result<Vec<Record>> {
        self.read_first_records(topic, i64::MAX)
    }

    /// As [`Pipeline::read_topic`], at most the first `limit` records of each partition.
    ///
    /// # Errors
    /// As [`Pipeline::read_topic`].
    pub fn read_first_records(&self, topic: &str, limit: i64) -> Result<Vec<Record>> {
        let mut config = self.client_config();
        let consumer: BaseConsumer = config.set("group.id", "streamstage-e2e").create()?;
        let mut records = Vec::new();
        for (partition, end) in self.end_offsets(topic)? {
            let (start, _) = consumer.fetch_watermarks(topic, partition, KAFKA_TIMEOUT)?;
            let end = end.min(start.saturating_add(limit));
            if start == end {
                continue;
            }
            let mut assignment = TopicPartitionList::new();
            assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
            consumer.assign(&assignment)?;
            let deadline = Instant::now() + KAFKA_TIMEOUT;
            let mut next = start;
            while next < end {
                ensure!(
                    Instant::now() < deadline,
                    "{topic}, partition {partition}: read to {next} of {end}"
                );
                if let Some(message) = consumer.poll(Duration::from_millis(200)) {
                    let record = copy_record(&message?);
                    next = record.offset + 1;
                    records.push(record);
                }
            }
        }
        Ok(records)
    }

    /// Deletes the records of a partition before an offset, as retention would.
    ///
    /// # Errors
    /// When Kafka rejects the request.
    pub async fn delete_records(&self, topic: &str, partition: i32, before: i64) -> Result<()> {
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(topic, partition, Offset::Offset(before))?;
        let deleted = self
            .admin_client()?
            .delete_records(&offsets, &admin_options())
            .await?;
        deleted
            .elements()
            .iter()
            .try_for_each(TopicPartitionListElem::error)?;
        Ok(())
    }

    /// Sets a configuration of a topic, as [`Self::set_topic_configs`].
    ///
    /// # Errors
    /// As [`Self::set_topic_configs`].
    pub async fn set_topic_config(&self, topic: &str, name: &str, value: &str) -> Result<()> {
        self.set_topic_configs(topic, &[(name, value)]).await
    }

    /// Sets configurations of a topic, the others to their defaults, and waits until the broker applies them.
    ///
    /// # Errors
    /// When Kafka rejects the request, or still has an old value after 30 seconds.
    pub async fn set_topic_configs(&self, topic: &str, configs: &[(&str, &str)]) -> Result<()> {
        let change = AlterConfig::new(ResourceSpecifier::Topic(topic));
        let change = configs
            .iter()
            .fold(change, |change, (name, value)| change.set(name, value));
        let options = admin_options();
        let altered = self.admin_client()?.alter_configs([&change], &options).await?;
        let altered = altered
            .into_iter()
            .next()
            .context("Kafka returned no result for the topic")?;
        altered.map_err(|(_, code)| anyhow!("{topic}: {configs:?}: {code}"))?;
        wait_until(&format!("{topic}: {configs:?}"), KAFKA_TIMEOUT, || async {
            let resources = [ResourceSpecifier::Topic(topic)];
            let options = admin_options();
            let described = self
                .admin_client()?
                .describe_configs(&resources, &options)
                .await?;
            let described = described.into_iter().next().context("no such topic")?;
            let described = described.map_err(|code| anyhow!("{topic}: {code}"))?;
            Ok(configs.iter().all(|(name, value)| {
                described.get(name).and_then(|entry| entry.value.as_deref()) == Some(value)
            }))
        })
        .await
    }

    /// Deletes a topic, and waits until the broker has no such topic.
    ///
    /// # Errors
    /// When Kafka rejects the request, or still has the topic after 30 seconds.
    pub async fn delete_topic(&self, topic: &str) -> Result<()> {
        let deleted = self
            .admin_client()?
            .delete_topics(&[topic], &admin_options())
            .await?;
        for result in deleted {
            result.map_err(|(topic, code)| anyhow!("{topic}: {code}"))?;
        }
        wait_until(&format!("{topic} is deleted"), KAFKA_TIMEOUT, || async {
            Ok(self.end_offsets(topic).is_err())
        })
        .await
    }

    /// Deletes a topic, and creates it again.
    ///
    /// # Errors
    /// When Kafka rejects a request, or does not allow the name again within 30 seconds.
    pub async fn recreate_topic(&self, topic: &str, partitions: i32) -> Result<()> {
        self.delete_topic(topic).await?;
        wait_until(&format!("{topic} is created"), KAFKA_TIMEOUT, || async {
            Ok(create_topic(&self.bootstrap_servers, topic, partitions)
                .await
                .is_ok())
        })
        .await
    }

    /// Adds partitions to a topic until it has `partitions`, and waits for their leaders.
    ///
    /// # Errors
    /// When Kafka rejects the request, or a partition has no leader after 30 seconds.
    pub async fn add_partitions(&self, topic: &str, partitions: usize) -> Result<()> {
        let new = NewPartitions::new(topic, partitions);
        let created = self
            .admin_client()?
            .create_partitions([&new], &admin_options())
            .await?;
        for result in created {
            result.map_err(|(topic, code)| anyhow!("{topic}: {code}"))?;
        }
        wait_until(
            &format!("{topic} has {partitions} partitions"),
            KAFKA_TIMEOUT,
            || async {
                let ends = self.end_offsets(topic);
                Ok(ends.is_ok_and(|ends| ends.len() == partitions))
            },
        )
        .await
    }

    /// Produces records to a partition in one transaction, which is committed or aborted. Blocks for a moment.
    ///
    /// # Errors
    /// When Kafka rejects a record or the transaction.
    pub fn send_in_transaction(
        &self,
        topic: &str,
        partition: i32,
        values: &[Vec<u8>],
        is_committed: bool,
    ) -> Result<()> {
        let mut config = self.client_config();
        let producer: BaseProducer = config
            .set("transactional.id", format!("{topic}-{partition}"))
            .create()?;
        producer.init_transactions(KAFKA_TIMEOUT)?;
        producer.begin_transaction()?;
        for value in values {
            let record = BaseRecord::<(), [u8]>::to(topic)
                .partition(partition)
                .payload(value);
            producer.send(record).map_err(|(error, _)| error)?;
        }
        producer.flush(KAFKA_TIMEOUT)?;
        if is_committed {
            Ok(producer.commit_transaction(KAFKA_TIMEOUT)?)
        } else {
            Ok(producer.abort_transaction(KAFKA_TIMEOUT)?)
        }
    }

    fn admin_client(&self) -> Result<AdminClient<DefaultClientContext>> {
        Ok(self.client_config().create()?)
    }

    /// Settings of a Kafka client that logs nothing.
    pub(super) fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.bootstrap_servers)
            .set_log_level(RDKafkaLogLevel::Emerg);
        config
    }
}

fn admin_options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(KAFKA_TIMEOUT))
}

fn copy_record(message: &BorrowedMessage<'_>) -> Record {
    let headers = message.headers().into_iter().flat_map(Headers::iter);
    Record {
        partition: message.partition(),
        offset: message.offset(),
        timestamp: message.timestamp().to_millis(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: headers
            .map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec)))
            .collect(),
    }
}
