#![expect(
    clippy::disallowed_types,
    reason = "edge: resets positions, and prints each change"
)]
//! `worker reset-offsets`: resets stored positions that are out of the log's range.
//!
//! A stage never does this automatically, because it would skip records silently. Without `--execute` the command is a
//! dry run.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use crds::StreamStage;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::metadata::{MetadataPartition, MetadataTopic};
use telemetry::stdout::print_line;

use super::stage_selection::StageSelection;
use crate::connect::{self, Secrets};
use crate::position::LogRange;
use crate::session::with_deadline;
use crate::stage;
use crate::warehouse::TRANSACTION_TIMEOUT;

/// Timeout of a request to Kafka.
const KAFKA_TIMEOUT: Duration = Duration::from_secs(10);

/// Flags of `worker reset-offsets`.
#[derive(Debug, Args)]
pub struct ResetOffsets {
    /// Stages whose positions are reset.
    #[command(flatten)]
    pub selection: StageSelection,
    /// Target offset
    #[arg(long, value_enum)]
    pub to: ResetTarget,
    /// Also reset positions that are in range
    #[arg(long)]
    pub all: bool,
    /// Apply the changes; without it, only print them (dry run)
    #[arg(long)]
    pub execute: bool,
}

/// Offset that a position is reset to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ResetTarget {
    /// Log start offset; stored records are skipped as duplicates
    Earliest,
    /// Log end offset; records before it are never read
    Latest,
}

impl ResetTarget {
    fn offset_in(self, log: LogRange) -> i64 {
        match self {
            Self::Earliest => log.start,
            Self::Latest => log.end,
        }
    }
}

/// Prints each position to reset, and resets it with `--execute`.
///
/// # Errors
/// If Kafka or PostgreSQL is unavailable.
pub async fn reset(flags: ResetOffsets) -> anyhow::Result<()> {
    let secrets = flags.selection.secrets();
    for stage in flags.selection.read()? {
        let result = reset_stage(&stage, &secrets, &flags).await;
        result.with_context(|| format!("stage {}", stage.name()))?;
    }
    if !flags.execute {
        print_line("dry run: add --execute to apply")?;
    }
    Ok(())
}

async fn reset_stage(stage: &StreamStage, secrets: &Secrets, flags: &ResetOffsets) -> anyhow::Result<()> {
    let logs = log_ranges(stage, secrets).await?;
    let warehouse = stage::warehouse(stage, secrets)?;
    let partitions: Vec<i32> = logs.keys().copied().collect();
    let stored = warehouse.positions(&partitions).await?;
    let mut resets = BTreeMap::new();
    for (partition, log) in logs {
        let Some(&position) = stored.get(&partition) else {
            continue;
        };
        if flags.all || !log.contains(position) {
            let target = flags.to.offset_in(log);
            print_line(format_args!(
                "{}: partition {partition}: {position} -> {target}",
                stage.name()
            ))?;
            resets.insert(partition, target);
        }
    }
    if flags.execute {
        with_deadline(TRANSACTION_TIMEOUT, async {
            let mut transaction = warehouse.begin(TRANSACTION_TIMEOUT).await?;
            warehouse
                .store_positions(transaction.connection(), &resets)
                .await?;
            transaction.commit().await
        })
        .await?;
    }
    Ok(())
}

/// Fetches the log start and end offsets of the source topic, by partition.
async fn log_ranges(stage: &StreamStage, secrets: &Secrets) -> anyhow::Result<BTreeMap<i32, LogRange>> {
    let config = connect::kafka_config(stage, secrets)?;
    let topic = stage.spec.source.topic.clone();
    let ranges = tokio::task::spawn_blocking(move || -> anyhow::Result<BTreeMap<i32, LogRange>> {
        let client: BaseConsumer = config.create()?;
        let metadata = client.fetch_metadata(Some(&topic), KAFKA_TIMEOUT)?;
        let partitions = metadata
            .topics()
            .iter()
            .flat_map(MetadataTopic::partitions)
            .map(MetadataPartition::id);
        partitions
            .map(|partition| {
                let (start, end) = client.fetch_watermarks(&topic, partition, KAFKA_TIMEOUT)?;
                Ok((partition, LogRange { start, end }))
            })
            .collect()
    });
    ranges.await?
}
