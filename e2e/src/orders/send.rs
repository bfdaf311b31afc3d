//! Sends messages to a topic, or writes them into a file.
#![expect(clippy::disallowed_types, reason = "edge: produces to Kafka")]

use std::collections::VecDeque;
use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::producer::future_producer::DeliveryFuture;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use serde::Serialize;

use super::manifest::Manifest;
use super::{Expected, Message};

/// Messages whose delivery is not known yet: enough to fill batches, few enough to hold in memory.
const IN_FLIGHT: usize = 4000;
/// How long Kafka may take to say which partitions a topic has.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sends messages to one topic, without a key, to partitions that the seed chooses.
pub struct Sender {
    producer: FutureProducer,
    topic: String,
    partitions: i32,
    random: ChaCha8Rng,
    in_flight: VecDeque<DeliveryFuture>,
    manifest: Manifest,
}

impl Sender {
    /// Connects and asks for the topic's partitions.
    ///
    /// # Errors
    /// When no broker answers or the topic does not exist.
    pub async fn connect(bootstrap_servers: &str, topic: &str, seed: u64) -> Result<Self> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", bootstrap_servers)
            .set("enable.idempotence", "true");
        config
            .set("compression.type", "zstd")
            .set("linger.ms", "5")
            .set_log_level(RDKafkaLogLevel::Emerg);
        let producer: FutureProducer = config.create().context("cannot make a Kafka producer")?;
        let (asking, name) = (producer.clone(), topic.to_owned());
        let asked =
            tokio::task::spawn_blocking(move || asking.client().fetch_metadata(Some(&name), PATIENCE));
        let metadata = asked
            .await?
            .with_context(|| format!("no Kafka at {bootstrap_servers}; start it, or name another"))?;
        let partitions = metadata
            .topics()
            .first()
            .map_or(0, |topic| topic.partitions().len());
        if partitions == 0 {
            bail!("Kafka at {bootstrap_servers} has no topic {topic}; create it first");
        }
        Ok(Self {
            producer,
            topic: topic.to_owned(),
            partitions: partitions.try_into()?,
            random: ChaCha8Rng::seed_from_u64(seed),
            in_flight: VecDeque::with_capacity(IN_FLIGHT),
            manifest: Manifest::default(),
        })
    }

    /// Hands a message over for delivery; waits while too many are under way.
    ///
    /// # Errors
    /// When Kafka refuses this message or one before it.
    pub async fn send(&mut self, message: &Message) -> Result<()> {
        if self.in_flight.len() == IN_FLIGHT {
            self.delivered().await?;
        }
        let partition = self.random.random_range(0..self.partitions);
        let mut record = FutureRecord::<(), [u8]>::to(&self.topic).partition(partition);
        record.payload = message.value.as_deref();
        let sent = self.producer.send_result(record);
        self.in_flight.push_back(
            sent.map_err(|(error, _)| error)
                .context("Kafka's queue takes no message")?,
        );
        self.manifest.count(message);
        Ok(())
    }

    /// Waits until every message is delivered; returns the counts of all that were sent (`orders` is left at 0).
    ///
    /// # Errors
    /// When Kafka refuses one.
    pub async fn flush(&mut self) -> Result<&Manifest> {
        while !self.in_flight.is_empty() {
            self.delivered().await?;
        }
        Ok(&self.manifest)
    }

    async fn delivered(&mut self) -> Result<()> {
        if let Some(oldest) = self.in_flight.pop_front() {
            let delivered = oldest.await.context("the producer ended before the delivery")?;
            delivered
                .map_err(|(error, _)| error)
                .with_context(|| format!("Kafka refuses a message for {}", self.topic))?;
        }
        Ok(())
    }
}

/// Sends all messages and awaits every delivery; returns their counts (`orders` is left at 0).
/// `progress` is told after each message how many were handed over.
///
/// # Errors
/// When no broker answers, the topic does not exist, or Kafka refuses a message.
pub async fn to_kafka(
    bootstrap_servers: &str,
    topic: &str,
    seed: u64,
    messages: impl Iterator<Item = Message>,
    progress: impl Fn(u64),
) -> Result<Manifest> {
    let mut sender = Sender::connect(bootstrap_servers, topic, seed).await?;
    for message in messages {
        sender.send(&message).await?;
        progress(sender.manifest.messages);
    }
    Ok(sender.flush().await?.clone())
}

/// One line of the file.
#[derive(Serialize)]
#[serde(untagged)]
enum Row<'m> {
    Text {
        value: Option<&'m str>,
        expected: &'m str,
    },
    Bytes {
        base64: String,
        expected: &'m str,
    },
}

/// Writes one message as a line of JSON: `{"value": "text" | null, "expected": "Good" | "<code>"}`, or `"base64"`
/// in place of `"value"` for bytes that are not UTF-8.
///
/// # Errors
/// When the writer fails.
pub fn write_line(writer: &mut impl Write, message: &Message) -> Result<()> {
    let expected = match message.expected {
        Expected::Good => "Good",
        Expected::Bad(code) => code,
    };
    let row = match message
        .value
        .as_deref()
        .map(|bytes| (bytes, std::str::from_utf8(bytes)))
    {
        None => Row::Text {
            value: None,
            expected,
        },
        Some((_, Ok(text))) => Row::Text {
            value: Some(text),
            expected,
        },
        Some((bytes, Err(_))) => Row::Bytes {
            base64: base64(bytes),
            expected,
        },
    };
    serde_json::to_writer(&mut *writer, &row)?;
    writer.write_all(b"\n")?;
    Ok(())
}

/// Base64 with padding (RFC 4648), in which a message that is not text stands in the file.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let index = (group >> (18 - 6 * digit)) & 63;
            text.push(if digit > chunk.len() {
                '='
            } else {
                char::from(DIGITS[index as usize])
            });
        }
    }
    text
}
