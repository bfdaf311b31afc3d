#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: reads positions and the ends of the logs, and waits until a deadline"
)]
//! Readers: how far the stages have read their logs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use crds::StreamStage;
use crds::stage::Layer;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::metadata::MetadataTopic;
use sqlx::PgConnection;
use uuid::Uuid;

use super::finding::{Finding, Findings};
use crate::connect::{self, Secrets};
use crate::dead_letter::Origin;
use crate::position::{LogRange, StoredPosition};
use crate::topic_id::fetch_topic_id;
use crate::warehouse::Warehouse;
use crate::{position_store, stage};

/// Time that a layer has to read the records that it had not read in the snapshot.
const CATCH_UP_TIMEOUT: Duration = Duration::from_mins(1);
/// Time without progress after which no worker seems to read.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval between two reads of the positions during this time.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Timeout of a request to Kafka.
const KAFKA_TIMEOUT: Duration = Duration::from_secs(10);

/// Progress of one stage.
pub(super) struct Reader {
    layer: Layer,
    origin: Origin,
    /// Positions in the snapshot, by partition.
    positions: BTreeMap<i32, StoredPosition>,
    /// Log, fetched after the snapshot: every message of the snapshot is before its end.
    log: SourceLog,
}

/// Log of a topic.
struct SourceLog {
    topic_id: Uuid,
    /// Ranges by partition.
    ranges: BTreeMap<i32, LogRange>,
}

impl Reader {
    /// Reads the positions of all stages in the snapshot, and then the ends of their logs.
    ///
    /// # Errors
    /// If Kafka or PostgreSQL is unavailable.
    pub(super) async fn read_all(
        snapshot: &mut PgConnection,
        stages: &[StreamStage],
        secrets: &Secrets,
    ) -> anyhow::Result<Vec<Self>> {
        let mut readers = Vec::with_capacity(stages.len());
        for stage in stages {
            let origin = stage::origin(stage);
            let positions = position_store::read(snapshot, &origin).await?;
            let log = fetch_log(stage, secrets).await;
            readers.push(Self {
                layer: stage.spec.layer,
                log: log.with_context(|| format!("topic {}", origin.topic))?,
                origin,
                positions,
            });
        }
        Ok(readers)
    }

    /// Number of records to read.
    pub(super) fn lag(&self) -> i64 {
        lag(&self.positions, &self.log.ranges)
    }
}

/// Readers of one layer.
pub(super) fn of_layer(readers: &[Reader], layer: Layer) -> Vec<&Reader> {
    readers.iter().filter(|reader| reader.layer == layer).collect()
}

/// Waits until the readers have read the logs up to the ends of the snapshot. Returns the number of records that are
/// left when the time is over.
///
/// # Errors
/// If PostgreSQL is unavailable.
pub(super) async fn wait_caught_up(warehouse: &Warehouse, readers: &[&Reader]) -> Result<i64, sqlx::Error> {
    let started = Instant::now();
    let (mut least, mut last_progress) = (i64::MAX, started);
    loop {
        let left = warehouse.transact(async |connection| {
            let mut left = 0;
            for reader in readers {
                let positions = position_store::read(connection, &reader.origin).await?;
                left += lag(&positions, &reader.log.ranges);
            }
            Ok::<_, sqlx::Error>(left)
        });
        let left = left.await?;
        if left < least {
            (least, last_progress) = (left, Instant::now());
        }
        if left == 0 || started.elapsed() > CATCH_UP_TIMEOUT || last_progress.elapsed() > PROGRESS_TIMEOUT {
            return Ok(left);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Positions after the ends of their logs, or of another log than that of the topic.
pub(super) fn misplaced(readers: &[Reader]) -> Findings {
    let mut findings = Findings::default();
    for Reader {
        origin,
        positions,
        log,
        ..
    } in readers
    {
        for (partition, position) in positions {
            let end = log.ranges.get(partition).map_or(0, |range| range.end);
            let detail = if !position.topic_id.is_nil() && position.topic_id != log.topic_id {
                format!(
                    "topic_id is {}, but the topic has the ID {}",
                    position.topic_id, log.topic_id
                )
            } else if position.next_offset > end {
                format!(
                    "next_offset is {}, but the log ends at {end}",
                    position.next_offset
                )
            } else {
                continue;
            };
            findings.push(Finding {
                table: "streamstage.position".to_owned(),
                key: format!(
                    "consumer_group {}, topic {}, partition {partition}",
                    origin.consumer_group, origin.topic
                ),
                detail,
            });
        }
    }
    findings
}

/// Number of records between positions and the ends of their logs. A partition without a position has not been read.
fn lag(positions: &BTreeMap<i32, StoredPosition>, logs: &BTreeMap<i32, LogRange>) -> i64 {
    let unread = logs.iter().map(|(partition, log)| {
        let position = positions
            .get(partition)
            .map_or(log.start, |position| position.next_offset);
        log.end.saturating_sub(position).max(0)
    });
    unread.sum()
}

/// Fetches the topic ID and the log ranges of a stage's source topic.
async fn fetch_log(stage: &StreamStage, secrets: &Secrets) -> anyhow::Result<SourceLog> {
    let config: ClientConfig = connect::kafka_config(stage, secrets)?;
    let topic = stage.spec.source.topic.clone();
    let fetched = tokio::task::spawn_blocking(move || -> anyhow::Result<SourceLog> {
        let client: BaseConsumer = config.create()?;
        let topic_id = fetch_topic_id(client.client(), &topic, KAFKA_TIMEOUT)?;
        let metadata = client.fetch_metadata(Some(&topic), KAFKA_TIMEOUT)?;
        let partitions = metadata.topics().iter().flat_map(MetadataTopic::partitions);
        let ranges = partitions.map(|partition| {
            let (start, end) = client.fetch_watermarks(&topic, partition.id(), KAFKA_TIMEOUT)?;
            Ok((partition.id(), LogRange { start, end }))
        });
        let ranges = ranges.collect::<anyhow::Result<_>>()?;
        Ok(SourceLog { topic_id, ranges })
    });
    fetched.await?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_the_distance_to_the_end_of_every_log_and_a_position_after_the_end_is_a_finding() {
        let log = LogRange { start: 2, end: 10 };
        let at = |next_offset, topic_id| StoredPosition {
            next_offset,
            topic_id: Uuid::from_u128(topic_id),
            stop: None,
        };
        let reader = Reader {
            layer: Layer::Stg,
            origin: Origin {
                stage: "stg".into(),
                consumer_group: "orders.stg".into(),
                topic: "orders".into(),
            },
            positions: BTreeMap::from([(0, at(7, 1)), (1, at(12, 1)), (2, at(3, 2))]),
            log: SourceLog {
                topic_id: Uuid::from_u128(1),
                ranges: BTreeMap::from([(0, log), (1, log), (2, log), (3, log)]),
            },
        };
        assert_eq!(reader.lag(), 3 + 7 + 8);
        let findings = misplaced(&[reader]);
        assert_eq!(
            findings.listed()[0].to_string(),
            "streamstage.position (consumer_group orders.stg, topic orders, partition 1): next_offset is 12, but the log \
             ends at 10"
        );
        assert!(
            findings.listed()[1]
                .to_string()
                .contains("partition 2): topic_id is ")
        );
        assert_eq!(findings.count(), 2);
    }
}
