//! Produces messages to a topic, or writes them to a file.
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
use super::message::{Expected, Message};

/// Maximum number of unacknowledged messages: enough to fill batches, and bounded in memory.
const MAX_IN_FLIGHT: usize = 4000;
/// Timeout of the metadata request.
const METADATA_TIMEOUT: Duration = Duration::from_secs(10);

/// Produces messages without a key to one topic; the seed chooses the partitions.
pub struct Sender {
    producer: FutureProducer,
    topic: String,
    partitions: i32,
    random: ChaCha8Rng,
    in_flight: VecDeque<DeliveryFuture>,
    manifest: Manifest,
}

impl Sender {
    /// Connects and fetches the partition count of the topic.
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
        let producer: FutureProducer = config.create().context("cannot create a Kafka producer")?;
        let (client, name) = (producer.clone(), topic.to_owned());
        let request = tokio::task::spawn_blocking(move || {
            client.client().fetch_metadata(Some(&name), METADATA_TIMEOUT)
        });
        let metadata = request.await?.with_context(|| {
            format!("Kafka is unreachable at {bootstrap_servers}: start it, or set other bootstrap servers")
        })?;
        let partitions = metadata
            .topics()
            .first()
            .map_or(0, |topic| topic.partitions().len());
        if partitions == 0 {
            bail!("Kafka at {bootstrap_servers} has no topic {topic}: create it first");
        }
        Ok(Self {
            producer,
            topic: topic.to_owned(),
            partitions: partitions.try_into()?,
            random: ChaCha8Rng::seed_from_u64(seed),
            in_flight: VecDeque::with_capacity(MAX_IN_FLIGHT),
            manifest: Manifest::default(),
        })
    }

    /// Enqueues a message; waits while `MAX_IN_FLIGHT` messages are unacknowledged.
    ///
    /// # Errors
    /// When Kafka rejects this message or an earlier one.
    pub async fn send(&mut self, message: &Message) -> Result<()> {
        if self.in_flight.len() == MAX_IN_FLIGHT {
            self.wait_oldest_acknowledged().await?;
        }
        let partition = self.random.random_range(0..self.partitions);
        let mut record = FutureRecord::<(), [u8]>::to(&self.topic).partition(partition);
        record.payload = message.value.as_deref();
        let delivery = self.producer.send_result(record);
        self.in_flight.push_back(
            delivery
                .map_err(|(error, _)| error)
                .context("the producer queue is full")?,
        );
        self.manifest.count(message);
        Ok(())
    }

    /// Waits until every message is acknowledged; returns the counts of all messages, with `orders` 0.
    ///
    /// # Errors
    /// When Kafka rejects a message.
    pub async fn flush(&mut self) -> Result<&Manifest> {
        while !self.in_flight.is_empty() {
            self.wait_oldest_acknowledged().await?;
        }
        Ok(&self.manifest)
    }

    async fn wait_oldest_acknowledged(&mut self) -> Result<()> {
        if let Some(oldest) = self.in_flight.pop_front() {
            let delivery = oldest
                .await
                .context("the producer was closed before the acknowledgment")?;
            delivery
                .map_err(|(error, _)| error)
                .with_context(|| format!("Kafka rejected a message for {}", self.topic))?;
        }
        Ok(())
    }
}

/// Produces all messages and waits for every acknowledgment; returns their counts, with `orders` 0.
/// Calls `progress` after each message with the number of enqueued messages.
///
/// # Errors
/// When no broker answers, the topic does not exist, or Kafka rejects a message.
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

/// Base64 with padding (RFC 4648), for messages that are not UTF-8.
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

#[cfg(test)]
mod tests {
    use super::{Expected, Message, base64, write_line};

    #[test]
    fn base64_equals_the_test_vectors_of_rfc_4648() {
        let vectors = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
        ];
        for (text, expected) in vectors {
            assert_eq!(base64(text.as_bytes()), expected);
        }
    }

    #[test]
    fn a_line_has_text_null_or_base64() {
        let line = |value: Option<&[u8]>, expected| {
            let mut line = Vec::new();
            let value = value.map(<[u8]>::to_vec);
            write_line(&mut line, &Message { value, expected }).expect("a vector is writable");
            String::from_utf8(line).expect("JSON is UTF-8")
        };
        assert_eq!(
            line(Some(b"{}"), Expected::Good),
            "{\"value\":\"{}\",\"expected\":\"Good\"}\n"
        );
        assert_eq!(
            line(None, Expected::Bad("Tombstone")),
            "{\"value\":null,\"expected\":\"Tombstone\"}\n"
        );
        assert_eq!(
            line(Some(b"\xff"), Expected::Bad("ParseError")),
            "{\"base64\":\"/w==\",\"expected\":\"ParseError\"}\n"
        );
    }
}
