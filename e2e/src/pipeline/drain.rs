//! How far the stages are: their stored positions against the ends of their topics.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: asks Kafka and PostgreSQL, until a deadline"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::{Pipeline, STAGES, worker};

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long Kafka may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is stored and not yet published.
const PENDING: &str = "SELECT count(*) FROM stg.pending_enrichment";
/// The positions of one stage.
const POSITIONS: &str = "SELECT partition, next_offset FROM streamstage.position \
    WHERE consumer_group = $1 AND topic = $2 ORDER BY partition";

impl Pipeline {
    /// Waits until every stage has applied all that its topic holds, and nothing is pending.
    ///
    /// # Errors
    /// When they do not get there in time: what is left, and the end of every worker's log.
    pub async fn drained(&self, within: Duration) -> Result<()> {
        self.stages_drained(&STAGES, within).await
    }

    /// As [`Pipeline::drained`], for some of the stages, upstream first.
    ///
    /// # Errors
    /// As [`Pipeline::drained`].
    pub async fn stages_drained(&self, stages: &[&str], within: Duration) -> Result<()> {
        let consumer = self.watcher()?;
        let deadline = Instant::now() + within;
        loop {
            let left = self.left(&consumer, stages).await?;
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("not drained within {within:?}\n{left}{}", self.logs()?);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until a stage has applied all that its topic holds; orders may be pending.
    ///
    /// # Errors
    /// As [`Pipeline::drained`].
    pub async fn read_to_the_end(&self, stage: &str, within: Duration) -> Result<()> {
        let ends = self.ends(self.topic_of(stage)?)?;
        let deadline = Instant::now() + within;
        loop {
            let positions = self.positions(stage).await?;
            if !is_behind(&positions, &ends) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "{stage} is at {positions:?} of {ends:?} after {within:?}\n{}",
                    self.logs()?
                );
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The offset after the last record of each of a topic's partitions.
    ///
    /// # Errors
    /// When Kafka does not answer.
    pub fn ends(&self, topic: &str) -> Result<BTreeMap<i32, i64>> {
        ends(&self.watcher()?, topic)
    }

    /// The stored positions of a stage, by partition.
    ///
    /// # Errors
    /// When there is no such stage, or PostgreSQL does not answer.
    pub async fn positions(&self, stage: &str) -> Result<BTreeMap<i32, i64>> {
        let asked = sqlx::query_as(POSITIONS)
            .bind(format!("{}.{stage}", self.name))
            .bind(self.topic_of(stage)?);
        let positions: Vec<(i32, i64)> = asked.fetch_all(&self.pool).await?;
        Ok(positions.into_iter().collect())
    }

    fn watcher(&self) -> Result<BaseConsumer> {
        Ok(self.kafka().create()?)
    }

    /// What the first stage that is not done has left, in words; empty when all are done. An end is read after
    /// the stage before it was found to be done: it cannot move any more.
    async fn left(&self, consumer: &BaseConsumer, stages: &[&str]) -> Result<String> {
        for (stage, topic) in STAGES.iter().zip(&self.topics) {
            if !stages.contains(stage) {
                continue;
            }
            let ends = ends(consumer, topic)?;
            let positions = self.positions(stage).await?;
            if is_behind(&positions, &ends) {
                return Ok(format!("{stage} is at {positions:?} of {ends:?}\n"));
            }
            let pending: i64 = self.query(PENDING).await?;
            if pending > 0 {
                return Ok(format!("{pending} orders wait for the dictionary\n"));
            }
        }
        Ok(String::new())
    }

    /// The end of every worker's log.
    fn logs(&self) -> Result<String> {
        let mut text = String::new();
        for entry in std::fs::read_dir(self.folder())? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                writeln!(text, "{}:\n{}", path.display(), worker::tail(&path))?;
            }
        }
        Ok(text)
    }
}

/// Whether a position is not at its partition's end.
fn is_behind(positions: &BTreeMap<i32, i64>, ends: &BTreeMap<i32, i64>) -> bool {
    let behind = |(partition, end): (&i32, &i64)| positions.get(partition).unwrap_or(&0) < end;
    ends.iter().any(behind)
}

/// Waits until a condition holds.
///
/// # Errors
/// When it does not within the time, or cannot be asked for.
pub async fn until<F: Future<Output = Result<bool>>>(
    what: &str,
    within: Duration,
    condition: impl Fn() -> F,
) -> Result<()> {
    let deadline = Instant::now() + within;
    while !condition().await? {
        ensure!(Instant::now() < deadline, "not within {within:?}: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// Asks Kafka for the ends of a topic: of all its partitions, or it is no answer. Blocks for a moment.
fn ends(consumer: &BaseConsumer, topic: &str) -> Result<BTreeMap<i32, i64>> {
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE)?;
    let mut ends = BTreeMap::new();
    for found in metadata.topics() {
        ensure!(found.error().is_none(), "{topic}: {:?}", found.error());
        for partition in found.partitions() {
            let (_, end) = consumer.fetch_watermarks(topic, partition.id(), PATIENCE)?;
            ends.insert(partition.id(), end);
        }
    }
    ensure!(!ends.is_empty(), "Kafka names no partition of {topic}");
    Ok(ends)
}
