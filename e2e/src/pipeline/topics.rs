//! Records of a topic, byte for byte, and what an administrator does to a topic.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: produces, reads and administers topics, until a deadline"
)]

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{Offset, TopicPartitionList};

use super::{Pipeline, until};

/// How long Kafka may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// One record of a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Its partition.
    pub partition: i32,
    /// Its offset; of a record that is sent, Kafka decides it.
    pub offset: i64,
    /// Milliseconds since 1970; `None` lets the producer set the time.
    pub timestamp: Option<i64>,
    /// Its key, if it has one; an empty key is one.
    pub key: Option<Vec<u8>>,
    /// Its value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// Its headers; names may repeat, values may be null.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Record {
    /// The last header of a name, as text; empty when there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> String {
        let mut headers = self.headers.iter().rev();
        let found = headers.find(|(known, _)| known == name);
        let value = found.and_then(|(_, value)| value.as_deref());
        String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
    }
}

impl Pipeline {
    /// Sends records as they are, each to its partition, and awaits every delivery.
    ///
    /// # Errors
    /// When Kafka refuses one.
    pub async fn send(&self, topic: &str, records: &[Record]) -> Result<()> {
        let producer: FutureProducer = self.kafka().set("enable.idempotence", "true").create()?;
        let mut deliveries = Vec::with_capacity(records.len());
        for record in records {
            let headers = OwnedHeaders::new_with_capacity(record.headers.len());
            let headers = record.headers.iter().fold(headers, |headers, (key, value)| {
                headers.insert(Header {
                    key,
                    value: value.as_ref(),
                })
            });
            let mut sent = FutureRecord::<[u8], [u8]>::to(topic)
                .partition(record.partition)
                .headers(headers);
            sent.key = record.key.as_deref();
            sent.payload = record.value.as_deref();
            sent.timestamp = record.timestamp;
            deliveries.push(producer.send_result(sent).map_err(|(error, _)| error)?);
        }
        for delivery in deliveries {
            delivery.await?.map_err(|(error, _)| error)?;
        }
        Ok(())
    }

    /// Everything that a topic holds, by partition and offset.
    ///
    /// # Errors
    /// When Kafka does not hand it over in time.
    pub fn read(&self, topic: &str) -> Result<Vec<Record>> {
        self.read_first(topic, i64::MAX)
    }

    /// As [`Pipeline::read`], of each partition not more than its first `most` records.
    ///
    /// # Errors
    /// As [`Pipeline::read`].
    pub fn read_first(&self, topic: &str, most: i64) -> Result<Vec<Record>> {
        let consumer: BaseConsumer = self.kafka().set("group.id", "streamstage-e2e").create()?;
        let mut read = Vec::new();
        for (partition, end) in self.ends(topic)? {
            let (start, _) = consumer.fetch_watermarks(topic, partition, PATIENCE)?;
            let end = end.min(start.saturating_add(most));
            if start == end {
                continue;
            }
            let mut assigned = TopicPartitionList::new();
            assigned.add_partition_offset(topic, partition, Offset::Beginning)?;
            consumer.assign(&assigned)?;
            let deadline = Instant::now() + PATIENCE;
            let mut next = start;
            while next < end {
                ensure!(
                    Instant::now() < deadline,
                    "{topic}, partition {partition}: read to {next} of {end}"
                );
                if let Some(message) = consumer.poll(Duration::from_millis(200)) {
                    let record = record(&message?);
                    next = record.offset + 1;
                    read.push(record);
                }
            }
        }
        Ok(read)
    }

    /// Deletes the records of a partition before an offset, as retention would.
    ///
    /// # Errors
    /// When Kafka refuses.
    pub async fn delete_records(&self, topic: &str, partition: i32, before: i64) -> Result<()> {
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(topic, partition, Offset::Offset(before))?;
        let deleted = self.admin()?.delete_records(&offsets, &patient()).await?;
        deleted
            .elements()
            .iter()
            .try_for_each(TopicPartitionListElem::error)?;
        Ok(())
    }

    /// Sets one of a topic's configurations, and waits until the broker goes by it.
    ///
    /// # Errors
    /// When Kafka refuses, or the old value stays.
    pub async fn configure(&self, topic: &str, name: &str, value: &str) -> Result<()> {
        let change = AlterConfig::new(ResourceSpecifier::Topic(topic)).set(name, value);
        let altered = self.admin()?.alter_configs([&change], &patient()).await?;
        let altered = altered
            .into_iter()
            .next()
            .context("Kafka does not say what it did")?;
        altered.map_err(|(_, code)| anyhow!("{topic}: {name} = {value}: {code}"))?;
        until(&format!("{topic}: {name} = {value}"), PATIENCE, || async {
            let asked = [ResourceSpecifier::Topic(topic)];
            let described = self.admin()?.describe_configs(&asked, &patient()).await?;
            let described = described.into_iter().next().context("no such topic")?;
            let described = described.map_err(|code| anyhow!("{topic}: {code}"))?;
            let held = described.get(name).and_then(|entry| entry.value.as_deref());
            Ok(held == Some(value))
        })
        .await
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>> {
        Ok(self.kafka().create()?)
    }

    /// Settings of a client.
    pub(super) fn kafka(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.bootstrap_servers)
            .set_log_level(RDKafkaLogLevel::Emerg);
        config
    }
}

fn patient() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(PATIENCE))
}

fn record(message: &BorrowedMessage<'_>) -> Record {
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
