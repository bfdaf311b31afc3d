//! Progress of the stages: their stored positions compared with the end offsets of their topics.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: polls Kafka and PostgreSQL until a deadline"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::instance::{Pipeline, STAGES};
use super::worker;

/// Interval between two polls of a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Timeout of one Kafka request.
const KAFKA_TIMEOUT: Duration = Duration::from_secs(10);
/// Counts pending orders: stored, not yet published.
const PENDING_QUERY: &str = "SELECT count(*) FROM stg.pending_enrichment";
/// Stored positions of one stage.
const POSITIONS_QUERY: &str = "SELECT partition, next_offset FROM streamstage.position \
    WHERE consumer_group = $1 AND topic = $2 ORDER BY partition";

impl Pipeline {
    /// Waits until every stage has applied all records of its source topic, and no order is pending. `timeout` is the
    /// maximum time without progress, because the time for all records depends on the machine.
    ///
    /// # Errors
    /// When the timeout expires; the message has the remaining lag and the end of every worker's log.
    pub async fn wait_drained(&self, timeout: Duration) -> Result<()> {
        self.wait_stages_drained(&STAGES, timeout).await
    }

    /// As [`Pipeline::wait_drained`], for some of the stages, upstream first.
    ///
    /// # Errors
    /// As [`Pipeline::wait_drained`].
    pub async fn wait_stages_drained(&self, stages: &[&str], timeout: Duration) -> Result<()> {
        let consumer = Arc::new(self.offset_consumer()?);
        let (mut progress, mut deadline) = (String::new(), Instant::now() + timeout);
        loop {
            let remaining = self.describe_remaining(&consumer, stages).await?;
            if remaining.is_empty() {
                return Ok(());
            }
            if remaining != progress {
                (progress, deadline) = (remaining, Instant::now() + timeout);
            } else if Instant::now() > deadline {
                bail!("no progress within {timeout:?}\n{progress}{}", self.log_tails()?);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Waits until a stage has applied all records that its source topic has now; orders may be pending.
    ///
    /// # Errors
    /// As [`Pipeline::wait_drained`].
    pub async fn wait_caught_up(&self, stage: &str, timeout: Duration) -> Result<()> {
        let consumer = Arc::new(self.offset_consumer()?);
        let end_offsets = fetch_end_offsets_async(&consumer, self.input_topic(stage)?).await?;
        let deadline = Instant::now() + timeout;
        loop {
            let positions = self.positions(stage).await?;
            if !has_lag(&positions, &end_offsets) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "{stage} is at {positions:?} of {end_offsets:?} after {timeout:?}\n{}",
                    self.log_tails()?
                );
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Waits until the dead letter topic has a copy of every dead letter.
    ///
    /// # Errors
    /// When the timeout expires, or PostgreSQL does not answer.
    pub async fn wait_dead_letters_copied(&self, timeout: Duration) -> Result<()> {
        let query = "SELECT count(*) FROM streamstage.dead_letter WHERE copied_at IS NULL";
        wait_until("every dead letter is copied", timeout, || async {
            Ok(self.query_scalar::<i64>(query).await? == 0)
        })
        .await
    }

    /// End offset of every partition of a topic. Blocks for a moment.
    ///
    /// # Errors
    /// When Kafka does not answer.
    pub fn end_offsets(&self, topic: &str) -> Result<BTreeMap<i32, i64>> {
        fetch_end_offsets(&self.offset_consumer()?, topic)
    }

    /// Stored positions of a stage, by partition.
    ///
    /// # Errors
    /// When the pipeline has no such stage, or PostgreSQL does not answer.
    pub async fn positions(&self, stage: &str) -> Result<BTreeMap<i32, i64>> {
        let query = sqlx::query_as(POSITIONS_QUERY)
            .bind(format!("{}.{stage}", self.name))
            .bind(self.input_topic(stage)?);
        let positions: Vec<(i32, i64)> = query.fetch_all(&self.pool).await?;
        Ok(positions.into_iter().collect())
    }

    /// Offsets that the consumer group of a stage has committed to Kafka, by partition. Blocks for a moment.
    ///
    /// # Errors
    /// When Kafka does not answer, or a partition has no committed offset.
    pub fn committed_offsets(&self, stage: &str) -> Result<BTreeMap<i32, i64>> {
        let topic = self.input_topic(stage)?;
        let mut config = self.client_config();
        config
            .set("group.id", format!("{}.{stage}", self.name))
            .set("enable.auto.commit", "false");
        let consumer: BaseConsumer = config.create()?;
        let mut partitions = TopicPartitionList::new();
        for partition in fetch_end_offsets(&consumer, topic)?.into_keys() {
            partitions.add_partition(topic, partition);
        }
        let committed = consumer.committed_offsets(partitions, KAFKA_TIMEOUT)?;
        let offsets = committed.elements().into_iter().map(|element| {
            let offset = element.offset().to_raw().context("no committed offset")?;
            Ok((element.partition(), offset))
        });
        offsets.collect()
    }

    fn offset_consumer(&self) -> Result<BaseConsumer> {
        Ok(self.client_config().create()?)
    }

    /// Describes the remaining work of the first stage that is not done; empty when all are done.
    /// End offsets are read after the upstream stage is done, because only then are they final.
    async fn describe_remaining(&self, consumer: &Arc<BaseConsumer>, stages: &[&str]) -> Result<String> {
        for (stage, topic) in STAGES.iter().zip(&self.topics) {
            if !stages.contains(stage) {
                continue;
            }
            let end_offsets = fetch_end_offsets_async(consumer, topic).await?;
            let positions = self.positions(stage).await?;
            if has_lag(&positions, &end_offsets) {
                return Ok(format!("{stage} is at {positions:?} of {end_offsets:?}\n"));
            }
            let pending: i64 = self.query_scalar(PENDING_QUERY).await?;
            if pending > 0 {
                return Ok(format!("{pending} orders are pending\n"));
            }
        }
        Ok(String::new())
    }

    /// Last lines of every worker's log.
    fn log_tails(&self) -> Result<String> {
        let mut text = String::new();
        for entry in std::fs::read_dir(self.folder())? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                writeln!(text, "{}:\n{}", path.display(), worker::log_tail(&path))?;
            }
        }
        Ok(text)
    }
}

/// Returns true if the position of any partition is before its end offset.
fn has_lag(positions: &BTreeMap<i32, i64>, end_offsets: &BTreeMap<i32, i64>) -> bool {
    let lags = |(partition, end): (&i32, &i64)| positions.get(partition).unwrap_or(&0) < end;
    end_offsets.iter().any(lags)
}

/// Polls a condition until it is true; `description` is for the error message.
///
/// # Errors
/// When the timeout expires, or the condition returns an error.
pub async fn wait_until<F: Future<Output = Result<bool>>>(
    description: &str,
    timeout: Duration,
    condition: impl Fn() -> F,
) -> Result<()> {
    let deadline = Instant::now() + timeout;
    while !condition().await? {
        ensure!(Instant::now() < deadline, "not within {timeout:?}: {description}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Ok(())
}

/// As [`fetch_end_offsets`], without blocking the task: a test may have halted Kafka, and its task must resume it.
async fn fetch_end_offsets_async(consumer: &Arc<BaseConsumer>, topic: &str) -> Result<BTreeMap<i32, i64>> {
    let (consumer, topic) = (Arc::clone(consumer), topic.to_owned());
    tokio::task::spawn_blocking(move || fetch_end_offsets(&consumer, &topic)).await?
}

/// Fetches the end offsets of all partitions of a topic, or returns an error. Blocks for a moment.
fn fetch_end_offsets(consumer: &BaseConsumer, topic: &str) -> Result<BTreeMap<i32, i64>> {
    let metadata = consumer.fetch_metadata(Some(topic), KAFKA_TIMEOUT)?;
    let mut end_offsets = BTreeMap::new();
    for described in metadata.topics() {
        ensure!(described.error().is_none(), "{topic}: {:?}", described.error());
        for partition in described.partitions() {
            let (_, end) = consumer.fetch_watermarks(topic, partition.id(), KAFKA_TIMEOUT)?;
            end_offsets.insert(partition.id(), end);
        }
    }
    ensure!(!end_offsets.is_empty(), "Kafka returned no partition of {topic}");
    Ok(end_offsets)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::has_lag;

    #[test]
    fn a_partition_without_a_position_has_lag_unless_it_is_empty() {
        let end_offsets = BTreeMap::from([(0, 5), (1, 0)]);
        assert!(has_lag(&BTreeMap::new(), &end_offsets));
        assert!(has_lag(&BTreeMap::from([(0, 4)]), &end_offsets));
        assert!(!has_lag(&BTreeMap::from([(0, 5)]), &end_offsets));
    }
}
